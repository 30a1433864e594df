//! AArch64, stage 2.

use super::*;
use crate::sim::AArch64Stage2Registers;

const AF: u64 = 1 << 10;
const PAGE: u64 = 0x3 | AF | 3 << 8 | 0xf << 2;
const BLOCK: u64 = PAGE & !2;
const S2_READ: u64 = 1 << 6;
const S2_WRITE: u64 = 1 << 7;
const DBM: u64 = 1 << 51;

fn rig(registers: AArch64Stage2Registers, far: &[u64]) -> (Rig<12>, [Frame; 3]) {
    let rig = Rig::new(Hardware::AArch64Stage2(registers), far);
    let tables = [rig.root, rig.table(), rig.table()];
    for pair in tables.windows(2) {
        rig.set(pair[0], 0, entry(pair[1], 12, 0x3));
    }
    (rig, tables)
}

#[test]
fn permissions_stand_alone() {
    let mut registers = AArch64Stage2Registers::new(12, 39, 40);
    let (rig, tables) = rig(registers, &[0x20_0000]);
    let page = rig.page();
    let accesses = [READ, WRITE, FETCH];
    for (flags, expected) in [
        (0, [false, false, true]),
        (S2_READ, [true, false, true]),
        (S2_WRITE, [false, true, true]),
        (S2_READ | S2_WRITE | 2 << 53, [true, true, false]),
    ] {
        rig.set(tables[2], 1, entry(page, 12, PAGE | flags));
        assert_eq!(rig.permitted(0x1000, accesses), expected, "{flags:#x}");
    }
    // What limits in stage 1 means nothing here.
    rig.set(tables[1], 0, entry(tables[2], 12, 0x3 | 0xf << 59));
    assert_eq!(rig.permitted(0x1000, [READ, WRITE]), [true, true]);
    rig.set(tables[1], 1, 0x20_0000 | BLOCK | S2_READ);
    assert_eq!(rig.physical(0x20_0010), Ok(0x20_0010));
    rig.set(tables[2], 1, entry(page, 12, PAGE | S2_READ | 1 << 53));
    assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "XN[0] without FEAT_XNX");
    registers.execute_by_level = true;
    rig.set_hardware(Hardware::AArch64Stage2(registers));
    for (code, expected) in [(0, [true, true]), (1, [false, true]), (2, [false, false]), (3, [true, false])] {
        rig.set(tables[2], 1, entry(page, 12, PAGE | S2_READ | code << 53));
        assert_eq!(rig.permitted(0x1000, [FETCH, USER_FETCH]), expected, "XN {code:02b}");
    }
    assert_eq!(rig.access(1 << 39, READ), Err(FaultKind::NonCanonical));
    assert!(rig.kinds().is_empty());
}

#[test]
fn types_and_marks() {
    let mut registers = AArch64Stage2Registers::new(12, 39, 40);
    let (rig, tables) = rig(registers, &[]);
    let page = rig.page();
    for (code, memory) in [
        (0x0, MemoryType::Device),
        (0x5, MemoryType::WriteCombining),
        (0xa, MemoryType::WriteThrough),
        (0xf, MemoryType::WriteBack),
    ] {
        rig.set(tables[2], 1, entry(page, 12, PAGE & !0x3c | S2_READ | code << 2));
        rig.forget();
        assert_eq!(rig.access(0x1000, READ).unwrap().memory, memory);
    }
    rig.set(tables[2], 1, entry(page, 12, PAGE & !0x3c | S2_READ | 0x4 << 2));
    assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved));
    rig.set(tables[2], 1, entry(page, 12, PAGE & !AF | S2_READ | DBM));
    assert!(rig.access(0x1000, READ).is_ok() && rig.get(tables[2], 1) & (AF | S2_WRITE) == AF);
    assert!(rig.access(0x1000, WRITE).is_ok() && rig.get(tables[2], 1) & S2_WRITE != 0);
    (registers.hardware_access, registers.hardware_dirty) = (false, false);
    rig.set_hardware(Hardware::AArch64Stage2(registers));
    rig.set(tables[2], 2, entry(page, 12, PAGE & !AF | S2_READ));
    assert_eq!(rig.access(0x2000, READ), Err(FaultKind::Unmarked));
    rig.set(tables[2], 2, entry(page, 12, PAGE | S2_READ | DBM));
    assert_eq!(rig.permitted(0x2000, [READ, WRITE]), [true, false]);
    // A live entry becomes another one.
    let other = rig.page();
    rig.set(tables[2], 2, entry(other, 12, PAGE | S2_READ));
    rig.flush_pages(0x2000, 1);
    assert_eq!(rig.kinds(), [ViolationKind::BreakBeforeMake]);
}

#[test]
fn a_root_of_several_tables() {
    let mut registers = AArch64Stage2Registers::new(12, 40, 40);
    registers.levels = Some(3);
    let sim = Sim::of(Paged::<12>(Hardware::AArch64Stage2(registers))).frames(16).record_violations().build();
    // Two tables side by side: ten index bits.
    let (root, second) = (sim.new_table(), sim.new_table());
    assert_eq!(second, root.add(1));
    sim.load(0, root, Tag(1));
    let rig = Rig::<12> { sim, root };
    let (middle, lowest, page) = (rig.table(), rig.table(), rig.page());
    rig.set(second, 3, entry(middle, 12, 0x3));
    rig.set(middle, 0, entry(lowest, 12, 0x3));
    rig.set(lowest, 0, entry(page, 12, PAGE | S2_READ));
    assert_eq!(rig.physical(1 << 39 | 3 << 30), Ok(page.number() << 12));
    assert_eq!(rig.physical(3 << 30), Err(FaultKind::NotPresent));
    assert!(rig.kinds().is_empty());
}
