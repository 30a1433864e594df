//! Faults that go on beside one another: no word is written by two of them, where they are in different areas and leaf tables.
//!
//! ```text
//!   CPU 0                                 CPU 1
//!   its reader slot                       its reader slot            1
//!     window: read                          window: read
//!     area A: locked                        area B: locked           2
//!       the page: from A and a frame          …                      3 (the frame's record; nodes now and then)
//!       the entry, the table's count          …                      4
//! ```
//!
//! These are the four locked operations of a fault on a page that was not there, where the leaf table was; what the embedder's
//! allocator does for the frame is its own.
//!
//! # Why it is sound
//!
//! - With the index held, shared, windows stay as they are, and so does the shape of the space's tables: who links, unlinks, splits, or forbids above has the
//!   index exclusively. An area that changes what its windows show, without it, leaves tables as they are.
//! - With the area locked, its pages and the entries of its windows are this fault's: no other window shows anything there.
//! - A larger leaf or a table above that was write-protected for the area alone is in the way of faults in that area alone.
//!
//! What takes more is not begun: [`attempt_beside`](Space::attempt_beside) says so, and the fault is looked at anew with the index exclusive.

use crate::addr::PageRange;
use crate::frame::Reserve;
use crate::paging::{Access, Filler, Mmu, Pending};
use crate::platform::Platform;
use crate::vm_space::fill::leaf_for;
use crate::vm_space::index::page_size;
use crate::vm_space::window::{WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

use super::around::{NEAR_SHIFT, put_around};
use super::{Attempt, Fault, Resolution, Supplied, allows, supplied, wanted};

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Resolves a fault beside others; `None` where it takes the index exclusively: no window or leaf table is there, something is replaced,
    /// forbidden above or guarded, or somebody changes the space.
    ///
    /// # Errors
    /// What the window refuses, and what the area answers ([`fault`](Space::fault)).
    pub(super) fn attempt_beside(
        &self,
        fault: Fault,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<Option<Attempt>, SpaceError> {
        let (platform, inner, address) = (self.platform(), self.inner(), fault.address);
        let Some(index) = inner.index.try_read(platform) else { return Ok(None) };
        let Some(window) = index.find(address).and_then(|slot| slot.window) else { return Ok(None) };
        // SAFETY: windows in the index are alive while it is held, and so are their areas; they are changed with it held exclusively.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
        if window.state == WindowState::Gated {
            return Err(SpaceError::Retry(address));
        }
        // Where what is shown is limited, it is counted with the index exclusive.
        if window.marks.contains(WindowMarks::GUARDED) || inner.tally.limits_shown() {
            return Ok(None);
        }
        if !allows(window, fault.access) {
            return Err(SpaceError::Denied { address, wanted: fault.access, allowed: window.access });
        }
        if area.is_fixed() {
            return Ok(None);
        }
        let tables = &inner.leaf_tables;
        let mut state = area.lock(platform);
        let Some(found) = tables.find(platform, address) else { return Ok(None) };
        let present = tables.found_leaf(&found);
        if present.is_some_and(|leaf| leaf.access.contains(fault.access.difference(Access::USER))) {
            return Ok(Some(Attempt::Done(Resolution::Spurious)));
        }
        if window.access.contains(Access::WRITE) && tables.writes_are_forbidden_above(&found) {
            return Ok(None);
        }
        if const { M::FORMAT.break_before_make } && present.is_none() && window.may_be_remembered(&state) {
            return Ok(None);
        }
        let index_in_area = window.area_page(address);
        let want = wanted(window, area, &state, fault.access);
        if area.first_refused(&state, index_in_area, 1).is_some() || state.would_replace(platform, index_in_area, want)
        {
            return Ok(None);
        }
        let resident = state.resident();
        let shown = present.map(|leaf| leaf.frame);
        let (frame, writable) =
            match supplied(platform, (area, &mut state), (address, index_in_area), want, shown, reserve)? {
                Supplied::Page(frame, writable) => (frame, writable),
                Supplied::Replaced(_, _, old) => {
                    // It was looked at before; should it be so after all, that needs no more than the area.
                    state.withdraw(platform, window.area, (index_in_area, old), reserve, pending);
                    return Ok(Some(Attempt::Done(Resolution::Mapped)));
                }
                Supplied::Ends(attempt) => return Ok(Some(attempt)),
            };
        let leaf = leaf_for(area, window.access, inner.global, frame, writable);
        // What is resident is read on: its neighbours are mapped with it.
        let page = PageRange::from_checked(address.align_down(P::PAGE_SHIFT), page_size::<P>());
        let was_resident = area.is_tracked() && state.resident() == resident;
        let shift = NEAR_SHIFT.min(tables.pages_shift());
        let around = if was_resident { self.around(window, area, page, shift) } else { None };
        let more = |filler: &mut Filler<'_, M>| {
            if let Some(around) = &around {
                put_around(platform, window, &state, around, filler);
            }
        };
        if tables.set(&found, leaf, around, more) {
            return Ok(Some(Attempt::Done(Resolution::Mapped)));
        }
        if area.is_untracked() && present.is_none() {
            reserve.put_untracked_page(frame);
        }
        Ok(None)
    }
}
