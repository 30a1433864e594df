//! Changing the memory type of a range.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{EncodeError, Entry, MemoryType, Mmu, TableError, Tables};

use super::Gather;
use super::change::Forget;
use super::group::Remade;
use super::live::Slot;

impl<M: Mmu> Tables<M> {
    /// Gives every leaf in the range this memory type, splitting at the ends as [`unmap`](Self::unmap) does; all else stays, and so does
    /// what is not mapped. What changes is to be flushed. Where the format demands break-before-make, each leaf is absent for a moment.
    ///
    /// The caller writes back or drops what CPUs have cached of the memory, and sees to other mappings of the same frames
    /// ([`Machine::register`](crate::Machine::register) keeps account of them). Cost: O(tables and leaves).
    ///
    /// # Errors
    /// Nothing was changed: the format lacks the memory type, too few spare tables ([`tables_to_split`](Self::tables_to_split)), tables that are not this
    /// library's, or a format whose live entries cannot be replaced here ([`TableError::NeedsInvalidation`]).
    pub fn set_memory_type<F: Frames>(
        &mut self,
        frames: &F,
        range: PageRange,
        memory: MemoryType,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        if self.mmu.memory_code(memory).is_none() {
            return Err(EncodeError::MemoryType(memory).into());
        }
        self.check_replaceable::<F>(range)?;
        let needed = self.count_cuts(frames, range, |leaf| leaf.memory != memory)?;
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        self.dissolve_parts(frames, range, |leaf| leaf.memory != memory, gather)?;
        let shift = self.mmu.page_shift();
        let mut forget = Forget::new(self.tag);
        let mut cursor = self.cursor(frames, range)?;
        loop {
            let (level, table) = (cursor.level(), cursor.table());
            let change = |index, pages| {
                self.rewrite(frames, Slot { table, level, index, pages }, true, |leaf| {
                    Ok(self.mmu.encode_leaf(level, leaf.memory(memory))?)
                })
            };
            if let Some(group) = self.group_at(&cursor) {
                if let Some(leaf) = self.leaf_of_group(&group).filter(|leaf| leaf.memory != memory) {
                    self.remake(frames, &group, Remade::Group, |leaf| leaf.memory(memory))?;
                    forget.add(gather, group.pages, leaf.global);
                }
                cursor.pass(group.run);
            } else if level == 0 {
                let run = self.singles(&cursor);
                for step in 0..run.count {
                    let index = run.first + step;
                    let Entry::Leaf(leaf) = self.decode_at(0, index, table.load(index)) else { continue };
                    if leaf.memory != memory {
                        let start = cursor.address().as_u64() + ((step as u64) << shift);
                        let page = PageRange::from_checked(VirtAddr::new(start), 1 << shift);
                        change(index, page)?;
                        forget.add(gather, page, leaf.global);
                    }
                }
                cursor.pass(run);
            } else {
                match cursor.entry() {
                    Entry::Table(frame, _) => {
                        cursor.enter(frame)?;
                        continue;
                    }
                    Entry::Leaf(leaf) if leaf.memory == memory => {}
                    Entry::Leaf(leaf) if cursor.is_whole() => {
                        change(cursor.index(), cursor.span())?;
                        forget.add(gather, cursor.span(), leaf.global);
                    }
                    Entry::Leaf(leaf) => {
                        self.split(frames, &mut cursor, spare, needed)?;
                        forget.finish(gather);
                        gather.scope.add(self.tag, self.span_above(&cursor), leaf.global);
                        continue;
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
}
