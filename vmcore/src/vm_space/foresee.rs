//! What a fault would come to, without bringing it about: for who explains an access before it is made.

use super::fault::wanted;
use super::index::Index;
use super::window::Window;
use super::{Fault, Space, SpaceError};
use crate::addr::{Frame, VirtAddr};
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_area::{Area, Foretold, Rights};

/// What a fault would come to; see [`Space::foresee`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Foreseen {
    /// The tables allow the access: there would be no fault.
    Allowed,
    /// The page is in this frame, and would be shown.
    Shown(Frame),
    /// The page is in this frame, which others have as well: it would be copied.
    Copied(Frame),
    /// The page does not exist: a zeroed one would be made.
    Made,
    /// The page does not exist: the zero frame would be shown in its place.
    Zero,
    /// The page is the pager's to bring: it would be asked for, unless it was, and waited for.
    Awaited,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// What [`fault`](Self::fault) would come to now, if memory, accounts and limits allow. Changes nothing, and what is true can change at once.
    ///
    /// Cost: O(log n) windows, O(levels) tables, with the space's index locked. No allocation.
    ///
    /// # Errors
    /// Those of [`fault`](Self::fault).
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, Foreseen, MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x1000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA)).unwrap();
    /// let write = Fault::new(0x40_0123, Access::WRITE | Access::USER);
    /// assert_eq!(space.foresee(write), Ok(Foreseen::Made));
    /// space.fault(write).unwrap().complete();
    /// assert_eq!(space.foresee(write), Ok(Foreseen::Allowed));
    /// let execute = Fault::new(0x40_0123, Access::EXECUTE | Access::USER);
    /// assert!(matches!(space.foresee(execute), Err(SpaceError::Denied { .. })));
    /// # }
    /// ```
    pub fn foresee(&self, fault: Fault) -> Result<Foreseen, SpaceError> {
        let mut index = self.inner().lock_index(self.platform());
        match self.foresee_in(&index, fault) {
            Err(SpaceError::NoWindow(_)) => {}
            outcome => return outcome,
        }
        // As a fault does; the index stays locked until it is taken back.
        let growth = self.grow(&mut index, fault.address)?;
        let outcome = self.foresee_in(&index, fault);
        self.ungrow(&mut index, &growth);
        outcome
    }

    fn foresee_in(&self, index: &Index<P, Window<P, M>>, fault: Fault) -> Result<Foreseen, SpaceError> {
        let (platform, address) = (self.platform(), fault.address);
        let window = self.window_for_fault(index, fault)?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let area = unsafe { window.area.as_ref() };
        let state = area.lock(platform);
        let present = {
            let tables = self.inner().tables.lock(platform);
            let found = tables.find(platform, address).ok_or(SpaceError::Foreign(address))?;
            tables.found_leaf(&found)
        };
        if present.is_some_and(|leaf| leaf.access.contains(fault.access.difference(Access::USER))) {
            return Ok(Foreseen::Allowed);
        }
        let want = wanted(window, area, &state, fault.access);
        Ok(match area.foretell(platform, &state, window.area_page(address), want) {
            Foretold::Page(frame) => Foreseen::Shown(frame),
            Foretold::Copy(frame) => Foreseen::Copied(frame),
            Foretold::New => Foreseen::Made,
            Foretold::Zero => Foreseen::Zero,
            Foretold::Untracked => present.map_or(Foreseen::Made, |leaf| Foreseen::Shown(leaf.frame)),
            Foretold::Asked => Foreseen::Awaited,
            Foretold::Failed => return Err(SpaceError::Failed(address)),
            Foretold::Guard => return Err(SpaceError::Guard(address)),
            Foretold::Outside => return Err(SpaceError::OutsideArea(address)),
            Foretold::Retry => return Err(SpaceError::Retry(address)),
        })
    }

    /// The area that the window at `address` shows, as a handle without any right: it can be looked at, and told from others by its
    /// [identity](Area::id). `None` where no window is, or the area has too many handles. O(log n), no allocation.
    pub fn area_shown_at(&self, address: VirtAddr) -> Option<Area<P>> {
        let index = self.inner().lock_index(self.platform());
        let window = index.find(address)?.window?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        unsafe { Area::another(self.platform(), window.as_ref().area, Rights::empty()) }.ok()
    }
}
