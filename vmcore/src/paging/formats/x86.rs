//! x86, 32-bit: two levels of 32-bit entries, 4 KiB and 4 MiB leaves.
//!
//! Intel SDM volume 3A, section 5.3 "32-Bit Paging" (tables 5-3 to 5-6).
//!
//! ```text
//!   address   31..22   21..12   11..0
//!             PD       PT       offset
//!   level      1        0
//!
//!             31..............22 21   20....13     12    11..9 8  7    6  5  4   3   2   1   0
//!   table     table's address (31..12)                   ign.  -  PS=0 -  A PCD PWT U/S R/W P=1
//!   4 KiB     page's address (31..12)                    soft  G  PAT  D  A PCD PWT U/S R/W P=1
//!   4 MiB     address (31..22)   res. addr. 39..32 PAT   soft  G  PS=1 D  A PCD PWT U/S R/W P=1
//! ```
//!
//! CR4.PSE is set. Of a machine with PSE-36 a 4 MiB leaf reaches 40 bits of physical address; a 4 KiB leaf and every table
//! lie below 4 GiB, and anything else is an error that names the frame. (An operation that may have to split a leaf, as mapping a
//! range, therefore refuses frames beyond 4 GiB.) Nothing can be forbidden to be executed or read: an access without both is an
//! error. Permissions combine over levels. The root is the page directory, below 4 GiB.

use super::in_place;
use super::x86_entry::{COMMON, Found, PERMISSIONS_WITHOUT_DISABLE, PT, large};
use crate::paging::{AddressField, Format, LevelFormat, MemoryType, Mmu, PatLayout};

/// What a 4 MiB leaf reaches with PSE-36.
const MAX_PHYSICAL_BITS: u32 = 40;

const FORMAT: Format = Format {
    name: "x86, 32-bit",
    levels: &[
        LevelFormat { index_bits: 10, leaf_address: in_place(12, 32), table_address: AddressField::NONE, ..PT },
        LevelFormat {
            index_bits: 10,
            leaf_reserved: 1 << 21,
            leaf_address: in_place(22, 32),
            leaf_address_high: AddressField { address_low: 32, entry_low: 13, width: 8 },
            table_address: in_place(12, 32),
            ..large(22, "PD")
        },
    ],
    leaf: PERMISSIONS_WITHOUT_DISABLE,
    table: Some(PERMISSIONS_WITHOUT_DISABLE),
    absent: (1, 31),
    ..COMMON
};

/// A 32-bit x86 MMU with CR4.PSE set.
#[derive(Clone, Copy, Debug)]
pub struct X86 {
    found: Found,
}

impl X86 {
    /// The MMU of a machine whose 4 MiB leaves reach `physical_bits` bits of physical address (32 without PSE-36, and 40
    /// at most), with the [standard](PatLayout::STANDARD) layout, which the embedder programs into IA32_PAT.
    ///
    /// Widths outside of 32 to 40 are taken as the nearer of the two.
    pub const fn new(physical_bits: u32) -> Self {
        Self::with_pat(physical_bits, PatLayout::STANDARD)
    }

    /// The same with another layout; [`PatLayout::RESET`] for a machine without a page attribute table.
    pub const fn with_pat(physical_bits: u32, layout: PatLayout) -> Self {
        Self { found: Found::new(physical_bits, MAX_PHYSICAL_BITS, layout) }
    }

    /// The layout of memory types.
    pub const fn pat(&self) -> PatLayout {
        self.found.pat()
    }
}

// SAFETY: the description above is that of the manual's 32-bit paging: 1,024 entries of 4 bytes fill a frame of 4 KiB, shifts grow by 10
// from 12; a frame that an address field loses is refused by what encodes it.
unsafe impl Mmu for X86 {
    type Word = u32;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        2
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

    fn leaf(frame: u64) -> Leaf {
        Leaf::new(Frame::new(frame)).executable()
    }

    /// Words put together by hand from the SDM's tables 5-4 to 5-6.
    #[test]
    fn words_from_the_manual() {
        let mmu = X86::new(40);
        // P, R/W, U/S, PWT, PAT (index 5).
        let wc = leaf(0xfd000).user().writable().memory(MemoryType::WriteCombining);
        assert_eq!(mmu.encode_leaf(0, wc), Ok(0xfd00_008f));
        // P, R/W, A, D, PS, G.
        assert_eq!(mmu.encode_leaf(1, leaf(0x400).writable().global().used()), Ok(0x0040_01e3));
        // 4 MiB at 0x12_3440_0000: bits 39..32 (0x12) at 20..13; PAT is bit 12 (index 4).
        let far = leaf(0x12_34400).memory(MemoryType::WriteProtected);
        assert_eq!(mmu.encode_leaf(1, far), Ok(0x3440_0000 | 0x12 << 13 | 0x1000 | 0x81));
        assert_eq!(mmu.encode_table(1, Frame::new(0x1234)), Ok(0x123_4007));
        assert_eq!(mmu.decode(1, 0x123_4007), Entry::Table(Frame::new(0x1234), Limits::NONE));
        assert_eq!(mmu.decode(1, 0x0020_0081), Entry::Reserved, "bit 21 of a 4 MiB leaf");
        assert_eq!(X86::new(36).decode(1, 0x0002_0081), Entry::Reserved, "beyond the physical width");
        assert_eq!(mmu.decode(0, 0xffff_fffe), Entry::Absent(0x7fff_ffff));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let mmu = X86::new(36);
        let far = leaf(1 << 20);
        assert_eq!(mmu.encode_leaf(0, far), Err(EncodeError::Frame(far.frame)), "4 KiB leaves lie below 4 GiB");
        assert!(mmu.encode_leaf(1, far).is_ok());
        assert_eq!(mmu.encode_leaf(1, leaf(1 << 24)), Err(EncodeError::Frame(Frame::new(1 << 24))));
        assert_eq!(mmu.encode_table(1, far.frame), Err(EncodeError::Frame(far.frame)));
        assert_eq!(mmu.encode_leaf(0, Leaf::new(Frame::new(1))), Err(EncodeError::Access(Access::READ)));
        assert_eq!(mmu.encode_leaf(0, leaf(1).key(1)), Err(EncodeError::Key(1)));
        assert_eq!(mmu.encode_absent(1 << 31), Err(EncodeError::Payload(1 << 31)));
        assert!(mmu.range(0xffff_f000, 0x1000).is_ok());
        assert!(mmu.range(0xffff_f000, 0x2000).is_err());
    }
}
