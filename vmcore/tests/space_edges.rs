//! What single operations on spaces do at their edges: the place that is found, the pages that are kept, the windows that a refusal leaves alone, what is remembered until a flush is
//! acknowledged. Each expected value is said by hand.

use vmcore::addr::{Frame, FrameRange, PageRange};
use vmcore::frame::OutOfFrames;
use vmcore::inspect::{SpaceTables, SpaceTablesIn};
use vmcore::paging::{Access, FlushRequest, MemoryType, Mmu, WalkEnd};
use vmcore::sim::Sim;
use vmcore::vm_area::{Account, Area, AreaError, AreaKind};
use vmcore::vm_space::{
    Advice, Fault, IndexMemory, Inherit, MapRequest, Place, Space, SpaceError, SpaceLimits, WindowFlags,
};

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, at, load, store, touch};

const GIB: u64 = 1 << 30;
const LARGE: u64 = 2 << 20;

fn fixed(world: &World, first: u64, count: u64) -> Area<Sim> {
    let frames = FrameRange::new(Frame::new(first), count).unwrap();
    common::area(&world.sim, AreaKind::Fixed { frames, memory: MemoryType::Uncached }).unwrap()
}

fn range(start: u64, size: u64) -> PageRange {
    vmcore::paging::X86_64::new(40).range(start, size).unwrap()
}

/// Which of the pages from an address on the tables show.
fn shown(space: &Space<Sim>, start: u64, pages: u64) -> Vec<u64> {
    (0..pages).filter(|page| space.walk(at(start + page * PAGE)).physical().is_some()).collect()
}

/// How large the leaf at an address is, and whether it may be written.
fn leaf(space: &Space<Sim>, address: u64) -> Option<(u64, bool)> {
    match space.walk(at(address)).end() {
        WalkEnd::Mapped { pages, access, .. } => Some((pages.size(), access.contains(Access::WRITE))),
        _ => None,
    }
}

fn pages_of(world: &World) -> u64 {
    world.sim.frame_counts().of(vmcore::frame::FrameUse::Page)
}

fn ends<T>(world: World, spaces: T) {
    drop(spaces);
    world.finish();
}

/// What was taken away is counted, also in the kernel's space that all others see.
#[test]
fn the_generation_rises_with_what_is_taken_away() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(2);
    common::map(&space, &area, GIB, 0, 2);
    world.enter(0, &space);
    store(&world.sim, 0, &space, GIB, 1).unwrap();
    let before = space.generation();
    assert_eq!(space.activate(0).generation, before);
    common::unmap(&space, GIB, 1);
    let after = space.generation();
    assert!(after > before);
    let kernels = common::map(world.kernel(), &area, common::KERNEL_START, 0, 1);
    store(&world.sim, 0, world.kernel(), common::KERNEL_START, 1).unwrap();
    assert_eq!(space.generation(), after, "mapping takes nothing away");
    world.kernel().unmap(kernels).unwrap().complete();
    assert!(space.generation() > after);
    world.leave(0, &space);
    ends(world, (space, area));
}

/// The frame that belongs at an address, whether it is shown or not.
#[test]
fn frames_are_known_before_they_are_shown() {
    let world = World::new(1);
    let space = world.user();
    let (device, open) = (fixed(&world, 0x10_0000, 8), world.open(8));
    space.map(&MapRequest::new(&device).at(GIB).offset(2 * PAGE).size(4 * PAGE)).unwrap();
    common::map(&space, &open, 2 * GIB, 4, 4);
    for page in 0..4 {
        assert_eq!(space.frame_at(at(GIB + page * PAGE + 5)), Some(Frame::new(0x10_0002 + page)));
    }
    assert_eq!(shown(&space, GIB, 4), []);
    open.write(6 * PAGE, &[1]).unwrap().complete();
    let frame = open.frame_at(6 * PAGE);
    assert!(frame.is_some());
    assert_eq!([0, 1, 2, 3].map(|page| space.frame_at(at(2 * GIB + page * PAGE))), [None, None, frame, None]);
    assert_eq!(space.frame_at(at(3 * GIB)), None);
    space.install_guards(range(2 * GIB + 2 * PAGE, PAGE)).unwrap().complete();
    assert_eq!(space.frame_at(at(2 * GIB + 2 * PAGE)), None, "guarded");
    ends(world, (space, device, open));
}

/// What a space's tables hold is said line by line, of all of it and of a part.
#[test]
fn a_space_says_what_its_tables_hold() {
    let world = World::new(1);
    let space = world.user();
    let device = fixed(&world, 0x10_0000, 8);
    for (start, offset, pages) in [(GIB, 0, 3), (GIB + 4 * PAGE, 5, 1), (3 * GIB, 1, 2)] {
        let request = MapRequest::new(&device).at(start).offset(offset * PAGE).size(pages * PAGE);
        space.map(&request.access(USER_READ).populated()).unwrap();
    }
    let lines =
        |text: String| text.lines().map(|line| line.split(" r--u").next().unwrap().to_owned()).collect::<Vec<_>>();
    let expected = [
        "0x0000000040000000-0x0000000040002fff -> 0x000100000000",
        "0x0000000040004000-0x0000000040004fff -> 0x000100005000",
        "0x00000000c0000000-0x00000000c0001fff -> 0x000100001000",
        "3 runs, 24 KiB mapped, x86-64",
    ];
    assert_eq!(lines(SpaceTables(&space).to_string()), expected);
    let part = SpaceTablesIn { space: &space, range: range(GIB + 3 * PAGE, GIB) };
    assert_eq!(lines(part.to_string()), [expected[1], "1 runs, 4 KiB mapped, x86-64"]);
    ends(world, (space, device));
}

/// What is resident, wherever in the window it is, is shown in advance, and nothing else.
#[test]
fn what_is_needed_is_shown_where_it_lies() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(40);
    for page in [3, 9, 10, 11, 30, 39] {
        area.write(page * PAGE, &[page as u8]).unwrap().complete();
    }
    common::map(&space, &area, GIB, 2, 38);
    space.advise(range(GIB + PAGE, 30 * PAGE), Advice::Needed).unwrap().complete();
    assert_eq!(shown(&space, GIB, 38), [1, 7, 8, 9, 28]);
    for page in [1, 7, 8, 9, 28] {
        assert_eq!(
            space.walk(at(GIB + page * PAGE)).physical(),
            area.frame_at((page + 2) * PAGE).map(|frame| frame.start(12))
        );
    }
    // What is not resident counts for no limit.
    let limited = world.user();
    common::map(&limited, &area, GIB, 2, 38);
    limited.set_limits(SpaceLimits::default().resident_pages(5));
    limited.advise(range(GIB + PAGE, 30 * PAGE), Advice::Needed).unwrap().complete();
    assert_eq!(shown(&limited, GIB, 38), [1, 7, 8, 9, 28]);
    drop(limited);
    let device = fixed(&world, 0x10_0000, 8);
    space.map(&MapRequest::new(&device).at(2 * GIB)).unwrap();
    space.advise(range(2 * GIB + 2 * PAGE, 3 * PAGE), Advice::Needed).unwrap().complete();
    assert_eq!(shown(&space, 2 * GIB, 8), [2, 3, 4]);
    ends(world, (space, area, device));
}

/// A window that waits for its flush is not inherited, and does not keep the space from being cloned.
#[test]
fn what_is_unmapped_is_not_cloned() {
    let world = World::new(1);
    let space = world.user();
    let area = common::area(&world.sim, AreaKind::Untracked { size: PAGE }).unwrap();
    let mapped = space.map(&MapRequest::new(&area).at(GIB)).unwrap();
    space.map_anonymous(PAGE, Place::At(2 * GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
    world.enter(0, &space);
    store(&world.sim, 0, &space, GIB, 1).unwrap();
    assert_eq!(space.try_clone(()).map(drop), Err(SpaceError::SingleWindow));
    let flush = space.unmap(mapped).unwrap();
    let child = space.try_clone(()).unwrap().complete();
    assert_eq!(child.windows().map(|window| window.range.start().as_u64()).collect::<Vec<_>>(), [2 * GIB]);
    flush.complete();
    world.leave(0, &space);
    ends(world, (space, child, area));
}

/// Guards that need room for their ranges say how much of it was lacking.
#[test]
fn guards_without_room_say_how_many_frames_are_lacking() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(4096);
    common::map(&space, &area, GIB, 0, 4096);
    world.sim.fail_allocation_after(0);
    let guard = |number: u64| space.install_guards(range(GIB + 2 * number * PAGE, PAGE)).map(|flush| flush.complete());
    let mut installed = 0;
    let refused = loop {
        match guard(installed) {
            Ok(()) => installed += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SpaceError::OutOfFrames(OutOfFrames { wanted: 1..=2, .. })), "{installed}: {refused:?}");
    world.sim.fail_never();
    for number in installed..1000 {
        guard(number).unwrap();
    }
    world.sim.fail_allocation_after(0);
    let refused = (1000..2000).find_map(|number| guard(number).err());
    // 16 bytes for each range, twice as many as there are.
    assert!(matches!(refused, Some(SpaceError::OutOfFrames(OutOfFrames { wanted: 4..=20, .. }))), "{refused:?}");
    world.sim.fail_never();
    ends(world, (space, area));
}

/// A space whose window wants large pages, of `blocks` blocks of a new area.
fn huge_scene(world: &World, blocks: u64) -> (Space<Sim>, Area<Sim>) {
    let (space, area) = (world.user(), world.open(blocks * 512));
    space.map(&MapRequest::new(&area).at(GIB).access(USER_WRITE).inherit(Inherit::Copy)).unwrap();
    space.advise(range(GIB, blocks * LARGE), Advice::Huge).unwrap().complete();
    (space, area)
}

/// A large page that two spaces share is shown for reading, though all of it was written: what one writes, the other does not see.
#[test]
fn a_shared_large_page_is_not_written_by_who_only_read_it() {
    let world = World::of(Sim::builder().frames(4096).cpus(2));
    let (space, area) = huge_scene(&world, 1);
    world.enter(0, &space);
    store(&world.sim, 0, &space, GIB + 5 * PAGE, 55).unwrap();
    assert_eq!(leaf(&space, GIB), Some((LARGE, true)));
    let child = space.try_clone(()).unwrap().complete();
    world.enter(1, &child);
    assert_eq!(load(&world.sim, 1, &child, GIB + 5 * PAGE), Ok(55));
    assert_eq!(leaf(&child, GIB), Some((LARGE, false)), "shared, so for reading, and whole");
    store(&world.sim, 1, &child, GIB + 5 * PAGE, 77).unwrap();
    assert_eq!(
        (load(&world.sim, 0, &space, GIB + 5 * PAGE), load(&world.sim, 1, &child, GIB + 5 * PAGE)),
        (Ok(55), Ok(77))
    );
    world.leave(0, &space);
    world.leave(1, &child);
    ends(world, (space, child, area));
}

/// What was only read is clean: its first write is seen, so that what is free to be taken is kept from then on.
#[test]
fn a_large_page_that_is_only_read_is_clean() {
    let world = World::of(Sim::builder().frames(4096));
    let (space, area) = huge_scene(&world, 1);
    let others = [world.user(), world.user(), world.user()];
    for other in &others {
        other.map(&MapRequest::new(&area).at(GIB).access(USER_WRITE)).unwrap();
        other.advise(range(GIB, LARGE), Advice::Huge).unwrap().complete();
    }
    world.enter(0, &space);
    touch(&world.sim, 0, &space, GIB, USER_READ).unwrap();
    assert_eq!(leaf(&space, GIB), Some((LARGE, false)));
    // Read by another window, it is as clean as before.
    for other in &others[..2] {
        other.fault(Fault::new(GIB + PAGE, USER_READ)).unwrap().complete();
        assert_eq!(leaf(other, GIB), Some((LARGE, false)));
    }
    // One fault is enough for who writes to it.
    others[2].fault(Fault::new(GIB + PAGE, USER_WRITE)).unwrap().complete();
    assert_eq!(leaf(&others[2], GIB), Some((LARGE, true)));
    store(&world.sim, 0, &space, GIB + 9 * PAGE, 1).unwrap();
    assert_eq!(leaf(&space, GIB), Some((LARGE, true)));
    world.leave(0, &space);
    ends(world, (space, others, area));
}

/// No large leaf where a part of it is guarded, is behind the area's end, or is not ordinary memory.
#[test]
fn no_large_page_where_a_part_of_it_is_refused() {
    let world = World::of(Sim::builder().frames(4096));
    let (space, area) = huge_scene(&world, 2);
    world.enter(0, &space);
    space.install_guards(range(GIB + 7 * PAGE, PAGE)).unwrap().complete();
    store(&world.sim, 0, &space, GIB, 1).unwrap();
    assert_eq!((leaf(&space, GIB), area.resident_pages()), (Some((PAGE, true)), 1));
    assert_eq!(store(&world.sim, 0, &space, GIB + 7 * PAGE, 1), Err(SpaceError::Guard(at(GIB + 7 * PAGE))));
    // The area ends in the middle of the window's second block.
    let short = world.open(512 + 100);
    let request = MapRequest::new(&short).at(2 * GIB).size(2 * LARGE).past_end().access(USER_WRITE);
    space.map(&request).unwrap();
    space.advise(range(2 * GIB, 2 * LARGE), Advice::Huge).unwrap().complete();
    store(&world.sim, 0, &space, 2 * GIB + LARGE + 99 * PAGE, 1).unwrap();
    assert_eq!((leaf(&space, 2 * GIB + LARGE + 99 * PAGE), short.resident_pages()), (Some((PAGE, true)), 1));
    let behind = 2 * GIB + LARGE + 100 * PAGE;
    assert_eq!(store(&world.sim, 0, &space, behind, 1), Err(SpaceError::OutsideArea(at(behind))));
    store(&world.sim, 0, &space, 2 * GIB, 1).unwrap();
    assert_eq!((leaf(&space, 2 * GIB), short.resident_pages()), (Some((LARGE, true)), 513));
    // The same where pages are there in a row already.
    let device = world.open(512);
    device.set_memory(MemoryType::Uncached).unwrap().complete();
    space.map(&MapRequest::new(&device).at(3 * GIB).access(USER_WRITE)).unwrap();
    space.advise(range(3 * GIB, LARGE), Advice::Huge).unwrap().complete();
    let pin = device.allocate(0, LARGE, 9).unwrap().complete();
    store(&world.sim, 0, &space, 3 * GIB, 1).unwrap();
    assert_eq!(leaf(&space, 3 * GIB), Some((PAGE, true)));
    drop(pin);
    world.leave(0, &space);
    ends(world, (space, area, short, device));
}

/// Populating makes large pages of what is nowhere yet, and leaves what is there as it is: pages, other kinds of memory, zeros that are shown.
#[test]
fn populating_makes_large_pages_of_nothing_else() {
    let world = World::of(Sim::builder().frames(8192).cpus(2));
    let space = world.user();
    world.enter(0, &space);
    let wanted = |area: &Area<Sim>, start| {
        space.map(&MapRequest::new(area).at(start).access(USER_WRITE)).unwrap();
        space.advise(range(start, area.size()), Advice::Huge).unwrap().complete();
        space.populate(range(start, area.size()), USER_WRITE).unwrap().complete();
    };
    let (fresh, used, device, zeros) = (world.open(512), world.open(512), world.open(512), world.open(512));
    let ring = common::area(&world.sim, AreaKind::Ring { size: LARGE }).unwrap();
    wanted(&fresh, GIB);
    assert_eq!(leaf(&space, GIB), Some((LARGE, true)));
    used.write(5 * PAGE, b"kept").unwrap().complete();
    wanted(&used, 2 * GIB);
    let mut bytes = [0; 4];
    space.read_bytes(at(2 * GIB + 5 * PAGE), &mut bytes).unwrap();
    assert_eq!((&bytes, leaf(&space, 2 * GIB), used.resident_pages()), (b"kept", Some((PAGE, true)), 512));
    device.set_memory(MemoryType::Uncached).unwrap().complete();
    wanted(&device, 3 * GIB);
    assert_eq!((leaf(&space, 3 * GIB), device.resident_pages()), (Some((PAGE, true)), 512));
    wanted(&ring, 4 * GIB);
    assert_eq!((leaf(&space, 4 * GIB), ring.resident_pages()), (Some((PAGE, true)), 512));
    assert_eq!(space.frame_at(at(4 * GIB + 9 * PAGE)), space.frame_at(at(4 * GIB + LARGE + 9 * PAGE)));
    // Another space has read zeros, and shows them.
    let other = world.user();
    common::map(&other, &zeros, GIB, 0, 512);
    world.enter(1, &other);
    assert_eq!(load(&world.sim, 1, &other, GIB + 7 * PAGE), Ok(0));
    wanted(&zeros, 5 * GIB);
    store(&world.sim, 0, &space, 5 * GIB + 7 * PAGE, 77).unwrap();
    assert_eq!(load(&world.sim, 1, &other, GIB + 7 * PAGE), Ok(77));
    world.leave(0, &space);
    world.leave(1, &other);
    ends(world, (space, other, fresh, used, device, zeros, ring));
}

/// Where another window shows the zero frame for a page, pages are made one by one, so that the other sees what is written.
#[test]
fn no_large_page_where_zeros_are_shown() {
    let world = World::of(Sim::builder().frames(4096).cpus(2));
    let (space, area) = huge_scene(&world, 1);
    drop(area);
    world.enter(0, &space);
    assert_eq!(load(&world.sim, 0, &space, GIB), Ok(0));
    let before = leaf(&space, GIB);
    store(&world.sim, 0, &space, GIB + 7 * PAGE, 7).unwrap();
    assert_eq!(
        (load(&world.sim, 0, &space, GIB), load(&world.sim, 0, &space, GIB + 7 * PAGE)),
        (Ok(0), Ok(7)),
        "{before:?}"
    );
    store(&world.sim, 0, &space, GIB, 3).unwrap();
    assert_eq!(load(&world.sim, 0, &space, GIB), Ok(3));
    world.leave(0, &space);
    ends(world, space);
}

/// A large page that is shown for reading, in a window that wants none any more: a write makes single leaves of it, and all of it stays what it was.
#[test]
fn a_large_page_that_is_unwanted_is_taken_apart_by_the_first_write() {
    let world = World::of(Sim::builder().frames(4096));
    let (space, area) = huge_scene(&world, 1);
    world.enter(0, &space);
    store(&world.sim, 0, &space, GIB + 3 * PAGE, 33).unwrap();
    let child = space.try_clone(()).unwrap().complete();
    drop(child);
    assert_eq!(load(&world.sim, 0, &space, GIB + 3 * PAGE), Ok(33));
    let flags = space.windows().next().unwrap().flags;
    assert!(flags.contains(WindowFlags::HUGE));
    space.advise(range(GIB, LARGE), Advice::NeverHuge).unwrap().complete();
    let frame = space.frame_at(at(GIB)).unwrap();
    store(&world.sim, 0, &space, GIB + 5 * PAGE, 55).unwrap();
    assert_eq!(
        (load(&world.sim, 0, &space, GIB + 3 * PAGE), load(&world.sim, 0, &space, GIB + 5 * PAGE)),
        (Ok(33), Ok(55))
    );
    assert_eq!(space.frame_at(at(GIB + 100 * PAGE)), Some(frame.add(100)));
    world.leave(0, &space);
    ends(world, (space, area));
}

/// A large page of which a part was given up goes page by page, and its frames make another one: each is counted for what it is.
#[test]
fn a_large_page_that_was_taken_apart_is_made_again() {
    let world = World::of(Sim::builder().frames(1800));
    let space = world.user();
    world.enter(0, &space);
    let mut frames = Vec::new();
    for round in 0..8 {
        space.map_anonymous(LARGE, Place::At(GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
        space.advise(range(GIB, LARGE), Advice::Huge).unwrap().complete();
        store(&world.sim, 0, &space, GIB, round).unwrap();
        assert_eq!(leaf(&space, GIB), Some((LARGE, true)), "{round}");
        frames.extend(space.frame_at(at(GIB)));
        for page in [0, 70, 511] {
            space.advise(range(GIB + page * PAGE, PAGE), Advice::NotNeeded).unwrap().complete();
            assert_eq!(load(&world.sim, 0, &space, GIB + page * PAGE), Ok(0));
        }
        space.unmap_and_release(range(GIB, LARGE)).unwrap().complete();
    }
    frames.sort_unstable();
    frames.dedup();
    assert!(frames.len() <= 3, "there are three places for it");
    world.leave(0, &space);
    ends(world, space);
}

/// The kernel's index begins in memory that it was lent, and goes on in frames.
#[test]
fn a_lent_index_grows_into_frames() {
    static LENT: IndexMemory<3> = IndexMemory::new();
    let sim = Sim::builder().frames(256).build();
    let start = sim.frame_counts();
    let bounds = range(common::KERNEL_START, common::KERNEL_SIZE);
    let kernel = Space::kernel(&sim, bounds, LENT.take(), ()).unwrap();
    let area = common::area(&sim, AreaKind::Open { size: 1024 * PAGE }).unwrap();
    // Not in order, and none beside another, so that none are joined.
    let place = |number: u64| common::KERNEL_START + (number * 37 % 300) * 2 * PAGE;
    for number in 0..300 {
        kernel.map(&MapRequest::new(&area).at(place(number)).size(PAGE)).unwrap();
    }
    let all: Vec<_> = kernel.windows().map(|window| window.range.start().as_u64()).collect();
    assert_eq!(all, (0..300).map(|number| common::KERNEL_START + number * 2 * PAGE).collect::<Vec<_>>());
    for number in 0..300 {
        kernel.unmap(range(place(number), PAGE)).unwrap().complete();
    }
    drop(area);
    kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(sim.frame_counts(), start);
}

/// Several windows at once take what several windows need, and no more than a few frames.
#[test]
fn many_windows_take_few_frames() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(64);
    let before = world.sim.allocation_requests();
    let requests: [_; 40] = std::array::from_fn(|number| {
        let page = number as u64;
        MapRequest::new(&area).at(GIB + 2 * page * PAGE).offset(page * PAGE).size(PAGE)
    });
    let mut ranges = [space.bounds(); 40];
    assert_eq!(space.map_many(&requests, &mut ranges), Ok(40));
    // 40 records and two or three nodes, in pages of pools.
    assert!(world.sim.allocation_requests() - before < 8, "{}", world.sim.allocation_requests() - before);
    ends(world, (space, area));
}

/// What several windows would show is limited before anything is filled, and a refusal takes all charges back.
#[test]
fn many_windows_are_refused_by_limits_and_accounts_as_one() {
    let world = World::new(1);
    let space = world.user();
    let areas: [_; 3] = std::array::from_fn(|_| world.open(4));
    let accounts = [10, 10, 2].map(|limit| Account::new(&world.sim, limit).unwrap());
    for (area, account) in areas.iter().zip(&accounts) {
        area.charge_to(account).unwrap();
    }
    let requests: [_; 3] =
        std::array::from_fn(|number| MapRequest::new(&areas[number]).at(GIB + number as u64 * 64 * PAGE).populated());
    let mut ranges = [space.bounds(); 3];
    let refused = space.map_many(&requests, &mut ranges);
    assert!(matches!(refused, Err(SpaceError::Area(AreaError::OutOfAccount(_)))), "{refused:?}");
    assert_eq!((space.windows().count(), accounts.each_ref().map(|account| account.charged())), (0, [0; 3]));
    accounts[2].set_limit(4);
    space.set_limits(SpaceLimits::default().resident_pages(11));
    let refused = space.map_many(&requests, &mut ranges);
    assert!(matches!(refused, Err(SpaceError::Limit { .. })), "{refused:?}");
    assert_eq!((space.windows().count(), accounts.each_ref().map(|account| account.charged())), (0, [0; 3]));
    space.set_limits(SpaceLimits::default().resident_pages(12));
    assert_eq!(space.map_many(&requests, &mut ranges), Ok(3));
    assert_eq!(accounts.each_ref().map(|account| account.charged()), [4; 3]);
    assert_eq!(space.counters().resident_pages, 12);
    ends(world, (space, areas, accounts));
}

/// The page that the entropy chooses, of all at which the window fits: the lowest, the highest, and those between as its high bits say.
#[test]
fn random_places_are_where_the_entropy_says() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(4);
    // 100 pages, in which 4 fit at 97 places.
    let within = range(GIB + 7 * PAGE, 100 * PAGE);
    let place = |entropy: u64, within, shift| {
        let request = MapRequest::new(&area).place(Place::Random { entropy, within }).aligned(shift);
        let found = space.map(&request).unwrap();
        space.unmap(found).unwrap().complete();
        found.start().as_u64()
    };
    let starts = 97_u128;
    for entropy in [0, 1, u64::MAX, u64::MAX / 2, u64::MAX / 97, u64::MAX / 97 + 1, 0xdead_beef_1234_5678, 3 << 62] {
        let chosen = ((u128::from(entropy) * starts) >> 64) as u64;
        assert_eq!(place(entropy, Some(within), 0), GIB + (7 + chosen) * PAGE, "{entropy:#x}");
    }
    assert_eq!(place(u64::MAX, Some(within), 0), GIB + 103 * PAGE);
    // At multiples of 16 pages, of which those within begin at the 16th, and end at the 96th.
    assert_eq!(place(0, Some(within), 16), GIB + 16 * PAGE);
    assert_eq!(place(u64::MAX, Some(within), 16), GIB + 96 * PAGE);
    assert_eq!(place(0, None, 0), space.bounds().start().as_u64());
    assert_eq!(place(u64::MAX, None, 0), space.bounds().last().as_u64() + 1 - 4 * PAGE);
    // Where something is, another one is drawn; where nothing that is drawn is free, what is.
    let taken = space.map(&MapRequest::new(&area).at(GIB + 50 * PAGE)).unwrap();
    let request = |entropy| MapRequest::new(&area).place(Place::Random { entropy, within: Some(within) });
    let entropy = |page: u64| (u128::from(page) << 64).div_ceil(97) as u64;
    let found = space.map(&request(entropy(43))).unwrap();
    assert!(!found.overlaps(taken) && within.covers(found), "{found}");
    space.unmap(found).unwrap().complete();
    let rest = world.open(53);
    space.map(&MapRequest::new(&rest).at(GIB + 54 * PAGE)).unwrap();
    let lower = world.open(39);
    space.map(&MapRequest::new(&lower).at(GIB + 7 * PAGE)).unwrap();
    for entropy in [0, 1, entropy(43), u64::MAX] {
        let found = space.map(&request(entropy)).unwrap();
        assert_eq!(found.start().as_u64(), GIB + 46 * PAGE);
        assert_eq!(space.map(&request(entropy)), Err(SpaceError::NoGap(4 * PAGE)));
        space.unmap(found).unwrap().complete();
    }
    space.unmap(taken).unwrap().complete();
    ends(world, (space, area, rest, lower));
}

/// Addresses of fixed memory agree with its frames as far as larger leaves gain by it, and as far as the alignment that was asked for allows it.
#[test]
fn fixed_memory_lies_as_its_frames_do() {
    let world = World::new(1);
    let space = world.user();
    // 5 pages into a large leaf, 6 pages, none; small ones; and larger than a leaf of 1 GiB.
    for (first, count, alignment, phase, modulus) in [
        (0x10_0005, 1024, 0, 5 * PAGE, LARGE),
        (0x10_0006, 1024, 13, 6 * PAGE, LARGE),
        (0x10_0005, 1024, 13, 0, 2 * PAGE),
        (0x10_0000, 1024, 16, 0, LARGE),
        (0x10_0010, 1024, 16, 16 * PAGE, LARGE),
        (0x10_0005, 511, 0, 0, PAGE),
        (0x30_0007, 3 << 18, 0, 7 * PAGE, GIB),
        (0x30_0200, 3 << 18, 21, LARGE, GIB),
        (0x30_0100, 3 << 18, 30, 0, GIB),
    ] {
        let device = fixed(&world, first, count);
        for place in [Place::FirstGap, Place::LastGap, Place::Random { entropy: 1 << 62, within: None }] {
            let found = space.map(&MapRequest::new(&device).place(place).aligned(alignment)).unwrap();
            assert_eq!(
                found.start().as_u64() % modulus,
                phase,
                "{first:#x} + {count}, {alignment}, {place:?}: {found}"
            );
            space.unmap(found).unwrap().complete();
        }
        drop(device);
    }
    ends(world, space);
}

/// One page of a large leaf of fixed memory gets another access: the others keep theirs.
#[test]
fn a_page_of_a_large_leaf_is_protected_alone() {
    let frames = FrameRange::new(Frame::new(0x10_0000), 1536).unwrap();
    let world = World::of(Sim::builder().frames(1024).device(frames));
    let space = world.user();
    let device = fixed(&world, 0x10_0000, 1536);
    space.map(&MapRequest::new(&device).at(GIB).access(USER_WRITE).populated()).unwrap();
    assert_eq!(leaf(&space, GIB), Some((LARGE, true)));
    world.enter(0, &space);
    touch(&world.sim, 0, &space, GIB + 5 * PAGE, USER_WRITE).unwrap();
    for (first, count) in [(5, 1), (600, 100), (1024, 10)] {
        space.protect(range(GIB + first * PAGE, count * PAGE), USER_READ).unwrap().complete();
    }
    for page in [0, 4, 5, 6, 511, 512, 599, 600, 699, 700, 1023, 1024, 1033, 1034] {
        let writable = page != 5 && !(600..700).contains(&page) && !(1024..1034).contains(&page);
        assert_eq!(leaf(&space, GIB + page * PAGE), Some((PAGE, writable)), "{page}");
        let address = GIB + page * PAGE;
        assert_eq!(space.walk(at(address)).physical().unwrap().as_u64(), (0x10_0000 + page) * PAGE);
        assert_eq!(world.sim.access(0, at(address), USER_WRITE).is_ok(), writable, "{page}");
    }
    assert!(space.windows().all(|window| !window.gated));
    world.leave(0, &space);
    ends(world, (space, device));
}

/// Permission that leaves had not anyway is taken from nobody: nothing is flushed.
#[test]
fn what_was_not_allowed_is_not_taken_away() {
    let world = World::of(Sim::builder().frames(4096));
    let (space, area) = huge_scene(&world, 1);
    let protect = |access| {
        let flush = space.protect(range(GIB, LARGE), access).unwrap();
        let is_empty = flush.request().scope.is_empty();
        flush.complete();
        is_empty
    };
    world.enter(0, &space);
    touch(&world.sim, 0, &space, GIB, USER_READ).unwrap();
    assert_eq!(leaf(&space, GIB), Some((LARGE, false)));
    assert!(protect(USER_READ), "it was for reading alone");
    assert!(protect(USER_WRITE), "nothing is taken away");
    store(&world.sim, 0, &space, GIB, 1).unwrap();
    assert_eq!(leaf(&space, GIB), Some((LARGE, true)));
    assert!(!protect(USER_READ));
    assert_eq!(leaf(&space, GIB), Some((LARGE, false)));
    world.leave(0, &space);
    ends(world, (space, area));
}

/// Pages that were taken out of the tables by a protection whose flush is outstanding are remembered still: who unmaps them flushes them, and what they held is free only then.
#[test]
fn what_a_protection_dropped_is_flushed_by_who_unmaps_it() {
    for several in [false, true] {
        let world = World::new(2);
        let space = world.user();
        space.map_anonymous(4 * PAGE, Place::At(GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
        if several {
            // Another window in the range.
            space.map_anonymous(4 * PAGE, Place::At(GIB + 4 * PAGE), USER_READ, Inherit::Copy, 0).unwrap();
        }
        let all = range(GIB, if several { 8 } else { 4 } * PAGE);
        for cpu in 0..2 {
            world.enter(cpu, &space);
            for page in 0..4 {
                store(&world.sim, cpu, &space, GIB + page * PAGE, 1).unwrap();
            }
        }
        let held = pages_of(&world);
        let dropped = space.protect(all, Access::empty()).unwrap();
        let flush = space.unmap_and_release(range(GIB, 4 * PAGE)).unwrap();
        let covered = |request: &FlushRequest<_>| {
            request.scope.is_everything()
                || request
                    .scope
                    .entries()
                    .any(|entry| entry.range.is_none_or(|range| range.contains(at(GIB + 2 * PAGE))))
        };
        assert!(covered(flush.request()), "{several}: {:?}", flush.request());
        assert_eq!(pages_of(&world), held, "{several}: free before they are forgotten");
        flush.complete();
        for cpu in 0..2 {
            assert!(world.sim.access(cpu, at(GIB + 2 * PAGE), USER_READ).is_err());
        }
        dropped.complete();
        for cpu in 0..2 {
            world.leave(cpu, &space);
        }
        ends(world, space);
    }
}

/// What is unmapped with its pages goes only as far as nobody else has it: a handle, another window.
#[test]
fn what_others_reach_is_not_released() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(8);
    common::map(&space, &area, GIB, 0, 8);
    for page in 0..8 {
        area.write(page * PAGE, &[1 + page as u8]).unwrap().complete();
    }
    space.unmap_and_release(range(GIB + 2 * PAGE, 2 * PAGE)).unwrap().complete();
    assert_eq!(area.resident_pages(), 8, "there is a handle");
    let other = world.user();
    common::map(&other, &area, GIB, 4, 1);
    drop(area);
    let before = pages_of(&world);
    space.unmap_and_release(range(GIB + 4 * PAGE, 2 * PAGE)).unwrap().complete();
    let mut bytes = [0];
    other.read_bytes(at(GIB), &mut bytes).unwrap();
    assert_eq!(bytes, [5], "another window shows it");
    assert!(pages_of(&world) >= before - 2);
    let before = pages_of(&world);
    space.unmap_and_release(range(GIB, PAGE)).unwrap().complete();
    assert_eq!(pages_of(&world), before - 1);
    // All of a window that is one of two onto the area.
    space.unmap_and_release(range(GIB + 6 * PAGE, 2 * PAGE)).unwrap().complete();
    assert_eq!(pages_of(&world), before - 3);
    ends(world, (space, other));
}

/// What a part of a window had goes with the part, and what its neighbour has that somebody has a handle of stays.
#[test]
fn a_part_is_released_and_its_neighbour_is_not() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    space.map_anonymous(512 * PAGE, Place::At(GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
    let shared = world.open(8);
    common::map(&space, &shared, GIB + 512 * PAGE, 0, 8);
    for page in (0..520).filter(|page| page % 13 == 0 || *page >= 512) {
        store(&world.sim, 0, &space, GIB + page * PAGE, page).unwrap();
    }
    let before = pages_of(&world);
    space.unmap_and_release(range(GIB + 13 * PAGE, 14 * PAGE)).unwrap().complete();
    assert_eq!(pages_of(&world), before - 2);
    space.unmap_and_release(range(GIB + 100 * PAGE, 420 * PAGE)).unwrap().complete();
    assert_eq!(shared.resident_pages(), 8);
    // The same where what stays comes first.
    let first = world.open(8);
    common::map(&space, &first, GIB - 8 * PAGE, 0, 8);
    first.write(PAGE, &[1]).unwrap().complete();
    space.unmap_and_release(range(GIB - 8 * PAGE, 10 * PAGE)).unwrap().complete();
    assert_eq!(first.resident_pages(), 1);
    drop(first);
    assert_eq!(pages_of(&world), before - 3 - (104..512).step_by(13).count() as u64);
    for page in [39, 91] {
        assert_eq!(load(&world.sim, 0, &space, GIB + page * PAGE), Ok(page));
    }
    world.leave(0, &space);
    ends(world, (space, shared));
}

/// Whatever a window is besides, unmapping all of it at once is what unmapping its parts is.
#[test]
fn all_of_a_window_is_unmapped_as_its_parts_are() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(4);
    let window = range(GIB, 4 * PAGE);
    // Guards go with it.
    common::map(&space, &area, GIB, 0, 4);
    space.install_guards(range(GIB + PAGE, PAGE)).unwrap().complete();
    space.unmap(window).unwrap().complete();
    common::map(&space, &area, GIB, 0, 4);
    space.fault(Fault::new(GIB + PAGE, USER_WRITE)).unwrap().complete();
    // It is counted no more.
    space.unmap(window).unwrap().complete();
    space.set_limits(SpaceLimits::default().resident_pages(4));
    for _ in 0..3 {
        space.map(&MapRequest::new(&area).at(GIB).populated()).unwrap();
        assert_eq!(space.counters().resident_pages, 4);
        space.unmap(window).unwrap().complete();
        assert_eq!(space.counters().resident_pages, 0);
    }
    space.set_limits(SpaceLimits::default());
    // Untracked pages are freed.
    let untracked = common::area(&world.sim, AreaKind::Untracked { size: 4 * PAGE }).unwrap();
    let before = pages_of(&world);
    space.map(&MapRequest::new(&untracked).at(GIB).populated()).unwrap();
    assert_eq!(pages_of(&world), before + 4);
    space.unmap(window).unwrap().complete();
    assert_eq!(pages_of(&world), before);
    // While the flush is outstanding nothing comes to lie there, also when it is unmapped again.
    world.enter(0, &space);
    common::map(&space, &area, GIB, 0, 4);
    store(&world.sim, 0, &space, GIB, 1).unwrap();
    let flush = space.unmap(window).unwrap();
    let again = space.unmap(window).unwrap();
    let request = MapRequest::new(&area).at(GIB);
    assert_eq!(space.map(&request), Err(SpaceError::Retry(at(GIB))));
    flush.complete();
    again.complete();
    world.leave(0, &space);
    // Sealed, it stays.
    common::map(&space, &area, GIB, 0, 4);
    space.seal(window).unwrap();
    assert_eq!(space.unmap(window).map(|flush| flush.complete()), Err(SpaceError::Sealed(at(GIB))));
    ends(world, (space, area, untracked));
}

/// What no leaf can say is refused for a range of several windows as for one, and changes none of them.
#[test]
fn what_cannot_be_said_is_not_protected() {
    let world = World::new(1);
    let space = world.user();
    let areas = [world.open(4), world.open(4)];
    for (number, area) in (0..).zip(&areas) {
        common::map(&space, area, GIB + number * 4 * PAGE, 0, 4);
    }
    let before: Vec<_> = space.windows().collect();
    for size in [4, 8] {
        let refused = space.protect(range(GIB, size * PAGE), Access::WRITE | Access::USER);
        assert!(matches!(refused, Err(SpaceError::Encode(_))), "{size}: {refused:?}");
        assert_eq!(space.windows().collect::<Vec<_>>(), before);
    }
    ends(world, (space, areas));
}

/// A pinned page is not released while it is pinned.
#[test]
fn pinned_pages_are_not_released() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(8);
    common::map(&space, &area, GIB, 1, 7);
    area.write(4 * PAGE, &[4]).unwrap().complete();
    let pin = area.pin(5 * PAGE, PAGE).unwrap().complete();
    drop(area);
    let before = pages_of(&world);
    space.unmap_and_release(range(GIB + 3 * PAGE, 2 * PAGE)).unwrap().complete();
    assert_eq!(pages_of(&world), before, "a pin is a handle");
    drop(pin);
    ends(world, space);
}

/// A child that reads a page it shares gets its neighbours at once, and for reading; where what is shown is limited, the page alone.
#[test]
fn a_childs_first_read_shows_what_is_beside() {
    for (has_table, is_limited) in [(false, false), (true, false), (false, true), (true, true)] {
        let world = World::new(1);
        let space = world.user();
        space.map_anonymous(128 * PAGE, Place::At(GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
        world.enter(0, &space);
        for page in (2..50).chain(66..80) {
            store(&world.sim, 0, &space, GIB + page * PAGE, page).unwrap();
        }
        let child = space.try_clone(()).unwrap().complete();
        if is_limited {
            child.set_limits(SpaceLimits::default().resident_pages(100));
        }
        world.leave(0, &space);
        world.enter(0, &child);
        if has_table {
            store(&world.sim, 0, &child, GIB + 60 * PAGE, 60).unwrap();
            store(&world.sim, 0, &child, GIB + 100 * PAGE, 100).unwrap();
            assert_eq!(shown(&child, GIB, 128), [60, 100], "what is made is shown alone");
        }
        assert_eq!(load(&world.sim, 0, &child, GIB + 5 * PAGE), Ok(5));
        let expected: Vec<_> = if is_limited { 5..6 } else { 2..50 }.collect();
        assert_eq!(shown(&child, GIB, 60), expected, "{has_table} {is_limited}");
        for page in 2..50 {
            assert_eq!(load(&world.sim, 0, &child, GIB + page * PAGE), Ok(page));
            assert_eq!(leaf(&child, GIB + page * PAGE), Some((PAGE, false)));
        }
        world.leave(0, &child);
        ends(world, (space, child));
    }
}

/// Of two windows onto an area that shares pages with a child's, what one has made its own may be written through the other at once, and nothing else.
#[test]
fn neighbours_that_are_shared_are_shown_for_reading() {
    // Of a packed node and of one that is not, and where each page is looked at by itself.
    for (pages, is_ring) in [(16, false), (64, false), (64, true)] {
        let world = World::new(1);
        let space = world.user();
        let kind = if is_ring { AreaKind::Ring { size: pages * PAGE } } else { AreaKind::Open { size: pages * PAGE } };
        let area = common::area(&world.sim, kind).unwrap();
        let map = |start| {
            let request = MapRequest::new(&area).at(start).size(pages * PAGE).access(USER_WRITE).inherit(Inherit::Copy);
            space.map(&request).unwrap();
        };
        map(GIB);
        world.enter(0, &space);
        for page in 0..pages {
            store(&world.sim, 0, &space, GIB + page * PAGE, page).unwrap();
        }
        let child = space.try_clone(()).unwrap().complete();
        // The leaf of the tree is the parent's own from here on, as these pages are, and no others.
        for page in [3, 11] {
            store(&world.sim, 0, &space, GIB + page * PAGE, 100 + page).unwrap();
        }
        map(2 * GIB);
        assert_eq!(load(&world.sim, 0, &space, 2 * GIB), Ok(0));
        for page in 0..pages {
            let own = page == 3 || page == 11;
            assert_eq!(leaf(&space, 2 * GIB + page * PAGE), Some((PAGE, own)), "{page} of {pages}");
        }
        for page in 0..pages {
            store(&world.sim, 0, &space, 2 * GIB + page * PAGE, 200 + page).unwrap();
            assert_eq!(load(&world.sim, 0, &space, GIB + page * PAGE), Ok(200 + page));
        }
        world.leave(0, &space);
        world.enter(0, &child);
        for page in 0..pages {
            assert_eq!(load(&world.sim, 0, &child, GIB + page * PAGE), Ok(page));
        }
        world.leave(0, &child);
        ends(world, (space, child, area));
    }
}

/// What nobody shares any more is written where it is.
#[test]
fn what_is_shared_no_more_is_not_copied() {
    let world = World::of(Sim::builder().frames(4096));
    let (space, area) = huge_scene(&world, 1);
    world.enter(0, &space);
    space.map_anonymous(4 * PAGE, Place::At(2 * GIB), USER_WRITE, Inherit::Copy, 0).unwrap();
    for address in [GIB + PAGE, 2 * GIB + PAGE] {
        store(&world.sim, 0, &space, address, 5).unwrap();
    }
    let frames = [GIB, 2 * GIB].map(|start| space.frame_at(at(start + PAGE)));
    drop(space.try_clone(()).unwrap().complete());
    let before = pages_of(&world);
    for address in [GIB + PAGE, 2 * GIB + PAGE] {
        store(&world.sim, 0, &space, address, 6).unwrap();
    }
    assert_eq!([GIB, 2 * GIB].map(|start| space.frame_at(at(start + PAGE))), frames);
    assert_eq!((pages_of(&world), leaf(&space, GIB)), (before, Some((LARGE, true))));
    world.leave(0, &space);
    ends(world, (space, area));
}
