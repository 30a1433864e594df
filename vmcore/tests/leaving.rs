//! Windows that are shown elsewhere and stay where they were, empty: what goes along, what is left, and that nothing is used through a stale translation
//! while the flush is outstanding. A random test compares every word with a map of addresses to values.

mod common;

use std::collections::BTreeMap;

use common::{PAGE, USER_WRITE, World, at, load, store, touch};
use proptest::prelude::*;
use vmcore::addr::PageRange;
use vmcore::frame::FrameUse;
use vmcore::inspect::SpaceMap;
use vmcore::paging::{Access, DetachedFlush, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Account, Area, AreaError, AreaKind};
use vmcore::vm_space::{Advice, Inherit, MapRequest, Place, Space, SpaceError, SpaceLimit, SpaceLimits, WindowFlags};

const A: u64 = 0x40_0000;
const B: u64 = 0x80_0000;

struct Bench {
    world: World,
    space: Space<Sim>,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(2);
        let space = world.user();
        for cpu in 0..2 {
            world.enter(cpu, &space);
        }
        Self { world, space }
    }

    fn anonymous(&self, address: u64, pages: u64, inherit: Inherit) -> PageRange {
        self.space.map_anonymous(pages * PAGE, Place::At(address), Access::USER_DATA, inherit, 0).unwrap()
    }

    fn range(&self, address: u64, pages: u64) -> PageRange {
        self.space.range(address, pages * PAGE).unwrap()
    }

    fn store(&self, cpu: usize, address: u64, value: u64) {
        store(&self.world.sim, cpu, &self.space, address, value).unwrap();
    }

    fn load(&self, cpu: usize, address: u64) -> u64 {
        load(&self.world.sim, cpu, &self.space, address).unwrap()
    }

    fn leave(&self, range: PageRange, to: u64) -> PageRange {
        self.space.relocate_leaving(range, Place::At(to)).unwrap().complete()
    }

    fn acknowledge<T>(&self, flush: DetachedFlush<Sim, T>) -> T {
        self.world.sim.apply(flush.request());
        // SAFETY: every CPU of the request has just carried it out.
        unsafe { flush.acknowledged() }
    }

    /// The windows: where, from which page of the area on, how many resident pages.
    fn windows(&self) -> Vec<(u64, u64, u64, u64)> {
        let windows = self.space.windows();
        let row = |w: vmcore::vm_space::WindowInfo| {
            (w.range.start().as_u64(), w.range.size() / PAGE, w.offset / PAGE, w.resident_pages)
        };
        windows.map(row).collect()
    }

    fn end(self) {
        self.world.sim.check_translations();
        for cpu in 0..2 {
            self.world.leave(cpu, &self.space);
        }
        drop(self.space);
        self.world.finish();
    }
}

#[test]
fn private_pages_go_and_fresh_memory_stays() {
    let bench = Bench::new();
    let whole = bench.anonymous(A, 8, Inherit::Copy);
    for page in 0..8 {
        bench.store(0, A + page * PAGE, page + 1);
        assert_eq!(bench.load(1, A + page * PAGE), page + 1);
    }
    let frames: Vec<_> = (2..5).map(|page| bench.space.frame_at(at(A + page * PAGE))).collect();
    let pages = bench.world.sim.frame_counts().of(FrameUse::Page);
    let moved = bench.leave(bench.range(A + 2 * PAGE, 3), B);
    assert_eq!((moved.start(), moved.size()), (at(B), 3 * PAGE));
    assert_eq!(bench.world.sim.frame_counts().of(FrameUse::Page), pages, "no page is copied");
    assert_eq!(bench.windows(), [(A, 2, 0, 2), (A + 2 * PAGE, 3, 2, 0), (A + 5 * PAGE, 3, 5, 3), (B, 3, 2, 3)]);
    let after: Vec<_> = (0..3).map(|page| bench.space.frame_at(at(B + page * PAGE))).collect();
    assert_eq!(after, frames);
    for page in 0..8 {
        let value = if (2..5).contains(&page) { 0 } else { page + 1 };
        assert_eq!(bench.load(1, A + page * PAGE), value);
    }
    bench.store(1, A + 2 * PAGE, 99);
    bench.store(0, B, 100);
    assert_eq!((bench.load(0, A + 2 * PAGE), bench.load(1, B), bench.load(1, B + PAGE)), (99, 100, 4));
    // What was left can be left once more, and so can what has moved.
    bench.leave(bench.range(A, 2), B + 0x10 * PAGE);
    bench.leave(moved, B + 0x20 * PAGE);
    assert_eq!((bench.load(0, A), bench.load(0, B), bench.load(0, B + 0x20 * PAGE)), (0, 0, 100));
    assert_eq!(bench.load(1, B + 0x11 * PAGE), 2);
    bench.space.unmap(whole).unwrap().complete();
    bench.end();
}

/// Memory that others see as well: both windows show it.
#[test]
fn shared_pages_are_shown_at_both_places() {
    let bench = Bench::new();
    let area = bench.world.open(4);
    bench.space.map(&MapRequest::new(&area).at(A).access(Access::USER_DATA).inherit(Inherit::Copy)).unwrap();
    bench.store(0, A + PAGE, 5);
    bench.leave(bench.range(A, 4), B);
    assert_eq!(bench.world.sim.access(0, at(A + PAGE), USER_WRITE).ok().map(|_| ()), None, "the tables are empty");
    assert_eq!((bench.load(0, A + PAGE), bench.load(1, B + PAGE)), (5, 5));
    bench.store(1, B + PAGE, 6);
    bench.store(1, A + 2 * PAGE, 7);
    assert_eq!((bench.load(0, A + PAGE), bench.load(0, B + 2 * PAGE)), (6, 7));
    assert_eq!((area.windows(), area.resident_pages()), (2, 2));
    drop(area);
    // Without a handle, but inherited as shared.
    let shared = bench.anonymous(A + 0x20 * PAGE, 4, Inherit::Share);
    bench.store(0, A + 0x21 * PAGE, 8);
    bench.leave(bench.range(A + 0x21 * PAGE, 1), B + 0x20 * PAGE);
    assert_eq!((bench.load(0, A + 0x21 * PAGE), bench.load(1, B + 0x20 * PAGE)), (8, 8));
    assert!(bench.windows().iter().any(|row| (row.0, row.1) == (shared.start().as_u64(), 4)), "one window, as before");
    bench.end();
}

/// Guards and locked pages go along, and so does who pays and the memory type stays with both.
#[test]
fn what_goes_along() {
    let bench = Bench::new();
    let account = Account::new(&bench.world.sim, 3).unwrap();
    let area = bench.world.open(4);
    area.charge_to(&account).unwrap();
    area.set_memory(MemoryType::WriteCombining).unwrap().complete();
    bench.space.map(&MapRequest::new(&area).at(A).access(Access::USER_DATA).inherit(Inherit::Copy)).unwrap();
    drop(area);
    bench.store(0, A, 1);
    bench.space.lock_pages(bench.range(A, 2)).unwrap().complete();
    bench.space.install_guards(bench.range(A + 3 * PAGE, 1)).unwrap().complete();
    bench.leave(bench.range(A, 2), B);
    let flags = |address: u64| bench.space.window_after(at(address)).unwrap().flags;
    assert_eq!((flags(A), flags(B)), (WindowFlags::empty(), WindowFlags::LOCKED));
    bench.leave(bench.range(A + 2 * PAGE, 2), B + 2 * PAGE);
    let guard = |address: u64| touch(&bench.world.sim, 0, &bench.space, address, USER_WRITE).err();
    assert_eq!((guard(A + 3 * PAGE), guard(B + 3 * PAGE)), (None, Some(SpaceError::Guard(at(B + 3 * PAGE)))));
    assert_eq!(account.charged(), 3);
    let full = touch(&bench.world.sim, 0, &bench.space, A, USER_WRITE).unwrap_err();
    assert!(matches!(full, SpaceError::Area(AreaError::OutOfAccount(_))), "{full}");
    bench.space.unlock_pages(bench.range(B, 2)).unwrap();
    bench.space.advise(bench.range(B, 2), Advice::NotNeeded).unwrap().complete();
    bench.store(0, A, 2);
    let explained = |address: u64| bench.space.walk(at(address)).to_string();
    assert!(explained(A).contains("rw-u WC"), "{}", explained(A));
    drop(account);
    bench.end();
}

/// A CPU remembers the pages at the old addresses until the flush: they are not freed before, whatever becomes of the new window.
#[test]
fn frames_outlive_what_other_cpus_remember() {
    let bench = Bench::new();
    let range = bench.anonymous(A, 2, Inherit::Copy);
    bench.store(1, A, 7);
    bench.store(1, A + PAGE, 8);
    let flush = bench.space.relocate_leaving(range, Place::At(B)).unwrap().detach();
    // CPU 1 goes on with what it remembers; that is the page at its new place.
    bench.world.sim.write_u64(1, at(A), true, 9).unwrap();
    assert_eq!(bench.load(0, B), 9);
    bench.store(0, A + PAGE, 1);
    let pages = bench.world.sim.frame_counts().of(FrameUse::Page);
    bench.space.advise(bench.range(B, 1), Advice::NotNeeded).unwrap().complete();
    bench.space.unmap(bench.range(B, 2)).unwrap().complete();
    assert_eq!(bench.world.sim.frame_counts().of(FrameUse::Page), pages, "CPU 1 can reach them");
    bench.world.sim.write_u64(1, at(A), true, 10).unwrap();
    bench.acknowledge(flush);
    bench.world.sim.check_translations();
    assert_eq!(bench.world.sim.frame_counts().of(FrameUse::Page), pages - 2);
    assert_eq!((bench.load(1, A), bench.load(1, A + PAGE)), (0, 1));
    assert_eq!(bench.windows().len(), 1);
    bench.end();
}

/// What is done to the window that was left is true of CPUs that remember what it showed before, although its tables hold nothing.
#[test]
fn changes_of_what_was_left_reach_every_cpu() {
    for change in 0..3 {
        let bench = Bench::new();
        let range = bench.anonymous(A, 2, Inherit::Copy);
        bench.store(1, A, 7);
        let flush = bench.space.relocate_leaving(range, Place::At(B)).unwrap().detach();
        assert!(bench.world.sim.access(1, at(A), USER_WRITE).is_ok(), "remembered");
        match change {
            0 => bench.space.unmap(range).unwrap().complete(),
            1 => bench.space.protect(range, Access::READ).unwrap().complete(),
            _ => bench.space.install_guards(range).unwrap().complete(),
        }
        assert!(bench.world.sim.access(1, at(A), USER_WRITE).is_err());
        assert_eq!(bench.load(0, B), 7);
        bench.acknowledge(flush);
        bench.end();
    }
}

/// Twice before either flush, a clone in between, and the end of the space before the flush.
#[test]
fn leaving_while_a_flush_is_outstanding() {
    let bench = Bench::new();
    let range = bench.anonymous(A, 2, Inherit::Copy);
    bench.store(1, A, 7);
    // CPU 0 forgets at once, CPU 1 only at the end.
    let leave = |range, to| {
        let flush = bench.space.relocate_leaving(range, Place::At(to)).unwrap().detach();
        bench.world.sim.apply_on(0, flush.request());
        flush
    };
    let first = leave(range, B);
    bench.store(0, A, 8);
    let second = leave(range, B + 0x10 * PAGE);
    bench.store(0, A, 9);
    let third = leave(bench.range(B, 2), B + 0x20 * PAGE);
    let child = bench.space.try_clone(()).unwrap().complete();
    let values = |space: &Space<Sim>| {
        [A, B, B + 0x10 * PAGE, B + 0x20 * PAGE].map(|address| {
            let mut bytes = [0; 8];
            space.read_bytes(at(address), &mut bytes).unwrap();
            u64::from_ne_bytes(bytes)
        })
    };
    assert_eq!((values(&bench.space), values(&child)), ([9, 0, 8, 7], [9, 0, 8, 7]));
    for (address, value) in [(A, 1), (B, 2), (B + 0x10 * PAGE, 3), (B + 0x20 * PAGE, 4)] {
        bench.store(0, address, value);
    }
    assert_eq!((values(&bench.space), values(&child)), ([1, 2, 3, 4], [9, 0, 8, 7]));
    bench.acknowledge(third);
    bench.acknowledge(first);
    for cpu in 0..2 {
        bench.world.leave(cpu, &bench.space);
    }
    let Bench { world, space } = bench;
    let end = space.destroy().map_err(|(_, error)| error).unwrap();
    world.sim.apply(second.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { second.acknowledged() };
    end.complete();
    drop(child);
    world.finish();
}

#[test]
fn what_cannot_be_left() {
    let bench = Bench::new();
    let range = bench.anonymous(A, 4, Inherit::Copy);
    bench.store(0, A + PAGE, 5);
    let growing = Area::new(&bench.world.sim, AreaKind::Growing { limit: 8 * PAGE, gap: PAGE }, 0).unwrap();
    let stack = bench.space.map(&MapRequest::new(&growing).at(B).offset(7 * PAGE)).unwrap();
    let untracked = Area::new(&bench.world.sim, AreaKind::Untracked { size: PAGE }, 0).unwrap();
    let request = MapRequest::new(&untracked).at(B + 0x10 * PAGE).inherit(Inherit::Nothing);
    let single = bench.space.map(&request).unwrap();
    bench.anonymous(B + 0x20 * PAGE, 1, Inherit::Copy);
    bench.space.seal(bench.range(B + 0x20 * PAGE, 1)).unwrap();
    let before = SpaceMap(&bench.space).to_string();
    let leave = |range, place| bench.space.relocate_leaving(range, place).map(|flush| flush.complete()).unwrap_err();
    let far = Place::At(B + 0x100 * PAGE);
    assert_eq!(leave(stack, far), SpaceError::Area(AreaError::Kind));
    assert_eq!(leave(single, far), SpaceError::SingleWindow);
    assert_eq!(leave(bench.range(B + 0x20 * PAGE, 1), far), SpaceError::Sealed(at(B + 0x20 * PAGE)));
    assert_eq!(leave(bench.range(A, 5), far), SpaceError::NoWindow(at(A + 4 * PAGE)));
    assert_eq!(leave(range, Place::At(A + 2 * PAGE)), SpaceError::Conflict(range));
    assert_eq!(leave(range, Place::At(B - PAGE)), SpaceError::Conflict(stack));
    bench.space.set_limits(SpaceLimits::NONE.reserved(8 * PAGE));
    assert_eq!(leave(range, far), SpaceError::Limit(SpaceLimit::Reserved(8 * PAGE)));
    bench.space.set_limits(SpaceLimits::NONE.windows(4));
    assert_eq!(leave(bench.range(A, 1), far), SpaceError::Limit(SpaceLimit::Windows(4)));
    assert_eq!(SpaceMap(&bench.space).to_string(), before);
    assert_eq!((bench.load(1, A + PAGE), bench.space.counters().windows), (5, 4));
    // With just enough, while nothing has been acknowledged: what is left is counted once.
    bench.space.set_limits(SpaceLimits::NONE.windows(5).reserved(11 * PAGE));
    let flush = bench.space.relocate_leaving(range, far).unwrap().detach();
    assert_eq!((bench.space.counters().windows, bench.space.counters().reserved), (5, 11 * PAGE));
    bench.acknowledge(flush);
    assert_eq!((bench.space.counters().windows, bench.space.counters().reserved), (5, 11 * PAGE));
    drop((growing, untracked));
    bench.end();
}

#[derive(Clone, Debug)]
enum Op {
    Map { place: u64, pages: u64 },
    Unmap { place: u64, pages: u64, later: bool },
    Leave { place: u64, pages: u64, to: u64, later: bool },
    Store { cpu: usize, place: u64, value: u64 },
    Load { cpu: usize, place: u64 },
    Release { place: u64, later: bool },
    Clone,
    Acknowledge { which: usize },
}

const PLACES: u64 = 28;

fn op() -> impl Strategy<Value = Op> {
    let place = 0..PLACES;
    prop_oneof![
        4 => (place.clone(), 1..6_u64).prop_map(|(place, pages)| Op::Map { place, pages }),
        2 => (place.clone(), 1..4_u64, any::<bool>()).prop_map(|(place, pages, later)| Op::Unmap { place, pages, later }),
        5 => (place.clone(), 1..5_u64, place.clone(), any::<bool>())
            .prop_map(|(place, pages, to, later)| Op::Leave { place, pages, to, later }),
        12 => (0..2_usize, place.clone(), 1..u64::MAX).prop_map(|(cpu, place, value)| Op::Store { cpu, place, value }),
        8 => (0..2_usize, place.clone()).prop_map(|(cpu, place)| Op::Load { cpu, place }),
        2 => (place, any::<bool>()).prop_map(|(place, later)| Op::Release { place, later }),
        1 => Just(Op::Clone),
        4 => (0..4_usize).prop_map(|which| Op::Acknowledge { which }),
    ]
}

/// Anonymous private memory, a page a word. Values are compared where no flush concerns the address; a CPU that goes on with what it remembers is the
/// machine's to judge.
fn run(ops: &[Op]) {
    let bench = Bench::new();
    let mut words = BTreeMap::new();
    // With the places that they concern, and whether these were unmapped.
    let mut held: Vec<(DetachedFlush<Sim, ()>, Vec<u64>, bool)> = Vec::new();
    let mut children = Vec::new();
    let address = |place: u64| A + 0x1f_8000 + place * PAGE;
    for op in ops {
        let pending = |place: u64, held: &[(_, Vec<u64>, bool)]| held.iter().any(|(_, at, _)| at.contains(&place));
        let gated =
            |place: u64, held: &[(_, Vec<u64>, bool)]| held.iter().any(|(_, at, gone)| *gone && at.contains(&place));
        match *op {
            Op::Map { place, pages } => {
                let places = place..(place + pages).min(PLACES);
                if places.clone().any(|place| words.contains_key(&place) || gated(place, &held)) {
                    continue;
                }
                bench.anonymous(address(place), places.end - place, Inherit::Copy);
                words.extend(places.map(|place| (place, 0)));
            }
            Op::Unmap { place, pages, later } => {
                let places: Vec<u64> = (place..(place + pages).min(PLACES)).collect();
                let range = bench.range(address(place), places.len() as u64);
                let flush = bench.space.unmap(range).unwrap();
                let at_once = common::is_gone_at_once(&bench.space, range, flush.request());
                let gone = places.into_iter().filter(|place| words.remove(place).is_some()).collect();
                let flush = flush.detach();
                if later && !at_once { held.push((flush, gone, true)) } else { bench.acknowledge(flush) }
            }
            Op::Leave { place, pages, to, later } => {
                let (from, into) = (place..place + pages, to..to + pages);
                let range = bench.range(address(place), pages);
                let free = into.clone().all(|place| !words.contains_key(&place) && !gated(place, &held));
                let there = from.clone().all(|place| words.contains_key(&place));
                let before = bench.windows().len();
                match bench.space.relocate_leaving(range, Place::At(address(to))) {
                    Ok(flush) => {
                        assert!(free && there, "left in spite of what is there");
                        let moved: Vec<_> = from.clone().map(|place| words.insert(place, 0).unwrap()).collect();
                        words.extend(into.zip(moved));
                        let flush = flush.map(drop).detach();
                        if later { held.push((flush, from.collect(), false)) } else { bench.acknowledge(flush) }
                    }
                    Err(error) => {
                        let several = matches!(error, SpaceError::SeveralWindows(_));
                        assert!(several || !free || !there || from.into_iter().any(|at| gated(at, &held)), "{error}");
                        assert_eq!(bench.windows().len(), before);
                    }
                }
            }
            Op::Store { cpu, place, value } => {
                if words.contains_key(&place) && !pending(place, &held) {
                    bench.store(cpu, address(place), value);
                    words.insert(place, value);
                }
            }
            Op::Load { cpu, place } => match words.get(&place) {
                _ if pending(place, &held) => {}
                Some(value) => assert_eq!(bench.load(cpu, address(place)), *value),
                None => assert!(touch(&bench.world.sim, cpu, &bench.space, address(place), USER_WRITE).is_err()),
            },
            Op::Release { place, later } => {
                // Pages that a window which waits for its flush shows as well are not released.
                if words.contains_key(&place) && held.is_empty() {
                    let flush = bench.space.advise(bench.range(address(place), 1), Advice::NotNeeded).unwrap();
                    words.insert(place, 0);
                    let flush = flush.detach();
                    if later { held.push((flush, vec![place], false)) } else { bench.acknowledge(flush) }
                }
            }
            Op::Clone => {
                if let Ok(flush) = bench.space.try_clone(()) {
                    children.push((flush.complete(), words.clone()));
                    if children.len() > 2 {
                        children.remove(0);
                    }
                }
            }
            Op::Acknowledge { which } => {
                if which < held.len() {
                    let (flush, ..) = held.remove(which);
                    bench.acknowledge(flush);
                }
            }
        }
    }
    for (flush, ..) in held {
        bench.acknowledge(flush);
    }
    let check = |space: &Space<Sim>, words: &BTreeMap<u64, u64>| {
        for place in 0..PLACES {
            let mut bytes = [0; 8];
            let read = space.read_bytes(at(address(place)), &mut bytes);
            assert_eq!(read.ok().map(|()| u64::from_ne_bytes(bytes)), words.get(&place).copied(), "place {place}");
        }
    };
    check(&bench.space, &words);
    children.iter().for_each(|(child, words)| check(child, words));
    drop(children);
    bench.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn left_memory_agrees_with_the_model(ops in prop::collection::vec(op(), 1..120)) {
        run(&ops);
    }
}
