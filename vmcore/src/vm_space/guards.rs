//! Guard pages without a window for each: addresses of windows at which every access is refused.
//!
//! ```text
//!   window   |------------------------------------------------|      one record, whatever is guarded
//!   guards         |==|        |====|              |=|               ranges by address, sorted, apart from one another
//! ```
//!
//! They belong to the addresses and not to the area, which another window may show without guards. The tables hold nothing there. They go along when their window moves, go when it
//! is unmapped, and stay when its pages are released.

use core::cmp::Ordering;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Need, OutOfFrames, Reserve};
use crate::machine::FrameMemory;
use crate::paging::{Access, Flush, Gather, Mmu, Pending};
use crate::platform::Platform;
use crate::static_vec::{StaticVec, StaticVecError};
use crate::vm_space::index::page_size;
use crate::vm_space::release::Windows;
use crate::vm_space::unmap::clear_tables;
use crate::vm_space::window::{Window, WindowMarks};
use crate::vm_space::{Space, SpaceError};

/// The guarded addresses of a space. Behind a lock of its own, which is taken only for windows that may have some, with the index locked.
pub(super) struct Guards<P: Platform> {
    /// Sorted; none touch.
    ranges: StaticVec<PageRange, FrameMemory<P>>,
}

impl<P: Platform> Guards<P> {
    pub(super) fn new(platform: &P) -> Self {
        Self { ranges: StaticVec::with_memory(FrameMemory::new(platform.clone())) }
    }

    /// The position of the first range that ends at or after `address`.
    fn position(&self, address: VirtAddr) -> usize {
        self.ranges.partition_point(|range| range.last() < address)
    }

    /// The lowest guarded address in a range. O(log n).
    pub(super) fn first_in(&self, range: PageRange) -> Option<VirtAddr> {
        let found = self.ranges.get(self.position(range.start()))?.intersection(range)?;
        Some(found.start())
    }

    /// What is guarded in a range, in order.
    pub(super) fn within(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let first = self.position(range.start());
        self.ranges.get(first..).unwrap_or_default().iter().map_while(move |guard| guard.intersection(range))
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Makes room for so many ranges more.
    ///
    /// # Errors
    /// How many consecutive frames that takes.
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), OutOfFrames> {
        self.ranges.reserve(count).map_err(|error| {
            let ranges = match error {
                StaticVecError::OutOfMemory { wanted } => wanted,
                _ => usize::MAX,
            };
            let bytes = ranges.saturating_mul(size_of::<PageRange>()).saturating_add(FrameMemory::<P>::HEADER);
            OutOfFrames { wanted: (bytes as u64).div_ceil(page_size::<P>()) }
        })
    }

    /// Adds a range. Room for one was reserved. O(n).
    pub(super) fn insert(&mut self, range: PageRange) {
        let (mut start, mut last) = (range.start(), range.last());
        let touched = |other: &PageRange, start: VirtAddr, last: VirtAddr| {
            let before = other.last().checked_add(1).is_some_and(|next| next < start);
            let behind = last.checked_add(1).is_some_and(|next| next < other.start());
            if before {
                Ordering::Less
            } else if behind {
                Ordering::Greater
            } else {
                Ordering::Equal
            }
        };
        let first = self.ranges.partition_point(|other| touched(other, range.start(), range.last()) == Ordering::Less);
        let mut end = first;
        while let Some(other) = self.ranges.get(end) {
            if touched(other, range.start(), range.last()) != Ordering::Equal {
                break;
            }
            (start, last) = (start.min(other.start()), last.max(other.last()));
            end += 1;
        }
        let joined = PageRange::from_bounds(start, last);
        if end > first {
            if let Some(slot) = self.ranges.get_mut(first) {
                *slot = joined;
            }
            let _ = self.ranges.drain(first + 1..end).map(drop);
        } else {
            let _ = self.ranges.insert(first, joined);
        }
    }

    /// Whether taking the range away makes two of one.
    pub(super) fn splits(&self, range: PageRange) -> bool {
        let found = self.ranges.get(self.position(range.start()));
        found.is_some_and(|found| found.before(range).is_some() && found.after(range).is_some())
    }

    /// Takes what lies in a range away. Room for one was reserved where it [splits](Self::splits) one. O(n).
    pub(super) fn remove(&mut self, range: PageRange) {
        let first = self.position(range.start());
        let mut end = first;
        let (mut before, mut after) = (None, None);
        while let Some(other) = self.ranges.get(end).filter(|other| other.overlaps(range)) {
            before = before.or(other.before(range));
            after = other.after(range);
            end += 1;
        }
        if end == first {
            return;
        }
        let _ = self.ranges.drain(first..end).map(drop);
        for part in [after, before].into_iter().flatten() {
            let _ = self.ranges.insert(first, part);
        }
    }

    /// Brings what lies in a range to another place, as far as that reaches, and takes the rest away. Room for three was reserved. O(n) for each guard.
    pub(super) fn relocate(&mut self, from: PageRange, to: PageRange) {
        while let Some(found) = self.ranges.get(self.position(from.start())).and_then(|found| found.intersection(from))
        {
            self.remove(found);
            let offset = found.start().as_u64() - from.start().as_u64();
            let arrives = to.start().checked_add(offset).map(|start| PageRange::from_checked(start, found.size()));
            if let Some(arrives) = arrives.and_then(|arrives| arrives.intersection(to)) {
                self.insert(arrives);
            }
        }
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Guards every page of the range: from now on each access to it is refused with [`SpaceError::Guard`], and it cannot be populated or locked in memory. The
    /// pages stay in their areas (untracked ones are released), and are shown again when the guard is [removed](Self::remove_guards). All or nothing.
    ///
    /// Guards belong to the addresses of this space: they survive the release of the pages and go along when the window is relocated. Guards take no window: many in
    /// one window cost 16 bytes each.
    ///
    /// Cost: O(log n + windows and leaves in the range + guards of the space); takes room for one range, and tables where a large leaf is split. True when the flush is complete.
    ///
    /// # Errors
    /// Nothing was changed: the lowest address at which nothing is mapped, a change is still being flushed, or the window is sealed or locked; the range is
    /// not the space's or holds foreign tables; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000)).unwrap();
    /// let guard = space.range(0x40_1000, 0x1000).unwrap();
    /// space.install_guards(guard).unwrap().complete();
    /// let fault = Fault::new(0x40_1000, Access::READ | Access::USER);
    /// assert_eq!(space.fault(fault).unwrap_err(), SpaceError::Guard(guard.start()));
    /// assert_eq!(space.windows().count(), 1);
    /// space.remove_guards(guard).unwrap();
    /// assert!(space.fault(fault).is_ok());
    /// # }
    /// ```
    pub fn install_guards(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        self.guard(range, false)
    }

    /// As [`install_guards`](Self::install_guards); and pages that nothing but these windows reaches are released, as
    /// [`Advice::NotNeeded`](crate::vm_space::Advice::NotNeeded) does: when the guard is removed, they read as zero. All or nothing.
    ///
    /// Cost: as `install_guards`, and an object and the nodes of two cut edges for each window.
    ///
    /// # Errors
    /// As `install_guards`; a page that would be released is pinned.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// drop(area); // from here on the window alone keeps it
    /// space.install_guards_and_release(space.range(0x40_1000, 0x1000).unwrap()).unwrap().complete();
    /// assert_eq!(space.window_after(range.start()).unwrap().resident_pages, 3);
    /// # }
    /// ```
    pub fn install_guards_and_release(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        self.guard(range, true)
    }

    fn guard(&self, range: PageRange, release: bool) -> Result<Flush<P, ()>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let index = inner.lock_index(platform);
            need = Need::default();
            Self::each_part(&index, range, |part| {
                part.check_unsealed()?;
                part.check_unlocked()?;
                need.tables += inner.tables.lock(platform).check_access_change(platform, part.range, |_| true)?;
                Ok(())
            })?;
            if release {
                need.merge(&self.need_to_release(&index, range, Windows::Stay)?);
            }
            if !reserve.covers(&need) {
                continue;
            }
            self.check_tables(need.tables)?;
            inner.guards.lock(platform).reserve(1)?;
            // From here on nothing fails.
            let (mut pending, mut gather) = (Pending::new(), Gather::default());
            for slot in index.overlapping(range) {
                let (Some(window), Some(middle)) = (slot.window, slot.range.intersection(range)) else { continue };
                if release {
                    self.release_part(&slot, range, Windows::Stay, &mut reserve, &mut pending);
                }
                // SAFETY: windows in the index are alive while it is locked, and so are their areas.
                let area = unsafe { window.as_ref().area.as_ref() };
                let state = area.lock(platform);
                // SAFETY: as above.
                if unsafe { window.as_ref() }.may_linger(Access::empty()) || state.is_unsettled() {
                    // Other CPUs may remember pages that the tables do not show.
                    gather.add_lingering(inner.tag, middle, inner.global);
                }
                // SAFETY: index and area are locked, and no reference to the window is in use.
                unsafe { Window::note(window, WindowMarks::DROPPED | WindowMarks::GUARDED) };
                clear_tables(platform, inner, slot, middle, &mut reserve.tables, &mut gather, &mut pending);
                drop(state);
            }
            inner.guards.lock(platform).insert(range);
            inner.absorb(platform, gather, &mut pending);
            drop(index);
            return Ok(Flush::new(platform.clone(), pending, ()));
        }
    }

    /// Takes every guard in the range away; where there is none, nothing happens. Pages are shown again by faults. All or nothing.
    ///
    /// Cost: O(log n + windows in the range + guards of the space); takes room for one range where a guard is cut in two.
    ///
    /// # Errors
    /// Nothing was changed: the lowest address at which nothing is mapped, a change is still being flushed, or the window is sealed; the range is not the
    /// space's or holds foreign tables; out of frames.
    pub fn remove_guards(&self, range: PageRange) -> Result<(), SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let index = inner.lock_index(platform);
        Self::each_part(&index, range, |part| part.check_unsealed())?;
        let mut guards = inner.guards.lock(platform);
        if guards.splits(range) {
            guards.reserve(1)?;
        }
        guards.remove(range);
        Ok(())
    }

    /// The lowest guarded address in a part of a window. The index is locked.
    pub(super) fn first_guard(&self, window: &Window<P, M>, range: PageRange) -> Option<VirtAddr> {
        if !window.marks.contains(WindowMarks::GUARDED) {
            return None;
        }
        self.inner().guards.lock(self.platform()).first_in(range)
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::sim::Sim;

    fn pages(first: u64, count: u64) -> PageRange {
        PageRange::from_checked(VirtAddr::new(first << 12), count << 12)
    }

    proptest! {
        /// Against a set of pages: what is guarded, that ranges are sorted and apart, and that what was reserved suffices.
        #[test]
        fn guards_are_a_set_of_pages(ops in prop::collection::vec((0..4_u8, 0..40_u64, 1..9_u64, 0..30_u64), 1..60)) {
            let sim = Sim::builder().frames(64).build();
            let mut guards = Guards::new(&sim);
            let mut model = BTreeSet::new();
            for (op, first, count, to) in ops {
                let range = pages(first, count);
                match op {
                    0 | 1 => {
                        guards.reserve(1).unwrap();
                        guards.insert(range);
                        model.extend(first..first + count);
                    }
                    2 => {
                        if guards.splits(range) {
                            guards.reserve(1).unwrap();
                        }
                        guards.remove(range);
                        model.retain(|page| !(first..first + count).contains(page));
                    }
                    _ => {
                        // To a place behind all others, one page shorter.
                        let (to, shorter) = (100 + to, count.max(2) - 1);
                        guards.reserve(3).unwrap();
                        guards.relocate(range, pages(to, shorter));
                        let gone: Vec<u64> = model.range(first..first + count).copied().collect();
                        for page in gone {
                            model.remove(&page);
                            if page - first < shorter {
                                model.insert(page - first + to);
                            }
                        }
                    }
                }
                for page in 0..140 {
                    let found = guards.first_in(pages(page, 5)).map(|address| address.as_u64() >> 12);
                    prop_assert_eq!(found, model.range(page..page + 5).next().copied());
                }
                for pair in guards.ranges.as_slice().windows(2) {
                    prop_assert!(pair[0].last().checked_add(1).unwrap() < pair[1].start(), "{:?}", pair);
                }
            }
        }
    }
}
