//! What was checked, for how long, and what was found; and how a finding is caught.

use std::time::Duration;

/// One model under one scheduler.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) scheduler: &'static str,
    pub(crate) schedules: usize,
    pub(crate) time: Duration,
    /// What the judge, an assertion or the checker said of the last schedule.
    pub(crate) finding: Option<String>,
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Names were printed, and nothing was asked to run.
    pub(crate) listed: bool,
}

impl Report {
    pub(crate) fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("{:<52}{:<12}{:>12}{:>10}  findings", "model", "scheduler", "schedules", "seconds");
        for row in &self.rows {
            let found = row.finding.as_deref().map_or("-", |_| "found, see below");
            let seconds = row.time.as_secs_f64();
            println!("{:<52}{:<12}{:>12}{seconds:>10.2}  {found}", row.name, row.scheduler, row.schedules);
        }
        let (schedules, time): (usize, Duration) =
            self.rows.iter().fold((0, Duration::ZERO), |sum, row| (sum.0 + row.schedules, sum.1 + row.time));
        println!("{:<52}{:<12}{schedules:>12}{:>10.2}", "all", "", time.as_secs_f64());
        for row in &self.rows {
            if let Some(finding) = &row.finding {
                println!("\n{} ({}), in schedule {}:\n  {finding}", row.name, row.scheduler, row.schedules);
            }
        }
    }
}

/// Runs a model; what it panics with is its finding. A thread of its own does, since one that a finding has stopped half way through its
/// destructors counts as panicking for ever.
#[cfg(any(loom, shuttle))]
pub(crate) fn catch(model: impl FnOnce() + Send) -> Option<String> {
    use std::panic;
    use std::sync::Mutex;

    static FIRST: Mutex<Option<String>> = Mutex::new(None);
    let lock = || FIRST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *lock() = None;
    // The first panic that says something is the finding; those of destructors and of the checkers' own clean-up follow from it.
    panic::set_hook(Box::new(move |panic| {
        if panic.payload().is::<String>() || panic.payload().is::<&str>() {
            lock().get_or_insert_with(|| panic.to_string());
        }
    }));
    let result = std::thread::scope(|scope| scope.spawn(model).join());
    result.err().map(|_| lock().take().unwrap_or_else(|| String::from("a panic without a word")))
}
