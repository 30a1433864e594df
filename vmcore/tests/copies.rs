//! Copies into spaces, out of them and between them, against a naive model that knows the bytes of every page that a space shows, and what it allows: every
//! count, every reason and every byte are compared. And what the model leaves out: growth, flushes that are outstanding, memory that runs out.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{KERNEL_START, PAGE, World, at, load, store};
use proptest::prelude::*;
use vmcore::addr::{Frame, FrameRange};
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, Flush, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Account, Area, AreaError, AreaKind, PageWait, SectionLayout};
use vmcore::vm_space::{CopyError, Inherit, MapRequest, Space, SpaceError};

const BASE: u64 = 0x40_0000;
const PLACES: u64 = 40;
const DEVICE: u64 = 0x20_0000;
const DEVICE_PAGES: u64 = 6;

/// Why a page refuses, as the model knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Nothing,
    Denied,
    Guard,
    Outside,
}

fn why(error: SpaceError) -> Why {
    match error {
        SpaceError::NoWindow(_) => Why::Nothing,
        SpaceError::Denied { .. } => Why::Denied,
        SpaceError::Guard(_) => Why::Guard,
        SpaceError::OutsideArea(_) => Why::Outside,
        other => panic!("the model knows no reason for: {other}"),
    }
}

#[derive(Clone, Copy, Debug)]
struct Shown {
    backing: usize,
    access: Access,
    /// By the space's guard.
    guarded: bool,
    /// By the area: its guards, its end.
    refuses: Option<Why>,
    inherit: Inherit,
}

#[derive(Clone, Debug)]
enum Op {
    Map { space: usize, place: u64, kind: u8, pages: u64, access: u8 },
    Unmap { space: usize, place: u64, pages: u64 },
    Protect { space: usize, place: u64, pages: u64, access: u8 },
    Guard { space: usize, place: u64 },
    Shrink { which: usize },
    Clone { space: usize },
    Store { space: usize, place: u64, value: u64 },
    Read { space: usize, from: u64, size: u64 },
    Write { space: usize, to: u64, size: u64, value: u8 },
    Copy { space: usize, to: u64, other: usize, from: u64, size: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (space, place) = (0..4_usize, 0..PLACES);
    let byte = 0..PLACES * PAGE;
    let size = prop_oneof![0..64_u64, 0..3 * PAGE, 0..9 * PAGE];
    prop_oneof![
        10 => (space.clone(), place.clone(), 0..8_u8, 1..9_u64, 0..9_u8)
            .prop_map(|(space, place, kind, pages, access)| Op::Map { space, place, kind, pages, access }),
        1 => (space.clone(), place.clone(), 1..4_u64).prop_map(|(space, place, pages)| Op::Unmap { space, place, pages }),
        1 => (space.clone(), place.clone(), 1..4_u64, 0..4_u8)
            .prop_map(|(space, place, pages, access)| Op::Protect { space, place, pages, access }),
        1 => (space.clone(), place.clone()).prop_map(|(space, place)| Op::Guard { space, place }),
        1 => (0..4_usize).prop_map(|which| Op::Shrink { which }),
        2 => (1..3_usize).prop_map(|space| Op::Clone { space }),
        6 => (space.clone(), place, any::<u64>()).prop_map(|(space, place, value)| Op::Store { space, place, value }),
        6 => (space.clone(), byte.clone(), size.clone()).prop_map(|(space, from, size)| Op::Read { space, from, size }),
        8 => (space.clone(), byte.clone(), size.clone(), any::<u8>())
            .prop_map(|(space, to, size, value)| Op::Write { space, to, size, value }),
        12 => (space.clone(), byte.clone(), space, byte, size)
            .prop_map(|(space, to, other, from, size)| Op::Copy { space, to, other, from, size }),
    ]
}

fn access(code: u8) -> Access {
    match code {
        0 => Access::READ,
        1 => Access::empty(),
        2 => Access::READ | Access::EXECUTE,
        _ => Access::READ | Access::WRITE,
    }
}

struct Model {
    world: World,
    /// The kernel's is the world's; two that are active, and a clone of one of them.
    spaces: [Option<Space<Sim>>; 4],
    pages: [BTreeMap<u64, Shown>; 4],
    bytes: Vec<Vec<u8>>,
    /// By the number that is their key, if they are paged, with what each page of them shows.
    areas: Vec<(Area<Sim>, Vec<usize>)>,
    device: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        let device = FrameRange::new(Frame::new(DEVICE), DEVICE_PAGES).unwrap();
        let world = World::of(Sim::builder().frames(2048).cpus(2).device(device));
        let (one, two) = (world.user(), world.user());
        world.enter(0, &one);
        world.enter(1, &two);
        let mut model = Self {
            world,
            spaces: [None, Some(one), Some(two), None],
            pages: Default::default(),
            bytes: Vec::new(),
            areas: Vec::new(),
            device: Vec::new(),
        };
        model.device = (0..DEVICE_PAGES).map(|_| model.backing(0)).collect();
        for number in 0..2 {
            let area = model.world.open(8);
            let backing = (0..8).map(|_| model.backing(0)).collect();
            model.areas.push((area, backing));
            let key = model.areas.len() as u64;
            let paged = Area::new(&model.world.sim, AreaKind::Paged { size: 8 * PAGE, key }, 0).unwrap();
            paged.set_read_ahead(1 + number).unwrap();
            let backing = (0..8).map(|page| model.backing(Self::brought(key, page))).collect();
            model.areas.push((paged, backing));
        }
        model
    }

    /// What the pager brings for a page.
    fn brought(key: u64, page: u64) -> u8 {
        (key * 16 + page + 1) as u8
    }

    fn backing(&mut self, value: u8) -> usize {
        self.bytes.push(vec![value; PAGE as usize]);
        self.bytes.len() - 1
    }

    fn space(&self, number: usize) -> Option<&Space<Sim>> {
        if number == 0 { Some(self.world.kernel()) } else { self.spaces[number].as_ref() }
    }

    fn base(number: usize) -> u64 {
        if number == 0 { KERNEL_START } else { BASE }
    }

    /// Which byte of which backing an address shows, if that may be done.
    fn look(&self, space: usize, byte: u64, wanted: Access) -> Result<(usize, usize), Why> {
        let shown = self.pages[space].get(&(byte / PAGE)).ok_or(Why::Nothing)?;
        match shown.refuses {
            _ if shown.guarded => Err(Why::Guard),
            _ if !shown.access.contains(wanted) => Err(Why::Denied),
            Some(why) => Err(why),
            None => Ok((shown.backing, (byte % PAGE) as usize)),
        }
    }

    /// Completes a copy, bringing the pages that it stops for, as a kernel does; gives how far it came.
    fn drive(&self, size: u64, mut copy: impl FnMut(u64) -> Result<Flush<Sim, ()>, CopyError>) -> (u64, Option<Why>) {
        let mut done = 0;
        for _ in 0..64 {
            match copy(done) {
                Ok(flush) => {
                    flush.complete();
                    return (size, None);
                }
                Err(CopyError { done: more, error }) => {
                    done += more as u64;
                    let SpaceError::Awaits { wait: PageWait::Request(request), .. } = error else {
                        return (done, Some(why(error)));
                    };
                    let area = &self.areas[request.key as usize].0;
                    for page in 0..request.size / PAGE {
                        let offset = request.offset + page * PAGE;
                        let bytes = [Self::brought(request.key, offset / PAGE); PAGE as usize];
                        assert_eq!(area.supply(request.token, offset, &bytes), Ok(1));
                    }
                }
            }
        }
        panic!("it does not come to an end");
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Map { space, place, kind, pages, access: code } => self.map(space, place, kind, pages, access(code)),
            Op::Unmap { space, place, pages } => {
                let Some(found) = self.space(space) else { return };
                found.unmap(found.range(Self::base(space) + place * PAGE, pages * PAGE).unwrap()).unwrap().complete();
                self.pages[space].retain(|page, _| !(place..place + pages).contains(page));
            }
            Op::Protect { space, place, pages, access: code } => {
                let Some(found) = self.space(space) else { return };
                let range = found.range(Self::base(space) + place * PAGE, pages * PAGE).unwrap();
                if let Ok(flush) = found.protect(range, access(code)) {
                    flush.complete();
                    for page in place..place + pages {
                        self.pages[space].get_mut(&page).unwrap().access = access(code);
                    }
                }
            }
            Op::Guard { space, place } => {
                let Some(found) = self.space(space) else { return };
                let range = found.range(Self::base(space) + place * PAGE, PAGE).unwrap();
                if let Ok(flush) = found.install_guards(range) {
                    flush.complete();
                    self.pages[space].get_mut(&place).unwrap().guarded = true;
                }
            }
            Op::Shrink { which } => {
                let (area, backing) = &mut self.areas[which];
                if area.size() > 3 * PAGE {
                    let size = area.size() - PAGE;
                    area.resize(size).unwrap().complete();
                    let gone = backing.pop().unwrap();
                    for shown in self.pages.iter_mut().flat_map(BTreeMap::values_mut) {
                        if shown.backing == gone && shown.refuses.is_none() {
                            shown.refuses = Some(Why::Outside);
                        }
                    }
                }
            }
            Op::Clone { space } => {
                let child = self.space(space).unwrap().try_clone(()).unwrap().complete();
                self.spaces[3] = Some(child);
                let mut pages = self.pages[space].clone();
                pages.retain(|_, shown| shown.inherit != Inherit::Nothing);
                let mut copies = BTreeMap::new();
                for shown in pages.values_mut().filter(|shown| shown.inherit == Inherit::Copy) {
                    let original = shown.backing;
                    shown.backing = *copies.entry(original).or_insert_with(|| {
                        self.bytes.push(self.bytes[original].clone());
                        self.bytes.len() - 1
                    });
                }
                self.pages[3] = pages;
            }
            Op::Store { space, place, value } => {
                // Through the tables, on the CPU that has the space.
                let Some(cpu) = [Some(0), Some(0), Some(1), None][space] else { return };
                let address = Self::base(space) + place * PAGE + value % (PAGE / 8) * 8;
                let byte = address - Self::base(space);
                let Ok((backing, offset)) = self.look(space, byte, Access::READ | Access::WRITE) else { return };
                if self
                    .areas
                    .iter()
                    .any(|(area, pages)| matches!(area.kind(), AreaKind::Paged { .. }) && pages.contains(&backing))
                {
                    // Its pager does not serve CPUs.
                    return;
                }
                store(&self.world.sim, cpu, self.space(space).unwrap(), address, value).unwrap();
                self.bytes[backing][offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
                let found = self.space(space).unwrap();
                assert_eq!(load(&self.world.sim, cpu, found, address).unwrap(), value);
            }
            Op::Read { space, from, size } => self.read(space, from, size),
            Op::Write { space, to, size, value } => {
                let Some(found) = self.space(space) else { return };
                let bytes: Vec<u8> = (0..size).map(|byte| value.wrapping_add((byte * 7) as u8)).collect();
                let start = Self::base(space) + to;
                let came = self.drive(size, |done| found.write_bytes(at(start + done), &bytes[done as usize..]));
                let mut expected = (size, None);
                for byte in 0..size {
                    match self.look(space, to + byte, Access::WRITE) {
                        Ok((backing, offset)) => self.bytes[backing][offset] = bytes[byte as usize],
                        Err(why) => {
                            expected = (byte, Some(why));
                            break;
                        }
                    }
                }
                assert_eq!(came, expected);
                self.read(space, to.saturating_sub(5), size + 10);
            }
            Op::Copy { space, to, other, from, size } => self.copy(space, to, other, from, size),
        }
    }

    fn read(&self, space: usize, from: u64, size: u64) {
        let Some(found) = self.space(space) else { return };
        let mut bytes = vec![0xee; size as usize];
        let before = self.world.sim.frame_counts().of(FrameUse::Page);
        let (start, resident) = (Self::base(space) + from, self.resident());
        let came = self.drive(size, |done| {
            found.read_bytes(at(start + done), &mut bytes[done as usize..]).map(|()| self.nothing())
        });
        let made = self.world.sim.frame_counts().of(FrameUse::Page) - before;
        assert_eq!(made, self.resident() - resident, "pages but those that were brought came into being");
        for byte in 0..size {
            match self.look(space, from + byte, Access::READ) {
                Ok((backing, offset)) => {
                    assert_eq!(bytes[byte as usize], self.bytes[backing][offset], "byte {byte} of {from:#x}+{size:#x}");
                }
                Err(why) => {
                    assert_eq!(came, (byte, Some(why)));
                    assert!(bytes[byte as usize..].iter().all(|byte| *byte == 0xee));
                    return;
                }
            }
        }
        assert_eq!(came, (size, None));
    }

    /// How many pages the pager has brought.
    fn resident(&self) -> u64 {
        let paged = self.areas.iter().filter(|(area, _)| matches!(area.kind(), AreaKind::Paged { .. }));
        paged.map(|(area, _)| area.resident_pages()).sum()
    }

    /// A flush of nothing.
    fn nothing(&self) -> Flush<Sim, ()> {
        self.world.kernel().write_bytes(at(0), &[]).unwrap()
    }

    fn copy(&mut self, space: usize, to: u64, other: usize, from: u64, size: u64) {
        let (Some(target), Some(source)) = (self.space(space), self.space(other)) else { return };
        let (mut expected, mut moves) = ((size, None), Vec::new());
        for byte in 0..size {
            let read = self.look(other, from + byte, Access::READ);
            match (read, self.look(space, to + byte, Access::WRITE)) {
                (Err(why), _) | (Ok(_), Err(why)) => {
                    expected = (byte, Some(why));
                    break;
                }
                (Ok(read), Ok(written)) => moves.push((read, written)),
            }
        }
        let read: BTreeSet<_> = moves.iter().map(|(read, _)| *read).collect();
        if moves.iter().any(|(_, written)| read.contains(written)) {
            // What they share may be read before or after it is written.
            return;
        }
        let (write_at, read_at) = (Self::base(space) + to, Self::base(other) + from);
        let came = self.drive(size, |done| {
            target.copy_from(at(write_at + done), source, at(read_at + done), (size - done) as usize)
        });
        assert_eq!(came, expected);
        for ((read, offset), (written, into)) in moves {
            self.bytes[written][into] = self.bytes[read][offset];
        }
        self.read(space, to, size);
    }

    fn map(&mut self, space: usize, place: u64, kind: u8, pages: u64, access: Access) {
        if self.space(space).is_none() || (place..place + pages).any(|page| self.pages[space].contains_key(&page)) {
            return;
        }
        let sim = self.world.sim.clone();
        let address = Self::base(space) + place * PAGE;
        let mut inherit = Inherit::Share;
        let (area, offset, backing, guards) = match kind {
            0 | 1 => {
                inherit = Inherit::Copy;
                let area = self.world.open(pages);
                (area, 0, (0..pages).map(|_| self.backing(0)).collect(), 0..0)
            }
            2 => {
                // Both places of a ring.
                let area = Area::new(&sim, AreaKind::Ring { size: pages * PAGE }, 0).unwrap();
                let once: Vec<usize> = (0..pages).map(|_| self.backing(0)).collect();
                (area, 0, [once.clone(), once].concat(), 0..0)
            }
            3 => {
                let frames = FrameRange::new(Frame::new(DEVICE), DEVICE_PAGES).unwrap();
                // SAFETY: nobody relies on what the device memory holds.
                let area = unsafe { Area::fixed(&sim, frames, MemoryType::WriteBack, 0) }.unwrap();
                let first = pages % DEVICE_PAGES;
                (area, first, self.device[first as usize..].to_vec(), 0..0)
            }
            4 => {
                inherit = Inherit::Nothing;
                let area = Area::new(&sim, AreaKind::Untracked { size: pages * PAGE }, 0).unwrap();
                (area, 0, (0..pages).map(|_| self.backing(0)).collect(), 0..0)
            }
            5 => {
                let layout = SectionLayout { pages: 2, guard: 1, count: 2 };
                let area = Area::new(&sim, AreaKind::Guarded(layout), 0).unwrap();
                area.take_section().unwrap();
                (area, 0, (0..7).map(|_| self.backing(0)).collect(), 1..3)
            }
            _ => {
                let (area, backing) = &self.areas[usize::from(kind) % 2 + 2 * (pages as usize % 2)];
                let area = area.handle(area.rights()).unwrap();
                (area, 1, backing[1..].to_vec(), 0..0)
            }
        };
        let end = (place + backing.len() as u64).min(PLACES + 8);
        if (place..end).any(|page| self.pages[space].contains_key(&page)) {
            return;
        }
        let size = (end - place) * PAGE;
        let request = MapRequest::new(&area).at(address).offset(offset * PAGE).size(size).inherit(inherit);
        let found = self.space(space).unwrap();
        match found.map(&request.access(access)) {
            Ok(_) => {}
            // Untracked memory without access cannot be.
            Err(SpaceError::Encode(_)) => return,
            Err(error) => panic!("{error}"),
        }
        for (page, backing) in (place..end).zip(backing) {
            let guard = !guards.is_empty() && !guards.contains(&(page - place));
            let refuses = guard.then_some(Why::Guard);
            self.pages[space].insert(page, Shown { backing, access, guarded: false, refuses, inherit });
        }
    }

    fn end(mut self) {
        self.world.sim.check_translations();
        for space in 0..4 {
            for page in 0..PLACES {
                if self.pages[space].get(&page).is_some_and(|shown| shown.refuses.is_none()) {
                    self.read(space, page * PAGE, PAGE);
                }
            }
        }
        for (cpu, space) in [(0, self.spaces[1].take()), (1, self.spaces[2].take())] {
            let space = space.unwrap();
            self.world.leave(cpu, &space);
        }
        self.spaces[3] = None;
        self.areas.clear();
        let kernel = self.world.kernel();
        kernel.unmap(kernel.range(KERNEL_START, (PLACES + 8) * PAGE).unwrap()).unwrap().complete();
        self.world.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn copies_agree_with_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut model = Model::new();
        for op in &ops {
            model.apply(op);
        }
        model.end();
    }
}

/// A user space on every CPU, with private memory at `BASE` whose first pages were touched.
fn private(cpus: usize, pages: u64, touched: u64) -> (World, Space<Sim>) {
    let world = World::new(cpus);
    let space = world.user();
    for cpu in 0..cpus {
        world.enter(cpu, &space);
    }
    let area = world.open(pages);
    let request = MapRequest::new(&area).at(BASE).access(Access::USER_DATA).inherit(Inherit::Copy);
    space.map(&request).unwrap();
    for page in 0..touched {
        store(&world.sim, 0, &space, BASE + page * PAGE, page + 1).unwrap();
    }
    (world, space)
}

fn end(world: World, space: Space<Sim>) {
    world.sim.check_translations();
    for cpu in 0..world.sim.cpu_count() {
        world.leave(cpu, &space);
    }
    drop(space);
    world.finish();
}

fn word(space: &Space<Sim>, address: u64) -> u64 {
    let mut bytes = [0; 8];
    space.read_bytes(at(address), &mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

fn stopped<T>(result: Result<T, CopyError>) -> (usize, SpaceError) {
    let Err(CopyError { done, error }) = result else { panic!("it did not stop") };
    (done, error)
}

/// Between two spaces at odd offsets, over many pages on both sides; where one ends, the count says how far it came and nothing behind is touched.
#[test]
fn copy_between_spaces_crosses_pages() {
    let (world, one) = private(1, 8, 0);
    let two = world.user();
    let area = world.open(5);
    two.map(&MapRequest::new(&area).at(BASE + 3 * PAGE).access(Access::USER_DATA)).unwrap();
    let bytes: Vec<u8> = (0..5 * PAGE).map(|byte| (byte % 251) as u8).collect();
    one.write_bytes(at(BASE + 77), &bytes).unwrap().complete();
    let (from, to) = (BASE + 77, BASE + 4 * PAGE - 1000);
    two.copy_from(at(to), &one, at(from), 3 * PAGE as usize + 5).unwrap().complete();
    let mut seen = vec![0; 3 * PAGE as usize + 7];
    two.read_bytes(at(to - 1), &mut seen).unwrap();
    assert_eq!((seen[0], seen[seen.len() - 1]), (0, 0), "what lies around is as it was");
    assert_eq!(seen[1..seen.len() - 1], bytes[..3 * PAGE as usize + 5]);
    // The target ends first, then the source does; neither is there at all.
    let short = two.copy_from(at(BASE + 8 * PAGE - 10), &one, at(BASE + PAGE - 3), 100);
    assert_eq!(stopped(short), (10, SpaceError::NoWindow(at(BASE + 8 * PAGE))));
    let short = two.copy_from(at(BASE + 4 * PAGE), &one, at(BASE + 8 * PAGE - 300), 8192);
    assert_eq!(stopped(short), (300, SpaceError::NoWindow(at(BASE + 8 * PAGE))));
    assert_eq!(stopped(two.copy_from(at(BASE), &one, at(BASE), 1)), (0, SpaceError::NoWindow(at(BASE))));
    assert_eq!(stopped(two.copy_from(at(u64::MAX), &one, at(BASE), 1)), (0, SpaceError::NoWindow(at(u64::MAX))));
    drop((two, area));
    end(world, one);
}

/// Reading makes neither pages nor tables; what does not exist is zero.
#[test]
fn reading_untouched_memory_makes_nothing() {
    let (world, space) = private(1, 64, 1);
    let before = world.sim.frame_counts();
    let mut bytes = vec![1; 64 * PAGE as usize];
    space.read_bytes(at(BASE), &mut bytes).unwrap();
    assert_eq!(bytes[0], 1);
    assert!(bytes[8..].iter().all(|byte| *byte == 0));
    assert_eq!(world.sim.frame_counts(), before);
    assert_eq!(space.write_bytes(at(BASE + 70), &[]).map(Flush::complete), Ok(()));
    assert_eq!(space.read_bytes(at(1), &mut []), Ok(()), "no bytes, no address");
    assert_eq!(world.sim.frame_counts(), before);
    end(world, space);
}

/// Both spaces keep their own after a clone, and CPUs that remember the page that was shared see the new one after the flush.
#[test]
fn writing_to_a_shared_page_copies_it() {
    let (world, space) = private(2, 4, 4);
    let child = space.try_clone(()).unwrap().complete();
    assert_eq!(load(&world.sim, 1, &space, BASE + PAGE).unwrap(), 2);
    let frame = space.frame_at(at(BASE + PAGE));
    let flush = space.write_bytes(at(BASE + PAGE), &77_u64.to_ne_bytes()).unwrap();
    assert_ne!(space.frame_at(at(BASE + PAGE)), frame);
    assert_eq!(child.frame_at(at(BASE + PAGE)), frame);
    assert!(!flush.is_empty());
    flush.complete();
    assert_eq!(load(&world.sim, 1, &space, BASE + PAGE).unwrap(), 77);
    assert_eq!((word(&space, BASE + PAGE), word(&child, BASE + PAGE)), (77, 2));
    // The last owner keeps its frame.
    child.write_bytes(at(BASE + PAGE), &[9]).unwrap().complete();
    assert_eq!(child.frame_at(at(BASE + PAGE)), frame);
    drop(child);
    end(world, space);
}

/// While a clone waits for its flush nothing may be written, by copies either; reading goes on.
#[test]
fn copying_while_the_page_is_cloned() {
    let (world, space) = private(2, 4, 4);
    let clone = space.try_clone(()).unwrap();
    let retry = |page: u64| SpaceError::Retry(at(BASE + page * PAGE));
    assert_eq!(stopped(space.write_bytes(at(BASE + PAGE), &[1; 8])), (0, retry(1)));
    assert_eq!(stopped(space.copy_from(at(BASE), &space, at(BASE + PAGE), 8)), (0, retry(0)));
    assert_eq!(word(&space, BASE + 2 * PAGE), 3);
    let child = clone.complete();
    let first = space.write_bytes(at(BASE + PAGE), &[1; 8]).unwrap();
    // The page that was replaced is closed until that is flushed: for the next copy, not for one that replaced it itself.
    assert_eq!(stopped(space.read_bytes(at(BASE + PAGE - 4), &mut [0; 8])), (4, SpaceError::Retry(at(BASE + PAGE))));
    assert_eq!(stopped(space.write_bytes(at(BASE + PAGE - 4), &[0; 8])), (4, retry(1)));
    first.complete();
    assert_eq!(word(&space, BASE + PAGE), u64::from_ne_bytes([1; 8]));
    // Its pages are the child's alone where the parent's were replaced.
    child.write_bytes(at(BASE + PAGE), &[2; 8]).unwrap().complete();
    assert_eq!(word(&space, BASE + PAGE), u64::from_ne_bytes([1; 8]));
    drop(child);
    end(world, space);
}

/// A copy that comes twice to a page which it replaced: within one range (two windows onto one page), and as its source.
#[test]
fn a_copy_that_meets_its_own_replacement() {
    let world = World::new(2);
    let space = world.user();
    world.enter(0, &space);
    world.enter(1, &space);
    let area = world.open(2);
    for address in [BASE, BASE + 2 * PAGE] {
        let request = MapRequest::new(&area).at(address).access(Access::USER_DATA).inherit(Inherit::Copy);
        space.map(&request).unwrap();
    }
    area.write(0, &[5; 2 * PAGE as usize]).unwrap().complete();
    let snapshot = area.snapshot().unwrap().complete();
    assert_eq!(load(&world.sim, 1, &space, BASE + 2 * PAGE).unwrap(), u64::from_ne_bytes([5; 8]));
    let bytes: Vec<u8> = (0..4 * PAGE).map(|byte| (byte / PAGE + 1) as u8).collect();
    space.write_bytes(at(BASE), &bytes).unwrap().complete();
    assert_eq!(load(&world.sim, 1, &space, BASE).unwrap(), u64::from_ne_bytes([3; 8]));
    assert_eq!(word(&space, BASE + 3 * PAGE), u64::from_ne_bytes([4; 8]));
    let mut before = [0; 2];
    snapshot.read(PAGE - 1, &mut before).unwrap();
    assert_eq!(before, [5; 2]);
    drop(snapshot);
    // Shared anew: a copy over itself, page by page, from one page to the next.
    let snapshot = area.snapshot().unwrap().complete();
    space.copy_from(at(BASE + PAGE), &space, at(BASE), 3 * PAGE as usize).unwrap().complete();
    drop(snapshot);
    drop(area);
    end(world, space);
}

/// Where a program's stack would grow, it grows for a copy; not past its limit.
#[test]
fn copies_grow_stacks() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let (limit, gap) = (8 * PAGE, PAGE);
    let stack = Area::new(&world.sim, AreaKind::Growing { limit, gap }, 0).unwrap();
    let request = MapRequest::new(&stack).at(BASE + 7 * PAGE).offset(limit - PAGE).access(Access::USER_DATA);
    space.map(&request).unwrap();
    space.write_bytes(at(BASE + 3 * PAGE + 100), &[7; 4 * PAGE as usize]).unwrap().complete();
    assert_eq!(space.windows().next().unwrap().range.start(), at(BASE + 3 * PAGE));
    assert_eq!(load(&world.sim, 0, &space, BASE + 4 * PAGE).unwrap(), u64::from_ne_bytes([7; 8]));
    assert_eq!(stopped(space.read_bytes(at(BASE - 1), &mut [0; 4])), (0, SpaceError::Guard(at(BASE - 1))));
    let mut bytes = [1; 4];
    space.read_bytes(at(BASE), &mut bytes).unwrap();
    assert_eq!((bytes, space.windows().next().unwrap().range.start()), ([0; 4], at(BASE)));
    drop(stack);
    end(world, space);
}

/// An account that is full, and pages that their pager brings later or not at all.
#[test]
fn copies_that_are_refused() {
    let (world, space) = private(1, 2, 1);
    let account = Account::new(&world.sim, 1).unwrap();
    let area = world.open(3);
    area.charge_to(&account).unwrap();
    space.map(&MapRequest::new(&area).at(BASE + 8 * PAGE).access(Access::USER_DATA)).unwrap();
    let (done, error) = stopped(space.write_bytes(at(BASE + 8 * PAGE + 1), &[3; 2 * PAGE as usize]));
    assert_eq!(done, PAGE as usize - 1);
    assert!(matches!(error, SpaceError::Area(AreaError::OutOfAccount(_))), "{error}");
    assert_eq!((account.charged(), area.resident_pages()), (1, 1));
    let failed = Area::new(&world.sim, AreaKind::Paged { size: PAGE, key: 1 }, 0).unwrap();
    let request = failed.request(0, PAGE).unwrap().unwrap();
    space.map(&MapRequest::new(&failed).at(BASE + 16 * PAGE).access(Access::USER_DATA)).unwrap();
    let wait = PageWait::Wait(request.token);
    let awaits = SpaceError::Awaits { address: at(BASE + 16 * PAGE + 9), wait };
    assert_eq!(stopped(space.write_bytes(at(BASE + 16 * PAGE + 9), &[1])), (0, awaits));
    failed.fail(request.token, 0, PAGE).unwrap();
    let refused = SpaceError::Failed(at(BASE + 16 * PAGE + 9));
    assert_eq!(stopped(space.write_bytes(at(BASE + 16 * PAGE + 9), &[1])), (0, refused));
    drop((area, account, failed));
    end(world, space);
}

/// A page that is written through a copy is dirty for its pager.
#[test]
fn what_is_copied_into_a_paged_area_is_written_back() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let area = Area::new(&world.sim, AreaKind::Paged { size: 3 * PAGE, key: 1 }, 0).unwrap();
    let request = area.request(0, 3 * PAGE).unwrap().unwrap();
    area.supply(request.token, 0, &[1; 3 * PAGE as usize]).unwrap();
    space.map(&MapRequest::new(&area).at(BASE).access(Access::USER_DATA)).unwrap();
    space.read_bytes(at(BASE), &mut [0; 100]).unwrap();
    assert_eq!(area.next_dirty(0), Ok(None));
    space.write_bytes(at(BASE + 2 * PAGE - 1), &[9; 2]).unwrap().complete();
    assert_eq!(area.next_dirty(0), Ok(Some(PAGE)));
    assert_eq!(area.next_dirty(2 * PAGE), Ok(Some(2 * PAGE)));
    drop(area);
    end(world, space);
}

/// With every k-th request for memory refused, a copy says how far it came: that much is written and nothing else, and it can go on from there.
#[test]
fn copies_that_run_out_of_memory() {
    let bytes: Vec<u8> = (0..6 * PAGE).map(|byte| (byte % 249 + 1) as u8).collect();
    for (between, cloned) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut refused = 0;
        for k in 0.. {
            let (world, space) = private(1, 72, 2);
            // A second area, so that it takes nodes as well.
            let other = world.user();
            let area = world.open(8);
            other.map(&MapRequest::new(&area).at(BASE).access(Access::USER_DATA)).unwrap();
            other.write_bytes(at(BASE), &bytes).unwrap().complete();
            let child = cloned.then(|| space.try_clone(()).unwrap().complete());
            let to = BASE + PAGE - 100;
            let copy = |done: usize| match between {
                true => space.copy_from(at(to + done as u64), &other, at(BASE + done as u64), bytes.len() - done),
                false => space.write_bytes(at(to + done as u64), &bytes[done..]),
            };
            let requests = world.sim.allocation_requests();
            world.sim.fail_kth(k);
            let result = copy(0).map(Flush::complete);
            world.sim.fail_never();
            let reached = world.sim.allocation_requests() - requests > k;
            let mut seen = vec![0; bytes.len()];
            if let Err(CopyError { done, error }) = result {
                assert!(matches!(error, SpaceError::OutOfFrames(_)), "{error}");
                space.read_bytes(at(to), &mut seen).unwrap();
                assert_eq!(seen[..done], bytes[..done]);
                // What was there before: a word at the second page's start.
                let mut rest = vec![0; bytes.len()];
                rest[100] = 2;
                assert_eq!(seen[done..], rest[done..], "behind {done}");
                refused += 1;
                copy(done).unwrap().complete();
            }
            space.read_bytes(at(to), &mut seen).unwrap();
            assert_eq!(seen, bytes);
            if let Some(child) = &child {
                assert_eq!((word(child, BASE), word(child, BASE + PAGE)), (1, 2));
            }
            drop((child, other, area));
            end(world, space);
            if !reached {
                break;
            }
        }
        assert!(refused >= 5, "{refused} requests were refused");
    }
}
