//! What backs memory. An area knows which page belongs at which of its offsets, and who shows it.
//!
//! Other systems call an area a memory object (Mach), VMO (Zircon) or `vm_object` (BSD); Linux's `vm_area_struct` is our
//! *window*.
//!
//! ```text
//!    handles (rights)                 windows of spaces
//!        │  │                            ▲        ▲
//!        ▼  ▼                            │ views  │
//!     ┌────────────────── area ──────────┴────────┴───┐
//!     │ kind, size, memory type, account              │      the one seam:
//!     │ page tree:  offset ──► frame, dirty           │      "the page at this offset, for this access"
//!     └───────────────────────────────────────────────┘
//! ```
//!
//! The area is the truth, a page table is a cache of it. It lives while a handle or a window does, and keeps its pages while mapped
//! nowhere. Its size is in bytes at the public face, in pages inside.
//!
//! # Invariants
//!
//! - Each slot of the tree holds one reference to its frame ([`FrameMeta::count`](crate::frame::FrameMeta::count)); the slots that hold one run are
//!   counted on its first frame, and all of them together hold one reference to each of its frames.
//! - No window shows a page that the area (or the one that it is laid over) does not hold, except within an unacknowledged flush.
//! - A pinned page stays in its frame, and the area lives, until the last of its pins is dropped.
//! - A page of a paged area that is neither dirty nor being written back is writable for no CPU, except within an unacknowledged flush.
//! - The paged area's pages are read-only through a private view of it; one lock guards both ([`Area::overlay`]).
//! - What the area gave up (by shrinking, by taking a section back) is not handed out again before the flush of it is acknowledged.

mod accessed;
mod account;
mod area;
mod contents;
mod cut_off;
mod discardable;
mod error;
mod foresee;
mod gate;
mod hold;
mod inner;
mod memory;
mod overlay;
mod page;
mod paged;
mod pin;
mod promote;
mod rest;
mod ring;
mod run;
mod sections;
mod snapshot;
mod tracked;
mod view;

pub(crate) use self::account::AccountInner;
pub use self::account::{Account, OutOfAccount};
pub use self::area::Area;
pub(crate) use self::cut_off::give_up;
pub use self::error::AreaError;
pub(crate) use self::foresee::Foretold;
pub(crate) use self::hold::HeldPage;
pub(crate) use self::inner::{Answer, AreaInner, AreaState, InLeaf, NoPage, release_area};
pub(crate) use self::page::{Page, TreeSupply, release_page};
pub use self::paged::{Evicted, PageBuffer, PageRequest, PageState, PageWait, RequestToken, WriteBack};
pub use self::pin::Pin;
pub(crate) use self::promote::Promotion;
pub(crate) use self::rest::AreaMemory;
pub use self::sections::SectionLayout;
pub(crate) use self::tracked::{PageSlice, PageToCopy, Seen, Want, WriteInLeaf};
pub(crate) use self::view::{View, ViewChange, Viewer};
use crate::addr::FrameRange;
use crate::paging::{Access, MemoryType};

bitflags::bitflags! {
    /// What a handle of an area permits.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Rights: u8 {
        /// Making windows.
        const MAP = 1;
        /// Reading, through windows and directly.
        const READ = 2;
        /// Writing, through windows and directly.
        const WRITE = 4;
        /// Executing through windows.
        const EXECUTE = 8;
        /// Changing the size and the memory type; taking and giving back sections.
        const RESIZE = 16;
        /// Making further handles.
        const SHARE = 32;
        /// A pager's part: answering requests, writing back, evicting.
        const SUPPLY = 64;
    }
}

impl Rights {
    /// The rights that a window with this access needs.
    pub(crate) fn for_access(access: Access) -> Self {
        let mut rights = Self::MAP;
        rights.set(Self::READ, access.contains(Access::READ));
        rights.set(Self::WRITE, access.contains(Access::WRITE));
        rights.set(Self::EXECUTE, access.contains(Access::EXECUTE));
        rights
    }

    /// All that a window may allow that is made with these rights.
    pub(crate) fn access(self) -> Access {
        let mut access = Access::USER;
        access.set(Access::READ, self.contains(Self::READ));
        access.set(Access::WRITE, self.contains(Self::WRITE));
        access.set(Access::EXECUTE, self.contains(Self::EXECUTE));
        access
    }
}

/// What kind of area to make. Sizes are in bytes, whole pages, and less than 2^60.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AreaKind {
    /// Demand-zero memory, tracked by its tree, shareable between spaces, resizable.
    Open {
        /// Bytes.
        size: u64,
    },
    /// A given run of physical memory: device memory, a framebuffer, firmware tables. Never freed.
    Fixed {
        /// The frames.
        frames: FrameRange,
        /// How accesses are cached; checked against everything else that maps the frames by their address.
        memory: MemoryType,
    },
    /// Sections with guard pages between, handed out and taken back in O(1): kernel stacks.
    Guarded(SectionLayout),
    /// Memory of a single window that nothing but the page tables remembers: cheapest, for a kernel's own use.
    Untracked {
        /// Bytes.
        size: u64,
    },
    /// What another area was at some moment: a page is copied when one of the two writes to it. A snapshot of an area
    /// ([`Area::snapshot`]), or a private window's in a clone of its space ([`Space::try_clone`](crate::vm_space::Space::try_clone)). Or a private view of a
    /// paged area ([`Area::overlay`]), which shows that one's pages until they are written to.
    Private {
        /// Bytes.
        size: u64,
    },
    /// Memory that comes twice in a row, for buffers without a wrap: byte `i` and byte `size + i` of the area are the same.
    /// Demand-zero, tracked, shareable; the area is twice as large as its memory, and cannot be resized.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// let sim = Sim::builder().build();
    /// let ring = Area::new(&sim, AreaKind::Ring { size: 0x2000 }, 0).unwrap();
    /// ring.write(0x1ffe, b"wrap").unwrap().complete(); // in one piece across the end of the memory
    /// let mut start = [0; 2];
    /// ring.read(0, &mut start).unwrap();
    /// assert_eq!((&start, ring.size(), ring.resident_pages()), (b"ap", 0x4000, 2));
    /// # }
    /// ```
    Ring {
        /// Bytes of memory: half of the area.
        size: u64,
    },
    /// Demand-zero memory whose windows grow downwards: a fault below one extends it, as far as the area goes and what is mapped
    /// below allows: a program's stack. Shareable; cannot be resized. Pages stay the area's where a window is unmapped.
    ///
    /// The area's last page is the stack's first. Map its end, and leave room below:
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// # use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};
    /// # use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// # let space = Space::user(&kernel, Default::default()).unwrap();
    /// let (limit, gap) = (0x10_0000, 0x4000);
    /// let stack = Area::new(&sim, AreaKind::Growing { limit, gap }, 0).unwrap();
    /// space.map(&MapRequest::new(&stack).at(0x7f_f000).offset(limit - 0x1000)).unwrap();
    /// space.fault(Fault::new(0x7f_cff8, Access::WRITE)).unwrap().complete();
    /// assert_eq!(space.windows().next().unwrap().range.start().as_u64(), 0x7f_c000);
    /// assert!(matches!(space.fault(Fault::new(0x6f_fff8, Access::WRITE)), Err(SpaceError::Guard(_))), "the limit");
    /// # }
    /// ```
    Growing {
        /// Bytes of the area: how large a window can become.
        limit: u64,
        /// Bytes that growing leaves free to what is mapped below; whole pages, at least one.
        gap: u64,
    },
    /// Contents that the embedder supplies when they are asked for, and takes back when they were written to: a file, an image, memory
    /// across a network, swap.
    Paged {
        /// Bytes.
        size: u64,
        /// The embedder's, to tell its areas apart: part of each [`PageRequest`].
        key: u64,
    },
}

/// A section of a guarded area that is handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its number in the area.
    pub number: u32,
    /// Its first byte's offset in the area.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// The size limit of an area in bytes: larger than what any format maps, and the number of a page has 48 bits.
pub(crate) const MAX_SIZE: u64 = 1 << 60;
