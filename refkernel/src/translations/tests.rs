//! Judged by the simulated machine: its TLBs keep everything they may, under 4,096 tags, and forget just what each instruction is known to drop.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use vmcore::paging::{Access, Flush, FlushRequest, Mmu, X86_64};
use vmcore::sim::{Sim, Violation};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, MapRequest, Space};
use vmcore::{CpuMask, CpuSet, Platform};

const PAGE: u64 = 1 << PAGE_SHIFT;
const CPUS: usize = 2;
const SPACES: usize = 3;
/// Pages of a window that a step may touch; more than are forgotten one by one, over two leaf tables.
const PAGES: u64 = 48;
const USER: u64 = 0x40_0000 - 24 * PAGE;
const KERNEL: u64 = 0xffff_ff80_0000_0000;

/// What a processor of the test does wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mistake {
    None,
    /// `invpcid` 0 does nothing.
    ForgetsNoPageOfOthers,
    /// `invpcid` 1 does nothing.
    ForgetsNoTag,
    /// `invlpg` leaves what is global.
    KeepsGlobals,
    /// Bit 63 is always set.
    Keeps,
}

/// A CPU of the simulated machine, with the instructions of the table in the module's head.
struct Simulated<'a> {
    sim: &'a Sim,
    cpu: usize,
    mistake: Mistake,
}

impl Simulated<'_> {
    fn apply(&self, scope: FlushScope) {
        let mut cpus = CpuMask::EMPTY;
        cpus.insert(self.cpu);
        self.sim.apply_on(self.cpu, &FlushRequest { cpus, scope });
    }

    fn tag(&self) -> Tag {
        self.sim.loaded(self.cpu).map_or(Tag(0), |(_, tag)| tag)
    }

    fn page(&self, address: VirtAddr) -> PageRange {
        self.sim.machine().mmu().range(address.as_u64(), PAGE).unwrap()
    }

    fn tagged(&self, tag: Tag, range: Option<PageRange>) {
        let mut scope = FlushScope::new();
        match range {
            Some(range) => scope.add(tag, range, false),
            None => scope.add_space(tag),
        }
        scope.note_tables();
        self.apply(scope);
    }
}

impl Processor for Simulated<'_> {
    fn loaded(&self) -> Option<Tag> {
        Some(self.tag())
    }

    fn forget_page(&mut self, address: VirtAddr) {
        // Pointers to tables under every tag stay, whatever is global: so these are two scopes.
        self.tagged(self.tag(), Some(self.page(address)));
        if self.mistake != Mistake::KeepsGlobals {
            let mut globals = FlushScope::new();
            globals.add(self.tag(), self.page(address), true);
            self.apply(globals);
        }
    }

    fn forget_loaded(&mut self) {
        self.tagged(self.tag(), None);
    }

    fn forget_page_of(&mut self, tag: Tag, address: VirtAddr) {
        if self.mistake != Mistake::ForgetsNoPageOfOthers {
            self.tagged(tag, Some(self.page(address)));
        }
    }

    fn forget_tag(&mut self, tag: Tag) {
        if self.mistake != Mistake::ForgetsNoTag {
            self.tagged(tag, None);
        }
    }

    fn forget_everything(&mut self) {
        let mut scope = FlushScope::new();
        scope.set_everything();
        self.apply(scope);
    }

    fn load(&mut self, root: PhysAddr, tag: Tag, keep: bool) {
        if !keep && self.mistake != Mistake::Keeps {
            self.tagged(tag, None);
        }
        self.sim.load(self.cpu, vmcore::addr::Frame::containing(root, PAGE_SHIFT), tag);
    }
}

/// What is done next. Numbers of CPUs and spaces are taken modulo what there is; space 3 is the kernel's.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// `meanwhile`: another CPU unmaps so many pages from the first one on of the space that is left, which is still active.
    Enter {
        cpu: usize,
        space: usize,
        meanwhile: Option<(u64, u64)>,
    },
    /// Pages below `PAGES` are the loaded space's, the others the kernel's.
    Touch {
        cpu: usize,
        first: u64,
        pages: u64,
    },
    Unmap {
        space: usize,
        first: u64,
        pages: u64,
    },
    Map {
        space: usize,
    },
    Protect {
        space: usize,
        first: u64,
        pages: u64,
    },
    /// A space is given up, and another one has its place, and may have its tag.
    Replace {
        space: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pages = || prop_oneof![1..4_u64, 1..=PAGES, Just(PAGES)];
    let range = || (0..=SPACES, 0..PAGES, pages());
    let meanwhile = || prop::option::weighted(0.3, (0..PAGES, pages()));
    prop_oneof![
        4 => (0..CPUS, 0..SPACES, meanwhile()).prop_map(|(cpu, space, meanwhile)| Step::Enter { cpu, space, meanwhile }),
        8 => (0..CPUS, 0..2 * PAGES, pages()).prop_map(|(cpu, first, pages)| Step::Touch { cpu, first, pages }),
        3 => range().prop_map(|(space, first, pages)| Step::Unmap { space, first, pages }),
        3 => (0..=SPACES).prop_map(|space| Step::Map { space }),
        2 => range().prop_map(|(space, first, pages)| Step::Protect { space, first, pages }),
        1 => (0..SPACES).prop_map(|space| Step::Replace { space }),
    ]
}

/// Where a space's window begins.
fn start_of(space: usize) -> u64 {
    if space < SPACES { USER } else { KERNEL }
}

/// The machine, and which space each CPU has loaded.
struct World {
    sim: Sim,
    mistake: Mistake,
    kernel: Space<Sim>,
    spaces: [Space<Sim>; SPACES],
    loaded: [Option<usize>; CPUS],
}

impl World {
    fn new(mistake: Mistake) -> Self {
        let sim = Sim::of(X86_64::new(40).pcid()).frames(1024).cpus(CPUS).record_violations().build();
        let bounds = sim.machine().mmu().range(KERNEL, 0x80_0000_0000).unwrap();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        let spaces = [(); SPACES].map(|()| Space::user(&kernel, ()).unwrap());
        sim.hold_flushes(true);
        let world = Self { sim, mistake, kernel, spaces, loaded: [None; CPUS] };
        for cpu in 0..CPUS {
            load(&world.kernel.activate(cpu), &mut world.processor(cpu));
        }
        (0..=SPACES).for_each(|space| world.map(space));
        world
    }

    fn processor(&self, cpu: usize) -> Simulated<'_> {
        Simulated { sim: &self.sim, cpu, mistake: self.mistake }
    }

    fn space(&self, number: usize) -> &Space<Sim> {
        self.spaces.get(number).unwrap_or(&self.kernel)
    }

    /// Completes a flush as the kernel does.
    fn complete<T>(&self, flush: Flush<Sim, T>) -> T {
        let flush = flush.detach();
        let request = flush.request().clone();
        for cpu in (0..CPUS).filter(|cpu| request.cpus.contains(*cpu)) {
            forget(&request.scope, &mut self.processor(cpu));
        }
        // SAFETY: each CPU of the request has forgotten; where it was made not to, the machine says so, and its memory is that of a test.
        unsafe { flush.acknowledged() }
    }

    /// Switches a CPU to a user space, or to the kernel's.
    fn enter(&mut self, cpu: usize, space: Option<usize>, meanwhile: Option<(u64, u64)>) {
        if self.loaded[cpu] == space {
            return;
        }
        let next = space.map_or(&self.kernel, |space| &self.spaces[space]);
        load(&next.activate(cpu), &mut self.processor(cpu));
        // The kernel's own stays active: every root shows it.
        if let Some(before) = self.loaded[cpu] {
            if let Some((first, pages)) = meanwhile {
                self.unmap(before, first, pages);
            }
            // SAFETY: another root is loaded.
            unsafe { self.spaces[before].deactivate(cpu) };
        }
        self.loaded[cpu] = space;
    }

    /// Pages of a space's window, at most to its end.
    fn range(&self, space: usize, first: u64, pages: u64) -> PageRange {
        self.space(space).range(start_of(space) + first * PAGE, pages.min(PAGES - first) * PAGE).unwrap()
    }

    /// Unmaps pages, if the space lets them be.
    fn unmap(&self, space: usize, first: u64, pages: u64) {
        if let Ok(flush) = self.space(space).unmap(self.range(space, first, pages)) {
            self.complete(flush.map(drop));
        }
    }

    /// Makes a window of an area of its own; where there are windows it is refused.
    fn map(&self, space: usize) {
        let area = Area::new(&self.sim, AreaKind::Open { size: PAGES * PAGE }, 0).unwrap();
        let access = if space < SPACES { Access::USER_DATA } else { Access::KERNEL_DATA };
        let _ = self.space(space).map(&MapRequest::new(&area).at(start_of(space)).access(access));
    }

    /// Reads and writes a page, if there is a window that lets it.
    fn touch(&self, cpu: usize, page: u64) {
        let number = if page < PAGES { self.loaded[cpu].unwrap_or(SPACES) } else { SPACES };
        let address = start_of(number) + page % PAGES * PAGE;
        let user = if number < SPACES { Access::USER } else { Access::empty() };
        for access in [Access::READ | user, Access::KERNEL_DATA | user] {
            let touch = || self.sim.access(cpu, VirtAddr::new(address), access);
            if touch().is_err()
                && let Ok(flush) = self.space(number).fault(Fault::new(address, access))
            {
                self.complete(flush);
                assert!(touch().is_ok() || self.mistake != Mistake::None, "the fault repeats");
            }
        }
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Enter { cpu, space, meanwhile } => self.enter(cpu, Some(space), meanwhile),
            Step::Touch { cpu, first, pages } => {
                (first..(first + pages).min(2 * PAGES)).for_each(|page| self.touch(cpu, page));
            }
            Step::Map { space } => self.map(space),
            Step::Unmap { space, first, pages } => self.unmap(space, first, pages),
            Step::Protect { space, first, pages } => {
                let user = if space < SPACES { Access::USER } else { Access::empty() };
                if let Ok(flush) = self.space(space).protect(self.range(space, first, pages), Access::READ | user) {
                    self.complete(flush.map(drop));
                }
            }
            Step::Replace { space } => {
                for cpu in 0..CPUS {
                    if self.loaded[cpu] == Some(space) {
                        self.enter(cpu, None, None);
                    }
                }
                let old = core::mem::replace(&mut self.spaces[space], Space::user(&self.kernel, ()).unwrap());
                let Ok(flush) = old.destroy() else { panic!("the space is active nowhere") };
                self.complete(flush.map(drop));
            }
        }
        self.sim.check_translations();
    }
}

/// What the machine says of these steps.
fn violations(steps: &[Step], mistake: Mistake) -> Vec<Violation> {
    let mut world = World::new(mistake);
    for step in steps {
        world.sim.begin_change(format!("{step:?}"));
        world.carry_out(*step);
        let found = world.sim.take_violations();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// The shortest steps that a search of some seconds finds, which a mistake shows at.
fn search(mistake: Mistake, cases: u32) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    TestRunner::new_with_rng(config, seed)
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            let found = violations(&steps, mistake);
            prop_assert!(found.is_empty(), "{found:?}");
            Ok(())
        })
        .map_err(|error| error.to_string())
}

#[test]
fn tags_leave_nothing_stale() {
    search(Mistake::None, 300).unwrap();
}

#[test]
fn mistakes_with_tags_are_seen() {
    let mistakes = [Mistake::ForgetsNoPageOfOthers, Mistake::ForgetsNoTag, Mistake::KeepsGlobals, Mistake::Keeps];
    for mistake in mistakes {
        assert!(search(mistake, 300).is_err(), "{mistake:?} goes unseen");
    }
}
