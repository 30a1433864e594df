//! Bad input in every format: each kind of it is answered by the error that says so, and nothing is changed.

use super::formats::{Accesses, halves, in_every_format, page_frames, pages_per_table, places};
use super::*;
use crate::addr::RangeFault;
use crate::paging::Marks;
use crate::sim::{Sim, SimFormat};

/// Frames of a machine that cannot invalidate within an operation.
struct Still<'a, M: SimFormat>(&'a Sim<M>);

// SAFETY: all is the simulated machine's.
unsafe impl<M: SimFormat> Frames for Still<'_, M> {
    const PAGE_SHIFT: u32 = M::PAGE_SHIFT;
    const INVALIDATES_NOW: bool = false;

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.allocate_frames(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: as the caller vouches.
        unsafe { self.0.free_frames(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.0.frame_pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.frame_meta(frame)
    }
}

fn ranges<M: Mmu>(mmu: M) {
    let page = 1_u64 << mmu.page_shift();
    let fault =
        |start, size, fault| assert_eq!(mmu.range(start, size), Err(RangeError { fault, start, size }), "{mmu:?}");
    let top = 0_u64.wrapping_sub(page);
    for start in [0, page, top, u64::MAX] {
        fault(start, 0, RangeFault::Empty);
    }
    for (start, size) in [(1, page), (0, 1), (page, page + 1), (u64::MAX, page), (page / 2, page)] {
        fault(start, size, RangeFault::Unaligned);
    }
    for (start, size) in [(top, 2 * page), (2 * page, top), (1 << 63, 1 << 63 | page)] {
        fault(start, size, RangeFault::Overflow);
    }
    for half in halves(mmu) {
        // A page more at either end is no address of the format any more, or of the other half.
        let (start, size) = (half.start().as_u64(), half.size());
        if let Some(before) = start.checked_sub(page) {
            fault(before, page, RangeFault::NonCanonical);
            fault(before, size + page, RangeFault::NonCanonical);
        }
        if half.last().as_u64() != u64::MAX {
            fault(half.last().as_u64() + 1, page, RangeFault::NonCanonical);
            fault(start, size + page, RangeFault::NonCanonical);
        }
    }
}

fn encodings<M: Mmu>(mmu: M, accesses: Accesses) {
    let leaf = Leaf::new(Frame::new(0)).access(accesses[0]);
    let levels = mmu.levels();
    let beyond = Frame::new(1 << (mmu.physical_bits() - mmu.page_shift()));
    for level in [levels, levels + 1, usize::MAX] {
        assert_eq!(mmu.encode_leaf(level, leaf), Err(EncodeError::NoLeafAtLevel(level)));
        assert_eq!(mmu.encode_table(level, Frame::new(1)), Err(EncodeError::NoTableAtLevel(level)));
    }
    assert_eq!(mmu.encode_table(0, Frame::new(1)), Err(EncodeError::NoTableAtLevel(0)));
    for level in 0..levels {
        if !mmu.has_leaves(level) {
            assert_eq!(mmu.encode_leaf(level, leaf), Err(EncodeError::NoLeafAtLevel(level)));
            continue;
        }
        assert!(mmu.encode_leaf(level, leaf).is_ok(), "{mmu:?} level {level}");
        for frame in
            [beyond, Frame::new(u64::MAX), Frame::new(1 << 63)].into_iter().chain((level > 0).then_some(Frame::new(1)))
        {
            assert_eq!(
                mmu.encode_leaf(level, Leaf { frame, ..leaf }),
                Err(EncodeError::Frame(frame)),
                "{mmu:?} {level}"
            );
        }
        for memory in MemoryType::ALL {
            let expected = mmu.memory_code(memory).ok_or(EncodeError::MemoryType(memory)).map(|_| ());
            assert_eq!(mmu.encode_leaf(level, leaf.memory(memory)).map(|_| ()), expected);
        }
        for access in (0..=255).filter_map(Access::from_bits) {
            let expected = if sayable::<M>(access) { Ok(()) } else { Err(EncodeError::Access(access)) };
            assert_eq!(mmu.encode_access(access).map(|_| ()), expected, "{mmu:?} {access}");
            assert_eq!(mmu.encode_leaf(level, leaf.access(access)).map(|_| ()), expected, "{mmu:?} {access}");
        }
        assert_eq!(mmu.encode_leaf(level, leaf.software(0xff)), Err(EncodeError::Software(0xff)));
        assert_eq!(mmu.encode_leaf(level, leaf.key(0xff)), Err(EncodeError::Key(0xff)));
        let nested = !accesses[0].contains(Access::USER);
        let global = mmu.encode_leaf(level, leaf.global()).map(|_| ());
        assert_eq!(global, if nested { Err(EncodeError::Global) } else { Ok(()) });
        if mmu.contiguous(level).is_none() {
            assert_eq!(mmu.encode_contiguous(level, leaf), Err(EncodeError::Contiguous(level)));
        }
    }
    for level in 1..levels {
        for frame in [beyond, Frame::new(u64::MAX)] {
            assert_eq!(mmu.encode_table(level, frame), Err(EncodeError::Frame(frame)));
        }
    }
    assert_eq!(mmu.encode_absent(u64::MAX), Err(EncodeError::Payload(u64::MAX)));
}

/// Whether the manual has a leaf with this access.
fn sayable<M: Mmu>(access: Access) -> bool {
    let has = |flag| access.contains(flag);
    let (read, write, execute, user) = (has(Access::READ), has(Access::WRITE), has(Access::EXECUTE), has(Access::USER));
    let name = core::any::type_name::<M>();
    if name.contains("Ept") {
        // Execute-only is optional, and was not asked for.
        read && !user
    } else if name.contains("Stage2") {
        // S2AP has all four, none of them included, and XN is apart (Arm ARM, "Stage 2 data accesses permissions").
        !user
    } else if name.contains("RiscV") {
        // Writing without reading is reserved, and none of the three leads to a table.
        read || execute && !write
    } else if name.ends_with("X86") {
        // There is no bit against executing.
        read && execute
    } else {
        read
    }
}

fn tables<M: SimFormat + 'static>(mmu: M, accesses: Accesses) {
    let sim = Sim::of(mmu).frames(64).device(page_frames(mmu)).build();
    let root = sim.new_table();
    // SAFETY: a fresh, zeroed table.
    let mut tables = unsafe { Tables::new(mmu, root, TAG) };
    let (places, length) = places(mmu);
    let each = pages_per_table(mmu);
    let shift = M::PAGE_SHIFT;
    let range = |first: u64, count: u64| mmu.range(first << shift, count << shift).unwrap();
    let (mut spare, mut gather) = (FrameList::new(), Gather::default());
    spare.fill_with_tables(&sim, 24).unwrap();
    let good = Leaf::new(page_frames(mmu).first()).access(accesses[0]);
    let large = places[0].next_multiple_of(each);
    tables.map(&sim, range(large, each), good, 1, &mut spare).unwrap();
    tables.map(&sim, range(places[0], 2), good, 0, &mut spare).unwrap();
    let count = spare.len();
    let runs = |tables: &Tables<M>| tables.runs(&sim, range(places[0], length)).collect::<Vec<_>>();
    let before = runs(&tables);

    let free = range(places[2], 4);
    let beyond = Frame::new(1 << (mmu.physical_bits() - shift));
    let mut bad = Vec::from([
        (Leaf { frame: beyond, ..good }, EncodeError::Frame(beyond)),
        (Leaf { frame: Frame::new(u64::MAX), ..good }, EncodeError::Frame(Frame::new(u64::MAX))),
        (good.software(0xff), EncodeError::Software(0xff)),
        (good.key(0xff), EncodeError::Key(0xff)),
        (good.access(Access::WRITE), EncodeError::Access(Access::WRITE)),
    ]);
    if sayable::<M>(Access::WRITE) {
        bad.pop();
    }
    bad.extend(
        MemoryType::ALL
            .into_iter()
            .filter(|memory| mmu.memory_code(*memory).is_none())
            .map(|memory| (good.memory(memory), EncodeError::MemoryType(memory))),
    );
    for (leaf, error) in bad {
        let error = Err(TableError::Encode(error));
        assert_eq!(tables.map(&sim, free, leaf, 2, &mut spare), error);
        assert_eq!(tables.map_frames(&sim, free, [leaf.frame; 4], leaf, &mut spare), error);
        assert_eq!(tables.set_page(&sim, free.start(), leaf, &mut spare, &mut gather).map(|_| ()), error);
        assert_eq!(tables.map_in_gap(&sim, free, 1 << shift, leaf, 1, &mut spare).map(|_| ()), error);
        assert_eq!(tables.map_frames_in_gap(&sim, free, 1 << shift, [leaf.frame], leaf, &mut spare).map(|_| ()), error);
        assert_eq!(tables.fill(&sim, free, &mut spare, |_| Some(leaf)), error);
        let mut writer = tables.writer(&sim, range(places[0], 1), &mut gather).unwrap();
        while writer.level() > 0 {
            writer.enter(&mut spare).unwrap();
        }
        assert_eq!(writer.set(leaf).map(|_| ()), error);
    }
    for memory in MemoryType::ALL.into_iter().filter(|memory| mmu.memory_code(*memory).is_none()) {
        let error = Err(TableError::Encode(EncodeError::MemoryType(memory)));
        assert_eq!(tables.set_memory_type(&sim, free, memory, &mut spare, &mut gather), error);
    }
    for access in (0..=255).filter_map(Access::from_bits).filter(|access| !sayable::<M>(*access)) {
        let error = Err(TableError::Encode(EncodeError::Access(access)));
        assert_eq!(tables.protect(&sim, range(places[0], 1), access, &mut spare, &mut gather), error);
    }

    // Lone addresses that are no page's, and sizes that are no pages'.
    let outside = (0..64)
        .map(|bit| 1_u64 << bit)
        .find(|address| address >> shift != 0 && !mmu.is_canonical(VirtAddr::new(*address)));
    for (address, fault) in [(places[0] << shift | 1, RangeFault::Unaligned), (u64::MAX, RangeFault::Unaligned)]
        .into_iter()
        .chain(outside.map(|address| (address, RangeFault::NonCanonical)))
    {
        let error = Err(TableError::Address(RangeError { fault, start: address, size: 1 << shift }));
        let address = VirtAddr::new(address);
        assert_eq!(tables.set_page(&sim, address, good, &mut spare, &mut gather).map(|_| ()), error);
        assert_eq!(tables.push_down(&sim, address).map(|_| ()), error);
    }
    let limits = range(places[2], 64);
    for size in [0, 1, (2 << shift) - 1] {
        let error = tables.find_gap(&sim, limits, size, 0, 0);
        assert!(
            matches!(error, Err(TableError::Address(RangeError { size: at_fault, .. })) if at_fault == size),
            "{error:?}"
        );
    }
    for size in [65 << shift, u64::MAX, u64::MAX << shift] {
        assert_eq!(tables.find_gap(&sim, limits, size, 0, 0), Err(TableError::NoGap(size)));
    }

    // What is mapped, overlaps, or runs dry.
    let (page, conflict) = (range(large + 5, 1), |first: u64| Err(TableError::Conflict(VirtAddr::new(first << shift))));
    assert_eq!(tables.map(&sim, range(places[0], 1), good, 0, &mut spare), conflict(places[0]));
    assert_eq!(
        tables.map_frames(&sim, range(places[0] + 1, 9), [good.frame; 9], good, &mut spare),
        conflict(places[0] + 1)
    );
    assert_eq!(tables.set_page(&sim, page.start(), good, &mut spare, &mut gather).map(|_| ()), conflict(large + 5));
    let (from, to) = (range(places[0], 2), range(places[0] + 1, 2));
    assert_eq!(tables.move_range(&sim, from, to, &mut spare, &mut gather), Err(TableError::Overlap(to)));
    let longer = range(places[2], 3);
    assert_eq!(tables.move_range(&sim, from, longer, &mut spare, &mut gather), Err(TableError::Overlap(longer)));
    let taken = tables.move_range(&sim, range(places[2], 1), range(places[0], 1), &mut spare, &mut gather);
    assert_eq!(taken, conflict(places[0]));
    let few = tables.map_frames(&sim, free, [good.frame; 3], good, &mut spare);
    assert_eq!(few, Err(TableError::TooFewFrames(VirtAddr::new((places[2] + 3) << shift))));

    // Entries that are live, where nobody can make every CPU forget them at once.
    let still = Still(&sim);
    let demanded =
        |result: Result<(), TableError>| assert!(matches!(result, Err(TableError::NeedsInvalidation(_))), "{result:?}");
    if M::FORMAT.break_before_make {
        demanded(tables.unmap(&still, page, &mut spare, &mut gather, |_, _| {}));
        demanded(tables.protect(&still, page, accesses[1], &mut spare, &mut gather));
        demanded(tables.write_protect(&still, page, &mut spare, &mut gather).map(|_| ()));
        demanded(tables.set_memory_type(&still, page, MemoryType::WriteCombining, &mut spare, &mut gather));
        demanded(tables.move_range(&still, page, range(places[2], 1), &mut spare, &mut gather));
        demanded(tables.promote(&still, range(large, each), 1, &mut gather).map(|_| ()));
        let other = Leaf { frame: good.frame.add(9), ..good };
        demanded(
            tables.set_page(&still, VirtAddr::new(places[0] << shift), other, &mut spare, &mut gather).map(|_| ()),
        );
    }

    // Tables that are somebody else's.
    let frame = tables.walk(&sim, VirtAddr::new(places[0] << shift)).steps().last().unwrap().table;
    let live = sim.frame_meta(frame).unwrap().live_entries();
    sim.frame_meta(frame).unwrap().change_live(-(live as i32));
    sim.frame_meta(frame).unwrap().end(frame, FrameUse::Table).unwrap();
    let there = range(places[0], 2);
    let foreign = Err(TableError::Foreign(there.start()));
    assert_eq!(tables.map(&sim, there, good, 0, &mut spare), foreign);
    assert_eq!(tables.map_frames(&sim, there, [good.frame; 2], good, &mut spare), foreign);
    assert_eq!(tables.fill(&sim, there, &mut spare, |_| None), foreign);
    assert_eq!(tables.unmap(&sim, there, &mut spare, &mut gather, |_, _| {}), foreign);
    assert_eq!(tables.protect(&sim, there, accesses[1], &mut spare, &mut gather), foreign);
    assert_eq!(tables.set_memory_type(&sim, there, MemoryType::WriteBack, &mut spare, &mut gather), foreign);
    assert_eq!(tables.take_marks(&sim, there, Marks::BOTH, &mut gather, |_, _| {}), foreign);
    assert_eq!(tables.write_protect(&sim, there, &mut spare, &mut gather).map(|_| ()), foreign);
    assert_eq!(tables.promote(&sim, there, 1, &mut gather).map(|_| ()), foreign);
    assert_eq!(tables.detach(&sim, there, &mut gather), foreign);
    assert_eq!(tables.set_page(&sim, there.start(), good, &mut spare, &mut gather).map(|_| ()), foreign);
    assert_eq!(tables.move_range(&sim, there, range(places[2], 2), &mut spare, &mut gather), foreign);

    assert!(gather.scope.is_empty() && gather.tables.is_empty() && spare.len() == count, "{mmu:?}");
    assert_eq!(runs(&tables), before, "{mmu:?}: something was changed");
    sim.assert_no_violation();
}

fn check<M: SimFormat + 'static>(mmu: M, accesses: Accesses) {
    ranges(mmu);
    encodings(mmu, accesses);
    tables(mmu, accesses);
}

in_every_format!(super::refusals::check);
