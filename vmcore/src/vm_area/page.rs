//! What a page tree stores for an area: a frame and what is known of the page in it.
//!
//! ```text
//!   63                              8 7  6   5   4   3   2   1   0
//!  +---------------------------------+----+---+---+---+---+---+---+   D: written to since it was last clean
//!  |          frame number           | F  | 0 | 0 | E | W | 1 | D |   W: its write-back is under way (then D: written to since that began)
//!  +---------------------------------+----+---+---+---+---+---+---+   E: on its way out, until a flush is acknowledged
//!  |        token of a request       | 0  | 0 | 1 | 0 | 0 | 0 | 0 |   asked for, not there yet    \  paged areas only:
//!  +---------------------------------+----+---+---+---+---+---+---+                                > no frame
//!  |                0                | 0  | 1 | 0 | 0 | 0 | 0 | 0 |   its pager could not bring it /
//!  +---------------------------------+----+---+---+---+---+---+---+
//! ```
//!
//! F, bit 6: its contents are not needed ([`discardable`](super::discardable)). Only a word with a frame holds a reference. W, E and the words without a frame are explained in [`paged`](super::paged).
//!
//! Dirtiness is recorded here by the first write fault, not in the table: tables can be dropped, the tree cannot.

use core::num::NonZeroU64;
use core::ptr::NonNull;

use super::account::uncharge_frame;
use super::run::{release_run, split_run};
use crate::addr::Frame;
use crate::frame::{FrameMeta, FrameMetaTable, FrameUse, Freeing, Need, Reserve, free_one, free_one_of};
use crate::page_tree::{
    CannotDuplicate, FullNode, MediumNode, Node, NodeSize, NodeStore, NodesNeeded, OutOfNodes, TreeValue, ValueOwner,
};
use crate::platform::Platform;

/// A page of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Page(NonZeroU64);

const DIRTY: NonZeroU64 = NonZeroU64::MIN;
/// Set in every page, so that no stored word is zero.
const PRESENT: NonZeroU64 = NonZeroU64::MIN.saturating_add(1);
const WRITING_BACK: NonZeroU64 = NonZeroU64::MIN.saturating_add(3);
const EVICTING: NonZeroU64 = NonZeroU64::MIN.saturating_add(7);
const REQUESTED: NonZeroU64 = NonZeroU64::MIN.saturating_add(15);
const FAILED: NonZeroU64 = NonZeroU64::MIN.saturating_add(31);
const DISCARDABLE: NonZeroU64 = NonZeroU64::MIN.saturating_add(63);
const FRAME_SHIFT: u32 = 8;

impl Page {
    /// A clean page in this frame.
    pub(crate) fn new(frame: Frame) -> Self {
        Self(PRESENT | (frame.number() << FRAME_SHIFT))
    }

    pub(crate) const fn frame(self) -> Frame {
        Frame::new(self.0.get() >> FRAME_SHIFT)
    }

    pub(crate) const fn is_dirty(self) -> bool {
        self.0.get() & DIRTY.get() != 0
    }

    /// The same page, written to.
    pub(crate) fn dirty(self) -> Self {
        self.without(DISCARDABLE).with(DIRTY)
    }

    /// The same page, clean, whose contents are not needed.
    pub(super) fn discardable(self) -> Self {
        self.without(DIRTY).with(DISCARDABLE)
    }

    pub(super) const fn is_discardable(self) -> bool {
        self.has(DISCARDABLE)
    }

    /// A page that was asked for with this token, of which 56 bits are kept.
    pub(super) fn requested(token: u64) -> Self {
        Self(REQUESTED | (token << FRAME_SHIFT))
    }

    /// A page that its pager could not bring.
    pub(super) const fn failed() -> Self {
        Self(FAILED)
    }

    /// The frame, if the page has one.
    pub(crate) const fn held_frame(self) -> Option<Frame> {
        if self.has(PRESENT) { Some(self.frame()) } else { None }
    }

    /// The frame, if the page has one and showing it changes nothing: it is not on its way out.
    #[inline]
    pub(super) const fn frame_as_it_is(self) -> Option<Frame> {
        if self.has(PRESENT) && !self.is_evicting() { Some(self.frame()) } else { None }
    }

    /// What is noted of the page, a word each.
    pub(crate) fn notes(self) -> impl Iterator<Item = &'static str> {
        let notes = [
            (self.is_dirty(), "dirty"),
            (self.is_writing_back(), "writing back"),
            (self.is_evicting(), "on its way out"),
            (self.is_discardable(), "not needed"),
            (self.has(REQUESTED), "asked for"),
            (self.has(FAILED), "failed"),
        ];
        notes.into_iter().filter_map(|(noted, note)| noted.then_some(note))
    }

    /// The token of the request that the page waits for.
    pub(super) const fn token(self) -> Option<u64> {
        if self.has(REQUESTED) { Some(self.0.get() >> FRAME_SHIFT) } else { None }
    }

    pub(super) const fn is_writing_back(self) -> bool {
        self.has(WRITING_BACK)
    }

    pub(super) const fn is_evicting(self) -> bool {
        self.has(EVICTING)
    }

    /// The same page, clean, as its write-back begins.
    pub(super) fn writing_back(self) -> Self {
        self.without(DIRTY).with(WRITING_BACK)
    }

    /// The same page after its write-back: dirty if that failed or the page was written to meanwhile.
    pub(super) fn written_back(self, written: bool) -> Self {
        let page = self.without(WRITING_BACK);
        if written { page } else { page.dirty() }
    }

    /// The same page, on its way out.
    pub(super) fn evicting(self) -> Self {
        self.with(EVICTING)
    }

    /// The same page, which stays.
    pub(super) fn kept(self) -> Self {
        self.without(EVICTING)
    }

    const fn has(self, bit: NonZeroU64) -> bool {
        self.0.get() & bit.get() != 0
    }

    fn with(self, bit: NonZeroU64) -> Self {
        Self(self.0 | bit)
    }

    /// Without a bit of a page that has a frame.
    fn without(self, bit: NonZeroU64) -> Self {
        Self(PRESENT | (self.0.get() & !bit.get()))
    }
}

impl TreeValue for Page {
    fn into_bits(self) -> NonZeroU64 {
        self.0
    }

    fn from_bits(bits: NonZeroU64) -> Self {
        Self(bits)
    }

    /// The page in the frame so many further on, as dirty.
    fn advance(self, pages: u64) -> Self {
        Self(self.0.saturating_add(pages << FRAME_SHIFT))
    }
}

/// What a change of an area's tree works with: nodes from a reserve, and frames counted by the slots that hold them.
pub(crate) struct TreeSupply<'a, P: Platform> {
    pub(crate) platform: &'a P,
    pub(crate) reserve: &'a mut Reserve<P>,
}

// SAFETY: a reserve's objects are exclusive, and its classes for the nodes are large and aligned enough (checked when
// compiled).
unsafe impl<P: Platform> NodeStore for TreeSupply<'_, P> {
    #[inline]
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        match size {
            NodeSize::Small => self.reserve.take_object::<Node>(),
            NodeSize::Medium => self.reserve.take_object::<MediumNode>().map(NonNull::cast),
            NodeSize::Full => self.reserve.take_object::<FullNode>().map(NonNull::cast),
        }
        .ok_or(OutOfNodes::new())
    }

    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        // SAFETY: the tree gives up a node that came from the pool for its size.
        unsafe {
            match size {
                NodeSize::Small => self.reserve.put_object(node),
                NodeSize::Medium => self.reserve.put_object(node.cast::<MediumNode>()),
                NodeSize::Full => self.reserve.put_object(node.cast::<FullNode>()),
            }
        }
    }
}

impl Need {
    /// Adds nodes of a tree.
    pub(crate) fn add_nodes(&mut self, nodes: NodesNeeded) {
        *self = self.with_nodes(nodes);
    }

    /// The same, with these nodes of a tree more.
    pub(crate) fn with_nodes(self, nodes: NodesNeeded) -> Self {
        self.with_objects::<Node>(nodes.of(NodeSize::Small))
            .with_objects::<MediumNode>(nodes.of(NodeSize::Medium))
            .with_objects::<FullNode>(nodes.of(NodeSize::Full))
    }
}

impl<P: Platform> Reserve<P> {
    /// Whether it holds so many nodes of a tree.
    #[inline]
    pub(crate) fn has_nodes(&self, nodes: NodesNeeded) -> bool {
        self.has_objects::<Node>(nodes.of(NodeSize::Small))
            && self.has_objects::<MediumNode>(nodes.of(NodeSize::Medium))
            && self.has_objects::<FullNode>(nodes.of(NodeSize::Full))
    }
}

impl<P: Platform> ValueOwner<Page> for TreeSupply<'_, P> {
    fn duplicate(&mut self, page: Page) -> Result<Page, CannotDuplicate> {
        // A request is answered to the area that asked, once: a second holder would wait for ever.
        let frame = page.held_frame().ok_or(CannotDuplicate::new())?;
        self.platform.frame_meta(frame).ok_or(CannotDuplicate::new())?.add_reference();
        Ok(page)
    }

    fn discard(&mut self, page: Page) {
        if let Some(frame) = page.held_frame() {
            release_page(self.platform, frame);
        }
    }

    /// A function of its own: within what takes a tree apart, the loop has too few registers.
    #[inline(never)]
    fn discard_all(&mut self, pages: impl Iterator<Item = Page>) {
        let mut freeing = Freeing::new(self.platform, FrameUse::Page);
        let mut metas = FrameMetaTable::new(Frame::new(0), &[]);
        for page in pages {
            let Some(frame) = page.held_frame() else { continue };
            let meta = match metas.get(frame) {
                Some(meta) => meta,
                None => {
                    let Some(found) = self.platform.frame_metas_with(frame) else { continue };
                    metas = found;
                    let Some(meta) = metas.get(frame) else { continue };
                    meta
                }
            };
            // SAFETY: it was the last reference; as for `release_page`.
            if drop_page_of(self.platform, meta) && unsafe { freeing.add(meta, frame) }.is_err() {
                self.platform.machine().note_refused_free();
            }
        }
    }

    /// A run's slots are counted on its first frame, apart from the frames' own counts: see [`run`](super::run).
    fn duplicate_run(&mut self, first: Page, _count: u64) -> Result<Page, CannotDuplicate> {
        self.platform.frame_meta(first.frame()).ok_or(CannotDuplicate::new())?.add_run();
        Ok(first)
    }

    fn discard_run(&mut self, first: Page, count: u64) {
        release_run(self.platform, first.frame(), count);
    }

    fn split_run(&mut self, first: Page, count: u64, part: u64) -> Result<(), CannotDuplicate> {
        if split_run(self.platform, first.frame(), count, part) { Ok(()) } else { Err(CannotDuplicate::new()) }
    }
}

/// Drops one reference to a page's frame; true if it was the last one. Then nobody is charged for it any more, and it is the caller's to free.
#[inline]
pub(super) fn drop_page<P: Platform>(platform: &P, frame: Frame) -> bool {
    platform.frame_meta(frame).is_some_and(|meta| drop_page_of(platform, meta))
}

/// The same by the frame's record.
#[inline(always)]
fn drop_page_of<P: Platform>(platform: &P, meta: &FrameMeta) -> bool {
    if !meta.drop_reference() {
        return false;
    }
    let account = meta.account();
    if account != 0 {
        meta.set_account(0);
        // SAFETY: the frame named the account until here.
        unsafe { uncharge_frame(platform, account) };
    }
    true
}

/// Drops one reference to a page's frame and gives the frame back if it was the last. Only where no TLB can lead to it.
#[inline]
pub(crate) fn release_page<P: Platform>(platform: &P, frame: Frame) {
    // One look at the record does for both.
    let Some(meta) = platform.frame_meta(frame) else { return };
    if drop_page_of(platform, meta) {
        // SAFETY: it was the last reference, and the caller vouches that the flushes that concern it are acknowledged.
        if unsafe { free_one_of(platform, meta, frame, FrameUse::Page) }.is_err() {
            platform.machine().note_refused_free();
        }
    }
}

/// Gives the frame of a page back. One whose record says that it is something else is left alone, and counted.
///
/// # Safety
/// The last reference to it was [dropped](drop_page), and the flushes that concern it are acknowledged.
pub(super) unsafe fn free_page<P: Platform>(platform: &P, frame: Frame) {
    // SAFETY: the caller's promise.
    if unsafe { free_one(platform, frame, FrameUse::Page) }.is_err() {
        platform.machine().note_refused_free();
    }
}
