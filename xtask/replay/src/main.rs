//! `cargo xtask replay`: recordings of what Linux did, replayed on vmcore.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

/// Replay recordings of what Linux did on vmcore, and compare
#[derive(Debug, clap::Parser)]
#[command(name = "replay")]
struct Arguments {
    /// Recordings, plain or compressed with xz
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Replay each so many times; the rate is that of all of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut differences = 0;
    for file in &arguments.files {
        let mut report = replay::replay(file)?;
        for _ in 1..arguments.rounds {
            let more = replay::replay(file)?;
            report.operations += more.operations;
            report.accesses += more.accesses;
            report.pages += more.pages;
            report.differences += more.differences;
            report.took += more.took;
        }
        println!("{}: {report}", file.display());
        for difference in &report.told {
            println!("{difference}\n");
        }
        differences += report.differences;
    }
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
