//! Replacing what CPUs may be using at the moment: marks that must not be lost, and break-before-make.
//!
//! ```text
//!   Hints:   load ─ ─ ─ ─ ─ ─ ─ ─► store          a mark set in between is lost, which is known from elsewhere
//!   Relied:  load ──► compare-exchange ──► again, with what the hardware made of it
//!   break-before-make:   swap(absent) ──► every CPU forgets ──► store
//! ```
//!
//! The hardware sets the dirty bit of a live, writable, clean leaf between any load and store; of another leaf it does not.

use crate::addr::PageRange;
use crate::frame::Frames;
use crate::paging::{Access, Entry, Leaf, Mmu, TableError, Tables};

use super::table::Table;

/// What the hardware's dirty bits are to who changes the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DirtyBits {
    /// Hints: that a page was written is known from its first write fault. Entries are replaced by plain stores.
    #[default]
    Hints,
    /// The only record of a write: a live, writable, clean leaf is changed by an atomic read-modify-write, which costs about ten
    /// times a store.
    Relied,
}

/// An entry that is changed where it stands.
#[derive(Clone, Copy)]
pub(super) struct Slot<'t, M: Mmu> {
    pub(super) table: Table<'t, M>,
    pub(super) level: usize,
    pub(super) index: usize,
    /// The pages of the entry.
    pub(super) pages: PageRange,
}

impl<M: Mmu> Tables<M> {
    /// The same tables, with this said about the hardware's dirty bits. [`DirtyBits::Hints`] unless told otherwise.
    #[must_use]
    pub fn with_dirty_bits(mut self, dirty_bits: DirtyBits) -> Self {
        self.dirty_bits = dirty_bits;
        self
    }

    /// What was said about the hardware's dirty bits.
    pub const fn dirty_bits(&self) -> DirtyBits {
        self.dirty_bits
    }

    #[inline]
    pub(super) fn relies_on_dirty(&self) -> bool {
        self.dirty_bits == DirtyBits::Relied
    }

    /// Whether a plain store could lose a mark of the hardware that matters.
    #[inline]
    fn is_racy(&self, leaf: &Leaf) -> bool {
        self.relies_on_dirty() && leaf.access.contains(Access::WRITE) && !leaf.dirty
    }

    /// Fails where a live entry cannot be replaced as the format demands. Asked before anything is changed.
    pub(super) fn check_replaceable<F: Frames>(&self, range: PageRange) -> Result<(), TableError> {
        if M::FORMAT.break_before_make && !F::INVALIDATES_NOW {
            return Err(TableError::NeedsInvalidation(range.start()));
        }
        Ok(())
    }

    /// What a leaf's word means now; `leaf` where it is none any more, which nobody but the holder of the tables makes it.
    #[inline]
    fn leaf_of(&self, level: usize, word: u64, leaf: Leaf) -> Leaf {
        match self.mmu.decode(level, word) {
            Entry::Leaf(now) => Leaf { frame: leaf.frame, ..now },
            _ => leaf,
        }
    }

    /// Writes `word` over the leaf at `index`; gives the leaf as it was at that moment.
    #[inline]
    pub(super) fn replace(&self, table: &Table<'_, M>, level: usize, index: usize, leaf: Leaf, word: u64) -> Leaf {
        if self.is_racy(&leaf) {
            return self.leaf_of(level, table.swap(index, word), leaf);
        }
        table.store(index, word);
        leaf
    }

    /// Writes over the leaf in `slot` what `make` makes of it: the last call sees the leaf as it was at that moment. Where
    /// `breaks` and the format demands it, it is absent and forgotten in between.
    ///
    /// Fails only where `make` does at its first call.
    pub(super) fn rewrite<F: Frames>(
        &self,
        frames: &F,
        slot: Slot<'_, M>,
        breaks: bool,
        mut make: impl FnMut(Leaf) -> Result<u64, TableError>,
    ) -> Result<(), TableError> {
        let Slot { table, level, index, pages } = slot;
        let mut seen = table.load(index);
        let Entry::Leaf(mut leaf) = self.decode_at(level, index, seen) else { return Ok(()) };
        let mut word = make(leaf)?;
        if breaks && M::FORMAT.break_before_make {
            let last = self.leaf_of(level, table.swap(index, 0), leaf);
            frames.invalidate_now(self.tag.0, pages);
            if last != leaf {
                word = make(last)?;
            }
            table.store(index, word);
            return Ok(());
        }
        if !self.is_racy(&leaf) {
            table.store(index, word);
            return Ok(());
        }
        while let Err(now) = table.compare_exchange(index, seen, word) {
            (seen, leaf) = (now, self.leaf_of(level, now, leaf));
            word = make(leaf)?;
        }
        Ok(())
    }
}
