//! Memory for tables: one arena per candidate, all of the same kind.
//!
//! An arena is aligned to 2 MiB and backed by huge pages where the host has them, so that the host's own TLB stays out of the figures.
//! Physical memory is the process' own address space: the physical address of a frame is the address at which it is reached. So each candidate
//! gets a linear map at no cost, also one that knows no other.
//!
//! Frames are handed out last in, first out, as an allocator with per-CPU lists does. What is to be zeroed is zeroed when it is handed out: a
//! candidate that zeroes its tables itself asks for frames as they are, so that each table is zeroed once by everybody.

use std::{
    alloc::{Layout, alloc, handle_alloc_error},
    cell::{Cell, RefCell},
    ptr,
};

/// Bytes of a frame.
pub const FRAME: usize = 4096;
const ALIGNMENT: usize = 2 << 20;

/// A stretch of memory, handed out frame by frame. It is for one thread.
#[derive(Debug)]
pub struct Arena {
    base: *mut u8,
    frames: usize,
    /// Frames that came back, by index: the last one is handed out first.
    free: RefCell<Vec<u32>>,
    /// From this index on, frames were never handed out.
    untouched: Cell<usize>,
}

impl Arena {
    /// An arena of so many frames. It lives until the process ends: candidates find it through statics.
    pub fn leaked(frames: usize) -> &'static Self {
        let size = (frames * FRAME).next_multiple_of(ALIGNMENT);
        let Ok(layout) = Layout::from_size_align(size, ALIGNMENT) else { panic!("an arena of {frames} frames") };
        // SAFETY: the layout has a size: `next_multiple_of` of 0 frames aside, which would hand nothing out.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the range was just allocated; the advice changes nothing that could be read from it.
        unsafe { libc::madvise(base.cast(), size, libc::MADV_HUGEPAGE) };
        // Touched once, so that no first use is measured.
        // SAFETY: the range was just allocated with this size.
        unsafe { ptr::write_bytes(base, 0, size) };
        Box::leak(Box::new(Self {
            base,
            frames,
            free: RefCell::new(Vec::with_capacity(frames)),
            untouched: Cell::new(0),
        }))
    }

    /// The first frame's address.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// How many frames it has.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How many frames are handed out.
    pub fn used(&self) -> usize {
        self.untouched.get() - self.free.borrow().len()
    }

    /// Takes a frame, zeroed or as it is.
    #[inline]
    pub fn allocate(&self, zeroed: bool) -> Option<u64> {
        let index = match self.free.borrow_mut().pop() {
            Some(index) => index as usize,
            None => {
                let index = self.untouched.get();
                if index == self.frames {
                    return None;
                }
                self.untouched.set(index + 1);
                index
            }
        };
        let frame = self.base.wrapping_add(index * FRAME);
        if zeroed {
            // SAFETY: the frame lies in the arena, and was just taken from the free ones.
            unsafe { ptr::write_bytes(frame, 0, FRAME) };
        }
        Some(frame as u64)
    }

    /// Takes every frame back at once: whoever used them is forgotten.
    pub fn reset(&self) {
        self.free.borrow_mut().clear();
        self.untouched.set(0);
    }

    /// Gives a frame back.
    #[inline]
    pub fn free(&self, address: u64) {
        let index = (address as usize - self.base as usize) / FRAME;
        debug_assert!(index < self.untouched.get(), "{address:#x} is no frame of this arena");
        self.free.borrow_mut().push(index as u32);
    }
}
