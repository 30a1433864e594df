//! x86 with 32-bit entries, and PAE.

use super::*;
use crate::sim::{X86PaeRegisters, X86Registers};

fn two_levels(registers: X86Registers, far: &[u64]) -> Rig<12> {
    Rig::new(Hardware::X86(registers), far)
}

#[test]
fn two_levels_of_32_bit_entries() {
    let rig = two_levels(X86Registers::new(40), &[]);
    let (table, page) = (rig.table(), rig.page());
    // Odd and even indices: two entries share a 64-bit word.
    rig.set_narrow(rig.root, 0x201, entry(table, 12, 0x7));
    rig.set_narrow(table, 0x3ff, entry(page, 12, 0x7));
    rig.set_narrow(table, 0x3fe, entry(page, 12, 0x5));
    let address = 0x201 << 22 | 0x3ff << 12 | 0x123;
    assert_eq!(rig.physical(address), Ok(page.number() << 12 | 0x123));
    assert_eq!((rig.get_narrow(rig.root, 0x201) & 0xff, rig.get_narrow(table, 0x3ff) & 0xff), (0x27, 0x27));
    assert!(rig.access(address, USER_WRITE).is_ok());
    assert_eq!((rig.get_narrow(table, 0x3ff) & 0xff, rig.get_narrow(table, 0x3fe) & 0xff), (0x67, 0x05));
    assert!(rig.access(address, USER_FETCH).is_ok(), "there is no bit that forbids execution");
    assert_eq!(rig.permitted(address - 0x1000, [USER_READ, USER_WRITE, WRITE]), [true, false, false]);
    assert_eq!(rig.access(0x1_0000_0000, READ), Err(FaultKind::NonCanonical));
    assert_eq!(rig.access(0x1000, READ), Err(FaultKind::NotPresent));
    rig.set_narrow(rig.root, 0x201, entry(table, 12, 0x3));
    assert_eq!(rig.permitted(address, [USER_READ, WRITE]), [false, true], "the upper level's U/S");
    assert!(rig.kinds().is_empty());
}

#[test]
fn large_pages_with_40_address_bits() {
    let far = [0x40_0000, 0x1_0000_0000, 0x80_0000_0000];
    let rig = two_levels(X86Registers::new(40), &far);
    rig.set_narrow(rig.root, 1, 0x40_0000 | 0x81);
    assert_eq!(rig.physical(0x40_0abc), Ok(0x40_0abc));
    // Bit 13 is address bit 32, bit 20 is address bit 39; bit 12 belongs to the PAT; bit 21 is reserved.
    rig.set_narrow(rig.root, 2, 1 << 13 | 0x1081);
    assert_eq!(rig.physical(0x80_0000), Ok(0x1_0000_0000));
    rig.set_narrow(rig.root, 2, 1 << 20 | 0x81);
    assert_eq!(rig.physical(0x80_0000), Ok(0x80_0000_0000));
    rig.set_narrow(rig.root, 2, 1 << 21 | 0x81);
    assert_eq!(rig.physical(0x80_0000), Err(FaultKind::Reserved));
    for (bits, position, expected) in
        [(36, 16, Ok(0x8_0000_0000)), (36, 17, Err(FaultKind::Reserved)), (32, 13, Err(FaultKind::Reserved))]
    {
        let rig = two_levels(X86Registers::new(bits), &[0x8_0000_0000]);
        rig.set_narrow(rig.root, 2, 1 << position | 0x81);
        assert_eq!(rig.physical(0x80_0000), expected, "{bits} bits, bit {position}");
    }
    // Without PSE bit 7 means nothing.
    let mut registers = X86Registers::new(32);
    registers.large_pages = false;
    let rig = two_levels(registers, &[]);
    let (table, page) = (rig.table(), rig.page());
    rig.set_narrow(rig.root, 0, entry(table, 12, 0x81));
    rig.set_narrow(table, 0, entry(page, 12, 0x1));
    assert_eq!(rig.physical(0), Ok(page.number() << 12));
}

#[test]
fn settings_of_32_bits() {
    let mut registers = X86Registers::new(32);
    let rig = two_levels(registers, &[]);
    let (table, page) = (rig.table(), rig.page());
    rig.set_narrow(rig.root, 0, entry(table, 12, 0x7));
    rig.set_narrow(table, 1, entry(page, 12, 0x5));
    rig.set_narrow(table, 2, entry(page, 12, 0x3 | 0x100 | 0x10));
    let accesses = [READ, WRITE, FETCH, USER_READ];
    assert_eq!(rig.permitted(0x1000, accesses), [true, false, true, true]);
    registers.write_protect = false;
    rig.set_hardware(Hardware::X86(registers));
    assert_eq!(rig.permitted(0x1000, accesses), [true, true, true, true]);
    (registers.smep, registers.smap) = (true, true);
    rig.set_hardware(Hardware::X86(registers));
    assert_eq!(rig.permitted(0x1000, accesses), [false, false, false, true]);
    registers.access_control = true;
    rig.set_hardware(Hardware::X86(registers));
    assert_eq!(rig.permitted(0x1000, accesses), [true, true, false, true]);
    let found = rig.access(0x2000, READ).unwrap();
    assert_eq!((found.global, found.memory), (true, MemoryType::UncachedMinus));
}

fn pae(registers: X86PaeRegisters) -> Rig<12> {
    Rig::new(Hardware::X86Pae(registers), &[0x20_0000])
}

#[test]
fn pae_has_three_levels_and_no_rights_at_the_top() {
    let rig = pae(X86PaeRegisters::new(36));
    let (directory, table, page) = (rig.table(), rig.table(), rig.page());
    rig.set(rig.root, 3, entry(directory, 12, 0x1));
    rig.set(directory, 0x1ff, entry(table, 12, 0x7));
    rig.set(table, 0x1fe, entry(page, 12, 0x7 | 1 << 63));
    rig.set(directory, 1, 0x20_0000 | 0x1187);
    let address = 0xffff_e000;
    assert_eq!(rig.physical(address + 5), Ok(page.number() << 12 | 5));
    assert_eq!(rig.permitted(address, [USER_WRITE, USER_FETCH, FETCH]), [true, false, false]);
    assert_eq!(rig.get(rig.root, 3) & 0xfff, 0x1, "the top has no accessed bit");
    assert_eq!((rig.get(directory, 0x1ff) & 0xff, rig.get(table, 0x1fe) & 0xff), (0x27, 0x67));
    let large = rig.access(0xc020_0000, USER_READ).unwrap();
    assert_eq!((large.physical.as_u64(), large.global), (0x20_0000, true));
    // Reserved: 13..=20 of a large leaf, all from the width up to bit 62.
    for bit in 13..=20 {
        rig.set(directory, 2, 0x81 | 1 << bit);
        assert_eq!(rig.physical(0xc040_0000), Err(FaultKind::Reserved), "bit {bit}");
    }
    for bit in 36..=62 {
        rig.set(table, 0x1fe, 0x1 | 1 << bit);
        assert_eq!(rig.physical(address), Err(FaultKind::Reserved), "bit {bit}");
    }
    for bit in [1, 2, 5, 6, 7, 8, 36, 63] {
        rig.set(rig.root, 2, entry(directory, 12, 0x1 | 1 << bit));
        assert_eq!(rig.physical(0x8000_0000), Err(FaultKind::Reserved), "bit {bit} of the top");
    }
    let mut registers = X86PaeRegisters::new(36);
    registers.no_execute = false;
    rig.set_hardware(Hardware::X86Pae(registers));
    rig.set(table, 0x1fe, entry(page, 12, 1 << 63 | 0x1));
    assert_eq!(rig.physical(address), Err(FaultKind::Reserved), "bit 63 without NXE");
    assert!(rig.kinds().is_empty());
}

#[test]
fn pae_reads_the_top_once() {
    let rig = pae(X86PaeRegisters::new(40));
    let (directory, table, page) = (rig.table(), rig.table(), rig.page());
    rig.set(directory, 0, entry(table, 12, 0x7));
    rig.set(table, 0, entry(page, 12, 0x7));
    rig.set(rig.root, 1, entry(directory, 12, 0x1));
    assert_eq!(rig.access(0x4000_0000, READ), Err(FaultKind::NotPresent), "absent when CR3 was loaded");
    rig.flush_pages(0x4000_0000, 1);
    assert_eq!(rig.access(0x4000_0000, READ), Err(FaultKind::NotPresent), "a flush of a page loads no CR3");
    rig.flush(|scope| {
        scope.add(Tag(1), Rig::<12>::pages(0x4000_0000, 1), false);
        scope.note_tables();
    });
    assert!(rig.access(0x4000_0000, READ).is_ok());
    // What is taken out of the tables is still in the register.
    rig.set(rig.root, 1, 0);
    rig.sim.unload(0);
    rig.set(rig.root, 1, entry(directory, 12, 0x1));
    rig.sim.load(0, rig.root, Tag(1));
    rig.set(rig.root, 1, 0);
    rig.free(directory, FrameUse::Table);
    let violations = rig.sim.take_violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].kind, ViolationKind::FreedWhileCached);
    assert!(violations[0].sentence.contains("register 1"), "{violations:?}");
}
