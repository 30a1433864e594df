//! What every scenario begins with: a machine, its kernel space active on each CPU; what a CPU's thread does; and the balance at the end.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use shuttle::thread;
use vmcore::addr::{PageRange, VirtAddr};
use vmcore::frame::{FrameUse, Frames as _};
use vmcore::paging::{Access, Mmu as _};
use vmcore::sim::{FrameCounts, Sim};
use vmcore::vm_area::AreaKind;
use vmcore::vm_space::{Fault, MapRequest, SpaceError};
use vmcore::{Platform as _, vm_area, vm_space};

use super::platform::{Modelled, this_cpu};
use crate::reduced::Reduced;

pub(crate) type Space = vm_space::Space<Modelled>;
pub(crate) type Area = vm_area::Area<Modelled>;

pub(crate) const PAGE: u64 = 0x1000;
/// The kernel's half: two root slots of four pages.
pub(crate) const KERNEL: u64 = 0xffff_ffff_ffff_8000;
const FRAMES: usize = 96;

/// What has to be given back at the end of a schedule that found nothing. In one that did it stays where it is: the locks that taking it
/// down would need may be held by threads that never go on.
pub(crate) struct Kept<T>(ManuallyDrop<Arc<T>>);

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(Arc::new(value)))
    }

    /// The value, for whoever has the last of its handles.
    pub(crate) fn take(self) -> T {
        Arc::into_inner(ManuallyDrop::into_inner(self.0)).expect("the threads that had it are over")
    }

    /// Gives a handle up.
    pub(crate) fn give_up(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(ManuallyDrop::new(Arc::clone(&self.0)))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

pub(crate) struct World {
    pub(crate) platform: Modelled,
    pub(crate) kernel: Kept<Space>,
    start: FrameCounts,
}

/// A machine whose tags are few: spaces have one each, as long as there are some.
pub(crate) const TAGGED: Reduced = Reduced { tags: 4, keeps_faults: false };
/// One without.
pub(crate) const UNTAGGED: Reduced = Reduced { tags: 1, keeps_faults: false };
/// One whose CPUs remember what faulted.
pub(crate) const REMEMBERING: Reduced = Reduced { tags: 4, keeps_faults: true };

impl World {
    pub(crate) fn new(cpus: usize, mmu: Reduced) -> Self {
        let platform = Modelled::new(FRAMES, cpus, mmu);
        let start = platform.sim().frame_counts();
        let bounds = mmu.range(KERNEL, 8 * PAGE).expect("the upper half");
        let kernel = Kept::new(Space::kernel(&platform, bounds, None, ()).expect("frames for the kernel's space"));
        let world = Self { platform, kernel, start };
        for cpu in 0..cpus {
            world.enter(cpu, &world.kernel);
        }
        world
    }

    pub(crate) fn sim(&self) -> &Sim<Reduced> {
        self.platform.sim()
    }

    pub(crate) fn user(&self) -> Kept<Space> {
        Kept::new(Space::user(&self.kernel, ()).expect("frames for a space"))
    }

    pub(crate) fn open(&self, pages: u64) -> Kept<Area> {
        self.area(AreaKind::Open { size: pages * PAGE })
    }

    pub(crate) fn area(&self, kind: AreaKind) -> Kept<Area> {
        Kept::new(Area::new(&self.platform, kind, ()).expect("frames for an area"))
    }

    /// Switches a CPU to a space, whatever it had loaded.
    pub(crate) fn enter(&self, cpu: usize, space: &Space) {
        self.sim().activate(cpu, &space.activate(cpu));
    }

    /// Switches a CPU from a space back to the kernel's root.
    pub(crate) fn leave(&self, cpu: usize, space: &Space) {
        self.enter(cpu, &self.kernel);
        forget(cpu, space);
    }

    /// How many frames are pages.
    pub(crate) fn pages(&self) -> u64 {
        self.sim().frame_counts().of(FrameUse::Page)
    }

    /// Runs a thread per CPU and waits for all of them.
    pub(crate) fn run<const N: usize>(&self, threads: [Box<dyn FnOnce(Cpu) + Send>; N]) {
        let threads: Vec<_> = threads
            .into_iter()
            .map(|thread| {
                let (platform, kernel) = (self.platform.clone(), self.kernel.clone());
                thread::spawn(move || {
                    thread(Cpu { platform, number: this_cpu() });
                    kernel.give_up();
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a panic ends the schedule");
        }
        self.sim().check_translations();
    }

    /// Every area and user space is gone: so is the kernel's, and every frame is back.
    pub(crate) fn finish(self) {
        for cpu in 0..self.sim().cpu_count() {
            self.sim().unload(cpu);
            forget(cpu, &self.kernel);
        }
        let Self { platform, kernel, start } = self;
        kernel.take().destroy().map_err(|(_, error)| error).expect("it is active nowhere").complete();
        assert_eq!(platform.sim().frame_counts(), start, "frames are lost: {:?}", platform.machine().counters());
        let counters = platform.machine().counters();
        assert_eq!((counters.refused_frees, counters.dropped_flushes), (0, 0));
    }

    /// Takes CPUs out of a space, and the space down.
    pub(crate) fn destroy(&self, space: Kept<Space>, cpus: usize) {
        for cpu in 0..cpus {
            self.leave(cpu, &space);
        }
        space.take().destroy().map_err(|(_, error)| error).expect("it is active nowhere").complete();
    }
}

/// Notes that a CPU has left a space.
pub(crate) fn forget(cpu: usize, space: &Space) {
    // SAFETY: callers have loaded another root there, or none; activations and flushes are carried out by the machine.
    unsafe { space.deactivate(cpu) }
}

/// A CPU, as the thread that runs on it sees it.
pub(crate) struct Cpu {
    pub(crate) platform: Modelled,
    pub(crate) number: usize,
}

impl Cpu {
    pub(crate) fn sim(&self) -> &Sim<Reduced> {
        self.platform.sim()
    }

    /// Makes an access as a CPU with a fault handler does, until it goes through or is refused.
    fn retried<T>(
        &self,
        space: &Space,
        mut access: impl FnMut() -> Result<T, vmcore::sim::SimFault>,
    ) -> Result<T, SpaceError> {
        loop {
            match access() {
                Ok(value) => return Ok(value),
                Err(fault) => space.fault(Fault::new(fault.address.as_u64(), fault.access)).map(|flush| {
                    flush.complete();
                })?,
            }
        }
    }

    pub(crate) fn store(&self, space: &Space, address: u64, value: u64) -> Result<(), SpaceError> {
        let user = address < KERNEL;
        self.retried(space, || self.sim().write_u64(self.number, VirtAddr::new(address), user, value))
    }

    pub(crate) fn load(&self, space: &Space, address: u64) -> Result<u64, SpaceError> {
        let user = address < KERNEL;
        self.retried(space, || self.sim().read_u64(self.number, VirtAddr::new(address), user))
    }
}

/// Maps pages of an area at an address.
pub(crate) fn map(space: &Space, area: &Area, address: u64, offset: u64, pages: u64) -> Result<PageRange, SpaceError> {
    space.map(&MapRequest::new(area).at(address).offset(offset * PAGE).size(pages * PAGE).access(Access::KERNEL_DATA))
}

/// Maps pages of an area at an address where nothing is.
pub(crate) fn mapped(space: &Space, area: &Area, address: u64, pages: u64) -> PageRange {
    map(space, area, address, 0, pages).expect("nothing is there")
}

/// Unmaps pages and completes the flush.
pub(crate) fn unmap(space: &Space, address: u64, pages: u64) {
    space.unmap(space.range(address, pages * PAGE).expect("a range of the space")).expect("memory for it").complete();
}

/// The bytes of frames that the library has not to look at: what a thread tells another.
pub(crate) type Signal = shuttle::sync::atomic::AtomicU64;

#[allow(dead_code, reason = "read by scenarios that look at frames themselves")]
pub(crate) fn word(platform: &Modelled, frame: vmcore::addr::Frame) -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: frames of the simulated machine are never unmapped.
    unsafe { platform.read_frame(frame, 0, &mut bytes) };
    u64::from_ne_bytes(bytes)
}
