//! Root slots that stay for ever, and root slots shared between spaces: how every space shows the one kernel half.
//!
//! A pinned table counts one live entry more than it has, so it is never empty. It is therefore in place before it is shared,
//! and what the owner maps below it later is seen through every root that shares it.

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Entry, Mmu, TableError, Tables};

use super::Gather;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Makes the root slot of `address` lead to `table`, which is not counted as one of these tables.
    pub(in crate::paging) fn link_root_slot<F: Frames>(
        &self,
        frames: &F,
        address: VirtAddr,
        table: Frame,
    ) -> Result<(), TableError> {
        let foreign = TableError::Foreign(address);
        let level = self.mmu.levels().checked_sub(1).ok_or(foreign)?;
        let root = Table::own(frames, self.mmu, level, self.root).ok_or(foreign)?;
        let index = self.index_at(level, address);
        if self.mmu.is_present(root.load(index)) {
            return Err(TableError::Conflict(address));
        }
        root.store(index, self.mmu.encode_table(level, table)?);
        root.change_live(1);
        Ok(())
    }

    /// Clears the root slot of `address` if it leads to `table`.
    pub(in crate::paging) fn unlink_root_slot<F: Frames>(&self, frames: &F, address: VirtAddr, table: Frame) -> bool {
        let linked = self.root_slot(frames, address) == Some(table);
        let level = self.mmu.levels().saturating_sub(1);
        if let (true, Some(root)) = (linked, Table::own(frames, self.mmu, level, self.root)) {
            root.store(self.index_at(level, address), 0);
            root.change_live(-1);
        }
        linked
    }

    /// The table that the root slot of `address` leads to.
    pub(in crate::paging) fn root_slot<F: Frames>(&self, frames: &F, address: VirtAddr) -> Option<Frame> {
        let level = self.mmu.levels().checked_sub(1)?;
        let root = Table::reach(frames, self.mmu, level, self.root)?;
        self.mmu.decode_table(level, root.load(self.index_at(level, address)))
    }

    /// Links every table that is missing down to that of `level` for `address`.
    pub(in crate::paging) fn link_down_to<F: Frames>(
        &self,
        frames: &F,
        address: VirtAddr,
        level: usize,
        spare: &mut FrameList,
    ) -> Result<(), TableError> {
        let page = self.mmu.range(address.as_u64(), 1 << self.mmu.page_shift()).map_err(TableError::Address)?;
        let mut cursor = self.cursor(frames, page)?;
        let mut needed = None;
        while cursor.level() > level {
            let frame = match cursor.entry() {
                Entry::Table(frame, _) => frame,
                Entry::Leaf(_) => return Err(TableError::Conflict(address)),
                _ => {
                    let needed = *needed.get_or_insert((cursor.level() - level) as u64);
                    if spare.len() < needed.min((cursor.level() - level) as u64) {
                        return Err(TableError::NeedsTables(needed));
                    }
                    self.link_spare(frames, &cursor, spare, needed)?
                }
            };
            cursor.enter(frame)?;
        }
        Ok(())
    }

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
                Entry::Absent(_) => needed += 1,
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
        if M::FORMAT != N::FORMAT || levels != theirs || self.mmu.canonical() != from.mmu.canonical() {
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
            let word = from.shared_word(&source, cursor.level(), cursor.address(), range);
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
