//! What fills the tables of a part of a window: what it takes, and the filling itself, which cannot fail for want of anything.

use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::lock::Guard;
use crate::paging::{Access, Gather, Leaf, Mmu, Pending, Tables};
use crate::platform::Platform;
use crate::vm_area::{Answer, AreaInner, AreaState, PageWait, Want};
use crate::vm_space::SpaceError;
use crate::vm_space::huge::{BlockPlace, block_shift, blocks_to_make, make_large, raise_large};
use crate::vm_space::index::page_size;
use crate::vm_space::inner::SpaceInner;
use crate::vm_space::protect::allows_anything;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks};

/// Filling a part of a window.
pub(super) struct Fill<'a, P: Platform> {
    pub(super) area: &'a AreaInner<P>,
    pub(super) access: Access,
    pub(super) global: bool,
    /// What pages are wanted for.
    pub(super) want: Want,
    /// Whether pages may be mapped with less than the window allows.
    pub(super) raised: bool,
    /// Whether to stop at a page that the embedder has to bring, and ask for it; it is passed over otherwise.
    pub(super) ask: bool,
    /// Whether to make blocks of pages that do not exist for large leaves, in a window with these marks.
    pub(super) blocks: Option<WindowMarks>,
}

impl<'a, P: Platform> Fill<'a, P> {
    /// `access` is what is wanted; `None` for all that the window allows.
    pub(super) fn of<M: Mmu>(
        window: &Window<P, M>,
        area: &'a AreaInner<P>,
        space: &SpaceInner<P, M>,
        access: Option<Access>,
    ) -> Self {
        let want = Want::Settled(access.unwrap_or(window.access).contains(Access::WRITE));
        let raised = window.marks.contains(WindowMarks::RAISED);
        Self { area, access: window.access, global: space.global, want, raised, ask: true, blocks: None }
    }

    /// The same, with large leaves where the window wants them and none was refused.
    pub(super) fn with_blocks<M: Mmu>(
        self,
        window: &Window<P, M>,
        tables: &Tables<M>,
        reserve: &mut Reserve<P>,
    ) -> Self {
        if let (true, Some(shift)) = (window.flags.contains(WindowFlags::HUGE), block_shift::<P, M>(tables)) {
            reserve.allow_blocks(shift - P::PAGE_SHIFT);
            return Self { blocks: reserve.may_have_blocks().then_some(window.marks), ..self };
        }
        self
    }

    /// The same, passing over pages that the embedder has to bring.
    pub(super) fn of_what_is_there(self) -> Self {
        Self { ask: false, ..self }
    }

    /// The leaf for a page of the window.
    pub(super) fn leaf(&self, frame: crate::addr::Frame, writable: bool) -> Leaf {
        leaf_for(self.area, self.access, self.global, frame, writable)
    }

    /// Adds what populating takes at the present state. Refuses what the area would refuse.
    pub(super) fn add_need<M: Mmu>(
        &self,
        platform: &P,
        state: &AreaState<P>,
        tables: &Tables<M>,
        range: PageRange,
        first: u64,
        need: &mut Need,
    ) -> Result<(), SpaceError> {
        let pages = range.pages(P::PAGE_SHIFT);
        self.check(state, range, first)?;
        match self.area.frames() {
            Some(frames) => {
                // Where some of it is mapped already (it was touched), the rest is filled page by page.
                let whole = tables.is_clear(platform, range).then(|| frames.first().add(first));
                need.tables += tables.tables_to_map(platform, range, whole, largest(tables));
            }
            None if self.area.is_untracked() => {
                need.tables += tables.tables_to_map(platform, range, None, 0);
                let mapped: u64 = tables.runs(platform, range).map(|(run, _)| run.pages(P::PAGE_SHIFT)).sum();
                need.pages += pages.saturating_sub(mapped);
            }
            None if self.area.is_paged() => {
                need.tables += tables.tables_to_map(platform, range, None, 0);
                need.merge(&state.need_to_ask(first, pages));
            }
            None if state.is_overlay() => {
                need.tables += if self.owns() {
                    tables.tables_to_map_at_most(range)
                } else {
                    tables.tables_to_map(platform, range, None, 0)
                };
                need.merge(&state.need_to_show(platform, (first, pages), self.owns()));
            }
            None => {
                // Whatever is withdrawn before the filling leaves tables as they are, or takes some away.
                need.tables += if self.want == Want::Settled(true) && state.may_replace() {
                    tables.tables_to_map_at_most(range)
                } else {
                    tables.tables_to_map(platform, range, None, 0)
                };
                need.merge(&state.need_for(first, pages));
                if self.want == Want::Settled(true) {
                    need.merge(&state.need_to_own(platform, first, pages));
                }
                if let Some(marks) = self.blocks {
                    for place in blocks_to_make(platform, (self.area, state), tables, (range, first), marks) {
                        need.blocks += 1;
                        need.pages = need.pages.saturating_sub(place.count);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what populating takes whatever happens to the area meanwhile (its pages may be given up by another space).
    pub(super) fn add_worst_need<M: Mmu>(
        &self,
        platform: &P,
        state: &AreaState<P>,
        tables: &Tables<M>,
        range: PageRange,
        first: u64,
        need: &mut Need,
    ) -> Result<(), SpaceError> {
        let pages = range.pages(P::PAGE_SHIFT);
        self.check(state, range, first)?;
        // Another area may take its tables away between this look and the filling.
        need.tables += tables.tables_to_map_at_most(range);
        if self.area.is_paged() {
            need.merge(&state.need_to_ask_at_most(pages));
        } else if state.is_overlay() {
            need.merge(&state.need_to_show_at_most(platform, (first, pages), self.owns()));
        } else if !self.area.is_fixed() {
            need.pages += pages;
            if !self.area.is_untracked() {
                need.merge(&AreaState::<P>::nodes_at_most(pages));
                if self.want == Want::Settled(true) {
                    // What another CPU makes shared meanwhile is mapped for reading.
                    need.merge(&state.need_to_own(platform, first, pages));
                }
            }
        }
        Ok(())
    }

    /// Whether what an overlay has not is copied, and not only shown: for a window that is in use.
    fn owns(&self) -> bool {
        self.want == Want::Settled(true) && self.ask
    }

    /// Refuses a part in which the area would refuse a page.
    fn check(&self, state: &AreaState<P>, range: PageRange, first: u64) -> Result<(), SpaceError> {
        let pages = range.pages(P::PAGE_SHIFT);
        if let Some((page, answer)) = self.area.first_refused(state, first, pages) {
            let address = VirtAddr::new(range.start().as_u64() + ((page - first) << P::PAGE_SHIFT));
            return Err(match answer {
                Answer::Guard => SpaceError::Guard(address),
                Answer::Retry => SpaceError::Retry(address),
                _ => SpaceError::OutsideArea(address),
            });
        }
        Ok(())
    }

    /// Makes the blocks that were counted. Everything it takes was reserved and charged.
    pub(super) fn make_blocks<M: Mmu>(
        &self,
        platform: &P,
        state: &mut AreaState<P>,
        tables: &mut Tables<M>,
        range: PageRange,
        first: u64,
        reserve: &mut Reserve<P>,
    ) {
        let Some(marks) = self.blocks else { return };
        let (shown, write) = ((self.access, self.global), self.want == Want::Settled(true));
        let mut next = Some((range, first));
        while let Some(rest) = next {
            let mut places = blocks_to_make(platform, (self.area, state), tables, rest, marks);
            let Some(place) = places.next() else { break };
            drop(places);
            make_large(platform, (self.area, state), tables, place, shown, write, reserve);
            next = range.after(place.range).map(|rest| (rest, place.first + place.count));
        }
    }

    /// Makes the pages the area's own, if they are wanted for writing: what it replaces leaves every view, and waits for the flush.
    /// Everything it takes was reserved.
    #[allow(clippy::too_many_arguments, reason = "each is one thing")]
    pub(super) fn own(
        &self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        state: &mut AreaState<P>,
        range: PageRange,
        first: u64,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) {
        if self.want != Want::Settled(true) || !state.may_replace() {
            return;
        }
        for index in first..first + range.pages(P::PAGE_SHIFT) {
            if self.area.awaits(state, index) {
                // The filling stops there too, and asks for it.
                break;
            }
            if let Answer::Replaced { old, .. } = self.area.page(platform, state, index, Want::Write, reserve) {
                state.withdraw(platform, area, (index, old), reserve, pending);
            }
        }
    }

    /// Fills the tables. Everything it takes was reserved and, where `reserve` says so, charged.
    pub(super) fn run<M: Mmu>(
        &self,
        platform: &P,
        state: &mut Guard<'_, P, AreaState<P>>,
        tables: &mut Guard<'_, P, Tables<M>>,
        range: PageRange,
        first: u64,
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        let page_of = |address: VirtAddr| first + ((address.as_u64() - range.start().as_u64()) >> P::PAGE_SHIFT);
        let mut spare = reserve.tables.take();
        // The first page that the embedder has to bring, and what the area says about it.
        let mut stop = None;
        let wanted = self.wanted();
        // How many pages were mapped here with all that is wanted: nothing is left to be raised where all were.
        let mut complete = 0;
        let result = if let Some(frames) = self.area.frames() {
            let leaf = self.leaf(frames.first().add(first), true);
            if tables.is_clear(platform, range) {
                let level = largest(tables);
                tables.map(platform, range, leaf, level, &mut spare)
            } else {
                tables.fill(platform, range, &mut spare, |address| {
                    Some(self.leaf(frames.first().add(page_of(address)), true))
                })
            }
        } else {
            tables.fill(platform, range, &mut spare, |address| {
                if stop.is_some() || (!self.ask && self.area.awaits(state, page_of(address))) {
                    return None;
                }
                match self.area.page(platform, state, page_of(address), self.want, reserve) {
                    Answer::Page { frame, writable, .. } => {
                        let leaf = self.leaf(frame, writable);
                        complete += u64::from(leaf.access.contains(wanted));
                        Some(leaf)
                    }
                    // It is shown elsewhere, so it exists.
                    Answer::Zero => Some(self.leaf(platform.machine().zero_frame()?, false)),
                    Answer::Untracked => Some(self.leaf(reserve.take_untracked_page()?, true)),
                    answer @ (Answer::Request(_) | Answer::Wait(_) | Answer::Failed) => {
                        stop = Some((address, answer));
                        None
                    }
                    _ => None,
                }
            })
        };
        reserve.tables = spare;
        result?;
        let filled = match stop {
            Some((address, _)) => range.before(PageRange::from_checked(address, page_size::<P>())),
            None => Some(range),
        };
        let raises = (self.want == Want::Settled(true) || self.raised)
            && (complete != range.pages(P::PAGE_SHIFT) || self.is_forbidden_above(platform, tables, range));
        if let Some(filled) = filled.filter(|_| raises && !self.area.is_fixed() && !self.area.is_untracked()) {
            self.raise(platform, state, tables, filled, &page_of, reserve)?;
        }
        let Some((address, answer)) = stop else { return Ok(()) };
        Err(match answer {
            Answer::Request(request) => {
                // As many of the pages that follow are asked for at once as were counted on.
                let request = state.widen(platform, request, page_of(range.last()) + 1, reserve);
                SpaceError::Awaits { address, wait: PageWait::Request(request) }
            }
            Answer::Wait(token) => SpaceError::Awaits { address, wait: PageWait::Wait(token) },
            _ => SpaceError::Failed(address),
        })
    }

    /// The access that each page is to have, where its area allows it.
    fn wanted(&self) -> Access {
        if self.want == Want::Settled(true) { self.access } else { self.access.difference(Access::WRITE) }
    }

    /// Whether tables above forbid what is wanted somewhere in the range. O(leaf tables).
    fn is_forbidden_above<M: Mmu>(&self, platform: &P, tables: &Tables<M>, range: PageRange) -> bool {
        let forbidden = |part: PageRange| {
            let found = tables.find(platform, part.start());
            found.is_none_or(|found| tables.writes_are_forbidden_above(&found))
        };
        self.wanted().contains(Access::WRITE) && tables.leaf_table_parts(range).any(forbidden)
    }

    /// Gives pages that are mapped with less than is wanted what they lack: clean ones their first write, others what their window was
    /// given since.
    fn raise<M: Mmu>(
        &self,
        platform: &P,
        state: &mut Guard<'_, P, AreaState<P>>,
        tables: &mut Guard<'_, P, Tables<M>>,
        range: PageRange,
        page_of: &impl Fn(VirtAddr) -> u64,
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        let wanted = self.wanted();
        let mut next = Some(range.start());
        while let Some(address) = next.filter(|address| range.contains(*address)) {
            next = address.checked_add(page_size::<P>());
            let Some((pages, old)) = tables.translate(platform, address) else { continue };
            if pages.size() != page_size::<P>() {
                next = pages.last().checked_add(1);
            }
            if old.access.contains(wanted) {
                continue;
            }
            if pages.size() != page_size::<P>() {
                let place = BlockPlace::of::<P>(pages, address, page_of(address));
                let write = self.want == Want::Settled(true);
                raise_large(platform, (self.area, state), tables, place, (self.access, self.global), write)?;
                continue;
            }
            let answer = self.area.page(platform, state, page_of(address), self.want, reserve);
            let Answer::Page { frame, writable, .. } = answer else { continue };
            let leaf = self.leaf(frame, writable);
            if leaf.access.contains(old.access) && leaf.access != old.access && leaf.frame == old.frame {
                // The frame stays and permission is only added: there is nothing to flush.
                let mut nothing = Gather::default();
                if leaf.access.contains(Access::WRITE) {
                    // Tables above may forbid it since the space was cloned.
                    tables.push_down(platform, address)?;
                }
                tables.set_page(platform, address, leaf, &mut reserve.tables, &mut nothing)?;
            }
        }
        Ok(())
    }
}

/// The leaf that a window shows a frame with.
pub(super) fn leaf_for<P: Platform>(
    area: &AreaInner<P>,
    access: Access,
    global: bool,
    frame: crate::addr::Frame,
    writable: bool,
) -> Leaf {
    let access = if writable { access } else { access.difference(Access::WRITE) };
    // Dirtiness is in the tree, so the hardware is spared its marks.
    let mut leaf = Leaf::new(frame).access(access).memory(area.memory()).used();
    leaf.global = global;
    leaf
}

/// Refuses what the format cannot represent, so that no fault meets it later: the access, the memory type, the frames.
pub(super) fn check_encoding<P: Platform, M: Mmu>(
    area: &AreaInner<P>,
    mmu: M,
    access: Access,
    global: bool,
    first: u64,
    pages: u64,
) -> Result<(), SpaceError> {
    if !allows_anything(access) {
        // No leaf ever stands for it.
        return Ok(());
    }
    let last = area.frames().map_or(crate::addr::Frame::new(0), |frames| frames.first().add(first + (pages - 1)));
    for writable in [false, true] {
        // The two are one where nothing is ever written.
        if writable || access.contains(Access::WRITE) {
            let leaf = leaf_for(area, access, global, last, writable);
            mmu.encode_leaf(0, leaf).map_err(SpaceError::Encode)?;
        }
    }
    Ok(())
}

/// The highest level at which leaves are tried.
pub(super) fn largest<M: Mmu>(tables: &Tables<M>) -> usize {
    tables.mmu().levels().saturating_sub(1)
}
