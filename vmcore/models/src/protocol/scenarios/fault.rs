//! Faults against faults: one page is one frame, whoever is first.

use vmcore::addr::VirtAddr;
use vmcore::paging::Access;
use vmcore::vm_area::AreaKind;
use vmcore::vm_space::{MapRequest, SpaceError};

use super::super::world::{KERNEL, PAGE, REMEMBERING, TAGGED, World, mapped, unmap};
use crate::reduced::Reduced;

pub(crate) fn one_page() {
    one_page_on(TAGGED);
}

pub(crate) fn one_page_remembered() {
    one_page_on(REMEMBERING);
}

/// Both store to the page that neither has touched, and both stores are there.
fn one_page_on(mmu: Reduced) {
    let world = World::new(2, mmu);
    let (space, area) = (world.user(), world.open(1));
    mapped(&space, &area, PAGE, 1);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let thread = |offset: u64| {
        let space = space.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            cpu.store(&space, PAGE + offset, 7 + offset).expect("mapped for writing");
            assert_eq!(cpu.load(&space, PAGE + offset), Ok(7 + offset));
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    world.run([thread(0), thread(8)]);
    assert_eq!((area.resident_pages(), world.pages()), (1, 1), "one page is one frame");
    let mut bytes = [0; 16];
    area.read(0, &mut bytes).expect("the page is there");
    assert_eq!((bytes[0], bytes[8]), (7, 15), "a store went to a frame that is not the page's");
    unmap(&space, PAGE, 1);
    drop(area.take());
    world.destroy(space, 2);
    world.finish();
}

/// Pages of one leaf table, of one middle table, and of different ones: tables are made once.
pub(crate) fn neighbours() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(6));
    mapped(&space, &area, PAGE, 6);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let thread = |pages: [u64; 2]| {
        let space = space.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            for page in pages {
                cpu.store(&space, page * PAGE, page).expect("mapped for writing");
            }
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    world.run([thread([2, 4]), thread([3, 6]), thread([1, 5])]);
    assert_eq!((area.resident_pages(), world.pages()), (6, 6));
    for page in 1..7 {
        assert_eq!(world.sim().read_u64(0, VirtAddr::new(page * PAGE), true).unwrap_or(page), page);
    }
    unmap(&space, PAGE, 6);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}

/// A page that one CPU reads and the other writes for the first time: the reader sees nothing or the store, the store is kept.
pub(crate) fn read_against_write() {
    let world = World::new(2, REMEMBERING);
    let (space, area) = (world.user(), world.open(1));
    mapped(&space, &area, PAGE, 1);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let (reader, writer) = (space.clone(), space.clone());
    world.run([
        Box::new(move |cpu| {
            let seen = [cpu.load(&reader, PAGE), cpu.load(&reader, PAGE)].map(|seen| seen.expect("mapped"));
            assert!([[0, 0], [0, 5], [5, 5]].contains(&seen), "{seen:?}");
            cpu.store(&reader, PAGE + 8, 6).expect("mapped for writing");
            reader.give_up();
        }),
        Box::new(move |cpu| {
            cpu.store(&writer, PAGE, 5).expect("mapped for writing");
            assert_eq!(cpu.load(&writer, PAGE), Ok(5));
            writer.give_up();
        }),
    ]);
    assert_eq!(world.pages(), 1);
    unmap(&space, PAGE, 1);
    drop(area.take());
    world.destroy(space, 2);
    world.finish();
}

/// What is populated is there for who faults, and the other way round.
pub(crate) fn populate() {
    let world = World::new(3, TAGGED);
    let (space, area) = (world.user(), world.open(4));
    mapped(&space, &area, 2 * PAGE, 4);
    (0..3).for_each(|cpu| world.enter(cpu, &space));
    let thread = |page: u64| {
        let space = space.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            for page in [page, page + 1] {
                cpu.store(&space, page * PAGE, page).expect("mapped for writing");
            }
            space.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    let populating = space.clone();
    world.run([
        thread(2),
        thread(3),
        Box::new(move |cpu| {
            let range = populating.range(2 * PAGE, 4 * PAGE).expect("a range of the space");
            populating.populate(range, Access::KERNEL_DATA).expect("memory for it").complete();
            // Nothing faults any more.
            for page in 2..6 {
                cpu.sim().write_u64(cpu.number, VirtAddr::new(page * PAGE + 8), true, 1).expect("populated");
            }
            populating.give_up();
        }),
    ]);
    assert_eq!((area.resident_pages(), world.pages()), (4, 4));
    for page in 2..5 {
        assert_eq!(world.sim().read_u64(2, VirtAddr::new(page * PAGE), true), Ok(page), "a store is lost");
    }
    unmap(&space, 2 * PAGE, 4);
    drop(area.take());
    world.destroy(space, 3);
    world.finish();
}

/// Untracked memory is known to its leaves alone: a page that two make is one, and one that is unmapped is freed once.
pub(crate) fn untracked() {
    let world = World::new(3, TAGGED);
    let area = world.area(AreaKind::Untracked { size: 2 * PAGE });
    let range = world.kernel.map(&MapRequest::new(&area).at(KERNEL).access(Access::KERNEL_DATA)).expect("it is free");
    let thread = || {
        let kernel = world.kernel.clone();
        Box::new(move |cpu: super::super::world::Cpu| {
            for page in [KERNEL, KERNEL + PAGE] {
                match cpu.store(&kernel, page, 3) {
                    Ok(()) | Err(SpaceError::NoWindow(_) | SpaceError::Retry(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            kernel.give_up();
        }) as Box<dyn FnOnce(_) + Send>
    };
    let kernel = world.kernel.clone();
    world.run([
        thread(),
        thread(),
        Box::new(move |_| {
            kernel.unmap(range).expect("it is whole").complete();
            kernel.give_up();
        }),
    ]);
    assert_eq!(world.pages(), 0, "what was faulted in after the unmap is lost");
    drop(area.take());
    world.finish();
}
