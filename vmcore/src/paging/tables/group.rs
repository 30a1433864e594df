//! Groups: leaves side by side that a TLB may keep as one. Written where a whole one is mapped at once, kept by what concerns all of
//! it, and made single leaves again before a part of it is changed.
//!
//! ```text
//!   table    | single | single |###|###|###|###| single | …        ### members of a group: aligned in addresses and frames alike
//!
//!   a range:     [====================]                          covers part of the group:
//!                                                                  1. read: the marks of a group are those of any member
//!                              |   |   |   |   |                   2. break-before-make alone: absent, and every CPU forgets
//!                              |sgl|sgl|sgl|sgl|                   3. single leaves, which translate the same; then the operation
//! ```
//!
//! Arm Architecture Reference Manual for A-profile, section D8.7 (the Contiguous bit) and D8.17.1 (it is among what is changed by break-before-make); RISC-V
//! Privileged Architecture, chapter "Svnapot".
//!
//! # Invariants
//! - A group is whole: its members are all present and agree in everything but their marks. So what one entry says holds for its group, and
//!   tables with others are not [adopted](Tables::adopt).
//! - The hardware may mark any member for an access to any page of the group: the marks of a page are those of all members.
//! - A CPU may hold all of a group as one translation: a change of one member is flushed for the whole of it.
//! - Only what is made single can be refused ([`TableError::NeedsInvalidation`]), and no table is needed for it. Where the frames cannot do it, no
//!   groups are written either.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::{EncodeError, Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::cursor::{Cursor, Run};
use super::query::Marks;
use super::table::Table;

/// Where leaves are written as groups that a TLB may keep as one (Arm's contiguous hint, RISC-V's Svnapot).
///
/// Groups that stand in the tables are looked after in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Groups {
    /// Wherever a whole group, aligned in addresses and frames alike, is mapped at once or [promoted](Tables::promote), at every level that
    /// may be used. Not in a format with break-before-make whose frames cannot [invalidate](Frames::INVALIDATES_NOW): there the group
    /// could not be changed any more.
    #[default]
    WhereAligned,
    /// Nowhere: for memory that will be changed page by page.
    Never,
}

/// A group in a table.
#[derive(Clone, Copy)]
pub(super) struct Group<'t, M: Mmu> {
    table: Table<'t, M>,
    level: usize,
    /// The index of the first member.
    first: usize,
    /// How many members.
    count: usize,
    /// The pages of all members.
    pub(super) pages: PageRange,
    /// Those that an operation's range touches, from where its cursor is.
    pub(super) part: PageRange,
    /// The members of these.
    pub(super) run: Run,
}

impl<M: Mmu> Group<'_, M> {
    /// Whether the operation's range covers all of it.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.part == self.pages
    }

    #[inline]
    fn members(&self) -> core::ops::Range<usize> {
        self.first..self.first + self.count
    }
}

/// What becomes of a group's members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remade {
    Group,
    Singles,
}

/// What the groups of a level are.
#[derive(Clone, Copy)]
struct Shape {
    /// How many members, as a power of two.
    count_shift: u32,
    /// The size of what a member maps, as a power of two.
    shift: u32,
}

impl Shape {
    fn count(self) -> usize {
        1 << self.count_shift
    }

    /// The size of what a group maps, as a power of two.
    fn span(self) -> u32 {
        self.shift + self.count_shift
    }

    /// The entries from `first` on, `count` of them, that lie in whole groups.
    fn whole(self, first: usize, count: usize) -> core::ops::Range<usize> {
        let mask = self.count() - 1;
        let (start, end) = ((first + mask) & !mask, (first + count) & !mask);
        start..end.max(start)
    }
}

impl<M: Mmu> Tables<M> {
    /// The same tables, with this said about where groups are written. [`Groups::WhereAligned`] unless told otherwise.
    #[must_use]
    pub fn with_groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// What was said about where groups are written.
    pub const fn groups(&self) -> Groups {
        self.groups
    }

    /// Whether leaves are written as groups.
    #[inline(always)]
    pub(super) fn writes_groups<F: Frames>(&self) -> bool {
        let undone = F::INVALIDATES_NOW || const { !M::FORMAT.break_before_make };
        (const { M::FORMAT.has_contiguous() }) && undone && self.groups == Groups::WhereAligned
    }

    fn shape(&self, level: usize) -> Option<Shape> {
        let group = self.mmu.contiguous(level)?;
        Some(Shape { count_shift: group.count_shift, shift: self.mmu.level(level)?.shift })
    }

    /// Whether a word in a table of `level` is a member of a group.
    #[inline]
    fn is_member(&self, level: usize, word: u64) -> bool {
        self.mmu.is_contiguous(level, word)
            && self.mmu.is_present(word)
            && self.mmu.level(level).is_some_and(|at| at.is_leaf(word))
    }

    /// The group that the entry for `address` is a member of, in a table of `level`. All of it is its part.
    #[inline]
    pub(super) fn group_in<'t>(&self, table: &Table<'t, M>, level: usize, address: VirtAddr) -> Option<Group<'t, M>> {
        if !const { M::FORMAT.has_contiguous() } {
            return None;
        }
        let index = self.index_at(level, address);
        if !self.is_member(level, table.load(index)) {
            return None;
        }
        let shape = self.shape(level)?;
        let pages = PageRange::from_checked(address.align_down(shape.span()), 1 << shape.span());
        let count = shape.count();
        let first = index & !(count - 1);
        Some(Group { table: *table, level, first, count, pages, part: pages, run: Run { first, count } })
    }

    /// The group that the entry at the cursor is a member of, and which part of it the cursor's range touches from there on.
    #[inline]
    pub(super) fn group_at<'t, F: Frames>(&self, cursor: &Cursor<'t, F, M>) -> Option<Group<'t, M>> {
        if !const { M::FORMAT.has_contiguous() } {
            return None;
        }
        let group = self.group_in(&cursor.table(), cursor.level(), cursor.address())?;
        let first = cursor.index();
        let run = Run { first, count: cursor.run().count.min(group.first + group.count - first) };
        Some(Group { part: PageRange::from_bounds(cursor.address(), cursor.span_of(run)), run, ..group })
    }

    /// The entries of the cursor's [run](Cursor::run) before the next group, the cursor not being at one.
    #[inline(always)]
    pub(super) fn singles<F: Frames>(&self, cursor: &Cursor<'_, F, M>) -> Run {
        let run = cursor.run();
        if const { M::FORMAT.has_contiguous() } { self.before_group(cursor, run) } else { run }
    }

    fn before_group<F: Frames>(&self, cursor: &Cursor<'_, F, M>, run: Run) -> Run {
        let (level, table) = (cursor.level(), cursor.table());
        let Some(shape) = self.shape(level) else { return run };
        let end = run.first + run.count;
        let mut next = ((run.first >> shape.count_shift) + 1) << shape.count_shift;
        // Groups are whole: their first members tell of them all.
        while next < end && !self.is_member(level, table.load(next)) {
            next += 1 << shape.count_shift;
        }
        Run { count: next.min(end) - run.first, ..run }
    }

    /// The leaf of the first member, with the marks of all.
    pub(super) fn leaf_of_group(&self, group: &Group<'_, M>) -> Option<Leaf> {
        let Entry::Leaf(mut leaf) = self.decode_at(group.level, group.first, group.table.load(group.first)) else {
            return None;
        };
        for index in group.members() {
            self.fold(&mut leaf, group.table.load(index));
        }
        Some(leaf)
    }

    /// Adds the marks of a member's word to those of the group.
    #[inline]
    fn fold(&self, leaf: &mut Leaf, word: u64) {
        leaf.accessed |= M::FORMAT.accessed.decode(word);
        leaf.dirty |= self.mmu.is_dirty(word);
    }

    /// The leaf that stands at `address`, with its group's marks if it is one of a group.
    #[inline(always)]
    pub(super) fn with_group_marks(&self, table: &Table<'_, M>, level: usize, address: VirtAddr, leaf: Leaf) -> Leaf {
        if const { M::FORMAT.has_contiguous() } {
            if let Some(all) = self.group_in(table, level, address).and_then(|group| self.leaf_of_group(&group)) {
                return Leaf { accessed: all.accessed, dirty: all.dirty, ..leaf };
            }
        }
        leaf
    }

    /// Writes `count` leaves of `level` from entry `first` on, as groups wherever a whole one is among them.
    #[inline]
    pub(super) fn write_grouped<F: Frames>(
        &self,
        table: &Table<'_, M>,
        level: usize,
        first: usize,
        count: usize,
        leaf: Leaf,
    ) -> Result<(), EncodeError> {
        if self.writes_groups::<F>() {
            let groups = self.groups_among(level, first, count, leaf);
            let step = self.frames_each(level);
            let at = |index: usize| Leaf { frame: leaf.frame.add((index - first) as u64 * step), ..leaf };
            if !groups.is_empty() {
                if first < groups.start {
                    self.write_leaves(table, level, first, groups.start - first, leaf)?;
                }
                self.write_members(table, level, groups.start, groups.len(), at(groups.start))?;
                if groups.end < first + count {
                    self.write_leaves(table, level, groups.end, first + count - groups.end, at(groups.end))?;
                }
                return Ok(());
            }
        }
        self.write_leaves(table, level, first, count, leaf)
    }

    /// The entries among `count` from `first` on that are whole groups if the first of them maps `leaf`.
    fn groups_among(&self, level: usize, first: usize, count: usize, leaf: Leaf) -> core::ops::Range<usize> {
        let Some(shape) = self.shape(level) else { return 0..0 };
        let place = leaf.frame.number() >> (shape.shift - self.mmu.page_shift());
        if (place as usize ^ first) & (shape.count() - 1) != 0 { 0..0 } else { shape.whole(first, count) }
    }

    /// How many frames a leaf of `level` maps.
    #[inline]
    pub(super) fn frames_each(&self, level: usize) -> u64 {
        self.mmu.level(level).map_or(1, |at| 1_u64 << at.shift.saturating_sub(self.mmu.page_shift()))
    }

    /// Writes whole groups: `count` members of `level` from entry `first` on.
    pub(super) fn write_members(
        &self,
        table: &Table<'_, M>,
        level: usize,
        first: usize,
        count: usize,
        leaf: Leaf,
    ) -> Result<(), EncodeError> {
        let group = self.mmu.contiguous(level).ok_or(EncodeError::Contiguous(level))?;
        // No carry leaves the address field inside of a group, which is aligned. Where its size stands there, all members are the same word.
        let stride = if group.size_in_address { 0 } else { self.mmu.leaf_stride(level) };
        let mut here = leaf;
        for place in 0..count >> group.count_shift {
            let first = first + (place << group.count_shift);
            table.store_run(first, 1 << group.count_shift, self.mmu.encode_contiguous(level, here)?, stride);
            here.frame = here.frame.add(self.frames_each(level) << group.count_shift);
        }
        Ok(())
    }

    /// The entries at the cursor, if [`map`](Self::map) can write `leaf` there as a whole group: the range covers it, and all of it is absent.
    pub(super) fn room_for_group<F: Frames>(&self, cursor: &Cursor<'_, F, M>, leaf: Leaf) -> Option<Run> {
        if !self.writes_groups::<F>() {
            return None;
        }
        let (level, table) = (cursor.level(), cursor.table());
        let shape = self.shape(level)?;
        let run = Run { first: cursor.index(), count: cursor.run().count.min(shape.count()) };
        let aligned = cursor.address().is_aligned(shape.span())
            && self.groups_among(level, run.first, run.count, leaf).len() == shape.count();
        let covered = cursor.span_of(run).as_u64() - cursor.address().as_u64() == (1 << shape.span()) - 1;
        let absent = || (run.first..run.first + run.count).all(|index| !self.mmu.is_present(table.load(index)));
        (aligned && covered && absent()).then_some(run)
    }

    /// Writes at the cursor the group that has [room](Self::room_for_group) there.
    pub(super) fn write_group<F: Frames>(
        &self,
        cursor: &mut Cursor<'_, F, M>,
        run: Run,
        leaf: Leaf,
    ) -> Result<(), EncodeError> {
        self.write_members(&cursor.table(), cursor.level(), run.first, run.count, leaf)?;
        cursor.table().change_live(run.count as i32);
        cursor.pass(run);
        Ok(())
    }

    /// Fills a table of `level` that is not linked yet with what is below `leaf`, the larger leaf of `pages`: groups, but for those that `part`
    /// covers in part.
    pub(super) fn write_split<F: Frames>(
        &self,
        table: &Table<'_, M>,
        level: usize,
        pages: PageRange,
        part: PageRange,
        leaf: Leaf,
    ) -> Result<(), EncodeError> {
        self.write_grouped::<F>(table, level, 0, table.len(), leaf)?;
        if self.writes_groups::<F>() {
            let Some(shape) = self.shape(level) else { return Ok(()) };
            for end in [part.start(), part.last()] {
                let group = PageRange::from_checked(end.align_down(shape.span()), 1 << shape.span());
                if part.overlaps(group) && !part.covers(group) && pages.covers(group) {
                    let skipped = group.start().as_u64() - pages.start().as_u64();
                    let frame = leaf.frame.add(skipped >> self.mmu.page_shift());
                    let first = self.index_at(level, group.start());
                    self.write_leaves(table, level, first, shape.count(), Leaf { frame, ..leaf })?;
                }
            }
        }
        Ok(())
    }

    /// Writes all members anew: as `make` makes them of the group's leaf, which has the marks of all, as a group or single. Where the format demands it,
    /// all of them are absent and forgotten in between.
    ///
    /// Fails only where the format cannot represent what `make` makes, and before anything is changed. `make` looks at no marks but to keep them.
    pub(super) fn remake<F: Frames>(
        &self,
        frames: &F,
        group: &Group<'_, M>,
        remade: Remade,
        make: impl Fn(Leaf) -> Leaf,
    ) -> Result<(), TableError> {
        let Some(mut leaf) = self.leaf_of_group(group) else { return Ok(()) };
        let Group { table, level, first, count, .. } = *group;
        self.encode_member(group, first, remade, make(leaf))?;
        if const { M::FORMAT.break_before_make } {
            for index in group.members() {
                self.fold(&mut leaf, table.swap(index, 0));
            }
            frames.invalidate_now(self.tag.0, group.pages);
        } else if self.relies_on_dirty() {
            // Members are replaced one by one, and a mark that the hardware sets meanwhile is added to all of them afterwards.
            let read = leaf;
            for index in group.members() {
                let word = self.encode_member(group, index, remade, make(read))?;
                self.fold(&mut leaf, table.swap(index, word));
            }
            if leaf != read {
                let marks = Marks { accessed: leaf.accessed, dirty: leaf.dirty };
                for index in group.members() {
                    self.add_marks(&table, level, index, marks)?;
                }
            }
            return Ok(());
        }
        match remade {
            Remade::Group => self.write_members(&table, level, first, count, make(leaf))?,
            Remade::Singles => self.write_leaves(&table, level, first, count, make(leaf))?,
        }
        Ok(())
    }

    /// The word of the member at `index`, where the first one maps `leaf`.
    fn encode_member(
        &self,
        group: &Group<'_, M>,
        index: usize,
        remade: Remade,
        leaf: Leaf,
    ) -> Result<u64, EncodeError> {
        let frame = leaf.frame.add((index - group.first) as u64 * self.frames_each(group.level));
        match remade {
            Remade::Group => self.mmu.encode_contiguous(group.level, Leaf { frame, ..leaf }),
            Remade::Singles => self.mmu.encode_leaf(group.level, Leaf { frame, ..leaf }),
        }
    }

    /// Adds marks to the leaf at `index`, whether it is one of a group or not; none of the hardware's is lost.
    fn add_marks(&self, table: &Table<'_, M>, level: usize, index: usize, marks: Marks) -> Result<(), EncodeError> {
        self.change_marks(table, level, index, |leaf| Leaf {
            accessed: leaf.accessed || marks.accessed,
            dirty: leaf.dirty || marks.dirty,
            ..leaf
        })
        .map(|_| ())
    }

    /// Changes the marks of the leaf at `index`, whether it is one of a group or not, as one step; gives the leaf as it was at that moment.
    fn change_marks(
        &self,
        table: &Table<'_, M>,
        level: usize,
        index: usize,
        change: impl Fn(Leaf) -> Leaf,
    ) -> Result<Option<Leaf>, EncodeError> {
        let mut seen = table.load(index);
        while let Entry::Leaf(leaf) = self.decode_at(level, index, seen) {
            let changed = change(leaf);
            if changed == leaf {
                return Ok(Some(leaf));
            }
            let word = if self.is_member(level, seen) {
                self.mmu.encode_contiguous(level, changed)?
            } else {
                self.mmu.encode_leaf(level, changed)?
            };
            match table.compare_exchange(index, seen, word) {
                Ok(()) => return Ok(Some(leaf)),
                Err(now) => seen = now,
            }
        }
        Ok(None)
    }

    /// Makes single leaves of a group. What they translate stays the same.
    pub(super) fn dissolve<F: Frames>(
        &self,
        frames: &F,
        group: &Group<'_, M>,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        self.remake(frames, group, Remade::Singles, |leaf| leaf)?;
        // A CPU may hold all of it as one translation, marks and all.
        gather.scope.add(self.tag, group.pages, self.leaf_of_group(group).is_none_or(|leaf| leaf.global));
        Ok(())
    }

    /// Makes single leaves of the groups that the range covers in part and that `concerns` names, at most one at each end. Takes no table.
    ///
    /// # Errors
    /// Nothing was changed: [`TableError::NeedsInvalidation`].
    #[inline]
    pub(super) fn dissolve_parts<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        concerns: impl Fn(&Leaf) -> bool,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        if const { M::FORMAT.has_contiguous() } {
            for commit in [false, true] {
                for end in [range.start(), range.last()] {
                    let Some(group) = self.group_of(frames, end).filter(|group| !range.covers(group.pages)) else {
                        continue;
                    };
                    if !self.leaf_of_group(&group).is_some_and(|leaf| concerns(&leaf)) {
                        continue;
                    }
                    if commit {
                        self.dissolve(frames, &group, gather)?;
                    } else {
                        self.check_replaceable::<F>(group.pages)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Fails where a group in the range that `concerns` names cannot be changed as the format demands. Asked before anything is changed.
    #[inline]
    pub(super) fn check_groups<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        concerns: impl Fn(&Leaf) -> bool,
    ) -> Result<(), TableError> {
        if !const { M::FORMAT.has_contiguous() && M::FORMAT.break_before_make } || F::INVALIDATES_NOW {
            return Ok(());
        }
        let mut cursor = self.cursor(frames, range)?;
        loop {
            if let Some(group) = self.group_at(&cursor) {
                if self.leaf_of_group(&group).is_some_and(|leaf| concerns(&leaf)) {
                    self.check_replaceable::<F>(group.pages)?;
                }
                cursor.pass(group.run);
            } else if cursor.level() == 0 {
                cursor.pass(self.singles(&cursor));
            } else if let Entry::Table(frame, _) = cursor.entry() {
                cursor.enter(frame)?;
                continue;
            }
            if !cursor.forward() {
                return Ok(());
            }
        }
    }

    /// The range, and all of the groups that it touches.
    pub(super) fn with_whole_groups<F: Frames>(&self, frames: &F, range: PageRange) -> PageRange {
        if !const { M::FORMAT.has_contiguous() } {
            return range;
        }
        let first = self.group_of(frames, range.start()).map_or(range.start(), |group| group.pages.start());
        let last = self.group_of(frames, range.last()).map_or(range.last(), |group| group.pages.last());
        PageRange::from_bounds(first, last)
    }

    /// The group that translates `address`, in tables that are this library's.
    fn group_of<'f, F: Frames>(&self, frames: &'f F, address: VirtAddr) -> Option<Group<'f, M>> {
        let mut frame = self.root;
        for level in (0..self.mmu.levels()).rev() {
            let table = Table::own(frames, self.mmu, level, frame)?;
            match self.mmu.decode_table(level, table.load(self.index_at(level, address))) {
                // A self-map, through which nothing is changed.
                Some(next) if next == frame => return None,
                Some(next) => frame = next,
                None => return self.group_in(&table, level, address),
            }
        }
        None
    }

    /// Unmaps the page at `address`, which is one of a group of base pages; `None` where it is not.
    pub(super) fn take_member<F: Frames>(
        &mut self,
        frames: &F,
        address: VirtAddr,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        if !const { M::FORMAT.has_contiguous() } {
            return Ok(None);
        }
        let Some(group) = self.group_of(frames, address).filter(|group| group.level == 0) else { return Ok(None) };
        self.check_replaceable::<F>(group.pages)?;
        self.dissolve(frames, &group, gather)?;
        Ok(self.take_page(frames, address, gather))
    }

    /// Makes all members absent, and gives the group's leaf with the marks of all at that moment.
    pub(super) fn remove_group(&self, group: &Group<'_, M>) -> Option<Leaf> {
        let mut leaf = self.leaf_of_group(group)?;
        if self.relies_on_dirty() {
            for index in group.members() {
                self.fold(&mut leaf, group.table.swap(index, 0));
            }
        } else {
            group.table.store_run(group.first, group.count, 0, 0);
        }
        group.table.change_live(-(group.count as i32));
        Some(leaf)
    }

    /// Takes these marks back from all members, one by one: what members must agree in does not include marks. Gives those that any had.
    pub(super) fn take_group_marks(&self, group: &Group<'_, M>, marks: Marks) -> Result<Option<Marks>, TableError> {
        let mut had = Marks { accessed: false, dirty: false };
        for index in group.members() {
            let leaf = self.change_marks(&group.table, group.level, index, |leaf| marks.cleared(leaf))?;
            if let Some(here) = leaf.and_then(|leaf| marks.of(&leaf)) {
                had = Marks { accessed: had.accessed || here.accessed, dirty: had.dirty || here.dirty };
            }
        }
        Ok((had.accessed || had.dirty).then_some(had))
    }

    /// Where `leaf` only adds marks to the page of a group that shows `old`: adds them to all members, so that the group stays. True if so.
    pub(super) fn mark_group(&self, group: &Group<'_, M>, old: Leaf, leaf: Leaf) -> Result<bool, TableError> {
        let only_marks = Leaf { accessed: old.accessed, dirty: old.dirty, ..leaf } == old;
        if !only_marks || (old.accessed && !leaf.accessed) || (old.dirty && !leaf.dirty) {
            return Ok(false);
        }
        for index in group.members() {
            let marks = Marks { accessed: leaf.accessed, dirty: leaf.dirty };
            self.add_marks(&group.table, group.level, index, marks)?;
        }
        Ok(true)
    }

    /// Makes groups of the single leaves of a table of `level` that agree but for their marks, wherever the range covers what could be a whole one. The range
    /// touches the table, of which `address` is any address. Gives how many groups were made.
    pub(super) fn promote_to_groups<F: Frames>(
        &self,
        frames: &F,
        (table, level): (&Table<'_, M>, usize),
        address: VirtAddr,
        range: PageRange,
        gather: &mut Gather,
    ) -> u64 {
        let Some(shape) = self.shape(level).filter(|_| self.writes_groups::<F>()) else { return 0 };
        let (count, mut made) = (shape.count(), 0);
        let start = address.align_down(shape.shift + self.mmu.index_bits(level));
        let last = start.as_u64() | (((table.len() as u64) << shape.shift) - 1);
        let first = self.index_at(level, range.start().max(start));
        let last = self.index_at(level, range.last().min(VirtAddr::new(last)));
        let whole = shape.whole(first, last + 1 - first);
        for place in 0..whole.len() >> shape.count_shift {
            let first = whole.start + (place << shape.count_shift);
            let address = VirtAddr::new(start.as_u64() + ((first as u64) << shape.shift));
            let pages = PageRange::from_checked(address, 1 << shape.span());
            let Some(leaf) = self.alike(table, level, first, count).filter(|_| range.covers(pages)) else { continue };
            let group = Group { table: *table, level, first, count, pages, part: pages, run: Run { first, count } };
            if self.remake(frames, &group, Remade::Group, |leaf| leaf).is_ok() {
                gather.scope.add(self.tag, pages, leaf.global);
                made += 1;
            }
        }
        made
    }

    /// The leaf of the first of `count` entries from `first` on, if all are single leaves that could be a group.
    fn alike(&self, table: &Table<'_, M>, level: usize, first: usize, count: usize) -> Option<Leaf> {
        let Entry::Leaf(leaf) = self.decode_at(level, first, table.load(first)) else { return None };
        let (each, mask) = (self.frames_each(level), count as u64 * self.frames_each(level) - 1);
        if leaf.frame.number() & mask != 0 {
            return None;
        }
        for index in first..first + count {
            let word = table.load(index);
            let Entry::Leaf(next) = self.decode_at(level, index, word) else { return None };
            let frame = leaf.frame.add((index - first) as u64 * each);
            if self.is_member(level, word)
                || next != (Leaf { frame, accessed: next.accessed, dirty: next.dirty, ..leaf })
            {
                return None;
            }
        }
        Some(leaf)
    }

    /// The word of the root's entry for `address`, for another root that shares the entries that the range touches: single, if it is one of a group that
    /// is shared in part.
    pub(super) fn shared_word(&self, root: &Table<'_, M>, level: usize, address: VirtAddr, range: PageRange) -> u64 {
        let index = self.index_at(level, address);
        let word = root.load(index);
        let Some(group) = self.group_in(root, level, address) else { return word };
        let shift = self.mmu.level(level).map_or(0, |at| at.shift);
        let (first, last) = (range.start().align_down(shift), range.last().as_u64() | ((1 << shift) - 1));
        match self.decode_at(level, index, word) {
            Entry::Leaf(leaf) if first > group.pages.start() || last < group.pages.last().as_u64() => {
                self.mmu.encode_leaf(level, leaf).unwrap_or(0)
            }
            _ => word,
        }
    }

    /// Whether the groups in a table of `level` that somebody else made are whole.
    pub(super) fn groups_are_whole(&self, table: &Table<'_, M>, level: usize) -> bool {
        let Some(shape) = self.shape(level).filter(|_| const { M::FORMAT.has_contiguous() }) else { return true };
        let count = shape.count();
        (0..(table.len() + count - 1) >> shape.count_shift).all(|place| {
            let first = place << shape.count_shift;
            let members = first..(first + count).min(table.len());
            if !members.clone().any(|index| self.is_member(level, table.load(index))) {
                return true;
            }
            let Entry::Leaf(leaf) = self.decode_at(level, first, table.load(first)) else { return false };
            let aligned = leaf.frame.number() & (count as u64 * self.frames_each(level) - 1) == 0;
            aligned
                && members.len() == count
                && members.clone().all(|index| {
                    let word = table.load(index);
                    let frame = leaf.frame.add((index - first) as u64 * self.frames_each(level));
                    self.is_member(level, word)
                        && matches!(self.decode_at(level, index, word), Entry::Leaf(next)
                            if next == (Leaf { frame, accessed: next.accessed, dirty: next.dirty, ..leaf }))
                })
        })
    }
}
