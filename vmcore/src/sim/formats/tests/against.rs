//! The library's descriptions against the walkers: any word means the same to both.

use proptest::prelude::*;

use super::super::super::regime::{Rights, Step};
use super::*;
use crate::paging::{
    AArch64, AArch64Stage2, Entry, Ept, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Half, Leaf,
    RiscV32, RiscV64, X86, X86Pae,
};

/// Whether a word of a level means the same to the description and to the walker.
fn compare<M: SimFormat>(mmu: &M, level: usize, word: u64, encoded: bool) -> Result<(), TestCaseError> {
    let hardware = mmu.hardware();
    let regime = hardware.regime();
    let mut shift = regime.top();
    for _ in level + 1..mmu.levels() {
        shift = regime.below(shift);
    }
    let at = mmu.level(level).unwrap();
    prop_assert_eq!(shift, at.shift);
    let word = if regime.is_narrow() { word & 0xffff_ffff } else { word };
    let meant = mmu.decode(level, word);
    let stepped = regime.step(shift, word, Rights::ALL);
    let context = alloc::format!("{mmu:?} level {level} {word:#x}: {meant:?}, the walker: {stepped:?}");
    match (meant, stepped) {
        (Entry::Absent(_), Step::Absent) | (Entry::Reserved, Step::Reserved) => {}
        // Bits that Arm wants to be zero without promising a fault: the walker insists, and no encoder sets them.
        (Entry::Leaf(_) | Entry::Table(..), Step::Reserved) if regime.tlb().break_before_make && !encoded => {}
        // Arm's reserved patterns are invalid entries to the hardware.
        (Entry::Reserved, Step::Absent) if regime.tlb().break_before_make => {}
        (Entry::Table(frame, limits), Step::Table { address, below, .. }) => {
            prop_assert_eq!(frame.number() << mmu.page_shift(), address, "{}", context);
            for access in [Access::USER_DATA | Access::EXECUTE, Access::KERNEL_DATA | Access::EXECUTE] {
                let left = limits.apply(access);
                prop_assert_eq!(left.contains(Access::WRITE), below.write, "{}", context);
                if access.contains(Access::USER) && below.user {
                    prop_assert_eq!(left.contains(Access::EXECUTE), below.execute, "{}", context);
                } else if !access.contains(Access::USER) {
                    prop_assert_eq!(left.contains(Access::EXECUTE), below.kernel_execute, "{}", context);
                }
            }
        }
        (Entry::Leaf(leaf), Step::Leaf(found)) => {
            let own = found.own.unwrap_or(found.base);
            prop_assert_eq!(leaf.frame.number() << mmu.page_shift(), own, "{}", context);
            prop_assert_eq!(leaf.access, found.rights.access(), "{}", context);
            prop_assert_eq!(leaf.memory, found.memory, "{}", context);
            prop_assert_eq!(leaf.global, found.global, "{}", context);
            prop_assert_eq!(mmu.is_contiguous(level, word), found.span > shift, "{}", context);
        }
        _ => prop_assert!(false, "{}", context),
    }
    Ok(())
}

macro_rules! formats {
    ($($name:ident: $mmus:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(500))]
            $(
                #[test]
                fn $name(word: u64, level in 0_usize..5, keep: u64, frame: u64, flags: u8, software: u8) {
                    for mmu in $mmus {
                        let level = level % mmu.levels();
                        let mut words = alloc::vec![word, word & keep, word & 0xfff | 1, word & keep & 0x8000_00ff_ffff_ffff | 3];
                        for access in (0..16).map(Access::from_bits_truncate) {
                            for memory in MemoryType::ALL {
                                let at = mmu.level(level).unwrap();
                                let step = 1_u64 << (at.shift - mmu.page_shift());
                                let frames = 1_u64 << (mmu.physical_bits() - mmu.page_shift());
                                let mut leaf = Leaf::new(Frame::new(frame % frames / step * step)).access(access).memory(memory);
                                (leaf.global, leaf.accessed, leaf.dirty) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                                leaf.software = software;
                                words.extend(mmu.encode_leaf(level, leaf));
                                words.extend(mmu.encode_leaf(level, Leaf { software: 0, ..leaf }));
                                words.extend(mmu.encode_contiguous(level, Leaf { software: 0, ..leaf }));
                                words.extend(mmu.encode_table(level, Frame::new(frame % frames)));
                            }
                        }
                        let raw = 4;
                        for (index, word) in words.into_iter().enumerate() {
                            compare(&mmu, level, word, index >= raw)?;
                        }
                    }
                }
            )*
        }
    };
}

formats! {
    x86: [X86::new(32), X86::new(36), X86::new(40)];
    x86_pae: [X86Pae::new(36), X86Pae::new(40), X86Pae::new(52)];
    x86_64: [X86_64::new(40), X86_64::new(52), X86_64::new(52).five_levels()];
    ept: [Ept::new(40), Ept::new(52).execute_only(), Ept::new(48).five_levels().ignore_guest_pat()];
    sv32: [RiscV32::new(34), RiscV32::new(32)];
    sv39_to_57: [RiscV64::sv39(40), RiscV64::sv39(56).svpbmt(), RiscV64::sv48(56).svnapot(), RiscV64::sv57(56).svpbmt().svnapot()];
    granule_4k: [AArch64::<Granule4K>::bits_39(Half::Lower, 40), AArch64::<Granule4K>::bits_48(Half::Upper, 48).hardware_dirty()];
    granule_4k_wide: [AArch64::<Granule4KLpa2>::new(Half::Lower, 52, 52), AArch64::<Granule4KLpa2>::new(Half::Lower, 48, 40).hardware_dirty()];
    granule_16k: [AArch64::<Granule16K>::bits_48(Half::Lower, 40), AArch64::<Granule16K>::new(Half::Lower, 47, 48)];
    granule_16k_wide: [AArch64::<Granule16KLpa2>::new(Half::Lower, 52, 52), AArch64::<Granule16KLpa2>::new(Half::Upper, 48, 44)];
    granule_64k: [AArch64::<Granule64K>::bits_48(Half::Lower, 40), AArch64::<Granule64K>::new(Half::Lower, 52, 52)];
    stage2_4k: [AArch64Stage2::<Granule4K>::new(39, 40), AArch64Stage2::<Granule4K>::new(48, 48).hardware_dirty()];
    stage2_wide: [AArch64Stage2::<Granule4KLpa2>::new(52, 52)];
    stage2_16k: [AArch64Stage2::<Granule16K>::new(47, 48)];
    stage2_64k: [AArch64Stage2::<Granule64K>::new(48, 48), AArch64Stage2::<Granule64K>::new(52, 52)];
}
