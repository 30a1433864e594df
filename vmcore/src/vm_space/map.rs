//! Making windows.

use core::ptr::NonNull;

use crate::addr::{PageRange, RangeError, RangeFault, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_area::{Area, AreaState, MAX_SIZE, Rights, Want};
use crate::vm_space::fill::{Fill, check_encoding};
use crate::vm_space::index::{Index, Slot, page_size};
use crate::vm_space::place::Wanted;
use crate::vm_space::protect::allows_anything;
use crate::vm_space::window::{Window, WindowFlags};
use crate::vm_space::{Space, SpaceError};

/// Where a window goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Place {
    /// The lowest gap that is large enough.
    #[default]
    FirstGap,
    /// The lowest gap that is large enough and lies within these addresses.
    GapWithin(PageRange),
    /// Exactly at this address, which must be free.
    At(u64),
    /// The highest gap that is large enough.
    LastGap,
    /// Exactly at this address if that is free, else the nearest gap above it, else the nearest below.
    Near(u64),
    /// At a random address: of all at which the window fits, page by page or in steps of its [alignment](MapRequest::aligned), each is as likely as the
    /// others. So an address holds log2(n) bits that are not known, where n is the number of free ones: for a page somewhere in 2^47 bytes of 4 KiB pages 35 bits,
    /// for one in a given gibibyte 18, for 2 MiB aligned to 2 MiB in 2^47 bytes 26.
    ///
    /// Addresses that are taken are passed over by drawing again, 32 times. So one of them is more likely than the others by no more than `q^32`, the chance that all draws meet
    /// windows, where `q` is the part of the addresses that are taken; then it lies in a gap near by. It is refused only where nothing fits
    /// ([`FirstGap`](Self::FirstGap) would be refused as well).
    ///
    /// Cost: O(log n) windows, as for the others: one look into the index where the first draw is free, and at most 32 and a search.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::Mmu;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// # let space = Space::user(&kernel, Default::default()).unwrap();
    /// # let generator_next = || 0x1234_5678_9abc_def0;
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let arena = space.range(0x40_0000_0000, 1 << 30).unwrap();
    /// let place = Place::Random { entropy: generator_next(), within: Some(arena) };
    /// let range = space.map(&MapRequest::new(&area).place(place)).unwrap();
    /// assert!(arena.covers(range));
    /// # }
    /// ```
    Random {
        /// 64 random bits, of a generator that whoever must not guess the address cannot predict: the library has none. Anew for each window.
        entropy: u64,
        /// Only within these addresses; anywhere in the space if `None`.
        within: Option<PageRange>,
    },
}

/// What the clone of a space gets of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Inherit {
    /// A window onto the same area: what one writes, the other sees.
    #[default]
    Share,
    /// A window onto a copy as it is at that moment; pages are copied when one of the two writes to them.
    Copy,
    /// A window of the same size onto open memory that is zero.
    Wipe,
    /// Nothing.
    Nothing,
}

/// What to map, and how: `MapRequest::new(&area).size(0x4000).access(Access::USER_DATA)`.
#[derive(Debug)]
#[must_use]
pub struct MapRequest<'a, P: Platform> {
    pub(super) area: &'a Area<P>,
    pub(super) place: Place,
    offset: u64,
    size: Option<u64>,
    pub(super) access: Access,
    pub(super) inherit: Inherit,
    pub(super) populate: bool,
    /// As a power of two; 0 if not asked for.
    alignment: u32,
    within: Option<PageRange>,
    past_end: bool,
    pub(super) flags: WindowFlags,
}

impl<P: Platform> Clone for MapRequest<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for MapRequest<'_, P> {}

impl<'a, P: Platform> MapRequest<'a, P> {
    /// The whole area, readable and writable, at the lowest gap, filled by faults.
    pub const fn new(area: &'a Area<P>) -> Self {
        Self {
            area,
            place: Place::FirstGap,
            offset: 0,
            size: None,
            access: Access::KERNEL_DATA,
            inherit: Inherit::Share,
            populate: false,
            alignment: 0,
            within: None,
            past_end: false,
            flags: WindowFlags::empty(),
        }
    }

    /// As far as its size says, also past the area's end: there nothing can be accessed ([`SpaceError::OutsideArea`]) before the area is made larger. (A file whose last pages are mapped before they
    /// exist.) Not of fixed areas.
    pub const fn past_end(mut self) -> Self {
        self.past_end = true;
        self
    }

    /// With its memory meant to be shared ([`WindowFlags::SHARED`]), though nobody may have a handle of it.
    pub const fn shared(mut self) -> Self {
        self.flags = self.flags.union(WindowFlags::SHARED);
        self
    }

    /// With these flags.
    #[cfg(feature = "posix")]
    pub(crate) const fn flags(mut self, flags: WindowFlags) -> Self {
        self.flags = flags;
        self
    }

    /// At exactly this address, in bytes.
    pub const fn at(mut self, address: u64) -> Self {
        self.place = Place::At(address);
        self
    }

    /// At this place.
    pub const fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// At a multiple of 2^`shift` bytes, wherever the place is. An address that is none ([`Place::At`]) is refused. Where no leaf is of that size,
    /// the gap is not always the very lowest (highest, nearest): one is taken that is surely large enough, before others are looked into.
    pub const fn aligned(mut self, shift: u32) -> Self {
        self.alignment = shift;
        self
    }

    /// Within these addresses, wherever the place is. An address that is not ([`Place::At`]) is refused.
    pub const fn within(mut self, limits: PageRange) -> Self {
        self.within = Some(limits);
        self
    }

    /// From this offset in the area on, in bytes; whole pages.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// This many bytes; whole pages.
    pub const fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// With this access. Whether programs may use it follows from the space, not from [`Access::USER`].
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Passed on in this way when the space is cloned.
    pub const fn inherit(mut self, inherit: Inherit) -> Self {
        self.inherit = inherit;
        self
    }

    /// Where it is to go.
    pub(super) const fn wanted(&self) -> Wanted {
        Wanted { place: self.place, alignment: self.alignment, within: self.within }
    }

    /// With every page present from the start, so that nothing in it faults. Of a paged area, with those that are resident: to have the
    /// others brought, [`populate`](Space::populate) it.
    pub const fn populated(mut self) -> Self {
        self.populate = true;
        self
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Makes a window onto an area. All or nothing.
    ///
    /// Cost: O(log n) windows (see [`aligned`](MapRequest::aligned) for alignments that are not those of leaves); populated: O(pages). Takes a
    /// record from a pool, and seldom a node of the index.
    ///
    /// # Errors
    /// The handle lacks a right; offset and size are not within the area; the range is not in the space or the limits, is not aligned as asked, is occupied
    /// ([`SpaceError::Conflict`]), is still being flushed ([`SpaceError::Retry`]), or no gap is large enough; an untracked area has its window; the area is another
    /// machine's; the format cannot represent access, memory type or frames; populated: a guard page lies in it; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::READ)).unwrap();
    /// assert_eq!((range.start().as_u64(), range.size()), (0x40_0000, 0x4000));
    /// assert!(space.map(&MapRequest::new(&area).at(0x40_3000)).is_err(), "occupied");
    /// space.unmap(range).unwrap().complete();
    /// # }
    /// ```
    pub fn map(&self, request: &MapRequest<'_, P>) -> Result<PageRange, SpaceError> {
        self.map_with(request, &mut Reserve::new(self.platform()))
    }

    /// Makes a window out of a reserve.
    pub(crate) fn map_with(
        &self,
        request: &MapRequest<'_, P>,
        reserve: &mut Reserve<P>,
    ) -> Result<PageRange, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let area = request.area.inner();
        let mut access = self.check_request(request)?;
        access.set(Access::USER, !inner.global);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index(platform);
            if let Place::At(address) = request.place {
                index.aim(VirtAddr::new(address));
            }
            let mut state = area.lock(platform);
            let (range, first) = self.place_window(&index, &state, request, access)?;
            index.aim(range.start());
            need = Need::object::<Window<P, M>>();
            index.add_need(index.nodes_needed(range.start(), 1), &mut need);
            // What a clone or a snapshot has as well is not copied for a window that nobody has used yet.
            let want = Want::Settled(access.contains(Access::WRITE));
            let fill = Fill { area, access, global: inner.global, want, raised: false, ask: false, blocks: None };
            let populate = request.populate && allows_anything(access);
            let mut tables = if populate { Some(inner.tables.lock(platform)) } else { None };
            if let Some(tables) = &tables {
                fill.add_need(platform, &state, tables, range, first, &mut need)?;
            }
            if !reserve.covers_with_pools(&need) {
                continue;
            }
            if let Some(tables) = &tables {
                // What has to be brought is passed over.
                let pages = range.pages(P::PAGE_SHIFT);
                let pages = if area.is_paged() { state.resident_in(first, pages) } else { pages };
                self.check_shown(tables, pages, need.tables)?;
            }
            let Some(object) = reserve.take_object::<Window<P, M>>() else { continue };
            if let Some(tables) = &mut tables {
                let charged = (first, need.pages);
                let filled = match state.charge_ahead(need.pages) {
                    Ok(()) => fill.run_charged(platform, &mut state, tables, range, charged, reserve),
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = filled {
                    // SAFETY: the memory is unused still.
                    unsafe { reserve.put_object(object) };
                    return Err(error);
                }
            }
            drop(tables);
            // SAFETY: the memory was taken for this type, and nobody else knows it.
            unsafe { self.link_window(&mut state, object, request, (range, first, access)) };
            let has_neighbours = state.view_count() > 1;
            drop(state);
            let inserted = index.insert(Slot { range, window: Some(object) }, reserve);
            debug_assert!(inserted, "its nodes were counted");
            inner.tally.change((1, range.pages(P::PAGE_SHIFT)), (0, 0));
            if has_neighbours {
                self.join(&mut index, range, reserve);
            }
            return Ok(range);
        }
    }

    /// Where a window goes, and its first page in the area. Everything but memory is checked.
    pub(super) fn place_window(
        &self,
        index: &Index<P, Window<P, M>>,
        state: &AreaState<P>,
        request: &MapRequest<'_, P>,
        access: Access,
    ) -> Result<(PageRange, u64), SpaceError> {
        let (inner, area) = (self.inner(), request.area.inner());
        let (first, size) = self.area_part(state, request)?;
        check_encoding(area, inner.mmu(), access, inner.global, first, size >> P::PAGE_SHIFT)?;
        let range = self.find_place(index, area, &request.wanted(), first, size)?;
        self.check_write_execute(access, range)?;
        inner.tally.check(1, range.pages(P::PAGE_SHIFT), P::PAGE_SHIFT)?;
        if area.is_untracked() && state.view_count() != 0 {
            return Err(SpaceError::SingleWindow);
        }
        Ok((range, first))
    }

    /// Makes the record of a window, as a view of its area.
    ///
    /// # Safety
    /// The memory was taken for this type, and nobody else knows it; it is the window's until its release.
    pub(super) unsafe fn link_window(
        &self,
        state: &mut AreaState<P>,
        object: NonNull<Window<P, M>>,
        request: &MapRequest<'_, P>,
        (range, first, access): (PageRange, u64, Access),
    ) {
        request.area.inner().add_window_reference();
        let window = Window::new(self.pointer(), request.area.pointer(), range, first, access, request.inherit);
        // SAFETY: the caller's promise; the window is linked nowhere, holds the reference that was just counted, and stays where it is
        // until its release.
        unsafe {
            object.write(window.limited_to(request.area.rights().access()).flagged(request.flags));
            state.link_view(object.cast());
        }
    }

    /// The access that is asked for, checked against the handle.
    pub(super) fn check_request(&self, request: &MapRequest<'_, P>) -> Result<Access, SpaceError> {
        if !core::ptr::eq(self.platform().machine(), request.area.platform().machine()) {
            return Err(SpaceError::OtherMachine);
        }
        let missing = Rights::for_access(request.access).difference(request.area.rights());
        if missing.is_empty() { Ok(request.access) } else { Err(SpaceError::Rights(missing)) }
    }

    /// The first page and the size in bytes that are asked for, checked against the area.
    pub(super) fn area_part(
        &self,
        state: &AreaState<P>,
        request: &MapRequest<'_, P>,
    ) -> Result<(u64, u64), SpaceError> {
        let total = state.pages() << P::PAGE_SHIFT;
        let size = request.size.unwrap_or(total.saturating_sub(request.offset));
        let bad = |fault| Err(SpaceError::Range(RangeError { fault, start: request.offset, size }));
        if size == 0 {
            return bad(RangeFault::Empty);
        }
        if (request.offset | size) & (page_size::<P>() - 1) != 0 {
            return bad(RangeFault::Unaligned);
        }
        match request.offset.checked_add(size) {
            Some(end) if end <= total || (request.past_end && end < MAX_SIZE && !request.area.inner().is_fixed()) => {
                Ok((request.offset >> P::PAGE_SHIFT, size))
            }
            _ => Err(crate::vm_area::AreaError::Outside { offset: request.offset, size, area: total }.into()),
        }
    }
}
