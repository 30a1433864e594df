//! Which key of an area's tree a page of the area is kept under: its index, except in a ring, whose memory comes twice in a row.
//!
//! ```text
//!   tree key      0   1   2   3
//!                 │   │   │   │       n = 4 pages of memory
//!   area page     0   1   2   3   4   5   6   7
//!                 a   b   c   d   a   b   c   d      a record that begins in d and ends in a is in one piece at 3..=4
//! ```
//!
//! Each page has one key and one frame, and is seen at two places of the area. Whoever takes a page away has to reach both: so
//! every change of views goes through [`AreaState::change_views`], which makes two of one here. A range of area pages may
//! cover a key twice; what it takes to fill it is counted by the keys, what is resident of it by the places.

use super::ViewChange;
use super::inner::{AreaMarks, AreaState};
use crate::addr::Frame;
use crate::frame::Need;
use crate::paging::Pending;
use crate::platform::Platform;

impl<P: Platform> AreaState<P> {
    /// A ring's pages of memory; 0 for every other kind.
    pub(crate) const fn ring(&self) -> u64 {
        if self.marks.contains(AreaMarks::RING) { self.pages() / 2 } else { 0 }
    }

    /// Whether at most one place in a space shows each page.
    pub(crate) const fn is_shown_at_one_place(&self) -> bool {
        self.view_count() == 1 && !self.marks.contains(AreaMarks::RING)
    }

    /// The key of a page of the area. O(1).
    #[inline]
    pub(crate) const fn key(&self, index: u64) -> u64 {
        if self.ring() != 0 && index >= self.ring() && index < self.pages() { index - self.ring() } else { index }
    }

    /// The keys of a range of area pages, part by part: for a ring those that lie in its first place, and those that lie in
    /// its second one. A part may be empty.
    const fn parts(&self, first: u64, count: u64) -> [(u64, u64); 2] {
        if self.ring() == 0 {
            return [(first, count), (first, 0)];
        }
        let end = min(first.saturating_add(count), self.pages());
        let (low, high) = (min(first, self.ring()), min(end, self.ring()));
        let (second_low, second_high) = (min(first, end).saturating_sub(self.ring()), end.saturating_sub(self.ring()));
        [(low, high.saturating_sub(low)), (second_low, second_high - second_low)]
    }

    /// The keys of a range of area pages, each once: at most two ranges. For all kinds but rings that is the range itself.
    pub(crate) const fn keys(&self, first: u64, count: u64) -> [(u64, u64); 2] {
        let [(low, length), (second, second_length)] = self.parts(first, count);
        if length != 0 && second_length != 0 && second + second_length >= low {
            // It begins in the first place, goes on to that place's end, and comes round to where it began.
            return [(0, self.ring()), (0, 0)];
        }
        [(low, length), (second, second_length)]
    }

    /// The frame of page `index`, if an operation that began with page `first` came to it before, at its other place: it has made the page the area's
    /// own, which others are told to wait for.
    pub(super) fn come_round(&self, first: u64, index: u64) -> Option<Frame> {
        if self.ring() == 0 || index.checked_sub(self.ring()).is_none_or(|before| before < first) {
            return None;
        }
        self.resident_page(index)
    }

    /// What it takes to make `count` pages from `first` on resident. O(pages).
    pub(crate) fn need_for(&self, first: u64, count: u64) -> Need {
        let [(first, count), (other, more)] = self.keys(first, count);
        let mut need = self.need_for_keys(first, count);
        if more != 0 {
            need.merge(&self.need_for_keys(other, more));
            // What one of them takes alone may be more for the one that comes second.
            need.merge(&Self::nodes_at_most(1));
        }
        need
    }

    /// How many of the pages are resident. O(nodes in the range).
    pub(crate) fn resident_in(&self, first: u64, count: u64) -> u64 {
        if self.ring() == 0 {
            return self.resident_keys(first, count);
        }
        self.parts(first, count).into_iter().map(|(first, count)| self.resident_keys(first, count)).sum()
    }

    /// Says of each page that is resident, in order, how many pages it comes behind `first`, and whether it was written to since it was last clean.
    /// O(nodes and resident pages in the range).
    pub(crate) fn for_each_resident(&self, first: u64, count: u64, mut found: impl FnMut(u64, bool)) {
        if self.is_overlay() {
            return self.for_each_resident_over_below(first, count, found);
        }
        if self.tree.is_empty() {
            return;
        }
        let mut each = |before: u64, key: u64, count: u64| {
            if let Some(last) = count.checked_sub(1).map(|more| key.saturating_add(more)) {
                self.tree.each_value(key, last, |at, page| {
                    if page.held_frame().is_some() {
                        found(before + (at - key), page.is_dirty());
                    }
                });
            }
        };
        if self.ring() == 0 {
            return each(0, first, count);
        }
        let mut before = 0;
        for (key, count) in self.parts(first, count) {
            each(before, key, count);
            before += count;
        }
    }

    /// Has every view that shows some of the pages changed, wherever it shows them.
    pub(crate) fn change_views(&mut self, platform: &P, change: ViewChange, pending: &mut Pending<P>) {
        if self.ring() == 0 {
            return self.change_places(platform, change, pending);
        }
        let (first, count) = change.pages();
        for (first, count) in self.keys(first, count) {
            for place in [0, self.ring()] {
                if count != 0 {
                    self.change_places(platform, change.at(place + first, count), pending);
                }
            }
        }
    }
}

const fn min(one: u64, other: u64) -> u64 {
    if one < other { one } else { other }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::paging::{Access, Flush, Mmu};
    use crate::sim::Sim;
    use crate::vm_area::{Area, AreaKind};
    use crate::vm_space::{Fault, MapRequest, Space};

    const PAGE: u64 = 0x1000;

    /// Every range of every small ring, against the definition: page i has key i mod n.
    #[test]
    fn keys_of_every_range() {
        let sim = Sim::builder().frames(64).build();
        for n in 1..6 {
            let area = Area::new(&sim, AreaKind::Ring { size: n * PAGE }, 0).unwrap();
            let state = area.inner().lock(&sim);
            let expand = |parts: [(u64, u64); 2]| -> Vec<u64> {
                parts.into_iter().flat_map(|(first, count)| first..first + count).collect()
            };
            for first in 0..2 * n {
                for count in (1..=2 * n - first).chain([u64::MAX]) {
                    let pages = first..first.saturating_add(count).min(2 * n);
                    let wanted: Vec<u64> = pages.clone().map(|page| page % n).collect();
                    let mut parts = expand(state.parts(first, count));
                    let keys = expand(state.keys(first, count));
                    assert_eq!(
                        BTreeSet::from_iter(keys.clone()),
                        BTreeSet::from_iter(wanted.clone()),
                        "{n} {first}+{count}"
                    );
                    assert!(keys.len() == BTreeSet::from_iter(keys.clone()).len(), "each once: {n} {first}+{count}");
                    parts.sort_unstable();
                    let mut sorted = wanted;
                    sorted.sort_unstable();
                    assert_eq!(parts, sorted, "{n} {first}+{count}");
                    assert!(pages.clone().map(|page| state.key(page)).eq(pages.map(|page| page % n)));
                }
            }
            assert_eq!(state.key(2 * n), 2 * n, "past the end there is no alias");
        }
    }

    /// What takes one page of the memory away takes it out of both places, and no other.
    #[test]
    fn a_change_reaches_both_places() {
        let sim = Sim::builder().build();
        let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        sim.activate(0, &kernel.activate(0));
        let (start, n) = (bounds.start().as_u64(), 4);
        for asked in 0..2 * n {
            let area = Area::new(&sim, AreaKind::Ring { size: n * PAGE }, 0).unwrap();
            let whole = kernel.map(&MapRequest::new(&area).at(start).populated()).unwrap();
            let part = MapRequest::new(&area).at(start + 16 * PAGE).offset(3 * PAGE).size(3 * PAGE);
            let part = kernel.map(&part.populated()).unwrap();
            let reads = |page| sim.access(0, crate::addr::VirtAddr::new(start + page * PAGE), Access::READ).is_ok();
            assert!((0..8).chain(16..19).all(reads));
            let mut pending = Pending::new();
            area.inner().lock(&sim).change_views(&sim, ViewChange::Unmap { first: asked, count: 1 }, &mut pending);
            Flush::new(sim.clone(), pending, ()).complete();
            for page in 0..8 {
                assert_eq!(reads(page), page % n != asked % n, "page {page} of the whole, after {asked} went");
            }
            for page in 0..3 {
                assert_eq!(
                    reads(16 + page),
                    (page + 3) % n != asked % n,
                    "page {page} of the part, after {asked} went"
                );
            }
            assert!(kernel.fault(Fault::new(start + asked * PAGE, Access::READ)).is_ok());
            kernel.unmap(whole).unwrap().and(kernel.unmap(part).unwrap()).complete();
        }
        sim.assert_no_violation();
        sim.unload(0);
        // SAFETY: the root is not loaded any more.
        unsafe { kernel.deactivate(0) };
    }
}
