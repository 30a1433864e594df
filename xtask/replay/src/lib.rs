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
//! | `world` | the machine, and processes whose accesses fault |
//! | `random` | recordings of random operations with the full state after each |
//! | `trace` | recordings of whole programs |
//! | `pages` | a map from pages to small values |
//! | `report` | what was compared, and what was different |

mod input;
mod pages;
mod random;
mod report;
mod trace;
mod world;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

pub use crate::report::Report;

/// Replays a file of either kind.
///
/// # Errors
/// It cannot be read, or is no recording.
pub fn replay(path: &Path) -> Result<Report> {
    let text = input::read(path)?;
    replay_text(&text)
}

/// Replays a recording that was read already.
///
/// # Errors
/// It is no recording.
pub fn replay_text(text: &str) -> Result<Report> {
    let head = text.lines().next().unwrap_or_default();
    if head.starts_with("# lxoracle") {
        let recording = random::Recording::parse(text)?;
        let begin = Instant::now();
        let mut report = random::replay(&recording);
        report.took = begin.elapsed();
        Ok(report)
    } else if head.starts_with("# memtrace") {
        let recording = trace::Recording::parse(text)?;
        let begin = Instant::now();
        let mut report = trace::replay(&recording)?;
        report.took = begin.elapsed();
        Ok(report)
    } else {
        bail!("this is no recording: it begins with {head:?}")
    }
}
