//! x86-64: four levels of tables, 4 KiB, 2 MiB and 1 GiB leaves.
//!
//! Intel SDM volume 3A, section 5.5 "4-Level Paging and 5-Level Paging" (tables 5-15 to 5-20), section 5.9 "Paging and
//! Memory Typing", section 13.12 "Page Attribute Table"; AMD APM volume 2, section 5.3. (Older editions count these
//! chapters 4 and 11.)
//!
//! ```text
//!   address   63..48   47..39    38..30    29..21    20..12    11..0
//!             = bit 47  PML4      PDPT      PD        PT        offset
//!   level                3         2         1         0
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
//! clear, so that the leaf alone decides. PS is reserved in a PML4 entry. XD is reserved unless EFER.NXE is set: set it before
//! tables are used.

use crate::paging::{AddressField, Canonical, Flag, Format, LeafTest, LevelFormat, MemoryType, Mmu, Permissions};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u32 = 1;
const USER: u32 = 2;
/// The lowest bit of the index into IA32_PAT.
const PWT: u64 = 1 << 3;
/// The middle bit of the index into IA32_PAT.
const PCD: u64 = 1 << 4;
const ACCESSED: u32 = 5;
const DIRTY: u32 = 6;
const PAGE_SIZE: u64 = 1 << 7;
/// The highest bit of the index into IA32_PAT, in a 4 KiB leaf.
const PAT_SMALL: u64 = 1 << 7;
const GLOBAL: u32 = 8;
/// The highest bit of the index into IA32_PAT, in a larger leaf.
const PAT_LARGE: u64 = 1 << 12;
const EXECUTE_DISABLE: u32 = 63;
/// No bit.
const UNUSED: u64 = 0;
/// Physical addresses have at most this many bits.
const MAX_PHYSICAL_BITS: u32 = 52;
const MIN_PHYSICAL_BITS: u32 = 32;

/// Bits `low` to below `high`.
const fn bits(low: u32, high: u32) -> u64 {
    (1 << high) - (1 << low)
}

const fn address(low: u32) -> AddressField {
    AddressField { address_low: low, entry_low: low, width: MAX_PHYSICAL_BITS - low }
}

const PERMISSIONS: Permissions = Permissions {
    readable: Flag::NONE,
    writable: Flag::yes(WRITABLE),
    executable: Flag::no(EXECUTE_DISABLE),
    kernel_executable: Flag::NONE,
    user: Flag::yes(USER),
};

/// What of the levels is alike.
const LEVEL: LevelFormat = LevelFormat {
    shift: 12,
    index_bits: 9,
    leaf_test: LeafTest::AnySet(PAGE_SIZE),
    leaf_set: PRESENT | PAGE_SIZE,
    leaf_reserved: 0,
    leaf_address: address(12),
    memory_bits: [PWT, PCD, PAT_LARGE, UNUSED],
    table_set: PRESENT | 1 << WRITABLE | 1 << USER,
    table_reserved: 0,
    table_address: address(12),
    name: "",
};

/// A constant and not a static, so that other crates' copies of the generic code see the numbers.
const FORMAT: Format = Format {
    name: "x86-64, 4 levels",
    levels: &[
        LevelFormat {
            leaf_test: LeafTest::Always,
            leaf_set: PRESENT,
            memory_bits: [PWT, PCD, PAT_SMALL, UNUSED],
            name: "PT",
            ..LEVEL
        },
        LevelFormat { shift: 21, leaf_reserved: bits(13, 21), leaf_address: address(21), name: "PD", ..LEVEL },
        LevelFormat { shift: 30, leaf_reserved: bits(13, 30), leaf_address: address(30), name: "PDPT", ..LEVEL },
        LevelFormat { shift: 39, leaf_test: LeafTest::Never, table_reserved: PAGE_SIZE, name: "PML4", ..LEVEL },
    ],
    canonical: Canonical::SignExtended,
    present: PRESENT,
    leaf: PERMISSIONS,
    table: Some(PERMISSIONS),
    global: Flag::yes(GLOBAL),
    accessed: Flag::yes(ACCESSED),
    dirty: Flag::yes(DIRTY),
    address_high: AddressField::NONE,
    software: (9, 3),
};

/// The eight memory types behind the PAT, PCD and PWT bits of an entry: what IA32_PAT (MSR 277h) holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PatLayout([MemoryType; 8]);

impl PatLayout {
    /// What the register holds after reset: WB, WT, UC-, UC, twice.
    pub const RESET: Self = Self([
        MemoryType::WriteBack,
        MemoryType::WriteThrough,
        MemoryType::UncachedMinus,
        MemoryType::Uncached,
        MemoryType::WriteBack,
        MemoryType::WriteThrough,
        MemoryType::UncachedMinus,
        MemoryType::Uncached,
    ]);

    /// All six types: WB, WT, UC-, UC as after reset (so that a loader's tables keep their meaning), then WP, WC, WB, WB.
    pub const STANDARD: Self = Self([
        MemoryType::WriteBack,
        MemoryType::WriteThrough,
        MemoryType::UncachedMinus,
        MemoryType::Uncached,
        MemoryType::WriteProtected,
        MemoryType::WriteCombining,
        MemoryType::WriteBack,
        MemoryType::WriteBack,
    ]);

    /// A layout of one's own; `None` if one of the types does not exist on x86 ([`MemoryType::Device`]).
    pub const fn new(types: [MemoryType; 8]) -> Option<Self> {
        let mut rest: &[MemoryType] = &types;
        while let [first, others @ ..] = rest {
            if encoding(*first).is_none() {
                return None;
            }
            rest = others;
        }
        Some(Self(types))
    }

    /// The eight types, by index.
    pub const fn types(self) -> [MemoryType; 8] {
        self.0
    }

    /// The value of IA32_PAT: a byte per type, index 0 in the lowest.
    pub const fn to_msr(self) -> u64 {
        let mut value = 0;
        let mut shift = 0;
        let mut rest: &[MemoryType] = &self.0;
        while let [first, others @ ..] = rest {
            // Only types with an encoding are ever in a layout.
            if let Some(code) = encoding(*first) {
                value |= (code as u64) << shift;
            }
            shift += 8;
            rest = others;
        }
        value
    }

    /// The layout that a value of IA32_PAT means; `None` if a byte of it is reserved.
    pub fn from_msr(value: u64) -> Option<Self> {
        let mut types = [MemoryType::WriteBack; 8];
        for (memory, byte) in types.iter_mut().zip(value.to_le_bytes()) {
            *memory = MemoryType::ALL.into_iter().find(|memory| encoding(*memory) == Some(byte))?;
        }
        Some(Self(types))
    }

    /// The lowest index of a type.
    const fn index_of(&self, memory: MemoryType) -> Option<u8> {
        let mut index = 0;
        let mut rest: &[MemoryType] = &self.0;
        while let [first, others @ ..] = rest {
            if *first as u8 == memory as u8 {
                return Some(index);
            }
            index += 1;
            rest = others;
        }
        None
    }
}

/// A memory type in IA32_PAT (SDM table 13-10, "Memory Types That Can Be Encoded With PAT").
const fn encoding(memory: MemoryType) -> Option<u8> {
    Some(match memory {
        MemoryType::Uncached => 0,
        MemoryType::WriteCombining => 1,
        MemoryType::WriteThrough => 4,
        MemoryType::WriteProtected => 5,
        MemoryType::WriteBack => 6,
        MemoryType::UncachedMinus => 7,
        MemoryType::Device => return None,
    })
}

/// The level above 2 MiB leaves on a processor without 1 GiB leaves, where the bit that makes one is reserved.
static PDPT_WITHOUT_LEAVES: LevelFormat =
    LevelFormat { shift: 30, leaf_test: LeafTest::Never, table_reserved: PAGE_SIZE, name: "PDPT", ..LEVEL };

/// An x86-64 MMU with four levels.
#[derive(Clone, Copy, Debug)]
pub struct X86_64 {
    physical_bits: u32,
    layout: PatLayout,
    /// Whether the processor has 1 GiB leaves.
    gigabyte_leaves: bool,
    /// The code of each memory type, by its number; made from the layout once, since every leaf that is encoded asks.
    codes: [Option<u8>; MemoryType::ALL.len()],
}

impl X86_64 {
    /// The MMU of a machine with `physical_bits` bits of physical address (CPUID 80000008h) and the [standard](PatLayout::STANDARD)
    /// layout, which the embedder programs into IA32_PAT.
    ///
    /// Widths outside of 32 to 52 are taken as the nearer of the two: no machine has them.
    pub const fn new(physical_bits: u32) -> Self {
        Self::with_pat(physical_bits, PatLayout::STANDARD)
    }

    /// The same with another layout, for example the one that is found in IA32_PAT ([`PatLayout::from_msr`]).
    pub const fn with_pat(physical_bits: u32, layout: PatLayout) -> Self {
        let physical_bits = if physical_bits < MIN_PHYSICAL_BITS {
            MIN_PHYSICAL_BITS
        } else if physical_bits > MAX_PHYSICAL_BITS {
            MAX_PHYSICAL_BITS
        } else {
            physical_bits
        };
        // In the order of the types' numbers.
        let codes = [
            layout.index_of(MemoryType::WriteBack),
            layout.index_of(MemoryType::WriteThrough),
            layout.index_of(MemoryType::WriteCombining),
            layout.index_of(MemoryType::WriteProtected),
            layout.index_of(MemoryType::UncachedMinus),
            layout.index_of(MemoryType::Uncached),
            None,
        ];
        Self { physical_bits, layout, gigabyte_leaves: true, codes }
    }

    /// The same for a processor without 1 GiB leaves (CPUID 80000001h, bit 26 of EDX is clear): none are made, and what
    /// would be one is malformed.
    pub const fn without_gigabyte_leaves(mut self) -> Self {
        self.gigabyte_leaves = false;
        self
    }

    /// The layout of memory types.
    pub const fn pat(&self) -> PatLayout {
        self.layout
    }
}

// SAFETY: the description above is that of the manuals' 4-level paging: 512 entries of 8 bytes fill a frame of 4 KiB, shifts
// grow by 9 from 12, and the address fields reach up to bit 51, which `with_pat` never lets the physical width pass.
unsafe impl Mmu for X86_64 {
    type Word = u64;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        4
    }

    #[inline]
    fn level(&self, level: usize) -> Option<&'static LevelFormat> {
        if level == 2 && !self.gigabyte_leaves { Some(&PDPT_WITHOUT_LEAVES) } else { FORMAT.levels.get(level) }
    }

    #[inline]
    fn physical_bits(&self) -> u32 {
        self.physical_bits
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        self.codes.get(memory as usize).copied().flatten().map(u32::from)
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        self.layout.0.get(code as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::{Frame, RangeFault};
    use crate::paging::{Access, EncodeError, Entry, Leaf};

    #[test]
    fn every_leaf_comes_back_as_it_was() {
        for physical_bits in [32, 36, 40, 46, 48, 51, 52] {
            let mmu = X86_64::new(physical_bits);
            let frames = 1_u64 << (physical_bits - 12);
            for level in 0..3 {
                let step = 1_u64 << (9 * level);
                for frame in [0, step, frames / 2, frames - step] {
                    for access in (0..16).map(Access::from_bits_truncate) {
                        for memory in MemoryType::ALL {
                            for flags in 0..64_u8 {
                                let mut leaf = Leaf::new(Frame::new(frame)).access(access).memory(memory);
                                (leaf.global, leaf.accessed) = (flags & 1 != 0, flags & 2 != 0);
                                (leaf.dirty, leaf.software) = (flags & 4 != 0, flags >> 3);
                                let word = mmu.encode_leaf(level, leaf);
                                if !access.contains(Access::READ) {
                                    assert_eq!(word, Err(EncodeError::Access(access)));
                                } else if memory == MemoryType::Device {
                                    assert_eq!(word, Err(EncodeError::MemoryType(memory)));
                                } else {
                                    assert_eq!(mmu.decode(level, word.unwrap()), Entry::Leaf(leaf));
                                }
                            }
                        }
                    }
                }
                let beyond = Leaf::new(Frame::new(frames));
                assert_eq!(mmu.encode_leaf(level, beyond), Err(EncodeError::Frame(beyond.frame)));
                let last = Leaf::new(Frame::new(u64::MAX));
                assert_eq!(mmu.encode_leaf(level, last), Err(EncodeError::Frame(last.frame)));
            }
        }
    }

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
        assert_eq!(mmu.decode(3, 0x123_4007), Entry::Table(Frame::new(0x1234), Access::all()));
        assert_eq!(mmu.decode(3, 0x123_4087), Entry::Reserved, "PS in a PML4 entry");
        assert_eq!(mmu.decode(1, 0x0020_2081), Entry::Reserved, "address bit 13 of a 2 MiB leaf");
        assert_eq!(X86_64::new(40).decode(0, 1 | 1 << 40), Entry::Reserved, "beyond the physical width");
        assert_eq!(mmu.decode(0, 0xffff_ffff_ffff_fffe), Entry::Absent);
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
    fn pat_layouts_as_the_register_holds_them() {
        assert_eq!(PatLayout::RESET.to_msr(), 0x0007_0406_0007_0406, "SDM: the value after reset");
        assert_eq!(PatLayout::STANDARD.to_msr(), 0x0606_0105_0007_0406);
        for layout in [PatLayout::RESET, PatLayout::STANDARD] {
            assert_eq!(PatLayout::from_msr(layout.to_msr()), Some(layout));
        }
        assert_eq!(PatLayout::from_msr(0x0007_0406_0007_0402), None, "2 is reserved");
        let mut types = PatLayout::RESET.types();
        types[7] = MemoryType::Device;
        assert_eq!(PatLayout::new(types), None);
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
