//! Which space a question is about, and what is wrong with a question that was understood.

use crate::boot_picture::PictureError;
use crate::memory::{self, UserSpace};
use crate::process::{self, ProcessRef};
use crate::programs::ProgramError;
use core::fmt;
use refkernel::shell::command::Of;
use refkernel_abi::USER_END;

/// The kernel's space, or a process's.
pub(super) enum Subject {
    Kernel,
    Process(ProcessRef),
}

impl Subject {
    /// That of the process that was named, or else the kernel's.
    pub(super) fn named(of: Of) -> Result<Self, Trouble> {
        match of {
            None => Ok(Self::Kernel),
            Some(pid) => process(pid).map(Self::Process),
        }
    }

    /// That of the process that was named, or else the one that has the address: the kernel for its half, and for a program's address the only process that there is.
    pub(super) fn at(address: u64, of: Of) -> Result<Self, Trouble> {
        if of.is_some() || address >= USER_END {
            return Self::named(of);
        }
        let mut all = process::all();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(Self::Process(only)),
            _ => Err(Trouble::Whose(address)),
        }
    }

    pub(super) fn space(&self) -> &UserSpace {
        match self {
            Self::Kernel => memory::kernel_space(),
            Self::Process(process) => process.space(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => formatter.write_str("kernel"),
            Self::Process(process) => write!(formatter, "process {}", process::pid(process)),
        }
    }
}

/// The process with this number.
pub(super) fn process(pid: u64) -> Result<ProcessRef, Trouble> {
    process::all().find(|process| process::pid(process) == pid).ok_or(Trouble::NoProcess(pid))
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// A person has read enough.
    Stopped,
    NoProcess(u64),
    /// A program's address, and it is not said whose.
    Whose(u64),
    /// A range that has nothing in common with the space.
    Outside {
        start: u64,
        last: u64,
    },
    /// The walk of an address does not come to a level.
    NotThere {
        level: usize,
        end: &'static str,
    },
    NoLevel(usize),
    /// No window is at the address.
    NoArea(u64),
    /// No RAM has the frame.
    NoFrame(u64),
    Picture(PictureError),
    NoProgram,
    Program(ProgramError),
    /// As many programs are kept as there may be.
    Full,
}

impl From<fmt::Error> for Trouble {
    fn from(_: fmt::Error) -> Self {
        Self::Stopped
    }
}

impl From<ProgramError> for Trouble {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => Ok(()),
            Self::NoProcess(pid) => write!(formatter, "there is no process {pid}: `ps` lists them"),
            Self::Whose(address) => {
                write!(
                    formatter,
                    "{address:#x} is a program's address: say whose, as `in PID`; `ps` lists the processes"
                )
            }
            Self::Outside { start, last } => {
                write!(formatter, "none of that is in the space: it has {start:#x}..={last:#x}")
            }
            Self::NotThere { level, end } => {
                write!(
                    formatter,
                    "the walk ends in the {end}, above level {level}: ask for its last entry without a level"
                )
            }
            Self::NoLevel(level) => {
                write!(formatter, "these tables have no level {level}: `entry` without a level shows the last one")
            }
            Self::NoArea(address) => write!(formatter, "nothing is mapped at {address:#x}: `maps` lists the windows"),
            Self::NoFrame(frame) => {
                write!(formatter, "frame {frame:#x} is no RAM of the kernel's: `frames` sums up what is")
            }
            Self::Picture(error) => error.fmt(formatter),
            Self::NoProgram => formatter.write_str("the boot module has no such program: Tab behind `run ` lists them"),
            Self::Program(error) => error.fmt(formatter),
            Self::Full => formatter.write_str("as many programs are kept as there may be: `kill` one; `ps` lists them"),
        }
    }
}
