//! The memory calls that programs know, as Linux has them: a thin face over [spaces](crate::vm_space).
//!
//! ```text
//!   a program's words ──► typed flags ──► Memory: argument rules, errno, regions ──► Space, Area
//!                                           (no page, no table, no lock)
//! ```
//!
//! A [`Memory`] stands beside each user space and knows what programs can see and spaces cannot: the [regions](Memory::regions) that they took for one mapping each, the
//! break, and the protection that was asked for where the format gives more. All that happens to memory is a call of the space.
//!
//! A call needs the memory exclusively, as Linux holds `mmap_lock`: keep it behind a lock at which your threads may sleep. Faults need the space alone and go on meanwhile. Flushes are completed before
//! a call returns. What is mapped by calls of the space itself is no region: it is in nobody's way, and no call but a fixed one reaches it.
//!
//! # What is the same, what is stricter, what is left out
//!
//! | call | the same as Linux | stricter | left out |
//! |---|---|---|---|
//! | [`mmap`](Memory::mmap) | private and shared, anonymous and of areas; fixed, also in place of what is there; hints; growing stacks; past the end of a file, and what it grows by | all or nothing; a page is not promised before it is there (populating may come short) | huge page sizes, `MAP_SYNC`, `MAP_UNINITIALIZED`, `MAP_32BIT` |
//! | [`munmap`](Memory::munmap) | holes, errno; pages that nothing reaches go | all or nothing | |
//! | [`mprotect`](Memory::mprotect) | errno; neighbours that agree become one | all or nothing: of a range with a hole nothing is changed | `PROT_GROWSDOWN`, `PROT_GROWSUP`, keys |
//! | [`mremap`](Memory::mremap) | shrinks, grows, moves one region or, of the same size, several with their gaps; shows shared memory twice (an old size of 0); what is there is unmapped; the old addresses kept mapped | all or nothing: what is there stays if the move is refused | several regions kept mapped at the old addresses without a fixed place; stacks kept there; what was moved away of a stack grows no more |
//! | [`madvise`](Memory::madvise) | discards, guards, fork flags, populating, large pages, errno | all or nothing: of a range with a hole nothing is changed, of one that cannot be populated whole nothing is populated | `MADV_REMOVE`, `MADV_HWPOISON`, `MADV_MERGEABLE`, `MADV_PAGEOUT`, `MADV_COLLAPSE` |
//! | [`mincore`](Memory::mincore) | errno | | |
//! | [`msync`](Memory::msync) | errno | | waiting: write-back is the pager's ([`Area::next_dirty`](crate::vm_area::Area::next_dirty)) |
//! | [`mlock`](Memory::mlock), [`munlock`](Memory::munlock), [`mlockall`](Memory::mlockall), [`munlockall`](Memory::munlockall) | pages are there and stay | all or nothing | limits by resource, locking on fault |
//! | [`brk`](Memory::brk) | grows, shrinks, gives what it was if it cannot | | |
//! | [`mseal`](Memory::mseal) | errno | discarding is refused also where the program could write the memory | |
//! | [`fork`](Memory::fork) | copies on write, shared memory, what is kept from a child or wiped for it, guards | | |
//! | [`copy_in`](Memory::copy_in), [`copy_out`](Memory::copy_out) | `process_vm_readv`, `process_vm_writev`: what was copied before the first page that is refused | | several pieces at once: one call for each |
//!
//! *All or nothing* also when memory runs out: a call that is refused changed nothing that a program can see. (Where Linux has begun, it stops half way.)
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use vmcore::paging::Mmu;
//! use vmcore::posix::{Backing, Errno, MapFlags, Memory, Protection};
//! use vmcore::vm_space::Space;
//! use vmcore::{Platform, sim::Sim};
//! let sim = Sim::builder().build();
//! let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
//! let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
//! let space = Space::user(&kernel, Default::default()).unwrap();
//! let mut memory = Memory::new(&sim, Default::default());
//! let (data, flags) = (Protection::READ | Protection::WRITE, MapFlags::PRIVATE | MapFlags::ANONYMOUS);
//! let start = memory.mmap(&space, 0, 0x3000, data, flags, Backing::Anonymous).unwrap();
//! memory.mprotect(&space, start + 0x1000, 0x1000, Protection::READ).unwrap();
//! assert_eq!(memory.regions().count(), 3);
//! assert_eq!(memory.mprotect(&space, start, 0x4000, data), Err(Errno::NoMemory));
//! memory.munmap(&space, start, 0x3000).unwrap();
//! # }
//! ```

mod advise;
mod copy;
mod errno;
mod flags;
mod fork;
mod lock;
mod map;
mod protect;
mod regions;
mod remap;
mod signal;

use core::fmt;

pub use self::errno::Errno;
pub use self::flags::{Advice, MapFlags, Protection, RemapFlags, SyncFlags};
pub use self::map::Backing;
use self::regions::{Region, RegionFlags, Regions};
pub use self::signal::Signal;
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::paging::{Access, Leaf, Mmu};
use crate::platform::Platform;
use crate::vm_space::{Space, SpaceError};

/// What the calls know of a program's memory beside its space.
pub struct Memory<P: Platform> {
    regions: Regions<P>,
    /// What areas that the calls make are given.
    data: P::AreaData,
    /// The heap: where it begins and ends, in bytes.
    heap: Option<(u64, u64)>,
    /// Where addresses are found that nobody asks for.
    within: Option<PageRange>,
    /// Whether what is mapped from now on is locked.
    locks_new: bool,
    next_object: u64,
    /// Whether something was mapped that grows.
    has_stacks: bool,
}

/// What a program took for one mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RegionInfo {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What the program asked to be allowed.
    pub protection: Protection,
    /// Whether others see what is written to it.
    pub shared: bool,
    /// Whether it is backed by no area of the embedder's.
    pub anonymous: bool,
}

/// Room that is left below a stack, in pages.
const STACK_GAP_PAGES: u64 = 256;

impl<P: Platform> Memory<P> {
    /// For a space that is empty. Areas that the calls make are given `data`.
    pub fn new(platform: &P, data: P::AreaData) -> Self {
        Self {
            regions: Regions::new(platform),
            data,
            heap: None,
            within: None,
            locks_new: false,
            next_object: 1,
            has_stacks: false,
        }
    }

    /// Has addresses be found within these alone, where a program leaves it to the kernel: the highest that are free. All of the space if never said.
    pub fn place_within(&mut self, limits: PageRange) {
        self.within = Some(limits);
    }

    /// The regions, in order of addresses. Those of stacks are as large as the last call found them that looked there.
    pub fn regions(&self) -> impl Iterator<Item = RegionInfo> + '_ {
        self.regions.iter().map(|region| RegionInfo {
            start: region.start,
            size: region.end - region.start,
            protection: region.protection,
            shared: !region.is_private(),
            anonymous: region.object & 1 != 0 || region.object == 0,
        })
    }

    const PAGE: u64 = 1 << P::PAGE_SHIFT;

    /// A length in whole pages; `None` if that is no number.
    fn whole_pages(length: u64) -> Option<u64> {
        Some(length.checked_add(Self::PAGE - 1)? & !(Self::PAGE - 1))
    }

    fn is_aligned(address: u64) -> bool {
        address & (Self::PAGE - 1) == 0
    }

    /// The first address behind the programs'.
    fn top(space: &Space<P>) -> u64 {
        space.bounds().last().as_u64().saturating_add(1)
    }

    /// The range of an aligned start and a length that is rounded up, as most calls check it: `None` for nothing.
    fn checked(&self, space: &Space<P>, start: u64, length: u64) -> Result<Option<PageRange>, Errno> {
        if !Self::is_aligned(start) {
            return Err(Errno::Invalid);
        }
        let size = Self::whole_pages(length).filter(|size| start.checked_add(*size).is_some()).ok_or(Errno::Invalid)?;
        if size == 0 {
            return Ok(None);
        }
        // Beyond the programs' addresses there is nothing.
        space.range(start, size).map(Some).map_err(|_| Errno::NoMemory)
    }

    /// The least that the format can represent and that allows so much.
    fn access(&self, space: &Space<P>, protection: Protection) -> Result<Access, Errno> {
        let asked = protection.access();
        if asked.is_empty() {
            return Ok(asked);
        }
        let more = [Access::empty(), Access::READ, Access::READ | Access::EXECUTE];
        let mmu = space.mmu();
        more.into_iter()
            .map(|more| asked | more)
            .find(|access| mmu.encode_leaf(0, Leaf::new(Frame::new(0)).access(*access | Access::USER)).is_ok())
            .ok_or(Errno::Invalid)
    }

    /// Brings what is known of the regions in and beside a range up to date with what faults did; and of those that carry these on, each of which takes its line from the one beside it.
    /// (Which of several between two calls was written to first is not known: they are taken in order.)
    fn refresh(&mut self, space: &Space<P>, start: u64, end: u64) {
        self.follow_stacks(space, start, end);
        let (mut pages, mut limit, mut before) = (None, end, None);
        for at in self.regions.chain_start(start).. {
            let Some(region) = self.regions.nth(at).copied() else { break };
            // From the region at the end on: those that carry one another on.
            if before.is_some_and(|before: Region| before.end == limit && self.regions.is_carried_on(&before, &region))
            {
                limit = region.end;
            }
            if region.start > limit {
                break;
            }
            if region.start <= end && end < region.end {
                limit = region.end;
            }
            if region.is_private() && region.line == 0 {
                let pages = pages.get_or_insert_with(|| space.written_pages());
                let range = space.range(region.start, region.end - region.start);
                if range.is_ok_and(|range| pages.are_some_in(range)) {
                    self.regions.note_written(region.start);
                }
            }
            before = Some(region);
        }
    }

    /// Has the regions of stacks begin where their windows have come down to.
    fn follow_stacks(&mut self, space: &Space<P>, start: u64, end: u64) {
        let mut next = if self.has_stacks { start } else { return };
        // Where the region before ends: one window may show several regions, where the format gives more than was asked for.
        let mut floor = self.regions.last_before(start).map_or(0, |region| region.end);
        while let Some(region) = self.regions.from(next).copied() {
            next = region.end;
            if region.flags.contains(RegionFlags::GROWS_DOWN) {
                let window = space.window_after(VirtAddr::new(region.start));
                let to = window.map_or(region.start, |window| window.range.start().as_u64().max(floor));
                if to < region.start {
                    self.regions.grow_down(region.start, to);
                }
            }
            floor = region.end;
            if region.start >= end {
                // The one behind may have come down into the range; those behind it have not.
                break;
            }
        }
    }

    /// Notes a write that was refused since there is nothing behind the memory: it counts as memory that was written to, as Linux has it (which makes ready for a copy before it looks for what is
    /// to be copied).
    fn note_refused_write(&mut self, error: SpaceError) {
        let SpaceError::OutsideArea(address) = error else { return };
        let address = address.as_u64();
        if let Some(start) = self.regions.at(address).filter(|region| region.is_private()).map(|region| region.start) {
            self.regions.note_written(start);
        }
    }

    /// A number for what backs shared anonymous memory: odd, unlike addresses of areas.
    fn new_object(&mut self) -> u64 {
        self.next_object = self.next_object.wrapping_add(2);
        self.next_object
    }
}

impl<P: Platform> fmt::Debug for Memory<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}
