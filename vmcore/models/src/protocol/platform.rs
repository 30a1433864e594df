//! The embedder: the simulated machine with locks that shuttle knows, and flushes that arrive when they arrive.

use std::sync::Arc;

use shuttle::rand::Rng as _;
use vmcore::addr::{Frame, PageRange};
use vmcore::frame::{FrameMeta, FrameRequest, Frames};
use vmcore::paging::FlushRequest;
use vmcore::sim::Sim;
use vmcore::{CpuMask, CpuSet as _, Machine, Platform};

use super::lock::ModelLock;
use super::point;
use crate::reduced::Reduced;

pub(crate) struct Shared {
    pub(crate) sim: Sim<Reduced>,
    machine: Machine<Modelled>,
}

/// A handle to the machine of this schedule.
#[derive(Clone)]
pub(crate) struct Modelled(Arc<Shared>);

impl std::fmt::Debug for Modelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Modelled")
    }
}

impl Modelled {
    pub(crate) fn new(frames: usize, cpus: usize, mmu: Reduced) -> Self {
        let sim = Sim::of(mmu).frames(frames).cpus(cpus).build();
        Self(Arc::new(Shared { sim, machine: Machine::new(mmu) }))
    }

    pub(crate) fn sim(&self) -> &Sim<Reduced> {
        &self.0.sim
    }
}

/// The CPU of this thread: the first that a schedule starts is CPU 0's, and so on. What happens before and after them is CPU 0's too.
pub(crate) fn this_cpu() -> usize {
    usize::from(shuttle::current::me()).saturating_sub(1)
}

// SAFETY: the simulated machine's promises are these; a copy made in two halves is a copy.
unsafe impl Frames for Modelled {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.sim().allocate_frames(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.sim().free_frames(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.sim().frame_pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.sim().frame_meta(frame)
    }

    const INVALIDATES_NOW: bool = true;

    fn invalidate_now(&self, tag: u16, range: PageRange) {
        self.sim().invalidate_now(tag, range);
    }

    unsafe fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) -> usize {
        // No lock is held, and what has become of the frame meanwhile is the caller's to know.
        point();
        // SAFETY: forwarded.
        unsafe { self.sim().read_frame(frame, offset, into) }
    }

    unsafe fn write_frame(&self, frame: Frame, offset: usize, from: &[u8]) -> usize {
        point();
        // SAFETY: forwarded.
        unsafe { self.sim().write_frame(frame, offset, from) }
    }

    unsafe fn copy_frame(&self, from: Frame, to: Frame) {
        const HALF: usize = 1 << (Modelled::PAGE_SHIFT - 1);
        let (from, to) = (self.frame_pointer(from), self.frame_pointer(to));
        // Others write meanwhile, if they can: before, half way through, and afterwards.
        for offset in [0, HALF] {
            point();
            // SAFETY: both are reachable for a whole page; the caller vouches for the rest.
            unsafe { std::ptr::copy_nonoverlapping(from.add(offset), to.add(offset), HALF) };
        }
        point();
    }
}

// SAFETY: all handles share one machine; each thread is a CPU of its own; `flush` has made every CPU of the request forget the scope
// when it returns.
unsafe impl Platform for Modelled {
    type Mmu = Reduced;
    type RawMutex = ModelLock;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();

    fn machine(&self) -> &Machine<Self> {
        &self.0.machine
    }

    fn cpu(&self) -> usize {
        this_cpu()
    }

    /// Interrupts to each CPU: they arrive in any order, and each after whatever that CPU and others do first. Often that is much: who waits
    /// for them lets the others go on for a while, so that the time between a change and its acknowledgement is not the shortest of all.
    fn flush(&self, request: &FlushRequest<CpuMask>) {
        let mut cpus: Vec<_> = (0..self.sim().cpu_count()).filter(|cpu| request.cpus.contains(*cpu)).collect();
        while !cpus.is_empty() {
            let mut random = shuttle::rand::thread_rng();
            let next = cpus.swap_remove(random.gen_range(0..cpus.len()));
            point();
            for _ in 0..random.gen_range(0..16_u32).saturating_sub(8) {
                shuttle::thread::yield_now();
            }
            self.sim().apply_on(next, request);
        }
        point();
    }

    fn flush_local(&self, request: &FlushRequest<CpuMask>) {
        self.sim().apply_on(this_cpu(), request);
    }
}
