//! A list of frames that needs no room of its own: each frame's metadata links to the next.
//!
//! ```text
//!   FrameList { first: 12, count: 3 } --> meta[12].link = 40 --> meta[40].link = 7 --> meta[7].link = (unused)
//! ```
//!
//! It is how reserves hold spare frames and how flush values hold quarantined ones: neither may need memory.
//! A frame is on at most one list; only frames with metadata can be.

use crate::addr::Frame;
use crate::frame::{FrameMeta, FrameUse, Frames, OutOfFrames, allocate_one, free_one};

/// Frames linked through their metadata. Dropping the list forgets the frames (they leak); it owns no platform to free them with.
#[derive(Debug)]
#[must_use]
pub struct FrameList {
    first: u64,
    count: u64,
}

impl FrameList {
    /// No frames.
    pub const fn new() -> Self {
        Self { first: 0, count: 0 }
    }

    /// How many frames.
    #[inline]
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts a frame at the front. Gives it back if it has no metadata. O(1).
    #[inline]
    pub(crate) fn push<F: Frames>(&mut self, frames: &F, frame: Frame) -> Result<(), Frame> {
        let meta = frames.frame_meta(frame).ok_or(frame)?;
        meta.set_link(self.first);
        self.first = frame.number();
        self.count += 1;
        Ok(())
    }

    /// Takes the frame at the front. O(1).
    #[inline]
    pub fn pop<F: Frames>(&mut self, frames: &F) -> Option<Frame> {
        self.pop_with_meta(frames).map(|(frame, _)| frame)
    }

    /// The same, with the frame's record.
    #[inline]
    pub(crate) fn pop_with_meta<'a, F: Frames>(&mut self, frames: &'a F) -> Option<(Frame, &'a FrameMeta)> {
        if self.count == 0 {
            return None;
        }
        let frame = Frame::new(self.first);
        let meta = frames.frame_meta(frame)?;
        self.first = meta.link();
        self.count -= 1;
        Some((frame, meta))
    }

    /// The frames, from the front.
    pub(crate) fn iter<'a, F: Frames>(&'a self, frames: &'a F) -> impl Iterator<Item = Frame> + 'a {
        let mut next = self.first;
        (0..self.count).map_while(move |_| {
            let frame = Frame::new(next);
            next = frames.frame_meta(frame)?.link();
            Some(frame)
        })
    }

    /// Takes zeroed frames, recorded as tables, from `frames` until the list has `count`: what an operation on
    /// [`Tables`](crate::paging::Tables) is given to build with. O(frames taken).
    ///
    /// # Errors
    /// How many frames are lacking; those taken so far stay in the list.
    pub fn fill_with_tables<F: Frames>(&mut self, frames: &F, count: u64) -> Result<(), OutOfFrames> {
        self.fill(frames, FrameUse::Table, count)
    }

    /// Gives every frame that is recorded as a table back to `frames`, and says how many those were: what
    /// [`fill_with_tables`](Self::fill_with_tables) took and nothing used, and what [`Gather`](crate::paging::Gather) collected. One that is recorded
    /// otherwise is left alone. O(frames).
    ///
    /// # Safety
    /// Nothing refers to the frames any more: no entry leads to them, and every CPU that could remember one has been flushed.
    #[inline]
    pub unsafe fn free_tables<F: Frames>(&mut self, frames: &F) -> u64 {
        // Most changes empty no table.
        // SAFETY: passed on.
        if self.count == 0 { 0 } else { unsafe { self.free_all_tables(frames) } }
    }

    /// See [`free_tables`](Self::free_tables).
    unsafe fn free_all_tables<F: Frames>(&mut self, frames: &F) -> u64 {
        let mut freed = 0;
        while let Some(frame) = self.pop(frames) {
            // SAFETY: the caller vouches for it.
            freed += u64::from(unsafe { free_one(frames, frame, FrameUse::Table) }.is_ok());
        }
        freed
    }

    /// Takes zeroed frames, recorded as used for `purpose`, until the list has `count`.
    ///
    /// # Errors
    /// How many frames are lacking; those taken so far stay in the list.
    pub(crate) fn fill<F: Frames>(&mut self, frames: &F, purpose: FrameUse, count: u64) -> Result<(), OutOfFrames> {
        while self.count < count {
            let lacking = OutOfFrames { wanted: count - self.count };
            let frame = allocate_one(frames, purpose, true).map_err(|_| lacking)?;
            // A frame that was allocated has metadata, so it can be linked.
            self.push(frames, frame).map_err(|_| lacking)?;
        }
        Ok(())
    }

    /// All of it, leaving nothing behind.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        core::mem::take(self)
    }
}

impl Default for FrameList {
    fn default() -> Self {
        Self::new()
    }
}
