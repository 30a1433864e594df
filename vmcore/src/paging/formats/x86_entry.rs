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

use super::UNUSED;
use crate::paging::memory_type::Indexed;
use crate::paging::{Combinations, Flag, MemoryType, Permissions};

pub(super) const PRESENT: u64 = 1 << 0;
const WRITABLE: u32 = 1;
const USER: u32 = 2;
/// The lowest bit of the index into IA32_PAT.
const PWT: u64 = 1 << 3;
/// The middle bit of the index into IA32_PAT.
const PCD: u64 = 1 << 4;
pub(super) const ACCESSED: Flag = Flag::yes(5);
pub(super) const DIRTY: Flag = Flag::yes(6);
pub(super) const PAGE_SIZE: u64 = 1 << 7;
/// The highest bit of the index into IA32_PAT, in a base page's entry.
const PAT_SMALL: u64 = 1 << 7;
pub(super) const GLOBAL: Flag = Flag::yes(8);
/// The highest bit of the index into IA32_PAT, in a larger leaf.
const PAT_LARGE: u64 = 1 << 12;
const EXECUTE_DISABLE: u32 = 63;

/// The index into IA32_PAT in a base page's entry.
pub(super) const MEMORY_SMALL: [u64; 4] = [PWT, PCD, PAT_SMALL, UNUSED];
/// The index into IA32_PAT in a larger leaf.
pub(super) const MEMORY_LARGE: [u64; 4] = [PWT, PCD, PAT_LARGE, UNUSED];

/// A table entry that lets everything through, so that the leaf alone decides.
pub(super) const TABLE: u64 = PRESENT | 1 << WRITABLE | 1 << USER;

/// Bits 9 to 11 are the software's.
pub(super) const SOFTWARE: (u32, u32) = (9, 3);

/// Entries that can forbid executing.
pub(super) const PERMISSIONS: Permissions = Permissions {
    readable: Flag::ALWAYS,
    writable: Flag::yes(WRITABLE),
    executable: Flag::no(EXECUTE_DISABLE),
    kernel_executable: Flag::NONE,
    user: Flag::yes(USER),
    combinations: Combinations::READ_AND_MORE,
};

/// Entries that cannot: whatever is present is executable.
pub(super) const PERMISSIONS_WITHOUT_DISABLE: Permissions = Permissions { executable: Flag::ALWAYS, ..PERMISSIONS };

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

    pub(super) const fn indexed(self) -> Indexed {
        Indexed::new(self.0)
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
        MemoryType::Device | MemoryType::DeviceEarly | MemoryType::DeviceReordering | MemoryType::DeviceGathering => {
            return None;
        }
    })
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
