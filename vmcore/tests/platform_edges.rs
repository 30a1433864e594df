//! An embedder that has less than the simulated machine: no invalidation that can be called under a lock, and memory that is reached only where it is RAM. Each expected
//! value is said by hand.

use vmcore::addr::{Frame, FrameRange, PageRange};
use vmcore::paging::{Access, MemoryType, Mmu, X86_64};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{Fault, Inherit, MapRequest, Place, Resolution, Space, SpaceError};

mod common;

use common::bare::Bare;
use common::{PAGE, at};

const GIB: u64 = 1 << 30;

type Plain = Bare<spin::Mutex<()>>;

fn world() -> (Plain, Space<Plain>, Space<Plain>) {
    Bare::with_spaces(|| 0)
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
