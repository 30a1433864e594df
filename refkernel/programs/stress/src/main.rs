//! Random operations on memory, handles, channels and processes, each compared with a model: for a given time, on all processors.
//!
//! ```text
//!   run ──┬─► worker 0 ── thread 0, thread 1 ──┬─► clones: look at what they have, go on by themselves, die of what must kill them
//!         ├─► worker 1 ── …                    └─► threads that write a page and end
//!         ├─► worker 2        each thread: a world of its own (`refkernel-stress`), places in an area that all share,
//!         └─► worker 3        messages to the next worker, a lock, a bell
//!   kills workers when they least expect it, and starts others
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | `run` | the first process: starts, kills and waits for workers, says how far things are |
//! | `worker` | a worker's life: its threads, what they do next |
//! | `clones` | a worker's clones |
//! | `shared` | the area that all share, and messages |
//! | `lock` | waiting and waking between threads |
//! | `control` | the page by which all of them know of each other |
//! | `calls` | the kernel, as the model asks it |
//!
//! The argument says for how many seconds, and the seed ([`Stress`](refkernel_runtime::roles::Stress)). The program exits with 0 if everything was as it must be. The first thing that is not is
//! said with the seed, the worker, its life, the thread and the number of the operation: the choices of a thread depend on those alone, what happens beside it does not.

#![no_std]
#![no_main]

mod calls;
mod clones;
mod control;
mod lock;
mod run;
mod shared;
mod worker;

use refkernel_runtime::{Access, StartInformation, program};

program!(main);

const READ_WRITE: Access = Access::READ_WRITE;

fn main(start: &StartInformation) -> u32 {
    match worker::Setup::from_start(start) {
        Some(setup) => worker::live(setup),
        None => run::run(start),
    }
}
