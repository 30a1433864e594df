//! Root slots that stay for ever, and root slots shared between spaces: how every space shows the one kernel half.
//!
//! A pinned table counts one live entry more than it has, so it is never empty. It is therefore in place before it is shared,
//! and what the owner maps below it later is seen through every root that shares it.

use crate::addr::PageRange;
use crate::frame::{FrameList, Frames};
use crate::paging::{Entry, Mmu, TableError, Tables};

use super::Gather;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Fills every root slot that `range` touches with a table that stays (it is not unlinked when it becomes empty). Slots that are pinned already stay as they are.
    ///
    /// # Errors
    /// Nothing was changed: too few spare tables, a slot that is a leaf ([`TableError::Conflict`]), or tables that are not this library's.
    pub fn pin_root_slots<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        spare: &mut FrameList,
    ) -> Result<(), TableError> {
        let mut needed = 0;
        let mut cursor = self.cursor(frames, range)?;
        let below = cursor.level().checked_sub(1).ok_or(TableError::Foreign(range.start()))?;
        loop {
            match cursor.entry() {
                Entry::Absent => needed += 1,
                Entry::Table(frame, _) if Table::own(frames, self.mmu, below, frame).is_some() => {}
                Entry::Leaf(_) => return Err(TableError::Conflict(cursor.address())),
                Entry::Table(..) | Entry::Reserved => return Err(TableError::Foreign(cursor.address())),
            }
            if !cursor.next() {
                break;
            }
        }
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let frame = match cursor.entry() {
                Entry::Table(frame, _) => frame,
                _ => self.link_spare(frames, &cursor, spare, needed)?,
            };
            if let Some(table) = Table::own(frames, self.mmu, below, frame) {
                if !table.is_pinned(self.mmu) {
                    table.change_live(1);
                }
            }
            if !cursor.next() {
                return Ok(());
            }
        }
    }

    /// Ends the pinning of the root slots that `range` touches: tables that are empty are unlinked into `gather`, others when they
    /// become so. Slots that are not pinned, or lead to somebody else's tables, stay as they are.
    pub fn unpin_root_slots<F: Frames>(&mut self, frames: &F, range: PageRange, gather: &mut Gather) {
        let Ok(mut cursor) = self.cursor(frames, range) else { return };
        loop {
            if let (Entry::Table(frame, _), Some(below)) = (cursor.entry(), cursor.level().checked_sub(1)) {
                if let Some(table) = Table::own(frames, self.mmu, below, frame) {
                    if table.is_pinned(self.mmu) && table.change_live(-1) == 0 {
                        cursor.table().store(cursor.index(), 0);
                        cursor.table().change_live(-1);
                        // No leaf lay below, but CPUs may have cached the way to the empty table.
                        gather.scope.add(self.tag, cursor.part(), true);
                        gather.scope.note_tables();
                        let _ = gather.tables.push(frames, frame);
                    }
                }
            }
            if !cursor.next() {
                return;
            }
        }
    }

    /// Copies the root slots that `range` touches from `from`: the tables behind them stay `from`'s, who must outlive these tables
    /// and have them pinned (or leave them as they are). From then on this range must not be changed through these tables.
    ///
    /// # Errors
    /// Nothing was changed: a slot holds something already ([`TableError::Conflict`]), or the formats differ or a root cannot be reached ([`TableError::Foreign`]).
    pub fn share_root_slots<F: Frames, N: Mmu>(
        &mut self,
        frames: &F,
        from: &Tables<N>,
        range: PageRange,
    ) -> Result<(), TableError> {
        let foreign = TableError::Foreign(range.start());
        let (levels, theirs) = (self.mmu.levels(), from.mmu.levels());
        if M::FORMAT != N::FORMAT || levels != theirs {
            return Err(foreign);
        }
        let root = levels.checked_sub(1).and_then(|level| Table::reach(frames, from.mmu, level, from.root));
        let source = root.ok_or(foreign)?;
        let mut cursor = self.cursor(frames, range)?;
        loop {
            if self.mmu.is_present(cursor.table().load(cursor.index())) {
                return Err(TableError::Conflict(cursor.address()));
            }
            if !cursor.next() {
                break;
            }
        }
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let word = source.load(cursor.index());
            if self.mmu.is_present(word) {
                cursor.table().store(cursor.index(), word);
                cursor.table().change_live(1);
            }
            if !cursor.next() {
                return Ok(());
            }
        }
    }
}
