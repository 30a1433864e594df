//! How long an operation takes, often enough for a median.
//!
//! Time is the processor's counter, which counts instructions where QEMU runs with `-icount shift=0`. What it costs to read it is measured first and taken
//! off. A timer's interrupt in the middle of an operation belongs to nobody's figure: the kernel tells how many there were, and operations that were interrupted are
//! left out, unless nearly all were (long ones), which the line says.

use core::arch::x86_64::_rdtsc;

use refkernel_runtime::{Count, ErrorCode, call, say};

/// The most operations of a row.
pub(crate) const OPERATIONS_MAX: usize = 4096;

/// Below so many operations without an interrupt all of them count.
const UNDISTURBED_MIN: usize = 3;

/// Reads the counter.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and the kernel leaves it to programs.
    unsafe { _rdtsc() }
}

/// The time of one operation, in one or more pieces.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    total: u64,
    pieces: u64,
    interrupts: u64,
}

impl Watch {
    /// Times a piece of the operation.
    #[inline(always)]
    pub(crate) fn time<R>(&mut self, piece: impl FnOnce() -> R) -> R {
        let interrupts = interrupts();
        let before = now();
        let result = piece();
        let after = now();
        self.add(after.saturating_sub(before), interrupts);
        result
    }

    /// Takes a piece that was timed by the caller, and what [`interrupts`] gave before it.
    #[inline(always)]
    pub(crate) fn add(&mut self, time: u64, interrupts_before: u64) {
        self.total += time;
        self.pieces += 1;
        self.interrupts += interrupts().saturating_sub(interrupts_before);
    }
}

/// Interrupts of the timer so far.
#[inline(always)]
pub(crate) fn interrupts() -> u64 {
    call::kernel_count(Count::TimerInterrupts).unwrap_or(0)
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// How often it is timed.
    pub(crate) operations: usize,
    /// How many pages each operation is about.
    pub(crate) pages: u64,
    /// How often it is done before it is timed: the first operations meet the code and the tables for the first time.
    pub(crate) warm_up: usize,
}

/// Who measures: what reading the counter costs, and how often each operation is timed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench {
    counter: u64,
    quick: bool,
}

impl Bench {
    /// Finds out what reading the counter costs.
    pub(crate) fn new(quick: bool) -> Self {
        let mut bench = Self { counter: 0, quick };
        let mut times = [0; 101];
        for time in &mut times {
            let mut watch = Watch::default();
            watch.time(|| ());
            *time = watch.total;
        }
        times.sort_unstable();
        bench.counter = times[times.len() / 2];
        say!("bench: reading the counter costs {} instructions, taken off below", bench.counter);
        bench
    }

    /// How often to do what would be done so often.
    pub(crate) fn often(self, operations: usize) -> usize {
        if self.quick { operations.min(5) } else { operations.min(OPERATIONS_MAX) }
    }

    /// Measures a row: `operation` is called with 0, 1, 2, … and times what belongs to it.
    #[inline(never)]
    pub(crate) fn row(
        self,
        row: Row,
        mut operation: impl FnMut(&mut Watch, usize) -> Result<(), ErrorCode>,
    ) -> Result<(), ErrorCode> {
        for index in 0..row.warm_up {
            operation(&mut Watch::default(), index)?;
        }
        let mut samples = Samples::new();
        for index in 0..self.often(row.operations) {
            let mut watch = Watch::default();
            operation(&mut watch, row.warm_up + index)?;
            samples.add(self, &watch);
        }
        samples.report(row.name, row.pages);
        Ok(())
    }
}

/// The times of a row's operations, those without an interrupt from the front and those with one from the back.
pub(crate) struct Samples {
    times: [u64; OPERATIONS_MAX],
    undisturbed: usize,
    disturbed: usize,
}

impl Samples {
    pub(crate) const fn new() -> Self {
        Self { times: [0; OPERATIONS_MAX], undisturbed: 0, disturbed: 0 }
    }

    pub(crate) fn add(&mut self, bench: Bench, watch: &Watch) {
        let place = if watch.interrupts == 0 {
            self.undisturbed += 1;
            self.undisturbed - 1
        } else {
            self.disturbed += 1;
            OPERATIONS_MAX - self.disturbed
        };
        if let Some(place) = self.times.get_mut(place) {
            *place = watch.total.saturating_sub(watch.pieces * bench.counter);
        }
    }

    /// Writes the row's line.
    pub(crate) fn report(&mut self, name: &str, pages: u64) {
        let kept = self.disturbed == 0 || self.undisturbed >= UNDISTURBED_MIN;
        if !kept {
            // Together at the front.
            let end = OPERATIONS_MAX - self.disturbed;
            self.times.copy_within(end.., self.undisturbed);
        }
        let count = if kept { self.undisturbed } else { self.undisturbed + self.disturbed };
        let times = self.times.get_mut(..count).unwrap_or_default();
        times.sort_unstable();
        let at = |numerator: usize, denominator: usize| {
            times.get((count * numerator / denominator).min(count.saturating_sub(1))).copied().unwrap_or(0)
        };
        let (what, interrupted) = if kept { ("left out", self.disturbed) } else { ("counted", self.disturbed) };
        say!(
            "bench {name}: {} instructions ({count} operations of {pages} pages; least {}, 99 % {}, most {}; {interrupted} interrupted {what})",
            at(1, 2),
            at(0, 1),
            at(99, 100),
            at(1, 1)
        );
    }
}
