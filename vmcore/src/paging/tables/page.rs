//! One page: finding where it is mapped, and setting it. The way of every fault, so there is one walk for all of it.
//!
//! ```text
//!   find(address):  root ──► table ──► table ──► leaf        mapped
//!                                        └─────► nothing     absent; as many tables are missing as levels are left
//!   set_found(place, leaf):             from here on down
//! ```

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Access, Entry, Leaf, Mmu, TableError, Tables};

use super::Gather;
use super::live::Slot;
use super::table::Table;

/// Where a walk for one address ended. It holds as long as the tables are not changed.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a, M: Mmu> {
    pub(super) address: VirtAddr,
    pub(super) level: usize,
    /// The table where it ended.
    pub(super) table: Table<'a, M>,
    /// The entry there.
    pub(super) word: u64,
    /// The bits that are set in all entries above that limit what lies below, and in any.
    pub(super) above: (u64, u64),
    /// Whether a table on the way leads to itself: a self-map, through which nothing is changed.
    pub(super) loops: bool,
}

impl<M: Mmu> Found<'_, M> {
    /// The level of the table where the walk ended.
    #[inline]
    pub(crate) fn level(&self) -> usize {
        self.level
    }

    /// The address that was looked for.
    #[inline]
    pub(crate) const fn address(&self) -> VirtAddr {
        self.address
    }
}

/// Does this for each level in use but the lowest, from the root's down. Written out, so that in each step the level is a constant, and with it all that the
/// format says of it.
macro_rules! each_level_down {
    ($tables:ident, $level:ident, $step:block) => {
        each_level_down!($tables, $level, $step, 5 4 3 2 1)
    };
    ($tables:ident, $level:ident, $step:block, $($number:literal)*) => {
        let levels = $tables.mmu.levels();
        // No more levels than these: a cursor could not stand in them either.
        if levels > 1 + [$($number),*].len() {
            return None;
        }
        $(
            if $number < const { M::FORMAT.levels.len() } && $number < levels {
                let $level: usize = $number;
                $step
            }
        )*
    };
}

impl<M: Mmu> Tables<M> {
    /// Walks to the end of what is mapped for `address`. `None` for an address that the format does not have, or a table that
    /// cannot be reached.
    #[inline]
    pub(crate) fn find<'a, F: Frames>(&self, frames: &'a F, address: VirtAddr) -> Option<Found<'a, M>> {
        if self.mmu.is_canonical(address) { self.find_canonical(frames, address) } else { None }
    }

    #[inline]
    fn find_canonical<'a, F: Frames>(&self, frames: &'a F, address: VirtAddr) -> Option<Found<'a, M>> {
        let (mut above, mut loops) = ((u64::MAX, 0), false);
        let mut frame = self.root;
        each_level_down!(self, level, {
            let table = Table::reach(frames, self.mmu, level, frame)?;
            let word = table.load(self.index_at(level, address));
            match self.mmu.decode_table(level, word) {
                Some(next) => {
                    above = self.add_above(level, above, word);
                    loops |= next == frame;
                    frame = next;
                }
                None => return Some(Found { address, level, table, word, above, loops }),
            }
        });
        // No entry of the lowest level leads to a table.
        let table = Table::reach(frames, self.mmu, 0, frame)?;
        let word = table.load(self.index_at(0, address));
        Some(Found { address, level: 0, table, word, above, loops })
    }

    /// Joins a table's entry to those [above](Found::above).
    #[inline(always)]
    fn add_above(&self, level: usize, above: (u64, u64), word: u64) -> (u64, u64) {
        if M::FORMAT.levels.get(level).is_some_and(|at| at.table_limits) {
            (above.0 & word, above.1 | word)
        } else {
            above
        }
    }

    /// The table of the lowest level for `address`, and the entries [above](Found::above). `None` where there is none, for whatever reason:
    /// [`find`](Self::find) knows. Where `CHANGING`, a self-map is no way to it.
    #[inline(always)]
    pub(super) fn leaf_table<'a, F: Frames, const CHANGING: bool>(
        &self,
        frames: &'a F,
        address: VirtAddr,
    ) -> Option<(Table<'a, M>, (u64, u64))> {
        if !self.mmu.is_canonical(address) {
            return None;
        }
        let mut above = (u64::MAX, 0);
        let mut frame = self.root;
        each_level_down!(self, level, {
            let table = Table::reach(frames, self.mmu, level, frame)?;
            let word = table.load(self.index_at(level, address));
            let next = self.mmu.decode_table(level, word)?;
            // Only a root leads to itself: no other table does in trees that are this library's.
            if CHANGING && level + 1 == self.mmu.levels() && next == frame {
                return None;
            }
            above = self.add_above(level, above, word);
            frame = next;
        });
        Some((Table::reach(frames, self.mmu, 0, frame)?, above))
    }

    /// Whether a walk ended in the leaf table of a whole range, on a way through which it may be changed.
    #[inline]
    pub(super) fn leads_to_all(&self, found: &Found<'_, M>, range: PageRange) -> bool {
        let at = found.address.as_u64();
        let apart = (at ^ range.start().as_u64()) | (at ^ range.last().as_u64());
        found.level == 0 && !found.loops && apart >> (self.mmu.page_shift() + self.mmu.index_bits(0)) == 0
    }

    /// The parts of a range that lie in one leaf table each, whether it is there or not.
    pub(crate) fn leaf_table_parts(&self, range: PageRange) -> impl Iterator<Item = PageRange> + use<M> {
        let shift = self.mmu.page_shift() + self.mmu.index_bits(0);
        let mut next = Some(range.start());
        core::iter::from_fn(move || {
            let start = next.filter(|start| range.contains(*start))?;
            let table = PageRange::from_checked(start.align_down(shift), 1 << shift);
            next = table.last().checked_add(1);
            table.intersection(range)
        })
    }

    /// How many tables are missing to map the page that was looked for.
    #[inline]
    pub(crate) fn tables_missing(&self, found: &Found<'_, M>) -> u64 {
        if self.mmu.is_present(found.word) { 0 } else { found.level as u64 }
    }

    /// The leaf that was found, as it stands in the table.
    #[inline]
    pub(super) fn found_leaf_alone(&self, found: &Found<'_, M>) -> Option<Leaf> {
        // Mostly nothing is there, which takes less to be seen than what kind of leaf it would be.
        if !self.mmu.is_present(found.word) {
            return None;
        }
        let leaf = self.mmu.decode_leaf_at(found.level, self.index_at(found.level, found.address), found.word)?;
        Some(self.with_group_marks(&found.table, found.level, found.address, leaf))
    }

    /// What is left of an access by the entries [above](Found::above).
    #[inline(always)]
    fn limited(access: Access, above: (u64, u64)) -> Access {
        match &M::FORMAT.table {
            Some(permissions) => access & permissions.limits(permissions.strictest(above.0, above.1)),
            None => access,
        }
    }

    /// The leaf that was found, with the access that is allowed over all levels.
    #[inline]
    pub(crate) fn found_leaf(&self, found: &Found<'_, M>) -> Option<Leaf> {
        let leaf = self.found_leaf_alone(found)?;
        Some(leaf.access(Self::limited(leaf.access, found.above)))
    }

    /// Whether the leaf that was found, if it is one, allows an access over all levels.
    #[inline]
    pub(super) fn found_may_allow(&self, found: &Found<'_, M>, access: Access) -> bool {
        Self::limited(self.mmu.leaf_access(found.word), found.above).contains(access)
    }

    /// Whether a table entry on the way forbids writing, whatever the leaf says.
    #[inline]
    pub(crate) fn writes_are_forbidden_above(&self, found: &Found<'_, M>) -> bool {
        !Self::limited(Access::WRITE, found.above).contains(Access::WRITE)
    }

    /// The addresses of the entry where the walk ended.
    pub(crate) fn span_of_found(&self, found: &Found<'_, M>) -> PageRange {
        let shift = self.mmu.level(found.level).map_or(self.mmu.page_shift(), |at| at.shift);
        PageRange::from_checked(found.address.align_down(shift), 1 << shift)
    }

    /// The leaf that translates `address`, with the access that is allowed over all levels, and the pages that it maps;
    /// `None` where nothing is mapped. Costs one read per level.
    #[inline(always)]
    pub fn translate<F: Frames>(&self, frames: &F, address: VirtAddr) -> Option<(PageRange, Leaf)> {
        let Some((table, above)) = self.leaf_table::<F, false>(frames, address) else {
            return self.translate_larger(frames, address);
        };
        let index = self.index_at(0, address);
        let leaf = self.mmu.decode_leaf_at(0, index, table.load(index))?;
        let leaf = self.with_group_marks(&table, 0, address, leaf);
        let shift = self.mmu.page_shift();
        let page = PageRange::from_checked(address.align_down(shift), 1 << shift);
        Some((page, leaf.access(Self::limited(leaf.access, above))))
    }

    /// As [`translate`](Self::translate), for a larger leaf, or nothing. It walks again: so the usual way keeps nothing for this one.
    #[cold]
    #[inline(never)]
    fn translate_larger<F: Frames>(&self, frames: &F, address: VirtAddr) -> Option<(PageRange, Leaf)> {
        let found = self.find(frames, address)?;
        let leaf = self.found_leaf(&found)?;
        let shift = self.mmu.level(found.level)?.shift;
        Some((PageRange::from_checked(address.align_down(shift), 1 << shift), leaf))
    }

    /// The page at `address`.
    fn page_at(&self, address: VirtAddr) -> Result<PageRange, TableError> {
        let shift = self.mmu.page_shift();
        if address.is_aligned(shift) && self.mmu.is_canonical(address) {
            return Ok(PageRange::from_checked(address, 1 << shift));
        }
        self.mmu.range(address.as_u64(), 1 << shift).map_err(TableError::Address)
    }

    /// Maps the single base page at `address` to `leaf`, or changes what is mapped there; gives the base-page leaf that was
    /// there. Notes in `gather` what must be forgotten: nothing where nothing was mapped, or where the change only adds
    /// permission to the same frame (a CPU that still has the old translation faults and finds the new one) and takes no mark back that is
    /// [relied on](super::DirtyBits::Relied).
    ///
    /// # Errors
    /// Nothing was changed: a larger leaf maps the address ([`TableError::Conflict`]), the address is no page's, the format cannot represent the leaf, too
    /// few spare tables, or tables that are not this library's.
    #[inline(always)]
    pub fn set_page<F: Frames>(
        &mut self,
        frames: &F,
        address: VirtAddr,
        leaf: Leaf,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        // The usual way: the table is there, and nothing in it. All else has its reasons found out elsewhere.
        if address.is_aligned(self.mmu.page_shift()) {
            if let Some((table, _)) = self.leaf_table::<F, true>(frames, address) {
                let index = self.index_at(0, address);
                if !self.mmu.is_present(table.load(index)) {
                    if let (Ok(word), Some(table)) = (self.mmu.encode_leaf(0, leaf), table.owned(frames)) {
                        table.change_live(1);
                        table.store(index, word);
                        return Ok(None);
                    }
                }
            }
        }
        self.set_page_slowly(frames, address, leaf, spare, gather)
    }

    /// As [`set_page`](Self::set_page), in all cases.
    #[inline(never)]
    fn set_page_slowly<F: Frames>(
        &mut self,
        frames: &F,
        address: VirtAddr,
        leaf: Leaf,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        let page = self.page_at(address)?;
        let found = self.find_canonical(frames, address).ok_or(TableError::Foreign(address))?;
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
        found: &Found<'_, M>,
        page: PageRange,
        leaf: Leaf,
        spare: &mut FrameList,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        let word = self.mmu.encode_leaf(0, leaf)?;
        if found.loops {
            return Err(TableError::Foreign(page.start()));
        }
        if self.mmu.is_present(found.word) {
            self.replace_found(frames, found, page, (leaf, word), gather)
        } else {
            self.set_below(frames, found, page, word, spare).map(|()| None)
        }
    }

    /// Maps a page for which tables are missing.
    fn set_below<F: Frames>(
        &mut self,
        frames: &F,
        found: &Found<'_, M>,
        page: PageRange,
        word: u64,
        spare: &mut FrameList,
    ) -> Result<(), TableError> {
        let address = page.start();
        let foreign = TableError::Foreign(address);
        let needed = self.tables_missing(found);
        if spare.len() < needed {
            return Err(TableError::NeedsTables(needed));
        }
        let mut table = Table::own(frames, self.mmu, found.level, found.table.frame()).ok_or(foreign)?;
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
        table.change_live(1);
        table.store(self.index_at(0, address), word);
        Ok(())
    }

    /// Changes the leaf of a page that is mapped.
    fn replace_found<F: Frames>(
        &mut self,
        frames: &F,
        found: &Found<'_, M>,
        page: PageRange,
        (leaf, word): (Leaf, u64),
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        let foreign = TableError::Foreign(page.start());
        let old = self.found_leaf_alone(found).ok_or(foreign)?;
        if found.level > 0 {
            return Err(TableError::Conflict(page.start()));
        }
        let same = old.frame == leaf.frame && old.memory == leaf.memory && old.global == leaf.global;
        if !same {
            self.check_replaceable::<F>(page)?;
        }
        let table = found.table.owned(frames).ok_or(foreign)?;
        if let Some(group) = self.group_in(&table, 0, page.start()) {
            if self.mark_group(&group, old, leaf)? {
                return Ok(Some(old));
            }
            self.check_replaceable::<F>(group.pages)?;
            self.dissolve(frames, &group, gather)?;
        }
        // A CPU that remembers the leaf as written, even if only since it was read here, does not mark the new one.
        let stays_marked = !self.relies_on_dirty() || leaf.dirty || !old.access.contains(Access::WRITE);
        if !(same && stays_marked && leaf.access.contains(old.access)) {
            gather.scope.add(self.tag, page, old.global);
        }
        let index = self.index_at(0, page.start());
        if same || !M::FORMAT.break_before_make {
            return Ok(Some(self.replace(&table, 0, index, old, word)));
        }
        let mut previous = old;
        self.rewrite(frames, Slot { table, level: 0, index, pages: page }, true, |leaf| {
            previous = leaf;
            Ok(word)
        })?;
        Ok(Some(previous))
    }

    /// Unmaps the single base page at `address` and gives its leaf; `None` where nothing was mapped. Tables that become empty are unlinked into
    /// `gather`, and what was removed is noted there to be flushed. Costs one read per level, and takes no tables.
    ///
    /// # Errors
    /// Nothing was changed: a larger leaf maps the address ([`TableError::Conflict`]; [`unmap`](Self::unmap) splits it), the address is no page's, tables that
    /// are not this library's, or a group that cannot be made single here ([`TableError::NeedsInvalidation`]).
    #[inline(always)]
    pub fn unmap_page<F: Frames>(
        &mut self,
        frames: &F,
        address: VirtAddr,
        gather: &mut Gather,
    ) -> Result<Option<Leaf>, TableError> {
        // The usual way; all else has its reasons found out elsewhere.
        if address.is_aligned(self.mmu.page_shift()) {
            if let Some(leaf) = self.take_page(frames, address, gather) {
                return Ok(Some(leaf));
            }
            if let Some(leaf) = self.take_member(frames, address, gather)? {
                return Ok(Some(leaf));
            }
        }
        self.why_not_taken(frames, address).map_or(Ok(None), Err)
    }

    /// Unmaps the page at `address`, if it is a page's leaf and not one of a group, in a table that is this library's. The address is a page's.
    #[inline(always)]
    pub(super) fn take_page<F: Frames>(&mut self, frames: &F, address: VirtAddr, gather: &mut Gather) -> Option<Leaf> {
        let (table, _) = self.leaf_table::<F, true>(frames, address)?;
        if self.group_in(&table, 0, address).is_some() {
            return None;
        }
        let index = self.index_at(0, address);
        let leaf = self.mmu.decode_leaf_at(0, index, table.load(index))?;
        let table = table.owned(frames)?;
        let leaf = self.replace(&table, 0, index, leaf, 0);
        gather.scope.add(self.tag, PageRange::from_checked(address, 1 << self.mmu.page_shift()), leaf.global);
        if table.change_live(-1) == 0 {
            self.unlink_empty(frames, address, gather);
        }
        Some(leaf)
    }

    /// Whether nothing is mapped at a page's address, and the table that says so is this library's. An empty one is unlinked into `gather`.
    #[inline]
    pub(super) fn is_absent<F: Frames>(&self, frames: &F, address: VirtAddr, gather: &mut Gather) -> bool {
        let Some(found) = self.find(frames, address) else { return false };
        let Some(table) = found.table.owned(frames) else { return false };
        if found.loops || self.mmu.is_present(found.word) {
            return false;
        }
        if table.live() == 0 {
            self.note_way(gather, address);
            self.unlink_empty(frames, address, gather);
        }
        true
    }

    /// Why there is no page's leaf at `address`; `None` if nothing is there.
    #[cold]
    #[inline(never)]
    fn why_not_taken<F: Frames>(&self, frames: &F, address: VirtAddr) -> Option<TableError> {
        if let Err(error) = self.page_at(address) {
            return Some(error);
        }
        match self.find(frames, address) {
            Some(found) if !found.loops && !self.mmu.is_present(found.word) => None,
            Some(found) if !found.loops && found.level > 0 && self.found_leaf_alone(&found).is_some() => {
                Some(TableError::Conflict(address))
            }
            _ => Some(TableError::Foreign(address)),
        }
    }

    /// Unlinks the tables on the way to `address` that are empty, from the lowest upwards.
    #[inline(never)]
    pub(super) fn unlink_empty<F: Frames>(&self, frames: &F, address: VirtAddr, gather: &mut Gather) {
        let page = PageRange::from_checked(address, 1 << self.mmu.page_shift());
        let Ok(mut cursor) = self.cursor(frames, page) else { return };
        while let Entry::Table(frame, _) = cursor.entry() {
            if cursor.enter(frame).is_err() {
                break;
            }
        }
        while let Some(left) = cursor.leave() {
            if !cursor.unlink_empty(&left, self.tag, gather) {
                return;
            }
        }
    }
}
