//! Which pages tables show, asked for many ranges side by side by who has nobody change the shape of the tables.
//!
//! ```text
//!   ranges        [====] [=] [=========]   [==|==]
//!   leaf tables   |        one walk from the root |   another one
//! ```

use crate::addr::{PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::Mmu;

use super::beside::LeafTables;
use super::page::Found;

impl<M: Mmu> LeafTables<M> {
    /// Says of each leaf in the range which pages of the range it maps (how many come before them, and how many they are), and whether the hardware marked it as used. Reads only.
    ///
    /// `last` is where a look for another range ended: what lies in the same leaf table is read there, with no walk from the root. The caller sees to it that nobody changes the shape of the
    /// tables from the first of such looks to the last. Cost: O(leaf tables and pages).
    pub(crate) fn for_each_shown<'a, F: Frames>(
        &self,
        frames: &'a F,
        range: PageRange,
        last: &mut Option<Found<'a, M>>,
        mut shown: impl FnMut(u64, u64, bool),
    ) {
        let (tables, mmu) = (self.tables(), self.mmu());
        let page_shift = mmu.page_shift();
        let (start, end) = (range.start().as_u64(), range.last().as_u64());
        let mut at = start;
        loop {
            if !last.as_ref().is_some_and(|found| Self::leads_there(mmu, found, at)) {
                *last = tables.find(frames, VirtAddr::new(at));
            }
            // What cannot be reached shows nothing that anybody can tell.
            let shift = last.as_ref().map_or(table_shift(mmu), |found| Self::found_shift(mmu, found));
            let to = (at | ((1 << shift) - 1)).min(end);
            let before = (at - start) >> page_shift;
            let count = ((to - at) >> page_shift) + 1;
            match last {
                Some(found) if found.level == 0 => {
                    let first = tables.index_at(0, VirtAddr::new(at));
                    for step in 0..count {
                        let word = found.table.load(first.wrapping_add(step as usize));
                        if mmu.is_present(word) && mmu.decode_leaf(0, word).is_some() {
                            shown(before + step, 1, M::FORMAT.accessed.decode(word));
                        }
                    }
                }
                Some(found) => {
                    if let Some(leaf) = mmu.decode_leaf(found.level, found.word) {
                        shown(before, count, leaf.accessed);
                    }
                }
                None => {}
            }
            match to.checked_add(1) {
                Some(next) if to < end => at = next,
                _ => return,
            }
        }
    }

    /// How much the entries of the leaf table cover that was found, or the entry above where the walk ended, as a power of two.
    #[inline]
    fn found_shift(mmu: M, found: &Found<'_, M>) -> u32 {
        if found.level == 0 { table_shift(mmu) } else { mmu.level(found.level).map_or(mmu.page_shift(), |at| at.shift) }
    }

    /// Whether a walk to an address ends where that one did. (An entry without a table stays so, and a larger leaf maps one window.)
    #[inline]
    fn leads_there(mmu: M, found: &Found<'_, M>, address: u64) -> bool {
        (found.address.as_u64() ^ address) >> Self::found_shift(mmu, found) == 0
    }
}

/// How much a leaf table maps, as a power of two.
fn table_shift<M: Mmu>(mmu: M) -> u32 {
    mmu.page_shift() + mmu.index_bits(0)
}
