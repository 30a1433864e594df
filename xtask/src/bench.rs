//! `cargo xtask bench`: vmcore's page tables, page trees and spaces beside other crates' and beside bare stores.
//!
//! The benchmarks are a package of their own, `benches`, so that the crates that it compares with stay out of everything else.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    process,
    workspace::{BENCHES, Workspace, cargo},
};

/// Measure page tables, page trees and spaces: vmcore's beside other crates' and bare stores
///
/// Checks first that every candidate does the same work. Prints a table per size: nanoseconds per page, and how many times the floor vmcore takes; then those about
/// page trees and spaces. Only ratios within one run mean anything; `benches/README.md` says how they are made.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the rows with these names; see --list
    rows: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Where the addresses of the instructions go that are counted in the rows about spaces, a file for each row, for addr2line
    #[arg(long)]
    addresses: Option<PathBuf>,
    /// Only ranges of 65,536 pages, and fewer rounds: half a minute
    #[arg(long)]
    quick: bool,
    /// Rounds of each candidate, per row and size
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Pages of a range: less than 512, or whole leaf tables; may be given several times
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pages: Vec<u64>,
    /// Measure with Criterion instead, which keeps figures to compare the next ones with; a row's name is a filter
    #[arg(long, conflicts_with_all = ["list", "addresses", "quick", "rounds", "pages"])]
    criterion: bool,
}

/// `cargo xtask bench`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::load()?;
    let mut command = cargo(&workspace.root);
    if arguments.criterion {
        command.args(["bench", "--package", BENCHES, "--bench", "tables", "--"]);
        if !arguments.rows.is_empty() {
            // Criterion takes one filter, an expression over `ROW/PAGES/CANDIDATE`.
            command.arg(format!("^({})/", arguments.rows.join("|")));
        }
        return process::run(&mut command, "measuring with Criterion");
    }
    command.args(["run", "--profile", "bench", "--package", BENCHES, "--bin", BENCHES, "--"]).args(&arguments.rows);
    for (given, option) in [(arguments.list, "--list"), (arguments.quick, "--quick")] {
        if given {
            command.arg(option);
        }
    }
    if let Some(directory) = &arguments.addresses {
        // It is built and run in the workspace's root, wherever the caller is.
        command.arg("--addresses").arg(std::path::absolute(directory)?);
    }
    if let Some(rounds) = arguments.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    for pages in &arguments.pages {
        command.args(["--pages", &pages.to_string()]);
    }
    process::run(&mut command, "measuring")
}
