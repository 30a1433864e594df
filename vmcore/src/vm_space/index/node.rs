//! The nodes of the index's tree: sorted arrays of ranges.
//!
//! ```text
//!   leaf                                         inner node
//!   | header: largest gaps between entries, len  | header: the same over all that lies below
//!   | lasts    l0 l1 l2 ... ── (u64::MAX unused)  | lasts     of the children
//!   | firsts   f0 f1 f2 ...                       | firsts    of the children
//!   | pointers w0 w1 w2 ...    windows            | pointers  children
//!   | next leaf                                   | slots     per child: the largest gaps in it and behind it
//! ```
//!
//! Ranges are kept by their first and last address, so the top of the address space needs no special case. What is unused has the last address
//! `u64::MAX`, so that the search goes over whole arrays and never asks for the length: what it counts are last addresses below an address,
//! and none of the unused is below any.

use core::ptr::NonNull;

use crate::vm_space::index::gap::{Gaps, LeafSizes, SIZES};

/// A node of either kind: both begin with their header.
pub(super) type Link = NonNull<Header>;

/// What is known of a node without knowing its kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Header {
    /// The largest gaps between its first and its last address.
    pub(super) gaps: Gaps,
    pub(super) len: u32,
}

/// A range of addresses and what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) pointer: Option<NonNull<()>>,
}

/// What a node's parent keeps of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) gaps: Gaps,
}

/// Up to `N` ranges in order. `N + 1` is a multiple of [`GROUP`].
#[repr(C)]
pub(super) struct Node<const N: usize> {
    pub(super) header: Header,
    lasts: [u64; N],
    firsts: [u64; N],
    pointers: [Option<NonNull<()>>; N],
}

/// A search looks at the last of each group of so many, then at the others of one group: two short steps without a branch.
const GROUP: usize = 4;

impl<const N: usize> Node<N> {
    const EMPTY: Self = {
        assert!(N >= 3 && (N + 1) % GROUP == 0, "the last group lacks one");
        Self {
            header: Header { gaps: Gaps::NONE, len: 0 },
            lasts: [u64::MAX; N],
            firsts: [u64::MAX; N],
            pointers: [None; N],
        }
    };

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.header.len as usize
    }

    /// How many ranges end before `address`: the position of the first that does not, or `len`.
    #[inline]
    pub(super) fn rank(&self, address: u64) -> usize {
        let mut groups = 0;
        let mut last_of_group = GROUP - 1;
        while last_of_group < N {
            groups += usize::from(self.lasts.get(last_of_group).is_some_and(|last| *last < address));
            last_of_group += GROUP;
        }
        let start = groups * GROUP;
        let others = self.lasts.get(start..start + (GROUP - 1)).unwrap_or_default();
        start + others.iter().map(|last| usize::from(*last < address)).sum::<usize>()
    }

    /// The first address of a range; the highest of all for what is unused.
    #[inline]
    pub(super) fn first(&self, at: usize) -> u64 {
        self.firsts.get(at).copied().unwrap_or(u64::MAX)
    }

    /// The last address of a range; the highest of all for what is unused.
    #[inline]
    pub(super) fn last(&self, at: usize) -> u64 {
        self.lasts.get(at).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    pub(super) fn pointer(&self, at: usize) -> Option<NonNull<()>> {
        *self.pointers.get(at)?
    }

    #[inline]
    pub(super) fn entry(&self, at: usize) -> Option<Entry> {
        (at < self.len()).then(|| Entry { first: self.first(at), last: self.last(at), pointer: self.pointer(at) })
    }

    #[inline]
    pub(super) fn summary(&self) -> Summary {
        Summary { first: self.first(0), last: self.last(self.len().wrapping_sub(1)), gaps: self.header.gaps }
    }

    /// The gaps between a range and the next one; none after the last.
    #[inline]
    pub(super) fn gaps_after(&self, at: usize, sizes: &LeafSizes) -> Gaps {
        if at + 1 < self.len() { sizes.between(self.last(at), self.first(at + 1)) } else { Gaps::NONE }
    }

    #[inline]
    pub(super) fn set_bounds(&mut self, at: usize, first: u64, last: u64) {
        if let (Some(to_first), Some(to_last)) = (self.firsts.get_mut(at), self.lasts.get_mut(at)) {
            (*to_first, *to_last) = (first, last);
        }
    }

    /// Puts other entries in the place of `count`. There is room.
    #[inline]
    fn splice(&mut self, at: usize, count: usize, entries: &[Entry]) {
        let len = self.len();
        let (from, to) = (at + count, at + entries.len());
        debug_assert!(from <= len && to + (len - from) <= N);
        if from != to {
            shift(&mut self.lasts, from, to, len);
            shift(&mut self.firsts, from, to, len);
            shift(&mut self.pointers, from, to, len);
            let left = to + len.saturating_sub(from);
            for unused in left..len {
                self.set(unused, Entry { first: u64::MAX, last: u64::MAX, pointer: None });
            }
            self.header.len = left as u32;
        }
        for (at, entry) in (at..).zip(entries) {
            self.set(at, *entry);
        }
    }

    #[inline]
    fn set(&mut self, at: usize, entry: Entry) {
        self.set_bounds(at, entry.first, entry.last);
        if let Some(pointer) = self.pointers.get_mut(at) {
            *pointer = entry.pointer;
        }
    }

    /// Puts an entry before the one at `at`. There is room.
    #[inline]
    fn insert(&mut self, at: usize, entry: Entry) {
        self.splice(at, 0, &[entry]);
    }

    /// Takes `count` entries out.
    #[inline]
    fn remove(&mut self, at: usize, count: usize) {
        self.splice(at, count, &[]);
    }

    /// Moves `count` entries of another node, from `from` on, before the one at `at`. There is room.
    fn take(&mut self, at: usize, other: &mut Self, from: usize, count: usize) {
        for moved in 0..count {
            if let Some(entry) = other.entry(from + moved) {
                self.insert(at + moved, entry);
            }
        }
        other.remove(from, count);
    }
}

/// Moves the elements `from..len` of an array to `to`.
#[inline]
fn shift<T: Copy, const N: usize>(array: &mut [T; N], from: usize, to: usize, len: usize) {
    let Some(count) = len.checked_sub(from) else { return };
    if len <= N && to <= N - count {
        let start = array.as_mut_ptr();
        // SAFETY: `from + count` is `len` and at most `N`, and so is `to + count`: both lie in the array.
        unsafe { core::ptr::copy(start.add(from), start.add(to), count) };
    }
}

/// A node without children.
#[repr(C)]
pub(super) struct Leaf<const N: usize> {
    pub(super) node: Node<N>,
    pub(super) next: Option<NonNull<Leaf<N>>>,
}

impl<const N: usize> Leaf<N> {
    pub(super) const EMPTY: Self = Self { node: Node::EMPTY, next: None };

    /// Puts other entries, which fit between the neighbours, in the place of `count`. There is room. Gives whether what is to be said of the leaf is another
    /// than before.
    #[inline]
    pub(super) fn splice(&mut self, at: usize, count: usize, entries: &[Entry], sizes: &LeafSizes) -> bool {
        let before = self.node.summary();
        let (end, new_end) = (at + count, at + entries.len());
        // Where the outer bounds stay, which they mostly do when entries are cut or joined, so do the gaps outside.
        let (low, high) = (entries.first().filter(|_| count != 0), entries.last().filter(|_| count != 0));
        let same_low = low.is_some_and(|low| low.first == self.node.first(at));
        let same_high = high.is_some_and(|high| high.last == self.node.last(end.wrapping_sub(1)));
        let from = if same_low { at } else { at.saturating_sub(1) };
        let old = self.gaps_after(from, end.saturating_sub(usize::from(same_high)), sizes);
        self.node.splice(at, count, entries);
        let new = self.gaps_after(from, new_end.saturating_sub(usize::from(same_high)), sizes);
        if old != new {
            self.note(old, new, sizes);
        }
        before != self.node.summary()
    }

    /// Puts an entry before the one at `at`. There is room.
    pub(super) fn insert(&mut self, at: usize, entry: Entry, sizes: &LeafSizes) {
        self.splice(at, 0, &[entry], sizes);
    }

    /// The largest gaps right behind the entries at `from..to`.
    #[inline]
    fn gaps_after(&self, from: usize, to: usize, sizes: &LeafSizes) -> Gaps {
        (from..to).fold(Gaps::NONE, |gaps, at| gaps.max(self.node.gaps_after(at, sizes)))
    }

    /// Moves entries of a neighbour here; see [`rebuild`](Self::rebuild).
    pub(super) fn take(&mut self, at: usize, other: &mut Self, from: usize, count: usize) {
        self.node.take(at, &mut other.node, from, count);
    }

    /// Sums the gaps up, after entries were moved.
    pub(super) fn rebuild(&mut self, sizes: &LeafSizes) {
        let mut gaps = Gaps::NONE;
        for at in 0..self.node.len() {
            gaps = gaps.max(self.node.gaps_after(at, sizes));
        }
        self.node.header.gaps = gaps;
    }

    /// Some gaps changed, the largest of which were `old` and are `new`. The others are looked at only if one of the largest became smaller.
    #[inline]
    fn note(&mut self, old: Gaps, new: Gaps, sizes: &LeafSizes) {
        let node = &self.node;
        let gaps = node.header.gaps.after_change(old, new, |size, enough| {
            let mut largest = 0;
            for at in 1..node.len() {
                largest = largest.max(sizes.pages(size, node.last(at - 1), node.first(at)));
                // No gap is larger than the largest was.
                if largest == enough {
                    break;
                }
            }
            largest
        });
        self.node.header.gaps = gaps;
    }
}

/// A node with children: leaves, or inner nodes of one level less.
#[repr(C)]
pub(super) struct Inner<const N: usize> {
    pub(super) node: Node<N>,
    /// For each size of leaves, for each child: the most pages of a gap in it or between it and the next child. 0 where there is none.
    slots: [[u32; N]; SIZES],
}

impl<const N: usize> Inner<N> {
    pub(super) const EMPTY: Self = Self { node: Node::EMPTY, slots: [[0; N]; SIZES] };

    #[inline]
    pub(super) fn child(&self, at: usize) -> Option<Link> {
        Some(self.node.pointer(at)?.cast())
    }

    /// For each child the most pages of a gap in it or right behind it.
    #[inline]
    pub(super) fn slots(&self, size: usize) -> &[u32] {
        self.slots.get(size).map_or(&[], <[u32; N]>::as_slice)
    }

    /// Puts a child before the one at `at`; what is kept of it is stale until [`fix`](Self::fix).
    pub(super) fn insert(&mut self, at: usize, child: Link) {
        let len = self.node.len();
        self.node.insert(at, Entry { first: 0, last: 0, pointer: Some(child.cast()) });
        for slots in &mut self.slots {
            shift(slots, at, at + 1, len);
        }
    }

    /// Takes a child out.
    pub(super) fn remove(&mut self, at: usize) {
        let len = self.node.len();
        self.node.remove(at, 1);
        for slots in &mut self.slots {
            shift(slots, at + 1, at, len);
            if let Some(unused) = slots.get_mut(len.wrapping_sub(1)) {
                *unused = 0;
            }
        }
    }

    /// Moves children of a neighbour here; what is kept of all children of both is stale until [`fix`](Self::fix).
    pub(super) fn take(&mut self, at: usize, other: &mut Self, from: usize, count: usize) {
        self.node.take(at, &mut other.node, from, count);
        for slots in &mut other.slots {
            for unused in slots.iter_mut().skip(other.node.len()) {
                *unused = 0;
            }
        }
    }

    /// Reads anew what is kept of the children at `from..=to`, whose summaries `child` gives, and of the gaps around them.
    pub(super) fn fix(&mut self, from: usize, to: usize, sizes: &LeafSizes, child: impl Fn(Link) -> Summary) {
        for at in from..=to {
            if let Some(link) = self.child(at) {
                let summary = child(link);
                self.node.set_bounds(at, summary.first, summary.last);
            }
        }
        for at in from.saturating_sub(1)..=to {
            if let Some(link) = self.child(at) {
                // SAFETY: children are alive, and begin with their header.
                let within = unsafe { link.as_ref() }.gaps;
                let gaps = within.max(self.node.gaps_after(at, sizes));
                for (slots, pages) in self.slots.iter_mut().zip(gaps.0) {
                    if let Some(slot) = slots.get_mut(at) {
                        *slot = pages;
                    }
                }
            }
        }
        for (largest, slots) in self.node.header.gaps.0.iter_mut().zip(&self.slots) {
            *largest = slots.iter().copied().max().unwrap_or(0);
        }
    }

    /// Takes note that one child has this summary now. Gives whether this node's own summary changed.
    #[inline]
    pub(super) fn refresh(&mut self, at: usize, child: &Summary, sizes: &LeafSizes) -> bool {
        let moved_first = self.node.first(at) != child.first;
        let moved_last = self.node.last(at) != child.last;
        if moved_first || moved_last {
            self.node.set_bounds(at, child.first, child.last);
        }
        let mut changed = (moved_first && at == 0) || (moved_last && at + 1 == self.node.len());
        changed |= self.set_slot(at, child.gaps.max(self.node.gaps_after(at, sizes)));
        if moved_first {
            if let Some((before, link)) = at.checked_sub(1).and_then(|before| Some((before, self.child(before)?))) {
                // SAFETY: children are alive, and begin with their header.
                let within = unsafe { link.as_ref() }.gaps;
                changed |= self.set_slot(before, within.max(self.node.gaps_after(before, sizes)));
            }
        }
        changed
    }

    #[inline]
    fn set_slot(&mut self, at: usize, new: Gaps) -> bool {
        let mut old = Gaps::NONE;
        for ((slots, old), new) in self.slots.iter_mut().zip(&mut old.0).zip(new.0) {
            if let Some(slot) = slots.get_mut(at) {
                *old = core::mem::replace(slot, new);
            }
        }
        if old == new {
            return false;
        }
        let before = self.node.header.gaps;
        let slots = &self.slots;
        self.node.header.gaps = before.after_change(old, new, |size, enough| {
            let slots = slots.get(size).map_or(&[][..], |slots| slots.as_slice());
            // No slot is larger than the largest was.
            if slots.contains(&enough) { enough } else { slots.iter().copied().max().unwrap_or(0) }
        });
        before != self.node.header.gaps
    }
}
