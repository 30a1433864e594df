//! The embedder's lock: one of shuttle's behind `lock_api`.
//!
//! A lock of the library lies in records of pools, is made in a `const` and moved; so it is no more than a pointer, and shuttle's
//! mutex is made when it is first taken. Whoever waits for one is blocked to shuttle, which tells a deadlock when it sees one.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use shuttle::sync::{Mutex, MutexGuard};

struct Inner {
    mutex: Mutex<()>,
    /// The guard of who holds it.
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

std::thread_local! {
    /// Every lock that the schedule has taken; all threads of a schedule are one to the host.
    static TAKEN: RefCell<Vec<NonNull<Inner>>> = const { RefCell::new(Vec::new()) };
    /// Whether every lock that is tried is said to be taken.
    static REFUSING: Cell<bool> = const { Cell::new(false) };
}

/// Does something with every lock that is tried said to be taken: as if another had it just then.
pub(crate) fn refusing(run: impl FnOnce()) {
    REFUSING.set(true);
    run();
    REFUSING.set(false);
}

/// Forgets the locks of the schedule before. Those that a schedule with a finding left locked stay: their guards lead to them.
pub(crate) fn begin_schedule() {
    for inner in TAKEN.take() {
        // SAFETY: made by `ModelLock::inner`, in a schedule that is over, and in the list once.
        let mut inner = unsafe { Box::from_raw(inner.as_ptr()) };
        if inner.guard.get_mut().is_some() {
            Box::leak(inner);
        }
    }
}

pub(crate) struct ModelLock(AtomicPtr<Inner>);

impl ModelLock {
    fn inner(&self) -> &'static Inner {
        // No thread is interrupted in here: shuttle switches in its own calls only.
        if self.0.load(Ordering::Relaxed).is_null() {
            let inner = Box::new(Inner { mutex: Mutex::new(()), guard: UnsafeCell::new(None) });
            let inner = NonNull::from(Box::leak(inner));
            self.0.store(inner.as_ptr(), Ordering::Relaxed);
            TAKEN.with_borrow_mut(|taken| taken.push(inner));
        }
        // SAFETY: made above, in this schedule or (for a lock that is no more) not used any more; it is kept until the next one begins.
        unsafe { &*self.0.load(Ordering::Relaxed) }
    }

    fn hold(inner: &'static Inner, guard: MutexGuard<'static, ()>) {
        // SAFETY: who has the guard is the only one to reach it, until it is taken out.
        unsafe { *inner.guard.get() = Some(guard) }
    }
}

// SAFETY: it is held by who has the guard of a mutex.
unsafe impl lock_api::RawMutex for ModelLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(AtomicPtr::new(ptr::null_mut()));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        super::record(std::ptr::from_ref(self).addr(), true);
        let inner = self.inner();
        let guard = inner.mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::hold(inner, guard);
    }

    fn try_lock(&self) -> bool {
        super::record(std::ptr::from_ref(self).addr(), true);
        if REFUSING.get() {
            return false;
        }
        let inner = self.inner();
        match inner.mutex.try_lock() {
            Ok(guard) => {
                Self::hold(inner, guard);
                true
            }
            Err(_) => false,
        }
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds it, so nobody else reaches the guard.
        let guard = unsafe { (*self.inner().guard.get()).take() };
        drop(guard);
    }
}
