//! `cargo xtask bench-guest`: what the kernel's paths cost, in guest instructions.
//!
//! The machine counts one nanosecond of guest time per instruction, so the guest's time-stamp counter counts instructions: the same figure on
//! every host, however busy. The kernel runs its bench program, whose lines are read here.

mod figures;
mod rows;
mod table;

use std::time::Duration;

use anyhow::{Result, bail};
use refkernel_abi::roles::BenchRole;

use crate::{
    build::{self, Image, Profile},
    qemu::{Machine, Medium, Memory, Pace},
    session::{self, Limits, Outcome, Typing, Wishes},
    setup::{self, Need},
    workspace::Workspace,
};
use figures::Figure;
use rows::{FLUSHES, ROWS};
use table::{missing, table};

/// Measure system calls, faults, mappings and copies of processes in guest instructions
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show the serial line as it comes
    #[arg(long)]
    show: bool,
    /// Do everything a few times only: that it still can be measured
    #[arg(long)]
    quick: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// How long a machine may take.
const LIMIT: Duration = Duration::from_secs(900);

/// `cargo xtask bench-guest`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Qemu], arguments.yes)?;
    let image = build::image(&Workspace::load()?, Profile::Optimised)?;
    let role = if arguments.quick { BenchRole::Quick } else { BenchRole::All };
    let mut figures = Vec::new();
    for (role, cpus) in [(role, 1), (BenchRole::Flushes, 2)] {
        eprintln!("Measuring refkernel on a machine with {cpus} processor(s), which takes some seconds.");
        figures.extend(refkernel(&image, role, cpus, arguments.show)?);
    }
    print!("{}\n{}", table(ROWS, &figures, None, "Linux"), table(FLUSHES, &figures, None, "Linux"));
    let missing: Vec<_> = [ROWS, FLUSHES].into_iter().flat_map(|rows| missing(rows, &figures)).collect();
    if !missing.is_empty() {
        bail!("the kernel gave no figure for: {}", missing.join(", "));
    }
    Ok(())
}

/// Runs the kernel's bench program on a machine with so many processors.
fn refkernel(image: &Image, role: BenchRole, cpus: u8, show: bool) -> Result<Vec<Figure>> {
    let cmdline = match role.word() {
        "" => "bench".to_owned(),
        word => format!("bench={word}"),
    };
    let outcome = run(Medium::Direct(image.clone()), cmdline, cpus, show)?;
    Ok(outcome.lines.iter().filter_map(|line| Figure::read(line)).collect())
}

/// Runs a machine that counts instructions.
fn run(medium: Medium, cmdline: String, cpus: u8, show: bool) -> Result<Outcome> {
    let machine =
        Machine { medium, cmdline, memory: Memory(512), cpus, window: false, pace: Pace::Counted, options: Vec::new() };
    let outcome = session::run(
        &machine,
        Wishes {
            limits: Limits { total: Some(LIMIT), silence_at_start: LIMIT, silence: Some(LIMIT) },
            show,
            typing: Typing::No,
            script: None,
            picture: None,
        },
    )?;
    if !outcome.end.is_success() {
        bail!("{}{}", outcome.end, outcome.last_lines());
    }
    Ok(outcome)
}
