//! Random operations on several spaces, areas and CPUs, against a naive model that knows windows page by page and the
//! bytes of every area. Every result, every error, every byte read, every list of windows and the balance of frames are
//! compared, and the simulated machine judges every translation.
//!
//! Some flushes are detached and acknowledged later. Until then a CPU may go on using what it remembers, the addresses
//! answer "retry", and the frames are not free.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{KERNEL_START, PAGE, World, at};
use proptest::prelude::*;
use vmcore::addr::{Frame, FrameRange, PageRange};
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, DetachedFlush, Flush, MemoryType, Mmu, X86_64};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, SectionLayout};
use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};
use vmcore::{Platform, RegistryError};

const CPUS: usize = 2;
/// The kernel's space and user spaces.
const SPACES: usize = 3;
const AREAS: usize = 4;
/// Pages that are addressed: two stretches, the second of which crosses a leaf table's end.
const PLACES: u64 = 24;
const DEVICE: u64 = 0x20_0000;
const DEVICE_PAGES: u64 = 16;

/// Who owns bytes: a page of an area, or a frame of the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Owner {
    Area(usize, u64),
    Frame(u64),
}

#[derive(Clone, Debug)]
enum Op {
    NewArea { slot: usize, kind: u8, pages: u64 },
    DropArea { slot: usize },
    NewSpace { slot: usize },
    DestroySpace { slot: usize, how: How },
    Enter { cpu: usize, space: usize },
    Map { space: usize, area: usize, place: Option<u64>, offset: u64, pages: u64, access: u8, populate: bool },
    Unmap { space: usize, place: u64, pages: u64, how: How },
    Touch { cpu: usize, kernel: bool, place: u64, offset: u16, access: u8, user: bool, value: u8 },
    Populate { space: usize, place: u64, pages: u64, access: u8 },
    Resize { area: usize, pages: u64, how: How },
    TakeSection { area: usize },
    GiveSection { area: usize, section: u32, how: How },
    Write { area: usize, page: u64, offset: u16, length: u16, value: u8 },
    Read { area: usize, page: u64, offset: u16, length: u16 },
    Prefetch { cpu: usize, kernel: bool, place: u64 },
    Acknowledge { which: usize },
}

/// What becomes of a flush value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Complete,
    Later,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![Just(How::Complete), Just(How::Later)]
}

/// Numbers are taken modulo what there is, so that most operations meet something.
fn op() -> impl Strategy<Value = Op> {
    let place = 0..0x100_u64;
    prop_oneof![
        3 => (0..AREAS, 0..6_u8, 1..10_u64).prop_map(|(slot, kind, pages)| Op::NewArea { slot, kind, pages }),
        1 => (0..AREAS).prop_map(|slot| Op::DropArea { slot }),
        2 => (1..SPACES).prop_map(|slot| Op::NewSpace { slot }),
        1 => (1..SPACES, how()).prop_map(|(slot, how)| Op::DestroySpace { slot, how }),
        4 => (0..CPUS, 0..6_usize).prop_map(|(cpu, space)| Op::Enter { cpu, space }),
        8 => (0..6_usize, 0..AREAS, prop::option::weighted(0.7, place.clone()), 0..3_u64, 0..6_u64, 0..4_u8,
               prop::bool::weighted(0.3))
            .prop_map(|(space, area, place, offset, pages, access, populate)| {
                Op::Map { space, area, place, offset, pages, access, populate }
            }),
        5 => (0..6_usize, place.clone(), 1..5_u64, how())
            .prop_map(|(space, place, pages, how)| Op::Unmap { space, place, pages, how }),
        24 => (0..CPUS, prop::bool::weighted(0.3), place.clone(), 0..0x1000_u16, 0..3_u8, any::<bool>(), any::<u8>())
            .prop_map(|(cpu, kernel, place, offset, access, user, value)| {
                Op::Touch { cpu, kernel, place, offset, access, user, value }
            }),
        4 => (0..6_usize, place.clone(), 1..5_u64, 0..4_u8)
            .prop_map(|(space, place, pages, access)| Op::Populate { space, place, pages, access }),
        4 => (0..AREAS, 0..12_u64, how()).prop_map(|(area, pages, how)| Op::Resize { area, pages, how }),
        3 => (0..AREAS).prop_map(|area| Op::TakeSection { area }),
        2 => (0..AREAS, 0..4_u32, how()).prop_map(|(area, section, how)| Op::GiveSection { area, section, how }),
        4 => (0..AREAS, 0..8_u64, 0..0x1000_u16, 0..0x1800_u16, any::<u8>())
            .prop_map(|(area, page, offset, length, value)| Op::Write { area, page, offset, length, value }),
        4 => (0..AREAS, 0..8_u64, 0..0x1000_u16, 0..0x1800_u16)
            .prop_map(|(area, page, offset, length)| Op::Read { area, page, offset, length }),
        4 => (0..CPUS, any::<bool>(), place).prop_map(|(cpu, kernel, place)| Op::Prefetch { cpu, kernel, place }),
        4 => (0..8_usize).prop_map(|which| Op::Acknowledge { which }),
    ]
}

fn window_access(code: u8) -> Access {
    [Access::READ, Access::KERNEL_DATA, Access::READ | Access::EXECUTE, Access::KERNEL_DATA | Access::EXECUTE]
        [usize::from(code) % 4]
}

/// An area as the model sees it. Its number is never used again.
struct ModelArea {
    handle: Option<Area<Sim>>,
    kind: AreaKind,
    pages: u64,
    resident: BTreeSet<u64>,
    sections: Vec<Section>,
    /// In which order sections are handed out: the one that came back last first.
    free_sections: Vec<u32>,
    /// Outstanding flushes of what it gave up.
    returning: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    Free,
    Out,
    Returning,
}

enum PageState {
    There,
    Guard,
    Outside,
}

impl ModelArea {
    fn layout(&self) -> Option<SectionLayout> {
        match self.kind {
            AreaKind::Guarded(layout) => Some(layout),
            _ => None,
        }
    }

    fn page(&self, page: u64) -> PageState {
        if page >= self.pages {
            return PageState::Outside;
        }
        let Some(layout) = self.layout() else { return PageState::There };
        // Drawn anew, rather than computed as the library does: guards, section, guards, section, ..., guards.
        let mut at = 0;
        for section in &self.sections {
            if page < at + u64::from(layout.guard) {
                return PageState::Guard;
            }
            at += u64::from(layout.guard);
            if page < at + u64::from(layout.pages) {
                return if *section == Section::Out { PageState::There } else { PageState::Guard };
            }
            at += u64::from(layout.pages);
        }
        PageState::Guard
    }

    fn section_pages(&self, section: u32) -> std::ops::Range<u64> {
        let layout = self.layout().unwrap();
        let first = u64::from(layout.guard) + u64::from(section) * u64::from(layout.guard + layout.pages);
        first..first + u64::from(layout.pages)
    }

    fn is_untracked(&self) -> bool {
        matches!(self.kind, AreaKind::Untracked { .. })
    }

    fn is_fixed(&self) -> bool {
        matches!(self.kind, AreaKind::Fixed { .. })
    }
}

/// What a page of a space shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shown {
    window: usize,
    area: usize,
    page: u64,
    access: Access,
    gated: bool,
}

struct ModelSpace {
    space: Option<Space<Sim>>,
    number: usize,
    pages: BTreeMap<u64, Shown>,
}

/// A flush that is not acknowledged yet, and what becomes true with it.
struct Outstanding {
    flush: DetachedFlush<Sim, ()>,
    effect: Effect,
}

#[derive(Default)]
struct Effect {
    /// Gated windows: the number of their space, theirs, and the area's.
    windows: Vec<(usize, usize, usize)>,
    /// The area that gave something up, and the section that comes back.
    returning: Option<(usize, Option<u32>)>,
    /// Frames of pages that are free afterwards.
    frames: u64,
}

struct Model {
    world: World,
    /// The kernel's is number 0, whose handle is the world's.
    spaces: Vec<ModelSpace>,
    areas: BTreeMap<usize, ModelArea>,
    slots: [Option<usize>; AREAS],
    bytes: BTreeMap<Owner, BTreeMap<u16, u8>>,
    outstanding: Vec<Outstanding>,
    entered: [Option<usize>; CPUS],
    next: usize,
}

/// Copies of what must be looked at while the model changes.
fn page_range(start: u64, pages: u64) -> PageRange {
    vmcore::paging::X86_64::new(40).range(start * PAGE, pages * PAGE).unwrap()
}

impl Model {
    /// With tags, CPUs keep what they remember of a space that they leave.
    fn new(tags: bool) -> Self {
        let device = FrameRange::new(Frame::new(DEVICE), DEVICE_PAGES).unwrap();
        let world = World::of(
            Sim::of(if tags { X86_64::new(40).pcid() } else { X86_64::new(40) }).frames(512).cpus(CPUS).device(device),
        );
        let empty = |number| ModelSpace { space: None, number, pages: BTreeMap::new() };
        Self {
            world,
            spaces: (0..SPACES).map(empty).collect(),
            areas: BTreeMap::new(),
            slots: [None; AREAS],
            bytes: BTreeMap::new(),
            outstanding: Vec::new(),
            entered: [None; CPUS],
            next: SPACES,
        }
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn space(&self, slot: usize) -> Option<&Space<Sim>> {
        if slot == 0 { Some(self.world.kernel()) } else { self.spaces[slot].space.as_ref() }
    }

    /// The page number of a place in a space.
    fn page_at(slot: usize, place: u64) -> u64 {
        let low = if slot == 0 { KERNEL_START / PAGE } else { 0 };
        // User spaces begin at page 1: place 0 is below the lowest address.
        low + if place < 12 { place } else { 0x1fa + (place - 12) }
    }

    /// A page of a space, most often one that is shown.
    fn pick_page(&self, slot: usize, place: u64) -> u64 {
        let shown = &self.spaces[slot].pages;
        match shown.keys().nth((place / 5) as usize % shown.len().max(1)) {
            Some(page) if place % 5 != 0 => *page,
            _ => Self::page_at(slot, place / 5 % PLACES),
        }
    }

    /// A slot whose area exists.
    fn pick_area(&self, number: usize) -> Option<usize> {
        let there: Vec<usize> = (0..AREAS).filter(|slot| self.slots[*slot].is_some()).collect();
        there.get(number % there.len().max(1)).copied()
    }

    /// A slot whose space exists.
    fn pick_space(&self, number: usize) -> usize {
        let there: Vec<usize> = (0..SPACES).filter(|slot| self.space(*slot).is_some()).collect();
        there[number % there.len()]
    }

    fn lowest(slot: usize) -> u64 {
        if slot == 0 { KERNEL_START / PAGE } else { 1 }
    }

    fn owner(&self, area: usize, page: u64) -> Owner {
        match self.areas[&area].kind {
            AreaKind::Fixed { frames, .. } => Owner::Frame(frames.first().number() + page),
            _ => Owner::Area(area, page),
        }
    }

    fn byte(&self, owner: Owner, offset: u16) -> u8 {
        self.bytes.get(&owner).and_then(|bytes| bytes.get(&offset)).copied().unwrap_or(0)
    }

    /// The pages of the window that a page belongs to.
    fn window_range(&self, slot: usize, page: u64) -> (u64, u64) {
        let pages = &self.spaces[slot].pages;
        let window = pages[&page].window;
        let first = pages.iter().find(|(_, shown)| shown.window == window).map(|(page, _)| *page).unwrap();
        let count = pages.values().filter(|shown| shown.window == window).count() as u64;
        (first, count)
    }

    fn view_count(&self, area: usize) -> usize {
        let mut windows = BTreeSet::new();
        for space in &self.spaces {
            windows.extend(space.pages.values().filter(|shown| shown.area == area).map(|shown| shown.window));
        }
        for outstanding in &self.outstanding {
            let gated = outstanding.effect.windows.iter().filter(|(_, _, of)| *of == area);
            windows.extend(gated.map(|(_, window, _)| *window));
        }
        windows.len()
    }

    /// Forgets an area that nothing refers to any more.
    fn collect(&mut self, area: usize) {
        let Some(found) = self.areas.get(&area) else { return };
        if found.handle.is_none() && found.returning == 0 && self.view_count(area) == 0 {
            self.areas.remove(&area);
            self.bytes.retain(|owner, _| !matches!(owner, Owner::Area(of, _) if *of == area));
        }
    }

    fn finish_flush(&mut self, flush: Flush<Sim, ()>, effect: Effect, how: How) {
        match how {
            How::Complete => {
                flush.complete();
                self.apply(effect);
            }
            How::Later => self.outstanding.push(Outstanding { flush: flush.detach(), effect }),
        }
    }

    fn apply(&mut self, effect: Effect) {
        let mut touched = BTreeSet::new();
        for (space, window, area) in effect.windows {
            if let Some(space) = self.spaces.iter_mut().find(|candidate| candidate.number == space) {
                space.pages.retain(|_, shown| shown.window != window);
            }
            touched.insert(area);
        }
        if let Some((area, section)) = effect.returning {
            let found = self.areas.get_mut(&area).unwrap();
            found.returning -= 1;
            if let Some(section) = section {
                found.sections[section as usize] = Section::Free;
                found.free_sections.push(section);
            }
            touched.insert(area);
        }
        for area in touched {
            self.collect(area);
        }
    }

    fn acknowledge(&mut self, which: usize) {
        if self.outstanding.is_empty() {
            return;
        }
        let Outstanding { flush, effect } = self.outstanding.remove(which % self.outstanding.len());
        self.world.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() };
        self.apply(effect);
    }

    fn step(&mut self, op: &Op) {
        self.world.sim.begin_change(format!("{op:?}"));
        match *op {
            Op::NewArea { slot, kind, pages } => self.new_area(slot, kind, pages),
            Op::DropArea { slot } => self.drop_area(slot),
            Op::NewSpace { slot } => {
                if self.spaces[slot].space.is_none() {
                    let number = self.number();
                    let space = Some(self.world.user());
                    self.spaces[slot] = ModelSpace { space, number, pages: BTreeMap::new() };
                }
            }
            Op::DestroySpace { slot, how } => self.destroy(slot, how),
            Op::Enter { cpu, space } => self.enter(cpu, self.pick_space(space)),
            Op::Map { space, area, place, offset, pages, access, populate } => {
                let place = place.map(|place| place % PLACES);
                self.map(self.pick_space(space), area, place, offset, pages, window_access(access), populate);
            }
            Op::Unmap { space, place, pages, how } => self.unmap(self.pick_space(space), place, pages, how),
            Op::Touch { cpu, kernel, place, offset, access, user, value } => {
                let access = [Access::READ, Access::KERNEL_DATA, Access::READ | Access::EXECUTE][usize::from(access)];
                let access = if user { access | Access::USER } else { access };
                self.touch(cpu, kernel, place, offset, access, value);
            }
            Op::Populate { space, place, pages, access } => {
                self.populate(self.pick_space(space), place, pages, window_access(access));
            }
            Op::Resize { area, pages, how } => self.resize(area, pages, how),
            Op::TakeSection { area } => self.take_section(area),
            Op::GiveSection { area, section, how } => self.give_section(area, section, how),
            Op::Write { area, page, offset, length, value } => self.write(area, page, offset, length, value),
            Op::Read { area, page, offset, length } => self.read(area, page, offset, length),
            Op::Prefetch { cpu, kernel, place } => {
                let slot = if kernel { 0 } else { self.entered[cpu].unwrap_or(0) };
                let page = self.pick_page(slot, place);
                self.world.sim.prefetch(cpu, at(page * PAGE));
            }
            Op::Acknowledge { which } => self.acknowledge(which),
        }
        self.check();
    }

    fn new_area(&mut self, slot: usize, kind: u8, pages: u64) {
        if self.slots[slot].is_some() {
            return;
        }
        let size = pages * PAGE;
        let fixed = |memory| AreaKind::Fixed {
            frames: FrameRange::new(Frame::new(DEVICE + pages % 3), pages).unwrap(),
            memory,
        };
        let kind = match kind {
            0 | 1 => AreaKind::Open { size },
            2 => AreaKind::Guarded(SectionLayout {
                pages: (pages as u32).div_ceil(3),
                guard: 1 + pages as u32 % 2,
                count: 3,
            }),
            3 => AreaKind::Untracked { size },
            4 => fixed(MemoryType::WriteBack),
            _ => fixed(MemoryType::WriteCombining),
        };
        let refused = self.areas.values().any(|area| match (area.kind, kind) {
            (AreaKind::Fixed { frames, memory }, AreaKind::Fixed { frames: new, memory: wanted }) => {
                frames.overlaps(new) && memory != wanted
            }
            _ => false,
        });
        let area = match common::area(&self.world.sim, kind) {
            Err(AreaError::Registry(RegistryError::Conflict { .. })) => {
                return assert!(refused, "nothing maps these frames with another memory type");
            }
            other => other.unwrap(),
        };
        assert!(!refused, "frames are aliased with two memory types");
        let count = match kind {
            AreaKind::Guarded(layout) => layout.count,
            _ => 0,
        };
        let pages = match kind {
            AreaKind::Guarded(layout) => {
                u64::from(layout.count * (layout.pages + layout.guard)) + u64::from(layout.guard)
            }
            _ => pages,
        };
        let number = self.number();
        self.slots[slot] = Some(number);
        let model = ModelArea {
            handle: Some(area),
            kind,
            pages,
            resident: BTreeSet::new(),
            sections: vec![Section::Free; count as usize],
            free_sections: (0..count).rev().collect(),
            returning: 0,
        };
        self.areas.insert(number, model);
    }

    fn drop_area(&mut self, slot: usize) {
        if let Some(number) = self.slots[slot].take() {
            self.areas.get_mut(&number).unwrap().handle = None;
            self.collect(number);
        }
    }

    /// Every live window of the space becomes gated, or (`remove`) leaves the model's space with it.
    fn destroy(&mut self, slot: usize, how: How) {
        let Some(space) = self.spaces[slot].space.take() else { return };
        if self.entered.contains(&Some(slot)) {
            match space.destroy() {
                Err((space, SpaceError::Active)) => self.spaces[slot].space = Some(space),
                other => panic!("an active space was destroyed: {:?}", other.map_err(|(_, error)| error)),
            }
            return;
        }
        let number = self.number();
        let gone =
            std::mem::replace(&mut self.spaces[slot], ModelSpace { space: None, number, pages: BTreeMap::new() });
        let mut effect = Effect::default();
        let live: BTreeMap<usize, usize> =
            gone.pages.values().filter(|shown| !shown.gated).map(|shown| (shown.window, shown.area)).collect();
        effect.windows.extend(live.into_iter().map(|(window, area)| (gone.number, window, area)));
        for shown in gone.pages.values().filter(|shown| !shown.gated) {
            effect.frames += self.lose_untracked(shown.area, shown.page);
        }
        let flush = space.destroy().map_err(|(_, error)| error).unwrap();
        self.finish_flush(flush, effect, how);
    }

    /// The page of an untracked area is known to nothing but a table, which lets go of it: how many frames it had.
    fn lose_untracked(&mut self, area: usize, page: u64) -> u64 {
        let found = self.areas.get_mut(&area).unwrap();
        if found.is_untracked() && found.resident.remove(&page) {
            self.bytes.remove(&Owner::Area(area, page));
            return 1;
        }
        0
    }

    fn enter(&mut self, cpu: usize, slot: usize) {
        let to = if slot != 0 && self.spaces[slot].space.is_some() { Some(slot) } else { None };
        let from = self.entered[cpu];
        if from == to {
            return;
        }
        match to {
            Some(to) => self.world.enter(cpu, self.spaces[to].space.as_ref().unwrap()),
            None => self.world.enter(cpu, self.world.kernel()),
        }
        if let Some(from) = from {
            common::forget(cpu, self.spaces[from].space.as_ref().unwrap());
        }
        self.entered[cpu] = to;
    }

    #[allow(clippy::too_many_arguments, reason = "one for each of the request's")]
    fn map(
        &mut self,
        slot: usize,
        area: usize,
        place: Option<u64>,
        offset: u64,
        pages: u64,
        access: Access,
        populate: bool,
    ) {
        let Some(number) = self.pick_area(area).and_then(|slot| self.slots[slot]) else { return };
        if self.space(slot).is_none() {
            return;
        }
        let found = &self.areas[&number];
        let mut request = MapRequest::new(found.handle.as_ref().unwrap()).offset(offset * PAGE).access(access);
        let count = if pages == 0 { found.pages.saturating_sub(offset) } else { pages };
        if pages != 0 {
            request = request.size(pages * PAGE);
        }
        if let Some(place) = place {
            request = request.at(Self::page_at(slot, place) * PAGE);
        }
        if populate {
            request = request.populated();
        }
        let result = self.space(slot).unwrap().map(&request);
        let expected = self.expect_map(slot, number, place, offset, count, populate);
        match (&result, &expected) {
            (Ok(range), Ok(first)) => assert_eq!(*range, page_range(*first, count)),
            (Err(error), Err(text)) => assert_eq!(error_text(error), *text),
            _ => panic!("map gave {result:?}, expected {expected:?}"),
        }
        let Ok(first) = expected else { return };
        let window = self.number();
        let access = if slot == 0 { access } else { access | Access::USER };
        for step in 0..count {
            let shown = Shown { window, area: number, page: offset + step, access, gated: false };
            self.spaces[slot].pages.insert(first + step, shown);
            if populate {
                self.make_resident(number, offset + step);
            }
        }
        self.join(slot, first);
        self.join(slot, first + count);
    }

    /// Windows side by side that carry one another on are one.
    fn join(&mut self, slot: usize, border: u64) {
        let pages = &mut self.spaces[slot].pages;
        let (Some(low), Some(high)) = (pages.get(&(border - 1)).copied(), pages.get(&border).copied()) else { return };
        let (stays, goes) = (low.window, high.window);
        if (Shown { window: goes, page: low.page + 1, ..low }) == high && !low.gated {
            for shown in pages.values_mut().filter(|shown| shown.window == goes) {
                shown.window = stays;
            }
        }
    }

    fn make_resident(&mut self, area: usize, page: u64) {
        let found = self.areas.get_mut(&area).unwrap();
        if !found.is_fixed() {
            found.resident.insert(page);
        }
    }

    fn expect_map(
        &self,
        slot: usize,
        area: usize,
        place: Option<u64>,
        offset: u64,
        count: u64,
        populate: bool,
    ) -> Result<u64, String> {
        let found = &self.areas[&area];
        if count == 0 {
            return Err("range".into());
        }
        if offset + count > found.pages {
            return Err("area outside".into());
        }
        let shown = &self.spaces[slot].pages;
        let first = match place {
            Some(place) => {
                let first = Self::page_at(slot, place);
                if first < Self::lowest(slot) {
                    return Err("range".into());
                }
                if let Some((page, taken)) = shown.range(first..first + count).next() {
                    let (start, pages) = self.window_range(slot, *page);
                    return Err(if taken.gated {
                        format!("retry {:#x}", start * PAGE)
                    } else {
                        format!("conflict {:?}", page_range(start, pages))
                    });
                }
                first
            }
            None => {
                let mut first = Self::lowest(slot);
                while let Some((page, _)) = shown.range(first..first + count).next_back() {
                    first = page + 1;
                }
                first
            }
        };
        if found.is_untracked() && self.view_count(area) != 0 {
            return Err("single window".into());
        }
        if populate {
            for step in 0..count {
                if let PageState::Guard = found.page(offset + step) {
                    return Err(format!("guard {:#x}", (first + step) * PAGE));
                }
            }
        }
        Ok(first)
    }

    fn unmap(&mut self, slot: usize, place: u64, count: u64, how: How) {
        let first = self.pick_page(slot, place);
        let Some(space) = self.space(slot) else { return };
        let Ok(range) = self.world.sim.machine().mmu().range(first * PAGE, count * PAGE) else { return };
        let result = space.unmap(range);
        if first < Self::lowest(slot) {
            return assert!(matches!(result, Err(SpaceError::Range(_))), "{result:?}");
        }
        let flush = result.unwrap();
        let mut effect = Effect::default();
        let number = self.spaces[slot].number;
        let mut cut = BTreeMap::<usize, (usize, usize)>::new();
        let live: Vec<(u64, Shown)> = self.spaces[slot]
            .pages
            .range(first..first + count)
            .filter(|(_, shown)| !shown.gated)
            .map(|(page, shown)| (*page, *shown))
            .collect();
        for (page, shown) in live {
            // The part that goes and the part after it become windows of their own.
            let names = match cut.get(&shown.window) {
                Some(names) => *names,
                None => {
                    let names = (self.number(), self.number());
                    cut.insert(shown.window, names);
                    names
                }
            };
            effect.frames += self.lose_untracked(shown.area, shown.page);
            if !effect.windows.contains(&(number, names.0, shown.area)) {
                effect.windows.push((number, names.0, shown.area));
            }
            self.spaces[slot].pages.insert(page, Shown { window: names.0, gated: true, ..shown });
        }
        for (page, shown) in self.spaces[slot].pages.range_mut(first + count..) {
            let _ = page;
            if let Some(names) = cut.get(&shown.window) {
                shown.window = names.1;
            }
        }
        let gone = common::is_gone_at_once(self.space(slot).unwrap(), range, flush.request());
        self.finish_flush(flush, effect, if gone { How::Complete } else { how });
    }

    /// What the space's fault handler is expected to answer, or (not `by_handler`) the hardware to permit.
    fn expect_fault(
        &self,
        slot: usize,
        page: u64,
        address: u64,
        access: Access,
        by_handler: bool,
    ) -> Result<Shown, String> {
        let Some(shown) = self.spaces[slot].pages.get(&page) else { return Err(format!("no window {address:#x}")) };
        if shown.gated {
            return Err(format!("retry {address:#x}"));
        }
        // The handler never lets the kernel execute a program's page; the simulated hardware, without SMEP, does.
        let denied = by_handler && access.contains(Access::EXECUTE) && !access.contains(Access::USER) && slot != 0;
        if denied || !shown.access.contains(access) {
            return Err(format!("denied {address:#x} {access:?} {:?}", shown.access));
        }
        match self.areas[&shown.area].page(shown.page) {
            PageState::There => Ok(*shown),
            PageState::Guard => Err(format!("guard {address:#x}")),
            PageState::Outside => Err(format!("outside area {address:#x}")),
        }
    }

    fn touch(&mut self, cpu: usize, kernel: bool, place: u64, offset: u16, access: Access, value: u8) {
        let user_slot = self.entered[cpu].unwrap_or(0);
        let slot = if kernel || self.spaces[user_slot].pages.is_empty() { 0 } else { user_slot };
        // Programs that reach for the kernel are the exception.
        let access = if slot == 0 && place % 4 != 0 { access.difference(Access::USER) } else { access };
        let page = self.pick_page(slot, place);
        let address = page * PAGE + u64::from(offset);
        let sim = self.world.sim.clone();
        let user = access.contains(Access::USER);
        let mut byte = [value];
        let attempt = |byte: &mut [u8; 1]| {
            if access.contains(Access::WRITE) {
                sim.write(cpu, at(address), user, byte)
            } else if access.contains(Access::EXECUTE) {
                sim.execute(cpu, at(address), user).map(|_| ())
            } else {
                sim.read(cpu, at(address), user, byte)
            }
        };
        let mut done = false;
        for _ in 0..3 {
            let Err(fault) = attempt(&mut byte) else {
                done = true;
                break;
            };
            assert_eq!(fault.access, access);
            let expected = self.expect_fault(slot, page, address, access, true);
            let space = self.space(slot).unwrap();
            match (space.fault(Fault::new(address, access)), &expected) {
                (Ok(flush), Ok(shown)) => {
                    let _ = flush.complete();
                    self.make_resident(shown.area, shown.page);
                }
                (Err(error), Err(text)) => {
                    assert_eq!(error_text(&error), *text);
                    return;
                }
                (result, expected) => panic!("the fault gave {result:?}, expected {expected:?}"),
            }
        }
        assert!(done, "the fault at {address:#x} repeats");
        // What the CPU remembers may still be used where a flush is outstanding, and only there.
        let shown = match self.expect_fault(slot, page, address, access, false) {
            Ok(shown) => shown,
            Err(text) => {
                let Some(shown) = self.spaces[slot].pages.get(&page).copied() else {
                    panic!("an access to {address:#x} went through, where nothing is mapped");
                };
                assert!(shown.access.contains(access), "an access went through that is denied: {text}");
                let area = &self.areas[&shown.area];
                assert!(shown.gated || area.returning != 0, "an access went through after the flush: {text}");
                if area.is_untracked() || !matches!(area.page(shown.page), PageState::There) {
                    // It reached a frame that is quarantined: what it did there is nobody's.
                    return;
                }
                shown
            }
        };
        let owner = self.owner(shown.area, shown.page);
        if access.contains(Access::WRITE) {
            self.bytes.entry(owner).or_default().insert(offset, value);
        } else if !access.contains(Access::EXECUTE) {
            assert_eq!(byte[0], self.byte(owner, offset), "read at {address:#x}");
        }
    }

    fn populate(&mut self, slot: usize, place: u64, count: u64, access: Access) {
        let first = self.pick_page(slot, place);
        if first < Self::lowest(slot) {
            return;
        }
        let Some(space) = self.space(slot) else { return };
        let result = space.populate(page_range(first, count), access).map(Flush::complete);
        let mut expected = Ok(());
        let mut page = first;
        while page < first + count && expected.is_ok() {
            // Window by window: its state, its access, then every page of it.
            let Some(shown) = self.spaces[slot].pages.get(&page) else {
                expected = Err(format!("no window {:#x}", page * PAGE));
                break;
            };
            let (start, pages) = self.window_range(slot, page);
            let end = (start + pages).min(first + count);
            if shown.gated {
                expected = Err(format!("retry {:#x}", page * PAGE));
            } else if !shown.access.contains(access) {
                expected = Err(format!("denied {:#x} {access:?} {:?}", page * PAGE, shown.access));
            } else {
                let area = &self.areas[&shown.area];
                // The end of the area is looked at first.
                let outside = (0..end - page).find(|step| shown.page + step >= area.pages);
                let guard = (0..end - page).find(|step| matches!(area.page(shown.page + step), PageState::Guard));
                if let Some(step) = outside {
                    expected = Err(format!("outside area {:#x}", (page + step) * PAGE));
                } else if let Some(step) = guard {
                    expected = Err(format!("guard {:#x}", (page + step) * PAGE));
                }
            }
            page = end;
        }
        match (&result, &expected) {
            (Ok(()), Ok(())) => {
                for page in first..first + count {
                    let shown = self.spaces[slot].pages[&page];
                    self.make_resident(shown.area, shown.page);
                    let walk = self.space(slot).unwrap().walk(at(page * PAGE));
                    assert!(walk.access().contains(access), "populated for {access}, but:\n{walk}");
                }
            }
            (Err(error), Err(text)) => assert_eq!(error_text(error), *text),
            _ => panic!("populate gave {result:?}, expected {expected:?}"),
        }
    }

    fn resize(&mut self, area: usize, pages: u64, how: How) {
        let Some(number) = self.pick_area(area).and_then(|slot| self.slots[slot]) else { return };
        let found = self.areas.get_mut(&number).unwrap();
        let result = found.handle.as_ref().unwrap().resize(pages * PAGE);
        if !matches!(found.kind, AreaKind::Open { .. }) {
            return assert!(matches!(result, Err(AreaError::Kind)), "{result:?}");
        }
        if pages == 0 {
            return assert!(matches!(result, Err(AreaError::Size(0))), "{result:?}");
        }
        if pages >= found.pages && found.returning != 0 {
            return assert!(matches!(result, Err(AreaError::Retry)), "{result:?}");
        }
        let flush = result.unwrap();
        let mut effect = Effect::default();
        if pages < found.pages {
            found.returning += 1;
            effect.returning = Some((number, None));
        }
        let lost = found.resident.split_off(&pages);
        effect.frames = lost.len() as u64;
        found.pages = pages;
        for page in lost {
            self.bytes.remove(&Owner::Area(number, page));
        }
        self.finish_flush(flush, effect, how);
    }

    fn take_section(&mut self, area: usize) {
        let Some(number) = self.pick_area(area).and_then(|slot| self.slots[slot]) else { return };
        let found = self.areas.get_mut(&number).unwrap();
        let result = found.handle.as_ref().unwrap().take_section();
        if found.layout().is_none() {
            return assert_eq!(result, Err(AreaError::Kind));
        }
        let Some(section) = found.free_sections.pop() else { return assert_eq!(result, Err(AreaError::NoSection)) };
        found.sections[section as usize] = Section::Out;
        let pages = found.section_pages(section);
        let result = result.unwrap();
        let expected = (section, pages.start * PAGE, (pages.end - pages.start) * PAGE);
        assert_eq!((result.number, result.offset, result.size), expected);
    }

    fn give_section(&mut self, area: usize, section: u32, how: How) {
        let Some(number) = self.pick_area(area).and_then(|slot| self.slots[slot]) else { return };
        let found = self.areas.get_mut(&number).unwrap();
        let result = found.handle.as_ref().unwrap().give_section(section);
        if found.layout().is_none() {
            return assert!(matches!(result, Err(AreaError::Kind)), "{result:?}");
        }
        if found.sections.get(section as usize) != Some(&Section::Out) {
            return assert!(matches!(result, Err(AreaError::NotOut(_))), "{result:?}");
        }
        let flush = result.unwrap();
        found.sections[section as usize] = Section::Returning;
        found.returning += 1;
        let mut effect = Effect { returning: Some((number, Some(section))), ..Effect::default() };
        for page in found.section_pages(section) {
            if found.resident.remove(&page) {
                effect.frames += 1;
                self.bytes.remove(&Owner::Area(number, page));
            }
        }
        self.finish_flush(flush, effect, how);
    }

    /// What a direct copy is expected to answer.
    fn expect_copy(&self, number: usize, start: u64, length: u64) -> Result<(), &'static str> {
        let found = &self.areas[&number];
        if start + length > found.pages * PAGE {
            return Err("outside");
        }
        for page in start / PAGE..(start + length).div_ceil(PAGE) {
            if !matches!(found.page(page), PageState::There) {
                return Err("kind");
            }
        }
        if found.is_untracked() { Err("kind") } else { Ok(()) }
    }

    fn copied(&self, number: usize, start: u64, length: u64, result: Result<(), AreaError>) -> bool {
        let expected = self.expect_copy(number, start, length);
        match (result, expected) {
            (Ok(()), Ok(())) => true,
            (Err(AreaError::Outside { .. }), Err("outside")) | (Err(AreaError::Kind), Err("kind")) => false,
            (result, expected) => panic!("the copy gave {result:?}, expected {expected:?}"),
        }
    }

    fn write(&mut self, area: usize, page: u64, offset: u16, length: u16, value: u8) {
        let Some(number) = self.pick_area(area).and_then(|slot| self.slots[slot]) else { return };
        let start = page * PAGE + u64::from(offset);
        let bytes: Vec<u8> = (0..length).map(|index| value.wrapping_add(index as u8)).collect();
        let result = self.areas[&number].handle.as_ref().unwrap().write(start, &bytes).map(Flush::complete);
        if length == 0 {
            return assert_eq!(result, Ok(()));
        }
        if !self.copied(number, start, u64::from(length), result) {
            return;
        }
        for (at, byte) in (start..).zip(bytes) {
            self.make_resident(number, at / PAGE);
            let owner = self.owner(number, at / PAGE);
            self.bytes.entry(owner).or_default().insert((at % PAGE) as u16, byte);
        }
    }

    fn read(&mut self, area: usize, page: u64, offset: u16, length: u16) {
        let Some(number) = self.pick_area(area).and_then(|slot| self.slots[slot]) else { return };
        let start = page * PAGE + u64::from(offset);
        let mut bytes = vec![0x5a; usize::from(length)];
        let result = self.areas[&number].handle.as_ref().unwrap().read(start, &mut bytes);
        if length == 0 {
            return assert_eq!(result, Ok(()));
        }
        if !self.copied(number, start, u64::from(length), result) {
            return;
        }
        for (at, byte) in (start..).zip(bytes) {
            let owner = self.owner(number, at / PAGE);
            assert_eq!(byte, self.byte(owner, (at % PAGE) as u16), "byte {at:#x} of the area");
        }
    }

    /// Compares everything that can be asked.
    fn check(&self) {
        for slot in 0..SPACES {
            let Some(space) = self.space(slot) else { continue };
            self.check_windows(slot, space);
        }
        for (number, area) in &self.areas {
            let Some(handle) = &area.handle else { continue };
            let tracked = if area.is_untracked() { 0 } else { area.resident.len() as u64 };
            assert_eq!(handle.resident_pages(), tracked, "resident pages");
            assert_eq!(handle.size(), area.pages * PAGE);
            assert_eq!(handle.windows(), self.view_count(*number), "windows of the area");
        }
        let held: u64 = self.outstanding.iter().map(|outstanding| outstanding.effect.frames).sum();
        let resident: u64 = self.areas.values().map(|area| area.resident.len() as u64).sum();
        assert_eq!(self.world.sim.frame_counts().of(FrameUse::Page), held + resident, "frames of pages");
        if self.outstanding.is_empty() {
            self.world.sim.check_translations();
        }
    }

    fn check_windows(&self, slot: usize, space: &Space<Sim>) {
        let mut windows = space.windows();
        let mut page = None;
        while let Some((first, shown)) = self.spaces[slot].pages.range(page.unwrap_or(0)..).next() {
            let (start, count) = self.window_range(slot, *first);
            let area = &self.areas[&shown.area];
            let resident = match area.kind {
                AreaKind::Fixed { .. } => count,
                AreaKind::Untracked { .. } => 0,
                _ => area.resident.range(shown.page..shown.page + count).count() as u64,
            };
            let info = windows.next().expect("a window is missing");
            assert_eq!(info.range, page_range(start, count));
            assert_eq!(info.kind, Some(with_size(area.kind, area.pages)));
            assert_eq!((info.access, info.gated), (shown.access, shown.gated));
            assert_eq!((info.offset, info.resident_pages), (shown.page * PAGE, resident), "{info}");
            page = Some(start + count);
        }
        assert_eq!(windows.next(), None, "a window too many");
    }

    /// Acknowledges and drops everything in an order that the case decides, and balances the frames.
    fn finish(mut self, spaces_first: bool) {
        for cpu in 0..CPUS {
            self.enter(cpu, 0);
        }
        for spaces in [spaces_first, !spaces_first] {
            if spaces {
                for slot in 1..SPACES {
                    // The handle's own drop tears it down.
                    let gone = &mut self.spaces[slot];
                    gone.space = None;
                    gone.pages.clear();
                }
            } else {
                self.areas.clear();
            }
        }
        while let Some(Outstanding { flush, .. }) = self.outstanding.pop() {
            self.world.sim.apply(flush.request());
            // SAFETY: every CPU of the request has just carried it out.
            unsafe { flush.acknowledged() };
        }
        self.world.sim.check_translations();
        self.world.finish();
    }
}

/// An error as the model writes it.
fn error_text(error: &SpaceError) -> String {
    match error {
        SpaceError::Range(_) => "range".into(),
        SpaceError::Area(AreaError::Outside { .. }) => "area outside".into(),
        SpaceError::Retry(address) => format!("retry {address:#x}"),
        SpaceError::Conflict(range) => format!("conflict {range:?}"),
        SpaceError::SingleWindow => "single window".into(),
        SpaceError::Guard(address) => format!("guard {address:#x}"),
        SpaceError::OutsideArea(address) => format!("outside area {address:#x}"),
        SpaceError::NoWindow(address) => format!("no window {address:#x}"),
        SpaceError::Denied { address, wanted, allowed } => format!("denied {address:#x} {wanted:?} {allowed:?}"),
        other => format!("unexpected: {other}"),
    }
}

/// Two areas, mapped and touched, so that most cases begin where something can go wrong.
fn beginning() -> Vec<Op> {
    vec![
        Op::NewArea { slot: 0, kind: 0, pages: 8 },
        Op::NewSpace { slot: 1 },
        Op::Enter { cpu: 0, space: 1 },
        Op::Enter { cpu: 1, space: 1 },
    ]
}

/// The kind with its present size, as it is told.
fn with_size(kind: AreaKind, pages: u64) -> AreaKind {
    let size = pages * PAGE;
    match kind {
        AreaKind::Open { .. } => AreaKind::Open { size },
        AreaKind::Untracked { .. } => AreaKind::Untracked { size },
        AreaKind::Private { .. } => AreaKind::Private { size },
        AreaKind::Paged { key, .. } => AreaKind::Paged { size, key },
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_agrees_with_the_model(ops in prop::collection::vec(op(), 1..240), spaces_first: bool, tags: bool) {
        let mut model = Model::new(tags);
        for op in beginning().iter().chain(&ops) {
            model.step(op);
        }
        model.finish(spaces_first);
    }
}
