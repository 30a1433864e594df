//! The operations on ranges beyond map, unmap and protect, against the same naive model.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::addr::FrameRange;
use crate::frame::FrameRequest;
use crate::paging::{DirtyBits, Format, Marks};

type Pages = BTreeMap<u64, Leaf>;

/// Every page of the places, as a CPU sees it.
fn snapshot(world: &World) -> Pages {
    let pages = PLACES.iter().flat_map(|place| *place..*place + PLACE);
    pages.filter_map(|page| Some((page, world.page(page)?))).collect()
}

fn covers(scope: &FlushScope, page: u64) -> bool {
    let address = VirtAddr::new(page << 12);
    scope.is_everything() || scope.entries().any(|entry| entry.range.is_none_or(|range| range.contains(address)))
}

/// What a CPU may remember and must not any more is in the scope.
fn check_flush(before: &Pages, after: &Pages, scope: &FlushScope) {
    for (page, old) in before {
        let kept = after.get(page).is_some_and(|new| {
            new.frame == old.frame
                && new.memory == old.memory
                && new.access.contains(old.access)
                && (new.accessed || !old.accessed)
                && (new.dirty || !old.dirty)
        });
        assert!(kept || covers(scope, *page), "{page:#x} was {old:?} and is {:?}, but is not flushed", after.get(page));
    }
}

/// Duplicates a range with every count of spare tables, looks at the copy, and tears it down.
fn duplicate(world: &mut World, range: PageRange, keep: Access) -> Pages {
    let root = allocate_one(&world.frames, FrameUse::Table, true).unwrap();
    // SAFETY: a fresh, zeroed table.
    let mut other = unsafe { Tables::new(world.tables.mmu(), root, Tag(8)) };
    let expected = world.tables.tables_to_duplicate(&world.frames, range, keep, &other);
    let mut pages = Pages::new();
    for count in 0.. {
        let mut spare = world.spare(count);
        let mut copied = Vec::new();
        let World { frames, tables, .. } = &mut *world;
        let result =
            tables.duplicate(frames, range, keep, &mut other, &mut spare, |pages, leaf| copied.push((pages, leaf)));
        match result {
            Err(TableError::NeedsTables(needed)) => {
                assert_eq!((needed, spare.len(), copied.len()), (expected, count, 0));
                assert_eq!(other.runs(frames, range).count(), 0);
            }
            result => {
                result.unwrap();
                assert_eq!((count, spare.len()), (expected, 0), "exact");
                for (part, leaf) in copied {
                    for step in 0..part.pages(12) {
                        let address = VirtAddr::new(part.start().as_u64() + (step << 12));
                        let (span, seen) = other.translate(frames, address).unwrap();
                        assert_eq!((span, seen), (part, leaf));
                        pages.insert(address.as_u64() >> 12, Leaf { frame: leaf.frame.add(step), ..leaf });
                    }
                }
            }
        }
        world.free(&mut spare);
        if count == expected {
            break;
        }
    }
    let mut gather = Gather::default();
    other.detach(&world.frames, range, &mut gather).unwrap();
    assert_eq!(gather.tables.len(), expected, "all of it is torn down");
    world.free(&mut gather.tables);
    // SAFETY: the other root is used no more.
    unsafe { free_one(&world.frames, root, FrameUse::Table) }.unwrap();
    pages
}

fn move_range(world: &mut World, from: PageRange, to: PageRange) -> (Result<(), TableError>, FlushScope) {
    let expected = world.tables.tables_to_move(&world.frames, from, to);
    let (result, count, scope) =
        world.with_every_count(|w, spare, gather| w.tables.move_range(&w.frames, from, to, spare, gather));
    assert_eq!(count, expected);
    (result, scope)
}

fn table_of(world: &World, page: u64, level: usize) -> Option<Frame> {
    let walk = world.tables.walk(&world.frames, VirtAddr::new(page << 12));
    walk.steps().find(|step| step.level == level).map(|step| step.table)
}

#[test]
fn moving_whole_tables_where_alignment_allows() {
    let mut world = World::new();
    world.map(world.range(512, 1024), leaf(0x5001), 0).unwrap();
    let table = table_of(&world, 600, 0);
    let before = snapshot(&world);
    let (from, to) = (world.range(512 + 100, 512 + 412), world.range((1 << 20) + 100, 512 + 412));
    let (result, scope) = move_range(&mut world, from, to);
    result.unwrap();
    assert!(scope.tables());
    check_flush(&before, &snapshot(&world), &scope);
    assert_eq!(table_of(&world, 600, 0), table, "of the first table only a part was moved");
    for page in 0..1024 {
        let expected = Some(leaf(0x5001 + page));
        let (old, new) = (world.page(512 + page), world.page((1 << 20) + page));
        assert_eq!((old, new), if page < 100 { (expected, None) } else { (None, expected) });
    }
    // The second one went as it is.
    let second = table_of(&world, (1 << 20) + 512, 0);
    let (from, to) = (to, world.range((1 << 28) + 100, 512 + 412));
    move_range(&mut world, from, to).0.unwrap();
    assert_eq!(table_of(&world, (1 << 28) + 512, 0), second);
    assert_eq!(world.page((1 << 28) + 1023), Some(leaf(0x5001 + 1023)));
}

#[test]
fn moving_a_large_leaf_off_its_alignment() {
    let mut world = World::new();
    let giga = 1 << 18;
    world.map(world.range(giga, giga), leaf(giga).used(), 2).unwrap();
    let (from, to) = (world.range(giga, giga), world.range(4 * giga + 512, giga));
    let (result, _) = move_range(&mut world, from, to);
    result.unwrap();
    assert_eq!(world.runs(), [(to, leaf(giga).used())]);
    let size = world.tables.translate(&world.frames, to.start()).unwrap().0.size();
    assert_eq!(size, 2 << 20, "as large as both places are aligned for");
    // Three 2 MiB leaves, from their middle on, by one page.
    let (from, to) = (world.range(4 * giga + 512 + 5, 1024), world.range(9 * giga + 512 + 6, 1024));
    move_range(&mut world, from, to).0.unwrap();
    assert_eq!(world.page(9 * giga + 512 + 6 + 1023), Some(leaf(giga + 5 + 1023).used()));
    assert_eq!((world.page(4 * giga + 512 + 4), world.page(4 * giga + 512 + 5)), (Some(leaf(giga + 4).used()), None));
}

#[test]
fn moving_is_refused_where_it_overlaps_or_meets_something() {
    let mut world = World::new();
    world.map(world.range(16, 8), leaf(1), 0).unwrap();
    for (first, pages) in [(16, 8), (9, 8), (23, 8), (100, 9)] {
        let to = world.range(first, pages);
        let from = world.range(16, 8);
        assert_eq!(move_range(&mut world, from, to).0, Err(TableError::Overlap(to)));
    }
    world.map(world.range(107, 1), leaf(1), 0).unwrap();
    let (from, to) = (world.range(16, 8), world.range(100, 8));
    assert_eq!(move_range(&mut world, from, to).0, Err(TableError::Conflict(VirtAddr::new(107 << 12))));
}

#[test]
fn a_table_that_is_emptied_and_needed_again() {
    let mut world = World::new();
    // The first part leaves the table of pages 512 to 1023 empty; what follows goes there.
    world.map(world.range(1015, 20), leaf(0x100), 0).unwrap();
    let (from, to) = (world.range(1015, 20), world.range(500, 20));
    move_range(&mut world, from, to).0.unwrap();
    assert_eq!(world.runs(), [(to, leaf(0x100))]);
}

#[test]
fn frames_from_an_iterator() {
    let mut world = World::new();
    let range = world.range(510, 6);
    let given = [9, 3, 4, 100, 7, 8, 77].map(Frame::new);
    let mut map = |given: &[Frame]| {
        world
            .with_every_count(|w, spare, _| {
                w.tables.map_frames(&w.frames, range, given.iter().copied(), leaf(0), spare)
            })
            .0
    };
    assert_eq!(map(&given[..5]), Err(TableError::TooFewFrames(VirtAddr::new(515 << 12))));
    let beyond = [Frame::new(1), Frame::new(1 << 40)].repeat(3);
    assert_eq!(map(&beyond), Err(TableError::Encode(EncodeError::Frame(Frame::new(1 << 40)))));
    assert_eq!(map(&given), Ok(()));
    assert_eq!(map(&given), Err(TableError::Conflict(range.start())));
    for (page, frame) in (510..516).zip(given) {
        assert_eq!(world.page(page), Some(leaf(frame.number())));
    }
}

#[test]
fn an_iterator_whose_clone_differs_ends_the_mapping() {
    struct Fickle(u32);
    impl Clone for Fickle {
        fn clone(&self) -> Self {
            Self(100)
        }
    }
    impl Iterator for Fickle {
        type Item = Frame;
        fn next(&mut self) -> Option<Frame> {
            self.0 = self.0.checked_sub(1)?;
            Some(Frame::new(u64::from(self.0)))
        }
    }
    let mut world = World::new();
    let mut spare = world.spare(4);
    let result = world.tables.map_frames(&world.frames, world.range(0, 8), Fickle(3), leaf(0), &mut spare);
    assert_eq!(result, Err(TableError::TooFewFrames(VirtAddr::new(3 << 12))));
    assert_eq!(world.runs().len(), 3);
    world.free(&mut spare);
    world.check_counts();
}

#[test]
fn gaps_are_found_and_given_back() {
    let mut world = World::new();
    let limits = world.range(1 << 20, 1 << 19);
    let gap = |world: &World, pages: u64, alignment, phase| {
        world.tables.find_gap(&world.frames, limits, pages << 12, alignment, phase)
    };
    assert_eq!(gap(&world, 1 << 19, 0, 0), Ok(limits), "all of it");
    assert_eq!(gap(&world, (1 << 19) + 1, 0, 0), Err(TableError::NoGap(((1 << 19) + 1) << 12)));
    assert!(matches!(world.tables.find_gap(&world.frames, limits, 5, 0, 0), Err(TableError::Address(_))));
    assert!(world.tables.find_gap(&world.frames, limits, 0, 0, 0).is_err());
    assert!(world.tables.find_gap(&world.frames, limits, 1 << 12, 200, u64::MAX).is_err());
    let map = |world: &mut World, pages: u64, leaf: Leaf| {
        let (result, _, scope) =
            world.with_every_count(|w, spare, _| w.tables.map_in_gap(&w.frames, limits, pages << 12, leaf, 2, spare));
        assert!(scope.is_empty());
        result
    };
    let first = map(&mut world, 3, leaf(0x9000)).unwrap();
    assert_eq!(first, world.range(1 << 20, 3));
    let large = map(&mut world, 1024, leaf(0x1_0000)).unwrap();
    assert_eq!(large.start().as_u64() >> 12, (1 << 20) + 512, "aligned for large leaves");
    assert_eq!(world.tables.translate(&world.frames, large.start()).unwrap().0.size(), 2 << 20);
    assert_eq!(map(&mut world, 509, leaf(0x9003)).unwrap(), world.range((1 << 20) + 3, 509), "the hole is filled");
    world.unmap(first);
    let frames = [1, 5, 2].map(Frame::new);
    let (again, ..) = world
        .with_every_count(|w, spare, _| w.tables.map_frames_in_gap(&w.frames, limits, 3 << 12, frames, leaf(0), spare));
    assert_eq!(again, Ok(first));
    assert_eq!(world.page((1 << 20) + 1), Some(leaf(5)));
    // A gap at the very top.
    let top = world.tables.mmu().range(u64::MAX << 14, 1 << 14).unwrap();
    world.map(world.tables.mmu().range(u64::MAX << 14, 1 << 12).unwrap(), leaf(1), 0).unwrap();
    let found = world.tables.find_gap(&world.frames, top, 3 << 12, 0, 0).unwrap();
    assert_eq!(found.last(), VirtAddr::new(u64::MAX));
    assert!(world.tables.find_gap(&world.frames, top, 4 << 12, 0, 0).is_err());
}

#[test]
fn a_range_summed_up() {
    let mut world = World::new();
    let nothing = world.tables.query(&world.frames, world.range(0, 100));
    assert_eq!((nothing.mapped, nothing.memory, nothing.allowed_anywhere), (0, None, Access::empty()));
    world.map(world.range(0, 10), leaf(1), 0).unwrap();
    world.map(world.range(20, 10), leaf(1).access(Access::USER_CODE).used().global(), 0).unwrap();
    let summary = world.tables.query(&world.frames, world.range(5, 20));
    assert_eq!((summary.mapped, summary.memory), (10, Some(MemoryType::WriteBack)));
    assert_eq!(summary.allowed_everywhere, Access::READ | Access::USER);
    assert_eq!(summary.allowed_anywhere, Access::all());
    assert!(summary.accessed && !summary.dirty && summary.global);
    world.map(world.range(40, 1), leaf(1).memory(MemoryType::Uncached), 0).unwrap();
    assert_eq!(world.tables.query(&world.frames, world.range(0, 50)).memory, None);
}

#[test]
fn marks_of_a_leaf_that_is_covered_in_part_stay() {
    let mut world = World::new();
    world.map(world.range(512, 512), leaf(512).used(), 1).unwrap();
    let take = |world: &mut World, first, count, marks| {
        let range = world.range(first, count);
        let (result, _, scope) = world.with_every_count(|w, _, gather| {
            let mut marked = Vec::new();
            w.tables.take_marks(&w.frames, range, marks, gather, |pages, had| marked.push((pages, had)))?;
            Ok(marked)
        });
        (result.unwrap(), !scope.is_empty())
    };
    assert_eq!(take(&mut world, 520, 9, Marks::BOTH), (Vec::from([(world.range(520, 9), Marks::BOTH)]), false));
    assert_eq!(take(&mut world, 0, 1024, Marks::DIRTY), (Vec::from([(world.range(512, 512), Marks::DIRTY)]), true));
    let now = world.page(512).unwrap();
    assert!(now.accessed && !now.dirty);
    assert_eq!(take(&mut world, 0, 1024, Marks::DIRTY), (Vec::new(), false));
}

#[test]
fn write_protection_high_up_and_pushed_down() {
    let mut world = World::new();
    let giga = 1 << 18;
    world.map(world.range(giga, 2 * 512), leaf(1), 0).unwrap();
    world.map(world.range(2 * giga - 512, 512), leaf(512), 1).unwrap();
    let range = world.range(giga, giga);
    let protect = |world: &mut World, range| {
        let (changed, count, scope) =
            world.with_every_count(|w, spare, gather| w.tables.write_protect(&w.frames, range, spare, gather));
        (changed.unwrap(), count, scope)
    };
    let (changed, _, scope) = protect(&mut world, range);
    assert_eq!(changed, 1, "one entry for 1 GiB");
    assert!(covers(&scope, giga) && covers(&scope, 2 * giga - 1) && scope.tables());
    assert_eq!(protect(&mut world, range).0, 0, "nothing is left to do");
    assert_eq!(world.page(giga + 3).unwrap().access, Access::READ | Access::USER);

    let address = VirtAddr::new((giga + 3) << 12);
    let changed = world.tables.push_down(&world.frames, address).unwrap();
    assert_eq!(changed, (2 + 1) + 1 + 512 + 1, "tables and the large leaf, their parent; pages, their parent");
    for page in [giga, giga + 3, giga + 600, 2 * giga - 1] {
        assert_eq!(world.page(page).unwrap().access, Access::READ | Access::USER, "nothing was gained");
    }
    let (old, ..) =
        world.with_every_count(|w, spare, gather| w.tables.set_page(&w.frames, address, leaf(4), spare, gather));
    assert_eq!(old, Ok(Some(leaf(4).access(Access::READ | Access::USER))));
    assert_eq!(world.page(giga + 3), Some(leaf(4)), "and the page itself can be written again");
    assert_eq!(world.tables.push_down(&world.frames, address), Ok(0));
    assert!(matches!(world.tables.push_down(&world.frames, VirtAddr::new(1 << 63)), Err(TableError::Address(_))));
    // A part: the larger leaf is split, the neighbour keeps its permission.
    world.map(world.range(8 * giga, 512), leaf(512), 1).unwrap();
    let part = world.range(8 * giga + 1, 2);
    let (changed, count, _) = protect(&mut world, part);
    assert_eq!((changed, count), (2, 1));
    assert_eq!(world.page(8 * giga), Some(leaf(512)));
    assert!(world.tables.can_limit_writes(3) && !world.tables.can_limit_writes(4));
}

#[test]
fn moving_out_of_a_protected_table_gains_nothing() {
    let mut world = World::new();
    world.map(world.range(512, 1024), leaf(1), 0).unwrap();
    let mut gather = Gather::default();
    let range = world.range(0, 1 << 18);
    world.tables.write_protect(&world.frames, range, &mut FrameList::new(), &mut gather).unwrap();
    let read_only = leaf(1).access(Access::READ | Access::USER);
    let (from, to) = (world.range(512, 512), world.range(1 << 20, 512));
    move_range(&mut world, from, to).0.unwrap();
    assert_eq!(world.page(1 << 20), Some(read_only));
    let copies = duplicate(&mut world, range, Access::all());
    assert_eq!(copies.get(&1024), Some(&Leaf { frame: Frame::new(513), ..read_only }));
}

#[test]
fn promotion_is_refused_where_pages_do_not_agree() {
    let mut world = World::new();
    let range = world.range(0, 1 << 18);
    let promote = |world: &mut World| {
        let (result, _, scope) = world.with_every_count(|w, _, gather| w.tables.promote(&w.frames, range, 2, gather));
        (result.unwrap(), scope)
    };
    world.map(world.range(512, 511), leaf(512), 0).unwrap();
    assert_eq!(promote(&mut world).0, 0, "not full");
    world.map(world.range(1023, 1), leaf(1023).software(1), 0).unwrap();
    assert_eq!(promote(&mut world).0, 0, "not alike");
    world.unmap(world.range(1023, 1));
    world.map(world.range(1023, 1), leaf(1023).used(), 0).unwrap();
    let part = world.range(513, 511);
    assert_eq!(world.tables.promote(&world.frames, part, 2, &mut Gather::default()), Ok(0), "not in the range");
    let tables = world.frames.used_for(FrameUse::Table);
    let (promoted, scope) = promote(&mut world);
    assert_eq!((promoted, world.frames.used_for(FrameUse::Table)), (1, tables - 1));
    assert!(scope.tables() && covers(&scope, 512) && covers(&scope, 1023));
    assert_eq!(world.runs(), [(world.range(512, 512), leaf(512).used())], "marks are folded");
    world.map(world.range(2048, 512), leaf(7), 0).unwrap();
    assert_eq!(promote(&mut world).0, 0, "frames that are not aligned");
}

#[test]
fn promoted_twice() {
    let mut world = World::new();
    let giga = 1 << 18;
    world.map(world.range(giga, giga - 512), leaf(giga), 1).unwrap();
    world.map(world.range(2 * giga - 512, 512), leaf(2 * giga - 512), 0).unwrap();
    let mut gather = Gather::default();
    assert_eq!(world.tables.promote(&world.frames, world.range(giga, giga), 2, &mut gather), Ok(2));
    world.free(&mut gather.tables);
    world.check_counts();
    assert_eq!(world.tables.translate(&world.frames, VirtAddr::new(giga << 12)).unwrap().0.size(), 1 << 30);
}

#[test]
fn detaching_reads_no_leaf_and_takes_no_table() {
    let mut world = World::new();
    let giga = 1 << 18;
    world.map(world.range(giga - 700, 1400), leaf(1), 0).unwrap();
    world.map(world.range(3 * giga, 1024), leaf(1024), 1).unwrap();
    let before = snapshot(&world);
    let range = world.range(giga - 600, 2 * giga + 601);
    let (result, count, scope) = world.with_every_count(|w, _, gather| w.tables.detach(&w.frames, range, gather));
    assert_eq!((result, count), (Ok(()), 0));
    check_flush(&before, &snapshot(&world), &scope);
    assert_eq!(world.page(giga - 601), Some(leaf(100)));
    assert_eq!(world.page(giga - 600), None);
    assert_eq!(world.runs().len(), 2, "a large leaf is dropped whole: {:?}", world.runs());
}

#[test]
fn the_writing_cursor_moves_and_keeps_the_tables_whole() {
    let mut world = World::new();
    let range = world.range(510, 515);
    let mut spare = world.spare(4);
    let mut gather = Gather::default();
    {
        let mut writer = world.tables.writer(&world.frames, range, &mut gather).unwrap();
        assert!(!writer.leave() && writer.level() == 3 && !writer.is_whole());
        assert_eq!(writer.set(leaf(1)), Err(TableError::Encode(EncodeError::NoLeafAtLevel(3))));
        for _ in 0..3 {
            writer.enter(&mut spare).unwrap();
        }
        assert_eq!((writer.level(), writer.address().as_u64()), (0, 510 << 12));
        assert!(matches!(writer.enter(&mut spare), Err(TableError::Foreign(_))));
        assert_eq!(writer.entries().len(), 2);
        assert_eq!(writer.set(leaf(5)), Ok(None));
        assert_eq!(writer.set(leaf(6)), Ok(Some(leaf(5))));
        assert_eq!(writer.entries().get(0), Some(Entry::Leaf(leaf(6))));
        assert_eq!((writer.entries().get(2), writer.entries().word(1)), (None, Some(0)));
        // SAFETY: nothing is written.
        assert_ne!(unsafe { writer.entries().atomics() }[0].load(Ordering::Relaxed), 0);
        assert!(writer.next() && !writer.next());
        assert_eq!(writer.clear(), Ok(None));
        assert!(writer.leave() && writer.next(), "to the entry of pages 512 to 1023");
        assert!(writer.is_whole());
        assert_eq!(writer.set(leaf(0x200)), Ok(None));
        assert_eq!(writer.enter(&mut spare), Ok(()), "split");
        assert_eq!(writer.clear(), Ok(Some(leaf(0x200))));
        assert!(writer.leave() && writer.next() && !writer.is_whole());
        assert_eq!(writer.set(leaf(0x400)), Err(TableError::Conflict(VirtAddr::new(1024 << 12))));
        assert_eq!(writer.enter(&mut spare), Err(TableError::NeedsTables(1)));
    }
    assert!(covers(&gather.scope, 512) && spare.is_empty());
    assert_eq!(world.runs(), [(world.range(510, 1), leaf(6)), (world.range(513, 511), leaf(0x201))]);
    world.check_counts();
    // A table that was made and left empty does not stay.
    let mut spare = world.spare(3);
    world.tables.writer(&world.frames, world.range(1 << 30, 1), &mut gather).unwrap().enter(&mut spare).unwrap();
    assert_eq!(gather.tables.len(), 1);
    world.free(&mut gather.tables);
    world.free(&mut spare);
    world.check_counts();
}

/// Makes the world's tables somebody else's: no record says that they are tables.
fn disown(world: &World) -> u64 {
    fn visit(world: &World, level: usize, frame: Frame) -> u64 {
        let mmu = world.tables.mmu();
        let table = Table::reach(&world.frames, mmu, level, frame).unwrap();
        world.frames.frame_meta(frame).unwrap().end(frame, FrameUse::Table).unwrap();
        let below = (0..table.len()).map(|index| match mmu.decode(level, table.load(index)) {
            Entry::Table(next, _) => visit(world, level - 1, next),
            _ => 0,
        });
        1 + below.sum::<u64>()
    }
    visit(world, 3, world.tables.root())
}

#[test]
fn a_loaders_tables_are_taken_over() {
    let mut world = World::new();
    let giga = 1 << 18;
    world.map(world.range(0, 600), leaf(3), 0).unwrap();
    world.map(world.range(giga, giga), leaf(giga), 2).unwrap();
    world.map(world.range(1 << 30, 5), leaf(9), 0).unwrap();
    let runs = world.runs();
    let count = disown(&world);
    assert_eq!(world.runs(), runs, "read, whoever owns them");
    let adopt = |world: &mut World, range| {
        // SAFETY: the tables were made here, are a tree, and their frames can be freed.
        unsafe { world.tables.adopt(&world.frames, range) }
    };
    let range = world.range(0, 600);
    assert_eq!(adopt(&mut world, range), Ok(5), "root, one each above, two of pages");
    let again = world.range(512, 512);
    assert_eq!(adopt(&mut world, again), Err(TableError::Foreign(VirtAddr::new(512 << 12))), "twice");
    assert!(matches!(
        world.tables.protect(
            &world.frames,
            world.range(1 << 30, 1),
            Access::READ,
            &mut FrameList::new(),
            &mut Gather::default()
        ),
        Err(TableError::Foreign(_))
    ));
    let rest = world.range(1 << 30, 5);
    assert_eq!(adopt(&mut world, rest), Ok(count - 5));
    let all = world.tables.mmu().range(0, 1 << 47).unwrap();
    world.check_counts();
    assert_eq!(world.unmap(all).0.len(), 600 + 1 + 5);
    assert_eq!(world.frames.used_for(FrameUse::Table), 1, "all were freed but the root");
}

#[test]
fn adopting_a_root_that_contains_itself_changes_nothing() {
    let mut world = World::new();
    world.map(world.range(0, 5), leaf(3), 0).unwrap();
    let mmu = world.tables.mmu();
    let root = Table::own(&world.frames, mmu, 3, world.tables.root()).unwrap();
    root.store(1, mmu.encode_table(3, world.tables.root()).unwrap());
    let count = disown_without_loop(&world, &root);
    let all = mmu.range(0, 1 << 47).unwrap();
    // SAFETY: refused.
    let result = unsafe { world.tables.adopt(&world.frames, all) };
    assert_eq!(result, Err(TableError::Foreign(VirtAddr::new(1 << 39))));
    assert_eq!(world.frames.used_for(FrameUse::Table), 0, "nothing was recorded");
    // The slot is dropped, the rest adopted.
    // SAFETY: as for the others.
    let adopted = unsafe { world.tables.adopt(&world.frames, world.range(0, 512)) };
    assert_eq!(adopted, Ok(count));
}

fn disown_without_loop(world: &World, root: &Table<'_, X86_64>) -> u64 {
    let word = root.load(1);
    root.store(1, 0);
    let count = disown(world);
    root.store(1, word);
    count
}

#[test]
fn foreign_root_slots_are_dropped() {
    let mut world = World::new();
    world.map(world.range(0, 5), leaf(3), 0).unwrap();
    world.map(world.range(1 << 30, 5), leaf(9), 0).unwrap();
    disown(&world);
    let here = world.range(0, 512);
    // SAFETY: as above.
    unsafe { world.tables.adopt(&world.frames, here) }.unwrap();
    let mut gather = Gather::default();
    let part = world.range(1 << 30, 5);
    assert!(matches!(world.tables.drop_foreign(&world.frames, part, &mut gather), Err(TableError::Foreign(_))));
    assert!(gather.scope.is_empty() && world.runs().len() == 2);
    let all = world.tables.mmu().range(0, 1 << 47).unwrap();
    world.tables.drop_foreign(&world.frames, all, &mut gather).unwrap();
    assert!(gather.scope.tables() && covers(&gather.scope, 1 << 30) && gather.tables.is_empty());
    assert_eq!(world.runs(), [(world.range(0, 5), leaf(3))]);
    world.unmap(all);
}

/// The MMU of x86-64, as if it demanded break-before-make.
#[derive(Clone, Copy, Debug)]
struct Breaks(X86_64);

// SAFETY: the description is that of x86-64, but for what is demanded in addition.
unsafe impl Mmu for Breaks {
    type Word = u64;
    const FORMAT: &'static Format = &Format { break_before_make: true, ..*X86_64::FORMAT };

    fn levels(&self) -> usize {
        self.0.levels()
    }

    fn physical_bits(&self) -> u32 {
        self.0.physical_bits()
    }

    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        self.0.memory_code(memory)
    }

    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        self.0.memory_type(code)
    }
}

/// Frames that see to it that what is invalidated is absent.
struct Watching<'a> {
    frames: &'a Region,
    tables: Tables<X86_64>,
    seen: AtomicU64,
}

// SAFETY: all is the region's; the machine has no CPUs that could remember anything.
unsafe impl Frames for Watching<'_> {
    const INVALIDATES_NOW: bool = true;

    fn invalidate_now(&self, tag: u16, range: PageRange) {
        assert_eq!((tag, self.tables.query(self.frames, range).mapped), (TAG.0, 0), "live while it is invalidated");
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.frames.allocate_frames(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: as the caller vouches.
        unsafe { self.frames.free_frames(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.frames.frame_pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.frames.frame_meta(frame)
    }
}

#[test]
fn break_before_make_where_it_is_demanded() {
    let mut world = World::new();
    world.map(world.range(512, 512), leaf(512).used(), 1).unwrap();
    world.map(world.range(0, 1), leaf(512), 1).unwrap();
    let root = world.tables.root();
    // SAFETY: the tables are the world's, which uses them no more but to read.
    let mut tables = unsafe { Tables::new(Breaks(X86_64::new(52)), root, TAG) };
    // SAFETY: only read.
    let reading = unsafe { Tables::new(X86_64::new(52), root, TAG) };
    let watching = Watching { frames: &world.frames, tables: reading, seen: AtomicU64::new(0) };
    let (mut gather, mut spare) = (Gather::default(), world.spare(1));
    let before = world.runs();

    // Frames that cannot do it: refused, and nothing has changed.
    let region: &Region = &world.frames;
    let needs = |result: Result<(), TableError>| assert!(matches!(result, Err(TableError::NeedsInvalidation(_))));
    let (part, page) = (world.range(513, 1), VirtAddr::new(0));
    needs(tables.unmap(region, part, &mut spare, &mut gather, |_, _| {}));
    needs(tables.protect(region, part, Access::READ, &mut spare, &mut gather));
    needs(tables.set_memory_type(region, part, MemoryType::Uncached, &mut spare, &mut gather));
    needs(tables.set_page(region, page, leaf(9), &mut spare, &mut gather).map(|_| ()));
    needs(tables.promote(region, part, 1, &mut gather).map(|_| ()));
    assert!(gather.scope.is_empty() && spare.len() == 1);
    assert_eq!(world.runs(), before);

    let seen = |watching: &Watching<'_>| watching.seen.swap(0, Ordering::Relaxed);
    tables.protect(&watching, part, Access::READ, &mut spare, &mut gather).unwrap();
    assert_eq!(seen(&watching), 1, "split; a change of permission alone needs none");
    tables.protect(&watching, part, Access::USER_DATA, &mut spare, &mut gather).unwrap();
    assert_eq!(tables.promote(&watching, world.range(512, 512), 1, &mut gather), Ok(1));
    assert_eq!(seen(&watching), 1);
    tables.set_memory_type(&watching, world.range(512, 512), MemoryType::Uncached, &mut spare, &mut gather).unwrap();
    assert_eq!(seen(&watching), 1);
    tables.set_page(&watching, page, leaf(512).access(Access::READ), &mut spare, &mut gather).unwrap();
    assert_eq!(seen(&watching), 0);
    let old = tables.set_page(&watching, page, leaf(9), &mut spare, &mut gather);
    assert_eq!((old, seen(&watching)), (Ok(Some(leaf(512).access(Access::READ))), 1), "another frame");
    tables.unmap(&watching, world.range(0, 1024), &mut spare, &mut gather, |_, _| {}).unwrap();
    assert_eq!(seen(&watching), 3, "each table that is unlinked; a leaf that becomes absent is broken and never made");
    world.free(&mut gather.tables);
    world.check_counts();
}

/// The hardware marks an entry just between its load and what replaces it.
#[test]
fn a_mark_between_load_and_store_is_kept_where_it_is_relied_on() {
    const DIRTY: u64 = 0x40;
    for relied in [DirtyBits::Hints, DirtyBits::Relied] {
        let mut world = World::new();
        world.map(world.range(0, 2), leaf(0x1000), 0).unwrap();
        world.tables.dirty_bits = relied;
        let table = table_of(&world, 0, 0).unwrap();
        let table = Table::own(&world.frames, world.tables.mmu(), 0, table).unwrap();
        let kept = relied == DirtyBits::Relied;
        let mut calls = 0;
        let slot = live::Slot { table, level: 0, index: 0, pages: world.range(0, 1) };
        world
            .tables
            .rewrite(&world.frames, slot, false, |leaf| {
                calls += 1;
                if calls == 1 {
                    table.store(0, table.load(0) | DIRTY);
                }
                Ok(world.tables.mmu().encode_leaf(0, leaf.access(Access::READ))?)
            })
            .unwrap();
        assert_eq!(calls, if kept { 2 } else { 1 });
        let now = world.page(0).unwrap();
        assert_eq!((now.access, now.dirty), (Access::READ, kept));
        let seen = world.page(1).unwrap();
        table.store(1, table.load(1) | DIRTY);
        assert_eq!(world.tables.replace(&table, 0, 1, seen, 0).dirty, kept, "{relied:?}");
        table.change_live(-1);
    }
}

/// Another CPU, which writes pages whenever it may: no write may be lost.
#[test]
fn relied_dirty_bits_are_never_lost() {
    for round in 0..30 {
        let mut world = World::new();
        let tables = core::mem::replace(&mut world.tables, {
            // SAFETY: a root that is replaced again before it is used.
            unsafe { Tables::new(X86_64::new(52), Frame::new(0), TAG) }
        });
        world.tables = tables.with_dirty_bits(DirtyBits::Relied);
        assert_eq!(world.tables.dirty_bits(), DirtyBits::Relied);
        let range = world.range(0, 512);
        world.map(range, leaf(0x1000), 0).unwrap();
        let table = table_of(&world, 0, 0).unwrap();
        let words = world.frames.frame_pointer(table) as usize;
        let (stop, go) = (AtomicBool::new(false), AtomicBool::new(false));
        let written: Vec<AtomicBool> = (0..512).map(|_| AtomicBool::new(false)).collect();
        let mut found = [false; 512];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut index = round * 37;
                while !stop.load(Ordering::Relaxed) {
                    index = (index * 5 + 7) % 512;
                    // SAFETY: the table stays where it is while the thread runs; entries are accessed as atomics.
                    let entry = unsafe { AtomicU64::from_ptr((words as *mut u64).add(index)) };
                    let word = entry.load(Ordering::Relaxed);
                    if word & 0x43 == 3
                        && entry.compare_exchange(word, word | 0x60, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                    {
                        written[index].store(true, Ordering::Relaxed);
                    }
                    go.store(true, Ordering::Relaxed);
                }
            });
            while !go.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let (mut gather, mut spare) = (Gather::default(), FrameList::new());
            let World { frames, tables, .. } = &mut world;
            match round % 3 {
                0 => tables.protect(frames, range, Access::READ, &mut spare, &mut gather).unwrap(),
                1 => tables.set_memory_type(frames, range, MemoryType::WriteThrough, &mut spare, &mut gather).unwrap(),
                _ => tables
                    .take_marks(frames, range, Marks::DIRTY, &mut gather, |pages, _| {
                        found[(pages.start().as_u64() >> 12) as usize] = true;
                    })
                    .unwrap(),
            }
            tables
                .unmap(frames, range, &mut spare, &mut gather, |pages, leaf| {
                    found[(pages.start().as_u64() >> 12) as usize] |= leaf.dirty;
                })
                .unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        for (index, written) in written.iter().enumerate() {
            assert_eq!(found[index], written.load(Ordering::Relaxed), "page {index} in round {round}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn more_random_operations_agree_with_a_map_of_pages(
        operations in prop::collection::vec((0..12_u8, 0..4_usize, 0..PLACE, 1..PLACE, 0..3_usize, 0..4_usize), 1..20)
    ) {
        let mut world = World::new();
        let mut model = Pages::new();
        for (kind, place, offset, length, choice, other) in operations {
            let whole = kind < 4 && choice == 1;
            let base = PLACES[place];
            let mut first = base + offset;
            if whole && (first | 511) < base + PLACE - 1 {
                first = (first | 511) + 1;
            }
            let length = length.min(PLACE - (first - base));
            let range = world.tables.mmu().range(first << 12, length << 12).unwrap();
            let pages = first..first + length;
            let memory = [MemoryType::WriteBack, MemoryType::WriteCombining, MemoryType::Uncached][choice];
            let before = snapshot(&world);
            prop_assert_eq!(&before, &model);
            let mut scope = FlushScope::new();
            match kind {
                0..=3 => {
                    let frame = if choice == 2 { 0x9000 } else { (first & 0x3ffff) | 0x10_0000 };
                    let leaf = leaf(frame).access(ACCESSES[other % 3]);
                    let leaf = if other == 3 { leaf.used() } else { leaf };
                    let taken = pages.clone().any(|page| model.contains_key(&page));
                    let result = if kind == 3 {
                        let given = (0..length).map(|page| Frame::new(frame + page));
                        world.with_every_count(|w, spare, _| w.tables.map_frames(&w.frames, range, given.clone(), leaf, spare)).0
                    } else {
                        world.map(range, leaf, 2)
                    };
                    prop_assert_eq!(result.is_ok(), !taken);
                    if !taken {
                        model.extend(pages.map(|page| (page, Leaf { frame: leaf.frame.add(page - first), ..leaf })));
                    }
                }
                4 => {
                    let (result, _, flush) = world.with_every_count(|w, spare, gather| {
                        w.tables.set_memory_type(&w.frames, range, memory, spare, gather)
                    });
                    prop_assert_eq!(result, Ok(()));
                    scope = flush;
                    model.range_mut(pages).for_each(|(_, leaf)| leaf.memory = memory);
                }
                5 | 6 => {
                    // Half of the time to where both are aligned alike.
                    let to = PLACES[other] + if choice == 0 { (first - base).min(PLACE - length) } else { offset.min(PLACE - length) / 2 };
                    let to_range = world.tables.mmu().range(to << 12, length << 12).unwrap();
                    let taken = (to..to + length).any(|page| model.contains_key(&page));
                    let (result, flush) = move_range(&mut world, range, to_range);
                    if range.overlaps(to_range) {
                        prop_assert_eq!(result, Err(TableError::Overlap(to_range)));
                    } else if taken {
                        prop_assert!(matches!(result, Err(TableError::Conflict(_))));
                    } else {
                        prop_assert_eq!(result, Ok(()));
                        scope = flush;
                        let moved: Vec<_> = pages.filter_map(|page| Some((to + (page - first), model.remove(&page)?))).collect();
                        model.extend(moved);
                    }
                }
                7 => {
                    let marks = [Marks::ACCESSED, Marks::DIRTY, Marks::BOTH][choice];
                    let (result, _, flush) = world.with_every_count(|w, _, gather| {
                        let mut marked = Vec::new();
                        w.tables.take_marks(&w.frames, range, marks, gather, |pages, had| marked.push((pages, had)))?;
                        Ok(marked)
                    });
                    scope = flush;
                    let mut reported = Vec::new();
                    for (part, had) in result.unwrap() {
                        let whole = world.tables.translate(&world.frames, part.start()).unwrap().0 == part;
                        for page in part.start().as_u64() >> 12..=part.last().as_u64() >> 12 {
                            let leaf = model.get_mut(&page).unwrap();
                            prop_assert_eq!(had.accessed, marks.accessed && leaf.accessed);
                            prop_assert_eq!(had.dirty, marks.dirty && leaf.dirty);
                            if whole {
                                leaf.accessed &= !had.accessed;
                                leaf.dirty &= !had.dirty;
                            }
                            reported.push(page);
                        }
                    }
                    for (page, leaf) in model.range(pages) {
                        prop_assert!(reported.contains(page)
                            || !(leaf.accessed && marks.accessed || leaf.dirty && marks.dirty));
                    }
                }
                8 => {
                    let (result, _, flush) = world.with_every_count(|w, _, gather| w.tables.promote(&w.frames, range, 2, gather));
                    prop_assert!(result.is_ok());
                    scope = flush;
                    // Marks are folded over each larger leaf.
                    for (page, leaf) in model.range_mut(pages) {
                        let now = world.page(*page).unwrap();
                        prop_assert!(now.accessed >= leaf.accessed && now.dirty >= leaf.dirty);
                        (leaf.accessed, leaf.dirty) = (now.accessed, now.dirty);
                    }
                }
                9 => {
                    let (result, _, flush) = world.with_every_count(|w, spare, gather| {
                        w.tables.write_protect(&w.frames, range, spare, gather)
                    });
                    prop_assert!(result.is_ok());
                    scope = flush;
                    model.range_mut(pages.clone()).for_each(|(_, leaf)| leaf.access.remove(Access::WRITE));
                    prop_assert_eq!(&snapshot(&world), &model);
                    for page in pages {
                        world.tables.push_down(&world.frames, VirtAddr::new(page << 12)).unwrap();
                    }
                    prop_assert_eq!(&snapshot(&world), &model, "nothing was gained");
                }
                10 => {
                    let keep = [Access::all(), Access::all().difference(Access::WRITE)][choice % 2];
                    let copies = duplicate(&mut world, range, keep);
                    let expected: Pages = model.range(pages).map(|(page, leaf)| {
                        (*page, Leaf { access: leaf.access & keep, accessed: false, dirty: false, ..*leaf })
                    }).collect();
                    prop_assert_eq!(copies, expected);
                }
                _ => {
                    let (result, count, flush) = world.with_every_count(|w, _, gather| w.tables.detach(&w.frames, range, gather));
                    prop_assert_eq!((result, count), (Ok(()), 0));
                    scope = flush;
                    for page in pages.clone() {
                        model.remove(&page);
                    }
                    // Of larger leaves that were covered in part, more is gone.
                    model.retain(|page, _| world.page(*page).is_some() || {
                        assert!([pages.start - 1, pages.end].iter().any(|end| end >> 18 == page >> 18), "{page:#x}");
                        false
                    });
                }
            }
            let after = snapshot(&world);
            prop_assert_eq!(&after, &model);
            check_flush(&before, &after, &scope);
            let summary = world.tables.query(&world.frames, range);
            let mapped = model.range(first..first + length);
            prop_assert_eq!(summary.mapped, mapped.clone().count() as u64);
            prop_assert_eq!(summary.dirty, mapped.clone().any(|(_, leaf)| leaf.dirty));
            prop_assert_eq!(summary.allowed_everywhere, mapped.fold(Access::all(), |all, (_, leaf)| all & leaf.access));
        }
        let mut gather = Gather::default();
        for half in [0, 0xffff_8000_0000_0000] {
            let half = world.tables.mmu().range(half, 1 << 47).unwrap();
            world.tables.detach(&world.frames, half, &mut gather).unwrap();
        }
        world.free(&mut gather.tables);
        prop_assert_eq!(world.frames.used_for(FrameUse::Table), 1, "every table came back");
    }

    /// Any numbers at all: an answer or a typed error, and no panic.
    #[test]
    fn no_input_panics(a: u64, b: u64, c: u64, level: usize, frame: u64, software: u8, spare in 0..6_u64) {
        let mut world = World::new();
        world.map(world.range(510, 1030), leaf(510), 1).unwrap();
        let mmu = world.tables.mmu();
        let ranges = [mmu.range(a, b), mmu.range(c, b), mmu.range(a & 0x7fff_ffff_f000, (b & 0xff_f000) + 0x1000)];
        let address = VirtAddr::new(a);
        let mut gather = Gather::default();
        let mut list = world.spare(spare);
        let leaf = Leaf::new(Frame::new(frame)).software(software);
        let World { frames, tables, .. } = &mut world;
        let _ = tables.push_down(frames, address);
        let _ = tables.can_limit_writes(level);
        let _ = FrameRange::new(Frame::new(frame), b);
        for range in ranges.into_iter().flatten().filter(|range| range.size() < 1 << 40) {
            for other in ranges.into_iter().flatten() {
                let _ = tables.tables_to_move(frames, range, other);
                let _ = tables.move_range(frames, range, other, &mut list, &mut gather);
            }
            let _ = tables.find_gap(frames, range, c, level as u32, a);
            let _ = tables.map_in_gap(frames, range, c, leaf, level, &mut list);
            let _ = tables.map_frames(frames, range, [leaf.frame; 3], leaf, &mut list);
            let _ = tables.set_memory_type(frames, range, MemoryType::Device, &mut list, &mut gather);
            let _ = tables.write_protect(frames, range, &mut list, &mut gather);
            let _ = tables.promote(frames, range, level, &mut gather);
            let _ = tables.take_marks(frames, range, Marks::BOTH, &mut gather, |_, _| {});
            if let Ok(mut writer) = tables.writer(frames, range, &mut gather) {
                let _ = (writer.set(leaf), writer.clear(), writer.next());
                while writer.enter(&mut list).is_ok() {
                    let _ = (writer.set(leaf), writer.entries().get(level), writer.next());
                }
            }
            let _ = tables.drop_foreign(frames, range, &mut gather);
            let _ = tables.detach(frames, range, &mut gather);
        }
        world.free(&mut list);
        world.free(&mut gather.tables);
        world.check_counts();
    }
}
