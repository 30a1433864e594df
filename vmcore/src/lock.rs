//! The library's locks: the embedder's raw lock, with the order checked in debug builds.
//!
//! # Order
//!
//! ```text
//!   1 space index  ->  2 area  ->  3 table  ->  4 CPUs of a space  ->  5 registry  ->  6 guards  ->  (pools)
//! ```
//!
//! A lock may be taken only while locks of lower ranks are held. Two locks of one rank are never held at once: an
//! operation that reaches several spaces through an area locks their tables one after another. Pools are leaves: nothing
//! is locked under them, so they are not tracked. No call into the embedder is made under a lock, except to reach a
//! frame, to flush this CPU, the lock itself, and to allocate the next block of a growing index or of its guards (and free the last one).

use core::ops::{Deref, DerefMut};

use lock_api::{Mutex, MutexGuard};

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
        let guard = self.inner.lock();
        platform.machine().note_locked(platform, self.rank);
        Guard { guard, platform, rank: self.rank }
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
    guard: MutexGuard<'a, P::RawMutex, T>,
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
