//! Which pages were in use lately, and who has an area: what is asked by who takes memory away.

mod common;

use common::{PAGE, World, load, store};
use proptest::prelude::*;
use vmcore::paging::Access;
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, Rights};
use vmcore::vm_space::{Advice, Inherit, MapRequest, Space};

const A: u64 = 0x40_0000;
const B: u64 = 0x8000_0000;
const PAGES: u64 = 100;

/// Makes a CPU forget everything, so that it marks what it uses anew.
fn forget(world: &World, cpu: usize, space: &Space<Sim>) {
    // Without tags a CPU that loads another root forgets what it knows by this one.
    world.leave(cpu, space);
    world.enter(cpu, space);
}

fn supply_all(area: &Area<Sim>) {
    while let Some(request) = area.request(0, area.size()).unwrap() {
        area.supply(request.token, request.offset, &vec![7; request.size as usize]).unwrap();
    }
}

#[test]
fn what_a_cpu_touches_is_told_once() {
    let world = World::new(2);
    let (one, two) = (world.user(), world.user());
    world.enter(0, &one);
    world.enter(1, &two);
    let area = Area::new(&world.sim, AreaKind::Paged { size: PAGES * PAGE, key: 1 }, 0).unwrap();
    supply_all(&area);
    let view = area.overlay(10 * PAGE, 20 * PAGE).unwrap();
    // The second window shows the area from its page 2 on; the third one is the private view's.
    one.map(&MapRequest::new(&area).at(A).access(Access::USER_DATA)).unwrap();
    two.map(&MapRequest::new(&area).at(A).offset(2 * PAGE).size(70 * PAGE).access(Access::USER_DATA)).unwrap();
    two.map(&MapRequest::new(&view).at(B).access(Access::USER_DATA).inherit(Inherit::Copy)).unwrap();
    for (space, at, pages) in [(&one, A, PAGES), (&two, A, 70), (&two, B, 20)] {
        space.populate(space.range(at, pages * PAGE).unwrap(), Access::READ).unwrap().complete();
    }
    // What populating marked.
    for offset in [0, 64 * PAGE] {
        area.take_accessed(offset).unwrap();
        assert_eq!(area.take_accessed(offset), Ok(0));
    }
    forget(&world, 0, &one);
    forget(&world, 1, &two);
    load(&world.sim, 0, &one, A).unwrap();
    load(&world.sim, 0, &one, A + 63 * PAGE).unwrap();
    load(&world.sim, 0, &one, A + 64 * PAGE).unwrap();
    load(&world.sim, 1, &two, A + PAGE).unwrap();
    load(&world.sim, 1, &two, B + 4 * PAGE).unwrap();
    assert_eq!(area.take_accessed(0), Ok(1 | 1 << 3 | 1 << 14 | 1 << 63), "by every window");
    assert_eq!((area.take_accessed(0), area.take_accessed(64 * PAGE)), (Ok(0), Ok(1)), "each once");
    // Of the last page on, what is there.
    forget(&world, 0, &one);
    load(&world.sim, 0, &one, A + (PAGES - 1) * PAGE).unwrap();
    assert_eq!(area.take_accessed((PAGES - 2) * PAGE), Ok(0b10));
    assert_eq!(area.take_accessed(PAGES * PAGE), Ok(0));
    assert_eq!(area.take_accessed(!(PAGE - 1)), Ok(0));
    assert_eq!(area.take_accessed(1), Err(AreaError::Unaligned(1)));
    let blind = area.handle(Rights::READ | Rights::SHARE).unwrap();
    assert_eq!(blind.take_accessed(0), Err(AreaError::Rights(Rights::SUPPLY)));
    world.sim.check_translations();
    world.leave(0, &one);
    world.leave(1, &two);
    drop((one, two, view, blind, area));
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Against a set: what was touched since the last question, and nothing else.
    #[test]
    fn exactly_what_was_touched_since(rounds in prop::collection::vec(prop::collection::vec((0..64_u64, any::<bool>()), 0..12), 1..6)) {
        let world = World::new(1);
        let space = world.user();
        world.enter(0, &space);
        let area = Area::new(&world.sim, AreaKind::Open { size: 64 * PAGE }, 0).unwrap();
        let range = space.map(&MapRequest::new(&area).at(A).access(Access::USER_DATA)).unwrap();
        space.populate(range, Access::WRITE).unwrap().complete();
        area.take_accessed(0).unwrap();
        for touched in rounds {
            forget(&world, 0, &space);
            let mut expected = 0_u64;
            for (page, write) in touched {
                if write {
                    store(&world.sim, 0, &space, A + page * PAGE, page).unwrap();
                } else {
                    load(&world.sim, 0, &space, A + page * PAGE).unwrap();
                }
                expected |= 1 << page;
            }
            prop_assert_eq!(area.take_accessed(0), Ok(expected));
        }
        world.leave(0, &space);
        drop((space, area));
        world.finish();
    }
}

#[test]
fn who_has_an_area_and_what_it_has() {
    let world = World::new(1);
    let space = world.user();
    let area = Area::new(&world.sim, AreaKind::Paged { size: PAGES * PAGE, key: 1 }, 0).unwrap();
    assert_eq!((area.handles(), area.windows(), area.next_resident(0)), (1, 0, None));
    let other = area.handle(Rights::MAP | Rights::READ).unwrap();
    let range = space.map(&MapRequest::new(&other).at(A).access(Access::READ | Access::USER)).unwrap();
    assert_eq!((area.handles(), area.windows()), (2, 1));
    let view = area.overlay(0, PAGE).unwrap();
    drop(other);
    assert_eq!((area.handles(), view.handles()), (2, 1), "a private view is one");
    drop(view);
    assert_eq!((area.handles(), area.windows()), (1, 1));
    let flush = space.unmap(range).unwrap();
    assert_eq!(area.handles(), 1, "a window that waits for its flush is none");
    flush.complete();
    assert_eq!((area.handles(), area.windows()), (1, 0));

    // One page is asked for and has not come; another has.
    area.request(5 * PAGE, PAGE).unwrap().unwrap();
    let request = area.request(9 * PAGE, PAGE).unwrap().unwrap();
    area.supply(request.token, request.offset, &[1]).unwrap();
    assert_eq!((area.next_resident(0), area.next_resident(9 * PAGE + 1)), (Some(9 * PAGE), Some(9 * PAGE)));
    assert_eq!((area.next_resident(10 * PAGE), area.next_resident(u64::MAX)), (None, None));
    let flush = area.evict(0, area.size()).unwrap();
    assert_eq!(area.handles(), 1, "what waits for a flush is none");
    flush.complete();
    assert_eq!((area.next_resident(0), area.handles()), (None, 1));
    let open =
        space.map_anonymous(4 * PAGE, vmcore::vm_space::Place::At(B), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    space.write_bytes(open.start(), &[1; 1]).unwrap().complete();
    space.advise(open, Advice::NotNeeded).unwrap().complete();
    drop((space, area));
    world.finish();
}
