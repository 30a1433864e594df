//! `cargo xtask oracle`: random operations, done by the Linux that runs this and by vmcore, and compared.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

/// Compare random operations of vmcore with what the Linux that runs this makes of them
///
/// Maps, unmaps, protects, moves, advises, locks, seals, accesses, copies and forks, in up to six processes of two threads each: done by real processes, and by vmcore on a simulated
/// machine, where memory runs out now and then. Results, errnos, places, regions, resident pages, contents and the outcome of every access are compared after each. A difference is shrunk to the
/// shortest sequence that shows it, and written as a recording that `cargo xtask replay` takes. Needs Linux on x86-64.
#[derive(Debug, clap::Parser)]
#[command(name = "oracle", bin_name = "cargo xtask oracle")]
struct Arguments {
    /// What the sequences begin with: the same seed gives the same ones; a random one if not said
    #[arg(long)]
    seed: Option<u64>,
    /// Operations and accesses at the least; a million if neither this nor a time is said
    #[arg(long)]
    ops: Option<u64>,
    /// Minutes at the most
    #[arg(long)]
    minutes: Option<f64>,
    /// How many sequences are done at a time; one more than CPUs if not said
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// What is left out, to look behind a difference that is known: guards, populates, keeps-old, moves-several, copies, places, files, seals, locks, locks-all, stacks
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Where a difference is written, for `replay`
    #[arg(long, default_value = "oracle-difference.txt")]
    output: PathBuf,
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> Result<ExitCode> {
    let _ = Arguments::parse();
    anyhow::bail!(
        "the oracle is the Linux kernel of an x86-64 machine: this is another system; replay recordings instead"
    )
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> Result<ExitCode> {
    oracle_main::main(Arguments::parse())
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod oracle_main {
    use std::fs;
    use std::io::{IsTerminal as _, Write as _};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use anyhow::Context as _;
    use oracle::host::{Host, kinds_of_this_kernel, missing};
    use oracle::run::{self, Limits, Progress, Task};

    use super::*;

    /// Steps of one script.
    const LENGTH: usize = 500;
    const TRIES: usize = 20_000;

    pub(super) fn main(arguments: Arguments) -> Result<ExitCode> {
        let workers = arguments
            .workers
            .map_or_else(|| std::thread::available_parallelism().map_or(2, |cpus| cpus.get() + 1), usize::from);
        // Before there are threads.
        let mut hosts = (0..workers).map(|_| Host::new()).collect::<Result<Vec<_>>>()?;
        let kinds = kinds_of_this_kernel(hosts.iter().all(Host::fills));
        let kinds = arguments
            .without
            .iter()
            .try_fold(kinds, |kinds, name| kinds.without(name).with_context(|| format!("there is no kind {name:?}")))?;
        let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!("Linux {}, seed {seed}, {workers} workers", release.trim());
        for name in missing(kinds) {
            println!("left out, since this kernel does not know it: {name}");
        }
        let steps = match (arguments.ops, arguments.minutes) {
            (Some(ops), _) => ops,
            (None, Some(_)) => u64::MAX,
            (None, None) => 1_000_000,
        };
        let time = arguments.minutes.map(|minutes| Duration::try_from_secs_f64(minutes * 60.0)).transpose()?;
        // A panic of the library or of the simulated machine is told with the difference that it is.
        std::panic::set_hook(Box::new(|_| {}));
        let progress = Progress::default();
        let task = Task { seed, kinds, length: LENGTH, tries: TRIES };
        let over = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| show(&progress, &over, Limits { steps, time }));
            let outcome = run::run(&mut hosts, task, Limits { steps, time }, &progress);
            over.store(true, Ordering::Relaxed);
            outcome
        })?;
        let done = progress.steps.load(Ordering::Relaxed);
        let accesses = progress.accesses.load(Ordering::Relaxed);
        let took = outcome.took.as_secs_f64();
        println!(
            "seed {seed}: {} operations ({} of them first refused for want of memory), {accesses} accesses and {} pages compared in {} scripts, {took:.1} s, {:.0} operations and accesses a second",
            done - accesses,
            progress.refused.load(Ordering::Relaxed),
            progress.pages.load(Ordering::Relaxed),
            progress.scripts.load(Ordering::Relaxed),
            done as f64 / took.max(1e-9),
        );
        let wavered = progress.wavered.load(Ordering::Relaxed);
        if wavered != 0 {
            println!(
                "{wavered} scripts differed once and not when they were done again: Linux did not do the same twice"
            );
        }
        let Some(difference) = outcome.difference else {
            println!("no difference");
            return Ok(ExitCode::SUCCESS);
        };
        let output = std::path::absolute(&arguments.output)?;
        fs::write(&output, &difference.text).with_context(|| format!("cannot write {}", output.display()))?;
        println!(
            "a difference in script {}, after {:.1} s; shrunk to {} steps in {:.1} s:\n\n{}",
            difference.number,
            difference.after.as_secs_f64(),
            difference.script.steps.len(),
            difference.shrinking.as_secs_f64(),
            difference.text,
        );
        for told in &difference.told {
            println!("{told}\n");
        }
        println!("cargo xtask replay {}", output.display());
        Ok(ExitCode::FAILURE)
    }

    /// Tells how far it is, on a terminal.
    fn show(progress: &Progress, over: &AtomicBool, limits: Limits) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let begin = Instant::now();
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(200));
            let done = progress.steps.load(Ordering::Relaxed);
            let seconds = begin.elapsed().as_secs_f64();
            let share = match limits.time {
                Some(time) if limits.steps == u64::MAX => seconds / time.as_secs_f64(),
                _ => done as f64 / limits.steps as f64,
            };
            let what =
                if progress.found.load(Ordering::Relaxed) { "a difference: shrinking it" } else { "no difference" };
            eprint!(
                "\r{done} done, {:.0} %, {:.0} a second, {seconds:.0} s, {what}\x1b[K",
                100.0 * share.min(1.0),
                done as f64 / seconds,
            );
            let _ = std::io::stderr().flush();
        }
        eprint!("\r\x1b[K");
    }
}
