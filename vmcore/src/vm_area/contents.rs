//! An area's bytes, reached without a window: how a kernel fills a program's memory.

use super::inner::Answer;
use super::{Area, AreaError, AreaKind, Rights, release_page};
use crate::addr::Frame;
use crate::frame::Reserve;
use crate::platform::Platform;

impl<P: Platform> Area<P> {
    /// Makes pages resident. All or nothing.
    fn make_resident(&self, first: u64, count: u64) -> Result<(), AreaError> {
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        loop {
            let need = {
                let mut state = self.inner().lock(platform);
                let need = state.need_for(first, count);
                if need.pages == 0 {
                    return Ok(());
                }
                if reserve.covers(&need) {
                    for index in first..first + count {
                        // Enough was reserved, and what the area refuses was checked.
                        let _ = self.inner().page(platform, &mut state, index, false, &mut reserve);
                    }
                    return Ok(());
                }
                need
            };
            reserve.top_up(&need)?;
        }
    }

    /// Checks a range of bytes and gives it in pages.
    fn byte_range(&self, offset: u64, size: usize) -> Result<(u64, u64), AreaError> {
        let state = self.inner().lock(self.platform());
        let area = state.pages << P::PAGE_SHIFT;
        let outside = AreaError::Outside { offset, size: size as u64, area };
        let end = offset.checked_add(size as u64).filter(|end| *end <= area).ok_or(outside)?;
        let first = offset >> P::PAGE_SHIFT;
        let count = (end.saturating_sub(1).max(offset) >> P::PAGE_SHIFT) - first + 1;
        match self.inner().first_refused(&state, first, count) {
            Some((_, Answer::Guard)) => Err(AreaError::Kind),
            Some(_) => Err(outside),
            None => Ok((first, count)),
        }
    }

    /// Copies bytes into the area without a window, from byte `offset` on: how a kernel fills a program's memory.
    ///
    /// Cost: O(bytes); pages that are not resident are made so first, all or nothing.
    ///
    /// # Errors
    /// No right to write, bytes outside of the area, a kind whose contents cannot be reached this way (untracked, guarded across sections),
    /// frames that the platform does not reach, out of frames. Nothing was changed, unless another CPU shrinks the area meanwhile: then a first part may have been
    /// written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), AreaError> {
        self.require(Rights::WRITE)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.copy(offset, bytes.len(), true, |frame, within, done, count| {
            let Some(chunk) = bytes.get(done..done + count) else { return 0 };
            // SAFETY: the frame is the area's page, which a reference keeps, or one of a fixed run, whose maker vouched for
            // what its handles do with it.
            unsafe { self.platform().write_frame(frame, within, chunk) }
        })
    }

    /// Copies bytes out of the area without a window, from byte `offset` on. Pages that do not exist read as zero and come into being.
    ///
    /// # Errors
    /// As [`write`](Self::write), with the right to read.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AreaError> {
        self.require(Rights::READ)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len();
        self.copy(offset, length, false, |frame, within, done, count| {
            let Some(chunk) = bytes.get_mut(done..done + count) else { return 0 };
            // SAFETY: as in `write`.
            unsafe { self.platform().read_frame(frame, within, chunk) }
        })
    }

    /// Calls `each` with frame, offset in it, bytes done and bytes to do, for every page of the byte range; it gives how many it did.
    fn copy(
        &self,
        offset: u64,
        length: usize,
        write: bool,
        mut each: impl FnMut(Frame, usize, usize, usize) -> usize,
    ) -> Result<(), AreaError> {
        let platform = self.platform();
        let (first, count) = self.byte_range(offset, length)?;
        match self.inner().kind() {
            AreaKind::Untracked { .. } => return Err(AreaError::Kind),
            AreaKind::Fixed { .. } => {}
            _ => self.make_resident(first, count)?,
        }
        let page_size = 1_usize << P::PAGE_SHIFT;
        let mut within = (offset & (page_size as u64 - 1)) as usize;
        let mut done = 0;
        let mut index = first;
        let mut reserve = Reserve::new(platform);
        while done < length {
            let piece = (page_size - within).min(length - done);
            let answer = {
                let mut state = self.inner().lock(platform);
                match self.inner().page(platform, &mut state, index, write, &mut reserve) {
                    Answer::Page { frame, .. } => {
                        // Held while it is copied, so that a shrinking area cannot free it meanwhile; not under the lock,
                        // since the caller's bytes may fault.
                        let held = !self.inner().is_fixed();
                        if held {
                            if let Some(meta) = platform.frame_meta(frame) {
                                meta.add_reference();
                            }
                        }
                        Ok((frame, held))
                    }
                    Answer::Short(need) => Err(need),
                    _ => {
                        let area = state.pages << P::PAGE_SHIFT;
                        return Err(AreaError::Outside { offset, size: length as u64, area });
                    }
                }
            };
            match answer {
                // Somebody took the page away since it was made resident.
                Err(need) => reserve.top_up(&need)?,
                Ok((frame, held)) => {
                    let copied = each(frame, within, done, piece);
                    if held {
                        release_page(platform, frame);
                    }
                    if copied < piece {
                        return Err(AreaError::Unreachable(frame));
                    }
                    done += piece;
                    index += 1;
                    within = 0;
                }
            }
        }
        Ok(())
    }
}
