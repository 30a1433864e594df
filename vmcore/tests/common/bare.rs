//! An embedder that has less than the simulated machine: its frames alone, reached only where they are RAM; no CPU runs in a space, and no flush does anything. Which lock it
//! has, and which CPU makes a call, is up to the test.

use lock_api::RawMutex;
use vmcore::addr::Frame;
use vmcore::frame::{FrameMeta, FrameRequest, Frames};
use vmcore::paging::{FlushRequest, Mmu, X86_64};
use vmcore::sim::Sim;
use vmcore::vm_space::Space;
use vmcore::{CpuMask, Machine, Platform};

/// A handle of it; `L` is the lock.
pub struct Bare<L: RawMutex + Send + Sync + 'static>(&'static Host<L>);

struct Host<L: RawMutex + Send + Sync + 'static> {
    sim: Sim,
    machine: Machine<Bare<L>>,
    cpu: fn() -> usize,
}

impl<L: RawMutex + Send + Sync + 'static> Bare<L> {
    /// One with its kernel's space and a program's.
    pub fn with_spaces(cpu: fn() -> usize) -> (Self, Space<Self>, Space<Self>) {
        let sim = Sim::builder().frames(512).build();
        let machine = Machine::new(sim.machine().mmu());
        let bare = Self(Box::leak(Box::new(Host { sim, machine, cpu })));
        let bounds = bare.machine().mmu().range(super::KERNEL_START, super::KERNEL_SIZE).unwrap();
        let kernel = Space::kernel(&bare, bounds, None, ()).unwrap();
        let space = Space::user(&kernel, ()).unwrap();
        (bare, kernel, space)
    }
}

impl<L: RawMutex + Send + Sync> Clone for Bare<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: RawMutex + Send + Sync> Copy for Bare<L> {}

// SAFETY: forwarded, but that what is no RAM is not reached.
unsafe impl<L: RawMutex + Send + Sync> Frames for Bare<L> {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.sim.allocate_frames(request)
    }
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.0.sim.free_frames(first, count) }
    }
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.frame_meta(frame).map_or(std::ptr::null_mut(), |_| self.0.sim.frame_pointer(frame))
    }
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.sim.frame_meta(frame)
    }
}

// SAFETY: no CPU runs in a space: there is nothing to flush.
unsafe impl<L: RawMutex + Send + Sync> Platform for Bare<L> {
    type Mmu = X86_64;
    type RawMutex = L;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();
    fn machine(&self) -> &Machine<Self> {
        &self.0.machine
    }
    fn cpu(&self) -> usize {
        (self.0.cpu)()
    }
    fn flush(&self, _: &FlushRequest<CpuMask>) {}
    fn flush_local(&self, _: &FlushRequest<CpuMask>) {}
}
