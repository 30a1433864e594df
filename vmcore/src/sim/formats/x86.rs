//! x86 with 32-bit entries and two levels (Intel SDM volume 3, section 5.3).
//!
//! ```text
//!   31                12 11    9  8  7  6  5  4  3  2  1  0
//!      frame or table   | ign. | G |PS| D| A|PCD|PWT|US|RW|P      PS is the PAT bit in a 4 KiB leaf
//!
//!   4 MiB:  31..22 address bits 31..22 | 21 reserved | 20..13 address bits 39..32 | 12 PAT     (PSE, PSE-36)
//!
//!   address:  31..22 (shift 22), may be a leaf;   21..12 (shift 12), is a leaf
//! ```

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, bits, is_zero_extended, pat_selected};
use crate::paging::Access;

/// The registers that an x86 CPU without PAE translates with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct X86Registers {
    /// MAXPHYADDR; with PSE-36, at most 40 bits of it are reached, and only by leaves of 4 MiB. 32 means no PSE-36.
    pub physical_bits: u32,
    /// IA32_PAT.
    pub pat: u64,
    /// CR4.PSE: leaves of 4 MiB exist.
    pub large_pages: bool,
    /// CR4.PGE.
    pub global: bool,
    /// CR0.WP.
    pub write_protect: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// EFLAGS.AC: SMAP is suspended.
    pub access_control: bool,
}

impl X86Registers {
    /// PSE, PGE and WP set, the PAT as after reset.
    pub const fn new(physical_bits: u32) -> Self {
        Self {
            physical_bits,
            pat: 0x0007_0406_0007_0406,
            large_pages: true,
            global: true,
            write_protect: true,
            smep: false,
            smap: false,
            access_control: false,
        }
    }
}

impl Regime for X86Registers {
    fn page_shift(&self) -> u32 {
        12
    }

    fn is_narrow(&self) -> bool {
        true
    }

    fn has(&self, address: u64) -> bool {
        is_zero_extended(address, 32)
    }

    fn top(&self) -> u32 {
        22
    }

    fn index_bits(&self, _: u32) -> u32 {
        10
    }

    fn below(&self, _: u32) -> u32 {
        12
    }

    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        if word & 0x1 == 0 {
            return Step::Absent;
        }
        let rights = Rights { write: above.write && word & 0x2 != 0, user: above.user && word & 0x4 != 0, ..above };
        let is_large = shift == 22 && self.large_pages && word & 0x80 != 0;
        if shift == 22 && !is_large {
            return Step::Table { address: word & 0xffff_f000, below: rights, marked: word | 0x20 };
        }
        let mut base = word & 0xffff_f000;
        if is_large {
            // Bits 13 and up stand for address bits 32 and up, as far as those exist; what is left below 22 is reserved.
            let high = self.physical_bits.clamp(32, 40) - 32;
            if word & bits(13 + high, 22) != 0 {
                return Step::Reserved;
            }
            base = word & 0xffc0_0000 | (word & bits(13, 13 + high)) << 19;
        }
        Step::Leaf(Leaf {
            base,
            span: shift,
            own: None,
            rights,
            memory: pat_selected(self.pat, word, if is_large { 12 } else { 7 }),
            global: self.global && word & 0x100 != 0,
            dirty: word & 0x40 != 0,
            after_read: Some(word | 0x20),
            after_write: Some(word | 0x60),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        let (write, execute) = (access.contains(Access::WRITE), access.contains(Access::EXECUTE));
        if access.contains(Access::USER) {
            return rights.user && (!write || rights.write);
        }
        let kept_out = rights.user && if execute { self.smep } else { self.smap && !self.access_control };
        !kept_out && (!write || rights.write || !self.write_protect)
    }

    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: true, keeps_absences: false, break_before_make: false }
    }
}
