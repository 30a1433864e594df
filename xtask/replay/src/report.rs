//! What was compared, and what was different.

use std::fmt;
use std::time::Duration;

/// How many differences are told in full.
const TOLD: usize = 5;

/// What a replay found.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls that were made.
    pub operations: u64,
    /// Accesses of programs.
    pub accesses: u64,
    /// Pages whose residency or contents were compared.
    pub pages: u64,
    /// Calls that were refused for want of memory, and made again.
    pub refused: u64,
    /// How many differences there were.
    pub differences: u64,
    /// The first differences in full.
    pub told: Vec<String>,
    /// How long it took, without reading the recording and setting up the machine.
    pub took: Duration,
}

/// So many operations and accesses in so long, as a rate.
pub fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

impl Report {
    /// Notes a difference.
    pub(crate) fn differ(&mut self, what: impl FnOnce() -> String) {
        self.differences += 1;
        if self.told.len() < TOLD {
            self.told.push(what());
        }
    }

    /// Adds what another replay found.
    pub fn add(&mut self, more: Self) {
        self.operations += more.operations;
        self.accesses += more.accesses;
        self.pages += more.pages;
        self.refused += more.refused;
        self.differences += more.differences;
        self.took += more.took;
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(more.told.into_iter().take(room));
    }

    /// Operations and accesses in a second.
    pub fn rate(&self) -> f64 {
        rate(self.operations + self.accesses, self.took)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} accesses, {} pages compared, {} differences; {:.0} operations and accesses a second",
            self.operations,
            self.accesses,
            self.pages,
            self.differences,
            self.rate()
        )
    }
}
