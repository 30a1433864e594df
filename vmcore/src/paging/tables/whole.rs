//! Moving tables as they are, where a range is nothing but entries of one table that lead to tables of the lowest level.
//!
//! ```text
//!   level 1    | .. |  t0 |  t1 |  -  |  t3 | .. |            | .. |  -  |  -  |  -  |  -  | .. |
//!                      └───── the range ─────┘        ──►            └ maps nothing, or no table yet ┘
//! ```
//!
//! It is what a move of a large buffer mostly is, and costs two walks down and a few steps per table. Whatever is not as drawn is left to the
//! [general way](Tables::move_range), which says what is wrong with it.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{Access, Mmu, TableError, Tables};

use super::Gather;
use super::change::Forget;
use super::cursor::{Cursor, Run};
use super::table::Table;

/// The level whose entries are moved.
const LEVEL: usize = 1;

/// The way to a table of [`LEVEL`]: of each level the table that was reached, and the index of the entry that leads on. From some level on there may be none.
type Path<'a, M> = [Option<(Table<'a, M>, usize)>; MAX_LEVELS];

/// Entries that may be moved as they are, as long as nothing is changed.
pub(crate) struct WholeTables<'a, M: Mmu> {
    from: PageRange,
    to: VirtAddr,
    path: Path<'a, M>,
    table: Table<'a, M>,
    run: Run,
    /// How many tables are missing at the new place.
    pub(super) needed: u64,
}

impl<M: Mmu> Tables<M> {
    /// The entries that a range is, if they can be moved as they are to `to`.
    pub(super) fn whole_tables<'a, F: Frames>(
        &self,
        frames: &'a F,
        from: PageRange,
        to: PageRange,
    ) -> Option<WholeTables<'a, M>> {
        let (at, above) = (self.mmu.level(LEVEL)?, self.mmu.level(LEVEL + 1)?);
        let edges = from.start().as_u64() | from.size() | to.start().as_u64();
        let spread = |range: PageRange| (range.start().as_u64() ^ range.last().as_u64()) >> above.shift;
        let misplaced = edges & ((1 << at.shift) - 1) | spread(from) | spread(to);
        if misplaced != 0 || from.size() != to.size() || from.overlaps(to) {
            return None;
        }
        let count = (from.size() >> at.shift) as usize;
        let run = |range: PageRange| Run { first: self.index_at(LEVEL, range.start()), count };
        // What tables above forbid would have to be written into each leaf.
        let mut path: Path<'a, M> = [None; MAX_LEVELS];
        let note = |level: usize, table, index| {
            if let Some(place) = path.get_mut(level) {
                *place = Some((table, index));
            }
        };
        let (table, level) = self.go_down(frames, from.start(), true, note)?;
        if level != LEVEL {
            return None;
        }
        let (target, level) = self.go_down(frames, to.start(), false, |_, _, _| {})?;
        if level == LEVEL && target.first_present(self.mmu, run(to)).is_some() {
            return None;
        }
        let run = run(from);
        // Only a table of this library can be freed later.
        let mut found = false;
        if self.each_leaf_table::<F, false>(frames, &table, run, |_, _| found = true) != run.count {
            return None;
        }
        let needed = level.saturating_sub(LEVEL) as u64;
        if found { Some(WholeTables { from, to: to.start(), path, table, run, needed }) } else { None }
    }

    /// Shows the tables of the lowest level that entries of a table of [`LEVEL`] lead to, each with its place in the run; absent entries are passed. Ends before one that is something else,
    /// or a table that is not this library's, and gives how many entries lie before it. Whose they are is not looked at again where it was `SEEN`.
    #[inline(always)]
    fn each_leaf_table<'a, F: Frames, const SEEN: bool>(
        &self,
        frames: &'a F,
        table: &Table<'a, M>,
        run: Run,
        mut show: impl FnMut(usize, Table<'a, M>),
    ) -> usize {
        for step in 0..run.count {
            let word = table.load(run.first + step);
            if self.mmu.is_present(word) {
                let frame = self.mmu.decode_table(LEVEL, word).filter(|frame| *frame != table.frame());
                let reach = if SEEN { Table::reach } else { Table::own };
                let Some(below) = frame.and_then(|frame| reach(frames, self.mmu, LEVEL - 1, frame)) else {
                    return step;
                };
                show(step, below);
            }
        }
        run.count
    }

    /// The entries from the cursor on that the range covers as a whole and that lead to nothing but leaf tables of this library: those need no way in and out. Shows each of the tables with its
    /// place among the entries; where it was `SEEN` whose they are, to be read and written only.
    #[inline]
    pub(super) fn leaf_tables_at<'a, F: Frames, const SEEN: bool>(
        &self,
        cursor: &Cursor<'a, F, M>,
        show: impl FnMut(usize, Table<'a, M>),
    ) -> Option<Run> {
        let run = cursor.whole_run().filter(|_| cursor.level() == LEVEL)?;
        let count = self.each_leaf_table::<F, SEEN>(cursor.frames(), &cursor.table(), run, show);
        (count != 0).then_some(Run { count, ..run })
    }

    /// Goes down to [`LEVEL`], or as far as there are tables of this library, and gives the last of them with its level. Shows each table that it comes to, with its level and the index of
    /// the entry there. `None` where something else than a table is in the way, or where one forbids anything and must not.
    #[inline(always)]
    fn go_down<'a, F: Frames>(
        &self,
        frames: &'a F,
        address: VirtAddr,
        open: bool,
        mut passed: impl FnMut(usize, Table<'a, M>, usize),
    ) -> Option<(Table<'a, M>, usize)> {
        let mut level = self.mmu.levels().checked_sub(1)?;
        let mut table = Table::own(frames, self.mmu, level, self.root)?;
        loop {
            let index = self.index_at(level, address);
            passed(level, table, index);
            let word = table.load(index);
            if level == LEVEL || !self.mmu.is_present(word) {
                return Some((table, level));
            }
            let frame = self.mmu.decode_table(level, word)?;
            if open && Access::all() & self.mmu.limits(level, word) != Access::all() || frame == table.frame() {
                return None;
            }
            level -= 1;
            table = Table::own(frames, self.mmu, level, frame)?;
        }
    }

    /// Moves them; as [`move_range`](Self::move_range).
    pub(super) fn move_whole<F: Frames>(
        &self,
        frames: &F,
        whole: &WholeTables<'_, M>,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let &WholeTables { from, to, ref path, table, run, needed } = whole;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let shift = self.mmu.level(LEVEL).map_or(self.mmu.page_shift(), |at| at.shift);
        let (target, first) = self.place(frames, to.as_u64(), LEVEL, &mut None, spare, needed)?;
        let mut forget = Forget::new(self.tag);
        let mut moved = 0;
        for step in 0..run.count {
            let word = table.load(run.first + step);
            if self.mmu.is_present(word) {
                table.store(run.first + step, 0);
                target.store(first + step, word);
                moved += 1;
                let done = Run { first: step, count: 1 };
                forget.add_run(gather, from.start().as_u64(), shift, done, M::FORMAT.global.mask != 0);
            }
        }
        forget.finish(gather);
        gather.scope.note_tables();
        target.change_live(moved);
        let mut left = (table, table.change_live(-moved));
        // What is empty now is unlinked, from the lowest on.
        for level in LEVEL + 1..self.mmu.levels() {
            let Some((above, index)) = path.get(level).copied().flatten().filter(|_| left.1 == 0) else { break };
            above.store(index, 0);
            if const { M::FORMAT.break_before_make && F::INVALIDATES_NOW } {
                let mask = self.mmu.level(level).map_or(0, |at| (1 << at.shift) - 1);
                let start = from.start().as_u64();
                let span = PageRange::from_bounds(VirtAddr::new(start & !mask), VirtAddr::new(start | mask));
                frames.invalidate_now(self.tag.0, span);
            }
            // Only tables with metadata are ever entered, so the list can hold it.
            let _ = gather.tables.push(frames, left.0.frame());
            left = (above, above.change_live(-1));
        }
        Ok(())
    }
}
