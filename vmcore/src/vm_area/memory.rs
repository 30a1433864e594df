//! The memory type of an area: how accesses through each of its windows are cached and ordered.
//!
//! ```text
//!   set_memory ──► every view: unmap ──► flush ──acknowledged──► faults again, with the new type
//!                  └ until then faults in the area are told to retry: no CPU uses a page with one type while another
//!                    still remembers it with the other
//! ```

use core::ptr::NonNull;

use super::inner::{AreaInner, AreaMarks};
use super::{Area, AreaError, Rights, ViewChange, release_area};
use crate::addr::Frame;
use crate::frame::{Need, Reserve};
use crate::paging::{Access, Deferred, Flush, Leaf, MemoryType, Mmu, Pending, Release, ReleaseStep, Released};
use crate::platform::Platform;

/// A change of the memory type whose flush is outstanding.
#[repr(C)]
struct Retyped<P: Platform> {
    deferred: Deferred<P>,
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
}

impl<P: Platform> Released<P> for Retyped<P> {
    const RELEASE: Release<P> = Release(Self::release);
}

impl<P: Platform> Retyped<P> {
    /// Called when the flush is acknowledged.
    unsafe fn release(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        if step != ReleaseStep::Free {
            return;
        }
        // SAFETY: only values of this type are deferred with this function, and the header is their first field; the object is
        // alive, and its reference keeps the area alive.
        let area = unsafe { object.cast::<Self>().as_ref().area };
        {
            // SAFETY: as above.
            let mut state = unsafe { area.as_ref() }.lock(platform);
            let rest = state.rest_mut();
            rest.returning = rest.returning.saturating_sub(1);
            state.marks.remove(AreaMarks::RETYPING);
        }
        // SAFETY: the memory was taken for this type, whose value has nothing to drop.
        unsafe { Reserve::new(platform).put_object(object.cast::<Self>()) };
        // SAFETY: the object's reference is given up, with no lock held.
        unsafe { release_area(platform, area) };
    }
}

impl<P: Platform> Area<P> {
    /// How accesses through the area's windows are cached: write-back, unless it was [set](Self::set_memory) or the area is a fixed one.
    pub fn memory(&self) -> MemoryType {
        self.inner().memory()
    }

    /// Gives the area another memory type: a buffer that the processor fills and a device reads is write-combining. Its
    /// pages leave every window in every space, and come back by faults with the new type when the flush is complete; until then
    /// faults in it, and populating, are told to retry.
    ///
    /// What the processor's caches hold of the pages is the embedder's to write back before a device looks. So are other mappings of
    /// them: where the [registry](crate::Machine::register) says that RAM is mapped with another type (a kernel's linear map), the type is refused, except
    /// write-back, which RAM has. What is registered later is not checked against areas.
    ///
    /// Cost: O(windows + pages shown), and entries of the registry; takes a pool object.
    ///
    /// # Errors
    /// No right to resize (which is the right to change what the memory is), a fixed or untracked area, a [private view](Self::overlay) (whose memory is the paged area's), a type that the machine's format does not
    /// have, a conflict in the registry, a flush of such a change that is outstanding or a population that is under
    /// way ([`AreaError::Retry`]), out of frames. Nothing was changed. (A
    /// window in a space of another format that lacks the type is refused at its next fault.)
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::MemoryType;
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// let sim = Sim::builder().build();
    /// let buffer = Area::new(&sim, AreaKind::Open { size: 0x4000 }, 0).unwrap();
    /// buffer.set_memory(MemoryType::WriteCombining).unwrap().complete();
    /// assert_eq!(buffer.memory(), MemoryType::WriteCombining);
    /// # }
    /// ```
    pub fn set_memory(&self, memory: MemoryType) -> Result<Flush<P, ()>, AreaError> {
        self.require(Rights::RESIZE)?;
        let platform = self.platform();
        if self.inner().is_fixed() || self.inner().is_untracked() || self.inner().below().is_some() {
            return Err(AreaError::Kind);
        }
        let leaf = Leaf::new(Frame::new(0)).access(Access::READ | Access::USER).memory(memory);
        if platform.machine().mmu().encode_leaf(0, leaf).is_err() {
            return Err(AreaError::Memory(memory));
        }
        let mut reserve = Reserve::new(platform);
        reserve.top_up(&Need::object::<Retyped<P>>())?;
        let mut state = self.inner().lock(platform);
        // Whoever has charged pages ahead is about to show them with the present type.
        if state.is_retyping_itself() || state.rest().ahead != 0 || state.overlays_charge_ahead() {
            return Err(AreaError::Retry);
        }
        let mut pending = Pending::new();
        if memory == self.inner().memory() {
            drop(state);
            return Ok(Flush::new(platform.clone(), pending, ()));
        }
        if memory != MemoryType::WriteBack {
            platform.machine().check_ram(platform, memory).map_err(AreaError::Registry)?;
        }
        self.inner().add_reference()?;
        let Some(object) = reserve.take_object::<Retyped<P>>() else {
            drop(state);
            // SAFETY: the reference was counted above; the handle holds another.
            unsafe { release_area(platform, self.pointer()) };
            return Err(AreaError::OutOfFrames(crate::frame::OutOfFrames { wanted: 1 }));
        };
        self.inner().note_memory(memory);
        let count = state.pages();
        state.change_views(platform, ViewChange::Unmap { first: 0, count }, &mut pending);
        if state.is_unsettled() {
            // What was given up before may be remembered with the old type still.
            state.change_views(platform, ViewChange::Forget { first: 0, count: u64::MAX }, &mut pending);
        }
        state.rest_mut().returning += 1;
        state.marks |= AreaMarks::RETYPING;
        // SAFETY: the memory was taken for this type; the object stays in the pool until its release, is linked nowhere, and
        // holds the reference that was just counted.
        unsafe {
            object.write(Retyped { deferred: Deferred::new::<Retyped<P>>(), area: self.pointer() });
            pending.defer(object.cast());
        }
        drop(state);
        Ok(Flush::new(platform.clone(), pending, ()))
    }
}
