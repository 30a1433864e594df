//! A lock that is exclusive until faults meet at it, and from then on has them beside one another.
//!
//! ```text
//!               a fault finds it taken: the next who has it exclusively opens it
//!      closed ─────────────────────────────────────────────────────────────────► open
//!        ▲   who wants it takes it: one locked operation,                          │   faults enter as readers, with the slot that they hold: none;
//!        │   as if there were no readers                                           │   all else has it exclusively: one more, and one for each slot
//!        └─────────────────────────────────────────────────────────────────────────┘
//!               exclusively, twice with no reader in between
//! ```
//!
//! So what one thread alone does costs what a plain lock costs, and two threads pay for what they have of each other.
//!
//! What readers may do to the value beside looking at it, and under which further lock, is for who reads it to say (`vm_space/fault/beside.rs`). What they count
//! reaches the value when somebody has it exclusively: [`Counted`].

use core::cell::UnsafeCell;
use core::ptr::NonNull;

use lock_api::{Mutex, MutexGuard};

use super::{Guard, KeptOut, Rank, Readers, SharedGuard};
use crate::platform::Platform;

/// A value that readers add something to.
pub(crate) trait Counted {
    /// Adds what readers counted, as soon as nobody reads.
    fn add_counted(&mut self, count: u32);
}

/// A value behind a lock that adapts to who wants it; and a few bytes beside it that are not behind the lock.
///
/// ```text
///   bytes 0             8               12        13       14       16
///         | readers'    | what they owe | writing | lock,  | beside | value
///         | slots       |               |         | if of  |        |
///                                                 | 1 byte |
/// ```
///
/// There are many of them: so the lock itself, whose rank is not noted, lies among the words of its readers, and not as a mutex around the value,
/// which would be larger
/// by the value's alignment.
pub(crate) struct AdaptiveLock<P: Platform, T, A = ()> {
    readers: Readers<Words<P, A>>,
    value: UnsafeCell<T>,
}

/// What fits beside the words of readers.
struct Words<P: Platform, A> {
    exclusive: Mutex<P::RawMutex, ()>,
    beside: A,
}

// SAFETY: the value moves with the lock.
unsafe impl<P: Platform, T: Send, A: Send> Send for AdaptiveLock<P, T, A> {}
// SAFETY: the value is reached by who has the lock exclusively, and its readers through shared references where it is `Sync`
// ([`AdaptiveLock::beside`] asks for that); what lies beside it by
// all.
unsafe impl<P: Platform, T: Send, A: Sync> Sync for AdaptiveLock<P, T, A> {}

/// How one who reads another lock has come to the value.
pub(crate) enum Beside<'a, P: Platform, T> {
    /// Alone.
    Alone(Guard<'a, P, T>),
    /// Beside others, as long as that other lock is read.
    Shared(&'a T),
    /// Beside others, by the lock itself: to be looked at, until it is had [alone](AdaptiveLock::alone).
    Waited(Guard<'a, P, T>),
    /// Not: who has it may wait for who asks, who has a slot. To be [waited](AdaptiveLock::wait) for without, and then to be [opened](AdaptiveLock::open).
    Taken,
}

impl<P: Platform, T: Counted, A> AdaptiveLock<P, T, A> {
    pub(crate) const fn new(value: T, beside: A) -> Self {
        let exclusive = Mutex::const_new(<P::RawMutex as lock_api::RawMutex>::INIT, ());
        Self { readers: Readers::closed(Words { exclusive, beside }), value: UnsafeCell::new(value) }
    }

    /// What is beside the value.
    #[inline]
    pub(crate) const fn beside_value(&self) -> &A {
        &self.readers.beside.beside
    }

    const fn mutex(&self) -> &Mutex<P::RawMutex, ()> {
        &self.readers.beside.exclusive
    }

    /// The value behind a lock that is held.
    #[inline]
    fn guard<'a>(&'a self, held: MutexGuard<'a, P::RawMutex, ()>, platform: &'a P) -> Guard<'a, P, T> {
        // SAFETY: who has the lock has the value alone; but for readers, who look at it meanwhile and whom the caller keeps out, or knows, and then
        // only looks as well, until they are.
        Guard::new(MutexGuard::map(held, |()| unsafe { &mut *self.value.get() }), platform, Rank::Area)
    }

    /// Takes the lock exclusively, and waits for who reads. The caller holds no slot, or knows that the lock is never opened.
    #[inline]
    pub(crate) fn lock<'a>(&'a self, platform: &'a P) -> Guard<'a, P, T> {
        let guard = self.wait(platform);
        self.alone(platform, guard)
    }

    #[inline]
    fn wait<'a>(&'a self, platform: &'a P) -> Guard<'a, P, T> {
        self.guard(self.mutex().lock(), platform)
    }

    /// Keeps readers out, and adds what they counted. Gives whom to let in again: those who came since somebody kept them out before, if any did.
    #[cold]
    fn keep_out(&self, platform: &P) -> Option<KeptOut<'_>> {
        let (came, counted) = self.readers.keep_out_and_collect(platform.machine().reader_slots());
        // SAFETY: the caller has the lock, and readers are kept out.
        unsafe { self.value().as_mut() }.add_counted(counted);
        came.then_some(self.readers.kept_out())
    }

    /// Has readers come in when the guard, which is one of this lock, is given up.
    pub(crate) fn open<'a>(&'a self, guard: &mut Guard<'a, P, T>) {
        guard.shared_after = Some(self.readers.kept_out());
    }

    /// Takes the lock beside others if it is open, or exclusively if nobody has it. Waits only if the reader has no slot.
    #[inline]
    pub(crate) fn beside<'a, U>(&'a self, platform: &'a P, reader: &'a SharedGuard<'_, P, U>) -> Beside<'a, P, T>
    where
        T: Sync,
    {
        let Some(slot) = reader.slot() else {
            let guard = self.wait(platform);
            return if self.readers.is_closed() { Beside::Alone(guard) } else { Beside::Waited(guard) };
        };
        if self.readers.enter(slot) {
            // SAFETY: while the slot is held nobody has the lock exclusively, and only who has it so changes the value.
            return Beside::Shared(unsafe { self.value().as_ref() });
        }
        match self.mutex().try_lock() {
            // Else it was opened in between.
            Some(guard) if self.readers.is_closed() => Beside::Alone(self.guard(guard, platform)),
            _ => Beside::Taken,
        }
    }

    /// Keeps readers out from now on, who may have come by since the guard was taken, which is one of this lock: whatever they guard is to be looked at anew.
    #[inline]
    pub(crate) fn alone<'a>(&'a self, platform: &'a P, mut guard: Guard<'a, P, T>) -> Guard<'a, P, T> {
        if !self.readers.is_closed() {
            guard.shared_after = self.keep_out(platform);
        }
        guard
    }

    /// Counts for the value, which the caller has beside others.
    #[inline]
    pub(crate) fn count<U>(&self, reader: &SharedGuard<'_, P, U>, count: u32) {
        match reader.slot() {
            Some(slot) => slot.owe(&self.readers, count),
            None => self.readers.pay(count),
        }
    }

    /// Takes the lock for another value that it guards as well.
    ///
    /// # Safety
    /// The value lives as long as the lock does, and whoever comes to it holds this lock, or is the only one who knows it. The lock is never opened.
    pub(crate) unsafe fn lock_for<'a, U>(&'a self, platform: &'a P, value: NonNull<U>) -> Guard<'a, P, U> {
        // SAFETY: the caller's promise: as long as the lock is held, the value is the holder's alone.
        let guard = MutexGuard::map(self.mutex().lock(), |()| unsafe { &mut *value.as_ptr() });
        debug_assert!(self.readers.is_closed(), "a lock that guards two values was opened");
        Guard::new(guard, platform, Rank::Area)
    }

    /// Where the value is: for who holds the lock that guards it.
    pub(crate) fn value(&self) -> NonNull<T> {
        // SAFETY: the address of a value that lives is not null.
        unsafe { NonNull::new_unchecked(self.value.get()) }
    }

    /// The value, reached without the lock by who has the only reference.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Adds what readers counted and takes it off their slots, before the lock is taken down by who has the only reference.
    pub(crate) fn settle(&mut self, platform: &P) {
        if !self.readers.is_closed() {
            let _ = self.keep_out(platform);
        }
    }
}
