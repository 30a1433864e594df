//! Memory that is freed lazily: what is there until somebody asks for it, what is kept because it was written to, and what is given back.

mod common;

use common::{PAGE, USER_WRITE, World, at, load, store};
use proptest::prelude::*;
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, X86_64};
use vmcore::sim::Sim;
use vmcore::vm_space::{Advice, Inherit, MapRequest, PageState, Place, Space, SpaceError};

const A: u64 = 0x40_0000;

struct Bench {
    world: World,
    space: Space<Sim>,
}

impl Bench {
    fn new(pages: u64) -> Self {
        let world = World::of(Sim::of(X86_64::new(40).pcid()).frames(1024).cpus(2));
        let space = world.user();
        for cpu in 0..2 {
            world.enter(cpu, &space);
        }
        space.map_anonymous(pages * PAGE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
        let bench = Self { world, space };
        for page in 0..pages {
            bench.store(0, page, page + 1);
            assert_eq!(bench.load(1, page), page + 1);
        }
        bench
    }

    fn store(&self, cpu: usize, page: u64, value: u64) {
        store(&self.world.sim, cpu, &self.space, A + page * PAGE, value).unwrap();
    }

    fn load(&self, cpu: usize, page: u64) -> u64 {
        load(&self.world.sim, cpu, &self.space, A + page * PAGE).unwrap()
    }

    fn free(&self, page: u64, pages: u64) {
        let range = self.space.range(A + page * PAGE, pages * PAGE).unwrap();
        self.space.advise(range, Advice::FreeLazily).unwrap().complete();
    }

    fn reclaim(&self, most: u64) -> u64 {
        self.space.reclaim(self.space.bounds(), most).unwrap().complete()
    }

    fn pages(&self) -> u64 {
        self.world.sim.frame_counts().of(FrameUse::Page)
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
fn contents_stay_until_they_are_reclaimed() {
    let bench = Bench::new(8);
    bench.free(1, 6);
    assert_eq!(bench.pages(), 8, "nothing is released yet");
    let mut states = [PageState::empty(); 8];
    bench.space.page_states(bench.space.range(A, 8 * PAGE).unwrap(), &mut states).unwrap();
    assert!(states[0].contains(PageState::DIRTY) && !states[1].contains(PageState::DIRTY));
    for page in 0..8 {
        assert_eq!(bench.load(0, page), page + 1);
    }
    // CPU 1 could write to it before; now its write is seen, and keeps the page.
    assert!(bench.world.sim.access(1, at(A + 3 * PAGE), USER_WRITE).is_err());
    bench.store(1, 3, 33);
    bench.space.write_bytes(at(A + 5 * PAGE), &55_u64.to_ne_bytes()).unwrap().complete();
    assert_eq!((bench.reclaim(0), bench.reclaim(1), bench.pages()), (0, 1, 7));
    assert_eq!((bench.load(0, 1), bench.load(0, 2)), (0, 3), "the lowest goes first");
    assert_eq!((bench.reclaim(100), bench.pages()), (3, 4), "2, 4 and 6");
    let left: Vec<u64> = (0..8).map(|page| bench.load(1, page)).collect();
    assert_eq!(left, [1, 0, 0, 33, 0, 55, 0, 8]);
    assert_eq!(bench.reclaim(100), 0);
    bench.end();
}

/// No page that somebody else has as well is given up, before or after it was marked.
#[test]
fn shared_pages_are_kept() {
    let bench = Bench::new(4);
    bench.free(0, 2);
    let child = bench.space.try_clone(()).unwrap().complete();
    bench.free(2, 2);
    assert_eq!(bench.reclaim(100), 0);
    let word = |space: &Space<Sim>, page: u64| {
        let mut bytes = [0; 8];
        space.read_bytes(at(A + page * PAGE), &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    };
    for page in 0..4 {
        assert_eq!((word(&bench.space, page), word(&child, page)), (page + 1, page + 1));
    }
    bench.store(0, 0, 10);
    bench.free(0, 4);
    assert_eq!((bench.reclaim(100), word(&bench.space, 0), word(&child, 0)), (1, 0, 1));
    // The last owner of page 1 finds the mark of before the clone; 2 and 3 were never marked.
    drop(child);
    assert_eq!((bench.reclaim(100), word(&bench.space, 1), word(&bench.space, 2)), (1, 0, 3));
    // Memory with a handle is somebody else's, too.
    let area = bench.world.open(1);
    bench.space.map(&MapRequest::new(&area).at(A + 8 * PAGE).access(Access::USER_DATA)).unwrap();
    bench.store(0, 8, 9);
    bench.free(8, 1);
    assert_eq!((bench.reclaim(100), bench.load(0, 8)), (0, 9));
    assert!(bench.world.sim.access(0, at(A + 8 * PAGE), USER_WRITE).is_ok(), "nothing was changed");
    drop(area);
    bench.end();
}

/// Frames are free with the flush, and what is written through a stale entry before goes with its page whole.
#[test]
fn reclaimed_frames_wait_for_the_flush() {
    let bench = Bench::new(2);
    let range = bench.space.range(A, 2 * PAGE).unwrap();
    let marked = bench.space.advise(range, Advice::FreeLazily).unwrap().detach();
    bench.world.sim.write_u64(1, at(A), true, 77).unwrap();
    let reclaimed = bench.space.reclaim(range, 2).unwrap().detach();
    assert_eq!(bench.pages(), 2);
    bench.world.sim.write_u64(1, at(A + 8), true, 78).unwrap();
    bench.world.sim.apply(reclaimed.request());
    // SAFETY: every CPU of the request has just carried it out.
    assert_eq!(unsafe { reclaimed.acknowledged() }, 2);
    assert_eq!(bench.pages(), 0);
    let mut bytes = [1; 16];
    bench.space.read_bytes(at(A), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 16]);
    assert!(bench.world.sim.access(1, at(A), USER_WRITE).is_err());
    bench.world.sim.apply(marked.request());
    // SAFETY: as above.
    unsafe { marked.acknowledged() };
    bench.end();
}

/// Memory that is short is when it is called for: it takes none. And what refuses it.
#[test]
fn reclaiming_takes_no_memory() {
    let bench = Bench::new(70);
    bench.free(0, 70);
    bench.space.lock_pages(bench.space.range(A + 3 * PAGE, PAGE).unwrap()).unwrap().complete();
    bench.world.sim.fail_allocation_after(0);
    assert_eq!(bench.reclaim(100), 69);
    bench.free(4, 3);
    bench.world.sim.fail_never();
    let refused = |page: u64, pages: u64| {
        let range = bench.space.range(A + page * PAGE, pages * PAGE).unwrap();
        bench.space.advise(range, Advice::FreeLazily).map(|flush| flush.complete()).unwrap_err()
    };
    assert_eq!(refused(2, 2), SpaceError::Locked(at(A + 3 * PAGE)));
    assert_eq!(refused(69, 2), SpaceError::NoWindow(at(A + 70 * PAGE)));
    bench.space.seal(bench.space.range(A, PAGE).unwrap()).unwrap();
    assert_eq!(refused(0, 1), SpaceError::Sealed(at(A)));
    let outside = bench.world.kernel().bounds();
    assert!(matches!(bench.space.reclaim(outside, 1), Err(SpaceError::Range(_))));
    assert_eq!(bench.load(0, 3), 4);
    bench.end();
}

#[derive(Clone, Debug)]
enum Op {
    Free { page: u64, pages: u64 },
    Reclaim { page: u64, pages: u64, most: u64 },
    Store { cpu: usize, page: u64, value: u64 },
    Load { cpu: usize, page: u64 },
    Clone,
    Protect { page: u64, pages: u64 },
    Release { page: u64, pages: u64 },
}

const PAGES: u64 = 12;

fn op() -> impl Strategy<Value = Op> {
    let (page, pages) = (0..PAGES, 1..5_u64);
    prop_oneof![
        4 => (page.clone(), pages.clone()).prop_map(|(page, pages)| Op::Free { page, pages }),
        3 => (page.clone(), pages.clone(), 0..6_u64).prop_map(|(page, pages, most)| Op::Reclaim { page, pages, most }),
        6 => (0..2_usize, page.clone(), 1..u64::MAX).prop_map(|(cpu, page, value)| Op::Store { cpu, page, value }),
        6 => (0..2_usize, page.clone()).prop_map(|(cpu, page)| Op::Load { cpu, page }),
        1 => Just(Op::Clone),
        1 => (page.clone(), pages.clone()).prop_map(|(page, pages)| Op::Protect { page, pages }),
        1 => (page, pages).prop_map(|(page, pages)| Op::Release { page, pages }),
    ]
}

/// A page as the model knows it: what it holds, whether it exists, is marked, and how many have it.
#[derive(Clone, Copy, Debug)]
struct Model {
    value: u64,
    exists: bool,
    marked: bool,
    /// Whether the child has it as well.
    shared: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lazily_freed_memory_agrees_with_the_model(ops in prop::collection::vec(op(), 1..80)) {
        let bench = Bench::new(PAGES);
        let fresh = |page: u64| Model { value: page + 1, exists: true, marked: false, shared: false };
        let mut model: Vec<Model> = (0..PAGES).map(fresh).collect();
        let mut child: Option<(Space<Sim>, Vec<Model>)> = None;
        for op in ops {
            let part = |page: u64, pages: u64| page as usize..(page + pages).min(PAGES) as usize;
            let range = |page: u64, pages: u64| {
                bench.space.range(A + page * PAGE, (pages.min(PAGES - page)) * PAGE).unwrap()
            };
            match op {
                Op::Free { page, pages } => {
                    bench.space.advise(range(page, pages), Advice::FreeLazily).unwrap().complete();
                    for page in &mut model[part(page, pages)] {
                        page.marked |= page.exists && !page.shared;
                    }
                }
                Op::Reclaim { page, pages, most } => {
                    let given = bench.space.reclaim(range(page, pages), most).unwrap().complete();
                    let idle = model[part(page, pages)].iter_mut().filter(|page| page.marked && !page.shared);
                    let mut expected = 0;
                    for page in idle.take(most as usize) {
                        *page = Model { value: 0, exists: false, marked: false, shared: false };
                        expected += 1;
                    }
                    prop_assert_eq!(given, expected);
                }
                Op::Store { cpu, page, value } => {
                    bench.store(cpu, page, value);
                    model[page as usize] = Model { value, exists: true, marked: false, shared: false };
                }
                Op::Load { cpu, page } => prop_assert_eq!(bench.load(cpu, page), model[page as usize].value),
                Op::Clone => {
                    drop(child.take());
                    model.iter_mut().for_each(|page| page.shared = page.exists);
                    child = Some((bench.space.try_clone(()).unwrap().complete(), model.clone()));
                }
                Op::Protect { page, pages } => {
                    bench.space.protect(range(page, pages), Access::READ).unwrap().complete();
                    bench.space.protect(range(page, pages), Access::KERNEL_DATA).unwrap().complete();
                }
                Op::Release { page, pages } => {
                    bench.space.advise(range(page, pages), Advice::NotNeeded).unwrap().complete();
                    let gone = Model { value: 0, exists: false, marked: false, shared: false };
                    model[part(page, pages)].fill(gone);
                }
            }
            if child.is_none() {
                let exist = model.iter().filter(|page| page.exists).count() as u64;
                // The zero frame is one more.
                prop_assert!((exist..=exist + 1).contains(&bench.pages()), "{} for {exist}", bench.pages());
            }
        }
        for (page, model) in model.iter().enumerate() {
            prop_assert_eq!(bench.load(0, page as u64), model.value);
        }
        if let Some((child, then)) = child {
            for (page, then) in then.iter().enumerate() {
                let mut bytes = [0; 8];
                child.read_bytes(at(A + page as u64 * PAGE), &mut bytes).unwrap();
                prop_assert_eq!(u64::from_ne_bytes(bytes), then.value);
            }
        }
        bench.end();
    }
}
