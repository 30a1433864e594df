//! Faults beside one another, with real threads: two fault in two areas whose pages share leaf tables, or in two leaves of one area; a third one maps, unmaps, protects, resizes and
//! clones around them. What each thread wrote and was not told otherwise is there at the end, whatever the order was. And what a fault locks.

mod common;

use std::cell::{Cell, RefCell};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use common::bare::Bare;
use common::{PAGE, Random, World, at, forget};
use vmcore::paging::Access;
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{Advice, Fault, Inherit, MapRequest, Resolution, Space, SpaceError};

/// Two that fault, and one that changes.
const CPUS: usize = 3;
const STORES: usize = 30_000;
const CHANGES: u64 = 1500;
/// All windows but the last lie in two leaf tables.
const START: u64 = 0x40_0000 - 40 * PAGE;
const PAGES: u64 = 48;
/// Of the area that is resized.
const MOST: u64 = 24;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static LOCKED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// Whether a lock that is tried is taken by somebody.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Where the window of an area begins: of the two that are faulted in, and of the one that is resized.
fn start_of(which: usize) -> u64 {
    START + which as u64 * PAGES * PAGE
}

/// The pages of a leaf of an area's tree.
const LEAF: u64 = 64;

/// What two threads fault in: an area each, or one of which each has a leaf.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    TwoAreas,
    OneArea,
}

impl Shape {
    /// The page of its area with which the window of a thread begins.
    fn first_of(self, which: usize) -> u64 {
        if self == Self::OneArea { which as u64 * LEAF } else { 0 }
    }
}

/// Stores a word, or says why not. `None` where a change is in the way.
fn store(sim: &Sim, cpu: usize, space: &Space<Sim>, address: u64, value: u64) -> Option<()> {
    for _ in 0..1000 {
        if sim.write_u64(cpu, at(address), true, value).is_ok() {
            return Some(());
        }
        match space.fault(Fault::new(address, Access::USER_DATA)) {
            Ok(flush) => drop(flush.complete()),
            Err(
                SpaceError::Retry(_)
                | SpaceError::NoWindow(_)
                | SpaceError::Denied { .. }
                | SpaceError::Guard(_)
                | SpaceError::OutsideArea(_),
            ) => return None,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the fault at {address:#x} repeats:\n{}", space.walk(at(address)));
}

/// A thread that stores rising numbers to its area's pages, and reads them back. Gives what must be there.
fn fault(sim: &Sim, cpu: usize, space: &Space<Sim>) -> Vec<u64> {
    let (mut random, mut written, mut stored) = (Random(0x9e37_79b9 + cpu as u64), vec![0; PAGES as usize], 0);
    for value in 1.. {
        if stored == STORES {
            break;
        }
        let page = random.below(PAGES);
        let address = start_of(cpu) + page * PAGE;
        if random.below(4) != 0 {
            if store(sim, cpu, space, address, value).is_some() {
                written[page as usize] = value;
                stored += 1;
            }
        } else if let Ok(seen) = sim.read_u64(cpu, at(address), true) {
            assert_eq!(seen, written[page as usize], "page {page} of CPU {cpu} lost a store");
        } else if let Ok(flush) = space.fault(Fault::new(address, Access::READ | Access::USER)) {
            flush.complete();
        }
    }
    written
}

/// The thread that changes what lies around the pages of the others, and now and then under them.
fn change(
    world: &World,
    space: &Space<Sim>,
    (areas, shape): (&[Area<Sim>; 3], Shape),
    running: &AtomicU64,
) -> [u64; 7] {
    let mut random = Random(0x1234_5678);
    let mut done = [0; 7];
    while running.load(Ordering::Acquire) != 0 || done.iter().sum::<u64>() < CHANGES {
        let which = random.below(2) as usize;
        let first = random.below(PAGES);
        let count = 1 + random.below(PAGES - first);
        let range = space.range(start_of(which) + first * PAGE, count * PAGE).unwrap();
        let what = random.below(done.len() as u64) as usize;
        match what {
            0 => {
                // Away, and back again.
                space.unmap(range).unwrap().complete();
                let part = MapRequest::new(&areas[which]).at(range.start().as_u64());
                let part = part.offset((shape.first_of(which) + first) * PAGE);
                space.map(&part.size(count * PAGE).inherit(Inherit::Copy)).unwrap();
            }
            1 => {
                space.protect(range, Access::READ | Access::USER).unwrap().complete();
                space.protect(range, Access::USER_DATA).unwrap().complete();
            }
            2 => {
                areas[2].resize((1 + random.below(MOST)) * PAGE).unwrap().complete();
                if shape == Shape::OneArea {
                    // A leaf of their area that they have nothing in comes and goes.
                    match areas[0].resize((2 * LEAF + random.below(LEAF)) * PAGE) {
                        Ok(flush) => flush.complete(),
                        // What was copied is not settled.
                        Err(AreaError::Retry) => {}
                        Err(error) => panic!("{error}"),
                    }
                    let last = areas[0].size() - 1;
                    if last / PAGE >= 2 * LEAF {
                        if let Ok(flush) = areas[0].write(last, &[1]) {
                            flush.complete();
                        }
                    }
                }
            }
            3 => {
                // Pages that come and go in the same leaf tables.
                let _ = store(&world.sim, 2, space, start_of(2) + random.below(MOST) * PAGE, 7);
            }
            4 if random.below(8) == 0 => match space.try_clone(()) {
                Ok(flush) => drop(flush.complete()),
                Err(SpaceError::Retry(_)) => {}
                Err(error) => panic!("{error}"),
            },
            5 if random.below(4) == 0 => match areas[which].snapshot() {
                Ok(flush) => drop(flush.complete()),
                Err(AreaError::Retry) => {}
                Err(error) => panic!("{error}"),
            },
            6 => {
                // Nothing of what is shared goes: the window of the third area alone.
                let all = space.range(start_of(2), MOST * PAGE).unwrap();
                match space.advise(all, Advice::NotNeeded) {
                    Ok(flush) => flush.complete(),
                    Err(SpaceError::Retry(_) | SpaceError::Area(AreaError::Retry)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            _ => continue,
        }
        done[what] += 1;
    }
    done
}

#[test]
fn faults_beside_changes() {
    faults_and_changes(Shape::TwoAreas);
}

#[test]
fn faults_in_one_area_beside_changes() {
    faults_and_changes(Shape::OneArea);
}

fn faults_and_changes(shape: Shape) {
    let world = World::of(Sim::builder().frames(2048).cpus(CPUS).cpu_of_caller(|| CPU.with(Cell::get)));
    let space = world.user();
    let areas = match shape {
        Shape::TwoAreas => [world.open(PAGES), world.open(PAGES), world.open(MOST)],
        Shape::OneArea => {
            let area = world.open(3 * LEAF);
            [area.handle(area.rights()).unwrap(), area, world.open(MOST)]
        }
    };
    for (which, area) in areas.iter().enumerate() {
        let pages = if which == 2 { MOST } else { PAGES };
        let first = if which == 2 { 0 } else { shape.first_of(which) };
        let request = MapRequest::new(area).at(start_of(which)).offset(first * PAGE).size(pages * PAGE);
        space.map(&request.inherit(Inherit::Copy)).unwrap();
    }
    let barrier = Barrier::new(CPUS);
    let running = AtomicU64::new(2);
    (0..CPUS).for_each(|cpu| world.enter(cpu, &space));
    let (written, done) = std::thread::scope(|scope| {
        let faulting = [0, 1].map(|cpu| {
            let (sim, space, barrier, running) = (&world.sim, &space, &barrier, &running);
            scope.spawn(move || {
                CPU.set(cpu);
                // Also where it ends by a panic: the changes end with it.
                let _over = Over(running);
                barrier.wait();
                fault(sim, cpu, space)
            })
        });
        let changing = scope.spawn(|| {
            CPU.set(2);
            barrier.wait();
            change(&world, &space, (&areas, shape), &running)
        });
        (faulting.map(|thread| thread.join().unwrap()), changing.join().unwrap())
    });
    assert!(done.iter().all(|count| *count != 0), "some change was never made: {done:?}");
    world.sim.check_translations();
    for (which, written) in written.iter().enumerate() {
        for (page, expected) in (shape.first_of(which)..).zip(written) {
            let mut bytes = [0; 8];
            areas[which].read(page * PAGE, &mut bytes).unwrap();
            assert_eq!(u64::from_ne_bytes(bytes), *expected, "page {page}");
        }
    }
    let resident: u64 = space.windows().map(|window| window.resident_pages).sum();
    if shape == Shape::OneArea {
        // What no window shows, and what two handles count.
        areas[0].resize(2 * LEAF * PAGE).unwrap().complete();
    }
    let distinct = if shape == Shape::OneArea { &areas[1..] } else { &areas[..] };
    assert_eq!(resident, distinct.iter().map(Area::resident_pages).sum::<u64>());
    // What it counts as live is what there is: all tables go with the windows, or frames are lost.
    space.unmap(space.range(START, 3 * PAGES * PAGE).unwrap()).unwrap().complete();
    assert_eq!((space.counters().resident_pages, space.counters().tables), (0, 1));
    (0..CPUS).for_each(|cpu| world.leave(cpu, &space));
    drop((areas, space));
    world.finish();
}

/// Counts down when it goes.
struct Over<'a>(&'a AtomicU64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A table that an area's change emptied stays until the space comes by; then it goes, whatever of it is unmapped.
#[test]
fn empty_tables_go_with_the_next_unmap() {
    for unmapped in [1, 2, 24] {
        let world = World::new(1);
        let space = world.user();
        let area = world.open(24);
        let range = space.map(&MapRequest::new(&area).at(START)).unwrap();
        world.enter(0, &space);
        store(&world.sim, 0, &space, START + 20 * PAGE, 1).unwrap();
        let tables = space.counters().tables;
        area.resize(PAGE).unwrap().complete();
        assert_eq!(
            (space.counters().resident_pages, space.counters().tables),
            (0, tables),
            "only entries were changed"
        );
        // A page whose table was emptied is faulted in again without a table.
        area.resize(24 * PAGE).unwrap().complete();
        let frames = world.sim.frame_counts();
        store(&world.sim, 0, &space, START + 20 * PAGE, 1).unwrap();
        assert_eq!(space.counters().tables, tables, "{frames:?}");
        area.resize(PAGE).unwrap().complete();
        let part = space.range(START, unmapped * PAGE).unwrap();
        space.unmap(part).unwrap().complete();
        assert_eq!(space.counters().tables, 1, "the root is left");
        space.unmap(range).unwrap().complete();
        world.leave(0, &space);
        drop((area, space));
        world.finish();
    }
}

/// A lock that tells which thread takes it.
struct Watched(spin::Mutex<()>);

// SAFETY: forwarded.
unsafe impl lock_api::RawMutex for Watched {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(<spin::Mutex<()> as lock_api::RawMutex>::INIT);
    type GuardMarker = <spin::Mutex<()> as lock_api::RawMutex>::GuardMarker;

    fn lock(&self) {
        LOCKED.with_borrow_mut(|locked| locked.push(std::ptr::from_ref(self).addr()));
        lock_api::RawMutex::lock(&self.0);
    }

    fn try_lock(&self) -> bool {
        LOCKED.with_borrow_mut(|locked| locked.push(std::ptr::from_ref(self).addr()));
        !TAKEN.get() && lock_api::RawMutex::try_lock(&self.0)
    }

    unsafe fn unlock(&self) {
        // SAFETY: forwarded.
        unsafe { lock_api::RawMutex::unlock(&self.0) }
    }
}

type Watching = Bare<Watched>;

/// Which locks a fault takes, as a CPU.
fn locked(cpu: usize, space: &Space<Watching>, address: u64, access: Access) -> Vec<usize> {
    CPU.set(cpu);
    LOCKED.take();
    space.fault(Fault::new(address, access)).unwrap().complete();
    CPU.set(0);
    LOCKED.take()
}

/// A platform that is watched, the kernel's space, and a program's.
fn watched() -> (Watching, Space<Watching>, Space<Watching>) {
    Bare::with_spaces(|| CPU.get())
}

/// Two locks: the CPU's slot, and the area. (The other two locked operations of a fault are no locks: the frame's record, and the table's count. `cargo xtask models`
/// counts them.)
#[test]
fn a_fault_locks_its_slot_and_its_area() {
    let (platform, _kernel, space) = watched();
    let areas = [0, 1].map(|cpu| {
        let area = Area::new(&platform, AreaKind::Open { size: 64 * PAGE }, ()).unwrap();
        space.map(&MapRequest::new(&area).at(start_of_far(cpu)).inherit(Inherit::Share)).unwrap();
        // The leaf table, and nodes of the page tree for all that follows.
        for page in [0, 40, 50, 60] {
            locked(cpu, &space, start_of_far(cpu) + page * PAGE, Access::USER_DATA);
        }
        area
    });
    for (what, access) in
        [("read", Access::READ | Access::USER), ("first write", Access::USER_DATA), ("spurious", Access::READ)]
    {
        let mut both = [0, 1].map(|cpu| {
            let mut usual = 0;
            let mut all = Vec::new();
            for page in 1..32 {
                let locks = locked(cpu, &space, start_of_far(cpu) + page * PAGE, access);
                assert!(locks.len() >= 2, "{what}: a fault that locks nothing");
                if locks.len() == 2 {
                    usual += 1;
                    all.extend(locks);
                }
            }
            // Now and then a node of the page tree is taken from its pool.
            assert!(usual >= 28, "{what}: {usual} of 31 faults took two locks alone");
            all.sort_unstable();
            all.dedup();
            all
        });
        assert_eq!(both.each_ref().map(Vec::len), [2, 2], "{what}: always the same two");
        let second = both[1].clone();
        both[0].retain(|lock| second.contains(lock));
        assert!(both[0].is_empty(), "{what}: two CPUs take one lock");
    }
    // Whoever changes the space waits for both slots, once, and then for none.
    LOCKED.take();
    let _ = space.limits();
    assert_eq!(LOCKED.take().len(), 3, "the index, and the slots of two CPUs");
    let _ = space.limits();
    assert_eq!(LOCKED.take().len(), 1, "the index");
    let access = Access::READ | Access::USER;
    assert_eq!(space.fault(Fault::new(start_of_far(0), access)).unwrap().complete(), Resolution::Spurious);
    drop(areas);
}

/// Where faults meet in an area, they lock their slots and their leaves from then on, and nobody the area; whoever has that alone afterwards waits for both
/// slots, once; and when nobody faults in between it is as it was before.
#[test]
fn faults_that_met_lock_leaves() {
    let (platform, _kernel, space) = watched();
    let area = Area::new(&platform, AreaKind::Open { size: 2 * LEAF * PAGE }, ()).unwrap();
    for which in [0, 1] {
        let request = MapRequest::new(&area).at(start_of_far(which)).offset(which as u64 * LEAF * PAGE);
        space.map(&request.size(LEAF * PAGE).inherit(Inherit::Share)).unwrap();
        for page in [0, 40, 50, 60] {
            locked(which, &space, start_of_far(which) + page * PAGE, Access::USER_DATA);
        }
    }
    let fault = |cpu, page, access| locked(cpu, &space, start_of_far(cpu) + page * PAGE, access);
    let (read, write) = (Access::READ | Access::USER, Access::USER_DATA);
    let alone = [0, 1].map(|cpu| fault(cpu, 1, write));
    assert_eq!(alone[0][1], alone[1][1], "the area, for both");
    // Two meet.
    TAKEN.set(true);
    fault(0, 2, write);
    TAKEN.set(false);
    // The bits of the slots.
    for cpu in [0, 1] {
        fault(cpu, 3, write);
    }
    let mut resident = area.resident_pages();
    for cpu in [0, 1] {
        fault(cpu, 4, write);
    }
    for (page, access) in [(5, read), (5, write), (5, read), (6, write)] {
        let both = [0, 1].map(|cpu| fault(cpu, page, access));
        assert_eq!(both.each_ref().map(Vec::len), [2, 2], "the slot and the leaf");
        assert!(both[0].iter().all(|lock| !both[1].contains(lock)), "two CPUs take one lock in one area");
        assert!(both.iter().flatten().all(|lock| *lock != alone[0][1]), "the area is locked");
    }
    LOCKED.take();
    resident += 6;
    assert_eq!(area.resident_pages(), resident, "what was made beside others is not counted");
    assert_eq!(LOCKED.take().len(), 3, "the area, and the slots of two CPUs");
    assert_eq!(area.resident_pages(), resident);
    assert_eq!(LOCKED.take().len(), 1, "the area: nobody has faulted since");
    let again = [0, 1].map(|cpu| fault(cpu, 7, write));
    assert_eq!(again, alone, "as before they met");
    // What is owed when the area goes is nobody's.
    TAKEN.set(true);
    fault(0, 8, write);
    TAKEN.set(false);
    fault(1, 8, write);
    for which in [0, 1] {
        let range = space.range(start_of_far(which), LEAF * PAGE).unwrap();
        space.unmap(range).unwrap().complete();
    }
    drop(area);
    let other = Area::new(&platform, AreaKind::Open { size: LEAF * PAGE }, ()).unwrap();
    space.map(&MapRequest::new(&other).at(start_of_far(0))).unwrap();
    fault(0, 1, write);
    assert_eq!(other.resident_pages(), 1);
}

/// Windows that share no table but the root's.
fn start_of_far(cpu: usize) -> u64 {
    0x40_0000 + 0x4000_0000 * cpu as u64
}

/// CPUs that share a slot, as they do beyond the last one, do without one of their own.
#[test]
fn more_cpus_than_slots() {
    let world = World::of(Sim::builder().frames(1024).cpus(2).cpu_of_caller(|| CPU.with(Cell::get)));
    let space = world.user();
    let areas = [world.open(PAGES), world.open(PAGES)];
    for (which, area) in areas.iter().enumerate() {
        space.map(&MapRequest::new(area).at(start_of(which))).unwrap();
    }
    std::thread::scope(|scope| {
        for which in [0, 1] {
            let space = &space;
            scope.spawn(move || {
                // The same slot for both, and for neither a CPU that the machine has: only faults are made.
                CPU.set(64 * (which + 1));
                for page in 0..PAGES {
                    let fault = Fault::new(start_of(which) + page * PAGE, Access::USER_DATA);
                    assert_eq!(space.fault(fault).unwrap().complete(), Resolution::Mapped);
                }
            });
        }
    });
    assert_eq!(areas.each_ref().map(Area::resident_pages), [PAGES; 2]);
    assert_eq!(space.counters().resident_pages, 2 * PAGES);
    forget(0, &space);
    drop((areas, space));
    world.finish();
}
