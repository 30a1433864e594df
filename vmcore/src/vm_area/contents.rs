//! An area's bytes, reached without a window: how a kernel fills a program's memory.

use super::inner::{Answer, AreaInner};
use super::{Area, AreaError, HeldPage, PageWait, Rights};
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
        let (first, count) = self.contents_range(offset, bytes.len())?;
        let mut reserve = Reserve::new(platform);
        let makes_pages = !self.inner().is_fixed() && !self.inner().is_paged();
        if makes_pages {
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
            // Again where a page that was brought is written back and evicted meanwhile, without these bytes.
            while let Some(held) = self.hold((index, Some(first)), (offset, bytes.len()), &mut reserve, pending)? {
                let frame = held.frame();
                // SAFETY: the frame is the area's page, which is held, or one of a fixed run, whose maker vouched for what its handles do
                // with it.
                let copied = unsafe { platform.write_frame(frame, within, chunk) };
                let stays = held.note_written(&mut reserve);
                if copied < count {
                    return Err(AreaError::Unreachable(frame));
                }
                if stays {
                    break;
                }
            }
            Ok(())
        });
        self.inner().lock(platform).settle(platform, &mut reserve);
        written
    }

    /// Checks a range of bytes that are to be read or written, gives it in pages, and asks for those that have to be brought.
    fn contents_range(&self, offset: u64, size: usize) -> Result<(u64, u64), AreaError> {
        let (first, count) = self.byte_range(offset, size as u64)?;
        if self.inner().is_untracked() {
            return Err(AreaError::Kind);
        }
        self.ask_for_missing(first, count)?;
        Ok((first, count))
    }

    /// The page with this index, held for reading, or for writing from the page `from` on; `None` for one that does not exist and is to be read.
    fn hold(
        &self,
        (index, from): (u64, Option<u64>),
        bytes: (u64, usize),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<Option<HeldPage<'_, P>>, AreaError> {
        let platform = self.platform();
        loop {
            let held = {
                let mut state = self.inner().lock(platform);
                let (area, page) = (self.pointer(), (index, from.is_some()));
                // SAFETY: the handle keeps the area alive, and the state is its own. Of a ring, the page may be one that was held before, and replaced.
                unsafe {
                    match from.and_then(|from| state.come_round(from, index)) {
                        Some(frame) => Ok(Some(AreaInner::hold_frame(platform, area, &mut state, page, frame))),
                        None => AreaInner::hold(platform, area, &mut state, page, reserve, pending),
                    }
                }
            };
            match held {
                Ok(held) => return Ok(held),
                // Somebody took the page away since it was looked at; or only to ask for it.
                Err(Answer::Short(need)) => reserve.top_up(&need)?,
                Err(answer) => return Err(self.refusal(&answer, index, bytes)),
            }
        }
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
        self.contents_range(offset, bytes.len())?;
        let length = bytes.len();
        let mut reserve = Reserve::new(platform);
        self.each_piece(offset, length, |index, within, done, count| {
            let Some(chunk) = bytes.get_mut(done..done + count) else { return Ok(()) };
            // Nothing is replaced by reading.
            let held = self.hold((index, None), (offset, length), &mut reserve, &mut Pending::new())?;
            let Some(held) = held else {
                chunk.fill(0);
                return Ok(());
            };
            // SAFETY: as in `write_pages`.
            let copied = unsafe { platform.read_frame(held.frame(), within, chunk) };
            if copied < count { Err(AreaError::Unreachable(held.frame())) } else { Ok(()) }
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
