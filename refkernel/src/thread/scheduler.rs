//! Who runs where: one queue for all processors, first in, first out, a timer that ends each turn.
//!
//! A thread is put into the queue only when its registers are saved, by the thread that follows it on its processor ([`finish_switch`]): so whoever
//! takes it from the queue can go on with it at once, and no processor ever waits for another one's switch.
//!
//! A processor without work waits with the space of its last program still loaded: the same program goes on without a write of CR3.
//! It is asked to flush for that space meanwhile, and leaves it when it is told to ([`crate::memory::leave_everywhere`]).

use super::{LIVE, State, THREADS_MAX, Thread, sleep, switch};
use crate::cpu::apic::{self, WAKE_VECTOR};
use crate::cpu::local::{self, CPUS_MAX, PerCpu};
use crate::memory::shootdown::bits;
use crate::memory::{self, Mutex};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use x86_64::instructions::interrupts;

/// A turn.
const TICK_MICROSECONDS: u64 = 10_000;

/// The threads that are ready, the next one first.
struct Queue {
    threads: [*const Thread; THREADS_MAX],
    count: usize,
}

// SAFETY: what is in the queue is kept by `LIVE`: a thread that is ready is not dead.
unsafe impl Send for Queue {}

impl Queue {
    fn push(&mut self, thread: &Thread) {
        thread.set_state(State::Ready);
        // There is room: a thread is in the queue once, and there are no more threads.
        if let Some(slot) = self.threads.get_mut(self.count) {
            *slot = thread;
            self.count += 1;
        }
    }

    /// Takes out the first that may run on a processor.
    fn pop(&mut self, cpu: usize) -> Option<&'static Thread> {
        let waiting = self.threads.get(..self.count)?;
        // SAFETY: as above.
        let index = waiting.iter().position(|thread| unsafe { &**thread }.affinity >> cpu & 1 != 0)?;
        let thread = *waiting.get(index)?;
        self.threads.get_mut(index..self.count)?.rotate_left(1);
        self.count -= 1;
        // SAFETY: it was ready, and runs next: it is kept, by `LIVE`, until it is dead.
        Some(unsafe { &*thread })
    }
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { threads: [ptr::null(); THREADS_MAX], count: 0 });

/// The processors that wait for work, a bit each.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// The thread that ran on each processor before the one that does, and the one that runs where nothing else does.
static PREVIOUS: PerCpu<AtomicPtr<Thread>> = PerCpu::new([const { AtomicPtr::new(ptr::null_mut()) }; CPUS_MAX]);
static IDLE_THREADS: PerCpu<AtomicPtr<Thread>> = PerCpu::new([const { AtomicPtr::new(ptr::null_mut()) }; CPUS_MAX]);

/// The thread that runs this; `None` before there are threads.
#[inline]
pub(crate) fn current() -> Option<&'static Thread> {
    // SAFETY: the thread that runs is not dead, so it is kept; who asks is that thread, or interrupts it, and is gone when it is.
    unsafe { local::thread().cast::<Thread>().as_ref() }
}

/// Whether a thread is the one that runs this.
pub(super) fn is_current(thread: &Thread) -> bool {
    current().is_some_and(|current| ptr::eq(current, thread))
}

pub(super) fn set_current(thread: &Thread) {
    local::set_thread(ptr::from_ref(thread).cast_mut().cast());
}

pub(super) fn set_idle(thread: &Thread) {
    IDLE_THREADS.here().store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
}

/// Starts the timer of this processor.
pub(super) fn start_ticking() {
    apic::start_timer(TICK_MICROSECONDS);
}

/// Puts a new thread into the queue.
pub(super) fn make_ready(thread: &Thread) {
    QUEUE.lock().push(thread);
    wake_one(thread.affinity);
}

/// Interrupts processors, so that they look at what there is to do.
pub(super) fn wake_processors(set: u64) {
    bits(set).for_each(|cpu| apic::interrupt(cpu, WAKE_VECTOR));
}

/// Wakes a processor that waits for work and may do it.
fn wake_one(affinity: u64) {
    let waiting = IDLE.load(Ordering::SeqCst) & affinity & !(1 << local::processor());
    wake_processors(waiting & waiting.wrapping_neg());
}

/// Lets a thread that waits go on; one that does not is not made to wait the next time. The caller keeps it: by a reference of its own, or by the lock of the living.
pub(crate) fn unpark(thread: &Thread) {
    let mut queue = QUEUE.lock();
    if thread.is(State::Parked) {
        queue.push(thread);
        drop(queue);
        wake_one(thread.affinity);
    } else {
        thread.token.store(true, Ordering::Relaxed);
    }
}

/// Waits until it is woken. May return without: the caller looks at what it waits for. Not with a lock held.
pub(crate) fn park() {
    let Some(thread) = current() else {
        memory::relax();
        return;
    };
    interrupts::without_interrupts(|| {
        {
            let _queue = QUEUE.lock();
            if thread.token.swap(false, Ordering::Relaxed) {
                return;
            }
            thread.set_state(State::Leaving);
        }
        switch_away();
    });
}

/// Lets the next one run, if there is one. Not with a lock held.
pub(crate) fn yield_now() {
    interrupts::without_interrupts(switch_away);
}

/// The timer's: the running thread's turn is over. In the interrupt's handler, acknowledged.
pub(crate) fn tick() {
    sleep::wake_due();
    if current().is_some_and(|thread| !thread.idle) {
        switch_away();
    }
}

/// Ends the thread that runs this.
fn die() -> ! {
    interrupts::disable();
    if let Some(thread) = current() {
        let _queue = QUEUE.lock();
        thread.set_state(State::Dead);
    }
    switch_away();
    // Nothing goes on with a dead thread.
    crate::devices::exit::stop()
}

/// Gives the processor to the next thread that is ready, else to its idle thread if this one cannot go on. Returns when this thread goes on.
/// With interrupts off.
fn switch_away() {
    assert!(local::locks_held() == 0, "a thread that holds a lock is not switched away from");
    let Some(thread) = current() else { return };
    let next = {
        let mut queue = QUEUE.lock();
        let next = match queue.pop(local::processor()) {
            Some(next) => next,
            None if thread.is(State::Running) => return,
            // SAFETY: this processor's idle thread never ends: it is kept, by `LIVE`.
            None => unsafe { &*IDLE_THREADS.here().load(Ordering::Relaxed) },
        };
        next.set_state(State::Running);
        next
    };
    let [kernel_stack, return_context] = &thread.entry_context;
    let entered = local::entry_context();
    kernel_stack.store(entered.0, Ordering::Relaxed);
    return_context.store(entered.1, Ordering::Relaxed);
    let [kernel_stack, return_context] = &next.entry_context;
    // SAFETY: they were the processor's when that thread ran the last time, and lead into its stack.
    unsafe {
        local::set_entry_context(kernel_stack.load(Ordering::Relaxed), return_context.load(Ordering::Relaxed));
    }
    // SAFETY: the space of a thread is kept by who made it the thread's, inside of `in_space`.
    let space = unsafe { memory::switch_space(next.space.load(Ordering::Relaxed), next.idle) };
    thread.space.store(space, Ordering::Relaxed);
    PREVIOUS.here().store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    set_current(next);
    // SAFETY: interrupts are off. The next thread's registers are saved: it was in the queue, or is the idle thread of this processor, which
    // does not run. Its stack is its own.
    unsafe { switch::switch(&thread.saved, &next.saved) };
    finish_switch();
}

/// Deals with the thread that ran here before, whose registers are saved now.
fn finish_switch() {
    // SAFETY: that thread is kept until this function lets it go: it is not in the queue yet, and not taken from the living.
    let Some(previous) = (unsafe { PREVIOUS.here().swap(ptr::null_mut(), Ordering::Relaxed).as_ref() }) else { return };
    let mut queue = QUEUE.lock();
    let ready = match previous.state() {
        state if state == State::Running as u8 => !previous.idle,
        state if state == State::Leaving as u8 => {
            previous.set_state(State::Parked);
            previous.token.swap(false, Ordering::Relaxed)
        }
        state if state == State::Dead as u8 => {
            drop(queue);
            bury(previous);
            return;
        }
        _ => false,
    };
    if ready {
        // Without the lock it is another processor's, and may be dead and gone there before this one does anything else.
        let affinity = previous.affinity;
        queue.push(previous);
        drop(queue);
        wake_one(affinity);
    }
}

/// Takes a dead thread from the living. Its stack is given back with the last reference, which may be this one.
fn bury(thread: *const Thread) {
    let mut live = LIVE.lock();
    let at = live.iter().position(|live| ptr::eq(&raw const **live, thread));
    let last = at.and_then(|at| live.swap_pop(at));
    drop(live);
    drop(last);
}

/// Where a new thread begins.
pub(super) extern "C" fn begin() -> ! {
    finish_switch();
    if let Some(thread) = current() {
        interrupts::enable();
        (thread.function)(thread.arguments);
    }
    die()
}

/// What a processor's idle thread does.
pub(super) fn idle() -> ! {
    let bit = 1 << local::processor();
    loop {
        interrupts::disable();
        IDLE.fetch_or(bit, Ordering::SeqCst);
        // Whoever puts something into the queue from now on sees that this processor waits.
        let something = has_work();
        if something {
            IDLE.fetch_and(!bit, Ordering::SeqCst);
            switch_away();
        } else {
            // Nothing comes between the two instructions: an interrupt that was sent before ends the halt (Intel SDM Vol. 2B, STI).
            interrupts::enable_and_hlt();
            IDLE.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

fn has_work() -> bool {
    let queue = QUEUE.lock();
    let cpu = local::processor();
    // SAFETY: what is in the queue is kept.
    queue.threads.iter().take(queue.count).any(|thread| unsafe { &**thread }.affinity >> cpu & 1 != 0)
}
