//! Giving dirty pages out to be written, once nobody writes to them.
//!
//! ```text
//!   begin_write_back ──► dirty marks off, W on; no window writable ──► Flush ──acknowledged──► WriteBack: the contents
//!                                                                        │                        │          │
//!                                                                     dropped                  dropped    written()
//!                                                                        └──► dirty again ◄───────┘          └──► clean, unless
//!                                                                                                                 written to since
//! ```

use core::fmt;
use core::ptr::NonNull;

use crate::addr::Frame;
use crate::frame::Reserve;
use crate::paging::{Flush, Pending};
use crate::platform::Platform;
use crate::vm_area::inner::{AreaInner, release_area};
use crate::vm_area::{Area, AreaError, ViewChange, release_page};

/// The most pages of one write-back: as many as it remembers without memory of its own.
const MOST: usize = 32;

/// Dirty pages whose contents nobody has permission to write at the moment that this value comes out of its flush: read them, write them
/// to where they belong, and say [`written`](Self::written). Dropping it says that they were not: they are dirty again.
///
/// Whoever writes to a page from then on is not held up, and makes it dirty again; the contents that are read here may be mixed with that. A page
/// that the area gives up meanwhile keeps its contents here; compare with the area's size before you write behind its end.
#[must_use = "dropping it makes the pages dirty again"]
pub struct WriteBack<P: Platform> {
    platform: P,
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
    /// The first page's index in the area.
    first: u64,
    /// Of each page, of which a reference is held, so that none is another page's meanwhile.
    frames: [Option<Frame>; MOST],
    is_written: bool,
}

// SAFETY: it is a counted reference to an area, whose state is behind a lock, and counted references to frames.
unsafe impl<P: Platform + Send + Sync> Send for WriteBack<P> {}
// SAFETY: as above.
unsafe impl<P: Platform + Send + Sync> Sync for WriteBack<P> {}

impl<P: Platform> WriteBack<P> {
    /// Where the pages begin in the area, in bytes.
    pub const fn offset(&self) -> u64 {
        self.first << P::PAGE_SHIFT
    }

    /// How many bytes: at least a page.
    pub fn size(&self) -> u64 {
        (self.frames().count() as u64) << P::PAGE_SHIFT
    }

    /// The pages' frames, in order, for a device to read.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        self.frames.iter().map_while(|frame| *frame)
    }

    /// Copies bytes out, from byte `offset` of the first page on. O(bytes).
    ///
    /// # Errors
    /// The bytes are not all these pages' ([`AreaError::Outside`]); the platform does not reach a frame.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), AreaError> {
        let (size, page) = (self.size(), 1_u64 << P::PAGE_SHIFT);
        let outside = AreaError::Outside { offset, size: into.len() as u64, area: size };
        offset.checked_add(into.len() as u64).filter(|end| *end <= size).ok_or(outside)?;
        let mut rest = into;
        let mut before = offset;
        for frame in self.frames() {
            if rest.is_empty() {
                break;
            }
            if before >= page {
                before -= page;
                continue;
            }
            // SAFETY: the frame is RAM, and a reference to it is held.
            let copied = unsafe { self.platform.read_frame(frame, before as usize, rest) };
            before = 0;
            match rest.get_mut(copied..) {
                Some(left) if copied != 0 => rest = left,
                _ => return Err(AreaError::Unreachable(frame)),
            }
        }
        Ok(())
    }

    /// The contents are where they belong: pages that were not written to since are clean. O(pages), no allocation.
    pub fn written(mut self) {
        self.is_written = true;
    }
}

impl<P: Platform> Drop for WriteBack<P> {
    fn drop(&mut self) {
        let platform = &self.platform;
        let mut reserve = Reserve::new(platform);
        {
            // SAFETY: the reference that is held keeps the area alive.
            let mut state = unsafe { self.area.as_ref() }.lock(platform);
            for (index, frame) in (self.first..).zip(self.frames()) {
                // A page that was cut off since is not there any more, or it is another.
                let page = state.tree.get(index).filter(|page| page.held_frame() == Some(frame));
                if let Some(page) = page.filter(|page| page.is_writing_back()) {
                    state.replace(platform, index, page.written_back(self.is_written), &mut reserve);
                }
            }
        }
        for frame in self.frames() {
            release_page(platform, frame);
        }
        // SAFETY: the reference is given up, with no lock held.
        unsafe { release_area(platform, self.area) };
    }
}

impl<P: Platform> fmt::Debug for WriteBack<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBack").field("offset", &self.offset()).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl<P: Platform> Area<P> {
    /// The offset of the first dirty page at or after `offset`, in bytes, whose write-back is not under way. O(pages that are passed over), no allocation.
    ///
    /// # Errors
    /// The area is not paged, or the handle lacks the right to supply.
    pub fn next_dirty(&self, offset: u64) -> Result<Option<u64>, AreaError> {
        self.require_pager()?;
        let state = self.inner().lock(self.platform());
        let mut pages = state.tree.range(offset >> P::PAGE_SHIFT..);
        let dirty = pages.find(|(_, page)| page.is_dirty() && !page.is_writing_back());
        Ok(dirty.map(|(index, _)| index << P::PAGE_SHIFT))
    }

    /// Begins to write back the first run of dirty pages among those that the range touches, 32 of them at the most: they are clean from now on, and writable nowhere. Their contents
    /// come out of the flush. `None` if none is dirty (pages whose write-back is under way are passed over). Several such flushes can be
    /// made [one](Flush::and).
    ///
    /// Cost: O(pages that are passed over + windows), no allocation.
    ///
    /// # Errors
    /// The area is not paged; no right to supply; too many handles. Nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind, PageState};
    /// let sim = Sim::builder().build();
    /// let area = Area::new(&sim, AreaKind::Paged { size: 0x4000, key: 7 }, Default::default()).unwrap();
    /// let request = area.request(0x1000, 0x2000).unwrap().unwrap();
    /// area.supply(request.token, request.offset, &[1; 0x2000]).unwrap();
    /// area.write(0x1ffe, &[2; 4]).unwrap();
    /// let mut file = [1; 0x4000];
    /// while let Some(flush) = area.begin_write_back(0, area.size()).unwrap() {
    ///     let pages = flush.complete();
    ///     let (start, size) = (pages.offset() as usize, pages.size() as usize);
    ///     pages.read(0, &mut file[start..][..size]).unwrap();
    ///     pages.written();
    /// }
    /// assert_eq!((file[0x1fff], file[0x2000], file[0x2002]), (2, 2, 1));
    /// assert_eq!(area.page_state(0x1000), Some(PageState::Clean));
    /// # }
    /// ```
    pub fn begin_write_back(&self, offset: u64, size: u64) -> Result<Option<Flush<P, WriteBack<P>>>, AreaError> {
        self.require_pager()?;
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut pending = Pending::new();
        let mut frames = [None; MOST];
        let first = {
            let mut state = self.inner().lock(platform);
            let (at, end) = Self::pages_of(offset, size);
            let mut pages = state.tree.range(at..end);
            let Some((first, _)) = pages.find(|(_, page)| page.is_dirty() && !page.is_writing_back()) else {
                return Ok(None);
            };
            self.inner().add_reference()?;
            let mut count = 0;
            for (index, slot) in (first..end).zip(&mut frames) {
                let Some(page) = state.tree.get(index).filter(|page| page.is_dirty() && !page.is_writing_back()) else {
                    break;
                };
                if !state.replace(platform, index, page.writing_back(), &mut reserve) {
                    break;
                }
                let frame = page.frame();
                if let Some(meta) = platform.frame_meta(frame) {
                    meta.add_reference();
                }
                *slot = Some(frame);
                count += 1;
            }
            state.change_views(platform, ViewChange::WriteProtect { first, count }, &mut pending);
            first
        };
        let write_back =
            WriteBack { platform: platform.clone(), area: self.pointer(), first, frames, is_written: false };
        Ok(Some(Flush::new(platform.clone(), pending, write_back)))
    }
}
