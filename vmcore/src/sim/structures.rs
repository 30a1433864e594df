//! The paging-structure caches: what a CPU remembers of the entries that lead to tables (SDM, "Paging-Structure
//! Caches"; the other architectures' manuals permit as much).
//!
//! ```text
//!   (tag, 39, address bits 63..39) -> table of shift 30        the lowest one that is known
//!   (tag, 30, address bits 63..30) -> table of shift 21        is where a walk begins:
//!   (tag, 21, address bits 63..21) -> table of shift 12        those above are not read again
//! ```
//!
//! A table that was unlinked while its pointer is still here goes on being walked.

use alloc::collections::BTreeMap;

use super::regime::Rights;

/// A remembered pointer to a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer {
    /// The table's frame.
    pub(super) table: u64,
    /// What the entries from the root to here let through.
    pub(super) rights: Rights,
    /// The root that the walk began at.
    pub(super) root: u64,
    /// The tick of the memory's clock at the walk.
    pub(super) filled_at: u64,
}

/// The tag, the shift of the entry, and the address bits that selected it.
type Key = (u16, u32, u64);

#[derive(Default)]
pub(super) struct StructureCache {
    pointers: BTreeMap<Key, Pointer>,
    /// How many pointers lead to each table that some lead to.
    tables: BTreeMap<u64, u32>,
}

/// The first address that an entry translates, and the last.
fn covered((_, shift, prefix): Key) -> (u64, u64) {
    let first = prefix << shift;
    (first, first + ((1 << shift) - 1))
}

fn uncount(tables: &mut BTreeMap<u64, u32>, table: u64) {
    if let Some(count) = tables.get_mut(&table) {
        *count -= 1;
        if *count == 0 {
            tables.remove(&table);
        }
    }
}

impl StructureCache {
    /// The pointer closest to the leaf for `address`: the entry's shift and itself.
    pub(super) fn lookup(&self, tag: u16, address: u64) -> Option<(u32, Pointer)> {
        // The lowest tables have the smallest shift, and the keys of a tag are in that order.
        let mut from = 0;
        while let Some(((_, shift, _), _)) = self.pointers.range((tag, from, 0)..=(tag, u32::MAX, u64::MAX)).next() {
            if let Some(pointer) = self.pointers.get(&(tag, *shift, address >> shift)) {
                return Some((*shift, *pointer));
            }
            from = shift + 1;
        }
        None
    }

    /// Remembers a pointer. True if it is new.
    pub(super) fn insert(&mut self, tag: u16, shift: u32, address: u64, pointer: Pointer) -> bool {
        let old = self.pointers.insert((tag, shift, address >> shift), pointer);
        *self.tables.entry(pointer.table).or_default() += 1;
        if let Some(old) = &old {
            uncount(&mut self.tables, old.table);
        }
        old.is_none()
    }

    /// Forgets what covers any address from `first` to `last`; of every tag where `tag` is `None`.
    pub(super) fn forget(&mut self, tag: Option<u16>, first: u64, last: u64) {
        self.keep(|key| {
            let (from, to) = covered(*key);
            tag.is_some_and(|tag| tag != key.0) || to < first || last < from
        });
    }

    /// Forgets every pointer of a tag.
    pub(super) fn forget_tag(&mut self, tag: u16) {
        self.keep(|key| key.0 != tag);
    }

    pub(super) fn clear(&mut self) {
        self.pointers.clear();
        self.tables.clear();
    }

    fn keep(&mut self, keep: impl Fn(&Key) -> bool) {
        let tables = &mut self.tables;
        self.pointers.retain(|key, pointer| {
            let keeps = keep(key);
            if !keeps {
                uncount(tables, pointer.table);
            }
            keeps
        });
    }

    /// Whether a pointer leads to one of the frames.
    pub(super) fn lead_to(&self, first: u64, count: u64) -> bool {
        self.tables.range(first..first.saturating_add(count)).next().is_some()
    }

    /// Every pointer: the tag, the entry's shift, the first address that it translates, and itself.
    pub(super) fn pointers(&self) -> impl Iterator<Item = (u16, u32, u64, Pointer)> + '_ {
        self.pointers.iter().map(|(key, pointer)| (key.0, key.1, covered(*key).0, *pointer))
    }
}
