//! Consecutive frames that are on their way into a page tree.

use crate::addr::Frame;
use crate::frame::{FrameRequest, FrameUse, free_one};
use crate::platform::Platform;

/// Consecutive zeroed frames, recorded as pages, that nothing holds yet. Dropping it gives them back.
pub(crate) struct FrameRun<'a, P: Platform> {
    platform: &'a P,
    first: Frame,
    count: u64,
}

impl<'a, P: Platform> FrameRun<'a, P> {
    /// Asks the embedder once, with this purpose, for `count` frames of which the first is a multiple of 2^`alignment`.
    pub(crate) fn allocate(platform: &'a P, purpose: FrameUse, count: u64, alignment: u32) -> Option<Self> {
        if count > platform.available_frames() {
            return None;
        }
        let first = platform.allocate_frames(FrameRequest::run(purpose, count, alignment).zeroed())?;
        let mut run = Self { platform, first, count: 0 };
        while run.count < count {
            let meta = platform.frame_meta(first.add(run.count));
            // An embedder that hands a frame out twice loses the rest of the run, nothing else.
            meta?.begin(FrameUse::Page).ok()?;
            run.count += 1;
        }
        Some(run)
    }

    /// The run that begins with a frame which [`into_first`](Self::into_first) gave, and nothing holds.
    pub(crate) fn from_first(platform: &'a P, first: Frame, count: u64) -> Self {
        Self { platform, first, count }
    }

    /// The first frame.
    pub(crate) fn first(&self) -> Frame {
        self.first
    }

    /// The first frame; somebody else sees to all of them from now on.
    pub(crate) fn into_first(self) -> Frame {
        core::mem::ManuallyDrop::new(self).first
    }
}

impl<P: Platform> Drop for FrameRun<'_, P> {
    fn drop(&mut self) {
        for number in 0..self.count {
            // SAFETY: the frames are this value's alone.
            if unsafe { free_one(self.platform, self.first.add(number), FrameUse::Page) }.is_err() {
                self.platform.machine().note_refused_free();
            }
        }
    }
}
