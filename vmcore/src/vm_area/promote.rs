//! Promotion: the pages of a block brought into one run of frames, so that a large leaf can map it.
//!
//! ```text
//!   begin      every view forgets the block ──► Closed::Block, in the flush
//!              any fault in it: retry                │ acknowledged: nobody reads or writes the pages
//!              ┌─────────────────────────────────────┘
//!   frames     7   30  -   12 …   copied to   f  f+1  f+2  f+3 …   the tree holds the run; the old frames are freed; the gate opens
//!                                                                 the next fault maps one large leaf
//! ```
//!
//! Between the two the block's pages stay in the tree, so whatever is done to the area meanwhile is done to them: if they are not the area's own any more, or fewer than
//! they were, they stay where they are.

use super::gate::{Closed, Gate};
use super::inner::{AreaInner, AreaState};
use super::{TreeSupply, ViewChange};
use crate::addr::Frame;
use crate::frame::{FrameRun, Need, Reserve};
use crate::page_tree::{NodesNeeded, TreeValue};
use crate::paging::Pending;
use crate::platform::Platform;
use core::ptr::NonNull;

/// What it takes to have a block shown by one large leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Promotion {
    /// Its pages cannot be moved, or are too few.
    No,
    /// Its frames are as they have to be.
    Showing,
    /// A run of frames.
    Copying,
}

impl<P: Platform> AreaState<P> {
    /// What it takes to promote a block, of which up to `most_absent` pages may not exist. O(runs and single pages).
    pub(crate) fn promotion(&self, platform: &P, (first, count): (u64, u64), most_absent: u64) -> Promotion {
        if !self.can_have_block(first, count)
            || self.rest().writers != 0
            || self.is_retyping_itself()
            || self.is_closed(first, count)
        {
            return Promotion::No;
        }
        if let Some(block) = self.block(platform, first, count) {
            if block.frame.number() & (count - 1) == 0 {
                return Promotion::Showing;
            }
        }
        let (resident, movable) = self.movable(platform, first, count);
        if movable && resident != 0 && count - resident <= most_absent { Promotion::Copying } else { Promotion::No }
    }

    /// How many of the pages exist, and whether these can be copied elsewhere: they are the area's own, and no device uses them.
    fn movable(&self, platform: &P, first: u64, count: u64) -> (u64, bool) {
        let (mut resident, mut own) = (0, self.first_pinned(platform, first, count).is_none());
        for run in self.tree.runs(first..first.saturating_add(count)) {
            resident += run.count;
            own = own && self.owns(platform, run);
        }
        (resident, own)
    }

    /// What [`begin_promotion`](Self::begin_promotion) takes.
    pub(crate) fn need_for_promotion(&self) -> Need {
        Need::object::<Gate<P>>()
    }

    /// Takes a block out of every view until the flush is acknowledged, when its pages are brought into the frames from `frame` on, if there
    /// are any. Takes a gate from the reserve, which holds one.
    pub(crate) fn begin_promotion(
        &mut self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        (first, count): (u64, u64),
        frame: Option<Frame>,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> bool {
        let Some(memory) = reserve.take_object::<Gate<P>>() else { return false };
        self.change_views(platform, ViewChange::Unmap { first, count }, pending);
        if self.is_unsettled() {
            // Something was taken out of the tables before, and that flush is outstanding: it may have been one of these pages.
            self.change_views(platform, ViewChange::Forget { first, count }, pending);
        }
        if frame.is_some() {
            pending.note_cut_off(count);
        }
        let resident = self.resident_keys(first, count);
        // SAFETY: the memory was just taken for it; the caller names the area of this state.
        unsafe { self.close(platform, memory, area, Closed::Block { first, count, frame, resident }, pending) };
        true
    }
}

impl<P: Platform> AreaInner<P> {
    /// Brings the pages of a closed block into these frames, or gives the frames back. Called when the flush is acknowledged, with no lock held: no CPU
    /// remembers a page of it, and none is shown.
    pub(super) fn finish_promotion(&self, platform: &P, (first, count): (u64, u64), resident: u64, frame: Frame) {
        let frames = FrameRun::from_first(platform, frame, count);
        let mut reserve = Reserve::new(platform);
        let range = first..first.saturating_add(count);
        let mut state = loop {
            let state = self.lock(platform);
            if state.movable(platform, first, count) != (resident, true) || range.end > state.pages() {
                return;
            }
            let mut need = state.need_for_block(first, count);
            need.add_nodes(state.tree.nodes_needed_to_split_off(range.clone()));
            // What is cut off may leave its path in another shape; a path has no more nodes than these.
            need.merge(&Need::default().with_nodes(NodesNeeded::of_each(MOST_LEVELS)));
            if reserve.covers(&need) {
                break state;
            }
            drop(state);
            if reserve.top_up(&need).is_err() {
                return;
            }
        };
        let absent = count - resident;
        if absent != 0 && !state.charge_block(absent, &mut reserve) {
            return;
        }
        let split = state.tree.split_off(range.clone(), &mut TreeSupply { platform, reserve: &mut reserve });
        let Ok(mut old) = split else {
            // It was reserved.
            state.uncharge_block(platform, absent);
            return;
        };
        let frame = frames.into_first();
        let mut dirty = false;
        let mut next = first;
        for run in old.runs(range) {
            state.note_block_charged(platform, frame.add(next - first), run.key - next);
            next = run.key + run.count;
            for page in 0..run.count {
                let (from, to) = (run.value.advance(page).frame(), frame.add(run.key - first + page));
                // SAFETY: the new frame is nobody else's yet; the old one is held by the tree that was cut off.
                unsafe { platform.copy_frame(from, to) };
                // The charge goes along.
                if let (Some(from), Some(to)) = (platform.frame_meta(from), platform.frame_meta(to)) {
                    to.set_account(from.account());
                    from.set_account(0);
                }
            }
            dirty |= run.value.is_dirty();
        }
        state.note_block_charged(platform, frame.add(next - first), first + count - next);
        let inserted = state.insert_block(platform, (first, count), frame, dirty, &mut reserve);
        debug_assert!(inserted, "its nodes were reserved");
        drop(state);
        old.clear(&mut TreeSupply { platform, reserve: &mut reserve });
    }
}

/// The levels of a page tree at the most.
const MOST_LEVELS: usize = 11;
