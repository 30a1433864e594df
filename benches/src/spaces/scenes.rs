//! What is done in a space again and again, with what puts things back in between: for one CPU or several, measured or counted.
//!
//! Each CPU has a part of the space for itself, 64 GiB from the next one's, and areas of its own; what the library shares between them is what is seen.

use std::sync::Mutex;

use vmcore::{
    addr::PageRange,
    paging::Access,
    vm_area::Area,
    vm_space::{Advice, Fault, MapRequest, Resolution, Space},
};

use super::{
    kernel::{self, Kernel},
    subjects::{Place, area, range},
};
use crate::subject::{LEAF_TABLE, PAGE};

/// An operation in a part of a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// A write to a page of open memory that is not there yet, page after page, window after window.
    Fault,
    /// The same, each in another window than before.
    ScatteredFault,
    /// The same as the first in one window for all CPUs, each in 256 KiB of other leaf tables.
    OneAreaFault,
    /// A page mapped, not touched, and unmapped.
    MapUnmap,
    /// 32 pages of an area of their own, populated, unmapped and freed.
    MapPopulate,
    /// Write permission from the middle page of three that are there, and back.
    Protect,
}

/// How many pages of a window are not there in the beginning of a round. Its first one is, and so are its table and its node.
const FAULTS: u64 = 63;

/// Who puts things back.
static PREPARING: Mutex<()> = Mutex::new(());

/// A CPU's part of a space.
#[derive(Debug)]
pub struct Part {
    space: &'static Space<Kernel>,
    base: u64,
    area: Area<Kernel>,
    /// Where what is accessed begins in each window.
    starts: Vec<u64>,
    /// What is accessed, in order.
    accesses: Vec<u64>,
}

impl Part {
    /// The part of a CPU, with so many windows of open memory to fault in. Every page that is there was made by the caller's CPU.
    pub fn new(space: &'static Space<Kernel>, cpu: usize, windows: u64, scene: Scene, common: Option<u64>) -> Self {
        let base = (1 + cpu as u64) << 36;
        let place = |window: u64| match common {
            Some(common) => common + (window * kernel::CPUS as u64 + cpu as u64) * LEAF_TABLE,
            None => base + (1 << 35) + window * LEAF_TABLE / 4,
        };
        for window in 0..windows {
            if common.is_none() {
                space.map(&MapRequest::new(&area(FAULTS + 1)).at(place(window))).unwrap();
            }
            space.populate(range(space, (place(window), 1)), Access::WRITE).unwrap().complete();
        }
        let mut accesses: Vec<u64> =
            (0..windows).flat_map(|window| (1..=FAULTS).map(move |page| place(window) + page * PAGE + 0x10)).collect();
        if scene == Scene::ScatteredFault {
            fastrand::Rng::with_seed(9).shuffle(&mut accesses);
        }
        let area = area(3);
        // The window whose middle is protected; it keeps the table there for the others.
        space.map(&MapRequest::new(&area).at(base).populated()).unwrap();
        let starts = (0..windows).map(|window| place(window) + PAGE).collect();
        Self { space, base, area, accesses, starts }
    }

    /// How many operations a round is.
    pub fn operations(&self, scene: Scene) -> usize {
        match scene {
            Scene::Fault | Scene::ScatteredFault | Scene::OneAreaFault => self.accesses.len(),
            Scene::MapUnmap | Scene::Protect => 512,
            Scene::MapPopulate => 32,
        }
    }

    /// Puts everything back for the next round.
    pub fn prepare(&self, scene: Scene) {
        if matches!(scene, Scene::Fault | Scene::ScatteredFault | Scene::OneAreaFault) {
            // What another CPU gives up of the same area at the same time would look like somebody else's.
            let _alone = PREPARING.lock();
            for &start in &self.starts {
                self.space.advise(self.range((start, FAULTS)), Advice::NotNeeded).unwrap().complete();
            }
        }
    }

    /// How many windows the space has, and how many pages its tables show.
    pub fn shown(&self) -> (usize, u64) {
        let counters = self.space.counters();
        (counters.windows, counters.resident_pages)
    }

    fn range(&self, place: Place) -> PageRange {
        range(self.space, place)
    }

    /// A round.
    pub fn round(&self, scene: Scene) {
        (0..self.operations(scene)).for_each(|step| self.step(scene, step));
    }

    /// One operation of a round.
    #[inline]
    pub fn step(&self, scene: Scene, step: usize) {
        let space = self.space;
        match scene {
            Scene::Fault | Scene::ScatteredFault | Scene::OneAreaFault => {
                let fault = Fault::new(self.accesses[step], Access::WRITE | Access::USER);
                let resolution = space.fault(fault).unwrap().complete();
                assert_eq!(resolution, Resolution::Mapped);
            }
            Scene::MapUnmap => {
                let range = space.map(&MapRequest::new(&self.area).at(self.base + 8 * PAGE).size(PAGE)).unwrap();
                space.unmap(range).unwrap().complete();
            }
            Scene::MapPopulate => {
                let request = area(32);
                let range = space.map(&MapRequest::new(&request).at(self.base + 8 * PAGE).populated()).unwrap();
                drop(request);
                space.unmap(range).unwrap().complete();
            }
            Scene::Protect => {
                let middle = self.range((self.base + PAGE, 1));
                space.protect(middle, Access::READ).unwrap().complete();
                space.protect(middle, Access::KERNEL_DATA).unwrap().complete();
            }
        }
    }
}

/// A space that runs on all CPUs, for ever, and each CPU's part of it.
pub fn parts(machine: &mut kernel::Booted, scene: Scene, windows: u64) -> Vec<Part> {
    let space: &'static Space<Kernel> = Box::leak(Box::new(kernel::space(kernel::CPUS)));
    let common = (scene == Scene::OneAreaFault).then(|| {
        let common = 1 << 40;
        // Nothing but the window reaches the area, so that what is not needed goes.
        let area = area(kernel::CPUS as u64 * windows * LEAF_TABLE / PAGE);
        space.map(&MapRequest::new(&area).at(common)).unwrap();
        common
    });
    // Each CPU makes what is its own.
    (0..kernel::CPUS).map(|cpu| machine.as_cpu(cpu, || Part::new(space, cpu, windows, scene, common))).collect()
}
