//! The part of the screen that a program draws on: its last rows.

use crate::log;
use crate::memory;
use crate::process::Screen;
use refkernel::boot_info::{BootInfo, Framebuffer};
use refkernel::picture::{ProgramStrip, program_strip};
use refkernel_abi::PAGE_SIZE;
use vmcore::addr::FrameRange;
use vmcore::vm_area::{Area, AreaKind};

/// Those rows, as an area of their own.
pub(crate) struct Strip {
    area: Area<memory::Kernel>,
    place: ProgramStrip,
    width: u32,
    pitch: u32,
}

impl Strip {
    /// As a program is handed it.
    pub(crate) fn screen(&self) -> Screen<'_> {
        Screen { area: &self.area, width: self.width, height: self.place.rows, pitch: self.pitch }
    }
}

/// An area of the last rows of the screen, of the framebuffer's memory type; `None` where there is no framebuffer, or none that a
/// part can be cut off.
pub(crate) fn of(info: &BootInfo) -> Option<Strip> {
    let framebuffer = info.framebuffer().filter(|framebuffer| framebuffer.is_xrgb())?;
    let Framebuffer { width, height, pitch, .. } = *framebuffer;
    let AreaKind::Fixed { frames, memory } = memory::framebuffer_area()?.kind() else { return None };
    let place = program_strip(height, pitch)?;
    let count = place.length / PAGE_SIZE;
    let first = place.offset / PAGE_SIZE;
    if first + count > frames.count() {
        return None;
    }
    let part = FrameRange::new(frames.first().add(first), count)?;
    // SAFETY: the frames are the screen's, which holds nothing that anybody relies on. They are whole pages of their own
    // (the strip begins on a page, and ends with the framebuffer's area).
    match unsafe { Area::fixed(&memory::Kernel, part, memory, ()) } {
        Ok(area) => Some(Strip { area, place, width, pitch }),
        Err(error) => {
            log!("screen: no part of it for a program: {error}");
            None
        }
    }
}
