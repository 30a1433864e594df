//! One page: finding where it is mapped, and setting it. The way of every fault, so there is one walk for all of it.
//!
//! ```text
//!   find(address):  root ──► table ──► table ──► leaf        mapped
//!                                        └─────► nothing     absent; as many tables are missing as levels are left
//!   set_found(place, leaf):             from here on down
//! ```

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::live::Slot;
use super::table::Table;

/// Where a walk for one address ended. It holds as long as the tables are not changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    level: usize,
    table: Frame,
    /// The words on the way down, by level: from the level above this one to the root's.
    above: [u64; MAX_LEVELS],
    entry: Entry,
}

impl Found {
    /// The level of the table where the walk ended.
    #[inline]
    pub(super) fn level(&self) -> usize {
        self.level
    }

    /// How many tables are missing to map the page.
    #[inline]
    pub(crate) fn tables_missing(&self) -> u64 {
        if matches!(self.entry, Entry::Absent(_)) { self.level as u64 } else { 0 }
    }
}

impl<M: Mmu> Tables<M> {
    /// Walks to the end of what is mapped for `address`. `None` for an address that the format does not have, or a table that
    /// cannot be reached.
    #[inline]
    pub(crate) fn find<F: Frames>(&self, frames: &F, address: VirtAddr) -> Option<Found> {
        if !self.mmu.is_canonical(address) {
            return None;
        }
        let mut above = [0; MAX_LEVELS];
        let mut frame = self.root;
        let levels = self.mmu.levels();
        // Over the format's levels and not over those in use, so that each is a constant where the loop is unrolled.
        for level in (0..M::FORMAT.levels.len()).rev() {
            if level >= levels {
                continue;
            }
            let table = Table::reach(frames, self.mmu, level, frame)?;
            let word = table.load(self.index_at(level, address));
            match self.mmu.decode_table(level, word) {
                Some(next) => {
                    if let Some(place) = above.get_mut(level) {
                        *place = word;
                    }
                    frame = next;
                }
                None if !self.mmu.is_present(word) => {
                    return Some(Found { level, table: frame, above, entry: Entry::Absent(0) });
                }
                None => {
                    let entry = self.mmu.decode_at(level, self.index_at(level, address), word);
                    return Some(Found { level, table: frame, above, entry });
                }
            }
        }
        // No entry of the lowest level leads to a table.
        None
    }

    /// The leaf that was found, with the access that is allowed over all levels, and its level.
    #[inline]
    pub(crate) fn found_leaf(&self, found: &Found) -> Option<(usize, Leaf)> {
        let Entry::Leaf(leaf) = found.entry else { return None };
        let mut allowed = leaf.access;
        if let Some(permissions) = &M::FORMAT.table {
            let mut strictest = permissions.open();
            for (level, word) in found.above.iter().enumerate().take(self.mmu.levels()).skip(found.level + 1) {
                if const { M::FORMAT.limits_at_every_level() }
                    || self.mmu.level(level).is_some_and(|at| at.table_limits)
                {
                    strictest = permissions.stricter(strictest, *word);
                }
            }
            allowed &= permissions.limits(strictest);
        }
        Some((found.level, leaf.access(allowed)))
    }

    /// The leaf that translates `address`, with the access that is allowed over all levels, and the pages that it maps;
    /// `None` where nothing is mapped. Costs one read per level.
    #[inline]
    pub fn translate<F: Frames>(&self, frames: &F, address: VirtAddr) -> Option<(PageRange, Leaf)> {
        let (level, leaf) = self.found_leaf(&self.find(frames, address)?)?;
        let shift = self.mmu.level(level)?.shift;
        Some((PageRange::from_checked(address.align_down(shift), 1 << shift), leaf))
    }

    /// Maps the single base page at `address` to `leaf`, or changes what is mapped there; gives the base-page leaf that was
    /// there. Notes in `gather` what must be forgotten: nothing where nothing was mapped, or where the change only adds
    /// permission to the same frame (a CPU that still has the old translation faults and finds the new one).
    ///
    /// # Errors
    /// Nothing was changed: a larger leaf maps the address ([`TableError::Conflict`]), the address is no page's, the format cannot represent the leaf, too
    /// few spare tables, or tables that are not this library's.
    pub fn set_page<F: Frames>(
        &mut self,
        frames: &F,
        address: VirtAddr,
        leaf: Leaf,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        let page = self.mmu.range(address.as_u64(), 1 << self.mmu.page_shift()).map_err(TableError::Address)?;
        let found = self.find(frames, address).ok_or(TableError::Foreign(address))?;
        self.set_found(frames, &found, page, leaf, spare, gather)
    }

    /// As [`set_page`](Self::set_page), for the page whose first address was [found](Self::find). The tables are as they were then.
    ///
    /// # Errors
    /// As for [`set_page`](Self::set_page).
    #[inline]
    pub(crate) fn set_found<F: Frames>(
        &mut self,
        frames: &F,
        found: &Found,
        page: PageRange,
        leaf: Leaf,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        let address = page.start();
        let foreign = TableError::Foreign(address);
        let word = self.mmu.encode_leaf(0, leaf)?;
        let old = match found.entry {
            Entry::Leaf(_) if found.level > 0 => return Err(TableError::Conflict(address)),
            Entry::Leaf(old) => Some(old),
            Entry::Absent(_) => None,
            Entry::Table(..) | Entry::Reserved => return Err(foreign),
        };
        let stays_same = |old: &Leaf| old.frame == leaf.frame && old.memory == leaf.memory && old.global == leaf.global;
        if old.is_some_and(|old| !stays_same(&old)) {
            self.check_replaceable::<F>(page)?;
        }
        let needed = found.tables_missing();
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let mut table = Table::own(frames, self.mmu, found.level, found.table).ok_or(foreign)?;
        for level in (1..=found.level).rev() {
            let next = spare.pop(frames).ok_or(TableError::NeedsTables(needed))?;
            // Spare tables are this library's, and reachable; one that is not is given back before anything is linked.
            let below = Table::own(frames, self.mmu, level - 1, next);
            match (below, self.mmu.encode_table(level, next)) {
                (Some(below), Ok(word)) => {
                    table.store(self.index_at(level, address), word);
                    table.change_live(1);
                    table = below;
                }
                (_, encoded) => {
                    let _ = spare.push(frames, next);
                    return Err(encoded.err().map_or(foreign, TableError::Encode));
                }
            }
        }
        match old {
            None => {
                table.change_live(1);
                table.store(self.index_at(0, address), word);
                Ok(None)
            }
            Some(old) => {
                let same = stays_same(&old);
                if !(same && leaf.access.contains(old.access)) {
                    gather.scope.add(self.tag, page, old.global);
                }
                let mut previous = old;
                if same || !M::FORMAT.break_before_make {
                    previous = self.replace(&table, 0, self.index_at(0, address), old, word);
                } else {
                    self.rewrite(
                        frames,
                        Slot { table, level: 0, index: self.index_at(0, address), pages: page },
                        true,
                        |leaf| {
                            previous = leaf;
                            Ok(word)
                        },
                    )?;
                }
                Ok(Some(previous))
            }
        }
    }
}
