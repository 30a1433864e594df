//! Counted references to things in a fixed number of places, without a heap: what cannot be allocated cannot fail to be.
//!
//! ```text
//!   place     0            1            2
//!           ┌────────────┬────────────┬────────────┐
//!   count   │ 2          │ 0          │ FILLING    │      0: free      FILLING: being filled or emptied
//!   number  │ 7 · 0      │ 3 · 1      │ 5 · 2      │      generation · place, never the same twice
//!   value   │ ████       │            │ ▒▒▒▒       │
//!           └────────────┴────────────┴────────────┘
//! ```
//!
//! # Invariants
//!
//! A value is there exactly while its count is neither 0 nor `FILLING`. Only who changes a count from 0 to `FILLING`, or from 1 to `FILLING`, touches
//! the value otherwise than through a shared reference.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Somebody is filling or emptying the place.
const FILLING: u32 = u32::MAX;
const PLACE_BITS: u32 = 16;

/// One place.
struct Place<T> {
    count: AtomicU32,
    generation: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Place<T> {
    const fn new() -> Self {
        let value = UnsafeCell::new(MaybeUninit::uninit());
        Self { count: AtomicU32::new(0), generation: AtomicU64::new(1), value }
    }
}

/// Up to `N` values (fewer than 65,536).
pub struct Pool<T, const N: usize> {
    places: [Place<T>; N],
}

// SAFETY: references give `&T` to several threads, and the last one drops the `T` on whichever.
unsafe impl<T: Send + Sync, const N: usize> Sync for Pool<T, N> {}

impl<T, const N: usize> Pool<T, N> {
    /// An empty pool.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N < 1 << PLACE_BITS, "a place must fit the low bits of a number") };
        Self { places: [const { Place::new() }; N] }
    }

    /// Puts a value into a free place. O(N).
    ///
    /// # Errors
    ///
    /// The value, where there is no free place.
    pub fn insert(&'static self, value: T) -> Result<Ref<T, N>, T> {
        match self.free_place() {
            Some(place) => Ok(self.fill(place, || value)),
            None => Err(value),
        }
    }

    /// Makes a value in a free place: a large one is not moved there. O(N). `None`, and nothing is made, where there is no free place.
    #[inline]
    pub fn insert_with(&'static self, make: impl FnOnce() -> T) -> Option<Ref<T, N>> {
        self.free_place().map(|place| self.fill(place, make))
    }

    /// A free place, to be filled: its count is `FILLING`.
    fn free_place(&'static self) -> Option<&'static Place<T>> {
        let take =
            |place: &&Place<T>| place.count.compare_exchange(0, FILLING, Ordering::Acquire, Ordering::Relaxed).is_ok();
        self.places.iter().find(take)
    }

    /// Fills a place that [was free](Self::free_place).
    #[inline]
    fn fill(&'static self, place: &'static Place<T>, make: impl FnOnce() -> T) -> Ref<T, N> {
        // SAFETY: the count was changed from 0 to `FILLING` for this call, so the place is its own and holds nothing.
        unsafe { (*place.value.get()).write(make()) };
        place.count.store(1, Ordering::Release);
        Ref { pool: self, place }
    }

    /// A reference to what has this number, if it is still there.
    #[must_use]
    pub fn get(&'static self, number: u64) -> Option<Ref<T, N>> {
        let index = usize::try_from(number & ((1 << PLACE_BITS) - 1)).ok()?;
        let found = self.reference(self.places.get(index)?)?;
        // The generation does not change while there is a reference.
        (found.number() == number).then_some(found)
    }

    /// A reference that was turned into its number ([`Ref::into_number`]).
    ///
    /// # Safety
    ///
    /// It was, and was not made one again since.
    #[must_use]
    pub unsafe fn reclaim(&'static self, number: u64) -> Option<Ref<T, N>> {
        let index = usize::try_from(number & ((1 << PLACE_BITS) - 1)).ok()?;
        Some(Ref { pool: self, place: self.places.get(index)? })
    }

    /// A reference to each value that is there when it is looked at.
    pub fn iter(&'static self) -> impl Iterator<Item = Ref<T, N>> {
        self.places.iter().filter_map(|place| self.reference(place))
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let counts = self.places.iter().map(|place| place.count.load(Ordering::Relaxed));
        counts.filter(|count| *count != 0 && *count != FILLING).count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more reference to what is in a place, if anything is.
    fn reference(&'static self, place: &'static Place<T>) -> Option<Ref<T, N>> {
        let more = |count| (count != 0 && count != FILLING).then(|| count + 1);
        place.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).ok()?;
        Some(Ref { pool: self, place })
    }
}

impl<T, const N: usize> Default for Pool<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A counted reference to a value of a pool. The last one drops the value.
pub struct Ref<T: 'static, const N: usize> {
    pool: &'static Pool<T, N>,
    place: &'static Place<T>,
}

// SAFETY: it is a shared reference to a `T`, and may drop it.
unsafe impl<T: Send + Sync, const N: usize> Send for Ref<T, N> {}
// SAFETY: likewise.
unsafe impl<T: Send + Sync, const N: usize> Sync for Ref<T, N> {}

impl<T, const N: usize> Ref<T, N> {
    /// The number of the value: never another one's, not 0, and less than 2^63.
    #[must_use]
    pub fn number(&self) -> u64 {
        let offset = (&raw const *self.place) as usize - (&raw const self.pool.places) as usize;
        let index = (offset / size_of::<Place<T>>()) as u64;
        self.place.generation.load(Ordering::Relaxed) << PLACE_BITS | index
    }

    /// The number, for who can keep nothing else: the value stays until [`Pool::reclaim`] has made it a reference again, and that is dropped.
    #[must_use]
    pub fn into_number(self) -> u64 {
        let number = self.number();
        core::mem::forget(self);
        number
    }

    /// The number of its place, less than `N`.
    #[must_use]
    pub fn place(&self) -> usize {
        (self.number() & ((1 << PLACE_BITS) - 1)) as usize
    }

    /// Whether both are references to the same value.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.place, other.place)
    }
}

impl<T, const N: usize> Deref for Ref<T, N> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this reference is counted, so the value is there and nobody changes it but through shared references.
        unsafe { (*self.place.value.get()).assume_init_ref() }
    }
}

impl<T, const N: usize> Clone for Ref<T, N> {
    fn clone(&self) -> Self {
        // Not zero, and never near `FILLING`: so many references take more than 32 GiB.
        self.place.count.fetch_add(1, Ordering::Relaxed);
        Self { pool: self.pool, place: self.place }
    }
}

impl<T, const N: usize> Drop for Ref<T, N> {
    fn drop(&mut self) {
        let less = |count| Some(if count == 1 { FILLING } else { count - 1 });
        if self.place.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less) == Ok(1) {
            // SAFETY: the count was changed from 1 to `FILLING` here: this was the last reference, and no new one can be made.
            unsafe { (*self.place.value.get()).assume_init_drop() };
            self.place.generation.fetch_add(1, Ordering::Relaxed);
            self.place.count.store(0, Ordering::Release);
        }
    }
}

impl<T, const N: usize> fmt::Debug for Ref<T, N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "#{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Counted(u64, &'static AtomicUsize);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_value_lives_as_long_as_its_references() {
        static POOL: Pool<Counted, 2> = Pool::new();
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        let first = POOL.insert(Counted(1, &DROPPED)).ok().unwrap();
        let number = first.number();
        let again = POOL.get(number).unwrap();
        assert!(again.is(&first) && again.0 == 1 && number != 0);
        let second = POOL.insert(Counted(2, &DROPPED)).ok().unwrap();
        assert!(POOL.insert(Counted(3, &DROPPED)).is_err());
        assert_eq!(DROPPED.swap(0, Ordering::Relaxed), 1);
        drop(first);
        assert_eq!((POOL.len(), DROPPED.load(Ordering::Relaxed)), (2, 0));
        drop(again);
        assert_eq!((POOL.len(), DROPPED.load(Ordering::Relaxed)), (1, 1));
        assert!(POOL.get(number).is_none());
        let third = POOL.insert(Counted(4, &DROPPED)).ok().unwrap();
        assert!(third.number() != number && POOL.get(number).is_none());
        assert_eq!(POOL.iter().map(|value| value.0).sum::<u64>(), 6);
        let number = third.into_number();
        assert!(POOL.get(number).is_some());
        // SAFETY: the number was made of a reference one line above.
        let third = unsafe { POOL.reclaim(number) }.unwrap();
        assert_eq!((third.0, third.place()), (4, 0));
        drop((second, third));
        assert!(POOL.is_empty() && DROPPED.load(Ordering::Relaxed) == 3);
    }

    #[test]
    fn numbers_that_were_never_given_name_nothing() {
        static POOL: Pool<u8, 3> = Pool::new();
        let value = POOL.insert(5).unwrap();
        for number in [0, 1, 2, 3, 0xffff, 1 << 62, u64::MAX, value.number() + 1, value.number() + (1 << PLACE_BITS)] {
            assert!(POOL.get(number).is_none(), "{number:#x}");
        }
    }

    #[test]
    fn many_threads_share_a_place() {
        static POOL: Pool<Counted, 1> = Pool::new();
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        static MADE: AtomicUsize = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for _ in 0..2000 {
                        match POOL.insert(Counted(thread, &DROPPED)) {
                            Ok(value) => {
                                MADE.fetch_add(1, Ordering::Relaxed);
                                let number = value.number();
                                assert!(POOL.get(number).is_some_and(|other| other.0 == thread));
                                drop(value);
                            }
                            Err(value) => {
                                // Dropped here, and not counted.
                                core::mem::forget(value);
                                assert!(POOL.iter().all(|value| value.0 < 4));
                            }
                        }
                    }
                });
            }
        });
        assert!(POOL.is_empty());
        assert_eq!(DROPPED.load(Ordering::Relaxed), MADE.load(Ordering::Relaxed));
    }
}
