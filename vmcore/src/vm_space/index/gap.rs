//! Gaps: how large they are for leaves of each size, and the search for one.
//!
//! ```text
//!   gap            |<---------------- 9 pages --------------->|
//!   addresses      1   2   3   4   5   6   7   8   9  10      (in pages)
//!   large leaves   :           4               8          (one in four)
//!                              |<------- 6 from the first aligned one ----->|
//! ```
//!
//! For each of the format's three smallest sizes of leaves, a gap counts as many base pages as lie between the first address in it that is aligned
//! to the size and its end. A block of n pages aligned to the size fits if and only if the gap counts at least n. The nodes of the tree keep the
//! largest counts of what lies below, so the search goes straight to the lowest (or highest) gap that fits, whatever other gaps there are.
//!
//! A count is a `u32` and saturates: a gap of 2^32 - 1 pages or more (16 TiB of 4 KiB pages) counts 2^32 - 1, and a block that needs more
//! is looked for as if it needed 2^32 - 1. Then every gap in which it fits is looked into still, and a few in which it does not: as many
//! as there can be gaps of that size in the address space.

use crate::vm_space::index::inner::Inner;
use crate::vm_space::index::leaf::Leaf;
use crate::vm_space::index::node::Link;
use crate::vm_space::index::tree::Tree;

/// For how many sizes of leaves gaps are counted.
pub(super) const SIZES: usize = 3;

/// The pages that the largest gaps count, for each size of leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gaps(pub(super) [u32; SIZES]);

impl Gaps {
    pub(super) const NONE: Self = Self([0; SIZES]);

    #[inline]
    pub(super) fn max(self, other: Self) -> Self {
        let ([a, b, c], [d, e, f]) = (self.0, other.0);
        Self([a.max(d), b.max(e), c.max(f)])
    }

    /// What is counted for the largest leaves, which is the least.
    #[inline]
    pub(super) fn least(self) -> u32 {
        let [.., least] = self.0;
        least
    }

    /// The largest of some gaps of which a few changed, the largest of those from `old` to `new`. `largest` looks at all as they are now,
    /// and may stop at a count that it is given.
    #[inline]
    pub(super) fn after_change(mut self, old: Self, new: Self, largest: impl Fn(usize, u32) -> u32) -> Self {
        for (size, ((gaps, old), new)) in self.0.iter_mut().zip(old.0).zip(new.0).enumerate() {
            if new >= *gaps {
                *gaps = new;
            } else if old == *gaps {
                *gaps = largest(size, old);
            }
        }
        self
    }
}

/// The sizes of leaves for which gaps are counted, as powers of two, smallest first. The first is the base page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafSizes([u32; SIZES]);

impl LeafSizes {
    /// Base pages, and what `larger` gives for the levels above.
    pub(crate) fn new(page_shift: u32, larger: impl Fn(usize) -> Option<u32>) -> Self {
        let size = |level: usize| larger(level).map_or(page_shift, |shift| shift.clamp(page_shift, 63));
        let second = size(1);
        Self([page_shift, second, size(2).max(second)])
    }

    #[inline]
    const fn page_shift(&self) -> u32 {
        self.0[0]
    }

    /// What the gap between two ranges counts, of which the lower ends at `last` and the higher begins at `first`.
    #[inline]
    pub(super) fn between(&self, last: u64, first: u64) -> Gaps {
        let start = last.wrapping_add(1);
        let length = first.wrapping_sub(start);
        // Ranges are of whole pages, and so are gaps.
        let smallest = self.count(length);
        // Most gaps have no address that is aligned to a larger leaf.
        if length <= start.wrapping_neg() & !(u64::MAX << (self.0[1] & 63)) {
            return Gaps([smallest, 0, 0]);
        }
        Gaps([smallest, self.pages(1, last, first), self.pages(2, last, first)])
    }

    /// The same for one size.
    #[inline]
    pub(super) fn pages(&self, size: usize, last: u64, first: u64) -> u32 {
        self.count(self.aligned(size).bytes(last, first))
    }

    /// What is needed to ask the same of many gaps, in bytes.
    #[inline]
    pub(super) fn aligned(&self, size: usize) -> Aligned {
        let shift = self.0.get(size).copied().unwrap_or(0);
        Aligned { below: !(u64::MAX << (shift & 63)) }
    }

    /// The least bytes that count so many pages.
    #[inline]
    pub(super) fn bytes(&self, pages: u32) -> u64 {
        u64::from(pages).saturating_mul(1 << (self.page_shift() & 63))
    }

    /// So many bytes in pages, as far as that can be counted.
    #[inline]
    pub(super) fn count(&self, bytes: u64) -> u32 {
        u32::try_from(bytes >> (self.page_shift() & 63)).unwrap_or(u32::MAX)
    }
}

/// One size of leaves: the bits of an address below it.
#[derive(Clone, Copy)]
pub(super) struct Aligned {
    below: u64,
}

impl Aligned {
    /// How many bytes lie between the first address that is aligned to the size and the end, in the gap between two ranges.
    #[inline]
    pub(super) fn bytes(self, last: u64, first: u64) -> u64 {
        let start = last.wrapping_add(1);
        first.wrapping_sub(start).saturating_sub(start.wrapping_neg() & self.below)
    }
}

/// What is looked for: `size` bytes at an address in `first..=last` that is `phase` modulo 2^`alignment`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GapRequest {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) size: u64,
    pub(crate) alignment: u32,
    pub(crate) phase: u64,
}

impl GapRequest {
    /// The lowest address that fits in a gap.
    #[inline]
    fn lowest_in(&self, first: u64, last: u64) -> Option<u64> {
        let (first, last) = (first.max(self.first), last.min(self.last));
        let mask = 1_u64.checked_shl(self.alignment)?.wrapping_sub(1);
        let start = first.checked_add(self.phase.wrapping_sub(first) & mask)?;
        let end = start.checked_add(self.size.checked_sub(1)?)?;
        (end <= last).then_some(start)
    }

    /// The highest address that fits in a gap.
    #[inline]
    fn highest_in(&self, first: u64, last: u64) -> Option<u64> {
        let (first, last) = (first.max(self.first), last.min(self.last));
        let mask = 1_u64.checked_shl(self.alignment)?.wrapping_sub(1);
        let highest = last.checked_sub(self.size.checked_sub(1)?)?;
        let start = highest.checked_sub(highest.wrapping_sub(self.phase) & mask)?;
        (start >= first).then_some(start)
    }

    /// The size of leaves by which it is looked for, the count from which on a gap surely fits, and the least count with which it may fit.
    fn counts(&self, sizes: &LeafSizes) -> (usize, u32, u32) {
        let matches =
            |shift: &u32| *shift <= self.alignment && self.phase & !(u64::MAX.checked_shl(*shift).unwrap_or(0)) == 0;
        // The largest size that divides the alignment and the phase. The first does, since addresses of windows are those of pages.
        let size = sizes.0.iter().rposition(matches).unwrap_or(0);
        let shift = sizes.0.get(size).copied().unwrap_or(0);
        let pages = |bytes: u64| u32::try_from(bytes >> sizes.page_shift()).unwrap_or(u32::MAX);
        let least = self.size.saturating_add((1 << sizes.page_shift()) - 1);
        // From an address aligned to the size of leaves it is less than this to the next that is as it should be.
        let step = 1_u64.checked_shl(self.alignment).unwrap_or(u64::MAX).saturating_sub(1 << shift);
        (size, pages(least.saturating_add(step)), pages(least))
    }
}

/// In which order gaps are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Up,
    Down,
}

/// One search: the request, and the count of pages with which a gap is looked at.
struct Search<'a> {
    request: &'a GapRequest,
    order: Order,
    size: usize,
    pages: u32,
}

impl Search<'_> {
    #[inline]
    fn fit(&self, first: u64, last: u64) -> Option<u64> {
        match self.order {
            Order::Up => self.request.lowest_in(first, last),
            Order::Down => self.request.highest_in(first, last),
        }
    }
}

impl<const L: usize, const N: usize> Tree<L, N> {
    /// The lowest address that fits. Where the alignment is that of leaves (and the phase 0), O(log n). Else one of the lowest, also
    /// in O(log n) where some gap is so large that it fits wherever it lies; else O(n).
    pub(super) fn lowest_gap(&self, request: &GapRequest) -> Option<u64> {
        self.gap(request, Order::Up)
    }

    /// The highest address that fits; see [`lowest_gap`](Self::lowest_gap).
    pub(super) fn highest_gap(&self, request: &GapRequest) -> Option<u64> {
        self.gap(request, Order::Down)
    }

    fn gap(&self, request: &GapRequest, order: Order) -> Option<u64> {
        let (size, sure, possible) = request.counts(self.sizes());
        let mut search = Search { request, order, size, pages: sure };
        self.search(&search).or_else(|| {
            search.pages = possible;
            if possible < sure { self.search(&search) } else { None }
        })
    }

    fn search(&self, search: &Search<'_>) -> Option<u64> {
        let Some((root, summary)) = self.root() else { return search.fit(0, u64::MAX) };
        let below = || search.fit(0, summary.first.checked_sub(1)?);
        let within = || {
            // SAFETY: the root is alive and of the tree's height.
            if holds(&summary.gaps.0, search) { unsafe { self.search_node(root, self.height(), search) } } else { None }
        };
        let above = || search.fit(summary.last.checked_add(1)?, u64::MAX);
        match search.order {
            Order::Up => below().or_else(within).or_else(above),
            Order::Down => above().or_else(within).or_else(below),
        }
    }

    /// Looks between the first and the last address of a node. It calls itself as often as there are levels, and more than one child
    /// is looked into only where the limits cut gaps off: on the way to each end of them.
    ///
    /// # Safety
    /// The node is alive and of this height.
    unsafe fn search_node(&self, node: Link, height: usize, search: &Search<'_>) -> Option<u64> {
        let request = search.request;
        if height == 0 {
            // SAFETY: nodes of height 0 are leaves.
            let leaf = unsafe { node.cast::<Leaf<L>>().as_ref() };
            let (from, to) = (leaf.rank(request.first), leaf.rank(request.last));
            let gap = |at: usize| {
                let (first, last) = (leaf.last(at).checked_add(1)?, leaf.first(at + 1).checked_sub(1)?);
                if first <= last { search.fit(first, last) } else { None }
            };
            let mut gaps = from.saturating_sub(1)..(to + 1).min(leaf.len().saturating_sub(1));
            return match search.order {
                Order::Up => gaps.find_map(gap),
                Order::Down => gaps.rev().find_map(gap),
            };
        }
        // SAFETY: all others are inner nodes.
        let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
        let (from, to) = (inner.rank(request.first), inner.rank(request.last));
        let slots = inner.slots(search.size);
        let behind = |at: usize| {
            // SAFETY: children are alive, and one less in height.
            let next = unsafe { Self::summary(inner.child(at + 1)?, height - 1) };
            let (first, last) = (inner.last(at).checked_add(1)?, next.first.checked_sub(1)?);
            if first <= last { search.fit(first, last) } else { None }
        };
        let within = |at: usize| {
            if inner.last(at) < request.first {
                return None;
            }
            // SAFETY: as above.
            unsafe { self.search_node(inner.child(at)?, height - 1, search) }
        };
        let mut children = from.saturating_sub(1)..(to + 1).min(inner.len());
        let large = |at: &usize| slots.get(*at).is_some_and(|pages| *pages >= search.pages);
        match search.order {
            Order::Up => children.find_map(|at| if large(&at) { within(at).or_else(|| behind(at)) } else { None }),
            Order::Down => {
                children.rev().find_map(|at| if large(&at) { behind(at).or_else(|| within(at)) } else { None })
            }
        }
    }
}

#[inline]
fn holds(gaps: &[u32; SIZES], search: &Search<'_>) -> bool {
    gaps.get(search.size).is_some_and(|pages| *pages >= search.pages)
}
