//! Mapping single frames, wherever they lie, that an iterator gives: what a kernel calls `vmap`, and what a scatter list is.

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Leaf, Mmu, TableError, Tables};

impl<M: Mmu> Tables<M> {
    /// Maps each base page of `range` to the next frame of `from`, else as `leaf` says; frames beyond the range's pages are left in the
    /// iterator. Takes [`tables_to_map`](Self::tables_to_map)`(range, None, 0)` tables from `spare`. Nothing has to be flushed.
    ///
    /// The iterator is run twice, which is why it is cloned: first to see that every frame can be represented. Cost: O(pages).
    ///
    /// # Errors
    /// Nothing was changed: something is mapped in the range, the format cannot represent the leaf or a frame, the iterator ends too
    /// early ([`TableError::TooFewFrames`]), too few spare tables, or tables that are not this library's. A clone that does not give what its
    /// original gave ends the mapping there, with the error of what it gave.
    pub fn map_frames<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        from: impl IntoIterator<Item = Frame, IntoIter: Clone>,
        leaf: Leaf,
        spare: &mut FrameList,
    ) -> Result<(), TableError> {
        let shift = self.mmu.page_shift();
        let pages = range.pages(shift);
        let from = from.into_iter();
        if !self.is_clear(frames, range) {
            // The same count again, for its error.
            return Err(self.find_conflict(frames, range));
        }
        let mut seen = 0;
        for frame in from.clone().zip(0..pages).map(|(frame, _)| frame) {
            self.mmu.encode_leaf(0, Leaf { frame, ..leaf })?;
            seen += 1;
        }
        let address = |page: u64| VirtAddr::new(range.start().as_u64().wrapping_add(page << shift));
        if seen < pages {
            return Err(TableError::TooFewFrames(address(seen)));
        }
        let needed = self.tables_to_map(frames, range, None, 0);
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let mut from = from;
        let mut lacking = None;
        self.fill(frames, range, spare, |page| {
            let next = if lacking.is_none() { from.next() } else { None };
            if next.is_none() && lacking.is_none() {
                lacking = Some(page);
            }
            next.map(|frame| Leaf { frame, ..leaf })
        })?;
        lacking.map_or(Ok(()), |page| Err(TableError::TooFewFrames(page)))
    }
}
