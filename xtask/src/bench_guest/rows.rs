//! The rows of the table: what is measured, and what is to be reached.

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What a person reads.
    pub(crate) title: &'static str,
    pub(crate) shows: Shows,
    /// What the hardware's transitions and the unavoidable stores alone take; `None` where nobody has counted it.
    pub(crate) bare_minimum: Option<f64>,
    pub(crate) goal: Goal,
}

/// What a row shows of the figure with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// The median.
    Median(&'static str),
    /// The same for one of the pages that the operation is about.
    PerPage(&'static str),
    /// The 99th percentile.
    Percentile99(&'static str),
    /// The greatest.
    Most(&'static str),
    /// How many times the second one's median the first one's is.
    Ratio(&'static str, &'static str),
    /// The count.
    Interrupts(&'static str),
}

impl Shows {
    /// The figures that the row needs.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let names = match self {
            Self::Ratio(name, other) => [Some(name), Some(other)],
            Self::Median(name)
            | Self::PerPage(name)
            | Self::Percentile99(name)
            | Self::Most(name)
            | Self::Interrupts(name) => [Some(name), None],
        };
        names.into_iter().flatten()
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    HalfOfLinux,
    /// It is there for comparison.
    None,
    /// It shows that another row's zero means something.
    MoreThanZero,
}

/// A row whose goal is a number.
const fn row(title: &'static str, shows: Shows, goal: f64) -> Row {
    Row { title, shows, bare_minimum: None, goal: Goal::AtMost(goal) }
}

const fn half(title: &'static str, name: &'static str) -> Row {
    Row { title, shows: Shows::Median(name), bare_minimum: None, goal: Goal::HalfOfLinux }
}

const fn free(title: &'static str, shows: Shows) -> Row {
    Row { title, shows, bare_minimum: None, goal: Goal::None }
}

use Shows::{Interrupts, Median, Most, PerPage, Percentile99, Ratio};

/// The table, from one page to whole processes.
pub(crate) const ROWS: &[Row] = &[
    Row { bare_minimum: Some(12.0), ..row("null system call", Median("null-call"), 60.0) },
    row("read fault on untouched memory", Median("read-fault"), 450.0),
    Row {
        bare_minimum: Some(573.0),
        ..row("anonymous fault, one page (525 of it zeroing)", Median("anonymous-fault"), 900.0)
    },
    row("map + unmap one untouched page", Median("map-unmap"), 2000.0),
    free("map + unmap, of an area that is there", Median("map-unmap-area")),
    free("map + touch + unmap one page", Median("map-touch-unmap")),
    row("unmap, per touched page of 4,096", PerPage("unmap-touched"), 60.0),
    row("protect, per page of 4,096", PerPage("protect"), 6.0),
    row("split by protect, one page of 64", Median("split"), 1500.0),
    row("merge back", Median("merge"), 1500.0),
    free("anonymous fault, 16 windows", Median("fault-16-windows")),
    free("anonymous fault, 10,000 windows", Median("fault-10000-windows")),
    row("  the second against the first", Ratio("fault-10000-windows", "fault-16-windows"), 1.10),
    row("move 4,096 pages (whole tables)", Median("move"), 8000.0),
    free("  to one page behind a border", Median("move-unaligned")),
    row("clone, 0 resident pages", Median("clone-0"), 15_000.0),
    row("clone, 4,096 resident pages", Median("clone-4096"), 15_000.0),
    free("  the window one page behind a border", Median("clone-4096-unaligned")),
    free("  then the parent writes one page", Median("clone-first-write")),
    row("clone, then the child reads all 4,096", Median("clone-child-reads-all"), 250_000.0),
    half("clone, then the parent writes all", "clone-parent-writes-all"),
    half("protect + read all", "protect-read-all"),
    half("protect, back again + write all", "protect-write-all"),
    half("move + write all", "move-write-all"),
    free("  to one page behind a border", Median("move-unaligned-write-all")),
    row("copy-on-write fault", Median("copy-on-write-fault"), 1800.0),
    free("  99th percentile", Percentile99("copy-on-write-fault")),
    free("  maximum", Most("copy-on-write-fault")),
    row("clone + exit + wait, 4,096 pages", Median("clone-exit-wait"), 60_000.0),
];

/// What is measured on a machine with two processors.
pub(crate) const FLUSHES: &[Row] = &[
    row("flush interrupts, space that ran on one CPU", Interrupts("flush-interrupts-one-cpu"), 0.0),
    Row { goal: Goal::MoreThanZero, ..free("control: it runs on two", Interrupts("flush-interrupts-two-cpus")) },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_there_once() {
        let all = || ROWS.iter().chain(FLUSHES);
        for (index, row) in all().enumerate() {
            assert!(all().skip(index + 1).all(|other| other.shows != row.shows), "{}", row.title);
        }
    }
}
