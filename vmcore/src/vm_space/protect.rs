//! Changing what windows allow.
//!
//! ```text
//!   tables         taken away at once, and flushed          added by faults
//!   protect(r--)   rw- ──► r--
//!   protect(rw-)                                            r-- ──write──► rw-   (if the page is the area's own, and dirty from now on)
//! ```
//!
//! Nothing is added to the tables here: a leaf may have less than its window because its page is clean or shared, and only the area knows. A page
//! that is written after its window was raised costs one fault, a page that is not costs nothing; asking the area for every page would
//! cost each of them a look-up. Areas whose pages are never clean nor shared (fixed and untracked ones) are different: their leaves
//! always have what the window allows, and large ones are changed whole.

use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Need, Reserve};
use crate::paging::{Access, EncodeError, Flush, Gather, Leaf, Mmu, Pending, Tables};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState, Rights};
use crate::vm_space::edit::{Part, cut_off, join_two};
use crate::vm_space::fill::check_encoding;
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::inner::SpaceInner;
use crate::vm_space::window::{Window, WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

/// What becomes of the leaves of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// They get this access.
    Given(Access),
    /// They keep of theirs what this has.
    Restricted(Access),
    /// They go.
    Dropped,
}

impl Leaves {
    fn of<P: Platform>(area: &AreaInner<P>, access: Access) -> Self {
        if !allows_anything(access) {
            Self::Dropped
        } else if area.is_fixed() || area.is_untracked() {
            Self::Given(access)
        } else {
            Self::Restricted(access)
        }
    }

    /// Whether a leaf is changed.
    fn concerns(self, leaf: &Leaf) -> bool {
        match self {
            Self::Given(access) => leaf.access != access,
            Self::Restricted(keep) => !keep.contains(leaf.access),
            Self::Dropped => true,
        }
    }
}

/// Whether a window with this access allows any at all.
pub(super) fn allows_anything(access: Access) -> bool {
    access.intersects(Access::READ | Access::WRITE | Access::EXECUTE)
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Gives every window in the range this access from now on, whatever it had; [`Access::empty`] forbids everything and keeps the pages. Windows are cut at the range's
    /// edges, and neighbours that agree become one. All or nothing.
    ///
    /// What is taken away is gone when the flush is complete (which is empty if nothing was). What is added is there at once, and costs
    /// each page a fault when it is first used so.
    ///
    /// Cost: O(log n + windows in the range + tables and leaves there that have more); takes at most two records, and tables where a large leaf is split.
    ///
    /// # Errors
    /// Nothing was changed. The lowest address at which nothing is mapped ([`SpaceError::NoWindow`]), a change is still being flushed
    /// ([`SpaceError::Retry`]), or the window is sealed ([`SpaceError::Sealed`]); the handle that a window was mapped with does not permit it
    /// ([`SpaceError::Rights`]); the space forbids what is writable and executable ([`SpaceError::WriteExecute`]); the range is not the space's or holds foreign tables; the format cannot represent it;
    /// out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000)).unwrap();
    ///
    /// let middle = space.range(0x40_1000, 0x1000).unwrap();
    /// space.protect(middle, Access::READ).unwrap().complete();
    /// assert_eq!(space.windows().count(), 3);
    /// let write = Fault::new(0x40_1000, Access::WRITE | Access::USER);
    /// assert!(matches!(space.fault(write), Err(SpaceError::Denied { .. })));
    ///
    /// space.protect(middle, Access::KERNEL_DATA).unwrap().complete();
    /// assert_eq!(space.windows().count(), 1);
    /// assert!(space.fault(write).is_ok());
    /// # }
    /// ```
    pub fn protect(&self, range: PageRange, access: Access) -> Result<Flush<P, ()>, SpaceError> {
        let mut pending = Pending::new();
        self.protect_into(range, access, &mut pending)?;
        Ok(Flush::new(self.platform().clone(), pending, ()))
    }

    /// As [`protect`](Self::protect), with its flush completed: when it returns no CPU can use what was taken away. Cheaper than to [`complete`](Flush::complete) what `protect` gives, which
    /// is large and has to be moved.
    ///
    /// Call it with no lock held that another CPU may need before it can answer. Many changes of which the CPUs are to hear once are better made by `protect`, whose flushes can be
    /// [joined](Flush::and).
    ///
    /// Cost: as `protect`, and the flush.
    ///
    /// # Errors
    /// As `protect`.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000)).unwrap();
    /// space.protect_completed(range, Access::READ).unwrap();
    /// let write = Fault::new(0x40_1000, Access::WRITE | Access::USER);
    /// assert!(matches!(space.fault(write), Err(SpaceError::Denied { .. })));
    /// # }
    /// ```
    pub fn protect_completed(&self, range: PageRange, access: Access) -> Result<(), SpaceError> {
        let mut pending = Pending::new();
        self.protect_into(range, access, &mut pending)?;
        pending.complete_in_place(self.platform());
        Ok(())
    }

    /// Protects the range, and adds what is to be flushed to what was empty; it stays so where nothing was changed.
    fn protect_into(&self, range: PageRange, access: Access, pending: &mut Pending<P>) -> Result<(), SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        self.check_range(range)?;
        let mut access = access;
        access.set(Access::USER, !inner.global);
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index_at(platform, range.start());
            if self.protect_within_one(&mut index, range, access, &mut reserve, pending)? {
                return Ok(());
            }
            need = Need::default();
            Self::each_part(&index, range, |part| {
                self.check_new_access(&part, access)?;
                need.tables = need.tables.saturating_add(self.tables_to_protect(&part, access)?);
                Ok(())
            })?;
            self.reserve_cuts(&index, range, &mut need)?;
            if !reserve.covers_with_pools(&need) {
                continue;
            }
            self.check_tables(need.tables)?;
            // From here on nothing fails.
            self.cut(&mut index, range, &mut reserve);
            let mut gather = Gather::default();
            Self::each_window(&index, range, |range, window| {
                // SAFETY: windows in the index are alive while it is locked, and so are their areas.
                let area = unsafe { window.as_ref().area.as_ref() };
                let state = area.lock(platform);
                let leaves = Leaves::of(area, access);
                // SAFETY: as above.
                if lingers(unsafe { window.as_ref() }, access, &state) {
                    gather.add_lingering(inner.tag, range, inner.global);
                }
                // SAFETY: as above; and index and area are locked, with no reference to the window across its change.
                unsafe { note_access(window, access, leaves == Leaves::Dropped) };
                let mut tables = inner.tables.lock(platform);
                let changed = change_leaves(platform, &mut tables, range, leaves, &mut reserve.tables, &mut gather);
                if let Ok(false) = changed {
                    // SAFETY: index and area are locked, and no reference to the window is in use.
                    unsafe { Window::note(window, WindowMarks::DROPPED) };
                }
                if changed.is_err() {
                    // The tables were checked and are this space's own, so this cannot be. If it were, leaves would be left with more than
                    // their window: nothing that they lead to may be released.
                    pending.note_lost();
                }
            });
            self.join(&mut index, range, &mut reserve);
            inner.absorb(platform, gather, pending);
            return Ok(());
        }
    }

    /// Protects a range within one window, which most are: it is cut, and what changes of it joined with its neighbours, in one change of the index. False, and
    /// no change, where it takes more than records.
    ///
    /// ```text
    ///   slots before   | left |---------- window ----------| right |      left and right count only where the range ends with the window
    ///                         | before |  range  |  after  |
    ///   slots after           | before |  range  |  after  |              or with the range in left, in right or in both
    /// ```
    ///
    /// # Errors
    /// As [`protect`](Self::protect); nothing was changed.
    fn protect_within_one(
        &self,
        index: &mut Index<P, Window<P, M>>,
        range: PageRange,
        access: Access,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<bool, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let Some(slot) = index.find_near(range.start()).filter(|slot| slot.range.covers(range)) else {
            return Ok(false);
        };
        let Some(pointer) = slot.window else { return Ok(false) };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (pointer.as_ref(), pointer.as_ref().area.as_ref()) };
        if window.state == WindowState::Gated || window.access == access || inner.tally.limits_shown() {
            return Ok(false);
        }
        let part = Part { range, window, area };
        self.check_new_access(&part, access)?;
        let (first, pages) = (window.area_page(range.start()), range.pages(P::PAGE_SHIFT));
        check_encoding(area, inner.mmu(), access, inner.global, first, pages)?;

        // What is cut, what is joined, and whether one change of the index does.
        let (before, after) = (slot.range.before(range), slot.range.after(range));
        let cuts = [before, after].iter().flatten().count();
        let neighbour = |slot: Option<Slot<Window<P, M>>>, carries_on: &dyn Fn(&Window<P, M>) -> bool| {
            let slot = slot?;
            let pointer = slot.window?;
            // SAFETY: as above.
            let window = unsafe { pointer.as_ref() };
            (window.access == access && carries_on(window)).then_some((slot, pointer))
        };
        let last = range.start().as_u64().checked_sub(1).filter(|_| before.is_none());
        let left = neighbour(last.and_then(|last| index.find_near(VirtAddr::new(last))), &|left| {
            left.is_carried_on_in_all_but_access_by(window)
        });
        let next = range.last().checked_add(1).filter(|_| after.is_none());
        let right = neighbour(next.and_then(|next| index.find_near(next)), &|right| {
            window.is_carried_on_in_all_but_access_by(right)
        });
        let joins = usize::from(left.is_some()) + usize::from(right.is_some());
        let start = left.map_or(slot.range.start(), |(left, _)| left.range.start());
        if !index.can_splice(start, 1 + joins, 1 + cuts) {
            return Ok(false);
        }
        inner.tally.check(cuts, 0, P::PAGE_SHIFT)?;
        let mut need = Need::default();
        need.add_objects::<Window<P, M>>(cuts);
        if !reserve.covers_with_pools(&need) {
            return Ok(false);
        }

        let mut state = area.lock(platform);
        let mut gather = Gather::default();
        let leaves = Leaves::of(area, access);
        // With the index exclusively, and the area: nothing is linked or mapped there meanwhile.
        let found = inner.leaf_tables.walk(platform, range.start());
        let changed = if found.is_some_and(|found| inner.leaf_tables.is_surely_clear(platform, &found, range)) {
            Ok(true)
        } else {
            let mut tables = inner.tables.lock(platform);
            let found = found.filter(|found| inner.leaf_tables.is_in_one_table(found, range));
            let edges = [before.map(|_| range.start()), after.map(|after| after.start())];
            let is_across = |edge: &Option<VirtAddr>| edge.is_some_and(|at| tables.tables_to_cut_at(platform, at) != 0);
            if found.is_none() && edges.iter().any(is_across) {
                return Ok(false);
            }
            let restricted = match (&found, leaves) {
                (Some(found), Leaves::Restricted(keep)) => {
                    tables.restrict_found(platform, found, range, keep, &mut gather)
                }
                _ => None,
            };
            match restricted {
                Some(true) => Ok(true),
                _ => change_leaves(platform, &mut tables, range, leaves, &mut reserve.tables, &mut gather),
            }
        };
        if changed.is_err() {
            if gather.scope.is_empty() && gather.tables.is_empty() {
                // A larger leaf is to be cut, or something is in the way: nothing was changed.
                return Ok(false);
            }
            // As where it takes more.
            pending.note_lost();
        }
        // From here on nothing fails.
        area.add_window_references(cuts);
        if lingers(window, access, &state) {
            gather.add_lingering(inner.tag, range, inner.global);
        }
        let (mut middle, mut parts) = (pointer, [None; 3]);
        let [low, mid, high] = &mut parts;
        // SAFETY: as many records as cuts were taken for this type, and are linked nowhere; index and area are locked, and no reference to a window is used across its change.
        // Each that is joined carries the other on.
        unsafe {
            if let Some(before) = before {
                if let Some(record) = reserve.take_object::<Window<P, M>>() {
                    cut_off(
                        pointer,
                        before,
                        PageRange::from_bounds(range.start(), slot.range.last()),
                        record,
                        &mut state,
                    );
                    *low = Some(Slot { range: before, window: Some(pointer) });
                    middle = record;
                }
            }
            if let Some(after) = after {
                if let Some(record) = reserve.take_object::<Window<P, M>>() {
                    cut_off(middle, range, after, record, &mut state);
                    *high = Some(Slot { range: after, window: Some(record) });
                }
            }
            let is_incomplete = leaves == Leaves::Dropped || matches!(changed, Ok(false));
            note_access(middle, access, is_incomplete);
            let mut shown = range;
            if let Some((left, stays)) = left {
                join_two(stays, middle, &mut state);
                reserve.put_object(middle);
                (middle, shown) = (stays, PageRange::from_bounds(left.range.start(), shown.last()));
            }
            if let Some((right, goes)) = right {
                join_two(middle, goes, &mut state);
                reserve.put_object(goes);
                shown = PageRange::from_bounds(shown.start(), right.range.last());
            }
            *mid = Some(Slot { range: shown, window: Some(middle) });
        }
        // The window that is left holds another reference.
        area.drop_window_references(joins);
        drop(state);
        let spliced = index.splice(start, 1 + joins, parts);
        debug_assert!(spliced, "it was asked before");
        inner.tally.change((cuts, 0), (joins, 0));
        inner.absorb_from(platform, &mut gather, pending);
        Ok(true)
    }

    /// Whether a window may have another access.
    fn check_new_access(&self, part: &Part<'_, P, M>, access: Access) -> Result<(), SpaceError> {
        part.check_unsealed()?;
        let missing = Rights::for_access(access).difference(Rights::for_access(part.window.limit()));
        if !missing.is_empty() {
            return Err(SpaceError::Rights(missing));
        }
        self.check_write_execute(access, part.range)?;
        if !allows_anything(access) && part.area.is_untracked() {
            // Nothing but the tables knows its pages.
            return Err(SpaceError::Encode(EncodeError::Access(access)));
        }
        Ok(())
    }

    /// How many tables the change of a part takes, and whether the format can represent it.
    fn tables_to_protect(&self, part: &Part<'_, P, M>, access: Access) -> Result<u64, SpaceError> {
        let (platform, inner): (_, &SpaceInner<P, M>) = (self.platform(), self.inner());
        let (first, pages) = (part.window.area_page(part.range.start()), part.range.pages(P::PAGE_SHIFT));
        check_encoding(part.area, inner.mmu(), access, inner.global, first, pages)?;
        let leaves = Leaves::of(part.area, access);
        let tables = inner.tables.lock(platform);
        Ok(tables.check_access_change(platform, part.range, |leaf| leaves.concerns(leaf))?)
    }
}

/// Whether other CPUs may remember more of a window than the tables say, from a change whose flush is outstanding, that another access takes away: what this caller is
/// told must be true of those as well.
fn lingers<P: Platform, M: Mmu>(window: &Window<P, M>, access: Access, state: &AreaState<P>) -> bool {
    window.may_linger(access) || (!access.contains(window.access) && state.is_unsettled())
}

/// Gives a window another access, and notes whether its tables lost leaves for it.
///
/// # Safety
/// As for [`Window::set_access`].
unsafe fn note_access<P: Platform, M: Mmu>(window: NonNull<Window<P, M>>, access: Access, dropped: bool) {
    // SAFETY: forwarded.
    unsafe {
        Window::set_access(window, access);
        if dropped {
            Window::note(window, WindowMarks::DROPPED);
        }
    }
}

/// False if leaves were dropped because the format cannot say what they keep.
fn change_leaves<P: Platform, M: Mmu>(
    platform: &P,
    tables: &mut Tables<M>,
    range: PageRange,
    leaves: Leaves,
    spare: &mut FrameList,
    gather: &mut Gather,
) -> Result<bool, crate::paging::TableError> {
    match leaves {
        Leaves::Given(access) => tables.protect(platform, range, access, spare, gather)?,
        Leaves::Restricted(keep) => {
            if !tables.restrict(platform, range, keep, spare, gather)? {
                // The format has no entry for what some leaf would keep: all of them are dropped, and come back by faults. No leaf
                // lies across the ends of a window.
                tables.clear(platform, range, spare, gather)?;
                return Ok(false);
            }
        }
        Leaves::Dropped => tables.clear(platform, range, spare, gather)?,
    }
    Ok(true)
}
