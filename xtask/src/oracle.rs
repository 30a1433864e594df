//! `cargo xtask oracle`: random operations, done by the Linux that runs this and by `vmcore`, and compared.
//!
//! The oracle is a program of its own, `oracle`, so that this one needs no `vmcore`; it is built optimised.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, cargo};

const PROGRAM: &str = "oracle";

/// Compare random operations of vmcore with what the Linux that runs this makes of them
///
/// Maps, unmaps, protects, moves, advises, accesses, copies and forks, in up to six processes of two threads each: done by real processes, and by vmcore on a simulated
/// machine. Results, errnos, places, regions, resident pages, contents and the outcome of every access are compared after each. A difference is shrunk to the shortest sequence that shows it,
/// and written as a recording that `cargo xtask replay` takes. Needs Linux on x86-64.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the sequences begin with: the same seed gives the same ones; a random one if not said
    #[arg(long)]
    seed: Option<u64>,
    /// Operations and accesses at the least; a million if neither this nor a time is said
    #[arg(long)]
    ops: Option<u64>,
    /// Minutes at the most
    #[arg(long)]
    minutes: Option<f64>,
    /// How many sequences are done at a time; one more than CPUs if not said
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Where a difference is written
    #[arg(long, default_value = "oracle-difference.txt")]
    output: PathBuf,
}

/// `cargo xtask oracle`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let mut command = cargo(&workspace.root);
    command.args(["run", "--quiet", "--profile", "oracle", "--package", PROGRAM, "--bin", PROGRAM, "--"]);
    // Relative to where the command was given, not to where it runs.
    command.arg("--output").arg(std::path::absolute(&arguments.output)?);
    let numbers = [
        ("--seed", arguments.seed.map(|seed| seed.to_string())),
        ("--ops", arguments.ops.map(|ops| ops.to_string())),
        ("--minutes", arguments.minutes.map(|minutes| minutes.to_string())),
        ("--workers", arguments.workers.map(|workers| workers.to_string())),
    ];
    for (name, number) in numbers {
        command.args(number.iter().flat_map(|number| [name, number]));
    }
    // What was different was told by the program.
    let status = command.status().context("comparing: cargo cannot be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
