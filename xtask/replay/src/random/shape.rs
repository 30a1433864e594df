//! Regions and pages of the window of all that happens, as sets of its pages: a bit for each.

use vmcore::posix::{Memory, Protection};
use vmcore::sim::Sim;
use vmcore::vm_space::PageSets;

use super::{BASE, PAGES};
use crate::world::PAGE;

/// A region: first page, page behind the last, protection, whether shared.
pub(super) type Shown = (u64, u64, u32, bool);

/// The pages that are in a region, that are in a shared one, and that have each of the protections. Two lists of regions in which neighbours that agree are one, and none
/// overlap, are the same where these are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) mapped: u64,
    pub(super) shared: u64,
    pub(super) read: u64,
    pub(super) write: u64,
    pub(super) execute: u64,
}

impl Shape {
    #[inline]
    pub(super) fn add(&mut self, pages: u64, protection: u32, shared: bool) {
        // All bits for a protection that is there, none for one that is not.
        let if_set = |shift: u32| pages & u64::from(protection >> shift & 1).wrapping_neg();
        self.mapped |= pages;
        self.shared |= pages & u64::from(shared).wrapping_neg();
        self.read |= if_set(0);
        self.write |= if_set(1);
        self.execute |= if_set(2);
    }

    /// The windows of a space.
    pub(super) const fn of_windows(sets: &PageSets) -> Self {
        let &PageSets { mapped, shared, readable, writable, executable, .. } = sets;
        Self { mapped, shared, read: readable, write: writable, execute: executable }
    }

    /// The same regions as the processor shows them: whatever is allowed can be read.
    pub(super) const fn shown(self) -> Self {
        Self { read: self.read | self.write | self.execute, ..self }
    }

    /// The pages that allow one of these.
    pub(super) fn allowed(&self, protection: Protection) -> u64 {
        let kinds =
            [(Protection::READ, self.read), (Protection::WRITE, self.write), (Protection::EXECUTE, self.execute)];
        kinds.into_iter().filter(|(kind, _)| protection.intersects(*kind)).fold(0, |all, (_, pages)| all | pages)
    }

    /// The regions, in order; neighbours that agree as one.
    pub(super) fn regions(&self) -> Vec<Shown> {
        let bit = |set: u64, page: u64| set >> page & 1;
        let of = |page: u64| {
            let protection = bit(self.read, page) | bit(self.write, page) << 1 | bit(self.execute, page) << 2;
            (protection as u32, bit(self.shared, page) != 0)
        };
        let mut all: Vec<Shown> = Vec::new();
        for page in (0..PAGES).filter(|page| bit(self.mapped, *page) != 0) {
            match all.last_mut() {
                Some(last) if (last.1, (last.2, last.3)) == (page, of(page)) => last.1 = page + 1,
                _ => all.push((page, page + 1, of(page).0, of(page).1)),
            }
        }
        all
    }
}

/// What a process knows of its regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Regions {
    pub(super) shape: Shape,
    /// The first page of each.
    first: u64,
    /// The pages of files.
    pub(super) files: u64,
    /// How many lie elsewhere, or reach out of the window.
    elsewhere: u32,
}

impl Regions {
    pub(super) fn of(memory: &Memory<Sim>) -> Self {
        /// How many kinds of regions there are, by protection; and as many more that are shared.
        const KINDS: usize = 8;
        let mut kinds = [0; 2 * KINDS];
        let mut all = Self::default();
        for region in memory.regions() {
            let (first, count) = (region.start.wrapping_sub(BASE) / PAGE, region.size / PAGE);
            let pages = if count != 0 && first + count <= PAGES {
                u64::MAX >> (PAGES - count) << first
            } else {
                all.elsewhere += 1;
                bits(first, first + count)
            };
            kinds[region.protection.bits() as usize % KINDS + if region.shared { KINDS } else { 0 }] |= pages;
            all.first |= pages & pages.wrapping_neg();
            all.files |= if region.anonymous { 0 } else { pages };
        }
        let [none, r, w, rw, x, rx, wx, rwx, shared @ ..] = kinds;
        let [s_none, s_r, s_w, s_rw, s_x, s_rx, s_wx, s_rwx] = shared;
        let shared = s_none | s_r | s_w | s_rw | s_x | s_rx | s_wx | s_rwx;
        all.shape = Shape {
            mapped: none | r | w | rw | x | rx | wx | rwx | shared,
            shared,
            read: r | rw | rx | rwx | s_r | s_rw | s_rx | s_rwx,
            write: w | rw | wx | rwx | s_w | s_rw | s_wx | s_rwx,
            execute: x | rx | wx | rwx | s_x | s_rx | s_wx | s_rwx,
        };
        all
    }
}

/// The bits of the pages from `first` to before `end`, as far as they are in the window.
#[inline]
pub(super) const fn bits(first: u64, end: u64) -> u64 {
    const fn below(page: u64) -> u64 {
        if page >= PAGES { u64::MAX } else { (1 << page) - 1 }
    }
    if first >= end { 0 } else { below(end) & !below(first) }
}

/// The pages that a range of bytes covers; relative to the window.
pub(super) const fn pages(address: u64, length: u64) -> (u64, u64) {
    let end = address.saturating_add(length).saturating_add(PAGE - 1) / PAGE;
    (address / PAGE, end)
}

pub(super) const fn bits_of(address: u64, length: u64) -> u64 {
    let (first, end) = pages(address, length);
    bits(first, end)
}

/// Bits at pages from `from` on, as they are from `to` on.
pub(super) const fn shift(set: u64, from: u64, to: u64) -> u64 {
    let (up, down) = (to.saturating_sub(from), from.saturating_sub(to));
    if up >= PAGES || down >= PAGES { 0 } else { set << up >> down }
}

/// The pages of a set, in order.
pub(super) fn each(set: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(set), |set| Some(set & set.wrapping_sub(1)))
        .take_while(|set| *set != 0)
        .map(|set| u64::from(set.trailing_zeros()))
}

/// A line with a letter for each page.
pub(super) fn map(set: u64) -> String {
    (0..PAGES).map(|page| if set & (1 << page) != 0 { '#' } else { '.' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_pages() {
        assert_eq!(
            (bits(0, 64), bits(3, 5), bits(5, 5), bits(70, 80), bits(60, 80)),
            (u64::MAX, 0b11000, 0, 0, 0xf << 60)
        );
        assert_eq!(
            (shift(0b110, 1, 3), shift(0b1100, 3, 1), shift(1, 0, 64), shift(1 << 63, 63, 0)),
            (0b11000, 0b11, 0, 1)
        );
        assert_eq!(each(0b1010_0001).collect::<Vec<_>>(), [0, 5, 7]);
        let regions = [(1, 3, 5, true), (3, 4, 5, false), (6, 64, 0, false)];
        let mut shape = Shape::default();
        regions.iter().for_each(|(first, end, protection, shared)| shape.add(bits(*first, *end), *protection, *shared));
        assert_eq!(shape.regions(), regions);
    }
}
