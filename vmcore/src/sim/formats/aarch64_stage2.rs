//! AArch64 stage 2, for the guests of a hypervisor at EL2 (Arm ARM, chapter D8, the stage 2 descriptors).
//!
//! ```text
//!   63 62..59 58..55 54 53 52  51  50  49 or 47     G 11 10 9 8  7   6   5     2 1 0
//!   leaf:     | soft. | XN  |Con|DBM|   | output address |-|AF| SH |S2AP[1:0]|MemAttr|T|V
//!   table: like stage 1, without limits
//!
//!   S2AP[0]: read, S2AP[1]: write       XN: 00 executed, 10 not; with FEAT_XNX also 01 by EL0 only, 11 by EL1 only
//!   MemAttr: 0000 nGnRnE, 0101 not cacheable, 1010 write-through, 1111 write-back
//! ```
//!
//! A root may be up to 16 tables side by side ("concatenated"), which saves a level.

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, is_load, is_zero_extended};
use super::aarch64::{Granule, Shape};
use crate::paging::{Access, MemoryType};

/// What a hypervisor at EL2 sets up for a guest.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AArch64Stage2Registers {
    /// The granule as a power of two (VTCR_EL2.TG0): 12, 14 or 16.
    pub granule: u32,
    /// The width of the guest's physical addresses: 64 - VTCR_EL2.T0SZ.
    pub input_bits: u32,
    /// The width of a physical address (VTCR_EL2.PS).
    pub physical_bits: u32,
    /// How many levels there are (VTCR_EL2.SL0), the root being concatenated if they do not reach; `None` for as many as one
    /// root table needs.
    pub levels: Option<u32>,
    /// Entries hold 52-bit addresses: VTCR_EL2.DS with 4 and 16 KiB, FEAT_LPA with 64 KiB.
    pub large_addresses: bool,
    /// VTCR_EL2.HA: the hardware sets AF.
    pub hardware_access: bool,
    /// VTCR_EL2.HD: the hardware makes entries with DBM writable at a store.
    pub hardware_dirty: bool,
    /// FEAT_XNX: execution is permitted to EL1 and EL0 apart.
    pub execute_by_level: bool,
}

impl AArch64Stage2Registers {
    /// AF and DBM by the hardware, no FEAT_XNX, one root table.
    pub const fn new(granule: u32, input_bits: u32, physical_bits: u32) -> Self {
        Self {
            granule,
            input_bits,
            physical_bits,
            levels: None,
            large_addresses: physical_bits > 48 || input_bits > 48,
            hardware_access: true,
            hardware_dirty: true,
            execute_by_level: false,
        }
    }

    fn layout(&self) -> Granule {
        Granule { shift: self.granule, large_addresses: self.large_addresses, physical_bits: self.physical_bits }
    }
}

impl Regime for AArch64Stage2Registers {
    fn page_shift(&self) -> u32 {
        self.granule
    }

    fn has(&self, address: u64) -> bool {
        is_zero_extended(address, self.input_bits)
    }

    fn top(&self) -> u32 {
        match self.levels {
            Some(levels) => self.granule + (levels - 1) * self.layout().index_bits(),
            None => self.layout().top(self.input_bits),
        }
    }

    fn index_bits(&self, shift: u32) -> u32 {
        if shift == self.top() { self.input_bits - shift } else { self.layout().index_bits() }
    }

    fn below(&self, shift: u32) -> u32 {
        shift - self.layout().index_bits()
    }

    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        let layout = self.layout();
        let shape = layout.shape(shift, word);
        if shape == Shape::Invalid {
            return Step::Absent;
        }
        let (address, is_wrong) = layout.address(shift, word, shape == Shape::Leaf);
        if is_wrong {
            return Step::Reserved;
        }
        if shape == Shape::Table {
            return Step::Table { address, below: above, marked: word };
        }
        let memory = match word >> 2 & 0xf {
            0x0 => MemoryType::Device,
            0x1 => MemoryType::DeviceEarly,
            0x2 => MemoryType::DeviceReordering,
            0x3 => MemoryType::DeviceGathering,
            0x5 => MemoryType::WriteCombining,
            0xa => MemoryType::WriteThrough,
            0xf => MemoryType::WriteBack,
            _ => return Step::Reserved,
        };
        if !self.large_addresses && word & 0x300 == 0x100 {
            return Step::Reserved;
        }
        let (execute, kernel_execute) = match (word >> 53 & 3, self.execute_by_level) {
            (0, _) => (true, true),
            (1, true) => (true, false),
            (3, true) => (false, true),
            (2, _) => (false, false),
            // Without FEAT_XNX bit 53 is zero.
            _ => return Step::Reserved,
        };
        let writable = word & 0x80 != 0;
        let by_hardware = self.hardware_dirty && word & 0x0008_0000_0000_0000 != 0;
        let is_marked = word & 0x400 != 0 || self.hardware_access;
        let after_write = if by_hardware { word | 0x80 } else { word };
        let span = layout.span(shift, word);
        Step::Leaf(Leaf {
            base: address >> span << span,
            span,
            own: Some(address),
            rights: Rights {
                read: word & 0x40 != 0,
                write: writable || by_hardware,
                execute,
                kernel_execute,
                user: false,
                ..above
            },
            memory,
            global: false,
            dirty: writable,
            after_read: is_marked.then_some(word | 0x400),
            after_write: is_marked.then_some(after_write | 0x400),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        let executes = if access.contains(Access::USER) { rights.execute } else { rights.kernel_execute };
        (!is_load(access) || rights.read)
            && (!access.contains(Access::WRITE) || rights.write)
            && (!access.contains(Access::EXECUTE) || executes)
    }

    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: false, keeps_absences: false, break_before_make: true }
    }
}
