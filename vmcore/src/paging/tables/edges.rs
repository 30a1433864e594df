//! Larger leaves that lie across an edge: split there, or dropped whole, before something else is done on either side.
//!
//! ```text
//!                edge                                        |----- range -----|
//!   level 1   [====|=======]      cut_at(edge)          [========]  …      [========]       drop_across(range)
//!   level 0   |====|=======|      the same pages             absent             absent      whole: the area knows its pages
//! ```

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Entry, Mmu, TableError, Tables};

use super::Gather;

impl<M: Mmu> Tables<M> {
    /// The pages of the larger leaf that begins before this address and goes on beyond it.
    fn leaf_across<F: Frames>(&self, frames: &F, edge: VirtAddr) -> Option<(usize, PageRange)> {
        let found = self.find(frames, edge).filter(|found| found.level() > 0)?;
        let span = self.span_of_found(&found);
        (span.start() < edge && self.found_leaf(&found).is_some()).then_some((found.level(), span))
    }

    /// How many tables [`cut_at`](Self::cut_at) takes. O(levels).
    pub(crate) fn tables_to_cut_at<F: Frames>(&self, frames: &F, edge: VirtAddr) -> u64 {
        self.leaf_across(frames, edge)
            .map_or(0, |(level, span)| self.tables_to_cut(level, PageRange::from_bounds(edge, span.last())))
    }

    /// Splits the larger leaf that lies across an address, so that none does. What it maps stays the same. O(levels).
    ///
    /// # Errors
    /// Nothing was changed: too few spare tables ([`tables_to_cut_at`](Self::tables_to_cut_at)), tables that are not this library's, or a format whose
    /// live entries cannot be replaced here ([`TableError::NeedsInvalidation`]).
    pub(crate) fn cut_at<F: Frames>(
        &mut self,
        frames: &F,
        edge: VirtAddr,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let Some((level, span)) = self.leaf_across(frames, edge) else { return Ok(()) };
        let part = PageRange::from_bounds(edge, span.last());
        let needed = self.tables_to_cut(level, part);
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.check_replaceable::<F>(part)?;
        self.dissolve_parts(frames, part, |_| true, gather)?;
        let mut cursor = self.cursor(frames, part)?;
        loop {
            match cursor.entry() {
                Entry::Table(frame, _) => cursor.enter(frame)?,
                Entry::Leaf(leaf) if cursor.level() > 0 && !cursor.is_whole() => {
                    self.split(frames, &mut cursor, spare, needed)?;
                    gather.scope.add(self.tag, self.span_above(&cursor), leaf.global);
                }
                _ => return Ok(()),
            }
        }
    }

    /// Drops each larger leaf, and each group, that the range covers in part: all of it, also what lies outside. So it takes no table. For leaves of
    /// areas that know their pages alone. O(levels).
    ///
    /// # Errors
    /// Tables that are not this library's.
    pub(crate) fn drop_across<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        for edge in [Some(range.start()), range.last().checked_add(1)].into_iter().flatten() {
            if let Some((_, span)) = self.leaf_across(frames, edge) {
                self.drop_leaves(frames, span, gather)?;
            }
        }
        Ok(())
    }
}
