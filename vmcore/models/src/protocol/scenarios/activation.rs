//! CPUs that leave a space and come back, and spaces that share the kernel's tables.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use vmcore::vm_space::SpaceError;

use super::super::world::{
    Area, Cpu, KERNEL, Kept, PAGE, Signal, Space, TAGGED, UNTAGGED, World, forget, map, mapped, unmap,
};
use crate::reduced::Reduced;

pub(crate) fn come_back() {
    come_back_on(TAGGED);
}

pub(crate) fn come_back_untagged() {
    come_back_on(UNTAGGED);
}

/// Loads the kernel's root instead of a space's.
fn leave(cpu: &Cpu, space: &Space, kernel: &Space) {
    enter(cpu, kernel);
    forget(cpu.number, space);
}

/// Loads a space's root.
fn enter(cpu: &Cpu, space: &Space) {
    cpu.sim().activate(cpu.number, &space.activate(cpu.number));
}

/// A CPU leaves a space, which another changes meanwhile (or before, or after), and comes back.
fn come_back_on(mmu: Reduced) {
    let world = World::new(2, mmu);
    let (space, old, new) = (world.user(), world.open(1), world.open(1));
    new.write(0, &2_u64.to_ne_bytes()).expect("memory for it").complete();
    mapped(&space, &old, 2 * PAGE, 1);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let (using, changing, kernel) = (space.clone(), space.clone(), world.kernel.clone());
    let newer: Kept<Area> = new.clone();
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |cpu| {
            for _ in 0..2 {
                let changed = told.load(SeqCst) != 0;
                match cpu.load(&using, 2 * PAGE) {
                    Ok(seen) => assert!(seen == 2 || !changed, "the old page was seen"),
                    Err(SpaceError::NoWindow(_) | SpaceError::Retry(_)) => assert!(!changed),
                    Err(error) => panic!("{error}"),
                }
                leave(&cpu, &using, &kernel);
                enter(&cpu, &using);
            }
            using.give_up();
            kernel.give_up();
        }),
        Box::new(move |_| {
            unmap(&changing, 2 * PAGE, 1);
            // The frame goes, and is given out again.
            drop(old.take());
            map(&changing, &newer, 2 * PAGE, 0, 1).expect("its flush is over");
            done.store(1, SeqCst);
            changing.give_up();
            newer.give_up();
        }),
    ]);
    unmap(&space, 2 * PAGE, 1);
    drop(new.take());
    world.destroy(space, 2);
    world.finish();
}

/// A space ends on one CPU and another begins with its tag, while a third CPU has been in the first.
pub(crate) fn tag_reused() {
    let world = World::new(2, Reduced { tags: 2, keeps_faults: false });
    let (space, area) = (world.user(), world.open(1));
    mapped(&space, &area, 2 * PAGE, 1);
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let (one, two) = (space.clone(), space.clone());
    space.give_up();
    let left = Arc::new(Signal::new(0));
    let told = left.clone();
    let (first_kernel, second_kernel) = (world.kernel.clone(), world.kernel.clone());
    let (first_area, second_area) = (area.clone(), area.clone());
    fn next(cpu: &Cpu, kernel: &Space, area: &Area, page: u64) {
        // The tag of the first space may be free by now or not: it works as well without.
        let space = Kept::new(Space::user(kernel, ()).expect("frames for a space"));
        mapped(&space, area, page * PAGE, 1);
        enter(cpu, &space);
        cpu.store(&space, page * PAGE + 8 * page, page).expect("mapped for writing");
        assert!(matches!(cpu.load(&space, 2 * PAGE), Err(SpaceError::NoWindow(_))), "another space's page");
        leave(cpu, &space, kernel);
        space.take().destroy().map_err(|(_, error)| error).expect("it is active nowhere").complete();
    }
    world.run([
        Box::new(move |cpu| {
            cpu.store(&one, 2 * PAGE, 1).expect("mapped for writing");
            leave(&cpu, &one, &first_kernel);
            one.give_up();
            left.store(1, SeqCst);
            next(&cpu, &first_kernel, &first_area, 3);
            first_kernel.give_up();
            first_area.give_up();
        }),
        Box::new(move |cpu| {
            let _ = cpu.load(&two, 2 * PAGE).expect("mapped");
            leave(&cpu, &two, &second_kernel);
            while told.load(SeqCst) == 0 {
                shuttle::thread::yield_now();
            }
            two.take().destroy().map_err(|(_, error)| error).expect("it is active nowhere").complete();
            next(&cpu, &second_kernel, &second_area, 4);
            second_kernel.give_up();
            second_area.give_up();
        }),
    ]);
    drop(area.take());
    world.finish();
}

/// A window of the kernel comes and goes while user spaces are made, used and destroyed, and reach it through their own roots.
pub(crate) fn kernel_window() {
    let world = World::new(2, TAGGED);
    let area = world.open(1);
    mapped(&world.kernel, &area, KERNEL, 1);
    let (changing, making, shown) = (world.kernel.clone(), world.kernel.clone(), area.clone());
    let done = Arc::new(Signal::new(0));
    let told = done.clone();
    world.run([
        Box::new(move |cpu| {
            cpu.store(&changing, KERNEL, 1).expect("mapped for writing");
            unmap(&changing, KERNEL, 1);
            done.store(1, SeqCst);
            mapped(&changing, &shown, KERNEL + 4 * PAGE, 1);
            assert_eq!(cpu.load(&changing, KERNEL + 4 * PAGE), Ok(1));
            changing.give_up();
            shown.give_up();
        }),
        Box::new(move |cpu| {
            let space = Kept::new(Space::user(&making, ()).expect("frames for a space"));
            enter(&cpu, &space);
            for _ in 0..2 {
                let unmapped = told.load(SeqCst) != 0;
                match cpu.load(&making, KERNEL) {
                    Ok(_) => assert!(!unmapped, "it was reached after the unmap was complete"),
                    Err(SpaceError::NoWindow(_) | SpaceError::Retry(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            leave(&cpu, &space, &making);
            space.take().destroy().map_err(|(_, error)| error).expect("it is active nowhere").complete();
            making.give_up();
        }),
    ]);
    unmap(&world.kernel, KERNEL + 4 * PAGE, 1);
    drop(area.take());
    world.finish();
}
