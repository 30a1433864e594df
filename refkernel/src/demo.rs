//! The demo: `init` and what it starts, among that a program that works and one that must be killed, and the picture of what those left in memory.

use crate::boot_picture::{self, PictureError};
use crate::devices::input;
use crate::log;
use crate::memory;
use crate::process::{self, Ending, ProcessRef, Start};
use crate::programs::{ProgramError, Programs};
use crate::screen::strip::{self, Strip};
use crate::thread::{ThreadError, sleep};
use core::fmt;
use refkernel::boot_info::BootInfo;
use refkernel_abi::{PAGE_SIZE, program_status, roles};
use vmcore::vm_area::{Area, AreaError, AreaKind};

/// What went wrong with the demo.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub(crate) enum DemoError {
    /// A program did not run.
    Program(ProgramError),
    /// There was no thread for one.
    Thread(ThreadError),
    /// A program ended in another way than it had to.
    Ending {
        /// Which.
        name: &'static str,
        /// The argument of the instance.
        argument: u64,
        /// How it ended.
        ending: Ending,
    },
    /// A process that was to be shown is not there.
    Gone(u64),
    /// The page that the kernel shares with `init` cannot be used.
    Page(AreaError),
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

impl From<AreaError> for DemoError {
    fn from(error: AreaError) -> Self {
        Self::Page(error)
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
            Self::Ending { name, argument, ending } => {
                write!(formatter, "instance {argument} of {name} ended as it must not: {ending}")
            }
            Self::Gone(instance) => write!(formatter, "instance {instance} of demo is not there to be shown"),
            Self::Page(error) => write!(formatter, "the page for init: {error}"),
            Self::Picture(error) => error.fmt(formatter),
            Self::Frames { before, after } => {
                write!(formatter, "{before} frames were in use before and {after} are afterwards")
            }
        }
    }
}

impl core::error::Error for DemoError {}

/// How often the page is looked at, in microseconds.
const LOOK: u64 = 2000;

/// The demo from its start to its end; where a person has `watched`, Enter ends it. Where everything is gone again, as many frames are in use as before.
pub(crate) fn run(info: &BootInfo, programs: &Programs<'_>, watched: bool) -> Result<(), DemoError> {
    let before = memory::frames_in_use();
    {
        let strip = strip::of(info);
        let page = Area::new(&memory::Kernel, AreaKind::Open { size: PAGE_SIZE }, ())?;
        let argument = if watched { roles::INIT_WATCHED } else { roles::INIT_ALONE };
        let start = Start {
            argument,
            area: Some(&page),
            screen: strip.as_ref().map(Strip::screen),
            physical: true,
            ..Start::default()
        };
        let init = programs.load("init", start)?;
        process::start(&init)?;
        if is_ready(&init, &page)? {
            show(info)?;
            page.write(0, &roles::INIT_DRAWN.to_le_bytes())?.complete();
        }
        if watched {
            input::begin(info);
            log!("refkernel: ready; Enter powers off");
            wait_for_enter();
            end_all();
        }
        let ending = process::wait(&init).unwrap_or(Ending::Killed);
        if !watched && !ending.is(roles::Ending::Exits(program_status::SUCCESS)) {
            return Err(DemoError::Ending { name: "init", argument, ending });
        }
    }
    let after = memory::frames_in_use();
    log!("frames: {before} in use before, {after} after");
    if before == after { Ok(()) } else { Err(DemoError::Frames { before, after }) }
}

/// Waits until `init` says that there is something to be shown; false if it ends before.
fn is_ready(init: &ProcessRef, page: &Area<memory::Kernel>) -> Result<bool, DemoError> {
    while process::threads(init) != 0 {
        let mut word = [0; 8];
        page.read(0, &mut word)?;
        if u64::from_le_bytes(word) == roles::INIT_READY {
            return Ok(true);
        }
        sleep::sleep_microseconds(LOOK);
    }
    Ok(false)
}

/// Draws the picture while the spaces of both instances of `demo` are alive, which `init` has handles of.
fn show(info: &BootInfo) -> Result<(), DemoError> {
    let instance = |argument: u64| {
        process::all().find(|process| process.is_instance("demo", argument)).ok_or(DemoError::Gone(argument))
    };
    let (works, killed) = (instance(roles::DEMO_WORKS)?, instance(roles::DEMO_BAD_ACCESS)?);
    for (process, argument, must) in [
        (&works, roles::DEMO_WORKS, roles::Ending::Exits(program_status::SUCCESS)),
        (&killed, roles::DEMO_BAD_ACCESS, roles::DEMO_BAD_ACCESS_ENDING),
    ] {
        match process::ending(process) {
            Some(ending) if ending.is(must) => {}
            ending => {
                let ending = ending.unwrap_or(Ending::Killed);
                return Err(DemoError::Ending { name: "demo", argument, ending });
            }
        }
    }
    log!("refkernel: the program was killed, the kernel goes on");
    boot_picture::show(info, &[&works, &killed]).map_err(DemoError::Picture)
}

/// Waits for the person at the serial line or the keyboard, while programs go on.
fn wait_for_enter() {
    while input::wait().is_some_and(|typed| !typed.is_enter()) {}
}

/// Ends every process, and waits until all have.
fn end_all() {
    for process in process::all() {
        process::end(&process, Ending::Killed);
    }
    while process::all().any(|process| process::threads(&process) != 0) {
        sleep::sleep_microseconds(LOOK);
    }
}
