//! The library's description of the reduced format: three levels of four, two and two entries ([`ReducedRegisters`] draws them).

use vmcore::paging::{
    AddressField, Canonical, Combinations, Flag, Format, LeafTest, LevelFormat, MemoryType, Mmu, Permissions,
};
use vmcore::sim::{Hardware, ReducedRegisters, SimFormat};

/// The MMU; with tags, if it has more than one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduced {
    pub(crate) tags: u32,
    /// See [`ReducedRegisters::keeps_faults`].
    pub(crate) keeps_faults: bool,
}

const ADDRESS: AddressField = AddressField { address_low: 12, entry_low: 12, width: 28 };

const fn level(shift: u32, index_bits: u32, leaf_test: LeafTest, name: &'static str) -> LevelFormat {
    LevelFormat {
        shift,
        index_bits,
        leaf_test,
        leaf_set: 1,
        leaf_reserved: 0x98,
        leaf_address: ADDRESS,
        leaf_address_high: AddressField::NONE,
        contiguous: None,
        memory_bits: [0; 4],
        table_set: 0x7,
        table_reserved: 0x98,
        table_address: ADDRESS,
        table_address_high: AddressField::NONE,
        table_limits: true,
        name,
    }
}

// SAFETY: no hardware has it but the simulated one, which this describes: 2 or 4 entries of 8 bytes fit a frame, and the shifts 12,
// 13 and 14 grow by the index bits.
unsafe impl Mmu for Reduced {
    type Word = u64;
    const FORMAT: &'static Format = &Format {
        name: "reduced",
        levels: &[
            level(12, 1, LeafTest::Always, "leaf"),
            level(13, 1, LeafTest::Never, "middle"),
            level(14, 2, LeafTest::Never, "root"),
        ],
        canonical: Canonical::SignExtended,
        present: 1,
        leaf: Permissions {
            readable: Flag::ALWAYS,
            writable: Flag::yes(1),
            executable: Flag::no(63),
            kernel_executable: Flag::NONE,
            user: Flag::yes(2),
            combinations: Combinations::READ_AND_MORE,
        },
        table: Some(Permissions {
            readable: Flag::ALWAYS,
            writable: Flag::yes(1),
            executable: Flag::no(63),
            kernel_executable: Flag::NONE,
            user: Flag::yes(2),
            combinations: Combinations::READ_AND_MORE,
        }),
        global: Flag::yes(8),
        accessed: Flag::yes(5),
        dirty: Flag::yes(6),
        dirty_modifier: 0,
        key: (0, 0),
        software: (9, 3),
        absent: (1, 63),
        break_before_make: false,
    };

    fn levels(&self) -> usize {
        3
    }

    fn physical_bits(&self) -> u32 {
        40
    }

    fn tags(&self) -> u32 {
        self.tags
    }

    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        (memory == MemoryType::WriteBack).then_some(0)
    }

    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        (code == 0).then_some(MemoryType::WriteBack)
    }
}

impl SimFormat for Reduced {
    const PAGE_SHIFT: u32 = 12;

    fn hardware(&self) -> Hardware {
        let mut registers = ReducedRegisters::default();
        registers.keeps_faults = self.keeps_faults;
        Hardware::Reduced(registers)
    }
}
