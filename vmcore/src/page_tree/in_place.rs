//! Another representation of the same content, written where it is: no path is copied for it.
//!
//! ```text
//!   a ──┐   ┌──────┐   ┌─────────────────────┐        what is at key 5 is the same page for both, before and after;
//!       ├─► │ root │ ─►│ [5] = frame → token │        only where it is kept has changed
//!   b ──┘   └──────┘   └─────────────────────┘
//! ```

use super::node::SlotIndex;
use super::{PageTree, TreeValue};
use core::num::NonZeroU64;

impl<V: TreeValue> PageTree<V> {
    /// Writes another representation of the value at `key`, as `change` gives it, into the slot that holds it, whoever
    /// shares the slot: all trees that do see it. Gives the value that was there and whether the slot is this tree's
    /// alone; nothing if the key is absent. Of a run it is the first value that is changed, and with it the run. O(depth),
    /// no node and no duplicate is needed.
    ///
    /// That the content is the same (a frame that became a swap token, a page that moved to another frame, a flag that
    /// says nothing about content) is what makes this right for the sharers; a change of content is an
    /// [insertion](Self::insert). What counts the value is for the caller to see to: the slot is one holder before and after.
    ///
    /// # Safety
    ///
    /// While this runs no other CPU reads or changes a tree that shares structure with this one (one lock for all of
    /// them, or nothing is shared).
    pub unsafe fn update_in_place(&mut self, key: u64, change: impl FnOnce(V) -> V) -> Option<(V, bool)> {
        // Foreign code runs before the slot is looked for again, so that none runs while it is held.
        let (index, old, sole) = {
            let found = self.locate(key)?;
            (found.index, V::from_bits(found.bits), self.is_sole_owner(key))
        };
        let bits: NonZeroU64 = change(old).into_bits();
        let link = self.locate(key)?.node.link();
        // SAFETY: the slot was found, in a leaf or as a run, so it is present. That nobody else reads the node meanwhile is
        // the caller's promise, and this call has the tree.
        unsafe { link.node_mut().replace_value(index, bits) };
        Some((old, sole))
    }

    /// Writes another value at `key`, as `change` gives it, if that is present and every node on its path is held by
    /// this tree alone; then nothing needs to be copied. Gives the value that was there. Nothing is changed otherwise, and
    /// not within a run. O(depth).
    ///
    /// ```
    /// use core::num::NonZeroU64;
    /// use vmcore::page_tree::PageTree;
    ///
    /// // SAFETY: no context is ever passed to this tree.
    /// let mut empty = unsafe { PageTree::<NonZeroU64>::new() };
    /// assert_eq!(empty.update_owned(5, |value| value), None);
    /// ```
    pub fn update_owned(&mut self, key: u64, change: impl FnOnce(V) -> V) -> Option<V> {
        let found = self.locate(key).filter(|found| found.node.is_leaf())?;
        let (old, link) = (V::from_bits(found.bits), found.node.link());
        if !self.is_sole_owner(key) {
            return None;
        }
        let bits: NonZeroU64 = change(old).into_bits();
        // SAFETY: the slot is one of a leaf, and present; the leaf and all above are this tree's alone.
        unsafe { link.node_mut().replace_value(SlotIndex::of(key, link.shift()), bits) };
        Some(old)
    }
}
