//! A TLB that keeps everything it may: every translation that a walk found stays until a flush asks for it to go.
//!
//! ```text
//!   key: (global, or the tag; first page)          entry: how many pages, first frame, rights, type
//!
//!   a 2 MiB leaf:   |<---------------- 512 pages ---------------->|
//!   page 5 flushed: |<-4->| |<---------------- 507 pages -------->|     the rest stays
//! ```
//!
//! A large leaf is one entry, and a flush of a part of it takes away just that part: real TLBs may keep a large leaf
//! whole or in pieces, and this one is as bad as either. Entries of one space never overlap: a new one fills only the
//! gap around the page that missed, and what is there stays, stale or not.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::regime::Rights;
use crate::frame::FrameUse;
use crate::paging::MemoryType;

/// Whose translations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Owner {
    /// Every space's.
    Global,
    /// Those of the space with this tag.
    Tagged(u16),
}

/// A translation that a CPU remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    pub(super) pages: u64,
    /// The frame of the first page.
    pub(super) frame: u64,
    pub(super) rights: Rights,
    pub(super) memory: MemoryType,
    /// Whether the walk saw or set the dirty bit: before that, a write walks again.
    pub(super) dirty: bool,
    /// Whether the hardware sets it; otherwise the write faults.
    pub(super) marks_stores: bool,
    /// How many pages the leaf mapped, of which this may be a part.
    pub(super) leaf_pages: u64,
    /// The root that the walk began at.
    pub(super) root: u64,
    /// The tick of the memory's clock at the walk.
    pub(super) filled_at: u64,
    /// What the frame that missed was recorded as at the walk.
    pub(super) purpose: Option<FrameUse>,
}

impl Cached {
    /// The pages from `offset` on, at most `pages` of them.
    fn part(self, offset: u64, pages: u64) -> Self {
        Self { pages, frame: self.frame + offset, ..self }
    }
}

#[derive(Default)]
pub(super) struct Tlb {
    entries: BTreeMap<(Owner, u64), Cached>,
    /// How many entries of one page lead to each frame that some lead to: most frames that are freed are in none, which is not looked for among all.
    frames: BTreeMap<u64, u32>,
    /// How many entries have several pages.
    large: usize,
}

impl Tlb {
    /// The entry that translates `page` under `tag`: its key and itself.
    pub(super) fn lookup(&self, tag: u16, page: u64) -> Option<(Owner, u64, Cached)> {
        [Owner::Tagged(tag), Owner::Global].into_iter().find_map(|owner| {
            let ((_, first), cached) = self.at_or_below(owner, page)?;
            (page - first < cached.pages).then_some((owner, first, cached))
        })
    }

    fn at_or_below(&self, owner: Owner, page: u64) -> Option<((Owner, u64), Cached)> {
        self.entries.range((owner, 0)..=(owner, page)).next_back().map(|(key, cached)| (*key, *cached))
    }

    /// Remembers a translation for the gap around `page`, which missed.
    pub(super) fn insert(&mut self, owner: Owner, first: u64, cached: Cached, page: u64) {
        let mut from = first;
        let mut end = first + cached.pages;
        if let Some(((_, before), entry)) = self.at_or_below(owner, page) {
            from = from.max(before + entry.pages);
        }
        if let Some(((_, after), _)) = self.entries.range((owner, page)..=(owner, u64::MAX)).next() {
            end = end.min(*after);
        }
        if from <= page && page < end {
            self.put((owner, from), cached.part(from - first, end - from));
        }
    }

    fn put(&mut self, key: (Owner, u64), cached: Cached) {
        if let Some(old) = self.entries.insert(key, cached) {
            self.count(&old, false);
        }
        self.count(&cached, true);
    }

    fn take(&mut self, key: &(Owner, u64)) -> Option<Cached> {
        let old = self.entries.remove(key)?;
        self.count(&old, false);
        Some(old)
    }

    /// Counts an entry that came or went.
    fn count(&mut self, cached: &Cached, came: bool) {
        if cached.pages != 1 {
            self.large = if came { self.large + 1 } else { self.large - 1 };
            return;
        }
        let count = self.frames.entry(cached.frame).or_default();
        *count = if came { *count + 1 } else { *count - 1 };
        if *count == 0 {
            self.frames.remove(&cached.frame);
        }
    }

    /// Whether some entry may lead to one of the frames; if not, none does.
    pub(super) fn may_lead_to(&self, first: u64, count: u64) -> bool {
        self.large != 0 || self.frames.range(first..first.saturating_add(count)).next().is_some()
    }

    /// Forgets the pages from `first` to `last`, and no others.
    pub(super) fn forget(&mut self, owner: Owner, first: u64, last: u64) {
        let start = match self.at_or_below(owner, first) {
            Some(((_, before), entry)) if first - before < entry.pages => before,
            _ => first,
        };
        let keys: Vec<_> = self.entries.range((owner, start)..=(owner, last)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(entry) = self.take(&key) else { continue };
            let (page, end) = (key.1, key.1 + entry.pages);
            if page < first {
                self.put(key, entry.part(0, first - page));
            }
            if end - 1 > last {
                self.put((owner, last + 1), entry.part(last + 1 - page, end - 1 - last));
            }
        }
    }

    /// Forgets every translation of `owner`.
    pub(super) fn forget_owner(&mut self, owner: Owner) {
        let keys: Vec<_> = self.entries.range((owner, 0)..=(owner, u64::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            self.take(&key);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.frames.clear();
        self.large = 0;
    }

    /// Every entry: whose, its first page, and itself.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Owner, u64, Cached)> + '_ {
        self.entries.iter().map(|((owner, first), cached)| (*owner, *first, *cached))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large(frame: u64) -> Cached {
        Cached {
            pages: 512,
            frame,
            rights: Rights::ALL,
            memory: MemoryType::WriteBack,
            dirty: false,
            marks_stores: true,
            leaf_pages: 512,
            root: 0,
            filled_at: 0,
            purpose: None,
        }
    }

    #[test]
    fn a_flush_of_a_part_leaves_the_rest_of_a_large_entry() {
        let mut tlb = Tlb::default();
        let owner = Owner::Tagged(1);
        tlb.insert(owner, 512, large(0x200), 600);
        tlb.forget(owner, 516, 517);
        assert!(tlb.lookup(1, 516).is_none() && tlb.lookup(1, 517).is_none());
        let (_, first, entry) = tlb.lookup(1, 518).unwrap();
        assert_eq!((first, entry.pages, entry.frame), (518, 506, 0x206));
        let (_, first, entry) = tlb.lookup(1, 515).unwrap();
        assert_eq!((first, entry.pages, entry.frame), (512, 4, 0x200));
        assert!(tlb.lookup(2, 515).is_none(), "another tag");
        // The gap is filled with the new translation, its stale neighbours stay.
        tlb.insert(owner, 512, large(0x400), 517);
        assert_eq!(tlb.lookup(1, 517).unwrap().2.frame, 0x404);
        assert_eq!(tlb.lookup(1, 518).unwrap().2.frame, 0x206);
        // They do not overlap: what is forgotten of the one does not come back from under it.
        tlb.forget(owner, 518, 600);
        assert!(tlb.lookup(1, 518).is_none() && tlb.lookup(1, 601).is_some());
        tlb.forget(owner, 0, 1023);
        assert_eq!(tlb.len(), 0);
    }
}
