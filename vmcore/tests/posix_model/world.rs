//! The library beside the model: programs on CPUs of their own, and what is compared after each call.

use std::cell::Cell;
use std::fmt::Write as _;

use vmcore::Platform as _;
use vmcore::addr::VirtAddr;
use vmcore::frame::FrameUse;
use vmcore::inspect::{SpaceMap, SpaceTables};
use vmcore::paging::{Access, Mmu as _};
use vmcore::posix::{Backing, Errno, MapFlags, Memory, Protection, RemapFlags, Signal, SyncFlags};
use vmcore::sim::{FrameCounts, Sim, SimFault};
use vmcore::vm_space::{Fault, Space};

use super::call::{Call, FIRST, PAGES, What};
use super::model::{Model, Outcome, Page, Program, WORD_AT, any, has_hole};

const PAGE: u64 = 0x1000;
const KERNEL_START: u64 = 0xffff_ff80_0000_0000;
const KERNEL_SIZE: u64 = 0x80_0000_0000;
/// How many programs there are at a time, each on a CPU of its own.
const PROGRAMS: usize = 3;

thread_local! {
    /// The CPU that acts.
    static CPU: Cell<usize> = const { Cell::new(0) };
}

struct Process {
    space: Space<Sim>,
    memory: Memory<Sim>,
    pages: Program,
}

pub(crate) struct World {
    sim: Sim,
    start: FrameCounts,
    kernel: Option<Space<Sim>>,
    model: Model,
    processes: [Option<Process>; PROGRAMS],
    value: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let sim = Sim::builder().frames(2048).cpus(PROGRAMS).cpu_of_caller(|| CPU.get()).build();
        let start = sim.frame_counts();
        let bounds = sim.machine().mmu().range(KERNEL_START, KERNEL_SIZE).unwrap();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        for cpu in 0..PROGRAMS {
            CPU.set(cpu);
            sim.activate(cpu, &kernel.activate(cpu));
        }
        let (space, mut memory) = (Space::user(&kernel, ()).unwrap(), Memory::new(&sim, 0));
        memory.place_within(space.range(FIRST * PAGE, PAGES * PAGE).unwrap());
        let mut world =
            Self { sim, start, kernel: Some(kernel), model: Model::default(), processes: Default::default(), value: 1 };
        world.enter(0, Process { space, memory, pages: Program::new() });
        world
    }

    fn enter(&mut self, cpu: usize, process: Process) {
        CPU.set(cpu);
        self.sim.activate(cpu, &process.space.activate(cpu));
        self.processes[cpu] = Some(process);
    }

    fn exit(&mut self, cpu: usize) {
        let Some(process) = self.processes[cpu].take() else { return };
        CPU.set(cpu);
        self.sim.activate(cpu, &self.kernel.as_ref().unwrap().activate(cpu));
        // SAFETY: the kernel's root was loaded on that CPU.
        unsafe { process.space.deactivate(cpu) };
    }

    /// Makes a call, and compares.
    pub(crate) fn step(&mut self, call: &Call) {
        self.sim.begin_change(format!("{call:?}"));
        let there: Vec<usize> = (0..PROGRAMS).filter(|cpu| self.processes[*cpu].is_some()).collect();
        let cpu = there[call.process % there.len()];
        CPU.set(cpu);
        let mut process = self.processes[cpu].take().expect("it is there");
        match call.what {
            What::Fork => {
                if let Some(free) = (0..PROGRAMS).find(|other| *other != cpu && self.processes[*other].is_none()) {
                    let result = self.call(call, &mut process, |process| process.memory.fork(&process.space, ()));
                    let (space, memory) = result.expect("there are frames");
                    let pages = self.model.fork(&process.pages);
                    self.enter(free, Process { space, memory, pages });
                    CPU.set(cpu);
                }
            }
            What::Exit if there.len() > 1 => {
                self.processes[cpu] = Some(process);
                self.exit(cpu);
                return self.check();
            }
            What::Exit => {}
            _ => self.act(cpu, call, &mut process),
        }
        self.processes[cpu] = Some(process);
        self.check();
    }

    /// Makes a call, first with a request for frames refused, if it says so: if it fails for that, nothing was changed.
    fn call<T>(
        &self,
        call: &Call,
        process: &mut Process,
        make: impl Fn(&mut Process) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Some((number, all_later)) = call.refused else { return make(process) };
        let before = self.dump(process);
        if all_later {
            self.sim.fail_allocation_after(number);
        } else {
            self.sim.fail_kth(number);
        }
        let requests = self.sim.allocation_requests();
        let result = make(process);
        let ran_out = self.sim.allocation_requests() - requests > number;
        self.sim.fail_never();
        match result {
            Err(Errno::NoMemory) if ran_out => {
                assert_eq!(self.dump(process), before, "request {number} was refused, and not everything is as before");
                make(process)
            }
            other => other,
        }
    }

    /// Everything that can be observed of a program but what it stores.
    fn dump(&self, process: &Process) -> String {
        let mut text = String::new();
        writeln!(text, "{}\n{}", SpaceMap(&process.space), SpaceTables(&process.space)).unwrap();
        writeln!(text, "{:?} {:?}", process.memory, process.space.counters()).unwrap();
        writeln!(text, "{} pages", self.sim.frame_counts().of(FrameUse::Page)).unwrap();
        text
    }

    fn act(&mut self, cpu: usize, call: &Call, process: &mut Process) {
        let (address, length, range) = (call.page * PAGE, call.pages * PAGE, call.range());
        // What is refused, and only that, for one of these reasons.
        let decide = |result: Result<(), Errno>, reasons: Vec<Errno>| match result {
            Ok(()) => assert_eq!(reasons, [], "{call:?} was made, but is to be refused"),
            Err(errno) => {
                assert!(reasons.contains(&errno), "{call:?} was refused with {errno:?}, expected {reasons:?}")
            }
        };
        let reason = |is: bool, errno: Errno| is.then_some(errno);
        let sealed = any(&process.pages, range.clone(), |page| page.sealed);
        let hole = has_hole(&process.pages, range.clone());
        match call.what {
            What::Map { protection, flags } => self.map(call, process, protection, flags),
            What::Unmap => {
                let result = self.call(call, process, |p| p.memory.munmap(&p.space, address, length));
                let reasons = [reason(length == 0, Errno::Invalid), reason(sealed, Errno::Permission)];
                decide(result, reasons.into_iter().flatten().collect());
                if result.is_ok() {
                    process.pages.retain(|page, _| !range.contains(page));
                }
            }
            What::Protect(protection) => {
                let result = self.call(call, process, |p| p.memory.mprotect(&p.space, address, length, protection));
                let reasons = [reason(hole, Errno::NoMemory), reason(sealed, Errno::Permission)];
                decide(result, reasons.into_iter().flatten().collect());
                if result.is_ok() {
                    process.pages.range_mut(range).for_each(|(_, page)| page.protection = protection);
                }
            }
            What::Remap { pages, flags, new } => self.remap(call, process, pages, flags, new),
            What::Advise(advice) => {
                let reasons = self.model.refusals(&process.pages, range.clone(), advice);
                let result = self.call(call, process, |p| p.memory.madvise(&p.space, address, length, advice));
                decide(result, reasons);
                if result.is_ok() {
                    self.model.advise(&mut process.pages, range, advice);
                }
            }
            What::Lock => {
                let refused = self.model.refuses_lock(&process.pages, range.clone());
                let result = self.call(call, process, |p| p.memory.mlock(&p.space, address, length));
                decide(result, reason(refused, Errno::NoMemory).into_iter().collect());
                if result.is_ok() {
                    process.pages.range_mut(range).for_each(|(_, page)| page.locked = true);
                }
            }
            What::Unlock => {
                let result = self.call(call, process, |p| p.memory.munlock(&p.space, address, length));
                decide(result, reason(hole, Errno::NoMemory).into_iter().collect());
                if result.is_ok() {
                    process.pages.range_mut(range).for_each(|(_, page)| page.locked = false);
                }
            }
            What::Seal => {
                let result = self.call(call, process, |p| p.memory.mseal(&p.space, address, length));
                decide(result, reason(hole, Errno::NoMemory).into_iter().collect());
                if result.is_ok() {
                    process.pages.range_mut(range).for_each(|(_, page)| page.sealed = true);
                }
            }
            What::Query => {
                let mut states = vec![2; call.pages as usize];
                let result = process.memory.mincore(&process.space, address, length, &mut states);
                decide(result, reason(hole, Errno::NoMemory).into_iter().collect());
                assert!(result.is_err() || states.iter().all(|state| *state < 2), "{states:?}");
                for (page, state) in range.clone().zip(&states) {
                    assert!(
                        *state != 1
                            || process.pages.get(&page).is_some_and(|page| !page.guard || page.shared.is_some())
                    );
                }
                let result = process.memory.msync(&process.space, address, length, SyncFlags::SYNC);
                decide(result, reason(hole, Errno::NoMemory).into_iter().collect());
            }
            What::Write { word } => self.store(call, cpu, process, word),
            What::Read { word } => self.load(call, cpu, process, call.page, word),
            What::CopyIn { words } => {
                let expected = self.model.copied(&process.pages, call.page, words, false);
                let (from, mut bytes) = (address + WORD_AT[1], vec![0; 8 * words]);
                match process.memory.copy_in(&process.space, from, &mut bytes) {
                    Ok(done) => assert_eq!((done, expected > 0), (8 * expected, true), "{call:?}"),
                    Err(errno) => assert_eq!((errno, expected), (Errno::Fault, 0), "{call:?}"),
                }
                for (step, bytes) in bytes.chunks(8).enumerate().take(expected) {
                    let value = u64::from_ne_bytes(bytes.try_into().unwrap());
                    let (page, word) = (call.page + step as u64, 1 - step);
                    assert!(self.model.read(&mut process.pages, page, word, value), "{call:?} gave {value:#x}");
                }
            }
            What::CopyOut { words } => {
                let expected = self.model.copied(&process.pages, call.page, words, true);
                let values: Vec<u64> = (0..words as u64).map(|step| self.value + step).collect();
                self.value += words as u64;
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
                match process.memory.copy_out(&process.space, address + WORD_AT[1], &bytes) {
                    Ok(done) => assert_eq!((done, expected > 0), (8 * expected, true), "{call:?}"),
                    Err(errno) => assert_eq!((errno, expected), (Errno::Fault, 0), "{call:?}"),
                }
                for (step, value) in values.into_iter().enumerate().take(expected) {
                    self.model.write(&mut process.pages, call.page + step as u64, 1 - step, value);
                }
            }
            What::Prefetch => self.sim.prefetch(cpu, VirtAddr::new(address)),
            What::Fork | What::Exit => {}
        }
    }

    fn map(&mut self, call: &Call, process: &mut Process, protection: Protection, flags: MapFlags) {
        let (address, length, range) = (call.page * PAGE, call.pages * PAGE, call.range());
        let fixed = flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NO_REPLACE);
        let occupied = any(&process.pages, range.clone(), |_| true);
        let sealed = any(&process.pages, range.clone(), |page| page.sealed);
        let expected = match () {
            () if length == 0 => Some(Errno::Invalid),
            () if flags.contains(MapFlags::FIXED_NO_REPLACE) && occupied => Some(Errno::Exists),
            () if fixed && sealed => Some(Errno::Permission),
            () => None,
        };
        let backing = Backing::Anonymous;
        let result = self.call(call, process, |p| p.memory.mmap(&p.space, address, length, protection, flags, backing));
        let start = match (result, expected) {
            (Ok(start), None) => start / PAGE,
            (Err(errno), Some(expected)) => return assert_eq!(errno, expected, "{call:?}"),
            (Err(Errno::NoMemory), None) if !fixed => {
                assert!(!has_gap(&process.pages, call.pages), "{call:?} found no gap");
                return;
            }
            other => panic!("{call:?}: {other:?}"),
        };
        if fixed || !occupied {
            assert_eq!(start, call.page, "{call:?}");
        } else {
            let inside = FIRST <= start && start + call.pages <= FIRST + PAGES;
            assert!(inside && !any(&process.pages, start..start + call.pages, |_| true), "{call:?} is at {start:#x}");
        }
        let shared = flags.contains(MapFlags::SHARED).then(|| self.model.object(call.pages));
        // As on Linux, it is locked although it cannot be there.
        for step in 0..call.pages {
            let mut page = Page::new(protection, shared.map(|object| (object, step)));
            page.locked = flags.contains(MapFlags::LOCKED);
            process.pages.insert(start + step, page);
        }
    }

    fn remap(&mut self, call: &Call, process: &mut Process, pages: u64, flags: RemapFlags, new: u64) {
        let (address, range) = (call.page * PAGE, call.range());
        let fixed = flags.contains(RemapFlags::FIXED);
        let keeps_old = flags.contains(RemapFlags::DONT_UNMAP);
        let target = new..new + pages;
        let result = self.call(call, process, |p| {
            p.memory.mremap(&p.space, address, call.pages * PAGE, pages * PAGE, flags, new * PAGE)
        });
        let is_sealed = |pages: core::ops::Range<u64>| any(&process.pages, pages, |page| page.sealed);
        let overlaps = fixed && target.start < range.end && range.start < target.end;
        let begins = process.pages.contains_key(&call.page);
        match result {
            Ok(at) => {
                let at = at / PAGE;
                assert!(pages != 0 && begins && !overlaps, "{call:?} is to be refused");
                assert!(!fixed || at == new, "{call:?} went to {at:#x}");
                let to = at..at + pages;
                // What goes, and what it takes the place of.
                let gone = if at == call.page { call.page + pages.min(call.pages)..range.end } else { range.clone() };
                assert!(!is_sealed(gone), "{call:?} moved what is sealed");
                if !fixed && at != call.page {
                    let inside = FIRST <= to.start && to.end <= FIRST + PAGES;
                    assert!(inside && !any(&process.pages, to.clone(), |_| true), "{call:?} went to {at:#x}");
                }
                if call.pages == 0 {
                    assert!(
                        !is_sealed(call.page..call.page + 1) && !is_sealed(to.clone()),
                        "{call:?} duplicated or replaced what is sealed"
                    );
                    self.model.duplicate(&mut process.pages, call.page, to);
                } else {
                    self.model.remap(&mut process.pages, range, to, keeps_old);
                }
            }
            Err(errno) => {
                let sealed = is_sealed(range) || is_sealed(target);
                let simple = fixed && pages == call.pages && pages != 0 && begins && !overlaps && !sealed;
                assert!(!simple, "{call:?} was refused with {errno:?}");
            }
        }
    }

    /// Makes an access as a CPU with a fault handler does, the first fault with a request for frames refused if the call says so.
    fn access<T>(
        &self,
        call: Option<&Call>,
        process: &mut Process,
        address: u64,
        write: bool,
        attempt: impl Fn() -> Result<T, SimFault>,
    ) -> Result<T, Outcome> {
        let mut refused = call.and_then(|call| call.refused);
        for _ in 0..5 {
            let fault = match attempt() {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            if let Some((number, _)) = refused {
                self.sim.fail_allocation_after(number);
            }
            let access = Access::USER | if write { Access::WRITE } else { Access::READ };
            let fault = Fault::new(address, access).present(fault.is_present());
            let result = process.space.fault(fault);
            self.sim.fail_never();
            match result {
                Ok(flush) => {
                    flush.complete();
                }
                Err(error) => match process.memory.signal(&process.space, fault, error) {
                    Some(Signal::NotMapped) => return Err(Outcome::NotMapped),
                    Some(Signal::Denied) => return Err(Outcome::Denied),
                    Some(Signal::NothingBehind) => return Err(Outcome::NothingBehind),
                    Some(Signal::OutOfMemory) if refused.is_some() => refused = None,
                    other => panic!("{other:?} for {error:?} at {address:#x}"),
                },
            }
        }
        panic!("the fault repeats although it was resolved:\n{}", process.space.walk(VirtAddr::new(address)));
    }

    fn store(&mut self, call: &Call, cpu: usize, process: &mut Process, word: usize) {
        self.value += 1;
        let (value, at) = (self.value, VirtAddr::new(call.page * PAGE + WORD_AT[word]));
        let attempt = || self.sim.write_u64(cpu, at, true, value);
        let outcome = match self.access(Some(call), process, at.as_u64(), true, attempt) {
            Ok(()) => Outcome::Done,
            Err(outcome) => outcome,
        };
        assert_eq!(outcome, self.model.outcome(&process.pages, call.page, true), "{call:?}");
        if outcome == Outcome::Done {
            self.model.write(&mut process.pages, call.page, word, value);
        }
    }

    fn load(&self, call: &Call, cpu: usize, process: &mut Process, page: u64, word: usize) {
        let at = VirtAddr::new(page * PAGE + WORD_AT[word]);
        let result = self.access(Some(call), process, at.as_u64(), false, || self.sim.read_u64(cpu, at, true));
        let expected = self.model.outcome(&process.pages, page, false);
        match result {
            Ok(value) => {
                assert_eq!(expected, Outcome::Done, "{call:?} read page {page:#x}");
                assert!(
                    self.model.read(&mut process.pages, page, word, value),
                    "{call:?}: page {page:#x} has {value:#x}"
                );
            }
            Err(outcome) => assert_eq!(outcome, expected, "{call:?} of page {page:#x}"),
        }
    }

    /// Compares what every program has.
    fn check(&self) {
        self.sim.assert_no_violation();
        for process in self.processes.iter().flatten() {
            let mut found = Vec::new();
            for region in process.memory.regions() {
                let first = region.start / PAGE;
                let pages = first..first + region.size / PAGE;
                found.extend(pages.map(|page| (page, region.protection, region.shared)));
            }
            let expected = process.pages.iter().map(|(number, page)| (*number, page.protection, page.shared.is_some()));
            assert!(
                expected.clone().eq(found.iter().copied()),
                "{found:?}, expected {:?}",
                expected.collect::<Vec<_>>()
            );
            assert_eq!(process.space.counters().reserved, process.pages.len() as u64 * PAGE);
        }
        self.sim.check_translations();
    }

    /// Reads every page of every program, ends them, and has every frame back.
    pub(crate) fn end(mut self) {
        let call = Call::of([27, 0, 0, 0, 0, 0, 0]);
        for cpu in 0..PROGRAMS {
            let Some(mut process) = self.processes[cpu].take() else { continue };
            CPU.set(cpu);
            for page in FIRST..FIRST + PAGES {
                (0..WORD_AT.len()).for_each(|word| self.load(&call, cpu, &mut process, page, word));
            }
            self.processes[cpu] = Some(process);
        }
        self.check();
        (0..PROGRAMS).for_each(|cpu| self.exit(cpu));
        let kernel = self.kernel.take().unwrap();
        for cpu in 0..PROGRAMS {
            CPU.set(cpu);
            self.sim.unload(cpu);
            // SAFETY: no root is loaded there any more.
            unsafe { kernel.deactivate(cpu) };
        }
        kernel.destroy().map_err(|(_, error)| error).unwrap().complete();
        self.sim.assert_no_violation();
        assert_eq!(self.sim.frame_counts(), self.start, "frames are lost: {:?}", self.sim.machine().counters());
        assert_eq!(self.sim.machine().counters().refused_frees, 0);
    }
}

/// Whether so many pages are free in a row.
fn has_gap(program: &Program, pages: u64) -> bool {
    (FIRST..=(FIRST + PAGES).saturating_sub(pages)).any(|first| !any(program, first..first + pages, |_| true))
}
