//! Runs: pages of an area in consecutive frames, held in slots above the leaves of its tree. A large leaf maps a *block*: as many runs as
//! it takes, in frames that follow one another.
//!
//! ```text
//!   block      512 pages (2 MiB of 4 KiB pages)                          one large leaf
//!   tree       [ run ][ run ][ run ][ run ][ run ][ run ][ run ][ run ]  eight slots of 64 pages each
//!   frames     f      f+64   f+128  …
//! ```
//!
//! # Who holds a frame of a run
//!
//! ```text
//!               run of frame f          f's record      f+1's   …  f+63's
//!                                       runs   count    count      count
//!   made                                1      1        1          1
//!   its node is copied (after a clone)  2      1        1          1       64 frames, one word is written
//!   one of the two splits its run       1      2        2          2       its 64 single slots, and the other's run
//!   the other lets go of its run        0      1        1          1
//! ```
//!
//! The slots that hold the run are counted on its first frame, apart from the frames' counts; all of them together are one holder of each
//! frame. So anyone may split a run, also one that is shared: single pages of it are copied, kept and freed like all others, while
//! somebody else goes on holding the run. The frames are an area's own if its slot is the only one that holds the run and they have no other holder.

use super::inner::AreaState;
use super::tracked::is_own;
use super::{Page, TreeSupply, release_page};
use crate::addr::Frame;
use crate::frame::{Need, Reserve};
use crate::page_tree::NodesNeeded;
use crate::platform::Platform;

/// How many pages a run has: a slot of the level above the leaves.
const RUN: u64 = 64;

/// Pages that one large leaf can map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    /// The frame of the first page; those of the others follow it.
    pub(crate) frame: Frame,
    /// Whether all of them are the area's own.
    pub(crate) own: bool,
    /// Whether all of them count as written to.
    pub(crate) dirty: bool,
}

impl<P: Platform> AreaState<P> {
    /// Whether none of the pages exists. O(depth).
    pub(crate) fn is_absent(&self, first: u64, count: u64) -> bool {
        self.tree.next_present(first).is_none_or(|(page, _)| page - first >= count)
    }

    /// The pages, if all exist, in consecutive frames. O(pages); O(depth) if the first and the last one are not so far apart.
    pub(crate) fn block(&self, platform: &P, first: u64, count: u64) -> Option<Block> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        let frame = self.tree.get(first)?.held_frame()?;
        if self.tree.get(last)?.held_frame()? != frame.add(count - 1) {
            return None;
        }
        let mut block = Block { frame, own: true, dirty: true };
        let (mut pages, was_shared) = (0, self.was_shared());
        self.tree.visit_each(first, last, |key, page, held| {
            // Each is the next one, in the next frame; where one is missing, those behind it are not.
            pages += u64::from(key - first == pages && page.held_frame() == Some(frame.add(pages)));
            block.own = block.own && (!was_shared || is_own(platform, page, held));
            block.dirty &= page.is_dirty();
        });
        (pages == count).then_some(block)
    }

    /// Whether a block of so many pages can begin at this one: its pages make whole runs.
    pub(crate) const fn can_have_block(&self, first: u64, count: u64) -> bool {
        // What an overlay has not, the area below shows.
        !self.is_overlay() && (first | count) % RUN == 0 && first.saturating_add(count) <= self.pages()
    }

    /// The nodes that it takes at the most to [insert](Self::insert_block) a block of which no page exists.
    pub(crate) fn need_for_block(&self, first: u64, count: u64) -> Need {
        let mut nodes = self.tree.nodes_needed_to_insert_run(first, RUN);
        // The runs that follow go into the same node, or one after another into the next ones, each of which passes through every size
        // and may need one above it.
        for _ in 1..count.div_ceil(RUN * RUN).max(1) {
            nodes += NodesNeeded::of_each(2);
        }
        Need::default().with_nodes(nodes)
    }

    /// Puts a block into the tree whose pages do not exist; it holds the frames then, which must have been charged. What it takes was reserved: if it
    /// was not, nothing is changed, and the answer is no.
    pub(crate) fn insert_block(
        &mut self,
        platform: &P,
        (first, count): (u64, u64),
        frame: Frame,
        dirty: bool,
        reserve: &mut Reserve<P>,
    ) -> bool {
        let mut supply = TreeSupply { platform, reserve };
        let mut done = 0;
        while done < count {
            let page = Page::new(frame.add(done));
            platform.frame_meta(page.frame()).inspect(|meta| meta.begin_run());
            let page = if dirty { page.dirty() } else { page };
            if self.tree.insert_run(first + done, RUN, page, &mut supply).is_err() {
                // The paths to what was inserted are the tree's own, so this takes nothing; the frames are the caller's again.
                let _ = self.tree.remove_range(first..first + done, &mut supply, |_, _, _| ());
                return false;
            }
            done += RUN;
        }
        true
    }

    /// Charges so many pages that are about to come into being, or those that were charged ahead.
    pub(crate) fn charge_block(&mut self, count: u64, reserve: &mut Reserve<P>) -> bool {
        if reserve.charged >= count {
            reserve.charged -= count;
        } else if self.charge_ahead(count).is_err() {
            return false;
        }
        let rest = self.rest_mut();
        rest.ahead = rest.ahead.saturating_sub(count);
        true
    }

    /// Takes back what [`charge_block`](Self::charge_block) charged.
    pub(crate) fn uncharge_block(&mut self, platform: &P, count: u64) {
        let rest = self.rest_mut();
        rest.ahead = rest.ahead.saturating_add(count);
        self.take_off(platform, count);
    }

    /// Notes in the frames' records whom the pages were charged to.
    pub(crate) fn note_block_charged(&self, platform: &P, frame: Frame, count: u64) {
        for number in 0..count {
            self.note_charged(platform, frame.add(number));
        }
    }

    /// Notes that pages of a run, all of whose frames it concerns, were written to. The page with this index is the area's own.
    pub(super) fn note_run_dirty(&mut self, index: u64) {
        // SAFETY: the page is the area's own, so every node on its path is held by this tree alone, which the state's lock guards.
        let _ = unsafe { self.tree.update_in_place(index, Page::dirty) };
    }

    /// Notes that all pages of a block, which are the area's own, were written to. O(runs and single pages).
    pub(crate) fn note_block_dirty(&mut self, first: u64, count: u64) {
        let (mut at, end) = (first, first.saturating_add(count));
        while let Some(run) = self.tree.runs(at..end).next() {
            self.note_run_dirty(run.key);
            at = run.key + run.count;
        }
    }
}

/// Drops one slot that held a run, and gives back the frames that nothing else holds. Only where no TLB can lead to them.
pub(super) fn release_run<P: Platform>(platform: &P, first: Frame, count: u64) {
    if platform.frame_meta(first).is_some_and(|meta| meta.drop_run()) {
        for number in 0..count {
            release_page(platform, first.add(number));
        }
    }
}

/// Makes of one slot that holds a run the holder of single frames, or of smaller runs of `part` frames; false, and nothing is
/// changed, if they cannot be counted: a run of runs is split only by who alone holds it.
pub(super) fn split_run<P: Platform>(platform: &P, first: Frame, count: u64, part: u64) -> bool {
    let Some(meta) = platform.frame_meta(first) else { return false };
    if meta.runs() == 1 {
        // What the runs held together, this slot's parts hold: the frames' counts stay.
        let _ = meta.drop_run();
        let mut at = 0;
        while part > 1 && at < count {
            platform.frame_meta(first.add(at)).inspect(|meta| meta.begin_run());
            at += part;
        }
        return true;
    }
    if part != 1 {
        return false;
    }
    let metas = || (0..count).filter_map(|number| platform.frame_meta(first.add(number)));
    metas().for_each(crate::frame::FrameMeta::add_reference);
    if meta.drop_run() {
        // The others let go meanwhile. None of these is the last: each frame has just got another holder.
        metas().for_each(|meta| {
            let _ = meta.drop_reference();
        });
    }
    true
}
