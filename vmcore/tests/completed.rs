//! Unmapping, protecting and relocating with the flush completed in the call: what no CPU can use any more when it returns, which CPUs are asked, and that it is otherwise what the calls are that give
//! their flush. The simulated CPUs keep every translation that they ever saw until a flush names it.

mod common;

use common::{PAGE, Random, USER_READ, USER_WRITE, World, at, load, store, touch};
use vmcore::CpuSet;
use vmcore::addr::PageRange;
use vmcore::paging::Access;
use vmcore::sim::{FrameCounts, Sim};
use vmcore::vm_area::Area;
use vmcore::vm_space::{Destination, Inherit, MapRequest, Place, Space, SpaceError};

const A: u64 = 0x40_0000;
const PAGES: u64 = 8;
const CPUS: usize = 3;

/// A machine on which the first two of three CPUs are in a space with a window of [`PAGES`] pages at [`A`].
struct Bench {
    world: World,
    space: Space<Sim>,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(CPUS);
        let space = world.user();
        (0..2).for_each(|cpu| world.enter(cpu, &space));
        Self { world, space }
    }

    /// The same, with a window of memory of its own that both CPUs have written to, and remember.
    fn touched() -> Self {
        let bench = Self::new();
        bench.space.map_anonymous(PAGES * PAGE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
        for page in 0..PAGES {
            (0..2).for_each(|cpu| store(bench.sim(), cpu, &bench.space, A + page * PAGE, page + 1).unwrap());
        }
        bench
    }

    fn sim(&self) -> &Sim {
        &self.world.sim
    }

    fn pages(&self, first: u64, count: u64) -> PageRange {
        self.space.range(A + first * PAGE, count * PAGE).unwrap()
    }

    /// Which pages a CPU can access so without a fault.
    fn reached(&self, cpu: usize, access: Access) -> Vec<u64> {
        (0..PAGES).filter(|page| self.sim().access(cpu, at(A + page * PAGE), access).is_ok()).collect()
    }

    fn end(self) {
        self.sim().check_translations();
        (0..2).for_each(|cpu| self.world.leave(cpu, &self.space));
        drop(self.space);
        self.world.finish();
    }
}

/// The CPUs that the last flush asked, and that there was one since `before`.
fn asked(sim: &Sim, before: u64) -> Vec<usize> {
    assert_eq!(sim.flush_count(), before + 1, "one flush");
    let last = sim.flushes().pop().unwrap();
    (0..CPUS).filter(|cpu| last.request.cpus.contains(*cpu)).collect()
}

#[test]
fn what_was_unmapped_is_reached_by_no_cpu_and_its_frames_are_free() {
    let bench = Bench::touched();
    let (free, before) = (bench.sim().free_frame_count(), bench.sim().flush_count());
    bench.space.unmap_completed(bench.pages(0, PAGES)).unwrap();
    assert_eq!(asked(bench.sim(), before), [0, 1], "not the one that never was in the space");
    for cpu in 0..2 {
        assert_eq!(bench.reached(cpu, USER_READ), []);
    }
    assert!(bench.sim().free_frame_count() >= free + PAGES, "nothing waits for another flush");
    assert_eq!(bench.space.windows().count(), 0);
    // The addresses are free, and show other frames.
    bench.space.map_anonymous(PAGES * PAGE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    assert_eq!(load(bench.sim(), 1, &bench.space, A).unwrap(), 0);
    bench.end();
}

#[test]
fn a_part_is_unmapped_and_the_rest_stays() {
    let bench = Bench::touched();
    bench.space.unmap_completed(bench.pages(2, 3)).unwrap();
    for cpu in 0..2 {
        assert_eq!(bench.reached(cpu, USER_WRITE), [0, 1, 5, 6, 7]);
    }
    assert_eq!(bench.space.windows().count(), 2);
    bench.end();
}

#[test]
fn what_was_protected_is_written_by_no_cpu() {
    let bench = Bench::touched();
    for (first, count) in [(3, 1), (0, PAGES)] {
        let before = bench.sim().flush_count();
        bench.space.protect_completed(bench.pages(first, count), Access::READ).unwrap();
        assert_eq!(asked(bench.sim(), before), [0, 1]);
        for cpu in 0..2 {
            let writable: Vec<_> = (0..PAGES).filter(|page| !(first..first + count).contains(page)).collect();
            assert_eq!((bench.reached(cpu, USER_WRITE), bench.reached(cpu, USER_READ)), (writable, (0..8).collect()));
        }
    }
    bench.space.protect_completed(bench.pages(0, PAGES), Access::empty()).unwrap();
    assert_eq!((bench.reached(0, USER_READ), bench.reached(1, USER_READ)), (vec![], vec![]));
    bench.space.protect_completed(bench.pages(0, PAGES), Access::USER_DATA).unwrap();
    assert_eq!(load(bench.sim(), 1, &bench.space, A + 7 * PAGE).unwrap(), 8, "the pages stayed");
    bench.end();
}

#[test]
fn what_was_moved_is_reached_at_its_new_place_alone() {
    let bench = Bench::touched();
    let (to, before) = (A + 0x100 * PAGE, bench.sim().flush_count());
    let destination = Destination::To(Place::At(to));
    let moved = bench.space.relocate_completed(bench.pages(2, 4), 4 * PAGE, destination).unwrap();
    assert_eq!((moved.start(), moved.size(), asked(bench.sim(), before)), (at(to), 4 * PAGE, vec![0, 1]));
    for cpu in 0..2 {
        assert_eq!(bench.reached(cpu, USER_READ), [0, 1, 6, 7]);
        assert_eq!(load(bench.sim(), cpu, &bench.space, to + PAGE).unwrap(), 4);
    }
    // Where it came from is free, and to become smaller is to unmap.
    bench.space.map_anonymous(4 * PAGE, Place::At(A + 2 * PAGE), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    bench.space.relocate_completed(bench.pages(6, 2), PAGE, Destination::InPlace).unwrap();
    assert_eq!((bench.reached(0, USER_READ), bench.reached(1, USER_READ)), (vec![0, 1, 6], vec![0, 1, 6]));
    bench.end();
}

/// Pages side by side of which the first has less than the others: each keeps what is allowed of its own.
#[test]
fn pages_that_differ_beside_each_other_are_protected_alike() {
    let all = Access::USER_DATA | Access::EXECUTE;
    for (first, others) in [(USER_READ, USER_WRITE), (USER_WRITE, USER_READ)] {
        let bench = Bench::new();
        bench.space.map_anonymous(PAGES * PAGE, Place::At(A), all, Inherit::Copy, 0).unwrap();
        for page in 0..PAGES {
            let access = if page == 0 { first } else { others };
            touch(bench.sim(), 0, &bench.space, A + page * PAGE, access).unwrap();
        }
        bench.space.protect_completed(bench.pages(0, PAGES), Access::READ).unwrap();
        assert_eq!(bench.reached(0, USER_WRITE), []);
        assert_eq!(bench.reached(0, Access::USER_CODE), []);
        assert_eq!(bench.reached(0, USER_READ), (0..PAGES).collect::<Vec<_>>());
        bench.end();
    }
}

/// A range that begins and ends in the middle of leaf tables, with whole ones between: what lies beside it in the same tables stays as it is.
#[test]
fn tables_that_are_covered_in_part_are_changed_in_part() {
    const TABLE: u64 = 512;
    let world = World::of(Sim::builder().frames(8192).cpus(CPUS));
    let space = world.user();
    (0..2).for_each(|cpu| world.enter(cpu, &space));
    let bench = Bench { world, space };
    let whole = bench.space.map_anonymous(5 * TABLE * PAGE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    bench.space.populate(whole, Access::USER_DATA).unwrap().complete();
    let allowed = |access| -> Vec<u64> {
        (0..5 * TABLE).filter(|page| bench.sim().access(0, at(A + page * PAGE), access).is_ok()).collect()
    };
    assert_eq!(allowed(USER_WRITE).len() as u64, 5 * TABLE);
    let part = TABLE / 2..4 * TABLE + TABLE / 2;
    let range = bench.pages(part.start, part.end - part.start);
    let outside: Vec<_> = (0..5 * TABLE).filter(|page| !part.contains(page)).collect();
    bench.space.protect_completed(range, Access::READ).unwrap();
    assert_eq!(allowed(USER_WRITE), outside);
    assert_eq!(allowed(USER_READ).len() as u64, 5 * TABLE);
    bench.space.unmap_completed(range).unwrap();
    assert_eq!(allowed(USER_READ), outside);
    bench.end();
}

/// A CPU that has left the space, under a tag or not, is not asked; it forgets when it comes back.
#[test]
fn a_cpu_that_has_left_is_not_asked_and_forgets_when_it_comes_back() {
    for unmaps in [true, false] {
        let bench = Bench::touched();
        bench.world.leave(1, &bench.space);
        let before = bench.sim().flush_count();
        match unmaps {
            true => bench.space.unmap_completed(bench.pages(0, PAGES)).unwrap(),
            false => bench.space.protect_completed(bench.pages(0, PAGES), Access::READ).unwrap(),
        }
        assert_eq!(asked(bench.sim(), before), [0]);
        bench.world.enter(1, &bench.space);
        assert_eq!(bench.reached(1, USER_WRITE), []);
        assert_eq!(bench.reached(1, USER_READ).is_empty(), unmaps);
        bench.end();
    }
}

#[test]
fn nobody_is_asked_where_nothing_was_taken_away() {
    let bench = Bench::new();
    let (frames, before) = (bench.sim().frame_counts(), bench.sim().flush_count());
    let range = bench.space.map_anonymous(PAGES * PAGE, Place::At(A), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    bench.space.protect_completed(bench.pages(2, 2), Access::READ).unwrap();
    bench.space.protect_completed(bench.pages(2, 2), Access::USER_DATA).unwrap();
    bench.space.unmap_completed(range).unwrap();
    bench.space.unmap_completed(range).unwrap();
    assert_eq!((bench.sim().frame_counts(), bench.sim().flush_count()), (frames, before));
    bench.end();
}

#[test]
fn who_is_refused_has_changed_nothing() {
    let bench = Bench::touched();
    let before = bench.sim().flush_count();
    let above = bench.pages(PAGES - 1, 2);
    assert_eq!(bench.space.protect_completed(above, Access::READ), Err(SpaceError::NoWindow(at(A + PAGES * PAGE))));
    bench.space.seal(bench.pages(6, 2)).unwrap();
    let sealed = Err(SpaceError::Sealed(at(A + 6 * PAGE)));
    assert_eq!(bench.space.unmap_completed(bench.pages(0, PAGES)), sealed);
    assert_eq!(bench.space.protect_completed(bench.pages(0, PAGES), Access::READ), sealed);
    assert_eq!(bench.sim().flush_count(), before);
    assert_eq!((bench.reached(0, USER_WRITE), bench.reached(1, USER_WRITE)), ((0..8).collect(), (0..8).collect()));
    bench.end();
}

/// A flush of another change that is outstanding: what is promised now is true of that as well.
#[test]
fn what_another_change_still_flushes_is_not_promised_too_early() {
    let bench = Bench::touched();
    let outstanding = bench.space.protect(bench.pages(1, 2), Access::READ).unwrap().detach();
    assert_eq!(bench.reached(1, USER_WRITE), (0..8).collect::<Vec<_>>(), "the CPUs remember more");
    // The tables say already what is asked for.
    bench.space.protect_completed(bench.pages(0, 4), Access::READ).unwrap();
    assert_eq!((bench.reached(0, USER_WRITE), bench.reached(1, USER_WRITE)), (vec![4, 5, 6, 7], vec![4, 5, 6, 7]));
    bench.sim().apply(outstanding.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { outstanding.acknowledged() };
    bench.end();
}

/// What a space shows, and what each of its CPUs can still reach.
type Seen = (Vec<(PageRange, Access)>, Vec<Vec<u64>>, FrameCounts, u64);

/// Two machines alike, of which one completes in the calls.
struct Twin {
    bench: Bench,
    area: Area<Sim>,
    in_the_call: bool,
}

impl Twin {
    fn new(in_the_call: bool) -> Self {
        let bench = Bench::new();
        let area = bench.world.open(PAGES);
        Self { bench, area, in_the_call }
    }

    fn unmap(&self, range: PageRange) -> Result<(), SpaceError> {
        match self.in_the_call {
            true => self.bench.space.unmap_completed(range),
            false => self.bench.space.unmap(range).map(|flush| flush.complete()),
        }
    }

    fn protect(&self, range: PageRange, access: Access) -> Result<(), SpaceError> {
        match self.in_the_call {
            true => self.bench.space.protect_completed(range, access),
            false => self.bench.space.protect(range, access).map(|flush| flush.complete()),
        }
    }

    fn relocate(&self, range: PageRange, size: u64, to: u64) -> Result<PageRange, SpaceError> {
        let destination = if to % 3 == 0 { Destination::InPlace } else { Destination::To(Place::At(A + to * PAGE)) };
        match self.in_the_call {
            true => self.bench.space.relocate_completed(range, size, destination),
            false => self.bench.space.relocate(range, size, destination).map(|flush| flush.complete()),
        }
    }

    /// One random operation; whether it was done, and what is seen then.
    fn step(&self, [what, first, count, choice, memory]: [u64; 5]) -> (Result<(), SpaceError>, Seen) {
        let (sim, space) = (self.bench.sim(), &self.bench.space);
        let (first, count) = (first % PAGES, 1 + count % (PAGES - first % PAGES));
        let range = self.bench.pages(first, count);
        let access = [Access::READ, Access::USER_DATA, Access::empty()][choice as usize % 3];
        if memory % 3 == 0 {
            sim.fail_allocation_after(memory % 5);
        }
        let done = match what % 7 {
            0 => {
                let request = MapRequest::new(&self.area).at(A + first * PAGE).offset(first * PAGE).size(count * PAGE);
                space.map(&request.access(Access::USER_DATA)).map(drop)
            }
            1 | 2 => self.unmap(range),
            3 | 4 => self.protect(range, access),
            5 => self.relocate(range, (1 + memory % count) * PAGE, choice % PAGES).map(drop),
            _ => {
                let (cpu, access) = (choice as usize % 2, if choice % 4 < 2 { USER_READ } else { USER_WRITE });
                touch(sim, cpu, space, A + first * PAGE, access).map(drop)
            }
        };
        sim.fail_never();
        sim.check_translations();
        let windows = space.windows().map(|window| (window.range, window.access)).collect();
        let reached = [(0, USER_READ), (0, USER_WRITE), (1, USER_READ), (1, USER_WRITE)];
        let reached = reached.map(|(cpu, access)| self.bench.reached(cpu, access)).to_vec();
        (done, (windows, reached, sim.frame_counts(), sim.flush_count()))
    }

    fn end(self) {
        let Self { bench, area, .. } = self;
        bench.space.unmap(bench.pages(0, PAGES)).unwrap().complete();
        drop(area);
        bench.end();
    }
}

#[test]
fn completing_in_the_call_is_completing_what_it_gives() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..60 {
        let twins = [Twin::new(true), Twin::new(false)];
        let mut script = Vec::new();
        for _ in 0..60 {
            let op = [(); 5].map(|()| random.below(1 << 20));
            script.push(op);
            let [in_the_call, afterwards] = twins.each_ref().map(|twin| twin.step(op));
            assert_eq!(in_the_call, afterwards, "after {script:?}");
            match in_the_call.0 {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
        }
        twins.into_iter().for_each(Twin::end);
    }
    assert!(done > 1000 && refused > 300, "{done} were done, {refused} refused");
}
