//! RISC-V Sv32, Sv39, Sv48 and Sv57 (Privileged Architecture, chapter "Supervisor-Level ISA", with Svnapot and Svpbmt).
//!
//! ```text
//!   Sv39 and up:  63 62 61 60   54 53              10 9   8 7 6 5 4 3 2 1 0
//!                 N | PBMT | res. | frame or table   | RSW |D|A|G|U|X|W|R|V       a leaf has R or X
//!   Sv32:         31                             10 9   8 7 6 5 4 3 2 1 0
//!                    frame or table                 | RSW |D|A|G|U|X|W|R|V
//!
//!   N in a leaf of the lowest level: 64 KiB, and the frame's lowest four bits are 1000
//!   PBMT: 0 as the platform says, 1 not cached and weakly ordered, 2 input and output, 3 reserved
//!   reserved: W without R; D, A, U, N, PBMT in a table entry; a larger leaf that is not aligned
//! ```
//!
//! Permissions do not combine over levels, except that a table entry's G makes everything below global. A fault makes a CPU
//! forget nothing, and that nothing is mapped may be remembered.

use super::super::regime::{Leaf, Regime, Rights, Step, TlbRules, bits, is_load, is_sign_extended, is_zero_extended};
use crate::paging::{Access, MemoryType};

/// The registers that a RISC-V hart translates with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RiscVRegisters {
    /// satp.MODE, as the width of a virtual address: 32, 39, 48 or 57.
    pub virtual_bits: u32,
    /// The width of a physical address: at most 34 for Sv32, 56 for the others.
    pub physical_bits: u32,
    /// Svpbmt, with menvcfg.PBMTE.
    pub memory_types: bool,
    /// Svnapot.
    pub contiguous: bool,
    /// Svadu, with menvcfg.ADUE: the hardware sets A and D; otherwise it faults for software to do so.
    pub hardware_marks: bool,
    /// sstatus.SUM: the kernel's loads and stores reach programs' pages.
    pub sum: bool,
    /// sstatus.MXR: what may be executed may be loaded.
    pub mxr: bool,
    /// Whether absent entries are remembered; not with Svvptc (which bounds how long).
    pub keeps_absences: bool,
}

impl RiscVRegisters {
    /// Svpbmt, Svnapot and Svadu, SUM and MXR clear, absent entries remembered.
    pub const fn new(virtual_bits: u32) -> Self {
        Self {
            virtual_bits,
            physical_bits: if virtual_bits == 32 { 34 } else { 56 },
            memory_types: virtual_bits != 32,
            contiguous: virtual_bits != 32,
            hardware_marks: true,
            sum: false,
            mxr: false,
            keeps_absences: true,
        }
    }

    fn is_sv32(&self) -> bool {
        self.virtual_bits == 32
    }
}

impl Regime for RiscVRegisters {
    fn page_shift(&self) -> u32 {
        12
    }

    fn is_narrow(&self) -> bool {
        self.is_sv32()
    }

    fn has(&self, address: u64) -> bool {
        if self.is_sv32() { is_zero_extended(address, 32) } else { is_sign_extended(address, self.virtual_bits) }
    }

    fn top(&self) -> u32 {
        match self.virtual_bits {
            32 => 22,
            39 => 30,
            48 => 39,
            _ => 48,
        }
    }

    fn index_bits(&self, _: u32) -> u32 {
        if self.is_sv32() { 10 } else { 9 }
    }

    fn below(&self, shift: u32) -> u32 {
        shift - if self.is_sv32() { 10 } else { 9 }
    }

    /// Section "Virtual Address Translation Process", steps 3 to 9.
    fn step(&self, shift: u32, word: u64, above: Rights) -> Step {
        if word & 0x1 == 0 {
            return Step::Absent;
        }
        let (read, write, execute) = (word & 0x2 != 0, word & 0x4 != 0, word & 0x8 != 0);
        let attributes = if self.is_sv32() { 0 } else { word & 0xffc0_0000_0000_0000 };
        let frame = word >> 10 & if self.is_sv32() { 0x3f_ffff } else { 0xfff_ffff_ffff };
        let mut base = frame << 12;
        if attributes & 0x1fc0_0000_0000_0000 != 0 || (write && !read) || base & !bits(0, self.physical_bits) != 0 {
            return Step::Reserved;
        }
        let global = above.global || word & 0x20 != 0;
        if !read && !execute {
            if shift == 12 || word & 0xd0 != 0 || attributes != 0 {
                return Step::Reserved;
            }
            return Step::Table { address: base, below: Rights { global, ..above }, marked: word };
        }
        let (napot, pbmt) = (attributes >> 63 != 0, attributes >> 61 & 3);
        if base & bits(0, shift) != 0
            || (napot && (!self.contiguous || shift != 12 || frame & 0xf != 0x8))
            || (pbmt != 0 && !self.memory_types)
        {
            return Step::Reserved;
        }
        let memory = match pbmt {
            0 => MemoryType::WriteBack,
            1 => MemoryType::WriteCombining,
            2 => MemoryType::Device,
            _ => return Step::Reserved,
        };
        if napot {
            base = base >> 16 << 16;
        }
        let (accessed, dirty) = (word & 0x40 != 0, word & 0x80 != 0);
        let hardware = self.hardware_marks;
        Step::Leaf(Leaf {
            base,
            span: if napot { 16 } else { shift },
            own: None,
            rights: Rights {
                read,
                write,
                execute,
                kernel_execute: execute,
                user: word & 0x10 != 0,
                key: 0,
                global: above.global,
            },
            memory,
            global,
            dirty,
            after_read: (accessed || hardware).then_some(word | 0x40),
            after_write: (accessed && dirty || hardware).then_some(word | 0xc0),
        })
    }

    fn permits(&self, rights: Rights, access: Access) -> bool {
        let (write, execute) = (access.contains(Access::WRITE), access.contains(Access::EXECUTE));
        let privilege = match (access.contains(Access::USER), rights.user) {
            (true, user) => user,
            (false, false) => true,
            (false, true) => self.sum && !execute,
        };
        privilege
            && (!write || rights.write)
            && (!execute || rights.execute)
            && (!is_load(access) || rights.read || (self.mxr && rights.execute))
    }

    fn tlb(&self) -> TlbRules {
        TlbRules { forgets_after_fault: false, keeps_absences: self.keeps_absences, break_before_make: false }
    }
}
