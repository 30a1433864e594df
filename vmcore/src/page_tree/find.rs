//! Questions to a tree: lookups and searches. None of them writes anything.
//!
//! A search that finds nothing under the child it went into goes on at the nearest later sibling that it
//! passed. That one place is remembered on the way down, so no stack is needed and no node is visited twice.

use super::node::{Entry, Link, NodeRef, Shift, SlotIndex};
use super::share::for_each;
use super::{PageTree, TreeValue, ends};
use core::num::NonZeroU64;
use core::ops::RangeBounds;

/// Whether `key` lies in the span of the node.
#[inline]
pub(super) fn contains(node: NodeRef<'_>, key: u64) -> bool {
    key & !node.shift().node_mask() == node.base()
}

/// The last key that the node can hold.
#[inline]
pub(super) fn last_key(node: NodeRef<'_>) -> u64 {
    node.base() | node.shift().node_mask()
}

/// A slot that holds a value, or a run.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) node: NodeRef<'a>,
    pub(super) index: SlotIndex,
    pub(super) bits: NonZeroU64,
}

impl Found<'_> {
    /// The first key.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        self.node.first_key(self.index)
    }

    /// The last key: of a single value, the first.
    #[inline]
    pub(super) fn last(&self) -> u64 {
        self.first() | self.node.shift().slot_mask()
    }

    /// The value at a key of the run, or at the one key.
    #[inline]
    pub(super) fn value_at<V: TreeValue>(&self, key: u64) -> V {
        let first = V::from_bits(self.bits);
        if self.node.is_leaf() { first } else { first.advance(key & self.node.shift().slot_mask()) }
    }
}

impl<V> PageTree<V> {
    /// The slot that holds `key`.
    pub(super) fn locate(&self, key: u64) -> Option<Found<'_>> {
        // SAFETY: the tree's nodes live, unchanged, while it is borrowed.
        unsafe { locate_under(self.root, key, &mut |_| ()) }
    }

    /// The slot with the first key at or after `from`. (If it is in a run, `from` itself.)
    pub(super) fn seek(&self, mut from: u64) -> Option<Found<'_>> {
        let mut link = self.root;
        let mut later: Option<(NodeRef<'_>, SlotIndex)> = None;
        if link.is_none() {
            return None;
        }
        loop {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node = unsafe { link.node() };
            let candidates = if from <= node.base() {
                node.present()
            } else if from > last_key(node) {
                0
            } else {
                node.present() & SlotIndex::of(from, node.shift()).and_after()
            };
            let (node, index) = if candidates == 0 {
                // Everything in the later sibling lies after `from`.
                from = 0;
                later.take()?
            } else {
                let first = SlotIndex::lowest(candidates);
                let others = candidates & !first.bit();
                if others != 0 {
                    later = Some((node, SlotIndex::lowest(others)));
                }
                (node, first)
            };
            match node.entry(index) {
                Entry::Child(child) => link = child,
                Entry::Value(bits) => return Some(Found { node, index, bits }),
                Entry::Absent => return None,
            }
        }
    }

    /// The slot with the last key at or before `from`. (If it is in a run, `from` itself.)
    pub(super) fn seek_back(&self, mut from: u64) -> Option<Found<'_>> {
        let mut link = self.root;
        let mut earlier: Option<(NodeRef<'_>, SlotIndex)> = None;
        if link.is_none() {
            return None;
        }
        loop {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node = unsafe { link.node() };
            let candidates = if from >= last_key(node) {
                node.present()
            } else if from < node.base() {
                0
            } else {
                node.present() & SlotIndex::of(from, node.shift()).and_before()
            };
            let (node, index) = if candidates == 0 {
                from = u64::MAX;
                earlier.take()?
            } else {
                let last = SlotIndex::highest(candidates);
                let others = candidates & !last.bit();
                if others != 0 {
                    earlier = Some((node, SlotIndex::highest(others)));
                }
                (node, last)
            };
            match node.entry(index) {
                Entry::Child(child) => link = child,
                Entry::Value(bits) => return Some(Found { node, index, bits }),
                Entry::Absent => return None,
            }
        }
    }

    /// The first key at or after `from` that is absent; `None` if all to the last are present. O(depth).
    pub fn next_absent(&self, mut from: u64) -> Option<u64> {
        let mut link = self.root;
        // The nearest place after the current child with an absent key: a node, and a key in its span.
        let mut later: Option<(Link, u64)> = None;
        if link.is_none() {
            return Some(from);
        }
        // Whether `from` may be outside of the node's span.
        let mut outside = true;
        loop {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node = unsafe { link.node() };
            let shift = node.shift();
            if outside && !contains(node, from) {
                return Some(from);
            }
            let index = SlotIndex::of(from, shift);
            let candidates = !node.full() & shift.slots() & index.and_after();
            if candidates == 0 {
                match later.take() {
                    Some(place) => {
                        (link, from) = place;
                        outside = true;
                    }
                    // Full to its end, and nothing beyond it on the whole path: what follows the root's
                    // span is absent.
                    None => return self.after_root(),
                }
                continue;
            }
            let first = SlotIndex::lowest(candidates);
            if first != index {
                from = node.first_key(first);
            }
            let Entry::Child(child) = node.entry(first) else {
                return Some(from);
            };
            let others = candidates & !first.bit();
            outside = child.shift().above() != shift;
            if outside {
                // SAFETY: as for the node.
                let child_end = last_key(unsafe { child.node() });
                let slot_end = node.first_key(first) | shift.slot_mask();
                // Where the child spans a part of its slot only, what follows it there is absent.
                if child_end < slot_end {
                    later = Some((link, child_end + 1));
                } else if others != 0 {
                    later = Some((link, node.first_key(SlotIndex::lowest(others))));
                }
            } else if others != 0 {
                later = Some((link, node.first_key(SlotIndex::lowest(others))));
            }
            link = child;
        }
    }

    /// The key after the last that the root spans.
    fn after_root(&self) -> Option<u64> {
        // SAFETY: called for a tree that has a root, which lives while the tree is borrowed.
        last_key(unsafe { self.root.node() }).checked_add(1)
    }

    /// Whether `key` is present and every node on its path is held by this tree alone. O(depth).
    ///
    /// Together with a count of one for the value (of a run, the first), and no pins, that makes the value this tree's
    /// own. To have the value too, see [`get_with_ownership`](Self::get_with_ownership).
    pub fn is_sole_owner(&self, key: u64) -> bool {
        let mut sole = true;
        // SAFETY: the tree's nodes live, unchanged, while it is borrowed.
        unsafe { locate_under(self.root, key, &mut |node| sole &= !node.is_shared()) }.is_some() && sole
    }

    /// The number of nodes reachable, shared ones included. O(nodes).
    pub fn node_count(&self) -> u64 {
        let mut count = 0;
        // SAFETY: the tree's nodes live while it is borrowed.
        unsafe { visit(self.root, &mut |_| count += 1) };
        count
    }

    /// The bytes of all nodes reachable, shared ones included. O(nodes).
    ///
    /// What a pool's pages take is 1.6 % more, for the 64 bytes of each 4 KiB that are bookkeeping.
    pub fn node_bytes(&self) -> u64 {
        let mut bytes = 0;
        // SAFETY: the tree's nodes live while it is borrowed.
        unsafe { visit(self.root, &mut |node| bytes += node.size().bytes() as u64) };
        bytes
    }
}

/// Calls `each` for every node of a subtree.
///
/// Recursion: at most one call per level, 11.
///
/// # Safety
///
/// The link is null, or its node lives and nobody changes anything in the subtree.
unsafe fn visit(link: Link, each: &mut impl FnMut(NodeRef<'_>)) {
    if link.is_none() {
        return;
    }
    // SAFETY: as the caller promises.
    let node = unsafe { link.node() };
    each(node);
    if !node.is_leaf() {
        for_each(node.present(), |index| {
            if let Entry::Child(child) = node.entry(index) {
                // SAFETY: a child lives with the node that holds it.
                unsafe { visit(child, each) };
            }
        });
    }
}

/// The slot of a subtree that holds `key`; `each` sees every node on the path.
///
/// # Safety
///
/// The link is null, or its node lives for `'a` and nobody changes anything in the subtree.
#[inline]
pub(super) unsafe fn locate_under<'a>(
    mut link: Link,
    key: u64,
    each: &mut impl FnMut(NodeRef<'a>),
) -> Option<Found<'a>> {
    while !link.is_none() {
        // SAFETY: as the caller promises, for the root and so for all below.
        let node: NodeRef<'a> = unsafe { link.node() };
        each(node);
        let index = SlotIndex::of(key, node.shift());
        match node.entry(index) {
            Entry::Child(child) => link = child,
            // Bits of the key that path compression skipped were not looked at on the way; if any were, this node spans
            // other keys, and that is seen here.
            Entry::Value(bits) => return contains(node, key).then_some(Found { node, index, bits }),
            Entry::Absent => return None,
        }
    }
    None
}

impl<V: TreeValue> PageTree<V> {
    /// The value at `key`, in a run the one for this key. O(depth): through full-sized nodes, per level a shift, a
    /// mask, a load and two tests.
    ///
    /// ```
    /// use core::num::NonZeroU64;
    /// use vmcore::page_tree::PageTree;
    ///
    /// // SAFETY: no context is ever passed to this tree.
    /// let empty = unsafe { PageTree::<NonZeroU64>::new() };
    /// assert_eq!(empty.get(5), None);
    /// ```
    #[inline]
    pub fn get(&self, key: u64) -> Option<V> {
        let mut link = self.root;
        if link.is_none() {
            return None;
        }
        // Not needed for the answer, but it lets a tree without compressed paths skip the look at the leaf's header.
        // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
        let beside = key ^ unsafe { link.node() }.base();
        if !SlotIndex::is_of(beside, link.shift()) {
            return None;
        }
        let mut levels = 0;
        while link.is_direct() {
            let shift = link.direct_shift();
            let index = SlotIndex::of(key, shift);
            if shift.is_leaf() {
                // No link looks like one to a leaf.
                if link.is_none() {
                    return None;
                }
                // SAFETY: as for the root; the link is direct, and its node a leaf.
                let bits = unsafe { link.direct_value(index) }?;
                let none_skipped = self.root.shift() == Shift::of_level(levels);
                // SAFETY: as for the root.
                return (none_skipped || contains(unsafe { link.node() }, key)).then(|| V::from_bits(bits));
            }
            levels += 1;
            // SAFETY: as for the root; the link is direct, and its node no leaf.
            link = unsafe { link.direct_child(index) };
        }
        // SAFETY: as for the root.
        unsafe { get_under(link, key) }
    }

    /// The leaf that spans `key`, if it and all nodes above it are this tree's alone. Whether it has room for the key is
    /// another question.
    #[inline]
    pub(super) fn own_leaf(&mut self, key: u64) -> Option<Link> {
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node = unsafe { link.node() };
            if node.is_shared() {
                return None;
            }
            if node.is_leaf() {
                return contains(node, key).then_some(link);
            }
            match node.entry(SlotIndex::of(key, node.shift())) {
                Entry::Child(child) => link = child,
                Entry::Value(_) | Entry::Absent => return None,
            }
        }
        None
    }

    /// The value at `key`, and whether every node on its path is held by this tree alone, in one walk. O(depth).
    ///
    /// Where that is so, a count of one for the value, and no pins, make it this tree's own: what a write to a page
    /// that may be shared has to know.
    ///
    /// ```
    /// use core::num::NonZeroU64;
    /// use vmcore::page_tree::PageTree;
    ///
    /// // SAFETY: no context is ever passed to this tree.
    /// let empty = unsafe { PageTree::<NonZeroU64>::new() };
    /// assert_eq!(empty.get_with_ownership(5), None);
    /// ```
    #[inline]
    pub fn get_with_ownership(&self, key: u64) -> Option<(V, bool)> {
        let mut sole = true;
        // SAFETY: the tree's nodes live, unchanged, while it is borrowed.
        let found = unsafe { locate_under(self.root, key, &mut |node| sole &= !node.is_shared()) }?;
        Some((found.value_at(key), sole))
    }

    /// Whether `key` is present. O(depth).
    #[inline]
    pub fn contains_key(&self, key: u64) -> bool {
        self.get(key).is_some()
    }

    /// The first key at or after `from` that is present, with its value. O(depth).
    pub fn next_present(&self, from: u64) -> Option<(u64, V)> {
        self.seek(from).map(|found| {
            let key = from.max(found.first());
            (key, found.value_at(key))
        })
    }

    /// The last key at or before `from` that is present, with its value. O(depth).
    pub fn previous_present(&self, from: u64) -> Option<(u64, V)> {
        self.seek_back(from).map(|found| {
            let key = from.min(found.last());
            (key, found.value_at(key))
        })
    }

    /// The first key of `range` from which on `count` keys, all of the range, are absent. For a `count` of
    /// zero, the first key of the range. O(depth) for each run that is too short; full subtrees are skipped
    /// whole.
    pub fn first_free_run(&self, range: impl RangeBounds<u64>, count: u64) -> Option<u64> {
        let (first, last) = ends(range)?;
        let Some(beyond) = count.checked_sub(1) else {
            return Some(first);
        };
        let mut start = self.next_absent(first)?;
        if beyond == 0 {
            return Some(start).filter(|&start| start <= last);
        }
        loop {
            let end = start.checked_add(beyond).filter(|&end| end <= last)?;
            match self.next_present(start) {
                Some((key, _)) if key <= end => start = self.next_absent(key)?,
                _ => return Some(start),
            }
        }
    }
}

/// The value at `key` in a subtree: the way through small nodes and runs, kept out of [`PageTree::get`].
///
/// # Safety
///
/// The link is null, or its node lives and nobody changes anything in the subtree.
#[inline(never)]
unsafe fn get_under<V: TreeValue>(link: Link, key: u64) -> Option<V> {
    // SAFETY: as the caller promises.
    unsafe { locate_under(link, key, &mut |_| ()) }.map(|found| found.value_at(key))
}
