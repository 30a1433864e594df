//! The operations in every format with the simulated machine as the judge: two or four CPUs that remember everything make accesses
//! between and during the operations, nothing is flushed but what a change said itself, and all that is seen is compared with a
//! naive map from page to leaf.
//!
//! ```text
//!   operation ──► entries, read and written ──► what it gathered is flushed, CPU by CPU ──► tables are freed
//!                    ▲    ▲    ▲                            ▲
//!   other CPUs:      old or new leaf                        old or new leaf                     the new leaf only
//! ```

mod cpus;
pub(crate) mod fuzzed;
mod operations;
mod steps;

use alloc::rc::Rc;
use core::cell::RefCell;

use super::formats::{Accesses, halves, in_every_format, marks_stores, page_frames, pages_per_table, places, runner};
use super::*;
use crate::paging::{DirtyBits, FlushRequest, interleave};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::{Hardware, Sim, SimFormat};

use self::cpus::{Leniency, Others, Pages, check_between};
use self::operations::Operation;

/// The one change of many steps.
const WRITER: &str = "a writer";

/// The tag of the second tree.
const OTHER: Tag = Tag(8);

/// Two trees on a machine, and what they should map.
struct Judged<M: SimFormat> {
    sim: Sim<M>,
    /// The first one is worked on; the second one gets copies.
    trees: [Tables<M>; 2],
    maps: [Pages; 2],
    others: Rc<RefCell<Others<M>>>,
    leniency: Leniency,
    accesses: Accesses,
    places: [u64; 3],
    /// How many pages each place has.
    length: u64,
    /// Where write protection may stand above leaves.
    limited: bool,
    relies: bool,
    globals: bool,
}

/// How a case is set up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    four: bool,
    relied: bool,
    software_marks: bool,
    seed: u64,
}

impl<M: SimFormat + 'static> Judged<M> {
    fn new(mmu: M, accesses: Accesses, setup: Setup) -> Self {
        let cpus = if setup.four { 4 } else { 2 };
        let builder = || Sim::of(mmu).frames(160).device(page_frames(mmu)).cpus(cpus).random_frames(setup.seed);
        let mut sim = builder().build();
        if setup.software_marks {
            let mut hardware = sim.hardware(0);
            match &mut hardware {
                Hardware::AArch64(registers) if !registers.hardware_dirty => registers.hardware_access = false,
                Hardware::AArch64Stage2(registers) if !registers.hardware_dirty => registers.hardware_access = false,
                Hardware::RiscV(registers) => registers.hardware_marks = false,
                _ => {}
            }
            sim = builder().hardware(hardware).build();
        }
        let roots = [sim.new_table(), sim.new_table()];
        let relies = setup.relied && marks_stores(&sim);
        let bits = if relies { DirtyBits::Relied } else { DirtyBits::Hints };
        // SAFETY: fresh, zeroed tables.
        let trees = unsafe { [Tables::new(mmu, roots[0], TAG), Tables::new(mmu, roots[1], OTHER)] };
        let trees = trees.map(|tree| tree.with_dirty_bits(bits));
        let (places, length) = places(mmu);
        let has_user = accesses[0].contains(Access::USER);
        let judged = Self {
            others: Others::new(&sim, setup.seed, has_user),
            leniency: Leniency::of(&sim, has_user),
            sim,
            trees,
            maps: [Pages::new(), Pages::new()],
            accesses,
            places,
            length,
            limited: false,
            relies,
            // What is global must be the same in all spaces that are loaded.
            globals: !setup.four,
        };
        judged.others.borrow_mut().begin(&places.map(|place| (place, length)));
        for cpu in 0..cpus {
            judged.load(cpu, usize::from(cpu == 2));
        }
        judged
    }

    fn load(&self, cpu: usize, tree: usize) {
        self.sim.load(cpu, self.trees[tree].root(), self.trees[tree].tag());
    }

    fn range(&self, first: u64, pages: u64) -> PageRange {
        self.trees[0].mmu().range(first << M::PAGE_SHIFT, pages << M::PAGE_SHIFT).unwrap()
    }

    /// Runs an operation on the first tree (or the second) while other CPUs look, first with `few` spare tables and then with as many
    /// as it asks for; flushes what it gathered and frees what it left over. `map` changes the naive maps as the operation should.
    fn change<T>(
        &mut self,
        what: &str,
        windows: &[(u64, u64)],
        few: u64,
        mut operation: impl FnMut(&mut Self, &mut FrameList, &mut Gather) -> Result<T, TableError>,
        map: impl FnOnce(&mut [Pages; 2], &Result<T, TableError>),
    ) -> Result<T, TableError> {
        self.sim.begin_change(what);
        self.others.borrow_mut().begin(windows);
        let before = self.maps.clone();
        let (mut spare, mut gather) = (FrameList::new(), Gather::default());
        let mut count = few;
        let result = loop {
            spare.fill_with_tables(&self.sim, count).unwrap();
            let requests = self.sim.allocation_requests();
            let others = self.others.clone();
            let result =
                interleave::during(move || others.borrow_mut().step(), || operation(self, &mut spare, &mut gather));
            assert_eq!(self.sim.allocation_requests(), requests, "{what} allocates");
            match result {
                Err(TableError::NeedsTables(needed)) => {
                    assert!(needed > count && spare.len() == count, "{what} has {count} and needs {needed}");
                    assert!(gather.scope.is_empty() && gather.tables.is_empty());
                    assert_eq!(self.mapped(0), self.maps[0], "{what} failed and changed something");
                    count = needed;
                }
                result => break result,
            }
        };
        // Before other writes to a larger leaf could make up for it.
        self.check_written(what);
        map(&mut self.maps, &result);
        if let Err(error) = &result {
            assert!(gather.scope.is_empty() && gather.tables.is_empty() && spare.len() == count, "{what}: {error}");
            assert_eq!(self.maps, before, "{what} was refused ({error}), but should not have been");
        }
        let mut cpus = CpuMask::EMPTY;
        for cpu in 0..self.sim.cpu_count() {
            cpus.insert(cpu);
            self.others.borrow_mut().look();
        }
        let request = FlushRequest { cpus, scope: gather.scope };
        for cpu in 0..self.sim.cpu_count() {
            self.sim.apply_on(cpu, &request);
            let mut others = self.others.borrow_mut();
            // Those that were flushed see only what is new; nobody sees anything else.
            others.look();
        }
        self.others.borrow_mut().flushed();
        // A writer's steps leave more than two states to be seen until the flush.
        let two_states = what != WRITER;
        for seen in self.others.borrow().seen.iter().filter(|_| two_states) {
            self.leniency.check_during(seen, &before[seen.tree], &self.maps[seen.tree], what);
        }
        self.sim.check_translations();
        for list in [&mut spare, &mut gather.tables] {
            while let Some(table) = list.pop(&self.sim) {
                assert_eq!(self.sim.frame_meta(table).unwrap().live_entries(), 0, "{what} frees a table in use");
                // SAFETY: unlinked, and flushed just now: the judge sees to it.
                unsafe { free_one(&self.sim, table, FrameUse::Table) }.unwrap();
            }
        }
        self.check(what);
        result
    }

    /// What the tables map in the places, page by page, without marks.
    fn mapped(&self, tree: usize) -> Pages {
        let mut pages = Pages::new();
        for place in self.places {
            for (span, leaf) in self.trees[tree].runs(&self.sim, self.range(place, self.length)) {
                let first = span.start().as_u64() >> M::PAGE_SHIFT;
                for step in 0..span.pages(M::PAGE_SHIFT) {
                    pages.insert(first + step, unmarked(Leaf { frame: leaf.frame.add(step), ..leaf }));
                }
            }
        }
        pages
    }

    /// The tables and the CPUs agree with the naive maps, and no write is lost.
    fn check(&mut self, what: &str) {
        for tree in 0..2 {
            assert!(self.mapped(tree) == self.maps[tree], "after {what}, tree {tree}: {}", self.difference(tree));
            self.check_counts(tree);
        }
        for cpu in 0..self.sim.cpu_count() {
            for _ in 0..6 {
                let _ = cpu;
                let (maps, trees) = (&self.maps, &self.trees);
                let mut others = self.others.borrow_mut();
                check_between(&mut others, self.leniency, [&maps[0], &maps[1]], [&trees[0], &trees[1]], what);
            }
        }
        self.check_written(what);
        self.sim.assert_no_violation();
    }

    /// No write is lost.
    fn check_written(&self, what: &str) {
        if self.relies {
            for page in &self.others.borrow().written {
                let leaf = self.trees[0].translate(&self.sim, VirtAddr::new(*page << M::PAGE_SHIFT));
                assert!(leaf.is_some_and(|(_, leaf)| leaf.dirty), "{what} lost that {page:#x} was written: {leaf:?}");
            }
        }
    }

    fn difference(&self, tree: usize) -> alloc::string::String {
        let (found, map) = (self.mapped(tree), &self.maps[tree]);
        let pages = found.keys().chain(map.keys());
        let mut different = pages.filter(|page| found.get(page) != map.get(page));
        different.next().map_or_else(Default::default, |page| {
            alloc::format!("page {page:#x} is {:?} and should be {:?}", found.get(page), map.get(page))
        })
    }

    /// Every table's count is its present entries, and none but the root is empty.
    fn check_counts(&self, tree: usize) {
        fn visit<M: SimFormat + 'static>(judged: &Judged<M>, tables: &Tables<M>, level: usize, frame: Frame) {
            let mmu = tables.mmu();
            let table = Table::own(&judged.sim, mmu, level, frame).unwrap();
            let words = (0..table.len()).map(|index| table.load(index)).filter(|word| mmu.is_present(*word));
            let mut present = 0;
            for word in words {
                present += 1;
                if let Some(below) = mmu.decode_table(level, word) {
                    visit(judged, tables, level - 1, below);
                }
            }
            assert_eq!(table.live(), present);
            assert!(present > 0 || frame == tables.root());
        }
        let tables = &self.trees[tree];
        visit(self, tables, tables.mmu().levels() - 1, tables.root());
    }

    /// Takes everything down, half of it after the tables were somebody else's for a moment.
    fn finish(mut self) {
        self.hand_over_and_adopt();
        for tree in 0..2 {
            for half in halves(self.trees[tree].mmu()) {
                let windows = self.places.map(|place| (place, self.length));
                let places = self.places.map(|place| self.range(place, self.length));
                let others = self.others.clone();
                let detach = |w: &mut Self, _: &mut FrameList, gather: &mut Gather| {
                    w.trees[tree].detach(&w.sim, half, gather)?;
                    places.iter().for_each(|place| others.borrow_mut().forsake(*place));
                    Ok(())
                };
                let shift = M::PAGE_SHIFT;
                self.change("the end", &windows, 0, detach, |maps, _| {
                    maps[tree].retain(|page, _| !half.contains(VirtAddr::new(*page << shift)));
                })
                .unwrap();
            }
        }
        assert_eq!(self.sim.frame_counts().of(FrameUse::Table), 2, "every table came back");
    }

    /// The first tree's tables lose their records, as if a loader had made them, and are adopted.
    fn hand_over_and_adopt(&mut self) {
        fn forget<M: SimFormat + 'static>(judged: &Judged<M>, level: usize, frame: Frame) -> u64 {
            let mmu = judged.trees[0].mmu();
            let table = Table::own(&judged.sim, mmu, level, frame).unwrap();
            let below = (0..table.len()).filter_map(|index| mmu.decode_table(level, table.load(index)));
            let count = 1 + below.map(|below| forget(judged, level - 1, below)).sum::<u64>();
            table.change_live(-(table.live() as i32));
            judged.sim.frame_meta(frame).unwrap().end(frame, FrameUse::Table).unwrap();
            count
        }
        let mmu = self.trees[0].mmu();
        let count = forget(self, mmu.levels() - 1, self.trees[0].root());
        let halves = halves(mmu);
        // SAFETY: they are a tree that nobody else changes.
        let adopted: u64 =
            halves.into_iter().map(|half| unsafe { self.trees[0].adopt(&self.sim, half) }.unwrap()).sum();
        assert_eq!(adopted, count);
        self.check("adopting");
    }
}

/// A leaf without the hardware's marks.
fn unmarked(leaf: Leaf) -> Leaf {
    Leaf { accessed: false, dirty: false, ..leaf }
}

fn judge<M: SimFormat + 'static>(mmu: M, accesses: Accesses, setup: Setup, operations: &[Operation]) {
    let mut judged = Judged::new(mmu, accesses, setup);
    for operation in operations {
        if setup.four {
            // The last CPU switches between the two spaces, and forgets neither.
            judged.load(3, (operation.4 % 2) as usize);
        }
        judged.apply(operation);
    }
    judged.finish();
}

fn check<M: SimFormat + 'static>(mmu: M, accesses: Accesses) {
    // Larger tables take longer and have no more to show.
    let cases = if M::PAGE_SHIFT == 12 { 128 } else { 32 };
    let operation = (0..20_u8, 0..3_usize, any::<u64>(), any::<u64>(), any::<u64>());
    let setup = (any::<bool>(), any::<bool>(), any::<bool>(), any::<u64>())
        .prop_map(|(four, relied, software_marks, seed)| Setup { four, relied, software_marks, seed });
    runner(cases)
        .run(&(setup, prop::collection::vec(operation, 1..20)), |(setup, operations)| {
            judge(mmu, accesses, setup, &operations);
            Ok(())
        })
        .unwrap();
}

in_every_format!(super::judged::check);
