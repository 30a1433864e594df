//! One node of the tree: 64 slots, and what is known about them.
//!
//! ```text
//!   byte 0         8      16     24           32      64                               576
//!        ├─────────┼──────┼──────┼────────────┼───────┼──────┬──────┬── ··· ──┬────────┤
//!        │ present │ full │ base │ references │       │ [ 0] │ [ 1] │         │  [63]  │
//!        └─────────┴──────┴──────┴────────────┴───────┴──────┴──────┴── ··· ──┴────────┘
//!          a bit per slot   first  trees and          leaf: the bits of a value
//!                           key    parents            above: a link to a child, or null
//!
//!   a link      63                          6 5        0
//!               ├────────── node ───────────┼─ shift ──┤    nodes are aligned to 64 bytes, so the
//!               └───────────────────────────┴──────────┘    low six bits hold the node's shift
//! ```
//!
//! A node with shift `s` takes bits `s + 5 ..= s` of a key as the number of the slot. The shift is in
//! the link and absent slots are zero, so that a lookup reads one word per node and, but for the root's, no header.
//!
//! Seven nodes and 64 bytes of bookkeeping fill a 4 KiB page.

use crate::word::{AtomicUsize, Ordering};
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

/// A pointer to a node with the node's shift in its low bits; null where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(*mut Node);

impl Link {
    pub(super) const NONE: Self = Self(ptr::null_mut());

    #[inline]
    fn to(node: NonNull<Node>, shift: Shift) -> Self {
        Self(node.as_ptr().map_addr(|address| address | usize::from(shift.0)))
    }

    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.0.is_null()
    }

    #[inline]
    pub(super) fn shift(self) -> Shift {
        Shift((self.0.addr() & SHIFT_MASK) as u8)
    }

    /// The node's address; dangling if there is none.
    #[inline]
    pub(super) fn pointer(self) -> NonNull<Node> {
        NonNull::new(self.0.map_addr(|address| address & !SHIFT_MASK)).unwrap_or(NonNull::dangling())
    }

    /// The node.
    ///
    /// # Safety
    ///
    /// The link is not null, its node stays alive for `'a`, and nobody changes it (but for its
    /// reference count) in that time.
    #[inline]
    pub(super) unsafe fn node<'a>(self) -> &'a Node {
        // SAFETY: links are made by `Node::place` only, from a valid node; the rest is the caller's.
        unsafe { &*self.0.map_addr(|address| address & !SHIFT_MASK) }
    }

    /// The node, to change.
    ///
    /// # Safety
    ///
    /// The link is not null, its node stays alive for `'a`, and nobody else refers to it in that time:
    /// it and every node above it are held once, by a tree that the caller has exclusively.
    #[inline]
    pub(super) unsafe fn node_mut<'a>(self) -> &'a mut Node {
        // SAFETY: as in `node`, and the caller promises that the reference is the only one.
        unsafe { &mut *self.0.map_addr(|address| address & !SHIFT_MASK) }
    }
}

/// A slot: the bits of a value in a leaf, a link above.
#[derive(Clone, Copy)]
union Slot {
    value: Option<NonZeroU64>,
    child: Link,
}

/// What is known about the slots; the first line of a node.
///
/// # Invariants
///
/// - A slot that is not present is zero: no value, no child.
/// - In a leaf, `full == present`. Above, a bit of `full` says that every key of the slot is present:
///   its child has the next lower shift and is itself full.
/// - `base` is a multiple of the keys that the node spans.
/// - A leaf has at least one value, a node above at least two children, whose keys all lie in their
///   slot's range. A child's shift is lower than its parent's, by any number of levels.
/// - `references` counts the slots and trees that hold the node. While it is more than one, nothing
///   else in the node changes.
#[repr(C, align(64))]
struct Header {
    present: u64,
    full: u64,
    base: u64,
    references: AtomicUsize,
}

/// A node of a [`PageTree`](super::PageTree), as a [`NodeStore`](super::NodeStore) hands it out: 576 bytes,
/// aligned to 64, seven to a page of 4 KiB. What is in it is the tree's business.
#[repr(C)]
pub struct Node {
    header: Header,
    slots: [Slot; 64],
}

const _: () = assert!(size_of::<Node>() == 576 && align_of::<Node>() == SHIFT_MASK + 1);

impl Node {
    /// Makes an empty node for the span around `key` and links it, held once.
    ///
    /// # Safety
    ///
    /// `place` is valid for writes of a node and used by nobody else.
    #[inline]
    pub(super) unsafe fn place(place: NonNull<Self>, shift: Shift, key: u64) -> Link {
        let empty = if shift.is_leaf() { Slot { value: None } } else { Slot { child: Link::NONE } };
        // SAFETY: as the caller promises.
        unsafe {
            place.write(Self {
                header: Header { present: 0, full: 0, base: key & !shift.node_mask(), references: AtomicUsize::new(1) },
                slots: [empty; 64],
            });
        }
        Link::to(place, shift)
    }

    #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of slots")]
    #[inline]
    fn slot(&self, index: SlotIndex) -> &Slot {
        &self.slots[usize::from(index.0 & 63)]
    }

    #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of slots")]
    #[inline]
    fn slot_mut(&mut self, index: SlotIndex) -> &mut Slot {
        &mut self.slots[usize::from(index.0 & 63)]
    }

    #[inline]
    pub(super) fn present(&self) -> u64 {
        self.header.present
    }

    #[inline]
    pub(super) fn full(&self) -> u64 {
        self.header.full
    }

    /// The first key that the node can hold.
    #[inline]
    pub(super) fn base(&self) -> u64 {
        self.header.base
    }

    #[inline]
    pub(super) fn references(&self) -> &AtomicUsize {
        &self.header.references
    }

    /// Whether somebody else holds the node too. If not, what others did to it before they let go is
    /// seen from here on.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        self.header.references.load(Ordering::Acquire) != 1
    }

    /// The bits in the slot of a leaf; `None` if the slot is absent. Reads nothing but the slot.
    ///
    /// # Safety
    ///
    /// The node is a leaf.
    #[inline]
    pub(super) unsafe fn lookup(&self, index: SlotIndex) -> Option<NonZeroU64> {
        // SAFETY: a leaf's slots are made and written as values only.
        unsafe { self.slot(index).value }
    }

    /// The bits in a slot of a leaf that is present.
    ///
    /// # Safety
    ///
    /// The node is a leaf, and the slot's bit in [`present`](Self::present) is set.
    #[inline]
    pub(super) unsafe fn value(&self, index: SlotIndex) -> NonZeroU64 {
        // SAFETY: it is a leaf, whose slots hold a word if and only if they are present.
        unsafe { self.lookup(index).unwrap_unchecked() }
    }

    /// The link in a slot above the leaves; null if the slot is absent.
    ///
    /// # Safety
    ///
    /// The node is not a leaf.
    #[inline]
    pub(super) unsafe fn child(&self, index: SlotIndex) -> Link {
        // SAFETY: slots above the leaves are made and written as links only.
        unsafe { self.slot(index).child }
    }

    /// Writes a value into the slot of a leaf and marks it present.
    ///
    /// # Safety
    ///
    /// The node is a leaf.
    #[inline]
    pub(super) unsafe fn set_value(&mut self, index: SlotIndex, bits: NonZeroU64) {
        *self.slot_mut(index) = Slot { value: Some(bits) };
        self.header.present |= index.bit();
        self.header.full = self.header.present;
    }

    /// Writes a child into a slot above the leaves: present if there is one, not full either way.
    ///
    /// # Safety
    ///
    /// The node is not a leaf, and the child's keys lie in the slot's range.
    #[inline]
    pub(super) unsafe fn set_child(&mut self, index: SlotIndex, child: Link) {
        *self.slot_mut(index) = Slot { child };
        self.header.full &= !index.bit();
        if child.is_none() {
            self.header.present &= !index.bit();
        } else {
            self.header.present |= index.bit();
        }
    }

    /// Notes that the child in a slot above the leaves is full.
    #[inline]
    pub(super) fn set_full(&mut self, index: SlotIndex) {
        self.header.full |= index.bit();
    }

    /// Notes that the child in a slot above the leaves may have room.
    #[inline]
    pub(super) fn clear_full(&mut self, index: SlotIndex) {
        self.header.full &= !index.bit();
    }

    /// Empties slots of a leaf.
    ///
    /// # Safety
    ///
    /// The node is a leaf.
    #[inline]
    pub(super) unsafe fn clear_values(&mut self, bits: u64) {
        let mut left = bits & self.header.present;
        while left != 0 {
            *self.slot_mut(SlotIndex::lowest(left)) = Slot { value: None };
            left &= left - 1;
        }
        self.header.present &= !bits;
        self.header.full = self.header.present;
    }

    /// Takes over all slots of another node of the same shift and span.
    #[inline]
    pub(super) fn copy_slots(&mut self, other: &Self) {
        self.slots = other.slots;
        self.header.present = other.header.present;
        self.header.full = other.header.full;
    }
}
