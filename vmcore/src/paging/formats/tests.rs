//! Every format: what it can represent comes back as it was, what it cannot is the right error, and any word has a meaning.

pub(crate) mod every;
#[cfg(test)]
mod front_page;
pub(crate) mod fuzzed;

use core::fmt::Debug;

use proptest::prelude::*;

use self::every::{Can, Visit, each_format};
use super::*;
use crate::addr::{Frame, VirtAddr};
use crate::paging::{Access, EncodeError, Entry, EntryWord, Leaf, MemoryType, Mmu};

/// Bits that an entry of this MMU has.
fn word_mask<M: Mmu>() -> u64 {
    u64::MAX >> (64 - (8 << M::Word::SHIFT))
}

struct RoundTrip {
    leaves: u64,
}

impl Visit for RoundTrip {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can) {
        let page_shift = can.shifts[0];
        assert_eq!((mmu.levels(), mmu.page_shift()), (can.shifts.len(), page_shift), "{mmu:?}");
        for (level, &shift) in can.shifts.iter().enumerate() {
            assert_eq!(mmu.level(level).unwrap().shift, shift);
            if !can.leaf_levels.contains(&level) {
                let leaf = Leaf::new(Frame::new(0)).executable();
                assert_eq!(mmu.encode_leaf(level, leaf), Err(EncodeError::NoLeafAtLevel(level)), "{mmu:?}");
                continue;
            }
            // Of x86 alone, large leaves reach further than small ones.
            let reach = if level == 0 { can.small_bits } else { mmu.physical_bits() };
            let (frames, step) = (1_u64 << (reach - page_shift), 1_u64 << (shift - page_shift));
            for frame in [0, step, frames / 2, frames - step] {
                for bits in 0..16 {
                    self.leaves_of(mmu, can, level, Frame::new(frame), Access::from_bits_truncate(bits));
                }
            }
            let execute = |frame| Leaf::new(Frame::new(frame)).executable();
            for beyond in [frames, u64::MAX, 1 << 63, !(step - 1)] {
                let result = mmu.encode_leaf(level, execute(beyond));
                assert_eq!(result, Err(EncodeError::Frame(Frame::new(beyond))), "{mmu:?} {level}");
            }
            if level > 0 {
                let unaligned = Frame::new(step / 2);
                assert_eq!(mmu.encode_leaf(level, execute(step / 2)), Err(EncodeError::Frame(unaligned)), "{mmu:?}");
            }
        }
        assert_eq!(
            mmu.encode_leaf(mmu.levels(), Leaf::new(Frame::new(0))),
            Err(EncodeError::NoLeafAtLevel(mmu.levels()))
        );
    }
}

impl RoundTrip {
    fn leaves_of<M: Mmu>(&mut self, mmu: M, can: Can, level: usize, frame: Frame, access: Access) {
        let has = |flag| access.contains(flag);
        let expressible = (can.access)(has(Access::READ), has(Access::WRITE), has(Access::EXECUTE), has(Access::USER));
        for memory in MemoryType::ALL {
            for marks in 0..8_u8 {
                for (software, key) in [
                    (0, 0),
                    (1, 0),
                    (5, 1),
                    ((1 << can.software_bits) - 1, (1 << can.key_bits) - 1),
                    (1 << can.software_bits, 0),
                    (0, 1 << can.key_bits),
                ] {
                    let mut leaf = Leaf::new(frame).access(access).memory(memory).software(software).key(key);
                    (leaf.global, leaf.accessed, leaf.dirty) = (marks & 1 != 0, marks & 2 != 0, marks & 4 != 0);
                    let expected = if !expressible {
                        Err(EncodeError::Access(access))
                    } else if !can.types.contains(&memory) {
                        Err(EncodeError::MemoryType(memory))
                    } else if leaf.global && !can.global {
                        Err(EncodeError::Global)
                    } else if u32::from(software) >> can.software_bits != 0 {
                        Err(EncodeError::Software(software))
                    } else if u32::from(key) >> can.key_bits != 0 {
                        Err(EncodeError::Key(key))
                    } else {
                        Ok(Entry::Leaf(leaf))
                    };
                    let word = mmu.encode_leaf(level, leaf);
                    let meaning = word.map(|word| mmu.decode(level, word));
                    assert_eq!(meaning, expected, "{mmu:?} level {level}: {leaf:?}");
                    if let Ok(word) = word {
                        assert_eq!(word & !word_mask::<M>(), 0);
                        assert!(mmu.is_present(word) && mmu.decode_table(level, word).is_none());
                        assert_eq!(mmu.decode_at(level, 3, word), Entry::Leaf(leaf));
                        self.leaves += 1;
                    }
                }
            }
        }
    }
}

#[test]
fn every_leaf_comes_back_as_it_was() {
    let mut round_trip = RoundTrip { leaves: 0 };
    each_format(&mut round_trip);
    assert!(round_trip.leaves > 500_000, "{} leaves", round_trip.leaves);
}

struct Tables;

impl Visit for Tables {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can) {
        // Every table, and so the root, lies where a base page can.
        let frames = 1_u64 << (can.small_bits - can.shifts[0]);
        for level in 1..mmu.levels() {
            for frame in [0, 1, frames / 2, frames - 1].map(Frame::new) {
                let word = mmu.encode_table(level, frame).unwrap();
                assert_eq!(word & !word_mask::<M>(), 0);
                assert_eq!(
                    mmu.decode(level, word),
                    Entry::Table(frame, crate::paging::Limits::NONE),
                    "{mmu:?} {level}"
                );
                assert_eq!(mmu.decode_table(level, word), Some(frame));
                assert!(mmu.is_present(word));
            }
            for frame in [frames, u64::MAX].map(Frame::new) {
                assert_eq!(mmu.encode_table(level, frame), Err(EncodeError::Frame(frame)), "{mmu:?}");
            }
        }
        let frame = Frame::new(1);
        assert_eq!(mmu.encode_table(0, frame), Err(EncodeError::NoTableAtLevel(0)));
        assert_eq!(mmu.encode_table(mmu.levels(), frame), Err(EncodeError::NoTableAtLevel(mmu.levels())));
    }
}

#[test]
fn every_table_comes_back_as_it_was() {
    each_format(&mut Tables);
}

struct Absent;

impl Visit for Absent {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can) {
        let most = (1 << can.payload_bits) - 1;
        for payload in [0, 1, 0x5a5a_5a5a & most, most / 2 + 1, most] {
            let word = mmu.encode_absent(payload).unwrap();
            assert_eq!(word & !word_mask::<M>(), 0);
            for level in 0..mmu.levels() {
                assert_eq!(mmu.decode(level, word), Entry::Absent(payload), "{mmu:?}");
            }
            assert!(!mmu.is_present(word));
        }
        for payload in [most + 1, u64::MAX] {
            assert_eq!(mmu.encode_absent(payload), Err(EncodeError::Payload(payload)), "{mmu:?}");
        }
        assert_eq!(mmu.decode(0, 0), Entry::Absent(0));
    }
}

#[test]
fn payloads_of_absent_entries_come_back() {
    each_format(&mut Absent);
}

struct Groups {
    found: usize,
}

impl Visit for Groups {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can) {
        for level in 0..mmu.levels() {
            let leaf = Leaf::new(Frame::new(0)).executable();
            let Some(group) = mmu.contiguous(level) else {
                assert!(mmu.encode_contiguous(level, leaf).is_err());
                continue;
            };
            self.found += 1;
            let (count, step) = (1_usize << group.count_shift, 1_u64 << (can.shifts[level] - can.shifts[0]));
            // The place in the table says which of the group it is.
            for index in count..2 * count {
                let leaf = Leaf { frame: Frame::new(index as u64 * step), ..leaf };
                let word = mmu.encode_contiguous(level, leaf).unwrap();
                assert!(mmu.is_contiguous(level, word));
                assert!(!mmu.is_contiguous(level, mmu.encode_leaf(level, leaf).unwrap()));
                assert_eq!(mmu.decode_at(level, index, word), Entry::Leaf(leaf), "{mmu:?}");
            }
        }
    }
}

#[test]
fn groups_of_leaves_come_back_by_their_place() {
    let mut groups = Groups { found: 0 };
    each_format(&mut groups);
    assert!(groups.found > 20, "{}", groups.found);
}

struct Addresses;

impl Visit for Addresses {
    fn format<M: Mmu>(&mut self, mmu: M, _: Can) {
        let bits = mmu.virtual_bits();
        let size = 1_u64 << bits;
        let page = 1_u64 << mmu.page_shift();
        let first = |address| mmu.range(address, page).is_ok();
        use crate::paging::Canonical;
        let (inside, outside) = match mmu.canonical() {
            Canonical::ZeroExtended => ([0, size - page], [size, 0_u64.wrapping_sub(page)]),
            Canonical::OneExtended => ([0_u64.wrapping_sub(size), 0_u64.wrapping_sub(page)], [0, !size & !(page - 1)]),
            Canonical::SignExtended => {
                ([size / 2 - page, 0_u64.wrapping_sub(size / 2)], [size / 2, 0_u64.wrapping_sub(size / 2 + page)])
            }
        };
        assert!(inside.into_iter().all(first), "{mmu:?}");
        assert!(!outside.into_iter().any(first), "{mmu:?}");
        assert!(mmu.range(page / 2, page).is_err() && mmu.range(inside[0], page / 2).is_err());
        assert!(mmu.range(inside[0], !(page - 1)).is_err());
    }
}

#[test]
fn addresses_of_every_format() {
    each_format(&mut Addresses);
}

/// Decodes words at every level: none panics, and what a leaf, a table or an absent entry means can be written again.
struct Decode<'a> {
    words: &'a [u64],
    index: usize,
}

fn same<T: PartialEq + Debug>(one: T, other: T, mmu: impl Debug, word: u64) {
    assert_eq!(one, other, "{mmu:?}: {word:#x}");
}

impl Visit for Decode<'_> {
    fn format<M: Mmu>(&mut self, mmu: M, _: Can) {
        for level in [0, 1, 2, 3, 4, 5, usize::MAX] {
            for word in self.words.iter().map(|word| word & word_mask::<M>()) {
                let entry = mmu.decode_at(level, self.index, word);
                match entry {
                    Entry::Leaf(leaf) => {
                        let again = mmu.encode_leaf(level, leaf).unwrap();
                        same(mmu.decode(level, again), entry, mmu, word);
                        for access in (0..16).map(Access::from_bits_truncate) {
                            let Ok(bits) = mmu.encode_access(access) else { continue };
                            // What a mark or a memory type says stays, whatever access is given.
                            let changed = mmu.decode_at(level, self.index, mmu.replace_access(word, bits));
                            same(changed, Entry::Leaf(Leaf { access, ..leaf }), mmu, word);
                        }
                    }
                    Entry::Table(frame, limits) => {
                        let again = mmu.encode_table(level, frame).unwrap();
                        same(mmu.decode_table(level, again), Some(frame), mmu, word);
                        same(mmu.decode_table(level, word), Some(frame), mmu, word);
                        assert!(Access::all().contains(Access::all() & limits));
                    }
                    Entry::Absent(payload) => {
                        let again = mmu.encode_absent(payload).unwrap();
                        same(mmu.decode(level, again), entry, mmu, word);
                    }
                    Entry::Reserved => {}
                }
            }
        }
        for word in self.words {
            let _ = (mmu.is_canonical(VirtAddr::new(*word)), mmu.range(*word, word.rotate_left(7)));
            let leaf = Leaf { frame: Frame::new(*word), ..Leaf::new(Frame::new(0)) };
            for level in [0, 1, 4, usize::MAX] {
                let _ = (mmu.encode_leaf(level, leaf), mmu.encode_contiguous(level, leaf), mmu.leaf_stride(level));
                let _ = (mmu.encode_table(level, leaf.frame), mmu.leaf_fits(level, leaf.frame), mmu.index_bits(level));
                let _ = (mmu.contiguous(level), mmu.limits(level, *word), mmu.is_contiguous(level, *word));
            }
            let _ = (mmu.memory_type(*word as u32), mmu.encode_absent(*word), mmu.is_dirty(*word));
        }
    }
}

proptest! {
    #[test]
    fn any_word_decodes(word: u64, sparse: u64, index: usize) {
        // Present ones, and ones whose address and reserved bits are mostly clear, so that leaves and tables are met.
        let few = word & sparse & sparse.rotate_left(13);
        let low = word & 0xfff | 1;
        let words = [word, word | 1, word | 3, few | 1, few | 3, few | 0x81, few | 7, low, low | few & !0xf_ffff, low | 0x60 << 48];
        each_format(&mut Decode { words: &words, index });
    }
}

#[test]
fn silly_widths_are_the_nearest_that_exist() {
    for bits in [0, u32::MAX] {
        let most = bits != 0;
        let nearest = |low, high| if most { high } else { low };
        assert_eq!(X86::new(bits).physical_bits(), nearest(32, 40));
        assert_eq!(X86Pae::new(bits).physical_bits(), nearest(32, 52));
        assert_eq!(X86_64::new(bits).physical_bits(), nearest(32, 52));
        assert_eq!(Ept::new(bits).physical_bits(), nearest(32, 52));
        assert_eq!(RiscV32::new(bits).physical_bits(), nearest(20, 34));
        assert_eq!(RiscV64::sv39(bits).physical_bits(), nearest(20, 56));
        let arm = AArch64::<Granule16K>::new(Half::Lower, bits, bits);
        assert_eq!((arm.virtual_bits(), arm.physical_bits()), (nearest(25, 48), nearest(32, 48)));
        let arm = AArch64Stage2::<Granule64K>::new(bits, bits);
        assert_eq!((arm.virtual_bits(), arm.physical_bits()), (nearest(25, 52), nearest(32, 52)));
    }
}

#[test]
fn tags_are_as_many_as_the_registers_have() {
    assert_eq!([X86::new(40).tags(), X86Pae::new(52).tags(), X86_64::new(52).tags(), Ept::new(52).tags()], [1; 4]);
    assert_eq!([X86_64::new(52).five_levels().pcid().tags(), Ept::new(52).vpid().tags()], [1 << 12, 1 << 16]);
    for (bits, riscv32, riscv64, arm) in
        [(0, 0, 0, 0), (2, 2, 2, 0), (8, 8, 8, 8), (14, 9, 14, 8), (16, 9, 16, 16), (u32::MAX, 9, 16, 16)]
    {
        assert_eq!(RiscV32::new(34).asid_bits(bits).tags(), 1 << riscv32);
        assert_eq!(RiscV64::sv39(56).asid_bits(bits).tags(), 1 << riscv64);
        assert_eq!(AArch64::<Granule4K>::bits_48(Half::Lower, 48).asid_bits(bits).tags(), 1 << arm);
        assert_eq!(AArch64Stage2::<Granule4K>::new(48, 48).vmid_bits(bits).tags(), 1 << arm);
    }
}
