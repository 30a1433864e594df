//! The POSIX face, case by case: what each call refuses and with which errno, what it does, and what became of the regions. What Linux makes of random operations and of
//! whole programs is compared by the replay of recordings.

mod common;

use common::program::Program;
use common::{PAGE, load, store};
use vmcore::paging::Access;
use vmcore::posix::{Advice, Backing, Errno, MapFlags, Protection, RemapFlags, Signal, SyncFlags};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind, Rights};
use vmcore::vm_space::Fault;

const A: u64 = 0x40_0000;
const DATA: Protection = Protection::READ.union(Protection::WRITE);
const PRIVATE: MapFlags = MapFlags::PRIVATE.union(MapFlags::ANONYMOUS);
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::ANONYMOUS);
const MOVE: RemapFlags = RemapFlags::MAY_MOVE.union(RemapFlags::FIXED);

const fn page(number: u64) -> u64 {
    A + number * PAGE
}

impl Program {
    fn map(&mut self, first: u64, pages: u64, protection: Protection, flags: MapFlags) {
        let flags = flags | MapFlags::FIXED;
        let backing = Backing::Anonymous;
        assert_eq!(
            self.memory.mmap(&self.space, page(first), pages * PAGE, protection, flags, backing),
            Ok(page(first))
        );
    }

    fn unmap(&mut self, first: u64, pages: u64) {
        self.memory.munmap(&self.space, page(first), pages * PAGE).unwrap();
    }

    fn protect(&mut self, first: u64, pages: u64, protection: Protection) -> Result<(), Errno> {
        self.memory.mprotect(&self.space, page(first), pages * PAGE, protection)
    }

    fn advise(&mut self, first: u64, pages: u64, advice: Advice) -> Result<(), Errno> {
        self.memory.madvise(&self.space, page(first), pages * PAGE, advice)
    }

    fn remap(&mut self, old: (u64, u64), pages: u64, flags: RemapFlags, new: u64) -> Result<u64, Errno> {
        self.memory.mremap(&self.space, page(old.0), old.1 * PAGE, pages * PAGE, flags, page(new))
    }

    fn store(&self, number: u64, value: u64) {
        store(&self.world.sim, 0, &self.space, page(number), value).unwrap();
    }

    fn load(&self, number: u64) -> u64 {
        load(&self.world.sim, 0, &self.space, page(number)).unwrap()
    }

    fn signal(&mut self, number: u64, access: Access) -> Option<Signal> {
        let fault = Fault::new(page(number), access | Access::USER);
        self.memory.signal(&self.space, fault, self.space.fault(fault).err()?)
    }

    /// The regions, in pages.
    fn regions(&self) -> Vec<(u64, u64, u32)> {
        let pages = |address: u64| (address - A) / PAGE;
        self.memory
            .regions()
            .map(|region| (pages(region.start), pages(region.start + region.size), region.protection.bits()))
            .collect()
    }
}

#[test]
fn mmap_refuses_what_linux_refuses() {
    let mut program = Program::new();
    let Program { space, memory, .. } = &mut program;
    let mut map = |address, length, flags| memory.mmap(space, address, length, DATA, flags, Backing::Anonymous);
    let fixed = PRIVATE | MapFlags::FIXED;
    assert_eq!(map(A, 0, fixed), Err(Errno::Invalid));
    assert_eq!(map(A + 1, PAGE, fixed), Err(Errno::Invalid));
    assert_eq!(map(A, PAGE, MapFlags::ANONYMOUS | MapFlags::FIXED), Err(Errno::Invalid), "neither private nor shared");
    assert_eq!(map(A, u64::MAX, fixed), Err(Errno::NoMemory));
    assert_eq!(map(A, 1 << 47, fixed), Err(Errno::NoMemory));
    assert_eq!(map(1 << 47, PAGE, fixed), Err(Errno::NoMemory));
    assert_eq!(map(0, PAGE, fixed), Err(Errno::Permission), "the lowest page");
    assert_eq!(map(A, PAGE, fixed), Ok(A));
    assert_eq!(map(A, 3 * PAGE, PRIVATE | MapFlags::FIXED_NO_REPLACE), Err(Errno::Exists));
    let beside = map(A, PAGE, PRIVATE).unwrap();
    assert_ne!(beside, A, "a hint is not followed where something is");
    let file = Area::new(&program.world.sim, AreaKind::Paged { size: 2 * PAGE, key: 1 }, 0).unwrap();
    let mut map = |area: &Area<Sim>, offset, protection, flags| {
        let Program { space, memory, .. } = &mut program;
        memory.mmap(space, page(8), PAGE, protection, flags | MapFlags::FIXED, Backing::Area { area, offset })
    };
    assert_eq!(map(&file, 1, DATA, MapFlags::SHARED), Err(Errno::Invalid));
    let reader = file.handle(Rights::MAP | Rights::READ).unwrap();
    assert_eq!(map(&reader, 0, DATA, MapFlags::SHARED), Err(Errno::Access));
    assert_eq!(map(&reader, 0, DATA, MapFlags::PRIVATE), Ok(page(8)), "what is written stays the program's own");
    let nobody = file.handle(Rights::MAP).unwrap();
    assert_eq!(map(&nobody, 0, Protection::READ, MapFlags::PRIVATE), Err(Errno::Access));
    drop((file, reader, nobody));
    program.end();
}

#[test]
fn the_others_refuse_what_linux_refuses() {
    let mut program = Program::new();
    program.map(0, 4, DATA, PRIVATE);
    program.map(4, 2, DATA, SHARED);
    program.map(8, 2, DATA, PRIVATE);
    let Program { space, memory, .. } = &mut program;
    assert_eq!(memory.munmap(space, A + 1, PAGE), Err(Errno::Invalid));
    assert_eq!(memory.munmap(space, A, 0), Err(Errno::Invalid));
    assert_eq!(memory.munmap(space, A, u64::MAX), Err(Errno::Invalid));
    assert_eq!(memory.mprotect(space, A + 1, PAGE, DATA), Err(Errno::Invalid));
    assert_eq!(memory.mprotect(space, A, u64::MAX - A, DATA), Err(Errno::NoMemory));
    assert_eq!(memory.madvise(space, A, u64::MAX, Advice::DontNeed), Err(Errno::Invalid));
    assert_eq!(memory.mremap(space, A, PAGE, 0, RemapFlags::empty(), 0), Err(Errno::Invalid));
    assert_eq!(memory.mremap(space, A + 1, PAGE, PAGE, RemapFlags::empty(), 0), Err(Errno::Invalid));
    assert_eq!(memory.mlockall(space, false, false), Err(Errno::Invalid));
    assert_eq!(memory.msync(space, A, PAGE, SyncFlags::ASYNC | SyncFlags::SYNC), Err(Errno::Invalid));
    assert_eq!(memory.msync(space, A, 7 * PAGE, SyncFlags::SYNC), Err(Errno::NoMemory));
    assert_eq!(memory.msync(space, A, 6 * PAGE, SyncFlags::SYNC), Ok(()));
    let before = program.regions();
    assert_eq!(program.protect(3, 4, Protection::READ), Err(Errno::NoMemory), "a hole, and nothing is changed");
    assert_eq!(program.advise(3, 6, Advice::DontNeed), Err(Errno::NoMemory));
    assert_eq!(program.advise(0, 6, Advice::WipeOnFork), Err(Errno::Invalid), "of shared memory");
    assert_eq!(program.advise(4, 1, Advice::Free), Err(Errno::Invalid));
    assert_eq!(program.advise(5, 2, Advice::PopulateRead), Err(Errno::NoMemory));
    program.advise(5, 1, Advice::GuardInstall).unwrap();
    assert_eq!(program.advise(5, 2, Advice::PopulateRead), Err(Errno::Fault), "the guard comes first");
    assert_eq!(program.advise(7, 2, Advice::PopulateWrite), Err(Errno::NoMemory));
    assert_eq!(program.remap((6, 1), 1, RemapFlags::empty(), 0), Err(Errno::Fault));
    assert_eq!(program.remap((0, 2), 3, RemapFlags::empty(), 0), Err(Errno::NoMemory), "in the middle of a region");
    assert_eq!(program.remap((0, 5), 6, MOVE, 20), Err(Errno::Fault), "of two regions");
    assert_eq!(program.remap((0, 2), 2, RemapFlags::FIXED, 20), Err(Errno::Invalid));
    assert_eq!(program.remap((0, 2), 2, MOVE, 1), Err(Errno::Invalid), "onto itself");
    assert_eq!(program.remap((0, 2), 3, MOVE | RemapFlags::DONT_UNMAP, 20), Err(Errno::Invalid));
    assert_eq!(program.regions(), before);
    program.end();
}

#[test]
fn regions_become_one_as_on_linux() {
    let mut program = Program::new();
    // The one in between joins both; nothing of them was written to.
    program.map(0, 2, DATA, PRIVATE);
    program.map(4, 2, DATA, PRIVATE);
    program.map(2, 2, DATA, PRIVATE);
    assert_eq!(program.regions(), [(0, 6, 3)]);
    assert_eq!(program.remap((0, 6), 8, RemapFlags::empty(), 0), Ok(page(0)), "so all of it can grow at once");
    // Written to before they met, they are two.
    program.map(20, 2, DATA, PRIVATE);
    program.map(24, 2, DATA, PRIVATE);
    program.store(20, 1);
    program.store(24, 2);
    program.map(22, 2, DATA, PRIVATE);
    assert_eq!(program.regions(), [(0, 8, 3), (20, 24, 3), (24, 26, 3)]);
    assert_eq!(program.remap((20, 6), 8, MOVE, 40), Err(Errno::Fault));
    assert_eq!(program.remap((20, 6), 6, MOVE, 40), Ok(page(40)), "several keep their size");
    assert_eq!((program.load(40), program.load(44)), (1, 2));
    // A protection that is taken back leaves nothing behind.
    program.protect(2, 2, Protection::READ).unwrap();
    assert_eq!(program.regions().len(), 5);
    program.protect(2, 2, DATA).unwrap();
    assert_eq!(program.regions()[0], (0, 8, 3));
    // A child's lines are its own: what is mapped beside them stays apart.
    program.store(0, 5);
    let (space, memory) = program.memory.fork(&program.space, ()).unwrap();
    let parent = (core::mem::replace(&mut program.space, space), core::mem::replace(&mut program.memory, memory));
    program.map(8, 2, DATA, PRIVATE);
    assert_eq!(program.regions()[..2], [(0, 8, 3), (8, 10, 3)]);
    let child = (core::mem::replace(&mut program.space, parent.0), core::mem::replace(&mut program.memory, parent.1));
    program.map(8, 2, DATA, PRIVATE);
    assert_eq!(program.regions()[0], (0, 10, 3));
    drop(child);
    program.end();
}

#[test]
fn what_is_given_up_is_gone() {
    let mut program = Program::new();
    program.map(0, 8, DATA, PRIVATE);
    (0..8).for_each(|number| program.store(number, number + 1));
    let free = program.world.sim.free_frame_count();
    program.unmap(2, 3);
    assert_eq!(program.world.sim.free_frame_count(), free + 3);
    // Shrunk and grown again, it is zero.
    program.remap((5, 3), 1, RemapFlags::empty(), 0).unwrap();
    program.remap((5, 1), 3, RemapFlags::empty(), 0).unwrap();
    assert_eq!((program.load(5), program.load(6), program.load(7)), (6, 0, 0));
    program.advise(0, 1, Advice::DontNeed).unwrap();
    assert_eq!((program.load(0), program.load(1)), (0, 2));
    program.advise(1, 1, Advice::GuardInstall).unwrap();
    assert_eq!(program.signal(1, Access::READ), Some(Signal::NotMapped));
    program.advise(1, 1, Advice::GuardRemove).unwrap();
    assert_eq!(program.load(1), 0);
    // Shared memory is not given up.
    program.map(10, 2, DATA, SHARED);
    program.store(10, 7);
    program.advise(10, 2, Advice::DontNeed).unwrap();
    assert_eq!(program.load(10), 7);
    program.advise(10, 1, Advice::GuardInstall).unwrap();
    program.advise(10, 1, Advice::GuardRemove).unwrap();
    assert_eq!(program.load(10), 7);
    program.end();
}

#[test]
fn a_child_gets_what_it_is_to_get() {
    let mut program = Program::new();
    program.map(0, 5, DATA, PRIVATE);
    program.map(6, 1, DATA, SHARED);
    [0, 1, 2, 4, 6].into_iter().for_each(|number| program.store(number, number + 1));
    program.advise(1, 1, Advice::WipeOnFork).unwrap();
    program.advise(2, 1, Advice::DontFork).unwrap();
    program.advise(3, 1, Advice::GuardInstall).unwrap();
    program.advise(4, 1, Advice::DontFork).unwrap();
    program.advise(4, 1, Advice::DoFork).unwrap();
    program.map(7, 1, DATA, PRIVATE);
    program.advise(7, 1, Advice::WipeOnFork).unwrap();
    program.advise(7, 1, Advice::GuardInstall).unwrap();
    let (space, mut memory) = program.memory.fork(&program.space, ()).unwrap();
    program.store(0, 77);
    program.store(6, 78);
    let mut read = |number| {
        let mut word = [0; 8];
        memory.copy_in(&space, page(number), &mut word).map(|_| u64::from_ne_bytes(word))
    };
    let found = [0, 1, 2, 3, 4, 5, 6, 7].map(&mut read);
    assert_eq!(
        found,
        [Ok(1), Ok(0), Err(Errno::Fault), Err(Errno::Fault), Ok(5), Err(Errno::Fault), Ok(78), Ok(0)],
        "copied, wiped, kept, guarded, copied, nothing, shared, wiped with its guard"
    );
    drop((space, memory));
    program.end();
}

#[test]
fn files_stacks_and_the_break() {
    let mut program = Program::new();
    let file = Area::new(&program.world.sim, AreaKind::Paged { size: 2 * PAGE, key: 1 }, 0).unwrap();
    let request = file.request(0, 2 * PAGE).unwrap().unwrap();
    file.supply(request.token, 0, &[3; 2 * PAGE as usize]).unwrap();
    for (first, flags) in [(0, MapFlags::PRIVATE), (4, MapFlags::SHARED)] {
        let Program { space, memory, .. } = &mut program;
        let backing = Backing::Area { area: &file, offset: PAGE };
        memory.mmap(space, page(first), 3 * PAGE, DATA, flags | MapFlags::FIXED, backing).unwrap();
        assert_eq!(program.signal(first + 1, Access::READ), Some(Signal::NothingBehind), "past the end of the file");
    }
    assert_eq!(
        program.advise(0, 7, Advice::PopulateRead),
        Err(Errno::Fault),
        "the end of the file comes before the gap"
    );
    let word = u64::from_ne_bytes([3; 8]);
    assert_eq!((program.load(0), program.load(4)), (word, word));
    program.store(0, 1);
    assert_eq!((program.load(0), program.load(4)), (1, word), "the program's own");
    program.store(4, 2);
    assert_eq!((program.load(0), program.load(4)), (1, 2));
    program.advise(0, 1, Advice::DontNeed).unwrap();
    assert_eq!(program.load(0), 2, "the file shows again");
    // A stack comes down to what is touched, and its region with it.
    program.map(512, 1, DATA, PRIVATE | MapFlags::GROWS_DOWN);
    program.store(500, 9);
    assert_eq!(program.protect(499, 14, DATA), Err(Errno::NoMemory));
    assert_eq!(program.protect(500, 2, Protection::READ), Ok(()));
    assert_eq!(program.regions()[2..], [(500, 502, 1), (502, 513, 3)]);
    // The heap.
    program.memory.set_heap(page(20));
    let mut brk = |number: u64| program.memory.brk(&program.space, page(number));
    assert_eq!([brk(0), brk(23), brk(21), brk(600), brk(22)], [20, 23, 21, 21, 22].map(page));
    drop(file);
    program.end();
}

#[test]
fn locked_sealed_and_asked_about() {
    let mut program = Program::new();
    program.map(0, 4, DATA, PRIVATE);
    program.map(4, 1, Protection::empty(), PRIVATE);
    let Program { space, memory, .. } = &mut program;
    assert_eq!(memory.mlock(space, A + 5, 2 * PAGE - 10), Ok(()));
    let mut resident = [9; 8];
    assert_eq!(memory.mincore(space, A, 5 * PAGE, &mut resident), Ok(()));
    assert_eq!(resident, [1, 1, 0, 0, 0, 9, 9, 9]);
    assert_eq!(program.load(2), 0);
    let Program { space, memory, .. } = &mut program;
    assert_eq!(memory.mincore(space, A, 5 * PAGE, &mut resident), Ok(()));
    assert_eq!(resident, [1, 1, 1, 0, 0, 9, 9, 9], "also what was read and never written");
    assert_eq!(memory.mincore(space, A, 6 * PAGE, &mut resident), Err(Errno::NoMemory));
    assert_eq!(memory.mlock(space, page(3), 2 * PAGE), Err(Errno::NoMemory), "nothing may be accessed there");
    assert_eq!(memory.msync(space, A, PAGE, SyncFlags::INVALIDATE), Err(Errno::Busy));
    assert_eq!(program.advise(0, 1, Advice::DontNeed), Err(Errno::Invalid));
    assert_eq!(program.advise(0, 1, Advice::GuardInstall), Err(Errno::Invalid));
    assert_eq!(program.regions().len(), 3);
    program.memory.munlockall(&program.space).unwrap();
    assert_eq!(program.regions().len(), 2);
    program.memory.mseal(&program.space, page(1), PAGE).unwrap();
    assert_eq!(program.protect(0, 3, Protection::READ), Err(Errno::Permission));
    assert_eq!(program.memory.munmap(&program.space, page(1), PAGE), Err(Errno::Permission));
    assert_eq!(program.remap((1, 1), 1, MOVE, 20), Err(Errno::Permission));
    assert_eq!(program.remap((0, 1), 1, MOVE, 1), Err(Errno::Permission), "over what is sealed");
    assert_eq!(program.advise(1, 1, Advice::DontNeed), Err(Errno::Permission));
    program.end();
}

#[test]
fn copies_stop_at_what_is_not_allowed() {
    let mut program = Program::new();
    program.map(0, 2, DATA, PRIVATE);
    program.map(2, 1, Protection::READ, PRIVATE);
    program.map(3, 1, Protection::WRITE, PRIVATE);
    let Program { space, memory, .. } = &mut program;
    let mut bytes = vec![1; 5 * PAGE as usize];
    assert_eq!(memory.copy_out(space, page(1) + 8, &bytes), Ok(PAGE as usize - 8));
    assert_eq!(memory.copy_in(space, page(1), &mut bytes), Ok(2 * PAGE as usize));
    assert_eq!((bytes[7], bytes[8], bytes[PAGE as usize]), (0, 1, 0));
    assert_eq!(memory.copy_in(space, page(3), &mut bytes), Err(Errno::Fault), "what can only be written");
    assert_eq!(memory.copy_out(space, page(4), &bytes), Err(Errno::Fault));
    assert_eq!(program.load(3), 0, "though the processor lets it be read");
    assert_eq!(program.signal(2, Access::WRITE), Some(Signal::Denied));
    assert_eq!(program.signal(4, Access::READ), Some(Signal::NotMapped));
    program.end();
}

/// A file of so many pages that are all there; each holds its number, counted from 1, in every byte.
fn file_of(program: &Program, pages: u64) -> Area<Sim> {
    let file = Area::new(&program.world.sim, AreaKind::Paged { size: pages * PAGE, key: 1 }, 0).unwrap();
    let request = file.request(0, pages * PAGE).unwrap().unwrap();
    let bytes: Vec<u8> = (1..=pages as u8).flat_map(|number| [number; PAGE as usize]).collect();
    file.supply(request.token, 0, &bytes).unwrap();
    file
}

/// Maps a file at a page, from one of its pages on.
fn map_file(program: &mut Program, file: &Area<Sim>, (first, pages): (u64, u64), from: u64, flags: MapFlags) {
    let Program { space, memory, .. } = program;
    let backing = Backing::Area { area: file, offset: from * PAGE };
    let flags = flags | MapFlags::FIXED;
    assert_eq!(memory.mmap(space, page(first), pages * PAGE, DATA, flags, backing), Ok(page(first)));
}

/// A word of the file's page with this number, counted from 1.
fn word_of(number: u8) -> u64 {
    u64::from_ne_bytes([number; 8])
}

#[test]
fn what_a_private_mapping_of_a_file_grows_by_is_its_own() {
    let mut program = Program::new();
    let file = file_of(&program, 4);
    map_file(&mut program, &file, (0, 3), 1, MapFlags::PRIVATE);
    program.store(1, 7);
    // It grows over a page of the file that the rest of the mapping has a copy of.
    assert_eq!(program.remap((0, 1), 2, MOVE, 8), Ok(page(8)));
    assert_eq!((program.load(8), program.load(9)), (word_of(2), word_of(3)), "as the file has them");
    program.store(9, 9);
    assert_eq!((program.load(1), program.load(9)), (7, 9), "each has its copy");
    drop(file);
    program.end();
}

#[test]
fn a_private_mapping_may_begin_past_the_end_of_its_file() {
    let mut program = Program::new();
    let file = file_of(&program, 2);
    map_file(&mut program, &file, (0, 2), 2, MapFlags::PRIVATE);
    map_file(&mut program, &file, (4, 1), 7, MapFlags::PRIVATE | MapFlags::POPULATE);
    for number in [0, 1, 4] {
        assert_eq!(program.signal(number, Access::READ), Some(Signal::NothingBehind));
        assert_eq!(program.signal(number, Access::WRITE), Some(Signal::NothingBehind));
    }
    drop(file);
    program.end();
}

#[test]
fn of_a_mapping_past_the_end_of_its_file_what_there_is_is_populated() {
    let mut program = Program::new();
    let file = file_of(&program, 2);
    map_file(&mut program, &file, (0, 3), 0, MapFlags::PRIVATE | MapFlags::POPULATE);
    map_file(&mut program, &file, (4, 2), 0, MapFlags::SHARED);
    program.store(5, 5);
    assert_eq!((program.load(1), program.load(5)), (word_of(2), 5), "it has its copies from the start");
    drop(file);
    program.end();
}

#[test]
fn a_copy_into_a_file_and_a_private_page_of_it_makes_both_ready_first() {
    let mut program = Program::new();
    let file = file_of(&program, 1);
    map_file(&mut program, &file, (0, 1), 0, MapFlags::SHARED);
    map_file(&mut program, &file, (1, 1), 0, MapFlags::PRIVATE);
    let half = PAGE / 2;
    let Program { space, memory, .. } = &mut program;
    let bytes = vec![7; half as usize + 8];
    assert_eq!(memory.copy_out(space, page(0) + half, &bytes), Ok(bytes.len()));
    let mut seen = [0; 8];
    assert_eq!(memory.copy_in(space, page(1) + half, &mut seen), Ok(8));
    assert_eq!(seen, [1; 8], "what the file held before");
    assert_eq!(memory.copy_in(space, page(1), &mut seen), Ok(8));
    assert_eq!(seen, [7; 8]);
    drop(file);
    program.end();
}

#[test]
fn a_guard_keeps_anonymous_neighbours_apart_and_not_those_of_a_file() {
    let mut program = Program::new();
    let file = file_of(&program, 2);
    for (of_file, regions) in [(true, 1), (false, 2)] {
        let Program { space, memory, .. } = &mut program;
        for (number, protection) in [(0, DATA), (1, Protection::READ)] {
            let (flags, backing) = match of_file {
                true => (MapFlags::PRIVATE, Backing::Area { area: &file, offset: number * PAGE }),
                false => (PRIVATE, Backing::Anonymous),
            };
            memory.mmap(space, page(number), PAGE, protection, flags | MapFlags::FIXED, backing).unwrap();
        }
        memory.madvise(space, page(1), PAGE, Advice::GuardInstall).unwrap();
        program.store(0, 1);
        let Program { space, memory, .. } = &mut program;
        memory.mprotect(space, page(1), PAGE, DATA).unwrap();
        assert_eq!(memory.regions().count(), regions, "of a file: {of_file}");
    }
    drop(file);
    program.end();
}

#[test]
fn neighbours_become_one_in_a_child_as_in_linux() {
    let mut program = Program::new();
    // A guard in shared memory does not tell regions apart.
    program.map(0, 5, Protection::empty(), SHARED);
    program.advise(2, 1, Advice::GuardInstall).unwrap();
    program.protect(3, 1, DATA).unwrap();
    // A write that was refused past the end of a file does.
    let file = file_of(&program, 1);
    map_file(&mut program, &file, (8, 7), 1, MapFlags::PRIVATE);
    assert_eq!(program.signal(9, Access::WRITE), Some(Signal::NothingBehind));
    program.protect(13, 1, Protection::READ).unwrap();
    let (space, mut memory) = program.memory.fork(&program.space, ()).unwrap();
    memory.mprotect(&space, page(2), 3 * PAGE, DATA).unwrap();
    memory.mprotect(&space, page(10), 4 * PAGE, DATA).unwrap();
    let pages = |address: u64| (address - A) / PAGE;
    let regions = memory.regions().map(|region| (pages(region.start), pages(region.start + region.size)));
    assert_eq!(regions.collect::<Vec<_>>(), [(0, 2), (2, 5), (8, 13), (13, 14), (14, 15)]);
    drop((space, memory, file));
    program.end();
}

/// A region was written to before the one beside it became a part of another: what it may become one with was decided then.
#[test]
fn a_neighbours_neighbour_was_written_to_before() {
    let mut program = Program::new();
    program.map(0, 3, DATA, PRIVATE);
    program.map(3, 1, Protection::WRITE, PRIVATE);
    program.map(4, 1, Protection::READ | Protection::EXECUTE | Protection::WRITE, PRIVATE);
    program.store(1, 1);
    program.store(4, 4);
    program.protect(2, 1, Protection::WRITE).unwrap();
    program.protect(4, 1, Protection::WRITE).unwrap();
    assert_eq!(program.regions(), [(0, 2, 3), (2, 4, 2), (4, 5, 2)]);
    program.end();
}

/// Regions of which each carries the one before on were written to in order; a call looks at the last of them first.
#[test]
fn a_line_goes_from_neighbour_to_neighbour() {
    let mut program = Program::new();
    for (first, pages, protection) in
        [(0, 8, Protection::WRITE), (8, 1, DATA), (9, 1, Protection::WRITE), (10, 1, DATA)]
    {
        program.map(first, pages, protection, PRIVATE);
    }
    (7..11).for_each(|number| program.store(number, number));
    program.unmap(11, 1);
    program.protect(3, 6, Protection::READ).unwrap();
    assert_eq!(program.regions(), [(0, 3, 2), (3, 9, 1), (9, 10, 2), (10, 11, 3)]);
    program.end();
}

#[test]
fn msync_of_a_length_that_is_none() {
    let mut program = Program::new();
    let Program { space, memory, .. } = &mut program;
    let mut sync = |address, length| memory.msync(space, address, length, SyncFlags::SYNC);
    assert_eq!(sync(A, u64::MAX), Ok(()), "rounded up it is nothing");
    assert_eq!(sync(A, PAGE.wrapping_neg()), Err(Errno::NoMemory));
    assert_eq!(sync(A, 1 << 47), Err(Errno::NoMemory));
    assert_eq!(sync(A + 1, 0), Err(Errno::Invalid));
    program.end();
}

/// (Each result as Linux 6.18 has it.)
#[test]
fn an_old_size_of_0_shows_shared_memory_twice() {
    let mut program = Program::new();
    program.map(0, 4, DATA, SHARED);
    program.store(1, 7);
    program.advise(0, 4, Advice::DontFork).unwrap();
    assert_eq!(program.remap((1, 0), 2, MOVE, 20), Ok(page(20)));
    assert_eq!(program.regions(), [(0, 4, 3), (20, 22, 3)]);
    assert_eq!(program.load(20), 7);
    program.store(21, 8);
    assert_eq!(program.load(2), 8, "they are the same pages");
    // Farther than the memory goes.
    assert_eq!(program.remap((2, 0), 6, MOVE, 30), Ok(page(30)));
    assert_eq!(program.load(30), 8);
    assert_eq!(program.signal(32, Access::READ), Some(Signal::NothingBehind));
    // In the place of a part of what is shown.
    assert_eq!(program.remap((0, 0), 2, MOVE, 3), Ok(page(3)));
    program.store(0, 9);
    assert_eq!((program.load(3), program.load(4)), (9, 7));
    assert_eq!(program.regions()[..2], [(0, 3, 3), (3, 5, 3)]);
    // A place that is found.
    let found = program.remap((1, 0), 1, RemapFlags::MAY_MOVE, 0).unwrap();
    assert_eq!(load(&program.world.sim, 0, &program.space, found), Ok(7));
    let (space, _) = program.memory.fork(&program.space, ()).unwrap();
    assert_eq!(space.windows().count(), 0, "what is said of the memory goes along");
    drop(space);
    let before = program.regions();
    assert_eq!(program.remap((0, 0), 1, RemapFlags::empty(), 0), Err(Errno::NoMemory));
    assert_eq!(program.remap((0, 0), 0, MOVE, 40), Err(Errno::Invalid));
    assert_eq!(program.remap((0, 0), 1, MOVE, 0), Err(Errno::Fault), "it would go first");
    assert_eq!(program.remap((50, 0), 1, MOVE, 40), Err(Errno::Fault));
    let kept = RemapFlags::MAY_MOVE | RemapFlags::DONT_UNMAP;
    assert_eq!(program.remap((0, 0), 1, kept, 40), Err(Errno::Invalid));
    program.map(60, 2, DATA, PRIVATE);
    assert_eq!(program.remap((60, 0), 1, MOVE, 40), Err(Errno::Invalid));
    assert_eq!(program.remap((60, 0), 1, RemapFlags::empty(), 0), Err(Errno::Invalid));
    assert_eq!(program.load(0), 9);
    assert_eq!(program.regions()[..before.len() - 1], before[..before.len() - 1]);
    program.map(70, 2, DATA, SHARED);
    program.memory.mlock(&program.space, page(70), 2 * PAGE).unwrap();
    let Program { space, memory, .. } = &mut program;
    assert_eq!(memory.mremap(space, page(70), 0, 2 * PAGE, MOVE, page(80)), Ok(page(80)));
    assert_eq!(memory.madvise(space, page(81), PAGE, Advice::DontNeed), Err(Errno::Invalid), "it is locked as well");
    program.end();
}

/// Of a range that goes on past the last address, what lies before decides. (As Linux 6.18 has it.)
#[test]
fn what_lies_before_the_last_address_comes_first() {
    let mut program = Program::new();
    let past = (1 << 47) + (1 << 28) - A;
    let advise = |program: &mut Program, advice| program.memory.madvise(&program.space, A, past, advice);
    let populates = [Advice::PopulateRead, Advice::PopulateWrite];
    assert_eq!(populates.map(|advice| advise(&mut program, advice)), [Err(Errno::NoMemory); 2], "nothing is there");
    program.map(0, 2, Protection::empty(), PRIVATE);
    assert_eq!(populates.map(|advice| advise(&mut program, advice)), [Err(Errno::Invalid); 2]);
    program.map(0, 2, Protection::READ, PRIVATE);
    assert_eq!(advise(&mut program, Advice::PopulateRead), Err(Errno::NoMemory));
    assert_eq!(advise(&mut program, Advice::PopulateWrite), Err(Errno::Invalid));
    for guarded in [0, 1] {
        program.map(0, 2, DATA, PRIVATE);
        program.advise(guarded, 1, Advice::GuardInstall).unwrap();
        assert_eq!(populates.map(|advice| advise(&mut program, advice)), [Err(Errno::Fault); 2]);
    }
    program.map(0, 2, DATA, PRIVATE);
    program.store(0, 1);
    assert_eq!(advise(&mut program, Advice::DontNeed), Err(Errno::NoMemory));
    assert_eq!(program.load(0), 1, "nothing was discarded");
    program.map(0, 2, DATA, SHARED);
    assert_eq!(advise(&mut program, Advice::WipeOnFork), Err(Errno::Invalid));
    assert_eq!(advise(&mut program, Advice::Free), Err(Errno::Invalid));
    assert_eq!(advise(&mut program, Advice::DontFork), Err(Errno::NoMemory));
    let Program { space, memory, .. } = &mut program;
    let mut said = [0; 4];
    let beyond = 1 << 47;
    assert_eq!(memory.madvise(space, beyond, PAGE, Advice::PopulateRead), Err(Errno::NoMemory));
    assert_eq!(memory.madvise(space, beyond, PAGE, Advice::DontNeed), Err(Errno::NoMemory));
    assert_eq!(memory.madvise(space, A, u64::MAX, Advice::PopulateRead), Err(Errno::Invalid));
    assert_eq!(memory.mincore(space, A + 1, PAGE, &mut said), Err(Errno::Invalid));
    for (start, length) in
        [(A, past), (A, u64::MAX), (A, PAGE.wrapping_neg()), (beyond, PAGE), (u64::MAX - 0xfff, PAGE)]
    {
        assert_eq!(memory.mincore(space, start, length, &mut said), Err(Errno::NoMemory), "{start:#x} {length:#x}");
    }
    program.end();
}

/// What can be accessed of locked memory is there; the rest comes when it can be written to. (As Linux 6.18 has it.)
#[test]
fn locked_memory_that_cannot_be_there_is_locked_all_the_same() {
    let mut program = Program::new();
    let there = |program: &mut Program, first: u64, pages: usize| {
        let mut said = vec![2; pages];
        program.memory.mincore(&program.space, page(first), pages as u64 * PAGE, &mut said).unwrap();
        said
    };
    let is_locked = |program: &mut Program, first| program.advise(first, 1, Advice::DontNeed) == Err(Errno::Invalid);
    program.map(0, 2, DATA, PRIVATE);
    program.map(2, 2, Protection::empty(), PRIVATE);
    program.map(4, 2, Protection::READ, PRIVATE);
    program.map(6, 2, DATA, SHARED);
    program.map(10, 3, DATA, PRIVATE);
    program.advise(11, 1, Advice::GuardInstall).unwrap();
    assert_eq!(program.memory.mlockall(&program.space, true, false), Ok(()));
    assert_eq!(there(&mut program, 0, 4), [1, 1, 0, 0]);
    assert_eq!(there(&mut program, 6, 2), [1, 1]);
    assert_eq!(there(&mut program, 10, 3), [1, 0, 0], "up to the guard");
    assert!([0, 2, 4, 6, 10].into_iter().all(|first| is_locked(&mut program, first)));
    // Read-only memory does not come by being made writable later than locked, but what was not accessible does.
    program.protect(2, 1, DATA).unwrap();
    assert_eq!(there(&mut program, 2, 2), [1, 0]);
    program.memory.munlockall(&program.space).unwrap();
    assert!(![0, 2, 4, 6].into_iter().any(|first| is_locked(&mut program, first)));
    program.unmap(0, 20);
    program.map(0, 2, Protection::empty(), PRIVATE | MapFlags::LOCKED);
    assert!(is_locked(&mut program, 0));
    assert_eq!(there(&mut program, 0, 2), [0, 0]);
    program.protect(0, 2, DATA).unwrap();
    assert_eq!(there(&mut program, 0, 2), [1, 1]);
    // All that comes from now on, the heap as well.
    program.memory.set_heap(page(40));
    assert_eq!(program.memory.mlockall(&program.space, false, true), Ok(()));
    program.map(20, 1, DATA, PRIVATE);
    program.map(22, 1, Protection::empty(), PRIVATE);
    assert_eq!(program.memory.brk(&program.space, page(41)), page(41));
    assert!([20, 22, 40].into_iter().all(|first| is_locked(&mut program, first)));
    assert_eq!((there(&mut program, 20, 1), there(&mut program, 40, 1)), (vec![1], vec![1]));
    assert_eq!(program.memory.mlockall(&program.space, false, false), Err(Errno::Invalid));
    program.end();
}

/// What grows in place is the region's that grows: in a child as well it becomes one with what is behind and was never written to.
#[test]
fn memory_of_a_child_that_grows_becomes_one_with_what_is_behind() {
    let mut program = Program::new();
    program.map(0, 12, DATA, PRIVATE);
    program.unmap(9, 2);
    program.store(0, 1);
    let (space, mut memory) = program.memory.fork(&program.space, ()).unwrap();
    let mut grow = |first, pages: u64, to: u64| {
        memory.mremap(&space, page(first), pages * PAGE, to * PAGE, RemapFlags::empty(), 0)
    };
    assert_eq!(grow(7, 2, 4), Ok(page(7)));
    // No more than one region can grow.
    assert_eq!(grow(8, 4, 5), Ok(page(8)));
    drop((space, memory));
    program.end();
}
