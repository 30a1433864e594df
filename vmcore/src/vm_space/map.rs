//! Making windows, and filling them ahead of faults.

use core::ptr::NonNull;

use crate::addr::{PageRange, RangeError, RangeFault, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::lock::Guard;
use crate::paging::{Access, Flush, Gather, Leaf, Mmu, Pending, Tables};
use crate::platform::Platform;
use crate::vm_area::{Answer, Area, AreaInner, AreaKind, AreaState, MAX_SIZE, PageWait, Rights, Want};
use crate::vm_space::huge::{BlockPlace, block_shift, blocks_to_make, make_large, raise_large};
use crate::vm_space::index::{Index, Slot, page_size};
use crate::vm_space::inner::SpaceInner;
use crate::vm_space::place::Wanted;
use crate::vm_space::protect::allows_anything;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
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
    /// At a random page (the embedder's entropy chooses it), or in the next gap above it that is large enough, or else in the lowest one.
    Random {
        /// 64 random bits.
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
        let mut need = Need::object::<Window<P, M>>();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index(platform);
            let mut state = area.lock(platform);
            let mut tables = inner.tables.lock(platform);
            let (range, first) = self.place_window(&index, &state, &tables, request, access)?;
            need = Need::object::<Window<P, M>>();
            index.add_need(index.nodes_needed(range.start(), 1), &mut need);
            // What a clone or a snapshot has as well is not copied for a window that nobody has used yet.
            let want = Want::Settled(access.contains(Access::WRITE));
            let fill = Fill { area, access, global: inner.global, want, raised: false, ask: false, blocks: None };
            let populate = request.populate && allows_anything(access);
            if populate {
                fill.add_need(platform, &state, &tables, range, first, &mut need)?;
            }
            if !reserve.covers(&need) {
                continue;
            }
            if populate {
                // What has to be brought is passed over.
                let pages = match area.kind() {
                    AreaKind::Paged { .. } => state.resident_in(first, range.pages(P::PAGE_SHIFT)),
                    _ => range.pages(P::PAGE_SHIFT),
                };
                self.check_shown(&tables, pages, need.tables)?;
            }
            let Some(object) = reserve.take_object::<Window<P, M>>() else { continue };
            if populate {
                let charged = (first, need.pages);
                let filled = match state.charge_ahead(need.pages) {
                    Ok(()) => fill.run_charged(platform, &mut state, &mut tables, range, charged, reserve),
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
            let has_neighbours = state.view_count > 1;
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
        tables: &Tables<M>,
        request: &MapRequest<'_, P>,
        access: Access,
    ) -> Result<(PageRange, u64), SpaceError> {
        let (inner, area) = (self.inner(), request.area.inner());
        let (first, size) = self.area_part(state, request)?;
        check_encoding(area, tables, access, inner.global, first, size >> P::PAGE_SHIFT)?;
        let range = self.find_place(index, tables, area, &request.wanted(), first, size)?;
        self.check_write_execute(access, range)?;
        inner.tally.check(1, range.pages(P::PAGE_SHIFT), P::PAGE_SHIFT)?;
        if area.is_untracked() && state.view_count != 0 {
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

    /// Makes every page of the range present for this access, so that it does not fault (but for one spurious fault where a CPU remembers a
    /// page as read-only that is made writable here; and pages that had to be copied, since a clone or a snapshot has them as well, are mapped by the first
    /// fault after the flush). All or nothing, but for pages that have to be brought: the first of them is asked for,
    /// [`SpaceError::Awaits`] says which it is and what to wait for, and all that lies before it is present. Of one window that [wants large pages](WindowFlags::HUGE), blocks of which
    /// no page exists are made so.
    ///
    /// Cost: O(pages); takes frames for the pages and tables that are missing.
    ///
    /// # Errors
    /// Nothing is mapped at some address; the access is not allowed somewhere; a guard page or a page past the end of an area lies in
    /// the range; the range is not the space's or holds foreign tables; a change there is still being flushed; a full account; out of frames. With several
    /// windows in the range, frames and room in accounts are wanted for each of its pages, whether it is resident or not. A page of a paged
    /// area is not there, or its pager could not bring it.
    pub fn populate(&self, range: PageRange, access: Access) -> Result<Flush<P, ()>, SpaceError> {
        self.populate_and_flag(range, Some(access.difference(Access::USER)), WindowFlags::empty())
    }

    /// Populates for this access, or for all that each window allows, and sets flags.
    pub(super) fn populate_and_flag(
        &self,
        range: PageRange,
        access: Option<Access>,
        flags: WindowFlags,
    ) -> Result<Flush<P, ()>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut need = Need::default();
        let mut reserve = Reserve::new(platform);
        let mut pending = Pending::new();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index(platform);
            need = Need::default();
            if !flags.is_empty() {
                self.reserve_cuts(&index, range, &mut need)?;
            }
            let (slot, several) = {
                let mut slots = index.overlapping(range);
                (slots.next(), slots.next().is_some())
            };
            if let (Some(slot), false) = (slot, several) {
                // The usual case: one window, looked at and filled under one hold of its area's lock, so that the need is exact.
                let (part, window) = self.populated_part(&slot, range, Some(range.start()), access)?;
                // SAFETY: windows in the index are alive while it is locked, and so are their areas.
                let area = unsafe { window.area.as_ref() };
                let mut state = area.lock(platform);
                let tables = inner.tables.lock(platform);
                let (fill, first) = (Fill::of(window, area, inner, access), window.area_page(part.start()));
                let fill = fill.with_blocks(window, &tables, &mut reserve);
                fill.add_need(platform, &state, &tables, part, first, &mut need)?;
                // After what the window itself refuses, so that the lowest address is named, as with several windows.
                if part.last() != range.last() {
                    let hole = part.last().checked_add(1).unwrap_or(range.start());
                    return Err(SpaceError::NoWindow(hole));
                }
                if !reserve.covers(&need) {
                    continue;
                }
                self.check_shown(&tables, self.pages_to_show(&tables, part), need.tables)?;
                drop(tables);
                let charged = reserve.pages_in(&need);
                state.charge_ahead(charged)?;
                let filled = self.fill_charged(&fill, window, &mut state, (part, charged), &mut reserve, &mut pending);
                drop(state);
                if let Err(error) = filled {
                    drop(index);
                    pending.complete(platform);
                    return Err(error);
                }
                if !flags.is_empty() {
                    self.commit_flags(&mut index, range, flags, WindowFlags::empty(), &mut reserve);
                }
                return Ok(Flush::new(platform.clone(), pending, ()));
            }
            let mut next = Some(range.start());
            for slot in index.overlapping(range) {
                let (part, window) = self.populated_part(&slot, range, next, access)?;
                next = part.last().checked_add(1);
                // SAFETY: as above.
                let area = unsafe { window.area.as_ref() };
                let state = area.lock(platform);
                let tables = inner.tables.lock(platform);
                let fill = Fill::of(window, area, inner, access);
                fill.add_worst_need(platform, &state, &tables, part, window.area_page(part.start()), &mut need)?;
            }
            match next {
                Some(address) if range.contains(address) => return Err(SpaceError::NoWindow(address)),
                _ => {}
            }
            if !reserve.covers(&need) {
                continue;
            }
            {
                let tables = inner.tables.lock(platform);
                self.check_shown(&tables, self.pages_to_show(&tables, range), need.tables)?;
            }
            Self::charge_parts(platform, &index, range)?;
            let mut refused = None;
            for slot in index.overlapping(range) {
                let (part, window) = self.populated_part(&slot, range, None, access)?;
                // SAFETY: as above.
                let area = unsafe { window.area.as_ref() };
                let (fill, charged) = (Fill::of(window, area, inner, access), part.pages(P::PAGE_SHIFT));
                let mut state = area.lock(platform);
                let filled = self.fill_charged(&fill, window, &mut state, (part, charged), &mut reserve, &mut pending);
                drop(state);
                if let Err(error) = filled {
                    refused = Some((part, error));
                    break;
                }
            }
            if let Some((part, error)) = refused {
                // What lies behind is not filled any more.
                Self::take_off_parts(platform, &index, range.after(part));
                drop(index);
                pending.complete(platform);
                return Err(error);
            }
            if !flags.is_empty() {
                self.commit_flags(&mut index, range, flags, WindowFlags::empty(), &mut reserve);
            }
            return Ok(Flush::new(platform.clone(), pending, ()));
        }
    }

    /// Fills a part of a window, of which so many pages were charged ahead. Everything it takes was reserved.
    fn fill_charged(
        &self,
        fill: &Fill<'_, P>,
        window: &Window<P, M>,
        state: &mut Guard<'_, P, AreaState<P>>,
        (part, charged): (PageRange, u64),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<(), SpaceError> {
        let platform = self.platform();
        let first = window.area_page(part.start());
        reserve.charged = charged;
        if let Err(error) = self.inner().break_before_make(platform, window.may_be_remembered(state), part) {
            state.settle(platform, reserve);
            return Err(error.into());
        }
        fill.make_blocks(platform, state, &mut self.inner().tables.lock(platform), part, first, reserve);
        fill.own(platform, window.area, state, part, first, reserve, pending);
        let mut tables = self.inner().tables.lock(platform);
        fill.run_charged(platform, state, &mut tables, part, (first, reserve.charged), reserve)
    }

    /// The part of a slot that is to be populated, with its window. `next` is where it must begin at the latest.
    fn populated_part<'a>(
        &self,
        slot: &'a Slot<Window<P, M>>,
        range: PageRange,
        next: Option<VirtAddr>,
        access: Option<Access>,
    ) -> Result<(PageRange, &'a Window<P, M>), SpaceError> {
        let hole = SpaceError::NoWindow(next.unwrap_or(range.start()));
        let part = slot.range.intersection(range).ok_or(hole)?;
        if next.is_some_and(|next| part.start() > next) {
            return Err(hole);
        }
        // SAFETY: the index is locked by the caller for as long as it uses the slot.
        let window = unsafe { slot.window.ok_or(SpaceError::Foreign(part.start()))?.as_ref() };
        if window.state == WindowState::Gated {
            return Err(SpaceError::Retry(part.start()));
        }
        let access = access.unwrap_or(Access::empty());
        if !window.access.contains(access) || !allows_anything(window.access) {
            return Err(SpaceError::Denied { address: part.start(), wanted: access, allowed: window.access });
        }
        match self.first_guard(window, part) {
            Some(guard) => Err(SpaceError::Guard(guard)),
            None => Ok((part, window)),
        }
    }
}

/// Filling a part of a window.
pub(super) struct Fill<'a, P: Platform> {
    area: &'a AreaInner<P>,
    access: Access,
    global: bool,
    /// What pages are wanted for.
    want: Want,
    /// Whether pages may be mapped with less than the window allows.
    raised: bool,
    /// Whether to stop at a page that the embedder has to bring, and ask for it; it is passed over otherwise.
    ask: bool,
    /// Whether to make blocks of pages that do not exist for large leaves, in a window with these marks.
    blocks: Option<WindowMarks>,
}

impl<'a, P: Platform> Fill<'a, P> {
    /// `access` is what is wanted; `None` for all that the window allows.
    pub(super) fn of<M: Mmu>(
        window: &Window<P, M>,
        area: &'a AreaInner<P>,
        space: &SpaceInner<P, M>,
        access: Option<Access>,
    ) -> Self {
        let want = Want::Settled(access.unwrap_or(window.access).contains(Access::WRITE));
        let raised = window.marks.contains(WindowMarks::RAISED);
        Self { area, access: window.access, global: space.global, want, raised, ask: true, blocks: None }
    }

    /// The same, with large leaves where the window wants them and none was refused.
    fn with_blocks<M: Mmu>(self, window: &Window<P, M>, tables: &Tables<M>, reserve: &mut Reserve<P>) -> Self {
        if let (true, Some(shift)) = (window.flags.contains(WindowFlags::HUGE), block_shift::<P, M>(tables)) {
            reserve.allow_blocks(shift - P::PAGE_SHIFT);
            return Self { blocks: reserve.may_have_blocks().then_some(window.marks), ..self };
        }
        self
    }

    /// The same, passing over pages that the embedder has to bring.
    pub(super) fn of_what_is_there(self) -> Self {
        Self { ask: false, ..self }
    }

    /// The leaf for a page of the window.
    pub(super) fn leaf(&self, frame: crate::addr::Frame, writable: bool) -> Leaf {
        leaf_for(self.area, self.access, self.global, frame, writable)
    }

    /// Adds what populating takes at the present state. Refuses what the area would refuse.
    fn add_need<M: Mmu>(
        &self,
        platform: &P,
        state: &AreaState<P>,
        tables: &Tables<M>,
        range: PageRange,
        first: u64,
        need: &mut Need,
    ) -> Result<(), SpaceError> {
        let pages = range.pages(P::PAGE_SHIFT);
        self.check(state, range, first)?;
        match self.area.kind() {
            AreaKind::Fixed { frames, .. } => {
                // Where some of it is mapped already (it was touched), the rest is filled page by page.
                let whole = tables.is_clear(platform, range).then(|| frames.first().add(first));
                need.tables += tables.tables_to_map(platform, range, whole, largest(tables));
            }
            AreaKind::Untracked { .. } => {
                need.tables += tables.tables_to_map(platform, range, None, 0);
                let mapped: u64 = tables.runs(platform, range).map(|(run, _)| run.pages(P::PAGE_SHIFT)).sum();
                need.pages += pages.saturating_sub(mapped);
            }
            AreaKind::Paged { .. } => {
                need.tables += tables.tables_to_map(platform, range, None, 0);
                need.merge(&state.need_to_ask(first, pages));
            }
            _ if state.is_overlay() => {
                need.tables += if self.owns() {
                    tables.tables_to_map_at_most(range)
                } else {
                    tables.tables_to_map(platform, range, None, 0)
                };
                need.merge(&state.need_to_show(platform, (first, pages), self.owns()));
            }
            _ => {
                // Whatever is withdrawn before the filling leaves tables as they are, or takes some away.
                need.tables += if self.want == Want::Settled(true) && state.may_replace() {
                    tables.tables_to_map_at_most(range)
                } else {
                    tables.tables_to_map(platform, range, None, 0)
                };
                need.merge(&state.need_for(first, pages));
                if self.want == Want::Settled(true) {
                    need.merge(&state.need_to_own(platform, first, pages));
                }
                if let Some(marks) = self.blocks {
                    for place in blocks_to_make(platform, (self.area, state), tables, (range, first), marks) {
                        need.blocks += 1;
                        need.pages = need.pages.saturating_sub(place.count);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what populating takes whatever happens to the area meanwhile (its pages may be given up by another space).
    pub(super) fn add_worst_need<M: Mmu>(
        &self,
        platform: &P,
        state: &AreaState<P>,
        tables: &Tables<M>,
        range: PageRange,
        first: u64,
        need: &mut Need,
    ) -> Result<(), SpaceError> {
        let pages = range.pages(P::PAGE_SHIFT);
        self.check(state, range, first)?;
        match self.area.kind() {
            // Another area may take its tables away between this look and the filling.
            AreaKind::Fixed { .. } => need.tables += tables.tables_to_map_at_most(range),
            AreaKind::Paged { .. } => {
                need.tables += tables.tables_to_map_at_most(range);
                need.merge(&state.need_to_ask_at_most(pages));
            }
            _ if state.is_overlay() => {
                need.tables += tables.tables_to_map_at_most(range);
                need.merge(&state.need_to_show_at_most(platform, (first, pages), self.owns()));
            }
            kind => {
                need.tables += tables.tables_to_map_at_most(range);
                need.pages += pages;
                if !matches!(kind, AreaKind::Untracked { .. }) {
                    need.merge(&AreaState::<P>::nodes_at_most(pages));
                    if self.want == Want::Settled(true) {
                        // What another CPU makes shared meanwhile is mapped for reading.
                        need.merge(&state.need_to_own(platform, first, pages));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether what an overlay has not is copied, and not only shown: for a window that is in use.
    fn owns(&self) -> bool {
        self.want == Want::Settled(true) && self.ask
    }

    /// Refuses a part in which the area would refuse a page.
    fn check(&self, state: &AreaState<P>, range: PageRange, first: u64) -> Result<(), SpaceError> {
        let pages = range.pages(P::PAGE_SHIFT);
        if let Some((page, answer)) = self.area.first_refused(state, first, pages) {
            let address = VirtAddr::new(range.start().as_u64() + ((page - first) << P::PAGE_SHIFT));
            return Err(match answer {
                Answer::Guard => SpaceError::Guard(address),
                Answer::Retry => SpaceError::Retry(address),
                _ => SpaceError::OutsideArea(address),
            });
        }
        Ok(())
    }

    /// Makes the blocks that were counted. Everything it takes was reserved and charged.
    fn make_blocks<M: Mmu>(
        &self,
        platform: &P,
        state: &mut AreaState<P>,
        tables: &mut Tables<M>,
        range: PageRange,
        first: u64,
        reserve: &mut Reserve<P>,
    ) {
        let Some(marks) = self.blocks else { return };
        let (shown, write) = ((self.access, self.global), self.want == Want::Settled(true));
        let mut next = Some((range, first));
        while let Some(rest) = next {
            let mut places = blocks_to_make(platform, (self.area, state), tables, rest, marks);
            let Some(place) = places.next() else { break };
            drop(places);
            make_large(platform, (self.area, state), tables, place, shown, write, reserve);
            next = range.after(place.range).map(|rest| (rest, place.first + place.count));
        }
    }

    /// Makes the pages the area's own, if they are wanted for writing: what it replaces leaves every view, and waits for the flush.
    /// Everything it takes was reserved.
    #[allow(clippy::too_many_arguments, reason = "each is one thing")]
    fn own(
        &self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        state: &mut AreaState<P>,
        range: PageRange,
        first: u64,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) {
        if self.want != Want::Settled(true) || !state.may_replace() {
            return;
        }
        for index in first..first + range.pages(P::PAGE_SHIFT) {
            if self.area.awaits(state, index) {
                // The filling stops there too, and asks for it.
                break;
            }
            if let Answer::Replaced { old, .. } = self.area.page(platform, state, index, Want::Write, reserve) {
                state.withdraw(platform, area, (index, old), reserve, pending);
            }
        }
    }

    /// Fills the tables. Everything it takes was reserved and, where `reserve` says so, charged.
    pub(super) fn run<M: Mmu>(
        &self,
        platform: &P,
        state: &mut Guard<'_, P, AreaState<P>>,
        tables: &mut Guard<'_, P, Tables<M>>,
        range: PageRange,
        first: u64,
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        let page_of = |address: VirtAddr| first + ((address.as_u64() - range.start().as_u64()) >> P::PAGE_SHIFT);
        let mut spare = reserve.tables.take();
        // The first page that the embedder has to bring, and what the area says about it.
        let mut stop = None;
        let result = if let AreaKind::Fixed { frames, .. } = self.area.kind() {
            let leaf = self.leaf(frames.first().add(first), true);
            if tables.is_clear(platform, range) {
                let level = largest(tables);
                tables.map(platform, range, leaf, level, &mut spare)
            } else {
                tables.fill(platform, range, &mut spare, |address| {
                    Some(self.leaf(frames.first().add(page_of(address)), true))
                })
            }
        } else {
            tables.fill(platform, range, &mut spare, |address| {
                if stop.is_some() || (!self.ask && self.area.awaits(state, page_of(address))) {
                    return None;
                }
                match self.area.page(platform, state, page_of(address), self.want, reserve) {
                    Answer::Page { frame, writable, .. } => Some(self.leaf(frame, writable)),
                    // It is shown elsewhere, so it exists.
                    Answer::Zero => Some(self.leaf(platform.machine().zero_frame()?, false)),
                    Answer::Untracked => Some(self.leaf(reserve.take_untracked_page()?, true)),
                    answer @ (Answer::Request(_) | Answer::Wait(_) | Answer::Failed) => {
                        stop = Some((address, answer));
                        None
                    }
                    _ => None,
                }
            })
        };
        reserve.tables = spare;
        result?;
        let filled = match stop {
            Some((address, _)) => range.before(PageRange::from_checked(address, page_size::<P>())),
            None => Some(range),
        };
        let raises = self.want == Want::Settled(true) || self.raised;
        if let Some(filled) = filled.filter(|_| raises && !self.area.is_fixed() && !self.area.is_untracked()) {
            self.raise(platform, state, tables, filled, &page_of, reserve)?;
        }
        let Some((address, answer)) = stop else { return Ok(()) };
        Err(match answer {
            Answer::Request(request) => {
                // As many of the pages that follow are asked for at once as were counted on.
                let request = state.widen(platform, request, page_of(range.last()) + 1, reserve);
                SpaceError::Awaits { address, wait: PageWait::Request(request) }
            }
            Answer::Wait(token) => SpaceError::Awaits { address, wait: PageWait::Wait(token) },
            _ => SpaceError::Failed(address),
        })
    }

    /// Gives pages that are mapped with less than is wanted what they lack: clean ones their first write, others what their window was
    /// given since.
    fn raise<M: Mmu>(
        &self,
        platform: &P,
        state: &mut Guard<'_, P, AreaState<P>>,
        tables: &mut Guard<'_, P, Tables<M>>,
        range: PageRange,
        page_of: &impl Fn(VirtAddr) -> u64,
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        let wanted = if self.want == Want::Settled(true) { self.access } else { self.access.difference(Access::WRITE) };
        let mut next = Some(range.start());
        while let Some(address) = next.filter(|address| range.contains(*address)) {
            next = address.checked_add(page_size::<P>());
            let Some((pages, old)) = tables.translate(platform, address) else { continue };
            if pages.size() != page_size::<P>() {
                next = pages.last().checked_add(1);
            }
            if old.access.contains(wanted) {
                continue;
            }
            if pages.size() != page_size::<P>() {
                let place = BlockPlace::of::<P>(pages, address, page_of(address));
                let write = self.want == Want::Settled(true);
                raise_large(platform, (self.area, state), tables, place, (self.access, self.global), write)?;
                continue;
            }
            let answer = self.area.page(platform, state, page_of(address), self.want, reserve);
            let Answer::Page { frame, writable, .. } = answer else { continue };
            let leaf = self.leaf(frame, writable);
            if leaf.access.contains(old.access) && leaf.access != old.access && leaf.frame == old.frame {
                // The frame stays and permission is only added: there is nothing to flush.
                let mut nothing = Gather::default();
                if leaf.access.contains(Access::WRITE) {
                    // Tables above may forbid it since the space was cloned.
                    tables.push_down(platform, address)?;
                }
                tables.set_page(platform, address, leaf, &mut reserve.tables, &mut nothing)?;
            }
        }
        Ok(())
    }
}

/// The leaf that a window shows a frame with.
pub(super) fn leaf_for<P: Platform>(
    area: &AreaInner<P>,
    access: Access,
    global: bool,
    frame: crate::addr::Frame,
    writable: bool,
) -> Leaf {
    let access = if writable { access } else { access.difference(Access::WRITE) };
    // Dirtiness is in the tree, so the hardware is spared its marks.
    let mut leaf = Leaf::new(frame).access(access).memory(area.memory()).used();
    leaf.global = global;
    leaf
}

/// Refuses what the format cannot represent, so that no fault meets it later: the access, the memory type, the frames.
pub(super) fn check_encoding<P: Platform, M: Mmu>(
    area: &AreaInner<P>,
    tables: &Tables<M>,
    access: Access,
    global: bool,
    first: u64,
    pages: u64,
) -> Result<(), SpaceError> {
    if !allows_anything(access) {
        // No leaf ever stands for it.
        return Ok(());
    }
    let last = match area.kind() {
        AreaKind::Fixed { frames, .. } => frames.first().add(first + (pages - 1)),
        _ => crate::addr::Frame::new(0),
    };
    for writable in [false, true] {
        let leaf = leaf_for(area, access, global, last, writable);
        tables.mmu().encode_leaf(0, leaf).map_err(SpaceError::Encode)?;
    }
    Ok(())
}

/// The highest level at which leaves are tried.
pub(super) fn largest<M: Mmu>(tables: &Tables<M>) -> usize {
    tables.mmu().levels().saturating_sub(1)
}
