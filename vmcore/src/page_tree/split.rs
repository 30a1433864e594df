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
use super::edit::single_child;
use super::find::contains;
use super::needed::NodesNeeded;
use super::node::{Entry, Link, Node, NodeRef, NodeSize, Shift, SlotIndex};
use super::share::{Span, for_each, give};
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
        let go_on = |span: Span| cuts.go_through(span);
        self.own_path(cuts.lowest, context, go_on)?;
        self.own_path(cuts.highest, context, go_on)?;
        let mut spares = [None; MOST_CUT];
        let needed = self.nodes_cut(&cuts).both_sides;
        let sizes = NodeSize::ALL.into_iter().flat_map(|size| core::iter::repeat_n(size, needed.of(size)));
        for (spare, size) in spares.iter_mut().zip(sizes) {
            match context.take(size) {
                Ok(node) => *spare = Some((node, size)),
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
    /// for each that is cut and shared: at most 21 of either kind, 42. Where an end lies in a run, one more for each
    /// level that it is split by. Writes nothing. O(depth).
    pub fn nodes_needed_to_split_off(&self, range: impl RangeBounds<u64>) -> NodesNeeded {
        self.cuts(range).map_or(NodesNeeded::NONE, |cuts| {
            let NodesCut { mut prepared, both_sides } = self.nodes_cut(&cuts);
            prepared += both_sides;
            prepared
        })
    }

    /// Where the range cuts the tree; `None` if it holds no key.
    fn cuts(&self, range: impl RangeBounds<u64>) -> Option<Cuts> {
        let (first, last) = ends(range)?;
        let next = |from: u64| self.seek(from).map(|found| found.first().max(from));
        let previous = |from: u64| self.seek_back(from).map(|found| found.last().min(from));
        let lowest = next(first).filter(|&lowest| lowest <= last)?;
        let highest = previous(last).filter(|&highest| highest >= lowest)?;
        Some(Cuts {
            before: first.checked_sub(1).and_then(previous),
            lowest,
            highest,
            after: last.checked_add(1).and_then(next),
        })
    }

    /// Counts the nodes that the cuts go through by what they will need.
    fn nodes_cut(&self, cuts: &Cuts) -> NodesCut {
        let mut nodes = NodesCut { prepared: NodesNeeded::NONE, both_sides: NodesNeeded::NONE };
        for (key, counted) in [(cuts.lowest, None), (cuts.highest, Some(cuts.lowest))] {
            let mut shared = false;
            let mut link = self.root;
            while !link.is_none() {
                // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
                let node = unsafe { link.node() };
                if !contains(node, key) || !cuts.go_through(Span::of(node)) {
                    break;
                }
                // Copying a node shares its children, so all below a shared node is as good as shared.
                shared |= node.is_shared();
                // What spans both keys was counted on the first way down.
                if !counted.is_some_and(|counted| contains(node, counted)) {
                    let size = NodeSize::of_node(node.count(), node.shift(), link == self.root);
                    nodes.prepared.add(size, usize::from(shared));
                    let sides = cuts.sides(node);
                    // A run that is cut is split first, and is a child then.
                    let cut_run =
                        |index: SlotIndex| cuts.go_through(Span::of_slot(node.first_key(index), node.shift()));
                    let single = |slots: u64| {
                        slots.is_power_of_two() && {
                            let index = SlotIndex::lowest(slots);
                            matches!(node.entry(index), Entry::Child(_)) || cut_run(index)
                        }
                    };
                    if node.is_leaf() || !(single(sides.inside) || single(sides.outside)) {
                        nodes.both_sides.add(NodeSize::for_slots(sides.inside.count_ones()), 1);
                    }
                }
                match node.entry(SlotIndex::of(key, node.shift())) {
                    Entry::Child(child) => link = child,
                    Entry::Value(_) => {
                        nodes.add_run(cuts, key, node.shift(), counted);
                        break;
                    }
                    Entry::Absent => break,
                }
            }
        }
        nodes
    }
}

/// What nodes that are cut will need.
struct NodesCut {
    /// Nodes that are copied, and runs that are split, before they are cut.
    prepared: NodesNeeded,
    /// Nodes that both sides need one of: so many slots come to the inside.
    both_sides: NodesNeeded,
}

impl NodesCut {
    /// Adds what it takes to cut through the run in the slot with `key` of a node with this shift: per level a full
    /// node for its parts, and at most a node for the other side.
    fn add_run(&mut self, cuts: &Cuts, key: u64, mut shift: Shift, counted: Option<u64>) {
        while !shift.is_leaf() {
            let span = Span::of_slot(key, shift);
            if !cuts.go_through(span) {
                break;
            }
            shift = shift.below();
            if !counted.is_some_and(|counted| span.contains(counted)) {
                self.prepared.add(NodeSize::Full, 1);
                // All 64 parts are there; those of the inside reach from one end to the other.
                let first = SlotIndex::of(cuts.lowest.max(span.first), shift);
                let last = SlotIndex::of(cuts.highest.min(span.last), shift);
                let inside = first.and_after() & last.and_before();
                self.both_sides.add(NodeSize::for_slots(inside.count_ones()), 1);
            }
        }
    }
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
    fn sides(&self, node: NodeRef<'_>) -> Sides {
        let before = self.before.map_or(0, |before| slots_between(node, 0, before));
        let after = self.after.map_or(0, |after| slots_between(node, after, u64::MAX));
        Sides { inside: slots_between(node, self.lowest, self.highest), outside: before | after }
    }

    /// Whether what has these keys, a node or a run, has keys of both sides.
    fn go_through(&self, span: Span) -> bool {
        let has = |key: Option<u64>| key.is_some_and(|key| span.contains(key));
        span.contains(self.lowest) && has(self.before) || span.contains(self.highest) && has(self.after)
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
fn slots_between(node: NodeRef<'_>, first: u64, last: u64) -> u64 {
    let (span, shift) = (Span::of(node), node.shift());
    let first = first.max(span.first);
    let last = last.min(span.last);
    if last < first {
        return 0;
    }
    node.present() & SlotIndex::of(first, shift).and_after() & SlotIndex::of(last, shift).and_before()
}

/// A node that was taken and is not used yet.
type Spare = Option<(NonNull<Node>, NodeSize)>;

/// Gives nodes that were taken and not used back to their store.
fn give_spares<V, C: TreeContext<V>>(spares: [Spare; MOST_CUT], context: &mut C) {
    for (node, size) in spares.into_iter().flatten() {
        // SAFETY: it was taken from this store, and nothing refers to it.
        unsafe { context.give(node, size) };
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
    // SAFETY: as the caller promises.
    let node = unsafe { link.node() };
    if node.is_leaf() {
        return u64::from(node.count());
    }
    // Runs are full.
    let mut total = u64::from(node.full().count_ones()) * (node.shift().slot_mask() + 1);
    for_each(node.present() & !node.full(), |index| {
        if let Entry::Child(child) = node.entry(index) {
            // SAFETY: a child lives with the node that holds it.
            total += unsafe { count(child) };
        }
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
    spares: [Spare; MOST_CUT],
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
        // SAFETY: the caller's reference keeps the node alive; nothing changes it while it is read here.
        let node = unsafe { link.node() };
        let sides = self.cuts.sides(node);
        let Sides { inside, outside } = sides;
        if inside == 0 {
            return Parts { inside: Link::NONE, outside: link };
        }
        if outside == 0 {
            return Parts { inside: link, outside: Link::NONE };
        }
        let single = |slots: u64| {
            let index = SlotIndex::lowest(slots);
            match node.entry(index) {
                Entry::Child(child) if slots.is_power_of_two() => Some((index, child)),
                _ => None,
            }
        };
        if let Some((index, child)) = single(outside) {
            // SAFETY: the slot is written next; the node is cut, so unshared, and no leaf; what is inside of the child
            // lies in the slot's range.
            let parts = unsafe {
                let parts = self.cut_child(child, index, sides);
                link.node_mut().set_child(index, parts.inside);
                parts
            };
            let Some(child) = single_child(node) else {
                return Parts { inside: link, outside: parts.outside };
            };
            // SAFETY: the node's reference to its only child goes to the caller, and nothing refers to the node.
            unsafe { give(link, self.context) };
            return Parts { inside: child, outside: parts.outside };
        }
        if let Some((index, child)) = single(inside) {
            // There are two slots outside at least, or a run, so the node stays.
            // SAFETY: as for a single slot outside.
            let parts = unsafe {
                let parts = self.cut_child(child, index, sides);
                link.node_mut().set_child(index, parts.outside);
                parts
            };
            return Parts { inside: parts.inside, outside: link };
        }
        let wanted = NodeSize::for_slots(inside.count_ones());
        let matching = |spare: &mut Spare| spare.take_if(|(_, size)| *size == wanted);
        let Some((spare, size)) = self.spares.iter_mut().find_map(matching) else {
            // Never so: as many were taken as nodes come here. It would leave the keys where they are.
            return Parts { inside: Link::NONE, outside: link };
        };
        // SAFETY: the store gave the node to this call alone.
        let fresh = unsafe { Node::place(spare, size, node.shift(), node.base()) };
        let fresh = if node.runs() & inside == 0 { fresh } else { fresh.indirect() };
        for_each(inside, |index| {
            // SAFETY: nobody else knows of the new node, and a node that is cut is unshared.
            let (mut here, mut there) = unsafe { (link.node_mut(), fresh.node_mut()) };
            match node.entry(index) {
                // A value, a run, or a child wholly inside.
                Entry::Child(child) if outside & index.bit() != 0 => {
                    // SAFETY: the slot is written next; it is present, and parts of its child lie in its range; there
                    // is room for what comes inside.
                    unsafe {
                        let parts = self.cut_child(child, index, sides);
                        here.set_child(index, parts.outside);
                        there.set_child(index, parts.inside);
                    }
                }
                _ => {
                    // SAFETY: it is present here and absent there, with room, and the link is indirect if there are
                    // runs.
                    unsafe { there.copy_slots(node, index.bit()) };
                    here.remove(index.bit());
                }
            }
        });
        Parts { inside: fresh, outside: link }
    }

    /// Takes the child in a slot apart if it has keys of both sides; else it is moved without a look at it. The
    /// slot must be written next.
    ///
    /// # Safety
    ///
    /// As for [`cut`](Self::cut), for the node that has this child in this slot, and `sides`.
    unsafe fn cut_child(&mut self, child: Link, index: SlotIndex, sides: Sides) -> Parts {
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
}
