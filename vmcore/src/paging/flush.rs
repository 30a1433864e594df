//! What has to be forgotten by TLBs: ranges of tagged spaces, coalesced, overflowing to whole spaces.
//!
//! Needs no room of its own: a few ranges are kept inline, those that touch as one. Beyond them a space's ranges become the whole space:
//! that of the new range, or another that has several; and beyond those, everything.
//!
//! # How a CPU forgets
//!
//! What is named is what the CPU *remembers* under a tag, whether that tag's root is loaded at the moment or not: a space that was left
//! may be entered again without a flush.
//!
//! | | x86-64 | Arm | RISC-V |
//! |---|---|---|---|
//! | a range of the tag that is loaded | INVLPG, or INVPCID type 0 | TLBI VAE1 | SFENCE.VMA address, tag |
//! | a range of another tag | INVPCID type 0 | TLBI VAE1 | SFENCE.VMA address, tag |
//! | a whole tag | INVPCID type 1 | TLBI ASIDE1 | SFENCE.VMA x0, tag |
//! | with [`globals`](FlushScope::globals), a range | INVLPG | TLBI VAAE1 | SFENCE.VMA address, x0 |
//! | with [`tables`](FlushScope::tables), a range | the same as without | VAE1, not VALE1 | SFENCE.VMA x0, tag |
//! | with [`shared_tables`](FlushScope::shared_tables) | INVPCID type 2, or a change of CR4.PGE | TLBI VAAE1 | SFENCE.VMA x0, x0 |
//! | with `globals`, a whole tag; everything | INVPCID type 2, or a change of CR4.PGE | TLBI VMALLE1 | SFENCE.VMA x0, x0 |
//!
//! (Intel SDM volume 3A, 5.10.4.1; RISC-V Privileged Architecture, "Supervisor Memory-Management Fence Instruction": with an address it concerns
//! leaf entries alone; Arm's manual as cited with its formats.) INVLPG drops the cached pointers to tables of the PCID
//! in CR3 and of no other. Without INVPCID, whatever concerns another PCID takes a change of CR4.PGE, which drops those of all. Where the
//! hardware does not use global entries (CR4.PGE clear), `globals` concerns every tag as well. Forgetting more is always right.

use crate::addr::PageRange;

/// The tag by which TLB entries of an address space are told from others' (PCID, ASID, VMID, VPID). Tag 0 is for all that have none of their
/// own: each load of a root under it forgets what was remembered under it.
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

    /// Whether tables were unlinked that every space reaches: a CPU may remember the way to them under any tag, since upper-level
    /// entries are never global.
    pub const fn shared_tables(&self) -> bool {
        self.tables && self.globals
    }

    /// The same scope for who finds it cheaper to forget a whole space than more than `most` of its pages of 2^`page_shift` bytes: each space whose
    /// ranges hold more is named whole.
    pub fn widened(&self, most: u64, page_shift: u32) -> Self {
        let mut widened = *self;
        for entry in self.entries() {
            let of_tag = self.entries().filter(|other| other.tag == entry.tag).filter_map(|other| other.range);
            let pages = of_tag.fold(0_u64, |pages, range| pages.saturating_add(range.pages(page_shift)));
            if pages > most {
                widened.add_space(entry.tag);
            }
        }
        widened
    }

    /// What is to be forgotten, where it is not [everything](Self::is_everything).
    pub fn entries(&self) -> impl Iterator<Item = FlushEntry> + '_ {
        self.entries.iter().flatten().copied()
    }

    /// Adds pages of a space; `global` if any entry among them was.
    #[inline]
    pub fn add(&mut self, tag: Tag, range: PageRange, global: bool) {
        self.globals |= global;
        match &mut self.entries {
            // Most often this is the first, or page after page is changed from below upwards.
            [first @ None, None, None, None] if !self.everything => {
                *first = Some(FlushEntry { tag, range: Some(range) });
                return;
            }
            [Some(FlushEntry { tag: known, range: Some(joined) }), None, None, None]
                if *known == tag && joined.last().checked_add(1) == Some(range.start()) =>
            {
                *joined = PageRange::from_bounds(joined.start(), range.last());
                return;
            }
            // Or what was changed lingers as well.
            [Some(FlushEntry { tag: known, range: Some(known_range) }), None, None, None]
                if *known == tag && known_range.covers(range) =>
            {
                return;
            }
            _ => {}
        }
        self.add_entry(FlushEntry { tag, range: Some(range) });
    }

    /// Adds the whole of a space.
    pub fn add_space(&mut self, tag: Tag) {
        self.add_entry(FlushEntry { tag, range: None });
    }

    /// Notes that nothing of it was global, whatever was added.
    pub(crate) fn clear_globals(&mut self) {
        self.globals &= self.everything;
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
        if self.is_empty() && !self.globals {
            *self = *other;
            return;
        }
        if other.everything {
            self.set_everything();
        }
        self.globals |= other.globals;
        self.tables |= other.tables;
        for entry in other.entries() {
            match entry.range {
                Some(range) => self.add(entry.tag, range, false),
                None => self.add_entry(entry),
            }
        }
    }

    /// Adds an entry. What stands there of one tag never touches, and is the whole space or ranges.
    #[inline(never)]
    fn add_entry(&mut self, mut new: FlushEntry) {
        if self.everything {
            return;
        }
        for slot in &mut self.entries {
            let Some(entry) = slot.filter(|entry| entry.tag == new.tag) else { continue };
            match (entry.range, new.range) {
                (None, _) => return,
                (Some(_), None) => *slot = None,
                (Some(old), Some(range)) => {
                    // What it did not touch, and what that did not touch, the two together do not touch.
                    if let Some(joined) = join(old, range) {
                        (new.range, *slot) = (Some(joined), None);
                    }
                }
            }
        }
        if let Some(slot) = self.entries.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(new);
            return;
        }
        let tags = || self.entries().map(|entry| entry.tag);
        let has_several = |tag: &Tag| tags().filter(|other| other == tag).nth(1).is_some();
        let crowded = tags().find(|tag| *tag == new.tag).or_else(|| tags().find(has_several));
        match crowded {
            Some(tag) => {
                self.add_space(tag);
                self.add_entry(new);
            }
            None => self.set_everything(),
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
    /// The CPUs that are to forget: those that may use it otherwise. Others may remember it under a tag that they have not loaded,
    /// and are told to forget when they load it.
    pub cpus: C,
    /// What is to be forgotten.
    pub scope: FlushScope,
}

#[cfg(test)]
mod tests {
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::vec::Vec;

    use proptest::prelude::*;

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
    fn a_range_between_two_makes_one_of_three() {
        let mut scope = FlushScope::new();
        for first in [1, 6, 20, 3] {
            scope.add(Tag(1), pages(first, 2), false);
        }
        scope.add(Tag(1), pages(5, 1), false);
        let mut ranges: Vec<_> = scope.entries().filter_map(|entry| entry.range).collect();
        ranges.sort_by_key(|range| range.start());
        assert_eq!(ranges, [pages(1, 7), pages(20, 2)]);
    }

    #[test]
    fn a_space_of_many_ranges_makes_room_for_another() {
        let mut scope = FlushScope::new();
        scope.add(Tag(1), pages(1, 1), false);
        for index in 0..3 {
            scope.add(Tag(2), pages(100 + 10 * index, 1), false);
        }
        scope.add(Tag(3), pages(9, 1), false);
        let entry = |tag, range| FlushEntry { tag: Tag(tag), range };
        let mut entries: Vec<_> = scope.entries().collect();
        entries.sort_by_key(|entry| entry.tag.0);
        assert_eq!(entries, [entry(1, Some(pages(1, 1))), entry(2, None), entry(3, Some(pages(9, 1)))]);
    }

    #[test]
    fn more_pages_than_the_threshold_are_the_space() {
        let mut scope = FlushScope::new();
        scope.add(Tag(1), pages(1, 20), true);
        scope.add(Tag(1), pages(100, 13), false);
        scope.add(Tag(2), pages(1, 32), false);
        scope.note_tables();
        let widened = scope.widened(32, 12);
        let entry = |tag, range| FlushEntry { tag: Tag(tag), range };
        let mut entries: Vec<_> = widened.entries().collect();
        entries.sort_by_key(|entry| entry.tag.0);
        assert_eq!(entries, [entry(1, None), entry(2, Some(pages(1, 32)))]);
        assert!(widened.shared_tables() && !widened.is_everything());
        assert_eq!(scope.widened(33, 12).entries().count(), 3);
        assert_eq!(scope.widened(0, 12).entries().filter(|entry| entry.range.is_none()).count(), 2);
    }

    proptest! {
        /// Against sets of pages: nothing that was added is ever missing, what is kept never touches, and nothing is widened while
        /// there is room for all.
        #[test]
        fn scopes_hold_what_was_added(added in prop::collection::vec((1..5_u16, 0..40_u64, 1..6_u64), 1..24)) {
            let mut scope = FlushScope::new();
            let mut model = BTreeMap::<u16, BTreeSet<u64>>::new();
            let mut crowded = false;
            for (tag, first, count) in added {
                scope.add(Tag(tag), pages(first, count), false);
                model.entry(tag).or_default().extend(first..first + count);
                let runs: usize = model.values().map(|set| set.iter().filter(|page| !set.contains(&(**page + 1))).count()).sum();
                crowded |= runs > INLINE;
                let mut held = BTreeMap::<u16, BTreeSet<u64>>::new();
                for entry in scope.entries() {
                    let range = entry.range.unwrap_or(pages(0, 0x100));
                    let first = range.start().as_u64() >> 12;
                    let set = held.entry(entry.tag.0).or_default();
                    let (before, after) = (first.wrapping_sub(1), first + range.pages(12));
                    prop_assert!(!set.contains(&before) && !set.contains(&after), "two that touch: {:?}", scope);
                    for page in first..after {
                        prop_assert!(set.insert(page), "two that overlap: {:?}", scope);
                    }
                }
                if crowded {
                    let holds = |tag: &u16, set: &BTreeSet<u64>| held.get(tag).is_some_and(|held| set.is_subset(held));
                    prop_assert!(scope.is_everything() || model.iter().all(|(tag, set)| holds(tag, set)));
                } else {
                    prop_assert_eq!(&held, &model);
                }
            }
        }
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
