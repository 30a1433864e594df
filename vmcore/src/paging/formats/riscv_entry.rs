//! What the entries of RISC-V's formats share: their lowest ten bits, and how a level follows from the size of its leaves.
//!
//! RISC-V Privileged Architecture, section "Supervisor Page-Based Virtual Memory" (Sv32's figure of an entry, which the wider ones widen).
//!
//! ```text
//!             10..           9..8 7 6 5 4 3 2 1 0
//!   leaf      address (12..) soft D A G U X W R V=1      the address bits that a larger leaf does not need are 0, else it faults
//!   table     address (12..) RSW  0 0 G 0 0 0 0 V=1
//! ```

use super::{UNUSED, bits};
use crate::paging::{AddressField, Canonical, Combinations, Flag, Format, LeafTest, LevelFormat, Permissions};

/// V.
const VALID: u64 = 1 << 0;
/// R, W and X: an entry without them is a table's.
const LEAF: u64 = 0b1110;
/// D, A and U, which are reserved in a table's entry.
const TABLE_RESERVED: u64 = 1 << 7 | 1 << 6 | 1 << 4;
/// Where address bit 12 is kept.
const ADDRESS_LOW: u32 = 10;

pub(super) const MIN_PHYSICAL_BITS: u32 = 20;

const PERMISSIONS: Permissions = Permissions {
    readable: Flag::yes(1),
    writable: Flag::yes(2),
    executable: Flag::yes(3),
    kernel_executable: Flag::NONE,
    user: Flag::yes(4),
    combinations: Combinations::READ_OR_EXECUTE,
};

/// A level whose leaves have 2^`shift` bytes, with physical addresses of at most `physical_bits` bits.
pub(super) const fn level(shift: u32, index_bits: u32, physical_bits: u32, name: &'static str) -> LevelFormat {
    let skipped = shift - 12;
    LevelFormat {
        shift,
        index_bits,
        leaf_test: LeafTest::AnySet(LEAF),
        leaf_set: VALID,
        leaf_reserved: if skipped == 0 { UNUSED } else { bits(ADDRESS_LOW, ADDRESS_LOW + skipped) },
        leaf_address: address(shift, physical_bits),
        leaf_address_high: AddressField::NONE,
        contiguous: None,
        memory_bits: [UNUSED; 4],
        table_set: VALID,
        table_reserved: TABLE_RESERVED,
        table_address: address(12, physical_bits),
        table_address_high: AddressField::NONE,
        table_limits: false,
        name,
    }
}

const fn address(low: u32, high: u32) -> AddressField {
    AddressField { address_low: low, entry_low: low - 12 + ADDRESS_LOW, width: high - low }
}

/// What the formats say alike; each adds its name, its levels and what is its own.
pub(super) const COMMON: Format = Format {
    name: "",
    levels: &[],
    canonical: Canonical::SignExtended,
    present: VALID,
    leaf: PERMISSIONS,
    table: None,
    global: Flag::yes(5),
    accessed: Flag::yes(6),
    dirty: Flag::yes(7),
    dirty_modifier: 0,
    key: (0, 0),
    software: (8, 2),
    // All but V.
    absent: (1, 63),
    break_before_make: false,
};
