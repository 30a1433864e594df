//! Interleaved rounds: every candidate does one, then every candidate the next, begun by another one each time.
//!
//! A noisy machine slows whoever happens to be at work. So many short rounds are made, the order changes, and of each candidate the fastest round counts: what
//! the machine took when nobody disturbed it. Only ratios between figures of one run mean anything.

use std::{
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::{
    arena::Arena,
    floor::Floor,
    peers,
    rows::{self, Row, Work},
    subject::Subject,
    vmcore::Vmcore,
};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each candidate, per row and size.
    pub rounds: u32,
    /// When a row and size has taken this long, no more rounds are made than [`FEWEST_ROUNDS`].
    pub limit: Duration,
}

/// What the floor is called.
const FLOOR: &str = <Floor<false> as Subject>::NAME;
const FEWEST_ROUNDS: u32 = 5;

/// One candidate at one row and size.
pub trait Runner {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Makes one round, and gives the time that the operation took.
    fn round(&mut self) -> Duration;
    /// Whether it leaves emptied tables where they are, though the row is about freeing them.
    fn keeps_tables(&self) -> bool;
}

struct Candidate<S> {
    row: Row,
    work: Rc<Work>,
    arena: &'static Arena,
    subject: S,
}

impl<S: Subject> Runner for Candidate<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn round(&mut self) -> Duration {
        rows::round(self.row, &mut self.subject, self.arena, &self.work)
    }
    fn keeps_tables(&self) -> bool {
        S::NAME != FLOOR && self.row.keeps_tables::<S>()
    }
}

fn add<S: Subject + 'static>(row: Row, work: &Rc<Work>, candidates: &mut Vec<Box<dyn Runner>>) {
    if row.suits::<S>() {
        let arena = work.arena();
        let mut subject = S::new(arena);
        rows::prepare(row, &mut subject, work);
        candidates.push(Box::new(Candidate { row, work: work.clone(), arena, subject }));
    }
}

/// What was measured of a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Nanoseconds per page.
    pub nanoseconds: f64,
    /// Whether it left emptied tables where they are, and so did less than the row says.
    pub keeps_tables: bool,
}

/// Each candidate's figure, by name.
pub type Figures = BTreeMap<&'static str, Figure>;

/// Everybody who takes part in a row with ranges of so many pages, ready for the first round; and how many pages a round is about.
pub fn candidates(row: Row, pages: u64) -> (Vec<Box<dyn Runner>>, u64) {
    let work = Rc::new(Work::new(pages));
    let mut candidates = Vec::new();
    if row.relies_on_dirty() {
        add::<Floor<true>>(row, &work, &mut candidates);
        add::<Vmcore<true>>(row, &work, &mut candidates);
    } else {
        add::<Floor<false>>(row, &work, &mut candidates);
        add::<Vmcore<false>>(row, &work, &mut candidates);
        add::<peers::x86_64::X86_64>(row, &work, &mut candidates);
        add::<peers::page_table_multiarch::PageTableMultiarch>(row, &work, &mut candidates);
        add::<peers::page_table_generic::PageTableGeneric>(row, &work, &mut candidates);
        add::<peers::aarch64_paging::Aarch64Paging>(row, &work, &mut candidates);
        add::<peers::libkernel::Libkernel>(row, &work, &mut candidates);
        add::<peers::patina_paging::PatinaPaging>(row, &work, &mut candidates);
    }
    (candidates, work.pages_of(row))
}

/// Measures a row with ranges of so many pages.
pub fn measure(row: Row, pages: u64, effort: Effort) -> Figures {
    let (mut candidates, total) = candidates(row, pages);
    let begin = Instant::now();
    let mut best = vec![Duration::MAX; candidates.len()];
    for round in 0..effort.rounds {
        if round >= FEWEST_ROUNDS && begin.elapsed() > effort.limit {
            break;
        }
        for turn in 0..candidates.len() {
            let at = (turn + round as usize) % candidates.len();
            // Twice: the others have emptied the caches, and the first time fills them.
            for _ in 0..2 {
                best[at] = best[at].min(candidates[at].round());
            }
        }
    }
    let figure = |candidate: &dyn Runner, time: Duration| Figure {
        nanoseconds: time.as_secs_f64() * 1e9 / total as f64,
        keeps_tables: candidate.keeps_tables(),
    };
    candidates.iter().zip(best).map(|(one, time)| (one.name(), figure(&**one, time))).collect()
}
