//! Populating charges accounts before it changes anything: see [`Account`](crate::vm_area::Account).

use crate::addr::PageRange;
use crate::frame::Reserve;
use crate::lock::Guard;
use crate::paging::{Mmu, Tables};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState};
use crate::vm_space::fill::Fill;
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::window::Window;
use crate::vm_space::{Space, SpaceError};

impl<P: Platform> Fill<'_, P> {
    /// Fills the tables from the area's page `first` on, with pages of which so many were charged ahead: those that turn out not to be
    /// needed are taken off.
    pub(super) fn run_charged<M: Mmu>(
        &self,
        platform: &P,
        state: &mut Guard<'_, P, AreaState<P>>,
        tables: &mut Guard<'_, P, Tables<M>>,
        range: PageRange,
        (first, charged): (u64, u64),
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        reserve.charged = charged;
        let filled = self.run(platform, state, tables, range, first, reserve);
        state.settle(platform, reserve);
        filled
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Charges every page of every window in the range, or none. (What a window's area holds already is known only under its
    /// lock, and only for as long; what turns out not to be needed is taken off after each is filled.)
    pub(super) fn charge_parts(
        platform: &P,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
    ) -> Result<(), SpaceError> {
        for slot in index.overlapping(range) {
            let Some((part, area)) = part_of(&slot, range) else { continue };
            let charged = area.lock(platform).charge_ahead(part.pages(P::PAGE_SHIFT));
            if let Err(error) = charged {
                Self::take_off_parts(platform, index, range.before(part));
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Takes off what was [charged](Self::charge_parts) for these addresses.
    pub(super) fn take_off_parts(platform: &P, index: &Index<P, Window<P, M>>, range: Option<PageRange>) {
        let Some(range) = range else { return };
        for slot in index.overlapping(range) {
            let Some((part, area)) = part_of(&slot, range) else { continue };
            area.lock(platform).take_off(platform, part.pages(P::PAGE_SHIFT));
        }
    }
}

/// What of a window lies in the range, and its area. The index is locked for as long as that is used.
fn part_of<P: Platform, M: Mmu>(slot: &Slot<Window<P, M>>, range: PageRange) -> Option<(PageRange, &AreaInner<P>)> {
    let part = slot.range.intersection(range)?;
    // SAFETY: windows in the index are alive while it is locked, and so are their areas.
    Some((part, unsafe { slot.window?.as_ref().area.as_ref() }))
}
