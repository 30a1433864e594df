//! EPT, the second stage of Intel's virtual machines: four levels.
//!
//! Intel SDM volume 3C, sections 27.2.1 "Basic VM-Exit Information" (the exit qualification of EPT violations, table 27-7), 29.3 "The
//! Extended Page Table Mechanism (EPT)"; appendix C "VMX Basic Exit Reasons". The virtual machine's own tables let everything through and
//! lead its accesses to any address that they can name, which are those of the CPU's physical width.

use vmcore::paging::{Access, Ept};

use super::{GIB, Halves, Marks, Registers, Subject, x86_64::PC};
use crate::{
    bochs::Bochs,
    guest::{Emulator, Machine, Mode},
    probe::{Fault, Raw, Report},
};

/// Bochs' PC, which takes seconds to start with more memory.
static VIRTUAL: Machine = Machine {
    guest: "ept",
    source: include_str!("../../guest/ept.S"),
    emulator: Emulator::Bochs(Bochs { model: "corei7_icelake_u" }),
    memory: &[(0, 2 * GIB)],
    targets: &[(GIB, 2 * GIB)],
    // The ring.
    privileged: Mode(0),
    program_mode: Mode(3),
    // The tables of the virtual machine are in the image.
    runs_under_tables: true,
    // mov eax, number; vmcall
    code: |number| {
        let [a, b, c, d] = number.to_le_bytes();
        vec![0xb8, a, b, c, d, 0x0f, 0x01, 0xc1]
    },
    ..PC
};

/// The width of physical addresses of Bochs' CPUs, and so of what a virtual machine can name.
const PHYSICAL_BITS: u32 = 40;

fn registers(_: Ept, root: u64, _: u64) -> Registers {
    const WRITE_BACK: u64 = 6;
    const FOUR_LEVELS: u64 = 3 << 3;
    const MARKS: u64 = 1 << 6;
    [root | WRITE_BACK | FOUR_LEVELS | MARKS, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn report(raw: &Raw) -> Report {
    const VMCALL: u64 = 18;
    const EPT_VIOLATION: u64 = 48;
    // The address is that of an access, and not of the virtual machine's own tables.
    const FINAL: u64 = 0b11 << 7;
    match (raw.cause, raw.detail) {
        (VMCALL, _) => Report::Done,
        (EPT_VIOLATION, qualification) if qualification & FINAL == FINAL => Report::Fault {
            // What all entries together would allow.
            fault: if qualification & 0b11_1000 != 0 { Fault::Denied(None) } else { Fault::Absent(None) },
            access: match qualification & 0b111 {
                0b001 => Some(Access::READ),
                0b010 => Some(Access::WRITE),
                0b100 => Some(Access::EXECUTE),
                _ => return Report::Unexpected,
            },
            user: None,
            address: Some(raw.address),
        },
        _ => Report::Unexpected,
    }
}

fn subject(name: &'static str, mmu: Ept) -> Subject<Ept> {
    Subject {
        name,
        machine: &VIRTUAL,
        mmu,
        virtual_bits: PHYSICAL_BITS,
        halves: Halves::None,
        registers,
        report,
        reported: super::x86_64::reported,
        translation: None,
        marks: Marks::Hardware,
        root_is_read_once: false,
    }
}

pub(crate) fn four_levels() -> Subject<Ept> {
    subject("EPT", Ept::new(PHYSICAL_BITS))
}

pub(crate) fn execute_only() -> Subject<Ept> {
    subject("EPT, execute-only", Ept::new(PHYSICAL_BITS).execute_only().ignore_guest_pat())
}
