//! Back references: how an area reaches everything that shows it, without knowing what that is.
//!
//! ```text
//!   area ──views──► View ◄──► View ◄──► View        each at the start of a window
//!                    │ change(...)                   one function: unmap these pages of yours, ...
//! ```
//!
//! The area knows nothing of page-table formats: a window of any space, of the host's or a guest's format, brings the one
//! function through which it is changed. The list is guarded by the area's lock; so are a view's bounds, which the space
//! changes only while it holds that lock as well as its own.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::paging::Pending;
use crate::platform::Platform;

/// What an area asks of everything that shows it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub(crate) enum ViewChange {
    /// Forget `count` pages of the area from page `first` on: remove them from the tables, and gather the flush.
    Unmap {
        /// The first page's index in the area.
        first: u64,
        /// How many pages.
        count: u64,
    },
    /// The tables show none of these pages any more, but other CPUs may remember them: gather their flush.
    Forget {
        /// The first page's index in the area.
        first: u64,
        /// How many pages.
        count: u64,
    },
    /// Write permission is taken from the pages: clear it in the tables, and gather the flush.
    WriteProtect {
        /// The first page's index in the area.
        first: u64,
        /// How many pages.
        count: u64,
    },
}

impl ViewChange {
    /// The pages that it concerns: the first and how many.
    pub(crate) const fn pages(self) -> (u64, u64) {
        match self {
            Self::Unmap { first, count } | Self::Forget { first, count } | Self::WriteProtect { first, count } => {
                (first, count)
            }
        }
    }

    /// The same change of other pages.
    pub(crate) const fn at(self, first: u64, count: u64) -> Self {
        match self {
            Self::Unmap { .. } => Self::Unmap { first, count },
            Self::Forget { .. } => Self::Forget { first, count },
            Self::WriteProtect { .. } => Self::WriteProtect { first, count },
        }
    }
}

/// The function through which a view is changed. Called with the area's lock held; locks the tables of its space, no more: so it changes entries that show
/// the area, and leaves tables linked.
///
/// # Safety
/// The view is linked in the area whose lock the caller holds.
pub(crate) type ChangeView<P> = unsafe fn(&P, NonNull<View<P>>, ViewChange, &mut Pending<P>);

/// A back reference from an area to a window.
pub(crate) struct View<P: Platform> {
    /// Links are `Cell`s, written under the area's lock alone: others may look at the rest of a window meanwhile.
    pub(super) next: Cell<Option<NonNull<View<P>>>>,
    pub(super) previous: Cell<Option<NonNull<View<P>>>>,
    pub(super) change: ChangeView<P>,
    /// The first page of the area that is shown.
    pub(crate) first: u64,
    /// How many pages are shown.
    pub(crate) count: u64,
}

impl<P: Platform> View<P> {
    /// A view of `count` pages from page `first` on, linked nowhere.
    pub(crate) const fn new(change: ChangeView<P>, first: u64, count: u64) -> Self {
        Self { next: Cell::new(None), previous: Cell::new(None), change, first, count }
    }

    /// Whether it shows any of the pages.
    pub(crate) const fn shows(&self, first: u64, count: u64) -> bool {
        self.first < first.saturating_add(count) && first < self.first.saturating_add(self.count)
    }
}
