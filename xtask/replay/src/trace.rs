//! Recordings of whole programs.
//!
//! Every mapping is made where Linux put it, and every page touched that the program touched. Compared are the result of each call, the first word of each page that is read of a
//! file, and at the end the mappings (neighbours that agree are one) and what is resident: pages of the program's own (`w`), zeros (`r`), and pages of files that it
//! touched (`f`). The pages of the first kind must be those that the space holds, and no more; those of the others must be shown by the tables.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use vmcore::posix::{Advice, Backing, Errno, MapFlags, Memory, Protection, RemapFlags};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{PageState, Space};

use crate::input::{number, numbers};
use crate::pages::Pages;
use crate::report::Report;
use crate::world::{Outcome, PAGE, Process, World, word_of};

/// The first address that is no program's: the kernel's own page lies above.
const TOP: u64 = 0x8000_0000_0000;
/// How many pages are touched at the most (16 GiB), and files mapped.
const MOST_PAGES: u64 = 1 << 22;
const MOST_FILES: u64 = 1 << 16;

/// What a page that is resident is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Own,
    Zero,
    File,
}

/// A mapping of `/proc/PID/maps`. Anonymous memory has no name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    protection: Protection,
    shared: bool,
    offset: u64,
    name: String,
    grows: bool,
}

enum Step {
    File { number: usize, size: u64, name: String },
    Map { address: u64, length: u64, protection: u32, flags: u32, file: Option<usize>, offset: u64 },
    Remap { old: u64, old_length: u64, new_length: u64, flags: u32 },
    Unmap { address: u64, length: u64 },
    Protect { address: u64, length: u64, protection: u32 },
    Advise { address: u64, length: u64, advice: u32 },
    Break { address: u64 },
    Touch { start: u64, pages: u64, kind: Kind },
}

/// A recording.
pub(crate) struct Recording {
    initial: Vec<Mapping>,
    steps: Vec<(usize, Step, i64)>,
    last: Vec<Mapping>,
    present: Vec<(u64, u64, Kind)>,
    lines: Vec<String>,
    touched: u64,
}

impl Recording {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (initial, steps, last) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = Self { initial, steps, last, present: Vec::new(), lines: Vec::new(), touched: 0 };
        for line in text.lines() {
            all.lines.push(line.to_owned());
            if !line.is_empty() && !line.starts_with('#') {
                all.take(line).with_context(|| format!("line {}: {line:?}", all.lines.len()))?;
            }
        }
        if all.last.is_empty() {
            bail!("line {}: no mapping at the end: is the recording cut short?", all.lines.len());
        }
        Ok(all)
    }

    /// How many operations and accesses there are, about.
    pub(crate) fn size(&self) -> u64 {
        self.steps.len() as u64 + self.touched
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, words @ ..] = words.as_slice() else { bail!("an empty line") };
        let end = words.iter().position(|word| *word == "=").unwrap_or(words.len());
        let (words, result) = words.split_at(end);
        let result = result.get(1).map_or(Ok(0), |word| number(word))? as i64;
        let short = |word: u64| u32::try_from(word).context("too large a number");
        let step = match *name {
            "init" => return mapping(words).map(|mapping| self.initial.push(mapping)),
            "final" => return mapping(words).map(|mapping| self.last.push(mapping)),
            "present" | "touch" => {
                let [start, pages] = numbers(words)?;
                let end = pages.checked_mul(PAGE).and_then(|size| start.checked_add(size));
                if start % PAGE != 0 || pages > MOST_PAGES || end.is_none() || self.touched + pages > MOST_PAGES {
                    bail!("no pages, or too many");
                }
                let kind = match words.get(2) {
                    Some(&"w") => Kind::Own,
                    Some(&"r") => Kind::Zero,
                    Some(&"f") => Kind::File,
                    _ => bail!("an unknown kind of page"),
                };
                if *name == "present" {
                    self.present.push((start, pages, kind));
                    return Ok(());
                }
                self.touched += pages;
                Step::Touch { start, pages, kind }
            }
            "file" => {
                let [number, size] = numbers(words)?;
                if number >= MOST_FILES || size > TOP {
                    bail!("too large a number");
                }
                Step::File {
                    number: usize::try_from(number)?,
                    size,
                    name: words.get(2).context("no name")?.to_string(),
                }
            }
            "mmap" => {
                let [address, length, protection, flags, file, offset] = numbers(words)?;
                let (protection, flags) = (short(protection)?, short(flags)?);
                if offset > TOP {
                    bail!("too large a number");
                }
                Step::Map { address, length, protection, flags, file: usize::try_from(file as i64).ok(), offset }
            }
            "mremap" => {
                let [old, old_length, new_length, flags] = numbers(words)?;
                Step::Remap { old, old_length, new_length, flags: short(flags)? }
            }
            "munmap" => {
                let [address, length] = numbers(words)?;
                Step::Unmap { address, length }
            }
            "mprotect" => {
                let [address, length, protection] = numbers(words)?;
                Step::Protect { address, length, protection: short(protection)? }
            }
            "madvise" => {
                let [address, length, advice] = numbers(words)?;
                Step::Advise { address, length, advice: short(advice)? }
            }
            "brk" => {
                let [address] = numbers(words)?;
                Step::Break { address }
            }
            _ => bail!("an unknown line"),
        };
        self.steps.push((self.lines.len() - 1, step, result));
        Ok(())
    }
}

fn mapping(words: &[&str]) -> Result<Mapping> {
    let [start, end, letters, offset, name] = words else { bail!("not a mapping") };
    let bits = "rwx".chars().zip(0..).filter(|(letter, _)| letters.contains(*letter)).map(|(_, bit)| 1_u32 << bit);
    let protection = Protection::from_bits_truncate(bits.sum());
    let anonymous = matches!(*name, "-" | "[heap]" | "[stack]");
    let (start, end, offset) = (number(start)?, number(end)?, if anonymous { 0 } else { number(offset)? });
    if start >= end || (start | end) % PAGE != 0 || offset > TOP {
        bail!("not a mapping");
    }
    Ok(Mapping {
        start,
        end,
        protection,
        shared: letters.ends_with('s'),
        offset,
        name: if anonymous { String::new() } else { (*name).to_owned() },
        grows: *name == "[stack]",
    })
}

/// The program while it is replayed.
struct Program<'a> {
    world: &'a World,
    process: Process,
    /// The names of the files, by their keys; and the recording's numbers of them.
    names: Vec<String>,
    numbers: Vec<usize>,
    /// What is mapped by which file, from which address on: key, address, offset.
    shown: BTreeMap<u64, (u64, u64, u64)>,
    resident: Pages<Kind>,
    has_heap: bool,
}

fn world_for(recording: &Recording) -> World {
    World::new(recording.touched as usize * 2 + 8192, 1)
}

/// Sets up the machine for a recording.
pub(crate) fn prepare(recording: &Recording) {
    world_for(recording);
}

/// Replays a recording.
pub(crate) fn replay(recording: &Recording) -> Result<Report> {
    let world = world_for(recording);
    let space = Space::user(&world.kernel, ()).context("no frame for a root")?;
    let process = Process::new(&world, space, Memory::new(&world.sim, 0), 0);
    let mut program = Program {
        world: &world,
        process,
        names: Vec::new(),
        numbers: Vec::new(),
        shown: BTreeMap::new(),
        resident: Pages::new(),
        has_heap: false,
    };
    let mut report = Report::default();
    for mapping in recording.initial.iter().filter(|mapping| mapping.end <= TOP) {
        program.begin(mapping, recording).with_context(|| format!("{mapping:?}"))?;
    }
    for (line, step, result) in &recording.steps {
        program.step(step, *result, &recording.lines[*line], &mut report);
    }
    program.end(recording, &mut report);
    program.process.exit(&world);
    if !world.is_as_new() {
        report.differ(|| String::from("not all memory was given back at the end"));
    }
    Ok(report)
}

impl Program<'_> {
    /// The key of a file, which is made if it is new.
    fn file(&mut self, name: &str, size: u64) -> Result<usize> {
        let size = size.max(1).div_ceil(PAGE) * PAGE;
        let area = Area::new(&self.world.sim, AreaKind::Paged { size, key: self.names.len() as u64 }, 0)?;
        self.process.files.push(area);
        self.names.push(name.to_owned());
        Ok(self.names.len() - 1)
    }

    /// Makes a mapping that is there when the program begins.
    fn begin(&mut self, mapping: &Mapping, recording: &Recording) -> Result<()> {
        let known = self.names.iter().position(|name| *name == mapping.name);
        let file = match (mapping.name.as_str(), known) {
            ("", _) => None,
            (_, Some(key)) => Some(key),
            (name, None) => {
                let ends = recording.initial.iter().filter(|other| other.name == name);
                Some(self.file(name, ends.map(|other| other.offset + (other.end - other.start)).max().unwrap_or(PAGE))?)
            }
        };
        let mut flags = if mapping.shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        flags |= if file.is_none() { MapFlags::ANONYMOUS } else { MapFlags::empty() };
        flags |= if mapping.grows { MapFlags::GROWS_DOWN } else { MapFlags::empty() };
        self.map(mapping.start, mapping.end - mapping.start, mapping.protection, flags, file, mapping.offset)
            .map_err(|errno| anyhow::anyhow!("{errno}"))?;
        Ok(())
    }

    /// Maps something where Linux put it.
    fn map(
        &mut self,
        address: u64,
        length: u64,
        protection: Protection,
        flags: MapFlags,
        file: Option<usize>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let place = if flags.contains(MapFlags::FIXED) { MapFlags::empty() } else { MapFlags::FIXED_NO_REPLACE };
        let Process { space, memory, files, .. } = &mut self.process;
        let backing = match file.and_then(|key| files.get(key)) {
            Some(area) => Backing::Area { area, offset },
            None => Backing::Anonymous,
        };
        let start = memory.mmap(space, address, length, protection, flags | place, backing)?;
        let end = start + length.div_ceil(PAGE) * PAGE;
        self.forget(start, end);
        if let Some(key) = file {
            self.cut(start);
            self.cut(end);
            self.shown.insert(start, (end, key as u64, offset));
        }
        Ok(start)
    }

    /// Cuts what is known of a mapping of a file at an address.
    fn cut(&mut self, address: u64) {
        let Some((&start, &(end, key, offset))) = self.shown.range(..address).next_back() else { return };
        if end > address {
            self.shown.insert(start, (address, key, offset));
            self.shown.insert(address, (end, key, offset + (address - start)));
        }
    }

    /// Nothing is mapped there any more.
    fn forget(&mut self, start: u64, end: u64) {
        self.cut(start);
        self.cut(end);
        self.shown.retain(|address, _| !(start..end).contains(address));
        self.resident.remove(start, end);
    }

    fn step(&mut self, step: &Step, expected: i64, line: &str, report: &mut Report) {
        if let Step::Touch { start, pages, kind } = *step {
            for page in (start..).step_by(PAGE as usize).take(pages as usize) {
                if page < TOP {
                    self.touch(page, kind, line, report);
                }
            }
            return;
        }
        if !matches!(step, Step::File { .. }) {
            report.operations += 1;
        }
        let found = match self.call(step, expected) {
            Ok(value) => value as i64,
            Err(errno) => -i64::from(errno.number()),
        };
        if found != expected {
            report.differ(|| format!("{line}\n  found {found:#x}"));
        }
    }

    fn call(&mut self, step: &Step, expected: i64) -> Result<u64, Errno> {
        let pages = |address: u64, length: u64| (address, address.saturating_add(length).div_ceil(PAGE) * PAGE);
        match *step {
            Step::File { number, size, ref name } => {
                let key = self.file(name, size).map_err(|_| Errno::NoMemory)?;
                if self.numbers.len() <= number {
                    self.numbers.resize(number + 1, 0);
                }
                self.numbers[number] = key;
                Ok(0)
            }
            Step::Map { address, length, protection, flags, file, offset } => {
                let (protection, flags) =
                    (Protection::from_bits_truncate(protection), MapFlags::from_bits_truncate(flags));
                let place = if expected < 0 { address } else { expected as u64 };
                let key = file.and_then(|file| self.numbers.get(file).copied());
                self.map(place, length, protection, flags, key, offset)
            }
            Step::Remap { old, old_length, new_length, flags } => {
                let moves = expected > 0 && expected as u64 != old;
                let flags =
                    RemapFlags::from_bits_truncate(flags) | if moves { RemapFlags::FIXED } else { RemapFlags::empty() };
                let Process { space, memory, .. } = &mut self.process;
                let new = memory.mremap(space, old, old_length, new_length, flags, expected as u64)?;
                let (start, end) = pages(old, old_length);
                let kept = new_length.div_ceil(PAGE) * PAGE;
                let moved: Vec<(u64, Kind)> = self.resident.range(start, end).collect();
                self.resident.remove(start, end);
                for (page, kind) in moved.into_iter().filter(|(page, _)| page - start < kept) {
                    self.resident.insert(page - start + new, kind);
                }
                Ok(new)
            }
            Step::Unmap { address, length } => {
                let Process { space, memory, .. } = &mut self.process;
                memory.munmap(space, address, length)?;
                let (start, end) = pages(address, length);
                self.forget(start, end);
                Ok(0)
            }
            Step::Protect { address, length, protection } => {
                let Process { space, memory, .. } = &mut self.process;
                let protection = Protection::from_bits(protection).ok_or(Errno::Invalid)?;
                memory.mprotect(space, address, length, protection).map(|()| 0)
            }
            Step::Advise { address, length, advice } => {
                let Process { space, memory, .. } = &mut self.process;
                let advice = Advice::from_number(advice).ok_or(Errno::Invalid)?;
                memory.madvise(space, address, length, advice)?;
                if advice == Advice::DontNeed {
                    let (start, end) = pages(address, length);
                    self.resident.remove(start, end);
                }
                Ok(0)
            }
            Step::Break { address } => {
                let Process { space, memory, .. } = &mut self.process;
                if !self.has_heap {
                    self.has_heap = true;
                    memory.set_heap(expected as u64);
                }
                let before = memory.brk(space, 0);
                let now = memory.brk(space, address);
                if now < before {
                    self.resident.remove(now.div_ceil(PAGE) * PAGE, before.div_ceil(PAGE) * PAGE);
                }
                Ok(now)
            }
            Step::Touch { .. } => Ok(0),
        }
    }

    fn touch(&mut self, page: u64, kind: Kind, line: &str, report: &mut Report) {
        report.accesses += 1;
        let outcome = match kind {
            Kind::Own => self.process.store(self.world, page, page),
            Kind::Zero | Kind::File => self.process.load(self.world, page),
        };
        let wanted = match kind {
            Kind::Own => page,
            Kind::Zero => 0,
            Kind::File => self.word_at(page),
        };
        if outcome != Outcome::Done(wanted) {
            report.differ(|| format!("{line}\n  at {page:#x}: {outcome:?}, not {wanted:#x}"));
        }
        self.resident.insert(page, kind);
    }

    /// What the file begins with that is mapped at a page.
    fn word_at(&self, page: u64) -> u64 {
        match self.shown.range(..=page).next_back() {
            Some((start, (end, key, offset))) if *end > page => word_of(*key, offset + (page - start)),
            _ => 0,
        }
    }

    /// Compares mappings and resident pages with what was recorded at the end.
    fn end(&self, recording: &Recording, report: &mut Report) {
        let mut expected: Vec<Mapping> = Vec::new();
        for mapping in recording.last.iter().filter(|mapping| mapping.end <= TOP) {
            join(&mut expected, Mapping { grows: false, ..mapping.clone() });
        }
        let mut found: Vec<Mapping> = Vec::new();
        for region in self.process.memory.regions() {
            let (start, end) = (region.start, region.start + region.size);
            let (protection, shared) = (region.protection, region.shared);
            let mut add = |start, end, offset, name: &str| {
                let name = name.to_owned();
                join(&mut found, Mapping { start, end, protection, shared, offset, name, grows: false });
            };
            if region.anonymous {
                add(start, end, 0, "");
                continue;
            }
            for (address, (last, key, offset)) in self.shown.range(..end).filter(|(_, (last, ..))| *last > start) {
                let from = start.max(*address);
                add(from, end.min(*last), offset + (from - address), &self.names[*key as usize]);
            }
        }
        for (index, pair) in
            (0..expected.len().max(found.len())).map(|index| (index, (expected.get(index), found.get(index))))
        {
            if pair.0 != pair.1 {
                report
                    .differ(|| format!("mapping {index} at the end\n  found    {:?}\n  expected {:?}", pair.1, pair.0));
            }
        }
        let mut present = Pages::new();
        for (start, pages, kind) in &recording.present {
            present.insert_run(*start, *pages, *kind);
        }
        let found_alone = self.resident.range(0, TOP).filter(|(page, _)| present.get(*page).is_none());
        for (page, _) in present.range(0, TOP).chain(found_alone) {
            report.pages += 1;
            let (expected, found) = (present.get(page), self.resident.get(page));
            if expected != found {
                report.differ(|| {
                    format!("the page at {page:#x} at the end\n  found    {found:?}\n  expected {expected:?}")
                });
            }
        }
        self.compare_with_space(&present, report);
    }

    /// Compares what the space holds and shows with the pages that are to be resident.
    fn compare_with_space(&self, present: &Pages<Kind>, report: &mut Report) {
        let space: &Space<Sim> = &self.process.space;
        for region in self.process.memory.regions() {
            let mut start = region.start;
            while start < region.start + region.size {
                let mut states = [PageState::empty(); 512];
                let rest = region.start + region.size - start;
                let range = space.range(start, rest).expect("regions lie in the space");
                let count = space.page_states(range, &mut states).expect("a range of the space");
                for (page, state) in (start..).step_by(PAGE as usize).zip(&states[..count]) {
                    let kind = present.get(page);
                    let own = state.contains(PageState::RESIDENT | PageState::DIRTY) && !region.shared;
                    let right = match kind {
                        Some(Kind::Own) => own,
                        Some(Kind::Zero | Kind::File) => !own && state.contains(PageState::SHOWN),
                        None => !own,
                    };
                    if !right {
                        report.differ(|| {
                            format!("the page at {page:#x} at the end\n  is {state:?}\n  expected {kind:?}")
                        });
                    }
                }
                start += (count as u64) * PAGE;
            }
        }
    }
}

/// Adds a mapping, as a part of the one before it if they agree.
fn join(all: &mut Vec<Mapping>, next: Mapping) {
    if let Some(last) = all.last_mut() {
        let carries_on = next.name.is_empty() || last.offset + (last.end - last.start) == next.offset;
        let agrees = (last.end, last.protection, last.shared) == (next.start, next.protection, next.shared);
        if agrees && carries_on && last.name == next.name {
            last.end = next.end;
            return;
        }
    }
    all.push(next);
}
