//! `cargo xtask replay`: recordings of what Linux did, replayed on vmcore.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use replay::{Recording, Report};

/// Replay recordings of what Linux did on vmcore, and compare
///
/// Results, errnos, regions, resident pages, contents and the outcome of every access are compared after every operation. The exit code is 0 if there was no difference, 1 if
/// there was one, and 2 if a file cannot be read or is no recording.
#[derive(Debug, clap::Parser)]
#[command(name = "replay")]
struct Arguments {
    /// Recordings, plain or compressed with xz
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Replay each so many times; the rate is that of all of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// So many threads, each with a machine of its own and one file at a time; one for each CPU unless told otherwise
    #[arg(long)]
    threads: Option<NonZero<usize>>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let threads = arguments.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let begin = Instant::now();
    let files = &arguments.files;
    let mut recordings = Vec::with_capacity(files.len());
    for recording in on_threads(threads, files.len(), || {}, |index| Recording::read(&files[index])).0 {
        recordings.push(recording?);
    }
    let read = begin.elapsed();
    // The longest first, so that none is left to one thread at the end.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(recordings[*index].size()));
    let prepare = || recordings.iter().for_each(Recording::prepare);
    let (found, took) = on_threads(threads, files.len(), prepare, |place| -> Result<(usize, Report)> {
        let index = order[place];
        let mut report = Report::default();
        for _ in 0..arguments.rounds {
            report.add(recordings[index].replay().with_context(|| files[index].display().to_string())?);
        }
        Ok((index, report))
    });
    let mut reports = found.into_iter().collect::<Result<Vec<_>>>()?;
    reports.sort_by_key(|(index, _)| *index);
    let mut all = Report::default();
    for (index, report) in reports {
        println!("{}: {report}", files[index].display());
        for difference in &report.told {
            println!("{difference}\n");
        }
        all.add(report);
    }
    if files.len() > 1 {
        let count = all.operations + all.accesses;
        println!(
            "all {}: {} operations, {} accesses, {} pages compared, {} differences in {:.3} s on {} threads: {:.0} operations and accesses a second; reading took {:.3} s",
            files.len(),
            all.operations,
            all.accesses,
            all.pages,
            all.differences,
            took.as_secs_f64(),
            threads.min(files.len()),
            replay::rate(count, took),
            read.as_secs_f64(),
        );
    }
    Ok(if all.differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does something for each index below `count`, each on one of the threads, when all of those are prepared; gives what came of them, in order, and how long it took.
fn on_threads<T: Send>(
    threads: usize,
    count: usize,
    prepare: impl Fn() + Sync,
    act: impl Fn(usize) -> T + Sync,
) -> (Vec<T>, Duration) {
    let threads = threads.min(count);
    let (next, done, ready) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)), Barrier::new(threads + 1));
    let begin = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                prepare();
                ready.wait();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = act(index);
                    done.lock().unwrap_or_else(|error| error.into_inner()).push((index, result));
                }
            });
        }
        ready.wait();
        Instant::now()
    });
    let took = begin.elapsed();
    let mut done = done.into_inner().unwrap_or_else(|error| error.into_inner());
    done.sort_by_key(|(index, _)| *index);
    (done.into_iter().map(|(_, result)| result).collect(), took)
}
