//! `fork`, as far as it concerns memory.

use crate::platform::Platform;
use crate::posix::regions::Regions;
use crate::posix::{Errno, Memory};
use crate::vm_space::Space;

impl<P: Platform> Memory<P> {
    /// `fork`: a second space with what this one has, and what the calls know of it. Private memory is copied as one of the two writes to it.
    ///
    /// # Errors
    /// [`Errno::NoMemory`]; [`Errno::Again`] while somebody writes to memory that is copied. Nothing was changed.
    pub fn fork(&mut self, space: &Space<P>, data: P::SpaceData) -> Result<(Space<P>, Self), Errno> {
        self.refresh(space, 0, Self::top(space));
        let mut regions = Regions::new(space.platform());
        regions.reserve(self.regions.len())?;
        let child = space.try_clone(data)?.complete();
        self.regions.inherit(&mut regions);
        let Self { ref data, heap, within, next_object, has_stacks, .. } = *self;
        let memory = Self { regions, data: data.clone(), heap, within, locks_new: false, next_object, has_stacks };
        Ok((child, memory))
    }
}
