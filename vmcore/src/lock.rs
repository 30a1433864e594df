//! The library's locks: the embedder's raw lock, with the order checked in debug builds.
//!
//! A space's index is a [`SharedLock`]: faults read it beside one another (`lock/readers.rs` says how), all else has it exclusively. In the order the two are
//! one: who reads holds the index, and so a slot of the machine; nobody waits for a slot but who reads, holding nothing, and who has an index exclusively, holding nothing else.
//!
//! # Order
//!
//! ```text
//!   1 space index  ->  2 area  ->  3 table  ->  4 CPUs of a space  ->  5 registry  ->  6 guards  ->  (pools)
//! ```
//!
//! A lock may be taken only while locks of lower ranks are held. Two locks of one rank are never held at once: an
//! operation that reaches several spaces through an area locks their tables one after another. Pools are leaves: nothing
//! is locked under them, so they are not tracked. A private view of a paged area has no lock of its own: that area's guards it
//! (`vm_area/overlay.rs`). No call into the embedder is made under a lock, except to reach a
//! frame, to flush this CPU, the lock itself, and to allocate the next block of a growing index or of its guards (and free the last one).

mod readers;

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use lock_api::{MappedMutexGuard, Mutex, MutexGuard};

use self::readers::HeldSlot;
pub(crate) use self::readers::{ReaderSlots, Readers};
use crate::platform::Platform;

/// The place of a lock in the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Rank {
    Index = 0,
    Area = 1,
    Table = 2,
    Cpus = 3,
    Registry = 4,
    /// The guarded addresses of a space.
    Guards = 5,
}

/// A value behind a lock of a fixed rank.
pub(crate) struct Lock<P: Platform, T> {
    rank: Rank,
    inner: Mutex<P::RawMutex, T>,
}

impl<P: Platform, T> Lock<P, T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: Mutex::const_new(<P::RawMutex as lock_api::RawMutex>::INIT, value) }
    }

    /// Takes the lock.
    #[inline]
    pub(crate) fn lock<'a>(&'a self, platform: &'a P) -> Guard<'a, P, T> {
        let guard = MutexGuard::map(self.inner.lock(), |value| value);
        platform.machine().note_locked(platform, self.rank);
        Guard { guard, platform, rank: self.rank }
    }

    /// Takes the lock for another value that it guards as well.
    ///
    /// # Safety
    /// The value lives as long as the lock does, and whoever comes to it holds this lock, or is the only one who knows it.
    pub(crate) unsafe fn lock_for<'a, U>(&'a self, platform: &'a P, value: NonNull<U>) -> Guard<'a, P, U> {
        // SAFETY: the caller's promise: as long as the lock is held, the value is the holder's alone.
        let guard = MutexGuard::map(self.inner.lock(), |_| unsafe { &mut *value.as_ptr() });
        platform.machine().note_locked(platform, self.rank);
        Guard { guard, platform, rank: self.rank }
    }

    /// Where the value is: for who holds the lock that guards it.
    pub(crate) fn value(&self) -> NonNull<T> {
        // SAFETY: the address of a value that lives is not null.
        unsafe { NonNull::new_unchecked(self.inner.data_ptr()) }
    }

    /// Takes a lock that nobody else can come to yet, while another of its rank is held: no order can be broken by that.
    pub(crate) fn lock_unshared(&self) -> MutexGuard<'_, P::RawMutex, T> {
        self.inner.lock()
    }

    /// The value, reached without the lock by who has the only reference.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A held lock.
pub(crate) struct Guard<'a, P: Platform, T> {
    guard: MappedMutexGuard<'a, P::RawMutex, T>,
    platform: &'a P,
    rank: Rank,
}

impl<P: Platform, T> Deref for Guard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<P: Platform, T> DerefMut for Guard<'_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<P: Platform, T> Drop for Guard<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        // The guard itself is dropped after this: the lock is still held here.
        self.platform.machine().note_unlocked(self.platform, self.rank);
    }
}

/// A value that many may read at once, beside one another, or one may change.
pub(crate) struct SharedLock<P: Platform, T> {
    exclusive: Lock<P, T>,
    readers: Readers,
}

impl<P: Platform, T> SharedLock<P, T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { exclusive: Lock::new(rank, value), readers: Readers::new() }
    }

    /// Takes the lock exclusively, and waits for who reads.
    #[inline]
    pub(crate) fn lock<'a>(&'a self, platform: &'a P) -> ExclusiveGuard<'a, P, T> {
        let guard = self.exclusive.lock(platform);
        self.readers.keep_out(platform.machine().reader_slots());
        ExclusiveGuard { readers: &self.readers, guard }
    }

    /// Reads beside others; `None` while somebody has the lock exclusively: take it so as well, then.
    #[inline]
    pub(crate) fn try_read<'a>(&'a self, platform: &'a P) -> Option<SharedGuard<'a, P, T>>
    where
        T: Sync,
    {
        let machine = platform.machine();
        let slot = self.readers.enter(machine.reader_slots(), platform.cpu())?;
        machine.note_locked(platform, self.exclusive.rank);
        // SAFETY: while the slot is held nobody has the lock exclusively, and only who has it so changes the value.
        let value = unsafe { &*self.exclusive.inner.data_ptr() };
        Some(SharedGuard { value, platform, rank: self.exclusive.rank, _slot: slot })
    }

    /// Takes a lock that nobody else can come to yet, while another of its rank is held: no order can be broken by that.
    pub(crate) fn lock_unshared(&self) -> MutexGuard<'_, P::RawMutex, T> {
        self.exclusive.lock_unshared()
    }
}

/// A [`SharedLock`] that is held exclusively.
pub(crate) struct ExclusiveGuard<'a, P: Platform, T> {
    readers: &'a Readers,
    guard: Guard<'a, P, T>,
}

impl<P: Platform, T> Deref for ExclusiveGuard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<P: Platform, T> DerefMut for ExclusiveGuard<'_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<P: Platform, T> Drop for ExclusiveGuard<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        // The guard itself is dropped after this: whoever has the lock next may free it.
        self.readers.let_in();
    }
}

/// A [`SharedLock`] that is read beside others.
pub(crate) struct SharedGuard<'a, P: Platform, T> {
    value: &'a T,
    platform: &'a P,
    rank: Rank,
    /// Given up last.
    _slot: HeldSlot<'a, P::RawMutex>,
}

impl<P: Platform, T> Deref for SharedGuard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<P: Platform, T> Drop for SharedGuard<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        self.platform.machine().note_unlocked(self.platform, self.rank);
    }
}
