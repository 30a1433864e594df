//! Operations on parts of windows, against a naive model that knows what each page of a space shows. Windows are compared as the longest runs of
//! pages that agree, so a cut that is left behind, or a neighbour that was not joined, is seen; every byte is compared through the CPUs, and
//! the simulated machine judges every translation.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{PAGE, World, at, load, store};
use proptest::prelude::*;
use vmcore::addr::{Frame, FrameRange, PageRange};
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, DetachedFlush, Flush, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, Rights};
use vmcore::vm_space::{
    Advice, Destination, Fault, Inherit, MapRequest, PageState, Place, Space, SpaceError, SpaceLimit, SpaceLimits,
    WindowFlags,
};

const A: u64 = 0x40_0000;
const CPUS: usize = 2;
const AREAS: usize = 3;
const FIXED: usize = 2;
/// Numbers of areas from here on are of such that have no handle.
const ANONYMOUS: usize = 1000;
/// Pages that are addressed, across the end of a leaf table.
const FIRST: u64 = 0x5f4;
const PAGES: u64 = 24;

fn access(code: u8) -> Access {
    [Access::READ, Access::KERNEL_DATA, Access::READ | Access::EXECUTE, Access::empty()][usize::from(code) % 4]
}

#[derive(Clone, Debug)]
enum Op {
    Map { area: usize, page: u64, offset: u64, count: u64, access: u8, populate: bool },
    Unmap { page: u64, count: u64, later: bool },
    Protect { page: u64, count: u64, access: u8, later: bool },
    Touch { cpu: usize, page: u64, access: u8, value: u64 },
    Acknowledge { which: usize },
    Lock { page: u64, count: u64, lock: bool },
    Anonymous { page: u64, count: u64, access: u8 },
    Advise { page: u64, count: u64, advice: u8, later: bool },
    Relocate { page: u64, count: u64, size: u64, to: Option<u64>, later: bool },
    Guard { page: u64, count: u64, install: bool, later: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let page = || 0..PAGES;
    prop_oneof![
        6 => (0..AREAS, page(), 0..8_u64, 1..7_u64, 0..4_u8, any::<bool>())
            .prop_map(|(area, page, offset, count, access, populate)| Op::Map { area, page, offset, count, access, populate }),
        3 => (page(), 1..6_u64, any::<bool>()).prop_map(|(page, count, later)| Op::Unmap { page, count, later }),
        8 => (page(), 1..9_u64, 0..4_u8, any::<bool>())
            .prop_map(|(page, count, access, later)| Op::Protect { page, count, access, later }),
        20 => (0..CPUS, page(), 0..3_u8, any::<u64>())
            .prop_map(|(cpu, page, access, value)| Op::Touch { cpu, page, access, value }),
        3 => (0..4_usize).prop_map(|which| Op::Acknowledge { which }),
        4 => (page(), 1..9_u64, any::<bool>()).prop_map(|(page, count, lock)| Op::Lock { page, count, lock }),
        4 => (page(), 1..7_u64, 0..4_u8).prop_map(|(page, count, access)| Op::Anonymous { page, count, access }),
        6 => (page(), 1..9_u64, 0..4_u8, any::<bool>())
            .prop_map(|(page, count, advice, later)| Op::Advise { page, count, advice, later }),
        8 => (page(), 1..7_u64, 0..9_u64, prop::option::of(page()), any::<bool>())
            .prop_map(|(page, count, size, to, later)| Op::Relocate { page, count, size, to, later }),
        4 => (page(), 1..5_u64, any::<bool>(), any::<bool>())
            .prop_map(|(page, count, install, later)| Op::Guard { page, count, install, later }),
    ]
}

/// What a page of the space shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shown {
    area: usize,
    page: u64,
    access: Access,
    locked: bool,
    /// By which change it was unmapped.
    gate: Option<usize>,
}

struct Model {
    world: World,
    space: Space<Sim>,
    areas: Vec<Area<Sim>>,
    pages: BTreeMap<u64, Shown>,
    words: BTreeMap<(usize, u64), u64>,
    guards: BTreeSet<u64>,
    /// Pages of the areas without a handle.
    sizes: BTreeMap<usize, u64>,
    outstanding: Vec<(usize, DetachedFlush<Sim, ()>)>,
    next: usize,
}

impl Model {
    fn new() -> Self {
        let device = FrameRange::new(Frame::new(0x20_0000), 16).unwrap();
        let world = World::of(Sim::builder().frames(512).cpus(CPUS).device(device));
        let space = world.user();
        for cpu in 0..CPUS {
            world.enter(cpu, &space);
        }
        let fixed = AreaKind::Fixed { frames: device, memory: MemoryType::WriteBack };
        let areas = vec![world.open(16), world.open(16), common::area(&world.sim, fixed).unwrap()];
        Self {
            world,
            space,
            areas,
            pages: BTreeMap::new(),
            words: BTreeMap::new(),
            guards: BTreeSet::new(),
            sizes: BTreeMap::new(),
            outstanding: Vec::new(),
            next: 0,
        }
    }

    fn range(&self, page: u64, count: u64) -> PageRange {
        self.space.range((FIRST + page) * PAGE, count * PAGE).unwrap()
    }

    fn finish_flush(&mut self, flush: Flush<Sim, ()>, gate: usize, later: bool) {
        if later {
            self.outstanding.push((gate, flush.detach()));
        } else {
            flush.complete();
            self.pages.retain(|_, shown| shown.gate != Some(gate));
        }
    }

    fn acknowledge(&mut self, which: usize) {
        if self.outstanding.is_empty() {
            return;
        }
        let (gate, flush) = self.outstanding.remove(which % self.outstanding.len());
        self.world.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() };
        self.pages.retain(|_, shown| shown.gate != Some(gate));
    }

    /// The first page of the range that is refused, as an error of the operations that tolerate no hole.
    fn first_refused(&self, page: u64, count: u64) -> Option<String> {
        (page..page + count).find_map(|page| match self.pages.get(&page) {
            None => Some(format!("no window {:#x}", (FIRST + page) * PAGE)),
            Some(shown) if shown.gate.is_some() => Some(format!("retry {:#x}", (FIRST + page) * PAGE)),
            Some(_) => None,
        })
    }

    fn step(&mut self, op: &Op) {
        self.world.sim.begin_change(format!("{op:?}"));
        self.next += 1;
        let number = self.next;
        match *op {
            Op::Map { area, page, offset, count, access: code, populate } => {
                let request = MapRequest::new(&self.areas[area]).at((FIRST + page) * PAGE).offset(offset * PAGE);
                let request = request.size(count * PAGE).access(access(code));
                let result = self.space.map(&if populate { request.populated() } else { request });
                let taken = (page..page + count).find_map(|page| self.pages.get(&page));
                match (result, taken) {
                    (Ok(_), None) => {
                        for step in 0..count {
                            let shown =
                                Shown { area, page: offset + step, access: access(code), locked: false, gate: None };
                            self.pages.insert(page + step, shown);
                        }
                    }
                    (Err(SpaceError::Retry(_)), Some(shown)) if shown.gate.is_some() => {}
                    (Err(SpaceError::Conflict(_)), Some(shown)) if shown.gate.is_none() => {}
                    (result, taken) => panic!("map gave {result:?}, there is {taken:?}"),
                }
            }
            Op::Unmap { page, count, later } => {
                let flush = self.space.unmap(self.range(page, count)).unwrap();
                for (page, shown) in self.pages.range_mut(page..page + count) {
                    shown.gate = shown.gate.or(Some(number));
                    self.guards.remove(page);
                }
                let gone = common::is_gone_at_once(&self.space, self.range(page, count), flush.request());
                self.finish_flush(flush, number, later && !gone);
            }
            Op::Protect { page, count, access: code, later } => {
                match (self.space.protect(self.range(page, count), access(code)), self.first_refused(page, count)) {
                    (Ok(flush), None) => {
                        for (_, shown) in self.pages.range_mut(page..page + count) {
                            shown.access = access(code);
                        }
                        self.finish_flush(flush, number, later);
                    }
                    (Err(error), Some(text)) => assert_eq!(error_text(&error), text),
                    (result, expected) => panic!("protect gave {result:?}, expected {expected:?}"),
                }
            }
            Op::Lock { page, count, lock } => {
                let mut expected = self.first_refused(page, count);
                if lock {
                    // Window by window, before what lies behind.
                    let forbidden = (page..page + count).find(|page| {
                        self.pages.get(page).is_some_and(|shown| shown.gate.is_none() && shown.access.is_empty())
                    });
                    let first =
                        (page..page + count).find(|page| self.pages.get(page).is_none_or(|shown| shown.gate.is_some()));
                    let guard = self.guards.range(page..page + count).next().copied();
                    let end = page + count;
                    let (first, forbidden, guard) =
                        (first.unwrap_or(end), forbidden.unwrap_or(end), guard.unwrap_or(end));
                    if forbidden < first && forbidden <= guard {
                        expected = Some(format!("denied {:#x}", (FIRST + forbidden) * PAGE));
                    } else if guard < first {
                        expected = Some(format!("guard {:#x}", (FIRST + guard) * PAGE));
                    }
                }
                let range = self.range(page, count);
                let result = if lock {
                    self.space.lock_pages(range).map(Flush::complete)
                } else {
                    self.space.unlock_pages(range)
                };
                match (result, expected) {
                    (Ok(()), None) => {
                        for (page, shown) in self.pages.range_mut(page..page + count) {
                            shown.locked = lock;
                            let walk = self.space.walk(at((FIRST + *page) * PAGE));
                            assert!(!lock || walk.access().contains(shown.access), "not present: {walk}");
                        }
                    }
                    (Err(error), Some(text)) => assert_eq!(error_text(&error), text),
                    (result, expected) => panic!("lock {lock} gave {result:?}, expected {expected:?}"),
                }
            }
            Op::Anonymous { page, count, access: code } => {
                let place = Place::At((FIRST + page) * PAGE);
                let result = self.space.map_anonymous(count * PAGE, place, access(code), Inherit::Share, 0);
                if result.is_err() {
                    assert!(self.pages.range(page..page + count).next().is_some(), "{result:?}");
                    return;
                }
                // It carries the window before it on if that is anonymous as well, agrees, and shows its area to the end.
                let before = page.checked_sub(1).and_then(|before| self.pages.get(&before)).copied();
                let (area, offset) = match before {
                    Some(before)
                        if before.area >= ANONYMOUS
                            && self.sizes[&before.area] == before.page + 1
                            && before == Shown { access: access(code), locked: false, gate: None, ..before } =>
                    {
                        (before.area, before.page + 1)
                    }
                    _ => (number + ANONYMOUS, 0),
                };
                self.sizes.insert(area, offset + count);
                for step in 0..count {
                    let shown = Shown { area, page: offset + step, access: access(code), locked: false, gate: None };
                    assert_eq!(self.pages.insert(page + step, shown), None);
                }
            }
            Op::Advise { page, count, advice, later } => {
                let advice =
                    [Advice::NotNeeded, Advice::FreeLazily, Advice::Needed, Advice::NotNeeded][usize::from(advice)];
                let mut expected = self.first_refused(page, count);
                if advice != Advice::Needed {
                    let there = |page: &u64| self.pages.get(page).filter(|shown| shown.gate.is_none());
                    let first = (page..page + count).find(|page| there(page).is_none_or(|shown| shown.locked));
                    if let Some(locked) = first.filter(|page| there(page).is_some()) {
                        expected = Some(format!("locked {:#x}", (FIRST + locked) * PAGE));
                    }
                }
                let before = self.world.sim.frame_counts().of(FrameUse::Page);
                match (self.space.advise(self.range(page, count), advice), expected) {
                    (Ok(flush), None) if advice == Advice::Needed => {
                        flush.complete();
                        assert_eq!(self.world.sim.frame_counts().of(FrameUse::Page), before, "a page was made");
                    }
                    (Ok(flush), None) => {
                        // What a stale entry writes to released pages is nobody's: those flushes are completed.
                        let released = self.pages.range(page..page + count).any(|(_, shown)| shown.area >= ANONYMOUS);
                        self.finish_flush(flush, number, later && !released);
                        if advice == Advice::FreeLazily {
                            assert_eq!(
                                self.world.sim.frame_counts().of(FrameUse::Page),
                                before,
                                "before it is asked for"
                            );
                            self.space.reclaim(self.range(page, count), u64::MAX).unwrap().complete();
                        }
                        for (_, shown) in
                            self.pages.range(page..page + count).filter(|(_, shown)| shown.area >= ANONYMOUS)
                        {
                            self.words.remove(&(shown.area, shown.page));
                        }
                        for page in (page..page + count).filter(|_| advice == Advice::NotNeeded) {
                            let walk = self.space.walk(at((FIRST + page) * PAGE));
                            assert!(self.pages[&page].area == FIXED || walk.physical().is_none(), "{walk}");
                        }
                    }
                    (Err(error), Some(text)) => assert_eq!(error_text(&error), text),
                    (result, expected) => panic!("{advice:?} gave {result:?}, expected {expected:?}"),
                }
            }
            Op::Relocate { page, count, size, to, later } => self.relocate(page, count, size, to, later),
            Op::Guard { page, count, install, later } => {
                let mut expected = self.first_refused(page, count);
                if install {
                    let there = |page: &u64| self.pages.get(page).filter(|shown| shown.gate.is_none());
                    let first = (page..page + count).find(|page| there(page).is_none_or(|shown| shown.locked));
                    if let Some(locked) = first.filter(|page| there(page).is_some()) {
                        expected = Some(format!("locked {:#x}", (FIRST + locked) * PAGE));
                    }
                }
                let range = self.range(page, count);
                let result = if install {
                    self.space.install_guards(range).map(Some)
                } else {
                    self.space.remove_guards(range).map(|()| None)
                };
                match (result, expected) {
                    (Ok(flush), None) => {
                        if let Some(flush) = flush {
                            self.guards.extend(page..page + count);
                            self.finish_flush(flush, number, later);
                        } else {
                            self.guards.retain(|guard| !(page..page + count).contains(guard));
                        }
                    }
                    (Err(error), Some(text)) => assert_eq!(error_text(&error), text),
                    (result, expected) => panic!("guard {install} gave {result:?}, expected {expected:?}"),
                }
            }
            Op::Touch { cpu, page, access, value } => self.touch(cpu, page, access, value),
            Op::Acknowledge { which } => self.acknowledge(which),
        }
        self.world.sim.assert_no_violation();
        self.check();
    }

    /// Why a relocation may be refused, as far as windows and areas say so.
    fn reasons(&self, page: u64, count: u64, size: u64, to: u64) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if size == 0 {
            reasons.push("range");
        }
        let first = self.pages.get(&page).copied();
        let carries_on = |step: u64| {
            let next = first.map(|first| Shown { page: first.page + step, ..first });
            next.is_some() && self.pages.get(&(page + step)).copied() == next
        };
        for step in 0..count {
            match self.pages.get(&(page + step)) {
                None => reasons.push("no window"),
                Some(shown) if shown.gate.is_some() => reasons.push("retry"),
                Some(_) if !carries_on(step) => reasons.push("several windows"),
                Some(_) => {}
            }
        }
        let Some(first) = first else { return reasons };
        if size > count {
            if first.locked {
                reasons.push("locked");
            }
            if carries_on(count) {
                reasons.push("conflict");
            }
            if first.area < ANONYMOUS && first.page + size > 16 {
                reasons.push("outside");
            }
        }
        // In place, only what lies behind is new.
        let kept = if to == page { count } else { 0 };
        for step in kept..size {
            match self.pages.get(&(to + step)) {
                Some(shown) if shown.gate.is_some() => reasons.push("retry"),
                Some(_) => reasons.push("conflict"),
                None => {}
            }
        }
        reasons
    }

    fn relocate(&mut self, page: u64, count: u64, size: u64, to: Option<u64>, later: bool) {
        let gate = self.next;
        let place = to.map_or(Destination::InPlace, |to| Destination::To(Place::At((FIRST + to) * PAGE)));
        let mut reasons = self.reasons(page, count, size, to.unwrap_or(page));
        if to == Some(page) {
            // It is not where it was: what is there is in the way.
            reasons.push("conflict");
        }
        let to = to.unwrap_or(page);
        match self.space.relocate(self.range(page, count), size * PAGE, place) {
            Ok(flush) => {
                assert!(reasons.is_empty(), "relocated in spite of {reasons:?}");
                let first = self.pages[&page];
                if to != page {
                    let moved: Vec<u64> = self.guards.range(page..page + count).copied().collect();
                    for guard in moved {
                        self.guards.remove(&guard);
                        if guard - page < size {
                            self.guards.insert(guard - page + to);
                        }
                    }
                    for (_, shown) in self.pages.range_mut(page..page + count) {
                        shown.gate = Some(gate);
                    }
                } else {
                    for (page, shown) in self.pages.range_mut((page + size).min(page + count)..page + count) {
                        self.guards.remove(page);
                        shown.gate = Some(gate);
                    }
                }
                for step in 0..size {
                    self.pages.insert(to + step, Shown { page: first.page + step, ..first });
                }
                if let Some(pages) = self.sizes.get_mut(&first.area) {
                    *pages = (*pages).max(first.page + size);
                }
                let range = self.range(to, size);
                self.finish_flush(flush.map(|new| assert_eq!(new, range)), gate, later);
            }
            Err(error) => {
                let text = match error {
                    SpaceError::NoWindow(_) => "no window",
                    SpaceError::Retry(_) => "retry",
                    SpaceError::SeveralWindows(_) => "several windows",
                    SpaceError::Locked(_) => "locked",
                    SpaceError::Conflict(_) => "conflict",
                    SpaceError::Area(AreaError::Outside { .. }) => "outside",
                    SpaceError::Range(_) => "range",
                    other => panic!("unexpected: {other}"),
                };
                assert!(reasons.contains(&text), "refused by {error}, which is not among {reasons:?}");
            }
        }
    }

    fn touch(&mut self, cpu: usize, page: u64, code: u8, value: u64) {
        let address = (FIRST + page) * PAGE + 8;
        let wanted = [Access::READ, Access::WRITE, Access::EXECUTE][usize::from(code) % 3];
        let sim = self.world.sim.clone();
        let result = common::touch(&sim, cpu, &self.space, address, wanted | Access::USER);
        let shown = self.pages.get(&page).copied();
        let expected = match shown {
            None => Err("no window"),
            Some(shown) if shown.gate.is_some() => Err("retry"),
            Some(_) if self.guards.contains(&page) => Err("guard"),
            Some(shown) if !shown.access.contains(wanted) => Err("denied"),
            Some(_) => Ok(()),
        };
        match (&result, expected) {
            (Ok(_), Ok(())) => {}
            // A CPU may go on with what it remembers until the flush.
            (Ok(_), Err(_)) if !self.outstanding.is_empty() => {}
            (Err(SpaceError::NoWindow(_)), Err("no window"))
            | (Err(SpaceError::Retry(_)), Err("retry"))
            | (Err(SpaceError::Guard(_)), Err("guard"))
            | (Err(SpaceError::Denied { .. }), Err("denied")) => return,
            _ => panic!("the access to {address:#x} gave {result:?}, expected {expected:?}"),
        }
        let shown = shown.expect("nothing that is gone is reached");
        let word = self.words.entry((shown.area, shown.page)).or_default();
        match wanted {
            Access::WRITE => {
                sim.write_u64(cpu, at(address), true, value).unwrap();
                *word = value;
            }
            Access::READ => assert_eq!(sim.read_u64(cpu, at(address), true).unwrap(), *word, "word at {address:#x}"),
            _ => {}
        }
    }

    fn check(&self) {
        let mut counts = BTreeMap::<usize, usize>::new();
        let mut windows = self.space.windows();
        let mut pages = self.pages.iter().peekable();
        while let Some((first, shown)) = pages.next() {
            let mut count = 1;
            while pages
                .next_if(|(page, next)| {
                    **page == first + count && **next == Shown { page: shown.page + count, ..*shown }
                })
                .is_some()
            {
                count += 1;
            }
            *counts.entry(shown.area).or_insert(0) += 1;
            let info = windows.next().expect("a window is missing");
            assert_eq!(info.range, self.range(*first, count), "{info}");
            assert_eq!((info.offset, info.gated), (shown.page * PAGE, shown.gate.is_some()), "{info}");
            assert_eq!(info.access.difference(Access::USER), shown.access);
            assert_eq!(info.flags.contains(WindowFlags::LOCKED), shown.locked, "{info}");
        }
        assert_eq!(windows.next(), None, "a window too many");
        for (number, area) in self.areas.iter().enumerate() {
            assert_eq!(area.windows(), counts.get(&number).copied().unwrap_or(0), "records of area {number}");
        }
        let counters = self.space.counters();
        assert_eq!(counters.windows, self.space.windows().count());
        assert_eq!(counters.reserved, self.pages.len() as u64 * PAGE);
        let shown = (0..PAGES + 8).filter(|page| self.space.walk(at((FIRST + page) * PAGE)).physical().is_some());
        assert_eq!(counters.resident_pages, shown.count() as u64);
        if self.outstanding.is_empty() {
            self.world.sim.check_translations();
        }
        let mut states = [PageState::empty(); PAGES as usize + 8];
        assert_eq!(self.space.page_states(self.range(0, PAGES + 8), &mut states), Ok(states.len()));
        for (page, state) in (0..).zip(states) {
            let shown = self.pages.get(&page).filter(|shown| shown.gate.is_none());
            assert_eq!(state.contains(PageState::MAPPED), shown.is_some());
            assert_eq!(state.contains(PageState::LOCKED), shown.is_some_and(|shown| shown.locked));
            assert_eq!(state.contains(PageState::GUARDED), self.guards.contains(&page));
            let present = self.space.walk(at((FIRST + page) * PAGE)).physical().is_some();
            assert_eq!(state.contains(PageState::SHOWN), present && shown.is_some());
            assert!(!present || state.contains(PageState::RESIDENT));
            let written =
                shown.and_then(|shown| self.words.get(&(shown.area, shown.page))).is_some_and(|word| *word != 0);
            let tracked = shown.is_some_and(|shown| shown.area != FIXED);
            assert!(!(written && tracked) || state.contains(PageState::DIRTY | PageState::RESIDENT), "page {page}");
        }
        for (page, shown) in &self.pages {
            // What the tables show never exceeds the window.
            let walk = self.space.walk(at((FIRST + page) * PAGE));
            let allowed = if walk.physical().is_some() { walk.access() } else { Access::empty() };
            assert!((shown.access | Access::USER).contains(allowed), "page {page}: {walk}");
            assert!(!self.guards.contains(page) || walk.physical().is_none(), "guard {page}: {walk}");
        }
    }

    fn finish(mut self) {
        while !self.outstanding.is_empty() {
            self.acknowledge(0);
        }
        self.world.sim.check_translations();
        for cpu in 0..CPUS {
            self.world.leave(cpu, &self.space);
        }
        self.space.destroy().map_err(|(_, error)| error).unwrap().complete();
        drop(self.areas);
        self.world.finish();
    }
}

fn error_text(error: &SpaceError) -> String {
    match error {
        SpaceError::NoWindow(address) => format!("no window {address:#x}"),
        SpaceError::Retry(address) => format!("retry {address:#x}"),
        SpaceError::Guard(address) => format!("guard {address:#x}"),
        SpaceError::Locked(address) => format!("locked {address:#x}"),
        SpaceError::Denied { address, .. } => format!("denied {address:#x}"),
        other => format!("unexpected: {other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_of_windows_agree_with_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut model = Model::new();
        for op in &ops {
            model.step(op);
        }
        model.finish();
    }
}

/// Addresses of a window of which no CPU can remember anything are free with its unmap; where one may, with the flush. What the last window keeps alive goes with the
/// flush in either case.
#[test]
fn a_window_that_shows_nothing_is_gone_at_once() {
    let (world, space) = scene(2);
    let area = common::area(&world.sim, AreaKind::Open { size: 4 * PAGE }).unwrap();
    let request = MapRequest::new(&area).at(A);
    let untouched = space.map(&request).unwrap();
    let flush = space.unmap(untouched).unwrap().detach();
    assert!(flush.request().scope.is_empty() && space.windows().next().is_none() && area.windows() == 0);
    let range = space.map(&request.populated()).unwrap();
    let shown = space.unmap(range).unwrap().detach();
    assert_eq!(space.map(&request).unwrap_err(), SpaceError::Retry(range.start()));
    world.sim.apply(shown.request());
    // SAFETY: every CPU that is named has flushed.
    unsafe { (shown.acknowledged(), flush.acknowledged()) };
    // Its leaves went, and that flush is outstanding: CPUs remember what the tables do not show any more.
    space.map(&request.populated()).unwrap();
    let dropped = space.protect(range, Access::empty()).unwrap().detach();
    let gated = space.unmap(range).unwrap();
    assert!(!gated.request().scope.is_empty());
    assert_eq!(space.map(&request).unwrap_err(), SpaceError::Retry(range.start()));
    gated.complete();
    world.sim.apply(dropped.request());
    // SAFETY: as above.
    unsafe { dropped.acknowledged() };
    // The last that refers to an area is its window: its pages go with the flush, the addresses before.
    space.map(&request).unwrap();
    drop(area);
    let last = space.unmap(range).unwrap().detach();
    assert!(space.windows().next().is_none() && world.sim.frame_counts().of(FrameUse::Page) == 4);
    // SAFETY: nothing is to be flushed.
    unsafe { last.acknowledged() };
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 0);
    end(world, space);
}

/// What an area takes out of its windows is remembered by CPUs until its own flush: a window that shows nothing any more goes with a flush as well.
#[test]
fn a_window_of_what_its_area_gave_up_is_gone_with_a_flush() {
    let (world, space) = scene(2);
    let area = common::area(&world.sim, AreaKind::Open { size: 2 * PAGE }).unwrap();
    let request = MapRequest::new(&area).at(A).offset(PAGE).size(PAGE);
    let range = space.map(&request.populated()).unwrap();
    world.sim.read_u64(1, range.start(), true).unwrap();
    let given_up = area.resize(PAGE).unwrap().detach();
    // Their table, which was left empty, goes with what is unmapped beside.
    let beside = common::area(&world.sim, AreaKind::Open { size: PAGE }).unwrap();
    let other = space.map(&MapRequest::new(&beside).at(A + 8 * PAGE).populated()).unwrap();
    space.unmap(other).unwrap().complete();
    let unmapped = space.unmap(range).unwrap().detach();
    assert!(!unmapped.request().scope.is_empty(), "CPU 1 remembers the page");
    assert_eq!(space.map(&MapRequest::new(&area).at(A).size(PAGE)).unwrap_err(), SpaceError::Retry(range.start()));
    for request in [unmapped.request(), given_up.request()] {
        world.sim.apply(request);
    }
    // SAFETY: every CPU that is named has flushed.
    unsafe { (unmapped.acknowledged(), given_up.acknowledged()) };
    drop((area, beside));
    end(world, space);
}

/// A machine with one user space on every CPU.
fn scene(cpus: usize) -> (World, Space<Sim>) {
    let world = World::new(cpus);
    let space = world.user();
    for cpu in 0..cpus {
        world.enter(cpu, &space);
    }
    (world, space)
}

fn end(world: World, space: Space<Sim>) {
    world.sim.assert_no_violation();
    world.sim.check_translations();
    for cpu in 0..world.sim.cpu_count() {
        world.leave(cpu, &space);
    }
    space.destroy().map_err(|(_, error)| error).unwrap().complete();
    world.finish();
}

#[test]
fn protect_names_the_first_hole_and_changes_nothing() {
    let (world, space) = scene(1);
    let area = world.open(8);
    common::map(&space, &area, A, 0, 2);
    common::map(&space, &area, A + 3 * PAGE, 3, 2);
    let before: Vec<_> = space.windows().collect();
    let range = space.range(A, 5 * PAGE).unwrap();
    assert_eq!(space.protect(range, Access::READ).unwrap_err(), SpaceError::NoWindow(at(A + 2 * PAGE)));
    let range = space.range(A + 3 * PAGE, 3 * PAGE).unwrap();
    assert_eq!(space.protect(range, Access::READ).unwrap_err(), SpaceError::NoWindow(at(A + 5 * PAGE)));
    assert_eq!(space.windows().collect::<Vec<_>>(), before);
    let outside = world.kernel().bounds();
    assert!(matches!(space.protect(outside, Access::READ), Err(SpaceError::Range(_))));
    drop(area);
    end(world, space);
}

#[test]
fn protect_goes_no_further_than_the_handle_that_mapped_it() {
    let (world, space) = scene(1);
    let area = world.open(4);
    let reader = area.handle(Rights::MAP | Rights::READ).unwrap();
    let range = space.map(&MapRequest::new(&reader).at(A).access(Access::READ)).unwrap();
    assert_eq!(space.protect(range, Access::KERNEL_DATA).unwrap_err(), SpaceError::Rights(Rights::WRITE));
    let code = Access::READ | Access::EXECUTE;
    assert_eq!(space.protect(range, code).unwrap_err(), SpaceError::Rights(Rights::EXECUTE));
    // Lowering and coming back is allowed, also for parts.
    let middle = space.range(A + PAGE, PAGE).unwrap();
    space.protect(middle, Access::empty()).unwrap().complete();
    assert_eq!(space.protect(middle, Access::KERNEL_DATA).unwrap_err(), SpaceError::Rights(Rights::WRITE));
    space.protect(middle, Access::READ).unwrap().complete();
    assert_eq!(space.windows().count(), 1);
    // The same area by another handle is another window, since it may become more.
    space.map(&MapRequest::new(&area).at(A + 4 * PAGE).size(PAGE).access(Access::READ)).unwrap();
    assert_eq!(space.windows().count(), 2);
    drop((area, reader));
    end(world, space);
}

#[test]
fn a_raise_leaves_clean_pages_clean() {
    let (world, space) = scene(1);
    let area = world.open(4);
    let range = space.map(&MapRequest::new(&area).at(A).access(Access::READ).populated()).unwrap();
    let flush = space.protect(range, Access::KERNEL_DATA).unwrap();
    assert!(flush.is_empty(), "nothing was taken away");
    flush.complete();
    for page in 0..4 {
        assert!(!space.walk(at(A + page * PAGE)).access().contains(Access::WRITE), "a clean page became writable");
    }
    store(&world.sim, 0, &space, A, 7).unwrap();
    assert_eq!(load(&world.sim, 0, &space, A).unwrap(), 7);
    drop(area);
    end(world, space);
}

/// A second caller is told that a page cannot be written while the first one's flush is outstanding: it must be true then.
#[test]
fn a_repeated_protect_flushes_what_the_first_left_outstanding() {
    let (world, space) = scene(2);
    let area = world.open(2);
    let range = common::map(&space, &area, A, 0, 2);
    for (first, second) in
        [(Access::READ, Access::READ), (Access::empty(), Access::READ), (Access::READ, Access::empty())]
    {
        space.protect(range, Access::KERNEL_DATA).unwrap().complete();
        store(&world.sim, 1, &space, A, 1).unwrap();
        let outstanding = space.protect(range, first).unwrap().detach();
        space.protect(range, second).unwrap().complete();
        assert!(world.sim.access(1, at(A), common::USER_WRITE).is_err(), "CPU 1 writes on");
        world.sim.apply(outstanding.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { outstanding.acknowledged() };
    }
    // And an address is not used again while a CPU remembers a page that was taken out of the tables before it was unmapped.
    space.protect(range, Access::KERNEL_DATA).unwrap().complete();
    store(&world.sim, 1, &space, A, 1).unwrap();
    let outstanding = space.protect(range, Access::empty()).unwrap().detach();
    space.unmap(range).unwrap().complete();
    assert!(world.sim.access(1, at(A), common::USER_READ).is_err(), "CPU 1 reads what is unmapped");
    world.sim.apply(outstanding.request());
    // SAFETY: as above.
    unsafe { outstanding.acknowledged() };
    drop(area);
    end(world, space);
}

#[test]
fn large_leaves_are_changed_whole_and_split_at_the_edges() {
    let device = FrameRange::new(Frame::new(0x20_0000), 1024).unwrap();
    let world = World::of(Sim::builder().frames(256).device(device));
    let space = world.user();
    world.enter(0, &space);
    let area = common::area(&world.sim, AreaKind::Fixed { frames: device, memory: MemoryType::WriteBack }).unwrap();
    let range = space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    let tables = || world.sim.frame_counts().of(FrameUse::Table);
    let before = tables();
    space.protect(range, Access::READ).unwrap().complete();
    assert_eq!(tables(), before, "nothing is split for the whole");
    assert!(!space.walk(at(A)).access().contains(Access::WRITE));
    space.protect(range, Access::KERNEL_DATA).unwrap().complete();
    assert!(space.walk(at(A)).access().contains(Access::WRITE), "device memory is not clean: it is writable at once");
    let part = space.range(A + 0x1000, 0x30_0000).unwrap();
    space.protect(part, Access::READ).unwrap().complete();
    assert_eq!(tables(), before + 2, "one at each edge");
    for (address, writable) in [(A, true), (A + 0x1000, false), (A + 0x20_0000, false), (A + 0x30_1000, true)] {
        assert_eq!(space.walk(at(address)).access().contains(Access::WRITE), writable, "{address:#x}");
    }
    drop(area);
    end(world, space);
}

#[test]
fn untracked_memory_keeps_its_pages() {
    let (world, space) = scene(1);
    let area = common::area(&world.sim, AreaKind::Untracked { size: 4 * PAGE }).unwrap();
    let range = space.map(&MapRequest::new(&area).at(A)).unwrap();
    store(&world.sim, 0, &space, A + PAGE, 5).unwrap();
    assert!(matches!(space.protect(range, Access::empty()), Err(SpaceError::Encode(_))));
    let middle = space.range(A + PAGE, PAGE).unwrap();
    space.protect(middle, Access::READ).unwrap().complete();
    assert_eq!(load(&world.sim, 0, &space, A + PAGE).unwrap(), 5);
    assert!(matches!(store(&world.sim, 0, &space, A + PAGE, 6), Err(SpaceError::Denied { .. })));
    space.protect(middle, Access::KERNEL_DATA).unwrap().complete();
    store(&world.sim, 0, &space, A + PAGE, 6).unwrap();
    assert_eq!(space.windows().count(), 1);
    drop(area);
    end(world, space);
}

#[test]
fn nothing_may_be_done_with_a_window_without_access() {
    let (world, space) = scene(1);
    let area = world.open(2);
    let range = space.map(&MapRequest::new(&area).at(A).access(Access::empty()).populated()).unwrap();
    assert_eq!(area.resident_pages(), 0);
    for access in [Access::empty(), Access::READ] {
        assert!(matches!(space.fault(Fault::new(A, access)), Err(SpaceError::Denied { .. })));
        assert!(matches!(space.populate(range, access), Err(SpaceError::Denied { .. })));
    }
    space.protect(range, Access::KERNEL_DATA).unwrap().complete();
    store(&world.sim, 0, &space, A, 3).unwrap();
    drop(area);
    end(world, space);
}

#[test]
fn sealed_windows_stay_until_the_space_ends() {
    let (world, space) = scene(1);
    let area = world.open(8);
    let whole = space.map(&MapRequest::new(&area).at(A)).unwrap();
    let sealed = space.range(A + 2 * PAGE, 2 * PAGE).unwrap();
    space.seal(sealed).unwrap();
    space.seal(sealed).unwrap();
    let hole = space.range(A + 6 * PAGE, 4 * PAGE).unwrap();
    assert_eq!(space.seal(hole).unwrap_err(), SpaceError::NoWindow(at(A + 8 * PAGE)));
    assert_eq!(space.windows().count(), 3);
    let before: Vec<_> = space.windows().collect();
    let error = SpaceError::Sealed(sealed.start());
    assert_eq!(space.unmap(whole).unwrap_err(), error);
    assert_eq!(space.protect(whole, Access::READ).unwrap_err(), error);
    let last = space.range(A + 3 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(space.unmap(last).unwrap_err(), SpaceError::Sealed(last.start()));
    assert_eq!(space.windows().collect::<Vec<_>>(), before);
    store(&world.sim, 0, &space, A + 2 * PAGE, 1).unwrap();
    drop(area);
    end(world, space);
}

#[test]
fn write_execute_is_refused_where_the_space_says_so() {
    let (world, space) = scene(1);
    let area = world.open(4);
    let both = Access::KERNEL_DATA | Access::EXECUTE;
    let range = space.map(&MapRequest::new(&area).at(A).access(both)).unwrap();
    assert_eq!(space.forbid_write_execute().unwrap_err(), SpaceError::WriteExecute(at(A)));
    space.protect(range, Access::KERNEL_DATA).unwrap().complete();
    space.protect(range, both).unwrap().complete();
    space.protect(range, Access::KERNEL_DATA).unwrap().complete();
    space.forbid_write_execute().unwrap();
    assert_eq!(space.protect(range, both).unwrap_err(), SpaceError::WriteExecute(at(A)));
    let request = MapRequest::new(&area).at(A + 8 * PAGE).access(both);
    assert_eq!(space.map(&request).unwrap_err(), SpaceError::WriteExecute(at(A + 8 * PAGE)));
    space.protect(range, Access::READ | Access::EXECUTE).unwrap().complete();
    drop(area);
    end(world, space);
}

#[test]
fn limits_refuse_what_exceeds_them_and_nothing_else() {
    let (world, space) = scene(1);
    let area = world.open(8);
    space.set_limits(SpaceLimits::NONE.windows(2).reserved(9 * PAGE));
    let range = space.map(&MapRequest::new(&area).at(A)).unwrap();
    let other = MapRequest::new(&area).at(A + 16 * PAGE).size(2 * PAGE);
    assert_eq!(space.map(&other).unwrap_err(), SpaceError::Limit(SpaceLimit::Reserved(9 * PAGE)));
    // One window can be cut once; a middle takes two cuts.
    let (first, middle) = (space.range(A, PAGE).unwrap(), space.range(A + PAGE, PAGE).unwrap());
    let windows = SpaceError::Limit(SpaceLimit::Windows(2));
    assert_eq!(space.protect(middle, Access::READ).unwrap_err(), windows);
    assert_eq!(space.unmap(middle).unwrap_err(), windows);
    assert_eq!(space.seal(middle).unwrap_err(), windows);
    space.protect(first, Access::READ).unwrap().complete();
    assert_eq!(space.map(&other.size(PAGE)).unwrap_err(), windows);
    space.unmap(range).unwrap().complete();
    assert_eq!((space.counters().windows, space.counters().reserved), (0, 0));
    assert_eq!(space.limits(), SpaceLimits::NONE.windows(2).reserved(9 * PAGE));
    space.map(&other).unwrap();
    drop(area);
    end(world, space);
}

#[test]
fn counters_count_tables_and_pages() {
    let (world, space) = scene(1);
    assert_eq!(space.counters().tables, 1);
    let area = world.open(4);
    space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    let counters = space.counters();
    assert_eq!((counters.tables, counters.resident_pages), (4, 4));
    drop(area);
    end(world, space);
}

#[test]
fn pages_that_are_not_needed_go_after_the_flush() {
    let (world, space) = scene(2);
    let area = world.open(8);
    let range = space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    let pages = || world.sim.frame_counts().of(FrameUse::Page);
    // A handle may read them: they stay.
    store(&world.sim, 1, &space, A, 5).unwrap();
    space.advise(range, Advice::NotNeeded).unwrap().complete();
    assert_eq!((pages(), load(&world.sim, 1, &space, A).unwrap()), (8, 5));
    // The window alone keeps them, but another one shows the last two.
    common::map(&space, &area, A + 0x10_0000, 6, 2);
    drop(area);
    space.advise(range, Advice::NotNeeded).unwrap().complete();
    assert_eq!((pages(), load(&world.sim, 1, &space, A).unwrap()), (8, 5));
    let part = space.range(A, 6 * PAGE).unwrap();
    let flush = space.advise(part, Advice::NotNeeded).unwrap();
    assert_eq!(pages(), 8, "another CPU may still use them");
    flush.complete();
    assert_eq!(pages(), 2);
    assert_eq!(load(&world.sim, 1, &space, A).unwrap(), 0);
    end(world, space);
}

/// Pages are dropped from the tables, and before that flush is acknowledged their area gives them up: they are not free while a CPU remembers them.
#[test]
fn what_was_dropped_from_the_tables_is_flushed_before_its_pages_are_free() {
    let (world, space) = scene(2);
    let mut areas = Vec::new();
    for first in [Access::empty(), Access::KERNEL_DATA] {
        let area = world.open(2);
        let range = common::map(&space, &area, A, 0, 2);
        store(&world.sim, 1, &space, A + PAGE, 1).unwrap();
        let outstanding = if first.is_empty() {
            space.protect(range, first).unwrap().detach()
        } else {
            space.advise(range, Advice::NotNeeded).unwrap().detach()
        };
        area.resize(PAGE).unwrap().complete();
        assert!(world.sim.access(1, at(A + PAGE), common::USER_WRITE).is_err(), "CPU 1 writes to a page that is free");
        world.sim.apply(outstanding.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { outstanding.acknowledged() };
        space.unmap(range).unwrap().complete();
        areas.push(area);
    }
    drop(areas);
    end(world, space);
}

#[test]
fn advice_about_large_pages_is_kept_with_the_window() {
    let (world, space) = scene(1);
    let area = world.open(4);
    let range = space.map(&MapRequest::new(&area).at(A)).unwrap();
    let middle = space.range(A + PAGE, PAGE).unwrap();
    space.advise(middle, Advice::Huge).unwrap().complete();
    let flags: Vec<_> = space.windows().map(|window| window.flags).collect();
    assert_eq!(flags, [WindowFlags::empty(), WindowFlags::HUGE, WindowFlags::empty()]);
    space.advise(range, Advice::NeverHuge).unwrap().complete();
    let flags: Vec<_> = space.windows().map(|window| window.flags).collect();
    assert_eq!(flags, [WindowFlags::NEVER_HUGE]);
    space.seal(middle).unwrap();
    assert_eq!(space.advise(range, Advice::NotNeeded).unwrap_err(), SpaceError::Sealed(middle.start()));
    drop(area);
    end(world, space);
}

#[test]
fn untracked_pages_that_are_not_needed_are_freed() {
    let (world, space) = scene(2);
    let area = common::area(&world.sim, AreaKind::Untracked { size: 4 * PAGE }).unwrap();
    let range = space.map(&MapRequest::new(&area).at(A)).unwrap();
    store(&world.sim, 0, &space, A + PAGE, 5).unwrap();
    let flush = space.advise(range, Advice::NotNeeded).unwrap().detach();
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 1);
    space.unmap(range).unwrap().complete();
    assert!(world.sim.access(0, at(A + PAGE), common::USER_READ).is_err());
    world.sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() };
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 0);
    drop(area);
    end(world, space);
}

#[test]
fn a_move_takes_pages_along_and_gates_the_old_addresses() {
    let world = World::of(Sim::builder().frames(2048).cpus(2));
    let space = world.user();
    world.enter(0, &space);
    world.enter(1, &space);
    let area = world.open(1024);
    let range = space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    store(&world.sim, 1, &space, A, 5).unwrap();
    let to = A + 0x100_0000;
    let tables = world.sim.frame_counts().of(FrameUse::Table);
    let flush = space.relocate(range, range.size(), Destination::To(Place::At(to))).unwrap();
    assert!(world.sim.frame_counts().of(FrameUse::Table) <= tables + 1, "aligned alike: tables go whole");
    assert!(space.walk(at(to)).physical().is_some(), "no fault at the new place");
    assert_eq!(load(&world.sim, 0, &space, to).unwrap(), 5);
    assert_eq!(space.fault(Fault::new(A, Access::READ)).unwrap_err(), SpaceError::Retry(at(A)));
    assert!(matches!(space.map(&MapRequest::new(&area).at(A)), Err(SpaceError::Retry(_))));
    // What the area gives up now is flushed at the old place as well.
    let outstanding = flush.detach();
    area.resize(PAGE).unwrap().complete();
    assert!(world.sim.access(1, at(A + PAGE), common::USER_READ).is_err(), "CPU 1 reads a page that is free");
    world.sim.apply(outstanding.request());
    // SAFETY: every CPU of the request has just carried it out.
    assert_eq!(unsafe { outstanding.acknowledged() }.start(), at(to));
    assert_eq!(space.fault(Fault::new(A, Access::READ)).unwrap_err(), SpaceError::NoWindow(at(A)));
    drop(area);
    end(world, space);
}

#[test]
fn untracked_memory_moves_with_its_tables() {
    let (world, space) = scene(1);
    let area = common::area(&world.sim, AreaKind::Untracked { size: 4 * PAGE }).unwrap();
    let range = space.map(&MapRequest::new(&area).at(A)).unwrap();
    store(&world.sim, 0, &space, A + PAGE, 5).unwrap();
    store(&world.sim, 0, &space, A + 3 * PAGE, 6).unwrap();
    let to = A + 0x1_1000;
    space.relocate(range, 3 * PAGE, Destination::To(Place::At(to))).unwrap().complete();
    assert_eq!(load(&world.sim, 0, &space, to + PAGE).unwrap(), 5);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), 1, "the page that was cut off is free");
    drop(area);
    end(world, space);
}

#[test]
fn growing_in_place_moving_otherwise_and_at_the_end_of_an_area() {
    let (world, space) = scene(1);
    let area = world.open(4);
    let range = common::map(&space, &area, A, 0, 4);
    let outside = AreaError::Outside { offset: 0, size: 8 * PAGE, area: 4 * PAGE };
    assert_eq!(space.relocate(range, 8 * PAGE, Destination::Anywhere).unwrap_err(), SpaceError::Area(outside));
    drop(area);
    let other = world.open(2);
    common::map(&space, &other, A + 6 * PAGE, 0, 2);
    let grown = space.relocate(range, 6 * PAGE, Destination::InPlace).unwrap().complete();
    store(&world.sim, 0, &space, A + 5 * PAGE, 5).unwrap();
    assert!(matches!(space.relocate(grown, 7 * PAGE, Destination::InPlace), Err(SpaceError::Conflict(_))));
    let moved = space.relocate(grown, 7 * PAGE, Destination::Anywhere).unwrap().complete();
    assert_ne!(moved.start(), grown.start());
    assert_eq!(load(&world.sim, 0, &space, moved.start().as_u64() + 5 * PAGE).unwrap(), 5);
    let part = space.range(moved.start().as_u64(), PAGE).unwrap();
    assert!(matches!(space.relocate(part, 2 * PAGE, Destination::Anywhere), Err(SpaceError::Conflict(_))));
    for size in [0, 1, u64::MAX - 0xfff] {
        assert!(matches!(
            space.relocate(moved, size, Destination::InPlace),
            Err(SpaceError::Range(_) | SpaceError::Area(_))
        ));
    }
    space.seal(part).unwrap();
    assert_eq!(
        space.relocate(part, PAGE, Destination::To(Place::FirstGap)).unwrap_err(),
        SpaceError::Sealed(part.start())
    );
    drop(other);
    end(world, space);
}

#[test]
fn guards_take_no_window_and_stay_with_the_addresses() {
    let (world, space) = scene(2);
    let area = world.open(64);
    let range = space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    store(&world.sim, 1, &space, A + PAGE, 5).unwrap();
    for page in (1..64).step_by(2) {
        space.install_guards(space.range(A + page * PAGE, PAGE).unwrap()).unwrap().complete();
    }
    assert_eq!(space.windows().count(), 1);
    assert!(world.sim.access(1, at(A + PAGE), common::USER_READ).is_err());
    assert_eq!(space.populate(range, Access::READ).unwrap_err(), SpaceError::Guard(at(A + PAGE)));
    assert_eq!(space.lock_pages(range).unwrap_err(), SpaceError::Guard(at(A + PAGE)));
    assert_eq!(space.frame_at(at(A + PAGE)), None);
    // Another window of the area has none.
    let other = common::map(&space, &area, A + 0x10_0000, 0, 64);
    assert_eq!(load(&world.sim, 0, &space, other.start().as_u64() + PAGE).unwrap(), 5);
    space.advise(range, Advice::NotNeeded).unwrap().complete();
    space.protect(range, Access::READ).unwrap().complete();
    let moved = space.relocate(range, 32 * PAGE, Destination::To(Place::At(A + 0x20_0000))).unwrap().complete();
    let fault = |page: u64| space.fault(Fault::new(moved.start().as_u64() + page * PAGE, common::USER_READ));
    assert!(matches!(fault(1), Err(SpaceError::Guard(_))) && fault(2).is_ok());
    assert!(matches!(fault(31), Err(SpaceError::Guard(_))));
    // What takes their place has none.
    space.map(&MapRequest::new(&area).at(A).populated()).unwrap();
    space.remove_guards(moved).unwrap();
    assert_eq!(load(&world.sim, 0, &space, moved.start().as_u64() + PAGE).unwrap(), 5);
    drop(area);
    end(world, space);
}

#[test]
fn many_windows_or_none() {
    let (world, space) = scene(1);
    let (one, two) = (world.open(4), world.open(4));
    let taken = common::map(&space, &one, A + 8 * PAGE, 0, 1);
    let before: Vec<_> = space.windows().collect();
    let first = MapRequest::new(&one).at(A).size(2 * PAGE);
    let second = MapRequest::new(&one).at(A + 2 * PAGE).offset(2 * PAGE).populated();
    let third = MapRequest::new(&two).at(A + 8 * PAGE);
    let mut ranges = [space.bounds(); 3];
    assert_eq!(space.map_many(&[first, second, third], &mut ranges).unwrap_err(), SpaceError::Conflict(taken));
    assert_eq!((space.windows().collect::<Vec<_>>(), one.windows(), one.resident_pages()), (before, 1, 0));
    assert_eq!((space.counters().windows, space.counters().reserved), (1, PAGE));
    // The two first are one window; the gaps are found beside those before.
    let anywhere = MapRequest::new(&two);
    assert_eq!(space.map_many(&[anywhere, anywhere, first, second], &mut ranges), Ok(3));
    assert_eq!(ranges.map(|range| range.start().as_u64()), [0x1000, 0x5000, A]);
    assert_eq!(space.map_many(&[second], &mut ranges), Ok(1));
    assert_eq!(space.windows().count(), 4);
    assert!(space.walk(at(A + 3 * PAGE)).physical().is_some() && space.walk(at(A)).physical().is_none());
    // The same address twice, and an untracked area twice.
    assert!(matches!(
        space.map_many(&[third.at(0x80_0000), third.at(0x80_3000)], &mut ranges),
        Err(SpaceError::Conflict(_))
    ));
    let untracked = common::area(&world.sim, AreaKind::Untracked { size: PAGE }).unwrap();
    let single = MapRequest::new(&untracked);
    assert_eq!(space.map_many(&[single, single], &mut ranges).unwrap_err(), SpaceError::SingleWindow);
    assert_eq!(space.map_many(&[single], &mut ranges), Ok(1));
    drop((one, two, untracked));
    end(world, space);
}

#[test]
fn anonymous_memory_grows_together() {
    let (world, space) = scene(1);
    let map = |address, access| space.map_anonymous(2 * PAGE, Place::At(address), access, Inherit::Copy, 0).unwrap();
    let objects = world.sim.frame_counts();
    for step in 0..20 {
        let address = A + step * 2 * PAGE;
        map(address, Access::KERNEL_DATA);
        store(&world.sim, 0, &space, address, step).unwrap();
    }
    assert_eq!(space.windows().count(), 1);
    assert_eq!(world.sim.frame_counts().of(FrameUse::Page), objects.of(FrameUse::Page) + 20);
    map(A + 40 * PAGE, Access::READ);
    assert_eq!(space.windows().count(), 2);
    // A window that does not show its area to the end is not carried on: what lies behind is not zero.
    store(&world.sim, 0, &space, A + 39 * PAGE, 9).unwrap();
    common::unmap(&space, A + 39 * PAGE, 3);
    map(A + 39 * PAGE, Access::KERNEL_DATA);
    assert_eq!(load(&world.sim, 0, &space, A + 39 * PAGE).unwrap(), 0);
    for step in 0..19 {
        assert_eq!(load(&world.sim, 0, &space, A + step * 2 * PAGE).unwrap(), step);
    }
    assert!(matches!(
        space.map_anonymous(1, Place::FirstGap, Access::READ, Inherit::Copy, 0),
        Err(SpaceError::Area(AreaError::Size(1)))
    ));
    assert!(matches!(
        space.map_anonymous(1 << 59, Place::FirstGap, Access::READ, Inherit::Copy, 0),
        Err(SpaceError::NoGap(_))
    ));
    // No area is so large.
    assert!(matches!(
        space.map_anonymous(1 << 60, Place::FirstGap, Access::READ, Inherit::Copy, 0),
        Err(SpaceError::Area(AreaError::Size(size))) if size == 1 << 60
    ));
    end(world, space);
}

#[test]
fn page_states_tell_only_what_there_is_room_for() {
    let (world, space) = scene(1);
    let area = world.open(4);
    let range = common::map(&space, &area, A, 0, 4);
    store(&world.sim, 0, &space, A + PAGE, 1).unwrap();
    load(&world.sim, 0, &space, A + 2 * PAGE).unwrap();
    let mut states = [PageState::LOCKED; 3];
    assert_eq!(space.page_states(range, &mut states), Ok(3));
    assert_eq!(states[0], PageState::MAPPED);
    assert!(states[1].contains(PageState::DIRTY | PageState::SHOWN));
    assert!(!states[2].contains(PageState::DIRTY) && states[2].contains(PageState::RESIDENT));
    assert_eq!(space.page_states(range, &mut []), Ok(0));
    let tail = space.range(A + 3 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(space.page_states(tail, &mut states), Ok(2));
    assert_eq!(states[..2], [PageState::MAPPED, PageState::empty()]);
    assert!(matches!(space.page_states(world.kernel().bounds(), &mut states), Err(SpaceError::Range(_))));
    drop(area);
    end(world, space);
}

#[test]
fn a_clone_joins_windows_that_only_a_lock_told_apart() {
    let (world, space) = scene(1);
    let area = world.open(6);
    common::map(&space, &area, A, 0, 6);
    space.lock_pages(space.range(A + 2 * PAGE, PAGE).unwrap()).unwrap().complete();
    assert_eq!(space.windows().count(), 3);
    let child = space.try_clone(()).unwrap().complete();
    assert_eq!((child.windows().count(), child.counters().windows, area.windows()), (1, 1, 4));
    drop((child, area));
    end(world, space);
}

#[test]
fn near_takes_the_address_itself_at_an_alignment_of_no_leaf() {
    let (world, space) = scene(1);
    let area = world.open(1);
    for page in [0x3f, 0x41] {
        common::map(&space, &area, A + page * PAGE, 0, 1);
    }
    // A gap of one page, which a block aligned to 64 KiB fits in only since it begins as it should.
    let near = A + 0x40 * PAGE;
    let range = space.map(&MapRequest::new(&area).place(Place::Near(near)).aligned(16)).unwrap();
    assert_eq!(range.start().as_u64(), near);
    drop(area);
    end(world, space);
}

/// Each page of untracked memory is shown at one address, also after its window was cut in two.
#[test]
fn an_untracked_window_does_not_grow_over_its_other_part() {
    let world = World::new(1);
    let space = world.user();
    let area = common::area(&world.sim, AreaKind::Untracked { size: 8 * PAGE }).unwrap();
    common::map(&space, &area, 0x10_0000, 0, 8);
    space.protect(space.range(0x10_0000, 3 * PAGE).unwrap(), Access::READ).unwrap().complete();
    let part = space.range(0x10_0000, 3 * PAGE).unwrap();
    let grown = space.relocate(part, 4 * PAGE, Destination::Anywhere).map(|flush| flush.complete());
    assert_eq!(grown, Err(SpaceError::SingleWindow));
    common::unmap(&space, 0x10_3000, 5);
    assert!(
        space.relocate(part, 4 * PAGE, Destination::Anywhere).is_ok_and(|flush| flush.complete().size() == 4 * PAGE)
    );
    drop(area);
    drop(space);
    world.finish();
}
