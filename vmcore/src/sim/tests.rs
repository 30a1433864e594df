//! The judge is judged: tables made by hand, word by word, and every violation provoked.

use alloc::vec;

use super::*;
use crate::addr::FrameRange;
use crate::paging::FlushScope;

const P: u64 = 0x1;
const RW: u64 = 0x2;
const US: u64 = 0x4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const XD: u64 = 1 << 63;

const USER_READ: Access = Access::READ.union(Access::USER);
const USER_WRITE: Access = Access::USER_DATA;

fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

fn entry(frame: Frame, flags: u64) -> u64 {
    frame.number() << 12 | flags
}

/// Tables made by hand: one of each level, for addresses below 2 MiB.
struct Hand {
    sim: Sim,
    root: Frame,
    pdpt: Frame,
    pd: Frame,
    pt: Frame,
}

impl Hand {
    fn new(sim: Sim) -> Self {
        let [root, pdpt, pd, pt] = core::array::from_fn(|_| sim.new_table());
        sim.set_physical_word(root, 0, entry(pdpt, P | RW | US));
        sim.set_physical_word(pdpt, 0, entry(pd, P | RW | US));
        sim.set_physical_word(pd, 0, entry(pt, P | RW | US));
        sim.load(0, root, Tag(1));
        Self { sim, root, pdpt, pd, pt }
    }

    fn recording() -> Self {
        Self::new(Sim::builder().frames(64).cpus(2).record_violations().build())
    }

    fn strict() -> Self {
        Self::new(Sim::builder().frames(64).cpus(2).build())
    }

    /// Maps the page with this index to a new frame.
    fn map(&self, index: usize, flags: u64) -> Frame {
        let frame = self.sim.new_page();
        self.sim.set_physical_word(self.pt, index, entry(frame, flags));
        frame
    }

    fn fault(&self, address: u64, access: Access) -> FaultKind {
        self.sim.access(0, at(address), access).unwrap_err().kind
    }

    /// The kinds of the violations since the last call.
    fn kinds(&self) -> Vec<ViolationKind> {
        self.sim.take_violations().into_iter().map(|violation| violation.kind).collect()
    }
}

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::from_checked(at(first << 12), count << 12)
}

fn every_cpu() -> CpuMask {
    let mut cpus = CpuMask::EMPTY;
    cpus.insert(0);
    cpus.insert(1);
    cpus
}

fn request(change: impl FnOnce(&mut FlushScope)) -> FlushRequest<CpuMask> {
    let mut scope = FlushScope::new();
    change(&mut scope);
    FlushRequest { cpus: every_cpu(), scope }
}

/// Ends a frame's use and frees it, as the library does.
fn free(sim: &Sim, frame: Frame, purpose: FrameUse) {
    // SAFETY: nothing but the simulated CPUs refers to the frame; whether they do is what is tested.
    unsafe { crate::frame::free_one(sim, frame, purpose) }.unwrap();
}

// The walker.

#[test]
fn a_walk_finds_the_frame_and_marks_the_entries() {
    let hand = Hand::strict();
    let frame = hand.map(5, P | RW | US);
    let found = hand.sim.access(0, at(0x5123), USER_READ).unwrap();
    assert_eq!(found.physical.as_u64(), frame.number() << 12 | 0x123);
    assert!(!found.from_tlb && !found.global);
    assert_eq!(found.access, Access::all(), "nothing on the way forbids execution");
    for (table, index) in [(hand.root, 0), (hand.pdpt, 0), (hand.pd, 0), (hand.pt, 5)] {
        assert_eq!(hand.sim.physical_word(table, index).unwrap() & (A | D), A, "{table:?}");
    }
    // The write goes through a clean TLB entry: it is walked again to set the dirty bit, in the leaf only.
    assert!(!hand.sim.access(0, at(0x5000), USER_WRITE).unwrap().from_tlb);
    assert_eq!(hand.sim.physical_word(hand.pt, 5).unwrap() & (A | D), A | D);
    assert_eq!(hand.sim.physical_word(hand.pd, 0).unwrap() & D, 0);
    assert!(hand.sim.access(0, at(0x5000), USER_WRITE).unwrap().from_tlb);
}

#[test]
fn every_kind_of_fault() {
    let hand = Hand::strict();
    let sim = &hand.sim;
    // Not present, at each level.
    for address in [0x80_0000_0000, 0x4000_0000, 0x20_0000, 0x6000] {
        assert_eq!(hand.fault(address, Access::READ), FaultKind::NotPresent, "{address:#x}");
    }
    // Permissions, of the leaf and of a table above it.
    hand.map(1, P | XD);
    assert_eq!(hand.fault(0x1000, USER_READ), FaultKind::Permission);
    assert_eq!(hand.fault(0x1000, Access::KERNEL_DATA), FaultKind::Permission, "CR0.WP is set");
    assert_eq!(hand.fault(0x1000, Access::READ | Access::EXECUTE), FaultKind::Permission);
    assert!(sim.access(0, at(0x1000), Access::READ).is_ok());
    hand.map(2, P | RW | US);
    let table = entry(hand.pt, P | RW | US);
    for (flags, refused) in [(P | RW, USER_READ), (P | US, Access::KERNEL_DATA), (P | RW | US | XD, Access::USER_CODE)]
    {
        sim.apply(&request(FlushScope::set_everything));
        sim.set_physical_word(hand.pd, 0, entry(hand.pt, flags));
        assert_eq!(hand.fault(0x2000, refused), FaultKind::Permission, "{refused}");
        sim.set_physical_word(hand.pd, 0, table);
        assert!(sim.access(0, at(0x2000), refused).is_ok(), "{refused}");
    }
    // Reserved bits: beyond the physical width, bit 7 of a root entry, an unaligned large leaf.
    hand.map(3, P | 1 << 40);
    assert_eq!(hand.fault(0x3000, Access::READ), FaultKind::Reserved);
    for bit in 13..=20 {
        sim.set_physical_word(hand.pd, 1, P | PS | 1 << bit);
        assert_eq!(hand.fault(0x20_0000, Access::READ), FaultKind::Reserved, "bit {bit}");
    }
    for bit in 13..=29 {
        sim.set_physical_word(hand.pdpt, 1, P | PS | 1 << bit);
        assert_eq!(hand.fault(0x4000_0000, Access::READ), FaultKind::Reserved, "bit {bit}");
    }
    sim.set_physical_word(hand.root, 1, entry(hand.pdpt, P | PS));
    assert_eq!(hand.fault(0x80_0000_0000, Access::READ), FaultKind::Reserved);
    // No such address.
    for address in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
        assert_eq!(hand.fault(address, Access::READ), FaultKind::NonCanonical, "{address:#x}");
    }
    assert_eq!(hand.fault(0xffff_8000_0000_0000, Access::READ), FaultKind::NotPresent);
}

#[test]
fn error_codes_are_the_manuals() {
    let hand = Hand::strict();
    hand.map(1, P | XD);
    let code = |address, access| hand.sim.access(0, at(address), access).unwrap_err().error_code();
    assert_eq!(code(0x2000, Access::READ), 0x0);
    assert_eq!(code(0x2000, USER_WRITE), 0x6);
    assert_eq!(code(0x1000, USER_WRITE), 0x7);
    assert_eq!(code(0x1000, Access::READ | Access::EXECUTE), 0x11);
    hand.map(3, P | 1 << 51);
    assert_eq!(code(0x3000, Access::READ), 0x9);
}

#[test]
fn memory_types_come_from_the_pat_bit_of_each_size() {
    let device = |first, count| FrameRange::new(Frame::new(first), count).unwrap();
    let pat = 0x0001_0207_0504_0106_u64;
    // Entry 5 would be the reserved value 2: replace it.
    let pat = pat & !(0xff << 40) | 0x06 << 40;
    let sim = Sim::builder().frames(64).pat(pat).device(device(0x40000, 1)).device(device(0x200, 1)).build();
    let hand = Hand::new(sim);
    for index in 0..8_u64 {
        let expected = regime::pat_type(pat >> (index * 8) & 0xff).unwrap();
        let low = (index & 1) << 3 | (index >> 1 & 1) << 4;
        hand.map(index as usize, P | low | (index >> 2) << 7);
        assert_eq!(hand.sim.access(0, at(index << 12), Access::READ).unwrap().memory, expected);
        hand.sim.set_physical_word(hand.pd, 1 + index as usize, 0x20_0000 | P | PS | low | (index >> 2) << 12);
        let large = hand.sim.access(0, at((1 + index) << 21), Access::READ).unwrap();
        assert_eq!((large.memory, large.frame().number()), (expected, 0x200), "2 MiB, index {index}");
        hand.sim.set_physical_word(hand.pdpt, 1 + index as usize, 0x4000_0000 | P | PS | low | (index >> 2) << 12);
        let huge = hand.sim.access(0, at((1 + index) << 30), Access::READ).unwrap();
        assert_eq!((huge.memory, huge.frame().number()), (expected, 0x40000), "1 GiB, index {index}");
    }
}

#[test]
fn bytes_cross_pages_and_a_word_is_written_whole_or_not() {
    let hand = Hand::strict();
    hand.map(1, P | RW | US);
    hand.map(2, P | RW | US);
    let bytes: Vec<u8> = (0..0x1100_u32).map(|n| n as u8).collect();
    hand.sim.write(0, at(0x1e00), true, &bytes[..0x400]).unwrap();
    let mut back = vec![0; 0x400];
    hand.sim.read(0, at(0x1e00), true, &mut back).unwrap();
    assert_eq!(back, bytes[..0x400]);
    hand.sim.write_u64(0, at(0x1ffd), true, 0x1122_3344_5566_7788).unwrap();
    assert_eq!(hand.sim.read_u64(0, at(0x1ffd), true).unwrap(), 0x1122_3344_5566_7788);
    // The second half lies on a page that is not there: the first half stays.
    hand.sim.write_u64(0, at(0x2ff8), true, 7).unwrap();
    let fault = hand.sim.write_u64(0, at(0x2ffc), true, u64::MAX).unwrap_err();
    assert_eq!((fault.address, fault.kind), (at(0x3003), FaultKind::NotPresent));
    assert_eq!(hand.sim.read_u64(0, at(0x2ff8), true).unwrap(), 7);
    // A longer write stops where it faults.
    let fault = hand.sim.write(0, at(0x2000), true, &bytes).unwrap_err();
    assert_eq!(fault.address, at(0x3000));
    assert_eq!(hand.sim.read_u64(0, at(0x2001), true).unwrap(), 0x0807_0605_0403_0201);
}

// What CPUs remember.

#[test]
fn a_stale_entry_is_used_until_it_is_flushed() {
    let hand = Hand::strict();
    let sim = &hand.sim;
    let old = hand.map(1, P | RW | US);
    sim.write_u64(0, at(0x1000), true, 1).unwrap();
    let new = hand.map(1, P | US);
    sim.write_u64(0, at(0x1000), true, 2).unwrap();
    assert_eq!((sim.physical_word(old, 0), sim.physical_word(new, 0)), (Some(2), Some(0)));
    // Flushes of another page, another space and another CPU leave it.
    sim.apply(&request(|scope| scope.add(Tag(1), pages(2, 5), false)));
    sim.apply(&request(|scope| scope.add(Tag(2), pages(1, 1), false)));
    sim.on(1).flush_local(&request(|scope| scope.add(Tag(1), pages(1, 1), false)));
    assert!(sim.access(0, at(0x1000), USER_WRITE).unwrap().from_tlb);
    sim.on(0).flush_local(&request(|scope| scope.add(Tag(1), pages(1, 1), false)));
    assert_eq!(sim.access(0, at(0x1000), USER_READ).unwrap().frame(), new);
    assert_eq!(hand.fault(0x1000, USER_WRITE), FaultKind::Permission);
}

#[test]
fn a_fault_forgets_the_entry_so_that_more_rights_need_no_flush() {
    let hand = Hand::strict();
    let frame = hand.map(1, P | US);
    hand.sim.access(0, at(0x1000), USER_READ).unwrap();
    hand.sim.set_physical_word(hand.pt, 1, entry(frame, P | RW | US));
    hand.sim.check_translations();
    assert_eq!(hand.fault(0x1000, USER_WRITE), FaultKind::Permission, "spurious: the TLB is behind");
    assert!(hand.sim.access(0, at(0x1000), USER_WRITE).is_ok());
}

#[test]
fn global_entries_survive_a_flush_of_the_space() {
    let hand = Hand::strict();
    let sim = &hand.sim;
    hand.map(1, P | RW | G);
    hand.map(2, P | RW);
    let held = |page: u64| sim.access(0, at(page << 12), Access::READ).unwrap().from_tlb;
    assert!(!held(1) && !held(2) && held(1) && held(2));
    sim.apply(&request(|scope| scope.add_space(Tag(1))));
    assert!(held(1) && !held(2));
    sim.load(0, hand.root, Tag(2));
    assert!(held(1) && !held(2), "global entries show in every space, others in one");
    sim.apply(&request(|scope| scope.add(Tag(1), pages(1, 1), false)));
    assert!(held(1));
    sim.apply(&request(|scope| scope.add(Tag(1), pages(1, 1), true)));
    assert!(!held(1));
    let mut scope = FlushScope::new();
    scope.add_space(Tag(1));
    // A scope that concerns global entries, but none of this range.
    scope.add(Tag(3), pages(9, 1), true);
    sim.apply(&FlushRequest { cpus: every_cpu(), scope });
    assert!(!held(1));
}

#[test]
fn loading_a_root_forgets_what_the_hardware_does() {
    let hand = Hand::strict();
    let sim = &hand.sim;
    hand.map(1, P);
    hand.map(2, P | G);
    let held = |page: u64| sim.access(0, at(page << 12), Access::READ).unwrap().from_tlb;
    sim.load(0, hand.root, Tag(0));
    assert!(!held(1) && !held(2) && held(1) && held(2));
    sim.load(0, hand.root, Tag(0));
    assert!(!held(1) && held(2), "tag 0: all but global entries");
    sim.load(0, hand.root, Tag(7));
    assert!(!held(1) && held(1));
    sim.load(0, hand.root, Tag(8));
    sim.load(0, hand.root, Tag(7));
    assert!(held(1), "a tag keeps its entries");
    assert_eq!(sim.loaded(0), Some((hand.root, Tag(7))));
    sim.unload(0);
    assert_eq!((sim.loaded(0), sim.cached_translations(0)), (None, 0));
}

#[test]
fn the_structure_cache_keeps_a_pointer_to_an_unlinked_table() {
    let hand = Hand::recording();
    let sim = &hand.sim;
    let frame = hand.map(1, P);
    hand.map(2, P);
    sim.access(0, at(0x1000), Access::READ).unwrap();
    sim.set_physical_word(hand.pd, 0, 0);
    // The page's flush does not note tables: another page of the table is still found.
    sim.apply(&request(|scope| scope.add(Tag(1), pages(0, 512), false)));
    assert!(sim.access(0, at(0x2000), Access::READ).is_ok());
    assert!(hand.kinds().is_empty());
    sim.check_translations();
    assert_eq!(hand.kinds(), [ViolationKind::StaleTranslation; 2], "the pointer, and what was found through it");
    sim.apply(&request(|scope| {
        scope.add(Tag(1), pages(0, 512), false);
        scope.note_tables();
    }));
    sim.check_translations();
    assert_eq!(hand.fault(0x2000, Access::READ), FaultKind::NotPresent);
    free(sim, hand.pt, FrameUse::Table);
    free(sim, frame, FrameUse::Page);
    sim.assert_no_violation();
}

#[test]
fn a_flush_of_global_entries_and_tables_reaches_every_tag() {
    let hand = Hand::strict();
    let sim = &hand.sim;
    hand.map(1, P | G);
    sim.access(0, at(0x1000), Access::READ).unwrap();
    sim.load(0, hand.root, Tag(2));
    hand.map(2, P | G);
    sim.access(0, at(0x2000), Access::READ).unwrap();
    for index in [1, 2] {
        sim.set_physical_word(hand.pt, index, 0);
    }
    sim.set_physical_word(hand.pd, 0, 0);
    sim.flush(&request(|scope| {
        scope.add(Tag(0), pages(1, 2), true);
        scope.note_tables();
    }));
    sim.check_translations();
    free(sim, hand.pt, FrameUse::Table);
    assert_eq!((sim.flush_count(), sim.flushes().len()), (1, 1));
    assert!(!sim.flushes()[0].local && sim.flushes()[0].request.scope.tables());
}

#[test]
fn prefetching_fills_the_tlb_and_never_faults() {
    let hand = Hand::strict();
    hand.map(1, P);
    for address in [0x1000, 0x2000, 0x8000_0000_0000] {
        hand.sim.prefetch(0, at(address));
        hand.sim.prefetch(1, at(address));
    }
    assert_eq!((hand.sim.cached_translations(0), hand.sim.cached_translations(1)), (1, 0));
    assert!(hand.sim.access(0, at(0x1000), Access::READ).unwrap().from_tlb);
}

// Violations, each provoked.

#[test]
fn freeing_what_a_tlb_still_holds() {
    let hand = Hand::recording();
    let sim = &hand.sim;
    let frame = hand.map(1, P | RW);
    sim.load(1, hand.root, Tag(1));
    sim.access(1, at(0x1000), Access::READ).unwrap();
    sim.set_physical_word(hand.pt, 1, 0);
    // The flush reaches only CPU 0.
    let mut too_small = request(|scope| scope.add(Tag(1), pages(1, 1), false));
    too_small.cpus.remove(1);
    sim.flush(&too_small);
    free(sim, frame, FrameUse::Page);
    let violations = sim.take_violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].kind, ViolationKind::FreedWhileCached);
    let named = |what: &str| violations[0].sentence.contains(what);
    assert!(named("CPU 1") && named("0x1000") && named(&format!("{:#x}", frame.number())), "{violations:?}");
    // Its use afterwards, while the frame is free, is another; and once it is given out again.
    sim.access(1, at(0x1000), Access::READ).unwrap();
    assert_eq!(hand.kinds(), [ViolationKind::StaleUse]);
    assert_eq!(sim.new_page(), frame, "the frame freed last is given out first");
    sim.access(1, at(0x1000), Access::READ).unwrap();
    assert_eq!(hand.kinds(), [ViolationKind::StaleUse]);
}

#[test]
fn freeing_a_part_of_what_a_large_entry_maps() {
    let sim = Sim::builder().frames(1024).first_frame(0x200).record_violations().build();
    let hand = Hand::new(sim);
    let sim = &hand.sim;
    let run = sim.allocate_frames(FrameRequest::run(FrameUse::Page, 512, 9)).unwrap();
    sim.set_physical_word(hand.pd, 1, entry(run, P | RW | PS));
    assert_eq!(sim.access(0, at(0x20_5000), Access::READ).unwrap().frame(), run.add(5));
    sim.flush(&request(|scope| scope.add(Tag(1), pages(0x200, 1), false)));
    // SAFETY: nothing but the simulated CPU refers to the frames.
    unsafe { sim.free_frames(run, 1) };
    assert!(hand.kinds().is_empty(), "that page was flushed");
    // SAFETY: as above.
    unsafe { sim.free_frames(run.add(7), 1) };
    assert_eq!(hand.kinds(), [ViolationKind::FreedWhileCached], "this one was not");
}

#[test]
fn freeing_a_table_that_is_still_walked() {
    let hand = Hand::recording();
    let sim = &hand.sim;
    hand.map(1, P);
    hand.map(2, P);
    sim.access(0, at(0x1000), Access::READ).unwrap();
    sim.set_physical_word(hand.pd, 0, 0);
    sim.flush(&request(|scope| scope.add(Tag(1), pages(0, 512), false)));
    free(sim, hand.pt, FrameUse::Table);
    let violations = sim.take_violations();
    assert_eq!(violations.len(), 1);
    assert!(violations[0].sentence.contains("did not note tables"), "{violations:?}");
    let _ = sim.access(0, at(0x2000), Access::READ);
    assert!(hand.kinds().contains(&ViolationKind::StaleUse), "the CPU walks the freed table");
    free(sim, hand.root, FrameUse::Table);
    let violations = sim.take_violations();
    assert!(violations.iter().any(|violation| violation.sentence.contains("loaded as its root")), "{violations:?}");
}

#[test]
fn a_frame_put_to_another_use_without_being_freed() {
    let hand = Hand::recording();
    let frame = hand.map(1, P | RW | US);
    hand.sim.access(0, at(0x1000), USER_READ).unwrap();
    let meta = hand.sim.frame_meta(frame).unwrap();
    meta.end(frame, FrameUse::Page).unwrap();
    meta.begin(FrameUse::Pool).unwrap();
    hand.sim.access(0, at(0x1000), Access::READ).unwrap();
    assert_eq!(hand.kinds(), [ViolationKind::StaleUse]);
}

#[test]
fn translations_that_the_tables_no_longer_hold() {
    type Change = fn(&Hand, Frame) -> u64;
    let changes: [(&str, Change); 5] = [
        ("unmapped", |_, _| 0),
        ("another frame", |hand, _| entry(hand.sim.new_page(), P | RW | US | G)),
        ("read-only", |_, frame| entry(frame, P | US | G)),
        ("another type", |_, frame| entry(frame, P | RW | US | G | 0x18)),
        ("not global", |_, frame| entry(frame, P | RW | US)),
    ];
    for (name, change) in changes {
        let hand = Hand::recording();
        let frame = hand.map(1, P | RW | US | G);
        hand.sim.access(0, at(0x1000), USER_READ).unwrap();
        hand.sim.check_translations();
        assert!(hand.kinds().is_empty(), "{name}");
        hand.sim.set_physical_word(hand.pt, 1, change(&hand, frame));
        hand.sim.check_translations();
        assert_eq!(hand.kinds(), [ViolationKind::StaleTranslation], "{name}");
        hand.sim.flush(&request(|scope| scope.add(Tag(1), pages(1, 1), true)));
        hand.sim.check_translations();
        assert!(hand.kinds().is_empty(), "{name}, flushed");
    }
}

#[test]
fn a_violation_names_the_change_that_forgot_a_flush() {
    let hand = Hand::recording();
    for (page, flushed) in [(1, true), (2, false)] {
        hand.map(page, P | RW | US);
        hand.sim.access(0, at(page as u64 * 0x1000), USER_READ).unwrap();
        hand.sim.begin_change(format!("unmap of page {page}"));
        hand.sim.set_physical_word(hand.pt, page, 0);
        if flushed {
            hand.sim.flush(&request(|scope| scope.add(Tag(1), pages(page as u64, 1), false)));
        }
        hand.sim.check_translations();
    }
    let violations = hand.sim.take_violations();
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].sentence.ends_with("(the last change: unmap of page 2)"), "{violations:?}");
}

#[test]
fn a_large_leaf_split_into_the_same_pages_is_not_stale() {
    let sim = Sim::builder().frames(1024).first_frame(0x200).record_violations().build();
    let hand = Hand::new(sim);
    let sim = &hand.sim;
    let run = sim.allocate_frames(FrameRequest::run(FrameUse::Page, 512, 9)).unwrap();
    sim.set_physical_word(hand.pd, 1, entry(run, P | RW | PS));
    sim.access(0, at(0x20_0000), Access::READ).unwrap();
    let split = sim.new_table();
    for index in 0..512 {
        sim.set_physical_word(split, index, entry(run.add(index as u64), P | RW));
    }
    sim.set_physical_word(hand.pd, 1, entry(split, P | RW));
    sim.check_translations();
    assert!(hand.kinds().is_empty());
    sim.set_physical_word(split, 300, 0);
    sim.check_translations();
    assert_eq!(hand.kinds(), [ViolationKind::StaleTranslation]);
    sim.flush(&request(|scope| scope.add(Tag(1), pages(0x200 + 300, 1), false)));
    sim.check_translations();
    assert!(hand.kinds().is_empty());
}

#[test]
fn the_root_of_a_dead_space() {
    let hand = Hand::recording();
    hand.map(1, P);
    hand.map(2, P | G);
    hand.sim.access(0, at(0x1000), Access::READ).unwrap();
    hand.sim.access(0, at(0x2000), Access::READ).unwrap();
    let other = Hand::new(hand.sim.clone());
    assert_eq!(hand.kinds(), [ViolationKind::TagReused], "another root under the tag, without a flush");
    // The other root has the same kernel half.
    hand.sim.set_physical_word(other.root, 0, entry(hand.pdpt, P | RW | US));
    hand.sim.load(0, other.root, Tag(2));
    free(&hand.sim, hand.root, FrameUse::Table);
    hand.sim.check_translations();
    assert!(hand.kinds().is_empty(), "nothing can use what it remembers under another tag");
    hand.sim.load(0, other.root, Tag(1));
    assert_eq!(hand.kinds(), [ViolationKind::TagReused, ViolationKind::StaleTag]);
    hand.sim.check_translations();
    let violations = hand.sim.take_violations();
    assert!(violations.iter().all(|violation| violation.kind == ViolationKind::StaleTranslation));
    assert!(violations.iter().any(|violation| violation.sentence.contains("which is gone")), "{violations:?}");
    assert!(!violations.iter().any(|violation| violation.sentence.contains("Global")), "{violations:?}");
}

/// What a CPU remembers under a tag is judged when the tag is loaded: frames that were freed meanwhile must have been forgotten.
#[test]
fn what_is_remembered_under_another_tag() {
    let hand = Hand::recording();
    let frame = hand.map(1, P);
    hand.map(2, P);
    hand.sim.access(0, at(0x1000), Access::READ).unwrap();
    hand.sim.access(0, at(0x2000), Access::READ).unwrap();
    let other = Hand::new(hand.sim.clone());
    hand.kinds();
    hand.sim.load(0, other.root, Tag(2));
    // A page goes, and one that takes its place is mapped: unseen until the tag is loaded.
    hand.sim.set_physical_word(hand.pt, 1, 0);
    free(&hand.sim, frame, FrameUse::Page);
    hand.sim.check_translations();
    assert!(hand.kinds().is_empty());
    hand.sim.load(0, hand.root, Tag(1));
    assert_eq!(hand.kinds(), [ViolationKind::StaleTag]);
    hand.sim.load(0, other.root, Tag(2));
    hand.sim.apply_on(0, &request(|scope| scope.add(Tag(1), pages(1, 1), false)));
    hand.sim.load(0, hand.root, Tag(1));
    assert!(hand.kinds().is_empty(), "a flush reaches what is remembered under a tag that is not loaded");
    // The same of a table: it is enough that its pointer is remembered.
    hand.sim.load(0, other.root, Tag(2));
    hand.sim.set_physical_word(hand.pd, 0, 0);
    hand.sim.apply_on(0, &request(|scope| scope.add(Tag(1), pages(0, 512), false)));
    free(&hand.sim, hand.pt, FrameUse::Table);
    hand.sim.load(0, hand.root, Tag(1));
    assert_eq!(hand.kinds(), [ViolationKind::StaleTag]);
}

#[test]
fn tables_that_are_none() {
    let hand = Hand::recording();
    let sim = &hand.sim;
    // A page linked as a table.
    let page = sim.new_page();
    sim.set_physical_word(hand.pd, 1, entry(page, P));
    assert_eq!(hand.fault(0x20_0000, Access::READ), FaultKind::NotPresent);
    assert_eq!(hand.kinds(), [ViolationKind::NotATable]);
    // A free frame.
    sim.set_physical_word(hand.pd, 1, entry(Frame::new(0x13f), P));
    let _ = sim.access(0, at(0x20_0000), Access::READ);
    assert_eq!(hand.kinds(), [ViolationKind::StaleUse]);
    // No memory at all.
    sim.set_physical_word(hand.pd, 1, entry(Frame::new(0x9999), P));
    assert_eq!(hand.fault(0x20_0000, Access::READ), FaultKind::Bus);
    assert_eq!(hand.kinds(), [ViolationKind::NoSuchFrame]);
}

#[test]
fn table_zeroed_before_link() {
    let hand = Hand::recording();
    let table = allocate_one(&hand.sim, FrameUse::Table, false).unwrap();
    hand.sim.set_physical_word(table, 0, 0);
    hand.sim.set_physical_word(hand.pd, 1, entry(table, P));
    assert_eq!(hand.fault(0x20_0000, Access::READ), FaultKind::NotPresent, "the entry itself was cleared");
    assert_eq!(hand.kinds(), [ViolationKind::TableNotCleared], "the others were not");
    hand.sim.load(1, table, Tag(3));
    assert_eq!(hand.kinds(), [ViolationKind::TableNotCleared], "nor as a root");
}

#[test]
fn leaves_to_frames_that_are_not_theirs() {
    let hand = Hand::recording();
    let sim = &hand.sim;
    sim.set_physical_word(hand.pt, 1, entry(Frame::new(0x13f), P));
    sim.access(0, at(0x1000), Access::READ).unwrap();
    assert_eq!(hand.kinds(), [ViolationKind::MapsFreeFrame]);
    sim.set_physical_word(hand.pt, 2, entry(Frame::new(0x9999), P));
    assert_eq!(hand.fault(0x2000, Access::READ), FaultKind::Bus);
    assert_eq!(hand.kinds(), [ViolationKind::NoSuchFrame]);
    // A program reaches a table; the kernel may.
    sim.set_physical_word(hand.pt, 3, entry(hand.pt, P | RW | US));
    sim.access(0, at(0x3000), Access::KERNEL_DATA).unwrap();
    assert!(hand.kinds().is_empty());
    sim.access(0, at(0x3000), USER_READ).unwrap();
    assert_eq!(hand.kinds(), [ViolationKind::WrongUse]);
    // The zero frame may be read, not written.
    let zero = allocate_one(sim, FrameUse::Machine, true).unwrap();
    sim.set_physical_word(hand.pt, 4, entry(zero, P | RW | US));
    sim.access(0, at(0x4000), USER_READ).unwrap();
    assert!(hand.kinds().is_empty());
    sim.access(0, at(0x4000), USER_WRITE).unwrap();
    assert_eq!(hand.kinds(), [ViolationKind::WrongUse]);
}

#[test]
fn a_lasting_map_may_lead_anywhere() {
    let hand = Hand::strict();
    hand.sim.expect_lasting(pages(0, 4));
    let frame = hand.map(1, P | RW);
    hand.sim.access(0, at(0x1000), Access::READ).unwrap();
    free(&hand.sim, frame, FrameUse::Page);
    hand.sim.access(0, at(0x1000), Access::READ).unwrap();
    hand.sim.check_translations();
    hand.sim.assert_no_violation();
}

#[test]
fn device_memory_is_reached_and_not_counted() {
    let frames = FrameRange::new(Frame::new(0xfd000), 2).unwrap();
    let hand = Hand::new(Sim::builder().frames(64).device(frames).build());
    hand.sim.set_physical_word(hand.pt, 1, entry(Frame::new(0xfd001), P | RW | US));
    hand.sim.write_u64(0, at(0x1008), true, 0x77).unwrap();
    assert_eq!(hand.sim.physical_word(Frame::new(0xfd001), 1), Some(0x77));
    assert!(hand.sim.frame_meta(Frame::new(0xfd001)).is_none());
    assert_eq!(hand.sim.frame_pointer(Frame::new(0xfd001)) as usize & 0xfff, 0);
    assert_eq!(hand.sim.free_frame_count(), 60);
}

#[test]
fn double_free_and_wrong_bounds_are_refused() {
    let sim = Sim::builder().frames(64).record_violations().build();
    let take = |count| sim.allocate_frames(FrameRequest::run(FrameUse::Page, count, 0)).unwrap();
    let refused = |first: Frame, count: u64, reason: &str| {
        let before = sim.free_frame_count();
        // SAFETY: nothing refers to the frames; the machine refuses what was not given out.
        unsafe { sim.free_frames(first, count) };
        let violations = sim.take_violations();
        assert_eq!(violations.len(), 1, "{reason}");
        assert_eq!(violations[0].kind, ViolationKind::WrongFree);
        assert!(violations[0].sentence.contains(reason), "{violations:?}");
        assert_eq!(sim.free_frame_count(), before, "nothing was freed");
    };
    let (first, second) = (take(4), take(4));
    assert_eq!(second, first.add(4));
    refused(first, 8, "not given out together");
    refused(first, 0, "frees nothing");
    refused(Frame::new(0xff), 2, "leaves the RAM");
    refused(first, u64::MAX, "leaves the RAM");
    refused(Frame::new(0x130), 1, "a double free");
    // SAFETY: given out above; nothing refers to it.
    unsafe { sim.free_frames(first.add(1), 1) };
    refused(first.add(1), 1, "a double free");
    refused(first, 4, "a double free");
    let page = sim.new_page();
    refused(page, 1, "still recorded as Page");
    sim.assert_no_violation();
}

#[test]
fn a_write_into_a_free_frame_is_seen_when_it_is_given_out() {
    let sim = Sim::builder().frames(8).record_violations().build();
    let frame = sim.new_page();
    let pointer = sim.frame_pointer(frame);
    free(&sim, frame, FrameUse::Page);
    // SAFETY: the machine's memory stays as long as its handle; nobody else reaches it.
    unsafe { pointer.wrapping_add(100).write(1) };
    assert_eq!(sim.new_page(), frame);
    let violations = sim.take_violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].kind, ViolationKind::WrittenWhileFree);
    assert!(violations[0].sentence.contains("byte 0x60"), "{violations:?}");
    // A frame that was never given out is zero rather than poisoned, and guarded as well.
    sim.set_physical_word(frame.add(1), 0, 1);
    sim.new_page();
    assert_eq!(sim.take_violations()[0].kind, ViolationKind::WrittenWhileFree);
}

#[test]
fn the_library_reaches_for_a_free_frame() {
    let sim = Sim::builder().frames(8).record_violations().build();
    let _ = sim.frame_pointer(Frame::new(0x100));
    assert_eq!(sim.take_violations()[0].kind, ViolationKind::ReachedWhileFree);
    assert_eq!(sim.frame_pointer(Frame::new(5)) as usize & 0xfff, 0);
    assert_eq!(sim.take_violations()[0].kind, ViolationKind::NoSuchFrame);
    sim.frame_meta(Frame::new(0x100)).unwrap().begin(FrameUse::Page).unwrap();
    sim.allocate_frames(FrameRequest::one(FrameUse::Page)).unwrap();
    assert_eq!(sim.take_violations()[0].kind, ViolationKind::WrongFree, "used without having been allocated");
}

#[test]
fn held_flushes_are_applied_by_hand() {
    let hand = Hand::recording();
    let sim = &hand.sim;
    hand.map(1, P);
    sim.load(1, hand.root, Tag(1));
    let held = |cpu| sim.access(cpu, at(0x1000), Access::READ).unwrap().from_tlb;
    assert!(!held(0) && !held(1));
    let flush = request(|scope| scope.add(Tag(1), pages(1, 1), false));
    sim.apply_on(1, &flush);
    assert!(held(0) && !held(1));
    sim.hold_flushes(true);
    sim.flush(&flush);
    assert_eq!(hand.kinds(), [ViolationKind::FlushWhileHeld]);
    sim.hold_flushes(false);
    assert!(!held(0) && !held(1) && held(0) && held(1));
    sim.flush(&flush);
    assert!(!held(0) && !held(1), "a flush reaches every CPU of the request");
    sim.assert_no_violation();
}

#[test]
#[should_panic(expected = "FreedWhileCached")]
fn a_violation_panics_at_once() {
    let hand = Hand::strict();
    let frame = hand.map(1, P);
    hand.sim.access(0, at(0x1000), Access::READ).unwrap();
    free(&hand.sim, frame, FrameUse::Page);
}

#[test]
#[should_panic(expected = "1 violations")]
fn recorded_violations_fail_the_assertion() {
    let sim = Sim::builder().frames(8).record_violations().build();
    let _ = sim.frame_pointer(Frame::new(0x100));
    sim.assert_no_violation();
}

// The allocator.

#[test]
fn frames_hold_garbage_unless_zeroed() {
    let sim = Sim::builder().frames(8).build();
    let garbage = sim.allocate_frames(FrameRequest::one(FrameUse::Page)).unwrap();
    assert_eq!(sim.physical_word(garbage, 511), Some(memory::GARBAGE));
    // SAFETY: given out above.
    unsafe { sim.free_frames(garbage, 1) };
    assert_eq!(sim.physical_word(garbage, 511), Some(memory::POISON));
    let zero = sim.allocate_frames(FrameRequest::one(FrameUse::Page).zeroed()).unwrap();
    assert_eq!(zero, garbage, "the frame freed last is given out first");
    assert!((0..512).all(|index| sim.physical_word(zero, index) == Some(0)));
    sim.assert_no_violation();
}

#[test]
fn runs_are_aligned_by_frame_number_and_memory_ends() {
    let sim = Sim::builder().frames(32).first_frame(0x103).build();
    let run = sim.allocate_frames(FrameRequest::run(FrameUse::Page, 8, 3)).unwrap();
    assert_eq!(run.number(), 0x108);
    let aligned = sim.allocate_frames(FrameRequest::run(FrameUse::Page, 1, 4)).unwrap();
    assert_eq!(aligned.number(), 0x110);
    assert_eq!(sim.allocate_frames(FrameRequest::run(FrameUse::Page, 32, 0)), None);
    assert_eq!(sim.allocate_frames(FrameRequest::run(FrameUse::Page, 1, 64)), None);
    assert_eq!(sim.allocate_frames(FrameRequest::run(FrameUse::Page, u64::MAX, 0)), None);
    assert_eq!(sim.allocate_frames(FrameRequest::run(FrameUse::Page, 0, 0)), None);
    let mut rest = Vec::new();
    while let Some(frame) = sim.allocate_frames(FrameRequest::one(FrameUse::Page)) {
        assert!(frame != aligned && !(run.number()..run.number() + 8).contains(&frame.number()));
        rest.push(frame);
    }
    assert_eq!((rest.len(), sim.free_frame_count()), (23, 0));
    // SAFETY: given out above, together.
    unsafe { sim.free_frames(run, 8) };
    assert_eq!(sim.allocate_frames(FrameRequest::run(FrameUse::Page, 8, 3)), Some(run));
    sim.assert_no_violation();
}

#[test]
fn allocations_fail_on_demand() {
    let sim = Sim::builder().frames(16).build();
    let succeeds = || sim.allocate_frames(FrameRequest::one(FrameUse::Page)).is_some();
    sim.fail_kth(1);
    assert_eq!([succeeds(), succeeds(), succeeds()], [true, false, true]);
    sim.fail_allocation_after(1);
    assert_eq!([succeeds(), succeeds(), succeeds()], [true, false, false]);
    sim.fail_never();
    assert!(succeeds());
    assert_eq!((sim.allocation_requests(), sim.free_frame_count()), (7, 12));
}

#[test]
fn counts_tell_a_leak() {
    let sim = Sim::builder().frames(16).build();
    let before = sim.frame_counts();
    let (table, page) = (sim.new_table(), sim.new_page());
    let during = sim.frame_counts();
    assert_eq!((during.of(FrameUse::Table), during.of(FrameUse::Page), during.given_out()), (1, 1, 2));
    free(&sim, table, FrameUse::Table);
    assert_ne!(sim.frame_counts(), before, "the page is still there");
    free(&sim, page, FrameUse::Page);
    assert_eq!(sim.frame_counts(), before);
    // A frame whose use was ended but that was not given back is a leak too.
    let page = sim.new_page();
    sim.frame_meta(page).unwrap().end(page, FrameUse::Page).unwrap();
    assert_ne!(sim.frame_counts(), before);
}

#[test]
fn random_frames_repeat_with_their_seed() {
    let order = |seed| {
        let sim = Sim::builder().frames(64).random_frames(seed).build();
        (0..64).map(|_| sim.new_page().number()).collect::<Vec<_>>()
    };
    let mut drawn = order(3);
    assert_eq!(drawn, order(3));
    assert_ne!(drawn, order(4));
    drawn.sort_unstable();
    assert_eq!(drawn, (0x100..0x140).collect::<Vec<_>>(), "each frame once");
}

// CPUs on threads.

/// Tells the other thread to end, also when this one panics.
struct StopAtEnd<'a>(&'a AtomicU32);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Release);
    }
}

#[test]
fn a_flush_waits_for_accesses_on_other_cpus() {
    let hand = Hand::strict();
    let sim = hand.sim.clone();
    sim.load(1, hand.root, Tag(1));
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            while stop.load(Ordering::Acquire) == 0 {
                let _ = sim.write_u64(1, at(0x1ffc), true, u64::MAX);
                let _ = sim.read_u64(1, at(0x1000), true);
                std::thread::yield_now();
            }
        });
        for _ in 0..200 {
            let (one, two) = (hand.map(1, P | RW | US), hand.map(2, P | RW | US));
            for _ in 0..20 {
                let _ = hand.sim.read_u64(0, at(0x1000), true);
                std::thread::yield_now();
            }
            for index in [1, 2] {
                hand.sim.set_physical_word(hand.pt, index, 0);
            }
            hand.sim.flush(&request(|scope| scope.add(Tag(1), pages(1, 2), false)));
            free(&hand.sim, one, FrameUse::Page);
            free(&hand.sim, two, FrameUse::Page);
        }
    });
    hand.sim.check_translations();
    hand.sim.assert_no_violation();
}
