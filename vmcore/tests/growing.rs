//! Growing areas: random touches, neighbours and unmappings against the rule itself, written down page by page.

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, at, load, store, touch};
use proptest::prelude::*;
use vmcore::paging::Access;
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};

const BASE: u64 = 0x40_0000;
const PAGES: u64 = 64;

fn growing(world: &World, limit: u64, gap: u64) -> Area<Sim> {
    Area::new(&world.sim, AreaKind::Growing { limit: limit * PAGE, gap: gap * PAGE }, 0).unwrap()
}

/// Which pages are covered: by which window (numbered as they were mapped) and, for growing ones, with which page of the area.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Cover {
    Other,
    Stack { window: usize, page: u64, gap: u64 },
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Fine,
    Guard,
    NoWindow,
}

/// The rule, a page at a time: walk up to the next covered page; walk down from the touched one over as many pages as the gap has.
fn grow(pages: &mut [Option<Cover>], touched: usize) -> Outcome {
    if pages[touched].is_some() {
        return Outcome::Fine;
    }
    let Some(above) = (touched..pages.len()).find(|page| pages[*page].is_some()) else { return Outcome::NoWindow };
    let Some(Cover::Stack { window, page, gap }) = pages[above] else { return Outcome::NoWindow };
    let wanted = (above - touched) as u64;
    if wanted > page {
        return if wanted - page <= gap { Outcome::Guard } else { Outcome::NoWindow };
    }
    // What is next below counts; another stack keeps no gap.
    let below = (1..=gap as usize).find_map(|down| touched.checked_sub(down).and_then(|page| pages[page]));
    if below == Some(Cover::Other) {
        return Outcome::Guard;
    }
    for (number, cover) in pages.iter_mut().enumerate().take(above).skip(touched) {
        *cover = Some(Cover::Stack { window, page: page - (above - number) as u64, gap });
    }
    Outcome::Fine
}

#[derive(Clone, Debug)]
enum Step {
    /// A stack: its last page, how many pages it begins with, its limit and gap.
    Stack(u64, u64, u64, u64),
    Other(u64, u64),
    Touch(u64),
    Unmap(u64, u64),
    Populate(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (0..PAGES, 1..4_u64, 4..40_u64, 1..5_u64).prop_map(|(top, size, limit, gap)| Step::Stack(top, size, limit, gap)),
        1 => (0..PAGES, 1..3_u64).prop_map(|(page, count)| Step::Other(page, count)),
        6 => (0..PAGES).prop_map(Step::Touch),
        1 => (0..PAGES, 1..6_u64).prop_map(|(page, count)| Step::Unmap(page, count)),
        1 => (0..PAGES, 1..6_u64).prop_map(|(page, count)| Step::Populate(page, count)),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn windows_grow_by_the_rule(all in steps()) {
        let world = World::new(1);
        let space = world.user();
        world.enter(0, &space);
        let mut pages = vec![None; PAGES as usize];
        let mut written: Vec<std::collections::BTreeMap<u64, u64>> = Vec::new();
        for (number, step) in all.into_iter().enumerate() {
            match step {
                Step::Stack(top, size, limit, gap) if top + 1 >= size => {
                    let first = top + 1 - size;
                    let area = growing(&world, limit, gap);
                    let request = MapRequest::new(&area).at(BASE + first * PAGE).offset((limit - size) * PAGE);
                    let part = &mut pages[first as usize..=top as usize];
                    let free = part.iter().all(Option::is_none);
                    prop_assert_eq!(space.map(&request).is_ok(), free, "only what is covered is in the way");
                    for (index, page) in part.iter_mut().enumerate().filter(|_| free) {
                        *page = Some(Cover::Stack { window: written.len(), page: limit - size + index as u64, gap });
                    }
                    written.push(Default::default());
                }
                Step::Stack(..) => {}
                Step::Other(page, count) => {
                    let area = world.open(count);
                    let part = &mut pages[page as usize..(page + count).min(PAGES) as usize];
                    let free = part.len() as u64 == count && part.iter().all(Option::is_none);
                    if part.len() as u64 == count {
                        prop_assert_eq!(space.map(&MapRequest::new(&area).at(BASE + page * PAGE)).is_ok(), free);
                    }
                    if free {
                        part.fill(Some(Cover::Other));
                    }
                }
                Step::Touch(page) => {
                    let address = BASE + page * PAGE + 8;
                    let result = store(&world.sim, 0, &space, address, number as u64 + 1);
                    let expected = match grow(&mut pages, page as usize) {
                        Outcome::Fine => Ok(()),
                        Outcome::Guard => Err(SpaceError::Guard(at(address))),
                        Outcome::NoWindow => Err(SpaceError::NoWindow(at(address))),
                    };
                    prop_assert_eq!(result, expected, "page {} of {:?}", page, pages);
                    if let Some(Cover::Stack { window, page, .. }) = pages[page as usize] {
                        written[window].insert(page, number as u64 + 1);
                    }
                }
                Step::Unmap(page, count) => {
                    common::unmap(&space, BASE + page * PAGE, count);
                    pages[page as usize..(page + count).min(PAGES) as usize].fill(None);
                }
                Step::Populate(page, count) => {
                    let range = space.range(BASE + page * PAGE, count * PAGE).unwrap();
                    let part = &pages[page as usize..(page + count).min(PAGES) as usize];
                    let covered = part.len() as u64 == count && part.iter().all(Option::is_some);
                    prop_assert_eq!(space.populate(range, Access::READ).is_ok(), covered, "populating does not grow");
                }
            }
            let mut found = vec![None; PAGES as usize];
            for info in space.windows() {
                let first = (info.range.start().as_u64() - BASE) / PAGE;
                for index in 0..info.range.pages(12) {
                    let offset = info.offset / PAGE + index;
                    found[(first + index) as usize] = Some(match info.kind.unwrap() {
                        AreaKind::Growing { gap, .. } => (offset, gap / PAGE),
                        _ => (0, 0),
                    });
                }
            }
            let expected: Vec<_> = pages.iter().map(|cover| cover.map(|cover| match cover {
                Cover::Other => (0, 0),
                Cover::Stack { page, gap, .. } => (page, gap),
            })).collect();
            prop_assert_eq!(found, expected);
        }
        // Each page shows what was written to it, wherever its window has grown from.
        for (index, cover) in pages.iter().enumerate() {
            if let Some(Cover::Stack { window, page, .. }) = cover {
                let expected = written[*window].get(page).copied().unwrap_or(0);
                prop_assert_eq!(load(&world.sim, 0, &space, BASE + index as u64 * PAGE + 8), Ok(expected));
            }
        }
        world.sim.check_translations();
        world.leave(0, &space);
        drop(space);
        world.finish();
    }
}

#[test]
fn a_fault_that_fails_grows_nothing() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let area = growing(&world, 32, 2);
    let top = BASE + 31 * PAGE;
    let request = MapRequest::new(&area).at(top).offset(31 * PAGE).access(USER_READ);
    space.map(&request).unwrap();
    let shown = |space: &Space<Sim>| space.windows().map(|info| (info.range, info.offset)).collect::<Vec<_>>();
    let before = shown(&space);
    let address = BASE + 9 * PAGE;
    let denied = touch(&world.sim, 0, &space, address, USER_WRITE).map(drop);
    assert!(matches!(denied, Err(SpaceError::Denied { .. })), "{denied:?}");
    assert_eq!(shown(&space), before);
    for (address, error) in [
        (BASE - 1, SpaceError::Guard(at(BASE - 1))),
        (BASE - 2 * PAGE, SpaceError::Guard(at(BASE - 2 * PAGE))),
        (BASE - 2 * PAGE - 1, SpaceError::NoWindow(at(BASE - 2 * PAGE - 1))),
        (0, SpaceError::NoWindow(at(0))),
        (u64::MAX, SpaceError::NoWindow(at(u64::MAX))),
        (1 << 63, SpaceError::NoWindow(at(1 << 63))),
    ] {
        assert_eq!(space.fault(Fault::new(address, USER_READ)).map(drop), Err(error));
    }
    assert_eq!(shown(&space), before);
    touch(&world.sim, 0, &space, BASE, USER_READ).unwrap();
    assert_eq!(shown(&space), [(space.range(BASE, 32 * PAGE).unwrap(), 0)]);
    drop(area);
    world.leave(0, &space);
    drop(space);
    world.finish();
}

/// While what was below is still being flushed, its addresses are nobody's; afterwards they are free to grow into.
#[test]
fn growth_waits_for_the_flush_of_what_was_below() {
    let world = World::new(2);
    let space = world.user();
    world.enter(0, &space);
    world.enter(1, &space);
    let (area, other) = (growing(&world, 32, 1), world.open(2));
    space.map(&MapRequest::new(&area).at(BASE + 31 * PAGE).offset(31 * PAGE)).unwrap();
    common::map(&space, &other, BASE + 8 * PAGE, 0, 2);
    store(&world.sim, 1, &space, BASE + 9 * PAGE, 5).unwrap();
    let address = BASE + 10 * PAGE;
    let guard = Err(SpaceError::Guard(at(address)));
    assert_eq!(store(&world.sim, 0, &space, address, 1), guard);
    let flush = space.unmap(space.range(BASE + 8 * PAGE, 2 * PAGE).unwrap()).unwrap();
    assert_eq!(store(&world.sim, 0, &space, address, 1), Err(SpaceError::Retry(at(address))));
    flush.complete();
    assert_eq!(store(&world.sim, 0, &space, address - PAGE, 1), Ok(()));
    // A stack that is being unmapped grows no more.
    let flush = space.unmap(space.range(BASE, 32 * PAGE).unwrap()).unwrap();
    let below = BASE + 4 * PAGE;
    assert_eq!(store(&world.sim, 0, &space, below, 1), Err(SpaceError::NoWindow(at(below))));
    flush.complete();
    drop((area, other));
    world.leave(0, &space);
    world.leave(1, &space);
    drop(space);
    world.finish();
}

#[test]
fn bad_limits_are_refused() {
    let world = World::new(1);
    for (limit, gap, wrong) in [
        (0, PAGE, 0),
        (PAGE + 1, PAGE, PAGE + 1),
        (1 << 62, PAGE, 1 << 62),
        (PAGE, 0, 0),
        (PAGE, PAGE - 1, PAGE - 1),
        (PAGE, !(PAGE - 1), !(PAGE - 1)),
    ] {
        let made = Area::new(&world.sim, AreaKind::Growing { limit, gap }, 0);
        assert_eq!(made.map(drop), Err(AreaError::Size(wrong)));
    }
    let area = growing(&world, 4, 1);
    assert_eq!(area.resize(8 * PAGE).map(drop), Err(AreaError::Kind));
    drop(area);
    world.finish();
}
