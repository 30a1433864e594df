//! Pages that go with the addresses that showed them: what a program gives up of its own memory.

use crate::addr::PageRange;
use crate::frame::{Need, Reserve};
use crate::paging::{Mmu, Pending};
use crate::platform::Platform;
use crate::vm_area::{AreaError, AreaState, give_up};
use crate::vm_space::advise::{is_released, pages_of};
use crate::vm_space::edit::Part;
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::window::{Window, WindowState};
use crate::vm_space::{Space, SpaceError};

/// What becomes of the windows whose pages are released.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    Stay,
    /// They go in the same change: an area of which nothing is shown then goes with them, and its pages with it.
    Go,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// What it takes to release the pages in a range that nothing else reaches.
    ///
    /// # Errors
    /// A page is pinned.
    pub(super) fn need_to_release(
        &self,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        windows: Windows,
    ) -> Result<Need, SpaceError> {
        let mut need = Need::default();
        for slot in index.overlapping(range) {
            let (Some(window), Some(part)) = (slot.window, slot.range.intersection(range)) else { continue };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            let part = Part { range: part, window, area };
            let state = area.lock(self.platform());
            if window.state == WindowState::Live
                && is_released(&part, &state)
                && !(windows == Windows::Go && goes_whole(&slot, &part, &state))
            {
                need.merge(&need_for_part(self.platform(), &part, &state)?);
            }
        }
        Ok(need)
    }

    /// Releases what `range` covers of a slot, as far as nothing else reaches it. What it takes was [reserved](Self::need_to_release).
    pub(super) fn release_part(
        &self,
        slot: &Slot<Window<P, M>>,
        range: PageRange,
        windows: Windows,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) {
        let (Some(window), Some(part)) = (slot.window, slot.range.intersection(range)) else { return };
        // SAFETY: windows in the index are alive while it is locked (which the caller sees to), and so are their areas.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area) };
        // SAFETY: as above.
        let part = unsafe { Part { range: part, window, area: area.as_ref() } };
        let mut state = part.area.lock(self.platform());
        let goes = windows == Windows::Go && goes_whole(slot, &part, &state);
        if window.state != WindowState::Live || !is_released(&part, &state) || goes {
            return;
        }
        let pages = pages_of(&part);
        // Another window went since it was counted, if it is refused: its pages stay.
        // SAFETY: the window holds a reference to the area, which is locked.
        let _ = unsafe { give_up(self.platform(), area, &mut state, pages, None, reserve, pending) };
    }
}

/// What it takes to release the pages of a part, which nothing else reaches.
///
/// # Errors
/// A page is pinned.
pub(super) fn need_for_part<P: Platform, M: Mmu>(
    platform: &P,
    part: &Part<'_, P, M>,
    state: &AreaState<P>,
) -> Result<Need, SpaceError> {
    let (first, count) = pages_of(part);
    match state.first_pinned(platform, first, count) {
        Some(page) => Err(AreaError::Pinned(page << P::PAGE_SHIFT).into()),
        None => Ok(state.need_to_give_up(first, count)),
    }
}

/// Whether the area goes with the part, and its pages with it.
fn goes_whole<P: Platform, M: Mmu>(slot: &Slot<Window<P, M>>, part: &Part<'_, P, M>, state: &AreaState<P>) -> bool {
    part.range == slot.range && state.view_count() == 1
}
