//! Frames for tables: memory of the host that stands for a stretch of the machine's, copied to it and back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use anyhow::Result;
use vmcore::{
    addr::Frame,
    frame::{FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, Frames},
};

use crate::ram::Ram;

/// Bytes of the pool.
pub(crate) const SIZE: usize = 96 << 20;
/// The largest page that a format has.
const ALIGNMENT: usize = 1 << 16;

type Region = FrameRegion<'static, spin::Mutex<()>>;

/// Frames of 2^`SHIFT` bytes.
pub(crate) struct Pool<const SHIFT: u32> {
    region: Region,
    start: u64,
    memory: *mut u8,
    records: *mut [FrameMeta],
}

impl<const SHIFT: u32> Pool<SHIFT> {
    const LAYOUT: Layout = match Layout::from_size_align(SIZE, ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two"),
    };

    /// The pool that stands for the machine's memory from `start` on.
    pub(crate) fn new(start: u64) -> Self {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(Self::LAYOUT) };
        if memory.is_null() {
            handle_alloc_error(Self::LAYOUT);
        }
        let records = Box::into_raw((0..SIZE >> SHIFT).map(|_| FrameMeta::new()).collect::<Box<[_]>>());
        // SAFETY: freed only when the pool, and the region in it, is dropped.
        let table = FrameMetaTable::new(Frame::new(start >> SHIFT), unsafe { &*records });
        // SAFETY: the memory is aligned to the largest page, of as many pages as there are records, and lives as long as the pool.
        let region = unsafe { Region::new(memory, SHIFT, table) };
        Self { region, start, memory, records }
    }

    /// Copies what was written to the machine's memory; zeros are there already.
    pub(crate) fn store(&mut self, ram: &Ram) -> Result<()> {
        // SAFETY: all of the memory is initialised, and `&mut self` keeps everybody else away from it.
        let memory = unsafe { core::slice::from_raw_parts(self.memory, SIZE) };
        for (address, page) in (self.start..).step_by(4096).zip(memory.chunks_exact(4096)) {
            if page.iter().any(|byte| *byte != 0) {
                ram.write(address, page)?;
            }
        }
        Ok(())
    }

    /// Copies the machine's memory back.
    pub(crate) fn load(&mut self, ram: &Ram) -> Result<()> {
        // SAFETY: as above.
        ram.read(self.start, unsafe { core::slice::from_raw_parts_mut(self.memory, SIZE) })
    }
}

impl<const SHIFT: u32> Drop for Pool<SHIFT> {
    fn drop(&mut self) {
        // SAFETY: both were made by `new`, and the region that uses them touches neither when it is dropped.
        unsafe {
            dealloc(self.memory, Self::LAYOUT);
            drop(Box::from_raw(self.records));
        }
    }
}

// SAFETY: as for `FrameRegion`, to which everything is forwarded; its frames are of 2^`SHIFT` bytes. No CPU uses tables that are still being
// built on the host, so there is nothing to invalidate.
unsafe impl<const SHIFT: u32> Frames for Pool<SHIFT> {
    const PAGE_SHIFT: u32 = SHIFT;
    const INVALIDATES_NOW: bool = true;

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.region.allocate(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.region.free(first, count) }
    }

    fn available_frames(&self) -> u64 {
        self.region.available()
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.region.pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.region.meta(frame)
    }
}
