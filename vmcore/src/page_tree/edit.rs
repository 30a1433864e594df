//! Changing a tree: inserting and removing.
//!
//! All that can fail (taking nodes, duplicating values) comes before the first change of content.

use super::context::{NotInserted, Removed, TreeContext, TreeError, TreeValue};
use super::find::{contains, last_key};
use super::node::{Link, Node, Shift, SlotIndex};
use super::share::{Place, for_each, give, release};
use super::{PageTree, ends};
use core::ops::RangeBounds;

/// Whether all that the node can hold lies in `first ..= last`.
pub(super) fn within(node: &Node, shift: Shift, first: u64, last: u64) -> bool {
    first <= node.base() && last_key(node, shift) <= last
}

impl<V: TreeValue> PageTree<V> {
    /// Puts a value at `key`, and gives back the one that was there. O(depth), plus copying what is shared
    /// on the path.
    ///
    /// # Errors
    ///
    /// The value, with [`TreeError::OutOfNodes`] or [`TreeError::CannotDuplicate`]. Neither can be if the
    /// [nodes needed](Self::nodes_needed_to_insert) are there and the path was
    /// [prepared](Self::prepare_insert) or nothing is shared.
    pub fn insert<C: TreeContext<V>>(
        &mut self,
        key: u64,
        value: V,
        context: &mut C,
    ) -> Result<Option<V>, NotInserted<V>> {
        // Asked for here, so that nothing foreign runs between finding the place and filling it.
        let bits = value.into_bits();
        let leaf = match self.leaf_for(key, context) {
            Ok(leaf) => leaf,
            Err(error) => return Err(NotInserted { value, error }),
        };
        let index = SlotIndex::of(key, Shift::LEAF);
        // SAFETY: `leaf_for` made it and all above it unshared, and the tree is borrowed exclusively.
        let node: &mut Node = unsafe { leaf.node_mut() };
        if node.present() & index.bit() != 0 {
            // SAFETY: it is a leaf, and the slot is present.
            let old = unsafe { node.value(index) };
            // SAFETY: it is a leaf.
            unsafe { node.set_value(index, bits) };
            return Ok(Some(V::from_bits(old)));
        }
        // SAFETY: it is a leaf.
        unsafe { node.set_value(index, bits) };
        let is_full = node.full() == u64::MAX;
        self.length += 1;
        if is_full {
            self.mark_full(key);
        }
        Ok(None)
    }

    /// The value at `key`; if there is none, the one that `make` gives, which is inserted. O(depth).
    ///
    /// # Errors
    ///
    /// What `make` fails with, or why the value could not be inserted (it is then
    /// [discarded](super::ValueOwner::discard)). The content is as before.
    pub fn get_or_insert_with<C: TreeContext<V>, E: From<TreeError>>(
        &mut self,
        key: u64,
        context: &mut C,
        make: impl FnOnce(&mut C) -> Result<V, E>,
    ) -> Result<V, E> {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let value = make(context)?;
        match self.insert(key, value, context) {
            Ok(_) => Ok(value),
            Err(NotInserted { value, error }) => {
                context.discard(value);
                Err(error.into())
            }
        }
    }

    /// The leaf that spans `key`, unshared with all above it; a new, still empty one if there is none.
    /// When it fails the content is as before, though some of it may have been copied.
    fn leaf_for<C: TreeContext<V>>(&mut self, key: u64, context: &mut C) -> Result<Link, TreeError> {
        let mut place: Place = None;
        let mut link = self.root;
        loop {
            if link.is_none() {
                let leaf = new_leaf(key, context)?;
                // SAFETY: the place is absent, its key range spans `key`, and all above is unshared.
                unsafe { self.put(place, leaf) };
                return Ok(leaf);
            }
            // SAFETY: the tree holds the node, which is not changed while it is looked at here.
            let node: &Node = unsafe { link.node() };
            if !contains(node, link.shift(), key) {
                // SAFETY: `link` is what `place` holds, it does not span `key`, all above is unshared.
                return unsafe { self.branch(place, link, key, context) };
            }
            // SAFETY: `link` is what `place` holds, and the loop has made all nodes above unshared.
            link = unsafe { self.own(place, link, key, context) }?;
            if link.shift().is_leaf() {
                return Ok(link);
            }
            let index = SlotIndex::of(key, link.shift());
            place = Some((link, index));
            // SAFETY: the node lives and is not a leaf.
            link = unsafe { link.node().child(index) };
        }
    }

    /// Puts a new node at `place` that has the old one and a new leaf for `key` as its children.
    ///
    /// # Safety
    ///
    /// `old` is what `place` holds, is not null and does not span `key`; all above it is unshared.
    unsafe fn branch<C: TreeContext<V>>(
        &mut self,
        place: Place,
        old: Link,
        key: u64,
        context: &mut C,
    ) -> Result<Link, TreeError> {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node: &Node = unsafe { old.node() };
        // The key is outside of the old node's span, so they part above it; both are inside of the
        // place's slot, so they part below its node.
        let shift = Shift::parting(key, node.base());
        let leaf = new_leaf(key, context)?;
        let Ok(fresh) = context.take() else {
            // SAFETY: the leaf was made above, and nothing refers to it.
            unsafe { give(leaf, context) };
            return Err(TreeError::OutOfNodes { key });
        };
        // SAFETY: the store gave the node to this call alone.
        let branch = unsafe { Node::place(fresh, shift, key) };
        // SAFETY: nobody else knows of the branch yet.
        let branched: &mut Node = unsafe { branch.node_mut() };
        let beside = SlotIndex::of(node.base(), shift);
        // SAFETY: it is above the old node, so not a leaf; the keys part here, into different slots.
        unsafe {
            branched.set_child(beside, old);
            branched.set_child(SlotIndex::of(key, shift), leaf);
        }
        if old.shift().above() == shift && node.full() == u64::MAX {
            branched.set_full(beside);
        }
        // SAFETY: the place's slot spans both children, and all above is unshared.
        unsafe { self.put(place, branch) };
        Ok(leaf)
    }

    /// Notes in the nodes above that the leaf of `key`, and whatever that fills, is full. Once per 64
    /// insertions, and per 4,096, and so on. All nodes on the path are unshared.
    fn mark_full(&mut self, key: u64) {
        let mut shift = Shift::LEAF;
        while shift != shift.above() {
            shift = shift.above();
            let mut link = self.root;
            while link.shift() > shift {
                // SAFETY: the path of a key that is present has no null link, and the node is no leaf.
                link = unsafe { link.node().child(SlotIndex::of(key, link.shift())) };
            }
            if link.shift() != shift {
                // Not stored: the span of the next node above is wider than what is full.
                return;
            }
            // SAFETY: the path is unshared, and the tree is borrowed exclusively.
            let node: &mut Node = unsafe { link.node_mut() };
            node.set_full(SlotIndex::of(key, shift));
            if node.full() != u64::MAX {
                return;
            }
        }
    }

    /// Takes the value at `key` out. Nodes that become empty or superfluous go back to the store.
    /// O(depth), plus copying what is shared on the path.
    ///
    /// # Errors
    ///
    /// As for [`remove_range`](Self::remove_range); never where nothing is shared.
    pub fn remove<C: TreeContext<V>>(&mut self, key: u64, context: &mut C) -> Result<Option<V>, TreeError> {
        if !self.contains_key(key) {
            return Ok(None);
        }
        self.prepare_insert(key, context)?;
        let mut above: Place = None;
        let mut place: Place = None;
        let mut link = self.root;
        while !link.shift().is_leaf() {
            let index = SlotIndex::of(key, link.shift());
            // SAFETY: the path of a key that is present has no null link; it was made unshared, and
            // the tree is borrowed exclusively.
            let node: &mut Node = unsafe { link.node_mut() };
            node.clear_full(index);
            above = place;
            place = Some((link, index));
            // SAFETY: it is no leaf.
            link = unsafe { node.child(index) };
        }
        let index = SlotIndex::of(key, Shift::LEAF);
        // SAFETY: as for the nodes above it.
        let leaf: &mut Node = unsafe { link.node_mut() };
        // SAFETY: it is a leaf, and the slot is present.
        let value = V::from_bits(unsafe { leaf.value(index) });
        // SAFETY: it is a leaf.
        unsafe { leaf.clear_values(index.bit()) };
        self.length -= 1;
        if leaf.present() == 0 {
            // SAFETY: the leaf is empty, unshared, and what `place` holds; all above is unshared.
            unsafe { self.unlink(above, place, link, context) };
        }
        Ok(Some(value))
    }

    /// Takes an empty leaf out of its parent, and the parent out of its own if that leaves it one child.
    ///
    /// # Safety
    ///
    /// `leaf` is empty and what `place` of this tree holds; `above` is the place of the node that `place` is in,
    /// if it is in one; the leaf and all above it are unshared.
    unsafe fn unlink<C: TreeContext<V>>(&mut self, above: Place, place: Place, leaf: Link, context: &mut C) {
        // SAFETY: the caller's promises.
        unsafe { self.put(place, Link::NONE) };
        if let Some((parent, _)) = place {
            // SAFETY: the parent lives, and nobody changes it meanwhile.
            let node: &Node = unsafe { parent.node() };
            // It had two children at least, so at least one is left.
            if node.present().is_power_of_two() {
                // SAFETY: it is no leaf.
                let child = unsafe { node.child(SlotIndex::lowest(node.present())) };
                // SAFETY: the child's keys lie in the parent's span and so in the slot that held it. The
                // parent's reference to the child goes with it.
                unsafe { self.put(above, child) };
                // SAFETY: nothing refers to the parent any more.
                unsafe { give(parent, context) };
            }
        }
        // SAFETY: nothing refers to the leaf any more.
        unsafe { give(leaf, context) };
    }

    /// Takes all values of `range` out, in order of their keys, and says how many those were. `removed` is
    /// called with each key, counted in pages, and its value. Nodes that become empty or superfluous go
    /// back to the store. O(keys removed + depth), plus copying what is shared along the range's two ends;
    /// what is shared within it is let go of without being copied.
    ///
    /// # Errors
    ///
    /// [`TreeError::OutOfNodes`] or [`TreeError::CannotDuplicate`], before anything is removed. Neither can
    /// be if the range was [prepared](Self::prepare_remove_range), or nothing is shared.
    pub fn remove_range<C: TreeContext<V>>(
        &mut self,
        range: impl RangeBounds<u64>,
        context: &mut C,
        removed: impl FnMut(&mut C, u64, Removed<V>),
    ) -> Result<u64, TreeError> {
        let Some((first, last)) = ends(range) else {
            return Ok(0);
        };
        if !self.any_within(first, last) {
            return Ok(0);
        }
        self.prepare_remove_range(first..=last, context)?;
        let mut removal = Removal { first, last, context, removed, count: 0, values: core::marker::PhantomData };
        // While code of others runs the tree holds nothing: if that panics, nodes leak, no more.
        let length = core::mem::take(&mut self.length);
        let root = core::mem::replace(&mut self.root, Link::NONE);
        // SAFETY: there is a root, since some key is present, and what the range covers in part was made
        // unshared right before.
        self.root = unsafe { removal.remove_in(root) };
        self.length = length - removal.count;
        Ok(removal.count)
    }

    /// Takes all values from `from` on out: [`remove_range`](Self::remove_range) to the last key.
    ///
    /// # Errors
    ///
    /// As for [`remove_range`](Self::remove_range).
    pub fn truncate<C: TreeContext<V>>(
        &mut self,
        from: u64,
        context: &mut C,
        removed: impl FnMut(&mut C, u64, Removed<V>),
    ) -> Result<u64, TreeError> {
        self.remove_range(from.., context, removed)
    }
}

/// A new leaf for `key`, empty yet.
fn new_leaf<V: TreeValue, C: TreeContext<V>>(key: u64, context: &mut C) -> Result<Link, TreeError> {
    let fresh = context.take().map_err(|_| TreeError::OutOfNodes { key })?;
    // SAFETY: the store gave the node to this call alone.
    Ok(unsafe { Node::place(fresh, Shift::LEAF, key) })
}

/// A range on its way out of a tree.
struct Removal<'c, V, C, F> {
    first: u64,
    last: u64,
    context: &'c mut C,
    removed: F,
    count: u64,
    values: core::marker::PhantomData<V>,
}

impl<V: TreeValue, C: TreeContext<V>, F: FnMut(&mut C, u64, Removed<V>)> Removal<'_, V, C, F> {
    /// Removes the range's part of a subtree and says what is left of it, null if nothing.
    ///
    /// Recursion: at most one call per level, 11.
    ///
    /// # Safety
    ///
    /// The link is not null; the caller owns one reference to its node and puts the result in its place;
    /// nodes that the range covers in part, and all above them, are unshared and nobody else's.
    unsafe fn remove_in(&mut self, link: Link) -> Link {
        let shift = link.shift();
        // SAFETY: the caller's reference keeps the node alive; nothing changes it while it is read here.
        let node: &Node = unsafe { link.node() };
        if last_key(node, shift) < self.first || self.last < node.base() {
            return link;
        }
        if within(node, shift, self.first, self.last) {
            // SAFETY: the caller's reference is used up: nothing is left in the node's place.
            unsafe { self.take_all(link) };
            return Link::NONE;
        }
        let lowest = SlotIndex::of(self.first.max(node.base()), shift);
        let highest = SlotIndex::of(self.last.min(last_key(node, shift)), shift);
        let affected = node.present() & lowest.and_after() & highest.and_before();
        let present = if shift.is_leaf() {
            for_each(affected, |index| {
                // SAFETY: it is a leaf, and the slot is present.
                let value = V::from_bits(unsafe { node.value(index) });
                self.report(node, index, Removed::Owned(value));
            });
            // SAFETY: a node that the range covers in part is unshared, as the caller promises.
            let node: &mut Node = unsafe { link.node_mut() };
            // SAFETY: it is a leaf.
            unsafe { node.clear_values(affected) };
            node.present()
        } else {
            for_each(affected, |index| {
                let before = self.count;
                // SAFETY: the node is no leaf, and the slot's reference is the callee's until its result
                // replaces it right below. (If foreign code panics in between, nothing refers to this
                // node any more: the root was detached.)
                let (child, left) = unsafe {
                    let child = link.node().child(index);
                    (child, self.remove_in(child))
                };
                // SAFETY: as for a leaf above; no other reference to the node is used meanwhile.
                let node: &mut Node = unsafe { link.node_mut() };
                if left != child {
                    // SAFETY: it is no leaf, and what is left of the child lies in its slot's range.
                    unsafe { node.set_child(index, left) };
                } else if self.count != before {
                    node.clear_full(index);
                }
            });
            // SAFETY: the node is alive, and the mutable references above are gone.
            unsafe { link.node() }.present()
        };
        if present == 0 {
            // SAFETY: the node is unshared and empty, and the caller forgets it.
            unsafe { give(link, self.context) };
            return Link::NONE;
        }
        if !shift.is_leaf() && present.is_power_of_two() {
            // A node with one child says nothing that the child does not.
            // SAFETY: the node is unshared and no leaf; its reference to the child goes to the caller,
            // who forgets the node.
            unsafe {
                let child = link.node().child(SlotIndex::lowest(present));
                give(link, self.context);
                return child;
            }
        }
        link
    }

    /// Reports all of a subtree and lets go of it.
    ///
    /// Recursion: at most one call per level, 11.
    ///
    /// # Safety
    ///
    /// The link is not null, and the caller owned one reference to its node, which it no longer uses;
    /// all nodes above were unshared.
    unsafe fn take_all(&mut self, link: Link) {
        // SAFETY: the reference that is let go keeps the node alive until the end.
        let node: &Node = unsafe { link.node() };
        if node.is_shared() {
            // SAFETY: the node is alive until it is released right below.
            unsafe { self.show_all(link) };
            // SAFETY: as the caller promises. If the others let go in the meantime, this takes all apart.
            unsafe { release(link, self.context) };
            return;
        }
        for_each(node.present(), |index| {
            if link.shift().is_leaf() {
                // SAFETY: it is a leaf, and the slot is present.
                let value = V::from_bits(unsafe { node.value(index) });
                self.report(node, index, Removed::Owned(value));
            } else {
                // SAFETY: it is no leaf, and the slot is present; its reference goes with the node.
                unsafe { self.take_all(node.child(index)) };
            }
        });
        // SAFETY: nobody else holds the node, and the caller forgets it.
        unsafe { give(link, self.context) };
    }

    /// Reports all of a subtree that others hold too.
    ///
    /// Recursion: at most one call per level, 11.
    ///
    /// # Safety
    ///
    /// The link is not null, and its node stays alive.
    unsafe fn show_all(&mut self, link: Link) {
        // SAFETY: as the caller promises; a shared node does not change.
        let node: &Node = unsafe { link.node() };
        for_each(node.present(), |index| {
            if link.shift().is_leaf() {
                // SAFETY: it is a leaf, and the slot is present.
                let value = V::from_bits(unsafe { node.value(index) });
                self.report(node, index, Removed::Shared(value));
            } else {
                // SAFETY: it is no leaf, and the slot is present; the node keeps the child alive.
                unsafe { self.show_all(node.child(index)) };
            }
        });
    }

    fn report(&mut self, leaf: &Node, index: SlotIndex, value: Removed<V>) {
        self.count += 1;
        (self.removed)(self.context, leaf.base() | index.offset(Shift::LEAF), value);
    }
}
