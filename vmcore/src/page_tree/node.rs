//! One node of the tree: up to 64 slots, and what is known about them.
//!
//! ```text
//!   byte 0         8      16     24            32           40       64
//!        ├─────────┼──────┼──────┼─────────────┼────────────┼────────┤
//!        │ present │ full │ runs │ base + size │ references │ slots  │   small:  3 slots,  64 bytes
//!        └─────────┴──────┴──────┴─────────────┴────────────┴────────┘
//!         a bit for each of 64 slots  first key    trees and
//!                                                   parents
//!        ┌──────────────────────────────────────────────────┬────────────────────────────────┐ 192
//!        │ the same                                         │ slots                          │   medium: 19 slots
//!        └──────────────────────────────────────────────────┴────────────────────────────────┘
//!        ┌──────────────────────────────────────────────────┬────────┬──────┬── ··· ──┬──────┐ 576
//!        │ the same                                         │        │ [ 0] │         │ [63] │   full:   64 slots
//!        └──────────────────────────────────────────────────┴────────┴──────┴── ··· ──┴──────┘
//!
//!   a slot       leaf: the bits of a value            above: a link to a child, or (its bit in `runs` is set)
//!                                                     the bits of the first value of a run that fills the slot
//!
//!   a link       63                          6 5     1  0
//!                ├────────── node ───────────┼─ shift ─┼─┤   nodes are aligned to 64 bytes and shifts are even, so
//!                └───────────────────────────┴─────────┴─┘   the low six bits hold the node's shift, and bit 0 is
//!                                                            clear if the node is full-sized and holds no run
//! ```
//!
//! A node with shift `s` takes bits `s + 5 ..= s` of a key as the number of the slot. A small or medium node stores
//! only slots that are present, in order: the place of slot `i` is the number of bits of `present` below `i`. A
//! full-sized node stores slot `i` in place `i`, zero where it is absent, so that a lookup by a link with bit 0 clear
//! reads one word per node and, but for the root's, no header.
//!
//! Of a 4 KiB page 64 bytes are bookkeeping, and the rest is 63 small, 21 medium or 7 full-sized nodes.

use super::share::for_each;
use crate::word::{AtomicU64, AtomicUsize, Ordering};
use core::marker::PhantomData;
use core::num::NonZeroU64;
use core::ptr::{self, NonNull};

/// Bits of a key that one node takes.
const BITS: u32 = 6;

/// Low bits of a link that hold the shift. Equal to the lowest bits that a shift by a 64-bit word's
/// width looks at, so a processor needs no masking.
const SHIFT_MASK: usize = 63;

/// How far a key is shifted to give a slot number: 0 in a leaf, at most 60.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Shift(u8);

impl Shift {
    pub(super) const LEAF: Self = Self(0);

    /// The nodes on any path from the root: one per shift 0, 6, … 60. Also the deepest recursion.
    pub(super) const LEVELS: usize = 11;

    /// The shift of the lowest node that can hold two different keys in two different slots.
    #[inline]
    pub(super) const fn parting(one: u64, other: u64) -> Self {
        let highest = 63_u32.saturating_sub((one ^ other).leading_zeros());
        Self((highest / BITS * BITS) as u8)
    }

    /// The shift of nodes that have `level` levels below them, leaves included.
    #[inline]
    pub(super) const fn of_level(level: u8) -> Self {
        Self(level.wrapping_mul(BITS as u8) & SHIFT_MASK as u8)
    }

    /// The next higher shift; of the highest, itself.
    #[inline]
    pub(super) const fn above(self) -> Self {
        if self.0 >= 60 { self } else { Self(self.0 + 6) }
    }

    /// The next lower shift; of a leaf's, itself.
    #[inline]
    pub(super) const fn below(self) -> Self {
        Self(self.0.saturating_sub(BITS as u8))
    }

    #[inline]
    pub(super) const fn is_leaf(self) -> bool {
        self.0 == 0
    }

    #[inline]
    const fn bits(self) -> u32 {
        // Never more than 60; the mask shows the compiler that a shift by it cannot overflow.
        self.0 as u32 & SHIFT_MASK as u32
    }

    /// The bits of a key that vary within one slot.
    #[inline]
    pub(super) const fn slot_mask(self) -> u64 {
        (1 << self.bits()) - 1
    }

    /// The bits of a key that vary within the node.
    #[inline]
    pub(super) const fn node_mask(self) -> u64 {
        match 1_u64.checked_shl(self.bits() + BITS) {
            Some(span) => span - 1,
            None => u64::MAX,
        }
    }

    /// The slots that a key can name: all, except at the top, where only four bits of a key are left.
    #[inline]
    pub(super) const fn slots(self) -> u64 {
        if self.0 >= 60 { 0xffff } else { u64::MAX }
    }
}

/// The number of a slot, 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotIndex(u8);

impl SlotIndex {
    #[inline]
    pub(super) const fn of(key: u64, shift: Shift) -> Self {
        Self((key >> shift.bits()) as u8 & 63)
    }

    /// Whether the bits of a key that are above those of the slot are zero.
    #[inline]
    pub(super) const fn is_of(key: u64, shift: Shift) -> bool {
        key >> shift.bits() < 64
    }

    /// The lowest set bit.
    #[inline]
    pub(super) const fn lowest(bits: u64) -> Self {
        Self(bits.trailing_zeros() as u8 & 63)
    }

    /// The highest set bit.
    #[inline]
    pub(super) const fn highest(bits: u64) -> Self {
        Self(63 - (bits.leading_zeros() as u8 & 63))
    }

    #[inline]
    pub(super) const fn bit(self) -> u64 {
        1 << (self.0 & 63)
    }

    /// The bits of this slot and all after it.
    #[inline]
    pub(super) const fn and_after(self) -> u64 {
        u64::MAX << (self.0 & 63)
    }

    /// The bits of this slot and all before it.
    #[inline]
    pub(super) const fn and_before(self) -> u64 {
        u64::MAX >> (63 - (self.0 & 63))
    }

    /// What the slot adds to the first key of its node.
    #[inline]
    pub(super) const fn offset(self, shift: Shift) -> u64 {
        (self.0 as u64) << shift.bits()
    }
}

/// How much room a node has: what a [`NodeStore`](super::NodeStore) is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeSize {
    /// 64 bytes: up to 3 keys or children.
    Small,
    /// 192 bytes: up to 19.
    Medium,
    /// 576 bytes: 64.
    Full,
}

impl NodeSize {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Full];

    /// The size in bytes, a multiple of [`ALIGN`](Self::ALIGN).
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => size_of::<Node>(),
            Self::Medium => size_of::<MediumNode>(),
            Self::Full => size_of::<FullNode>(),
        }
    }

    /// The alignment of every node in bytes.
    pub const ALIGN: usize = align_of::<Node>();

    /// How many slots fit.
    #[inline]
    pub(super) const fn slots(self) -> u32 {
        match self {
            Self::Small => 3,
            Self::Medium => 19,
            Self::Full => 64,
        }
    }

    /// Of a node with so many slots present: the smallest with room. The root of a tree with two levels or more below it
    /// is full-sized in any case, since it is on the way to every key, and there is one.
    #[inline]
    pub(super) const fn of_node(slots: u32, shift: Shift, is_root: bool) -> Self {
        if is_root && shift.0 > BITS as u8 { Self::Full } else { Self::for_slots(slots) }
    }

    /// Of a new leaf: full-sized beside one that is full, as there keys come one after another. `full` is of the node above
    /// it, and the slot its own there.
    #[inline]
    pub(super) const fn of_new_leaf(full: u64, index: SlotIndex) -> Self {
        if full & (index.bit() << 1 | index.bit() >> 1) != 0 { Self::Full } else { Self::Small }
    }

    /// The smallest with room for so many slots.
    #[inline]
    pub(super) const fn for_slots(count: u32) -> Self {
        if count <= Self::Small.slots() {
            Self::Small
        } else if count <= Self::Medium.slots() {
            Self::Medium
        } else {
            Self::Full
        }
    }

    #[inline]
    const fn bits(self) -> u64 {
        match self {
            Self::Small => 0,
            Self::Medium => 1,
            Self::Full => 2,
        }
    }
}

/// A pointer to a node with the node's shift in its low bits, and whether its slots can be read without its header;
/// null where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(*mut Node);

/// Set in a link whose node is packed or holds runs.
const INDIRECT: usize = 1;

impl Link {
    pub(super) const NONE: Self = Self(ptr::null_mut());

    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.0.is_null()
    }

    #[inline]
    pub(super) fn shift(self) -> Shift {
        Shift((self.0.addr() & SHIFT_MASK & !INDIRECT) as u8)
    }

    /// Whether the node is full-sized and holds no run, so that [`direct_value`](Self::direct_value) and
    /// [`direct_child`](Self::direct_child) may be used. (Also of no link.)
    #[inline]
    pub(super) fn is_direct(self) -> bool {
        self.0.addr() & INDIRECT == 0
    }

    /// The shift, of a link that [is direct](Self::is_direct).
    #[inline]
    pub(super) fn direct_shift(self) -> Shift {
        // The low six bits are what a processor shifts by.
        Shift((self.0.addr() & SHIFT_MASK) as u8)
    }

    /// The node's address; dangling if there is none.
    #[inline]
    pub(super) fn pointer(self) -> NonNull<Node> {
        NonNull::new(self.0.map_addr(|address| address & !SHIFT_MASK)).unwrap_or(NonNull::dangling())
    }

    /// The same node, to be looked at with its header from now on.
    #[inline]
    pub(super) fn indirect(self) -> Self {
        Self(self.0.map_addr(|address| address | INDIRECT))
    }

    /// The value in the slot of a leaf.
    ///
    /// # Safety
    ///
    /// As for [`node`](Self::node), and the link is direct, and its node a leaf.
    #[inline]
    pub(super) unsafe fn direct_value(self, index: SlotIndex) -> Option<NonZeroU64> {
        // SAFETY: the node is full-sized, and a leaf's slots are made and written as values only.
        unsafe { (*self.direct_slot(index)).value }
    }

    /// The child in a slot above the leaves, or none.
    ///
    /// # Safety
    ///
    /// As for [`node`](Self::node), and the link is direct, and its node no leaf.
    #[inline]
    pub(super) unsafe fn direct_child(self, index: SlotIndex) -> Self {
        // SAFETY: the node is full-sized and holds no run, so its slots are made and written as links only.
        unsafe { (*self.direct_slot(index)).child }
    }

    /// # Safety
    ///
    /// The link is not null and its node, which lives, is full-sized.
    #[inline]
    unsafe fn direct_slot(self, index: SlotIndex) -> *mut Slot {
        let node = self.0.map_addr(|address| address & !SHIFT_MASK).cast::<FullNode>();
        // SAFETY: the node is full-sized, and a slot's number is below 64.
        unsafe { (&raw mut (*node).slots).cast::<Slot>().add(usize::from(index.0 & 63)) }
    }

    /// The node.
    ///
    /// # Safety
    ///
    /// The link is not null, its node stays alive for `'a`, and while any method of the result runs nobody changes it
    /// (but for its reference count).
    #[inline]
    pub(super) unsafe fn node<'a>(self) -> NodeRef<'a> {
        NodeRef { link: self, lifetime: PhantomData }
    }

    /// The node, to change.
    ///
    /// # Safety
    ///
    /// The link is not null, its node stays alive for `'a`, and nobody else looks at it while any method of the result
    /// runs: it and every node above it are held once, by a tree that the caller has exclusively.
    #[inline]
    pub(super) unsafe fn node_mut<'a>(self) -> NodeMut<'a> {
        // SAFETY: the caller promises more than is asked for here.
        NodeMut(unsafe { self.node() })
    }
}

/// A slot: the bits of a value in a leaf or of a run, a link above.
#[derive(Clone, Copy)]
union Slot {
    value: Option<NonZeroU64>,
    child: Link,
}

/// What a slot holds.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    Absent,
    /// The bits of a value, or of the first value of a run (above the leaves).
    Value(NonZeroU64),
    Child(Link),
}

/// A node of a [`PageTree`](super::PageTree), of any [size](NodeSize): what all of them begin with. What is in it is
/// the tree's business.
///
/// # Invariants
///
/// - In a full-sized node a slot that is not present is zero: no value, no child.
/// - In a leaf, `full == present` and there are no `runs`. Above, a bit of `full` says that every key of the slot is
///   present: it is a run, or its child has the next lower shift and is itself full.
/// - `base` is a multiple of the keys that the node spans.
/// - A leaf has at least one value, a node above at least two children or one run, whose keys all lie in their
///   slot's range. A child's shift is lower than its parent's, by any number of levels.
/// - `references` counts the slots and trees that hold the node. While it is more than one, nothing
///   else in the node changes, but for a value's representation ([`update_in_place`](super::PageTree::update_in_place)).
#[repr(C, align(64))]
pub struct Node {
    present: u64,
    full: u64,
    runs: u64,
    /// A multiple of 64, and below that the node's size.
    base_and_size: u64,
    references: AtomicUsize,
    slots: [Slot; 3],
}

/// A node with room for 19 slots.
#[repr(C)]
pub(crate) struct MediumNode {
    node: Node,
    slots: [Slot; 16],
}

/// A node with room for all slots.
#[repr(C)]
pub(crate) struct FullNode {
    node: Node,
    slots: [Slot; 64],
}

const _: () = {
    assert!(align_of::<Node>() == SHIFT_MASK + 1);
    assert!(size_of::<Slot>() == 8 && core::mem::offset_of!(Node, slots) + 3 * 8 <= 64);
    assert!(NodeSize::Small.bytes() == 64 && NodeSize::Medium.bytes() == 192 && NodeSize::Full.bytes() == 576);
    assert!(core::mem::offset_of!(Node, slots) + 19 * 8 <= 192);
};

/// A node that is looked at.
#[derive(Clone, Copy)]
pub(super) struct NodeRef<'a> {
    link: Link,
    lifetime: PhantomData<&'a Node>,
}

impl<'a> NodeRef<'a> {
    #[inline]
    fn header(self) -> *mut Node {
        self.link.0.map_addr(|address| address & !SHIFT_MASK)
    }

    #[inline]
    pub(super) fn link(self) -> Link {
        self.link
    }

    #[inline]
    pub(super) fn shift(self) -> Shift {
        self.link.shift()
    }

    #[inline]
    pub(super) fn is_leaf(self) -> bool {
        self.link.shift().is_leaf()
    }

    #[inline]
    pub(super) fn present(self) -> u64 {
        // SAFETY: the node lives and does not change meanwhile (see `Link::node`).
        unsafe { (*self.header()).present }
    }

    #[inline]
    pub(super) fn full(self) -> u64 {
        // SAFETY: as in `present`.
        unsafe { (*self.header()).full }
    }

    /// Notes that the child in a slot above the leaves is full, in one step; true if all slots are from now on.
    ///
    /// # Safety
    /// While this runs the node's marks are looked at and changed by calls of this alone.
    pub(super) unsafe fn mark_full_beside(self, index: SlotIndex) -> bool {
        // SAFETY: the node lives, and the word is aligned for it; nobody else reaches it but in this way.
        let full = unsafe { &*(&raw const (*self.header()).full).cast::<AtomicU64>() };
        // What the marks say is looked at by who has the tree alone, and has come by a lock since.
        full.fetch_or(index.bit(), Ordering::Relaxed) | index.bit() == u64::MAX
    }

    /// The slots above the leaves that hold a run.
    #[inline]
    pub(super) fn runs(self) -> u64 {
        // SAFETY: as in `present`.
        unsafe { (*self.header()).runs }
    }

    /// The number of slots present.
    #[inline]
    pub(super) fn count(self) -> u32 {
        self.present().count_ones()
    }

    /// The first key that the node can hold.
    #[inline]
    pub(super) fn base(self) -> u64 {
        // SAFETY: as in `present`.
        unsafe { (*self.header()).base_and_size & !(SHIFT_MASK as u64) }
    }

    #[inline]
    pub(super) fn size(self) -> NodeSize {
        // SAFETY: as in `present`.
        match unsafe { (*self.header()).base_and_size } & 3 {
            0 => NodeSize::Small,
            1 => NodeSize::Medium,
            _ => NodeSize::Full,
        }
    }

    /// The first key of a slot.
    #[inline]
    pub(super) fn first_key(self, index: SlotIndex) -> u64 {
        self.base() | index.offset(self.shift())
    }

    #[inline]
    pub(super) fn references(self) -> &'a AtomicUsize {
        // SAFETY: the node lives for `'a`, and its count is changed atomically only.
        unsafe { &(*self.header()).references }
    }

    /// Whether somebody else holds the node too. If not, what others did to it before they let go is
    /// seen from here on.
    #[inline]
    pub(super) fn is_shared(self) -> bool {
        self.references().load(Ordering::Acquire) != 1
    }

    /// Where the slot is, or would be.
    #[inline]
    fn slot(self, index: SlotIndex) -> *mut Slot {
        if self.link.is_direct() || self.size() == NodeSize::Full {
            // SAFETY: it is full-sized.
            return unsafe { self.link.direct_slot(index) };
        }
        let place = (self.present() & (index.bit() - 1)).count_ones();
        // SAFETY: a node that is not full-sized has its slots here, and not more of them below than fit.
        unsafe { (&raw mut (*self.header()).slots).cast::<Slot>().add(place as usize) }
    }

    /// Where the values are of a leaf that is not full-sized, from this slot's on, which is present: side by side, and none for slots that are absent.
    #[inline]
    pub(super) fn packed_values(self, index: SlotIndex) -> *const Option<NonZeroU64> {
        let before = self.present() & (index.bit() - 1);
        // Counting bits is slow where processors are not known to do it, and mostly there are none.
        let place = if before == 0 { 0 } else { before.count_ones() };
        // SAFETY: a node that is not full-sized has its slots here, and not more of them below than fit.
        unsafe { (&raw const (*self.header()).slots).cast::<Option<NonZeroU64>>().add(place as usize) }
    }

    /// The values of a full-sized leaf; none in a slot that is absent.
    ///
    /// # Safety
    ///
    /// The node is a full-sized leaf.
    #[inline]
    pub(super) unsafe fn values(self) -> &'a [Option<NonZeroU64>; 64] {
        // SAFETY: the node lives for `'a` and does not change meanwhile (see `Link::node`); it is full-sized, and a leaf's slots are made and
        // written as values only, absent ones as zero.
        unsafe { &*self.link.direct_slot(SlotIndex(0)).cast() }
    }

    /// What a slot holds.
    #[inline]
    pub(super) fn entry(self, index: SlotIndex) -> Entry {
        if self.link.is_direct() {
            // No look at the header: an absent slot is zero.
            // SAFETY: the link is direct, and the node lives and does not change meanwhile (see `Link::node`).
            unsafe {
                if self.is_leaf() {
                    return self.link.direct_value(index).map_or(Entry::Absent, Entry::Value);
                }
                let child = self.link.direct_child(index);
                return if child.is_none() { Entry::Absent } else { Entry::Child(child) };
            }
        }
        if self.present() & index.bit() == 0 {
            return Entry::Absent;
        }
        if self.is_leaf() || self.runs() & index.bit() != 0 {
            // SAFETY: the slot is present, and one of a leaf or a run.
            Entry::Value(unsafe { self.value(index) })
        } else {
            // SAFETY: the slot is present and neither; it was written as a link.
            Entry::Child(unsafe { (*self.slot(index)).child })
        }
    }

    /// The bits in a slot of a leaf that is present, or of a run.
    ///
    /// # Safety
    ///
    /// The slot is present, and the node is a leaf or the slot a run.
    #[inline]
    pub(super) unsafe fn value(self, index: SlotIndex) -> NonZeroU64 {
        // SAFETY: such slots are written as values, and none is zero.
        unsafe { (*self.slot(index)).value.unwrap_unchecked() }
    }
}

/// A node that is changed.
pub(super) struct NodeMut<'a>(NodeRef<'a>);

impl<'a> NodeMut<'a> {
    #[inline]
    pub(super) fn look(&self) -> NodeRef<'a> {
        self.0
    }

    #[inline]
    fn header(&mut self) -> &mut Node {
        // SAFETY: nobody else looks at the node meanwhile (see `Link::node_mut`).
        unsafe { &mut *self.0.header() }
    }

    /// Writes a slot and marks it present, and full if `full` says so.
    ///
    /// # Safety
    ///
    /// The slot is present, or the node has room for one more; it is written as what the node and `run` say it is.
    #[inline]
    unsafe fn set(&mut self, index: SlotIndex, slot: Slot, full: bool, run: bool) {
        let place = self.0.slot(index);
        let present = self.0.present();
        if present & index.bit() == 0 && self.0.size() != NodeSize::Full {
            let after = (present & index.and_after()).count_ones();
            // SAFETY: there is room for one more slot, so those after this one can move up by one.
            unsafe { place.copy_to(place.add(1), after as usize) };
        }
        // SAFETY: the place is one of the node's.
        unsafe { place.write(slot) };
        let header = self.header();
        header.present = present | index.bit();
        header.full = header.full & !index.bit() | if full { index.bit() } else { 0 };
        header.runs = header.runs & !index.bit() | if run { index.bit() } else { 0 };
    }

    /// Writes a value into the slot of a leaf and marks it present.
    ///
    /// # Safety
    ///
    /// The node is a leaf; the slot is present or the node has room.
    #[inline]
    pub(super) unsafe fn set_value(&mut self, index: SlotIndex, bits: NonZeroU64) {
        // SAFETY: the caller's promises; a leaf's slots are values.
        unsafe { self.set(index, Slot { value: Some(bits) }, true, false) };
    }

    /// Fills an empty leaf with what `value` makes of each value of another one, at the same keys. False, and the rest is absent, as soon as it makes nothing of one.
    ///
    /// # Safety
    ///
    /// Both are leaves of the same span, and there is room for all.
    pub(super) unsafe fn fill_leaf(
        &mut self,
        other: NodeRef<'_>,
        mut value: impl FnMut(NonZeroU64) -> Option<NonZeroU64>,
    ) -> bool {
        let direct = self.0.size() == NodeSize::Full;
        let mut left = other.present();
        while left != 0 {
            let index = SlotIndex::lowest(left);
            // SAFETY: the slot is present there, and one of a leaf.
            let Some(bits) = value(unsafe { other.value(index) }) else { break };
            if direct {
                // SAFETY: the node is full-sized.
                unsafe { self.0.link.direct_slot(index).write(Slot { value: Some(bits) }) };
            } else {
                // SAFETY: the caller's promises.
                unsafe { self.set_value(index, bits) };
            }
            left &= left - 1;
        }
        // A leaf's values are full; said once for all of them.
        let header = self.header();
        header.present = other.present() & !left;
        header.full = header.present;
        left == 0
    }

    /// Writes a value into the slot of a full-sized leaf and marks it present; gives the old one, and whether the leaf
    /// is full.
    ///
    /// # Safety
    ///
    /// The node is a leaf, and its link direct.
    #[inline]
    pub(super) unsafe fn set_direct_value(&mut self, index: SlotIndex, bits: NonZeroU64) -> (Option<NonZeroU64>, bool) {
        // SAFETY: the link is direct, and a leaf's slots are values.
        let old = unsafe { (*self.0.link.direct_slot(index)).value.replace(bits) };
        let header = self.header();
        header.present |= index.bit();
        header.full = header.present;
        (old, header.full == u64::MAX)
    }

    /// Writes a run into a slot above the leaves.
    ///
    /// # Safety
    ///
    /// The node is not a leaf; the slot is present or the node has room; the link that leads to the node is indirect.
    #[inline]
    pub(super) unsafe fn set_run(&mut self, index: SlotIndex, bits: NonZeroU64) {
        // SAFETY: the caller's promises; it is marked as a run.
        unsafe { self.set(index, Slot { value: Some(bits) }, true, true) };
    }

    /// Writes a child into a slot above the leaves, not full; or empties it, for no child.
    ///
    /// # Safety
    ///
    /// The node is not a leaf, the child's keys lie in the slot's range; the slot is present or the node has room.
    #[inline]
    pub(super) unsafe fn set_child(&mut self, index: SlotIndex, child: Link) {
        if child.is_none() {
            self.remove(index.bit());
            return;
        }
        // SAFETY: the caller's promises; slots above the leaves that are no runs are links.
        unsafe { self.set(index, Slot { child }, false, false) };
    }

    /// Puts a copy of the child into its slot, or moves it; full or not as before.
    ///
    /// # Safety
    ///
    /// The node is not a leaf, the slot holds a child, and the new one has the same keys.
    #[inline]
    pub(super) unsafe fn replace_child(&mut self, index: SlotIndex, child: Link) {
        // SAFETY: the slot is present, and one of the node's.
        unsafe { self.0.slot(index).write(Slot { child }) };
    }

    /// Notes that the child in a slot above the leaves is full.
    #[inline]
    pub(super) fn set_full(&mut self, index: SlotIndex) {
        self.header().full |= index.bit();
    }

    /// Notes that the child in a slot above the leaves may have room.
    #[inline]
    pub(super) fn clear_full(&mut self, index: SlotIndex) {
        self.header().full &= !index.bit();
    }

    /// Empties slots.
    pub(super) fn remove(&mut self, bits: u64) {
        let mut left = bits & self.0.present();
        while left != 0 {
            let index = SlotIndex::highest(left);
            left &= !index.bit();
            let place = self.0.slot(index);
            let present = self.0.present();
            if self.0.size() == NodeSize::Full {
                // What a leaf's and what a parent's absent slot read as; on hosts of any width all zero.
                // SAFETY: the place is one of the node's, and all zero is both no value and no link.
                unsafe { place.write_bytes(0, 1) };
            } else {
                let after = (present & index.and_after() & !index.bit()).count_ones();
                // SAFETY: so many slots come after this one.
                unsafe { place.copy_from(place.add(1), after as usize) };
            }
            let header = self.header();
            header.present &= !index.bit();
            header.full &= !index.bit();
            header.runs &= !index.bit();
        }
    }

    /// Takes over slot and marks from a node of the same shift and span, for all of `bits`.
    ///
    /// # Safety
    ///
    /// The slots are present there and absent here, with room for them; if any is a run, the link that leads here is
    /// indirect.
    pub(super) unsafe fn copy_slots(&mut self, other: NodeRef<'_>, bits: u64) {
        if self.0.size() == NodeSize::Full && other.size() == NodeSize::Full {
            for_each(bits, |index| {
                // SAFETY: both are full-sized.
                unsafe { self.0.link.direct_slot(index).write(*other.link.direct_slot(index)) };
            });
            let (full, runs) = (other.full() & bits, other.runs() & bits);
            let header = self.header();
            header.present |= bits;
            header.full = header.full & !bits | full;
            header.runs = header.runs & !bits | runs;
            return;
        }
        let mut left = bits;
        while left != 0 {
            let index = SlotIndex::lowest(left);
            left &= left - 1;
            let (full, run) = (other.full() & index.bit() != 0, other.runs() & index.bit() != 0);
            // SAFETY: the caller's promises.
            unsafe { self.set(index, *other.slot(index), full, run) };
        }
    }

    /// Changes the bits of a value that is present in a leaf, or of a run, and nothing else.
    ///
    /// # Safety
    ///
    /// The slot is present, and the node is a leaf or the slot a run.
    #[inline]
    pub(super) unsafe fn replace_value(&mut self, index: SlotIndex, bits: NonZeroU64) {
        // SAFETY: the slot is one of the node's.
        unsafe { self.0.slot(index).write(Slot { value: Some(bits) }) };
    }
}

impl Node {
    /// Makes an empty node for the span around `key` and links it, held once.
    ///
    /// # Safety
    ///
    /// `place` is valid for writes of a node of this size and used by nobody else.
    #[inline]
    pub(super) unsafe fn place(place: NonNull<Self>, size: NodeSize, shift: Shift, key: u64) -> Link {
        // SAFETY: as the caller promises; all zero is an absent slot, of a leaf or above.
        unsafe {
            place.write(Self {
                present: 0,
                full: 0,
                runs: 0,
                base_and_size: key & !shift.node_mask() | size.bits(),
                references: AtomicUsize::new(1),
                slots: [Slot { value: None }; 3],
            });
            if size == NodeSize::Full {
                (&raw mut (*place.cast::<FullNode>().as_ptr()).slots).write_bytes(0, 1);
            }
        }
        let packed = if size == NodeSize::Full { 0 } else { INDIRECT };
        Link(place.as_ptr().map_addr(|address| address | usize::from(shift.0) | packed))
    }
}
