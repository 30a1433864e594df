//! Iterating over a range of keys, forwards and backwards.

use super::node::{Node, Shift, SlotIndex};
use super::{PageTree, TreeValue, ends};
use core::fmt;
use core::iter::FusedIterator;
use core::ops::RangeBounds;

/// The keys of a range that are present, in order, with their values. Made by [`PageTree::range`].
///
/// It remembers the leaf at either end, so that a step within a leaf looks at no other node.
///
/// # Invariants
///
/// What is still to come lies within `first ..= last`; `front` and `back` hold, of some leaf, keys still
/// to come in that leaf from that end on (or none).
#[derive(Clone)]
pub struct Range<'a, V> {
    tree: &'a PageTree<V>,
    first: u64,
    last: u64,
    over: bool,
    front: Option<(&'a Node, u64)>,
    back: Option<(&'a Node, u64)>,
}

impl<V: TreeValue> PageTree<V> {
    /// The keys of `range` that are present, in order, with their values. O(1) a step within a leaf,
    /// O(depth) from leaf to leaf.
    pub fn range(&self, range: impl RangeBounds<u64>) -> Range<'_, V> {
        let (first, last, over) = match ends(range) {
            Some((first, last)) => (first, last, false),
            None => (0, 0, true),
        };
        Range { tree: self, first, last, over, front: None, back: None }
    }

    /// All keys present, in order, with their values.
    pub fn iter(&self) -> Range<'_, V> {
        self.range(..)
    }
}

impl<'a, V: TreeValue> IntoIterator for &'a PageTree<V> {
    type Item = (u64, V);
    type IntoIter = Range<'a, V>;

    fn into_iter(self) -> Range<'a, V> {
        self.iter()
    }
}

/// The entry in the slot of a leaf.
///
/// # Safety
///
/// The node is a leaf, and the slot is present.
unsafe fn entry<V: TreeValue>(leaf: &Node, index: SlotIndex) -> (u64, V) {
    // SAFETY: as the caller promises.
    (leaf.base() | index.offset(Shift::LEAF), V::from_bits(unsafe { leaf.value(index) }))
}

impl<V: TreeValue> Iterator for Range<'_, V> {
    type Item = (u64, V);

    #[inline]
    fn next(&mut self) -> Option<(u64, V)> {
        if self.over {
            return None;
        }
        let (leaf, left) = match self.front {
            Some((leaf, left)) if left != 0 => (leaf, left),
            _ => match self.tree.seek(self.first) {
                Some((leaf, index)) => (leaf, leaf.present() & index.and_after()),
                None => {
                    self.over = true;
                    return None;
                }
            },
        };
        let index = SlotIndex::lowest(left);
        // SAFETY: `seek` gives present slots of leaves, and `front` holds only such.
        let (key, value) = unsafe { entry(leaf, index) };
        if key > self.last {
            self.over = true;
            return None;
        }
        match key.checked_add(1) {
            Some(next) if key < self.last => self.first = next,
            _ => self.over = true,
        }
        self.front = Some((leaf, left & !index.bit()));
        Some((key, value))
    }
}

impl<V: TreeValue> DoubleEndedIterator for Range<'_, V> {
    #[inline]
    fn next_back(&mut self) -> Option<(u64, V)> {
        if self.over {
            return None;
        }
        let (leaf, left) = match self.back {
            Some((leaf, left)) if left != 0 => (leaf, left),
            _ => match self.tree.seek_back(self.last) {
                Some((leaf, index)) => (leaf, leaf.present() & index.and_before()),
                None => {
                    self.over = true;
                    return None;
                }
            },
        };
        let index = SlotIndex::highest(left);
        // SAFETY: `seek_back` gives present slots of leaves, and `back` holds only such.
        let (key, value) = unsafe { entry(leaf, index) };
        if key < self.first {
            self.over = true;
            return None;
        }
        match key.checked_sub(1) {
            Some(previous) if key > self.first => self.last = previous,
            _ => self.over = true,
        }
        self.back = Some((leaf, left & !index.bit()));
        Some((key, value))
    }
}

impl<V: TreeValue> FusedIterator for Range<'_, V> {}

impl<V> fmt::Debug for Range<'_, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Range")
            .field("first", &self.first)
            .field("last", &self.last)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
