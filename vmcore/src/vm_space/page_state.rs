//! What is known of each page of a range: as sets of pages, 64 at a time.
//!
//! ```text
//!   windows     [== rw- ==][= r-- =]      [==== rw- ====]
//!   mapped      1 1 1 1 1 1 1 1 1 1 . . . 1 1 1 1 1 1 1 1 1
//!   writable    1 1 1 1 1 1 . . . . . . . 1 1 1 1 1 1 1 1 1
//!   resident    . 1 1 . . . . . 1 . . . . . . . . 1 . . . .
//! ```

use crate::addr::{PageRange, VirtAddr};
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
use crate::vm_space::{Inherit, Space, SpaceError};

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

/// What is known of 64 pages side by side: sets of pages, a bit for each; see [`Space::page_sets`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct PageSets {
    /// A window covers the page that does not wait for its flush.
    pub mapped: u64,
    /// A window begins with it. (Of one that begins before the first page there is no bit.)
    pub first: u64,
    /// The window allows it to be read.
    pub readable: u64,
    /// The window allows it to be written to.
    pub writable: u64,
    /// The window allows it to be executed.
    pub executable: u64,
    /// The window is meant to be shared ([`WindowFlags::SHARED`]).
    pub shared: u64,
    /// A clone of the space gets a copy of it.
    pub copied: u64,
    /// A clone of the space gets nothing of it.
    pub kept: u64,
    /// A clone of the space gets zeros of it.
    pub wiped: u64,
    /// It is locked in memory.
    pub locked: u64,
    /// The window is sealed.
    pub sealed: u64,
    /// It exists: [`PageState::RESIDENT`].
    pub resident: u64,
    /// It was written to since it was last clean: [`PageState::DIRTY`].
    pub dirty: u64,
    /// It is guarded.
    pub guarded: u64,
    /// The tables show it, and the hardware used it: where that was asked.
    shown: u64,
    accessed: u64,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Says of each page of the range, from the first on, what is known of it, as far as `states` has room; gives how many it says. What is true can change at once.
    ///
    /// Cost: O(log n + windows + pages), with the index locked for 64 pages at a time. Allocates nothing.
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
        self.check_range(range)?;
        let count = usize::try_from(range.pages(P::PAGE_SHIFT)).unwrap_or(usize::MAX).min(states.len());
        let mut next = range.start();
        for piece in states.get_mut(..count).unwrap_or_default().chunks_mut(u64::BITS as usize) {
            let rest = PageRange::from_bounds(next, range.last());
            let sets = self.look_at_pages::<true>(rest);
            for (page, state) in (0..).zip(piece.iter_mut()) {
                *state = sets.state(page);
            }
            next = VirtAddr::new(next.as_u64().saturating_add((piece.len() as u64) << P::PAGE_SHIFT));
        }
        Ok(count)
    }

    /// Says what windows and areas know of the first 64 pages of the range (of all, if it has fewer), as sets. What the tables show is looked at only where the area remembers nothing: for
    /// the rest see [`page_states`](Self::page_states). What is true can change at once.
    ///
    /// Cost: O(log n + windows + resident pages), with the index locked. Allocates nothing.
    ///
    /// # Errors
    /// The range is not whole pages of the space.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x2000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_1000)).unwrap();
    /// space.fault(Fault::new(0x40_1000, Access::WRITE)).unwrap().complete();
    /// let sets = space.page_sets(space.range(0x40_0000, 0x4000).unwrap()).unwrap();
    /// assert_eq!((sets.mapped, sets.first, sets.writable), (0b0110, 0b0010, 0b0110));
    /// assert_eq!((sets.resident, sets.dirty), (0b0010, 0b0010));
    /// # }
    /// ```
    pub fn page_sets(&self, range: PageRange) -> Result<PageSets, SpaceError> {
        self.check_range(range)?;
        Ok(self.look_at_pages::<false>(range))
    }

    /// Looks at the first 64 pages of a range of the space; at what the tables show as well, if it is asked for.
    #[inline]
    fn look_at_pages<const TABLES: bool>(&self, range: PageRange) -> PageSets {
        let (platform, inner) = (self.platform(), self.inner());
        let mut sets = PageSets::default();
        let mut kinds = Kinds::default();
        let more = (u64::from(u64::BITS - 1) << P::PAGE_SHIFT) | ((1 << P::PAGE_SHIFT) - 1);
        let start = range.start().as_u64();
        let last = range.last().as_u64().min(start.saturating_add(more));
        let range = PageRange::from_bounds(range.start(), VirtAddr::new(last));
        // Nobody changes the shape of the tables while the index is locked: what lies in one leaf table is read with one walk to it.
        let index = inner.lock_index(platform);
        let mut walked = None;
        for slot in index.overlapping(range) {
            let Some(window) = slot.window else { continue };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            if window.state == WindowState::Gated {
                continue;
            }
            // The part of it that is asked about, and which of the 64 pages those are.
            let (from, to) = (slot.range.start().as_u64().max(start), slot.range.last().as_u64().min(last));
            let first = from.wrapping_sub(start) >> P::PAGE_SHIFT;
            let count = (to.wrapping_sub(from) >> P::PAGE_SHIFT).wrapping_add(1);
            let pages = u64::MAX.wrapping_shr(64_u32.wrapping_sub(count as u32)).wrapping_shl(first as u32);
            kinds.add_window(window, pages, slot.range.start().as_u64() >= start);
            if area.is_fixed() {
                sets.resident |= pages;
            }
            if window.marks.contains(WindowMarks::GUARDED) {
                let part = PageRange::from_bounds(VirtAddr::new(from), VirtAddr::new(to));
                for guard in inner.guards.lock(platform).within(part) {
                    let first = guard.start().as_u64().wrapping_sub(start) >> P::PAGE_SHIFT;
                    sets.guarded |= pages_from(first, guard.pages(P::PAGE_SHIFT));
                }
            }
            let state = area.lock(platform);
            state.for_each_resident(window.area_page(VirtAddr::new(from)), count, |step, dirty| {
                // No page of the part is behind the 64.
                let page = 1_u64.wrapping_shl(first.wrapping_add(step) as u32);
                sets.resident |= page;
                sets.dirty |= if dirty { page } else { 0 };
            });
            if TABLES || area.is_untracked() {
                let part = PageRange::from_bounds(VirtAddr::new(from), VirtAddr::new(to));
                inner.leaf_tables.for_each_shown(platform, part, &mut walked, |step, count, accessed| {
                    let pages = pages_from(first.saturating_add(step), count);
                    sets.shown |= pages;
                    sets.accessed |= if accessed { pages } else { 0 };
                    sets.resident |= if area.is_untracked() { pages } else { 0 };
                });
            }
        }
        drop(index);
        kinds.add_to(&mut sets);
        sets
    }
}

/// A bit for each of so many pages (at least one) from the `first` of 64 on.
#[inline]
const fn pages_from(first: u64, count: u64) -> u64 {
    let (first, count) = if first < 64 { (first as u32, count) } else { return 0 };
    (if count < 64 { u64::MAX.wrapping_shr(64 - count as u32) } else { u64::MAX }).wrapping_shl(first)
}

/// Pages by what their windows are: sets that are made into those of [`PageSets`] once, for all windows.
#[derive(Default)]
struct Kinds {
    first: u64,
    /// By the lowest three bits of what the window allows.
    by_access: [u64; 8],
    by_inherit: [u64; 4],
    shared: u64,
    locked: u64,
    sealed: u64,
    kept: u64,
    wiped: u64,
}

impl Kinds {
    #[inline]
    fn add_window<P: Platform, M: Mmu>(&mut self, window: &Window<P, M>, pages: u64, begins: bool) {
        const { assert!(Access::READ.bits() | Access::WRITE.bits() | Access::EXECUTE.bits() == 7, "eight kinds of access") };
        // All of them or none, without a branch.
        let pages_if = |holds: bool| pages & u64::from(holds).wrapping_neg();
        self.first |= pages_if(begins) & pages.wrapping_neg();
        if let Some(set) = self.by_access.get_mut(usize::from(window.access.bits() & 7)) {
            *set |= pages;
        }
        if let Some(set) = self.by_inherit.get_mut(window.inherit() as usize) {
            *set |= pages;
        }
        let flags = window.flags;
        if !flags.is_empty() {
            self.shared |= pages_if(flags.contains(WindowFlags::SHARED));
            self.locked |= pages_if(flags.contains(WindowFlags::LOCKED));
            self.sealed |= pages_if(flags.contains(WindowFlags::SEALED));
            self.kept |= pages_if(flags.contains(WindowFlags::NOT_INHERITED));
            self.wiped |= pages_if(flags.contains(WindowFlags::INHERITED_AS_ZERO));
        }
    }

    #[inline]
    fn add_to(&self, sets: &mut PageSets) {
        sets.first = self.first;
        for (access, pages) in (0..).zip(self.by_access) {
            let access = Access::from_bits_truncate(access);
            sets.mapped |= pages;
            sets.readable |= if access.contains(Access::READ) { pages } else { 0 };
            sets.writable |= if access.contains(Access::WRITE) { pages } else { 0 };
            sets.executable |= if access.contains(Access::EXECUTE) { pages } else { 0 };
        }
        let of = |inherit: Inherit| self.by_inherit.get(inherit as usize).copied().unwrap_or(0);
        sets.copied = of(Inherit::Copy);
        sets.wiped = of(Inherit::Wipe) | self.wiped;
        sets.kept = of(Inherit::Nothing) | self.kept;
        (sets.shared, sets.locked, sets.sealed) = (self.shared, self.locked, self.sealed);
    }
}

impl PageSets {
    /// What is known of one of the pages.
    fn state(&self, page: u32) -> PageState {
        let known = [
            (self.mapped, PageState::MAPPED),
            (self.resident, PageState::RESIDENT),
            (self.shown, PageState::SHOWN),
            (self.dirty, PageState::DIRTY),
            (self.accessed, PageState::ACCESSED),
            (self.locked, PageState::LOCKED),
            (self.guarded, PageState::GUARDED),
        ];
        known.into_iter().filter(|(pages, _)| pages.wrapping_shr(page) & 1 != 0).map(|(_, state)| state).collect()
    }
}
