//! Free memory that a test holds back, so that little of it is left.

use crate::memory::{Kernel, frames};
use vmcore::addr::Frame;
use vmcore::frame::{FrameRequest, FrameUse, Frames};

/// Frames for a program that is to use up memory.
pub(crate) const SCARCE: u64 = 4096;

/// Free memory that is held back, so that little of it is left.
pub(crate) struct Hoard {
    runs: [(Frame, u64); Self::RUNS_MAX],
    count: usize,
}

impl Hoard {
    const RUNS_MAX: usize = 256;

    /// Takes all frames that are free (as many runs as there is room for; they are taken from the longest on).
    pub(crate) fn take() -> Self {
        let mut hoard = Self::new();
        hoard.take_more(u64::MAX);
        hoard
    }

    /// Takes all but so many, as far as runs can be noted: so that running out of memory takes no longer on a large machine.
    pub(crate) fn leaving(frames: u64) -> Self {
        let mut hoard = Self::new();
        hoard.take_more(frames::available().saturating_sub(frames));
        hoard
    }

    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { runs: [(Frame::new(0), 0); Self::RUNS_MAX], count: 0 }
    }

    /// Takes so many frames that are free, if there are so many, and room to note them.
    pub(crate) fn take_more(&mut self, most: u64) {
        let mut left = most;
        for length in (0..32).rev().map(|power| 1_u64 << power) {
            while let Some(slot) = self.runs.get_mut(self.count).filter(|_| length <= left) {
                let Some(first) = Kernel.allocate_frames(FrameRequest::run(FrameUse::Page, length, 0)) else { break };
                *slot = (first, length);
                self.count += 1;
                left -= length;
            }
        }
    }

    /// Gives one frame back; false if there is none left.
    pub(crate) fn give_one(&mut self) -> bool {
        let Some((first, length)) = self.runs.iter_mut().find(|(_, length)| *length > 0) else { return false };
        *length -= 1;
        // SAFETY: the frame was allocated by `take` and is given back once; nothing was done with it.
        unsafe { Kernel.free_frames(first.add(*length), 1) };
        true
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        for (first, length) in self.runs {
            // SAFETY: as in `give_one`; what is left of each run was not given back yet.
            unsafe { Kernel.free_frames(first, length) };
        }
    }
}
