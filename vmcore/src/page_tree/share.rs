//! Structural sharing: holding a tree twice, copying a node before a write, letting go of nodes.
//!
//! # Order of counts
//!
//! A node that is copied hands its children to the copy: their counts rise before the count of the original
//! falls (with release). Whoever then finds the original unshared (with acquire) also finds the children
//! shared, and does not write what two trees hold.

use super::context::{TreeContext, TreeError, TreeValue};
use super::find::contains;
use super::node::{Link, Node, SlotIndex};
use super::{PageTree, ends};
use crate::word::{Ordering, fence};
use core::marker::PhantomData;
use core::ops::RangeBounds;
use core::ptr::NonNull;

/// Far from overflow, and far above any number of holders that memory has room for.
const MOST_HOLDERS: usize = usize::MAX / 2;

/// Where a link is kept: in the slot of a parent, or (`None`) as the root.
pub(super) type Place = Option<(Link, SlotIndex)>;

impl<V> PageTree<V> {
    /// A second tree with the same content, sharing every node. O(1), takes no memory.
    ///
    /// # Errors
    ///
    /// [`TreeError::TooManyShares`] after half of all that can be counted (forgotten trees count).
    pub fn share(&self) -> Result<Self, TreeError> {
        if !self.root.is_none() {
            // SAFETY: the root lives while the tree is borrowed.
            let references = unsafe { self.root.node() }.references();
            // Nothing is read through the new holder that this one has not seen: relaxed is enough.
            let holders = references.fetch_add(1, Ordering::Relaxed);
            if holders >= MOST_HOLDERS {
                // This tree still holds the node, so the count does not reach zero here.
                references.fetch_sub(1, Ordering::Relaxed);
                return Err(TreeError::TooManyShares { holders });
            }
        }
        Ok(Self { root: self.root, length: self.length, values: PhantomData })
    }

    /// Puts a link where it belongs.
    ///
    /// # Safety
    ///
    /// The place is one of this tree, of which the caller has `&mut`; the parent and all nodes above it
    /// are unshared; the link's keys lie in the slot's range.
    pub(super) unsafe fn put(&mut self, place: Place, link: Link) {
        match place {
            None => self.root = link,
            // SAFETY: the caller's promises; a parent is not a leaf.
            Some((parent, index)) => unsafe { parent.node_mut().set_child(index, link) },
        }
    }
}

impl<V: TreeValue> PageTree<V> {
    /// Makes the node at `place` unshared, by copying it if it is shared. The content stays the same.
    ///
    /// # Safety
    ///
    /// `link` is what the place of this tree holds, and is not null; all nodes above are unshared.
    pub(super) unsafe fn own<C: TreeContext<V>>(
        &mut self,
        place: Place,
        link: Link,
        key: u64,
        context: &mut C,
    ) -> Result<Link, TreeError> {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node: &Node = unsafe { link.node() };
        if !node.is_shared() {
            return Ok(link);
        }
        let fresh = context.take().map_err(|_| TreeError::OutOfNodes { key })?;
        // SAFETY: the store gave the node to this call alone.
        let copy = unsafe { Node::place(fresh, link.shift(), node.base()) };
        // SAFETY: as above; nobody else knows of the copy yet.
        let copied: &mut Node = unsafe { copy.node_mut() };
        if link.shift().is_leaf() {
            // SAFETY: both are leaves.
            if unsafe { duplicate_values(node, copied, context) }.is_err() {
                // SAFETY: the node was taken from this store above, and nobody knows of it.
                unsafe { context.give(fresh) };
                return Err(TreeError::CannotDuplicate { key });
            }
        } else {
            copied.copy_slots(node);
            for_each(node.present(), |index| {
                // SAFETY: it is not a leaf, and the slot is present: the child lives, held by `node`. Its count
                // cannot overflow, as each holder is a slot in memory or a tree, and those are bounded.
                unsafe { node.child(index).node() }.references().fetch_add(1, Ordering::Relaxed);
            });
        }
        let full = match place {
            // SAFETY: the parent lives, and nobody changes it but this call.
            Some((parent, index)) => unsafe { parent.node() }.full() & index.bit() != 0,
            None => false,
        };
        // SAFETY: the caller's promises; the copy spans what the original does.
        unsafe { self.put(place, copy) };
        if let (true, Some((parent, index))) = (full, place) {
            // SAFETY: the parent is unshared, and this call has the tree exclusively.
            unsafe { parent.node_mut() }.set_full(index);
        }
        // SAFETY: the place held the one reference that is let go here, and no longer does.
        unsafe { release(link, context) };
        Ok(copy)
    }

    /// Makes every node that spans `key` unshared, from the root down, while `go_on` says so.
    pub(super) fn own_path<C: TreeContext<V>>(
        &mut self,
        key: u64,
        context: &mut C,
        go_on: impl Fn(&Node, Link) -> bool,
    ) -> Result<(), TreeError> {
        let mut place: Place = None;
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the tree holds the node, which is not changed while it is looked at here.
            let node: &Node = unsafe { link.node() };
            if !contains(node, link.shift(), key) || !go_on(node, link) {
                break;
            }
            // SAFETY: `link` is what `place` holds, and the loop has made all nodes above unshared.
            link = unsafe { self.own(place, link, key, context) }?;
            if link.shift().is_leaf() {
                break;
            }
            let index = SlotIndex::of(key, link.shift());
            place = Some((link, index));
            // SAFETY: the node lives and is not a leaf.
            link = unsafe { link.node().child(index) };
        }
        Ok(())
    }

    /// Copies what is shared on the path to `key`, so that [`insert`](Self::insert) there duplicates no
    /// value any more and needs no nodes but new ones. Changes no content. O(depth), and the values of one
    /// leaf.
    ///
    /// # Errors
    ///
    /// [`TreeError::OutOfNodes`] or [`TreeError::CannotDuplicate`].
    pub fn prepare_insert<C: TreeContext<V>>(&mut self, key: u64, context: &mut C) -> Result<(), TreeError> {
        self.own_path(key, context, |_, _| true)
    }

    /// Copies the shared nodes that `range` covers in part, so that [`remove_range`](Self::remove_range) of
    /// it cannot fail any more. Changes no content. O(depth), and the values of two leaves.
    ///
    /// # Errors
    ///
    /// [`TreeError::OutOfNodes`] or [`TreeError::CannotDuplicate`].
    pub fn prepare_remove_range<C: TreeContext<V>>(
        &mut self,
        range: impl RangeBounds<u64>,
        context: &mut C,
    ) -> Result<(), TreeError> {
        let Some((first, last)) = ends(range) else {
            return Ok(());
        };
        if !self.any_within(first, last) {
            return Ok(());
        }
        // A node that the range covers in part spans one of its ends.
        let partly = |node: &Node, link: Link| !super::edit::within(node, link.shift(), first, last);
        self.own_path(first, context, partly)?;
        self.own_path(last, context, partly)
    }

    /// Whether any key of `first ..= last` is present.
    pub(super) fn any_within(&self, first: u64, last: u64) -> bool {
        self.next_present(first).is_some_and(|(key, _)| key <= last)
    }

    /// The nodes that inserting at `key` takes from the store at most, as the tree is now. (Exactly so
    /// many, unless another tree lets go of shared nodes in the meantime.) At most 11. Writes nothing.
    /// O(depth).
    pub fn nodes_needed_to_insert(&self, key: u64) -> usize {
        let mut needed = 0;
        let mut shared = false;
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node: &Node = unsafe { link.node() };
            if !contains(node, link.shift(), key) {
                return needed + 2;
            }
            // Copying a node shares its children, so all below a shared node is as good as shared.
            shared |= node.is_shared();
            needed += usize::from(shared);
            if link.shift().is_leaf() {
                return needed;
            }
            // SAFETY: it is not a leaf.
            link = unsafe { node.child(SlotIndex::of(key, link.shift())) };
        }
        needed + 1
    }

    /// The nodes that removing `range` takes from the store at most, as the tree is now: none where
    /// nothing is shared, at most 21. Writes nothing. O(depth).
    pub fn nodes_needed_to_remove_range(&self, range: impl RangeBounds<u64>) -> usize {
        let Some((first, last)) = ends(range) else {
            return 0;
        };
        if !self.any_within(first, last) {
            return 0;
        }
        let mut needed = 0;
        for (key, counted) in [(first, None), (last, Some(first))] {
            let mut shared = false;
            let mut link = self.root;
            while !link.is_none() {
                // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
                let node: &Node = unsafe { link.node() };
                let shift = link.shift();
                if !contains(node, shift, key) || super::edit::within(node, shift, first, last) {
                    break;
                }
                shared |= node.is_shared();
                // What spans both ends was counted on the first way down.
                let again = counted.is_some_and(|first| contains(node, shift, first));
                needed += usize::from(shared && !again);
                if shift.is_leaf() {
                    break;
                }
                // SAFETY: it is not a leaf.
                link = unsafe { node.child(SlotIndex::of(key, shift)) };
            }
        }
        needed
    }

    /// Lets go of everything: nodes and values that no other tree holds are given back and discarded.
    /// O(nodes and values that this tree holds alone).
    pub fn clear<C: TreeContext<V>>(&mut self, context: &mut C) {
        let root = core::mem::replace(&mut self.root, Link::NONE);
        self.length = 0;
        if !root.is_none() {
            // SAFETY: the tree held one reference and no longer does.
            unsafe { release(root, context) };
        }
    }
}

/// Calls `action` for each set bit, lowest first.
pub(super) fn for_each(mut bits: u64, mut action: impl FnMut(SlotIndex)) {
    while bits != 0 {
        action(SlotIndex::lowest(bits));
        bits &= bits - 1;
    }
}

/// Fills `copy` with duplicates of the values of `original`. When one fails, those made are discarded and what is
/// left in `copy` means nothing.
///
/// # Safety
///
/// Both are leaves.
unsafe fn duplicate_values<V: TreeValue, C: TreeContext<V>>(
    original: &Node,
    copy: &mut Node,
    context: &mut C,
) -> Result<(), ()> {
    let mut left = original.present();
    while left != 0 {
        let index = SlotIndex::lowest(left);
        left &= left - 1;
        // SAFETY: it is a leaf, and the slot is present.
        let value = V::from_bits(unsafe { original.value(index) });
        match context.duplicate(value) {
            // SAFETY: it is a leaf.
            Ok(duplicate) => unsafe { copy.set_value(index, duplicate.into_bits()) },
            Err(_) => {
                for_each(copy.present(), |index| {
                    // SAFETY: it is a leaf, and the slot is present.
                    context.discard(V::from_bits(unsafe { copy.value(index) }));
                });
                return Err(());
            }
        }
    }
    Ok(())
}

/// Gives a node that nothing refers to any more back to its store.
///
/// # Safety
///
/// The node came from the store of the tree that the context serves, and the link is not used afterwards.
pub(super) unsafe fn give<C: TreeContext<V>, V>(link: Link, context: &mut C) {
    let node: NonNull<Node> = link.pointer();
    // SAFETY: as the caller promises.
    unsafe { context.give(node) };
}

/// Lets go of one reference to a node, and if it was the last, of all that the node holds.
///
/// Recursion: at most one call per level, 11.
///
/// # Safety
///
/// The link is not null, and the caller owned one reference to its node, which it no longer uses.
pub(super) unsafe fn release<V: TreeValue, C: TreeContext<V>>(link: Link, context: &mut C) {
    // SAFETY: the reference that is let go has kept the node alive so far.
    let node: &Node = unsafe { link.node() };
    if node.references().fetch_sub(1, Ordering::Release) != 1 {
        return;
    }
    // What other holders did with the node happened before it is taken apart.
    fence(Ordering::Acquire);
    for_each(node.present(), |index| {
        if link.shift().is_leaf() {
            // SAFETY: it is a leaf, and the slot is present.
            context.discard(V::from_bits(unsafe { node.value(index) }));
        } else {
            // SAFETY: it is not a leaf, and the slot is present; its reference goes with the node.
            unsafe { release(node.child(index), context) };
        }
    });
    // SAFETY: that was the last reference.
    unsafe { give(link, context) };
}
