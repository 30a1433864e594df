//! Pools of small objects in a few size classes, carved from single frames (or, before there are frames, from lent
//! static pages).
//!
//! ```text
//!   one page:  | header | object | object | object | ... |
//!                 |          \________ free objects are linked through their first word
//!                 `-- next page with room, objects in use, frame number (or "lent")
//! ```
//!
//! The page of an object is found by masking its address, so an object costs nothing beside itself. A page whose last
//! object comes back goes back to the embedder at once; lent static pages stay.
//!
//! Objects are handed out uninitialised and in lists ([`ObjectList`]), so that an operation can take all that it
//! needs before it starts ("reserve first"), and put what it releases on a list under a lock and give it back after.

use core::ptr::NonNull;

use lock_api::{Mutex, MutexGuard, RawMutex};

use crate::addr::Frame;
use crate::frame::{FrameUse, Frames, OutOfFrames, allocate_one, free_one};

/// The sizes of objects in bytes. 64, 192 and 576 are the nodes of a page tree: 63, 21 and 7 of them fit a 4 KiB page.
/// 64 are windows and areas as well, 56 the rest of an area: 72 fit.
pub(crate) const CLASS_SIZES: [usize; 9] = [32, 56, 64, 128, 192, 256, 576, 1344, 4032];

/// How many size classes there are.
pub(crate) const CLASSES: usize = CLASS_SIZES.len();

/// Bytes of a page before its first object: the header, and objects stay aligned to their class.
const HEADER: usize = 64;

static_assertions::const_assert!(size_of::<PageHeader>() <= HEADER);

/// The class for objects of type `T`; a type that is too large or too aligned does not compile.
#[allow(clippy::indexing_slicing, clippy::panic, reason = "evaluated by the compiler only, in const blocks")]
pub(crate) const fn class_of<T>() -> usize {
    assert!(HEADER % align_of::<T>() == 0, "objects of a pool are aligned to 64 bytes at the most");
    let mut class = 0;
    while class < CLASSES {
        if size_of::<T>() <= CLASS_SIZES[class] && CLASS_SIZES[class] % align_of::<T>() == 0 {
            return class;
        }
        class += 1;
    }
    panic!("an object of a pool is larger than a page");
}

/// Uninitialised objects of one size class, linked through their own memory. Must be given back to its pool.
#[derive(Debug)]
#[must_use]
pub(crate) struct ObjectList {
    first: Option<NonNull<FreeObject>>,
    count: usize,
}

/// What an object's memory holds while it is free.
#[derive(Debug)]
struct FreeObject {
    next: Option<NonNull<FreeObject>>,
}

// SAFETY: the list owns its objects' memory, which is uninitialised: no value exists that could mind the thread.
unsafe impl Send for ObjectList {}

impl ObjectList {
    pub(crate) const fn new() -> Self {
        Self { first: None, count: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Takes an object's memory.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let first = self.first?;
        // SAFETY: what the list links is the memory of free objects, each with a `FreeObject` written by `push`.
        self.first = unsafe { first.as_ref().next };
        self.count -= 1;
        Some(first.cast())
    }

    /// Adds an object's memory.
    ///
    /// # Safety
    /// It came from the same pool as the others, holds no live value and nothing refers to it.
    pub(crate) unsafe fn push(&mut self, object: NonNull<u8>) {
        let free = object.cast::<FreeObject>();
        // SAFETY: the memory is unused; every class is large and aligned enough for a link.
        unsafe { free.write(FreeObject { next: self.first }) };
        self.first = Some(free);
        self.count += 1;
    }
}

/// At the start of each page of a pool.
struct PageHeader {
    /// Neighbours in the list of pages that have a free object.
    next: Option<NonNull<PageHeader>>,
    previous: Option<NonNull<PageHeader>>,
    free: Option<NonNull<FreeObject>>,
    used: u32,
    /// The frame's number, or [`LENT`].
    frame: u64,
}

const LENT: u64 = u64::MAX;

struct PoolState {
    with_room: Option<NonNull<PageHeader>>,
    pages: u64,
    used: u64,
}

// SAFETY: the pages belong to the pool and are reached only under its lock.
unsafe impl Send for PoolState {}

/// A pool of objects of one size.
pub(crate) struct Pool<R: RawMutex> {
    size: usize,
    state: Mutex<R, PoolState>,
}

impl<R: RawMutex> Pool<R> {
    pub(crate) const fn new(size: usize) -> Self {
        Self { size, state: Mutex::const_new(R::INIT, PoolState { with_room: None, pages: 0, used: 0 }) }
    }

    /// How many objects a page of 2^`page_shift` bytes holds.
    const fn per_page(&self, page_shift: u32) -> usize {
        match ((1 << page_shift) - HEADER).checked_div(self.size) {
            Some(count) => count,
            None => 0,
        }
    }

    /// How many frames (or lent pages) the pool has, and how many objects of them are out.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.pages, state.used)
    }

    /// Takes objects that there are until `list` holds `count` of them: no frame is asked for.
    pub(crate) fn fill_from_stock(&self, list: &mut ObjectList, count: usize) {
        let mut state = self.state.lock();
        while list.len() < count {
            let Some(object) = state.take_object() else { break };
            // SAFETY: the object is free and was just taken out of this pool.
            unsafe { list.push(object.cast()) };
        }
    }

    /// Takes objects until `list` holds `count` of them. What it already got stays in the list if frames run out.
    pub(crate) fn fill<F: Frames>(&self, frames: &F, list: &mut ObjectList, count: usize) -> Result<(), OutOfFrames> {
        const { assert!(F::PAGE_SHIFT >= 12 && F::PAGE_SHIFT < usize::BITS, "pages of at least 4 KiB") };
        while list.len() < count {
            self.fill_from_stock(list, count);
            if list.len() < count {
                // Outside of the lock: the embedder's allocator has locks of its own.
                let missing = (count - list.len()).div_ceil(self.per_page(F::PAGE_SHIFT).max(1)) as u64;
                let lacking = OutOfFrames { wanted: missing };
                let frame = allocate_one(frames, FrameUse::Pool, false).map_err(|_| lacking)?;
                let page = NonNull::new(frames.frame_pointer(frame)).ok_or(lacking)?;
                // SAFETY: the frame is ours, reachable and of the page size, and nobody knows it yet.
                let mut state = unsafe { self.add_page(page, frame.number(), F::PAGE_SHIFT) };
                // From the new page at once, so that it cannot stay behind empty.
                while list.len() < count {
                    let Some(object) = state.take_object() else { break };
                    // SAFETY: as above.
                    unsafe { list.push(object.cast()) };
                }
            }
        }
        Ok(())
    }

    /// Gives every object of the list back; pages that become empty go back to the embedder.
    pub(crate) fn give<F: Frames>(&self, frames: &F, list: &mut ObjectList) {
        while list.len() != 0 {
            let mut empty = None;
            {
                let mut state = self.state.lock();
                while empty.is_none() {
                    let Some(object) = list.pop() else { break };
                    // SAFETY: objects of the list come from this pool, whose pages are aligned to the page size.
                    empty = unsafe { state.put_object(object.cast(), F::PAGE_SHIFT) };
                }
            }
            free_page(frames, empty);
        }
    }

    /// Gives one object back, as [`give`](Self::give).
    ///
    /// # Safety
    /// It came from this pool, holds no live value and nothing refers to it.
    pub(crate) unsafe fn give_one<F: Frames>(&self, frames: &F, object: NonNull<u8>) {
        // SAFETY: the caller's promise; the pool's pages are aligned to the page size.
        let empty = unsafe { self.state.lock().put_object(object.cast(), F::PAGE_SHIFT) };
        free_page(frames, empty);
    }

    /// Adds a page that is lent for ever.
    ///
    /// # Safety
    /// The page is exclusive for ever, of 2^`page_shift` bytes and aligned to them.
    pub(crate) unsafe fn lend(&self, page: NonNull<u8>, page_shift: u32) {
        // SAFETY: forwarded.
        drop(unsafe { self.add_page(page, LENT, page_shift) });
    }

    /// # Safety
    /// The page is exclusive, of 2^`page_shift` bytes and aligned to them.
    unsafe fn add_page(&self, page: NonNull<u8>, frame: u64, page_shift: u32) -> MutexGuard<'_, R, PoolState> {
        let mut free = None;
        for index in (0..self.per_page(page_shift)).rev() {
            // SAFETY: `per_page` objects fit behind the header.
            let object = unsafe { page.add(HEADER + index * self.size) }.cast::<FreeObject>();
            // SAFETY: the memory is exclusive, and aligned since the page, the header's size and the class are.
            unsafe { object.write(FreeObject { next: free }) };
            free = Some(object);
        }
        let header = page.cast::<PageHeader>();
        let mut state = self.state.lock();
        // SAFETY: a page begins with its header, which nobody else sees before it is linked below.
        unsafe { header.write(PageHeader { next: None, previous: None, free, used: 0, frame }) };
        // SAFETY: the header was just written and is on no list.
        unsafe { state.link(header) };
        state.pages += 1;
        state
    }
}

/// Gives the frame of a page back that became empty.
#[inline]
fn free_page<F: Frames>(frames: &F, empty: Option<Frame>) {
    if let Some(frame) = empty {
        // SAFETY: none of the page's objects is out and the page is off the list: nothing refers to it. A record
        // that contradicts is left alone, which leaks the frame rather than freeing another's.
        let _ = unsafe { free_one(frames, frame, FrameUse::Pool) };
    }
}

impl PoolState {
    fn take_object(&mut self) -> Option<NonNull<FreeObject>> {
        let mut page = self.with_room?;
        // SAFETY: pages on the list belong to the pool, and `&mut self` is the lock.
        let header = unsafe { page.as_mut() };
        let object = header.free?;
        // SAFETY: a free object holds its link.
        header.free = unsafe { object.as_ref().next };
        header.used += 1;
        let full = header.free.is_none();
        if full {
            // SAFETY: the page is on the list, being its first.
            unsafe { self.unlink(page) };
        }
        self.used += 1;
        Some(object)
    }

    /// Takes the object back; gives the frame of a page that became empty and is not lent, and forgets it.
    ///
    /// # Safety
    /// The object came from `take_object` of this pool, whose pages are aligned to 2^`page_shift` bytes.
    unsafe fn put_object(&mut self, object: NonNull<FreeObject>, page_shift: u32) -> Option<Frame> {
        let mask = (1_usize << page_shift) - 1;
        let mut page = NonNull::new(object.as_ptr().map_addr(|address| address & !mask).cast::<PageHeader>())?;
        // SAFETY: the object lies in a page of the pool, which begins with its header; `&mut self` is the lock.
        let header = unsafe { page.as_mut() };
        let was_full = header.free.is_none();
        // SAFETY: the object's memory is unused from here on.
        unsafe { object.write(FreeObject { next: header.free }) };
        header.free = Some(object);
        header.used -= 1;
        self.used -= 1;
        let (empty, frame) = (header.used == 0, header.frame);
        if was_full {
            // SAFETY: a full page is on no list.
            unsafe { self.link(page) };
        }
        if empty && frame != LENT {
            // SAFETY: it has room, so it is on the list.
            unsafe { self.unlink(page) };
            self.pages -= 1;
            return Some(Frame::new(frame));
        }
        None
    }

    /// # Safety
    /// The page belongs to the pool and is on no list.
    unsafe fn link(&mut self, mut page: NonNull<PageHeader>) {
        // SAFETY: see above; the list's pages belong to the pool.
        unsafe {
            page.as_mut().previous = None;
            page.as_mut().next = self.with_room;
            if let Some(mut next) = self.with_room {
                next.as_mut().previous = Some(page);
            }
        }
        self.with_room = Some(page);
    }

    /// # Safety
    /// The page is on the list.
    unsafe fn unlink(&mut self, mut page: NonNull<PageHeader>) {
        // SAFETY: its neighbours are pages of the pool, or none.
        unsafe {
            let (previous, next) = (page.as_ref().previous, page.as_ref().next);
            match previous {
                Some(mut previous) => previous.as_mut().next = next,
                None => self.with_room = next,
            }
            if let Some(mut next) = next {
                next.as_mut().previous = previous;
            }
            page.as_mut().previous = None;
            page.as_mut().next = None;
        }
    }
}
