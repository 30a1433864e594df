//! Threads: a stack of the kernel's each, and whatever runs on it, the kernel's own work or a program.
//!
//! | module | what lives there |
//! |---|---|
//! | [`scheduler`] | who runs where, and the change from one thread to another |
//! | `switch` | the change itself |
//! | [`sleep`] | waiting for a time |
//! | `stacks` | stacks that wait for their next thread |
//! | [`tests`] | what must be true of all that |
//! | [`work`] | a function on a processor of one's choice |
//!
//! ```text
//!               taken from the queue
//!   ready  ◄──────────────────────────────►  running ──► dead
//!     ▲              its time is up             │
//!     │ unpark                                  ▼ park
//!     └───────────────── parked ◄────────── leaving         (until its registers are saved)
//! ```
//!
//! # Invariants
//!
//! - A thread's state changes under the queue's lock from its first turn on. In the queue are exactly the threads that are ready; their registers are saved.
//!   Idle threads are never in it.
//! - A thread's kernel stack, the entry context of its programs and its space are the processor's while it runs, and are kept in it while it does not.
//! - A thread that holds a lock has interrupts off, so it is not switched away from.
//! - Waiting is [`scheduler::park`] in a loop that looks at what is waited for; waking is [`scheduler::unpark`], which is not lost if
//!   it comes first.

pub(crate) mod scheduler;
pub(crate) mod sleep;
mod stacks;
mod switch;
pub(crate) mod tests;
pub(crate) mod work;

use crate::cpu::{local, others};
use crate::memory::{Mutex, UserSpace, stacks::KernelStack};
use crate::process::Process;
use arrayvec::ArrayVec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};
use refkernel::pool::{Pool, Ref};

/// The most threads at a time, those of the processors that wait among them.
pub(crate) const THREADS_MAX: usize = 256;

/// A thread's place and number.
pub(crate) type ThreadRef = Ref<Thread, THREADS_MAX>;

static THREADS: Pool<Thread, THREADS_MAX> = Pool::new();

/// Every thread that is not dead: what keeps it while it runs, or waits for somebody who knows its number only.
/// In no order, without gaps: who looks at all of them pays for as many as there are, not for as many as there may be.
static LIVE: Mutex<ArrayVec<ThreadRef, THREADS_MAX>> = Mutex::new(ArrayVec::new_const());

/// Where a thread is in its life; the drawing above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Ready,
    Running,
    Leaving,
    Parked,
    Dead,
}

/// What the function of a thread is given.
pub(crate) type Arguments = [u64; 4];

/// Why there is no new thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadError {
    /// There are as many as there may be.
    TooMany,
    /// There is no memory for its stack.
    NoStack,
}

impl fmt::Display for ThreadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(formatter, "there are {THREADS_MAX} threads already"),
            Self::NoStack => formatter.write_str("there is no memory for the stack of a thread"),
        }
    }
}

impl core::error::Error for ThreadError {}

/// A thread.
pub(crate) struct Thread {
    /// `None` for a processor's first thread, which keeps the stack that it came on.
    stack: Option<KernelStack>,
    /// The stack pointer, while it does not run.
    saved: AtomicU64,
    /// Where its program's traps enter, and the context behind that, while it does not run.
    entry_context: [AtomicU64; 2],
    /// The space that it is in, while it does not run.
    space: AtomicPtr<UserSpace>,
    state: AtomicU8,
    /// It was woken before it waited.
    token: AtomicBool,
    /// The processors that it may run on, a bit each.
    affinity: u64,
    /// It runs where nothing else does.
    idle: bool,
    /// When it wakes up, by the time-stamp counter; zero if it does not wait for a time.
    wake_at: AtomicU64,
    /// What it does: a function, and what that is given.
    function: fn(Arguments),
    arguments: Arguments,
    /// The number of the process whose program it runs, or zero.
    process: AtomicU64,
    /// That process, while its program runs.
    pub(crate) program: AtomicPtr<Process>,
    /// The number of the process whose end it waits for, or zero.
    pub(crate) waits_for: AtomicU64,
    /// It is to end as soon as it is in its program, or before it waits.
    killed: AtomicBool,
    /// By what others that do not keep it know it.
    number: AtomicU64,
}

impl Thread {
    fn new(function: fn(Arguments), arguments: Arguments, affinity: u64) -> Self {
        Self {
            stack: None,
            saved: AtomicU64::new(0),
            entry_context: [const { AtomicU64::new(0) }; 2],
            space: AtomicPtr::new(core::ptr::null_mut()),
            state: AtomicU8::new(State::Ready as u8),
            token: AtomicBool::new(false),
            affinity,
            idle: false,
            wake_at: AtomicU64::new(0),
            function,
            arguments,
            process: AtomicU64::new(0),
            program: AtomicPtr::new(core::ptr::null_mut()),
            waits_for: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            number: AtomicU64::new(0),
        }
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn is(&self, state: State) -> bool {
        self.state() == state as u8
    }

    /// The number of its process, or zero.
    pub(crate) fn process(&self) -> u64 {
        self.process.load(Ordering::Relaxed)
    }

    /// Its number, which no other thread ever has.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Whether it is to end.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(stack) = self.stack.take() {
            stacks::give(stack);
        }
    }
}

/// Enters a thread among the living.
fn enlist(thread: Thread) -> Result<ThreadRef, ThreadError> {
    let thread = THREADS.insert(thread).map_err(|_| ThreadError::TooMany)?;
    let number = ThreadRef::number(&thread);
    thread.number.store(number, Ordering::Relaxed);
    LIVE.lock().try_push(thread.clone()).map_err(|_| ThreadError::TooMany)?;
    Ok(thread)
}

/// Starts a thread of the kernel's that calls `function`, with interrupts on, on one of the processors whose bits are set; `process` is the number of
/// the process that it belongs to, or zero.
///
/// # Errors
///
/// [`ThreadError`].
pub(crate) fn spawn(
    function: fn(Arguments),
    arguments: Arguments,
    affinity: u64,
    process: u64,
) -> Result<ThreadRef, ThreadError> {
    let stack = stacks::take().map_err(|_| ThreadError::NoStack)?;
    let mut thread = Thread::new(function, arguments, affinity);
    // SAFETY: the stack is the thread's alone, present and writable.
    thread.saved = AtomicU64::new(unsafe { switch::new_stack(stack.top(), scheduler::begin) });
    thread.stack = Some(stack);
    thread.process = AtomicU64::new(process);
    let thread = enlist(thread)?;
    scheduler::make_ready(&thread);
    Ok(thread)
}

/// Starts a thread of the kernel's that never ends, on any processor. As many stacks as before wait for the next threads.
///
/// # Errors
///
/// [`ThreadError`].
pub(crate) fn spawn_for_ever(function: fn(Arguments), arguments: Arguments) -> Result<(), ThreadError> {
    spawn(function, arguments, u64::MAX, 0)?;
    stacks::fill().map_err(|_| ThreadError::NoStack)
}

/// Lets the thread with a number go on, if it waits and is still there. Not with a lock held: the thread may be over as soon as it was woken, and this the last that knew of it.
pub(crate) fn wake(number: u64) {
    if let Some(thread) = THREADS.get(number) {
        scheduler::unpark(&thread);
    }
}

/// Calls `what` with every thread that is not dead.
pub(crate) fn for_each(mut what: impl FnMut(&Thread)) {
    LIVE.lock().iter().for_each(|thread| what(thread));
}

/// Tells every thread of a process, but the one that runs here, to end. They do so when they are next in their program, or wait.
pub(crate) fn kill_all_of(process: u64) {
    for_each(|thread| {
        if thread.process() == process && !scheduler::is_current(thread) {
            thread.killed.store(true, Ordering::Release);
            scheduler::unpark(thread);
        }
    });
    // Who runs on another processor notices by an interrupt.
    scheduler::wake_processors(others::running() & !(1 << local::processor()));
}

/// Wakes every thread that waits for the end of a process.
pub(crate) fn wake_waiters_for(process: u64) {
    for_each(|thread| {
        if thread.waits_for.load(Ordering::SeqCst) == process {
            scheduler::unpark(thread);
        }
    });
}

/// Makes what runs on this processor a thread: the first of its threads, which stays here.
fn adopt(idle: bool) -> Result<(), ThreadError> {
    let mut thread = Thread::new(|_| {}, [0; 4], 1 << local::processor());
    thread.idle = idle;
    let thread = enlist(thread)?;
    thread.set_state(State::Running);
    scheduler::set_current(&thread);
    if idle {
        scheduler::set_idle(&thread);
    }
    Ok(())
}

/// Makes the first processor's work a thread, and gives that processor another one for when there is nothing to do. Once, with the heap at hand.
pub(crate) fn initialise() {
    let prepared = adopt(false).and_then(|()| {
        let stack = stacks::take().map_err(|_| ThreadError::NoStack)?;
        let mut idle = Thread::new(|_| scheduler::idle(), [0; 4], 1 << local::processor());
        // SAFETY: as in `spawn`.
        idle.saved = AtomicU64::new(unsafe { switch::new_stack(stack.top(), scheduler::begin) });
        idle.stack = Some(stack);
        idle.idle = true;
        stacks::fill().map_err(|_| ThreadError::NoStack)?;
        let idle = enlist(idle)?;
        scheduler::set_idle(&idle);
        Ok(())
    });
    if let Err(error) = prepared {
        crate::log!("refkernel: bad boot: threads: {error}");
        crate::devices::exit::exit(refkernel_abi::ExitCode::BadBoot);
    }
    scheduler::start_ticking();
}

/// Takes what stays of a hundred threads at a time: the tables for their stacks.
///
/// # Errors
///
/// [`ThreadError::NoStack`].
pub(crate) fn have_many() -> Result<(), ThreadError> {
    stacks::have::<100>().map_err(|_| ThreadError::NoStack)
}

/// Gives up the stacks that wait for threads to come.
pub(crate) fn give_up_stacks() {
    stacks::give_up();
}

/// What a further processor does from its start on: whatever the queue has for it.
pub(crate) fn run_other() -> ! {
    if let Err(error) = adopt(true) {
        crate::log!("cpu: processor {} has no thread: {error}", local::processor());
        crate::devices::exit::stop();
    }
    scheduler::start_ticking();
    scheduler::idle()
}
