//! x86 with physical address extension: three levels of 64-bit entries, 4 KiB and 2 MiB leaves, a root of four entries.
//!
//! Intel SDM volume 3A, section 5.4 "PAE Paging" (tables 5-7 to 5-12).
//!
//! ```text
//!   address   31..30   29..21   20..12   11..0
//!             PDPT     PD       PT       offset
//!   level      2        1        0
//!
//!             63 62..MAX MAX-1..............12 11..9 8   7   6   5   4   3   2   1   0
//!   PDPTE     res.  res.  table's address       ign. res............ PCD PWT res. res. P=1
//!   table     XD  res.    table's address       ign. -  PS=0 -   A  PCD PWT U/S R/W P=1
//!   4 KiB     XD  res.    page's address        soft G  PAT  D   A  PCD PWT U/S R/W P=1
//!   2 MiB     XD  res.    address (51..21) res. soft G  PS=1 D   A  PCD PWT U/S R/W P=1
//!                         bits 20..13 reserved, PAT is bit 12
//! ```
//!
//! Permissions combine over the two lower levels; the top one has none. XD is reserved unless EFER.NXE is set: set it before tables are
//! used. There are no protection keys, and bits 62..52 are reserved.
//!
//! The root is 32 bytes, at a frame below 4 GiB, since CR3 has 32 bits. Loading CR3 copies its four entries into the CPU, which does
//! not look at them again (section 5.4.1): load it again when a flush [notes tables](crate::paging::FlushScope::tables). A slot of the root that is filled
//! while the root is loaded is seen by other CPUs by a fault that finds all in order, whose flush notes tables. Whoever has
//! [`Tables`](crate::paging::Tables) alone fills all four slots with [`Tables::pin_root_slots`](crate::paging::Tables::pin_root_slots)
//! before the root is used; they then never change.

use super::bits;
use super::x86_entry::{COMMON, Found, MAX_PHYSICAL_BITS, PRESENT, PT, large};
use crate::paging::{Format, LeafTest, LevelFormat, MemoryType, Mmu, PatLayout};

/// Reserved in every entry of the two lower levels.
const RESERVED: u64 = bits(52, 63);

const fn lower(level: LevelFormat) -> LevelFormat {
    LevelFormat { leaf_reserved: level.leaf_reserved | RESERVED, table_reserved: RESERVED, ..level }
}

const FORMAT: Format = Format {
    name: "x86, PAE",
    levels: &[
        lower(PT),
        lower(large(21, "PD")),
        LevelFormat {
            shift: 30,
            index_bits: 2,
            leaf_test: LeafTest::Never,
            table_set: PRESENT,
            table_reserved: bits(1, 3) | bits(5, 9) | bits(52, 64),
            table_limits: false,
            name: "PDPT",
            ..PT
        },
    ],
    ..COMMON
};

/// A 32-bit x86 MMU with CR4.PAE and EFER.NXE set.
#[derive(Clone, Copy, Debug)]
pub struct X86Pae {
    found: Found,
}

impl X86Pae {
    /// The MMU of a machine with `physical_bits` bits of physical address (CPUID 80000008h) and the [standard](PatLayout::STANDARD)
    /// layout, which the embedder programs into IA32_PAT.
    ///
    /// Widths outside of 32 to 52 are taken as the nearer of the two: no machine has them.
    pub const fn new(physical_bits: u32) -> Self {
        Self::with_pat(physical_bits, PatLayout::STANDARD)
    }

    /// The same with another layout.
    pub const fn with_pat(physical_bits: u32, layout: PatLayout) -> Self {
        Self { found: Found::new(physical_bits, MAX_PHYSICAL_BITS, layout) }
    }

    /// The layout of memory types.
    pub const fn pat(&self) -> PatLayout {
        self.found.pat()
    }
}

// SAFETY: the description above is that of the manual's PAE paging: 512 entries of 8 bytes fill a frame of 4 KiB, the root's four lie
// in one; shifts grow by 9 from 12, and the address fields reach up to bit 51, which `with_pat` never lets the physical width pass.
unsafe impl Mmu for X86Pae {
    type Word = u64;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        3
    }

    #[inline]
    fn physical_bits(&self) -> u32 {
        self.found.physical_bits
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        self.found.memory.code(memory)
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        self.found.memory.memory(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::paging::{Access, EncodeError, Entry, Leaf, Limits};

    /// Words put together by hand from the SDM's tables 5-8 to 5-12.
    #[test]
    fn words_from_the_manual() {
        let mmu = X86Pae::new(52);
        // P, PWT, PCD: nothing but P is ours to set in a PDPTE.
        assert_eq!(mmu.encode_table(2, Frame::new(0x1234)), Ok(0x123_4001));
        assert_eq!(mmu.decode(2, 0x123_4019), Entry::Table(Frame::new(0x1234), Limits::NONE));
        for bit in [1, 2, 5, 6, 7, 8, 52, 63] {
            assert_eq!(mmu.decode(2, 0x123_4001 | 1 << bit), Entry::Reserved, "bit {bit} of a PDPTE");
        }
        assert_eq!(mmu.encode_table(1, Frame::new(0x1234)), Ok(0x123_4007));
        let Entry::Table(_, limits) = mmu.decode(1, 0x8000_0000_0123_4001) else { panic!("a table") };
        assert_eq!(Access::all() & limits, Access::READ);
        let user_wc = Leaf::new(Frame::new(0xf_fd000)).user().writable().memory(MemoryType::WriteCombining);
        assert_eq!(mmu.encode_leaf(0, user_wc), Ok(0x8000_000f_fd00_008f));
        let kernel_2m = Leaf::new(Frame::new(0x200)).writable().executable().global().used();
        assert_eq!(mmu.encode_leaf(1, kernel_2m), Ok(0x0000_0000_0020_01e3));
        assert_eq!(mmu.decode(0, 1 | 1 << 59), Entry::Reserved, "no protection keys");
        assert_eq!(mmu.decode(1, 0x0020_2081), Entry::Reserved, "address bit 13 of a 2 MiB leaf");
        assert_eq!(mmu.encode_leaf(2, kernel_2m), Err(EncodeError::NoLeafAtLevel(2)));
        assert_eq!(mmu.virtual_bits(), 32);
    }
}
