//! Pages that stay where they are: pinned for a device, and allocated in consecutive frames.
//!
//! ```text
//!   area    page  0   1   2   3   4   5
//!                 │   │   │   │   │   │          pin(1, 3 pages) ──► Pin: frames 7, 8, 30 as runs 7..=8, 30..=30
//!   frame         4   7   8  30   9   2
//!   pins          0   1   2   1   0   0          a second Pin holds page 2
//! ```
//!
//! A device reads and writes frames, not pages: while it does, the page at an offset must not change its frame, nor the frame
//! its owner. A [`Pin`] keeps both so, and the area alive. Pins are counted in the frame's record, which says
//! [`FrameUse::Pinned`] meanwhile, so that no path frees the frame by mistake; the area counts its pinned pages, so that whoever
//! takes pages away asks per page only where there are any.
//!
//! What would take a pinned page away is *refused* ([`AreaError::Pinned`]) and not put off: whoever shrinks an area relies on
//! the pages being gone with the flush.

use core::fmt;
use core::ptr::NonNull;

use super::inner::{Answer, AreaInner, AreaState, release_area};
use super::{Area, AreaError, Page, Rights, TreeSupply, ViewChange, Want, release_page};
use crate::addr::{Frame, FrameRange};
use crate::frame::{FrameRun, FrameUse, Need, OutOfFrames, Reserve};
use crate::paging::{Flush, Pending};
use crate::platform::Platform;

/// Pages of an area that stay in their frames, for a device to use, while this value lives. Dropping it unpins them: O(pages).
///
/// It keeps the area alive. Forgetting it leaves the pages pinned for ever.
#[must_use = "dropping it unpins the pages"]
pub struct Pin<P: Platform> {
    platform: P,
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
    first: u64,
    count: u64,
}

// SAFETY: as an area's handle.
unsafe impl<P: Platform + Send + Sync> Send for Pin<P> {}
// SAFETY: as an area's handle.
unsafe impl<P: Platform + Send + Sync> Sync for Pin<P> {}

impl<P: Platform> Pin<P> {
    fn inner(&self) -> &AreaInner<P> {
        // SAFETY: the pin's reference keeps the area alive.
        unsafe { self.area.as_ref() }
    }

    /// The offset in the area of the first pinned page, in bytes.
    pub const fn offset(&self) -> u64 {
        self.first << P::PAGE_SHIFT
    }

    /// How many bytes are pinned: whole pages.
    pub const fn size(&self) -> u64 {
        self.count << P::PAGE_SHIFT
    }

    /// The frames of the pinned pages, in order of the pages, consecutive ones joined: what a device's scatter list takes. O(pages).
    pub fn runs(&self) -> impl Iterator<Item = FrameRange> + '_ {
        let mut index = 0;
        core::iter::from_fn(move || {
            let first = self.frame(index)?;
            let mut count = 1;
            while self.frame(index + count) == Some(first.add(count)) {
                count += 1;
            }
            index += count;
            FrameRange::new(first, count)
        })
    }

    /// The frame of the pinned page with this number.
    fn frame(&self, number: u64) -> Option<Frame> {
        if number >= self.count {
            return None;
        }
        let index = self.first.checked_add(number)?;
        match self.inner().frames() {
            Some(frames) => Some(frames.first().add(index)),
            None => self.inner().lock(&self.platform).resident_page(index),
        }
    }
}

impl<P: Platform> Drop for Pin<P> {
    fn drop(&mut self) {
        if !self.inner().is_fixed() {
            self.inner().lock(&self.platform).unpin(&self.platform, self.first, self.count);
        }
        // SAFETY: the pin's reference is given up, with no lock held by the library.
        unsafe { release_area(&self.platform, self.area) };
    }
}

impl<P: Platform> fmt::Debug for Pin<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("offset", &self.offset()).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl<P: Platform> Area<P> {
    /// Keeps the pages that hold these bytes in their frames, for a device to read and write, until the [`Pin`] is dropped. Pages
    /// that do not exist come into being, those that a clone or a snapshot has as well are copied; all count as written to. A page can be pinned several times. All or
    /// nothing. The device may begin once the flush is complete (it is empty unless pages were copied).
    ///
    /// While a page is pinned, what would take it away is refused with [`AreaError::Pinned`]: shrinking the area, giving its section back.
    /// The pages of a fixed area stay where they are by themselves.
    ///
    /// Cost: O(pages); takes frames for pages that are missing.
    ///
    /// # Errors
    /// No right to read or to write, no bytes, bytes outside of the area or in a guard, an untracked area, a page with 65,535 pins,
    /// [`AreaError::Retry`] while a change of the area or of a page is being flushed, out of frames. Nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaError, AreaKind};
    /// let sim = Sim::builder().build();
    /// let buffer = Area::new(&sim, AreaKind::Open { size: 0x4000 }, 0).unwrap();
    /// let pin = buffer.pin(0x1800, 0x1000).unwrap().complete();
    /// assert_eq!((pin.offset(), pin.size()), (0x1000, 0x2000));
    /// for run in pin.runs() {
    ///     // the device is told run.first() and run.count()
    /// #   assert_eq!(buffer.frame_at(0x1000), Some(run.first()));
    /// #   break;
    /// }
    /// assert!(matches!(buffer.resize(0x2000), Err(AreaError::Pinned(0x2000))));
    /// drop(pin);
    /// buffer.resize(0x2000).unwrap().complete();
    /// # }
    /// ```
    pub fn pin(&self, offset: u64, size: u64) -> Result<Flush<P, Pin<P>>, AreaError> {
        self.require(Rights::READ | Rights::WRITE)?;
        let platform = self.platform();
        if size == 0 {
            return Err(AreaError::Range { offset, size });
        }
        if self.inner().is_untracked() {
            return Err(AreaError::Kind);
        }
        let (first, count) = self.byte_range(offset, size)?;
        if self.inner().is_fixed() {
            return Ok(Flush::new(platform.clone(), Pending::new(), self.pinned(first, count)?));
        }
        self.ask_for_missing(first, count)?;
        let mut pending = Pending::new();
        match self.pin_pages(first, count, &mut pending) {
            Ok(pin) => Ok(Flush::new(platform.clone(), pending, pin)),
            Err(error) => {
                // What was copied is true once it is flushed, pinned or not.
                pending.complete(platform);
                Err(error)
            }
        }
    }

    fn pin_pages(&self, first: u64, count: u64, pending: &mut Pending<P>) -> Result<Pin<P>, AreaError> {
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut state = self.inner().lock(platform);
            // The area may have shrunk since its bounds were looked at.
            if let Some((page, answer)) = self.inner().first_refused(&state, first, count) {
                if let Answer::Retry = answer {
                    return Err(AreaError::Retry);
                }
                let area = state.end() << P::PAGE_SHIFT;
                return Err(AreaError::Outside { offset: page << P::PAGE_SHIFT, size: 1 << P::PAGE_SHIFT, area });
            }
            if state.is_closed(first, count) {
                // Before any page is made for it.
                return Err(AreaError::Retry);
            }
            need = state.need_for(first, count);
            need.merge(&state.need_to_own(platform, first, count));
            if !reserve.covers(&need) {
                continue;
            }
            state.charge_ahead(need.pages)?;
            reserve.charged = need.pages;
            let (mut done, mut refused) = (0, None);
            while done < count {
                let answer = match state.come_round(first, first + done) {
                    Some(frame) => Answer::Page { frame, writable: true },
                    None => self.inner().page(platform, &mut state, first + done, Want::Write, &mut reserve),
                };
                let frame = match answer {
                    Answer::Page { frame, .. } => frame,
                    Answer::Replaced { frame, old, .. } => {
                        state.withdraw(platform, self.pointer(), (first + done, old), &mut reserve, pending);
                        frame
                    }
                    Answer::Short(more) => {
                        need.merge(&more);
                        break;
                    }
                    answer => {
                        refused = Some(answer);
                        break;
                    }
                };
                if !state.pin_frame(platform, frame) {
                    state.settle(platform, &mut reserve);
                    state.unpin(platform, first, done);
                    return Err(AreaError::TooManyHandles);
                }
                done += 1;
            }
            state.settle(platform, &mut reserve);
            if done == count {
                return self.pinned(first, count).inspect_err(|_| state.unpin(platform, first, count));
            }
            state.unpin(platform, first, done);
            if let Some(answer) = refused {
                drop(state);
                return Err(match answer {
                    // It was given up since it was looked at: what is asked for has to be handed out.
                    Answer::Request(_) | Answer::Wait(_) | Answer::Failed => {
                        let (offset, size) = (first << P::PAGE_SHIFT, usize::try_from(count).unwrap_or(usize::MAX));
                        self.refusal(&answer, first + done, (offset, size))
                    }
                    _ => AreaError::Retry,
                });
            }
        }
    }

    /// Makes pages in consecutive frames, the first frame's number a multiple of 2^`alignment`, and pins them: memory for a device that takes one physical
    /// address. They read as zero; [`Pin::runs`] gives the one run. Once the pin is dropped they are pages like any others. All or nothing.
    ///
    /// Cost: O(pages); takes the frames in one request ([`FrameUse::Pinned`]).
    ///
    /// # Errors
    /// No right to read or to write, bytes that are not whole pages of the area (of a ring: of its first half) or lie in a guard, a fixed or untracked area, a page of them that is
    /// resident, a full account, no such frames in a row. Nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// let sim = Sim::builder().build();
    /// let rings = Area::new(&sim, AreaKind::Open { size: 0x1_0000 }, 0).unwrap();
    /// let pin = rings.allocate(0x4000, 0x4000, 2).unwrap().complete();
    /// let run = pin.runs().next().unwrap();
    /// assert_eq!((run.count(), run.first().number() % 4), (4, 0));
    /// assert_eq!(rings.frame_at(0x5000), Some(run.first().add(1)));
    /// # }
    /// ```
    pub fn allocate(&self, offset: u64, size: u64, alignment: u32) -> Result<Flush<P, Pin<P>>, AreaError> {
        self.require(Rights::READ | Rights::WRITE)?;
        if self.inner().is_fixed()
            || self.inner().is_untracked()
            || self.inner().is_paged()
            || self.inner().below().is_some()
        {
            return Err(AreaError::Kind);
        }
        let platform = self.platform();
        if size == 0 || (offset | size) & ((1 << P::PAGE_SHIFT) - 1) != 0 {
            return Err(AreaError::Range { offset, size });
        }
        let (first, count) = self.byte_range(offset, size)?;
        if self.inner().is_ring() {
            let memory = self.size() / 2;
            if offset + size > memory {
                return Err(AreaError::Outside { offset, size, area: memory });
            }
        }
        let lacking = AreaError::OutOfFrames(OutOfFrames { wanted: count });
        let frames = FrameRun::allocate(platform, FrameUse::Pinned, count, alignment).ok_or(lacking)?;
        let mut reserve = Reserve::new(platform);
        reserve.top_up(&AreaState::<P>::nodes_at_most(count))?;
        let mut state = self.inner().lock(platform);
        if let Some((_, answer)) = self.inner().first_refused(&state, first, count) {
            if let Answer::Retry = answer {
                return Err(AreaError::Retry);
            }
            let area = state.pages() << P::PAGE_SHIFT;
            return Err(AreaError::Outside { offset, size, area });
        }
        if let Some((page, _)) = state.tree.next_present(first).filter(|(page, _)| page - first < count) {
            return Err(AreaError::Resident(page << P::PAGE_SHIFT));
        }
        if state.is_closed(first, count) {
            return Err(AreaError::Retry);
        }
        let mut pending = Pending::new();
        state.charge_ahead(count)?;
        let rest = state.rest_mut();
        rest.ahead = rest.ahead.saturating_sub(count);
        let mut inserted = 0;
        let mut supply = TreeSupply { platform, reserve: &mut reserve };
        while inserted < count {
            let page = Page::new(frames.first().add(inserted)).dirty();
            if state.tree.insert(first + inserted, page, &mut supply).is_err() {
                break;
            }
            inserted += 1;
        }
        // The tree holds them from here on.
        let frames = frames.into_first();
        for number in 0..count {
            state.note_charged(platform, frames.add(number));
        }
        let pinned = if inserted == count {
            for number in 0..count {
                state.pin_frame(platform, frames.add(number));
            }
            self.pinned(first, count).inspect_err(|_| state.unpin(platform, first, count))
        } else {
            Err(lacking)
        };
        if pinned.is_err() {
            // The nodes were reserved and there are fewer handles than addresses, so this cannot be; it is as it was all the same.
            let _ = state.tree.remove_range(first..first + inserted, &mut supply, |_, _, _| {});
            for number in 0..count {
                release_page(platform, frames.add(number));
            }
        }
        let pin = pinned?;
        if state.zero_shown() {
            // Windows may show that there was nothing.
            state.change_views(platform, ViewChange::Unmap { first, count }, &mut pending);
        }
        drop(state);
        Ok(Flush::new(platform.clone(), pending, pin))
    }

    /// How many pages are pinned.
    pub fn pinned_pages(&self) -> u64 {
        u64::from(self.inner().lock(self.platform()).rest().pinned)
    }

    /// The value for pages that were just pinned.
    fn pinned(&self, first: u64, count: u64) -> Result<Pin<P>, AreaError> {
        self.inner().add_reference()?;
        Ok(Pin { platform: self.platform().clone(), area: self.pointer(), first, count })
    }
}

impl<P: Platform> AreaState<P> {
    /// Whether any page is pinned.
    pub(crate) const fn has_pins(&self) -> bool {
        self.rest().pinned != 0
    }

    /// Whether the page with this index is pinned.
    pub(crate) fn is_pinned(&self, platform: &P, index: u64) -> bool {
        let pins = |frame| platform.frame_meta(frame).is_some_and(|meta| meta.pins() != 0);
        self.has_pins() && self.resident_page(index).is_some_and(pins)
    }

    /// The first pinned one of `count` pages. O(1) if the area has no pins, O(resident pages in the range) otherwise.
    pub(crate) fn first_pinned(&self, platform: &P, first: u64, count: u64) -> Option<u64> {
        let end = first.saturating_add(count);
        let mut at = first;
        while self.has_pins() {
            let (index, _) = self.tree.next_present(at).filter(|(index, _)| *index < end)?;
            if self.is_pinned(platform, index) {
                return Some(index);
            }
            at = index + 1;
        }
        None
    }

    /// Pins the frame of a page of this area once more. False if it cannot be.
    fn pin_frame(&mut self, platform: &P, frame: Frame) -> bool {
        let Some(first) = platform.frame_meta(frame).and_then(|meta| meta.pin()) else { return false };
        let rest = self.rest_mut();
        rest.pinned = rest.pinned.saturating_add(u32::from(first));
        true
    }

    /// Takes one pin of each of the pages back.
    fn unpin(&mut self, platform: &P, first: u64, count: u64) {
        for index in first..first.saturating_add(count) {
            let Some(frame) = self.resident_page(index) else { continue };
            if platform.frame_meta(frame).is_some_and(|meta| meta.unpin()) {
                let rest = self.rest_mut();
                rest.pinned = rest.pinned.saturating_sub(1);
            }
        }
    }
}
