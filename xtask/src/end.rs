//! How a machine ended, and what that says about the kernel.
//!
//! The kernel ends the machine by writing a code to the `isa-debug-exit` device, of which QEMU makes the status `2 * code + 1`. The codes
//! start at 0x10, so that they cannot be taken for QEMU's own: 0 for a machine that went down by itself (under `-no-reboot` a triple fault does that
//! too), 1 for a bad option. Success is the kernel's word, never its silence.

use std::{fmt, time::Duration};

use refkernel_abi::ExitCode;

/// How one run of a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The kernel said so.
    Reported(ExitCode),
    /// The machine went down without a report; the reason is QEMU's word, if it gave one.
    Down(Option<String>),
    /// QEMU ended with a status that neither the kernel nor a machine going down gives.
    Status(i32),
    /// QEMU was ended by a signal.
    Signal(i32),
    /// The person at the terminal left.
    Left,
    /// The time given for the whole run was over.
    TimedOut(Duration),
    /// Nothing came on the serial line for this long.
    Silent(Duration),
}

impl End {
    /// Reads the end of QEMU's process; `down` is the reason that the control channel gave.
    pub(crate) fn of(status: std::process::ExitStatus, down: Option<String>) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        match (status.code(), status.signal()) {
            (Some(0), _) => Self::Down(down),
            (Some(code), _) => ExitCode::from_qemu_status(code).map_or(Self::Status(code), Self::Reported),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }

    /// Success is what the kernel reported as success, and nothing else.
    pub(crate) fn is_success(&self) -> bool {
        *self == Self::Reported(ExitCode::Success)
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(ExitCode::Success) => formatter.write_str("the kernel reported success"),
            Self::Reported(ExitCode::Failure) => {
                formatter.write_str("the kernel reported that a test or the demo failed")
            }
            Self::Reported(ExitCode::Panic) => formatter.write_str("the kernel panicked"),
            Self::Reported(ExitCode::FatalTrap) => formatter.write_str("the kernel met a trap that it cannot survive"),
            Self::Reported(ExitCode::BadBoot) => {
                formatter.write_str("the kernel could not start from what it was booted with")
            }
            Self::Down(Some(reason)) if reason == "guest-reset" => {
                formatter.write_str("the machine was reset without a report from the kernel: a triple fault")
            }
            // One for SDL and Cocoa, one for GTK; nothing here asks QEMU to quit.
            Self::Down(Some(reason)) if matches!(reason.as_str(), "host-ui" | "host-qmp-quit") => {
                formatter.write_str("the window was closed before the kernel was done")
            }
            Self::Down(Some(reason)) if reason == "host-signal" => {
                formatter.write_str("QEMU was told to stop before the kernel was done")
            }
            Self::Down(Some(reason)) => {
                write!(formatter, "the machine went down without a report from the kernel ({reason})")
            }
            Self::Down(None) => formatter.write_str(
                "the machine went down without a report from the kernel: a triple fault, or its window was closed",
            ),
            Self::Status(status) => {
                write!(formatter, "QEMU failed with status {status}")
            }
            Self::Signal(signal) => write!(formatter, "QEMU was ended by signal {signal}"),
            Self::Left => formatter.write_str("the machine was left"),
            Self::TimedOut(limit) => write!(
                formatter,
                "the kernel was not done after {:.0} s (`--timeout` sets the limit)",
                limit.as_secs_f64()
            ),
            Self::Silent(limit) => {
                write!(formatter, "nothing came on the serial line for {:.0} s", limit.as_secs_f64())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn only_the_kernels_own_word_is_success() {
        assert!(End::of(exited(33), None).is_success());
        for code in (0..=255).filter(|code| *code != 33) {
            assert!(!End::of(exited(code), None).is_success(), "status {code}");
        }
        assert!(!End::of(ExitStatus::from_raw(9), None).is_success());
        assert!(!End::TimedOut(Duration::from_secs(1)).is_success());
        assert!(!End::Silent(Duration::from_secs(1)).is_success());
    }

    #[test]
    fn each_code_is_told_apart() {
        assert_eq!(End::of(exited(35), None), End::Reported(ExitCode::Failure));
        assert_eq!(End::of(exited(37), None), End::Reported(ExitCode::Panic));
        assert_eq!(End::of(exited(39), None), End::Reported(ExitCode::FatalTrap));
        assert_eq!(End::of(exited(41), None), End::Reported(ExitCode::BadBoot));
        assert_eq!(End::of(exited(1), None), End::Status(1));
        assert_eq!(End::of(exited(43), None), End::Status(43));
    }

    #[test]
    fn a_machine_that_goes_down_is_explained() {
        let reason = |text: &str| End::of(exited(0), Some(text.into())).to_string();
        assert!(reason("guest-reset").contains("triple fault"));
        assert!(reason("host-ui").contains("window was closed"));
        assert!(reason("host-qmp-quit").contains("window was closed"));
        assert!(reason("guest-shutdown").contains("without a report"));
    }
}
