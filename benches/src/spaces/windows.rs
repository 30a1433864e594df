//! The rows about windows, beside other maps from ranges to values, with 10, 1,000 and 100,000 of them.
//!
//! ```text
//!   windows of three pages:     |www.h.|www.h.|www.h.| ...          h: where a page is inserted, or mapped, between others
//!   protected in the middle:    |wrw...|                            and back
//!   one-page holes:             |w.w.w.w.w. ...  ##                 ##: the first gap of two pages
//!   misaligned gaps:            |wwww......ww......ww...            each nearly 4 MiB, and none holds an aligned 2 MiB
//! ```
//!
//! Each row is there twice. `index-` is the index of a space alone beside other maps, which do the same: with the nodes that it counts and takes from the pools, without
//! the lock around it. `space-` is the whole call, which takes locks, checks, and keeps records, areas and tables as well; a `BTreeMap` beside it is the yardstick of the run. A call that only
//! looks ends in a refusal: a fault by an access that the window does not allow, a mapping in a space that may have no more windows.

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::subjects::{self, Alone, LOW, Libkernel, Offer, Piece, Place, Subject, Vmcore};
use crate::{clock::timed, measure::Effort, subject::PAGE};

/// How many windows there are.
pub const COUNTS: [usize; 3] = [10, 1000, 100_000];

/// Pages from one window of three to the next.
const STRIDE: u64 = 6;
/// The shift of the large alignment.
const LARGE: u32 = 21;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// What is at a random address.
    Find,
    /// A window between others, and away again.
    InsertRemove,
    /// The same with its page.
    MapUnmap,
    /// Write permission from the middle of a window, and back.
    Protect,
    /// The first gap behind one-page holes.
    Gap,
    /// The first gap of an aligned 2 MiB behind misaligned ones.
    LargeGap,
}

/// An operation that is measured, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    operation: Operation,
    /// The whole call on a space, or its index alone.
    whole: bool,
}

impl Row {
    /// All of them, in the tables' order.
    pub const ALL: [Self; 11] = [
        Self::alone(Operation::Find),
        Self::alone(Operation::InsertRemove),
        Self::alone(Operation::Protect),
        Self::alone(Operation::Gap),
        Self::alone(Operation::LargeGap),
        Self::whole(Operation::Find),
        Self::whole(Operation::InsertRemove),
        Self::whole(Operation::MapUnmap),
        Self::whole(Operation::Protect),
        Self::whole(Operation::Gap),
        Self::whole(Operation::LargeGap),
    ];

    const fn alone(operation: Operation) -> Self {
        Self { operation, whole: false }
    }

    const fn whole(operation: Operation) -> Self {
        Self { operation, whole: true }
    }

    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match (self.whole, self.operation) {
            (false, Operation::Find) => "index-find",
            (false, Operation::InsertRemove) => "index-insert-remove",
            (false, Operation::MapUnmap) => "index-map-unmap",
            (false, Operation::Protect) => "index-protect",
            (false, Operation::Gap) => "index-gap",
            (false, Operation::LargeGap) => "index-gap-2m",
            (true, Operation::Find) => "space-find",
            (true, Operation::InsertRemove) => "space-insert-remove",
            (true, Operation::MapUnmap) => "space-map-unmap",
            (true, Operation::Protect) => "space-protect",
            (true, Operation::Gap) => "space-gap",
            (true, Operation::LargeGap) => "space-gap-2m",
        }
    }

    /// What it is called in the table.
    pub const fn title(self) -> &'static str {
        match (self.whole, self.operation) {
            (false, Operation::Find) => "index: find",
            (false, Operation::InsertRemove) => "index: insert + remove between others",
            (false, Operation::Protect) => "index: split the middle off, and join",
            (false, Operation::Gap) => "index: first gap behind n 1-page holes",
            (false, Operation::LargeGap) => "index: 2 MiB gap behind n misaligned",
            (true, Operation::Find) => "call: a fault that is refused",
            (true, Operation::InsertRemove) => "call: map + unmap, nothing resident",
            (_, Operation::MapUnmap) => "call: map + unmap a page that is there",
            (true, Operation::Protect) => "call: protect the middle, and back",
            (true, Operation::Gap) => "call: map refused behind 1-page holes",
            (true, Operation::LargeGap) => "call: 2 MiB refused behind misaligned",
        }
    }

    /// What is to be reached, in nanoseconds, with so many windows.
    const fn goal(self, count: usize) -> Option<u32> {
        let at = match count {
            10 => 0,
            1000 => 1,
            100_000 => 2,
            _ => return None,
        };
        Some(
            match (self.whole, self.operation) {
                (false, Operation::Find) => [6, 20, 60],
                (false, Operation::InsertRemove) => [40, 120, 250],
                (_, Operation::MapUnmap) => [90, 220, 450],
                (_, Operation::Protect) => [120, 250, 400],
                (false, Operation::Gap) => [10, 15, 25],
                (false, Operation::LargeGap) if at == 2 => return Some(60),
                _ => return None,
            }[at],
        )
    }
}

impl Operation {
    const fn needs(self) -> Option<Offer> {
        match self {
            Self::Find | Self::InsertRemove => None,
            Self::MapUnmap => Some(Offer::Pages),
            Self::Protect => Some(Offer::Protect),
            Self::Gap | Self::LargeGap => Some(Offer::Gap),
        }
    }

    /// Where its windows are.
    fn places(self, count: usize) -> Vec<Place> {
        let count = count as u64;
        match self {
            Self::Gap => (0..count).map(|index| (LOW + index * 2 * PAGE, 1)).collect(),
            Self::LargeGap => {
                let large = 1 << LARGE;
                let others = (1..count).map(|index| (large * (2 * index + 1) - PAGE, 2));
                std::iter::once((LOW, large / PAGE)).chain(others).collect()
            }
            _ => (0..count).map(|index| (LOW + index * STRIDE * PAGE, 3)).collect(),
        }
    }
}

/// The windows of an operation in random order, by where they begin.
fn targets(operation: Operation, count: usize) -> Vec<u64> {
    let mut starts: Vec<u64> = operation.places(count).iter().map(|place| place.0).collect();
    fastrand::Rng::with_seed(5).shuffle(&mut starts);
    starts
}

/// One operation, at the window that begins at `target`.
#[inline]
fn step<S: Subject>(operation: Operation, subject: &mut S, target: u64) {
    match operation {
        Operation::Find => {
            black_box(subject.find(target + PAGE + 0x123));
        }
        Operation::InsertRemove => {
            let place = (target + 4 * PAGE, 1);
            subject.insert(place);
            subject.remove(place);
        }
        Operation::MapUnmap => subject.map_and_unmap(target + 4 * PAGE),
        Operation::Protect => {
            let middle = (target + PAGE, 1);
            subject.protect(middle, false);
            subject.protect(middle, true);
        }
        Operation::Gap => {
            black_box(subject.look_for_gap(2, 12));
        }
        Operation::LargeGap => {
            black_box(subject.look_for_gap((1 << LARGE) / PAGE, LARGE));
        }
    }
}

/// `vmcore` as an operation finds it.
fn prepared(operation: Operation, count: usize) -> Vmcore {
    let mut subject = Vmcore::new(&operation.places(count), operation == Operation::MapUnmap);
    if matches!(operation, Operation::Gap | Operation::LargeGap) {
        subject.refuse();
    }
    subject
}

/// How many windows what is counted is done at: how many instructions it takes depends on where it is.
pub const PLACES: usize = 16;

/// A row's operation at [`PLACES`] of so many windows, again and again.
pub fn steps(row: Row, count: usize) -> Box<dyn FnMut()> {
    fn of<S: Subject + 'static>(operation: Operation, count: usize, mut subject: S) -> Box<dyn FnMut()> {
        let targets = targets(operation, count);
        Box::new(move || targets.iter().take(PLACES).for_each(|target| step(operation, &mut subject, *target)))
    }
    let operation = row.operation;
    if row.whole {
        of(operation, count, prepared(operation, count))
    } else {
        of(operation, count, Alone::new(&operation.places(count), false))
    }
}

trait Runner {
    fn name(&self) -> &'static str;
    /// Makes a round, and gives its time and how many operations it was.
    fn round(&mut self) -> (Duration, usize);
}

struct Candidate<S> {
    operation: Operation,
    subject: S,
    targets: Vec<u64>,
    next: usize,
    operations: usize,
}

/// A round takes about as long, so that it is now and then not disturbed.
const ROUND: Duration = Duration::from_micros(100);
const MOST_OPERATIONS: usize = 2048;

impl<S: Subject> Candidate<S> {
    fn boxed(operation: Operation, count: usize, subject: S) -> Box<dyn Runner>
    where
        S: 'static,
    {
        let mut candidate = Self { operation, subject, targets: targets(operation, count), next: 0, operations: 1 };
        while candidate.operations < MOST_OPERATIONS && candidate.round().0 < ROUND {
            candidate.operations *= 2;
        }
        Box::new(candidate)
    }
}

impl<S: Subject> Runner for Candidate<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn round(&mut self) -> (Duration, usize) {
        let Self { operation, subject, targets, next, operations } = self;
        let (operation, operations) = (*operation, *operations);
        let time = timed(|| {
            for _ in 0..operations {
                step(operation, subject, targets[*next]);
                *next = if *next + 1 == targets.len() { 0 } else { *next + 1 };
            }
        });
        (time, operations)
    }
}

/// Someone who can take part in a row.
fn entrant<S: Subject + 'static>(operation: Operation, count: usize) -> Option<Box<dyn Runner>> {
    if operation.needs().is_some_and(|need| !S::OFFERS.contains(&need)) {
        return None;
    }
    Some(Candidate::boxed(operation, count, S::new(&operation.places(count), false)))
}

fn entrants(Row { operation, whole }: Row, count: usize) -> Vec<Box<dyn Runner>> {
    if whole {
        let vmcore = Candidate::boxed(operation, count, prepared(operation, count));
        return [Some(vmcore), entrant::<subjects::Ordered>(operation, count)].into_iter().flatten().collect();
    }
    [
        entrant::<Alone>(operation, count),
        entrant::<subjects::Ordered>(operation, count),
        entrant::<subjects::Set>(operation, count),
        entrant::<subjects::Ranges>(operation, count),
        entrant::<subjects::Intervals>(operation, count),
        entrant::<Libkernel>(operation, count),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Who has a column beside the index alone, in order.
const ALONE: [&str; 6] = [
    Alone::NAME,
    subjects::Ordered::NAME,
    subjects::Set::NAME,
    subjects::Ranges::NAME,
    subjects::Intervals::NAME,
    Libkernel::NAME,
];
/// And beside whole calls.
const WHOLE: [&str; 2] = [Vmcore::NAME, subjects::Ordered::NAME];

/// Candidates make rounds in turn until each has made all of them or had its time: who is slow ends no other one's, of whom each is to come to every window more than
/// once. (The first time a leaf that was filled in order is full.)
fn measure(row: Row, count: usize, effort: Effort) -> BTreeMap<&'static str, f64> {
    const FEWEST: u32 = 5;
    let mut candidates: Vec<_> =
        entrants(row, count).into_iter().map(|candidate| (candidate, Duration::ZERO)).collect();
    let mut best = BTreeMap::new();
    let limit = effort.limit / 2;
    for round in 0..effort.rounds {
        let mut all_done = true;
        for turn in 0..candidates.len() {
            let at = (turn + round as usize) % candidates.len();
            let (candidate, spent) = &mut candidates[at];
            if round >= FEWEST && *spent > limit {
                continue;
            }
            all_done = false;
            let begin = Instant::now();
            // Twice, since the others have emptied the caches.
            for _ in 0..2 {
                let (time, operations) = candidate.round();
                let each = time.as_secs_f64() * 1e9 / operations as f64;
                let best = best.entry(candidate.name()).or_insert(each);
                *best = best.min(each);
            }
            *spent += begin.elapsed();
        }
        if all_done {
            break;
        }
    }
    best
}

/// Measures the rows and gives the lines of the tables, as they come.
pub fn run(rows: &[Row], effort: Effort, line: &mut impl FnMut(String)) {
    for (whole, columns) in [(false, &ALONE[..]), (true, &WHOLE[..])] {
        let rows: Vec<_> = rows.iter().filter(|row| row.whole == whole).collect();
        for count in if rows.is_empty() { &[][..] } else { &COUNTS } {
            let title = format!("ns, {}, {count} windows", if whole { "whole calls" } else { "the index alone" });
            let names: Vec<_> = columns.iter().map(|name| format!("{name:>10}")).collect();
            line(format!("| {title:<38} | {} | to BTreeMap | goal |", names.join(" | ")));
            line(format!("|{:-<40}|{}------------:|-----:|", "", "-----------:|".repeat(names.len())));
            for row in &rows {
                let figures = measure(**row, *count, effort);
                let shown = |name: &&str| {
                    figures.get(name).map_or(format!("{:>10}", "–"), |figure| format!("{figure:>10.1}"))
                };
                let shown: Vec<_> = columns.iter().map(shown).collect();
                let (own, other) = (figures.get(columns[0]), figures.get(subjects::Ordered::NAME));
                let ratio = own.zip(other).map_or("–".into(), |(own, other)| format!("{:.2}", own / other));
                let goal = row.goal(*count).map_or("–".into(), |goal| goal.to_string());
                line(format!("| {:<38} | {} | {ratio:>11} | {goal:>4} |", row.title(), shown.join(" | ")));
            }
            line(String::new());
        }
    }
}

/// Checks that everybody does the same.
///
/// # Errors
/// Who does something else.
pub fn check_all() -> Result<()> {
    check::<Vmcore>()?;
    check::<Alone>()?;
    check::<subjects::Ordered>()?;
    check::<subjects::Set>()?;
    check::<subjects::Ranges>()?;
    check::<subjects::Intervals>()?;
    check::<Libkernel>()
}

/// Checks that a candidate finds, inserts, removes, splits, joins and looks for gaps as it is asked to.
///
/// # Errors
/// What it does instead.
pub fn check<S: Subject>() -> Result<()> {
    const WINDOWS: usize = 300;
    let name = S::NAME;
    let places = Operation::Find.places(WINDOWS);
    let mut subject = S::new(&places, true);
    let whole: Vec<Piece> = places.iter().map(|(start, pages)| (*start, *pages, true)).collect();
    ensure!(subject.pieces() == whole, "{name}: other windows than it was given");
    for start in targets(Operation::Find, WINDOWS) {
        let (last, hole) = (start + 3 * PAGE - 1, start + 4 * PAGE);
        ensure!(subject.find(start) && subject.find(last), "{name}: nothing at {start:#x}");
        ensure!(!subject.find(last + 1) && !subject.find(hole), "{name}: something behind {last:#x}");
        subject.insert((hole, 1));
        ensure!(subject.find(hole), "{name}: nothing was inserted at {hole:#x}");
        ensure!(subject.pieces().len() == WINDOWS + 1, "{name}: what was inserted is no window of its own");
        subject.remove((hole, 1));
        ensure!(subject.pieces() == whole, "{name}: what was inserted at {hole:#x} left something behind");
        if S::OFFERS.contains(&Offer::Pages) {
            subject.map_and_unmap(hole);
            ensure!(subject.pieces() == whole, "{name}: what was mapped at {hole:#x} left something behind");
        }
        if S::OFFERS.contains(&Offer::Protect) {
            subject.protect((start + PAGE, 1), false);
            let index = whole.iter().position(|piece| piece.0 == start).unwrap_or(0);
            let mut split = whole.clone();
            let parts = [(start, 1, true), (start + PAGE, 1, false), (start + 2 * PAGE, 1, true)];
            split.splice(index..=index, parts);
            ensure!(subject.pieces() == split, "{name}: the window at {start:#x} is not split in three");
            subject.protect((start + PAGE, 1), true);
            ensure!(subject.pieces() == whole, "{name}: the window at {start:#x} is not one again");
        }
    }
    if !S::OFFERS.contains(&Offer::Gap) {
        return Ok(());
    }
    for (operation, pages, alignment) in [(Operation::Gap, 2, 12), (Operation::LargeGap, 512, LARGE)] {
        let mut places = operation.places(WINDOWS);
        let lowest = |places: &[Place]| S::new(places, false).gap(pages, alignment);
        let last = places[WINDOWS - 1];
        let behind = (last.0 + last.1 * PAGE).next_multiple_of(1 << alignment);
        ensure!(lowest(&places) == Some(behind), "{name}: the gap behind {} holes is elsewhere", WINDOWS);
        // Without one window there is an aligned gap before them all.
        let removed = places.remove(WINDOWS / 2);
        let before = places[WINDOWS / 2 - 1];
        let between = (before.0 + before.1 * PAGE).next_multiple_of(1 << alignment);
        ensure!(between <= removed.0, "{name}: no gap to be found");
        ensure!(lowest(&places) == Some(between), "{name}: the gap at {between:#x} is not found");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of the standard library's that leaves parts of windows apart, or finds gaps but no aligned ones.
    struct Lazy<const LEAVES_APART: bool>(subjects::Ordered, Vec<u64>);

    impl<const LEAVES_APART: bool> Subject for Lazy<LEAVES_APART> {
        const NAME: &'static str = "lazy";
        const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Gap];
        fn new(places: &[Place], touched: bool) -> Self {
            Self(subjects::Ordered::new(places, touched), Vec::new())
        }
        fn find(&mut self, address: u64) -> bool {
            self.0.find(address)
        }
        fn insert(&mut self, place: Place) {
            self.0.insert(place);
        }
        fn remove(&mut self, place: Place) {
            self.0.remove(place);
        }
        fn protect(&mut self, place: Place, writable: bool) {
            self.0.protect(place, writable);
            if LEAVES_APART && writable {
                self.1.push(place.0);
            }
        }
        fn gap(&mut self, pages: u64, _: u32) -> Option<u64> {
            self.0.gap(pages, 12)
        }
        fn pieces(&mut self) -> Vec<Piece> {
            let apart = self.1.iter().map(|start| (*start, 1, true));
            self.0.pieces().into_iter().chain(apart).collect()
        }
    }

    #[test]
    fn who_does_less_is_caught() {
        assert!(check::<Lazy<true>>().unwrap_err().to_string().contains("is not one again"));
        assert!(check::<Lazy<false>>().unwrap_err().to_string().contains("gap"));
    }
}
