//! Interleaved rounds: every candidate makes two, then every candidate the next two, begun by another one each time.
//!
//! A noisy machine slows whoever happens to be at work. So many short rounds are made, the order changes, and of each candidate the fastest round counts: what
//! the machine took when nobody disturbed it. Only ratios between figures of one run mean anything.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    mem::ManuallyDrop,
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
    /// When a row and size has taken this long, only the fewest rounds that say something are made.
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

/// A candidate with what it works on.
struct Candidate<S> {
    row: Row,
    work: Rc<Work>,
    arena: &'static Arena,
    /// Never dropped: its tables go with the arena's next use.
    subject: ManuallyDrop<S>,
}

impl<S: Subject> Runner for Candidate<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn round(&mut self) -> Duration {
        rows::round(self.row, &mut *self.subject, self.arena, &self.work)
    }
    fn keeps_tables(&self) -> bool {
        S::NAME != FLOOR && self.row.keeps_tables::<S>()
    }
}

/// Who takes part in a row.
#[derive(Clone, Copy, Debug)]
pub struct Entrant {
    /// Its name.
    pub name: &'static str,
    make: fn(Row, &Rc<Work>) -> Box<dyn Runner>,
}

impl Entrant {
    fn of<S: Subject + 'static>(row: Row) -> Option<Self> {
        row.suits::<S>().then_some(Self { name: S::NAME, make: ready::<S> })
    }

    /// Makes it ready for its first round. Only one of a name and size may be in use at a time on a thread: they share an arena.
    pub fn make(self, row: Row, work: &Rc<Work>) -> Box<dyn Runner> {
        (self.make)(row, work)
    }
}

fn ready<S: Subject + 'static>(row: Row, work: &Rc<Work>) -> Box<dyn Runner> {
    thread_local! {
        static ARENAS: RefCell<BTreeMap<(&'static str, usize), &'static Arena>> = RefCell::default();
    }
    let frames = work.frames();
    let arena =
        ARENAS.with_borrow_mut(|arenas| *arenas.entry((S::NAME, frames)).or_insert_with(|| Arena::leaked(frames)));
    arena.reset();
    let mut subject = S::new(arena);
    rows::prepare(row, &mut subject, work);
    Box::new(Candidate { row, work: work.clone(), arena, subject: ManuallyDrop::new(subject) })
}

/// Who takes part in a row, the floor and `vmcore` first.
pub fn entrants(row: Row) -> Vec<Entrant> {
    let entrants = if row.relies_on_dirty() {
        vec![Entrant::of::<Floor<true>>(row), Entrant::of::<Vmcore<true>>(row)]
    } else {
        vec![
            Entrant::of::<Floor<false>>(row),
            Entrant::of::<Vmcore<false>>(row),
            Entrant::of::<peers::x86_64::X86_64>(row),
            Entrant::of::<peers::page_table_multiarch::PageTableMultiarch>(row),
            Entrant::of::<peers::page_table_generic::PageTableGeneric>(row),
            Entrant::of::<peers::aarch64_paging::Aarch64Paging>(row),
            Entrant::of::<peers::libkernel::Libkernel>(row),
            Entrant::of::<peers::patina_paging::PatinaPaging>(row),
        ]
    };
    entrants.into_iter().flatten().collect()
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

/// Measures a row with ranges of so many pages.
pub fn measure(row: Row, pages: u64, effort: Effort) -> Figures {
    let work = Rc::new(Work::new(pages));
    let total = work.pages_of(row) as f64;
    let mut candidates: Vec<_> = entrants(row).into_iter().map(|entrant| entrant.make(row, &work)).collect();
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
        nanoseconds: time.as_secs_f64() * 1e9 / total,
        keeps_tables: candidate.keeps_tables(),
    };
    candidates.iter().zip(best).map(|(one, time)| (one.name(), figure(&**one, time))).collect()
}
