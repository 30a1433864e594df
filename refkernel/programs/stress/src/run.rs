//! The first process: starts workers, kills some of them, waits for all, and says how far things are.

use core::sync::atomic::Ordering;

use refkernel_runtime::{
    ErrorCode, Handle, KILLED, PAGE_SIZE, Rights, StartInformation, call, console, program_status, roles::Stress, say,
};
use refkernel_stress::Rand64;
use refkernel_stress::operation::below;

use crate::calls::stack;
use crate::control::{Control, Count, WORKERS};
use crate::shared;
use crate::worker::{self, Setup};

/// Microseconds from one look at the workers to the next.
const LOOK: u64 = 20_000;
/// Looks after which a thread that has not got on is taken to be stuck: half a minute.
const PATIENCE: u32 = 1500;
/// Looks from one kill to the next, on average.
const KILL_EVERY: usize = 40;
/// Looks from one permission to die to the next.
const DEATH_EVERY: u64 = 12;

/// What went wrong with the run itself.
enum Trouble {
    Refused(&'static str, ErrorCode),
    /// A worker ended in another way than it had to.
    Ended(usize, u64),
    /// A worker gets on no more.
    Stuck(usize),
    /// Somebody has said what is wrong.
    Said,
}

fn refused(what: &'static str) -> impl Fn(ErrorCode) -> Trouble {
    move |error| Trouble::Refused(what, error)
}

/// The time since the machine was started, in units of the processor's.
fn now() -> u64 {
    // SAFETY: it only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

struct Run {
    control: &'static Control,
    control_area: Handle,
    shared: Handle,
    /// Both ends of each worker's channel: where others send to, where it receives.
    channels: [[Handle; 2]; WORKERS],
    workers: [Handle; WORKERS],
    /// How far each worker's threads were, and for how many looks.
    seen: [(u64, u32); WORKERS],
    stack: u64,
    random: Rand64,
    seed: u32,
}

/// The program, from its start to its end.
pub(crate) fn run(start: &StartInformation) -> u32 {
    let Stress { seconds, seed } = Stress::from_argument(start.argument);
    let seconds = if seconds == 0 { 5 } else { u64::from(seconds) };
    say!(
        "stress: {seconds} s, seed {seed}: {WORKERS} processes of {} threads, their clones, and a model",
        crate::control::THREADS
    );
    let outcome = Run::new(seed).and_then(|mut run| {
        let outcome = run.work(seconds);
        match outcome {
            Ok(()) => run.finish(),
            Err(trouble) => {
                run.end_all();
                Err(trouble)
            }
        }
    });
    match outcome {
        Ok(()) => return program_status::SUCCESS,
        Err(Trouble::Refused(what, error)) => say!("stress: seed {seed}: refused to {what}: {error}"),
        Err(Trouble::Ended(worker, KILLED)) => say!("stress: seed {seed}: worker {worker} was killed, and not by us"),
        Err(Trouble::Ended(worker, status)) => say!("stress: seed {seed}: worker {worker} exited with {status}"),
        Err(Trouble::Stuck(worker)) => say!("stress: seed {seed}: worker {worker} gets on no more"),
        Err(Trouble::Said) => {}
    }
    say!("stress: seed {seed}: FAILED");
    program_status::FAILURE
}

/// The worker that a clone of this process becomes.
static PENDING: core::sync::atomic::AtomicPtr<Setup> = core::sync::atomic::AtomicPtr::new(core::ptr::null_mut());

extern "C" fn become_worker(_: u64) -> ! {
    // SAFETY: the parent has put it on its stack, which this process has a copy of.
    match unsafe { PENDING.load(Ordering::Relaxed).as_ref() } {
        Some(setup) => call::exit(worker::live(*setup)),
        None => call::exit(program_status::FAILURE),
    }
}

impl Run {
    fn new(seed: u32) -> Result<Self, Trouble> {
        let control_area = call::area_create(PAGE_SIZE).map_err(refused("make the control page"))?;
        let control = Control::map(control_area).map_err(refused("map the control page"))?;
        let shared = call::area_create(shared::PAGES as u64 * PAGE_SIZE).map_err(refused("make the shared area"))?;
        let mut channels = [[Handle::NONE; 2]; WORKERS];
        for channel in &mut channels {
            *channel = call::channel_create().map_err(refused("make a channel"))?;
        }
        Ok(Self {
            control,
            control_area,
            shared,
            channels,
            workers: [Handle::NONE; WORKERS],
            seen: [(0, 0); WORKERS],
            stack: stack().map_err(refused("make a stack"))?,
            random: Rand64::new(u128::from(seed) << 32 | 0x5eed),
            seed,
        })
    }

    fn life(&self, worker: usize) -> u32 {
        self.control.life.get(worker).map_or(0, |life| life.load(Ordering::Relaxed))
    }

    /// Starts a worker: as a clone of this process, or from the boot module with what it needs.
    fn start(&mut self, worker: usize) -> Result<(), Trouble> {
        let life = self.life(worker);
        if let Some(ended) = self.control.ended.get(worker) {
            ended.store(0, Ordering::SeqCst);
        }
        let ([_, inbox], [next, _]) = (self.channels[worker], self.channels[(worker + 1) % WORKERS]);
        let process = if below(&mut self.random, 2) == 0 {
            let (control, shared, seed) = (self.control, self.shared, self.seed);
            let mut setup = Setup { control, shared, inbox, next, seed, worker, life };
            PENDING.store(&raw mut setup, Ordering::Relaxed);
            // SAFETY: the stack is the clone's, of which it has a copy.
            unsafe { call::process_clone(become_worker, self.stack, 0) }.map_err(refused("clone a worker"))?
        } else {
            self.start_fresh(worker, life, inbox, next).map_err(refused("start a worker"))?
        };
        self.workers[worker] = process;
        self.seen[worker] = (0, 0);
        Ok(())
    }

    fn start_fresh(&self, worker: usize, life: u32, inbox: Handle, next: Handle) -> Result<Handle, ErrorCode> {
        let mut handles = [Handle::NONE; 5];
        let given = [
            (console(), Rights::WRITE | Rights::SHARE),
            (self.control_area, Rights::GIVEN_AREA),
            (self.shared, Rights::GIVEN_AREA),
            (inbox, Rights::READ | Rights::SHARE),
            (next, Rights::WRITE | Rights::SHARE),
        ];
        for (slot, (handle, rights)) in handles.iter_mut().zip(given) {
            *slot = call::handle_duplicate(handle, rights)?;
        }
        call::process_start_with("stress", Setup::argument(self.seed, worker, life), &handles)
    }

    /// Waits for a worker that is about to end; one that was not told to must have ended well.
    fn collect(&mut self, worker: usize, killed: bool) -> Result<(), Trouble> {
        let process = self.workers[worker];
        let ending = call::process_wait(process).map_err(refused("wait for a worker"))?;
        call::handle_close(process).map_err(refused("close a worker's handle"))?;
        self.workers[worker] = Handle::NONE;
        // Its clones do not go on for long.
        if let Some(life) = self.control.life.get(worker) {
            life.fetch_add(1, Ordering::SeqCst);
        }
        self.control.count(if killed { Count::Kills } else { Count::Lives });
        match ending {
            0 => Ok(()),
            KILLED if killed => Ok(()),
            _ if self.control.failed.load(Ordering::Relaxed) != 0 => Err(Trouble::Said),
            ending => Err(Trouble::Ended(worker, ending)),
        }
    }

    /// Looks whether a worker has ended, or gets on no more.
    fn look_after(&mut self, worker: usize) -> Result<bool, Trouble> {
        if self.control.failed.load(Ordering::Relaxed) != 0 {
            return Err(Trouble::Said);
        }
        if self.control.ended[worker].load(Ordering::Acquire) != 0 {
            self.collect(worker, false)?;
            return Ok(false);
        }
        // As long as any of its threads gets on. One that does not is waited for when the others have come to their end.
        let threads = self.control.progress[worker].iter().map(|progress| progress.load(Ordering::Relaxed));
        let (sum, looks) = (threads.sum(), &mut self.seen[worker]);
        *looks = if looks.0 == sum { (sum, looks.1 + 1) } else { (sum, 0) };
        if looks.1 < PATIENCE {
            return Ok(true);
        }
        let process = self.workers[worker];
        call::process_kill(process).map_err(refused("kill a worker that is stuck"))?;
        Err(Trouble::Stuck(worker))
    }

    fn work(&mut self, seconds: u64) -> Result<(), Trouble> {
        // A fifth of a second, give or take a tick, says how fast the counter is.
        let before = now();
        call::thread_sleep(200_000).map_err(refused("sleep"))?;
        let second = (now() - before).saturating_mul(5);
        for worker in 0..WORKERS {
            self.start(worker)?;
        }
        let (start, mut said, mut looks) = (now(), 0, 0_u64);
        let every = (seconds / 6).clamp(2, 10);
        loop {
            call::thread_sleep(LOOK).map_err(refused("sleep"))?;
            looks += 1;
            for worker in 0..WORKERS {
                if !self.look_after(worker)? {
                    self.start(worker)?;
                }
            }
            if looks.is_multiple_of(DEATH_EVERY) {
                self.control.allow_death();
            }
            if below(&mut self.random, KILL_EVERY) == 0 {
                let worker = below(&mut self.random, WORKERS);
                call::process_kill(self.workers[worker]).map_err(refused("kill a worker"))?;
                self.collect(worker, true)?;
                self.start(worker)?;
            }
            let elapsed = (now() - start) / second.max(1);
            if elapsed >= seconds {
                return Ok(());
            }
            if elapsed >= said + every {
                said = elapsed;
                self.say_counts(elapsed);
            }
        }
    }

    fn say_counts(&self, seconds: u64) {
        let count = |count| self.control.counted(count);
        say!(
            "stress: {seconds} s: {} operations, {} clones, {} messages, {} waits; {} lives ended, {} were killed, {} died of a fault as they had to",
            count(Count::Operations),
            count(Count::Clones),
            count(Count::Messages),
            count(Count::Waits),
            count(Count::Lives),
            count(Count::Kills),
            count(Count::Deaths)
        );
    }

    /// Has every worker come to its end.
    fn finish(&mut self) -> Result<(), Trouble> {
        self.control.stop.store(1, Ordering::SeqCst);
        let mut outcome = Ok(());
        for worker in 0..WORKERS {
            while outcome.is_ok() {
                match self.look_after(worker) {
                    Ok(true) => outcome = call::thread_sleep(LOOK).map_err(refused("sleep")),
                    Ok(false) => break,
                    Err(trouble) => outcome = Err(trouble),
                }
            }
        }
        self.control.stop.store(2, Ordering::SeqCst);
        if outcome.is_err() {
            self.end_all();
            return outcome;
        }
        let counts = [Count::Operations, Count::Clones, Count::Messages, Count::Waits, Count::Deaths];
        let [operations, clones, messages, waits, deaths] = counts.map(|count| self.control.counted(count));
        let (kills, lives) = (self.control.counted(Count::Kills), self.control.counted(Count::Lives));
        say!("stress: {operations} operations, {clones} clones, {messages} messages, {waits} waits");
        say!("stress: {lives} lives ended, {kills} were killed, {deaths} died of a fault as they had to");
        say!("stress: everything was as it must be");
        Ok(())
    }

    fn end_all(&mut self) {
        self.control.stop.store(2, Ordering::SeqCst);
        for process in self.workers.into_iter().filter(|process| process.is_some()) {
            let _ = call::process_kill(process);
            let _ = call::process_wait(process);
        }
    }
}
