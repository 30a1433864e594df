//! How a run of the machine, and of a program, ends.

use core::fmt;

/// What the kernel writes to the exit device (`isa-debug-exit` at I/O port 0xf4, four bytes) as its last act.
///
/// QEMU ends with `2 * code + 1`. Codes start at 0x10 because QEMU uses the small numbers itself: 1 after a bad option, and
/// 0 after a triple fault, so neither may ever mean success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ExitCode {
    /// Everything that was asked for was done. QEMU ends with 33.
    Success = 0x10,
    /// A boot test or the demo failed. QEMU ends with 35.
    Failure = 0x11,
    /// The kernel panicked. QEMU ends with 37.
    Panic = 0x12,
    /// A trap that cannot be survived, as an overflow of a kernel stack. QEMU ends with 39.
    FatalTrap = 0x13,
    /// Malformed boot information, or too little memory to start. QEMU ends with 41.
    BadBoot = 0x14,
}

impl ExitCode {
    /// Every code.
    pub const ALL: [Self; 5] = [Self::Success, Self::Failure, Self::Panic, Self::FatalTrap, Self::BadBoot];

    /// The I/O port of the exit device.
    pub const PORT: u16 = 0xf4;

    /// What is written to the device.
    #[must_use]
    pub const fn value(self) -> u32 {
        self as u32
    }

    /// The status that QEMU then ends with.
    #[must_use]
    pub const fn qemu_status(self) -> i32 {
        2 * (self as i32) + 1
    }

    /// The code behind a status of QEMU.
    ///
    /// # Errors
    ///
    /// [`UnknownExitCode`] where the kernel did not end the run: QEMU refused to start, the machine triple-faulted, or its
    /// window was closed.
    pub fn from_qemu_status(status: i32) -> Result<Self, UnknownExitCode> {
        Self::ALL.into_iter().find(|code| code.qemu_status() == status).ok_or(UnknownExitCode(status))
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Success => "success",
            Self::Failure => "a boot test or the demo failed",
            Self::Panic => "the kernel panicked",
            Self::FatalTrap => "a trap that the kernel cannot survive",
            Self::BadBoot => "malformed boot information, or too little memory",
        })
    }
}

/// A status of QEMU that the kernel did not cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownExitCode(
    /// The status.
    pub i32,
);

impl fmt::Display for UnknownExitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "QEMU ended with {}, which the kernel did not ask for", self.0)?;
        formatter.write_str(match self.0 {
            0 => ": the machine reset itself (a triple fault), or its window was closed",
            1 => ": QEMU refused an option or could not start",
            _ => "",
        })
    }
}

impl core::error::Error for UnknownExitCode {}

/// The statuses that the programs of this kernel end with.
pub mod program_status {
    /// All went well.
    pub const SUCCESS: u32 = 0;
    /// Something that the program checked was not so; it wrote a line that says what.
    pub const FAILURE: u32 = 1;
    /// The program panicked.
    pub const PANIC: u32 = 101;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_documented_ones() {
        let statuses = ExitCode::ALL.map(ExitCode::qemu_status);
        assert_eq!(statuses, [33, 35, 37, 39, 41]);
        for code in ExitCode::ALL {
            assert_eq!(ExitCode::from_qemu_status(code.qemu_status()), Ok(code));
        }
    }

    #[test]
    fn what_qemu_says_itself_is_no_code() {
        for status in [-1, 0, 1, 2, 34, 43] {
            assert_eq!(ExitCode::from_qemu_status(status), Err(UnknownExitCode(status)));
        }
    }
}
