//! Paged areas, case by case: requests and answers, dirty pages and their write-back, eviction. Random operations are in `paged_model.rs`.

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, at, load, map, store};
use vmcore::Platform;
use vmcore::addr::Frame;
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, DetachedFlush, Flush, RiscV64, X86_64};
use vmcore::sim::{Sim, SimFormat};
use vmcore::vm_area::{
    Area, AreaError, AreaKind, Evicted, PageBuffer, PageRequest, PageState, PageWait, RequestToken, Rights,
};
use vmcore::vm_space::{Fault, MapRequest, Resolution, Space, SpaceError};

const A: u64 = 0x40_0000;
const KEY: u64 = 77;

fn paged(world: &World, pages: u64) -> Area<Sim> {
    Area::new(&world.sim, AreaKind::Paged { size: pages * PAGE, key: KEY }, 0).unwrap()
}

/// A world with two CPUs in one space, which shows a paged area of 4 pages at `A`. Flushes arrive when the test says so.
fn scene() -> (World, Space<Sim>, Area<Sim>) {
    let world = World::new(2);
    let space = world.user();
    world.enter(0, &space);
    world.enter(1, &space);
    let area = paged(&world, 4);
    map(&space, &area, A, 0, 4);
    world.sim.hold_flushes(true);
    (world, space, area)
}

fn end(world: World, space: Space<Sim>, area: Area<Sim>) {
    world.sim.hold_flushes(false);
    world.sim.check_translations();
    world.leave(0, &space);
    world.leave(1, &space);
    drop(area);
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    world.finish();
}

fn acknowledge<T>(world: &World, flush: DetachedFlush<Sim, T>) -> T {
    world.sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() }
}

/// What the fault of an access is resolved as.
fn fault(space: &Space<Sim>, address: u64, access: Access) -> Result<Resolution, SpaceError> {
    space.fault(Fault::new(address, access)).map(Flush::complete)
}

fn requested(space: &Space<Sim>, address: u64, access: Access) -> PageRequest {
    match fault(space, address, access) {
        Ok(Resolution::Request(request)) => request,
        other => panic!("{other:?} instead of a request"),
    }
}

/// A page full of one byte.
fn page_of(byte: u8) -> Vec<u8> {
    vec![byte; PAGE as usize]
}

/// Supplies every page of the area, each filled with its number and `base`.
fn supply_all(area: &Area<Sim>, base: u8) {
    while let Some(request) = area.request(0, area.size()).unwrap() {
        for page in 0..request.size / PAGE {
            let offset = request.offset + page * PAGE;
            area.supply(request.token, offset, &page_of(base + (offset / PAGE) as u8)).unwrap();
        }
    }
}

fn pages(world: &World) -> u64 {
    world.sim.frame_counts().of(FrameUse::Page)
}

fn byte_at(area: &Area<Sim>, offset: u64) -> u8 {
    let mut byte = [0];
    area.read(offset, &mut byte).unwrap();
    byte[0]
}

#[test]
fn a_fault_is_a_request_once_and_others_join() {
    let (world, space, area) = scene();
    let other = world.user();
    map(&other, &area, 0x90_0000, 0, 4);
    let request = requested(&space, A + PAGE + 5, USER_WRITE);
    assert_eq!((request.key, request.offset, request.size, request.write), (KEY, PAGE, PAGE, true));
    assert_eq!(area.page_state(PAGE), Some(PageState::Requested(request.token)));
    assert_eq!(fault(&space, A + PAGE, USER_READ), Ok(Resolution::Wait(request.token)));
    assert_eq!(fault(&other, 0x90_1000, USER_READ), Ok(Resolution::Wait(request.token)));
    assert_eq!(area.frame_at(PAGE), None);
    assert_eq!(space.frame_at(at(A + PAGE)), None);
    assert_eq!((area.resident_pages(), space.window_after(at(0)).unwrap().resident_pages), (0, 0));
    // Another page is another request.
    let second = requested(&space, A, USER_READ);
    assert!(!second.write && second.token != request.token);
    assert_eq!(area.supply(request.token, PAGE, b"some bytes of a file"), Ok(1));
    assert!(world.sim.read_u64(0, at(A + PAGE), true).is_err(), "it is mapped by a fault");
    assert_eq!(load(&world.sim, 0, &space, A + PAGE).unwrap(), u64::from_ne_bytes(*b"some byt"));
    assert_eq!(load(&world.sim, 1, &space, A + PAGE + 24).unwrap(), 0, "zeros behind the end of what was supplied");
    assert_eq!(area.page_state(PAGE), Some(PageState::Clean));
    assert_eq!((area.resident_pages(), space.window_after(at(0)).unwrap().resident_pages), (1, 1));
    assert!(matches!(area.kind(), AreaKind::Paged { key: KEY, .. }));
    drop(other);
    end(world, space, area);
}

#[test]
fn a_request_takes_no_frames_and_no_tables() {
    let (world, space, area) = scene();
    let before = world.sim.frame_counts();
    requested(&space, A, USER_READ);
    let after = world.sim.frame_counts();
    assert_eq!(
        (before.of(FrameUse::Page), before.of(FrameUse::Table)),
        (after.of(FrameUse::Page), after.of(FrameUse::Table))
    );
    end(world, space, area);
}

#[test]
fn the_kernel_waits_as_programs_do() {
    let world = World::new(1);
    let area = paged(&world, 2);
    let range = world.kernel().map(&MapRequest::new(&area)).unwrap();
    let start = range.start().as_u64();
    let request = requested(world.kernel(), start, Access::READ);
    assert_eq!(fault(world.kernel(), start, Access::WRITE), Ok(Resolution::Wait(request.token)));
    area.supply(request.token, 0, &page_of(3)).unwrap();
    assert_eq!(load(&world.sim, 0, world.kernel(), start).unwrap(), 0x0303_0303_0303_0303);
    world.kernel().unmap(range).unwrap().complete();
    drop(area);
    world.finish();
}

#[test]
fn pages_ahead_are_asked_for_as_far_as_they_are_absent() {
    let world = World::new(1);
    let space = world.user();
    let area = paged(&world, 16);
    map(&space, &area, A, 0, 16);
    let one = area.request(5 * PAGE, 1).unwrap().unwrap();
    area.set_read_ahead(8).unwrap();
    let two = requested(&space, A + 2 * PAGE, USER_READ);
    assert_eq!((two.offset, two.size), (2 * PAGE, 3 * PAGE), "up to the page that was asked for before");
    let three = requested(&space, A + 12 * PAGE, USER_READ);
    assert_eq!((three.offset, three.size), (12 * PAGE, 4 * PAGE), "up to the end of the area");
    assert_eq!(fault(&space, A + 4 * PAGE, USER_READ), Ok(Resolution::Wait(two.token)), "asked for ahead");
    // In pieces, the last first; what is left is cancelled, and asked for again.
    area.supply(two.token, 4 * PAGE, &page_of(4)).unwrap();
    area.supply(two.token, 3 * PAGE, &page_of(3)).unwrap();
    assert_eq!(area.cancel(two.token, 0, u64::MAX), Ok(1));
    assert_eq!(area.page_state(2 * PAGE), Some(PageState::Absent));
    assert_eq!(requested(&space, A + 2 * PAGE, USER_READ).size, PAGE);
    // An answer for more than was asked for: the rest is left as it is.
    assert_eq!(area.supply(one.token, 5 * PAGE, &[page_of(5), page_of(99)].concat()), Ok(1));
    assert_eq!(area.page_state(6 * PAGE), Some(PageState::Absent));
    let asked = area.request(0, u64::MAX).unwrap().unwrap();
    assert_eq!((asked.offset, asked.size), (0, 2 * PAGE));
    assert_eq!(byte_at(&area, 3 * PAGE), 3);
    drop(area);
    drop(space);
    world.finish();
}

#[test]
fn pages_are_supplied_by_whoever_fills_their_frames() {
    let (world, space, area) = scene();
    let request = area.request(0, 3 * PAGE).unwrap().unwrap();
    area.cancel(request.token, PAGE, PAGE).unwrap();
    let before = pages(&world);
    let mut filled = PageBuffer::new(&world.sim, 3).unwrap();
    let frames: Vec<Frame> = filled.frames().collect();
    for (number, frame) in frames.iter().enumerate() {
        world.sim.set_physical_word(*frame, 0, 100 + number as u64);
    }
    filled.write(2 * PAGE - 4, &[7; 8]).unwrap();
    assert!(matches!(filled.write(3 * PAGE - 4, &[7; 8]), Err(AreaError::Outside { .. })));
    assert_eq!(area.supply_pages(request.token, 0, filled), Ok(2));
    assert_eq!([0, 1, 2].map(|page| area.frame_at(page * PAGE)), [Some(frames[0]), None, Some(frames[2])]);
    assert_eq!(pages(&world), before + 2, "the frame that was not needed is free again");
    assert_eq!(load(&world.sim, 0, &space, A).unwrap(), 100);
    assert_eq!(load(&world.sim, 0, &space, A + 2 * PAGE).unwrap(), 0x0707_0707, "the later bytes win");
    // Dropped, and refused: nothing is lost either way.
    drop(PageBuffer::new(&world.sim, 5).unwrap());
    let refused = PageBuffer::new(&world.sim, 1).unwrap();
    assert_eq!(area.supply_pages(request.token, 0, refused), Err(AreaError::Stale(request.token)));
    let elsewhere = World::new(1);
    let foreign = PageBuffer::new(&elsewhere.sim, 1).unwrap();
    assert_eq!(area.supply_pages(request.token, 0, foreign), Err(AreaError::Kind));
    assert_eq!(pages(&world), before + 2);
    elsewhere.finish();
    end(world, space, area);
}

#[test]
fn a_failure_stays_until_it_is_retried() {
    let (world, space, area) = scene();
    area.set_read_ahead(2).unwrap();
    let request = requested(&space, A, USER_READ);
    assert_eq!(area.fail(request.token, 0, PAGE), Ok(1));
    for _ in 0..2 {
        assert_eq!(fault(&space, A + 8, USER_READ), Err(SpaceError::Failed(at(A + 8))));
        assert_eq!(area.read(8, &mut [0]), Err(AreaError::Failed(0)));
    }
    assert_eq!(area.page_state(0), Some(PageState::Failed));
    assert_eq!(fault(&space, A + PAGE, USER_READ), Ok(Resolution::Wait(request.token)), "its neighbour may come yet");
    assert_eq!(area.supply(request.token, 0, &page_of(1)), Err(AreaError::Stale(request.token)), "too late");
    assert_eq!(area.retry(0, 4 * PAGE), Ok(1));
    assert_eq!(area.retry(0, 4 * PAGE), Ok(0));
    let again = requested(&space, A, USER_READ);
    assert_eq!(again.size, PAGE);
    area.supply(again.token, 0, &page_of(1)).unwrap();
    assert_eq!(load(&world.sim, 0, &space, A).unwrap(), 0x0101_0101_0101_0101);
    end(world, space, area);
}

/// Every way in which a request can lose its pages before the answer comes.
#[test]
fn a_late_answer_is_refused_and_leaks_nothing() {
    type Lose = fn(&World, &Area<Sim>, PageRequest);
    let ways: [(&str, Lose); 4] = [
        ("truncated", |_, area, _| area.resize(PAGE).unwrap().complete()),
        ("truncated and grown again", |_, area, _| {
            area.resize(PAGE).unwrap().complete();
            area.resize(4 * PAGE).unwrap().complete();
        }),
        ("truncated, grown and asked for again", |_, area, request| {
            area.resize(PAGE).unwrap().complete();
            area.resize(4 * PAGE).unwrap().complete();
            let again = area.request(0, 4 * PAGE).unwrap().unwrap();
            assert_eq!((again.offset, again.size), (0, 4 * PAGE));
            assert_ne!(again.token, request.token);
        }),
        ("cancelled", |_, area, request| assert_eq!(area.cancel(request.token, 0, 4 * PAGE), Ok(2))),
    ];
    for (way, lose) in ways {
        let (world, space, area) = scene();
        area.set_read_ahead(2).unwrap();
        let request = requested(&space, A + 2 * PAGE, USER_READ);
        lose(&world, &area, request);
        let before = world.sim.frame_counts();
        let states: Vec<_> = (0..4).map(|page| area.page_state(page * PAGE)).collect();
        let stale = Err(AreaError::Stale(request.token));
        assert_eq!(area.supply(request.token, request.offset, &page_of(1)), stale, "{way}");
        let filled = PageBuffer::new(&world.sim, 2).unwrap();
        assert_eq!(area.supply_pages(request.token, request.offset, filled), stale, "{way}");
        assert_eq!(area.fail(request.token, request.offset, request.size), stale, "{way}");
        assert_eq!(area.cancel(request.token, request.offset, request.size), stale, "{way}");
        assert_eq!(world.sim.frame_counts(), before, "{way}");
        assert_eq!((0..4).map(|page| area.page_state(page * PAGE)).collect::<Vec<_>>(), states, "{way}");
        end(world, space, area);
    }
}

#[test]
fn a_truncation_in_the_middle_of_a_request_leaves_its_first_part() {
    let (world, space, area) = scene();
    let request = area.request(0, 4 * PAGE).unwrap().unwrap();
    area.resize(2 * PAGE).unwrap().complete();
    assert_eq!(area.supply(request.token, 0, &vec![9; 4 * PAGE as usize]), Ok(2));
    assert_eq!((area.resident_pages(), area.page_state(2 * PAGE)), (2, None));
    assert_eq!(fault(&space, A + 2 * PAGE, USER_READ), Err(SpaceError::OutsideArea(at(A + 2 * PAGE))));
    end(world, space, area);
}

#[test]
fn requests_are_the_areas_and_survive_windows_and_spaces() {
    let (world, space, area) = scene();
    let other = world.user();
    map(&other, &area, A, 0, 4);
    let (one, two) = (requested(&space, A, USER_READ), requested(&other, A + PAGE, USER_READ));
    let unmapped = space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach();
    assert_eq!(area.supply(one.token, 0, &page_of(1)), Ok(1), "while the window waits for its flush");
    acknowledge(&world, unmapped);
    other.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(area.supply(two.token, PAGE, &page_of(2)), Ok(1));
    assert!(matches!(fault(&space, A, USER_READ), Err(SpaceError::NoWindow(_))), "who waited is told");
    assert_eq!((byte_at(&area, 0), byte_at(&area, PAGE)), (1, 2));
    end(world, space, area);
}

#[test]
fn an_area_ends_with_requests_outstanding() {
    let world = World::new(1);
    let space = world.user();
    let area = paged(&world, 200);
    area.set_read_ahead(64).unwrap();
    map(&space, &area, A, 0, 200);
    requested(&space, A, USER_READ);
    let request = requested(&space, A + 100 * PAGE, USER_READ);
    area.fail(request.token, 110 * PAGE, PAGE).unwrap();
    // The last handle goes, then the window.
    drop(area);
    assert_eq!(fault(&space, A, USER_READ), Ok(Resolution::Wait(RequestToken(1))));
    drop(space);
    world.finish();
}

#[test]
fn populating_goes_as_far_as_there_are_pages() {
    let (world, space, area) = scene();
    let range = space.range(A, 4 * PAGE).unwrap();
    let request = area.request(0, PAGE).unwrap().unwrap();
    area.supply(request.token, 0, &page_of(1)).unwrap();
    let Err(SpaceError::Awaits { address, wait: PageWait::Request(request) }) = space.populate(range, Access::READ)
    else {
        panic!("three pages are missing");
    };
    assert_eq!((address, request.offset, request.size), (at(A + PAGE), PAGE, 3 * PAGE), "all that it needs at once");
    assert!(world.sim.access(0, at(A), USER_READ).is_ok(), "what lies before is present");
    let wait = PageWait::Wait(request.token);
    assert_eq!(space.populate(range, Access::READ).map(Flush::complete), Err(SpaceError::Awaits { address, wait }));
    area.supply(request.token, PAGE, &page_of(2)).unwrap();
    area.fail(request.token, 2 * PAGE, PAGE).unwrap();
    assert_eq!(space.populate(range, Access::WRITE).map(Flush::complete), Err(SpaceError::Failed(at(A + 2 * PAGE))));
    assert!(world.sim.access(0, at(A + PAGE), USER_WRITE).is_ok(), "present, for writing");
    area.supply(request.token, 3 * PAGE, &page_of(4)).unwrap();
    area.retry(0, 4 * PAGE).unwrap();
    let Err(SpaceError::Awaits { wait: PageWait::Request(request), .. }) = space.populate(range, Access::READ) else {
        panic!("a page is missing");
    };
    assert_eq!((request.offset, request.size), (2 * PAGE, PAGE));
    area.supply(request.token, 2 * PAGE, &page_of(3)).unwrap();
    assert_eq!(space.populate(range, Access::READ).map(Flush::complete), Ok(()));
    for page in 0..4 {
        assert_eq!(world.sim.read_u64(1, at(A + page * PAGE), true).unwrap() & 0xff, page + 1);
    }
    end(world, space, area);
}

#[test]
fn a_range_of_several_windows_is_populated_up_to_the_page_that_is_missing() {
    let (world, space, area) = scene();
    let open = world.open(2);
    map(&space, &open, A - 2 * PAGE, 0, 2);
    map(&space, &open, A + 4 * PAGE, 0, 2);
    let range = space.range(A - 2 * PAGE, 8 * PAGE).unwrap();
    let Err(SpaceError::Awaits { address, wait: PageWait::Request(request) }) = space.populate(range, Access::WRITE)
    else {
        panic!("the middle is missing");
    };
    assert_eq!((address, request.size), (at(A), 4 * PAGE));
    assert!(world.sim.access(0, at(A - PAGE), USER_WRITE).is_ok());
    assert!(world.sim.access(0, at(A + 4 * PAGE), USER_WRITE).is_err());
    area.supply(request.token, 0, &vec![5; 4 * PAGE as usize]).unwrap();
    assert_eq!(space.populate(range, Access::WRITE).map(Flush::complete), Ok(()));
    assert!((0..8).all(|page| world.sim.access(0, at(A + page * PAGE - 2 * PAGE), USER_WRITE).is_ok()));
    drop(open);
    end(world, space, area);
}

#[test]
fn a_populated_window_shows_what_is_resident_and_asks_for_nothing() {
    let (world, space, area) = scene();
    let request = area.request(PAGE, PAGE).unwrap().unwrap();
    area.supply(request.token, PAGE, &page_of(8)).unwrap();
    let range = space.map(&MapRequest::new(&area).at(0x80_0000).access(Access::READ).populated()).unwrap();
    assert!(world.sim.access(0, at(0x80_1000), USER_READ).is_ok());
    assert!(world.sim.access(0, at(0x80_0000), USER_READ).is_err());
    assert_eq!(area.page_state(0), Some(PageState::Absent));
    acknowledge(&world, space.unmap(range).unwrap().detach());
    end(world, space, area);
}

#[test]
fn contents_that_are_not_there_are_asked_for() {
    let (world, space, area) = scene();
    let bytes = [1; 2 * PAGE as usize];
    let Err(AreaError::Awaits(PageWait::Request(request))) = area.write(PAGE + 8, &bytes) else { panic!("not there") };
    assert_eq!((request.offset, request.size), (PAGE, 3 * PAGE));
    let wait = Err(AreaError::Awaits(PageWait::Wait(request.token)));
    assert_eq!(area.write(PAGE + 8, &bytes).map(Flush::complete), wait);
    area.supply(request.token, PAGE, &page_of(5)).unwrap();
    assert_eq!(area.read(PAGE, &mut [0; 2 * PAGE as usize]), wait);
    assert_eq!((byte_at(&area, PAGE + 8), area.page_state(PAGE)), (5, Some(PageState::Clean)), "nothing was written");
    area.supply(request.token, 2 * PAGE, &vec![6; 2 * PAGE as usize]).unwrap();
    assert_eq!(area.write(PAGE + 8, &bytes).map(Flush::complete), Ok(()));
    assert_eq!([PAGE + 7, PAGE + 8, 3 * PAGE + 7, 3 * PAGE + 8].map(|offset| byte_at(&area, offset)), [5, 1, 1, 6]);
    assert_eq!(area.page_state(3 * PAGE), Some(PageState::Dirty));
    end(world, space, area);
}

#[test]
fn the_first_write_makes_a_page_dirty_and_is_seen() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    load(&world.sim, 0, &space, A).unwrap();
    assert!(world.sim.access(0, at(A), USER_WRITE).is_err(), "a clean page is read-only");
    assert_eq!(area.next_dirty(0), Ok(None));
    store(&world.sim, 0, &space, A + 2 * PAGE, 5).unwrap();
    area.write(3 * PAGE, &[1]).unwrap().complete();
    assert_eq!(area.next_dirty(0), Ok(Some(2 * PAGE)));
    assert_eq!(area.next_dirty(2 * PAGE + 1), Ok(Some(2 * PAGE)), "the page that it lies in");
    assert_eq!(area.next_dirty(3 * PAGE), Ok(Some(3 * PAGE)));
    assert_eq!(area.next_dirty(4 * PAGE), Ok(None));
    end(world, space, area);
}

/// What goes wrong elsewhere: a page is written back while another CPU may still write to it.
#[test]
fn write_back_waits_for_stale_writers() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    store(&world.sim, 1, &space, A, 10).unwrap();
    let flush = area.begin_write_back(0, area.size()).unwrap().unwrap().detach();
    assert!(!flush.request().scope.is_empty());
    assert_eq!(area.page_state(0), Some(PageState::WritingBack { dirty: false }));
    // CPU 1 has not heard of it, and writes without a fault.
    world.sim.write_u64(1, at(A), true, 11).unwrap();
    let pages = acknowledge(&world, flush);
    let mut word = [0; 8];
    pages.read(0, &mut word).unwrap();
    assert_eq!(u64::from_ne_bytes(word), 11, "what was written before the flush is in what is written back");
    assert!(world.sim.write_u64(1, at(A), true, 12).is_err(), "and what is written after it is seen");
    store(&world.sim, 1, &space, A, 12).unwrap();
    assert_eq!(area.page_state(0), Some(PageState::WritingBack { dirty: true }));
    assert!(area.begin_write_back(0, area.size()).unwrap().is_none(), "not twice at once");
    assert_eq!(area.next_dirty(0), Ok(None));
    pages.written();
    assert_eq!(area.page_state(0), Some(PageState::Dirty), "written to since");
    let pages = acknowledge(&world, area.begin_write_back(0, area.size()).unwrap().unwrap().detach());
    pages.written();
    assert_eq!(area.page_state(0), Some(PageState::Clean));
    assert!(world.sim.write_u64(1, at(A), true, 13).is_err());
    end(world, space, area);
}

#[test]
fn write_back_reaches_windows_that_wait_for_their_flush() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    store(&world.sim, 1, &space, A, 10).unwrap();
    let unmapped = space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach();
    let flush = area.begin_write_back(0, PAGE).unwrap().unwrap().detach();
    // The tables show nothing any more, yet CPU 1 can write.
    world.sim.write_u64(1, at(A), true, 11).unwrap();
    let pages = acknowledge(&world, flush);
    assert!(world.sim.write_u64(1, at(A), true, 12).is_err());
    let mut word = [0; 8];
    pages.read(0, &mut word).unwrap();
    assert_eq!(u64::from_ne_bytes(word), 11);
    pages.written();
    acknowledge(&world, unmapped);
    end(world, space, area);
}

#[test]
fn a_write_back_that_is_dropped_leaves_its_pages_dirty() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    area.write(0, &[9; 2 * PAGE as usize]).unwrap().complete();
    let pages = acknowledge(&world, area.begin_write_back(0, PAGE).unwrap().unwrap().detach());
    assert_eq!(
        (pages.offset(), pages.size(), pages.frames().collect::<Vec<_>>()),
        (0, PAGE, vec![area.frame_at(0).unwrap()])
    );
    assert!(matches!(pages.read(PAGE - 1, &mut [0; 2]), Err(AreaError::Outside { .. })));
    drop(pages);
    assert_eq!(area.page_state(0), Some(PageState::Dirty));
    // Nor does a flush that nobody carried out: CPU 1 may still write, and the page is dirty for that.
    store(&world.sim, 1, &space, A + PAGE, 3).unwrap();
    drop(area.begin_write_back(0, area.size()).unwrap().unwrap());
    assert_eq!((area.page_state(0), area.page_state(PAGE)), (Some(PageState::Dirty), Some(PageState::Dirty)));
    world.sim.write_u64(1, at(A + PAGE), true, 4).unwrap();
    let pages = acknowledge(&world, area.begin_write_back(0, area.size()).unwrap().unwrap().detach());
    assert_eq!(pages.size(), 2 * PAGE);
    pages.written();
    assert_eq!(area.next_dirty(0), Ok(None));
    end(world, space, area);
}

#[test]
fn what_is_cut_off_during_its_write_back_keeps_its_contents_there() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    store(&world.sim, 1, &space, A + 3 * PAGE, 10).unwrap();
    let before = pages(&world);
    let written = acknowledge(&world, area.begin_write_back(0, area.size()).unwrap().unwrap().detach());
    acknowledge(&world, area.resize(2 * PAGE).unwrap().detach());
    assert_eq!(pages(&world), before - 1, "the other one is held");
    area.resize(4 * PAGE).unwrap().complete();
    supply_all(&area, 50);
    store(&world.sim, 1, &space, A + 3 * PAGE, 20).unwrap();
    let mut word = [0; 8];
    written.read(0, &mut word).unwrap();
    assert_eq!(u64::from_ne_bytes(word), 10);
    let again = acknowledge(&world, area.begin_write_back(0, area.size()).unwrap().unwrap().detach());
    written.written();
    assert_eq!(area.page_state(3 * PAGE), Some(PageState::WritingBack { dirty: false }), "another page's");
    assert_eq!(pages(&world), before);
    // The area goes while a write-back is under way.
    let mut word = [0; 8];
    again.read(0, &mut word).unwrap();
    assert_eq!(u64::from_ne_bytes(word), 20);
    let open = world.open(1);
    acknowledge(&world, space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach());
    drop(area);
    again.written();
    end(world, space, open);
}

#[test]
fn several_runs_are_flushed_at_once() {
    let world = World::new(1);
    let space = world.user();
    let area = paged(&world, 100);
    map(&space, &area, A, 0, 100);
    supply_all(&area, 0);
    area.write(0, &vec![1; 70 * PAGE as usize]).unwrap().complete();
    let first = area.begin_write_back(0, area.size()).unwrap().unwrap();
    let second = area.begin_write_back(0, area.size()).unwrap().unwrap();
    let (first, second) = first.and(second).complete();
    assert_eq!((first.offset(), first.size()), (0, 32 * PAGE));
    assert_eq!((second.offset(), second.size()), (32 * PAGE, 32 * PAGE));
    let mut bytes = vec![0; 2 * PAGE as usize];
    second.read(31 * PAGE - 1, &mut bytes[..PAGE as usize + 1]).unwrap();
    assert!(bytes[..PAGE as usize + 1].iter().all(|byte| *byte == 1));
    first.written();
    drop(second);
    assert_eq!(area.next_dirty(0), Ok(Some(32 * PAGE)));
    drop(area);
    drop(space);
    world.finish();
}

#[test]
fn evicted_pages_are_free_after_the_flush_and_requested_again() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    for page in 0..4 {
        load(&world.sim, 1, &space, A + page * PAGE).unwrap();
    }
    store(&world.sim, 1, &space, A + PAGE, 7).unwrap();
    let before = pages(&world);
    let flush = area.evict(0, area.size()).unwrap().detach();
    assert_eq!(area.page_state(0), Some(PageState::Evicting));
    assert!(matches!(area.evict(0, PAGE), Err(AreaError::Retry)), "one at a time");
    assert_eq!(world.sim.read_u64(1, at(A), true), Ok(0x0101_0101_0101_0101), "CPU 1 has not heard of it");
    // CPU 0 wants a page in between: it stays.
    assert_eq!(load(&world.sim, 0, &space, A + 2 * PAGE).unwrap() & 0xff, 3);
    assert_eq!(area.page_state(2 * PAGE), Some(PageState::Clean));
    assert_eq!(pages(&world), before);
    let evicted = acknowledge(&world, flush);
    assert_eq!((evicted.pages, evicted.dirty, evicted.pinned), (3, 1, 0));
    assert_eq!(pages(&world), before - 2);
    assert_eq!(area.resident_pages(), 2);
    assert_eq!(world.sim.read_u64(0, at(A + 2 * PAGE), true).map(|word| word & 0xff), Ok(3));
    let request = requested(&space, A, USER_READ);
    area.supply(request.token, 0, &page_of(31)).unwrap();
    assert_eq!(load(&world.sim, 1, &space, A).unwrap() & 0xff, 31, "what the pager says now");
    end(world, space, area);
}

#[test]
fn an_eviction_that_is_dropped_loses_nothing() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    load(&world.sim, 1, &space, A).unwrap();
    drop(area.evict(0, area.size()).unwrap());
    assert_eq!(world.sim.machine().counters().dropped_flushes, 1);
    assert_eq!((area.page_state(0), area.resident_pages()), (Some(PageState::Evicting), 4));
    assert_eq!((byte_at(&area, 0), byte_at(&area, 3 * PAGE)), (1, 4));
    assert_eq!(area.page_state(0), Some(PageState::Clean));
    assert!(matches!(area.evict(0, PAGE), Err(AreaError::Retry)), "it never ends");
}

#[test]
fn an_eviction_goes_with_truncation_unmap_and_the_end_of_the_area() {
    let (world, space, area) = scene();
    supply_all(&area, 1);
    for page in 0..4 {
        load(&world.sim, 1, &space, A + page * PAGE).unwrap();
    }
    let before = pages(&world);
    let evicted = area.evict(0, area.size()).unwrap().detach();
    // Truncated meanwhile: the eviction's pages may be remembered still, so the truncation asks for their flush too.
    let cut = area.resize(2 * PAGE).unwrap().detach();
    assert!(matches!(area.resize(4 * PAGE), Err(AreaError::Retry)));
    acknowledge(&world, cut);
    assert_eq!(pages(&world), before - 2);
    assert!(world.sim.access(1, at(A + 3 * PAGE), USER_READ).is_err());
    assert!(matches!(area.resize(4 * PAGE), Err(AreaError::Retry)), "the eviction is outstanding still");
    // Unmapped meanwhile: its addresses are not free before CPU 1 has forgotten the evicted pages.
    let unmapped = space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach();
    acknowledge(&world, unmapped);
    assert!(world.sim.access(1, at(A), USER_READ).is_err());
    // And the last handle goes: the flush holds the area.
    drop(area);
    assert_eq!(pages(&world), before - 2);
    acknowledge(&world, evicted);
    assert_eq!(pages(&world), before - 4);
    let open = world.open(1);
    end(world, space, open);
}

#[test]
fn what_is_not_paged_or_not_allowed_is_refused() {
    let (world, space, area) = scene();
    let open = world.open(4);
    let token = RequestToken(1);
    let buffer = || PageBuffer::new(&world.sim, 1).unwrap();
    let weak = area.handle(Rights::all().difference(Rights::SUPPLY)).unwrap();
    for (area, error) in [(&open, AreaError::Kind), (&weak, AreaError::Rights(Rights::SUPPLY))] {
        assert_eq!(area.request(0, PAGE), Err(error));
        assert_eq!(area.supply(token, 0, &[1]), Err(error));
        assert_eq!(area.supply_pages(token, 0, buffer()), Err(error));
        assert_eq!(area.fail(token, 0, 1), Err(error));
        assert_eq!(area.cancel(token, 0, 1), Err(error));
        assert_eq!(area.retry(0, 1), Err(error));
        assert_eq!(area.set_read_ahead(1), Err(error));
        assert_eq!(area.next_dirty(0), Err(error));
        assert_eq!(area.begin_write_back(0, 1).map(drop), Err(error));
        assert_eq!(area.evict(0, 1).map(drop), Err(error));
    }
    let request = area.request(0, PAGE).unwrap().unwrap();
    for offset in [1, PAGE - 1, PAGE + 8] {
        assert_eq!(area.supply(request.token, offset, &[1]), Err(AreaError::Unaligned(offset)));
        assert_eq!(area.supply_pages(request.token, offset, buffer()), Err(AreaError::Unaligned(offset)));
    }
    let last = u64::MAX - (PAGE - 1);
    let stale = Err(AreaError::Stale(request.token));
    assert_eq!(area.supply(request.token, last, &[1; 2 * PAGE as usize]), stale);
    assert_eq!(area.supply(request.token, 0, &[]), stale);
    assert_eq!(area.fail(request.token, last, u64::MAX), stale);
    assert_eq!(area.fail(request.token, 0, 0), stale);
    assert_eq!(area.request(u64::MAX, u64::MAX), Ok(None));
    assert_eq!(area.request(0, 0), Ok(None));
    assert_eq!(area.retry(u64::MAX, u64::MAX), Ok(0));
    assert_eq!((area.page_state(u64::MAX), area.next_dirty(u64::MAX)), (None, Ok(None)));
    assert!(area.begin_write_back(u64::MAX, u64::MAX).unwrap().is_none());
    assert_eq!(area.evict(u64::MAX, u64::MAX).unwrap().complete(), Evicted::default());
    assert_eq!(Area::new(&world.sim, AreaKind::Paged { size: 5, key: 0 }, 0).map(drop), Err(AreaError::Size(5)));
    assert_eq!(area.page_state(0), Some(PageState::Requested(request.token)), "nothing of it was taken for an answer");
    for text in [
        AreaError::Awaits(PageWait::Request(request)),
        AreaError::Awaits(PageWait::Wait(token)),
        AreaError::Stale(token),
    ] {
        assert!(text.to_string().contains("request 1"), "{text}");
    }
    drop((open, weak));
    end(world, space, area);
}

/// A program's access on one CPU; requests are answered at once with pages full of nines.
fn reach<M: SimFormat>(sim: &Sim<M>, space: &Space<Sim<M>>, area: &Area<Sim<M>>, address: u64, access: Access) {
    for _ in 0..5 {
        let Err(fault) = sim.access(0, at(address), access) else { return };
        match space.fault(Fault::new(fault.address.as_u64(), fault.access)).unwrap().complete() {
            Resolution::Request(request) => {
                area.supply(request.token, request.offset, &page_of(9)).unwrap();
            }
            Resolution::Wait(token) => panic!("{token:?} was answered"),
            _ => {}
        }
    }
    panic!("the fault at {address:#x} repeats");
}

fn a_page_lives_and_goes<M: SimFormat>(mmu: M, kernel: u64) {
    let sim = Sim::of(mmu).frames(512).build();
    let start = sim.frame_counts();
    let bounds = sim.machine().mmu().range(kernel, 1 << 30).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    sim.activate(0, &space.activate(0));
    let area = Area::new(&sim, AreaKind::Paged { size: 4 * PAGE, key: KEY }, 0).unwrap();
    space.map(&MapRequest::new(&area).at(A).access(Access::KERNEL_DATA)).unwrap();
    for page in 0..4 {
        reach(&sim, &space, &area, A + page * PAGE, USER_READ);
        reach(&sim, &space, &area, A + page * PAGE, USER_WRITE);
        sim.write_u64(0, at(A + page * PAGE), true, page).unwrap();
    }
    let pages = area.begin_write_back(0, area.size()).unwrap().unwrap().complete();
    let mut word = [0; 8];
    pages.read(3 * PAGE, &mut word).unwrap();
    assert_eq!((pages.size(), u64::from_ne_bytes(word)), (4 * PAGE, 3));
    pages.written();
    sim.check_translations();
    assert!(sim.write_u64(0, at(A), true, 7).is_err(), "clean and writable");
    reach(&sim, &space, &area, A, USER_WRITE);
    assert_eq!(area.next_dirty(0), Ok(Some(0)));
    assert_eq!(area.evict(0, area.size()).unwrap().complete().pages, 3);
    sim.check_translations();
    reach(&sim, &space, &area, A + PAGE, USER_READ);
    assert_eq!(sim.read_u64(0, at(A + PAGE), true), Ok(0x0909_0909_0909_0909));
    sim.unload(0);
    for space in [&space, &kernel] {
        // SAFETY: no root is loaded.
        unsafe { space.deactivate(0) };
    }
    drop((area, space));
    drop(kernel);
    sim.assert_no_violation();
    assert_eq!(sim.frame_counts(), start);
}

#[test]
fn other_formats_page_as_well() {
    a_page_lives_and_goes(X86_64::new(40).pcid(), 0xffff_ff80_0000_0000);
    a_page_lives_and_goes(RiscV64::sv39(40), 0xffff_ffff_8000_0000);
}

/// Writing through a handle while the pager works: a platform whose copies into frames can be interrupted by something else.
mod interrupted_copies {
    use std::cell::Cell;

    use vmcore::addr::Frame;
    use vmcore::frame::{FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, Frames};
    use vmcore::paging::{FlushRequest, X86_64};
    use vmcore::vm_area::{Area, AreaError, AreaKind, PageState, PageWait};
    use vmcore::{CpuMask, Machine, Platform};

    use super::PAGE;

    struct Host {
        frames: FrameRegion<'static, spin::Mutex<()>>,
        machine: Machine<Handle>,
    }

    #[derive(Clone, Copy)]
    struct Handle(&'static Host);

    thread_local! {
        /// Happens before the next copy into a frame.
        static BEFORE_COPY: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
    }

    // SAFETY: everything is forwarded to a `FrameRegion`, which keeps the contract; copies are made as the library's own.
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
        unsafe fn write_frame(&self, frame: Frame, offset: usize, from: &[u8]) -> usize {
            if let Some(happens) = BEFORE_COPY.take() {
                happens();
            }
            let count = from.len().min(PAGE as usize - offset);
            // SAFETY: offset + count lies within the frame, which is reachable and not freed meanwhile.
            unsafe { core::ptr::copy(from.as_ptr(), self.frame_pointer(frame).add(offset), count) };
            count
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

    /// An area of one page, which holds ones, and a second handle for what happens meanwhile.
    fn scene() -> (Area<Handle>, Area<Handle>) {
        let memory = Vec::leak(vec![0_u8; 65 * PAGE as usize]);
        let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(PAGE as usize));
        let records = Vec::leak((0..64).map(|_| FrameMeta::new()).collect());
        // SAFETY: the memory is aligned, large enough, and nobody else's for ever.
        let frames = unsafe { FrameRegion::new(base, 12, FrameMetaTable::new(Frame::new(0x100), records)) };
        let host = Handle(Box::leak(Box::new(Host { frames, machine: Machine::new(X86_64::new(40)) })));
        let area = Area::new(&host, AreaKind::Paged { size: PAGE, key: 1 }, ()).unwrap();
        bring(&area, 1);
        let other = area.handle(area.rights()).unwrap();
        (area, other)
    }

    fn bring(area: &Area<Handle>, byte: u8) {
        let request = area.request(0, PAGE).unwrap().unwrap();
        area.supply(request.token, 0, &[byte; PAGE as usize]).unwrap();
    }

    fn meanwhile(happens: impl FnOnce() + 'static) {
        BEFORE_COPY.set(Some(Box::new(happens)));
    }

    fn first_bytes(area: &Area<Handle>) -> [u8; 2] {
        let mut bytes = [0; 2];
        area.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_write_back_does_not_lose_what_is_written_meanwhile() {
        let (area, other) = scene();
        area.write(1, &[2]).unwrap().complete();
        meanwhile(move || {
            let pages = other.begin_write_back(0, PAGE).unwrap().unwrap().complete();
            let mut bytes = [0; 2];
            pages.read(0, &mut bytes).unwrap();
            assert_eq!(bytes, [1, 2]);
            pages.written();
            assert_eq!(other.page_state(0), Some(PageState::Clean));
        });
        area.write(0, &[3]).unwrap().complete();
        assert_eq!((area.page_state(0), first_bytes(&area)), (Some(PageState::Dirty), [3, 2]));
    }

    #[test]
    fn an_eviction_does_not_lose_what_is_written_meanwhile() {
        let (area, other) = scene();
        meanwhile(move || assert_eq!(other.evict(0, PAGE).unwrap().complete().pages, 1));
        let written = area.write(0, &[3]);
        assert!(matches!(written, Err(AreaError::Awaits(PageWait::Request(_)))), "{written:?}: not in what is gone");
        // The same, and the page is there again before the copy is over, in another frame.
        let (area, other) = scene();
        meanwhile(move || {
            other.evict(0, PAGE).unwrap().complete();
            bring(&other, 7);
        });
        area.write(0, &[3]).unwrap().complete();
        assert_eq!((area.page_state(0), first_bytes(&area)), (Some(PageState::Dirty), [3, 7]));
        // And an eviction whose flush is outstanding keeps the page.
        let (area, other) = scene();
        let (keep, kept) = std::sync::mpsc::channel();
        meanwhile(move || keep.send(other.evict(0, PAGE).unwrap().detach()).unwrap());
        area.write(0, &[3]).unwrap().complete();
        // SAFETY: there is no TLB.
        unsafe { kept.recv().unwrap().acknowledged() };
        assert_eq!((area.page_state(0), first_bytes(&area)), (Some(PageState::Dirty), [3, 1]));
    }
}
