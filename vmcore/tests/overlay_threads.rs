//! Two CPUs that are real threads: each makes private views of one file, shows them in a space of its own, writes to them and lets them go, while either
//! evicts the file's pages and makes it smaller and larger. The simulated machine judges; a copy that nobody cuts off must stay, and what is no copy
//! is what the file holds.

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Barrier;

use common::{PAGE, Random, World, at};
use vmcore::paging::Access;
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, PageRequest};
use vmcore::vm_space::{Advice, Fault, Inherit, MapRequest, Resolution, Space, SpaceError};

const CPUS: usize = 2;
const OPERATIONS: usize = 40_000;
const A: u64 = 0x40_0000;
const PAGES: u64 = 8;
/// Pages that the file always has.
const KEPT: u64 = 4;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

struct Thread<'a> {
    cpu: usize,
    sim: &'a Sim,
    own: &'a Space<Sim>,
    file: &'a Area<Sim>,
    view: Option<Area<Sim>>,
    is_mapped: bool,
    /// What this thread wrote last to the words of its view.
    written: BTreeMap<u64, u64>,
    random: Random,
    counts: [u64; 6],
}

/// What the file holds at the beginning of a page.
fn contents(page: u64) -> u64 {
    0xf000 + page
}

impl Thread<'_> {
    fn step(&mut self) {
        match self.random.below(24) {
            0 | 1 => self.map(),
            2 => self.unmap(),
            3 => self.view = None,
            4 => self.evict(),
            5 => self.resize(),
            6 => self.discard(),
            7 => self.snapshot(),
            _ => self.touch(),
        }
    }

    fn map(&mut self) {
        if self.is_mapped {
            return;
        }
        let view = match self.file.overlay(0, PAGES * PAGE) {
            Ok(view) => view,
            Err(AreaError::Outside { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        self.own.map(&MapRequest::new(&view).at(A).inherit(Inherit::Copy)).unwrap();
        (self.view, self.is_mapped) = (Some(view), true);
        self.written.clear();
        self.counts[0] += 1;
    }

    fn unmap(&mut self) {
        self.own.unmap(self.own.range(A, PAGES * PAGE).unwrap()).unwrap().complete();
        self.is_mapped = false;
        self.view = None;
        self.counts[1] += 1;
    }

    fn evict(&mut self) {
        match self.file.evict(self.random.below(PAGES) * PAGE, 3 * PAGE) {
            Ok(flush) => self.counts[2] += flush.complete().pages,
            Err(AreaError::Retry) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn resize(&mut self) {
        let pages = if self.random.below(2) == 0 { PAGES } else { KEPT + self.random.below(PAGES - KEPT) };
        match self.file.resize(pages * PAGE) {
            Ok(flush) => flush.complete(),
            Err(AreaError::Retry) => {}
            Err(error) => panic!("{error}"),
        }
        self.counts[3] += 1;
    }

    fn discard(&mut self) {
        // With a handle the view keeps its pages.
        if !self.is_mapped || self.view.is_some() {
            return;
        }
        let page = self.random.below(PAGES);
        let range = self.own.range(A + page * PAGE, PAGE).unwrap();
        self.own.advise(range, Advice::NotNeeded).unwrap().complete();
        // Whoever cuts a page of the view off at this moment holds it: then the page stays.
        let known = self.written.remove(&page);
        if let (Some(value), true) = (known, page < KEPT) {
            if let Some(word) = self.access(page, None) {
                assert!(word == value || word == contents(page), "page {page} holds {word:#x}");
                if word == value {
                    self.written.insert(page, value);
                }
            } else {
                // Not known before it is looked at again: written anew.
                self.unmap();
            }
        }
        self.counts[4] += 1;
    }

    /// A snapshot holds what the view held, for as long as it lives.
    fn snapshot(&mut self) {
        let Some(view) = &self.view else { return };
        let copy = match view.snapshot() {
            Ok(flush) => flush.complete(),
            Err(AreaError::Retry) => return,
            Err(error) => panic!("{error}"),
        };
        for (page, value) in self.written.iter().filter(|(page, _)| **page < KEPT) {
            let mut word = [0; 8];
            copy.read(page * PAGE, &mut word).unwrap();
            assert_eq!(u64::from_ne_bytes(word), *value);
        }
    }

    fn supply(&self, request: PageRequest) {
        for page in request.offset / PAGE..(request.offset + request.size) / PAGE {
            match self.file.supply(request.token, page * PAGE, &contents(page).to_ne_bytes()) {
                Ok(_) | Err(AreaError::Stale(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Loads or stores a page's first word, as far as that can be done now.
    fn access(&self, page: u64, write: Option<u64>) -> Option<u64> {
        let address = A + page * PAGE;
        let access = if write.is_some() { Access::USER_DATA } else { Access::READ | Access::USER };
        for _ in 0..1000 {
            let result = match write {
                Some(value) => self.sim.write_u64(self.cpu, at(address), true, value).map(|()| value),
                None => self.sim.read_u64(self.cpu, at(address), true),
            };
            if let Ok(word) = result {
                return Some(word);
            }
            match self.own.fault(Fault::new(address, access)) {
                Ok(flush) => match flush.complete() {
                    Resolution::Request(request) => self.supply(request),
                    Resolution::Wait(_) => return None,
                    _ => {}
                },
                Err(SpaceError::NoWindow(_)) => {
                    assert!(!self.is_mapped);
                    return None;
                }
                Err(SpaceError::OutsideArea(_)) => {
                    assert!(page >= KEPT);
                    return None;
                }
                // A change of the page is being flushed by the other thread.
                Err(SpaceError::Retry(_)) => return None,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the fault at {address:#x} repeats:\n{}", self.own.walk(at(address)));
    }

    fn touch(&mut self) {
        let page = self.random.below(PAGES);
        if self.random.below(2) == 0 {
            let value = self.random.below(u64::MAX);
            if self.access(page, Some(value)).is_some() {
                self.written.insert(page, value);
                self.counts[5] += 1;
            }
        } else if let Some(word) = self.access(page, None) {
            let expected = self.written.get(&page).copied().unwrap_or(contents(page));
            // What lies beyond the file's smallest size may have been cut off since.
            assert!(word == expected || (page >= KEPT && word == contents(page)), "page {page} holds {word:#x}");
        }
    }
}

#[test]
fn two_threads_with_private_views_of_one_file() {
    let world = World::of(Sim::builder().frames(1024).cpus(CPUS).cpu_of_caller(|| CPU.with(Cell::get)));
    let spaces: Vec<_> = (0..CPUS).map(|_| world.user()).collect();
    let file = Area::new(&world.sim, AreaKind::Paged { size: PAGES * PAGE, key: 1 }, 0).unwrap();
    let barrier = Barrier::new(CPUS);
    std::thread::scope(|scope| {
        for (cpu, own) in spaces.iter().enumerate() {
            world.enter(cpu, own);
            let (sim, file, barrier) = (&world.sim, &file, &barrier);
            scope.spawn(move || {
                CPU.with(|current| current.set(cpu));
                let random = Random(0x9e37_79b9_7f4a_7c15 + cpu as u64);
                let (view, written) = (None, BTreeMap::new());
                let mut thread =
                    Thread { cpu, sim, own, file, view, is_mapped: false, written, random, counts: [0; 6] };
                barrier.wait();
                let mut left = OPERATIONS;
                // While the other one is stopped with a flush outstanding, some of it is refused: each goes on until it had its turns.
                while left > 0 || thread.counts.iter().any(|count| *count < 50) {
                    thread.step();
                    left = left.saturating_sub(1);
                }
            });
        }
    });
    world.sim.check_translations();
    for (cpu, space) in spaces.iter().enumerate() {
        world.leave(cpu, space);
    }
    drop((file, spaces));
    world.finish();
}
