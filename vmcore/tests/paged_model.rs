//! Random operations on a paged area, two spaces that show it, two CPUs and flushes that arrive late, against a naive model:
//! a file, the state of every page, and the bytes of every frame that was ever supplied. The pager answers in any order, fails, writes back and
//! evicts whenever it likes. Whatever happens, a page that the area calls clean holds what the file holds.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{PAGE, World, at, forget};
use proptest::prelude::*;
use vmcore::paging::{Access, DetachedFlush, Flush};
use vmcore::sim::Sim;
use vmcore::vm_area::{
    Area, AreaError, AreaKind, Evicted, PageBuffer, PageRequest, PageState, PageWait, RequestToken, WriteBack,
};
use vmcore::vm_space::{Fault, MapRequest, Resolution, Space, SpaceError};

const CPUS: usize = 2;
const SPACES: usize = 2;
/// Windows of a space.
const SLOTS: usize = 2;
/// The most pages of the area.
const PAGES: u64 = 12;
const KEY: u64 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Complete,
    Later,
}

#[derive(Clone, Debug)]
enum Op {
    Map { space: usize, slot: usize, offset: u64, pages: u64, writable: bool, populate: bool },
    Unmap { space: usize, slot: usize, how: How },
    Enter { cpu: usize, space: usize },
    Touch { cpu: usize, slot: usize, page: u64, offset: u16, write: Option<u8> },
    Prefetch { cpu: usize, slot: usize, page: u64 },
    Populate { space: usize, slot: usize, page: u64, pages: u64, write: bool },
    Ask { page: u64, pages: u64 },
    ReadAhead { pages: u64 },
    Supply { which: usize, page: u64, pages: u64, short: u16, buffer: bool },
    Fail { which: usize, page: u64, pages: u64 },
    Cancel { which: usize, page: u64, pages: u64 },
    Retry { page: u64, pages: u64 },
    Read { page: u64, offset: u16, length: u16 },
    Write { page: u64, offset: u16, length: u16, value: u8 },
    BeginWriteBack { page: u64, pages: u64, how: How },
    Store { which: usize },
    EndWriteBack { which: usize, written: bool },
    Evict { page: u64, pages: u64, how: How },
    Resize { pages: u64, how: How },
    Acknowledge { which: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let how = || prop_oneof![Just(How::Complete), Just(How::Later)];
    let (page, pages, which) = (0..PAGES, 1..6_u64, 0..16_usize);
    let slot = (0..SPACES, 0..SLOTS);
    prop_oneof![
        5 => (slot.clone(), 0..6_u64, 1..9_u64, prop::bool::weighted(0.8), prop::bool::weighted(0.3)).prop_map(
            |((space, slot), offset, pages, writable, populate)| Op::Map { space, slot, offset, pages, writable, populate }
        ),
        2 => (slot.clone(), how()).prop_map(|((space, slot), how)| Op::Unmap { space, slot, how }),
        3 => (0..CPUS, 0..SPACES).prop_map(|(cpu, space)| Op::Enter { cpu, space }),
        40 => (0..CPUS, 0..SLOTS, 0..6_u64, 0..0x1000_u16, prop::option::of(any::<u8>()))
            .prop_map(|(cpu, slot, page, offset, write)| Op::Touch { cpu, slot, page, offset, write }),
        6 => (0..CPUS, 0..SLOTS, 0..6_u64).prop_map(|(cpu, slot, page)| Op::Prefetch { cpu, slot, page }),
        3 => (slot, 0..9_u64, pages.clone(), any::<bool>())
            .prop_map(|((space, slot), page, pages, write)| Op::Populate { space, slot, page, pages, write }),
        2 => (page.clone(), pages.clone()).prop_map(|(page, pages)| Op::Ask { page, pages }),
        1 => (0..5_u64).prop_map(|pages| Op::ReadAhead { pages }),
        16 => (which.clone(), 0..3_u64, pages.clone(), 0..0x1000_u16, any::<bool>()).prop_map(
            |(which, page, pages, short, buffer)| Op::Supply { which, page, pages, short, buffer }
        ),
        1 => (which.clone(), 0..3_u64, pages.clone()).prop_map(|(which, page, pages)| Op::Fail { which, page, pages }),
        1 => (which.clone(), 0..3_u64, pages.clone()).prop_map(|(which, page, pages)| Op::Cancel { which, page, pages }),
        1 => (page.clone(), pages.clone()).prop_map(|(page, pages)| Op::Retry { page, pages }),
        3 => (page.clone(), 0..0x1000_u16, 1..0x1800_u16)
            .prop_map(|(page, offset, length)| Op::Read { page, offset, length }),
        3 => (page.clone(), 0..0x1000_u16, 1..0x1800_u16, any::<u8>())
            .prop_map(|(page, offset, length, value)| Op::Write { page, offset, length, value }),
        6 => (page.clone(), pages.clone(), how())
            .prop_map(|(page, pages, how)| Op::BeginWriteBack { page, pages, how }),
        5 => which.clone().prop_map(|which| Op::Store { which }),
        4 => (which.clone(), prop::bool::weighted(0.8)).prop_map(|(which, written)| Op::EndWriteBack { which, written }),
        5 => (page, pages, how()).prop_map(|(page, pages, how)| Op::Evict { page, pages, how }),
        2 => (1..=PAGES, how()).prop_map(|(pages, how)| Op::Resize { pages, how }),
        8 => which.prop_map(|which| Op::Acknowledge { which }),
    ]
}

/// What the model knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Absent,
    Requested(u64),
    Failed,
    Here { frame: u64, dirty: bool, writing: bool, evicting: bool },
}

/// A frame that was supplied: its bytes, and who holds it.
struct Held {
    bytes: Vec<u8>,
    page: u64,
    /// The area (or a flush that gives it up), and write-backs.
    holders: usize,
    /// Flushes outstanding that take permission to write from it.
    losing_write: usize,
    /// It is not the area's page any more, or on its way out: who remembers it may go on until the flush.
    is_leaving: bool,
}

#[derive(Clone, Copy)]
struct Window {
    offset: u64,
    pages: u64,
    writable: bool,
    gated: bool,
}

struct WritingBack {
    value: WriteBack<Sim>,
    first: u64,
    frames: Vec<u64>,
    /// Whether its contents were stored in the file since it began.
    is_stored: bool,
}

#[allow(clippy::large_enum_variant, reason = "there are few at a time")]
enum Outstanding {
    Unmap(DetachedFlush<Sim, ()>, usize, usize),
    Cut(DetachedFlush<Sim, ()>, Vec<u64>),
    WriteBack(DetachedFlush<Sim, WriteBack<Sim>>, u64, Vec<u64>),
    Evict(DetachedFlush<Sim, Evicted>, Vec<(u64, u64)>),
}

struct Model {
    world: World,
    spaces: Vec<Space<Sim>>,
    area: Area<Sim>,
    file: Vec<Vec<u8>>,
    size: u64,
    pages: Vec<Page>,
    held: BTreeMap<u64, Held>,
    windows: [[Option<Window>; SLOTS]; SPACES],
    inside: [Option<usize>; CPUS],
    read_ahead: u64,
    requests: Vec<PageRequest>,
    tokens: BTreeSet<u64>,
    write_backs: Vec<WritingBack>,
    outstanding: Vec<Outstanding>,
}

fn slot_address(slot: usize) -> u64 {
    0x40_0000 + slot as u64 * 0x1f_c000
}

impl Model {
    fn new() -> Self {
        let world = World::new(CPUS);
        let spaces = (0..SPACES).map(|_| world.user()).collect();
        let area = Area::new(&world.sim, AreaKind::Paged { size: PAGES * PAGE, key: KEY }, 0).unwrap();
        let file = (0..PAGES).map(|page| (0..PAGE).map(|at| (page * 31 + at % 251) as u8).collect()).collect();
        Self {
            world,
            spaces,
            area,
            file,
            size: PAGES,
            pages: vec![Page::Absent; PAGES as usize],
            held: BTreeMap::new(),
            windows: [[None; SLOTS]; SPACES],
            inside: [None; CPUS],
            read_ahead: 1,
            requests: Vec::new(),
            tokens: BTreeSet::new(),
            write_backs: Vec::new(),
            outstanding: Vec::new(),
        }
    }

    fn page(&self, page: u64) -> Page {
        self.pages[page as usize]
    }

    fn returning(&self) -> usize {
        self.outstanding.iter().filter(|one| matches!(one, Outstanding::Cut(..) | Outstanding::Evict(..))).count()
    }

    /// The pages from `first` on that are absent, at the most so many.
    fn absent_run(&self, first: u64, most: u64) -> u64 {
        (first..self.size).take(most as usize).take_while(|page| self.page(*page) == Page::Absent).count() as u64
    }

    /// A request came out: it must be this one, with a new token.
    fn note_request(&mut self, request: PageRequest, first: u64, most: u64, write: bool) {
        let run = self.absent_run(first, most.max(self.read_ahead));
        assert_eq!((request.key, request.offset, request.size), (KEY, first * PAGE, run * PAGE), "{request:?}");
        assert_eq!(request.write, write);
        assert!(self.tokens.insert(request.token.0), "{request:?} has an old token");
        for page in first..first + run {
            self.pages[page as usize] = Page::Requested(request.token.0);
        }
        self.requests.push(request);
    }

    /// What an operation that was refused for this page must have said.
    fn check_wait(&mut self, page: u64, most: u64, write: bool, wait: PageWait) {
        match (self.page(page), wait) {
            (Page::Absent, PageWait::Request(request)) => self.note_request(request, page, most, write),
            (Page::Requested(token), PageWait::Wait(RequestToken(said))) => assert_eq!(token, said),
            (state, wait) => panic!("page {page} is {state:?}, and the answer is {wait:?}"),
        }
    }

    /// An access, through the area or a space, reached a page that is here.
    fn reach(&mut self, page: u64, write: bool) {
        let Page::Here { frame, dirty, evicting, .. } = &mut self.pages[page as usize] else {
            panic!("{page} is not here")
        };
        if core::mem::take(evicting) {
            self.held.get_mut(frame).unwrap().is_leaving = false;
        }
        *dirty |= write;
    }

    fn drop_holder(&mut self, frame: u64) {
        let held = self.held.get_mut(&frame).unwrap();
        held.holders -= 1;
        if held.holders == 0 {
            self.held.remove(&frame);
        }
    }

    fn finish_flush<T>(&self, flush: DetachedFlush<Sim, T>) -> T {
        self.world.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() }
    }

    fn acknowledge(&mut self, which: usize) {
        match self.outstanding.remove(which) {
            Outstanding::Unmap(flush, space, slot) => {
                self.finish_flush(flush);
                self.windows[space][slot] = None;
            }
            Outstanding::Cut(flush, frames) => {
                self.finish_flush(flush);
                frames.into_iter().for_each(|frame| self.drop_holder(frame));
            }
            Outstanding::WriteBack(flush, first, frames) => {
                let value = self.finish_flush(flush);
                assert_eq!((value.offset(), value.size()), (first * PAGE, frames.len() as u64 * PAGE));
                assert!(value.frames().map(|frame| frame.number()).eq(frames.iter().copied()));
                for frame in &frames {
                    self.held.get_mut(frame).unwrap().losing_write -= 1;
                }
                self.write_backs.push(WritingBack { value, first, frames, is_stored: false });
            }
            Outstanding::Evict(flush, marked) => {
                let evicted = self.finish_flush(flush);
                assert_eq!(evicted.pages, marked.len() as u64);
                for (page, frame) in marked {
                    let state = &mut self.pages[page as usize];
                    if matches!(state, Page::Here { frame: now, evicting: true, .. } if *now == frame) {
                        *state = Page::Absent;
                        self.drop_holder(frame);
                    }
                }
            }
        }
    }

    fn add(&mut self, flush: Outstanding, how: How) {
        self.outstanding.push(flush);
        if how == How::Complete {
            self.acknowledge(self.outstanding.len() - 1);
        }
    }

    fn window(&self, space: usize, slot: usize, page: u64) -> Option<Window> {
        self.windows[space][slot].filter(|window| page < window.pages)
    }

    fn touch(&mut self, cpu: usize, slot: usize, page: u64, offset: u64, write: Option<u8>) {
        let Some(space) = self.inside[cpu] else { return };
        let address = slot_address(slot) + page * PAGE + offset;
        let access = if write.is_some() { Access::USER_DATA } else { Access::READ | Access::USER };
        for _ in 0..3 {
            if let Ok(translation) = self.world.sim.access(cpu, at(address), access) {
                return self.accessed(
                    cpu,
                    self.window(space, slot, page),
                    page,
                    address,
                    write,
                    translation.frame().number(),
                );
            }
            let outcome = self.spaces[space].fault(Fault::new(address, access)).map(Flush::complete);
            let Some(window) = self.window(space, slot, page) else {
                assert_eq!(outcome, Err(SpaceError::NoWindow(at(address))));
                return;
            };
            let index = window.offset + page;
            match outcome {
                Err(SpaceError::Retry(_)) => return assert!(window.gated),
                Err(SpaceError::Denied { .. }) => return assert!(!window.gated && write.is_some() && !window.writable),
                Err(SpaceError::OutsideArea(_)) => return assert!(!window.gated && index >= self.size),
                Err(SpaceError::Failed(_)) => return assert_eq!(self.page(index), Page::Failed),
                Ok(Resolution::Request(request)) => {
                    return self.check_wait(index, 0, write.is_some(), PageWait::Request(request));
                }
                Ok(Resolution::Wait(token)) => return self.check_wait(index, 0, false, PageWait::Wait(token)),
                Ok(Resolution::Mapped | Resolution::Spurious) => {
                    assert!(!window.gated && index < self.size && (write.is_none() || window.writable));
                    self.reach(index, write.is_some());
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("the fault at {address:#x} repeats");
    }

    /// An access went through: it must have been allowed to, in this frame, and the byte must be right.
    fn accessed(&mut self, cpu: usize, window: Option<Window>, page: u64, address: u64, write: Option<u8>, frame: u64) {
        let window = window.expect("nothing is mapped there");
        let (offset, address) = ((address % PAGE) as usize, at(address));
        let index = window.offset + page;
        let is_dirty =
            matches!(self.pages.get(index as usize), Some(Page::Here { frame: now, dirty: true, .. }) if *now == frame);
        let held = self.held.get_mut(&frame).expect("a frame that was given up");
        assert_eq!(held.page, index, "another page's frame");
        let is_page = matches!(self.pages.get(index as usize), Some(Page::Here { frame: now, .. }) if *now == frame && index < self.size);
        assert!(is_page || held.is_leaving, "page {index} was cut off, and its flush acknowledged");
        let Some(value) = write else {
            let mut byte = [0];
            self.world.sim.read(cpu, address, true, &mut byte).unwrap();
            assert_eq!(byte[0], held.bytes[offset], "page {index}, byte {offset}");
            return;
        };
        assert!(is_dirty || held.losing_write > 0 || !is_page, "a write to page {index} that nobody has seen");
        self.world.sim.write(cpu, address, true, &[value]).unwrap();
        held.bytes[offset] = value;
    }

    /// The part of a request that an answer is for: first page, number of pages.
    fn part(&self, which: usize, page: u64, pages: u64) -> Option<(PageRequest, u64, u64)> {
        let request = *self.requests.get(which % self.requests.len().max(1))?;
        Some((request, request.offset / PAGE + page, pages))
    }

    fn waiting(&self, token: u64, first: u64, pages: u64) -> Vec<u64> {
        let is_waiting = |page: &u64| *page < self.size && self.page(*page) == Page::Requested(token);
        (first..first + pages).filter(is_waiting).collect()
    }

    fn answer(&mut self, token: RequestToken, waiting: &[u64], result: Result<u64, AreaError>, becomes: Page) {
        let expected = if waiting.is_empty() { Err(AreaError::Stale(token)) } else { Ok(waiting.len() as u64) };
        assert_eq!(result, expected);
        for page in waiting {
            self.pages[*page as usize] = becomes;
        }
    }

    /// The first page of a range that is not here.
    fn first_missing(&self, first: u64, pages: u64) -> Option<u64> {
        (first..first + pages).find(|page| !matches!(self.page(*page), Page::Here { .. }))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Map { space, slot, offset, pages, writable, populate } => {
                if self.windows[space][slot].is_some() || offset + pages > self.size {
                    return;
                }
                let access = if writable { Access::KERNEL_DATA } else { Access::READ };
                let request = MapRequest::new(&self.area).at(slot_address(slot)).access(access);
                let request = request.offset(offset * PAGE).size(pages * PAGE);
                let request = if populate { request.populated() } else { request };
                self.spaces[space].map(&request).unwrap();
                self.windows[space][slot] = Some(Window { offset, pages, writable, gated: false });
                for page in offset..offset + if populate { pages } else { 0 } {
                    if matches!(self.page(page), Page::Here { .. }) {
                        self.reach(page, writable);
                    }
                }
            }
            Op::Unmap { space, slot, how } => {
                let Some(window) = self.windows[space][slot].filter(|window| !window.gated) else { return };
                let range = self.spaces[space].range(slot_address(slot), window.pages * PAGE).unwrap();
                let flush = self.spaces[space].unmap(range).unwrap().detach();
                let gone = common::is_gone_at_once(&self.spaces[space], range, flush.request());
                self.windows[space][slot] = Some(Window { gated: true, ..window });
                self.add(Outstanding::Unmap(flush, space, slot), if gone { How::Complete } else { how });
            }
            Op::Enter { cpu, space } => {
                self.world.enter(cpu, &self.spaces[space]);
                if let Some(before) = self.inside[cpu].replace(space).filter(|before| *before != space) {
                    forget(cpu, &self.spaces[before]);
                }
            }
            Op::Touch { cpu, slot, page, offset, write } => self.touch(cpu, slot, page, u64::from(offset), write),
            Op::Prefetch { cpu, slot, page } => self.world.sim.prefetch(cpu, at(slot_address(slot) + page * PAGE)),
            Op::Populate { space, slot, page, pages, write } => self.populate(space, slot, page, pages, write),
            Op::Ask { page, pages } => {
                let end = (page + pages).min(self.size);
                let absent = (page..end).find(|page| self.page(*page) == Page::Absent);
                match (self.area.request(page * PAGE, pages * PAGE).unwrap(), absent) {
                    (None, None) => {}
                    (Some(request), Some(first)) => {
                        // Not as many as a fault asks for: what the caller wants.
                        let ahead = core::mem::replace(&mut self.read_ahead, 1);
                        self.note_request(request, first, end - first, false);
                        self.read_ahead = ahead;
                    }
                    other => panic!("{other:?}"),
                }
            }
            Op::ReadAhead { pages } => {
                self.area.set_read_ahead(pages).unwrap();
                self.read_ahead = pages.max(1);
            }
            Op::Supply { which, page, pages, short, buffer } => {
                let Some((request, first, pages)) = self.part(which, page, pages) else { return };
                let mut bytes: Vec<u8> = (first..first + pages)
                    .flat_map(|page| self.file.get(page as usize).cloned().unwrap_or(vec![1; PAGE as usize]))
                    .collect();
                let waiting = self.waiting(request.token.0, first, pages);
                let result = if buffer {
                    let mut filled = PageBuffer::new(&self.world.sim, pages).unwrap();
                    filled.write(0, &bytes).unwrap();
                    self.area.supply_pages(request.token, first * PAGE, filled)
                } else {
                    // The file ends within the last page: zeros follow, and the file is taken to have them.
                    let keep = bytes.len() - usize::from(short);
                    bytes[keep..].fill(0);
                    let last = first + pages - 1;
                    if waiting.contains(&last) {
                        self.file[last as usize].copy_from_slice(&bytes[bytes.len() - PAGE as usize..]);
                    }
                    self.area.supply(request.token, first * PAGE, &bytes[..keep])
                };
                self.answer(request.token, &waiting, result, Page::Absent);
                for page in waiting {
                    let frame = self.area.frame_at(page * PAGE).expect("just supplied").number();
                    let bytes = self.file[page as usize].clone();
                    let held = Held { bytes, page, holders: 1, losing_write: 0, is_leaving: false };
                    assert!(self.held.insert(frame, held).is_none(), "a frame that is in use");
                    self.pages[page as usize] = Page::Here { frame, dirty: false, writing: false, evicting: false };
                }
            }
            Op::Fail { which, page, pages } => {
                let Some((request, first, pages)) = self.part(which, page, pages) else { return };
                let waiting = self.waiting(request.token.0, first, pages);
                let result = self.area.fail(request.token, first * PAGE, pages * PAGE);
                self.answer(request.token, &waiting, result, Page::Failed);
            }
            Op::Cancel { which, page, pages } => {
                let Some((request, first, pages)) = self.part(which, page, pages) else { return };
                let waiting = self.waiting(request.token.0, first, pages);
                let result = self.area.cancel(request.token, first * PAGE, pages * PAGE);
                self.answer(request.token, &waiting, result, Page::Absent);
            }
            Op::Retry { page, pages } => {
                let mut count = 0;
                for page in page..(page + pages).min(self.size) {
                    if self.page(page) == Page::Failed {
                        self.pages[page as usize] = Page::Absent;
                        count += 1;
                    }
                }
                assert_eq!(self.area.retry(page * PAGE, pages * PAGE), Ok(count));
            }
            Op::Read { page, offset, length } => self.contents(page, u64::from(offset), u64::from(length), None),
            Op::Write { page, offset, length, value } => {
                self.contents(page, u64::from(offset), u64::from(length), Some(value));
            }
            Op::BeginWriteBack { page, pages, how } => {
                let takes = |page: u64| matches!(self.page(page), Page::Here { dirty: true, writing: false, .. });
                let end = (page + pages).min(self.size);
                let first = (page..end).find(|page| takes(*page));
                let flush = self.area.begin_write_back(page * PAGE, pages * PAGE).unwrap();
                let Some(first) = first else { return assert!(flush.is_none()) };
                let run: Vec<u64> = (first..end).take_while(|page| takes(*page)).collect();
                let mut frames = Vec::new();
                for page in run {
                    let Page::Here { frame, dirty, writing, .. } = &mut self.pages[page as usize] else {
                        unreachable!()
                    };
                    (*dirty, *writing) = (false, true);
                    let held = self.held.get_mut(frame).unwrap();
                    held.holders += 1;
                    held.losing_write += 1;
                    frames.push(*frame);
                }
                self.add(Outstanding::WriteBack(flush.expect("there are dirty pages").detach(), first, frames), how);
            }
            Op::Store { which } => {
                let count = self.write_backs.len().max(1);
                let Some(one) = self.write_backs.get_mut(which % count) else { return };
                for (number, frame) in one.frames.iter().enumerate() {
                    let mut bytes = vec![0; PAGE as usize];
                    one.value.read(number as u64 * PAGE, &mut bytes).unwrap();
                    assert!(bytes == self.held[frame].bytes, "what is written back is not what is in the page");
                    let page = one.first as usize + number;
                    // The file is as long as the area: what was cut off is not written.
                    if matches!(self.pages[page], Page::Here { frame: now, .. } if now == *frame) {
                        self.file[page] = bytes;
                    }
                }
                one.is_stored = true;
            }
            Op::EndWriteBack { which, written } => {
                if self.write_backs.is_empty() {
                    return;
                }
                let one = self.write_backs.remove(which % self.write_backs.len());
                let written = written && one.is_stored;
                if written {
                    one.value.written()
                } else {
                    drop(one.value)
                }
                for (page, frame) in (one.first..).zip(one.frames) {
                    if let Page::Here { frame: now, dirty, writing, .. } = &mut self.pages[page as usize] {
                        if *now == frame {
                            *writing = false;
                            *dirty |= !written;
                        }
                    }
                    self.drop_holder(frame);
                }
            }
            Op::Evict { page, pages, how } => {
                let result = self.area.evict(page * PAGE, pages * PAGE);
                if self.outstanding.iter().any(|one| matches!(one, Outstanding::Evict(..))) {
                    return assert!(matches!(result, Err(AreaError::Retry)));
                }
                let (mut marked, mut stay) = (Vec::new(), 0);
                for page in page..(page + pages).min(self.size) {
                    if let Page::Here { frame, dirty, writing, evicting } = &mut self.pages[page as usize] {
                        if *dirty || *writing {
                            stay += 1;
                        } else {
                            *evicting = true;
                            self.held.get_mut(frame).unwrap().is_leaving = true;
                            marked.push((page, *frame));
                        }
                    }
                }
                let flush = result.unwrap();
                if marked.is_empty() {
                    assert!(flush.is_empty());
                    let evicted = flush.complete();
                    return assert_eq!((evicted.pages, evicted.dirty, evicted.pinned), (0, stay, 0));
                }
                let flush = flush.map(|evicted| {
                    assert_eq!(evicted.dirty, stay);
                    evicted
                });
                self.add(Outstanding::Evict(flush.detach(), marked), how);
            }
            Op::Resize { pages, how } => {
                let result = self.area.resize(pages * PAGE);
                if pages >= self.size {
                    if self.returning() > 0 {
                        return assert!(matches!(result, Err(AreaError::Retry)));
                    }
                    result.unwrap().complete();
                    self.size = pages;
                    return;
                }
                let mut frames = Vec::new();
                for page in pages..self.size {
                    if let Page::Here { frame, .. } = core::mem::replace(&mut self.pages[page as usize], Page::Absent) {
                        self.held.get_mut(&frame).unwrap().is_leaving = true;
                        frames.push(frame);
                    }
                }
                self.size = pages;
                self.add(Outstanding::Cut(result.unwrap().detach(), frames), how);
            }
            Op::Acknowledge { which } => {
                if !self.outstanding.is_empty() {
                    self.acknowledge(which % self.outstanding.len());
                }
            }
        }
    }

    fn populate(&mut self, space: usize, slot: usize, page: u64, pages: u64, write: bool) {
        let Some(window) = self.windows[space][slot].filter(|window| page + pages <= window.pages) else { return };
        let start = slot_address(slot) + page * PAGE;
        let range = self.spaces[space].range(start, pages * PAGE).unwrap();
        let access = if write { Access::KERNEL_DATA } else { Access::READ };
        let result = self.spaces[space].populate(range, access).map(Flush::complete);
        let first = window.offset + page;
        let address = |page: u64| at(start + (page - first) * PAGE);
        if window.gated {
            return assert!(matches!(result, Err(SpaceError::Retry(_))), "{result:?}");
        }
        if write && !window.writable {
            return assert!(matches!(result, Err(SpaceError::Denied { .. })), "{result:?}");
        }
        if first + pages > self.size {
            return assert_eq!(result, Err(SpaceError::OutsideArea(address(first.max(self.size)))));
        }
        let missing = self.first_missing(first, pages);
        for page in first..missing.unwrap_or(first + pages) {
            self.reach(page, write);
        }
        match (missing, result) {
            (None, Ok(())) => {}
            (Some(page), Err(SpaceError::Failed(said))) => {
                assert_eq!((self.page(page), said), (Page::Failed, address(page)));
            }
            (Some(page), Err(SpaceError::Awaits { address: said, wait })) => {
                assert_eq!(said, address(page));
                self.check_wait(page, first + pages - page, write, wait);
            }
            other => panic!("{other:?}"),
        }
    }

    fn contents(&mut self, page: u64, offset: u64, length: u64, write: Option<u8>) {
        let start = page * PAGE + offset;
        let length = length.min((self.size * PAGE).saturating_sub(start));
        if length == 0 {
            return;
        }
        let mut bytes = vec![write.unwrap_or(0); length as usize];
        let result = match write {
            Some(_) => self.area.write(start, &bytes).map(Flush::complete),
            None => self.area.read(start, &mut bytes),
        };
        let pages = (start + length - 1) / PAGE - page + 1;
        match (self.first_missing(page, pages), result) {
            (None, Ok(())) => {}
            (Some(missing), Err(AreaError::Failed(said))) => {
                return assert_eq!((self.page(missing), said), (Page::Failed, missing * PAGE));
            }
            (Some(missing), Err(AreaError::Awaits(wait))) => {
                return self.check_wait(missing, page + pages - missing, false, wait);
            }
            other => panic!("{other:?}"),
        }
        for page in page..page + pages {
            self.reach(page, write.is_some());
        }
        for (byte, at) in bytes.iter().zip(start..) {
            let Page::Here { frame, .. } = self.page(at / PAGE) else { unreachable!() };
            let held = &mut self.held.get_mut(&frame).unwrap().bytes[(at % PAGE) as usize];
            match write {
                Some(value) => *held = value,
                None => assert_eq!(*byte, *held, "byte {at:#x}"),
            }
        }
    }

    /// Everything that can be asked is as the model says; and what is clean is what the file holds.
    fn check(&self) {
        let mut resident = 0;
        for page in 0..PAGES {
            let said = self.area.page_state(page * PAGE);
            if page >= self.size {
                assert_eq!(said, None);
                continue;
            }
            let expected = match self.page(page) {
                Page::Absent => PageState::Absent,
                Page::Requested(token) => PageState::Requested(RequestToken(token)),
                Page::Failed => PageState::Failed,
                Page::Here { dirty, writing: true, .. } => PageState::WritingBack { dirty },
                Page::Here { evicting: true, .. } => PageState::Evicting,
                Page::Here { dirty: true, .. } => PageState::Dirty,
                Page::Here { .. } => PageState::Clean,
            };
            assert_eq!(said, Some(expected), "page {page}");
            let frame = self.area.frame_at(page * PAGE).map(|frame| frame.number());
            if let Page::Here { frame: expected, dirty, writing, .. } = self.page(page) {
                resident += 1;
                assert_eq!(frame, Some(expected));
                if !dirty && !writing {
                    assert!(
                        self.held[&expected].bytes == self.file[page as usize],
                        "page {page} is clean, and not what the file holds"
                    );
                }
            } else {
                assert_eq!(frame, None);
            }
        }
        assert_eq!((self.area.size(), self.area.resident_pages()), (self.size * PAGE, resident));
        let frames = self.world.sim.frame_counts().of(vmcore::frame::FrameUse::Page);
        assert_eq!(frames - self.world.start.of(vmcore::frame::FrameUse::Page), self.held.len() as u64);
        let shown = self.windows.iter().flatten().flatten().count();
        assert_eq!(self.area.windows(), shown);
    }

    /// Some of the flushes are acknowledged, the rest of the area's life is cut short, and every frame is back.
    fn end(mut self, handle_first: bool) {
        for cpu in 0..CPUS {
            if let Some(space) = self.inside[cpu].take() {
                self.world.leave(cpu, &self.spaces[space]);
            }
        }
        while !self.outstanding.is_empty() {
            self.acknowledge(self.outstanding.len() - 1);
        }
        self.check();
        self.world.sim.check_translations();
        let Self { world, spaces, area, write_backs, .. } = self;
        // Requests that nobody answered, and write-backs that nobody ended, are no obstacle.
        if handle_first {
            drop(area);
            drop(spaces);
            drop(write_backs);
        } else {
            drop(write_backs);
            drop(spaces);
            drop(area);
        }
        world.finish();
    }
}

/// What most lives come to before long: both CPUs in one space, and the area shown whole for writing.
fn beginning() -> Vec<Op> {
    let map = |space, slot| Op::Map { space, slot, offset: slot as u64, pages: 8, writable: true, populate: false };
    let mut ops = vec![map(0, 0), map(0, 1), map(1, 0)];
    ops.extend((0..CPUS).map(|cpu| Op::Enter { cpu, space: 0 }));
    ops
}

fn run(ops: &[Op], handle_first: bool) {
    let mut model = Model::new();
    beginning().iter().for_each(|op| model.apply(op));
    for op in ops {
        model.world.sim.begin_change(format!("{op:?}"));
        model.apply(op);
        model.check();
    }
    model.end(handle_first);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_on_a_paged_area(ops in prop::collection::vec(op(), 1..240), handle_first: bool) {
        run(&ops, handle_first);
    }
}

/// The generator reaches what it is for: pages of every state, late flushes of every kind, and stale writers.
#[test]
fn the_generator_reaches_every_state() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, TestRunner};
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let strategy = prop::collection::vec(op(), 100..160);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let mut model = Model::new();
        beginning().iter().for_each(|op| model.apply(op));
        for op in strategy.new_tree(&mut runner).unwrap().current() {
            model.apply(&op);
            for page in &model.pages {
                seen.insert(match page {
                    Page::Absent => "absent",
                    Page::Requested(_) => "requested",
                    Page::Failed => "failed",
                    Page::Here { dirty: true, writing: true, .. } => "written to while it is written back",
                    Page::Here { writing: true, .. } => "writing back",
                    Page::Here { evicting: true, .. } => "evicting",
                    Page::Here { dirty: true, .. } => "dirty",
                    Page::Here { .. } => "clean",
                });
            }
            if model.held.values().any(|held| held.is_leaving && held.holders > 1) {
                seen.insert("cut off while it is written back");
            }
            for outstanding in &model.outstanding {
                seen.insert(match outstanding {
                    Outstanding::Unmap(..) => "unmap outstanding",
                    Outstanding::Cut(..) => "cut outstanding",
                    Outstanding::WriteBack(..) => "write-back outstanding",
                    Outstanding::Evict(..) => "eviction outstanding",
                });
            }
        }
        model.end(false);
    }
    assert_eq!(seen.len(), 13, "{seen:?}");
}
