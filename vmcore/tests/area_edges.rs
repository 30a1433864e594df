//! What areas do at their edges: a page that is waited for or failed, a block that is being brought together, a ring's wrap, pages that devices use. Each expected value is said by hand.

use vmcore::addr::PageRange;
use vmcore::paging::{Mmu, X86_64};
use vmcore::sim::Sim;
use vmcore::vm_area::{Account, Area, AreaError, AreaKind, Evicted, PageWait, SectionLayout};
use vmcore::vm_space::{Advice, Fault, Inherit, MapRequest, PageState, Place, Resolution, Space};

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, at, load, store};

const GIB: u64 = 1 << 30;
const LARGE: u64 = 2 << 20;

fn range(start: u64, size: u64) -> PageRange {
    X86_64::new(40).range(start, size).unwrap()
}

fn paged(world: &World, pages: u64) -> Area<Sim> {
    common::area(&world.sim, AreaKind::Paged { size: pages * PAGE, key: 7 }).unwrap()
}

/// Supplies every page with its number.
fn supply_all(area: &Area<Sim>) {
    while let Some(request) = area.request(0, area.size()).unwrap() {
        for page in 0..request.size / PAGE {
            let offset = request.offset + page * PAGE;
            area.supply(request.token, offset, &vec![(offset / PAGE) as u8; PAGE as usize]).unwrap();
        }
    }
}

/// Which of the pages from an address on the tables show.
fn shown(space: &Space<Sim>, start: u64, pages: u64) -> Vec<u64> {
    (0..pages).filter(|page| space.walk(at(start + page * PAGE)).physical().is_some()).collect()
}

/// Who reads a page that somebody waits for waits for the same answer; one that could not be brought is named.
#[test]
fn a_page_that_is_waited_for_is_read_after_the_answer() {
    let world = World::new(1);
    let area = paged(&world, 8);
    let mut byte = [0];
    let request = match area.read(5 * PAGE + 3, &mut byte) {
        Err(AreaError::Awaits(PageWait::Request(request))) => request,
        other => panic!("{other:?} instead of a request"),
    };
    assert_eq!((request.offset, request.size), (5 * PAGE, PAGE));
    let wait = AreaError::Awaits(PageWait::Wait(request.token));
    assert_eq!(area.read(5 * PAGE, &mut byte), Err(wait));
    assert_eq!(area.write(5 * PAGE, &[1]).map(|flush| flush.complete()), Err(wait));
    assert_eq!(area.pin(5 * PAGE, PAGE).map(drop), Err(wait));
    area.fail(request.token, 5 * PAGE, PAGE).unwrap();
    assert_eq!(area.read(5 * PAGE, &mut byte), Err(AreaError::Failed(5 * PAGE)));
    assert_eq!(area.write(5 * PAGE + 9, &[1]).map(|flush| flush.complete()), Err(AreaError::Failed(5 * PAGE)));
    area.retry(5 * PAGE, PAGE).unwrap();
    // The same through a private view, which begins with page 2.
    let view = area.overlay(2 * PAGE, 6 * PAGE).unwrap();
    let request = match view.read(3 * PAGE, &mut byte) {
        Err(AreaError::Awaits(PageWait::Request(request))) => request,
        other => panic!("{other:?} instead of a request"),
    };
    assert_eq!(view.read(3 * PAGE + 7, &mut byte), Err(AreaError::Awaits(PageWait::Wait(request.token))));
    area.fail(request.token, 5 * PAGE, PAGE).unwrap();
    assert_eq!(view.read(3 * PAGE, &mut byte), Err(AreaError::Failed(3 * PAGE)));
    area.retry(5 * PAGE, PAGE).unwrap();
    supply_all(&area);
    assert_eq!((area.read(5 * PAGE, &mut byte), byte), (Ok(()), [5]));
    assert_eq!((view.read(3 * PAGE, &mut byte), byte), (Ok(()), [5]));
    drop((area, view));
    world.finish();
}

/// Pages that a device uses stay when the others are evicted, and so do dirty ones; each is counted.
#[test]
fn what_a_device_uses_is_not_evicted() {
    let world = World::new(1);
    let space = world.user();
    let area = paged(&world, 12);
    supply_all(&area);
    common::map(&space, &area, GIB, 0, 12);
    world.enter(0, &space);
    for page in 0..12 {
        assert_eq!(load(&world.sim, 0, &space, GIB + page * PAGE).map(|word| word as u8), Ok(page as u8));
    }
    let pin = area.pin(4 * PAGE, 2 * PAGE).unwrap().complete();
    // Pinning for a device that may write makes pages dirty, or not: what is clean and pinned is told apart from both.
    store(&world.sim, 0, &space, GIB + 8 * PAGE, 8).unwrap();
    let Evicted { pages, dirty, pinned, .. } = area.evict(0, area.size()).unwrap().complete();
    assert_eq!((pages, dirty + pinned), (9, 3));
    assert_eq!(shown(&space, GIB, 12), [4, 5, 8]);
    for page in 0..12 {
        let resident = area.page_state(page * PAGE);
        assert_eq!(area.frame_at(page * PAGE).is_some(), [4, 5, 8].contains(&page), "{page}: {resident:?}");
    }
    drop(pin);
    world.leave(0, &space);
    drop((area, space));
    world.finish();
}

/// What may be reclaimed leaves the windows, and its neighbours stay in them.
#[test]
fn what_is_reclaimed_leaves_its_neighbours() {
    let world = World::new(1);
    let space = world.user();
    space.map_anonymous(24 * PAGE, Place::At(GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
    world.enter(0, &space);
    for page in 0..24 {
        store(&world.sim, 0, &space, GIB + page * PAGE, 1 + page).unwrap();
    }
    for (first, count) in [(5, 3), (10, 1)] {
        space.advise(range(GIB + first * PAGE, count * PAGE), Advice::FreeLazily).unwrap().complete();
    }
    let flush = space.reclaim(range(GIB, 24 * PAGE), 100).unwrap();
    let named: Vec<_> = flush.request().scope.entries().map(|entry| entry.range).collect();
    assert_eq!(named, [Some(range(GIB + 5 * PAGE, 3 * PAGE)), Some(range(GIB + 10 * PAGE, PAGE))]);
    assert_eq!(flush.complete(), 4);
    let given = [5, 6, 7, 10];
    assert_eq!(shown(&space, GIB, 24), (0..24).filter(|page| !given.contains(page)).collect::<Vec<_>>());
    for page in 0..24 {
        let expected = if given.contains(&page) { 0 } else { 1 + page };
        assert_eq!(load(&world.sim, 0, &space, GIB + page * PAGE), Ok(expected), "{page}");
    }
    world.leave(0, &space);
    drop(space);
    world.finish();
}

/// While a block's pages are being brought together nobody uses them, and everybody uses the pages beside it. What arrives is what was there, charged once.
#[test]
fn a_block_is_brought_together_beside_others() {
    for block in [0, 1] {
        let world = World::of(Sim::builder().frames(8192));
        let (space, area) = (world.user(), world.open(3 * 512));
        let account = Account::new(&world.sim, 4000).unwrap();
        area.charge_to(&account).unwrap();
        space.map(&MapRequest::new(&area).at(GIB).access(USER_WRITE)).unwrap();
        let first = block * 512;
        let resident: Vec<_> =
            (first + 3..first + 40).chain(first + 100..first + 101).chain(first + 300..first + 500).collect();
        for page in &resident {
            area.write(page * PAGE, &page.to_ne_bytes()).unwrap().complete();
        }
        let outside = if block == 0 { [512, 600, 1100] } else { [511, 0, 1024] };
        for page in outside {
            area.write(page * PAGE, &page.to_ne_bytes()).unwrap().complete();
        }
        let charged = resident.len() as u64 + 3;
        assert_eq!(account.charged(), charged);
        let flush = space.promote(range(GIB + first * PAGE, LARGE), 512).unwrap();
        for page in [first, first + 3, first + 300, first + 511] {
            assert_eq!(area.pin(page * PAGE, PAGE).map(drop), Err(AreaError::Retry), "{page}");
        }
        for page in outside {
            drop(area.pin(page * PAGE, PAGE).unwrap().complete());
        }
        assert_eq!(area.pin((first + 500) * PAGE, 100 * PAGE).map(drop), Err(AreaError::Retry));
        assert_eq!(area.allocate(first * PAGE, PAGE, 0).map(drop), Err(AreaError::Retry), "absent, and about to come");
        assert_eq!(flush.complete(), 1);
        // All of the block is there, and charged.
        assert_eq!((area.resident_pages(), account.charged()), (512 + 3, 512 + 3));
        let frame = area.frame_at(first * PAGE).unwrap();
        for page in first..first + 512 {
            assert_eq!(area.frame_at(page * PAGE), Some(frame.add(page - first)));
            let mut bytes = [0; 8];
            area.read(page * PAGE, &mut bytes).unwrap();
            let expected = if resident.contains(&page) { page } else { 0 };
            assert_eq!(u64::from_ne_bytes(bytes), expected, "{page}");
        }
        // Nobody else's pages are charged.
        let other = world.open(1024);
        for page in 0..1024 {
            other.write(page * PAGE, &[1]).unwrap().complete();
        }
        drop(other);
        assert_eq!(account.charged(), 512 + 3);
        drop((space, area));
        assert_eq!(account.charged(), 0);
        drop(account);
        world.finish();
    }
}

/// The states of pages across the wrap of a ring, at any place of it.
#[test]
fn a_ring_is_resident_on_both_sides_of_its_wrap() {
    let world = World::new(1);
    let space = world.user();
    let ring = common::area(&world.sim, AreaKind::Ring { size: 8 * PAGE }).unwrap();
    for page in [0, 1, 5, 7] {
        ring.write(page * PAGE, &[page as u8]).unwrap().complete();
    }
    space.map(&MapRequest::new(&ring).at(GIB).access(USER_WRITE)).unwrap();
    for first in 0..16 {
        for count in 1..=16 - first {
            let mut states = [PageState::empty(); 16];
            assert_eq!(space.page_states(range(GIB + first * PAGE, count * PAGE), &mut states), Ok(count as usize));
            for (page, state) in (first..first + count).zip(states) {
                assert_eq!(
                    state.contains(PageState::RESIDENT),
                    [0, 1, 5, 7].contains(&(page % 8)),
                    "{first} + {count}: {page}"
                );
            }
        }
    }
    drop((space, ring));
    world.finish();
}

/// Of sections, what is out can be pinned, and nothing beside it.
#[test]
fn pages_of_no_section_are_not_pinned() {
    let world = World::new(1);
    let layout = SectionLayout { pages: 4, guard: 1, count: 3 };
    let area = common::area(&world.sim, AreaKind::Guarded(layout)).unwrap();
    let section = area.take_section().unwrap();
    let first = section.offset / PAGE;
    drop(area.pin(section.offset, 4 * PAGE).unwrap().complete());
    for page in [first - 1, first + 3, first + 5] {
        assert_eq!(area.pin(page * PAGE, 2 * PAGE).map(drop), Err(AreaError::Kind), "{page}");
    }
    area.give_section(section.number).unwrap().complete();
    drop(area);
    world.finish();
}

/// A request grows over the absent pages behind it, up to the first that is there.
#[test]
fn populating_asks_up_to_what_is_there() {
    let world = World::new(1);
    let space = world.user();
    let area = paged(&world, 16);
    let request = area.request(6 * PAGE, PAGE).unwrap().unwrap();
    area.supply(request.token, 6 * PAGE, &[6; PAGE as usize]).unwrap();
    common::map(&space, &area, GIB, 0, 16);
    let asked = |first: u64, count: u64| match space.populate(range(GIB + first * PAGE, count * PAGE), USER_READ) {
        Err(vmcore::vm_space::SpaceError::Awaits { address, wait: PageWait::Request(request) }) => {
            (address.as_u64(), request.offset / PAGE, request.size / PAGE)
        }
        other => panic!("{other:?} instead of a request"),
    };
    assert_eq!(asked(5, 3), (GIB + 5 * PAGE, 5, 1));
    assert_eq!(asked(2, 3), (GIB + 2 * PAGE, 2, 3));
    assert_eq!(asked(7, 4), (GIB + 7 * PAGE, 7, 4));
    let resolved = space.fault(Fault::new(GIB + 6 * PAGE, USER_READ)).unwrap().complete();
    assert_eq!(resolved, Resolution::Mapped);
    drop((space, area));
    world.finish();
}
