//! Leaves set and dropped beside others: entries alone change, and the next operation that has the tables finds what is empty.

use super::*;
use crate::paging::tables::Around;
use crate::paging::{AArch64, FlushEntry};
use crate::paging::{Granule4K, Half, RiscV64};

/// A leaf of a program's, which every format can hold.
fn data(frame: u64) -> Leaf {
    Leaf::new(Frame::new(frame)).user().writable()
}

/// What the pages map, and the tables that there are.
fn shown<M: Mmu + 'static>(world: &World<M>, pages: core::ops::Range<u64>) -> (Vec<Option<Frame>>, u64) {
    let frames = pages.map(|page| world.page(page).map(|leaf| leaf.frame)).collect();
    (frames, world.frames.used_for(FrameUse::Table))
}

/// Whether a flush of the scope reaches a page.
fn reaches(scope: &FlushScope, page: u64) -> bool {
    let covers = |entry: FlushEntry| entry.range.is_none_or(|range| range.contains(VirtAddr::new(page << 12)));
    scope.is_everything() || scope.entries().any(covers)
}

/// Drops parts of what is mapped, page by page, at every place; then unmaps, in several ways, what is left.
fn dropped_and_unmapped<M: Mmu + 'static>(mmu: M) {
    let table = 1_u64 << mmu.index_bits(0);
    // Around the end of a leaf table.
    let (first, end) = (table - 40, table + 40);
    for (start, count) in [(first, 80), (first + 3, 1), (first + 8, 30), (table - 1, 2), (table, 40), (first, 40)] {
        for unmap_at in [start, start + count - 1] {
            let mut world = World::<M>::of(mmu);
            world.map(world.range(first, 80), data(0x400 + first), 0).unwrap();
            let (before, tables) = shown(&world, first..end);
            let mut gather = Gather::default();
            world.tables.drop_leaves(&world.frames, world.range(start, count), &mut gather).unwrap();
            assert!(gather.tables.is_empty() && !gather.scope.tables(), "no table is unlinked");
            let (after, left) = shown(&world, first..end);
            assert_eq!(left, tables);
            // A group goes as a whole.
            let group = mmu.contiguous(0).map_or(1, |group| 1_u64 << group.count_shift);
            for (page, (before, after)) in (first..).zip(before.iter().zip(&after)) {
                let inside = (start..start + count).contains(&page);
                let near = page + group > start && page < start + count + group;
                assert!(if inside { after.is_none() } else { near || after == before }, "page {page}");
                assert!(after == before || reaches(&gather.scope, page), "page {page} is not flushed");
            }
            // A page of what is empty takes the tables away that show nothing, and says so to who remembers the way.
            let mut gather = Gather::default();
            let page = world.range(unmap_at, 1);
            world.tables.unmap(&world.frames, page, &mut FrameList::new(), &mut gather, |_, _| {}).unwrap();
            assert!(gather.tables.is_empty() || (gather.scope.tables() && reaches(&gather.scope, unmap_at)));
            world.free(&mut gather.tables);
            let all = world.range(first, 80);
            world.tables.unmap(&world.frames, all, &mut FrameList::new(), &mut gather, |_, _| {}).unwrap();
            world.free(&mut gather.tables);
            assert_eq!(shown(&world, first..end), (std::vec![None; 80], 1), "the root alone is left");
            world.check_counts();
        }
    }
}

#[test]
fn leaves_are_dropped_and_their_tables_go_later() {
    dropped_and_unmapped(X86_64::new(52));
    dropped_and_unmapped(RiscV64::sv39(44).svpbmt().svnapot());
    dropped_and_unmapped(AArch64::<Granule4K>::bits_39(Half::Lower, 44));
}

#[test]
fn detaching_takes_what_is_empty() {
    let mut world = World::new();
    world.map(world.range(0x1f0, 0x20), data(0x400), 0).unwrap();
    let all = world.range(0x1f0, 0x20);
    let mut gather = Gather::default();
    world.tables.drop_leaves(&world.frames, all, &mut gather).unwrap();
    let mut gather = Gather::default();
    world.tables.detach(&world.frames, world.range(0x1f8, 0x10), &mut gather).unwrap();
    assert!(gather.scope.tables() && reaches(&gather.scope, 0) && reaches(&gather.scope, 0x200));
    world.free(&mut gather.tables);
    world.check_counts();
}

#[test]
fn a_larger_leaf_is_dropped_whole() {
    let mut world = World::new();
    world.map(world.range(0x200, 0x400), data(0x400), 1).unwrap();
    let mut gather = Gather::default();
    world.tables.drop_leaves(&world.frames, world.range(0x210, 1), &mut gather).unwrap();
    assert_eq!((world.page(0x210), world.page(0x3ff), world.page(0x400)), (None, None, Some(data(0x600))));
    assert!(reaches(&gather.scope, 0x200) && reaches(&gather.scope, 0x3ff));
    world.check_counts();
}

/// Which pages around one are mapped with it, and the leaves for that.
fn around(pages: PageRange) -> Around {
    let leaf = Leaf::new(Frame::new(0)).user();
    Around { pages, leaves: [leaf, leaf.writable()] }
}

/// Sets a leaf as a fault does. `None` where no leaf table is there.
fn set(world: &World, page: u64, leaf: Leaf, pages: Option<PageRange>) -> Option<bool> {
    let leaves = world.tables.leaf_tables();
    let found = leaves.find(&world.frames, VirtAddr::new(page << 12))?;
    Some(leaves.set(&found, leaf, pages.map(around), |filler| {
        // Every third one is there, and of those every other one may be written to.
        let first = pages.map_or(0, |pages| pages.start().as_u64() >> 12);
        let all: Vec<u64> = (first..first + 0x20).collect();
        filler.put_all(0, &all, |page| (page % 3 == 0).then(|| (Frame::new(*page), page % 2 == 0)));
    }))
}

#[test]
fn a_leaf_is_set_or_raised_and_nothing_else() {
    let mut world = World::new();
    let read = Leaf::new(Frame::new(0x500)).user();
    assert_eq!(set(&world, 0x10, read, None), None, "no table");
    world.map(world.range(0x20, 1), read, 0).unwrap();
    assert_eq!(set(&world, 0x10, read, None), Some(true));
    assert_eq!(set(&world, 0x10, read, None), Some(true), "the same");
    assert_eq!(set(&world, 0x10, read.writable(), None), Some(true), "more");
    assert_eq!(world.page(0x10), Some(read.writable()));
    for other in [read, data(0x501), read.writable().memory(MemoryType::Device), read.writable().global()] {
        assert_eq!(set(&world, 0x10, other, None), Some(false), "{other:?}");
    }
    assert_eq!(set(&world, 0x11, data(1 << 51), None), Some(false), "no such frame");
    assert_eq!(world.page(0x10), Some(read.writable()));
    world.check_counts();
    world.map(world.range(0x200, 0x200), data(0x400), 1).unwrap();
    assert_eq!(set(&world, 0x210, read, None), None, "a larger leaf");
    // Absent ones around it that are there, and no others.
    assert_eq!(set(&world, 0x15, read, Some(world.range(0x10, 0x10))), Some(true));
    for page in 0x11..0x20 {
        let expected = match page {
            0x15 => Some(read),
            page if page % 3 != 0 => None,
            page if page % 2 == 0 => Some(data(page)),
            page => Some(Leaf::new(Frame::new(page)).user()),
        };
        assert_eq!(world.page(page), expected, "page {page:#x}");
    }
    assert_eq!(world.page(0x10), Some(read.writable()), "what was there stays");
    assert!((0x21..0x30).all(|page| world.page(page).is_none()), "nothing behind the pages around it");
    world.check_counts();
}

#[test]
fn pages_around_one_are_mapped_at_once_and_none_that_cannot_be() {
    let frame = |page: &u64| Frame::new(if *page == 0x45 { 1 << 51 } else { 0x800 + *page });
    // Whether an entry is taken, or a frame is beyond the width, it is as if they were mapped one by one.
    for (taken, first, count) in
        [(0x1ff, 0x80, 0x40), (0x90, 0x80, 0x40), (0xbf, 0x80, 0x40), (0x1ff, 0x40, 0x10), (0x1ff, 0x1f0, 0x20)]
    {
        let mut world = World::new();
        let there = Leaf::new(Frame::new(7)).user();
        world.map(world.range(taken, 1), there, 0).unwrap();
        let pages = world.range(first, count.min(0x200 - first));
        let given: Vec<u64> = (first + 2..first + count).collect();
        world.tables.map_around(&world.frames, &around(pages), |filler| {
            filler.put_all_to_be_read(2, &given, frame);
        });
        for page in 0..0x220 {
            let expected = match page {
                page if page == taken => Some(there),
                page if page < 0x200 && given.contains(&page) && frame(&page) != Frame::new(1 << 51) => {
                    Some(Leaf::new(frame(&page)).user())
                }
                _ => None,
            };
            assert_eq!(world.page(page), expected, "page {page:#x} of {count:#x} from {first:#x}");
        }
        world.check_counts();
        // Where no table is, none is made.
        let elsewhere = around(world.range(0x400, 0x40));
        world.tables.map_around(&world.frames, &elsewhere, |_| unreachable!("there is no table"));
    }
}
