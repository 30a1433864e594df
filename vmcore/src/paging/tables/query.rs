//! What a range has in common, and its marks: read together, taken back one by one.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::{Access, Entry, Leaf, MemoryType, Mmu, TableError, Tables};

use super::Gather;
use super::change::Forget;

/// What a range maps, in a few words; see [`Tables::query`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeSummary {
    /// How many base pages of it are mapped.
    pub mapped: u64,
    /// What all mapped pages allow; everything where nothing is mapped.
    pub allowed_everywhere: Access,
    /// What any mapped page allows.
    pub allowed_anywhere: Access,
    /// The memory type, if something is mapped and all of it agrees.
    pub memory: Option<MemoryType>,
    /// Whether any leaf is shown in every address space.
    pub global: bool,
    /// Whether the hardware marked any leaf as used.
    pub accessed: bool,
    /// Whether the hardware marked any leaf as written.
    pub dirty: bool,
}

/// Which of the hardware's marks are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// That of use.
    pub accessed: bool,
    /// That of a write.
    pub dirty: bool,
}

impl Marks {
    /// That of use alone.
    pub const ACCESSED: Self = Self { accessed: true, dirty: false };
    /// That of a write alone.
    pub const DIRTY: Self = Self { accessed: false, dirty: true };
    /// Both.
    pub const BOTH: Self = Self { accessed: true, dirty: true };

    /// The leaf's marks among these; `None` if it has none of them.
    #[inline]
    pub(super) fn of(self, leaf: &Leaf) -> Option<Self> {
        let found = Self { accessed: self.accessed && leaf.accessed, dirty: self.dirty && leaf.dirty };
        (found.accessed || found.dirty).then_some(found)
    }

    /// The leaf without these marks.
    #[inline]
    pub(super) fn cleared(self, leaf: Leaf) -> Leaf {
        Leaf { accessed: leaf.accessed && !self.accessed, dirty: leaf.dirty && !self.dirty, ..leaf }
    }
}

impl<M: Mmu> Tables<M> {
    /// What the range maps, summed up; [`runs`](Self::runs) gives the parts. Reads only, also tables that are somebody else's. Cost: O(tables and leaves).
    pub fn query<F: Frames>(&self, frames: &F, range: PageRange) -> RangeSummary {
        let mut summary = RangeSummary {
            mapped: 0,
            allowed_everywhere: Access::all(),
            allowed_anywhere: Access::empty(),
            memory: None,
            global: false,
            accessed: false,
            dirty: false,
        };
        for (pages, leaf) in self.runs(frames, range) {
            summary.memory = if summary.mapped == 0 { Some(leaf.memory) } else { summary.memory };
            summary.memory = summary.memory.filter(|memory| *memory == leaf.memory);
            summary.mapped += pages.pages(self.mmu.page_shift());
            summary.allowed_everywhere &= leaf.access;
            summary.allowed_anywhere |= leaf.access;
            summary.global |= leaf.global;
            summary.accessed |= leaf.accessed;
            summary.dirty |= leaf.dirty;
        }
        summary
    }

    /// Takes these marks of the hardware back from every leaf in the range and reports each leaf that had one, with the pages that it
    /// maps and what it had. A larger leaf, or a group, that the range covers in part is reported with that part and keeps its marks: the rest of
    /// its pages may have set them. A group that it covers whole is reported as one.
    ///
    /// What was taken back is to be flushed before the next question: a CPU that remembers a leaf as written does not mark it again. Whoever only
    /// looks for pages that are not in use may leave the flush of accessed marks out. Tables that [rely](super::DirtyBits::Relied) on
    /// dirty bits are read and cleared in one step per marked leaf. Cost: O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: tables that are not this library's.
    pub fn take_marks<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        marks: Marks,
        gather: &mut Gather,
        mut marked: impl FnMut(PageRange, Marks),
    ) -> Result<(), TableError> {
        self.check_owned(frames, range)?;
        let shift = self.mmu.page_shift();
        let format = M::FORMAT;
        let mask =
            if marks.accessed { format.accessed.mask } else { 0 } | if marks.dirty { format.dirty.mask } else { 0 };
        let clear = if marks.accessed { format.accessed.encode(false) } else { 0 }
            | if marks.dirty { format.dirty.encode(false) } else { 0 };
        let atomic = self.relies_on_dirty();
        let mut forget = Forget::new(self.tag);
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let (level, table) = (cursor.level(), cursor.table());
            if let Some(group) = self.group_at(&cursor) {
                let had = if group.is_whole() {
                    self.take_group_marks(&group, marks)?
                } else {
                    self.leaf_of_group(&group).and_then(|leaf| marks.of(&leaf))
                };
                if let Some(had) = had {
                    if group.is_whole() {
                        let leaf = self.leaf_of_group(&group);
                        forget.add(gather, group.pages, leaf.is_none_or(|leaf| leaf.global));
                    }
                    marked(group.part, had);
                }
                cursor.pass(group.run);
            } else if level == 0 && M::FORMAT.dirty_modifier != 0 {
                // The mark is not one bit: each leaf is read and written as a whole.
                let run = self.singles(&cursor);
                for step in 0..run.count {
                    let index = run.first + step;
                    let Entry::Leaf(leaf) = self.decode_at(0, index, table.load(index)) else { continue };
                    let Some(mut had) = marks.of(&leaf) else { continue };
                    self.take_marks_at(&table, 0, index, marks, &mut had)?;
                    let page = cursor.address().checked_add((step as u64) << shift).unwrap_or(cursor.address());
                    let page = PageRange::from_checked(page, 1 << shift);
                    forget.add(gather, page, leaf.global);
                    marked(page, had);
                }
                cursor.pass(run);
            } else if level == 0 {
                let run = self.singles(&cursor);
                let start = cursor.address().as_u64();
                let mmu = self.mmu;
                let page =
                    |step: usize| PageRange::from_checked(VirtAddr::new(start + ((step as u64) << shift)), 1 << shift);
                let had = |word| Marks {
                    accessed: marks.accessed && format.accessed.decode(word),
                    dirty: marks.dirty && format.dirty.decode(word),
                };
                let is_marked = |word| mmu.is_present(word) && word & mask != clear;
                if atomic {
                    for step in 0..run.count {
                        let mut word = table.load(run.first + step);
                        if !is_marked(word) {
                            continue;
                        }
                        while let Err(now) = table.compare_exchange(run.first + step, word, word & !mask | clear) {
                            word = now;
                        }
                        forget.add(gather, page(step), format.global.decode(word));
                        marked(page(step), had(word));
                    }
                } else {
                    let take = |step, word| {
                        if !is_marked(word) {
                            return None;
                        }
                        marked(page(step), had(word));
                        Some(word & !mask | clear)
                    };
                    table.update_runs(run, format.global, take, |done, global| {
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
                    Entry::Leaf(leaf) => {
                        if let Some(mut had) = marks.of(&leaf) {
                            if cursor.is_whole() {
                                self.take_marks_at(&table, level, cursor.index(), marks, &mut had)?;
                                forget.add(gather, cursor.span(), leaf.global);
                            }
                            marked(cursor.part(), had);
                        }
                    }
                    _ => {}
                }
            }
            if !cursor.forward() {
                forget.finish(gather);
                return Ok(());
            }
        }
    }

    /// Takes the marks of the larger leaf at `index`.
    fn take_marks_at(
        &self,
        table: &super::table::Table<'_, M>,
        level: usize,
        index: usize,
        marks: Marks,
        had: &mut Marks,
    ) -> Result<(), TableError> {
        let mut seen = table.load(index);
        while let Entry::Leaf(leaf) = self.decode_at(level, index, seen) {
            *had = marks.of(&leaf).unwrap_or(*had);
            let word = self.mmu.encode_leaf(level, marks.cleared(leaf))?;
            match table.compare_exchange(index, seen, word) {
                Ok(()) => break,
                Err(now) => seen = now,
            }
        }
        Ok(())
    }

    /// Whether every table that the range touches is this library's.
    pub(super) fn check_owned<F: Frames>(&self, frames: &F, range: PageRange) -> Result<(), TableError> {
        self.count_cuts(frames, range, |_| false).map(|_| ())
    }
}
