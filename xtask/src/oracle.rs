//! `cargo xtask oracle`: random operations, done by the Linux that runs this and by `vmcore`, and compared.
//!
//! The oracle is a program of its own, `oracle`, so that this one needs no `vmcore`; it is built optimised, and its options are its own.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, cargo};

const PROGRAM: &str = "oracle";

/// Compare random operations of vmcore with what the Linux that runs this makes of them
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// What `cargo xtask oracle --help` lists
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// `cargo xtask oracle`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let mut command = cargo(&workspace.root);
    // Files are relative to where the command was given.
    command.current_dir(std::env::current_dir()?);
    command.args(["run", "--quiet", "--profile", "oracle", "--package", PROGRAM, "--bin", PROGRAM, "--manifest-path"]);
    command.arg(workspace.root.join("Cargo.toml")).arg("--").args(&arguments.options);
    // What was different was told by the program.
    let status = command.status().context("comparing: cargo cannot be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
