//! Bringing what a range maps to another place: in the same tables (move), or in another space's (duplicate).
//!
//! ```text
//!   apart by a multiple of a table's span:   move the entry that leads to the table   (one store for 512 pages)
//!   otherwise:                               leaf by leaf; a larger leaf in as large pieces as both places are aligned for
//! ```
//!
//! A group stays one where it goes to a place that is aligned for it.
//!
//! A table in the root is never moved: it may be pinned, or shared with other spaces.
//!
//! What tables above a leaf forbid is written into what leaves their shelter: permissions are never gained on the way.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{Access, Entry, Leaf, Limits, Mmu, TableError, Tables};

use super::change::Forget;
use super::cursor::{Cursor, Run};
use super::group::Group;
use super::table::Table;
use super::whole::WholeTables;
use super::{Gather, NO_LIMIT};

/// How a range is moved, as long as nothing is changed in the tables.
#[allow(clippy::large_enum_variant, reason = "one lies on the stack of one call, and nothing is boxed here")]
pub(crate) enum MovePlan<'a, M: Mmu> {
    /// As the tables that it is.
    Whole(WholeTables<'a, M>),
    /// In parts of tables, with so many new ones.
    Parts { way: Way, needed: u64 },
    /// Not at all.
    Refused(TableError),
}

impl<M: Mmu> MovePlan<'_, M> {
    /// How many tables it takes at the most; 0 where it is refused.
    pub(crate) fn needed(&self) -> u64 {
        match self {
            Self::Whole(whole) => whole.needed,
            Self::Parts { needed, .. } => *needed,
            Self::Refused(_) => 0,
        }
    }
}

/// How a range is brought elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    from: PageRange,
    /// Where the first page goes.
    to: VirtAddr,
    /// The permissions that are left.
    keep: Access,
    /// Whether tables go as a whole.
    tables: bool,
    /// Whether groups stay groups, where they are aligned as such.
    groups: bool,
}

impl Way {
    #[inline]
    fn target(&self, address: u64) -> u64 {
        address.wrapping_sub(self.from.start().as_u64()).wrapping_add(self.to.as_u64())
    }

    /// Whether the group arrives as one.
    fn keeps<M: Mmu>(&self, group: &Group<'_, M>) -> bool {
        let (start, size) = (group.pages.start().as_u64(), group.pages.size());
        self.groups && group.is_whole() && self.target(start) & (size - 1) == 0
    }
}

/// Counts the tables that are missing at the target, each once, for places that come in ascending order.
struct Missing {
    needed: u64,
    /// Per level, the table that was counted (or found) last, as its place among those of its level.
    last: [Option<u64>; MAX_LEVELS],
}

/// Pieces of a leaf, each as large as both places are aligned for: its address, its level and what it maps.
struct Pieces<M: Mmu> {
    mmu: M,
    way: Way,
    /// `None` when done.
    address: Option<u64>,
    last: u64,
    level: usize,
    leaf: Leaf,
}

impl<M: Mmu> Iterator for Pieces<M> {
    type Item = (u64, usize, Leaf);

    fn next(&mut self) -> Option<Self::Item> {
        let address = self.address?;
        let both = address | self.way.target(address);
        let mut chosen = (0, self.mmu.page_shift());
        for level in 1..=self.level {
            let Some(at) = self.mmu.level(level) else { break };
            let mask = (1_u64 << at.shift) - 1;
            if both & mask != 0 || self.last - address < mask {
                break;
            }
            if self.mmu.encode_leaf(level, self.leaf).is_ok() {
                chosen = (level, at.shift);
            }
        }
        let leaf = self.leaf;
        self.leaf.frame = leaf.frame.add(1 << (chosen.1 - self.mmu.page_shift()));
        self.address = address.checked_add(1 << chosen.1).filter(|next| *next <= self.last);
        Some((address, chosen.0, leaf))
    }
}

impl<M: Mmu> Tables<M> {
    /// Moves whatever `from` maps to `to`, which is of the same size and maps nothing. Whole tables are moved where both ranges are aligned
    /// alike; larger leaves that `from` covers in part are split. The old place is to be flushed, which is what `gather` says; the new
    /// one is not. Marks and software bits go along.
    ///
    /// Cost: O(tables) where aligned alike, otherwise O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: the ranges overlap or differ in size ([`TableError::Overlap`]), something is mapped at the new place, too few spare tables
    /// ([`tables_to_move`](Self::tables_to_move)), tables that are not this library's, or a format where what `from` covers in part cannot be cut
    /// here ([`TableError::NeedsInvalidation`]).
    pub fn move_range<F: Frames>(
        &mut self,
        frames: &F,
        from: PageRange,
        to: PageRange,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let plan = self.plan_move(frames, from, to);
        self.move_as_planned(frames, &plan, spare, gather)
    }

    /// How a range is moved. Cost: O(tables) where aligned alike, otherwise O(tables and leaves).
    pub(crate) fn plan_move<'a, F: Frames>(&self, frames: &'a F, from: PageRange, to: PageRange) -> MovePlan<'a, M> {
        if let Some(whole) = self.whole_tables(frames, from, to) {
            return MovePlan::Whole(whole);
        }
        let plan = || {
            let way = self.way_to_move(frames, from, to)?;
            let needed = self.count_cuts(frames, from, |_| true)? + self.count_missing(frames, self, way)?;
            Ok(MovePlan::Parts { way, needed })
        };
        plan().unwrap_or_else(MovePlan::Refused)
    }

    /// Moves a range as it was [planned](Self::plan_move), with the tables as they were then.
    ///
    /// # Errors
    /// As [`move_range`](Self::move_range).
    pub(crate) fn move_as_planned<F: Frames>(
        &mut self,
        frames: &F,
        plan: &MovePlan<'_, M>,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        match *plan {
            MovePlan::Whole(ref whole) => self.move_whole(frames, whole, spare, gather),
            MovePlan::Parts { way, needed } => self.move_parts(frames, (way, needed), spare, gather),
            MovePlan::Refused(error) => Err(error),
        }
    }

    /// Moves what is not nothing but whole tables.
    fn move_parts<F: Frames>(
        &mut self,
        frames: &F,
        (way, needed): (Way, u64),
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let from = way.from;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.dissolve_parts(frames, from, |_| true, gather)?;
        let mut forget = Forget::new(self.tag);
        let mut limits = [NO_LIMIT; MAX_LEVELS];
        let mut cursor = self.cursor(frames, from)?;
        loop {
            let (level, table) = (cursor.level(), cursor.table());
            let limit = limits.get(level).copied().unwrap_or(NO_LIMIT);
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.remove_group(&group) {
                    forget.add(gather, group.pages, leaf.global);
                    let (leaf, start) = (leaf.access(leaf.access & limit), group.pages.start().as_u64());
                    if way.keeps(&group) {
                        let place = self.place(frames, way.target(start), level, &mut None, spare, needed)?;
                        self.write_members(&place.0, level, place.1, group.run.count, leaf)?;
                        place.0.change_live(group.run.count as i32);
                    } else {
                        self.move_pieces(frames, way, (level, group.pages, leaf), spare, needed)?;
                    }
                }
                cursor.pass(group.run);
            } else if level == 0 && self.goes_as_it_is(way, limit) {
                let run = self.singles(&cursor);
                let (mmu, start) = (self.mmu, cursor.address().as_u64());
                for (part, address) in self.parts(way, start, run) {
                    if !self.has_leaf(&table, part) {
                        continue;
                    }
                    let (place, first) = self.place(frames, way.target(address), 0, &mut None, spare, needed)?;
                    let mut moved = 0;
                    let bring = |step: usize, word| {
                        let _leaf = mmu.decode_leaf_at(0, part.first + step, word)?;
                        place.store(first + step, word);
                        Some(0)
                    };
                    table.update_runs(part, M::FORMAT.global, bring, |done, global| {
                        moved += done.count as i32;
                        forget.add_run(gather, address, mmu.page_shift(), done, global);
                    });
                    place.change_live(moved);
                    // As below: tables that are empty now go in the end.
                    table.change_live(-moved);
                }
                cursor.pass(run);
            } else if level == 0 {
                let run = self.singles(&cursor);
                let mut moved = 0;
                let mut target = None;
                for step in 0..run.count {
                    let index = run.first + step;
                    let Entry::Leaf(leaf) = self.decode_at(0, index, table.load(index)) else { continue };
                    let address = cursor.address().as_u64() + ((step as u64) << self.mmu.page_shift());
                    let place = self.place(frames, way.target(address), 0, &mut target, spare, needed)?;
                    let leaf = self.replace(&table, 0, index, leaf, 0);
                    let word = self.mmu.encode_leaf(0, leaf.access(leaf.access & limit))?;
                    place.0.store(place.1, word);
                    place.0.change_live(1);
                    moved += 1;
                    let page = PageRange::from_checked(VirtAddr::new(address), 1 << self.mmu.page_shift());
                    forget.add(gather, page, leaf.global);
                }
                // Tables that are empty now may be needed once more, by the new place: they go in the end.
                table.change_live(-moved);
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(..) if self.goes_whole(&cursor, way, Access::all() & limit) => {
                        let target = way.target(cursor.address().as_u64());
                        let place = self.place(frames, target, level, &mut None, spare, needed)?;
                        let word = table.load(cursor.index());
                        table.store(cursor.index(), 0);
                        table.change_live(-1);
                        place.0.store(place.1, word);
                        place.0.change_live(1);
                        forget.add(gather, cursor.span(), M::FORMAT.global.mask != 0);
                        gather.scope.note_tables();
                    }
                    Entry::Table(frame, below) => {
                        cursor.enter(frame)?;
                        if let Some(slot) = limits.get_mut(cursor.level()) {
                            *slot = limit & below;
                        }
                        continue;
                    }
                    Entry::Leaf(leaf) if cursor.is_whole() => {
                        let span = cursor.span();
                        let leaf = self.replace(&table, level, cursor.index(), leaf, 0);
                        table.change_live(-1);
                        forget.add(gather, span, leaf.global);
                        let leaf = leaf.access(leaf.access & limit);
                        self.move_pieces(frames, way, (level, span, leaf), spare, needed)?;
                    }
                    Entry::Leaf(leaf) => {
                        self.split(frames, &mut cursor, spare, needed)?;
                        if let Some(slot) = limits.get_mut(cursor.level()) {
                            *slot = limit;
                        }
                        forget.finish(gather);
                        gather.scope.add(self.tag, self.span_above(&cursor), leaf.global);
                        continue;
                    }
                    _ => {}
                }
            }
            if !cursor.forward() {
                forget.finish(gather);
                // Nothing is mapped there any more: this only unlinks what is empty.
                if from.pages(self.mmu.page_shift()) == 1 && self.is_absent(frames, from.start(), gather) {
                    return Ok(());
                }
                return self.clear(frames, from, spare, gather);
            }
        }
    }

    /// Writes at the target what was the leaf of a level, or a group of such, that mapped these pages.
    fn move_pieces<F: Frames>(
        &self,
        frames: &F,
        way: Way,
        (level, pages, leaf): (usize, PageRange, Leaf),
        spare: &mut FrameList,
        needed: u64,
    ) -> Result<(), TableError> {
        let mut target = None;
        for (address, level, piece) in self.pieces(way, level, pages, leaf) {
            let cache = if level == 0 { &mut target } else { &mut None };
            let place = self.place(frames, way.target(address), level, cache, spare, needed)?;
            place.0.store(place.1, self.mmu.encode_leaf(level, piece)?);
            place.0.change_live(1);
        }
        Ok(())
    }

    /// How many tables [`move_range`](Self::move_range) takes at the most for what is mapped now: those missing at the new place, and those
    /// for splitting. 0 where it would be refused. Cost: O(tables and leaves).
    pub fn tables_to_move<F: Frames>(&self, frames: &F, from: PageRange, to: PageRange) -> u64 {
        self.plan_move(frames, from, to).needed()
    }

    fn way_to_move<F: Frames>(&self, frames: &F, from: PageRange, to: PageRange) -> Result<Way, TableError> {
        if from.overlaps(to) || from.size() != to.size() {
            return Err(TableError::Overlap(to));
        }
        if !self.is_clear(frames, to) {
            return Err(self.find_conflict(frames, to));
        }
        Ok(Way { from, to: to.start(), keep: Access::all(), tables: true, groups: self.writes_groups::<F>() })
    }

    /// Maps in `into`, at the same addresses, what these tables map in `range`, with of each leaf's access what `keep` has; leaves that the range covers
    /// in part are copied in pieces. Each copied leaf, as it is written, is reported (a group as one), so that its frames can be counted. Nothing has to be flushed.
    ///
    /// The copy begins without marks: what was accessed or written is known here. Cost: O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: `into` maps something in the range, the formats of the two values differ, the format cannot express an access that is left, too few spare
    /// tables ([`tables_to_duplicate`](Self::tables_to_duplicate)), or tables that are not this library's.
    pub fn duplicate<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        keep: Access,
        into: &mut Self,
        spare: &mut FrameList,
        mut copied: impl FnMut(PageRange, Leaf),
    ) -> Result<(), TableError> {
        let way = self.way_to_duplicate(frames, range, keep, into)?;
        let needed = self.count_missing(frames, into, way)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let mut target = None;
        self.each_piece(frames, way, |address, level, leaf, count| {
            let cache = if level == 0 { &mut target } else { &mut None };
            let place = into.place(frames, address, level, cache, spare, needed)?;
            let leaf = Leaf { accessed: false, dirty: false, ..leaf };
            if count > 1 {
                self.write_members(&place.0, level, place.1, count, leaf)?;
            } else {
                place.0.store(place.1, self.mmu.encode_leaf(level, leaf)?);
            }
            place.0.change_live(count as i32);
            let shift = self.mmu.level(level).map_or(self.mmu.page_shift(), |at| at.shift);
            copied(PageRange::from_checked(VirtAddr::new(address), (count as u64) << shift), leaf);
            Ok(())
        })
    }

    /// How many tables [`duplicate`](Self::duplicate) takes; 0 where it would be refused. Cost: O(tables and leaves).
    pub fn tables_to_duplicate<F: Frames>(&self, frames: &F, range: PageRange, keep: Access, into: &Self) -> u64 {
        let way = self.way_to_duplicate(frames, range, keep, into);
        way.and_then(|way| self.count_missing(frames, into, way)).unwrap_or(0)
    }

    fn way_to_duplicate<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        keep: Access,
        into: &Self,
    ) -> Result<Way, TableError> {
        if self.mmu.levels() != into.mmu.levels() {
            return Err(TableError::Foreign(range.start()));
        }
        if !into.is_clear(frames, range) {
            return Err(into.find_conflict(frames, range));
        }
        // What this machine has of the format may differ.
        let alike = || (0..self.mmu.levels()).all(|level| self.mmu.contiguous(level) == into.mmu.contiguous(level));
        Ok(Way { from: range, to: range.start(), keep, tables: false, groups: into.writes_groups::<F>() && alike() })
    }

    /// Whether the table that the entry at the cursor leads to, below tables that let `allowed` through, is moved as it is.
    fn goes_whole<F: Frames>(&self, cursor: &Cursor<'_, F, M>, way: Way, allowed: Access) -> bool {
        let level = cursor.level();
        let aligned = self
            .mmu
            .level(level)
            .is_some_and(|at| VirtAddr::new(way.target(cursor.address().as_u64())).is_aligned(at.shift));
        way.tables && allowed == Access::all() && level + 1 < self.mmu.levels() && cursor.is_whole() && aligned
    }

    fn pieces(&self, way: Way, level: usize, pages: PageRange, leaf: Leaf) -> Pieces<M> {
        let (address, last) = (Some(pages.start().as_u64()), pages.last().as_u64());
        Pieces { mmu: self.mmu, way, address, last, level, leaf }
    }

    /// Shows to `arrives` each leaf that arrives, with its address at the target, its level there, and how many leaves it stands for: those of its group if it is
    /// the first of one. And to `whole` the tables that go whole; and to `singles` the first of the leaves that [go as they are](Self::goes_as_it_is) to one table.
    fn each_target<F: Frames>(
        &self,
        frames: &F,
        way: Way,
        mut whole: impl FnMut(u64, usize) -> Result<(), TableError>,
        mut singles: impl FnMut(u64) -> Result<(), TableError>,
        mut arrives: impl FnMut(u64, usize, Leaf, usize) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let mut limits = [NO_LIMIT; MAX_LEVELS];
        let mut cursor = self.cursor(frames, way.from)?;
        loop {
            let (level, table) = (cursor.level(), cursor.table());
            let limit = limits.get(level).copied().unwrap_or(NO_LIMIT);
            let kept = |leaf: Leaf| leaf.access(leaf.access & limit & way.keep);
            // The part of a larger leaf, or of a group, from some address on.
            let from = |leaf: Leaf, pages: PageRange, part: PageRange| {
                let skipped = part.start().as_u64() - pages.start().as_u64();
                kept(Leaf { frame: leaf.frame.add(skipped >> self.mmu.page_shift()), ..leaf })
            };
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.leaf_of_group(&group) {
                    if way.keeps(&group) {
                        arrives(way.target(group.pages.start().as_u64()), level, kept(leaf), group.run.count)?;
                    } else {
                        let leaf = from(leaf, group.pages, group.part);
                        for (address, level, piece) in self.pieces(way, level, group.part, leaf) {
                            arrives(way.target(address), level, piece, 1)?;
                        }
                    }
                }
                cursor.pass(group.run);
            } else if level == 0 && self.goes_as_it_is(way, limit) {
                let run = self.singles(&cursor);
                for (part, address) in self.parts(way, cursor.address().as_u64(), run) {
                    if self.has_leaf(&table, part) {
                        singles(way.target(address))?;
                    }
                }
                cursor.pass(run);
            } else if level == 0 {
                let run = self.singles(&cursor);
                for step in 0..run.count {
                    let index = run.first + step;
                    let Entry::Leaf(leaf) = self.decode_at(0, index, table.load(index)) else { continue };
                    let address = cursor.address().as_u64() + ((step as u64) << self.mmu.page_shift());
                    arrives(way.target(address), 0, kept(leaf), 1)?;
                }
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(..) if self.goes_whole(&cursor, way, Access::all() & limit) => {
                        whole(way.target(cursor.address().as_u64()), level)?;
                    }
                    Entry::Table(frame, below) => {
                        cursor.enter(frame)?;
                        if let Some(slot) = limits.get_mut(cursor.level()) {
                            *slot = limit & below;
                        }
                        continue;
                    }
                    Entry::Leaf(leaf) => {
                        let leaf = from(leaf, cursor.span(), cursor.part());
                        for (address, level, piece) in self.pieces(way, level, cursor.part(), leaf) {
                            arrives(way.target(address), level, piece, 1)?;
                        }
                    }
                    _ => {}
                }
            }
            if !cursor.forward() {
                return Ok(());
            }
        }
    }

    /// Whether the words of base pages, below tables that let `limit` through, are moved as they are.
    fn goes_as_it_is(&self, way: Way, limit: Limits) -> bool {
        way.tables && !self.relies_on_dirty() && Access::all() & limit & way.keep == Access::all()
    }

    /// A run of a leaf table, of which the first entry is that of `address`, by the tables that it goes to: each part with its first address.
    fn parts(&self, way: Way, address: u64, run: Run) -> impl Iterator<Item = (Run, u64)> + use<M> {
        let target = self.index_at(0, VirtAddr::new(way.target(address)));
        let first = run.count.min((1_usize << self.mmu.index_bits(0)).saturating_sub(target));
        let behind = address.wrapping_add((first as u64) << self.mmu.page_shift());
        let parts = [
            (Run { count: first, ..run }, address),
            (Run { first: run.first + first, count: run.count - first }, behind),
        ];
        parts.into_iter().filter(|(part, _)| part.count != 0)
    }

    /// Whether there is a leaf in a run of a leaf table.
    fn has_leaf(&self, table: &Table<'_, M>, run: Run) -> bool {
        table.find_in_run(self.mmu, run, |word| self.mmu.decode_leaf(0, word).is_some()).is_some()
    }

    fn each_piece<F: Frames>(
        &self,
        frames: &F,
        way: Way,
        arrives: impl FnMut(u64, usize, Leaf, usize) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        self.each_target(frames, way, |_, _| Ok(()), |_| Ok(()), arrives)
    }

    /// How many tables are missing in `into` for all that arrives, and whether the format can represent it.
    fn count_missing<F: Frames>(&self, frames: &F, into: &Self, way: Way) -> Result<u64, TableError> {
        let missing = core::cell::RefCell::new(Missing { needed: 0, last: [None; MAX_LEVELS] });
        let note = |address, level| {
            if let Ok(mut missing) = missing.try_borrow_mut() {
                into.note_missing(frames, &mut missing, address, level);
            }
        };
        // Tables that go whole must be this library's as well: only then can they be freed later.
        let whole = |address, level| {
            note(address, level);
            Ok(())
        };
        let singles = |address| {
            note(address, 0);
            Ok(())
        };
        self.each_target(frames, way, whole, singles, |address, level, leaf, _| {
            self.mmu.encode_leaf(level, leaf)?;
            note(address, level);
            Ok(())
        })?;
        Ok(missing.into_inner().needed)
    }

    /// Counts the tables that are missing above an entry of `level` at `address`.
    fn note_missing<F: Frames>(&self, frames: &F, missing: &mut Missing, address: u64, level: usize) {
        // The lowest level whose table for this address exists; looked up only where the address enters another table.
        let mut exists = None;
        for level in level..self.mmu.levels().saturating_sub(1) {
            let Some(above) = self.mmu.level(level + 1) else { break };
            let place = Some(address >> above.shift);
            let Some(last) = missing.last.get_mut(level).filter(|last| **last != place) else { continue };
            *last = place;
            let exists = *exists
                .get_or_insert_with(|| self.find(frames, VirtAddr::new(address)).map_or(0, |found| found.level()));
            missing.needed += u64::from(exists > level);
        }
    }

    /// The entry of `level` for `address`, behind tables that are linked where they are missing. `cached` is the table of the entry that was asked for
    /// before, if it was of the same level.
    pub(super) fn place<'a, F: Frames>(
        &self,
        frames: &'a F,
        address: u64,
        level: usize,
        cached: &mut Option<(u64, Table<'a, M>)>,
        spare: &mut FrameList,
        needed: u64,
    ) -> Result<(Table<'a, M>, usize), TableError> {
        let address = VirtAddr::new(address);
        let index = self.index_at(level, address);
        let region = self.mmu.level(level + 1).map(|at| address.as_u64() >> at.shift);
        if let (Some((known, table)), Some(region)) = (*cached, region) {
            if known == region {
                return Ok((table, index));
            }
        }
        let page = PageRange::from_checked(address, 1 << self.mmu.page_shift());
        let mut cursor = self.cursor(frames, page)?;
        while cursor.level() > level {
            let frame = match cursor.entry() {
                Entry::Table(frame, _) => frame,
                _ => self.link_spare(frames, &cursor, spare, needed)?,
            };
            cursor.enter(frame)?;
        }
        *cached = region.map(|region| (region, cursor.table()));
        Ok((cursor.table(), index))
    }
}
