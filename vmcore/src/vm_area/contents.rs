//! An area's bytes, reached without a window: how a kernel fills a program's memory.

use super::inner::Answer;
use super::{Area, AreaError, AreaKind, PageWait, Rights, Want, release_page};
use crate::frame::Reserve;
use crate::paging::{Flush, Pending};
use crate::platform::Platform;

impl<P: Platform> Area<P> {
    /// Checks a range of bytes and gives it in pages.
    pub(super) fn byte_range(&self, offset: u64, size: u64) -> Result<(u64, u64), AreaError> {
        let state = self.inner().lock(self.platform());
        let area = state.end() << P::PAGE_SHIFT;
        let outside = AreaError::Outside { offset, size, area };
        let end = offset.checked_add(size).filter(|end| *end <= area).ok_or(outside)?;
        let first = offset >> P::PAGE_SHIFT;
        let count = (end.saturating_sub(1).max(offset) >> P::PAGE_SHIFT) - first + 1;
        match self.inner().first_refused(&state, first, count) {
            Some((_, Answer::Guard)) => Err(AreaError::Kind),
            Some((_, Answer::Retry)) => Err(AreaError::Retry),
            Some(_) => Err(outside),
            None => Ok((first, count)),
        }
    }

    /// Copies bytes into the area without a window, from byte `offset` on: how a kernel fills a program's memory. What is written is seen
    /// through windows once the flush is complete (it is empty unless pages were copied that a clone or a snapshot has as well).
    ///
    /// Cost: O(bytes); pages that are not resident are made so first, all or nothing.
    ///
    /// # Errors
    /// No right to write, bytes outside of the area, a kind whose contents cannot be reached this way (untracked, guarded across sections),
    /// frames that the platform does not reach, [`AreaError::Retry`] while a change of the area or of a page is being flushed, a full account, out of frames. A page of
    /// a paged area is not there ([`AreaError::Awaits`]: it is asked for; wait, and make the same call again), or its pager could not bring it. Nothing was
    /// changed, unless another CPU changes the area meanwhile (shrinks it, or clones it): then a first part may have been written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<Flush<P, ()>, AreaError> {
        self.require(Rights::WRITE)?;
        let platform = self.platform();
        let mut pending = Pending::new();
        if !bytes.is_empty() {
            let written = self.write_pages(offset, bytes, &mut pending);
            if let Err(error) = written {
                // What was copied already is true once it is flushed, written to or not.
                pending.complete(platform);
                return Err(error);
            }
        }
        Ok(Flush::new(platform.clone(), pending, ()))
    }

    fn write_pages(&self, offset: u64, bytes: &[u8], pending: &mut Pending<P>) -> Result<(), AreaError> {
        let platform = self.platform();
        let (first, count) = self.byte_range(offset, bytes.len() as u64)?;
        let tracked = match self.inner().kind() {
            AreaKind::Untracked { .. } => return Err(AreaError::Kind),
            AreaKind::Fixed { .. } => false,
            AreaKind::Paged { .. } => {
                self.ask_for_missing(first, count)?;
                return self.write_paged(offset, bytes);
            }
            AreaKind::Private { .. } => {
                self.ask_for_missing(first, count)?;
                true
            }
            _ => true,
        };
        let mut reserve = Reserve::new(platform);
        if tracked {
            // All that it takes is there before the first byte is written.
            loop {
                let mut state = self.inner().lock(platform);
                let mut need = state.need_for(first, count);
                need.merge(&state.need_to_own(platform, first, count));
                if state.is_closed(first, count) {
                    return Err(AreaError::Retry);
                }
                if reserve.covers(&need) {
                    state.charge_ahead(need.pages)?;
                    reserve.charged = need.pages;
                    break;
                }
                drop(state);
                reserve.top_up(&need)?;
            }
        }
        let written = self.each_piece(offset, bytes.len(), |index, within, done, count| {
            let Some(chunk) = bytes.get(done..done + count) else { return Ok(()) };
            let frame = loop {
                let mut state = self.inner().lock(platform);
                match self.inner().page(platform, &mut state, index, Want::Write, &mut reserve) {
                    Answer::Page { frame, .. } => {
                        // Held while bytes are copied, so that a shrinking area cannot free it meanwhile, and noted, so that
                        // nobody takes it for shared; not under the lock, since the caller's bytes may fault.
                        if tracked {
                            state.writers += 1;
                            platform.frame_meta(frame).inspect(|meta| meta.add_reference());
                        }
                        break frame;
                    }
                    Answer::Replaced { frame, old, .. } => {
                        state.withdraw(platform, self.pointer(), (index, old), &mut reserve, pending);
                        state.writers += 1;
                        platform.frame_meta(frame).inspect(|meta| meta.add_reference());
                        break frame;
                    }
                    // Somebody took the page away since it was looked at.
                    Answer::Short(need) => {
                        drop(state);
                        reserve.top_up(&need)?;
                    }
                    answer => {
                        drop(state);
                        return Err(self.refusal(&answer, index, (offset, bytes.len())));
                    }
                }
            };
            // SAFETY: the frame is the area's page, which a reference keeps, or one of a fixed run, whose maker vouched for
            // what its handles do with it.
            let copied = unsafe { platform.write_frame(frame, within, chunk) };
            if tracked {
                let mut state = self.inner().lock(platform);
                state.writers = state.writers.saturating_sub(1);
                drop(state);
                release_page(platform, frame);
            }
            if copied < count { Err(AreaError::Unreachable(frame)) } else { Ok(()) }
        });
        if tracked {
            self.inner().lock(platform).settle(platform, &mut reserve);
        }
        written
    }

    /// Writes to pages that were brought. Each becomes dirty after the copy: no flush waits for it, so a write-back that took the page meanwhile is
    /// followed by another, and a page that was evicted meanwhile (its frame is held, so it is not another's) is written again.
    fn write_paged(&self, offset: u64, bytes: &[u8]) -> Result<(), AreaError> {
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        self.each_piece(offset, bytes.len(), |index, within, done, count| {
            let Some(chunk) = bytes.get(done..done + count) else { return Ok(()) };
            loop {
                let answer = {
                    let mut state = self.inner().lock(platform);
                    let answer = self.inner().page(platform, &mut state, index, Want::Read, &mut reserve);
                    if let Answer::Page { frame, .. } = answer {
                        // Held while bytes are copied, not under the lock, since the caller's bytes may fault.
                        platform.frame_meta(frame).inspect(|meta| meta.add_reference());
                    }
                    answer
                };
                let frame = match answer {
                    Answer::Page { frame, .. } => frame,
                    Answer::Short(need) => {
                        reserve.top_up(&need)?;
                        continue;
                    }
                    answer => return Err(self.refusal(&answer, index, (offset, bytes.len()))),
                };
                // SAFETY: the frame is the area's page, which a reference keeps.
                let copied = unsafe { platform.write_frame(frame, within, chunk) };
                let stays = self.inner().lock(platform).mark_written(platform, index, frame, &mut reserve);
                release_page(platform, frame);
                if copied < count {
                    return Err(AreaError::Unreachable(frame));
                }
                if stays {
                    return Ok(());
                }
            }
        })
    }

    /// Why a page cannot be read or written.
    pub(super) fn refusal(&self, answer: &Answer, index: u64, (offset, length): (u64, usize)) -> AreaError {
        match *answer {
            Answer::Request(request) => AreaError::Awaits(PageWait::Request(request)),
            Answer::Wait(token) => AreaError::Awaits(PageWait::Wait(token)),
            Answer::Failed => AreaError::Failed(index << P::PAGE_SHIFT),
            Answer::Retry => AreaError::Retry,
            Answer::Full(error) => AreaError::OutOfAccount(error),
            _ => {
                let area = self.inner().lock(self.platform()).end() << P::PAGE_SHIFT;
                AreaError::Outside { offset, size: length as u64, area }
            }
        }
    }

    /// Copies bytes out of the area without a window, from byte `offset` on. Pages that do not exist read as zero, and do not come into
    /// being.
    ///
    /// # Errors
    /// As [`write`](Self::write), with the right to read; never for want of frames.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AreaError> {
        self.require(Rights::READ)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let platform = self.platform();
        let (first, count) = self.byte_range(offset, bytes.len() as u64)?;
        let tracked = match self.inner().kind() {
            AreaKind::Untracked { .. } => return Err(AreaError::Kind),
            AreaKind::Fixed { .. } => false,
            AreaKind::Paged { .. } | AreaKind::Private { .. } => {
                self.ask_for_missing(first, count)?;
                true
            }
            _ => true,
        };
        let length = bytes.len();
        let mut reserve = Reserve::new(platform);
        self.each_piece(offset, bytes.len(), |index, within, done, count| {
            let Some(chunk) = bytes.get_mut(done..done + count) else { return Ok(()) };
            let (frame, state) = loop {
                let mut state = self.inner().lock(platform);
                match self.inner().page(platform, &mut state, index, Want::Look, &mut reserve) {
                    Answer::Page { frame, .. } => break (frame, state),
                    Answer::Zero => {
                        drop(state);
                        chunk.fill(0);
                        return Ok(());
                    }
                    // Only to ask for it.
                    Answer::Short(need) => {
                        drop(state);
                        reserve.top_up(&need)?;
                    }
                    answer => {
                        drop(state);
                        return Err(self.refusal(&answer, index, (offset, length)));
                    }
                }
            };
            if tracked {
                platform.frame_meta(frame).inspect(|meta| meta.add_reference());
            }
            drop(state);
            // SAFETY: as in `write_pages`.
            let copied = unsafe { platform.read_frame(frame, within, chunk) };
            if tracked {
                release_page(platform, frame);
            }
            if copied < count { Err(AreaError::Unreachable(frame)) } else { Ok(()) }
        })
    }

    /// Calls `each` with a page's index, the offset in it, bytes done and bytes to do, for every page of a byte range.
    fn each_piece(
        &self,
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, usize, usize, usize) -> Result<(), AreaError>,
    ) -> Result<(), AreaError> {
        let page_size = 1_usize << P::PAGE_SHIFT;
        let mut within = (offset & (page_size as u64 - 1)) as usize;
        let mut index = offset >> P::PAGE_SHIFT;
        let mut done = 0;
        while done < length {
            let piece = (page_size - within).min(length - done);
            each(index, within, done, piece)?;
            done += piece;
            index += 1;
            within = 0;
        }
        Ok(())
    }
}
