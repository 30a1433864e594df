//! Windows of growing areas: a fault below one extends it downwards.
//!
//! ```text
//!   growing area   0 ──────────── limit                pages are counted from the lowest that there can be, so that
//!                         ▲ first    │                 growing renumbers none: the window's first page decreases
//!   addresses      ┌──────┬──────────┐
//!        below     │      │  window  │
//!   ─────────┐ gap │      └──────────┘
//!            │◄───►│◄ ─ ─ ─ grows ─ ┘
//! ```
//!
//! A fault that finds no window looks at the next one above. If that shows a growing area, the page lies within what the area
//! has below it, and the gap to the neighbour below stays, the window is extended down to the page, and the fault goes on as
//! any other. If it then fails, the extension is taken back before anyone has seen it: the index stays locked.
//!
//! The gap is what *growing* keeps, to what can be accessed and does not grow itself. A window that is mapped into the gap or below it is not refused: whoever chooses its
//! address decides that the stack ends there. [`Place::FirstGap`](crate::vm_space::Place::FirstGap) sees only what windows cover at that moment. Populating does not grow.

use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::window::{Window, WindowState};
use crate::vm_space::{Inherit, Space, SpaceError};

/// A window that was extended, to be taken back if the fault fails.
pub(super) struct Growth<P: Platform, M: Mmu> {
    window: NonNull<Window<P, M>>,
    before: PageRange,
    now: PageRange,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Extends the window above `address`, where there is none, down to it.
    ///
    /// # Errors
    /// No growing window is above, or it cannot come that far: then the address is a guard as far as its gap goes.
    pub(super) fn grow(
        &self,
        index: &mut Index<P, Window<P, M>>,
        address: VirtAddr,
    ) -> Result<Growth<P, M>, SpaceError> {
        let nothing = SpaceError::NoWindow(address);
        let (below, above) = index.neighbours(address);
        let (Some(slot), true) = (above, self.inner().bounds.contains(address)) else { return Err(nothing) };
        let Some(pointer) = slot.window else { return Err(nothing) };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (state, first, area) =
            unsafe { (pointer.as_ref().state, pointer.as_ref().first(), pointer.as_ref().area.as_ref()) };
        let gap = area.gap().ok_or(nothing)?;
        if state == WindowState::Gated {
            return Err(nothing);
        }
        let start = address.align_down(P::PAGE_SHIFT);
        let more = (slot.range.start().as_u64() - start.as_u64()) >> P::PAGE_SHIFT;
        if let Some(beyond) = more.checked_sub(first).filter(|beyond| *beyond != 0) {
            return Err(if beyond <= gap >> P::PAGE_SHIFT { SpaceError::Guard(address) } else { nothing });
        }
        // What nobody can access is a guard already, and what is a stack itself, as a part that was cut off, keeps none from another.
        let needs_gap = |slot: &Slot<Window<P, M>>| {
            let Some(window) = slot.window else { return true };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            let is_closed = window.access.difference(Access::USER).is_empty();
            window.state == WindowState::Gated || !(is_closed || area.gap().is_some())
        };
        if let Some(below) = below.filter(needs_gap) {
            if start.as_u64() - below.range.last().as_u64() <= gap {
                // SAFETY: as above.
                let gated = below.window.is_some_and(|window| unsafe { window.as_ref() }.state == WindowState::Gated);
                return Err(if gated { SpaceError::Retry(address) } else { SpaceError::Guard(address) });
            }
        }
        // A program's own memory is zero where it grows. Where a part of it was moved away, what it would grow over are the pages of the rest; where a part is kept from a
        // clone, the clone would have what it held.
        // SAFETY: as above.
        let is_own = unsafe { pointer.as_ref() }.inherit() == Inherit::Copy;
        if is_own {
            let (from, state) = (first.saturating_sub(more), area.lock(self.platform()));
            if state.is_shown(from, more) || state.next_resident(from, first).is_some() {
                return Err(SpaceError::Guard(address));
            }
        }
        self.inner().tally.check(0, more, P::PAGE_SHIFT)?;
        let growth =
            Growth { window: pointer, before: slot.range, now: PageRange::from_bounds(start, slot.range.last()) };
        self.set_range(index, &growth, growth.before, growth.now);
        Ok(growth)
    }

    /// Takes an extension back. Nothing of it was seen: the index was locked all the time.
    pub(super) fn ungrow(&self, index: &mut Index<P, Window<P, M>>, growth: &Growth<P, M>) {
        self.set_range(index, growth, growth.now, growth.before);
    }

    fn set_range(&self, index: &mut Index<P, Window<P, M>>, growth: &Growth<P, M>, from: PageRange, to: PageRange) {
        let window = growth.window;
        {
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let area = unsafe { window.as_ref().area.as_ref() };
            let _state = area.lock(self.platform());
            // SAFETY: bounds are written with index and area locked, and read with one of them; no reference to the window is used across this. The
            // last page stays what it was, and there are as
            // many pages below the first one as the window grows by (checked).
            unsafe { Window::set_lower_bound(window, to) };
        }
        self.inner().tally.change((0, to.pages(P::PAGE_SHIFT)), (0, from.pages(P::PAGE_SHIFT)));
        let slot = Slot { range: to, window: Some(window) };
        index.set(from.start(), slot);
    }
}
