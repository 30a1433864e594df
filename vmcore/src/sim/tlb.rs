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
//!
//! Nearly all entries are of one page. Those are kept in blocks of 64 neighbouring pages, so that what is done to a page is done in its block, and the block that was used
//! last is used next.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use super::references::References;
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

/// The pages that a block of entries is for.
const BLOCK: u64 = 64;

/// The entries of one page each of a block of pages.
#[derive(Default)]
struct Block {
    /// A bit for each page that has one.
    present: u64,
    /// The entries of those, in order.
    entries: Vec<Cached>,
}

impl Block {
    /// Where the entry of a page is among the others, or would be.
    fn rank(&self, page: u64) -> usize {
        (self.present & ((1 << (page % BLOCK)) - 1)).count_ones() as usize
    }

    fn has(&self, page: u64) -> bool {
        self.present & (1 << (page % BLOCK)) != 0
    }
}

/// Whose translations, and which block of pages, in the order of both: pages have 52 bits at the most.
fn key(owner: Owner, page: u64) -> u64 {
    let owner = match owner {
        Owner::Global => 0,
        Owner::Tagged(tag) => 1 + u64::from(tag),
    };
    (owner << 46) | (page / BLOCK)
}

/// The same, back: whose, and the first page.
fn of_key(key: u64) -> (Owner, u64) {
    let owner = match key >> 46 {
        0 => Owner::Global,
        tag => Owner::Tagged((tag - 1) as u16),
    };
    (owner, (key & ((1 << 46) - 1)) * BLOCK)
}

/// The bits of a block's pages from `first` to `last`, the block beginning at `start`.
fn bits_within(start: u64, first: u64, last: u64) -> u64 {
    let (low, high) = (first.max(start) - start, last.min(start + BLOCK - 1) - start);
    u64::MAX << low & u64::MAX >> (BLOCK - 1 - high)
}

pub(super) struct Tlb {
    /// The entries of one page, which nearly all are, in blocks; and where the block of a key is among those.
    blocks: Vec<Block>,
    places: BTreeMap<u64, usize>,
    /// Blocks without entries.
    unused: Vec<usize>,
    /// The block that was looked at last: its key and place.
    last: Option<(u64, usize)>,
    /// The key that was looked for last of which there is no block.
    absent: Option<u64>,
    /// The entries of several pages.
    large: BTreeMap<(Owner, u64), Cached>,
    references: Arc<References>,
}

impl Tlb {
    pub(super) fn new(references: Arc<References>) -> Self {
        let (blocks, unused) = (Vec::new(), Vec::new());
        Self { blocks, places: BTreeMap::new(), unused, last: None, absent: None, large: BTreeMap::new(), references }
    }

    /// The block of a key, if it has entries.
    fn place(&mut self, key: u64) -> Option<usize> {
        match self.last {
            Some((last, place)) if last == key => Some(place),
            _ if self.absent == Some(key) => None,
            _ => {
                let place = self.places.get(&key).copied();
                match place {
                    Some(place) => self.last = Some((key, place)),
                    None => self.absent = Some(key),
                }
                place
            }
        }
    }

    /// The entry that translates `page` under `tag`: its key and itself.
    pub(super) fn lookup(&mut self, tag: u16, page: u64) -> Option<(Owner, u64, Cached)> {
        [Owner::Tagged(tag), Owner::Global].into_iter().find_map(|owner| self.covering(owner, page))
    }

    fn covering(&mut self, owner: Owner, page: u64) -> Option<(Owner, u64, Cached)> {
        if let Some(place) = self.place(key(owner, page)) {
            let block = &self.blocks[place];
            if block.has(page) {
                return Some((owner, page, block.entries[block.rank(page)]));
            }
        }
        if self.large.is_empty() {
            return None;
        }
        let ((_, first), cached) = self.large_at_or_below(owner, page)?;
        (page - first < cached.pages).then_some((owner, first, cached))
    }

    fn large_at_or_below(&self, owner: Owner, page: u64) -> Option<((Owner, u64), Cached)> {
        self.large.range((owner, 0)..=(owner, page)).next_back().map(|(key, cached)| (*key, *cached))
    }

    /// The entries of one page that are nearest to `page`, which has none: below and above.
    fn neighbours(&self, owner: Owner, page: u64) -> (Option<u64>, Option<u64>) {
        let start = page / BLOCK * BLOCK;
        let present = |place: usize| self.blocks[place].present;
        let own = self.places.get(&key(owner, page)).map_or(0, |place| present(*place));
        let (low, high) = (own & ((1 << (page - start)) - 1), own & u64::MAX << (page - start));
        let last_of =
            |(key, place): (&u64, &usize)| of_key(*key).1 + (BLOCK - 1) - u64::from(present(*place).leading_zeros());
        let first_of = |(key, place): (&u64, &usize)| of_key(*key).1 + u64::from(present(*place).trailing_zeros());
        let below = match low {
            0 => self.places.range(key(owner, 0)..key(owner, page)).next_back().map(last_of),
            low => Some(start + (BLOCK - 1) - u64::from(low.leading_zeros())),
        };
        let last = key(owner, 0) | ((1 << 46) - 1);
        let above = match high {
            0 => {
                let behind = (Bound::Excluded(key(owner, page)), Bound::Included(last));
                self.places.range(behind).next().map(first_of)
            }
            high => Some(start + u64::from(high.trailing_zeros())),
        };
        (below, above)
    }

    /// Remembers a translation for the gap around `page`, which missed.
    pub(super) fn insert(&mut self, owner: Owner, first: u64, cached: Cached, page: u64) {
        let mut from = first;
        let mut end = first + cached.pages;
        if cached.pages == 1 {
            if self.covering(owner, page).is_none() && first == page {
                self.put((owner, page), cached);
            }
            return;
        }
        if let Some(((_, before), entry)) = self.large_at_or_below(owner, page) {
            from = from.max(before + entry.pages);
        }
        if let Some(((_, after), _)) = self.large.range((owner, page)..=(owner, u64::MAX)).next() {
            end = end.min(*after);
        }
        let (below, above) = self.neighbours(owner, page);
        from = below.map_or(from, |below| from.max(below + 1));
        end = above.map_or(end, |above| end.min(above));
        if from <= page && page < end {
            self.put((owner, from), cached.part(from - first, end - from));
        }
    }

    /// Adds an entry where there is none.
    fn put(&mut self, (owner, first): (Owner, u64), cached: Cached) {
        if cached.pages != 1 {
            self.references.add_elsewhere();
            self.large.insert((owner, first), cached);
            return;
        }
        let key = key(owner, first);
        let place = match self.place(key) {
            Some(place) => place,
            None => {
                let place = self.unused.pop().unwrap_or(self.blocks.len());
                if place == self.blocks.len() {
                    self.blocks.push(Block::default());
                }
                self.places.insert(key, place);
                (self.last, self.absent) = (Some((key, place)), None);
                place
            }
        };
        let block = &mut self.blocks[place];
        let rank = block.rank(first);
        block.present |= 1 << (first % BLOCK);
        block.entries.insert(rank, cached);
        self.references.add(cached.frame);
    }

    /// Forgets entries of one page of a block: those of `pages`.
    fn forget_in(&mut self, key: u64, place: usize, pages: u64) {
        let block = &mut self.blocks[place];
        let gone = block.present & pages;
        if gone == block.present {
            for entry in block.entries.drain(..) {
                self.references.remove(entry.frame);
            }
            block.present = 0;
            self.places.remove(&key);
            self.unused.push(place);
            self.last = None;
            return;
        }
        let mut left = gone;
        while left != 0 {
            let bit = u64::BITS - 1 - left.leading_zeros();
            left &= !(1 << bit);
            let rank = block.rank(u64::from(bit));
            let entry = block.entries.remove(rank);
            self.references.remove(entry.frame);
        }
        block.present &= !gone;
    }

    /// Forgets the pages from `first` to `last`, and no others.
    pub(super) fn forget(&mut self, owner: Owner, first: u64, last: u64) {
        let (low, high) = (key(owner, first), key(owner, last));
        if low == high {
            if let Some(place) = self.place(low) {
                self.forget_in(low, place, bits_within(of_key(low).1, first, last));
            }
        } else {
            let mut from = low;
            while let Some((&key, &place)) = self.places.range(from..).next().filter(|(key, _)| **key <= high) {
                self.forget_in(key, place, bits_within(of_key(key).1, first, last));
                from = key + 1;
            }
        }
        if !self.large.is_empty() {
            self.forget_large(owner, first, last);
        }
    }

    /// Forgets the pages out of entries of several.
    fn forget_large(&mut self, owner: Owner, first: u64, last: u64) {
        let start = match self.large_at_or_below(owner, first) {
            Some(((_, before), entry)) if first - before < entry.pages => before,
            _ => first,
        };
        let keys: Vec<_> = self.large.range((owner, start)..=(owner, last)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(entry) = self.take_large(&key) else { continue };
            let (page, end) = (key.1, key.1 + entry.pages);
            if page < first {
                self.put(key, entry.part(0, first - page));
            }
            if end - 1 > last {
                self.put((owner, last + 1), entry.part(last + 1 - page, end - 1 - last));
            }
        }
    }

    fn take_large(&mut self, key: &(Owner, u64)) -> Option<Cached> {
        let old = self.large.remove(key)?;
        self.references.remove_elsewhere();
        Some(old)
    }

    /// Forgets every translation of `owner`.
    pub(super) fn forget_owner(&mut self, owner: Owner) {
        self.forget(owner, 0, BLOCK * (1 << 46) - 1);
    }

    pub(super) fn clear(&mut self) {
        for block in &mut self.blocks {
            for entry in block.entries.drain(..) {
                self.references.remove(entry.frame);
            }
        }
        for _ in &self.large {
            self.references.remove_elsewhere();
        }
        self.blocks.clear();
        self.places.clear();
        self.unused.clear();
        self.large.clear();
        self.last = None;
    }

    /// Every entry: whose, its first page, and itself.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Owner, u64, Cached)> + '_ {
        let small = self.places.iter().flat_map(|(key, place)| {
            let ((owner, start), block) = (of_key(*key), &self.blocks[*place]);
            let pages = (0..BLOCK).filter(|page| block.has(*page));
            pages.zip(&block.entries).map(move |(page, cached)| (owner, start + page, *cached))
        });
        small.chain(self.large.iter().map(|((owner, first), cached)| (*owner, *first, *cached)))
    }

    pub(super) fn len(&self) -> usize {
        self.places.values().map(|place| self.blocks[*place].entries.len()).sum::<usize>() + self.large.len()
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
        let mut tlb = Tlb::new(Arc::new(References::new(0x200, 0x400)));
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
