//! AArch64: stage 1 of EL1 and EL0 with each granule, both halves, up to 52 bits; and stage 2.
//!
//! Arm Architecture Reference Manual (DDI 0487): TCR_EL1, SCTLR_EL1, ESR_EL1 ("ISS encoding for an exception from a Data Abort",
//! "... an Instruction Abort"). PSTATE.PAN is set at EL1, so that it may not use what is EL0's. QEMU 7.2 has no FEAT_HAFDBS: an entry
//! that is not marked as accessed faults. Stage 2 is tried with stage 1 off: VTCR_EL2, HCR_EL2. With 16 KiB it has three levels here: QEMU 7.2
//! refuses the fourth, which FEAT_LPA2 allows.

use vmcore::paging::{AArch64, AArch64Stage2, Access, Granule, Half, MemoryType, Mmu as _};

use super::{GIB, Halves, Marks, Registers, Subject, Translation};
use crate::{
    guest::{Emulator, Machine, Mode},
    probe::{Fault, Raw, Report},
    qemu::Qemu,
};

/// QEMU's `virt`, begun at EL2.
static VIRT: Machine = Machine {
    guest: "aarch64",
    source: include_str!("../../guest/aarch64.S"),
    prefixes: &["aarch64-linux-gnu-", "aarch64-elf-"],
    assembler: &[],
    linker: &[],
    emulator: Emulator::Qemu(Qemu {
        program: "qemu-system-aarch64",
        options: &["-machine", "virt,virtualization=on,gic-version=3,memory-backend=ram", "-cpu", "max"],
        direct: false,
        success: 0,
    }),
    base: GIB,
    memory: &[(GIB, 4096 * GIB)],
    targets: &[(2 * GIB, 4097 * GIB)],
    far: &[],
    nowhere: Some(1 << 43),
    // SPSR: EL1h with PAN and EL0t, interrupts masked.
    privileged: Mode(0x40_03c5),
    program_mode: Mode(0x3c0),
    runs_under_tables: false,
    // movz x0, low; movk x0, high, lsl 16; brk 0
    code: |number| {
        [0xd280_0000 | (number & 0xffff) << 5, 0xf2a0_0000 | number >> 16 << 5, 0xd420_0000]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect()
    },
};

/// The bits of SCTLR_EL1 that are one, then I and C.
const SYSTEM: u64 = 0x30d0_0800 | 1 << 12 | 1 << 2;
const SYSTEM_MMU: u64 = 1;
/// HCR_EL2: EL1 runs AArch64.
const HYPERVISOR_RW: u64 = 1 << 31;
/// HCR_EL2: stage 2 is on.
const HYPERVISOR_VM: u64 = 1;

fn registers<G: Granule>(mmu: AArch64<G>, root: u64, page: u64) -> Registers {
    let (size, shift) = (64 - u64::from(mmu.virtual_bits()), mmu.page_shift());
    // Inner shareable, cached; walks of the other half are disabled.
    let half = match mmu.half() {
        Half::Lower => {
            let granule = if shift == 12 {
                0
            } else if shift == 14 {
                2
            } else {
                1
            };
            size | granule << 14 | 0x3500 | 1 << 23 | 16 << 16 | 2 << 30
        }
        Half::Upper => {
            let granule = if shift == 12 {
                2
            } else if shift == 14 {
                1
            } else {
                3
            };
            (size | 0x3500) << 16 | granule << 30 | 1 << 7 | 16
        }
    };
    let (physical, lpa2) = if mmu.physical_bits() > 48 { (6, u64::from(shift < 16)) } else { (5, 0) };
    let control = half | physical << 32 | lpa2 << 59;
    // With more than 48 bits, the highest of the root are at 5..2.
    let base = root & ((1 << 48) - 1) | root >> 48 << 2;
    let (lower, upper) = if mmu.half() == Half::Lower { (base, 0) } else { (0, base) };
    [lower, control, mmu.mair().to_register(), SYSTEM | SYSTEM_MMU, page, HYPERVISOR_RW, 0, 0, upper]
}

fn stage2_registers<G: Granule>(mmu: AArch64Stage2<G>, root: u64, page: u64) -> Registers {
    let (size, levels) = (64 - u64::from(mmu.virtual_bits()), mmu.levels() as u64);
    // TG0, and SL0: where the walk begins, counted from below; a fifth level is in SL2.
    let (granule, begin) = match (mmu.page_shift(), levels) {
        (12, 5) => (0, 1 << 27),
        (12, _) => (0, levels - 2),
        (14, _) => (2, levels - 1),
        _ => (1, levels - 1),
    };
    // PS, and DS.
    let (physical, lpa2) = if mmu.physical_bits() > 48 { (6, u64::from(mmu.page_shift() < 16)) } else { (5, 0) };
    let control = 1 << 31 | physical << 16 | granule << 14 | 0x3500 | begin << 6 | lpa2 << 32 | size;
    [0, 0, 0, SYSTEM, page, HYPERVISOR_RW | HYPERVISOR_VM, root, control, 0]
}

/// Faults of stage 2 read alike from both modes. An address with more bits than any machine has is stage 1's to refuse, also when it is off.
fn stage2_report(raw: &Raw) -> Report {
    match report(raw) {
        Report::Fault { fault, access, address, .. } => Report::Fault { fault, access, user: None, address },
        Report::Unexpected if matches!(raw.cause >> 26 & 0x3f, 0x20 | 0x21 | 0x24 | 0x25) && raw.cause & 0x3f == 0 => {
            Report::Fault { fault: reported(Fault::NonCanonical), access: None, user: None, address: Some(raw.address) }
        }
        other => other,
    }
}

fn report(raw: &Raw) -> Report {
    let (class, syndrome) = (raw.cause >> 26 & 0x3f, raw.cause & 0x1ff_ffff);
    let access = match class {
        0x3c => return Report::Done,
        0x20 | 0x21 => Access::EXECUTE,
        0x24 | 0x25 if syndrome & 1 << 6 != 0 => Access::WRITE,
        0x24 | 0x25 => Access::READ,
        _ => return Report::Unexpected,
    };
    // Arm counts levels down to 3.
    let level = Some(3 - (syndrome & 3) as usize);
    let fault = match syndrome & 0x3f {
        // A synchronous external abort, for whom there is no memory.
        0b01_0000 => return Report::Nowhere,
        0b10_1011 => Fault::Absent(Some(4)),
        0b00_0100..=0b00_0111 => Fault::Absent(level),
        0b00_1000..=0b00_1011 => Fault::NotMarked(level),
        0b00_1100..=0b00_1111 => Fault::Denied(level),
        _ => return Report::Unexpected,
    };
    Report::Fault { fault, access: Some(access), user: Some(class & 1 == 0), address: Some(raw.address) }
}

/// What PAR_EL1 says after `AT S1E1R`: the page, and the attribute of MAIR_EL1.
fn translation(raw: &Raw) -> Option<Translation> {
    let memory = match raw.detail >> 56 {
        0xff => MemoryType::WriteBack,
        0xbb => MemoryType::WriteThrough,
        0x44 => MemoryType::WriteCombining,
        0x00 => MemoryType::Device,
        0x04 => MemoryType::DeviceEarly,
        0x08 => MemoryType::DeviceReordering,
        0x0c => MemoryType::DeviceGathering,
        _ => return None,
    };
    (raw.detail & 1 == 0).then_some(Translation { page: raw.detail >> 12 & ((1 << 40) - 1), memory })
}

/// An address that does not exist is a translation fault at Arm's level 0.
fn reported(fault: Fault) -> Fault {
    if fault == Fault::NonCanonical { Fault::Absent(Some(3)) } else { fault }
}

pub(crate) fn subject<G: Granule>(name: &'static str, half: Half, bits: u32) -> Subject<AArch64<G>> {
    let physical_bits = bits.max(48);
    Subject {
        name,
        machine: &VIRT,
        mmu: AArch64::new(half, bits, physical_bits),
        virtual_bits: bits,
        halves: if half == Half::Lower { Halves::Lower } else { Halves::Upper },
        registers,
        report,
        reported,
        translation: Some(translation),
        marks: Marks::Software,
        root_is_read_once: false,
    }
}

pub(crate) fn stage2<G: Granule>(name: &'static str, bits: u32, physical_bits: u32) -> Subject<AArch64Stage2<G>> {
    Subject {
        name,
        machine: &VIRT,
        mmu: AArch64Stage2::new(bits, physical_bits),
        virtual_bits: bits,
        halves: Halves::Lower,
        registers: stage2_registers,
        report: stage2_report,
        reported,
        translation: None,
        marks: Marks::Software,
        root_is_read_once: false,
    }
}
