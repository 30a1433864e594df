//! A window: a part of an area at an address of a space, with an access. Other systems call it a mapping; Linux a VMA.
//!
//! # The life of a window
//!
//! ```text
//!    map ──► live ──unmap──► gated ──acknowledged──► gone
//!             │               │                        ▲
//!             │               └ still in the index (its addresses are not reused: a map or a fault there is told to retry)
//!             │                 and still a view of its area (what the area gives up meanwhile is flushed here too)
//!             └────────unmap, where no CPU can remember anything of it
//! ```
//!
//! # Its record
//!
//! ```text
//!   bytes 0            16               32                    44                 48     56
//!         | links of   | link of a      | first page, count,  | access, marks,   | area | start,      | 64
//!         | the area's | flush, space   | 48 bits each        | flags, state     |      | other bits  |
//! ```
//!
//! One cache line, and no more memory: so the way of its release and the function of its back reference stand in the space, and what is seldom asked
//! in bits of the
//! start that are zero in an address of a page.
//!
//! A gated window holds a reference to its space, so that a flush may outlive the space's handle. Its bounds and its
//! state are changed only with the space's index (exclusively) and the area locked; reading them takes one of the two (the index: in either way).

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Reserve, free_object};
use crate::paging::{Access, Deferred, Gather, Marks, Mmu, Pending, Release, ReleaseStep, Released};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState, View, ViewChange, Viewer, release_area};
use crate::vm_space::Inherit;
use crate::vm_space::clone::write_protect_beside;
use crate::vm_space::inner::{SpaceInner, release_space};

bitflags::bitflags! {
    /// What else a window is told to be. Parts of it are the same; neighbours must be the same to become one.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WindowFlags: u8 {
        /// It is not unmapped, protected, moved or discarded any more.
        const SEALED = 1;
        /// Its pages stay resident.
        const LOCKED = 2;
        /// Large pages are wanted: where a page of an aligned block is touched or populated of which none exists, all of it is made, if there is a run of frames for it.
        const HUGE = 4;
        /// Large pages are not wanted: the window gets no large leaf, also of pages that would do.
        const NEVER_HUGE = 8;
        /// Its memory is meant to be shared: pages that are not needed here any more are not released.
        const SHARED = 16;
        /// A clone gets nothing of it, whatever it was made for.
        const NOT_INHERITED = 32;
        /// A clone gets zeros of it, whatever it was made for.
        const INHERITED_AS_ZERO = 64;
    }
}

bitflags::bitflags! {
    /// What happened to a window. Neighbours need not agree in it to become one: what was true of either is noted of both.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct WindowMarks: u8 {
        /// Pages were taken out of its tables without unmapping it: if that flush is outstanding, CPUs remember pages that the tables do
        /// not show.
        const DROPPED = 1;
        /// It was given more access than it had: pages may be mapped with less.
        const RAISED = 2;
        /// Some of its addresses may be guarded.
        const GUARDED = 4;
        /// It is gated, and another window is at its addresses already: neither the index nor the tables know it any more.
        const SUCCEEDED = 8;
        /// Some of the area's pages that it shows may be marked as discardable.
        const DISCARDABLE = 16;
    }
}

/// Whether a window can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WindowState {
    Live,
    /// Unmapped; its flush is outstanding.
    Gated,
}

/// What a window is like: bytes of their own, since each is read by who knows that nobody writes it, whoever writes another.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct WindowTraits {
    pub(crate) access: Access,
    pub(crate) marks: WindowMarks,
    pub(crate) flags: WindowFlags,
    pub(crate) state: WindowState,
}

/// A record in a pool: its address never changes while it lives.
///
/// It is asked for its [traits](WindowTraits) as if they were its own fields.
#[repr(C)]
pub(crate) struct Window<P: Platform, M: Mmu> {
    /// First, so that a view's address is its window's. Its viewer is the space.
    view: View<P, WindowTraits>,
    /// Holds a reference.
    pub(crate) area: NonNull<AreaInner<P>>,
    start: Start<P>,
    space: PhantomData<*const SpaceInner<P, M>>,
}

/// The first address of a window, and what is kept in the bits that are zero in it.
///
/// ```text
///   63 ...                    12 | 11  10 | 9     8 | 7   4 | 3   0 |
///   |  first address              |   0    | inherit | taken | limit |
/// ```
struct Start<P>(u64, PhantomData<P>);

impl<P> Clone for Start<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Start<P> {}

static_assertions::const_assert!(Access::all().bits() < 16);

impl<P: Platform> Start<P> {
    const LIMIT: u32 = 0;
    const TAKEN: u32 = 4;
    const INHERIT: u32 = 8;
    /// All of them.
    const BITS: u64 = (1 << 12) - 1;

    const fn new(address: VirtAddr) -> Self {
        const { assert!(P::PAGE_SHIFT >= 12, "an address of a page has room") };
        Self(address.as_u64() & !Self::BITS, PhantomData)
    }

    #[inline]
    const fn address(self) -> VirtAddr {
        VirtAddr::new(self.0 & !Self::BITS)
    }

    /// The same with another address.
    const fn at(self, address: VirtAddr) -> Self {
        Self(Self::new(address).0 | (self.0 & Self::BITS), PhantomData)
    }

    const fn access(self, at: u32) -> Access {
        Access::from_bits_truncate((self.0 >> at) as u8 & 0xf)
    }

    const fn with_access(self, at: u32, access: Access) -> Self {
        Self(self.0 & !(0xf << at) | (access.bits() as u64) << at, PhantomData)
    }

    const fn inherit(self) -> Inherit {
        match (self.0 >> Self::INHERIT) & 3 {
            0 => Inherit::Share,
            1 => Inherit::Copy,
            2 => Inherit::Wipe,
            _ => Inherit::Nothing,
        }
    }

    const fn with_inherit(self, inherit: Inherit) -> Self {
        let bits = match inherit {
            Inherit::Share => 0,
            Inherit::Copy => 1,
            Inherit::Wipe => 2,
            Inherit::Nothing => 3,
        };
        Self(self.0 & !(3 << Self::INHERIT) | bits << Self::INHERIT, PhantomData)
    }
}

impl<P: Platform, M: Mmu> Deref for Window<P, M> {
    type Target = WindowTraits;

    #[inline]
    fn deref(&self) -> &WindowTraits {
        &self.view.own
    }
}

impl<P: Platform, M: Mmu> DerefMut for Window<P, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut WindowTraits {
        &mut self.view.own
    }
}

/// A window that is [gone](Window::defer_gone) and waits in a flush.
struct Gone<P, M>(PhantomData<(P, M)>);

impl<P: Platform, M: Mmu> Released<P> for Gone<P, M> {
    const RELEASE: Release<P> = Release(Window::<P, M>::release_gone);
}

impl<P: Platform, M: Mmu> Window<P, M> {
    /// A live window that shows the area's pages from `first` on, at `range`.
    pub(crate) fn new(
        space: NonNull<SpaceInner<P, M>>,
        area: NonNull<AreaInner<P>>,
        range: PageRange,
        first: u64,
        access: Access,
        inherit: Inherit,
    ) -> Self {
        const { assert!(size_of::<Self>() <= 64, "a window is one cache line") };
        let traits =
            WindowTraits { access, marks: WindowMarks::empty(), flags: WindowFlags::empty(), state: WindowState::Live };
        // SAFETY: windows are made of spaces that there are.
        let viewer = unsafe { SpaceInner::viewer(space) };
        let view = View::new(viewer, first, range.pages(P::PAGE_SHIFT), traits);
        let start = Start::new(range.start()).with_access(Start::<P>::LIMIT, Access::all()).with_inherit(inherit);
        Self { view, area, start, space: PhantomData }
    }

    /// What windows of a space have in common.
    pub(crate) const VIEWER: Viewer<P> = Viewer::new(Self::change, Release(Self::release));

    /// The space.
    #[inline]
    fn space(&self) -> NonNull<SpaceInner<P, M>> {
        // SAFETY: that is the viewer with which a window is made. Only of one that is gone there is another, and nobody asks that.
        unsafe { SpaceInner::of(self.view.viewer()) }
    }

    /// What the handle that it was mapped with permits: no change of access goes beyond it.
    pub(crate) fn limit(&self) -> Access {
        self.start.access(Start::<P>::LIMIT)
    }

    /// What it allowed before and does not any more: if that flush is outstanding, CPUs remember it, whatever the tables show.
    fn taken(&self) -> Access {
        self.start.access(Start::<P>::TAKEN)
    }

    /// What the clone of the space gets of it.
    pub(crate) fn inherit(&self) -> Inherit {
        self.start.inherit()
    }

    /// The index in the area of the first page.
    #[inline]
    pub(crate) fn first(&self) -> u64 {
        self.view.first()
    }

    /// How many pages it shows.
    #[inline]
    pub(crate) fn pages(&self) -> u64 {
        self.view.count()
    }

    /// The same window with another limit.
    pub(crate) fn limited_to(mut self, limit: Access) -> Self {
        self.start = self.start.with_access(Start::<P>::LIMIT, limit);
        self
    }

    /// The same window with these flags.
    pub(crate) fn flagged(mut self, flags: WindowFlags) -> Self {
        self.flags = flags;
        self
    }

    /// A window like this one, that shows of it the part at `range`. Linked nowhere.
    pub(crate) fn part(&self, range: PageRange) -> Self {
        let first = self.area_page(range.start());
        let mut part = Self::new(self.space(), self.area, range, first, self.access, self.inherit());
        part.view.own = WindowTraits { state: WindowState::Live, ..**self };
        part.start = self.start.at(range.start());
        part
    }

    /// The window at other addresses, which no CPU remembers anything of.
    pub(crate) fn moved_to(mut self, range: PageRange) -> Self {
        self.start = self.start.at(range.start()).with_access(Start::<P>::TAKEN, Access::empty());
        self.view.set_count(range.pages(P::PAGE_SHIFT));
        self.marks.remove(WindowMarks::DROPPED);
        self
    }

    /// The window at the same addresses, which it left with its pages: it shows an area's pages as they come to be touched anew.
    pub(crate) fn left_behind(mut self, area: NonNull<AreaInner<P>>) -> Self {
        // Its guards go with the pages, and what is locked in memory are those. CPUs may remember what it showed.
        self.marks = self.marks.difference(WindowMarks::GUARDED) | WindowMarks::DROPPED;
        self.flags.remove(WindowFlags::LOCKED);
        self.area = area;
        self
    }

    /// The window in another space, which shows another area there, and of which no CPU remembers anything.
    pub(crate) fn in_space(self, space: NonNull<SpaceInner<P, M>>, area: NonNull<AreaInner<P>>) -> Self {
        let range = self.range();
        let mut window = self.moved_to(range);
        // SAFETY: the space is there.
        let viewer = unsafe { SpaceInner::viewer(space) };
        window.view = View::new(viewer, window.first(), window.pages(), *window);
        window.area = area;
        // What is locked in memory is so in one space.
        window.flags.remove(WindowFlags::LOCKED);
        window
    }

    /// Whether the two can be one window: both are live, and the second one carries the first one on.
    pub(crate) fn is_carried_on_by(&self, next: &Self) -> bool {
        self.access == next.access && self.is_carried_on_in_all_but_access_by(next)
    }

    /// The same, were the access of one that of the other.
    pub(crate) fn is_carried_on_in_all_but_access_by(&self, next: &Self) -> bool {
        self.area == next.area
            && self.state == WindowState::Live
            && next.state == WindowState::Live
            && self.first() + self.pages() == next.first()
            && self.range().last().checked_add(1) == Some(next.start.address())
            && (self.limit(), self.inherit(), self.flags) == (next.limit(), next.inherit(), next.flags)
    }

    /// Whether taking back from the window all but `keep` must reach CPUs that remember more than its tables show.
    pub(crate) fn may_linger(&self, keep: Access) -> bool {
        let taken = if self.marks.contains(WindowMarks::DROPPED) { self.taken() | self.access } else { self.taken() };
        !keep.contains(taken)
    }

    /// Whether CPUs may remember pages of it, from a change whose flush is outstanding, that the tables do not show. Its area is locked.
    pub(crate) fn may_be_remembered(&self, state: &AreaState<P>) -> bool {
        self.marks.contains(WindowMarks::DROPPED) || state.is_unsettled()
    }

    /// The header of a window, through a pointer that still leads to the whole of it.
    ///
    /// # Safety
    /// The window is alive.
    pub(crate) unsafe fn deferred(window: NonNull<Self>) -> NonNull<Deferred<P>> {
        // SAFETY: the field lies within the window.
        unsafe { window.byte_add(View::<P, WindowTraits>::DEFERRED) }.cast()
    }

    /// Gives a window other bounds, which lie within its present ones.
    ///
    /// # Safety
    /// The window is alive, and index and area are locked: whoever reads the bounds holds one of the two, and no reference
    /// to the window is used across this.
    pub(crate) unsafe fn set_bounds(window: NonNull<Self>, bounds: PageRange) {
        let window = window.as_ptr();
        // SAFETY: as the caller vouches; only the fields are written, and no reference to the window is made.
        unsafe {
            let start = (*window).start;
            let pages = (bounds.start().as_u64() - start.address().as_u64()) >> P::PAGE_SHIFT;
            let view = &mut (*window).view;
            view.set_first(view.first() + pages);
            view.set_count(bounds.pages(P::PAGE_SHIFT));
            (*window).start = start.at(bounds.start());
        }
    }

    /// Gives a window other bounds, of which the last page stays what it is. There are as many pages of the area before its first as it grows by.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds), but for where the bounds lie.
    pub(crate) unsafe fn set_lower_bound(window: NonNull<Self>, bounds: PageRange) {
        let window = window.as_ptr();
        // SAFETY: as the caller vouches.
        unsafe {
            let (view, pages) = (&mut (*window).view, bounds.pages(P::PAGE_SHIFT));
            view.set_first((view.first() + view.count()).saturating_sub(pages));
            view.set_count(pages);
            (*window).start = (*window).start.at(bounds.start());
        }
    }

    /// Gives a window another access. What it had may be remembered by other CPUs until that is flushed.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds).
    pub(crate) unsafe fn set_access(window: NonNull<Self>, access: Access) {
        let window = window.as_ptr();
        // SAFETY: as the caller vouches.
        unsafe {
            // Also what it has again: until the flush is acknowledged nobody knows which CPU remembers what.
            let (start, traits) = ((*window).start, &mut (*window).view.own);
            let taken = start.access(Start::<P>::TAKEN) | traits.access;
            (*window).start = start.with_access(Start::<P>::TAKEN, taken);
            if !traits.access.contains(access) {
                traits.marks |= WindowMarks::RAISED;
            }
            traits.access = access;
        }
    }

    /// Notes what happened to the window.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds).
    pub(crate) unsafe fn note(window: NonNull<Self>, marks: WindowMarks) {
        // SAFETY: as the caller vouches.
        unsafe { (*window.as_ptr()).view.own.marks |= marks };
    }

    /// Has the window show so many more pages behind its last.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds).
    pub(crate) unsafe fn extend(window: NonNull<Self>, pages: u64) {
        // SAFETY: as the caller vouches.
        unsafe {
            let view = &mut (*window.as_ptr()).view;
            view.set_count(view.count() + pages);
        }
    }

    /// Makes the window one with the next, whose record is free afterwards.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds), and the next one [carries it on](Self::is_carried_on_by).
    pub(crate) unsafe fn take_in(window: NonNull<Self>, next: NonNull<Self>) {
        // SAFETY: as the caller vouches; only fields are read and written.
        unsafe {
            let (window, next) = (window.as_ptr(), next.as_ptr());
            let (start, taken) = ((*window).start, (*next).start.access(Start::<P>::TAKEN));
            (*window).start = start.with_access(Start::<P>::TAKEN, start.access(Start::<P>::TAKEN) | taken);
            let (view, next) = (&mut (*window).view, &(*next).view);
            view.set_count(view.count() + next.count());
            view.own.marks |= next.own.marks;
        }
    }

    /// Sets and clears flags of a window.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds).
    pub(crate) unsafe fn change_flags(window: NonNull<Self>, set: WindowFlags, clear: WindowFlags) {
        // SAFETY: as the caller vouches.
        unsafe {
            let flags = &mut (*window.as_ptr()).view.own.flags;
            *flags = flags.difference(clear) | set;
        }
    }

    /// Marks a window as unmapped.
    ///
    /// # Safety
    /// As for [`set_bounds`](Self::set_bounds).
    pub(crate) unsafe fn set_gated(window: NonNull<Self>) {
        // SAFETY: as the caller vouches.
        unsafe { (*window.as_ptr()).view.own.state = WindowState::Gated };
    }

    pub(crate) fn range(&self) -> PageRange {
        PageRange::from_checked(self.start.address(), self.pages() << P::PAGE_SHIFT)
    }

    /// The index in the area of the page at `address`, which lies in the window.
    #[inline]
    pub(crate) fn area_page(&self, address: VirtAddr) -> u64 {
        self.first() + ((address.as_u64() - self.start.address().as_u64()) >> P::PAGE_SHIFT)
    }

    /// The part of a range of area pages that the window shows, as addresses.
    fn shown(&self, first: u64, count: u64) -> Option<PageRange> {
        let low = first.max(self.first());
        let high = first.saturating_add(count).min(self.first() + self.pages());
        if low >= high {
            return None;
        }
        let start = self.start.address().checked_add((low - self.first()) << P::PAGE_SHIFT)?;
        Some(PageRange::from_checked(start, (high - low) << P::PAGE_SHIFT))
    }

    /// See [`ChangeView`](crate::vm_area::ChangeView).
    unsafe fn change(platform: &P, view: NonNull<View<P>>, change: ViewChange, pending: &mut Pending<P>) {
        // SAFETY: views with this function are the first field of a window of this type, which is alive while it is
        // linked; the area's lock, which the caller holds, keeps its bounds and state.
        let window = unsafe { view.cast::<Self>().as_ref() };
        // SAFETY: a window is linked no longer than its space (and its root table) lives: a gated one holds a reference.
        let space = unsafe { window.space().as_ref() };
        let (first, count) = change.pages();
        let Some(range) = window.shown(first, count) else { return };
        if let ViewChange::TakeAccessed { into, .. } = change {
            if !window.marks.contains(WindowMarks::SUCCEEDED) {
                let mut tables = space.tables.lock(platform);
                let noted = |pages: PageRange, _| {
                    // SAFETY: it came with the change that is carried out here.
                    unsafe { into.note(window.area_page(pages.start()), pages.pages(P::PAGE_SHIFT)) }
                };
                // A hint: what was taken back is not flushed. Tables that are somebody else's say nothing.
                let _ = tables.take_marks(platform, range, Marks::ACCESSED, &mut Gather::default(), noted);
            }
            return;
        }
        let mut gather = Gather::default();
        {
            let mut tables = space.tables.lock(platform);
            let succeeded = window.marks.contains(WindowMarks::SUCCEEDED);
            // The index is not locked, or not for this: faults go on in other areas. So all tables stay; what is empty is unlinked by who
            // has the index, when the window goes at the latest.
            if matches!(change, ViewChange::Unmap { .. })
                && !succeeded
                && tables.drop_leaves(platform, range, &mut gather).is_err()
            {
                // The tables are this space's own, so this cannot be. If it were, leaves would be left behind.
                pending.note_lost();
            }
            if matches!(change, ViewChange::WriteProtect { .. }) && !succeeded {
                write_protect_beside(platform, &mut tables, range, space.global, &mut gather, pending);
            }
            if !matches!(change, ViewChange::Unmap { .. })
                || window.state == WindowState::Gated
                || window.marks.contains(WindowMarks::DROPPED)
            {
                // The tables may hold nothing any more, but another CPU still may: what the area gives up must outlast that too.
                gather.add_lingering(space.tag, range, space.global);
            }
        }
        space.absorb(platform, gather, pending);
    }

    /// Has a flush give up a window's reference to its area, and the record.
    ///
    /// # Safety
    /// The window was live, neither index nor area know it any more, and it waits in no flush.
    pub(crate) unsafe fn defer_gone(window: NonNull<Self>, pending: &mut Pending<P>) {
        // SAFETY: the record is alive, and only the caller knows it.
        unsafe {
            (*window.as_ptr()).view.orphan::<Gone<P, M>>();
            pending.defer(Self::deferred(window));
        }
    }

    /// Called when the flush is acknowledged in which a window [waits](Self::defer_gone) that is gone.
    unsafe fn release_gone(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        if step == ReleaseStep::Unlink {
            return;
        }
        // SAFETY: only windows are deferred with this function, and the header lies at this offset in them; nobody else knows the record, in which nothing needs
        // dropping. Its reference to the area is given up, with no lock held.
        unsafe {
            let window = object.byte_sub(View::<P, WindowTraits>::DEFERRED).cast::<Self>();
            let area = window.as_ref().area;
            free_object(platform, window);
            release_area(platform, area);
        }
    }

    /// Called when the flush of a gated window is acknowledged.
    unsafe fn release(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        // SAFETY: only windows are deferred with this function, and the header lies at this offset in them.
        let window = unsafe { object.byte_sub(View::<P, WindowTraits>::DEFERRED) }.cast::<Self>();
        // SAFETY: the record is alive until it is given back below; nothing but the links of a gated window changes.
        let (space, area, range, marks) = unsafe {
            let window = window.as_ref();
            (window.space(), window.area, window.range(), window.marks)
        };
        if step == ReleaseStep::Unlink {
            // The views go first, all of them: while an area knows one, its addresses must not show anything else.
            // SAFETY: the window's reference keeps the area alive; the view is linked in it until here.
            unsafe { area.as_ref().lock(platform).unlink_view(window.cast()) };
            return;
        }
        if !marks.contains(WindowMarks::SUCCEEDED) {
            // For a node of the index, which goes back with no lock held.
            let mut reserve = Reserve::new(platform);
            // SAFETY: the gated window's reference keeps the space alive.
            let inner = unsafe { space.as_ref() };
            let mut index = inner.lock_index_at(platform, range.start());
            inner.tally.change((0, 0), (1, range.pages(P::PAGE_SHIFT)));
            index.remove_slot(range.start(), window, &mut reserve);
        }
        // SAFETY: neither index nor area know the record any more; nothing in it needs dropping.
        unsafe { free_object(platform, window) };
        // SAFETY: the window's references are given up, with no lock held.
        unsafe {
            release_area(platform, area);
            release_space(platform, space);
        }
    }
}
