//! A worker's life: its threads, and what they do next.

use core::sync::atomic::{AtomicU32, Ordering};

use refkernel_runtime::{ErrorCode, Handle, PAGE_SIZE, StartInformation, call, program_status, say, word};
use refkernel_stress::operation::{self, below};
use refkernel_stress::{Rand64, World};

use crate::calls::{Calls, again, stack};
use crate::control::{Control, Count, THREADS};
use crate::shared::Shared;
use crate::{clones, lock};

/// Says that a process of this program is a worker that was started by another one.
const STARTED: u64 = 1 << 63;

/// What a worker is given.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) control: &'static Control,
    /// The area that all share.
    pub(crate) shared: Handle,
    /// Where its messages come, and where it sends some.
    pub(crate) inbox: Handle,
    pub(crate) next: Handle,
    pub(crate) seed: u32,
    pub(crate) worker: usize,
    pub(crate) life: u32,
}

impl Setup {
    /// What a started worker's argument is.
    pub(crate) const fn argument(seed: u32, worker: usize, life: u32) -> u64 {
        STARTED | (worker as u64) << 56 | ((life & 0xff_ffff) as u64) << 32 | seed as u64
    }

    /// What a worker was started with; `None` for the first process.
    pub(crate) fn from_start(start: &StartInformation) -> Option<Self> {
        if start.argument & STARTED == 0 {
            return None;
        }
        let [_, control, shared, inbox, next, ..] = start.handles;
        let (seed, life) = (start.argument as u32, (start.argument >> 32) as u32 & 0xff_ffff);
        let worker = (start.argument >> 56) as usize & 0x7f;
        match Control::map(control) {
            Ok(control) => Some(Self { control, shared, inbox, next, seed, worker, life }),
            Err(error) => {
                say!("stress: a worker has no control page: {error}");
                call::exit(program_status::FAILURE)
            }
        }
    }
}

/// One thread of a worker.
pub(crate) struct Thread {
    pub(crate) setup: Setup,
    pub(crate) thread: usize,
    /// 0 for a worker, more for its clones.
    pub(crate) depth: u32,
    pub(crate) random: Rand64,
    pub(crate) world: World,
    pub(crate) calls: Calls,
    pub(crate) shared: Shared,
    /// The end of a stack for clones, which each of them has for itself, and one for a thread.
    pub(crate) clone_stack: u64,
    pub(crate) helper_stack: u64,
    /// Operations so far.
    pub(crate) done: u64,
}

/// Why a thread does not go on.
pub(crate) enum Trouble {
    /// A call was refused that must not be.
    Refused(&'static str, ErrorCode),
    /// The model says something else.
    Wrong(refkernel_stress::Failure),
    /// Something else is not as it must be.
    NotSo(&'static str, u64),
}

impl From<refkernel_stress::Failure> for Trouble {
    fn from(failure: refkernel_stress::Failure) -> Self {
        Self::Wrong(failure)
    }
}

/// A refusal of what must not be refused.
pub(crate) fn refused(what: &'static str) -> impl Fn(ErrorCode) -> Trouble {
    move |error| Trouble::Refused(what, error)
}

/// Where a thread's world begins: near the borders of the tables of every level.
fn base(thread: usize, random: &mut Rand64) -> u64 {
    const BORDERS: [u64; 4] = [0, 1 << 21, 1 << 30, 1 << 39];
    let border = operation::one_of(random, &BORDERS).unwrap_or_default();
    0x2000_0000_0000 + ((thread as u64) << 42) + border - (below(random, 64) as u64) * PAGE_SIZE
}

impl Thread {
    fn new(setup: Setup, thread: usize) -> Result<Self, Trouble> {
        let place = (setup.worker as u128) << 64 | (thread as u128) << 72 | u128::from(setup.life) << 80;
        let mut random = Rand64::new(u128::from(setup.seed) | place);
        let base = base(thread, &mut random);
        Ok(Self {
            setup,
            thread,
            depth: 0,
            world: World::new(base),
            calls: Calls::new().map_err(refused("make a channel"))?,
            shared: Shared::new(setup.worker * THREADS + thread),
            clone_stack: stack().map_err(refused("make a stack"))?,
            helper_stack: stack().map_err(refused("make a stack"))?,
            random,
            done: 0,
        })
    }

    /// Says what went wrong, and ends the process.
    pub(crate) fn fail(&self, trouble: &Trouble) -> ! {
        let Setup { seed, worker, life, control, .. } = self.setup;
        control.failed.fetch_add(1, Ordering::Relaxed);
        let (thread, depth, done) = (self.thread, self.depth, self.done);
        let place = format_args!(
            "stress: seed {seed}, worker {worker}, life {life}, thread {thread}, clone {depth}, operation {done}"
        );
        match trouble {
            Trouble::Refused(what, error) => say!("{place}: refused to {what}: {error}"),
            Trouble::Wrong(failure) => say!("{place}: {failure}"),
            Trouble::NotSo(what, found) => say!("{place}: not so: {what} ({found:#x})"),
        }
        call::exit(program_status::FAILURE)
    }

    /// Whether to go on: the run is not over, and the worker, if this is a clone of one, lives.
    pub(crate) fn goes_on(&self) -> bool {
        let Setup { control, worker, life, .. } = self.setup;
        let lives = control.life.get(worker).is_some_and(|current| current.load(Ordering::Relaxed) == life);
        !control.is_stopping() && lives
    }

    /// So many operations, or fewer if the run comes to its end.
    pub(crate) fn operations(&mut self, count: u64) -> Result<(), Trouble> {
        for _ in 0..count {
            if !self.goes_on() {
                break;
            }
            self.next()?;
        }
        Ok(())
    }

    /// The next thing.
    fn next(&mut self) -> Result<(), Trouble> {
        self.done += 1;
        let Setup { control, worker, .. } = self.setup;
        if self.depth == 0
            && let Some(progress) = control.progress.get(worker).and_then(|threads| threads.get(self.thread))
        {
            progress.fetch_add(1, Ordering::Relaxed);
        }
        let kind = below(&mut self.random, 1000);
        // A clone shares neither its parent's place in the shared area nor the lock.
        match kind {
            0..60 if self.depth == 0 => self.use_shared(),
            60..90 if self.depth == 0 => self.send_message(),
            90..130 if self.depth == 0 => self.receive_message(),
            130..150 if self.depth == 0 => {
                let turns = below(&mut self.random, 20) as u64;
                lock::turns(turns, kind.is_multiple_of(2));
                Ok(())
            }
            150..160 => self.ring_the_bell(),
            160..168 => self.start_helper(),
            168..174 => self.check_all(),
            174..184 if self.depth < 2 => clones::step(self),
            184..190 => {
                let pause = below(&mut self.random, 500) as u64;
                let _ = if pause < 250 { call::thread_yield() } else { call::thread_sleep(pause) };
                Ok(())
            }
            190..193 => self.begin_again(),
            _ => {
                control.count(Count::Operations);
                let operation = operation::choose(&self.world, &mut self.random);
                self.world.step(&mut self.calls, operation).map_err(Trouble::Wrong)
            }
        }
    }

    pub(crate) fn check_all(&mut self) -> Result<(), Trouble> {
        self.world.check_all(&mut self.calls).map_err(Trouble::Wrong)
    }

    /// Ends every window of the world and closes every handle.
    pub(crate) fn begin_again(&mut self) -> Result<(), Trouble> {
        self.drop_named()?;
        let pages = self.world.shown.len();
        let all = operation::Operation::Unmap { at: 0, pages };
        self.world.step(&mut self.calls, all).map_err(Trouble::Wrong)
    }

    /// Ends every window onto areas that have, or had, handles, and closes those: what is left is this process's alone.
    pub(crate) fn drop_named(&mut self) -> Result<(), Trouble> {
        for at in 0..self.world.shown.len() {
            let shown = self.world.shown.get(at).copied().flatten();
            let area = shown.and_then(|shown| self.world.areas.get(shown.area)?.as_ref());
            if area.is_some_and(|area| area.kind != refkernel_stress::world::Kind::Private) {
                self.world.step(&mut self.calls, operation::Operation::Unmap { at, pages: 1 })?;
            }
        }
        for area in 0..self.world.areas.len() {
            for handle in 0..refkernel_stress::world::HANDLES {
                self.world.step(&mut self.calls, operation::Operation::Close { area, handle })?;
            }
        }
        Ok(())
    }

    /// Waits for the word that everybody knows, or changes it and wakes some.
    fn ring_the_bell(&mut self) -> Result<(), Trouble> {
        let bell = &self.setup.control.bell;
        if below(&mut self.random, 2) == 0 {
            bell.fetch_add(1, Ordering::Release);
            let count = below(&mut self.random, 4) as u64;
            let woken = again(|| call::address_wake(bell, count)).map_err(refused("ring the bell"))?;
            return if woken <= count { Ok(()) } else { Err(Trouble::NotSo("no more are woken than was said", woken)) };
        }
        let time = below(&mut self.random, 3000) as u64;
        let seen = bell.load(Ordering::Acquire);
        match again(|| call::address_wait(bell, seen, time)) {
            Ok(()) | Err(ErrorCode::TimedOut | ErrorCode::Changed) => {
                self.setup.control.count(Count::Waits);
                Ok(())
            }
            Err(error) => Err(Trouble::Refused("wait for the bell", error)),
        }
    }

    /// Another thread writes a page of this one's world, says so, and ends.
    fn start_helper(&mut self) -> Result<(), Trouble> {
        let pages = self.world.shown.len();
        let at = below(&mut self.random, pages);
        let value = self.random.rand_u64() | 1;
        if self.world.accessible(at, refkernel_runtime::Access::WRITE).is_none() {
            return Ok(());
        }
        let task = Task { address: self.world.address(at), value, done: AtomicU32::new(0) };
        let argument = &raw const task as u64;
        // SAFETY: the stack is the helper's alone: it is done with it before it says that it is done. So it is with the task.
        let started = unsafe { call::thread_start(help, self.helper_stack, argument) };
        started.map_err(refused("start a thread"))?;
        word::wait_while(&task.done, 0);
        if let Some(content) = self.world.content_mut(at) {
            *content = refkernel_stress::Content::certain(value);
        }
        self.world.step(&mut self.calls, operation::Operation::Read { at, pages: 1 })?;
        Ok(())
    }
}

/// What a helper does.
struct Task {
    address: u64,
    value: u64,
    done: AtomicU32,
}

extern "C" fn help(task: u64) -> ! {
    // SAFETY: who started this thread keeps the task until it is done.
    let task = unsafe { &*(task as *const Task) };
    for index in refkernel_stress::content::MARKED {
        let word = refkernel_stress::content::word(task.value, index);
        // SAFETY: the page is the starter's, which waits meanwhile, and may be written.
        unsafe { ((task.address + 8 * index as u64) as *mut u64).write_volatile(word) };
    }
    word::set_and_exit(&task.done, 1)
}

/// The setup of this process, for its other threads.
static SETUP: spin_free::Slot<Setup> = spin_free::Slot::new();
/// How many threads have come to their end.
static ENDED: AtomicU32 = AtomicU32::new(0);

/// A slot that is filled once, before others read it.
mod spin_free {
    use core::cell::UnsafeCell;

    pub(super) struct Slot<T>(UnsafeCell<Option<T>>);

    // SAFETY: it is filled before the threads that read it are started.
    unsafe impl<T: Sync> Sync for Slot<T> {}

    impl<T: Copy> Slot<T> {
        pub(super) const fn new() -> Self {
            Self(UnsafeCell::new(None))
        }

        /// # Safety
        ///
        /// No other thread reads it yet.
        pub(super) unsafe fn fill(&self, value: T) {
            // SAFETY: the caller's promise.
            unsafe { *self.0.get() = Some(value) };
        }

        pub(super) fn get(&self) -> Option<T> {
            // SAFETY: it is not filled any more while threads read it.
            unsafe { *self.0.get() }
        }
    }
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// When every thread has come to its end.
    InOrder,
    /// When the first one has.
    InTheMiddle,
    /// By the end of its last thread.
    WithoutAWord,
}

/// The end that a worker's life comes to if nobody kills it, and how many operations that takes.
fn plan(setup: Setup) -> (End, u64) {
    let mut random = Rand64::new(u128::from(setup.life) << 64 | (setup.worker as u128) << 96 | u128::from(setup.seed));
    let ends = [End::InOrder, End::InOrder, End::InTheMiddle, End::WithoutAWord];
    let end = operation::one_of(&mut random, &ends).unwrap_or(End::InOrder);
    (end, 100 + below(&mut random, 4000) as u64)
}

extern "C" fn thread(number: u64) -> ! {
    let Some(setup) = SETUP.get() else { call::exit(program_status::FAILURE) };
    work(setup, number as usize);
    let (end, _) = plan(setup);
    ENDED.fetch_add(1, Ordering::Release);
    let _ = call::address_wake(&ENDED, 1);
    if end == End::WithoutAWord {
        word::wait_while(&ENDED, 1);
        say_ended(setup);
    }
    call::thread_exit()
}

fn say_ended(setup: Setup) {
    if let Some(ended) = setup.control.ended.get(setup.worker) {
        ended.store(1, Ordering::Release);
    }
}

/// What a thread does, from its start on.
fn work(setup: Setup, number: usize) {
    match Thread::new(setup, number) {
        Ok(mut thread) => {
            let (_, count) = plan(setup);
            let worked = thread.operations(count).and_then(|()| thread.check_all());
            if let Err(trouble) = worked {
                thread.fail(&trouble);
            }
        }
        Err(_) => {
            say!("stress: worker {} cannot begin", setup.worker);
            call::exit(program_status::FAILURE)
        }
    }
}

/// A worker, from its start to its end, which another process waits for.
pub(crate) fn live(setup: Setup) -> u32 {
    // SAFETY: there is no other thread yet.
    unsafe { SETUP.fill(setup) };
    ENDED.store(0, Ordering::Relaxed);
    let (end, _) = plan(setup);
    for number in 1..THREADS as u64 {
        // SAFETY: the stack is the thread's alone.
        let started = stack().and_then(|top| unsafe { call::thread_start(thread, top, number) });
        if let Err(error) = started {
            say!("stress: worker {} has no second thread: {error}", setup.worker);
            return program_status::FAILURE;
        }
    }
    work(setup, 0);
    ENDED.fetch_add(1, Ordering::Release);
    let _ = call::address_wake(&ENDED, 1);
    if end == End::WithoutAWord {
        call::thread_exit();
    }
    if end == End::InOrder {
        word::wait_while(&ENDED, 1);
        if !lock::is_right() {
            say!("stress: seed {}: worker {}: a turn was lost", setup.seed, setup.worker);
            say_ended(setup);
            return program_status::FAILURE;
        }
    }
    say_ended(setup);
    program_status::SUCCESS
}
