//! Every format: what it can represent comes back as it was, what it cannot is the right error, and any word has a meaning.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::addr::{Frame, VirtAddr};
use crate::paging::{Access, EncodeError, Entry, EntryWord, Leaf, MemoryType, Mmu};

const X86_TYPES: &[MemoryType] = &[
    MemoryType::WriteBack,
    MemoryType::WriteThrough,
    MemoryType::WriteCombining,
    MemoryType::WriteProtected,
    MemoryType::UncachedMinus,
    MemoryType::Uncached,
];
const EPT_TYPES: &[MemoryType] = &[
    MemoryType::WriteBack,
    MemoryType::WriteThrough,
    MemoryType::WriteCombining,
    MemoryType::WriteProtected,
    MemoryType::Uncached,
];
const ARM_TYPES: &[MemoryType] = &[
    MemoryType::WriteBack,
    MemoryType::WriteThrough,
    MemoryType::WriteCombining,
    MemoryType::Device,
    MemoryType::DeviceEarly,
    MemoryType::DeviceReordering,
    MemoryType::DeviceGathering,
];
const PLAIN_TYPES: &[MemoryType] = &[MemoryType::WriteBack];
const SVPBMT_TYPES: &[MemoryType] = &[MemoryType::WriteBack, MemoryType::WriteCombining, MemoryType::Device];

/// What the manuals say that a format can represent, written apart from its description.
#[derive(Clone, Copy)]
struct Can {
    /// Reading, writing, executing, by programs: whether the format has a leaf with just that.
    access: fn(read: bool, write: bool, execute: bool, user: bool) -> bool,
    types: &'static [MemoryType],
    global: bool,
    software_bits: u32,
    key_bits: u32,
    /// The levels that have leaves.
    leaf_levels: &'static [usize],
    /// The size of each level's leaf as a power of two.
    shifts: &'static [u32],
    /// The physical width that base pages reach.
    small_bits: u32,
    /// Bits of payload in an absent entry.
    payload_bits: u32,
}

/// Calls `visit` with every format, in each of its variants that differ in what they can represent.
fn each_format(visit: &mut impl Visit) {
    let x86 = Can {
        access: |read, _, execute, _| read && execute,
        types: X86_TYPES,
        global: true,
        software_bits: 3,
        key_bits: 0,
        leaf_levels: &[0, 1],
        shifts: &[12, 22],
        small_bits: 32,
        payload_bits: 31,
    };
    visit.format(X86::new(32), x86);
    visit.format(X86::new(36), x86);
    visit.format(X86::new(40), x86);

    let pae = Can { access: |read, _, _, _| read, shifts: &[12, 21, 30], small_bits: 52, payload_bits: 63, ..x86 };
    visit.format(X86Pae::new(36), Can { small_bits: 36, ..pae });
    visit.format(X86Pae::new(52), pae);

    let x86_64 = Can { key_bits: 4, leaf_levels: &[0, 1, 2], shifts: &[12, 21, 30, 39], ..pae };
    for bits in [32, 36, 40, 46, 48, 51, 52] {
        visit.format(X86_64::new(bits), Can { small_bits: bits, ..x86_64 });
    }
    visit.format(X86_64::new(52).five_levels(), Can { shifts: &[12, 21, 30, 39, 48], ..x86_64 });

    let ept = Can {
        access: |read, _, _, user| read && !user,
        types: EPT_TYPES,
        global: false,
        software_bits: 5,
        key_bits: 0,
        payload_bits: 52,
        ..x86_64
    };
    visit.format(Ept::new(52), ept);
    visit.format(Ept::new(46).ignore_guest_pat(), Can { small_bits: 46, ..ept });
    let execute_only = Can { access: |read, write, execute, user| (read || execute && !write) && !user, ..ept };
    visit.format(Ept::new(52).execute_only().five_levels(), Can { shifts: &[12, 21, 30, 39, 48], ..execute_only });

    let sv32 = Can {
        access: |read, write, execute, _| read || execute && !write,
        types: PLAIN_TYPES,
        global: true,
        software_bits: 2,
        key_bits: 0,
        leaf_levels: &[0, 1],
        shifts: &[12, 22],
        small_bits: 34,
        payload_bits: 31,
    };
    visit.format(RiscV32::new(34), sv32);
    visit.format(RiscV32::new(32), Can { small_bits: 32, ..sv32 });
    let sv39 = Can { leaf_levels: &[0, 1, 2], shifts: &[12, 21, 30], small_bits: 56, payload_bits: 63, ..sv32 };
    visit.format(RiscV64::sv39(56), sv39);
    visit.format(RiscV64::sv39(40).svnapot(), Can { small_bits: 40, ..sv39 });
    let sv48 = Can { types: SVPBMT_TYPES, leaf_levels: &[0, 1, 2, 3], shifts: &[12, 21, 30, 39], ..sv39 };
    visit.format(RiscV64::sv48(56).svpbmt(), sv48);
    let sv57 = Can { leaf_levels: &[0, 1, 2, 3, 4], shifts: &[12, 21, 30, 39, 48], ..sv48 };
    visit.format(RiscV64::sv57(56).svpbmt().svnapot(), sv57);

    let arm4 = Can {
        access: |read, _, _, _| read,
        types: ARM_TYPES,
        global: true,
        software_bits: 3,
        key_bits: 0,
        leaf_levels: &[0, 1, 2],
        shifts: &[12, 21, 30, 39],
        small_bits: 48,
        payload_bits: 63,
    };
    let arm4_wide = Can { leaf_levels: &[0, 1, 2, 3], shifts: &[12, 21, 30, 39, 48], small_bits: 52, ..arm4 };
    let arm16 = Can { leaf_levels: &[0, 1], shifts: &[14, 25, 36, 47], ..arm4 };
    let arm16_wide = Can { leaf_levels: &[0, 1, 2], small_bits: 52, ..arm16 };
    let arm64 = Can { leaf_levels: &[0, 1], shifts: &[16, 29, 42], ..arm4 };
    let arm64_wide = Can { leaf_levels: &[0, 1, 2], small_bits: 52, ..arm64 };
    let short = |can: Can, count: usize| Can {
        shifts: &can.shifts[..count],
        leaf_levels: if can.leaf_levels.len() > count { &can.leaf_levels[..count] } else { can.leaf_levels },
        ..can
    };
    for half in [Half::Lower, Half::Upper] {
        visit.format(AArch64::<Granule4K>::bits_48(half, 48), arm4);
        visit
            .format(AArch64::<Granule4K>::bits_39(half, 40).hardware_dirty(), Can { small_bits: 40, ..short(arm4, 3) });
        visit.format(AArch64::<Granule4KLpa2>::new(half, 52, 52), arm4_wide);
        visit.format(AArch64::<Granule16K>::bits_48(half, 48), arm16);
        visit.format(AArch64::<Granule16K>::bits_39(half, 48), short(arm16, 3));
        visit.format(AArch64::<Granule16KLpa2>::new(half, 52, 52).hardware_dirty(), arm16_wide);
        visit.format(AArch64::<Granule64K>::bits_48(half, 48), arm64);
        visit.format(AArch64::<Granule64K>::bits_39(half, 48), short(arm64, 2));
        visit.format(AArch64::<Granule64K>::new(half, 52, 52).hardware_dirty(), arm64_wide);
    }
    let second = |can: Can| Can { access: |_, _, _, user| !user, global: false, ..can };
    visit.format(AArch64Stage2::<Granule4K>::new(48, 48), second(arm4));
    visit.format(
        AArch64Stage2::<Granule4K>::new(39, 40).hardware_dirty(),
        Can { small_bits: 40, ..second(short(arm4, 3)) },
    );
    visit.format(AArch64Stage2::<Granule4KLpa2>::new(52, 52), second(arm4_wide));
    visit.format(AArch64Stage2::<Granule16K>::new(48, 48), second(arm16));
    visit.format(AArch64Stage2::<Granule16KLpa2>::new(52, 52).hardware_dirty(), second(arm16_wide));
    visit.format(AArch64Stage2::<Granule64K>::new(52, 52), second(arm64_wide));
}

trait Visit {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can);
}

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

/// The row of the front page's table for a format, made from its description.
fn row<M: Mmu>(name: &str, address_bits: &str, mmu: M) -> String {
    let format = M::FORMAT;
    let size = |shift: u32| match shift {
        12..20 => format!("{} KiB", 1 << (shift - 10)),
        20..30 => format!("{} MiB", 1 << (shift - 20)),
        30..40 => format!("{} GiB", 1 << (shift - 30)),
        _ => format!("{} TiB", 1 << (shift - 40)),
    };
    let each_level = |text: &dyn Fn(usize) -> Option<String>| {
        let texts: Vec<_> = (0..mmu.levels()).filter_map(text).collect();
        if texts.is_empty() { "–".to_string() } else { texts.join(", ") }
    };
    let leaves = each_level(&|level| mmu.level(level).filter(|_| mmu.has_leaves(level)).map(|at| size(at.shift)));
    let groups = each_level(&|level| Some(size(mmu.level(level)?.shift + mmu.contiguous(level)?.count_shift)));
    let types: Vec<_> = MemoryType::ALL
        .into_iter()
        .filter(|memory| mmu.memory_code(*memory).is_some())
        .map(MemoryType::abbreviation)
        .collect();
    let flags = [
        (format.leaf.readable, 'r'),
        (format.leaf.writable, 'w'),
        (format.leaf.executable, 'x'),
        (format.leaf.user, 'u'),
    ];
    let chosen: String = flags.into_iter().filter(|(flag, _)| flag.exists()).map(|(_, letter)| letter).collect();
    let limits = match (format.table.is_some(), format.limits_at_every_level()) {
        (true, true) => "every level",
        (true, false) => "but the top",
        (false, _) => "–",
    };
    let bits = |count: u32| if count == 0 { "–".to_string() } else { count.to_string() };
    format!(
        "| {name} | {address_bits} | {leaves} | {} | {chosen} | {limits} | {} | {} | {} | {groups} | {} |",
        types.join(" "),
        if format.global.exists() { "yes" } else { "–" },
        bits(format.software.1),
        bits(format.key.1),
        format.absent.1
    )
}

/// The table on the crate's front page says what the descriptions say, of every format.
#[test]
fn the_front_page_is_true() {
    let wide = |half| AArch64::<Granule64K>::new(half, 52, 52);
    let link = |name: &str, more: &str| format!("[`{name}`](paging::{name}){more}");
    let granule = |name: &str| format!("[`AArch64`](paging::AArch64), {}", link(name, ""));
    let stage2 = |name: &str| format!("[`AArch64Stage2`](paging::AArch64Stage2), {}", link(name, ""));
    let rows = [
        row(&link("X86", ""), "32", X86::new(40)),
        row(&link("X86Pae", ""), "32", X86Pae::new(52)),
        row(&link("X86_64", ""), "48, 57", X86_64::new(52).five_levels()),
        row(&link("Ept", ""), "48, 57", Ept::new(52).five_levels()),
        row(&link("RiscV32", ""), "32", RiscV32::new(34)),
        row(&link("RiscV64", ""), "39, 48, 57", RiscV64::sv57(56).svpbmt().svnapot()),
        row(&granule("Granule4K"), "25–48", AArch64::<Granule4K>::bits_48(Half::Lower, 48)),
        row(&granule("Granule4KLpa2"), "25–52", AArch64::<Granule4KLpa2>::new(Half::Lower, 52, 52)),
        row(&granule("Granule16K"), "25–48", AArch64::<Granule16K>::bits_48(Half::Lower, 48)),
        row(&granule("Granule16KLpa2"), "25–52", AArch64::<Granule16KLpa2>::new(Half::Lower, 52, 52)),
        row(&granule("Granule64K"), "25–52", wide(Half::Upper)),
        row(&stage2("Granule4K"), "25–48", AArch64Stage2::<Granule4K>::new(48, 48)),
        row(&stage2("Granule4KLpa2"), "25–52", AArch64Stage2::<Granule4KLpa2>::new(52, 52)),
        row(&stage2("Granule16K"), "25–48", AArch64Stage2::<Granule16K>::new(48, 48)),
        row(&stage2("Granule16KLpa2"), "25–52", AArch64Stage2::<Granule16KLpa2>::new(52, 52)),
        row(&stage2("Granule64K"), "25–52", AArch64Stage2::<Granule64K>::new(52, 52)),
    ];
    let page = include_str!("../../lib.rs");
    let start = page.find("//! | format |").unwrap();
    let table: Vec<_> = page[start..].lines().take_while(|line| line.starts_with("//! |")).skip(2).collect();
    let expected: Vec<_> = rows.iter().map(|row| format!("//! {row}")).collect();
    assert_eq!(table, expected, "the table should be:\n{}", expected.join("\n"));
}
