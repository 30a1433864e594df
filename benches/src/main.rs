//! The benchmarks' command; `cargo xtask bench` builds and runs it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use benches::{
    check,
    measure::{Effort, measure},
    page_tree,
    rows::Row,
    spaces, table,
};
use clap::Parser;

/// Measure page tables, page trees and spaces: vmcore's beside other crates' and bare stores
#[derive(Debug, Parser)]
struct Arguments {
    /// Only the rows with these names; see --list
    rows: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Where the addresses of the instructions go that are counted in the rows about spaces, a file for each row, for addr2line
    #[arg(long)]
    addresses: Option<PathBuf>,
    /// Only ranges of 65,536 pages, and fewer rounds
    #[arg(long)]
    quick: bool,
    /// Rounds of each candidate, per row and size
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Pages of a range: less than 512, or whole leaf tables; may be given several times
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pages: Vec<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        Row::ALL.iter().for_each(|row| println!("{:<22} {}", row.name(), row.title()));
        page_tree::Row::ALL.iter().for_each(|row| println!("{:<22} {}", row.name(), row.title()));
        spaces::Row::all().for_each(|row| println!("{:<22} {}", row.name(), row.title()));
        return Ok(());
    }
    let names: Vec<_> = Row::ALL
        .iter()
        .map(|row| row.name())
        .chain(page_tree::Row::ALL.map(page_tree::Row::name))
        .chain(spaces::Row::all().map(spaces::Row::name))
        .collect();
    if let Some(wrong) = arguments.rows.iter().find(|name| !names.contains(&&***name)) {
        bail!("no row is called {wrong}; --list names them");
    }
    let named = |name: &str| arguments.rows.is_empty() || arguments.rows.iter().any(|row| row == name);
    let wanted = |row: &Row| named(row.name());
    let sizes = match (&arguments.pages[..], arguments.quick) {
        ([], true) => vec![65_536],
        ([], false) => vec![1, 512, 65_536, 1_048_576],
        (given, _) => given.to_vec(),
    };
    let (rounds, seconds) = if arguments.quick { (100, 3) } else { (300, 8) };
    let effort = Effort { rounds: arguments.rounds.unwrap_or(rounds), limit: Duration::from_secs(seconds) };

    if let Some(wrong) = sizes.iter().find(|pages| **pages > 512 && **pages % 512 != 0) {
        bail!("{wrong} pages are more than a leaf table and not whole ones: give a multiple of 512");
    }

    eprintln!("Checking that every candidate does the same work …");
    if Row::ALL.iter().any(wanted) {
        check::all().context("not everybody does the same work")?;
    }
    println!(
        "{}, fastest of up to {} rounds; * leaves emptied tables where they are\n",
        processor(),
        2 * effort.rounds
    );
    let sizes = if Row::ALL.iter().any(wanted) { sizes } else { Vec::new() };
    for pages in sizes {
        println!("{}", table::head(pages));
        let mut figures = BTreeMap::new();
        for row in Row::ALL.into_iter().filter(wanted) {
            figures.insert(row, measure(row, pages, effort));
            println!("{}", table::line(row, &figures));
        }
        println!();
    }
    let tree_rows: Vec<_> = page_tree::Row::ALL.into_iter().filter(|row| named(row.name())).collect();
    if !tree_rows.is_empty() {
        // Each round is a million operations.
        page_tree::run(&tree_rows, (effort.rounds / 10).max(3), |line| println!("{line}"))?;
    }
    let space_rows: Vec<_> = spaces::Row::all().filter(|row| named(row.name())).collect();
    if !space_rows.is_empty() {
        // A round is short, and there are many rows.
        let effort = Effort {
            rounds: effort.rounds * 10,
            limit: Duration::from_millis(if arguments.quick { 300 } else { 1500 }),
        };
        println!();
        spaces::run(&space_rows, effort, arguments.addresses.as_deref(), |line| println!("{line}"))?;
    }
    Ok(())
}

/// What the machine calls its processor, where it can be asked.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("an unknown processor", |(_, name)| name).to_owned()
}
