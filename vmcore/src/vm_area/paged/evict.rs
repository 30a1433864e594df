//! Giving clean pages up, so that their frames are free for others.

use core::ptr::NonNull;

use super::{Eviction, Paged};
use crate::addr::Frame;
use crate::frame::{FrameUse, Reserve};
use crate::paging::{Deferred, Flush, Pending, Release, ReleaseStep, Released};
use crate::platform::Platform;
use crate::vm_area::inner::{AreaState, release_area};
use crate::vm_area::{Area, AreaError, Page, TreeSupply, ViewChange, release_page};

/// What an eviction found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Evicted {
    /// Pages that were clean: they are absent after the flush, but for those that somebody wanted before it.
    pub pages: u64,
    /// Pages that stay because they are dirty, or their write-back is under way.
    pub dirty: u64,
    /// Pages that stay because a device uses them.
    pub pinned: u64,
}

/// How many pages are taken out under one hold of the lock.
const BATCH: usize = 32;

impl<P: Platform> AreaState<P> {
    /// Takes a word out of the tree; what it stood for is the caller's.
    pub(super) fn take_out(&mut self, platform: &P, index: u64, reserve: &mut Reserve<P>) -> Option<Page> {
        self.tree.remove(index, &mut TreeSupply { platform, reserve }).ok().flatten()
    }
}

impl<P: Platform> Released<P> for Paged<P> {
    const RELEASE: Release<P> = Release(Self::release);
}

impl<P: Platform> Paged<P> {
    /// Called when the flush of an eviction is acknowledged.
    pub(super) unsafe fn release(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        if step != ReleaseStep::Free {
            return;
        }
        // SAFETY: only these records are deferred with this function, and their header is their first field. The eviction holds a reference
        // to the area, with which the record lives. It is read here without the lock: while an eviction is under way it is not written.
        let Some(eviction) = (unsafe { object.cast::<Self>().as_ref() }).evicting.get() else { return };
        let Eviction { area, first: mut at, end } = eviction;
        let mut reserve = Reserve::new(platform);
        let mut is_done = false;
        while !is_done {
            let mut frames: [Option<Frame>; BATCH] = [None; BATCH];
            {
                // SAFETY: as above.
                let mut state = unsafe { area.as_ref() }.lock(platform);
                for slot in &mut frames {
                    let evicting = state.tree.range(at..end).find(|(_, page)| page.is_evicting());
                    let Some((index, page)) = evicting else {
                        is_done = true;
                        break;
                    };
                    at = index + 1;
                    *slot = state.take_out(platform, index, &mut reserve).and(page.held_frame());
                }
                if is_done {
                    if let Some(paged) = state.paged() {
                        paged.evicting.set(None);
                    }
                    let rest = state.rest_mut();
                    rest.returning = rest.returning.saturating_sub(1);
                }
            }
            for frame in frames.iter().flatten() {
                release_page(platform, *frame);
            }
        }
        drop(reserve);
        // SAFETY: the eviction's reference is given up, with no lock held; the record is not used any more.
        unsafe { release_area(platform, area) };
    }
}

impl<P: Platform> Area<P> {
    /// Gives up the clean pages among those that the range touches: they leave every window in every space now, and their frames are free when the flush is complete. Whoever wants one
    /// of them in between finds it where it is, and it stays; afterwards it is requested again. Dirty pages stay: [write them back](Self::begin_write_back)
    /// first.
    ///
    /// Cost: O(pages + windows × runs of clean pages), no allocation.
    ///
    /// # Errors
    /// The area is not paged; no right to supply; the flush of another eviction of this area is outstanding ([`AreaError::Retry`]); too many handles. Nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// let sim = Sim::builder().build();
    /// let area = Area::new(&sim, AreaKind::Paged { size: 0x4000, key: 7 }, Default::default()).unwrap();
    /// let request = area.request(0, 0x3000).unwrap().unwrap();
    /// area.supply(request.token, 0, &[1; 0x3000]).unwrap();
    /// area.write(0x1000, &[2]).unwrap();
    /// let evicted = area.evict(0, area.size()).unwrap().complete();
    /// assert_eq!((evicted.pages, evicted.dirty, area.resident_pages()), (2, 1, 1));
    /// # }
    /// ```
    pub fn evict(&self, offset: u64, size: u64) -> Result<Flush<P, Evicted>, AreaError> {
        self.require_pager()?;
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut pending = Pending::new();
        let mut evicted = Evicted::default();
        // The eviction's reference. One that turns out to be needless is given up without the lock.
        self.inner().add_reference()?;
        let is_begun = {
            let mut state = self.inner().lock(platform);
            if state.paged().is_some_and(|paged| paged.evicting.get().is_none()) {
                let (first, end) = Self::pages_of(offset, size);
                state.mark_evicting(platform, first, end, &mut evicted, &mut pending, &mut reserve);
                if evicted.pages != 0 {
                    if state.rest().returning != 0 {
                        // As when an area shrinks: what this caller is told is to be true of what was given up before as well.
                        let change = ViewChange::Forget { first, count: end - first };
                        state.change_views(platform, change, &mut pending);
                    }
                    state.rest_mut().returning += 1;
                    pending.note_cut_off(evicted.pages);
                    if let (Some(paged), Some(record)) = (state.paged(), state.paged_record()) {
                        paged.evicting.set(Some(Eviction { area: self.pointer(), first, end }));
                        // SAFETY: the record waits in no other flush, since no other eviction is under way, and stays where it is for as long as
                        // the reference that was counted above is held.
                        unsafe { pending.defer(record.cast()) };
                    }
                }
                Ok(evicted.pages != 0)
            } else {
                Err(AreaError::Retry)
            }
        };
        if !matches!(is_begun, Ok(true)) {
            // SAFETY: the reference was counted above; the handle holds another.
            unsafe { release_area(platform, self.pointer()) };
        }
        is_begun?;
        Ok(Flush::new(platform.clone(), pending, evicted))
    }
}

impl<P: Platform> AreaState<P> {
    /// Marks the clean pages from `first` to before `end`, and takes them out of every window.
    fn mark_evicting(
        &mut self,
        platform: &P,
        first: u64,
        end: u64,
        evicted: &mut Evicted,
        pending: &mut Pending<P>,
        reserve: &mut Reserve<P>,
    ) {
        // The run of marked pages that windows have not heard of.
        let (mut start, mut count) = (first, 0);
        let mut at = first;
        while let Some((index, page)) = self.tree.next_present(at).filter(|(index, _)| *index < end) {
            at = index + 1;
            let Some(frame) = page.held_frame() else { continue };
            if page.is_dirty() || page.is_writing_back() {
                evicted.dirty += 1;
                continue;
            }
            if platform.frame_meta(frame).is_some_and(|meta| meta.recorded_use() == FrameUse::Pinned) {
                evicted.pinned += 1;
                continue;
            }
            if !self.replace(platform, index, page.evicting(), reserve) {
                continue;
            }
            evicted.pages += 1;
            if start + count != index {
                if count != 0 {
                    self.change_views(platform, ViewChange::Unmap { first: start, count }, pending);
                }
                (start, count) = (index, 0);
            }
            count += 1;
        }
        if count != 0 {
            self.change_views(platform, ViewChange::Unmap { first: start, count }, pending);
        }
    }
}
