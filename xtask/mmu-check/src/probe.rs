//! One access: what it tries, what should come of it, and what came of it.
//!
//! Each probe works on a *slot*: 64 bytes of physical memory that say where they are.
//!
//! ```text
//!   slot + 0    its physical address              read by the probe: which memory answered?
//!        + 8    room for a mark                   written by the probe: did it arrive here?
//!        + 16   code: its number into a register, then a trap     executed by the probe
//! ```

use std::fmt;

use vmcore::paging::Access;

/// Bytes of a slot.
pub(crate) const SLOT: u64 = 64;
/// Where in a slot the mark is.
pub(crate) const MARK: u64 = 8;
/// Where in a slot the code is.
pub(crate) const CODE: u64 = 16;

/// An access to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    /// The slot's address.
    pub(crate) slot: u64,
    /// One of reading, writing and executing, and whether by a program.
    pub(crate) access: Access,
}

impl Probe {
    /// The first byte that is accessed.
    pub(crate) fn address(self) -> u64 {
        self.slot
            + match self.access.difference(Access::USER) {
                Access::WRITE => MARK,
                Access::EXECUTE => CODE,
                _ => 0,
            }
    }

    pub(crate) fn is_user(self) -> bool {
        self.access.contains(Access::USER)
    }
}

/// Why an access failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing is mapped; the level of the entry that said so, where the architecture tells.
    Absent(Option<usize>),
    /// Something is mapped, but not for this; the level, likewise.
    Denied(Option<usize>),
    /// The leaf is not marked as accessed, and it is for software to do so.
    NotMarked(Option<usize>),
    /// There is no such address.
    NonCanonical,
    /// A page fault, of which the architecture does not tell the reason.
    Page,
}

/// What came of an access, or should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It reached this physical address (that of the slot).
    Reached(u64),
    /// It failed.
    Failed(Fault),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached(physical) => write!(f, "reaches {physical:#x}"),
            Self::Failed(fault) => write!(f, "fails: {fault:?}"),
        }
    }
}

/// What the guest wrote down about a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    /// The register that a read, or the code of a slot, puts its result in.
    pub(crate) value: u64,
    /// The cause: a vector, a syndrome register.
    pub(crate) cause: u64,
    /// More about the cause.
    pub(crate) detail: u64,
    /// The faulting address, where there is one.
    pub(crate) address: u64,
    /// Where it happened.
    #[allow(dead_code, reason = "shown with a difference")]
    pub(crate) place: u64,
}

/// What an architecture's report means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    /// The trap that ends a successful probe.
    Done,
    /// A fault. What the report says about the access and the address, where it does, must agree with the probe.
    Fault { fault: Fault, access: Option<Access>, user: Option<bool>, address: Option<u64> },
    /// The translation succeeded, and there is no memory.
    Nowhere,
    /// Something that no probe should cause.
    Unexpected,
}
