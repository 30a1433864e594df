//! Swap: memory of programs whose pages are taken away under pressure, compressed, and come back when they are touched.
//!
//! # Why a compressed store in memory, and no disk
//!
//! A page comes back inside of the fault that misses it. Out of memory that takes a copy: nobody waits, no interrupt is needed, it works by every loader and on
//! machines without a disk, and nothing can fail on the way back, so a program is never killed for a device. A disk would hold more, and what does not
//! compress; but its driver would bring queues, interrupts, threads that wait with a page outstanding, and errors of devices, none of which is about memory. The seam
//! is the same: a request that is answered later. The price: what does not compress stays where it is.
//!
//! # What a page is
//!
//! ```text
//!                    write                 reclaim: compress, keep                reclaim: evict
//!   clean ─────────────────────► dirty ───────────────────────────► clean ───────────────────────► absent
//!     ▲                                                                                               │
//!     └────────────────────────────── touched: bring (decompress, or zero) ───────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! - Of a page that is not dirty, in memory or not, the store has the contents; of one that it has nothing of, these are zero. So a clean page is given up without a
//!   look at it.
//! - What takes pages away, cuts an area, or gives one up is done by one at a time ([`alone`]): the store never keeps a page that its area has not.
//! - Keeping a page takes one more page for the store at the most, and that comes out of [`SPARES`] frames that are set aside: never out of what is lacking.
//!   They are filled up with what was won before anything else is.
//!
//! Lock order: [`alone`], then the table of areas, then the store. Nothing that is called with the store locked locks anything.

use super::memory::{self, Kernel, Mutex};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use refkernel::compressed_store::{CompressedStore, Entry, PAGE, StoreCounts, StoreMemory, StorePage};
use refkernel_abi::{ErrorCode, PAGE_SIZE};
use vmcore::addr::Frame;
use vmcore::frame::{FrameRequest, FrameUse, Frames};
use vmcore::paging::Flush;
use vmcore::vm_area::{Area, AreaKind, PageBuffer, PageRequest, Rights, WriteBack};
use vmcore::vm_space::SpaceError;

/// Set in the keys of areas whose pages come from here.
pub(super) const SWAP: u64 = 1 << 63;

/// The most areas that can be swapped.
const AREAS_MAX: usize = 256;

/// Frames that are set aside for the store: what keeping one batch of pages takes at the most.
const SPARES: usize = 32;

/// The most bytes that a page is kept in: what compresses worse stays where it is, since keeping it would win next to nothing.
const WORTH: usize = PAGE / 4 * 3;

/// An area whose pages come from here. The handle lasts until nobody else has one, and no window shows it.
struct SwapArea {
    /// Never another one's.
    number: u64,
    area: Area<Kernel>,
}

static AREAS: Mutex<[Option<SwapArea>; AREAS_MAX]> = Mutex::new([const { None }; AREAS_MAX]);
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);
/// How many places of the table are taken, or about to be.
static AREA_COUNT: AtomicUsize = AtomicUsize::new(0);

static ALONE: Mutex<()> = Mutex::new(());

/// Whoever takes pages away, cuts an area, or gives one up does so here. It may wait for other processors: who waits for the lock answers them meanwhile.
pub(super) fn alone<R>(what: impl FnOnce() -> R) -> R {
    let _alone = ALONE.lock();
    what()
}

/// Frames for the store.
struct Spares {
    frames: [u64; SPARES],
    count: usize,
}

impl Spares {
    /// Sets frames aside until there are enough; gives how many it took.
    fn fill_up(&mut self) -> u64 {
        let mut taken = 0;
        while let Some(place) = self.frames.get_mut(self.count) {
            let Some(frame) = Kernel.allocate_frames(FrameRequest::one(FrameUse::Page)) else { break };
            *place = frame.number();
            self.count += 1;
            taken += 1;
        }
        taken
    }
}

impl StoreMemory for Spares {
    fn take(&mut self) -> Option<u64> {
        self.count = self.count.checked_sub(1)?;
        self.frames.get(self.count).copied()
    }

    fn give(&mut self, page: u64) {
        match self.frames.get_mut(self.count) {
            Some(place) => {
                *place = page;
                self.count += 1;
            }
            // SAFETY: the frame was allocated by `fill_up`, and the store does not use it any more.
            None => unsafe { Kernel.free_frames(Frame::new(page), 1) },
        }
    }

    fn with<R>(&mut self, page: u64, look: impl FnOnce(&mut [u8; PAGE]) -> R) -> R {
        let bytes = Kernel.frame_pointer(Frame::new(page)).cast::<[u8; PAGE]>();
        // SAFETY: the frame was allocated by `fill_up` and is the store's alone, which is locked; the linear map shows it.
        look(unsafe { &mut *bytes })
    }
}

struct Swap {
    store: CompressedStore<'static>,
    spares: Spares,
    table: CompressTable,
    /// A page on its way.
    page: [u8; PAGE],
    /// As long as the crate asks for, whatever comes of it.
    compressed: [u8; get_maximum_output_size(PAGE)],
}

static STORE: Mutex<Option<Swap>> = Mutex::new(None);

/// What was done so far.
static COUNTERS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
const KEPT: usize = 0;
const REFUSED: usize = 1;
const BROUGHT: usize = 2;
const ZERO: usize = 3;

fn count(counter: usize, more: u64) {
    if let Some(counter) = COUNTERS.get(counter) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// What swapping has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SwapCounts {
    /// Pages that were compressed and kept, a page that was so twice counted twice.
    pub(crate) kept: u64,
    /// Pages that were found to be zero, of which nothing is kept.
    pub(crate) zero: u64,
    /// Pages that were not kept: they do not compress, or there was no room.
    pub(crate) refused: u64,
    /// Pages that came back out of the store.
    pub(crate) brought: u64,
    /// What the store has.
    pub(crate) store: StoreCounts,
    /// Frames that are set aside for it.
    pub(crate) spares: u64,
    /// Frames of the store's tables.
    pub(crate) table_frames: u64,
    /// Areas whose pages can be taken away.
    pub(crate) areas: u64,
}

/// What swapping has come to, and what there is of it.
pub(crate) fn counts() -> SwapCounts {
    let [kept, refused, brought, zero] = COUNTERS.each_ref().map(|counter| counter.load(Ordering::Relaxed));
    let store = STORE.lock();
    let (counts, spares) =
        store.as_ref().map_or((StoreCounts::default(), 0), |swap| (swap.store.counts(), swap.spares.count as u64));
    drop(store);
    let areas = AREA_COUNT.load(Ordering::Relaxed) as u64;
    SwapCounts {
        kept,
        zero,
        refused,
        brought,
        store: counts,
        spares,
        table_frames: TABLE_FRAMES.load(Ordering::Relaxed),
        areas,
    }
}

/// Takes memory for the store's tables, 24 bytes for each two frames of the machine, and the frames that are set aside. Where there is none, no area can
/// be swapped.
pub(super) fn initialise() {
    let frames = memory::frame_counts().total;
    let places = (frames / 2).next_power_of_two();
    let (Some(index), Some(pages)) = (table::<Entry>(places), table::<StorePage>(frames / 2)) else { return };
    let mut swap = Swap {
        store: CompressedStore::new(index, pages),
        spares: Spares { frames: [0; SPARES], count: 0 },
        table: CompressTable::small(),
        page: [0; PAGE],
        compressed: [0; get_maximum_output_size(PAGE)],
    };
    swap.spares.fill_up();
    *STORE.lock() = Some(swap);
}

/// How many frames the store's tables have.
static TABLE_FRAMES: AtomicU64 = AtomicU64::new(0);

/// A table of the store's, zero, in frames of its own for the life of the kernel.
fn table<T: Default>(length: u64) -> Option<&'static mut [T]> {
    let bytes = length.checked_mul(size_of::<T>() as u64)?;
    let frames = bytes.div_ceil(PAGE_SIZE).max(1);
    let first = Kernel.allocate_frames(FrameRequest::run(FrameUse::Page, frames, 0).zeroed())?;
    TABLE_FRAMES.fetch_add(frames, Ordering::Relaxed);
    // SAFETY: the frames were just taken, are shown by the linear map in one run, aligned to pages, and never given back. What the tables are made of is plain
    // numbers, of which zero is one.
    Some(unsafe { core::slice::from_raw_parts_mut(Kernel.frame_pointer(first).cast::<T>(), length as usize) })
}

/// Makes an area of zeros whose pages can be taken away.
pub(crate) fn create(size: u64) -> Result<Area<Kernel>, ErrorCode> {
    sweep();
    if AREA_COUNT.fetch_add(1, Ordering::Relaxed) >= AREAS_MAX {
        AREA_COUNT.fetch_sub(1, Ordering::Relaxed);
        return Err(ErrorCode::TooMany);
    }
    let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    let made = Area::new(&Kernel, AreaKind::Paged { size, key: SWAP | number }, ())
        .and_then(|area| Ok((area.handle(Rights::SUPPLY | Rights::SHARE)?, area)));
    match made {
        Ok((kept, area)) => {
            let mut areas = AREAS.lock();
            // There is one, as the count says.
            if let Some(place) = areas.iter_mut().find(|place| place.is_none()) {
                *place = Some(SwapArea { number, area: kept });
            }
            Ok(area)
        }
        Err(error) => {
            AREA_COUNT.fetch_sub(1, Ordering::Relaxed);
            Err(crate::process::area_error(error))
        }
    }
}

/// The area with the lowest key above this one, and its key.
pub(super) fn next_after(key: u64) -> Option<(u64, Area<Kernel>)> {
    let areas = AREAS.lock();
    let next = areas.iter().flatten().filter(|area| SWAP | area.number > key).min_by_key(|area| area.number)?;
    Some((SWAP | next.number, next.area.handle(Rights::SUPPLY).ok()?))
}

fn find(key: u64) -> Option<Area<Kernel>> {
    let areas = AREAS.lock();
    let found = areas.iter().flatten().find(|area| SWAP | area.number == key)?;
    found.area.handle(Rights::SUPPLY).ok()
}

/// What the store knows a page by: the area's number in the upper part.
const fn page_key(number: u64, page: u64) -> u64 {
    (number & !SWAP) << PAGE_BITS | page
}

/// Bits of a page's number within its area: as many as the largest area takes.
const PAGE_BITS: u32 = 28;
const _: () = assert!(refkernel_abi::AREA_SIZE_MAX / PAGE_SIZE <= 1 << PAGE_BITS);

/// Gives up areas that nobody has any more, and what is kept of them.
pub(crate) fn sweep() {
    if AREA_COUNT.load(Ordering::Relaxed) != 0 {
        alone(sweep_alone);
    }
}

/// The same, for who is alone.
pub(super) fn sweep_alone() {
    loop {
        let gone = {
            let mut areas = AREAS.lock();
            // Without a window and another handle nobody can come to it: the only one is here.
            let is_gone = |area: &SwapArea| area.area.windows() == 0 && area.area.handles() == 1;
            areas.iter_mut().find(|place| place.as_ref().is_some_and(is_gone)).and_then(Option::take)
        };
        let Some(gone) = gone else { return };
        AREA_COUNT.fetch_sub(1, Ordering::Relaxed);
        forget(gone.number, 0);
        drop(gone);
    }
}

/// Forgets what is kept of an area from a page on.
fn forget(number: u64, first: u64) {
    if let Some(Swap { store, spares, .. }) = STORE.lock().as_mut() {
        store.remove_where(spares, |key| key >> PAGE_BITS == number & !SWAP && key & ((1 << PAGE_BITS) - 1) >= first);
    }
}

/// Changes an area's size by `resize`, if its pages come from here.
pub(crate) fn resized<E>(area: &Area<Kernel>, size: u64, resize: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let AreaKind::Paged { key, .. } = area.kind() else { return resize() };
    alone(|| {
        resize()?;
        // Nobody takes a page away meanwhile, so none that was cut off is kept from here on.
        forget(key, size / PAGE_SIZE);
        Ok(())
    })
}

/// Gives its swept areas up when it is dropped: the last part of a process.
pub(crate) struct Swept;

impl Drop for Swept {
    fn drop(&mut self) {
        sweep();
    }
}

/// Brings pages that were taken away, or were never there.
pub(super) fn supply(request: &PageRequest) -> Result<(), SpaceError> {
    let Some(area) = find(request.key) else { return Ok(()) };
    let first = request.offset / PAGE_SIZE;
    let mut pages = match super::reclaim::patiently(|| PageBuffer::new(&Kernel, request.size / PAGE_SIZE)) {
        Ok(pages) => pages,
        Err(error) => {
            let _ = area.cancel(request.token, request.offset, request.size);
            return Err(SpaceError::OutOfFrames(error));
        }
    };
    for page in 0..request.size / PAGE_SIZE {
        let mut swap = STORE.lock();
        let Some(Swap { store, spares, page: bytes, .. }) = swap.as_mut() else { break };
        let there = store.get(spares, page_key(request.key, first + page), |kept| decompress_into(kept, bytes));
        // What the store has was made from a page. Should it not be one, it cannot be brought: zeros in its place would be a lie.
        let whole = match there {
            None => continue,
            Some(read) => read.is_ok_and(|size| size == PAGE) && pages.write(page * PAGE_SIZE, bytes).is_ok(),
        };
        drop(swap);
        if !whole {
            let _ = area.fail(request.token, request.offset, request.size);
            return Ok(());
        }
        count(BROUGHT, 1);
    }
    // An answer that came too late changes nothing: who waits asks again.
    let _ = area.supply_pages(request.token, request.offset, pages);
    Ok(())
}

/// Keeps the dirty pages of a range: those that could be are clean. For who is alone.
pub(super) fn keep(key: u64, area: &Area<Kernel>, offset: u64, size: u64) {
    let end = offset + size;
    let mut at = offset;
    while let Ok(Some(flush)) = area.begin_write_back(at, end.saturating_sub(at)) {
        let pages = flush.complete();
        let (start, stop) = (pages.offset(), pages.offset() + pages.size());
        // The first is nearly always all.
        if keep_pages(key, &pages) == pages.size() / PAGE_SIZE {
            pages.written();
        } else {
            // They are dirty again; each by itself is kept, or stays.
            drop(pages);
            for page in (start..stop).step_by(PAGE) {
                if let Ok(Some(page)) = area.begin_write_back(page, PAGE_SIZE).map(|flush| flush.map(Flush::complete))
                    && keep_pages(key, &page) == 1
                {
                    page.written();
                }
            }
        }
        at = stop;
    }
}

/// Keeps pages that nobody may write to; gives how many, up to the first that cannot be kept. Of that one nothing is kept.
fn keep_pages(key: u64, pages: &WriteBack<Kernel>) -> u64 {
    for number in 0..pages.size() / PAGE_SIZE {
        let mut swap = STORE.lock();
        let Some(Swap { store, spares, table, page, compressed }) = swap.as_mut() else { return number };
        if pages.read(number * PAGE_SIZE, page).is_err() {
            return number;
        }
        let key = page_key(key, pages.offset() / PAGE_SIZE + number);
        if page.iter().all(|byte| *byte == 0) {
            store.remove(spares, key);
            drop(swap);
            count(ZERO, 1);
            continue;
        }
        let kept = match compress_into_with_table(page, compressed, table) {
            Ok(length) if length <= WORTH => {
                store.put(spares, key, compressed.get(..length).unwrap_or_default()).is_ok()
            }
            _ => false,
        };
        drop(swap);
        count(if kept { KEPT } else { REFUSED }, 1);
        if !kept {
            return number;
        }
    }
    pages.size() / PAGE_SIZE
}

/// Sets frames aside for the store until there are enough; gives how many it took.
pub(super) fn set_aside() -> u64 {
    STORE.lock().as_mut().map_or(0, |swap| swap.spares.fill_up())
}
