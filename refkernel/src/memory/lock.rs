//! The lock that the library's state, the frames and the heap are behind: it keeps interrupts off while it is held.
//!
//! An interrupt handler may fault, and a fault takes these locks: with interrupts on, a handler could wait for a lock that
//! the code that it interrupted holds. `lock_api`'s unlock is given nothing by the lock before it, so whether
//! interrupts were on cannot travel in a guard. It is remembered for each CPU with the number of locks that it holds:
//!
//! ```text
//!   lock A      lock B        unlock A     unlock B
//!   depth 0->1  depth 1->2    2->1         1->0
//!   IF saved    IF off        IF off       IF restored       (whatever the order of the unlocks)
//! ```
//!
//! Whoever waits for a lock answers other processors' requests to forget translations meanwhile ([`super::shootdown`]). A thread with a lock
//! cannot be switched away from, since interrupts are off: so a record is its processor's as long as it counts anything.

use super::shootdown::relax;
use crate::cpu::local;
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::instructions::interrupts;

/// Turns interrupts off for one more lock.
///
/// A processor that holds a lock has interrupts off; so where the count is zero they may be on, and an interrupt, or a move to another
/// processor, between the look and `cli` finds the count as it was: every lock that was taken meanwhile was given back, and a thread goes on only
/// where none is held.
#[inline]
fn enter() {
    if local::locks_held() == 0 {
        let were_on = interrupts::are_enabled();
        if were_on {
            interrupts::disable();
        }
        local::set_interrupts_before(were_on);
    }
    local::count_lock();
}

/// One lock less; after the last one interrupts are as they were.
#[inline]
fn leave() {
    if local::uncount_lock() && local::interrupts_before() {
        interrupts::enable();
    }
}

/// A spinning lock that keeps interrupts off while it is held.
pub(crate) struct InterruptLock(AtomicBool);

impl InterruptLock {
    /// Takes the lock when it is free.
    #[cold]
    #[inline(never)]
    fn wait(&self) {
        while self.0.load(Ordering::Relaxed)
            || self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            relax();
        }
    }

    /// Opens the lock whoever holds it. Interrupts stay as they are.
    ///
    /// # Safety
    ///
    /// The holder never goes on.
    pub(crate) unsafe fn break_open(&self) {
        self.0.store(false, Ordering::Release);
    }
}

// SAFETY: the flag is set by exactly one holder (compare-exchange with acquire ordering) and cleared with release
// ordering by `unlock`, which only the holder calls.
unsafe impl lock_api::RawMutex for InterruptLock {
    const INIT: Self = Self(AtomicBool::new(false));
    /// Interrupts are this CPU's: a guard must not go to another one.
    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        enter();
        if self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        enter();
        let taken = self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !taken {
            leave();
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
        leave();
    }
}

/// A value behind such a lock.
pub(crate) type Mutex<T> = lock_api::Mutex<InterruptLock, T>;
