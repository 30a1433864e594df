//! The locks of the simulated machine.
//!
//! Under a model checker threads take turns, so whoever waits has to let the others go on; everywhere else it spins.

#[cfg(not(any(loom, shuttle)))]
pub(super) type Mutex<T> = spin::Mutex<T>;

#[cfg(any(loom, shuttle))]
pub(super) type Mutex<T> = lock_api::Mutex<Waiting, T>;

/// A flag. It is no word that is checked: what the checker is to see of the machine are the steps of its CPUs.
#[cfg(any(loom, shuttle))]
pub(super) struct Waiting(core::sync::atomic::AtomicBool);

// SAFETY: the flag is set by who finds it clear, in one step.
#[cfg(any(loom, shuttle))]
unsafe impl lock_api::RawMutex for Waiting {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(core::sync::atomic::AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            crate::word::wait();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, core::sync::atomic::Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, core::sync::atomic::Ordering::Release);
    }
}
