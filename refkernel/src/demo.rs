//! The demo: a program that works, one that must be killed, and the picture of what that left in memory.

use crate::boot_picture::{self, PictureError};
use crate::log;
use crate::memory;
use crate::process::{self, Ending, ProcessRef, Screen, Start};
use crate::programs::{ProgramError, Programs};
use crate::thread::ThreadError;
use core::fmt;
use refkernel::boot_info::{BootInfo, Framebuffer};
use refkernel::picture::{ProgramStrip, program_strip};
use refkernel_abi::{PAGE_SIZE, program_status, roles};
use vmcore::addr::FrameRange;
use vmcore::vm_area::{Area, AreaKind};

/// What went wrong with the demo.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub(crate) enum DemoError {
    /// A program did not run.
    Program(ProgramError),
    /// There was no thread for one.
    Thread(ThreadError),
    /// An instance ended in another way than it had to.
    Ending {
        /// The argument of the instance.
        argument: u64,
        /// How it ended.
        ending: Ending,
    },
    /// The picture could not be drawn.
    Picture(PictureError),
    /// Frames are in use that were not before.
    Frames {
        /// In use before.
        before: u64,
        /// In use afterwards.
        after: u64,
    },
}

impl From<ThreadError> for DemoError {
    fn from(error: ThreadError) -> Self {
        Self::Thread(error)
    }
}

impl From<ProgramError> for DemoError {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(error) => error.fmt(formatter),
            Self::Thread(error) => error.fmt(formatter),
            Self::Ending { argument, ending } => {
                write!(formatter, "instance {argument} of demo ended as it must not: {ending}")
            }
            Self::Picture(error) => error.fmt(formatter),
            Self::Frames { before, after } => {
                write!(formatter, "{before} frames were in use before and {after} are afterwards")
            }
        }
    }
}

impl core::error::Error for DemoError {}

/// The demo from its start to its end. Where everything is gone again, as many frames are in use as before.
pub(crate) fn run(info: &BootInfo, programs: &Programs<'_>) -> Result<(), DemoError> {
    let before = memory::frames_in_use();
    {
        let strip = screen_strip(info);
        let first = works(programs, strip.as_ref())?;
        let second = must_be_killed(programs)?;
        // Drawn while both spaces are alive.
        boot_picture::show(info, &[&first, &second]).map_err(DemoError::Picture)?;
    }
    let after = memory::frames_in_use();
    log!("frames: {before} in use before, {after} after");
    if before == after { Ok(()) } else { Err(DemoError::Frames { before, after }) }
}

/// The instance that works. Its process is kept, so that its space can be looked at.
fn works(programs: &Programs<'_>, strip: Option<&Strip>) -> Result<ProcessRef, DemoError> {
    let argument = roles::DEMO_WORKS;
    let process = programs.load("demo", Start { argument, screen: strip.map(Strip::screen), ..Start::default() })?;
    let ending = process::run(&process)?;
    if ending.is(roles::Ending::Exits(program_status::SUCCESS)) {
        Ok(process)
    } else {
        Err(DemoError::Ending { argument, ending })
    }
}

/// The instance that makes a bad access. Its process is kept as well.
fn must_be_killed(programs: &Programs<'_>) -> Result<ProcessRef, DemoError> {
    let argument = roles::DEMO_BAD_ACCESS;
    let process = programs.load("demo", Start { argument, ..Start::default() })?;
    let ending = process::run(&process)?;
    if ending.is(roles::DEMO_BAD_ACCESS_ENDING) {
        log!("refkernel: the program was killed, the kernel goes on");
        Ok(process)
    } else {
        Err(DemoError::Ending { argument, ending })
    }
}

/// The rows of the screen that the program draws on.
pub(crate) struct Strip {
    area: Area<memory::Kernel>,
    place: ProgramStrip,
    width: u32,
    pitch: u32,
}

impl Strip {
    pub(crate) fn screen(&self) -> Screen<'_> {
        Screen { area: &self.area, width: self.width, height: self.place.rows, pitch: self.pitch }
    }
}

/// An area of the last rows of the screen, of the framebuffer's memory type; `None` where there is no framebuffer, or none that a
/// part can be cut off.
pub(crate) fn screen_strip(info: &BootInfo) -> Option<Strip> {
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
            log!("demo: no part of the screen for the program: {error}");
            None
        }
    }
}
