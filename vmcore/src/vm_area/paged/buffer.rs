//! Frames for pages that are filled before any area holds them.

use core::fmt;

use crate::addr::Frame;
use crate::frame::{FrameList, FrameUse, OutOfFrames, free_list};
use crate::platform::Platform;
use crate::vm_area::AreaError;

/// Frames that are nobody's yet, zeroed, in an order: to be filled (by the embedder, by a device) and given to [`Area::supply_pages`](crate::vm_area::Area::supply_pages).
/// Dropping it frees what was not used.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use vmcore::sim::Sim;
/// use vmcore::vm_area::{Area, AreaKind, PageBuffer};
/// let sim = Sim::builder().build();
/// let area = Area::new(&sim, AreaKind::Paged { size: 0x4000, key: 7 }, Default::default()).unwrap();
/// let request = area.request(0, 0x2000).unwrap().unwrap();
/// let mut pages = PageBuffer::new(&sim, request.size >> 12).unwrap();
/// assert_eq!(pages.frames().count(), 2); // where a device would put the bytes
/// pages.write(0x1000, b"second page").unwrap();
/// assert_eq!(area.supply_pages(request.token, request.offset, pages), Ok(2));
/// # }
/// ```
#[must_use = "dropping it frees its frames"]
pub struct PageBuffer<P: Platform> {
    platform: P,
    /// In the order of their pages.
    frames: FrameList,
}

impl<P: Platform> PageBuffer<P> {
    /// Frames for so many pages, zeroed. O(pages).
    ///
    /// # Errors
    /// Out of frames; none is taken.
    pub fn new(platform: &P, pages: u64) -> Result<Self, OutOfFrames> {
        let mut buffer = Self::empty(platform);
        if pages > platform.available_frames() {
            return Err(OutOfFrames { wanted: pages });
        }
        buffer.frames.fill(platform, FrameUse::Page, pages)?;
        Ok(buffer)
    }

    pub(super) fn empty(platform: &P) -> Self {
        Self { platform: platform.clone(), frames: FrameList::new() }
    }

    pub(super) const fn platform(&self) -> &P {
        &self.platform
    }

    /// How many bytes they hold.
    pub const fn size(&self) -> u64 {
        self.frames.len() << P::PAGE_SHIFT
    }

    /// The frames, in the order of their pages. Until the buffer is given away or dropped, whoever fills them has them alone.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        self.frames.iter(&self.platform)
    }

    /// Copies bytes in, from byte `offset` of the first page on. O(pages).
    ///
    /// # Errors
    /// The bytes do not fit ([`AreaError::Outside`]); the platform does not reach a frame: what was copied before stays.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), AreaError> {
        let (size, page) = (self.size(), 1_u64 << P::PAGE_SHIFT);
        let outside = AreaError::Outside { offset, size: bytes.len() as u64, area: size };
        offset.checked_add(bytes.len() as u64).filter(|end| *end <= size).ok_or(outside)?;
        let mut rest = bytes;
        // The bytes to pass over before the first one; less than a page from the first frame that is written on.
        let mut before = offset;
        for frame in self.frames.iter(&self.platform) {
            if rest.is_empty() {
                break;
            }
            if before >= page {
                before -= page;
                continue;
            }
            // SAFETY: the frame is this buffer's alone.
            let copied = unsafe { self.platform.write_frame(frame, before as usize, rest) };
            before = 0;
            match rest.get(copied..) {
                Some(left) if copied != 0 => rest = left,
                _ => return Err(AreaError::Unreachable(frame)),
            }
        }
        Ok(())
    }

    /// Takes the first frame out, to be held by an area.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        self.frames.pop(&self.platform)
    }

    /// Puts a frame before the first.
    pub(super) fn push(&mut self, frame: Frame) {
        // It was on a list, so it can be on one.
        let _ = self.frames.push(&self.platform, frame);
    }
}

// SAFETY: the frames are the buffer's alone.
unsafe impl<P: Platform + Send> Send for PageBuffer<P> {}

impl<P: Platform> Drop for PageBuffer<P> {
    fn drop(&mut self) {
        free_list(&self.platform, &mut self.frames, FrameUse::Page);
    }
}

impl<P: Platform> fmt::Debug for PageBuffer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBuffer").field("size", &self.size()).finish_non_exhaustive()
    }
}
