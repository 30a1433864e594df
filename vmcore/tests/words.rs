//! What an address names, for who waits there: one place however it is shown, another one in a clone, and never one that was before.

mod common;

use std::collections::BTreeSet;

use common::{PAGE, USER_WRITE, World, at, load, store};
use vmcore::addr::{Frame, FrameRange};
use vmcore::paging::{Access, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{AreaPlace, Inherit, MapRequest, Space, SpaceError};

const BASE: u64 = 0x40_0000;

fn map(space: &Space<Sim>, area: &Area<Sim>, address: u64, inherit: Inherit) {
    space.map(&MapRequest::new(area).at(address).access(USER_WRITE).inherit(inherit)).unwrap();
}

fn place(space: &Space<Sim>, address: u64) -> AreaPlace {
    let place = space.place_at(at(address)).unwrap();
    assert_eq!(space.word_at(at(address & !3)).unwrap().place, AreaPlace { offset: place.offset & !3, ..place });
    place
}

#[test]
fn a_byte_has_one_place_wherever_it_is_shown() {
    let world = World::new(1);
    let (one, two) = (world.user(), world.user());
    let (area, other) = (world.open(4), world.open(4));
    map(&one, &area, BASE, Inherit::Share);
    map(&one, &area, 2 * BASE, Inherit::Share);
    map(&one, &other, 3 * BASE, Inherit::Share);
    let part = MapRequest::new(&area).at(0x1234_5000).offset(2 * PAGE).size(PAGE).access(USER_WRITE);
    two.map(&part).unwrap();
    let known = place(&one, BASE + 2 * PAGE + 0x123);
    assert_eq!(known.offset, 2 * PAGE + 0x123);
    assert_eq!(place(&one, 2 * BASE + 2 * PAGE + 0x123), known);
    assert_eq!(place(&two, 0x1234_5123), known);
    let places = [place(&one, BASE), place(&one, BASE + 1), place(&one, 3 * BASE), place(&one, BASE + PAGE), known];
    assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len(), "{places:?}");
}

#[test]
fn both_places_of_a_ring_are_one() {
    let world = World::new(1);
    let space = world.user();
    let ring = Area::new(&world.sim, AreaKind::Ring { size: 2 * PAGE }, 0).unwrap();
    map(&space, &ring, BASE, Inherit::Share);
    assert_eq!(place(&space, BASE + 8), place(&space, BASE + 2 * PAGE + 8));
    assert_ne!(place(&space, BASE + 8), place(&space, BASE + PAGE + 8));
}

/// Before and after either has written; and a clone of the clone.
#[test]
fn private_memory_has_a_place_of_its_own_in_each_clone() {
    let world = World::new(1);
    let parent = world.user();
    let (private, shared) = (world.open(2), world.open(2));
    map(&parent, &private, BASE, Inherit::Copy);
    map(&parent, &shared, 2 * BASE, Inherit::Share);
    world.enter(0, &parent);
    store(&world.sim, 0, &parent, BASE, 7).unwrap();
    let (of_private, of_shared) = (place(&parent, BASE), place(&parent, 2 * BASE));
    let child = parent.try_clone(()).unwrap().complete();
    let grandchild = child.try_clone(()).unwrap().complete();
    let check = |when: &str| {
        assert_eq!(place(&parent, BASE), of_private, "{when}: whoever waits in the parent is still found");
        let all = [place(&parent, BASE), place(&child, BASE), place(&grandchild, BASE)];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 3, "{when}: {all:?}");
        for space in [&parent, &child, &grandchild] {
            assert_eq!(place(space, 2 * BASE), of_shared, "{when}");
        }
    };
    check("cloned");
    let of_child = place(&child, BASE);
    for (space, value) in [(&child, 8), (&parent, 9), (&grandchild, 10)] {
        world.enter(0, space);
        store(&world.sim, 0, space, BASE, value).unwrap();
        assert_eq!(load(&world.sim, 0, space, BASE), Ok(value));
        assert_eq!(u64::from(space.word_at(at(BASE)).unwrap().value), value);
        check("written");
    }
    assert_eq!(place(&child, BASE), of_child, "copying the page on write changed nothing");
}

#[test]
fn no_place_comes_again() {
    let world = World::new(1);
    let space = world.user();
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let area = world.open(1);
        map(&space, &area, BASE, Inherit::Share);
        assert!(seen.insert(place(&space, BASE)), "a place of an area that is gone");
        drop(area);
        space.unmap(space.range(BASE, PAGE).unwrap()).unwrap().complete();
    }
}

#[test]
fn a_word_is_what_a_load_finds_and_no_page_comes_of_looking() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(2);
    map(&space, &area, BASE, Inherit::Share);
    let before = world.sim.frame_counts();
    assert_eq!(space.word_at(at(BASE + PAGE + 4)).unwrap().value, 0);
    assert_eq!((world.sim.frame_counts(), area.resident_pages()), (before, 0));
    area.write(PAGE + 4, &0xdead_beef_u32.to_le_bytes()).unwrap().complete();
    for (offset, value) in [(0, 0), (4, 0xdead_beef), (8, 0), (0xffc, 0)] {
        assert_eq!(space.word_at(at(BASE + PAGE + offset)).unwrap().value, value, "{offset:#x}");
    }
    assert_eq!(area.resident_pages(), 1);
}

#[test]
fn what_is_not_readable_memory_is_refused() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(4);
    map(&space, &area, BASE, Inherit::Share);
    let page = |index: u64| space.range(BASE + index * PAGE, PAGE).unwrap();
    space.install_guards(page(1)).unwrap().complete();
    space.protect(page(2), Access::empty()).unwrap().complete();
    area.resize(3 * PAGE).unwrap().complete();
    let address = |index: u64| BASE + index * PAGE + 4;
    let both = |address: u64| {
        let (place, word) = (space.place_at(at(address)), space.word_at(at(address)).map(|word| word.place));
        assert_eq!(place, word, "{address:#x}");
        place
    };
    assert!(both(address(0)).is_ok());
    assert_eq!(both(address(1)), Err(SpaceError::Guard(at(address(1)))));
    assert!(matches!(both(address(2)), Err(SpaceError::Denied { wanted: Access::READ, .. })));
    assert_eq!(both(address(3)), Err(SpaceError::OutsideArea(at(address(3)))));
    for address in [0, BASE - 4, BASE + 4 * PAGE, 0x7fff_ffff_fffc, 0xffff_8000_0000_0000, u64::MAX - 3] {
        assert_eq!(both(address), Err(SpaceError::NoWindow(at(address))));
    }
    for address in [BASE + 1, BASE + 2, BASE + 3] {
        assert_eq!(space.word_at(at(address)), Err(AreaError::Unaligned(address).into()));
        assert!(space.place_at(at(address)).is_ok());
    }
}

#[test]
fn memory_without_words_of_its_own_has_places_only() {
    let world = World::new(1);
    let space = world.user();
    let device = FrameRange::new(Frame::new(0x20_0000), 1).unwrap();
    // SAFETY: nothing relies on the frames, which are no RAM.
    let device = unsafe { Area::fixed(&world.sim, device, MemoryType::Uncached, 0) }.unwrap();
    map(&space, &device, BASE, Inherit::Share);
    assert_eq!(space.place_at(at(BASE)).unwrap().offset, 0);
    assert!(matches!(space.word_at(at(BASE)), Err(SpaceError::Area(AreaError::Unreachable(_)))));
    let untracked = Area::new(&world.sim, AreaKind::Untracked { size: PAGE }, 0).unwrap();
    map(&space, &untracked, 2 * BASE, Inherit::Nothing);
    assert_eq!(space.word_at(at(2 * BASE)), Err(AreaError::Kind.into()));
}
