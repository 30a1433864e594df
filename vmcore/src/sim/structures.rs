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

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::references::References;
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

/// The pointers of a tag that entries of one level lead to.
struct Level {
    tag: u16,
    /// The lowest bit of those entries' index.
    shift: u32,
    /// The address bits that select each entry, from that bit on; in order, as the pointers are.
    prefixes: Vec<u64>,
    pointers: Vec<Pointer>,
    /// The place that was found last.
    last: usize,
}

impl Level {
    /// Where a prefix is, or would be.
    fn find(&mut self, prefix: u64) -> Result<usize, usize> {
        if self.prefixes.get(self.last) == Some(&prefix) {
            return Ok(self.last);
        }
        let found = self.prefixes.binary_search(&prefix);
        if let Ok(place) = found {
            self.last = place;
        }
        found
    }

    /// Forgets what covers any address from `first` to `last`.
    fn forget(&mut self, first: u64, last: u64, references: &References) {
        let (first, last) = (first >> self.shift, last >> self.shift);
        let (low, high) = match self.find(first) {
            Ok(low) if first == last => (low, low + 1),
            Err(_) if first == last => return,
            Ok(low) | Err(low) => (low, self.prefixes.partition_point(|prefix| *prefix <= last)),
        };
        if low + 1 == high {
            // Nearly always; and often the last.
            let pointer = if high == self.prefixes.len() {
                self.prefixes.pop();
                self.pointers.pop()
            } else {
                self.prefixes.remove(low);
                Some(self.pointers.remove(low))
            };
            if let Some(pointer) = pointer {
                references.remove(pointer.table);
            }
            return;
        }
        self.prefixes.drain(low..high);
        for pointer in self.pointers.drain(low..high) {
            references.remove(pointer.table);
        }
    }
}

pub(super) struct StructureCache {
    /// Sorted by tag and shift. There are few, and few pointers in each but the lowest.
    levels: Vec<Level>,
    references: Arc<References>,
}

impl StructureCache {
    pub(super) const fn new(references: Arc<References>) -> Self {
        Self { levels: Vec::new(), references }
    }

    /// The pointer closest to the leaf for `address`: the entry's shift and itself.
    pub(super) fn lookup(&mut self, tag: u16, address: u64) -> Option<(u32, Pointer)> {
        // The lowest tables have the smallest shift.
        self.levels.iter_mut().filter(|level| level.tag == tag).find_map(|level| {
            let place = level.find(address >> level.shift).ok()?;
            Some((level.shift, level.pointers[place]))
        })
    }

    /// Remembers a pointer. True if it is new.
    pub(super) fn insert(&mut self, tag: u16, shift: u32, address: u64, pointer: Pointer) -> bool {
        let place = self.levels.iter().position(|level| (level.tag, level.shift) >= (tag, shift));
        let place = place.unwrap_or(self.levels.len());
        if self.levels.get(place).is_none_or(|level| (level.tag, level.shift) != (tag, shift)) {
            self.levels.insert(place, Level { tag, shift, prefixes: Vec::new(), pointers: Vec::new(), last: 0 });
        }
        let level = &mut self.levels[place];
        let prefix = address >> shift;
        self.references.add(pointer.table);
        match level.find(prefix) {
            Ok(at) => {
                let old = core::mem::replace(&mut level.pointers[at], pointer);
                self.references.remove(old.table);
                false
            }
            Err(at) => {
                level.prefixes.insert(at, prefix);
                level.pointers.insert(at, pointer);
                level.last = at;
                true
            }
        }
    }

    /// Forgets what covers any address from `first` to `last`; of every tag where `tag` is `None`.
    pub(super) fn forget(&mut self, tag: Option<u16>, first: u64, last: u64) {
        let Self { levels, references } = self;
        let concerned = levels.iter_mut().filter(|level| tag.is_none_or(|tag| tag == level.tag));
        concerned.for_each(|level| level.forget(first, last, references));
    }

    /// Forgets every pointer of a tag.
    pub(super) fn forget_tag(&mut self, tag: u16) {
        self.forget(Some(tag), 0, u64::MAX);
        self.levels.retain(|level| level.tag != tag);
    }

    pub(super) fn clear(&mut self) {
        self.forget(None, 0, u64::MAX);
        self.levels.clear();
    }

    /// Every pointer: the tag, the entry's shift, the first address that it translates, and itself.
    pub(super) fn pointers(&self) -> impl Iterator<Item = (u16, u32, u64, Pointer)> + '_ {
        self.levels.iter().flat_map(|level| {
            let pointers = level.prefixes.iter().zip(&level.pointers);
            pointers.map(|(prefix, pointer)| (level.tag, level.shift, prefix << level.shift, *pointer))
        })
    }
}
