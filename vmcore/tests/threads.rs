//! Two CPUs that are real threads: each faults, maps and unmaps in a space of its own and in the kernel's, on areas that
//! both use and one of which both resize. The simulated machine judges; what a thread wrote where nobody takes it away
//! must be there.

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Barrier;

use common::{KERNEL_START, PAGE, Random, World, at};
use vmcore::paging::Access;
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError};
use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};

const CPUS: usize = 2;
const OPERATIONS: usize = 150_000;
const A: u64 = 0x40_0000;
const SLOTS: u64 = 6;
const PAGES: u64 = 8;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

struct Thread<'a> {
    cpu: usize,
    sim: &'a Sim,
    own: &'a Space<Sim>,
    kernel: &'a Space<Sim>,
    /// One that keeps its size, and one that is resized.
    areas: [&'a Area<Sim>; 2],
    random: Random,
    /// What this thread shows at each slot of its own space: the area and the first page.
    shown: BTreeMap<u64, (usize, u64)>,
    /// What this thread wrote last to each page of the area that keeps its size.
    written: BTreeMap<u64, u64>,
    counts: [u64; 4],
}

impl Thread<'_> {
    fn space(&self, kernel: bool) -> (&Space<Sim>, u64) {
        if kernel { (self.kernel, KERNEL_START) } else { (self.own, A) }
    }

    fn slot(start: u64, slot: u64) -> u64 {
        // Several slots share a leaf table, and one lies alone in the next.
        start + slot * PAGES * PAGE + if slot == SLOTS - 1 { 0x20_0000 } else { 0 }
    }

    fn step(&mut self) {
        let kernel = self.random.below(3) == 0;
        let slot = self.random.below(SLOTS);
        match self.random.below(12) {
            0 | 1 => self.map(kernel, slot),
            2 => self.unmap(kernel, slot),
            3 => self.resize(),
            _ => self.touch(kernel, slot),
        }
    }

    fn map(&mut self, kernel: bool, slot: u64) {
        let (which, first) = (self.random.below(2) as usize, self.random.below(PAGES));
        let (space, start) = self.space(kernel);
        let request = MapRequest::new(self.areas[which])
            .at(Self::slot(start, slot))
            .offset(first * PAGE)
            .size(PAGE * (PAGES - first));
        let request = if slot % 2 == 0 { request.populated() } else { request };
        match space.map(&request) {
            Ok(_) if kernel => self.counts[0] += 1,
            Ok(_) => {
                self.counts[0] += 1;
                assert_eq!(self.shown.insert(slot, (which, first)), None, "mapped over a window");
            }
            Err(SpaceError::Conflict(_)) => assert!(kernel || self.shown.contains_key(&slot)),
            Err(SpaceError::Retry(_)) => assert!(kernel, "nobody else unmaps here"),
            Err(SpaceError::Area(AreaError::Outside { .. })) => assert_eq!(which, 1),
            Err(error) => panic!("{error}"),
        }
    }

    fn unmap(&mut self, kernel: bool, slot: u64) {
        let (space, start) = self.space(kernel);
        let range = space.range(Self::slot(start, slot), PAGES * PAGE).unwrap();
        space.unmap(range).unwrap().complete();
        if !kernel {
            self.shown.remove(&slot);
        }
        self.counts[1] += 1;
    }

    fn resize(&mut self) {
        match self.areas[1].resize((1 + self.random.below(PAGES)) * PAGE) {
            Ok(flush) => flush.complete(),
            Err(AreaError::Retry) => {}
            Err(error) => panic!("{error}"),
        }
        self.counts[2] += 1;
    }

    /// Loads and stores a word that only this thread uses.
    fn touch(&mut self, kernel: bool, slot: u64) {
        let page = self.random.below(PAGES);
        let write = self.random.below(2) == 0;
        let value = self.random.below(u64::MAX);
        let (space, start) = self.space(kernel);
        // What goes through the kernel's windows may be anybody's page: it has a word of its own.
        let address = Self::slot(start, slot) + page * PAGE + 64 * self.cpu as u64 + 8 * u64::from(kernel);
        let access = if write { Access::KERNEL_DATA } else { Access::READ };
        let access = if kernel { access } else { access | Access::USER };
        let mut found = Ok(0);
        for attempt in 0.. {
            assert!(attempt < 1000, "the fault at {address:#x} repeats:\n{}", space.walk(at(address)));
            let result = if write {
                self.sim.write_u64(self.cpu, at(address), !kernel, value).map(|()| value)
            } else {
                self.sim.read_u64(self.cpu, at(address), !kernel)
            };
            match result {
                Ok(word) => {
                    found = Ok(word);
                    break;
                }
                Err(_) => match space.fault(Fault::new(address, access)) {
                    Ok(flush) => {
                        flush.complete();
                    }
                    Err(error) => {
                        found = Err(error);
                        break;
                    }
                },
            }
        }
        self.counts[3] += u64::from(found.is_ok());
        if kernel {
            return match found {
                Ok(_) | Err(SpaceError::NoWindow(_) | SpaceError::Retry(_) | SpaceError::OutsideArea(_)) => {}
                Err(error) => panic!("{error}"),
            };
        }
        match (self.shown.get(&slot), found) {
            (None, Err(SpaceError::NoWindow(_))) => {}
            (Some((_, first)), Err(SpaceError::NoWindow(_))) => assert!(page + first >= PAGES, "a window is gone"),
            (Some((1, _)), Ok(_) | Err(SpaceError::OutsideArea(_))) => {}
            (Some((0, first)), Ok(word)) => {
                let page = first + page;
                if write {
                    self.written.insert(page, value);
                } else if let Some(expected) = self.written.get(&page) {
                    assert_eq!(word, *expected, "page {page} lost a store");
                }
            }
            (shown, found) => panic!("{shown:?} gave {found:?}"),
        }
    }
}

#[test]
fn two_threads_fault_map_and_unmap_on_shared_areas() {
    let world = World::of(Sim::builder().frames(1024).cpus(CPUS).cpu_of_caller(|| CPU.with(Cell::get)));
    let spaces: Vec<_> = (0..CPUS).map(|_| world.user()).collect();
    let areas = [world.open(PAGES), world.open(PAGES)];
    let barrier = Barrier::new(CPUS);
    std::thread::scope(|scope| {
        for (cpu, own) in spaces.iter().enumerate() {
            world.enter(cpu, own);
            let (sim, kernel, areas, barrier) = (&world.sim, world.kernel(), &areas, &barrier);
            scope.spawn(move || {
                CPU.with(|current| current.set(cpu));
                let random = Random(0x9e37_79b9_7f4a_7c15 + cpu as u64);
                let (shown, written) = (BTreeMap::new(), BTreeMap::new());
                let areas = [&areas[0], &areas[1]];
                let mut thread = Thread { cpu, sim, own, kernel, areas, random, shown, written, counts: [0; 4] };
                barrier.wait();
                for _ in 0..OPERATIONS {
                    thread.step();
                }
                assert!(
                    thread.counts.iter().all(|count| *count > 100),
                    "hardly anything happened: {:?}",
                    thread.counts
                );
            });
        }
    });
    world.sim.check_translations();
    for (cpu, space) in spaces.iter().enumerate() {
        world.leave(cpu, space);
    }
    drop((areas, spaces));
    world.finish();
}
