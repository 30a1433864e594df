//! The formats: one description per file, with a drawing of its bits and the manual's sections.
//!
//! | file | format |
//! |---|---|
//! | `x86` | x86, 32-bit: two levels of 32-bit entries |
//! | `x86_pae` | x86 with physical address extension: three levels |
//! | `x86_64` | x86-64: four or five levels |
//! | `x86_entry` | what the entries of these three share, and [`PatLayout`] |
//! | `ept` | the second stage of Intel's virtual machines |
//! | `aarch64` | Arm, stage 1, and [`MairLayout`] |
//! | `aarch64_stage2` | the second stage of Arm's virtual machines |
//! | `granule` | Arm's granules: the levels of both stages, and what is found of a machine |
//! | `riscv32` | RISC-V's Sv32 |
//! | `riscv64` | RISC-V's Sv39, Sv48 and Sv57 |
//! | `riscv_entry` | what the entries of these two share |
//!
//! A description is a constant and not a static, so that other crates' copies of the generic code see the numbers.

mod aarch64;
mod aarch64_stage2;
mod ept;
mod granule;
mod riscv32;
mod riscv64;
mod riscv_entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod x86;
mod x86_64;
mod x86_entry;
mod x86_pae;

use crate::paging::AddressField;

pub use self::aarch64::{AArch64, Half, MairLayout};
pub use self::aarch64_stage2::AArch64Stage2;
pub use self::ept::Ept;
pub use self::granule::{Granule, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K};
pub use self::riscv32::RiscV32;
pub use self::riscv64::RiscV64;
pub use self::x86::X86;
pub use self::x86_64::X86_64;
pub use self::x86_entry::PatLayout;
pub use self::x86_pae::X86Pae;

/// No bit.
const UNUSED: u64 = 0;

/// Bits `low` to below `high`.
const fn bits(low: u32, high: u32) -> u64 {
    (u64::MAX >> (64 - (high - low))) << low
}

/// Address bits `low` to below `high`, at the same place in the entry.
const fn in_place(low: u32, high: u32) -> AddressField {
    AddressField { address_low: low, entry_low: low, width: high - low }
}

/// How many bits Arm's tags have, where `bits` were found: 8, 16, or none.
const fn arm_tag_bits(bits: u32) -> u8 {
    match bits {
        0..=7 => 0,
        8..=15 => 8,
        _ => 16,
    }
}

/// `value`, or the nearer end of `low..=high`.
const fn clamp(value: u32, low: u32, high: u32) -> u32 {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}
