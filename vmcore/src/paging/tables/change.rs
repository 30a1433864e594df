//! What changes or removes leaves: unmap and protect. Huge leaves that a range covers in part are split first.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Access, Entry, Leaf, Mmu, TableError, Tables, Tag};

use super::Gather;
use super::cursor::{Cursor, Run};
use super::group::Remade;
use super::live::Slot;
use super::table::{Clear, Table};

/// Who is told of the leaves that go.
trait Told {
    fn tell(&mut self, pages: PageRange, leaf: Leaf);

    /// Whether it makes no difference.
    #[inline(always)]
    fn is_nobody(&self) -> bool {
        false
    }
}

impl<T: FnMut(PageRange, Leaf)> Told for T {
    #[inline(always)]
    fn tell(&mut self, pages: PageRange, leaf: Leaf) {
        self(pages, leaf);
    }
}

/// Nobody asks.
struct Nobody;

impl Told for Nobody {
    #[inline(always)]
    fn tell(&mut self, _pages: PageRange, _leaf: Leaf) {}

    #[inline(always)]
    fn is_nobody(&self) -> bool {
        true
    }
}

/// Pages to be forgotten, joined while they are neighbours, so that a flush scope sees runs and not single pages.
pub(super) struct Forget {
    tag: Tag,
    start: u64,
    /// The address after the run, 0 at the top of the address space: no range goes on from there.
    end: u64,
    empty: bool,
    global: bool,
}

impl Forget {
    pub(super) const fn new(tag: Tag) -> Self {
        Self { tag, start: 0, end: 0, empty: true, global: false }
    }

    #[inline]
    pub(super) fn add(&mut self, gather: &mut Gather, pages: PageRange, global: bool) {
        let start = pages.start().as_u64();
        if self.empty || start != self.end {
            self.finish(gather);
            (self.start, self.empty) = (start, false);
        }
        self.end = start.wrapping_add(pages.size());
        self.global |= global;
    }

    /// Adds pages of 2^`shift` bytes, a run counted from the one at `start`.
    #[inline]
    pub(super) fn add_run(&mut self, gather: &mut Gather, start: u64, shift: u32, run: Run, global: bool) {
        let start = VirtAddr::new(start + ((run.first as u64) << shift));
        self.add(gather, PageRange::from_checked(start, (run.count as u64) << shift), global);
    }

    pub(super) fn finish(&mut self, gather: &mut Gather) {
        if !self.empty {
            let run = PageRange::from_bounds(VirtAddr::new(self.start), VirtAddr::new(self.end.wrapping_sub(1)));
            gather.scope.add(self.tag, run, self.global);
        }
        (self.empty, self.global) = (true, false);
    }
}

impl<M: Mmu> Tables<M> {
    /// How many tables are needed to split the leaves that `range` covers only in part (at most one chain at each end).
    pub fn tables_to_split<F: Frames>(&self, frames: &F, range: PageRange) -> u64 {
        if self.leaf_table_of(frames, range).is_some() {
            return 0;
        }
        // Foreign tables are refused by the operation itself.
        self.count_cuts(frames, range, |_| true).unwrap_or(0)
    }

    /// Unmaps whatever the range maps. Leaves covered in part are split first, with tables from `spare` ([`tables_to_split`](Self::tables_to_split)).
    /// Each removed leaf is reported with the pages that it mapped, in order; a group as one. Tables that become empty are unlinked into `gather`; all
    /// that was removed is to be flushed, whether the hardware marked it as used or not. Cost: O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: too few spare tables, tables that are not this library's, or a format where what the range covers in part cannot be cut
    /// here ([`TableError::NeedsInvalidation`]).
    pub fn unmap<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        spare: &mut FrameList,
        gather: &mut Gather,
        removed: impl FnMut(PageRange, Leaf),
    ) -> Result<(), TableError> {
        self.unmap_telling(frames, range, spare, gather, removed)
    }

    /// The same where nobody asks what was removed: leaves side by side go many at a time.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    pub(crate) fn clear<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        self.unmap_telling(frames, range, spare, gather, Nobody)
    }

    fn unmap_telling<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        spare: &mut FrameList,
        gather: &mut Gather,
        mut removed: impl Told,
    ) -> Result<(), TableError> {
        let shift = self.mmu.page_shift();
        if range.pages(shift) == 1 {
            // One walk does for a page.
            if let Some(leaf) = self.take_page(frames, range.start(), gather) {
                removed.tell(range, leaf);
                return Ok(());
            }
            if self.is_absent(frames, range.start(), gather) {
                return Ok(());
            }
        } else if self.unmap_in_leaf_table(frames, range, gather, &mut removed) {
            return Ok(());
        }
        let needed = self.count_cuts(frames, range, |_| true)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.dissolve_parts(frames, range, |_| true, gather)?;
        let mut forget = Forget::new(self.tag);
        // Whether something of the table that the cursor is in was noted, by which CPUs forget the way to it.
        let mut noted = false;
        let mut cursor = self.cursor(frames, range)?;
        'entries: loop {
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.remove_group(&group) {
                    noted = true;
                    forget.add(gather, group.pages, leaf.global);
                    removed.tell(group.pages, leaf);
                }
                cursor.pass(group.run);
            } else if cursor.level() == 0 {
                let (table, run) = (cursor.table(), self.singles(&cursor));
                let start = cursor.address().as_u64();
                let page =
                    |step: usize| PageRange::from_checked(VirtAddr::new(start + ((step as u64) << shift)), 1 << shift);
                let mut cleared = 0;
                if table.live() == 0 {
                    // Whatever it held went elsewhere.
                } else if self.relies_on_dirty() {
                    for step in 0..run.count {
                        let index = run.first + step;
                        if let Some(leaf) = self.mmu.decode_leaf_at(0, index, table.load(index)) {
                            let leaf = self.replace(&table, 0, index, leaf, 0);
                            cleared += 1;
                            forget.add(gather, page(step), leaf.global);
                            removed.tell(page(step), leaf);
                        }
                    }
                } else {
                    cleared = self.clear_run(&table, run, start, (&mut forget, gather), &mut removed);
                }
                table.change_live(-cleared);
                noted |= cleared != 0;
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        noted = false;
                        continue 'entries;
                    }
                    Entry::Leaf(leaf) if cursor.is_whole() => {
                        let leaf = self.replace(&cursor.table(), cursor.level(), cursor.index(), leaf, 0);
                        cursor.table().change_live(-1);
                        noted = true;
                        forget.add(gather, cursor.span(), leaf.global);
                        removed.tell(cursor.span(), leaf);
                    }
                    Entry::Leaf(leaf) => {
                        self.split(frames, &mut cursor, spare, needed)?;
                        forget.finish(gather);
                        gather.scope.add(self.tag, self.span_above(&cursor), leaf.global);
                        continue 'entries;
                    }
                    Entry::Absent(_) | Entry::Reserved => {}
                }
            }
            while !cursor.next() {
                let Some(left) = cursor.leave() else {
                    forget.finish(gather);
                    return Ok(());
                };
                if cursor.unlink_empty(&left, self.tag, gather) && !noted {
                    self.note_way(gather, cursor.span().start());
                    noted = true;
                }
            }
        }
    }

    /// Clears entries of a leaf table side by side, of which the first maps the page at `start`; gives how many of them there were.
    #[inline]
    fn clear_run(
        &self,
        table: &Table<'_, M>,
        run: Run,
        start: u64,
        (forget, gather): (&mut Forget, &mut Gather),
        removed: &mut impl Told,
    ) -> i32 {
        let (mmu, shift) = (self.mmu, self.mmu.page_shift());
        let mut cleared = 0;
        let note = |done: Run, global| {
            cleared += done.count as i32;
            forget.add_run(gather, start, shift, done, global);
        };
        if removed.is_nobody() {
            let clear = |word| mmu.decode_leaf(0, word).map(|_| Clear);
            table.change_runs(mmu, run, mmu.leaf_mask(), M::FORMAT.global, clear, note);
        } else {
            let clear = |step: usize, word| {
                let leaf = mmu.decode_leaf_at(0, run.first + step, word)?;
                removed
                    .tell(PageRange::from_checked(VirtAddr::new(start + ((step as u64) << shift)), 1 << shift), leaf);
                Some(0)
            };
            table.update_runs(run, M::FORMAT.global, clear, note);
        }
        cleared
    }

    /// [`unmap`](Self::unmap) where one walk does: all of the range lies in one leaf table, in which something is left whatever goes. False, and nothing was changed, where it takes more.
    fn unmap_in_leaf_table<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        gather: &mut Gather,
        removed: &mut impl Told,
    ) -> bool {
        if const { M::FORMAT.has_contiguous() } || self.relies_on_dirty() {
            return false;
        }
        let Some(table) = self.leaf_table_of(frames, range) else { return false };
        let count = range.pages(self.mmu.page_shift());
        if u64::from(table.live()) <= count {
            return false;
        }
        let run = Run { first: self.index_at(0, range.start()), count: count as usize };
        let mut forget = Forget::new(self.tag);
        let cleared = self.clear_run(&table, run, range.start().as_u64(), (&mut forget, gather), removed);
        forget.finish(gather);
        table.change_live(-cleared);
        true
    }

    /// The leaf table that all of a range lies in, if it is there, and this library's.
    #[inline]
    pub(super) fn leaf_table_of<'a, F: Frames>(&self, frames: &'a F, range: PageRange) -> Option<Table<'a, M>> {
        let shift = self.mmu.page_shift() + self.mmu.index_bits(0);
        if (range.start().as_u64() ^ range.last().as_u64()) >> shift != 0 {
            return None;
        }
        self.leaf_table::<F, true>(frames, range.start())?.0.owned(frames)
    }

    /// Notes the way to a table that is unlinked, of which nothing else was noted: it was empty before, and CPUs may remember it.
    #[cold]
    pub(super) fn note_way(&self, gather: &mut Gather, address: VirtAddr) {
        let shift = self.mmu.page_shift();
        let page = PageRange::from_checked(address.align_down(shift), 1 << shift);
        gather.scope.add(self.tag, page, M::FORMAT.global.mask != 0);
    }

    /// Gives every leaf in the range this access, splitting at the ends as [`unmap`](Self::unmap) does; frame, memory type, marks and
    /// software bits stay, and so does what is not mapped. Every leaf whose access changes is to be flushed; others add nothing
    /// and are not split. Cost: O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: the format cannot express the access (to forbid everything, unmap), too few spare tables, tables
    /// that are not this library's, or a format whose live groups cannot be replaced here ([`TableError::NeedsInvalidation`]).
    pub fn protect<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        access: Access,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let bits = self.mmu.encode_access(access)?;
        let needed = self.count_cuts(frames, range, |leaf| leaf.access != access)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.check_groups(frames, range, |leaf| leaf.access != access)?;
        self.dissolve_parts(frames, range, |leaf| leaf.access != access, gather)?;
        let shift = self.mmu.page_shift();
        let mut forget = Forget::new(self.tag);
        let mut cursor = self.cursor(frames, range)?;
        loop {
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.leaf_of_group(&group).filter(|leaf| leaf.access != access) {
                    self.remake(frames, &group, Remade::Group, |leaf| leaf.access(access))?;
                    forget.add(gather, group.pages, leaf.global);
                }
                cursor.pass(group.run);
            } else if cursor.level() == 0 {
                let (table, run) = (cursor.table(), self.singles(&cursor));
                let start = cursor.address().as_u64();
                let page =
                    |step: usize| PageRange::from_checked(VirtAddr::new(start + ((step as u64) << shift)), 1 << shift);
                if self.relies_on_dirty() {
                    for step in 0..run.count {
                        let index = run.first + step;
                        let Some(leaf) = self.mmu.decode_leaf_at(0, index, table.load(index)) else { continue };
                        if leaf.access != access {
                            self.rewrite(frames, Slot { table, level: 0, index, pages: page(step) }, false, |leaf| {
                                Ok(self.mmu.encode_leaf(0, leaf.access(access))?)
                            })?;
                            forget.add(gather, page(step), leaf.global);
                        }
                    }
                } else {
                    let mmu = self.mmu;
                    let change = |_, word| {
                        let new = mmu.replace_access(word, bits);
                        if mmu.is_present(word) && word != new { Some(new) } else { None }
                    };
                    table.update_runs(run, M::FORMAT.global, change, |done, global| {
                        forget.add_run(gather, start, shift, done, global);
                    });
                }
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Leaf(leaf) if leaf.access == access => {}
                    Entry::Leaf(leaf) if cursor.is_whole() => {
                        let level = cursor.level();
                        self.rewrite(frames, cursor.slot(), false, |leaf| {
                            Ok(self.mmu.encode_leaf(level, leaf.access(access))?)
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
                return Ok(());
            }
        }
    }

    /// Replaces the leaf at the cursor by a table of equal leaves, filled before it is linked, and goes into it.
    pub(super) fn split<'a, F: Frames>(
        &self,
        frames: &'a F,
        cursor: &mut Cursor<'a, F, M>,
        spare: &mut FrameList,
        needed: u64,
    ) -> Result<(), TableError> {
        let foreign = TableError::Foreign(cursor.address());
        let below = cursor.level().checked_sub(1).ok_or(foreign)?;
        let frame = spare.pop(frames).ok_or(TableError::NeedsTables(needed))?;
        let table = Table::own(frames, self.mmu, below, frame).ok_or(foreign)?;
        let word = self.mmu.encode_table(cursor.level(), frame)?;
        let (pages, part) = (cursor.span(), cursor.part());
        self.rewrite(frames, cursor.slot(), true, |leaf| {
            self.write_split::<F>(&table, below, pages, part, leaf)?;
            Ok(word)
        })?;
        table.change_live(table.len() as i32);
        cursor.enter(frame)
    }

    /// The pages of the table that the cursor is in.
    pub(super) fn span_above<F: Frames>(&self, cursor: &Cursor<'_, F, M>) -> PageRange {
        let shift = self.mmu.level(cursor.level() + 1).map_or(self.mmu.page_shift(), |at| at.shift);
        PageRange::from_checked(cursor.address().align_down(shift), 1 << shift)
    }

    /// How many tables it takes to split the leaves that the range covers in part and that `concerns` names.
    pub(super) fn count_cuts<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        concerns: impl Fn(&Leaf) -> bool,
    ) -> Result<u64, TableError> {
        self.count_cuts_below(frames, range, concerns, |_| true)
    }

    /// The same for a change that does not go into tables that the range covers as a whole, but where their entry is of a level that `enters` names.
    pub(super) fn count_cuts_below<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        concerns: impl Fn(&Leaf) -> bool,
        enters: impl Fn(usize) -> bool,
    ) -> Result<u64, TableError> {
        let mut needed = 0;
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let level = cursor.level();
            if level == 0 {
                cursor.pass(cursor.run());
            } else if let Some(run) = cursor.whole_run().filter(|_| !enters(level)) {
                // Nothing of these is cut or gone into: each has to mean something, and that is all.
                let table = cursor.table();
                if let Some(step) = table.find_in_run(self.mmu, run, |word| {
                    self.mmu.decode_table(level, word).is_none() && self.mmu.decode_leaf(level, word).is_none()
                }) {
                    cursor.pass(Run { count: step + 1, ..run });
                    return Err(TableError::Foreign(cursor.address()));
                }
                cursor.pass(run);
            } else if let Some(run) = self.leaf_tables_at::<F, false>(&cursor, |_, _| {}) {
                // Nothing of these is cut.
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(..) if cursor.is_whole() && !enters(cursor.level()) => {}
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Leaf(leaf) if !cursor.is_whole() && concerns(&leaf) => {
                        // Leaves of the next lower level must be able to say the same.
                        self.mmu.encode_leaf(cursor.level() - 1, leaf)?;
                        self.check_replaceable::<F>(cursor.part())?;
                        needed += self.tables_to_cut(cursor.level(), cursor.part());
                    }
                    Entry::Reserved => return Err(TableError::Foreign(cursor.address())),
                    Entry::Leaf(_) | Entry::Absent(_) => {}
                }
            }
            if !cursor.forward() {
                return Ok(needed);
            }
        }
    }
}
