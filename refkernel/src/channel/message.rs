//! A message that nobody has received yet, in frames of the kernel's: its head and its bytes in one run, taken when it is sent and free when it is received.
//!
//! ```text
//!   ┌─────────────────────┬───────────────────────────────────┐
//!   │ length, the handles │ bytes                             │   one to five frames
//!   └─────────────────────┴───────────────────────────────────┘
//! ```

use crate::memory::Kernel;
use crate::process::{Entries, end_of};
use core::ptr::NonNull;
use refkernel::channels::{End, Message};
use refkernel_abi::PAGE_SIZE;
use vmcore::addr::Frame;
use vmcore::frame::{FrameRequest, FrameUse, Frames};

/// The first bytes of the run.
struct Head {
    length: usize,
    entries: Entries,
}

/// A message in frames that are its own.
pub(super) struct Parcel {
    head: NonNull<Head>,
    first: Frame,
    frames: u64,
}

// SAFETY: the frames are its own, and what is in the head may go to another thread: entries are counted references, and numbers.
unsafe impl Send for Parcel {}

impl Parcel {
    /// A message with room for so many bytes, which hold anything (of another process's maybe) until they are written. `None` where there are no frames for it.
    pub(super) fn new(length: usize) -> Option<Self> {
        const { assert!(align_of::<Head>() <= 4096) };
        let frames = ((size_of::<Head>() + length) as u64).div_ceil(PAGE_SIZE);
        let first = Kernel.allocate_frames(FrameRequest::run(FrameUse::Page, frames, 0))?;
        let head = NonNull::new(Kernel.frame_pointer(first).cast::<Head>());
        let Some(head) = head else {
            // SAFETY: they were just taken, together, and nobody has used them.
            unsafe { Kernel.free_frames(first, frames) };
            return None;
        };
        // SAFETY: the frames were just taken, so nobody else uses them; the linear map shows them in one run, aligned to pages.
        unsafe { head.write(Head { length, entries: Entries::default() }) };
        Some(Self { head, first, frames })
    }

    fn head(&self) -> &Head {
        // SAFETY: `new` wrote it, and the frames are this value's alone.
        unsafe { self.head.as_ref() }
    }

    /// How many bytes.
    pub(super) fn length(&self) -> usize {
        self.head().length
    }

    /// How many handles.
    pub(super) fn count(&self) -> usize {
        self.head().entries.iter().flatten().count()
    }

    /// The handles.
    pub(super) fn entries(&mut self) -> &mut Entries {
        // SAFETY: as for `head`; it is borrowed exclusively.
        unsafe { &mut self.head.as_mut().entries }
    }

    /// The bytes.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let length = self.length();
        // SAFETY: behind the head the run has room for so many bytes, which are this value's alone. RAM holds bytes of some value always.
        unsafe { core::slice::from_raw_parts_mut(self.head.add(1).cast().as_ptr(), length) }
    }
}

impl Message for Parcel {
    fn ends(&self) -> impl Iterator<Item = End> {
        self.head().entries.iter().flatten().filter_map(end_of)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // SAFETY: the head was written by `new` and is not used again; the frames were taken together there, and nothing else refers to them.
        unsafe {
            self.head.drop_in_place();
            Kernel.free_frames(self.first, self.frames);
        }
    }
}
