//! Back references: how an area reaches everything that shows it, without knowing what that is.
//!
//! ```text
//!   area ──views──► View ◄──► View ◄──► View        each at the start of a window
//!                    │ change(...)                   one function: unmap these pages of yours, ...
//! ```
//!
//! The area knows nothing of page-table formats: a window of any space, of the host's or a guest's format, leads to the one
//! function through which it is changed, which is the same for all of a space and stands there. The list is guarded by the area's lock; so are a
//! view's bounds, which the space
//! changes only while it holds that lock as well as its own.

use core::cell::Cell;
use core::ptr::NonNull;

use super::accessed::AccessedPages;

use crate::paging::{Deferred, Pending, Release, Released};
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
    /// Take the hardware's accessed marks back from the pages, and note which had one. Nothing is to be flushed for that: it is a hint.
    TakeAccessed {
        /// The first page's index in the area.
        first: u64,
        /// How many pages.
        count: u64,
        /// Where they are noted.
        into: AccessedPages,
    },
}

impl ViewChange {
    /// The pages that it concerns: the first and how many.
    pub(crate) const fn pages(self) -> (u64, u64) {
        match self {
            Self::Unmap { first, count }
            | Self::Forget { first, count }
            | Self::WriteProtect { first, count }
            | Self::TakeAccessed { first, count, .. } => (first, count),
        }
    }

    /// The same change of other pages.
    pub(crate) const fn at(self, first: u64, count: u64) -> Self {
        match self {
            Self::Unmap { .. } => Self::Unmap { first, count },
            Self::Forget { .. } => Self::Forget { first, count },
            Self::WriteProtect { .. } => Self::WriteProtect { first, count },
            Self::TakeAccessed { into, .. } => Self::TakeAccessed { first, count, into },
        }
    }
}

/// The function through which a view is changed. Called with the area's lock held; locks the tables of its space, no more: so it changes entries that show
/// the area, and leaves tables linked.
///
/// # Safety
/// The view is linked in the area whose lock the caller holds.
pub(crate) type ChangeView<P> = unsafe fn(&P, NonNull<View<P>>, ViewChange, &mut Pending<P>);

/// What all views of a space have in common. It lives as long as one of them does.
#[repr(C)]
pub(crate) struct Viewer<P: Platform> {
    /// First, so that a header that points here points to it.
    release: Release<P>,
    change: ChangeView<P>,
}

impl<P: Platform> Viewer<P> {
    pub(crate) const fn new(change: ChangeView<P>, release: Release<P>) -> Self {
        Self { release, change }
    }
}

/// A back reference from an area to a window.
///
/// ```text
///   bytes 0      8          16                    32            40            44
///         | next | previous | header for a flush, | first page, | count, their | what else
///         |      |          | with whose it is    | low 32 bits, of each       | the owner keeps
/// ```
///
/// Numbers of pages have 48 bits ([`MAX_SIZE`](super::MAX_SIZE)), so that a window's record is one cache line.
#[repr(C)]
pub(crate) struct View<P: Platform, T = ()> {
    /// Links are `Cell`s, written under the area's lock alone: others may look at the rest of a window meanwhile.
    pub(super) next: Cell<Option<NonNull<View<P>>>>,
    pub(super) previous: Cell<Option<NonNull<View<P>>>>,
    /// Where a view waits in a flush, and by which its [`Viewer`] is found.
    deferred: Deferred<P>,
    first_low: u32,
    count_low: u32,
    first_high: u16,
    count_high: u16,
    /// Of a view that is known for what it is.
    pub(crate) own: T,
}

static_assertions::const_assert!(super::MAX_SIZE <= 1 << (12 + 48));

const fn split(pages: u64) -> (u32, u16) {
    debug_assert!(pages >> 48 == 0, "areas are smaller");
    (pages as u32, (pages >> 32) as u16)
}

const fn joined(low: u32, high: u16) -> u64 {
    low as u64 | (high as u64) << 32
}

impl<P: Platform, T> View<P, T> {
    /// A view of `count` pages from page `first` on, linked nowhere.
    pub(crate) const fn new(viewer: NonNull<Viewer<P>>, first: u64, count: u64, own: T) -> Self {
        let ((first_low, first_high), (count_low, count_high)) = (split(first), split(count));
        // SAFETY: a viewer lives as long as its views, and begins with its way of release.
        let deferred = unsafe { Deferred::by(viewer.cast()) };
        let (next, previous) = (Cell::new(None), Cell::new(None));
        Self { next, previous, deferred, first_low, count_low, first_high, count_high, own }
    }

    /// Whose view it is.
    #[inline]
    pub(crate) const fn viewer(&self) -> NonNull<Viewer<P>> {
        self.deferred.release().cast()
    }

    /// The function through which it is changed.
    pub(super) const fn change(&self) -> ChangeView<P> {
        // SAFETY: views are made with their viewer, which lives as long as they do.
        unsafe { self.viewer().as_ref() }.change
    }

    /// Where a view waits in a flush.
    pub(crate) const DEFERRED: usize = core::mem::offset_of!(Self, deferred);

    /// Has a view that is linked nowhere any more, and is nobody's, released in another way. It has no viewer from here on.
    ///
    /// # Safety
    /// It waits in no flush.
    pub(crate) unsafe fn orphan<R: Released<P>>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.deferred.set_release::<R>() };
    }

    /// The first page of the area that is shown.
    #[inline]
    pub(crate) const fn first(&self) -> u64 {
        joined(self.first_low, self.first_high)
    }

    /// How many pages are shown.
    #[inline]
    pub(crate) const fn count(&self) -> u64 {
        joined(self.count_low, self.count_high)
    }

    #[inline]
    pub(crate) const fn set_first(&mut self, first: u64) {
        (self.first_low, self.first_high) = split(first);
    }

    #[inline]
    pub(crate) const fn set_count(&mut self, count: u64) {
        (self.count_low, self.count_high) = split(count);
    }

    /// Whether it shows any of the pages.
    pub(crate) const fn shows(&self, first: u64, count: u64) -> bool {
        self.first() < first.saturating_add(count) && first < self.first() + self.count()
    }
}
