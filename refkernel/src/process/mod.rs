//! Processes: a program in a space of its own, with handles, and one or more threads.
//!
//! | module | what lives there |
//! |---|---|
//! | `load` | from an ELF file to a space that can be entered |
//! | `copy` | from a process to another one that goes on with a copy of its memory |
//! | `run` | threads of programs: start, end, and waiting for the end |
//! | `objects` | what a handle names and allows |
//! | `moving` | handles on their way from one process to another |
//! | `calls` | what a program may ask of memory |
//! | `placement` | where windows go: at addresses that nobody knows beforehand |
//! | `handle_calls` | of handles, channels, and words that it waits for |
//! | `life_calls` | and of processes and threads |
//! | `physical` | which of the machine's memory may be had |
//! | `ending` | how a process ended |
//! | `report` | why the kernel ended it, in words |
//!
//! # Invariants
//!
//! - A thread of a program enters it inside of `run`, on its own stack, and leaves it by returning from there: whatever the
//!   program does, the kernel goes on behind that.
//! - While it runs, the process's space is the thread's, and [`current`] leads to the process; before and afterwards neither is so.
//! - A process is ended by the first thread that exits it, or makes a mistake; its other threads end as soon as they notice.
//! - Everything that a process has lives in its space and its handles. Its handles are dropped when its last thread leaves the program, so that others see the ends of its channels closed; the last reference gives
//!   every frame back.
//! - No thread is switched away from while a flush of its is outstanding: others, on the same processor too, wait for that.

mod calls;
mod copy;
mod ending;
mod handle_calls;
mod life_calls;
mod load;
mod moving;
mod objects;
mod physical;
pub(crate) mod placement;
mod report;
mod run;

pub(crate) use calls::{SYSTEM_CALLS, area_error, unknown_call};
pub(crate) use ending::Ending;
pub(crate) use load::{LoadError, Screen, Start};
pub(crate) use moving::{Entries, Places, Withdrawn, end_of, read_numbers};
use objects::{Entry, Object};
use placement::Placement;
pub(crate) use report::Report;
pub(crate) use run::{end, ending, run, start, threads, wait};

use crate::memory::{self, Mutex, UserSpace};
use crate::pager::images::ImageRef;
use crate::pager::swap::Swept;
use crate::thread::scheduler;
use core::fmt;
use core::ops::DerefMut;
use core::sync::atomic::{AtomicU32, Ordering};
use refkernel::archive::ProgramName;
use refkernel::handles::HandleTable;
use refkernel::pool::{Pool, Ref};
use refkernel_abi::{Access, HANDLES_MAX, KERNEL_ADDRESSES, START_HANDLES_MAX};

/// The most processes at a time.
pub(crate) const PROCESSES_MAX: usize = 64;

/// A process's place and number.
pub(crate) type ProcessRef = Ref<Process, PROCESSES_MAX>;

static PROCESSES: Pool<Process, PROCESSES_MAX> = Pool::new();

/// What a process has by number.
type Handles = HandleTable<Entry, HANDLES_MAX>;

/// The process with a number, if it is still there.
pub(crate) fn by_number(number: u64) -> Option<ProcessRef> {
    PROCESSES.get(number)
}

/// The most windows that a loader labels.
const LABELS_MAX: usize = 2 * refkernel::elf::SEGMENTS_MAX + 1;

/// A program that is loaded.
pub(crate) struct Process {
    name: ProgramName,
    instance: u64,
    space: UserSpace,
    placement: Placement,
    handles: Mutex<Handles>,
    entry: u64,
    stack: u64,
    start_information: u64,
    /// What it was told of the kernel's half.
    kernel: [u64; KERNEL_ADDRESSES],
    labels: [(u64, &'static str); LABELS_MAX],
    /// The numbers of the handles that it was started with.
    given: [u64; START_HANDLES_MAX],
    /// How it ended, as soon as it has.
    ending: Mutex<Option<Ending>>,
    /// What was said of it then, if the kernel ended it for what it did.
    report: Mutex<Option<Report>>,
    /// Threads that are in the program, or on their way into it.
    inside: AtomicU32,
    /// Where the pages of its program come from. Dropped behind the space, which shows them.
    image: ImageRef,
    /// Dropped behind the space and the handles, which may have been the last that had memory that can be swapped.
    _swept: Swept,
}

impl Process {
    /// Its addresses.
    pub(crate) fn space(&self) -> &UserSpace {
        &self.space
    }

    /// Whether it is this instance of a program.
    pub(crate) fn is_instance(&self, name: &str, instance: u64) -> bool {
        self.name.as_str() == name && self.instance == instance
    }

    /// What a person calls the window at `address`, if the loader made it.
    pub(crate) fn label(&self, address: u64) -> Option<&'static str> {
        self.labels.iter().find(|(start, _)| *start == address).map(|(_, label)| *label)
    }

    /// What was said of it when the kernel ended it for what it did.
    pub(crate) fn report(&self) -> Option<Report> {
        *self.report.lock()
    }

    /// Where windows go whose program does not choose.
    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn handles(&self) -> impl DerefMut<Target = Handles> + '_ {
        self.handles.lock()
    }

    /// Drops every handle, each without the table's lock.
    fn drop_handles(&self) {
        loop {
            let entry = self.handles().pop();
            if entry.is_none() {
                return;
            }
            drop(entry);
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.instance)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A processor that waits for work may have the space loaded still.
        memory::leave_everywhere(&self.space);
    }
}

/// Every process, as a reference of its own.
pub(crate) fn all() -> impl Iterator<Item = ProcessRef> {
    PROCESSES.iter()
}

/// How many processes there are.
pub(crate) fn count() -> usize {
    PROCESSES.len()
}

/// What a person calls a process by: its place, counted from one, which another has after it.
pub(crate) fn pid(process: &ProcessRef) -> u64 {
    process.place() as u64 + 1
}

/// The same by its number, if it is still there.
pub(crate) fn pid_of(number: u64) -> Option<u64> {
    PROCESSES.get(number).map(|process| pid(&process))
}

/// Whether the thread that asks runs a program.
pub(crate) fn is_running() -> bool {
    scheduler::current().is_some_and(|thread| !thread.program.load(Ordering::Relaxed).is_null())
}

/// Asks the process that makes a system call. `ask` must not leave the program.
fn current<R>(
    ask: impl FnOnce(&Process) -> Result<R, refkernel_abi::ErrorCode>,
) -> Result<R, refkernel_abi::ErrorCode> {
    let process = scheduler::current().map_or(core::ptr::null_mut(), |thread| thread.program.load(Ordering::Relaxed));
    // SAFETY: set by the thread's `run_program` while its program runs, which keeps the process meanwhile.
    match unsafe { process.as_ref() } {
        Some(process) => ask(process),
        // A system call of a program that nobody started: there is no such.
        None => Err(refkernel_abi::ErrorCode::NotSupported),
    }
}

/// The memory manager's word for a program's access.
pub(crate) fn access(access: Access) -> vmcore::paging::Access {
    let mut result = vmcore::paging::Access::USER;
    for (asked, granted) in [
        (Access::READ, vmcore::paging::Access::READ),
        (Access::WRITE, vmcore::paging::Access::WRITE | vmcore::paging::Access::READ),
        (Access::EXECUTE, vmcore::paging::Access::EXECUTE | vmcore::paging::Access::READ),
    ] {
        if access.contains(asked) {
            result |= granted;
        }
    }
    result
}
