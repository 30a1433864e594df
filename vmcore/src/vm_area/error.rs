//! Why something asked of an area was refused.

use core::fmt;

use crate::addr::{Frame, FrameRange};
use crate::frame::OutOfFrames;
use crate::machine::RegistryError;
use crate::paging::MemoryType;
use crate::vm_area::{OutOfAccount, PageWait, RequestToken, Rights};

/// Why something asked of an area was refused. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AreaError {
    /// The size in bytes is 0, no multiple of the page size, or 2^62 and more.
    Size(u64),
    /// The layout has no section, a section or a guard without pages, or is too large.
    Layout,
    /// Bytes from an offset on lie outside of the area.
    Outside {
        /// The offset in bytes.
        offset: u64,
        /// How many bytes.
        size: u64,
        /// The size of the area in bytes.
        area: u64,
    },
    /// The frames lie beyond the machine's physical width.
    Frames(FrameRange),
    /// The frames are mapped with another memory type elsewhere.
    Registry(RegistryError),
    /// The platform reaches no bytes of this frame (device memory): map the area instead.
    Unreachable(Frame),
    /// The handle lacks these rights.
    Rights(Rights),
    /// Areas of this kind cannot do this.
    Kind,
    /// Every section is out.
    NoSection,
    /// The section is not out.
    NotOut(u32),
    /// A part of the area that was given up before is still being flushed on other CPUs: acknowledge that flush, try again.
    Retry,
    /// There are as many handles and windows as can be counted.
    TooManyHandles,
    /// There were not enough frames.
    OutOfFrames(OutOfFrames),
    /// A device uses the page at this offset in bytes: it stays where it is until it is unpinned.
    Pinned(u64),
    /// Bytes from an offset on that are none, or not whole pages.
    Range {
        /// The offset in bytes.
        offset: u64,
        /// How many bytes.
        size: u64,
    },
    /// The account that the area is charged to is full.
    OutOfAccount(OutOfAccount),
    /// The account belongs to another machine than the area.
    OtherMachine,
    /// The machine's page tables do not have this memory type.
    Memory(MemoryType),
    /// The page at this offset in bytes is resident already.
    Resident(u64),
    /// A page of a paged area is not there: hand the request out if it is one, wait for its answer, and make the same call again.
    Awaits(PageWait),
    /// The pager could not bring the page at this offset: [`Area::retry`](crate::vm_area::Area::retry) has it asked for again.
    Failed(u64),
    /// No page of the range waits for an answer to this request (any more).
    Stale(RequestToken),
    /// The offset is no page's.
    Unaligned(u64),
}

impl From<OutOfFrames> for AreaError {
    fn from(error: OutOfFrames) -> Self {
        Self::OutOfFrames(error)
    }
}

impl fmt::Display for AreaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => {
                write!(f, "an area of {size:#x} bytes cannot be: give whole pages, at least one, less than 2^62 bytes")
            }
            Self::Layout => {
                f.write_str("a guarded area needs sections and guards of at least one page, and a sane total")
            }
            Self::Outside { offset, size, area } => write!(
                f,
                "the range {offset:#x}+{size:#x} is not within the area of {area:#x} bytes: resize it or ask for less"
            ),
            Self::Frames(frames) => {
                write!(f, "{frames:?} lie beyond the physical address width: give frames that exist")
            }
            Self::Unreachable(frame) => write!(f, "{frame:?} is not reached by its number: map the area instead"),
            Self::Registry(error) => error.fmt(f),
            Self::Rights(rights) => write!(f, "the handle lacks the rights {rights:?}: use one that has them"),
            Self::Kind => f.write_str("areas of this kind cannot do this: use another kind"),
            Self::NoSection => f.write_str("every section is out: give one back or make a larger area"),
            Self::NotOut(section) => write!(f, "section {section} is not out: give back each section once"),
            Self::Retry => f.write_str("a flush of this area is still outstanding: acknowledge it and try again"),
            Self::TooManyHandles => f.write_str("there are too many handles of this area: drop some"),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Pinned(offset) => write!(f, "the page at offset {offset:#x} is pinned: drop its pins first"),
            Self::OutOfAccount(error) => error.fmt(f),
            Self::OtherMachine => f.write_str("the account belongs to another machine: use an account of this one"),
            Self::Memory(memory) => {
                write!(f, "this machine's page tables cannot represent {memory}: use a memory type that its layout has")
            }
            Self::Range { offset, size } => {
                write!(f, "the range {offset:#x}+{size:#x} is empty or not whole pages: give at least one whole page")
            }
            Self::Resident(offset) => {
                write!(f, "the page at offset {offset:#x} is resident already: pin it, or choose other offsets")
            }
            Self::Awaits(wait) => wait.fmt(f),
            Self::Failed(offset) => {
                write!(f, "the pager could not bring the page at offset {offset:#x}: have it retried or give it up")
            }
            Self::Stale(token) => {
                write!(
                    f,
                    "no page there waits for an answer to request {}: drop the answer, wake who waits for it",
                    token.0
                )
            }
            Self::Unaligned(offset) => write!(f, "offset {offset:#x} is no multiple of the page size: give a page's"),
        }
    }
}

impl core::error::Error for AreaError {}
