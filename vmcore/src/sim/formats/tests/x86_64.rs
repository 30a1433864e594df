//! x86-64: five levels, protection keys, and what the control registers forbid. Four levels are in the simulated machine's own
//! tests.

use super::*;
use crate::sim::X86_64Registers;

/// Tables for the lowest addresses, of all levels down to one of pages.
fn rig(registers: X86_64Registers) -> (Rig<12>, Frame) {
    let rig = Rig::new(Hardware::X86_64(registers), &[]);
    let mut table = rig.root;
    for _ in 0..if registers.five_levels { 4 } else { 3 } {
        let next = rig.table();
        rig.set(table, 0, entry(next, 12, 0x7));
        table = next;
    }
    (rig, table)
}

#[test]
fn five_levels() {
    let mut registers = X86_64Registers::new(40);
    registers.five_levels = true;
    let (rig, table) = rig(registers);
    let page = rig.page();
    rig.set(table, 0x1ff, entry(page, 12, 0x7));
    assert_eq!(rig.physical(0x1f_f123), Ok(page.number() << 12 | 0x123));
    // The index of the fifth level is bits 56..48.
    rig.set(rig.root, 0x1ff, rig.get(rig.root, 0));
    assert_eq!(rig.physical(0xffff_0000_001f_f000), Ok(page.number() << 12));
    rig.set(rig.root, 0x80, rig.get(rig.root, 0));
    assert_eq!(rig.physical(0x0080_0000_001f_f000), Ok(page.number() << 12));
    for address in [0x0100_0000_0000_0000, 0xfe00_0000_0000_0000] {
        assert_eq!(rig.access(address, READ), Err(FaultKind::NonCanonical), "{address:#x}");
    }
    assert_eq!(rig.access(0xff00_0000_0000_0000, READ), Err(FaultKind::NotPresent));
    rig.set(rig.root, 1, rig.get(rig.root, 0) | 0x80);
    assert_eq!(rig.physical(1 << 48), Err(FaultKind::Reserved), "bit 7 at the top");
    assert!(rig.kinds().is_empty());
}

#[test]
fn protection_keys() {
    let mut registers = X86_64Registers::new(40);
    let (rig, table) = rig(registers);
    let page = rig.page();
    rig.set(table, 1, entry(page, 12, 0x7 | 5 << 59));
    rig.set(table, 2, entry(page, 12, 0x3 | 5 << 59));
    let accesses = [USER_READ, USER_WRITE, USER_FETCH, READ, WRITE];
    assert_eq!(rig.permitted(0x1000, accesses), [true; 5], "without PKE the bits mean nothing");
    registers.protection_keys = true;
    for (key, two, expected) in
        [(5, 2, [true, false, true, true, false]), (5, 1, [false, false, true, false, false]), (4, 3, [true; 5])]
    {
        registers.pkru = two << (2 * key);
        rig.set_hardware(Hardware::X86_64(registers));
        assert_eq!(rig.permitted(0x1000, accesses), expected, "key {key}, {two:#b}");
        assert_eq!(rig.permitted(0x2000, [READ, WRITE]), [true, true], "the kernel's pages have other keys");
    }
    registers.pkru = 2 << 10;
    registers.write_protect = false;
    rig.set_hardware(Hardware::X86_64(registers));
    assert_eq!(rig.permitted(0x1000, accesses), [true, false, true, true, true], "CR0.WP is clear");
    registers.write_protect = true;
    registers.supervisor_keys = true;
    registers.pkrs = 1 << 10;
    rig.set_hardware(Hardware::X86_64(registers));
    assert_eq!(rig.permitted(0x2000, [READ, WRITE, FETCH]), [false, false, true]);
    // The registers are looked at in every access, also through the TLB; a changed key of a live entry is stale.
    registers.pkrs = 0;
    rig.set_hardware(Hardware::X86_64(registers));
    assert!(rig.access(0x2000, READ).is_ok());
    registers.pkrs = 1 << 10;
    rig.set_hardware(Hardware::X86_64(registers));
    assert_eq!(rig.access(0x2000, READ), Err(FaultKind::Permission));
    assert!(rig.access(0x1000, READ).is_ok());
    rig.set(table, 1, entry(page, 12, 0x7 | 6 << 59));
    rig.sim.check_translations();
    assert_eq!(rig.kinds(), [ViolationKind::StaleTranslation]);
}

#[test]
fn what_the_control_registers_forbid() {
    let base = X86_64Registers::new(40);
    let (rig, table) = rig(base);
    let page = rig.page();
    rig.set(table, 1, entry(page, 12, 0x107));
    rig.set(table, 2, entry(page, 12, 0x5));
    let accesses = [READ, WRITE, FETCH, USER_READ, USER_WRITE, USER_FETCH];
    let with = |change: fn(&mut X86_64Registers)| {
        let mut registers = base;
        change(&mut registers);
        rig.set_hardware(Hardware::X86_64(registers));
        rig.permitted(0x1000, accesses)
    };
    assert_eq!(with(|_| {}), [true; 6]);
    assert_eq!(with(|r| r.smep = true), [true, true, false, true, true, true]);
    assert_eq!(with(|r| r.smap = true), [false, false, true, true, true, true]);
    assert_eq!(with(|r| (r.smap, r.access_control) = (true, true)), [true; 6]);
    assert_eq!(rig.permitted(0x2000, [WRITE, USER_WRITE]), [false, false]);
    with(|r| r.write_protect = false);
    assert_eq!(rig.permitted(0x2000, [WRITE, USER_WRITE]), [true, false]);
    assert!(rig.access(0x1000, READ).unwrap().global);
    with(|r| r.global = false);
    rig.forget();
    assert!(!rig.access(0x1000, READ).unwrap().global);
    with(|r| r.no_execute = false);
    rig.set(table, 1, entry(page, 12, 0x7 | 1 << 63));
    assert_eq!(rig.physical(0x1000), Err(FaultKind::Reserved), "bit 63 without NXE");
}
