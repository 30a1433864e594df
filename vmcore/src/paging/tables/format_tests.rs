//! The same operations in every format, against a naive model, page by page, with every count of spare tables that is too
//! small. The places lie where tables of each level end, and at both ends of the addresses.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::tests::World;
use super::*;
use crate::addr::Frame;
use crate::frame::FrameUse;
use crate::paging::{
    AArch64, AArch64Stage2, Access, Ept, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Half, Leaf,
    MemoryType, RiscV32, RiscV64, X86, X86_64, X86Pae,
};

type Operation = (u8, usize, u64, u64, usize);

const fn access(letters: &[Access]) -> Access {
    let (mut all, mut rest) = (Access::empty(), letters);
    while let [first, others @ ..] = rest {
        all = all.union(*first);
        rest = others;
    }
    all
}

const R: Access = Access::READ;
const W: Access = Access::WRITE;
const X: Access = Access::EXECUTE;
const U: Access = Access::USER;
/// Three accesses, each with less of something than the one before.
type Accesses = [Access; 3];
const ORDINARY: Accesses = [access(&[R, W, U]), access(&[R, X, U]), R];
const ALWAYS_EXECUTABLE: Accesses = [access(&[R, W, X, U]), access(&[R, X, U]), access(&[R, X])];
const GUEST: Accesses = [access(&[R, W, X]), access(&[R, X]), R];

struct Case<M: Mmu, const SHIFT: u32> {
    mmu: M,
    accesses: Accesses,
    /// Where the operations happen: the page numbers of the starts.
    places: Vec<u64>,
    /// How many pages each place has: two and a half tables of base pages.
    length: u64,
}

impl<M: Mmu + 'static, const SHIFT: u32> Case<M, SHIFT> {
    fn new(mmu: M, accesses: Accesses) -> Self {
        let world = World::<M, SHIFT>::of(mmu);
        let each = mmu.level(0).unwrap().index_bits;
        let length = 5 << (each - 1);
        let mut places = Vec::new();
        for half in world.halves().into_iter().flatten() {
            let (start, last) = (half.start().as_u64() >> SHIFT, half.last().as_u64() >> SHIFT);
            // Across the ends of tables of each level, and to the last page.
            for level in 1..mmu.levels() {
                let edge = start.wrapping_add(1 << (mmu.level(level).unwrap().shift - SHIFT));
                if edge < last - length {
                    places.push(edge - if level == 1 { 3 } else { length / 2 });
                }
            }
            places.push(last - length + 1);
        }
        // Those overlap in a small format; all of them are looked at after every operation.
        places.sort_unstable();
        places.dedup_by(|next, earlier| *next < *earlier + length);
        Self { mmu, accesses, places, length }
    }

    /// The range that an operation names.
    fn range(&self, kind: u8, place: usize, offset: u64, length: u64) -> (u64, u64) {
        let start = self.places[place % self.places.len()];
        let each = 1_u64 << self.mmu.level(0).unwrap().index_bits;
        let mut first = start + offset % self.length;
        if kind == 1 {
            // Half of the mappings begin where a table does, so that larger leaves are met.
            first = first.next_multiple_of(each);
        }
        if first >= start + self.length {
            first = start;
        }
        (first, (1 + length % self.length).min(start + self.length - first))
    }

    fn run(&self, operations: Vec<Operation>) -> Result<(), TestCaseError> {
        let mut world = World::<M, SHIFT>::of(self.mmu);
        let mut model: BTreeMap<u64, Leaf> = BTreeMap::new();
        for (kind, place, offset, length, choice) in operations {
            let (first, length) = self.range(kind, place, offset, length);
            let range = world.range(first, length);
            let pages = first..first + length;
            let access = self.accesses[choice];
            let leaf = |frame: u64| Leaf::new(Frame::new(frame)).access(access).software(choice as u8);
            match kind {
                0 | 1 => {
                    // Frames that are aligned as the addresses are, or are not.
                    let frame = if choice == 2 { 0x9001 } else { (first & 0x3ffff) | 0x8_0000 };
                    let taken = pages.clone().find(|page| model.contains_key(page));
                    let result = world.map(range, leaf(frame), 3);
                    if let Some(page) = taken {
                        prop_assert!(
                            matches!(result, Err(TableError::Conflict(at)) if page_of::<SHIFT>(at) <= page),
                            "{result:?}"
                        );
                    } else {
                        prop_assert_eq!(result, Ok(()));
                        model.extend(pages.clone().map(|page| (page, leaf(frame + (page - first)))));
                    }
                }
                2 => {
                    let (removed, scope) = world.unmap(range);
                    for (span, leaf) in removed {
                        for step in 0..span.pages(SHIFT) {
                            let page = page_of::<SHIFT>(span.start()) + step;
                            prop_assert_eq!(model.remove(&page), Some(Leaf { frame: leaf.frame.add(step), ..leaf }));
                            prop_assert!(covers(&scope, VirtAddr::new(page << SHIFT)));
                        }
                    }
                    prop_assert_eq!(model.range(pages.clone()).count(), 0, "all of the range was reported");
                }
                3 => {
                    let scope = world.protect(range, access).unwrap();
                    for (page, leaf) in model.range_mut(pages.clone()) {
                        prop_assert!(leaf.access == access || covers(&scope, VirtAddr::new(page << SHIFT)));
                        leaf.access = access;
                    }
                }
                4 => {
                    let new = leaf(0x7_0000 + offset % 0x1000);
                    let (result, ..) = world.with_every_count(|w, spare, gather| {
                        w.tables.set_page(&w.frames, range.start(), new, spare, gather)
                    });
                    match result {
                        Ok(old) => prop_assert_eq!(old, model.insert(first, new)),
                        Err(error) => {
                            prop_assert_eq!(error, TableError::Conflict(range.start()));
                            let span = world.tables.translate(&world.frames, range.start()).unwrap().0;
                            prop_assert!(span.size() > 1 << SHIFT);
                        }
                    }
                }
                5 => {
                    let (result, count, scope) =
                        world.with_every_count(|w, _, gather| w.tables.unmap_page(&w.frames, range.start(), gather));
                    prop_assert_eq!(count, 0, "takes no tables");
                    match result {
                        Ok(old) => {
                            prop_assert!(old.is_none() && scope.is_empty() || covers(&scope, range.start()));
                            prop_assert_eq!(old, model.remove(&first));
                        }
                        Err(error) => {
                            prop_assert_eq!(error, TableError::Conflict(range.start()));
                            let span = world.tables.translate(&world.frames, range.start()).unwrap().0;
                            prop_assert!(span.size() > 1 << SHIFT);
                        }
                    }
                }
                _ => {
                    let given = |page: u64| (page % 7 < 3).then(|| leaf(page & 0xffff));
                    let (result, ..) = world.with_every_count(|w, spare, _| {
                        w.tables.fill(&w.frames, range, spare, |address| given(page_of::<SHIFT>(address)))
                    });
                    prop_assert_eq!(result, Ok(()));
                    for page in pages.clone() {
                        if let (None, Some(leaf)) = (model.get(&page), given(page)) {
                            model.insert(page, leaf);
                        }
                    }
                }
            }
            for place in &self.places {
                // Every page that the operation named, and samples of the others.
                let others = (*place..place + self.length).step_by(1 + self.length as usize / 256);
                for page in others.chain(pages.clone()) {
                    prop_assert_eq!(world.page(page), model.get(&page).copied(), "{:?}: page {:#x}", self.mmu, page);
                }
            }
        }
        for half in world.halves().into_iter().flatten() {
            world.unmap(half);
        }
        prop_assert_eq!(world.frames.used_for(FrameUse::Table), 1, "every table came back");
        Ok(())
    }

    /// Tables with larger leaves at every level that has them, read back and cut.
    fn large_leaves(&self) -> usize {
        let mut count = 0;
        for level in 1..self.mmu.levels() {
            let at = self.mmu.level(level).unwrap();
            if !self.mmu.has_leaves(level) {
                continue;
            }
            count += 1;
            let mut world = World::<M, SHIFT>::of(self.mmu);
            let whole = world.halves().into_iter().flatten().next().unwrap();
            let pages = 1_u64 << (at.shift - SHIFT);
            // The largest leaf at the highest place, or the only one that there is.
            let start = whole.last().as_u64() - ((pages << SHIFT) - 1);
            let range = self.mmu.range(start, pages << SHIFT).unwrap();
            let leaf = Leaf::new(Frame::new(0)).access(self.accesses[0]).memory(MemoryType::WriteBack);
            world.map(range, leaf, level).unwrap();
            let (span, found) = world.tables.translate(&world.frames, range.start()).unwrap();
            assert_eq!((span, found), (range, leaf), "{:?} level {level}", self.mmu);
            let walk = world.tables.walk(&world.frames, VirtAddr::new(start + 0x123));
            assert_eq!(walk.physical().map(|address| address.as_u64()), Some(0x123));
            assert_eq!(walk.access(), self.accesses[0]);
            // The page before the last one, so that every level is cut.
            let page = page_of::<SHIFT>(range.last()) - 1;
            world.protect(world.range(page, 1), self.accesses[1]).unwrap();
            let breaks = if M::FORMAT.break_before_make { level as u64 } else { 0 };
            assert_eq!(world.frames.invalidations(), breaks, "one for each split, none for a change of permission");
            for (page, access) in [(page, self.accesses[1]), (page - 1, self.accesses[0]), (page + 1, self.accesses[0])]
            {
                let frame = leaf.frame.add(page - (start >> SHIFT));
                assert_eq!(world.page(page), Some(Leaf { frame, access, ..leaf }), "{:?}", self.mmu);
            }
            let removed: u64 = world.unmap(range).0.into_iter().map(|(span, _)| span.pages(SHIFT)).sum();
            assert_eq!(removed, pages);
            assert_eq!(world.frames.used_for(FrameUse::Table), 1);
        }
        count
    }
}

fn page_of<const SHIFT: u32>(address: VirtAddr) -> u64 {
    address.as_u64() >> SHIFT
}

fn covers(scope: &FlushScope, address: VirtAddr) -> bool {
    scope.is_everything() || scope.entries().any(|entry| entry.range.is_none_or(|range| range.contains(address)))
}

/// A test of one format: random operations, and its large leaves.
fn check<M: Mmu + 'static, const SHIFT: u32>(mmu: M, accesses: Accesses, large_levels: usize) {
    let case = Case::<M, SHIFT>::new(mmu, accesses);
    assert_eq!(case.large_leaves(), large_levels);
    // Larger tables take longer and have no more to show.
    let cases = if SHIFT == 12 { 24 } else { 6 };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let operation = (0..7_u8, 0..8_usize, any::<u64>(), any::<u64>(), 0..3_usize);
    runner.run(&prop::collection::vec(operation, 1..16), |operations| case.run(operations)).unwrap();
}

macro_rules! formats {
    ($($name:ident: $shift:literal, $accesses:expr, $large:literal, $mmu:expr;)*) => {
        $(#[test]
        fn $name() {
            check::<_, $shift>($mmu, $accesses, $large);
        })*
    };
}

formats! {
    x86: 12, ALWAYS_EXECUTABLE, 1, X86::new(36);
    x86_pae: 12, ORDINARY, 1, X86Pae::new(40);
    x86_64_four_levels: 12, ORDINARY, 2, X86_64::new(52);
    x86_64_five_levels: 12, ORDINARY, 2, X86_64::new(52).five_levels();
    ept: 12, GUEST, 2, Ept::new(46);
    ept_five_levels: 12, GUEST, 2, Ept::new(46).five_levels().ignore_guest_pat();
    sv32: 12, ORDINARY, 1, RiscV32::new(34);
    sv39: 12, ORDINARY, 2, RiscV64::sv39(56);
    sv48: 12, ORDINARY, 3, RiscV64::sv48(56).svpbmt();
    sv57: 12, ORDINARY, 4, RiscV64::sv57(56).svnapot();
    aarch64_4k_lower: 12, ORDINARY, 2, AArch64::<Granule4K>::bits_48(Half::Lower, 48);
    aarch64_4k_upper: 12, ORDINARY, 2, AArch64::<Granule4K>::bits_39(Half::Upper, 48);
    aarch64_4k_wide: 12, ORDINARY, 3, AArch64::<Granule4KLpa2>::new(Half::Upper, 52, 52).hardware_dirty();
    aarch64_16k: 14, ORDINARY, 1, AArch64::<Granule16K>::bits_48(Half::Lower, 48).hardware_dirty();
    aarch64_16k_upper: 14, ORDINARY, 1, AArch64::<Granule16K>::bits_39(Half::Upper, 48);
    aarch64_16k_wide: 14, ORDINARY, 2, AArch64::<Granule16KLpa2>::new(Half::Lower, 52, 52);
    aarch64_64k: 16, ORDINARY, 1, AArch64::<Granule64K>::bits_48(Half::Upper, 48);
    aarch64_64k_wide: 16, ORDINARY, 2, AArch64::<Granule64K>::new(Half::Lower, 52, 52).hardware_dirty();
    stage2_4k: 12, GUEST, 2, AArch64Stage2::<Granule4K>::new(48, 48);
    stage2_4k_39: 12, GUEST, 2, AArch64Stage2::<Granule4K>::new(39, 40).hardware_dirty();
    stage2_16k: 14, GUEST, 1, AArch64Stage2::<Granule16K>::new(48, 48);
    stage2_64k: 16, GUEST, 1, AArch64Stage2::<Granule64K>::new(48, 48);
}

/// The index into the root of the last page, by the manuals' geometry.
fn last_root_index<M: Mmu + 'static, const SHIFT: u32>(mmu: M) -> usize {
    let mut world = World::<M, SHIFT>::of(mmu);
    let half = world.halves().into_iter().flatten().last().unwrap();
    let page = page_of::<SHIFT>(half.last());
    let leaf = Leaf::new(Frame::new(1)).executable();
    world.map(world.range(page, 1), leaf, 0).unwrap();
    let walk = world.tables.walk(&world.frames, half.last());
    assert_eq!(walk.steps().count(), mmu.levels());
    assert_eq!(walk.physical().map(|address| address.as_u64()), Some((2 << SHIFT) - 1));
    walk.steps().next().unwrap().index
}

#[test]
fn roots_are_as_wide_as_the_addresses() {
    assert_eq!(last_root_index::<_, 12>(X86::new(32)), 1023);
    assert_eq!(last_root_index::<_, 12>(X86Pae::new(36)), 3);
    assert_eq!(last_root_index::<_, 12>(X86_64::new(36).five_levels()), 511);
    assert_eq!(last_root_index::<_, 12>(RiscV64::sv39(56)), 511);
    assert_eq!(last_root_index::<_, 12>(AArch64::<Granule4K>::bits_39(Half::Upper, 48)), 511);
    assert_eq!(last_root_index::<_, 12>(AArch64::<Granule4KLpa2>::new(Half::Upper, 52, 52)), 15);
    assert_eq!(last_root_index::<_, 14>(AArch64::<Granule16K>::bits_39(Half::Upper, 48)), 7);
    assert_eq!(last_root_index::<_, 14>(AArch64::<Granule16K>::bits_48(Half::Upper, 48)), 1);
    assert_eq!(last_root_index::<_, 16>(AArch64::<Granule64K>::bits_48(Half::Upper, 48)), 63);
    assert_eq!(last_root_index::<_, 16>(AArch64::<Granule64K>::new(Half::Lower, 52, 52)), 1023);
    assert_eq!(last_root_index::<_, 16>(AArch64Stage2::<Granule64K>::new(48, 48)), 63);
}
