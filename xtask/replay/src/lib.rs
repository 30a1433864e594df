//! Recorded memory operations of Linux, done again by `vmcore` on a simulated machine, and compared.
//!
//! ```text
//!   recording (text, or xz) ──► steps ──► posix::Memory, Space ──► simulated machine
//!                                 │                 │                     │ accesses of programs
//!                                 └── expected ──► compare ◄── windows, page states, contents
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | `input` | reading a file, and the words of its lines |
//! | `call` | what a process does: calls and accesses, as words |
//! | `world` | the machine, and processes whose accesses fault |
//! | `random` | recordings of random operations with the full state after each |
//! | `trace` | recordings of whole programs |
//! | `pages` | a map from pages to small values |
//! | `report` | what was compared, and what was different |

mod call;
mod input;
mod pages;
mod random;
mod report;
mod trace;
mod world;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

pub use crate::call::{Call, File};
pub use crate::report::{Report, rate};
pub use crate::world::word_of;

/// A recording of either kind.
pub struct Recording(Kind);

/// How much memory there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// As much as is asked for.
    Enough,
    /// Of random operations, many a call has a request for frames refused: it changes nothing then, and is made again.
    RunsOut,
}

enum Kind {
    Random(random::Recording),
    Trace(trace::Recording),
}

impl Recording {
    /// Reads a file, which may be compressed with xz.
    ///
    /// # Errors
    /// It cannot be read, or is no recording.
    pub fn read(path: &Path) -> Result<Self> {
        let text = input::read(path)?;
        Self::parse(text).with_context(|| path.display().to_string())
    }

    /// Takes a recording out of its text.
    ///
    /// # Errors
    /// It is no recording.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let head = text.lines().next().unwrap_or_default();
        Ok(Self(if head.starts_with("# lxoracle") {
            Kind::Random(random::Recording::parse(text)?)
        } else if head.starts_with("# memtrace") {
            Kind::Trace(trace::Recording::parse(&text)?)
        } else {
            let head: String = head.chars().take(40).collect();
            bail!("this is no recording: it begins with {head:?}")
        }))
    }

    /// How many operations and accesses it has, about.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kind::Random(recording) => recording.size(),
            Kind::Trace(recording) => recording.size(),
        }
    }

    /// Sets up, on this thread, the machine that it is replayed on.
    pub fn prepare(&self) {
        self.prepare_with(Memory::Enough);
    }

    fn prepare_with(&self, memory: Memory) {
        match &self.0 {
            Kind::Random(recording) => random::prepare(recording, memory),
            Kind::Trace(recording) => trace::prepare(recording),
        }
    }

    /// Replays it. How long that takes is measured without setting up the machine: whoever replayed something as large on this thread before has one.
    ///
    /// # Errors
    /// What the program began with cannot be made.
    pub fn replay(&self) -> Result<Report> {
        self.replay_with(Memory::Enough)
    }

    /// Replays it as long as there is so much memory.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn replay_with(&self, memory: Memory) -> Result<Report> {
        self.prepare_with(memory);
        let begin = Instant::now();
        let mut report = match &self.0 {
            Kind::Random(recording) => random::replay(recording, memory),
            Kind::Trace(recording) => trace::replay(recording)?,
        };
        report.took = begin.elapsed();
        Ok(report)
    }
}

/// Replays a file of either kind.
///
/// # Errors
/// It cannot be read, or is no recording.
pub fn replay(path: &Path) -> Result<Report> {
    Recording::read(path)?.replay()
}

/// Replays a recording that was read already.
///
/// # Errors
/// It is no recording.
pub fn replay_text(text: &str) -> Result<Report> {
    Recording::parse(text)?.replay()
}
