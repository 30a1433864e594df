//! Taking windows away, whole or in part.

use core::ptr::NonNull;

use crate::addr::{PageRange, RangeError, RangeFault};
use crate::frame::{FrameList, Need, Reserve};
use crate::paging::{Flush, Gather, Mmu, Pending};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState};
use crate::vm_space::index::{Index, Slot, page_size};
use crate::vm_space::inner::SpaceInner;
use crate::vm_space::release::Windows;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Unmaps whatever the range shows; holes in it are no error. The addresses are not reused, and the frames not freed, before the
    /// flush is complete. Areas keep their pages. All or nothing.
    ///
    /// Where the range is one window of which no CPU can remember anything (no page of it was touched), the flush is empty, and the addresses are free at once.
    ///
    /// Cost: O(windows + tables in the range); takes at most two records (where parts of windows stay), and tables where a large leaf is
    /// split.
    ///
    /// # Errors
    /// The range is not the space's, holds foreign tables or something sealed ([`SpaceError::Sealed`]), or there is no memory to split a window.
    pub fn unmap(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        self.unmap_if(range, |_| Ok(()))
    }

    /// As [`unmap`](Self::unmap), with its flush completed: when it returns no CPU can use anything of the range, its addresses are free, and what nothing else holds is given back. Cheaper
    /// than to [`complete`](Flush::complete) what `unmap` gives, which is large and has to be moved.
    ///
    /// Call it with no lock held that another CPU may need before it can answer. Many changes of which the CPUs are to hear once are better made by `unmap`, whose flushes can be
    /// [joined](Flush::and).
    ///
    /// Cost: as `unmap`, and the flush.
    ///
    /// # Errors
    /// As `unmap`.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// space.unmap_completed(range).unwrap();
    /// assert_eq!(space.frame_at(range.start()), None);
    /// assert!(space.map(&MapRequest::new(&area).at(0x40_0000)).is_ok(), "the addresses are free");
    /// # }
    /// ```
    pub fn unmap_completed(&self, range: PageRange) -> Result<(), SpaceError> {
        let (platform, mut pending) = (self.platform(), Pending::new());
        self.unmap_into(range, false, |_| Ok(()), &mut Reserve::new(platform), &mut pending)?;
        pending.complete_in_place(platform);
        Ok(())
    }

    /// As [`unmap`](Self::unmap); and pages that nothing can reach any more (their area has no handle, and no other window shows them) are released with the flush.
    /// What a program unmaps of its own memory is gone. All or nothing.
    ///
    /// Cost: as `unmap`, and an object and the nodes of two cut edges for each window.
    ///
    /// # Errors
    /// As `unmap`; a page that would be released is pinned; out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// drop(area); // from here on the window alone keeps it
    /// let free = sim.free_frame_count();
    /// space.unmap_and_release(space.range(0x40_1000, 0x3000).unwrap()).unwrap().complete();
    /// assert_eq!(sim.free_frame_count(), free + 3);
    /// # }
    /// ```
    pub fn unmap_and_release(&self, range: PageRange) -> Result<Flush<P, ()>, SpaceError> {
        self.unmap_with(range, true, |_| Ok(()), &mut Reserve::new(self.platform()))
    }

    /// Unmaps the range, unless `check` refuses.
    pub(super) fn unmap_if(
        &self,
        range: PageRange,
        check: impl Fn(&Index<P, Window<P, M>>) -> Result<(), SpaceError>,
    ) -> Result<Flush<P, ()>, SpaceError> {
        self.unmap_with(range, false, check, &mut Reserve::new(self.platform()))
    }

    /// Unmaps the range out of a reserve, unless `check` refuses.
    pub(super) fn unmap_with(
        &self,
        range: PageRange,
        release: bool,
        check: impl Fn(&Index<P, Window<P, M>>) -> Result<(), SpaceError>,
        reserve: &mut Reserve<P>,
    ) -> Result<Flush<P, ()>, SpaceError> {
        let mut pending = Pending::new();
        self.unmap_into(range, release, check, reserve, &mut pending)?;
        Ok(Flush::new(self.platform().clone(), pending, ()))
    }

    /// The same, and adds what is to be flushed to what was empty; it stays so where nothing was changed.
    #[inline]
    pub(super) fn unmap_into(
        &self,
        range: PageRange,
        release: bool,
        check: impl Fn(&Index<P, Window<P, M>>) -> Result<(), SpaceError>,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<(), SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let page_mask = page_size::<P>() - 1;
        if !inner.bounds.covers(range) || (range.start().as_u64() | range.size()) & page_mask != 0 {
            let fault = RangeFault::OutsideSpace;
            return Err(RangeError { fault, start: range.start().as_u64(), size: range.size() }.into());
        }
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index_at(platform, range.start());
            check(&index)?;
            if self.unmap_one(&mut index, range, release, reserve, pending).is_some() {
                return Ok(());
            }
            need = self.need_to_unmap(&index, range, release)?;
            if !reserve.covers_with_pools(&need) {
                continue;
            }
            self.check_tables(need.tables)?;
            self.commit_unmap(&mut index, range, release, reserve, pending);
            return Ok(());
        }
    }

    /// Unmaps a range that is one window, which most are, and of which nothing has to be cut. `None`, and no change, where it takes more.
    ///
    /// ```text
    ///   tables cleared ──nothing was there──► out of area and index at once: no CPU remembers anything
    ///                  ──something was──────► gated, until the flush is acknowledged
    /// ```
    fn unmap_one(
        &self,
        index: &mut Index<P, Window<P, M>>,
        range: PageRange,
        release: bool,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Option<()> {
        let (platform, inner) = (self.platform(), self.inner());
        let pointer = index.find_near(range.start()).filter(|slot| slot.range == range)?.window?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (pointer.as_ref(), pointer.as_ref().area.as_ref()) };
        let kept = window.flags.contains(WindowFlags::SEALED) || window.marks.contains(WindowMarks::GUARDED);
        if window.state == WindowState::Gated || kept || area.is_untracked() || inner.tally.limits_shown() {
            return None;
        }
        let mut state = area.lock(platform);
        if release && state.view_count() != 1 {
            return None;
        }
        let mut gather = Gather::default();
        // With the index exclusively, and the area: nothing is linked or mapped there meanwhile.
        let cleared = inner.leaf_tables.are_surely_clear(platform, range)
            || inner.tables.lock(platform).clear(platform, range, &mut reserve.tables, &mut gather).is_ok();
        let unchanged = gather.scope.is_empty() && gather.tables.is_empty();
        if !cleared && unchanged {
            // Something is to be cut, or is in the way.
            return None;
        }
        if state.is_unsettled() || window.marks.contains(WindowMarks::DROPPED) || !cleared {
            // As when a part is unmapped.
            gather.add_lingering(inner.tag, range, inner.global);
        } else if unchanged {
            // SAFETY: the view is linked in its area, which is locked.
            unsafe { state.unlink_view(pointer.cast()) };
            drop(state);
            index.remove(range.start(), reserve);
            inner.tally.change((0, 0), (1, range.pages(P::PAGE_SHIFT)));
            // SAFETY: neither index nor area know the record any more, and it waits in no flush. The reference to the area is given up, or waits there.
            unsafe {
                if area.drop_window_reference_beside_others() {
                    reserve.put_object(pointer);
                } else {
                    Window::defer_gone(pointer, pending);
                }
            }
            return Some(());
        }
        if !cleared {
            // As there: nothing that the tables may still lead to is released.
            pending.note_lost();
        }
        // SAFETY: the window is live, and in this space; index and area are locked.
        unsafe { defer_gated(inner, pointer, pending) };
        drop(state);
        inner.absorb_from(platform, &mut gather, pending);
        Some(())
    }

    /// What unmapping the range takes, of what is refused for another reason.
    pub(super) fn need_to_unmap(
        &self,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        release: bool,
    ) -> Result<Need, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let (records, nodes, guarded) = new_records(index, range)?;
        // Unmapping whole windows takes nothing, so that it works when nothing else does.
        inner.tally.check(records, 0, P::PAGE_SHIFT)?;
        if guarded {
            let mut guards = inner.guards.lock(platform);
            if guards.splits(range) {
                guards.reserve(1)?;
            }
        }
        let mut need = Need::default();
        index.add_need(nodes, &mut need);
        need.add_objects::<Window<P, M>>(records);
        need.tables = inner.tables.lock(platform).tables_to_split(platform, range);
        if release {
            need.merge(&self.need_to_release(index, range, Windows::Go)?);
        }
        Ok(need)
    }

    /// Everything is reserved: from here on nothing fails.
    fn commit_unmap(
        &self,
        index: &mut Index<P, Window<P, M>>,
        range: PageRange,
        release: bool,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) {
        let (platform, inner) = (self.platform(), self.inner());
        let mut gather = Gather::default();
        let mut next = Some(range.start());
        let overlaps = |slot: &Slot<_>| slot.range.overlaps(range);
        while let Some(slot) = next.and_then(|address| index.first_from(address)).filter(overlaps) {
            // One window is looked up once, where the range ends with it.
            next = slot.range.last().checked_add(1).filter(|next| range.contains(*next));
            if release {
                self.release_part(&slot, range, Windows::Go, reserve, pending);
            }
            // First the window is gated, so that what its area gives up from here on is flushed here too; then its tables
            // are cleared.
            let parts = self.gate(slot, range, reserve, &mut gather, pending);
            if let Some(middle) = slot.range.intersection(range) {
                clear_tables(platform, inner, slot, middle, &mut reserve.tables, &mut gather, pending);
            }
            // A window that goes as a whole keeps its slot until the flush is acknowledged.
            if !range.covers(slot.range) {
                index.replace(&slot, parts, reserve);
            }
        }
        inner.absorb(platform, gather, pending);
    }

    /// Gates what `range` covers of a slot's window; what lies before and after stays live. Gives the slots that take its place.
    fn gate(
        &self,
        slot: Slot<Window<P, M>>,
        range: PageRange,
        reserve: &mut Reserve<P>,
        gather: &mut Gather,
        pending: &mut Pending<P>,
    ) -> [Option<Slot<Window<P, M>>>; 3] {
        let inner = self.inner();
        let unchanged = [None, Some(slot), None];
        let (Some(pointer), Some(middle)) = (slot.window, slot.range.intersection(range)) else { return unchanged };
        // SAFETY: windows in the index are alive, and so are their areas.
        let (state, area) = unsafe { (pointer.as_ref().state, pointer.as_ref().area.as_ref()) };
        if state == WindowState::Gated {
            // Whoever unmapped it first waits for the flush; what this caller is told is true only after one as well.
            gather.add_lingering(inner.tag, middle, inner.global);
            return unchanged;
        }
        let mut area_state = area.lock(self.platform());
        self.gate_live(slot, pointer, middle, (area, &mut area_state), reserve, gather, pending)
    }

    /// Gates the part of a live window at `middle`, whose area is locked.
    #[allow(clippy::too_many_arguments, reason = "what a change works on, and what it adds to")]
    pub(super) fn gate_live(
        &self,
        slot: Slot<Window<P, M>>,
        pointer: NonNull<Window<P, M>>,
        middle: PageRange,
        (area, area_state): (&AreaInner<P>, &mut AreaState<P>),
        reserve: &mut Reserve<P>,
        gather: &mut Gather,
        pending: &mut Pending<P>,
    ) -> [Option<Slot<Window<P, M>>>; 3] {
        let inner = self.inner();
        // SAFETY: windows in the index are alive while it is locked (which the caller sees to).
        let marks = unsafe { pointer.as_ref() }.marks;
        // The part that is kept first keeps the record, and so its address.
        let (before, after) = (slot.range.before(middle), slot.range.after(middle));
        let mut parts = [None; 3];
        for (part, range) in parts.iter_mut().zip([before, Some(middle), after]) {
            let Some(range) = range else { continue };
            let keeps = if before.is_some() || after.is_some() { before.or(after) == Some(range) } else { true };
            let window = if keeps {
                pointer
            } else {
                // SAFETY: as above.
                let part = unsafe { pointer.as_ref() }.part(range);
                // As many records as there are parts were reserved.
                let Some(record) = reserve.take_object::<Window<P, M>>() else { continue };
                area.add_window_reference();
                inner.tally.change((1, 0), (0, 0));
                // SAFETY: the record was just taken for this type, is linked nowhere, and holds the reference just counted.
                unsafe {
                    record.write(part);
                    area_state.link_view(record.cast());
                }
                record
            };
            *part = Some(Slot { range, window: Some(window) });
        }
        if let Some(kept) = before.or(after) {
            // SAFETY: bounds are written with index and area locked, and read with one of them.
            unsafe { Window::set_bounds(pointer, kept) };
        }
        if let [_, Some(Slot { window: Some(gated), .. }), _] = parts {
            // SAFETY: the window is live, and in this space.
            unsafe { defer_gated(inner, gated, pending) };
        }
        if marks.contains(WindowMarks::GUARDED) {
            inner.guards.lock(self.platform()).remove(middle);
        }
        if area_state.is_unsettled() || marks.contains(WindowMarks::DROPPED) {
            // The area (or the window) gave pages up before, and that flush is outstanding: the tables hold nothing of them any more,
            // but these addresses must not be reused before every CPU has forgotten them.
            gather.add_lingering(inner.tag, middle, inner.global);
        }
        parts
    }
}

/// Gates the whole of a window, unless it is gated already. Called with the index locked.
///
/// # Safety
/// The window is in the space's index.
pub(super) unsafe fn gate_whole<P: Platform, M: Mmu>(
    platform: &P,
    inner: &SpaceInner<P, M>,
    window: NonNull<Window<P, M>>,
    gather: &mut Gather,
    pending: &mut Pending<P>,
) {
    // SAFETY: windows in the index are alive, and so are their areas.
    let (state, range, area, marks) = unsafe {
        (window.as_ref().state, window.as_ref().range(), window.as_ref().area.as_ref(), window.as_ref().marks)
    };
    if state == WindowState::Gated {
        return;
    }
    let area_state = area.lock(platform);
    // SAFETY: the window is live, and in this space.
    unsafe { defer_gated(inner, window, pending) };
    if area_state.is_unsettled() || marks.contains(WindowMarks::DROPPED) {
        // As when a part is unmapped.
        gather.add_lingering(inner.tag, range, inner.global);
    }
}

/// Marks a window as gated and puts it into the flush.
///
/// # Safety
/// The window is live and in this space; index and area are locked.
unsafe fn defer_gated<P: Platform, M: Mmu>(
    inner: &SpaceInner<P, M>,
    window: NonNull<Window<P, M>>,
    pending: &mut Pending<P>,
) {
    inner.add_reference();
    // SAFETY: the state is written with index and area locked, and read with one of them. A window is deferred once,
    // when it becomes gated; it stays in its pool until its release.
    unsafe {
        Window::set_gated(window);
        pending.defer(Window::deferred(window));
    }
}

/// Clears what the tables show of a part of a window.
pub(super) fn clear_tables<P: Platform, M: Mmu>(
    platform: &P,
    inner: &SpaceInner<P, M>,
    slot: Slot<Window<P, M>>,
    part: PageRange,
    spare: &mut FrameList,
    gather: &mut Gather,
    pending: &mut Pending<P>,
) {
    let Some(window) = slot.window else { return };
    // SAFETY: windows in the index are alive while it is locked (which the caller sees to), and so are their areas.
    let untracked = unsafe { window.as_ref().area.as_ref() }.is_untracked();
    let mut tables = inner.tables.lock(platform);
    let cleared = tables.unmap(platform, part, spare, gather, |pages, leaf| {
        // The frames of untracked memory are known to nothing but the leaf.
        for page in 0..if untracked { pages.pages(P::PAGE_SHIFT) } else { 0 } {
            let frame = leaf.frame.add(page);
            if platform.frame_meta(frame).is_some_and(|meta| meta.is_untracked_page()) {
                pending.add_page(platform, frame);
            }
        }
    });
    if cleared.is_err() {
        // The tables were checked and are this space's own, so this cannot be. If it were, leaves would be left behind: nothing
        // that they lead to may be released.
        pending.note_lost();
        gather.add_lingering(inner.tag, part, inner.global);
    }
}

/// Takes the tables away that an area left empty when it took its pages out of a part of a window. The index is locked, which the area's change does not
/// count on; and the area, so that nothing is shown there.
pub(super) fn unlink_empty_tables<P: Platform, M: Mmu>(
    platform: &P,
    inner: &SpaceInner<P, M>,
    part: PageRange,
    gather: &mut Gather,
    pending: &mut Pending<P>,
) {
    let mut tables = inner.tables.lock(platform);
    if tables.clear(platform, part, &mut FrameList::new(), gather).is_err() {
        pending.note_lost();
    }
}

/// How many records and how many nodes of the index unmapping the range takes: a record for each part that is not the first to stay of its
/// window, which is a new slot of the index as well; and whether guards may go with it.
fn new_records<P: Platform, M: Mmu>(
    index: &Index<P, Window<P, M>>,
    range: PageRange,
) -> Result<(usize, usize, bool), SpaceError> {
    let (mut count, mut cut, mut guarded) = (0, [None; 2], false);
    for slot in index.overlapping(range) {
        let Some(window) = slot.window else { return Err(SpaceError::Foreign(slot.range.start())) };
        // SAFETY: windows in the index are alive while it is locked.
        let (state, flags, marks) = unsafe { (window.as_ref().state, window.as_ref().flags, window.as_ref().marks) };
        guarded |= marks.contains(WindowMarks::GUARDED);
        if state == WindowState::Live {
            if flags.contains(WindowFlags::SEALED) {
                let first = slot.range.intersection(range).map_or(range.start(), |part| part.start());
                return Err(SpaceError::Sealed(first));
            }
            let (before, after) = (slot.range.before(range).is_some(), slot.range.after(range).is_some());
            if before {
                cut[0] = Some(slot.range.start());
            } else if after {
                cut[1] = Some(slot.range.start());
            }
            count += usize::from(before) + usize::from(after);
        }
    }
    let nodes = cut.into_iter().flatten().map(|address| index.nodes_needed(address, count)).sum();
    Ok((count, nodes, guarded))
}
