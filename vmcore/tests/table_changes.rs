//! Changes of tables in ranges where entries of all kinds lie side by side: what every page then allows, what has to be flushed and nothing else, how many entries
//! changed, and how many tables it took. The counts and the permissions of every page are said by hand.

use std::cell::RefCell;
use std::collections::BTreeSet;

use vmcore::addr::{Frame, PageRange, VirtAddr};
use vmcore::frame::{FrameList, FrameMeta, FrameRequest, Frames};
use vmcore::paging::{
    AArch64, Access, AddressField, Canonical, Combinations, DirtyBits, EncodeError, Entry, Ept, Flag, FlushScope,
    Format, Gather, Granule4K, Granule16K, Groups, Half, Leaf, LeafTest, LevelFormat, Marks, MemoryType, Mmu,
    Permissions, RiscV32, RiscV64, TableError, Tables, Tag, WalkEnd, X86, X86_64,
};
use vmcore::sim::Sim;

const TAG: Tag = Tag(3);
const READ: Access = Access::READ;
const WRITE: Access = Access::KERNEL_DATA;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Frames of a machine, which writes down what had to be forgotten at once.
struct Memory<const SHIFT: u32> {
    sim: Sim,
    forgotten: RefCell<Vec<PageRange>>,
}

// SAFETY: all is the machine's; a granule of 16 KiB is four of its pages, which are asked for together.
unsafe impl<const SHIFT: u32> Frames for Memory<SHIFT> {
    const PAGE_SHIFT: u32 = SHIFT;
    const INVALIDATES_NOW: bool = true;

    fn invalidate_now(&self, _: u16, range: PageRange) {
        self.forgotten.borrow_mut().push(range);
    }

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        let pages = SHIFT - 12;
        let mut run = FrameRequest::run(request.purpose, request.count << pages, request.alignment + pages);
        run.zeroed = request.zeroed;
        let first = self.sim.allocate_frames(run)?;
        Some(Frame::new(first.number() >> pages))
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        let pages = SHIFT - 12;
        // SAFETY: as the caller vouches.
        unsafe { self.sim.free_frames(Frame::new(first.number() << pages), count << pages) }
    }

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        // What is not there cannot be reached.
        self.frame_meta(frame)
            .map_or(std::ptr::null_mut(), |_| self.sim.frame_pointer(Frame::new(frame.number() << (SHIFT - 12))))
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.sim.frame_meta(Frame::new(frame.number() << (SHIFT - 12)))
    }
}

struct Bench<M: Mmu, const SHIFT: u32 = 12> {
    memory: Memory<SHIFT>,
    tables: Tables<M>,
}

impl<M: Mmu> Bench<M> {
    fn new(mmu: M) -> Self {
        Self::of(mmu)
    }
}

impl<M: Mmu, const SHIFT: u32> Bench<M, SHIFT> {
    fn of(mmu: M) -> Self {
        let memory = Memory { sim: Sim::builder().frames(512).build(), forgotten: RefCell::default() };
        let root = Self::fresh(&memory);
        // SAFETY: a fresh, zeroed table, used here alone; no CPU loads it.
        let tables = unsafe { Tables::new(mmu, root, TAG) };
        Self { memory, tables }
    }

    fn fresh(memory: &Memory<SHIFT>) -> Frame {
        let mut list = FrameList::new();
        list.fill_with_tables(memory, 1).unwrap();
        list.pop(memory).unwrap()
    }

    fn range(&self, start: u64, size: u64) -> PageRange {
        self.tables.mmu().range(start, size).unwrap()
    }

    fn spare(&self, count: u64) -> FrameList {
        let mut spare = FrameList::new();
        spare.fill_with_tables(&self.memory, count).unwrap();
        spare
    }

    /// Maps a range with leaves of this level at the most.
    fn map(&mut self, start: u64, size: u64, leaf: Leaf, largest: usize) {
        let (range, mut spare) = (self.range(start, size), self.spare(8));
        self.tables.map(&self.memory, range, leaf, largest, &mut spare).unwrap();
    }

    /// What the walk of an address ends with: the access over all levels, the physical address, and the size of the leaf.
    fn page(&self, address: u64) -> Option<(Access, u64, u64)> {
        match self.tables.walk(&self.memory, VirtAddr::new(address)).end() {
            WalkEnd::Mapped { physical, pages, access, .. } => Some((access, physical.as_u64(), pages.size())),
            _ => None,
        }
    }

    fn access(&self, address: u64) -> Access {
        self.page(address).map_or(Access::empty(), |(access, ..)| access)
    }

    fn leaf(&self, address: u64) -> Leaf {
        self.tables.translate(&self.memory, VirtAddr::new(address)).unwrap().1
    }

    fn word(&self, table: Frame, index: usize) -> u64 {
        self.memory.sim.physical_word(table, index).unwrap()
    }

    /// The table of a level on the way to an address.
    fn table(&self, address: u64, level: usize) -> Frame {
        let walk = self.tables.walk(&self.memory, VirtAddr::new(address));
        walk.steps().find(|step| step.level == level).unwrap().table
    }

    /// Takes write permission away: how many entries that changed, and what is to be flushed.
    fn write_protect(&mut self, start: u64, size: u64) -> (Result<u64, TableError>, FlushScope) {
        let (range, mut spare, mut gather) = (self.range(start, size), self.spare(4), Gather::default());
        let done = self.tables.write_protect(&self.memory, range, &mut spare, &mut gather);
        (done, gather.scope)
    }
}

/// The addresses of a scope, as starts and sizes in order.
fn flushed(scope: &FlushScope) -> Vec<(u64, u64)> {
    assert!(!scope.is_everything());
    let mut all: Vec<_> = scope
        .entries()
        .map(|entry| entry.range.map_or((0, 0), |range| (range.start().as_u64(), range.size())))
        .collect();
    all.sort_unstable();
    all
}

fn leaf(frame: u64) -> Leaf {
    Leaf::new(Frame::new(frame)).writable()
}

fn arm() -> AArch64<Granule4K> {
    AArch64::bits_48(Half::Lower, 40)
}

/// Entries of a table, as they lie side by side: what is limited already, leaves, absent ones, tables. Each that changes is counted and flushed, and no other.
#[test]
fn write_permission_is_taken_from_entries_of_every_kind_side_by_side() {
    let mut bench = Bench::new(X86_64::new(40));
    let slot = |index: u64| GIB + index * 2 * MIB;
    // Of 2 MiB each: nothing, a table, a table, a leaf, a read-only leaf, nothing, a table that is limited already, a table.
    for index in [1, 2, 6, 7] {
        bench.map(slot(index), 0x3000, leaf(0x400), 0);
    }
    bench.map(slot(3), 2 * MIB, leaf(0x800), 1);
    bench.map(slot(4), 2 * MIB, Leaf::new(Frame::new(0xa00)), 1);
    let (done, scope) = bench.write_protect(slot(6), 2 * MIB);
    assert_eq!((done, flushed(&scope)), (Ok(1), vec![(slot(6), 2 * MIB)]));
    let (done, scope) = bench.write_protect(slot(0), 16 * MIB);
    assert_eq!(done, Ok(4));
    assert_eq!(flushed(&scope), [(slot(1), 6 * MIB), (slot(7), 2 * MIB)]);
    assert!(scope.tables());
    assert!(scope.globals(), "what lies below a table was not looked at, and may be global");
    for index in [1, 2, 3, 4, 6, 7] {
        assert_eq!(bench.access(slot(index)), READ, "{index}");
    }
    assert_eq!((bench.access(slot(0)), bench.access(slot(5))), (Access::empty(), Access::empty()));
    // Once more: nothing is left to do.
    let (done, scope) = bench.write_protect(slot(0), 16 * MIB);
    assert_eq!((done, scope.is_empty()), (Ok(0), true));
    // All of it again by the one entry above, whatever is malformed below: that is not looked at.
    let table = bench.table(GIB, 1);
    bench.memory.sim.set_physical_word(table, 100, 1 | 1 << 7 | 1 << 15);
    let (done, scope) = bench.write_protect(GIB, GIB);
    assert_eq!((done, flushed(&scope)), (Ok(1), vec![(GIB, GIB)]));
    // Where it is looked at it is somebody else's, and named.
    let (done, scope) = bench.write_protect(GIB, GIB - 2 * MIB);
    assert_eq!((done, scope.is_empty()), (Err(TableError::Foreign(VirtAddr::new(GIB + 200 * MIB))), true));
}

/// The pages of one leaf table, of which some are absent, some may not be written anyway: the others are counted and flushed, whoever relies on what.
fn single_pages_lose_write_permission<M: Mmu>(mmu: M, bits: DirtyBits) {
    let mut bench = Bench::new(mmu);
    bench.tables = bench.tables.with_dirty_bits(bits);
    let page = |index: u64| GIB + index * 0x1000;
    for (index, leaf) in
        [(1, leaf(1)), (2, leaf(2)), (3, Leaf::new(Frame::new(3))), (6, leaf(6)), (8, leaf(8)), (9, leaf(9))]
    {
        bench.map(page(index), 0x1000, leaf, 0);
    }
    let (done, scope) = bench.write_protect(page(0), 8 * 0x1000);
    assert_eq!((done, flushed(&scope)), (Ok(3), vec![(page(1), 0x2000), (page(6), 0x1000)]), "{mmu:?} {bits:?}");
    for index in 0..10 {
        let expected = match index {
            1 | 2 | 3 | 6 => READ,
            8 | 9 => WRITE,
            _ => Access::empty(),
        };
        assert_eq!(bench.access(page(index)), expected, "{mmu:?} {bits:?} {index}");
    }
    for index in [0, 4, 5, 7] {
        let table = bench.table(page(0), 0);
        assert_eq!(
            bench.word(table, (page(index) >> 12) as usize & 511),
            0,
            "{mmu:?}: absent entries stay as they are"
        );
    }
}

#[test]
fn of_single_pages_those_that_may_be_written_are_changed() {
    for bits in [DirtyBits::Hints, DirtyBits::Relied] {
        single_pages_lose_write_permission(X86_64::new(40), bits);
        single_pages_lose_write_permission(arm(), bits);
        single_pages_lose_write_permission(arm().hardware_dirty(), bits);
        single_pages_lose_write_permission(RiscV64::sv39(40), bits);
    }
}

/// Where entries above leaves say nothing of writing, each leaf below is changed, and what is malformed there is met before anything is.
#[test]
fn where_levels_do_not_limit_every_leaf_is_changed() {
    let mut bench = Bench::new(RiscV64::sv39(40));
    bench.map(GIB, 0x3000, leaf(0x400), 0);
    bench.map(GIB + 2 * MIB, 4 * MIB, leaf(0x800), 1);
    bench.map(GIB + 6 * MIB, 2 * MIB, Leaf::new(Frame::new(0xc00)), 1);
    let (done, scope) = bench.write_protect(GIB, GIB);
    assert_eq!((done, flushed(&scope)), (Ok(5), vec![(GIB, 0x3000), (GIB + 2 * MIB, 4 * MIB)]));
    for address in [0, 0x2000, 2 * MIB, 4 * MIB, 6 * MIB] {
        assert_eq!(bench.access(GIB + address), READ, "{address:#x}");
    }
    bench.map(GIB + 8 * MIB, 0x1000, leaf(0x500), 0);
    let table = bench.table(GIB, 1);
    // A leaf whose frame is not aligned.
    bench.memory.sim.set_physical_word(table, 9, 0xf | 1 << 11);
    let (done, scope) = bench.write_protect(GIB, GIB);
    assert_eq!((done, scope.is_empty()), (Err(TableError::Foreign(VirtAddr::new(GIB + 18 * MIB))), true));
    assert_eq!(bench.access(GIB + 8 * MIB), WRITE, "nothing was changed");
}

/// A group loses write permission as a whole and stays one.
#[test]
fn groups_lose_write_permission() {
    let mut bench = Bench::new(arm());
    bench.map(GIB, 48 * 0x1000, leaf(0x1000), 0);
    let (done, scope) = bench.write_protect(GIB + 16 * 0x1000, 16 * 0x1000);
    assert_eq!((done, flushed(&scope)), (Ok(16), vec![(GIB + 0x1_0000, 0x1_0000)]));
    for page in 0..48 {
        let expected = if (16..32).contains(&page) { READ } else { WRITE };
        assert_eq!(bench.access(GIB + page * 0x1000), expected, "{page}");
    }
    let (done, scope) = bench.write_protect(GIB + 16 * 0x1000, 16 * 0x1000);
    assert_eq!((done, scope.is_empty()), (Ok(0), true));
}

/// After one entry forbade a range, letting writes through to one page of it leaves every other page as it was.
fn one_page_is_let_through<M: Mmu, const SHIFT: u32>(mmu: M, start: u64, size: u64, entries: u64) {
    let mut bench = Bench::<M, SHIFT>::of(mmu);
    let page = 1 << SHIFT;
    let span = 1 << mmu.level(1).unwrap().shift;
    // 32-bit x86 has no bit against executing.
    let execute = if mmu.virtual_bits() == 32 { Access::EXECUTE } else { Access::empty() };
    let (leaf, allowed) = (|frame| leaf(frame).access(WRITE | execute), READ | execute);
    bench.map(start, 64 * page, leaf(1 << 16), 0);
    bench.map(start + size - 2 * span, span, leaf(1 << 18), 1);
    bench.map(start + size - page, page, leaf(1 << 16), 0);
    let (done, _) = bench.write_protect(start, size);
    assert_eq!(done, Ok(entries), "{mmu:?}");
    let written = start + 17 * page;
    bench.tables.push_down(&bench.memory, VirtAddr::new(written)).unwrap();
    let all = (0..64).map(|index| start + index * page).chain([start + size - 2 * span, start + size - page]);
    for address in all.clone() {
        assert_eq!(bench.access(address), allowed, "{mmu:?}: {address:#x}");
    }
    let mut gather = Gather::default();
    let leaf = bench.leaf(written).access(WRITE | execute);
    bench.tables.set_page(&bench.memory, VirtAddr::new(written), leaf, &mut FrameList::new(), &mut gather).unwrap();
    for address in all {
        let expected = if address == written { WRITE | execute } else { allowed };
        assert_eq!(bench.access(address), expected, "{mmu:?}: {address:#x}");
    }
}

#[test]
fn writes_are_let_through_to_one_page() {
    one_page_is_let_through::<_, 12>(X86_64::new(40), GIB, GIB, 1);
    one_page_is_let_through::<_, 12>(X86_64::new(40), 512 * GIB, 512 * GIB, 1);
    one_page_is_let_through::<_, 12>(X86::new(32), GIB, 12 * MIB, 3);
    one_page_is_let_through::<_, 12>(arm(), GIB, GIB, 1);
    one_page_is_let_through::<_, 12>(arm().hardware_dirty(), 512 * GIB, 512 * GIB, 1);
    // A root of two entries, above tables of 2048.
    one_page_is_let_through::<_, 14>(AArch64::<Granule16K>::bits_48(Half::Lower, 48), 0, 1 << 47, 1);
}

/// Of a group that a table above forbids to write, all members but none of the others are forbidden when that is pushed down.
#[test]
fn what_is_pushed_down_is_counted() {
    let mut bench = Bench::new(arm());
    bench.map(GIB, 32 * 0x1000, leaf(0x1000), 0);
    bench.map(GIB + 40 * 0x1000, 0x1000, leaf(0x2000), 0);
    bench.map(GIB + 42 * 0x1000, 0x1000, Leaf::new(Frame::new(0x2000)), 0);
    assert_eq!(bench.write_protect(GIB, 2 * MIB).0, Ok(1));
    // Two groups of 16, a single page, and the table's entry.
    assert_eq!(bench.tables.push_down(&bench.memory, VirtAddr::new(GIB)), Ok(34));
    assert_eq!(bench.tables.push_down(&bench.memory, VirtAddr::new(GIB)), Ok(0));
    for page in [0, 15, 16, 31, 40, 42] {
        assert_eq!(bench.access(GIB + page * 0x1000), READ, "{page}");
    }
}

const fn odd_level(shift: u32, limits: bool) -> LevelFormat {
    LevelFormat {
        shift,
        index_bits: 4,
        leaf_test: LeafTest::AnySet(1 << 22),
        leaf_set: 3 << 22,
        leaf_reserved: (1 << (shift - 8)) - (1 << 4),
        leaf_address: AddressField { address_low: shift, entry_low: shift - 8, width: 27 - shift },
        leaf_address_high: AddressField::NONE,
        contiguous: None,
        memory_bits: [1, 2, 4, 8],
        table_set: 1 << 23,
        table_reserved: if limits { 0xf } else { 0xf | 1 << 21 },
        table_address: AddressField { address_low: 12, entry_low: 4, width: 15 },
        table_address_high: AddressField::NONE,
        table_limits: limits,
        name: "",
    }
}

/// A format of three levels that exists nowhere: a table in the root can forbid writing and one below cannot, and the marks are set where nothing happened.
///
/// ```text
///   31 30 29..24 23 22 21 20 19 18..4     3..0
///   !D !A soft   P  S  !W X  U  address   type
/// ```
#[derive(Clone, Copy, Debug)]
struct Odd;

// SAFETY: no hardware has it; the description agrees with itself: 16 entries of 4 bytes fit a frame, and shifts grow by 4 from 12.
unsafe impl Mmu for Odd {
    type Word = u32;
    const FORMAT: &'static Format = &Format {
        name: "odd",
        levels: &[odd_level(12, false), odd_level(16, false), odd_level(20, true)],
        canonical: Canonical::ZeroExtended,
        present: 1 << 23,
        leaf: PERMISSIONS,
        table: Some(Permissions { executable: Flag::ALWAYS, user: Flag::ALWAYS, ..PERMISSIONS }),
        global: Flag::NONE,
        accessed: Flag::no(30),
        dirty: Flag::no(31),
        dirty_modifier: 0,
        key: (0, 0),
        software: (24, 6),
        absent: (0, 23),
        break_before_make: false,
    };

    fn levels(&self) -> usize {
        3
    }

    fn physical_bits(&self) -> u32 {
        27
    }

    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        (memory == MemoryType::WriteBack).then_some(5)
    }

    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        (code == 5).then_some(MemoryType::WriteBack)
    }
}

const PERMISSIONS: Permissions = Permissions {
    readable: Flag::ALWAYS,
    writable: Flag::no(21),
    executable: Flag::yes(20),
    kernel_executable: Flag::NONE,
    user: Flag::yes(19),
    combinations: Combinations::READ_AND_MORE,
};

/// A table in the root forbids writing, and what it forbade cannot be said by the tables below it: that is refused, and what may be written stays the same.
#[test]
fn what_cannot_be_pushed_down_is_refused() {
    let mut bench = Bench::new(Odd);
    bench.map(0x10_0000, 0x2000, leaf(0x100), 0);
    bench.map(0x11_0000, 0x1_0000, leaf(0x110), 1);
    assert_eq!(bench.write_protect(0x10_0000, 0x10_0000).0, Ok(1));
    let words = |bench: &Bench<Odd>| {
        [2, 1].map(|level| (0..8).map(|index| bench.word(bench.table(0x10_0000, level), index)).collect::<Vec<_>>())
    };
    let before = words(&bench);
    let refused = bench.tables.push_down(&bench.memory, VirtAddr::new(0x10_0000));
    assert_eq!(refused, Err(TableError::Encode(EncodeError::Access(READ))));
    assert_eq!(words(&bench), before);
    assert_eq!(bench.access(0x10_1000), READ);
}

/// Marks are taken back whatever stands for them, those that were asked for, and what is reported is what was there.
fn marks_are_taken<M: Mmu>(mmu: M, start: u64, sets: impl Fn(u64, bool, bool) -> u64) {
    for bits in [DirtyBits::Hints, DirtyBits::Relied] {
        for asked in [Marks::ACCESSED, Marks::DIRTY, Marks::BOTH] {
            let mut bench = Bench::new(mmu);
            bench.tables = bench.tables.with_dirty_bits(bits);
            bench.map(start, 5 * 0x1000, leaf(0x100), 0);
            let table = bench.table(start, 0);
            // Not the machine's CPUs: what is set is said here by hand.
            let all = [(false, false), (true, false), (false, true), (true, true), (false, false)];
            let first = (start >> 12) as usize & ((1 << mmu.index_bits(0)) - 1);
            let bytes = size_of::<M::Word>();
            for (index, (accessed, dirty)) in (first..).zip(all) {
                let (word, place) = (index * bytes / 8, 8 * (index * bytes % 8));
                let old = bench.word(table, word);
                let here = sets(old >> place & (u64::MAX >> (64 - 8 * bytes)), accessed, dirty);
                let kept = old & !(u64::MAX >> (64 - 8 * bytes) << place);
                bench.memory.sim.set_physical_word(table, word, kept | here << place);
            }
            let marks = |bench: &Bench<M>| {
                [0, 1, 2, 3, 4].map(|page| {
                    let leaf = bench.leaf(start + page * 0x1000);
                    (leaf.accessed, leaf.dirty)
                })
            };
            assert_eq!(marks(&bench), all, "{mmu:?}");
            let (mut gather, mut seen) = (Gather::default(), Vec::new());
            let range = bench.range(start, 5 * 0x1000);
            bench
                .tables
                .take_marks(&bench.memory, range, asked, &mut gather, |pages, had| {
                    seen.push(((pages.start().as_u64() - start) / 0x1000, pages.size(), had.accessed, had.dirty));
                })
                .unwrap();
            let expected: Vec<_> = (0..)
                .zip(all)
                .map(|(page, (accessed, dirty))| (page, 0x1000, accessed && asked.accessed, dirty && asked.dirty))
                .filter(|(_, _, accessed, dirty)| *accessed || *dirty)
                .collect();
            assert_eq!(seen, expected, "{mmu:?} {bits:?} {asked:?}");
            let left = all.map(|(accessed, dirty)| (accessed && !asked.accessed, dirty && !asked.dirty));
            assert_eq!(marks(&bench), left, "{mmu:?} {bits:?} {asked:?}");
            let flushed: u64 = flushed(&gather.scope).iter().map(|(_, size)| size / 0x1000).sum();
            assert_eq!(flushed, expected.len() as u64, "{mmu:?} {bits:?} {asked:?}");
        }
    }
}

#[test]
fn the_marks_that_are_asked_for_are_taken() {
    marks_are_taken(X86_64::new(40), GIB, |word, accessed, dirty| {
        word & !(3 << 5) | u64::from(accessed) << 5 | u64::from(dirty) << 6
    });
    marks_are_taken(Odd, 0x10_0000, |word, accessed, dirty| {
        word & !(3 << 30) | u64::from(!accessed) << 30 | u64::from(!dirty) << 31
    });
}

/// Where a mark is not one bit, larger leaves are looked at as what they are.
#[test]
fn marks_of_larger_leaves_where_a_mark_is_several_bits() {
    let mut bench = Bench::new(arm().hardware_dirty());
    let marked = |frame| Leaf { accessed: true, ..leaf(frame) };
    bench.map(GIB, 2 * MIB, marked(0x200), 1);
    bench.map(GIB + 2 * MIB, 2 * MIB, leaf(0x400), 1);
    bench.map(GIB + 4 * MIB, 0x1000, marked(0x700), 0);
    bench.map(GIB + 4 * MIB + 0x2000, 0x1000, leaf(0x702), 0);
    let (mut gather, mut seen) = (Gather::default(), Vec::new());
    let range = bench.range(GIB, 6 * MIB);
    let take = |pages: PageRange, had: Marks| seen.push((pages.start().as_u64(), pages.size(), had));
    bench.tables.take_marks(&bench.memory, range, Marks::BOTH, &mut gather, take).unwrap();
    assert_eq!(seen, [(GIB, 2 * MIB, Marks::ACCESSED), (GIB + 4 * MIB, 0x1000, Marks::ACCESSED)]);
    for (address, frame) in [(0, 0x200), (2 * MIB, 0x400), (4 * MIB, 0x700), (4 * MIB + 0x2000, 0x702)] {
        assert_eq!(bench.leaf(GIB + address), leaf(frame), "{address:#x}");
    }
}

/// Pages side by side are one run whatever their marks are, and it has those of all.
#[test]
fn a_run_has_the_marks_of_all_its_pages() {
    let mut bench = Bench::new(X86_64::new(40));
    for (page, accessed, dirty) in [(0, true, false), (1, false, false), (2, true, true), (3, true, false)] {
        bench.map(GIB + page * 0x1000, 0x1000, Leaf { accessed, dirty, ..leaf(0x100 + page) }, 0);
    }
    for (first, count, accessed, dirty) in
        [(0, 4, true, true), (1, 1, false, false), (0, 2, true, false), (2, 2, true, true)]
    {
        let range = bench.range(GIB + first * 0x1000, count * 0x1000);
        let runs: Vec<_> = bench.tables.runs(&bench.memory, range).collect();
        assert_eq!(runs, [(range, Leaf { accessed, dirty, ..leaf(0x100 + first) })], "{first} + {count}");
    }
}

/// A mark that any member of a group has is the group's, whichever member that is and whatever the others have.
#[test]
fn marks_of_a_group_are_those_of_its_members_together() {
    for (accessed, dirty) in [(vec![3], vec![]), (vec![3], vec![7]), (vec![0, 15], vec![8]), (vec![9], vec![2, 14])] {
        let mut bench = Bench::new(RiscV64::sv39(40).svnapot());
        bench.map(GIB, 0x1_0000, leaf(0x1000), 0);
        let table = bench.table(GIB, 0);
        for (places, bit) in [(&accessed, 6), (&dirty, 7)] {
            for place in places {
                bench.memory.sim.set_physical_word(table, *place, bench.word(table, *place) | 1 << bit);
            }
        }
        let (mut gather, mut seen) = (Gather::default(), Vec::new());
        let range = bench.range(GIB, 0x1_0000);
        let take = |pages: PageRange, had| seen.push((pages, had));
        bench.tables.take_marks(&bench.memory, range, Marks::BOTH, &mut gather, take).unwrap();
        assert_eq!(seen, [(range, Marks { accessed: true, dirty: !dirty.is_empty() })], "{accessed:?} {dirty:?}");
        assert_eq!(flushed(&gather.scope), [(GIB, 0x1_0000)]);
        let left = bench.leaf(GIB);
        assert_eq!((left.accessed, left.dirty), (false, false));
    }
}

/// The memory type of a part of larger leaves, of a part of a group, and of pages that have it already.
#[test]
fn the_memory_type_of_parts() {
    let mut bench = Bench::new(arm());
    bench.map(GIB, 0x1_0000, leaf(0x1000), 0);
    bench.map(GIB + 2 * MIB, 4 * MIB, leaf(0x2000), 1);
    let set = |bench: &mut Bench<AArch64<Granule4K>>, start, size, memory, spare: &mut FrameList| {
        let (range, mut gather) = (bench.range(start, size), Gather::default());
        bench.memory.forgotten.borrow_mut().clear();
        let done = bench.tables.set_memory_type(&bench.memory, range, memory, spare, &mut gather);
        (done, gather.scope)
    };
    // What has the type already is neither taken apart nor written nor flushed.
    for (start, size) in [(GIB, 0x1_0000), (GIB + 0x3000, 0x4000), (GIB + 2 * MIB, 4 * MIB), (GIB + 3 * MIB, 2 * MIB)] {
        let (done, scope) = set(&mut bench, start, size, MemoryType::WriteBack, &mut FrameList::new());
        assert_eq!((done, scope.is_empty()), (Ok(()), true), "{start:#x}");
        assert!(bench.memory.forgotten.borrow().is_empty());
    }
    let (done, scope) = set(&mut bench, GIB + 0x3000, 0x2000, MemoryType::Device, &mut FrameList::new());
    assert_eq!((done, flushed(&scope)), (Ok(()), vec![(GIB, 0x1_0000)]), "all that a CPU may hold as one");
    // From the middle of one leaf to the end of the other.
    let mut spare = bench.spare(1);
    let (start, size) = (GIB + 3 * MIB, 3 * MIB);
    let (done, _) = set(&mut bench, start, size, MemoryType::Device, &mut FrameList::new());
    assert_eq!(done, Err(TableError::NeedsTables(1)));
    let (done, scope) = set(&mut bench, start, size, MemoryType::Device, &mut spare);
    assert_eq!((done, flushed(&scope), spare.len()), (Ok(()), vec![(GIB + 2 * MIB, 4 * MIB)], 0));
    for (address, uncached) in
        [(0, false), (0x3000, true), (0x4000, true), (0x5000, false), (0xf000, false)].into_iter().chain([
            (2 * MIB, false),
            (3 * MIB - 0x1000, false),
            (3 * MIB, true),
            (4 * MIB, true),
            (6 * MIB - 0x1000, true),
        ])
    {
        let leaf = bench.leaf(GIB + address);
        let frame = if address < MIB { 0x1000 + address / 0x1000 } else { 0x2000 + (address - 2 * MIB) / 0x1000 };
        let memory = if uncached { MemoryType::Device } else { MemoryType::WriteBack };
        let physical = bench.page(GIB + address).unwrap().1;
        assert_eq!((leaf.memory, physical / 0x1000), (memory, frame), "{address:#x}");
    }
    assert_eq!(bench.page(GIB + 5 * MIB).unwrap().2, 2 * MIB, "the second was changed whole");
}

/// What tables above forbid stays forbidden when what lies below becomes one leaf, and nothing was written that nobody wrote.
#[test]
fn a_promoted_leaf_allows_and_says_what_was_allowed_and_said() {
    for bits in [DirtyBits::Hints, DirtyBits::Relied] {
        for writable in [false, true] {
            let mut bench = Bench::new(X86_64::new(40));
            bench.tables = bench.tables.with_dirty_bits(bits);
            bench.map(GIB, 2 * MIB, leaf(0x1000), 0);
            bench.map(GIB + 4 * MIB, 2 * MIB, Leaf::new(Frame::new(0x1200)), 0);
            if !writable {
                assert_eq!(bench.write_protect(GIB, 2 * MIB).0, Ok(1));
            }
            let (range, mut gather) = (bench.range(GIB, 6 * MIB), Gather::default());
            assert_eq!(bench.tables.promote(&bench.memory, range, 1, &mut gather), Ok(2));
            let allowed = if writable { WRITE } else { READ };
            assert_eq!(bench.page(GIB + 0x5000), Some((allowed, 0x1005 << 12, 2 * MIB)));
            assert_eq!(bench.page(GIB + 4 * MIB), Some((READ, 0x1200 << 12, 2 * MIB)));
            // A write that nobody could note any more is one where the record is relied on.
            let relied = bits == DirtyBits::Relied;
            assert_eq!(bench.leaf(GIB).dirty, relied, "{bits:?} {writable}");
            assert!(!bench.leaf(GIB + 4 * MIB).dirty);
        }
    }
}

/// Leaves of the root become groups as well.
#[test]
fn groups_in_the_root() {
    let mut bench = Bench::new(AArch64::<Granule4K>::bits_39(Half::Lower, 40));
    bench.tables = bench.tables.with_groups(Groups::Never);
    bench.map(16 * GIB, 16 * GIB, leaf(16 << 18), 2);
    let alone = bench.leaf(16 * GIB);
    bench.tables = bench.tables.with_groups(Groups::WhereAligned);
    let (range, mut gather) = (bench.range(16 * GIB, 16 * GIB), Gather::default());
    assert_eq!(bench.tables.promote(&bench.memory, range, 2, &mut gather), Ok(1));
    assert_eq!(flushed(&gather.scope), [(16 * GIB, 16 * GIB)]);
    let root = bench.tables.root();
    let member = |bench: &Bench<_>, index| bench.word(root, index) >> 52 & 1 != 0;
    assert!((16..32).all(|index| member(&bench, index)));
    assert_eq!(bench.leaf(16 * GIB), alone);
    // Another root gets a group as a group, or, of a part of it, single leaves.
    let whole = [(16, 16), (0, 32), (16, 17)];
    for (first, count) in whole.into_iter().chain([(16, 15), (17, 15), (20, 4)]) {
        let fresh = Bench::<AArch64<Granule4K>>::fresh(&bench.memory);
        // SAFETY: a fresh, zeroed table, used here alone; no CPU loads it.
        let mut other = unsafe { Tables::new(bench.tables.mmu(), fresh, Tag(4)) };
        // It ends somewhere in the last one's pages.
        let range = bench.range(first * GIB + 0x1000, count * GIB - 0x5000);
        other.share_root_slots(&bench.memory, &bench.tables, range).unwrap();
        for index in first..first + count {
            let word = bench.word(fresh, index as usize);
            let there = (16..32).contains(&index);
            assert_eq!(word != 0, there, "{first} + {count}: {index}");
            let grouped = whole.contains(&(first, count));
            assert_eq!(word >> 52 & 1 != 0, there && grouped, "{first} + {count}: {index}");
            assert_eq!(word & !(1 << 52), bench.word(root, index as usize) & !(1 << 52));
        }
    }
}

/// A group is written only where addresses and frames are aligned alike, the range covers it, and nothing is there: of pages and of larger leaves.
#[test]
fn groups_are_where_all_is_aligned() {
    for (level, pages) in [(0, 1), (1, 512)] {
        for (first, count, frame, group) in [
            (0, 16, 0x1000, true),
            (0, 16, 0x1001, false),
            (0, 16, 0x1008, false),
            (1, 16, 0x1001, false),
            (8, 16, 0x1000, false),
            (0, 15, 0x1000, false),
            (1, 15, 0x1001, false),
        ] {
            let mut bench = Bench::new(arm());
            let at = |index: u64| 32 * GIB + index * pages * 0x1000;
            bench.map(at(first), count * pages * 0x1000, leaf(frame * pages), level);
            let table = bench.table(at(0), level);
            let members = (0..32).filter(|index| bench.word(table, *index) >> 52 & 1 != 0).count();
            assert_eq!(members, if group { 16 } else { 0 }, "{first} + {count} to {frame:#x}");
            for index in 0..count {
                assert_eq!(bench.page(at(first + index)).unwrap().1, ((frame + index) * pages) << 12);
            }
        }
    }
}

/// Single leaves that agree become groups where the range covers whole ones, in each table that it touches.
#[test]
fn single_leaves_become_groups() {
    let mut bench = Bench::new(arm());
    bench.tables = bench.tables.with_groups(Groups::Never);
    bench.map(GIB + 0x1_e000, 0x4_3000, leaf(0x101e), 0);
    bench.map(3 * GIB, 0x1_0000, leaf(0x2000), 0);
    bench.tables = bench.tables.with_groups(Groups::WhereAligned);
    let (range, mut gather) = (bench.range(GIB + 0x3_0000, GIB), Gather::default());
    assert_eq!(bench.tables.promote(&bench.memory, range, 0, &mut gather), Ok(3));
    assert_eq!(flushed(&gather.scope), [(GIB + 0x3_0000, 0x3_0000)]);
    let range = bench.range(2 * GIB, 2 * GIB);
    assert_eq!(bench.tables.promote(&bench.memory, range, 0, &mut gather), Ok(1));
}

/// A table that is pinned in the root stays when it is empty, also where tables of leaves stand in the root; and where nothing is taken out nothing is flushed.
#[test]
fn detaching_leaves_pinned_tables_and_flushes_what_it_took() {
    fn detached<M: Mmu>(mmu: M, start: u64) {
        let mut bench = Bench::new(mmu);
        let slot = 1 << mmu.level(mmu.levels() - 1).unwrap().shift;
        let (range, mut spare) = (bench.range(start, slot), bench.spare(2));
        bench.tables.pin_root_slots(&bench.memory, range, &mut spare).unwrap();
        let root = bench.tables.root();
        let bytes = size_of::<M::Word>() as u64;
        let word = |bench: &Bench<M>| bench.word(root, ((start / slot) * bytes / 8) as usize);
        let pinned = word(&bench);
        let mut gather = Gather::default();
        bench.tables.detach(&bench.memory, range, &mut gather).unwrap();
        assert!(gather.scope.is_empty() && gather.tables.is_empty(), "{mmu:?}: nothing was there");
        bench.map(start + 0x3000, 0x2000, leaf(0x100).executable(), 0);
        bench.tables.detach(&bench.memory, range, &mut gather).unwrap();
        assert_eq!(word(&bench), pinned, "{mmu:?}: the table stays");
        assert_eq!(bench.page(start + 0x3000), None);
        assert!(flushed(&gather.scope).iter().any(|(first, size)| (*first..first + size).contains(&(start + 0x3000))));
        // A part in which nothing is mapped, beside one in which something is.
        bench.map(start + 0x3000, 0x1000, leaf(0x100).executable(), 0);
        let mut gather = Gather::default();
        bench.tables.detach(&bench.memory, bench.range(start + 0x8000, 0x8000), &mut gather).unwrap();
        assert!(gather.scope.is_empty() && gather.tables.is_empty(), "{mmu:?}: nothing was there");
    }
    detached(X86::new(32), GIB);
    detached(RiscV32::new(34), GIB);
    detached(X86_64::new(40), 512 * GIB);
    detached(RiscV64::sv39(40), GIB);
}

/// A table in the root is never moved, pinned or not: its leaves go, and what was pinned stays.
#[test]
fn tables_in_the_root_do_not_move() {
    let mut bench = Bench::new(X86_64::new(40));
    let (from, to) = (bench.range(512 * GIB, 512 * GIB), bench.range(1024 * GIB, 512 * GIB));
    let (mut spare, mut gather) = (bench.spare(8), Gather::default());
    bench.tables.pin_root_slots(&bench.memory, from, &mut spare).unwrap();
    bench.map(513 * GIB, 0x3000, leaf(0x100), 0);
    let (pinned, below) = (bench.table(513 * GIB, 2), bench.table(513 * GIB, 1));
    assert_eq!(bench.tables.tables_to_move(&bench.memory, from, to), 1);
    bench.tables.move_range(&bench.memory, from, to, &mut spare, &mut gather).unwrap();
    assert_eq!(bench.table(513 * GIB, 2), pinned);
    assert_eq!(bench.page(513 * GIB), None);
    assert_eq!(
        (bench.table(1025 * GIB, 1), bench.page(1025 * GIB + 0x2000)),
        (below, Some((WRITE, 0x102 << 12, 0x1000)))
    );
}

/// Pieces of a leaf that moves off its alignment are as large as both places allow, the last one too.
#[test]
fn the_pieces_of_a_leaf_that_moves_are_as_large_as_can_be() {
    let mut bench = Bench::new(X86_64::new(40));
    bench.map(GIB, GIB, leaf(1 << 18), 2);
    let (from, to) = (bench.range(GIB, GIB), bench.range(4 * GIB + 2 * MIB, GIB));
    let needed = bench.tables.tables_to_move(&bench.memory, from, to);
    let (mut spare, mut gather) = (bench.spare(needed), Gather::default());
    bench.tables.move_range(&bench.memory, from, to, &mut spare, &mut gather).unwrap();
    for index in 0..512 {
        let (address, physical) = (4 * GIB + 2 * MIB + index * 2 * MIB, GIB + index * 2 * MIB);
        assert_eq!(bench.page(address), Some((WRITE, physical, 2 * MIB)), "{index}");
    }
    // One in the root's slot, and tables below that slot for two times 1 GiB.
    assert_eq!(spare.len(), 0);
}

/// Leaves of both sizes in several tables, one after the other, are each where they were, and exactly as many tables as were asked for are used.
#[test]
fn a_duplicate_has_large_and_small_leaves_where_they_were() {
    let mut bench = Bench::new(X86_64::new(40));
    let parts = [
        (GIB, 0x2000),
        (GIB + 2 * MIB, 2 * MIB),
        (GIB + 4 * MIB, 0x1000),
        (2 * GIB, 2 * MIB),
        (2 * GIB + 2 * MIB, 0x1000),
    ]
    .into_iter()
    .chain([(3 * GIB, GIB), (5 * GIB + 6 * MIB, 2 * MIB), (513 * GIB, 4 * MIB), (514 * GIB, GIB)]);
    for (start, size) in parts.clone() {
        bench.map(start, size, leaf(start >> 12), 2);
    }
    let fresh = Bench::<X86_64>::fresh(&bench.memory);
    // SAFETY: a fresh, zeroed table, used here alone; no CPU loads it.
    let mut other = unsafe { Tables::new(bench.tables.mmu(), fresh, Tag(4)) };
    let range = bench.range(0, 1024 * GIB);
    let needed = bench.tables.tables_to_duplicate(&bench.memory, range, WRITE, &other);
    let mut spare = bench.spare(needed);
    let mut copied = BTreeSet::new();
    bench
        .tables
        .duplicate(&bench.memory, range, WRITE, &mut other, &mut spare, |pages, leaf| {
            copied.insert((pages.start().as_u64(), pages.size(), leaf.frame.number()));
        })
        .unwrap();
    assert_eq!(spare.len(), 0);
    let of = |tables: &Tables<X86_64>| {
        tables
            .runs(&bench.memory, range)
            .map(|(pages, leaf)| (pages.start().as_u64(), pages.size(), leaf.frame.number()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&other), of(&bench.tables));
    for (start, size) in parts {
        let (pages, leaf) = other.translate(&bench.memory, VirtAddr::new(start)).unwrap();
        assert_eq!(
            (leaf.frame.number(), pages.size()),
            (start >> 12, bench.page(start).unwrap().2),
            "{start:#x} {size:#x}"
        );
        assert!(copied.contains(&(start, pages.size(), start >> 12)));
    }
}

/// Larger leaves of two levels follow each other in regions that have the same number, each of its level.
#[test]
fn a_duplicate_has_leaves_of_two_levels_where_they_were() {
    let mut bench = Bench::new(X86_64::new(40));
    bench.map(GIB, 2 * MIB, leaf(0x200), 1);
    bench.map(513 * GIB, GIB, leaf(1 << 18), 2);
    let fresh = Bench::<X86_64>::fresh(&bench.memory);
    // SAFETY: a fresh, zeroed table, used here alone; no CPU loads it.
    let mut other = unsafe { Tables::new(bench.tables.mmu(), fresh, Tag(4)) };
    let (range, mut spare) = (bench.range(0, 1024 * GIB), bench.spare(3));
    bench.tables.duplicate(&bench.memory, range, WRITE, &mut other, &mut spare, |_, _| ()).unwrap();
    for (start, size, frame) in [(GIB, 2 * MIB, 0x200), (513 * GIB, GIB, 1 << 18)] {
        let found = other.translate(&bench.memory, VirtAddr::new(start)).unwrap();
        assert_eq!(found, (bench.range(start, size), leaf(frame)));
    }
}

/// What is read through the tables' own map of themselves needs the tables down to it, as many as are missing.
#[test]
fn tables_that_are_seen_are_made() {
    let mut bench = Bench::new(X86_64::new(40));
    let recursive = bench.tables.map_self(&bench.memory, 256).unwrap();
    // The entries of the page at 1 GiB: of the leaf, of the table of leaves, of the one above.
    for (level, missing) in [(0, 3), (1, 2), (2, 1)] {
        let address = VirtAddr::new((level + 1) * 512 * GIB + GIB);
        let seen = recursive.entry_address(level as usize, address).unwrap();
        for count in 0..missing {
            let mut spare = bench.spare(count);
            let refused = bench.tables.make_seen(&bench.memory, &recursive, seen, &mut spare);
            assert_eq!((refused, spare.len()), (Err(TableError::NeedsTables(missing)), count), "level {level}");
        }
        let mut spare = bench.spare(missing + 1);
        assert_eq!(bench.tables.make_seen(&bench.memory, &recursive, seen, &mut spare), Ok(()));
        assert_eq!((spare.len(), bench.tables.walk(&bench.memory, address).steps().count()), (1, missing as usize + 1));
        assert_eq!(bench.tables.make_seen(&bench.memory, &recursive, seen, &mut FrameList::new()), Ok(()));
    }
}

/// The root slot of a table that is no table's frame is somebody else's.
#[test]
fn slots_of_foreign_tables_are_not_pinned() {
    let mut bench = Bench::new(X86_64::new(40));
    let page = bench.memory.sim.new_page();
    let root = bench.tables.root();
    bench.memory.sim.set_physical_word(root, 1, page.number() << 12 | 3);
    let (range, mut spare) = (bench.range(0, 1024 * GIB), bench.spare(2));
    let refused = bench.tables.pin_root_slots(&bench.memory, range, &mut spare);
    assert_eq!(refused, Err(TableError::Foreign(VirtAddr::new(512 * GIB))));
    assert_eq!((spare.len(), bench.word(root, 0)), (2, 0), "nothing was changed");
}

/// A table beyond memory, by itself and behind another one: the walk says which it is.
#[test]
fn a_walk_ends_where_a_table_cannot_be_reached() {
    let mut bench = Bench::new(X86_64::new(40));
    bench.map(GIB, 0x1000, leaf(0x100), 0);
    let beyond = Frame::new(0x80_0000);
    let table = bench.table(GIB, 1);
    bench.memory.sim.set_physical_word(table, 1, beyond.number() << 12 | 3);
    let walk = bench.tables.walk(&bench.memory, VirtAddr::new(GIB + 2 * MIB));
    assert_eq!((walk.end(), walk.steps().count()), (WalkEnd::Unreachable(beyond), 3));
    assert_eq!((walk.physical(), walk.access()), (None, Access::empty()));
}

/// A 4 MiB leaf reaches memory that a page cannot: it is not taken apart, and nothing was changed or taken.
#[test]
fn a_leaf_whose_parts_cannot_be_said_is_not_split() {
    let mut bench = Bench::new(X86::new(40));
    let (whole, part, mut spare) = (bench.range(GIB, 4 * MIB), bench.range(GIB + MIB, MIB), bench.spare(2));
    let (data, mut gather) = (leaf(0x40_0000).executable(), Gather::default());
    let mut writer = bench.tables.writer(&bench.memory, whole, &mut gather).unwrap();
    assert_eq!(writer.set(data), Ok(None));
    drop(writer);
    let refused = [
        bench.tables.protect(&bench.memory, part, READ | Access::EXECUTE, &mut spare, &mut gather),
        bench.tables.unmap(&bench.memory, part, &mut spare, &mut gather, |_, _| panic!("it stays")),
        bench.tables.write_protect(&bench.memory, part, &mut spare, &mut gather).map(drop),
    ];
    assert!(refused.iter().all(|refused| matches!(refused, Err(TableError::Encode(_)))), "{refused:?}");
    assert_eq!((spare.len(), gather.scope.is_empty()), (2, true));
    assert_eq!(bench.page(GIB + MIB), Some((data.access, (0x40_0000 << 12) + MIB, 4 * MIB)));
    // All of it can be changed.
    assert_eq!(bench.write_protect(GIB, 4 * MIB).0, Ok(1));
    assert_eq!(bench.access(GIB), READ | Access::EXECUTE);
}

/// The writing cursor says what was global, and makes CPUs forget at once only what it made absent itself.
#[test]
fn a_writer_forgets_what_it_made_absent() {
    let mut bench = Bench::new(X86_64::new(40));
    bench.map(GIB, 0x1000, leaf(0x100), 0);
    let (range, mut gather) = (bench.range(GIB, 0x1000), Gather::default());
    let mut writer = bench.tables.writer(&bench.memory, range, &mut gather).unwrap();
    while writer.level() > 0 {
        writer.enter(&mut FrameList::new()).unwrap();
    }
    assert!(writer.clear().unwrap().is_some());
    drop(writer);
    assert!(gather.scope.shared_tables() && gather.scope.globals(), "every space may have come that way");
    assert_eq!(gather.tables.len(), 3);

    // Entries 2 and 5 become absent; what is written at other places has been absent all the time.
    let mut bench = Bench::new(arm());
    bench.map(GIB, 0x3000, leaf(0x101), 0);
    bench.map(GIB + 0x5000, 0x2000, leaf(0x109), 0);
    let (range, mut gather) = (bench.range(GIB, 0x20_0000), Gather::default());
    let mut writer = bench.tables.writer(&bench.memory, range, &mut gather).unwrap();
    while writer.level() > 0 {
        writer.enter(&mut FrameList::new()).unwrap();
    }
    for _ in 0..2 {
        assert!(writer.next());
    }
    assert_eq!(writer.clear().unwrap().unwrap().frame, Frame::new(0x103));
    assert!(writer.next());
    assert_eq!(writer.set(leaf(0x301)), Ok(None));
    assert!(bench.memory.forgotten.borrow().is_empty(), "nothing was there");
    while writer.address().as_u64() < GIB + 0x5000 {
        assert!(writer.next());
    }
    assert!(writer.clear().unwrap().is_some());
    assert_eq!(writer.set(leaf(0x302)), Ok(None));
    let forgotten: Vec<_> =
        bench.memory.forgotten.borrow().iter().map(|range| (range.start().as_u64(), range.size())).collect();
    assert_eq!(forgotten, [(GIB + 0x5000, 0x1000)]);
    while writer.address().as_u64() < GIB + 0x8000 {
        assert!(writer.next());
    }
    assert_eq!(writer.set(leaf(0x303)), Ok(None));
    assert_eq!(bench.memory.forgotten.borrow().len(), 1, "behind all that was made absent");
}

/// Which words are entries at all, and of which kind, in formats where any of several bits makes one.
#[test]
fn words_that_are_entries_by_any_of_several_bits() {
    let (ept, riscv) = (Ept::new(40), RiscV64::sv39(40));
    // EPT: readable, writable or executable, or nothing at all; 0x30 is a memory type.
    for word in [0x30, 0x1000 | 0x30, 1 << 52 | 0x80] {
        assert_eq!((ept.decode_leaf(0, word), ept.decode_table(1, word)), (None, None), "{word:#x}");
    }
    assert_eq!((ept.decode_table(1, 0x5000), ept.decode(1, 0x5000)), (None, Entry::Absent(10)));
    assert_eq!(ept.decode_table(1, 0x5007), Some(Frame::new(5)));
    assert_eq!(ept.decode_leaf(1, 0x5007), None);
    assert!(ept.decode_leaf(1, 0x20_00b7).is_some() && ept.decode_table(1, 0x20_00b7).is_none());
    // RISC-V: a table has none of R, W and X, a leaf any.
    assert_eq!((riscv.decode_table(1, 5 << 10 | 1), riscv.decode_leaf(1, 5 << 10 | 1)), (Some(Frame::new(5)), None));
    assert_eq!(riscv.decode_leaf(0, 5 << 10 | 1), None);
    assert_eq!(riscv.decode_leaf(0, 5 << 10 | 0xc3).map(|leaf| leaf.frame), Some(Frame::new(5)));
    assert_eq!(riscv.decode_table(1, 512 << 10 | 0xc3), None);
}

#[test]
fn frames_fit_the_physical_width() {
    let mmu = X86_64::new(40);
    assert!(mmu.frame_fits(Frame::new(0)) && mmu.frame_fits(Frame::new((1 << 28) - 1)));
    assert!(!mmu.frame_fits(Frame::new(1 << 28)) && !mmu.frame_fits(Frame::new(u64::MAX)));
}
