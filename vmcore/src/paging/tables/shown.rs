//! How much tables hold: pages and tables.

use crate::addr::PageRange;
use crate::frame::Frames;
use crate::paging::{Entry, Mmu, Tables};

impl<M: Mmu> Tables<M> {
    /// How many base pages the range maps, and how many tables below the root serve it. O(tables and leaves).
    pub(crate) fn count_shown<F: Frames>(&self, frames: &F, range: PageRange) -> (u64, u64) {
        let (mut pages, mut tables) = (0_u64, 0_u64);
        let Ok(mut cursor) = self.cursor(frames, range) else { return (0, 0) };
        loop {
            if cursor.level() == 0 {
                let (table, run) = (cursor.table(), cursor.run());
                let present =
                    (run.first..run.first + run.count).filter(|index| self.mmu.is_present(table.load(*index)));
                pages += present.count() as u64;
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        // Tables of others are neither counted nor read.
                        if cursor.enter(frame).is_ok() {
                            tables += 1;
                            continue;
                        }
                    }
                    Entry::Leaf(_) => pages += cursor.part().pages(self.mmu.page_shift()),
                    Entry::Absent(_) | Entry::Reserved => {}
                }
            }
            if !cursor.forward() {
                return (pages, tables);
            }
        }
    }
}
