//! Arm's granules: the levels and address bits that both stages share.
//!
//! Arm Architecture Reference Manual for A-profile (DDI 0487), section D8.2 "Translation process" (table sizes and lookup levels) and D8.3
//! "Translation table descriptor formats" (VMSAv8-64).
//!
//! ```text
//!   address bits     51..48   47..39   38..30   29..21   20..12   11..0      4 KiB, 9 bits a level
//!                    51..47   46..36   35..25   24..14            13..0      16 KiB, 11 bits a level
//!                    51..42   41..29   28..16                     15..0      64 KiB, 13 bits a level
//!   level here (0 is the lowest; Arm counts from the top, the lowest is 3)
//!     4 KiB          4        3        2 1 GiB  1 2 MiB  0
//!     16 KiB         3        2        1 32 MiB 0
//!     64 KiB         2 4 TiB  1 512 MiB 0
//!
//!             63..............51 50 49....48 47...........page 15..12   11 10 9..8     ..2   1  0
//!   table     limits or ignored  0  0        table's address   0        ignored              1  1
//!   page      attributes            0        page's address    0        nG AF SH  ...         1  1
//!   block     attributes            0        address           0        nG AF SH  ...         0  1
//!   with LPA2 (4 and 16 KiB)        address 49..12 or 14                      address 51..50 in place of SH
//!   with 64 KiB                              address 47..16    51..48
//! ```
//!
//! The root's table is cut to the width of addresses. With LPA2 the bits of SH are part of the address and the shareability is
//! TCR's, so the granule with LPA2 (TCR.DS set) is a format of its own. Blocks of 512 GiB (4 KiB) and 64 GiB (16 KiB) exist with LPA2 only,
//! blocks of 4 TiB (64 KiB) only with physical addresses of more than 48 bits. Memory is inner shareable, as that of all who share tables.

use core::fmt;
use core::marker::PhantomData;

use super::{UNUSED, clamp, in_place};
use crate::paging::{AddressField, Canonical, Contiguous, Flag, Format, LeafTest, LevelFormat, Permissions};

/// The bit that a present entry has set.
const VALID: u64 = 1 << 0;
/// The bit that tells tables from blocks, and that pages have set.
const TABLE: u64 = 1 << 1;
/// Inner shareable.
const SHAREABLE: u64 = 0b11 << 8;
const CONTIGUOUS: u64 = 1 << 52;
const MIN_BITS: u32 = 25;
const MIN_PHYSICAL_BITS: u32 = 32;

/// What the two stages say differently of the same levels.
pub(super) struct Stage {
    pub(super) memory_bits: [u64; 4],
    /// Reserved in every leaf.
    pub(super) leaf_reserved: u64,
    pub(super) leaf: Permissions,
    pub(super) table: Option<Permissions>,
    pub(super) global: Flag,
}

/// What of a granule makes its levels.
struct Shape {
    page_shift: u32,
    lpa2: bool,
}

impl Shape {
    const fn address(&self, low: u32) -> AddressField {
        in_place(low, if self.lpa2 { 50 } else { 48 })
    }

    const fn address_high(&self) -> AddressField {
        if self.lpa2 {
            AddressField { address_low: 50, entry_low: 8, width: 2 }
        } else if self.page_shift == 16 {
            AddressField { address_low: 48, entry_low: 12, width: 4 }
        } else {
            AddressField::NONE
        }
    }

    /// A level; `count_shift` of its contiguous groups, 0 for none; `blocks`: whether it has leaves.
    const fn level(
        &self,
        stage: &Stage,
        level: u32,
        name: &'static str,
        count_shift: u32,
        blocks: bool,
    ) -> LevelFormat {
        let shift = self.page_shift + level * (self.page_shift - 3);
        let left = 52 - shift;
        LevelFormat {
            shift,
            index_bits: if left < self.page_shift - 3 { left } else { self.page_shift - 3 },
            leaf_test: if level == 0 { LeafTest::AnySet(TABLE) } else { LeafTest::NoneSet(TABLE) },
            leaf_set: VALID | if level == 0 { TABLE } else { UNUSED } | if self.lpa2 { UNUSED } else { SHAREABLE },
            leaf_reserved: stage.leaf_reserved | if blocks { UNUSED } else { VALID },
            leaf_address: self.address(shift),
            leaf_address_high: self.address_high(),
            contiguous: if count_shift == 0 {
                None
            } else {
                Some(Contiguous { mask: CONTIGUOUS, count_shift, size_in_address: false })
            },
            memory_bits: stage.memory_bits,
            table_set: VALID | TABLE,
            table_reserved: UNUSED,
            table_address: self.address(self.page_shift),
            table_address_high: self.address_high(),
            table_limits: stage.table.is_some(),
            name,
        }
    }
}

const fn four_kib(stage: &Stage, lpa2: bool) -> [LevelFormat; 5] {
    let shape = Shape { page_shift: 12, lpa2 };
    [
        shape.level(stage, 0, "level 3", 4, true),
        shape.level(stage, 1, "level 2", 4, true),
        shape.level(stage, 2, "level 1", 4, true),
        shape.level(stage, 3, "level 0", 0, lpa2),
        shape.level(stage, 4, "level -1", 0, false),
    ]
}

const fn sixteen_kib(stage: &Stage, lpa2: bool) -> [LevelFormat; 4] {
    let shape = Shape { page_shift: 14, lpa2 };
    [
        shape.level(stage, 0, "level 3", 7, true),
        shape.level(stage, 1, "level 2", 5, true),
        shape.level(stage, 2, "level 1", 0, lpa2),
        shape.level(stage, 3, "level 0", 0, false),
    ]
}

const fn sixty_four_kib(stage: &Stage) -> [LevelFormat; 3] {
    let shape = Shape { page_shift: 16, lpa2: false };
    [
        shape.level(stage, 0, "level 3", 5, true),
        shape.level(stage, 1, "level 2", 5, true),
        shape.level(stage, 2, "level 1", 0, true),
    ]
}

/// A format of this stage with these levels.
const fn format(stage: &Stage, name: &'static str, levels: &'static [LevelFormat]) -> Format {
    Format {
        name,
        levels,
        canonical: Canonical::ZeroExtended,
        present: VALID,
        leaf: stage.leaf,
        table: stage.table,
        global: stage.global,
        accessed: Flag::yes(10),
        // Software's mark; the hardware's is made of DBM and what says writable.
        dirty: Flag::yes(55),
        dirty_modifier: 1 << 51,
        key: (0, 0),
        software: (56, 3),
        absent: (1, 63),
        break_before_make: true,
    }
}

/// A granule of Arm's tables: the size of pages and tables, and how addresses stand in entries. Sealed.
pub trait Granule: fmt::Debug + Copy + Send + Sync + sealed::Sealed + 'static {
    /// The size of a page and of a table as a power of two.
    const PAGE_SHIFT: u32;
    /// The most bits that an address, virtual or physical, has with it.
    const MAX_BITS: u32;
    /// The most bits that a physical address has with it.
    const MAX_PHYSICAL_BITS: u32;
    /// The description of stage 1.
    const STAGE1: Format;
    /// The description of stage 2.
    const STAGE2: Format;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! granule {
    ($(#[$doc:meta])* $name:ident, $shift:literal, $bits:literal, $physical:literal, $count:literal, $levels:expr, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl sealed::Sealed for $name {}

        impl Granule for $name {
            const PAGE_SHIFT: u32 = $shift;
            const MAX_BITS: u32 = $bits;
            const MAX_PHYSICAL_BITS: u32 = $physical;
            const STAGE1: Format = {
                const LEVELS: [LevelFormat; $count] = $levels(&super::aarch64::STAGE);
                format(&super::aarch64::STAGE, concat!("AArch64, ", $label), &LEVELS)
            };
            const STAGE2: Format = {
                const LEVELS: [LevelFormat; $count] = $levels(&super::aarch64_stage2::STAGE);
                format(&super::aarch64_stage2::STAGE, concat!("AArch64 stage 2, ", $label), &LEVELS)
            };
        }
    };
}

const fn plain4(stage: &Stage) -> [LevelFormat; 5] {
    four_kib(stage, false)
}

const fn wide4(stage: &Stage) -> [LevelFormat; 5] {
    four_kib(stage, true)
}

const fn plain16(stage: &Stage) -> [LevelFormat; 4] {
    sixteen_kib(stage, false)
}

const fn wide16(stage: &Stage) -> [LevelFormat; 4] {
    sixteen_kib(stage, true)
}

granule!(
    /// Pages of 4 KiB, addresses of up to 48 bits; blocks of 2 MiB and 1 GiB.
    Granule4K, 12, 48, 48, 5, plain4, "4 KiB"
);
granule!(
    /// Pages of 4 KiB, addresses of up to 52 bits by LPA2 (TCR.DS); blocks of 2 MiB, 1 GiB and 512 GiB.
    Granule4KLpa2, 12, 52, 52, 5, wide4, "4 KiB with LPA2"
);
granule!(
    /// Pages of 16 KiB, addresses of up to 48 bits; blocks of 32 MiB.
    Granule16K, 14, 48, 48, 4, plain16, "16 KiB"
);
granule!(
    /// Pages of 16 KiB, addresses of up to 52 bits by LPA2 (TCR.DS); blocks of 32 MiB and 64 GiB.
    Granule16KLpa2, 14, 52, 52, 4, wide16, "16 KiB with LPA2"
);
granule!(
    /// Pages of 64 KiB, addresses of up to 52 bits (LVA, LPA); blocks of 512 MiB and, with 52-bit physical addresses, 4 TiB.
    Granule64K, 16, 52, 52, 3, sixty_four_kib, "64 KiB"
);

/// What is found when the kernel starts, for either stage: the widths of addresses, whether the hardware marks what
/// is dirty, and how wide tags are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<G: Granule> {
    address_bits: u32,
    pub(super) physical_bits: u32,
    pub(super) hardware_dirty: bool,
    pub(super) tag_bits: u8,
    granule: PhantomData<G>,
}

impl<G: Granule> Found<G> {
    /// Widths that the granule has not are taken as the nearest that it has.
    pub(super) const fn new(address_bits: u32, physical_bits: u32) -> Self {
        Self {
            address_bits: clamp(address_bits, MIN_BITS, G::MAX_BITS),
            physical_bits: clamp(physical_bits, MIN_PHYSICAL_BITS, G::MAX_PHYSICAL_BITS),
            hardware_dirty: false,
            tag_bits: 0,
            granule: PhantomData,
        }
    }

    /// How many levels the addresses take.
    pub(super) const fn levels(&self) -> usize {
        (self.address_bits.saturating_sub(G::PAGE_SHIFT)).div_ceil(G::PAGE_SHIFT - 3) as usize
    }

    /// The bits of the index into a table of `level`: the root's are what is left of the addresses.
    pub(super) const fn index_bits(&self, level: usize) -> u32 {
        let each = G::PAGE_SHIFT - 3;
        // Any level may be asked for; one that is not in use has no bits.
        let shift = if level < self.levels() { G::PAGE_SHIFT + level as u32 * each } else { self.address_bits };
        let left = self.address_bits.saturating_sub(shift);
        if left < each { left } else { each }
    }

    /// Whether blocks of this level exist with wider physical addresses only.
    pub(super) const fn lacks_leaves(&self, level: usize) -> bool {
        G::PAGE_SHIFT == 16 && level == 2 && self.physical_bits <= 48
    }
}
