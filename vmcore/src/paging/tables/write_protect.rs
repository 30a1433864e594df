//! Withdrawing write permission from a range in as few entries as it takes, and pushing that down where it is written again.
//!
//! ```text
//!   write_protect        level 2    ro ─┐                  one entry for a whole subtree
//!                        level 1    rw rw rw rw
//!
//!   push_down(page)      level 2    rw ─┐                  3. the parent, last
//!                        level 1    ro rw ro ro            1. its children  ── 2. the one on the way, in its turn
//!                        level 0       ro ro ro                                   (last of all the page's own entry: `set_page`)
//! ```
//!
//! Only formats whose permissions combine over levels can do this ([`Format::table`](crate::paging::Format::table)), and of those only at levels
//! whose table entries have the bit. Elsewhere leaves are protected one by one, or dropped ([`Tables::detach`]).
//!
//! What was writable before is not recorded here: who asks for it knows from its windows.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Access, EncodeError, Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::change::Forget;
use super::cursor::{Cursor, Parts, Run};
use super::group::Remade;
use super::live::Slot;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Whether a table entry of this level can forbid writing to all that lies below.
    pub fn can_limit_writes(&self, level: usize) -> bool {
        self.mmu.level(level).is_some_and(|at| {
            at.table_limits
                && M::FORMAT
                    .table
                    .is_some_and(|limits| limits.writable.mask != 0 && at.table_reserved & limits.writable.mask == 0)
        })
    }

    /// The word of a table entry that lets writes through, or does not.
    fn with_writes(&self, word: u64, allowed: bool) -> u64 {
        M::FORMAT.table.map_or(word, |limits| word & !limits.writable.mask | limits.writable.encode(allowed))
    }

    /// Forbids writing in the range, in the highest entries that it covers; larger leaves that it covers in part are split. What changes
    /// is to be flushed. Gives how many entries were changed.
    ///
    /// Cost: O(entries changed, and tables on the way to the range's ends); where levels do not [limit](Self::can_limit_writes), O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: too few spare tables ([`tables_to_split`](Self::tables_to_split)), tables that are not this library's, or leaves whose
    /// access without writing the format cannot express, or a format whose live groups cannot be replaced here ([`TableError::NeedsInvalidation`]).
    pub fn write_protect<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<u64, TableError> {
        let cuts = |leaf: &Leaf| leaf.access.contains(Access::WRITE);
        // What one entry forbids is not looked at below: the cost is that of the entries changed.
        let needed = self.count_cuts_below(frames, range, cuts, |level| !self.can_limit_writes(level))?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.check_groups(frames, range, |leaf| leaf.access.contains(Access::WRITE))?;
        self.write_protect_shown(frames, range, &|_| Some(range), spare, gather)
    }

    /// The same where nothing is mapped but in the parts of the range that `shown` gives, in order: the first that ends at an address or behind it. What lies between them is not
    /// looked at, however many entries that is.
    ///
    /// Cost: O(entries changed, parts looked for, and tables on the way to the ends of range and parts).
    ///
    /// # Errors
    /// As for [`write_protect`](Self::write_protect), which looks for them first: here they end it where they are met.
    pub(crate) fn write_protect_shown<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        shown: &impl Fn(VirtAddr) -> Option<PageRange>,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<u64, TableError> {
        let writable = |leaf: &Leaf| leaf.access.contains(Access::WRITE);
        self.dissolve_parts(frames, range, writable, gather)?;
        let shift = self.mmu.page_shift();
        let mut changed = 0;
        let mut forget = Forget::new(self.tag);
        // Leaves that are not read may be global.
        let global = M::FORMAT.global.mask != 0;
        // The last entry of those that were looked at together, of which some are leaves.
        let mut one_by_one: Option<(usize, VirtAddr)> = None;
        let mut cursor = self.cursor(frames, range)?;
        let mut parts = Parts::new(shown);
        loop {
            let Some(end) = parts.go_on(&mut cursor) else {
                forget.finish(gather);
                return Ok(changed);
            };
            let (level, table) = (cursor.level(), cursor.table());
            if let Some((run, last)) =
                self.run_to_limit(&cursor, end).filter(|(_, last)| one_by_one != Some((level, *last)))
            {
                let at = self.mmu.level(level);
                let (start, shift) = (cursor.address().as_u64(), at.map_or(shift, |at| at.shift));
                let mut leaves = false;
                // What is no leaf is a table. (Whoever has to know beforehand that each means something has counted cuts.)
                let limit = |word| {
                    if at.is_none_or(|at| at.is_leaf(word)) {
                        leaves = true;
                        return None;
                    }
                    Some(self.with_writes(word, false)).filter(|limited| *limited != word)
                };
                table.update_present(self.mmu, run, limit, |done| {
                    changed += done.count as u64;
                    forget.add_run(gather, start, shift, done, global);
                    // Pointers to tables are kept with what they let through.
                    gather.scope.note_tables();
                });
                if leaves {
                    one_by_one = Some((level, last));
                    continue;
                }
                cursor.pass(run);
                if !cursor.forward() {
                    forget.finish(gather);
                    return Ok(changed);
                }
                continue;
            }
            let protect = |index, pages| {
                self.rewrite(frames, Slot { table, level, index, pages }, false, |leaf| {
                    Ok(self.mmu.encode_leaf(level, leaf.access(leaf.access.difference(Access::WRITE)))?)
                })
            };
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.leaf_of_group(&group).filter(writable) {
                    self.remake(frames, &group, Remade::Group, |leaf| {
                        leaf.access(leaf.access.difference(Access::WRITE))
                    })?;
                    forget.add(gather, group.pages, leaf.global);
                    changed += group.run.count as u64;
                }
                cursor.pass(group.run);
            } else if level == 0 && !self.relies_on_dirty() {
                let run = cursor.run_to(self.singles(&cursor), end);
                let (mmu, start) = (self.mmu, cursor.address().as_u64());
                let mut inexpressible = None;
                let forbid = |word| {
                    let bits = flip_to_forbid(mmu, word).transpose()?;
                    bits.map_err(|error| inexpressible = Some(error)).ok()
                };
                table.flip_runs(mmu, run, mmu.access_mask(), M::FORMAT.global, forbid, |done, global| {
                    changed += done.count as u64;
                    forget.add_run(gather, start, shift, done, global);
                });
                if let Some(error) = inexpressible {
                    return Err(error.into());
                }
                cursor.pass(run);
            } else if level == 0 {
                let run = cursor.run_to(self.singles(&cursor), end);
                for step in 0..run.count {
                    let index = run.first + step;
                    let Entry::Leaf(leaf) = self.decode_at(0, index, table.load(index)) else { continue };
                    if leaf.access.contains(Access::WRITE) {
                        let start = VirtAddr::new(cursor.address().as_u64() + ((step as u64) << shift));
                        let page = PageRange::from_checked(start, 1 << shift);
                        protect(index, page)?;
                        forget.add(gather, page, leaf.global);
                        changed += 1;
                    }
                }
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    // Limited with the others of its run.
                    Entry::Table(..) if cursor.is_whole() && self.can_limit_writes(level) => {}
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Leaf(leaf) if !leaf.access.contains(Access::WRITE) => {}
                    Entry::Leaf(leaf) if cursor.is_whole() => {
                        protect(cursor.index(), cursor.span())?;
                        forget.add(gather, cursor.span(), leaf.global);
                        changed += 1;
                    }
                    Entry::Leaf(leaf) => {
                        let needed = self.tables_to_cut(level, cursor.part());
                        if spare.len() < needed {
                            forget.finish(gather);
                            return Err(TableError::NeedsTables(needed));
                        }
                        self.split(frames, &mut cursor, spare, needed)?;
                        forget.finish(gather);
                        gather.scope.add(self.tag, self.span_above(&cursor), leaf.global);
                        continue;
                    }
                    _ => {}
                }
            }
            if !cursor.forward() {
                forget.finish(gather);
                return Ok(changed);
            }
        }
    }

    /// The entries from the cursor on to that of `end` that can each forbid writing to all that lies below, and the address of the last.
    #[inline]
    fn run_to_limit<F: Frames>(&self, cursor: &Cursor<'_, F, M>, end: VirtAddr) -> Option<(Run, VirtAddr)> {
        let run = cursor.whole_run().filter(|_| cursor.level() != 0 && self.can_limit_writes(cursor.level()))?;
        let run = cursor.run_to(run, end);
        Some((run, cursor.span_of(run)))
    }

    /// Lets writes through every table entry on the way to `address`, after they were forbidden in all other entries below: what may be written
    /// stays the same, and the page's own leaf can then be made writable ([`set_page`](Self::set_page)). Gives how many entries were changed.
    ///
    /// Nothing has to be flushed: a CPU that remembers an entry as it was faults, forgets it and finds the new ones (where a fault forgets
    /// nothing, whoever handles it flushes the page on that CPU, with the tables noted). Cost: O(entries of a table) for each
    /// level that forbade it.
    ///
    /// # Errors
    /// Nothing was changed: the address is no page's, tables that are not this library's, or a format whose live groups cannot be replaced here
    /// ([`TableError::NeedsInvalidation`]).
    pub fn push_down<F: Frames>(&mut self, frames: &F, address: VirtAddr) -> Result<u64, TableError> {
        self.mmu.range(address.as_u64(), 1 << self.mmu.page_shift()).map_err(TableError::Address)?;
        let mut changed = 0;
        // Looked at first, then done.
        for commit in [false, true] {
            let mut frame = self.root;
            for level in (1..self.mmu.levels()).rev() {
                let foreign = TableError::Foreign(address);
                let table = Table::own(frames, self.mmu, level, frame).ok_or(foreign)?;
                let index = self.index_at(level, address);
                let word = table.load(index);
                let Some(next) = self.mmu.decode_table(level, word) else { break };
                let allowed = self.with_writes(word, true);
                if self.can_limit_writes(level) && allowed != word {
                    let below = Table::own(frames, self.mmu, level - 1, next).ok_or(foreign)?;
                    changed += self.forbid_all(frames, &below, level - 1, address, commit)?;
                    if commit {
                        table.store(index, allowed);
                        changed += 1;
                    }
                }
                frame = next;
            }
        }
        Ok(changed)
    }

    /// Forbids writing in every entry of a table; where not `commit`, only sees whether that can be done.
    fn forbid_all<F: Frames>(
        &self,
        frames: &F,
        table: &Table<'_, M>,
        level: usize,
        address: VirtAddr,
        commit: bool,
    ) -> Result<u64, TableError> {
        let mut changed = 0;
        let page = PageRange::from_checked(address, 1 << self.mmu.page_shift());
        let shift = self.mmu.level(level).map_or(0, |at| at.shift);
        let base = address.align_down(shift + self.mmu.index_bits(level)).as_u64();
        let without = |leaf: Leaf| leaf.access(leaf.access.difference(Access::WRITE));
        // Often the entry on the way is the only one.
        let on_way = self.index_at(level, address);
        let is_only = table.live() == 1 && self.mmu.is_present(table.load(on_way));
        let all = if is_only { Run { first: on_way, count: 1 } } else { Run { first: 0, count: table.len() } };
        if level == 0 && !self.relies_on_dirty() && !const { M::FORMAT.has_contiguous() } {
            let alike = self.mmu.access_mask();
            if !commit {
                return table
                    .each_unlike(all, alike, |word| flip_to_forbid(self.mmu, word).map(drop))
                    .map_err(Into::into)
                    .map(|()| 0);
            }
            let mut inexpressible = None;
            let forbid = |word| {
                let bits = flip_to_forbid(self.mmu, word).transpose()?;
                bits.map_err(|error| inexpressible = Some(error)).ok()
            };
            let add = |done: Run, _| changed += done.count as u64;
            table.flip_runs(self.mmu, all, alike, M::FORMAT.global, forbid, add);
            return inexpressible.map_or(Ok(changed), |error| Err(error.into()));
        }
        let (mut next, mut left) = (all.first, table.live());
        let rest = |next| Run { first: next, count: table.len() - next };
        // Where little is present, most of it is passed many at a time, and nothing is looked at behind the last one.
        while let Some(index) = (next < table.len() && left > 0)
            .then(|| table.first_present(self.mmu, rest(next)))
            .flatten()
            .map(|absent| next + absent)
        {
            next = index + 1;
            left = left.saturating_sub(1);
            let here = VirtAddr::new(base + ((index as u64) << shift));
            if let Some(group) = self.group_in(table, level, here) {
                let first = group.run.first == index;
                if let Some(leaf) =
                    self.leaf_of_group(&group).filter(|leaf| first && leaf.access.contains(Access::WRITE))
                {
                    if commit {
                        self.remake(frames, &group, Remade::Group, without)?;
                        changed += group.run.count as u64;
                    } else {
                        self.mmu.encode_contiguous(level, without(leaf))?;
                        self.check_replaceable::<F>(group.pages)?;
                    }
                }
                continue;
            }
            let word = table.load(index);
            let limited = self.with_writes(word, false);
            match self.decode_at(level, index, word) {
                Entry::Table(..) if !self.can_limit_writes(level) => {
                    return Err(EncodeError::Access(Access::READ).into());
                }
                Entry::Table(..) if commit && limited != word => {
                    table.store(index, limited);
                    changed += 1;
                }
                Entry::Leaf(leaf) if leaf.access.contains(Access::WRITE) => {
                    let make = |leaf: Leaf| Ok(self.mmu.encode_leaf(level, without(leaf))?);
                    if commit {
                        self.rewrite(frames, Slot { table: *table, level, index, pages: page }, false, make)?;
                        changed += 1;
                    } else {
                        make(leaf)?;
                    }
                }
                _ => {}
            }
        }
        Ok(changed)
    }
}

/// Which bits of a leaf's word are to be exchanged so that it forbids writing; `None` where nothing is, or it does already.
///
/// # Errors
/// The format cannot express what is left of its access.
#[inline]
fn flip_to_forbid<M: Mmu>(mmu: M, word: u64) -> Result<Option<u64>, EncodeError> {
    let access = mmu.leaf_access(word);
    if !mmu.is_present(word) || !access.contains(Access::WRITE) {
        return Ok(None);
    }
    let bits = mmu.encode_access(access.difference(Access::WRITE))?;
    Ok(Some(word ^ mmu.replace_access(word, bits)))
}
