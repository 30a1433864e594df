//! Any numbers and any contents of tables, in every format: an answer or a typed error, an end, and not a word written outside of what is
//! recorded as a table.

use super::formats::{Accesses, in_every_format, page_frames, places, runner};
use super::*;
use crate::addr::FrameRange;
use crate::paging::{
    AArch64, AArch64Stage2, Ept, FlushScope, Granule4K, Granule16K, Granule64K, Half, MairLayout, Marks, PatLayout,
    Recursive, RiscV32, RiscV64, X86, X86Pae,
};
use crate::sim::{Sim, SimFormat, ViolationKind};

/// Every call of an MMU value, with any numbers.
fn ask<M: Mmu>(mmu: M, [a, b, c, d]: [u64; 4]) {
    let (level, leaf) = (a as usize, leaf_of([a, b, c, d]));
    for level in [level, level % 8] {
        let _ = (mmu.level(level), mmu.index_bits(level), mmu.has_leaves(level), mmu.lacks_leaves(level));
        let _ = (mmu.contiguous(level), mmu.leaf_stride(level), mmu.leaf_fits(level, leaf.frame));
        let _ = (mmu.encode_leaf(level, leaf), mmu.encode_contiguous(level, leaf), mmu.encode_table(level, leaf.frame));
        let _ = (mmu.decode(level, b), mmu.decode_at(level, c as usize, b), mmu.decode_table(level, b));
        let _ = (mmu.limits(level, b), mmu.is_contiguous(level, b));
        if let Ok(word) = mmu.encode_leaf(level, leaf) {
            let exact = Leaf { dirty: mmu.is_dirty(word), accessed: leaf.accessed, ..leaf };
            assert_eq!(mmu.decode(level, word), Entry::Leaf(exact), "{mmu:?}: what was encoded is decoded");
        }
        if let Ok(word) = mmu.encode_table(level, leaf.frame) {
            assert!(matches!(mmu.decode(level, word), Entry::Table(frame, _) if frame == leaf.frame), "{mmu:?}");
        }
    }
    if let Ok(word) = mmu.encode_absent(d) {
        assert_eq!(mmu.decode(0, word), Entry::Absent(d), "{mmu:?}");
    }
    let _ = (mmu.memory_code(leaf.memory), mmu.memory_type(b as u32), mmu.encode_access(leaf.access));
    let _ = (
        mmu.frame_fits(leaf.frame),
        mmu.is_present(b),
        mmu.is_dirty(b),
        mmu.leaf_access(b),
        mmu.has_access(leaf.access),
    );
    let _ = (mmu.replace_access(b, c), mmu.with_dirty(b, true, false), mmu.dirty_modifier(), mmu.virtual_bits());
    for (start, size) in [(a, b), (c, d), (a << 12, b << 12), (c << 16, 1 << 16)] {
        if let Ok(range) = mmu.range(start, size) {
            assert_eq!((range.start().as_u64(), range.size()), (start, size));
            assert!(mmu.is_canonical(range.start()) && mmu.is_canonical(range.last()));
            let mut scope = FlushScope::new();
            for tag in 0..(a % 8) as u16 {
                scope.add(Tag(tag), range, b % 2 == 0);
            }
            let mut other = FlushScope::new();
            other.add(Tag(b as u16), range, false);
            if c % 2 == 0 {
                other.add_space(Tag(c as u16));
            }
            scope.merge(&other);
            let concerned = |scope: &FlushScope| {
                scope.is_everything()
                    || scope
                        .entries()
                        .any(|entry| entry.tag == Tag(b as u16) && entry.range.is_none_or(|each| each.covers(range)))
            };
            assert!(concerned(&scope), "{scope:?} lost {range}");
        }
    }
    for slot in [a as usize, (a % 1024) as usize] {
        let Some(recursive) = Recursive::new(mmu, slot) else { continue };
        let window = recursive.window();
        for level in [level, level % 8] {
            let Some(seen) = recursive.entry_address(level, VirtAddr::new(b)) else { continue };
            assert!(window.contains(seen));
            assert!(recursive.entry_at(seen).is_some());
        }
        let _ = recursive.entry_at(VirtAddr::new(c));
    }
}

fn leaf_of([a, b, c, d]: [u64; 4]) -> Leaf {
    let memory = MemoryType::ALL[(a % MemoryType::ALL.len() as u64) as usize];
    let frame = Frame::new(if d % 2 == 0 { b } else { b >> 40 << (d % 20) });
    let leaf = Leaf::new(frame).access(Access::from_bits_truncate(c as u8)).memory(memory);
    let leaf = if c & 0x100 != 0 { leaf.used() } else { leaf };
    let leaf = if c & 0x200 != 0 { leaf.global() } else { leaf };
    leaf.software((c >> 16) as u8 & (d >> 8) as u8).key((c >> 24) as u8 & (d >> 16) as u8)
}

/// Every call of tables, with any numbers. Ranges are as they come where that costs no more than their ends, and short elsewhere.
fn call<M: SimFormat>(tables: &mut Tables<M>, other: &mut Tables<M>, sim: &Sim<M>, near: [u64; 3], numbers: [u64; 4]) {
    let [a, b, c, d] = numbers;
    let (mmu, shift) = (tables.mmu(), M::PAGE_SHIFT);
    let (leaf, level) = (leaf_of(numbers), (a % 7) as usize);
    let leaf = if d % 4 == 0 { Leaf::new(page_frames(mmu).first().add(b % 16)).executable() } else { leaf };
    let (mut list, mut gather) = (FrameList::new(), Gather::default());
    let (spare, gather) = (&mut list, &mut gather);
    let _ = spare.fill_with_tables(sim, c % 9);
    let place = near[(a % 3) as usize];
    let ranges = [
        mmu.range(a, b),
        mmu.range(c & !0xffff, d & !0xffff),
        mmu.range((place + c % 16) << shift, (1 + d % 600) << shift),
        mmu.range((near[(b % 3) as usize] + c % 16) << shift, (1 + d % 600) << shift),
    ];
    let address = VirtAddr::new(if b % 2 == 0 { a } else { (place + c % 600) << shift });
    let _ = (tables.walk(sim, address).end(), tables.translate(sim, address), tables.can_limit_writes(a as usize));
    let _ = tables.walk(sim, address).to_string();
    let _ = tables.push_down(sim, address);
    let _ = tables.set_page(sim, address, leaf, spare, gather);
    for range in ranges.into_iter().flatten() {
        let _ = tables.tables_to_map_at_most(range);
        if range.size() > 1 << (shift + 20) {
            continue;
        }
        let _ =
            (tables.tables_to_map(sim, range, None, 0), tables.tables_to_map(sim, range, Some(leaf.frame), a as usize));
        let _ = (tables.is_clear(sim, range), tables.tables_to_split(sim, range), tables.query(sim, range));
        let _ = tables.runs(sim, range).take(64).count();
        for to in ranges.into_iter().flatten().filter(|to| to.size() <= 1 << (shift + 20)) {
            let _ = tables.tables_to_move(sim, range, to);
            let _ = tables.move_range(sim, range, to, spare, gather);
        }
        let _ = tables.tables_to_duplicate(sim, range, leaf.access, other);
        let _ = tables.duplicate(sim, range, leaf.access, other, spare, |_, _| {});
        let _ = tables.find_gap(sim, range, b, c as u32, d);
        let _ = tables.find_gap(sim, range, 1 << shift, d as u32 % 64, a);
        let _ = tables.map_in_gap(sim, range, (1 + b % 9) << shift, leaf, level, spare);
        let _ = tables.map_frames_in_gap(sim, range, (b % 5) << shift, [leaf.frame; 3], leaf, spare);
        let _ = tables.map(sim, range, leaf, a as usize, spare);
        let _ = tables.map_frames(sim, range, [leaf.frame; 3], leaf, spare);
        let _ = tables.fill(sim, range, spare, |at| (at.as_u64() >> shift & 3 == b & 3).then_some(leaf));
        let _ = tables.set_memory_type(sim, range, leaf.memory, spare, gather);
        let _ = tables.protect(sim, range, leaf.access, spare, gather);
        let _ = tables.write_protect(sim, range, spare, gather);
        let _ = tables.take_marks(sim, range, Marks::BOTH, gather, |_, _| {});
        let _ = tables.promote(sim, range, a as usize, gather);
        if let Ok(mut writer) = tables.writer(sim, range, gather) {
            for step in 0..24 {
                match (d >> step) % 4 {
                    0 => drop(writer.set(leaf)),
                    1 => drop(writer.clear()),
                    2 => drop(writer.enter(spare)),
                    _ if writer.next() => {}
                    _ => drop(writer.leave()),
                }
                let _ = (writer.level(), writer.address(), writer.part(), writer.is_whole(), writer.entry());
                let _ =
                    (writer.entries().len(), writer.entries().word(b as usize), writer.entries().get(c as usize % 8));
            }
        }
        let _ = tables.pin_root_slots(sim, range, spare);
        tables.unpin_root_slots(sim, range, gather);
        let _ = other.share_root_slots(sim, tables, range);
        let _ = tables.drop_foreign(sim, range, gather);
        let _ = tables.unmap(sim, range, spare, gather, |_, _| {});
        let _ = tables.detach(sim, range, gather);
    }
    if let Ok(recursive) = tables.map_self(sim, (b % 1024) as usize) {
        let _ = tables.make_seen(sim, &recursive, VirtAddr::new(c), spare);
        let inside = recursive.window().start().as_u64() + d % recursive.window().size();
        let _ = tables.make_seen(sim, &recursive, VirtAddr::new(inside), spare);
        tables.unmap_self(sim, &recursive, gather);
    }
    // Frames stay what they are recorded as: with contents like these, nobody can say which of them are still linked.
    drop((list, FrameRange::new(leaf.frame, b)));
}

/// A word for a table: anything, a table among the frames of RAM (one that is a table, a page, free, or none), or a leaf.
fn word_of<M: Mmu>(mmu: M, [a, b, c, d]: [u64; 4]) -> u64 {
    let level = (c % 6) as usize;
    let any = match a % 8 {
        0 => return b,
        1..=5 => mmu.encode_table(level.max(1), Frame::new(0x100 + b % 80)),
        _ => mmu.encode_leaf(level, leaf_of([a, b, c | 1, d])),
    };
    any.unwrap_or(b)
}

fn any_contents<M: SimFormat>(mmu: M, words: &[([u64; 4], u64, u64)], numbers: &[[u64; 4]]) {
    const FRAMES: u64 = 72;
    let sim =
        Sim::of(mmu).first_frame(0x100).frames(FRAMES as usize).device(page_frames(mmu)).record_violations().build();
    let made: Vec<_> = (0..12).map(|_| sim.new_table()).collect();
    let pages: Vec<_> = (0..6).map(|_| sim.new_page()).collect();
    let (near, _) = places(mmu);
    for (seed, at, which) in words {
        // Where the places' addresses pass, so that they are met.
        let place = VirtAddr::new((near[(at % 3) as usize] + at / 64 % 300) << M::PAGE_SHIFT);
        let level = (at / 4 % 5) as usize;
        let index = mmu.level(level).map_or(*at, |at| place.as_u64() >> at.shift) & ((1 << mmu.index_bits(level)) - 1);
        let table = made[*which as usize % made.len()];
        let word = word_of(mmu, *seed);
        if mmu.index_bits(0) + 2 == mmu.page_shift() {
            let old = sim.physical_word(table, index as usize / 2).unwrap();
            let keep =
                if index % 2 == 0 { old >> 32 << 32 | word & 0xffff_ffff } else { old & 0xffff_ffff | word << 32 };
            sim.set_physical_word(table, index as usize / 2, keep);
        } else {
            sim.set_physical_word(table, index as usize, word);
        }
    }
    let words_of =
        |frame: Frame| (0..1 << (M::PAGE_SHIFT - 3)).map(|index| sim.physical_word(frame, index)).collect::<Vec<_>>();
    let is_table = |frame: &Frame| sim.frame_meta(*frame).is_some_and(|meta| meta.recorded_use() == FrameUse::Table);
    let all = || (0x100..0x100 + FRAMES).map(Frame::new);
    for numbers in numbers {
        // SAFETY: for the test of just that: whatever the tables hold, only frames recorded as tables are changed.
        let mut tables = unsafe { Tables::new(mmu, made[0], TAG) };
        // SAFETY: as above.
        let mut other = unsafe { Tables::new(mmu, made[1], Tag(8)) };
        let outside: Vec<_> = all()
            .filter(|frame| !is_table(frame) && sim.frame_meta(*frame).is_some())
            .map(|frame| (frame, words_of(frame)))
            .collect();
        call(&mut tables, &mut other, &sim, near, *numbers);
        for (frame, before) in outside.into_iter().filter(|(frame, _)| !is_table(frame)) {
            assert!(words_of(frame) == before, "{mmu:?}: {frame:?} is no table and was written");
        }
    }
    for page in pages {
        // Pages are never anything else.
        assert!(sim.frame_meta(page).is_some_and(|meta| meta.recorded_use() == FrameUse::Page), "{mmu:?}");
    }
    let harmless = [ViolationKind::ReachedWhileFree, ViolationKind::NoSuchFrame];
    for violation in sim.take_violations() {
        assert!(harmless.contains(&violation.kind), "{mmu:?}: {violation:?}");
    }
    // Adopted as they are, or refused; words are only read.
    let before: Vec<_> = all().map(words_of).collect();
    for half in super::formats::halves(mmu) {
        // SAFETY: for the test of just that, and used no more.
        let _ = unsafe { Tables::new(mmu, made[2], TAG).adopt(&sim, half) };
    }
    assert!(all().map(words_of).eq(before), "{mmu:?}: adopting wrote");
}

fn check<M: SimFormat>(mmu: M, _: Accesses) {
    let cases = if M::PAGE_SHIFT == 12 { 24 } else { 8 };
    runner(128)
        .run(&any::<[u64; 4]>(), |numbers| {
            ask(mmu, numbers);
            Ok(())
        })
        .unwrap();
    let words = prop::collection::vec((any::<[u64; 4]>(), any::<u64>(), 0..12_u64), 0..60);
    runner(cases)
        .run(&(words, prop::collection::vec(any::<[u64; 4]>(), 1..4)), |(words, numbers)| {
            any_contents(mmu, &words, &numbers);
            Ok(())
        })
        .unwrap();
}

in_every_format!(super::hostile::check);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Values made from any numbers are as good as any others.
    #[test]
    fn any_widths(numbers: [u64; 4], first: u32, second: u32) {
        let half = if first % 2 == 0 { Half::Lower } else { Half::Upper };
        ask(X86::new(first), numbers);
        ask(X86Pae::new(first), numbers);
        ask(X86_64::new(first), numbers);
        ask(X86_64::new(first).five_levels().without_gigabyte_leaves(), numbers);
        ask(Ept::new(first).execute_only(), numbers);
        ask(Ept::new(first).five_levels().ignore_guest_pat(), numbers);
        ask(RiscV32::new(first), numbers);
        ask(RiscV64::sv39(first), numbers);
        ask(RiscV64::sv48(first).svpbmt(), numbers);
        ask(RiscV64::sv57(first).svnapot(), numbers);
        ask(AArch64::<Granule4K>::new(half, first, second), numbers);
        ask(AArch64::<Granule4K>::new(half, first % 70, second % 70).hardware_dirty(), numbers);
        ask(AArch64::<Granule16K>::new(half, first % 70, second % 70), numbers);
        ask(AArch64::<Granule64K>::new(half, first % 70, second % 70).hardware_dirty(), numbers);
        ask(AArch64Stage2::<Granule4K>::new(first, second), numbers);
        ask(AArch64Stage2::<Granule16K>::new(first % 70, second % 70).hardware_dirty(), numbers);
        ask(AArch64Stage2::<Granule64K>::new(first % 70, second % 70), numbers);
        for mmu in [X86_64::new(first), X86_64::with_pat(second, PatLayout::STANDARD)] {
            prop_assert!((32..=52).contains(&mmu.physical_bits()));
        }
        // A layout is what its register says, or there is none.
        for value in [numbers[0], numbers[0] & 0x0707_0707_0707_0707, 0x0406 | numbers[1] << 16] {
            if let Some(layout) = PatLayout::from_msr(value) {
                prop_assert_eq!(layout.to_msr(), value);
                prop_assert_eq!(PatLayout::new(layout.types()), Some(layout));
                ask(X86_64::with_pat(first, layout), numbers);
            }
            if let Some(layout) = MairLayout::from_register(value) {
                prop_assert_eq!(layout.to_register(), value);
                ask(AArch64::<Granule4K>::bits_48(half, second).with_mair(layout), numbers);
            }
        }
        let types = numbers.map(|number| MemoryType::ALL[(number % MemoryType::ALL.len() as u64) as usize]);
        let types = [types[0], types[1], types[2], types[3], types[3], types[2], types[1], types[0]];
        if let Some(layout) = PatLayout::new(types) {
            prop_assert_eq!(PatLayout::from_msr(layout.to_msr()), Some(layout));
        }
        if let Some(layout) = MairLayout::new(types) {
            prop_assert_eq!(MairLayout::from_register(layout.to_register()), Some(layout));
        }
    }
}
