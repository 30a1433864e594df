//! AArch64 stage 1, EL1&0 (Arm ARM, chapter D8 "The AArch64 Virtual Memory System Architecture").
//!
//! ```text
//!   63 62   61 60   59  58..55 54  53  52  51  50  49 or 47     G 11 10 9 8  7  6  5 4   2 1 0
//!   leaf:   ignored   | soft. |UXN|PXN|Con|DBM|GP | output address |nG|AF| SH |AP[2:1]|NS|Attr|T|V
//!   NS|APTable|UXN|PXN| ignored                   | table address  |   ignored               |1|1      table
//!
//!   V 0: invalid.  T: 1 for a table and for a leaf of the lowest level, 0 for a larger leaf ("block").
//!   AP[2]: read-only   AP[1]: EL0 as well   APTable[1], APTable[0], UXNTable, PXNTable take the same away below
//!   64 KiB granule, 52 bits: address bits 51..48 at 15..12        LPA2 (4 and 16 KiB): bits 51..50 at 9..8, in place of SH
//!
//!   granule   index bits   blocks                       contiguous
//!    4 KiB        9        2 MiB, 1 GiB (LPA2: 512 GiB)  16 of each
//!   16 KiB       11        32 MiB (LPA2: 64 GiB)         128 pages, 32 blocks of 32 MiB
//!   64 KiB       13        512 MiB (52 bits: 4 TiB)      32 pages, 32 blocks of 512 MiB
//! ```
//!
//! What can be written from EL0 is never executed at EL1. An entry that faults as invalid or for its access flag is never kept by
//! a TLB; one that faults for its permissions is. A live entry may not become another address, size or type (section
//! "Using break-before-make when updating translation table entries").

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, bits, is_zero_extended, mair_type};
use crate::paging::Access;

/// The registers that an AArch64 CPU translates with, for one of its two roots.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AArch64Registers {
    /// The granule as a power of two (TCR_EL1.TGx): 12, 14 or 16.
    pub granule: u32,
    /// The width of a virtual address: 64 - TCR_EL1.TxSZ.
    pub virtual_bits: u32,
    /// The width of a physical address (TCR_EL1.IPS).
    pub physical_bits: u32,
    /// Entries hold 52-bit addresses: TCR_EL1.DS with 4 and 16 KiB, FEAT_LPA with 64 KiB.
    pub large_addresses: bool,
    /// TTBR1_EL1's half of the addresses, whose upper bits are ones.
    pub upper_half: bool,
    /// MAIR_EL1: eight memory types of a byte each.
    pub mair: u64,
    /// TCR_EL1.HA: the hardware sets AF; otherwise it faults for software to do so.
    pub hardware_access: bool,
    /// TCR_EL1.HD: the hardware makes entries with DBM writable at a store.
    pub hardware_dirty: bool,
    /// TCR_EL1.HPDx: the limits in table entries are ignored.
    pub ignores_limits: bool,
    /// PSTATE.PAN: EL1's loads and stores do not reach what EL0 may.
    pub pan: bool,
    /// SCTLR_EL1.WXN: what may be written is not executed.
    pub write_implies_no_execute: bool,
}

impl AArch64Registers {
    /// The lower half, AF and DBM by the hardware, limits on, PAN and WXN clear, MAIR: 0 write-back, 1 Device-nGnRnE, 2 not
    /// cacheable, 3 write-through, the others Device-nGnRnE.
    pub const fn new(granule: u32, virtual_bits: u32, physical_bits: u32) -> Self {
        Self {
            granule,
            virtual_bits,
            physical_bits,
            large_addresses: physical_bits > 48 || virtual_bits > 48,
            upper_half: false,
            mair: 0x0000_0000_bb44_00ff,
            hardware_access: true,
            hardware_dirty: true,
            ignores_limits: false,
            pan: false,
            write_implies_no_execute: false,
        }
    }
}

/// The geometry and the addresses, which both stages share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granule {
    pub(super) shift: u32,
    pub(super) large_addresses: bool,
    pub(super) physical_bits: u32,
}

/// What bits 0, 1 and the level say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Invalid,
    Table,
    Leaf,
}

impl Granule {
    pub(super) fn index_bits(self) -> u32 {
        self.shift - 3
    }

    /// The lowest index bit of the root for addresses of `width` bits.
    pub(super) fn top(self, width: u32) -> u32 {
        let mut shift = self.shift;
        while shift + self.index_bits() < width {
            shift += self.index_bits();
        }
        shift
    }

    pub(super) fn shape(self, shift: u32, word: u64) -> Shape {
        let blocks: &[u32] = match (self.shift, self.large_addresses) {
            (12, false) => &[21, 30],
            (12, true) => &[21, 30, 39],
            (14, false) => &[25],
            (14, true) => &[25, 36],
            (16, false) => &[29],
            _ => &[29, 42],
        };
        match word & 0x3 {
            0x3 if shift == self.shift => Shape::Leaf,
            0x3 => Shape::Table,
            0x1 if blocks.contains(&shift) => Shape::Leaf,
            _ => Shape::Invalid,
        }
    }

    /// The address in an entry, and whether bits are set that no address may have.
    pub(super) fn address(self, shift: u32, word: u64, is_leaf: bool) -> (u64, bool) {
        let (address, zero) = match (self.shift, self.large_addresses) {
            (16, true) => (word & bits(16, 48) | (word & 0xf000) << 36, 0),
            (_, true) => (word & bits(self.shift, 50) | (word & 0x300) << 42, 0),
            (_, false) => (word & bits(self.shift, 48), bits(48, 50)),
        };
        let unaligned = if is_leaf { bits(0, shift) } else { bits(0, self.shift) };
        // Between the attributes and the address there is nothing that may be set.
        let low = if self.shift == 16 && self.large_addresses { 16 } else { 12 };
        let between = word & bits(low, self.shift.max(low)) != 0;
        let beyond = address >> self.physical_bits.min(52) != 0;
        (address, beyond || address & unaligned != 0 || word & zero != 0 || between)
    }

    /// How much a TLB may keep as one if the entry has the contiguous bit, as a power of two.
    pub(super) fn span(self, shift: u32, word: u64) -> u32 {
        let group = match (self.shift, shift) {
            (12, 12 | 21 | 30) => 4,
            (14, 14) => 7,
            (14, 25) | (16, 16 | 29) => 5,
            _ => 0,
        };
        if word & 0x0010_0000_0000_0000 != 0 { shift + group } else { shift }
    }
}

impl AArch64Registers {
    fn layout(&self) -> Granule {
        Granule { shift: self.granule, large_addresses: self.large_addresses, physical_bits: self.physical_bits }
    }
}

impl Regime for AArch64Registers {
    fn page_shift(&self) -> u32 {
        self.granule
    }

    fn has(&self, address: u64) -> bool {
        is_zero_extended(if self.upper_half { !address } else { address }, self.virtual_bits)
    }

    fn top(&self) -> u32 {
        self.layout().top(self.virtual_bits)
    }

    fn index_bits(&self, shift: u32) -> u32 {
        self.layout().index_bits().min(self.virtual_bits - shift)
    }

    fn below(&self, shift: u32) -> u32 {
        shift - self.layout().index_bits()
    }

    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        let layout = self.layout();
        let shape = layout.shape(shift, word);
        if shape == Shape::Invalid {
            // Patterns that are reserved are invalid as well.
            return Step::Absent;
        }
        let (address, is_wrong) = layout.address(shift, word, shape == Shape::Leaf);
        if is_wrong {
            return Step::Reserved;
        }
        if shape == Shape::Table {
            let limits = if self.ignores_limits { 0 } else { word };
            let below = Rights {
                write: above.write && limits & 0x4000_0000_0000_0000 == 0,
                user: above.user && limits & 0x2000_0000_0000_0000 == 0,
                execute: above.execute && limits & 0x1000_0000_0000_0000 == 0,
                kernel_execute: above.kernel_execute && limits & 0x0800_0000_0000_0000 == 0,
                ..above
            };
            return Step::Table { address, below, marked: word };
        }
        let Some(memory) = mair_type(self.mair >> ((word >> 2 & 7) * 8) & 0xff) else { return Step::Reserved };
        if !self.large_addresses && word & 0x300 == 0x100 {
            return Step::Reserved;
        }
        let read_only = word & 0x80 != 0;
        let by_hardware = self.hardware_dirty && word & 0x0008_0000_0000_0000 != 0;
        let rights = Rights {
            write: above.write && (!read_only || by_hardware),
            user: above.user && word & 0x40 != 0,
            execute: above.execute && word & 0x0040_0000_0000_0000 == 0,
            kernel_execute: above.kernel_execute && word & 0x0020_0000_0000_0000 == 0,
            ..above
        };
        let is_marked = word & 0x400 != 0 || self.hardware_access;
        let after_write = if by_hardware { word & !0x80 } else { word };
        let span = layout.span(shift, word);
        Step::Leaf(Leaf {
            base: address >> span << span,
            span,
            own: Some(address),
            rights,
            memory,
            global: word & 0x800 == 0,
            dirty: !read_only,
            after_read: is_marked.then_some(word | 0x400),
            after_write: is_marked.then_some(after_write | 0x400),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        let (write, execute) = (access.contains(Access::WRITE), access.contains(Access::EXECUTE));
        let wxn = self.write_implies_no_execute && rights.write;
        if access.contains(Access::USER) {
            // What EL0 may execute it need not be able to read.
            return (!execute || rights.execute && !wxn)
                && (rights.user || execute && !write)
                && (!write || rights.write);
        }
        (!execute || rights.kernel_execute && !wxn && !(rights.user && rights.write))
            && !(self.pan && rights.user && !execute)
            && (!write || rights.write)
    }

    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: false, keeps_absences: false, break_before_make: true }
    }
}
