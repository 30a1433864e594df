//! Waiting until a word in memory changes.
//!
//! ```text
//!   waits                                         wakes
//!   lock                                          changes the word
//!     the word is what was expected?              lock
//!     then: into the queue of its place             takes who is in the queue of its place
//!   unlock, park                                  unlock, unpark
//! ```
//!
//! The word is looked at and the queue is entered under one lock, which whoever wakes takes after changing the word: either the one sees the change, or
//! the other sees who waits. The key is what the memory manager says of the address: a place in an area, which is the same in every process that shows it, and
//! before and after its page is copied, moved or evicted.

use crate::memory::Mutex;
use crate::pager;
use crate::process::Process;
use crate::thread::{self, THREADS_MAX, scheduler, sleep};
use core::sync::atomic::{AtomicBool, Ordering};
use refkernel::wait_queues::{Progress, Ticket, WaitKey, WaitQueues};
use refkernel_abi::{ErrorCode, USER_END, USER_START};
use vmcore::addr::VirtAddr;
use vmcore::vm_area::AreaError;
use vmcore::vm_space::{AreaPlace, SpaceError, WordAt};

/// A place that somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(AreaPlace);

impl WaitKey for Key {
    fn hash(self) -> u64 {
        (self.0.area as u64).rotate_left(40) ^ self.0.offset >> 2
    }
}

/// Who waits: numbers of threads.
static WAITS: Mutex<WaitQueues<Key, u64, (), THREADS_MAX>> = Mutex::new(WaitQueues::new());

/// How many threads wait. O(places).
pub(crate) fn waiting() -> usize {
    WAITS.lock().len()
}

/// Checks the address of a word.
fn check(address: u64) -> Result<VirtAddr, ErrorCode> {
    if !address.is_multiple_of(4) {
        return Err(ErrorCode::Unaligned);
    }
    if (USER_START..USER_END).contains(&address) { Ok(VirtAddr::new(address)) } else { Err(ErrorCode::BadPointer) }
}

/// How often a change that is in the way is waited for.
const PATIENCE: u32 = 1000;

/// Waits as long as nobody wakes the word's place, if it is `expected`.
///
/// # Errors
///
/// See [`SystemCall::AddressWait`](refkernel_abi::SystemCall::AddressWait).
pub(crate) fn wait(process: &Process, address: u64, expected: u32, microseconds: u64) -> Result<(), ErrorCode> {
    let place = check(address)?;
    let thread = scheduler::current().ok_or(ErrorCode::NotSupported)?;
    let deadline = sleep::deadline(microseconds);
    let (ticket, key) = begin(process, place, expected, thread.number())?;
    sleep::wait(deadline, || WAITS.lock().progress(ticket) == Progress::Finished);
    let cancelled = WAITS.lock().cancel(ticket).is_some();
    if cancelled {
        return Err(ErrorCode::TimedOut);
    }
    let woken = WAITS.lock().collect(ticket);
    if woken.is_some() && thread.is_killed() {
        // It does not go on: another one may.
        wake_one(key);
    }
    Ok(())
}

/// Set by tests: what may come between a look at a word and the entry into the queue comes more often.
static LINGERS: AtomicBool = AtomicBool::new(false);

/// From now on a thread that has looked at a word lingers before it does anything about it, so that tests find a wake that is lost in between.
pub(crate) fn linger() {
    LINGERS.store(true, Ordering::Relaxed);
}

/// Looks at a word. With the lock held: see above.
fn look(process: &Process, place: VirtAddr) -> Result<WordAt, SpaceError> {
    /// Turns of a nanosecond or two: longer than a wake takes on another processor. (Not the instruction that says so to the processor: a virtual one gives its turn away for it.)
    const TURNS: u32 = 3000;
    let word = process.space().word_at(place);
    if LINGERS.load(Ordering::Relaxed) {
        (0..TURNS).for_each(|turn| {
            core::hint::black_box(turn);
        });
    }
    word
}

/// Looks at the word, and enters the queue.
fn begin(process: &Process, place: VirtAddr, expected: u32, thread: u64) -> Result<(Ticket, Key), ErrorCode> {
    loop {
        let looked = {
            let mut waits = WAITS.lock();
            match look(process, place) {
                Ok(word) if word.value == expected => {
                    let key = Key(word.place);
                    let entered = waits.wait(key, thread);
                    return entered.map(|ticket| (ticket, key)).map_err(|_| ErrorCode::TooMany);
                }
                Ok(_) => return Err(ErrorCode::Changed),
                Err(error) => error,
            }
        };
        match looked {
            // A flush comes to its end, however long another processor is kept from answering.
            SpaceError::Retry(_) | SpaceError::Area(AreaError::Retry) => {
                if scheduler::current().is_some_and(|thread| thread.is_killed()) {
                    return Err(ErrorCode::Retry);
                }
                scheduler::yield_now();
            }
            error @ SpaceError::Awaits { .. } => {
                if !pager::answer(&error) {
                    return Err(ErrorCode::OutOfMemory);
                }
            }
            error => return Err(refusal(error)),
        }
    }
}

/// Wakes at most so many of those who wait for the word's place, and gives how many they were.
///
/// # Errors
///
/// See [`SystemCall::AddressWake`](refkernel_abi::SystemCall::AddressWake).
pub(crate) fn wake(process: &Process, address: u64, count: u64) -> Result<u64, ErrorCode> {
    let place = check(address)?;
    let mut patience = PATIENCE;
    let key = loop {
        match process.space().place_at(place) {
            Ok(place) => break Key(place),
            Err(SpaceError::Retry(_)) if patience > 0 => {
                patience -= 1;
                scheduler::yield_now();
            }
            Err(error) => return Err(refusal(error)),
        }
    };
    let mut woken = 0;
    while woken < count && wake_one(key) {
        woken += 1;
    }
    Ok(woken)
}

fn wake_one(key: Key) -> bool {
    let woken = WAITS.lock().wake(key, ());
    woken.inspect(|thread| thread::wake(*thread)).is_some()
}

fn refusal(error: SpaceError) -> ErrorCode {
    match error {
        SpaceError::Retry(_) => ErrorCode::Retry,
        SpaceError::OutOfFrames(_) | SpaceError::Area(AreaError::OutOfFrames(_)) => ErrorCode::OutOfMemory,
        // Device memory.
        SpaceError::Area(_) => ErrorCode::NotSupported,
        _ => ErrorCode::BadPointer,
    }
}
