//! A format that exists nowhere, described and nothing else: tables, dumps and legends work with it as with any other.
//!
//! ```text
//!   address   23..20   19..16   15..12   11..0          16 entries of 32 bits a table
//!   level      2        1        0
//!
//!             31..24 23 22 21 20 19 18..4                     3..0
//!   entry     soft   P  S  !W X  U  address (12..26)          type      P: present, S: single (a leaf), types: 5 and 10
//! ```

use std::collections::BTreeMap;

use proptest::prelude::*;
use vmcore::addr::{Frame, VirtAddr};
use vmcore::frame::FrameList;
use vmcore::inspect::{Legend, TableDump};
use vmcore::paging::{
    Access, AddressField, Canonical, Combinations, Entry, Flag, Format, Gather, Leaf, LeafTest, LevelFormat,
    MemoryType, Mmu, Permissions, TableError, Tables, Tag,
};
use vmcore::sim::Sim;

const PRESENT: u64 = 1 << 23;
const SINGLE: u64 = 1 << 22;

const fn level(shift: u32, name: &'static str) -> LevelFormat {
    LevelFormat {
        shift,
        index_bits: 4,
        leaf_test: LeafTest::AnySet(SINGLE),
        leaf_set: PRESENT | SINGLE,
        leaf_reserved: (1 << (shift - 8)) - (1 << 4),
        leaf_address: AddressField { address_low: shift, entry_low: shift - 8, width: 27 - shift },
        leaf_address_high: AddressField::NONE,
        contiguous: None,
        memory_bits: [1, 2, 4, 8],
        table_set: PRESENT,
        table_reserved: 0xf,
        table_address: AddressField { address_low: 12, entry_low: 4, width: 15 },
        table_address_high: AddressField::NONE,
        table_limits: false,
        name,
    }
}

/// It has no name, since nobody made it.
#[derive(Clone, Copy, Debug)]
struct Odd;

// SAFETY: no hardware has it; the description agrees with itself: 16 entries of 4 bytes fit a frame, and shifts grow by 4 from 12.
unsafe impl Mmu for Odd {
    type Word = u32;
    const FORMAT: &'static Format = &Format {
        name: "odd",
        levels: &[level(12, "leafs"), level(16, "twigs"), level(20, "trunk")],
        canonical: Canonical::OneExtended,
        present: PRESENT,
        leaf: Permissions {
            readable: Flag::ALWAYS,
            writable: Flag::no(21),
            executable: Flag::yes(20),
            kernel_executable: Flag::NONE,
            user: Flag::yes(19),
            combinations: Combinations::READ_AND_MORE,
        },
        table: None,
        global: Flag::NONE,
        accessed: Flag::NONE,
        dirty: Flag::NONE,
        dirty_modifier: 0,
        key: (0, 0),
        software: (24, 8),
        absent: (0, 23),
        break_before_make: false,
    };

    fn levels(&self) -> usize {
        3
    }

    fn physical_bits(&self) -> u32 {
        27
    }

    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        match memory {
            MemoryType::WriteBack => Some(5),
            MemoryType::Device => Some(10),
            _ => None,
        }
    }

    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        match code {
            5 => Some(MemoryType::WriteBack),
            10 => Some(MemoryType::Device),
            _ => None,
        }
    }
}

/// The addresses' upper bits are one.
const BASE: u64 = !0xff_ffff;

#[test]
fn words_of_a_format_of_ones_own() {
    let leaf = Leaf::new(Frame::new(0x120)).user().software(0xa5);
    // Software bits, P, S, not writable, U, the address at bit 4, type 5.
    assert_eq!(Odd.encode_leaf(0, leaf), Ok(0xa5e8_1205));
    assert_eq!(Odd.decode(0, 0xa5e8_1205), Entry::Leaf(leaf));
    assert_eq!(Odd.decode(1, 0xa5e8_1215), Entry::Reserved, "address bit 12 of a leaf of 64 KiB");
    assert_eq!(Odd.decode(0, 0x007f_ffff), Entry::Absent(0x7f_ffff));
    let text = Legend(Odd).to_string();
    for line in [
        "24 bits, the others are 1",
        "bit 21              not writable (leaves)",
        "bits 24-31          software (leaves)",
        "5 WB, 10 DEV",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

proptest! {
    /// Random operations, against a map of pages.
    #[test]
    fn tables_in_a_format_of_ones_own(operations in prop::collection::vec((0..3_u8, 0..4096_u64, 1..300_u64), 1..30)) {
        let sim = Sim::builder().frames(2048).build();
        // SAFETY: a fresh, zeroed table, used here alone; no CPU loads it.
        let mut tables = unsafe { Tables::new(Odd, sim.new_table(), Tag(1)) };
        let mut model = BTreeMap::new();
        for (kind, page, count) in operations {
            let count = count.min(4096 - page);
            let range = Odd.range(BASE + (page << 12), count << 12).unwrap();
            let (mut spare, mut gather) = (FrameList::new(), Gather::default());
            spare.fill_with_tables(&sim, 40).unwrap();
            let pages = page..page + count;
            match kind {
                0 => {
                    let leaf = Leaf::new(Frame::new(page)).writable();
                    let taken = model.range(pages.clone()).next().is_some();
                    match tables.map(&sim, range, leaf, 2, &mut spare) {
                        Ok(_) => {
                            prop_assert!(!taken);
                            model.extend(pages.map(|page| (page, Access::KERNEL_DATA)));
                        }
                        Err(error) => prop_assert!(taken && matches!(error, TableError::Conflict(_)), "{error}"),
                    }
                }
                1 => {
                    tables.unmap(&sim, range, &mut spare, &mut gather, |_, _| {}).unwrap();
                    model.retain(|page, _| !pages.contains(page));
                }
                _ => {
                    tables.protect(&sim, range, Access::READ, &mut spare, &mut gather).unwrap();
                    for (_, access) in model.range_mut(pages) {
                        *access = Access::READ;
                    }
                }
            }
            for page in 0..4096 {
                let walk = tables.walk(&sim, VirtAddr::new(BASE + (page << 12) + 0x123));
                let found = walk.physical().map(|physical| (physical.as_u64(), walk.access()));
                let expected = model.get(&page).map(|access| ((page << 12) + 0x123, *access));
                prop_assert_eq!(found, expected);
            }
        }
        let range = Odd.range(BASE, 1 << 24).unwrap();
        let text = TableDump { tables: &tables, frames: &sim, range }.to_string();
        prop_assert!(text.contains("mapped, odd"), "{}", text);
    }
}
