//! Every format that there is, for tests that go through all of them; and where in its addresses things happen.

use std::env;

use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::addr::FrameRange;
use crate::sim::{Hardware, Sim, SimFormat};

/// Three accesses, each with less of something than the one before.
pub(super) type Accesses = [Access; 3];

const R: Access = Access::READ;
const W: Access = Access::WRITE;
const X: Access = Access::EXECUTE;
const U: Access = Access::USER;
pub(super) const ORDINARY: Accesses = [R.union(W).union(U), R.union(X).union(U), R];
#[cfg_attr(quick, allow(dead_code, reason = "of formats that are left out"))]
pub(super) const ALWAYS_EXECUTABLE: Accesses = [R.union(W).union(X).union(U), R.union(X).union(U), R.union(X)];
#[cfg_attr(quick, allow(dead_code, reason = "of formats that are left out"))]
pub(super) const GUEST: Accesses = [R.union(W).union(X), R.union(X), R];

/// A test per format: `$check(mmu, accesses)`. `--cfg quick` makes do with three, for who works on something else: the rest take
/// three minutes to compile.
macro_rules! in_every_format {
    ($check:path) => {
        in_every_format! {
            $check;
            x86_64_four_levels: X86_64::new(40), ORDINARY;
            aarch64_4k: AArch64::<Granule4K>::bits_48(Half::Lower, 48), ORDINARY;
        }
        in_every_format! {
            $check;
            sv39: RiscV64::sv39(56), ORDINARY;
        }
        #[cfg(not(quick))]
        in_every_format! {
            $check;
            x86: X86::new(36), ALWAYS_EXECUTABLE;
            x86_pae: X86Pae::new(40), ORDINARY;
            x86_64_five_levels: X86_64::new(52).five_levels(), ORDINARY;
            ept: Ept::new(46), GUEST;
            ept_five_levels: Ept::new(46).five_levels().ignore_guest_pat(), GUEST;
            sv32: RiscV32::new(34), ORDINARY;
            sv39_all: RiscV64::sv39(56).svpbmt().svnapot(), ORDINARY;
            sv48: RiscV64::sv48(56).svpbmt(), ORDINARY;
            sv57: RiscV64::sv57(56).svnapot(), ORDINARY;
            aarch64_4k_upper: AArch64::<Granule4K>::bits_39(Half::Upper, 40).hardware_dirty(), ORDINARY;
            aarch64_4k_lpa2: AArch64::<Granule4KLpa2>::new(Half::Upper, 52, 52), ORDINARY;
            aarch64_16k: AArch64::<Granule16K>::bits_48(Half::Lower, 48).hardware_dirty(), ORDINARY;
            aarch64_16k_upper: AArch64::<Granule16K>::bits_39(Half::Upper, 48), ORDINARY;
            aarch64_16k_lpa2: AArch64::<Granule16KLpa2>::new(Half::Lower, 52, 52), ORDINARY;
            aarch64_64k: AArch64::<Granule64K>::bits_48(Half::Upper, 48), ORDINARY;
            aarch64_64k_wide: AArch64::<Granule64K>::new(Half::Lower, 52, 52).hardware_dirty(), ORDINARY;
            stage2_4k: AArch64Stage2::<Granule4K>::new(48, 48), GUEST;
            stage2_4k_39: AArch64Stage2::<Granule4K>::new(39, 40).hardware_dirty(), GUEST;
            stage2_4k_lpa2: AArch64Stage2::<Granule4KLpa2>::new(52, 52), GUEST;
            stage2_16k: AArch64Stage2::<Granule16K>::new(48, 48), GUEST;
            stage2_16k_lpa2: AArch64Stage2::<Granule16KLpa2>::new(52, 52).hardware_dirty(), GUEST;
            stage2_64k: AArch64Stage2::<Granule64K>::new(48, 48), GUEST;
        }
    };
    ($check:path; $($name:ident: $mmu:expr, $accesses:expr;)*) => {
        $(#[test]
        fn $name() {
            #[allow(unused_imports, reason = "each format needs a few of them")]
            use crate::paging::{
                AArch64, AArch64Stage2, Ept, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Half,
                RiscV32, RiscV64, X86, X86_64, X86Pae,
            };
            #[allow(unused_imports, reason = "not every format needs each")]
            use $crate::paging::tables::tests::formats::{ALWAYS_EXECUTABLE, GUEST, ORDINARY};
            $check($mmu, $accesses);
        })*
    };
}
pub(super) use in_every_format;

/// A runner of `cases` cases, or of as many times more as the variable `VMCORE_CASES` says.
pub(super) fn runner(cases: u32) -> TestRunner {
    let times = env::var("VMCORE_CASES").ok().and_then(|times| times.parse().ok()).unwrap_or(1_u32);
    TestRunner::new(Config { max_shrink_iters: 400, ..Config::with_cases(cases.saturating_mul(times)) })
}

/// How many pages a table of the lowest level maps.
pub(super) fn pages_per_table<M: Mmu>(mmu: M) -> u64 {
    1 << mmu.index_bits(0)
}

/// All addresses of the format.
pub(super) fn halves<M: Mmu>(mmu: M) -> Vec<PageRange> {
    let size = 1_u64 << mmu.virtual_bits();
    let parts = match mmu.canonical() {
        Canonical::ZeroExtended => [Some((0, size)), None],
        Canonical::OneExtended => [None, Some((0_u64.wrapping_sub(size), size))],
        Canonical::SignExtended => [Some((0, size / 2)), Some((0_u64.wrapping_sub(size / 2), size / 2))],
    };
    parts.into_iter().flatten().map(|(start, size)| mmu.range(start, size).unwrap()).collect()
}

/// Three places of a table and a quarter each, as the numbers of their first pages: around the end of a leaf table, around the end of
/// a table above those, and at the end of all addresses. With how many pages each has.
pub(super) fn places<M: Mmu>(mmu: M) -> ([u64; 3], u64) {
    let (shift, each) = (mmu.page_shift(), pages_per_table(mmu));
    let length = each + each / 4;
    let halves = halves(mmu);
    let first = halves[0].start().as_u64() >> shift;
    let last = halves[halves.len() - 1].last().as_u64() >> shift;
    let above = match mmu.level(2) {
        Some(level) => 1 << (level.shift - shift),
        // Within a root table, around the end of one of its entries.
        None => 8 * each,
    };
    ([first + each - 3, first + above - each / 2, last - (length - 1)], length)
}

/// Where the frames of pages lie: memory that is not RAM, aligned for a leaf of level 1.
pub(super) fn page_frames<M: Mmu>(mmu: M) -> FrameRange {
    FrameRange::new(Frame::new(0x4000), 3 * pages_per_table(mmu)).unwrap()
}

/// Whether the hardware marks a page as written by itself.
pub(super) fn marks_stores<M: SimFormat>(sim: &Sim<M>) -> bool {
    match sim.hardware(0) {
        Hardware::Ept(registers) => registers.marks,
        Hardware::AArch64(registers) => registers.hardware_dirty,
        Hardware::AArch64Stage2(registers) => registers.hardware_dirty,
        Hardware::RiscV(registers) => registers.hardware_marks,
        _ => true,
    }
}
