//! Pages whose contents are not needed any more, and that stay until somebody needs the memory.
//!
//! ```text
//!   dirty ──mark──► discardable ──write──► dirty             clean: the next write faults, and takes the mark away
//!                       │ │
//!                       │ └──read──► the old contents        as long as nobody has asked for the memory
//!                       └──discard──► absent                 zero from then on
//! ```
//!
//! The mark is a bit of the page's word in the tree. Only pages that are the area's own have it put on or are given up by it; one that
//! is shared after it was marked keeps it, for whoever turns out to be the last to have the page.

use super::{AreaState, Page, TreeSupply, ViewChange};
use crate::frame::Reserve;
use crate::paging::Pending;
use crate::platform::Platform;

impl<P: Platform> AreaState<P> {
    /// Marks those of the pages that are the area's own and that nobody uses at the moment; gives how many. The caller takes write permission from whoever shows
    /// them. O(resident pages in the range), no allocation.
    pub(crate) fn mark_discardable(&mut self, platform: &P, first: u64, count: u64) -> u64 {
        let end = first.saturating_add(count);
        let (mut at, mut marked) = (first, 0);
        while let Some((index, _)) = self.tree.next_present(at).filter(|(index, _)| *index < end) {
            at = index + 1;
            if self.is_idle(platform, index) && self.tree.update_owned(index, Page::discardable).is_some() {
                marked += 1;
            }
        }
        marked
    }

    /// Takes marked pages out of the tree and out of every view, `most` of them at the most: they are free with the flush. Gives how many.
    /// O(resident pages in the range), no allocation.
    pub(crate) fn discard_marked(
        &mut self,
        platform: &P,
        (first, count): (u64, u64),
        most: u64,
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) -> u64 {
        let end = first.saturating_add(count);
        let (mut at, mut given, mut run) = (first, 0, None);
        while let Some((index, page)) = self.tree.next_present(at).filter(|(index, _)| *index < end && given < most) {
            at = index + 1;
            if !page.is_discardable() || !self.is_idle(platform, index) {
                continue;
            }
            // Its path is held once, so this takes no node.
            let Ok(Some(page)) = self.tree.remove(index, &mut TreeSupply { platform, reserve }) else { continue };
            Self::let_go(platform, Some(page.frame()), pending);
            given += 1;
            run = match run {
                Some((first, end)) if end == index => Some((first, index + 1)),
                other => {
                    self.forget_run(platform, other, pending);
                    Some((index, index + 1))
                }
            };
        }
        self.forget_run(platform, run, pending);
        given
    }

    fn forget_run(&mut self, platform: &P, run: Option<(u64, u64)>, pending: &mut Pending<P>) {
        if let Some((first, end)) = run {
            self.change_views(platform, ViewChange::Unmap { first, count: end - first }, pending);
        }
    }

    /// Whether a page is the area's own and no part of a run, and its frame is held by nothing else: no reader or writer, no device, no gate.
    fn is_idle(&self, platform: &P, index: u64) -> bool {
        let held_once =
            |page: Page| platform.frame_meta(page.frame()).is_some_and(|meta| meta.count() == 1 && meta.pins() == 0);
        self.page_and_ownership(platform, index).is_some_and(|(page, own, in_run)| own && !in_run && held_once(page))
    }
}
