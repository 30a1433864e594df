//! `cargo xtask models`: vmcore's own code under two model checkers.
//!
//! The models are a program of their own, `vmcore-models`, built once for each checker: the library is another one in each, since its
//! shared words are the checker's. So each build sets its flags outright and has a target directory of its own.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::workspace::{Workspace, cargo};

const PROGRAM: &str = "vmcore-models";

/// Check the protocol between faults, changes and flushes with shuttle, and what needs no lock with loom
///
/// The library itself is run, on reduced tables: by shuttle on simulated CPUs in random orders, by loom in every order within a bound
/// of preemptions. Ends with a table of what was run and found.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the models whose name contains one of these; see --list
    names: Vec<String>,
    /// Print the names of the models
    #[arg(long)]
    list: bool,
    /// Only the lock-free pieces, with loom
    #[arg(long, conflicts_with = "shuttle")]
    loom: bool,
    /// Only the protocol, with shuttle
    #[arg(long)]
    shuttle: bool,
    /// Schedules of each model of the protocol under each of three schedulers
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// The schedulers' seed: the same one runs the same schedules
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Preemptions of each order that loom tries
    #[arg(long, default_value_t = 3)]
    preemptions: usize,
}

/// `cargo xtask models`. What was found is in the table already.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let mut ends = Vec::new();
    for (checker, left_out) in [("loom", arguments.shuttle), ("shuttle", arguments.loom)] {
        if !left_out {
            ends.push(run(&workspace.root, checker, arguments)?);
        }
    }
    ensure!(!ends.iter().all(|end| *end == End::None), "no model's name contains {}", arguments.names.join(" or "));
    Ok(if ends.contains(&End::Found) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How a run of the models ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    /// Something was found, or the models could not be built.
    Found,
    /// No model was asked for.
    None,
}

/// Builds the models for a checker and runs them.
fn run(root: &Path, checker: &str, arguments: &Arguments) -> Result<End> {
    let mut command = cargo(root);
    command
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg={checker}"))
        .args(["run", "--quiet", "--profile", "models", "--package", PROGRAM])
        .args(["--target-dir", &format!("target/models/{checker}"), "--"])
        .args(&arguments.names)
        .args(["--iterations", &arguments.iterations.to_string()])
        .args(["--seed", &arguments.seed.to_string()])
        .args(["--preemptions", &arguments.preemptions.to_string()]);
    if arguments.list {
        command.arg("--list");
    }
    eprintln!("Checking with {checker} …");
    let status = command.status().with_context(|| format!("checking with {checker}: cargo cannot be started"))?;
    Ok(match status.code() {
        Some(0) => End::Clean,
        Some(3) => End::None,
        _ => End::Found,
    })
}
