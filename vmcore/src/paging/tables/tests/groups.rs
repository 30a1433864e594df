//! Groups that a TLB may keep as one, against a naive model, page by page, with the simulated machine as the judge: its TLBs hold a whole group as one entry,
//! and its walker sets marks in any member but the one that it reads.

use alloc::collections::BTreeSet;

use proptest::test_runner::TestRunner;

use super::*;
use crate::addr::FrameRange;
use crate::paging::{
    AArch64, AArch64Stage2, DirtyBits, FlushRequest, Granule4K, Granule16K, Granule64K, Half, Marks, RiscV64,
};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::{Sim, SimFormat};

/// The simulated machine's frames, without a way to invalidate at once.
struct Late<'a, M: SimFormat>(&'a Sim<M>);

// SAFETY: all is the machine's, but for what it need not have.
unsafe impl<M: SimFormat> Frames for Late<'_, M> {
    const PAGE_SHIFT: u32 = M::PAGE_SHIFT;

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.0.allocate_frames(request)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        // SAFETY: as the caller vouches.
        unsafe { self.0.free_frames(first, count) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        self.0.frame_pointer(frame)
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.frame_meta(frame)
    }
}

/// What is done, in which of the places, from where on, to how many pages, and a choice.
type Operation = (u8, usize, u64, u64, u64);

/// A format and where its groups are tried.
#[derive(Clone, Copy)]
struct Case<M> {
    mmu: M,
    data: Access,
    dirty_bits: DirtyBits,
    /// Whether leaves of level 1 are tried as well, on memory that is a device's.
    large: bool,
}

/// A space of a case, and what should be there.
struct Bench<M: SimFormat> {
    case: Case<M>,
    sim: Sim<M>,
    tables: Tables<M>,
    cpus: CpuMask,
    /// How many pages a group of base pages has.
    group: u64,
    /// The first page, the first frame, how many of both, and how many pages the steps are.
    places: Vec<(u64, u64, u64, u64)>,
    model: BTreeMap<u64, Leaf>,
    /// Pages that were written and not yet said to be dirty.
    written: BTreeSet<u64>,
}

fn plain(leaf: Leaf) -> Leaf {
    Leaf { accessed: false, dirty: false, ..leaf }
}

impl<M: SimFormat> Bench<M> {
    fn new(case: Case<M>) -> Self {
        let mmu = case.mmu;
        let shift = M::PAGE_SHIFT;
        let group = mmu.contiguous(0).map_or(16, |group| 1_u64 << group.count_shift);
        let large = mmu.contiguous(1).filter(|_| case.large).map(|at| (1_u64 << mmu.index_bits(0), at.count_shift));
        let device = large.map(|(each, count)| FrameRange::new(Frame::new(1 << 18), each << count << 1).unwrap());
        let mut builder = Sim::of(mmu).frames(4 * group as usize + 300).first_frame(group).cpus(2);
        if let Some(device) = device {
            builder = builder.device(device);
        }
        let sim = builder.build();
        let pages = 4 * group;
        let first = sim.allocate_frames(FrameRequest::run(FrameUse::Page, pages, group.trailing_zeros())).unwrap();
        for page in 0..pages {
            sim.frame_meta(first.add(page)).unwrap().begin(FrameUse::Page).unwrap();
        }
        let root = allocate_one(&sim, FrameUse::Table, true).unwrap();
        // SAFETY: a fresh, zeroed table.
        let tables = unsafe { Tables::new(mmu, root, TAG) }.with_dirty_bits(case.dirty_bits);
        let mut cpus = CpuMask::EMPTY;
        for cpu in 0..2 {
            sim.load(cpu, root, TAG);
            cpus.insert(cpu);
        }
        // Two that are aligned as the frames are, one across the end of a table, and one that is off.
        let table = 1_u64 << mmu.index_bits(0);
        let starts = [8 * group, 3 * table - 2 * group, 5 * table + 1];
        let mut places: Vec<_> = starts.iter().map(|start| (*start, first.number(), pages, 1)).collect();
        if let Some((each, count)) = large {
            places.push((each << count << 2, 1 << 18, each << count << 1, each));
        }
        debug_assert!(shift == mmu.page_shift());
        Self { case, sim, tables, cpus, group, places, model: BTreeMap::new(), written: BTreeSet::new() }
    }

    fn range(&self, first: u64, pages: u64) -> PageRange {
        self.case.mmu.range(first << M::PAGE_SHIFT, pages << M::PAGE_SHIFT).unwrap()
    }

    fn address(&self, page: u64) -> VirtAddr {
        VirtAddr::new(page << M::PAGE_SHIFT)
    }

    fn page(&self, page: u64) -> Option<Leaf> {
        let address = self.address(page);
        let (span, leaf) = self.tables.translate(&self.sim, address)?;
        let skipped = (address.as_u64() - span.start().as_u64()) >> M::PAGE_SHIFT;
        Some(Leaf { frame: leaf.frame.add(skipped), ..leaf })
    }

    /// Every word of every table.
    fn words(&self) -> Vec<(Frame, usize, u64)> {
        let mut words = Vec::new();
        let mut tables = Vec::from([(self.case.mmu.levels() - 1, self.tables.root())]);
        while let Some((level, frame)) = tables.pop() {
            for index in 0..1 << self.case.mmu.index_bits(level) {
                let word = self.sim.physical_word(frame, index).unwrap();
                if let (Entry::Table(next, _), true) = (self.case.mmu.decode(level, word), level > 0) {
                    tables.push((level - 1, next));
                }
                words.push((frame, index, word));
            }
        }
        words
    }

    /// Looks at every table: groups are whole. Gives how many there are.
    fn groups(&self) -> usize {
        let mut groups = 0;
        let mut tables = Vec::from([(self.case.mmu.levels() - 1, self.tables.root())]);
        while let Some((level, frame)) = tables.pop() {
            let mmu = self.case.mmu;
            let words: Vec<_> =
                (0..1 << mmu.index_bits(level)).map(|index| self.sim.physical_word(frame, index).unwrap()).collect();
            for (index, word) in words.iter().enumerate() {
                if let Entry::Table(next, _) = mmu.decode_at(level, index, *word) {
                    tables.push((level - 1, next));
                }
            }
            let Some(shape) = mmu.contiguous(level) else { continue };
            let each = 1_u64 << (mmu.level(level).unwrap().shift - M::PAGE_SHIFT);
            for (place, members) in words.chunks(1 << shape.count_shift).enumerate() {
                let first = place << shape.count_shift;
                let leaves: Vec<_> = (first..)
                    .zip(members)
                    .filter_map(|(index, word)| match mmu.decode_at(level, index, *word) {
                        Entry::Leaf(leaf) if word & shape.mask != 0 => Some((index as u64, leaf)),
                        _ => None,
                    })
                    .collect();
                let Some((_, leaf)) = leaves.first() else { continue };
                assert_eq!(leaves.len(), 1 << shape.count_shift, "level {level}: {:x?}", members);
                assert_eq!(leaf.frame.number() % (each << shape.count_shift), 0);
                for (index, next) in &leaves {
                    let frame = leaf.frame.add((index - first as u64) * each);
                    assert_eq!(plain(*next), Leaf { frame, ..plain(*leaf) });
                }
                groups += 1;
            }
        }
        groups
    }

    /// The pages of the places that are looked at: all of those that `pages` names, and some of the others.
    fn samples(&self, pages: core::ops::Range<u64>) -> Vec<u64> {
        let mut samples = Vec::new();
        for (start, _, length, step) in &self.places {
            samples.extend((*start..start + length).step_by(if *step > 1 {
                61
            } else {
                self.group as usize / 16 * 2 - 1
            }));
        }
        samples.extend(pages.step_by(7));
        samples
    }

    /// Both CPUs use what is there, and remember it.
    fn use_pages(&mut self, pages: core::ops::Range<u64>, seed: u64) {
        for page in self.samples(pages) {
            let cpu = (page % 2) as usize;
            let address = self.address(page);
            match (page ^ seed) % 5 {
                0 | 1 => self.sim.prefetch(cpu, address),
                2 => {
                    let _ = self.sim.access(cpu, address, self.case.data - Access::WRITE);
                }
                3 if (page ^ seed) % 3 == 0 => {
                    let written = self.sim.access(cpu, address, self.case.data).is_ok();
                    if written && self.case.mmu.marks_dirty() {
                        self.written.insert(page);
                    }
                }
                _ => {}
            }
        }
    }

    /// What is there is what should be.
    fn check(&self, pages: core::ops::Range<u64>) {
        for page in self.samples(pages) {
            let found = self.page(page);
            assert_eq!(found.map(plain), self.model.get(&page).copied(), "page {page:#x}");
            assert!(!self.written.contains(&page) || found.is_some_and(|leaf| leaf.dirty), "page {page:#x} is dirty");
        }
        self.groups();
    }

    /// What the operation names: pages, and the frame of the first of them.
    fn named(&self, place: usize, offset: u64, length: u64) -> (u64, u64, u64) {
        let (start, frame, pages, step) = self.places[place % self.places.len()];
        let (offset, length) = match step {
            1 => (offset % (pages - 1), 1 + length % (2 * self.group)),
            // Whole leaves of level 1, or a few pages.
            _ if length % 4 == 0 => (offset % (pages - 1), 1 + length % 40),
            _ => (offset % (pages / step) * step, (1 + length % 20) * step),
        };
        (start + offset, frame + offset, length.min(pages - offset))
    }

    fn operate<F: Frames>(&mut self, frames: &F, (kind, place, offset, length, choice): Operation) {
        let (mut first, mut frame, mut length) = self.named(place, offset, length);
        let (start, start_frame, most, step) = self.places[place % self.places.len()];
        let unit = if step > 1 { most / 2 } else { self.group };
        match kind {
            // All of a place, or one group of it.
            0 => (first, frame, length) = (start, start_frame, most),
            1 => {
                let group = (first - start) / unit * unit;
                (first, frame, length) = (start + group, start_frame + group, unit);
            }
            _ => {}
        }
        // A frame that is not aligned as the page is.
        let off = frame - u64::from(self.places.iter().all(|place| place.1 != frame));
        let (range, pages) = (self.range(first, length), first..first + length);
        let access = if choice % 3 == 0 { self.case.data - Access::WRITE } else { self.case.data };
        let leaf = |frame: u64| Leaf::new(Frame::new(frame)).access(access).software((choice % 2) as u8);
        let (mut spare, mut gather) = (FrameList::new(), Gather::default());
        for _ in 0..24 {
            spare.push(&self.sim, allocate_one(&self.sim, FrameUse::Table, true).unwrap()).unwrap();
        }
        let (s, g) = (&mut spare, &mut gather);
        let before = self.words();
        let mut reported: Vec<(PageRange, Leaf)> = Vec::new();
        let mut marked: Vec<(PageRange, Marks)> = Vec::new();
        let whole = self.places.iter().map(|place| place.0 + place.2).max().unwrap();
        let whole_table = length >> self.case.mmu.index_bits(0) != 0;
        let mut to = None;
        let result = match kind {
            // By frames that can undo it.
            0..=2 => self.tables.map(&self.sim, range, leaf(frame), 1, s),
            3 => self.tables.map(&self.sim, range, leaf(off), 1, s),
            4 => self.tables.map_frames(&self.sim, range, (0..length).map(|page| Frame::new(frame + page)), leaf(0), s),
            5 if length == 1 || choice % 4 == 0 => {
                let page = self.case.mmu.range(range.start().as_u64(), 1 << M::PAGE_SHIFT).unwrap();
                let removed = self.tables.unmap_page(frames, page.start(), g);
                removed.map(|removed| reported.extend(removed.map(|leaf| (page, leaf))))
            }
            5 | 6 => self.tables.unmap(frames, range, s, g, |pages, leaf| reported.push((pages, leaf))),
            7 | 8 => self.tables.protect(frames, range, access, s, g),
            9 => self.tables.set_memory_type(frames, range, MemoryType::WriteCombining, s, g),
            10 => {
                let new = match self.page(first) {
                    Some(now) if choice % 4 == 0 => now.used(),
                    _ => leaf(frame + choice % 2),
                };
                let kept = self.page(first).filter(|now| now.frame == new.frame && now.memory == new.memory);
                let new = kept.map_or(new, |now| Leaf { dirty: now.dirty, accessed: now.accessed, ..new });
                let result = self.tables.set_page(frames, range.start(), new, s, g);
                result.map(|old| {
                    assert_eq!(old.map(plain), self.model.insert(first, plain(new)));
                    assert!(!self.written.contains(&first) || old.is_some_and(|old| old.dirty));
                    if !new.dirty {
                        self.written.remove(&first);
                    }
                })
            }
            11 | 12 => {
                let (first, _, most) =
                    self.named(place + 1 + choice as usize % 2, offset / self.group * self.group, length);
                let (from, into) = (self.range(pages.start, length.min(most)), self.range(first, length.min(most)));
                to = Some((length.min(most), first));
                self.tables.move_range(frames, from, into, s, g)
            }
            13 | 14 => {
                let marks = if choice % 2 == 0 { Marks::BOTH } else { Marks::DIRTY };
                self.tables.take_marks(frames, range, marks, g, |pages, had| marked.push((pages, had)))
            }
            // Not a whole table: what the entries above it forbid is not in the leaves.
            15 if !whole_table => self.tables.write_protect(frames, range, s, g).map(|_| ()),
            16 => self.tables.promote(frames, self.range(0, whole), 1, g).map(|_| ()),
            17 => self.tables.detach(frames, range, g),
            18 => {
                let mut writer = self.tables.writer(frames, range, g).unwrap();
                let mut result = Ok(());
                while result.is_ok() && writer.level() > 0 {
                    result = writer.enter(s);
                }
                result.and_then(|()| writer.clear()).map(|old| {
                    reported.extend(
                        old.map(|leaf| {
                            (self.case.mmu.range(range.start().as_u64(), 1 << M::PAGE_SHIFT).unwrap(), leaf)
                        }),
                    )
                })
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            let from_writer = kind == 18 && error != TableError::NeedsInvalidation(range.start());
            assert!(from_writer || self.words() == before, "{error}: nothing was changed");
            assert!(from_writer || (gather.scope.is_empty() && gather.tables.is_empty()), "{error}");
        }
        // Whatever was taken out was what was there, with the marks that the hardware set anywhere.
        for (span, leaf) in &reported {
            for step in 0..span.pages(M::PAGE_SHIFT) {
                let page = (span.start().as_u64() >> M::PAGE_SHIFT) + step;
                let leaf = Leaf { frame: leaf.frame.add(step), ..*leaf };
                assert_eq!(self.model.remove(&page), Some(plain(leaf)), "page {page:#x}");
                assert!(!self.written.remove(&page) || leaf.dirty, "page {page:#x} was written");
            }
        }
        if result.is_ok() {
            match kind {
                0..=4 => {
                    let frame = if kind == 3 { off } else { frame };
                    for (page, frame) in pages.clone().zip(frame..) {
                        assert_eq!(self.model.insert(page, leaf(frame)), None);
                    }
                }
                6 => assert_eq!(self.model.range(pages.clone()).count(), 0, "all was reported"),
                7 | 8 => self.model.range_mut(pages.clone()).for_each(|(_, leaf)| leaf.access = access),
                9 => self.model.range_mut(pages.clone()).for_each(|(_, leaf)| leaf.memory = MemoryType::WriteCombining),
                11 | 12 => {
                    let (length, into) = to.unwrap();
                    for (page, to) in (first..first + length).zip(into..) {
                        if let Some(leaf) = self.model.remove(&page) {
                            self.model.insert(to, leaf);
                        }
                        if self.written.remove(&page) {
                            self.written.insert(to);
                        }
                    }
                }
                13 | 14 => {
                    for page in self.written.range(pages.clone()).copied().collect::<Vec<_>>() {
                        let address = self.address(page);
                        let told = marked.iter().any(|(pages, had)| pages.contains(address) && had.dirty);
                        assert!(told, "page {page:#x} was written");
                        if !self.page(page).unwrap().dirty {
                            self.written.remove(&page);
                        }
                    }
                }
                15 if !whole_table => {
                    self.model.range_mut(pages.clone()).for_each(|(_, leaf)| leaf.access &= !Access::WRITE)
                }
                17 => {
                    // What lies in the same group or larger leaf may be gone as well.
                    let unit = 1_u64 << (if self.case.large { 14 } else { self.case.mmu.index_bits(0) });
                    let gone = first / unit * unit..(first + length).next_multiple_of(unit);
                    assert!(pages.clone().all(|page| self.page(page).is_none()));
                    for page in gone {
                        if self.model.contains_key(&page) && self.page(page).is_none() {
                            self.model.remove(&page);
                            self.written.remove(&page);
                        }
                    }
                }
                _ => {}
            }
        }
        self.sim.apply(&FlushRequest { cpus: self.cpus, scope: gather.scope });
        self.sim.check_translations();
        for list in [&mut spare, &mut gather.tables] {
            while let Some(table) = list.pop(&self.sim) {
                // SAFETY: unlinked, and flushed just now: the judge sees to it.
                unsafe { free_one(&self.sim, table, FrameUse::Table) }.unwrap();
            }
        }
        self.check(pages.clone());
        self.use_pages(pages.clone(), choice);
        self.check(pages);
    }
}

/// Random operations, as many times as it takes to trust them; by frames that can invalidate at once, or cannot.
fn check<M: SimFormat>(case: Case<M>) {
    let operation = (0..19_u8, 0..4_usize, any::<u64>(), any::<u64>(), 0..1000_u64);
    // Larger groups take longer and have no more to show.
    let cases = if M::PAGE_SHIFT == 12 { 12 } else { 4 };
    TestRunner::new(ProptestConfig::with_cases(cases))
        .run(&(any::<bool>(), prop::collection::vec(operation, 1..24)), |(late, operations)| {
            let mut bench = Bench::new(case);
            let sim = bench.sim.clone();
            for place in 0..bench.places.len() {
                bench.operate(&sim, (0, place, 0, 0, 1));
            }
            assert!(bench.groups() > 0);
            for operation in operations {
                if late {
                    bench.operate(&Late(&sim), operation);
                } else {
                    bench.operate(&sim, operation);
                }
            }
            bench.sim.assert_no_violation();
            Ok(())
        })
        .unwrap();
}

const fn case<M>(mmu: M, data: Access) -> Case<M> {
    Case { mmu, data, dirty_bits: DirtyBits::Relied, large: false }
}

#[test]
fn groups_of_sv39() {
    check(case(RiscV64::sv39(56).svpbmt().svnapot(), Access::USER_DATA));
}

#[test]
fn groups_of_sv48_with_hints() {
    let mmu = RiscV64::sv48(56).svpbmt().svnapot();
    check(Case { dirty_bits: DirtyBits::Hints, ..case(mmu, Access::USER_DATA) });
}

#[test]
fn groups_of_aarch64_4k_at_two_levels() {
    let mmu = AArch64::<Granule4K>::bits_48(Half::Lower, 40).hardware_dirty();
    check(Case { large: true, ..case(mmu, Access::USER_DATA) });
}

#[test]
fn groups_of_aarch64_4k_with_hints() {
    let mmu = AArch64::<Granule4K>::bits_39(Half::Lower, 40);
    check(Case { dirty_bits: DirtyBits::Hints, ..case(mmu, Access::USER_DATA) });
}

#[test]
fn groups_of_aarch64_16k() {
    check(case(AArch64::<Granule16K>::bits_48(Half::Lower, 48).hardware_dirty(), Access::USER_DATA));
}

#[test]
fn groups_of_aarch64_64k() {
    check(case(AArch64::<Granule64K>::bits_48(Half::Lower, 48).hardware_dirty(), Access::USER_DATA));
}

#[test]
fn groups_of_stage_2() {
    check(case(AArch64Stage2::<Granule4K>::new(40, 40).hardware_dirty(), Access::KERNEL_DATA));
}

/// A bench, and spare tables for it.
fn quiet<M: SimFormat>(mmu: M) -> (Bench<M>, FrameList, Gather) {
    let bench = Bench::new(case(mmu, Access::KERNEL_DATA));
    let mut spare = FrameList::new();
    for _ in 0..40 {
        spare.push(&bench.sim, allocate_one(&bench.sim, FrameUse::Table, true).unwrap()).unwrap();
    }
    (bench, spare, Gather::default())
}

fn sv39() -> RiscV64 {
    RiscV64::sv39(56).svnapot()
}

fn aarch64() -> AArch64<Granule4K> {
    AArch64::bits_39(Half::Lower, 48).hardware_dirty()
}

/// How many groups come of mapping pages to frames from `frame` on, up to leaves of `level`.
fn mapped<M: SimFormat>(
    mmu: M,
    groups: Groups,
    late: bool,
    (first, pages, frame): (u64, u64, u64),
    level: usize,
) -> usize {
    let (mut bench, mut spare, _) = quiet(mmu);
    bench.tables = bench.tables.with_groups(groups);
    assert_eq!(bench.tables.groups(), groups);
    let (range, leaf) = (bench.range(first, pages), Leaf::new(Frame::new(frame)).writable());
    let result = if late {
        bench.tables.map(&Late(&bench.sim), range, leaf, level, &mut spare)
    } else {
        bench.tables.map(&bench.sim, range, leaf, level, &mut spare)
    };
    result.unwrap();
    assert_eq!(bench.tables.runs(&bench.sim, range).collect::<Vec<_>>(), [(range, leaf)]);
    bench.groups()
}

#[test]
fn groups_are_written_where_both_sides_are_aligned() {
    let (always, never) = (Groups::WhereAligned, Groups::Never);
    // Pages 0x101 to 0x132: of 0x110 to 0x12f all are there.
    let aligned = (0x101, 0x32, 0x8101);
    assert_eq!(mapped(sv39(), always, false, aligned, 0), 2);
    assert_eq!(mapped(sv39(), always, true, aligned, 0), 2, "nothing has to be invalidated at once");
    assert_eq!(mapped(sv39(), never, false, aligned, 0), 0);
    assert_eq!(mapped(sv39(), always, false, (0x101, 0x32, 0x8102), 0), 0, "off by a frame");
    assert_eq!(mapped(sv39(), always, false, (0x101, 0x1e, 0x8101), 0), 0, "a page too few");
    assert_eq!(mapped(RiscV64::sv39(56), always, false, aligned, 0), 0, "no Svnapot");
    assert_eq!(mapped(aarch64(), always, false, aligned, 0), 2);
    assert_eq!(mapped(aarch64(), always, true, aligned, 0), 0, "they could not be undone");
    let wide = AArch64::<Granule16K>::bits_48(Half::Lower, 48);
    assert_eq!(mapped(wide, always, false, (0x101, 0x17e, 0x8101), 0), 1, "128 pages of 16 KiB");
    let wider = AArch64::<Granule64K>::bits_48(Half::Lower, 48);
    assert_eq!(mapped(wider, always, false, (0x101, 0x5f, 0x8101), 0), 2, "32 pages of 64 KiB");
    // 2 MiB leaves from 64 MiB on but for the last: a group of sixteen, fifteen, and the pages' groups at the end.
    let large = (0x4000, 0x3ff0, 0x8000);
    assert_eq!(mapped(aarch64(), always, false, large, 1), 1 + 31);
    assert_eq!(mapped(aarch64(), always, false, large, 0), 0x3ff);
    assert_eq!(mapped(aarch64(), never, false, large, 1), 0);
    // 16 GiB in the root, with its leaves of 1 GiB.
    assert_eq!(mapped(aarch64(), always, false, (0, 1 << 22, 1 << 22), 2), 1);
}

#[test]
fn a_table_that_a_leaf_is_split_into_has_groups() {
    let (mut bench, mut spare, mut gather) = quiet(aarch64());
    let (range, leaf) = (bench.range(0x4000, 0x2000), Leaf::new(Frame::new(0x8000)).writable());
    bench.tables.map(&bench.sim, range, leaf, 1, &mut spare).unwrap();
    assert_eq!(bench.groups(), 1, "sixteen leaves of 2 MiB");
    let (page, mut removed) = (bench.range(0x4205, 1), Vec::new());
    let Bench { tables, sim, .. } = &mut bench;
    tables.unmap(sim, page, &mut spare, &mut gather, |pages, leaf| removed.push((pages, leaf))).unwrap();
    assert_eq!(removed, [(page, Leaf { frame: Frame::new(0x8205), ..leaf })]);
    assert_eq!(bench.groups(), 31, "single leaves of 2 MiB, and of the one that was cut all groups but one");
    assert!(gather.scope.entries().any(|entry| entry.range == Some(range)), "all that a CPU may hold as one");
    assert_eq!(bench.tables.query(&bench.sim, range).mapped, 0x1fff);
}

#[test]
fn single_leaves_become_a_group_with_the_marks_of_all() {
    let (mut bench, mut spare, mut gather) = quiet(aarch64());
    let whole = bench.range(0x101, 0x6f);
    let frames = (0x8101..).map(Frame::new).take(0x6f);
    let leaf = Leaf::new(Frame::new(0)).writable();
    let Bench { tables, sim, .. } = &mut bench;
    tables.map_frames(sim, whole, frames, leaf, &mut spare).unwrap();
    // A page that was used, one that lies elsewhere and one that is not writable.
    let mut set = |page: u64, leaf: Leaf| {
        tables.set_page(sim, VirtAddr::new(page << 12), leaf, &mut spare, &mut gather).unwrap();
    };
    set(0x113, Leaf { frame: Frame::new(0x8113), ..leaf }.used());
    set(0x12f, Leaf { frame: Frame::new(0x9000), ..leaf });
    set(0x130, Leaf { frame: Frame::new(0x8130), access: Access::READ, ..leaf });
    assert_eq!(bench.groups(), 0);
    let promote = |bench: &mut Bench<_>, range, gather: &mut Gather| bench.tables.promote(&bench.sim, range, 0, gather);
    let part = bench.range(0x111, 0x60);
    assert_eq!(
        promote(&mut bench, part, &mut gather),
        Ok(3),
        "the range covers pages 0x140 to 0x16f of those that agree"
    );
    assert_eq!(promote(&mut bench, whole, &mut gather), Ok(1), "and now those from 0x110 on");
    assert_eq!(bench.groups(), 4);
    let page = bench.page(0x11c).unwrap();
    assert_eq!(page, Leaf { frame: Frame::new(0x811c), ..leaf }.used());
    assert_eq!(promote(&mut bench, whole, &mut gather), Ok(0), "all that could be done was");
    let never = bench.tables.promote(&Late(&bench.sim), whole, 0, &mut gather);
    assert!(matches!(never, Err(TableError::NeedsInvalidation(_))));
}

#[test]
fn marks_are_added_to_a_group_that_stays_one() {
    let (mut bench, mut spare, mut gather) = quiet(aarch64());
    let range = bench.range(0x100, 0x20);
    let leaf = Leaf::new(Frame::new(0x8100)).writable();
    bench.tables.map(&bench.sim, range, leaf, 0, &mut spare).unwrap();
    let new = Leaf { frame: Frame::new(0x8105), ..leaf }.used();
    let page = VirtAddr::new(0x105 << 12);
    // No way to invalidate is needed: nothing is replaced.
    let old = bench.tables.set_page(&Late(&bench.sim), page, new, &mut spare, &mut gather);
    assert_eq!(old, Ok(Some(plain(new))));
    assert!(gather.scope.is_empty());
    assert_eq!((bench.groups(), bench.page(0x10e).map(|leaf| leaf.dirty)), (2, Some(true)));
    assert_eq!(bench.page(0x110).map(|leaf| leaf.dirty), Some(false));
    // A change does need one.
    let less = new.access(Access::READ);
    let refused = bench.tables.set_page(&Late(&bench.sim), page, less, &mut spare, &mut gather);
    assert!(matches!(refused, Err(TableError::NeedsInvalidation(_))));
    assert!(gather.scope.is_empty() && bench.groups() == 2);
    assert_eq!(bench.tables.set_page(&bench.sim, page, less, &mut spare, &mut gather), Ok(Some(new)));
    assert_eq!((bench.groups(), bench.page(0x105)), (1, Some(less)));
    assert!(gather.scope.entries().any(|entry| entry.range == Some(bench.range(0x100, 0x10))));
}

#[test]
fn groups_that_cannot_be_broken_are_not_changed() {
    let (mut bench, mut spare, mut gather) = quiet(aarch64());
    let range = bench.range(0x100, 0x20);
    bench.tables.map(&bench.sim, range, Leaf::new(Frame::new(0x8100)).writable(), 0, &mut spare).unwrap();
    let words = bench.words();
    let (group, page) = (bench.range(0x100, 0x10), bench.range(0x115, 1));
    let Bench { tables, sim, .. } = &mut bench;
    let late = Late(sim);
    let needs = |result: Result<(), TableError>| assert!(matches!(result, Err(TableError::NeedsInvalidation(_))));
    for range in [group, page] {
        needs(tables.protect(&late, range, Access::READ, &mut spare, &mut gather));
        needs(tables.set_memory_type(&late, range, MemoryType::Device, &mut spare, &mut gather));
        needs(tables.write_protect(&late, range, &mut spare, &mut gather).map(|_| ()));
    }
    needs(tables.unmap(&late, page, &mut spare, &mut gather, |_, _| {}));
    needs(tables.unmap_page(&late, page.start(), &mut gather).map(|_| ()));
    let mut writer = tables.writer(&late, page, &mut gather).unwrap();
    while writer.level() > 0 {
        writer.enter(&mut spare).unwrap();
    }
    needs(writer.clear().map(|_| ()));
    needs(writer.set(Leaf::new(Frame::new(1))).map(|_| ()));
    drop(writer);
    assert!(gather.scope.is_empty() && bench.words() == words);
    // Nothing is replaced where nothing changes, and what goes is broken and never made.
    let Bench { tables, sim, .. } = &mut bench;
    tables.protect(&Late(sim), page, Access::KERNEL_DATA, &mut spare, &mut gather).unwrap();
    tables.unmap(&Late(sim), group, &mut spare, &mut gather, |_, _| {}).unwrap();
    assert_eq!(bench.groups(), 1);
}

#[test]
fn a_copy_has_the_groups_that_it_covers() {
    let (mut bench, mut spare, mut gather) = quiet(aarch64());
    let range = bench.range(0x100, 0x40);
    bench.tables.map(&bench.sim, range, Leaf::new(Frame::new(0x8100)).writable().used(), 0, &mut spare).unwrap();
    let root = allocate_one(&bench.sim, FrameUse::Table, true).unwrap();
    // SAFETY: a fresh, zeroed table.
    let mut other = unsafe { Tables::new(aarch64(), root, Tag(8)) };
    let (part, mut copied) = (bench.range(0x108, 0x30), Vec::new());
    let mut copy = |pages, leaf| copied.push((pages, leaf));
    bench.tables.duplicate(&bench.sim, part, Access::READ, &mut other, &mut spare, &mut copy).unwrap();
    let singles = copied.iter().filter(|(pages, _)| pages.size() == 1 << 12).count();
    assert_eq!((copied.len(), singles), (8 + 2 + 8, 16));
    let leaf = Leaf::new(Frame::new(0x8108));
    assert_eq!(other.runs(&bench.sim, part).collect::<Vec<_>>(), [(part, leaf)]);
    let into = bench.range(0x414, 0x30);
    assert_eq!(bench.groups(), 4);
    bench.tables.move_range(&bench.sim, part, into, &mut spare, &mut gather).unwrap();
    assert_eq!(bench.groups(), 0, "the place is aligned otherwise, and both ends are cut");
    let back = bench.range(0x108, 0x30);
    bench.tables.move_range(&bench.sim, into, back, &mut spare, &mut gather).unwrap();
    assert_eq!(bench.tables.promote(&bench.sim, range, 0, &mut gather), Ok(4));
    let whole = (bench.range(0x110, 0x20), bench.range(0x450, 0x20));
    bench.tables.move_range(&bench.sim, whole.0, whole.1, &mut spare, &mut gather).unwrap();
    assert_eq!(bench.groups(), 4, "moved as they are");
}

#[test]
fn pushing_down_keeps_the_groups_of_the_others() {
    let (mut bench, mut spare, mut gather) = quiet(aarch64());
    let range = bench.range(0x200, 0x200);
    bench.tables.map(&bench.sim, range, Leaf::new(Frame::new(0x8000)).writable(), 0, &mut spare).unwrap();
    assert_eq!(bench.tables.write_protect(&bench.sim, range, &mut spare, &mut gather), Ok(1), "one entry above them");
    let page = VirtAddr::new(0x234 << 12);
    let words = bench.words();
    let refused = bench.tables.push_down(&Late(&bench.sim), page);
    assert!(matches!(refused, Err(TableError::NeedsInvalidation(_))) && bench.words() == words);
    assert_eq!(bench.tables.push_down(&bench.sim, page), Ok(0x201));
    assert_eq!(bench.groups(), 32);
    let leaf = Leaf::new(Frame::new(0x8034)).writable();
    bench.tables.set_page(&bench.sim, page, leaf, &mut spare, &mut gather).unwrap();
    assert_eq!((bench.groups(), bench.page(0x234)), (31, Some(leaf)));
    assert_eq!(bench.page(0x235).map(|leaf| leaf.access), Some(Access::READ));
}

#[test]
fn a_root_shares_part_of_a_group_as_single_leaves() {
    let (mut bench, mut spare, _) = quiet(aarch64());
    let range = bench.range(0, 1 << 22);
    bench.tables.map(&bench.sim, range, Leaf::new(Frame::new(1 << 22)), 2, &mut spare).unwrap();
    for (pages, groups) in [(1 << 22, 1), (1 << 21, 0)] {
        let root = allocate_one(&bench.sim, FrameUse::Table, true).unwrap();
        // SAFETY: a fresh, zeroed table.
        let mut other = unsafe { Tables::new(aarch64(), root, Tag(8)) };
        let part = bench.range(0, pages);
        other.share_root_slots(&bench.sim, &bench.tables, part).unwrap();
        assert_eq!(other.runs(&bench.sim, range).collect::<Vec<_>>(), [(part, Leaf::new(Frame::new(1 << 22)))]);
        let own = core::mem::replace(&mut bench.tables, other);
        assert_eq!(bench.groups(), groups);
        bench.tables = own;
    }
}

#[test]
fn gaps_are_aligned_for_groups() {
    let (mut bench, mut spare, _) = quiet(sv39());
    let limits = bench.range(0x101, 0x1000);
    let leaf = Leaf::new(Frame::new(0x8003));
    let Bench { tables, sim, .. } = &mut bench;
    let found = tables.map_in_gap(sim, limits, 0x2f << 12, leaf, 1, &mut spare).unwrap();
    assert_eq!((found, bench.groups()), (bench.range(0x103, 0x2f), 2));
    let Bench { tables, sim, .. } = &mut bench;
    let small = tables.map_in_gap(sim, limits, 2 << 12, leaf, 1, &mut spare).unwrap();
    assert_eq!(small, bench.range(0x101, 2), "too small for one: the first gap");
}

#[test]
fn groups_in_adopted_tables() {
    let (mut bench, mut spare, mut gather) = quiet(sv39());
    let range = bench.range(0x100, 0x40);
    bench.tables.map(&bench.sim, range, Leaf::new(Frame::new(0x8100)).writable(), 0, &mut spare).unwrap();
    let disown = |bench: &Bench<RiscV64>| {
        let mut frames: Vec<_> = bench.words().into_iter().map(|(frame, ..)| frame).collect();
        frames.dedup();
        for frame in &frames {
            let meta = bench.sim.frame_meta(*frame).unwrap();
            meta.change_live(-(meta.live_entries() as i32));
            meta.end(*frame, FrameUse::Table).unwrap();
        }
        *frames.last().unwrap()
    };
    let lowest = disown(&bench);
    // One member is a single leaf: the hardware may use either for all of them.
    let single = bench.case.mmu.encode_leaf(0, Leaf::new(Frame::new(0x8113)).writable()).unwrap();
    let word = bench.sim.physical_word(lowest, 0x113).unwrap();
    for wrong in [single, 0, word & !0x4] {
        bench.sim.set_physical_word(lowest, 0x113, wrong);
        // SAFETY: refused.
        let refused = unsafe { bench.tables.adopt(&bench.sim, range) };
        assert!(matches!(refused, Err(TableError::Foreign(_))), "{wrong:#x}");
    }
    // Marks may differ: those of any are those of all.
    bench.sim.set_physical_word(lowest, 0x113, word | 0xc0);
    // SAFETY: the tables were made here, are a tree, and their frames can be freed.
    assert_eq!(unsafe { bench.tables.adopt(&bench.sim, range) }, Ok(3));
    let mut removed = Vec::new();
    let (page, Bench { tables, sim, .. }) = (bench.range(0x11e, 1), &mut bench);
    tables.unmap(sim, page, &mut spare, &mut gather, |_, leaf| removed.push(leaf)).unwrap();
    assert_eq!(removed, [Leaf::new(Frame::new(0x811e)).writable().used()]);
    assert_eq!((bench.groups(), bench.page(0x110).map(|leaf| leaf.dirty)), (3, Some(true)));
    assert!(gather.scope.entries().any(|entry| entry.range == Some(bench.range(0x110, 0x10))));
}
