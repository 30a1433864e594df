//! What all processes of a run share: a page of words that each of them maps.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use refkernel_runtime::{ErrorCode, Handle, PAGE_SIZE, call};

use crate::READ_WRITE;

/// Processes that work at a time.
pub(crate) const WORKERS: usize = 4;
/// Threads of each.
pub(crate) const THREADS: usize = 2;

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// Operations on a thread's own areas and windows.
    Operations,
    /// Processes that were cloned.
    Clones,
    /// Processes that had to die of a fault, and did.
    Deaths,
    /// Messages that were received from another process.
    Messages,
    /// Waits for a word that came to an end.
    Waits,
    /// Processes that were killed.
    Kills,
    /// Processes that came to their end.
    Lives,
}

const COUNTS: usize = 7;

/// The page.
#[repr(C)]
pub(crate) struct Control {
    /// 1: come to an end; 2: all have.
    pub(crate) stop: AtomicU32,
    /// Something was not as it must be.
    pub(crate) failed: AtomicU32,
    /// How many processes may die of a fault by now: the kernel says a few lines of each.
    deaths: AtomicU32,
    /// A word that everybody waits for now and then.
    pub(crate) bell: AtomicU32,
    /// Which life of each worker it is.
    pub(crate) life: [AtomicU32; WORKERS],
    /// The worker has come to its end, and exits.
    pub(crate) ended: [AtomicU32; WORKERS],
    /// Goes up while a thread gets on.
    pub(crate) progress: [[AtomicU64; THREADS]; WORKERS],
    /// What each thread and a clone of its tell each other.
    pub(crate) signal: [[AtomicU32; THREADS]; WORKERS],
    counts: [AtomicU64; COUNTS],
}

const _: () = assert!(size_of::<Control>() <= PAGE_SIZE as usize);

impl Control {
    /// Maps the page.
    pub(crate) fn map(area: Handle) -> Result<&'static Self, ErrorCode> {
        let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
        // SAFETY: the page is mapped to be read and written for as long as the process lives, holds zeros or what others of this program made of them,
        // and is nothing but atomic words.
        Ok(unsafe { &*(address as *const Self) })
    }

    fn counter(&self, count: Count) -> &AtomicU64 {
        // Never a panic: there are as many.
        &self.counts[count as usize]
    }

    /// Counts one more.
    pub(crate) fn count(&self, count: Count) {
        self.counter(count).fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub(crate) fn counted(&self, count: Count) -> u64 {
        self.counter(count).load(Ordering::Relaxed)
    }

    /// One more process may die of a fault.
    pub(crate) fn allow_death(&self) {
        if self.deaths.load(Ordering::Relaxed) < 4 {
            self.deaths.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one may, which is then used up.
    pub(crate) fn may_die(&self) -> bool {
        let less = |count: u32| count.checked_sub(1);
        self.deaths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Whether the run comes to its end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) != 0
    }
}
