//! Pages that are mapped beside one that was wanted: in its leaf table, with a leaf that is encoded once.
//!
//! ```text
//!   leaf table    | -- | -- | -- | leaf | -- | -- |        word without an address, for reading and for writing
//!   around        [    =============================]          | the frame's bits, per page
//!                   f    f                f    --
//! ```
//!
//! What is there stays. Nothing has to be flushed, and nothing can fail: a page whose frame the format cannot represent stays for a fault of its own.

use crate::addr::{Frame, PageRange};
use crate::frame::Frames;
use crate::paging::mmu::{page_address_bits, page_address_bits_unchecked};
use crate::paging::{Leaf, Mmu, Tables};

use super::cursor::Run;
use super::table::Table;

/// Which pages are mapped beside one, and how.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    /// Where: in one leaf table.
    pub(crate) pages: PageRange,
    /// With which leaf a page that may be read, and with which one a page that may be written to; whatever their frames.
    pub(crate) leaves: [Leaf; 2],
}

/// What maps pages of one leaf table.
pub(crate) struct Filler<'t, M: Mmu> {
    mmu: M,
    table: Table<'t, M>,
    /// The index of the first page's entry, and how many may be mapped from there on.
    first: usize,
    count: u64,
    /// The leaves' words, but for the bits of the frame.
    words: [Option<u64>; 2],
    /// How many were mapped.
    pub(super) mapped: i32,
    /// Where leaves that are there get more access, and none is made: the hardware's marks, which stay.
    raises: Option<u64>,
}

impl<M: Mmu> Filler<'_, M> {
    /// Maps the page that is so many after the first one, and those that follow it, each to its frame, to be written to or not; unless something is there.
    #[inline(always)]
    pub(crate) fn put_all<T>(&mut self, step: u64, pages: &[T], page: impl Fn(&T) -> Option<(Frame, bool)>) {
        // What does not change is kept at hand.
        let (mmu, table, [reading, writing]) = (self.mmu, self.table, self.words);
        let (first, pages) = self.place(step, pages);
        if let Some(marks) = self.raises {
            return self.raise_all(first, pages, marks, page);
        }
        self.mapped += table.fill_run(mmu, first, pages, |at| {
            let (frame, writable) = page(at)?;
            Some(page_address_bits(&mmu, frame)? | if writable { writing } else { reading }?)
        });
    }

    /// The same for pages of which each has a frame and none is to be written to.
    #[inline(always)]
    pub(crate) fn put_all_to_be_read<T>(&mut self, step: u64, pages: &[T], frame: impl Fn(&T) -> Frame) {
        if self.raises.is_some() {
            return;
        }
        let (mmu, table) = (self.mmu, self.table);
        let (first, pages) = self.place(step, pages);
        // A frame fits if none of its bits is beyond the width: all do if all bits of all do.
        let bits = Frame::new(pages.iter().fold(0, |bits, page| bits | frame(page).number()));
        let fit = page_address_bits(&mmu, bits).is_some();
        match self.words[0].filter(|_| fit && table.first_present(mmu, Run { first, count: pages.len() }).is_none()) {
            Some(word) => {
                let word = |page: &T| word | page_address_bits_unchecked(&mmu, frame(page));
                self.mapped += table.write_run(first, pages, word);
            }
            None => self.put_all(step, pages, |page| Some((frame(page), false))),
        }
    }

    /// Lets those of the pages be written to that may be, and that are mapped each to its frame for reading alone.
    #[inline(never)]
    fn raise_all<T>(&self, first: usize, pages: &[T], marks: u64, page: impl Fn(&T) -> Option<(Frame, bool)>) {
        let [Some(reading), Some(writing)] = self.words else { return };
        for (place, at) in pages.iter().enumerate() {
            let Some((frame, true)) = page(at) else { continue };
            let Some(bits) = page_address_bits(&self.mmu, frame) else { continue };
            let word = self.table.load(first + place);
            if (word ^ (reading | bits)) & !marks == 0 {
                self.table.store(first + place, word & marks | writing | bits);
            }
        }
    }

    /// The index of the entry for the page that is so many after the first one, and as many of the pages as may be mapped from there on.
    #[inline(always)]
    fn place<'p, T>(&self, step: u64, pages: &'p [T]) -> (usize, &'p [T]) {
        let room = self.count.saturating_sub(step) as usize;
        (self.first.wrapping_add(step as usize), pages.get(..room).unwrap_or(pages))
    }
}

impl<M: Mmu> Tables<M> {
    /// What maps pages in a leaf table, which is there for them.
    #[inline]
    pub(super) fn filler<'t>(&self, table: Table<'t, M>, around: &Around) -> Filler<'t, M> {
        let first = self.index_at(0, around.pages.start());
        let room = (table.len() - first) as u64;
        let word = |leaf: Leaf| self.mmu.encode_leaf(0, Leaf { frame: Frame::new(0), ..leaf }).ok();
        let count = around.pages.pages(self.mmu.page_shift()).min(room);
        Filler { mmu: self.mmu, table, first, count, words: around.leaves.map(word), mapped: 0, raises: None }
    }

    /// What lets pages be written to that are mapped already. `None` where the hardware changes more of a leaf than marks.
    #[inline]
    pub(super) fn raiser<'t>(&self, table: Table<'t, M>, around: &Around) -> Option<Filler<'t, M>> {
        self.mmu.access_mask()?;
        Some(Filler { raises: Some(M::FORMAT.accessed.mask | M::FORMAT.dirty.mask), ..self.filler(table, around) })
    }

    /// Maps what `more` puts into the leaf table that is there for these pages; nothing where there is none, or it is not this library's.
    #[inline]
    pub(crate) fn map_around<F: Frames>(&mut self, frames: &F, around: &Around, more: impl FnOnce(&mut Filler<'_, M>)) {
        let table = self.leaf_table::<F, true>(frames, around.pages.start());
        let Some(table) = table.and_then(|(table, _)| table.owned(frames)) else { return };
        let mut filler = self.filler(table, around);
        more(&mut filler);
        table.change_live(filler.mapped);
    }
}
