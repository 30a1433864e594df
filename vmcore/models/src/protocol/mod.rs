//! The protocol between faults, changes and flushes, on simulated CPUs that a scheduler of shuttle's interleaves.
//!
//! ```text
//!   scenario: what each CPU's thread does        every shared word, lock and step of a CPU's walk is a point at which
//!      │ Space, Area, Flush: the library's own   another thread may go on
//!      ▼
//!   Modelled (Platform) ── locks ──► shuttle     ── frames, CPUs, TLBs ──► the simulated machine, which judges
//! ```
//!
//! Shuttle runs one thread at a time and takes every order for the sequentially consistent one: what weaker orders permit is for
//! `pieces`.

mod lock;
mod platform;

mod scenarios;
mod world;

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use vmcore::word::{self, Model, Operation, WordAccess};

use crate::arguments::Arguments;
use crate::report::{Report, Row, catch};

/// A model: its name, and what one schedule of it does.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

/// Another thread may go on here.
pub(crate) fn point() {
    if !std::thread::panicking() {
        // Shuttle has no time: this is a switch and nothing else, and unlike a yield no wish to be left out.
        shuttle::thread::sleep(std::time::Duration::ZERO);
    }
}

/// What a thread wrote, word by word and lock by lock.
#[derive(Default, Debug)]
pub(crate) struct Written {
    /// Every address, as often as it was written.
    pub(crate) words: Vec<usize>,
    /// The addresses of locked operations: read-modify-writes, and locks taken.
    pub(crate) locked: Vec<usize>,
}

thread_local! {
    /// What is being recorded. All threads of a schedule are one to the host, so only one of them runs meanwhile.
    static RECORDING: RefCell<Option<Written>> = const { RefCell::new(None) };
}

/// What `run` writes, of the only thread that does anything.
pub(crate) fn recorded(run: impl FnOnce()) -> Written {
    RECORDING.set(Some(Written::default()));
    run();
    RECORDING.take().unwrap_or_default()
}

/// Records a write of a word, if that is wanted.
pub(crate) fn record(address: usize, locked: bool) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(written) = recording {
            written.words.push(address);
            if locked {
                written.locked.push(address);
            }
        }
    });
}

struct Interleaved;

impl Model for Interleaved {
    fn access(&self, access: &WordAccess) -> u64 {
        point();
        match access.operation {
            Operation::Load => {}
            Operation::Store(_) => record(access.address.addr().get(), false),
            _ => record(access.address.addr().get(), true),
        }
        access.perform()
    }

    fn fence(&self, _: word::Ordering) {}

    fn wait(&self) {
        shuttle::thread::yield_now();
    }
}

/// How many times a schedule may switch before it counts as one that does not end.
const MAX_STEPS: usize = 200_000;

/// How many preemptions at the most a bug takes that PCT finds with the odds that it promises.
const DEPTHS: [(usize, &str); 2] = [(2, "PCT 2"), (4, "PCT 4")];

pub(crate) fn run(arguments: &Arguments) -> Report {
    let scenarios: Vec<_> = scenarios::ALL.iter().filter(|scenario| arguments.wants(scenario.name)).collect();
    let mut report = Report { listed: arguments.list, ..Report::default() };
    if arguments.list {
        scenarios.iter().for_each(|scenario| println!("{}", scenario.name));
        return report;
    }
    word::install(&(&Interleaved as &dyn Model));
    let iterations = arguments.iterations as usize;
    for (index, scenario) in scenarios.iter().enumerate() {
        eprintln!("[{:>2}/{}] {} …", index + 1, scenarios.len(), scenario.name);
        let seed = arguments.seed;
        report.rows.push(schedules(scenario, "random", |config, run| {
            Runner::new(RandomScheduler::new_from_seed(seed, iterations), config).run(run)
        }));
        for (depth, name) in DEPTHS {
            report.rows.push(schedules(scenario, name, |config, run| {
                Runner::new(PctScheduler::new_from_seed(seed, depth, iterations), config).run(run)
            }));
        }
    }
    report
}

fn schedules(
    scenario: &Scenario,
    scheduler: &'static str,
    runner: impl FnOnce(Config, Box<dyn Fn() + Send + Sync>) -> usize + Send,
) -> Row {
    static SCHEDULES: AtomicUsize = AtomicUsize::new(0);
    SCHEDULES.store(0, Ordering::Relaxed);
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let run = scenario.run;
    let start = Instant::now();
    let finding = catch(|| {
        runner(
            config,
            Box::new(move || {
                SCHEDULES.fetch_add(1, Ordering::Relaxed);
                lock::begin_schedule();
                run();
            }),
        );
    });
    Row { name: scenario.name, scheduler, schedules: SCHEDULES.load(Ordering::Relaxed), time: start.elapsed(), finding }
}
