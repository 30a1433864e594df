//! The records of an area: what is asked all the time in one cache line, the rest beside it.
//!
//! ```text
//!   AreaInner, one cache line                          AreaRest: behind the same lock        AreaSpecial: the same, and what
//!   | references | rest | lock and its readers,  |     | views, how many | gates |          some kinds have besides
//!   |            |   │  | kind, memory type      | ┌──►| account, charged ahead  |    or    | kind with its numbers | sections |
//!   | size, marks | page tree |             rest─┼─┘   | what waits, pins        |          | pager's part | laid over ...    |
//!                     └──────────────────────────┘     | the embedder's data     |
//! ```
//!
//! A fault that finds its page takes the first alone: what it asks of the rest is told by a mark. Mapping takes both. Two areas have no line of the
//! first in common.
//! With the classes of the pools that is 65 bytes and 57 of each page that they are carved from.

use core::cell::Cell;
use core::ptr::NonNull;

use super::gate::Gate;
use super::inner::AreaInner;
use super::overlay::Overlay;
use super::paged::Paged;
use super::sections::Sections;
use super::{AccountInner, AreaKind, Page, View};
use crate::frame::{Need, Reserve};
use crate::page_tree::PageTree;
use crate::platform::Platform;

/// What the area's lock guards beside the [state](super::AreaState).
pub(crate) struct StateRest<P: Platform> {
    pub(super) views: Option<NonNull<View<P>>>,
    /// What waits for a flush.
    pub(super) gates: Option<NonNull<Gate<P>>>,
    /// Who pays for pages that come into being; holds a reference.
    pub(super) account: Option<NonNull<AccountInner>>,
    /// Pages that are charged ahead by operations that are under way.
    pub(super) ahead: u64,
    /// Changes whose flush is outstanding; while there are any, the area does not grow.
    pub(super) returning: u32,
    /// How many references gates and held pages have.
    pub(super) gate_count: u32,
    /// Whoever writes to a page's frame at the moment, with no lock held.
    pub(super) writers: u32,
    /// How many pages are pinned.
    pub(super) pinned: u32,
    /// How many windows show the area. Where they were 2^32 once they are so for ever: pages are kept, and not given up too early.
    pub(super) view_count: u32,
    /// By what it is told from other areas, also those that are gone; 0 before somebody asks.
    pub(super) number: u32,
}

/// The second record of an area.
#[repr(C)]
pub(super) struct AreaRest<P: Platform> {
    /// First, so that a pointer to it leads to the whole.
    pub(super) state: StateRest<P>,
    /// Never changed.
    pub(super) data: P::AreaData,
}

/// The second record of an area of some kinds, and of an overlay.
#[repr(C)]
pub(super) struct AreaSpecial<P: Platform> {
    rest: AreaRest<P>,
    /// The kind, if its numbers are not the area's size. What follows is written before others know the area.
    pub(super) kind: AreaKind,
    /// Of an overlay, the paged area below it, whose lock guards the overlay's state as well; holds a reference.
    pub(super) below: Cell<Option<NonNull<AreaInner<P>>>>,
    pub(super) sections: Cell<Option<NonNull<Sections<P>>>>,
    /// What a paged area remembers besides.
    pub(super) paged: Cell<Option<NonNull<Paged<P>>>>,
    /// What an overlay remembers besides.
    pub(super) overlay: Cell<Option<NonNull<Overlay<P>>>>,
}

/// Memory for the records of an area.
pub(crate) struct AreaMemory<P: Platform> {
    area: NonNull<AreaInner<P>>,
    rest: NonNull<AreaRest<P>>,
    /// Whether the second is an [`AreaSpecial`].
    special: bool,
}

impl<P: Platform> AreaMemory<P> {
    /// Adds what it takes.
    #[inline]
    pub(crate) fn add_need(special: bool, need: &mut Need) {
        need.add_objects::<AreaInner<P>>(1);
        if special {
            need.add_objects::<AreaSpecial<P>>(1);
        } else {
            need.add_objects::<AreaRest<P>>(1);
        }
    }

    /// Adds what either takes, and what an overlay remembers besides.
    #[cfg(feature = "posix")]
    pub(crate) fn add_need_of_any(need: &mut Need) {
        Self::add_need(true, need);
        need.add_objects::<AreaRest<P>>(1);
        need.add_objects::<Overlay<P>>(1);
    }

    /// Takes it from a reserve; nothing, if that does not hold all of it.
    pub(crate) fn take(reserve: &mut Reserve<P>, special: bool) -> Option<Self> {
        let area = reserve.take_object::<AreaInner<P>>()?;
        let rest = if special {
            reserve.take_object::<AreaSpecial<P>>().map(NonNull::cast)
        } else {
            reserve.take_object::<AreaRest<P>>()
        };
        if rest.is_none() {
            // SAFETY: the memory is unused still.
            unsafe { reserve.put_object(area) };
        }
        Some(Self { area, rest: rest?, special })
    }

    /// Where the area will be.
    pub(crate) const fn area(&self) -> NonNull<AreaInner<P>> {
        self.area
    }

    /// Gives it back unused.
    pub(crate) fn put(self, reserve: &mut Reserve<P>) {
        // SAFETY: the memory came from a reserve for these types, and nothing refers to it.
        unsafe {
            reserve.put_object(self.area);
            if self.special {
                reserve.put_object(self.rest.cast::<AreaSpecial<P>>());
            } else {
                reserve.put_object(self.rest);
            }
        }
    }

    /// Makes an area of `pages` pages in it, of which the tree says which there are, with one reference. The memory is special if the kind is.
    pub(super) fn make(
        self,
        kind: AreaKind,
        pages: u64,
        tree: PageTree<Page>,
        data: P::AreaData,
    ) -> NonNull<AreaInner<P>> {
        const {
            assert!(size_of::<P::RawMutex>() > 1 || size_of::<AreaInner<P>>() == 64, "one cache line");
            assert!(size_of::<StateRest<P>>() <= 56, "a class of the pools");
        }
        let state = StateRest {
            views: None,
            view_count: 0,
            gates: None,
            account: None,
            ahead: 0,
            returning: 0,
            gate_count: 0,
            writers: 0,
            pinned: 0,
            number: 0,
        };
        let rest = AreaRest { state, data };
        // SAFETY: the memory was taken for these types, and nobody else knows it.
        unsafe {
            if self.special {
                let (below, sections, paged, overlay) =
                    (Cell::new(None), Cell::new(None), Cell::new(None), Cell::new(None));
                self.rest.cast().write(AreaSpecial { rest, kind, below, sections, paged, overlay });
            } else {
                self.rest.write(rest);
            }
            self.area.write(AreaInner::new(kind, pages, tree, self.rest, self.special));
        }
        self.area
    }

    /// Takes an area down that nobody refers to any more, whose tree is empty.
    ///
    /// # Safety
    /// It is alive, and only the caller knows it.
    pub(super) unsafe fn take_down(area: NonNull<AreaInner<P>>, reserve: &mut Reserve<P>) {
        // SAFETY: the caller's promise: both values are there, and nobody uses them any more.
        unsafe {
            let (rest, special) = (area.as_ref().rest(), (*area.as_ptr()).state_mut().special().is_some());
            rest.drop_in_place();
            area.drop_in_place();
            Self { area, rest, special }.put(reserve);
        }
    }
}
