//! A trivial embedder: one CPU, a few frames of static memory, and no TLB.

use core::cell::UnsafeCell;

use vmcore::{
    CpuMask, Machine, Platform,
    addr::{Frame, PageRange},
    frame::{FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, Frames},
    paging::{FlushRequest, X86_64},
};

use crate::calls::shown;

const FRAMES: usize = 16;

/// The memory of the frames.
#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; FRAMES << 12]>);

// SAFETY: the region below is the only one that reaches it, and hands out disjoint parts of it.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; FRAMES << 12]));
static RECORDS: [FrameMeta; FRAMES] = [const { FrameMeta::new() }; FRAMES];
static REGION: FrameRegion<'static, spin::Mutex<()>> = {
    let records = FrameMetaTable::new(Frame::new(0x100), &RECORDS);
    // SAFETY: the memory is aligned, as large as there are records, static, and reached by nobody else.
    unsafe { FrameRegion::new(MEMORY.0.get().cast(), 12, records) }
};
static MACHINE: Machine<Probe> = Machine::new(X86_64::new(40));

/// The ready-made region of frames.
pub(crate) fn region() -> &'static FrameRegion<'static, spin::Mutex<()>> {
    &REGION
}

/// The handle to all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe;

// SAFETY: everything is forwarded to a `FrameRegion`, which keeps the contract.
unsafe impl Frames for Probe {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        REGION.allocate(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: the caller's promise is the one that is asked for here.
        unsafe { REGION.free(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        REGION.pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        REGION.meta(frame)
    }
}

/// The same frames, of a machine that can invalidate at once: what replaces live entries of any format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invalidating;

// SAFETY: as for `Probe`; no TLB knows anything that it would have to forget.
unsafe impl Frames for Invalidating {
    const INVALIDATES_NOW: bool = true;

    fn invalidate_now(&self, tag: u16, range: PageRange) {
        shown((tag, range));
    }

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        Probe.allocate_frames(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { Probe.free_frames(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        Probe.frame_pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        Probe.frame_meta(frame)
    }
}

// SAFETY: there is one machine, one CPU, and no TLB that could be stale.
unsafe impl Platform for Probe {
    type Mmu = X86_64;
    type RawMutex = spin::Mutex<()>;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();

    fn machine(&self) -> &Machine<Self> {
        &MACHINE
    }

    fn cpu(&self) -> usize {
        0
    }

    fn flush(&self, request: &FlushRequest<CpuMask>) {
        shown(request);
    }

    fn flush_local(&self, request: &FlushRequest<CpuMask>) {
        shown(request);
    }
}
