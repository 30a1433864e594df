//! The clone of a space: what costs the number of windows, not the number of pages.
//!
//! ```text
//!      parent                        parent                 child             after the child wrote to page 2
//!
//!   window ──► area          window ──► area     copy ◄── window         window ──► area      copy ◄── window
//!      │        │              :          └──┐  ┌──┘        :               │         │        │         │
//!    tables  pages 1 2       tables,        pages 1 2    (empty)          tables  pages 1 2   1 2'    tables: 2'
//!     1 2                   read-only
//! ```
//!
//! A private window's area gets a copy that shares its page tree ([`vm_area`](crate::vm_area)), and the parent may not write any more
//! before it asked: permission is cleared in the highest entries under which every window is private; gaps do not matter. Where entries
//! above the leaves cannot forbid it (RISC-V), the parent's tables are dropped instead, and filled again by faults.
//! The child's tables start empty.
//!
//! The child is in the flush: it is a clone only when every CPU that runs the parent has forgotten that it could write. Until
//! then no page that both have is copied either (`vm_area/gate.rs`).

use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Need, OutOfFrames, Reserve};
use crate::paging::{Access, Flush, Gather, Mmu, Pending, Tables};
use crate::platform::Platform;
use crate::vm_area::{AreaError, AreaInner, AreaMemory};
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::inner::SpaceInner;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
use crate::vm_space::{Inherit, Space, SpaceError};

impl<P: Platform> Space<P> {
    /// A second space with the same windows, as each [is inherited](Inherit): shared, as a copy whose pages are copied when one of
    /// the two writes to them, zeroed, or not at all. It is true (and can be used) once the flush is complete. Windows that are unmapped and wait for their flush
    /// are not cloned, nor are ranges of foreign tables. All or nothing.
    ///
    /// Cost: O(windows, and table entries that lie above both private and other windows); takes a window's record and an area's for each
    /// window, a root table, no pages.
    ///
    /// # Errors
    /// The kernel's space ([`SpaceError::Kernel`]); an untracked area, which has its one window already; a fixed, guarded or untracked area that is to be
    /// copied ([`AreaError::Kind`]); [`SpaceError::Retry`] while another CPU writes to an area directly; a full account (of a copied pinned page); out of frames.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Inherit, MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000).inherit(Inherit::Copy)).unwrap();
    /// let child = space.try_clone(()).unwrap().complete();
    /// let window = child.windows().next().unwrap();
    /// assert_eq!((window.range.start().as_u64(), window.kind), (0x40_0000, Some(AreaKind::Private { size: 0x4000 })));
    /// # }
    /// ```
    pub fn try_clone(&self, data: P::SpaceData) -> Result<Flush<P, Self>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let kernel = inner.kernel.ok_or(SpaceError::Kernel)?;
        let child = self.sibling(kernel, data)?;
        // By it the copies of one clone are told from those of others, also where a flush is never acknowledged.
        let number = platform.machine().next_clone();
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        loop {
            reserve.top_up(&need)?;
            let index = inner.lock_index(platform);
            // Guards change with the index locked.
            let guards = inner.guards.lock(platform).len();
            let windows;
            (need, windows) = need_to_clone(platform, &index)?;
            if guards != 0 {
                // One range may lie in many windows, of which not all are inherited.
                child.inner().guards.lock_unshared().reserve(guards.saturating_add(windows))?;
            }
            let mut made = child.inner().index.lock_unshared();
            made.add_need(Index::<P, Window<P, P::Mmu>>::nodes_of(windows), &mut need);
            if !reserve.covers(&need) {
                continue;
            }
            let mut pending = Pending::new();
            self.protect_private(&index, &mut pending);
            let cloned = child.inherit_windows(number, (inner, &index), &mut made, &mut reserve, &mut pending);
            child.inner().tally.limit_like(&inner.tally);
            drop(made);
            drop(index);
            drop(reserve);
            if let Err(error) = cloned {
                // What was taken from the parent comes back by faults.
                pending.complete(platform);
                return Err(error);
            }
            return Ok(Flush::new(platform.clone(), pending, child));
        }
    }

    /// Takes write permission from every private window, in the highest entries that no other window shares.
    fn protect_private(&self, index: &Index<P, Window<P, P::Mmu>>, pending: &mut Pending<P>) {
        let (platform, inner) = (self.platform(), self.inner());
        let mut gather = Gather::default();
        {
            let mut tables = inner.tables.lock(platform);
            let mmu = tables.mmu();
            // Beyond the windows it goes on to the ends of the root's entries: so those can be changed.
            let top = mmu.level(mmu.levels().saturating_sub(1)).map_or(P::PAGE_SHIFT, |level| level.shift);
            let mut run: Option<(VirtAddr, VirtAddr)> = None;
            // The first address behind the last window that is not private.
            let mut barrier = VirtAddr::new(0);
            let mut protect = |run: Option<(VirtAddr, VirtAddr)>, end: Option<VirtAddr>| {
                let Some((start, last)) = run else { return };
                let mut last = VirtAddr::new(last.as_u64() | ((1 << top) - 1));
                if let Some(end) = end.filter(|end| *end <= last) {
                    last = VirtAddr::new(end.as_u64().saturating_sub(1));
                }
                let range = PageRange::from_bounds(start, last);
                // Nothing is mapped between windows.
                let shown = |from: VirtAddr| index.first_from(from).map(|slot| slot.range);
                write_protect(platform, &mut *tables, range, &shown, &mut gather, pending);
                gather.add_lingering(inner.tag, range, inner.global);
            };
            for slot in index.overlapping(inner.bounds) {
                let is_private = slot.window.is_some_and(|window| {
                    // SAFETY: windows in the index are alive while it is locked.
                    let window = unsafe { window.as_ref() };
                    window.state == WindowState::Live && window.inherited() == Inherit::Copy
                });
                if is_private {
                    let start = run.map_or_else(|| slot.range.start().align_down(top).max(barrier), |(start, _)| start);
                    run = Some((start, slot.range.last()));
                } else {
                    protect(run.take(), Some(slot.range.start()));
                    barrier = slot.range.last().checked_add(1).unwrap_or(slot.range.last());
                }
            }
            protect(run, None);
        }
        inner.absorb(platform, gather, pending);
    }

    /// Makes the child's windows. Called on the child, with the parent's index locked.
    fn inherit_windows(
        &self,
        number: usize,
        (parent, windows): Parent<'_, P>,
        made: &mut Index<P, Window<P, P::Mmu>>,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<(), SpaceError> {
        let platform = self.platform();
        let lacking = SpaceError::OutOfFrames(OutOfFrames { wanted: 1 });
        let mut was_locked = false;
        for slot in windows.overlapping(self.inner().bounds) {
            let Some(window) = slot.window else { continue };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, original) = unsafe { (window.as_ref(), window.as_ref().area) };
            if window.state == WindowState::Gated || window.inherited() == Inherit::Nothing {
                continue;
            }
            let record = reserve.take_object::<Window<P, P::Mmu>>().ok_or(lacking)?;
            if !made.insert(Slot { range: slot.range, window: Some(record) }, reserve) {
                // SAFETY: the record is unused still.
                unsafe { reserve.put_object(record) };
                return Err(lacking);
            }
            // SAFETY: as above.
            let area = unsafe { self.inherited_area(number, (window, original), reserve, pending) };
            let area = match area {
                Ok(area) => area,
                Err(error) => {
                    let _ = made.remove(slot.range.start(), reserve);
                    // SAFETY: the record is unused still.
                    unsafe { reserve.put_object(record) };
                    return Err(error.into());
                }
            };
            // SAFETY: the memory was taken for this type and nobody else knows it; the window is linked nowhere, holds the
            // reference that came with the area, and stays where it is until its release.
            unsafe {
                record.write(window.part(slot.range).in_space(self.pointer(), area));
                area.as_ref().lock(platform).link_view(record.cast());
            }
            self.inner().tally.change((1, slot.range.pages(P::PAGE_SHIFT)), (0, 0));
            // What is wiped later than it was made begins without guards, too.
            let wiped = window.flags.contains(WindowFlags::INHERITED_AS_ZERO);
            if window.marks.contains(WindowMarks::GUARDED) && !wiped {
                let mut guarded = self.inner().guards.lock_unshared();
                for guard in parent.guards.lock(platform).within(slot.range) {
                    guarded.insert(guard);
                }
            }
            // The child's are not locked in memory: neighbours of which one is agree there.
            let is_locked = window.flags.contains(WindowFlags::LOCKED);
            if is_locked != was_locked {
                self.join(made, slot.range, reserve);
            }
            was_locked = is_locked;
        }
        Ok(())
    }

    /// The area of a window's counterpart in the child, with a reference for it. Called on the child.
    ///
    /// # Safety
    /// The window is alive, and `area` is its area.
    unsafe fn inherited_area(
        &self,
        number: usize,
        (window, area): (&Window<P, P::Mmu>, NonNull<AreaInner<P>>),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<NonNull<AreaInner<P>>, AreaError> {
        let platform = self.platform();
        // SAFETY: the caller's promise: the window keeps its area alive.
        let original = unsafe { area.as_ref() };
        match window.inherited() {
            Inherit::Share | Inherit::Nothing => {
                original.add_window_reference();
                Ok(area)
            }
            Inherit::Wipe => AreaInner::empty_like(platform, original, reserve),
            Inherit::Copy => {
                let mut state = original.lock(platform);
                // Several windows onto one area are windows onto one copy.
                if let Some(copy) = state.copy_for(number) {
                    // SAFETY: the child's first window onto it keeps it alive.
                    unsafe { copy.as_ref() }.add_window_reference();
                    return Ok(copy);
                }
                // SAFETY: the window keeps the area alive, and the state is its own.
                unsafe { AreaInner::copy(platform, area, &mut state, (number, true), reserve, pending) }
            }
        }
    }
}

/// The space that is cloned, and its index, which is locked.
type Parent<'a, P> = (&'a SpaceInner<P, <P as Platform>::Mmu>, &'a Index<P, Window<P, <P as Platform>::Mmu>>);

/// What a clone takes at the most beside nodes of its index, and how many windows it has. Refuses what cannot be inherited.
fn need_to_clone<P: Platform, M: Mmu>(
    platform: &P,
    index: &Index<P, Window<P, M>>,
) -> Result<(Need, usize), SpaceError> {
    let (mut need, mut windows) = (Need::default(), 0);
    for slot in index.iter() {
        let Some(window) = slot.window else { continue };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
        if window.state == WindowState::Gated || window.inherited() == Inherit::Nothing {
            continue;
        }
        need.add_objects::<Window<P, M>>(1);
        windows += 1;
        match window.inherited() {
            Inherit::Share if area.is_untracked() => {
                return Err(SpaceError::SingleWindow);
            }
            Inherit::Wipe => AreaMemory::<P>::add_need(false, &mut need),
            Inherit::Copy => {
                let state = area.lock(platform);
                area.check_copy(&state).map_err(|error| match error {
                    AreaError::Retry => SpaceError::Retry(slot.range.start()),
                    error => error.into(),
                })?;
                AreaInner::<P>::add_need_for_copy(&state, &mut need);
            }
            _ => {}
        }
    }
    Ok((need, windows))
}

/// Takes write permission from what the tables show of a range, in the parts that are [`shown`](Tables::write_protect_shown); or takes all of it out of the tables, where that costs
/// less. A large leaf that lies across an end of the range is dropped. The index is locked exclusively.
fn write_protect<P: Platform, M: Mmu>(
    platform: &P,
    tables: &mut Tables<M>,
    range: PageRange,
    shown: &impl Fn(VirtAddr) -> Option<PageRange>,
    gather: &mut Gather,
    pending: &mut Pending<P>,
) {
    let across = tables.drop_across(platform, range, gather);
    let done = if limits_writes(tables) {
        tables.write_protect_shown(platform, range, shown, &mut FrameList::new(), gather).map(drop)
    } else {
        tables.detach(platform, range, gather)
    };
    if across.and(done).is_err() {
        note_writable(pending);
    }
}

/// Takes write permission from what the tables show of a range, which lies in windows of one area, whose lock is held; the index need not be. No table is
/// unlinked: what cannot be left without permission is dropped leaf by leaf, and so is a large leaf that lies across an end of the range. `shared` says that other spaces' roots lead to these tables too.
pub(super) fn write_protect_beside<P: Platform, M: Mmu>(
    platform: &P,
    tables: &mut Tables<M>,
    range: PageRange,
    shared: bool,
    gather: &mut Gather,
    pending: &mut Pending<P>,
) {
    let across = tables.drop_across(platform, range, gather);
    let done = if shared || !limits_writes(tables) {
        // Roots of other spaces hold entries of their own for these tables: nothing is said in them that those would not say.
        let keep = Access::all().difference(Access::WRITE);
        match tables.restrict(platform, range, keep, &mut FrameList::new(), gather) {
            Ok(true) => Ok(()),
            Ok(false) => tables.drop_leaves(platform, range, gather),
            Err(error) => Err(error),
        }
    } else {
        // Only in entries that the range covers as a whole: no fault in another area passes through them.
        tables.write_protect(platform, range, &mut FrameList::new(), gather).map(drop)
    };
    if across.and(done).is_err() {
        note_writable(pending);
    }
}

/// Whether an entry above leaves can forbid writing to all that lies below.
fn limits_writes<M: Mmu>(tables: &Tables<M>) -> bool {
    (1..tables.mmu().levels()).any(|level| tables.can_limit_writes(level))
}

/// The tables are the space's own, and nothing has to be split, so write permission can be taken. If it could not, somebody
/// could still write: what the flush brings is never true.
fn note_writable<P: Platform>(pending: &mut Pending<P>) {
    pending.note_lost();
}
