//! What a loader mapped is what the space shows: every page is compared through a CPU of the simulated machine, before and after.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::{Frame, PhysAddr};
use crate::frame::{FrameList, FrameUse, free_one};
use crate::inspect::SpaceMap;
use crate::paging::{AArch64, EncodeError, Gather, Granule16K, Half, MemoryType, PatLayout, Tag, X86_64, X86Pae};
use crate::sim::{FrameCounts, Hardware, Sim, SimBuilder};
use crate::vm_area::AreaKind;
use crate::vm_space::MapRequest;
use crate::{RegistryError, paging};

const PAGE: u64 = 0x1000;
/// The sixth GiB of the kernel's half.
const AFAR: u64 = KERNEL + (6 << 30);
const HUGE: u64 = 0x20_0000;
const KERNEL: u64 = 0xffff_ff80_0000_0000;
/// Memory that is not RAM: no frame of it can be taken for one that is free.
const DEVICE: u64 = 0x20_0000;

fn device() -> FrameRange {
    FrameRange::new(Frame::new(DEVICE), 8192).unwrap()
}

/// A machine with the kernel's space, and a loader's tables.
struct World<M: crate::sim::SimFormat = X86_64, L: Mmu = X86_64> {
    sim: Sim<M>,
    /// Before the loader made its tables.
    start: FrameCounts,
    loader: Tables<L>,
    kernel: Space<Sim<M>>,
}

/// What a CPU finds at an address.
type Seen = BTreeMap<u64, (PhysAddr, Access, MemoryType)>;

impl World {
    fn new() -> Self {
        Self::of(Sim::builder().frames(1024), X86_64::new(40))
    }

    fn of(builder: SimBuilder, mmu: X86_64) -> Self {
        let sim = builder.device(device()).build();
        let start = sim.frame_counts();
        // SAFETY: the frame is zeroed, recorded as a table, and nobody else's.
        let loader = unsafe { Tables::new(mmu, sim.new_table(), Tag::default()) };
        let kernel = Space::kernel(&sim, sim.machine().mmu().range(KERNEL, 1 << 39).unwrap(), None, ()).unwrap();
        Self { sim, start, loader, kernel }
    }

    /// The loader maps so many pages, with leaves of at most this level. False if some are mapped already.
    fn load(&mut self, start: u64, pages: u64, leaf: Leaf, level: usize) -> bool {
        let range = self.loader.mmu().range(start, pages * PAGE).unwrap();
        let mut spare = FrameList::new();
        spare.fill_with_tables(&self.sim, self.loader.tables_to_map_at_most(range)).unwrap();
        let mapped = self.loader.map(&self.sim, range, leaf, level, &mut spare);
        crate::frame::free_list(&self.sim, &mut spare, FrameUse::Table);
        mapped.is_ok()
    }

    fn range(&self, start: u64, pages: u64) -> PageRange {
        self.sim.machine().mmu().range(start, pages * PAGE).unwrap()
    }

    fn adopt(&self, range: PageRange, decide: impl FnMut(PageRange, Leaf) -> Adoption<u64>) -> Result<u64, AdoptError> {
        // SAFETY: nothing but this test uses device memory.
        unsafe { self.kernel.adopt_runs(&self.loader, range, decide) }
    }

    fn adopt_all(&self) -> Result<u64, AdoptError> {
        self.adopt(self.kernel.bounds(), |_, _| Adoption::Window(0))
    }

    /// Everything that can be observed.
    fn dump(&self) -> String {
        // A block of an index that has grown stays.
        let (counts, objects) = (self.sim.frame_counts(), self.sim.machine().counters().pool_objects);
        let [tables, pools, pages] = [FrameUse::Table, FrameUse::Pool, FrameUse::Page].map(|each| counts.of(each));
        format!("{}\n{tables} tables, {pages} pages, {objects} objects in {pools}", SpaceMap(&self.kernel))
    }

    /// The adoption is refused, and everything is as before.
    #[track_caller]
    fn refuses(&self, range: PageRange, decide: impl FnMut(PageRange, Leaf) -> Adoption<u64>) -> AdoptError {
        let before = (self.dump(), seen(&self.sim, self.kernel.root(), range, Access::READ));
        let error = self.adopt(range, decide).unwrap_err();
        assert_eq!((self.dump(), seen(&self.sim, self.kernel.root(), range, Access::READ)), before);
        error
    }

    /// The loader's memory is free again.
    fn free_loader(&mut self) {
        let mut gather = Gather::default();
        let mmu = self.loader.mmu();
        for start in [PAGE, KERNEL] {
            self.loader.detach(&self.sim, mmu.range(start, 64 << 30).unwrap(), &mut gather).unwrap();
        }
        crate::frame::free_list(&self.sim, &mut gather.tables, FrameUse::Table);
        // SAFETY: nobody uses the root any more.
        unsafe { free_one(&self.sim, self.loader.root(), FrameUse::Table) }.unwrap();
    }

    fn finish(self) {
        self.kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
        self.sim.assert_no_violation();
        assert_eq!(self.sim.frame_counts(), self.start);
        assert_eq!(self.sim.machine().counters().refused_frees, 0);
    }
}

/// What a CPU finds at each page of the range, with this root.
fn seen(sim: &Sim, root: Frame, range: PageRange, access: Access) -> Seen {
    let mut seen = Seen::new();
    sim.load(0, root, Tag(0));
    for page in 0..range.pages(12).min(4096) {
        let address = VirtAddr::new(range.start().as_u64() + page * PAGE);
        if let Ok(found) = sim.access(0, address, access) {
            seen.insert(address.as_u64(), (found.physical, found.access, found.memory));
        }
    }
    sim.unload(0);
    seen
}

fn leaf(frame: u64) -> Leaf {
    Leaf::new(Frame::new(DEVICE + frame)).access(Access::KERNEL_DATA)
}

/// As a loader leaves the tables of a kernel: a large leaf and pages beside it, a framebuffer, a hole in each.
fn with_image() -> World {
    image_in(World::new())
}

fn image_in(mut world: World) -> World {
    let text = leaf(0).access(Access::READ | Access::EXECUTE);
    assert!(world.load(KERNEL, 520, text, 1));
    assert!(world.load(KERNEL + HUGE + 16 * PAGE, 5, leaf(600), 0));
    assert!(world.load(KERNEL + 3 * HUGE, 1024, leaf(1024).memory(MemoryType::WriteCombining).global(), 1));
    world
}

#[test]
fn runs_become_windows() {
    let mut world = with_image();
    let all = world.range(KERNEL, 5 * 512);
    let before = seen(&world.sim, world.loader.root(), all, Access::READ);
    assert_eq!(before.len(), 520 + 5 + 1024);
    assert_eq!(world.adopt_all(), Ok(3));
    // The loader's tables are needed no more.
    world.free_loader();
    assert_eq!(seen(&world.sim, world.kernel.root(), all, Access::READ), before);
    let map = SpaceMap(&world.kernel).to_string();
    let expected = "\
0xffffff8000000000-0xffffff8000207fff r-x- fixed      2080 KiB  WB from frame 0x200000
0xffffff8000210000-0xffffff8000214fff rw-- fixed        20 KiB  WB from frame 0x200258
0xffffff8000600000-0xffffff80009fffff rw-- fixed         4 MiB  WC from frame 0x200400
3 windows, 6196 KiB shown, 1549 pages resident";
    assert_eq!(map, expected);
    // Windows like all others: a part is unmapped out of a large leaf, and what was there can be mapped anew.
    world.kernel.unmap(world.range(KERNEL + 7 * PAGE, 2)).unwrap().complete();
    let after = seen(&world.sim, world.kernel.root(), all, Access::READ);
    assert_eq!(after.len(), before.len() - 2);
    assert!(after.iter().all(|(address, found)| before[address] == *found));
    let area = Area::new(&world.sim, AreaKind::Open { size: 2 * PAGE }, 0).unwrap();
    world.kernel.map(&MapRequest::new(&area).at(KERNEL + 7 * PAGE)).unwrap();
    drop(area);
    world.finish();
}

#[test]
fn what_is_left_out_is_not_there_and_what_is_named_counts() {
    let mut world = with_image();
    let all = world.range(KERNEL, 5 * 512);
    let before = seen(&world.sim, world.loader.root(), all, Access::READ);
    let decide = |pages: PageRange, leaf: Leaf| match leaf.memory {
        MemoryType::WriteCombining => Adoption::LeaveOut,
        _ if leaf.access.contains(Access::EXECUTE) => Adoption::WindowFor(Access::READ | Access::USER, 7),
        _ => Adoption::Window(pages.start().as_u64()),
    };
    assert_eq!(world.adopt(all, decide), Ok(2));
    let after = seen(&world.sim, world.kernel.root(), all, Access::READ);
    assert_eq!(after.len(), 525);
    for (address, (physical, access, memory)) in after {
        let was = before[&address];
        let expected = if was.1.contains(Access::EXECUTE) { Access::READ } else { was.1 };
        assert_eq!((physical, access, memory), (was.0, expected, was.2), "{address:#x}");
    }
    // What was left out is free.
    let frames = FrameRange::new(Frame::new(DEVICE + 1024), 1024).unwrap();
    world.sim.machine().register(&world.sim, frames, MemoryType::Uncached).unwrap();
    assert!(world.sim.machine().unregister(&world.sim, frames, MemoryType::Uncached));
    world.free_loader();
    world.finish();
}

#[test]
fn a_space_of_programs_gets_what_programs_may_use() {
    let mut world = World::new();
    let code = leaf(0).access(Access::USER_CODE);
    assert!(world.load(HUGE, 3, code, 0));
    assert!(world.load(2 * HUGE, 512, leaf(512), 1));
    let user = Space::user(&world.kernel, ()).unwrap();
    let low = world.range(PAGE, 2047);
    // SAFETY: nothing but this test uses device memory.
    let adopt =
        |decide: &dyn Fn(Leaf) -> Adoption<u64>| unsafe { user.adopt_runs(&world.loader, low, |_, leaf| decide(leaf)) };
    let pages = world.range(2 * HUGE, 512);
    let error = AdoptError::Programs { pages, access: Access::KERNEL_DATA };
    assert_eq!(adopt(&|_| Adoption::Window(0)), Err(error));
    assert_eq!(SpaceMap(&user).to_string().lines().count(), 1);
    let only_programs = |leaf: Leaf| match leaf.access.contains(Access::USER) {
        true => Adoption::Window(0),
        false => Adoption::LeaveOut,
    };
    let before = seen(&world.sim, world.loader.root(), low, Access::READ | Access::USER);
    assert_eq!(before.len(), 3);
    assert_eq!(adopt(&only_programs), Ok(1));
    assert_eq!(seen(&world.sim, user.root(), low, Access::READ | Access::USER), before);
    user.destroy().map_err(|(_, error)| error).unwrap().complete();
    // And a run for programs is none for the kernel, unless the access is named.
    assert!(world.load(KERNEL, 1, code, 0));
    let range = world.range(KERNEL, 8);
    let error = AdoptError::Programs { pages: world.range(KERNEL, 1), access: Access::USER_CODE };
    assert_eq!(world.refuses(range, |_, _| Adoption::Window(0)), error);
    assert_eq!(world.adopt(range, |_, _| Adoption::WindowFor(Access::READ, 0)), Ok(1));
    assert_eq!(seen(&world.sim, world.kernel.root(), range, Access::READ)[&KERNEL].1, Access::READ);
    world.free_loader();
    world.finish();
}

#[test]
fn what_a_window_cannot_be_is_said() {
    let mut world = with_image();
    let all = world.kernel.bounds();
    let (text, data, screen) =
        (world.range(KERNEL, 520), world.range(KERNEL + HUGE + 16 * PAGE, 5), world.range(KERNEL + 3 * HUGE, 1024));
    // The last one is refused, after two were prepared.
    let frames = FrameRange::new(Frame::new(DEVICE + 1200), 8).unwrap();
    world.sim.machine().register(&world.sim, frames, MemoryType::WriteBack).unwrap();
    let conflict = RegistryError::Conflict {
        registered: frames,
        memory: MemoryType::WriteBack,
        wanted: MemoryType::WriteCombining,
    };
    let error = SpaceError::Area(AreaError::Registry(conflict));
    assert_eq!(world.refuses(all, |_, _| Adoption::Window(0)), AdoptError::Run { pages: screen, error });
    assert!(world.sim.machine().unregister(&world.sim, frames, MemoryType::WriteBack));

    // Occupied, and occupied still.
    let area = Area::new(&world.sim, AreaKind::Open { size: PAGE }, 0).unwrap();
    let at = KERNEL + HUGE + 18 * PAGE;
    let taken = world.kernel.map(&MapRequest::new(&area).at(at).populated()).unwrap();
    let error = SpaceError::Conflict(taken);
    assert_eq!(world.refuses(all, |_, _| Adoption::Window(0)), AdoptError::Run { pages: data, error });
    let flush = world.kernel.unmap(taken).unwrap();
    let error = SpaceError::Retry(taken.start());
    assert_eq!(world.refuses(all, |_, _| Adoption::Window(0)), AdoptError::Run { pages: data, error });
    flush.complete();
    drop(area);

    let access = Access::EXECUTE;
    let error = SpaceError::Encode(EncodeError::Access(access));
    let answer = world.refuses(all, |_, _| Adoption::WindowFor(access, 0));
    assert_eq!(answer, AdoptError::Run { pages: text, error });
    assert!(answer.to_string().starts_with("the run at 0xffffff8000000000+0x208000 cannot be a window: "), "{answer}");

    // Ranges that are none.
    let narrow = world.range(0, 8);
    assert!(matches!(world.refuses(narrow, |_, _| Adoption::Window(0)), AdoptError::Space(SpaceError::Range(_))));
    let odd = PageRange::from_checked(VirtAddr::new(KERNEL + 1), PAGE);
    let answer = world.adopt(odd, |_, _| Adoption::Window(0));
    assert!(matches!(answer, Err(AdoptError::Space(SpaceError::Range(_)))), "{answer:?}");

    // All of it can be, after all that. Once.
    assert_eq!(world.adopt_all(), Ok(3));
    let error = SpaceError::Conflict(text);
    assert_eq!(world.refuses(all, |_, _| Adoption::Window(0)), AdoptError::Run { pages: text, error });
    assert_eq!(world.adopt(all, |_, _| Adoption::LeaveOut), Ok(0));
    world.free_loader();
    world.finish();
}

#[test]
fn one_frame_with_two_memory_types_is_refused() {
    let mut world = World::new();
    assert!(world.load(KERNEL, 4, leaf(0), 0));
    assert!(world.load(KERNEL + HUGE, 4, leaf(3).memory(MemoryType::Uncached), 0));
    let error = world.refuses(world.kernel.bounds(), |_, _| Adoption::Window(0));
    assert!(
        matches!(error, AdoptError::Run { pages, error: SpaceError::Area(AreaError::Registry(_)) } if pages.start().as_u64() == KERNEL + HUGE),
        "{error}"
    );
    world.free_loader();
    world.finish();
}

#[test]
fn keys_are_refused_and_software_bits_are_not_taken_over() {
    let mut world = World::new();
    assert!(world.load(KERNEL, 2, leaf(0).software(5), 0));
    assert!(world.load(KERNEL + HUGE, 2, leaf(8).key(3), 0));
    let (all, keyed) = (world.kernel.bounds(), world.range(KERNEL + HUGE, 2));
    assert_eq!(world.refuses(all, |_, _| Adoption::Window(0)), AdoptError::Key { pages: keyed, key: 3 });
    let named = |_, leaf: Leaf| if leaf.key == 0 { Adoption::Window(0) } else { Adoption::WindowFor(leaf.access, 0) };
    assert_eq!(world.adopt(all, named), Ok(2));
    for page in [KERNEL, KERNEL + PAGE, KERNEL + HUGE, KERNEL + HUGE + PAGE] {
        let paging::WalkEnd::Mapped { leaf, .. } = world.kernel.walk(VirtAddr::new(page)).end() else { panic!() };
        assert_eq!((leaf.software, leaf.key, leaf.global), (0, 0, true));
    }
    world.free_loader();
    world.finish();
}

#[test]
fn tables_that_cannot_be_read_are_named() {
    // A bit beyond the physical width, beside what leads to a page far off.
    for level in 0..3_usize {
        let mut world = with_image();
        assert!(world.load(AFAR, 1, leaf(4000), 0));
        let address = AFAR + (7 << (12 + 9 * level as u64));
        let walk = world.loader.walk(&world.sim, VirtAddr::new(AFAR));
        let step = walk.steps().find(|step| step.level == level).unwrap();
        world.sim.set_physical_word(step.table, step.index + 7, 1 << 51 | 3);
        let all = world.kernel.bounds();
        let error = world.refuses(all, |_, _| Adoption::Window(0));
        assert_eq!(error, AdoptError::Unreadable(VirtAddr::new(address)), "level {level}");
        // What lies before it can be adopted.
        assert_eq!(world.adopt(world.range(KERNEL, 5 * 512), |_, _| Adoption::Window(0)), Ok(3));
        world.sim.set_physical_word(step.table, step.index + 7, 0);
        assert_eq!(world.adopt(world.range(AFAR, 512), |_, _| Adoption::Window(0)), Ok(1));
        world.free_loader();
        world.finish();
    }
}

#[test]
fn a_loader_with_another_layout_of_memory_types() {
    // Write-combining where the space's layout has write-through, as some kernels lay it out.
    let types = [
        MemoryType::WriteBack,
        MemoryType::WriteCombining,
        MemoryType::UncachedMinus,
        MemoryType::Uncached,
        MemoryType::WriteBack,
        MemoryType::WriteProtected,
        MemoryType::UncachedMinus,
        MemoryType::WriteThrough,
    ];
    let layout = PatLayout::new(types).unwrap();
    let mut world = World::of(Sim::builder().frames(1024), X86_64::with_pat(40, layout));
    let space_hardware = world.sim.hardware(0);
    let Hardware::X86_64(mut registers) = space_hardware else { panic!("{space_hardware:?}") };
    registers.pat = layout.to_msr();
    let types = [MemoryType::WriteBack, MemoryType::WriteCombining, MemoryType::WriteThrough, MemoryType::Uncached];
    for (nth, memory) in (0_u64..).zip(types) {
        assert!(world.load(KERNEL + nth * HUGE, 512, leaf(nth * 512).memory(memory), (nth % 2) as usize));
    }
    let all = world.range(KERNEL, 2048);
    world.sim.set_hardware(0, Hardware::X86_64(registers));
    let before = seen(&world.sim, world.loader.root(), all, Access::READ);
    assert_eq!(world.adopt_all(), Ok(4));
    world.sim.set_hardware(0, space_hardware);
    let after = seen(&world.sim, world.kernel.root(), all, Access::READ);
    assert_eq!(before.len(), 2048);
    assert_eq!(after, before);
    world.free_loader();
    world.finish();
}

#[test]
fn a_loader_with_fewer_levels_or_other_pages() {
    let start = Sim::of(X86_64::new(40).five_levels()).frames(512).device(device()).build();
    let (sim, mmu) = (start.clone(), start.machine().mmu());
    // SAFETY: the frame is zeroed, recorded as a table, and nobody else's.
    let mut loader = unsafe { Tables::new(X86_64::new(40), sim.new_table(), Tag::default()) };
    let pages = mmu.range(KERNEL, 8 * PAGE).unwrap();
    let mut spare = FrameList::new();
    spare.fill_with_tables(&sim, 3).unwrap();
    loader.map(&sim, pages, leaf(0), 0, &mut spare).unwrap();
    let kernel = Space::kernel(&sim, mmu.range(KERNEL - (1 << 48), 2 << 48).unwrap_or(pages), None, ());
    let kernel = kernel.or_else(|_| Space::kernel(&sim, mmu.range(KERNEL, 1 << 39).unwrap(), None, ())).unwrap();
    // SAFETY: nothing but this test uses device memory.
    let adopted = unsafe { kernel.adopt_runs(&loader, pages, |_, _| Adoption::Window(0)) };
    assert_eq!(adopted, Ok(1));
    for page in 0..8 {
        let address = VirtAddr::new(KERNEL + page * PAGE);
        let walk = loader.walk(&sim, address);
        assert_eq!(kernel.walk(address).physical(), walk.physical());
        assert_eq!((kernel.walk(address).steps().count(), walk.steps().count()), (5, 4));
    }
    // SAFETY: only read, and refused before that.
    let other =
        unsafe { Tables::new(AArch64::<Granule16K>::new(Half::Upper, 36, 40), sim.new_table(), Tag::default()) };
    // SAFETY: as above.
    let answer = unsafe { kernel.adopt_runs(&other, pages, |_, _| Adoption::Window(0)) };
    assert_eq!(answer, Err(AdoptError::Space(SpaceError::PageSize { platform: 12, format: 14 })));
    // SAFETY: as above.
    let other = unsafe { Tables::new(X86Pae::new(36), sim.new_table(), Tag::default()) };
    // SAFETY: as above.
    let answer = unsafe { kernel.adopt_runs(&other, pages, |_, _| Adoption::Window(0)) };
    assert!(matches!(answer, Err(AdoptError::Space(SpaceError::Range(_)))), "{answer:?}");
}

/// Many small runs: pages alternate in what may be done with them, in two places far from each other.
fn with_many_runs() -> World {
    let mut world = World::of(Sim::builder().frames(2048), X86_64::new(40));
    for page in 0..120 {
        let access = if page % 2 == 0 { Access::KERNEL_DATA } else { Access::READ };
        for start in [KERNEL, KERNEL + (1 << 30) - 40 * PAGE] {
            assert!(world.load(start + page * PAGE, 1, leaf(page).access(access), 0));
        }
    }
    assert!(world.load(KERNEL + (1 << 30) + HUGE, 512, leaf(1024), 1));
    world
}

#[test]
fn whenever_frames_run_out_nothing_has_changed() {
    let mut refused = 0;
    for all_later in [false, true] {
        for k in 0.. {
            let mut world = with_many_runs();
            let before = world.dump();
            let requests = world.sim.allocation_requests();
            if all_later {
                world.sim.fail_allocation_after(k)
            } else {
                world.sim.fail_kth(k)
            };
            let result = world.adopt_all();
            let reached = world.sim.allocation_requests() - requests > k;
            world.sim.fail_never();
            match result {
                Err(AdoptError::Space(SpaceError::OutOfFrames(lacking))) => {
                    assert!(lacking.wanted > 0);
                    assert_eq!(world.dump(), before, "request {k}");
                    // Nothing is registered either.
                    let memory = MemoryType::Uncached;
                    world.sim.machine().register(&world.sim, device(), memory).unwrap();
                    assert!(world.sim.machine().unregister(&world.sim, device(), memory));
                    refused += 1;
                    assert_eq!(world.adopt_all(), Ok(241));
                }
                result => assert_eq!(result, Ok(241), "request {k}"),
            }
            world.free_loader();
            world.finish();
            if !reached {
                break;
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn tables_are_counted_once_for_all_runs() {
    let mut world = with_many_runs();
    let tables = world.sim.frame_counts().of(FrameUse::Table);
    // Two more leaf tables, one more for the second GiB; the first is cut by its end; the large leaf takes none.
    assert_eq!(world.sim.frame_counts().given_out(), world.start.given_out() + tables + 1);
    world.sim.fail_never();
    let requests = world.sim.allocation_requests();
    assert_eq!(world.adopt_all(), Ok(241));
    let made = world.sim.frame_counts().of(FrameUse::Table) - tables;
    let pools = world.sim.frame_counts().of(FrameUse::Pool) - 1;
    let vectors = world.sim.allocation_requests() - requests - made - pools;
    // The blocks of the index, and of the list of what is prepared, grow by doubling.
    assert!(vectors < 10, "{vectors} requests beside {made} tables and {pools} pages of pools");
    world.free_loader();
    world.finish();
}

/// What a loader maps: where, how many pages, to which frame, how, and what becomes of it.
type Mapping = (u64, u64, u64, u8, u8);

fn decision(number: u8) -> Adoption<u64> {
    match number {
        0 => Adoption::LeaveOut,
        1 => Adoption::WindowFor(Access::READ, 0),
        _ => Adoption::Window(0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_page_is_as_it_was_or_as_it_was_decided(
        mappings in prop::collection::vec((0..2048_u64, 1..700_u64, 0..3_u64, 0..12_u8, 0..4_u8), 1..24),
        from in 0..600_u64,
    ) {
        let mut world = World::new();
        let mut decisions = Vec::new();
        for (page, pages, shift, kind, decide) in mappings as Vec<Mapping> {
            // Aligned alike often enough for large leaves, and each memory type on frames of its own.
            let page = if shift == 0 { page & !511 } else { page };
            let memory = [MemoryType::WriteBack, MemoryType::WriteCombining][usize::from(kind % 2)];
            let access = [Access::READ, Access::KERNEL_DATA, Access::READ | Access::EXECUTE][usize::from(kind % 3)];
            let first = u64::from(kind % 2) * 4096 + page + shift / 2;
            let level = usize::from(kind % 4 != 0);
            world.load(KERNEL + page * PAGE, pages.min(2816 - page), leaf(first).access(access).memory(memory), level);
            decisions.push(decide);
        }
        let range = world.range(KERNEL + from * PAGE, 2816 - from);
        let before = seen(&world.sim, world.loader.root(), range, Access::READ);
        let mut nth = 0;
        let mut expected = Seen::new();
        let mut asked = 0;
        let windows = world.adopt(range, |pages, leaf| {
            let decided = decision(decisions[nth % decisions.len()]);
            nth += 1;
            for page in 0..pages.pages(12) {
                let address = pages.start().as_u64() + page * PAGE;
                let was = before[&address];
                assert_eq!(was, (leaf.frame.add(page).start(12), leaf.access, leaf.memory), "{address:#x}");
                asked += 1;
                match decided {
                    Adoption::LeaveOut => None,
                    Adoption::Window(_) => expected.insert(address, was),
                    Adoption::WindowFor(access, _) => expected.insert(address, (was.0, access, was.2)),
                };
            }
            decided
        });
        prop_assert_eq!(asked, before.len());
        prop_assert_eq!(windows, Ok(world.kernel.windows().count() as u64));
        let loaders = seen(&world.sim, world.loader.root(), range, Access::READ);
        prop_assert_eq!(loaders, before);
        world.free_loader();
        prop_assert_eq!(seen(&world.sim, world.kernel.root(), range, Access::READ), expected);
        world.finish();
    }
}
