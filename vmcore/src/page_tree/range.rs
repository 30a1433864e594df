//! Iterating over a range of keys, forwards and backwards.

use super::find::Found;
use super::node::{Link, Shift, SlotIndex};
use super::{PageTree, TreeValue, ends};
use core::fmt;
use core::iter::FusedIterator;
use core::marker::PhantomData;
use core::ops::RangeBounds;

/// The keys of a range that are present, in order, with their values. Made by [`PageTree::range`].
///
/// It remembers the leaf at either end, so that a step within a leaf looks at no other node. A run gives each of its
/// keys; to have it as one, see [`PageTree::runs`].
///
/// # Invariants
///
/// What is still to come lies within `first ..= last`, and is nothing if it is `over`; `front` and `back` hold, of some
/// leaf, keys still to come in that leaf from that end on (perhaps beyond the other end), or none; none if it is `over`.
#[derive(Clone)]
pub struct Range<'a, V> {
    tree: &'a PageTree<V>,
    first: u64,
    last: u64,
    over: bool,
    front: Cursor<'a>,
    back: Cursor<'a>,
}

/// A place in a leaf: a step to the next slot looks at nothing but the slot.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    /// A leaf of a tree that is borrowed, if any slot is left.
    leaf: Link,
    base: u64,
    /// The slots that are left, all present.
    left: u64,
    tree: PhantomData<&'a ()>,
}

impl<'a> Cursor<'a> {
    const NONE: Self = Self { leaf: Link::NONE, base: 0, left: 0, tree: PhantomData };

    /// In the leaf of what was found, with the slots of `left` still to come; in none, if it is a run.
    fn beside(found: &Found<'a>, left: u64) -> Self {
        if found.node.is_leaf() {
            let left = found.node.present() & left & !found.index.bit();
            Self { leaf: found.node.link(), base: found.node.base(), left, tree: PhantomData }
        } else {
            Self::NONE
        }
    }

    /// The key and the value in a slot.
    ///
    /// # Safety
    ///
    /// The slot is one of `left`.
    #[inline]
    unsafe fn entry<V: TreeValue>(&self, index: SlotIndex) -> (u64, V) {
        // SAFETY: what is left is present, in a leaf, which lives, unchanged, while its tree is borrowed.
        let bits = unsafe { self.leaf.node().value(index) };
        (self.base | index.offset(Shift::LEAF), V::from_bits(bits))
    }
}

impl<V: TreeValue> PageTree<V> {
    /// The keys of `range` that are present, in order, with their values. O(1) a step within a leaf,
    /// O(depth) from leaf to leaf, and a step in a run.
    pub fn range(&self, range: impl RangeBounds<u64>) -> Range<'_, V> {
        let (first, last, over) = match ends(range) {
            Some((first, last)) => (first, last, false),
            None => (0, 0, true),
        };
        Range { tree: self, first, last, over, front: Cursor::NONE, back: Cursor::NONE }
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

impl<V: TreeValue> Range<'_, V> {
    /// Nothing is to come any more.
    fn end(&mut self) {
        self.over = true;
        self.front.left = 0;
        self.back.left = 0;
    }

    /// The next entry from another leaf than the last one was in, or a run.
    #[inline(never)]
    fn seek_next(&mut self) -> Option<(u64, V)> {
        if self.over {
            return None;
        }
        let found = self.tree.seek(self.first)?;
        self.front = Cursor::beside(&found, found.index.and_after());
        let key = self.first.max(found.first());
        Some((key, found.value_at(key)))
    }

    /// The last entry from another leaf than the one before was in, or a run.
    #[inline(never)]
    fn seek_back(&mut self) -> Option<(u64, V)> {
        if self.over {
            return None;
        }
        let found = self.tree.seek_back(self.last)?;
        self.back = Cursor::beside(&found, found.index.and_before());
        let key = self.last.min(found.last());
        Some((key, found.value_at(key)))
    }
}

impl<V: TreeValue> Iterator for Range<'_, V> {
    type Item = (u64, V);

    #[inline]
    fn next(&mut self) -> Option<(u64, V)> {
        let left = self.front.left;
        let (key, value) = if left != 0 {
            self.front.left = left & (left - 1);
            // SAFETY: the slot is one of those left.
            unsafe { self.front.entry(SlotIndex::lowest(left)) }
        } else {
            match self.seek_next() {
                Some(entry) => entry,
                None => {
                    self.end();
                    return None;
                }
            }
        };
        if key >= self.last {
            let within = key == self.last;
            self.end();
            return within.then_some((key, value));
        }
        self.first = key + 1;
        Some((key, value))
    }
}

impl<V: TreeValue> DoubleEndedIterator for Range<'_, V> {
    #[inline]
    fn next_back(&mut self) -> Option<(u64, V)> {
        let left = self.back.left;
        let (key, value) = if left != 0 {
            let index = SlotIndex::highest(left);
            self.back.left = left & !index.bit();
            // SAFETY: the slot is one of those left.
            unsafe { self.back.entry(index) }
        } else {
            match self.seek_back() {
                Some(entry) => entry,
                None => {
                    self.end();
                    return None;
                }
            }
        };
        if key <= self.first {
            let within = key == self.first;
            self.end();
            return within.then_some((key, value));
        }
        self.last = key - 1;
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
