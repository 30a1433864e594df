//! What is in use, for who asks whether all of it came back.
//!
//! Frames of the library's pools are not compared, but the objects in them: how many frames the same objects lie in depends on what lay beside each when it
//! was made.

use crate::leftovers::Leftovers;
use crate::memory::{self, Kernel};
use crate::thread::sleep;
use core::fmt;
use vmcore::Platform;
use vmcore::frame::FrameUse;

/// What is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Frames, those of the pools left out.
    frames: u64,
    /// Objects in the pools.
    objects: u64,
    leftovers: Leftovers,
}

impl Account {
    /// What is in use now.
    pub(crate) fn now() -> Self {
        let pools = Kernel.machine().counters();
        let frames = memory::frames_in_use().saturating_sub(pools.pool_pages);
        Self { frames, objects: pools.pool_objects, leftovers: Leftovers::now() }
    }

    /// What is in use as soon as it is what it was, or after a time in which it would have come back: a thread gives its stack back behind the end of its
    /// process, on its own processor, and whoever was killed leaves behind processes that nobody waits for.
    pub(crate) fn awaited(&self) -> Self {
        const LOOKS: u32 = 5_000;
        let mut now = Self::now();
        for _ in 0..LOOKS {
            if now == *self {
                break;
            }
            sleep::sleep_microseconds(1_000);
            now = Self::now();
        }
        now
    }
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, objects, leftovers } = self;
        write!(formatter, "{frames} frames besides the pools', {objects} objects in the pools, {leftovers}")
    }
}

/// Logs what the frames in use are for. O(frames).
pub(crate) fn log_uses() {
    for (used, count) in FrameUse::ALL.iter().zip(memory::frame_counts().by_use) {
        crate::log!("  {count} frames are {used:?}");
    }
}
