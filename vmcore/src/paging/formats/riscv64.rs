//! RISC-V, Sv39, Sv48 and Sv57: three, four or five levels, leaves at every level, with Svpbmt and Svnapot.
//!
//! RISC-V Privileged Architecture, sections "Sv39: Page-Based 39-bit Virtual-Memory System" to "Sv57", "Svnapot" and "Svpbmt".
//!
//! ```text
//!   address   63..57   56..48   47..39   38..30   29..21   20..12   11..0
//!             = top    VPN[4]   VPN[3]   VPN[2]   VPN[1]   VPN[0]   offset
//!   level               4        3        2        1        0
//!                       Sv57     Sv48     Sv39
//!
//!             63 62..61 60..54   53..........................10 9..8 7 6 5 4 3 2 1 0
//!   table     0  0      reserved table's address (55..12)       RSW  0 0 G 0 0 0 0 V=1      (7: D, 6: A, 4: U reserved)
//!   4 KiB     N  PBMT   reserved page's address (55..12)        soft D A G U X W R V=1
//!   64 KiB    1  PBMT   reserved address (55..16), then 1000    soft D A G U X W R V=1      (16 equal entries, Svnapot)
//!   larger    0  PBMT   reserved address, then 0 (else fault)   soft D A G U X W R V=1      (2 MiB, 1 GiB, 512 GiB, 256 TiB)
//! ```
//!
//! A leaf is an entry with R, W or X; W without R is reserved. The leaf alone decides what is allowed. A global mark in a table's
//! entry would make global what lies below; ours is clear. PBMT (Svpbmt, `menvcfg.PBMTE`): 0 leaves the type to the platform's PMA, which for
//! RAM is write-back; 1 is NC ([`MemoryType::WriteCombining`]); 2 is IO ([`MemoryType::Device`]); 3 is reserved. Without Svpbmt and
//! Svnapot their bits are reserved. Where the hardware faults instead of setting A and D (Svade), leaves are to be written as
//! [used](crate::paging::Leaf::used).

use super::riscv_entry::{COMMON, MIN_PHYSICAL_BITS, level};
use super::{UNUSED, bits, clamp};
use crate::paging::{Contiguous, Format, LevelFormat, MemoryType, Mmu};

const MAX_PHYSICAL_BITS: u32 = 56;
/// N.
const NAPOT: u64 = 1 << 63;
/// PBMT, its lowest bit first.
const PBMT: [u64; 4] = [1 << 61, 1 << 62, UNUSED, UNUSED];
/// Reserved in every entry.
const RESERVED: u64 = bits(54, 61);

const fn lowest() -> LevelFormat {
    let plain = level(12, 9, MAX_PHYSICAL_BITS, "VPN[0]");
    LevelFormat {
        leaf_reserved: RESERVED,
        contiguous: Some(Contiguous { mask: NAPOT, count_shift: 4, size_in_address: true }),
        memory_bits: PBMT,
        table_reserved: plain.table_reserved | RESERVED | bits(61, 64),
        ..plain
    }
}

/// A level whose leaves have no groups.
const fn upper(shift: u32, name: &'static str) -> LevelFormat {
    let plain = level(shift, 9, MAX_PHYSICAL_BITS, name);
    let leaf_reserved = plain.leaf_reserved | RESERVED | NAPOT;
    let table_reserved = lowest().table_reserved;
    LevelFormat { leaf_reserved, memory_bits: PBMT, table_reserved, ..plain }
}

const FORMAT: Format = Format {
    name: "RISC-V, Sv39 to Sv57",
    levels: &[lowest(), upper(21, "VPN[1]"), upper(30, "VPN[2]"), upper(39, "VPN[3]"), upper(48, "VPN[4]")],
    ..COMMON
};

/// A 64-bit RISC-V MMU.
#[derive(Clone, Copy, Debug)]
pub struct RiscV64 {
    physical_bits: u32,
    levels: u8,
    memory_types: bool,
    napot: bool,
    tag_bits: u8,
}

impl RiscV64 {
    const fn new(physical_bits: u32, levels: u8) -> Self {
        let physical_bits = clamp(physical_bits, MIN_PHYSICAL_BITS, MAX_PHYSICAL_BITS);
        Self { physical_bits, levels, memory_types: false, napot: false, tag_bits: 0 }
    }

    /// Sv39 on a machine with `physical_bits` bits of physical address, without Svpbmt and Svnapot.
    ///
    /// Widths outside of 20 to 56 are taken as the nearer of the two.
    pub const fn sv39(physical_bits: u32) -> Self {
        Self::new(physical_bits, 3)
    }

    /// Sv48; else as [`sv39`](Self::sv39).
    pub const fn sv48(physical_bits: u32) -> Self {
        Self::new(physical_bits, 4)
    }

    /// Sv57; else as [`sv39`](Self::sv39).
    pub const fn sv57(physical_bits: u32) -> Self {
        Self::new(physical_bits, 5)
    }

    /// The same with memory types in entries.
    pub const fn svpbmt(mut self) -> Self {
        self.memory_types = true;
        self
    }

    /// The same with groups of 64 KiB.
    pub const fn svnapot(mut self) -> Self {
        self.napot = true;
        self
    }

    /// The same with tags of so many bits, 16 at most: the ASIDs. How many bits there are is found by writing ones to satp's field and
    /// reading it back (section "Supervisor Address Translation and Protection (satp) Register").
    pub const fn asid_bits(mut self, bits: u32) -> Self {
        self.tag_bits = clamp(bits, 0, 16) as u8;
        self
    }
}

// SAFETY: the description above is that of the manual: 512 entries of 8 bytes fill a frame of 4 KiB, shifts grow by 9 from 12, and the
// address fields reach up to bit 55, which `new` never lets the physical width pass.
unsafe impl Mmu for RiscV64 {
    type Word = u64;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        usize::from(self.levels)
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
        match memory {
            MemoryType::WriteBack => Some(0),
            MemoryType::WriteCombining if self.memory_types => Some(1),
            MemoryType::Device if self.memory_types => Some(2),
            _ => None,
        }
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        match code {
            0 => Some(MemoryType::WriteBack),
            1 if self.memory_types => Some(MemoryType::WriteCombining),
            2 if self.memory_types => Some(MemoryType::Device),
            _ => None,
        }
    }

    #[inline]
    fn contiguous(&self, level: usize) -> Option<Contiguous> {
        if self.napot { self.level(level)?.contiguous } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::paging::{Access, EncodeError, Entry, Leaf, Limits};

    /// Words put together by hand from the manual's figures of Sv39 to Sv57 entries.
    #[test]
    fn words_from_the_manual() {
        let mmu = RiscV64::sv48(56).svpbmt().svnapot();
        // V, R, W, U; PPN 0x80001.
        let user = Leaf::new(Frame::new(0x8_0001)).user().writable();
        assert_eq!(mmu.encode_leaf(0, user), Ok(0x2000_0417));
        // V, R, X, G, A, D clear; 2 MiB at 0x80200000.
        let kernel = Leaf::new(Frame::new(0x8_0200)).executable().global().used();
        assert_eq!(mmu.encode_leaf(1, kernel), Ok(0x2008_006b));
        // V, X alone; PBMT = 1; the highest 1 GiB.
        let top = Leaf::new(Frame::new((1 << 44) - (1 << 18))).access(Access::EXECUTE);
        assert_eq!(mmu.encode_leaf(2, top.memory(MemoryType::WriteCombining)), Ok(0x203f_ffff_f000_0009));
        // PBMT = 2; 512 GiB at 0.
        let device = Leaf::new(Frame::new(0)).memory(MemoryType::Device);
        assert_eq!(mmu.encode_leaf(3, device), Ok(0x4000_0000_0000_0003));
        assert_eq!(mmu.encode_table(3, Frame::new(0x8_0001)), Ok(0x2000_0401));
        assert_eq!(mmu.decode(3, 0x2000_0401), Entry::Table(Frame::new(0x8_0001), Limits::NONE));
        // 64 KiB at 0x80010000: N, and 1000 in the lowest PPN bits, in each of 16 entries.
        for place in 0..16 {
            let leaf = Leaf::new(Frame::new(0x8_0010 + place));
            assert_eq!(mmu.encode_contiguous(0, leaf), Ok(0x8000_0000_2000_6003));
            assert_eq!(mmu.decode_at(0, 0x30 + place as usize, 0x8000_0000_2000_6003), Entry::Leaf(leaf));
        }
        assert!(mmu.is_contiguous(0, 0x8000_0000_2000_6003));
        for (level, word, why) in [
            (0, 0x0000_0405, "written, not read"),
            (0, 0x6000_0000_0000_0403, "PBMT = 3"),
            (0, 0x0040_0000_0000_0403, "bit 54"),
            (0, 0x8000_0000_2000_4003, "N with another size"),
            (1, 0x8000_0000_2000_0003, "N in a larger leaf"),
            (1, 0x0000_0403, "a misaligned megapage"),
            (1, 0x2000_0000_2000_0001, "PBMT in a table's entry"),
            (1, 0x2000_0011, "U in a table's entry"),
        ] {
            assert_eq!(mmu.decode(level, word), Entry::Reserved, "{why}");
        }
    }

    #[test]
    fn what_this_machine_lacks_is_an_error() {
        let mmu = RiscV64::sv39(56);
        let leaf = Leaf::new(Frame::new(0));
        let device = leaf.memory(MemoryType::Device);
        assert_eq!(mmu.encode_leaf(0, device), Err(EncodeError::MemoryType(MemoryType::Device)));
        assert_eq!(mmu.encode_contiguous(0, leaf), Err(EncodeError::Contiguous(0)));
        assert_eq!(mmu.encode_leaf(3, leaf), Err(EncodeError::NoLeafAtLevel(3)));
        assert_eq!(mmu.decode(0, 0x2000_0000_0000_0403), Entry::Reserved, "PBMT without Svpbmt");
        assert_eq!(mmu.decode(0, 0x8000_0000_2000_6003), Entry::Reserved, "N without Svnapot");
        assert!(mmu.range(0xffff_ffc0_0000_0000, 0x1000).is_ok() && mmu.range(1 << 38, 0x1000).is_err());
        assert!(RiscV64::sv57(56).range(0xff00_0000_0000_0000, 0x1000).is_ok());
    }
}
