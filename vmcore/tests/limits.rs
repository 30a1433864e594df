//! Limits of resident pages and of tables: each operation that shows pages is refused where it would exceed them, and only there, and changes nothing then. What would have
//! been is seen in a second space, which has no such limit and does the same.

mod common;

use common::{PAGE, USER_WRITE, World, at, load, store, touch};
use proptest::prelude::*;
use vmcore::inspect::SpaceMap;
use vmcore::paging::{Access, Flush};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{
    Advice, Destination, Fault, Inherit, MapRequest, Place, Space, SpaceError, SpaceLimit, SpaceLimits,
};

const A: u64 = 0x40_0000;
/// From one to the next another leaf table is needed.
const STRIDE: u64 = 0x20_0000;

fn counted(space: &Space<Sim>) -> (u64, u64) {
    let counters = space.counters();
    (counters.resident_pages, counters.tables)
}

fn limited(space: &Space<Sim>, pages: u64, tables: u64) {
    space.set_limits(SpaceLimits::NONE.resident_pages(pages).tables(tables));
}

fn end(world: World, spaces: Vec<Space<Sim>>) {
    world.sim.check_translations();
    world.sim.unload(0);
    for space in &spaces {
        common::forget(0, space);
    }
    drop(spaces);
    world.finish();
}

#[test]
fn faults_stop_at_the_limit_of_pages() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let range = space.map_anonymous(8 * PAGE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    limited(&space, 3, u64::MAX);
    for page in 0..3 {
        store(&world.sim, 0, &space, A + page * PAGE, page).unwrap();
    }
    let before = (counted(&space), SpaceMap(&space).to_string(), world.sim.frame_counts());
    let refused = Err(SpaceError::Limit(SpaceLimit::ResidentPages(3)));
    for access in [Access::READ, Access::WRITE] {
        // The zero frame counts as well.
        assert_eq!(space.fault(Fault::new(A + 5 * PAGE, access)).map(|flush| flush.complete()), refused);
    }
    assert_eq!((counted(&space), SpaceMap(&space).to_string(), world.sim.frame_counts()), before);
    // Those that are shown can be used, a copy shows nothing, and what goes makes room.
    assert_eq!(load(&world.sim, 0, &space, A + PAGE), Ok(1));
    space.write_bytes(at(A + 6 * PAGE), &[1; 8]).unwrap().complete();
    assert_eq!(counted(&space).0, 3);
    space.advise(space.range(A, 2 * PAGE).unwrap(), Advice::NotNeeded).unwrap().complete();
    for page in [7, 0] {
        touch(&world.sim, 0, &space, A + page * PAGE, USER_WRITE).unwrap();
    }
    assert!(touch(&world.sim, 0, &space, A + PAGE, USER_WRITE).is_err());
    // A lower limit takes nothing away.
    limited(&space, 1, u64::MAX);
    assert_eq!(counted(&space).0, 3);
    assert_eq!(load(&world.sim, 0, &space, A + 2 * PAGE), Ok(2));
    space.set_limits(SpaceLimits::NONE);
    touch(&world.sim, 0, &space, A + PAGE, USER_WRITE).unwrap();
    space.unmap(range).unwrap().complete();
    end(world, vec![space]);
}

#[test]
fn faults_stop_at_the_limit_of_tables() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    space.map_anonymous(4 * STRIDE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    // The root, one each of the two next levels, and two leaf tables.
    limited(&space, u64::MAX, 5);
    assert_eq!(space.limits(), SpaceLimits::NONE.tables(5));
    store(&world.sim, 0, &space, A, 1).unwrap();
    store(&world.sim, 0, &space, A + STRIDE, 2).unwrap();
    let refused = space.fault(Fault::new(A + 2 * STRIDE, Access::WRITE)).map(|flush| flush.complete());
    assert_eq!(refused, Err(SpaceError::Limit(SpaceLimit::Tables(5))));
    store(&world.sim, 0, &space, A + STRIDE + PAGE, 3).unwrap();
    // Cutting a large leaf takes one, too.
    assert_eq!(counted(&space), (3, 5));
    space.advise(space.range(A, PAGE).unwrap(), Advice::NotNeeded).unwrap().complete();
    assert_eq!(counted(&space).1, 4);
    store(&world.sim, 0, &space, A + 2 * STRIDE, 4).unwrap();
    end(world, vec![space]);
}

#[test]
fn shared_pages_count_in_each_space_and_clones_have_the_limits() {
    let world = World::new(1);
    let (one, two) = (world.user(), world.user());
    world.enter(0, &one);
    let area = world.open(4);
    for space in [&one, &two] {
        limited(space, 2, u64::MAX);
        space.map(&MapRequest::new(&area).at(A).access(Access::USER_DATA)).unwrap();
    }
    area.write(0, &[1; 4 * PAGE as usize]).unwrap().complete();
    assert_eq!((counted(&one).0, counted(&two).0), (0, 0));
    one.populate(one.range(A, 2 * PAGE).unwrap(), Access::READ).unwrap().complete();
    two.populate(two.range(A + PAGE, 2 * PAGE).unwrap(), Access::READ).unwrap().complete();
    assert_eq!((counted(&one).0, counted(&two).0), (2, 2));
    let needed = one.advise(one.range(A, 4 * PAGE).unwrap(), Advice::Needed).map(Flush::complete);
    assert_eq!(needed, Err(SpaceError::Limit(SpaceLimit::ResidentPages(2))));
    one.advise(one.range(A, 2 * PAGE).unwrap(), Advice::Needed).unwrap().complete();
    let child = one.try_clone(()).unwrap().complete();
    assert_eq!(child.limits(), one.limits());
    assert_eq!(counted(&child).0, 0);
    child.populate(child.range(A, 2 * PAGE).unwrap(), Access::READ).unwrap().complete();
    assert!(child.populate(child.range(A, 3 * PAGE).unwrap(), Access::READ).is_err());
    // An area that takes pages away from every space makes room in each.
    area.resize(PAGE).unwrap().complete();
    area.resize(4 * PAGE).unwrap().complete();
    assert_eq!((counted(&one).0, counted(&two).0, counted(&child).0), (1, 0, 1));
    two.populate(two.range(A + 2 * PAGE, 2 * PAGE).unwrap(), Access::READ).unwrap().complete();
    drop(area);
    end(world, vec![child, one, two]);
}

#[derive(Clone, Debug)]
enum Op {
    Map { place: u64, pages: u64, populated: bool },
    MapTwo { place: u64, pages: u64 },
    Touch { place: u64, write: bool },
    Populate { place: u64, pages: u64 },
    Needed { place: u64, pages: u64 },
    Release { place: u64, pages: u64 },
    Unmap { place: u64, pages: u64 },
    Move { place: u64, pages: u64, to: u64, leave: bool },
}

const PLACES: u64 = 24;

fn op() -> impl Strategy<Value = Op> {
    let place = 0..PLACES;
    prop_oneof![
        3 => (place.clone(), 1..6_u64, any::<bool>()).prop_map(|(place, pages, populated)| Op::Map { place, pages, populated }),
        1 => (place.clone(), 1..4_u64).prop_map(|(place, pages)| Op::MapTwo { place, pages }),
        8 => (place.clone(), any::<bool>()).prop_map(|(place, write)| Op::Touch { place, write }),
        3 => (place.clone(), 1..5_u64).prop_map(|(place, pages)| Op::Populate { place, pages }),
        2 => (place.clone(), 1..5_u64).prop_map(|(place, pages)| Op::Needed { place, pages }),
        2 => (place.clone(), 1..5_u64).prop_map(|(place, pages)| Op::Release { place, pages }),
        2 => (place.clone(), 1..5_u64).prop_map(|(place, pages)| Op::Unmap { place, pages }),
        2 => (place.clone(), 1..4_u64, place, any::<bool>())
            .prop_map(|(place, pages, to, leave)| Op::Move { place, pages, to, leave }),
    ]
}

/// Four pages before the end of a leaf table, and on in the next ones.
fn address(place: u64) -> u64 {
    A + place / 8 * STRIDE + STRIDE - 4 * PAGE + place % 8 * PAGE
}

fn apply(world: &World, space: &Space<Sim>, op: &Op) -> Result<(), SpaceError> {
    let range = |place: u64, pages: u64| space.range(address(place), pages * PAGE);
    match *op {
        Op::Map { place, pages, populated } => {
            let area = world.open(pages);
            let request = MapRequest::new(&area).at(address(place)).access(Access::USER_DATA).inherit(Inherit::Copy);
            space.map(&if populated { request.populated() } else { request }).map(drop)
        }
        Op::MapTwo { place, pages } => {
            let area = world.open(2 * pages);
            let part = |number: u64| {
                let request = MapRequest::new(&area).at(address(place) + number * pages * PAGE);
                request.offset(number * pages * PAGE).size(pages * PAGE).access(Access::USER_DATA).populated()
            };
            let mut ranges = [range(0, 1)?; 2];
            space.map_many(&[part(0), part(1)], &mut ranges).map(drop)
        }
        Op::Touch { place, write } => {
            let access = if write { Access::WRITE } else { Access::READ };
            space.fault(Fault::new(address(place), access)).map(|flush| flush.map(|_| ()).complete())
        }
        Op::Populate { place, pages } => space.populate(range(place, pages)?, Access::WRITE).map(Flush::complete),
        Op::Needed { place, pages } => space.advise(range(place, pages)?, Advice::Needed).map(Flush::complete),
        Op::Release { place, pages } => space.advise(range(place, pages)?, Advice::NotNeeded).map(Flush::complete),
        Op::Unmap { place, pages } => space.unmap(range(place, pages)?).map(Flush::complete),
        Op::Move { place, pages, to, leave } => {
            let to = Place::At(address(to));
            let range = range(place, pages)?;
            let moved = match leave {
                true => space.relocate_leaving(range, to),
                false => space.relocate(range, range.size(), Destination::To(to)),
            };
            moved.map(|flush| flush.map(|_| ()).complete())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_refuse_what_exceeds_them(
        ops in prop::collection::vec(op(), 1..60), most_pages in 1..16_u64, most_tables in 3..9_u64
    ) {
        let world = World::new(1);
        let (bound, free) = (world.user(), world.user());
        limited(&bound, most_pages, most_tables);
        // So large that it is never reached, but pages are shown one by one as in the other.
        limited(&free, u64::MAX - 1, u64::MAX - 1);
        for op in &ops {
            let before = (counted(&bound), SpaceMap(&bound).to_string());
            let result = apply(&world, &bound, op);
            let (pages, tables) = counted(&bound);
            prop_assert!(pages <= most_pages && tables <= most_tables, "{op:?}: {pages} pages, {tables} tables");
            let other = apply(&world, &free, op);
            if let Err(SpaceError::Limit(limit)) = result {
                prop_assert_eq!((counted(&bound), SpaceMap(&bound).to_string()), before, "{:?} was refused", op);
                prop_assert_eq!(other, Ok(()), "{:?}", op);
                if let Op::Populate { place, pages } = *op {
                    // What has to be copied, or showed the zero frame, is mapped by the first fault after the flush.
                    for page in 0..pages {
                        free.fault(Fault::new(address(place) + page * PAGE, Access::WRITE)).unwrap().complete();
                    }
                }
                let (pages, tables) = counted(&free);
                match limit {
                    SpaceLimit::ResidentPages(most) => prop_assert!(pages > most && most == most_pages, "{pages} pages"),
                    // With several windows, what it might have taken.
                    SpaceLimit::Tables(most) if matches!(op, Op::MapTwo { .. } | Op::Populate { .. } | Op::Needed { .. } | Op::Move { .. }) => {
                        prop_assert_eq!(most, most_tables);
                    }
                    SpaceLimit::Tables(most) => prop_assert!(tables > most && most == most_tables, "{tables} tables"),
                    other => prop_assert!(false, "{:?}", other),
                }
                // From here on the two differ.
                break;
            }
            prop_assert_eq!(result, other, "{:?}", op);
            prop_assert_eq!(counted(&bound), counted(&free), "{:?}", op);
        }
        drop((bound, free));
        world.finish();
    }
}

/// Large leaves count as the pages that they show, and cutting one is refused for want of tables.
#[test]
fn large_leaves_count_their_pages() {
    use vmcore::addr::{Frame, FrameRange};
    let frames = FrameRange::new(Frame::new(0x20_0000), 1024).unwrap();
    let world = World::of(Sim::builder().frames(256).device(frames));
    let space = world.user();
    world.enter(0, &space);
    let kind = AreaKind::Fixed { frames, memory: vmcore::paging::MemoryType::WriteBack };
    let area: Area<Sim> = common::area(&world.sim, kind).unwrap();
    let request = MapRequest::new(&area).at(STRIDE).access(Access::USER_DATA);
    limited(&space, 1023, u64::MAX);
    let refused = space.map(&MapRequest::new(&area).at(STRIDE).populated()).unwrap_err();
    assert_eq!(refused, SpaceError::Limit(SpaceLimit::ResidentPages(1023)));
    limited(&space, 1024, 3);
    let range = space.map(&request.populated()).unwrap();
    assert_eq!(counted(&space), (1024, 3));
    let refused = SpaceError::Limit(SpaceLimit::Tables(3));
    let (inside, whole) = (space.range(STRIDE + PAGE, PAGE).unwrap(), SpaceMap(&space).to_string());
    assert_eq!(space.unmap(inside).map(Flush::complete), Err(refused));
    assert_eq!(space.protect(inside, Access::READ).map(Flush::complete), Err(refused));
    assert_eq!(space.install_guards(inside).map(Flush::complete), Err(refused));
    assert_eq!(SpaceMap(&space).to_string(), whole);
    space.unmap(range).unwrap().complete();
    drop(area);
    end(world, vec![space]);
}
