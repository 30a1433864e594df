//! vmcore's own code under two model checkers: `cargo xtask models`.
//!
//! | built with | what is checked | how |
//! |---|---|---|
//! | `--cfg shuttle` | `protocol`: faults, unmap, resize, activation, release and flush on several CPUs | random schedules and PCT, sequentially consistent, with the library's own locks |
//! | `--cfg loom` | `pieces`: what the library does without a lock | every schedule within a bound of preemptions, with the orders of C11 |
//!
//! Both see the library through its one module of shared words. A build without either checks nothing.

mod arguments;
#[cfg(loom)]
mod pieces;
#[cfg(shuttle)]
mod protocol;
#[cfg(any(loom, shuttle))]
mod reduced;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{arguments::Arguments, report::Report};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(shuttle)]
    return finish(protocol::run(&arguments));
    #[cfg(all(loom, not(shuttle)))]
    return finish(pieces::run(&arguments));
    #[cfg(not(any(loom, shuttle)))]
    {
        let _ = arguments;
        eprintln!("error: built without a model checker: run `cargo xtask models`");
        finish(Report::default())
    }
}

/// The code for "no model's name contains any of these".
const NONE: u8 = 3;

fn finish(report: Report) -> ExitCode {
    report.print();
    match report.rows.as_slice() {
        [] if !report.listed => ExitCode::from(NONE),
        rows if rows.iter().all(|row| row.finding.is_none()) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
