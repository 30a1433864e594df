//! What is said of a program that the kernel ends: the address, the window and the reason, in words for the program's author.
//!
//! ```text
//!   process check (6): killed: page fault: write at 0x7d3a1c000, by the instruction at 0x403a1c
//!     reason: the window allows r--, not -w-
//!     window: the program's own, 0x7d3a1c000-0x7d3a1cfff, r--
//! ```
//!
//! It is taken down when the program ends, while its windows are there, and shown by the log, the inspector and the tests alike.

use super::Process;
use crate::cpu::user::Killed;
use core::fmt::{self, Display as _};
use refkernel_abi::{USER_END, USER_START};
use vmcore::addr::VirtAddr;
use vmcore::paging::Access;
use vmcore::vm_area::AreaError;
use vmcore::vm_space::{SpaceError, WindowFlags, WindowInfo};

/// Why a program was ended, and what was at the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    killed: Killed,
    place: Place,
}

/// What the space shows at an address.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// This window, and whether its first or last page is there.
    Window(Window, Edge),
    /// Nothing: the next windows below and above.
    Gap(Option<Window>, Option<Window>),
    /// It is no address of programs.
    Elsewhere,
}

/// Which end of its window a page is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    First,
    Last,
    Neither,
}

/// A window, as it is named.
#[derive(Clone, Copy, Debug)]
struct Window {
    label: Option<&'static str>,
    first: u64,
    last: u64,
    access: Access,
    sealed: bool,
}

impl Window {
    fn new(process: &Process, info: &WindowInfo) -> Self {
        let first = info.range.start().as_u64();
        Self {
            label: process.label(first),
            first,
            last: info.range.last().as_u64(),
            access: info.access,
            sealed: info.flags.contains(WindowFlags::SEALED),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.label.unwrap_or("the program's own");
        write!(formatter, "{label}, {:#x}-{:#x}, {}", self.first, self.last, Letters(self.access))?;
        formatter.write_str(if self.sealed { ", sealed" } else { "" })
    }
}

/// What a program may do, without the letter that all of its windows have.
struct Letters(Access);

impl fmt::Display for Letters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, letter) in [(Access::READ, "r"), (Access::WRITE, "w"), (Access::EXECUTE, "x")] {
            formatter.write_str(if self.0.contains(flag) { letter } else { "-" })?;
        }
        Ok(())
    }
}

impl Report {
    /// What is to be said of a program that ends for this.
    pub(super) fn new(process: &Process, killed: Killed) -> Self {
        let address = match killed {
            Killed::PageFault { fault, .. } => Some(fault.address),
            Killed::Trap { rip, cause, .. } => Some(cause.address().unwrap_or(rip)),
            Killed::ReturnAddress(address) => Some(address),
            Killed::BadStart { .. } | Killed::ByOrder => None,
        };
        let place = address.filter(|address| *address < USER_END).map_or(Place::Elsewhere, |address| {
            let at = VirtAddr::new(address);
            let found = process.space.window_after(at);
            match found.filter(|window| window.range.contains(at)) {
                Some(info) => {
                    let page = |address: u64| address >> 12;
                    let edge = match page(address) {
                        page_of if page_of == page(info.range.start().as_u64()) => Edge::First,
                        page_of if page_of == page(info.range.last().as_u64()) => Edge::Last,
                        _ => Edge::Neither,
                    };
                    Place::Window(Window::new(process, &info), edge)
                }
                None => {
                    let below = process.space.windows().take_while(|window| window.range.start() < at).last();
                    let name = |info: &WindowInfo| Window::new(process, info);
                    Place::Gap(below.as_ref().map(name), found.as_ref().map(name))
                }
            }
        });
        Self { killed, place }
    }

    /// Whether it is about an access that was refused, and not about an instruction.
    const fn of_access(&self) -> bool {
        match self.killed {
            Killed::PageFault { .. } => true,
            Killed::Trap { cause, .. } => cause.address().is_some(),
            _ => false,
        }
    }

    /// The reason for which the memory manager has refused an access.
    fn refused(&self, formatter: &mut fmt::Formatter<'_>, address: u64, reason: Option<SpaceError>) -> fmt::Result {
        match reason {
            None if address >= 1 << 47 => formatter.write_str("the address is the kernel's"),
            None => formatter.write_str("the page tables are damaged"),
            Some(SpaceError::NoWindow(_)) if address < USER_START => {
                write!(formatter, "nothing is mapped there, nor ever is below {USER_START:#x}: a null pointer")
            }
            Some(SpaceError::NoWindow(_)) if address >= USER_END => {
                write!(formatter, "no program has that address: theirs end at {:#x}", USER_END - 1)
            }
            Some(SpaceError::NoWindow(_)) => formatter.write_str("nothing is mapped there"),
            Some(SpaceError::Guard(_)) => match self.place {
                Place::Window(Window { label: Some("stack"), .. }, Edge::First) => {
                    formatter.write_str("it is the guard page below the stack: the stack is used up")
                }
                Place::Window(Window { label: Some("stack"), .. }, Edge::Last) => {
                    formatter.write_str("it is the guard page above the stack")
                }
                _ => formatter.write_str("it is a guard page"),
            },
            Some(SpaceError::OutsideArea(_)) => {
                formatter.write_str("the area that the window shows ends before that page")
            }
            Some(SpaceError::Denied { wanted, allowed, .. }) => {
                write!(formatter, "the window allows {}, not {}", Letters(allowed), Letters(wanted))
            }
            Some(SpaceError::OutOfFrames(_) | SpaceError::Area(AreaError::OutOfFrames(_))) => {
                formatter.write_str("there is no memory for the page, and none that could be taken away elsewhere")
            }
            Some(SpaceError::Failed(_)) => formatter.write_str("its pager could not bring the page"),
            Some(other) => other.fmt(formatter),
        }
    }
}

/// Three lines without an end: what happened, why, and the window.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n  reason: ", self.killed)?;
        self.words(formatter)
    }
}

impl Report {
    /// The reason, and in a second line the window.
    fn words(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.killed {
            Killed::PageFault { fault, .. } if !fault.user() => {
                formatter.write_str(
                    "the processor accesses it as the kernel would, which may not: the instruction is not for programs",
                )?;
            }
            Killed::PageFault { fault, reason, .. } => self.refused(formatter, fault.address, reason)?,
            Killed::Trap { cause, .. } => cause.fmt(formatter)?,
            Killed::ReturnAddress(_) => formatter.write_str("no program has an instruction there to go on with")?,
            Killed::BadStart { .. } => formatter.write_str("no program can be entered so")?,
            Killed::ByOrder => formatter.write_str("another thread or process has ended it")?,
        }
        formatter.write_str("\n  window: ")?;
        match self.place {
            Place::Window(window, _) if self.of_access() => window.fmt(formatter),
            Place::Window(window, _) => write!(formatter, "the instruction's: {window}"),
            Place::Gap(below, above) => {
                formatter.write_str("none; below it ")?;
                named(formatter, below)?;
                formatter.write_str("; above it ")?;
                named(formatter, above)
            }
            Place::Elsewhere => formatter.write_str("none, no program has one there"),
        }
    }
}

/// A window, or that there is none.
fn named(formatter: &mut fmt::Formatter<'_>, window: Option<Window>) -> fmt::Result {
    match window {
        Some(window) => window.fmt(formatter),
        None => formatter.write_str("nothing"),
    }
}
