//! Making one larger leaf of a full table of equal leaves: the opposite of splitting. Or a group of those in it that could be one.
//!
//! ```text
//!   level 1     table ─┐                            leaf: frame 0x200, rw-, dirty
//!   level 0     | 0x200 rw- | 0x201 rw- dirty | … | 0x3ff rw- |       (unlinked, freed after the flush)
//! ```

use crate::addr::PageRange;
use crate::frame::Frames;
use crate::paging::{Access, Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::cursor::Cursor;
use super::table::Table;

impl<M: Mmu> Tables<M> {
    /// Replaces every table within the range that is full of leaves of consecutive frames, aligned and else alike, by one larger leaf, up to
    /// `largest_level`; from below upwards, so that what was promoted can be promoted again. Where a table does not agree as a whole, its leaves that could be a
    /// [group](super::Groups) become one; all else stays as it is. Gives how many larger leaves and groups were made. Takes no tables; those that are left over
    /// go to `gather`, and what changes is to be flushed.
    ///
    /// The marks are folded: the larger leaf is accessed or dirty if any page was. Where dirty bits are
    /// [relied on](super::DirtyBits::Relied), a writable one becomes dirty in any case: a CPU may be writing a page at that moment. Cost: O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: tables that are not this library's, or a format whose live entries cannot be replaced here
    /// ([`TableError::NeedsInvalidation`]).
    pub fn promote<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        largest_level: usize,
        gather: &mut Gather,
    ) -> Result<u64, TableError> {
        self.check_owned(frames, range)?;
        self.check_replaceable::<F>(range)?;
        let mut promoted = 0;
        let mut cursor = self.cursor(frames, range)?;
        loop {
            if cursor.level() == 0 {
                cursor.pass(cursor.run());
            } else if let Entry::Table(frame, _) = cursor.entry() {
                // A table that the range covers in part is only gone through for those below it, and for groups.
                if cursor.level() > 1 || cursor.is_whole() || self.writes_groups::<F>() {
                    cursor.enter(frame)?;
                    continue;
                }
            }
            while !cursor.next() {
                let below = cursor.level();
                let Some(left) = cursor.leave() else {
                    // The root becomes no leaf.
                    if below <= largest_level {
                        promoted +=
                            self.promote_to_groups(frames, (&cursor.table(), below), range.start(), range, gather);
                    }
                    return Ok(promoted);
                };
                let span = cursor.span();
                let Some((leaf, word)) = self.promoted(&cursor, &left, range, largest_level) else {
                    if below <= largest_level {
                        promoted += self.promote_to_groups(frames, (&left, below), span.start(), range, gather);
                    }
                    continue;
                };
                if M::FORMAT.break_before_make {
                    cursor.table().store(cursor.index(), 0);
                    frames.invalidate_now(self.tag.0, span);
                }
                cursor.table().store(cursor.index(), word);
                left.change_live(-(left.len() as i32));
                gather.scope.add(self.tag, span, leaf.global);
                gather.scope.note_tables();
                let _ = gather.tables.push(frames, left.frame());
                promoted += 1;
            }
        }
    }

    /// The leaf, and its word, that says what all leaves of the table do that the entry at the cursor leads to, if they agree and the range covers them.
    fn promoted<F: Frames>(
        &self,
        cursor: &Cursor<'_, F, M>,
        table: &Table<'_, M>,
        range: PageRange,
        largest_level: usize,
    ) -> Option<(Leaf, u64)> {
        let level = cursor.level();
        if level > largest_level || !range.covers(cursor.span()) || table.live() as usize != table.len() {
            return None;
        }
        let Entry::Table(_, limit) = cursor.entry() else { return None };
        let leaf = self.agreed(table, level - 1)?;
        let leaf = Leaf { access: leaf.access & limit, ..leaf };
        Some((leaf, self.mmu.encode_leaf(level, leaf).ok()?))
    }

    /// The one leaf that says what all of a table's leaves say, if they agree.
    fn agreed(&self, table: &Table<'_, M>, level: usize) -> Option<Leaf> {
        let frames_each = 1_u64 << self.mmu.level(level)?.shift.saturating_sub(self.mmu.page_shift());
        let Entry::Leaf(mut first) = self.decode_at(level, 0, table.load(0)) else { return None };
        for index in 1..table.len() {
            let Entry::Leaf(next) = self.decode_at(level, index, table.load(index)) else { return None };
            let expected = Leaf {
                frame: first.frame.add(index as u64 * frames_each),
                accessed: next.accessed,
                dirty: next.dirty,
                ..first
            };
            if next != expected {
                return None;
            }
            first.accessed |= next.accessed;
            first.dirty |= next.dirty;
        }
        first.dirty |= self.relies_on_dirty() && first.access.contains(Access::WRITE);
        Some(first)
    }
}
