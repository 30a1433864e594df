//! A page of an area that is kept while bytes are moved to or from it with no lock held.
//!
//! ```text
//!   area locked:    the page ──► its frame, counted once more; a writer is noted; the area is kept
//!   no lock held:   bytes are moved (what they are moved to may fault)
//!   area locked:    all of it given up
//! ```
//!
//! A frame that is held may leave its area meanwhile (the area shrinks, the page is evicted): it is not freed, and what is written to it
//! is lost with the page. While a page is written to, the area is not copied and no page of it is (see `writers`): the bytes would be in one
//! of the two alone.

use core::ptr::NonNull;

use super::inner::{Answer, AreaInner, AreaState, release_area};
use super::{Want, release_page};
use crate::addr::Frame;
use crate::frame::Reserve;
use crate::paging::Pending;
use crate::platform::Platform;

/// A page's frame, held until this value is dropped. That takes the area's lock.
pub(crate) struct HeldPage<'a, P: Platform> {
    platform: &'a P,
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
    index: u64,
    frame: Frame,
    /// Whether it is noted as being written to.
    writes: bool,
}

impl<P: Platform> AreaInner<P> {
    /// Holds a page for reading or writing. `None` for one that does not exist, and is wanted for reading: it reads as zero, and does not come into being.
    ///
    /// What is written to may have to be copied first: views forget the page it was, which `pending` carries.
    ///
    /// # Errors
    /// The area's answer, where that is no page.
    ///
    /// # Safety
    /// The area is alive, and the state is its own.
    pub(crate) unsafe fn hold<'a>(
        platform: &'a P,
        area: NonNull<Self>,
        state: &mut AreaState<P>,
        (index, write): (u64, bool),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<Option<HeldPage<'a, P>>, Answer> {
        // SAFETY: the caller's promise.
        let inner = unsafe { area.as_ref() };
        let want = match (write, inner.is_paged()) {
            // A page that was brought is marked after each write: nothing keeps it from being written back in between.
            (true, true) => Want::Read,
            (true, _) => Want::Write,
            (false, _) => Want::Look,
        };
        let frame = match inner.page(platform, state, index, want, reserve) {
            Answer::Page { frame, .. } => frame,
            Answer::Replaced { frame, old, .. } => {
                state.withdraw(platform, area, (index, old), reserve, pending);
                frame
            }
            Answer::Zero => return Ok(None),
            answer => return Err(answer),
        };
        // SAFETY: the caller's promise.
        Ok(Some(unsafe { Self::hold_frame(platform, area, state, (index, write), frame) }))
    }

    /// Holds a page that is in this frame.
    ///
    /// # Safety
    /// The area is alive, and the state is its own.
    pub(super) unsafe fn hold_frame<'a>(
        platform: &'a P,
        area: NonNull<Self>,
        state: &mut AreaState<P>,
        (index, write): (u64, bool),
        frame: Frame,
    ) -> HeldPage<'a, P> {
        // SAFETY: the caller's promise.
        let inner = unsafe { area.as_ref() };
        let writes = write && !inner.is_paged() && !inner.is_fixed();
        if writes {
            state.rest_mut().writers += 1;
        }
        if !inner.is_fixed() {
            platform.frame_meta(frame).inspect(|meta| meta.add_reference());
        }
        // As one of a gate's, so that nobody takes it for a handle.
        inner.add_window_reference();
        state.rest_mut().gate_count += 1;
        HeldPage { platform, area, index, frame, writes }
    }
}

impl<P: Platform> HeldPage<'_, P> {
    pub(crate) const fn frame(&self) -> Frame {
        self.frame
    }

    /// Notes that bytes were written. False if the page is not the area's any more, and has to be held and written anew: a
    /// page that was brought, written back without these bytes, and evicted.
    pub(crate) fn note_written(&self, reserve: &mut Reserve<P>) -> bool {
        // SAFETY: the reference that is held keeps the area alive.
        let area = unsafe { self.area.as_ref() };
        !area.is_paged() || area.lock(self.platform).mark_written(self.platform, self.index, self.frame, reserve)
    }
}

impl<P: Platform> Drop for HeldPage<'_, P> {
    fn drop(&mut self) {
        // SAFETY: the reference that is held keeps the area alive.
        let area = unsafe { self.area.as_ref() };
        {
            let mut state = area.lock(self.platform);
            if self.writes {
                let rest = state.rest_mut();
                rest.writers = rest.writers.saturating_sub(1);
            }
            let rest = state.rest_mut();
            rest.gate_count = rest.gate_count.saturating_sub(1);
        }
        if !area.is_fixed() {
            release_page(self.platform, self.frame);
        }
        // SAFETY: the reference is given up, with no lock held.
        unsafe { release_area(self.platform, self.area) };
    }
}
