//! `cargo xtask check-mmu`: vmcore's page tables against the MMU of QEMU's system emulators, and of Bochs for EPT.
//!
//! The check is a program of its own, `mmu-check`, so that this one needs no `vmcore`; here it gets what it needs.

use anyhow::Result;

use crate::{
    process,
    setup::{self, Need},
    workspace::{Workspace, cargo},
};

const PROGRAM: &str = "mmu-check";

/// Emulators for every architecture, and assemblers for the guests.
const NEEDS: &[Need] = &[
    Need::Qemu,
    Need::QemuAarch64,
    Need::QemuRiscv,
    Need::QemuRiscv32,
    Need::Bochs,
    Need::BinutilsX86,
    Need::BinutilsAarch64,
    Need::BinutilsRiscv,
];

/// Compare page tables built by vmcore with what an emulator's MMU makes of them
///
/// Random tables of each format are put into an emulated machine, where a small guest tries thousands of addresses: which memory
/// answers, or which fault there is, must be what was asked for. Ends with a table of what was compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the formats whose name contains one of these; see --list
    formats: Vec<String>,
    /// Print the names of the formats
    #[arg(long)]
    list: bool,
    /// The first round's seed; a difference names the seed that shows it again
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Random tables per format, each tried at some 5,000 addresses
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// `cargo xtask check-mmu`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    if !arguments.list {
        setup::ensure(NEEDS, arguments.yes)?;
    }
    let workspace = Workspace::load()?;
    let mut command = cargo(&workspace.root);
    command.args(["run", "--quiet", "--release", "--package", PROGRAM, "--"]).args(&arguments.formats);
    if arguments.list {
        command.arg("--list");
    }
    command.args(["--seed", &arguments.seed.to_string(), "--rounds", &arguments.rounds.to_string()]);
    process::run(&mut command, "comparing with the emulators")
}
