//! The inner nodes of the index's tree: sorted arrays of children.
//!
//! ```text
//!   byte 0   header: largest gaps in all that lies below, len
//!        16  first      address of all that lies below
//!        24  lasts      l0 l1 l2 ... l18   last addresses of the children (u64::MAX: unused)
//!       176  children   c0 c1 c2 ...
//!       328  slots      per size of leaves, per child: the most pages of a gap in it or right behind it
//! ```
//!
//! Where a child begins is not kept, for which there is one child in four more: it is asked of the child, where a gap behind another one changes or is
//! looked into.

use crate::vm_space::index::gap::{Gaps, LeafSizes, SIZES};
use crate::vm_space::index::node::{self, Header, Link, Sibling, Summary};

/// A node with children: leaves, or inner nodes of one level less.
#[repr(C)]
pub(super) struct Inner<const N: usize> {
    pub(super) header: Header,
    first: u64,
    lasts: [u64; N],
    children: [Option<Link>; N],
    /// 0 where there is none.
    slots: [[u32; N]; SIZES],
}

impl<const N: usize> Inner<N> {
    pub(super) const EMPTY: Self = Self {
        header: Header::EMPTY,
        first: u64::MAX,
        lasts: [u64::MAX; N],
        children: [None; N],
        slots: [[0; N]; SIZES],
    };

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.header.len()
    }

    /// How many children end before `address`: the position of the first that does not, or `len`.
    #[inline]
    pub(super) fn rank(&self, address: u64) -> usize {
        node::rank(&self.lasts, address)
    }

    #[inline]
    pub(super) fn child(&self, at: usize) -> Option<Link> {
        *self.children.get(at)?
    }

    /// The last address of a child; the highest of all for what is unused.
    #[inline]
    pub(super) fn last(&self, at: usize) -> u64 {
        self.lasts.get(at).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    pub(super) fn summary(&self) -> Summary {
        Summary { first: self.first, last: self.last(self.len().wrapping_sub(1)), gaps: self.header.gaps }
    }

    /// For each child the most pages of a gap in it or right behind it.
    #[inline]
    pub(super) fn slots(&self, size: usize) -> &[u32] {
        self.slots.get(size).map_or(&[], <[u32; N]>::as_slice)
    }

    /// Moves what comes behind `count` children so that there are `new` places for others.
    fn make_room(&mut self, at: usize, count: usize, new: usize) {
        let len = self.len();
        let (from, to) = (at + count, at + new);
        debug_assert!(from <= len && to + (len - from) <= N);
        let copy =
            |node: &mut Self, from: usize, to: usize| node.set(to, node.child(from), node.last(from), node.slot(from));
        if from < to {
            (from..len).rev().for_each(|at| copy(self, at, at + (to - from)));
        } else {
            (from..len).for_each(|at| copy(self, at, at - (from - to)));
        }
        let left = to + len.saturating_sub(from);
        for unused in left..len {
            self.set(unused, None, u64::MAX, Gaps::NONE);
        }
        self.header.len = left as u32;
    }

    #[inline]
    fn set(&mut self, at: usize, link: Option<Link>, last: u64, gaps: Gaps) {
        if let (Some(to_last), Some(child)) = (self.lasts.get_mut(at), self.children.get_mut(at)) {
            (*to_last, *child) = (last, link);
        }
        self.put_slot(at, gaps);
    }

    /// Puts a child before the one at `at`; what is kept of it is stale until [`fix`](Self::fix).
    pub(super) fn insert(&mut self, at: usize, child: Link) {
        self.make_room(at, 0, 1);
        self.set(at, Some(child), 0, Gaps::NONE);
    }

    /// Takes a child out.
    pub(super) fn remove(&mut self, at: usize) {
        self.make_room(at, 1, 0);
    }

    /// What the gap behind a child counts; none after the last.
    #[inline]
    fn gaps_after(&self, at: usize, sizes: &LeafSizes, child: impl Fn(Link) -> Summary) -> Gaps {
        self.child(at + 1).map_or(Gaps::NONE, |next| sizes.between(self.last(at), child(next).first))
    }

    /// Reads anew what is kept of the children at `from..=to`, whose summaries `child` gives, and of the gaps around them.
    pub(super) fn fix(&mut self, from: usize, to: usize, sizes: &LeafSizes, child: impl Fn(Link) -> Summary) {
        for at in from..=to {
            if let (Some(link), Some(last)) = (self.child(at), self.lasts.get_mut(at)) {
                let summary = child(link);
                *last = summary.last;
                if at == 0 {
                    self.first = summary.first;
                }
            }
        }
        for at in from.saturating_sub(1)..=to {
            if let Some(link) = self.child(at) {
                self.put_slot(at, child(link).gaps.max(self.gaps_after(at, sizes, &child)));
            }
        }
        for (largest, slots) in self.header.gaps.0.iter_mut().zip(&self.slots) {
            *largest = slots.iter().copied().max().unwrap_or(0);
        }
    }

    /// Takes note that one child is this now, and whether its first address is another than before.
    pub(super) fn refresh(
        &mut self,
        at: usize,
        moved_first: bool,
        now: &Summary,
        sizes: &LeafSizes,
        child: impl Fn(Link) -> Summary,
    ) {
        let moved_last = self.last(at) != now.last;
        if let Some(last) = self.lasts.get_mut(at) {
            *last = now.last;
        }
        let slot = self.slot(at);
        // The gap behind is as it was, and no larger than what is kept: it need not be looked at where there is a larger one before it.
        let gaps = if !moved_last && now.gaps.max(slot) == now.gaps {
            now.gaps
        } else {
            now.gaps.max(self.gaps_after(at, sizes, &child))
        };
        self.set_slot(at, slot, gaps);
        if moved_first {
            match at.checked_sub(1) {
                None => self.first = now.first,
                Some(before) => {
                    if let Some(link) = self.child(before) {
                        let gaps = child(link).gaps.max(sizes.between(self.last(before), now.first));
                        self.set_slot(before, self.slot(before), gaps);
                    }
                }
            }
        }
    }

    #[inline]
    fn slot(&self, at: usize) -> Gaps {
        let mut gaps = Gaps::NONE;
        for (pages, slots) in gaps.0.iter_mut().zip(&self.slots) {
            *pages = slots.get(at).copied().unwrap_or(0);
        }
        gaps
    }

    #[inline]
    fn put_slot(&mut self, at: usize, gaps: Gaps) {
        for (slots, pages) in self.slots.iter_mut().zip(gaps.0) {
            if let Some(slot) = slots.get_mut(at) {
                *slot = pages;
            }
        }
    }

    /// Changes what is kept of the gaps of a child, and what is said of them all.
    #[inline]
    fn set_slot(&mut self, at: usize, old: Gaps, new: Gaps) {
        if old == new {
            return;
        }
        self.put_slot(at, new);
        let slots = &self.slots;
        self.header.gaps = self.header.gaps.after_change(old, new, |size, enough| {
            let slots = slots.get(size).map_or(&[][..], |slots| slots.as_slice());
            // No slot is larger than the largest was.
            if slots.contains(&enough) { enough } else { slots.iter().copied().max().unwrap_or(0) }
        });
    }
}

impl<const N: usize> Sibling for Inner<N> {
    fn len(&self) -> usize {
        self.header.len()
    }

    fn take(&mut self, at: usize, other: &mut Self, from: usize, count: usize) {
        self.make_room(at, 0, count);
        for moved in 0..count {
            self.set(at + moved, other.child(from + moved), 0, Gaps::NONE);
        }
        other.make_room(from, count, 0);
    }
}
