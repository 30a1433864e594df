//! Many single frames on their way back to the embedder, joined while they are neighbours.
//!
//! ```text
//!   added:        12   13   14   |  40   |  39   38   |  7
//!   given back:   12 ──────► 14     38 ◄──────── 40      7        one call for each run
//! ```
//!
//! Pages that were touched in order mostly have frames side by side, up or down, so that a change of many costs few calls.

use crate::addr::Frame;
use crate::frame::{FrameMeta, FrameUse, Frames, WrongUse};

/// Frames that are given back in runs, at the latest when this is dropped.
pub(crate) struct Freeing<'a, F: Frames> {
    frames: &'a F,
    purpose: FrameUse,
    /// The numbers of the first frame of the run at hand, and of the one behind its last.
    first: u64,
    end: u64,
}

impl<'a, F: Frames> Freeing<'a, F> {
    /// For frames used for `purpose`.
    #[inline]
    pub(crate) fn new(frames: &'a F, purpose: FrameUse) -> Self {
        Self { frames, purpose, first: 0, end: 0 }
    }

    /// Adds a frame, with its record; says so if it is recorded otherwise, and leaves it alone.
    ///
    /// # Safety
    /// Nothing refers to the frame any more, which was allocated singly; the record is the frame's.
    #[inline(always)]
    pub(crate) unsafe fn add(&mut self, meta: &FrameMeta, frame: Frame) -> Result<(), WrongUse> {
        meta.end(frame, self.purpose)?;
        let number = frame.number();
        if number == self.end {
            // Frame 0 begins a run that way as well.
            self.end = number.wrapping_add(1);
        } else if self.first.checked_sub(1) == Some(number) {
            self.first = number;
        } else {
            self.flush();
            (self.first, self.end) = (number, number.wrapping_add(1));
        }
        Ok(())
    }

    #[inline(always)]
    fn flush(&mut self) {
        if self.end != self.first {
            give(self.frames, self.first, self.end);
        }
    }
}

/// Gives back the frames from one on, to another that is not among them. By their numbers, so that what counts them can stay in registers.
#[inline(never)]
fn give<F: Frames>(frames: &F, first: u64, end: u64) {
    let (first, count) = (Frame::new(first), end.wrapping_sub(first));
    if count == 1 {
        // SAFETY: frames are added by who vouches that nothing refers to them, and each was recorded as used until then: none is added twice.
        unsafe { frames.free_frames(first, 1) };
    } else {
        // SAFETY: as above, for each of them.
        unsafe { frames.free_neighbours(first, count) };
    }
}

impl<F: Frames> Drop for Freeing<'_, F> {
    #[inline]
    fn drop(&mut self) {
        self.flush();
    }
}
