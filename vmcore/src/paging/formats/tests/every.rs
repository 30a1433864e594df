//! Every format, in each of its variants that differ in what they can represent, and what the manuals say that is.

use crate::paging::formats::*;
use crate::paging::{MemoryType, Mmu};

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
pub(crate) struct Can {
    /// Reading, writing, executing, by programs: whether the format has a leaf with just that.
    pub(crate) access: fn(read: bool, write: bool, execute: bool, user: bool) -> bool,
    pub(crate) types: &'static [MemoryType],
    pub(crate) global: bool,
    pub(crate) software_bits: u32,
    pub(crate) key_bits: u32,
    /// The levels that have leaves.
    pub(crate) leaf_levels: &'static [usize],
    /// The size of each level's leaf as a power of two.
    pub(crate) shifts: &'static [u32],
    /// The physical width that base pages reach.
    pub(crate) small_bits: u32,
    /// Bits of payload in an absent entry.
    pub(crate) payload_bits: u32,
}

/// Calls `visit` with every format, in each of its variants that differ in what they can represent.
pub(crate) fn each_format(visit: &mut impl Visit) {
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

pub(crate) trait Visit {
    fn format<M: Mmu>(&mut self, mmu: M, can: Can);
}
