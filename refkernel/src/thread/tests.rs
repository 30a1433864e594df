//! What must be true of threads, asked in the machine.

use super::{scheduler, sleep, spawn};
use crate::cpu::{clock, local, others};
use crate::memory::{self, interrupts_sent, shootdown::bits, space_loads};
use crate::process::{self, Start};
use crate::programs::Programs;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use refkernel_abi::roles::CheckRole;

/// A test: what is wrong, if anything is.
pub(crate) type Test = fn(&Programs<'_>) -> Result<(), &'static str>;

/// Every test of threads, by name.
pub(crate) const ALL: &[(&str, Test)] = &[
    ("sleep_takes_its_time", sleep_takes_its_time),
    ("threads_of_one_processor_take_turns", threads_take_turns),
    ("threads_run_on_every_processor", threads_run_on_every_processor),
    ("more_threads_than_kept_stacks_give_them_back", more_threads_than_kept_stacks),
    ("woken_before_it_waits_is_not_lost", woken_before_it_waits),
    ("process_of_one_thread_interrupts_nobody", process_interrupts_nobody),
];

fn check(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(otherwise) }
}

/// Waits until something holds; false if it does not within half a minute or so: a busy host lets a processor stand still for a long time.
fn holds_soon(holds: impl Fn() -> bool) -> bool {
    for _ in 0..3000 {
        if holds() {
            return true;
        }
        sleep::sleep_microseconds(1000);
    }
    holds()
}

fn sleep_takes_its_time(_: &Programs<'_>) -> Result<(), &'static str> {
    let start = clock::now();
    sleep::sleep_microseconds(30_000);
    let slept = (clock::now() - start) / clock::per_microsecond();
    check(slept >= 30_000, "it was shorter than asked for")
}

static TURNS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static STOP: AtomicBool = AtomicBool::new(false);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Threads that never give the processor away by themselves share it.
fn threads_take_turns(_: &Programs<'_>) -> Result<(), &'static str> {
    STOP.store(false, Ordering::Relaxed);
    ENDED.store(0, Ordering::Relaxed);
    let cpu = bits(others::running()).last().unwrap_or(0);
    for (number, turns) in (0..).zip(&TURNS) {
        turns.store(0, Ordering::Relaxed);
        let count = |[number, ..]: super::Arguments| {
            let Some(turns) = TURNS.get(number as usize) else { return };
            while !STOP.load(Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::Relaxed);
            }
            ENDED.fetch_add(1, Ordering::Relaxed);
        };
        spawn(count, [number, 0, 0, 0], 1 << cpu, 0).map_err(|_| "a thread cannot be started")?;
    }
    let all = holds_soon(|| TURNS.iter().all(|turns| turns.load(Ordering::Relaxed) > 0));
    STOP.store(true, Ordering::Relaxed);
    let ended = holds_soon(|| ENDED.load(Ordering::Relaxed) == 3);
    check(all, "a thread has not had its turn")?;
    check(ended, "a thread has not ended")
}

/// As many threads as processors, each busy, are on as many processors.
fn threads_run_on_every_processor(_: &Programs<'_>) -> Result<(), &'static str> {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    SEEN.store(0, Ordering::Relaxed);
    STOP.store(false, Ordering::Relaxed);
    ENDED.store(0, Ordering::Relaxed);
    let running = others::running();
    for _ in bits(running) {
        let note = |_: super::Arguments| {
            while !STOP.load(Ordering::Relaxed) {
                SEEN.fetch_or(1 << local::processor(), Ordering::Relaxed);
            }
            ENDED.fetch_add(1, Ordering::Relaxed);
        };
        spawn(note, [0; 4], u64::MAX, 0).map_err(|_| "a thread cannot be started")?;
    }
    let all = holds_soon(|| SEEN.load(Ordering::Relaxed) == running);
    STOP.store(true, Ordering::Relaxed);
    let ended = holds_soon(|| ENDED.load(Ordering::Relaxed) == running.count_ones().into());
    check(all, "a processor did nothing while threads waited")?;
    check(ended, "a thread has not ended")
}

/// What stays is a few tables and nodes of the kernel's space, less than a stack, however often it is done.
fn more_threads_than_kept_stacks(_: &Programs<'_>) -> Result<(), &'static str> {
    const COUNT: u64 = 20;
    const TABLES_AND_NODES: u64 = 4;
    let wait = |_: super::Arguments| {
        while !STOP.load(Ordering::Relaxed) {
            sleep::sleep_microseconds(1000);
        }
        ENDED.fetch_add(1, Ordering::Relaxed);
    };
    let before = memory::frames_in_use();
    let kept = || memory::frames_in_use().saturating_sub(before);
    for _ in 0..3 {
        ENDED.store(0, Ordering::Relaxed);
        STOP.store(false, Ordering::Relaxed);
        for _ in 0..COUNT {
            spawn(wait, [0; 4], u64::MAX, 0).map_err(|_| "a thread cannot be started")?;
        }
        let taken = kept();
        STOP.store(true, Ordering::Relaxed);
        check(holds_soon(|| ENDED.load(Ordering::Relaxed) == COUNT), "a thread has not ended")?;
        check(taken > 100, "threads take no memory")?;
        // The last ones are on their way out.
        check(holds_soon(|| kept() <= TABLES_AND_NODES), "frames of stacks did not come back")?;
    }
    Ok(())
}

fn woken_before_it_waits(_: &Programs<'_>) -> Result<(), &'static str> {
    let thread = scheduler::current().ok_or("there is no thread")?;
    scheduler::unpark(thread);
    // Else it would wait for ever.
    scheduler::park();
    Ok(())
}

/// A program that maps, touches and unmaps, and waits and is preempted in between, costs no interrupts for flushes, and
/// its root is not loaded each time that it goes on.
fn process_interrupts_nobody(programs: &Programs<'_>) -> Result<(), &'static str> {
    let role = CheckRole::LeaveEverything;
    let start = || Start { argument: role.number(), ..Start::default() };
    let process = programs.load("check", start()).map_err(|_| "the program is not loaded")?;
    let (sent, loads) = (interrupts_sent(), space_loads());
    let ending = process::run(&process).map_err(|_| "the program is not started")?;
    check(ending.is(role.must()), "the program failed")?;
    check(interrupts_sent() == sent, "another processor was interrupted to flush")?;
    // Each processor that it was on loaded it once more at the most for each of its turns there.
    check(space_loads() > loads, "the space was never loaded")
}
