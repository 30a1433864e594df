//! x86-64.
//!
//! Intel SDM volume 3A: section 5.7 "Page-Fault Exceptions" (the error code), 7.15 (vectors). SMEP and SMAP are on, so that
//! ring 0 may not use what is ring 3's.

use vmcore::paging::{Access, Mmu as _, PatLayout, X86_64};

use super::{GIB, Halves, Marks, Registers, Subject};
use crate::{
    guest::{Emulator, Machine, Mode},
    probe::{Fault, Raw, Report},
    qemu::Qemu,
};

/// QEMU's PC: memory below and above the hole for devices under 4 GiB.
pub(super) const PC: Machine = Machine {
    guest: "x86_64",
    source: include_str!("../../guest/x86_64.S"),
    prefixes: &["x86_64-linux-gnu-", "x86_64-elf-", if cfg!(target_arch = "x86_64") { "" } else { "x86_64-" }],
    assembler: &["--64"],
    linker: &["-m", "elf_x86_64"],
    emulator: Emulator::Qemu(Qemu {
        program: "qemu-system-x86_64",
        options: &[
            "-machine",
            "pc,memory-backend=ram",
            "-cpu",
            "max",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ],
        // By the PVH note; the firmware that does it uses some memory below 1 MiB and below the hole.
        direct: true,
        // The exit device's status for 0x10.
        success: 33,
    }),
    base: 0,
    memory: &[(0, 3 * GIB), (4 * GIB, 893 * GIB)],
    targets: &[(GIB, 2 * GIB), (4 * GIB, 897 * GIB)],
    far: &[],
    nowhere: None,
    // CS, then SS.
    privileged: Mode(0x10_0008),
    program_mode: Mode(0x1b_0023),
    runs_under_tables: true,
    // mov eax, number; int3
    code: |number| {
        let [a, b, c, d] = number.to_le_bytes();
        vec![0xb8, a, b, c, d, 0xcc]
    },
};
static LONG_MODE: Machine = PC;

// CR4.
pub(super) const PAE: u64 = 1 << 5;
pub(super) const PGE: u64 = 1 << 7;
const LA57: u64 = 1 << 12;
pub(super) const SMEP: u64 = 1 << 20;
pub(super) const SMAP: u64 = 1 << 21;

fn registers(mmu: X86_64, root: u64, _: u64) -> Registers {
    let five = if mmu.levels() == 5 { LA57 } else { 0 };
    [root, PAE | PGE | SMEP | SMAP | five, PatLayout::STANDARD.to_msr(), 0, 0, 0, 0, 0, 0]
}

pub(super) fn report(raw: &Raw) -> Report {
    const BREAKPOINT: u64 = 3;
    const GENERAL_PROTECTION: u64 = 13;
    const PAGE_FAULT: u64 = 14;
    match (raw.cause, raw.detail) {
        (BREAKPOINT, _) => Report::Done,
        (GENERAL_PROTECTION, 0) => {
            Report::Fault { fault: Fault::NonCanonical, access: None, user: None, address: None }
        }
        // Present, write, user and fetch; the bit between them, for reserved bits, and those above mean that something is malformed.
        (PAGE_FAULT, code) if code & !0b1_0111 == 0 => Report::Fault {
            fault: if code & 1 != 0 { Fault::Denied(None) } else { Fault::Absent(None) },
            access: Some(match code & 0b1_0010 {
                0 => Access::READ,
                0b10 => Access::WRITE,
                _ => Access::EXECUTE,
            }),
            user: Some(code & 0b100 != 0),
            address: Some(raw.address),
        },
        _ => Report::Unexpected,
    }
}

pub(super) fn reported(fault: Fault) -> Fault {
    match fault {
        Fault::Absent(_) => Fault::Absent(None),
        Fault::Denied(_) => Fault::Denied(None),
        other => other,
    }
}

fn subject(name: &'static str, mmu: X86_64, virtual_bits: u32) -> Subject<X86_64> {
    Subject {
        name,
        machine: &LONG_MODE,
        mmu,
        virtual_bits,
        halves: Halves::Both,
        registers,
        report,
        reported,
        translation: None,
        marks: Marks::Hardware,
        root_is_read_once: false,
    }
}

/// The width of physical addresses of QEMU's own CPUs.
pub(super) const PHYSICAL_BITS: u32 = 40;

pub(crate) fn four_levels() -> Subject<X86_64> {
    subject("x86-64, 4 levels", X86_64::new(PHYSICAL_BITS), 48)
}

pub(crate) fn five_levels() -> Subject<X86_64> {
    subject("x86-64, 5 levels", X86_64::new(PHYSICAL_BITS).five_levels(), 57)
}
