//! Extended page tables, for the guests of an x86-64 hypervisor (Intel SDM volume 3, section 30.3).
//!
//! ```text
//!   63   62..52  51            12 11  10  9  8  7  6  5..3 2 1 0
//!   #VE | ign. | frame or table |ign.|XU| D| A| L|IPAT|type|X|W|R      L: leaf (ignored in a 4 KiB leaf)
//!
//!   present: R, W or X (or XU, with mode-based execution)      type: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB
//!   misconfigured: W without R; X alone where that is not supported; type 2, 3 or 7; reserved bits
//!   reserved: in a table entry 3..7; in a leaf what lies below its size
//! ```
//!
//! An access carries no privilege here, except that with mode-based execution a fetch by the guest's programs
//! ([`Access::USER`]) asks for XU and one by its kernel for X.

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, bits, is_load, is_zero_extended, pat_type};
use crate::paging::Access;

/// What an x86-64 hypervisor sets up for a guest.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EptRegisters {
    /// Five levels instead of four (EPTP bits 5..3).
    pub five_levels: bool,
    /// MAXPHYADDR.
    pub physical_bits: u32,
    /// EPTP bit 6: accessed and dirty bits are kept.
    pub marks: bool,
    /// IA32_VMX_EPT_VPID_CAP bit 0: what may be executed need not be readable.
    pub execute_only: bool,
    /// Mode-based execute control: bit 10 is the execution by the guest's programs.
    pub mode_based_execute: bool,
}

impl EptRegisters {
    /// Four levels, accessed and dirty bits, execute-only pages, no mode-based execution.
    pub const fn new(physical_bits: u32) -> Self {
        Self { five_levels: false, physical_bits, marks: true, execute_only: true, mode_based_execute: false }
    }
}

impl Regime for EptRegisters {
    fn page_shift(&self) -> u32 {
        12
    }

    fn has(&self, address: u64) -> bool {
        is_zero_extended(address, if self.five_levels { 57 } else { 48 })
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
        let (read, write, execute) = (word & 0x1 != 0, word & 0x2 != 0, word & 0x4 != 0);
        let user_execute = if self.mode_based_execute { word & 0x400 != 0 } else { execute };
        if !read && !write && !execute && !user_execute {
            return Step::Absent;
        }
        let is_leaf = shift == 12 || (shift <= 30 && word & 0x80 != 0);
        let reserved = bits(self.physical_bits, 52)
            | match (shift, is_leaf) {
                (12, _) => 0,
                (_, true) => bits(12, shift),
                (39 | 48, _) => 0xf8,
                _ => 0x78,
            };
        if word & reserved != 0 || (!read && (write || !self.execute_only)) {
            return Step::Reserved;
        }
        let rights = Rights {
            read: above.read && read,
            write: above.write && write,
            execute: above.execute && user_execute,
            kernel_execute: above.kernel_execute && execute,
            user: false,
            ..above
        };
        let (accessed, dirty) = if self.marks { (0x100, 0x200) } else { (0, 0) };
        if !is_leaf {
            return Step::Table { address: word & 0x000f_ffff_ffff_f000, below: rights, marked: word | accessed };
        }
        let code = word >> 3 & 7;
        let Some(memory) = (if code == 7 { None } else { pat_type(code) }) else { return Step::Reserved };
        Step::Leaf(Leaf {
            base: (word & 0x000f_ffff_ffff_f000) >> shift << shift,
            span: shift,
            own: None,
            rights,
            memory,
            global: false,
            dirty: !self.marks || word & dirty != 0,
            after_read: Some(word | accessed),
            after_write: Some(word | accessed | dirty),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        let executes = if access.contains(Access::USER) { rights.execute } else { rights.kernel_execute };
        (!is_load(access) || rights.read)
            && (!access.contains(Access::WRITE) || rights.write)
            && (!access.contains(Access::EXECUTE) || executes)
    }

    /// An EPT violation forgets the guest-physical mappings of its address (section 30.4.3.1).
    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: true, keeps_absences: false, break_before_make: false }
    }
}
