//! Overlays: private views of a paged area. What `MAP_PRIVATE` of a file is (POSIX), a shadow object (Mach), a copy-on-write child of a
//! pager-backed VMO (Zircon).
//!
//! ```text
//!    windows          windows          windows
//!       │                │                │  views
//!       ▼                ▼                ▼
//!    overlay ·········· overlay        paged area             one lock, the paged area's, for all three
//!    own: 1'            own: 1' 3'     0  1  2  3
//!      :                  :            ▲
//!      └── offset ────────┴────────────┘ a page that an overlay has not, the paged area shows, read-only
//!
//!    absent ──read──► (the paged area's page, which the overlay's tree does not hold)
//!           ──write─► a copy of it: the overlay's own, dirty, charged to its account
//! ```
//!
//! An overlay is an area of kind [`Private`](AreaKind::Private), and does all that those do; its tree holds its own pages alone. A clone or a snapshot of it is an
//! overlay on the same paged area whose tree is shared with it: never a chain. It keeps the paged area alive.
//!
//! # What is seen
//!
//! As on Linux:
//!
//! - An untouched page shows what the paged area holds now: what is written to that through a shared window, or a handle, shows at once.
//! - A write copies the page as it is at that moment, and never makes the paged area's page dirty. If the page has to be brought, the request is
//!   the paged area's, and not for writing.
//! - Where the paged area becomes smaller, pages beyond its end are refused ([`Answer::Outside`]), and those that the overlay had of its own
//!   are gone: should it grow again, its contents show. Eviction and write-back leave own pages alone.
//!
//! # One lock
//!
//! What the paged area gives up must leave the windows of its overlays before its frames are free. It is found from the area downwards, with the
//! area's lock held; a fault in an overlay goes from the overlay to the area. Two locks would need an order that one of the two breaks, or each
//! window two views that are cut, joined and moved together. So an overlay has no lock: [`AreaInner::lock`] takes the one of the
//! area below, which then guards the state of both (and of all its overlays). The price is that faults in overlays of one paged area exclude each other, copies included; nearly every one of them
//! looks at the paged area's page anyway.
//!
//! # Invariants
//!
//! - The state of an overlay that is linked is reached with the lock of the area below held, and from below only by [`AreaState::each_overlay`],
//!   which nothing calls that has an overlay's state in use.
//! - An overlay's windows show the paged area's frames read-only, whatever they allow: so write-back need not reach them.
//! - An overlay's tree has no page beyond the end of the paged area.
//! - A frame of the paged area that a copy took the place of is held until every view has forgotten it (`gate.rs`).

use core::cell::Cell;
use core::ptr::NonNull;

use super::cut_off::give_up;
use super::inner::{Answer, AreaInner, AreaMarks, AreaState};
use super::rest::AreaMemory;
use super::{Area, AreaError, AreaKind, MAX_SIZE, Page, Rights, ViewChange};
use crate::addr::Frame;
use crate::frame::{Need, OutOfFrames, Reserve};
use crate::page_tree::PageTree;
use crate::paging::Pending;
use crate::platform::Platform;

/// What an overlay remembers besides its pages, in a record of its own, linked in the paged area below.
pub(crate) struct Overlay<P: Platform> {
    next: Cell<Option<NonNull<Overlay<P>>>>,
    previous: Cell<Option<NonNull<Overlay<P>>>>,
    /// The overlay itself.
    area: NonNull<AreaInner<P>>,
    /// The paged area; its reference is [`AreaInner`]'s.
    below: NonNull<AreaInner<P>>,
    /// The page of the paged area that the overlay's first one is laid over.
    offset: u64,
}

impl<P: Platform> Overlay<P> {
    /// The overlay's pages that lie over some of the paged area's: the first and how many.
    fn over(&self, first: u64, count: u64) -> Option<(u64, u64)> {
        let (low, end) = (first.max(self.offset), first.saturating_add(count));
        (low < end).then(|| (low - self.offset, end - low))
    }
}

/// Lays an area over a paged one.
///
/// # Safety
/// `area` lives and nobody else knows it; the memory was taken for a record; the caller gives up a reference to `below`, a paged area whose lock
/// guards `list`, which is its list, and is held.
pub(super) unsafe fn lay_over<P: Platform>(
    mut area: NonNull<AreaInner<P>>,
    memory: NonNull<Overlay<P>>,
    (below, offset): (NonNull<AreaInner<P>>, u64),
    list: &Cell<Option<NonNull<Overlay<P>>>>,
) {
    let next = list.get();
    // SAFETY: the caller's promises; records on the list are alive, and their links are reached under the lock that is held.
    unsafe {
        memory.write(Overlay { next: Cell::new(next), previous: Cell::new(None), area, below, offset });
        if let Some(next) = next {
            next.as_ref().previous.set(Some(memory));
        }
        area.as_mut().set_overlay(below, memory);
    }
    list.set(Some(memory));
}

/// Takes an area that nobody refers to out of the list of the one below, if it is an overlay; gives the reference to that one.
///
/// # Safety
/// The area is alive, its last reference is given up, and no area lock is held.
pub(super) unsafe fn unlink_overlay<P: Platform>(
    platform: &P,
    area: NonNull<AreaInner<P>>,
) -> Option<NonNull<AreaInner<P>>> {
    // SAFETY: the caller's promise.
    let inner = unsafe { area.as_ref() };
    inner.below()?;
    let state = inner.lock(platform);
    let record = state.special()?.overlay.take()?;
    // SAFETY: the record lives as long as the overlay; the links of it and its neighbours are reached under the lock alone.
    let below = unsafe {
        let Overlay { next, previous, below, .. } = record.as_ref();
        if let Some(next) = next.get() {
            next.as_ref().previous.set(previous.get());
        }
        match (previous.get(), below.as_ref().state().as_ref().overlays()) {
            (Some(previous), _) => previous.as_ref().next.set(next.get()),
            (None, Some(list)) => list.set(next.get()),
            (None, None) => {}
        }
        *below
    };
    drop(state);
    // SAFETY: nothing refers to the record any more, and nothing in it needs dropping.
    unsafe { Reserve::new(platform).put_object(record) };
    Some(below)
}

/// From an overlay downwards.
impl<P: Platform> AreaState<P> {
    fn laid(&self) -> Option<&Overlay<P>> {
        // SAFETY: the record lives as long as the overlay does, and only its links change, which are cells.
        self.special()?.overlay.get().map(|overlay| unsafe { overlay.as_ref() })
    }

    /// The state of the area below, and the page of it that this one's first is laid over.
    pub(super) fn below(&self) -> Option<(&Self, u64)> {
        let overlay = self.laid()?;
        // SAFETY: the overlay's reference keeps the area alive. Its state is another value than this one, guarded by the same lock, which who
        // has this state holds; nobody who holds it for the area below comes here (see the invariants).
        Some((unsafe { overlay.below.as_ref().state().as_ref() }, overlay.offset))
    }

    /// The same, to be changed; and the key of the paged area.
    fn below_mut(&mut self) -> Option<(&mut Self, u64, u64)> {
        let overlay = self.laid()?;
        // SAFETY: as above.
        let (area, state) = unsafe { (overlay.below.as_ref(), overlay.below.as_ref().state().as_mut()) };
        Some((state, overlay.offset, area.key()?))
    }

    /// The first page that may not be touched: the end of the area, or of what is below.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        if !self.is_overlay() { self.pages() } else { self.end_over_below() }
    }

    fn end_over_below(&self) -> u64 {
        self.below().map_or(self.pages(), |(below, offset)| below.pages().saturating_sub(offset).min(self.pages()))
    }

    /// Whether pages that it has not are another's.
    pub(crate) const fn is_overlay(&self) -> bool {
        self.marks.contains(AreaMarks::OVERLAY)
    }

    pub(super) fn is_unsettled_below(&self) -> bool {
        self.below().is_some_and(|(below, _)| below.is_unsettled_itself())
    }

    /// Whether the flush of a change of the area's own memory type is outstanding.
    pub(super) const fn is_retyping_itself(&self) -> bool {
        self.marks.contains(AreaMarks::RETYPING)
    }

    /// Whether the flush of a change of the memory type is outstanding.
    pub(super) fn is_retyping(&self) -> bool {
        self.is_retyping_itself() || self.below().is_some_and(|(below, _)| below.is_retyping_itself())
    }

    /// The page below one that the overlay has not, as far as it is there.
    pub(super) fn page_below(&self, index: u64) -> Option<Page> {
        let (below, offset) = self.below().filter(|_| index < self.pages())?;
        below.tree.get(offset.saturating_add(index)).filter(|page| page.held_frame().is_some())
    }

    /// The frame below, if showing it changes nothing.
    pub(super) fn frame_below_as_it_is(&self, index: u64) -> Option<Frame> {
        self.page_below(index)?.frame_as_it_is()
    }

    /// See [`for_each_resident`](Self::for_each_resident): of an overlay its own, and between them what is there below, which it has not written to.
    pub(super) fn for_each_resident_over_below(&self, first: u64, count: u64, mut found: impl FnMut(u64, bool)) {
        let end = first.saturating_add(count).min(self.pages());
        let Some(last) = end.checked_sub(1).filter(|last| *last >= first) else { return };
        let mut next = first;
        self.tree.visit_each(first, last, |index, page, _| {
            self.each_below(next, index, |index| found(index - first, false));
            if page.held_frame().is_some() {
                found(index - first, page.is_dirty());
            }
            next = index.saturating_add(1);
        });
        self.each_below(next, end, |index| found(index - first, false));
    }

    /// Says which of the overlay's pages from `first` on and before `end` are there below.
    fn each_below(&self, first: u64, end: u64, mut found: impl FnMut(u64)) {
        let Some((below, offset)) = self.below().filter(|_| first < end) else { return };
        below.tree.visit_each(offset.saturating_add(first), offset.saturating_add(end - 1), |key, page, _| {
            if page.held_frame().is_some() {
                found(key - offset);
            }
        });
    }

    /// Whether the page is neither the overlay's nor there below.
    pub(super) fn awaits_below(&self, index: u64) -> bool {
        self.is_overlay() && index < self.end() && self.tree.get(index).is_none() && self.page_below(index).is_none()
    }

    /// What asking below for pages takes at the most; see [`need_to_ask`](Self::need_to_ask).
    pub(super) fn need_to_ask_below(&self, first: u64, count: u64) -> Option<Need> {
        self.below().map(|(below, offset)| below.need_to_ask(offset.saturating_add(first), count))
    }

    /// See [`need_to_ask_at_most`](Self::need_to_ask_at_most).
    pub(super) fn need_to_ask_below_at_most(&self, count: u64) -> Option<Need> {
        self.below().map(|(below, _)| below.need_to_ask_at_most(count))
    }

    /// Widens a request that was made below, up to the overlay's page `end`; see [`widen`](Self::widen).
    pub(super) fn widen_below(
        &mut self,
        platform: &P,
        request: super::PageRequest,
        end: u64,
        reserve: &mut Reserve<P>,
    ) -> super::PageRequest {
        match self.below_mut() {
            Some((below, offset, _)) => below.widen(platform, request, offset.saturating_add(end), reserve),
            None => request,
        }
    }

    /// The first run of pages that are there below, at or after `from` and before `end`.
    pub(super) fn next_resident_below(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let (below, offset) = self.below()?;
        let end = end.min(self.pages()).saturating_add(offset);
        let (first, count) = below.next_resident(offset.saturating_add(from), end)?;
        Some((first.saturating_sub(offset), count))
    }

    /// The seam for a page that the overlay has not: the paged area's page, or a copy of it, if it is to be written.
    pub(super) fn show_below(&mut self, platform: &P, index: u64, write: bool, reserve: &mut Reserve<P>) -> Answer {
        let Some((below, offset, key)) = self.below_mut() else { return Answer::Outside };
        let answer = below.paged_page(platform, key, offset.saturating_add(index), false, reserve);
        let Answer::Page { frame: old, .. } = answer else { return answer };
        if !write {
            return Answer::Page { frame: old, writable: false };
        }
        match self.put_copy(platform, index, old, reserve) {
            Ok((frame, _)) => {
                // Views may show it: it is to outlive the flush, whatever becomes of it below.
                platform.frame_meta(old).inspect(|meta| meta.add_reference());
                Answer::Replaced { frame, writable: true, old: Some(old) }
            }
            Err(answer) => answer,
        }
    }

    /// What it takes to show some pages, at the present state; to make them the overlay's own as well, if `own`. O(pages).
    pub(crate) fn need_to_show(&self, platform: &P, (first, count): (u64, u64), own: bool) -> Need {
        let mut need = self.need_to_ask(first, count);
        if own {
            need.merge(&self.need_for(first, count));
            need.merge(&self.need_to_own(platform, first, count));
        }
        need
    }

    /// The same, whatever happens to the area meanwhile.
    pub(crate) fn need_to_show_at_most(&self, platform: &P, (first, count): (u64, u64), own: bool) -> Need {
        let mut need = self.need_to_ask_at_most(count);
        if own {
            need.merge(&Self::nodes_at_most(count));
            need.merge(&self.need_to_own(platform, first, count));
            need.pages = need.pages.max(count);
        }
        need
    }
}

/// From a paged area to its overlays.
impl<P: Platform> AreaState<P> {
    /// Shows `each` the overlays of a paged area, and their states. O(overlays).
    fn each_overlay(&self, mut each: impl FnMut(&Overlay<P>, &mut Self)) {
        let mut at = self.overlays().and_then(Cell::get);
        while let Some(overlay) = at {
            // SAFETY: records on the list are alive while the area below is locked, and so are the overlays, which take themselves off the list before they
            // go; their states are guarded by that lock, and nobody who holds it has one of them in use (see the invariants).
            let (overlay, state) = unsafe { (overlay.as_ref(), overlay.as_ref().area.as_ref().state().as_mut()) };
            at = overlay.next.get();
            each(overlay, state);
        }
    }

    /// Has the windows of overlays changed as those of the paged area are. None of them can write to its frames.
    pub(super) fn change_overlays(&self, platform: &P, change: ViewChange, pending: &mut Pending<P>) {
        if matches!(change, ViewChange::WriteProtect { .. }) {
            return;
        }
        let (first, count) = change.pages();
        self.each_overlay(|overlay, state| {
            let Some((first, count)) = overlay.over(first, count) else { return };
            if let ViewChange::TakeAccessed { into, .. } = change {
                let into = into.lowered(overlay.offset);
                return state.change_places(platform, ViewChange::TakeAccessed { first, count, into }, pending);
            }
            state.change_places(platform, change.at(first, count), pending);
            if state.is_unsettled_itself() {
                // A copy took the place of a page, and that flush is outstanding: what the caller is told is to be true of that page too.
                state.change_places(platform, ViewChange::Forget { first, count }, pending);
            }
        });
    }

    /// The overlays of a paged area, and how many windows those have.
    pub(super) fn count_overlays(&self) -> (usize, usize) {
        let (mut overlays, mut windows) = (0, 0);
        self.each_overlay(|_, state| {
            overlays += 1;
            windows += state.view_count();
        });
        (overlays, windows)
    }

    /// Whether an operation under way has charged pages of an overlay ahead.
    pub(super) fn overlays_charge_ahead(&self) -> bool {
        let mut ahead = 0;
        self.each_overlay(|_, state| ahead |= state.rest().ahead);
        ahead != 0
    }

    /// The first page of the paged area over which an overlay has a pinned one, among these.
    pub(super) fn first_pinned_above(&self, platform: &P, first: u64, count: u64) -> Option<u64> {
        let mut lowest: Option<u64> = None;
        self.each_overlay(|overlay, state| {
            let Some((first, count)) = overlay.over(first, count) else { return };
            let pinned = state.first_pinned(platform, first, count).map(|page| page.saturating_add(overlay.offset));
            lowest = lowest.into_iter().chain(pinned).min();
        });
        lowest
    }

    /// What it takes to [cut](Self::cut_overlays) the overlays' pages over these.
    pub(super) fn need_to_cut_overlays(&self, first: u64, count: u64) -> Need {
        let mut need = Need::default();
        self.each_overlay(|overlay, state| {
            if let Some((first, count)) = state.own_over(overlay, first, count) {
                need.merge(&state.need_to_give_up_alone(first, count));
            }
        });
        need
    }

    /// Takes the overlays' own pages over these away, which are beyond the end of the paged area from now on. Everything it takes was
    /// reserved.
    pub(super) fn cut_overlays(
        &self,
        platform: &P,
        (first, count): (u64, u64),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) {
        self.each_overlay(|overlay, state| {
            let Some((first, count)) = state.own_over(overlay, first, count) else { return };
            // One that is just being released has no reference to give, and no windows: whoever releases it frees its pages. Nothing else is refused; if it were, the
            // pages would stay where nobody comes to them before the paged area grows again.
            // SAFETY: the overlay lives while it is linked, and only a counted reference is taken of it; the state is its own.
            let _ = unsafe { give_up(platform, overlay.area, state, (first, count), None, reserve, pending) };
        });
    }

    /// The pages that lie over some of the paged area's, if any of them is the overlay's own.
    fn own_over(&self, overlay: &Overlay<P>, first: u64, count: u64) -> Option<(u64, u64)> {
        let (first, count) = overlay.over(first, count)?;
        self.tree.next_present(first).filter(|(key, _)| key - first < count).map(|_| (first, count))
    }
}

impl<P: Platform> AreaInner<P> {
    /// Makes a copy of an overlay, which nobody knows yet, an overlay on the same area. `memory` is for a record if the original is one.
    ///
    /// # Safety
    /// The state is the original's; the memory was taken for a record.
    pub(super) unsafe fn lay_over_same(state: &AreaState<P>, copy: NonNull<Self>, memory: Option<NonNull<Overlay<P>>>) {
        let (Some(overlay), Some((below, _)), Some(memory)) = (state.laid(), state.below(), memory) else { return };
        let Some(list) = below.overlays() else { return };
        // SAFETY: the original's reference keeps the area alive, whose lock is held, since it guards the original's state.
        unsafe {
            overlay.below.as_ref().add_window_reference();
            lay_over(copy, memory, (overlay.below, overlay.offset), list);
        }
    }

    /// Adds the record that a copy of an area with this state takes besides.
    #[inline]
    pub(super) fn add_need_to_lay_over(state: &AreaState<P>, need: &mut Need) {
        if state.is_overlay() {
            need.add_objects::<Overlay<P>>(1);
        }
    }
}

impl<P: Platform> Area<P> {
    /// A private view of `size` bytes of this paged area from byte `offset` on, as an area of its own of kind [`Private`](AreaKind::Private): what `MAP_PRIVATE` of a file
    /// maps. It shows this area's pages until they are written to through it; the first write to a page copies it. Its handle has every right but
    /// executing, which it has if this one does.
    ///
    /// - A page that is not there is requested as for a window of this area ([`Resolution::Request`](crate::vm_space::Resolution::Request)), which the view
    ///   keeps alive. What was not copied shows what others write to this area; nothing that is written to the view comes here.
    /// - [`resident_pages`](Self::resident_pages) and [`page_state`](Self::page_state) of the view are those of its own pages; they are charged to its
    ///   [account](Self::charge_to). [`frame_at`](Self::frame_at) is what shows.
    /// - Where this area becomes smaller, what the view has beyond its end is gone, and accesses there are refused; so is a size that would take a
    ///   page away that is pinned in the view ([`AreaError::Pinned`], with the offset here). Eviction leaves copies alone.
    /// - [`Advice::NotNeeded`](crate::vm_space::Advice::NotNeeded) releases copies: this area's contents show again. The view can be made larger than what
    ///   is here, which is refused until this area has grown as well.
    /// - Clones and snapshots of it are such views too. Its memory type is this area's.
    ///
    /// Changes of this area, and faults in all of its views, exclude each other (one lock).
    ///
    /// Cost: O(1); takes three pool objects.
    ///
    /// # Errors
    /// The area is not paged; no right to read or to map; an offset that is no page's; a size that cannot be, or that reaches beyond the area's; too many handles; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind, PageState};
    /// let sim = Sim::builder().build();
    /// let file = Area::new(&sim, AreaKind::Paged { size: 0x4000, key: 7 }, Default::default()).unwrap();
    /// let request = file.request(0, 0x4000).unwrap().unwrap();
    /// file.supply(request.token, 0, &[1; 0x4000]).unwrap();
    /// let view = file.overlay(0x1000, 0x2000).unwrap();
    /// view.write(0x1ffe, &[2; 2]).unwrap().complete();
    /// file.write(0x1000, &[3; 4]).unwrap().complete(); // shows where the view has no copy
    /// let mut bytes = [0; 0x2000];
    /// view.read(0, &mut bytes).unwrap();
    /// assert_eq!((bytes[0], bytes[0x1000], bytes[0x1fff]), (3, 1, 2));
    /// assert_eq!((view.resident_pages(), file.page_state(0x2000)), (1, Some(PageState::Clean)));
    /// # }
    /// ```
    pub fn overlay(&self, offset: u64, size: u64) -> Result<Self, AreaError> {
        self.require(Rights::READ | Rights::MAP)?;
        if !self.inner().is_paged() {
            return Err(AreaError::Kind);
        }
        let mask = (1 << P::PAGE_SHIFT) - 1;
        if offset & mask != 0 {
            return Err(AreaError::Unaligned(offset));
        }
        if size == 0 || size >= MAX_SIZE || size & mask != 0 {
            return Err(AreaError::Size(size));
        }
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut need = Need::object::<Overlay<P>>();
        AreaMemory::<P>::add_need(true, &mut need);
        reserve.top_up(&need)?;
        let data = self.inner().data().clone();
        let pages = size >> P::PAGE_SHIFT;
        let state = self.inner().lock(platform);
        let area = state.pages() << P::PAGE_SHIFT;
        if offset.checked_add(size).is_none_or(|end| end > area) {
            return Err(AreaError::Outside { offset, size, area });
        }
        let list = state.overlays().ok_or(AreaError::Kind)?;
        self.inner().add_reference()?;
        // Both objects were reserved.
        let lacking = || {
            self.inner().drop_window_reference();
            AreaError::OutOfFrames(OutOfFrames { wanted: 1 })
        };
        let memory = AreaMemory::take(&mut reserve, true).ok_or_else(lacking)?;
        let Some(record) = reserve.take_object::<Overlay<P>>() else {
            memory.put(&mut reserve);
            return Err(lacking());
        };
        // SAFETY: nodes always come from, and go to, the machine's pools.
        let tree = unsafe { PageTree::new() };
        let object = memory.make(AreaKind::Private { size }, pages, tree, data);
        // SAFETY: nobody else knows the area; the memory was just taken for a record; the reference was just counted, and the list is that of the
        // area, which is locked.
        unsafe { lay_over(object, record, (self.pointer(), offset >> P::PAGE_SHIFT), list) };
        drop(state);
        let mut rights = Rights::all();
        rights.set(Rights::EXECUTE, self.rights().contains(Rights::EXECUTE));
        Ok(Self::from_parts(platform.clone(), object).with_rights(rights))
    }

    /// Of a [private view](Self::overlay): another handle of the paged area that it is a view of. `None` for other areas. O(1).
    ///
    /// # Errors
    /// There are too many handles.
    #[cfg(feature = "posix")]
    pub(crate) fn viewed(&self) -> Result<Option<Self>, AreaError> {
        let below = self.inner().lock(self.platform()).laid().map(|overlay| overlay.below);
        // SAFETY: this handle keeps the view alive, which holds a reference to the area below as long as it lives.
        below.map(|below| unsafe { Self::another(self.platform(), below, Rights::all()) }).transpose()
    }

    /// How many private views of the area there are ([`overlay`](Self::overlay)), their clones and snapshots included. O(views).
    pub fn overlays(&self) -> usize {
        self.inner().lock(self.platform()).count_overlays().0
    }
}
