//! The writing cursor for who needs more than the operations on ranges: a position in a bounded range of the tables.
//!
//! ```text
//!   enter ──► into the table below (made, or a leaf split, with a spare table)
//!   leave ──► out, to the entry that leads to this table (unlinked, if the table is empty now)
//!   next  ──► the next entry of this table, as long as the range and the table have one
//! ```
//!
//! The cursor never leaves its range, changes only entries that the range covers whole, and keeps the invariants of the tables: counts,
//! no empty table but the root, everything that changed noted for the flush. It writes single leaves; a [group](super::Groups) of which it changes one becomes
//! single leaves, also where it reaches beyond the range. What it made absent and writes again before that flush is forgotten by every CPU in between, where the
//! format demands break-before-make.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Entry, EntryWord, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::cursor::Cursor;
use super::table::Table;

/// A writing cursor; see [`Tables::writer`]. Dropping it goes out of all tables, so that no empty one stays.
pub struct Writer<'a, F: Frames, M: Mmu> {
    tables: &'a mut Tables<M>,
    frames: &'a F,
    gather: &'a mut Gather,
    cursor: Cursor<'a, F, M>,
    /// The addresses around all that was made absent.
    absent: Option<(VirtAddr, VirtAddr)>,
}

impl<M: Mmu> Tables<M> {
    /// A writing cursor at the first entry of the root that the range touches. What it changes is noted in `gather`.
    ///
    /// # Errors
    /// The root is not this library's.
    pub fn writer<'a, F: Frames>(
        &'a mut self,
        frames: &'a F,
        range: PageRange,
        gather: &'a mut Gather,
    ) -> Result<Writer<'a, F, M>, TableError> {
        let cursor = self.cursor(frames, range)?;
        Ok(Writer { tables: self, frames, gather, cursor, absent: None })
    }
}

impl<F: Frames, M: Mmu> Writer<'_, F, M> {
    /// The level of the table that it is in; 0 is that of base pages.
    pub fn level(&self) -> usize {
        self.cursor.level()
    }

    /// Where it is: the first address of the entry that lies in the range.
    pub fn address(&self) -> VirtAddr {
        self.cursor.address()
    }

    /// The pages of the entry at the cursor that lie in the range.
    pub fn part(&self) -> PageRange {
        self.cursor.part()
    }

    /// Whether the range covers the whole of the entry, so that it can be changed.
    pub fn is_whole(&self) -> bool {
        self.cursor.is_whole()
    }

    /// What the entry means.
    pub fn entry(&self) -> Entry {
        self.cursor.entry()
    }

    /// Goes on to the next entry of this table; false, without moving, where the range or the table has no more.
    #[allow(clippy::should_implement_trait, reason = "a movement, which yields nothing")]
    pub fn next(&mut self) -> bool {
        self.cursor.next()
    }

    /// Goes into the table that the entry leads to. An absent entry gets a table from `spare`, and a leaf is split into one.
    ///
    /// # Errors
    /// Nothing was changed: no spare table where one is needed, no table below this level, the format cannot represent it, a table
    /// that is not this library's, or a format whose live entries cannot be replaced here.
    pub fn enter(&mut self, spare: &mut FrameList) -> Result<(), TableError> {
        let level = self.cursor.level();
        let foreign = TableError::Foreign(self.cursor.address());
        match self.cursor.entry() {
            Entry::Table(frame, _) => self.cursor.enter(frame),
            Entry::Leaf(leaf) if level > 0 => {
                self.tables.mmu.encode_leaf(level - 1, leaf)?;
                self.tables.check_replaceable::<F>(self.cursor.part())?;
                if spare.is_empty() {
                    return Err(TableError::NeedsTables(1));
                }
                self.leave_group()?;
                let span = self.cursor.span();
                self.tables.split(self.frames, &mut self.cursor, spare, 1)?;
                self.gather.scope.add(self.tables.tag, span, leaf.global);
                Ok(())
            }
            _ if level > 0 && !self.tables.mmu.is_present(self.cursor.table().load(self.cursor.index())) => {
                if spare.is_empty() {
                    return Err(TableError::NeedsTables(1));
                }
                self.forget_absent()?;
                let frame = self.tables.link_spare(self.frames, &self.cursor, spare, 1)?;
                self.cursor.enter(frame)
            }
            _ => Err(foreign),
        }
    }

    /// Goes out of this table to the entry that leads to it; false, without moving, in the root. A table that is empty is unlinked.
    pub fn leave(&mut self) -> bool {
        let Some(left) = self.cursor.leave() else { return false };
        if self.cursor.unlink_empty(&left, self.tables.tag, self.gather) {
            // No leaf lies below any more, but CPUs may remember the way to the table, whatever was noted of its leaves.
            self.gather.scope.add(self.tables.tag, self.cursor.span(), M::FORMAT.global.mask != 0);
            self.note_absent();
        }
        true
    }

    /// Writes a leaf of this level, and gives the one that was there. The entry must be whole, and not lead to a table.
    ///
    /// # Errors
    /// Nothing was changed: the range covers the entry in part or a table is there ([`TableError::Conflict`]), the format cannot represent the leaf at this level, or
    /// a format whose live entries cannot be replaced here.
    pub fn set(&mut self, leaf: Leaf) -> Result<Option<Leaf>, TableError> {
        let (level, table, index) = (self.cursor.level(), self.cursor.table(), self.cursor.index());
        let conflict = TableError::Conflict(self.cursor.address());
        let word = self.tables.mmu.encode_leaf(level, leaf)?;
        if !self.cursor.is_whole() {
            return Err(conflict);
        }
        match self.cursor.entry() {
            Entry::Leaf(old) => {
                self.tables.check_replaceable::<F>(self.cursor.span())?;
                self.leave_group()?;
                let mut previous = old;
                self.tables.rewrite(self.frames, self.cursor.slot(), true, |leaf| {
                    previous = leaf;
                    Ok(word)
                })?;
                self.gather.scope.add(self.tables.tag, self.cursor.span(), old.global);
                Ok(Some(previous))
            }
            _ if self.tables.mmu.is_present(table.load(index)) => Err(conflict),
            _ => {
                self.forget_absent()?;
                table.store(index, word);
                table.change_live(1);
                Ok(None)
            }
        }
    }

    /// Makes the entry absent if it is a leaf that the range covers whole, and gives the leaf.
    ///
    /// # Errors
    /// Nothing was changed: the leaf is one of a group, which a format whose live entries cannot be replaced here cannot make single
    /// ([`TableError::NeedsInvalidation`]).
    pub fn clear(&mut self) -> Result<Option<Leaf>, TableError> {
        let (level, table, index) = (self.cursor.level(), self.cursor.table(), self.cursor.index());
        if !self.cursor.is_whole() {
            return Ok(None);
        }
        if let Entry::Leaf(_) = self.cursor.entry() {
            self.leave_group()?;
        }
        match self.cursor.entry() {
            Entry::Leaf(leaf) => {
                let leaf = self.tables.replace(&table, level, index, leaf, 0);
                table.change_live(-1);
                self.gather.scope.add(self.tables.tag, self.cursor.span(), leaf.global);
                self.note_absent();
                Ok(Some(leaf))
            }
            _ => Ok(None),
        }
    }

    /// Makes single leaves of the group that the entry is one of, if it is.
    fn leave_group(&mut self) -> Result<(), TableError> {
        if let Some(group) = self.tables.group_at(&self.cursor) {
            self.tables.check_replaceable::<F>(group.pages)?;
            self.tables.dissolve(self.frames, &group, self.gather)?;
        }
        Ok(())
    }

    /// The entry at the cursor was made absent.
    fn note_absent(&mut self) {
        let (start, last) = (self.cursor.span().start(), self.cursor.span().last());
        self.absent = Some(self.absent.map_or((start, last), |(first, end)| (first.min(start), end.max(last))));
    }

    /// The absent entry at the cursor is about to be written: if it may have been live a moment ago, CPUs forget what it was.
    fn forget_absent(&self) -> Result<(), TableError> {
        let span = self.cursor.span();
        let recent = self.absent.is_some_and(|(first, last)| first <= span.last() && span.start() <= last);
        if M::FORMAT.break_before_make && recent {
            self.tables.check_replaceable::<F>(span)?;
            self.frames.invalidate_now(self.tables.tag.0, span);
        }
        Ok(())
    }

    /// The entries of this table that the range touches, from the cursor on.
    pub fn entries(&self) -> EntrySlice<'_, M> {
        let run = self.cursor.run();
        let (table, level) = (self.cursor.table(), self.cursor.level());
        EntrySlice { mmu: self.tables.mmu, table, level, first: run.first, count: run.count }
    }
}

impl<F: Frames, M: Mmu> Drop for Writer<'_, F, M> {
    fn drop(&mut self) {
        while self.leave() {}
    }
}

/// Entries that lie side by side in one table.
#[derive(Clone, Copy)]
pub struct EntrySlice<'a, M: Mmu> {
    mmu: M,
    table: Table<'a, M>,
    level: usize,
    first: usize,
    count: usize,
}

impl<'a, M: Mmu> EntrySlice<'a, M> {
    /// How many; at least one.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The entry as it stands in the table; `None` past the end.
    pub fn word(&self, index: usize) -> Option<u64> {
        (index < self.count).then(|| self.table.load(self.first + index))
    }

    /// What the entry means; `None` past the end.
    pub fn get(&self, index: usize) -> Option<Entry> {
        self.word(index).map(|word| self.mmu.decode_at(self.level, self.first + index, word))
    }

    /// The entries as the atomic words that they are.
    ///
    /// # Safety
    /// What is written keeps the tables' invariants: entries that are present stay present, and absent ones absent; what is written leads to no table; the
    /// members of a group agree in all but their marks; and what a CPU may remember otherwise is flushed.
    pub unsafe fn atomics(&self) -> &'a [<M::Word as EntryWord>::Atomic] {
        let entries = self.table.atomics();
        entries.get(self.first..self.first + self.count).unwrap_or(&[])
    }
}
