//! The commands and their options.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    bench, bench_guest, boot, build, check_mmu, ci, fuzz, gdb, lint, models, mutants, no_panic, oracle, replay,
    screenshot, setup, stress, test, verify,
};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about = "Build, boot, test and measure vmcore and its reference kernel", long_about = None, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Boot(boot::Arguments),
    Test(test::Arguments),
    Gdb(gdb::Arguments),
    Stress(stress::Arguments),
    Bench(bench::Arguments),
    BenchGuest(bench_guest::Arguments),
    Screenshot(screenshot::Arguments),
    CheckMmu(check_mmu::Arguments),
    Fuzz(fuzz::Arguments),
    Models(models::Arguments),
    Mutants(mutants::Arguments),
    Replay(replay::Arguments),
    Oracle(oracle::Arguments),
    Verify(verify::Arguments),
    /// Install what the other commands need: QEMU, firmware for UEFI, and xorriso
    ///
    /// On Debian and Ubuntu. Elsewhere the packages are named. `check-mmu` sees to its own needs.
    Setup {
        /// Install without asking
        #[arg(long)]
        yes: bool,
    },
    /// Build the kernel, its programs and the boot module, without booting them
    Build {
        /// Build without optimisation
        #[arg(long)]
        debug: bool,
    },
    /// Check formatting, clippy and documentation of every member; warnings are errors
    Lint,
    /// Prove that no public call of vmcore can reach a panic
    ///
    /// Links the smallest embedding with every public call, optimised, and looks for panicking functions of `core` in what is left.
    NoPanic,
    /// Run every check that a change must pass: lint, no-panic, test
    Ci,
}

/// Does what the command line says. An error is reported by the caller; a failure that was reported already is a code.
pub(crate) fn run() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Boot(arguments) => boot::command(&arguments)?,
        Command::Test(arguments) => return test::command(&arguments),
        Command::Gdb(arguments) => gdb::command(&arguments)?,
        Command::Stress(arguments) => stress::command(&arguments)?,
        Command::Bench(arguments) => bench::command(&arguments)?,
        Command::BenchGuest(arguments) => bench_guest::command(&arguments)?,
        Command::Screenshot(arguments) => screenshot::command(&arguments)?,
        Command::CheckMmu(arguments) => check_mmu::command(&arguments)?,
        Command::Fuzz(arguments) => return fuzz::command(&arguments),
        Command::Models(arguments) => return models::command(&arguments),
        Command::Mutants(arguments) => return mutants::command(&arguments),
        Command::Verify(arguments) => return verify::command(&arguments),
        Command::Replay(arguments) => return replay::command(&arguments),
        Command::Oracle(arguments) => return oracle::command(&arguments),
        Command::Setup { yes } => setup::command(yes)?,
        Command::Build { debug } => build::command(debug)?,
        Command::Lint => lint::command()?,
        Command::NoPanic => no_panic::command()?,
        Command::Ci => return ci::command(),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn options_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_of_boot_is_understood() {
        let line = "xtask boot --headless --loader limine-uefi --limine /l --cpus 2 --memory 4G --cmdline seed=1 --timeout 9 --screenshot a.png --debug --yes";
        assert!(Arguments::try_parse_from(line.split(' ')).is_ok());
        for wrong in
            ["xtask boot --cpus 0", "xtask boot --memory lots", "xtask boot --loader grub", "xtask boot --timeout 0"]
        {
            assert!(Arguments::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
