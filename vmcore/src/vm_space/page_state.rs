//! What is known of each page of a range.

use crate::addr::PageRange;
use crate::paging::Mmu;
use crate::platform::Platform;
use crate::vm_space::index::page_size;
use crate::vm_space::window::{WindowFlags, WindowState};
use crate::vm_space::{Space, SpaceError};

bitflags::bitflags! {
    /// What is known of a page; see [`Space::page_states`].
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct PageState: u8 {
        /// A window covers it that does not wait for its flush.
        const MAPPED = 1;
        /// It exists: its area holds it, or the tables do where the area remembers nothing. Pages of fixed areas always do.
        const RESIDENT = 2;
        /// The tables show it.
        const SHOWN = 4;
        /// It was written to since it was last clean. Only what the area tracks.
        const DIRTY = 8;
        /// The hardware used it since that was last asked: a hint.
        const ACCESSED = 16;
        /// It is locked in memory.
        const LOCKED = 32;
        /// It is guarded.
        const GUARDED = 64;
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Says of each page of the range, from the first on, what is known of it, as far as `states` has room; gives how many it says. What is true can change at once.
    ///
    /// Cost: O(log n + windows + pages × levels), with the index locked: ask for a range in pieces. Allocates nothing.
    ///
    /// # Errors
    /// The range is not whole pages of the space.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, PageState, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x2000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000)).unwrap();
    /// space.fault(Fault::new(0x40_0000, Access::WRITE)).unwrap().complete();
    /// let mut states = [PageState::empty(); 8];
    /// assert_eq!(space.page_states(space.range(0x40_0000, 0x3000).unwrap(), &mut states), Ok(3));
    /// assert!(states[0].contains(PageState::RESIDENT | PageState::DIRTY | PageState::SHOWN));
    /// assert_eq!(states[1], PageState::MAPPED);
    /// assert_eq!(states[2], PageState::empty());
    /// # }
    /// ```
    pub fn page_states(&self, range: PageRange, states: &mut [PageState]) -> Result<usize, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let count = usize::try_from(range.pages(P::PAGE_SHIFT)).unwrap_or(usize::MAX).min(states.len());
        for state in states.iter_mut().take(count) {
            *state = PageState::empty();
        }
        let index = inner.lock_index(platform);
        for slot in index.overlapping(range) {
            let (Some(window), Some(part)) = (slot.window, slot.range.intersection(range)) else { continue };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            if window.state == WindowState::Gated {
                continue;
            }
            let state = area.lock(platform);
            let tables = inner.tables.lock(platform);
            let skipped = (part.start().as_u64() - range.start().as_u64()) >> P::PAGE_SHIFT;
            let here = states.iter_mut().take(count).skip(usize::try_from(skipped).unwrap_or(usize::MAX));
            for (step, found) in (0..part.pages(P::PAGE_SHIFT)).zip(here) {
                let Some(address) = part.start().checked_add(step << P::PAGE_SHIFT) else { break };
                let leaf = tables.translate(platform, address).map(|(_, leaf)| leaf);
                let page = state.page_state(window.area_page(address));
                let resident = page.is_some() || area.is_fixed() || (area.is_untracked() && leaf.is_some());
                let guarded = self.first_guard(window, PageRange::from_checked(address, page_size::<P>())).is_some();
                found.insert(PageState::MAPPED);
                found.set(PageState::RESIDENT, resident);
                found.set(PageState::SHOWN, leaf.is_some());
                found.set(PageState::DIRTY, page == Some(true));
                found.set(PageState::ACCESSED, leaf.is_some_and(|leaf| leaf.accessed));
                found.set(PageState::LOCKED, window.flags.contains(WindowFlags::LOCKED));
                found.set(PageState::GUARDED, guarded);
            }
        }
        Ok(count)
    }
}
