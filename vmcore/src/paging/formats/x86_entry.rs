//! What the entries of x86's formats share: the bits of a 32-bit or 64-bit entry, and the memory types behind three of them.
//!
//! Intel SDM volume 3A, sections 5.3 to 5.5 (tables of entries), 5.9 "Paging and Memory Typing", 13.12 "Page Attribute Table". (Older
//! editions count these chapters 4 and 11.)
//!
//! ```text
//!            8   7        6   5   4   3   2   1   0        63
//!   leaf     G   PAT / PS D   A   PCD PWT U/S R/W P        XD, in 64-bit entries
//!   table    -   PS=0     -   A   PCD PWT U/S R/W P        XD
//! ```
//!
//! In a base page's entry bit 7 is the highest bit of the index into IA32_PAT; in a larger leaf that is bit 12, and bit 7 says that it is
//! a leaf.

use super::{UNUSED, bits, clamp, in_place};
use crate::paging::memory_type::{Indexed, Numbers};
use crate::paging::{
    AddressField, Canonical, Combinations, Flag, Format, LeafTest, LevelFormat, MemoryType, Permissions,
};

/// Physical addresses in 64-bit entries have at most this many bits.
pub(super) const MAX_PHYSICAL_BITS: u32 = 52;
const MIN_PHYSICAL_BITS: u32 = 32;

pub(super) const PRESENT: u64 = 1 << 0;
const WRITABLE: u32 = 1;
const USER: u32 = 2;
/// The lowest bit of the index into IA32_PAT.
const PWT: u64 = 1 << 3;
/// The middle bit of the index into IA32_PAT.
const PCD: u64 = 1 << 4;
pub(super) const PAGE_SIZE: u64 = 1 << 7;
/// The highest bit of the index into IA32_PAT, in a base page's entry.
const PAT_SMALL: u64 = 1 << 7;
/// The highest bit of the index into IA32_PAT, in a larger leaf.
const PAT_LARGE: u64 = 1 << 12;
const EXECUTE_DISABLE: u32 = 63;

/// The index into IA32_PAT in a base page's entry.
pub(super) const MEMORY_SMALL: [u64; 4] = [PWT, PCD, PAT_SMALL, UNUSED];
/// The index into IA32_PAT in a larger leaf.
pub(super) const MEMORY_LARGE: [u64; 4] = [PWT, PCD, PAT_LARGE, UNUSED];

/// A table entry that lets everything through, so that the leaf alone decides.
pub(super) const TABLE: u64 = PRESENT | 1 << WRITABLE | 1 << USER;

/// Entries that can forbid executing.
const PERMISSIONS: Permissions = Permissions {
    readable: Flag::ALWAYS,
    writable: Flag::yes(WRITABLE),
    executable: Flag::no(EXECUTE_DISABLE),
    kernel_executable: Flag::NONE,
    user: Flag::yes(USER),
    combinations: Combinations::READ_AND_MORE,
};

/// Entries that cannot: whatever is present is executable.
pub(super) const PERMISSIONS_WITHOUT_DISABLE: Permissions = Permissions { executable: Flag::ALWAYS, ..PERMISSIONS };

/// The lowest level of 64-bit entries, and what the others have in common with it.
pub(super) const PT: LevelFormat = LevelFormat {
    shift: 12,
    index_bits: 9,
    leaf_test: LeafTest::Always,
    leaf_set: PRESENT,
    leaf_reserved: UNUSED,
    leaf_address: in_place(12, MAX_PHYSICAL_BITS),
    leaf_address_high: AddressField::NONE,
    contiguous: None,
    memory_bits: MEMORY_SMALL,
    table_set: TABLE,
    table_reserved: UNUSED,
    table_address: in_place(12, MAX_PHYSICAL_BITS),
    table_address_high: AddressField::NONE,
    table_limits: true,
    name: "PT",
};

/// A level of 64-bit entries that may be larger leaves: the address bits that those do not need are reserved, but for the lowest, which
/// is the memory type's.
pub(super) const fn large(shift: u32, name: &'static str) -> LevelFormat {
    LevelFormat {
        shift,
        leaf_test: LeafTest::AnySet(PAGE_SIZE),
        leaf_set: PRESENT | PAGE_SIZE,
        leaf_reserved: bits(13, shift),
        leaf_address: in_place(shift, MAX_PHYSICAL_BITS),
        memory_bits: MEMORY_LARGE,
        name,
        ..PT
    }
}

/// What the three formats say alike; each adds its name, its levels and what is its own.
pub(super) const COMMON: Format = Format {
    name: "",
    levels: &[],
    canonical: Canonical::ZeroExtended,
    present: PRESENT,
    leaf: PERMISSIONS,
    table: Some(PERMISSIONS),
    global: Flag::yes(8),
    accessed: Flag::yes(5),
    dirty: Flag::yes(6),
    dirty_modifier: 0,
    key: (0, 0),
    // Bits 9 to 11 are the software's.
    software: (9, 3),
    // All but P.
    absent: (1, 63),
    break_before_make: false,
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

    /// A layout of one's own; `None` if one of the types does not exist on x86 ([`MemoryType::Device`] and its kinds).
    pub const fn new(types: [MemoryType; 8]) -> Option<Self> {
        if NUMBERS.have(&types) { Some(Self(types)) } else { None }
    }

    /// The eight types, by index.
    pub const fn types(self) -> [MemoryType; 8] {
        self.0
    }

    /// The value of IA32_PAT: a byte per type, index 0 in the lowest.
    pub const fn to_msr(self) -> u64 {
        NUMBERS.register(&self.0)
    }

    /// The layout that a value of IA32_PAT means; `None` if a byte of it is reserved.
    pub fn from_msr(value: u64) -> Option<Self> {
        NUMBERS.types(value).map(Self)
    }
}

/// The memory types in IA32_PAT (SDM table 13-10, "Memory Types That Can Be Encoded With PAT").
const NUMBERS: Numbers = Numbers(&[
    (MemoryType::Uncached, 0),
    (MemoryType::WriteCombining, 1),
    (MemoryType::WriteThrough, 4),
    (MemoryType::WriteProtected, 5),
    (MemoryType::WriteBack, 6),
    (MemoryType::UncachedMinus, 7),
]);

/// What is found when the kernel starts, of every x86 machine: its physical width, and the memory types behind the bits of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) physical_bits: u32,
    pub(super) beyond_physical: u64,
    pub(super) memory: Indexed,
}

impl Found {
    /// A width outside of 32 to `most` bits is taken as the nearer of the two.
    pub(super) const fn new(physical_bits: u32, most: u32, layout: PatLayout) -> Self {
        let physical_bits = clamp(physical_bits, MIN_PHYSICAL_BITS, most);
        Self { physical_bits, beyond_physical: u64::MAX << physical_bits, memory: Indexed::new(layout.0) }
    }

    pub(super) const fn pat(&self) -> PatLayout {
        PatLayout(self.memory.types())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
