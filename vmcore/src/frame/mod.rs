//! What the embedder supplies: frames, how to reach them, and room for their metadata.
//!
//! [`Frames`] alone is enough for page tables, trees and a guest's formats; [`Platform`](crate::Platform) adds the
//! MMU, locks, CPUs and the flush.
//!
//! # Rules that everything else relies on
//!
//! - A frame that the library allocated is written only by the library and by who the library maps it for, until
//!   [`Frames::free_frames`] or [`Frames::free_neighbours`] is called for it.
//! - Frames for tables and pool objects are always reachable through [`Frames::frame_pointer`]. Frames of pages may not be (a
//!   32-bit host, a hypervisor without a linear map): the library touches their contents only through
//!   [`Frames::zero_frame`], [`Frames::copy_frame`], [`Frames::read_frame`] and [`Frames::write_frame`], which such an embedder overrides with a
//!   scoped window.
//! - Each frame's use is recorded in its [`FrameMeta`]; a frame is freed only from the use that it was allocated for, so that
//!   neither a wrong free nor a double free goes through.

mod freeing;
mod list;
mod meta;
mod pool;
mod region;
mod reserve;
mod run;

use core::fmt;

pub(crate) use self::freeing::Freeing;
pub use self::list::FrameList;
pub use self::meta::{FrameMeta, FrameMetaTable, FrameUse, WrongUse};
pub(crate) use self::pool::{CLASS_SIZES, CLASSES, ObjectList, Pool};
pub use self::region::FrameRegion;
pub(crate) use self::reserve::{Need, OnePage, PageSource, Reserve, free_list, free_object};
pub(crate) use self::run::FrameRun;
use crate::addr::{Frame, PageRange};

/// What frames are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FrameRequest {
    /// What they will be used for; the embedder may keep pages of each use together.
    pub purpose: FrameUse,
    /// How many consecutive frames; at least 1.
    pub count: u64,
    /// The first frame's number is to be a multiple of 2^`alignment`; 0 for any frame.
    pub alignment: u32,
    /// Whether every byte must read as zero.
    pub zeroed: bool,
}

impl FrameRequest {
    /// One frame for `purpose`, not zeroed.
    pub const fn one(purpose: FrameUse) -> Self {
        Self { purpose, count: 1, alignment: 0, zeroed: false }
    }

    /// `count` consecutive frames for `purpose`, the first a multiple of 2^`alignment`, not zeroed.
    pub const fn run(purpose: FrameUse, count: u64, alignment: u32) -> Self {
        Self { purpose, count, alignment, zeroed: false }
    }

    /// The same request, with every byte zero.
    pub const fn zeroed(mut self) -> Self {
        self.zeroed = true;
        self
    }
}

/// The embedder's frames: the first half of the contract, enough for tables, trees and guest formats.
///
/// # Safety
/// The library builds page tables from what this trait returns, so an implementation promises:
/// - [`allocate_frames`](Self::allocate_frames) returns only frames that nobody else uses, that are RAM, have metadata ([`frame_meta`](Self::frame_meta) is
///   `Some`), and read as zero if the request says so. It never blocks, never calls the library, and may be called with interrupts off.
/// - [`frame_pointer`](Self::frame_pointer) is valid for reads and writes of a whole frame, aligned to the page size, and stays so for the
///   life of the platform, for every frame that was allocated for [`FrameUse::Table`], [`FrameUse::Pool`] or [`FrameUse::Vector`], and for every frame
///   handed to an operation as an existing table; frames of one run for [`FrameUse::Vector`] have consecutive addresses, and the pointer to
///   each has the provenance of all of them: derive it from one pointer to all memory, not from a reference to a frame's bytes. (The library
///   makes pointers to frames nowhere but here.) It is null for a frame that cannot be reached, whatever the number. Nothing that it leads to is
///   demand-paged. Where the contents operations are left as they are, it is valid for every page's frame too.
/// - [`frame_meta`](Self::frame_meta) always gives the same metadata for the same frame, distinct for distinct frames, `None` for what is not RAM.
/// - The overridable contents operations do what they say, and so does [`invalidate_now`](Self::invalidate_now) where
///   [`INVALIDATES_NOW`](Self::INVALIDATES_NOW) is true.
pub unsafe trait Frames {
    /// The size of a page and of a frame is 2^`PAGE_SHIFT` bytes.
    const PAGE_SHIFT: u32 = 12;

    /// Takes frames away from the free ones: the first of `request.count` consecutive frames, or `None` if there are no such.
    ///
    /// May be called with interrupts off; neither blocks nor reclaims (reclaim is the caller's: an operation that runs
    /// out fails unchanged and says how many frames it wanted).
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame>;

    /// Gives `count` frames back.
    ///
    /// # Safety
    /// They were allocated together by one [`allocate_frames`](Self::allocate_frames) (or are single frames of such a run), and nothing refers to them any more:
    /// no table, no TLB of any CPU, no object.
    unsafe fn free_frames(&self, first: Frame, count: u64);

    /// Gives `count` neighbouring frames back that were allocated one by one, at different times: what a change of many pages frees comes back in
    /// such runs, as long as the frames follow one another. An embedder whose bookkeeping can take a run with one lock and a few words overrides
    /// this; as it is, they are freed one by one.
    ///
    /// # Safety
    /// As for [`free_frames`](Self::free_frames), for each of them alone.
    unsafe fn free_neighbours(&self, first: Frame, count: u64) {
        for step in 0..count {
            // SAFETY: passed on, for each alone.
            unsafe { self.free_frames(first.add(step), 1) };
        }
    }

    /// How many frames could be had at the most, so that a request for far more is refused before anything is taken. An
    /// estimate will do; leave it as it is if there is none.
    fn available_frames(&self) -> u64 {
        u64::MAX
    }

    /// The address at which the frame's bytes can be reached by this CPU; null if they cannot, whatever the number.
    fn frame_pointer(&self, frame: Frame) -> *mut u8;

    /// The frame's metadata, `None` for memory that is not RAM (never counted, never freed).
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta>;

    /// The metadata of a frame and of others that lie in one table with it, for who asks for that of many: frames that are asked for together are mostly neighbours. As it is, of the frame
    /// alone.
    fn frame_metas_with(&self, frame: Frame) -> Option<FrameMetaTable<'_>> {
        let meta = self.frame_meta(frame)?;
        Some(FrameMetaTable::new(frame, core::slice::from_ref(meta)))
    }

    /// Whether [`invalidate_now`](Self::invalidate_now) does what it says. Formats that demand break-before-make need it; without
    /// it, what would replace a live entry of such a format is refused.
    const INVALIDATES_NOW: bool = false;

    /// Makes every CPU forget what it remembers of the range under this tag, and waits until they have: also those that have another
    /// tag loaded and may come back to this one; also global entries, and pointers to tables under any tag, where the range is one that
    /// all spaces share. Called between the two halves of replacing a live entry (absent, then
    /// new), for formats that demand that. May be called under a library lock and with interrupts off: it must use what
    /// needs no answer from software (Arm's broadcast invalidation: TLBI VAE1IS, or VAAE1IS for shared ranges, which reach CPUs
    /// whatever they have loaded). The default does nothing, which
    /// [`INVALIDATES_NOW`](Self::INVALIDATES_NOW) says.
    fn invalidate_now(&self, tag: u16, range: PageRange) {
        let _ = (tag, range);
    }

    /// Fills a frame with zeros.
    ///
    /// # Safety
    /// The frame was allocated from this platform and nobody else reads or writes it meanwhile.
    unsafe fn zero_frame(&self, frame: Frame) {
        // SAFETY: the caller owns the frame, and an implementation that does not override this makes every frame
        // reachable for a whole page.
        unsafe { core::ptr::write_bytes(self.frame_pointer(frame), 0, 1 << Self::PAGE_SHIFT) }
    }

    /// Copies a frame's bytes to another frame.
    ///
    /// # Safety
    /// `to` was allocated from this platform and nobody else uses it; `from` is a frame of RAM that is not freed meanwhile.
    unsafe fn copy_frame(&self, from: Frame, to: Frame) {
        // SAFETY: both are reachable for a whole page, and distinct since nobody else uses `to`.
        unsafe {
            core::ptr::copy_nonoverlapping(self.frame_pointer(from), self.frame_pointer(to), 1 << Self::PAGE_SHIFT)
        }
    }

    /// Copies bytes out of a frame, from byte `offset` on. What would pass the frame's end is left out; gives the count copied, 0 for
    /// a frame that cannot be reached.
    ///
    /// # Safety
    /// The frame is RAM (or device memory that may be read) that is not freed meanwhile. Other CPUs may write it: the bytes may be torn.
    unsafe fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) -> usize {
        let start = self.frame_pointer(frame);
        if start.is_null() {
            return 0;
        }
        let count = into.len().min((1_usize << Self::PAGE_SHIFT).saturating_sub(offset));
        // SAFETY: offset + count lies within the frame, which is reachable; `into` is exclusive.
        unsafe { core::ptr::copy(start.wrapping_add(offset), into.as_mut_ptr(), count) }
        count
    }

    /// Copies bytes into a frame, from byte `offset` on. What would pass the frame's end is left out; gives the count copied, 0 for
    /// a frame that cannot be reached.
    ///
    /// # Safety
    /// The frame holds nothing that the library or a Rust reference relies on, and is not freed meanwhile.
    unsafe fn write_frame(&self, frame: Frame, offset: usize, from: &[u8]) -> usize {
        let start = self.frame_pointer(frame);
        if start.is_null() {
            return 0;
        }
        let count = from.len().min((1_usize << Self::PAGE_SHIFT).saturating_sub(offset));
        // SAFETY: offset + count lies within the frame, which is reachable and holds only a program's bytes.
        unsafe { core::ptr::copy(from.as_ptr(), start.wrapping_add(offset), count) }
        count
    }
}

/// There were not enough frames. The operation that says so changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames {
    /// How many frames the operation lacked at the most when it gave up: reclaim that many, then try again. Where it is an index or
    /// the sections of an area that has to grow, they have to be consecutive.
    pub wanted: u64,
}

impl fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "out of memory: {} more frames were wanted; reclaim them and try again", self.wanted)
    }
}

impl core::error::Error for OutOfFrames {}

/// Takes one frame for `purpose` out of the embedder's and records its use.
#[inline]
pub(crate) fn allocate_one<F: Frames>(frames: &F, purpose: FrameUse, zeroed: bool) -> Result<Frame, OutOfFrames> {
    let mut request = FrameRequest::one(purpose);
    request.zeroed = zeroed;
    let frame = frames.allocate_frames(request).ok_or(OutOfFrames { wanted: 1 })?;
    match frames.frame_meta(frame) {
        // A frame that is in use already was handed out twice: it is left alone (leaked) rather than shared.
        Some(meta) if meta.begin(purpose).is_ok() => Ok(frame),
        _ => Err(OutOfFrames { wanted: 1 }),
    }
}

/// Gives one frame back to the embedder if it is recorded as used for `purpose`; says so otherwise, and leaves it alone.
///
/// # Safety
/// Nothing refers to the frame any more.
pub(crate) unsafe fn free_one<F: Frames>(frames: &F, frame: Frame, purpose: FrameUse) -> Result<(), WrongUse> {
    let meta = frames.frame_meta(frame).ok_or(WrongUse { frame, recorded: FrameUse::Free, expected: purpose })?;
    // SAFETY: the caller's promise.
    unsafe { free_one_of(frames, meta, frame, purpose) }
}

/// The same, with the frame's record at hand.
///
/// # Safety
/// As for [`free_one`]; the record is the frame's.
#[inline]
pub(crate) unsafe fn free_one_of<F: Frames>(
    frames: &F,
    meta: &FrameMeta,
    frame: Frame,
    purpose: FrameUse,
) -> Result<(), WrongUse> {
    meta.end(frame, purpose)?;
    // SAFETY: the frame was allocated one by one by `allocate_one` (its recorded use says so), and the caller vouches
    // that nothing refers to it.
    unsafe { frames.free_frames(frame, 1) };
    Ok(())
}
