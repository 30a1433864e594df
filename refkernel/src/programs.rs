//! The programs of the boot module, by name. Which there are stands in the documentation of `refkernel-runtime`.

use crate::process::{self, Ending, LoadError, Process, ProcessRef, Start};
use crate::thread::ThreadError;
use core::fmt;
use refkernel::archive::{Archive, ProgramName};
use spin::Once;

/// Why a program did not run.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub(crate) enum ProgramError {
    /// The boot module has no such program.
    Missing(&'static str),
    /// There is no thread to run it.
    NoThread(&'static str, ThreadError),
    /// Its file cannot be loaded, or there is no memory to load it.
    Refused(&'static str, LoadError),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => {
                write!(formatter, "the boot module has no program {name}: give one that `cargo xtask build` made")
            }
            Self::NoThread(name, error) => write!(formatter, "the program {name} is not started: {error}"),
            Self::Refused(name, error) => write!(formatter, "the program {name} is not loaded: {error}"),
        }
    }
}

impl core::error::Error for ProgramError {}

static ARCHIVE: Once<Option<Archive<'static>>> = Once::new();

/// The boot module, if there is one that can be read: it stays as it is for the life of the kernel.
pub(crate) fn open(module: Option<&'static [u8]>) -> Option<&'static Archive<'static>> {
    ARCHIVE.call_once(|| module.and_then(|module| Archive::new(module).ok())).as_ref()
}

/// The boot module that was opened.
pub(crate) fn archive() -> Option<&'static Archive<'static>> {
    ARCHIVE.get()?.as_ref()
}

/// What can be run.
#[derive(Clone, Copy)]
pub(crate) struct Programs<'a> {
    archive: Option<&'a Archive<'static>>,
}

impl<'a> Programs<'a> {
    /// Those of a boot module; none where there is no module, or none that can be read.
    pub(crate) fn of(archive: Option<&'a Archive<'static>>) -> Self {
        Self { archive }
    }

    /// The file of a program.
    pub(crate) fn file(&self, name: &'static str) -> Result<&'static [u8], ProgramError> {
        self.archive.and_then(|archive| archive.program(name)).ok_or(ProgramError::Missing(name))
    }

    /// Loads a program.
    pub(crate) fn load(&self, name: &'static str, start: Start<'_>) -> Result<ProcessRef, ProgramError> {
        let file = self.file(name)?;
        let full = ProgramName::new(name).ok_or(ProgramError::Missing(name))?;
        Process::load(full, file, start).map_err(|error| ProgramError::Refused(name, error))
    }

    /// Loads a file that is no program of the boot module, and drops what comes of it.
    pub(crate) fn try_load(&self, file: &[u8]) -> Result<(), LoadError> {
        let name = ProgramName::new("test").ok_or(LoadError::File(refkernel::elf::Refusal::Malformed))?;
        // SAFETY: what comes of it, the process and with it the program's image, is dropped before this call returns, and meanwhile the file is
        // borrowed. Nobody else finds the image: images are looked for by the place of their file, and no program of the boot module lies here.
        let file = unsafe { core::slice::from_raw_parts(file.as_ptr(), file.len()) };
        Process::load(name, file, Start::default()).map(drop)
    }

    /// Runs a program from its start to its end, and gives back everything that it had.
    pub(crate) fn run(&self, name: &'static str, start: Start<'_>) -> Result<Ending, ProgramError> {
        let process = self.load(name, start)?;
        process::run(&process).map_err(|error| ProgramError::NoThread(name, error))
    }
}
