//! Private pieces that work without a lock, for the model checker: in builds with `--cfg loom` only.

use crate::addr::Frame;
use crate::frame::{FrameMeta, FrameUse, WrongUse};
use crate::machine::Tags;
use crate::paging::Tag;

/// Puts a free frame to a use.
pub fn begin(meta: &FrameMeta, purpose: FrameUse) -> Result<(), FrameUse> {
    meta.begin(purpose)
}

/// Ends a use.
pub fn end(meta: &FrameMeta, frame: Frame, purpose: FrameUse) -> Result<(), WrongUse> {
    meta.end(frame, purpose)
}

/// Counts one more holder of a page.
pub fn add_reference(meta: &FrameMeta) {
    meta.add_reference();
}

/// Counts one holder less; true if it was the last one.
pub fn drop_reference(meta: &FrameMeta) -> bool {
    meta.drop_reference()
}

/// The map of tags that are given out.
#[allow(missing_debug_implementations, reason = "a map of bits")]
pub struct TagMap(Tags);

#[allow(clippy::new_without_default, reason = "made in one place")]
impl TagMap {
    /// None is given out.
    pub const fn new() -> Self {
        Self(Tags::new())
    }

    /// The lowest free tag of a machine that has `count`; tag 0 if there is none.
    pub fn take(&self, count: u32) -> Tag {
        self.0.take(count)
    }

    /// Takes a tag back.
    pub fn give_back(&self, tag: Tag) {
        self.0.give_back(tag);
    }
}
