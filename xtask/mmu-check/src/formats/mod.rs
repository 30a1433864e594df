//! What is particular to each format: the machine, the registers that switch its MMU on, and how faults are reported.

mod aarch64;
mod ept;
mod riscv32;
mod riscv64;
mod x86_32;
mod x86_64;

use anyhow::Result;
use vmcore::paging::{Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Half, MemoryType};

use crate::{
    check::{Check, Tally},
    guest::Machine,
    probe::{Fault, Raw, Report},
};

/// Numbers that the guest of a machine loads into registers; each guest's source says into which.
pub(crate) type Registers = [u64; 9];

const GIB: u64 = 1 << 30;

/// A format, and the machine whose MMU it is held against.
pub(crate) struct Subject<M> {
    pub(crate) name: &'static str,
    pub(crate) machine: &'static Machine,
    pub(crate) mmu: M,
    /// How many bits of an address are translated, and what the bits above have to be: as the manual says, not the format.
    pub(crate) virtual_bits: u32,
    pub(crate) halves: Halves,
    /// The registers for a root table at a physical address, and the address at which the privileged mode's page is mapped.
    pub(crate) registers: fn(M, u64, u64) -> Registers,
    /// How the reports of this architecture read.
    pub(crate) report: fn(&Raw) -> Report,
    /// What is reported for a fault: architectures tell more or fewer kinds apart.
    pub(crate) reported: fn(Fault) -> Fault,
    /// What the architecture's own instruction says about the address, whoever may use it; none if it says that nothing is mapped.
    pub(crate) translation: Option<fn(&Raw) -> Option<Translation>>,
    /// Who sets the marks of use.
    pub(crate) marks: Marks,
    /// The CPU reads the root table once, so everything that will ever be in it has to be there.
    pub(crate) root_is_read_once: bool,
}

/// What the bits above the translated ones have to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Halves {
    /// All equal to the highest translated one.
    Both,
    /// Zero.
    Lower,
    /// One.
    Upper,
    /// There are none: a register holds what is translated, and no more.
    None,
}

impl Halves {
    /// The address that exists and has the same lowest `bits` bits.
    pub(crate) fn extend(self, address: u64, bits: u32) -> u64 {
        let translated = u64::MAX >> (64 - bits);
        let upper = match self {
            Self::Both => address >> (bits - 1) & 1 != 0,
            Self::Lower | Self::None => false,
            Self::Upper => true,
        };
        if upper { address | !translated } else { address & translated }
    }

    /// The address as a register holds it.
    pub(crate) fn held(self, address: u64, bits: u32) -> u64 {
        if self == Self::None { self.extend(address, bits) } else { address }
    }
}

/// What an address leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// The number of the 4 KiB of physical memory.
    pub(crate) page: u64,
    pub(crate) memory: MemoryType,
}

/// Who sets the marks of use (accessed, dirty).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marks {
    /// The MMU, when it uses an entry.
    Hardware,
    /// Software: an entry that is not marked faults.
    Software,
}

/// A check that can be asked for by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Check) -> Result<Tally>,
}

/// A check of the subject that the expression gives, with pages of 2^shift bytes.
macro_rules! named {
    ($name:literal, $shift:literal, $subject:expr) => {
        Named { name: $name, run: |check| check.run::<_, $shift>(&$subject) }
    };
}

/// All of them, in the order in which they are run.
pub(crate) const ALL: &[Named] = &[
    named!("x86-32", 12, x86_32::two_levels()),
    named!("x86-pae", 12, x86_32::pae()),
    named!("x86-64-4", 12, x86_64::four_levels()),
    named!("x86-64-5", 12, x86_64::five_levels()),
    named!("ept", 12, ept::four_levels()),
    named!("ept-execute-only", 12, ept::execute_only()),
    named!("aarch64-4k-39", 12, aarch64::subject::<Granule4K>("AArch64, 4 KiB, 39 bits", Half::Lower, 39)),
    named!("aarch64-4k-48", 12, aarch64::subject::<Granule4K>("AArch64, 4 KiB, 48 bits", Half::Lower, 48)),
    named!("aarch64-4k-48-upper", 12, aarch64::subject::<Granule4K>("AArch64, 4 KiB, upper half", Half::Upper, 48)),
    named!("aarch64-4k-52", 12, aarch64::subject::<Granule4KLpa2>("AArch64, 4 KiB, 52 bits", Half::Lower, 52)),
    named!("aarch64-16k-48", 14, aarch64::subject::<Granule16K>("AArch64, 16 KiB, 48 bits", Half::Lower, 48)),
    named!("aarch64-16k-52", 14, aarch64::subject::<Granule16KLpa2>("AArch64, 16 KiB, 52 bits", Half::Lower, 52)),
    named!("aarch64-64k-48", 16, aarch64::subject::<Granule64K>("AArch64, 64 KiB, 48 bits", Half::Lower, 48)),
    named!("aarch64-64k-52", 16, aarch64::subject::<Granule64K>("AArch64, 64 KiB, 52 bits", Half::Lower, 52)),
    named!("aarch64-stage2-4k-39", 12, aarch64::stage2::<Granule4K>("AArch64, stage 2, 4 KiB, 39 bits", 39, 48)),
    named!("aarch64-stage2-4k-48", 12, aarch64::stage2::<Granule4K>("AArch64, stage 2, 4 KiB, 48 bits", 48, 48)),
    named!("aarch64-stage2-4k-52", 12, aarch64::stage2::<Granule4KLpa2>("AArch64, stage 2, 4 KiB, 52 bits", 52, 52)),
    named!("aarch64-stage2-16k-46", 14, aarch64::stage2::<Granule16K>("AArch64, stage 2, 16 KiB, 46 bits", 46, 48)),
    named!(
        "aarch64-stage2-16k-46-lpa2",
        14,
        aarch64::stage2::<Granule16KLpa2>("AArch64, stage 2, 16 KiB, 46 to 52 bits", 46, 52)
    ),
    named!("aarch64-stage2-64k-48", 16, aarch64::stage2::<Granule64K>("AArch64, stage 2, 64 KiB, 48 bits", 48, 48)),
    named!("aarch64-stage2-64k-52", 16, aarch64::stage2::<Granule64K>("AArch64, stage 2, 64 KiB, 52 bits", 52, 52)),
    named!("riscv-sv32", 12, riscv32::sv32()),
    named!("riscv-sv39", 12, riscv64::sv39()),
    named!("riscv-sv48", 12, riscv64::sv48()),
    named!("riscv-sv57", 12, riscv64::sv57()),
];
