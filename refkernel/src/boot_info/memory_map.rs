//! Physical memory by use: sorted, without overlaps, in whole pages.
//!
//! Loaders' maps are none of that, so each region is overlaid on those that are there already. Where two claim the
//! same page, the more restrictive kind wins, whatever their order:
//!
//! ```text
//!   usable      |-----------------------------|
//!   reserved            |=========|
//!   result      |-------|=========|-----------|
//! ```
//!
//! # Invariants
//!
//! `regions[..length]` is sorted by address; no two overlap; neighbours that touch differ in kind; every bound is a
//! multiple of the page size and at most [`PHYSICAL_LIMIT`]. A page that is only partly usable is not usable; a page
//! that is partly anything else is that.

use super::{BootError, PAGE_SIZE, PHYSICAL_LIMIT, PhysicalRange};
use core::fmt;

/// Regions that a map can hold after normalisation.
pub const CAPACITY: usize = 256;

/// What a region of physical memory is for. Later kinds are more restrictive and win where regions overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RegionKind {
    /// Free to use.
    Usable,
    /// The loader's data and page tables: usable as soon as nothing refers to them.
    LoaderReclaimable,
    /// ACPI tables: usable once they have been read.
    AcpiReclaimable,
    /// The boot module.
    Module,
    /// The kernel's image.
    Kernel,
    /// A framebuffer.
    Framebuffer,
    /// Memory that the firmware keeps across sleep.
    AcpiNonVolatile,
    /// Reserved by the firmware, or of an unknown type.
    Reserved,
    /// Memory known to be faulty.
    Bad,
}

impl fmt::Display for RegionKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Usable => "usable",
            Self::LoaderReclaimable => "loader",
            Self::AcpiReclaimable => "ACPI tables",
            Self::Module => "module",
            Self::Kernel => "kernel",
            Self::Framebuffer => "framebuffer",
            Self::AcpiNonVolatile => "ACPI non-volatile",
            Self::Reserved => "reserved",
            Self::Bad => "bad",
        })
    }
}

/// A region of whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    start: u64,
    end: u64,
    kind: RegionKind,
}

impl Region {
    const EMPTY: Self = Self { start: 0, end: 0, kind: RegionKind::Reserved };

    /// First physical address.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// One past the last physical address.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Length in bytes, a multiple of the page size.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.end - self.start
    }

    /// What it is for.
    #[must_use]
    pub const fn kind(&self) -> RegionKind {
        self.kind
    }
}

/// Physical memory by use. See the module's invariants.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    regions: [Region; CAPACITY],
    length: usize,
    malformed: usize,
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryMap {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { regions: [Region::EMPTY; CAPACITY], length: 0, malformed: 0 }
    }

    /// Enters what a loader told. An empty region, a usable region that wraps around and what lies beyond
    /// [`PHYSICAL_LIMIT`] are left out and counted in [`malformed`](Self::malformed); a region that is not usable is
    /// cut off at the limit instead, since leaving it out would call its memory free.
    ///
    /// Cost: linear in the number of regions.
    ///
    /// # Errors
    ///
    /// [`BootError::TooManyRegions`], with the map unchanged.
    pub fn add(&mut self, base: u64, length: u64, kind: RegionKind) -> Result<(), BootError> {
        let end = match base.checked_add(length) {
            Some(end) if length != 0 => end.min(PHYSICAL_LIMIT),
            None if kind != RegionKind::Usable => PHYSICAL_LIMIT,
            _ => {
                self.malformed += 1;
                return Ok(());
            }
        };
        if base >= PHYSICAL_LIMIT {
            self.malformed += 1;
            return Ok(());
        }
        // Both are at most PHYSICAL_LIMIT, a multiple of the page size: rounding up cannot wrap.
        let (start, end) = if kind == RegionKind::Usable {
            (base.next_multiple_of(PAGE_SIZE), end - end % PAGE_SIZE)
        } else {
            (base - base % PAGE_SIZE, end.next_multiple_of(PAGE_SIZE))
        };
        if start >= end {
            // Less than one whole usable page: nothing to enter, and nothing wrong.
            return Ok(());
        }
        self.overlay(Region { start, end, kind }, true, |existing| kind > existing)
    }

    /// Gives a part of what is usable (or of the loader's, or of a module's) another use, in whole pages; what has
    /// another kind stays as it is, and memory outside of the map stays outside.
    ///
    /// # Errors
    ///
    /// [`BootError::TooManyRegions`], with the map unchanged.
    pub fn claim(&mut self, range: PhysicalRange, kind: RegionKind) -> Result<(), BootError> {
        let start = range.start() - range.start() % PAGE_SIZE;
        let end = range.end().next_multiple_of(PAGE_SIZE);
        self.overlay(Region { start, end, kind }, false, |existing| {
            kind > existing
                && matches!(existing, RegionKind::Usable | RegionKind::LoaderReclaimable | RegionKind::Module)
        })
    }

    /// Lays `new` over the map: pages that are in no region become `new`'s if `fill`, others if it `wins` over theirs.
    fn overlay(&mut self, new: Region, fill: bool, wins: impl Fn(RegionKind) -> bool) -> Result<(), BootError> {
        let mut result = Builder { regions: [Region::EMPTY; CAPACITY], length: 0 };
        // Up to where `new` has been dealt with.
        let mut done = new.start;
        for old in self.regions.iter().take(self.length) {
            if fill && done < new.end && old.start > done {
                result.push(done, old.start.min(new.end), new.kind)?;
            }
            let start = old.start.max(new.start);
            let end = old.end.min(new.end);
            if start < end {
                result.push(old.start, start, old.kind)?;
                result.push(start, end, if wins(old.kind) { new.kind } else { old.kind })?;
                result.push(end, old.end, old.kind)?;
            } else {
                result.push(old.start, old.end, old.kind)?;
            }
            done = done.max(old.end);
        }
        if fill && done < new.end {
            result.push(done, new.end, new.kind)?;
        }
        self.regions = result.regions;
        self.length = result.length;
        Ok(())
    }

    /// The regions by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = Region> + '_ {
        self.regions.iter().take(self.length).copied()
    }

    /// The sum of the regions of one kind, in bytes.
    #[must_use]
    pub fn bytes_of(&self, kind: RegionKind) -> u64 {
        self.iter().filter(|region| region.kind == kind).map(|region| region.length()).sum()
    }

    /// One past the highest address that is RAM: usable now or later, or holding the kernel or a module. Reserved
    /// regions do not count: they may lie far above all memory.
    #[must_use]
    pub fn ram_end(&self) -> u64 {
        self.iter().filter(|region| region.kind <= RegionKind::Kernel).map(|region| region.end).max().unwrap_or(0)
    }

    /// How many of the loader's regions made no sense and were left out.
    #[must_use]
    pub const fn malformed(&self) -> usize {
        self.malformed
    }
}

/// A map being written from low to high addresses.
struct Builder {
    regions: [Region; CAPACITY],
    length: usize,
}

impl Builder {
    /// Appends `start..end` unless it is empty, and merges it with a last region that touches it and is of its kind.
    fn push(&mut self, start: u64, end: u64, kind: RegionKind) -> Result<(), BootError> {
        if start >= end {
            return Ok(());
        }
        if let Some(last) = self.length.checked_sub(1).and_then(|last| self.regions.get_mut(last))
            && last.end == start
            && last.kind == kind
        {
            last.end = end;
            return Ok(());
        }
        let slot = self.regions.get_mut(self.length).ok_or(BootError::TooManyRegions)?;
        *slot = Region { start, end, kind };
        self.length += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(regions: &[(u64, u64, RegionKind)]) -> MemoryMap {
        let mut map = MemoryMap::new();
        for &(base, length, kind) in regions {
            map.add(base, length, kind).unwrap();
        }
        map
    }

    fn listed(map: &MemoryMap) -> Vec<(u64, u64, RegionKind)> {
        map.iter().map(|r| (r.start(), r.end(), r.kind())).collect()
    }

    use RegionKind::{AcpiReclaimable, Bad, LoaderReclaimable, Module, Reserved, Usable};

    #[test]
    fn usable_shrinks_and_reserved_grows_to_whole_pages() {
        let map = map(&[(0x800, 0x2800, Usable), (0x1_0800, 0x10, Reserved)]);
        assert_eq!(listed(&map), [(0x1000, 0x3000, Usable), (0x1_0000, 0x1_1000, Reserved)]);
    }

    #[test]
    fn a_page_shared_with_reserved_bytes_is_reserved() {
        // The end of conventional memory as a BIOS tells it.
        let map = map(&[(0, 0x9_fc00, Usable), (0x9_fc00, 0x400, Reserved)]);
        assert_eq!(listed(&map), [(0, 0x9_f000, Usable), (0x9_f000, 0xa_0000, Reserved)]);
    }

    #[test]
    fn overlaps_go_to_the_more_restrictive_kind_in_any_order() {
        let regions = [
            (0x0, 0x10_000, Usable),
            (0x4000, 0x2000, Reserved),
            (0x5000, 0x4000, AcpiReclaimable),
            (0x8000, 0x1000, LoaderReclaimable),
            (0x5000, 0x0800, Bad),
        ];
        let expected = [
            (0x0, 0x4000, Usable),
            (0x4000, 0x5000, Reserved),
            (0x5000, 0x6000, Bad),
            (0x6000, 0x9000, AcpiReclaimable),
            (0x9000, 0x10_000, Usable),
        ];
        assert_eq!(listed(&map(&regions)), expected);
        let mut reversed = regions;
        reversed.reverse();
        assert_eq!(listed(&map(&reversed)), expected);
        for rotation in 0..regions.len() {
            let mut rotated = regions;
            rotated.rotate_left(rotation);
            assert_eq!(listed(&map(&rotated)), expected);
        }
    }

    #[test]
    fn unsorted_neighbours_merge() {
        let map = map(&[(0x3000, 0x1000, Usable), (0x1000, 0x1000, Usable), (0x2000, 0x1000, Usable)]);
        assert_eq!(listed(&map), [(0x1000, 0x4000, Usable)]);
    }

    #[test]
    fn empty_and_wrapping_regions_are_counted_and_left_out() {
        let map = map(&[
            (0x1000, 0, Usable),
            (u64::MAX - 0xfff, 0x2000, Usable),
            (u64::MAX, u64::MAX, Usable),
            (PHYSICAL_LIMIT, 0x1000, Usable),
            (u64::MAX - 0xfff, 0x1000, Reserved),
        ]);
        assert_eq!(listed(&map), []);
        assert_eq!(map.malformed(), 5);
    }

    #[test]
    fn wrapping_reserved_region_reserves_up_to_the_limit() {
        let map = map(&[(0, 0x10_0000, Usable), (0x8_0000, u64::MAX, Reserved)]);
        assert_eq!(listed(&map), [(0, 0x8_0000, Usable), (0x8_0000, PHYSICAL_LIMIT, Reserved)]);
    }

    #[test]
    fn usable_beyond_the_limit_is_cut() {
        let map = map(&[(PHYSICAL_LIMIT - 0x2000, 0x8000, Usable)]);
        assert_eq!(listed(&map), [(PHYSICAL_LIMIT - 0x2000, PHYSICAL_LIMIT, Usable)]);
    }

    #[test]
    fn high_reserved_region_does_not_raise_the_end_of_ram() {
        // QEMU's map ends in a reserved 12 GiB region just below 1 TiB.
        let map = map(&[(0, 0x1000_0000, Usable), (0xfd_0000_0000, 0x3_0000_0000, Reserved)]);
        assert_eq!(map.ram_end(), 0x1000_0000);
    }

    #[test]
    fn claim_takes_usable_memory_only() {
        let mut map = map(&[(0x1000, 0x3000, Usable), (0x4000, 0x1000, Reserved)]);
        map.claim(PhysicalRange::new(0x3800, 0x4000).unwrap(), Module).unwrap();
        assert_eq!(listed(&map), [(0x1000, 0x3000, Usable), (0x3000, 0x4000, Module), (0x4000, 0x5000, Reserved)]);
        // The loader's data in the module's page does not set the module free.
        map.claim(PhysicalRange::new(0x3f00, 0x10).unwrap(), LoaderReclaimable).unwrap();
        assert_eq!(map.bytes_of(Module), 0x1000);
    }

    #[test]
    fn too_many_regions_is_an_error_and_changes_nothing() {
        let mut map = MemoryMap::new();
        for index in 0..CAPACITY as u64 {
            map.add(index * 0x2000, 0x1000, Usable).unwrap();
        }
        let before = listed(&map);
        assert_eq!(map.add(0x1000_0000, 0x1000, Usable), Err(BootError::TooManyRegions));
        assert_eq!(map.add(0x2000_0000, 0x1000, Reserved), Err(BootError::TooManyRegions));
        assert_eq!(listed(&map), before);
        // One that joins two others makes room.
        map.add(0x1000, 0x1000, Usable).unwrap();
        assert_eq!(map.iter().count(), CAPACITY - 1);
    }

    /// Random regions against a map with one kind per page.
    #[test]
    fn agrees_with_a_page_by_page_model() {
        const PAGES: usize = 64;
        const KINDS: [RegionKind; 6] = [Usable, LoaderReclaimable, AcpiReclaimable, Module, Reserved, Bad];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        for _ in 0..500 {
            let mut map = MemoryMap::new();
            let mut model = [None::<RegionKind>; PAGES];
            for _ in 0..12 {
                let kind = KINDS[random(6) as usize];
                let start = random(PAGES as u64 * PAGE_SIZE);
                let length = 1 + random(PAGES as u64 * PAGE_SIZE - start);
                map.add(start, length, kind).unwrap();
                for (page, slot) in model.iter_mut().enumerate() {
                    let (low, high) = (page as u64 * PAGE_SIZE, (page as u64 + 1) * PAGE_SIZE);
                    let covered = if kind == Usable {
                        start <= low && high <= start + length
                    } else {
                        start < high && low < start + length
                    };
                    if covered {
                        *slot = Some(slot.map_or(kind, |old| old.max(kind)));
                    }
                }
            }
            let mut seen = [None::<RegionKind>; PAGES];
            let mut last: Option<Region> = None;
            for region in map.iter() {
                assert!(region.start() < region.end());
                if let Some(last) = last {
                    assert!(
                        last.end() < region.start() || (last.end() == region.start() && last.kind() != region.kind())
                    );
                }
                last = Some(region);
                for page in region.start() / PAGE_SIZE..region.end() / PAGE_SIZE {
                    seen[page as usize] = Some(region.kind());
                }
            }
            assert_eq!(seen, model);
        }
    }
}
