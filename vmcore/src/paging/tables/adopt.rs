//! Taking over tables that somebody else made: a loader's, another kernel's.
//!
//! ```text
//!   root of a loader   ── runs: what does it map?                          (reads only)
//!                      ── adopt(range): these tables are this library's from now on, with their entries counted
//!                      ── drop_foreign(range): these root slots lead nowhere from now on, their tables stay the loader's
//! ```
//!
//! A range that was adopted is changed like any other: its tables are freed when they become empty, to the embedder's frames.

use crate::addr::{Frame, PageRange};
use crate::frame::{FrameList, FrameUse, Frames};
use crate::paging::{Entry, Mmu, TableError, Tables};

use super::Gather;
use super::cursor::Cursor;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Takes over every table that the range's translations go through, the root included: each is recorded as a
    /// [table](FrameUse::Table) with its entries counted, from where on the range can be changed. Tables that the range touches in part are taken over with
    /// all their entries; what those lead to outside of the range stays foreign. Gives how many tables were taken over. Cost: O(tables and entries).
    /// [`vm_space`](crate::vm_space) says for whom this is, and what other ways there are.
    ///
    /// # Errors
    /// Nothing was changed: [`TableError::Foreign`] where a table cannot be reached, has no record, is recorded as used (also for a table that is met twice, such
    /// as a root that contains itself, or that the range covers and that was adopted before), an entry is malformed, or the members of a group (Arm's
    /// contiguous hint, RISC-V's Svnapot) do not agree.
    ///
    /// # Safety
    /// Nobody else changes or frees the tables from now on. They are a tree: no table of the range is reached by another way. Their frames may be given to
    /// [`Frames::free_frames`] one by one when they are no longer used.
    pub unsafe fn adopt<F: Frames>(&mut self, frames: &F, range: PageRange) -> Result<u64, TableError> {
        let mut adopted = FrameList::new();
        let result = self.adopt_all(frames, range, &mut adopted);
        let count = adopted.len();
        if result.is_err() {
            while let Some(frame) = adopted.pop(frames) {
                if let Some(meta) = frames.frame_meta(frame) {
                    let _ = meta.end(frame, FrameUse::Table);
                }
            }
        }
        result.map(|()| count)
    }

    fn adopt_all<F: Frames>(&self, frames: &F, range: PageRange, adopted: &mut FrameList) -> Result<(), TableError> {
        let foreign = TableError::Foreign(range.start());
        let top = self.mmu.levels().checked_sub(1).ok_or(foreign)?;
        self.adopt_one(frames, top, self.root, true, adopted).ok_or(foreign)?;
        let mut cursor = Cursor::new(frames, self.mmu, self.root, range, false).ok_or(foreign)?;
        loop {
            if cursor.level() == 0 {
                cursor.pass(cursor.run());
            } else {
                let foreign = TableError::Foreign(cursor.address());
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        let before = !range.covers(cursor.span());
                        self.adopt_one(frames, cursor.level() - 1, frame, before, adopted).ok_or(foreign)?;
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Reserved => return Err(foreign),
                    _ => {}
                }
            }
            if !cursor.forward() {
                return Ok(());
            }
        }
    }

    /// Records one table and counts its entries. `None` if it is in use; where `before`, it may have been adopted already.
    fn adopt_one<F: Frames>(
        &self,
        frames: &F,
        level: usize,
        frame: Frame,
        before: bool,
        adopted: &mut FrameList,
    ) -> Option<()> {
        let meta = frames.frame_meta(frame)?;
        let table = Table::reach(frames, self.mmu, level, frame)?;
        if !self.groups_are_whole(&table, level) {
            return None;
        }
        match meta.begin(FrameUse::Table) {
            Ok(()) => {
                let present = (0..table.len()).filter(|index| self.mmu.is_present(table.load(*index))).count();
                meta.change_live(present as i32);
                adopted.push(frames, frame).ok()
            }
            Err(FrameUse::Table) if before => Some(()),
            Err(_) => None,
        }
    }

    /// Makes every entry in the range that leads to somebody else's table absent. The foreign tables are neither read nor freed: they are
    /// their owner's again once the flush is acknowledged. What this library's own tables map in the range stays.
    ///
    /// # Errors
    /// Nothing was changed: the range covers the entry to a foreign table only in part, or the root is not this library's
    /// ([`TableError::Foreign`]).
    pub fn drop_foreign<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        // Looked at first, then done.
        for commit in [false, true] {
            let mut cursor = self.cursor(frames, range)?;
            'entries: loop {
                if cursor.level() == 0 {
                    cursor.pass(cursor.run());
                } else if let Entry::Table(frame, _) = cursor.entry() {
                    if cursor.enter(frame).is_ok() {
                        continue 'entries;
                    }
                    if !cursor.is_whole() {
                        return Err(TableError::Foreign(cursor.address()));
                    }
                    if commit {
                        cursor.table().store(cursor.index(), 0);
                        cursor.table().change_live(-1);
                        gather.scope.add(self.tag, cursor.span(), M::FORMAT.global.mask != 0);
                        gather.scope.note_tables();
                    }
                }
                while !cursor.next() {
                    let Some(left) = cursor.leave() else { break 'entries };
                    if commit {
                        cursor.unlink_empty(&left, self.tag, gather);
                    }
                }
            }
        }
        Ok(())
    }
}
