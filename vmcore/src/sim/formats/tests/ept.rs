//! Extended page tables.

use super::*;
use crate::sim::EptRegisters;

fn rig(registers: EptRegisters) -> (Rig<12>, [Frame; 3]) {
    let rig = Rig::new(Hardware::Ept(registers), &[0x20_0000]);
    let tables = core::array::from_fn(|_| rig.table());
    let mut above = rig.root;
    for table in tables {
        rig.set(above, 0, entry(table, 12, 0x7));
        above = table;
    }
    (rig, tables)
}

#[test]
fn walks_and_marks() {
    let (rig, [pdpt, pd, pt]) = rig(EptRegisters::new(40));
    let page = rig.page();
    rig.set(pt, 1, entry(page, 12, 0x37));
    assert_eq!(rig.physical(0x1234), Ok(page.number() << 12 | 0x234));
    for (table, index) in [(rig.root, 0), (pdpt, 0), (pd, 0), (pt, 1)] {
        assert_eq!(rig.get(table, index) & 0x300, 0x100);
    }
    assert!(rig.access(0x1000, WRITE).is_ok());
    assert_eq!(rig.get(pt, 1) & 0x300, 0x300);
    rig.set(pd, 1, 0x20_0000 | 0xb7);
    assert_eq!(rig.physical(0x20_0000), Ok(0x20_0000));
    assert_eq!(rig.access(1 << 48, READ), Err(FaultKind::NonCanonical));
    let mut registers = EptRegisters::new(40);
    registers.marks = false;
    rig.set_hardware(Hardware::Ept(registers));
    rig.set(pt, 2, entry(page, 12, 0x37));
    rig.forget();
    assert!(rig.access(0x2000, WRITE).is_ok());
    assert_eq!(rig.get(pt, 2) & 0x300, 0);
    registers.five_levels = true;
    rig.set_hardware(Hardware::Ept(registers));
    let root = rig.table();
    rig.set(root, 0x1ff, entry(rig.root, 12, 0x7));
    rig.sim.load(0, root, Tag(2));
    assert!(rig.access(0x01ff_0000_0000_1000, READ).is_ok());
    assert!(rig.kinds().is_empty());
}

#[test]
fn permissions_combine_and_execution_stands_alone() {
    let (rig, [_, pd, pt]) = rig(EptRegisters::new(40));
    let page = rig.page();
    let accesses = [READ, WRITE, FETCH];
    for (flags, expected) in [
        (0x31, [true, false, false]),
        (0x33, [true, true, false]),
        (0x34, [false, false, true]),
        (0x35, [true, false, true]),
        (0x37, [true, true, true]),
    ] {
        rig.set(pt, 1, entry(page, 12, flags));
        assert_eq!(rig.permitted(0x1000, accesses), expected, "{flags:#x}");
    }
    for (flags, expected) in [(0x1, [true, false, false]), (0x5, [true, false, true]), (0x4, [false, false, true])] {
        rig.set(pd, 0, entry(pt, 12, flags));
        assert_eq!(rig.permitted(0x1000, accesses), expected, "table {flags:#x}");
    }
    rig.set(pd, 0, entry(pt, 12, 0x7));
    let mut registers = EptRegisters::new(40);
    registers.mode_based_execute = true;
    rig.set_hardware(Hardware::Ept(registers));
    rig.set(pt, 1, entry(page, 12, 0x35));
    rig.set(rig.root, 0, rig.get(rig.root, 0) | 0x400);
    assert_eq!(rig.permitted(0x1000, [FETCH, USER_FETCH]), [true, false]);
    registers.execute_only = false;
    registers.mode_based_execute = false;
    rig.set_hardware(Hardware::Ept(registers));
    rig.set(pt, 1, entry(page, 12, 0x34));
    assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved));
}

#[test]
fn misconfigurations_and_types() {
    let (rig, [pdpt, pd, pt]) = rig(EptRegisters::new(40));
    let page = rig.page();
    rig.set(pt, 1, entry(page, 12, 0x30));
    assert_eq!(rig.physical(0x1000), Err(FaultKind::NotPresent));
    for flags in [0x32, 0x36, 0x17, 0x1f, 0x3f, 0x37 | 1 << 40, 0x37 | 1 << 51] {
        rig.set(pt, 1, entry(page, 12, flags));
        assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "{flags:#x}");
    }
    for (code, memory) in [
        (0, MemoryType::Uncached),
        (1, MemoryType::WriteCombining),
        (4, MemoryType::WriteThrough),
        (5, MemoryType::WriteProtected),
        (6, MemoryType::WriteBack),
    ] {
        rig.set(pt, 1, entry(page, 12, 0x7 | code << 3));
        rig.forget();
        assert_eq!(rig.access(0x1000, READ).unwrap().memory, memory);
    }
    for bit in 3..=6 {
        rig.set(pdpt, 1, entry(pd, 12, 0x7 | 1 << bit));
        assert_eq!(rig.physical(1 << 30), Err(FaultKind::Reserved), "bit {bit} of a table");
    }
    rig.set(rig.root, 1, entry(pdpt, 12, 0x87));
    assert_eq!(rig.physical(1 << 39), Err(FaultKind::Reserved));
    for bit in 12..=20 {
        rig.set(pd, 1, 0xb7 | 1 << bit);
        assert_eq!(rig.physical(0x20_0000), Err(FaultKind::Reserved), "bit {bit} of a leaf of 2 MiB");
    }
    for bit in 12..=29 {
        rig.set(pdpt, 1, 0xb7 | 1 << bit);
        assert_eq!(rig.physical(1 << 30), Err(FaultKind::Reserved), "bit {bit} of a leaf of 1 GiB");
    }
}
