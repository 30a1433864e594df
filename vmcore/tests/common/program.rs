//! A program that makes the calls of the POSIX face. What a test asks of it more comfortably, it says in an `impl` of its own.

use vmcore::posix::Memory;
use vmcore::sim::Sim;
use vmcore::vm_space::Space;

use super::World;

/// It runs on CPU 0; nothing runs on CPU 1.
pub struct Program {
    pub world: World,
    pub space: Space<Sim>,
    pub memory: Memory<Sim>,
}

impl Program {
    pub fn new() -> Self {
        let world = World::new(2);
        let space = world.user();
        world.enter(0, &space);
        let memory = Memory::new(&world.sim, 0);
        Self { world, space, memory }
    }

    /// Every frame is given back, and no CPU had an old translation.
    pub fn end(self) {
        self.world.sim.check_translations();
        self.world.leave(0, &self.space);
        drop((self.space, self.memory));
        self.world.finish();
    }
}
