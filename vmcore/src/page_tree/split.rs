//! Splitting a range off a tree: its values become a tree of their own, the rest stays.
//!
//! What lies wholly on one side of the range's ends is moved or left as it hangs, by its link. Only nodes that hold
//! keys of both sides are taken apart, and those lie on two paths: one to where the last key *before* the range
//! parts from the *lowest* key in it, one to where the *highest* in it parts from the first *after* it.
//!
//! ```text
//!   split_off(100..300)                      ┌───────────────────────────┐
//!                                            │ [0]  [1]  [2]  [3]  [4]   │ both cuts go through
//!                                            └──┬────┬────┬────┬────┬────┘
//!                                              0…  64…  128… 192… 256…
//!                                                    │              │
//!                                  before 99 | lowest 100           highest 299 | after 300
//!
//!             the rest                                             split off
//!   ┌───────────────────────────┐                        ┌───────────────────────────┐
//!   │ [0]  [1]  ·    ·    [4]   │ the node, or its copy  │  ·   [1]  [2]  [3]  [4]   │ new
//!   └──┬────┬──────────────┬────┘                        └───────┬────┬────┬────┬────┘
//!     0…  64…99         300…319                            100…127  128… 192…  256…299
//!         kept           kept                                new    moved moved  new
//! ```
//!
//! A side that has one child only gets no node for it (path compression), so then the node that is taken apart goes to
//! the other side, or back to the store.
//!
//! # Order
//!
//! First the nodes with keys of both sides are made unshared, which may fail and changes no content. Then as many
//! nodes are taken as the sides will need. What follows cannot fail.

use super::context::{TreeContext, TreeError, TreeValue};
use super::find::{contains, last_key};
use super::node::{Link, Node, Shift, SlotIndex};
use super::share::{for_each, give};
use super::{PageTree, ends};
use core::marker::PhantomData;
use core::ops::RangeBounds;
use core::ptr::NonNull;

/// The most nodes that two cuts go through: the root, and on either path one for each level below.
const MOST_CUT: usize = 2 * Shift::LEVELS - 1;

impl<V> PageTree<V> {
    /// Takes everything out of the tree: the result is what it was, and the tree is empty. O(1), takes no
    /// node and cannot fail. (What [`core::mem::take`] would be. `PageTree` has no `Default`, as that would be
    /// a safe way around what [`new`](Self::new) makes its caller promise.)
    pub const fn take(&mut self) -> Self {
        let empty = Self { root: Link::NONE, length: 0, values: PhantomData };
        core::mem::replace(self, empty)
    }
}

impl<V: TreeValue> PageTree<V> {
    /// Takes all values of `range` (keys counted in pages) out of the tree and gives them as a tree of their own,
    /// under the same keys. A range without a key, also an empty or inverted one, gives an empty tree.
    ///
    /// Each value goes with the slot that holds it: none is discarded, and duplicated are only those of a
    /// shared leaf, two at most, that holds keys of both sides. The reference to a shared node wholly in the
    /// range moves. What the result holds it lets go of when it is [cleared](Self::clear) and not before, so that
    /// can wait until no CPU uses the pages any more. (A shared leaf that was copied is itself let go of at once;
    /// the copies hold the duplicates of its values. Where a duplicate may differ from its original, as
    /// [`duplicate`](super::ValueOwner::duplicate) allows, the originals are not kept for the result.)
    ///
    /// O(depth + slots of the nodes cut), and to know the [lengths](Self::len) of both trees: O(nodes moved),
    /// where what is known to be full is not looked into. A range with all keys, or none, is O(depth).
    ///
    /// # Errors
    ///
    /// [`TreeError::OutOfNodes`] or [`TreeError::CannotDuplicate`]; the content is then as before, though some
    /// of it may have been copied. The first cannot be if the
    /// [nodes needed](Self::nodes_needed_to_split_off) are there, and the second not where nothing is shared or
    /// the range was [prepared](Self::prepare_remove_range) (which may itself take nodes, so ask for those
    /// needed afterwards).
    pub fn split_off<C: TreeContext<V>>(
        &mut self,
        range: impl RangeBounds<u64>,
        context: &mut C,
    ) -> Result<PageTree<V>, TreeError> {
        let mut split = Self { root: Link::NONE, length: 0, values: PhantomData };
        let Some(cuts) = self.cuts(range) else {
            return Ok(split);
        };
        let go_on = |node: &Node, link: Link| cuts.go_through(node, link.shift());
        self.own_path(cuts.lowest, context, go_on)?;
        self.own_path(cuts.highest, context, go_on)?;
        let mut spares = [None; MOST_CUT];
        for spare in spares.iter_mut().take(self.nodes_cut(&cuts).both_sides) {
            match context.take() {
                Ok(node) => *spare = Some(node),
                Err(_) => {
                    give_spares(spares, context);
                    return Err(TreeError::OutOfNodes { key: cuts.lowest });
                }
            }
        }
        let mut cutting = Cutting { cuts, spares, context, values: PhantomData::<V> };
        // While code of others runs the tree holds nothing: if that panics, nodes leak, no more.
        let length = core::mem::take(&mut self.length);
        let root = core::mem::replace(&mut self.root, Link::NONE);
        // SAFETY: there is a root, since some key is present, and all nodes that are cut were made unshared
        // right before.
        let parts = unsafe { cutting.cut(root) };
        give_spares(cutting.spares, cutting.context);
        split.length = if parts.outside.is_none() {
            length
        } else {
            // SAFETY: the part is a subtree that this call holds; what others hold of it nobody changes.
            unsafe { count(parts.inside) }
        };
        split.root = parts.inside;
        self.length = length - split.length;
        self.root = parts.outside;
        Ok(split)
    }

    /// The nodes that [splitting `range` off](Self::split_off) takes from the store at most, as the tree is now.
    /// (Exactly so many, unless another tree lets go of shared nodes in the meantime.) None if the range
    /// holds no key, or every key. Else one for each node that an end of the range cuts into two nodes, and one
    /// for each that is cut and shared: at most 21 of either kind, 42. Writes nothing. O(depth).
    pub fn nodes_needed_to_split_off(&self, range: impl RangeBounds<u64>) -> usize {
        self.cuts(range).map_or(0, |cuts| {
            let nodes = self.nodes_cut(&cuts);
            nodes.shared + nodes.both_sides
        })
    }

    /// Where the range cuts the tree; `None` if it holds no key.
    fn cuts(&self, range: impl RangeBounds<u64>) -> Option<Cuts> {
        let key = |(leaf, index): (&Node, SlotIndex)| leaf.base() | index.offset(Shift::LEAF);
        let (first, last) = ends(range)?;
        let lowest = self.seek(first).map(key).filter(|&lowest| lowest <= last)?;
        let highest = self.seek_back(last).map(key).filter(|&highest| highest >= lowest)?;
        Some(Cuts {
            before: first.checked_sub(1).and_then(|from| self.seek_back(from)).map(key),
            lowest,
            highest,
            after: last.checked_add(1).and_then(|from| self.seek(from)).map(key),
        })
    }

    /// Counts the nodes that the cuts go through by what they will need.
    fn nodes_cut(&self, cuts: &Cuts) -> NodesCut {
        let mut nodes = NodesCut { shared: 0, both_sides: 0 };
        for (key, counted) in [(cuts.lowest, None), (cuts.highest, Some(cuts.lowest))] {
            let mut shared = false;
            let mut link = self.root;
            while !link.is_none() {
                // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
                let node: &Node = unsafe { link.node() };
                let shift = link.shift();
                if !contains(node, shift, key) || !cuts.go_through(node, shift) {
                    break;
                }
                // Copying a node shares its children, so all below a shared node is as good as shared.
                shared |= node.is_shared();
                // What spans both keys was counted on the first way down.
                if !counted.is_some_and(|counted| contains(node, shift, counted)) {
                    let sides = cuts.sides(node, shift);
                    let a_single_child = sides.inside.is_power_of_two() || sides.outside.is_power_of_two();
                    nodes.shared += usize::from(shared);
                    nodes.both_sides += usize::from(shift.is_leaf() || !a_single_child);
                }
                if shift.is_leaf() {
                    break;
                }
                // SAFETY: it is not a leaf.
                link = unsafe { node.child(SlotIndex::of(key, shift)) };
            }
        }
        nodes
    }
}

/// What nodes that are cut will need, each one node of the store.
struct NodesCut {
    /// Nodes that are copied before they are cut.
    shared: usize,
    /// Nodes that both sides need one of.
    both_sides: usize,
}

/// The keys next to a range's ends, all of them present: those in the range are `lowest`, `highest`, and all between.
///
/// A node holds keys of both sides exactly if it spans `before` and `lowest`, or `highest` and `after`.
#[derive(Clone, Copy)]
struct Cuts {
    before: Option<u64>,
    lowest: u64,
    highest: u64,
    after: Option<u64>,
}

impl Cuts {
    /// On which sides there are keys, for each slot of a node.
    fn sides(&self, node: &Node, shift: Shift) -> Sides {
        let before = self.before.map_or(0, |before| slots_between(node, shift, 0, before));
        let after = self.after.map_or(0, |after| slots_between(node, shift, after, u64::MAX));
        Sides { inside: slots_between(node, shift, self.lowest, self.highest), outside: before | after }
    }

    /// Whether a node holds keys of both sides.
    fn go_through(&self, node: &Node, shift: Shift) -> bool {
        let sides = self.sides(node, shift);
        sides.inside != 0 && sides.outside != 0
    }
}

/// The slots of a node with keys in the range, and those with keys outside of it. One slot, or two, may have both.
#[derive(Clone, Copy)]
struct Sides {
    inside: u64,
    outside: u64,
}

/// The slots of a node under which there are keys of `first ..= last`, where each of the two is present or has no
/// present key beyond it.
fn slots_between(node: &Node, shift: Shift, first: u64, last: u64) -> u64 {
    let first = first.max(node.base());
    let last = last.min(last_key(node, shift));
    if last < first {
        return 0;
    }
    node.present() & SlotIndex::of(first, shift).and_after() & SlotIndex::of(last, shift).and_before()
}

/// Gives nodes that were taken and not used back to their store.
fn give_spares<V, C: TreeContext<V>>(spares: [Option<NonNull<Node>>; MOST_CUT], context: &mut C) {
    for node in spares.into_iter().flatten() {
        // SAFETY: it was taken from this store, and nothing refers to it.
        unsafe { context.give(node) };
    }
}

/// The number of values in a subtree. Of slots known to be full nothing is looked at.
///
/// Recursion: at most one call per level, 11.
///
/// # Safety
///
/// The link is null, or its node lives and nobody changes anything in the subtree.
unsafe fn count(link: Link) -> u64 {
    if link.is_none() {
        return 0;
    }
    let shift = link.shift();
    // SAFETY: as the caller promises.
    let node: &Node = unsafe { link.node() };
    if shift.is_leaf() {
        return u64::from(node.present().count_ones());
    }
    let mut total = u64::from(node.full().count_ones()) * (shift.slot_mask() + 1);
    for_each(node.present() & !node.full(), |index| {
        // SAFETY: it is no leaf, and a present slot's node lives with the node that holds it.
        total += unsafe { count(node.child(index)) };
    });
    total
}

/// What becomes of a subtree; null where nothing is left of it.
struct Parts {
    inside: Link,
    outside: Link,
}

/// A tree that is being cut.
struct Cutting<'c, V, C> {
    cuts: Cuts,
    /// Nodes for those of which both sides need one.
    spares: [Option<NonNull<Node>>; MOST_CUT],
    context: &'c mut C,
    values: PhantomData<V>,
}

impl<V: TreeValue, C: TreeContext<V>> Cutting<'_, V, C> {
    /// Takes a subtree apart.
    ///
    /// Recursion: at most one call per level, 11.
    ///
    /// # Safety
    ///
    /// The link is not null; the caller owns one reference to its node, which goes with the result;
    /// nodes that the cuts go through, and all above them, are unshared and nobody else's.
    unsafe fn cut(&mut self, link: Link) -> Parts {
        let shift = link.shift();
        // SAFETY: the caller's reference keeps the node alive; nothing changes it while it is read here.
        let node: &Node = unsafe { link.node() };
        let (base, full) = (node.base(), node.full());
        let sides = self.cuts.sides(node, shift);
        let Sides { inside, outside } = sides;
        if inside == 0 {
            return Parts { inside: Link::NONE, outside: link };
        }
        if outside == 0 {
            return Parts { inside: link, outside: Link::NONE };
        }
        if !shift.is_leaf() && outside.is_power_of_two() {
            let index = SlotIndex::lowest(outside);
            // SAFETY: the node is cut, so unshared, and no leaf; the slot is present; what is inside of
            // the child lies in the slot's range.
            let parts = unsafe {
                let parts = self.cut_child(link, index, sides);
                link.node_mut().set_child(index, parts.inside);
                parts
            };
            // SAFETY: as above; all that it still holds is inside, and its reference is used up.
            let inside = unsafe { self.without_single(link) };
            return Parts { inside, outside: parts.outside };
        }
        if !shift.is_leaf() && inside.is_power_of_two() {
            // There are two slots outside at least, so the node stays.
            let index = SlotIndex::lowest(inside);
            // SAFETY: as for a single slot outside.
            let parts = unsafe {
                let parts = self.cut_child(link, index, sides);
                link.node_mut().set_child(index, parts.outside);
                parts
            };
            return Parts { inside: parts.inside, outside: link };
        }
        let Some(spare) = self.spares.iter_mut().find_map(Option::take) else {
            // Never so: as many were taken as nodes come here. It would leave the keys where they are.
            return Parts { inside: Link::NONE, outside: link };
        };
        // SAFETY: the store gave the node to this call alone.
        let fresh = unsafe { Node::place(spare, shift, base) };
        for_each(inside, |index| {
            if shift.is_leaf() {
                // SAFETY: nobody else knows of the new node, and a leaf that is cut is unshared; both are
                // leaves.
                unsafe {
                    let value = link.node().value(index);
                    fresh.node_mut().set_value(index, value);
                }
                return;
            }
            // SAFETY: nobody else knows of the new node, and a node that is cut is unshared; neither is a
            // leaf, the slot is present, and parts of its child lie in the slot's range.
            unsafe {
                let parts = self.cut_child(link, index, sides);
                link.node_mut().set_child(index, parts.outside);
                fresh.node_mut().set_child(index, parts.inside);
                if full & !outside & index.bit() != 0 {
                    fresh.node_mut().set_full(index);
                }
            }
        });
        if shift.is_leaf() {
            // SAFETY: as in the loop. The values are the new leaf's.
            unsafe { link.node_mut().clear_values(inside) };
        }
        Parts { inside: fresh, outside: link }
    }

    /// Takes the child in a slot apart if it has keys of both sides; else it is moved without a look at it. The
    /// slot must be written next.
    ///
    /// # Safety
    ///
    /// As for [`cut`](Self::cut), and the link's node is no leaf, the slot is present, and `sides` are the node's.
    unsafe fn cut_child(&mut self, link: Link, index: SlotIndex, sides: Sides) -> Parts {
        // SAFETY: the node lives, as the caller promises, and is no leaf.
        let child = unsafe { link.node().child(index) };
        if sides.outside & index.bit() == 0 {
            return Parts { inside: child, outside: Link::NONE };
        }
        if sides.inside & index.bit() == 0 {
            return Parts { inside: Link::NONE, outside: child };
        }
        // SAFETY: the slot's reference becomes the callee's, as the slot is written next. (If foreign code
        // panics in between, nothing refers to this node any more: the root was detached.)
        unsafe { self.cut(child) }
    }

    /// The node, or if it has one child left, that child: it says all that the node does.
    ///
    /// # Safety
    ///
    /// The node is unshared and no leaf, the caller owns the reference to it, and uses only the result afterwards.
    unsafe fn without_single(&mut self, link: Link) -> Link {
        // SAFETY: the caller's reference keeps the node alive.
        let present = unsafe { link.node() }.present();
        if !present.is_power_of_two() {
            return link;
        }
        // SAFETY: the node is no leaf; its reference to the child goes to the caller, who forgets the node.
        unsafe {
            let child = link.node().child(SlotIndex::lowest(present));
            give(link, self.context);
            child
        }
    }
}
