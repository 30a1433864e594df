//! Cutting windows at the edges of a range, and joining neighbours that agree: what every operation on a part of a window begins and ends
//! with.
//!
//! ```text
//!   cut       |----------- window -----------|        join      |-- a --|-- b --|-- c --|     same area, consecutive offsets,
//!                   ^ range     ^                               \_______ a _____________/     same access, limit, flags, inheritance
//!             |- w -|--- new ---|--- new ----|                  (the records of b and c go back to their pool)
//! ```
//!
//! Windows are joined wherever they can be, so that what a space shows determines its windows: a change that is taken back leaves
//! nothing behind.
//!
//! All access to the index that operations on parts need is in this file.

use core::ptr::NonNull;

use crate::addr::{PageRange, RangeError, RangeFault, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::paging::{Gather, Mmu};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState};
use crate::vm_space::index::{Index, Slot, page_size};
use crate::vm_space::window::{Window, WindowFlags, WindowState};
use crate::vm_space::{Space, SpaceError};

/// A live window, and the part of it that an operation concerns.
pub(super) struct Part<'a, P: Platform, M: Mmu> {
    pub(super) range: PageRange,
    pub(super) window: &'a Window<P, M>,
    pub(super) area: &'a AreaInner<P>,
}

impl<P: Platform, M: Mmu> Part<'_, P, M> {
    /// Refuses a sealed window.
    pub(super) fn check_unsealed(&self) -> Result<(), SpaceError> {
        let sealed = self.window.flags.contains(WindowFlags::SEALED);
        if sealed { Err(SpaceError::Sealed(self.range.start())) } else { Ok(()) }
    }

    /// Refuses a window that is locked in memory.
    pub(super) fn check_unlocked(&self) -> Result<(), SpaceError> {
        let locked = self.window.flags.contains(WindowFlags::LOCKED);
        if locked { Err(SpaceError::Locked(self.range.start())) } else { Ok(()) }
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Refuses a range that is not whole pages of this space.
    pub(super) fn check_range(&self, range: PageRange) -> Result<(), SpaceError> {
        let page_mask = page_size::<P>() - 1;
        if self.inner().bounds.covers(range) && (range.start().as_u64() | range.size()) & page_mask == 0 {
            return Ok(());
        }
        let fault = RangeFault::OutsideSpace;
        Err(RangeError { fault, start: range.start().as_u64(), size: range.size() }.into())
    }

    /// Shows `each` the windows of the range in order. The index is locked, and no window is changed by `each`.
    ///
    /// # Errors
    /// The lowest address that is not mapped, is somebody else's, or waits for its flush; what `each` refuses.
    pub(super) fn each_part(
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        mut each: impl FnMut(Part<'_, P, M>) -> Result<(), SpaceError>,
    ) -> Result<(), SpaceError> {
        let mut next = Some(range.start());
        for slot in index.overlapping(range) {
            let Some(part) = slot.range.intersection(range) else { continue };
            if let Some(hole) = next.filter(|next| *next < part.start()) {
                return Err(SpaceError::NoWindow(hole));
            }
            next = part.last().checked_add(1);
            let pointer = slot.window.ok_or(SpaceError::Foreign(part.start()))?;
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (pointer.as_ref(), pointer.as_ref().area.as_ref()) };
            if window.state == WindowState::Gated {
                return Err(SpaceError::Retry(part.start()));
            }
            each(Part { range: part, window, area })?;
        }
        match next {
            Some(hole) if range.contains(hole) => Err(SpaceError::NoWindow(hole)),
            _ => Ok(()),
        }
    }

    /// Shows `each` the live windows of the range in order, after they were [cut](Self::cut) at its edges: their addresses, and pointers through which they
    /// may be changed. The index is locked.
    pub(super) fn each_window(
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        mut each: impl FnMut(PageRange, NonNull<Window<P, M>>),
    ) {
        for slot in index.overlapping(range) {
            let Some(window) = slot.window else { continue };
            // SAFETY: windows in the index are alive while it is locked.
            if unsafe { window.as_ref() }.state == WindowState::Live {
                each(slot.range, window);
            }
        }
    }

    /// Adds the records, and the nodes of the index, that the cuts at the edges of the range take.
    pub(super) fn reserve_cuts(
        &self,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        need: &mut Need,
    ) -> Result<(), SpaceError> {
        let edges = [Some(range.start()), range.last().checked_add(1)];
        let across = edges.map(|edge| live_across(index, edge?));
        let cuts = across.iter().flatten().count();
        let nodes = across.iter().flatten().map(|slot| index.nodes_needed(slot.range.start(), cuts)).sum();
        self.inner().tally.check(cuts, 0, P::PAGE_SHIFT)?;
        if cuts != 0 {
            let tables = self.inner().tables.lock(self.platform());
            let cut = |edge: &Option<VirtAddr>| edge.map_or(0, |edge| tables.tables_to_cut_at(self.platform(), edge));
            need.tables = need.tables.saturating_add(edges.iter().map(cut).sum());
        }
        need.add_objects::<Window<P, M>>(cuts);
        index.add_need(nodes, need);
        Ok(())
    }

    /// Cuts the windows that lie across the edges of the range. What it takes was [reserved](Self::reserve_cuts).
    pub(super) fn cut(&self, index: &mut Index<P, Window<P, M>>, range: PageRange, reserve: &mut Reserve<P>) {
        let platform = self.platform();
        for edge in [Some(range.start()), range.last().checked_add(1)].into_iter().flatten() {
            let Some(slot) = live_across(index, edge) else { continue };
            let Some(pointer) = slot.window else { continue };
            let (Some(low), Some(high)) = parts_at(slot.range, edge) else { continue };
            let Some(record) = reserve.take_object::<Window<P, M>>() else { continue };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let area = unsafe { pointer.as_ref().area.as_ref() };
            let mut state = area.lock(platform);
            area.add_window_reference();
            // SAFETY: the record was just taken for this type; index and area are locked.
            unsafe { cut_off(pointer, low, high, record, &mut state) };
            self.cut_leaf(edge, reserve);
            drop(state);
            let low = Slot { range: low, window: Some(pointer) };
            let high = Slot { range: high, window: Some(record) };
            index.replace(&slot, [Some(low), Some(high), None], reserve);
            self.inner().tally.change((1, 0), (0, 0));
        }
    }

    /// Splits the large leaf that lies across the edge of a window, so that each lies in one. What CPUs remember of it stays true; the pages of it are forgotten one by
    /// one when they change.
    fn cut_leaf(&self, edge: VirtAddr, reserve: &mut Reserve<P>) {
        let mut nothing = Gather::default();
        // Fixed areas may have large leaves that the platform cannot split: what changes them refuses that.
        let _ =
            self.inner().tables.lock(self.platform()).cut_at(self.platform(), edge, &mut reserve.tables, &mut nothing);
    }

    /// Joins the windows in the range with one another and with their neighbours outside, where they can be one.
    pub(super) fn join(&self, index: &mut Index<P, Window<P, M>>, range: PageRange, reserve: &mut Reserve<P>) {
        let platform = self.platform();
        let mut border = Some(range.start());
        while let Some(at) = border {
            border = None;
            let right = index.find_near(at);
            if let Some(right) = right {
                // Up to the one behind the range.
                border = right.range.last().checked_add(1).filter(|next| range.last().checked_add(1) >= Some(*next));
            }
            let left = at.as_u64().checked_sub(1).and_then(|last| index.find_near(VirtAddr::new(last)));
            let (Some(left), Some(right)) = (left, right) else { continue };
            let (Some(stays), Some(goes)) = (left.window, right.window) else { continue };
            if stays == goes {
                continue;
            }
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let area = unsafe {
                if !stays.as_ref().is_carried_on_by(goes.as_ref()) {
                    continue;
                }
                stays.as_ref().area.as_ref()
            };
            let both = PageRange::from_bounds(left.range.start(), right.range.last());
            let mut state = area.lock(platform);
            // SAFETY: the second carries the first on; index and area are locked.
            unsafe { join_two(stays, goes, &mut state) };
            area.drop_window_reference();
            drop(state);
            if !index.splice(left.range.start(), 2, [Some(Slot { range: both, window: Some(stays) }), None, None]) {
                let _ = index.remove(right.range.start(), reserve);
                index.set(left.range.start(), Slot { range: both, window: Some(stays) });
            }
            self.inner().tally.change((0, 0), (1, 0));
            // SAFETY: neither index nor area know the record any more; nothing in it needs dropping.
            unsafe { reserve.put_object(goes) };
        }
    }
}

/// Cuts a window in two: the higher part gets the record.
///
/// # Safety
/// The window is live and has these two parts; its index and its area are locked. The record was taken for this type, nobody else knows it, and a reference to the
/// area is counted for it.
pub(super) unsafe fn cut_off<P: Platform, M: Mmu>(
    window: NonNull<Window<P, M>>,
    low: PageRange,
    high: PageRange,
    record: NonNull<Window<P, M>>,
    state: &mut AreaState<P>,
) {
    // SAFETY: the record is linked nowhere; bounds are written with index and area locked.
    unsafe {
        let part = window.as_ref().part(high);
        record.write(part);
        state.link_view(record.cast());
        Window::set_bounds(window, low);
    }
}

/// Makes a window one with the next, whose record is free afterwards, but for the index; and its reference to the area is not counted any more, which the caller sees to.
///
/// # Safety
/// The second [carries the first on](Window::is_carried_on_by); their index and their area are locked.
pub(super) unsafe fn join_two<P: Platform, M: Mmu>(
    stays: NonNull<Window<P, M>>,
    goes: NonNull<Window<P, M>>,
    state: &mut AreaState<P>,
) {
    // SAFETY: the view is linked in its area. The record is known to that and the index alone: a live window is in no flush.
    unsafe {
        state.unlink_view(goes.cast());
        Window::take_in(stays, goes);
    }
}

/// The slot of the live window that an address cuts in two.
fn live_across<P: Platform, M: Mmu>(index: &Index<P, Window<P, M>>, edge: VirtAddr) -> Option<Slot<Window<P, M>>> {
    let slot = index.find_near(edge).filter(|slot| slot.range.start() < edge)?;
    // SAFETY: windows in the index are alive while it is locked.
    (unsafe { slot.window?.as_ref() }.state == WindowState::Live).then_some(slot)
}

/// What of a range lies below an address, and from it on.
fn parts_at(range: PageRange, edge: VirtAddr) -> (Option<PageRange>, Option<PageRange>) {
    let high = PageRange::from_bounds(edge, range.last());
    (range.before(high), Some(high))
}
