//! What has to be forgotten by TLBs: ranges of tagged spaces, coalesced, overflowing to whole spaces.
//!
//! Needs no room of its own: a few ranges are kept inline; beyond them a space's ranges become the whole space, and
//! beyond those, everything.

use crate::addr::PageRange;

/// The tag by which TLB entries of an address space are told from others' (PCID, ASID, VMID).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tag(pub u16);

/// One thing to forget: a range of a space, or all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushEntry {
    /// The space's tag.
    pub tag: Tag,
    /// The pages; `None` for the whole space.
    pub range: Option<PageRange>,
}

const INLINE: usize = 4;

/// What is to be forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlushScope {
    entries: [Option<FlushEntry>; INLINE],
    everything: bool,
    globals: bool,
    tables: bool,
}

impl FlushScope {
    /// Nothing.
    pub const fn new() -> Self {
        Self { entries: [None; INLINE], everything: false, globals: false, tables: false }
    }

    /// Whether nothing has to be forgotten.
    pub fn is_empty(&self) -> bool {
        !self.everything && !self.tables && !self.entries.iter().any(Option::is_some)
    }

    /// Whether every translation of every space is concerned.
    pub const fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether global entries are concerned: those survive a plain flush of a space.
    pub const fn globals(&self) -> bool {
        self.globals
    }

    /// Whether tables were unlinked, or linked where a CPU may remember that there was none: cached upper-level entries are concerned
    /// too, not only leaves. (RISC-V: `sfence.vma` without an address. x86 with PAE: a load of CR3, which alone reads the root's entries.)
    pub const fn tables(&self) -> bool {
        self.tables
    }

    /// What is to be forgotten, where it is not [everything](Self::is_everything).
    pub fn entries(&self) -> impl Iterator<Item = FlushEntry> + '_ {
        self.entries.iter().flatten().copied()
    }

    /// Adds pages of a space; `global` if any entry among them was.
    pub fn add(&mut self, tag: Tag, range: PageRange, global: bool) {
        self.globals |= global;
        self.add_entry(FlushEntry { tag, range: Some(range) });
    }

    /// Adds the whole of a space.
    pub fn add_space(&mut self, tag: Tag) {
        self.add_entry(FlushEntry { tag, range: None });
    }

    /// Notes that tables were unlinked.
    pub fn note_tables(&mut self) {
        self.tables = true;
    }

    /// Everything in every space, global entries included.
    pub fn set_everything(&mut self) {
        *self = Self { entries: [None; INLINE], everything: true, globals: true, tables: true };
    }

    /// Adds all that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        if other.everything {
            self.set_everything();
        }
        self.globals |= other.globals;
        self.tables |= other.tables;
        for entry in other.entries() {
            self.add_entry(entry);
        }
    }

    fn add_entry(&mut self, new: FlushEntry) {
        if self.everything {
            return;
        }
        // Join what touches; a whole space swallows its ranges.
        for slot in self.entries.iter_mut().flatten().filter(|slot| slot.tag == new.tag) {
            match (slot.range, new.range) {
                (None, _) => return,
                (Some(old), Some(range)) => {
                    if let Some(joined) = join(old, range) {
                        slot.range = Some(joined);
                        return;
                    }
                }
                (Some(_), None) => {}
            }
        }
        if new.range.is_none() {
            for slot in &mut self.entries {
                if slot.is_some_and(|entry| entry.tag == new.tag) {
                    *slot = None;
                }
            }
        }
        if let Some(slot) = self.entries.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(new);
        } else if self.entries.iter().flatten().any(|entry| entry.tag == new.tag) {
            self.add_entry(FlushEntry { tag: new.tag, range: None });
        } else {
            self.set_everything();
        }
    }
}

/// The two as one, if they touch or overlap.
fn join(one: PageRange, other: PageRange) -> Option<PageRange> {
    let (low, high) = if one.start() <= other.start() { (one, other) } else { (other, one) };
    let touches = low.contains(high.start()) || low.last().checked_add(1) == Some(high.start());
    let last = if low.last() >= high.last() { low.last() } else { high.last() };
    touches.then(|| PageRange::from_bounds(low.start(), last))
}

/// A flush asked of the platform: who, and what.
#[derive(Clone, Debug)]
pub struct FlushRequest<C> {
    /// The CPUs that may hold what is to be forgotten.
    pub cpus: C,
    /// What is to be forgotten.
    pub scope: FlushScope,
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::addr::VirtAddr;

    fn pages(first: u64, count: u64) -> PageRange {
        PageRange::from_checked(VirtAddr::new(first << 12), count << 12)
    }

    #[test]
    fn neighbours_are_joined_and_overflow_becomes_the_space() {
        let mut scope = FlushScope::new();
        assert!(scope.is_empty());
        scope.add(Tag(1), pages(1, 1), false);
        scope.add(Tag(1), pages(2, 3), false);
        assert_eq!(scope.entries().collect::<Vec<_>>(), [FlushEntry { tag: Tag(1), range: Some(pages(1, 4)) }]);
        for index in 0..4 {
            scope.add(Tag(1), pages(100 + 10 * index, 1), false);
        }
        assert_eq!(scope.entries().collect::<Vec<_>>(), [FlushEntry { tag: Tag(1), range: None }]);
        for tag in 2..6 {
            scope.add(Tag(tag), pages(0, 1), true);
        }
        assert!(scope.is_everything() && scope.globals());
    }

    #[test]
    fn a_range_that_ends_at_the_top_joins_without_overflow() {
        let top = PageRange::from_checked(VirtAddr::new(0xffff_ffff_ffff_f000), 0x1000);
        let mut scope = FlushScope::new();
        scope.add(Tag(0), top, false);
        scope.add(Tag(0), pages(1, 1), false);
        assert_eq!(scope.entries().count(), 2);
    }
}
