//! Pinned pages: they stay in their frames, what would take them away is refused, and each pin is taken back once.

mod common;

use common::{PAGE, World, load, map, store};
use vmcore::addr::{Frame, FrameRange};
use vmcore::frame::{FrameUse, Frames};
use vmcore::paging::MemoryType;
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, Pin, Rights, SectionLayout};
use vmcore::vm_space::{Inherit, MapRequest};

const A: u64 = 0x40_0000;

fn frames(pin: &Pin<Sim>) -> Vec<Frame> {
    pin.runs().flat_map(|run| (0..run.count()).map(move |index| run.first().add(index))).collect()
}

fn pins(world: &World, area: &Area<Sim>, pages: u64) -> Vec<u32> {
    let pins = |page| area.frame_at(page * PAGE).map_or(0, |frame| world.sim.frame_meta(frame).unwrap().pins());
    (0..pages).map(pins).collect()
}

#[test]
fn pins_are_counted_per_page() {
    let world = World::new(1);
    let area = world.open(6);
    let one = area.pin(PAGE + 5, 3 * PAGE - 10).unwrap().complete();
    let two = area.pin(2 * PAGE, PAGE).unwrap().complete();
    assert_eq!(pins(&world, &area, 6), [0, 1, 2, 1, 0, 0]);
    assert_eq!((area.pinned_pages(), area.resident_pages()), (3, 3));
    assert_eq!(world.sim.frame_counts().of(FrameUse::Pinned), 3);
    let expected: Vec<_> = (1..4).map(|page| area.frame_at(page * PAGE).unwrap()).collect();
    assert_eq!(frames(&one), expected);
    // Runs are maximal.
    let runs: Vec<_> = one.runs().collect();
    assert!(runs.windows(2).all(|pair| pair[0].first().add(pair[0].count()) != pair[1].first()), "{runs:?}");
    for pages in [1, 2, 3] {
        assert_eq!(area.resize(pages * PAGE).map(drop), Err(AreaError::Pinned(pages * PAGE)));
    }
    area.resize(4 * PAGE).unwrap().complete();
    drop(one);
    assert_eq!(pins(&world, &area, 4), [0, 0, 1, 0]);
    assert_eq!(area.resize(PAGE).map(drop), Err(AreaError::Pinned(2 * PAGE)));
    area.resize(3 * PAGE).unwrap().complete();
    drop(two);
    assert_eq!((area.pinned_pages(), world.sim.frame_counts().of(FrameUse::Pinned)), (0, 0));
    area.resize(PAGE).unwrap().complete();
    drop(area);
    world.finish();
}

/// The device's memory outlives every handle and window.
#[test]
fn pin_keeps_the_area() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let area = world.open(2);
    map(&space, &area, A, 0, 2);
    store(&world.sim, 0, &space, A + PAGE, 7).unwrap();
    let pin = area.pin(PAGE, PAGE).unwrap().complete();
    drop(area);
    common::unmap(&space, A, 2);
    assert_eq!(world.sim.physical_word(frames(&pin)[0], 0), Some(7));
    assert_eq!(world.sim.frame_counts().of(FrameUse::Pinned), 1);
    drop(pin);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 0);
    world.leave(0, &space);
    drop(space);
    world.finish();
}

#[test]
fn allocated_frames_are_consecutive_and_shown() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let area = world.open(16);
    map(&space, &area, A, 0, 16);
    // Single pages on both sides break the free frames up.
    store(&world.sim, 0, &space, A, 1).unwrap();
    store(&world.sim, 0, &space, A + 9 * PAGE, 1).unwrap();
    let pin = area.allocate(PAGE, 8 * PAGE, 3).unwrap().complete();
    let run = FrameRange::new(frames(&pin)[0], 8).unwrap();
    assert_eq!(pin.runs().collect::<Vec<_>>(), [run]);
    assert_eq!(run.first().number() % 8, 0);
    for page in 0..8 {
        assert_eq!(load(&world.sim, 0, &space, A + (page + 1) * PAGE), Ok(0), "zeroed");
        store(&world.sim, 0, &space, A + (page + 1) * PAGE, page + 1).unwrap();
        assert_eq!(world.sim.physical_word(run.first().add(page), 0), Some(page + 1));
    }
    // Refusals change nothing.
    let before = (area.resident_pages(), world.sim.frame_counts());
    for (offset, pages, error) in [
        (8, 2, AreaError::Resident(8 * PAGE)),
        (0, 1, AreaError::Resident(0)),
        (15, 2, AreaError::Outside { offset: 15 * PAGE, size: 2 * PAGE, area: 16 * PAGE }),
    ] {
        assert_eq!(area.allocate(offset * PAGE, pages * PAGE, 0).map(drop), Err(error));
    }
    assert!(matches!(area.allocate(10 * PAGE, PAGE, 40), Err(AreaError::OutOfFrames(_))), "no frame is aligned so");
    assert_eq!((area.resident_pages(), world.sim.frame_counts()), before);
    drop(pin);
    // Now they are pages like others, freed one by one.
    area.resize(4 * PAGE).unwrap().complete();
    drop(area);
    common::unmap(&space, A, 16);
    world.leave(0, &space);
    drop(space);
    world.finish();
}

#[test]
fn bad_input_is_refused() {
    let device = FrameRange::new(Frame::new(0x20_0000), 4).unwrap();
    let world = World::of(Sim::builder().frames(1024).device(device));
    let area = world.open(4);
    let outside = |offset, size| Err(AreaError::Outside { offset, size, area: 4 * PAGE });
    for (offset, size, expected) in [
        (5, 0, Err(AreaError::Range { offset: 5, size: 0 })),
        (4 * PAGE, 1, outside(4 * PAGE, 1)),
        (PAGE, 4 * PAGE, outside(PAGE, 4 * PAGE)),
        (u64::MAX, 2, outside(u64::MAX, 2)),
        (1, u64::MAX, outside(1, u64::MAX)),
    ] {
        assert_eq!(area.pin(offset, size).map(drop), expected);
    }
    for (offset, size) in [(0, 0), (1, PAGE), (0, PAGE - 1)] {
        assert_eq!(area.allocate(offset, size, 0).map(drop), Err(AreaError::Range { offset, size }));
    }
    for (offset, size) in [(4 * PAGE, PAGE), (!(PAGE - 1), 2 * PAGE), (0, !(PAGE - 1))] {
        assert_eq!(area.allocate(offset, size, 0).map(drop), outside(offset, size));
    }
    for rights in [Rights::READ, Rights::WRITE | Rights::MAP] {
        let handle = area.handle(rights).unwrap();
        assert!(matches!(handle.pin(0, 1), Err(AreaError::Rights(_))));
        assert!(matches!(handle.allocate(0, PAGE, 0), Err(AreaError::Rights(_))));
    }
    let untracked = common::area(&world.sim, AreaKind::Untracked { size: PAGE }).unwrap();
    assert_eq!(untracked.pin(0, 1).map(drop), Err(AreaError::Kind));
    assert_eq!(untracked.allocate(0, PAGE, 0).map(drop), Err(AreaError::Kind));
    let fixed = AreaKind::Fixed { frames: device, memory: MemoryType::Uncached };
    let fixed = common::area(&world.sim, fixed).unwrap();
    assert_eq!(fixed.allocate(0, PAGE, 0).map(drop), Err(AreaError::Kind));
    assert_eq!(
        fixed.pin(PAGE, 2 * PAGE).unwrap().complete().runs().collect::<Vec<_>>(),
        [FrameRange::new(device.first().add(1), 2).unwrap()]
    );
    let guarded = AreaKind::Guarded(SectionLayout { pages: 2, guard: 1, count: 2 });
    let guarded = common::area(&world.sim, guarded).unwrap();
    let section = guarded.take_section().unwrap();
    assert_eq!(guarded.pin(section.offset - 1, 2).map(drop), Err(AreaError::Kind));
    let pin = guarded.pin(section.offset, section.size).unwrap().complete();
    assert_eq!(guarded.give_section(section.number).map(drop), Err(AreaError::Pinned(section.offset)));
    drop(pin);
    guarded.give_section(section.number).unwrap().complete();
    // A page can be pinned as often as its record can count.
    let mut many: Vec<_> = (0..65_535).map(|_| area.pin(PAGE, 1).unwrap().complete()).collect();
    assert_eq!(area.pin(0, 2 * PAGE).map(drop), Err(AreaError::TooManyHandles));
    assert_eq!(pins(&world, &area, 2), [0, 65_535]);
    many.clear();
    assert_eq!(area.pinned_pages(), 0);
    drop((area, untracked, fixed, guarded));
    world.finish();
}

#[test]
fn a_pin_that_is_told_to_retry_makes_no_page() {
    let world = World::new(2);
    let space = world.user();
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let area = world.open(4);
    let request = MapRequest::new(&area).at(A).inherit(Inherit::Copy);
    space.map(&request).unwrap();
    load(&world.sim, 0, &space, A + 3 * PAGE).unwrap();
    // Every CPU may remember that there was nothing.
    let flush = area.write(3 * PAGE, &[1]).unwrap().detach();
    assert_eq!(area.resident_pages(), 1);
    assert!(matches!(area.pin(0, 4 * PAGE), Err(AreaError::Retry)));
    assert_eq!((area.resident_pages(), area.pinned_pages()), (1, 0));
    world.sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() };
    let pin = area.pin(0, 4 * PAGE).unwrap().complete();
    assert_eq!(pin.size(), 4 * PAGE);
    drop((pin, area));
    (0..2).for_each(|cpu| world.leave(cpu, &space));
    drop(space);
    world.finish();
}

/// What it takes is counted by where the pages are kept, not by where they are seen.
#[test]
fn a_copied_ring_is_pinned_and_written_across_its_end() {
    let world = World::new(1);
    let ring = Area::new(&world.sim, AreaKind::Ring { size: 3 * PAGE }, 0).unwrap();
    ring.write(0, &[7; 3 * PAGE as usize]).unwrap().complete();
    for first in 0..6 {
        for count in 1..=6 - first {
            let copy = ring.snapshot().unwrap().complete();
            let pin = copy.pin(first * PAGE, count * PAGE).unwrap().complete();
            assert_eq!(copy.pinned_pages(), count.min(3));
            drop((pin, copy));
            let copy = ring.snapshot().unwrap().complete();
            let bytes: Vec<u8> = (0..count * PAGE).map(|at| (at / PAGE) as u8).collect();
            copy.write(first * PAGE, &bytes).unwrap().complete();
            let mut last = [0];
            copy.read((first + count) * PAGE - 1, &mut last).unwrap();
            assert_eq!(u64::from(last[0]), count - 1);
        }
    }
    drop(ring);
    world.finish();
}
