//! How a processor caches memory: the page attribute table, the memory type range registers, and the two together.
//!
//! ```text
//!   leaf entry: PAT, PCD, PWT bits -> slot of the page attribute table -> type by page  \
//!                                                                                        > effective type
//!   physical address -> memory type range registers                    -> type by range /
//! ```
//!
//! Intel SDM Vol. 3A, chapter 13 ("Memory Cache Control"); table and section numbers below are of that chapter.

use core::fmt;

/// A memory type of x86.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemoryType {
    /// UC: uncached, in order.
    Uncacheable = 0,
    /// WC: uncached, writes are gathered.
    WriteCombining = 1,
    /// WT: reads cached, writes go through.
    WriteThrough = 4,
    /// WP: reads cached, writes go to memory and drop the line.
    WriteProtected = 5,
    /// WB: all cached.
    WriteBack = 6,
    /// UC-: uncached, but a range register may make it write-combining.
    UncacheableMinus = 7,
}

impl MemoryType {
    /// The type with this encoding (table 13-10), of which 2, 3 and those above 7 are reserved.
    #[must_use]
    pub const fn from_encoding(encoding: u8) -> Option<Self> {
        match encoding {
            0 => Some(Self::Uncacheable),
            1 => Some(Self::WriteCombining),
            4 => Some(Self::WriteThrough),
            5 => Some(Self::WriteProtected),
            6 => Some(Self::WriteBack),
            7 => Some(Self::UncacheableMinus),
            _ => None,
        }
    }

    /// Its encoding in the page attribute table.
    #[must_use]
    pub const fn encoding(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Uncacheable => "UC",
            Self::WriteCombining => "WC",
            Self::WriteThrough => "WT",
            Self::WriteProtected => "WP",
            Self::WriteBack => "WB",
            Self::UncacheableMinus => "UC-",
        })
    }
}

/// The kernel's page attribute table: all six types.
///
/// | slot | PAT PCD PWT | type |
/// |---|---|---|
/// | 0 to 3 | 0 – – | WB, WT, UC-, UC: as after reset, so tables made before or without the PAT mean the same |
/// | 4 | 1 0 0 | WP |
/// | 5 | 1 0 1 | WC |
/// | 6, 7 | 1 1 – | UC-, UC: as after reset |
///
/// It is also Limine's, so a loader's tables keep their meaning while they are replaced.
pub const PAT: [MemoryType; 8] = [
    MemoryType::WriteBack,
    MemoryType::WriteThrough,
    MemoryType::UncacheableMinus,
    MemoryType::Uncacheable,
    MemoryType::WriteProtected,
    MemoryType::WriteCombining,
    MemoryType::UncacheableMinus,
    MemoryType::Uncacheable,
];

/// The value of IA32_PAT for a table: slot 0 in the lowest byte.
#[must_use]
pub const fn pat_value(table: [MemoryType; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = table;
    u64::from_le_bytes([
        a.encoding(),
        b.encoding(),
        c.encoding(),
        d.encoding(),
        e.encoding(),
        f.encoding(),
        g.encoding(),
        h.encoding(),
    ])
}

/// The slots of a value of IA32_PAT; `None` where the encoding is reserved.
#[must_use]
pub fn pat_slots(value: u64) -> [Option<MemoryType>; 8] {
    value.to_le_bytes().map(MemoryType::from_encoding)
}

/// Variable ranges that are looked at: more than any processor has.
pub const VARIABLE_RANGES: usize = 32;

/// The memory type range registers, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRegisters {
    /// IA32_MTRR_DEF_TYPE: bits 7:0 type, 10 fixed ranges on, 11 all on.
    pub default: u64,
    /// IA32_MTRR_PHYSBASEn and IA32_MTRR_PHYSMASKn, zero where there is none.
    pub variable: [[u64; 2]; VARIABLE_RANGES],
    /// The eleven fixed-range registers from IA32_MTRR_FIX64K_00000 to IA32_MTRR_FIX4K_F8000, one byte per range.
    pub fixed: [u64; 11],
}

/// A variable range that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariableRange {
    /// Physical base, a multiple of the page size.
    pub base: u64,
    /// Which bits of an address are compared with it.
    pub mask: u64,
    /// Its type.
    pub memory_type: Option<MemoryType>,
}

/// Bits 51:12 of the variable ranges' registers.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The first address that no fixed range covers.
const FIXED_END: u64 = 0x10_0000;

impl RangeRegisters {
    /// All off: everything is uncacheable.
    pub const OFF: Self = Self { default: 0, variable: [[0; 2]; VARIABLE_RANGES], fixed: [0; 11] };

    /// Whether the registers have any effect (13.11.2.1).
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.default & 1 << 11 != 0
    }

    /// The type where no range says another.
    #[must_use]
    pub const fn default_type(&self) -> Option<MemoryType> {
        if self.enabled() { MemoryType::from_encoding(self.default as u8) } else { Some(MemoryType::Uncacheable) }
    }

    /// The variable ranges that are on.
    pub fn variable_ranges(&self) -> impl Iterator<Item = VariableRange> + '_ {
        self.variable.iter().filter(|[_, mask]| mask & 1 << 11 != 0).map(|[base, mask]| VariableRange {
            base: base & ADDRESS,
            mask: mask & ADDRESS,
            memory_type: MemoryType::from_encoding(*base as u8),
        })
    }

    /// The type of the page at `address`, by 13.11.4.1. `None` where the registers say something that is reserved or
    /// undefined, such as overlapping ranges of types that do not go together.
    #[must_use]
    pub fn memory_type(&self, address: u64) -> Option<MemoryType> {
        if !self.enabled() {
            return Some(MemoryType::Uncacheable);
        }
        if address < FIXED_END && self.default & 1 << 10 != 0 {
            return self.fixed_type(address);
        }
        let mut found = None;
        for range in self.variable_ranges().filter(|range| address & range.mask == range.base & range.mask) {
            let this = range.memory_type?;
            found = Some(match (found, this) {
                (None, this) => this,
                (Some(MemoryType::Uncacheable), _) | (_, MemoryType::Uncacheable) => MemoryType::Uncacheable,
                (Some(other), this) if other == this => this,
                (Some(MemoryType::WriteBack), MemoryType::WriteThrough)
                | (Some(MemoryType::WriteThrough), MemoryType::WriteBack) => MemoryType::WriteThrough,
                _ => return None,
            });
        }
        found.or_else(|| self.default_type())
    }

    /// The type of a whole range, if it has one type.
    #[must_use]
    pub fn type_of_range(&self, start: u64, end: u64) -> Option<MemoryType> {
        let first = self.memory_type(start)?;
        // Types change only where a range begins or ends; with one exception for masks with holes, pages are looked at.
        let mut page = start - start % 4096;
        while page < end {
            if self.memory_type(page) != Some(first) {
                return None;
            }
            page = page.checked_add(4096)?;
        }
        Some(first)
    }

    /// Table 13-9: eight ranges of 64 KiB, sixteen of 16 KiB, sixty-four of 4 KiB.
    fn fixed_type(&self, address: u64) -> Option<MemoryType> {
        let (register, range) = match address {
            0..0x8_0000 => (0, address / 0x1_0000),
            0x8_0000..0xc_0000 => {
                let range = (address - 0x8_0000) / 0x4000;
                (1 + range / 8, range % 8)
            }
            _ => {
                let range = (address - 0xc_0000) / 0x1000;
                (3 + range / 8, range % 8)
            }
        };
        let value = self.fixed.get(usize::try_from(register).ok()?)?;
        MemoryType::from_encoding((value >> (8 * range)) as u8)
    }
}

/// What a page is, given the type of its range and the type of its entry: table 13-7. `None` for a combination
/// that the manual reserves.
#[must_use]
pub const fn effective(range: MemoryType, page: MemoryType) -> Option<MemoryType> {
    use MemoryType::{
        Uncacheable as UC, UncacheableMinus as UCM, WriteBack as WB, WriteCombining as WC, WriteProtected as WP,
        WriteThrough as WT,
    };
    Some(match (range, page) {
        (_, UC) => UC,
        (_, WC) => WC,
        // A range register cannot hold UC-.
        (UCM, _) => return None,
        (WC, UCM) => WC,
        (_, UCM) => UC,
        (UC, WT | WB | WP) => UC,
        (WC, WT) => UC,
        (WC, WB) => WC,
        (WC, WP) => UC,
        (WT, WT | WB) => WT,
        (WB, WT) => WT,
        (WB, WB) => WB,
        (WB, WP) => WP,
        (WT, WP) => WP,
        (WP, WT) => WT,
        (WP, WB) => WP,
        (WP, WP) => WP,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryType::*;

    #[test]
    fn encodings_round_trip() {
        let known: Vec<u8> = (0..=255).filter(|e| MemoryType::from_encoding(*e).is_some()).collect();
        assert_eq!(known, [0, 1, 4, 5, 6, 7]);
        for encoding in known {
            assert_eq!(MemoryType::from_encoding(encoding).map(MemoryType::encoding), Some(encoding));
        }
    }

    #[test]
    fn table_has_all_types_and_keeps_the_reset_slots() {
        // IA32_PAT after reset is 0x0007040600070406.
        assert_eq!(pat_value(PAT), 0x0007_0105_0007_0406);
        assert_eq!(pat_slots(pat_value(PAT)), PAT.map(Some));
        for encoding in [0, 1, 4, 5, 6, 7] {
            assert!(PAT.iter().any(|slot| slot.encoding() == encoding));
        }
        assert_eq!(pat_slots(0x0002).first(), Some(&None));
    }

    /// What QEMU's firmware sets: write-back by default, uncacheable from 0xc0000000 to 4 GiB.
    fn firmware() -> RangeRegisters {
        let mut registers = RangeRegisters { default: 0xc06, ..RangeRegisters::OFF };
        registers.variable[0] = [0xc000_0000, 0x00ff_c000_0800];
        registers.fixed = [0x0606_0606_0606_0606; 11];
        registers.fixed[2] = 0;
        registers
    }

    #[test]
    fn off_is_uncacheable() {
        assert_eq!(RangeRegisters::OFF.memory_type(0x1234_5000), Some(Uncacheable));
    }

    #[test]
    fn variable_and_fixed_ranges() {
        let registers = firmware();
        assert_eq!(registers.memory_type(0x20_0000), Some(WriteBack));
        assert_eq!(registers.memory_type(0xbfff_f000), Some(WriteBack));
        assert_eq!(registers.memory_type(0xc000_0000), Some(Uncacheable));
        assert_eq!(registers.memory_type(0xffff_f000), Some(Uncacheable));
        assert_eq!(registers.memory_type(0x1_0000_0000), Some(WriteBack));
        assert_eq!(registers.memory_type(0x9_f000), Some(WriteBack));
        // The second register of 16 KiB ranges: 0xa0000 to 0xbffff.
        assert_eq!(registers.memory_type(0xa_0000), Some(Uncacheable));
        assert_eq!(registers.memory_type(0xb_f000), Some(Uncacheable));
        assert_eq!(registers.memory_type(0xc_0000), Some(WriteBack));
        assert_eq!(registers.type_of_range(0xfd00_0000, 0xfd30_0000), Some(Uncacheable));
        assert_eq!(registers.type_of_range(0xbfff_f000, 0xc000_1000), None);
    }

    #[test]
    fn overlapping_ranges() {
        let mut registers = RangeRegisters { default: 0x800, ..RangeRegisters::OFF };
        let mask = 0x00ff_f000_0800;
        registers.variable[0] = [0x1000_0006, mask];
        registers.variable[1] = [0x1000_0004, mask];
        assert_eq!(registers.memory_type(0x1000_0000), Some(WriteThrough));
        registers.variable[2] = [0x1000_0000, mask];
        assert_eq!(registers.memory_type(0x1000_0000), Some(Uncacheable));
        registers.variable[2] = [0x1000_0001, mask];
        assert_eq!(registers.memory_type(0x1000_0000), None);
    }

    #[test]
    fn framebuffer_is_write_combining_whatever_the_range_says() {
        for range in [Uncacheable, WriteCombining, WriteThrough, WriteProtected, WriteBack] {
            assert_eq!(effective(range, WriteCombining), Some(WriteCombining));
            assert_eq!(effective(range, Uncacheable), Some(Uncacheable));
        }
        assert_eq!(effective(WriteCombining, UncacheableMinus), Some(WriteCombining));
        assert_eq!(effective(WriteBack, UncacheableMinus), Some(Uncacheable));
        assert_eq!(effective(Uncacheable, WriteBack), Some(Uncacheable));
        assert_eq!(effective(UncacheableMinus, WriteBack), None);
    }
}
