//! What a program is told of an access that cannot be made.

use crate::paging::Access;
use crate::platform::Platform;
use crate::posix::Memory;
use crate::vm_space::{Fault, Space, SpaceError};

/// The signal of an access that cannot be made, with its code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Signal {
    /// `SIGSEGV`, `SEGV_MAPERR`: nothing is mapped there, or a guard.
    NotMapped,
    /// `SIGSEGV`, `SEGV_ACCERR`: what is mapped there does not allow it.
    Denied,
    /// `SIGBUS`, `BUS_ADRERR`: there is nothing behind what is mapped there.
    NothingBehind,
    /// `SIGKILL`: there is no memory.
    OutOfMemory,
}

impl<P: Platform> Memory<P> {
    /// What a program is told of a fault that the space refused. `None` for one that is to be tried again.
    pub fn signal(&mut self, space: &Space<P>, fault: Fault, error: SpaceError) -> Option<Signal> {
        let address = fault.address.as_u64();
        self.follow_stacks(space, address, address.saturating_add(1));
        if fault.access.contains(Access::WRITE) {
            self.note_refused_write(error);
        }
        let Some(region) = self.regions.at(address) else { return Some(Signal::NotMapped) };
        let (asked, allowed) = (fault.access.difference(Access::USER), region.protection.access());
        Some(match error {
            SpaceError::Retry(_) | SpaceError::Awaits { .. } => return None,
            // What is not allowed is said before what is guarded.
            SpaceError::Guard(_) if asked.contains(Access::WRITE) && !allowed.contains(Access::WRITE) => Signal::Denied,
            SpaceError::Guard(_) if allowed.is_empty() => Signal::Denied,
            SpaceError::Guard(_) | SpaceError::NoWindow(_) => Signal::NotMapped,
            SpaceError::OutsideArea(_) | SpaceError::Failed(_) => Signal::NothingBehind,
            SpaceError::OutOfFrames(_) | SpaceError::Area(_) => Signal::OutOfMemory,
            _ => Signal::Denied,
        })
    }
}
