//! What exists once on a machine: the MMU, the pools, the registry of memory types, the tags of spaces, the counters.
//!
//! The embedder makes one [`Machine`] and keeps it where its [`Platform`] handle finds it. Making it needs no memory; before
//! there are frames, the pools can be lent static pages ([`Machine::lend`]).
//!
//! # The registry of memory types
//!
//! The manuals forbid mapping one frame with two memory types at once (Intel SDM volume 3, 13.12.4: "aliasing").
//! Whoever maps physical memory by its address (a fixed area, the kernel's linear map) enters it here first; two entries
//! that overlap and disagree are refused.

mod accounts;
mod tags;

use core::alloc::Layout;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use self::accounts::Accounts;
pub(crate) use self::tags::Tags;
use crate::addr::{Frame, FrameRange};
use crate::frame::{CLASS_SIZES, CLASSES, FrameRequest, FrameUse, Frames, Need, OutOfFrames, Pool, Reserve, free_one};
use crate::lock::{LeafLocks, Lock, Rank, ReaderSlots};
use crate::paging::{MemoryType, Mmu, Tag};
use crate::platform::Platform;
use crate::static_vec::{GrowthMemory, OutOfMemory};
use crate::vm_area::AccountInner;
use crate::word::{AtomicU32, AtomicUsize, Ordering};

/// Memory for a [`StaticVec`](crate::static_vec::StaticVec) that grows: whole frames, consecutive, of the platform.
///
/// ```text
///   | first frame's number | elements ...                    |
///   0                      64                    whole frames
/// ```
#[derive(Clone, Debug)]
pub struct FrameMemory<P>(P);

/// Bytes before the elements, which keep the number of the first frame.
const VECTOR_HEADER: usize = 64;

impl<P: Frames> FrameMemory<P> {
    /// Memory out of the frames of `platform`.
    pub const fn new(platform: P) -> Self {
        Self(platform)
    }

    /// Bytes of a block that are not the vector's.
    pub(crate) const HEADER: usize = VECTOR_HEADER;

    fn frames_for(layout: Layout) -> Option<u64> {
        let bytes = layout.size().checked_add(VECTOR_HEADER)? as u64;
        (layout.align() <= VECTOR_HEADER).then(|| bytes.div_ceil(1 << P::PAGE_SHIFT))
    }
}

// SAFETY: consecutive frames that were just allocated are exclusive, reachable one after another (checked) and aligned
// to the page size, so what lies behind the header is aligned to 64 bytes; they stay so until they are freed.
unsafe impl<P: Frames> GrowthMemory for FrameMemory<P> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let lacking = OutOfMemory::new(layout.size());
        let count = Self::frames_for(layout).ok_or(lacking)?;
        let first = self.0.allocate_frames(FrameRequest::run(FrameUse::Vector, count, 0)).ok_or(lacking)?;
        let start = NonNull::new(self.0.frame_pointer(first)).ok_or(lacking)?;
        for index in 0..count {
            let frame = first.add(index);
            let recorded = self.0.frame_meta(frame).is_some_and(|meta| meta.begin(FrameUse::Vector).is_ok());
            let follows = self.0.frame_pointer(frame) == start.as_ptr().wrapping_add((index as usize) << P::PAGE_SHIFT);
            if !recorded || !follows {
                // An embedder that breaks its word costs memory (the run is lost), nothing else.
                return Err(lacking);
            }
        }
        // SAFETY: the frames are exclusive and reachable as one block, larger than the header.
        unsafe {
            start.cast::<u64>().write(first.number());
            Ok(start.add(VECTOR_HEADER))
        }
    }

    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        let Some(count) = Self::frames_for(layout) else { return };
        // SAFETY: the block was given out by `allocate`, which wrote the header before it.
        let first = Frame::new(unsafe { block.sub(VECTOR_HEADER).cast::<u64>().read() });
        for index in 0..count {
            let frame = first.add(index);
            if self.0.frame_meta(frame).is_none_or(|meta| meta.end(frame, FrameUse::Vector).is_err()) {
                return;
            }
        }
        // SAFETY: the frames were allocated together by `allocate`, and the vector gave the block up.
        unsafe { self.0.free_frames(first, count) };
    }
}

/// One entry of the registry: an object of a pool, linked.
struct Registered {
    next: Option<NonNull<Registered>>,
    range: FrameRange,
    memory: MemoryType,
}

/// The registry's entries, and who needs the zero frame.
struct Registry {
    first: Option<NonNull<Registered>>,
    /// The areas that show the zero frame.
    zero_users: usize,
}

// SAFETY: the entries belong to the registry and are reached only under its lock.
unsafe impl Send for Registry {}
/// Physical memory could not be entered in the registry of memory types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RegistryError {
    /// Some of the frames are mapped with another memory type already.
    Conflict {
        /// What is registered.
        registered: FrameRange,
        /// With which memory type.
        memory: MemoryType,
        /// The memory type that was asked for.
        wanted: MemoryType,
    },
    /// The platform's machine is another one.
    OtherMachine,
    /// The registry could not grow.
    OutOfFrames(OutOfFrames),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { registered, memory, wanted } => write!(
                f,
                "{registered:?} are mapped as {memory} already, so they cannot be mapped as {wanted}: drop the other \
                 mapping or use its memory type"
            ),
            Self::OtherMachine => f.write_str("the platform belongs to another machine: give this machine's"),
            Self::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RegistryError {}

/// What a machine counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MachineCounters {
    /// Flush values that were dropped before they were complete, and spaces that were dropped while active: what they hold is
    /// lost.
    pub dropped_flushes: usize,
    /// Frames that those flush values hold for ever.
    pub quarantined_frames: usize,
    /// Frames (or lent pages) of the pools.
    pub pool_pages: u64,
    /// Objects of the pools that are in use.
    pub pool_objects: u64,
    /// Frees that were refused because the frame's recorded use contradicted them.
    pub refused_frees: usize,
    /// Spaces that have a tag of their own. It stays below [`Mmu::tags`](crate::paging::Mmu::tags), and below 4096; once it
    /// has come that far, further spaces run without one.
    pub tags: usize,
}

/// How many CPUs' lock orders are watched in debug builds.
const WATCHED_CPUS: usize = 64;

/// What exists once: made by the embedder, found through its [`Platform`].
pub struct Machine<P: Platform> {
    mmu: P::Mmu,
    pools: [Pool<P::RawMutex>; CLASSES],
    registry: Lock<P, Registry>,
    tags: Tags,
    /// The zero frame's number, plus one; 0 while there is none. Written under the registry's lock.
    zero: AtomicUsize,
    accounts: Accounts<P>,
    /// What CPUs hold while they read indexes.
    readers: ReaderSlots<P::RawMutex>,
    leaves: LeafLocks<P>,
    /// How many clones were begun.
    clones: AtomicUsize,
    /// How many areas were asked for their number.
    areas: AtomicU32,
    dropped_flushes: AtomicUsize,
    quarantined_frames: AtomicUsize,
    refused_frees: AtomicUsize,
    /// Per CPU, a bit for the rank of each lock that it holds.
    held: [AtomicU32; WATCHED_CPUS],
}

impl<P: Platform> Machine<P> {
    /// The machine with this MMU. Takes no memory.
    pub const fn new(mmu: P::Mmu) -> Self {
        let [a, b, c, d, e, f, g, h, i] = CLASS_SIZES;
        Self {
            mmu,
            pools: [
                Pool::new(a),
                Pool::new(b),
                Pool::new(c),
                Pool::new(d),
                Pool::new(e),
                Pool::new(f),
                Pool::new(g),
                Pool::new(h),
                Pool::new(i),
            ],
            registry: Lock::new(Rank::Registry, Registry { first: None, zero_users: 0 }),
            tags: Tags::new(),
            zero: AtomicUsize::new(0),
            accounts: Accounts::new(),
            readers: ReaderSlots::new(),
            leaves: LeafLocks::new(),
            clones: AtomicUsize::new(0),
            areas: AtomicU32::new(0),
            dropped_flushes: AtomicUsize::new(0),
            quarantined_frames: AtomicUsize::new(0),
            refused_frees: AtomicUsize::new(0),
            held: [const { AtomicU32::new(0) }; WATCHED_CPUS],
        }
    }

    /// Its MMU.
    #[inline]
    pub const fn mmu(&self) -> P::Mmu {
        self.mmu
    }

    /// Lends pages to the pools for ever, so that areas and windows can be made before there are frames. Each pool gets
    /// every eighth page. What is not a whole aligned page is left unused. Gives how many pages were taken.
    pub fn lend(&self, memory: &'static mut [MaybeUninit<u8>]) -> usize {
        let size = 1_usize << P::PAGE_SHIFT;
        let skip = memory.as_ptr().align_offset(size);
        let pages = memory.len().saturating_sub(skip) >> P::PAGE_SHIFT;
        let start = memory.as_mut_ptr().cast::<u8>().wrapping_add(skip);
        for (index, pool) in (0..pages).zip(self.pools.iter().cycle()) {
            if let Some(page) = NonNull::new(start.wrapping_add(index << P::PAGE_SHIFT)) {
                // SAFETY: the page lies in memory that is lent exclusively for ever, and is aligned and whole.
                unsafe { pool.lend(page, P::PAGE_SHIFT) };
            }
        }
        pages
    }

    /// What is counted. O(size classes and tags).
    pub fn counters(&self) -> MachineCounters {
        let (mut pool_pages, mut pool_objects) = (0, 0);
        for pool in &self.pools {
            let (pages, objects) = pool.usage();
            pool_pages += pages;
            pool_objects += objects;
        }
        MachineCounters {
            dropped_flushes: self.dropped_flushes.load(Ordering::Relaxed),
            quarantined_frames: self.quarantined_frames.load(Ordering::Relaxed),
            pool_pages,
            pool_objects,
            refused_frees: self.refused_frees.load(Ordering::Relaxed),
            tags: self.tags.in_use(),
        }
    }

    /// Enters frames in the registry of memory types, in which overlapping entries must agree. O(entries).
    ///
    /// # Errors
    /// A conflict with an entry of another memory type, no memory for the entry, or a platform whose machine this is not. Nothing was changed.
    pub fn register(&self, platform: &P, range: FrameRange, memory: MemoryType) -> Result<(), RegistryError> {
        if !core::ptr::eq(self, platform.machine()) {
            return Err(RegistryError::OtherMachine);
        }
        let mut reserve = Reserve::new(platform);
        reserve.top_up(&Need::object::<Registered>()).map_err(RegistryError::OutOfFrames)?;
        let mut registry = self.registry.lock(platform);
        let mut at = registry.first;
        while let Some(entry) = at {
            // SAFETY: entries live as long as they are linked, and the registry is locked.
            let entry = unsafe { entry.as_ref() };
            if entry.memory != memory && entry.range.overlaps(range) {
                return Err(RegistryError::Conflict { registered: entry.range, memory: entry.memory, wanted: memory });
            }
            at = entry.next;
        }
        if let Some(object) = reserve.take_object::<Registered>() {
            // SAFETY: the object was just taken for this type, and nobody else knows it.
            unsafe { object.write(Registered { next: registry.first, range, memory }) };
            registry.first = Some(object);
        }
        Ok(())
    }

    /// Checks that no entry maps RAM with another memory type. RAM is told by its metadata, at both ends of an entry. O(entries).
    pub(crate) fn check_ram(&self, platform: &P, wanted: MemoryType) -> Result<(), RegistryError> {
        let registry = self.registry.lock(platform);
        let mut at = registry.first;
        while let Some(entry) = at {
            // SAFETY: entries live as long as they are linked, and the registry is locked.
            let Registered { next, range, memory } = *unsafe { entry.as_ref() };
            let ends = [range.first(), range.first().add(range.count() - 1)];
            if memory != wanted && ends.into_iter().any(|frame| platform.frame_meta(frame).is_some()) {
                return Err(RegistryError::Conflict { registered: range, memory, wanted });
            }
            at = next;
        }
        Ok(())
    }

    /// Takes one entry of exactly these frames and this memory type out again. False if there was none.
    pub fn unregister(&self, platform: &P, range: FrameRange, memory: MemoryType) -> bool {
        if !core::ptr::eq(self, platform.machine()) {
            return false;
        }
        let mut reserve = Reserve::new(platform);
        let mut registry = self.registry.lock(platform);
        let mut previous: Option<NonNull<Registered>> = None;
        let mut at = registry.first;
        while let Some(object) = at {
            // SAFETY: entries live as long as they are linked, and the registry is locked.
            let entry = unsafe { object.as_ref() };
            if entry.memory == memory && entry.range == range {
                match previous {
                    // SAFETY: as above; no reference to the previous entry is alive.
                    Some(mut previous) => unsafe { previous.as_mut().next = entry.next },
                    None => registry.first = entry.next,
                }
                drop(registry);
                // SAFETY: the entry is unlinked and has nothing to drop.
                unsafe { reserve.put_object(object) };
                return true;
            }
            previous = at;
            at = entry.next;
        }
        false
    }

    #[inline]
    pub(crate) fn pools(&self) -> &[Pool<P::RawMutex>; CLASSES] {
        &self.pools
    }

    #[inline]
    pub(crate) const fn reader_slots(&self) -> &ReaderSlots<P::RawMutex> {
        &self.readers
    }

    /// What faults hold that have an area beside one another.
    pub(crate) const fn leaf_locks(&self) -> &LeafLocks<P> {
        &self.leaves
    }

    /// Gives an account its number.
    pub(crate) fn number_account(&self, platform: &P, account: NonNull<AccountInner>) -> Result<u32, OutOfFrames> {
        self.accounts.number(platform, account)
    }

    /// The account with a number that a frame's record holds.
    pub(crate) fn account(&self, platform: &P, number: u32) -> Option<NonNull<AccountInner>> {
        self.accounts.account(platform, number)
    }

    /// Takes an account's number back.
    pub(crate) fn take_account_back(&self, platform: &P, number: u32) {
        self.accounts.take_back(platform, number);
    }

    /// A tag for a space of the host's format; tag 0 if there is none left.
    pub(crate) fn take_tag(&self) -> Tag {
        self.tags.take(self.mmu.tags())
    }

    /// Takes a space's tag back. No CPU has its root loaded, and no flush of it is outstanding.
    pub(crate) fn give_tag_back(&self, tag: Tag) {
        self.tags.give_back(tag);
    }

    /// The frame that shows what pages hold that do not exist: zeros, never written to. It is there while somebody [needs](Self::need_zero_frame) it.
    pub(crate) fn zero_frame(&self) -> Option<Frame> {
        Some(Frame::new(self.zero.load(Ordering::Relaxed).checked_sub(1)? as u64))
    }

    /// Counts one more area that shows the zero frame. The first has it taken from the reserve; `None` if that holds no page.
    pub(crate) fn need_zero_frame(&self, platform: &P, reserve: &mut Reserve<P>) -> Option<Frame> {
        let mut registry = self.registry.lock(platform);
        if registry.zero_users == 0 {
            let frame = reserve.take_page()?;
            let number = usize::try_from(frame.number()).ok().and_then(|number| number.checked_add(1));
            let meta = platform.frame_meta(frame);
            let (Some(number), Some(Ok(()))) = (number, meta.map(|meta| meta.end(frame, FrameUse::Page))) else {
                reserve.put_page(frame);
                return None;
            };
            let _ = meta.map(|meta| meta.begin(FrameUse::Machine));
            self.zero.store(number, Ordering::Relaxed);
        }
        registry.zero_users += 1;
        self.zero_frame()
    }

    /// Counts one area less; with the last the zero frame is given back. No TLB leads to it from that area.
    pub(crate) fn release_zero_frame(&self, platform: &P) {
        let frame = {
            let mut registry = self.registry.lock(platform);
            registry.zero_users = registry.zero_users.saturating_sub(1);
            if registry.zero_users != 0 {
                return;
            }
            let frame = self.zero_frame();
            self.zero.store(0, Ordering::Relaxed);
            frame
        };
        let Some(frame) = frame else { return };
        // SAFETY: nobody shows the frame any more, and it was taken out of where it is found.
        if unsafe { free_one(platform, frame, FrameUse::Machine) }.is_err() {
            self.note_refused_free();
        }
    }

    /// A number that no other clone has; never 0.
    pub(crate) fn next_clone(&self) -> usize {
        self.clones.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// A number that no other area has, of the 2^32 that ask before and after; never 0.
    pub(crate) fn next_area(&self) -> u32 {
        self.areas.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
    }

    /// Counts a flush value that was dropped with `frames` frames in it.
    pub(crate) fn note_dropped_flush(&self, frames: u64) {
        self.dropped_flushes.fetch_add(1, Ordering::Relaxed);
        self.quarantined_frames.fetch_add(frames as usize, Ordering::Relaxed);
    }

    /// Counts a free that was refused.
    pub(crate) fn note_refused_free(&self) {
        self.refused_frees.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks in debug builds that this CPU holds no lock of this or a higher rank, and notes the lock.
    #[inline]
    pub(crate) fn note_locked(&self, platform: &P, rank: Rank) {
        if cfg!(debug_assertions) {
            if let Some(held) = self.held.get(platform.cpu()) {
                // Who holds a lock stays on its CPU, so nobody else changes the CPU's word.
                let before = held.load(Ordering::Relaxed);
                held.store(before | 1 << rank as u32, Ordering::Relaxed);
                debug_assert!(before >> rank as u32 == 0, "{rank:?} locked out of order: {before:#b} held");
            }
        }
    }

    /// Notes in debug builds that the lock was given up.
    #[inline]
    pub(crate) fn note_unlocked(&self, platform: &P, rank: Rank) {
        if cfg!(debug_assertions) {
            if let Some(held) = self.held.get(platform.cpu()) {
                held.store(held.load(Ordering::Relaxed) & !(1 << rank as u32), Ordering::Relaxed);
            }
        }
    }
}

impl<P: Platform> fmt::Debug for Machine<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("mmu", &self.mmu).field("counters", &self.counters()).finish_non_exhaustive()
    }
}
