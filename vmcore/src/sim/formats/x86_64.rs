//! x86-64 with four or five levels (Intel SDM volume 3, sections 5.5 and 5.6).
//!
//! ```text
//!   63 62  59 58  52 51                12 11    9  8  7  6  5  4  3  2  1  0
//!   XD | key | ign. |   frame or table   | ign. | G |PS| D| A|PCD|PWT|US|RW|P     PS is the PAT bit in a 4 KiB leaf
//!
//!   address:  56..48 (shift 48, five levels)         a leaf of 1 GiB has its PAT bit at 12, bits 13..29 reserved
//!             47..39 (shift 39)                      a leaf of 2 MiB has its PAT bit at 12, bits 13..20 reserved
//!             38..30 (shift 30), may be a leaf       bit 7 of an entry of shift 39 or 48 is reserved
//!             29..21 (shift 21), may be a leaf
//!             20..12 (shift 12), is a leaf
//! ```

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, bits, is_sign_extended, pat_selected};
use crate::paging::Access;

/// The registers that an x86-64 CPU translates with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct X86_64Registers {
    /// CR4.LA57: five levels instead of four.
    pub five_levels: bool,
    /// MAXPHYADDR.
    pub physical_bits: u32,
    /// IA32_PAT: eight memory types of a byte each.
    pub pat: u64,
    /// EFER.NXE: bit 63 forbids execution; otherwise it is reserved.
    pub no_execute: bool,
    /// CR4.PGE: bit 8 of a leaf makes it global.
    pub global: bool,
    /// CR0.WP: the kernel's writes respect read-only entries.
    pub write_protect: bool,
    /// CR4.SMEP: the kernel does not execute programs' pages.
    pub smep: bool,
    /// CR4.SMAP: the kernel's loads and stores do not reach programs' pages.
    pub smap: bool,
    /// EFLAGS.AC: SMAP is suspended.
    pub access_control: bool,
    /// CR4.PKE: the keys of programs' pages are looked up in `pkru`.
    pub protection_keys: bool,
    /// PKRU: two bits per key, access disable and write disable.
    pub pkru: u32,
    /// CR4.PKS: the keys of the kernel's pages are looked up in `pkrs`.
    pub supervisor_keys: bool,
    /// IA32_PKRS, laid out like `pkru`.
    pub pkrs: u32,
}

impl X86_64Registers {
    /// Four levels, NXE, PGE and WP set, everything else clear, the PAT as after reset.
    pub const fn new(physical_bits: u32) -> Self {
        Self {
            five_levels: false,
            physical_bits,
            pat: 0x0007_0406_0007_0406,
            no_execute: true,
            global: true,
            write_protect: true,
            smep: false,
            smap: false,
            access_control: false,
            protection_keys: false,
            pkru: 0,
            supervisor_keys: false,
            pkrs: 0,
        }
    }

    /// Section "Protection Keys": whether the key's register stands in the way of a load or a store.
    fn key_forbids(&self, rights: Rights, access: Access) -> bool {
        let (on, register) =
            if rights.user { (self.protection_keys, self.pkru) } else { (self.supervisor_keys, self.pkrs) };
        if !on || access.contains(Access::EXECUTE) {
            return false;
        }
        let two = register >> (2 * u32::from(rights.key));
        let write_counts = access.contains(Access::USER) || self.write_protect;
        two & 1 != 0 || (two & 2 != 0 && access.contains(Access::WRITE) && write_counts)
    }
}

impl Regime for X86_64Registers {
    fn page_shift(&self) -> u32 {
        12
    }

    fn has(&self, address: u64) -> bool {
        is_sign_extended(address, if self.five_levels { 57 } else { 48 })
    }

    fn top(&self) -> u32 {
        if self.five_levels { 48 } else { 39 }
    }

    fn index_bits(&self, _: u32) -> u32 {
        9
    }

    fn below(&self, shift: u32) -> u32 {
        shift - 9
    }

    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        if word & 0x1 == 0 {
            return Step::Absent;
        }
        let is_leaf = shift == 12 || (shift <= 30 && word & 0x80 != 0);
        let mut reserved = bits(self.physical_bits, 52);
        if !self.no_execute {
            reserved |= 0x8000_0000_0000_0000;
        }
        reserved |= match (shift, is_leaf) {
            (39 | 48, _) => 0x80,
            (30, true) => 0x3fff_e000,
            (21, true) => 0x001f_e000,
            _ => 0,
        };
        if word & reserved != 0 {
            return Step::Reserved;
        }
        let executable = word & 0x8000_0000_0000_0000 == 0;
        let mut rights = Rights {
            write: above.write && word & 0x2 != 0,
            user: above.user && word & 0x4 != 0,
            execute: above.execute && executable,
            kernel_execute: above.kernel_execute && executable,
            ..above
        };
        if !is_leaf {
            return Step::Table { address: word & 0x000f_ffff_ffff_f000, below: rights, marked: word | 0x20 };
        }
        if self.protection_keys || self.supervisor_keys {
            rights.key = (word >> 59 & 0xf) as u8;
        }
        Step::Leaf(Leaf {
            base: (word & 0x000f_ffff_ffff_f000) >> shift << shift,
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

    /// Section "Determination of Access Rights".
    fn permits(&self, rights: Rights, access: Access) -> bool {
        let (write, execute) = (access.contains(Access::WRITE), access.contains(Access::EXECUTE));
        let common = (!execute || rights.execute) && !self.key_forbids(rights, access);
        if access.contains(Access::USER) {
            return common && rights.user && (!write || rights.write);
        }
        let kept_out = rights.user && if execute { self.smep } else { self.smap && !self.access_control };
        common && !kept_out && (!write || rights.write || !self.write_protect)
    }

    /// Section "Details of TLB Use"; entries that are not present are not cached.
    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: true, keeps_absences: false, break_before_make: false }
    }
}
