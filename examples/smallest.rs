//! The smallest embedding: a program for a host that brings frames out of a `Vec`, makes a space, faults a page in and
//! prints the map. Run it with `cargo run -p examples --example smallest`.

use vmcore::addr::Frame;
use vmcore::frame::{FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, Frames};
use vmcore::inspect::SpaceMap;
use vmcore::paging::{Access, FlushRequest, Mmu, X86_64};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, MapRequest, Space};
use vmcore::{CpuMask, Machine, Platform};

const FRAMES: usize = 256;

/// What the handle leads to. A kernel keeps this in a `static`.
struct Host {
    frames: FrameRegion<'static, spin::Mutex<()>>,
    machine: Machine<Handle>,
}

/// The platform: a handle that the library copies wherever it needs it. A kernel's is zero-sized.
#[derive(Clone, Copy)]
struct Handle(&'static Host);

// SAFETY: everything is forwarded to a `FrameRegion`, which keeps the contract.
unsafe impl Frames for Handle {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.frames.allocate(request)
    }
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.0.frames.free(first, count) }
    }
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.0.frames.pointer(frame)
    }
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.frames.meta(frame)
    }
}

// SAFETY: there is one machine, one CPU, and no TLB that could be stale.
unsafe impl Platform for Handle {
    type Mmu = X86_64;
    type RawMutex = spin::Mutex<()>;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();
    fn machine(&self) -> &Machine<Self> {
        &self.0.machine
    }
    fn cpu(&self) -> usize {
        0
    }
    fn flush(&self, _request: &FlushRequest<CpuMask>) {}
    fn flush_local(&self, _request: &FlushRequest<CpuMask>) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Vec::leak(vec![0_u8; (FRAMES + 1) * 4096]);
    let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    let records = Vec::leak((0..FRAMES).map(|_| FrameMeta::new()).collect());
    // SAFETY: the memory is aligned, large enough, and nobody else's for ever.
    let frames = unsafe { FrameRegion::new(base, 12, FrameMetaTable::new(Frame::new(0x100), records)) };
    let host = Handle(Box::leak(Box::new(Host { frames, machine: Machine::new(X86_64::new(40)) })));

    let upper = X86_64::new(40).range(0xffff_ff80_0000_0000, 0x80_0000_0000)?;
    let kernel = Space::kernel(&host, upper, None, ())?;
    let space = Space::user(&kernel, ())?;
    let area = Area::new(&host, AreaKind::Open { size: 16 * 4096 }, ())?;
    let range = space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA))?;
    space.fault(Fault::new(0x40_2abc, Access::WRITE | Access::USER))?.complete();
    println!("{}\n", SpaceMap(&space));
    println!("{}", space.walk(range.start().checked_add(0x2abc).unwrap_or_default()));
    space.unmap(range)?.complete();
    Ok(())
}
