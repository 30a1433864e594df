//! A legend word for word, and every legend against what decoding makes of each bit.

use alloc::string::ToString;

use super::*;
use crate::addr::Frame;
use crate::paging::every::{Can, Visit, each_format};
use crate::paging::{AArch64, Access, Granule4K, Half, Leaf, RiscV64, X86_64};

/// What a bit means in a kind of entry, if the legend has it.
fn meaning_of<M: Mmu>(place: &Place<M>, bit: u32) -> Option<Meaning> {
    let mut all = MEANINGS.into_iter().filter(|meaning| place.mask(*meaning) >> bit & 1 != 0);
    let meaning = all.next();
    assert!(all.next().is_none(), "{:?} level {}: bit {bit} has two meanings", place.mmu, place.level);
    meaning
}

struct Bits {
    leaves: u32,
    tables: u32,
}

impl Visit for Bits {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can) {
        for level in 0..mmu.levels() {
            for access in (0..16).map(Access::from_bits_truncate) {
                let leaf = Leaf::new(Frame::new(0)).access(access);
                let place = Place::new(mmu, level, Kind::Leaf);
                assert_eq!(place.is_some(), can.leaf_levels.contains(&level), "{mmu:?}");
                if let (Some(place), Ok(word)) = (place, mmu.encode_leaf(level, leaf)) {
                    self.leaf(&place, leaf, word);
                }
            }
            if let Some(place) = Place::new(mmu, level, Kind::Table) {
                let word = mmu.encode_table(level, Frame::new(0)).unwrap();
                self.table(&place, word);
            }
        }
    }
}

impl Bits {
    /// Changes each bit of a leaf's word: what else the word means then must be what the legend says of the bit.
    fn leaf<M: Mmu>(&mut self, place: &Place<M>, leaf: Leaf, word: u64) {
        let (mmu, level) = (place.mmu, place.level);
        for bit in 0..8 << M::Word::SHIFT {
            self.leaves += 1;
            let now = mmu.decode(level, word ^ 1 << bit);
            let same_but = |change: fn(&mut Leaf, &Leaf)| match now {
                Entry::Leaf(other) => {
                    let mut expected = leaf;
                    change(&mut expected, &other);
                    other == expected && other != leaf
                }
                _ => false,
            };
            let reserved = now == Entry::Reserved;
            let access = same_but(|leaf, other| leaf.access = other.access);
            let fits = match meaning_of(place, bit) {
                None => now == Entry::Leaf(leaf) || turns(place, bit),
                Some(Meaning::Reserved | Meaning::Beyond) => reserved,
                // With the hardware's marks of writing, what forbids it marks it as clean.
                Some(Meaning::Writable) if word & place.mask(Meaning::DirtyModifier) != 0 => {
                    same_but(|leaf, _| leaf.dirty ^= true)
                }
                // EPT: without any of them it is absent. RISC-V: it is a table.
                Some(_) if matches!(now, Entry::Absent(_)) => M::FORMAT.present >> bit & 1 != 0,
                Some(Meaning::Readable | Meaning::Writable | Meaning::Executable) => {
                    access || reserved || matches!(now, Entry::Table(..)) || now == Entry::Leaf(leaf) && !is_sole(place)
                }
                Some(Meaning::KernelExecutable | Meaning::User) => access || now == Entry::Leaf(leaf),
                Some(Meaning::Memory) => {
                    reserved || same_but(|leaf, other| leaf.memory = other.memory) || now == Entry::Leaf(leaf)
                }
                Some(Meaning::Global) => same_but(|leaf, _| leaf.global ^= true),
                Some(Meaning::Accessed) => same_but(|leaf, _| leaf.accessed ^= true),
                Some(Meaning::Dirty) => same_but(|leaf, _| leaf.dirty ^= true) || now == Entry::Leaf(leaf),
                Some(Meaning::DirtyModifier) => same_but(|leaf, other| {
                    (leaf.access, leaf.dirty) = (other.access, other.dirty);
                }),
                Some(Meaning::Contiguous) => reserved || now == Entry::Leaf(leaf),
                Some(Meaning::Address | Meaning::AddressHigh) => same_but(|leaf, other| leaf.frame = other.frame),
                Some(Meaning::Software) => same_but(|leaf, other| leaf.software = other.software),
                Some(Meaning::Key) => same_but(|leaf, other| leaf.key = other.key),
                Some(Meaning::Present) => matches!(now, Entry::Absent(_)),
                Some(Meaning::Kind) => !matches!(now, Entry::Leaf(_)),
                Some(Meaning::Set) => true,
            };
            assert!(fits, "{mmu:?} level {level}, {leaf:?}: bit {bit} gives {now:?}");
        }
        let text = EntryBits { mmu, level, word }.to_string();
        assert!(!text.contains("without a meaning") && !text.contains("reserved"), "{mmu:?}: {text}");
    }

    fn table<M: Mmu>(&mut self, place: &Place<M>, word: u64) {
        let (mmu, level) = (place.mmu, place.level);
        let Entry::Table(frame, limits) = mmu.decode(level, word) else { panic!("a table") };
        for bit in 0..8 << M::Word::SHIFT {
            self.tables += 1;
            let now = mmu.decode(level, word ^ 1 << bit);
            let fits = match meaning_of(place, bit) {
                None => {
                    now == Entry::Table(frame, limits)
                        || matches!(now, Entry::Leaf(_) | Entry::Reserved) && turns(place, bit)
                }
                Some(Meaning::Reserved | Meaning::Beyond) => now == Entry::Reserved,
                Some(Meaning::Address | Meaning::AddressHigh) => {
                    matches!(now, Entry::Table(other, same) if other != frame && same == limits)
                }
                Some(Meaning::Present) => matches!(now, Entry::Absent(_)),
                Some(Meaning::Kind | Meaning::Set) => !matches!(now, Entry::Table(..)),
                // EPT: what cannot be read may be a misconfiguration.
                Some(_) => {
                    matches!(now, Entry::Table(same, other) if same == frame && other != limits)
                        || now == Entry::Reserved
                }
            };
            assert!(fits, "{mmu:?} level {level}, a table: bit {bit} gives {now:?}");
        }
        let text = EntryBits { mmu, level, word }.to_string();
        assert!(!text.contains("without a meaning") && !text.contains("reserved"), "{mmu:?}: {text}");
    }
}

/// Whether execution is everybody's, not the owner's alone.
fn is_sole<M: Mmu>(place: &Place<M>) -> bool {
    !place.flag(Meaning::KernelExecutable).exists()
}

/// Whether the bit makes a leaf of a table, or a table of a leaf.
fn turns<M: Mmu>(place: &Place<M>, bit: u32) -> bool {
    match place.mmu.level(place.level).unwrap().leaf_test {
        LeafTest::AnySet(mask) | LeafTest::NoneSet(mask) => mask >> bit & 1 != 0,
        _ => false,
    }
}

#[test]
fn each_bit_does_what_the_legend_says() {
    let mut bits = Bits { leaves: 0, tables: 0 };
    each_format(&mut bits);
    assert!(bits.leaves > 10_000 && bits.tables > 3_000, "{} and {}", bits.leaves, bits.tables);
}

#[test]
fn a_legend_of_arm() {
    let text = Legend(AArch64::<Granule4K>::bits_48(Half::Upper, 40).hardware_dirty()).to_string();
    assert_eq!(
        text,
        "\
AArch64, 4 KiB: 4 levels of 64-bit entries
  addresses           48 bits, the others are 1; physical ones have 40
  level 0             512 entries of 512 GiB: tables; level 3 here
  level 1             512 entries of 1 GiB: tables or leaves; level 2 here
  level 2             512 entries of 2 MiB: tables or leaves; level 1 here
  level 3             512 entries of 4 KiB: leaves; level 0 here
  bit 0               present
  bit 1               a table (in level 2, level 1)
  bits 1, 8-9         always set (leaves of level 3)
  bit 1               always set (tables of level 0)
  bits 2-4            memory type (leaves)
  bit 6               for programs (leaves)
  bit 7               not writable, or not dirty where bit 51 is set (leaves)
  bits 8-9            always set (leaves of level 2, level 1)
  bit 10              accessed (leaves)
  bit 11              not global (leaves)
  bits 12-39          address (leaves of level 3; tables)
  bits 21-39          address (leaves of level 2)
  bits 30-39          address (leaves of level 1)
  bits 40-47          reserved: beyond the physical width
  bit 51              writable, the hardware marks it as dirty (leaves)
  bit 52              one of a group of 16 (leaves)
  bit 53              not executable by the kernel (leaves)
  bit 54              not executable by programs (leaves)
  bit 55              dirty (leaves)
  bits 56-58          software (leaves)
  bit 59              not executable by the kernel (tables)
  bit 60              not executable by programs (tables)
  bit 61              not for programs (tables)
  bit 62              not writable (tables)
  memory types        0 WB, 1 WT, 2 WC, 3 DEV, 4 nGnRE, 5 nGRE, 6 GRE, 7 WB
  bits 1-63           payload (absent entries)
  permissions         an access must be allowed by the tables above a leaf too
  changes             a live leaf is made absent and flushed before another takes its place"
    );
}

#[test]
fn a_legend_of_risc_v() {
    assert_eq!(
        Legend(RiscV64::sv39(56)).to_string(),
        "\
RISC-V, Sv39 to Sv57: 3 levels of 64-bit entries
  addresses           39 bits, the others repeat bit 38; physical ones have 56
  VPN[2]              512 entries of 1 GiB: tables or leaves; level 2 here
  VPN[1]              512 entries of 2 MiB: tables or leaves; level 1 here
  VPN[0]              512 entries of 4 KiB: leaves; level 0 here
  bits 1-3            a leaf if any is set, a table otherwise
  bit 0               present
  bit 1               readable (leaves)
  bit 2               writable (leaves)
  bit 3               executable (leaves)
  bit 4               for programs (leaves)
  bits 4, 6-7, 54-63  reserved (tables)
  bit 5               global (leaves)
  bit 6               accessed (leaves)
  bit 7               dirty (leaves)
  bits 8-9            software (leaves)
  bits 10-53          address bits 12-55 (leaves of VPN[0]; tables)
  bits 10-18, 54-63   reserved (leaves of VPN[1])
  bits 10-27, 54-63   reserved (leaves of VPN[2])
  bits 19-53          address bits 21-55 (leaves of VPN[1])
  bits 28-53          address bits 30-55 (leaves of VPN[2])
  bits 54-63          reserved (leaves of VPN[0])
  memory types        0 WB
  bits 1-63           payload (absent entries)"
    );
}

#[test]
fn entries_that_are_not_in_order_say_why() {
    let bits = |level, word| EntryBits { mmu: X86_64::new(40), level, word }.to_string();
    assert_eq!(bits(0, 0), "0x0000000000000000 in PT: absent");
    assert_eq!(bits(0, 0x55aa), "0x00000000000055aa in PT: absent, holds 0x2ad5");
    assert_eq!(bits(4, 1), "0x0000000000000001: no level 4 is in use");
    assert_eq!(
        bits(3, 0x123_4081),
        "\
0x0000000001234081 in PML4: malformed, an access faults on it
  bit 0               present
  bit 7               reserved
  bits 12-39          address 0x1234000"
    );
    assert_eq!(
        bits(2, 0x0100_0000_0123_4021),
        "\
0x0100000001234021 in PDPT: a table at 0x1234000
  bit 0               present
  bits 12-39          address 0x1234000
  bits 5, 56          without a meaning here"
    );
    let leaf = Leaf::new(Frame::new(0x4_0000)).memory(crate::paging::MemoryType::WriteCombining).software(5).key(3);
    let word = X86_64::new(40).encode_leaf(2, leaf).unwrap();
    assert_eq!(
        bits(2, word | 1 << 45),
        "\
0x9800200040001a89 in PDPT: malformed, an access faults on it
  bit 0               present
  bits 3-4, 12        memory type
  bit 7               a leaf
  bits 9-11           software 0x5
  bits 30-39          address 0x40000000
  bit 45              reserved: beyond the physical width
  bits 59-62          protection key 3
  bit 63              not executable"
    );
}

/// Without 1 GiB leaves, what would be one is reserved.
#[test]
fn a_legend_is_that_of_the_machine() {
    let text = Legend(X86_64::new(40).without_gigabyte_leaves()).to_string();
    assert!(text.contains("512 entries of 1 GiB: tables; level 2 here"), "{text}");
    assert!(text.contains("bit 7               reserved (tables of PDPT, PML4)"), "{text}");
}
