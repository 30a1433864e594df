//! `cargo xtask verify`: everything that looks for mistakes for longer than a change should wait, at a stated size, and one table of it.
//!
//! ```text
//!   row ──► a command, its output in target/verify/ROW.log ──► cases, time, findings ──► table
//!            (the next row is run whatever became of this one)
//! ```

mod outcome;
mod rows;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::fuzz;
use crate::workspace::Workspace;
pub(crate) use outcome::{Outcome, Verdict};

/// Run everything that looks for mistakes for long: recordings, live Linux, fuzzing, sanitizers, models, mutants
///
/// Prints one table in the end: what was run, how many cases, how long it took, what was found. A row that fails does not stop the others. What each row says is kept in
/// target/verify. Rows whose tools are not installed are said to be skipped; cargo-fuzz and cargo-mutants are installed. Fails with a finding.
///
/// The rows:
///   recordings   recordings of Linux, replayed: those of the project, or FILE…
///   oracle       random operations on live Linux and on vmcore, compared after each
///   fuzz-TARGET  each fuzz target, from the corpus that it has
///   models       the whole model and that of the POSIX face, with more cases
///   asan         the library's host tests under AddressSanitizer (nightly; three formats)
///   valgrind     what holds uninitialised memory, and a recording, under memcheck: which sees reads of it, as AddressSanitizer does not
///   miri         unit tests of what works with pointers (where Miri is installed)
///   loom         what needs no lock, in every order within a bound
///   shuttle      the protocol between faults, changes and flushes, in random orders
///   stress       random operations in the booted kernel, on four CPUs, by processes that are killed and started again
///   mutants      a share of the mutants: whether tests notice a change
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Recordings for the first row, instead of those of the project
    files: Vec<PathBuf>,
    /// Only the rows whose name contains one of these (comma-separated)
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// Not the rows whose name contains one of these (comma-separated)
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    skip: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// A small size of each row: half an hour in all
    #[arg(long)]
    quick: bool,
    /// Seed of the live operations, the fuzz targets and the models
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Live operations [default: 10000000; quick: 100000]
    #[arg(long)]
    ops: Option<u64>,
    /// Minutes of each fuzz target [default: 30; quick: 0.5]
    #[arg(long, value_parser = fuzz::minutes)]
    minutes: Option<f64>,
    /// How many times as many cases of the models as in a test [default: 20; quick: 2]
    #[arg(long)]
    cases: Option<u32>,
    /// Schedules of each model under shuttle's schedulers [default: 2000; quick: 100]
    #[arg(long)]
    iterations: Option<u32>,
    /// Preemptions of each order that loom tries [default: 3; quick: 2]
    #[arg(long)]
    preemptions: Option<u32>,
    /// Seconds of random operations in the booted kernel [default: 120; quick: 10]
    #[arg(long)]
    seconds: Option<u16>,
    /// Which part of the mutants, as 1/N [default: 1/5; quick: 1/400]
    #[arg(long)]
    share: Option<String>,
}

impl Arguments {
    fn size<T>(&self, given: Option<T>, full: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    fn ops(&self) -> u64 {
        self.size(self.ops, 10_000_000, 100_000)
    }

    fn minutes(&self) -> f64 {
        self.size(self.minutes, 30.0, 0.5)
    }

    fn cases(&self) -> u32 {
        self.size(self.cases, 20, 2)
    }

    fn iterations(&self) -> u32 {
        self.size(self.iterations, 2000, 100)
    }

    fn preemptions(&self) -> u32 {
        self.size(self.preemptions, 3, 2)
    }

    fn seconds(&self) -> u16 {
        self.size(self.seconds, 120, 10)
    }

    fn share(&self) -> String {
        self.size(self.share.clone(), "1/5".into(), "1/400".into())
    }

    /// The rows that are asked for.
    fn rows(&self) -> Result<Vec<String>> {
        let has = |row: &str, names: &[String]| names.iter().any(|name| row.contains(name.as_str()));
        for name in self.only.iter().chain(&self.skip) {
            ensure!(
                rows::names().iter().any(|row| row.contains(name.as_str())),
                "no row's name contains {name:?}; see --list"
            );
        }
        let is_chosen = |row: &String| (self.only.is_empty() || has(row, &self.only)) && !has(row, &self.skip);
        Ok(rows::names().into_iter().filter(is_chosen).collect())
    }
}

/// `cargo xtask verify`. What was found is in the table already.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = arguments.rows()?;
    if arguments.list {
        chosen.iter().for_each(|row| println!("{row}"));
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::load()?;
    let rows = rows::Rows::new(&workspace.root, arguments)?;
    let mut outcomes = Vec::new();
    for row in &chosen {
        let outcome = rows.run(row);
        eprintln!("{outcome}");
        outcomes.push(outcome);
    }
    println!("{}", Table(&outcomes));
    let found = outcomes.iter().any(|outcome| matches!(outcome.verdict, Verdict::Found { .. }));
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All rows, then what was found.
struct Table<'a>(&'a [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<16} {:>36} {:>10}  findings", "what", "cases", "time")?;
        for outcome in self.0 {
            writeln!(f, "{outcome}")?;
        }
        for outcome in self.0 {
            if let Verdict::Found { details, .. } = &outcome.verdict {
                writeln!(f, "\n{}:\n{details}", outcome.row)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &str) -> Arguments {
        Line::parse_from(line.split_ascii_whitespace()).arguments
    }

    #[test]
    fn rows_are_chosen_and_left_out() {
        let all = arguments("verify").rows().unwrap();
        assert_eq!(all.len(), 10 + fuzz::TARGETS.len());
        assert_eq!(arguments("verify --only loom,shuttle").rows().unwrap(), ["loom", "shuttle"]);
        let without = arguments("verify --skip fuzz,mutants").rows().unwrap();
        assert!(without.iter().all(|row| !row.contains("fuzz") && row != "mutants") && without.len() == 9);
        assert!(arguments("verify --only nothing").rows().is_err());
    }

    #[test]
    fn sizes_are_full_quick_or_given() {
        assert_eq!((arguments("verify").ops(), arguments("verify --quick").ops()), (10_000_000, 100_000));
        assert_eq!(arguments("verify --quick --ops 7").ops(), 7);
        assert_eq!(arguments("verify").minutes(), 30.0);
    }

    #[test]
    fn the_table_has_every_row_and_what_was_found() {
        let outcome = |row: &str, verdict| Outcome {
            row: row.into(),
            cases: "12 cases".into(),
            took: Duration::from_secs(61),
            verdict,
        };
        let details = "see target/verify/asan.log".into();
        let rows = [
            outcome("loom", Verdict::Clean),
            outcome("miri", Verdict::Skipped("not installed".into())),
            outcome("asan", Verdict::Found { count: 2, details }),
        ];
        let text = Table(&rows).to_string();
        for part in ["loom", "1:01", "skipped: not installed", "2 findings", "asan:\nsee target/verify/asan.log"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
