//! Processes: a program in a space of its own, with handles onto areas.
//!
//! | module | what lives there |
//! |---|---|
//! | `load` | from an ELF file to a space that can be entered |
//! | `calls` | what a program may ask |
//! | `ending` | how a process ended, in words |
//!
//! # Invariants
//!
//! - A process runs inside of [`Process::run`], on the caller's stack, and leaves it by returning from there: whatever the
//!   program does, the kernel goes on behind the call.
//! - While it runs, its space is the active one and [`current`] leads to it; before and afterwards neither is so.
//! - Everything that a process has lives in its space and its handles. Dropping it gives every frame back.

mod calls;
mod ending;
mod load;

pub(crate) use calls::{SYSTEM_CALLS, unknown_call};
pub(crate) use ending::Ending;
pub(crate) use load::{LoadError, Screen, Start};

use crate::cpu::user;
use crate::memory::{self, Mutex, UserSpace};
use core::cell::Cell;
use core::fmt;
use core::ops::DerefMut;
use core::ptr::NonNull;
use refkernel::archive::ProgramName;
use refkernel::handles::HandleTable;
use refkernel_abi::{Access, HANDLES_MAX, KERNEL_ADDRESSES};
use vmcore::addr::PageRange;
use vmcore::vm_area::Area;

/// What a process has by number.
type Handles = HandleTable<Area<memory::Kernel>, HANDLES_MAX>;

/// The most windows that a loader labels.
const LABELS_MAX: usize = refkernel::elf::SEGMENTS_MAX + 1;

/// A program that is loaded.
pub(crate) struct Process {
    name: ProgramName,
    instance: u64,
    space: UserSpace,
    placement: PageRange,
    handles: Mutex<Handles>,
    entry: u64,
    stack: u64,
    start_information: u64,
    /// What it was told of the kernel's half.
    kernel: [u64; KERNEL_ADDRESSES],
    labels: [(u64, &'static str); LABELS_MAX],
}

impl Process {
    /// Runs it until it ends. It can be run once; a second time it starts again with what its memory holds by then.
    pub(crate) fn run(&self) -> Ending {
        let previous = CURRENT.0.replace(Some(NonNull::from(self)));
        let enter = || user::enter_user(self.entry, self.stack, self.start_information);
        let exit = memory::in_space(&self.space, enter);
        CURRENT.0.set(previous);
        Ending::new(self, exit)
    }

    /// Its addresses.
    pub(crate) fn space(&self) -> &UserSpace {
        &self.space
    }

    /// What a person calls the window at `address`, if the loader made it.
    pub(crate) fn label(&self, address: u64) -> Option<&'static str> {
        self.labels.iter().find(|(start, _)| *start == address).map(|(_, label)| *label)
    }

    /// Where windows go whose program does not choose.
    fn placement(&self) -> PageRange {
        self.placement
    }

    fn handles(&self) -> impl DerefMut<Target = Handles> + '_ {
        self.handles.lock()
    }
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.instance)
    }
}

/// The process whose program is running.
struct Current(Cell<Option<NonNull<Process>>>);

// SAFETY: used by the one processor that runs programs, with interrupts off.
unsafe impl Sync for Current {}

static CURRENT: Current = Current(Cell::new(None));

/// Whether a program is running.
pub(crate) fn is_running() -> bool {
    CURRENT.0.get().is_some()
}

/// Asks the process that makes a system call. `ask` must not leave the program.
fn current<R>(
    ask: impl FnOnce(&Process) -> Result<R, refkernel_abi::ErrorCode>,
) -> Result<R, refkernel_abi::ErrorCode> {
    match CURRENT.0.get() {
        // SAFETY: set by `run`, which has not returned while its program makes calls, and which borrows the process.
        Some(process) => ask(unsafe { process.as_ref() }),
        // A system call of a program that `run` did not start: there is no such.
        None => Err(refkernel_abi::ErrorCode::NotSupported),
    }
}

/// The memory manager's word for a program's access.
fn access(access: Access) -> vmcore::paging::Access {
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
