//! The program `stress`, with every frame accounted for afterwards: `stress=SECONDS seed=N` on the command line.
//!
//! What the kernel keeps for good once it was needed (its heap's pages, tables for its stacks) is there after a short first run, which is not counted.

use crate::address_wait;
use crate::leftovers::Leftovers;
use crate::log;
use crate::memory::{self, Kernel, frames};
use crate::process::{self, Start};
use crate::programs::Programs;
use crate::thread::{self, sleep};
use core::fmt;
use refkernel_abi::program_status;
use refkernel_abi::roles::{self, Stress};
use vmcore::Platform;
use vmcore::frame::FrameUse;

/// Seconds of the first run.
const FIRST: u16 = 1;

/// Runs it for so many seconds. True if everything was as it must be, also the number of frames in use.
pub(crate) fn run(programs: &Programs<'_>, seconds: u16, seed: Option<u64>) -> bool {
    let seed = seed.unwrap_or(1) as u32;
    address_wait::linger();
    if let Err(error) = thread::have_many() {
        log!("refkernel: {error}");
        return false;
    }
    let mut ran = once(programs, Stress { seconds: FIRST, seed: !seed });
    let before = Account::now();
    ran &= once(programs, Stress { seconds, seed });
    let after = Account::now();
    log!("frames: {} in use before, {} after", before.frames, after.frames);
    log!("  before: {before}");
    log!("  after:  {after}");
    let none_lost = memory::nothing_is_lost();
    if !none_lost {
        log!("refkernel: a flush was not completed, or a frame freed from another use than it had");
    }
    ran && before.is_as_much_as(&after) && none_lost
}

/// What the frames in use are for.
struct Account {
    frames: u64,
    by_use: [u64; FrameUse::ALL.len()],
    objects: u64,
}

impl Account {
    /// Without the stacks that are kept for threads to come.
    fn now() -> Self {
        thread::give_up_stacks();
        let objects = Kernel.machine().counters().pool_objects;
        Self { frames: memory::frames_in_use(), by_use: frames::counts().by_use, objects }
    }

    /// Whether all is as it was: every frame, but that the same objects of the pools may lie in more of them, or fewer. Where an object lies that the kernel keeps, as the record of a
    /// thread's stack, depends on what lay beside it when it was made.
    fn is_as_much_as(&self, other: &Self) -> bool {
        let [mut own, mut others] = [self, other].map(|account| account.by_use);
        for counts in [&mut own, &mut others] {
            for (used, count) in FrameUse::ALL.into_iter().zip(counts) {
                if matches!(used, FrameUse::Free | FrameUse::Pool) {
                    *count = 0;
                }
            }
        }
        own == others && self.objects == other.objects
    }
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (used, count) in FrameUse::ALL.into_iter().zip(self.by_use).filter(|(used, _)| *used != FrameUse::Free) {
            write!(formatter, "{count} {used:?}, ")?;
        }
        write!(formatter, "{} objects in the pools", self.objects)
    }
}

/// Waits until the last threads have given their stacks back: they do so behind the end of their processes.
fn settle() {
    const LOOKS: u32 = 10;
    let (mut frames, mut same) = (memory::frames_in_use(), 0);
    for _ in 0..500 {
        sleep::sleep_microseconds(10_000);
        let now = memory::frames_in_use();
        same = if now == frames { same + 1 } else { 0 };
        frames = now;
        if same == LOOKS {
            return;
        }
    }
}

/// One run, until nothing is left of it.
fn once(programs: &Programs<'_>, stress: Stress) -> bool {
    let ending = match programs.run("stress", Start { argument: stress.argument(), ..Start::default() }) {
        Ok(ending) => ending,
        Err(error) => {
            log!("refkernel: {error}");
            return false;
        }
    };
    // Clones whose parents were killed are on their way out: nobody waits for those but this.
    for _ in 0..1000 {
        if process::all().next().is_none() {
            break;
        }
        sleep::sleep_microseconds(10_000);
    }
    settle();
    let left = Leftovers::now();
    if left != Leftovers::default() {
        log!("refkernel: stress has left {left}");
    }
    if !ending.is(roles::Ending::Exits(program_status::SUCCESS)) {
        log!("refkernel: stress failed: {ending}");
    }
    ending.is(roles::Ending::Exits(program_status::SUCCESS)) && left == Leftovers::default()
}
