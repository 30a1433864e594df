//! Questions to a tree: lookups and searches. None of them writes anything.
//!
//! A search that finds nothing under the child it went into goes on at the nearest later sibling that it
//! passed. That one place is remembered on the way down, so no stack is needed and no node is visited twice.

use super::node::{Link, Node, Shift, SlotIndex};
use super::{PageTree, TreeValue, ends};
use core::num::NonZeroU64;
use core::ops::RangeBounds;

/// Whether `key` lies in the span of the node.
#[inline]
pub(super) fn contains(node: &Node, shift: Shift, key: u64) -> bool {
    key & !shift.node_mask() == node.base()
}

/// The last key that the node can hold.
#[inline]
pub(super) fn last_key(node: &Node, shift: Shift) -> u64 {
    node.base() | shift.node_mask()
}

impl<V> PageTree<V> {
    /// The word at `key`, if there is one.
    ///
    /// Bits of the key that path compression skipped are not looked at on the way down. If any were, the leaf that
    /// is reached may span other keys, and that is seen once, there.
    #[inline]
    fn lookup(&self, key: u64) -> Option<NonZeroU64> {
        let mut link = self.root;
        if link.is_none() {
            return None;
        }
        // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
        let root: &Node = unsafe { link.node() };
        if !contains(root, link.shift(), key) {
            return None;
        }
        let mut levels = 0;
        while !link.is_none() {
            // SAFETY: as for the root; the link is not null.
            let node: &Node = unsafe { link.node() };
            let shift = link.shift();
            if shift.is_leaf() {
                // SAFETY: it is a leaf.
                let bits = unsafe { node.lookup(SlotIndex::of(key, shift)) }?;
                let none_skipped = self.root.shift() == Shift::of_level(levels);
                return (none_skipped || contains(node, shift, key)).then_some(bits);
            }
            levels += 1;
            // SAFETY: it is not a leaf.
            link = unsafe { node.child(SlotIndex::of(key, shift)) };
        }
        None
    }

    /// The place of the first key at or after `from`.
    pub(super) fn seek(&self, mut from: u64) -> Option<(&Node, SlotIndex)> {
        let mut link = self.root;
        let mut later = Link::NONE;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node: &Node = unsafe { link.node() };
            let shift = link.shift();
            let candidates = if from <= node.base() {
                node.present()
            } else if from > last_key(node, shift) {
                0
            } else {
                node.present() & SlotIndex::of(from, shift).and_after()
            };
            if candidates == 0 {
                // Everything in the later sibling lies after `from`.
                link = later;
                later = Link::NONE;
                from = 0;
                continue;
            }
            let first = SlotIndex::lowest(candidates);
            if shift.is_leaf() {
                return Some((node, first));
            }
            let others = candidates & !first.bit();
            if others != 0 {
                // SAFETY: it is not a leaf.
                later = unsafe { node.child(SlotIndex::lowest(others)) };
            }
            // SAFETY: it is not a leaf.
            link = unsafe { node.child(first) };
        }
        None
    }

    /// The place of the last key at or before `from`.
    pub(super) fn seek_back(&self, mut from: u64) -> Option<(&Node, SlotIndex)> {
        let mut link = self.root;
        let mut earlier = Link::NONE;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node: &Node = unsafe { link.node() };
            let shift = link.shift();
            let candidates = if from >= last_key(node, shift) {
                node.present()
            } else if from < node.base() {
                0
            } else {
                node.present() & SlotIndex::of(from, shift).and_before()
            };
            if candidates == 0 {
                link = earlier;
                earlier = Link::NONE;
                from = u64::MAX;
                continue;
            }
            let last = SlotIndex::highest(candidates);
            if shift.is_leaf() {
                return Some((node, last));
            }
            let others = candidates & !last.bit();
            if others != 0 {
                // SAFETY: it is not a leaf.
                earlier = unsafe { node.child(SlotIndex::highest(others)) };
            }
            // SAFETY: it is not a leaf.
            link = unsafe { node.child(last) };
        }
        None
    }

    /// The first key at or after `from` that is absent; `None` if all to the last are present. O(depth).
    pub fn next_absent(&self, mut from: u64) -> Option<u64> {
        let mut link = self.root;
        // The nearest place after the current child with an absent key: a node, and a key in its span.
        let mut later: Option<(Link, u64)> = None;
        if link.is_none() {
            return Some(from);
        }
        loop {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node: &Node = unsafe { link.node() };
            let shift = link.shift();
            if !contains(node, shift, from) {
                return Some(from);
            }
            let index = SlotIndex::of(from, shift);
            let candidates = !node.full() & shift.slots() & index.and_after();
            if candidates == 0 {
                match later.take() {
                    Some(place) => (link, from) = place,
                    // Full to its end, and nothing beyond it on the whole path: what follows the root's
                    // span is absent.
                    None => return self.after_root(),
                }
                continue;
            }
            let first = SlotIndex::lowest(candidates);
            if first != index {
                from = node.base() | first.offset(shift);
            }
            if shift.is_leaf() || node.present() & first.bit() == 0 {
                return Some(from);
            }
            // SAFETY: it is not a leaf, and the slot is present, so the link is not null.
            let child = unsafe { node.child(first) };
            // SAFETY: as for the node.
            let child_end = last_key(unsafe { child.node() }, child.shift());
            let slot_end = node.base() | first.offset(shift) | shift.slot_mask();
            let others = candidates & !first.bit();
            if child_end < slot_end {
                // The child spans a part of its slot only: what follows it there is absent.
                later = Some((link, child_end + 1));
            } else if others != 0 {
                later = Some((link, node.base() | SlotIndex::lowest(others).offset(shift)));
            }
            link = child;
        }
    }

    /// The key after the last that the root spans.
    fn after_root(&self) -> Option<u64> {
        // SAFETY: called for a tree that has a root, which lives while the tree is borrowed.
        let root: &Node = unsafe { self.root.node() };
        last_key(root, self.root.shift()).checked_add(1)
    }

    /// Whether `key` is present and every node on its path is held by this tree alone. O(depth).
    ///
    /// Together with a count of one for the value, and no pins, that makes the value this tree's own.
    pub fn is_sole_owner(&self, key: u64) -> bool {
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node: &Node = unsafe { link.node() };
            let index = SlotIndex::of(key, link.shift());
            if node.is_shared() {
                return false;
            }
            if link.shift().is_leaf() {
                return contains(node, Shift::LEAF, key) && node.present() & index.bit() != 0;
            }
            // SAFETY: it is not a leaf.
            link = unsafe { node.child(index) };
        }
        false
    }

    /// The number of nodes reachable, shared ones included. O(nodes).
    pub fn node_count(&self) -> u64 {
        /// Recursion: at most one call per level, 11.
        fn count(link: Link) -> u64 {
            if link.is_none() {
                return 0;
            }
            let mut total = 1;
            if !link.shift().is_leaf() {
                // SAFETY: the link comes from the tree, whose nodes live while it is borrowed.
                let node: &Node = unsafe { link.node() };
                let mut left = node.present();
                while left != 0 {
                    // SAFETY: it is not a leaf.
                    total += count(unsafe { node.child(SlotIndex::lowest(left)) });
                    left &= left - 1;
                }
            }
            total
        }
        count(self.root)
    }
}

impl<V: TreeValue> PageTree<V> {
    /// The value at `key`. O(depth): per level a shift, a mask, a load and a test.
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
        self.lookup(key).map(V::from_bits)
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
        let mut link = self.root;
        let mut sole = true;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node: &Node = unsafe { link.node() };
            let shift = link.shift();
            // The root too: what path compression skipped above it and below is seen at the leaf.
            sole &= !node.is_shared();
            if shift.is_leaf() {
                if !contains(node, shift, key) {
                    return None;
                }
                // SAFETY: it is a leaf.
                let bits = unsafe { node.lookup(SlotIndex::of(key, shift)) }?;
                return Some((V::from_bits(bits), sole));
            }
            // SAFETY: it is not a leaf.
            link = unsafe { node.child(SlotIndex::of(key, shift)) };
        }
        None
    }

    /// Whether `key` is present. O(depth).
    #[inline]
    pub fn contains_key(&self, key: u64) -> bool {
        self.lookup(key).is_some()
    }

    fn entry((leaf, index): (&Node, SlotIndex)) -> (u64, V) {
        // SAFETY: `seek` and `seek_back` give slots of leaves that are present.
        (leaf.base() | index.offset(Shift::LEAF), V::from_bits(unsafe { leaf.value(index) }))
    }

    /// The first key at or after `from` that is present, with its value. O(depth).
    pub fn next_present(&self, from: u64) -> Option<(u64, V)> {
        self.seek(from).map(Self::entry)
    }

    /// The last key at or before `from` that is present, with its value. O(depth).
    pub fn previous_present(&self, from: u64) -> Option<(u64, V)> {
        self.seek_back(from).map(Self::entry)
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
        loop {
            let end = start.checked_add(beyond).filter(|&end| end <= last)?;
            match self.next_present(start) {
                Some((key, _)) if key <= end => start = self.next_absent(key)?,
                _ => return Some(start),
            }
        }
    }
}
