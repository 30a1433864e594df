//! Several windows at once, and anonymous memory.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Need, OutOfFrames, Reserve};
use crate::lock::Guard;
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_area::{Area, AreaKind, AreaState};
use crate::vm_space::fill::Fill;
use crate::vm_space::index::{Index, Slot};
use crate::vm_space::map::{Inherit, MapRequest, Place};
use crate::vm_space::protect::allows_anything;
use crate::vm_space::window::{Window, WindowState};
use crate::vm_space::{Space, SpaceError};

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Makes all of these windows, in order, or none, and gives how many: one for each request that has room for its addresses in `ranges`. Each is placed beside those
    /// before it.
    ///
    /// Cost: as [`map`](Self::map) for each, with the index locked all the while.
    ///
    /// # Errors
    /// What [`map`](Self::map) refuses of any of them. Nothing was changed, but for what `ranges` holds.
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
    /// let image = Area::new(&sim, AreaKind::Open { size: 0x3000 }, Default::default()).unwrap();
    /// let code = MapRequest::new(&image).at(0x40_0000).size(0x1000).access(Access::USER_CODE);
    /// let data = MapRequest::new(&image).at(0x40_1000).offset(0x1000);
    /// let mut ranges = [space.bounds(); 2];
    /// assert_eq!(space.map_many(&[code, data], &mut ranges), Ok(2));
    /// assert_eq!(ranges[1].start().as_u64(), 0x40_1000);
    /// assert!(space.map_many(&[data.at(0x50_0000), code], &mut ranges).is_err(), "the second is taken");
    /// assert_eq!(space.windows().count(), 2);
    /// # }
    /// ```
    pub fn map_many(&self, requests: &[MapRequest<'_, P>], ranges: &mut [PageRange]) -> Result<usize, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let count = requests.len().min(ranges.len());
        let mut records = Need::default();
        records.add_objects::<Window<P, M>>(count);
        // As many as insertions usually take; should leaves be full everywhere, it is tried again with more.
        let mut nodes = count / 8 + 2;
        let mut need = records;
        let mut reserve = Reserve::new(platform);
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index(platform);
            // They are made one after another, so that each is placed with those before it there. Nobody finds them before the index is
            // unlocked; if one is refused, they are taken back.
            let (mut made, mut short, mut result) = (0, false, Ok(()));
            for (request, place) in requests.iter().zip(ranges.iter_mut()) {
                match self.make_window(&mut index, request, &mut reserve) {
                    Ok(Some(range)) => (*place, made) = (range, made + 1),
                    Ok(None) => {
                        (short, nodes) = (true, nodes.saturating_mul(2));
                        break;
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            let mut pages = Need::default();
            let populated = || requests.iter().zip(ranges.iter()).take(made).filter(|(request, _)| request.populate);
            for (_, range) in populated() {
                result = result.and_then(|()| {
                    self.with_fill(&index, *range, |fill, state, first| {
                        let tables = inner.tables.lock(platform);
                        fill.add_worst_need(platform, state, &tables, *range, first, &mut pages)
                    })
                });
            }
            if result.is_ok() && !short && reserve.covers(&pages) {
                let tables = inner.tables.lock(platform);
                let shown = populated().map(|(_, range)| self.pages_to_show(&tables, *range)).sum();
                result = self.check_shown(&tables, shown, pages.tables);
            }
            // Accounts are asked before anything is filled.
            let mut charged = 0;
            if result.is_ok() && !short && reserve.covers(&pages) {
                for (_, range) in populated() {
                    result = self
                        .with_fill(&index, *range, |_, state, _| Ok(state.charge_ahead(range.pages(P::PAGE_SHIFT))?));
                    if result.is_err() {
                        break;
                    }
                    charged += 1;
                }
                if result.is_err() {
                    for (_, range) in populated().take(charged) {
                        let _ = self.with_fill(&index, *range, |_, state, _| {
                            state.take_off(platform, range.pages(P::PAGE_SHIFT));
                            Ok(())
                        });
                    }
                }
            }
            if result.is_ok() && !short && reserve.covers(&pages) {
                for (_, range) in populated() {
                    result = result.and_then(|()| {
                        self.with_fill(&index, *range, |fill, state, first| {
                            let charged = (first, range.pages(P::PAGE_SHIFT));
                            let mut tables = inner.tables.lock(platform);
                            fill.run_charged(platform, state, &mut tables, *range, charged, &mut reserve)
                        })
                    });
                }
                // All that filling takes was reserved, so it is not refused; were it, faults would fill the rest.
                debug_assert!(result.is_ok(), "{result:?}");
                for range in ranges.iter().take(made) {
                    self.join(&mut index, *range, &mut reserve);
                }
                return Ok(made);
            }
            for range in ranges.iter().take(made) {
                self.take_back(&mut index, *range, &mut reserve);
            }
            result?;
            need = records;
            need.merge(&pages);
            index.add_need(nodes, &mut need);
        }
    }

    /// Makes a window that is not joined with its neighbours, and empty. `None`, and nothing is changed, if the index wants more nodes than
    /// there are in the reserve.
    fn make_window(
        &self,
        index: &mut Index<P, Window<P, M>>,
        request: &MapRequest<'_, P>,
        reserve: &mut Reserve<P>,
    ) -> Result<Option<PageRange>, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let area = request.area.inner();
        let mut access = self.check_request(request)?;
        access.set(Access::USER, !inner.global);
        let mut state = area.lock(platform);
        let (range, first) = self.place_window(index, &state, request, access)?;
        let lacking = SpaceError::OutOfFrames(OutOfFrames { wanted: 1 });
        let object = reserve.take_object::<Window<P, M>>().ok_or(lacking)?;
        if !index.insert(Slot { range, window: Some(object) }, reserve) {
            // SAFETY: the memory is unused still.
            unsafe { reserve.put_object(object) };
            return Ok(None);
        }
        // SAFETY: the memory was taken for this type, and nobody else knows it but the index, which is locked.
        unsafe { self.link_window(&mut state, object, request, (range, first, access)) };
        drop(state);
        inner.tally.change((1, range.pages(P::PAGE_SHIFT)), (0, 0));
        Ok(Some(range))
    }

    /// Takes a window back that was just [made](Self::make_window), which no CPU knows of. The handle that it was made with holds a reference to its area.
    fn take_back(&self, index: &mut Index<P, Window<P, M>>, range: PageRange, reserve: &mut Reserve<P>) {
        let Some(window) = index.find(range.start()).and_then(|slot| slot.window) else { return };
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let area = unsafe { window.as_ref().area.as_ref() };
        // SAFETY: the view is linked in its area.
        unsafe { area.lock(self.platform()).unlink_view(window.cast()) };
        let _ = index.remove(range.start(), reserve);
        self.inner().tally.change((0, 0), (1, range.pages(P::PAGE_SHIFT)));
        area.drop_window_reference();
        // SAFETY: neither index nor area know the record any more; nothing in it needs dropping.
        unsafe { reserve.put_object(window) };
    }

    /// Calls `with` with what fills the window that has these addresses, its locked area and its first page there.
    fn with_fill(
        &self,
        index: &Index<P, Window<P, M>>,
        range: PageRange,
        with: impl FnOnce(Fill<'_, P>, &mut Guard<'_, P, AreaState<P>>, u64) -> Result<(), SpaceError>,
    ) -> Result<(), SpaceError> {
        let window = index.find(range.start()).and_then(|slot| slot.window);
        let window = window.ok_or(SpaceError::NoWindow(range.start()))?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
        if !allows_anything(window.access) {
            return Ok(());
        }
        let mut state = area.lock(self.platform());
        with(Fill::of(window, area, self.inner(), None).of_what_is_there(), &mut state, window.area_page(range.start()))
    }

    /// Maps memory that only this space has: `size` bytes that are zero, with an area of their own that has no handle. Where they follow upon such a window that agrees in access and
    /// inheritance, and shows its area to the end, that area is made larger instead, and the two are one window: `data` is dropped then.
    ///
    /// Its pages live as long as a window shows their area; [`Advice::NotNeeded`](crate::vm_space::Advice::NotNeeded) releases them before.
    ///
    /// Cost: O(n) windows; takes an object for the area and a record.
    ///
    /// # Errors
    /// As [`map`](Self::map), and a size that cannot be.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_space::{Inherit, Place, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// let map = |place| space.map_anonymous(0x4000, place, Access::USER_DATA, Inherit::Copy, Default::default());
    /// let first = map(Place::FirstGap).unwrap();
    /// let second = map(Place::FirstGap).unwrap();
    /// assert_eq!(first.last().checked_add(1), Some(second.start()));
    /// assert_eq!(space.windows().count(), 1);
    /// # }
    /// ```
    pub fn map_anonymous(
        &self,
        size: u64,
        place: Place,
        access: Access,
        inherit: Inherit,
        data: P::AreaData,
    ) -> Result<PageRange, SpaceError> {
        let area = Area::new(self.platform(), AreaKind::Open { size }, data)?;
        let request = MapRequest::new(&area).place(place).access(access).inherit(inherit);
        self.map_anonymous_with(&request, size, &mut Reserve::new(self.platform()))
    }

    /// Maps an area that nothing else knows, of so many bytes, or has a neighbour take its place, out of a reserve.
    pub(crate) fn map_anonymous_with(
        &self,
        request: &MapRequest<'_, P>,
        size: u64,
        reserve: &mut Reserve<P>,
    ) -> Result<PageRange, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let access = request.access;
        let mut index = inner.lock_index(platform);
        let area = request.area.inner();
        let range = self.find_place(&index, area, &request.wanted(), 0, size)?;
        let before = range.start().as_u64().checked_sub(1).and_then(|last| index.find(VirtAddr::new(last)));
        if let Some(slot) = before {
            let mut wanted = access;
            wanted.set(Access::USER, !inner.global);
            if let Some(pages) = self.pages_if_extended(&slot, wanted, request, size) {
                self.check_write_execute(wanted, range)?;
                inner.tally.check(0, range.pages(P::PAGE_SHIFT), P::PAGE_SHIFT)?;
                self.extend(&mut index, slot, range, pages, reserve);
                return Ok(range);
            }
        }
        drop(index);
        self.map_with(request, reserve)
    }

    /// How many pages the area of a window has with so many bytes more, if anonymous memory that follows upon it can be a part of it.
    fn pages_if_extended(
        &self,
        slot: &Slot<Window<P, M>>,
        access: Access,
        request: &MapRequest<'_, P>,
        size: u64,
    ) -> Option<u64> {
        // SAFETY: windows in the index are alive while it is locked (which the caller sees to), and so are their areas.
        let (window, area) = unsafe { (slot.window?.as_ref(), slot.window?.as_ref().area.as_ref()) };
        let agrees = (window.state, window.access, window.inherit(), window.flags, window.limit())
            == (WindowState::Live, access, request.inherit, request.flags, Access::all());
        if !agrees || !area.is_open() {
            return None;
        }
        let state = area.lock(self.platform());
        let pages = state.pages().checked_add(size >> P::PAGE_SHIFT)?;
        let ends = window.first() + window.pages() == state.pages();
        (ends
            && !state.is_overlay()
            && !area.has_handles(&state)
            && !state.is_returning()
            && AreaState::<P>::can_have(pages))
        .then_some(pages)
    }
}
