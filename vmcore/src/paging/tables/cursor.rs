//! A position in a tree of tables, bounded by a range: into a table, out of it, on to the next entry of this level.
//!
//! ```text
//!   range                     [===========================]
//!   level 1   | .... | entry  | entry  | entry  | entry  | ....
//!                        |enter           ^ next
//!   level 0          |..|=====|  <- a run: the entries of one leaf table that the range touches
//!                              `- next: no more here, out
//! ```
//!
//! The address never leaves the range, so an end at the top of the address space needs no address beyond it: whether
//! there is a next entry is asked before the address moves. No recursion; the depth is that of the format.

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{Entry, Mmu, TableError, Tag};

use super::Gather;
use super::live::Slot;
use super::table::Table;

/// Entries of one table that lie side by side and are touched by the cursor's range.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The index of the first one.
    pub(super) first: usize,
    /// How many; at least one.
    pub(super) count: usize,
}

pub(super) struct Cursor<'a, F, M: Mmu> {
    frames: &'a F,
    mmu: M,
    /// Whether tables must be recorded as such.
    owned: bool,
    address: u64,
    last: u64,
    level: usize,
    table: Table<'a, M>,
    /// The tables above, by level.
    above: [Option<Table<'a, M>>; MAX_LEVELS],
    shift: u32,
}

impl<'a, F: Frames, M: Mmu> Cursor<'a, F, M> {
    /// A cursor in the root, at the first entry that the range touches; `None` if the root cannot be reached (or, where
    /// `owned`, is not recorded as a table).
    pub(super) fn new(frames: &'a F, mmu: M, root: Frame, range: PageRange, owned: bool) -> Option<Self> {
        let level = mmu.levels().checked_sub(1).filter(|level| *level < MAX_LEVELS)?;
        let shift = mmu.level(level)?.shift;
        let table = if owned { Table::own(frames, mmu, level, root)? } else { Table::reach(frames, mmu, level, root)? };
        Some(Self {
            frames,
            mmu,
            owned,
            address: range.start().as_u64(),
            last: range.last().as_u64(),
            level,
            table,
            above: [None; MAX_LEVELS],
            shift,
        })
    }

    #[inline]
    pub(super) fn frames(&self) -> &'a F {
        self.frames
    }

    #[inline]
    pub(super) fn level(&self) -> usize {
        self.level
    }

    #[inline]
    pub(super) fn table(&self) -> Table<'a, M> {
        self.table
    }

    #[inline]
    pub(super) fn address(&self) -> VirtAddr {
        VirtAddr::new(self.address)
    }

    /// The index of the entry at the cursor.
    #[inline]
    pub(super) fn index(&self) -> usize {
        (self.address >> self.shift) as usize & (self.table.len() - 1)
    }

    #[inline]
    pub(super) fn entry(&self) -> Entry {
        self.mmu.decode_at(self.level, self.index(), self.table.load(self.index()))
    }

    /// The entry at the cursor.
    #[inline]
    pub(super) fn slot(&self) -> Slot<'a, M> {
        Slot { table: self.table, level: self.level, index: self.index(), pages: self.span() }
    }

    #[inline]
    fn offset_mask(&self) -> u64 {
        (1 << self.shift) - 1
    }

    /// All pages of the entry at the cursor, inside the range or not.
    #[inline]
    pub(super) fn span(&self) -> PageRange {
        let mask = self.offset_mask();
        PageRange::from_bounds(VirtAddr::new(self.address & !mask), VirtAddr::new(self.address | mask))
    }

    /// The pages of the entry from the cursor on that lie in the range.
    #[inline]
    pub(super) fn part(&self) -> PageRange {
        let last = (self.address | self.offset_mask()).min(self.last);
        PageRange::from_bounds(VirtAddr::new(self.address), VirtAddr::new(last))
    }

    /// Whether the range covers the whole of the entry (which the cursor has not passed in part).
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.address & self.offset_mask() == 0 && self.address | self.offset_mask() <= self.last
    }

    /// The entries from the cursor on that the range touches in this table.
    #[inline]
    pub(super) fn run(&self) -> Run {
        let first = self.index();
        let touched = (self.last >> self.shift) - (self.address >> self.shift);
        let left = self.table.len() - 1 - first;
        Run { first, count: (touched.min(left as u64)) as usize + 1 }
    }

    /// The entries from the cursor on that the range covers as a whole in this table; `None` where it does not so cover the first.
    #[inline]
    pub(super) fn whole_run(&self) -> Option<Run> {
        let run = self.run();
        let cut = self.span_of(run).as_u64() & self.offset_mask() != self.offset_mask();
        let count = run.count - usize::from(cut);
        (self.address & self.offset_mask() == 0 && count != 0).then_some(Run { first: run.first, count })
    }

    /// Moves to an address of the entry at the cursor or of this table's [run](Self::run), not backwards.
    #[inline]
    pub(super) fn seek(&mut self, address: VirtAddr) {
        debug_assert!(address.as_u64() >= self.address && address.as_u64() <= self.last);
        self.address = address.as_u64();
    }

    /// The last address of the run's entries that lies in the range.
    #[inline]
    pub(super) fn span_of(&self, run: Run) -> VirtAddr {
        let end = (self.address & !self.offset_mask()) + ((run.count as u64 - 1) << self.shift) + self.offset_mask();
        VirtAddr::new(end.min(self.last))
    }

    /// Passes all of the run but its last entry.
    #[inline]
    pub(super) fn pass(&mut self, run: Run) {
        if run.count > 1 {
            self.address = (self.address & !self.offset_mask()) + ((run.count as u64 - 1) << self.shift);
        }
    }

    /// Goes into the table that the entry at the cursor leads to.
    #[inline]
    pub(super) fn enter(&mut self, frame: Frame) -> Result<(), TableError> {
        let foreign = TableError::Foreign(self.address());
        let level = self.level.checked_sub(1).ok_or(foreign)?;
        if frame == self.table.frame() && self.owned {
            // A table that leads to itself: a self-map, through which a tree would be taken apart from within.
            return Err(foreign);
        }
        let format = self.mmu.level(level).ok_or(foreign)?;
        let table = if self.owned {
            Table::own(self.frames, self.mmu, level, frame)
        } else {
            Table::reach(self.frames, self.mmu, level, frame)
        };
        let table = table.ok_or(foreign)?;
        if let Some(slot) = self.above.get_mut(self.level) {
            *slot = Some(self.table);
        }
        (self.table, self.level, self.shift) = (table, level, format.shift);
        Ok(())
    }

    /// Goes out of this table, to the entry that leads to it, and gives the table that was left; `None` in the root.
    #[inline]
    pub(super) fn leave(&mut self) -> Option<Table<'a, M>> {
        let level = self.level + 1;
        let format = self.mmu.level(level)?;
        let parent = self.above.get(level).copied().flatten()?;
        (self.level, self.shift) = (level, format.shift);
        Some(core::mem::replace(&mut self.table, parent))
    }

    /// Unlinks the table that was just [left](Self::leave) if it is empty; false if it is not. No leaf lies below it any more, but CPUs may
    /// remember the way to it.
    #[inline]
    pub(super) fn unlink_empty(&self, left: &Table<'a, M>, tag: Tag, gather: &mut Gather) -> bool {
        if left.live() != 0 {
            return false;
        }
        self.table.store(self.index(), 0);
        self.table.change_live(-1);
        self.forget_table(tag);
        gather.scope.note_tables();
        // Only tables with metadata are ever entered, so the list can hold it.
        let _ = gather.tables.push(self.frames, left.frame());
        true
    }

    /// Has every CPU forget the table that this entry led to until now, where the format demands that before another is linked there: somebody may map
    /// beside what is being unmapped before that flush is acknowledged.
    #[inline]
    pub(super) fn forget_table(&self, tag: Tag) {
        if const { M::FORMAT.break_before_make && F::INVALIDATES_NOW } {
            self.frames.invalidate_now(tag.0, self.span());
        }
    }

    /// Those of the run up to the entry that shows `last`, which lies behind the cursor.
    #[inline]
    pub(super) fn run_to(&self, run: Run, last: VirtAddr) -> Run {
        let touched = (last.as_u64() >> self.shift) - (self.address >> self.shift);
        Run { count: run.count.min((touched as usize).saturating_add(1)), ..run }
    }

    /// Goes on to the entry that shows `address`, out of as many tables as needed, and not into any; stays where it is if the entry at the cursor does, or one before it. False at
    /// the end of the range.
    #[inline]
    pub(super) fn forward_to(&mut self, address: VirtAddr) -> bool {
        let address = address.as_u64();
        if address <= self.address | self.offset_mask() {
            return true;
        }
        if address > self.last {
            return false;
        }
        while (address ^ self.address) >> self.shift >= self.table.len() as u64 {
            if self.leave().is_none() {
                return false;
            }
        }
        // Behind the entry that the cursor was at, in this table as in the one that was left.
        self.address = address & !self.offset_mask();
        true
    }

    /// Goes on to the next entry of this table; false, without moving, if the range or the table has no more.
    #[inline]
    pub(super) fn next(&mut self) -> bool {
        let end = self.address | self.offset_mask();
        if end >= self.last || self.index() == self.table.len() - 1 {
            return false;
        }
        self.address = end + 1;
        true
    }

    /// Goes on to the next entry, out of as many tables as needed; false at the end of the range.
    #[inline]
    pub(super) fn forward(&mut self) -> bool {
        if self.address | self.offset_mask() >= self.last {
            // Nor have the tables above any more of the range.
            return false;
        }
        while !self.next() {
            if self.leave().is_none() {
                return false;
            }
        }
        true
    }
}

/// The parts of a range in which something may be mapped, as a cursor goes through them.
pub(super) struct Parts<'a, S> {
    /// The first part that ends at an address or behind it, if there is one.
    from: &'a S,
    part: Option<PageRange>,
}

impl<'a, S: Fn(VirtAddr) -> Option<PageRange>> Parts<'a, S> {
    pub(super) fn new(from: &'a S) -> Self {
        Self { from, part: None }
    }

    /// Goes on to an entry that shows some of a part, if the one at the cursor does not, and gives the last address of that part; `None` where there is no such any more.
    #[inline]
    pub(super) fn go_on<F: Frames, M: Mmu>(&mut self, cursor: &mut Cursor<'_, F, M>) -> Option<VirtAddr> {
        if self.part.is_none_or(|part| part.last() < cursor.address()) {
            self.part = (self.from)(cursor.address());
        }
        let part = self.part?;
        cursor.forward_to(part.start()).then_some(part.last())
    }
}
