//! Changes against faults and against each other: nothing is reached, reused or freed before every CPU has forgotten it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use vmcore::addr::VirtAddr;
use vmcore::paging::Access;
use vmcore::vm_area::{AreaError, AreaKind, SectionLayout};
use vmcore::vm_space::{MapRequest, SpaceError};

use super::super::world::{KERNEL, PAGE, REMEMBERING, Signal, TAGGED, World, map, mapped, unmap};
use crate::reduced::Reduced;

/// What an access may say where something is being unmapped.
fn gone<T>(result: Result<T, SpaceError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(SpaceError::NoWindow(_) | SpaceError::Retry(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn fault_against_unmap() {
    fault_against_unmap_on(TAGGED);
}

pub(crate) fn fault_against_unmap_remembered() {
    fault_against_unmap_on(REMEMBERING);
}

/// One CPU uses two pages while another unmaps them, frees them, and puts the frames to another use at once.
fn fault_against_unmap_on(mmu: Reduced) {
    let world = World::new(2, mmu);
    let (space, area, other) = (world.user(), world.open(2), world.open(2));
    let range = mapped(&space, &area, 2 * PAGE, 2);
    mapped(&space, &other, 5 * PAGE, 2);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let (using, changing) = (space.clone(), space.clone());
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |cpu| {
            for page in [2, 3, 2] {
                let unmapped = told.load(SeqCst) != 0;
                let stored = gone(cpu.store(&using, page * PAGE, 1));
                assert!(!unmapped || stored.is_none(), "page {page} was reached after the unmap was complete");
            }
            using.give_up();
        }),
        Box::new(move |cpu| {
            changing.unmap(range).expect("it is whole").complete();
            done.store(1, SeqCst);
            // Its last handle and its last window: the frames go.
            drop(area.take());
            for page in 5..7 {
                assert_eq!(cpu.load(&changing, page * PAGE), Ok(0), "a fresh page is not zero");
                cpu.store(&changing, page * PAGE, 9).expect("mapped for writing");
                assert_eq!(cpu.load(&changing, page * PAGE), Ok(9), "somebody else writes the frame");
            }
            changing.give_up();
        }),
    ]);
    assert_eq!(world.pages(), 2);
    unmap(&space, 5 * PAGE, 2);
    drop(other.take());
    world.destroy(space, 2);
    world.finish();
}

/// What was mapped at an address before is seen by nobody once something else is mapped there.
pub(crate) fn address_reuse() {
    let world = World::new(3, TAGGED);
    let (space, old, new) = (world.user(), world.open(1), world.open(1));
    old.write(0, &1_u64.to_ne_bytes()).expect("memory for it").complete();
    new.write(0, &2_u64.to_ne_bytes()).expect("memory for it").complete();
    mapped(&space, &old, 3 * PAGE, 1);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let (using, changing, mapping) = (space.clone(), space.clone(), space.clone());
    let newer = new.clone();
    let done = Arc::new(Signal::new(0));
    let told = [done.clone(), done.clone()];
    world.run([
        Box::new(move |cpu| {
            for _ in 0..2 {
                let changed = told[0].load(SeqCst) != 0;
                let seen = gone(cpu.load(&using, 3 * PAGE));
                assert!(seen != Some(1) || !changed, "the old page was seen through the new window's address");
            }
            using.give_up();
        }),
        Box::new(move |_| {
            unmap(&changing, 3 * PAGE, 1);
            changing.give_up();
        }),
        Box::new(move |cpu| {
            match map(&mapping, &newer, 3 * PAGE, 0, 1) {
                Ok(_) => {
                    done.store(1, SeqCst);
                    assert_eq!(cpu.load(&mapping, 3 * PAGE), Ok(2));
                }
                // What is unmapped, or still being flushed, is not free.
                Err(SpaceError::Conflict(_) | SpaceError::Retry(_)) => {}
                Err(error) => panic!("{error}"),
            }
            mapping.give_up();
            newer.give_up();
        }),
    ]);
    unmap(&space, PAGE, 7);
    drop((old.take(), new.take()));
    world.destroy(space, 3);
    world.finish();
}

/// A shrink reaches every space, also one that is faulting at the moment.
pub(crate) fn shrink() {
    let world = World::new(2, TAGGED);
    let (one, two, area) = (world.user(), world.user(), world.open(3));
    mapped(&one, &area, PAGE, 3);
    mapped(&two, &area, 4 * PAGE, 3);
    world.enter(0, &one);
    world.enter(1, &two);
    let (using, changing, shrinking) = (two.clone(), one.clone(), area.clone());
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |cpu| {
            cpu.store(&changing, 2 * PAGE, 3).expect("it is not shrunk yet");
            shrinking.resize(PAGE).expect("memory for it").complete();
            done.store(1, SeqCst);
            let after = cpu.load(&changing, 2 * PAGE);
            assert!(matches!(after, Err(SpaceError::OutsideArea(_))), "{after:?}");
            changing.give_up();
            shrinking.give_up();
        }),
        Box::new(move |cpu| {
            for page in [5, 6, 5] {
                let shrunk = told.load(SeqCst) != 0;
                match cpu.store(&using, page * PAGE + 8, 4) {
                    Ok(()) => assert!(!shrunk, "page {page} was reached after the area was shrunk"),
                    Err(SpaceError::OutsideArea(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            using.give_up();
        }),
    ]);
    assert!(world.pages() <= 1, "the pages that were given up are freed");
    unmap(&one, PAGE, 3);
    unmap(&two, 4 * PAGE, 3);
    drop(area.take());
    world.leave(1, &two);
    world.leave(0, &one);
    world.destroy(one, 0);
    world.destroy(two, 0);
    world.finish();
}

/// The pages of a window that is being unmapped are given up by the area meanwhile, while a third CPU still uses them. Who is told first can
/// count on it: each of the two asks for what the other has taken out of the tables and not flushed yet.
pub(crate) fn shrink_against_unmap() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(2));
    mapped(&space, &area, 2 * PAGE, 2);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let (using, changing, shrinking) = (space.clone(), space.clone(), area.clone());
    let done = Arc::new(Signal::new(0));
    let (unmapped, shrunk) = (done.clone(), done.clone());
    world.run([
        Box::new(move |cpu| {
            for _ in 0..3 {
                let gone = done.load(SeqCst) != 0;
                match cpu.store(&using, 3 * PAGE, 1) {
                    Ok(()) => assert!(!gone, "the page was reached after it was unmapped or given up"),
                    Err(SpaceError::OutsideArea(_) | SpaceError::NoWindow(_) | SpaceError::Retry(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            using.give_up();
        }),
        Box::new(move |_| {
            unmap(&changing, 2 * PAGE, 2);
            unmapped.store(1, SeqCst);
            changing.give_up();
        }),
        Box::new(move |_| {
            shrinking.resize(PAGE).expect("memory for it").complete();
            shrunk.store(1, SeqCst);
            shrinking.give_up();
        }),
    ]);
    assert_eq!(area.resident_pages(), 0);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}

/// A page that is given up and comes back is a new one, for every CPU.
pub(crate) fn shrink_and_grow() {
    let world = World::new(2, REMEMBERING);
    let (space, area) = (world.user(), world.open(2));
    area.write(PAGE, &1_u64.to_ne_bytes()).expect("memory for it").complete();
    mapped(&space, &area, 2 * PAGE, 2);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let (using, changing, shrinking) = (space.clone(), space.clone(), area.clone());
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |cpu| {
            for _ in 0..3 {
                let grown = told.load(SeqCst) != 0;
                match cpu.load(&using, 3 * PAGE) {
                    Ok(seen) => assert!(!grown || seen == 2, "the old page came back: {seen}"),
                    Err(SpaceError::OutsideArea(_)) => assert!(!grown, "it has grown again"),
                    Err(error) => panic!("{error}"),
                }
            }
            using.give_up();
        }),
        Box::new(move |cpu| {
            shrinking.resize(PAGE).expect("memory for it").complete();
            shrinking.resize(2 * PAGE).expect("its flush is over").complete();
            assert_eq!(cpu.load(&changing, 3 * PAGE), Ok(0), "a fresh page is not zero");
            cpu.store(&changing, 3 * PAGE, 2).expect("mapped for writing");
            done.store(1, SeqCst);
            shrinking.give_up();
            changing.give_up();
        }),
    ]);
    unmap(&space, 2 * PAGE, 2);
    drop(area.take());
    world.destroy(space, 2);
    world.finish();
}

/// A window is cut in three while its ends are used, which stay what they are.
pub(crate) fn middle() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(4));
    mapped(&space, &area, 2 * PAGE, 4);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let thread = |page: u64, inner: u64| {
        let space = space.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            cpu.store(&space, page * PAGE, page).expect("it stays mapped");
            gone(cpu.store(&space, inner * PAGE, inner));
            assert_eq!(cpu.load(&space, page * PAGE), Ok(page), "the wrong page of the area");
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    let changing = space.clone();
    world.run([
        thread(2, 3),
        thread(5, 4),
        Box::new(move |_| {
            unmap(&changing, 3 * PAGE, 2);
            changing.give_up();
        }),
    ]);
    let mut bytes = [0; 8];
    for page in [2, 5] {
        area.read((page - 2) * PAGE, &mut bytes).expect("the page is there");
        assert_eq!(u64::from_ne_bytes(bytes), page);
    }
    unmap(&space, PAGE, 7);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}

/// A stack that is given back is handed out when nobody can reach the old one's pages any more.
pub(crate) fn sections() {
    let world = World::new(2, TAGGED);
    let stacks = world.area(AreaKind::Guarded(SectionLayout { pages: 1, guard: 1, count: 1 }));
    let range = world.kernel.map(&MapRequest::new(&stacks).at(KERNEL).access(Access::KERNEL_DATA)).expect("it is free");
    let section = stacks.take_section().expect("none is out");
    let stack = range.start().as_u64() + section.offset;
    let (using, giving) = (world.kernel.clone(), stacks.clone());
    let changing = world.kernel.clone();
    world.run([
        Box::new(move |cpu| {
            for _ in 0..2 {
                match cpu.store(&using, stack + 8, 1) {
                    Ok(()) | Err(SpaceError::Guard(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            using.give_up();
        }),
        Box::new(move |cpu| {
            giving.give_section(section.number).expect("it is out").complete();
            assert!(matches!(cpu.load(&changing, stack), Err(SpaceError::Guard(_))));
            let again = giving.take_section().expect("its flush is over");
            assert_eq!(cpu.load(&changing, stack), Ok(0), "a fresh stack is not zero");
            giving.give_section(again.number).expect("it is out").complete();
            giving.give_up();
            changing.give_up();
        }),
    ]);
    assert_eq!(world.pages(), 0);
    world.kernel.unmap(range).expect("it is whole").complete();
    drop(stacks.take());
    world.finish();
}

/// Bytes are copied in while the page that they go to is given up: into a page of the area, or nowhere.
pub(crate) fn copy_in() {
    let world = World::new(2, TAGGED);
    let (area, other) = (world.open(2), world.open(2));
    let (writing, shrinking, fresh) = (area.clone(), area.clone(), other.clone());
    world.run([
        Box::new(move |_| {
            match writing.write(PAGE, &[7; 8]) {
                Ok(flush) => flush.complete(),
                Err(AreaError::Outside { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            writing.give_up();
        }),
        Box::new(move |_| {
            shrinking.resize(PAGE).expect("memory for it").complete();
            let mut bytes = [1; 8];
            fresh.write(64, &[1]).expect("memory for it").complete();
            fresh.read(0, &mut bytes).expect("it is there");
            assert_eq!(bytes, [0; 8], "a fresh page is not zero");
            fresh.read(0, &mut bytes).expect("it is there");
            assert_eq!(bytes, [0; 8], "bytes went to a frame that was freed");
            shrinking.give_up();
            fresh.give_up();
        }),
    ]);
    assert_eq!((area.resident_pages(), world.pages()), (0, 1));
    drop((area.take(), other.take()));
    world.finish();
}

/// Who is told that a range is unmapped can count on it, also if another unmapped it first.
pub(crate) fn two_unmap() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(2));
    mapped(&space, &area, 2 * PAGE, 2);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let done = Arc::new(Signal::new(0));
    let thread = |first: u64, pages: u64| {
        let (space, done) = (space.clone(), done.clone());
        Box::new(move |_| {
            unmap(&space, first * PAGE, pages);
            done.store(1, SeqCst);
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    let (using, told) = (space.clone(), done.clone());
    world.run([
        thread(2, 2),
        thread(3, 1),
        Box::new(move |cpu| {
            for _ in 0..2 {
                let unmapped = told.load(SeqCst) != 0;
                let stored = gone(cpu.store(&using, 3 * PAGE, 1));
                assert!(!unmapped || stored.is_none(), "it was reached after an unmap of it was complete");
            }
            using.give_up();
        }),
    ]);
    drop(area.take());
    assert_eq!(world.pages(), 0);
    world.destroy(space, 3);
    world.finish();
}

/// What is mapped where a window was is left alone by what the old window's area still does.
pub(crate) fn old_view() {
    let world = World::new(3, TAGGED);
    let (space, old, new) = (world.user(), world.open(2), world.open(2));
    mapped(&space, &old, 2 * PAGE, 2);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let (changing, mapping) = (space.clone(), space.clone());
    let (shrinking, newer) = (old.clone(), new.clone());
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |_| {
            unmap(&changing, 2 * PAGE, 2);
            changing.give_up();
        }),
        Box::new(move |_| {
            shrinking.resize(PAGE).expect("memory for it").complete();
            done.store(1, SeqCst);
            shrinking.give_up();
        }),
        Box::new(move |cpu| {
            let request = MapRequest::new(&newer).at(2 * PAGE).access(Access::KERNEL_DATA).populated();
            for _ in 0..8 {
                match mapping.map(&request) {
                    Ok(_) => {
                        while told.load(SeqCst) == 0 {
                            shuttle::thread::yield_now();
                        }
                        for page in [2, 3] {
                            let address = VirtAddr::new(page * PAGE);
                            cpu.sim()
                                .write_u64(cpu.number, address, true, 1)
                                .expect("what is populated does not fault");
                        }
                        break;
                    }
                    Err(SpaceError::Conflict(_) | SpaceError::Retry(_)) => shuttle::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            mapping.give_up();
            newer.give_up();
        }),
    ]);
    unmap(&space, PAGE, 7);
    drop((old.take(), new.take()));
    world.destroy(space, 3);
    world.finish();
}

/// One CPU shrinks an area, another makes it larger: what comes back is new.
pub(crate) fn shrink_against_grow() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(2));
    area.write(PAGE, &1_u64.to_ne_bytes()).expect("memory for it").complete();
    mapped(&space, &area, 2 * PAGE, 2);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let (using, looking) = (space.clone(), space.clone());
    let (shrinking, growing) = (area.clone(), area.clone());
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |cpu| {
            for _ in 0..2 {
                let grown = told.load(SeqCst) != 0;
                let seen = cpu.load(&using, 3 * PAGE);
                assert!(!grown || seen == Ok(0), "the old page came back: {seen:?}");
            }
            using.give_up();
        }),
        Box::new(move |_| {
            shrinking.resize(PAGE).expect("memory for it").complete();
            shrinking.give_up();
        }),
        Box::new(move |cpu| {
            for _ in 0..4 {
                // At two pages, this is a shrink that is over or one that has not begun.
                let shrunk = growing.size() == PAGE;
                match growing.resize(2 * PAGE) {
                    Ok(flush) => {
                        flush.complete();
                        if shrunk {
                            done.store(1, SeqCst);
                            assert_eq!(cpu.load(&looking, 3 * PAGE), Ok(0), "the old page came back");
                            break;
                        }
                    }
                    Err(AreaError::Retry) => shuttle::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            growing.give_up();
            looking.give_up();
        }),
    ]);
    unmap(&space, 2 * PAGE, 2);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}

/// A CPU that is told of a second, larger shrink can count on the first one too.
pub(crate) fn two_shrinks() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(3));
    mapped(&space, &area, 2 * PAGE, 3);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let done = Arc::new(Signal::new(0));
    let using = space.clone();
    let told = done.clone();
    let thread = |pages: u64| {
        let (area, done) = (area.clone(), done.clone());
        Box::new(move |_| {
            if area.resize(pages * PAGE).map(|flush| flush.complete()).is_ok() && area.size() <= 2 * PAGE {
                done.store(1, SeqCst);
            }
            area.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    world.run([
        thread(2),
        thread(1),
        Box::new(move |cpu| {
            for _ in 0..3 {
                let shrunk = told.load(SeqCst) != 0;
                match cpu.store(&using, 4 * PAGE, 1) {
                    Ok(()) => assert!(!shrunk, "it was reached after a shrink was complete"),
                    Err(SpaceError::OutsideArea(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            using.give_up();
        }),
    ]);
    unmap(&space, 2 * PAGE, 3);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}
