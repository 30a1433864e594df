//! Structural sharing: holding a tree twice, copying a node before a write, letting go of nodes.
//!
//! # Order of counts
//!
//! A node that is copied hands its children to the copy: their counts rise before the count of the original
//! falls (with release). Whoever then finds the original unshared (with acquire) also finds the children
//! shared, and does not write what two trees hold.

use super::context::{TreeContext, TreeError, TreeValue};
use super::find::{contains, last_key};
use super::needed::NodesNeeded;
use super::node::{Entry, Link, Node, NodeMut, NodeRef, NodeSize, Shift, SlotIndex};
use super::{PageTree, ends};
use crate::word::{Ordering, fence};
use core::marker::PhantomData;
use core::ops::RangeBounds;

/// Far from overflow, and far above any number of holders that memory has room for.
const MOST_HOLDERS: usize = usize::MAX / 2;

/// Where a link is kept: in the slot of a parent, or (`None`) as the root.
pub(super) type Place = Option<(Link, SlotIndex)>;

/// The keys from `first` to `last`: what a node spans, or a slot.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn of(node: NodeRef<'_>) -> Self {
        Self { first: node.base(), last: last_key(node) }
    }

    /// Of the slot with `key` in a node with this shift.
    pub(super) const fn of_slot(key: u64, shift: Shift) -> Self {
        Self { first: key & !shift.slot_mask(), last: key | shift.slot_mask() }
    }

    pub(super) const fn contains(self, key: u64) -> bool {
        self.first <= key && key <= self.last
    }

    /// Whether all of it lies in `first ..= last`.
    pub(super) const fn within(self, first: u64, last: u64) -> bool {
        first <= self.first && self.last <= last
    }
}

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
    /// are unshared; the link's keys lie in the slot's range; the slot is present or the parent has room.
    pub(super) unsafe fn put(&mut self, place: Place, link: Link) {
        match place {
            None => self.root = link,
            // SAFETY: the caller's promises; a parent is not a leaf.
            Some((parent, index)) => unsafe { parent.node_mut().set_child(index, link) },
        }
    }

    /// Puts a link to another node with the same keys in place of the one that is there.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put), and the place holds a node.
    pub(super) unsafe fn relink(&mut self, place: Place, link: Link) {
        match place {
            None => self.root = link,
            // SAFETY: the caller's promises; a parent is not a leaf.
            Some((parent, index)) => unsafe { parent.node_mut().replace_child(index, link) },
        }
    }
}

impl<V: TreeValue> PageTree<V> {
    /// Makes the node at `place` unshared with room for `extra` more slots, by copying it if it is shared or too
    /// small. The content stays the same.
    ///
    /// # Safety
    ///
    /// `link` is what the place of this tree holds, and is not null; all nodes above are unshared.
    #[inline]
    pub(super) unsafe fn own<C: TreeContext<V>>(
        &mut self,
        place: Place,
        link: Link,
        extra: u32,
        key: u64,
        context: &mut C,
    ) -> Result<Link, TreeError> {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node = unsafe { link.node() };
        let shared = node.is_shared();
        if !shared && (extra == 0 || node.size() == NodeSize::Full || node.count() + extra <= node.size().slots()) {
            return Ok(link);
        }
        // SAFETY: the caller's promises.
        unsafe {
            let size = NodeSize::of_node(node.count() + extra, node.shift(), place.is_none());
            self.replace(place, link, size, shared, key, context)
        }
    }

    /// Puts a node of another size, or a copy of a shared one, in place of the one that is there.
    ///
    /// # Safety
    ///
    /// As for [`own`](Self::own), the size is enough, and the node is unshared if it is not taken as `shared`.
    pub(super) unsafe fn replace<C: TreeContext<V>>(
        &mut self,
        place: Place,
        link: Link,
        size: NodeSize,
        shared: bool,
        key: u64,
        context: &mut C,
    ) -> Result<Link, TreeError> {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node = unsafe { link.node() };
        let fresh = context.take(size).map_err(|_| TreeError::OutOfNodes { key })?;
        // SAFETY: the store gave the node to this call alone.
        let copy = unsafe { Node::place(fresh, size, link.shift(), node.base()) };
        let copy = if node.runs() == 0 { copy } else { copy.indirect() };
        // SAFETY: as above; nobody else knows of the copy yet.
        let mut copied = unsafe { copy.node_mut() };
        if shared {
            if !copy_shared(node, &mut copied, context) {
                // SAFETY: the node was taken from this store above, and nobody knows of it.
                unsafe { context.give(fresh, size) };
                return Err(TreeError::CannotDuplicate { key });
            }
        } else {
            // SAFETY: the size is enough, and the link is indirect if there are runs.
            unsafe { copied.copy_slots(node, node.present()) };
        }
        // SAFETY: the caller's promises; the copy spans what the original does.
        unsafe { self.relink(place, copy) };
        if shared {
            // SAFETY: the place held the one reference that is let go here, and no longer does.
            unsafe { release(link, context) };
        } else {
            // SAFETY: what the node held is the copy's now, and nothing refers to it.
            unsafe { give(link, context) };
        }
        Ok(copy)
    }

    /// Makes every node that spans `key` unshared, and splits the run that does, from the root down, while `go_on`
    /// says so of what they span.
    pub(super) fn own_path<C: TreeContext<V>>(
        &mut self,
        key: u64,
        context: &mut C,
        go_on: impl Fn(Span) -> bool,
    ) -> Result<(), TreeError> {
        let mut place: Place = None;
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the tree holds the node, which is not changed while it is looked at here.
            let node = unsafe { link.node() };
            if !contains(node, key) || !go_on(Span::of(node)) {
                break;
            }
            // SAFETY: `link` is what `place` holds, and the loop has made all nodes above unshared.
            link = unsafe { self.own(place, link, 0, key, context) }?;
            let index = SlotIndex::of(key, link.shift());
            // SAFETY: as above.
            let node = unsafe { link.node() };
            (place, link) = match node.entry(index) {
                Entry::Child(child) => (Some((link, index)), child),
                Entry::Value(bits) if !node.is_leaf() && go_on(Span::of_slot(key, node.shift())) => {
                    // SAFETY: `place` holds the node and its slot this run; the node and all above are unshared.
                    unsafe { self.split_slot(place, link, bits, key, context) }?
                }
                Entry::Value(_) | Entry::Absent => break,
            };
        }
        Ok(())
    }

    /// Copies what is shared on the path to `key`, and splits the run that it is in, so that [`insert`](Self::insert)
    /// there duplicates no value any more and needs no nodes but new ones. Changes no content. O(depth), and the
    /// values of one leaf.
    ///
    /// # Errors
    ///
    /// [`TreeError::OutOfNodes`], [`TreeError::CannotDuplicate`] or [`TreeError::CannotSplit`].
    pub fn prepare_insert<C: TreeContext<V>>(&mut self, key: u64, context: &mut C) -> Result<(), TreeError> {
        self.own_path(key, context, |_| true)
    }

    /// Copies the shared nodes, and splits the runs, that `range` covers in part, so that
    /// [`remove_range`](Self::remove_range) of it cannot fail any more. Changes no content. O(depth), and the values
    /// of two leaves.
    ///
    /// # Errors
    ///
    /// [`TreeError::OutOfNodes`], [`TreeError::CannotDuplicate`] or [`TreeError::CannotSplit`].
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
        // What the range covers in part spans one of its ends.
        let partly = |span: Span| !span.within(first, last);
        self.own_path(first, context, partly)?;
        self.own_path(last, context, partly)
    }

    /// Whether any key of `first ..= last` is present.
    pub(super) fn any_within(&self, first: u64, last: u64) -> bool {
        self.next_present(first).is_some_and(|(key, _)| key <= last)
    }

    /// The nodes that inserting at `key` takes from the store at most, as the tree is now. (Exactly so
    /// many, unless another tree lets go of shared nodes in the meantime.) At most 12. Writes nothing.
    /// O(depth).
    pub fn nodes_needed_to_insert(&self, key: u64) -> NodesNeeded {
        let mut needed = NodesNeeded::NONE;
        let mut shared = false;
        let mut link = self.root;
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node = unsafe { link.node() };
            let is_root = link == self.root;
            if !contains(node, key) {
                needed.add(NodeSize::Small, 1);
                needed.add(NodeSize::of_node(2, Shift::parting(key, node.base()), is_root), 1);
                return needed;
            }
            let entry = node.entry(SlotIndex::of(key, node.shift()));
            // Copying a node shares its children, so all below a shared node is as good as shared.
            shared |= node.is_shared();
            let slots = node.count() + u32::from(matches!(entry, Entry::Absent));
            if shared || slots > node.size().slots() {
                needed.add(NodeSize::of_node(slots, node.shift(), is_root), 1);
            }
            match entry {
                Entry::Child(child) => link = child,
                Entry::Value(_) => {
                    needed.add(NodeSize::Full, levels_split(key, node.shift(), None, |_| true));
                    return needed;
                }
                Entry::Absent => {
                    let size = NodeSize::of_new_leaf(node.full(), SlotIndex::of(key, node.shift()));
                    needed.add(size, usize::from(!node.is_leaf()));
                    return needed;
                }
            }
        }
        needed.add(NodeSize::Small, 1);
        needed
    }

    /// The nodes that removing `range` takes from the store at most, as the tree is now: none where
    /// nothing is shared and no run is cut, at most 21. Writes nothing. O(depth).
    pub fn nodes_needed_to_remove_range(&self, range: impl RangeBounds<u64>) -> NodesNeeded {
        let mut needed = NodesNeeded::NONE;
        let Some((first, last)) = ends(range) else {
            return needed;
        };
        if !self.any_within(first, last) {
            return needed;
        }
        let partly = |span: Span| !span.within(first, last);
        for (key, counted) in [(first, None), (last, Some(first))] {
            let mut shared = false;
            let mut link = self.root;
            while !link.is_none() {
                // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
                let node = unsafe { link.node() };
                if !contains(node, key) || !partly(Span::of(node)) {
                    break;
                }
                shared |= node.is_shared();
                // What spans both ends was counted on the first way down.
                let again = counted.is_some_and(|first| contains(node, first));
                let size = NodeSize::of_node(node.count(), node.shift(), link == self.root);
                needed.add(size, usize::from(shared && !again));
                match node.entry(SlotIndex::of(key, node.shift())) {
                    Entry::Child(child) => link = child,
                    Entry::Value(_) => {
                        needed.add(NodeSize::Full, levels_split(key, node.shift(), counted, partly));
                        break;
                    }
                    Entry::Absent => break,
                }
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

/// How many nodes it takes to split the run in the slot with `key` of a node with this shift, down to where `go_on`
/// stops; none for a leaf. What spans `counted` is not counted again.
pub(super) fn levels_split(key: u64, mut shift: Shift, counted: Option<u64>, go_on: impl Fn(Span) -> bool) -> usize {
    let mut levels = 0;
    while !shift.is_leaf() {
        let span = Span::of_slot(key, shift);
        if !go_on(span) {
            break;
        }
        levels += usize::from(!counted.is_some_and(|counted| span.contains(counted)));
        shift = shift.below();
    }
    levels
}

/// Calls `action` for each set bit, lowest first.
pub(super) fn for_each(mut bits: u64, mut action: impl FnMut(SlotIndex)) {
    while bits != 0 {
        action(SlotIndex::lowest(bits));
        bits &= bits - 1;
    }
}

/// Makes `copy`, which is empty, large enough and linked as indirect if need be, a second holder of all that
/// `original` holds. When a value cannot be duplicated nothing is held twice, and `copy` means nothing.
fn copy_shared<V: TreeValue, C: TreeContext<V>>(
    original: NodeRef<'_>,
    copy: &mut NodeMut<'_>,
    context: &mut C,
) -> bool {
    let copied = if original.is_leaf() {
        let duplicate = |bits| context.duplicate(V::from_bits(bits)).ok().map(TreeValue::into_bits);
        // SAFETY: the copy is large enough, and is such a node as the original.
        unsafe { copy.fill_leaf(original, duplicate) }
    } else {
        copy_children(original, copy);
        copy_runs(original, copy, context)
    };
    if !copied {
        let copied = copy.look();
        for_each(copied.present(), |index| match copied.entry(index) {
            Entry::Absent => {}
            Entry::Child(child) => {
                // SAFETY: the child lives, held by `original`, so this is not the last reference.
                unsafe { child.node() }.references().fetch_sub(1, Ordering::Relaxed);
            }
            Entry::Value(bits) => discard(copied, V::from_bits(bits), context),
        });
    }
    copied
}

/// Makes `copy` a second holder of all children of `original`, of which each slot is taken over as it is.
fn copy_children(original: NodeRef<'_>, copy: &mut NodeMut<'_>) {
    let children = original.present() & !original.runs();
    for_each(children, |index| {
        if let Entry::Child(child) = original.entry(index) {
            // SAFETY: the child lives, held by `original`. Its count cannot overflow, as each holder is a slot in
            // memory or a tree, and those are bounded.
            unsafe { child.node() }.references().fetch_add(1, Ordering::Relaxed);
        }
    });
    // SAFETY: the copy is large enough.
    unsafe { copy.copy_slots(original, children) };
}

/// Makes `copy` a second holder of all runs of `original`; false as soon as one of them cannot be duplicated.
fn copy_runs<V: TreeValue, C: TreeContext<V>>(original: NodeRef<'_>, copy: &mut NodeMut<'_>, context: &mut C) -> bool {
    let count = original.shift().slot_mask().wrapping_add(1);
    let mut left = original.runs();
    while left != 0 {
        let index = SlotIndex::lowest(left);
        left &= left - 1;
        let Entry::Value(bits) = original.entry(index) else { continue };
        let Ok(duplicate) = context.duplicate_run(V::from_bits(bits), count) else { return false };
        // SAFETY: the copy is large enough, and is such a node as the original.
        unsafe { copy.set_run(index, duplicate.into_bits()) };
    }
    true
}

/// Drops what a slot of a node holds, a value or a run.
fn discard<V: TreeValue, C: TreeContext<V>>(node: NodeRef<'_>, value: V, context: &mut C) {
    if node.is_leaf() {
        context.discard(value);
    } else {
        context.discard_run(value, node.shift().slot_mask() + 1);
    }
}

/// Gives a node that nothing refers to any more back to its store.
///
/// # Safety
///
/// The node came from the store of the tree that the context serves, and the link is not used afterwards.
pub(super) unsafe fn give<C: TreeContext<V>, V>(link: Link, context: &mut C) {
    // SAFETY: the node lives until it is given back here.
    let size = unsafe { link.node() }.size();
    // SAFETY: as the caller promises.
    unsafe { context.give(link.pointer(), size) };
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
    let node = unsafe { link.node() };
    if node.references().fetch_sub(1, Ordering::Release) != 1 {
        return;
    }
    // What other holders did with the node happened before it is taken apart.
    fence(Ordering::Acquire);
    if node.is_leaf() && node.size() == NodeSize::Full {
        // SAFETY: it is a full-sized leaf.
        let values = unsafe { node.values() };
        context.discard_all(values.iter().filter_map(|bits| bits.map(V::from_bits)));
    } else {
        for_each(node.present(), |index| match node.entry(index) {
            Entry::Absent => {}
            // SAFETY: its reference goes with the node.
            Entry::Child(child) => unsafe { release(child, context) },
            Entry::Value(bits) => discard(node, V::from_bits(bits), context),
        });
    }
    // SAFETY: that was the last reference.
    unsafe { give(link, context) };
}
