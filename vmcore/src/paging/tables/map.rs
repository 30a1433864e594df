//! What adds leaves: mapping a run of frames, filling what is absent. And how many tables that takes.

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{EncodeError, Entry, Leaf, Mmu, TableError, Tables};

use super::cursor::{Cursor, Run};
use super::table::Table;

/// The highest level at which leaves may be written; those below may be as well.
#[derive(Clone, Copy)]
struct LargestLeaf(usize);

impl<M: Mmu> Tables<M> {
    /// How many tables are missing to map `range`, to frames from `first` on with leaves of at most `largest_level`, or (without
    /// `first`) to single pages. Exact for what is mapped now. Cost: O(tables that the range touches).
    pub fn tables_to_map<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        first: Option<Frame>,
        largest_level: usize,
    ) -> u64 {
        let largest = match first {
            Some(frame) => self.largest_leaf(range, frame, largest_level),
            None => LargestLeaf(0),
        };
        // Foreign tables are refused by the operation itself.
        self.count(frames, range, largest, false).unwrap_or_else(|_| self.tables_to_map_at_most(range))
    }

    /// Whether nothing is mapped in `range`, so that [`map`](Self::map) meets no conflict. Cost: O(pages + tables that the range touches).
    pub fn is_clear<F: Frames>(&self, frames: &F, range: PageRange) -> bool {
        self.count(frames, range, LargestLeaf(0), true).is_ok()
    }

    /// Why [`is_clear`](Self::is_clear) is false.
    pub(super) fn find_conflict<F: Frames>(&self, frames: &F, range: PageRange) -> TableError {
        let clear = self.count(frames, range, LargestLeaf(0), true);
        clear.err().unwrap_or(TableError::Conflict(range.start()))
    }

    /// How many tables mapping `range` takes at most, whatever is mapped now. O(levels).
    pub fn tables_to_map_at_most(&self, range: PageRange) -> u64 {
        self.missing(self.mmu.levels().saturating_sub(1), range, LargestLeaf(0))
    }

    /// Maps `range` to the consecutive frames from `leaf.frame`, with the largest leaves that alignment, the format and
    /// `largest_level` allow (0 for base pages alone), in [groups](super::Groups) that a TLB may keep as one where the format has them. Tables come
    /// from `spare`. Nothing has to be flushed.
    ///
    /// # Errors
    /// Nothing was changed: something is mapped in the range, the format cannot represent the leaf or a frame, too few spare
    /// tables, or tables that are not this library's.
    pub fn map<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        leaf: Leaf,
        largest_level: usize,
        spare: &mut FrameList,
    ) -> Result<(), TableError> {
        let pages = range.pages(self.mmu.page_shift());
        let last_frame = leaf.frame.number().checked_add(pages - 1).ok_or(EncodeError::Frame(leaf.frame))?;
        self.mmu.encode_leaf(0, leaf)?;
        self.mmu.encode_leaf(0, Leaf { frame: Frame::new(last_frame), ..leaf })?;
        let largest = self.largest_leaf(range, leaf.frame, largest_level);
        let needed = self.count(frames, range, largest, true)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }

        let mut cursor = self.cursor(frames, range)?;
        loop {
            let offset = cursor.address().as_u64() - range.start().as_u64();
            let here = Leaf { frame: leaf.frame.add(offset >> self.mmu.page_shift()), ..leaf };
            if cursor.level() == 0 {
                let run = cursor.run();
                self.write_grouped::<F>(&cursor.table(), 0, run.first, run.count, here)?;
                cursor.table().change_live(run.count as i32);
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    _ if cursor.level() <= largest.0 && cursor.is_whole() => {
                        if let Some(room) = self.room_for_group(&cursor, here) {
                            self.write_group(&mut cursor, room, here)?;
                        } else {
                            let word = self.mmu.encode_leaf(cursor.level(), here)?;
                            cursor.table().store(cursor.index(), word);
                            cursor.table().change_live(1);
                        }
                    }
                    _ => {
                        let table = self.link_spare(frames, &cursor, spare, needed)?;
                        cursor.enter(table)?;
                        continue;
                    }
                }
            }
            if !cursor.forward() {
                return Ok(());
            }
        }
    }

    /// Visits every base page of the range that is not mapped, in order, and maps those for which `page` gives a leaf. One
    /// walk down per leaf table; tables are made only where a page is mapped. Nothing has to be flushed.
    ///
    /// # Errors
    /// [`TableError::NeedsTables`] if `spare` has fewer than [`tables_to_map`](Self::tables_to_map)`(range, None, 0)`, and
    /// [`TableError::Foreign`]: nothing was changed and `page` was not called. [`TableError::Encode`] ends the filling at a page whose
    /// leaf the format cannot represent, which is known only then: pages before it stay mapped.
    pub fn fill<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        spare: &mut FrameList,
        mut page: impl FnMut(VirtAddr) -> Option<Leaf>,
    ) -> Result<(), TableError> {
        if let Some((table, index)) = self.table_of_page(frames, range) {
            if !self.mmu.is_present(table.load(index)) {
                if let Some(leaf) = page(range.start()) {
                    table.store(index, self.mmu.encode_leaf(0, leaf)?);
                    table.change_live(1);
                }
            }
            return Ok(());
        }
        let needed = self.count(frames, range, LargestLeaf(0), false)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let shift = self.mmu.page_shift();
        // A page that was asked for before its table existed: its word waits for the way down.
        let mut waiting: Option<u64> = None;
        let mut cursor = self.cursor(frames, range)?;
        loop {
            if cursor.level() == 0 {
                let (table, run) = (cursor.table(), cursor.run());
                let start = cursor.address().as_u64();
                let mut filled = 0;
                let mut result: Result<(), TableError> = Ok(());
                for step in 0..run.count {
                    if self.mmu.is_present(table.load(run.first + step)) {
                        continue;
                    }
                    let word = match waiting.take() {
                        Some(word) => word,
                        None => {
                            let Some(leaf) = page(VirtAddr::new(start + ((step as u64) << shift))) else { continue };
                            match self.mmu.encode_leaf(0, leaf) {
                                Ok(word) => word,
                                Err(error) => {
                                    result = Err(error.into());
                                    break;
                                }
                            }
                        }
                    };
                    table.store(run.first + step, word);
                    filled += 1;
                }
                table.change_live(filled);
                result?;
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Absent(_) => {
                        if waiting.is_none() {
                            let part = cursor.part();
                            let wanted = (0..part.pages(shift)).find_map(|step| {
                                let address = VirtAddr::new(part.start().as_u64() + (step << shift));
                                Some((address, page(address)?))
                            });
                            if let Some((address, leaf)) = wanted {
                                waiting = Some(self.mmu.encode_leaf(0, leaf)?);
                                cursor.seek(address);
                            }
                        }
                        if waiting.is_some() {
                            let table = self.link_spare(frames, &cursor, spare, needed)?;
                            cursor.enter(table)?;
                            continue;
                        }
                    }
                    Entry::Leaf(_) | Entry::Reserved => {}
                }
            }
            if !cursor.forward() {
                return Ok(());
            }
        }
    }

    /// Writes `count` leaves of `level` from entry `first` on, for consecutive memory.
    #[inline]
    pub(super) fn write_leaves(
        &self,
        table: &Table<'_, M>,
        level: usize,
        first: usize,
        count: usize,
        leaf: Leaf,
    ) -> Result<(), EncodeError> {
        let frames_each = self.frames_each(level);
        let nth = |step: usize| Leaf { frame: leaf.frame.add(step as u64 * frames_each), ..leaf };
        let stride = self.mmu.leaf_stride(level);
        let word = self.mmu.encode_leaf(level, leaf)?;
        let last = self.mmu.encode_leaf(level, nth(count.saturating_sub(1)))?;
        if last == word.wrapping_add(stride.wrapping_mul((count as u64).saturating_sub(1))) {
            table.store_run(first, count, word, stride);
        } else {
            // The address is kept in two pieces and a carry passes from one to the other.
            for step in 0..count {
                table.store(first + step, self.mmu.encode_leaf(level, nth(step))?);
            }
        }
        Ok(())
    }

    /// Links a spare table, which is zero, at the absent entry of the cursor.
    pub(super) fn link_spare<F: Frames>(
        &self,
        frames: &F,
        cursor: &Cursor<'_, F, M>,
        spare: &mut FrameList,
        needed: u64,
    ) -> Result<Frame, TableError> {
        let frame = spare.pop(frames).ok_or(TableError::NeedsTables(needed))?;
        match self.mmu.encode_table(cursor.level(), frame) {
            Ok(word) => {
                cursor.table().store(cursor.index(), word);
                cursor.table().change_live(1);
                Ok(frame)
            }
            Err(error) => {
                // A frame that the embedder's own MMU cannot address: given back, so that it is not lost as well.
                let _ = spare.push(frames, frame);
                Err(error.into())
            }
        }
    }

    /// Up to which level the range can be mapped by leaves: where address and frame are aligned alike and the format has such leaves.
    fn largest_leaf(&self, range: PageRange, frame: Frame, largest_level: usize) -> LargestLeaf {
        let page_shift = self.mmu.page_shift();
        let apart = (range.start().as_u64() >> page_shift) ^ frame.number();
        let mut largest = 0;
        for level in 1..=largest_level.min(MAX_LEVELS) {
            let Some(at) = self.mmu.level(level) else { break };
            let mask = (1_u64 << (at.shift - page_shift)) - 1;
            let aligned = Frame::new(frame.number() & !mask);
            if apart & mask != 0 || !self.mmu.leaf_fits(level, aligned) {
                break;
            }
            largest = level;
        }
        LargestLeaf(largest)
    }

    /// How many tables are missing to map the range; where `strict`, fails at the first thing that is mapped.
    fn count<F: Frames>(
        &self,
        frames: &F,
        range: PageRange,
        largest: LargestLeaf,
        strict: bool,
    ) -> Result<u64, TableError> {
        if let Some((table, index)) = self.table_of_page(frames, range) {
            let taken = strict && self.mmu.is_present(table.load(index));
            return if taken { Err(TableError::Conflict(range.start())) } else { Ok(0) };
        }
        let mut needed = 0;
        let mut cursor = self.cursor(frames, range)?;
        loop {
            if cursor.level() == 0 {
                let (table, run) = (cursor.table(), cursor.run());
                if strict {
                    if let Some(step) = self.first_taken(&table, run) {
                        let offset = (step as u64) << self.mmu.page_shift();
                        return Err(TableError::Conflict(VirtAddr::new(cursor.address().as_u64() + offset)));
                    }
                }
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Absent(_) => needed += self.missing(cursor.level(), cursor.part(), largest),
                    Entry::Leaf(_) if strict => return Err(TableError::Conflict(cursor.address())),
                    Entry::Leaf(_) => {}
                    Entry::Reserved => return Err(TableError::Foreign(cursor.address())),
                }
            }
            if !cursor.forward() {
                return Ok(needed);
            }
        }
    }

    /// Where the entry of a range is that is one page, if its table is there and this library's: what is to be known of it needs one walk and no cursor.
    #[inline]
    fn table_of_page<'a, F: Frames>(&self, frames: &'a F, range: PageRange) -> Option<(Table<'a, M>, usize)> {
        if range.pages(self.mmu.page_shift()) != 1 {
            return None;
        }
        let (table, _) = self.leaf_table::<F, true>(frames, range.start())?;
        Some((table.owned(frames)?, self.index_at(0, range.start())))
    }

    /// The first entry of a leaf table's run that is present, by its place in the run.
    #[inline]
    fn first_taken(&self, table: &Table<'_, M>, run: Run) -> Option<usize> {
        let live = table.live() as usize;
        let outside = table.len() - run.count;
        if live == 0 {
            return None;
        }
        if outside < run.count {
            // Most of the table: if all that it holds is found outside, the run need not be read.
            let present = (0..run.first).chain(run.first + run.count..table.len());
            if present.filter(|index| self.mmu.is_present(table.load(*index))).count() == live {
                return None;
            }
        }
        table.first_present(self.mmu, run)
    }

    /// How many tables it takes below absent entries of `level` to map `part`: a table below each entry that is touched, except those
    /// that are covered by a leaf. O(levels).
    fn missing(&self, level: usize, part: PageRange, largest: LargestLeaf) -> u64 {
        let (start, last) = (part.start().as_u64(), part.last().as_u64());
        let mut tables = 0;
        for level in 1..=level {
            let Some(at) = self.mmu.level(level) else { break };
            let mask = (1_u64 << at.shift) - 1;
            let touched = (last >> at.shift) - (start >> at.shift) + 1;
            tables += if level > largest.0 {
                touched
            } else {
                let (cut_first, cut_last) = (start & mask != 0, last & mask != mask);
                if touched == 1 { u64::from(cut_first || cut_last) } else { u64::from(cut_first) + u64::from(cut_last) }
            };
        }
        tables
    }

    /// How many tables it takes to split a leaf of `level` so that `part` of it can be changed alone.
    pub(super) fn tables_to_cut(&self, level: usize, part: PageRange) -> u64 {
        self.missing(level, part, LargestLeaf(level))
    }
}
