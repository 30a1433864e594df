//! Scripts by the thousand: each done by Linux and by `vmcore`, and compared.
//!
//! A worker makes a script, has its host do it, and replays what Linux made of it; several workers keep the CPUs busy. Which scripts are done depends on the seed alone, not on
//! which worker does which.

use std::panic;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use replay::{Memory, Recording};

use crate::generate::{self, Kinds};
use crate::host::Host;
use crate::recording;
use crate::script::{Call, Record, Script, Step};
use crate::shrink;

/// How much is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps at the least.
    pub steps: u64,
    /// Time at the most.
    pub time: Option<Duration>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub seed: u64,
    pub kinds: Kinds,
    /// Steps of one script.
    pub length: usize,
    /// How often a shorter script is tried.
    pub tries: usize,
}

/// What was done, while it is.
#[derive(Debug, Default)]
pub struct Progress {
    pub scripts: AtomicU64,
    pub steps: AtomicU64,
    pub accesses: AtomicU64,
    pub pages: AtomicU64,
    /// Calls that were refused for want of memory, and made again.
    pub refused: AtomicU64,
    /// Scripts that differed once and not when they were done again: Linux itself did not do the same twice (it takes pages back whenever it wants). What is
    /// replayed of one recording is always the same.
    pub wavered: AtomicU64,
    /// A difference was found, and is being shrunk.
    pub found: AtomicBool,
}

/// A difference.
#[derive(Debug)]
pub struct Difference {
    /// The script's number.
    pub number: u64,
    /// When it was found, and how long it took to shrink.
    pub after: Duration,
    pub shrinking: Duration,
    /// The shortest script that shows it.
    pub script: Script,
    /// As a recording.
    pub text: String,
    /// What `replay` says of it.
    pub told: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    pub difference: Option<Difference>,
    pub took: Duration,
}

/// What one script showed.
#[derive(Debug)]
pub struct Compared {
    pub text: String,
    pub report: replay::Report,
}

impl Compared {
    /// The number of the step that shows the first difference; that of the last where none is told.
    fn first(&self, script: &Script) -> Option<usize> {
        let last = script.steps.len().checked_sub(1)?;
        let words = self.report.told.first().and_then(|told| told.strip_prefix("line ")?.split_once(": "));
        let number = words.and_then(|(_, step)| step.split(' ').next()?.parse().ok());
        (self.report.differences != 0).then(|| number.unwrap_or(last).min(last))
    }
}

/// Does a script in new processes and in `vmcore`.
///
/// # Errors
/// The processes could not do it, or what they recorded is no recording.
pub fn compare(host: &mut Host, script: &Script, heading: &str) -> Result<Compared> {
    let records = host.run(script)?;
    let refused = |(step, record): (&Step, &Record)| matches!(step.call, Call::Lock { .. }) && record.result < 0;
    let end = script.steps.iter().zip(&records).position(refused);
    let records = records.get(..end.map_or(records.len(), |end| end + 1)).unwrap_or_default();
    let text = recording::text(script, records, heading);
    // A panic is one, too: of the simulated machine, which has seen what must not be, or of the library.
    // Memory runs out here as well, which it does not on Linux: a call that is refused has changed nothing, and is made again.
    let replayed = panic::catch_unwind(|| Recording::parse(text.as_str())?.replay_with(Memory::RunsOut));
    let report = match replayed {
        Ok(report) => report.with_context(|| text.clone())?,
        Err(cause) => {
            let words = cause.downcast_ref::<String>().map(String::as_str);
            let words = words.or(cause.downcast_ref::<&str>().copied()).unwrap_or("no words");
            replay::Report { differences: 1, told: vec![format!("it panicked: {words}")], ..replay::Report::default() }
        }
    };
    Ok(Compared { text, report })
}

/// Does scripts until there is a difference or enough was done.
///
/// # Errors
/// A script could not be done.
pub fn run(hosts: &mut [Host], task: Task, limits: Limits, progress: &Progress) -> Result<Outcome> {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    // The difference of the lowest number: the same whoever is faster.
    let first: Mutex<Option<(u64, Duration)>> = Mutex::new(None);
    let work = |host: &mut Host| -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let script = generate::script(task.seed, number, task.length, task.kinds);
            let Compared { report, .. } = compare(host, &script, &heading(task, number))?;
            progress.scripts.fetch_add(1, Ordering::Relaxed);
            progress.accesses.fetch_add(report.accesses, Ordering::Relaxed);
            progress.pages.fetch_add(report.pages, Ordering::Relaxed);
            progress.refused.fetch_add(report.refused, Ordering::Relaxed);
            let count = report.operations + report.accesses;
            let done = progress.steps.fetch_add(count, Ordering::Relaxed) + count;
            if report.differences != 0 && compare(host, &script, &heading(task, number))?.report.differences == 0 {
                progress.wavered.fetch_add(1, Ordering::Relaxed);
            } else if report.differences != 0 {
                let mut first = first.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if first.is_none_or(|(before, _)| number < before) {
                    *first = Some((number, begin.elapsed()));
                }
                progress.found.store(true, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            }
            if done >= limits.steps || limits.time.is_some_and(|time| begin.elapsed() >= time) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = hosts
            .iter_mut()
            .map(|host| {
                scope.spawn(|| {
                    let done = work(host);
                    stop.store(true, Ordering::Relaxed);
                    done
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let first = first.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let host = hosts.first_mut().context("no host")?;
    let difference = first.map(|(number, after)| show(host, task, number, after)).transpose()?;
    Ok(Outcome { difference, took: begin.elapsed() })
}

fn heading(task: Task, number: u64) -> String {
    format!("seed={} script={number}", task.seed)
}

/// Shrinks what shows a difference.
fn show(host: &mut Host, task: Task, number: u64, after: Duration) -> Result<Difference> {
    let begin = Instant::now();
    let script = generate::script(task.seed, number, task.length, task.kinds);
    let heading = heading(task, number);
    let script = shrink::shrink(script, task.tries, |script| {
        compare(host, script, &heading).ok().and_then(|compared| compared.first(script))
    });
    let Compared { text, report } = compare(host, &script, &heading)?;
    Ok(Difference { number, after, shrinking: begin.elapsed(), script, text, told: report.told })
}
