//! Threads of programs: start, end, and waiting for the end.
//!
//! A process is over when none of its threads holds on to it any more. They are counted outside of it, by its place: the count goes down after
//! the thread has given up its reference, so whoever has waited for it to be zero and drops the last reference gives every
//! frame back then and there.

use super::{Ending, PROCESSES, PROCESSES_MAX, Process, ProcessRef};
use crate::cpu::user::{self, Killed, UserExit};
use crate::memory;
use crate::thread::{self, ThreadError, scheduler};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use x86_64::instructions::interrupts;

/// Threads that hold on to the process in each place.
static THREADS: [AtomicU32; PROCESSES_MAX] = [const { AtomicU32::new(0) }; PROCESSES_MAX];

/// The count of a process's threads.
fn threads_of(process: &ProcessRef) -> &'static AtomicU32 {
    // Never a panic: a place is an index of the pool, which is as long.
    &THREADS[process.place()]
}

/// Starts a thread of a process's program at `entry`, with the stack pointer `stack` and `argument` in its first register.
///
/// # Errors
///
/// [`ThreadError`].
pub(super) fn start_thread(process: &ProcessRef, entry: u64, stack: u64, argument: u64) -> Result<(), ThreadError> {
    let count = threads_of(process);
    count.fetch_add(1, Ordering::SeqCst);
    process.inside.fetch_add(1, Ordering::SeqCst);
    // The thread's reference.
    let number = process.clone().into_number();
    let started = thread::spawn(run_program, [number, entry, stack, argument], u64::MAX, number);
    if let Err(error) = started {
        // SAFETY: the number was made of a reference above, and no thread has it.
        drop(unsafe { PROCESSES.reclaim(number) });
        // It has not been there: its handles are as they were, also if it would have been the first.
        process.inside.fetch_sub(1, Ordering::SeqCst);
        count.fetch_sub(1, Ordering::SeqCst);
        return Err(error);
    }
    Ok(())
}

/// Starts a process's first thread.
///
/// # Errors
///
/// [`ThreadError`].
pub(crate) fn start(process: &ProcessRef) -> Result<(), ThreadError> {
    start_thread(process, process.entry, process.stack, process.start_information)
}

/// What a thread of a program does.
fn run_program([number, entry, stack, argument]: thread::Arguments) {
    // SAFETY: `start_thread` gave this thread the reference.
    let (Some(process), Some(thread)) = (unsafe { PROCESSES.reclaim(number) }, scheduler::current()) else { return };
    // A thread that was started while its process was ended is not among those that were told to.
    let exit = if thread.is_killed() || process.ending.lock().is_some() {
        UserExit::Killed(Killed::ByOrder)
    } else {
        memory::in_space(&process.space, || {
            thread.program.store(ptr::from_ref::<Process>(&process).cast_mut(), Ordering::Relaxed);
            let exit = user::enter_user(entry, stack, argument);
            thread.program.store(ptr::null_mut(), Ordering::Relaxed);
            exit
        })
    };
    // They were off when the program was left.
    interrupts::enable();
    if let Some(ending) = Ending::new(&process, exit) {
        end(&process, ending);
    }
    leave(&process);
    let count = threads_of(&process);
    drop(process);
    count.fetch_sub(1, Ordering::SeqCst);
    thread::wake_waiters_for(number);
}

/// A thread is out of the program. After the last one nobody names anything by the process's handles any more.
fn leave(process: &Process) {
    if process.inside.fetch_sub(1, Ordering::SeqCst) == 1 {
        process.drop_handles();
    }
}

/// Ends a process: its threads end as soon as they notice. The first ending is the one that counts.
pub(crate) fn end(process: &ProcessRef, ending: Ending) {
    process.ending.lock().get_or_insert(ending);
    thread::kill_all_of(process.number());
}

/// How many threads hold on to a process.
pub(crate) fn threads(process: &ProcessRef) -> u32 {
    threads_of(process).load(Ordering::SeqCst)
}

/// How a process ended, as soon as that is decided.
pub(crate) fn ending(process: &ProcessRef) -> Option<Ending> {
    *process.ending.lock()
}

/// Waits until a process is over, and says how it ended; `None` if the thread that waits is to end first.
pub(crate) fn wait(process: &ProcessRef) -> Option<Ending> {
    let thread = scheduler::current()?;
    let count = threads_of(process);
    thread.waits_for.store(process.number(), Ordering::SeqCst);
    while count.load(Ordering::SeqCst) != 0 && !thread.is_killed() {
        scheduler::park();
    }
    thread.waits_for.store(0, Ordering::SeqCst);
    // A process whose last thread has ended by itself has nothing to say.
    let ending = *process.ending.lock();
    (count.load(Ordering::SeqCst) == 0).then_some(ending.unwrap_or(Ending::Exited(0)))
}

/// Runs a process until it ends. It can be run once; a second time it starts again with what its memory holds by then.
///
/// # Errors
///
/// [`ThreadError`].
pub(crate) fn run(process: &ProcessRef) -> Result<Ending, ThreadError> {
    *process.ending.lock() = None;
    *process.report.lock() = None;
    start(process)?;
    // The thread that asks is the kernel's own, which nobody tells to end.
    Ok(wait(process).unwrap_or(Ending::Killed))
}
