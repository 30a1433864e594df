//! x86 with PAE: 64-bit entries and three levels (Intel SDM volume 3, section 5.4).
//!
//! ```text
//!   63 62      M M-1              12 11    9  8  7  6  5  4  3  2  1  0        M: MAXPHYADDR
//!   XD | reserved |  frame or table | ign. | G |PS| D| A|PCD|PWT|US|RW|P       PS is the PAT bit in a 4 KiB leaf
//!
//!   address:  31..30 (shift 30): four entries, bits 1, 2, 5..8 and 63 reserved, no rights, read into registers by a load of CR3
//!             29..21 (shift 21), may be a leaf: PAT bit at 12, bits 13..20 reserved
//!             20..12 (shift 12), is a leaf
//! ```
//!
//! The four entries of the top are *not read again* before CR3 is loaded again (section 5.4.1): one that was absent then stays
//! absent. What a kernel does about it is load CR3 when a flush notes tables.

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, bits, is_zero_extended, pat_selected};
use crate::paging::Access;

/// The registers that an x86 CPU with PAE translates with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct X86PaeRegisters {
    /// MAXPHYADDR.
    pub physical_bits: u32,
    /// IA32_PAT.
    pub pat: u64,
    /// EFER.NXE: bit 63 forbids execution; otherwise it is reserved.
    pub no_execute: bool,
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

impl X86PaeRegisters {
    /// NXE, PGE and WP set, the PAT as after reset.
    pub const fn new(physical_bits: u32) -> Self {
        Self {
            physical_bits,
            pat: 0x0007_0406_0007_0406,
            no_execute: true,
            global: true,
            write_protect: true,
            smep: false,
            smap: false,
            access_control: false,
        }
    }
}

impl Regime for X86PaeRegisters {
    fn page_shift(&self) -> u32 {
        12
    }

    fn has(&self, address: u64) -> bool {
        is_zero_extended(address, 32)
    }

    fn top(&self) -> u32 {
        30
    }

    fn index_bits(&self, shift: u32) -> u32 {
        if shift == 30 { 2 } else { 9 }
    }

    fn below(&self, shift: u32) -> u32 {
        shift - 9
    }

    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        if word & 0x1 == 0 {
            return Step::Absent;
        }
        let mut reserved = bits(self.physical_bits, 63);
        if shift == 30 || !self.no_execute {
            reserved |= 0x8000_0000_0000_0000;
        }
        let is_leaf = shift == 12 || (shift == 21 && word & 0x80 != 0);
        reserved |= match (shift, is_leaf) {
            (30, _) => 0x1e6,
            (21, true) => 0x001f_e000,
            _ => 0,
        };
        if word & reserved != 0 {
            return Step::Reserved;
        }
        let address = word & 0x000f_ffff_ffff_f000;
        if shift == 30 {
            return Step::Table { address, below: above, marked: word };
        }
        let executable = word & 0x8000_0000_0000_0000 == 0;
        let rights = Rights {
            write: above.write && word & 0x2 != 0,
            user: above.user && word & 0x4 != 0,
            execute: above.execute && executable,
            kernel_execute: above.kernel_execute && executable,
            ..above
        };
        if !is_leaf {
            return Step::Table { address, below: rights, marked: word | 0x20 };
        }
        Step::Leaf(Leaf {
            base: address >> shift << shift,
            span: shift,
            own: None,
            rights,
            memory: pat_selected(self.pat, word, if shift == 12 { 7 } else { 12 }),
            global: self.global && word & 0x100 != 0,
            dirty: word & 0x40 != 0,
            after_read: Some(word | 0x20),
            after_write: Some(word | 0x60),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        let (write, execute) = (access.contains(Access::WRITE), access.contains(Access::EXECUTE));
        if execute && !rights.execute {
            return false;
        }
        if access.contains(Access::USER) {
            return rights.user && (!write || rights.write);
        }
        let kept_out = rights.user && if execute { self.smep } else { self.smap && !self.access_control };
        !kept_out && (!write || rights.write || !self.write_protect)
    }

    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: true, keeps_absences: false, break_before_make: false }
    }

    fn has_top_registers(&self) -> bool {
        true
    }
}
