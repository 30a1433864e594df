//! Physical memory: frames of RAM with their metadata, memory that is not RAM, and an allocator that provokes mistakes.
//!
//! ```text
//!   a frame of RAM:   never used --+                       +--> given out: zero, or the garbage pattern
//!                                  +--> on the free list --+
//!                     poisoned   --+         ^
//!                                            +------------- freed: filled with the poison pattern
//! ```
//!
//! The frame freed last is given out first, so that whoever still uses it meets its new owner at once. A frame that
//! is given out must hold exactly what it held when it became free: anything else is a write into a free frame.
//!
//! Each frame remembers the tick of a clock at which it was given out (0 while it is free). Frames given out together
//! share their tick, and what was remembered of a frame before its tick is about an earlier life of it.
//!
//! What is kept of each frame costs the host memory only from the first time on that the frame is given out.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::hollow::{Contents, Hollow};
use super::judge::{Judge, ViolationKind};
use super::lock::Mutex;
use crate::addr::{Frame, FrameRange};
use crate::frame::{FrameMeta, FrameRequest, FrameUse};
use crate::word;

/// What fills a free frame. Present, as an entry, so that a walk through a freed table goes astray instead of stopping.
pub(super) const POISON: u64 = 0x6b6b_6b6b_6b6b_6b6b;
/// What fills a frame that was not asked for zeroed.
pub(super) const GARBAGE: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// So many values whose bytes are all zero, backed by the host only when touched.
///
/// # Safety
/// Zeros are a valid `T`.
pub(super) unsafe fn zeroed<T>(count: usize) -> Box<[T]> {
    let layout = Layout::array::<T>(count).expect("more frames than the host can address");
    if layout.size() == 0 {
        return Box::default();
    }
    // SAFETY: the layout is not of size 0.
    let Some(start) = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) }) else {
        alloc::alloc::handle_alloc_error(layout)
    };
    // SAFETY: just allocated with the layout of such a slice, as boxes are, and valid as the caller says.
    unsafe { Box::from_raw(core::ptr::slice_from_raw_parts_mut(start.as_ptr().cast(), count)) }
}

/// The bytes of frames, which everybody reaches as atomic words; zero at first, and backed by the host only when touched.
struct Pages {
    /// What was allocated, from which `base` is the first aligned page.
    whole: NonNull<u8>,
    base: NonNull<AtomicU64>,
    count: usize,
    layout: Layout,
    /// A frame has 2^`shift` words.
    shift: u32,
}

// SAFETY: the memory belongs to this value alone and is only ever reached as atomics.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(count: usize, page_shift: u32) -> Self {
        assert!(count > 0, "memory of no frames");
        // A page more than needed, instead of the alignment: the host's allocator clears aligned memory by hand, and thereby backs
        // all of it.
        let size = count.checked_add(1).and_then(|count| count.checked_mul(1 << page_shift));
        let layout = size.and_then(|size| Layout::from_size_align(size, align_of::<AtomicU64>()).ok());
        let layout = layout.expect("more frames than the host can address");
        // SAFETY: the layout is not of size 0.
        let bytes = unsafe { alloc::alloc::alloc_zeroed(layout) };
        let Some(whole) = NonNull::new(bytes) else { alloc::alloc::handle_alloc_error(layout) };
        let skipped = whole.as_ptr().align_offset(1 << page_shift);
        // SAFETY: less than a page is skipped, and there is one page more than `count`.
        let base = unsafe { whole.add(skipped) }.cast();
        Self { whole, base, count, layout, shift: page_shift - 3 }
    }

    const fn len(&self) -> usize {
        self.count
    }

    /// Where a frame's bytes begin, with the provenance of all of them, so that a run of frames can be reached through its first.
    fn pointer(&self, index: usize) -> Option<*mut AtomicU64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the frame lies within the allocation.
        Some(unsafe { self.base.as_ptr().add(index << self.shift) })
    }

    fn get(&self, index: usize) -> Option<&[AtomicU64]> {
        // SAFETY: the frame lies within the allocation, which lives as long as this value; zero bytes are valid atomics.
        Some(unsafe { core::slice::from_raw_parts(self.pointer(index)?, 1 << self.shift) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { alloc::alloc::dealloc(self.whole.as_ptr(), self.layout) }
    }
}

/// Reachable memory without metadata.
struct Device {
    frames: FrameRange,
    pages: Pages,
}

/// When allocations fail on purpose.
#[derive(Clone, Copy)]
enum FailurePlan {
    Never,
    /// So many more succeed, then none.
    After(u64),
    /// So many more succeed, one fails, the rest succeeds.
    Once(u64),
}

/// What stands for a frame in [`FreeList::serial`] while it is given out.
const GIVEN_OUT: u64 = u64::MAX;

/// The frames that are free, in the order in which they are given out.
struct FreeList {
    /// Index of a frame and the serial number of its freeing; an entry whose number is not the frame's is outdated.
    order: Vec<(usize, u64)>,
    /// Those from here on are free behind all others, unless they were given out in a run.
    fresh: usize,
    /// Per frame the number of its latest freeing: 0 before it was given out for the first time.
    serial: Box<[u64]>,
    next_serial: u64,
    count: u64,
    random: Option<u64>,
    plan: FailurePlan,
    requests: u64,
}

impl FreeList {
    fn push(&mut self, index: usize) {
        self.next_serial += 1;
        self.serial[index] = self.next_serial;
        self.order.push((index, self.next_serial));
        self.count += 1;
    }

    /// Takes a frame that is free; true for the first time.
    fn take(&mut self, index: usize) -> bool {
        self.count -= 1;
        core::mem::replace(&mut self.serial[index], GIVEN_OUT) == 0
    }

    /// Whether this request is one that shall fail.
    fn fails(&mut self) -> bool {
        self.requests += 1;
        match &mut self.plan {
            FailurePlan::Never => false,
            FailurePlan::After(0) => true,
            FailurePlan::Once(0) => {
                self.plan = FailurePlan::Never;
                true
            }
            FailurePlan::After(left) | FailurePlan::Once(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn next_random(&mut self) -> Option<u64> {
        // The xorshift generator of Marsaglia, 2003: repeatable by its seed.
        let state = self.random.as_mut()?;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        Some(*state)
    }

    /// Finds a single frame: the one freed last, or a random one.
    fn find_one(&mut self) -> Option<usize> {
        while !self.order.is_empty() {
            if let Some(random) = self.next_random() {
                let last = self.order.len() - 1;
                let chosen = (random % self.order.len() as u64) as usize;
                self.order.swap(chosen, last);
            }
            let (index, serial) = self.order.pop()?;
            if self.serial[index] == serial {
                return Some(index);
            }
        }
        while *self.serial.get(self.fresh)? != 0 {
            self.fresh += 1;
        }
        Some(self.fresh)
    }

    /// Finds the lowest run of `count` free frames whose first number is a multiple of 2^`alignment`.
    fn find_run(&self, first: u64, count: u64, alignment: u32) -> Option<usize> {
        let step = 1_u64.checked_shl(alignment)?;
        let total = self.serial.len() as u64;
        let mut candidate = first.checked_next_multiple_of(step)? - first;
        while candidate.checked_add(count)? <= total {
            let run = candidate as usize..(candidate + count) as usize;
            if self.serial[run].iter().all(|serial| *serial != GIVEN_OUT) {
                return Some(candidate as usize);
            }
            candidate = candidate.checked_add(step)?;
        }
        None
    }
}

/// Reads bytes out of words.
fn read_words(word: impl Fn(usize) -> u64, offset: usize, into: &mut [u8]) {
    let mut position = offset;
    let mut rest = into;
    if position % 8 == 0 {
        let mut words = rest.chunks_exact_mut(8);
        for bytes in &mut words {
            bytes.copy_from_slice(&word(position / 8).to_ne_bytes());
            position += 8;
        }
        rest = words.into_remainder();
    }
    while !rest.is_empty() {
        let within = position % 8;
        let count = rest.len().min(8 - within);
        let bytes = word(position / 8).to_ne_bytes();
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&bytes[within..within + count]);
        rest = later;
        position += count;
    }
}

/// What a frame number stands for on this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameState {
    /// Nothing: no memory answers there.
    Missing,
    /// Memory that is not RAM.
    Device,
    /// RAM that belongs to the allocator.
    Free,
    /// RAM that was given out at this tick of the clock.
    GivenOut(u64),
}

pub(super) struct Memory {
    first: u64,
    pages: Pages,
    meta: Box<[FrameMeta]>,
    /// Per frame the tick at which it was given out; 0 while it is free.
    given_out: Box<[AtomicU64]>,
    devices: Vec<Device>,
    /// What a pointer to a frame that does not exist leads to, once that has been reported.
    nowhere: Pages,
    free: Mutex<FreeList>,
    clock: AtomicU64,
    /// Which frames have no bytes. Only where frames hold no pattern while nobody has them, for which they need some.
    hollow: Option<Hollow>,
}

impl Memory {
    pub(super) fn new(first: u64, count: usize, devices: &[FrameRange], seed: Option<u64>, page_shift: u32) -> Self {
        let ram = FrameRange::new(Frame::new(first), count as u64).expect("the frames pass the last frame number");
        for (index, device) in devices.iter().enumerate() {
            let clashes = |other: &FrameRange| other.overlaps(*device);
            assert!(
                !clashes(&ram) && !devices[..index].iter().any(clashes),
                "the device memory {device:?} overlaps other memory"
            );
        }
        // SAFETY: zeros are valid numbers and atomics, and valid records of free frames.
        let (serial, meta, given_out) = unsafe { (zeroed::<u64>(count), zeroed(count), zeroed(count)) };
        let mut free = FreeList {
            order: Vec::new(),
            fresh: 0,
            serial,
            next_serial: 0,
            count: count as u64,
            // The generator stays at 0 for ever.
            random: seed.map(|seed| seed | 1),
            plan: FailurePlan::Never,
            requests: 0,
        };
        if seed.is_some() {
            // All are in the order, of which a random one is taken.
            free.order.extend((0..count).rev().map(|index| (index, 0)));
        }
        Self {
            first,
            pages: Pages::new(count, page_shift),
            meta,
            given_out,
            devices: devices
                .iter()
                .map(|frames| Device { frames: *frames, pages: Pages::new(frames.count() as usize, page_shift) })
                .collect(),
            nowhere: Pages::new(1, page_shift),
            free: Mutex::new(free),
            clock: AtomicU64::new(0),
            hollow: None,
        }
    }

    /// The same, whose frames hold no pattern while nobody has them.
    pub(super) fn without_patterns(self) -> Self {
        Self { hollow: Some(Hollow::new(self.pages.len())), ..self }
    }

    /// Whether a frame that nobody has holds a pattern.
    pub(super) const fn has_patterns(&self) -> bool {
        self.hollow.is_none()
    }

    #[inline]
    fn index(&self, frame: u64) -> Option<usize> {
        let index = usize::try_from(frame.checked_sub(self.first)?).ok()?;
        (index < self.pages.len()).then_some(index)
    }

    #[inline]
    fn page(&self, frame: u64) -> Option<&[AtomicU64]> {
        let (pages, index) = self.place(frame)?;
        pages.get(index)
    }

    /// Whose page a frame is, and which.
    #[inline]
    fn place(&self, frame: u64) -> Option<(&Pages, usize)> {
        if let Some(index) = self.index(frame) {
            if let (Some(hollow), Some(bytes)) = (&self.hollow, self.pages.get(index)) {
                hollow.fill(index, bytes);
            }
            return Some((&self.pages, index));
        }
        let device = self.devices.iter().find(|device| device.frames.contains(Frame::new(frame)))?;
        Some((&device.pages, (frame - device.frames.first().number()) as usize))
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    pub(super) fn state(&self, frame: u64) -> FrameState {
        match self.index(frame) {
            Some(index) => match self.given_out[index].load(Ordering::Acquire) {
                0 => FrameState::Free,
                tick => FrameState::GivenOut(tick),
            },
            None if self.page(frame).is_some() => FrameState::Device,
            None => FrameState::Missing,
        }
    }

    pub(super) fn meta(&self, frame: u64) -> Option<&FrameMeta> {
        self.index(frame).and_then(|index| self.meta.get(index))
    }

    /// What the frame is recorded as used for; `None` for what has no record.
    pub(super) fn recorded_use(&self, frame: u64) -> Option<FrameUse> {
        self.meta(frame).map(FrameMeta::recorded_use)
    }

    /// What [`pointer`](Self::pointer) gives for RAM that somebody has and that has bytes: nothing else is to be done then.
    #[inline]
    pub(super) fn pointer_in_use(&self, frame: u64) -> Option<*mut u8> {
        let index = self.index(frame)?;
        let is_in_use = self.given_out[index].load(Ordering::Acquire) != 0
            && self.hollow.as_ref().is_none_or(|hollow| hollow.has_bytes(index));
        self.pages.pointer(index).filter(|_| is_in_use).map(<*mut AtomicU64>::cast)
    }

    /// The one way from a frame to its bytes that the library is given.
    pub(super) fn pointer(&self, frame: u64) -> *mut u8 {
        let words = self.place(frame).and_then(|(pages, index)| pages.pointer(index));
        words.or_else(|| self.nowhere.pointer(0)).map_or(core::ptr::null_mut(), <*mut AtomicU64>::cast)
    }

    /// One of the 64-bit words of a frame.
    pub(super) fn word(&self, frame: u64, index: usize) -> Option<&AtomicU64> {
        self.page(frame)?.get(index)
    }

    /// One of the 64-bit words of a frame, as an entry that the hardware reads and marks: shared with the library.
    pub(super) fn entry(&self, frame: u64, index: usize) -> Option<&word::AtomicU64> {
        // SAFETY: the word lives as long as this value, and is only ever reached as an atomic.
        Some(unsafe { word::AtomicU64::from_ptr(self.word(frame, index)?.as_ptr()) })
    }

    /// One of the 32-bit words of a frame, likewise.
    pub(super) fn half_entry(&self, frame: u64, index: usize) -> Option<&word::AtomicU32> {
        let word = self.page(frame)?.get(index / 2)?;
        let halves = core::ptr::from_ref(word).cast::<u32>().cast_mut();
        // SAFETY: one half of the word, which lives as long as this value. A table of 32-bit entries is only ever reached by
        // halves; who looks for the allocator's patterns reads whole words, as the hosts that this runs on permit.
        Some(unsafe { word::AtomicU32::from_ptr(halves.add(index % 2)) })
    }

    /// How many 64-bit words a frame has.
    pub(super) const fn words(&self) -> usize {
        1 << self.nowhere.shift
    }

    /// Reads bytes of a frame as a CPU does: never torn within a byte, whoever else writes.
    pub(super) fn read(&self, frame: u64, offset: usize, into: &mut [u8]) {
        match self.hollow_contents(frame) {
            Some(contents) => read_words(|index| contents.word(index), offset, into),
            None => match self.page(frame) {
                Some(page) => read_words(|index| page[index].load(Ordering::Acquire), offset, into),
                None => into.fill(0xff),
            },
        }
    }

    /// Writes bytes of a frame as a CPU does: neighbouring bytes that others write keep what the others wrote.
    pub(super) fn write(&self, frame: u64, offset: usize, from: &[u8]) {
        if self.store_hollow(frame, offset, from) {
            return;
        }
        let Some(page) = self.page(frame) else { return };
        if let (0, Ok(word)) = (offset % 8, from.try_into()) {
            return page[offset / 8].store(u64::from_ne_bytes(word), Ordering::Release);
        }
        let mut position = offset;
        let mut rest = from;
        while !rest.is_empty() {
            let within = position % 8;
            let count = rest.len().min(8 - within);
            let (now, later) = rest.split_at(count);
            let merge = |word: u64| {
                let mut bytes = word.to_ne_bytes();
                bytes[within..within + count].copy_from_slice(now);
                Some(u64::from_ne_bytes(bytes))
            };
            let _ = page[position / 8].fetch_update(Ordering::AcqRel, Ordering::Acquire, merge);
            rest = later;
            position += count;
        }
    }

    /// What a frame holds that has no bytes.
    pub(super) fn hollow_contents(&self, frame: u64) -> Option<Contents> {
        self.hollow.as_ref()?.contents(self.index(frame)?)
    }

    /// Writes to a frame that has no bytes and needs none for it. False if it has, or does.
    pub(super) fn store_hollow(&self, frame: u64, offset: usize, from: &[u8]) -> bool {
        let (Some(hollow), Some(index), Ok(word)) = (&self.hollow, self.index(frame), from.try_into()) else {
            return false;
        };
        offset % 8 == 0 && hollow.store(index, offset / 8, u64::from_ne_bytes(word))
    }

    /// Copies a frame that has no bytes. False if it has.
    pub(super) fn copy_hollow(&self, from: u64, to: u64) -> bool {
        match (&self.hollow, self.index(from), self.index(to)) {
            (Some(hollow), Some(from), Some(to)) => hollow.copy(from, to),
            _ => false,
        }
    }

    pub(super) fn allocate(&self, request: FrameRequest, judge: &Judge) -> Option<Frame> {
        let mut free = self.free.lock();
        if free.fails() || request.count == 0 {
            return None;
        }
        let start = if request.count == 1 && request.alignment == 0 {
            free.find_one()?
        } else {
            free.find_run(self.first, request.count, request.alignment)?
        };
        let run = start..start + request.count as usize;
        let tick = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        let mut problem = None;
        for index in run {
            let frame = self.first + index as u64;
            let first_time = free.take(index);
            let expected = if first_time { 0 } else { POISON };
            let Some(words) = self.pages.get(index) else { continue };
            let written = || words.iter().position(|word| word.load(Ordering::Acquire) != expected);
            if let Some(at) = self.has_patterns().then(written).flatten() {
                let found = words[at].load(Ordering::Acquire);
                problem = Some((
                    ViolationKind::WrittenWhileFree,
                    format!(
                        "frame {frame:#x} was written while it was free: byte {:#x} holds {found:#x} instead of \
                         {expected:#x}",
                        at * 8
                    ),
                ));
            }
            let recorded = self.meta[index].recorded_use();
            if recorded != FrameUse::Free {
                problem = Some((
                    ViolationKind::WrongFree,
                    format!("frame {frame:#x} is recorded as {recorded:?} although it was free: nobody allocated it"),
                ));
            }
            match &self.hollow {
                None => {
                    let fill = if request.zeroed { 0 } else { GARBAGE };
                    for word in words {
                        word.store(fill, Ordering::Relaxed);
                    }
                }
                Some(hollow) if request.zeroed => {
                    hollow.clear(index, first_time);
                    // Pages are reached one by one, and so is what comes alone. What else comes together may be reached by the pointer of the first.
                    if request.count != 1 && request.purpose != FrameUse::Page {
                        hollow.fill(index, words);
                    }
                }
                Some(hollow) => hollow.leave(index),
            }
            self.given_out[index].store(tick, Ordering::Release);
        }
        drop(free);
        if let Some((kind, sentence)) = problem {
            judge.report(kind, sentence);
        }
        Some(Frame::new(self.first + start as u64))
    }

    /// Takes frames back, if they are what they are said to be.
    pub(super) fn free(&self, first: Frame, count: u64, judge: &Judge) {
        let mut free = self.free.lock();
        // Nearly always it is one, and right.
        if let (1, Some(index)) = (count, self.index(first.number())) {
            let was_in_use = self.given_out[index].load(Ordering::Acquire) != 0;
            if was_in_use && !self.has_patterns() && self.meta[index].recorded_use() == FrameUse::Free {
                self.given_out[index].store(0, Ordering::Release);
                return free.push(index);
            }
        }
        if let Some(sentence) = self.objection(first.number(), count) {
            drop(free);
            return judge.report(ViolationKind::WrongFree, sentence);
        }
        // The lowest frame is given out first again.
        for frame in (first.number()..first.number() + count).rev() {
            let Some(index) = self.index(frame) else { continue };
            for word in self.pages.get(index).filter(|_| self.has_patterns()).unwrap_or_default() {
                word.store(POISON, Ordering::Relaxed);
            }
            self.given_out[index].store(0, Ordering::Release);
            free.push(index);
        }
    }

    fn objection(&self, first: u64, count: u64) -> Option<alloc::string::String> {
        let what = format_args!("free_frames(frame {first:#x}, count {count})");
        if count == 0 {
            return Some(format!("{what} frees nothing"));
        }
        let last = first.checked_add(count - 1);
        if self.index(first).is_none() || last.is_none_or(|last| self.index(last).is_none()) {
            return Some(format!("{what} leaves the RAM that frames are given out from"));
        }
        let FrameState::GivenOut(tick) = self.state(first) else {
            return Some(format!("{what}: frame {first:#x} is free already: a double free"));
        };
        for frame in first..first + count {
            match self.state(frame) {
                FrameState::GivenOut(other) if other == tick => {}
                FrameState::GivenOut(_) => {
                    return Some(format!("{what}: frame {frame:#x} was not given out together with frame {first:#x}"));
                }
                _ => return Some(format!("{what}: frame {frame:#x} is free already: a double free")),
            }
            match self.recorded_use(frame) {
                Some(FrameUse::Free) | None => {}
                Some(recorded) => {
                    return Some(format!("{what}: frame {frame:#x} is still recorded as {recorded:?}"));
                }
            }
        }
        None
    }

    pub(super) fn fail_after(&self, successes: u64) {
        self.free.lock().plan = FailurePlan::After(successes);
    }

    pub(super) fn fail_once(&self, successes: u64) {
        self.free.lock().plan = FailurePlan::Once(successes);
    }

    pub(super) fn fail_never(&self) {
        self.free.lock().plan = FailurePlan::Never;
    }

    pub(super) fn requests(&self) -> u64 {
        self.free.lock().requests
    }

    pub(super) fn free_count(&self) -> u64 {
        self.free.lock().count
    }

    /// How many frames are recorded for each use, and how many are given out.
    pub(super) fn counts(&self) -> FrameCounts {
        let mut uses = [0; FrameUse::ALL.len()];
        for (meta, tick) in self.meta.iter().zip(&self.given_out) {
            if tick.load(Ordering::Acquire) != 0 {
                let recorded = meta.recorded_use();
                for (count, purpose) in uses.iter_mut().zip(FrameUse::ALL) {
                    *count += u64::from(purpose == recorded);
                }
            }
        }
        FrameCounts { uses }
    }
}

/// How many of the frames that are given out are recorded for which use. Equal before and after: nothing leaked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameCounts {
    uses: [u64; FrameUse::ALL.len()],
}

impl FrameCounts {
    /// How many frames are recorded for `purpose`. For [`FrameUse::Free`]: how many are given out without a recorded
    /// use.
    pub fn of(&self, purpose: FrameUse) -> u64 {
        self.uses.iter().zip(FrameUse::ALL).filter(|(_, each)| *each == purpose).map(|(count, _)| *count).sum()
    }

    /// How many frames are given out in all.
    pub fn given_out(&self) -> u64 {
        self.uses.iter().sum()
    }
}

impl core::fmt::Debug for FrameCounts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut map = f.debug_map();
        for (count, purpose) in self.uses.iter().zip(FrameUse::ALL) {
            match purpose {
                FrameUse::Free => map.entry(&"given out without a use", count),
                purpose => map.entry(&purpose, count),
            };
        }
        map.finish()
    }
}
