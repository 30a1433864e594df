//! Changing a tree: inserting and removing.
//!
//! All that can fail (taking nodes, duplicating values) comes before the first change of content.

use super::context::{NotInserted, Removed, TreeContext, TreeError, TreeValue};
use super::find::{contains, last_key};
use super::node::{Entry, Link, Node, NodeRef, NodeSize, Shift, SlotIndex};
use super::share::{Place, Span, for_each, give, release};
use super::{PageTree, ends};
use core::num::NonZeroU64;
use core::ops::RangeBounds;

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
        let index = SlotIndex::of(key, Shift::LEAF);
        if let Some(leaf) = self.own_leaf(key).filter(|leaf| leaf.is_direct()) {
            // SAFETY: it and all above it are this tree's alone, which is borrowed exclusively; it is a leaf, and direct.
            let (old, is_full) = unsafe { leaf.node_mut().set_direct_value(index, bits) };
            if old.is_none() {
                self.length += 1;
                if is_full {
                    self.mark_full(key, Shift::LEAF);
                }
            }
            return Ok(old.map(V::from_bits));
        }
        let leaf = match self.leaf_for(key, context) {
            Ok(leaf) => leaf,
            Err(error) => return Err(NotInserted { value, error }),
        };
        // SAFETY: it and all above it are unshared, and the tree is borrowed exclusively.
        let mut node = unsafe { leaf.node_mut() };
        if let Entry::Value(old) = node.look().entry(index) {
            // SAFETY: it is a leaf, and the slot is present.
            unsafe { node.replace_value(index, bits) };
            return Ok(Some(V::from_bits(old)));
        }
        // SAFETY: it is a leaf, and has room.
        unsafe { node.set_value(index, bits) };
        let is_full = node.look().full() == u64::MAX;
        self.length += 1;
        if is_full {
            self.mark_full(key, Shift::LEAF);
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

    /// The leaf that spans `key`, unshared with all above it, and with room for it; a new, still empty one if there
    /// is none. A run that spans the key is split.
    /// When it fails the content is as before, though some of it may have been copied.
    #[inline(never)]
    fn leaf_for<C: TreeContext<V>>(&mut self, key: u64, context: &mut C) -> Result<Link, TreeError> {
        let mut place: Place = None;
        let mut link = self.root;
        loop {
            if link.is_none() {
                let size = match place {
                    // SAFETY: the tree holds the node, which is not changed while it is looked at here.
                    Some((parent, index)) => NodeSize::of_new_leaf(unsafe { parent.node() }.full(), index),
                    None => NodeSize::Small,
                };
                let leaf = new_leaf(size, key, context)?;
                // SAFETY: the place is absent, with room, its key range spans `key`, and all above is unshared.
                unsafe { self.put(place, leaf) };
                return Ok(leaf);
            }
            // SAFETY: the tree holds the node, which is not changed while it is looked at here.
            let node = unsafe { link.node() };
            if !contains(node, key) {
                let leaf = new_leaf(NodeSize::Small, key, context)?;
                // SAFETY: `link` is what `place` holds, it does not span `key`, all above is unshared.
                return match unsafe { self.branch(place, link, leaf, key, context) } {
                    Ok(()) => Ok(leaf),
                    Err(error) => {
                        // SAFETY: the leaf was made above, and nothing refers to it.
                        unsafe { give(leaf, context) };
                        Err(error)
                    }
                };
            }
            let index = SlotIndex::of(key, node.shift());
            let extra = u32::from(node.present() & index.bit() == 0);
            // SAFETY: `link` is what `place` holds, and the loop has made all nodes above unshared.
            link = unsafe { self.own(place, link, extra, key, context) }?;
            // SAFETY: the tree holds the node, which is not changed while it is looked at here.
            let node = unsafe { link.node() };
            if node.is_leaf() {
                return Ok(link);
            }
            (place, link) = match node.entry(index) {
                Entry::Child(child) => (Some((link, index)), child),
                Entry::Absent => (Some((link, index)), Link::NONE),
                // SAFETY: `place` holds the node and its slot this run; the node and all above are unshared.
                Entry::Value(bits) => unsafe { self.split_slot(place, link, bits, key, context) }?,
            };
        }
    }

    /// Puts a new node at `place` that has the old one and a new one for `key` as its children.
    ///
    /// # Safety
    ///
    /// `old` is what `place` holds, is not null and does not span `key`; `new` spans it, is no larger, and nobody else
    /// knows of it; all above the place is unshared.
    pub(super) unsafe fn branch<C: TreeContext<V>>(
        &mut self,
        place: Place,
        old: Link,
        new: Link,
        key: u64,
        context: &mut C,
    ) -> Result<(), TreeError> {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node = unsafe { old.node() };
        // The key is outside of the old node's span, so they part above it; both are inside of the
        // place's slot, so they part below its node.
        let shift = Shift::parting(key, node.base());
        let size = NodeSize::of_node(2, shift, place.is_none());
        let fresh = context.take(size).map_err(|_| TreeError::OutOfNodes { key })?;
        // SAFETY: the store gave the node to this call alone.
        let branch = unsafe { Node::place(fresh, size, shift, key) };
        // SAFETY: nobody else knows of the branch yet.
        let mut branched = unsafe { branch.node_mut() };
        let beside = SlotIndex::of(node.base(), shift);
        // SAFETY: it is above the old node, so not a leaf; the keys part here, into different slots; there is room for
        // three.
        unsafe {
            branched.set_child(beside, old);
            branched.set_child(SlotIndex::of(key, shift), new);
        }
        if old.shift().above() == shift && node.full() == u64::MAX {
            branched.set_full(beside);
        }
        // SAFETY: the place's slot holds the old node and spans both children, and all above is unshared.
        unsafe { self.put(place, branch) };
        Ok(())
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
        loop {
            let index = SlotIndex::of(key, link.shift());
            // SAFETY: the path of a key that is present has no null link; it was made unshared, and
            // the tree is borrowed exclusively.
            let mut node = unsafe { link.node_mut() };
            match node.look().entry(index) {
                Entry::Child(child) => {
                    node.clear_full(index);
                    above = place;
                    place = Some((link, index));
                    link = child;
                }
                Entry::Value(bits) => {
                    node.remove(index.bit());
                    self.length -= 1;
                    if node.look().present() == 0 {
                        // SAFETY: the leaf is empty, unshared, and what `place` holds; all above is unshared.
                        unsafe { self.unlink(above, place, link, context) };
                    }
                    return Ok(Some(V::from_bits(bits)));
                }
                Entry::Absent => return Ok(None),
            }
        }
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
            // It had two children, or a run, so something is left.
            // SAFETY: the parent lives, and nobody changes it meanwhile.
            if let Some(child) = single_child(unsafe { parent.node() }) {
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
    /// [`TreeError::OutOfNodes`], [`TreeError::CannotDuplicate`] or [`TreeError::CannotSplit`], before anything is
    /// removed. None can be if the range was [prepared](Self::prepare_remove_range), or nothing is shared and no run
    /// lies across its ends.
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
fn new_leaf<V: TreeValue, C: TreeContext<V>>(size: NodeSize, key: u64, context: &mut C) -> Result<Link, TreeError> {
    let fresh = context.take(size).map_err(|_| TreeError::OutOfNodes { key })?;
    // SAFETY: the store gave the node to this call alone.
    Ok(unsafe { Node::place(fresh, size, Shift::LEAF, key) })
}

/// The child of a node that holds nothing else: such a node says nothing that the child does not.
pub(super) fn single_child(node: NodeRef<'_>) -> Option<Link> {
    if !node.present().is_power_of_two() {
        return None;
    }
    match node.entry(SlotIndex::lowest(node.present())) {
        Entry::Child(child) => Some(child),
        Entry::Value(_) | Entry::Absent => None,
    }
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
        // SAFETY: the caller's reference keeps the node alive; nothing changes it while it is read here.
        let node = unsafe { link.node() };
        let shift = node.shift();
        if last_key(node) < self.first || self.last < node.base() {
            return link;
        }
        if Span::of(node).within(self.first, self.last) {
            // SAFETY: the caller's reference is used up: nothing is left in the node's place.
            unsafe { self.take_all(link) };
            return Link::NONE;
        }
        let lowest = SlotIndex::of(self.first.max(node.base()), shift);
        let highest = SlotIndex::of(self.last.min(last_key(node)), shift);
        let affected = node.present() & lowest.and_after() & highest.and_before();
        for_each(affected, |index| match node.entry(index) {
            Entry::Absent => {}
            Entry::Value(bits) => {
                self.report(node, index, bits, true);
                // SAFETY: a node that the range covers in part is unshared, as the caller promises.
                unsafe { link.node_mut() }.remove(index.bit());
            }
            Entry::Child(child) => {
                let before = self.count;
                // SAFETY: the slot's reference becomes the callee's, and its result is put in its place.
                let left = unsafe { self.remove_in(child) };
                // SAFETY: as for a value.
                let mut node = unsafe { link.node_mut() };
                if left != child {
                    // SAFETY: it is no leaf, the slot is present, and what is left of the child lies in its range.
                    unsafe { node.set_child(index, left) };
                } else if self.count != before {
                    node.clear_full(index);
                }
            }
        });
        let child = single_child(node);
        if child.is_some() || node.present() == 0 {
            // SAFETY: the node is unshared and empty, or its reference to its only child goes to the caller; who forgets
            // the node.
            unsafe { give(link, self.context) };
            return child.unwrap_or(Link::NONE);
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
        let node = unsafe { link.node() };
        if node.is_shared() {
            // SAFETY: the node is alive until it is released right below.
            unsafe { self.show_all(link) };
            // SAFETY: as the caller promises. If the others let go in the meantime, this takes all apart.
            unsafe { release(link, self.context) };
            return;
        }
        for_each(node.present(), |index| match node.entry(index) {
            Entry::Absent => {}
            Entry::Value(bits) => self.report(node, index, bits, true),
            // SAFETY: its reference goes with the node.
            Entry::Child(child) => unsafe { self.take_all(child) },
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
        let node = unsafe { link.node() };
        for_each(node.present(), |index| match node.entry(index) {
            Entry::Absent => {}
            Entry::Value(bits) => self.report(node, index, bits, false),
            // SAFETY: the node keeps the child alive.
            Entry::Child(child) => unsafe { self.show_all(child) },
        });
    }

    fn report(&mut self, node: NodeRef<'_>, index: SlotIndex, bits: NonZeroU64, owned: bool) {
        let (value, count) = (V::from_bits(bits), node.shift().slot_mask() + 1);
        let removed = match (node.is_leaf(), owned) {
            (true, true) => Removed::Owned(value),
            (true, false) => Removed::Shared(value),
            (false, true) => Removed::OwnedRun(value, count),
            (false, false) => Removed::SharedRun(value, count),
        };
        self.count += count;
        (self.removed)(self.context, node.first_key(index), removed);
    }
}
