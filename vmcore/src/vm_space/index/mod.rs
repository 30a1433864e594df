//! The index of a space: which address belongs to which window, and where there is room.
//!
//! ```text
//!   | 0x1000..0x3fff | 0x8000..0x8fff (gated) | 0x2_0000..0x5_ffff | foreign ... |     leaves of a B+ tree, up to 23 ranges in each
//! ```
//!
//! Finding, neighbours, inserting, removing and the search for aligned gaps are O(log n). Nothing is allocated here: an operation counts the nodes
//! that its insertions may take ([`nodes_needed`](Index::nodes_needed)), takes them with all else before its first change ([`Reserve`]), and
//! nodes that become free go the same way back. The kernel's space may begin with nodes in static memory, before there are frames.
//!
//! | file | what it is |
//! |---|---|
//! | `tree` | the tree: what is asked, and changes within a leaf |
//! | `finger` | the way to the leaf that an operation is about |
//! | `split`, `level` | what a full leaf, or one that is only half full, does to the nodes around and above |
//! | `leaf`, `inner`, `node` | the nodes, and what they have in common |
//! | `gap` | how large gaps are for leaves of each size, and the search for one |
//!
//! A node has 576 bytes, so a full leaf costs a range 25 bytes, and one that was filled in random order (four fifths full) 32;
//! the levels above add less than a tenth.

#[cfg(feature = "index-bench")]
pub(crate) mod bare;
mod finger;
mod gap;
mod inner;
mod leaf;
mod level;
mod node;
mod split;
#[cfg(test)]
mod tests;
mod tree;

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

pub(crate) use self::gap::{GapRequest, LeafSizes};
use self::node::Entry;
use self::tree::{NodeMemory, Nodes, Tree};
use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Frames, Need, Reserve};
use crate::platform::Platform;

/// What occupies a range of addresses.
pub(crate) struct Slot<W> {
    pub(crate) range: PageRange,
    /// The window; `None` for a range of foreign tables, which is never touched.
    pub(crate) window: Option<NonNull<W>>,
}

impl<W> Clone for Slot<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Slot<W> {}

impl<W> Slot<W> {
    const fn of(entry: Entry) -> Self {
        let window = match entry.pointer {
            Some(window) => Some(window.cast()),
            None => None,
        };
        let (first, last) = (VirtAddr::new(entry.first), VirtAddr::new(entry.last));
        Self { range: PageRange::from_bounds(first, last), window }
    }

    fn entry(&self) -> Entry {
        let (first, last) = (self.range.start().as_u64(), self.range.last().as_u64());
        Entry { first, last, pointer: self.window.map(NonNull::cast) }
    }
}

/// How many ranges a leaf holds.
const LEAF: usize = 23;
/// How many children an inner node has at most.
const INNER: usize = 19;

/// Memory of one node of an index, which holds up to 23 windows: static memory for some can be lent to a space before there are frames.
/// See [`Space::kernel`](crate::vm_space::Space::kernel).
#[repr(transparent)]
pub struct IndexNode(NodeMemory<LEAF, INNER>);

// All of it is used: seven nodes fit a page of 4 KiB.
static_assertions::const_assert!(size_of::<IndexNode>() <= 576);

// SAFETY: it is memory; what is written into it is reached only by the index that it is lent to, under its lock.
unsafe impl Send for IndexNode {}

impl fmt::Debug for IndexNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexNode")
    }
}

/// Nodes that were lent and are free, linked through their own memory.
struct Lent {
    free: Option<NonNull<Option<NonNull<IndexNode>>>>,
    count: usize,
    /// Where they lie.
    memory: core::ops::Range<usize>,
}

impl Lent {
    fn new(memory: Option<&'static mut [MaybeUninit<IndexNode>]>) -> Self {
        let mut lent = Self { free: None, count: 0, memory: 0..0 };
        if let Some(memory) = memory {
            let bytes = memory.as_ptr_range();
            lent.memory = bytes.start.addr()..bytes.end.addr();
            for node in memory {
                lent.put(NonNull::from(node).cast());
            }
        }
        lent
    }

    fn take(&mut self) -> Option<NonNull<IndexNode>> {
        let free = self.free?;
        // SAFETY: a free node holds the link to the next one.
        self.free = unsafe { free.read() }.map(NonNull::cast);
        self.count -= 1;
        Some(free.cast())
    }

    /// The node was lent, and nothing refers to it.
    fn put(&mut self, node: NonNull<IndexNode>) {
        let link = node.cast::<Option<NonNull<IndexNode>>>();
        // SAFETY: the node's memory is exclusive for ever and in no use now; it is large and aligned enough for a link.
        unsafe { link.write(self.free.map(NonNull::cast)) };
        self.free = Some(link);
        self.count += 1;
    }
}

/// Where an index takes nodes from: first those that were lent, then a reserve.
struct Supply<'a, P: Platform> {
    lent: &'a mut Lent,
    reserve: &'a mut Reserve<P>,
}

// SAFETY: lent nodes are exclusive for ever, and objects of a reserve until they are put back; each is on one list or in one tree.
unsafe impl<P: Platform> Nodes<LEAF, INNER> for Supply<'_, P> {
    fn has(&self, count: usize) -> bool {
        self.reserve.has_objects::<IndexNode>(count.saturating_sub(self.lent.count))
    }

    fn take(&mut self) -> Option<NonNull<NodeMemory<LEAF, INNER>>> {
        self.lent.take().or_else(|| self.reserve.take_object()).map(NonNull::cast)
    }

    unsafe fn put(&mut self, node: NonNull<NodeMemory<LEAF, INNER>>) {
        if self.lent.memory.contains(&node.addr().get()) {
            self.lent.put(node.cast());
        } else {
            // SAFETY: it was not lent, so it came from a reserve; nothing refers to it, as the caller vouches.
            unsafe { self.reserve.put_object(node.cast::<IndexNode>()) };
        }
    }
}

/// Slots sorted by address, none of which overlap.
pub(crate) struct Index<P: Platform, W> {
    tree: Tree<LEAF, INNER>,
    lent: Lent,
    types: PhantomData<(P, *mut W)>,
}

// SAFETY: slots point to windows that belong to the space, and are reached only under the index's lock.
unsafe impl<P: Platform, W> Send for Index<P, W> {}
// SAFETY: as above; nothing in it changes behind a shared reference.
unsafe impl<P: Platform, W> Sync for Index<P, W> {}

impl<P: Platform, W> Index<P, W> {
    /// An empty index, whose gaps are found for leaves of these sizes. It uses the nodes that it is lent before others.
    pub(crate) fn new(sizes: LeafSizes, lent: Option<&'static mut [MaybeUninit<IndexNode>]>) -> Self {
        Self { tree: Tree::new(sizes), lent: Lent::new(lent), types: PhantomData }
    }

    /// How many nodes insertions at `address` take at most, as part of an operation that makes `count` insertions (at most three) in
    /// all, before its removals. The sum over the addresses of an operation is what [`add_need`](Self::add_need) takes.
    #[inline]
    pub(crate) fn nodes_needed(&self, address: VirtAddr, count: usize) -> usize {
        self.tree.nodes_needed(address.as_u64(), count)
    }

    /// How many nodes an operation [needs](Self::nodes_needed) at most for its insertions at one or two addresses, wherever they are, if no more than `insertions` are made in all until it is done,
    /// with whatever removals. O(1).
    #[cfg(feature = "posix")]
    pub(crate) fn nodes_at_most(&self, insertions: usize) -> usize {
        if self.tree.height() == 0 && self.tree.len().saturating_add(insertions) <= LEAF {
            // One leaf holds all of them. It may have to be made, also since all that was in it has gone.
            return 1;
        }
        // Each of up to four may split a node in each level, of which there may be one more by then, and put a root above.
        4 * (self.tree.height() + 3)
    }

    /// How many nodes an index of `count` slots takes at most, if they are inserted in ascending order: such leaves are full.
    pub(crate) const fn nodes_of(count: usize) -> usize {
        count / 16 + 8
    }

    /// Adds what a reserve must hold so that so many nodes can be taken.
    #[inline]
    pub(crate) fn add_need(&self, nodes: usize, need: &mut Need) {
        need.add_objects::<IndexNode>(nodes.saturating_sub(self.lent.count));
    }

    /// The slot that covers `address`, for who may have the index beside others. O(log n).
    #[inline]
    pub(crate) fn find(&self, address: VirtAddr) -> Option<Slot<W>> {
        self.tree.find(address.as_u64()).map(Slot::of)
    }

    /// Notes that an operation is about this address: what is asked and changed near it, and before anything is asked or changed elsewhere, needs no other way from the root.
    /// O(log n), or O(1) where the last one was.
    #[inline]
    pub(crate) fn aim(&mut self, address: VirtAddr) {
        self.tree.aim(address.as_u64());
    }

    /// The slot that covers `address`, for who has the index exclusively. O(log n), O(1) where it was [aimed](Self::aim).
    #[inline]
    pub(crate) fn find_near(&self, address: VirtAddr) -> Option<Slot<W>> {
        self.tree.find_near(address.as_u64()).map(Slot::of)
    }

    /// The first slot that ends at or after `address`. O(log n).
    #[inline]
    pub(crate) fn first_from(&self, address: VirtAddr) -> Option<Slot<W>> {
        self.tree.first_from(address.as_u64()).map(Slot::of)
    }

    /// The last slot that ends before `address`, and the first one that begins after it. O(log n).
    pub(crate) fn neighbours(&self, address: VirtAddr) -> (Option<Slot<W>>, Option<Slot<W>>) {
        let address = address.as_u64();
        let mut from = self.tree.from(address);
        let after = from.find(|entry| entry.first > address);
        (self.tree.last_before(address).map(Slot::of), after.map(Slot::of))
    }

    /// All slots in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot<W>> + '_ {
        self.tree.from(0).map(Slot::of)
    }

    /// The slots that share an address with `range`, in order. O(log n) for the first, O(1) for each other.
    #[inline]
    pub(crate) fn overlapping(&self, range: PageRange) -> impl Iterator<Item = Slot<W>> + '_ {
        let last = range.last().as_u64();
        self.tree.from(range.start().as_u64()).take_while(move |entry| entry.first <= last).map(Slot::of)
    }

    /// Inserts a slot where it belongs. False, and no change, if it takes more nodes than there are. O(log n).
    #[must_use = "unless the nodes were counted"]
    pub(crate) fn insert(&mut self, slot: Slot<W>, reserve: &mut Reserve<P>) -> bool {
        self.tree.insert(slot.entry(), &mut Supply { lent: &mut self.lent, reserve })
    }

    /// Takes the slot out that covers `address`. Its node may go to the reserve; nothing is taken. O(log n).
    pub(crate) fn remove(&mut self, address: VirtAddr, reserve: &mut Reserve<P>) -> Option<Slot<W>> {
        self.tree.remove(address.as_u64(), &mut Supply { lent: &mut self.lent, reserve }).map(Slot::of)
    }

    /// Gives the slot that covers `address` another range (within the gaps around it) and another window, in place. False if there is none.
    /// Takes no node. O(log n).
    pub(crate) fn set(&mut self, address: VirtAddr, slot: Slot<W>) -> bool {
        self.tree.set(address.as_u64(), slot.entry()).is_some()
    }

    /// Whether [`splice`](Self::splice) would put so many slots in the place of `count`. O(log n).
    pub(crate) fn can_splice(&mut self, address: VirtAddr, count: usize, slots: usize) -> bool {
        self.tree.can_splice(address.as_u64(), count, slots)
    }

    /// Puts others, at most three, in the place of `count` slots of which the first covers `address`, where that changes one node alone: false, and no change,
    /// otherwise. They lie within the gaps around. Takes no node. O(log n).
    pub(crate) fn splice(&mut self, address: VirtAddr, count: usize, slots: [Option<Slot<W>>; 3]) -> bool {
        const NOTHING: Entry = Entry { first: 0, last: 0, pointer: None };
        let (mut entries, mut len) = ([NOTHING; 3], 0);
        for slot in slots {
            if let (Some(slot), Some(entry)) = (slot, entries.get_mut(len)) {
                (*entry, len) = (slot.entry(), len + 1);
            }
        }
        self.tree.splice(address.as_u64(), count, entries.get(..len).unwrap_or_default())
    }

    /// Puts the parts of a slot, in order, in its place. Unless they find room in its node, the last of them is set in place, and each of the others is an insertion at
    /// the slot's first address, for which the nodes were counted. O(log n).
    pub(crate) fn replace(&mut self, slot: &Slot<W>, parts: [Option<Slot<W>>; 3], reserve: &mut Reserve<P>) {
        let Some(last) = parts.iter().rposition(Option::is_some) else { return };
        if self.splice(slot.range.start(), 1, parts) {
            return;
        }
        if let Some(part) = parts.into_iter().nth(last).flatten() {
            let done = self.set(slot.range.start(), part);
            debug_assert!(done, "the slot is there");
        }
        for part in parts.into_iter().take(last).flatten() {
            let done = self.insert(part, reserve);
            debug_assert!(done, "the nodes were counted");
        }
    }

    /// Removes the slot at this address if it is the window's. O(log n).
    pub(crate) fn remove_slot(&mut self, address: VirtAddr, window: NonNull<W>, reserve: &mut Reserve<P>) -> bool {
        let is_there = self.find_near(address).is_some_and(|slot| slot.window == Some(window));
        is_there && self.remove(address, reserve).is_some()
    }

    /// Forgets every slot. O(n).
    pub(crate) fn clear(&mut self, reserve: &mut Reserve<P>) {
        self.tree.clear(&mut Supply { lent: &mut self.lent, reserve });
    }

    /// The lowest address that the request allows and that is free. O(log n) where the alignment is that of leaves (of the three smallest
    /// sizes), with no phase. For other alignments it may not be the very lowest, and is O(n) where no gap is so large that a block fits in
    /// it wherever the gap lies.
    pub(crate) fn lowest_gap(&self, request: &GapRequest) -> Option<VirtAddr> {
        self.tree.lowest_gap(request).map(VirtAddr::new)
    }

    /// The highest address likewise.
    pub(crate) fn highest_gap(&self, request: &GapRequest) -> Option<VirtAddr> {
        self.tree.highest_gap(request).map(VirtAddr::new)
    }
}

/// A page of `P`'s in bytes.
pub(crate) const fn page_size<P: Frames>() -> u64 {
    1 << P::PAGE_SHIFT
}
