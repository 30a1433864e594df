//! Dropping what tables hold without looking at it: they are a cache. Tearing down a space is the same walk over all of it.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameUse, Frames, free_one};
use crate::paging::{Entry, Mmu, TableError, Tables};

use super::Gather;
use super::change::Forget;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Drops whatever the tables hold for the range: tables that it covers are unlinked into `gather` with all that lies below, unread; of
    /// leaf tables that it covers in part, the entries are cleared. A larger leaf, or a group, that it touches is dropped whole, rather than
    /// split. So it takes no table, and cannot fail for want of one. Pinned tables stay, empty.
    ///
    /// This is how write permission is withdrawn from many pages of a format whose permissions do not combine over levels, how a
    /// table is given up under pressure, and how a space is torn down. Nothing is reported: who needs the leaves uses
    /// [`unmap`](Self::unmap), and who relies on dirty bits takes them first ([`take_marks`](Self::take_marks)).
    ///
    /// Cost: O(tables), and O(entries) of the two leaf tables at the ends.
    ///
    /// # Errors
    /// Nothing was changed: tables that are not this library's.
    pub fn detach<F: Frames>(&mut self, frames: &F, range: PageRange, gather: &mut Gather) -> Result<(), TableError> {
        self.check_owned(frames, range)?;
        let range = self.with_whole_groups(frames, range);
        let mut forget = Forget::new(self.tag);
        let mut cursor = self.cursor(frames, range)?;
        // Leaves that are not read may be global.
        let global = M::FORMAT.global.mask != 0;
        // Whether something of the table that the cursor is in was noted, by which CPUs forget the way to it.
        let mut noted = false;
        'entries: loop {
            let (level, table) = (cursor.level(), cursor.table());
            if level == 0 {
                let run = cursor.run();
                let mut cleared = 0;
                table.update_run(run.first, run.count, |_, word| {
                    cleared += i32::from(self.mmu.is_present(word));
                    (word != 0).then_some(0)
                });
                if cleared != 0 {
                    table.change_live(-cleared);
                    noted = true;
                    let last = cursor.span_of(run);
                    forget.add(gather, PageRange::from_bounds(cursor.address(), last), global);
                }
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    // A table of leaves in the root may be pinned, so it is emptied by hand.
                    Entry::Table(frame, _) if level == 1 && level + 1 < self.mmu.levels() && cursor.is_whole() => {
                        if let Some(below) = Table::own(frames, self.mmu, 0, frame) {
                            below.change_live(-(below.live() as i32));
                            table.store(cursor.index(), 0);
                            table.change_live(-1);
                            cursor.forget_table(self.tag);
                            forget.add(gather, cursor.span(), global);
                            noted = true;
                            gather.scope.note_tables();
                            let _ = gather.tables.push(frames, frame);
                        }
                    }
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        noted = false;
                        continue 'entries;
                    }
                    Entry::Leaf(leaf) => {
                        table.store(cursor.index(), 0);
                        table.change_live(-1);
                        noted = true;
                        forget.add(gather, cursor.span(), leaf.global);
                    }
                    _ => {}
                }
            }
            while !cursor.next() {
                let Some(left) = cursor.leave() else {
                    forget.finish(gather);
                    return Ok(());
                };
                if cursor.unlink_empty(&left, self.tag, gather) && !noted {
                    self.note_way(gather, cursor.span().start());
                    noted = true;
                }
            }
        }
    }

    /// Gives the root back to `frames`: the end of tables that are empty. What they held was [detached](Self::detach) or unmapped before.
    ///
    /// # Errors
    /// The tables are given back: something is in the root still ([`TableError::Conflict`] at its first entry), or it is not recorded as a table.
    ///
    /// # Safety
    /// No CPU translates with the root any more, nor remembers anything of it.
    pub unsafe fn free_root<F: Frames>(self, frames: &F) -> Result<(), (Self, TableError)> {
        let foreign = TableError::Foreign(VirtAddr::new(0));
        let top = self.mmu.levels().saturating_sub(1);
        let Some(root) = Table::own(frames, self.mmu, top, self.root) else { return Err((self, foreign)) };
        if let Some(used) = (0..root.len()).find(|index| self.mmu.is_present(root.load(*index))) {
            let shift = self.mmu.level(top).map_or(0, |at| at.shift);
            return Err((self, TableError::Conflict(VirtAddr::new((used as u64) << shift))));
        }
        // SAFETY: the root is empty, and the caller vouches that nothing refers to it.
        unsafe { free_one(frames, self.root, FrameUse::Table) }.map_err(|_| (self, foreign))
    }
}
