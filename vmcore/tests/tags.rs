//! More spaces than tags, on CPUs that switch among them and keep what they remember under each tag: random operations against
//! a naive model of what each page shows, with flushes that are acknowledged late, and real threads. The simulated machine judges: a
//! CPU that comes back to a tag must have forgotten whatever was freed meanwhile.

mod common;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{PAGE, at};
use proptest::prelude::*;
use vmcore::addr::VirtAddr;
use vmcore::paging::{Access, DetachedFlush, Flush, Format, MemoryType, Mmu, RiscV64, Tag, X86_64};
use vmcore::sim::{FrameCounts, Hardware, Sim, SimBuilder, SimFormat};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{ActivationFlush, Fault, MapRequest, Space, SpaceError};
use vmcore::{CpuMask, CpuSet, Platform};

const TAGS: u32 = 4;
const CPUS: usize = 3;
/// User spaces; the kernel's is number 0.
const SPACES: usize = 8;
const AREAS: usize = 2;
const PAGES: u64 = 8;
const KERNEL_START: u64 = 0xffff_fff0_0000_0000;
const KERNEL_SIZE: u64 = 8 << 30;

/// x86-64 with as few tags as make them run out: no machine has so few, but an embedder may keep some for itself.
#[derive(Clone, Copy, Debug)]
struct FewTags(X86_64);

// SAFETY: the description is that of `X86_64`, and all that is asked of the value is answered by one.
unsafe impl Mmu for FewTags {
    type Word = u64;
    const FORMAT: &'static Format = X86_64::FORMAT;

    fn levels(&self) -> usize {
        self.0.levels()
    }

    fn physical_bits(&self) -> u32 {
        self.0.physical_bits()
    }

    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        self.0.memory_code(memory)
    }

    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        self.0.memory_type(code)
    }

    fn tags(&self) -> u32 {
        TAGS
    }
}

impl SimFormat for FewTags {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        self.0.hardware()
    }
}

fn x86() -> FewTags {
    FewTags(X86_64::new(40))
}

/// RISC-V remembers absences as well, and faults forget nothing.
fn riscv() -> RiscV64 {
    RiscV64::sv39(40).asid_bits(TAGS.ilog2())
}

thread_local! {
    /// The CPU that the test's thread is at the moment.
    static CPU: Cell<usize> = const { Cell::new(0) };
}

fn machine<M: SimFormat>(mmu: M, cpus: usize) -> SimBuilder<M> {
    Sim::of(mmu).frames(512).cpus(cpus).cpu_of_caller(|| CPU.with(Cell::get))
}

fn kernel_of<M: SimFormat>(sim: &Sim<M>) -> Space<Sim<M>> {
    let bounds = sim.machine().mmu().range(KERNEL_START, KERNEL_SIZE).unwrap();
    let kernel = Space::kernel(sim, bounds, None, ()).unwrap();
    for cpu in 0..sim.cpu_count() {
        let activation = kernel.activate(cpu);
        assert_eq!((activation.tag, activation.flush), (Tag(0), ActivationFlush::Everything));
        sim.activate(cpu, &activation);
    }
    kernel
}

/// Switches a CPU from one space to another, as a kernel does.
fn switch<M: SimFormat>(sim: &Sim<M>, cpu: usize, from: &Space<Sim<M>>, to: &Space<Sim<M>>) -> ActivationFlush {
    let activation = to.activate(cpu);
    sim.activate(cpu, &activation);
    if from.bounds() != to.bounds() || from.root() != to.root() {
        leave(cpu, from);
    }
    activation.flush
}

/// Notes that a CPU has left a space. The kernel's stays active as long as a CPU runs.
fn leave<M: SimFormat>(cpu: usize, space: &Space<Sim<M>>) {
    if space.bounds().start() < at(KERNEL_START) {
        // SAFETY: another root was loaded, as its activation says; flushes are carried out by the machine, whatever is loaded.
        unsafe { space.deactivate(cpu) };
    }
}

fn finish<M: SimFormat>(sim: &Sim<M>, kernel: Space<Sim<M>>, start: FrameCounts) {
    for cpu in 0..sim.cpu_count() {
        sim.unload(cpu);
        // SAFETY: the CPU is off.
        unsafe { kernel.deactivate(cpu) };
    }
    kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(sim.frame_counts(), start, "frames are lost");
    let counters = sim.machine().counters();
    assert_eq!((counters.tags, counters.refused_frees, counters.dropped_flushes), (0, 0, 0));
    sim.assert_no_violation();
}

// What is sure of one space.

#[test]
fn a_cpu_forgets_when_it_comes_back_after_a_change_and_only_then() {
    let sim = Sim::of(x86()).cpus(2).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let [one, two] = [(), ()].map(|()| Space::user(&kernel, ()).unwrap());
    assert_eq!((one.tag(), two.tag(), sim.machine().counters().tags), (Tag(1), Tag(2), 2));
    let area = Area::new(&sim, AreaKind::Open { size: 2 * PAGE }, 0).unwrap();
    let range = one.map(&MapRequest::new(&area).at(0x1000).access(Access::READ).populated()).unwrap();
    assert_eq!(switch(&sim, 0, &kernel, &one), ActivationFlush::Tag, "a new space");
    assert_eq!(switch(&sim, 1, &kernel, &one), ActivationFlush::Tag, "and on another CPU");
    for cpu in 0..2 {
        sim.read_u64(cpu, at(0x1000), true).unwrap();
        assert_eq!(switch(&sim, cpu, &one, &two), ActivationFlush::Tag);
    }
    let before = sim.flush_count();
    assert_eq!(switch(&sim, 0, &two, &one), ActivationFlush::Nothing);
    assert!(sim.access(0, at(0x1000), Access::READ | Access::USER).unwrap().from_tlb, "it was kept");
    // CPU 0 is in the space and is asked to flush; CPU 1 is not, and is left alone although it remembers the pages.
    let flush = one.unmap(range).unwrap();
    let mut only = CpuMask::EMPTY;
    only.insert(0);
    assert_eq!(flush.request().cpus, only);
    flush.complete();
    assert_eq!(sim.flush_count(), before + 1);
    area.resize(PAGE).unwrap().complete();
    assert_eq!(switch(&sim, 0, &one, &two), ActivationFlush::Nothing);
    assert_eq!(switch(&sim, 0, &two, &one), ActivationFlush::Nothing, "it was flushed");
    assert_eq!(switch(&sim, 1, &two, &one), ActivationFlush::Tag, "it was not");
    assert!(sim.read_u64(1, at(0x1000), true).is_err());
    // A new page under a new window takes nothing away.
    one.map(&MapRequest::new(&area).at(0x1000).access(Access::READ).populated()).unwrap();
    for cpu in 0..2 {
        switch(&sim, cpu, &one, &kernel);
        assert_eq!(switch(&sim, cpu, &kernel, &one), ActivationFlush::Nothing);
        switch(&sim, cpu, &one, &kernel);
    }
    // The tag is the next space's, in which nobody is current.
    one.destroy().map_err(|(_, error)| error).unwrap().complete();
    let three = Space::user(&kernel, ()).unwrap();
    assert_eq!(three.tag(), Tag(1));
    assert_eq!(switch(&sim, 0, &kernel, &three), ActivationFlush::Tag);
    assert!(sim.read_u64(0, at(0x1000), true).is_err());
    switch(&sim, 0, &three, &kernel);
    drop((area, two, three));
    finish(&sim, kernel, start);
}

#[test]
fn spaces_without_a_tag_flush_each_time() {
    let sim = Sim::of(x86()).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let spaces: Vec<_> = (0..5).map(|_| Space::user(&kernel, ()).unwrap()).collect();
    assert_eq!(spaces.iter().map(Space::tag).collect::<Vec<_>>(), [1, 2, 3, 0, 0].map(Tag));
    assert_eq!(sim.machine().counters().tags, 3);
    for _ in 0..2 {
        assert_eq!(switch(&sim, 0, &kernel, &spaces[3]), ActivationFlush::Tag);
        assert_eq!(switch(&sim, 0, &spaces[3], &spaces[4]), ActivationFlush::Tag);
        assert_eq!(switch(&sim, 0, &spaces[4], &kernel), ActivationFlush::Tag);
    }
    drop(spaces);
    finish(&sim, kernel, start);
}

/// The tag outlives the space until the last flush that names it.
#[test]
fn a_tag_comes_back_after_the_last_flush() {
    let sim = Sim::of(x86()).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let space = Space::user(&kernel, ()).unwrap();
    let area = Area::new(&sim, AreaKind::Open { size: PAGE }, 0).unwrap();
    let range = space.map(&MapRequest::new(&area).populated()).unwrap();
    switch(&sim, 0, &kernel, &space);
    let flush = space.unmap(range).unwrap();
    switch(&sim, 0, &space, &kernel);
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(sim.machine().counters().tags, 1);
    flush.complete();
    assert_eq!(sim.machine().counters().tags, 0);
    drop(area);
    finish(&sim, kernel, start);
}

/// A CPU that was away from the kernel's space does not know what changed there, under any tag.
#[test]
fn a_cpu_that_was_off_forgets_everything_if_the_kernel_changed() {
    let sim = Sim::of(x86()).cpus(2).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let user = Space::user(&kernel, ()).unwrap();
    let area = Area::new(&sim, AreaKind::Open { size: PAGE }, 0).unwrap();
    let map = || kernel.map(&MapRequest::new(&area).at(KERNEL_START).populated()).unwrap();
    let range = map();
    for changes in [false, true] {
        switch(&sim, 1, &kernel, &user);
        sim.read_u64(1, at(KERNEL_START), false).unwrap();
        switch(&sim, 1, &user, &kernel);
        // SAFETY: the test makes no access on that CPU until it has activated a space, and does what that asks for.
        unsafe { kernel.deactivate(1) };
        if changes {
            let flush = kernel.unmap(range).unwrap();
            assert!(!flush.request().cpus.contains(1));
            flush.complete();
        }
        let expected = if changes { ActivationFlush::Everything } else { ActivationFlush::Nothing };
        assert_eq!(switch(&sim, 1, &kernel, &user), expected);
        assert_eq!(sim.read_u64(1, at(KERNEL_START), false).is_err(), changes);
        switch(&sim, 1, &user, &kernel);
    }
    drop((area, user));
    finish(&sim, kernel, start);
}

/// A kernel's table that goes is remembered under the tags of spaces that are not loaded: the flush says so.
#[test]
fn a_table_of_the_kernel_is_forgotten_under_every_tag() {
    let sim = Sim::of(x86()).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let [one, two] = [(), ()].map(|()| Space::user(&kernel, ()).unwrap());
    let area = Area::new(&sim, AreaKind::Open { size: PAGE }, 0).unwrap();
    let range = kernel.map(&MapRequest::new(&area).at(KERNEL_START).populated()).unwrap();
    switch(&sim, 0, &kernel, &one);
    sim.read_u64(0, at(KERNEL_START), false).unwrap();
    switch(&sim, 0, &one, &two);
    let flush = kernel.unmap(range).unwrap();
    assert!(flush.request().scope.shared_tables());
    flush.complete();
    assert_eq!(switch(&sim, 0, &two, &one), ActivationFlush::Nothing);
    assert!(sim.read_u64(0, at(KERNEL_START), false).is_err());
    switch(&sim, 0, &one, &kernel);
    drop((area, one, two));
    finish(&sim, kernel, start);
}

// Random operations.

#[derive(Clone, Debug)]
enum Op {
    New { space: usize },
    Destroy { space: usize, later: bool },
    Switch { cpu: usize, space: usize },
    Map { space: usize, place: u64, pages: u64, area: usize, first: u64 },
    Unmap { space: usize, place: u64, pages: u64, later: bool },
    Touch { cpu: usize, kernel: bool, place: u64, store: Option<u64> },
    Prefetch { cpu: usize, kernel: bool, place: u64 },
    Resize { area: usize, pages: u64, later: bool },
    Arrive { which: usize, cpu: usize },
    Acknowledge { which: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (space, cpu, place) = (0..=SPACES, 0..CPUS, 0..8_u64);
    let later = prop::bool::weighted(0.4);
    prop_oneof![
        3 => (1..=SPACES).prop_map(|space| Op::New { space }),
        2 => (1..=SPACES, later).prop_map(|(space, later)| Op::Destroy { space, later }),
        10 => (cpu.clone(), space.clone()).prop_map(|(cpu, space)| Op::Switch { cpu, space }),
        6 => (space.clone(), place.clone(), 1..3_u64, 0..AREAS, 0..PAGES)
            .prop_map(|(space, place, pages, area, first)| Op::Map { space, place, pages, area, first }),
        5 => (space, place.clone(), 1..3_u64, later)
            .prop_map(|(space, place, pages, later)| Op::Unmap { space, place, pages, later }),
        16 => (cpu.clone(), prop::bool::weighted(0.3), place.clone(), prop::option::of(1..u64::MAX))
            .prop_map(|(cpu, kernel, place, store)| Op::Touch { cpu, kernel, place, store }),
        6 => (cpu.clone(), any::<bool>(), place).prop_map(|(cpu, kernel, place)| Op::Prefetch { cpu, kernel, place }),
        2 => (0..AREAS, 1..=PAGES, later).prop_map(|(area, pages, later)| Op::Resize { area, pages, later }),
        3 => (0..4_usize, cpu).prop_map(|(which, cpu)| Op::Arrive { which, cpu }),
        3 => (0..4_usize).prop_map(|which| Op::Acknowledge { which }),
    ]
}

/// Two pages of a leaf table each; the tables lie in different tables of the next levels.
fn address(kernel: bool, place: u64) -> u64 {
    let start = if kernel { KERNEL_START } else { 1 << 30 };
    start + (place & 1) * PAGE + (place >> 1 & 1) * (2 << 20) + (place >> 2) * (1 << 30)
}

/// Which page of which area a page of a space shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shown {
    area: usize,
    page: u64,
    gated: bool,
}

struct ModelSpace<M: SimFormat> {
    space: Option<Space<Sim<M>>>,
    tag: u16,
    pages: BTreeMap<u64, Shown>,
    /// Flushes that hold windows of it, or itself.
    held: usize,
}

struct Outstanding<M: SimFormat> {
    flush: DetachedFlush<Sim<M>, ()>,
    /// The space, by its number, and the places that are free afterwards.
    space: Option<(usize, Vec<u64>)>,
    area: Option<usize>,
}

struct ModelArea<M: SimFormat> {
    area: Area<Sim<M>>,
    pages: u64,
    words: BTreeMap<u64, u64>,
    returning: usize,
}

struct Model<M: SimFormat> {
    sim: Sim<M>,
    start: FrameCounts,
    /// By number; a space's number is never used again. The kernel's is number 0.
    spaces: BTreeMap<usize, ModelSpace<M>>,
    slots: [usize; SPACES + 1],
    areas: Vec<ModelArea<M>>,
    entered: [usize; CPUS],
    outstanding: Vec<Outstanding<M>>,
    next: usize,
    kept: usize,
}

impl<M: SimFormat> Model<M> {
    fn new(mmu: M) -> Self {
        let sim = machine(mmu, CPUS).build();
        let start = sim.frame_counts();
        let kernel = ModelSpace { space: Some(kernel_of(&sim)), tag: 0, pages: BTreeMap::new(), held: 0 };
        let area = |_| ModelArea {
            area: Area::new(&sim, AreaKind::Open { size: PAGES * PAGE }, 0).unwrap(),
            pages: PAGES,
            words: BTreeMap::new(),
            returning: 0,
        };
        let areas = (0..AREAS).map(area).collect();
        let spaces = [(0, kernel)].into();
        let (slots, entered, outstanding) = ([0; SPACES + 1], [0; CPUS], Vec::new());
        Self { sim, start, spaces, slots, areas, entered, outstanding, next: 1, kept: 0 }
    }

    /// The number of the space in a slot: the kernel's, if there is none.
    fn number(&self, slot: usize) -> usize {
        self.slots[slot]
    }

    fn space(&self, number: usize) -> &Space<Sim<M>> {
        self.spaces[&number].space.as_ref().unwrap()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::New { space } => self.create(space),
            Op::Destroy { space, later } => self.destroy(space, later),
            Op::Switch { cpu, space } => self.switch(cpu, self.number(space)),
            Op::Map { space, place, pages, area, first } => self.map(self.number(space), place, pages, area, first),
            Op::Unmap { space, place, pages, later } => self.unmap(self.number(space), place, pages, later),
            Op::Touch { cpu, kernel, place, store } => self.touch(cpu, kernel, place, store),
            Op::Prefetch { cpu, kernel, place } => self.sim.prefetch(cpu, at(address(kernel, place))),
            Op::Resize { area, pages, later } => self.resize(area, pages, later),
            Op::Arrive { which, cpu } => {
                if let Some(outstanding) = self.outstanding.get(which) {
                    self.sim.apply_on(cpu, outstanding.flush.request());
                }
            }
            Op::Acknowledge { which } => self.acknowledge(which),
        }
        if self.outstanding.is_empty() {
            self.sim.check_translations();
        }
        let tagged = self.spaces.values().filter(|space| space.tag != 0).count();
        assert_eq!(self.sim.machine().counters().tags, tagged);
    }

    fn create(&mut self, slot: usize) {
        if self.slots[slot] != 0 {
            return;
        }
        let space = Space::user(self.space(0), ()).unwrap();
        let taken: BTreeSet<u16> = self.spaces.values().map(|space| space.tag).collect();
        let free = (1..TAGS as u16).find(|tag| !taken.contains(tag));
        assert_eq!(space.tag(), Tag(free.unwrap_or(0)), "one that is free, if any is");
        let model = ModelSpace { tag: space.tag().0, space: Some(space), pages: BTreeMap::new(), held: 0 };
        self.spaces.insert(self.next, model);
        self.slots[slot] = self.next;
        self.next += 1;
    }

    fn destroy(&mut self, slot: usize, later: bool) {
        let number = self.slots[slot];
        if number == 0 {
            return;
        }
        let model = self.spaces.get_mut(&number).unwrap();
        let space = model.space.take().unwrap();
        match space.destroy() {
            Ok(flush) => {
                assert!(!self.entered.contains(&number), "it was active");
                assert!(flush.request().cpus.is_empty(), "nobody can use anything of it");
                self.slots[slot] = 0;
                let flush = flush.map(|()| ());
                self.finish_flush(flush, Some((number, Vec::new())), None, later);
            }
            Err((space, error)) => {
                assert!(error == SpaceError::Active && self.entered.contains(&number), "{error}");
                model.space = Some(space);
            }
        }
    }

    fn switch(&mut self, cpu: usize, number: usize) {
        let before = std::mem::replace(&mut self.entered[cpu], number);
        if before != number {
            let flush = switch(&self.sim, cpu, self.space(before), self.space(number));
            assert!(
                flush < ActivationFlush::Everything && (flush == ActivationFlush::Tag || self.spaces[&number].tag != 0)
            );
            self.kept += usize::from(flush == ActivationFlush::Nothing);
        }
    }

    /// The places that a range of `pages` pages from `place` on covers: both, or one.
    fn places(place: u64, pages: u64) -> (u64, Vec<u64>) {
        let first = if pages == 2 { place & !1 } else { place };
        (first, (first..first + pages).collect())
    }

    fn map(&mut self, number: usize, place: u64, pages: u64, area: usize, first: u64) {
        let (start, places) = Self::places(place, pages);
        let found = &self.areas[area];
        let request = MapRequest::new(&found.area)
            .at(address(number == 0, start))
            .offset(first * PAGE)
            .size(pages * PAGE)
            .access(Access::KERNEL_DATA);
        let result = self.space(number).map(&request);
        let taken: Vec<Shown> =
            places.iter().filter_map(|place| self.spaces[&number].pages.get(place)).copied().collect();
        match result {
            Ok(_) => assert!(taken.is_empty() && first + pages <= found.pages),
            Err(SpaceError::Conflict(_)) => return assert!(taken.iter().any(|shown| !shown.gated)),
            Err(SpaceError::Retry(_)) => return assert!(taken.iter().any(|shown| shown.gated)),
            Err(SpaceError::Area(AreaError::Outside { .. })) => return assert!(first + pages > found.pages),
            Err(error) => panic!("{error}"),
        }
        let model = self.spaces.get_mut(&number).unwrap();
        model.pages.extend(places.into_iter().zip(first..).map(|(at, page)| (at, Shown { area, page, gated: false })));
    }

    fn unmap(&mut self, number: usize, place: u64, pages: u64, later: bool) {
        let (start, places) = Self::places(place, pages);
        let space = self.space(number);
        let range = space.range(address(number == 0, start), pages * PAGE).unwrap();
        let flush = space.unmap(range).unwrap();
        let at_once = common::is_gone_at_once(space, range, flush.request());
        let model = self.spaces.get_mut(&number).unwrap();
        let mut gone = Vec::new();
        for place in places {
            if let Some(shown) = model.pages.get_mut(&place).filter(|shown| !shown.gated) {
                shown.gated = true;
                gone.push(place);
            }
        }
        // A flush of nothing holds nothing of the space.
        let space = (!gone.is_empty()).then_some((number, gone));
        self.finish_flush(flush, space, None, later && !at_once);
    }

    fn resize(&mut self, area: usize, pages: u64, later: bool) {
        let found = &mut self.areas[area];
        if found.returning != 0 {
            return;
        }
        let flush = found.area.resize(pages * PAGE).unwrap();
        found.words.retain(|page, _| *page < pages);
        found.pages = pages;
        self.finish_flush(flush, None, Some(area), later);
    }

    fn finish_flush(
        &mut self,
        flush: Flush<Sim<M>, ()>,
        space: Option<(usize, Vec<u64>)>,
        area: Option<usize>,
        later: bool,
    ) {
        if let Some((number, _)) = &space {
            self.spaces.get_mut(number).unwrap().held += 1;
        }
        if let Some(area) = area {
            self.areas[area].returning += 1;
        }
        self.outstanding.push(Outstanding { flush: flush.detach(), space, area });
        if !later {
            self.acknowledge(self.outstanding.len() - 1);
        }
    }

    /// A CPU of the set flushes, whether it is still in the space or not.
    fn acknowledge(&mut self, which: usize) {
        if which >= self.outstanding.len() {
            return;
        }
        let Outstanding { flush, space, area } = self.outstanding.remove(which);
        self.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() };
        if let Some((number, places)) = space {
            let model = self.spaces.get_mut(&number).unwrap();
            model.held -= 1;
            for place in places {
                model.pages.remove(&place);
            }
            if model.space.is_none() && model.held == 0 {
                self.spaces.remove(&number);
            }
        }
        if let Some(area) = area {
            self.areas[area].returning -= 1;
        }
    }

    fn touch(&mut self, cpu: usize, kernel: bool, place: u64, store: Option<u64>) {
        let number = if kernel { 0 } else { self.entered[cpu] };
        let address = address(number == 0, place);
        let access = if store.is_some() { Access::KERNEL_DATA } else { Access::READ };
        let access = if number == 0 { access } else { access | Access::USER };
        let shown = self.spaces[&number].pages.get(&place).copied();
        let found = match attempt(&self.sim, cpu, self.space(number), at(address), access, store) {
            Ok(word) => word,
            Err(SpaceError::NoWindow(_)) => return assert_eq!(shown, None),
            Err(SpaceError::Retry(_)) => return assert!(shown.is_some_and(|shown| shown.gated)),
            Err(SpaceError::OutsideArea(_)) => {
                return assert!(shown.is_some_and(|shown| shown.page >= self.areas[shown.area].pages));
            }
            Err(error) => panic!("{error}"),
        };
        let Some(Shown { area, page, gated }) = shown else { panic!("{address:#x} shows nothing, and was accessed") };
        let area = &mut self.areas[area];
        // Until a flush is acknowledged, a CPU may use what it remembers.
        assert!(page < area.pages || gated || area.returning != 0, "{address:#x} was accessed beyond the area's end");
        if page >= area.pages {
            return;
        }
        match store {
            Some(word) => {
                area.words.insert(page, word);
            }
            None => assert_eq!(found, area.words.get(&page).copied().unwrap_or(0), "{address:#x} shows another page"),
        }
    }

    fn end(mut self) -> usize {
        while !self.outstanding.is_empty() {
            self.acknowledge(0);
        }
        self.sim.check_translations();
        // Each CPU goes through each space once more: whatever it kept is looked at there.
        for number in self.spaces.keys().copied().collect::<Vec<_>>() {
            for cpu in 0..CPUS {
                self.switch(cpu, number);
                self.sim.check_translations();
                for place in 0..8 {
                    self.touch(cpu, false, place, None);
                    self.touch(cpu, true, place, None);
                }
            }
        }
        for cpu in 0..CPUS {
            self.switch(cpu, 0);
        }
        self.areas.clear();
        let kernel = self.spaces.remove(&0).unwrap().space.unwrap();
        for (_, space) in std::mem::take(&mut self.spaces) {
            space.space.unwrap().destroy().map_err(|(_, error)| error).unwrap().complete();
        }
        let places = kernel.range(KERNEL_START, KERNEL_SIZE).unwrap();
        kernel.unmap(places).unwrap().complete();
        finish(&self.sim, kernel, self.start);
        self.kept
    }
}

/// Makes an access as a CPU with a fault handler does, and gives the word that was loaded.
fn attempt<M: SimFormat>(
    sim: &Sim<M>,
    cpu: usize,
    space: &Space<Sim<M>>,
    address: VirtAddr,
    access: Access,
    store: Option<u64>,
) -> Result<u64, SpaceError> {
    let user = access.contains(Access::USER);
    CPU.with(|current| current.set(cpu));
    for _ in 0..1000 {
        let result = match store {
            Some(word) => sim.write_u64(cpu, address, user, word).map(|()| word),
            None => sim.read_u64(cpu, address, user),
        };
        match result {
            Ok(word) => return Ok(word),
            Err(_) => drop(space.fault(Fault::new(address.as_u64(), access))?.complete()),
        }
    }
    panic!("the fault at {address} repeats:\n{}", space.walk(address));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn few_tags_many_spaces_x86(ops in prop::collection::vec(op(), 1..160)) {
        let mut model = Model::new(x86());
        ops.into_iter().for_each(|op| model.apply(op));
        model.end();
    }

    #[test]
    fn few_tags_many_spaces_riscv(ops in prop::collection::vec(op(), 1..160)) {
        let mut model = Model::new(riscv());
        ops.into_iter().for_each(|op| model.apply(op));
        model.end();
    }
}

// Real threads.

const THREADS: usize = 2;
const SHARED: usize = 4;
const STEPS: usize = 40_000;

/// A word that only this page ever holds.
fn mark(area: usize, page: u64) -> u64 {
    0xfeed_0000 + 0x100 * area as u64 + page
}

/// Two CPUs switch among the same spaces, which have fewer tags than they are, while both map, unmap and shrink what the
/// spaces show: every word that is read is the one of a page that belongs there.
#[test]
fn two_threads_switch_among_spaces() {
    let sim = machine(RiscV64::sv39(40).asid_bits(2), THREADS).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let spaces: Vec<_> = (0..SHARED).map(|_| Space::user(&kernel, ()).unwrap()).collect();
    let area = |_| Area::new(&sim, AreaKind::Open { size: PAGES * PAGE }, 0).unwrap();
    let areas: Vec<_> = (0..AREAS).map(area).collect();
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for cpu in 0..THREADS {
            let (sim, kernel, spaces, areas, barrier) = (&sim, &kernel, &spaces, &areas, &barrier);
            scope.spawn(move || {
                CPU.with(|current| current.set(cpu));
                let mut random = 0x9e37_79b9_7f4a_7c15_u64 + cpu as u64;
                let mut below = move |limit: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random >> 11) % limit
                };
                let (mut here, mut kept, mut read) = (kernel, 0, 0);
                barrier.wait();
                for _ in 0..STEPS {
                    let space = &spaces[below(SHARED as u64) as usize];
                    let (area, page) = (below(AREAS as u64) as usize, below(PAGES));
                    let address = at(0x1000 + (area as u64 * PAGES + page) * PAGE);
                    match below(12) {
                        0..4 if space.root() != here.root() => {
                            let flush = switch(sim, cpu, here, space);
                            kept += usize::from(flush == ActivationFlush::Nothing);
                            here = space;
                        }
                        // Each page of an area has one place in every space.
                        4 => {
                            let request =
                                MapRequest::new(&areas[area]).at(address.as_u64()).offset(page * PAGE).size(PAGE);
                            match space.map(&request.access(Access::KERNEL_DATA)) {
                                Ok(_) | Err(SpaceError::Conflict(_) | SpaceError::Retry(_) | SpaceError::Area(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                        5 => space.unmap(space.range(address.as_u64(), PAGE).unwrap()).unwrap().complete(),
                        6 => match areas[area].resize((1 + below(PAGES)) * PAGE) {
                            Ok(flush) => flush.complete(),
                            Err(AreaError::Retry) => {}
                            Err(error) => panic!("{error}"),
                        },
                        _ if here.root() == kernel.root() => {}
                        step => {
                            let store = (step < 9).then(|| mark(area, page));
                            let access = if store.is_some() { Access::USER_DATA } else { Access::READ | Access::USER };
                            match attempt(sim, cpu, here, address, access, store) {
                                Ok(word) => {
                                    assert!(word == 0 || word == mark(area, page), "{address} holds {word:#x}");
                                    read += 1;
                                }
                                Err(SpaceError::NoWindow(_) | SpaceError::Retry(_) | SpaceError::OutsideArea(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                }
                switch(sim, cpu, here, kernel);
                assert!(kept > 500 && read > 500, "hardly anything happened: {kept}, {read}");
            });
        }
    });
    sim.check_translations();
    CPU.with(|current| current.set(0));
    drop((areas, spaces));
    finish(&sim, kernel, start);
}

/// Says that its thread has ended, so that nobody waits for one that has panicked.
struct TellsOfItsEnd<'a>(&'a AtomicBool);

impl Drop for TellsOfItsEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One CPU takes pages away from a space in which it is not, while another enters it: whoever enters before the change is
/// noted is flushed, and whoever enters after it finds the tables without the pages.
#[test]
fn a_change_and_an_activation_at_the_same_time() {
    const MANY: u64 = 64;
    const ROUNDS: usize = 400;
    let sim = machine(x86(), THREADS).build();
    let start = sim.frame_counts();
    let kernel = kernel_of(&sim);
    let space = Space::user(&kernel, ()).unwrap();
    let area = Area::new(&sim, AreaKind::Open { size: MANY * PAGE }, 0).unwrap();
    let range = space.range(0x1000, MANY * PAGE).unwrap();
    // How many times the pages were there, the other CPU came, they were taken away again, and it has seen to that.
    let [mapped, coming, unmapped, seen] = [const { AtomicUsize::new(0) }; 4];
    let gone = AtomicBool::new(false);
    let wait = |count: &AtomicUsize, round| {
        loop {
            // Looked at first: what a thread did before its end is seen then.
            let ended = gone.load(Ordering::Acquire);
            if count.load(Ordering::Acquire) >= round {
                return;
            }
            assert!(!ended, "the other thread has panicked");
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let _guard = TellsOfItsEnd(&gone);
            CPU.with(|current| current.set(1));
            let mut found = 0;
            for round in 1..=ROUNDS {
                wait(&mapped, round);
                coming.store(round, Ordering::Release);
                // It enters earlier or later while the pages are being taken away.
                (0..round % 16 * 40).for_each(|_| std::hint::spin_loop());
                switch(&sim, 1, &kernel, &space);
                let pages = (0..MANY).rev().step_by(4).map(|page| at(0x1000 + page * PAGE));
                pages.clone().for_each(|page| found += usize::from(sim.read_u64(1, page, true).is_ok()));
                wait(&unmapped, round);
                for page in pages {
                    assert!(sim.read_u64(1, page, true).is_err(), "{page} is used after its flush was acknowledged");
                }
                switch(&sim, 1, &space, &kernel);
                seen.store(round, Ordering::Release);
            }
            found
        });
        let _guard = TellsOfItsEnd(&gone);
        for round in 1..=ROUNDS {
            // Many windows, so that taking them away takes a while.
            for page in (0..MANY).map(|page| page * PAGE) {
                let request = MapRequest::new(&area).at(0x1000 + page).offset(page).size(PAGE);
                space.map(&request.access(Access::READ).populated()).unwrap();
            }
            mapped.store(round, Ordering::Release);
            wait(&coming, round);
            space.unmap(range).unwrap().complete();
            unmapped.store(round, Ordering::Release);
            wait(&seen, round);
        }
        let found = other.join().unwrap();
        assert!(found != 0, "the two never met");
    });
    drop((area, space));
    finish(&sim, kernel, start);
}
