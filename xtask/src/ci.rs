//! `cargo xtask ci`: every check that a change must pass, in the order in which they fail soonest.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::{lint, no_panic, test};

/// Stops at the first check that fails; the count of the tests is the last line.
pub(crate) fn command() -> Result<ExitCode> {
    lint::command()?;
    no_panic::command()?;
    /// The tests' options come from the environment here, as `LIMINE_DIR`.
    #[derive(clap::Parser)]
    struct Environment {
        #[command(flatten)]
        test: test::Arguments,
    }
    test::command(&Environment::parse_from(["test"]).test)
}
