//! How often what the CPUs remember leads to each frame: whether any does is asked for every frame that is freed, and seldom so.
//!
//! ```text
//!   TLB entry of one page, pointer to a table, loaded root     counts[frame] + 1
//!   entry of several pages, registers, frames beyond RAM       elsewhere + 1: then nothing can be ruled out
//! ```
//!
//! A count is kept by whoever remembers, under the lock of its CPU. It only says where not to look: who refers to a frame, and whether that is a violation, is found
//! in what the CPU remembers itself.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

pub(super) struct References {
    first: u64,
    counts: Box<[AtomicU32]>,
    elsewhere: AtomicU32,
}

impl References {
    /// None, to `count` frames from `first` on.
    pub(super) fn new(first: u64, count: usize) -> Self {
        // SAFETY: zero is a valid atomic.
        let counts = unsafe { super::memory::zeroed(count) };
        Self { first, counts, elsewhere: AtomicU32::new(0) }
    }

    fn slot(&self, frame: u64) -> &AtomicU32 {
        let index = frame.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.counts.get(index)).unwrap_or(&self.elsewhere)
    }

    /// Something leads to the frame.
    pub(super) fn add(&self, frame: u64) {
        self.slot(frame).fetch_add(1, Ordering::Relaxed);
    }

    /// It does not any more.
    pub(super) fn remove(&self, frame: u64) {
        self.slot(frame).fetch_sub(1, Ordering::Relaxed);
    }

    /// Something may lead to any frame.
    pub(super) fn add_elsewhere(&self) {
        self.elsewhere.fetch_add(1, Ordering::Relaxed);
    }

    /// It does not any more.
    pub(super) fn remove_elsewhere(&self) {
        self.elsewhere.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether something may lead to one of the frames; if not, nothing does.
    pub(super) fn may_lead_to(&self, first: u64, count: u64) -> bool {
        // More than there are may be asked for, by mistake: that is for others to find out.
        self.elsewhere.load(Ordering::Relaxed) != 0
            || count > self.counts.len() as u64
            || (first..first.saturating_add(count)).any(|frame| self.slot(frame).load(Ordering::Relaxed) != 0)
    }
}
