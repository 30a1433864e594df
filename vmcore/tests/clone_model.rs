//! Random clones, snapshots, writes and accesses on several CPUs against a naive model of what each page holds. Flushes are acknowledged late: whoever
//! remembers something from before uses it meanwhile. Three formats: one whose tables forbid writing to all below them, one whose tables do not,
//! and one where a live entry is replaced in two steps.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vmcore::Platform;
use vmcore::addr::VirtAddr;
use vmcore::frame::FrameUse;
use vmcore::paging::{AArch64, Access, Canonical, DetachedFlush, Flush, Granule4K, Half, Mmu, RiscV64, X86_64};
use vmcore::sim::{Sim, SimFormat};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{Advice, Fault, Inherit, MapRequest, Space, SpaceError};

const PAGE: u64 = 0x1000;
const CPUS: usize = 3;
const SPACES: usize = 4;
const AREAS: usize = 3;
/// Pages of an area, and addresses that windows may have: two clusters, far apart.
const PAGES: u64 = 6;
const PLACES: u64 = 12;

thread_local! {
    /// The CPU that the test's thread is at the moment.
    static CPU: Cell<usize> = const { Cell::new(0) };

    /// How many loads found a large leaf.
    static LARGE_SEEN: Cell<u64> = const { Cell::new(0) };
}

/// What the model calls a page: one, or so many that several are a large one, of which it looks at the first.
#[derive(Clone, Copy)]
struct Unit(u64);

impl Unit {
    const fn is_large(self) -> bool {
        self.0 != 1
    }

    const fn bytes(self) -> u64 {
        self.0 * PAGE
    }

    fn address(self, place: u64) -> u64 {
        let (first, place) = (place < PLACES / 2, place.checked_sub(PLACES / 2).unwrap_or(place));
        let start = match (first, self.is_large()) {
            (true, false) => 0x20_0000 - 3 * PAGE,
            (true, true) => 0x20_0000,
            (false, _) => 0x4000_0000,
        };
        start + place * self.bytes()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Area { area: usize },
    Drop { area: usize },
    Map { space: usize, area: usize, place: u64, offset: u64, pages: u64, inherit: u8, write: bool, populate: bool },
    Unmap { space: usize, place: u64, pages: u64 },
    Populate { space: usize, place: u64, write: bool },
    Enter { cpu: usize, space: usize },
    Leave { cpu: usize },
    Store { cpu: usize, place: u64, late: bool },
    Load { cpu: usize, place: u64 },
    Clone { from: usize, to: usize, late: bool },
    Destroy { space: usize },
    Snapshot { from: usize, to: usize, late: bool },
    Write { area: usize, page: u64 },
    Read { area: usize, page: u64 },
    Resize { area: usize, pages: u64 },
    Promote { space: usize, absent: u64, late: bool },
    Pin { area: usize, page: u64 },
    Acknowledge { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (space, area, cpu) = (0..SPACES, 0..AREAS, 0..CPUS);
    prop_oneof![
        2 => area.clone().prop_map(|area| Step::Area { area }),
        1 => area.clone().prop_map(|area| Step::Drop { area }),
        6 => (space.clone(), area.clone(), 0..PLACES, 0..PAGES, 1..=PAGES, 0_u8..8, any::<[bool; 2]>()).prop_map(
            |(space, area, place, offset, pages, inherit, [write, populate])| {
                Step::Map { space, area, place, offset, pages, inherit, write: write || populate, populate: write && populate }
            }
        ),
        2 => (space.clone(), 0..PLACES, 1..4_u64).prop_map(|(space, place, pages)| Step::Unmap { space, place, pages }),
        1 => (space.clone(), 0..PLACES, any::<bool>()).prop_map(|(space, place, write)| Step::Populate { space, place, write }),
        5 => (cpu.clone(), space.clone()).prop_map(|(cpu, space)| Step::Enter { cpu, space }),
        1 => cpu.clone().prop_map(|cpu| Step::Leave { cpu }),
        12 => (cpu.clone(), 0..PLACES, any::<bool>()).prop_map(|(cpu, place, late)| Step::Store { cpu, place, late }),
        8 => (cpu, 0..PLACES).prop_map(|(cpu, place)| Step::Load { cpu, place }),
        4 => (space.clone(), space.clone(), any::<bool>()).prop_map(|(from, to, late)| Step::Clone { from, to, late }),
        1 => space.prop_map(|space| Step::Destroy { space }),
        2 => (area.clone(), area.clone(), any::<bool>()).prop_map(|(from, to, late)| Step::Snapshot { from, to, late }),
        3 => (area.clone(), 0..PAGES).prop_map(|(area, page)| Step::Write { area, page }),
        1 => (area.clone(), 0..PAGES).prop_map(|(area, page)| Step::Read { area, page }),
        1 => (area, 1..=PAGES).prop_map(|(area, pages)| Step::Resize { area, pages }),
        2 => (0..SPACES, 0..600_u64, any::<bool>()).prop_map(|(space, absent, late)| Step::Promote { space, absent, late }),
        1 => (0..AREAS, 0..PAGES).prop_map(|(area, page)| Step::Pin { area, page }),
        6 => (0..4_usize).prop_map(|which| Step::Acknowledge { which }),
    ]
}

/// What an area holds, by number: the word at the start of each page.
type Contents = Vec<BTreeMap<u64, u64>>;

#[derive(Clone, Copy, Debug)]
struct Shown {
    content: usize,
    page: u64,
    write: bool,
    inherit: Inherit,
}

/// What comes out of a flush.
enum Outcome<M: SimFormat> {
    Nothing,
    /// A space: its slot, and what its pages show.
    Space(usize, BTreeMap<u64, Shown>, Space<Sim<M>>),
    Area(usize, usize, Area<Sim<M>>),
}

/// A flush that nobody has acknowledged, and the copies that wait for it.
type Outstanding<M> = (DetachedFlush<Sim<M>, Outcome<M>>, Copies);

struct World<M: SimFormat> {
    unit: Unit,
    sim: Sim<M>,
    kernel: Option<Space<Sim<M>>>,
    spaces: [Option<Space<Sim<M>>>; SPACES],
    /// What each space shows. `None` also while the slot waits for a clone.
    shown: [BTreeMap<u64, Shown>; SPACES],
    areas: [Option<(Area<Sim<M>>, usize)>; AREAS],
    contents: Contents,
    /// Pages of each content.
    sizes: Vec<u64>,
    loaded: [Option<usize>; CPUS],
    outstanding: Vec<Outstanding<M>>,
    next: u64,
}

/// Copies that are coming into being: (new, of what). Whoever can still write to what they are made of writes to both.
type Copies = Vec<(usize, usize)>;

impl<M: SimFormat> World<M> {
    fn new(mmu: M, unit: Unit) -> Self {
        let frames = if unit.is_large() { 1 << 14 } else { 2048 };
        let sim = Sim::of(mmu).frames(frames).cpus(CPUS).cpu_of_caller(|| CPU.with(Cell::get)).build();
        let (start, size) = kernel_bounds(mmu);
        let bounds = mmu.range(start, size).unwrap();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        for cpu in 0..CPUS {
            sim.activate(cpu, &kernel.activate(cpu));
        }
        let spaces: [_; SPACES] = std::array::from_fn(|slot| (slot < 2).then(|| Space::user(&kernel, ()).unwrap()));
        Self {
            unit,
            sim,
            kernel: Some(kernel),
            spaces,
            shown: Default::default(),
            areas: Default::default(),
            contents: Vec::new(),
            sizes: Vec::new(),
            loaded: [None; CPUS],
            outstanding: Vec::new(),
            next: 1,
        }
    }

    fn content(&mut self, pages: u64) -> usize {
        self.contents.push(BTreeMap::new());
        self.sizes.push(pages);
        self.contents.len() - 1
    }

    fn leave(&mut self, cpu: usize) {
        let Some(slot) = self.loaded[cpu].take() else { return };
        self.sim.activate(cpu, &self.kernel.as_ref().unwrap().activate(cpu));
        // SAFETY: another root is loaded, and activations are carried out.
        unsafe { self.spaces[slot].as_ref().unwrap().deactivate(cpu) };
    }

    fn settle(&mut self, outcome: Outcome<M>) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Space(slot, shown, space) => {
                if self.spaces[slot].is_none() {
                    self.spaces[slot] = Some(space);
                    self.shown[slot] = shown;
                }
            }
            Outcome::Area(slot, content, area) => {
                self.areas[slot] = Some((area, content));
            }
        }
    }

    fn flush<T>(
        &mut self,
        flush: Flush<Sim<M>, T>,
        outcome: impl FnOnce(T) -> Outcome<M>,
        pending: Copies,
        late: bool,
    ) {
        let flush = flush.map(outcome);
        if late {
            self.outstanding.push((flush.detach(), pending));
        } else {
            let outcome = flush.complete();
            self.settle(outcome);
        }
    }

    fn acknowledge(&mut self, which: usize) {
        if self.outstanding.is_empty() {
            return;
        }
        let (flush, _) = self.outstanding.remove(which % self.outstanding.len());
        self.sim.apply(flush.request());
        // SAFETY: every CPU that it names has flushed.
        let outcome = unsafe { flush.acknowledged() };
        self.settle(outcome);
    }

    /// An access by a CPU, with its faults. `None`: to be tried again when something is acknowledged.
    fn access(&mut self, cpu: usize, place: u64, access: Access, late: bool) -> Option<bool> {
        let slot = self.loaded[cpu]?;
        CPU.with(|current| current.set(cpu));
        let at = VirtAddr::new(self.unit.address(place));
        let expected = self.shown[slot].get(&place).copied();
        let inside = expected.is_some_and(|shown| shown.page < self.sizes[shown.content]);
        let allowed = inside && expected.is_some_and(|shown| shown.write || !access.contains(Access::WRITE));
        for _ in 0..4 {
            if self.sim.access(cpu, at, access | Access::USER).is_ok() {
                assert!(allowed, "{access} at {place} was not to be allowed: {expected:?}");
                return Some(true);
            }
            let space = self.spaces[slot].as_ref().unwrap();
            match space.fault(Fault::new(at.as_u64(), access | Access::USER)) {
                Ok(flush) => {
                    assert!(allowed, "the fault at {place} was not to be resolved: {expected:?}");
                    let again = !flush.is_empty() && late;
                    self.flush(flush, |_| Outcome::Nothing, Vec::new(), again);
                    if again {
                        return None;
                    }
                }
                Err(SpaceError::Retry(_)) => {
                    assert!(!self.outstanding.is_empty(), "nothing is outstanding at {place}");
                    return None;
                }
                Err(error) => {
                    assert!(!allowed, "{access} at {place}: {error}, expected {expected:?}");
                    return Some(false);
                }
            }
        }
        panic!("the fault at {place} repeats");
    }

    fn step(&mut self, step: Step) {
        let unit = self.unit;
        match step {
            Step::Area { area } => {
                let made = Area::new(&self.sim, AreaKind::Open { size: PAGES * unit.bytes() }, 0).unwrap();
                let content = self.content(PAGES);
                self.areas[area] = Some((made, content));
            }
            Step::Drop { area } => self.areas[area] = None,
            Step::Map { space, area, place, offset, pages, inherit, write, populate } => {
                let (Some(space_), Some((area, content))) = (&self.spaces[space], &self.areas[area]) else { return };
                // Mostly private: that is what this is about.
                let (number, inherit) = (
                    inherit,
                    match inherit {
                        0 => Inherit::Share,
                        1 => Inherit::Wipe,
                        2 => Inherit::Nothing,
                        _ => Inherit::Copy,
                    },
                );
                // Large pages are where all of an area is shown.
                let whole = unit.is_large() && number >= 1;
                let (place, offset, pages) =
                    if whole { (place - place % PAGES, 0, PAGES) } else { (place, offset, pages) };
                let mut request = MapRequest::new(area)
                    .at(unit.address(place))
                    .offset(offset * unit.bytes())
                    .size(pages * unit.bytes());
                request = request.inherit(inherit).access(if write { Access::KERNEL_DATA } else { Access::READ });
                if populate {
                    request = request.populated();
                }
                let result = space_.map(&request);
                let end = place + pages;
                let one_cluster = (place < PLACES / 2) == (end - 1 < PLACES / 2);
                let free = (place..end).all(|place| !self.shown[space].contains_key(&place));
                let inside = offset + pages <= self.sizes[*content];
                if !one_cluster {
                    if let Ok(range) = result {
                        space_.unmap(range).unwrap().complete();
                    }
                    return;
                }
                match result {
                    Ok(range) => {
                        assert!(free && inside);
                        if unit.is_large() {
                            space_.advise(range, Advice::Huge).unwrap().complete();
                        }
                        for page in 0..pages {
                            let shown = Shown { content: *content, page: offset + page, write, inherit };
                            self.shown[space].insert(place + page, shown);
                        }
                    }
                    Err(SpaceError::Conflict(_)) => assert!(!free),
                    Err(SpaceError::Area(AreaError::Outside { .. })) => assert!(!inside),
                    Err(error) => panic!("map: {error}"),
                }
            }
            Step::Unmap { space, place, pages } => {
                let Some(space_) = &self.spaces[space] else { return };
                let range = space_.range(unit.address(place), pages * unit.bytes()).unwrap();
                space_.unmap(range).unwrap().complete();
                for page in place..place + pages {
                    if unit.address(page) <= range.last().as_u64() && unit.address(page) >= range.start().as_u64() {
                        self.shown[space].remove(&page);
                    }
                }
            }
            Step::Populate { space, place, write } => {
                let Some(space_) = &self.spaces[space] else { return };
                let shown = self.shown[space].get(&place);
                let range = space_.range(unit.address(place), unit.bytes()).unwrap();
                let result = space_.populate(range, if write { Access::WRITE } else { Access::READ });
                let inside = shown.is_some_and(|shown| shown.page < self.sizes[shown.content]);
                let allowed = inside && shown.is_some_and(|shown| shown.write || !write);
                assert_eq!(result.is_ok(), allowed, "{:?}", result.err());
                if let Ok(flush) = result {
                    flush.complete();
                }
            }
            Step::Enter { cpu, space } => {
                self.leave(cpu);
                if let Some(entered) = &self.spaces[space] {
                    self.sim.activate(cpu, &entered.activate(cpu));
                    // SAFETY: the kernel's root is loaded nowhere that matters: user roots hold its slots, so it stays active.
                    self.loaded[cpu] = Some(space);
                }
            }
            Step::Leave { cpu } => self.leave(cpu),
            Step::Store { cpu, place, late } => {
                if self.access(cpu, place, Access::KERNEL_DATA, late) != Some(true) {
                    return;
                }
                let shown = self.shown[self.loaded[cpu].unwrap()][&place];
                self.next += 1;
                self.sim.write_u64(cpu, VirtAddr::new(unit.address(place)), true, self.next).unwrap();
                self.contents[shown.content].insert(shown.page, self.next);
                for (new, of) in self.outstanding.iter().flat_map(|(_, copies)| copies) {
                    if *of == shown.content {
                        self.contents[*new].insert(shown.page, self.next);
                    }
                }
            }
            Step::Load { cpu, place } => {
                if self.access(cpu, place, Access::READ, false) != Some(true) {
                    return;
                }
                let shown = self.shown[self.loaded[cpu].unwrap()][&place];
                let found = self.sim.read_u64(cpu, VirtAddr::new(unit.address(place)), true).unwrap();
                let expected = self.contents[shown.content].get(&shown.page).copied().unwrap_or(0);
                let walk =
                    self.spaces[self.loaded[cpu].unwrap()].as_ref().unwrap().walk(VirtAddr::new(unit.address(place)));
                let large = walk.physical().is_some() && walk.steps().last().is_some_and(|step| step.level == 1);
                LARGE_SEEN.with(|seen| seen.set(seen.get() + u64::from(large)));
                assert_eq!(found, expected, "page {} of {} at {place} on {cpu}", shown.page, shown.content);
            }
            Step::Clone { from, to, late } => {
                if from == to || self.spaces[to].is_some() {
                    return;
                }
                let Some(parent) = &self.spaces[from] else { return };
                let flush = parent.try_clone(()).unwrap();
                let mut shown = self.shown[from].clone();
                let mut copies = BTreeMap::new();
                // A wiped window is onto an area of its own: here, one per window would be the same as one per place.
                shown.retain(|_, shown| shown.inherit != Inherit::Nothing);
                for shown in shown.values_mut() {
                    match shown.inherit {
                        Inherit::Copy => {
                            let of = shown.content;
                            let size = self.sizes[of];
                            shown.content = *copies.entry(of).or_insert_with(|| {
                                self.contents.push(self.contents[of].clone());
                                self.sizes.push(size);
                                self.contents.len() - 1
                            });
                        }
                        Inherit::Wipe => {
                            let size = self.sizes[shown.content];
                            self.contents.push(BTreeMap::new());
                            self.sizes.push(size);
                            shown.content = self.contents.len() - 1;
                        }
                        _ => {}
                    }
                }
                let pending = copies.into_iter().map(|(of, new)| (new, of)).collect();
                self.flush(flush, move |space| Outcome::Space(to, shown, space), pending, late);
            }
            Step::Destroy { space } => {
                for cpu in 0..CPUS {
                    if self.loaded[cpu] == Some(space) {
                        self.leave(cpu);
                    }
                }
                self.spaces[space] = None;
                self.shown[space].clear();
            }
            Step::Snapshot { from, to, late } => {
                let Some((area, of)) = &self.areas[from] else { return };
                let of = *of;
                let flush = area.snapshot().unwrap();
                let new = self.content(self.sizes[of]);
                self.contents[new] = self.contents[of].clone();
                self.flush(flush, move |area| Outcome::Area(to, new, area), vec![(new, of)], late);
            }
            Step::Write { area, page } => {
                let Some((handle, content)) = &self.areas[area] else { return };
                let content = *content;
                self.next += 1;
                match handle.write(page * unit.bytes(), &self.next.to_ne_bytes()) {
                    Ok(flush) => {
                        assert!(page < self.sizes[content]);
                        flush.complete();
                        self.contents[content].insert(page, self.next);
                    }
                    Err(AreaError::Retry) => assert!(!self.outstanding.is_empty()),
                    Err(AreaError::Outside { .. }) => assert!(page >= self.sizes[content]),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Read { area, page } => {
                let Some((handle, content)) = &self.areas[area] else { return };
                let mut bytes = [0; 8];
                match handle.read(page * unit.bytes(), &mut bytes) {
                    Ok(()) => {
                        let expected = self.contents[*content].get(&page).copied().unwrap_or(0);
                        assert_eq!(u64::from_ne_bytes(bytes), expected);
                    }
                    Err(AreaError::Retry) => assert!(!self.outstanding.is_empty()),
                    Err(AreaError::Outside { .. }) => assert!(page >= self.sizes[*content]),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Resize { area, pages } => {
                let Some((handle, content)) = &self.areas[area] else { return };
                let content = *content;
                match handle.resize(pages * unit.bytes()) {
                    Ok(flush) => {
                        flush.complete();
                        self.sizes[content] = pages;
                        self.contents[content].retain(|page, _| *page < pages);
                    }
                    Err(AreaError::Retry) => assert!(!self.outstanding.is_empty()),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Promote { space, absent, late } => {
                let Some(space) = &self.spaces[space] else { return };
                let range = space.range(0x20_0000, 0x8000_0000).unwrap();
                let flush = space.promote(range, absent).unwrap();
                self.flush(flush, |_| Outcome::Nothing, Vec::new(), late);
            }
            Step::Pin { area, page } => {
                let Some((handle, content)) = &self.areas[area] else { return };
                match handle.pin(page * unit.bytes(), PAGE) {
                    Ok(pin) => drop(pin.complete()),
                    Err(AreaError::Retry) => assert!(!self.outstanding.is_empty()),
                    Err(AreaError::Outside { .. }) => assert!(page >= self.sizes[*content]),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Acknowledge { which } => self.acknowledge(which),
        }
        self.sim.assert_no_violation();
    }

    fn finish(mut self) {
        while !self.outstanding.is_empty() {
            self.acknowledge(0);
        }
        self.sim.check_translations();
        // What is left is looked at page by page.
        for slot in 0..SPACES {
            for place in self.shown[slot].keys().copied().collect::<BTreeSet<_>>() {
                self.step(Step::Enter { cpu: 0, space: slot });
                self.step(Step::Load { cpu: 0, place });
            }
        }
        for area in 0..AREAS {
            for page in 0..PAGES {
                self.step(Step::Read { area, page });
            }
        }
        for cpu in 0..CPUS {
            self.leave(cpu);
        }
        self.spaces = Default::default();
        self.areas = Default::default();
        let kernel = self.kernel.take().unwrap();
        for cpu in 0..CPUS {
            self.sim.unload(cpu);
            // SAFETY: no root is loaded there any more.
            unsafe { kernel.deactivate(cpu) };
        }
        drop(kernel);
        self.sim.assert_no_violation();
        let left: Vec<_> = FrameUse::ALL.iter().map(|purpose| self.sim.frame_counts().of(*purpose)).collect();
        assert_eq!(left[1..], [0; 6], "frames are lost: {:?}", self.sim.machine().counters());
    }
}

fn kernel_bounds<M: Mmu>(mmu: M) -> (u64, u64) {
    // The last but one of the root's slots.
    let top = mmu.level(mmu.levels() - 1).unwrap().shift;
    let end = match mmu.canonical() {
        Canonical::ZeroExtended => 1 << mmu.virtual_bits(),
        _ => 0_u64,
    };
    (end.wrapping_sub(2 << top), 1 << top)
}

fn run<M: SimFormat>(mmu: M, unit: Unit) {
    let times = std::env::var("VMCORE_CASES").ok().and_then(|times| times.parse().ok()).unwrap_or(1_u32);
    let config = ProptestConfig {
        max_shrink_iters: 20_000,
        ..ProptestConfig::with_cases(if unit.is_large() { 250 } else { 400 } * times)
    };
    let mut runner = TestRunner::new(config);
    runner
        .run(&prop::collection::vec(step(), 1..120), |steps| {
            let mut world = World::new(mmu, unit);
            for step in steps {
                world.step(step);
            }
            world.finish();
            Ok(())
        })
        .unwrap();
    assert_eq!(LARGE_SEEN.with(Cell::get) > 100, unit.is_large(), "{}", LARGE_SEEN.with(Cell::get));
}

const PAGES_ALONE: Unit = Unit(1);

/// Four of these are a little more than a large page, and none begins where a run of a tree does.
const PARTS_OF_LARGE_PAGES: Unit = Unit(130);

#[test]
fn x86_64() {
    run(X86_64::new(40).pcid(), PAGES_ALONE);
}

#[test]
fn riscv_whose_tables_forbid_nothing() {
    run(RiscV64::sv39(40).asid_bits(4), PAGES_ALONE);
}

#[test]
fn arm_that_breaks_before_it_makes() {
    run(AArch64::<Granule4K>::bits_48(Half::Lower, 40), PAGES_ALONE);
}

#[test]
fn large_pages_of_x86_64() {
    run(X86_64::new(40).pcid(), PARTS_OF_LARGE_PAGES);
}

#[test]
fn large_pages_of_riscv() {
    run(RiscV64::sv39(40).asid_bits(4), PARTS_OF_LARGE_PAGES);
}

#[test]
fn large_pages_of_arm() {
    run(AArch64::<Granule4K>::bits_48(Half::Lower, 40), PARTS_OF_LARGE_PAGES);
}
