//! A lock made of a word, between the threads of a process. A wake that is lost leaves a thread waiting for ever, which is found out because it gets on no more.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use refkernel_runtime::{FOREVER, call};

/// 0 is free, 1 taken, 2 taken and waited for.
static LOCK: AtomicU32 = AtomicU32::new(0);
/// Changed in two steps, by who has the lock.
static GUARDED: AtomicU64 = AtomicU64::new(0);
/// Changed in one.
static COUNTED: AtomicU64 = AtomicU64::new(0);

fn take() {
    if LOCK.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return;
    }
    while LOCK.swap(2, Ordering::Acquire) != 0 {
        let _ = call::address_wait(&LOCK, 2, FOREVER);
    }
}

fn give() {
    if LOCK.swap(0, Ordering::Release) == 2 {
        let _ = call::address_wake(&LOCK, 1);
    }
}

/// Takes the lock so many times, and counts each.
pub(crate) fn turns(count: u64, pause: bool) {
    for turn in 0..count {
        take();
        let before = GUARDED.load(Ordering::Relaxed);
        if pause && turn % 4 == 0 {
            let _ = call::thread_yield();
        }
        GUARDED.store(before + 1, Ordering::Relaxed);
        COUNTED.fetch_add(1, Ordering::Relaxed);
        give();
    }
}

/// Whether each turn was counted: asked when no thread takes the lock any more.
pub(crate) fn is_right() -> bool {
    GUARDED.load(Ordering::Relaxed) == COUNTED.load(Ordering::Relaxed)
}
