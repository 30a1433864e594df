//! Pages that an area's tree remembers: made when they are first wanted, copied when they are written to and shared.
//!
//! ```text
//!   absent ──look──► (the zero frame, which the tree does not hold)
//!          ──read──► clean ──write──► dirty            the page's own frame: writable once it is dirty
//!                                       │ clone
//!                                       ▼
//!                                    shared ──write──► a copy, the area's own: dirty      (the other keeps the frame)
//!                                       └────write, and nobody else has it any more──► dirty
//! ```
//!
//! A page is the area's *own* if every node on its path and its frame are held once: then nobody else can see what is written
//! to it. (MECHANISMS: sole owner.) A reference is dropped only after the flush of what showed the frame, so who finds itself alone is.

use core::num::NonZeroU64;
use core::ptr::NonNull;

use super::gate::{Closed, Gate};
use super::inner::{Answer, AreaInner, AreaMarks, AreaState, InLeaf, NoPage};
use super::page::drop_page;
use super::{Page, TreeSupply, ViewChange, release_page};
use crate::addr::Frame;
use crate::frame::{FrameMeta, Need, PageSource, Reserve};
use crate::page_tree::{Held, OwnSlot, Run, TreeValue, Visited};
use crate::paging::Pending;
use crate::platform::Platform;

/// What a page is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// To be seen by a single window: for a page that does not exist, the zero frame will do.
    Look,
    /// To be read.
    Read,
    /// To be written.
    Write,
    /// To be read (or written, if true), so far as that takes nothing back that a view may show: what would have to be copied is
    /// to be read, and what the zero frame stands for stays so.
    Settled(bool),
}

/// What a write to a page takes.
pub(crate) enum WriteInLeaf<'a> {
    /// The page is the area's own: nothing takes its place.
    Own,
    /// A copy in its place.
    Copy(PageToCopy<'a>),
    /// More than its leaf.
    More,
}

/// A page that others have as well, in a leaf that is the area's own.
pub(crate) struct PageToCopy<'a> {
    slot: OwnSlot<'a, Page>,
    old: Frame,
}

/// What [looking](AreaState::pages_as_they_are) at pages finds.
pub(crate) enum Seen<'a> {
    /// The page with this index, and those after it.
    Many(u64, PageSlice<'a>),
    /// The page with this index: its frame, and whether it may be written to.
    One(u64, Frame, bool),
}

/// Pages that follow one another, as a node of a tree holds them.
pub(crate) struct PageSlice<'a> {
    values: &'a [Option<NonZeroU64>],
    /// Whether all of them exist.
    complete: bool,
    /// Whether those that are dirty may be written to.
    write: bool,
    /// Whether they are the paged area's below an overlay: some of the words may stand for a page that cannot be shown.
    below: bool,
}

impl PageSlice<'_> {
    /// Their words, of which [`frame`](Self::frame) and [`page`](Self::page) say what they mean.
    pub(crate) fn words(&self) -> &[Option<NonZeroU64>] {
        self.values
    }

    /// Whether all exist and none may be written to.
    pub(crate) fn are_all_to_be_read(&self) -> bool {
        self.complete && !self.write
    }

    /// The frame of one that exists.
    #[inline(always)]
    pub(crate) fn frame(word: &Option<NonZeroU64>) -> Frame {
        word.map_or(Frame::new(0), |bits| Page::from_bits(bits).frame())
    }

    /// The frame of one, and whether it may be written to; none if it does not exist.
    #[inline(always)]
    pub(crate) fn page(&self, word: &Option<NonZeroU64>) -> Option<(Frame, bool)> {
        let page = Page::from_bits((*word)?);
        if self.below {
            return Some((page.frame_as_it_is()?, false));
        }
        Some((page.frame(), self.write && page.is_dirty()))
    }
}

impl<P: Platform> AreaState<P> {
    /// The page with this index, if it exists, whether it is the area's own, and whether its slot holds a run. O(depth).
    #[inline]
    pub(super) fn page_and_ownership(&self, platform: &P, index: u64) -> Option<(Page, bool, bool)> {
        let (run, sole) = self.tree.run_with_ownership(index)?;
        let page = run.value.advance(index - run.key);
        let own = !self.was_shared() || (sole && is_held_once(platform, run, page));
        Some((page, own, run.count != 1))
    }

    /// Whether a slot's pages, of which there are several where it holds a run, are all the area's own.
    pub(super) fn owns(&self, platform: &P, run: Run<Page>) -> bool {
        let sole = || self.tree.is_sole_owner(run.key);
        let held_once = |page| is_held_once(platform, run, run.value.advance(page));
        !self.was_shared() || (sole() && (0..run.count).all(held_once))
    }

    /// The page with this index, if the area's tree remembers pages.
    pub(super) fn tracked_page(&mut self, platform: &P, index: u64, want: Want, reserve: &mut Reserve<P>) -> Answer {
        // SAFETY: who has the state alone has every leaf.
        match unsafe { self.page_in_leaf(platform, index, want, reserve) } {
            Some(Ok(InLeaf { frame, writable, made, .. })) => {
                self.tree.note_filled(u64::from(made));
                Answer::Page { frame, writable }
            }
            Some(Err(none)) => none.into(),
            None => self.page_anywhere(platform, index, want, reserve),
        }
    }

    /// The page with this index, if all that it takes is in its leaf, which is there and the area's own. `None` where it takes more.
    ///
    /// # Safety
    /// The caller has the state alone, or the lock of the leaf and the state beside others.
    #[inline]
    pub(super) unsafe fn page_in_leaf(
        &self,
        platform: &P,
        index: u64,
        want: Want,
        source: &mut impl PageSource,
    ) -> Option<Result<InLeaf, NoPage>> {
        if self.marks.contains(AreaMarks::GATED) {
            return None;
        }
        let slot = self.tree.own_slot(index)?;
        let write = matches!(want, Want::Write | Want::Settled(true));
        // SAFETY: the leaf is the caller's.
        let Some(page) = (unsafe { slot.value() }) else {
            let elsewhere = self.marks.intersects(AreaMarks::ZERO_SHOWN.union(AreaMarks::OVERLAY));
            if want == Want::Look || elsewhere || source.is_charged_ahead() {
                return None;
            }
            // SAFETY: as above.
            if !unsafe { slot.has_room() } {
                return None;
            }
            let frame = match self.new_page_for_one(platform, source) {
                Ok(frame) => frame,
                Err(none) => return Some(Err(none)),
            };
            let page = if write { Page::new(frame).dirty() } else { Page::new(frame) };
            // SAFETY: as above; there is room.
            unsafe { slot.fill(page) };
            return Some(Ok(InLeaf { frame, writable: write, made: true, marked: false }));
        };
        let own = !self.was_shared() || is_held_once(platform, Run { key: index, count: 1, value: page }, page);
        if !write || (own && page.is_dirty()) || (!own && want != Want::Write) {
            return Some(Ok(InLeaf {
                frame: page.frame(),
                writable: own && page.is_dirty(),
                made: false,
                marked: false,
            }));
        }
        if !own {
            return None;
        }
        // SAFETY: as above; the slot holds a page.
        unsafe { slot.replace(page.dirty()) };
        Some(Ok(InLeaf { frame: page.frame(), writable: true, made: false, marked: true }))
    }

    /// What a write to the page with this key takes, where that is in its leaf, which is there and the area's own.
    ///
    /// # Safety
    /// The caller has the state alone.
    #[inline]
    pub(super) unsafe fn write_in_leaf(&self, platform: &P, key: u64) -> WriteInLeaf<'_> {
        // What is closed, or written to by the kernel meanwhile, is not copied: see `page_anywhere`.
        if self.marks.contains(AreaMarks::GATED) || self.rest().writers != 0 {
            return WriteInLeaf::More;
        }
        let Some(slot) = self.tree.own_slot(key) else { return WriteInLeaf::More };
        // SAFETY: the leaf is the caller's.
        let Some(page) = (unsafe { slot.value() }) else { return WriteInLeaf::More };
        if !self.was_shared() || is_held_once(platform, Run { key, count: 1, value: page }, page) {
            return WriteInLeaf::Own;
        }
        WriteInLeaf::Copy(PageToCopy { slot, old: page.frame() })
    }

    /// Puts a copy of a page into its place: the area's own, dirty, and charged to its account. Gives the frame that was there, with the reference to it, which
    /// is dropped when nobody remembers it any more.
    ///
    /// # Errors
    /// The account is full; nothing was changed, and the frame is the caller's still.
    ///
    /// # Safety
    /// The caller has the state alone. `to` was allocated for a page, and nobody else has it.
    #[inline]
    pub(crate) unsafe fn copy_in_leaf(&self, platform: &P, page: PageToCopy<'_>, to: Frame) -> Result<Frame, NoPage> {
        self.charge_one()?;
        self.note_charged(platform, to);
        // SAFETY: the new frame is nobody else's, as the caller vouches; the old one is held by the slot, whose lock the caller has.
        unsafe { platform.copy_frame(page.old, to) };
        // SAFETY: the leaf is the caller's, and the slot holds the page.
        unsafe { page.slot.replace(Page::new(to).dirty()) };
        Ok(page.old)
    }

    /// The zero frame, if [`page_anywhere`](Self::page_anywhere) would answer a look at the page with it, and the area shows it already.
    pub(super) fn zero_for_look(&self, platform: &P, index: u64) -> Option<Frame> {
        if !self.zero_shown() || self.is_overlay() || self.page_is_closed(platform, index) {
            return None;
        }
        match self.tree.get(index) {
            Some(_) => None,
            None => platform.machine().zero_frame(),
        }
    }

    /// [`tracked_page`](Self::tracked_page), wherever it takes something: the whole tree is the caller's.
    #[inline(never)]
    fn page_anywhere(&mut self, platform: &P, index: u64, want: Want, reserve: &mut Reserve<P>) -> Answer {
        if self.page_is_closed(platform, index) {
            return Answer::Retry;
        }
        let mut write = matches!(want, Want::Write | Want::Settled(true));
        if write && self.writes_are_closed() {
            // A copy of the area is coming into being: whoever could write still does so for both.
            if want == Want::Write {
                return Answer::Retry;
            }
            write = false;
        }
        let Some((page, own, in_run)) = self.page_and_ownership(platform, index) else {
            return match want {
                _ if self.is_overlay() => self.show_below(platform, index, want == Want::Write, reserve),
                Want::Look => Answer::Zero,
                Want::Settled(_) if self.zero_shown() => Answer::Zero,
                _ => self.make_page(platform, index, write, reserve),
            };
        };
        if !write || (own && page.is_dirty()) || (!own && want != Want::Write) {
            return Answer::Page { frame: page.frame(), writable: own && page.is_dirty() };
        }
        if own && in_run {
            self.note_run_dirty(index);
            return Answer::Page { frame: page.frame(), writable: true };
        }
        if own {
            // Its path is held once, so this takes no node.
            return match self.tree.insert(index, page.dirty(), &mut TreeSupply { platform, reserve }) {
                Ok(_) => Answer::Page { frame: page.frame(), writable: true },
                Err(_) => Answer::Short(Need::default().with_nodes(self.tree.nodes_needed_to_insert(index))),
            };
        }
        self.copy_page(platform, index, page, reserve)
    }

    /// The frame of a page that exists and that nothing is closed for, and whether it may be written to. O(depth).
    pub(crate) fn page_as_it_is(&self, platform: &P, index: u64) -> Option<(Frame, bool)> {
        let index = self.key(index);
        if self.page_is_closed(platform, index) {
            return None;
        }
        let Some((page, own, _)) = self.page_and_ownership(platform, index) else {
            return self.frame_below_as_it_is(index).map(|frame| (frame, false));
        };
        Some((page.frame(), page.is_dirty() && own))
    }

    /// Shows `each` those of `count` pages from `first` on that exist and that nothing is closed for, in order, and, if `write`, whether they may be written to:
    /// what [`page_as_it_is`](Self::page_as_it_is) says of each, but for one walk for many. O(pages).
    pub(crate) fn pages_as_they_are(
        &self,
        platform: &P,
        (first, count): (u64, u64),
        write: bool,
        mut each: impl FnMut(Seen<'_>),
    ) {
        let Some(last) = first.checked_add(count.wrapping_sub(1)).filter(|last| *last >= first) else { return };
        if self.marks.intersects(AreaMarks::GATED.union(AreaMarks::RING)) {
            for index in first..=last {
                if let Some((frame, writable)) = self.page_as_it_is(platform, index) {
                    each(Seen::One(index, frame, write && writable));
                }
            }
            return;
        }
        let seen = |index, page: Page, held| {
            let writable = write && page.is_dirty() && (!self.was_shared() || is_own(platform, page, held));
            Seen::One(index, page.frame(), writable)
        };
        if self.is_overlay() {
            // Its own, and between them what is there below.
            let mut next = first;
            self.tree.visit_each(first, last, |index, page, held| {
                self.pages_below_as_they_are(next, index, &mut each);
                each(seen(index, page, held));
                next = index.saturating_add(1);
            });
            return self.pages_below_as_they_are(next, last.saturating_add(1), &mut each);
        }
        self.tree.visit(first, last, |visited| match visited {
            // Who else holds a page concerns only what may be written to, and where a node is shared, all of its pages are.
            Visited::Many(index, values, complete, held) if !write || !self.was_shared() || held == Held::Shared => {
                let write = write && !self.was_shared();
                each(Seen::Many(index, PageSlice { values, complete, write, below: false }));
            }
            Visited::Many(first, values, _, held) => {
                for (step, bits) in values.iter().enumerate() {
                    if let Some(bits) = *bits {
                        each(seen(first + step as u64, Page::from_bits(bits), held));
                    }
                }
            }
            Visited::One(index, page, held) => each(seen(index, page, held)),
        });
    }

    /// Shows `each` the pages below an overlay that show from its page `first` on and before its page `end`, where it has none of its own. O(pages).
    fn pages_below_as_they_are(&self, first: u64, end: u64, each: &mut impl FnMut(Seen<'_>)) {
        let Some((below, offset)) = self.below().filter(|_| first < end.min(self.pages())) else { return };
        let (low, high) = (offset.saturating_add(first), offset.saturating_add(end.min(self.pages()) - 1));
        below.tree.visit(low, high, |visited| match visited {
            Visited::Many(key, values, ..) => {
                each(Seen::Many(key - offset, PageSlice { values, complete: false, write: false, below: true }));
            }
            Visited::One(key, page, _) => {
                if let Some(frame) = page.frame_as_it_is() {
                    each(Seen::One(key - offset, frame, false));
                }
            }
        });
    }

    /// A page that does not exist yet.
    fn make_page(&mut self, platform: &P, index: u64, write: bool, reserve: &mut Reserve<P>) -> Answer {
        let nodes = self.tree.nodes_needed_to_insert(index);
        let gates = usize::from(self.zero_shown());
        let need = Need::pages(1).with_nodes(nodes).with_objects::<Gate<P>>(gates);
        // Gates and nodes may be of one class, so with gates it is their sum that must be there.
        let enough = if gates == 0 { reserve.has_pages(1) && reserve.has_nodes(nodes) } else { reserve.covers(&need) };
        if !enough {
            return Answer::Short(need);
        }
        let frame = match self.new_page(platform, reserve) {
            Ok(frame) => frame,
            Err(answer) => return answer,
        };
        let page = if write { Page::new(frame).dirty() } else { Page::new(frame) };
        match self.tree.insert(index, page, &mut TreeSupply { platform, reserve }) {
            Ok(_) if self.zero_shown() => Answer::Replaced { frame, writable: write, old: None },
            Ok(_) => Answer::Page { frame, writable: write },
            Err(_) => {
                release_page(platform, frame);
                Answer::Short(need)
            }
        }
    }

    /// A copy of a page that is shared, in its place.
    fn copy_page(&mut self, platform: &P, index: u64, page: Page, reserve: &mut Reserve<P>) -> Answer {
        if self.rest().writers != 0 {
            // The frame may be held by who writes to it, and by nobody else; and what it writes belongs to this area.
            return Answer::Retry;
        }
        match self.put_copy(platform, index, page.frame(), reserve) {
            Ok((frame, old)) => Answer::Replaced { frame, writable: true, old: old.map(Page::frame) },
            Err(answer) => answer,
        }
    }

    /// Puts a copy of a frame, which somebody whose lock is held has, into the place of a page: the area's own, dirty. Gives its frame, and the page that was there.
    pub(super) fn put_copy(
        &mut self,
        platform: &P,
        index: u64,
        from: Frame,
        reserve: &mut Reserve<P>,
    ) -> Result<(Frame, Option<Page>), Answer> {
        let need = self.need_to_copy(index);
        // Gates and nodes may be of one class: it is their sum that must be there.
        if !reserve.covers_with_pools(&need) {
            return Err(Answer::Short(need));
        }
        let frame = self.new_page(platform, reserve)?;
        // SAFETY: the new frame is nobody else's yet; the old one is held by a tree whose lock is held. Whoever writes to a file's page meanwhile writes
        // before or after the copy of each byte, as to memory that programs share.
        unsafe { platform.copy_frame(from, frame) };
        match self.tree.insert(index, Page::new(frame).dirty(), &mut TreeSupply { platform, reserve }) {
            Ok(old) => Ok((frame, old)),
            Err(_) => {
                release_page(platform, frame);
                Err(Answer::Short(need))
            }
        }
    }

    /// The zero frame, for a view of this area. `None` if it has to be made and the reserve holds no page.
    pub(crate) fn zero_frame(&mut self, platform: &P, reserve: &mut Reserve<P>) -> Option<Frame> {
        if self.zero_shown() {
            return platform.machine().zero_frame();
        }
        let frame = platform.machine().need_zero_frame(platform, reserve)?;
        self.marks |= AreaMarks::ZERO_SHOWN;
        Some(frame)
    }

    /// What it takes at least to put a page into the place of another one.
    pub(crate) fn need_to_replace() -> Need {
        Need::pages(1).with_objects::<Gate<P>>(1)
    }

    /// What it takes to copy a page.
    pub(super) fn need_to_copy(&self, index: u64) -> Need {
        Need::pages(1).with_nodes(self.tree.nodes_needed_to_insert(index)).with_objects::<Gate<P>>(1)
    }

    /// What it takes to make `count` pages from `first` on the area's own, beside what [`need_for`](Self::need_for) says. O(pages).
    pub(crate) fn need_to_own(&self, platform: &P, first: u64, count: u64) -> Need {
        let mut need = Need::default();
        if self.may_replace() {
            for (first, count) in self.keys(first, count) {
                need.merge(&self.need_to_own_keys(platform, first, count));
            }
        }
        need
    }

    /// The same for the pages under `count` keys from `first` on.
    fn need_to_own_keys(&self, platform: &P, first: u64, count: u64) -> Need {
        let mut need = Need::default();
        if count == 0 {
            return need;
        }
        let (mut at, end) = (first, first.saturating_add(count));
        let (mut present, mut copies) = (0, 0);
        while let Some((index, _)) = self.tree.next_present(at).filter(|(index, _)| *index < end) {
            present += 1;
            copies += u64::from(self.page_and_ownership(platform, index).is_some_and(|(_, own, _)| !own));
            at = index + 1;
        }
        if copies != 0 {
            need = Self::nodes_at_most(count);
            need.pages = copies;
        }
        let gates = if self.zero_shown() || self.is_overlay() { copies + (count - present) } else { copies };
        need.add_objects::<Gate<P>>(usize::try_from(gates).unwrap_or(usize::MAX));
        need
    }

    /// Whether writing to a page may replace what views show of it.
    pub(crate) const fn may_replace(&self) -> bool {
        self.was_shared() || self.zero_shown() || self.is_overlay()
    }

    /// Whether asking for the page would be answered by [`Answer::Replaced`].
    #[inline(always)]
    pub(crate) fn would_replace(&self, platform: &P, index: u64, want: Want) -> bool {
        // A look at a page that does not exist leaves it so.
        self.may_replace() && want != Want::Look && self.would_replace_now(platform, index, want)
    }

    fn would_replace_now(&self, platform: &P, index: u64, want: Want) -> bool {
        match self.page_and_ownership(platform, self.key(index)) {
            Some((_, own, _)) => !own && want == Want::Write,
            None => self.zero_shown() || (self.is_overlay() && want == Want::Write),
        }
    }

    /// Has every view forget a page that was replaced, whose old frame is held until they have; nobody touches the page before.
    ///
    /// Takes a gate from the reserve, which holds one after [`Answer::Replaced`].
    pub(crate) fn withdraw(
        &mut self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        (index, old): (u64, Option<Frame>),
        reserve: &mut Reserve<P>,
        pending: &mut Pending<P>,
    ) {
        let index = self.key(index);
        self.change_views(platform, ViewChange::Unmap { first: index, count: 1 }, pending);
        if self.is_unsettled() {
            // Something was taken out of the tables before, and that flush is outstanding: it may have been this page.
            self.change_views(platform, ViewChange::Forget { first: index, count: 1 }, pending);
        }
        match reserve.take_object::<Gate<P>>() {
            // SAFETY: the memory was just taken for it; the caller names the area of this state.
            Some(memory) => unsafe {
                let new = self.tree.get(index).and_then(Page::held_frame);
                self.close(platform, memory, area, Closed::Page { index, old, new }, pending);
            },
            // It was reserved. Without one, the frame stays held for ever, which is safe.
            None => platform.machine().note_dropped_flush(u64::from(old.is_some())),
        }
    }

    /// Drops the reference to a frame that was replaced, which nobody remembers any more.
    pub(crate) fn let_go(platform: &P, old: Option<Frame>, pending: &mut Pending<P>) {
        let Some(old) = old else { return };
        if drop_page(platform, old) {
            // Freed with the flush: no frame is freed under a lock.
            pending.add_page(platform, old);
        }
    }
}

/// Whether a page is the area's own, by who holds its slot.
#[inline]
pub(super) fn is_own<P: Platform>(platform: &P, page: Page, held: Held<Page>) -> bool {
    match held {
        Held::Shared => false,
        Held::Sole => is_held_once(platform, Run { key: 0, count: 1, value: page }, page),
        Held::SoleRun(value) => is_held_once(platform, Run { key: 0, count: 0, value }, page),
    }
}

/// Whether nobody but the one slot that holds a page (as one of a run, or alone) holds its frame.
#[inline]
fn is_held_once<P: Platform>(platform: &P, run: Run<Page>, page: Page) -> bool {
    // First the run, then the frame: who splits a run that others hold as well counts the frames before the run is one less.
    let run_once = run.count == 1 || platform.frame_meta(run.value.frame()).is_some_and(|meta| meta.runs() == 1);
    // A pinned page is never another area's as well: who copies the area copies it. A gate holds what it closes.
    let alone = |meta: &FrameMeta| meta.count() == 1 + u32::from(meta.is_closed()) || meta.pins() != 0;
    run_once && platform.frame_meta(page.frame()).is_some_and(alone)
}
