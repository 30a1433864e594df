//! The library's locks: the embedder's raw lock, with the order checked in debug builds.
//!
//! A space's index is a [`SharedLock`]: faults read it beside one another (`lock/readers.rs` says how), all else has it exclusively. An area's lock
//! is an [`AdaptiveLock`] (`lock/adaptive.rs`): exclusive for all until faults meet there, from then on they are beside one another in it too. In the order a shared lock and an
//! exclusive one are one: who reads an index holds it, and so a slot of the machine.
//!
//! For a slot waits who reads, holding nothing, and who has an index or an adaptive lock exclusively; so who holds a slot never waits for these: a fault that reads the index *tries* the area's
//! lock, and gives the slot up before it waits for it. (Locks of areas that are never shared it may wait for: whoever has one waits for no slot.) Then it reads the index by the index's own lock,
//! with others beside it, rather than exclusively: or two would go on keeping each other out, each finding the other alone.
//!
//! # Order
//!
//! ```text
//!   1 space index  ->  2 area  ->  3 leaf of an area  ->  4 table  ->  5 CPUs of a space  ->  6 registry  ->  7 guards  ->  (pools)
//! ```
//!
//! A lock may be taken only while locks of lower ranks are held. Two locks of one rank are never held at once: an
//! operation that reaches several spaces through an area locks their tables one after another. Pools are leaves: nothing
//! is locked under them, so they are not tracked. A private view of a paged area has no lock of its own: that area's guards it
//! (`vm_area/overlay.rs`). No call into the embedder is made under a lock, except to reach a
//! frame, to flush this CPU, the lock itself, and to allocate the next block of a growing index or of its guards (and free the last one).

mod adaptive;
mod leaves;
mod readers;

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use lock_api::{MappedMutexGuard, Mutex, MutexGuard};

pub(crate) use self::adaptive::{AdaptiveLock, Beside, Counted};
pub(crate) use self::leaves::LeafLocks;
use self::readers::{HeldSlot, KeptOut};
pub(crate) use self::readers::{ReaderSlots, Readers};
use crate::platform::Platform;

/// The place of a lock in the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Rank {
    Index = 0,
    Area = 1,
    /// A leaf of an area's tree, with the area shared.
    Leaf = 2,
    Table = 3,
    Cpus = 4,
    Registry = 5,
    /// The guarded addresses of a space.
    Guards = 6,
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
        Guard::new(MutexGuard::map(self.inner.lock(), |value| value), platform, self.rank)
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
}

/// A held lock.
pub(crate) struct Guard<'a, P: Platform, T> {
    guard: MappedMutexGuard<'a, P::RawMutex, T>,
    platform: &'a P,
    rank: Rank,
    /// Of an adaptive lock, who is let in when it is given up.
    shared_after: Option<KeptOut<'a>>,
}

impl<'a, P: Platform, T> Guard<'a, P, T> {
    #[inline]
    fn new(guard: MappedMutexGuard<'a, P::RawMutex, T>, platform: &'a P, rank: Rank) -> Self {
        platform.machine().note_locked(platform, rank);
        Self { guard, platform, rank, shared_after: None }
    }
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
        if let Some(readers) = self.shared_after {
            readers.let_in();
        }
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
        Self { exclusive: Lock::new(rank, value), readers: Readers::open() }
    }

    /// Takes the lock exclusively, and waits for who reads.
    #[inline]
    pub(crate) fn lock<'a>(&'a self, platform: &'a P) -> ExclusiveGuard<'a, P, T> {
        let guard = self.exclusive.lock(platform);
        self.readers.keep_out(platform.machine().reader_slots());
        ExclusiveGuard { readers: &self.readers, guard }
    }

    /// Reads beside others; `None` while somebody has the lock exclusively.
    #[inline]
    pub(crate) fn try_read<'a>(&'a self, platform: &'a P) -> Option<SharedGuard<'a, P, T>>
    where
        T: Sync,
    {
        let machine = platform.machine();
        let slot = machine.reader_slots().hold(platform.cpu())?;
        if !self.readers.enter(&slot) {
            return None;
        }
        let rank = self.exclusive.rank;
        machine.note_locked(platform, rank);
        // SAFETY: while the slot is held nobody has the lock exclusively, and only who has it so changes the value.
        let value = unsafe { self.exclusive.value().as_ref() };
        Some(SharedGuard { value, hold: Hold::Slot { _noted: Noted { platform, rank }, slot } })
    }

    /// Reads beside others when whoever has the lock exclusively is done: by the lock itself, so one at a time does, while others read by their slots. Holds no slot.
    pub(crate) fn wait_to_read<'a>(&'a self, platform: &'a P) -> SharedGuard<'a, P, T>
    where
        T: Sync,
    {
        let guard = self.exclusive.lock(platform);
        // SAFETY: who changes the value has the lock.
        let value = unsafe { self.exclusive.value().as_ref() };
        SharedGuard { value, hold: Hold::Lock(guard) }
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
    hold: Hold<'a, P, T>,
}

/// What keeps writers out.
enum Hold<'a, P: Platform, T> {
    /// A slot. Given up last.
    Slot {
        _noted: Noted<'a, P>,
        slot: HeldSlot<'a, P::RawMutex>,
    },
    Lock(#[expect(dead_code, reason = "held, not used")] Guard<'a, P, T>),
}

impl<'a, P: Platform, T> SharedGuard<'a, P, T> {
    /// The slot, if it is held by that.
    #[inline]
    fn slot(&self) -> Option<&HeldSlot<'a, P::RawMutex>> {
        match &self.hold {
            Hold::Slot { slot, .. } => Some(slot),
            Hold::Lock(_) => None,
        }
    }
}

impl<P: Platform, T> Deref for SharedGuard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

/// Notes that a lock was given up.
struct Noted<'a, P: Platform> {
    platform: &'a P,
    rank: Rank,
}

impl<P: Platform> Drop for Noted<'_, P> {
    #[inline]
    fn drop(&mut self) {
        self.platform.machine().note_unlocked(self.platform, self.rank);
    }
}
