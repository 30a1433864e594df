//! RISC-V, Sv32: two levels of 32-bit entries, 4 KiB and 4 MiB leaves.
//!
//! RISC-V Privileged Architecture, section "Sv32: Page-Based 32-bit Virtual-Memory Systems".
//!
//! ```text
//!   address   31..22   21..12   11..0
//!             VPN[1]   VPN[0]   offset
//!   level      1        0
//!
//!             31...............20 19..........10 9..8 7 6 5 4 3 2 1 0
//!   table     table's address (33..12)           RSW  0 0 G 0 0 0 0 V=1      (7: D, 6: A, 4: U reserved)
//!   4 KiB     page's address (33..12)            soft D A G U X W R V=1
//!   4 MiB     address (33..22)    0 (else fault) soft D A G U X W R V=1
//! ```
//!
//! A leaf is an entry with R, W or X; W without R is reserved. The leaf alone decides what is allowed. A global mark in a table's
//! entry would make global what lies below; ours is clear. Memory types are the platform's (PMA): what is encoded is write-back, that is,
//! whatever the platform says, and nothing else exists. Where the hardware faults instead of setting A and D (Svade), leaves are
//! to be written as [used](crate::paging::Leaf::used).

use super::clamp;
use super::riscv_entry::{COMMON, MIN_PHYSICAL_BITS, level};
use crate::paging::{Canonical, Format, MemoryType, Mmu};

const MAX_PHYSICAL_BITS: u32 = 34;

const FORMAT: Format = Format {
    name: "RISC-V, Sv32",
    levels: &[level(12, 10, MAX_PHYSICAL_BITS, "VPN[0]"), level(22, 10, MAX_PHYSICAL_BITS, "VPN[1]")],
    canonical: Canonical::ZeroExtended,
    absent: (1, 31),
    ..COMMON
};

/// A 32-bit RISC-V MMU (`satp` mode Sv32).
#[derive(Clone, Copy, Debug)]
pub struct RiscV32 {
    physical_bits: u32,
    tag_bits: u8,
}

impl RiscV32 {
    /// Sv32 on a machine with `physical_bits` bits of physical address, 34 at most.
    ///
    /// Widths outside of 20 to 34 are taken as the nearer of the two.
    pub const fn new(physical_bits: u32) -> Self {
        Self { physical_bits: clamp(physical_bits, MIN_PHYSICAL_BITS, MAX_PHYSICAL_BITS), tag_bits: 0 }
    }

    /// The same with tags of so many bits, 9 at most: the ASIDs, found as [`RiscV64::asid_bits`](super::RiscV64::asid_bits) says.
    pub const fn asid_bits(mut self, bits: u32) -> Self {
        self.tag_bits = clamp(bits, 0, 9) as u8;
        self
    }
}

// SAFETY: the description above is that of the manual's Sv32: 1,024 entries of 4 bytes fill a frame of 4 KiB, shifts grow by 10 from 12,
// and the address fields reach up to bit 33, which `new` never lets the physical width pass.
unsafe impl Mmu for RiscV32 {
    type Word = u32;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        2
    }

    #[inline]
    fn physical_bits(&self) -> u32 {
        self.physical_bits
    }

    #[inline]
    fn tags(&self) -> u32 {
        1 << self.tag_bits
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        if memory == MemoryType::WriteBack { Some(0) } else { None }
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        if code == 0 { Some(MemoryType::WriteBack) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::paging::{EncodeError, Entry, Leaf, Limits};

    /// Words put together by hand from the manual's figure "Sv32 page table entry".
    #[test]
    fn words_from_the_manual() {
        let mmu = RiscV32::new(34);
        // V, R, W, U; PPN 0x3f_ffff.
        let user = Leaf::new(Frame::new(0x3f_ffff)).user().writable();
        assert_eq!(mmu.encode_leaf(0, user), Ok(0xffff_fc17));
        // V, R, X, G, A; 4 MiB at 0x80000000; software bits 9 and 8.
        let kernel = Leaf::new(Frame::new(0x8_0000)).executable().global().used().software(3);
        assert_eq!(mmu.encode_leaf(1, kernel), Ok(0x2000_036b));
        assert_eq!(mmu.encode_table(1, Frame::new(0x8_0001)), Ok(0x2000_0401));
        assert_eq!(mmu.decode(1, 0x2000_0421), Entry::Table(Frame::new(0x8_0001), Limits::NONE));
        for (level, word, why) in [
            (0, 0x0000_0405, "written, not read"),
            (0, 0x0000_0401, "a table below the last level"),
            (1, 0x0000_0403, "a misaligned megapage"),
            (1, 0x2000_0411, "U in a table's entry"),
            (1, 0x2000_0441, "A in a table's entry"),
        ] {
            assert_eq!(mmu.decode(level, word), Entry::Reserved, "{why}");
        }
        assert_eq!(mmu.decode(0, 0xffff_fffe), Entry::Absent(0x7fff_ffff));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let mmu = RiscV32::new(32);
        let leaf = Leaf::new(Frame::new(1));
        let uncached = MemoryType::Uncached;
        assert_eq!(mmu.encode_leaf(0, leaf.memory(uncached)), Err(EncodeError::MemoryType(uncached)));
        assert_eq!(mmu.encode_leaf(1, leaf), Err(EncodeError::Frame(leaf.frame)));
        assert_eq!(mmu.encode_leaf(0, Leaf::new(Frame::new(1 << 20))), Err(EncodeError::Frame(Frame::new(1 << 20))));
        assert_eq!(mmu.encode_leaf(0, leaf.software(4)), Err(EncodeError::Software(4)));
        assert_eq!(mmu.encode_contiguous(0, leaf), Err(EncodeError::Contiguous(0)));
        assert!(mmu.range(0xffff_f000, 0x1000).is_ok() && mmu.range(1 << 32, 0x1000).is_err());
    }
}
