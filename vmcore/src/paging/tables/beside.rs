//! Leaves that are set and cleared beside others: who does not have the tables exclusively leaves their shape as it is.
//!
//! ```text
//!                                    leaf table (its frame's record counts what is live)
//!   a fault in one area     ──►  | leaf |  --  | leaf |  --  |  ◄──  a fault in another one: entries of its own
//!                                                  ▲
//!                                a change that an area makes: entries of its own
//! ```
//!
//! | who | what it holds | what it may do |
//! |---|---|---|
//! | [`LeafTables::set`] | that nobody changes the shape of the tables; the pages, against everybody else's changes | set an absent entry of a leaf table; give a leaf more access |
//! | [`Tables::drop_leaves`], [`Tables::write_protect`], [`Tables::restrict`] | the same, and the lock of the tables | change and clear entries that show the pages, and entries of tables that show nothing else |
//! | all else | everything | link, unlink, split, and forbid or allow above |
//!
//! So an entry has one who writes it at a time (beside the hardware), the way to it stays, and all that two write is a table's count of live
//! entries, which is changed in one step here. A table that becomes empty stays linked: the next that has everything finds it
//! ([`unmap`](Tables::unmap), [`detach`](Tables::detach)).
//!
//! In a space "nobody changes the shape" is the index's lock, shared or exclusive, or the area's lock for tables of its windows alone; the pages are the area's,
//! whose lock is held.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::{Access, Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::around::{Around, Filler};
use super::change::Forget;
use super::cursor::Run;
use super::page::Found;
use super::table::Table;

/// What it takes to set leaves beside others: a way to the root, not a hold of the tables.
#[derive(Debug)]
pub(crate) struct LeafTables<M: Mmu>(Tables<M>);

impl<M: Mmu> LeafTables<M> {
    /// Whether one walk tells that nothing is mapped in a range, and that no table is empty there: it ends at an entry that is absent and covers all of it, beside
    /// others. Costs one read per level.
    #[inline]
    pub(crate) fn are_surely_clear<F: Frames>(&self, frames: &F, range: PageRange) -> bool {
        self.walk(frames, range.start()).is_some_and(|found| self.is_surely_clear(frames, &found, range))
    }

    /// Where a walk ends, whatever is there, for what is asked of a range that begins at the address.
    #[inline]
    pub(crate) fn walk<'a, F: Frames>(&self, frames: &'a F, address: VirtAddr) -> Option<Found<'a, M>> {
        self.0.find(frames, address)
    }

    /// As [`are_surely_clear`](Self::are_surely_clear), of a [walk](Self::walk) to where the range begins.
    #[inline]
    pub(crate) fn is_surely_clear<F: Frames>(&self, frames: &F, found: &Found<'_, M>, range: PageRange) -> bool {
        let tables = &self.0;
        !found.loops
            && !tables.mmu.is_present(found.word)
            && tables.span_of_found(found).covers(range)
            && found.table.owned(frames).is_some_and(|table| table.live() != 0)
    }

    /// Whether the walk ended in a leaf table that shows the whole range. Then no larger leaf lies across its ends.
    #[inline]
    pub(crate) fn is_in_one_table(&self, found: &Found<'_, M>, range: PageRange) -> bool {
        self.0.leads_to_all(found, range)
    }

    /// The format.
    #[inline]
    pub(crate) const fn mmu(&self) -> M {
        self.0.mmu
    }

    /// The tables, to be read.
    pub(super) const fn tables(&self) -> &Tables<M> {
        &self.0
    }
}

impl<M: Mmu> Tables<M> {
    /// The way to the same tables, for setting leaves beside others.
    pub(crate) const fn leaf_tables(&self) -> LeafTables<M> {
        let Self { mmu, root, tag, dirty_bits, groups } = *self;
        LeafTables(Self { mmu, root, tag, dirty_bits, groups })
    }

    /// Drops whatever leaves show the range, and leaves all tables where they are, empty ones too. A larger leaf, or a group, that the range
    /// touches is dropped whole. What was dropped is to be flushed. Cost: O(tables and leaves); takes no tables.
    ///
    /// # Errors
    /// Tables that are not this library's: what lies before them was dropped.
    pub(crate) fn drop_leaves<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let range = self.with_whole_groups(frames, range);
        let (mmu, shift) = (self.mmu, self.mmu.page_shift());
        let mut forget = Forget::new(self.tag);
        let drop_run = |table: &Table<'_, M>, run: Run, start: u64, forget: &mut Forget, gather: &mut Gather| {
            let mut cleared = 0;
            let clear = |_, word| mmu.is_present(word).then_some(0);
            table.update_runs(run, M::FORMAT.global, clear, |done, global| {
                cleared += done.count as i32;
                forget.add_run(gather, start, shift, done, global);
            });
            if cleared != 0 {
                table.change_live_beside(-cleared);
            }
        };
        if let Some(table) = self.leaf_table_of(frames, range) {
            // One walk does, for what most changes concern.
            let run = Run { first: self.index_at(0, range.start()), count: range.pages(shift) as usize };
            drop_run(&table, run, range.start().as_u64(), &mut forget, gather);
            forget.finish(gather);
            return Ok(());
        }
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let table = cursor.table();
            if cursor.level() == 0 {
                let run = cursor.run();
                drop_run(&table, run, cursor.address().as_u64(), &mut forget, gather);
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        if let Err(error) = cursor.enter(frame) {
                            forget.finish(gather);
                            return Err(error);
                        }
                        continue;
                    }
                    Entry::Leaf(leaf) => {
                        table.store(cursor.index(), 0);
                        table.change_live_beside(-1);
                        forget.add(gather, cursor.span(), leaf.global);
                    }
                    Entry::Absent(_) | Entry::Reserved => {}
                }
            }
            if !cursor.forward() {
                forget.finish(gather);
                return Ok(());
            }
        }
    }
}

impl<M: Mmu> LeafTables<M> {
    /// The entry for a page in the leaf table that is there for it; `None` where none is, or what is there is not (only) this library's.
    #[inline]
    pub(crate) fn find<'a, F: Frames>(&self, frames: &'a F, address: VirtAddr) -> Option<Found<'a, M>> {
        let (table, above) = self.0.leaf_table::<F, true>(frames, address)?;
        let table = table.owned(frames)?;
        let word = table.load(self.0.index_at(0, address));
        Some(Found { address, level: 0, table, word, above, loops: false })
    }

    /// The leaf that was found, with the access that is allowed over all levels.
    #[inline]
    pub(crate) fn found_leaf(&self, found: &Found<'_, M>) -> Option<Leaf> {
        self.0.found_leaf(found)
    }

    /// Whether something was found: a leaf, unless the format reserves its word.
    #[inline]
    pub(crate) fn is_present(&self, found: &Found<'_, M>) -> bool {
        self.0.mmu.is_present(found.word)
    }

    /// Whether a leaf was found that allows an access over all levels. Costs less than the [leaf](Self::found_leaf).
    #[inline]
    pub(crate) fn found_allows(&self, found: &Found<'_, M>, access: Access) -> bool {
        self.is_present(found) && self.0.found_may_allow(found, access) && self.found_leaf(found).is_some()
    }

    /// Whether what was found is kept by a CPU beyond a plain flush of the space.
    #[inline]
    pub(crate) fn is_global(&self, found: &Found<'_, M>) -> bool {
        M::FORMAT.global.yes_bit(found.word) != 0
    }

    /// Whether a table entry on the way forbids writing, whatever the leaf says.
    #[inline]
    pub(crate) fn writes_are_forbidden_above(&self, found: &Found<'_, M>) -> bool {
        self.0.writes_are_forbidden_above(found)
    }

    /// How many pages a leaf table maps, as a power of two.
    #[inline]
    pub(crate) fn pages_shift(&self) -> u32 {
        self.0.mmu.index_bits(0)
    }

    /// Sets the leaf of the page that was found, or gives it more access; and maps those pages of `around` that `more` gives, or gives them more access as well.
    /// Nothing is to be flushed. False, and nothing is changed, where it takes more than that: another frame, less access, a group, or what the format cannot represent.
    ///
    /// The caller sees to what the [module](self) says.
    #[inline]
    pub(crate) fn set(
        &self,
        found: &Found<'_, M>,
        leaf: Leaf,
        around: Option<Around>,
        more: impl FnOnce(&mut Filler<'_, M>),
    ) -> bool {
        let Found { address, table, .. } = *found;
        let Ok(word) = self.0.mmu.encode_leaf(0, leaf) else { return false };
        let index = self.0.index_at(0, address);
        if self.0.mmu.is_present(found.word) {
            let raised = self.raise(found, (leaf, word));
            if let (true, Some(around)) = (raised, around) {
                let _ = self.0.raiser(table, &around).map(|mut raiser| more(&mut raiser));
            }
            return raised;
        }
        table.store(index, word);
        let mut live = 1;
        if let Some(around) = around {
            let mut filler = self.0.filler(table, &around);
            more(&mut filler);
            live += filler.mapped;
        }
        table.change_live_beside(live);
        true
    }

    /// The word by which the page that was found is shown in another frame than before, if nothing more is to be done for that than to
    /// [write](Self::show_instead) it, and to forget what was there: no group is broken up, no mark is lost, no entry is to be absent in between.
    #[inline]
    pub(crate) fn word_instead(&self, found: &Found<'_, M>, leaf: Leaf) -> Option<u64> {
        let present = self.0.mmu.is_present(found.word);
        let simple = !present
            || (!const { M::FORMAT.break_before_make }
                && !self.0.relies_on_dirty()
                && self.0.group_in(&found.table, 0, found.address).is_none());
        if simple { self.0.mmu.encode_leaf(0, leaf).ok() } else { None }
    }

    /// Shows the page that was found by a word that [is simple](Self::word_instead). What was there is to be forgotten.
    ///
    /// The caller sees to what the [module](self) says.
    #[inline]
    pub(crate) fn show_instead(&self, found: &Found<'_, M>, word: u64) {
        found.table.store(self.0.index_at(0, found.address), word);
        if !self.0.mmu.is_present(found.word) {
            found.table.change_live_beside(1);
        }
    }

    /// Gives the leaf that was found more access; false where the new one is not that.
    fn raise(&self, found: &Found<'_, M>, (leaf, word): (Leaf, u64)) -> bool {
        let Some(old) = self.0.found_leaf_alone(found) else { return false };
        let same = old.frame == leaf.frame && old.memory == leaf.memory && old.global == leaf.global;
        let grouped = self.0.group_in(&found.table, 0, found.address).is_some();
        if !same || grouped || !leaf.access.contains(old.access) || self.0.relies_on_dirty() {
            return false;
        }
        found.table.store(self.0.index_at(0, found.address), word);
        true
    }
}
