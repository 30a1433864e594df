//! Waiting for a time.

use super::scheduler;
use super::{LIVE, Thread};
use crate::cpu::clock;
use core::sync::atomic::{AtomicUsize, Ordering};
use refkernel_abi::FOREVER;

/// Threads that wait for a time.
static SLEEPING: AtomicUsize = AtomicUsize::new(0);

/// Waits so many microseconds at least; less if the thread is told to end. What ends the wait is a tick of some processor's timer.
pub(crate) fn sleep_microseconds(count: u64) {
    let end = clock::now().saturating_add(clock::per_microsecond().saturating_mul(count)).max(1);
    wait(Some(end), || false);
}

/// When a wait of so many microseconds ends, by the time-stamp counter; `None` for one that does not ([`FOREVER`], or longer than the counter counts).
pub(crate) fn deadline(microseconds: u64) -> Option<u64> {
    if microseconds == FOREVER {
        return None;
    }
    clock::per_microsecond()
        .checked_mul(microseconds)
        .and_then(|count| clock::now().checked_add(count))
        .map(|end| end.max(1))
}

/// Waits until something is so, the deadline is over (if there is one), or the thread is told to end. True if it is so. Whoever makes it so wakes the thread; the deadline is met by a tick of
/// some processor's timer.
pub(crate) fn wait(deadline: Option<u64>, mut is_so: impl FnMut() -> bool) -> bool {
    let Some(thread) = scheduler::current() else { return is_so() };
    if deadline.is_some() {
        SLEEPING.fetch_add(1, Ordering::SeqCst);
        thread.wake_at.store(deadline.unwrap_or_default(), Ordering::SeqCst);
    }
    let mut result = is_so();
    while !result && !thread.is_killed() && deadline.is_none_or(|deadline| clock::now() < deadline) {
        scheduler::park();
        result = is_so();
    }
    if deadline.is_some() {
        thread.wake_at.store(0, Ordering::SeqCst);
        SLEEPING.fetch_sub(1, Ordering::SeqCst);
    }
    result
}

/// Wakes those whose time has come. At a tick, with interrupts off.
pub(super) fn wake_due() {
    if SLEEPING.load(Ordering::SeqCst) == 0 {
        return;
    }
    let now = clock::now();
    let due = |thread: &Thread| (1..=now).contains(&thread.wake_at.load(Ordering::SeqCst));
    // Another processor that has the lock is at it as well, or the next tick is.
    if let Some(live) = LIVE.try_lock() {
        live.iter().filter(|thread| due(thread)).for_each(|thread| scheduler::unpark(thread));
    }
}
