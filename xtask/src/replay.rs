//! `cargo xtask replay`: what Linux did, replayed on `vmcore` and compared.
//!
//! The replay is a program of its own, `replay`, so that this one needs no `vmcore`; it is built optimised.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, cargo};

const PROGRAM: &str = "replay";

/// Replay recordings of what Linux did on vmcore, and compare
///
/// Recordings of random operations with the full state after each, and of whole programs; plain or compressed with xz. Results, errnos, regions, resident pages,
/// contents and the outcome of every access are compared. Prints for each file what was compared and how fast, and the first differences in full; then how fast all of them
/// together were. The exit code is 0 if there was no difference, 1 if there was one, and 2 if a file cannot be read or is no recording.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Recordings
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Replay each so many times; the rate is that of all of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// So many threads, each with a machine of its own and one file at a time; one for each CPU unless told otherwise
    #[arg(long)]
    threads: Option<NonZero<usize>>,
}

/// `cargo xtask replay`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let mut command = cargo(&workspace.root);
    command.args(["run", "--quiet", "--profile", "bench", "--package", PROGRAM, "--bin", PROGRAM, "--"]);
    command.args(["--rounds", &arguments.rounds.to_string()]);
    if let Some(threads) = arguments.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    // Relative to where the command was given, not to where it runs.
    for file in &arguments.files {
        command.arg(std::path::absolute(file)?);
    }
    // What was different was told by the program.
    let status = command.status().context("replaying: cargo cannot be started")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
