//! Holds page tables that `vmcore` built against MMUs that nobody here wrote: those of QEMU's system emulators, and of Bochs for EPT.
//!
//! Per format, random tables are built on the host and put into a machine's memory. A guest of a few dozen instructions tries
//! thousands of addresses, reading, writing and executing, in its privileged mode and as a program, and writes down what came of each:
//! which physical memory answered, or which fault there was. That is compared with what was asked for, and with `vmcore`'s own walk.
//!
//! | module | what it does |
//! |---|---|
//! | `formats` | what is particular to each format |
//! | `guest` | the guest, the machine around it, and what they share with the host |
//! | `qemu`, `bochs` | how each emulator is started, and comes to the memory |
//! | `ram`, `pool` | the machine's memory as a file; frames for tables in it |
//! | `model`, `world` | the naive map; random tables beside it |
//! | `probe`, `check` | one access; all of them, compared |

mod bochs;
mod check;
mod formats;
mod guest;
mod model;
mod pool;
mod probe;
mod qemu;
mod ram;
mod world;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::{
    check::{Check, Tally},
    formats::ALL,
};

/// Compare vmcore's page tables with what an emulator's MMU makes of them
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask check-mmu", version)]
struct Arguments {
    /// Only the formats whose name contains one of these; see --list
    formats: Vec<String>,
    /// Print the names of the formats
    #[arg(long)]
    list: bool,
    /// The first round's seed; a difference names the seed that shows it again
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Random tables per format, each tried at some 5,000 addresses
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        ALL.iter().for_each(|format| println!("{}", format.name));
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |name: &str| arguments.formats.is_empty() || arguments.formats.iter().any(|part| name.contains(part));
    let formats: Vec<_> = ALL.iter().filter(|format| wanted(format.name)).collect();
    anyhow::ensure!(!formats.is_empty(), "no format's name contains {}: see --list", arguments.formats.join(" or "));

    let directory = tempfile::tempdir().context("making a directory")?;
    let check = Check { seed: arguments.seed, rounds: arguments.rounds, directory: directory.path().to_owned() };
    let mut rows = Vec::new();
    for (index, format) in formats.iter().enumerate() {
        let (number, count, rounds, seed) = (index + 1, formats.len(), check.rounds, check.seed);
        eprintln!(
            "[{number:>2}/{count}] {}: {rounds} rounds from seed {seed}, and one with a fault planted …",
            format.name
        );
        rows.push((format.name, (format.run)(&check)?));
    }
    print(&rows);
    let differences: u64 = rows.iter().map(|(_, tally)| tally.differences).sum();
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(rows: &[(&str, Tally)]) {
    let line = |cells: [&dyn std::fmt::Display; 8]| {
        let [name, rest @ ..] = cells;
        let rest: String = rest.iter().map(|cell| format!("{cell:>12}")).collect();
        println!("{name:<28}{rest}");
    };
    line([
        &"format",
        &"addresses",
        &"accesses",
        &"translated",
        &"not mapped",
        &"refused",
        &"in groups",
        &"differences",
    ]);
    for (name, tally) in rows {
        line([
            name,
            &tally.addresses,
            &tally.accesses,
            &tally.reached,
            &tally.absent,
            &tally.denied,
            &tally.grouped,
            &tally.differences,
        ]);
    }
}
