//! Filling windows ahead of faults.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::lock::Guard;
use crate::paging::{Access, Flush, Mmu, Pending};
use crate::platform::Platform;
use crate::vm_area::AreaState;
use crate::vm_space::fill::Fill;
use crate::vm_space::index::Slot;
use crate::vm_space::protect::allows_anything;
use crate::vm_space::window::{Window, WindowFlags, WindowState};
use crate::vm_space::{Space, SpaceError};

impl<P: Platform, M: Mmu> Space<P, M> {
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
