//! RISC-V, Sv39, Sv48 and Sv57, with Svpbmt and Svnapot.
//!
//! RISC-V Privileged Architecture, "Supervisor Address Translation and Protection (satp) Register", "Machine Cause Register". Faults of
//! all reasons read alike. SUM and MXR are clear, so that S mode may not use what is U mode's.

use vmcore::paging::{Access, Mmu as _, RiscV64};

use super::{GIB, Halves, Marks, Registers, Subject};
use crate::{
    guest::{Emulator, Machine, Mode},
    probe::{Fault, Raw, Report},
    qemu::Qemu,
};

/// QEMU's `virt`.
static VIRT: Machine = Machine {
    guest: "riscv64",
    source: include_str!("../../guest/riscv64.S"),
    prefixes: &["riscv64-linux-gnu-", "riscv64-elf-"],
    assembler: &["-march=rv64ima_zicsr"],
    linker: &["-m", "elf64lriscv"],
    emulator: Emulator::Qemu(Qemu {
        program: "qemu-system-riscv64",
        options: &["-machine", "virt,memory-backend=ram", "-bios", "none", "-cpu", "rv64,svpbmt=on,svnapot=on"],
        direct: false,
        success: 0,
    }),
    base: 2 * GIB,
    memory: &[(2 * GIB, 4096 * GIB)],
    targets: &[(3 * GIB, 4098 * GIB)],
    far: &[],
    nowhere: None,
    // MPP of mstatus.
    privileged: Mode(1 << 11),
    program_mode: Mode(0),
    runs_under_tables: false,
    // lui a0, high; addiw a0, a0, low; ebreak
    code: |number| {
        let high = number.wrapping_add(0x800) & 0xffff_f000;
        let low = number.wrapping_sub(high) & 0xfff;
        [high | 0x537, low << 20 | 0x5051b, 0x0010_0073].into_iter().flat_map(u32::to_le_bytes).collect()
    },
};

fn registers(mmu: RiscV64, root: u64, _: u64) -> Registers {
    // Sv39 is mode 8, and so on by levels.
    let mode = mmu.levels() as u64 + 5;
    const PBMTE: u64 = 1 << 62;
    [mode << 60 | root >> 12, PBMTE, 0, 0, 0, 0, 0, 0, 0]
}

pub(super) fn report(raw: &Raw) -> Report {
    const BREAKPOINT: u64 = 3;
    let access = match raw.cause {
        BREAKPOINT => return Report::Done,
        12 => Access::EXECUTE,
        13 => Access::READ,
        15 => Access::WRITE,
        _ => return Report::Unexpected,
    };
    Report::Fault { fault: Fault::Page, access: Some(access), user: None, address: Some(raw.address) }
}

/// The width that the format has.
const PHYSICAL_BITS: u32 = 56;

fn subject(name: &'static str, mmu: RiscV64, virtual_bits: u32) -> Subject<RiscV64> {
    Subject {
        name,
        machine: &VIRT,
        mmu: mmu.svpbmt().svnapot(),
        virtual_bits,
        halves: Halves::Both,
        registers,
        report,
        reported: |_| Fault::Page,
        translation: None,
        marks: Marks::Hardware,
        root_is_read_once: false,
    }
}

pub(crate) fn sv39() -> Subject<RiscV64> {
    subject("RISC-V, Sv39", RiscV64::sv39(PHYSICAL_BITS), 39)
}

pub(crate) fn sv48() -> Subject<RiscV64> {
    subject("RISC-V, Sv48", RiscV64::sv48(PHYSICAL_BITS), 48)
}

pub(crate) fn sv57() -> Subject<RiscV64> {
    subject("RISC-V, Sv57", RiscV64::sv57(PHYSICAL_BITS), 57)
}
