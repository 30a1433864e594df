//! An embedder that has less than the simulated machine: no invalidation that can be called under a lock, and memory that is reached only where it is RAM. Each expected
//! value is said by hand.

use vmcore::addr::{Frame, FrameRange, PageRange, VirtAddr};
use vmcore::frame::{FrameMeta, FrameRequest, Frames};
use vmcore::paging::{Access, FlushRequest, MemoryType, Mmu, X86_64};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{Fault, Inherit, MapRequest, Place, Resolution, Space, SpaceError};
use vmcore::{CpuMask, Machine, Platform};

mod common;

use common::PAGE;

const GIB: u64 = 1 << 30;

#[derive(Clone, Copy)]
struct Plain(&'static (Sim, Machine<Plain>));

// SAFETY: forwarded, but that what is no RAM is not reached.
unsafe impl Frames for Plain {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.0.allocate_frames(request)
    }
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.0.0.free_frames(first, count) }
    }
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.frame_meta(frame).map_or(std::ptr::null_mut(), |_| self.0.0.frame_pointer(frame))
    }
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.0.frame_meta(frame)
    }
}

// SAFETY: no CPU runs in a space: there is nothing to flush.
unsafe impl Platform for Plain {
    type Mmu = X86_64;
    type RawMutex = spin::Mutex<()>;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();
    fn machine(&self) -> &Machine<Self> {
        &self.0.1
    }
    fn cpu(&self) -> usize {
        0
    }
    fn flush(&self, _: &FlushRequest<CpuMask>) {}
    fn flush_local(&self, _: &FlushRequest<CpuMask>) {}
}

fn world() -> (Plain, Space<Plain>, Space<Plain>) {
    let sim = Sim::builder().frames(512).build();
    let machine = Machine::new(sim.machine().mmu());
    let platform = Plain(Box::leak(Box::new((sim, machine))));
    let bounds = platform.machine().mmu().range(common::KERNEL_START, common::KERNEL_SIZE).unwrap();
    let kernel = Space::kernel(&platform, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    (platform, kernel, space)
}

fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

fn range(start: u64, size: u64) -> PageRange {
    X86_64::new(40).range(start, size).unwrap()
}

/// Where nothing demands that an entry is forgotten before another takes its place, a fault needs no invalidation, whatever flush is outstanding.
#[test]
fn faults_need_no_invalidation_where_none_is_demanded() {
    let (_, _kernel, space) = world();
    space.map_anonymous(4 * PAGE, Place::At(GIB), Access::USER_DATA, Inherit::Copy, ()).unwrap();
    let fault = |page: u64, access| space.fault(Fault::new(GIB + page * PAGE, access)).map(|flush| flush.complete());
    for page in 0..3 {
        assert_eq!(fault(page, Access::USER_DATA), Ok(Resolution::Mapped));
    }
    let _ = space.activate(0);
    // With all that they held, tables go as well: what is mapped next is mapped anew.
    let dropped = space.protect(range(GIB, 4 * PAGE), Access::empty()).unwrap();
    assert_eq!(space.counters().tables, 1);
    let added = space.protect(range(GIB, 4 * PAGE), Access::USER_DATA).unwrap();
    for page in 0..4 {
        let resolved = fault(page, Access::USER_DATA);
        assert!(matches!(resolved, Ok(Resolution::Mapped | Resolution::Spurious)), "{page}: {resolved:?}");
        assert!(space.walk(at(GIB + page * PAGE)).access().contains(Access::WRITE));
    }
    dropped.complete();
    added.complete();
    // SAFETY: no root is loaded anywhere.
    unsafe { space.deactivate(0) };
}

/// What cannot be reached is not copied, in either direction: nothing was done, and the frame is named.
#[test]
fn what_cannot_be_reached_is_not_copied() {
    let (platform, _kernel, space) = world();
    let frames = FrameRange::new(Frame::new(0x100_0000), 4).unwrap();
    let kind = AreaKind::Fixed { frames, memory: MemoryType::Uncached };
    // SAFETY: there is no such memory, and nothing relies on what it holds.
    let device = unsafe { Area::fixed(&platform, frames, MemoryType::Uncached, ()) }.unwrap();
    assert_eq!(device.kind(), kind);
    space.map(&MapRequest::new(&device).at(GIB)).unwrap();
    let unreachable = |page: u64| AreaError::Unreachable(Frame::new(0x100_0000 + page));
    let written = space.write_bytes(at(GIB + 2 * PAGE + 8), &[1, 2, 3]).map(|flush| flush.complete());
    assert_eq!(written.map_err(|refused| (refused.done, refused.error)), Err((0, SpaceError::Area(unreachable(2)))));
    let read = space.read_bytes(at(GIB + PAGE), &mut [0; 4]);
    assert_eq!(read.map_err(|refused| (refused.done, refused.error)), Err((0, SpaceError::Area(unreachable(1)))));
    assert_eq!(device.read(3 * PAGE, &mut [0; 4]), Err(unreachable(3)));
    assert_eq!(device.write(3 * PAGE, &[0; 4]).map(|flush| flush.complete()), Err(unreachable(3)));
}
