//! Populating charges accounts before it changes anything: see [`Account`](crate::vm_area::Account).

use crate::addr::PageRange;
use crate::frame::Reserve;
use crate::lock::Guard;
use crate::paging::{Mmu, Tables};
use crate::platform::Platform;
use crate::vm_area::AreaState;
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::map::Fill;
use crate::vm_space::window::Window;
use crate::vm_space::{Space, SpaceError};

impl<P: Platform> Fill<'_, P> {
    /// Fills the tables from the area page of `pages` on, of which as many as it says are missing: those are charged first.
    pub(super) fn run_charged<M: Mmu>(
        &self,
        platform: &P,
        state: &mut Guard<'_, P, AreaState<P>>,
        tables: &mut Guard<'_, P, Tables<M>>,
        range: PageRange,
        (first, missing): (u64, u64),
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        state.charge_ahead(missing)?;
        reserve.charged = missing;
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
        let pages = |slot: &Slot<_>| slot.range.intersection(range).map_or(0, |part| part.pages(P::PAGE_SHIFT));
        for (charged, slot) in index.overlapping(range).enumerate() {
            let Some(window) = slot.window else { continue };
            // SAFETY: windows in the index are alive while it is locked, and so are their areas.
            let area = unsafe { window.as_ref().area.as_ref() };
            let Err(error) = area.lock(platform).charge_ahead(pages(&slot)) else { continue };
            for slot in index.overlapping(range).take(charged) {
                let Some(window) = slot.window else { continue };
                // SAFETY: as above.
                let area = unsafe { window.as_ref().area.as_ref() };
                area.lock(platform).take_off(platform, pages(&slot));
            }
            return Err(error.into());
        }
        Ok(())
    }
}
