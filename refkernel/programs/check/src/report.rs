//! Counts what was checked, and says what was not so.

use refkernel_runtime::{ErrorCode, program_status, say};

/// The checks of one instance.
pub(crate) struct Report {
    test: &'static str,
    checked: u32,
    failed: u32,
}

impl Report {
    pub(crate) fn new(test: &'static str) -> Self {
        Self { test, checked: 0, failed: 0 }
    }

    /// Notes whether something that should be true is.
    pub(crate) fn check(&mut self, what: &str, holds: bool) {
        self.checked += 1;
        if !holds {
            self.failed += 1;
            say!("check {}: not so: {what}", self.test);
        }
    }

    /// Notes whether the kernel did what it should, and gives what it answered.
    pub(crate) fn done<T>(&mut self, what: &str, result: Result<T, ErrorCode>) -> Option<T> {
        self.checked += 1;
        result
            .inspect_err(|error| {
                self.failed += 1;
                say!("check {}: refused: {what}: {error}", self.test);
            })
            .ok()
    }

    /// Notes whether the kernel refused what it must refuse, with the right error.
    pub(crate) fn refused(&mut self, what: &str, expected: &[ErrorCode], result: Result<u64, ErrorCode>) {
        self.checked += 1;
        match result {
            Err(error) if expected.contains(&error) => {}
            Err(error) => {
                self.failed += 1;
                say!("check {}: refused with another error: {what}: {error}", self.test);
            }
            Ok(value) => {
                self.failed += 1;
                say!("check {}: not refused: {what}: {value:#x}", self.test);
            }
        }
    }

    /// Closes the report. Nothing checked is a failure too.
    pub(crate) fn status(&self) -> u32 {
        say!("check {}: {} checked, {} failed", self.test, self.checked, self.failed);
        if self.failed == 0 && self.checked > 0 { program_status::SUCCESS } else { program_status::FAILURE }
    }
}
