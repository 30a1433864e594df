//! Faults beside one another: in two areas, or two leaves of one, that share a leaf table, while a third CPU changes one of the two; and what two faults write.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use vmcore::paging::Access;
use vmcore::vm_area::AreaKind;
use vmcore::vm_space::{Fault, Inherit, MapRequest, SpaceError};

use super::super::lock::refusing;
use super::super::world::{PAGE, REMEMBERING, Signal, TAGGED, World, mapped, unmap};
use super::super::{Written, recorded};
use crate::reduced::Reduced;

/// What the third CPU does to the area at page 3, or to its window.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Unmap,
    Shrink,
    Protect,
    Clone,
    Snapshot,
}

/// What is faulted in beside the area at page 3.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    /// Another area.
    Area,
    /// Another leaf of its tree: faults have met there before.
    Leaf,
}

pub(crate) fn against_unmap() {
    against(Change::Unmap, TAGGED, Beside::Area);
}

pub(crate) fn against_shrink() {
    against(Change::Shrink, REMEMBERING, Beside::Area);
}

pub(crate) fn against_protect() {
    against(Change::Protect, TAGGED, Beside::Area);
}

pub(crate) fn against_clone() {
    against(Change::Clone, TAGGED, Beside::Area);
}

pub(crate) fn against_snapshot() {
    against(Change::Snapshot, REMEMBERING, Beside::Area);
}

pub(crate) fn leaves_against_unmap() {
    against(Change::Unmap, REMEMBERING, Beside::Leaf);
}

pub(crate) fn leaves_against_shrink() {
    against(Change::Shrink, TAGGED, Beside::Leaf);
}

pub(crate) fn leaves_against_protect() {
    against(Change::Protect, REMEMBERING, Beside::Leaf);
}

pub(crate) fn leaves_against_clone() {
    against(Change::Clone, REMEMBERING, Beside::Leaf);
}

pub(crate) fn leaves_against_snapshot() {
    against(Change::Snapshot, TAGGED, Beside::Leaf);
}

/// The pages of a leaf of an area's tree.
const LEAF: u64 = 64;

/// Pages 2 and 3 are of one leaf table, and of two areas or of two leaves of one; both are faulted in while something happens to page 3 alone.
fn against(change: Change, mmu: Reduced, beside: Beside) {
    let world = World::new(3, mmu);
    // With which page of its area page 3 begins; what is before that stays.
    let first = if beside == Beside::Leaf { LEAF } else { 1 };
    let (space, changes) = (world.user(), world.open(first + 1));
    let stays = if beside == Beside::Leaf { changes.clone() } else { world.open(1) };
    mapped(&space, &stays, 2 * PAGE, 1);
    let request = MapRequest::new(&changes).at(3 * PAGE).offset(first * PAGE).access(Access::KERNEL_DATA);
    let range = space.map(&request.inherit(Inherit::Copy)).expect("nothing is there");
    if beside == Beside::Leaf {
        // Leaves with room, and faults that met.
        stays.write(PAGE, &[1]).expect("memory for it").complete();
        let fault = || {
            space.fault(Fault::new(3 * PAGE, Access::READ)).expect("mapped").complete();
        };
        // The table; then they have the area.
        fault();
        refusing(fault);
    }
    // A copy of an area waits for what writes to it, wherever.
    let told = beside == Beside::Leaf && matches!(change, Change::Clone | Change::Snapshot);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let (one, two, three, area) = (space.clone(), space.clone(), space.clone(), changes.clone());
    world.run([
        Box::new(move |cpu| {
            for value in 1..3 {
                loop {
                    match cpu.store(&one, 2 * PAGE, value) {
                        Ok(()) => break,
                        Err(SpaceError::Retry(_)) if told => shuttle::thread::yield_now(),
                        Err(error) => panic!("nothing happens to it: {error}"),
                    }
                }
                match cpu.load(&one, 2 * PAGE) {
                    Err(SpaceError::Retry(_)) if told => {}
                    loaded => assert_eq!(loaded, Ok(value), "a store is lost"),
                }
            }
            one.give_up();
        }),
        Box::new(move |cpu| {
            for value in 1..4 {
                match cpu.store(&two, 3 * PAGE, value) {
                    Ok(()) => {}
                    Err(SpaceError::NoWindow(_)) => assert!(change == Change::Unmap),
                    Err(SpaceError::OutsideArea(_)) => assert!(change == Change::Shrink),
                    Err(SpaceError::Denied { .. }) => assert!(change == Change::Protect),
                    // What is cloned is not written to before all have forgotten that it could be.
                    Err(SpaceError::Retry(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            two.give_up();
        }),
        Box::new(move |cpu| {
            match change {
                Change::Unmap => three.unmap(range).expect("it is whole").complete(),
                Change::Shrink => area.resize(first * PAGE).expect("memory for it").complete(),
                Change::Protect => three.protect(range, Access::READ).expect("it is whole").complete(),
                Change::Clone => drop(three.try_clone(()).expect("memory for it").complete()),
                Change::Snapshot => {
                    let copy = area.snapshot().expect("memory for it").complete();
                    let word = || {
                        let mut bytes = [0; 8];
                        copy.read(first * PAGE, &mut bytes).expect("the page is there");
                        u64::from_ne_bytes(bytes)
                    };
                    let before = word();
                    let _ = cpu.store(&three, 3 * PAGE + 8, 9);
                    assert_eq!(word(), before, "a copy changes with what it is a copy of");
                }
            }
            three.give_up();
            area.give_up();
        }),
    ]);
    let mut bytes = [0; 8];
    stays.read(0, &mut bytes).expect("the page is there");
    assert_eq!(u64::from_ne_bytes(bytes), 2, "a store is lost");
    unmap(&space, PAGE, 7);
    let counters = space.counters();
    assert_eq!((counters.resident_pages, counters.tables), (0, 1), "a table was counted wrong");
    if beside == Beside::Leaf {
        let last = u64::from(change != Change::Shrink);
        assert_eq!(changes.resident_pages(), 2 + last, "a page was counted wrong");
        stays.give_up();
    } else {
        drop(stays.take());
    }
    drop(changes.take());
    world.destroy(space, 3);
    world.finish();
}

/// Two windows show the same two pages of one leaf, where faults have met; both CPUs store to both pages, each to words of its own, while a third one makes the leaf grow.
pub(crate) fn one_leaf() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(8));
    for page in [2, 4] {
        let request = MapRequest::new(&area).at(page * PAGE).offset(PAGE).size(2 * PAGE);
        space.map(&request.access(Access::KERNEL_DATA).inherit(Inherit::Share)).expect("nothing is there");
    }
    // The tables, then they have the area; and then the page goes, so that they make it.
    for page in [2, 4] {
        space.fault(Fault::new(page * PAGE, Access::READ)).expect("mapped").complete();
    }
    area.resize(PAGE).expect("memory for it").complete();
    area.resize(8 * PAGE).expect("nothing is outstanding").complete();
    area.write(0, &[1]).expect("memory for it").complete();
    refusing(|| {
        space.fault(Fault::new(3 * PAGE, Access::READ)).expect("mapped").complete();
    });
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let thread = |number: u64| {
        let space = space.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            for page in [0, 1] {
                let address = (2 + 2 * number + page) * PAGE + 8 * number;
                cpu.store(&space, address, number + 1).expect("mapped for writing");
                assert_eq!(cpu.load(&space, address), Ok(number + 1), "a store is lost");
            }
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    let grows = area.clone();
    let grow = Box::new(move |_: super::super::world::Cpu| {
        for page in [4, 5] {
            grows.write(page * PAGE, &[7]).expect("memory for it").complete();
        }
        grows.give_up();
    });
    world.run([thread(0), thread(1), grow]);
    for (page, number) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut bytes = [0; 8];
        area.read(page * PAGE + 8 * number, &mut bytes).expect("the page is there");
        assert_eq!(u64::from_ne_bytes(bytes), number + 1, "a store is lost");
    }
    assert_eq!(area.resident_pages(), 5, "a page was counted wrong");
    unmap(&space, PAGE, 7);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}

/// Two pages of one leaf table that is there and empty, of two areas: both are counted.
pub(crate) fn one_table() {
    let world = World::new(2, TAGGED);
    let (space, one, two) = (world.user(), world.open(1), world.open(2));
    mapped(&space, &one, 2 * PAGE, 1);
    space.map(&MapRequest::new(&two).at(3 * PAGE).offset(PAGE).access(Access::KERNEL_DATA)).expect("nothing is there");
    // The area takes its page out of the table, which stays.
    space.fault(Fault::new(3 * PAGE, Access::USER_DATA)).expect("mapped for writing").complete();
    two.resize(PAGE).expect("memory for it").complete();
    two.resize(2 * PAGE).expect("nothing is outstanding").complete();
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let thread = |page: u64| {
        let space = space.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            cpu.store(&space, page * PAGE, page).expect("mapped for writing");
            assert_eq!(cpu.load(&space, page * PAGE), Ok(page));
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    world.run([thread(2), thread(3)]);
    unmap(&space, 2 * PAGE, 1);
    assert_eq!(space.counters().resident_pages, 1, "a table was unlinked with a leaf in it");
    unmap(&space, 3 * PAGE, 1);
    assert_eq!(space.counters().tables, 1, "a table was counted wrong");
    drop((one.take(), two.take()));
    world.destroy(space, 2);
    world.finish();
}

/// How many locked operations a fault may take on a page that was not there: its CPU's slot, its area, the frame's record, the table's count.
const MOST_LOCKED: usize = 4;

pub(crate) fn no_common_word() {
    no_common_word_of(Beside::Area);
}

pub(crate) fn no_common_word_of_leaves() {
    no_common_word_of(Beside::Leaf);
}

/// Two CPUs fault in two areas, or two leaves of one where faults have met, that share no table but those above the leaves: no word of the library is written by both, and each fault takes
/// few locked operations.
fn no_common_word_of(beside: Beside) {
    let world = World::new(2, TAGGED);
    let space = world.user();
    let first = |which: u64| if beside == Beside::Leaf { which * LEAF } else { 0 };
    let one = world.area(AreaKind::Open { size: (first(1) + 8) * PAGE });
    let other = if beside == Beside::Leaf { one.clone() } else { world.open(8) };
    let areas = [one, other];
    // Pages 2 and 3, and 4 and 5: two leaf tables.
    for (which, (area, page)) in areas.iter().zip([2, 4]).enumerate() {
        let first = first(which as u64);
        let request = MapRequest::new(area).at(page * PAGE).offset((first + 6) * PAGE).size(2 * PAGE);
        space.map(&request.access(Access::KERNEL_DATA).inherit(Inherit::Share)).expect("nothing is there");
        // A node of the tree that has room.
        for page in first..first + 5 {
            area.write(page * PAGE, &[1]).expect("memory for it").complete();
        }
    }
    if beside == Beside::Leaf {
        let fault = || {
            space.fault(Fault::new(2 * PAGE, Access::READ)).expect("mapped").complete();
        };
        // The table; then they have the area.
        fault();
        refusing(fault);
    }
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let turn = Arc::new(Signal::new(0));
    let written = [0, 1].map(|_| Arc::new(Mutex::new(Written::default())));
    let thread = |number: usize, page: u64| {
        let (space, turn, told) = (space.clone(), turn.clone(), written[number].clone());
        Box::new(move |_: super::super::world::Cpu| {
            // One after the other: what is recorded is one fault's.
            while turn.load(SeqCst) != number as u64 {
                shuttle::thread::yield_now();
            }
            let fault = |page: u64| {
                space.fault(Fault::new(page * PAGE, Access::USER_DATA)).expect("mapped for writing").complete();
            };
            // The table; and the CPU's bit, which was taken by who made the table.
            fault(page);
            fault(page);
            *told.lock().expect("no panic") = recorded(|| fault(page + 1));
            turn.store(number as u64 + 1, SeqCst);
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    world.run([thread(0, 2), thread(1, 4)]);
    let written = written.map(|written| std::mem::take(&mut *written.lock().expect("no panic")));
    for written in &written {
        assert!(
            (2..=MOST_LOCKED).contains(&written.locked.len()),
            "{} locked operations: {:x?}",
            written.locked.len(),
            written.locked
        );
    }
    let [one, two] = written.map(|written| written.words.into_iter().collect::<BTreeSet<_>>());
    let common: Vec<_> = one.intersection(&two).collect();
    assert!(common.is_empty(), "two faults write the same words: {common:x?}");
    unmap(&space, PAGE, 7);
    let [one, other] = areas;
    if beside == Beside::Leaf {
        assert_eq!(other.resident_pages(), 14, "a page was counted wrong");
        other.give_up();
    } else {
        drop(other.take());
    }
    drop(one.take());
    world.destroy(space, 2);
    world.finish();
}
