//! Giving back what nodes that lost keys do not use.

use super::context::{TreeContext, TreeValue};
use super::find::contains;
use super::node::{Entry, Link, NodeSize, SlotIndex};
use super::share::{Place, for_each};
use super::{PageTree, ends};
use core::ops::RangeBounds;

impl<V: TreeValue> PageTree<V> {
    /// Puts nodes that are larger than what they hold needs, and that no other tree holds, into smaller ones, as far as
    /// the store has those: how many it was. The content stays the same, and it cannot fail. Nodes without a key of
    /// `range` are left alone. O(nodes).
    ///
    /// Removing never does this, as it may be what has to work when memory is short.
    pub fn compact<C: TreeContext<V>>(&mut self, range: impl RangeBounds<u64>, context: &mut C) -> u64 {
        match ends(range) {
            Some((first, last)) if !self.root.is_none() => {
                // SAFETY: the root is what this place holds.
                unsafe { self.compact_under(None, self.root, first, last, context) }
            }
            _ => 0,
        }
    }

    /// Recursion: at most one call per level, 11.
    ///
    /// # Safety
    ///
    /// `link` is what the place of this tree holds, and is not null; all nodes above are unshared.
    unsafe fn compact_under<C: TreeContext<V>>(
        &mut self,
        place: Place,
        mut link: Link,
        first: u64,
        last: u64,
        context: &mut C,
    ) -> u64 {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node = unsafe { link.node() };
        let spans_end = contains(node, first) || contains(node, last);
        if node.is_shared() || !spans_end && (node.base() < first || last < node.base()) {
            return 0;
        }
        let mut compacted = 0;
        let size = NodeSize::of_node(node.count(), node.shift(), place.is_none());
        if size < node.size() {
            // SAFETY: the node is what the place holds, and unshared, as are those above; the size is enough.
            if let Ok(smaller) = unsafe { self.replace(place, link, size, false, first, context) } {
                link = smaller;
                compacted += 1;
            }
        }
        // SAFETY: as above.
        let node = unsafe { link.node() };
        if !node.is_leaf() {
            for_each(node.present(), |index: SlotIndex| {
                if let Entry::Child(child) = node.entry(index) {
                    // SAFETY: the slot holds this child, and the node and those above it are unshared.
                    compacted += unsafe { self.compact_under(Some((link, index)), child, first, last, context) };
                }
            });
        }
        compacted
    }
}
