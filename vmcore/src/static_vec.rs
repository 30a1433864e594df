//! [`StaticVec`]: a vector that begins in static memory that it is lent and may later grow into
//! memory from a source, without ever freeing what it does not own.
//!
//! A kernel needs lists before it has frames: the windows of its own space are recorded while the
//! very first tables are built. Those lists begin in a `static` ([`StaticMemory`]) and move into
//! memory from a pool once there is one.
//!
//! ```text
//!   lent only                grown                         shrunk back
//!   StaticVec                StaticVec                     StaticVec
//!   ├ lent ──► [a b c .]     ├ lent ──► [. . . .] (idle)   ├ lent ──► [a b . .]
//!   └ grown: none            └ grown ─► [a b c d e . . .]  └ grown: none
//! ```
//!
//! # Invariants
//!
//! - The elements are the first `length` values of the *current* block: the grown one if there is
//!   one, otherwise the lent one. Nothing else of either block is initialised.
//! - Which block is current is the presence of `grown`, not a mark beside a size: it cannot be
//!   copied by mistake, and the lent block is never given to [`GrowthMemory::free`].
//! - A lent block belongs to one vector for ever: it came as a `&'static mut`, and a clone does not
//!   get it.
//! - A vector of zero-sized elements owns no block and has room for `usize::MAX` of them.
//!
//! # Reserve first, then commit
//!
//! Growth is the only thing that fails. After [`StaticVec::reserve`] succeeded, as many pushes and
//! insertions as were reserved succeed, whatever the source does in the meantime, until
//! [`StaticVec::shrink_to_fit`] gives the room back.
//!
//! # Panics of others
//!
//! No method panics by itself. When a destructor or a closure of the caller panics, elements may be
//! leaked but are never dropped twice or shown again.

mod error;
mod iterators;
mod memory;

pub use error::{Rejected, StaticVecError};
pub use iterators::{Drain, IntoIter};
pub use memory::{GrowthMemory, Lent, OutOfMemory, StaticMemory};

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Bound, Deref, DerefMut, RangeBounds};
use core::ptr::{self, NonNull};

/// A block of memory for `capacity` elements.
struct Block<T> {
    start: NonNull<T>,
    capacity: usize,
}

impl<T> Clone for Block<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Block<T> {}

impl<T> Block<T> {
    /// No memory: no room, or for zero-sized elements all the room there can be.
    const NONE: Self = Self { start: NonNull::dangling(), capacity: if size_of::<T>() == 0 { usize::MAX } else { 0 } };
}

/// A vector that begins in memory that it is lent and grows into memory from `M`.
///
/// With the default source, [`Lent`], it never grows. See the [module](self) for the drawing and the
/// invariants.
///
/// ```
/// use vmcore::static_vec::{StaticMemory, StaticVec};
///
/// static MEMORY: StaticMemory<u32, 2> = StaticMemory::new();
///
/// let mut list = StaticVec::<u32>::lent(MEMORY.take().unwrap());
/// list.push(1).unwrap();
/// list.push(2).unwrap();
/// assert_eq!(list.push(3).unwrap_err().value, 3);
/// assert_eq!(list.as_slice(), [1, 2]);
/// ```
///
/// It can stand in a `static` before there is anything to lend:
///
/// ```
/// use std::sync::Mutex;
/// use vmcore::static_vec::{StaticMemory, StaticVec};
///
/// static MEMORY: StaticMemory<u32, 8> = StaticMemory::new();
/// static LIST: Mutex<StaticVec<u32>> = Mutex::new(StaticVec::new());
///
/// LIST.lock().unwrap().lend(MEMORY.take().unwrap()).unwrap();
/// LIST.lock().unwrap().push(7).unwrap();
/// ```
pub struct StaticVec<T, M: GrowthMemory = Lent> {
    /// What was lent, in use or idle. Never freed.
    lent: Block<T>,
    /// The current block, if the vector has outgrown what it was lent. From `memory`.
    grown: Option<Block<T>>,
    length: usize,
    memory: M,
    owns: PhantomData<T>,
}

// SAFETY: the vector owns its elements and is the only user of its blocks, like `Vec`.
unsafe impl<T: Send, M: GrowthMemory + Send> Send for StaticVec<T, M> {}
// SAFETY: a shared vector gives only shared references to its elements, like `Vec`.
unsafe impl<T: Sync, M: GrowthMemory + Sync> Sync for StaticVec<T, M> {}

impl<T> StaticVec<T, Lent> {
    /// An empty vector without any memory. [`lend`](Self::lend) gives it some.
    pub const fn new() -> Self {
        Self::with_memory(Lent)
    }

    /// An empty vector in `memory`, which it never leaves.
    pub const fn lent(memory: &'static mut [MaybeUninit<T>]) -> Self {
        Self::lent_with_memory(memory, Lent)
    }

    /// The same vector, from now on growing into `memory`. Moves no element. O(1).
    ///
    /// ```
    /// use vmcore::static_vec::{Lent, StaticVec};
    ///
    /// let early = StaticVec::<u32>::new();
    /// let later: StaticVec<u32, &Lent> = early.growing(&Lent);
    /// assert!(later.is_empty());
    /// ```
    pub fn growing<M: GrowthMemory>(self, memory: M) -> StaticVec<T, M> {
        let whole = ManuallyDrop::new(self);
        // `Lent` gives no blocks, so `grown` is `None` and no block changes its source.
        StaticVec { lent: whole.lent, grown: None, length: whole.length, memory, owns: PhantomData }
    }
}

impl<T, M: GrowthMemory> StaticVec<T, M> {
    /// An empty vector that takes all its memory from `memory`, and none before it is needed.
    pub const fn with_memory(memory: M) -> Self {
        Self { lent: Block::NONE, grown: None, length: 0, memory, owns: PhantomData }
    }

    /// An empty vector that begins in `lent` and grows into `memory`.
    pub const fn lent_with_memory(lent: &'static mut [MaybeUninit<T>], memory: M) -> Self {
        let mut vector = Self::with_memory(memory);
        vector.lent = Self::block_of(lent);
        vector
    }

    const fn block_of(lent: &'static mut [MaybeUninit<T>]) -> Block<T> {
        if size_of::<T>() == 0 {
            return Block::NONE;
        }
        let capacity = lent.len();
        // SAFETY: a reference to a slice is never null. `MaybeUninit<T>` has the layout of `T`.
        let start = unsafe { NonNull::new_unchecked(lent.as_mut_ptr().cast::<T>()) };
        Block { start, capacity }
    }

    /// Lends memory to a vector that has none yet. Elements that it already has stay where they are
    /// until [`shrink_to_fit`](Self::shrink_to_fit). O(1).
    ///
    /// # Errors
    ///
    /// [`StaticVecError::AlreadyLent`], with the memory, if it was lent some before.
    pub fn lend(
        &mut self,
        memory: &'static mut [MaybeUninit<T>],
    ) -> Result<(), Rejected<&'static mut [MaybeUninit<T>]>> {
        if size_of::<T>() != 0 && self.lent.capacity != 0 {
            return Err(Rejected {
                value: memory,
                error: StaticVecError::AlreadyLent { capacity: self.lent.capacity },
            });
        }
        // The lent block is not current, or it is but holds nothing: its capacity is zero.
        self.lent = Self::block_of(memory);
        Ok(())
    }

    fn block(&self) -> Block<T> {
        self.grown.unwrap_or(self.lent)
    }

    fn start(&self) -> *mut T {
        self.block().start.as_ptr()
    }

    /// The number of elements.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The number of elements that there is room for without growing.
    pub fn capacity(&self) -> usize {
        self.block().capacity
    }

    /// Whether the elements lie in memory of the source, rather than in what was lent.
    pub const fn is_grown(&self) -> bool {
        self.grown.is_some()
    }

    /// Where the vector grows.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the first `length` values of the current block are initialised, and the shared
        // borrow of the vector keeps them from being changed.
        unsafe { core::slice::from_raw_parts(self.start(), self.length) }
    }

    /// The elements, to change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and the exclusive borrow of the vector is passed on.
        unsafe { core::slice::from_raw_parts_mut(self.start(), self.length) }
    }

    /// The elements in order, by reference.
    pub fn iter(&self) -> core::slice::Iter<'_, T> {
        self.as_slice().iter()
    }

    /// The elements in order, to change.
    pub fn iter_mut(&mut self) -> core::slice::IterMut<'_, T> {
        self.as_mut_slice().iter_mut()
    }

    /// Makes room for `additional` more elements: the next `additional` pushes or insertions cannot
    /// fail. Grows at least to twice the capacity if the source allows, otherwise to what is needed.
    /// Moves every element when it grows: O(n).
    ///
    /// ```
    /// use vmcore::static_vec::{StaticMemory, StaticVec, StaticVecError};
    ///
    /// static MEMORY: StaticMemory<u8, 3> = StaticMemory::new();
    /// let mut list = StaticVec::<u8>::lent(MEMORY.take().unwrap());
    /// assert_eq!(list.reserve(4), Err(StaticVecError::OutOfMemory { wanted: 4 }));
    /// list.reserve(3).unwrap();
    /// for value in 0..3 {
    ///     assert!(list.push_within_capacity(value).is_ok());
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StaticVecError::OutOfMemory`] or [`StaticVecError::TooLarge`]; the vector is as before.
    pub fn reserve(&mut self, additional: usize) -> Result<(), StaticVecError> {
        let capacity = self.capacity();
        if additional <= capacity.saturating_sub(self.length) {
            return Ok(());
        }
        let wanted = self.wanted(additional)?;
        // Doubling keeps n pushes at O(n); four spares the smallest vectors three moves.
        let generous = wanted.max(capacity.saturating_mul(2)).max(4);
        self.resize_block(generous).or_else(|_| self.resize_block(wanted))
    }

    /// Like [`reserve`](Self::reserve), without asking for more than is needed now.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve).
    pub fn reserve_exact(&mut self, additional: usize) -> Result<(), StaticVecError> {
        if additional <= self.capacity().saturating_sub(self.length) {
            return Ok(());
        }
        let wanted = self.wanted(additional)?;
        self.resize_block(wanted)
    }

    fn wanted(&self, additional: usize) -> Result<usize, StaticVecError> {
        self.length
            .checked_add(additional)
            .filter(|&wanted| Layout::array::<T>(wanted).is_ok())
            .ok_or(StaticVecError::TooLarge { length: self.length, additional })
    }

    /// Moves the elements into a fresh block from the source. `capacity` is at least the length and
    /// not zero, and elements are not zero-sized (those never need to grow).
    fn resize_block(&mut self, capacity: usize) -> Result<(), StaticVecError> {
        let refused = StaticVecError::OutOfMemory { wanted: capacity };
        let layout = Layout::array::<T>(capacity).map_err(|_| refused)?;
        if layout.size() == 0 || capacity < self.length {
            return Err(refused);
        }
        let start = self.memory.allocate(layout).map_err(|_| refused)?.cast::<T>();
        // SAFETY: the old block holds `length` elements; the new one is disjoint from it and has room
        // for `capacity >= length`. The originals are not used again: the block changes right below.
        unsafe { ptr::copy_nonoverlapping(self.start(), start.as_ptr(), self.length) };
        let old = self.grown.replace(Block { start, capacity });
        self.free(old);
        Ok(())
    }

    /// Gives a block that is no longer current back to the source.
    fn free(&self, block: Option<Block<T>>) {
        free_block(&self.memory, block);
    }

    /// Gives up what room there is beyond the elements: into the lent memory if they fit there,
    /// otherwise into a block of their size. O(n). Room that was reserved is gone afterwards.
    ///
    /// # Errors
    ///
    /// [`StaticVecError::OutOfMemory`] if the source has no smaller block: the vector is as before.
    pub fn shrink_to_fit(&mut self) -> Result<(), StaticVecError> {
        let Some(grown) = self.grown else {
            return Ok(());
        };
        if self.length <= self.lent.capacity {
            // SAFETY: the elements are in the grown block; the lent one is idle, disjoint from it and
            // has room for them. They are not used in the old place again: it is freed.
            unsafe {
                ptr::copy_nonoverlapping(grown.start.as_ptr(), self.lent.start.as_ptr(), self.length);
            }
            self.grown = None;
            self.free(Some(grown));
            return Ok(());
        }
        if self.length == grown.capacity {
            return Ok(());
        }
        self.resize_block(self.length)
    }

    /// Appends a value. O(1) amortised; cannot fail while there is room.
    ///
    /// # Errors
    ///
    /// The value, with [`StaticVecError::OutOfMemory`] or [`StaticVecError::TooLarge`].
    pub fn push(&mut self, value: T) -> Result<(), Rejected<T>> {
        if let Err(error) = self.reserve(1) {
            return Err(Rejected { value, error });
        }
        self.push_within_capacity(value).map_err(|value| Rejected {
            value,
            error: StaticVecError::OutOfMemory { wanted: self.length.saturating_add(1) },
        })
    }

    /// Appends a value if there is room, without ever asking the source. O(1).
    ///
    /// # Errors
    ///
    /// The value, if the vector is full; never after a [`reserve`](Self::reserve) that covers it.
    pub fn push_within_capacity(&mut self, value: T) -> Result<(), T> {
        if self.length >= self.capacity() {
            return Err(value);
        }
        // SAFETY: `length < capacity`, so the place is inside the current block; it holds no element.
        unsafe { self.start().add(self.length).write(value) };
        self.length += 1;
        Ok(())
    }

    /// Inserts a value before the element at `index`, or at the end. O(n).
    ///
    /// ```
    /// use vmcore::static_vec::{StaticMemory, StaticVec, StaticVecError};
    ///
    /// static MEMORY: StaticMemory<u8, 3> = StaticMemory::new();
    /// let mut list = StaticVec::<u8>::lent(MEMORY.take().unwrap());
    /// list.insert(0, 2).unwrap();
    /// list.insert(0, 1).unwrap();
    /// assert_eq!(list.as_slice(), [1, 2]);
    /// let rejected = list.insert(9, 3).unwrap_err();
    /// assert_eq!(rejected.error, StaticVecError::IndexOutOfRange { index: 9, length: 2 });
    /// ```
    ///
    /// # Errors
    ///
    /// The value, with [`StaticVecError::IndexOutOfRange`] or as for [`push`](Self::push).
    pub fn insert(&mut self, index: usize, value: T) -> Result<(), Rejected<T>> {
        let length = self.length;
        if index > length {
            return Err(Rejected { value, error: StaticVecError::IndexOutOfRange { index, length } });
        }
        if let Err(error) = self.reserve(1) {
            return Err(Rejected { value, error });
        }
        // SAFETY: `index <= length < capacity` after the reserve: the elements from `index` on move up
        // by one within the block, and the place left holds no element of its own any more.
        unsafe {
            let place = self.start().add(index);
            ptr::copy(place, place.add(1), length - index);
            place.write(value);
        }
        self.length = length + 1;
        Ok(())
    }

    /// Inserts a value into a vector that is sorted by `key`, after those equal to it, and says where.
    /// O(log n) comparisons and O(n) moves. In a vector that is not sorted the place is unspecified.
    ///
    /// ```
    /// use vmcore::static_vec::{StaticMemory, StaticVec};
    ///
    /// static MEMORY: StaticMemory<(u8, char), 3> = StaticMemory::new();
    /// let mut list = StaticVec::<(u8, char)>::lent(MEMORY.take().unwrap());
    /// list.insert_sorted_by_key((2, 'a'), |entry| entry.0).unwrap();
    /// list.insert_sorted_by_key((1, 'b'), |entry| entry.0).unwrap();
    /// let place = list.insert_sorted_by_key((2, 'c'), |entry| entry.0).unwrap();
    /// assert_eq!(place, 2);
    /// ```
    ///
    /// # Errors
    ///
    /// The value, as for [`push`](Self::push).
    pub fn insert_sorted_by_key<K: Ord>(
        &mut self,
        value: T,
        mut key: impl FnMut(&T) -> K,
    ) -> Result<usize, Rejected<T>> {
        let wanted = key(&value);
        let index = self.partition_point(|element| key(element) <= wanted);
        self.insert(index, value).map(|()| index)
    }

    /// Takes the last element. O(1).
    pub fn pop(&mut self) -> Option<T> {
        self.length = self.length.checked_sub(1)?;
        // SAFETY: the place was the last element's and no longer counts as one.
        Some(unsafe { self.start().add(self.length).read() })
    }

    /// Takes the element at `index`; those after it move down. `None` if there is none. O(n).
    pub fn remove(&mut self, index: usize) -> Option<T> {
        if index >= self.length {
            return None;
        }
        self.length -= 1;
        // SAFETY: `index` was an element; it is read once and those after it, `length - index` of
        // them now, move onto its place.
        unsafe {
            let place = self.start().add(index);
            let value = place.read();
            ptr::copy(place.add(1), place, self.length - index);
            Some(value)
        }
    }

    /// Takes the element at `index` and puts the last one in its place. `None` if there is none. O(1).
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        if index >= self.length {
            return None;
        }
        self.length -= 1;
        // SAFETY: both places were elements; the one is read once, the other moved onto it (or they
        // are the same, which `ptr::copy` allows), and the last no longer counts.
        unsafe {
            let place = self.start().add(index);
            let value = place.read();
            ptr::copy(self.start().add(self.length), place, 1);
            Some(value)
        }
    }

    /// Drops the elements from `length` on, if there are any. O(number dropped).
    pub fn truncate(&mut self, length: usize) {
        let Some(excess) = self.length.checked_sub(length) else {
            return;
        };
        // The elements are disowned before their destructors run: one that panics leaks, no more.
        self.length = length;
        // SAFETY: the `excess` places from `length` on were elements and no longer count as such.
        unsafe {
            ptr::drop_in_place(ptr::slice_from_raw_parts_mut(self.start().add(length), excess));
        }
    }

    /// Drops every element and keeps the room. O(n).
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Takes the elements of `range` out, in order; what is not taken from the iterator is dropped with
    /// it. O(elements taken + elements after them). Forgetting the iterator leaks elements.
    ///
    /// ```
    /// use vmcore::static_vec::{StaticMemory, StaticVec};
    ///
    /// static MEMORY: StaticMemory<u8, 4> = StaticMemory::new();
    /// let mut list = StaticVec::<u8>::lent(MEMORY.take().unwrap());
    /// for value in 0..4 {
    ///     list.push(value).unwrap();
    /// }
    /// assert!(list.drain(1..3).unwrap().eq([1, 2]));
    /// assert_eq!(list.as_slice(), [0, 3]);
    /// assert!(list.drain(1..9).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`StaticVecError::RangeOutOfRange`] if the range is not within the vector.
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Result<Drain<'_, T, M>, StaticVecError> {
        let length = self.length;
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            // An end past `usize::MAX` can only be met by that many zero-sized elements, whose last
            // index is one less: saturating would accept it.
            Bound::Included(&last) => {
                last.checked_add(1).ok_or(StaticVecError::RangeOutOfRange { start, end: last, length })?
            }
            Bound::Excluded(&end) => end,
            Bound::Unbounded => length,
        };
        if start > end || end > length {
            return Err(StaticVecError::RangeOutOfRange { start, end, length });
        }
        // Until the drain is over, the vector ends where the hole begins.
        self.length = start;
        Ok(Drain { vector: self, next: start, end, tail: end, tail_length: length - end })
    }

    /// Keeps the elements for which `keep` is true, in order, and drops the others. O(n).
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.retain_mut(|element| keep(element));
    }

    /// Like [`retain`](Self::retain), and the elements may be changed on the way.
    pub fn retain_mut(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let total = self.length;
        // While closures and destructors of the caller run, the vector owns nothing; the guard closes
        // the hole and counts again, also when one of them panics.
        self.length = 0;
        let mut pass = Pass { vector: self, seen: 0, kept: 0, total };
        while pass.seen < total {
            // SAFETY: `seen < total`: an element that was neither moved nor dropped yet.
            let element = unsafe { pass.vector.start().add(pass.seen) };
            // SAFETY: as above, and nothing else refers to it.
            if keep(unsafe { &mut *element }) {
                // SAFETY: `kept <= seen`: the place is this element's own or one already vacated.
                unsafe { ptr::copy(element, pass.vector.start().add(pass.kept), 1) };
                pass.seen += 1;
                pass.kept += 1;
            } else {
                pass.seen += 1;
                // SAFETY: it counts as seen and not kept, so nobody drops or shows it again.
                unsafe { ptr::drop_in_place(element) };
            }
        }
    }

    /// A second vector with clones of the elements, in memory of (a clone of) the source: what was lent
    /// to this one is not lent to the other. O(n).
    ///
    /// ```
    /// use vmcore::static_vec::{StaticMemory, StaticVec};
    ///
    /// static MEMORY: StaticMemory<u8, 4> = StaticMemory::new();
    /// let mut list = StaticVec::<u8>::lent(MEMORY.take().unwrap());
    /// assert!(list.try_clone().is_ok(), "nothing to store");
    /// list.push(1).unwrap();
    /// assert!(list.try_clone().is_err(), "`Lent` has no memory for a second one");
    /// ```
    ///
    /// # Errors
    ///
    /// [`StaticVecError::OutOfMemory`] if the source has no block of that size.
    pub fn try_clone(&self) -> Result<Self, StaticVecError>
    where
        T: Clone,
        M: Clone,
    {
        let mut clone = Self::with_memory(self.memory.clone());
        clone.reserve_exact(self.length)?;
        for element in self {
            clone.push(element.clone()).map_err(|rejected| rejected.error)?;
        }
        Ok(clone)
    }
}

/// Gives a block from `memory` back to it.
fn free_block<T, M: GrowthMemory>(memory: &M, block: Option<Block<T>>) {
    let Some(Block { start, capacity }) = block else {
        return;
    };
    if let Ok(layout) = Layout::array::<T>(capacity) {
        // SAFETY: grown blocks come from `allocate` of this source with this very layout, and each is
        // taken out of `grown` once, by the caller, who does not use it again.
        unsafe { memory.free(start.cast(), layout) };
    }
}

impl<T, M: GrowthMemory> Drop for StaticVec<T, M> {
    fn drop(&mut self) {
        /// Frees the block also when an element's destructor panics.
        struct Free<'a, T, M: GrowthMemory>(&'a M, Option<Block<T>>);
        impl<T, M: GrowthMemory> Drop for Free<'_, T, M> {
            fn drop(&mut self) {
                free_block(self.0, self.1.take());
            }
        }
        let elements = ptr::slice_from_raw_parts_mut(self.start(), self.length);
        let _free = Free(&self.memory, self.grown.take());
        // SAFETY: these are the elements, nobody else refers to them, and the vector is gone after.
        unsafe { ptr::drop_in_place(elements) };
    }
}

/// The state of [`StaticVec::retain_mut`]: `0..kept` are kept, `kept..seen` vacated, `seen..total` not
/// yet looked at.
struct Pass<'a, T, M: GrowthMemory> {
    vector: &'a mut StaticVec<T, M>,
    seen: usize,
    kept: usize,
    total: usize,
}

impl<T, M: GrowthMemory> Drop for Pass<'_, T, M> {
    fn drop(&mut self) {
        let rest = self.total - self.seen;
        // SAFETY: the elements not looked at move down over vacated places, within the block.
        unsafe {
            ptr::copy(self.vector.start().add(self.seen), self.vector.start().add(self.kept), rest);
        }
        self.vector.length = self.kept + rest;
    }
}

impl<'a, T, M: GrowthMemory> IntoIterator for &'a StaticVec<T, M> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T, M: GrowthMemory> IntoIterator for &'a mut StaticVec<T, M> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T, M: GrowthMemory> Deref for StaticVec<T, M> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T, M: GrowthMemory> DerefMut for StaticVec<T, M> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

impl<T> Default for StaticVec<T, Lent> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug, M: GrowthMemory> fmt::Debug for StaticVec<T, M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self).finish()
    }
}

impl<T: PartialEq, M: GrowthMemory, N: GrowthMemory> PartialEq<StaticVec<T, N>> for StaticVec<T, M> {
    fn eq(&self, other: &StaticVec<T, N>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq, M: GrowthMemory> Eq for StaticVec<T, M> {}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
