//! Runs: consecutive values held in slots above the leaves, as a large page is.
//!
//! ```text
//!   insert_run(512, 512, f)            a 2 MiB page of 4 KiB frames: eight slots, each of 64 keys and one reference
//!
//!   shift 6   ┌───────────────────────────────────────────────┐
//!             │ [8]=f  [9]=f+64  [10]=f+128  …  [15]=f+448     │
//!             └───────────────────────────────────────────────┘
//!
//!   insert(700, g)                     the slot of key 700, and no other, is split
//!
//!   shift 6   ┌───────────────────────────────────────────────┐
//!             │ [8]=f  [9]=f+64  [10] ──┐       …  [15]=f+448   │
//!             └─────────────────────────┼─────────────────────┘
//!   leaf 640                 ┌──────────┴──────────────────────────────────┐
//!                            │ [0]=f+128  [1]=f+129  …  [60]=g  …  [63]     │
//!                            └─────────────────────────────────────────────┘
//! ```
//!
//! A slot of a node with shift `s` holds a run of 2^`s` values: 64 at shift 6 (256 KiB of 4 KiB pages), 4,096 at 12,
//! 262,144 at 18 (1 GiB). Each slot is one reference, counted on its first value. To split it into 64 smaller runs, or
//! values, is the [owner's](super::ValueOwner::split_run) to allow: where others hold the run too, whoever counts has to
//! tell references to the run from those to its values.

use super::context::{NotInserted, TreeContext, TreeError, TreeValue};
use super::find::{contains, locate_under};
use super::needed::NodesNeeded;
use super::node::{Entry, Link, Node, NodeSize, Shift, SlotIndex};
use super::share::{Place, give};
use super::{PageTree, ends};
use core::fmt;
use core::iter::FusedIterator;
use core::num::NonZeroU64;
use core::ops::RangeBounds;

/// Consecutive keys whose values follow from the first one's, or a single key. Keys are counted in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<V> {
    /// The first key.
    pub key: u64,
    /// The number of keys.
    pub count: u64,
    /// The value at the first key.
    pub value: V,
}

/// The slots of a range that hold something, in order: runs as runs. Made by [`PageTree::runs`].
#[derive(Clone)]
pub struct Runs<'a, V> {
    tree: &'a PageTree<V>,
    /// What is still to come.
    rest: Option<(u64, u64)>,
}

impl<V: TreeValue> Iterator for Runs<'_, V> {
    type Item = Run<V>;

    fn next(&mut self) -> Option<Run<V>> {
        let (from, last) = self.rest.take()?;
        let found = self.tree.seek(from).filter(|found| found.first() <= last)?;
        let (key, end) = (found.first().max(from), found.last().min(last));
        self.rest = end.checked_add(1).filter(|&next| next <= last).map(|next| (next, last));
        Some(Run { key, count: end - key + 1, value: found.value_at(key) })
    }
}

impl<V: TreeValue> DoubleEndedIterator for Runs<'_, V> {
    fn next_back(&mut self) -> Option<Run<V>> {
        let (first, from) = self.rest.take()?;
        let found = self.tree.seek_back(from).filter(|found| found.last() >= first)?;
        let (key, end) = (found.first().max(first), found.last().min(from));
        self.rest = key.checked_sub(1).filter(|&previous| previous >= first).map(|previous| (first, previous));
        Some(Run { key, count: end - key + 1, value: found.value_at(key) })
    }
}

impl<V: TreeValue> FusedIterator for Runs<'_, V> {}

impl<V> fmt::Debug for Runs<'_, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Runs").field("rest", &self.rest).finish_non_exhaustive()
    }
}

/// The parts of a run that one slot each holds: shift and first key, in order.
#[derive(Clone)]
struct Parts {
    key: u64,
    left: u64,
}

impl Iterator for Parts {
    type Item = (u64, Shift);

    fn next(&mut self) -> Option<(u64, Shift)> {
        if self.left == 0 {
            return None;
        }
        let mut shift = Shift::LEAF.above();
        while shift != shift.above()
            && self.key & shift.above().slot_mask() == 0
            && self.left > shift.above().slot_mask()
        {
            shift = shift.above();
        }
        let key = self.key;
        let count = shift.slot_mask() + 1;
        self.key = key.wrapping_add(count);
        self.left = self.left.saturating_sub(count);
        Some((key, shift))
    }
}

/// The parts of a run, if there can be such a run.
fn parts(key: u64, count: u64) -> Result<Parts, TreeError> {
    let possible = count != 0 && (key | count) & 63 == 0 && key.checked_add(count - 1).is_some();
    if possible { Ok(Parts { key, left: count }) } else { Err(TreeError::Misplaced { key, count }) }
}

impl<V: TreeValue> PageTree<V> {
    /// What `range` holds, in order, runs as runs (of one at an end of the range, the part that is in it). O(depth) a
    /// step.
    pub fn runs(&self, range: impl RangeBounds<u64>) -> Runs<'_, V> {
        Runs { tree: self, rest: ends(range) }
    }

    /// What the slot that holds `key` holds, all of it: a run, or a single value; and whether every node on its path is
    /// held by this tree alone. O(depth).
    ///
    /// ```
    /// use core::num::NonZeroU64;
    /// use vmcore::page_tree::PageTree;
    ///
    /// // SAFETY: no context is ever passed to this tree.
    /// let empty = unsafe { PageTree::<NonZeroU64>::new() };
    /// assert_eq!(empty.run_with_ownership(5), None);
    /// ```
    #[inline]
    pub fn run_with_ownership(&self, key: u64) -> Option<(Run<V>, bool)> {
        let mut sole = true;
        // SAFETY: the tree's nodes live, unchanged, while it is borrowed.
        let found = unsafe { locate_under(self.root, key, &mut |node| sole &= !node.is_shared()) }?;
        let (first, last) = (found.first(), found.last());
        Some((Run { key: first, count: last - first + 1, value: V::from_bits(found.bits) }, sole))
    }

    /// Puts a run of `count` values at `key` and the keys after it: `value` and those that
    /// [follow from it](TreeValue::advance). `key` and `count` are multiples of 64. It takes one slot for each 64,
    /// 4,096, … keys that are aligned so, and each slot is one reference, counted on its first value: the caller hands
    /// those over. O(slots × depth), plus copying what is shared on the path.
    ///
    /// A change of a part of it [splits](super::ValueOwner::split_run) a slot.
    ///
    /// ```
    /// use core::num::NonZeroU64;
    /// # use std::{alloc::{alloc, dealloc, Layout}, ptr::NonNull};
    /// # use vmcore::page_tree::*;
    /// # struct Heap;
    /// # fn layout(size: NodeSize) -> Layout { Layout::from_size_align(size.bytes(), NodeSize::ALIGN).unwrap() }
    /// # // SAFETY: the allocator gives each block to one user at a time, of the size asked for.
    /// # unsafe impl NodeStore for Heap {
    /// #     fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
    /// #         // SAFETY: a node's size is not zero.
    /// #         NonNull::new(unsafe { alloc(layout(size)) }.cast()).ok_or(OutOfNodes::new())
    /// #     }
    /// #     unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
    /// #         // SAFETY: the node came from `take`.
    /// #         unsafe { dealloc(node.as_ptr().cast(), layout(size)) }
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut context = Context { nodes: &mut Heap, values: &mut Uncounted };
    /// // SAFETY: all nodes come from the one allocator.
    /// let mut pages = unsafe { PageTree::<NonZeroU64>::new() };
    /// let frame = |number| NonZeroU64::new(number).expect("not zero");
    /// pages.insert_run(512, 512, frame(0x1000), &mut context)?;
    /// assert_eq!((pages.len(), pages.node_count()), (512, 1));
    /// assert_eq!(pages.get(700), Some(frame(0x1000 + 188)));
    /// assert_eq!(pages.runs(..).count(), 8);
    ///
    /// pages.insert(700, frame(7), &mut context)?;
    /// assert_eq!((pages.get(699), pages.get(700)), (Some(frame(0x1000 + 187)), Some(frame(7))));
    /// assert_eq!(pages.runs(..).count(), 7 + 64);
    /// # pages.clear(&mut context);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The value, with [`TreeError::Misplaced`], [`TreeError::Occupied`] where any of the keys is present,
    /// [`TreeError::OutOfNodes`] or [`TreeError::CannotDuplicate`]. The content is as before. The last two cannot be if
    /// the [nodes needed](Self::nodes_needed_to_insert_run) are there and nothing is shared.
    pub fn insert_run<C: TreeContext<V>>(
        &mut self,
        key: u64,
        count: u64,
        value: V,
        context: &mut C,
    ) -> Result<(), NotInserted<V>> {
        let refused = |error| NotInserted { value, error };
        let parts = parts(key, count).map_err(refused)?;
        let last = key.saturating_add(count - 1);
        if let Some((occupied, _)) = self.next_present(key).filter(|&(present, _)| present <= last) {
            return Err(refused(TreeError::Occupied { key: occupied }));
        }
        for (at, shift) in parts {
            let bits = value.advance(at - key).into_bits();
            if let Err(error) = self.put_run(at, shift, bits, context) {
                if at != key {
                    // What was put there is this call's, and so are the paths to it: nothing is needed for this.
                    let _ = self.remove_range(key..at, context, |_, _, _| ());
                }
                return Err(refused(error));
            }
            self.length += shift.slot_mask() + 1;
        }
        Ok(())
    }

    /// The nodes that [inserting a run](Self::insert_run) takes from the store at most, as the tree is now; none if it
    /// would be refused. Writes nothing. O(depth + slots).
    pub fn nodes_needed_to_insert_run(&self, key: u64, count: u64) -> NodesNeeded {
        let Ok(parts) = parts(key, count) else {
            return NodesNeeded::NONE;
        };
        // Each part but the first goes into a node that one before went into, or into the next one on the way up or
        // down the levels. Each of those nodes may pass through every size.
        let mut needed = NodesNeeded::NONE;
        let mut node = None;
        for (at, shift) in parts {
            let first = at & !shift.node_mask();
            if node != Some((first, shift)) {
                node = Some((first, shift));
                let mut path = 2;
                let mut link = self.root;
                while !link.is_none() {
                    // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
                    let node = unsafe { link.node() };
                    if !contains(node, at) || node.shift() < shift {
                        break;
                    }
                    path += 1;
                    match node.entry(SlotIndex::of(at, node.shift())) {
                        Entry::Child(child) => link = child,
                        Entry::Value(_) | Entry::Absent => break,
                    }
                }
                needed += NodesNeeded::of_each(path);
            }
        }
        needed
    }

    /// Puts a run into its slot, of a node with this shift.
    fn put_run<C: TreeContext<V>>(
        &mut self,
        key: u64,
        shift: Shift,
        bits: NonZeroU64,
        context: &mut C,
    ) -> Result<(), TreeError> {
        let mut place: Place = None;
        let mut link = self.root;
        loop {
            if link.is_none() {
                let fresh = node_of_run(key, shift, bits, context)?;
                // SAFETY: the place is absent, with room, its key range spans the slot, and all above is unshared.
                unsafe { self.put(place, fresh) };
                return Ok(());
            }
            // SAFETY: the tree holds the node, which is not changed while it is looked at here.
            let node = unsafe { link.node() };
            if !contains(node, key) || node.shift() < shift {
                // No key of the slot is present, so the node is not in it, and they part at its level or above.
                let fresh = node_of_run(key, shift, bits, context)?;
                if Shift::parting(key, node.base()) > shift {
                    // SAFETY: `link` is what `place` holds, does not span the slot, and all above is unshared.
                    let branched = unsafe { self.branch(place, link, fresh, key, context) };
                    if branched.is_err() {
                        // SAFETY: the node was made above, and nothing refers to it.
                        unsafe { give(fresh, context) };
                    }
                    return branched;
                }
                let beside = SlotIndex::of(node.base(), shift);
                // SAFETY: nobody else knows of the fresh node yet; it has room, and the other node lies in another of
                // its slots.
                unsafe {
                    let mut fresh = fresh.node_mut();
                    fresh.set_child(beside, link);
                    if node.shift().above() == shift && node.full() == u64::MAX {
                        fresh.set_full(beside);
                    }
                }
                // SAFETY: the place's slot spans both, and all above is unshared.
                unsafe { self.put(place, fresh) };
                return Ok(());
            }
            let index = SlotIndex::of(key, node.shift());
            let extra = u32::from(node.present() & index.bit() == 0);
            // SAFETY: `link` is what `place` holds, and the loop has made all nodes above unshared.
            link = unsafe { self.own(place, link, extra, key, context) }?;
            // SAFETY: as above.
            let node = unsafe { link.node() };
            if node.shift() == shift {
                if link.is_direct() {
                    link = link.indirect();
                    // SAFETY: it is the same node, unshared, so the place has the only link to it.
                    unsafe { self.relink(place, link) };
                }
                // SAFETY: the node is unshared and no leaf, has room, and is linked as indirect.
                unsafe { link.node_mut().set_run(index, bits) };
                if node.full() == u64::MAX {
                    self.mark_full(key, shift);
                }
                return Ok(());
            }
            place = Some((link, index));
            link = match node.entry(index) {
                Entry::Child(child) => child,
                Entry::Absent => Link::NONE,
                Entry::Value(_) => return Err(TreeError::Occupied { key }),
            };
        }
    }

    /// Makes 64 smaller runs, or values, of the run at `key`, in a node of their own, and says which that is and where it
    /// hangs: in the run's slot, or if the node held nothing else, in that node's place. The content stays the same.
    ///
    /// # Safety
    ///
    /// `link` is what `place` of this tree holds, and the slot with `key` in its node holds the run with these bits; the
    /// node and all above are unshared.
    pub(super) unsafe fn split_slot<C: TreeContext<V>>(
        &mut self,
        place: Place,
        link: Link,
        bits: NonZeroU64,
        key: u64,
        context: &mut C,
    ) -> Result<(Place, Link), TreeError> {
        // SAFETY: the tree holds the node, which is not changed while it is looked at here.
        let node = unsafe { link.node() };
        let (first, run) = (V::from_bits(bits), node.shift().slot_mask() + 1);
        let shift = node.shift().below();
        let part = shift.slot_mask() + 1;
        let fresh = context.take(NodeSize::Full).map_err(|_| TreeError::OutOfNodes { key })?;
        if context.split_run(first, run, part).is_err() {
            // SAFETY: the node was taken from this store above, and nobody knows of it.
            unsafe { context.give(fresh, NodeSize::Full) };
            return Err(TreeError::CannotSplit { key });
        }
        // SAFETY: the store gave the node to this call alone.
        let child = unsafe { Node::place(fresh, NodeSize::Full, shift, key) };
        let child = if shift.is_leaf() { child } else { child.indirect() };
        // SAFETY: nobody else knows of the node yet.
        let mut below = unsafe { child.node_mut() };
        let mut at = 0;
        super::share::for_each(u64::MAX, |index| {
            let bits = first.advance(at).into_bits();
            at += part;
            if shift.is_leaf() {
                // SAFETY: it is a leaf, with room for all.
                unsafe { below.set_value(index, bits) };
            } else {
                // SAFETY: it is no leaf, with room for all, and linked as indirect.
                unsafe { below.set_run(index, bits) };
            }
        });
        if node.present().is_power_of_two() {
            // A node with one child says nothing that the child does not.
            // SAFETY: the place holds the node, which nothing refers to afterwards, and spans the child.
            unsafe {
                self.put(place, child);
                give(link, context);
            }
            return Ok((place, child));
        }
        let index = SlotIndex::of(key, node.shift());
        // SAFETY: the node is unshared, as the caller promises, and the child has the slot's keys, all of them.
        unsafe {
            let mut node = link.node_mut();
            node.set_child(index, child);
            node.set_full(index);
        }
        Ok((Some((link, index)), child))
    }
}

/// A new node that holds one run.
fn node_of_run<V: TreeValue, C: TreeContext<V>>(
    key: u64,
    shift: Shift,
    bits: NonZeroU64,
    context: &mut C,
) -> Result<Link, TreeError> {
    let fresh = context.take(NodeSize::Small).map_err(|_| TreeError::OutOfNodes { key })?;
    // SAFETY: the store gave the node to this call alone.
    let link = unsafe { Node::place(fresh, NodeSize::Small, shift, key) };
    // SAFETY: as above; it is no leaf, has room, and a small node's link is indirect.
    unsafe { link.node_mut().set_run(SlotIndex::of(key, shift), bits) };
    Ok(link)
}
