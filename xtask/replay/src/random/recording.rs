//! A recording of random operations, out of its text.

use anyhow::{Context as _, Result, bail};

use super::shape::{Shape, bits};
use super::{PAGES, PROCESSES, THREADS};
use crate::call::{self, Call};
use crate::input::number;
use crate::world::Outcome;

/// What is recorded of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) shape: Shape,
    /// The pages that are private and resident; and shared.
    pub(super) private: u64,
    pub(super) shared: u64,
}

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    /// What the call returned; and the hash of what was copied.
    Value(u64, u64),
    Errno(i32),
    Access(Outcome),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Step {
    /// The number of its line, and where that is in the text.
    line: usize,
    at: (usize, usize),
    pub(super) process: usize,
    pub(super) thread: usize,
    pub(super) call: Call,
    pub(super) expected: Expected,
    pub(super) state: State,
    pub(super) child: State,
    /// Which lines of those there were.
    told: u8,
}

/// A recording.
#[derive(Debug)]
pub(crate) struct Recording {
    /// Nothing but the window is free: what is mapped without a place comes into it.
    pub(super) placed: bool,
    /// How many threads each process has.
    pub(super) threads: usize,
    /// How many pages each file has.
    pub(super) files: Vec<u64>,
    pub(super) steps: Vec<Step>,
    text: String,
}

/// The letters of the lines that tell of a state.
const LETTERS: [char; 4] = ['R', 'P', 'r', 'p'];

impl Recording {
    pub(crate) fn parse(text: String) -> Result<Self> {
        let head = text.lines().next().unwrap_or_default();
        let placed = head.split_ascii_whitespace().any(|word| word == "placed");
        let files = head.split_ascii_whitespace().find_map(|word| word.strip_prefix("files="));
        let files = files.map_or(Ok(Vec::new()), |sizes| sizes.split(',').map(number).collect::<Result<_>>())?;
        let mut steps = Vec::with_capacity(text.len() / 160);
        let (mut at, mut threads) = (0, 1);
        for (count, whole) in text.split_inclusive('\n').enumerate() {
            let line = whole.strip_suffix('\n').map_or(whole, |line| line.strip_suffix('\r').unwrap_or(line));
            let place = (at, at + line.len());
            at += whole.len();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let taken = match line.strip_prefix(' ') {
                Some(rest) => take_state(&mut steps, rest),
                None => check_last(&steps, &text).and_then(|()| step(line)).map(|mut step| {
                    (step.line, step.at) = (count + 1, place);
                    threads = threads.max(step.thread + 1);
                    steps.push(step);
                }),
            };
            taken.with_context(|| format!("line {}: {line:?}", count + 1))?;
        }
        check_last(&steps, &text).context("the last operation: is the recording cut short?")?;
        Ok(Self { placed, threads, files, steps, text })
    }

    /// How many operations and accesses there are.
    pub(crate) fn size(&self) -> u64 {
        self.steps.len() as u64
    }

    /// The line of a step, with its number.
    pub(super) fn line(&self, step: &Step) -> String {
        line_of(&self.text, step)
    }
}

fn line_of(text: &str, step: &Step) -> String {
    format!("line {}: {}", step.line, text.get(step.at.0..step.at.1).unwrap_or_default())
}

/// What is recorded of the last operation must be complete.
fn check_last(steps: &[Step], text: &str) -> Result<()> {
    let Some(step) = steps.last() else { return Ok(()) };
    let expected: u8 = match step.call {
        Call::Exit => 0,
        Call::Fork { .. } => 0b1111,
        _ => 0b0011,
    };
    match (0..).zip(LETTERS).find(|(bit, _)| expected & !step.told & 1 << bit != 0) {
        Some((_, kind)) => bail!("{} has no {kind} line", line_of(text, step)),
        None => Ok(()),
    }
}

fn take_state(steps: &mut [Step], line: &str) -> Result<()> {
    let step = steps.last_mut().context("a state without an operation")?;
    let (kind, rest) = line.split_at_checked(1).context("not a state")?;
    let place = LETTERS.iter().position(|letter| kind.starts_with(*letter)).context("not a state")?;
    step.told |= 1 << place;
    let state = if place < 2 { &mut step.state } else { &mut step.child };
    if place % 2 == 0 {
        state.shape = regions(rest)?;
    } else {
        (state.private, state.shared) = residency(rest)?;
    }
    Ok(())
}

fn step(line: &str) -> Result<Step> {
    const MOST: usize = 16;
    let mut words = [""; MOST];
    let mut count = 0;
    for word in line.split_ascii_whitespace() {
        *words.get_mut(count).context("too many words")? = word;
        count += 1;
    }
    let [_, process, name, rest @ ..] = &words[..count] else { bail!("too few words") };
    let end = rest.iter().position(|word| *word == "=").unwrap_or(rest.len());
    let (arguments, result) = rest.split_at(end);
    let call = Call::parse(name, arguments)?;
    let expected = expected(&call, result.get(1..).unwrap_or_default())?;
    let (process, thread) = process.split_once('.').unwrap_or((process, "0"));
    let (process, thread) = (slot(call::slot(process)?)?, thread.parse()?);
    if thread >= THREADS {
        bail!("a process has {THREADS} threads at the most");
    }
    if let Call::Fork { child } = call
        && slot(child)? == process
    {
        bail!("a process that is its own child");
    }
    let (state, child) = (State::default(), State::default());
    Ok(Step { line: 0, at: (0, 0), process, thread, call, expected, state, child, told: 0 })
}

fn slot(number: u8) -> Result<usize> {
    let slot = usize::from(number);
    if slot < PROCESSES { Ok(slot) } else { bail!("there are {PROCESSES} processes at the most") }
}

fn regions(text: &str) -> Result<Shape> {
    let mut all = Shape::default();
    for word in text.split_ascii_whitespace() {
        let (range, letters) = word.split_once(':').context("not a region")?;
        let (first, end) = range.split_once('-').context("not a range")?;
        let (first, end) = (first.parse()?, end.parse()?);
        if first >= end || end > PAGES {
            bail!("{word} is no range of the window's {PAGES} pages");
        }
        let bit = |letter: u8, bit: u32| if letters.as_bytes().contains(&letter) { 1 << bit } else { 0 };
        all.add(bits(first, end), bit(b'r', 0) | bit(b'w', 1) | bit(b'x', 2), letters.ends_with('s'));
    }
    Ok(all)
}

fn residency(text: &str) -> Result<(u64, u64)> {
    let (mut private, mut shared) = (0, 0);
    let letters = text.trim().as_bytes();
    if letters.len() as u64 != PAGES {
        bail!("{} pages, and the window has {PAGES}", letters.len());
    }
    for (page, letter) in letters.iter().enumerate() {
        match letter {
            b'p' => private |= 1 << page,
            b's' => shared |= 1 << page,
            b'.' => {}
            letter => bail!("{:?} is no state of a page", char::from(*letter)),
        }
    }
    Ok((private, shared))
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
