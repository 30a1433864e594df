//! The kernel's heap: an open area that is faulted in on demand, shared out by `talc`.
//!
//! ```text
//!   HEAP      | block | free | block | ...  free | not touched yet ...                        |
//!             0                                  end                                          1 GiB
//!   HEAP_MAP  | 1 0 0 | 0 0  | 1 0 0 | ...       one bit for 16 bytes: a live block starts here
//! ```
//!
//! The allocator is given memory in steps, and each page of a step is touched before: the touch faults the page in, and a touch
//! that fails because there is no frame makes the allocation fail, not the kernel. So no memory that the allocator knows
//! can lack a frame later. A step for which there are too few free frames is refused before its first touch: pages that were
//! touched in vain stay with the heap until it grows again.
//!
//! A free is checked before the allocator sees it: in the heap, at the start of a live block, so not freed before.
//! What does not pass is reported, and nothing is done.

use super::kernel_space::{HEAP, HEAP_MAP, kernel_space};
use super::lock::Mutex;
use super::platform::Kernel;
use super::{MemoryError, frames};
use crate::cpu::probe;
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};
use talc::{ErrOnOom, Span, Talc};
use vmcore::paging::Access;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::MapRequest;

/// The addresses that the heap has.
const SIZE: u64 = 1 << 30;
/// Every block starts on a multiple of this.
const GRANULE: u64 = 16;
/// What the heap grows by at the least.
const STEP: u64 = 64 * 1024;
/// What the allocator keeps of a step for itself, at the most.
const OVERHEAD: u64 = 4096;
/// Frames that growing may take besides: incomplete tables and nodes, and what other faults take meanwhile.
const SPARE_FRAMES: u64 = 32;

#[global_allocator]
static ALLOCATOR: KernelHeap = KernelHeap;

static HEAP_STATE: Mutex<Heap> = Mutex::new(Heap::new());

struct Heap {
    allocator: Talc<ErrOnOom>,
    /// The part of the addresses that the allocator knows, both zero before there is a heap.
    start: u64,
    end: u64,
    /// The span that the allocator said is its own, once it has one.
    arena: Option<(u64, u64)>,
    /// Bytes that are handed out.
    used: u64,
}

/// Why a free was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadFree {
    /// The address is not in the heap.
    Outside(u64),
    /// No live block starts at the address: it was freed before, or never handed out.
    NotLive(u64),
}

impl fmt::Display for BadFree {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(address) => write!(formatter, "{address:#x} was freed and is not in the kernel heap"),
            Self::NotLive(address) => {
                write!(formatter, "{address:#x} was freed and is no live block: freed twice, or never handed out")
            }
        }
    }
}

impl core::error::Error for BadFree {}

/// Maps the areas. From here on there is a heap.
pub(super) fn initialise() -> Result<(), MemoryError> {
    for (address, size) in [(HEAP, SIZE), (HEAP_MAP, SIZE / GRANULE / 8)] {
        let area = Area::new(&Kernel, AreaKind::Open { size }, ())?;
        kernel_space().map(&MapRequest::new(&area).at(address).access(Access::KERNEL_DATA))?;
    }
    let mut heap = HEAP_STATE.lock();
    (heap.start, heap.end) = (HEAP, HEAP);
    Ok(())
}

/// The block's layout as the allocator is asked for it: whole granules.
fn whole_granules(layout: Layout) -> Option<Layout> {
    let layout = layout.align_to(GRANULE as usize).ok()?.pad_to_align();
    if layout.size() == 0 { None } else { Some(layout) }
}

/// Makes the pages of a range present; false if there is no memory for all of them.
fn touch(start: u64, end: u64) -> bool {
    let mut page = start & !(frames::FRAME_SIZE - 1);
    while page < end {
        if !probe::touch(page) {
            return false;
        }
        page += frames::FRAME_SIZE;
    }
    true
}

impl Heap {
    const fn new() -> Self {
        Self { allocator: Talc::new(ErrOnOom), start: 0, end: 0, arena: None, used: 0 }
    }

    /// The byte and the bit that stand for a block that starts at `address`.
    const fn mark(address: u64) -> (*mut u8, u8) {
        let granule = (address - HEAP) / GRANULE;
        ((HEAP_MAP + granule / 8) as *mut u8, 1 << (granule % 8))
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let layout = whole_granules(layout)?;
        // SAFETY: the size is not zero.
        let block = match unsafe { self.allocator.malloc(layout) } {
            Ok(block) => block,
            Err(()) => {
                self.grow(layout)?;
                // SAFETY: as above.
                unsafe { self.allocator.malloc(layout) }.ok()?
            }
        };
        let (byte, bit) = Self::mark(block.as_ptr() as u64);
        // SAFETY: the block lies in the part that was touched, whose part of the map was touched too; the lock is held.
        unsafe { *byte |= bit };
        self.used += layout.size() as u64;
        Some(block)
    }

    /// Gives the allocator enough for this block.
    fn grow(&mut self, layout: Layout) -> Option<()> {
        if self.start == 0 {
            return None;
        }
        let more = (layout.size() as u64).checked_add(layout.align() as u64)?.checked_add(OVERHEAD)?;
        let end = self.end.checked_add(more.checked_next_multiple_of(STEP)?)?;
        let map = |address: u64| HEAP_MAP + (address - HEAP) / GRANULE / 8;
        // Pages of the step and of its map; a table for 512 of them; nodes of the page tree for 64, seven to a frame.
        let pages = (end - self.end) / frames::FRAME_SIZE;
        let frames_wanted = pages + pages / 128 + pages / 512 + pages / 448 + SPARE_FRAMES;
        if end > HEAP + SIZE || frames::available() < frames_wanted {
            return None;
        }
        if !touch(self.end, end) || !touch(map(self.end), map(end)) {
            return None;
        }
        let span = |start: u64, end: u64| Span::new(start as *mut u8, end as *mut u8);
        // SAFETY: the range is mapped, present, the heap's alone and follows on what the allocator has already, which is
        // named as the allocator gave it back: its ends may be rounded.
        let arena = unsafe {
            match self.arena {
                None => self.allocator.claim(span(HEAP, end)).ok()?,
                Some((base, acme)) => self.allocator.extend(span(base, acme), span(base, end)),
            }
        };
        self.arena = arena.get_base_acme().map(|(base, acme)| (base as u64, acme as u64));
        self.end = end;
        Some(())
    }

    fn free(&mut self, block: *mut u8, layout: Layout) -> Result<(), BadFree> {
        let address = block as u64;
        if address < self.start || address >= self.end {
            return Err(BadFree::Outside(address));
        }
        let (byte, bit) = Self::mark(address);
        // SAFETY: the address lies in the part whose map was touched; the lock is held.
        let live = address.is_multiple_of(GRANULE) && unsafe { *byte & bit != 0 };
        let (Some(block), Some(layout)) = (NonNull::new(block), whole_granules(layout)) else {
            return Err(BadFree::NotLive(address));
        };
        if !live {
            return Err(BadFree::NotLive(address));
        }
        // SAFETY: as above; the block is live, so the allocator handed it out.
        unsafe {
            *byte &= !bit;
            self.allocator.free(block, layout);
        }
        self.used = self.used.saturating_sub(layout.size() as u64);
        Ok(())
    }
}

/// Frees a block after checking that there is one.
///
/// # Errors
///
/// [`BadFree`]: nothing was done.
///
/// # Safety
///
/// If a live block starts there, it is not used any more and was allocated with this layout.
pub(crate) unsafe fn free(block: *mut u8, layout: Layout) -> Result<(), BadFree> {
    HEAP_STATE.lock().free(block, layout)
}

/// Bytes that are handed out, and bytes that the heap has taken so far.
pub(crate) fn usage() -> (u64, u64) {
    let heap = HEAP_STATE.lock();
    (heap.used, heap.end - heap.start)
}

/// What `alloc` allocates from.
struct KernelHeap;

// SAFETY: blocks come from the allocator, which hands each out once until it is freed, with the size and alignment asked for.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP_STATE.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: by the trait's contract the block is not used any more.
        let result = unsafe { free(block, layout) };
        // The lock is given back before: a panic must be able to report.
        if let Err(error) = result {
            panic!("kernel heap: {error}");
        }
    }
}
