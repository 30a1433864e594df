//! From a process to another one that goes on with a copy of its memory, as it is at that moment, and of its handles.
//!
//! Memory that a program was loaded with is copied when one of the two writes to it; windows that the program made itself onto areas show
//! the same areas in both, since the handles name them in both.

use super::{LoadError, Object, Process, ProcessRef};
use crate::memory::Mutex;
use vmcore::vm_area::Rights;

impl Process {
    /// Makes the copy. It has no thread yet.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: there is not enough memory, or no place for one more.
    pub(super) fn copy(&self) -> Result<ProcessRef, LoadError> {
        let handles = self.handles().try_copy(|object| {
            Ok::<_, LoadError>(match object {
                Object::Area(area) => Object::Area(area.handle(Rights::all())?),
                Object::Process(process) => Object::Process(process.clone()),
            })
        })?;
        let space = self.space.try_clone(())?.complete();
        Self {
            name: self.name,
            instance: self.instance,
            space,
            placement: self.placement,
            handles: Mutex::new(handles),
            entry: self.entry,
            stack: self.stack,
            start_information: self.start_information,
            kernel: self.kernel,
            labels: self.labels,
            ending: Mutex::new(None),
        }
        .enlist()
    }
}
