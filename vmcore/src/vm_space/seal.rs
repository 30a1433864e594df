//! Windows that stay as they are, and pages that stay resident.

use crate::addr::PageRange;
use crate::frame::{Need, Reserve};
use crate::paging::{Flush, Mmu};
use crate::platform::Platform;
use crate::vm_space::edit::Part;
use crate::vm_space::index::Index;
use crate::vm_space::window::{Window, WindowFlags};
use crate::vm_space::{Space, SpaceError};

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Seals every window in the range: from now on nothing of it is unmapped, protected, moved or discarded, whoever asks. Only the end of the space ends
    /// it. (What an area gives up because its holder shrinks it is gone all the same.) Windows are cut at the range's edges. All or nothing.
    ///
    /// Cost: O(log n + windows in the range); takes at most two records.
    ///
    /// # Errors
    /// Nothing was changed: the lowest address at which nothing is mapped or a change is still being flushed; the range is not the space's, or holds
    /// foreign tables; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000)).unwrap();
    /// let code = space.range(0x40_1000, 0x2000).unwrap();
    /// space.seal(code).unwrap();
    /// assert_eq!(space.protect(range, Access::READ).unwrap_err(), SpaceError::Sealed(code.start()));
    /// assert_eq!(space.unmap(range).unwrap_err(), SpaceError::Sealed(code.start()));
    /// # }
    /// ```
    pub fn seal(&self, range: PageRange) -> Result<(), SpaceError> {
        self.flag(range, WindowFlags::SEALED, WindowFlags::empty(), |_| Ok(()))
    }

    /// Makes every page of the range present for all that its window allows, and has them stay so: they are not discarded
    /// ([`SpaceError::Locked`]), and an embedder that reclaims pages leaves them alone ([`WindowFlags::LOCKED`]). Windows are cut at the range's edges. All or nothing.
    ///
    /// Cost: O(log n + pages); takes frames for the pages and tables that are missing, and at most two records.
    ///
    /// # Errors
    /// As [`populate`](Self::populate); a window that allows nothing ([`SpaceError::Denied`]).
    pub fn lock_pages(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        self.populate_and_flag(range, None, WindowFlags::LOCKED)
    }

    /// Has the pages of the range stay as [`lock_pages`](Self::lock_pages) does, without having them be there. All or nothing.
    #[cfg(feature = "posix")]
    pub(crate) fn keep_pages(&self, range: PageRange) -> Result<(), SpaceError> {
        self.flag(range, WindowFlags::LOCKED, WindowFlags::empty(), |_| Ok(()))
    }

    /// Ends what [`lock_pages`](Self::lock_pages) began, however often it was asked for. Pages stay where they are. All or nothing.
    ///
    /// Cost: O(log n + windows in the range); takes at most two records.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn unlock_pages(&self, range: PageRange) -> Result<(), SpaceError> {
        self.flag(range, WindowFlags::empty(), WindowFlags::LOCKED, |_| Ok(()))
    }

    /// Sets and clears flags of the windows in the range, unless `check` refuses one.
    pub(super) fn flag(
        &self,
        range: PageRange,
        set: WindowFlags,
        clear: WindowFlags,
        mut check: impl FnMut(&Part<'_, P, M>) -> Result<(), SpaceError>,
    ) -> Result<(), SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index(platform);
            need = Need::default();
            Self::each_part(&index, range, |part| check(&part))?;
            self.reserve_cuts(&index, range, &mut need)?;
            if reserve.covers(&need) {
                self.commit_flags(&mut index, range, set, clear, &mut reserve);
                return Ok(());
            }
        }
    }

    /// Sets and clears flags. The cuts at the edges of the range were reserved.
    pub(super) fn commit_flags(
        &self,
        index: &mut Index<P, Window<P, M>>,
        range: PageRange,
        set: WindowFlags,
        clear: WindowFlags,
        reserve: &mut Reserve<P>,
    ) {
        let platform = self.platform();
        self.cut(index, range, reserve);
        Self::each_window(index, range, |_, window| {
            // SAFETY: windows in the index are alive while it is locked, and so are their areas; index and area are locked for the
            // change.
            unsafe {
                let area = window.as_ref().area.as_ref();
                let state = area.lock(platform);
                Window::change_flags(window, set, clear);
                drop(state);
            }
        });
        self.join(index, range, reserve);
    }
}
