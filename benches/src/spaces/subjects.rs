//! Who takes part in the rows about windows, and what each is asked to do.
//!
//! | candidate | what it is |
//! |---|---|
//! | `vmcore` | whole calls on a space: lock, lookup, checks, records, area, tables |
//! | `index` | the index of a space alone, with the nodes out of the pools |
//! | `BTreeMap` | written by hand for the comparison: from a window's start to the rest of it; for gaps with a second index by size |
//! | `memory_set` 0.4 | a `BTreeMap` of areas, with a back end that does nothing |
//! | `rangemap` 1 | a `RangeMap`, which makes equal neighbours one |
//! | `nodit` 0.10 | a `NoditMap` of half-open intervals |
//! | `libkernel` 0.2 | the `MemoryMap` of the kernel moss, with tables that do nothing |

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    ptr::{self, NonNull},
};

use ::libkernel::{
    error::Result as KernelResult,
    memory::{
        address::VA,
        address_space::{PageInfo, UserAddressSpace},
        page::PageFrame,
        paging::permissions::PtePermissions,
        proc_vm::{
            memory_map::{AddressRequest, MemoryMap},
            vmarea::{VMAPermissions, VMAreaKind},
        },
        region::VirtMemoryRegion,
    },
};
use memory_set::{MappingBackend, MemoryArea, MemorySet};
use nodit::{Interval, NoditMap, interval::ie};
use rangemap::RangeMap;
use vmcore::{
    addr::{PageRange, VirtAddr},
    paging::{Access, Mmu, X86_64},
    vm_area::{Area, AreaKind},
    vm_space::{BareIndex, Fault, MapRequest, Space, SpaceError, SpaceLimits},
};

use super::kernel::{self, Kernel};
use crate::subject::PAGE;

/// The addresses of a space: the lower half without its first page.
pub const LOW: u64 = PAGE;
const HIGH: u64 = 1 << 47;

/// A window: where it begins, and its pages.
pub type Place = (u64, u64);

/// A part of a window as a candidate has it: where it begins, its pages, and whether it is writable.
pub type Piece = (u64, u64, bool);

/// What a candidate may offer beside finding, inserting and removing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Taking write permission from a part of a window and giving it back, after which the window is one again.
    Protect,
    /// The lowest aligned gap.
    Gap,
    /// Mapping with the page.
    Pages,
}

/// Windows that do not overlap. All are writable to begin with.
pub trait Subject {
    /// Its name in the table.
    const NAME: &'static str;
    /// What there is beside finding, inserting and removing.
    const OFFERS: &'static [Offer];

    /// Windows at these places, in ascending order, each of memory of its own; with their first pages present where they are `touched`.
    fn new(places: &[Place], touched: bool) -> Self;
    /// Whether something is at an address.
    fn find(&mut self, address: u64) -> bool;
    /// Puts a window where nothing is.
    fn insert(&mut self, place: Place);
    /// Takes a window out.
    fn remove(&mut self, place: Place);
    /// Puts a window of one page where nothing is, with the page, and takes both out.
    fn map_and_unmap(&mut self, start: u64) {
        let _ = start;
        unimplemented!()
    }
    /// Makes a part of a window writable or not.
    fn protect(&mut self, place: Place, writable: bool) {
        let _ = (place, writable);
        unimplemented!()
    }
    /// Looks for the lowest gap of so many pages at a multiple of 2^`alignment` bytes.
    fn look_for_gap(&mut self, pages: u64, alignment: u32) -> bool {
        self.gap(pages, alignment).is_some()
    }
    /// Where the lowest gap of so many pages at a multiple of 2^`alignment` bytes begins.
    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        let _ = (pages, alignment);
        unimplemented!()
    }
    /// Everything, in order.
    fn pieces(&mut self) -> Vec<Piece>;
}

/// What most keep of a window: whether it is writable, and what tells its memory from others'.
type Value = (bool, u64);

/// Where the first aligned block lies within a gap.
fn fits(gap: std::ops::Range<u64>, size: u64, alignment: u32) -> Option<u64> {
    let start = gap.start.next_multiple_of(1 << alignment);
    (start.checked_add(size)? <= gap.end).then_some(start)
}

/// `vmcore`.
#[derive(Debug)]
pub struct Vmcore {
    space: Space<Kernel>,
    /// What is mapped and unmapped in between.
    extra: Area<Kernel>,
}

/// An area of so many pages.
pub fn area(pages: u64) -> Area<Kernel> {
    Area::new(&Kernel, AreaKind::Open { size: pages * PAGE }, ()).unwrap()
}

/// A range of a space.
pub fn range(space: &Space<Kernel>, (start, pages): Place) -> PageRange {
    space.range(start, pages * PAGE).unwrap()
}

impl Drop for Vmcore {
    fn drop(&mut self) {
        // SAFETY: there is no hardware that could walk its tables.
        unsafe { self.space.deactivate(0) };
    }
}

impl Subject for Vmcore {
    const NAME: &'static str = "vmcore";
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Gap, Offer::Pages];

    fn new(places: &[Place], touched: bool) -> Self {
        let space = kernel::space(1);
        for (start, pages) in places {
            space.map(&MapRequest::new(&area(*pages)).at(*start)).unwrap();
            if touched {
                space.populate(range(&space, (*start, 1)), Access::WRITE).unwrap().complete();
            }
        }
        // One handle stays, and one page is resident.
        let extra = area(512);
        extra.write(0, &[0]).unwrap().complete();
        Self { space, extra }
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        // The look ends where it has found the window, which allows no such access.
        let fault = Fault::new(address, Access::EXECUTE | Access::USER).present(true);
        matches!(self.space.fault(fault), Err(SpaceError::Denied { .. }))
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        self.space.map(&MapRequest::new(&self.extra).at(start).size(pages * PAGE)).unwrap();
    }

    #[inline]
    fn remove(&mut self, place: Place) {
        self.space.unmap(range(&self.space, place)).unwrap().complete();
    }

    #[inline]
    fn map_and_unmap(&mut self, start: u64) {
        let range = self.space.map(&MapRequest::new(&self.extra).at(start).size(PAGE).populated()).unwrap();
        self.space.unmap(range).unwrap().complete();
    }

    #[inline]
    fn protect(&mut self, place: Place, writable: bool) {
        let access = if writable { Access::KERNEL_DATA } else { Access::READ };
        self.space.protect(range(&self.space, place), access).unwrap().complete();
    }

    #[inline]
    fn look_for_gap(&mut self, pages: u64, alignment: u32) -> bool {
        // The limit, which is looked at when the place is known.
        let request = MapRequest::new(&self.extra).size(pages * PAGE).aligned(alignment);
        matches!(self.space.map(&request), Err(SpaceError::Limit(_)))
    }

    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        let request = MapRequest::new(&self.extra).size(pages * PAGE).aligned(alignment);
        let windows = self.space.limits();
        self.space.set_limits(SpaceLimits::NONE);
        let found = self.space.map(&request).ok();
        if let Some(found) = found {
            self.space.unmap(found).unwrap().complete();
        }
        self.space.set_limits(windows);
        Some(found?.start().as_u64())
    }

    fn pieces(&mut self) -> Vec<Piece> {
        let piece = |window: vmcore::vm_space::WindowInfo| {
            (window.range.start().as_u64(), window.range.pages(12), window.access.contains(Access::WRITE))
        };
        self.space.windows().map(piece).collect()
    }
}

impl Vmcore {
    /// From now on nothing more can be mapped: what is asked for is looked for, and then refused.
    pub fn refuse(&mut self) {
        self.space.set_limits(SpaceLimits::NONE.windows(0));
    }
}

/// What a slot of the index alone points to, or seems to: nothing is there.
#[derive(Debug)]
pub struct Nothing;

/// `vmcore`'s index alone. What it points to tells, as the others' values do, whether the window is writable and where its memory began to be mapped.
#[derive(Debug)]
pub struct Alone {
    index: BareIndex<Kernel, Nothing>,
    within: PageRange,
}

impl Alone {
    const WRITABLE: usize = 1;
    /// So that no pointer is null.
    const ANY: usize = 2;

    fn value(memory: u64) -> NonNull<Nothing> {
        NonNull::new(ptr::without_provenance_mut(memory as usize | Self::ANY | Self::WRITABLE)).unwrap()
    }

    fn made(value: NonNull<Nothing>, writable: bool) -> NonNull<Nothing> {
        let bits = value.addr().get() & !Self::WRITABLE | usize::from(writable);
        NonNull::new(ptr::without_provenance_mut(bits)).unwrap()
    }
}

impl Subject for Alone {
    const NAME: &'static str = "index";
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Gap];

    fn new(places: &[Place], _: bool) -> Self {
        // With the space comes the memory.
        let _ = kernel::space(0);
        let within = X86_64::new(52).range(LOW, HIGH - LOW).unwrap();
        let mut alone = Self { index: BareIndex::new(&Kernel), within };
        for (start, pages) in places {
            assert!(alone.index.insert((VirtAddr::new(*start), pages * PAGE, Self::value(*start))).unwrap());
        }
        alone
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        // All of what is there is wanted.
        black_box(self.index.find(VirtAddr::new(address))).is_some()
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        assert!(self.index.insert((VirtAddr::new(start), pages * PAGE, Self::value(0))).unwrap());
    }

    #[inline]
    fn remove(&mut self, (start, pages): Place) {
        assert!(self.index.remove(VirtAddr::new(start), pages * PAGE).is_some());
    }

    #[inline]
    fn protect(&mut self, (start, pages): Place, writable: bool) {
        let (mut start, mut end) = (start, start + pages * PAGE);
        let Some((range, value)) = self.index.find_near(VirtAddr::new(start)) else { return };
        let (first, last) = (range.start().as_u64(), range.last().as_u64() + 1);
        let made = Self::made(value, writable);
        let (mut before, mut behind, mut at, mut count) = (None, None, first, 1);
        // What is left of the window, or a neighbour that agrees.
        if first < start {
            before = Some((VirtAddr::new(first), start - first, value));
        } else if let Some((left, _)) = self.index.find_near(VirtAddr::new(start - 1)).filter(|left| left.1 == made) {
            (start, at, count) = (left.start().as_u64(), left.start().as_u64(), count + 1);
        }
        if end < last {
            behind = Some((VirtAddr::new(end), last - end, value));
        } else if let Some((right, _)) = self.index.find_near(VirtAddr::new(end)).filter(|right| right.1 == made) {
            (end, count) = (right.last().as_u64() + 1, count + 1);
        }
        let middle = Some((VirtAddr::new(start), end - start, made));
        self.index.splice(VirtAddr::new(at), count, [before, middle, behind]).unwrap();
    }

    #[inline]
    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        self.index.lowest_gap(self.within, pages * PAGE, alignment).map(VirtAddr::as_u64)
    }

    fn pieces(&mut self) -> Vec<Piece> {
        let writable = |value: NonNull<Nothing>| value.addr().get() & Self::WRITABLE != 0;
        let piece = |(range, value): (PageRange, _)| (range.start().as_u64(), range.pages(12), writable(value));
        self.index.iter().map(piece).collect()
    }
}

/// The standard library's map, by start; and gaps by size where they are asked for.
#[derive(Debug)]
pub struct Ordered {
    windows: BTreeMap<u64, (u64, Value)>,
    /// Gaps as size and start: the second index. It is there for the rows about gaps, in which nothing is inserted.
    gaps: BTreeSet<(u64, u64)>,
}

impl Subject for Ordered {
    const NAME: &'static str = "BTreeMap";
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Gap];

    fn new(places: &[Place], _: bool) -> Self {
        let end = |place: &Place| place.0 + place.1 * PAGE;
        let windows = places.iter().map(|place| (place.0, (end(place), (true, place.0)))).collect();
        let starts = std::iter::once(LOW).chain(places.iter().map(end));
        let ends = places.iter().map(|place| place.0).chain([HIGH]);
        let gaps =
            starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| (end - start, start)).collect();
        Self { windows, gaps }
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        self.windows.range(..=address).next_back().is_some_and(|(_, (end, _))| address < *end)
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        self.windows.insert(start, (start + pages * PAGE, (true, 0)));
    }

    #[inline]
    fn remove(&mut self, (start, _): Place) {
        self.windows.remove(&start);
    }

    #[inline]
    fn protect(&mut self, (mut start, pages): Place, writable: bool) {
        let mut end = start + pages * PAGE;
        let Some((first, (last, (before, memory)))) = self.windows.range_mut(..=start).next_back() else { return };
        let (first, last, before, memory) = (*first, std::mem::replace(last, start), *before, *memory);
        if first == start {
            self.windows.remove(&start);
        }
        if last != end {
            self.windows.insert(end, (last, (before, memory)));
        }
        // Neighbours that agree become one.
        if let Some((last, value)) = self.windows.get(&end).filter(|(_, value)| *value == (writable, memory)) {
            let _ = value;
            let last = *last;
            self.windows.remove(&end);
            end = last;
        }
        let before = self.windows.range(..start).next_back();
        if let Some((first, _)) = before.filter(|(_, (last, value))| (*last, *value) == (start, (writable, memory))) {
            start = *first;
        }
        self.windows.insert(start, (end, (writable, memory)));
    }

    #[inline]
    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        let size = pages * PAGE;
        // Large enough wherever it lies; or else the first that happens to lie right. Here as elsewhere in these rows there is only one.
        let surely = size + (1 << alignment) - PAGE;
        let found = self.gaps.range((surely, 0)..).next();
        let (length, start) = match found {
            Some(found) => found,
            None => self
                .gaps
                .range((size, 0)..)
                .find(|(size_of, start)| fits(*start..start + size_of, size, alignment).is_some())?,
        };
        fits(*start..start + length, size, alignment)
    }

    fn pieces(&mut self) -> Vec<Piece> {
        self.windows.iter().map(|(start, (end, (writable, _)))| (*start, (end - start) / PAGE, *writable)).collect()
    }
}

/// The back end that `memory_set` asks for.
#[derive(Clone, Debug)]
struct NoTables;

impl MappingBackend for NoTables {
    type Addr = usize;
    type Flags = bool;
    type PageTable = ();

    fn map(&self, _: usize, _: usize, _: bool, _: &mut ()) -> bool {
        true
    }
    fn unmap(&self, _: usize, _: usize, _: &mut ()) -> bool {
        true
    }
    fn protect(&self, _: usize, _: usize, _: bool, _: &mut ()) -> bool {
        true
    }
}

/// `memory_set`. What it splits stays apart, so it has no part in the row about protecting.
pub struct Set(MemorySet<NoTables>);

impl Subject for Set {
    const NAME: &'static str = "memory_set";
    const OFFERS: &'static [Offer] = &[Offer::Gap];

    fn new(places: &[Place], _: bool) -> Self {
        let mut set = Self(MemorySet::new());
        places.iter().for_each(|place| set.insert(*place));
        set
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        self.0.find(address as usize).is_some()
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        let area = MemoryArea::new(start as usize, (pages * PAGE) as usize, true, NoTables);
        self.0.map(area, &mut (), false).unwrap();
    }

    #[inline]
    fn remove(&mut self, (start, pages): Place) {
        self.0.unmap(start as usize, (pages * PAGE) as usize, &mut ()).unwrap();
    }

    #[inline]
    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        let limit = memory_addr::AddrRange::new(LOW as usize, HIGH as usize);
        let found = self.0.find_free_area(LOW as usize, (pages * PAGE) as usize, limit, 1 << alignment);
        found.map(|start| start as u64)
    }

    fn pieces(&mut self) -> Vec<Piece> {
        self.0.iter().map(|area| (area.start() as u64, area.size() as u64 / PAGE, area.flags())).collect()
    }
}

/// `rangemap`.
#[derive(Debug)]
pub struct Ranges(RangeMap<u64, Value>);

impl Subject for Ranges {
    const NAME: &'static str = "rangemap";
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Gap];

    fn new(places: &[Place], _: bool) -> Self {
        Self(places.iter().map(|(start, pages)| (*start..start + pages * PAGE, (true, *start))).collect())
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        self.0.get(&address).is_some()
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        self.0.insert(start..start + pages * PAGE, (true, 0));
    }

    #[inline]
    fn remove(&mut self, (start, pages): Place) {
        self.0.remove(start..start + pages * PAGE);
    }

    #[inline]
    fn protect(&mut self, (start, pages): Place, writable: bool) {
        let Some((_, memory)) = self.0.get(&start).copied() else { return };
        self.0.insert(start..start + pages * PAGE, (writable, memory));
    }

    #[inline]
    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        self.0.gaps(&(LOW..HIGH)).find_map(|gap| fits(gap, pages * PAGE, alignment))
    }

    fn pieces(&mut self) -> Vec<Piece> {
        self.0.iter().map(|(range, value)| (range.start, (range.end - range.start) / PAGE, value.0)).collect()
    }
}

/// `nodit`.
#[derive(Debug)]
pub struct Intervals(NoditMap<u64, Interval<u64>, Value>);

impl Subject for Intervals {
    const NAME: &'static str = "nodit";
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Gap];

    fn new(places: &[Place], _: bool) -> Self {
        let mut map = NoditMap::new();
        for (start, pages) in places {
            map.insert_strict(ie(*start, start + pages * PAGE), (true, *start)).unwrap();
        }
        Self(map)
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        self.0.get_at_point(&address).is_some()
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        self.0.insert_strict(ie(start, start + pages * PAGE), (true, 0)).unwrap();
    }

    #[inline]
    fn remove(&mut self, (start, pages): Place) {
        self.0.cut(&ie(start, start + pages * PAGE)).for_each(drop);
    }

    #[inline]
    fn protect(&mut self, (start, pages): Place, writable: bool) {
        let part = ie(start, start + pages * PAGE);
        let Some((_, (_, memory))) = self.0.cut(&part).next() else { return };
        self.0.insert_merge_touching_if_values_equal(part, (writable, memory)).unwrap();
    }

    #[inline]
    fn gap(&mut self, pages: u64, alignment: u32) -> Option<u64> {
        self.0.gaps_trimmed(&ie(LOW, HIGH)).find_map(|gap| fits(*gap.start()..gap.end() + 1, pages * PAGE, alignment))
    }

    fn pieces(&mut self) -> Vec<Piece> {
        self.0.iter().map(|(part, value)| (*part.start(), (part.end() + 1 - part.start()) / PAGE, value.0)).collect()
    }
}

/// Tables that `libkernel`'s map changes and that do nothing.
struct NoAddressSpace;

impl UserAddressSpace for NoAddressSpace {
    fn new() -> KernelResult<Self> {
        Ok(Self)
    }
    fn activate(&self) {}
    fn deactivate(&self) {}
    fn map_page(&mut self, _: PageFrame, _: VA, _: PtePermissions) -> KernelResult<()> {
        Ok(())
    }
    fn unmap(&mut self, _: VA) -> KernelResult<PageFrame> {
        unimplemented!()
    }
    fn remap(&mut self, _: VA, _: PageFrame, _: PtePermissions) -> KernelResult<PageFrame> {
        unimplemented!()
    }
    fn protect_range(&mut self, _: VirtMemoryRegion, _: PtePermissions) -> KernelResult<()> {
        Ok(())
    }
    fn unmap_range(&mut self, _: VirtMemoryRegion) -> KernelResult<Vec<PageFrame>> {
        Ok(Vec::new())
    }
    fn translate(&self, _: VA) -> Option<PageInfo> {
        None
    }
    fn protect_and_clone_region(&mut self, _: VirtMemoryRegion, _: &mut Self, _: PtePermissions) -> KernelResult<()> {
        Ok(())
    }
}

/// `libkernel`. It looks for gaps from above, so it has no part in those rows.
pub struct Libkernel(MemoryMap<NoAddressSpace>);

fn region((start, pages): Place) -> VirtMemoryRegion {
    VirtMemoryRegion::new(VA::from_value(start as usize), (pages * PAGE) as usize)
}

impl Subject for Libkernel {
    const NAME: &'static str = "libkernel";
    const OFFERS: &'static [Offer] = &[Offer::Protect];

    fn new(places: &[Place], _: bool) -> Self {
        let mut map = Self(MemoryMap::new().unwrap());
        places.iter().for_each(|place| map.insert(*place));
        map
    }

    #[inline]
    fn find(&mut self, address: u64) -> bool {
        self.0.find_vma(VA::from_value(address as usize)).is_some()
    }

    #[inline]
    fn insert(&mut self, (start, pages): Place) {
        let address = AddressRequest::Fixed { address: VA::from_value(start as usize), permit_overlap: false };
        let size = (pages * PAGE) as usize;
        self.0.mmap(address, size, VMAPermissions::rw(), VMAreaKind::Anon, String::new()).unwrap();
    }

    #[inline]
    fn remove(&mut self, place: Place) {
        self.0.munmap(region(place)).unwrap();
    }

    #[inline]
    fn protect(&mut self, place: Place, writable: bool) {
        let permissions = if writable { VMAPermissions::rw() } else { VMAPermissions::ro() };
        self.0.mprotect(region(place), permissions).unwrap();
    }

    fn pieces(&mut self) -> Vec<Piece> {
        let piece = |area: &::libkernel::memory::proc_vm::vmarea::VMArea| {
            let region = area.region();
            (region.start_address().value() as u64, region.size() as u64 / PAGE, area.permissions().write)
        };
        self.0.iter_vmas().map(piece).collect()
    }
}
