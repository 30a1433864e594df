//! The operations against a naive model, page by page, with every count of spare tables that is too small.

#[cfg(test)]
mod beside;
mod formats;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod hostile;
pub(crate) mod judged;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod page;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod spare;
#[cfg(test)]
mod writer;

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::frame::{FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, FrameUse, allocate_one, free_one};
use crate::paging::{Access, Canonical, Leaf, MemoryType, WalkEnd, X86_64};

type Region = FrameRegion<'static, spin::Mutex<()>>;

const FIRST: Frame = Frame::new(0x100);
const COUNT: usize = 96;
const TAG: Tag = Tag(7);

/// A region whose pages have 2^`SHIFT` bytes, and which sees to it that what is invalidated at once is absent.
pub(super) struct Memory<const SHIFT: u32> {
    region: Region,
    /// How much of a range the world's tables map.
    mapped: MappedIn<SHIFT>,
    invalidations: AtomicU64,
}

type MappedIn<const SHIFT: u32> = Box<dyn Fn(&Memory<SHIFT>, PageRange) -> u64>;

impl<const SHIFT: u32> Memory<SHIFT> {
    /// How often a CPU had to forget an entry before it was written anew, since this was asked last.
    pub(super) fn invalidations(&self) -> u64 {
        self.invalidations.swap(0, Ordering::Relaxed)
    }
}

impl<const SHIFT: u32> core::ops::Deref for Memory<SHIFT> {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.region
    }
}

// SAFETY: the region keeps what the trait promises, for pages of the size that it was made with, which is this one.
unsafe impl<const SHIFT: u32> Frames for Memory<SHIFT> {
    const PAGE_SHIFT: u32 = SHIFT;
    const INVALIDATES_NOW: bool = true;

    fn invalidate_now(&self, tag: u16, range: PageRange) {
        assert_eq!((tag, (self.mapped)(self, range)), (TAG.0, 0), "{range} is live while it is invalidated");
        self.invalidations.fetch_add(1, Ordering::Relaxed);
    }

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.region.allocate(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: forwarded.
        unsafe { self.region.free(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.region.pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.region.meta(frame)
    }
}

pub(super) struct World<M: Mmu = X86_64, const SHIFT: u32 = 12> {
    pub(super) frames: Memory<SHIFT>,
    pub(super) tables: Tables<M>,
    memory: *mut u8,
    records: *mut [FrameMeta],
}

/// The memory of a world.
fn layout(shift: u32) -> Layout {
    Layout::from_size_align(COUNT << shift, 1 << shift).unwrap()
}

impl<M: Mmu, const SHIFT: u32> Drop for World<M, SHIFT> {
    fn drop(&mut self) {
        // SAFETY: both were made by `of`, and the region that uses them is dropped with them and touches neither any more.
        unsafe {
            dealloc(self.memory, layout(SHIFT));
            drop(Box::from_raw(self.records));
        }
    }
}

impl World {
    fn new() -> Self {
        Self::of(X86_64::new(52))
    }
}

impl<M: Mmu + 'static, const SHIFT: u32> World<M, SHIFT> {
    pub(super) fn of(mmu: M) -> Self {
        assert_eq!(mmu.page_shift(), SHIFT);
        // SAFETY: the size is not 0.
        let memory = unsafe { alloc(layout(SHIFT)) };
        assert!(!memory.is_null());
        // Not zero, so that a table that nobody zeroed is seen.
        // SAFETY: the memory is of this size.
        unsafe { core::ptr::write_bytes(memory, 0xa5, COUNT << SHIFT) };
        let records = Box::into_raw((0..COUNT).map(|_| FrameMeta::new()).collect::<Box<[_]>>());
        // SAFETY: freed only when the world, and the region in it, is dropped.
        let table = FrameMetaTable::new(FIRST, unsafe { &*records });
        // SAFETY: the memory is page-aligned, of as many pages as there are records, and lives as long as the world.
        let frames = unsafe { Region::new(memory, SHIFT, table) };
        let mut frames = Memory { region: frames, mapped: Box::new(|_, _| 0), invalidations: AtomicU64::new(0) };
        let root = allocate_one(&frames, FrameUse::Table, true).unwrap();
        // SAFETY: the same tables as below, only read.
        let reading = unsafe { Tables::new(mmu, root, TAG) };
        frames.mapped = Box::new(move |frames, range| reading.query(frames, range).mapped);
        // SAFETY: a fresh, zeroed table.
        let tables = unsafe { Tables::new(mmu, root, TAG) };
        Self { frames, tables, memory, records }
    }

    pub(super) fn range(&self, first: u64, pages: u64) -> PageRange {
        self.tables.mmu().range(first << SHIFT, pages << SHIFT).unwrap()
    }

    pub(super) fn spare(&self, count: u64) -> FrameList {
        let mut list = FrameList::new();
        for _ in 0..count {
            let frame = allocate_one(&self.frames, FrameUse::Table, true).unwrap();
            list.push(&self.frames, frame).unwrap();
        }
        list
    }

    /// Frees what is in the list, checking that it was a table, once.
    pub(super) fn free(&self, list: &mut FrameList) {
        while let Some(frame) = list.pop(&self.frames) {
            assert_eq!(self.frames.frame_meta(frame).unwrap().live_entries(), 0, "freed with live entries");
            // A CPU that still used it would find garbage.
            // SAFETY: nothing links to it.
            unsafe { core::ptr::write_bytes(self.frames.frame_pointer(frame), 0xa5, 1 << SHIFT) };
            // SAFETY: as above.
            unsafe { free_one(&self.frames, frame, FrameUse::Table) }.unwrap();
        }
    }

    /// All addresses of the format.
    pub(super) fn halves(&self) -> [Option<PageRange>; 2] {
        let mmu = self.tables.mmu();
        let size = 1_u64 << mmu.virtual_bits();
        let (lower, upper) = match mmu.canonical() {
            Canonical::ZeroExtended => (Some((0, size)), None),
            Canonical::OneExtended => (None, Some((0_u64.wrapping_sub(size), size))),
            Canonical::SignExtended => (Some((0, size / 2)), Some((0_u64.wrapping_sub(size / 2), size / 2))),
        };
        [lower, upper].map(|half| half.map(|(start, size)| mmu.range(start, size).unwrap()))
    }

    fn runs(&self) -> Vec<(PageRange, Leaf)> {
        self.halves().into_iter().flatten().flat_map(|half| self.tables.runs(&self.frames, half)).collect()
    }

    /// Runs `operation` with 0, 1, 2, … spare tables: each failure names how many are needed and changes nothing.
    pub(super) fn with_every_count<T>(
        &mut self,
        mut operation: impl FnMut(&mut Self, &mut FrameList, &mut Gather) -> Result<T, TableError>,
    ) -> (Result<T, TableError>, u64, FlushScope) {
        for count in 0.. {
            let (before, tables) = (self.runs(), self.frames.used_for(FrameUse::Table));
            let mut spare = self.spare(count);
            let mut gather = Gather::default();
            let result = operation(self, &mut spare, &mut gather);
            let left = spare.len();
            self.free(&mut spare);
            if let Err(error) = result {
                assert_eq!((left, gather.tables.len()), (count, 0), "{error}");
                assert!(gather.scope.is_empty());
                assert_eq!((self.runs(), self.frames.used_for(FrameUse::Table)), (before, tables));
            }
            if let Err(TableError::NeedsTables(needed)) = result {
                assert!(needed > count);
                continue;
            }
            assert!(gather.tables.is_empty() || gather.scope.tables());
            self.free(&mut gather.tables);
            self.check_counts();
            return (result, count, gather.scope);
        }
        unreachable!()
    }

    pub(super) fn map(&mut self, range: PageRange, leaf: Leaf, level: usize) -> Result<(), TableError> {
        let expected = self.tables.tables_to_map(&self.frames, range, Some(leaf.frame), level);
        let (result, count, scope) =
            self.with_every_count(|w, spare, _| w.tables.map(&w.frames, range, leaf, level, spare));
        assert!(scope.is_empty());
        if result.is_ok() {
            assert_eq!(count, expected);
        }
        result
    }

    pub(super) fn unmap(&mut self, range: PageRange) -> (Vec<(PageRange, Leaf)>, FlushScope) {
        let at_most = self.tables.tables_to_split(&self.frames, range);
        let (result, count, scope) = self.with_every_count(|w, spare, gather| {
            let mut removed = Vec::new();
            w.tables.unmap(&w.frames, range, spare, gather, |pages, leaf| removed.push((pages, leaf))).map(|()| removed)
        });
        assert_eq!(count, at_most);
        (result.unwrap(), scope)
    }

    pub(super) fn protect(&mut self, range: PageRange, access: Access) -> Result<FlushScope, TableError> {
        let at_most = self.tables.tables_to_split(&self.frames, range);
        let (result, count, scope) =
            self.with_every_count(|w, spare, gather| w.tables.protect(&w.frames, range, access, spare, gather));
        assert!(count <= at_most);
        result.map(|()| scope)
    }

    pub(super) fn page(&self, page: u64) -> Option<Leaf> {
        let address = VirtAddr::new(page << SHIFT);
        let (span, leaf) = self.tables.translate(&self.frames, address)?;
        Some(Leaf { frame: leaf.frame.add((address.as_u64() - span.start().as_u64()) >> SHIFT), ..leaf })
    }

    /// Every table's count is its present entries, none but the root is empty, and no table is lost.
    fn check_counts(&self) {
        fn visit<M: Mmu + 'static, const SHIFT: u32>(world: &World<M, SHIFT>, level: usize, frame: Frame) -> u64 {
            let mmu = world.tables.mmu();
            let table = Table::own(&world.frames, mmu, level, frame).unwrap();
            let present = (0..table.len()).filter(|index| mmu.is_present(table.load(*index))).count();
            assert_eq!(table.live() as usize, present);
            assert!(present > 0 || frame == world.tables.root());
            let below = (0..table.len()).map(|index| match mmu.decode(level, table.load(index)) {
                Entry::Table(next, _) => visit(world, level - 1, next),
                _ => 0,
            });
            1 + below.sum::<u64>()
        }
        assert_eq!(
            visit(self, self.tables.mmu().levels() - 1, self.tables.root()),
            self.frames.used_for(FrameUse::Table)
        );
    }
}

fn leaf(frame: u64) -> Leaf {
    Leaf::new(Frame::new(frame)).user().writable()
}

#[test]
fn unmap_hole_allocates_nothing() {
    let mut world = World::new();
    let whole = world.range(0, 1 << 35);
    assert_eq!(world.unmap(whole).0, []);
    world.map(world.range(512, 3), leaf(9), 0).unwrap();
    assert_eq!(world.unmap(world.range(0, 512)).0, []);
    let (removed, scope) = world.unmap(whole);
    assert_eq!(removed.len(), 3);
    assert_eq!(scope.entries().map(|entry| entry.range).collect::<Vec<_>>(), [Some(world.range(512, 3))]);
    assert_eq!(world.frames.used_for(FrameUse::Table), 1);
}

#[test]
fn unmap_part_of_huge_page() {
    let mut world = World::new();
    world.map(world.range(512, 512), leaf(1024).used().global().software(5), 2).unwrap();
    assert_eq!(world.frames.used_for(FrameUse::Table), 3, "one 2 MiB leaf");
    let (removed, scope) = world.unmap(world.range(512 + 7, 1));
    assert_eq!(removed, [(world.range(512 + 7, 1), leaf(1024 + 7).used().global().software(5))]);
    assert_eq!(scope.entries().map(|entry| entry.range).collect::<Vec<_>>(), [Some(world.range(512, 512))]);
    assert!(scope.globals());
    for page in (0..512).filter(|page| *page != 7) {
        assert_eq!(world.page(512 + page), Some(leaf(1024 + page).used().global().software(5)));
    }
    assert_eq!(world.page(512 + 7), None);
}

#[test]
fn protect_part_of_huge_page() {
    let mut world = World::new();
    let giga = 1 << 18;
    world.map(world.range(giga, giga), leaf(giga).memory(MemoryType::WriteCombining), 2).unwrap();
    assert_eq!(world.frames.used_for(FrameUse::Table), 2, "one 1 GiB leaf");
    let same = world.protect(world.range(giga + 5, 1), Access::USER_DATA).unwrap();
    assert!(same.is_empty() && world.frames.used_for(FrameUse::Table) == 2, "nothing changes, nothing is split");
    let scope = world.protect(world.range(giga + 513, 2), Access::USER_CODE).unwrap();
    assert_eq!(scope.entries().map(|entry| entry.range).collect::<Vec<_>>(), [Some(world.range(giga, giga))]);
    for (page, access) in [
        (0, Access::USER_DATA),
        (512, Access::USER_DATA),
        (513, Access::USER_CODE),
        (514, Access::USER_CODE),
        (515, Access::USER_DATA),
    ] {
        let expected = leaf(giga + page).memory(MemoryType::WriteCombining).access(access);
        assert_eq!(world.page(giga + page), Some(expected));
    }
    assert_eq!(world.unmap(world.range(giga, giga)).0.len(), 511 + 512);
    assert_eq!(world.frames.used_for(FrameUse::Table), 1);
}

#[test]
fn map_conflict_rolls_back() {
    let mut world = World::new();
    world.map(world.range(0x1000 + 700, 1), leaf(5), 0).unwrap();
    let conflict = TableError::Conflict(VirtAddr::new((0x1000 + 700) << 12));
    assert_eq!(world.map(world.range(0x1000, 1000), leaf(0x5000), 2), Err(conflict));
    assert_eq!(world.runs(), [(world.range(0x1000 + 700, 1), leaf(5))]);
    world.map(world.range(0x4000, 512), leaf(0x4000), 2).unwrap();
    assert!(matches!(world.map(world.range(0x4001, 1), leaf(1), 0), Err(TableError::Conflict(_))), "below a huge leaf");
}

#[test]
fn map_table_exhaustion_rolls_back() {
    let mut world = World::new();
    let range = world.range(1, 2 * 512 + 1);
    let mut spare = world.spare(4);
    let result = world.tables.map(&world.frames, range, leaf(1), 0, &mut spare);
    assert_eq!(result, Err(TableError::NeedsTables(5)));
    assert_eq!((spare.len(), world.runs()), (4, Vec::new()));
    world.free(&mut spare);
    world.map(range, leaf(1), 0).unwrap();
}

#[test]
fn cursor_at_end_of_range() {
    let mut world = World::new();
    // The last page of each half, and the last one of a table.
    for page in [(1 << 35) - 1, (u64::MAX >> 12), 511] {
        let range = world.tables.mmu().range(page << 12, 4096).unwrap();
        world.map(range, leaf(page & 0xff), 2).unwrap();
        assert_eq!(world.page(page), Some(leaf(page & 0xff)));
        world.protect(range, Access::READ).unwrap();
        assert_eq!(world.unmap(range).0.len(), 1);
    }
}

#[test]
fn flush_even_if_not_accessed() {
    let mut world = World::new();
    let range = world.range(3, 2);
    world.map(range, leaf(3), 0).unwrap();
    assert!(!world.page(3).unwrap().accessed);
    assert!(!world.protect(range, Access::READ).unwrap().is_empty());
    assert!(!world.unmap(range).1.is_empty());
}

#[test]
fn unmap_flushes() {
    let mut world = World::new();
    world.map(world.range(10, 4), leaf(10), 0).unwrap();
    world.map(world.range(20, 1), leaf(20), 0).unwrap();
    let (_, scope) = world.unmap(world.range(0, 100));
    let ranges: Vec<_> = scope.entries().map(|entry| (entry.tag, entry.range)).collect();
    assert_eq!(ranges, [(TAG, Some(world.range(10, 4))), (TAG, Some(world.range(20, 1)))]);
    assert!(scope.tables() && !scope.globals());
}

#[test]
fn table_zeroed_before_link() {
    let mut world = World::new();
    world.map(world.range(0x8_0000_0000 - 1, 1), leaf(1), 0).unwrap();
    // Memory of the region is never zero by itself, and freed tables are poisoned: a table linked as it came would show leaves.
    assert_eq!(world.runs().len(), 1);
    world.unmap(world.range(0x8_0000_0000 - 1, 1));
    world.map(world.range(0, 1), leaf(1), 0).unwrap();
    assert_eq!(world.runs(), [(world.range(0, 1), leaf(1))]);
}

#[test]
fn neighbour_tables_survive_exit() {
    let mut world = World::new();
    world.map(world.range(510, 4), leaf(0x700), 0).unwrap();
    let (removed, _) = world.unmap(world.range(0, 512));
    assert_eq!(removed.len(), 2);
    assert_eq!(world.runs(), [(world.range(512, 2), leaf(0x702))]);
    assert_eq!(
        world.frames.used_for(FrameUse::Table),
        4,
        "one leaf table is gone, its neighbour and their parents stay"
    );
}

#[test]
fn absent_entry_holds_no_frame() {
    let mut world = World::new();
    world.map(world.range(8, 2), leaf(8), 0).unwrap();
    let table = world.tables.walk(&world.frames, VirtAddr::new(9 << 12)).steps().last().copied().unwrap();
    let table = Table::own(&world.frames, world.tables.mmu(), 0, table.table).unwrap();
    // All bits but the present one: it looks like a frame and is none.
    table.store(100, !1);
    assert_eq!(world.unmap(world.range(0, 512)).0.len(), 2);
    assert_eq!(world.frames.used_for(FrameUse::Table), 1);
}

#[test]
fn set_page_forgets_only_what_could_be_stale() {
    let mut world = World::new();
    let mut set = |address: u64, leaf: Leaf| {
        world.with_every_count(|w, spare, gather| {
            w.tables.set_page(&w.frames, VirtAddr::new(address), leaf, spare, gather)
        })
    };
    let read = Leaf::new(Frame::new(5)).user();
    let (old, count, scope) = set(0x5000, read);
    assert_eq!((old, count, scope.is_empty()), (Ok(None), 3, true));
    let (old, count, scope) = set(0x5000, read.writable());
    assert_eq!((old, count, scope.is_empty()), (Ok(Some(read)), 0, true), "more permission for the same frame");
    let (old, _, scope) = set(0x5000, read);
    assert_eq!((old, scope.is_empty()), (Ok(Some(read.writable())), false), "less permission");
    let (_, _, scope) = set(0x5000, Leaf { frame: Frame::new(6), ..read });
    assert!(!scope.is_empty(), "another frame");
    for address in [0x5001, 0x8000_0000_0000, u64::MAX] {
        assert!(matches!(set(address, read).0, Err(TableError::Address(_))));
    }
}

#[test]
fn fill_asks_for_absent_pages_in_order() {
    let mut world = World::new();
    world.map(world.range(514, 2), leaf(1), 0).unwrap();
    let mut asked = Vec::new();
    let range = world.range(510, 1030);
    let (result, ..) = world.with_every_count(|w, spare, _| {
        asked.clear();
        w.tables.fill(&w.frames, range, spare, |address| {
            let page = address.as_u64() >> 12;
            asked.push(page);
            (page % 3 == 0 && page < 1024).then(|| leaf(page))
        })
    });
    result.unwrap();
    assert_eq!(asked, (510..1540).filter(|page| ![514, 515].contains(page)).collect::<Vec<_>>());
    for page in 510..1540 {
        let expected = if page == 514 || page == 515 {
            Some(leaf(page - 513))
        } else {
            (page % 3 == 0 && page < 1024).then(|| leaf(page))
        };
        assert_eq!(world.page(page), expected);
    }
    assert_eq!(world.frames.used_for(FrameUse::Table), 5, "no table where no page was given");
}

#[test]
fn pinned_root_slots_stay_and_are_shared() {
    let mut world = World::new();
    let slot = 1 << 27;
    let range = world.range(slot, 2 * slot);
    let mut spare = world.spare(3);
    for _ in 0..2 {
        world.tables.pin_root_slots(&world.frames, range, &mut spare).unwrap();
    }
    assert_eq!(spare.len(), 1, "pinned once");
    let mut gather = Gather::default();
    let root = spare.pop(&world.frames).unwrap();
    // SAFETY: a fresh, zeroed table.
    let mut other = unsafe { Tables::new(world.tables.mmu(), root, Tag(8)) };
    other.share_root_slots(&world.frames, &world.tables, range).unwrap();
    assert!(matches!(other.share_root_slots(&world.frames, &world.tables, range), Err(TableError::Conflict(_))));

    let mut spare = world.spare(2);
    world.tables.map(&world.frames, world.range(slot, 1), leaf(3), 0, &mut spare).unwrap();
    assert_eq!(other.translate(&world.frames, VirtAddr::new(slot << 12)).unwrap().1, leaf(3), "mapped later, seen too");
    world.tables.unmap(&world.frames, range, &mut spare, &mut gather, |_, _| {}).unwrap();
    assert_eq!(gather.tables.len(), 2, "the slot's table is kept");
    world.tables.unpin_root_slots(&world.frames, range, &mut gather);
    assert_eq!(gather.tables.len(), 4);
    world.free(&mut gather.tables);
    // SAFETY: the other root is used no more.
    unsafe { free_one(&world.frames, root, FrameUse::Table) }.unwrap();
    world.check_counts();
}

#[test]
fn foreign_tables_are_read_and_never_changed() {
    let mut world = World::new();
    world.map(world.range(0, 2), leaf(0x44), 0).unwrap();
    let table = world.tables.walk(&world.frames, VirtAddr::new(0)).steps().last().copied().unwrap().table;
    world.frames.frame_meta(table).unwrap().end(table, FrameUse::Table).unwrap();
    let foreign = TableError::Foreign(VirtAddr::new(0));
    let (range, mut gather, mut spare) = (world.range(0, 1), Gather::default(), FrameList::new());
    let World { frames, tables, .. } = &mut world;
    assert_eq!(tables.unmap(frames, range, &mut spare, &mut gather, |_, _| {}), Err(foreign));
    assert_eq!(tables.protect(frames, range, Access::READ, &mut spare, &mut gather), Err(foreign));
    assert_eq!(tables.map(frames, range, leaf(1), 0, &mut spare), Err(foreign));
    assert_eq!(tables.fill(frames, range, &mut spare, |_| None), Err(foreign));
    assert!(gather.scope.is_empty());
    assert_eq!(world.runs(), [(world.range(0, 2), leaf(0x44))]);
}

#[test]
fn walk_explains_each_level() {
    let mut world = World::new();
    world.map(world.range(0x200, 512), leaf(0x400), 1).unwrap();
    let walk = world.tables.walk(&world.frames, VirtAddr::new(0x20_1234));
    assert!(matches!(walk.end(), WalkEnd::Mapped { access: Access::USER_DATA, .. }));
    assert_eq!(walk.physical().map(|address| address.as_u64()), Some(0x40_1234));
    let text = walk.to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.lines().nth(1).unwrap().contains("PML4"), "{text}");
    assert!(text.contains("PD    at 0x000000101000 [  1] = 0x8000000000400087  leaf: frame 0x400 rw-u WB"), "{text}");
    assert!(text.ends_with("leads to 0x401234, rw-u WB, by a leaf of 2048 KiB from 0x200000"), "{text}");
    let nowhere = world.tables.walk(&world.frames, VirtAddr::new(1 << 63));
    assert_eq!((nowhere.end(), nowhere.steps().count()), (WalkEnd::NonCanonical, 0));
    assert_eq!(world.tables.translate(&world.frames, VirtAddr::new(1 << 63)), None);
}

#[test]
fn largest_leaves_are_chosen_by_alignment() {
    let mut world = World::new();
    let giga = 1 << 18;
    // From one page below 1 GiB to one page above 2 GiB, with frames aligned alike.
    world.map(world.range(giga - 1, giga + 2), leaf(3 * giga - 1), 3).unwrap();
    assert_eq!(world.frames.used_for(FrameUse::Table), 1 + 1 + 2 + 2);
    let size = |page: u64| world.tables.translate(&world.frames, VirtAddr::new(page << 12)).unwrap().0.size();
    assert_eq!((size(giga - 1), size(giga), size(2 * giga)), (1 << 12, 1 << 30, 1 << 12));
    assert_eq!(world.runs(), [(world.range(giga - 1, giga + 2), leaf(3 * giga - 1))], "one run, whatever the leaves");
    let all = world.range(0, 1 << 20);
    assert_eq!(world.unmap(all).0.len(), 3);
    assert!(matches!(
        world.map(world.range(0, 2), leaf((1 << 40) - 1), 2),
        Err(TableError::Encode(EncodeError::Frame(_)))
    ));
    assert!(world.map(world.range(0, 2), leaf(u64::MAX), 2).is_err());
}

/// Where the random operations happen: page numbers of the starts, each with `PLACE` pages.
const PLACES: [u64; 4] = [512 - 3, (1 << 18) - 600, (1 << 27) - 512, (u64::MAX >> 12) - (PLACE - 1)];
const PLACE: u64 = 1200;

const ACCESSES: [Access; 3] = [Access::USER_DATA, Access::USER_CODE, Access::READ];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_operations_agree_with_a_map_of_pages(
        operations in prop::collection::vec((0..6_u8, 0..4_usize, 0..PLACE, 1..PLACE, 0..3_usize), 1..24)
    ) {
        let mut world = World::new();
        let mut model: BTreeMap<u64, Leaf> = BTreeMap::new();
        for (kind, place, offset, length, choice) in operations {
            let first = PLACES[place] + offset;
            // Half of the ranges are made of whole 2 MiB where the place allows it.
            let first = if kind == 1 { (first | 511).min(PLACES[place] + PLACE - 1).wrapping_add(1) & !511 } else { first };
            let first = if first >> 52 != 0 || first < PLACES[place] || first - PLACES[place] >= PLACE { PLACES[place] } else { first };
            let length = length.min(PLACES[place] + PLACE - first);
            let range = world.tables.mmu().range(first << 12, length << 12).unwrap();
            let pages = first..first + length;
            let access = ACCESSES[choice];
            match kind {
                0 | 1 => {
                    let frame = if choice == 2 { 0x9000 } else { (first & 0x3ffff) | 0x10_0000 };
                    let leaf = leaf(frame).access(access);
                    let taken = pages.clone().find(|page| model.contains_key(page));
                    let result = world.map(range, leaf, 2);
                    if let Some(page) = taken {
                        prop_assert!(matches!(result, Err(TableError::Conflict(at)) if at.as_u64() >> 12 <= page));
                    } else {
                        prop_assert_eq!(result, Ok(()));
                        model.extend(pages.map(|page| (page, Leaf { frame: leaf.frame.add(page - first), ..leaf })));
                    }
                }
                2 => {
                    let (removed, scope) = world.unmap(range);
                    let mut count = 0;
                    for (span, leaf) in removed {
                        for step in 0..span.pages(12) {
                            let old = model.remove(&((span.start().as_u64() >> 12) + step));
                            prop_assert_eq!(old, Some(Leaf { frame: leaf.frame.add(step), ..leaf }));
                            let page = VirtAddr::new(span.start().as_u64() + (step << 12));
                            prop_assert!(scope.is_everything()
                                || scope.entries().any(|entry| entry.range.is_none_or(|range| range.contains(page))));
                            count += 1;
                        }
                    }
                    prop_assert!(count == 0 || !scope.is_empty());
                    prop_assert_eq!(model.range(pages).count(), 0, "all of the range was reported");
                }
                3 => {
                    let scope = world.protect(range, access).unwrap();
                    for (page, leaf) in model.range_mut(pages) {
                        let address = VirtAddr::new(page << 12);
                        prop_assert!(leaf.access == access
                            || scope.entries().any(|entry| entry.range.is_none_or(|range| range.contains(address))));
                        leaf.access = access;
                    }
                }
                4 => {
                    let new = leaf(0x77_0000 + offset).access(access);
                    let (result, ..) = world.with_every_count(|w, spare, gather| {
                        w.tables.set_page(&w.frames, range.start(), new, spare, gather)
                    });
                    match result {
                        Ok(old) => prop_assert_eq!(old, model.insert(first, new)),
                        Err(error) => {
                            prop_assert_eq!(error, TableError::Conflict(range.start()));
                            let span = world.tables.translate(&world.frames, range.start()).unwrap().0;
                            prop_assert!(span.size() > 4096);
                        }
                    }
                }
                _ => {
                    let given = |page: u64| (page % 7 < 3).then(|| leaf(page & 0xfffff).access(access));
                    let (result, ..) = world.with_every_count(|w, spare, _| {
                        w.tables.fill(&w.frames, range, spare, |address| given(address.as_u64() >> 12))
                    });
                    prop_assert_eq!(result, Ok(()));
                    for page in pages {
                        if let (None, Some(leaf)) = (model.get(&page), given(page)) {
                            model.insert(page, leaf);
                        }
                    }
                }
            }
            for place in PLACES {
                for page in place..place + PLACE {
                    prop_assert_eq!(world.page(page), model.get(&page).copied());
                }
            }
        }
        let mmu = world.tables.mmu();
        world.unmap(mmu.range(0, 1 << 47).unwrap());
        world.unmap(mmu.range(0xffff_8000_0000_0000, 1 << 47).unwrap());
        prop_assert_eq!(world.frames.used_for(FrameUse::Table), 1, "every table came back");
    }
}

#[test]
fn runs_say_where_tables_cannot_be_read() {
    let mut world = World::new();
    world.map(world.range(0, 600), leaf(0x400), 0).unwrap();
    let mmu = world.tables.mmu();
    let all = world.halves()[0].unwrap();
    let unreadable = |world: &World, range| {
        let mut runs = world.tables.runs(&world.frames, range);
        (runs.by_ref().map(|(pages, _)| pages.pages(12)).sum::<u64>(), runs.unreadable())
    };
    assert_eq!(unreadable(&world, all), (600, None));
    // Instead of the first table of leaves, one in memory that nobody reaches; and a malformed entry behind it.
    let walk = world.tables.walk(&world.frames, VirtAddr::new(0));
    let step = *walk.steps().find(|step| step.level == 1).unwrap();
    let directory = Table::own(&world.frames, mmu, 1, step.table).unwrap();
    directory.store(0, mmu.encode_table(1, Frame::new(1 << 30)).unwrap());
    directory.store(9, 1 << 7 | 1 << 13 | 1);
    assert_eq!(unreadable(&world, all), (88, Some(VirtAddr::new(0))));
    assert_eq!(unreadable(&world, world.range(7, 1)), (0, Some(VirtAddr::new(7 << 12))));
    assert_eq!(unreadable(&world, world.range(512, 1024)), (88, None));
    assert_eq!(unreadable(&world, world.range(512, 1 << 18)), (88, Some(VirtAddr::new(9 << 21))));
    directory.store(0, step.word);
    directory.store(9, 0);
    assert_eq!(unreadable(&world, all), (600, None));
}

#[test]
fn what_was_made_can_be_given_back() {
    let mut world = World::new();
    let mut spare = world.spare(8);
    world.tables.map(&world.frames, world.range(0, 600), leaf(0x400), 0, &mut spare).unwrap();
    // SAFETY: nothing used what is left over.
    assert_eq!((unsafe { spare.free_tables(&world.frames) }, spare.len()), (4, 0));
    let (root, mmu) = (world.tables.root(), world.tables.mmu());
    // SAFETY: only one of the two values changes the tables.
    let copy = unsafe { Tables::new(mmu, root, TAG) };
    // SAFETY: no CPU uses the root, which is not empty still.
    let (copy, error) = unsafe { copy.free_root(&world.frames) }.unwrap_err();
    assert_eq!(error, TableError::Conflict(VirtAddr::new(0)));
    let mut gather = Gather::default();
    world.tables.detach(&world.frames, world.range(0, 600), &mut gather).unwrap();
    // SAFETY: no CPU has seen the tables.
    assert_eq!(unsafe { gather.tables.free_tables(&world.frames) }, 4);
    // SAFETY: no CPU uses the root.
    unsafe { copy.free_root(&world.frames) }.map_err(|(_, error)| error).unwrap();
    assert_eq!(world.frames.used_for(FrameUse::Table), 0);
    assert_eq!(world.frames.available(), COUNT as u64);
    // It is nobody's table any more.
    // SAFETY: refused.
    let copy = unsafe { Tables::new(mmu, root, TAG) };
    // SAFETY: as above.
    let (_, error) = unsafe { copy.free_root(&world.frames) }.unwrap_err();
    assert_eq!(error, TableError::Foreign(VirtAddr::new(0)));
}
