//! What the nodes of the index's tree have in common: a header, and the last addresses of what they hold, sorted, by which they are searched.
//!
//! Ranges are kept by their first and last address, so the top of the address space needs no special case. What is unused has the last address
//! `u64::MAX`, so that the search goes over whole arrays and never asks for the length: what it counts are last addresses below an address,
//! and none of the unused is below any.

use core::ptr::NonNull;

use crate::vm_space::index::gap::Gaps;

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

impl Header {
    pub(super) const EMPTY: Self = Self { gaps: Gaps::NONE, len: 0 };

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }
}

/// A range of addresses and what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) pointer: Option<NonNull<()>>,
}

impl Entry {
    /// What is in the unused places of a leaf.
    pub(super) const UNUSED: Self = Self { first: u64::MAX, last: u64::MAX, pointer: None };
}

/// What the nodes above may have to know of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) gaps: Gaps,
}

/// A node that can give some of what it holds to a neighbour of its kind.
pub(super) trait Sibling {
    fn len(&self) -> usize;

    /// Moves `count` of what `other` holds, from `from` on, before what is at `at`. There is room. What is summed up of either is stale then.
    fn take(&mut self, at: usize, other: &mut Self, from: usize, count: usize);
}

/// A search looks at the last of each group of so many, then at the others of one group: two short steps without a branch.
const GROUP: usize = 4;

/// How many of these last addresses are below `address`. `N + 1` is a multiple of [`GROUP`].
#[inline]
pub(super) fn rank<const N: usize>(lasts: &[u64; N], address: u64) -> usize {
    const { assert!(N >= 3 && (N + 1) % GROUP == 0, "the last group lacks one") };
    let mut groups = 0;
    let mut last_of_group = GROUP - 1;
    while last_of_group < N {
        groups += usize::from(lasts.get(last_of_group).is_some_and(|last| *last < address));
        last_of_group += GROUP;
    }
    let start = groups * GROUP;
    let others = lasts.get(start..start + (GROUP - 1)).unwrap_or_default();
    start + others.iter().map(|last| usize::from(*last < address)).sum::<usize>()
}

/// Moves what two neighbours hold so that the left one has `want` of it, for which there is room in either.
pub(super) fn share<S: Sibling>(left: &mut S, right: &mut S, want: usize) {
    match left.len().checked_sub(want) {
        Some(more) => right.take(0, left, want, more),
        None => left.take(left.len(), right, 0, want - left.len()),
    }
}
