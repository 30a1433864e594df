//! Bugs that other memory managers shipped, each as a test by the name under which `regressions.txt` lists it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::{KERNEL_START, PAGE, USER_EXECUTE, USER_READ, USER_WRITE, World, at, load, map, store, touch, unmap};
use vmcore::addr::{Frame, FrameRange};
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, Flush, MemoryType, Mmu};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, SectionLayout};
use vmcore::vm_space::{Fault, MapRequest, Place, Resolution, Space, SpaceError};
use vmcore::{Platform, RegistryError};

const A: u64 = 0x40_0000;
const B: u64 = 0x1234_5000;

/// A user space on CPU 0 of a machine.
struct Bench {
    world: World,
    space: Space<Sim>,
}

impl Bench {
    fn new() -> Self {
        Self::with_cpus(1)
    }

    fn with_cpus(cpus: usize) -> Self {
        Self::in_world(World::new(cpus))
    }

    fn in_world(world: World) -> Self {
        let space = world.user();
        for cpu in 0..world.sim.cpu_count() {
            world.enter(cpu, &space);
        }
        Self { world, space }
    }

    fn store(&self, address: u64, value: u64) -> Result<(), SpaceError> {
        store(&self.world.sim, 0, &self.space, address, value)
    }

    fn load(&self, address: u64) -> Result<u64, SpaceError> {
        load(&self.world.sim, 0, &self.space, address)
    }

    fn touch(&self, address: u64, access: Access) -> Result<(), SpaceError> {
        touch(&self.world.sim, 0, &self.space, address, access).map(|_| ())
    }

    fn pages(&self) -> u64 {
        self.world.sim.frame_counts().of(FrameUse::Page)
    }

    /// Areas are dropped by then.
    fn end(self) {
        self.world.sim.check_translations();
        for cpu in 0..self.world.sim.cpu_count() {
            self.world.leave(cpu, &self.space);
        }
        drop(self.space);
        self.world.finish();
    }
}

#[test]
fn area_bounds_last_byte() {
    let bench = Bench::new();
    let area = bench.world.open(2);
    assert_eq!(area.write(2 * PAGE - 1, &[9]).map(Flush::complete), Ok(()));
    for (offset, length) in [(2 * PAGE, 1), (2 * PAGE - 1, 2), (u64::MAX, 1), (u64::MAX - 5, 8)] {
        let mut bytes = vec![0; length];
        assert!(matches!(area.read(offset, &mut bytes), Err(AreaError::Outside { .. })), "{offset:#x}+{length}");
    }
    // A window cannot show a page past the end either, nor be served one after the area has shrunk.
    for (offset, pages) in [(2, 1), (1, 2), (0, 3)] {
        let request = MapRequest::new(&area).offset(offset * PAGE).size(pages * PAGE);
        assert!(matches!(bench.space.map(&request), Err(SpaceError::Area(AreaError::Outside { .. }))));
    }
    map(&bench.space, &area, A, 0, 2);
    assert_eq!(bench.load(A + 2 * PAGE - 8).unwrap().to_ne_bytes()[7], 9);
    area.resize(PAGE).unwrap().complete();
    assert_eq!(bench.touch(A + PAGE, USER_READ), Err(SpaceError::OutsideArea(at(A + PAGE))));
    let both = bench.space.range(A, 2 * PAGE).unwrap();
    assert_eq!(
        bench.space.populate(both, Access::READ).map(Flush::complete),
        Err(SpaceError::OutsideArea(at(A + PAGE)))
    );
    assert_eq!(bench.touch(A + PAGE - 1, USER_READ), Ok(()));
    drop(area);
    bench.end();
}

#[test]
fn area_shrink_unmaps_everywhere() {
    let bench = Bench::with_cpus(2);
    let other = bench.world.user();
    bench.world.enter(1, &other);
    common::forget(1, &bench.space);
    let area = bench.world.open(4);
    map(&bench.space, &area, A, 0, 4);
    map(&bench.space, &area, B, 2, 2);
    map(&other, &area, A, 1, 3);
    bench.store(A + 3 * PAGE, 1).unwrap();
    assert_eq!(bench.load(B + PAGE).unwrap(), 1);
    assert_eq!(load(&bench.world.sim, 1, &other, A + 2 * PAGE).unwrap(), 1);
    area.resize(3 * PAGE).unwrap().complete();
    bench.world.sim.check_translations();
    assert!(bench.touch(A + 3 * PAGE, USER_READ).is_err());
    assert!(bench.touch(B + PAGE, USER_READ).is_err());
    assert!(touch(&bench.world.sim, 1, &other, A + 2 * PAGE, USER_READ).is_err());
    bench.world.leave(1, &other);
    drop((area, other));
    bench.world.leave(0, &bench.space);
    drop(bench.space);
    bench.world.finish();
}

#[test]
fn area_unmapped_everywhere_keeps_pages() {
    let bench = Bench::new();
    let area = bench.world.open(2);
    map(&bench.space, &area, A, 0, 2);
    bench.store(A + PAGE, 77).unwrap();
    unmap(&bench.space, A, 2);
    assert_eq!((area.windows(), area.resident_pages()), (0, 1));
    map(&bench.space, &area, B, 0, 2);
    assert_eq!(bench.load(B + PAGE).unwrap(), 77);
    drop(area);
    bench.end();
}

#[test]
fn area_twice_in_one_space() {
    let bench = Bench::new();
    let area = bench.world.open(2);
    map(&bench.space, &area, A, 0, 2);
    map(&bench.space, &area, B, 0, 2);
    bench.store(A, 5).unwrap();
    assert_eq!(bench.load(B).unwrap(), 5);
    unmap(&bench.space, A, 2);
    bench.store(B, 6).unwrap();
    assert_eq!(bench.load(B).unwrap(), 6);
    assert_eq!(bench.load(A), Err(SpaceError::NoWindow(at(A))));
    drop(area);
    bench.end();
}

#[test]
fn ring_first_page_aliases() {
    let bench = Bench::new();
    for pages in [1, 3] {
        let area = Area::new(&bench.world.sim, AreaKind::Ring { size: pages * PAGE }, 0).unwrap();
        let before = bench.pages();
        let range = bench.space.map(&MapRequest::new(&area).at(A)).unwrap();
        assert_eq!(range.size(), 2 * pages * PAGE);
        // First touched in the second half, in the first half, and by a reader.
        for page in 0..pages {
            let (low, high) = (A + page * PAGE, A + (pages + page) * PAGE);
            let (first, then) = if page == 1 { (low, high) } else { (high, low) };
            bench.store(first + 8, page + 5).unwrap();
            assert_eq!(bench.load(then + 8), Ok(page + 5));
            bench.store(then + 16, page + 6).unwrap();
            assert_eq!(bench.load(first + 16), Ok(page + 6));
            assert_eq!(bench.space.frame_at(at(low)), bench.space.frame_at(at(high)));
        }
        assert_eq!(bench.pages() - before, pages, "a frame for both places");
        assert_eq!(area.write(pages * PAGE - 2, &[1, 2, 3, 4]).map(Flush::complete), Ok(()));
        assert_eq!(bench.load(A + (2 * pages) * PAGE - 8).unwrap().to_ne_bytes()[6..], [1, 2]);
        assert_eq!(bench.load(A).unwrap().to_ne_bytes()[..2], [3, 4]);
        drop(area);
        unmap(&bench.space, A, 2 * pages);
    }
    bench.end();
}

#[test]
fn guard_never_backed() {
    let bench = Bench::new();
    let layout = SectionLayout { pages: 2, guard: 1, count: 2 };
    let area = common::area(&bench.world.sim, AreaKind::Guarded(layout)).unwrap();
    let range = bench.space.map(&MapRequest::new(&area).at(A)).unwrap();
    let section = area.take_section().unwrap();
    assert_eq!((section.offset, section.size), (PAGE, 2 * PAGE));
    // guard, section, section, guard, (not out), (not out), guard
    for page in 0..7 {
        let expected = if page == 1 || page == 2 { Ok(()) } else { Err(SpaceError::Guard(at(A + page * PAGE))) };
        assert_eq!(bench.touch(A + page * PAGE, USER_WRITE), expected, "page {page}");
    }
    assert_eq!(bench.space.populate(range, Access::READ).map(Flush::complete), Err(SpaceError::Guard(at(A))));
    assert!(matches!(area.write(0, &[1]), Err(AreaError::Kind)));
    assert_eq!(area.resident_pages(), 2);
    area.give_section(section.number).unwrap().complete();
    assert!(bench.touch(A + PAGE, USER_READ).is_err(), "a section that was given back is a guard");
    drop(area);
    bench.end();
}

#[test]
fn unmap_middle_leaves_neighbours() {
    let bench = Bench::new();
    let area = bench.world.open(4);
    map(&bench.space, &area, A, 0, 4);
    for page in 0..4 {
        bench.store(A + page * PAGE, 10 + page).unwrap();
    }
    unmap(&bench.space, A + 2 * PAGE, 1);
    for page in [0, 1, 3] {
        assert_eq!(bench.load(A + page * PAGE).unwrap(), 10 + page);
    }
    assert_eq!(bench.load(A + 2 * PAGE), Err(SpaceError::NoWindow(at(A + 2 * PAGE))));
    assert_eq!(area.resident_pages(), 4, "unmapping never loses data");
    drop(area);
    bench.end();
}

#[test]
fn unmap_middle_keeps_backing_offset() {
    let bench = Bench::new();
    let area = bench.world.open(8);
    for page in 0..8_u64 {
        area.write(page * PAGE, &(page + 1).to_ne_bytes()).unwrap().complete();
    }
    map(&bench.space, &area, A, 1, 7);
    // Nothing was touched yet: what is right of the hole is found through the window's own offset.
    unmap(&bench.space, A + 2 * PAGE, 2);
    for page in [0, 1, 4, 5, 6] {
        assert_eq!(bench.load(A + page * PAGE).unwrap(), page + 2, "page {page}");
    }
    let offsets: Vec<_> = bench.space.windows().map(|window| (window.offset / PAGE, window.range.pages(12))).collect();
    assert_eq!(offsets, [(1, 2), (5, 3)]);
    drop(area);
    bench.end();
}

#[test]
fn unmap_anonymous_really_unmaps() {
    let bench = Bench::new();
    for kind in [AreaKind::Open { size: PAGE }, AreaKind::Untracked { size: PAGE }] {
        let area = common::area(&bench.world.sim, kind).unwrap();
        map(&bench.space, &area, A, 0, 1);
        bench.store(A, 0xdead).unwrap();
        unmap(&bench.space, A, 1);
        assert!(bench.space.walk(at(A)).physical().is_none(), "{kind:?}");
        assert!(bench.world.sim.access(0, at(A), USER_READ).is_err());
        drop(area);
        let fresh = common::area(&bench.world.sim, kind).unwrap();
        map(&bench.space, &fresh, A, 0, 1);
        assert_eq!(bench.load(A).unwrap(), 0, "old bytes of {kind:?}");
        unmap(&bench.space, A, 1);
    }
    bench.end();
}

#[test]
fn unmap_failure_keeps_area() {
    let bench = Bench::new();
    let area = bench.world.open(3);
    map(&bench.space, &area, A, 0, 3);
    bench.store(A + PAGE, 3).unwrap();
    // Splitting a window takes records: so many that the pool needs a frame.
    let mut fails = 0;
    let mut areas = Vec::new();
    for round in 0..64 {
        let address = B + round * 0x10 * PAGE;
        let each = bench.world.open(3);
        map(&bench.space, &each, address, 0, 3);
        bench.world.sim.fail_allocation_after(0);
        let result = bench.space.unmap(bench.space.range(address + PAGE, PAGE).unwrap());
        bench.world.sim.fail_never();
        match result {
            Ok(flush) => flush.complete(),
            Err(SpaceError::OutOfFrames(_)) => {
                fails += 1;
                assert_eq!(each.windows(), 1);
                bench.store(address + PAGE, 4).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        areas.push(each);
    }
    assert!(fails > 0, "no unmapping ran out of memory: the test tests nothing");
    assert_eq!(bench.load(A + PAGE).unwrap(), 3);
    drop((area, areas));
    bench.end();
}

#[test]
fn gap_respects_limit() {
    let bench = Bench::new();
    let area = bench.world.open(4);
    let limits = bench.space.range(A, 6 * PAGE).unwrap();
    let request = MapRequest::new(&area).place(Place::GapWithin(limits));
    let first = bench.space.map(&request).unwrap();
    assert!(limits.covers(first), "{first}");
    assert_eq!(bench.space.map(&request), Err(SpaceError::NoGap(4 * PAGE)), "two pages are left within the limits");
    let second = bench.space.map(&request.size(2 * PAGE)).unwrap();
    assert!(limits.covers(second) && !second.overlaps(first));
    // The space's own end is a limit too.
    let bounds = bench.space.bounds();
    let top = bench.space.range(bounds.last().as_u64() + 1 - PAGE, PAGE).unwrap();
    assert_eq!(bench.space.map(&request.size(2 * PAGE).place(Place::GapWithin(top))), Err(SpaceError::NoGap(2 * PAGE)));
    assert_eq!(bench.space.map(&request.size(PAGE).place(Place::GapWithin(top))), Ok(top));
    drop(area);
    bench.end();
}

#[test]
fn gap_exact_fit() {
    let bench = Bench::new();
    let area = bench.world.open(8);
    map(&bench.space, &area, PAGE, 0, 2);
    map(&bench.space, &area, 6 * PAGE, 0, 2);
    let request = MapRequest::new(&area);
    assert_eq!(bench.space.map(&request.size(3 * PAGE)).unwrap().start(), at(3 * PAGE), "the gap is as large as asked");
    assert_eq!(bench.space.map(&request.size(PAGE)).unwrap().start(), at(8 * PAGE));
    unmap(&bench.space, 3 * PAGE, 3);
    assert_eq!(bench.space.map(&request.size(4 * PAGE)).unwrap().start(), at(9 * PAGE), "a page too large");
    drop(area);
    bench.end();
}

#[test]
fn fixed_below_lowest() {
    let bench = Bench::new();
    let area = bench.world.open(2);
    for address in [0, 0x7fff_ffff_f000, KERNEL_START, 0xffff_8000_0000_0000, 0x8000_0000_0000] {
        let result = bench.space.map(&MapRequest::new(&area).at(address));
        assert!(matches!(result, Err(SpaceError::Range(_))), "{address:#x} was accepted: {result:?}");
    }
    let below = bench.world.kernel().map(&MapRequest::new(&area).at(KERNEL_START - PAGE));
    assert!(matches!(below, Err(SpaceError::Range(_))), "{below:?}");
    assert!(bench.space.map(&MapRequest::new(&area).at(PAGE)).is_ok(), "the lowest address itself");
    drop(area);
    bench.end();
}

#[test]
fn grow_does_not_overlap_itself() {
    let bench = Bench::new();
    let area = bench.world.open(2);
    map(&bench.space, &area, A, 0, 2);
    bench.store(A, 8).unwrap();
    area.resize(6 * PAGE).unwrap().complete();
    map(&bench.space, &area, A + 2 * PAGE, 2, 4);
    bench.store(A + 5 * PAGE, 9).unwrap();
    assert_eq!((bench.load(A).unwrap(), bench.load(A + 5 * PAGE).unwrap()), (8, 9));
    drop(area);
    bench.end();
}

#[test]
fn area_resize_sees_last_neighbour() {
    let bench = Bench::new();
    let area = bench.world.open(2);
    // The overlap check sees every window, the last one too, whichever end it is met from.
    for window in 0..4 {
        map(&bench.space, &area, A + window * 4 * PAGE, 0, 2);
    }
    let last = A + 12 * PAGE;
    for (address, pages) in [(last, 1), (last - PAGE, 2), (last + PAGE, 2), (last - 2 * PAGE, 6), (A - PAGE, 2)] {
        let big = bench.world.open(pages);
        let result = bench.space.map(&MapRequest::new(&big).at(address));
        let taken = if address < A { A } else { last };
        assert_eq!(result, Err(SpaceError::Conflict(bench.space.range(taken, 2 * PAGE).unwrap())), "{address:#x}");
    }
    drop(area);
    bench.end();
}

#[test]
fn unmap_flushes() {
    let bench = Bench::with_cpus(2);
    let area = bench.world.open(3);
    map(&bench.space, &area, A, 0, 3);
    for cpu in 0..2 {
        touch(&bench.world.sim, cpu, &bench.space, A + PAGE, USER_WRITE).unwrap();
    }
    let before = bench.world.sim.flush_count();
    unmap(&bench.space, A + PAGE, 1);
    assert!(bench.world.sim.flush_count() > before);
    for cpu in 0..2 {
        assert!(bench.world.sim.access(cpu, at(A + PAGE), USER_READ).is_err(), "CPU {cpu} still reads it");
    }
    let quiet = bench.world.sim.flush_count();
    unmap(&bench.space, A + PAGE, 1);
    assert_eq!(bench.world.sim.flush_count(), quiet, "unmapping a hole flushes nothing");
    drop(area);
    bench.end();
}

#[test]
fn fault_failure_leaves_no_entry() {
    let bench = Bench::new();
    let area = bench.world.open(1);
    map(&bench.space, &area, A, 0, 1);
    let mut failed = 0;
    loop {
        let before = bench.world.sim.frame_counts();
        // From this request on none is met: one that is refused alone may be made again.
        bench.world.sim.fail_allocation_after(failed);
        let result = bench.space.fault(Fault::new(A, USER_WRITE));
        bench.world.sim.fail_never();
        match result {
            Ok(flush) => break assert_eq!(flush.complete(), Resolution::Mapped),
            Err(error) => assert!(matches!(error, SpaceError::OutOfFrames(_)), "{error}"),
        }
        failed += 1;
        assert!(bench.space.walk(at(A)).physical().is_none());
        assert_eq!((area.resident_pages(), bench.world.sim.frame_counts()), (0, before));
    }
    assert!(failed > 0);
    bench.store(A, 1).unwrap();
    unmap(&bench.space, A, 1);
    drop(area);
    assert_eq!(bench.pages(), 0);
    bench.end();
}

#[test]
fn fault_out_of_memory_reports() {
    let bench = Bench::new();
    let area = bench.world.open(1);
    map(&bench.space, &area, A, 0, 1);
    bench.world.sim.fail_allocation_after(0);
    for _ in 0..3 {
        match bench.touch(A, USER_WRITE) {
            Err(SpaceError::OutOfFrames(lacking)) => assert!(lacking.wanted >= 1, "{lacking}"),
            other => panic!("{other:?}"),
        }
    }
    bench.world.sim.fail_never();
    assert_eq!(bench.touch(A, USER_WRITE), Ok(()));
    drop(area);
    bench.end();
}

#[test]
fn fault_wrong_access_denied() {
    let bench = Bench::new();
    let area = bench.world.open(1);
    bench.space.map(&MapRequest::new(&area).at(A).access(Access::READ)).unwrap();
    // Before the page is present, and after.
    for _ in 0..2 {
        for access in [USER_WRITE, USER_EXECUTE] {
            match bench.touch(A, access) {
                Err(SpaceError::Denied { address, wanted, allowed }) => {
                    assert_eq!((address, wanted, allowed), (at(A), access, USER_READ));
                }
                other => panic!("{access}: {other:?}"),
            }
        }
        assert_eq!(bench.touch(A, USER_READ), Ok(()));
    }
    map(bench.world.kernel(), &area, KERNEL_START, 0, 1);
    store(&bench.world.sim, 0, bench.world.kernel(), KERNEL_START, 1).unwrap();
    assert!(matches!(
        touch(&bench.world.sim, 0, bench.world.kernel(), KERNEL_START, USER_READ),
        Err(SpaceError::Denied { .. })
    ));
    drop(area);
    bench.end();
}

#[test]
fn fault_spurious_is_harmless() {
    let bench = Bench::with_cpus(2);
    let area = bench.world.open(1);
    map(&bench.space, &area, A, 0, 1);
    let fault = Fault::new(A, USER_WRITE);
    assert_eq!(bench.space.fault(fault).unwrap().complete(), Resolution::Mapped);
    let frame = area.frame_at(0);
    let given_out = bench.world.sim.frame_counts();
    assert_eq!(bench.space.fault(fault).unwrap().complete(), Resolution::Spurious, "the other CPU was faster");
    assert_eq!((area.frame_at(0), bench.world.sim.frame_counts()), (frame, given_out));
    drop(area);
    bench.end();
}

#[test]
fn fresh_page_is_zero() {
    let bench = Bench::in_world(World::of(Sim::builder().frames(128)));
    for round in 0..4 {
        for kind in [AreaKind::Open { size: 64 * PAGE }, AreaKind::Untracked { size: 64 * PAGE }] {
            let area = common::area(&bench.world.sim, kind).unwrap();
            let mut request = MapRequest::new(&area).at(A);
            if round % 2 == 0 {
                request = request.populated();
            }
            bench.space.map(&request).unwrap();
            for page in 0..64 {
                for word in [0, 8, 0x7f8, 0xff8] {
                    assert_eq!(bench.load(A + page * PAGE + word).unwrap(), 0, "page {page} of {kind:?}");
                    bench.store(A + page * PAGE + word, u64::MAX).unwrap();
                }
            }
            unmap(&bench.space, A, 64);
        }
    }
    bench.end();
}

#[test]
fn neighbour_tables_survive_exit() {
    let bench = Bench::new();
    let (one, two) = (bench.world.open(1), bench.world.open(1));
    // Two neighbours below one leaf table: the tables that they share stay as long as one of them does.
    map(&bench.space, &one, A, 0, 1);
    map(&bench.space, &two, A + PAGE, 0, 1);
    bench.store(A, 1).unwrap();
    bench.store(A + PAGE, 2).unwrap();
    unmap(&bench.space, A, 1);
    assert_eq!(bench.load(A + PAGE).unwrap(), 2);
    // The kernel's half is one for all spaces: it survives the end of each.
    map(bench.world.kernel(), &one, KERNEL_START + PAGE, 0, 1);
    store(&bench.world.sim, 0, bench.world.kernel(), KERNEL_START + PAGE, 3).unwrap();
    let second = bench.world.user();
    bench.world.enter(0, &second);
    common::forget(0, &bench.space);
    assert_eq!(load(&bench.world.sim, 0, bench.world.kernel(), KERNEL_START + PAGE).unwrap(), 3);
    drop(bench.space);
    assert_eq!(bench.world.sim.read_u64(0, at(KERNEL_START + PAGE), false), Ok(3));
    // A table that the kernel gets later shows in spaces that were there before.
    let far = KERNEL_START + 0x20_0000_0000;
    map(bench.world.kernel(), &two, far, 0, 1);
    assert_eq!(load(&bench.world.sim, 0, bench.world.kernel(), far).unwrap(), 2);
    bench.world.leave(0, &second);
    drop((second, one, two));
    bench.world.finish();
}

#[test]
fn map_conflict_rolls_back() {
    let bench = Bench::new();
    let (small, large) = (bench.world.open(1), bench.world.open(1000));
    map(&bench.space, &small, A + 700 * PAGE, 0, 1);
    bench.store(A + 700 * PAGE, 700).unwrap();
    let (before, frames) = (bench.space.windows().count(), bench.world.sim.frame_counts());
    for request in [MapRequest::new(&large).at(A), MapRequest::new(&large).at(A).populated()] {
        let taken = bench.space.range(A + 700 * PAGE, PAGE).unwrap();
        assert_eq!(bench.space.map(&request), Err(SpaceError::Conflict(taken)));
        assert_eq!((bench.space.windows().count(), bench.world.sim.frame_counts()), (before, frames));
        assert_eq!((large.windows(), large.resident_pages()), (0, 0));
    }
    assert_eq!(bench.load(A + 700 * PAGE).unwrap(), 700);
    drop((small, large));
    bench.end();
}

#[test]
fn exec_is_enforced() {
    let bench = Bench::new();
    let area = bench.world.open(1);
    bench.space.map(&MapRequest::new(&area).at(A).access(Access::READ | Access::EXECUTE)).unwrap();
    map(&bench.space, &area, B, 0, 1);
    bench.store(B, 0x90).unwrap();
    assert_eq!(bench.touch(A, USER_EXECUTE), Ok(()));
    assert!(matches!(bench.touch(B, USER_EXECUTE), Err(SpaceError::Denied { .. })), "data");
    assert!(!bench.space.walk(at(B)).access().contains(Access::EXECUTE));
    assert!(bench.space.walk(at(A)).access().contains(Access::EXECUTE));
    drop(area);
    bench.end();
}

#[test]
fn absent_entry_holds_no_frame() {
    let bench = Bench::new();
    let area = bench.world.open(8);
    map(&bench.space, &area, A, 0, 8);
    bench.store(A + 3 * PAGE, 1).unwrap();
    unmap(&bench.space, A, 8);
    assert_eq!(bench.pages(), 1, "the page is the area's");
    let untracked = common::area(&bench.world.sim, AreaKind::Untracked { size: 8 * PAGE }).unwrap();
    map(&bench.space, &untracked, A, 0, 8);
    bench.store(A + 3 * PAGE, 1).unwrap();
    assert_eq!(bench.pages(), 2);
    unmap(&bench.space, A, 8);
    assert_eq!(bench.pages(), 1);
    assert_eq!(bench.world.sim.machine().counters().refused_frees, 0);
    drop((area, untracked));
    assert_eq!(bench.pages(), 0);
    bench.end();
}

#[test]
fn page_count_is_not_alignment() {
    let bench = Bench::new();
    for pages in [1, 2, 3, 5, 512, 513] {
        let area = bench.world.open(pages);
        let range = bench.space.map(&MapRequest::new(&area)).unwrap();
        assert_eq!((range.pages(12), range.start()), (pages, at(PAGE)), "the lowest gap, of just this size");
        bench.space.unmap(range).unwrap().complete();
    }
    let kind = |size| AreaKind::Open { size };
    for size in [0, 1, PAGE - 1, PAGE + 1, 1 << 60, u64::MAX, !0xfff] {
        assert!(matches!(Area::new(&bench.world.sim, kind(size), 0), Err(AreaError::Size(_))), "{size:#x}");
    }
    let largest = common::area(&bench.world.sim, kind((1 << 60) - PAGE)).unwrap();
    assert!(matches!(bench.space.map(&MapRequest::new(&largest)), Err(SpaceError::NoGap(_))));
    let request = MapRequest::new(&largest).offset((1 << 60) - 2 * PAGE);
    bench.space.map(&request.at(A)).unwrap();
    bench.store(A, 1).unwrap();
    for (offset, size) in [(0, 0), (1, PAGE), (PAGE, 1), (PAGE, u64::MAX), (!0xfff, PAGE), (u64::MAX, 1)] {
        let request = MapRequest::new(&largest).offset(offset).size(size).at(B);
        assert!(bench.space.map(&request).is_err(), "{offset:#x}+{size:#x}");
    }
    drop(largest);
    bench.end();
}

#[test]
fn framebuffer_not_aliased_write_through() {
    let framebuffer = FrameRange::new(Frame::new(0xfd000), 512).unwrap();
    let world = World::of(Sim::builder().frames(256).device(framebuffer));
    let machine = world.sim.machine();
    // The kernel's linear map has it write-through: the framebuffer is refused as write-combining.
    let around = FrameRange::new(Frame::new(0xfcf00), 0x400).unwrap();
    machine.register(&world.sim, around, MemoryType::WriteThrough).unwrap();
    let kind = AreaKind::Fixed { frames: framebuffer, memory: MemoryType::WriteCombining };
    match common::area(&world.sim, kind) {
        Err(AreaError::Registry(RegistryError::Conflict { memory, wanted, registered })) => {
            assert_eq!((memory, wanted), (MemoryType::WriteThrough, MemoryType::WriteCombining));
            assert_eq!(registered, around);
        }
        other => panic!("{other:?}"),
    }
    assert!(machine.unregister(&world.sim, around, MemoryType::WriteThrough));
    let area = common::area(&world.sim, kind).unwrap();
    let clash = machine.register(&world.sim, around, MemoryType::WriteBack);
    assert!(matches!(clash, Err(RegistryError::Conflict { .. })), "{clash:?}");
    let bench = Bench::in_world(world);
    bench.space.map(&MapRequest::new(&area).at(A)).unwrap();
    let translation = touch(&bench.world.sim, 0, &bench.space, A, USER_WRITE).unwrap();
    assert_eq!((translation.memory, translation.frame()), (MemoryType::WriteCombining, framebuffer.first()));
    drop(area);
    bench.end();
}

#[test]
fn stack_free_leaves_neighbour() {
    let bench = Bench::new();
    let layout = SectionLayout { pages: 3, guard: 1, count: 3 };
    let stacks = common::area(&bench.world.sim, AreaKind::Guarded(layout)).unwrap();
    map(bench.world.kernel(), &stacks, KERNEL_START, 0, 13);
    let taken: Vec<_> = (0..3).map(|_| stacks.take_section().unwrap()).collect();
    let kernel = bench.world.kernel();
    let words = |section: usize| {
        let first = KERNEL_START + taken[section].offset;
        [first, first + taken[section].size - 8]
    };
    for section in 0..3 {
        for address in words(section) {
            store(&bench.world.sim, 0, kernel, address, section as u64 + 1).unwrap();
        }
    }
    stacks.give_section(taken[1].number).unwrap().complete();
    bench.world.sim.check_translations();
    for section in [0, 2] {
        for address in words(section) {
            assert_eq!(bench.world.sim.read_u64(0, at(address), false), Ok(section as u64 + 1), "{address:#x}");
        }
    }
    for address in words(1) {
        assert!(touch(&bench.world.sim, 0, kernel, address, Access::READ).is_err());
    }
    assert_eq!(stacks.resident_pages(), 4);
    drop(stacks);
    bench.end();
}

/// A window of a fixed area of which a page was touched: the rest is populated all the same, with the tables it takes.
#[test]
fn populate_part_of_huge_page() {
    let frames = FrameRange::new(Frame::new(0x20_0000), 1024).unwrap();
    let bench = Bench::in_world(World::of(Sim::builder().frames(256).device(frames)));
    let area = common::area(&bench.world.sim, AreaKind::Fixed { frames, memory: MemoryType::WriteBack }).unwrap();
    let range = bench.space.map(&MapRequest::new(&area).at(A)).unwrap();
    bench.store(A + 5 * PAGE, 5).unwrap();
    bench.space.populate(range, Access::WRITE).unwrap().complete();
    for page in [0, 5, 511, 512, 1023] {
        bench.world.sim.write_u64(0, at(A + page * PAGE), true, page).unwrap();
        let expected = Frame::new(0x20_0000 + page);
        assert_eq!(bench.world.sim.access(0, at(A + page * PAGE), USER_READ).unwrap().frame(), expected);
    }
    drop(area);
    bench.end();
}

#[test]
fn unmap_part_of_huge_page() {
    let frames = FrameRange::new(Frame::new(0x20_0000), 1024).unwrap();
    let bench = Bench::in_world(World::of(Sim::builder().frames(256).device(frames)));
    let area = common::area(&bench.world.sim, AreaKind::Fixed { frames, memory: MemoryType::WriteBack }).unwrap();
    bench.space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    assert_eq!(bench.space.walk(at(A)).steps().count(), 3, "a 2 MiB leaf");
    bench.touch(A + 7 * PAGE, USER_WRITE).unwrap();
    unmap(&bench.space, A + 7 * PAGE, 1);
    bench.world.sim.check_translations();
    assert!(bench.touch(A + 7 * PAGE, USER_READ).is_err());
    for page in [0, 6, 8, 511, 512] {
        let translation = touch(&bench.world.sim, 0, &bench.space, A + page * PAGE, USER_WRITE).unwrap();
        assert_eq!(translation.frame(), Frame::new(0x20_0000 + page));
    }
    drop(area);
    bench.end();
}

#[test]
fn range_across_canonical_hole() {
    let bench = Bench::new();
    let mmu = bench.world.sim.machine().mmu();
    for (start, size) in [(0x7fff_ffff_f000, 2 * PAGE), (0x8000_0000_0000, PAGE), (0x7fff_ffff_f000, u64::MAX - 0xfff)]
    {
        assert!(mmu.range(start, size).is_err());
        assert!(bench.space.range(start, size).is_err());
    }
    for address in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63, u64::MAX] {
        let result = bench.space.fault(Fault::new(address, USER_READ));
        assert!(matches!(result, Err(SpaceError::NoWindow(_))), "{address:#x}");
    }
    bench.end();
}

/// Every row that `regressions.txt` marks with a place is a test by that name in the sources, and no row that waits is one
/// already.
#[test]
fn every_listed_row_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = Vec::new();
    rust_files(root, &mut sources);
    let texts: Vec<String> = sources.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let is_test = |name: &str| {
        let (function, quoted) = (format!("fn {name}("), format!("\"{name}\""));
        texts.iter().any(|text| text.contains(&function) || text.contains(&quoted))
    };
    let (mut rows, mut wrong, mut seen) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    for line in include_str!("regressions.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, place) = line.split_once(char::is_whitespace).expect("a name and where it is");
        assert!(seen.insert(name), "{name} is listed twice");
        let waits = place.trim().starts_with("waits");
        *rows.entry(waits).or_insert(0) += 1;
        if is_test(name) == waits {
            wrong.push(format!("{name}: listed as {:?}, in the sources: {}", place.trim(), is_test(name)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows[&false] >= 50, "the list shrank: {rows:?}");
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                rust_files(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}
