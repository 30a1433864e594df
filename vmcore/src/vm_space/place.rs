//! Where a window goes.

use crate::addr::{PageRange, RangeError, RangeFault, VirtAddr};
use crate::paging::Mmu;
use crate::platform::Platform;
use crate::vm_area::AreaInner;
use crate::vm_space::index::{GapRequest, Index};
use crate::vm_space::map::Place;
use crate::vm_space::random::random_gap;
use crate::vm_space::window::{Window, WindowState};
use crate::vm_space::{Space, SpaceError};

/// What is asked of the addresses of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) place: Place,
    /// As a power of two; less than a page asks for nothing.
    pub(super) alignment: u32,
    pub(super) within: Option<PageRange>,
}

impl From<Place> for Wanted {
    fn from(place: Place) -> Self {
        Self { place, alignment: 0, within: None }
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Finds the addresses for a window onto `size` bytes of an area, from its page `first` on. O(log n), but for alignments that no leaf has: see
    /// [`Index::lowest_gap`].
    pub(super) fn find_place(
        &self,
        index: &Index<P, Window<P, M>>,
        area: &AreaInner<P>,
        wanted: &Wanted,
        first: u64,
        size: u64,
    ) -> Result<PageRange, SpaceError> {
        let bounds = self.inner().bounds;
        let no_gap = SpaceError::NoGap(size);
        let limits = wanted.within.map_or(Some(bounds), |within| bounds.intersection(within));
        let limits = match wanted.place {
            Place::At(address) => return self.exactly(index, wanted, address, size),
            Place::GapWithin(within) | Place::Random { within: Some(within), .. } => {
                limits.and_then(|limits| limits.intersection(within))
            }
            _ => limits,
        };
        let limits = limits.ok_or(no_gap)?;
        let mut request = GapRequest {
            first: limits.start().as_u64(),
            last: limits.last().as_u64(),
            size,
            alignment: wanted.alignment.max(P::PAGE_SHIFT),
            phase: 0,
        };
        let search = |request: &GapRequest| match wanted.place {
            Place::LastGap => index.highest_gap(request),
            Place::Near(address) => nearest_gap(index, request, address),
            Place::Random { entropy, .. } => random_gap(index, request, entropy, P::PAGE_SHIFT),
            _ => index.lowest_gap(request),
        };
        // A fixed area goes where addresses and frames are aligned alike, so that the largest leaves fit, unless somebody knows where.
        let plain = request;
        if let (Some(frames), false) = (area.frames(), matches!(wanted.place, Place::Near(_))) {
            let (physical, mmu) = (frames.first().add(first).start(P::PAGE_SHIFT).as_u64(), self.inner().mmu());
            let larger = |level: usize| mmu.level(level).map(|at| at.shift).filter(|shift| size >> shift != 0);
            for shift in (1..mmu.levels()).map_while(larger) {
                let phase = physical & ((1 << shift) - 1);
                // As far as that agrees with the alignment that is asked for.
                if shift >= plain.alignment && phase & ((1 << plain.alignment) - 1) == 0 {
                    (request.alignment, request.phase) = (shift, phase);
                }
            }
        }
        let mut found = search(&request);
        if found.is_none() && request.alignment != plain.alignment {
            found = search(&plain);
        }
        Ok(PageRange::from_checked(found.ok_or(no_gap)?, size))
    }

    /// The range that begins at this address, if it can be had.
    fn exactly(
        &self,
        index: &Index<P, Window<P, M>>,
        wanted: &Wanted,
        address: u64,
        size: u64,
    ) -> Result<PageRange, SpaceError> {
        let range = self.inner().mmu().range(address, size)?;
        let refused = |fault| Err(RangeError { fault, start: address, size }.into());
        if !self.inner().bounds.covers(range) || wanted.within.is_some_and(|within| !within.covers(range)) {
            return refused(RangeFault::OutsideSpace);
        }
        if address.trailing_zeros() < wanted.alignment {
            return refused(RangeFault::Unaligned);
        }
        match index.overlapping(range).next() {
            None => Ok(range),
            // SAFETY: windows in the index are alive while it is locked.
            Some(slot) if slot.window.is_some_and(|w| unsafe { w.as_ref() }.state == WindowState::Gated) => {
                Err(SpaceError::Retry(slot.range.start()))
            }
            Some(slot) => Err(SpaceError::Conflict(slot.range)),
        }
    }
}

/// The lowest gap at or above the address (that address itself, if it is free and aligned), else the highest below.
fn nearest_gap<P: Platform, W>(index: &Index<P, W>, request: &GapRequest, address: u64) -> Option<VirtAddr> {
    // The search may pass over a gap in which a block fits only where it begins as it should: not over this one.
    let last = request.size.checked_sub(1).and_then(|rest| address.checked_add(rest)).unwrap_or(u64::MAX);
    let here = GapRequest { first: request.first.max(address), last: request.last.min(last), ..*request };
    let above = GapRequest { first: request.first.max(address), ..*request };
    // Below, as far as the last address that is no start above. What overlaps the address may start below it.
    index.lowest_gap(&here).or_else(|| index.lowest_gap(&above)).or_else(|| index.highest_gap(request))
}
