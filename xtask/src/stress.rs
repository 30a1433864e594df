//! `cargo xtask stress`: random operations in the booted kernel, by several processes on all processors, against a model; every frame accounted for afterwards.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    boot,
    build::{self, Profile},
    qemu::{Loader, Machine, Memory, Pace},
    session::{self, Wishes},
    setup,
    workspace::Workspace,
};

/// Random operations in the booted kernel, compared with a model, for a given time on all CPUs
///
/// Boots the kernel with its program `stress`: processes and threads that map, unmap, protect, resize, advise, share, clone, send, wait and wake at random, each of which knows what memory must
/// be; they are killed when they least expect it, and started again. Fails with the first thing that is not as it must be (with the seed, the thread and the operation), and if a frame is in use
/// afterwards that was not before. A busy host takes longer: time is the machine's.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// How many processors the machine has
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// Where the random choices begin
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// How much memory the machine has
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Memory,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// How long nothing may come on the serial line: the program says how far it is every ten seconds at least.
const SILENCE: Duration = Duration::from_secs(120);

/// `cargo xtask stress`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure(boot::needs(Loader::Pvh), arguments.yes)?;
    let workspace = Workspace::load()?;
    let image = build::image(&workspace, Profile::Optimised)?;
    let cmdline = format!("stress={} seed={}", arguments.seconds, arguments.seed);
    let prepared = boot::prepare(&workspace.root, &image, Loader::Pvh, None, &cmdline)?;
    let machine = Machine {
        medium: prepared.medium.clone(),
        cmdline,
        memory: arguments.memory,
        cpus: arguments.cpus,
        window: false,
        pace: Pace::Fast,
        options: Vec::new(),
    };
    let total = Duration::from_secs(120 + 4 * u64::from(arguments.seconds));
    let outcome = session::run(&machine, Wishes { show: true, ..Wishes::within(Some(total), SILENCE) })?;
    if !outcome.end.is_success() {
        bail!("seed {}: {}{}", arguments.seed, outcome.end, outcome.last_lines());
    }
    eprintln!("Everything was as it must be, and every frame is back.");
    Ok(())
}
