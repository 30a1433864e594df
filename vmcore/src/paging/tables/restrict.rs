//! Taking permissions away from whatever a range maps, and giving none.
//!
//! ```text
//!   leaf            r--   rw-   r-x   --x
//!   restrict(rw-)   r--   rw-   r--   left as it is: no format says "nothing" of a leaf that is present
//! ```
//!
//! [`protect`](Tables::protect) gives every leaf the same access. That is wrong where a leaf has less than its window for a reason: a clean page is
//! read-only until its first write is seen, a shared one until it is copied. What a window allows beyond that, faults add.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Access, Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::change::Forget;
use super::cursor::{Cursor, Run};
use super::group::Remade;
use super::page::Found;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Leaves each leaf in the range only that of its access which `keep` has; larger leaves that the range covers in part are split. What
    /// changes is to be flushed. False if the format cannot say what would be left of some leaf (those stay as they are, and the caller unmaps them).
    ///
    /// For tables of spaces: where the hardware's dirty bits are [relied on](super::DirtyBits::Relied), marks could be lost.
    ///
    /// Cost: O(tables and leaves).
    ///
    /// # Errors
    /// As [`protect`](Self::protect). Nothing was changed.
    pub(crate) fn restrict<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        keep: Access,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<bool, TableError> {
        debug_assert!(!self.relies_on_dirty());
        if !const { M::FORMAT.has_contiguous() } {
            // One walk does, for what most changes concern: nothing is to be split, and no group dissolved.
            if let Some(table) = self.leaf_table_of(frames, range) {
                return Ok(self.restrict_leaves(&table, range, keep, gather));
            }
        }
        let concerns = |leaf: &Leaf| !keep.contains(leaf.access);
        let needed = self.check_access_change(frames, range, concerns)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.dissolve_parts(frames, range, concerns, gather)?;
        let mut complete = true;
        let mut forget = Forget::new(self.tag);
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let (level, table) = (cursor.level(), cursor.table());
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.leaf_of_group(&group).filter(concerns) {
                    if self.mmu.encode_access(leaf.access & keep).is_ok() {
                        self.remake(frames, &group, Remade::Group, |leaf| leaf.access(leaf.access & keep))?;
                        forget.add(gather, group.pages, leaf.global);
                    } else {
                        complete = false;
                    }
                }
                cursor.pass(group.run);
            } else if level == 0 {
                let run = self.singles(&cursor);
                complete &= self.restrict_run(&table, run, cursor.address(), keep, (&mut forget, gather));
                cursor.pass(run);
            } else if let Some(run) = self.restrict_tables(&cursor, keep, (&mut forget, &mut *gather), &mut complete) {
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Leaf(leaf) if !concerns(&leaf) => {}
                    Entry::Leaf(leaf) if self.mmu.encode_access(leaf.access & keep).is_err() => complete = false,
                    Entry::Leaf(leaf) if cursor.is_whole() => {
                        self.rewrite(frames, cursor.slot(), false, |leaf| {
                            Ok(self.mmu.encode_leaf(level, leaf.access(leaf.access & keep))?)
                        })?;
                        forget.add(gather, cursor.span(), leaf.global);
                    }
                    Entry::Leaf(leaf) => {
                        self.split(frames, &mut cursor, spare, needed)?;
                        forget.finish(gather);
                        gather.scope.add(self.tag, self.span_above(&cursor), leaf.global);
                        continue;
                    }
                    Entry::Absent(_) | Entry::Reserved => {}
                }
            }
            if !cursor.forward() {
                forget.finish(gather);
                return Ok(complete);
            }
        }
    }

    /// The same for a range that lies in the leaf table that a walk ended in; `None`, and nothing is changed, where it does not, or where the format has groups.
    #[inline]
    pub(crate) fn restrict_found<F: Frames>(
        &mut self,
        frames: &F,
        found: &Found<'_, M>,
        range: PageRange,
        keep: Access,
        gather: &mut Gather,
    ) -> Option<bool> {
        debug_assert!(!self.relies_on_dirty());
        if const { M::FORMAT.has_contiguous() } || !self.leads_to_all(found, range) {
            return None;
        }
        let table = found.table.owned(frames)?;
        Some(self.restrict_leaves(&table, range, keep, gather))
    }

    /// The same for a range in this leaf table.
    #[inline]
    fn restrict_leaves(&self, table: &Table<'_, M>, range: PageRange, keep: Access, gather: &mut Gather) -> bool {
        let run = Run { first: self.index_at(0, range.start()), count: range.pages(self.mmu.page_shift()) as usize };
        let mut forget = Forget::new(self.tag);
        let complete = self.restrict_run(table, run, range.start(), keep, (&mut forget, gather));
        forget.finish(gather);
        complete
    }

    /// Restricts what lies in the leaf tables that the entries from the cursor on lead to, as far as the range covers those; `None` where there are no such.
    #[inline]
    fn restrict_tables<F: Frames>(
        &self,
        cursor: &Cursor<'_, F, M>,
        keep: Access,
        (forget, gather): (&mut Forget, &mut Gather),
        complete: &mut bool,
    ) -> Option<Run> {
        if const { M::FORMAT.has_contiguous() } {
            return None;
        }
        let (start, size) = (cursor.address().as_u64(), cursor.span().size());
        // They were looked at when cuts were counted.
        self.leaf_tables_at::<F, true>(cursor, |step, table| {
            let (all, at) = (Run { first: 0, count: table.len() }, VirtAddr::new(start + step as u64 * size));
            *complete &= self.restrict_run(&table, all, at, keep, (forget, gather));
        })
    }

    /// Restricts the leaves of a run, the first of which shows `start` and none of which is of a group. False if the format cannot say what would be left of some.
    #[inline]
    fn restrict_run(
        &self,
        table: &Table<'_, M>,
        run: Run,
        start: VirtAddr,
        keep: Access,
        (forget, gather): (&mut Forget, &mut Gather),
    ) -> bool {
        let (mmu, shift, start) = (self.mmu, self.mmu.page_shift(), start.as_u64());
        let mut complete = true;
        let change = |word| {
            if !mmu.is_present(word) {
                return None;
            }
            let access = mmu.leaf_access(word);
            if keep.contains(access) {
                return None;
            }
            let bits = mmu.encode_access(access & keep);
            complete &= bits.is_ok();
            Some(word ^ mmu.replace_access(word, bits.ok()?))
        };
        table.flip_runs(mmu, run, mmu.access_mask(), M::FORMAT.global, change, |done, global| {
            forget.add_run(gather, start, shift, done, global);
        });
        complete
    }

    /// How many spare tables it takes to give the leaves in the range that `concerns` names another access. Cost: O(tables).
    ///
    /// # Errors
    /// Why [`protect`](Self::protect) and [`restrict`](Self::restrict) would refuse it, whatever the spare tables.
    pub(crate) fn check_access_change<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        concerns: impl Fn(&Leaf) -> bool,
    ) -> Result<u64, TableError> {
        let needed = self.count_cuts(frames, range, &concerns)?;
        self.check_groups(frames, range, &concerns)?;
        Ok(needed)
    }
}
