//! Trying mutants, one after the other, on the tests that come by them.
//!
//! First every test runs once by itself and writes down which choices it comes by: a mutant that no test comes by survives without a run. Each mutant is then
//! tried on its tests, the quickest first, and the first that fails ends it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};

/// Memory that a test program may use, in KiB: a mutant may ask for all there is.
const MEMORY: u64 = 4 << 20;

/// A test, and what it comes by.
#[derive(Debug)]
pub(super) struct Test {
    program: PathBuf,
    name: String,
    pub(super) took: Duration,
    /// The first numbers of the choices.
    pub(super) reached: Vec<u32>,
    /// It is meant to panic.
    panics: bool,
}

/// How tests ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Passed,
    Failed,
    /// Too long, too much memory, or aborted.
    Died,
}

/// Runs every test of the programs.
pub(super) fn survey(programs: &[PathBuf], directory: &Path, jobs: usize) -> Result<Vec<Test>> {
    let mut names = Vec::new();
    for program in programs {
        let output = Command::new(program).args(["--list", "--format=terse"]).current_dir(directory).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let listed = text.lines().filter_map(|line| line.strip_suffix(": test"));
        names.extend(listed.map(|name| (program.clone(), name.to_owned())));
    }
    let reached = tempfile::tempdir()?;
    let tests = in_parallel(jobs, names.len(), |index| {
        let (program, name) = &names[index];
        let file = reached.path().join(index.to_string());
        let begin = Instant::now();
        let ran = run(program, directory, &[name], "record", Some(&file), Duration::from_secs(600), false)?;
        ensure!(ran.end == End::Passed, "without a mutant, {name} fails: {:?}", ran.end);
        let took = begin.elapsed();
        let text = fs::read_to_string(&file).unwrap_or_default();
        let reached = text.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Test { program: program.clone(), name: name.clone(), took, reached, panics: ran.panicked })
    })?;
    Ok(tests)
}

/// Tries a mutant on tests. The name of the one that failed, if it has one.
pub(super) fn attempt(number: u32, tests: &[&Test], directory: &Path) -> Result<(End, String)> {
    for batch in batches(tests) {
        let took: Duration = batch.iter().map(|test| test.took).sum();
        let names: Vec<_> = batch.iter().map(|test| test.name.as_str()).collect();
        let limit = Duration::from_secs(2) + 5 * took;
        let ran = run(&batch[0].program, directory, &names, &number.to_string(), None, limit, !batch[0].panics)?;
        if ran.end != End::Passed {
            return Ok((ran.end, ran.last));
        }
    }
    Ok((End::Passed, String::new()))
}

/// Tests of one program that run together, quick ones first.
fn batches<'a>(tests: &[&'a Test]) -> Vec<Vec<&'a Test>> {
    let mut groups = HashMap::<(bool, &Path), Vec<&Test>>::new();
    for test in tests {
        groups.entry((test.panics, &test.program)).or_default().push(test);
    }
    let mut batches = Vec::new();
    for group in groups.values_mut() {
        group.sort_by_key(|test| test.took);
        let (mut batch, mut sum, mut limit) = (Vec::new(), Duration::ZERO, Duration::from_millis(200));
        for test in group {
            if sum + test.took > limit && !batch.is_empty() {
                batches.push((sum, std::mem::take(&mut batch)));
                (sum, limit) = (Duration::ZERO, 4 * limit);
            }
            sum += test.took;
            batch.push(*test);
        }
        batches.push((sum, batch));
    }
    batches.sort_by_key(|(sum, _)| *sum);
    batches.into_iter().map(|(_, batch)| batch).collect()
}

struct Ran {
    end: End,
    panicked: bool,
    /// The test that was last begun.
    last: String,
}

/// Runs tests of a program, until one fails.
fn run(
    program: &Path,
    directory: &Path,
    names: &[&str],
    mutant: &str,
    reached: Option<&Path>,
    limit: Duration,
    panic_is_failure: bool,
) -> Result<Ran> {
    let seconds = limit.as_secs() + 1;
    let mut command = Command::new("sh");
    command
        // Its own limits: a mutant may loop or fill memory. What it says in one stream.
        .args(["-c", &format!("ulimit -c 0; ulimit -t {seconds}; ulimit -v {MEMORY}; exec \"$0\" \"$@\" 2>&1")])
        .arg(program)
        .args(["--exact", "--test-threads=1", "--nocapture"])
        .args(names)
        .env("VMCORE_MUTANT", mutant)
        .env("PROPTEST_RNG_SEED", "1")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env("RUST_BACKTRACE", "0")
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(reached) = reached {
        command.env("VMCORE_MUTANTS_REACHED", reached);
    }
    let mut child = command.spawn().context("running tests")?;
    let output = child.stdout.take().context("running tests: no output")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    // Of the clock, for tests that wait for one another: the machine may do other things too.
    let deadline = Instant::now() + 20 * limit;
    let (mut end, mut panicked, mut last) = (None, false, String::new());
    while end.is_none() {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let panic = line.contains("panicked at ");
                panicked |= panic;
                if let Some(rest) = line.strip_prefix("test ") {
                    last = rest.split(' ').next().unwrap_or_default().to_owned();
                }
                if line.ends_with("FAILED") || panic && panic_is_failure {
                    end = Some(End::Failed);
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => end = Some(End::Died),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if end.is_some() {
        child.kill().context("ending tests")?;
    }
    let status = child.wait().context("waiting for tests")?;
    drop(lines);
    reader.join().ok();
    let end = end.unwrap_or_else(|| match status.code() {
        Some(0) => End::Passed,
        Some(_) => End::Failed,
        None => End::Died,
    });
    Ok(Ran { end, panicked, last })
}

/// Does something for each of `count`, so many at a time; the results in order.
pub(super) fn in_parallel<T: Send>(
    jobs: usize,
    count: usize,
    one: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = one(index);
                    if let Ok(mut results) = results.lock() {
                        results.push((index, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
