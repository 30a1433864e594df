//! A format for model checkers: three levels of four, two and two entries, so that a few pages need all of them.
//!
//! ```text
//!   address   63..16    15..14   13   12   11..0             63 62..40 39..12   11..9 8 7 6 5 4..3 2   1   0
//!             = bit 15  root     mid  leaf offset     entry  XD   0    address  soft  G 0 D A  0  U/S R/W  P
//! ```
//!
//! Entries and their rules are x86-64's. What a TLB may keep is a register, so that one format stands for all.

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, is_sign_extended};
use crate::paging::{Access, MemoryType};

/// The registers of a CPU with reduced tables.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ReducedRegisters {
    /// A fault does not make the CPU forget what it remembers of the address, and that nothing is mapped is remembered as well (RISC-V).
    pub keeps_faults: bool,
}

/// The bits that have to be clear.
const RESERVED: u64 = 0x7fff_ff00_0000_0098;

impl Regime for ReducedRegisters {
    fn page_shift(&self) -> u32 {
        12
    }

    fn has(&self, address: u64) -> bool {
        is_sign_extended(address, 16)
    }

    fn top(&self) -> u32 {
        14
    }

    fn index_bits(&self, shift: u32) -> u32 {
        if shift == 14 { 2 } else { 1 }
    }

    fn below(&self, shift: u32) -> u32 {
        shift - 1
    }

    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        if word & 0x1 == 0 {
            return Step::Absent;
        }
        if word & RESERVED != 0 {
            return Step::Reserved;
        }
        let executable = word & 0x8000_0000_0000_0000 == 0;
        let rights = Rights {
            write: above.write && word & 0x2 != 0,
            user: above.user && word & 0x4 != 0,
            execute: above.execute && executable,
            kernel_execute: above.kernel_execute && executable,
            ..above
        };
        let address = word & 0xff_ffff_f000;
        if shift > 12 {
            return Step::Table { address, below: rights, marked: word | 0x20 };
        }
        Step::Leaf(Leaf {
            base: address,
            span: 12,
            own: None,
            rights,
            memory: MemoryType::WriteBack,
            global: word & 0x100 != 0,
            dirty: word & 0x40 != 0,
            after_read: Some(word | 0x20),
            after_write: Some(word | 0x60),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        (!access.contains(Access::EXECUTE) || rights.execute)
            && (!access.contains(Access::WRITE) || rights.write)
            && (!access.contains(Access::USER) || rights.user)
    }

    fn tlb(&self) -> TlbRules {
        TlbRules {
            forgets_after_fault: !self.keeps_faults,
            keeps_absences: self.keeps_faults,
            break_before_make: false,
        }
    }
}
