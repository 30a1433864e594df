//! How long an operation takes on a machine that does other things as well.
//!
//! ```text
//!   processor time   ├──┤ wall clock ├────────── operation ──────────┤ ├──┤
//!                    the system call      interrupted, or not
//! ```
//!
//! The wall clock is exact and cheap, but runs on while somebody else has the processor; the thread's processor time stands still meanwhile, but costs a
//! system call. It is read outside, and the smaller of the two counts.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// What reading the wall clock twice takes.
static OVERHEAD: LazyLock<Duration> = LazyLock::new(|| (0..10_000).map(|_| measured(|| ())).min().unwrap_or_default());

/// The time that `operation` takes.
pub fn timed(operation: impl FnOnce()) -> Duration {
    let overhead = *OVERHEAD;
    measured(operation).saturating_sub(overhead)
}

/// Kept out of line, so that nothing is moved across the clock.
#[inline(never)]
fn measured(operation: impl FnOnce()) -> Duration {
    let on_processor = processor_time();
    let begin = Instant::now();
    operation();
    let wall = begin.elapsed();
    wall.min(processor_time().saturating_sub(on_processor))
}

/// How long this thread has had a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of the type that is asked for.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "this system does not count a thread's processor time");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
