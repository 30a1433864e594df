//! What a clone of the space gets of its windows, restricted for a while.
//!
//! How a window [is inherited](Inherit) is said when it is made. Programs keep parts of their memory from children, and change their minds: so that is noted beside it,
//! and what was said first comes back.

use crate::addr::PageRange;
use crate::paging::Mmu;
use crate::platform::Platform;
use crate::vm_space::window::{Window, WindowFlags};
use crate::vm_space::{Inherit, Space, SpaceError};

impl<P: Platform, M: Mmu> Window<P, M> {
    /// What a clone gets of it, all in all.
    pub(super) fn inherited(&self) -> Inherit {
        if self.flags.contains(WindowFlags::NOT_INHERITED) {
            Inherit::Nothing
        } else if self.flags.contains(WindowFlags::INHERITED_AS_ZERO) {
            Inherit::Wipe
        } else {
            self.inherit()
        }
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Has clones get no window in the range ([`WindowFlags::NOT_INHERITED`]), or what each [was made for](Inherit) again. Windows are cut at the range's edges, and
    /// neighbours that agree become one. All or nothing.
    ///
    /// Cost: O(log n + windows in the range); takes at most two records.
    ///
    /// # Errors
    /// Nothing was changed: the lowest address at which nothing is mapped or a change is still being flushed; the range is not the space's, or holds foreign tables;
    /// out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_space::{Inherit, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let secret = space.map_anonymous(0x4000, Place::FirstGap, Access::USER_DATA, Inherit::Copy, 0).unwrap();
    /// space.keep_from_clones(secret, true).unwrap();
    /// assert_eq!(space.try_clone(()).unwrap().complete().windows().count(), 0);
    /// space.keep_from_clones(secret, false).unwrap();
    /// assert_eq!(space.try_clone(()).unwrap().complete().windows().count(), 1);
    /// # }
    /// ```
    pub fn keep_from_clones(&self, range: PageRange, keep: bool) -> Result<(), SpaceError> {
        self.set_flag(range, WindowFlags::NOT_INHERITED, keep)
    }

    /// Has clones get windows onto zeros, without guards, for those in the range ([`WindowFlags::INHERITED_AS_ZERO`]), or what each [was made for](Inherit) again; cut, joined, all or
    /// nothing, at the cost and with the errors of [`keep_from_clones`](Self::keep_from_clones).
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::addr::VirtAddr;
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_space::{Fault, Inherit, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let seed = space.map_anonymous(0x1000, Place::FirstGap, Access::USER_DATA, Inherit::Copy, 0).unwrap();
    /// space.fault(Fault::new(seed.start().as_u64(), Access::WRITE)).unwrap().complete();
    /// space.wipe_in_clones(seed, true).unwrap();
    /// assert_eq!(space.try_clone(()).unwrap().complete().frame_at(seed.start()), None);
    /// # }
    /// ```
    pub fn wipe_in_clones(&self, range: PageRange, wipe: bool) -> Result<(), SpaceError> {
        self.set_flag(range, WindowFlags::INHERITED_AS_ZERO, wipe)
    }

    fn set_flag(&self, range: PageRange, flag: WindowFlags, value: bool) -> Result<(), SpaceError> {
        let none = WindowFlags::empty();
        let (set, clear) = if value { (flag, none) } else { (none, flag) };
        self.flag(range, set, clear, |_| Ok(()))
    }
}
