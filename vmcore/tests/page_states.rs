//! What is said of pages: of many at once the same as of each alone, and as their tables and areas have it.

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, area, at, load, store};
use vmcore::addr::{Frame, FrameRange};
use vmcore::paging::{Access, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, Inherit, MapRequest, PageState, Space};

/// A little below the end of a leaf table, so that windows lie in two of them; and the pages from there on of which is asked.
const A: u64 = 0x4000_0000 - 40 * PAGE;
const PAGES: u64 = 1200;

const fn page(number: u64) -> u64 {
    A + number * PAGE
}

/// The states of so many pages.
fn states(space: &Space<Sim>, first: u64, count: u64) -> Vec<PageState> {
    let mut states = vec![PageState::all(); count as usize];
    let range = space.range(page(first), count * PAGE).unwrap();
    assert_eq!(space.page_states(range, &mut states), Ok(count as usize));
    states
}

/// Has a file bring all that it has.
fn supply_all(file: &Area<Sim>) {
    while let Some(request) = file.request(0, file.size()).unwrap() {
        for offset in (request.offset..request.offset + request.size).step_by(PAGE as usize) {
            file.supply(request.token, offset, &(offset | 1).to_ne_bytes()).unwrap();
        }
    }
}

fn map(area: &Area<Sim>, first: u64) -> MapRequest<'_, Sim> {
    MapRequest::new(area).at(page(first)).access(USER_WRITE)
}

/// Windows of every kind of area side by side, with gaps, across leaf tables and beside a large leaf.
#[test]
fn many_pages_are_told_as_each_alone() {
    let device = FrameRange::new(Frame::new(0x10_0000), 512).unwrap();
    let world = World::of(Sim::builder().frames(2048).device(device));
    let space = world.user();
    world.enter(0, &space);
    let open = world.open(60);
    space.map(&map(&open, 0).size(60 * PAGE)).unwrap();
    // Cut in many parts, some of them without anything.
    for first in (1..50).step_by(7) {
        store(&world.sim, 0, &space, page(first), first).unwrap();
        space.protect(space.range(page(first + 1), 2 * PAGE).unwrap(), USER_READ).unwrap().complete();
        space.unmap(space.range(page(first + 4), PAGE).unwrap()).unwrap().complete();
    }
    let file = Area::new(&world.sim, AreaKind::Paged { size: 32 * PAGE, key: 1 }, 0).unwrap();
    space.map(&map(&file, 70).access(USER_READ)).unwrap();
    let request = file.request(3 * PAGE, PAGE).unwrap().unwrap();
    assert!(states(&space, 70, 32).iter().all(|state| !state.contains(PageState::RESIDENT)), "it is on its way");
    for offset in (request.offset..request.offset + request.size).step_by(PAGE as usize) {
        file.supply(request.token, offset, &[1; 8]).unwrap();
    }
    supply_all(&file);
    let view = file.overlay(4 * PAGE, 20 * PAGE).unwrap();
    space.map(&map(&view, 110).inherit(Inherit::Copy)).unwrap();
    store(&world.sim, 0, &space, page(115), 5).unwrap();
    store(&world.sim, 0, &space, page(129), 5).unwrap();
    load(&world.sim, 0, &space, page(75)).unwrap();
    let ring = Area::new(&world.sim, AreaKind::Ring { size: 4 * PAGE }, 0).unwrap();
    space.map(&map(&ring, 140)).unwrap();
    store(&world.sim, 0, &space, page(142), 1).unwrap();
    let untracked = area(&world.sim, AreaKind::Untracked { size: 6 * PAGE }).unwrap();
    space.map(&map(&untracked, 150)).unwrap();
    store(&world.sim, 0, &space, page(152), 1).unwrap();
    let large = area(&world.sim, AreaKind::Fixed { frames: device, memory: MemoryType::WriteBack }).unwrap();
    // At the next multiple of its size.
    space.map(&map(&large, 552).access(USER_READ).populated()).unwrap();
    let locked = world.open(8);
    space.map(&map(&locked, 1064)).unwrap();
    space.lock_pages(space.range(page(1066), 3 * PAGE).unwrap()).unwrap().complete();
    space.install_guards(space.range(page(1070), 2 * PAGE).unwrap()).unwrap().complete();
    let all = states(&space, 0, PAGES);
    for (number, state) in (0..).zip(&all) {
        let (address, what) = (at(page(number)), format!("page {number}"));
        assert_eq!(states(&space, number, 1), [*state], "{what}, alone");
        let window = space.window_after(address).filter(|window| window.range.contains(address));
        assert_eq!(state.contains(PageState::MAPPED), window.is_some(), "{what}");
        assert_eq!(state.contains(PageState::SHOWN), space.walk(address).physical().is_some(), "{what}");
        let there = space.frame_at(address).is_some() && !state.contains(PageState::GUARDED);
        assert_eq!(state.contains(PageState::RESIDENT), there, "{what}");
        let is_view = (110..130).contains(&number);
        let written = number < 50 && number % 7 == 1 || [115, 129, 142, 146].contains(&number);
        assert_eq!(state.contains(PageState::DIRTY), written || state.contains(PageState::LOCKED), "{what}, {is_view}");
        assert_eq!(state.contains(PageState::LOCKED), (1066..1069).contains(&number), "{what}");
        assert_eq!(state.contains(PageState::GUARDED), (1070..1072).contains(&number), "{what}");
    }
    // Beginning and ending anywhere.
    for (first, count) in [(3, 200), (39, 2), (115, 500), (551, 3), (700, 400), (1063, 12)] {
        assert_eq!(states(&space, first, count), all[first as usize..(first + count) as usize], "from {first}");
    }
    for window in space.windows() {
        let first = (window.range.start().as_u64() - A) / PAGE;
        let resident = states(&space, first, window.range.size() / PAGE);
        let resident = resident.iter().filter(|state| state.contains(PageState::RESIDENT)).count();
        let tracked = !matches!(window.kind, Some(AreaKind::Untracked { .. }));
        // Of a view those of its own are counted.
        let own = if (110..130).contains(&first) { 2 } else { resident as u64 };
        assert_eq!(window.resident_pages, if tracked { own } else { 0 }, "the window from page {first} on");
    }
    world.sim.check_translations();
    world.leave(0, &space);
    drop((open, file, view, ring, untracked, large, locked, space));
    world.finish();
}

/// A private view of a file maps what is there below beside the page that is read, around what is its own.
#[test]
fn a_read_of_a_private_view_maps_what_is_beside() {
    for own in [None, Some(0), Some(33), Some(63)] {
        let world = World::new(1);
        let space = world.user();
        world.enter(0, &space);
        let file = Area::new(&world.sim, AreaKind::Paged { size: 80 * PAGE, key: 1 }, 0).unwrap();
        let request = file.request(70 * PAGE, PAGE).unwrap().unwrap();
        assert_eq!((request.offset, request.size), (70 * PAGE, PAGE));
        let view = file.overlay(8 * PAGE, 64 * PAGE).unwrap();
        // Aligned as the pages of one node are, 62 of which are there.
        let start = 0x4000_0000;
        space.map(&MapRequest::new(&view).at(start).access(USER_WRITE).inherit(Inherit::Copy)).unwrap();
        for offset in (8..70).map(|page| page * PAGE) {
            while let Some(request) = file.request(offset, PAGE).unwrap() {
                file.supply(request.token, request.offset, &(request.offset | 1).to_ne_bytes()).unwrap();
            }
        }
        if let Some(own) = own {
            if own < 62 {
                store(&world.sim, 0, &space, start + own * PAGE, 7).unwrap();
            }
            // The others are taken out of the tables again.
            space.protect(space.range(start, 64 * PAGE).unwrap(), Access::empty()).unwrap().complete();
            space.protect(space.range(start, 64 * PAGE).unwrap(), USER_WRITE).unwrap().complete();
        }
        space.fault(Fault::new(start + 20 * PAGE, USER_READ)).unwrap().complete();
        let mut states = [PageState::empty(); 64];
        space.page_states(space.range(start, 64 * PAGE).unwrap(), &mut states).unwrap();
        for (page, state) in (0..64).zip(states) {
            assert_eq!(state.contains(PageState::RESIDENT), page < 62, "page {page}");
            assert_eq!(state.contains(PageState::SHOWN), page < 62, "page {page}, own {own:?}");
            let is_own = page < 62 && own == Some(page);
            assert_eq!(state.contains(PageState::DIRTY), is_own, "page {page}");
            let access = space.walk(at(start + page * PAGE)).access();
            assert_eq!(access.contains(Access::WRITE), is_own, "page {page} shows {access} with own {own:?}");
            if page < 62 {
                let expected = if is_own { 7 } else { ((8 + page) * PAGE) | 1 };
                assert_eq!(world.sim.read_u64(0, at(start + page * PAGE), true), Ok(expected), "page {page}");
            }
        }
        world.sim.check_translations();
        world.leave(0, &space);
        drop((view, file, space));
        world.finish();
    }
}
