//! Spaces: windows onto areas, and the faults that fill page tables from them.
//!
//! Other systems call a space an address space, `mm_struct` (Linux), `vmspace` (BSD) or VMAR tree (Zircon).
//!
//! ```text
//!      space A                    areas                     space B
//!   0x1000 ┌────────┐          ┌─────────┐
//!          │ window ├─────────►│  area   │◄──────────┐ 0x7000 ┌────────┐
//!   0x4000 └────────┘          └─────────┘           └────────┤ window │
//!   0x8000 ┌────────┐          ┌─────────┐                    └────────┘
//!          │ window ├─────────►│  area   │
//!          └────────┘          └─────────┘
//!      page tables: a cache, filled by faults
//! ```
//!
//! # Lock order
//!
//! Space index → area → tables → CPUs of the space → registry → guards → pools. Two spaces are never locked at once: an area that
//! gives pages up locks the tables of one space after another. The index is shared by faults, which go on beside one another and do without the
//! tables' lock (`fault/beside.rs` says why they can), and exclusive for all else: only who has it so links or unlinks tables. What an operation needs is reserved before the first
//! lock; if it turns out short, the locks are given up, the reserve is topped up, and the operation looks again.
//!
//! # A clone, before and after a write
//!
//! ```text
//!      parent                         parent                child              after the child wrote to page 2
//!
//!   window ──► area           window ──► area     copy ◄── window          window ──► area     copy ◄── window
//!      │        │               :          └──┐  ┌──┘        :                │         │        │         │
//!    tables   1   2           tables:        1   2         tables:          tables     1  2     1  2'    tables
//!     1 2                    read-only    one tree for two  empty            1 2       page 1 is counted    2'
//!                                                                                      twice
//! ```
//!
//! The cost is the number of windows. See [`Space::try_clone`].
//!
//! # What is mapped already
//!
//! Three ways to go on with the tables of a loader or another kernel, for three kinds of embedder:
//!
//! | | the tables | their mappings | for whom |
//! |---|---|---|---|
//! | [`Space::adopt_runs`] | the space's own, made anew | windows: shown by `inspect`, unmapped and faulted like all others | who keeps some of what a loader mapped (an image, a framebuffer), and wants its tables back |
//! | [`Space::adopt_foreign`] | somebody else's, shared by root slot | readable, avoided by the gap search, never touched | who lives beside another kernel or firmware that goes on changing its tables |
//! | [`Tables::adopt`](crate::paging::Tables::adopt) | the loader's, taken over where they are and changed from then on | entries: no areas, no windows | who uses [`Tables`] alone, or has no memory for tables of its own yet |
//!
//! # Contexts
//!
//! | call | from | locks, one after another or nested | allocates | takes as long as |
//! |---|---|---|---|---|
//! | [`Space::fault`] | page faults | index (shared), area; where a table is missing or more is to change than a leaf: index, area, tables, CPUs | a frame for the page (or a run of them for a large one), missing tables, a pool page | one page |
//! | [`Space::map`] | system calls | index, area, tables | a record, nodes of the index; populated: the pages, tables, nodes | log windows; populated: pages |
//! | [`Space::populate`] | system calls | index, area, tables | the pages, tables, nodes | pages |
//! | [`Space::unmap`] | system calls | index, area, tables, CPUs | nothing for whole windows; records, a block of the index and tables where parts stay | windows and tables |
//! | [`Space::unmap_and_release`] | system calls | index, area, tables, CPUs | as `unmap`; an object and nodes of cut edges where pages are released | windows, tables, pages |
//! | [`Space::protect`] | system calls | index, area, tables, CPUs | records and a block of the index where windows are cut, tables where a large leaf is split | windows and tables |
//! | [`Space::map_many`], [`Space::map_anonymous`] | system calls | as `map` | as `map` for each; an object for the area | as `map` for each |
//! | [`Space::page_states`], [`Space::page_sets`] | any but NMI | index, area, tables | no | windows and pages |
//! | [`Space::read_bytes`] | system calls | index, area, for each page | nodes, to ask for pages of a paged area | bytes |
//! | [`Space::write_bytes`], [`Space::copy_from`] | system calls | index, area, for each page, of one space after the other; tables and CPUs of spaces that show it | pages that are missing or shared | bytes |
//! | [`Space::place_at`], [`Space::word_at`] | any but NMI | index, area | of a word: nodes, to ask for a page of a paged area | log windows |
//! | [`Space::advise`] | system calls | index, area, tables, CPUs | what is released: an object and nodes of cut edges; what is mapped: tables; else records where windows are cut, tables where a large leaf is | windows and pages |
//! | [`Space::reclaim`] | system calls, reclaim | index, area, tables, CPUs | no | windows and pages |
//! | [`Space::promote`] | system calls, a background thread | index, area, tables, CPUs of each space that shows it | for each block a record and a run of frames; by who completes the flush: nodes | windows and pages |
//! | [`Space::relocate`] | system calls | index, area, tables, CPUs | records, a block of the index, tables at the new place; in place: no | tables and leaves |
//! | [`Space::relocate_leaving`] | system calls | index, area, tables, CPUs, guards | records, an area, a block of the index, tables at the new place | tables and leaves |
//! | [`Space::install_guards_and_release`] | system calls | index, area, tables, CPUs, guards | as `install_guards`; an object and nodes of cut edges for each window | windows, leaves, guards, pages |
//! | [`Space::keep_from_clones`], [`Space::wipe_in_clones`] | system calls | index, area | records and a block of the index where windows are cut | windows |
//! | [`Space::install_guards`] | system calls | index, area, tables, CPUs, guards | a block of the guards, tables where a large leaf is split | windows, leaves, guards |
//! | [`Space::remove_guards`] | system calls | index, guards | a block of the guards where one is cut in two | windows, guards |
//! | [`Space::seal`], [`Space::unlock_pages`] | system calls | index, area, tables | records and a block of the index where windows are cut, tables where a large leaf is | windows |
//! | [`Space::lock_pages`] | system calls | index, area, tables | as `populate`, and records where windows are cut | pages |
//! | [`Space::set_limits`], [`Space::limits`] | any but NMI | index | no | constant |
//! | [`Space::forbid_write_execute`] | system calls | index | no | windows |
//! | [`Space::counters`] | any but NMI | index, tables | no | tables and leaves |
//! | [`Space::kernel`], [`Space::user`] | start, system calls | the kernel's index and tables | root, tables of root slots, a record | root slots |
//! | [`Space::adopt_foreign`] | start | index, tables | nodes of the index | root slots |
//! | [`Space::adopt_runs`] | start | area, registry, pools; index, tables | for each window three records; nodes of the index; tables | windows × registered; the other's leaves |
//! | [`Space::try_clone`] | system calls | the kernel's index and tables; index, with each area in turn, tables of all that show it, CPUs | root, nodes of the index, a record and an area for each window | windows, entries above them |
//! | [`Space::destroy`], drop of a `Space` | system calls | index, area, tables, CPUs | no | windows and tables |
//! | [`Space::activate`] | any but NMI | CPUs (also the kernel's), one after another | no | constant |
//! | [`Space::deactivate`] | any but NMI | CPUs | no | constant |
//! | [`Space::root`], [`Space::tag`], [`Space::generation`] | any | none | no | constant |
//! | [`Space::range`], [`Space::walk`] | any but NMI | tables | no | levels |
//! | [`Space::window_after`], [`Space::windows`], [`Space::frame_at`] | any but NMI | index, area, tables | no | a window's nodes |
//! | [`Area::new`], [`Area::fixed`] | system calls | registry | records; a guarded one: its sections | constant, sections |
//! | [`Area::resize`], [`Area::give_section`] | system calls | area, tables, CPUs of each space that shows it | a record, nodes of two cut edges, and so for each private view that has copies there | windows and pages |
//! | [`Area::set_memory`] | system calls | area, tables, CPUs of each space that shows it; registry | a record | windows and pages shown; registered |
//! | [`Area::read`] | system calls | area, for each page | nodes, to ask for pages of a paged area | bytes |
//! | [`Area::write`] | system calls | area, for each page; tables and CPUs of spaces that show it | pages that are missing or shared | bytes |
//! | [`Area::snapshot`] | system calls | area, tables and CPUs of spaces that show it | an area | windows of the area |
//! | [`Area::overlay`] | system calls | area | an area and a record | constant |
//! | [`Area::overlays`] | any but NMI | area | no | private views |
//! | [`Area::pin`], [`Area::allocate`] | system calls | area, tables and CPUs of spaces that show it | pages that are missing (in one run) or shared, nodes | pages |
//! | [`Account::new`](crate::vm_area::Account::new), drop of its last reference | system calls | registry | a record, a node | constant |
//! | [`Area::charge_to`] | any but NMI | area, registry | no | constant |
//! | [`Area::request`] | system calls | area | nodes | pages asked for |
//! | [`Area::supply`], [`Area::supply_pages`], [`PageBuffer::new`] | system calls, the pager's threads | area | the pages; nothing for those that are filled | bytes, pages |
//! | [`Area::fail`], [`Area::cancel`], [`Area::retry`] | any but NMI | area | no | pages |
//! | [`Area::begin_write_back`], [`Area::evict`] | system calls, reclaim | area, tables, CPUs of each space that shows it | no | windows and pages |
//! | [`WriteBack::written`], drop of a [`WriteBack`] | any but NMI | area | no | pages |
//! | [`Area::next_dirty`], [`Area::page_state`], [`Area::set_read_ahead`] | any but NMI | area | no | pages that are passed over; constant |
//! | [`Area::handle`], [`Area::size`], [`Area::take_section`], … | any but NMI | area | no | constant |
//! | drop of a [`Pin`](crate::vm_area::Pin) | any but NMI | area, for each page | no | pages |
//! | drop of an `Area` | system calls | registry | no | pages, if it is the last reference |
//! | [`Flush::complete`](crate::paging::Flush::complete) | system calls, page faults | index, area, registry, one after another | no; of a promotion: nodes | the platform's flush; what was given up, or promoted |
//! | [`Machine::register`](crate::Machine::register), [`unregister`](crate::Machine::unregister) | system calls | registry | a record | entries |
//! | [`Machine::lend`](crate::Machine::lend), [`counters`](crate::Machine::counters) | any but NMI | pools | no | pages lent, tags |
//!
//! Each may be made with interrupts off. Locks are held for as long as the last column says, for one page or window at a time where areas and
//! spaces of others are concerned. An interrupt handler may call what it likes of these only if the embedder's lock
//! disables interrupts. The library calls the embedder under a lock only to reach a frame, to flush this CPU, and for the lock
//! itself. The embedder's data in an area is cloned under locks by
//! [`Space::try_clone`] and [`Area::snapshot`]: that takes no lock and does not come back here. The embedder's data in a space or an
//! area is dropped with its last reference: by a handle's drop or within `complete`.
//!
//! The lock of a [private view][`Area::overlay`] of a paged area is that area's: where the table says *area*, the two are one.
//!
//! Whom to ask about a fault is the embedder's to know: the kernel's space for addresses within its bounds, the current
//! user space for all others.
//!
//! [`Area::new`]: crate::vm_area::Area::new
//! [`Area::fixed`]: crate::vm_area::Area::fixed
//! [`Area::resize`]: crate::vm_area::Area::resize
//! [`Area::give_section`]: crate::vm_area::Area::give_section
//! [`Area::read`]: crate::vm_area::Area::read
//! [`Area::write`]: crate::vm_area::Area::write
//! [`Area::snapshot`]: crate::vm_area::Area::snapshot
//! [`Area::overlay`]: crate::vm_area::Area::overlay
//! [`Area::overlays`]: crate::vm_area::Area::overlays
//! [`Area::handle`]: crate::vm_area::Area::handle
//! [`Area::charge_to`]: crate::vm_area::Area::charge_to
//! [`Area::set_memory`]: crate::vm_area::Area::set_memory
//! [`Area::pin`]: crate::vm_area::Area::pin
//! [`Area::allocate`]: crate::vm_area::Area::allocate
//! [`Area::size`]: crate::vm_area::Area::size
//! [`Area::take_section`]: crate::vm_area::Area::take_section
//! [`Area::request`]: crate::vm_area::Area::request
//! [`Area::supply`]: crate::vm_area::Area::supply
//! [`Area::supply_pages`]: crate::vm_area::Area::supply_pages
//! [`Area::fail`]: crate::vm_area::Area::fail
//! [`Area::cancel`]: crate::vm_area::Area::cancel
//! [`Area::retry`]: crate::vm_area::Area::retry
//! [`Area::begin_write_back`]: crate::vm_area::Area::begin_write_back
//! [`Area::evict`]: crate::vm_area::Area::evict
//! [`Area::next_dirty`]: crate::vm_area::Area::next_dirty
//! [`Area::page_state`]: crate::vm_area::Area::page_state
//! [`Area::set_read_ahead`]: crate::vm_area::Area::set_read_ahead
//! [`PageBuffer::new`]: crate::vm_area::PageBuffer::new
//! [`WriteBack`]: crate::vm_area::WriteBack
//! [`WriteBack::written`]: crate::vm_area::WriteBack::written

mod adopt;
mod advise;
mod charge;
mod clone;
mod copy;
mod cpus;
mod edit;
mod error;
mod fault;
mod fill;
mod foresee;
mod grow;
mod guards;
mod huge;
mod index;
mod inherit;
mod inner;
mod limits;
mod map;
mod map_many;
mod page_state;
mod place;
mod populate;
mod protect;
mod random;
mod release;
mod relocate;
mod seal;
#[cfg(feature = "posix")]
mod steps;
mod unmap;
mod window;
mod word;

use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

pub use self::adopt::{AdoptError, Adoption};
pub use self::advise::Advice;
pub use self::copy::CopyError;
pub use self::error::SpaceError;
pub use self::fault::{Fault, Resolution};
pub use self::foresee::Foreseen;
use self::guards::Guards;
pub use self::index::IndexNode;
#[cfg(feature = "index-bench")]
#[doc(hidden)]
pub use self::index::bare::BareIndex;
use self::index::{Index, LeafSizes, Slot, page_size};
use self::inner::SpaceInner;
pub use self::limits::{SpaceCounters, SpaceLimit, SpaceLimits};
pub use self::map::{Inherit, MapRequest, Place};
pub use self::page_state::{PageSets, PageState};
pub use self::relocate::Destination;
#[cfg(feature = "posix")]
pub(crate) use self::steps::Step;
pub use self::window::WindowFlags;
use self::window::WindowState;
pub use self::word::{AreaPlace, WordAt};
use crate::addr::{Frame, PageRange, PhysAddr, RangeError, RangeFault, VirtAddr};
use crate::frame::{FrameList, Need, OutOfFrames, Reserve};
use crate::paging::{Access, Flush, Gather, Mmu, Pending, TableRun, Tables, Tag, Walk};
use crate::platform::{CpuSet, Platform};
use crate::static_vec::StaticMemory;
use crate::vm_area::AreaKind;
use crate::word::Ordering;

/// What a CPU needs to run in a space.
#[must_use = "the space counts on the CPU having loaded and forgotten what it says"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Activation {
    /// The physical address of the root table.
    pub root: PhysAddr,
    /// The tag for its TLB entries; tag 0 if it has none of its own.
    pub tag: Tag,
    /// What the CPU forgets as it loads the root.
    pub flush: ActivationFlush,
    /// How many changes have taken something away so far ([`Space::generation`]).
    pub generation: usize,
}

/// What a CPU forgets as it loads a root. Each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum ActivationFlush {
    /// Nothing: all that it remembers under the tag is up to date.
    Nothing,
    /// Every translation that is not global, and every pointer to a table, under the space's tag.
    Tag,
    /// Whatever it remembers, of every tag, global or not: it has not been in the kernel's space before, or that has
    /// changed since it left.
    Everything,
}

/// What is at some addresses of a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WindowInfo {
    /// The addresses.
    pub range: PageRange,
    /// What backs them; `None` for foreign tables.
    pub kind: Option<AreaKind>,
    /// What the window allows.
    pub access: Access,
    /// What a clone of the space gets of it.
    pub inherit: Inherit,
    /// What else it was told to be.
    pub flags: WindowFlags,
    /// Where in the area the window begins, in bytes.
    pub offset: u64,
    /// How many of its pages the area holds (for fixed areas: all; for private views of paged areas: the copies).
    pub resident_pages: u64,
    /// Whether it is unmapped, and waits for its flush.
    pub gated: bool,
}

/// An address space: a root table and its windows. `M` is the format of its tables: the host's, unless it is a guest's.
pub struct Space<P: Platform, M: Mmu = <P as Platform>::Mmu> {
    platform: P,
    inner: NonNull<SpaceInner<P, M>>,
}

// SAFETY: a handle is a counted reference to state behind locks.
unsafe impl<P: Platform + Send + Sync, M: Mmu> Send for Space<P, M> {}
// SAFETY: as above. What is behind the locks may hold a platform handle, which any user may be the one to drop.
unsafe impl<P: Platform + Send + Sync, M: Mmu> Sync for Space<P, M> {}

impl<P: Platform> Space<P> {
    /// The kernel's space: `bounds` within the upper half, its root slots filled once with tables that stay for ever and that
    /// every user space shares. Its index begins in `lent` nodes, if any are given, and grows into pools.
    ///
    /// Cost: one table per root slot that the bounds touch, and the root.
    ///
    /// # Errors
    /// Bounds that are not this MMU's or reach into the lower half; pages of another size than the format's; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::vm_space::{IndexMemory, Space};
    /// use vmcore::{Platform, paging::Mmu, sim::Sim};
    /// static KERNEL_WINDOWS: IndexMemory<1> = IndexMemory::new();
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, KERNEL_WINDOWS.take(), Default::default()).unwrap();
    /// let user = Space::user(&kernel, Default::default()).unwrap();
    /// # user.destroy().map_err(|(_, error)| error).unwrap().complete();
    /// # }
    /// ```
    pub fn kernel(
        platform: &P,
        bounds: PageRange,
        lent: Option<&'static mut [MaybeUninit<IndexNode>]>,
        data: P::SpaceData,
    ) -> Result<Self, SpaceError> {
        let mmu = platform.machine().mmu();
        // Checked against this machine's MMU, whoever made the range; the lower half is the programs'.
        let bounds = mmu.range(bounds.start().as_u64(), bounds.size())?;
        if bounds.start() <= user_bounds::<P>(mmu)?.last() {
            let fault = RangeFault::OutsideSpace;
            return Err(RangeError { fault, start: bounds.start().as_u64(), size: bounds.size() }.into());
        }
        // Its leaves are global where the format has such, so a tag would tell nothing apart.
        Self::new(platform, mmu, Tag::default(), bounds, None, lent, data)
    }

    /// A user space below the kernel's: the lower half without its first page, and the kernel's root slots. It gets one of the
    /// machine's tags, if one is left; without, it works as well, and every activation flushes.
    ///
    /// Cost: O(root slots of the kernel); takes a root table and a pool object. No pages are copied.
    ///
    /// # Errors
    /// Out of frames.
    pub fn user(kernel: &Self, data: P::SpaceData) -> Result<Self, SpaceError> {
        // The handle holds a reference to the kernel's space.
        Self::below(&kernel.platform, kernel.inner, data)
    }

    /// A space below the same kernel's space as this one.
    pub(super) fn sibling(
        &self,
        kernel: NonNull<SpaceInner<P, P::Mmu>>,
        data: P::SpaceData,
    ) -> Result<Self, SpaceError> {
        Self::below(&self.platform, kernel, data)
    }

    fn below(platform: &P, kernel: NonNull<SpaceInner<P, P::Mmu>>, data: P::SpaceData) -> Result<Self, SpaceError> {
        let mmu = platform.machine().mmu();
        let bounds = user_bounds::<P>(mmu)?;
        let tag = platform.machine().take_tag();
        Self::new(platform, mmu, tag, bounds, Some(kernel), None, data)
            .inspect_err(|_| platform.machine().give_tag_back(tag))
    }
}

/// What programs may have: the lower half without its first page, so that a null pointer never leads anywhere.
fn user_bounds<P: Platform>(mmu: P::Mmu) -> Result<PageRange, RangeError> {
    let bits = mmu.virtual_bits().saturating_sub(1).min(62);
    mmu.range(page_size::<P>(), (1_u64 << bits).saturating_sub(page_size::<P>()))
}

/// Static memory for the first nodes of the index of a kernel's space: lent once, to [`Space::kernel`]. One node holds 23 windows; with a
/// second leaf comes an inner node, so three hold 24 to 46, depending on the order in which they are made.
pub type IndexMemory<const N: usize> = StaticMemory<IndexNode, N>;

impl<P: Platform, M: Mmu> Space<P, M> {
    fn new(
        platform: &P,
        mmu: M,
        tag: Tag,
        bounds: PageRange,
        kernel: Option<NonNull<SpaceInner<P, M>>>,
        lent: Option<&'static mut [MaybeUninit<IndexNode>]>,
        data: P::SpaceData,
    ) -> Result<Self, SpaceError> {
        if mmu.page_shift() != P::PAGE_SHIFT {
            return Err(SpaceError::PageSize { platform: P::PAGE_SHIFT, format: mmu.page_shift() });
        }
        let mut reserve = Reserve::new(platform);
        let mut need = Need::object::<SpaceInner<P, M>>();
        need.tables = 1;
        if kernel.is_none() {
            // The tables of its root slots are made now, for all who share them.
            let shift = mmu.level(mmu.levels().saturating_sub(1)).map_or(63, |top| top.shift);
            need.tables += (bounds.last().as_u64() >> shift) - (bounds.start().as_u64() >> shift) + 1;
        }
        reserve.top_up(&need)?;
        let lacking = SpaceError::OutOfFrames(OutOfFrames { wanted: 1 });
        let root = reserve.tables.pop(platform).ok_or(lacking)?;
        // SAFETY: the root was just taken from the reserve: exclusive, zeroed and recorded as a table.
        let mut tables = unsafe { Tables::new(mmu, root, tag) };
        let shared = match kernel {
            Some(kernel) => {
                // SAFETY: the caller has a reference to it.
                let inner = unsafe { kernel.as_ref() };
                let index = inner.lock_index(platform);
                let from = inner.tables.lock(platform);
                let mut shared = tables.share_root_slots(platform, &*from, inner.bounds);
                // What the kernel adopted in the upper half, programs' roots need as well.
                for slot in index.iter() {
                    if slot.window.is_none() && !slot.range.overlaps(bounds) {
                        shared = shared.and(tables.share_root_slots(platform, &*from, slot.range));
                    }
                }
                shared
            }
            None => tables.pin_root_slots(platform, bounds, &mut reserve.tables),
        };
        let object = reserve.take_object::<SpaceInner<P, M>>();
        let (Ok(()), Some(object)) = (shared, object) else {
            // Neither can be: the root is empty, and all that is needed was reserved. The root is not freed, since tables
            // may hang on it.
            return Err(lacking);
        };
        if let Some(kernel) = kernel {
            // SAFETY: as above.
            let kernel = unsafe { kernel.as_ref() };
            kernel.add_reference();
            kernel.sharers.fetch_add(1, Ordering::AcqRel);
        }
        let sizes = LeafSizes::new(P::PAGE_SHIFT, |level| mmu.level(level).map(|level| level.shift));
        let inner = SpaceInner::new(bounds, kernel, Index::new(sizes, lent), tables, Guards::new(platform), data);
        // SAFETY: the memory was just taken for this type, and nobody else knows it.
        unsafe { object.write(inner) };
        Ok(Self { platform: platform.clone(), inner: object })
    }

    #[inline]
    pub(crate) const fn platform(&self) -> &P {
        &self.platform
    }

    pub(crate) const fn pointer(&self) -> NonNull<SpaceInner<P, M>> {
        self.inner
    }

    #[inline]
    fn inner(&self) -> &SpaceInner<P, M> {
        // SAFETY: the handle's reference keeps the space alive.
        unsafe { self.inner.as_ref() }
    }

    /// Whether some CPU may use it, or a space shares its root slots.
    fn is_active(&self) -> bool {
        self.inner().sharers.load(Ordering::Acquire) != 0 || !self.inner().cpus.lock(&self.platform).active().is_empty()
    }

    /// The addresses that the space covers.
    pub fn bounds(&self) -> PageRange {
        self.inner().bounds
    }

    /// The embedder's data.
    pub fn data(&self) -> &P::SpaceData {
        &self.inner().data
    }

    /// The physical frame of the root table.
    pub fn root(&self) -> Frame {
        self.inner().root
    }

    /// The tag of its TLB entries: its own alone, or tag 0.
    pub fn tag(&self) -> Tag {
        self.inner().tag
    }

    /// The range of `size` bytes from `start`, checked once for this space.
    ///
    /// # Errors
    /// It is empty, unaligned, overflows, or lies outside of the space.
    pub fn range(&self, start: u64, size: u64) -> Result<PageRange, RangeError> {
        let range = self.inner().mmu().range(start, size)?;
        if self.inner().bounds.covers(range) {
            Ok(range)
        } else {
            Err(RangeError { fault: RangeFault::OutsideSpace, start, size })
        }
    }

    /// Notes that a CPU is about to use the space, and says what to load and what to forget. Both are the embedder's step, which is
    /// made on that CPU before anything else activates a space there (interrupts and preemption off, or at least not switching).
    ///
    /// From here on, changes of the space, and of the kernel's space whose root slots it shares, flush that CPU too. O(1), no
    /// allocation.
    ///
    /// # What `flush` asks for
    ///
    /// After the load nothing may be used that was remembered before it, nor anything that the CPU found meanwhile by walking the
    /// root before it.
    ///
    /// | | `Nothing` | `Tag` | `Everything` |
    /// |---|---|---|---|
    /// | x86-64, CR4.PCIDE set | CR3 = root, tag in bits 11..0, bit 63 | the same without bit 63 | the same, then INVPCID type 2 or a change of CR4.PGE |
    /// | x86, and x86-64 without PCIDs | – | a write of CR3 | the same, then a change of CR4.PGE |
    /// | Arm | TTBR0_EL1 = root, tag in bits 63..48 | TLBI ASIDE1, DSB, then the same; with tag 0 a root without entries is loaded in between | TLBI VMALLE1 while a root without entries is loaded |
    /// | RISC-V | satp = mode, tag, root | the same, then SFENCE.VMA x0, tag | the same, then SFENCE.VMA x0, x0 |
    /// | EPT | VPID = tag | INVEPT type 1 of the root, INVVPID type 1 of the tag | INVEPT and INVVPID type 2 |
    ///
    /// (Intel SDM volume 3A, 5.10.4.1; volume 3C, 29.4.3; RISC-V Privileged Architecture, "Supervisor Memory-Management Fence Instruction". Arm may
    /// raise a TLB conflict abort where translations from before the load and from after it meet, hence the order.) Without tags each
    /// activation says at least `Tag`. Forgetting more than is asked is always right.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu, X86_64};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{ActivationFlush, MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::of(X86_64::new(40).pcid()).build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let (one, two) = (Space::user(&kernel, ()).unwrap(), Space::user(&kernel, ()).unwrap());
    /// let switch = |to: &Space<Sim>, from: &Space<Sim>| {
    ///     let activation = to.activate(0);
    ///     sim.activate(0, &activation); // a kernel writes CR3 here
    ///     // SAFETY: another root is loaded.
    ///     unsafe { from.deactivate(0) };
    ///     activation.flush
    /// };
    /// assert_eq!(switch(&one, &kernel), ActivationFlush::Everything); // the first space on this CPU
    /// assert_eq!(switch(&two, &one), ActivationFlush::Tag); // its tag may have been another's
    /// assert_eq!(switch(&one, &two), ActivationFlush::Nothing);
    /// # let area = Area::new(&sim, AreaKind::Open { size: 0x1000 }, 0).unwrap();
    /// let range = two.map(&MapRequest::new(&area).access(Access::READ).populated()).unwrap();
    /// two.unmap(range).unwrap().complete(); // interrupts nobody: `two` is active nowhere
    /// assert_eq!(switch(&two, &one), ActivationFlush::Tag);
    /// # }
    /// ```
    pub fn activate(&self, cpu: usize) -> Activation {
        let inner = self.inner();
        let kernel_is_current = match inner.kernel {
            // SAFETY: the space holds a reference to the kernel's.
            Some(kernel) => unsafe { kernel.as_ref() }.cpus.lock(&self.platform).activate(cpu),
            None => true,
        };
        let is_current = inner.cpus.lock(&self.platform).activate(cpu);
        let flush = if !kernel_is_current || (inner.global && !is_current) {
            ActivationFlush::Everything
        } else if !is_current || inner.tag == Tag::default() {
            ActivationFlush::Tag
        } else {
            ActivationFlush::Nothing
        };
        let root = inner.root.start(P::PAGE_SHIFT);
        Activation { root, tag: inner.tag, flush, generation: self.generation() }
    }

    /// How many changes of the space, and of the kernel's space whose root slots it shares, have taken something away so far. A CPU that
    /// remembers something of the space and has not been flushed can tell by it whether that is still true.
    pub fn generation(&self) -> usize {
        let own = self.inner().generation();
        // SAFETY: the space holds a reference to the kernel's.
        self.inner().kernel.map_or(own, |kernel| own.wrapping_add(unsafe { kernel.as_ref() }.generation()))
    }

    /// Notes that a CPU uses the space no more, so that changes need not flush it. What it remembers under the space's tag may stay: the next
    /// activation says whether it still holds. O(1), no allocation.
    ///
    /// # Safety
    /// The space's root is not loaded on that CPU any more, so that the hardware cannot walk it (for the kernel's space: nor one that shares
    /// its root slots). Each [`Activation`] that it had of the space was carried out in full before; and so will be each that
    /// it has of any space before it uses that space. Flushes that ask this CPU for something are still carried out.
    pub unsafe fn deactivate(&self, cpu: usize) {
        self.inner().cpus.lock(&self.platform).deactivate(cpu);
    }

    /// Reads the entries that translate `address`, level by level; its `Display` explains them. O(levels).
    pub fn walk(&self, address: VirtAddr) -> Walk {
        let walked = match self.inner().kernel {
            // Shared tables are the kernel's: they are read under its lock.
            // SAFETY: the space holds a reference to the kernel's.
            Some(kernel) if unsafe { kernel.as_ref() }.bounds.contains(address) => unsafe { kernel.as_ref() },
            _ => self.inner(),
        };
        walked.tables.lock(&self.platform).walk(&self.platform, address)
    }

    /// The first run of leaves in the range, as the tables show it now. O(levels + the run's leaves), no allocation.
    pub(crate) fn first_table_run(&self, range: PageRange) -> Option<TableRun> {
        self.inner().tables.lock(&self.platform).first_table_run(&self.platform, range)
    }

    /// The MMU that its tables are made for.
    pub(crate) fn mmu(&self) -> M {
        self.inner().mmu()
    }

    /// The frame that belongs at `address`, whether the tables show it yet or not; `None` where nothing is mapped, or the page
    /// does not exist. O(log n + levels), no allocation.
    pub fn frame_at(&self, address: VirtAddr) -> Option<Frame> {
        let index = self.inner().lock_index(&self.platform);
        let window = index.find(address)?.window?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
        let here = PageRange::from_checked(address.align_down(P::PAGE_SHIFT), page_size::<P>());
        if self.first_guard(window, here).is_some() {
            return None;
        }
        let page = window.area_page(address);
        let state = area.lock(&self.platform);
        match area.frames() {
            Some(frames) => (page < state.pages()).then(|| frames.first().add(page)),
            None if area.is_untracked() => {
                let (_, leaf) = self.inner().tables.lock(&self.platform).translate(&self.platform, address)?;
                Some(leaf.frame)
            }
            None => state.resident_page(page),
        }
    }

    /// What is at the first occupied address at or after `address`. O(log n + resident pages are counted).
    pub fn window_after(&self, address: VirtAddr) -> Option<WindowInfo> {
        let index = self.inner().lock_index(&self.platform);
        let slot = index.first_from(address)?;
        let Some(window) = slot.window else {
            return Some(WindowInfo {
                range: slot.range,
                kind: None,
                access: Access::empty(),
                inherit: Inherit::Nothing,
                flags: WindowFlags::empty(),
                offset: 0,
                resident_pages: 0,
                gated: false,
            });
        };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
        let state = area.lock(&self.platform);
        let resident_pages = if area.is_fixed() {
            window.pages()
        } else if area.is_untracked() {
            0
        } else {
            state.resident_in(window.first(), window.pages())
        };
        Some(WindowInfo {
            range: slot.range,
            kind: Some(area.kind(&state)),
            access: window.access,
            inherit: window.inherit(),
            flags: window.flags,
            offset: window.first() << P::PAGE_SHIFT,
            resident_pages,
            gated: window.state == WindowState::Gated,
        })
    }

    /// What is in the space, in order of addresses. Takes the lock for each step, so it may be used while the space changes.
    pub fn windows(&self) -> impl Iterator<Item = WindowInfo> + '_ {
        let mut next = Some(VirtAddr::new(0));
        core::iter::from_fn(move || {
            let info = self.window_after(next?)?;
            next = info.range.last().checked_add(1);
            Some(info)
        })
    }

    /// Takes the root slots that `range` touches over from a foreign root (a loader's, another kernel's): its tables are
    /// readable through this space, avoided by the gap search, and never edited, freed or counted.
    ///
    /// # Safety
    /// `root` is a root table of this space's format, reachable, and its slots for the range lead to tables that stay valid while this space lives.
    /// That holds for user spaces made from this one later, which get the slots that lie outside of their bounds.
    ///
    /// # Errors
    /// The range is no whole number of root slots, is occupied, or there is no memory to record it.
    pub unsafe fn adopt_foreign(&self, root: Frame, range: PageRange) -> Result<(), SpaceError> {
        let platform = &self.platform;
        let inner = self.inner();
        let outside = RangeError { fault: RangeFault::OutsideSpace, start: range.start().as_u64(), size: range.size() };
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        let mut index = loop {
            reserve.top_up(&need)?;
            let index = inner.lock_index(platform);
            need = Need::default();
            index.add_need(index.nodes_needed(range.start(), 1), &mut need);
            if reserve.covers(&need) {
                break index;
            }
        };
        if let Some(slot) = index.overlapping(range).next() {
            return Err(SpaceError::Conflict(slot.range));
        }
        let mut tables = inner.tables.lock(platform);
        let mmu = tables.mmu();
        let slot_size = mmu.level(mmu.levels().saturating_sub(1)).map_or(u64::MAX, |top| 1 << top.shift);
        // Foreign ranges may lie outside of the bounds (a loader's lower half), so long as they are whole slots.
        // SAFETY: the space holds a reference to the kernel's.
        let kernel_bounds = inner.kernel.map(|kernel| unsafe { kernel.as_ref() }.bounds);
        let taken = range.overlaps(inner.bounds) || kernel_bounds.is_some_and(|bounds| range.overlaps(bounds));
        if (range.start().as_u64() | range.size()) & (slot_size - 1) != 0 || taken {
            return Err(SpaceError::Range(outside));
        }
        // SAFETY: the caller vouches for the root; it is only read.
        let foreign = unsafe { Tables::new(mmu, root, Tag::default()) };
        tables.share_root_slots(platform, &foreign, range)?;
        drop(tables);
        let inserted = index.insert(Slot { range, window: None }, &mut reserve);
        debug_assert!(inserted, "its nodes were counted");
        drop(index);
        Ok(())
    }

    /// Ends the space: unmaps everything and gives root and tables back when the flush is complete.
    ///
    /// Cost: O(windows + tables). Allocates nothing.
    ///
    /// # Errors
    /// The space is active on some CPU, or other spaces share its root slots: it is given back.
    pub fn destroy(self) -> Result<Flush<P, ()>, (Self, SpaceError)> {
        if self.is_active() {
            return Err((self, SpaceError::Active));
        }
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: the handle is never used or dropped again.
        let platform = unsafe { core::ptr::read(&this.platform) };
        // SAFETY: the reference is this handle's, which is given up.
        let pending = unsafe { tear_down(&platform, this.inner) };
        Ok(Flush::new(platform, pending, ()))
    }
}

/// Unmaps everything of a space that is active nowhere; the handle's reference goes with the flush.
///
/// # Safety
/// The caller holds the handle's reference and does not use it any more.
unsafe fn tear_down<P: Platform, M: Mmu>(platform: &P, space: NonNull<SpaceInner<P, M>>) -> Pending<P> {
    let mut pending = Pending::new();
    // SAFETY: the handle's reference keeps the space alive, until the flush is acknowledged.
    let inner = unsafe { space.as_ref() };
    let mut gather = Gather::default();
    // For the nodes of the index, which go back with no lock held.
    let mut reserve = Reserve::new(platform);
    {
        let mut index = inner.lock_index(platform);
        for slot in index.iter() {
            let Some(window) = slot.window else { continue };
            // SAFETY: windows in the index are alive, and so are their areas.
            unsafe { unmap::gate_whole(platform, inner, window, &mut gather, &mut pending) };
            // Many are gone before they were touched: a clone's above all.
            if !inner.leaf_tables.are_surely_clear(platform, slot.range) {
                // Whole windows are unmapped, so nothing is split, and no spare table is needed.
                let mut spare = FrameList::new();
                unmap::clear_tables(platform, inner, slot, slot.range, &mut spare, &mut gather, &mut pending);
            }
        }
        index.clear(&mut reserve);
    }
    if inner.global {
        inner.tables.lock(platform).unpin_root_slots(platform, inner.bounds, &mut gather);
    }
    drop(reserve);
    inner.absorb(platform, gather, &mut pending);
    // SAFETY: the handle's reference is given up to the flush, once; gated windows hold their own.
    unsafe { pending.defer(SpaceInner::deferred(space)) };
    pending
}

impl<P: Platform, M: Mmu> Drop for Space<P, M> {
    /// A space that is active nowhere is torn down at once; one that is active, or whose root slots are shared, leaks, which
    /// is counted.
    fn drop(&mut self) {
        if self.is_active() {
            self.platform.machine().note_dropped_flush(0);
        } else {
            // SAFETY: the handle is being dropped.
            let pending = unsafe { tear_down(&self.platform, self.inner) };
            pending.complete(&self.platform);
        }
    }
}

impl<P: Platform, M: Mmu> fmt::Debug for Space<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("bounds", &self.inner().bounds).finish_non_exhaustive()
    }
}
