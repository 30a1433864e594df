//! Clones, snapshots and copy-on-write: what others got wrong, by name, and random operations against a naive model of bytes.
//!
//! The machine's CPUs keep whatever they may remember, so a page that is copied or taken over too early shows.

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, at, load, store, touch};
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, Entry, Flush, Leaf};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, Inherit, MapRequest, Resolution, Space, SpaceError};

const A: u64 = 0x40_0000;
const B: u64 = 0x7000_0000;

/// Maps an area that nothing else refers to.
fn map(world: &World, space: &Space<Sim>, address: u64, pages: u64, inherit: Inherit) {
    let area = world.open(pages);
    space.map(&MapRequest::new(&area).at(address).access(Access::KERNEL_DATA).inherit(inherit)).unwrap();
}

fn pages(world: &World) -> u64 {
    world.sim.frame_counts().of(FrameUse::Page)
}

/// Resolves the fault of an access that the tables do not allow, and gives the flush.
fn fault(space: &Space<Sim>, address: u64, access: Access) -> Result<Flush<Sim, Resolution>, SpaceError> {
    space.fault(Fault::new(address, access))
}

#[test]
fn each_way_of_inheriting() {
    let world = World::new(1);
    let parent = world.user();
    for (index, inherit) in [Inherit::Share, Inherit::Copy, Inherit::Wipe, Inherit::Nothing].into_iter().enumerate() {
        map(&world, &parent, A + index as u64 * 16 * PAGE, 4, inherit);
    }
    world.enter(0, &parent);
    for index in 0..4 {
        store(&world.sim, 0, &parent, A + index * 16 * PAGE, 10 + index).unwrap();
    }
    let child = parent.try_clone(()).unwrap().complete();
    for index in 0..4 {
        store(&world.sim, 0, &parent, A + index * 16 * PAGE, 20 + index).unwrap();
    }
    world.leave(0, &parent);
    world.enter(0, &child);
    let loaded: Vec<_> = (0..4).map(|index| load(&world.sim, 0, &child, A + index * 16 * PAGE).ok()).collect();
    assert_eq!(loaded, [Some(20), Some(11), Some(0), None]);
    for index in 0..3 {
        store(&world.sim, 0, &child, A + index * 16 * PAGE, 30 + index).unwrap();
    }
    world.leave(0, &child);
    world.enter(0, &parent);
    let loaded: Vec<_> = (0..4).map(|index| load(&world.sim, 0, &parent, A + index * 16 * PAGE).unwrap()).collect();
    assert_eq!(loaded, [30, 21, 22, 23]);
    world.leave(0, &parent);
    drop((parent, child));
    world.finish();
}

#[test]
fn shared_area_survives_clone() {
    let world = World::new(1);
    let parent = world.user();
    let area = world.open(2);
    parent.map(&MapRequest::new(&area).at(A)).unwrap();
    let child = parent.try_clone(()).unwrap().complete();
    drop(parent);
    world.enter(0, &child);
    store(&world.sim, 0, &child, A, 7).unwrap();
    let mut bytes = [0; 8];
    area.read(0, &mut bytes).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes), 7);
    world.leave(0, &child);
    drop((child, area));
    world.finish();
}

#[test]
fn cow_last_owner_reuses() {
    let world = World::new(1);
    let parent = world.user();
    map(&world, &parent, A, 1, Inherit::Copy);
    world.enter(0, &parent);
    store(&world.sim, 0, &parent, A, 1).unwrap();
    let frame = parent.frame_at(at(A)).unwrap();
    let child = parent.try_clone(()).unwrap().complete();
    assert_eq!(child.frame_at(at(A)), Some(frame), "nothing is copied yet");
    drop(child);
    store(&world.sim, 0, &parent, A, 2).unwrap();
    assert_eq!(parent.frame_at(at(A)), Some(frame), "the last owner keeps its frame");
    // The child is the last owner as well, when the parent has a copy.
    let child = parent.try_clone(()).unwrap().complete();
    store(&world.sim, 0, &parent, A, 3).unwrap();
    assert_ne!(parent.frame_at(at(A)), Some(frame));
    let before = pages(&world);
    world.leave(0, &parent);
    world.enter(0, &child);
    store(&world.sim, 0, &child, A + 8, 4).unwrap();
    assert_eq!((child.frame_at(at(A)), pages(&world)), (Some(frame), before));
    assert_eq!(load(&world.sim, 0, &child, A), Ok(2));
    world.leave(0, &child);
    drop((parent, child));
    world.finish();
}

#[test]
fn cow_read_only_stays_read_only() {
    let world = World::new(1);
    let parent = world.user();
    let area = world.open(1);
    area.write(0, &[5]).unwrap().complete();
    parent.map(&MapRequest::new(&area).at(A).access(Access::READ).inherit(Inherit::Copy)).unwrap();
    parent.map(&MapRequest::new(&area).at(B).access(Access::KERNEL_DATA).inherit(Inherit::Copy)).unwrap();
    world.enter(0, &parent);
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(5));
    let child = parent.try_clone(()).unwrap().complete();
    // The copy is made through the other window.
    store(&world.sim, 0, &parent, B, 6).unwrap();
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(6), "both windows show the copy");
    for space in [&parent, &child] {
        world.enter(0, space);
        let denied = touch(&world.sim, 0, space, A, USER_WRITE);
        assert!(matches!(denied, Err(SpaceError::Denied { .. })), "{denied:?}");
        assert!(world.sim.access(0, at(A), USER_WRITE).is_err());
    }
    world.enter(0, world.kernel());
    common::forget(0, &parent);
    common::forget(0, &child);
    drop((parent, child, area));
    world.finish();
}

#[test]
fn windows_onto_one_area_are_onto_one_copy() {
    let world = World::new(1);
    let parent = world.user();
    let area = world.open(4);
    for (address, offset) in [(A, 0), (B, 1)] {
        let request = MapRequest::new(&area).at(address).offset(offset * PAGE).size(2 * PAGE).inherit(Inherit::Copy);
        parent.map(&request).unwrap();
    }
    drop(area);
    let child = parent.try_clone(()).unwrap().complete();
    world.enter(0, &child);
    store(&world.sim, 0, &child, A + PAGE, 9).unwrap();
    assert_eq!(load(&world.sim, 0, &child, B), Ok(9));
    world.leave(0, &child);
    world.enter(0, &parent);
    assert_eq!(load(&world.sim, 0, &parent, B), Ok(0));
    world.leave(0, &parent);
    drop((parent, child));
    world.finish();
}

#[test]
fn clone_sparse_is_cheap() {
    let cost = |touched: u64| {
        let world = World::of(Sim::builder().frames(4096).cpus(1));
        let parent = world.user();
        map(&world, &parent, B, 0x1_0000, Inherit::Copy);
        world.enter(0, &parent);
        for page in 0..touched {
            store(&world.sim, 0, &parent, B + page * (0x1_0000 / touched) * PAGE, page).unwrap();
        }
        let before = world.sim.frame_counts();
        let child = parent.try_clone(()).unwrap().complete();
        let after = world.sim.frame_counts();
        world.leave(0, &parent);
        drop((parent, child));
        world.finish();
        FrameUse::ALL.map(|purpose| after.of(purpose) - before.of(purpose))
    };
    let few = cost(1);
    assert_eq!(few, cost(256), "the pages cost nothing");
    assert_eq!((few[FrameUse::Table as usize], few[FrameUse::Page as usize]), (1, 0), "the root alone");
}

/// A parent on two CPUs, both of which remember the page at `A` as writable.
fn two_writers() -> (World, Space<Sim>) {
    let world = World::new(3);
    let parent = world.user();
    map(&world, &parent, A, 4, Inherit::Copy);
    for cpu in 0..2 {
        world.enter(cpu, &parent);
        store(&world.sim, cpu, &parent, A, 1).unwrap();
    }
    (world, parent)
}

#[test]
fn child_released_after_ack() {
    let (world, parent) = two_writers();
    let clone = parent.try_clone(()).unwrap();
    assert!(!clone.is_empty());
    // The other CPU may write still, as if the clone were not made yet.
    assert!(world.sim.write_u64(1, at(A), true, 2).is_ok());
    let child = clone.complete();
    assert!(world.sim.write_u64(1, at(A), true, 3).is_err());
    world.enter(2, &child);
    assert_eq!(load(&world.sim, 2, &child, A), Ok(2));
    world.leave(2, &child);
    for cpu in 0..2 {
        world.leave(cpu, &parent);
    }
    drop((parent, child));
    world.finish();
}

#[test]
fn cow_copy_after_writers_flushed() {
    let (world, parent) = two_writers();
    let clone = parent.try_clone(()).unwrap();
    // One CPU has forgotten, the other has not: were the page copied now, what the other writes would be lost.
    world.sim.apply_on(0, clone.request());
    assert!(world.sim.access(0, at(A), USER_WRITE).is_err());
    assert_eq!(fault(&parent, A, USER_WRITE).err(), Some(SpaceError::Retry(at(A))));
    assert!(world.sim.write_u64(1, at(A), true, 7).is_ok());
    let child = clone.complete();
    store(&world.sim, 0, &parent, A + 8, 8).unwrap();
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(7));
    for cpu in 0..2 {
        world.leave(cpu, &parent);
    }
    drop((parent, child));
    world.finish();
}

#[test]
fn takeover_waits_for_flush() {
    let (world, parent) = two_writers();
    let child = parent.try_clone(()).unwrap().complete();
    // Two CPUs of the child remember the frame; one of them has its own copy made.
    world.leave(1, &parent);
    for cpu in [1, 2] {
        world.enter(cpu, &child);
        load(&world.sim, cpu, &child, A).unwrap();
    }
    let old = child.frame_at(at(A)).unwrap();
    let copying = fault(&child, A, USER_WRITE).unwrap();
    assert!(!copying.is_empty());
    assert_ne!(child.frame_at(at(A)), Some(old));
    // The parent is not alone yet: what it writes must not be seen by the child's CPUs, which read through what they remember.
    store(&world.sim, 0, &parent, A, 99).unwrap();
    assert_ne!(parent.frame_at(at(A)), Some(old), "the frame was taken over too early");
    assert_eq!(world.sim.read_u64(2, at(A), true), Ok(1));
    // Nor may anybody of the child use the copy before all have forgotten the original.
    world.sim.apply_on(1, copying.request());
    assert_eq!(fault(&child, A, USER_READ).err(), Some(SpaceError::Retry(at(A))));
    copying.complete();
    store(&world.sim, 1, &child, A, 5).unwrap();
    assert_eq!(load(&world.sim, 2, &child, A), Ok(5));
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 2, "nobody has the original any more");
    world.leave(0, &parent);
    for cpu in [1, 2] {
        world.leave(cpu, &child);
    }
    drop((parent, child));
    world.finish();
}

/// What the tables show at an address.
fn shown(space: &Space<Sim>, address: u64) -> Option<Leaf> {
    match space.walk(at(address)).steps().last().map(|step| step.entry) {
        Some(Entry::Leaf(leaf)) => Some(leaf),
        _ => None,
    }
}

#[test]
fn a_clones_read_maps_its_leaf_table() {
    let world = World::new(1);
    let parent = world.user();
    // Both begin in the same leaf table.
    let (first, second) = (A + 100 * PAGE, A + 440 * PAGE);
    map(&world, &parent, first, 340, Inherit::Copy);
    map(&world, &parent, second, 200, Inherit::Copy);
    world.enter(0, &parent);
    // Dense, then every third page, of which the last ones were never written to.
    let resident = |page: u64| page < 128 || page % 3 == 0;
    for page in (0..340).filter(|page| resident(*page)) {
        let access = if page < 300 { USER_WRITE } else { USER_READ };
        touch(&world.sim, 0, &parent, first + page * PAGE, access).unwrap();
    }
    store(&world.sim, 0, &parent, second, 7).unwrap();
    let child = parent.try_clone(()).unwrap().complete();
    world.leave(0, &parent);
    world.enter(0, &child);
    assert_eq!(load(&world.sim, 0, &child, first + 198 * PAGE), Ok(0));
    // One page of the child's own, in the middle of those that both have.
    store(&world.sim, 0, &child, first + 64 * PAGE, 5).unwrap();
    for page in 0..340 {
        let (leaf, theirs) = (shown(&child, first + page * PAGE), shown(&parent, first + page * PAGE));
        match leaf {
            Some(leaf) if page == 64 => assert!(leaf.access.contains(Access::WRITE)),
            Some(leaf) => {
                assert!(!leaf.access.contains(Access::WRITE), "page {page}");
                assert_eq!(theirs.map(|leaf| leaf.frame), Some(leaf.frame), "page {page}");
            }
            None => assert!(page >= 300 || !resident(page), "page {page} is resident, and in the table"),
        }
    }
    assert_eq!(shown(&child, second), None, "another window's");
    for page in 0..340 {
        store(&world.sim, 0, &child, first + page * PAGE, 100 + page).unwrap();
    }
    assert_eq!(load(&world.sim, 0, &child, second), Ok(7));
    world.leave(0, &child);
    world.enter(0, &parent);
    for page in (0..340).filter(|page| resident(*page)) {
        assert_eq!(load(&world.sim, 0, &parent, first + page * PAGE), Ok(0), "page {page}");
    }
    world.leave(0, &parent);
    drop((parent, child));
    world.finish();
}

#[test]
fn what_is_populated_beside_what_was_cloned_can_be_written() {
    let world = World::new(1);
    let parent = world.user();
    map(&world, &parent, A, 4, Inherit::Copy);
    world.enter(0, &parent);
    store(&world.sim, 0, &parent, A, 1).unwrap();
    let child = parent.try_clone(()).unwrap().complete();
    // The tables above forbid writing to all that lies beside the cloned window.
    map(&world, &parent, A + 16 * PAGE, 8, Inherit::Copy);
    let range = parent.windows().last().unwrap().range;
    parent.populate(range, Access::WRITE).unwrap().complete();
    for page in 0..8 {
        world.sim.access(0, at(A + (16 + page) * PAGE), USER_WRITE).unwrap();
    }
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(1));
    world.leave(0, &parent);
    drop((parent, child));
    world.finish();
}

#[test]
fn untouched_memory_shows_the_zero_frame() {
    let world = World::new(2);
    let space = world.user();
    map(&world, &space, A, 64, Inherit::Copy);
    for cpu in 0..2 {
        world.enter(cpu, &space);
    }
    let before = pages(&world);
    for page in 0..64 {
        assert_eq!(load(&world.sim, 0, &space, A + page * PAGE), Ok(0));
    }
    assert_eq!((pages(&world), world.sim.frame_counts().of(FrameUse::Machine)), (before, 1));
    // Both CPUs see the first write, though both remember the zero frame.
    load(&world.sim, 1, &space, A).unwrap();
    store(&world.sim, 0, &space, A, 3).unwrap();
    assert_eq!(load(&world.sim, 1, &space, A), Ok(3));
    for cpu in 0..2 {
        world.leave(cpu, &space);
    }
    drop(space);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Machine), 0);
    world.finish();
}

/// Nodes of a tree come in sizes: what is copied small on the way there grows.
#[test]
fn sparse_copy_is_populated() {
    const COUNT: u64 = 70 * 64 + 9;
    let world = World::of(Sim::builder().frames(16 * 1024).cpus(1));
    let parent = world.user();
    map(&world, &parent, A, COUNT, Inherit::Copy);
    world.enter(0, &parent);
    // One, three, four, nineteen, twenty and all pages of an aligned 64: on either side of every size.
    let written = |page: u64| page % 64 < [1, 3, 4, 19, 20, 64][(page / 64 % 6) as usize];
    for page in (0..COUNT).filter(|page| written(*page)) {
        store(&world.sim, 0, &parent, A + page * PAGE, page + 1).unwrap();
    }
    let child = parent.try_clone(()).unwrap().complete();
    world.leave(0, &parent);
    world.enter(0, &child);
    child.populate(child.range(A + PAGE, (COUNT - 2) * PAGE).unwrap(), Access::WRITE).unwrap().complete();
    for page in 1..COUNT - 1 {
        let there = if written(page) { page + 1 } else { 0 };
        assert_eq!(load(&world.sim, 0, &child, A + page * PAGE), Ok(there));
        assert!(!written(page) || child.frame_at(at(A + page * PAGE)) != parent.frame_at(at(A + page * PAGE)));
    }
    world.leave(0, &child);
    drop((parent, child));
    world.finish();
}

#[test]
fn zero_frame_not_in_shared_area() {
    let world = World::new(2);
    let (one, two) = (world.user(), world.user());
    let area = world.open(4);
    let request = MapRequest::new(&area).at(A).inherit(Inherit::Copy);
    one.map(&request).unwrap();
    world.enter(0, &one);
    world.enter(1, &two);
    for page in 0..3 {
        assert_eq!(load(&world.sim, 0, &one, A + page * PAGE), Ok(0));
    }
    // Another space shows the area from now on, and fills it: by a fault, by populating, and directly.
    two.map(&request).unwrap();
    store(&world.sim, 1, &two, A, 1).unwrap();
    two.populate(two.range(A + PAGE, PAGE).unwrap(), Access::WRITE).unwrap().complete();
    store(&world.sim, 1, &two, A + PAGE, 2).unwrap();
    area.write(2 * PAGE, &3_u64.to_ne_bytes()).unwrap().complete();
    let loaded: Vec<_> = (0..3).map(|page| load(&world.sim, 0, &one, A + page * PAGE).unwrap()).collect();
    assert_eq!(loaded, [1, 2, 3]);
    world.leave(0, &one);
    world.leave(1, &two);
    drop((one, two, area));
    world.finish();
}

#[test]
fn kernel_is_not_cloned() {
    let world = World::new(1);
    assert_eq!(world.kernel().try_clone(()).err(), Some(SpaceError::Kernel));
    let area = Area::new(&world.sim, AreaKind::Untracked { size: PAGE }, 0).unwrap();
    let user = world.user();
    user.map(&MapRequest::new(&area).at(A)).unwrap();
    assert_eq!(user.try_clone(()).err(), Some(SpaceError::SingleWindow));
    drop((user, area));
    world.finish();
}

/// A window that writes to the area, and one in another space: neither may write to what a snapshot has.
#[test]
fn snapshot_is_kept_from_every_window() {
    let world = World::new(2);
    let (one, two) = (world.user(), world.user());
    let area = world.open(2);
    for space in [&one, &two] {
        space.map(&MapRequest::new(&area).at(A)).unwrap();
    }
    world.enter(0, &one);
    world.enter(1, &two);
    store(&world.sim, 0, &one, A, 1).unwrap();
    store(&world.sim, 1, &two, A + PAGE, 2).unwrap();
    let copy = area.snapshot().unwrap().complete();
    store(&world.sim, 0, &one, A, 3).unwrap();
    store(&world.sim, 1, &two, A + PAGE, 4).unwrap();
    assert_eq!((load(&world.sim, 0, &one, A + PAGE), load(&world.sim, 1, &two, A)), (Ok(4), Ok(3)));
    let mut bytes = [0; 8];
    for page in 0..2 {
        copy.read(page * PAGE, &mut bytes).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), page + 1);
    }
    world.leave(0, &one);
    world.leave(1, &two);
    drop((one, two, area, copy));
    world.finish();
}

/// A device goes on with the parent's frame, and the child has a copy at once.
#[test]
fn clone_keeps_pinned_with_parent() {
    let world = World::new(2);
    let parent = world.user();
    let area = world.open(4);
    parent.map(&MapRequest::new(&area).at(A).inherit(Inherit::Copy)).unwrap();
    world.enter(0, &parent);
    for page in 0..4 {
        store(&world.sim, 0, &parent, A + page * PAGE, 10 + page).unwrap();
    }
    let pin = area.pin(PAGE, 2 * PAGE).unwrap().complete();
    let pinned = [1, 2].map(|page| parent.frame_at(at(A + page * PAGE)).unwrap());
    let child = parent.try_clone(()).unwrap().complete();
    for (page, frame) in (1..).zip(pinned) {
        store(&world.sim, 0, &parent, A + page * PAGE, 20 + page).unwrap();
        assert_eq!(parent.frame_at(at(A + page * PAGE)), Some(frame), "the device's frame is the parent's");
        assert_ne!(child.frame_at(at(A + page * PAGE)), Some(frame));
    }
    world.enter(1, &child);
    for page in 0..4 {
        assert_eq!(load(&world.sim, 1, &child, A + page * PAGE), Ok(10 + page));
    }
    world.leave(0, &parent);
    world.leave(1, &child);
    // The pin outlives windows, spaces and handles.
    drop((parent, child, area));
    assert_eq!(pin.runs().map(|run| run.count()).sum::<u64>(), 2);
    drop(pin);
    world.finish();
}

/// A ring shows each page at two places: a copy of one reaches both.
#[test]
fn copies_of_a_ring_are_at_both_places() {
    let world = World::new(1);
    let parent = world.user();
    let ring = Area::new(&world.sim, AreaKind::Ring { size: 2 * PAGE }, 0).unwrap();
    parent.map(&MapRequest::new(&ring).at(A).inherit(Inherit::Copy)).unwrap();
    drop(ring);
    world.enter(0, &parent);
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(0));
    assert_eq!(load(&world.sim, 0, &parent, A + 2 * PAGE), Ok(0));
    store(&world.sim, 0, &parent, A + 2 * PAGE, 1).unwrap();
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(1), "no zero frame at the other place");
    let child = parent.try_clone(()).unwrap().complete();
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(1));
    store(&world.sim, 0, &parent, A + 2 * PAGE, 2).unwrap();
    assert_eq!(load(&world.sim, 0, &parent, A), Ok(2), "no old page at the other place");
    world.leave(0, &parent);
    world.enter(0, &child);
    assert_eq!((load(&world.sim, 0, &child, A), load(&world.sim, 0, &child, A + 2 * PAGE)), (Ok(1), Ok(1)));
    world.leave(0, &child);
    drop((parent, child));
    world.finish();
}

/// A write to a page that is there has a page for a copy at hand once one was copied, and that page is not zeroed: it is a copy, or it goes back, whatever the fault was
/// taken for. No page but the copies is taken, and nothing of the child's changes.
#[test]
fn a_page_in_hand_for_a_copy_is_nothing_else() {
    let world = World::new(2);
    let parent = world.user();
    map(&world, &parent, A, 16, Inherit::Copy);
    world.enter(0, &parent);
    for page in 0..8 {
        store(&world.sim, 0, &parent, A + page * PAGE, 10 + page).unwrap();
    }
    let child = parent.try_clone(()).unwrap().complete();
    let written = |page: u64| parent.fault(Fault::new(A + page * PAGE, Access::WRITE).present(true));
    let before = pages(&world);
    for page in 0..6 {
        assert_eq!(written(page).unwrap().complete(), Resolution::Mapped);
        assert_eq!(pages(&world), before + page + 1);
        // What it shows is the copy at once, on the CPU that remembered the other frame too.
        store(&world.sim, 0, &parent, A + page * PAGE, 20 + page).unwrap();
        assert_eq!(
            load(&world.sim, 0, &parent, A + page * PAGE + 8),
            load(&world.sim, 0, &parent, A + page * PAGE + 16)
        );
    }
    // The page is not there after all: it comes into being with zeros.
    assert_eq!(written(9).unwrap().complete(), Resolution::Mapped);
    assert_eq!(pages(&world), before + 7);
    assert_eq!(load(&world.sim, 0, &parent, A + 9 * PAGE), Ok(0));
    // It is the parent's own already.
    assert_eq!(written(3).unwrap().complete(), Resolution::Spurious);
    assert_eq!(pages(&world), before + 7);
    // Another CPU runs in the space: it has to forget the page first.
    world.enter(1, &parent);
    assert_eq!(load(&world.sim, 1, &parent, A + 6 * PAGE), Ok(16));
    let flush = written(6).unwrap();
    assert_eq!(load(&world.sim, 1, &parent, A + 6 * PAGE), Ok(16));
    assert_eq!(flush.complete(), Resolution::Mapped);
    store(&world.sim, 0, &parent, A + 6 * PAGE, 26).unwrap();
    assert_eq!(load(&world.sim, 1, &parent, A + 6 * PAGE), Ok(26));
    world.leave(1, &parent);
    world.leave(0, &parent);
    world.enter(0, &child);
    for page in 0..8 {
        assert_eq!(load(&world.sim, 0, &child, A + page * PAGE), Ok(10 + page));
    }
    assert_eq!(load(&world.sim, 0, &child, A + 9 * PAGE), Ok(0));
    world.leave(0, &child);
    drop((parent, child));
    world.finish();
}
