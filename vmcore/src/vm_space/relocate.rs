//! Windows that move or change their size. Pages stay in their area: what changes is where, and how much of it, a space shows.
//!
//! ```text
//!            from ┌────────┐                      from ┌ gated ─┐ until the flush is acknowledged
//!   before        │ window ├──► area   ──move──►       └────────┴──► area
//!                 └────────┘                        to ┌────────┐     ▲
//!                                                      │ window ├─────┘   what the tables showed goes along
//!                                                      └────────┘
//!
//!            from ┌────────┐                      from ┌────────┐
//!   before        │ window ├──► area   ──leave──►      │ window ├──► fresh area, nothing in it
//!                 └────────┘                           └────────┘    (the gated window, in no index, ─► area until the flush is
//!                                                   to ┌────────┐     acknowledged: what that gives up is flushed here, too)
//!                                                      │ window ├──► area
//!                                                      └────────┘
//! ```

use core::ptr::NonNull;

use crate::addr::{PageRange, RangeError, RangeFault};
use crate::frame::{Need, Reserve};
use crate::paging::{Flush, Gather, Mmu, Pending};
use crate::platform::Platform;
use crate::vm_area::{AreaError, AreaInner, AreaMemory, AreaState};
use crate::vm_space::edit::Part;
use crate::vm_space::index::{Index, Slot, page_size};
use crate::vm_space::map::{Inherit, Place};
use crate::vm_space::unmap::clear_tables;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

/// Where a window goes that is [relocated](Space::relocate).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Destination {
    /// It stays where it is, and becomes smaller or larger.
    InPlace,
    /// It stays where it is if it can, and goes to the lowest gap that is large enough otherwise.
    Anywhere,
    /// It goes to this place.
    To(Place),
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Gives the part of a window at `range` another size (in bytes), another place, or both; gives its new addresses. Pages and rights stay as they are. All or
    /// nothing.
    ///
    /// What it leaves is not reused before the flush is complete, which is empty where it grows in place. A window that grows beyond its area makes the
    /// area larger, if that is open and nothing but windows refers to it. New pages do not exist before they are touched.
    ///
    /// Cost: O(log n + tables and leaves in the range); takes at most three records, and the tables that are missing at the new place.
    ///
    /// # Errors
    /// Nothing was changed. Nothing is mapped in the range, or not by one window ([`SpaceError::NoWindow`], [`SpaceError::SeveralWindows`]); the window is sealed, or locked and to grow; a
    /// change of the old or the new addresses is still being flushed ([`SpaceError::Retry`]); the new addresses are taken or there is no gap; it is to grow, and goes on behind the range
    /// ([`SpaceError::Conflict`]); the area ends there and has handles or cannot grow ([`AreaError::Outside`]); a limit; the size is 0 or not whole pages;
    /// the range is not the space's or holds foreign tables; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Destination, MapRequest, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// drop(area);
    /// let larger = space.relocate(range, 0x8000, Destination::InPlace).unwrap().complete();
    /// assert_eq!((larger.start(), larger.size()), (range.start(), 0x8000));
    /// let frame = space.frame_at(range.start());
    /// let moved = space.relocate(larger, 0x8000, Destination::To(Place::At(0x80_0000))).unwrap().complete();
    /// assert_eq!(space.frame_at(moved.start()), frame);
    /// assert_eq!(space.frame_at(range.start()), None);
    /// # }
    /// ```
    pub fn relocate(
        &self,
        range: PageRange,
        size: u64,
        destination: Destination,
    ) -> Result<Flush<P, PageRange>, SpaceError> {
        let mut pending = Pending::new();
        let range = self.relocate_into(range, size, destination, &mut pending)?;
        Ok(Flush::new(self.platform().clone(), pending, range))
    }

    /// As [`relocate`](Self::relocate), with its flush completed: when it returns no CPU can use anything of the addresses that were left, and they are free. Cheaper than to
    /// [`complete`](Flush::complete) what `relocate` gives, which is large and has to be moved.
    ///
    /// Call it with no lock held that another CPU may need before it can answer.
    ///
    /// Cost: as `relocate`, and the flush.
    ///
    /// # Errors
    /// As `relocate`.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Destination, MapRequest, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// let moved = space.relocate_completed(range, 0x4000, Destination::To(Place::At(0x80_0000))).unwrap();
    /// assert_eq!(moved.start().as_u64(), 0x80_0000);
    /// assert!(space.map(&MapRequest::new(&area).at(0x40_0000)).is_ok(), "the addresses are free");
    /// # }
    /// ```
    pub fn relocate_completed(
        &self,
        range: PageRange,
        size: u64,
        destination: Destination,
    ) -> Result<PageRange, SpaceError> {
        let mut pending = Pending::new();
        let range = self.relocate_into(range, size, destination, &mut pending)?;
        pending.complete_in_place(self.platform());
        Ok(range)
    }

    /// Relocates, and adds what is to be flushed to what was empty; it stays so where nothing was changed.
    fn relocate_into(
        &self,
        range: PageRange,
        size: u64,
        destination: Destination,
        pending: &mut Pending<P>,
    ) -> Result<PageRange, SpaceError> {
        self.check_range(range)?;
        let bad = |fault| Err(RangeError { fault, start: range.start().as_u64(), size }.into());
        if size == 0 {
            return bad(RangeFault::Empty);
        }
        if size & (page_size::<P>() - 1) != 0 {
            return bad(RangeFault::Unaligned);
        }
        let mut reserve = Reserve::new(self.platform());
        match destination {
            Destination::InPlace => self.resize_in_place(range, size, &mut reserve, pending),
            Destination::Anywhere => match self.resize_in_place(range, size, &mut reserve, pending) {
                Err(SpaceError::Conflict(_) | SpaceError::Range(_)) => {
                    self.move_into((range, size), Place::FirstGap, false, &mut reserve, pending)
                }
                result => result,
            },
            Destination::To(place) => self.move_into((range, size), place, false, &mut reserve, pending),
        }
    }

    /// Shows the part of a window at `range` at another place, and leaves the old addresses mapped and empty; gives the new addresses. How a collector of garbage takes pages away
    /// from under a program that it stops at its next access there. All or nothing.
    ///
    /// What is left depends on whose memory it is:
    ///
    /// | memory | the old addresses show |
    /// |---|---|
    /// | open or private, whose area has no handle, in a window that clones do not [share](Inherit::Share) | fresh memory, which reads as zero (of a private view of a paged area: as that area's contents) and is paid for by the same account |
    /// | any other tracked, paged or fixed memory | the same pages as the new addresses; the tables are empty until they are touched |
    /// | untracked; growing | – (refused) |
    ///
    /// The pages, guards, and what is locked in memory go along; the old window keeps its access and its other flags, and does not lock its pages. The old addresses
    /// stay mapped all the time; until the flush is complete CPUs may still reach the pages there.
    ///
    /// Cost: O(log n + tables and leaves in the range); takes at most four records, an area, and the tables that are missing at the new place. No page is copied.
    ///
    /// # Errors
    /// As for [`relocate`](Self::relocate) to a place: nothing was changed. Untracked memory ([`SpaceError::SingleWindow`]), and growing areas ([`AreaError::Kind`]), cannot be left.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::addr::VirtAddr;
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_space::{Inherit, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// # let space = Space::user(&kernel, Default::default()).unwrap();
    /// let old = space.map_anonymous(0x4000, Place::At(0x40_0000), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    /// space.write_bytes(old.start(), b"live").unwrap().complete();
    /// let new = space.relocate_leaving(old, Place::At(0x80_0000)).unwrap().complete();
    /// let mut bytes = [[1; 4]; 2];
    /// space.read_bytes(old.start(), &mut bytes[0]).unwrap();
    /// space.read_bytes(new.start(), &mut bytes[1]).unwrap();
    /// assert_eq!(&bytes, &[*b"\0\0\0\0", *b"live"]);
    /// # }
    /// ```
    pub fn relocate_leaving(&self, range: PageRange, place: Place) -> Result<Flush<P, PageRange>, SpaceError> {
        self.check_range(range)?;
        self.move_with(range, range.size(), place, true, &mut Reserve::new(self.platform()))
    }

    fn resize_in_place(
        &self,
        range: PageRange,
        size: u64,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<PageRange, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let mut index = inner.lock_index_at(platform, range.start());
        let (slot, pages) = self.check_source(&index, range, size)?;
        let kept = inner.tables.lock(platform).mmu().range(range.start().as_u64(), size)?;
        if !inner.bounds.covers(kept) {
            let fault = RangeFault::OutsideSpace;
            return Err(RangeError { fault, start: range.start().as_u64(), size }.into());
        }
        if let Some(rest) = range.after(kept) {
            drop(index);
            let check = |index: &_| self.check_source(index, range, size).map(|_| ());
            self.unmap_into(rest, false, check, reserve, pending)?;
            return Ok(kept);
        }
        if let Some(more) = kept.after(range) {
            if let Some(other) = index.overlapping(more).next() {
                // SAFETY: windows in the index are alive while it is locked.
                let gated = other.window.is_some_and(|window| unsafe { window.as_ref() }.state == WindowState::Gated);
                return Err(if gated {
                    SpaceError::Retry(other.range.start())
                } else {
                    SpaceError::Conflict(other.range)
                });
            }
            inner.tally.check(0, more.pages(P::PAGE_SHIFT), P::PAGE_SHIFT)?;
            self.extend(&mut index, slot, more, pages, reserve);
        }
        Ok(kept)
    }

    /// Has the window of a slot show what lies behind it as well, of an area that has so many pages then.
    pub(super) fn extend(
        &self,
        index: &mut Index<P, Window<P, M>>,
        slot: Slot<Window<P, M>>,
        more: PageRange,
        pages: u64,
        reserve: &mut Reserve<P>,
    ) {
        let Some(window) = slot.window else { return };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let area = unsafe { window.as_ref().area.as_ref() };
        let mut state = area.lock(self.platform());
        state.grow_to(pages);
        // SAFETY: index and area are locked, and no reference to the window is in use.
        unsafe { Window::extend(window, more.pages(P::PAGE_SHIFT)) };
        drop(state);
        let grown = PageRange::from_bounds(slot.range.start(), more.last());
        index.set(slot.range.start(), Slot { range: grown, window: Some(window) });
        self.inner().tally.change((0, more.pages(P::PAGE_SHIFT)), (0, 0));
        self.join(index, grown, reserve);
    }

    /// Shows a part of a window at another place, out of a reserve. If it is to be left, as many pages as before, it stays as a window of its own where it was.
    pub(super) fn move_with(
        &self,
        range: PageRange,
        size: u64,
        place: Place,
        leave: bool,
        reserve: &mut Reserve<P>,
    ) -> Result<Flush<P, PageRange>, SpaceError> {
        let mut pending = Pending::new();
        let to = self.move_into((range, size), place, leave, reserve, &mut pending)?;
        Ok(Flush::new(self.platform().clone(), pending, to))
    }

    /// The same, and adds what is to be flushed to what was empty; it stays so where nothing was changed.
    fn move_into(
        &self,
        (range, size): (PageRange, u64),
        place: Place,
        leave: bool,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<PageRange, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index_at(platform, range.start());
            let (slot, pages) = self.check_source(&index, range, size)?;
            let Some(window) = slot.window else { return Err(SpaceError::Foreign(range.start())) };
            let cuts = usize::from(slot.range.before(range).is_some()) + usize::from(slot.range.after(range).is_some());
            inner.tally.check(cuts + 1, size >> P::PAGE_SHIFT, P::PAGE_SHIFT)?;
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let area = unsafe { window.as_ref().area.as_ref() };
            let mut state = area.lock(platform);
            // SAFETY: as above.
            let stays = if leave { Some(Stays::of(unsafe { window.as_ref() }, area, &state)?) } else { None };
            let mut tables = inner.tables.lock(platform);
            // SAFETY: as above.
            let first = unsafe { window.as_ref() }.area_page(range.start());
            let to = self.find_place(&index, area, &place.into(), first, size)?;
            // SAFETY: as above.
            if unsafe { window.as_ref() }.marks.contains(WindowMarks::GUARDED) {
                inner.guards.lock(platform).reserve(3)?;
            }
            // What both places show goes along.
            let shown = size.min(range.size());
            let moved = PageRange::from_checked(range.start(), shown);
            let arrives = PageRange::from_checked(to.start(), shown);
            let rest = range.after(moved);
            need = Need::default();
            let nodes = [slot.range.start(), to.start()].map(|at| index.nodes_needed(at, cuts + 1)).iter().sum();
            index.add_need(nodes, &mut need);
            need.add_objects::<Window<P, M>>(cuts + 1 + usize::from(leave));
            if stays == Some(Stays::Fresh) {
                AreaInner::add_need_for_fresh(&state, &mut need);
            }
            let plan = tables.plan_move(platform, moved, arrives);
            need.tables = plan.needed();
            if let Some(rest) = rest {
                need.tables += tables.tables_to_split(platform, rest);
            }
            if !reserve.covers(&need) {
                continue;
            }
            self.check_shown(&tables, 0, need.tables)?;
            let Some(object) = reserve.take_object::<Window<P, M>>() else { continue };
            let mut gather = Gather::default();
            if let Err(error) = tables.move_as_planned(platform, &plan, &mut reserve.tables, &mut gather) {
                // SAFETY: the memory is unused still.
                unsafe { reserve.put_object(object) };
                return Err(error.into());
            }
            // From here on nothing fails. The area is locked until its old window is gated, so that what it gives up is flushed at both places.
            state.grow_to(pages);
            // SAFETY: as above.
            let arriving = unsafe { window.as_ref() }.part(moved).moved_to(to);
            let arriving_guarded = arriving.marks.contains(WindowMarks::GUARDED);
            area.add_window_reference();
            // SAFETY: the record was just taken for this type, is linked nowhere, and holds the reference just counted.
            unsafe {
                object.write(arriving);
                state.link_view(object.cast());
            }
            if arriving_guarded {
                // Before the old addresses are gated, which takes the guards there away.
                inner.guards.lock(platform).relocate(range, to);
            }
            let at = (area, &mut *state);
            let mut parts = self.gate_live(slot, window, range, at, reserve, &mut gather, pending);
            if let Some(stays) = stays {
                // As many objects were reserved.
                if let [_, Some(Slot { window: Some(gated), .. }), _] = parts {
                    let left = Self::leave(gated, (area, &mut state), stays, reserve);
                    parts[1] = left.map(|left| Slot { range, window: Some(left) }).or(parts[1]);
                }
            }
            drop((tables, state));
            if let Some(rest) = rest {
                clear_tables(platform, inner, slot, rest, &mut reserve.tables, &mut gather, pending);
            }
            index.replace(&slot, parts, reserve);
            let inserted = index.insert(Slot { range: to, window: Some(object) }, reserve);
            debug_assert!(inserted, "its nodes were counted");
            inner.tally.change((1, to.pages(P::PAGE_SHIFT)), (0, 0));
            self.join(&mut index, to, reserve);
            if leave {
                self.join(&mut index, range, reserve);
            }
            inner.absorb_from(platform, &mut gather, pending);
            return Ok(to);
        }
    }

    /// Makes the window that takes a gated one's place. The index and the area are locked.
    fn leave(
        gated: NonNull<Window<P, M>>,
        (area, state): (&AreaInner<P>, &mut AreaState<P>),
        stays: Stays,
        reserve: &mut Reserve<P>,
    ) -> Option<NonNull<Window<P, M>>> {
        let record = reserve.take_object::<Window<P, M>>()?;
        let fresh = if stays == Stays::Fresh { Some(AreaMemory::take(reserve, state.is_overlay())?) } else { None };
        // SAFETY: windows are alive until their flush is acknowledged, which is this change's. The record and the area were just taken for these types, and the
        // window is linked nowhere; it holds the reference that is counted here, or the one that its area begins with. Marks are written with index and area locked.
        unsafe {
            let window = gated.as_ref().part(gated.as_ref().range());
            record.write(window.left_behind(fresh.as_ref().map_or(gated.as_ref().area, AreaMemory::area)));
            match fresh {
                Some(fresh) => AreaInner::fresh_like(area, state, fresh, record.cast(), reserve),
                None => {
                    area.add_window_reference();
                    state.link_view(record.cast());
                }
            }
            Window::note(gated, WindowMarks::SUCCEEDED);
        }
        Some(record)
    }

    /// Checks that the range lies in one window that may be relocated; gives its slot, and how many pages its area must have then (0 if the window does not grow).
    fn check_source(
        &self,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        size: u64,
    ) -> Result<(Slot<Window<P, M>>, u64), SpaceError> {
        let mut found = None;
        Self::each_part(index, range, |Part { range: part, window, area }| {
            if found.is_some() {
                return Err(SpaceError::SeveralWindows(part.start()));
            }
            if window.flags.contains(WindowFlags::SEALED) {
                return Err(SpaceError::Sealed(part.start()));
            }
            let grows = size > range.size();
            if grows && window.flags.contains(WindowFlags::LOCKED) {
                return Err(SpaceError::Locked(part.start()));
            }
            let (first, shown) = (window.area_page(range.start()), range.pages(P::PAGE_SHIFT));
            found = Some(if grows { grown::<P>(area, &area.lock(self.platform()), (first, shown), size)? } else { 0 });
            Ok(())
        })?;
        let slot = index.find_near(range.start());
        let (Some(slot), Some(pages)) = (slot, found) else { return Err(SpaceError::NoWindow(range.start())) };
        match slot.range.after(range) {
            Some(behind) if size > range.size() => Err(SpaceError::Conflict(behind)),
            _ => Ok((slot, pages)),
        }
    }
}

/// What is shown where pages have left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stays {
    /// Memory of its own, without pages.
    Fresh,
    /// The same pages.
    Same,
}

impl Stays {
    fn of<P: Platform, M: Mmu>(
        window: &Window<P, M>,
        area: &AreaInner<P>,
        state: &AreaState<P>,
    ) -> Result<Self, SpaceError> {
        match area.gap() {
            _ if area.is_untracked() => Err(SpaceError::SingleWindow),
            Some(_) => Err(AreaError::Kind.into()),
            _ if area.is_open() && !area.has_handles(state) && window.inherit() != Inherit::Share => Ok(Self::Fresh),
            _ => Ok(Self::Same),
        }
    }
}

/// How many pages an area has to have for a window of `size` bytes from page `first` on, that shows so many now.
fn grown<P: Platform>(
    area: &AreaInner<P>,
    state: &AreaState<P>,
    (first, shown): (u64, u64),
    size: u64,
) -> Result<u64, SpaceError> {
    let (now, end) = (first.saturating_add(shown), first.saturating_add(size >> P::PAGE_SHIFT));
    if area.is_untracked() && state.is_shown(now, end.saturating_sub(now)) {
        // Another part of what was one window: of pages that only tables know, each is shown at one address.
        return Err(SpaceError::SingleWindow);
    }
    if end <= state.pages() {
        return Ok(state.pages());
    }
    if !area.is_open() || area.has_handles(state) {
        let (offset, area) = (first << P::PAGE_SHIFT, state.pages() << P::PAGE_SHIFT);
        return Err(AreaError::Outside { offset, size, area }.into());
    }
    if state.is_returning() {
        return Err(AreaError::Retry.into());
    }
    if !AreaState::<P>::can_have(end) {
        return Err(AreaError::Size(size).into());
    }
    Ok(end)
}
