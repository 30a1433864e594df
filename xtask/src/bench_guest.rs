//! `cargo xtask bench-guest`: what the kernel's paths cost, in guest instructions.
//!
//! The machine counts one nanosecond of guest time per instruction, so the guest's time-stamp counter counts instructions: the same figure on
//! every host, however busy. The kernel runs its bench program, and so does Debian's Linux, in the same machine; their lines are read here and put beside each other.
//!
//! | module | what lives there |
//! |---|---|
//! | `figures` | the lines that the program writes |
//! | `rows` | what the table shows, and what is to be reached |
//! | `table` | both kernels beside each other |
//! | `linux` | Debian's kernel, and what it is booted with |
//! | `initramfs` | the file system that it finds the program in |

mod figures;
mod initramfs;
mod linux;
mod rows;
mod table;

use std::{path::PathBuf, time::Duration};

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
use linux::Linux;
use rows::{FLUSHES, ROWS, Row};
use table::{missing, table};

/// Measure system calls, faults, mappings and copies of processes in guest instructions, beside Debian's Linux
///
/// The same program runs on both kernels, in the same machine, where one instruction is one nanosecond of the guest's time: the figures depend on the
/// guest alone. Debian's kernel is had from its package, once.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Measure only this kernel
    #[arg(long, value_name = "KERNEL")]
    only: Option<Kernel>,
    /// Another Linux kernel's file (bzImage) instead of Debian's
    #[arg(long, value_name = "FILE")]
    linux: Option<PathBuf>,
    /// Show the serial line as it comes
    #[arg(long)]
    show: bool,
    /// The seed of places: where windows and stacks are decides which tables they share
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Do everything a few times only: that it still can be measured
    #[arg(long)]
    quick: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kernel {
    Refkernel,
    Linux,
}

/// How long a machine may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// What stands under the table.
const NOTES: &str = "\
Medians; each operation alone, reading the counter taken off, those into which a timer's interrupt fell left out. `*`: nearly every operation had
one, and they are counted. `!`: above the goal. Where the kernels were measured unequally often, the operations are refkernel's / Linux's.
Windows of 4,096 pages begin on a border of 1 GiB (so that whole tables are theirs), or one page (4 KiB) behind it where the row says so, with
nothing else in their 512 GiB. Pages are of 4 KiB in both. The process is small: program, stack, a page shared with its copies, a stack for these,
and the window.
In its column refkernel zeroes every page before it is used, keeps SMEP, SMAP and CR0.WP on, checks every argument, and counts and limits what is
used. Linux does in its own what refkernel does not: it charges pages to memory control groups (here to the root group), keeps lists for reclaim
(LRU) and a reverse map per page, asks security modules, commits memory to be used against a limit, counts faults for perf, and does what it
says below about speculation (its own indirect jumps go through retpolines; tables are not isolated where the processor needs that not).
";

/// `cargo xtask bench-guest`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Qemu], arguments.yes)?;
    let workspace = Workspace::load()?;
    let role = if arguments.quick { BenchRole::Quick } else { BenchRole::All };
    let wanted = |kernel| arguments.only.is_none_or(|only| only == kernel);

    let mut figures = Vec::new();
    if wanted(Kernel::Refkernel) {
        let image = build::image(&workspace, Profile::Optimised)?;
        for (role, cpus, processors) in [(role, 1, "one processor"), (BenchRole::Flushes, 2, "two processors")] {
            eprintln!("Measuring refkernel on {processors}: some seconds.");
            figures.extend(refkernel(&image, role, cpus, arguments.seed, arguments.show)?);
        }
    }
    let (mut linux, mut failure) = (None, None);
    if wanted(Kernel::Linux) {
        match linux::prepare(&workspace, arguments.linux.as_deref()) {
            Ok(image) => {
                eprintln!("Measuring Linux on one processor: about a minute, most of it before the first figure.");
                match linux::measure(image, role, arguments.show) {
                    Ok(measured) => linux = Some(measured),
                    // What was measured before is shown all the same.
                    Err(error) => failure = Some(error.context("Linux was not measured")),
                }
            }
            Err(error) if arguments.only.is_none() && arguments.linux.is_none() => {
                eprintln!("The column of Linux stays empty, since its kernel cannot be had: {error:#}.");
            }
            Err(error) => failure = Some(error),
        }
    }

    let name = linux.as_ref().map_or("Linux".to_owned(), Linux::name);
    let others = linux.as_ref().map(|linux| linux.figures.as_slice()).unwrap_or_default();
    if !figures.is_empty() || !others.is_empty() {
        print!("{}", table(ROWS, &figures, others, &name));
        if !figures.is_empty() {
            print!("\n{}", table(FLUSHES, &figures, &[], &name));
        }
        print!("\n{NOTES}");
    }
    if let Some(linux) = &linux {
        println!("\nWhat that Linux says of itself:");
        for (what, value) in &linux.description {
            println!("  {what}: {value}");
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Whether a run of the bench program has given every figure of its part, each of at least one operation; and where the figures do not depend on how fast the
/// machine is, whether they are what they must be.
pub(crate) fn check(role: BenchRole, lines: &[String]) -> Result<(), String> {
    let rows = rows_of(role);
    let figures: Vec<_> = lines.iter().filter_map(|line| Figure::read(line)).collect();
    let missing = missing(rows, &figures);
    if !missing.is_empty() {
        return Err(format!("there is no figure for {}", missing.join(", ")));
    }
    if let Some(figure) = figures.iter().find(|figure| figure.operations == 0) {
        return Err(format!("the figure of {} is of no operation", figure.name));
    }
    let missed = rows.iter().find(|row| role == BenchRole::Flushes && table::reaches(row, &figures) == Some(false));
    missed.map_or(Ok(()), |row| Err(format!("not reached: {}", row.title)))
}

/// Runs the kernel's bench program on a machine with so many processors.
fn refkernel(image: &Image, role: BenchRole, cpus: u8, seed: u64, show: bool) -> Result<Vec<Figure>> {
    let cmdline = match role.word() {
        "" => format!("bench seed={seed}"),
        word => format!("bench={word} seed={seed}"),
    };
    let outcome = run(Medium::Direct(image.clone()), cmdline, cpus, show)?;
    figures(role, &outcome)
}

/// The figures of a run, all of them.
fn figures(role: BenchRole, outcome: &Outcome) -> Result<Vec<Figure>> {
    let figures: Vec<_> = outcome.lines.iter().filter_map(|line| Figure::read(line)).collect();
    let missing = missing(rows_of(role), &figures);
    if !missing.is_empty() {
        bail!("there is no figure for {}{}", missing.join(", "), outcome.last_lines());
    }
    Ok(figures)
}

/// What a part of the program measures.
fn rows_of(role: BenchRole) -> &'static [Row] {
    match role {
        BenchRole::All | BenchRole::Quick => ROWS,
        BenchRole::Flushes => FLUSHES,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_must_give_every_figure() {
        let line = |name: &str| {
            format!(
                "bench {name}: 9 instructions (3 operations of 1 pages; least 1, 99 % 9, most 9; 0 interrupted left out)"
            )
        };
        let lines: Vec<_> = ROWS.iter().flat_map(|row| row.shows.names()).map(line).collect();
        assert_eq!(check(BenchRole::Quick, &lines), Ok(()));
        for left_out in 0..lines.len() {
            let name = Figure::read(&lines[left_out]).unwrap().name;
            let rest: Vec<_> = lines.iter().filter(|line| !line.contains(&format!(" {name}:"))).cloned().collect();
            assert!(check(BenchRole::Quick, &rest).unwrap_err().contains(&name));
        }
        let none = line("null-call").replace("(3 ", "(0 ");
        assert!(check(BenchRole::Quick, &[&lines[1..], &[none]].concat()).is_err());
    }

    #[test]
    fn interrupts_are_none_and_the_control_has_some() {
        let lines = |one: u32, two: u32| {
            [("one-cpu", one), ("two-cpus", two)].map(|(name, count)| {
                format!("bench flush-interrupts-{name}: {count} interrupts (768 operations of 16 pages)")
            })
        };
        assert_eq!(check(BenchRole::Flushes, &lines(0, 700)), Ok(()));
        assert!(check(BenchRole::Flushes, &lines(1, 700)).is_err());
        assert!(check(BenchRole::Flushes, &lines(0, 0)).is_err());
        assert!(check(BenchRole::Flushes, &lines(0, 700)[..1]).is_err());
    }
}
