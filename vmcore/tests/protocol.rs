//! Two CPUs and flushes that arrive late, interleaved by hand: what is true before, between and after.

mod common;

use common::{KERNEL_START, PAGE, USER_READ, USER_WRITE, World, at, load, map, store, touch, unmap};
use vmcore::Platform;
use vmcore::frame::FrameUse;
use vmcore::paging::Flush;
use vmcore::paging::{Access, DetachedFlush, Mmu, RiscV64};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, SectionLayout};
use vmcore::vm_space::{Fault, MapRequest, Resolution, Space, SpaceError};

const A: u64 = 0x40_0000;

fn acknowledge(world: &World, flush: DetachedFlush<Sim, ()>) {
    world.sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() };
}

/// A world with two CPUs in one space, which shows an area of 4 pages at `A`, all of them touched by CPU 1.
fn two_cpus() -> (World, Space<Sim>, Area<Sim>) {
    let world = World::new(2);
    let space = world.user();
    world.enter(0, &space);
    world.enter(1, &space);
    let area = world.open(4);
    map(&space, &area, A, 0, 4);
    for page in 0..4 {
        store(&world.sim, 1, &space, A + page * PAGE, 100 + page).unwrap();
    }
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

#[test]
fn a_stale_translation_is_used_until_the_flush_and_never_after() {
    let (world, space, area) = two_cpus();
    let flush = space.unmap(space.range(A, PAGE).unwrap()).unwrap().detach();
    assert!(flush.request().cpus == cpus(&[0, 1]), "{flush:?}");
    // CPU 1 has not heard of it: its store goes to the page, which the area still owns.
    world.sim.write_u64(1, at(A), true, 7).unwrap();
    // CPU 0 never touched it, and finds nothing.
    assert!(world.sim.read_u64(0, at(A), true).is_err());
    acknowledge(&world, flush);
    assert!(world.sim.access(1, at(A), USER_READ).is_err());
    assert!(matches!(space.fault(Fault::new(A, USER_READ)), Err(SpaceError::NoWindow(_))));
    let mut bytes = [0; 8];
    area.read(0, &mut bytes).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes), 7, "the area keeps what was written");
    end(world, space, area);
}

fn cpus(list: &[usize]) -> vmcore::CpuMask {
    use vmcore::CpuSet;
    let mut set = vmcore::CpuMask::EMPTY;
    for cpu in list {
        set.insert(*cpu);
    }
    set
}

#[test]
fn address_reuse_after_ack() {
    let (world, space, area) = two_cpus();
    let other = world.open(4);
    let flush = space.unmap(space.range(A + PAGE, PAGE).unwrap()).unwrap().detach();
    let request = MapRequest::new(&other).at(A + PAGE).size(PAGE);
    assert_eq!(space.map(&request), Err(SpaceError::Retry(at(A + PAGE))));
    assert!(matches!(space.fault(Fault::new(A + PAGE, USER_READ)), Err(SpaceError::Retry(_))));
    assert_eq!(
        space.populate(space.range(A + PAGE, PAGE).unwrap(), Access::READ).map(Flush::complete),
        Err(SpaceError::Retry(at(A + PAGE)))
    );
    // The gap search passes over what waits.
    let found = space.map(&MapRequest::new(&other).size(PAGE)).unwrap();
    assert!(!found.contains(at(A + PAGE)), "{found}");
    // Its neighbours are not gated.
    assert_eq!(load(&world.sim, 0, &space, A).unwrap(), 100);
    assert_eq!(load(&world.sim, 0, &space, A + 2 * PAGE).unwrap(), 102);
    acknowledge(&world, flush);
    space.map(&request).unwrap();
    assert_eq!(load(&world.sim, 1, &space, A + PAGE).unwrap(), 0, "the new area's page, on the CPU that knew the old");
    drop(other);
    end(world, space, area);
}

#[test]
fn frame_free_after_ack() {
    let (world, space, area) = two_cpus();
    let before = world.sim.frame_counts().of(FrameUse::Page);
    let flush = area.resize(PAGE).unwrap().detach();
    assert_eq!(area.resident_pages(), 1);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), before, "frames were freed before the flush");
    // The stale translation leads to the quarantined frame, and to nobody else's.
    world.sim.write_u64(1, at(A + PAGE), true, 1).unwrap();
    assert!(matches!(space.fault(Fault::new(A + PAGE, USER_READ)), Err(SpaceError::OutsideArea(_))));
    // One CPU that has heard of it is not enough for the frames to be free: that is for the acknowledgement to say.
    world.sim.apply_on(0, flush.request());
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), before);
    acknowledge(&world, flush);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), before - 3);
    assert!(world.sim.access(1, at(A + PAGE), USER_READ).is_err());
    end(world, space, area);
}

#[test]
fn a_shrink_while_an_unmap_is_outstanding_flushes_what_was_unmapped() {
    let (world, space, area) = two_cpus();
    let before = world.sim.frame_counts().of(FrameUse::Page);
    let unmapped = space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach();
    let shrunk = area.resize(PAGE).unwrap().detach();
    // The tables hold nothing of the pages any more, yet CPU 1 does: the shrink must ask for it all the same.
    assert!(!shrunk.request().scope.is_empty() && shrunk.request().cpus == cpus(&[0, 1]), "{shrunk:?}");
    acknowledge(&world, shrunk);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), before - 3);
    assert!(world.sim.access(1, at(A + PAGE), USER_READ).is_err());
    assert_eq!(world.sim.read_u64(1, at(A), true), Ok(100), "the page that stayed is still to be flushed");
    acknowledge(&world, unmapped);
    assert!(world.sim.access(1, at(A), USER_READ).is_err());
    end(world, space, area);
}

#[test]
fn an_unmap_while_a_shrink_is_outstanding_does_not_free_the_address_early() {
    let (world, space, area) = two_cpus();
    let shrunk = area.resize(PAGE).unwrap().detach();
    let unmapped = space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach();
    acknowledge(&world, unmapped);
    // The address is free now: CPU 1 must not have kept the shrunk pages' translations.
    let other = world.open(4);
    map(&space, &other, A, 0, 4);
    for page in 0..4 {
        assert_eq!(load(&world.sim, 1, &space, A + page * PAGE).unwrap(), 0);
    }
    acknowledge(&world, shrunk);
    drop(other);
    end(world, space, area);
}

#[test]
fn growing_again_waits_for_what_was_given_up() {
    let (world, space, area) = two_cpus();
    let shrunk = area.resize(PAGE).unwrap().detach();
    assert!(matches!(area.resize(4 * PAGE), Err(AreaError::Retry)));
    assert_eq!(area.size(), PAGE);
    // To say that it has this size already would be true only after that flush.
    assert!(matches!(area.resize(PAGE), Err(AreaError::Retry)));
    acknowledge(&world, shrunk);
    area.resize(4 * PAGE).unwrap().complete();
    for page in 1..4 {
        assert_eq!(load(&world.sim, 1, &space, A + page * PAGE).unwrap(), 0, "a page that came back is a new one");
    }
    assert_eq!(load(&world.sim, 1, &space, A).unwrap(), 100);
    end(world, space, area);
}

#[test]
fn a_section_is_handed_out_again_after_its_flush() {
    let world = World::new(2);
    world.sim.hold_flushes(true);
    let layout = SectionLayout { pages: 2, guard: 1, count: 1 };
    let stacks = common::area(&world.sim, AreaKind::Guarded(layout)).unwrap();
    let range = world.kernel().map(&MapRequest::new(&stacks)).unwrap();
    let section = stacks.take_section().unwrap();
    let stack = range.start().as_u64() + section.offset;
    store(&world.sim, 1, world.kernel(), stack, 5).unwrap();
    let flush = stacks.give_section(section.number).unwrap().detach();
    assert_eq!(stacks.take_section(), Err(AreaError::NoSection), "its flush is outstanding");
    assert!(matches!(stacks.give_section(section.number), Err(AreaError::NotOut(_))), "given back twice");
    assert!(matches!(world.kernel().fault(Fault::new(stack, Access::READ)), Err(SpaceError::Guard(_))));
    acknowledge(&world, flush);
    let again = stacks.take_section().unwrap();
    assert_eq!(again, section);
    assert_eq!(load(&world.sim, 1, world.kernel(), stack).unwrap(), 0, "a fresh stack");
    drop(stacks.give_section(again.number).unwrap().detach());
    world.sim.hold_flushes(false);
    // The last flush value was dropped: what it held is lost and counted, and nothing else.
    assert_eq!(world.sim.machine().counters().dropped_flushes, 1);
}

#[test]
fn a_flush_outlives_its_space() {
    let (world, space, area) = two_cpus();
    let flush = space.unmap(space.range(A, PAGE).unwrap()).unwrap().detach();
    world.leave(0, &space);
    world.leave(1, &space);
    world.sim.hold_flushes(false);
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(area.windows(), 1, "the gated window is a window until its flush");
    acknowledge(&world, flush);
    assert_eq!(area.windows(), 0);
    drop(area);
    world.finish();
}

#[test]
fn a_flush_outlives_the_handles_of_its_space_and_area() {
    let (world, space, area) = two_cpus();
    let flush = space.unmap(space.range(A, PAGE).unwrap()).unwrap().detach();
    world.leave(0, &space);
    world.leave(1, &space);
    world.sim.hold_flushes(false);
    drop(space);
    let pages = world.sim.frame_counts().of(FrameUse::Page);
    drop(area);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), pages, "the gated window holds the area");
    acknowledge(&world, flush);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 0);
    world.finish();
}

#[test]
fn an_area_shrinks_after_a_space_is_gone_whose_unmap_is_outstanding() {
    let (world, space, area) = two_cpus();
    let flush = space.unmap(space.range(A, 4 * PAGE).unwrap()).unwrap().detach();
    world.leave(0, &space);
    world.leave(1, &space);
    world.sim.hold_flushes(false);
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    // The machine hands out what was freed last: nothing of the old space may reach into the new one's tables.
    let next = world.user();
    world.enter(0, &next);
    let other = world.open(4);
    map(&next, &other, A, 0, 4);
    store(&world.sim, 0, &next, A + PAGE, 9).unwrap();
    area.resize(PAGE).unwrap().complete();
    world.sim.check_translations();
    assert!(next.walk(at(A + PAGE)).physical().is_some(), "the old space's window changed the new one's tables");
    acknowledge(&world, flush);
    world.leave(0, &next);
    drop((next, area, other));
    world.finish();
}

#[test]
fn a_dropped_flush_leaks_and_is_counted() {
    let (world, space, area) = two_cpus();
    let before = world.sim.frame_counts().of(FrameUse::Page);
    #[allow(unused_must_use, reason = "this is what is tested")]
    {
        area.resize(PAGE).unwrap();
    }
    assert_eq!(world.sim.machine().counters().dropped_flushes, 1);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), before, "never freed");
    // The stale translation may be used for ever: its frame is nobody else's.
    world.sim.write_u64(1, at(A + PAGE), true, 1).unwrap();
    assert!(matches!(area.resize(4 * PAGE), Err(AreaError::Retry)), "nor is the size given out again");
    drop(space.unmap(space.range(A, PAGE).unwrap()).unwrap());
    assert_eq!(world.sim.machine().counters().dropped_flushes, 2);
    let other = world.open(1);
    assert!(matches!(space.map(&MapRequest::new(&other).at(A)), Err(SpaceError::Retry(_))), "nor the address");
    for _ in 0..64 {
        let more = world.open(8);
        let range = space.map(&MapRequest::new(&more).populated()).unwrap();
        drop(space.unmap(range).unwrap().detach());
    }
    world.sim.write_u64(1, at(A + PAGE), true, 2).unwrap();
    world.sim.assert_no_violation();
}

#[test]
fn an_active_space_is_not_destroyed() {
    let (world, space, area) = two_cpus();
    world.leave(0, &space);
    let (space, error) = space.destroy().expect_err("CPU 1 is in it");
    assert_eq!(error, SpaceError::Active);
    assert_eq!(load(&world.sim, 1, &space, A).unwrap(), 100, "it was given back unharmed");
    world.leave(1, &space);
    drop(area);
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    world.finish();
}

#[test]
fn one_area_in_two_spaces_is_one_memory() {
    let (world, space, area) = two_cpus();
    let second = world.user();
    world.enter(0, &second);
    common::forget(0, &space);
    const B: u64 = 0x80_0000;
    map(&second, &area, B, 1, 3);
    assert_eq!(load(&world.sim, 0, &second, B).unwrap(), 101);
    store(&world.sim, 0, &second, B + PAGE, 55).unwrap();
    assert_eq!(load(&world.sim, 1, &space, A + 2 * PAGE).unwrap(), 55);
    // A shrink reaches both spaces, and asks both CPUs.
    let flush = area.resize(2 * PAGE).unwrap().detach();
    assert!(flush.request().cpus == cpus(&[0, 1]), "{flush:?}");
    acknowledge(&world, flush);
    assert!(matches!(touch(&world.sim, 0, &second, B + PAGE, USER_READ), Err(SpaceError::OutsideArea(_))));
    assert!(matches!(touch(&world.sim, 1, &space, A + 2 * PAGE, USER_READ), Err(SpaceError::OutsideArea(_))));
    assert_eq!(load(&world.sim, 0, &second, B).unwrap(), 101);
    world.sim.hold_flushes(false);
    world.sim.check_translations();
    world.leave(0, &second);
    world.leave(1, &space);
    drop((second, area, space));
    world.finish();
}

#[test]
fn a_kernel_window_is_forgotten_by_every_cpu() {
    let world = World::new(2);
    let (one, two) = (world.user(), world.user());
    world.enter(0, &one);
    world.enter(1, &two);
    let area = world.open(2);
    map(world.kernel(), &area, KERNEL_START, 0, 2);
    store(&world.sim, 0, world.kernel(), KERNEL_START, 3).unwrap();
    // Through the other user space's root: the kernel's tables are shared, and the translation is global.
    assert_eq!(load(&world.sim, 1, world.kernel(), KERNEL_START).unwrap(), 3);
    assert!(world.sim.access(1, at(KERNEL_START), USER_WRITE).is_err(), "not for programs");
    unmap(world.kernel(), KERNEL_START, 2);
    world.sim.check_translations();
    for cpu in 0..2 {
        assert!(world.sim.access(cpu, at(KERNEL_START), Access::READ).is_err());
    }
    world.leave(0, &one);
    world.leave(1, &two);
    drop((one, two, area));
    world.finish();
}

#[test]
fn the_kernels_space_is_not_destroyed_under_its_users() {
    let sim = Sim::builder().frames(128).build();
    let start = sim.frame_counts();
    let bounds = sim.machine().mmu().range(KERNEL_START, common::KERNEL_SIZE).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let user = Space::user(&kernel, ()).unwrap();
    let (kernel, error) = kernel.destroy().expect_err("a user space shares its root slots");
    assert_eq!(error, SpaceError::Active);
    let flush = user.destroy().map_err(|(_, error)| error).unwrap().detach();
    let (kernel, error) = kernel.destroy().expect_err("the user space's flush is outstanding");
    assert_eq!(error, SpaceError::Active);
    sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() };
    kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(sim.frame_counts(), start);
}

/// A second shrink, told as done, must be done: what the first gave up is forgotten by then as well.
#[test]
fn a_shrink_waits_for_the_one_before() {
    let (world, space, area) = two_cpus();
    let first = area.resize(3 * PAGE).unwrap().detach();
    let second = area.resize(PAGE).unwrap().detach();
    acknowledge(&world, second);
    for page in 1..4 {
        assert!(world.sim.access(1, at(A + page * PAGE), USER_READ).is_err(), "page {page} is past the end");
    }
    acknowledge(&world, first);
    end(world, space, area);
}

#[test]
fn flushes_of_two_machines_are_not_mixed() {
    let worlds = [World::new(1), World::new(1)];
    let spaces = worlds.each_ref().map(World::user);
    let flushes: Vec<_> = worlds
        .iter()
        .zip(&spaces)
        .map(|(world, space)| {
            let area = world.open(1);
            map(space, &area, A, 0, 1);
            space.fault(Fault::new(A, USER_WRITE)).unwrap().complete();
            space.unmap(space.range(A, PAGE).unwrap()).unwrap()
        })
        .collect();
    let [one, two] = flushes.try_into().unwrap();
    one.and(two).complete();
    let range = vmcore::addr::FrameRange::new(vmcore::addr::Frame::new(1), 1).unwrap();
    let memory = vmcore::paging::MemoryType::WriteBack;
    assert!(worlds[0].sim.machine().register(&worlds[1].sim, range, memory).is_err());
    assert!(!worlds[0].sim.machine().unregister(&worlds[1].sim, range, memory));
    for (world, space) in worlds.into_iter().zip(spaces) {
        space.destroy().map_err(|(_, error)| error).unwrap().complete();
        world.finish();
    }
}

#[test]
fn a_kernel_space_has_nothing_of_the_lower_half() {
    let sim = Sim::builder().build();
    for (start, size) in [(0, PAGE), (0x7fff_ffff_f000, PAGE), (PAGE, PAGE)] {
        let bounds = sim.machine().mmu().range(start, size).unwrap();
        assert!(matches!(Space::kernel(&sim, bounds, None, ()), Err(SpaceError::Range(_))), "{start:#x}");
    }
}

/// Thousands of windows that are unmapped together go together: their slots are found by each other, not one by one.
#[test]
fn many_windows_are_unmapped_together() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(1);
    let windows = 3000;
    for window in 0..windows {
        map(&space, &area, A + 2 * window * PAGE, 0, 1);
    }
    let (middle, size) = (space.range(A + 2000 * PAGE, 2000 * PAGE).unwrap(), 2 * windows * PAGE);
    let flush = space.unmap(middle).unwrap();
    assert_eq!(space.windows().filter(|window| window.gated).count(), 1000);
    flush.complete();
    let left: Vec<_> = space.windows().map(|window| window.range.start().as_u64()).collect();
    let kept = |window: &u64| !middle.contains(at(A + 2 * window * PAGE));
    assert_eq!(left, (0..windows).filter(kept).map(|window| A + 2 * window * PAGE).collect::<Vec<_>>());
    // Two changes whose windows lie in turns: each lifts its own gates only.
    let even: Vec<_> = (0..400).step_by(2).map(|page| space.range(A + 2 * page * PAGE, PAGE).unwrap()).collect();
    let mut joined = space.unmap(even[0]).unwrap().map(|_| ());
    for range in &even[1..] {
        joined = joined.and(space.unmap(*range).unwrap()).map(|_| ());
    }
    let odd = space.unmap(space.range(A, 800 * PAGE).unwrap()).unwrap();
    joined.complete();
    assert_eq!(space.windows().filter(|window| window.gated).count(), 200, "the odd ones wait still");
    odd.complete();
    assert_eq!(space.windows().filter(|window| window.gated).count(), 0);
    unmap(&space, A, size / PAGE);
    drop(area);
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    world.finish();
}

/// RISC-V: a CPU may remember that an entry was absent, above the leaf as well.
#[test]
fn a_fault_forgets_that_there_was_no_table() {
    let sim = Sim::of(RiscV64::sv39(40)).frames(512).build();
    let bounds = sim.machine().mmu().range(0xffff_ffff_8000_0000, 1 << 30).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    sim.activate(0, &space.activate(0));
    let area = Area::new(&sim, AreaKind::Open { size: PAGE }, 0).unwrap();
    space.map(&MapRequest::new(&area).at(A).access(Access::READ)).unwrap();
    assert!(sim.read_u64(0, at(A), true).is_err());
    assert_eq!(space.fault(Fault::new(A, USER_READ)).unwrap().complete(), Resolution::Mapped);
    assert!(sim.read_u64(0, at(A), true).unwrap_err().from_tlb, "the root's entry, which it remembers as absent");
    assert_eq!(space.fault(Fault::new(A, USER_READ)).unwrap().complete(), Resolution::Spurious);
    assert_eq!(sim.read_u64(0, at(A), true), Ok(0));
}
