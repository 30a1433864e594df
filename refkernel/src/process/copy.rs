//! From a process to another one that goes on with a copy of its memory, as it is at that moment, and of its handles.
//!
//! Memory that a program was loaded with, or has no handle of, is copied when one of the two writes to it; windows that the program made itself onto areas show
//! the same areas in both, since the handles name them in both. All windows are where they were; those to come are drawn anew.

use super::{Handles, LoadError, Process, ProcessRef};
use crate::memory::Mutex;
use crate::pager::swap::Swept;
use core::sync::atomic::AtomicU32;
use x86_64::instructions::interrupts::without_interrupts;

impl Process {
    /// Makes the copy. It has no thread yet.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: there is not enough memory, or no place for one more.
    pub(super) fn copy(&self) -> Result<ProcessRef, LoadError> {
        let space = without_interrupts(|| self.space.try_clone(()).map(|space| space.complete()))?;
        let process = Self::enlist(|| Self {
            name: self.name,
            instance: self.instance,
            space,
            placement: self.placement.for_copy(),
            handles: Mutex::new(Handles::new()),
            entry: self.entry,
            stack: self.stack,
            start_information: self.start_information,
            kernel: self.kernel,
            labels: self.labels,
            given: self.given,
            inside: AtomicU32::new(0),
            ending: Mutex::new(None),
            report: Mutex::new(None),
            image: self.image.clone(),
            _swept: Swept,
        })?;
        // Where this fails, the new process is dropped with no lock held.
        let handles = self.handles().try_copy_to(&mut process.handles(), |entry| entry.again(entry.rights));
        handles.map_err(LoadError::Entry)?;
        Ok(process)
    }
}
