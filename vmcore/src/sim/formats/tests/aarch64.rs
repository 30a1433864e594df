//! AArch64, stage 1.

use super::*;
use crate::sim::AArch64Registers;
use crate::sim::regime::bits;

const AF: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const INNER: u64 = 3 << 8;
const EL0: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// A page, and a block, of the kernel's data.
const PAGE: u64 = 0x3 | AF | INNER | NOT_GLOBAL;
const BLOCK: u64 = 0x1 | AF | INNER | NOT_GLOBAL;

/// Tables for the lowest addresses, from the root to the lowest.
fn rig<const SHIFT: u32>(registers: AArch64Registers, levels: usize, far: &[u64]) -> (Rig<SHIFT>, Vec<Frame>) {
    let rig = Rig::<SHIFT>::new(Hardware::AArch64(registers), far);
    let mut tables = alloc::vec![rig.root];
    for _ in 1..levels {
        let next = rig.table();
        rig.set(tables[tables.len() - 1], 0, entry(next, SHIFT, 0x3));
        tables.push(next);
    }
    (rig, tables)
}

#[test]
fn pages_of_4_kib() {
    let (rig, tables) = rig::<12>(AArch64Registers::new(12, 48, 40), 4, &[0x20_0000, 0x4000_0000]);
    let page = rig.page();
    rig.set(tables[3], 0x1ff, entry(page, 12, PAGE));
    assert_eq!(rig.physical(0x1f_f123), Ok(page.number() << 12 | 0x123));
    rig.set(tables[2], 1, 0x20_0000 | BLOCK);
    rig.set(tables[1], 1, 0x4000_0000 | BLOCK);
    assert_eq!(rig.physical(0x20_0008), Ok(0x20_0008));
    assert_eq!(rig.physical(0x4000_0000), Ok(0x4000_0000));
    // A block of 512 GiB, and a page whose bit 1 is clear, are reserved: invalid.
    rig.set(tables[0], 1, BLOCK);
    rig.set(tables[3], 1, entry(page, 12, PAGE & !2));
    for address in [1 << 39, 0x1000, 0x2000] {
        assert_eq!(rig.physical(address), Err(FaultKind::NotPresent), "{address:#x}");
    }
    for (table, index, word, address) in [
        (tables[3], 2, entry(page, 12, PAGE) | 1 << 40, 0x2000),
        (tables[3], 2, entry(page, 12, PAGE) | 1 << 48, 0x2000),
        (tables[3], 2, entry(page, 12, PAGE & !INNER | 1 << 8), 0x2000),
        (tables[2], 2, 0x20_0000 | BLOCK | 1 << 16, 0x40_0000),
        (tables[2], 2, 0x20_0000 | BLOCK | 1 << 20, 0x40_0000),
    ] {
        rig.set(table, index, word);
        assert_eq!(rig.physical(address), Err(FaultKind::Reserved), "{word:#x}");
    }
    assert_eq!(rig.access(1 << 48, READ), Err(FaultKind::NonCanonical));
    assert!(rig.kinds().is_empty());
    // 39 bits: three levels; the other half's upper bits are ones.
    let mut registers = AArch64Registers::new(12, 39, 40);
    registers.upper_half = true;
    let (rig, tables) = self::rig::<12>(registers, 3, &[]);
    let page = rig.page();
    rig.set(tables[2], 5, entry(page, 12, PAGE));
    assert_eq!(rig.physical(0xffff_ff80_0000_5000), Ok(page.number() << 12));
    for address in [0x5000, 0xffff_ff00_0000_5000] {
        assert_eq!(rig.access(address, READ), Err(FaultKind::NonCanonical));
    }
}

#[test]
fn pages_of_16_and_64_kib() {
    let (rig, tables) = rig::<14>(AArch64Registers::new(14, 48, 40), 4, &[0x200_0000]);
    let page = rig.page();
    rig.set(tables[3], 0x7ff, entry(page, 14, PAGE));
    assert_eq!(rig.physical(0x1ff_c123), Ok(page.number() << 14 | 0x123));
    rig.set(tables[2], 1, 0x200_0000 | BLOCK);
    assert_eq!(rig.physical(0x200_0000), Ok(0x200_0000));
    rig.set(tables[1], 1, BLOCK);
    assert_eq!(rig.physical(1 << 36), Err(FaultKind::NotPresent), "a block of 64 GiB needs LPA2");
    // The root has two entries: bit 47.
    rig.set(rig.root, 1, rig.get(rig.root, 0));
    assert_eq!(rig.physical(1 << 47 | 0x1ff_c000), Ok(page.number() << 14));
    let bytes = [7; 0x5000];
    rig.set(tables[3], 0, entry(rig.page(), 14, PAGE));
    rig.set(tables[3], 1, entry(rig.page(), 14, PAGE));
    rig.sim.write(0, VirtAddr::new(0x2000), false, &bytes).unwrap();
    assert_eq!(rig.sim.read_u64(0, VirtAddr::new(0x4000), false).unwrap(), 0x0707_0707_0707_0707);
    assert!(rig.kinds().is_empty());

    let (rig, tables) = self::rig::<16>(AArch64Registers::new(16, 48, 40), 3, &[0x2000_0000]);
    let page = rig.page();
    rig.set(tables[2], 0x1fff, entry(page, 16, PAGE));
    assert_eq!(rig.physical(0x1fff_8123), Ok(page.number() << 16 | 0x8123));
    rig.set(tables[1], 1, 0x2000_0000 | BLOCK);
    assert_eq!(rig.physical(0x2000_0000), Ok(0x2000_0000));
    rig.set(tables[2], 1, entry(page, 16, PAGE) | 1 << 12);
    assert_eq!(rig.physical(0x1_0000), Err(FaultKind::Reserved), "bits 15..12 without 52-bit addresses");
    assert!(rig.kinds().is_empty());
}

#[test]
fn addresses_of_52_bits() {
    let high = 0xd_0000_0020_0000;
    let (rig, tables) = rig::<12>(AArch64Registers::new(12, 52, 52), 5, &[high, 1 << 39]);
    let word = |address: u64| address & bits(12, 50) | address >> 50 << 8;
    rig.set(tables[4], 1, word(high) | PAGE & !INNER);
    assert_eq!(rig.physical(0x1000), Ok(high));
    rig.set(tables[3], 1, word(high) | BLOCK & !INNER);
    assert_eq!(rig.physical(0x20_0000), Ok(high));
    rig.set(tables[1], 1, 1 << 39 | BLOCK & !INNER);
    assert_eq!(rig.physical(1 << 39), Ok(1 << 39), "a block of 512 GiB");
    rig.set(rig.root, 0xf, rig.get(rig.root, 0));
    assert_eq!(rig.physical(0xf << 48 | 0x1000), Ok(high), "four index bits at the top");
    assert!(rig.kinds().is_empty());

    let high = 0xd_0000_0200_0000;
    let (rig, tables) = self::rig::<14>(AArch64Registers::new(14, 52, 52), 4, &[high, 1 << 36]);
    rig.set(tables[3], 1, word(high) | PAGE & !INNER);
    assert_eq!(rig.physical(0x4000), Ok(high));
    rig.set(tables[1], 1, 1 << 36 | BLOCK & !INNER);
    assert_eq!(rig.physical(1 << 36), Ok(1 << 36), "a block of 64 GiB");
    assert!(rig.kinds().is_empty());

    let high = 0xd_0000_2000_0000;
    let (rig, tables) = self::rig::<16>(AArch64Registers::new(16, 52, 52), 3, &[high, 1 << 42]);
    let word = |address: u64| address & bits(16, 48) | address >> 48 << 12;
    rig.set(tables[2], 1, word(high) | PAGE);
    assert_eq!(rig.physical(0x1_0000), Ok(high));
    rig.set(tables[1], 1, word(high) | BLOCK);
    assert_eq!(rig.physical(0x2000_0000), Ok(high));
    rig.set(tables[0], 1, 1 << 42 | BLOCK);
    assert_eq!(rig.physical(1 << 42), Ok(1 << 42), "a block of 4 TiB");
    assert!(rig.kinds().is_empty());
}

#[test]
fn who_may_do_what() {
    let base = AArch64Registers::new(12, 39, 40);
    let (rig, tables) = rig::<12>(base, 3, &[]);
    let page = rig.page();
    let accesses = [READ, WRITE, FETCH, USER_READ, USER_WRITE, USER_FETCH];
    let check = |flags: u64, expected, what: &str| {
        rig.set(tables[2], 1, entry(page, 12, PAGE | flags));
        assert_eq!(rig.permitted(0x1000, accesses), expected, "{what}");
    };
    check(0, [true, true, true, false, false, true], "all that is not forbidden");
    check(UXN, [true, true, true, false, false, false], "the kernel's");
    check(READ_ONLY | UXN | PXN, [true, false, false, false, false, false], "constants");
    check(EL0, [true, true, false, true, true, true], "what EL0 writes EL1 does not execute");
    check(EL0 | READ_ONLY, [true, false, true, true, false, true], "unless it is read-only");
    check(EL0 | READ_ONLY | PXN, [true, false, false, true, false, true], "a program's code");
    check(EL0 | UXN | PXN, [true, true, false, true, true, false], "a program's data");
    // Limits in the table above, one by one; and ignored.
    for (limit, expected) in [
        (1 << 61, [true, true, true, false, false, true]),
        (1 << 62, [true, false, true, true, false, true]),
        (1 << 60, [true, true, false, true, true, false]),
        (1 << 59, [true, true, false, true, true, true]),
    ] {
        rig.set(tables[1], 0, entry(tables[2], 12, 0x3 | limit));
        check(EL0, expected, "a limit");
    }
    rig.set(tables[1], 0, entry(tables[2], 12, 0x3 | 0xf << 59));
    check(EL0 | READ_ONLY, [true, false, false, false, false, false], "all limits");
    let with = |change: fn(&mut AArch64Registers)| {
        let mut registers = base;
        change(&mut registers);
        rig.set_hardware(Hardware::AArch64(registers));
    };
    with(|r| r.ignores_limits = true);
    check(EL0 | READ_ONLY, [true, false, true, true, false, true], "limits are ignored");
    rig.set(tables[1], 0, entry(tables[2], 12, 0x3));
    with(|r| r.pan = true);
    check(EL0 | READ_ONLY, [false, false, true, true, false, true], "PAN");
    check(UXN, [true, true, true, false, false, false], "PAN, the kernel's");
    with(|r| r.write_implies_no_execute = true);
    check(0, [true, true, false, false, false, false], "WXN");
    check(READ_ONLY, [true, false, true, false, false, true], "WXN, read-only");
}

#[test]
fn access_flag_and_dirty_state() {
    let mut registers = AArch64Registers::new(12, 39, 40);
    let (rig, tables) = rig::<12>(registers, 3, &[]);
    let page = rig.page();
    rig.set(tables[2], 1, entry(page, 12, PAGE & !AF | READ_ONLY | DBM));
    assert!(rig.access(0x1000, READ).is_ok());
    assert_eq!(rig.get(tables[2], 1) & (AF | READ_ONLY), AF | READ_ONLY);
    assert!(!rig.sim.access(0, VirtAddr::new(0x1000), WRITE).unwrap().from_tlb, "clean: walked again");
    assert_eq!(rig.get(tables[2], 1) & (AF | READ_ONLY), AF, "a store makes it writable: dirty");
    assert_eq!(rig.get(tables[1], 0) & AF, 0, "a table entry is not marked");
    (registers.hardware_access, registers.hardware_dirty) = (false, false);
    rig.set_hardware(Hardware::AArch64(registers));
    rig.set(tables[2], 2, entry(page, 12, PAGE & !AF));
    rig.set(tables[2], 3, entry(page, 12, PAGE | READ_ONLY | DBM));
    assert_eq!(rig.access(0x2000, READ), Err(FaultKind::Unmarked));
    rig.set(tables[2], 2, entry(page, 12, PAGE));
    assert!(rig.access(0x2000, WRITE).is_ok(), "such an entry is never remembered");
    assert_eq!(rig.permitted(0x3000, [READ, WRITE]), [true, false], "DBM without HD");
    assert!(rig.kinds().is_empty());
}

#[test]
fn memory_types_and_globals() {
    let mut registers = AArch64Registers::new(12, 39, 40);
    registers.mair = 0x0000_0000_bb44_00ff;
    let (rig, tables) = rig::<12>(registers, 3, &[]);
    let page = rig.page();
    for (index, memory) in [
        (0, MemoryType::WriteBack),
        (1, MemoryType::Device),
        (2, MemoryType::WriteCombining),
        (3, MemoryType::WriteThrough),
    ] {
        rig.set(tables[2], 1, entry(page, 12, PAGE | index << 2));
        rig.forget();
        let found = rig.access(0x1000, READ).unwrap();
        assert_eq!((found.memory, found.global), (memory, false));
    }
    rig.set(tables[2], 1, entry(page, 12, PAGE & !NOT_GLOBAL));
    rig.forget();
    assert!(rig.access(0x1000, READ).unwrap().global);
}

#[test]
fn contiguous_groups() {
    fn check<const SHIFT: u32>(granule_levels: usize, count: usize) {
        let registers = AArch64Registers::new(SHIFT, if SHIFT == 12 { 39 } else { 48 }, 40);
        let base = 0x4000_0000_u64;
        let far: Vec<u64> = (0..count as u64).map(|page| base + (page << SHIFT)).collect();
        let (rig, tables) = rig::<SHIFT>(registers, granule_levels, &far);
        let lowest = tables[granule_levels - 1];
        for index in 0..count {
            rig.set(lowest, count + index, (base + ((index as u64) << SHIFT)) | PAGE | CONTIGUOUS);
        }
        let first = (count as u64) << SHIFT;
        assert_eq!(rig.physical(first + (3 << SHIFT)), Ok(base + (3 << SHIFT)), "2^{SHIFT}");
        let last = VirtAddr::new(first + ((count as u64 - 1) << SHIFT));
        let found = rig.sim.access(0, last, READ).unwrap();
        assert!(found.from_tlb, "one entry for {count} pages");
        assert_eq!(found.physical.as_u64(), far[count - 1]);
        assert!(rig.kinds().is_empty());
        // A member unmapped on its own is still translated by the group's entry.
        rig.set(lowest, count + 1, 0);
        rig.sim.check_translations();
        assert_eq!(rig.kinds(), [ViolationKind::StaleTranslation]);
        for wrong in [
            base | PAGE | CONTIGUOUS,
            far[1] | PAGE,
            far[1] | PAGE | CONTIGUOUS | READ_ONLY,
            far[1] | PAGE | CONTIGUOUS | 2 << 2,
            far[1] | PAGE & !NOT_GLOBAL | CONTIGUOUS,
        ] {
            rig.set(lowest, count + 1, wrong);
            assert!(rig.physical(first).is_ok());
            assert_eq!(rig.kinds(), [ViolationKind::ContiguousMismatch], "{wrong:#x}");
        }
    }
    check::<12>(3, 16);
    check::<14>(4, 128);
    check::<16>(3, 32);
    // Blocks form groups too.
    let far: Vec<u64> = (0..16).map(|block| 0x4000_0000 + (block << 21)).collect();
    let (rig, tables) = rig::<12>(AArch64Registers::new(12, 39, 40), 3, &far);
    for (index, address) in far.iter().enumerate() {
        rig.set(tables[1], 0x10 + index, address | BLOCK | CONTIGUOUS);
    }
    assert_eq!(rig.physical(0x11 << 21), Ok(far[1]));
    assert!(rig.sim.access(0, VirtAddr::new(0x1f << 21), READ).unwrap().from_tlb);
}

#[test]
fn a_refused_access_is_remembered_until_a_flush() {
    let (rig, tables) = rig::<12>(AArch64Registers::new(12, 39, 40), 3, &[]);
    let page = rig.page();
    rig.set(tables[2], 1, entry(page, 12, PAGE | READ_ONLY));
    assert_eq!(rig.access(0x1000, WRITE), Err(FaultKind::Permission));
    rig.set(tables[2], 1, entry(page, 12, PAGE));
    assert_eq!(rig.access(0x1000, WRITE), Err(FaultKind::Permission));
    rig.flush_pages(0x1000, 1);
    assert!(rig.access(0x1000, WRITE).is_ok());
    // What is invalid is never remembered.
    assert_eq!(rig.access(0x2000, READ), Err(FaultKind::NotPresent));
    rig.set(tables[2], 2, entry(page, 12, PAGE));
    assert!(rig.access(0x2000, READ).is_ok());
    assert!(rig.kinds().is_empty(), "permissions change without break-before-make");
}

#[test]
fn a_live_entry_is_broken_before_it_is_made() {
    let far = [0x20_0000, 0x40_0000];
    let (rig, tables) = rig::<12>(AArch64Registers::new(12, 39, 40), 3, &far);
    let (one, two) = (rig.page(), rig.page());
    type Change<'a> = &'a dyn Fn();
    let replace: [(&str, u64, Change<'_>, Change<'_>); 4] = [
        ("another address", 0x1000, &|| rig.set(tables[2], 1, entry(one, 12, PAGE)), &|| {
            rig.set(tables[2], 1, entry(two, 12, PAGE))
        }),
        ("another type", 0x1000, &|| rig.set(tables[2], 1, entry(one, 12, PAGE)), &|| {
            rig.set(tables[2], 1, entry(one, 12, PAGE | 2 << 2))
        }),
        ("another block", 0x40_0000, &|| rig.set(tables[1], 2, far[0] | BLOCK), &|| {
            rig.set(tables[1], 2, far[1] | BLOCK);
        }),
        ("a block becomes pages of the same frames", 0x20_0000, &|| rig.set(tables[1], 1, far[0] | BLOCK), &|| {
            let table = rig.table();
            rig.set(table, 0, far[0] | PAGE);
            rig.set(tables[1], 1, entry(table, 12, 0x3));
        }),
    ];
    for (what, address, make, change) in replace {
        make();
        rig.forget();
        assert!(rig.access(address, READ).is_ok(), "{what}");
        change();
        rig.flush_pages(address & !0x1f_ffff, 0x200);
        assert_eq!(rig.kinds(), [ViolationKind::BreakBeforeMake], "{what}");
        // The right way: absent, flushed, made.
        make();
        rig.forget();
        assert!(rig.access(address, READ).is_ok(), "{what}");
        let index = (address >> 21) as usize;
        if index == 0 {
            rig.set(tables[2], 1, 0)
        } else {
            rig.set(tables[1], index, 0)
        }
        rig.flush_pages(address & !0x1f_ffff, 0x200);
        change();
        assert!(rig.access(address, READ).is_ok(), "{what}");
        rig.flush_pages(address & !0x1f_ffff, 0x200);
        assert!(rig.kinds().is_empty(), "{what}, the right way");
    }
    // Absent in between, but not flushed.
    rig.set(tables[2], 1, entry(one, 12, PAGE));
    rig.forget();
    assert!(rig.access(0x1000, READ).is_ok());
    rig.set(tables[2], 1, 0);
    rig.set(tables[2], 1, entry(two, 12, PAGE));
    rig.flush_pages(0x1000, 1);
    assert_eq!(rig.kinds(), [ViolationKind::BreakBeforeMake]);
    // A table replaced by another.
    assert!(rig.access(0x1000, READ).is_ok());
    let other = rig.table();
    rig.set(other, 1, entry(two, 12, PAGE));
    rig.set(tables[1], 0, entry(other, 12, 0x3));
    rig.flush_pages(0x1000, 1);
    assert_eq!(rig.kinds(), [ViolationKind::BreakBeforeMake]);
    // A part of an older block is still there when its successor is used.
    rig.set(tables[1], 1, far[0] | BLOCK);
    rig.forget();
    assert!(rig.access(0x20_0000, READ).is_ok());
    rig.set(tables[1], 1, 0);
    rig.flush_pages(0x20_0000, 1);
    rig.set(tables[1], 1, far[1] | BLOCK);
    assert!(rig.access(0x20_0000, READ).is_ok());
    assert_eq!(rig.kinds(), [ViolationKind::BreakBeforeMake]);
}
