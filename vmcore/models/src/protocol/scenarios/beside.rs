//! Faults beside one another: in two areas that share a leaf table while a third CPU changes one of the two; and what two faults write.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use vmcore::paging::Access;
use vmcore::vm_area::AreaKind;
use vmcore::vm_space::{Fault, Inherit, MapRequest, SpaceError};

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

pub(crate) fn against_unmap() {
    against(Change::Unmap, TAGGED);
}

pub(crate) fn against_shrink() {
    against(Change::Shrink, REMEMBERING);
}

pub(crate) fn against_protect() {
    against(Change::Protect, TAGGED);
}

pub(crate) fn against_clone() {
    against(Change::Clone, TAGGED);
}

pub(crate) fn against_snapshot() {
    against(Change::Snapshot, REMEMBERING);
}

/// Pages 2 and 3 are of one leaf table and of two areas; both are faulted in while something happens to page 3 alone.
fn against(change: Change, mmu: Reduced) {
    let world = World::new(3, mmu);
    let (space, stays, changes) = (world.user(), world.open(1), world.open(2));
    mapped(&space, &stays, 2 * PAGE, 1);
    let request = MapRequest::new(&changes).at(3 * PAGE).offset(PAGE).access(Access::KERNEL_DATA);
    let range = space.map(&request.inherit(Inherit::Copy)).expect("nothing is there");
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let (one, two, three, area) = (space.clone(), space.clone(), space.clone(), changes.clone());
    world.run([
        Box::new(move |cpu| {
            for value in 1..3 {
                cpu.store(&one, 2 * PAGE, value).expect("nothing happens to it");
                assert_eq!(cpu.load(&one, 2 * PAGE), Ok(value), "a store is lost");
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
                Change::Shrink => area.resize(PAGE).expect("memory for it").complete(),
                Change::Protect => three.protect(range, Access::READ).expect("it is whole").complete(),
                Change::Clone => drop(three.try_clone(()).expect("memory for it").complete()),
                Change::Snapshot => {
                    let copy = area.snapshot().expect("memory for it").complete();
                    let word = || {
                        let mut bytes = [0; 8];
                        copy.read(PAGE, &mut bytes).expect("the page is there");
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
    drop((stays.take(), changes.take()));
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

/// Two CPUs fault in two areas that share no table but those above the leaves: no word of the library is written by both, and each fault takes
/// few locked operations.
pub(crate) fn no_common_word() {
    let world = World::new(2, TAGGED);
    let space = world.user();
    let areas = [0, 1].map(|_| world.area(AreaKind::Open { size: 8 * PAGE }));
    // Pages 2 and 3, and 4 and 5: two leaf tables.
    for (area, page) in areas.iter().zip([2, 4]) {
        let request = MapRequest::new(area).at(page * PAGE).offset(6 * PAGE).access(Access::KERNEL_DATA);
        space.map(&request.inherit(Inherit::Share)).expect("nothing is there");
        // A node of the tree that has room.
        for page in 0..5 {
            area.write(page * PAGE, &[1]).expect("memory for it").complete();
        }
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
    for area in areas {
        drop(area.take());
    }
    world.destroy(space, 2);
    world.finish();
}
