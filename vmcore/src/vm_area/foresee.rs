//! What an area would answer, without bringing it about.

use super::inner::{AreaInner, AreaState};
use super::{AreaKind, Page, Want};
use crate::addr::Frame;
use crate::platform::Platform;

/// What [`page`](AreaInner::page) would answer if there is memory enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Foretold {
    /// The page in this frame.
    Page(Frame),
    /// A copy of what is in this frame.
    Copy(Frame),
    /// A page that is made.
    New,
    /// The zero frame.
    Zero,
    /// What the tables hold, else a fresh page.
    Untracked,
    /// It is asked for, or was.
    Asked,
    Failed,
    Guard,
    Outside,
    Retry,
}

impl<P: Platform> AreaInner<P> {
    /// What [`page`](Self::page) would answer if there is memory enough. O(depth), no allocation; changes nothing.
    pub(crate) fn foretell(&self, platform: &P, state: &AreaState<P>, index: u64, want: Want) -> Foretold {
        if state.is_retyping() {
            return Foretold::Retry;
        }
        if index >= state.end() {
            return Foretold::Outside;
        }
        match self.kind(state) {
            AreaKind::Fixed { frames, .. } => Foretold::Page(frames.first().add(index)),
            AreaKind::Untracked { .. } => Foretold::Untracked,
            AreaKind::Guarded(layout)
                if !layout.section_of(index).is_some_and(|section| state.section_is_out(section)) =>
            {
                Foretold::Guard
            }
            AreaKind::Paged { .. } => match state.tree.get(index) {
                Some(page) => page.held_frame().map_or_else(|| absent(page), Foretold::Page),
                None => Foretold::Asked,
            },
            _ => state.foretell_tracked(platform, state.key(index), want),
        }
    }
}

/// What is said of a page without a frame.
fn absent(page: Page) -> Foretold {
    if page.token().is_some() { Foretold::Asked } else { Foretold::Failed }
}

impl<P: Platform> AreaState<P> {
    fn foretell_tracked(&self, platform: &P, index: u64, want: Want) -> Foretold {
        let write = want == Want::Write;
        if self.page_is_closed(platform, index) || (write && self.writes_are_closed()) {
            return Foretold::Retry;
        }
        match self.page_and_ownership(platform, index) {
            Some((_, false, _)) if write && self.rest().writers != 0 => Foretold::Retry,
            Some((page, false, _)) if write => Foretold::Copy(page.frame()),
            Some((page, ..)) => Foretold::Page(page.frame()),
            None if self.is_overlay() => match self.page_below(index).and_then(Page::held_frame) {
                Some(frame) if write => Foretold::Copy(frame),
                Some(frame) => Foretold::Page(frame),
                None => Foretold::Asked,
            },
            None if want == Want::Look => Foretold::Zero,
            None => Foretold::New,
        }
    }
}
