//! Waiting for a time.

use super::scheduler;
use super::{LIVE, Thread};
use crate::cpu::clock;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Threads that wait for a time.
static SLEEPING: AtomicUsize = AtomicUsize::new(0);

/// Waits so many microseconds at least; less if the thread is told to end. What ends the wait is a tick of some processor's timer.
pub(crate) fn sleep_microseconds(count: u64) {
    let Some(thread) = scheduler::current() else { return };
    let end = clock::now().saturating_add(clock::per_microsecond().saturating_mul(count)).max(1);
    SLEEPING.fetch_add(1, Ordering::SeqCst);
    thread.wake_at.store(end, Ordering::SeqCst);
    while clock::now() < end && !thread.is_killed() {
        scheduler::park();
    }
    thread.wake_at.store(0, Ordering::SeqCst);
    SLEEPING.fetch_sub(1, Ordering::SeqCst);
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
        live.iter().flatten().filter(|thread| due(thread)).for_each(|thread| scheduler::unpark(thread));
    }
}
