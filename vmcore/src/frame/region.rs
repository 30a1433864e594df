//! Ready-made frames for the smallest embedding: one contiguous region, with its metadata, behind a lock.
//!
//! An embedder with an allocator of its own does not need it. Single frames come from a free list that is linked
//! through the metadata (O(1)). Runs and alignments come from what was never handed out, so a machine that has once used all of its frames has no runs any
//! more: a kernel that runs for long brings an allocator of its own.

use lock_api::{Mutex, RawMutex};

use crate::addr::Frame;
use crate::frame::{FrameMeta, FrameMetaTable, FrameRequest, FrameUse, Frames};

/// A contiguous region of RAM: memory, numbers and records of its frames.
///
/// Implement [`Frames`](crate::frame::Frames) by forwarding to it: `examples/smallest.rs` does so.
#[derive(Debug)]
pub struct FrameRegion<'a, R: RawMutex> {
    base: *mut u8,
    page_shift: u32,
    records: FrameMetaTable<'a>,
    free: Mutex<R, Free>,
}

#[derive(Debug)]
struct Free {
    /// Below it, frames were handed out at least once; from it on, never.
    untouched: u64,
    /// Frames that came back, linked through their metadata.
    returned: Option<u64>,
    available: u64,
}

// SAFETY: the region owns the memory behind `base`, hands out disjoint frames of it, and keeps its own state behind a lock.
unsafe impl<R: RawMutex + Send> Send for FrameRegion<'_, R> {}
// SAFETY: as above.
unsafe impl<R: RawMutex + Sync> Sync for FrameRegion<'_, R> {}

/// Marks a returned frame in its record while it is on the free list.
const END: u64 = u64::MAX;

impl<'a, R: RawMutex> FrameRegion<'a, R> {
    /// The region whose first frame's bytes are at `base` and whose frames have the records of `records`, with pages of
    /// 2^`page_shift` bytes.
    ///
    /// # Safety
    /// The records are those of free frames, and no other region's. `base` is aligned to the page size, and valid for reads and writes of `records.len()` pages that nobody else uses while the region
    /// or anything that was built from it lives.
    pub const unsafe fn new(base: *mut u8, page_shift: u32, records: FrameMetaTable<'a>) -> Self {
        let available = records.len() as u64;
        Self {
            base,
            page_shift,
            records,
            free: Mutex::const_new(R::INIT, Free { untouched: 0, returned: None, available }),
        }
    }

    /// How many frames are free.
    pub fn available(&self) -> u64 {
        self.free.lock().available
    }

    /// See [`Frames::frame_pointer`]; null outside of the region.
    pub fn pointer(&self, frame: Frame) -> *mut u8 {
        match frame.number().checked_sub(self.records.first().number()) {
            Some(index) if index < self.records.len() as u64 => {
                self.base.wrapping_add((index << self.page_shift) as usize)
            }
            _ => core::ptr::null_mut(),
        }
    }

    /// See [`Frames::frame_meta`].
    pub fn meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.records.get(frame)
    }

    /// See [`Frames::allocate_frames`]. Single frames are O(1); runs take from what was never handed out.
    pub fn allocate(&self, request: FrameRequest) -> Option<Frame> {
        let frame = {
            let mut free = self.free.lock();
            let mut taken = None;
            if request.count == 1 && request.alignment == 0 {
                if let Some(number) = free.returned {
                    let link = self.meta(Frame::new(number))?.link();
                    free.returned = (link != END).then_some(link);
                    taken = Some(number);
                }
            }
            let number = match taken {
                Some(number) => number,
                None => self.take_untouched(&mut free, request)?,
            };
            free.available -= request.count;
            Frame::new(number)
        };
        if request.zeroed {
            let bytes = (request.count as usize) << self.page_shift;
            // SAFETY: the frames lie in the region and were just taken from the free ones.
            unsafe { core::ptr::write_bytes(self.pointer(frame), 0, bytes) };
        }
        Some(frame)
    }

    fn take_untouched(&self, free: &mut Free, request: FrameRequest) -> Option<u64> {
        let first = self.records.first().number();
        let alignment = 1_u64.checked_shl(request.alignment)?;
        let start = first.checked_add(free.untouched)?.checked_next_multiple_of(alignment)?;
        let end = start.checked_add(request.count)?;
        if request.count == 0 || end > first.checked_add(self.records.len() as u64)? {
            return None;
        }
        // What alignment skips is not lost: it goes to the returned ones.
        for skipped in first + free.untouched..start {
            self.meta(Frame::new(skipped))?.set_link(free.returned.unwrap_or(END));
            free.returned = Some(skipped);
        }
        free.untouched = end - first;
        Some(start)
    }

    /// See [`Frames::free_frames`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn free(&self, first: Frame, count: u64) {
        let mut free = self.free.lock();
        for frame in (0..count).map(|index| first.add(index)) {
            let Some(meta) = self.meta(frame) else { continue };
            meta.set_link(free.returned.unwrap_or(END));
            free.returned = Some(frame.number());
            free.available += 1;
        }
    }

    /// How many frames are recorded as used for `purpose`. O(frames); for tests and inspection.
    pub fn used_for(&self, purpose: FrameUse) -> u64 {
        let first = self.records.first();
        (0..self.records.len() as u64)
            .filter_map(|index| self.meta(first.add(index)))
            .filter(|meta| meta.recorded_use() == purpose)
            .count() as u64
    }
}

// SAFETY: frames are handed out once until they come back, lie in memory that the maker vouched for, and have one
// record each. The page size is the one that the region was made with; only 4 KiB regions implement the trait.
unsafe impl<R: RawMutex> Frames for FrameRegion<'_, R> {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        if self.page_shift == Self::PAGE_SHIFT { self.allocate(request) } else { None }
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.free(first, count) }
    }

    fn available_frames(&self) -> u64 {
        self.available()
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.meta(frame)
    }
}
