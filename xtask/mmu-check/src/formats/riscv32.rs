//! RISC-V, Sv32.
//!
//! RISC-V Privileged Architecture, sections "Supervisor Address Translation and Protection (satp) Register" and "Sv32". Otherwise as in
//! `riscv64`, of which this is the machine with registers of 32 bits.

use vmcore::paging::RiscV32;

use super::{GIB, Halves, Marks, Registers, Subject, riscv64};
use crate::{
    guest::{Emulator, Machine, Mode},
    probe::Fault,
    qemu::Qemu,
};

/// QEMU's `virt`. Memory ends at 4 GiB: of an address that Sv32 leads to, QEMU 7.2 keeps 32 bits, so that what is beyond
/// cannot be tried.
static VIRT: Machine = Machine {
    guest: "riscv32",
    source: include_str!("../../guest/riscv32.S"),
    prefixes: &["riscv64-linux-gnu-", "riscv64-elf-"],
    assembler: &["-march=rv32ima_zicsr", "-mabi=ilp32"],
    linker: &["-m", "elf32lriscv"],
    emulator: Emulator::Qemu(Qemu {
        program: "qemu-system-riscv32",
        options: &["-machine", "virt,memory-backend=ram", "-bios", "none", "-cpu", "rv32"],
        direct: false,
        success: 0,
    }),
    base: 2 * GIB,
    memory: &[(2 * GIB, 2 * GIB)],
    targets: &[(3 * GIB, 4 * GIB)],
    far: &[],
    nowhere: None,
    // MPP of mstatus.
    privileged: Mode(1 << 11),
    program_mode: Mode(0),
    runs_under_tables: false,
    // lui a2, high; addi a2, a2, low; ebreak
    code: |number| {
        let high = number.wrapping_add(0x800) & 0xffff_f000;
        let low = number.wrapping_sub(high) & 0xfff;
        [high | 0x637, low << 20 | 0x60613, 0x0010_0073].into_iter().flat_map(u32::to_le_bytes).collect()
    },
};

fn registers(_: RiscV32, root: u64, _: u64) -> Registers {
    const SV32: u64 = 1 << 31;
    [SV32 | root >> 12, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The width that the format has.
const PHYSICAL_BITS: u32 = 34;

pub(crate) fn sv32() -> Subject<RiscV32> {
    Subject {
        name: "RISC-V, Sv32",
        machine: &VIRT,
        mmu: RiscV32::new(PHYSICAL_BITS),
        virtual_bits: 32,
        halves: Halves::None,
        registers,
        report: riscv64::report,
        reported: |_| Fault::Page,
        translation: None,
        marks: Marks::Hardware,
        root_is_read_once: false,
    }
}
