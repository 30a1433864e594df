//! The library beside the model: who is where, flushes that are outstanding, and what is compared after each step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use vmcore::Platform;
use vmcore::addr::{Frame, FrameRange, PageRange, VirtAddr};
use vmcore::frame::FrameUse;
use vmcore::inspect::{SpaceMap, SpaceTables};
use vmcore::paging::{Access, Canonical, DetachedFlush, Flush, Mmu};
use vmcore::sim::{FrameCounts, Sim, SimFormat};
use vmcore::vm_area::{Area, PageRequest, PageState, Pin, WriteBack};
use vmcore::vm_space::{Space, SpaceError};

use super::model::{
    Content, DEVICE, DEVICE_PAGES, Effect, Model, PAGE, PagedPage, Resident, SpaceModel, Stale, WORD_AT, Words,
};
use super::operation::{AREAS, CPUS, Operation, Pages, SPACES, Step};
use super::refusal::Refusal;

thread_local! {
    /// The CPU that the test's thread is at the moment.
    pub(crate) static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Where windows are put: below and above the end of a leaf table, and far away.
pub(crate) const PLACES: [Range<u64>; 2] = [0x1f8..0x208, 0x4_0000..0x4_0008];

/// What comes out of a flush.
#[allow(clippy::large_enum_variant, reason = "there are few at a time")]
pub(crate) enum Outcome<M: SimFormat> {
    Nothing,
    Space(usize, usize, Space<Sim<M>>),
    Area(usize, usize, Area<Sim<M>>),
    Pin(Pinned<M>),
    WriteBack(WritingBack<M>),
}

pub(crate) struct Pinned<M: SimFormat> {
    pub(crate) content: usize,
    pub(crate) keys: Vec<u64>,
    pub(crate) pin: Pin<Sim<M>>,
}

pub(crate) struct WritingBack<M: SimFormat> {
    pub(crate) content: usize,
    pub(crate) first: u64,
    pub(crate) value: WriteBack<Sim<M>>,
}

/// A flush that nobody has acknowledged, with its number.
type Outstanding<M> = (u64, DetachedFlush<Sim<M>, Outcome<M>>);

pub(crate) struct World<M: SimFormat> {
    pub(crate) sim: Sim<M>,
    pub(crate) start: FrameCounts,
    pub(crate) kernel: Option<Space<Sim<M>>>,
    pub(crate) model: Model,
    /// Each with its number in the model.
    pub(crate) spaces: [Option<(Space<Sim<M>>, usize)>; SPACES],
    pub(crate) areas: [Option<(Area<Sim<M>>, usize)>; AREAS],
    pub(crate) loaded: [Option<usize>; CPUS],
    pub(crate) outstanding: Vec<Outstanding<M>>,
    pub(crate) pins: Vec<Pinned<M>>,
    pub(crate) requests: Vec<(usize, PageRequest)>,
    pub(crate) write_backs: Vec<WritingBack<M>>,
    /// What the pager has of each page of each paged area that was written back.
    pub(crate) files: BTreeMap<(usize, u64), Words>,
    pub(crate) value: u64,
    pub(crate) late: bool,
    pub(crate) refused: Option<(u64, bool)>,
    /// How many operations were refused for want of frames, and made again.
    pub(crate) exhausted: u64,
    /// The pages that a space covers.
    pub(crate) bounds: Range<u64>,
}

pub(crate) fn at(page: u64) -> VirtAddr {
    VirtAddr::new(page * PAGE)
}

/// Words as they lie in a page.
pub(crate) fn bytes_of(words: Words) -> Vec<u8> {
    let mut bytes = vec![0; PAGE as usize];
    for (word, offset) in words.into_iter().zip(WORD_AT) {
        bytes[offset as usize..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

impl<M: SimFormat> World<M> {
    pub(crate) fn new(mmu: M) -> Self {
        let device = FrameRange::new(Frame::new(DEVICE), DEVICE_PAGES).unwrap();
        let builder = Sim::of(mmu).frames(2048).cpus(CPUS).device(device);
        let sim = builder.cpu_of_caller(|| CPU.with(Cell::get)).build();
        let start = sim.frame_counts();
        let (kernel_start, size) = kernel_bounds(mmu);
        let kernel = Space::kernel(&sim, mmu.range(kernel_start, size).unwrap(), None, ()).unwrap();
        for cpu in 0..CPUS {
            sim.activate(cpu, &kernel.activate(cpu));
        }
        let mut model = Model::new();
        let spaces: [_; SPACES] = std::array::from_fn(|slot| {
            (slot < 2).then(|| {
                model.spaces.push(SpaceModel::default());
                (Space::user(&kernel, ()).unwrap(), slot)
            })
        });
        let all = spaces[0].as_ref().unwrap().0.bounds();
        let mut world = Self {
            sim,
            start,
            kernel: Some(kernel),
            model,
            spaces,
            areas: Default::default(),
            loaded: [None; CPUS],
            outstanding: Vec::new(),
            pins: Vec::new(),
            requests: Vec::new(),
            write_backs: Vec::new(),
            files: BTreeMap::new(),
            value: 1,
            late: false,
            refused: None,
            exhausted: 0,
            bounds: all.start().as_u64() / PAGE..all.last().as_u64() / PAGE + 1,
        };
        // Most operations meet something from the start on.
        world.new_area(0, 0, 8);
        world.enter(0, 0);
        world.enter(1, 0);
        world
    }

    pub(crate) fn space(&self, slot: usize) -> &Space<Sim<M>> {
        &self.spaces[slot].as_ref().unwrap().0
    }

    pub(crate) fn area(&self, slot: usize) -> &Area<Sim<M>> {
        &self.areas[slot].as_ref().unwrap().0
    }

    pub(crate) fn range(&self, first: u64, count: u64) -> PageRange {
        let count = count.min(self.bounds.end - first);
        self.sim.machine().mmu().range(first * PAGE, count * PAGE).unwrap()
    }

    /// A slot whose space exists, and the space's number.
    pub(crate) fn pick_space(&self, number: usize) -> Option<(usize, usize)> {
        let there: Vec<_> = (0..SPACES).filter_map(|slot| Some((slot, self.spaces[slot].as_ref()?.1))).collect();
        there.get(number % there.len().max(1)).copied()
    }

    /// A slot whose area exists, and the number of what it holds.
    pub(crate) fn pick_area(&self, number: usize) -> Option<(usize, usize)> {
        let there: Vec<_> = (0..AREAS).filter_map(|slot| Some((slot, self.areas[slot].as_ref()?.1))).collect();
        there.get(number % there.len().max(1)).copied()
    }

    /// A page of a space, most often one that is mapped.
    pub(crate) fn pick_page(&self, number: usize, page: u16) -> u64 {
        let (mapped, page) = (&self.model.spaces[number].pages, u64::from(page));
        match mapped.keys().nth((page / 8) as usize % mapped.len().max(1)) {
            Some(mapped) if page % 8 != 0 => *mapped,
            _ => {
                let places: u64 = PLACES.iter().map(|range| range.end - range.start).sum();
                PLACES.into_iter().flatten().nth((page / 8 % places) as usize).unwrap()
            }
        }
    }

    /// A space, and pages of it.
    pub(crate) fn pick(&self, pages: Pages) -> Option<(usize, usize, Range<u64>)> {
        let (slot, number) = self.pick_space(pages.space)?;
        let first = self.pick_page(number, pages.page);
        Some((slot, number, first..(first + pages.count).min(self.bounds.end)))
    }

    /// Makes a call, first with a request for frames refused, if it is this step's turn: if it fails for that, nothing was changed.
    pub(crate) fn call<T, E: Into<Refusal>>(&mut self, call: impl Fn(&Self) -> Result<T, E>) -> Result<T, Refusal> {
        let Some((number, all_later)) = self.refused.take() else { return call(self).map_err(Into::into) };
        let before = self.dump();
        if all_later {
            self.sim.fail_allocation_after(number);
        } else {
            self.sim.fail_kth(number);
        }
        let result = call(self).map_err(Into::into);
        self.sim.fail_never();
        match result {
            Err(Refusal::OutOfFrames) => {
                self.exhausted += 1;
                let after = self.dump();
                assert_eq!(after, before, "request {number} was refused, and not everything is as before");
                call(self).map_err(Into::into)
            }
            other => other,
        }
    }

    /// Everything that can be observed.
    fn dump(&self) -> String {
        let mut text = String::new();
        for (space, _) in self.spaces.iter().flatten() {
            writeln!(text, "{}\n{}", SpaceMap(space), SpaceTables(space)).unwrap();
            writeln!(text, "{:?} {:?}", space.limits(), space.counters()).unwrap();
        }
        for (area, content) in self.areas.iter().flatten() {
            let pages = 0..self.model.contents[*content].pages;
            let pages: Vec<_> = pages.map(|page| (area.frame_at(page * PAGE), area.page_state(page * PAGE))).collect();
            let (size, resident, windows) = (area.size(), area.resident_pages(), area.windows());
            writeln!(text, "{:?}: {size:#x} {resident} {windows} {pages:?}", area.kind()).unwrap();
            writeln!(text, "{} {}", area.pinned_pages(), area.memory()).unwrap();
        }
        let counts = self.sim.frame_counts();
        writeln!(text, "{} pages, {} tables", counts.of(FrameUse::Page), counts.of(FrameUse::Table)).unwrap();
        text
    }

    /// A change was made: its effect lasts until its flush is acknowledged, now or later.
    pub(crate) fn finish<T>(&mut self, flush: Flush<Sim<M>, T>, effect: Effect, outcome: impl FnOnce(T) -> Outcome<M>) {
        let number = self.model.number();
        self.model.effects.insert(number, effect);
        let flush = flush.map(outcome);
        if self.late {
            self.outstanding.push((number, flush.detach()));
        } else {
            let outcome = flush.complete();
            self.settle(number, outcome);
        }
    }

    pub(crate) fn finish_quietly(&mut self, flush: Flush<Sim<M>, ()>, effect: Effect) {
        self.finish(flush, effect, |()| Outcome::Nothing);
    }

    fn settle(&mut self, number: u64, outcome: Outcome<M>) {
        self.model.acknowledge(number);
        match outcome {
            Outcome::Nothing => {}
            Outcome::Space(slot, number, space) => {
                if self.spaces[slot].is_none() {
                    self.spaces[slot] = Some((space, number));
                } else {
                    drop(space);
                    self.model.spaces[number].pages.clear();
                }
            }
            Outcome::Area(slot, content, area) => {
                self.drop_area(slot);
                self.areas[slot] = Some((area, content));
            }
            Outcome::Pin(pinned) => self.pins.push(pinned),
            Outcome::WriteBack(one) => self.write_backs.push(one),
        }
    }

    pub(crate) fn acknowledge(&mut self, which: usize) {
        if self.outstanding.is_empty() {
            return;
        }
        let (number, flush) = self.outstanding.remove(which % self.outstanding.len());
        self.sim.apply(flush.request());
        // SAFETY: every CPU that it names has flushed.
        let outcome = unsafe { flush.acknowledged() };
        self.settle(number, outcome);
    }

    pub(crate) fn drop_area(&mut self, slot: usize) {
        if let Some((area, content)) = self.areas[slot].take() {
            drop(area);
            self.model.contents[content].handles -= 1;
        }
    }

    pub(crate) fn new_space(&mut self, slot: usize) {
        if self.spaces[slot].is_none() {
            let made = self.call(|world| Space::user(world.kernel.as_ref().unwrap(), ()));
            self.model.spaces.push(SpaceModel::default());
            self.spaces[slot] = Some((made.unwrap(), self.model.spaces.len() - 1));
        }
    }

    pub(crate) fn destroy(&mut self, space: usize) {
        let Some((slot, number)) = self.pick_space(space) else { return };
        let (space, _) = self.spaces[slot].take().unwrap();
        let is_active = self.loaded.contains(&Some(slot));
        match space.destroy() {
            Ok(flush) => {
                assert!(!is_active);
                let bounds = self.bounds.clone();
                let mut effect = self.gate(number, bounds);
                effect.stale.clear();
                self.finish_quietly(flush, effect);
            }
            Err((space, error)) => {
                assert!(is_active && error == SpaceError::Active);
                self.spaces[slot] = Some((space, number));
            }
        }
    }

    /// What the pages show is unmapped, in the model.
    pub(crate) fn gate(&mut self, number: usize, pages: Range<u64>) -> Effect {
        let mut effect = Effect::default();
        for window in self.model.spaces[number].windows() {
            let part = window.first.max(pages.start)..window.end().min(pages.end);
            if part.is_empty() {
                continue;
            }
            let gate = self.model.number();
            if window.shown.gate.is_none() {
                effect.gates.push((number, gate));
            }
            for page in part {
                let shown = self.model.spaces[number].pages.get_mut(&page).unwrap();
                let had = if shown.gate.is_none() { shown.access } else { Access::empty() };
                effect.stale.push(Stale { space: number, page, had, keeps: Access::empty() });
                if shown.gate.is_none() {
                    (shown.gate, shown.guard) = (Some(gate), false);
                    let content = &mut self.model.contents[shown.content];
                    if content.is_untracked() {
                        content.lose(shown.page..shown.page + 1);
                    }
                }
            }
        }
        effect
    }

    pub(crate) fn enter(&mut self, cpu: usize, space: usize) {
        self.leave(cpu);
        if let Some((slot, _)) = self.pick_space(space) {
            self.sim.activate(cpu, &self.space(slot).activate(cpu));
            self.loaded[cpu] = Some(slot);
        }
    }

    pub(crate) fn leave(&mut self, cpu: usize) {
        let Some(slot) = self.loaded[cpu].take() else { return };
        self.sim.activate(cpu, &self.kernel.as_ref().unwrap().activate(cpu));
        // SAFETY: another root is loaded, and activations are carried out.
        unsafe { self.space(slot).deactivate(cpu) };
    }

    pub(crate) fn step(&mut self, step: &Step) {
        (self.late, self.refused) = (step.late, step.refused);
        self.sim.begin_change(format!("{step:?}"));
        CPU.with(|current| current.set(0));
        match step.operation {
            Operation::NewArea { slot, kind, pages } => self.new_area(slot, kind, pages),
            Operation::DropArea { slot } => self.drop_area(slot),
            Operation::NewSpace { slot } => self.new_space(slot),
            Operation::Destroy { space } => self.destroy(space),
            Operation::Clone { from, to } => self.clone_space(from, to),
            Operation::Snapshot { from, to } => self.snapshot(from, to),
            Operation::Enter { cpu, space } => self.enter(cpu, space),
            Operation::Leave { cpu } => self.leave(cpu),
            Operation::Map { space, mapping } => self.map(space, mapping),
            Operation::MapMany { space, ref mappings } => self.map_many(space, mappings),
            Operation::Anonymous { space, to, pages, access, inherit } => {
                self.anonymous(space, to, pages, access, inherit);
            }
            Operation::Unmap(pages) => self.unmap(pages),
            Operation::Protect { pages, access } => self.protect(pages, access),
            Operation::Relocate { pages, size, how, to } => self.relocate(pages, size, how, to),
            Operation::Advise { pages, advice } => self.advise(pages, advice),
            Operation::Guard { pages, install } => self.guard(pages, install),
            Operation::Seal(pages) => self.seal(pages),
            Operation::Lock { pages, lock } => self.lock(pages, lock),
            Operation::Limits { space, windows, pages } => self.limit(space, windows, pages),
            Operation::ForbidWriteExecute { space } => self.forbid_write_execute(space),
            Operation::Populate { pages, access } => self.populate(pages, access),
            Operation::Resize { area, pages } => self.resize(area, pages),
            Operation::TakeSection { area } => self.take_section(area),
            Operation::GiveSection { area, section } => self.give_section(area, section),
            Operation::Write { area, page, word, across } => self.write(area, page, word, across),
            Operation::Read(part) => self.read(part),
            Operation::Pin(part) => self.pin(part),
            Operation::Unpin { which } => self.unpin(which),
            Operation::SetMemory { area, combining } => self.set_memory(area, combining),
            Operation::Ask(part) => self.ask(part),
            Operation::Supply { which, page, count } => self.supply(which, page, count),
            Operation::Fail { which, cancel } => self.fail(which, cancel),
            Operation::Retry(part) => self.retry(part),
            Operation::BeginWriteBack(part) => self.begin_write_back(part),
            Operation::EndWriteBack { which, written } => self.end_write_back(which, written),
            Operation::Evict(part) => self.evict(part),
            Operation::Access { cpu, page, access, word } => self.access(cpu, page, access, word),
            Operation::Prefetch { cpu, page } => {
                if let Some(slot) = self.loaded[cpu] {
                    let number = self.spaces[slot].as_ref().unwrap().1;
                    self.sim.prefetch(cpu, at(self.pick_page(number, page)));
                }
            }
            Operation::Acknowledge { which } => self.acknowledge(which),
        }
        if step.late {
            self.probe();
        }
        self.check();
    }

    /// Compares everything that can be asked.
    fn check(&self) {
        self.sim.assert_no_violation();
        for (space, number) in self.spaces.iter().flatten() {
            let model = &self.model.spaces[*number];
            let mut windows = space.windows();
            let expected = model.windows();
            for window in &expected {
                let content = &self.model.contents[window.shown.content];
                let info = windows.next().unwrap_or_else(|| panic!("{window:?} is missing"));
                let shown = window.shown;
                let attributes = (info.access, info.inherit, info.flags, info.gated, info.offset);
                let wanted = (shown.access, shown.inherit, shown.flags, shown.gate.is_some(), shown.page * PAGE);
                assert_eq!((info.range, attributes), (self.range(window.first, window.count), wanted), "{window:?}");
                assert_eq!(info.kind, Some(content.kind_with_size()), "{info}");
                if !content.is_untracked() {
                    let pages = shown.page..shown.page + window.count;
                    assert!(resident(content, pages).contains(&info.resident_pages), "{info}, expected {window:?}");
                } else {
                    assert_eq!(info.resident_pages, 0);
                }
            }
            assert_eq!(windows.next(), None, "a window too many");
            let counters = space.counters();
            assert_eq!((counters.windows, counters.reserved), (expected.len(), model.pages.len() as u64 * PAGE));
        }
        for (area, number) in self.areas.iter().flatten() {
            let content = &self.model.contents[*number];
            assert_eq!((area.size(), area.memory()), (content.pages * PAGE, content.memory));
            assert_eq!(area.windows(), self.model.views(*number).len(), "windows of the area");
            if !content.is_fixed() {
                assert_eq!(area.pinned_pages(), content.pins.len() as u64, "pinned pages");
            }
            for page in 0..if content.is_paged() { content.pages } else { 0 } {
                let expected = match content.paged.get(&page) {
                    None => PageState::Absent,
                    Some(PagedPage::Requested(token)) => PageState::Requested(vmcore::vm_area::RequestToken(*token)),
                    Some(PagedPage::Failed) => PageState::Failed,
                    Some(PagedPage::Here { writing: true, dirty, .. }) => PageState::WritingBack { dirty: *dirty },
                    Some(PagedPage::Here { evicting: true, .. }) => PageState::Evicting,
                    Some(PagedPage::Here { dirty: true, .. }) => PageState::Dirty,
                    Some(PagedPage::Here { .. }) => PageState::Clean,
                };
                assert_eq!(area.page_state(page * PAGE), Some(expected), "page {page}");
            }
        }
        if self.outstanding.is_empty() {
            self.sim.check_translations();
        }
    }

    /// Ends it: everything is acknowledged, read once more byte by byte, dropped in an order that the case decides, and every frame is
    /// back.
    pub(crate) fn end(mut self, spaces_first: bool) {
        (self.late, self.refused) = (false, None);
        while !self.outstanding.is_empty() {
            self.acknowledge(0);
            self.check();
        }
        for slot in 0..SPACES {
            let Some((_, number)) = self.spaces[slot] else { continue };
            self.leave(0);
            self.sim.activate(0, &self.space(slot).activate(0));
            self.loaded[0] = Some(slot);
            for page in self.model.spaces[number].pages.keys().copied().collect::<Vec<_>>() {
                self.read_page(0, page);
            }
        }
        for area in 0..AREAS {
            if let Some((_, content)) = &self.areas[area] {
                for page in 0..self.model.contents[*content].pages {
                    self.read_part(area, page, 1);
                }
            }
        }
        self.check();
        for cpu in 0..CPUS {
            self.leave(cpu);
        }
        for spaces in [spaces_first, !spaces_first] {
            if spaces {
                self.spaces = Default::default();
            } else {
                self.areas = Default::default();
                self.pins.clear();
                self.write_backs.clear();
            }
        }
        let kernel = self.kernel.take().unwrap();
        for cpu in 0..CPUS {
            self.sim.unload(cpu);
            // SAFETY: no root is loaded there any more.
            unsafe { kernel.deactivate(cpu) };
        }
        kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
        self.sim.assert_no_violation();
        assert_eq!(self.sim.frame_counts(), self.start, "frames are lost: {:?}", self.sim.machine().counters());
        assert_eq!(self.sim.machine().counters().refused_frees, 0);
    }
}

/// How many of these pages are resident: at least and at the most.
fn resident(content: &Content, pages: Range<u64>) -> std::ops::RangeInclusive<u64> {
    let count = |wanted: &[Resident]| pages.clone().filter(|page| wanted.contains(&content.resident(*page))).count();
    count(&[Resident::Yes]) as u64..=count(&[Resident::Yes, Resident::Maybe]) as u64
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
