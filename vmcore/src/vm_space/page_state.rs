//! What is known of each page of a range.

use crate::addr::{PageRange, VirtAddr};
use crate::paging::Mmu;
use crate::platform::Platform;
use crate::vm_space::window::{WindowFlags, WindowMarks, WindowState};
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
    /// Cost: O(log n + windows + pages), with the index locked: ask for a range in pieces. Allocates nothing.
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
        let Some(states) = states.get_mut(..count) else { return Ok(0) };
        states.fill(PageState::empty());
        let place = |address: VirtAddr| {
            usize::try_from((address.as_u64() - range.start().as_u64()) >> P::PAGE_SHIFT).unwrap_or(usize::MAX)
        };
        // Nobody changes the shape of the tables while the index is locked: what lies in one leaf table is read with one walk to it.
        let index = inner.lock_index(platform);
        let mut last = None;
        for slot in index.overlapping(range) {
            let (Some(window), Some(part)) = (slot.window, slot.range.intersection(range)) else { continue };
            let Some(found) = states.get_mut(place(part.start())..) else { break };
            let pages = part.pages(P::PAGE_SHIFT).min(found.len() as u64);
            if pages == 0 {
                break;
            }
            let part = PageRange::from_checked(part.start(), pages << P::PAGE_SHIFT);
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            if window.state == WindowState::Gated {
                continue;
            }
            // Pages of the part, from its `step`th on.
            let mut note = |step: u64, pages: u64, state: PageState| {
                let found = found.get_mut(usize::try_from(step).unwrap_or(usize::MAX)..).unwrap_or_default();
                match (pages, found) {
                    (1, [page, ..]) => page.insert(state),
                    (_, pages_left) => {
                        let pages = usize::try_from(pages).unwrap_or(usize::MAX);
                        pages_left.iter_mut().take(pages).for_each(|found| found.insert(state));
                    }
                }
            };
            let step = |address: VirtAddr| (address.as_u64() - part.start().as_u64()) >> P::PAGE_SHIFT;
            let mut every = PageState::MAPPED;
            every.set(PageState::RESIDENT, area.is_fixed());
            every.set(PageState::LOCKED, window.flags.contains(WindowFlags::LOCKED));
            note(0, pages, every);
            if window.marks.contains(WindowMarks::GUARDED) {
                for guard in inner.guards.lock(platform).within(part) {
                    note(step(guard.start()), guard.pages(P::PAGE_SHIFT), PageState::GUARDED);
                }
            }
            let state = area.lock(platform);
            state.for_each_resident(window.area_page(part.start()), pages, |step, dirty| {
                let dirty = if dirty { PageState::DIRTY } else { PageState::empty() };
                note(step, 1, PageState::RESIDENT | dirty);
            });
            inner.leaf_tables.for_each_shown(platform, part, &mut last, |step, pages, accessed| {
                let mut state = PageState::SHOWN;
                state.set(PageState::ACCESSED, accessed);
                state.set(PageState::RESIDENT, area.is_untracked());
                note(step, pages, state);
            });
        }
        Ok(count)
    }
}
