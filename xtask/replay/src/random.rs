//! Recordings of random operations, with the full state after each.
//!
//! All is compared: results, errnos, regions, which pages are resident, bytes that are read. Two things are told apart as the recordings' own description says:
//! *private* pages that were ever written are resident exactly where Linux has them, others are not compared; *shared* pages count as resident where the space touched them, and
//! what a child has of those after a fork is taken over.
//!
//! Linux is not all or nothing: a call that is refused may have done a part of its work. Then it is checked first that nothing was changed here, and the part is done
//! by calls of its own, so that the states can be compared again.

use anyhow::{Context as _, Result, bail};
use vmcore::addr::PageRange;
use vmcore::paging::Access;
use vmcore::posix::{Advice, Backing, Errno, MapFlags, Memory, Protection, RegionInfo, RemapFlags, SyncFlags};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Inherit, PageState, Space, WindowFlags};

use crate::input::{number, numbers};
use crate::report::Report;
use crate::world::{Outcome, PAGE, Process, World, word_of};

/// Where the window lies in which all happens, and how many pages it has.
const BASE: u64 = 0x1000_0000_0000;
const PAGES: u64 = 64;
/// How many processes there are at a time.
const PROCESSES: usize = 8;
/// How many threads one has at the most.
const THREADS: usize = 4;
const FRAMES: usize = 4096;
/// How many bytes are copied at the most.
const LONGEST: u64 = 1 << 24;

/// A region: first page, page behind the last, protection, whether shared.
type Shown = (u64, u64, u32, bool);

/// Regions as sets of pages: a bit for each page that is in one, that is in a shared one, and that has each of the protections. Two lists of regions in which neighbours that
/// agree are one, and none overlap, are the same where these are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    mapped: u64,
    shared: u64,
    read: u64,
    write: u64,
    execute: u64,
}

impl Shape {
    fn add(&mut self, (first, end, protection, shared): Shown) {
        let pages = bits(first, end);
        let allowed = |protected: Protection| if protection & protected.bits() == 0 { 0 } else { pages };
        self.mapped |= pages;
        self.shared |= if shared { pages } else { 0 };
        self.read |= allowed(Protection::READ);
        self.write |= allowed(Protection::WRITE);
        self.execute |= allowed(Protection::EXECUTE);
    }

    fn of(regions: impl Iterator<Item = Shown>) -> Self {
        let mut shape = Self::default();
        regions.for_each(|region| shape.add(region));
        shape
    }

    /// The same regions as the processor shows them: whatever is allowed can be read.
    const fn shown(self) -> Self {
        Self { read: self.read | self.write | self.execute, ..self }
    }
}

/// What is recorded of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    regions: Vec<Shown>,
    /// The same regions.
    shape: Shape,
    /// A bit for each page that is private and resident; and shared.
    private: u64,
    shared: u64,
}

impl State {
    fn set_regions(&mut self, regions: Vec<Shown>) {
        self.shape = Shape::of(regions.iter().copied());
        self.regions = regions;
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Map { address: u64, length: u64, protection: u32, flags: u32, file: Option<(usize, u64)> },
    Unmap { address: u64, length: u64 },
    Protect { address: u64, length: u64, protection: u32 },
    Advise { address: u64, length: u64, advice: u32 },
    Remap { old: u64, old_length: u64, new_length: u64, flags: u32, new: u64 },
    Sync { address: u64, length: u64, flags: u32 },
    Core { address: u64, length: u64 },
    Truncate { file: usize, size: u64 },
    Write { address: u64, value: u64 },
    Read { address: u64 },
    CopyIn { address: u64, length: u64 },
    CopyOut { address: u64, length: u64, pattern: u64 },
    Fork { child: usize },
    Exit,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// What the call returned; and the hash of what was copied.
    Value(u64, u64),
    Errno(i32),
    Access(Outcome),
    Nothing,
}

struct Step {
    line: usize,
    process: usize,
    thread: usize,
    call: Call,
    expected: Expected,
    state: State,
    child: State,
    /// Which lines of those there were.
    told: String,
}

/// A recording.
pub(crate) struct Recording {
    /// Nothing but the window is free: what is mapped without a place comes into it.
    placed: bool,
    /// How many threads each process has.
    threads: usize,
    /// How many pages each file has.
    files: Vec<u64>,
    lines: Vec<String>,
    steps: Vec<Step>,
}

impl Recording {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let head = text.lines().next().unwrap_or_default();
        let placed = head.split_ascii_whitespace().any(|word| word == "placed");
        let files = head.split_ascii_whitespace().find_map(|word| word.strip_prefix("files="));
        let files = files.map_or(Ok(Vec::new()), |sizes| sizes.split(',').map(number).collect::<Result<_>>())?;
        let mut recording = Self { placed, threads: 1, files, lines: Vec::new(), steps: Vec::new() };
        for (line, words) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            recording.take(line, words).with_context(|| format!("line {}: {words:?}", line + 1))?;
        }
        recording.check_last().context("the last operation: is the recording cut short?")?;
        Ok(recording)
    }

    /// How many operations and accesses there are.
    pub(crate) fn size(&self) -> u64 {
        self.steps.len() as u64
    }

    /// What is recorded of the last operation must be complete.
    fn check_last(&self) -> Result<()> {
        let Some(step) = self.steps.last() else { return Ok(()) };
        let expected: &[&str] = match step.call {
            Call::Exit => &[],
            Call::Fork { .. } => &["R", "P", "r", "p"],
            _ => &["R", "P"],
        };
        match expected.iter().find(|kind| !step.told.contains(**kind)) {
            Some(kind) => bail!("{} has no {kind} line", self.lines[step.line]),
            None => Ok(()),
        }
    }

    fn take(&mut self, number: usize, line: &str) -> Result<()> {
        if let Some(rest) = line.strip_prefix(' ') {
            let step = self.steps.last_mut().context("a state without an operation")?;
            let (kind, rest) = rest.split_at_checked(1).context("not a state")?;
            step.told.push_str(kind);
            match kind {
                "R" => step.state.set_regions(regions(rest)?),
                "r" => step.child.set_regions(regions(rest)?),
                "P" => (step.state.private, step.state.shared) = residency(rest)?,
                "p" => (step.child.private, step.child.shared) = residency(rest)?,
                _ => bail!("not a state"),
            }
            return Ok(());
        }
        self.check_last()?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, process, name, rest @ ..] = words.as_slice() else { bail!("too few words") };
        let end = rest.iter().position(|word| *word == "=").unwrap_or(rest.len());
        let (arguments, result) = rest.split_at(end);
        let call = call(name, arguments)?;
        let expected = expected(&call, result.get(1..).unwrap_or_default())?;
        let (process, thread) = process.split_once('.').unwrap_or((process, "0"));
        let (process, thread) = (slot(process)?, thread.parse()?);
        if thread >= THREADS {
            bail!("a process has {THREADS} threads at the most");
        }
        self.threads = self.threads.max(thread + 1);
        if matches!(call, Call::Fork { child } if child == process) {
            bail!("a process that is its own child");
        }
        self.steps.push(Step {
            line: self.lines.len(),
            process,
            thread,
            call,
            expected,
            state: State::default(),
            child: State::default(),
            told: String::new(),
        });
        self.lines.push(format!("line {}: {line}", number + 1));
        Ok(())
    }
}

fn slot(word: &str) -> Result<usize> {
    let slot: usize = word.strip_prefix('s').context("not a process")?.parse()?;
    if slot < PROCESSES { Ok(slot) } else { bail!("there are {PROCESSES} processes at the most") }
}

fn regions(text: &str) -> Result<Vec<Shown>> {
    let mut all = Vec::new();
    for word in text.split_ascii_whitespace() {
        let (range, letters) = word.split_once(':').context("not a region")?;
        let (first, end) = range.split_once('-').context("not a range")?;
        let protection =
            "rwx".chars().zip(0..).filter(|(letter, _)| letters.contains(*letter)).map(|(_, bit)| 1 << bit);
        let (first, end) = (first.parse()?, end.parse()?);
        if first >= end || end > PAGES {
            bail!("{word} is no range of the window's {PAGES} pages");
        }
        all.push((first, end, protection.sum(), letters.ends_with('s')));
    }
    Ok(all)
}

fn residency(text: &str) -> Result<(u64, u64)> {
    let (mut private, mut shared) = (0, 0);
    let count = text.trim().chars().count() as u64;
    if count != PAGES {
        bail!("{count} pages, and the window has {PAGES}");
    }
    for (page, letter) in text.trim().chars().enumerate() {
        match letter {
            'p' => private |= 1 << page,
            's' => shared |= 1 << page,
            '.' => {}
            _ => bail!("{letter:?} is no state of a page"),
        }
    }
    Ok((private, shared))
}

fn call(name: &str, words: &[&str]) -> Result<Call> {
    let short = |word: u64| u32::try_from(word).context("too large a number");
    Ok(match name {
        "mmap" => {
            let [address, length, protection, flags] = numbers(words)?;
            let (protection, flags) = (short(protection)?, short(flags)?);
            let file = match words.get(4..) {
                Some(words @ [_, ..]) => {
                    let [file, offset] = numbers(words)?;
                    Some((usize::try_from(file)?, offset))
                }
                _ => None,
            };
            Call::Map { address, length, protection, flags, file }
        }
        "munmap" => {
            let [address, length] = numbers(words)?;
            Call::Unmap { address, length }
        }
        "mprotect" => {
            let [address, length, protection] = numbers(words)?;
            Call::Protect { address, length, protection: short(protection)? }
        }
        "madvise" => {
            let [address, length, advice] = numbers(words)?;
            Call::Advise { address, length, advice: short(advice)? }
        }
        "mremap" => {
            let [old, old_length, new_length, flags, new] = numbers(words)?;
            Call::Remap { old, old_length, new_length, flags: short(flags)?, new }
        }
        "msync" => {
            let [address, length, flags] = numbers(words)?;
            Call::Sync { address, length, flags: short(flags)? }
        }
        "mincore" => {
            let [address, length] = numbers(words)?;
            Call::Core { address, length }
        }
        "truncate" => {
            let [file, size] = numbers(words)?;
            Call::Truncate { file: usize::try_from(file)?, size }
        }
        "write" => {
            let [address, value] = numbers(words)?;
            Call::Write { address, value }
        }
        "read" => {
            let [address] = numbers(words)?;
            Call::Read { address }
        }
        "copyin" | "copyout" => {
            let [address, length] = numbers(words)?;
            if length > LONGEST {
                bail!("a copy of more than {LONGEST} bytes");
            }
            let pattern = words.get(2).and_then(|word| word.strip_prefix("pat=")).context("no pattern")?;
            let pattern = u64::from_str_radix(pattern, 16)?;
            if name == "copyin" { Call::CopyIn { address, length } } else { Call::CopyOut { address, length, pattern } }
        }
        "fork" => Call::Fork { child: slot(words.get(1).context("no child")?)? },
        "exit" => Call::Exit,
        _ => bail!("an unknown operation"),
    })
}

fn expected(call: &Call, words: &[&str]) -> Result<Expected> {
    let errno = words.iter().find_map(|word| word.strip_prefix('e')).map_or(Ok(0), str::parse::<i32>)?;
    let hash = words.iter().find_map(|word| word.strip_prefix("h=")).map(|word| u64::from_str_radix(word, 16));
    Ok(match (call, words) {
        (Call::Fork { .. } | Call::Exit, _) => Expected::Nothing,
        (_, ["ok", value, ..]) if !value.starts_with('e') => Expected::Access(Outcome::Done(number(value)?)),
        (Call::Write { value, .. }, ["ok", ..]) => Expected::Access(Outcome::Done(*value)),
        (_, ["maperr", ..]) => Expected::Access(Outcome::NotMapped),
        (_, ["accerr", ..]) => Expected::Access(Outcome::Denied),
        (_, ["bus", ..]) => Expected::Access(Outcome::Bus),
        (_, ["-1", ..]) => Expected::Errno(errno),
        (_, [value, ..]) => Expected::Value(number(value)?, hash.transpose()?.unwrap_or(0)),
        (_, []) => bail!("no result"),
    })
}

/// All that is seen of a process, to be compared with what is recorded, and with what it is later.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Seen {
    windows: Vec<(PageRange, Access, Inherit, WindowFlags)>,
    regions: Vec<RegionInfo>,
    /// The windows and the regions within the window of all that happens.
    shown: Shape,
    mapped: Shape,
    resident: u64,
    dirty: u64,
    guarded: u64,
}

impl Seen {
    fn of(process: &Process) -> Self {
        let mut seen = Self::default();
        seen.look(process);
        seen
    }

    /// Looks anew, at everything.
    fn look(&mut self, process: &Process) {
        self.windows.clear();
        self.regions.clear();
        let windows = process.space.windows();
        self.windows.extend(windows.map(|window| (window.range, window.access, window.inherit, window.flags)));
        self.regions.extend(process.memory.regions());
        self.shown = Shape::of(self.windows.iter().map(window_shown));
        self.mapped = Shape::of(self.regions.iter().map(region_shown));
        self.look_at_pages(process);
    }

    /// Looks anew at what becomes different without a call: what other processes do to shared memory is seen here, too.
    fn look_at_pages(&mut self, process: &Process) {
        let mut states = [PageState::empty(); PAGES as usize];
        let range = process.space.range(BASE, PAGES * PAGE).expect("the window lies in the space");
        let _ = process.space.page_states(range, &mut states);
        self.resident = pages_in(&states, PageState::RESIDENT);
        self.dirty = pages_in(&states, PageState::DIRTY);
        self.guarded = pages_in(&states, PageState::GUARDED);
    }

    /// Whether nothing but what other processes change is different: pages of shared memory.
    fn is_as(&self, other: &Self, shared: u64) -> bool {
        let pages = |seen: &Self| (seen.resident & !shared, seen.dirty & !shared, seen.guarded);
        pages(self) == pages(other) && self.regions == other.regions && self.windows == other.windows
    }
}

/// A process, and what the comparison knows of it.
struct Actor {
    process: Process,
    /// What was seen of it last, and before.
    seen: Seen,
    before: Seen,
    /// The private pages that were written, the shared ones that were touched, and those that a child gets wiped: a bit for each.
    written: u64,
    touched: u64,
    wiped: u64,
    kept: u64,
    /// How many calls it made.
    calls: u64,
    /// The pages that were there before the call, as far as it reads several; and the shared ones that Linux has after it.
    resident_before: u64,
    recorded: u64,
    /// Where copies go.
    copied: Vec<u8>,
}

/// The bits of the pages from `first` to before `end`, as far as they are in the window.
fn bits(first: u64, end: u64) -> u64 {
    let below = |page: u64| if page >= PAGES { u64::MAX } else { (1 << page) - 1 };
    if first >= end { 0 } else { below(end) & !below(first) }
}

/// The pages that a range of bytes covers; relative to the window.
fn pages(address: u64, length: u64) -> (u64, u64) {
    let end = address.saturating_add(length).saturating_add(PAGE - 1) / PAGE;
    (address / PAGE, end)
}

fn bits_of(address: u64, length: u64) -> u64 {
    let (first, end) = pages(address, length);
    bits(first, end)
}

/// The files, with all of their pages: as Linux has those in memory.
fn make_files(world: &World, sizes: &[u64]) -> Vec<Area<Sim>> {
    if sizes.is_empty() {
        return Vec::new();
    }
    let space = Space::user(&world.kernel, ()).expect("there are frames for a root");
    let mut reader = Process::new(world, space, Memory::new(&world.sim, 0), 0);
    let mut files = Vec::new();
    for (key, pages) in (0..).zip(sizes) {
        let size = (*pages).max(1) * PAGE;
        let area = Area::new(&world.sim, AreaKind::Paged { size, key }, 0).expect("there are frames for files");
        reader.files.push(area.handle(area.rights()).expect("no more rights than it has"));
        let Process { space, memory, .. } = &mut reader;
        let backing = Backing::Area { area: &area, offset: 0 };
        let start =
            memory.mmap(space, 0, size, Protection::READ, MapFlags::SHARED, backing).expect("the space is empty");
        for page in (start..start + size).step_by(PAGE as usize) {
            assert_eq!(reader.load(world, page), Outcome::Done(word_of(key, page - start)));
        }
        files.push(area);
    }
    reader.exit(world);
    files
}

/// Handles of the same files.
fn handles(files: &[Area<Sim>]) -> Vec<Area<Sim>> {
    files.iter().map(|file| file.handle(file.rights()).expect("no more rights than it has")).collect()
}

/// What a process begins with: places are found in the window, and where nothing else is free there is something behind it.
fn memory_of(world: &World, space: &Space<Sim>, placed: bool) -> Memory<Sim> {
    let mut memory = Memory::new(&world.sim, 0);
    memory.place_within(space.range(BASE, PAGES * PAGE).expect("the window lies in the space"));
    if placed {
        let flags = MapFlags::SHARED | MapFlags::ANONYMOUS | MapFlags::FIXED;
        let (behind, nothing) = (BASE + PAGES * PAGE, Protection::empty());
        memory.mmap(space, behind, PAGES * PAGE, nothing, flags, Backing::Anonymous).expect("the space is empty");
    }
    memory
}

/// Replays a recording.
pub(crate) fn replay(recording: &Recording) -> Report {
    let world = World::new(FRAMES, PROCESSES * recording.threads);
    let cpus = |slot: usize| (0..recording.threads).map(|thread| slot + thread * PROCESSES).collect::<Vec<_>>();
    let files = make_files(&world, &recording.files);
    let mut report = Report::default();
    let mut actors: [Option<Actor>; PROCESSES] = [const { None }; PROCESSES];
    for step in &recording.steps {
        if actors[step.process].is_none() {
            let space = Space::user(&world.kernel, ()).expect("there are frames for a root");
            let memory = memory_of(&world, &space, recording.placed);
            let mut process = Process::with_threads(&world, space, memory, cpus(step.process));
            process.files = handles(&files);
            process.zeros = true;
            let seen = Seen::of(&process);
            actors[step.process] = Some(Actor::new(process, seen));
        }
        match step.call {
            Call::Exit => {
                if let Some(actor) = actors[step.process].take() {
                    actor.process.exit(&world);
                }
                report.operations += 1;
                continue;
            }
            Call::Fork { child } => {
                report.operations += 1;
                if let Some(old) = actors[child].take() {
                    old.process.exit(&world);
                    report.differ(|| format!("{}\n  there is such a process", recording.lines[step.line]));
                }
                let Some(actor) = &mut actors[step.process] else { continue };
                actor.process.run_thread(step.thread);
                match actor.fork(&world, cpus(child), &step.child) {
                    Ok(made) => {
                        made.compare(&step.child, &recording.lines[step.line], &mut report);
                        actors[child] = Some(made);
                    }
                    Err(error) => {
                        report.differ(|| format!("{}\n  the fork was refused: {error}", recording.lines[step.line]))
                    }
                }
            }
            _ => {
                let Some(actor) = &mut actors[step.process] else { continue };
                actor.step(&world, step, &recording.lines[step.line], &mut report);
            }
        }
        if let Call::Truncate { .. } = step.call {
            for actor in actors.iter_mut().flatten() {
                actor.forget_truncated();
            }
        }
        if let Some(actor) = &actors[step.process] {
            actor.compare(&step.state, &recording.lines[step.line], &mut report);
        }
    }
    for actor in actors.into_iter().flatten() {
        actor.process.exit(&world);
    }
    // They hold pages as well.
    drop(files);
    if !world.is_as_new() {
        report.differ(|| String::from("not all memory was given back at the end"));
    }
    report
}

impl Actor {
    fn step(&mut self, world: &World, step: &Step, line: &str, report: &mut Report) {
        self.process.run_thread(step.thread);
        match step.call {
            Call::Write { address, value } => {
                report.accesses += 1;
                let outcome = self.process.store(world, BASE.wrapping_add(address), value);
                if matches!(outcome, Outcome::Done(_)) {
                    self.note_access(address, true);
                }
                self.see_page(address);
                self.judge(Expected::Access(outcome), step, line, report);
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
                self.judge(Expected::Access(outcome), step, line, report);
            }
            _ => {
                report.operations += 1;
                let mapped = self.seen.mapped.mapped;
                self.recorded = step.state.shared;
                self.resident_before = match step.call {
                    Call::Map { file: None, .. } => 0,
                    Call::Advise { .. } | Call::CopyIn { .. } if self.shared() != 0 => {
                        self.seen.look_at_pages(&self.process);
                        self.seen.resident
                    }
                    _ => u64::MAX,
                };
                let result = self.call(step.call);
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
                        self.judge_as(
                            Expected::Value(0, there & known),
                            Expected::Value(0, expected & known),
                            line,
                            report,
                        );
                    }
                    _ => self.judge(found, step, line, report),
                }
                if let Expected::Errno(_) = found {
                    std::mem::swap(&mut self.seen, &mut self.before);
                    self.look();
                    let (before, after) = (&self.before, &self.seen);
                    if !before.is_as(after, self.shared()) {
                        let what = "it was refused and changed something";
                        report.differ(|| format!("{line}\n  {what}\n  before {before:?}\n  after  {after:?}"));
                    }
                    self.do_part(step.call, &step.state);
                } else {
                    self.look();
                    self.note(step.call, found, mapped);
                    self.resident_before = u64::MAX;
                }
            }
        }
    }

    fn judge(&self, found: Expected, step: &Step, line: &str, report: &mut Report) {
        self.judge_as(found, step.expected, line, report);
    }

    fn judge_as(&self, found: Expected, expected: Expected, line: &str, report: &mut Report) {
        if found != expected {
            report.differ(|| format!("{line}\n  found {found:?}, expected {expected:?}\n  {:?}", self.process.memory));
        }
    }

    /// Makes a call; gives what it returned, and the hash of what was copied.
    fn call(&mut self, call: Call) -> Result<(u64, u64), Errno> {
        self.calls += 1;
        let Process { space, memory, files, .. } = &mut self.process;
        let at = |address: u64| BASE.wrapping_add(address);
        match call {
            Call::Map { address, length, protection, flags, file } => {
                let (protection, flags) =
                    (Protection::from_bits_truncate(protection), MapFlags::from_bits_truncate(flags));
                let backing = match file.and_then(|(file, offset)| Some((files.get(file)?, offset))) {
                    Some((area, offset)) => Backing::Area { area, offset },
                    None => Backing::Anonymous,
                };
                let start = memory.mmap(space, at(address), length, protection, flags, backing)?;
                Ok((start.wrapping_sub(BASE), 0))
            }
            Call::Unmap { address, length } => memory.munmap(space, at(address), length).map(|()| (0, 0)),
            Call::Protect { address, length, protection } => {
                let protection = Protection::from_bits(protection).ok_or(Errno::Invalid)?;
                memory.mprotect(space, at(address), length, protection).map(|()| (0, 0))
            }
            Call::Advise { address, length, advice } => {
                let advice = Advice::from_number(advice).ok_or(Errno::Invalid)?;
                memory.madvise(space, at(address), length, advice).map(|()| (0, 0))
            }
            Call::Remap { old, old_length, new_length, flags, new } => {
                let flags = RemapFlags::from_bits(flags).ok_or(Errno::Invalid)?;
                let start = memory.mremap(space, at(old), old_length, new_length, flags, at(new))?;
                Ok((start.wrapping_sub(BASE), 0))
            }
            Call::Sync { address, length, flags } => {
                let flags = SyncFlags::from_bits(flags).ok_or(Errno::Invalid)?;
                memory.msync(space, at(address), length, flags).map(|()| (0, 0))
            }
            Call::Core { address, length } => {
                let mut there = [0; PAGES as usize];
                memory.mincore(space, at(address), length, &mut there)?;
                Ok((0, there.iter().rev().fold(0, |all, page| all << 1 | u64::from(*page))))
            }
            Call::Truncate { file, size } => {
                let area = files.get(file).ok_or(Errno::Invalid)?;
                area.resize(size)?.complete();
                Ok((0, 0))
            }
            Call::CopyIn { address, length } => {
                // What it holds is what was copied before: that is not what is expected.
                self.copied.resize(usize::try_from(length).map_err(|_| Errno::Invalid)?, 0);
                let count = memory.copy_in(space, at(address), &mut self.copied)?;
                Ok((count as u64, fnv(&self.copied[..count])))
            }
            Call::CopyOut { address, length, pattern } => {
                let length = usize::try_from(length).map_err(|_| Errno::Invalid)?;
                let mut bytes = pattern.to_le_bytes().repeat(length.div_ceil(8));
                bytes.truncate(length);
                let count = memory.copy_out(space, at(address), &bytes)?;
                Ok((count as u64, 0))
            }
            Call::Write { .. } | Call::Read { .. } | Call::Fork { .. } | Call::Exit => Ok((0, 0)),
        }
    }

    fn fork(&mut self, world: &World, cpus: Vec<usize>, state: &State) -> Result<Self, Errno> {
        let (space, memory) = self.process.memory.fork(&self.process.space, ())?;
        let mut process = Process::with_threads(world, space, memory, cpus);
        process.files = handles(&self.process.files);
        process.zeros = true;
        let seen = Seen::of(&process);
        let mapped = state.regions.iter().map(|(first, end, _, _)| bits(*first, *end)).fold(0, |all, more| all | more);
        let inherited = mapped & !self.wiped & !self.kept;
        Ok(Self {
            written: self.written & inherited,
            touched: state.shared,
            wiped: self.wiped & mapped,
            ..Self::new(process, seen)
        })
    }

    fn new(process: Process, seen: Seen) -> Self {
        let (before, resident_before, recorded) = (Seen::default(), u64::MAX, 0);
        let (written, touched, wiped, kept, copied) = (0, 0, 0, 0, Vec::new());
        Self { process, seen, before, written, touched, wiped, kept, calls: 0, resident_before, recorded, copied }
    }

    /// Sees all anew.
    fn look(&mut self) {
        self.seen.look(&self.process);
    }

    fn note_access(&mut self, address: u64, write: bool) {
        let page = bits_of(address, 1);
        if self.shared() & page == 0 {
            self.written |= if write { page } else { 0 };
        } else if write {
            self.touched |= page;
        } else {
            self.note_shared_reads(page);
        }
    }

    /// Notes shared pages that were read, one after another. Linux maps those around a page that faults, too: those of the 16 from its block's first or its region's
    /// first, whichever comes later, that the object has.
    fn note_shared_reads(&mut self, pages: u64) {
        self.note_reads(pages, true);
    }

    /// Notes shared pages that were populated: up to the first that the object does not have.
    fn note_populated(&mut self, pages: u64) {
        let missing = pages & !self.seen.resident;
        let first = bits(0, u64::from(missing.trailing_zeros()));
        self.note_shared_reads(pages & first);
        self.note_around(pages & missing & missing.wrapping_neg());
    }

    /// Notes what Linux has mapped around pages that it could not read, since there is nothing behind the object's end.
    fn note_around(&mut self, pages: u64) {
        self.note_reads(pages & self.shared() & !self.seen.guarded, false);
    }

    fn note_reads(&mut self, pages: u64, done: bool) {
        // Those that were touched before make no fault.
        if pages & !self.touched == 0 {
            return;
        }
        self.seen.look_at_pages(&self.process);
        let Seen { resident, guarded, .. } = self.seen;
        // What came into being during the call may have been there too late to be mapped around another page: as Linux has it.
        let (mut sure, mut maybe) = (self.touched, 0);
        for page in (0..PAGES).filter(|page| pages & (1 << page) != 0) {
            let bit = 1 << page;
            if sure & bit != 0 {
                continue;
            }
            let address = BASE + page * PAGE;
            let mut regions = self.seen.regions.iter();
            let Some(region) = regions.find(|region| (region.start..region.start + region.size).contains(&address))
            else {
                continue;
            };
            let (first, end) = crate::random::pages(region.start - BASE, region.size);
            let low = first.max(page & !15);
            let around = bits(low, end.min(low + 16)) & resident & !guarded;
            // One that may have been mapped around another made no fault then.
            if maybe & bit == 0 {
                sure |= around & self.resident_before;
            }
            maybe |= around;
            sure |= if done { bit } else { 0 };
        }
        self.touched = sure | (maybe & self.recorded);
    }

    /// A file became smaller: what lay behind its end is gone, also what was written in its place.
    fn forget_truncated(&mut self) {
        let files = self.process.memory.regions().filter(|region| !region.anonymous);
        let files = files.fold(0, |all, region| all | bits_of(region.start.wrapping_sub(BASE), region.size));
        self.look();
        self.touched &= !files | self.seen.resident;
        self.written &= !files | self.seen.dirty;
    }

    /// The shared pages.
    fn shared(&self) -> u64 {
        self.seen.mapped.shared
    }

    /// The pages of regions that allow something.
    fn allowed(&self, protection: Protection) -> u64 {
        let Shape { read, write, execute, .. } = self.seen.mapped;
        let kinds = [(Protection::READ, read), (Protection::WRITE, write), (Protection::EXECUTE, execute)];
        kinds.into_iter().filter(|(kind, _)| protection.intersects(*kind)).fold(0, |all, (_, pages)| all | pages)
    }

    fn clear(&mut self, pages: u64) {
        for set in [&mut self.written, &mut self.touched, &mut self.wiped, &mut self.kept] {
            *set &= !pages;
        }
    }

    /// Notes what a call did that succeeded, after which everything was seen anew. `mapped` is what was mapped before.
    fn note(&mut self, call: Call, found: Expected, mapped: u64) {
        match call {
            Call::Map { length, flags, file, .. } => {
                let Expected::Value(address, _) = found else { return };
                let pages = bits_of(address, length);
                self.clear(pages);
                if flags & MapFlags::POPULATE.bits() != 0 {
                    let shared = self.shared();
                    self.note_populated(pages & shared & self.allowed(Protection::all()));
                    let written = pages & !shared & self.allowed(Protection::WRITE);
                    // Of a file that ends before, Linux populates what there is, and nothing is populated here.
                    self.written |= if file.is_some() { written & self.seen.dirty } else { written };
                }
            }
            Call::Unmap { address, length } => self.clear(bits_of(address, length)),
            Call::Advise { address, length, advice } => {
                let pages = bits_of(address, length);
                let shared = self.shared();
                match Advice::from_number(advice) {
                    Some(Advice::DontNeed | Advice::GuardInstall) => {
                        self.written &= !pages;
                        self.touched &= !pages;
                    }
                    Some(Advice::PopulateRead) => self.note_shared_reads(pages & shared),
                    Some(Advice::PopulateWrite) => {
                        self.touched |= pages & shared;
                        self.written |= pages & !shared;
                    }
                    Some(Advice::WipeOnFork) => self.wiped |= pages,
                    Some(Advice::KeepOnFork) => self.wiped &= !pages,
                    Some(Advice::DontFork) => self.kept |= pages,
                    Some(Advice::DoFork) => self.kept &= !pages,
                    _ => {}
                }
            }
            Call::Remap { old, old_length, new_length, flags, .. } => {
                let Expected::Value(new, _) = found else { return };
                self.note_move((old, old_length), (new, new_length), flags, mapped)
            }
            Call::CopyIn { address, length } | Call::CopyOut { address, length, .. } => {
                let Expected::Value(done, _) = found else { return };
                let (pages, shared) = (bits_of(address, done), self.shared());
                if matches!(call, Call::CopyOut { .. }) {
                    self.touched |= pages & shared;
                    self.written |= pages & !shared;
                    return;
                }
                for page in (0..PAGES).filter(|page| pages & shared & (1 << page) != 0) {
                    // Where Linux reads shared memory, the object gets its page; here a copy makes none.
                    self.process.touch(BASE + page * PAGE);
                }
                if pages & shared != 0 {
                    self.look();
                }
                self.note_shared_reads(pages & shared);
                if done < length {
                    self.note_around(bits_of(address + done, 1) & self.allowed(Protection::READ));
                }
            }
            Call::Protect { .. }
            | Call::Sync { .. }
            | Call::Core { .. }
            | Call::Truncate { .. }
            | Call::Write { .. }
            | Call::Read { .. }
            | Call::Fork { .. }
            | Call::Exit => {}
        }
    }

    fn note_move(&mut self, (old, old_length): (u64, u64), (new, new_length): (u64, u64), flags: u32, sources: u64) {
        let (from, from_end) = pages(old, old_length);
        let (to, to_end) = pages(new, new_length);
        let (old_pages, new_pages) = (bits(from, from_end), to_end - to);
        if new == old {
            let end = from + new_pages;
            self.clear(bits(end, from_end));
            // What grows is what it was.
            if let Some(last) = from_end.checked_sub(1).filter(|_| end > from_end) {
                let spread = |set: &mut u64| {
                    if *set & bits(last, last + 1) != 0 {
                        *set |= bits(from_end, end)
                    }
                };
                spread(&mut self.wiped);
                spread(&mut self.kept);
            }
            return;
        }
        let shown = old_pages & bits(from, from + new_pages);
        let keeps = flags & RemapFlags::DONT_UNMAP.bits() != 0;
        for set in [&mut self.written, &mut self.touched] {
            let moved = shift(*set & shown, from, to);
            let replaced = shift(sources & shown, from, to) | bits(to + (from_end - from).min(new_pages), to_end);
            *set = (*set & !replaced & !old_pages) | moved;
        }
        for set in [&mut self.wiped, &mut self.kept] {
            let mut moved = shift(*set & shown, from, to);
            if new_pages > from_end - from && *set & bits(from, from + 1) != 0 {
                moved |= bits(to, to_end);
            }
            let replaced = shift(sources & shown, from, to) | bits(to + (from_end - from).min(new_pages), to_end);
            let left = if keeps { *set } else { *set & !old_pages };
            *set = (left & !replaced) | moved;
        }
    }
}

impl Actor {
    /// What Linux has done of a call before it refused it, done by calls that succeed.
    fn do_part(&mut self, call: Call, state: &State) {
        let operations = self.calls;
        let parts = |actor: &Self, address: u64, length: u64| -> Vec<(u64, u64)> {
            let (first, end) = pages(address, length);
            if BASE.checked_add(address).and_then(|start| start.checked_add(length)).is_none()
                || address & (PAGE - 1) != 0
            {
                return Vec::new();
            }
            let regions = actor.process.memory.regions();
            let parts =
                regions.map(|region| ((region.start - BASE) / PAGE, (region.start - BASE + region.size) / PAGE));
            let parts = parts.map(|(low, high)| (low.max(first), high.min(end)));
            parts.filter(|(low, high)| low < high).collect()
        };
        match call {
            Call::Protect { address, length, protection } => {
                // As far as there is no gap.
                let mut next = address / PAGE;
                for (first, end) in parts(self, address, length) {
                    let part = Call::Protect { address: first * PAGE, length: (end - first) * PAGE, protection };
                    if first != next || self.call(part).is_err() {
                        break;
                    }
                    next = end;
                }
            }
            Call::Advise { address, length, advice } => {
                let populates =
                    matches!(Advice::from_number(advice), Some(Advice::PopulateRead | Advice::PopulateWrite));
                let mut next = address / PAGE;
                for (first, end) in parts(self, address, length) {
                    if populates && first != next {
                        break;
                    }
                    next = end;
                    // Populating stops at a page.
                    let step = if populates { 1 } else { end - first };
                    let mut done = true;
                    for page in (first..end).step_by(step as usize) {
                        let part = Call::Advise { address: page * PAGE, length: step * PAGE, advice };
                        let mapped = self.seen.mapped.mapped;
                        match self.call(part) {
                            Ok((value, hash)) => {
                                self.look();
                                self.note(part, Expected::Value(value, hash), mapped);
                            }
                            Err(errno) => {
                                if errno == Errno::Fault && Advice::from_number(advice) == Some(Advice::PopulateRead) {
                                    self.note_around(1 << page);
                                }
                                done = false;
                            }
                        }
                        if !done {
                            break;
                        }
                    }
                    if !done {
                        break;
                    }
                }
            }
            Call::CopyIn { address, .. } => self.note_around(bits_of(address, 1) & self.allowed(Protection::READ)),
            Call::Remap { .. } => {
                // What it has unmapped is not to be had again.
                let recorded = state.regions.iter().fold(0, |all, (first, end, _, _)| all | bits(*first, *end));
                let gone = self.seen.mapped.mapped & !recorded;
                for page in (0..PAGES).filter(|page| gone & (1 << page) != 0) {
                    let part = Call::Unmap { address: page * PAGE, length: PAGE };
                    if self.call(part).is_ok() {
                        self.clear(1 << page);
                    }
                }
            }
            _ => {}
        }
        if self.calls != operations {
            self.look();
        }
    }

    /// Compares what was seen last with what is recorded.
    fn compare(&self, state: &State, line: &str, report: &mut Report) {
        let Seen { regions, windows, resident, dirty, .. } = &self.seen;
        if self.seen.mapped != state.shape {
            let found: Vec<Shown> = joined(regions.iter().map(region_shown)).collect();
            report.differ(|| format!("{line}\n  regions  {found:?}\n  expected {:?}", state.regions));
        }
        // What the space shows must be that. The processor lets whatever is allowed be read.
        if self.seen.shown != state.shape.shown() {
            let shown: Vec<Shown> = joined(windows.iter().map(window_shown)).collect();
            report.differ(|| format!("{line}\n  windows  {shown:?}\n  expected {:?}", state.regions));
        }
        let Shape { mapped, shared, .. } = state.shape;
        report.pages += u64::from(mapped.count_ones());
        let private = mapped & !shared;
        let written = self.written & private;
        if state.private & written != written || resident & written != written || dirty & private & !written != 0 {
            report.differ(|| {
                let [resident, dirty] = [resident & private, dirty & private].map(map);
                let (written, expected) = (map(written), map(state.private));
                format!("{line}\n  private, resident {resident}\n  dirty             {dirty}\n  written           {written}\n  expected          {expected}")
            });
        }
        // Pages of files that private memory shows are no more than a hint.
        let (touched, expected) = (self.touched & shared, state.shared & shared);
        if touched != expected {
            report
                .differ(|| format!("{line}\n  shared, touched {}\n  expected        {}", map(touched), map(expected)));
        }
    }

    /// Sees anew what an access can have changed: its page.
    fn see_page(&mut self, address: u64) {
        let page = address / PAGE;
        let mut state = [PageState::empty()];
        let range = self.process.space.range(BASE.wrapping_add(page * PAGE), PAGE);
        if page >= PAGES || !range.is_ok_and(|range| self.process.space.page_states(range, &mut state).is_ok()) {
            return;
        }
        let [state] = state;
        for (set, flag) in [(&mut self.seen.resident, PageState::RESIDENT), (&mut self.seen.dirty, PageState::DIRTY)] {
            *set = *set & !(1 << page) | u64::from(state.contains(flag)) << page;
        }
    }
}

/// The pages that are in such a state: a bit for each.
fn pages_in(states: &[PageState; PAGES as usize], state: PageState) -> u64 {
    /// Has eight bytes of a bit each become a byte of eight bits, at the top.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let shift = state.bits().trailing_zeros();
    let (eights, _) = states.as_chunks::<8>();
    eights.iter().rev().fold(0, |all, eight| {
        let bits = u64::from_le_bytes(eight.map(|found| found.bits())) >> shift & 0x0101_0101_0101_0101;
        all << 8 | bits.wrapping_mul(GATHER) >> 56
    })
}

/// A window, in pages of the window of all that happens.
fn window_shown((range, access, _, flags): &(PageRange, Access, Inherit, WindowFlags)) -> Shown {
    let (first, end) = pages(range.start().as_u64() - BASE, range.size());
    let access = access.difference(Access::USER).bits();
    (first, end.min(PAGES), u32::from(access), flags.contains(WindowFlags::SHARED))
}

/// A region, likewise.
fn region_shown(region: &RegionInfo) -> Shown {
    let (first, end) = pages(region.start - BASE, region.size);
    (first, end.min(PAGES), region.protection.bits(), region.shared)
}

/// Regions in order, neighbours that agree as one, and none that are empty.
fn joined(regions: impl Iterator<Item = Shown> + Clone) -> impl Iterator<Item = Shown> + Clone {
    let mut rest = regions.filter(|(first, end, ..)| first < end).peekable();
    std::iter::from_fn(move || {
        let mut region = rest.next()?;
        while let Some(next) = rest.next_if(|next| (next.0, next.2, next.3) == (region.1, region.2, region.3)) {
            region.1 = next.1;
        }
        Some(region)
    })
}

/// A line with a letter for each page.
fn map(set: u64) -> String {
    (0..PAGES).map(|page| if set & (1 << page) != 0 { '#' } else { '.' }).collect()
}

/// Bits at pages from `from` on, as they are from `to` on.
fn shift(set: u64, from: u64, to: u64) -> u64 {
    let wide = u128::from(set);
    let moved = if to >= from { wide << (to - from).min(127) } else { wide >> (from - to).min(127) };
    moved as u64
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
