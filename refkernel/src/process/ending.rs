//! How a process ended, and why the kernel ended it if it did.

use super::{Process, Report};
use crate::cpu::user::{Killed, UserExit};
use crate::inspector::faults;
use crate::log;
use refkernel_abi::roles::{self, Attempt, Cause};
use vmcore::vm_space::SpaceError;

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// It asked to, with this status.
    Exited(u32),
    /// The kernel ended it for an access.
    Fault {
        /// The address.
        address: u64,
        /// Why the memory manager did not make the access possible.
        reason: Option<SpaceError>,
        /// What the program wanted of it.
        attempt: Attempt,
        /// The first address of the kernel's half that the program was told; zero if it was told none.
        kernel: u64,
    },
    /// The kernel ended it for another trap, with this vector.
    Trap(u64),
    /// Another process had it ended.
    Killed,
    /// The kernel did not start it, or could not go back to it.
    Address,
}

impl Ending {
    /// Takes down how a thread has left the program of `process`, and says so in the log if it was killed. `None` where that ends the thread
    /// alone.
    pub(super) fn new(process: &Process, exit: UserExit) -> Option<Self> {
        Some(match exit {
            UserExit::ThreadExited | UserExit::Killed(Killed::ByOrder) => return None,
            UserExit::Exited(status) => Self::Exited(status),
            UserExit::Killed(killed) => {
                let report = Report::new(process, killed);
                // In one piece, so that nothing of another thread's stands between its lines.
                log!("process {process}: killed: {report}");
                faults::record_end(report);
                process.report.lock().get_or_insert(report);
                match killed {
                    Killed::PageFault { fault, reason, .. } => {
                        let [kernel, ..] = process.kernel;
                        Self::Fault { address: fault.address, reason, attempt: fault.attempt(), kernel }
                    }
                    Killed::Trap { vector, .. } => Self::Trap(vector),
                    Killed::ByOrder => Self::Killed,
                    Killed::ReturnAddress(_) | Killed::BadStart { .. } => Self::Address,
                }
            }
        })
    }

    /// Whether it is what `must` asks for.
    pub(crate) fn is(&self, must: roles::Ending) -> bool {
        match (self, must) {
            (Self::Exited(status), roles::Ending::Exits(wanted)) => *status == wanted,
            (Self::Fault { address, attempt, kernel, .. }, roles::Ending::Killed(cause)) => match cause {
                Cause::Fault(wanted) => *attempt == wanted,
                Cause::FaultAt(wanted, place) => *attempt == wanted && *address == place,
                Cause::KernelFault(wanted) => *attempt == wanted && *kernel != 0 && address == kernel,
                Cause::Trap(_) => false,
            },
            (Self::Trap(vector), roles::Ending::Killed(Cause::Trap(wanted))) => *vector == u64::from(wanted),
            _ => false,
        }
    }
}

impl core::fmt::Display for Ending {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Exited(status) => write!(formatter, "it exited with {status}"),
            Self::Fault { address, attempt, .. } => {
                write!(formatter, "it was killed for an access ({attempt:?}) at {address:#x}")
            }
            Self::Killed => formatter.write_str("it was told to end"),
            Self::Trap(vector) => write!(formatter, "it was killed for the trap {vector}"),
            Self::Address => formatter.write_str("it was killed for an address where no program can go on"),
        }
    }
}
