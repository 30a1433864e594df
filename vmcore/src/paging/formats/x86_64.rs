//! x86-64: four or five levels of tables, 4 KiB, 2 MiB and 1 GiB leaves.
//!
//! Intel SDM volume 3A, section 5.5 "4-Level Paging and 5-Level Paging" (tables 5-14 to 5-20), section 5.6.2 "Protection Keys", section 5.9
//! "Paging and Memory Typing"; AMD APM volume 2, section 5.3. (Older editions count this chapter 4.)
//!
//! ```text
//!   address   63..57   56..48   47..39    38..30    29..21    20..12    11..0
//!             = top    PML5     PML4      PDPT      PD        PT        offset
//!   level              4         3         2         1         0
//!
//!             63 62..59 58..52 51..MAX MAX-1..............12 11..9 8   7   6   5   4   3   2   1   0
//!   table     XD  ign.   ign.   res.    table's address       ign. -  PS=0 -   A  PCD PWT U/S R/W P=1
//!   4 KiB     XD  key    ign.   res.    page's address        soft G  PAT  D   A  PCD PWT U/S R/W P=1
//!   2 MiB     XD  key    ign.   res.    address (51..21) res. soft G  PS=1 D   A  PCD PWT U/S R/W P=1
//!                                          bits 20..13 reserved, PAT is bit 12
//!   1 GiB     as 2 MiB                  address (51..30)      bits 29..13 reserved, PAT is bit 12
//! ```
//!
//! MAX is the physical width (CPUID 80000008h); the bits from it to 51 are reserved. PAT, PCD and PWT are the index into the
//! eight types of IA32_PAT. Permissions combine over levels: a table entry of ours sets R/W and U/S and leaves XD
//! clear, so that the leaf alone decides. PS is reserved in PML4 and PML5 entries. XD is reserved unless EFER.NXE is set: set it before
//! tables are used. The key is ignored unless CR4.PKE (user pages) or CR4.PKS (others) is set. Five levels (CR4.LA57) are chosen by value, before
//! paging is turned on. An absent entry's other 63 bits are ignored.

use super::x86_entry::{COMMON, Found, MAX_PHYSICAL_BITS, PAGE_SIZE, PT, large};
use crate::paging::{Canonical, Format, LeafTest, LevelFormat, MemoryType, Mmu, PatLayout};

/// A level without leaves.
const fn upper(shift: u32, name: &'static str) -> LevelFormat {
    LevelFormat { shift, leaf_test: LeafTest::Never, table_reserved: PAGE_SIZE, name, ..PT }
}

const FORMAT: Format = Format {
    name: "x86-64",
    levels: &[PT, large(21, "PD"), large(30, "PDPT"), upper(39, "PML4"), upper(48, "PML5")],
    canonical: Canonical::SignExtended,
    key: (59, 4),
    ..COMMON
};

/// An x86-64 MMU with four or five levels.
#[derive(Clone, Copy, Debug)]
pub struct X86_64 {
    found: Found,
    five_levels: bool,
    /// Whether the processor has 1 GiB leaves.
    gigabyte_leaves: bool,
    process_contexts: bool,
}

impl X86_64 {
    /// The MMU of a machine with `physical_bits` bits of physical address (CPUID 80000008h), four levels and the [standard](PatLayout::STANDARD)
    /// layout, which the embedder programs into IA32_PAT.
    ///
    /// Widths outside of 32 to 52 are taken as the nearer of the two: no machine has them.
    pub const fn new(physical_bits: u32) -> Self {
        Self::with_pat(physical_bits, PatLayout::STANDARD)
    }

    /// The same with another layout, for example the one that is found in IA32_PAT ([`PatLayout::from_msr`]).
    pub const fn with_pat(physical_bits: u32, layout: PatLayout) -> Self {
        let found = Found::new(physical_bits, MAX_PHYSICAL_BITS, layout);
        Self { found, five_levels: false, gigabyte_leaves: true, process_contexts: false }
    }

    /// The same with five levels: addresses of 57 bits, for when CR4.LA57 is set.
    pub const fn five_levels(mut self) -> Self {
        self.five_levels = true;
        self
    }

    /// The same for a processor without 1 GiB leaves (CPUID 80000001h, bit 26 of EDX is clear): none are made, and what
    /// would be one is malformed.
    pub const fn without_gigabyte_leaves(mut self) -> Self {
        self.gigabyte_leaves = false;
        self
    }

    /// The same with process-context identifiers, for when CR4.PCIDE is set (CPUID 1, bit 17 of ECX; section 5.10.1): 4096 tags. What
    /// a CPU forgets then is that of the tag in CR3 alone, so have INVPCID, or flush everything in its place
    /// ([`FlushScope`](crate::paging::FlushScope)).
    pub const fn pcid(mut self) -> Self {
        self.process_contexts = true;
        self
    }

    /// The layout of memory types.
    pub const fn pat(&self) -> PatLayout {
        self.found.pat()
    }
}

// SAFETY: the description above is that of the manuals' 4-level and 5-level paging: 512 entries of 8 bytes fill a frame of 4 KiB, shifts
// grow by 9 from 12, and the address fields reach up to bit 51, which `with_pat` never lets the physical width pass.
unsafe impl Mmu for X86_64 {
    type Word = u64;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        if self.five_levels { 5 } else { 4 }
    }

    #[inline]
    fn physical_bits(&self) -> u32 {
        self.found.physical_bits
    }

    #[inline]
    fn tags(&self) -> u32 {
        if self.process_contexts { 1 << 12 } else { 1 }
    }

    #[inline]
    fn beyond_physical(&self) -> u64 {
        self.found.beyond_physical
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        self.found.memory.code(memory)
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        self.found.memory.memory(code)
    }

    #[inline]
    fn lacks_leaves(&self, level: usize) -> bool {
        level == 2 && !self.gigabyte_leaves
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::{Frame, RangeFault};
    use crate::paging::{EncodeError, Entry, Leaf, Limits};

    /// Words put together by hand from the SDM's tables 5-15 to 5-20.
    #[test]
    fn words_from_the_manual() {
        let mmu = X86_64::new(52);
        let leaf = |frame| Leaf::new(Frame::new(frame));
        let user_wc = leaf(0xfd000).user().writable().memory(MemoryType::WriteCombining);
        // P, R/W, U/S, PWT, PAT (index 5), XD.
        assert_eq!(mmu.encode_leaf(0, user_wc), Ok(0x8000_0000_fd00_008f));
        // P, PS, G, A, D, R/W; executable by the kernel.
        let kernel_2m = leaf(0x200).writable().executable().global().used();
        assert_eq!(mmu.encode_leaf(1, kernel_2m), Ok(0x0000_0000_0020_01e3));
        // P, PS, PAT at bit 12 (index 4), XD.
        assert_eq!(mmu.encode_leaf(2, leaf(0x4_0000).memory(MemoryType::WriteProtected)), Ok(0x8000_0000_4000_1081));
        // P, PCD and PWT (index 3), the highest frame there is, software bits 9 to 11.
        let top = leaf((1 << 40) - 1).memory(MemoryType::Uncached).executable().software(7);
        assert_eq!(mmu.encode_leaf(0, top), Ok(0x000f_ffff_ffff_fe19));
        assert_eq!(mmu.encode_table(3, Frame::new(0x1234)), Ok(0x123_4007));
        assert_eq!(mmu.decode(3, 0x123_4007), Entry::Table(Frame::new(0x1234), Limits::NONE));
        assert_eq!(mmu.decode(3, 0x123_4087), Entry::Reserved, "PS in a PML4 entry");
        assert_eq!(mmu.decode(1, 0x0020_2081), Entry::Reserved, "address bit 13 of a 2 MiB leaf");
        assert_eq!(X86_64::new(40).decode(0, 1 | 1 << 40), Entry::Reserved, "beyond the physical width");
        assert_eq!(mmu.decode(0, 0xffff_ffff_ffff_fffe), Entry::Absent(u64::MAX >> 1));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let mmu = X86_64::new(40);
        let leaf = Leaf::new(Frame::new(0x200));
        assert_eq!(mmu.encode_leaf(3, leaf), Err(EncodeError::NoLeafAtLevel(3)));
        assert_eq!(mmu.encode_leaf(usize::MAX, leaf), Err(EncodeError::NoLeafAtLevel(usize::MAX)));
        let unaligned = Leaf::new(Frame::new(0x201));
        assert_eq!(mmu.encode_leaf(1, unaligned), Err(EncodeError::Frame(unaligned.frame)));
        assert_eq!(mmu.encode_leaf(0, leaf.software(8)), Err(EncodeError::Software(8)));
        assert_eq!(mmu.encode_table(0, leaf.frame), Err(EncodeError::NoTableAtLevel(0)));
        assert!(mmu.encode_table(1, Frame::new(1 << 28)).is_err());
        let reset = X86_64::with_pat(40, PatLayout::RESET);
        let combining = leaf.memory(MemoryType::WriteCombining);
        assert_eq!(reset.encode_leaf(0, combining), Err(EncodeError::MemoryType(MemoryType::WriteCombining)));
        assert_eq!((X86_64::new(0).physical_bits(), X86_64::new(u32::MAX).physical_bits()), (32, 52));
    }

    #[test]
    fn without_gigabyte_leaves_there_are_none() {
        let mmu = X86_64::new(40).without_gigabyte_leaves();
        let leaf = Leaf::new(Frame::new(0x4_0000));
        assert_eq!(mmu.encode_leaf(2, leaf), Err(EncodeError::NoLeafAtLevel(2)));
        let word = X86_64::new(40).encode_leaf(2, leaf).unwrap();
        assert_eq!(mmu.decode(2, word), Entry::Reserved, "the processor would fault on it");
        assert_eq!(mmu.encode_leaf(1, leaf), X86_64::new(40).encode_leaf(1, leaf));
        assert_eq!(mmu.encode_table(2, leaf.frame), X86_64::new(40).encode_table(2, leaf.frame));
    }

    #[test]
    fn non_canonical_is_error() {
        let mmu = X86_64::new(40);
        for start in [0x8000_0000_0000, 0xffff_7fff_ffff_f000, 0x1234_0000_0000_0000] {
            assert_eq!(mmu.range(start, 0x1000).unwrap_err().fault, RangeFault::NonCanonical, "{start:#x}");
        }
        assert!(mmu.range(0x7fff_ffff_f000, 0x1000).is_ok());
        assert!(mmu.range(0xffff_8000_0000_0000, 1 << 47).is_ok());
    }

    #[test]
    fn range_across_canonical_hole() {
        let mmu = X86_64::new(40);
        assert_eq!(mmu.range(0x7fff_ffff_f000, 0x2000).unwrap_err().fault, RangeFault::NonCanonical);
        let across = mmu.range(0x7fff_ffff_f000, 0xffff_0000_0000_2000_u64).unwrap_err();
        assert_eq!(across.fault, RangeFault::NonCanonical, "both ends exist, what lies between does not");
    }

    #[test]
    fn huge_range_end_overflow() {
        let mmu = X86_64::new(40);
        assert_eq!(mmu.range(0xffff_ffff_ffff_f000, 0x2000).unwrap_err().fault, RangeFault::Overflow);
        assert_eq!(mmu.range(0x2000, !0xfff).unwrap_err().fault, RangeFault::Overflow);
        assert_eq!(mmu.range(0xffff_ffff_ffff_f000, 0x1000).unwrap().last().as_u64(), u64::MAX);
    }

    proptest! {
        /// Any word has a meaning, and a leaf's meaning can be written again.
        #[test]
        fn any_word_decodes(word: u64, level in 0_usize..8, physical_bits: u32) {
            let mmu = X86_64::new(physical_bits);
            for word in [word, word | 1, word & 0xfff | 1, word & !0x003f_e000 | 0x81] {
                if let Entry::Leaf(leaf) = mmu.decode(level, word) {
                    let again = mmu.encode_leaf(level, leaf).unwrap();
                    prop_assert_eq!(mmu.decode(level, again), Entry::Leaf(leaf));
                }
            }
        }

        #[test]
        fn any_range_is_judged(start: u64, size: u64) {
            if let Ok(range) = X86_64::new(40).range(start, size) {
                prop_assert_eq!((range.start().as_u64(), range.size()), (start, size));
            }
        }
    }
}
