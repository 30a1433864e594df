//! Random operations on a file, private views of it, spaces that show and clone them, two CPUs and flushes that arrive late, against a naive model:
//! which frame each page of each view shows, and which word each frame holds. A CPU that has not heard of a change may go by what it
//! remembers, for as long as a flush is outstanding; and by nothing else.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{PAGE, World, at, forget};
use proptest::prelude::*;
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, DetachedFlush, Flush};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaError, AreaKind, Evicted, PageRequest, PageState, PageWait, RequestToken};
use vmcore::vm_space::{Advice, Fault, Inherit, MapRequest, Resolution, Space, SpaceError};

const CPUS: usize = 2;
const SPACES: usize = 3;
const SLOTS: usize = 2;
/// The most pages of the file.
const PAGES: u64 = 8;
/// The most views at a time.
const VIEWS: usize = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Complete,
    Later,
}

#[derive(Clone, Debug)]
enum Op {
    View { offset: u64, pages: u64 },
    Snapshot { which: usize },
    DropHandle { which: usize },
    Map { space: usize, slot: usize, which: usize, first: u64, pages: u64, populate: bool },
    MapFile { space: usize, slot: usize, first: u64, pages: u64 },
    Unmap { space: usize, slot: usize, how: How },
    Clone { space: usize, how: How },
    End { space: usize },
    Enter { cpu: usize, space: usize },
    Touch { cpu: usize, slot: usize, page: u64, write: Option<u64> },
    Prefetch { cpu: usize, slot: usize, page: u64 },
    Populate { space: usize, slot: usize, write: bool },
    Discard { space: usize, slot: usize, how: How },
    Write { which: usize, page: u64, value: u64 },
    Read { which: usize, page: u64 },
    WriteFile { page: u64, value: u64 },
    Supply,
    WriteBack,
    Evict { page: u64, pages: u64, how: How },
    Resize { pages: u64, how: How },
    ResizeView { which: usize, pages: u64, how: How },
    Acknowledge { which: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let how = || prop_oneof![Just(How::Complete), Just(How::Later)];
    let place = || (0..SPACES, 0..SLOTS);
    let which = || 0..VIEWS;
    let value = || 1..1000_u64;
    prop_oneof![
        2 => (0..PAGES, 1..=PAGES).prop_map(|(offset, pages)| Op::View { offset, pages }),
        1 => which().prop_map(|which| Op::Snapshot { which }),
        2 => which().prop_map(|which| Op::DropHandle { which }),
        5 => (place(), which(), 0..4_u64, 1..=PAGES, any::<bool>()).prop_map(
            |((space, slot), which, first, pages, populate)| Op::Map { space, slot, which, first, pages, populate }
        ),
        1 => (place(), 0..4_u64, 1..=PAGES)
            .prop_map(|((space, slot), first, pages)| Op::MapFile { space, slot, first, pages }),
        2 => (place(), how()).prop_map(|((space, slot), how)| Op::Unmap { space, slot, how }),
        3 => (0..SPACES, how()).prop_map(|(space, how)| Op::Clone { space, how }),
        1 => (0..SPACES).prop_map(|space| Op::End { space }),
        4 => (0..CPUS, 0..SPACES).prop_map(|(cpu, space)| Op::Enter { cpu, space }),
        40 => (0..CPUS, 0..SLOTS, 0..5_u64, prop::option::of(value()))
            .prop_map(|(cpu, slot, page, write)| Op::Touch { cpu, slot, page, write }),
        5 => (0..CPUS, 0..SLOTS, 0..5_u64).prop_map(|(cpu, slot, page)| Op::Prefetch { cpu, slot, page }),
        2 => (place(), any::<bool>()).prop_map(|((space, slot), write)| Op::Populate { space, slot, write }),
        3 => (place(), how()).prop_map(|((space, slot), how)| Op::Discard { space, slot, how }),
        3 => (which(), 0..PAGES, value()).prop_map(|(which, page, value)| Op::Write { which, page, value }),
        2 => (which(), 0..PAGES).prop_map(|(which, page)| Op::Read { which, page }),
        3 => (0..PAGES, value()).prop_map(|(page, value)| Op::WriteFile { page, value }),
        12 => Just(Op::Supply),
        3 => Just(Op::WriteBack),
        5 => (0..PAGES, 1..=PAGES, how()).prop_map(|(page, pages, how)| Op::Evict { page, pages, how }),
        3 => (1..=PAGES, how()).prop_map(|(pages, how)| Op::Resize { pages, how }),
        1 => (which(), 1..=PAGES, how()).prop_map(|(which, pages, how)| Op::ResizeView { which, pages, how }),
        10 => (0..16_usize).prop_map(|which| Op::Acknowledge { which }),
    ]
}

/// What is shown: the file, or a view by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Shown {
    File,
    View(u64),
}

struct View {
    handle: Option<Area<Sim>>,
    offset: u64,
    pages: u64,
    /// Its own pages' frames.
    own: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy)]
struct Window {
    shown: Shown,
    first: u64,
    pages: u64,
    gated: bool,
}

/// What the model knows of the file's page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Absent,
    Requested(u64),
    Here(u64),
}

#[allow(clippy::large_enum_variant, reason = "there are few at a time")]
enum Outstanding {
    Nothing(DetachedFlush<Sim, ()>),
    Unmap(DetachedFlush<Sim, ()>, usize, usize),
    Cut(DetachedFlush<Sim, ()>),
    Evict(DetachedFlush<Sim, Evicted>, Vec<u64>),
    /// The child's views by the parent's, as far as the clone is concerned; and its windows.
    Clone(DetachedFlush<Sim, Space<Sim>>, usize, [Option<Window>; SLOTS]),
}

struct Model {
    world: World,
    spaces: Vec<Option<Space<Sim>>>,
    windows: [[Option<Window>; SLOTS]; SPACES],
    inside: [Option<usize>; CPUS],
    file: Area<Sim>,
    size: u64,
    pages: Vec<Page>,
    disk: Vec<u64>,
    views: BTreeMap<u64, View>,
    last_name: u64,
    /// The word that each frame begins with.
    words: BTreeMap<u64, u64>,
    requests: Vec<PageRequest>,
    outstanding: Vec<Outstanding>,
    /// Frames that a CPU may remember at a place, for as long as any flush is outstanding.
    past: BTreeSet<(usize, usize, u64, u64)>,
    seen: BTreeSet<&'static str>,
}

fn address(slot: usize, page: u64) -> u64 {
    0x40_0000 + slot as u64 * 0x1f_c000 + page * PAGE
}

impl Model {
    fn new() -> Self {
        let world = World::new(CPUS);
        let spaces = (0..SPACES).map(|_| Some(world.user())).collect();
        let file = Area::new(&world.sim, AreaKind::Paged { size: PAGES * PAGE, key: 3 }, 0).unwrap();
        Self {
            world,
            spaces,
            windows: [[None; SLOTS]; SPACES],
            inside: [None; CPUS],
            file,
            size: PAGES,
            pages: vec![Page::Absent; PAGES as usize],
            disk: (0..PAGES).map(|page| 5000 + page).collect(),
            views: BTreeMap::new(),
            last_name: 0,
            words: BTreeMap::new(),
            requests: Vec::new(),
            outstanding: Vec::new(),
            past: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// The page of the file that a page of what is shown lies over, if it lies within both.
    fn below(&self, shown: Shown, page: u64) -> Option<u64> {
        let under = match shown {
            Shown::File => page,
            Shown::View(name) => {
                let view = &self.views[&name];
                if page >= view.pages {
                    return None;
                }
                view.offset + page
            }
        };
        (under < self.size).then_some(under)
    }

    /// The frame that belongs there.
    fn frame(&self, shown: Shown, page: u64) -> Option<u64> {
        let under = self.below(shown, page)?;
        if let Shown::View(name) = shown {
            if let Some(frame) = self.views[&name].own.get(&page) {
                return Some(*frame);
            }
        }
        match self.pages[under as usize] {
            Page::Here(frame) => Some(frame),
            _ => None,
        }
    }

    /// Before anything changes: what CPUs may remember from now on, until no flush is outstanding.
    fn remember(&mut self) {
        if self.outstanding.is_empty() {
            self.past.clear();
        }
        for space in 0..SPACES {
            for slot in 0..SLOTS {
                let Some(window) = self.windows[space][slot] else { continue };
                for page in 0..window.pages {
                    if let Some(frame) = self.frame(window.shown, window.first + page) {
                        self.past.insert((space, slot, page, frame));
                    }
                }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// A view without handle and windows is gone.
    fn forget_views(&mut self) {
        let mut alive: BTreeSet<u64> =
            self.views.iter().filter(|(_, view)| view.handle.is_some()).map(|(name, _)| *name).collect();
        let coming = self.outstanding.iter().filter_map(|one| match one {
            Outstanding::Clone(_, _, windows) => Some(windows),
            _ => None,
        });
        let windows = self.windows.iter().chain(coming).flatten().flatten();
        alive.extend(windows.filter_map(|window| match window.shown {
            Shown::View(name) => Some(name),
            Shown::File => None,
        }));
        self.views.retain(|name, _| alive.contains(name));
    }

    fn view_at(&self, which: usize) -> Option<u64> {
        self.views.keys().nth(which).copied()
    }

    fn asked(&mut self, request: PageRequest, first: u64, write: bool) {
        assert_eq!((request.key, request.offset, request.write), (3, first * PAGE, write));
        for page in first..first + request.size / PAGE {
            assert_eq!(self.pages[page as usize], Page::Absent, "page {page} was asked for twice");
            self.pages[page as usize] = Page::Requested(request.token.0);
        }
        self.requests.push(request);
    }

    fn awaited(&mut self, under: u64, write: bool, wait: PageWait) {
        match (self.pages[under as usize], wait) {
            (Page::Absent, PageWait::Request(request)) => self.asked(request, under, write),
            (Page::Requested(token), PageWait::Wait(RequestToken(said))) => assert_eq!(token, said),
            other => panic!("page {under}: {other:?}"),
        }
    }

    /// A view's page was wanted for writing: it is in this frame from now on.
    fn owned(&mut self, name: u64, page: u64, now: u64) {
        let before = self.frame(Shown::View(name), page).expect("a page that is not there was copied");
        if before == now {
            assert_eq!(self.views[&name].own.get(&page), Some(&now), "the file's frame was taken over");
            return;
        }
        let in_use = self.views.values().flat_map(|view| view.own.values()).any(|frame| *frame == now)
            || self.pages.contains(&Page::Here(now));
        assert!(!in_use, "a copy in a frame that is in use");
        self.seen.insert(if self.views[&name].own.contains_key(&page) { "a shared copy copied" } else { "copied" });
        self.words.insert(now, self.words[&before]);
        self.views.get_mut(&name).unwrap().own.insert(page, now);
    }

    /// Looks at what became of a view's pages, each of which may have been wanted for writing.
    fn look(&mut self, space: usize, slot: usize) {
        let Some(Window { shown: Shown::View(name), first, pages, gated: false }) = self.windows[space][slot] else {
            return;
        };
        for page in 0..pages {
            let now =
                self.spaces[space].as_ref().unwrap().frame_at(at(address(slot, page))).map(|frame| frame.number());
            if let Some(now) = now.filter(|now| self.frame(Shown::View(name), first + page) != Some(*now)) {
                self.owned(name, first + page, now);
            }
        }
    }

    fn touch(&mut self, cpu: usize, slot: usize, page: u64, write: Option<u64>) {
        let Some(space) = self.inside[cpu] else { return };
        let place = address(slot, page);
        let access = if write.is_some() { Access::USER_DATA } else { Access::READ | Access::USER };
        for _ in 0..4 {
            if let Ok(translation) = self.world.sim.access(cpu, at(place), access) {
                return self.accessed(cpu, (space, slot, page), write, translation.frame().number());
            }
            let outcome = self.spaces[space].as_ref().unwrap().fault(Fault::new(place, access)).map(Flush::complete);
            let Some(window) = self.windows[space][slot].filter(|window| page < window.pages) else {
                return assert_eq!(outcome, Err(SpaceError::NoWindow(at(place))));
            };
            let under = self.below(window.shown, window.first + page);
            match outcome {
                Err(SpaceError::Retry(_)) => return assert!(!self.is_quiet(), "nothing is outstanding"),
                Err(SpaceError::OutsideArea(_)) => return assert_eq!(under, None),
                Ok(Resolution::Request(request)) => {
                    assert_eq!(self.frame(window.shown, window.first + page), None);
                    let write = write.is_some() && window.shown == Shown::File;
                    return self.awaited(under.unwrap(), write, PageWait::Request(request));
                }
                Ok(Resolution::Wait(token)) => {
                    assert_eq!(self.frame(window.shown, window.first + page), None);
                    return self.awaited(under.unwrap(), false, PageWait::Wait(token));
                }
                Ok(Resolution::Mapped | Resolution::Spurious) => {
                    assert!(!window.gated && under.is_some());
                    if write.is_some() {
                        self.look(space, slot);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("the fault at {place:#x} repeats");
    }

    /// An access went through, in this frame: it must be the one that belongs there, or one that the CPU may remember.
    fn accessed(&mut self, cpu: usize, (space, slot, page): (usize, usize, u64), write: Option<u64>, frame: u64) {
        let window = self.windows[space][slot].filter(|window| page < window.pages).expect("nothing is mapped there");
        let belongs = self.frame(window.shown, window.first + page);
        let place = at(address(slot, page));
        if belongs != Some(frame) || window.gated {
            assert!(!self.is_quiet(), "page {page} shows frame {frame}, not {belongs:?}");
            assert!(self.past.contains(&(space, slot, page, frame)), "a frame that never was there");
            self.seen.insert("an access by what was remembered");
            if write.is_some() {
                // What it writes goes where nobody looks who is told to look; or both may see it until the flush.
                return;
            }
        }
        let Some(value) = write else {
            let word = self.world.sim.read_u64(cpu, place, true).unwrap();
            assert_eq!(Some(&word), self.words.get(&frame), "page {page} of slot {slot}, frame {frame}");
            return;
        };
        if let Shown::View(name) = window.shown {
            let view = &self.views[&name];
            assert_eq!(view.own.get(&(window.first + page)), Some(&frame), "a write to the file through a view");
            let owners = self.views.values().filter(|view| view.own.values().any(|own| *own == frame)).count();
            assert!(owners == 1 || !self.is_quiet(), "a write to a page that {owners} views have");
        }
        self.world.sim.write_u64(cpu, place, true, value).unwrap();
        self.words.insert(frame, value);
    }

    fn add(&mut self, flush: Outstanding, how: How) {
        self.outstanding.push(flush);
        if how == How::Complete {
            self.acknowledge(self.outstanding.len() - 1);
        }
    }

    fn finish_flush<T>(&self, flush: DetachedFlush<Sim, T>) -> T {
        self.world.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() }
    }

    fn acknowledge(&mut self, which: usize) {
        match self.outstanding.remove(which) {
            Outstanding::Nothing(flush) | Outstanding::Cut(flush) => self.finish_flush(flush),
            Outstanding::Unmap(flush, space, slot) => {
                self.finish_flush(flush);
                self.windows[space][slot] = None;
            }
            Outstanding::Evict(flush, marked) => {
                self.finish_flush(flush);
                for page in marked.into_iter().filter(|page| *page < self.size) {
                    let gone = self.file.page_state(page * PAGE) == Some(PageState::Absent);
                    if let (Page::Here(frame), true) = (self.pages[page as usize], gone) {
                        assert_eq!(
                            self.words[&frame], self.disk[page as usize],
                            "what was evicted was not written back"
                        );
                        self.pages[page as usize] = Page::Absent;
                    }
                }
            }
            Outstanding::Clone(flush, space, windows) => {
                self.spaces[space] = Some(self.finish_flush(flush));
                self.windows[space] = windows;
            }
        }
        self.forget_views();
    }

    fn new_view(&mut self, view: View) -> u64 {
        self.last_name += 1;
        self.views.insert(self.last_name, view);
        self.last_name
    }

    /// A space that no CPU is in.
    fn leave(&mut self, space: usize) {
        for cpu in 0..CPUS {
            if self.inside[cpu] == Some(space) {
                self.inside[cpu] = None;
                self.world.leave(cpu, self.spaces[space].as_ref().unwrap());
            }
        }
    }

    fn map(&mut self, (space, slot): (usize, usize), shown: Shown, first: u64, pages: u64, populate: bool) {
        if self.windows[space][slot].is_some() {
            return;
        }
        let (area, most) = match shown {
            Shown::File => (&self.file, self.size),
            Shown::View(name) => match &self.views[&name] {
                View { handle: Some(handle), pages, .. } => (handle, *pages),
                View { handle: None, .. } => return,
            },
        };
        let Some(to) = &self.spaces[space] else { return };
        if first + pages > most {
            return;
        }
        let inherit = if shown == Shown::File { Inherit::Share } else { Inherit::Copy };
        let request = MapRequest::new(area).at(address(slot, 0)).inherit(inherit);
        let request = request.offset(first * PAGE).size(pages * PAGE);
        let result = to.map(&if populate { request.populated() } else { request });
        if populate && (first..first + pages).any(|page| self.below(shown, page).is_none()) {
            return assert!(matches!(result, Err(SpaceError::OutsideArea(_))), "{result:?}");
        }
        result.unwrap();
        self.windows[space][slot] = Some(Window { shown, first, pages, gated: false });
    }

    fn apply(&mut self, op: &Op) {
        self.remember();
        match *op {
            Op::View { offset, pages } => {
                if self.views.len() < VIEWS && offset + pages <= self.size {
                    let handle = Some(self.file.overlay(offset * PAGE, pages * PAGE).unwrap());
                    self.new_view(View { handle, offset, pages, own: BTreeMap::new() });
                }
            }
            Op::Snapshot { which } => {
                let Some(name) = self.view_at(which).filter(|_| self.views.len() < VIEWS) else { return };
                let View { handle: Some(handle), offset, pages, own } = &self.views[&name] else { return };
                let (offset, pages, own) = (*offset, *pages, own.clone());
                let copy = handle.snapshot().unwrap().complete();
                self.new_view(View { handle: Some(copy), offset, pages, own });
            }
            Op::DropHandle { which } => {
                let Some(name) = self.view_at(which) else { return };
                self.views.get_mut(&name).unwrap().handle = None;
                self.forget_views();
            }
            Op::Map { space, slot, which, first, pages, populate } => {
                let Some(name) = self.view_at(which) else { return };
                self.map((space, slot), Shown::View(name), first, pages, populate);
            }
            Op::MapFile { space, slot, first, pages } => self.map((space, slot), Shown::File, first, pages, false),
            Op::Unmap { space, slot, how } => {
                let Some(window) = self.windows[space][slot].filter(|window| !window.gated) else { return };
                let from = self.spaces[space].as_ref().unwrap();
                let range = from.range(address(slot, 0), window.pages * PAGE).unwrap();
                let flush = from.unmap(range).unwrap().detach();
                let gone = common::is_gone_at_once(from, range, flush.request());
                self.windows[space][slot] = Some(Window { gated: true, ..window });
                self.add(Outstanding::Unmap(flush, space, slot), if gone { How::Complete } else { how });
            }
            Op::Clone { space, how } => {
                let Some(empty) = (0..SPACES).find(|space| self.spaces[*space].is_none()) else { return };
                let busy = self.outstanding.iter().any(|one| matches!(one, Outstanding::Clone(..)));
                let Some(parent) = self.spaces[space].as_ref().filter(|_| !busy && self.views.len() < VIEWS) else {
                    return;
                };
                let flush = parent.try_clone(()).unwrap().detach();
                let (mut windows, mut copies) = ([None; SLOTS], BTreeMap::new());
                for (slot, child) in windows.iter_mut().enumerate() {
                    let Some(window) = self.windows[space][slot].filter(|window| !window.gated) else { continue };
                    let shown = match window.shown {
                        Shown::File => Shown::File,
                        Shown::View(name) => Shown::View(*copies.entry(name).or_insert_with(|| {
                            let View { offset, pages, own, .. } = &self.views[&name];
                            let copy = View { handle: None, offset: *offset, pages: *pages, own: own.clone() };
                            self.last_name += 1;
                            self.views.insert(self.last_name, copy);
                            self.last_name
                        })),
                    };
                    *child = Some(Window { shown, ..window });
                }
                self.seen.insert("cloned");
                self.add(Outstanding::Clone(flush, empty, windows), how);
            }
            Op::End { space } => {
                let others = self.spaces.iter().flatten().count() > 1;
                let gated = self.windows[space].iter().flatten().any(|window| window.gated);
                if !others || gated || self.spaces[space].is_none() {
                    return;
                }
                self.leave(space);
                let gone = self.spaces[space].take().unwrap();
                gone.destroy().map_err(|(_, error)| error).unwrap().complete();
                self.windows[space] = [None; SLOTS];
                self.forget_views();
            }
            Op::Enter { cpu, space } => {
                let Some(to) = &self.spaces[space] else { return };
                self.world.enter(cpu, to);
                if let Some(before) = self.inside[cpu].replace(space).filter(|before| *before != space) {
                    forget(cpu, self.spaces[before].as_ref().unwrap());
                }
            }
            Op::Touch { cpu, slot, page, write } => self.touch(cpu, slot, page, write),
            Op::Prefetch { cpu, slot, page } => self.world.sim.prefetch(cpu, at(address(slot, page))),
            Op::Populate { space, slot, write } => self.populate(space, slot, write),
            Op::Discard { space, slot, how } => self.discard(space, slot, how),
            Op::Write { which, page, value } => {
                let Some(name) = self.view_at(which) else { return };
                let View { handle: Some(handle), .. } = &self.views[&name] else { return };
                let result = handle.write(page * PAGE, &value.to_ne_bytes()).map(Flush::complete);
                let now = handle.frame_at(page * PAGE).map(|frame| frame.number());
                if self.answered(Shown::View(name), page, result) {
                    self.owned(name, page, now.unwrap());
                    self.words.insert(now.unwrap(), value);
                }
            }
            Op::Read { which, page } => {
                let Some(name) = self.view_at(which) else { return };
                let View { handle: Some(handle), .. } = &self.views[&name] else { return };
                let mut bytes = [0; 8];
                let result = handle.read(page * PAGE, &mut bytes);
                if self.answered(Shown::View(name), page, result) {
                    let frame = self.frame(Shown::View(name), page).unwrap();
                    assert_eq!(u64::from_ne_bytes(bytes), self.words[&frame]);
                }
            }
            Op::WriteFile { page, value } => {
                let result = self.file.write(page * PAGE, &value.to_ne_bytes()).map(Flush::complete);
                if self.answered(Shown::File, page, result) {
                    let frame = self.frame(Shown::File, page).unwrap();
                    self.words.insert(frame, value);
                }
            }
            Op::Supply => {
                for request in core::mem::take(&mut self.requests) {
                    for page in request.offset / PAGE..(request.offset + request.size) / PAGE {
                        let word = self.disk[page as usize].to_ne_bytes();
                        let supplied = self.file.supply(request.token, page * PAGE, &word);
                        if page >= self.size || self.pages[page as usize] != Page::Requested(request.token.0) {
                            assert_eq!(supplied, Err(AreaError::Stale(request.token)));
                            continue;
                        }
                        assert_eq!(supplied, Ok(1));
                        let frame = self.file.frame_at(page * PAGE).unwrap().number();
                        self.words.insert(frame, self.disk[page as usize]);
                        self.pages[page as usize] = Page::Here(frame);
                    }
                }
            }
            Op::WriteBack => {
                while let Some(flush) = self.file.begin_write_back(0, self.file.size()).unwrap() {
                    let pages = flush.complete();
                    for (page, frame) in (pages.offset() / PAGE..).zip(pages.frames()) {
                        self.disk[page as usize] = self.words[&frame.number()];
                    }
                    pages.written();
                }
            }
            Op::Evict { page, pages, how } => match self.file.evict(page * PAGE, pages * PAGE) {
                Err(AreaError::Retry) => {
                    assert!(self.outstanding.iter().any(|one| matches!(one, Outstanding::Evict(..))));
                }
                flush => {
                    let marked = (page..(page + pages).min(self.size)).collect();
                    self.add(Outstanding::Evict(flush.unwrap().detach(), marked), how);
                }
            },
            Op::Resize { pages, how } => {
                let result = self.file.resize(pages * PAGE);
                if pages >= self.size {
                    let returning =
                        self.outstanding.iter().any(|one| matches!(one, Outstanding::Evict(..) | Outstanding::Cut(_)));
                    match result {
                        Err(AreaError::Retry) => return assert!(returning),
                        result => result.unwrap().complete(),
                    }
                    self.size = pages;
                    return;
                }
                let flush = result.unwrap().detach();
                for page in pages..self.size {
                    self.pages[page as usize] = Page::Absent;
                    self.disk[page as usize] += 100;
                }
                for view in self.views.values_mut() {
                    let offset = view.offset;
                    let before = view.own.len();
                    view.own.retain(|page, _| offset + page < pages);
                    if view.own.len() < before {
                        self.seen.insert("copies cut off");
                    }
                }
                self.size = pages;
                self.add(Outstanding::Cut(flush), how);
            }
            Op::ResizeView { which, pages, how } => {
                let Some(name) = self.view_at(which) else { return };
                let View { handle: Some(handle), pages: now, .. } = &self.views[&name] else { return };
                let (shrinks, result) = (pages < *now, handle.resize(pages * PAGE));
                match result {
                    Err(AreaError::Retry) => assert!(!self.is_quiet()),
                    result => {
                        let flush = result.unwrap().detach();
                        let view = self.views.get_mut(&name).unwrap();
                        view.pages = pages;
                        view.own.retain(|page, _| *page < pages);
                        self.add(Outstanding::Nothing(flush), if shrinks { how } else { How::Complete });
                    }
                }
            }
            Op::Acknowledge { which } => {
                if !self.outstanding.is_empty() {
                    self.acknowledge(which % self.outstanding.len());
                }
            }
        }
    }

    /// Whether bytes of a page were reached through a handle; why not is checked.
    fn answered(&mut self, shown: Shown, page: u64, result: Result<(), AreaError>) -> bool {
        let under = self.below(shown, page);
        match result {
            Ok(()) => return true,
            Err(AreaError::Outside { .. }) => assert_eq!(under, None),
            Err(AreaError::Retry) => assert!(!self.is_quiet()),
            Err(AreaError::Awaits(wait)) => {
                assert_eq!(self.frame(shown, page), None);
                self.awaited(under.unwrap(), false, wait);
            }
            Err(other) => panic!("{other:?}"),
        }
        false
    }

    fn populate(&mut self, space: usize, slot: usize, write: bool) {
        let Some(window) = self.windows[space][slot] else { return };
        let of = self.spaces[space].as_ref().unwrap();
        let range = of.range(address(slot, 0), window.pages * PAGE).unwrap();
        let access = if write { Access::KERNEL_DATA } else { Access::READ };
        let result = of.populate(range, access).map(Flush::complete);
        self.look(space, slot);
        let missing = (0..window.pages).find(|page| self.frame(window.shown, window.first + page).is_none());
        match result {
            Err(SpaceError::Retry(_)) => assert!(!self.is_quiet()),
            Err(SpaceError::OutsideArea(_)) => {
                assert!((0..window.pages).any(|page| self.below(window.shown, window.first + page).is_none()));
            }
            Err(SpaceError::Awaits { address: said, wait }) => {
                let page = missing.expect("nothing is missing");
                assert_eq!(said, at(address(slot, page)));
                let under = self.below(window.shown, window.first + page).unwrap();
                self.awaited(under, write && window.shown == Shown::File, wait);
            }
            Ok(()) => {
                assert_eq!(missing, None);
                if let (Shown::View(name), true, true) = (window.shown, write, self.is_quiet()) {
                    let own = &self.views[&name].own;
                    assert!(
                        (0..window.pages).all(|page| own.contains_key(&(window.first + page))),
                        "not all is copied"
                    );
                }
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn discard(&mut self, space: usize, slot: usize, how: How) {
        let Some(window) = self.windows[space][slot] else { return };
        let of = self.spaces[space].as_ref().unwrap();
        let range = of.range(address(slot, 0), window.pages * PAGE).unwrap();
        let flush = match of.advise(range, Advice::NotNeeded) {
            Err(SpaceError::Retry(_)) => return assert!(window.gated),
            flush => flush.unwrap().detach(),
        };
        let Shown::View(name) = window.shown else { return self.add(Outstanding::Nothing(flush), how) };
        let alone = self.windows.iter().flatten().flatten().filter(|other| other.shown == window.shown).count() == 1;
        let must = alone && self.is_quiet() && self.views[&name].handle.is_none();
        let mut kept = 0;
        for page in 0..window.pages {
            let page = window.first + page;
            let Some(own) = self.views[&name].own.get(&page).copied() else { continue };
            let place = at(address(slot, page - window.first));
            let now = self.spaces[space].as_ref().unwrap().frame_at(place).map(|frame| frame.number());
            if now == Some(own) {
                kept += 1;
            } else {
                assert!(self.views[&name].handle.is_none(), "released under a handle");
                self.seen.insert("copies released");
                self.views.get_mut(&name).unwrap().own.remove(&page);
            }
        }
        assert!(kept == 0 || !must, "{kept} pages that nothing else reaches were kept");
        self.add(Outstanding::Nothing(flush), how);
    }

    fn check(&mut self) {
        for page in 0..self.size {
            let said = self.file.page_state(page * PAGE).unwrap();
            match self.pages[page as usize] {
                Page::Absent => assert_eq!(said, PageState::Absent, "page {page}"),
                Page::Requested(token) => assert_eq!(said, PageState::Requested(RequestToken(token))),
                Page::Here(frame) => {
                    assert_eq!(self.file.frame_at(page * PAGE).map(|frame| frame.number()), Some(frame));
                    if said == PageState::Clean {
                        assert_eq!(self.words[&frame], self.disk[page as usize], "page {page} is clean");
                    }
                }
            }
        }
        for (name, view) in &self.views {
            let Some(handle) = &view.handle else { continue };
            assert_eq!((handle.size(), handle.resident_pages()), (view.pages * PAGE, view.own.len() as u64));
            for page in 0..PAGES {
                let frame = handle.frame_at(page * PAGE).map(|frame| frame.number());
                assert_eq!(frame, self.frame(Shown::View(*name), page), "page {page} of view {name}");
            }
        }
        for space in 0..SPACES {
            for slot in 0..SLOTS {
                let Some(window) = self.windows[space][slot].filter(|window| !window.gated) else { continue };
                for page in 0..window.pages {
                    let of = self.spaces[space].as_ref().unwrap();
                    let frame = of.frame_at(at(address(slot, page))).map(|frame| frame.number());
                    assert_eq!(
                        frame,
                        self.frame(window.shown, window.first + page),
                        "page {page} of {slot} in {space}"
                    );
                }
            }
        }
        if self.is_quiet() {
            assert_eq!(self.file.overlays(), self.views.len());
            let own = self.views.values().flat_map(|view| view.own.values().copied());
            let below =
                self.pages.iter().filter_map(|page| if let Page::Here(frame) = page { Some(*frame) } else { None });
            let frames: BTreeSet<u64> = own.chain(below).collect();
            let held = self.world.sim.frame_counts().of(FrameUse::Page) - self.world.start.of(FrameUse::Page);
            assert_eq!(held, frames.len() as u64, "frames are lost, or gone");
            self.words.retain(|frame, _| frames.contains(frame));
        }
    }

    fn end(mut self, file_first: bool) {
        while !self.outstanding.is_empty() {
            self.acknowledge(self.outstanding.len() - 1);
        }
        self.check();
        self.world.sim.check_translations();
        for space in 0..SPACES {
            self.leave(space);
        }
        let Self { world, spaces, file, views, .. } = self;
        if file_first {
            drop(file);
            drop(views);
            drop(spaces);
        } else {
            drop(spaces);
            drop(views);
            drop(file);
        }
        world.finish();
    }
}

/// What most lives come to before long: a view of most of the file, shown in a space that both CPUs are in, and room for a clone.
fn beginning() -> Vec<Op> {
    let mut ops = vec![
        Op::View { offset: 1, pages: 6 },
        Op::Map { space: 0, slot: 0, which: 0, first: 0, pages: 5, populate: false },
        Op::End { space: 2 },
    ];
    ops.extend((0..CPUS).map(|cpu| Op::Enter { cpu, space: 0 }));
    ops
}

fn run(ops: &[Op], file_first: bool) {
    let mut model = Model::new();
    beginning().iter().for_each(|op| model.apply(op));
    for op in ops {
        model.world.sim.begin_change(format!("{op:?}"));
        model.apply(op);
        model.check();
    }
    model.end(file_first);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_on_private_views(ops in prop::collection::vec(op(), 1..200), file_first: bool) {
        run(&ops, file_first);
    }
}

/// The generator reaches what it is for.
#[test]
fn the_generator_reaches_every_state() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let strategy = prop::collection::vec(op(), 100..160);
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let mut model = Model::new();
        beginning().iter().for_each(|op| model.apply(op));
        for op in strategy.new_tree(&mut runner).unwrap().current() {
            model.apply(&op);
        }
        seen.append(&mut model.seen);
        model.end(false);
    }
    let wanted = [
        "a shared copy copied",
        "an access by what was remembered",
        "cloned",
        "copied",
        "copies cut off",
        "copies released",
    ];
    assert!(seen.iter().eq(wanted.iter()), "{seen:?}");
}
