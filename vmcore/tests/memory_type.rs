//! The memory type of an area: it reaches every window, no two CPUs use a page with different types, and aliases are refused.

mod common;

use common::{PAGE, USER_READ, World, at, load, map, store, touch};
use vmcore::addr::{Frame, FrameRange};
use vmcore::paging::{Access, Flush, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, Rights};
use vmcore::vm_space::{Advice, Space, SpaceError};
use vmcore::{Platform, RegistryError};

const A: u64 = 0x40_0000;
const B: u64 = 0x1234_5000;

fn memory(world: &World, cpu: usize, space: &Space<Sim>, address: u64) -> MemoryType {
    touch(&world.sim, cpu, space, address, USER_READ).unwrap().memory
}

#[test]
fn reaches_every_window_after_its_flush() {
    use MemoryType::{WriteBack, WriteCombining};
    for kind in [AreaKind::Open { size: 4 * PAGE }, AreaKind::Ring { size: 2 * PAGE }] {
        let world = World::new(2);
        let (one, two) = (world.user(), world.user());
        world.enter(0, &one);
        world.enter(1, &two);
        let area = Area::new(&world.sim, kind, 0).unwrap();
        map(&one, &area, A, 0, 4);
        map(&one, &area, B, 2, 2);
        map(&two, &area, A, 1, 3);
        for page in 0..2 {
            store(&world.sim, 0, &one, A + page * PAGE, page + 1).unwrap();
        }
        // In a ring, pages 2 and 3 are the second place of 0 and 1.
        assert_eq!(memory(&world, 0, &one, A + 2 * PAGE), WriteBack);
        assert_eq!(memory(&world, 0, &one, B), WriteBack);
        assert_eq!(memory(&world, 1, &two, A), WriteBack);
        let frame = area.frame_at(PAGE);
        let flush = area.set_memory(WriteCombining).unwrap();
        // The other CPU may remember the old type, so nobody gets the new one yet.
        assert_eq!(world.sim.access(1, at(A), USER_READ).unwrap().memory, WriteBack, "from its TLB");
        let fresh = A + 3 * PAGE;
        for (space, cpu, address) in [(&one, 0, fresh), (&two, 1, A + 2 * PAGE)] {
            let result = touch(&world.sim, cpu, space, address, USER_READ).map(drop);
            assert_eq!(result, Err(SpaceError::Retry(at(address))));
        }
        let whole = one.range(A, 4 * PAGE).unwrap();
        assert_eq!(one.populate(whole, Access::READ).map(Flush::complete), Err(SpaceError::Retry(at(A))));
        assert_eq!(area.set_memory(WriteBack).map(drop), Err(AreaError::Retry));
        assert_eq!(area.write(0, &[1]).map(Flush::complete), Err(AreaError::Retry));
        assert_eq!(area.pin(0, 1).map(drop), Err(AreaError::Retry));
        assert_eq!(area.allocate(0, PAGE, 0).map(drop), Err(AreaError::Retry));
        // A window that goes meanwhile takes its part of the flush along.
        let gone = one.unmap(one.range(B, 2 * PAGE).unwrap()).unwrap();
        assert!(!gone.is_empty());
        gone.complete();
        flush.complete();
        world.sim.check_translations();
        one.populate(whole, Access::WRITE).unwrap().complete();
        for page in 0..4 {
            assert_eq!(memory(&world, 0, &one, A + page * PAGE), WriteCombining);
        }
        for page in 0..3 {
            assert_eq!(memory(&world, 1, &two, A + page * PAGE), WriteCombining);
        }
        assert_eq!(load(&world.sim, 1, &two, A), Ok(2), "the bytes are as they were");
        assert_eq!(area.frame_at(PAGE), frame);
        // To what it is already: nothing to do, and nothing to flush.
        assert!(area.set_memory(WriteCombining).unwrap().is_empty());
        area.set_memory(WriteBack).unwrap().complete();
        assert_eq!(memory(&world, 1, &two, A), WriteBack);
        drop(area);
        world.leave(0, &one);
        world.leave(1, &two);
        drop((one, two));
        world.finish();
    }
}

/// The area may be dropped everywhere while its change is being flushed.
#[test]
fn the_flush_outlives_the_area() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let area = world.open(1);
    map(&space, &area, A, 0, 1);
    store(&world.sim, 0, &space, A, 1).unwrap();
    let flush = area.set_memory(MemoryType::Uncached).unwrap();
    drop(area);
    common::unmap(&space, A, 1);
    flush.complete();
    world.leave(0, &space);
    drop(space);
    world.finish();
}

#[test]
fn bad_types_are_refused() {
    let device = FrameRange::new(Frame::new(0x20_0000), 4).unwrap();
    let world = World::of(Sim::builder().frames(64).device(device));
    let (sim, area) = (&world.sim, world.open(2));
    assert_eq!(area.set_memory(MemoryType::Device).map(drop), Err(AreaError::Memory(MemoryType::Device)));
    let handle = area.handle(Rights::all().difference(Rights::RESIZE)).unwrap();
    assert_eq!(handle.set_memory(MemoryType::Uncached).map(drop), Err(AreaError::Rights(Rights::RESIZE)));
    let fixed = common::area(sim, AreaKind::Fixed { frames: device, memory: MemoryType::Uncached }).unwrap();
    assert_eq!(fixed.set_memory(MemoryType::WriteCombining).map(drop), Err(AreaError::Kind));
    assert_eq!(fixed.memory(), MemoryType::Uncached);
    let untracked = common::area(sim, AreaKind::Untracked { size: PAGE }).unwrap();
    assert_eq!(untracked.set_memory(MemoryType::Uncached).map(drop), Err(AreaError::Kind));
    // A linear map of all RAM as write-back; the device's entry is of no concern.
    area.write(0, &[1]).unwrap().complete();
    let ram = FrameRange::new(area.frame_at(0).unwrap(), 1).unwrap();
    sim.machine().register(sim, ram, MemoryType::WriteBack).unwrap();
    let wanted = MemoryType::WriteCombining;
    let conflict = RegistryError::Conflict { registered: ram, memory: MemoryType::WriteBack, wanted };
    assert_eq!(area.set_memory(wanted).map(drop), Err(AreaError::Registry(conflict)));
    assert_eq!(area.memory(), MemoryType::WriteBack);
    assert!(area.set_memory(MemoryType::WriteBack).is_ok());
    assert!(sim.machine().unregister(sim, ram, MemoryType::WriteBack));
    area.set_memory(wanted).unwrap().complete();
    drop((area, handle, fixed, untracked));
    world.finish();
}

#[test]
fn what_is_needed_waits_for_the_flush_as_well() {
    let world = World::new(2);
    let space = world.user();
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let area = world.open(2);
    let range = map(&space, &area, A, 0, 2);
    store(&world.sim, 1, &space, A, 1).unwrap();
    let flush = area.set_memory(MemoryType::WriteCombining).unwrap().detach();
    space.advise(range, Advice::Needed).unwrap().complete();
    assert!(world.sim.access(0, at(A), USER_READ).is_err(), "CPU 1 may remember the page with its old type");
    world.sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() };
    space.advise(range, Advice::Needed).unwrap().complete();
    assert_eq!(world.sim.access(0, at(A), USER_READ).unwrap().memory, MemoryType::WriteCombining);
    drop(area);
    (0..2).for_each(|cpu| world.leave(cpu, &space));
    drop(space);
    world.finish();
}
