//! Large pages of areas that track their pages: when faults and populating make them, what becomes of them when a part is changed, and how pages
//! that are in use become one. In formats whose tables forbid writing to all below them, whose tables do not, and where a live entry is replaced in two steps.

use std::cell::Cell;

use vmcore::Platform;
use vmcore::addr::{PageRange, VirtAddr};
use vmcore::frame::FrameUse;
use vmcore::paging::{AArch64, Access, Canonical, Flush, Granule4K, Half, MemoryType, RiscV64, X86_64};
use vmcore::sim::{FrameCounts, Sim, SimFormat};
use vmcore::vm_area::{Account, Area, AreaError, AreaKind};
use vmcore::vm_space::{
    Advice, Destination, Fault, Inherit, MapRequest, PageState, Place, Space, SpaceError, WindowFlags,
};

const PAGE: u64 = 0x1000;
/// Pages of a block, in all three formats.
const BLOCK: u64 = 512;
const LARGE: u64 = BLOCK * PAGE;
const BASE: u64 = 0x4000_0000;

const X86: X86_64 = X86_64::new(40);
const ARM: AArch64<Granule4K> = AArch64::<Granule4K>::bits_48(Half::Lower, 40);

thread_local! {
    /// The CPU that the test's thread is at the moment.
    static CPU: Cell<usize> = const { Cell::new(0) };
}

struct Machine<M: SimFormat> {
    sim: Sim<M>,
    start: FrameCounts,
    kernel: Option<Space<Sim<M>>>,
}

impl<M: SimFormat> Machine<M> {
    fn new(mmu: M) -> Self {
        Self::with(mmu, 1 << 13, 2)
    }

    fn with(mmu: M, frames: usize, cpus: usize) -> Self {
        let sim = Sim::of(mmu).frames(frames).cpus(cpus).cpu_of_caller(|| CPU.with(Cell::get)).build();
        let start = sim.frame_counts();
        let top = mmu.level(mmu.levels() - 1).unwrap().shift;
        let end = match mmu.canonical() {
            Canonical::ZeroExtended => 1 << mmu.virtual_bits(),
            _ => 0_u64,
        };
        let kernel = Space::kernel(&sim, mmu.range(end.wrapping_sub(2 << top), 1 << top).unwrap(), None, ()).unwrap();
        for cpu in 0..cpus {
            sim.activate(cpu, &kernel.activate(cpu));
        }
        Self { sim, start, kernel: Some(kernel) }
    }

    /// A space, active on every CPU.
    fn space(&self) -> Space<Sim<M>> {
        let space = Space::user(self.kernel.as_ref().unwrap(), ()).unwrap();
        for cpu in 0..self.sim.cpu_count() {
            self.sim.activate(cpu, &space.activate(cpu));
        }
        space
    }

    fn area(&self, pages: u64) -> Area<Sim<M>> {
        Area::new(&self.sim, AreaKind::Open { size: pages * PAGE }, 0).unwrap()
    }

    /// A space and a window onto so many blocks of a new area, which wants large pages.
    fn scene(&self, blocks: u64) -> (Space<Sim<M>>, Area<Sim<M>>, PageRange) {
        let (space, area) = (self.space(), self.area(blocks * BLOCK));
        let request = MapRequest::new(&area).at(BASE).access(Access::USER_DATA).inherit(Inherit::Copy);
        let range = space.map(&request).unwrap();
        space.advise(range, Advice::Huge).unwrap().complete();
        (space, area, range)
    }

    fn enter(&self, cpu: usize, space: &Space<Sim<M>>) {
        self.sim.activate(cpu, &space.activate(cpu));
    }

    fn access(&self, cpu: usize, space: &Space<Sim<M>>, address: u64, access: Access) -> Result<(), SpaceError> {
        CPU.with(|current| current.set(cpu));
        for _ in 0..4 {
            match self.sim.access(cpu, VirtAddr::new(address), access | Access::USER) {
                Ok(_) => return Ok(()),
                Err(fault) => {
                    space.fault(Fault::new(fault.address.as_u64(), fault.access))?.complete();
                }
            }
        }
        panic!("the fault at {address:#x} repeats:\n{}", space.walk(VirtAddr::new(address)));
    }

    fn store(&self, cpu: usize, space: &Space<Sim<M>>, page: u64, value: u64) {
        let address = BASE + page * PAGE;
        self.access(cpu, space, address, Access::KERNEL_DATA).unwrap();
        self.sim.write_u64(cpu, VirtAddr::new(address), true, value).unwrap();
    }

    fn load(&self, cpu: usize, space: &Space<Sim<M>>, page: u64) -> u64 {
        let address = BASE + page * PAGE;
        self.access(cpu, space, address, Access::READ).unwrap();
        self.sim.read_u64(cpu, VirtAddr::new(address), true).unwrap()
    }

    /// Leaves all spaces and compares frames with the start.
    fn finish(mut self, spaces: Vec<Space<Sim<M>>>) {
        let kernel = self.kernel.take().unwrap();
        for cpu in 0..self.sim.cpu_count() {
            self.sim.activate(cpu, &kernel.activate(cpu));
            for space in &spaces {
                // SAFETY: another root is loaded, and activations are carried out.
                unsafe { space.deactivate(cpu) };
            }
        }
        for space in spaces {
            space.destroy().map_err(|(_, error)| error).unwrap().complete();
        }
        for cpu in 0..self.sim.cpu_count() {
            self.sim.unload(cpu);
            // SAFETY: no root is loaded there any more.
            unsafe { kernel.deactivate(cpu) };
        }
        kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
        self.sim.assert_no_violation();
        assert_eq!(self.sim.frame_counts(), self.start, "frames are lost: {:?}", self.sim.machine().counters());
        assert_eq!(self.sim.machine().counters().refused_frees, 0);
        assert_eq!(self.sim.machine().counters().dropped_flushes, 0);
    }
}

/// The level of the leaf that maps a page; `None` if none does.
fn level<M: SimFormat>(space: &Space<Sim<M>>, page: u64) -> Option<usize> {
    let walk = space.walk(VirtAddr::new(BASE + page * PAGE));
    walk.physical()?;
    walk.steps().last().map(|step| step.level)
}

fn pages<M: SimFormat>(space: &Space<Sim<M>>, first: u64, count: u64) -> PageRange {
    space.range(BASE + first * PAGE, count * PAGE).unwrap()
}

/// What a page of the area holds, without a window.
fn word<M: SimFormat>(area: &Area<Sim<M>>, page: u64) -> u64 {
    let mut bytes = [0; 8];
    area.read(page * PAGE, &mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

macro_rules! in_three_formats {
    ($($name:ident => $test:ident),* $(,)?) => { $(
        mod $name {
            #[test]
            fn x86_64() {
                super::$test(super::X86.pcid());
            }

            #[test]
            fn riscv() {
                super::$test(super::RiscV64::sv39(40).asid_bits(4));
            }

            #[test]
            fn arm() {
                super::$test(super::ARM);
            }
        }
    )* };
}

in_three_formats! {
    faults => faults_make_large_pages,
    populating => populating_makes_large_pages,
    parts => parts_are_changed_alone,
    areas => what_the_area_takes_drops_the_leaf,
    clones => clones_share_runs_and_copy_single_pages,
    promotion => pages_in_use_become_one,
    late => promotion_waits_for_its_flush,
    refused => what_cannot_be_large_is_not,
    exhaustion => memory_that_runs_out_changes_nothing,
    accounts => accounts_pay_for_every_page,
    zeros => zeros_stand_in_the_way_where_they_are_shown,
}

fn faults_make_large_pages<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area, _) = machine.scene(2);
    let before = machine.sim.frame_counts();
    assert_eq!(machine.load(0, &space, 5), 0);
    assert_eq!((level(&space, 0), level(&space, 511), level(&space, 512)), (Some(1), Some(1), None));
    assert_eq!(area.resident_pages(), BLOCK);
    let walk = space.walk(VirtAddr::new(BASE));
    assert!(!walk.access().contains(Access::WRITE), "nothing was written yet: {}", walk.access());
    assert_eq!(machine.sim.frame_counts().of(FrameUse::Page), before.of(FrameUse::Page) + BLOCK);
    // The first write is one to all of it, and another CPU sees it.
    let write = space.fault(Fault::new(BASE + 200 * PAGE, Access::USER_DATA)).unwrap();
    assert!(write.is_empty(), "nothing is taken away");
    write.complete();
    machine.store(0, &space, 300, 7);
    assert_eq!(machine.load(1, &space, 300), 7);
    machine.store(1, &space, 301, 8);
    assert_eq!((level(&space, 300), word(&area, 300), word(&area, 301), word(&area, 302)), (Some(1), 7, 8, 0));
    let mut states = [PageState::empty(); 2];
    space.page_states(pages(&space, 0, 2), &mut states).unwrap();
    assert!(states.iter().all(|state| state.contains(PageState::RESIDENT | PageState::DIRTY | PageState::SHOWN)));
    for page in [0, 1, 63, 64, 65, 511] {
        assert_eq!(area.frame_at(page * PAGE), area.frame_at(0).map(|frame| frame.add(page)));
    }
    // A write that comes first.
    machine.store(1, &space, 512, 9);
    assert_eq!((level(&space, 1023), word(&area, 512)), (Some(1), 9));
    // What the tables forgot comes back as it was, in one fault.
    space.advise(pages(&space, 0, 512), Advice::NotNeeded).unwrap().complete();
    assert_eq!((level(&space, 300), area.resident_pages()), (None, 1024), "the area has a handle");
    assert_eq!((machine.load(0, &space, 300), level(&space, 0)), (7, Some(1)));
    assert_eq!(space.windows().next().unwrap().resident_pages, 1024);
    // Writing without a window.
    area.write(100 * PAGE, &3_u64.to_ne_bytes()).unwrap().complete();
    assert_eq!((machine.load(1, &space, 100), level(&space, 100)), (3, Some(1)));
    drop(area);
    machine.finish(vec![space]);
}

fn populating_makes_large_pages<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area, range) = machine.scene(3);
    machine.sim.fail_kth(1);
    space.fault(Fault::new(BASE + LARGE, Access::READ | Access::USER)).unwrap_err();
    machine.sim.fail_never();
    space.advise(pages(&space, 520, 1), Advice::NeverHuge).unwrap().complete();
    machine.store(0, &space, 520, 1);
    assert_eq!((level(&space, 520), area.resident_pages()), (Some(0), 1), "that page is in a window of its own");
    space.advise(pages(&space, 520, 1), Advice::Huge).unwrap().complete();
    assert_eq!(space.windows().count(), 1);
    space.populate(range, Access::KERNEL_DATA).unwrap().complete();
    assert_eq!(area.resident_pages(), 3 * BLOCK);
    assert_eq!([0, 511, 512, 520, 1023, 1024].map(|page| level(&space, page)), [1, 1, 0, 0, 0, 1].map(Some));
    for page in [0, 511, 1024] {
        assert!(machine.sim.access(1, VirtAddr::new(BASE + page * PAGE), Access::USER_DATA).is_ok());
    }
    assert_eq!(machine.load(1, &space, 520), 1);
    // For reading, then for writing: the leaf is raised whole.
    space.advise(range, Advice::NotNeeded).unwrap().complete();
    area.resize(PAGE).unwrap().complete();
    area.resize(3 * LARGE).unwrap().complete();
    space.advise(range, Advice::NotNeeded).unwrap().complete();
    space.populate(pages(&space, 1024, 512), Access::READ).unwrap().complete();
    assert!(!space.walk(VirtAddr::new(BASE + 2 * LARGE)).access().contains(Access::WRITE));
    space.populate(pages(&space, 1100, 3), Access::WRITE).unwrap().complete();
    assert!(space.walk(VirtAddr::new(BASE + 2 * LARGE)).access().contains(Access::WRITE));
    assert_eq!(level(&space, 1100), Some(1));
    drop(area);
    machine.finish(vec![space]);
}

/// A part is unmapped, protected, guarded, moved, told another thing: the rest stays, and so do the pages.
fn parts_are_changed_alone<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    for what in 0..7 {
        let (space, area, range) = machine.scene(1);
        for page in [0, 99, 100, 149, 150, 511] {
            machine.store(0, &space, page, 1000 + page);
            machine.load(1, &space, page);
        }
        assert_eq!(level(&space, 0), Some(1));
        let part = pages(&space, 100, 50);
        let mut kept = true;
        match what {
            0 => {
                space.unmap(part).unwrap().complete();
                kept = false;
            }
            1 => space.protect(part, Access::READ).unwrap().complete(),
            2 => {
                space.install_guards(part).unwrap().complete();
                kept = false;
            }
            3 => {
                let to = Destination::To(Place::At(BASE + 4 * LARGE));
                space.relocate(part, part.size(), to).unwrap().complete();
                assert_eq!(machine.load(1, &space, 4 * BLOCK + 49), 1149);
                kept = false;
            }
            4 => space.advise(part, Advice::NeverHuge).unwrap().complete(),
            5 => space.seal(part).unwrap(),
            _ => {
                space.protect(part, Access::empty()).unwrap().complete();
                kept = false;
            }
        }
        assert_eq!(level(&space, 99), Some(0), "{what}: no leaf lies in two windows, and none over what is gone");
        for cpu in 0..2 {
            for page in [0, 99, 150, 511] {
                assert_eq!(machine.load(cpu, &space, page), 1000 + page, "{what}");
            }
            let at = |page| VirtAddr::new(BASE + page * PAGE);
            for page in [100, 149] {
                let seen = machine.sim.access(cpu, at(page), Access::READ | Access::USER);
                assert_eq!(seen.is_ok(), kept, "{what}: page {page} on {cpu}");
                let written = machine.sim.access(cpu, at(page), Access::USER_DATA).is_ok();
                assert_eq!(written, kept && what != 1, "{what}: page {page} on {cpu}");
            }
        }
        machine.store(1, &space, 99, 5);
        assert_eq!((word(&area, 99), word(&area, 100), area.resident_pages()), (5, 1100, BLOCK));
        machine.sim.check_translations();
        // Unmapped over all windows at once.
        drop(area);
        if what != 5 {
            space.unmap(space.range(BASE, 8 * LARGE).unwrap()).unwrap().complete();
            assert_eq!(space.windows().count(), 0);
        }
        let _ = range;
        let kernel = machine.kernel.as_ref().unwrap();
        for cpu in 0..2 {
            machine.enter(cpu, kernel);
            // SAFETY: another root is loaded, and activations are carried out.
            unsafe { space.deactivate(cpu) };
        }
    }
    machine.finish(Vec::new());
}

fn what_the_area_takes_drops_the_leaf<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area, _) = machine.scene(2);
    for page in [0, 700, 1023] {
        machine.store(0, &space, page, 1 + page);
        machine.load(1, &space, page);
    }
    // With every request for memory refused but those for the objects of the shrinking itself.
    let tables = machine.sim.frame_counts().of(FrameUse::Table);
    area.resize(700 * PAGE + PAGE).unwrap().complete();
    assert_eq!((level(&space, 512), level(&space, 0)), (None, Some(1)));
    assert!(machine.sim.frame_counts().of(FrameUse::Table) <= tables, "nothing was split");
    assert_eq!(machine.sim.frame_counts().of(FrameUse::Page), 701);
    assert_eq!((machine.load(1, &space, 700), level(&space, 700)), (701, Some(0)));
    assert!(matches!(machine.access(0, &space, BASE + 701 * PAGE, Access::READ), Err(SpaceError::OutsideArea(_))));
    // A snapshot keeps what is written to by whoever shows it.
    let copy = area.snapshot().unwrap().complete();
    machine.store(1, &space, 0, 42);
    assert_eq!((word(&copy, 0), word(&area, 0), word(&area, 1)), (1, 42, 0));
    // A page that a device uses stays where it is, in a run as well as alone.
    let pin = area.pin(40 * PAGE, PAGE).unwrap().complete();
    let frame = area.frame_at(40 * PAGE).unwrap();
    assert_eq!(pin.runs().next().unwrap().first(), frame);
    let second = area.snapshot().unwrap().complete();
    machine.store(0, &space, 40, 43);
    assert_eq!((area.frame_at(40 * PAGE), word(&second, 40), word(&area, 40)), (Some(frame), 0, 43));
    assert!(matches!(area.resize(PAGE), Err(AreaError::Pinned(_))));
    drop((pin, copy, second));
    area.resize(PAGE).unwrap().complete();
    assert_eq!((machine.sim.frame_counts().of(FrameUse::Page), word(&area, 0)), (1, 42));
    drop(area);
    machine.finish(vec![space]);
}

fn clones_share_runs_and_copy_single_pages<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area, _) = machine.scene(1);
    drop(area);
    for page in 0..BLOCK {
        machine.store(0, &space, page, page + 1);
        machine.load(1, &space, page);
    }
    assert_eq!(level(&space, 0), Some(1));
    let page_frames = || machine.sim.frame_counts().of(FrameUse::Page);
    let child = space.try_clone(()).unwrap().complete();
    assert_eq!(page_frames(), BLOCK);
    machine.enter(1, &child);
    // SAFETY: another root is loaded, and activations are carried out.
    unsafe { space.deactivate(1) };
    assert_eq!((machine.load(1, &child, 77), level(&child, 77)), (78, Some(1)), "reading, the child has the run");
    assert_eq!(page_frames(), BLOCK);
    machine.store(1, &child, 77, 1);
    assert_eq!(page_frames(), BLOCK + 1, "one page is copied");
    machine.store(0, &space, 200, 2);
    machine.store(0, &space, 77, 3);
    assert_eq!(page_frames(), BLOCK + 2, "nobody but the parent has its page 77 any more");
    for page in 0..BLOCK {
        let expected =
            |own: &[(u64, u64)]| own.iter().find(|(of, _)| *of == page).map_or(page + 1, |(_, value)| *value);
        assert_eq!(machine.load(0, &space, page), expected(&[(77, 3), (200, 2)]), "parent's {page}");
        assert_eq!(machine.load(1, &child, page), expected(&[(77, 1)]), "child's {page}");
    }
    machine.sim.check_translations();
    // A third, of both: then they go, one after another, and what is left is written to in place.
    let third = child.try_clone(()).unwrap().complete();
    machine.store(1, &child, 300, 4);
    let kernel = machine.kernel.as_ref().unwrap();
    machine.enter(1, kernel);
    // SAFETY: as above.
    unsafe { child.deactivate(1) };
    child.destroy().map_err(|(_, error)| error).unwrap().complete();
    machine.enter(1, &third);
    assert_eq!((machine.load(1, &third, 300), machine.load(1, &third, 77)), (301, 1));
    machine.enter(1, kernel);
    // SAFETY: as above.
    unsafe { third.deactivate(1) };
    third.destroy().map_err(|(_, error)| error).unwrap().complete();
    assert_eq!(page_frames(), BLOCK);
    for page in 0..BLOCK {
        machine.store(0, &space, page, page + 9);
    }
    assert_eq!(page_frames(), BLOCK, "all of it is the parent's own again");
    machine.enter(1, &space);
    machine.finish(vec![space]);
}

fn pages_in_use_become_one<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area) = (machine.space(), machine.area(4 * BLOCK));
    let range = space.map(&MapRequest::new(&area).at(BASE).access(Access::USER_DATA)).unwrap();
    let resident = |page: u64| page < 2 * BLOCK || page % 100 == 0;
    for page in (0..4 * BLOCK).filter(|page| resident(*page)) {
        machine.store((page % 2) as usize, &space, page, page + 1);
    }
    assert_eq!(level(&space, 0), Some(0));
    let pin = area.pin(600 * PAGE, PAGE).unwrap().complete();
    assert_eq!(space.promote(range, 0).unwrap().complete(), 1, "one is pinned, two have holes");
    drop(pin);
    assert_eq!(level(&space, 0), None, "the next access shows it");
    machine.load(1, &space, 0);
    assert_eq!(level(&space, 511), Some(1));
    assert_eq!(space.promote(range, 0).unwrap().complete(), 1);
    assert_eq!(space.promote(range, BLOCK - 6).unwrap().complete(), 0, "of the others there are five pages each");
    assert_eq!(space.promote(range, BLOCK - 5).unwrap().complete(), 2);
    assert_eq!(space.promote(range, BLOCK).unwrap().complete(), 0, "what is not shown will be when it is used");
    for page in 0..4 * BLOCK {
        let expected = if resident(page) { page + 1 } else { 0 };
        assert_eq!(machine.load((page % 2) as usize, &space, page), expected);
        assert_eq!(level(&space, page), Some(1));
    }
    assert_eq!((area.resident_pages(), machine.sim.frame_counts().of(FrameUse::Page)), (4 * BLOCK, 4 * BLOCK));
    machine.store(1, &space, 3 * BLOCK + 1, 6);
    assert_eq!(level(&space, 3 * BLOCK), Some(1));
    assert_eq!(space.promote(range, BLOCK).unwrap().complete(), 0);
    // What was split is only shown again: its frames are a run still.
    let frame = area.frame_at(0);
    space.protect(pages(&space, 3, 1), Access::READ).unwrap().complete();
    space.protect(pages(&space, 3, 1), Access::USER_DATA).unwrap().complete();
    assert_eq!(level(&space, 0), Some(0));
    assert_eq!(space.promote(range, 0).unwrap().complete(), 1);
    machine.store(0, &space, 3, 7);
    assert_eq!((level(&space, 0), area.frame_at(0), machine.load(1, &space, 4)), (Some(1), frame, 5));
    drop(area);
    machine.finish(vec![space]);
}

/// Between the call and the flush nobody reads or writes the pages; whatever is done to the area meanwhile is not undone.
fn promotion_waits_for_its_flush<M: SimFormat>(mmu: M) {
    for what in 0..5 {
        let machine = Machine::new(mmu);
        let (space, area) = (machine.space(), machine.area(BLOCK));
        let range = space.map(&MapRequest::new(&area).at(BASE).access(Access::USER_DATA)).unwrap();
        for page in 0..BLOCK {
            machine.store(1, &space, page, page + 1);
        }
        let flush = space.promote(range, 0).unwrap().detach();
        // The other CPU has not heard of it: it writes through what it remembers.
        let remembered = machine.sim.write_u64(1, VirtAddr::new(BASE + 9 * PAGE), true, 99).is_ok();
        // A table that is unlinked is forgotten at once where the format demands that.
        assert_eq!(remembered, !M::FORMAT.break_before_make, "the TLB keeps what it may");
        let read = machine.access(0, &space, BASE + 10 * PAGE, Access::READ);
        assert!(matches!(read, Err(SpaceError::Retry(_))), "{read:?}");
        assert!(matches!(area.write(0, &[1]), Err(AreaError::Retry)));
        assert!(matches!(area.pin(0, PAGE), Err(AreaError::Retry)));
        let mut copy = None;
        match what {
            1 => copy = Some(area.snapshot().unwrap().complete()),
            2 => area.resize(100 * PAGE).unwrap().complete(),
            3 => space.unmap(range).unwrap().complete(),
            4 => machine.sim.fail_allocation_after(0),
            _ => {}
        }
        machine.sim.apply(flush.request());
        // SAFETY: every CPU that it names has flushed.
        assert_eq!(unsafe { flush.acknowledged() }, 1);
        machine.sim.fail_never();
        let last = if what == 2 { 99 } else { 511 };
        let ninth = if remembered { 99 } else { 10 };
        assert_eq!((word(&area, 9), word(&area, 10), word(&area, last)), (ninth, 11, last + 1), "{what}");
        let run = area.frame_at(0).map(|frame| frame.add(last)) == area.frame_at(last * PAGE);
        // (The pools may have had what it takes when frames were refused.)
        assert!(run == matches!(what, 0 | 3) || what == 4, "{what}");
        if what != 3 {
            machine.store(1, &space, 9, 3);
            assert_eq!(machine.load(0, &space, 9), 3);
        }
        if let Some(copy) = copy {
            assert_eq!((word(&copy, 9), word(&copy, 10)), (ninth, 11));
        }
        drop(area);
        machine.finish(vec![space]);
    }
}

fn what_cannot_be_large_is_not<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let space = machine.space();
    let mut at = BASE;
    let mut try_at = |area: &Area<Sim<M>>, shift: u64, offset: u64, prepare: &dyn Fn(PageRange)| {
        at += 8 * LARGE;
        let request = MapRequest::new(area).at(at + shift * PAGE).offset(offset * PAGE).access(Access::USER_DATA);
        let range = space.map(&request.size((BLOCK + 8) * PAGE)).unwrap();
        space.advise(range, Advice::Huge).unwrap().complete();
        prepare(range);
        let address = (range.start().as_u64()).next_multiple_of(LARGE);
        machine.access(0, &space, address, Access::KERNEL_DATA).unwrap();
        let large = space.walk(VirtAddr::new(address)).steps().last().unwrap().level == 1;
        (large, range)
    };
    let area = || machine.area(2 * BLOCK);
    let (large, kept) = (area(), area());
    assert!(try_at(&large, 0, 0, &|_| ()).0);
    assert!(!try_at(&area(), 1, 0, &|_| ()).0, "addresses and area are not aligned alike");
    assert!(!try_at(&area(), 0, 64, &|_| ()).0, "addresses and area are not aligned alike");
    assert!(try_at(&area(), 504, 504, &|_| ()).0, "the window begins before the block");
    assert!(!try_at(&area(), 8, 8, &|_| ()).0, "the window ends in the block");
    assert!(
        !try_at(&area(), 0, 0, &|range| {
            space.install_guards(space.range(range.start().as_u64() + 9 * PAGE, PAGE).unwrap()).unwrap().complete();
        })
        .0
    );
    kept.write(5 * PAGE, b"here").unwrap().complete();
    assert!(!try_at(&kept, 0, 0, &|_| ()).0, "a page of it is resident");
    let never = area();
    let range = try_at(&never, 0, 0, &|range| space.advise(range, Advice::NeverHuge).unwrap().complete());
    assert!(!range.0);
    assert_eq!(space.promote(range.1, BLOCK).unwrap().complete(), 0);
    assert!(space.window_after(range.1.start()).unwrap().flags.contains(WindowFlags::NEVER_HUGE));
    let untyped = area();
    let other = MemoryType::ALL
        .into_iter()
        .find(|memory| *memory != MemoryType::WriteBack && untyped.set_memory(*memory).map(Flush::complete).is_ok());
    // (RISC-V has no others without an extension.)
    assert_eq!(try_at(&untyped, 0, 0, &|_| ()).0, other.is_none(), "another memory type");
    let ring = Area::new(&machine.sim, AreaKind::Ring { size: LARGE }, 0).unwrap();
    assert!(!try_at(&ring, 0, 0, &|_| ()).0);
    // A range that is not the space's is refused, one that holds nothing is done at once.
    let foreign = machine.kernel.as_ref().unwrap().promote(range.1, 0);
    assert!(matches!(foreign, Err(SpaceError::Range(_))), "{foreign:?}");
    assert_eq!(space.promote(space.range(PAGE, LARGE).unwrap(), 0).unwrap().complete(), 0);
    drop((large, kept, never, untyped, ring));
    machine.finish(vec![space]);
}

/// Each request for frames of each operation is refused in turn, and all after it.
fn memory_that_runs_out_changes_nothing<M: SimFormat>(mmu: M) {
    for what in 0..7 {
        for (kth, all) in (1..40).flat_map(|kth| [(kth, false), (kth, true)]) {
            let machine = Machine::new(mmu);
            let (space, area, range) = machine.scene(1);
            if what >= 2 {
                machine.store(0, &space, 0, 1);
                assert_eq!(level(&space, 0), Some(1));
            }
            if what == 4 {
                drop(space.try_clone(()).unwrap().complete());
            }
            if what == 6 {
                space.protect(pages(&space, 3, 1), Access::READ).unwrap().complete();
                space.protect(pages(&space, 3, 1), Access::USER_DATA).unwrap().complete();
                area.snapshot().unwrap().complete().write(0, &[1]).unwrap().complete();
            }
            let copy = (what == 5).then(|| area.snapshot().unwrap().complete());
            let image = || {
                let levels: Vec<_> = (0..BLOCK).map(|page| level(&space, page)).collect();
                (levels, area.resident_pages(), space.windows().count(), word(&area, 0), word(&area, 7))
            };
            let before = image();
            let part = pages(&space, 7, 9);
            let operate = || -> Result<(), SpaceError> {
                match what {
                    0 => space.fault(Fault::new(BASE + 7 * PAGE, Access::KERNEL_DATA | Access::USER)).map(drop),
                    1 => space.populate(range, Access::KERNEL_DATA).map(|flush| flush.complete()),
                    2 => space.protect(part, Access::READ).map(|flush| flush.complete()),
                    3 => space.unmap(part).map(|flush| flush.complete()),
                    4 | 5 => {
                        let fault = Fault::new(BASE + 7 * PAGE, Access::KERNEL_DATA | Access::USER);
                        space.fault(fault).map(|flush| {
                            flush.complete();
                        })
                    }
                    _ => space.promote(range, 0).map(|flush| {
                        flush.complete();
                    }),
                }
            };
            if all {
                machine.sim.fail_allocation_after(kth - 1)
            } else {
                machine.sim.fail_kth(kth)
            }
            let requests = machine.sim.allocation_requests();
            let result = operate();
            let made = machine.sim.allocation_requests() - requests;
            machine.sim.fail_never();
            if let Err(error) = &result {
                assert!(matches!(error, SpaceError::OutOfFrames(_)), "{what}, {kth}: {error}");
                assert!(image() == before, "{what}, {kth}: something has changed");
                operate().unwrap();
            }
            if what == 3 {
                assert_eq!((level(&space, 7), level(&space, 16).is_some(), word(&area, 0)), (None, true, 1));
            } else {
                machine.access(1, &space, BASE + 7 * PAGE, Access::READ).unwrap();
                assert_eq!(machine.load(1, &space, 0), u64::from(what >= 2));
            }
            drop((copy, area));
            machine.finish(vec![space]);
            if made < kth {
                assert!(result.is_ok());
                break;
            }
            assert!(kth < 39, "{what} asks for ever");
        }
    }
}

fn accounts_pay_for_every_page<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area, range) = machine.scene(2);
    let account = Account::new(&machine.sim, BLOCK + 10).unwrap();
    area.charge_to(&account).unwrap();
    machine.store(0, &space, 0, 1);
    assert_eq!((account.charged(), level(&space, 0)), (BLOCK, Some(1)));
    machine.store(0, &space, BLOCK, 1);
    assert_eq!((account.charged(), level(&space, BLOCK)), (BLOCK + 1, Some(0)), "no room for another large one");
    let full = space.populate(range, Access::WRITE);
    assert!(matches!(full, Err(SpaceError::Area(AreaError::OutOfAccount(_)))), "{full:?}");
    assert_eq!(space.promote(range, BLOCK).unwrap().complete(), 1);
    assert_eq!((account.charged(), area.resident_pages()), (BLOCK + 1, BLOCK + 1), "there was no room for the rest");
    // A copy charges nothing but what it writes.
    let copy = area.snapshot().unwrap().complete();
    copy.write(3 * PAGE, &[1]).unwrap().complete();
    assert_eq!(account.charged(), BLOCK + 2);
    drop(copy);
    assert_eq!(account.charged(), BLOCK + 1);
    account.set_limit(2 * BLOCK);
    assert_eq!(space.promote(range, BLOCK).unwrap().complete(), 1);
    assert_eq!((account.charged(), area.resident_pages()), (2 * BLOCK, 2 * BLOCK));
    // Pages of one account in the area of another stay charged where they are.
    let other = Account::new(&machine.sim, 4 * BLOCK).unwrap();
    area.charge_to(&other).unwrap();
    area.resize(LARGE + 10 * PAGE).unwrap().complete();
    assert_eq!((account.charged(), other.charged()), (BLOCK + 10, 0));
    area.resize(2 * LARGE).unwrap().complete();
    assert_eq!(space.promote(range, BLOCK).unwrap().complete(), 1);
    assert_eq!((account.charged(), other.charged()), (BLOCK + 10, BLOCK - 10));
    area.resize(PAGE).unwrap().complete();
    assert_eq!((account.charged(), other.charged()), (1, 0));
    area.resize(LARGE).unwrap().complete();
    drop((account, other));
    drop(area);
    machine.finish(vec![space]);
}

fn zeros_stand_in_the_way_where_they_are_shown<M: SimFormat>(mmu: M) {
    let machine = Machine::new(mmu);
    let (space, area) = (machine.space(), machine.area(4 * BLOCK));
    let first = BLOCK - 8;
    let request = MapRequest::new(&area).at(BASE + first * PAGE).offset(first * PAGE).access(Access::USER_DATA);
    let range = space.map(&request.inherit(Inherit::Copy)).unwrap();
    space.advise(range, Advice::Huge).unwrap().complete();
    // What comes before the first block is read, and is the zero frame.
    assert_eq!((machine.load(0, &space, first), area.resident_pages()), (0, 0));
    machine.store(0, &space, BLOCK, 1);
    assert_eq!((level(&space, BLOCK), area.resident_pages()), (Some(1), BLOCK));
    // Another window shows pages of the next block, and may show zeros.
    let other = space.map(&MapRequest::new(&area).at(BASE + 9 * LARGE).offset(2 * LARGE).size(LARGE)).unwrap();
    machine.store(0, &space, 2 * BLOCK, 2);
    assert_eq!((level(&space, 2 * BLOCK), machine.load(1, &space, 9 * BLOCK)), (Some(0), 2));
    space.unmap(other).unwrap().complete();
    // Populating for writing, in an area whose tree was shared: what is there is copied, what is not is made in one piece.
    let copy = area.snapshot().unwrap().complete();
    space.populate(range, Access::WRITE).unwrap().complete();
    assert_eq!(area.resident_pages(), 3 * BLOCK + 8);
    assert_eq!(level(&space, 3 * BLOCK), Some(1));
    // (What was copied, or may have been shown as zeros, is shown after the flush.)
    for page in 3 * BLOCK..4 * BLOCK {
        let address = VirtAddr::new(BASE + page * PAGE);
        assert!(
            machine.sim.access(0, address, Access::USER_DATA).is_ok(),
            "page {page} is to be written without a fault"
        );
    }
    machine.store(1, &space, BLOCK, 5);
    assert_eq!((word(&copy, BLOCK), word(&copy, 2 * BLOCK), word(&area, BLOCK)), (1, 2, 5));
    assert_eq!(copy.resident_pages(), BLOCK + 1);
    drop((copy, area));
    machine.finish(vec![space]);
}
