//! The leaves of the index's tree: sorted arrays of ranges.
//!
//! ```text
//!   byte 0   header: largest gaps between entries, len
//!        16  lasts   l0 l1 l2 ... l22    (u64::MAX: unused)      what is searched: three lines of the cache
//!       200  next leaf
//!       208  rests   f0 w0 f1 w1 ...     first address, window   what was found: one line more
//! ```
//!
//! Each entry's first address lies beside its window, so that a search of a leaf that is in no cache reads one line behind those that are searched. It does not
//! have to wait for these before it knows which: see [`touch`](Leaf::touch).

use core::ptr::NonNull;

use crate::vm_space::index::gap::{Gaps, LeafSizes};
use crate::vm_space::index::node::{self, Entry, Header, Sibling, Summary};

/// What is kept of an entry beside its last address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rest {
    first: u64,
    pointer: Option<NonNull<()>>,
}

impl Rest {
    const UNUSED: Self = Self { first: Entry::UNUSED.first, pointer: Entry::UNUSED.pointer };
}

/// What a change of entries changed of what is said of their leaf.
#[derive(Clone, Copy)]
pub(super) struct Changed {
    /// The first address.
    pub(super) first: bool,
    /// Anything.
    pub(super) shows: bool,
}

/// A line of the cache, in [`Rest`]s.
const LINE: usize = 64 / size_of::<Rest>();

/// A node without children.
#[repr(C)]
pub(super) struct Leaf<const L: usize> {
    pub(super) header: Header,
    lasts: [u64; L],
    pub(super) next: Option<NonNull<Self>>,
    rests: [Rest; L],
}

impl<const L: usize> Leaf<L> {
    pub(super) const EMPTY: Self =
        Self { header: Header::EMPTY, lasts: [u64::MAX; L], next: None, rests: [Rest::UNUSED; L] };

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.header.len()
    }

    /// How many ranges end before `address`: the position of the first that does not, or `len`.
    #[inline]
    pub(super) fn rank(&self, address: u64) -> usize {
        node::rank(&self.lasts, address)
    }

    /// Has all of the leaf on its way from memory. What a search finds is elsewhere than what it searches; for one miss of the cache to wait for instead of two, nothing
    /// may have to be known before both are asked for.
    #[inline]
    pub(super) fn touch(&self) {
        for rest in self.rests.iter().step_by(LINE) {
            // Volatile, since nobody wants what is read. There is no portable way to ask for a line without reading it.
            // SAFETY: it is a reference.
            let _ = unsafe { core::ptr::from_ref(&rest.first).read_volatile() };
        }
    }

    /// The first address of a range; the highest of all for what is unused.
    #[inline]
    pub(super) fn first(&self, at: usize) -> u64 {
        self.rests.get(at).map_or(u64::MAX, |rest| rest.first)
    }

    /// The last address of a range; the highest of all for what is unused.
    #[inline]
    pub(super) fn last(&self, at: usize) -> u64 {
        self.lasts.get(at).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    pub(super) fn entry(&self, at: usize) -> Option<Entry> {
        self.any(at).filter(|_| at < self.len())
    }

    /// The entry at this position, which may be unused.
    #[inline]
    fn any(&self, at: usize) -> Option<Entry> {
        let (rest, last) = (self.rests.get(at)?, self.lasts.get(at)?);
        Some(Entry { first: rest.first, last: *last, pointer: rest.pointer })
    }

    /// The entry that covers `address`.
    #[inline]
    pub(super) fn covering(&self, address: u64) -> Option<Entry> {
        // Ranges are of whole pages: none begins at the highest address, as what is unused seems to.
        self.any(self.rank(address)).filter(|entry| entry.first <= address & !1)
    }

    #[inline]
    pub(super) fn summary(&self) -> Summary {
        Summary { first: self.first(0), last: self.last(self.len().wrapping_sub(1)), gaps: self.header.gaps }
    }

    /// The gaps between a range and the next one; none after the last.
    #[inline]
    fn gaps_after(&self, at: usize, sizes: &LeafSizes) -> Gaps {
        if at + 1 < self.len() { sizes.between(self.last(at), self.first(at + 1)) } else { Gaps::NONE }
    }

    /// The largest gaps right behind the entries at `from..to`.
    #[inline]
    fn gaps_in(&self, from: usize, to: usize, sizes: &LeafSizes) -> Gaps {
        (from..to).fold(Gaps::NONE, |gaps, at| gaps.max(self.gaps_after(at, sizes)))
    }

    /// Puts an entry, which overlaps none, before the one at `at`. There is room.
    #[inline]
    pub(super) fn insert(&mut self, at: usize, entry: Entry, sizes: &LeafSizes) -> Changed {
        let (below, above) = (self.last_below(at), self.first_above(at));
        self.make_room(at, 0, 1);
        self.set(at, entry);
        let gaps = match (below, above) {
            // The two parts of a gap count no more than the whole.
            (Some(below), Some(above)) => self.gaps_without(sizes.between(below, above), at, sizes),
            (Some(below), None) => self.header.gaps.max(sizes.between(below, entry.first)),
            (None, Some(above)) => self.header.gaps.max(sizes.between(entry.last, above)),
            (None, None) => Gaps::NONE,
        };
        self.set_gaps(gaps, below.is_none(), above.is_none())
    }

    /// Takes an entry out.
    #[inline]
    pub(super) fn remove(&mut self, at: usize, sizes: &LeafSizes) -> Changed {
        let (below, above) = (self.last_below(at), self.first_above(at + 1));
        let (first, last) = (self.first(at), self.last(at));
        self.make_room(at, 1, 0);
        let lost = match (below, above) {
            // What two gaps become counts no less than either.
            (Some(below), Some(above)) => {
                let gaps = self.header.gaps.max(sizes.between(below, above));
                return self.set_gaps(gaps, false, false);
            }
            (Some(below), None) => sizes.between(below, first),
            (None, Some(above)) => sizes.between(last, above),
            (None, None) => Gaps::NONE,
        };
        let gaps = self.gaps_without(lost, at, sizes);
        self.set_gaps(gaps, below.is_none(), above.is_none())
    }

    /// Puts other entries, which fit between the neighbours, in the place of `count`; there is at least one of either. There is room.
    #[inline]
    pub(super) fn splice(&mut self, at: usize, count: usize, entries: &[Entry], sizes: &LeafSizes) -> Changed {
        let (end, new_end) = (at + count, at + entries.len());
        // Where the outer bounds stay, which they mostly do when entries are cut or joined, so do the gaps outside.
        let moved_low = entries.first().is_none_or(|low| low.first != self.first(at));
        let moved_high = entries.last().is_none_or(|high| high.last != self.last(end.wrapping_sub(1)));
        let from = if moved_low { at.saturating_sub(1) } else { at };
        let (is_first, is_last) = (at == 0, end == self.len());
        let old = self.gaps_in(from, end.saturating_sub(usize::from(!moved_high)), sizes);
        self.make_room(at, count, entries.len());
        for (at, entry) in (at..).zip(entries) {
            self.set(at, *entry);
        }
        let new = self.gaps_in(from, new_end.saturating_sub(usize::from(!moved_high)), sizes);
        let gaps = if old == new { self.header.gaps } else { self.gaps_after_change(old, new, sizes) };
        self.set_gaps(gaps, moved_low && is_first, moved_high && is_last)
    }

    /// Where the range before this position ends, if there is one.
    #[inline]
    fn last_below(&self, at: usize) -> Option<u64> {
        Some(self.last(at.checked_sub(1)?))
    }

    /// Where the range at this position begins, if there is one.
    #[inline]
    fn first_above(&self, at: usize) -> Option<u64> {
        (at < self.len()).then(|| self.first(at))
    }

    #[inline]
    fn set_gaps(&mut self, gaps: Gaps, first: bool, last: bool) -> Changed {
        let shows = first || last || gaps != self.header.gaps;
        self.header.gaps = gaps;
        Changed { first, shows }
    }

    /// Moves what comes behind `count` entries so that there are `new` places for others.
    #[inline]
    fn make_room(&mut self, at: usize, count: usize, new: usize) {
        let len = self.len();
        let (from, to) = (at + count, at + new);
        debug_assert!(from <= len && to + (len - from) <= L);
        if from != to {
            // One by one: there are few, and what was just written is read again by the next change, which it can be at once as it was written.
            if from < to {
                (from..len).rev().for_each(|at| self.copy(at, at + (to - from)));
            } else {
                (from..len).for_each(|at| self.copy(at, at - (from - to)));
            }
            let left = to + len.saturating_sub(from);
            for unused in left..len {
                self.set(unused, Entry::UNUSED);
            }
            self.header.len = left as u32;
        }
    }

    /// Copies an entry to another position.
    #[inline]
    fn copy(&mut self, from: usize, to: usize) {
        if let Some(entry) = self.any(from) {
            self.set(to, entry);
        }
    }

    #[inline]
    fn set(&mut self, at: usize, entry: Entry) {
        if let (Some(last), Some(rest)) = (self.lasts.get_mut(at), self.rests.get_mut(at)) {
            *last = entry.last;
            *rest = Rest { first: entry.first, pointer: entry.pointer };
        }
    }

    /// Sums the gaps up, after entries were moved.
    pub(super) fn rebuild(&mut self, sizes: &LeafSizes) {
        self.header.gaps = self.gaps_in(0, self.len(), sizes);
    }

    /// The largest gaps when one is there no more, or only parts of it, which are beside the entry at `near`.
    #[inline]
    fn gaps_without(&self, lost: Gaps, near: usize, sizes: &LeafSizes) -> Gaps {
        let gaps = self.header.gaps;
        let is_largest = gaps.0.iter().zip(lost.0).any(|(largest, lost)| *largest != 0 && *largest == lost);
        if is_largest { self.largest_gaps(near, sizes) } else { gaps }
    }

    /// The largest gaps, of which those beside the entry at `near` are looked at first: what is left of a large gap is most often the largest still, and then the
    /// length of each other one tells that it is not.
    fn largest_gaps(&self, near: usize, sizes: &LeafSizes) -> Gaps {
        let mut gaps = self.gaps_in(near.saturating_sub(1), near + 1, sizes);
        let next = self.rests.get(1..self.len()).unwrap_or_default();
        for (last, next) in self.lasts.iter().zip(next) {
            // The larger the leaves, the fewer pages a gap counts.
            if next.first.wrapping_sub(*last) > sizes.bytes(gaps.least()) {
                gaps = gaps.max(sizes.between(*last, next.first));
            }
        }
        gaps
    }

    /// The largest gaps when some changed, the largest of which were `old` and are `new`. The others are looked at only if one of the largest became smaller.
    fn gaps_after_change(&self, old: Gaps, new: Gaps, sizes: &LeafSizes) -> Gaps {
        self.header.gaps.after_change(old, new, |size, enough| self.largest_gap(size, enough, sizes))
    }

    /// The largest gap for a size, of which none counts more than `enough`.
    fn largest_gap(&self, size: usize, enough: u32, sizes: &LeafSizes) -> u32 {
        // In bytes, and counted once.
        let enough = sizes.bytes(enough);
        let mut largest = 0;
        let next = self.rests.get(1..self.len()).unwrap_or_default();
        let aligned = sizes.aligned(size);
        for (last, next) in self.lasts.iter().zip(next) {
            largest = largest.max(aligned.bytes(*last, next.first));
            if largest >= enough {
                break;
            }
        }
        sizes.count(largest)
    }
}

impl<const L: usize> Sibling for Leaf<L> {
    fn len(&self) -> usize {
        self.header.len()
    }

    fn take(&mut self, at: usize, other: &mut Self, from: usize, count: usize) {
        self.make_room(at, 0, count);
        for moved in 0..count {
            if let Some(entry) = other.entry(from + moved) {
                self.set(at + moved, entry);
            }
        }
        other.make_room(from, count, 0);
    }
}
