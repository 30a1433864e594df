//! What a program tries against the kernel and against others, and how it must end: the program's half of the kernel's table of attacks.
//!
//! The kernel starts `check` with [`Attack::argument`]. The attack is *held* where the instance ends as [`Attack::held`] says, and it *works* where it exits with [`WORKED`]; every other ending is a
//! mistake of the test. A control runs the same attack with the defence taken away, and must see it work.

use crate::roles::{Attempt, Cause, Ending};

/// The status of an instance whose attack worked.
pub const WORKED: u32 = 77;

/// The argument of the first attack.
const FIRST: u64 = 2000;

/// What a program attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Attack {
    /// Calls code in its static data.
    ExecuteData,
    /// Calls code on its stack.
    ExecuteStack,
    /// Calls code in an area that it mapped to be read and written.
    ExecuteArea,
    /// Writes to its text.
    WriteText,
    /// Reads the kernel's memory.
    ReadKernel,
    /// Writes the kernel's memory.
    WriteKernel,
    /// Calls code of the kernel's.
    ExecuteKernel,
    /// Asks where the kernel's descriptor table is.
    StoreDescriptorTable,
    /// Overflows its stack into a window that lies right below.
    OverflowStack,
    /// Writes something secret into many pages, and ends: no attack, the victim of the next one.
    LeaveSecrets,
    /// Looks for what others have left in memory that it has never written.
    FindSecrets,
    /// Has the kernel read the kernel's memory for it, by a pointer.
    PointToKernel,
    /// Has the kernel write to a page that it may only read itself.
    PointToReadOnly,
    /// Reads a page that another thread of it unmaps.
    ReadRevoked,
    /// Writes to a page that another thread of it makes read only.
    WriteRevoked,
    /// Makes a sealed window writable, and gives another one up.
    ChangeSealed,
    /// Maps the screen's memory uncached, which the kernel has mapped otherwise.
    MapTwice,
    /// Gives every argument of every system call what it must not be.
    EveryArgument,
}

impl Attack {
    /// Every one of them, in the order of the numbers.
    pub const ALL: [Self; 18] = [
        Self::ExecuteData,
        Self::ExecuteStack,
        Self::ExecuteArea,
        Self::WriteText,
        Self::ReadKernel,
        Self::WriteKernel,
        Self::ExecuteKernel,
        Self::StoreDescriptorTable,
        Self::OverflowStack,
        Self::LeaveSecrets,
        Self::FindSecrets,
        Self::PointToKernel,
        Self::PointToReadOnly,
        Self::ReadRevoked,
        Self::WriteRevoked,
        Self::ChangeSealed,
        Self::MapTwice,
        Self::EveryArgument,
    ];

    /// The argument of `check`.
    #[must_use]
    pub const fn argument(self) -> u64 {
        FIRST + self as u64
    }

    /// The attack with this argument, if there is one.
    #[must_use]
    pub fn from_argument(argument: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(argument.checked_sub(FIRST)?).ok()?).copied()
    }

    /// How it must end.
    #[must_use]
    pub const fn held(self) -> Ending {
        match self {
            Self::ExecuteData | Self::ExecuteStack | Self::ExecuteArea => {
                Ending::Killed(Cause::Fault(Attempt::Execute))
            }
            Self::WriteText | Self::OverflowStack | Self::WriteRevoked => Ending::Killed(Cause::Fault(Attempt::Write)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for attack in Attack::ALL {
            assert_eq!(Attack::from_argument(attack.argument()), Some(attack));
        }
        for argument in [0, FIRST - 1, FIRST + Attack::ALL.len() as u64, u64::MAX] {
            assert_eq!(Attack::from_argument(argument), None);
        }
    }
}
