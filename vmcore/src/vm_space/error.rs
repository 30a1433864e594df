//! Why something asked of a space was refused.

use core::fmt;

use crate::addr::{PageRange, RangeError, VirtAddr};
use crate::frame::OutOfFrames;
use crate::paging::{Access, EncodeError, TableError};
use crate::vm_area::{AreaError, PageWait, Rights};
use crate::vm_space::Inherit;
use crate::vm_space::SpaceLimit;

/// Why something asked of a space was refused. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpaceError {
    /// The address and size make no range of this space.
    Range(RangeError),
    /// Something is at these addresses already.
    Conflict(PageRange),
    /// No gap of that size (in bytes) is left.
    NoGap(u64),
    /// The space shows nothing at this address.
    NoWindow(VirtAddr),
    /// The page at this address is a guard, or belongs to a section that is not out; or a growing area cannot come so far down.
    Guard(VirtAddr),
    /// The page at this address lies past the end of its area.
    OutsideArea(VirtAddr),
    /// The window does not allow the access.
    Denied {
        /// Where.
        address: VirtAddr,
        /// What was asked for.
        wanted: Access,
        /// What the window allows.
        allowed: Access,
    },
    /// The area's handle lacks these rights.
    Rights(Rights),
    /// An untracked area has its one window already (or the flush of it is outstanding).
    SingleWindow,
    /// A change of these addresses, or of the area that they show, is still being flushed on other CPUs: acknowledge it (or return from the fault), try again.
    Retry(VirtAddr),
    /// The space is in use on some CPU, or other spaces share its tables.
    Active,
    /// The area belongs to another machine than the space.
    OtherMachine,
    /// The platform's pages and the format's differ in size: both as powers of two.
    PageSize {
        /// [`Frames::PAGE_SHIFT`](crate::frame::Frames::PAGE_SHIFT).
        platform: u32,
        /// The format's.
        format: u32,
    },
    /// The page tables cannot represent it.
    Encode(EncodeError),
    /// The page tables at this address are not this library's.
    Foreign(VirtAddr),
    /// The area refused.
    Area(AreaError),
    /// There were not enough frames.
    OutOfFrames(OutOfFrames),
    /// The kernel's space is not cloned: every other has it already.
    Kernel,
    /// What a window shows of an area of this kind cannot be passed on in this way.
    Inherit(Inherit),
    /// The window at this address is sealed: it is neither unmapped, protected, moved nor discarded.
    Sealed(VirtAddr),
    /// The window at this address would be writable and executable, which the space forbids.
    WriteExecute(VirtAddr),
    /// The pages at this address are locked in memory.
    Locked(VirtAddr),
    /// It would exceed a limit of the space.
    Limit(SpaceLimit),
    /// One window is asked for, and from this address on there is another.
    SeveralWindows(VirtAddr),
    /// Populating or copying came to a page of a paged area that is not there. What lies before the address is populated or copied: hand the request out if
    /// it is one, wait for its answer, and go on from the address.
    Awaits {
        /// The page that is waited for.
        address: VirtAddr,
        /// What for.
        wait: PageWait,
    },
    /// The pager could not bring the page at this address.
    Failed(VirtAddr),
}

impl From<RangeError> for SpaceError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<OutOfFrames> for SpaceError {
    fn from(error: OutOfFrames) -> Self {
        Self::OutOfFrames(error)
    }
}

impl From<AreaError> for SpaceError {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl From<TableError> for SpaceError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Conflict(address) | TableError::Foreign(address) => Self::Foreign(address),
            TableError::NeedsTables(wanted) => Self::OutOfFrames(OutOfFrames { wanted }),
            TableError::Encode(error) => Self::Encode(error),
            TableError::Address(error) => Self::Range(error),
            TableError::Overlap(range) => Self::Conflict(range),
            TableError::NoGap(size) => Self::NoGap(size),
            // Spaces never map from iterators; and tables that cannot be changed as the format demands are as good as foreign.
            TableError::NeedsInvalidation(address) | TableError::TooFewFrames(address) => Self::Foreign(address),
        }
    }
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::Conflict(range) => {
                write!(f, "something is mapped at {range} already: unmap it or use another address")
            }
            Self::NoGap(size) => write!(f, "no gap of {size:#x} bytes is left: unmap something or ask for less"),
            Self::NoWindow(address) => write!(f, "nothing is mapped at {address}: map an area there first"),
            Self::Guard(address) => write!(f, "{address} is a guard page: a stack overflowed or a section is not out"),
            Self::OutsideArea(address) => write!(f, "{address} lies past the end of its area: resize the area"),
            Self::Denied { address, wanted, allowed } => {
                write!(f, "the window at {address} allows {allowed}, not {wanted}: map it with more access")
            }
            Self::Rights(rights) => write!(f, "the area's handle lacks the rights {rights:?}: use one that has them"),
            Self::SingleWindow => f.write_str("an untracked area has one window only: unmap it or use an open area"),
            Self::Retry(address) => {
                write!(f, "a change at {address} is still being flushed: acknowledge it and try again")
            }
            Self::Active => f.write_str(
                "the space is active on some CPU, or others share its tables: activate another there, destroy those first",
            ),
            Self::OtherMachine => f.write_str("the area belongs to another machine: use an area of this one"),
            Self::PageSize { platform, format } => write!(
                f,
                "the platform's pages of 2^{platform} bytes are not the format's of 2^{format}: make them the same"
            ),
            Self::Encode(error) => error.fmt(f),
            Self::Foreign(address) => {
                write!(f, "the page tables at {address} belong to somebody else: leave them alone")
            }
            Self::Area(error) => error.fmt(f),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Kernel => f.write_str("the kernel's space cannot be cloned: every space has it already; clone a user space"),
            Self::Inherit(inherit) => {
                write!(f, "windows onto an area of this kind cannot be inherited as {inherit:?}: share them or pass nothing on")
            }
            Self::Sealed(address) => {
                write!(f, "the window at {address} is sealed: leave it as it is until the space is destroyed")
            }
            Self::WriteExecute(address) => {
                write!(f, "the window at {address} may not be writable and executable: map it twice, or give up one of the two")
            }
            Self::SeveralWindows(address) => {
                write!(f, "another window begins at {address}: make one call for each")
            }
            Self::Locked(address) => write!(f, "the pages at {address} are locked in memory: unlock them first"),
            Self::Limit(SpaceLimit::Windows(most)) => {
                write!(f, "the space may have {most} windows: unmap some or raise the limit")
            }
            Self::Limit(SpaceLimit::Reserved(most)) => {
                write!(f, "the space may have {most:#x} bytes of addresses: unmap some or raise the limit")
            }
            Self::Limit(SpaceLimit::ResidentPages(most)) => {
                write!(f, "the space may show {most} pages: release some or raise the limit")
            }
            Self::Limit(SpaceLimit::Tables(most)) => {
                write!(f, "the space may have {most} tables: unmap something or raise the limit")
            }
            Self::Awaits { address, wait } => write!(f, "at {address}: {wait}"),
            Self::Failed(address) => {
                write!(f, "the pager could not bring the page at {address}: have it retried, or stop who needs it")
            }
        }
    }
}

impl core::error::Error for SpaceError {}
