//! Several changes of which the last must not fail once the first is made: what all of them take is reserved before the first.
//!
//! ```text
//!   reserve_steps ──► unmap_with ──► flush ──► map_with, move_with, …
//!   (may fail: nothing was changed)            └ out of the same reserve: they find what they want
//! ```
//!
//! Each step still looks before it changes, since the locks are given up between them. What one finds other than it was when it was counted (another CPU
//! changed the space meanwhile) is taken from the pools, and then it can fail.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::lock::ExclusiveGuard;
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_area::{Area, AreaMemory, Rights};
use crate::vm_space::index::{GapRequest, Index, IndexNode};
use crate::vm_space::window::{Window, WindowFlags, WindowState};
use crate::vm_space::{Space, SpaceError};

/// A change that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Unmap what is there, and release what is reached no more.
    Unmap(PageRange),
    /// Make a window at these addresses.
    Map(PageRange, Access),
    /// Move what is at the first addresses to those that begin at the second.
    Move(PageRange, VirtAddr),
}

/// How many slots a change adds to the index at the most.
const MOST_SLOTS: usize = 3;

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Takes what all of the steps take together, and a page, an object or a table more than they say where an earlier step can change what a later one takes.
    ///
    /// # Errors
    /// What any of the steps is refused for, as things are now; out of frames.
    pub(crate) fn reserve_steps(&self, steps: impl IntoIterator<Item = Step>) -> Result<Reserve<P>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        let (mut guards, mut slots) = (0, 0);
        for step in steps {
            let range = match step {
                Step::Unmap(range) | Step::Map(range, _) | Step::Move(range, _) => range,
            };
            self.check_range(range)?;
            let index = inner.lock_index(platform);
            match step {
                Step::Unmap(range) => {
                    need.merge(&self.need_to_unmap(&index, range, true)?);
                    guards += 1;
                    if slots == 0 {
                        // The first step finds things as they are.
                        slots += MOST_SLOTS;
                        continue;
                    }
                    // What comes to lie across its edges by an earlier step is cut as well.
                    need.add_objects::<Window<P, M>>(2);
                }
                Step::Map(_, access) => {
                    self.check_write_execute(access, range)?;
                    need.add_objects::<Window<P, M>>(1);
                }
                Step::Move(range, to) => {
                    let (more, windows) = self.need_to_move(&index, range, to, &mut slots)?;
                    need.merge(&more);
                    guards += 3 * windows;
                    need.add_objects::<Window<P, M>>(3);
                }
            }
            slots += MOST_SLOTS;
            need.add_objects::<IndexNode>(index.nodes_at_most(slots));
        }
        {
            let mut guarded = inner.guards.lock(platform);
            if guarded.len() != 0 && guards != 0 {
                guarded.reserve(guards)?;
            }
        }
        reserve.top_up(&need)?;
        Ok(reserve)
    }

    /// What moving the windows in a range takes, and how many they are. `slots` may have been added to the index before.
    fn need_to_move(
        &self,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        to: VirtAddr,
        slots: &mut usize,
    ) -> Result<(Need, usize), SpaceError> {
        let platform = self.platform();
        let (mut need, mut windows) = (Need::default(), 0);
        let tables = self.inner().tables.lock(platform);
        for slot in index.overlapping(range) {
            let Some(part) = slot.range.intersection(range) else { continue };
            let window = slot.window.ok_or(SpaceError::Foreign(part.start()))?;
            // SAFETY: windows in the index are alive while it is locked.
            let (state, flags) = unsafe { (window.as_ref().state, window.as_ref().flags) };
            if state == WindowState::Gated {
                return Err(SpaceError::Retry(part.start()));
            }
            if flags.contains(WindowFlags::SEALED) {
                return Err(SpaceError::Sealed(part.start()));
            }
            let offset = part.start().as_u64() - range.start().as_u64();
            let arrives = to.checked_add(offset).and_then(|start| self.range_in(&tables.mmu(), start, part.size()));
            let arrives = arrives.ok_or(SpaceError::NoGap(range.size()))?;
            // What is shown at the new place now goes before.
            need.tables = need.tables.saturating_add(tables.tables_to_move(platform, part, arrives)).saturating_add(2);
            need.tables = need.tables.saturating_add(tables.tables_to_map_at_most(arrives));
            need.add_objects::<Window<P, M>>(4);
            // It is cut at both edges, and comes to lie elsewhere, or is left as well.
            *slots += 2 * MOST_SLOTS;
            need.add_objects::<IndexNode>(2 * index.nodes_at_most(*slots));
            AreaMemory::<P>::add_need_of_any(&mut need);
            windows += 1;
        }
        Ok((need, windows))
    }

    /// A range of the space, whatever it holds.
    fn range_in(&self, mmu: &M, start: VirtAddr, size: u64) -> Option<PageRange> {
        let range = mmu.range(start.as_u64(), size).ok()?;
        self.inner().bounds.covers(range).then_some(range)
    }

    /// Unmaps what is in a range, and releases what is reached no more, out of a reserve. True when it returns.
    pub(crate) fn unmap_out_of(&self, range: PageRange, reserve: &mut Reserve<P>) -> Result<(), SpaceError> {
        self.unmap_with(range, true, |_| Ok(()), reserve)?.complete();
        Ok(())
    }

    /// Moves whatever windows are in a range, with the gaps between them, out of a reserve; each is moved as it is found, and leaves the
    /// old addresses mapped if told so. Nothing is at the new place.
    pub(crate) fn move_windows(
        &self,
        range: PageRange,
        to: VirtAddr,
        leave: bool,
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        let platform = self.platform();
        let mut next = Some(range.start());
        while let Some(from) = next {
            // What was left behind by the part before may have become one window with what comes now.
            let rest = PageRange::from_bounds(from, range.last());
            let part = {
                let index = self.inner().lock_index(platform);
                let slot = index.first_from(from).filter(|slot| slot.range.overlaps(rest));
                slot.and_then(|slot| slot.range.intersection(rest))
            };
            let Some(part) = part else { break };
            next = part.last().checked_add(1).filter(|next| range.contains(*next));
            let place = to.as_u64().wrapping_add(part.start().as_u64() - range.start().as_u64());
            let place = crate::vm_space::Place::At(place);
            self.move_with(part, part.size(), place, leave, reserve)?.complete();
        }
        Ok(())
    }

    /// Whether nothing is in the range, and no change of it is outstanding.
    pub(crate) fn is_free(&self, range: PageRange) -> bool {
        self.inner().lock_index(self.platform()).overlapping(range).next().is_none()
    }

    /// The highest gap of so many bytes within these addresses.
    pub(crate) fn highest_gap(&self, limits: PageRange, size: u64) -> Option<PageRange> {
        let limits = self.inner().bounds.intersection(limits)?;
        let (first, last) = (limits.start().as_u64(), limits.last().as_u64());
        let request = GapRequest { first, last, size, alignment: P::PAGE_SHIFT, phase: 0 };
        let start = self.inner().lock_index(self.platform()).highest_gap(&request)?;
        Some(PageRange::from_checked(start, size))
    }

    /// Whether a page of the range is refused to every access: it is guarded, or past the end of its area.
    pub(crate) fn refuses_some(&self, range: PageRange) -> bool {
        let platform = self.platform();
        let index = self.inner().lock_index(platform);
        index.overlapping(range).any(|slot| {
            let (Some(window), Some(part)) = (slot.window, slot.range.intersection(range)) else { return false };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            let (first, count) = (window.area_page(part.start()), part.pages(P::PAGE_SHIFT));
            self.first_guard(window, part).is_some() || area.first_refused(&area.lock(platform), first, count).is_some()
        })
    }

    /// Has it be asked which private pages were written to: the index is locked as long as that is held.
    pub(crate) fn written_pages(&self) -> WrittenPages<'_, P, M> {
        WrittenPages { platform: self.platform(), index: self.inner().lock_index(self.platform()) }
    }

    /// A handle of what the window at an address shows. (Areas with handles keep pages that a window gives up: it is for a short while.)
    pub(crate) fn area_at(&self, address: VirtAddr) -> Result<Area<P>, SpaceError> {
        let index = self.inner().lock_index(self.platform());
        let window = index.find(address).and_then(|slot| slot.window).ok_or(SpaceError::NoWindow(address))?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas: the window's reference keeps the area alive.
        Ok(unsafe { Area::another(self.platform(), window.as_ref().area, Rights::all()) }?)
    }
}

/// The pages of a space, for who asks which were written to.
pub(crate) struct WrittenPages<'a, P: Platform, M: Mmu> {
    platform: &'a P,
    index: ExclusiveGuard<'a, P, Index<P, Window<P, M>>>,
}

impl<P: Platform, M: Mmu> WrittenPages<'_, P, M> {
    /// Whether a private page of the range was written to, since its area exists.
    pub(crate) fn are_some_in(&self, range: PageRange) -> bool {
        self.index.overlapping(range).any(|slot| {
            let (Some(window), Some(part)) = (slot.window, slot.range.intersection(range)) else { return false };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
            area.lock(self.platform).was_written(window.area_page(part.start()), part.pages(P::PAGE_SHIFT))
        })
    }
}
