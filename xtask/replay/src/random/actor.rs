//! A process: it makes calls and accesses, sees what came of them, and compares.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use vmcore::posix::{Advice, Backing, Errno, MapFlags, Memory, Protection, RemapFlags, SyncFlags};
use vmcore::sim::Sim;
use vmcore::vm_area::Area;
use vmcore::vm_space::{PageSets, Space};

use super::recording::{Expected, State, Step};
use super::shape::{Regions, Shape, bits_of, map};
use super::{BASE, PAGES, handles};
use crate::call::{Call, File};
use crate::report::Report;
use crate::world::{Outcome, PAGE, Process, World};

/// What a difference is told with.
pub(super) type Line<'a> = &'a dyn Fn() -> String;

/// All that is seen of a process in the window of all that happens, to be compared with what is recorded, and with what it is later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// The windows, where each begins, what a clone gets of them, and the pages: as the space has it.
    pub(super) pages: PageSets,
    /// The regions.
    pub(super) regions: Regions,
}

impl Seen {
    pub(super) fn of(space: &Space<Sim>, memory: &Memory<Sim>) -> Self {
        Self { pages: pages_of(space), regions: Regions::of(memory) }
    }

    /// Whether nothing but what other processes change is different: pages of shared memory, and pages of files that private memory shows.
    fn is_as(&self, other: &Self) -> bool {
        let (shared, files) = (self.regions.shape.shared, self.regions.files);
        let own = |seen: &Self| {
            let mut pages = seen.pages;
            pages.resident &= !shared & !files;
            pages.dirty &= !shared;
            pages
        };
        self.regions == other.regions && own(self) == own(other)
    }
}

/// What the space says of the window.
fn pages_of(space: &Space<Sim>) -> PageSets {
    let range = space.range(BASE, PAGES * PAGE).expect("the window lies in the space");
    space.page_sets(range).expect("it is a range of the space")
}

/// A process, and what the comparison knows of it.
pub(super) struct Actor {
    pub(super) process: Process,
    /// What was seen of it last.
    pub(super) seen: Seen,
    /// The private pages that were written, the shared ones that were touched, those that a child gets wiped or not at all, and those that are locked: a bit for each.
    pub(super) written: u64,
    pub(super) touched: u64,
    pub(super) wiped: u64,
    pub(super) kept: u64,
    /// Whether something was mapped that grows when it is touched.
    pub(super) stacks: bool,
    /// Whether memory runs out.
    pub(super) starved: bool,
    /// How many calls it made.
    pub(super) calls: u64,
    /// The pages that were there before the call, as far as it reads several; and the shared ones that Linux has after it.
    pub(super) resident_before: u64,
    pub(super) recorded: u64,
    /// Where copies go.
    copied: Vec<u8>,
}

impl Actor {
    /// What a process is when it begins, which maps these files.
    pub(super) fn first(process: Process, files: &[Area<Sim>], starved: bool) -> Self {
        Self { starved, ..Self::new(process, files) }
    }

    fn new(mut process: Process, files: &[Area<Sim>]) -> Self {
        process.files = handles(files);
        process.zeros = true;
        Self {
            seen: Seen::of(&process.space, &process.memory),
            process,
            written: 0,
            touched: 0,
            wiped: 0,
            kept: 0,
            stacks: false,
            starved: false,
            calls: 0,
            resident_before: u64::MAX,
            recorded: 0,
            copied: Vec::new(),
        }
    }

    pub(super) fn fork(&mut self, world: &World, cpus: Vec<usize>, state: &State) -> Result<Self, Errno> {
        if self.starved {
            world.sim.fail_kth(u64::from(state.shape.mapped.count_ones()) % REFUSALS);
            // Whatever it says: one that is made goes at once, and the next must be right.
            let _ = self.process.memory.fork(&self.process.space, ());
            world.sim.fail_never();
        }
        let (space, memory) = self.process.memory.fork(&self.process.space, ())?;
        let mapped = state.shape.mapped;
        let inherited = mapped & !self.wiped & !self.kept;
        Ok(Self {
            written: self.written & inherited,
            touched: state.shared,
            wiped: self.wiped & mapped,
            stacks: self.stacks,
            starved: self.starved,
            ..Self::new(Process::with_threads(world, space, memory, cpus), &self.process.files)
        })
    }

    /// Ends it.
    pub(super) fn exit(self, world: &World, line: Line<'_>, report: &mut Report) {
        let (windows, regions) = elsewhere(&self.process);
        if windows != regions {
            report.differ(|| format!("{}\n  elsewhere {windows} bytes of windows, {regions} of regions", line()));
        }
        self.process.exit(world);
    }

    /// Sees all anew.
    pub(super) fn look(&mut self) {
        self.seen = Seen::of(&self.process.space, &self.process.memory);
    }

    /// Sees anew what becomes different without a call: what other processes do to shared memory is seen here, too.
    pub(super) fn look_at_pages(&mut self) {
        self.seen.pages = pages_of(&self.process.space);
    }

    /// Sees anew what an access can have changed: its page, and the regions where those of stacks grow.
    fn see_page(&mut self, address: u64) {
        if self.stacks {
            // A call that changes nothing, and looks there.
            let Process { space, memory, .. } = &mut self.process;
            let _ = memory.msync(space, BASE, PAGES * PAGE, SyncFlags::empty());
            return self.look();
        }
        let page = address / PAGE;
        let range = self.process.space.range(BASE.wrapping_add(page * PAGE), PAGE);
        let Some(found) =
            range.ok().filter(|_| page < PAGES).and_then(|range| self.process.space.page_sets(range).ok())
        else {
            return;
        };
        let seen = &mut self.seen.pages;
        for (set, found) in [(&mut seen.resident, found.resident), (&mut seen.dirty, found.dirty)] {
            *set = *set & !(1 << page) | found << page;
        }
    }

    /// The shared pages.
    pub(super) const fn shared(&self) -> u64 {
        self.seen.regions.shape.shared
    }

    /// The pages of regions that allow something.
    pub(super) fn allowed(&self, protection: Protection) -> u64 {
        self.seen.regions.shape.allowed(protection)
    }

    pub(super) fn step(&mut self, world: &World, step: &Step, line: Line<'_>, report: &mut Report) {
        self.process.run_thread(step.thread);
        match step.call {
            Call::Write { address, value } => {
                report.accesses += 1;
                let outcome = self.process.store(world, BASE.wrapping_add(address), value);
                self.see_page(address);
                if matches!(outcome, Outcome::Done(_)) {
                    self.note_access(address, true);
                }
                self.judge(Expected::Access(outcome), step.expected, line, report);
            }
            Call::Read { address } => {
                report.accesses += 1;
                let outcome = self.process.load(world, BASE.wrapping_add(address));
                match outcome {
                    Outcome::Done(_) => self.note_access(address, false),
                    Outcome::Bus => self.note_around(bits_of(address, 1)),
                    _ => {}
                }
                self.see_page(address);
                self.judge(Expected::Access(outcome), step.expected, line, report);
            }
            _ => self.step_of_call(world, step, line, report),
        }
    }

    fn step_of_call(&mut self, world: &World, step: &Step, line: Line<'_>, report: &mut Report) {
        report.operations += 1;
        let mapped = self.seen.regions.shape.mapped;
        self.recorded = step.state.shared;
        self.resident_before = match step.call {
            Call::Map { file: None, .. } => 0,
            Call::Advise { advice, .. } if advice != Advice::PopulateRead as u32 => u64::MAX,
            Call::Advise { .. } | Call::CopyIn { .. } | Call::Lock { .. } | Call::LockAll { .. }
                if self.shared() != 0 =>
            {
                self.look_at_pages();
                self.seen.pages.resident
            }
            _ => u64::MAX,
        };
        let result = self.call_short_of_memory(world, step, line, report);
        if result.is_err() {
            // What is done after all is done page by page.
            self.resident_before = u64::MAX;
        }
        let found = match result {
            Ok((value, hash)) => Expected::Value(value, hash),
            Err(errno) => Expected::Errno(errno.number()),
        };
        match (step.call, found, step.expected) {
            (Call::Core { address, .. }, Expected::Value(_, there), Expected::Value(_, expected)) => {
                // Pages that nobody has written are no more than a hint.
                let first = address / PAGE;
                let known = (self.written | self.shared()).checked_shr(first as u32).unwrap_or(0);
                let [found, expected] = [there, expected].map(|pages| Expected::Value(0, pages & known));
                self.judge(found, expected, line, report);
            }
            _ => self.judge(found, step.expected, line, report),
        }
        if let Expected::Errno(_) = found {
            let before = self.seen;
            self.look();
            if !before.is_as(&self.seen) {
                let (what, after) = ("it was refused and changed something", &self.seen);
                report.differ(|| format!("{}\n  {what}\n  before {before:?}\n  after  {after:?}", line()));
            }
            self.do_part(step.call, &step.state);
        } else {
            self.look();
            self.note(step.call, found, mapped);
            self.resident_before = u64::MAX;
        }
    }

    /// Makes a call. If memory is to run out, some request for frames is refused first: then nothing may be different, and the call is made again.
    fn call_short_of_memory(
        &mut self,
        world: &World,
        step: &Step,
        line: Line<'_>,
        report: &mut Report,
    ) -> Result<(u64, u64), Errno> {
        let best_effort = MapFlags::POPULATE | MapFlags::LOCKED;
        let comes_short = match step.call {
            Call::Map { flags, .. } => flags & best_effort.bits() != 0,
            Call::CopyIn { .. } | Call::CopyOut { .. } | Call::Truncate { .. } => true,
            // What is added to locked memory is brought as far as memory goes.
            _ => self.seen.pages.locked != 0,
        };
        if !self.starved || comes_short {
            return self.call(step.call);
        }
        // Which depends on the call alone: the same in a shorter script.
        let mut hasher = DefaultHasher::new();
        step.call.hash(&mut hasher);
        let (before, kth) = (Seen::of(&self.process.space, &self.process.memory), hasher.finish() % REFUSALS);
        let requests = world.sim.allocation_requests();
        world.sim.fail_kth(kth);
        let result = self.call(step.call);
        let was_refused = world.sim.allocation_requests() - requests > kth;
        world.sim.fail_never();
        if !was_refused || result != Err(Errno::NoMemory) {
            return result;
        }
        report.refused += 1;
        let after = Seen::of(&self.process.space, &self.process.memory);
        if !before.is_as(&after) {
            let what = format!("request {kth} for frames was refused, and something was changed");
            report.differ(|| format!("{}\n  {what}\n  before {before:?}\n  after  {after:?}", line()));
        }
        self.call(step.call)
    }

    fn judge(&self, found: Expected, expected: Expected, line: Line<'_>, report: &mut Report) {
        if found != expected {
            let memory = &self.process.memory;
            report.differ(|| format!("{}\n  found {found:?}, expected {expected:?}\n  {memory:?}", line()));
        }
    }

    /// Makes a call; gives what it returned, and the hash of what was copied.
    pub(super) fn call(&mut self, call: Call) -> Result<(u64, u64), Errno> {
        self.calls += 1;
        let Process { space, memory, files, .. } = &mut self.process;
        let at = |address: u64| BASE.wrapping_add(address);
        match call {
            Call::Map { address, length, protection, flags, file } => {
                let (protection, flags) =
                    (Protection::from_bits_truncate(protection), MapFlags::from_bits_truncate(flags));
                let backing =
                    match file.and_then(|File { number, offset }| Some((files.get(usize::from(number))?, offset))) {
                        Some((area, offset)) => Backing::Area { area, offset },
                        None => Backing::Anonymous,
                    };
                let start = memory.mmap(space, at(address), length, protection, flags, backing)?;
                return Ok((start.wrapping_sub(BASE), 0));
            }
            Call::Unmap { address, length } => memory.munmap(space, at(address), length)?,
            Call::Protect { address, length, protection } => {
                let protection = Protection::from_bits(protection).ok_or(Errno::Invalid)?;
                memory.mprotect(space, at(address), length, protection)?;
            }
            Call::Advise { address, length, advice } => {
                let advice = Advice::from_number(advice).ok_or(Errno::Invalid)?;
                memory.madvise(space, at(address), length, advice)?;
            }
            Call::Remap { old, old_length, new_length, flags, new } => {
                let flags = RemapFlags::from_bits(flags).ok_or(Errno::Invalid)?;
                let start = memory.mremap(space, at(old), old_length, new_length, flags, at(new))?;
                return Ok((start.wrapping_sub(BASE), 0));
            }
            Call::Sync { address, length, flags } => {
                let flags = SyncFlags::from_bits(flags).ok_or(Errno::Invalid)?;
                memory.msync(space, at(address), length, flags)?;
            }
            Call::Core { address, length } => {
                let mut there = [0; PAGES as usize];
                memory.mincore(space, at(address), length, &mut there)?;
                return Ok((0, there.iter().rev().fold(0, |all, page| all << 1 | u64::from(*page))));
            }
            Call::Lock { address, length } => memory.mlock(space, at(address), length)?,
            Call::Unlock { address, length } => memory.munlock(space, at(address), length)?,
            Call::LockAll { flags } if flags & !3 != 0 => return Err(Errno::Invalid),
            Call::LockAll { flags } => memory.mlockall(space, flags & 1 != 0, flags & 2 != 0)?,
            Call::UnlockAll => memory.munlockall(space)?,
            Call::Seal { address, length } => memory.mseal(space, at(address), length)?,
            Call::Truncate { file, size } => {
                let file = files.get(usize::from(file)).ok_or(Errno::Invalid)?;
                let before = file.size();
                file.resize(size)?.complete();
                // What it grows by is there at once, as what it began with.
                while let Some(request) = size
                    .checked_sub(before)
                    .filter(|more| *more != 0)
                    .map_or(Ok(None), |more| file.request(before, more))?
                {
                    for offset in (request.offset..request.offset + request.size).step_by(PAGE as usize) {
                        file.supply(request.token, offset, &[0; 8])?;
                    }
                }
            }
            Call::CopyIn { address, length } => {
                // What it holds is what was copied before: that is not what is expected.
                let into = room_for(&mut self.copied, usize::try_from(length).map_err(|_| Errno::Invalid)?);
                let count = memory.copy_in(space, at(address), into)?;
                return Ok((count as u64, fnv(&into[..count])));
            }
            Call::CopyOut { address, length, pattern } => {
                let length = usize::try_from(length).map_err(|_| Errno::Invalid)?;
                let from = room_for(&mut self.copied, length.next_multiple_of(8));
                from.as_chunks_mut().0.fill(pattern.to_le_bytes());
                let count = memory.copy_out(space, at(address), &from[..length])?;
                return Ok((count as u64, 0));
            }
            Call::Write { .. } | Call::Read { .. } | Call::Fork { .. } | Call::Exit => {}
        }
        Ok((0, 0))
    }

    /// Compares what was seen last with what is recorded.
    pub(super) fn compare(&self, state: &State, line: Line<'_>, report: &mut Report) {
        let Seen { pages: PageSets { resident, dirty, .. }, regions, .. } = self.seen;
        if regions.shape != state.shape {
            let [found, expected] = [regions.shape, state.shape].map(|shape| shape.regions());
            let memory = &self.process.memory;
            report.differ(|| format!("{}\n  regions  {found:?}\n  expected {expected:?}\n  {memory:?}", line()));
        }
        // What the space shows must be that. The processor lets whatever is allowed be read.
        let shown = Shape::of_windows(&self.seen.pages);
        if shown != state.shape.shown() {
            let [found, expected] = [shown, state.shape].map(|shape| shape.regions());
            report.differ(|| format!("{}\n  windows  {found:?}\n  expected {expected:?}", line()));
        }
        let Shape { mapped, shared, .. } = state.shape;
        report.pages += u64::from(mapped.count_ones());
        let private = mapped & !shared;
        let written = self.written & private;
        if state.private & written != written || resident & written != written || dirty & private & !written != 0 {
            report.differ(|| {
                let [resident, dirty] = [resident & private, dirty & private].map(map);
                let (written, expected) = (map(written), map(state.private));
                format!("{}\n  private, resident {resident}\n  dirty             {dirty}\n  written           {written}\n  expected          {expected}", line())
            });
        }
        // Pages of files that private memory shows are no more than a hint.
        let (touched, expected) = (self.touched & shared, state.shared & shared);
        if touched != expected {
            let [touched, expected] = [touched, expected].map(map);
            report.differ(|| format!("{}\n  shared, touched {touched}\n  expected        {expected}", line()));
        }
    }
}

/// Which request for frames is refused at the latest.
const REFUSALS: u64 = 5;

/// How many bytes windows and regions have before and behind the window of all that happens: what grows at its end reaches out of it.
fn elsewhere(process: &Process) -> (u64, u64) {
    let (start, end) = (BASE, BASE + PAGES * PAGE);
    let outside = |first: u64, size: u64| {
        let (low, high) = (first.clamp(start, end), (first + size).clamp(start, end));
        size - (high - low)
    };
    let windows = process.space.windows().map(|window| outside(window.range.start().as_u64(), window.range.size()));
    (windows.sum(), process.memory.regions().map(|region| outside(region.start, region.size)).sum())
}

/// The first so many of some bytes, which become more if there are too few.
fn room_for(bytes: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if bytes.len() < length {
        bytes.resize(length, 0);
    }
    &mut bytes[..length]
}

/// The 64-bit FNV-1a hash, from the basis that the recordings have (a digit short of the usual one).
fn fnv(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x100_0000_01b3;
    /// What eight zeros multiply by.
    const ZEROS: u64 = PRIME.wrapping_pow(8);
    let (words, rest) = bytes.as_chunks::<8>();
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    let hash = words.iter().fold(1_469_598_103_934_665_603, |hash: u64, word| match u64::from_ne_bytes(*word) {
        0 => hash.wrapping_mul(ZEROS),
        _ => word.iter().fold(hash, add),
    });
    rest.iter().fold(hash, add)
}
