//! Which format the machine's CPUs translate with: the registers of each, and how the library's descriptions choose them.
//!
//! Plugging a format in is one `impl` of [`SimFormat`]: its page size, and the registers that an embedder would program for such
//! an MMU value. Nothing of the library's description but what the embedder reads off it (levels, widths, the layout of memory
//! types) reaches the walkers.

use super::formats::aarch64::AArch64Registers;
use super::formats::aarch64_stage2::AArch64Stage2Registers;
use super::formats::ept::EptRegisters;
#[cfg(any(loom, shuttle))]
use super::formats::reduced::ReducedRegisters;
use super::formats::riscv::RiscVRegisters;
use super::formats::x86::X86Registers;
use super::formats::x86_64::X86_64Registers;
use super::formats::x86_pae::X86PaeRegisters;
use super::regime::{Regime, pat_type};
use crate::paging::{
    AArch64, AArch64Stage2, Access, Canonical, Ept, Granule, MemoryType, Mmu, RiscV32, RiscV64, X86, X86_64, X86Pae,
};

/// The format of a CPU and the registers that it translates with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Hardware {
    /// 32-bit x86 without PAE.
    X86(X86Registers),
    /// 32-bit x86 with PAE.
    X86Pae(X86PaeRegisters),
    /// x86-64.
    X86_64(X86_64Registers),
    /// Extended page tables of x86-64.
    Ept(EptRegisters),
    /// AArch64, stage 1.
    AArch64(AArch64Registers),
    /// AArch64, stage 2.
    AArch64Stage2(AArch64Stage2Registers),
    /// RISC-V, 32 or 64 bits.
    RiscV(RiscVRegisters),
    /// Tables of a few entries, in builds for model checkers only.
    #[cfg(any(loom, shuttle))]
    Reduced(ReducedRegisters),
}

impl Hardware {
    pub(super) fn regime(&self) -> &dyn Regime {
        match self {
            Self::X86(registers) => registers,
            Self::X86Pae(registers) => registers,
            Self::X86_64(registers) => registers,
            Self::Ept(registers) => registers,
            Self::AArch64(registers) => registers,
            Self::AArch64Stage2(registers) => registers,
            Self::RiscV(registers) => registers,
            #[cfg(any(loom, shuttle))]
            Self::Reduced(registers) => registers,
        }
    }
}

/// An [`Mmu`] that the simulated machine has hardware for.
pub trait SimFormat: Mmu {
    /// The size of a page as a power of two.
    const PAGE_SHIFT: u32;

    /// The registers that an embedder programs for this MMU.
    fn hardware(&self) -> Hardware;
}

impl SimFormat for X86_64 {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = X86_64Registers::new(self.physical_bits());
        registers.five_levels = self.levels() == 5;
        registers.pat = pat_for(self);
        Hardware::X86_64(registers)
    }
}

impl SimFormat for X86 {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = X86Registers::new(self.physical_bits());
        registers.pat = pat_for(self);
        Hardware::X86(registers)
    }
}

impl SimFormat for X86Pae {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = X86PaeRegisters::new(self.physical_bits());
        registers.pat = pat_for(self);
        Hardware::X86Pae(registers)
    }
}

impl SimFormat for Ept {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = EptRegisters::new(self.physical_bits());
        registers.five_levels = self.levels() == 5;
        registers.execute_only = self.has_access(Access::EXECUTE);
        Hardware::Ept(registers)
    }
}

impl<G: Granule> SimFormat for AArch64<G> {
    const PAGE_SHIFT: u32 = G::PAGE_SHIFT;

    fn hardware(&self) -> Hardware {
        let mut registers = AArch64Registers::new(G::PAGE_SHIFT, self.virtual_bits(), self.physical_bits());
        registers.large_addresses = has_large_addresses::<G>(self.physical_bits());
        registers.upper_half = self.canonical() == Canonical::OneExtended;
        registers.mair = mair_for(self);
        registers.hardware_dirty = self.marks_dirty();
        Hardware::AArch64(registers)
    }
}

impl<G: Granule> SimFormat for AArch64Stage2<G> {
    const PAGE_SHIFT: u32 = G::PAGE_SHIFT;

    fn hardware(&self) -> Hardware {
        let mut registers = AArch64Stage2Registers::new(G::PAGE_SHIFT, self.virtual_bits(), self.physical_bits());
        registers.large_addresses = has_large_addresses::<G>(self.physical_bits());
        registers.hardware_dirty = self.marks_dirty();
        Hardware::AArch64Stage2(registers)
    }
}

/// TCR_EL1.DS is set for the granules of LPA2; with 64 KiB it is the width that decides.
fn has_large_addresses<G: Granule>(physical_bits: u32) -> bool {
    G::MAX_PHYSICAL_BITS > 48 && (G::PAGE_SHIFT < 16 || physical_bits > 48)
}

impl SimFormat for RiscV32 {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = RiscVRegisters::new(32);
        registers.physical_bits = self.physical_bits();
        Hardware::RiscV(registers)
    }
}

impl SimFormat for RiscV64 {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = RiscVRegisters::new(self.virtual_bits());
        registers.physical_bits = self.physical_bits();
        registers.memory_types = self.memory_code(MemoryType::Device).is_some();
        registers.contiguous = self.contiguous(0).is_some();
        Hardware::RiscV(registers)
    }
}

/// The PAT that makes the MMU's codes mean what the MMU says they mean.
fn pat_for(mmu: &impl Mmu) -> u64 {
    layout_for(mmu, 0x0007_0406_0007_0406, |memory| (0..8).find(|byte| pat_type(*byte) == Some(memory)))
}

/// A register of eight bytes, each the `encoding` of the type that the MMU has for that code, or what `rest` has there.
fn layout_for(mmu: &impl Mmu, rest: u64, encoding: impl Fn(MemoryType) -> Option<u64>) -> u64 {
    (0..8).fold(rest, |register, code| match mmu.memory_type(code).and_then(&encoding) {
        Some(byte) => register & !(0xff << (code * 8)) | byte << (code * 8),
        None => register,
    })
}

/// The MAIR that makes the MMU's codes mean what the MMU says they mean.
fn mair_for(mmu: &impl Mmu) -> u64 {
    layout_for(mmu, 0, |memory| match memory {
        MemoryType::WriteBack => Some(0xff),
        MemoryType::WriteThrough => Some(0xbb),
        MemoryType::WriteCombining => Some(0x44),
        MemoryType::Device => Some(0x00),
        MemoryType::DeviceEarly => Some(0x04),
        MemoryType::DeviceReordering => Some(0x08),
        MemoryType::DeviceGathering => Some(0x0c),
        _ => None,
    })
}
