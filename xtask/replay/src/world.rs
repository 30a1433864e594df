//! The machine, and processes whose accesses fault.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::rc::Rc;

use vmcore::Platform as _;
use vmcore::addr::VirtAddr;
use vmcore::paging::{Access, Mmu as _};
use vmcore::posix::{Backing, MapFlags, Memory, Protection, Signal};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, PageRequest};
use vmcore::vm_space::{Fault, Resolution, Space, SpaceError};

pub(crate) const PAGE: u64 = 0x1000;

const KERNEL_START: u64 = 0xffff_ff80_0000_0000;
const KERNEL_SIZE: u64 = 0x80_0000_0000;

/// How many pages the pools are lent: eight for each of the nine, and one that is left over where the memory is not aligned.
const LENT: usize = 73;

thread_local! {
    /// The CPU that acts.
    static CPU: Cell<usize> = const { Cell::new(0) };
    /// The machine that was used last.
    static SPARE: Cell<Option<Rc<Machine>>> = const { Cell::new(None) };
}

fn cpu() -> usize {
    CPU.get()
}

/// A machine with a kernel's space, on every CPU.
pub(crate) struct Machine {
    pub(crate) sim: Sim,
    pub(crate) kernel: Space<Sim>,
    /// How many frames are free while there are no processes.
    free: u64,
    frames: usize,
    /// Whether the pools were lent pages.
    lent: bool,
}

/// A machine on which there are processes. Whoever comes next on this thread gets the same one if everything was given back: a machine that has run other programs
/// before, whose memory the host has found already.
pub(crate) struct World(Rc<Machine>);

impl Deref for World {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

/// How an access of a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It was made, with this value.
    Done(u64),
    /// Nothing is mapped there, or a guard.
    NotMapped,
    /// It is not allowed.
    Denied,
    /// There is nothing behind what is mapped.
    Bus,
    /// What Linux has no word for.
    Refused(SpaceError),
}

impl Machine {
    fn new(frames: usize, cpus: usize, lent: bool) -> Self {
        let sim = Sim::builder().frames(frames).cpus(cpus).cpu_of_caller(cpu).without_patterns().build();
        // As a kernel does that has areas before it has frames. The pools keep these pages, and need not ask for one whenever they have become empty.
        if lent {
            sim.machine().lend(Box::leak(Box::new([MaybeUninit::uninit(); LENT * PAGE as usize])));
        }
        let bounds = sim.machine().mmu().range(KERNEL_START, KERNEL_SIZE).expect("the bounds are the MMU's");
        let kernel = Space::kernel(&sim, bounds, None, ()).expect("there are frames for the kernel");
        for cpu in 0..cpus {
            CPU.set(cpu);
            sim.activate(cpu, &kernel.activate(cpu));
        }
        CPU.set(0);
        let free = sim.free_frame_count();
        Self { sim, kernel, free, frames, lent }
    }

    /// Whether nothing is left of the processes that were on it, and nothing was wrong.
    pub(crate) fn is_as_new(&self) -> bool {
        self.sim.free_frame_count() == self.free && self.sim.violations().is_empty()
    }
}

impl World {
    /// A machine with at least so many frames and CPUs.
    pub(crate) fn new(frames: usize, cpus: usize) -> Self {
        Self::with(frames, cpus, true)
    }

    /// The same, on which every object takes memory that may not be there: its pools are lent nothing.
    pub(crate) fn short_of_memory(frames: usize, cpus: usize) -> Self {
        Self::with(frames, cpus, false)
    }

    fn with(frames: usize, cpus: usize, lent: bool) -> Self {
        let spare = SPARE.take().filter(|spare| {
            let is_enough = spare.frames >= frames && spare.sim.cpu_count() >= cpus && spare.lent == lent;
            is_enough && Rc::strong_count(spare) == 1 && spare.is_as_new()
        });
        let is_new = spare.is_none();
        let machine = spare.unwrap_or_else(|| Rc::new(Machine::new(frames, cpus, lent)));
        SPARE.set(Some(machine.clone()));
        CPU.set(0);
        let world = Self(machine);
        if is_new {
            world.run_a_program();
        }
        world
    }

    /// Runs a program with a few children that touch a few pages each, so that the host has found the first of the machine's memory before anything is measured.
    fn run_a_program(&self) {
        const SIZE: u64 = 48 * PAGE;
        let Ok(space) = Space::user(&self.kernel, ()) else { return };
        let mut first = Process::new(self, space, Memory::new(&self.sim, 0), 0);
        let (data, flags) = (Protection::READ | Protection::WRITE, MapFlags::PRIVATE | MapFlags::ANONYMOUS);
        let Process { space, memory, .. } = &mut first;
        let Ok(start) = memory.mmap(space, 0, SIZE, data, flags, Backing::Anonymous) else { return first.exit(self) };
        let mut all = vec![first];
        for cpu in 0..self.sim.cpu_count().min(6) {
            let process = &mut all[0];
            for page in (start..start + SIZE).step_by(PAGE as usize) {
                process.run();
                process.store(self, page, page);
            }
            if cpu != 0
                && let Ok((space, memory)) = process.memory.fork(&process.space, ())
            {
                all.push(Process::new(self, space, memory, cpu));
            }
        }
        all.into_iter().for_each(|process| process.exit(self));
    }
}

/// What a page of a file begins with, by the file's number and the page's place in bytes.
pub const fn word_of(key: u64, offset: u64) -> u64 {
    key << 48 | offset | 1
}

/// A process: its space, on a CPU of its own.
pub(crate) struct Process {
    pub(crate) space: Space<Sim>,
    pub(crate) memory: Memory<Sim>,
    /// The CPU of the thread that acts.
    pub(crate) cpu: usize,
    /// The CPUs of its threads.
    cpus: Vec<usize>,
    /// The files that it maps, by their keys.
    pub(crate) files: Vec<Area<Sim>>,
    /// What they do not have yet is zero.
    pub(crate) zeros: bool,
}

impl Process {
    /// A process, on a CPU that no other is on.
    pub(crate) fn new(world: &World, space: Space<Sim>, memory: Memory<Sim>, cpu: usize) -> Self {
        Self::with_threads(world, space, memory, vec![cpu])
    }

    /// A process with a thread on each of these CPUs, on which no other is.
    pub(crate) fn with_threads(world: &World, space: Space<Sim>, memory: Memory<Sim>, cpus: Vec<usize>) -> Self {
        for &cpu in cpus.iter().rev() {
            CPU.set(cpu);
            world.sim.activate(cpu, &space.activate(cpu));
        }
        Self { space, memory, cpu: cpu(), cpus, files: Vec::new(), zeros: false }
    }

    /// Has the process act from here on.
    pub(crate) fn run(&self) {
        CPU.set(self.cpu);
    }

    /// Has one of its threads act from here on.
    pub(crate) fn run_thread(&mut self, thread: usize) {
        self.cpu = self.cpus[thread];
        self.run();
    }

    /// Ends it: its CPUs go back to the kernel.
    pub(crate) fn exit(self, world: &World) {
        for &cpu in &self.cpus {
            CPU.set(cpu);
            world.sim.activate(cpu, &world.kernel.activate(cpu));
            // SAFETY: the kernel's root was loaded on that CPU.
            unsafe { self.space.deactivate(cpu) };
        }
    }

    /// Makes an access as a CPU with a fault handler does.
    fn access(
        &mut self,
        address: u64,
        access: Access,
        mut attempt: impl FnMut() -> Result<u64, vmcore::sim::SimFault>,
    ) -> Outcome {
        for _ in 0..4 {
            let fault = match attempt() {
                Ok(value) => return Outcome::Done(value),
                Err(fault) => fault,
            };
            let fault = Fault::new(address, access | Access::USER).present(fault.is_present());
            // Whoever brought a page has the same fault be looked at again, as a thread does that has waited for it.
            let resolved =
                self.space.fault(fault).map(|flush| flush.complete()).and_then(|resolution| match resolution {
                    Resolution::Request(request) => {
                        self.bring(request);
                        self.space.fault(fault).map(|flush| flush.complete())
                    }
                    resolution => Ok(resolution),
                });
            match resolved {
                // One more page that is wanted is brought at the next fault.
                Ok(Resolution::Request(request)) => self.bring(request),
                Ok(_) => {}
                Err(error) => match self.memory.signal(&self.space, fault, error) {
                    Some(Signal::NotMapped) => return Outcome::NotMapped,
                    Some(Signal::Denied) => return Outcome::Denied,
                    Some(Signal::NothingBehind) => return Outcome::Bus,
                    _ => return Outcome::Refused(error),
                },
            }
        }
        panic!(
            "the fault at {address:#x} repeats although it was resolved:\n{}",
            self.space.walk(VirtAddr::new(address))
        );
    }

    /// Brings pages of a file: each begins with a word that says which it is.
    fn bring(&self, request: PageRequest) {
        let Some(file) = usize::try_from(request.key).ok().and_then(|key| self.files.get(key)) else { return };
        for offset in (request.offset..request.offset + request.size).step_by(PAGE as usize) {
            let word = if self.zeros { 0 } else { word_of(request.key, offset) }.to_ne_bytes();
            file.supply(request.token, offset, &word).expect("the request was just made");
        }
    }

    /// Has a page be there for reading, as a fault on it does.
    pub(crate) fn touch(&self, address: u64) {
        self.run();
        let _ = self.space.fault(Fault::new(address, Access::READ | Access::USER)).map(|flush| flush.complete());
    }

    /// An aligned load of a word.
    pub(crate) fn load(&mut self, world: &World, address: u64) -> Outcome {
        let at = VirtAddr::new(address);
        let cpu = self.cpu;
        self.access(address, Access::READ, || world.sim.read_u64(cpu, at, true))
    }

    /// An aligned store of a word.
    pub(crate) fn store(&mut self, world: &World, address: u64, value: u64) -> Outcome {
        let at = VirtAddr::new(address);
        let cpu = self.cpu;
        self.access(address, Access::WRITE, || world.sim.write_u64(cpu, at, true, value).map(|()| value))
    }
}
