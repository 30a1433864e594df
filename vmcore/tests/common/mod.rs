//! What the tests across modules share: a simulated machine with its kernel space, CPUs that enter and leave spaces,
//! accesses that fault and are tried again, and the balance of frames at the end.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod bare;
pub mod program;

use vmcore::Platform;
use vmcore::addr::{PageRange, VirtAddr};
use vmcore::paging::{Access, FlushRequest, Mmu};
use vmcore::sim::{FrameCounts, Sim, SimBuilder, Translation};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};

pub const PAGE: u64 = 0x1000;
pub const KERNEL_START: u64 = 0xffff_ff80_0000_0000;
pub const KERNEL_SIZE: u64 = 0x80_0000_0000;

pub const USER_READ: Access = Access::READ.union(Access::USER);
pub const USER_WRITE: Access = Access::USER_DATA;
pub const USER_EXECUTE: Access = Access::USER_CODE;

pub fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

/// A machine whose kernel space is active on every CPU, as it is in a kernel.
pub struct World {
    pub sim: Sim,
    pub start: FrameCounts,
    kernel: Option<Space<Sim>>,
}

impl World {
    pub fn new(cpus: usize) -> Self {
        Self::of(Sim::builder().frames(1024).cpus(cpus))
    }

    pub fn of(builder: SimBuilder) -> Self {
        let sim = builder.build();
        let start = sim.frame_counts();
        let bounds = sim.machine().mmu().range(KERNEL_START, KERNEL_SIZE).unwrap();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        for cpu in 0..sim.cpu_count() {
            enter(&sim, cpu, &kernel);
        }
        Self { sim, start, kernel: Some(kernel) }
    }

    pub fn kernel(&self) -> &Space<Sim> {
        self.kernel.as_ref().unwrap()
    }

    pub fn user(&self) -> Space<Sim> {
        Space::user(self.kernel(), ()).unwrap()
    }

    pub fn open(&self, pages: u64) -> Area<Sim> {
        Area::new(&self.sim, AreaKind::Open { size: pages * PAGE }, 0).unwrap()
    }

    /// Switches a CPU to a space.
    pub fn enter(&self, cpu: usize, space: &Space<Sim>) {
        enter(&self.sim, cpu, space);
    }

    /// Switches a CPU from a user space back to the kernel's root.
    pub fn leave(&self, cpu: usize, space: &Space<Sim>) {
        self.enter(cpu, self.kernel());
        forget(cpu, space);
    }

    /// Switches every CPU off, destroys the kernel's space, and compares the frames given out with the start. Areas and
    /// user spaces are gone by then.
    pub fn finish(mut self) {
        let kernel = self.kernel.take().unwrap();
        for cpu in 0..self.sim.cpu_count() {
            self.sim.unload(cpu);
            forget(cpu, &kernel);
        }
        kernel.destroy().map_err(|(_, error)| error).expect("the kernel's space is active nowhere").complete();
        self.sim.assert_no_violation();
        assert_eq!(self.sim.frame_counts(), self.start, "frames are lost: {:?}", self.sim.machine().counters());
        assert_eq!(self.sim.machine().counters().refused_frees, 0);
    }
}

pub fn enter(sim: &Sim, cpu: usize, space: &Space<Sim>) {
    sim.activate(cpu, &space.activate(cpu));
}

/// Notes that a CPU has left a space.
pub fn forget(cpu: usize, space: &Space<Sim>) {
    // SAFETY: callers have loaded another root there, or none; activations are carried out by `enter`, and flushes by the machine.
    unsafe { space.deactivate(cpu) }
}

/// An area of any kind.
pub fn area(sim: &Sim, kind: AreaKind) -> Result<Area<Sim>, AreaError> {
    match kind {
        // SAFETY: tests make fixed areas of device memory, which holds nothing that the library or a reference relies on.
        AreaKind::Fixed { frames, memory } => unsafe { Area::fixed(sim, frames, memory, 0) },
        kind => Area::new(sim, kind, 0),
    }
}

/// Makes an access as a CPU with a fault handler does: faults are resolved, and the access is tried again.
pub fn touch(
    sim: &Sim,
    cpu: usize,
    space: &Space<Sim>,
    address: u64,
    access: Access,
) -> Result<Translation, SpaceError> {
    for _ in 0..3 {
        match sim.access(cpu, at(address), access) {
            Ok(translation) => return Ok(translation),
            Err(fault) => {
                space.fault(Fault::new(fault.address.as_u64(), fault.access))?.complete();
            }
        }
    }
    panic!("the fault at {address:#x} for {access} repeats although it was resolved:\n{}", space.walk(at(address)));
}

/// Stores a word through the CPU, faulting pages in.
pub fn store(sim: &Sim, cpu: usize, space: &Space<Sim>, address: u64, value: u64) -> Result<(), SpaceError> {
    let user = if address < KERNEL_START { Access::USER } else { Access::empty() };
    touch(sim, cpu, space, address, Access::KERNEL_DATA | user)?;
    sim.write_u64(cpu, at(address), !user.is_empty(), value).expect("just made writable");
    Ok(())
}

/// Loads a word through the CPU, faulting pages in.
pub fn load(sim: &Sim, cpu: usize, space: &Space<Sim>, address: u64) -> Result<u64, SpaceError> {
    let user = if address < KERNEL_START { Access::USER } else { Access::empty() };
    touch(sim, cpu, space, address, Access::READ | user)?;
    Ok(sim.read_u64(cpu, at(address), !user.is_empty()).expect("just made readable"))
}

/// Maps a part of an area at an address.
pub fn map(space: &Space<Sim>, area: &Area<Sim>, address: u64, offset: u64, pages: u64) -> PageRange {
    let request = MapRequest::new(area).at(address).offset(offset * PAGE).size(pages * PAGE);
    space.map(&request.access(Access::KERNEL_DATA)).unwrap()
}

/// Unmaps pages and completes the flush.
pub fn unmap(space: &Space<Sim>, address: u64, pages: u64) {
    space.unmap(space.range(address, pages * PAGE).unwrap()).unwrap().complete();
}

/// Whether the windows of a range that was unmapped are gone before the flush that was given for them, which then has nothing to be flushed: a window that shows nothing
/// may be.
pub fn is_gone_at_once<P: Platform, M: Mmu>(
    space: &Space<P, M>,
    range: PageRange,
    request: &FlushRequest<P::CpuSet>,
) -> bool {
    let gone = space.windows().all(|window| !window.range.overlaps(range));
    assert!(!gone || request.scope.is_empty(), "gone before its flush");
    gone
}

/// Repeatable random numbers: xorshift.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
