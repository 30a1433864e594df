//! RISC-V.

use super::*;
use crate::sim::RiscVRegisters;

const V: u64 = 0x1;
const R: u64 = 0x2;
const W: u64 = 0x4;
const X: u64 = 0x8;
const U: u64 = 0x10;
const G: u64 = 0x20;
const A: u64 = 0x40;
const D: u64 = 0x80;

fn pte(frame: Frame, flags: u64) -> u64 {
    frame.number() << 10 | flags
}

/// Tables for the lowest addresses; gives the lowest of them.
fn rig(registers: RiscVRegisters, far: &[u64]) -> (Rig<12>, Vec<Frame>) {
    let rig = Rig::<12>::new(Hardware::RiscV(registers), far);
    let levels = match registers.virtual_bits {
        32 => 2,
        39 => 3,
        48 => 4,
        _ => 5,
    };
    let mut tables = alloc::vec![rig.root];
    for _ in 1..levels {
        let next = rig.table();
        rig.set(tables[tables.len() - 1], 0, pte(next, V));
        tables.push(next);
    }
    (rig, tables)
}

#[test]
fn every_mode_walks() {
    for (bits, outside) in [(39, 1 << 38), (48, 1 << 47), (57, 1 << 56)] {
        let (rig, tables) = rig(RiscVRegisters::new(bits), &[]);
        let (page, lowest) = (rig.page(), tables[tables.len() - 1]);
        rig.set(lowest, 0x1ff, pte(page, V | R | W));
        assert_eq!(rig.physical(0x1f_f123), Ok(page.number() << 12 | 0x123), "Sv{bits}");
        assert!(rig.access(0x1f_f000, WRITE).is_ok());
        assert_eq!(rig.get(lowest, 0x1ff) & 0xff, V | R | W | A | D);
        assert_eq!(rig.get(rig.root, 0) & 0xff, V, "a table entry is not marked");
        assert_eq!(rig.access(outside, READ), Err(FaultKind::NonCanonical), "Sv{bits}");
        // The highest address.
        rig.set(rig.root, 0x1ff, rig.get(rig.root, 0));
        let top = u64::MAX << (bits - 9) | 0x1f_f000;
        assert_eq!(rig.physical(top), Ok(page.number() << 12), "Sv{bits}");
        assert!(rig.kinds().is_empty());
    }
    let (rig, tables) = rig(RiscVRegisters::new(32), &[0x3_0000_0000]);
    let page = rig.page();
    rig.set_narrow(tables[1], 0x3ff, pte(page, V | R | W));
    assert_eq!(rig.physical(0x3f_f004), Ok(page.number() << 12 | 4));
    assert!(rig.access(0x3f_f000, WRITE).is_ok());
    assert_eq!(rig.get_narrow(tables[1], 0x3ff) & 0xff, V | R | W | A | D);
    // A leaf of 4 MiB above the 32nd bit.
    rig.set_narrow(rig.root, 0x201, 0x3_0000_0000 >> 2 | V | R);
    assert_eq!(rig.physical(0x8040_0000), Ok(0x3_0000_0000));
    assert_eq!(rig.access(1 << 32, READ), Err(FaultKind::NonCanonical));
}

#[test]
fn privileges_and_status() {
    let mut registers = RiscVRegisters::new(39);
    let (rig, tables) = rig(registers, &[]);
    let page = rig.page();
    let accesses = [READ, WRITE, FETCH, USER_READ, USER_WRITE, USER_FETCH];
    let check = |flags, expected, what: &str| {
        rig.set(tables[2], 1, pte(page, V | A | D | flags));
        assert_eq!(rig.permitted(0x1000, accesses), expected, "{what}");
    };
    check(R | W | X, [true, true, true, false, false, false], "the kernel's");
    check(R | X, [true, false, true, false, false, false], "the kernel's, read-only");
    check(X, [false, false, true, false, false, false], "executed only");
    check(R | W | X | U, [false, false, false, true, true, true], "a program's");
    check(X | U, [false, false, false, false, false, true], "a program's, executed only");
    registers.mxr = true;
    rig.set_hardware(Hardware::RiscV(registers));
    check(X | U, [false, false, false, true, false, true], "MXR");
    check(X, [true, false, true, false, false, false], "MXR, the kernel's");
    registers.sum = true;
    rig.set_hardware(Hardware::RiscV(registers));
    check(R | W | X | U, [true, true, false, true, true, true], "SUM");
    check(R | U, [true, false, false, true, false, false], "SUM, read-only");
}

#[test]
fn marks_by_hardware_or_by_software() {
    let mut registers = RiscVRegisters::new(39);
    registers.hardware_marks = false;
    let (rig, tables) = rig(registers, &[]);
    let page = rig.page();
    rig.set(tables[2], 1, pte(page, V | R | W));
    assert_eq!(rig.access(0x1000, READ), Err(FaultKind::Unmarked));
    rig.set(tables[2], 1, pte(page, V | R | W | A));
    assert!(rig.access(0x1000, READ).is_ok());
    assert_eq!(rig.access(0x1000, WRITE), Err(FaultKind::Unmarked));
    assert_eq!(rig.get(tables[2], 1) & 0xff, V | R | W | A, "the hardware marks nothing");
    // What is remembered is clean until it is flushed, whatever the tables say by now.
    rig.set(tables[2], 1, pte(page, V | R | W | A | D));
    let fault = rig.sim.access(0, VirtAddr::new(0x1000), WRITE).unwrap_err();
    assert_eq!((fault.kind, fault.from_tlb, fault.is_present()), (FaultKind::Unmarked, true, true));
    rig.flush_pages(0x1000, 1);
    assert!(rig.access(0x1000, WRITE).is_ok());
}

#[test]
fn memory_types_and_contiguous_pages() {
    let mut registers = RiscVRegisters::new(48);
    let far: Vec<u64> = (0..16).map(|page| 0x12_0000 | page << 12).collect();
    // The machine's own frames lie at 1 MiB and up to 0x13_ffff: these lie elsewhere.
    let far: Vec<u64> = far.into_iter().map(|address| address + 0x100_0000).collect();
    let (rig, tables) = rig(registers, &far);
    let (page, lowest) = (rig.page(), tables[3]);
    for (code, memory) in [(0, MemoryType::WriteBack), (1, MemoryType::WriteCombining), (2, MemoryType::Device)] {
        rig.set(lowest, 1, pte(page, V | R | code << 61));
        rig.forget();
        assert_eq!(rig.access(0x1000, READ).unwrap().memory, memory);
    }
    for flags in [3 << 61, 1 << 54, 1 << 60] {
        rig.set(lowest, 1, pte(page, V | R | flags));
        assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "{flags:#x}");
    }
    // 64 KiB: the frame's lowest bits are 1000 in all sixteen entries.
    let group = 0x112_0000 >> 2 | 0x8 << 10 | 1 << 63;
    for index in 0x10..0x20 {
        rig.set(lowest, index, group | V | R | W);
    }
    assert_eq!(rig.physical(0x1_5123), Ok(0x112_5123));
    assert_eq!(rig.sim.cached_translations(0), 1);
    assert!(rig.sim.access(0, VirtAddr::new(0x1_f000), READ).unwrap().from_tlb, "one entry for all sixteen");
    assert!(rig.kinds().is_empty());
    rig.set(lowest, 0x1e, group | V | R);
    // Any member may be copied for all: one that differs is found out when nothing is left to be flushed.
    assert_eq!(rig.physical(0x1_5000), Ok(0x112_5000));
    assert!(rig.kinds().is_empty());
    rig.sim.check_translations();
    assert_eq!(rig.kinds(), [ViolationKind::StaleTranslation]);
    for low in [0x0, 0x4, 0x9, 0xf] {
        rig.set(lowest, 0x20, 0x112_0000 >> 2 | low << 10 | 1 << 63 | V | R);
        assert_eq!(rig.physical(0x2_0000), Err(FaultKind::Reserved), "low bits {low:#x}");
    }
    (registers.memory_types, registers.contiguous) = (false, false);
    rig.set_hardware(Hardware::RiscV(registers));
    for flags in [1 << 61, 2 << 61, 1 << 63] {
        rig.set(lowest, 1, 0x112_0000 >> 2 | 0x8 << 10 | V | R | flags);
        assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "{flags:#x} without its extension");
    }
}

#[test]
fn reserved_patterns() {
    let (rig, tables) = rig(RiscVRegisters::new(39), &[0x4000_0000]);
    let page = rig.page();
    for flags in [V | W, V | W | X, V, V | U | G] {
        rig.set(tables[2], 1, pte(page, flags));
        assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "{flags:#x} at the lowest level");
    }
    for flags in [A, D, U, 1 << 61, 1 << 63, 1 << 54] {
        rig.set(tables[1], 1, pte(tables[2], V | flags));
        assert_eq!(rig.physical(0x20_0000), Err(FaultKind::Reserved), "{flags:#x} in a table entry");
    }
    rig.set(tables[0], 1, 0x4000_0000 >> 2 | V | R);
    assert_eq!(rig.physical(0x4000_0000), Ok(0x4000_0000));
    for bit in 10..28 {
        rig.set(tables[0], 1, 0x4000_0000 >> 2 | 1 << bit | V | R);
        assert_eq!(rig.physical(0x4000_0000), Err(FaultKind::Reserved), "not aligned, bit {bit}");
    }
    let mut registers = RiscVRegisters::new(39);
    registers.physical_bits = 40;
    rig.set_hardware(Hardware::RiscV(registers));
    rig.set(tables[2], 1, 1 << (40 - 2) | V | R);
    assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "beyond the width");
}

#[test]
fn a_global_table_makes_everything_below_global() {
    let (rig, tables) = rig(RiscVRegisters::new(39), &[]);
    let page = rig.page();
    rig.set(tables[2], 1, pte(page, V | R));
    rig.set(tables[2], 2, pte(page, V | R | G));
    rig.forget();
    assert!(!rig.access(0x1000, READ).unwrap().global && rig.access(0x2000, READ).unwrap().global);
    rig.set(tables[1], 0, pte(tables[2], V | G));
    rig.forget();
    assert!(rig.access(0x1000, READ).unwrap().global);
}

#[test]
fn a_fault_forgets_nothing() {
    let (rig, tables) = rig(RiscVRegisters::new(39), &[]);
    let page = rig.page();
    rig.set(tables[2], 1, pte(page, V | R));
    // Remembered by an access that was refused.
    assert_eq!(rig.access(0x1000, WRITE), Err(FaultKind::Permission));
    rig.set(tables[2], 1, pte(page, V | R | W));
    for _ in 0..3 {
        let fault = rig.sim.access(0, VirtAddr::new(0x1000), WRITE).unwrap_err();
        assert_eq!((fault.kind, fault.from_tlb), (FaultKind::Permission, true));
    }
    rig.flush_pages(0x1000, 1);
    assert!(rig.access(0x1000, WRITE).is_ok());
    assert!(rig.kinds().is_empty(), "more rights are no violation");
}

/// That nothing was there is remembered: of a page until its flush, of a table until a flush that notes tables.
#[test]
fn table_create_flushes_negative() {
    let (rig, tables) = rig(RiscVRegisters::new(39), &[0x4000_0000]);
    let (page, table) = (rig.page(), rig.table());
    for address in [0x1000, 0x20_1000, 0x4000_0000] {
        assert_eq!(rig.access(address, READ), Err(FaultKind::NotPresent));
    }
    rig.sim.check_absences();
    assert!(rig.kinds().is_empty());
    rig.set(tables[2], 1, pte(page, V | R));
    rig.set(table, 1, pte(page, V | R));
    rig.set(tables[1], 1, pte(table, V));
    rig.set(tables[0], 1, 0x4000_0000 >> 2 | V | R);
    rig.sim.check_absences();
    assert_eq!(rig.kinds(), [ViolationKind::StaleAbsence; 3]);
    let fault = rig.sim.access(0, VirtAddr::new(0x1000), READ).unwrap_err();
    assert_eq!((fault.kind, fault.from_tlb), (FaultKind::NotPresent, true));
    // Flushes of the pages: enough for leaves, of whatever size, not for the table.
    for address in [0x1000, 0x20_1000, 0x4000_0000] {
        rig.flush_pages(address, 1);
    }
    assert!(rig.access(0x1000, READ).is_ok() && rig.access(0x4000_0000, READ).is_ok());
    assert_eq!(rig.access(0x20_1000, READ), Err(FaultKind::NotPresent));
    rig.sim.check_absences();
    assert_eq!(rig.kinds(), [ViolationKind::StaleAbsence]);
    rig.flush(|scope| {
        scope.add(Tag(1), Rig::<12>::pages(0x20_1000, 1), false);
        scope.note_tables();
    });
    assert!(rig.access(0x20_1000, READ).is_ok());
    rig.sim.check_absences();
    assert!(rig.kinds().is_empty());
    // Another tag's absences stay; hardware that remembers none has none.
    assert_eq!(rig.access(0x5000, READ), Err(FaultKind::NotPresent));
    rig.set(tables[2], 5, pte(page, V | R));
    rig.flush(|scope| scope.add_space(Tag(2)));
    assert_eq!(rig.access(0x5000, READ), Err(FaultKind::NotPresent));
    rig.flush(|scope| scope.add_space(Tag(1)));
    assert!(rig.access(0x5000, READ).is_ok());
    let mut registers = RiscVRegisters::new(39);
    registers.keeps_absences = false;
    rig.set_hardware(Hardware::RiscV(registers));
    assert_eq!(rig.access(0x6000, READ), Err(FaultKind::NotPresent));
    rig.set(tables[2], 6, pte(page, V | R));
    assert!(rig.access(0x6000, READ).is_ok());
}

#[test]
fn prefetching_a_range_learns_all_of_it() {
    let (rig, tables) = rig(RiscVRegisters::new(39), &[0x4000_0000]);
    let page = rig.page();
    rig.set(tables[2], 3, pte(page, V | R));
    rig.set(tables[2], 0x1ff, pte(page, V | R));
    rig.set(tables[0], 1, 0x4000_0000 >> 2 | V | R);
    rig.sim.prefetch_range(0, Rig::<12>::pages(0, 0x8_0000));
    assert_eq!(rig.sim.cached_translations(0), 3);
    rig.set(tables[2], 3, 0);
    rig.sim.check_translations();
    assert_eq!(rig.kinds(), [ViolationKind::StaleTranslation], "without any access");
}
