//! x86 in protected mode: two levels with PSE-36, and PAE.
//!
//! Intel SDM volume 3A, sections 5.3 and 5.4; faults as in `x86_64`. The CPU is the same, in another mode.

use vmcore::paging::{PatLayout, X86, X86Pae};

use super::{
    GIB, Halves, Marks, Registers, Subject,
    x86_64::{self, PAE, PC, PGE, PHYSICAL_BITS, SMAP, SMEP},
};
use crate::guest::Machine;

static WITH_PAE: Machine = Machine {
    guest: "x86_32",
    source: include_str!("../../guest/x86_32.S"),
    assembler: &["--32"],
    linker: &["-m", "elf_i386"],
    ..PC
};
/// Memory above 4 GiB is for pages of 4 MiB.
static WITHOUT_PAE: Machine = Machine { targets: &[(GIB, 2 * GIB)], far: &[(4 * GIB, 897 * GIB)], ..WITH_PAE };

/// CR4.
const PSE: u64 = 1 << 4;
/// IA32_EFER.
const NXE: u64 = 1 << 11;

fn registers(root: u64, paging: u64, extended: u64) -> Registers {
    [root, paging | PGE | SMEP | SMAP, PatLayout::STANDARD.to_msr(), extended, 0, 0, 0, 0, 0]
}

pub(crate) fn two_levels() -> Subject<X86> {
    Subject {
        name: "x86, 32-bit",
        machine: &WITHOUT_PAE,
        mmu: X86::new(PHYSICAL_BITS),
        virtual_bits: 32,
        halves: Halves::None,
        registers: |_, root, _| registers(root, PSE, 0),
        report: x86_64::report,
        reported: x86_64::reported,
        translation: None,
        marks: Marks::Hardware,
        root_is_read_once: false,
    }
}

pub(crate) fn pae() -> Subject<X86Pae> {
    Subject {
        name: "x86, PAE",
        machine: &WITH_PAE,
        mmu: X86Pae::new(PHYSICAL_BITS),
        virtual_bits: 32,
        halves: Halves::None,
        registers: |_, root, _| registers(root, PAE, NXE),
        report: x86_64::report,
        reported: x86_64::reported,
        translation: None,
        marks: Marks::Hardware,
        root_is_read_once: true,
    }
}
