//! Iterators that take elements out of a vector.
//!
//! Each owns the elements that it has not given out yet, and the vector owns them no longer: whatever
//! panics or is forgotten, no element has two owners.

use super::{GrowthMemory, StaticVec};
use core::iter::FusedIterator;
use core::ptr;

/// The elements taken out by [`StaticVec::drain`].
///
/// # Invariants
///
/// `next..end` of the vector's block are elements that this iterator owns; `tail_length` elements from
/// `tail` on are the vector's again when it is dropped; `vector.length` is where the hole begins.
#[must_use = "what is not taken is dropped with the iterator"]
pub struct Drain<'a, T, M: GrowthMemory> {
    pub(super) vector: &'a mut StaticVec<T, M>,
    pub(super) next: usize,
    pub(super) end: usize,
    pub(super) tail: usize,
    pub(super) tail_length: usize,
}

impl<T, M: GrowthMemory> Iterator for Drain<'_, T, M> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        let place = self.next;
        self.next += 1;
        // SAFETY: an element that this iterator owned, and no longer does.
        Some(unsafe { self.vector.start().add(place).read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl<T, M: GrowthMemory> DoubleEndedIterator for Drain<'_, T, M> {
    fn next_back(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        self.end -= 1;
        // SAFETY: an element that this iterator owned, and no longer does.
        Some(unsafe { self.vector.start().add(self.end).read() })
    }
}

impl<T, M: GrowthMemory> ExactSizeIterator for Drain<'_, T, M> {}
impl<T, M: GrowthMemory> FusedIterator for Drain<'_, T, M> {}

impl<T, M: GrowthMemory> Drop for Drain<'_, T, M> {
    fn drop(&mut self) {
        /// Closes the hole also when an element's destructor panics.
        struct Close<'d, 'a, T, M: GrowthMemory>(&'d mut Drain<'a, T, M>);
        impl<T, M: GrowthMemory> Drop for Close<'_, '_, T, M> {
            fn drop(&mut self) {
                let Drain { vector, tail, tail_length, .. } = &mut *self.0;
                let hole = vector.length;
                // SAFETY: the tail is initialised and moves down over the hole, within the block.
                unsafe {
                    ptr::copy(vector.start().add(*tail), vector.start().add(hole), *tail_length);
                }
                vector.length = hole + *tail_length;
            }
        }
        let close = Close(self);
        let drain = &mut *close.0;
        // SAFETY: `next <= end`, both within the block.
        let first = unsafe { drain.vector.start().add(drain.next) };
        let left = drain.end - drain.next;
        drain.next = drain.end;
        // SAFETY: elements that this iterator owned, and after the line above no longer does.
        unsafe { ptr::drop_in_place(ptr::slice_from_raw_parts_mut(first, left)) };
    }
}

/// The elements of a vector, by value. The memory goes back when the iterator is dropped.
///
/// # Invariants
///
/// `next..end` of the block are elements that this iterator owns; the vector itself owns none.
pub struct IntoIter<T, M: GrowthMemory> {
    vector: StaticVec<T, M>,
    next: usize,
    end: usize,
}

impl<T, M: GrowthMemory> Iterator for IntoIter<T, M> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        let place = self.next;
        self.next += 1;
        // SAFETY: an element that this iterator owned, and no longer does.
        Some(unsafe { self.vector.start().add(place).read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl<T, M: GrowthMemory> DoubleEndedIterator for IntoIter<T, M> {
    fn next_back(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        self.end -= 1;
        // SAFETY: an element that this iterator owned, and no longer does.
        Some(unsafe { self.vector.start().add(self.end).read() })
    }
}

impl<T, M: GrowthMemory> ExactSizeIterator for IntoIter<T, M> {}
impl<T, M: GrowthMemory> FusedIterator for IntoIter<T, M> {}

impl<T, M: GrowthMemory> Drop for IntoIter<T, M> {
    fn drop(&mut self) {
        // SAFETY: `next <= end`, both within the block.
        let first = unsafe { self.vector.start().add(self.next) };
        let left = self.end - self.next;
        self.next = self.end;
        // SAFETY: elements that this iterator owned, and after the line above no longer does. If a
        // destructor panics, the vector (now empty) is still dropped and frees its block.
        unsafe { ptr::drop_in_place(ptr::slice_from_raw_parts_mut(first, left)) };
    }
}

impl<T, M: GrowthMemory> IntoIterator for StaticVec<T, M> {
    type Item = T;
    type IntoIter = IntoIter<T, M>;

    fn into_iter(mut self) -> IntoIter<T, M> {
        let end = core::mem::take(&mut self.length);
        IntoIter { vector: self, next: 0, end }
    }
}
