//! Regions: what a program took for one mapping, and Linux keeps as one `vm_area_struct`.
//!
//! `mremap` refuses what lies in several, so where one ends and the next begins is seen by programs. The windows of the space cannot tell: they are cut and joined by
//! what backs them. Regions translate nothing, hold no page, and decide nothing but that errno, what a child gets, and what may be read by copies.
//!
//! ```text
//!   regions    |---- rw- ----|---- rw- ----|-- r-- --|        the first two were never one: each was written to before they met
//!   windows    |-- a --|--- b ---|--- c ---|-- c ----|
//! ```
//!
//! # When neighbours become one
//!
//! Only when a call changes something there, and only if all agree: protection and flags; what backs them, at consecutive pages; and their *line*. A region gets a line when
//! its private memory is first written to. Two agree in their line if they have the same, or one has none; but a line that came from a parent by fork agrees with itself alone.
//! The *page* of private anonymous memory counts from the address at which it was mapped, and moves along with what was written to.
//! (Linux: `anon_vma`, `vm_pgoff`, `can_vma_merge_before`, `copy_vma`.)

use crate::frame::Frames;
use crate::machine::FrameMemory;
use crate::posix::{Errno, Protection};
use crate::static_vec::StaticVec;

bitflags::bitflags! {
    /// What else is known of a region. Neighbours that are to become one agree in it, but for [`FORKED`](Self::FORKED).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct RegionFlags: u16 {
        const SHARED = 1;
        /// It was private and writable, and counts as memory that was promised.
        const PROMISED = 2;
        const DONT_FORK = 4;
        const WIPE_ON_FORK = 8;
        const LOCKED = 16;
        const SEALED = 32;
        const NO_RESERVE = 64;
        const GROWS_DOWN = 128;
        const HUGE = 256;
        const NO_HUGE = 512;
    }
}

/// What a program took for one mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    /// The first address, and the first behind it.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) protection: Protection,
    pub(super) flags: RegionFlags,
    /// What backs it: 0 for private anonymous memory.
    pub(super) object: u64,
    /// The page of the object at the start.
    pub(super) page: u64,
    /// Since its private memory was written to; 0 before.
    pub(super) line: u64,
    /// Its line came from a parent.
    pub(super) forked: bool,
}

impl Region {
    pub(super) const fn is_private(&self) -> bool {
        !self.flags.contains(RegionFlags::SHARED)
    }

    pub(super) const fn is_anonymous_private(&self) -> bool {
        self.object == 0
    }

    fn page_at(&self, address: u64, page_shift: u32) -> u64 {
        self.page.wrapping_add(address.wrapping_sub(self.start) >> page_shift)
    }

    /// The part of it between two addresses, which lie in it.
    pub(super) fn part(&self, start: u64, end: u64, page_shift: u32) -> Self {
        Self { start, end, page: self.page_at(start, page_shift), ..*self }
    }

    /// Whether `next` carries it on, but for lines and `ignored` protection.
    fn is_carried_on_by(&self, next: &Self, page_shift: u32) -> bool {
        self.end == next.start
            && self.flags == next.flags
            && self.object == next.object
            && self.page_at(self.end, page_shift) == next.page
    }
}

/// Whether `other` may become a part of `target`, by their lines.
fn lines_agree(target: &Region, other: &Region) -> bool {
    match (target.line, other.line) {
        (0, 0) => true,
        (0, _) => !other.forked,
        (_, 0) => !target.forked,
        (one, two) => one == two,
    }
}

/// A program's regions: sorted, none overlap.
pub(super) struct Regions<P: Frames> {
    list: StaticVec<Region, FrameMemory<P>>,
    page_shift: u32,
    next_line: u64,
}

/// How many records a call adds at the most, for each range that it changes.
pub(super) const MOST_NEW: usize = 3;

impl<P: Frames + Clone> Regions<P> {
    pub(super) fn new(platform: &P) -> Self {
        Self {
            list: StaticVec::with_memory(FrameMemory::new(platform.clone())),
            page_shift: P::PAGE_SHIFT,
            next_line: 1,
        }
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), Errno> {
        self.list.reserve(count).map_err(|_| Errno::NoMemory)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Region> + '_ {
        self.list.iter()
    }

    /// A number that nothing else has.
    pub(super) fn new_line(&mut self) -> u64 {
        self.next_line = self.next_line.wrapping_add(1);
        self.next_line
    }

    /// The position of the first region that ends behind `address`.
    fn position(&self, address: u64) -> usize {
        self.list.partition_point(|region| region.end <= address)
    }

    /// The region at a position.
    pub(super) fn nth(&self, position: usize) -> Option<&Region> {
        self.list.get(position)
    }

    /// The first region that ends behind `address`. O(log n).
    pub(super) fn from(&self, address: u64) -> Option<&Region> {
        self.list.get(self.position(address))
    }

    /// The last region that ends at or before `address`. O(log n).
    pub(super) fn last_before(&self, address: u64) -> Option<&Region> {
        self.position(address).checked_sub(1).and_then(|at| self.list.get(at))
    }

    /// The region at an address. O(log n).
    pub(super) fn at(&self, address: u64) -> Option<&Region> {
        self.from(address).filter(|region| region.start <= address)
    }

    /// The regions that overlap a range, in order.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Region> + '_ {
        let rest = self.list.get(self.position(start)..).unwrap_or_default();
        rest.iter().take_while(move |region| region.start < end)
    }

    /// Whether `next` carries a region on, whatever the protection of both.
    pub(super) fn is_carried_on(&self, region: &Region, next: &Region) -> bool {
        region.is_carried_on_by(next, self.page_shift)
    }

    /// The position of the first region of which each carries the one before on, up to the region right before an address; of the one that ends where that one begins, if there is
    /// any; or of the first behind the address. O(log n + those).
    pub(super) fn chain_start(&self, address: u64) -> usize {
        let before = address.saturating_sub(1);
        let at = self.position(before);
        let Some(last) = self.list.get(at).filter(|region| region.start <= before) else { return at };
        let mut first = last;
        for (at, region) in (self.list.get(..at).unwrap_or_default().iter().enumerate()).rev() {
            if !self.is_carried_on(region, first) {
                return if region.end == first.start { at } else { at + 1 };
            }
            first = region;
        }
        0
    }

    /// Whether regions cover every address between the two, without a gap.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        let mut next = start;
        for region in self.overlapping(start, end) {
            if region.start > next {
                return false;
            }
            next = region.end;
        }
        next >= end
    }

    /// Inserts a region that merges with none. Room was reserved.
    fn put(&mut self, region: Region) {
        let at = self.position(region.start);
        let _ = self.list.insert(at, region);
    }

    /// Cuts the region that lies across an address. Room for one was reserved.
    fn cut(&mut self, address: u64) {
        let shift = self.page_shift;
        let at = self.position(address);
        let Some(region) = self.list.get_mut(at).filter(|region| region.start < address) else { return };
        let high = region.part(address, region.end, shift);
        region.end = address;
        let _ = self.list.insert(at + 1, high);
    }

    /// Takes away what lies between two addresses. Room for one was reserved. O(n).
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        self.cut(start);
        self.cut(end);
        let first = self.position(start);
        let last = self.list.partition_point(|region| region.start < end);
        if first < last {
            let _ = self.list.drain(first..last).map(drop);
        }
    }

    /// Adds a region, where there is none, as a part of its neighbours if they agree. Room for one was reserved. O(n).
    pub(super) fn add(&mut self, new: Region) {
        self.add_where(new, lines_agree);
    }

    /// Adds what a region grew by. It is the region's already, so that where its line came from keeps it from no neighbour that has none.
    pub(super) fn add_behind(&mut self, more: Region) {
        self.add_where(more, |target, other| lines_agree(target, &Region { forked: false, ..*other }));
    }

    fn add_where(&mut self, new: Region, lines_agree: impl Fn(&Region, &Region) -> bool) {
        let shift = self.page_shift;
        let at = self.position(new.start);
        let before = at.checked_sub(1).and_then(|at| self.list.get(at)).copied();
        let after = self.list.get(at).copied();
        let agree =
            |low: &Region, high: &Region| low.is_carried_on_by(high, shift) && low.protection == high.protection;
        let left = before.filter(|before| agree(before, &new) && lines_agree(before, &new));
        let right = after
            .filter(|after| agree(&new, after) && lines_agree(after, &new))
            .filter(|after| left.is_none_or(|left| left.line == 0 || after.line == 0 || left.line == after.line));
        match (left, right) {
            (None, None) => {
                let _ = self.list.insert(at, new);
            }
            (Some(left), right) => {
                let joined = with_line_of(with_line_of(left, right), Some(new));
                if right.is_some() {
                    let _ = self.list.remove(at);
                }
                if let Some(slot) = at.checked_sub(1).and_then(|at| self.list.get_mut(at)) {
                    *slot = Region { end: right.map_or(new.end, |right| right.end), ..joined };
                }
            }
            (None, Some(right)) => {
                let joined = with_line_of(right, Some(new));
                if let Some(slot) = self.list.get_mut(at) {
                    *slot = Region { start: new.start, page: new.page, ..joined };
                }
            }
        }
    }

    /// Changes the parts of regions between two addresses, each for itself, and has each become a part of its neighbours if they agree then. What stays as it is is not
    /// looked at. Room for two was reserved, for each region in the range. O(n) for each.
    pub(super) fn change(&mut self, start: u64, end: u64, change: impl Fn(&mut Region)) {
        let shift = self.page_shift;
        let mut next = start;
        while let Some(region) = self.from(next).copied().filter(|region| next < end && region.start < end) {
            let part = region.part(region.start.max(next), region.end.min(end), shift);
            next = part.end;
            let mut changed = part;
            change(&mut changed);
            if (changed.protection, changed.flags) != (part.protection, part.flags) {
                self.replace(&region, changed);
            }
        }
    }

    /// Gives a part of a region other properties.
    fn replace(&mut self, region: &Region, part: Region) {
        let shift = self.page_shift;
        let at = self.position(region.start);
        let before = at.checked_sub(1).and_then(|at| self.list.get(at)).copied();
        let after = self.list.get(at + 1).copied();
        let (first, last) = (part.start == region.start, part.end == region.end);
        let agree =
            |low: &Region, high: &Region| low.is_carried_on_by(high, shift) && low.protection == high.protection;
        let left = before.filter(|before| first && agree(before, &part) && lines_agree(before, &part));
        let right = after
            .filter(|after| last && agree(&part, after) && lines_agree(after, &part))
            .filter(|after| left.is_none_or(|left| left.line == 0 || after.line == 0 || left.line == after.line));
        // What is left of the region, without the part.
        let rest_low = (!first).then(|| region.part(region.start, part.start, shift));
        let rest_high = (!last).then(|| region.part(part.end, region.end, shift));
        let middle = match (left, right) {
            (None, None) => part,
            (Some(left), right) => {
                let joined = with_line_of(with_line_of(left, Some(part)), right);
                Region { end: right.map_or(part.end, |right| right.end), ..joined }
            }
            (None, Some(right)) => Region { start: part.start, page: part.page, ..with_line_of(right, Some(part)) },
        };
        // Out with the region and those that it became one with, in with the rest and the middle.
        let from = at - usize::from(left.is_some());
        let to = at + 1 + usize::from(right.is_some());
        let _ = self.list.drain(from..to).map(drop);
        for (at, piece) in (from..).zip([rest_low, Some(middle), rest_high].into_iter().flatten()) {
            let _ = self.list.insert(at, piece);
        }
    }

    /// Gives the region at an address a line, if it has none: that of a neighbour that it could be one with but for its protection, or a new one.
    pub(super) fn note_written(&mut self, address: u64) {
        let shift = self.page_shift;
        let at = self.position(address);
        let Some(region) = self.list.get(at).copied().filter(|region| region.line == 0) else { return };
        let after = self.list.get(at + 1).filter(|after| region.is_carried_on_by(after, shift));
        let before =
            at.checked_sub(1).and_then(|at| self.list.get(at)).filter(|before| before.is_carried_on_by(&region, shift));
        let usable = |near: &&Region| near.line != 0 && !near.forked;
        let line = match after.filter(usable).or(before.filter(usable)).map(|near| near.line) {
            Some(line) => line,
            None => self.new_line(),
        };
        if let Some(slot) = self.list.get_mut(at) {
            (slot.line, slot.forked) = (line, false);
        }
    }

    /// Forgets that the region that begins and ends there was written to.
    pub(super) fn forget_line(&mut self, start: u64, end: u64) {
        let at = self.position(start);
        if let Some(slot) = self.list.get_mut(at).filter(|slot| (slot.start, slot.end) == (start, end)) {
            (slot.line, slot.forked) = (0, false);
        }
    }

    /// Has the region grow downwards to an address.
    pub(super) fn grow_down(&mut self, start: u64, to: u64) {
        let shift = self.page_shift;
        let at = self.position(start);
        if let Some(slot) = self.list.get_mut(at).filter(|slot| slot.start == start) {
            slot.page = slot.page.wrapping_sub((start - to) >> shift);
            slot.start = to;
        }
    }

    /// What a child has of them. Room for as many was reserved in `child`.
    pub(super) fn inherit(&self, child: &mut Self) {
        child.next_line = self.next_line;
        for region in self.list.iter().filter(|region| !region.flags.contains(RegionFlags::DONT_FORK)) {
            let mut inherited = *region;
            inherited.flags.remove(RegionFlags::LOCKED);
            if region.flags.contains(RegionFlags::WIPE_ON_FORK) {
                (inherited.line, inherited.forked) = (0, false);
            } else if region.line != 0 {
                (inherited.line, inherited.forked) = (child.new_line(), true);
            }
            child.put(inherited);
        }
    }
}

/// The region, with the line of another one if it has none.
fn with_line_of(region: Region, other: Option<Region>) -> Region {
    match other {
        Some(other) if region.line == 0 => Region { line: other.line, forked: other.forked, ..region },
        _ => region,
    }
}
