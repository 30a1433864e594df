//! The index of a space: which address belongs to which window, and where there is room.
//!
//! ```text
//!   sorted by start:   | 0x1000..0x3fff | 0x8000..0x8fff (gated) | 0x2_0000..0x5_ffff | foreign ... |
//! ```
//!
//! A sorted [`StaticVec`], so that the kernel's space can begin in static memory before there are frames. Finding is O(log n);
//! inserting, removing and the gap search are O(n). Callers see only the operations, so a tree can take its place.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Frames, OutOfFrames};
use crate::machine::FrameMemory;
use crate::platform::Platform;
use crate::static_vec::{StaticVec, StaticVecError};

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

/// A slot as it is stored: static memory for it can be lent before the space's types are known. See [`Space::kernel`](crate::vm_space::Space::kernel).
#[derive(Clone, Copy, Debug)]
pub struct IndexSlot {
    range: PageRange,
    window: Option<NonNull<()>>,
}

// SAFETY: the pointer is only followed by the index that owns the slot, under its lock.
unsafe impl Send for IndexSlot {}

impl IndexSlot {
    const fn typed<W>(self) -> Slot<W> {
        let window = match self.window {
            Some(window) => Some(window.cast()),
            None => None,
        };
        Slot { range: self.range, window }
    }
}

impl<W> From<Slot<W>> for IndexSlot {
    fn from(slot: Slot<W>) -> Self {
        Self { range: slot.range, window: slot.window.map(NonNull::cast) }
    }
}

/// Slots sorted by address, none of which overlap.
pub(crate) struct Index<P: Platform, W> {
    slots: StaticVec<IndexSlot, FrameMemory<P>>,
    windows: PhantomData<*mut W>,
}

// SAFETY: slots point to windows that belong to the space, and are reached only under the index's lock.
unsafe impl<P: Platform, W> Send for Index<P, W> {}

impl<P: Platform, W> Index<P, W> {
    /// An empty index that grows into frames.
    pub(crate) fn new(slots: StaticVec<IndexSlot, FrameMemory<P>>) -> Self {
        Self { slots, windows: PhantomData }
    }

    /// Makes room for `count` more slots, so that as many insertions cannot fail.
    ///
    /// # Errors
    /// How many consecutive frames the larger block wants.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), OutOfFrames> {
        self.slots.reserve(count).map_err(|error| {
            let slots = match error {
                StaticVecError::OutOfMemory { wanted } => wanted,
                _ => usize::MAX,
            };
            let bytes = slots.saturating_mul(size_of::<IndexSlot>()).saturating_add(FrameMemory::<P>::HEADER);
            OutOfFrames { wanted: (bytes as u64).div_ceil(page_size::<P>()) }
        })
    }

    pub(crate) fn get(&self, position: usize) -> Option<Slot<W>> {
        Some(self.slots.get(position)?.typed())
    }

    /// Puts the parts of a slot, in order, in its place, for which room was reserved; gives how many they are.
    pub(crate) fn replace(&mut self, position: usize, parts: [Option<Slot<W>>; 3]) -> usize {
        let mut count = 0;
        for part in parts.into_iter().flatten() {
            if count == 0 {
                if let Some(slot) = self.slots.get_mut(position) {
                    *slot = part.into();
                }
            } else {
                let _ = self.slots.insert(position + count, part.into());
            }
            count += 1;
        }
        count
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All slots, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Slot<W>> {
        self.slots.iter().map(|slot| slot.typed())
    }

    /// Forgets every slot.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    /// The position of the first slot that ends at or after `address`.
    #[inline]
    pub(crate) fn position(&self, address: VirtAddr) -> usize {
        self.slots.partition_point(|slot| slot.range.last() < address)
    }

    /// The slot that covers `address`.
    #[inline]
    pub(crate) fn find(&self, address: VirtAddr) -> Option<Slot<W>> {
        self.get(self.position(address)).filter(|slot| slot.range.contains(address))
    }

    /// The slots that share an address with `range`, in order.
    pub(crate) fn overlapping(&self, range: PageRange) -> impl Iterator<Item = Slot<W>> {
        let first = self.position(range.start());
        let slots = self.slots.get(first..).unwrap_or_default();
        slots.iter().take_while(move |slot| slot.range.overlaps(range)).map(|slot| slot.typed())
    }

    /// Inserts a slot where it belongs. Room was reserved; false (and no change) if not.
    pub(crate) fn insert(&mut self, slot: Slot<W>) -> bool {
        let position = self.position(slot.range.start());
        self.slots.insert(position, slot.into()).is_ok()
    }

    /// Removes the slot of this window, if it is still there, and with it its neighbours to both sides for which `with` is true.
    /// O(log n + slots behind the first that is removed).
    pub(crate) fn remove_run(&mut self, range: PageRange, window: NonNull<W>, with: impl Fn(NonNull<W>) -> bool) {
        let position = self.position(range.start());
        if self.slots.get(position).is_none_or(|slot| slot.window != Some(window.cast())) {
            return;
        }
        let goes = |slot: &IndexSlot| slot.window.is_some_and(|window| with(window.cast()));
        let before = self.slots.get(..position).unwrap_or_default();
        let first = position - before.iter().rev().take_while(|slot| goes(slot)).count();
        let behind = self.slots.get(position + 1..).unwrap_or_default();
        let end = position + 1 + behind.iter().take_while(|slot| goes(slot)).count();
        // The range lies within the slots, so this cannot be refused.
        let _ = self.slots.drain(first..end).map(drop);
    }

    /// The lowest address in `bounds` at which `size` bytes are free and which is `phase` modulo 2^`alignment`. O(n).
    pub(crate) fn first_gap(&self, bounds: PageRange, size: u64, alignment: u32, phase: u64) -> Option<VirtAddr> {
        let fit = |from: VirtAddr, last: VirtAddr| {
            let start = next_with_phase(from.as_u64(), alignment, phase)?;
            let end = start.checked_add(size.checked_sub(1)?)?;
            (end <= last.as_u64()).then_some(VirtAddr::new(start))
        };
        let mut from = bounds.start();
        for slot in self.overlapping(bounds) {
            if slot.range.start() > from {
                let last = VirtAddr::new(slot.range.start().as_u64() - 1);
                if let Some(found) = fit(from, last) {
                    return Some(found);
                }
            }
            from = slot.range.last().checked_add(1)?;
        }
        fit(from, bounds.last())
    }
}

/// The lowest number at or above `from` that is `phase` modulo 2^`alignment`.
fn next_with_phase(from: u64, alignment: u32, phase: u64) -> Option<u64> {
    let mask = 1_u64.checked_shl(alignment)?.wrapping_sub(1);
    from.checked_add(phase.wrapping_sub(from) & mask)
}

/// A page of `P`'s in bytes.
pub(crate) const fn page_size<P: Frames>() -> u64 {
    1 << P::PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::next_with_phase;

    #[test]
    fn phases() {
        assert_eq!(next_with_phase(0x1000, 21, 0), Some(0x20_0000));
        assert_eq!(next_with_phase(0x1000, 21, 0x1000), Some(0x1000));
        assert_eq!(next_with_phase(0x2000, 21, 0x1000), Some(0x20_1000));
        assert_eq!(next_with_phase(u64::MAX - 5, 12, 0), None);
    }
}
