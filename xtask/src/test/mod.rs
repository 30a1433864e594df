//! `cargo xtask test`: the tests of the host, then the boots; closes with one plain count.
//!
//! The closing line, `N passed, N failed, N skipped`, stands alone at the end of standard output. A test that is lost counts as a failure too:
//! the file `xtask/minimum-tests` holds how many must pass.

mod boots;
mod count;
mod expectation;
mod host;
mod inspector;
mod picture;
mod places;
mod screen;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{setup, workspace::Workspace};
use count::{Count, Minimum};

/// Run every test: on the host, then in booted machines
///
/// Closes with a count, and fails if any test fails, none ran, or fewer passed than `xtask/minimum-tests` says. Tests of the Limine loaders are
/// skipped unless its binaries are at hand.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only the tests of the host
    #[arg(long, conflicts_with = "boot")]
    host: bool,
    /// Run only the boots
    #[arg(long)]
    boot: bool,
    /// Run only the boots whose name contains this
    #[arg(value_name = "NAME", conflicts_with = "host")]
    name: Option<String>,
    /// The directory with Limine's binary release, for the boots with Limine
    #[arg(long, value_name = "DIR", env = "LIMINE_DIR")]
    limine: Option<PathBuf>,
    /// Show the serial line of every boot as it comes
    #[arg(long)]
    show: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// `cargo xtask test`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let minimum = Minimum::read(&workspace.root.join("xtask/minimum-tests"))?;
    let name = arguments.name.as_deref();
    let mut total = Count::default();
    let mut enough = true;

    if !arguments.boot && name.is_none() {
        eprintln!("{}", introduction(arguments.host));
        let count = host::run(&workspace)?;
        enough &= is_enough("host", count, minimum.host);
        total += count;
    }
    if !arguments.host {
        setup::ensure(&[setup::Need::Qemu, setup::Need::Gdb], arguments.yes)?;
        let limine = arguments.limine.as_deref().filter(|directory| !directory.as_os_str().is_empty());
        if limine.is_some() {
            setup::ensure(setup::FOR_TESTS, arguments.yes)?;
        }
        let count = boots::run(&workspace, limine, name, arguments.show)?;
        if name.is_none() {
            enough &= is_enough("boot", count, minimum.boot);
        }
        total += count;
    }
    if total.passed + total.failed == 0 {
        println!("No test ran.");
    }
    // Nothing follows this line.
    println!("{total}");
    Ok(if total.is_success() && enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a person waits for.
fn introduction(host_alone: bool) -> &'static str {
    if host_alone {
        "The tests of the host: some minutes to compile the first time, and one or two to run."
    } else {
        "The tests of the host first: some minutes to compile the first time, and one or two to run. Then some forty boots, in a minute or two."
    }
}

fn is_enough(half: &str, count: Count, minimum: u32) -> bool {
    if count.passed < minimum {
        println!(
            "Only {} {half} tests passed: `xtask/minimum-tests` requires {minimum}. Were tests lost, or left out of the build?",
            count.passed
        );
    }
    count.passed >= minimum
}
