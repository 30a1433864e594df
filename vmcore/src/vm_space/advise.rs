//! What a program says about memory that it will or will not use.
//!
//! ```text
//!   not needed      window ─► area that nothing else reaches:   its pages go (after the flush); the next access finds zeros
//!                   window ─► area with a handle, or that       the tables forget them; the pages stay
//!                             another window shows too
//! ```

use crate::addr::PageRange;
use crate::frame::{Need, Reserve};
use crate::paging::{Access, Flush, Gather, Mmu, Pending};
use crate::platform::Platform;
use crate::vm_area::{Answer, AreaState, ViewChange, Want, give_up};
use crate::vm_space::edit::Part;
use crate::vm_space::fill::leaf_for;
use crate::vm_space::index::{Slot, page_size};
use crate::vm_space::protect::allows_anything;
use crate::vm_space::release::need_for_part;
use crate::vm_space::unmap::{clear_tables, unlink_empty_tables};
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

/// What is said about a range; see [`Space::advise`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Advice {
    /// It is used soon: what is resident is mapped now, so that reading it does not fault. No page is made.
    Needed,
    /// Its contents are not needed any more: pages that nothing else reaches are released, and read as zero from then on; of a private view of a paged area
    /// ([`Area::overlay`](crate::vm_area::Area::overlay)), as that area's.
    NotNeeded,
    /// Its contents are not needed any more, but releasing them is not urgent: an access finds what was there, or zeros. What is written
    /// from now on is kept.
    FreeLazily,
    /// Large pages are wanted ([`WindowFlags::HUGE`]): a fault or populating makes them from now on. What is resident already is [promoted](Space::promote) when the kernel
    /// asks for it.
    Huge,
    /// Large pages are not wanted ([`WindowFlags::NEVER_HUGE`]).
    NeverHuge,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Takes advice about a range. All or nothing.
    ///
    /// *Not needed* releases the pages of windows that are not [`SHARED`](WindowFlags::SHARED) and whose area has no handle any more (the caller mapped it and dropped its handle: anonymous
    /// memory) and that no other window shows, one that waits for its flush included; untracked pages always. Other pages are dropped from
    /// the tables alone, and those of fixed areas stay mapped. Released pages are free when the flush is complete.
    ///
    /// *Free lazily* marks pages that *not needed* would release, and that no clone or snapshot has as well and no large page holds, and leaves all others as they are. A page that is marked stays until
    /// [`reclaim`](Self::reclaim) takes it, or its window goes; the first write to it after the flush keeps it.
    ///
    /// Cost: O(log n + windows + pages); takes for *not needed* an object and the nodes of two cut edges per window, for *needed* the missing tables, for *free lazily* nothing, for others at
    /// most two records, and tables where a large leaf is split.
    ///
    /// # Errors
    /// Nothing was changed: the lowest address at which nothing is mapped ([`SpaceError::NoWindow`]) or a change is still being flushed ([`SpaceError::Retry`]); for *not needed* and *free lazily*, that a window is
    /// sealed or locked ([`SpaceError::Sealed`], [`SpaceError::Locked`]); the range is not the space's, or holds foreign tables; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Advice, MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// drop(area); // from here on the window alone keeps it
    /// space.advise(space.range(0x40_1000, 0x2000).unwrap(), Advice::NotNeeded).unwrap().complete();
    /// assert_eq!(space.window_after(range.start()).unwrap().resident_pages, 2);
    /// # }
    /// ```
    pub fn advise(&self, range: PageRange, advice: Advice) -> Result<Flush<P, ()>, SpaceError> {
        let (huge, never) = (WindowFlags::HUGE, WindowFlags::NEVER_HUGE);
        match advice {
            Advice::Needed => self.map_resident(range)?,
            Advice::NotNeeded => return self.discard(range),
            Advice::FreeLazily => return self.mark_discardable(range),
            Advice::Huge => self.flag(range, huge, never, |_| Ok(()))?,
            Advice::NeverHuge => self.flag(range, never, huge, |_| Ok(()))?,
        }
        Ok(Flush::new(self.platform().clone(), Pending::new(), ()))
    }

    /// Maps what is resident, for reading.
    fn map_resident(&self, range: PageRange) -> Result<(), SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let index = inner.lock_index(platform);
            need = Need::default();
            let mut pages = 0_u64;
            Self::each_part(&index, range, |part| {
                let state = part.area.lock(platform);
                let tables = inner.tables.lock(platform);
                each_resident(&part, &state, |run| {
                    pages = pages.saturating_add(self.pages_to_show(&tables, run));
                    need.tables = need.tables.saturating_add(tables.tables_to_map_at_most(run));
                    Ok(())
                })
            })?;
            if !reserve.covers(&need) {
                continue;
            }
            self.check_shown(&inner.tables.lock(platform), pages, need.tables)?;
            let mut spare = reserve.tables.take();
            let result = Self::each_part(&index, range, |part| {
                let mut state = part.area.lock(platform);
                let mut tables = inner.tables.lock(platform);
                inner.break_before_make(platform, part.window.may_be_remembered(&state), part.range)?;
                let mut next = Some(part.range);
                while let Some(run) = next.and_then(|rest| next_resident(&part, &state, rest)) {
                    next = part.range.after(run);
                    if tables.tables_to_map_at_most(run) > spare.len() {
                        // More became resident since it was counted: that is for faults to map.
                        break;
                    }
                    tables.fill(platform, run, &mut spare, |address| {
                        let page = part.window.area_page(address);
                        if self.first_guard(part.window, PageRange::from_checked(address, page_size::<P>())).is_some() {
                            return None;
                        }
                        // What has to be brought, and what waits for the flush of another memory type, is for faults to map.
                        if part.area.awaits(&state, page) || part.area.first_refused(&state, page, 1).is_some() {
                            return None;
                        }
                        match part.area.page(platform, &mut state, page, Want::Settled(false), &mut reserve) {
                            Answer::Page { frame, writable, .. } => {
                                Some(leaf_for(part.area, part.window.access, inner.global, frame, writable))
                            }
                            _ => None,
                        }
                    })?;
                }
                Ok(())
            });
            reserve.tables = spare;
            return result;
        }
    }

    /// Gives pages back that were advised to be [freed lazily](Advice::FreeLazily) and not written to since, `most` of them at the most, the lowest first; gives how many. They are free when the
    /// flush is complete. Pages that a clone or a snapshot has as well, that are being copied, or locked in memory, stay.
    ///
    /// Cost: O(log n + windows + resident pages of those that were advised so). Allocates nothing.
    ///
    /// # Errors
    /// The range is not the space's.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_space::{Advice, Inherit, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// # let space = Space::user(&kernel, Default::default()).unwrap();
    /// let range = space.map_anonymous(0x2000, Place::At(0x40_0000), Access::USER_DATA, Inherit::Copy, 0).unwrap();
    /// space.write_bytes(range.start(), &[1; 0x2000]).unwrap().complete();
    /// space.advise(range, Advice::FreeLazily).unwrap().complete();
    /// space.write_bytes(range.start(), b"again").unwrap().complete();
    /// assert_eq!(space.reclaim(space.bounds(), 100).unwrap().complete(), 1);
    /// let (mut first, mut last) = ([0; 6], [1]);
    /// space.read_bytes(range.start(), &mut first).unwrap();
    /// space.read_bytes(range.last(), &mut last).unwrap();
    /// assert_eq!((&first, last), (b"again\x01", [0]));
    /// # }
    /// ```
    pub fn reclaim(&self, range: PageRange, most: u64) -> Result<Flush<P, u64>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        // For nodes that go back with no lock held.
        let mut reserve = Reserve::new(platform);
        let mut pending = Pending::new();
        let mut given = 0;
        let index = inner.lock_index(platform);
        for slot in index.overlapping(range) {
            given += self.change_released(&slot, range, WindowMarks::DROPPED, |window, state, pages| {
                if window.marks.contains(WindowMarks::DISCARDABLE) && !window.flags.contains(WindowFlags::LOCKED) {
                    state.discard_marked(platform, pages, most - given, &mut reserve, &mut pending)
                } else {
                    0
                }
            });
        }
        drop(index);
        Ok(Flush::new(platform.clone(), pending, given))
    }

    /// Marks the pages that nothing else reaches as discardable. Their next write is to be seen.
    fn mark_discardable(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut pending = Pending::new();
        let index = inner.lock_index(platform);
        Self::each_part(&index, range, |part| {
            part.check_unsealed()?;
            part.check_unlocked()
        })?;
        for slot in index.overlapping(range) {
            // Where the format's permissions do not combine over levels, they leave the tables.
            let marks = WindowMarks::DROPPED | WindowMarks::DISCARDABLE;
            self.change_released(&slot, range, marks, |_, state, (first, count)| {
                let marked = state.mark_discardable(platform, first, count);
                if marked != 0 {
                    state.change_views(platform, ViewChange::WriteProtect { first, count }, &mut pending);
                }
                marked
            });
        }
        drop(index);
        Ok(Flush::new(platform.clone(), pending, ()))
    }

    /// Changes pages that nothing reaches but a live window, which shows them within the range; notes it of the window if `change` says that there were any, and gives how many. The
    /// index is locked.
    fn change_released(
        &self,
        slot: &Slot<Window<P, M>>,
        range: PageRange,
        marks: WindowMarks,
        change: impl FnOnce(&Window<P, M>, &mut AreaState<P>, (u64, u64)) -> u64,
    ) -> u64 {
        let (Some(pointer), Some(middle)) = (slot.window, slot.range.intersection(range)) else { return 0 };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let area = unsafe { pointer.as_ref().area.as_ref() };
        let mut state = area.lock(self.platform());
        let changed = {
            // SAFETY: as above.
            let part = Part { range: middle, window: unsafe { pointer.as_ref() }, area };
            if part.window.state != WindowState::Live || !is_released(&part, &state) {
                return 0;
            }
            change(part.window, &mut state, pages_of(&part))
        };
        if changed != 0 {
            // SAFETY: index and area are locked, and no reference to the window is in use.
            unsafe { Window::note(pointer, marks) };
        }
        changed
    }

    /// Releases the pages that nothing else reaches, and drops the others from the tables.
    fn discard(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let index = inner.lock_index(platform);
            need = Need::default();
            Self::each_part(&index, range, |part| {
                part.check_unsealed()?;
                part.check_unlocked()?;
                if part.area.is_fixed() {
                    return Ok(());
                }
                let state = part.area.lock(platform);
                if is_released(&part, &state) {
                    need.merge(&need_for_part(platform, &part, &state)?);
                } else {
                    need.tables += inner.tables.lock(platform).tables_to_split(platform, part.range);
                }
                Ok(())
            })?;
            if !reserve.covers(&need) {
                continue;
            }
            self.check_tables(need.tables)?;
            // From here on nothing fails.
            let (mut pending, mut gather) = (Pending::new(), Gather::default());
            for slot in index.overlapping(range) {
                let (Some(window), Some(middle)) = (slot.window, slot.range.intersection(range)) else { continue };
                // SAFETY: windows in the index are alive while it is locked, and so are their areas.
                let area = unsafe { window.as_ref().area };
                // SAFETY: as above.
                let mut state = unsafe { area.as_ref() }.lock(platform);
                {
                    // SAFETY: as above.
                    let part = unsafe { Part { range: middle, window: window.as_ref(), area: area.as_ref() } };
                    if part.area.is_fixed() {
                        continue;
                    }
                    if part.window.may_linger(Access::empty()) || state.is_unsettled() {
                        // Other CPUs may remember pages that the tables do not show.
                        gather.add_lingering(inner.tag, middle, inner.global);
                    }
                    if is_released(&part, &state) {
                        let (first, count) = pages_of(&part);
                        // SAFETY: the window holds a reference to the area, which is locked.
                        let given = unsafe {
                            give_up(platform, area, &mut state, (first, count), None, &mut reserve, &mut pending)
                        };
                        if given.is_ok() {
                            unlink_empty_tables(platform, inner, middle, &mut gather, &mut pending);
                            continue;
                        }
                        // Another window went since it was counted: its pages stay.
                    }
                }
                // SAFETY: index and area are locked, and no reference to the window is in use.
                unsafe { Window::note(window, WindowMarks::DROPPED) };
                clear_tables(platform, inner, slot, middle, &mut reserve.tables, &mut gather, &mut pending);
                drop(state);
            }
            inner.absorb(platform, gather, &mut pending);
            drop(index);
            return Ok(Flush::new(platform.clone(), pending, ()));
        }
    }
}

/// The area's pages that a part shows: the first and how many.
pub(super) fn pages_of<P: Platform, M: Mmu>(part: &Part<'_, P, M>) -> (u64, u64) {
    (part.window.area_page(part.range.start()), part.range.pages(P::PAGE_SHIFT))
}

/// Whether a part's pages can be reached by nothing but its window.
pub(super) fn is_released<P: Platform, M: Mmu>(part: &Part<'_, P, M>, state: &AreaState<P>) -> bool {
    let (first, count) = pages_of(part);
    let private = !part.window.flags.contains(WindowFlags::SHARED);
    let is_programs = part.area.is_open() || part.area.gap().is_some();
    private && is_programs && !part.area.has_handles(state) && state.is_shown_once(first, count)
}

/// The first run of resident pages in a range, as addresses.
fn next_resident<P: Platform, M: Mmu>(
    part: &Part<'_, P, M>,
    state: &AreaState<P>,
    rest: PageRange,
) -> Option<PageRange> {
    if !allows_anything(part.window.access) || part.area.is_untracked() {
        return None;
    }
    let (from, pages) = (part.window.area_page(rest.start()), rest.pages(P::PAGE_SHIFT));
    let (first, count) =
        if part.area.is_fixed() { (from, pages) } else { state.next_resident(from, from.saturating_add(pages))? };
    let start = rest.start().checked_add((first - from) << P::PAGE_SHIFT)?;
    Some(PageRange::from_checked(start, count << P::PAGE_SHIFT))
}

/// Shows `each` the runs of resident pages in a part.
fn each_resident<P: Platform, M: Mmu>(
    part: &Part<'_, P, M>,
    state: &AreaState<P>,
    mut each: impl FnMut(PageRange) -> Result<(), SpaceError>,
) -> Result<(), SpaceError> {
    let mut next = Some(part.range);
    while let Some(run) = next.and_then(|rest| next_resident(part, state, rest)) {
        each(run)?;
        next = part.range.after(run);
    }
    Ok(())
}
