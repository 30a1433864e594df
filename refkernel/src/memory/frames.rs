//! The frames of RAM: who has which, and the library's record of each.
//!
//! RAM comes in regions, as the loader's map tells them. Each region begins with what is remembered about it:
//!
//! ```text
//!   region   | records, 24 bytes a frame | free bits | marks, a byte a frame | frames to hand out ...            |
//!            ^ first                                                         ^ the metadata ends on a whole frame
//! ```
//!
//! - records: [`FrameMeta`], the library's. Zero is the record of a free frame.
//! - free bits: a [`FrameBitmap`], behind the region's lock. A few free frames are taken out of it and lie in a [`stash`].
//! - marks: whether a frame is free, wherever it lies, so that none is given back twice; and which pages are the kernel's own (heap, stacks)
//!   and not a program's, for the picture.
//!
//! # Invariants
//!
//! Regions never overlap, are never removed, and are found without a lock: their table only grows, the largest region of
//! each batch first, so that the search for a frame's record (it is on the fault path) nearly always ends at the
//! first or second region. Frames of metadata are never free.

use super::linear;
use super::lock::Mutex;
use super::stash::{self, Spare};
use crate::cpu::local::{CPUS_MAX, PerCpu};
use crate::weakness::{self, Defence};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use refkernel::boot_info::memory_map::CAPACITY;
use refkernel::frame_bitmap::FrameBitmap;
use spin::Once;
use vmcore::addr::Frame;
use vmcore::frame::{FrameMeta, FrameMetaTable, FrameRequest, FrameUse};
use x86_64::instructions::interrupts::without_interrupts;

/// Bytes of a frame.
pub(crate) const FRAME_SIZE: u64 = 4096;

/// Somebody has the frame.
const TAKEN: u8 = 0;
/// Somebody has it, as a page of the kernel's own.
const KERNELS: u8 = 1;
/// It is in the bitmap or in a stash.
const FREE: u8 = 2;

/// A region of RAM.
struct Region {
    /// The number of its first frame.
    first: u64,
    /// How many of its frames hold the metadata.
    metadata: u64,
    records: FrameMetaTable<'static>,
    /// One for each frame: [`TAKEN`], [`KERNELS`] or [`FREE`].
    marks: &'static [AtomicU8],
    free: Mutex<FrameBitmap<'static>>,
    /// How many the bitmap says are free, readable without the lock.
    available: AtomicU64,
}

/// The regions, filled from the front. A region may be cut in two, where the boot map ends and by the kernel.
static REGIONS: [Once<Region>; CAPACITY + 4] = [const { Once::new() }; CAPACITY + 4];
static REGION_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether pages that a processor takes now are the kernel's own. Set with interrupts off.
static FOR_KERNEL: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; CPUS_MAX]);

#[inline]
fn regions() -> impl Iterator<Item = &'static Region> {
    REGIONS.iter().map_while(Once::get)
}

/// The region of a frame, and the frame's index in it.
#[inline]
fn find(frame: u64) -> Option<(&'static Region, u64)> {
    regions().find_map(|region| {
        let index = frame.wrapping_sub(region.first);
        (index < region.records.len() as u64).then_some((region, index))
    })
}

/// Makes RAM available: `count` frames from the one numbered `first`. Gives how many of them can be handed out; a
/// region that is too small to hold its own metadata gives none.
///
/// # Safety
///
/// The frames are RAM that nobody uses, in no region yet, and shown by the linear map in the present tables and all later ones.
pub(super) unsafe fn add(first: u64, count: u64) -> u64 {
    let record_bytes = count * size_of::<FrameMeta>() as u64;
    let free_words = FrameBitmap::words_needed(count);
    let metadata = (record_bytes + free_words * 8 + count).div_ceil(FRAME_SIZE);
    let slot = REGION_COUNT.load(Ordering::Relaxed);
    if metadata >= count || slot >= REGIONS.len() {
        return 0;
    }
    let base = linear::address(first * FRAME_SIZE) as *mut u8;
    // SAFETY: by the contract the region is exclusive and shown; the metadata was just seen to fit in it. Zero is a valid
    // record, a valid word and a valid mark. The parts are aligned (24 and 8 divide their offsets) and do not overlap.
    let (records, marks, words) = unsafe {
        base.write_bytes(0, (metadata * FRAME_SIZE) as usize);
        let records = core::slice::from_raw_parts(base.cast::<FrameMeta>(), count as usize);
        let words = base.add(record_bytes as usize).cast::<u64>();
        let marks = core::slice::from_raw_parts(words.add(free_words as usize).cast::<AtomicU8>(), count as usize);
        (records, marks, core::slice::from_raw_parts_mut(words, free_words as usize))
    };
    let Some(mut free) = FrameBitmap::new(words, count) else { return 0 };
    for (index, mark) in (0..count).zip(marks).skip(metadata as usize) {
        // All are taken at first, so that each can be given.
        let _ = free.give(index);
        mark.store(FREE, Ordering::Relaxed);
    }
    let available = free.free();
    let records = FrameMetaTable::new(Frame::new(first), records);
    if let Some(place) = REGIONS.get(slot) {
        let (free, available) = (Mutex::new(free), AtomicU64::new(available));
        place.call_once(|| Region { first, metadata, records, marks, free, available });
        REGION_COUNT.store(slot + 1, Ordering::Relaxed);
    }
    available
}

/// The record of a frame; `None` for what is not RAM that this module knows.
#[inline]
pub(super) fn record(frame: Frame) -> Option<&'static FrameMeta> {
    regions().find_map(|region| region.records.get(frame))
}

/// The records of its region.
#[inline]
pub(super) fn records_with(frame: Frame) -> Option<FrameMetaTable<'static>> {
    regions().map(|region| region.records).find(|records| records.get(frame).is_some())
}

/// Takes frames for the library: one out of this processor's stash, or a run, which is searched for.
#[inline(always)]
pub(super) fn take(request: FrameRequest) -> Option<Frame> {
    let kernels = request.purpose == FrameUse::Page && FOR_KERNEL.here().load(Ordering::Relaxed);
    let mark = if kernels { KERNELS } else { TAKEN };
    let first = if request.count == 1 && request.alignment == 0 {
        let spare = stash::take(refill)?;
        spare.mark.store(mark, Ordering::Relaxed);
        spare.frame
    } else {
        take_run(request, mark)?
    };
    if request.zeroed && !stays_as_it_is(request.purpose) {
        // SAFETY: the frames were just taken from the free ones, so nobody else uses them, and the linear map shows them.
        unsafe { linear::clear(first, request.count) };
    }
    Some(Frame::new(first))
}

/// Takes free frames out of the first bitmap that has any, and says how many. O(levels) and a few steps for each.
#[cold]
#[inline(never)]
fn refill(places: &mut [Option<Spare>]) -> usize {
    regions()
        .filter(|region| region.available.load(Ordering::Relaxed) != 0)
        .map(|region| {
            let mut free = region.free.lock();
            let mut filled = 0;
            for place in places.iter_mut() {
                let Some(index) = free.take() else { break };
                *place = region.marks.get(index as usize).map(|mark| Spare { frame: region.first + index, mark });
                filled += 1;
            }
            // The last is taken first: frames that are taken one after another are neighbours, in ascending order.
            if let Some(filled) = places.get_mut(..filled) {
                filled.reverse();
            }
            region.available.store(free.free(), Ordering::Relaxed);
            filled
        })
        .find(|filled| *filled != 0)
        .unwrap_or(0)
}

/// Takes a run, and gives the number of its first frame. What keeps it apart may lie in stashes.
#[inline(never)]
fn take_run(request: FrameRequest, mark: u8) -> Option<u64> {
    let search = || {
        regions().filter(|region| region.available.load(Ordering::Relaxed) >= request.count).find_map(|region| {
            let mut free = region.free.lock();
            let index = free.take_run(request.count, request.alignment, region.first)?;
            region.available.store(free.free(), Ordering::Relaxed);
            Some((region, index))
        })
    };
    let (region, index) = search().or_else(|| {
        stash::empty_all(put_all_back);
        search()
    })?;
    let marks = region.marks.iter().skip(index as usize).take(request.count as usize);
    marks.for_each(|each| each.store(mark, Ordering::Relaxed));
    Some(region.first + index)
}

/// Makes a frame free in its region's bitmap, whose count of free frames is the caller's to note.
///
/// # Panics
///
/// For one that is free there.
fn put_back_in(region: &Region, free: &mut FrameBitmap<'_>, index: u64) {
    if let Err(error) = free.give(index) {
        panic!("frame {:#x} was freed and is free: {error}", region.first + index);
    }
}

/// Takes all of these out, and makes them free in their bitmaps, each of which is locked once for as many as follow one another.
#[cold]
#[inline(never)]
fn put_all_back(spares: &mut [Option<Spare>]) {
    let mut spares = spares.iter_mut().filter_map(Option::take).peekable();
    while let Some(spare) = spares.next() {
        let Some((region, index)) = find(spare.frame) else {
            panic!("frame {:#x} was freed and is no RAM", spare.frame)
        };
        let mut free = region.free.lock();
        put_back_in(region, &mut free, index);
        let index_in = |spare: &Spare| {
            let index = spare.frame.wrapping_sub(region.first);
            (index < region.records.len() as u64).then_some(index)
        };
        while let Some(spare) = spares.next_if(|spare| index_in(spare).is_some()) {
            put_back_in(region, &mut free, spare.frame - region.first);
        }
        region.available.store(free.free(), Ordering::Relaxed);
    }
}

/// Whether a test wants to see what is found in frames that nobody clears. The kernel's own pages are not concerned: its heap relies on zeros.
fn stays_as_it_is(purpose: FrameUse) -> bool {
    match purpose {
        FrameUse::Page => weakness::lacks(Defence::ZeroedPages) && !FOR_KERNEL.here().load(Ordering::Relaxed),
        FrameUse::Table => weakness::lacks(Defence::ZeroedTables),
        _ => false,
    }
}

impl Region {
    fn is_kernels(&self, index: u64) -> bool {
        self.marks.get(index as usize).is_some_and(|mark| mark.load(Ordering::Relaxed) == KERNELS)
    }
}

/// Takes frames back.
///
/// # Safety
///
/// They were taken, and nothing refers to them any more.
///
/// # Panics
///
/// For a frame that is not out: the caller freed it twice or never had it, and whatever it is used for by now must
/// not be damaged any further.
#[inline]
pub(super) unsafe fn give(first: Frame, count: u64) {
    if count == 1 {
        give_one(first.number());
    } else {
        give_run(first.number(), count);
    }
}

/// The same for frames that were taken one by one: a few of them go where they came from.
///
/// # Safety
///
/// As for [`give`].
#[inline]
pub(super) unsafe fn give_neighbours(first: Frame, count: u64) {
    if count < stash::BATCH as u64 {
        give_few(first.number(), count);
    } else {
        give_run(first.number(), count);
    }
}

#[inline(never)]
fn give_one(frame: u64) {
    match mark_free(frame) {
        Ok(mark) => stash::give_all([Spare { frame, mark }], put_all_back),
        Err(why) => refuse(frame, why),
    }
}

/// A few side by side go to the stash, which is locked once for all of them.
#[inline(never)]
fn give_few(first: u64, count: u64) {
    let spares = (first..first + count).map(|frame| match mark_free(frame) {
        Ok(mark) => Spare { frame, mark },
        Err(why) => refuse(frame, why),
    });
    stash::give_all(spares, put_all_back);
}

/// Frames side by side go to their bitmap at once, which is locked once for all of them that lie in one region.
#[inline(never)]
fn give_run(mut first: u64, mut count: u64) {
    while count != 0 {
        let Some((region, index)) = find(first) else { refuse(first, "is no RAM") };
        if index < region.metadata {
            refuse(first, "holds the records of its region");
        }
        let here = count.min(region.records.len() as u64 - index);
        let Some(marks) = region.marks.get(index as usize..(index + here) as usize) else { refuse(first, "is no RAM") };
        // Looked at together: which of them it was changes nothing for who freed it.
        let before = marks.iter().fold(0, |before, mark| before | mark.swap(FREE, Ordering::Relaxed));
        if before & FREE != 0 {
            refuse(first, "is free, or one that was freed with it");
        }
        let mut free = region.free.lock();
        if let Err(error) = free.give_run(index, here) {
            panic!("frames from {first:#x} on were freed and are free: {error}");
        }
        region.available.store(free.free(), Ordering::Relaxed);
        (first, count) = (first + here, count - here);
    }
}

/// Marks a frame that somebody has as free, and gives the mark; or why that cannot be.
#[inline]
fn mark_free(frame: u64) -> Result<&'static AtomicU8, &'static str> {
    let (region, index) = find(frame).ok_or("is no RAM")?;
    if index < region.metadata {
        return Err("holds the records of its region");
    }
    let mark = region.marks.get(index as usize).ok_or("is no RAM")?;
    if mark.swap(FREE, Ordering::Relaxed) == FREE { Err("is free") } else { Ok(mark) }
}

#[cold]
#[inline(never)]
fn refuse(frame: u64, why: &str) -> ! {
    panic!("frame {frame:#x} was freed and {why}")
}

/// Runs `what` with the pages that it takes counted as the kernel's own.
pub(super) fn for_kernel<T>(what: impl FnOnce() -> T) -> T {
    without_interrupts(|| {
        let for_kernel = FOR_KERNEL.here();
        let before = for_kernel.load(Ordering::Relaxed);
        for_kernel.store(true, Ordering::Relaxed);
        let result = what();
        for_kernel.store(before, Ordering::Relaxed);
        result
    })
}

/// What the frames are counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct FrameCounts {
    /// All that are RAM and were handed to the kernel, its metadata included.
    pub(crate) total: u64,
    /// Nobody has them.
    pub(crate) free: u64,
    /// They hold the records of frames.
    pub(crate) metadata: u64,
    /// By the library's use, in the order of [`FrameUse::ALL`].
    pub(crate) by_use: [u64; FrameUse::ALL.len()],
    /// Of the pages, those that are the kernel's own.
    pub(crate) kernel_pages: u64,
}

/// Counts the frames. O(frames).
pub(crate) fn counts() -> FrameCounts {
    let mut counts = FrameCounts::default();
    for region in regions() {
        counts.total += region.records.len() as u64;
        counts.metadata += region.metadata;
        counts.free += region.available.load(Ordering::Relaxed);
        for index in region.metadata..region.records.len() as u64 {
            let Some(meta) = region.records.get(Frame::new(region.first + index)) else { continue };
            let recorded = meta.recorded_use();
            if let Some(count) = counts.by_use.get_mut(recorded as usize) {
                *count += 1;
            }
            counts.kernel_pages += u64::from(recorded == FrameUse::Page && region.is_kernels(index));
        }
    }
    counts.free += stash::count();
    counts
}

/// How many frames are taken, metadata included. O(regions).
pub(crate) fn in_use() -> u64 {
    let of_bitmaps: u64 =
        regions().map(|region| region.records.len() as u64 - region.available.load(Ordering::Relaxed)).sum();
    of_bitmaps.saturating_sub(stash::count())
}

/// How many frames are free. O(regions).
pub(crate) fn available() -> u64 {
    regions().map(|region| region.available.load(Ordering::Relaxed)).sum::<u64>() + stash::count()
}

/// What a frame of RAM is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It holds records of frames.
    Metadata,
    /// A page of the kernel's own.
    KernelPage,
    /// Whatever the library's record says.
    Library(FrameUse),
}

/// What a frame is used for; `None` if it is in no region.
pub(super) fn owner(frame: u64) -> Option<Owner> {
    let (region, index) = find(frame)?;
    if index < region.metadata {
        return Some(Owner::Metadata);
    }
    let recorded = region.records.get(Frame::new(frame))?.recorded_use();
    let kernels = recorded == FrameUse::Page && region.is_kernels(index);
    Some(if kernels { Owner::KernelPage } else { Owner::Library(recorded) })
}
