//! Copies of an area that cost nothing until one of the two is written to: the tree is shared, and no view may write before it asked.
//!
//! ```text
//!      before             snapshot, clone          after a write to page 2 of the area
//!
//!     area            area        copy                area              copy
//!      │                └───┐  ┌───┘                   │                 │
//!    ┌─┴─┐                 ┌┴──┴┐                    ┌─┴─┐             ┌─┴─┐        nodes on the path are copied,
//!    │1 2│                 │1  2│                    │1 2'│            │1 2│        page 1 is in two slots: counted twice
//!    └───┘                 └────┘                    └───┘             └───┘
//! ```
//!
//! Never a chain: a copy is an area like any other, and a copy of it shares the same tree.

use core::ptr::NonNull;

use super::account::release_account;
use super::gate::{Closed, Gate};
use super::inner::{AreaInner, AreaMarks, AreaState};
use super::overlay::Overlay;
use super::rest::AreaMemory;
use super::{Answer, Area, AreaError, AreaKind, Page, Rights, TreeSupply, View, ViewChange, release_page};
use crate::frame::{Need, OutOfFrames, Reserve};
use crate::page_tree::{NodesNeeded, PageTree};
use crate::paging::{Flush, Pending};
use crate::platform::Platform;

/// The levels of a page tree at the most.
const MOST_LEVELS: usize = 11;

impl<P: Platform> AreaInner<P> {
    /// Adds what a copy takes from the reserve: for each pinned page one of its own, and the nodes on the way to it.
    pub(crate) fn add_need_for_copy(state: &AreaState<P>, need: &mut Need) {
        AreaMemory::<P>::add_need(state.special().is_some(), need);
        need.add_objects::<Gate<P>>(1);
        Self::add_need_to_lay_over(state, need);
        let pinned = state.rest().pinned;
        if pinned != 0 {
            need.pages = need.pages.saturating_add(u64::from(pinned));
            need.add_nodes(NodesNeeded::of_each((pinned as usize).saturating_mul(MOST_LEVELS)));
        }
    }

    /// Whether it can be copied as it is now.
    pub(crate) fn check_copy(&self, state: &AreaState<P>) -> Result<(), AreaError> {
        if !self.is_tracked() {
            return Err(AreaError::Kind);
        }
        if state.rest().writers != 0 || state.is_retyping_itself() { Err(AreaError::Retry) } else { Ok(()) }
    }

    /// A copy of the area, with one reference, which is the caller's, and made for a number of the caller's: until the flush is acknowledged, the same number
    /// [finds](AreaState::copy_for) it. Whoever shows the area cannot write to shared pages, once the flush is acknowledged; the
    /// copy is good from then on.
    ///
    /// `protected` says that the caller has taken write permission from the one view that there is.
    ///
    /// # Errors
    /// It cannot be [copied](Self::check_copy), or the reserve holds too little: nothing was changed.
    ///
    /// # Safety
    /// The area is alive, and the state is its own.
    pub(crate) unsafe fn copy(
        platform: &P,
        area: NonNull<Self>,
        state: &mut AreaState<P>,
        (into, protected): (usize, bool),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> Result<NonNull<Self>, AreaError> {
        // SAFETY: the caller's promise.
        let original = unsafe { area.as_ref() };
        original.check_copy(state)?;
        let lacking = AreaError::OutOfFrames(OutOfFrames { wanted: 1 });
        let (gate, memory) = (reserve.take_object::<Gate<P>>(), AreaMemory::take(reserve, state.special().is_some()));
        let record = if state.is_overlay() { reserve.take_object::<Overlay<P>>() } else { None };
        let laid = record.is_some() == state.is_overlay();
        let put_unused = |reserve: &mut Reserve<P>| {
            // SAFETY: what was taken is unused still.
            unsafe {
                gate.into_iter().for_each(|gate| reserve.put_object(gate));
                record.into_iter().for_each(|record| reserve.put_object(record));
            }
        };
        let Some(memory) = memory else {
            put_unused(reserve);
            return Err(lacking);
        };
        let (Some(gate), true) = (gate, laid) else {
            memory.put(reserve);
            put_unused(reserve);
            return Err(lacking);
        };
        let Ok(tree) = state.tree.share() else {
            memory.put(reserve);
            put_unused(reserve);
            return Err(AreaError::TooManyHandles);
        };
        let kind = match original.kind(state) {
            kind @ (AreaKind::Ring { .. } | AreaKind::Growing { .. }) => kind,
            _ => AreaKind::Private { size: state.pages() << P::PAGE_SHIFT },
        };
        let mut object = memory.make(kind, state.pages(), tree, original.data().clone());
        // SAFETY: nobody else knows the copy.
        let copy = unsafe { object.as_mut() };
        copy.state_mut().marks |= AreaMarks::WAS_SHARED;
        copy.note_memory(original.memory());
        copy.state_mut().charge_like(state);
        if let Err(error) = copy.state_mut().copy_pinned(platform, state, reserve) {
            copy.state_mut().tree.clear(&mut TreeSupply { platform, reserve });
            if let Some(account) = copy.state_mut().exchange_account(None) {
                // SAFETY: the copy's reference is given up.
                unsafe { release_account(platform, account, 1) };
            }
            put_unused(reserve);
            // SAFETY: nobody else knows the copy, whose tree is empty.
            unsafe { AreaMemory::take_down(object, reserve) };
            return Err(error);
        }
        state.marks |= AreaMarks::WAS_SHARED;
        // SAFETY: the state is the original's, and the memory was just taken for a record.
        unsafe { Self::lay_over_same(state, object, record) };
        // SAFETY: the memory was just taken for a gate; the state is the area's.
        unsafe { state.close(platform, gate, area, Closed::Writes { copy: object, into }, pending) };
        if !(protected && state.view_count() == 1) {
            state.change_views(platform, ViewChange::WriteProtect { first: 0, count: state.pages() }, pending);
        }
        Ok(object)
    }

    /// An open area of the same size without pages, with one reference, which is the caller's.
    ///
    /// # Errors
    /// The reserve holds no area.
    pub(crate) fn empty_like(
        platform: &P,
        original: &Self,
        reserve: &mut Reserve<P>,
    ) -> Result<NonNull<Self>, AreaError> {
        let pages = original.lock(platform).pages();
        let kind = AreaKind::Open { size: pages << P::PAGE_SHIFT };
        let lacking = AreaError::OutOfFrames(OutOfFrames { wanted: 1 });
        let memory = AreaMemory::take(reserve, false).ok_or(lacking)?;
        // SAFETY: nodes always come from, and go to, the machine's pools.
        Ok(memory.make(kind, pages, unsafe { PageTree::new() }, original.data().clone()))
    }

    /// Adds what it takes to make an area [fresh like](Self::fresh_like) one with this state.
    pub(crate) fn add_need_for_fresh(state: &AreaState<P>, need: &mut Need) {
        AreaMemory::<P>::add_need(state.is_overlay(), need);
        Self::add_need_to_lay_over(state, need);
    }

    /// Makes, in `memory`, an area without pages of its own that takes the original's place: of its size, with its memory type and its account; open, or laid over the same area.
    /// Its one reference is that of the window whose view is given. What it [takes](Self::add_need_for_fresh) was reserved.
    ///
    /// # Safety
    /// The view is linked nowhere, and stays where it is until it is unlinked. The state is the original's.
    pub(crate) unsafe fn fresh_like(
        original: &Self,
        state: &AreaState<P>,
        memory: AreaMemory<P>,
        view: NonNull<View<P>>,
        reserve: &mut Reserve<P>,
    ) {
        let size = state.pages() << P::PAGE_SHIFT;
        let record = if state.is_overlay() { reserve.take_object::<Overlay<P>>() } else { None };
        let kind = if record.is_some() { AreaKind::Private { size } } else { AreaKind::Open { size } };
        // SAFETY: nodes always come from, and go to, the machine's pools.
        let mut area = memory.make(kind, state.pages(), unsafe { PageTree::new() }, original.data().clone());
        // SAFETY: nobody else knows the area.
        let fresh = unsafe { area.as_mut() };
        fresh.note_memory(original.memory());
        fresh.state_mut().charge_like(state);
        // SAFETY: the caller's promises; nobody else knows the area. The memory was just taken for a record.
        unsafe {
            fresh.state_mut().link_view(view);
            Self::lay_over_same(state, area, record);
        }
    }
}

impl<P: Platform> AreaState<P> {
    /// Replaces what is pinned in the original by copies: a device goes on with the original's frames, and so does the original.
    fn copy_pinned(&mut self, platform: &P, original: &Self, reserve: &mut Reserve<P>) -> Result<(), AreaError> {
        let mut at = 0;
        while let Some(index) = original.first_pinned(platform, at, u64::MAX - at) {
            at = index + 1;
            let Some(pinned) = original.tree.get(index) else { continue };
            let frame = match self.new_page(platform, reserve) {
                Ok(frame) => frame,
                Err(Answer::Full(error)) => return Err(AreaError::OutOfAccount(error)),
                Err(_) => return Err(AreaError::OutOfFrames(OutOfFrames { wanted: 1 })),
            };
            // SAFETY: the new frame is nobody else's yet; the old one is held by the original's tree.
            unsafe { platform.copy_frame(pinned.frame(), frame) };
            match self.tree.insert(index, Page::new(frame).dirty(), &mut TreeSupply { platform, reserve }) {
                // The copied node counted the pinned frame for the slot that holds the copy now.
                Ok(old) => {
                    let _ = old.map(|old| platform.frame_meta(old.frame()).map(|meta| meta.drop_reference()));
                }
                Err(_) => {
                    release_page(platform, frame);
                    return Err(AreaError::OutOfFrames(OutOfFrames { wanted: 1 }));
                }
            }
        }
        Ok(())
    }

    /// The copy that was made for this number, if its flush is outstanding. O(flushes outstanding).
    pub(crate) fn copy_for(&self, number: usize) -> Option<NonNull<AreaInner<P>>> {
        self.closed().find_map(|closed| match closed {
            Closed::Writes { copy, into } if into == number => Some(copy),
            _ => None,
        })
    }
}

impl<P: Platform> Area<P> {
    /// The area as it is now: an area of its own with the same contents, whose pages are copied only when one of the two is written to.
    /// It is true once the flush is complete: until then somebody may still write to pages that both have.
    ///
    /// Cost: O(windows of the area); takes three pool objects, no pages.
    ///
    /// # Errors
    /// No right to read or to share; a kind that cannot be copied (open and private areas can); [`AreaError::Retry`] while somebody
    /// [writes](Self::write); out of frames. Nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// let sim = Sim::builder().build();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// area.write(0x1000, b"before").unwrap().complete();
    /// let copy = area.snapshot().unwrap().complete();
    /// area.write(0x1000, b"after!").unwrap().complete();
    /// let mut bytes = [0; 6];
    /// copy.read(0x1000, &mut bytes).unwrap();
    /// assert_eq!(&bytes, b"before");
    /// # }
    /// ```
    pub fn snapshot(&self) -> Result<Flush<P, Self>, AreaError> {
        self.require(Rights::READ | Rights::SHARE)?;
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut pending = Pending::new();
        let mut state = loop {
            let state = self.inner().lock(platform);
            let mut need = Need::default();
            AreaInner::<P>::add_need_for_copy(&state, &mut need);
            if reserve.covers(&need) {
                break state;
            }
            drop(state);
            reserve.top_up(&need)?;
        };
        let (area, into) = (self.pointer(), 0);
        // SAFETY: the handle keeps the area alive, and the state is its own.
        let copy = unsafe { AreaInner::copy(platform, area, &mut state, (into, false), &mut reserve, &mut pending) }?;
        drop(state);
        let copy = Self::from_parts(platform.clone(), copy);
        Ok(Flush::new(platform.clone(), pending, copy))
    }
}
