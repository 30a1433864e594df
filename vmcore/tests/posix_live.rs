//! What the live comparison with Linux has shown of locking, sealing, stacks and files that grow: a case for each mistake that was made.

mod common;

use common::program::Program;
use common::{PAGE, load, store};
use vmcore::posix::{Advice, Backing, Errno, MapFlags, Protection, RemapFlags};
use vmcore::vm_area::{Area, AreaKind};

const A: u64 = 0x1000_0000;
const DATA: Protection = Protection::READ.union(Protection::WRITE);
const FIXED: MapFlags = MapFlags::ANONYMOUS.union(MapFlags::FIXED);
const PRIVATE: MapFlags = FIXED.union(MapFlags::PRIVATE);
const STACK: MapFlags = PRIVATE.union(MapFlags::GROWS_DOWN);
const MOVE: RemapFlags = RemapFlags::MAY_MOVE.union(RemapFlags::FIXED);

const fn page(number: u64) -> u64 {
    A + number * PAGE
}

impl Program {
    fn map(&mut self, first: u64, pages: u64, flags: MapFlags) -> Result<u64, Errno> {
        self.memory.mmap(&self.space, page(first), pages * PAGE, DATA, flags, Backing::Anonymous)
    }

    fn store(&self, number: u64) {
        store(&self.world.sim, 0, &self.space, page(number), number + 1).unwrap();
    }

    /// What a page begins with; `None` where it cannot be accessed.
    fn load(&self, number: u64) -> Option<u64> {
        load(&self.world.sim, 0, &self.space, page(number)).ok()
    }

    /// The regions, in pages, after a call that looks at all of them.
    fn regions(&mut self) -> Vec<(u64, u64)> {
        let _ = self.memory.madvise(&self.space, A, 256 * PAGE, Advice::Normal);
        let pages = |address: u64| (address - A) / PAGE;
        self.memory.regions().map(|region| (pages(region.start), pages(region.start + region.size))).collect()
    }
}

#[test]
fn a_length_that_wraps_locks_nothing() {
    let mut program = Program::new();
    program.map(0, 1, PRIVATE).unwrap();
    let Program { space, memory, .. } = &mut program;
    assert_eq!(memory.mlock(space, A, u64::MAX), Ok(()));
    assert_eq!(memory.munlock(space, A + 1, u64::MAX), Ok(()));
    assert_eq!(memory.mlock(space, A, u64::MAX - 2 * PAGE), Err(Errno::Invalid));
    program.end();
}

#[test]
fn what_is_sealed_is_met_before_a_gap_behind_it() {
    let mut program = Program::new();
    program.map(0, 2, PRIVATE).unwrap();
    let Program { space, memory, .. } = &mut program;
    memory.mprotect(space, A, 2 * PAGE, Protection::READ).unwrap();
    memory.mseal(space, page(1), PAGE).unwrap();
    assert_eq!(memory.mprotect(space, A, 3 * PAGE, DATA), Err(Errno::Permission));
    assert_eq!(memory.mprotect(space, page(2), PAGE, DATA), Err(Errno::NoMemory));
    for advice in [Advice::DontFork, Advice::WipeOnFork] {
        assert_eq!(memory.madvise(space, page(1), PAGE, advice), Err(Errno::Permission), "{advice:?}");
        assert_eq!(memory.madvise(space, A, PAGE, advice), Ok(()), "{advice:?}");
    }
    program.end();
}

#[test]
fn a_stack_is_private_and_anonymous() {
    let mut program = Program::new();
    assert_eq!(program.map(0, 1, FIXED | MapFlags::SHARED | MapFlags::GROWS_DOWN), Err(Errno::Invalid));
    let file = Area::new(&program.world.sim, AreaKind::Paged { size: PAGE, key: 1 }, 0).unwrap();
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::GROWS_DOWN;
    let backing = Backing::Area { area: &file, offset: 0 };
    assert_eq!(program.memory.mmap(&program.space, A, PAGE, DATA, flags, backing), Err(Errno::Invalid));
    drop(file);
    program.end();
}

#[test]
fn pages_of_a_stack_are_released() {
    let mut program = Program::new();
    program.map(20, 1, STACK).unwrap();
    for number in [18, 19, 20] {
        program.store(number);
    }
    program.memory.madvise(&program.space, page(19), PAGE, Advice::DontNeed).unwrap();
    assert_eq!((program.load(19), program.load(20)), (Some(0), Some(21)));
    // What is unmapped is gone, also when the stack comes down again.
    program.memory.munmap(&program.space, page(18), PAGE).unwrap();
    assert_eq!(program.load(18), Some(0));
    assert_eq!(program.regions(), [(18, 21)]);
    program.end();
}

#[test]
fn a_stack_grows_down_to_what_nobody_can_access_and_to_another_part_of_it() {
    let mut program = Program::new();
    program.map(0, 1, PRIVATE).unwrap();
    program.map(20, 1, STACK).unwrap();
    assert_eq!(program.load(19), None, "what can be accessed is too near");
    program.memory.mprotect(&program.space, A, PAGE, Protection::empty()).unwrap();
    assert_eq!(program.load(1), Some(0));
    program.memory.munmap(&program.space, page(10), 5 * PAGE).unwrap();
    assert_eq!(program.load(10), Some(0));
    assert_eq!(program.regions(), [(0, 1), (1, 10), (10, 21)]);
    program.end();
}

/// One window shows several regions where the format gives more than was asked for: none of them grows over another.
#[test]
fn regions_of_a_stack_keep_their_bounds() {
    let mut program = Program::new();
    program.map(20, 1, STACK).unwrap();
    assert_eq!(program.load(10), Some(0));
    program.memory.mprotect(&program.space, page(14), PAGE, Protection::WRITE).unwrap();
    assert_eq!(program.regions(), [(10, 14), (14, 15), (15, 21)]);
    program.map(10, 1, PRIVATE).unwrap();
    assert_eq!(program.regions(), [(10, 11), (11, 14), (14, 15), (15, 21)]);
    program.end();
}

/// What was moved away lies above others' pages of the same area: it does not show them.
#[test]
fn a_part_of_a_stack_that_was_moved_shows_nothing_of_the_rest() {
    let mut program = Program::new();
    program.map(20, 1, STACK).unwrap();
    program.store(17);
    program.store(18);
    program.memory.mremap(&program.space, page(18), PAGE, PAGE, MOVE, page(40)).unwrap();
    assert_eq!((program.load(40), program.load(17)), (Some(19), Some(18)));
    assert_eq!(program.load(39), None);
    program.end();
}

#[test]
fn a_child_s_stack_shows_nothing_that_was_kept_from_it() {
    let mut program = Program::new();
    program.map(20, 1, STACK).unwrap();
    program.store(18);
    program.memory.madvise(&program.space, page(18), 2 * PAGE, Advice::DontFork).unwrap();
    let (child, memory) = program.memory.fork(&program.space, ()).unwrap();
    program.world.enter(1, &child);
    assert!(load(&program.world.sim, 1, &child, page(18)).is_err());
    program.world.leave(1, &child);
    drop((child, memory));
    program.end();
}

#[test]
fn a_private_mapping_shows_what_its_file_grows_by() {
    let mut program = Program::new();
    let file = Area::new(&program.world.sim, AreaKind::Paged { size: PAGE, key: 1 }, 0).unwrap();
    let supply = |offset: u64, byte: u8| {
        let request = file.request(offset, PAGE).unwrap().unwrap();
        file.supply(request.token, offset, &[byte; PAGE as usize]).unwrap();
    };
    supply(0, 1);
    let backing = Backing::Area { area: &file, offset: 0 };
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    program.memory.mmap(&program.space, A, 3 * PAGE, DATA, flags, backing).unwrap();
    assert_eq!(program.load(1), None);
    file.resize(2 * PAGE).unwrap().complete();
    supply(PAGE, 2);
    assert_eq!((program.load(1), program.load(2)), (Some(0x0202_0202_0202_0202), None));
    // What was written in its place goes with the end of the file.
    program.store(1);
    file.resize(PAGE).unwrap().complete();
    assert_eq!(program.load(1), None);
    file.resize(2 * PAGE).unwrap().complete();
    supply(PAGE, 3);
    assert_eq!(program.load(1), Some(0x0303_0303_0303_0303));
    drop(file);
    program.end();
}

/// Of what locked memory grows by, there is what can be: not nothing, since the file ends before.
#[test]
fn what_locked_memory_grows_by_is_there_as_far_as_its_file_goes() {
    let mut program = Program::new();
    let file = Area::new(&program.world.sim, AreaKind::Paged { size: 2 * PAGE, key: 1 }, 0).unwrap();
    let request = file.request(0, 2 * PAGE).unwrap().unwrap();
    file.supply(request.token, 0, &[1; 2 * PAGE as usize]).unwrap();
    let Program { space, memory, .. } = &mut program;
    let backing = Backing::Area { area: &file, offset: 0 };
    memory.mmap(space, A, PAGE, DATA, MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::LOCKED, backing).unwrap();
    memory.mremap(space, A, PAGE, 4 * PAGE, RemapFlags::empty(), 0).unwrap();
    let sets = space.page_sets(space.range(A, 4 * PAGE).unwrap()).unwrap();
    assert_eq!((sets.dirty, sets.locked), (0b0011, 0b1111), "copies of its own were made");
    drop(file);
    program.end();
}
