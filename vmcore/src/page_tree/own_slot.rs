//! A slot that is one tree's alone, filled and changed where it is: nothing but its leaf is written.
//!
//! ```text
//!   root ──► node ──► leaf 64 │ [6]=c [7]   │ ◄── one: fills [7]          neither writes what the other looks at, but for
//!               │                                                        the nodes above, which both only read
//!               └───► leaf 128 │ [0]=d [1]  │ ◄── another: changes [0]
//! ```
//!
//! So those who agree on who has which leaf may do so beside one another, with the tree shared between them. What a new key changes above its leaf: the count of
//! keys, which is [noted](PageTree::note_filled) by who has the tree again; and that a leaf is full, which is a bit that is set in one step in a word that nobody else looks at meanwhile.

use super::find::contains;
use super::node::{Entry, Link, NodeSize, Shift, SlotIndex};
use super::{PageTree, TreeValue};

/// A slot in a leaf that is, with all above it, held by one tree alone.
pub(crate) struct OwnSlot<'a, V> {
    leaf: Link,
    index: SlotIndex,
    key: u64,
    tree: &'a PageTree<V>,
}

impl<V> PageTree<V> {
    /// The slot for `key` in the leaf that is there for it, if that and all above are this tree's alone. O(depth); looks at nothing that changes while the tree is shared but the nodes' counts.
    #[inline]
    pub(crate) fn own_slot(&self, key: u64) -> Option<OwnSlot<'_, V>> {
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live while it is borrowed, and those above leaves are unchanged.
            let node = unsafe { link.node() };
            if node.is_shared() {
                return None;
            }
            let index = SlotIndex::of(key, node.shift());
            if node.is_leaf() {
                return contains(node, key).then_some(OwnSlot { leaf: link, index, key, tree: self });
            }
            let Entry::Child(child) = node.entry(index) else { return None };
            link = child;
        }
        None
    }

    /// Notes in the nodes above that the node of `key` with this shift, and whatever that fills, is full. Once per 64
    /// insertions, and per 4,096, and so on. All nodes on the path are unshared, and whoever else has the tree meanwhile looks at no marks and changes none but by this.
    #[inline(never)]
    pub(super) fn mark_full(&self, key: u64, mut shift: Shift) {
        while shift != shift.above() {
            shift = shift.above();
            let mut link = self.root;
            while link.shift() > shift {
                // SAFETY: the path of a key that is present has no null link.
                let node = unsafe { link.node() };
                let Entry::Child(child) = node.entry(SlotIndex::of(key, node.shift())) else {
                    return;
                };
                link = child;
            }
            if link.shift() != shift {
                // Not stored: the span of the next node above is wider than what is full.
                return;
            }
            // SAFETY: the path is unshared, and the marks are changed in this way alone.
            let fills = unsafe { link.node().mark_full_beside(SlotIndex::of(key, shift)) };
            if !fills {
                return;
            }
        }
    }

    /// Adds keys that were [filled](OwnSlot::fill) to the count of keys.
    #[inline]
    pub(crate) fn note_filled(&mut self, count: u64) {
        self.length = self.length.wrapping_add(count);
    }
}

impl<V: TreeValue> OwnSlot<'_, V> {
    /// The value, if the key is present.
    ///
    /// # Safety
    /// Nobody changes the leaf meanwhile.
    #[inline]
    pub(crate) unsafe fn value(&self) -> Option<V> {
        // SAFETY: the leaf lives as long as the tree is borrowed; the caller's promise.
        match unsafe { self.leaf.node() }.entry(self.index) {
            Entry::Value(bits) => Some(V::from_bits(bits)),
            Entry::Absent | Entry::Child(_) => None,
        }
    }

    /// Whether the slot, which is absent, can be filled.
    ///
    /// # Safety
    /// Nobody changes the leaf meanwhile.
    #[inline]
    pub(crate) unsafe fn has_room(&self) -> bool {
        // SAFETY: the leaf lives as long as the tree is borrowed; the caller's promise.
        let node = unsafe { self.leaf.node() };
        self.leaf.is_direct() || node.size() == NodeSize::Full || node.count() < node.size().slots()
    }

    /// Puts a value into the slot, which is absent.
    ///
    /// # Safety
    /// Nobody looks at or changes the leaf meanwhile, which [has room](Self::has_room). The key is [noted](PageTree::note_filled).
    #[inline]
    pub(crate) unsafe fn fill(self, value: V) {
        let bits = value.into_bits();
        // SAFETY: the leaf and all above it are held once, by the tree that is borrowed, and nobody else looks at the leaf; it has room.
        let is_full = unsafe {
            let mut leaf = self.leaf.node_mut();
            if self.leaf.is_direct() {
                leaf.set_direct_value(self.index, bits).1
            } else {
                leaf.set_value(self.index, bits);
                leaf.look().full() == u64::MAX
            }
        };
        if is_full {
            self.tree.mark_full(self.key, Shift::LEAF);
        }
    }

    /// Puts another value into the slot, which is present.
    ///
    /// # Safety
    /// Nobody looks at or changes the leaf meanwhile.
    #[inline]
    pub(crate) unsafe fn replace(self, value: V) {
        let bits = value.into_bits();
        // SAFETY: as for `fill`; the slot is present in a leaf.
        unsafe { self.leaf.node_mut().replace_value(self.index, bits) };
    }
}
