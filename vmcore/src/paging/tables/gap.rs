//! Kernel-style mappings: find a gap in a range of addresses, map there, unmap again.
//!
//! For a kernel that keeps no other record of what is where: the tables are asked. Absent entries of upper levels are passed as
//! a whole. Spaces keep an index of their own and find gaps in O(log n).

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Entry, Leaf, Mmu, TableError, Tables};

use super::cursor::Cursor;

impl<M: Mmu> Tables<M> {
    /// The first place in `limits` where `size` bytes are not mapped and whose address is `phase` modulo 2^`alignment`; both at least those of a
    /// page. What cannot be reached, or is malformed, counts as mapped. Reads only. Cost: O(tables and leaves before it).
    ///
    /// # Errors
    /// [`TableError::NoGap`]; [`TableError::Address`] for a size that is not made of whole pages.
    pub fn find_gap<F: Frames>(
        &self,
        frames: &F,
        limits: PageRange,
        size: u64,
        alignment: u32,
        phase: u64,
    ) -> Result<PageRange, TableError> {
        let asked = self.mmu.range(limits.start().as_u64(), size);
        let none = TableError::NoGap(size);
        if asked.is_err() && limits.size() >= size {
            // Not too large: then it is not made of pages.
            asked.map_err(TableError::Address)?;
        }
        let alignment = alignment.max(self.mmu.page_shift());
        let mask = 1_u64.checked_shl(alignment).ok_or(none)?.wrapping_sub(1);
        let phase = phase & mask & !((1 << self.mmu.page_shift()) - 1);
        let place = |from: u64, last: u64| {
            let start = from.checked_add(phase.wrapping_sub(from) & mask)?;
            (start.checked_add(size - 1)? <= last).then(|| PageRange::from_checked(VirtAddr::new(start), size))
        };
        if size == 0 || size > limits.size() {
            return Err(none);
        }
        // The start of what is not mapped up to the cursor, if there is anything.
        let mut open = Some(limits.start().as_u64());
        let mut cursor = Cursor::new(frames, self.mmu, self.root, limits, false).ok_or(none)?;
        loop {
            let part = cursor.part();
            match cursor.entry() {
                Entry::Table(frame, _) if cursor.enter(frame).is_ok() => continue,
                _ if !self.mmu.is_present(cursor.table().load(cursor.index())) => {
                    let from = *open.get_or_insert(part.start().as_u64());
                    if let Some(found) = place(from, part.last().as_u64()) {
                        return Ok(found);
                    }
                }
                _ => open = None,
            }
            if !cursor.forward() {
                return Err(none);
            }
        }
    }

    /// Maps `size` bytes to the consecutive frames from `leaf.frame`, in the first gap of `limits` where addresses and frames are aligned
    /// alike for the largest leaf or [group](super::Groups) that fits (up to `largest_level`), or else in the first gap. Says where.
    /// [`unmap`](Self::unmap) undoes it; the addresses may be given out again when its flush is acknowledged.
    ///
    /// Takes at most [`tables_to_map_at_most`](Self::tables_to_map_at_most) of a range of that size.
    ///
    /// # Errors
    /// Nothing was changed: [`TableError::NoGap`], and all of [`map`](Self::map)'s.
    pub fn map_in_gap<F: Frames>(
        &mut self,
        frames: &F,
        limits: PageRange,
        size: u64,
        leaf: Leaf,
        largest_level: usize,
        spare: &mut FrameList,
    ) -> Result<PageRange, TableError> {
        let range = self.gap_for(frames, limits, size, leaf.frame, largest_level)?;
        self.map(frames, range, leaf, largest_level, spare).map(|()| range)
    }

    /// As [`map_in_gap`](Self::map_in_gap), for a page to each frame of `from`, as [`map_frames`](Self::map_frames) does.
    ///
    /// # Errors
    /// Nothing was changed: [`TableError::NoGap`], and all of [`map_frames`](Self::map_frames)'s.
    pub fn map_frames_in_gap<F: Frames>(
        &mut self,
        frames: &F,
        limits: PageRange,
        size: u64,
        from: impl IntoIterator<Item = Frame, IntoIter: Clone>,
        leaf: Leaf,
        spare: &mut FrameList,
    ) -> Result<PageRange, TableError> {
        let range = self.find_gap(frames, limits, size, 0, 0)?;
        self.map_frames(frames, range, from, leaf, spare).map(|()| range)
    }

    fn gap_for<F: Frames>(
        &self,
        frames: &F,
        limits: PageRange,
        size: u64,
        first: Frame,
        largest_level: usize,
    ) -> Result<PageRange, TableError> {
        let physical = first.start(self.mmu.page_shift()).as_u64();
        for level in (0..=largest_level.min(self.mmu.levels())).rev() {
            let Some(at) = self.mmu.level(level) else { continue };
            let group = if self.writes_groups::<F>() { self.mmu.contiguous(level) } else { None };
            let group = group.map(|group| at.shift + group.count_shift);
            for shift in group.into_iter().chain((level > 0).then_some(at.shift)) {
                if size >> shift == 0 {
                    continue;
                }
                if let Ok(range) = self.find_gap(frames, limits, size, shift, physical) {
                    return Ok(range);
                }
            }
        }
        self.find_gap(frames, limits, size, 0, 0)
    }
}
