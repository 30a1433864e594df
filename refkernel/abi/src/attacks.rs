//! What a program tries against the kernel and against others, and how it must end: the program's half of the kernel's table of attacks.
//!
//! The kernel starts `check` with [`Attack::number`] as its argument. The attack is *held* where the instance ends as [`Attack::held`] says, and it *works* where it exits with [`WORKED`]; every other ending is a
//! mistake of the test. A control runs the same attack with the defence taken away, and must see it work.

use crate::numbered::numbered;
use crate::roles::{Attempt, Cause, Ending};

/// The status of an instance whose attack worked.
pub const WORKED: u32 = 77;

numbered! {
    /// What a program attempts. The numbers begin above those of the other parts that `check` plays ([`roles`](crate::roles)).
    pub enum Attack: u64 {
        /// Calls code in its static data.
        ExecuteData = 2000,
        /// Calls code on its stack.
        ExecuteStack = 2001,
        /// Calls code in an area that it mapped to be read and written.
        ExecuteArea = 2002,
        /// Writes to its text.
        WriteText = 2003,
        /// Reads the kernel's memory.
        ReadKernel = 2004,
        /// Writes the kernel's memory.
        WriteKernel = 2005,
        /// Calls code of the kernel's.
        ExecuteKernel = 2006,
        /// Asks where the kernel's descriptor table is.
        StoreDescriptorTable = 2007,
        /// Overflows its stack into a window that lies right below.
        OverflowStack = 2008,
        /// Writes something secret into many pages, and ends: no attack, the victim of the next one.
        LeaveSecrets = 2009,
        /// Looks for what others have left in memory that it has never written.
        FindSecrets = 2010,
        /// Has the kernel read the kernel's memory for it, by a pointer.
        PointToKernel = 2011,
        /// Has the kernel write to a page that it may only read itself.
        PointToReadOnly = 2012,
        /// Reads a page that another thread of it unmaps.
        ReadRevoked = 2013,
        /// Writes to a page that another thread of it makes read only.
        WriteRevoked = 2014,
        /// Makes a sealed window writable, and gives another one up.
        ChangeSealed = 2015,
        /// Maps the screen's memory uncached, which the kernel has mapped otherwise.
        MapTwice = 2016,
        /// Gives every argument of every system call what it must not be.
        EveryArgument = 2017,
        /// Writes to a window whose address it does not look at: to the lowest that a window could have.
        GuessWindow = 2018,
        /// Writes to its stack likewise: at the end of the addresses.
        GuessStack = 2019,
    }
}

impl Attack {
    /// How it must end.
    #[must_use]
    pub const fn held(self) -> Ending {
        match self {
            Self::ExecuteData | Self::ExecuteStack | Self::ExecuteArea => {
                Ending::Killed(Cause::Fault(Attempt::Execute))
            }
            Self::WriteText | Self::OverflowStack | Self::WriteRevoked | Self::GuessWindow | Self::GuessStack => {
                Ending::Killed(Cause::Fault(Attempt::Write))
            }
            Self::ReadRevoked => Ending::Killed(Cause::Fault(Attempt::Read)),
            Self::ReadKernel => Ending::Killed(Cause::KernelFault(Attempt::Read)),
            Self::WriteKernel => Ending::Killed(Cause::KernelFault(Attempt::Write)),
            Self::ExecuteKernel => Ending::Killed(Cause::KernelFault(Attempt::Execute)),
            Self::StoreDescriptorTable => Ending::Killed(Cause::Trap(13)),
            Self::LeaveSecrets
            | Self::FindSecrets
            | Self::PointToKernel
            | Self::PointToReadOnly
            | Self::ChangeSealed
            | Self::MapTwice
            | Self::EveryArgument => Ending::Exits(crate::program_status::SUCCESS),
        }
    }
}
