//! Large leaves over pages that areas track: made by a fault or by populating, kept whole as long as its pages agree, promoted later.
//!
//! ```text
//!                      window |--------------------------------------------------|     large pages are wanted
//!   block (level 1)       |=========|=========|=========|=========|=========|
//!                                        │ fault: nothing in it exists        a run of frames, one large leaf
//!                                        │ it is a run, the tables forgot     one large leaf
//!                                        └ otherwise                          a base page
//! ```
//!
//! A block is what one leaf of level 1 maps. It gets one if it lies in one window and is aligned in addresses, area and frames alike, and its pages
//! are all resident in consecutive frames, of write-back memory, with no guard among them. A large leaf is writable only if each of its pages is
//! the area's own and counts as written to: the first write to one of them is taken for a write to all.
//!
//! What concerns a part of it afterwards: an operation on the space splits the leaf (it has reserved the table), so that no leaf lies in two
//! windows; what the area takes from all who show it drops the leaf whole, and needs nothing. The pages stay a run in the area's tree until
//! one of them is replaced or goes.

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameList, Need, Reserve};
use crate::paging::{Access, Flush, Found, Gather, Leaf, MemoryType, Mmu, Pending, TableError, Tables};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState, Promotion};
use crate::vm_space::fill::leaf_for;
use crate::vm_space::protect::allows_anything;
use crate::vm_space::unmap::unlink_empty_tables;
use crate::vm_space::window::{Window, WindowFlags, WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

/// The level of large leaves over tracked pages.
const LEVEL: usize = 1;

/// The size of a block in bytes as a power of two, if tables can have leaves over blocks that can be split again.
pub(super) fn block_shift<P: Platform, M: Mmu>(tables: &Tables<M>) -> Option<u32> {
    let mmu = tables.mmu();
    // Where live entries can be replaced only after a flush, a part of a leaf could not be changed.
    let replaceable = !M::FORMAT.break_before_make || P::INVALIDATES_NOW;
    (replaceable && mmu.has_leaves(LEVEL)).then_some(mmu.level(LEVEL)?.shift)
}

/// What came of a look for a block to promote.
enum Step {
    /// It takes more than the reserve holds.
    Short(Need),
    /// Go on from here, if there is more.
    Passed { next: Option<VirtAddr>, promoted: bool },
}

/// A block that a window shows: its addresses, and its pages in the area.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockPlace {
    pub(super) range: PageRange,
    pub(super) first: u64,
    pub(super) count: u64,
}

impl BlockPlace {
    /// The block around an address, if the window shows all of it and its pages in the area are aligned alike.
    pub(super) fn around<P: Platform, M: Mmu>(
        window: &Window<P, M>,
        tables: &Tables<M>,
        address: VirtAddr,
    ) -> Option<Self> {
        let shift = block_shift::<P, M>(tables)?;
        let range = PageRange::from_checked(address.align_down(shift), 1 << shift);
        if !window.range().covers(range) {
            return None;
        }
        let (first, count) = (window.area_page(range.start()), 1 << (shift - P::PAGE_SHIFT));
        (first & (count - 1) == 0).then_some(Self { range, first, count })
    }

    /// What a larger leaf maps, of which one address shows this page of the area.
    pub(super) fn of<P: Platform>(range: PageRange, address: VirtAddr, page: u64) -> Self {
        let before = (address.as_u64() - range.start().as_u64()) >> P::PAGE_SHIFT;
        Self { range, first: page.saturating_sub(before), count: range.pages(P::PAGE_SHIFT) }
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// What a fault does about a large leaf, before it looks for a single page: `None` if that is what is wanted. `Some(Err)` says what it takes.
    ///
    /// `found` is where the walk for the address ended; nothing is changed if the answer is `None` or `Some(Err)`.
    #[inline]
    pub(super) fn fault_large(
        &self,
        window: &Window<P, M>,
        (area, state): (&AreaInner<P>, &mut AreaState<P>),
        tables: &mut Tables<M>,
        found: &Found<'_, M>,
        (address, access): (VirtAddr, Access),
        reserve: &mut Reserve<P>,
    ) -> Result<Option<Result<(), Need>>, SpaceError> {
        if found.level() < LEVEL || !area.is_open() || window.flags.contains(WindowFlags::NEVER_HUGE) {
            return Ok(None);
        }
        self.fault_large_slowly(window, (area, state), tables, found, (address, access), reserve)
    }

    #[inline(never)]
    fn fault_large_slowly(
        &self,
        window: &Window<P, M>,
        (area, state): (&AreaInner<P>, &mut AreaState<P>),
        tables: &mut Tables<M>,
        found: &Found<'_, M>,
        (address, access): (VirtAddr, Access),
        reserve: &mut Reserve<P>,
    ) -> Result<Option<Result<(), Need>>, SpaceError> {
        let Some(place) = BlockPlace::around(window, tables, address) else { return Ok(None) };
        if self.inner().tally.limits_shown() {
            // Pages are counted one after another.
            return Ok(None);
        }
        let write = access.contains(Access::WRITE);
        if tables.found_leaf(found).is_some() {
            let shown = (window.access, self.inner().global);
            let raised = raise_large(self.platform(), (area, state), tables, place, shown, write)?;
            return Ok(raised.then_some(Ok(())));
        }
        // What lies below the entry is absent, so the block is clear.
        self.show_large(window, (area, state), tables, place, write, reserve)
    }

    /// Shows a block, of which the tables hold nothing, by one large leaf, and makes its pages first if none of them exists and the window wants that.
    fn show_large(
        &self,
        window: &Window<P, M>,
        (area, state): (&AreaInner<P>, &mut AreaState<P>),
        tables: &mut Tables<M>,
        place: BlockPlace,
        write: bool,
        reserve: &mut Reserve<P>,
    ) -> Result<Option<Result<(), Need>>, SpaceError> {
        let (platform, count) = (self.platform(), place.count);
        let resident = !state.is_absent(place.first, count);
        let pass = area.memory() != MemoryType::WriteBack
            || !state.can_have_block(place.first, count)
            || state.is_closed(place.first, count)
            || self.first_guard(window, place.range).is_some();
        if pass {
            return Ok(None);
        }
        self.inner().break_before_make(platform, window.may_be_remembered(state), place.range)?;
        // Whichever run of frames it is, it is aligned as the block.
        let missing = tables.tables_to_map(platform, place.range, Some(Frame::new(0)), LEVEL);
        let need = Need::default().with_tables(missing);
        if resident {
            // A frame that is not aligned as the block says so before the others are looked at.
            let aligned = |frame: Frame| frame.number() & (count - 1) == 0;
            if !state.resident_page(place.first).is_some_and(aligned) {
                return Ok(None);
            }
            let block = state.block(platform, place.first, count).filter(|block| !write || block.own);
            let Some(block) = block else { return Ok(None) };
            if !reserve.covers(&need) {
                return Ok(Some(Err(need)));
            }
            let writable = block.own && (write || block.dirty);
            let leaf = leaf_for(area, window.access, self.inner().global, block.frame, writable);
            let shown = map_large(platform, tables, place, leaf, reserve);
            if shown && writable {
                state.note_block_dirty(place.first, count);
            }
            return Ok(shown.then_some(Ok(())));
        }
        if !window.flags.contains(WindowFlags::HUGE) || !can_make((area, state), place, window.marks) {
            return Ok(None);
        }
        reserve.allow_blocks(place.range.size().trailing_zeros() - P::PAGE_SHIFT);
        if !reserve.may_have_blocks() {
            return Ok(None);
        }
        let mut need = need;
        need.merge(&state.need_for_block(place.first, count));
        need.blocks = 1;
        if !reserve.covers(&need) {
            return Ok(Some(Err(need)));
        }
        let shown = (window.access, self.inner().global);
        Ok(make_large(platform, (area, state), tables, place, shown, write, reserve).then_some(Ok(())))
    }

    /// Brings the pages of each aligned block in the range into consecutive frames, so that one large leaf can map it, and has those be mapped so whose frames are consecutive
    /// already: what a kernel's background thread does for memory that is in use (Linux: `khugepaged`, `MADV_COLLAPSE`). Gives how many blocks were begun.
    ///
    /// A block is what one leaf of level 1 maps (2 MiB of x86-64). It is passed over unless one window shows all of it, with its pages in the area aligned alike; the area is
    /// an open or private one of write-back memory; none of its addresses is guarded, and large pages [are not unwanted](WindowFlags::NEVER_HUGE); at least one of its pages is resident, and at most
    /// `most_absent` are not (they come into being, and are charged); the resident ones are no other area's as well, and none is pinned.
    ///
    /// From the call until the flush is complete the pages leave every window, and faults in them are told to retry; they are copied in between, by who completes the flush,
    /// with the area locked for one block at a time. Then the next access maps the large leaf. A block whose pages are given up or shared meanwhile, or for which an account
    /// has no room or the pools no memory then, stays as it was. Pages stay charged to whom they were.
    ///
    /// Do not name memory that must not fault: what the kernel uses in interrupt handlers.
    ///
    /// Cost: O(windows, and pages of blocks that are not large yet); takes for each block a gate and the run of frames. Where a run cannot be had, the rest of the range
    /// is only looked at for blocks that need none.
    ///
    /// # Errors
    /// The range is not whole pages of the space; out of frames for the first block's gate: nothing was changed. Later it ends at what was begun.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{Fault, MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x20_0000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    /// assert_eq!(space.promote(range, 0).unwrap().complete(), 1);
    /// space.fault(Fault::new(0x40_0000, Access::READ)).unwrap().complete();
    /// assert_eq!(space.walk(range.start()).steps().last().unwrap().level, 1);
    /// # }
    /// ```
    pub fn promote(&self, range: PageRange, most_absent: u64) -> Result<Flush<P, u64>, SpaceError> {
        let platform = self.platform();
        self.check_range(range)?;
        let (mut pending, mut begun) = (Pending::new(), 0);
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        let mut next = Some(range.start());
        while let Some(address) = next.filter(|address| range.contains(*address)) {
            if let Err(error) = reserve.top_up(&need) {
                if begun == 0 {
                    return Err(error.into());
                }
                break;
            }
            match self.promote_at(range, address, most_absent, &mut reserve, &mut pending) {
                Step::Short(more) => need = more,
                Step::Passed { next: then, promoted } => {
                    begun += u64::from(promoted);
                    next = then;
                    need = Need::default();
                }
            }
        }
        Ok(Flush::new(platform.clone(), pending, begun))
    }

    /// Begins to promote the block at or after an address.
    fn promote_at(
        &self,
        range: PageRange,
        address: VirtAddr,
        most_absent: u64,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Step {
        let (platform, inner) = (self.platform(), self.inner());
        let over = Step::Passed { next: None, promoted: false };
        let index = inner.lock_index(platform);
        let Some(slot) = index.overlapping(PageRange::from_bounds(address, range.last())).next() else { return over };
        let behind = slot.range.last().checked_add(1);
        let passed = Step::Passed { next: behind, promoted: false };
        let Some(pointer) = slot.window else { return passed };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (pointer.as_ref(), pointer.as_ref().area.as_ref()) };
        let unwanted = window.state == WindowState::Gated
            || window.flags.contains(WindowFlags::NEVER_HUGE)
            || !allows_anything(window.access)
            || !area.is_open()
            || area.memory() != MemoryType::WriteBack;
        if unwanted {
            return passed;
        }
        let mut state = area.lock(platform);
        let tables = inner.tables.lock(platform);
        let Some(shift) = block_shift::<P, M>(&tables) else { return over };
        let from = address.max(slot.range.start());
        let start = match from.as_u64().checked_next_multiple_of(1 << shift) {
            Some(start) if slot.range.contains(VirtAddr::new(start)) => VirtAddr::new(start),
            _ => return passed,
        };
        let Some(place) = BlockPlace::around(window, &tables, start) else { return passed };
        if !range.covers(place.range) {
            return over;
        }
        let passed = Step::Passed { next: place.range.last().checked_add(1), promoted: false };
        let found = tables.find(platform, start).filter(|found| found.level() >= LEVEL);
        let (nothing_shown, is_large) =
            (found.is_some(), found.is_some_and(|found| tables.found_leaf(&found).is_some()));
        drop(tables);
        if is_large || self.first_guard(window, place.range).is_some() {
            return passed;
        }
        let pages = (place.first, place.count);
        let copying = match state.promotion(platform, pages, most_absent) {
            Promotion::No => return passed,
            // The next access shows it.
            Promotion::Showing if nothing_shown => return passed,
            Promotion::Showing => false,
            Promotion::Copying => true,
        };
        let mut need = state.need_for_promotion();
        if copying {
            reserve.allow_blocks(shift - P::PAGE_SHIFT);
            if !reserve.may_have_blocks() {
                return passed;
            }
            need.blocks = 1;
        }
        if !reserve.covers(&need) {
            return Step::Short(need);
        }
        let frame = if copying { reserve.take_block() } else { None };
        let promoted = state.begin_promotion(platform, window.area, pages, frame, reserve, pending);
        if let (false, Some(frame)) = (promoted, frame) {
            reserve.put_block(frame);
        }
        if promoted {
            // What is left of the table would be in the way of the large leaf.
            let mut gather = Gather::default();
            unlink_empty_tables(platform, inner, place.range, &mut gather, pending);
            inner.absorb(platform, gather, pending);
        }
        Step::Passed { next: place.range.last().checked_add(1), promoted }
    }
}

/// Whether the pages of a block, which a window that wants large pages shows and its tables do not, can be made as one run.
fn can_make<P: Platform>((area, state): (&AreaInner<P>, &AreaState<P>), place: BlockPlace, marks: WindowMarks) -> bool {
    // Where the zero frame stands for a page of it elsewhere, or for a CPU that has not forgotten it, pages are made one by one.
    let no_zeros = || {
        !state.zero_shown()
            || (!marks.contains(WindowMarks::DROPPED)
                && !state.is_unsettled()
                && state.is_shown_once(place.first, place.count))
    };
    area.is_open()
        && area.memory() == MemoryType::WriteBack
        && state.can_have_block(place.first, place.count)
        && !state.is_closed(place.first, place.count)
        && state.is_absent(place.first, place.count)
        && no_zeros()
}

/// The blocks in a range, whose first page is this one of the area, that [can be made](can_make) and of which the tables hold nothing.
pub(super) fn blocks_to_make<P: Platform, M: Mmu>(
    platform: &P,
    (area, state): (&AreaInner<P>, &AreaState<P>),
    tables: &Tables<M>,
    (range, first): (PageRange, u64),
    marks: WindowMarks,
) -> impl Iterator<Item = BlockPlace> {
    let shift = block_shift::<P, M>(tables);
    let mut next = shift.and_then(|shift| range.start().as_u64().checked_next_multiple_of(1 << shift));
    core::iter::from_fn(move || {
        loop {
            let (start, shift) = (VirtAddr::new(next?), shift?);
            let block = PageRange::from_checked(start, 1 << shift);
            if !range.contains(start) || !range.covers(block) {
                return None;
            }
            next = start.as_u64().checked_add(1 << shift);
            let before = (start.as_u64() - range.start().as_u64()) >> P::PAGE_SHIFT;
            let place = BlockPlace { range: block, first: first + before, count: 1 << (shift - P::PAGE_SHIFT) };
            let aligned = place.first & (place.count - 1) == 0;
            let is_clear = || {
                tables
                    .find(platform, start)
                    .is_some_and(|found| found.level() >= LEVEL && tables.found_leaf(&found).is_none())
            };
            if aligned && can_make((area, state), place, marks) && is_clear() {
                return Some(place);
            }
        }
    })
}

/// Makes the pages of a block, none of which exists, in a run of frames, and shows them by one large leaf as a window does (`shown`). What it takes was
/// reserved. False if the account is full, or the large leaf could not be made.
pub(super) fn make_large<P: Platform, M: Mmu>(
    platform: &P,
    (area, state): (&AreaInner<P>, &mut AreaState<P>),
    tables: &mut Tables<M>,
    place: BlockPlace,
    shown: (Access, bool),
    write: bool,
    reserve: &mut Reserve<P>,
) -> bool {
    let count = place.count;
    if !state.charge_block(count, reserve) {
        return false;
    }
    let made = reserve.take_block().filter(|frame| {
        let inserted = state.insert_block(platform, (place.first, count), *frame, write, reserve);
        if !inserted {
            reserve.put_block(*frame);
        }
        inserted
    });
    let Some(frame) = made else {
        state.uncharge_block(platform, count);
        return false;
    };
    state.note_block_charged(platform, frame, count);
    // Should the format not have this leaf, the pages are there for base leaves.
    map_large(platform, tables, place, leaf_for(area, shown.0, shown.1, frame, write), reserve)
}

/// Maps a block, of which the tables hold nothing, by one large leaf. Tables were reserved.
fn map_large<P: Platform, M: Mmu>(
    platform: &P,
    tables: &mut Tables<M>,
    place: BlockPlace,
    leaf: Leaf,
    reserve: &mut Reserve<P>,
) -> bool {
    if leaf.access.contains(Access::WRITE) && tables.push_down(platform, place.range.start()).is_err() {
        return false;
    }
    tables.map(platform, place.range, leaf, LEVEL, &mut reserve.tables).is_ok()
}

/// Gives the large leaf of a block what its window allows (`shown`) and it lacks, with writing if it is meant to be written or was before; false, and nothing is
/// changed, if not all of its pages can have it.
pub(super) fn raise_large<P: Platform, M: Mmu>(
    platform: &P,
    (area, state): (&AreaInner<P>, &mut AreaState<P>),
    tables: &mut Tables<M>,
    place: BlockPlace,
    shown: (Access, bool),
    write: bool,
) -> Result<bool, TableError> {
    if state.is_closed(place.first, place.count) {
        return Ok(false);
    }
    let Some(block) = state.block(platform, place.first, place.count) else { return Ok(false) };
    let writable = block.own && (write || block.dirty);
    if write && !writable {
        return Ok(false);
    }
    let leaf = leaf_for(area, shown.0, shown.1, block.frame, writable);
    if leaf.access.contains(Access::WRITE) {
        // Tables above may forbid it since the space was cloned.
        tables.push_down(platform, place.range.start())?;
    }
    // The frames stay and permission is only added: there is nothing to flush.
    let mut nothing = Gather::default();
    tables.protect(platform, place.range, leaf.access, &mut FrameList::new(), &mut nothing)?;
    if writable {
        state.note_block_dirty(place.first, place.count);
    }
    Ok(true)
}
