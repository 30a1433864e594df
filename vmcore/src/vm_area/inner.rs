//! What handles and windows refer to: an area's state, and the one seam that says which page belongs at an offset.

use core::ptr::NonNull;

use super::account::release_account;
use super::gate::Gate;
use super::overlay::{Overlay, unlink_overlay};
use super::paged::{PageRequest, RequestToken};
use super::rest::{AreaMemory, AreaRest, AreaSpecial, StateRest};
use super::sections::{SectionLayout, Sections};
use super::{AccountInner, AreaError, AreaKind, OutOfAccount, Page, TreeSupply, View, ViewChange, Want, WriteInLeaf};
use crate::addr::{Frame, FrameRange};
use crate::frame::{Need, PageSource, Reserve};
use crate::lock::{AdaptiveLock, Beside, Counted, Guard, SharedGuard};
use crate::machine::Machine;
use crate::page_tree::{NodeSize, NodesNeeded, PageTree};
use crate::paging::{MemoryType, Pending};
use crate::platform::Platform;
use crate::word::{AtomicU8, AtomicUsize, Ordering};

/// What the area answers when it is asked for a page.
pub(crate) enum Answer {
    /// The page is in this frame.
    Page {
        frame: Frame,
        /// Whether it may be mapped writable (a clean tracked page may not: its first write has to be seen).
        writable: bool,
    },
    /// It takes more than the reserve holds to answer.
    Short(Need),
    /// A guard, or a section that is not out.
    Guard,
    /// Past the end.
    Outside,
    /// Whatever the tables hold; a fresh page where they hold nothing.
    Untracked,
    /// The page does not exist: the zero frame shows what it would hold.
    Zero,
    /// The page is in this frame from now on. What views show of it is out of date: it is [withdrawn](AreaState::withdraw), or
    /// the only view is changed, and then the reference to the old frame, which is the asker's now, is [dropped](AreaState::let_go).
    Replaced {
        frame: Frame,
        writable: bool,
        /// `None` if it was the zero frame.
        old: Option<Frame>,
    },
    /// A change of the page is still being flushed.
    Retry,
    /// The account is full.
    Full(OutOfAccount),
    /// The embedder is asked for it, just now: hand this out.
    Request(PageRequest),
    /// It was asked for before.
    Wait(RequestToken),
    /// Its pager could not bring it.
    Failed,
}

/// A page that is in a leaf that was there.
pub(crate) struct InLeaf {
    pub(crate) frame: Frame,
    /// Whether it may be mapped writable.
    pub(crate) writable: bool,
    /// Whether it was made just now, and is to be counted.
    pub(crate) made: bool,
    /// Whether it was marked as written to just now.
    pub(crate) marked: bool,
}

/// Why a new page was not made.
#[derive(Clone, Copy)]
pub(crate) enum NoPage {
    /// The reserve holds no frame.
    Short,
    /// The account is full.
    Full(OutOfAccount),
}

impl From<NoPage> for Answer {
    fn from(none: NoPage) -> Self {
        match none {
            NoPage::Short => Self::Short(Need::pages(1)),
            NoPage::Full(error) => Self::Full(error),
        }
    }
}

/// What handles and windows refer to: the first of an area's two records (`rest.rs`).
#[repr(align(64))]
pub(crate) struct AreaInner<P: Platform> {
    references: AtomicUsize,
    rest: NonNull<AreaRest<P>>,
    state: AdaptiveLock<P, AreaState<P>, AreaTraits>,
}

/// What is asked of an area without its lock.
struct AreaTraits {
    tag: Tag,
    /// The number of the memory type; changed with the state locked, when no view shows a page.
    memory: AtomicU8,
}

/// The kind of an area, without numbers. From [`Growing`](Self::Growing) on the second record is an [`AreaSpecial`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
enum Tag {
    Untracked,
    Open,
    Private,
    Ring,
    Growing,
    /// Private, laid over a paged area.
    Overlay,
    Fixed,
    Guarded,
    Paged,
}

bitflags::bitflags! {
    /// What is known of an area without a look at its second record.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct AreaMarks: u8 {
        /// The tree was shared once: only then a page may be another area's as well.
        const WAS_SHARED = 1;
        /// A view was told to show the zero frame once.
        const ZERO_SHOWN = 2;
        /// The second half of the pages is the first half again.
        const RING = 4;
        /// The flush of a change of the memory type is outstanding.
        const RETYPING = 8;
        /// Something waits for a flush: there are gates.
        const GATED = 16;
        /// There is an account.
        const CHARGED = 32;
        /// The second record is an [`AreaSpecial`].
        const SPECIAL = 64;
        /// Pages that it has not are those of the area below.
        const OVERLAY = 128;
    }
}

/// What the area's lock guards.
pub(crate) struct AreaState<P: Platform> {
    /// The size in pages, of 48 bits.
    pages_low: u32,
    pages_high: u16,
    pub(super) marks: AreaMarks,
    pub(super) tree: PageTree<Page>,
    /// The first field of the second record, by a pointer that leads to all of that.
    rest: NonNull<StateRest<P>>,
}

// SAFETY: views, sections and what a paged area or an overlay remembers belong to the area and are reached only under its lock; the tree's nodes are plain memory.
unsafe impl<P: Platform> Send for AreaState<P> {}
// SAFETY: with the lock shared nothing is changed but leaves of the tree, each by who has that leaf's lock.
unsafe impl<P: Platform> Sync for AreaState<P> {}

impl<P: Platform> Counted for AreaState<P> {
    fn add_counted(&mut self, count: u32) {
        self.tree.note_filled(u64::from(count));
    }
}

impl<P: Platform> AreaInner<P> {
    /// An area with one reference and this second record.
    pub(super) const fn new(
        kind: AreaKind,
        pages: u64,
        tree: PageTree<Page>,
        rest: NonNull<AreaRest<P>>,
        special: bool,
    ) -> Self {
        let tag = match kind {
            AreaKind::Open { .. } => Tag::Open,
            AreaKind::Untracked { .. } => Tag::Untracked,
            AreaKind::Private { .. } if special => Tag::Overlay,
            AreaKind::Private { .. } => Tag::Private,
            AreaKind::Ring { .. } => Tag::Ring,
            AreaKind::Growing { .. } => Tag::Growing,
            AreaKind::Fixed { .. } => Tag::Fixed,
            AreaKind::Guarded(_) => Tag::Guarded,
            AreaKind::Paged { .. } => Tag::Paged,
        };
        let memory = match kind {
            AreaKind::Fixed { memory, .. } => memory,
            _ => MemoryType::WriteBack,
        };
        let marks = match tag {
            Tag::Ring => AreaMarks::RING,
            Tag::Overlay => AreaMarks::SPECIAL.union(AreaMarks::OVERLAY),
            _ if special => AreaMarks::SPECIAL,
            _ => AreaMarks::empty(),
        };
        let (pages_low, pages_high) = (pages as u32, (pages >> 32) as u16);
        let state = AreaState { pages_low, pages_high, marks, tree, rest: rest.cast() };
        let traits = AreaTraits { tag, memory: AtomicU8::new(memory as u8) };
        Self { references: AtomicUsize::new(1), rest, state: AdaptiveLock::new(state, traits) }
    }

    /// Whether the second record of an area of this kind is an [`AreaSpecial`]; that of an overlay is as well.
    pub(super) const fn is_special_kind(kind: AreaKind) -> bool {
        !matches!(
            kind,
            AreaKind::Open { .. } | AreaKind::Untracked { .. } | AreaKind::Private { .. } | AreaKind::Ring { .. }
        )
    }

    #[inline]
    const fn tag(&self) -> Tag {
        self.state.beside_value().tag
    }

    /// The second record.
    pub(super) const fn rest(&self) -> NonNull<AreaRest<P>> {
        self.rest
    }

    /// Of a kind whose numbers are not its size, the kind.
    #[inline]
    fn special_kind(&self) -> Option<AreaKind> {
        // SAFETY: the record is of this type then, lives as long as the area, and the field is never written; no reference is made to more of it.
        (self.tag() >= Tag::Growing).then(|| unsafe { (*self.rest.cast::<AreaSpecial<P>>().as_ptr()).kind })
    }

    #[inline]
    pub(crate) fn lock<'a>(&'a self, platform: &'a P) -> Guard<'a, P, AreaState<P>> {
        match self.below() {
            None => self.state.lock(platform),
            // SAFETY: the area's reference keeps the one below alive. Whoever comes to the state of an overlay that others know does so
            // here, or from the area below with that one's lock held.
            Some(below) => unsafe { below.state.lock_for(platform, self.state.value()) },
        }
    }

    /// The state for who reads a space's index: alone or beside others. Who reads by a slot does not wait for what its holder may wait for slots with.
    #[inline]
    pub(crate) fn lock_beside<'a, U>(
        &'a self,
        platform: &'a P,
        reader: &'a SharedGuard<'_, P, U>,
    ) -> Beside<'a, P, AreaState<P>> {
        if self.may_be_shared() { self.state.beside(platform, reader) } else { Beside::Alone(self.lock(platform)) }
    }

    /// Has the state alone, which was had beside others, and is to be looked at anew.
    pub(crate) fn alone<'a>(
        &'a self,
        platform: &'a P,
        state: Guard<'a, P, AreaState<P>>,
    ) -> Guard<'a, P, AreaState<P>> {
        self.state.alone(platform, state)
    }

    /// Lets faults have the state beside one another when the guard, which is one of this area, is given up.
    pub(crate) fn open<'a>(&'a self, state: &mut Guard<'a, P, AreaState<P>>) {
        if self.may_be_shared() {
            self.state.open(state);
        }
    }

    /// Whether faults ever have the state beside one another. A paged area's lock guards overlays as well.
    #[inline]
    const fn may_be_shared(&self) -> bool {
        matches!(self.tag(), Tag::Open | Tag::Private | Tag::Ring | Tag::Growing)
    }

    /// Counts a page that was made beside others.
    #[inline]
    pub(crate) fn count_made<U>(&self, reader: &SharedGuard<'_, P, U>) {
        self.state.count(reader, 1);
    }

    /// Where the state is: for who holds the lock that guards it.
    pub(super) fn state(&self) -> NonNull<AreaState<P>> {
        self.state.value()
    }

    /// The paged area below an overlay.
    #[inline]
    pub(super) fn below(&self) -> Option<&Self> {
        if self.tag() != Tag::Overlay {
            return None;
        }
        // SAFETY: the record of an overlay is of this type, and the field is written before others know the area; no reference is made to more of it.
        // The overlay holds a
        // reference to the area below.
        unsafe { (*self.rest.cast::<AreaSpecial<P>>().as_ptr()).below.get().map(|below| below.as_ref()) }
    }

    /// The state, of an area that nobody else knows.
    pub(super) fn state_mut(&mut self) -> &mut AreaState<P> {
        self.state.get_mut()
    }

    /// The kind, with its present size.
    pub(crate) fn kind(&self, state: &AreaState<P>) -> AreaKind {
        let size = state.pages() << P::PAGE_SHIFT;
        match (self.tag(), self.special_kind()) {
            (Tag::Open, _) => AreaKind::Open { size },
            (Tag::Untracked, _) => AreaKind::Untracked { size },
            (Tag::Ring, _) => AreaKind::Ring { size: size / 2 },
            (_, Some(AreaKind::Paged { key, .. })) => AreaKind::Paged { size, key },
            (Tag::Private | Tag::Overlay, _) | (_, None) => AreaKind::Private { size },
            (_, Some(kind)) => kind,
        }
    }

    /// The frames of a fixed area.
    #[inline]
    pub(crate) fn frames(&self) -> Option<FrameRange> {
        match self.special_kind() {
            Some(AreaKind::Fixed { frames, .. }) => Some(frames),
            _ => None,
        }
    }

    /// The sections of a guarded area.
    pub(super) fn layout(&self) -> Option<SectionLayout> {
        match self.special_kind() {
            Some(AreaKind::Guarded(layout)) => Some(layout),
            _ => None,
        }
    }

    /// The bytes that a growing area's windows leave free below.
    pub(crate) fn gap(&self) -> Option<u64> {
        match self.special_kind() {
            Some(AreaKind::Growing { gap, .. }) => Some(gap),
            _ => None,
        }
    }

    /// The embedder's number of a paged area.
    pub(super) fn key(&self) -> Option<u64> {
        match self.special_kind() {
            Some(AreaKind::Paged { key, .. }) => Some(key),
            _ => None,
        }
    }

    pub(crate) const fn is_paged(&self) -> bool {
        matches!(self.tag(), Tag::Paged)
    }

    pub(super) const fn is_ring(&self) -> bool {
        matches!(self.tag(), Tag::Ring)
    }

    /// The memory type of its pages. It stays while the state is locked.
    #[inline]
    pub(crate) fn memory(&self) -> MemoryType {
        if let Some(below) = self.below() {
            return below.memory();
        }
        MemoryType::ALL
            .get(usize::from(self.state.beside_value().memory.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or_default()
    }

    /// Notes another memory type. Called with the state locked.
    pub(super) fn note_memory(&self, memory: MemoryType) {
        self.state.beside_value().memory.store(memory as u8, Ordering::Relaxed);
    }

    /// Whether its windows may be mapped with leaves larger than a base page.
    pub(crate) const fn is_fixed(&self) -> bool {
        matches!(self.tag(), Tag::Fixed)
    }

    /// Whether each page of it is what the tree says, or one that does not exist yet.
    pub(crate) const fn is_tracked(&self) -> bool {
        matches!(self.tag(), Tag::Open | Tag::Private | Tag::Overlay | Tag::Growing | Tag::Ring)
    }

    pub(crate) const fn is_untracked(&self) -> bool {
        matches!(self.tag(), Tag::Untracked)
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.tag(), Tag::Open | Tag::Private | Tag::Overlay)
    }

    /// How many references are no window's, and of nothing that waits for a flush.
    pub(super) fn handle_count(&self, state: &AreaState<P>) -> usize {
        let rest = state.rest();
        (self.references.load(Ordering::Acquire))
            .saturating_sub(rest.view_count as usize)
            .saturating_sub(rest.returning as usize)
            .saturating_sub(rest.gate_count as usize)
    }

    /// Whether anything but windows, and what waits for a flush, refers to the area. May say so of a window that is just being released.
    pub(crate) fn has_handles(&self, state: &AreaState<P>) -> bool {
        let rest = state.rest();
        self.references.load(Ordering::Acquire)
            > (rest.view_count as usize)
                .saturating_add(rest.returning as usize)
                .saturating_add(rest.gate_count as usize)
    }

    /// What some kinds have besides, of an area that nobody else knows yet.
    pub(super) fn special_mut(&mut self) -> Option<&mut AreaSpecial<P>> {
        // SAFETY: the record is of this type then, and lives as long as the area, which nobody else knows.
        self.state_mut().special().is_some().then(|| unsafe { self.rest.cast::<AreaSpecial<P>>().as_mut() })
    }

    /// Gives the area, which nobody else knows yet, what it remembers as an overlay, which holds a reference to the area below. It was made as one.
    pub(super) fn set_overlay(&mut self, below: NonNull<Self>, overlay: NonNull<Overlay<P>>) {
        if let Some(special) = self.special_mut() {
            special.below.set(Some(below));
            special.overlay.set(Some(overlay));
        }
    }

    pub(crate) const fn data(&self) -> &P::AreaData {
        // SAFETY: the record lives as long as the area, and the field is never written; no reference is made to more of it.
        unsafe { &(*self.rest.as_ptr()).data }
    }

    /// Counts one more handle or window.
    pub(crate) fn add_reference(&self) -> Result<(), AreaError> {
        // From none it never rises again: a paged area meets overlays that are just being released.
        let more = |count: usize| if count > usize::MAX / 2 || count == 0 { None } else { Some(count + 1) };
        match self.references.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(AreaError::TooManyHandles),
        }
    }

    /// Counts one more window. Each takes a record's memory, so that there are never as many as could overflow the count
    /// above the limit for handles.
    pub(crate) fn add_window_reference(&self) {
        self.add_window_references(1);
    }

    /// Counts some windows more.
    pub(crate) fn add_window_references(&self, count: usize) {
        if count != 0 {
            self.references.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts one window less, while another one that is known to be there holds a reference.
    pub(crate) fn drop_window_reference(&self) {
        self.drop_window_references(1);
    }

    /// Counts some windows less, while another one that is known to be there holds a reference.
    pub(crate) fn drop_window_references(&self, count: usize) {
        if count != 0 {
            self.references.fetch_sub(count, Ordering::Release);
        }
    }

    /// Counts one window less, unless nothing else refers to the area: false, and no change, then.
    pub(crate) fn drop_window_reference_beside_others(&self) -> bool {
        let less = |count: usize| if count > 1 { Some(count - 1) } else { None };
        self.references.fetch_update(Ordering::Release, Ordering::Relaxed, less).is_ok()
    }

    /// The one seam: the page with this index, for what it is wanted. Takes what it needs from the reserve, and changes
    /// nothing if that does not hold enough.
    pub(crate) fn page(
        &self,
        platform: &P,
        state: &mut AreaState<P>,
        index: u64,
        want: Want,
        reserve: &mut Reserve<P>,
    ) -> Answer {
        if index >= state.end() {
            return Answer::Outside;
        }
        match self.tag() {
            Tag::Open | Tag::Private | Tag::Overlay | Tag::Growing => {
                return state.tracked_page(platform, index, want, reserve);
            }
            Tag::Ring => {
                let key = state.key(index);
                return state.tracked_page(platform, key, want, reserve);
            }
            Tag::Untracked => return Answer::Untracked,
            Tag::Fixed | Tag::Guarded | Tag::Paged => {}
        }
        match self.special_kind() {
            Some(AreaKind::Fixed { frames, .. }) => Answer::Page { frame: frames.first().add(index), writable: true },
            Some(AreaKind::Paged { key, .. }) => {
                state.paged_page(platform, key, index, matches!(want, Want::Write | Want::Settled(true)), reserve)
            }
            Some(AreaKind::Guarded(layout)) => match layout.section_of(index) {
                Some(section) if state.section_is_out(section) => state.tracked_page(platform, index, want, reserve),
                _ => Answer::Guard,
            },
            _ => Answer::Outside,
        }
    }

    /// The same where it takes no more than a leaf that is there; `None` otherwise. It is not called for what is [refused](Self::refuses). A page that is made is to be counted:
    /// [beside others](Self::count_made), or [alone](AreaState::note_made).
    ///
    /// # Safety
    /// The caller has the state alone; or beside others, and the lock of the [leaf](AreaState::key) of the page.
    #[inline]
    pub(crate) unsafe fn page_in_leaf(
        &self,
        platform: &P,
        state: &AreaState<P>,
        index: u64,
        want: Want,
        source: &mut impl PageSource,
    ) -> Option<Result<InLeaf, NoPage>> {
        if !self.may_be_shared() {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { state.page_in_leaf(platform, state.key(index), want, source) }
    }

    /// What a write to the page takes, where that is in its leaf. It is not called for what is [refused](Self::refuses).
    ///
    /// # Safety
    /// The caller has the state alone.
    #[inline]
    pub(crate) unsafe fn write_in_leaf<'a>(
        &self,
        platform: &P,
        state: &'a AreaState<P>,
        index: u64,
    ) -> WriteInLeaf<'a> {
        if !self.may_be_shared() {
            return WriteInLeaf::More;
        }
        // SAFETY: the caller's promise.
        unsafe { state.write_in_leaf(platform, state.key(index)) }
    }

    /// The zero frame, where a look at the page gets that and the area shows it already: so it takes nothing. `None` where there is more to it.
    #[inline]
    pub(crate) fn zero_for_look(&self, platform: &P, state: &AreaState<P>, index: u64, want: Want) -> Option<Frame> {
        if want == Want::Look && self.may_be_shared() { state.zero_for_look(platform, state.key(index)) } else { None }
    }

    /// Whether [`first_refused`](Self::first_refused) says something of the page.
    #[inline(always)]
    pub(crate) fn refuses(&self, state: &AreaState<P>, index: u64) -> bool {
        if self.may_be_shared() {
            return state.is_retyping() || index >= state.end();
        }
        self.first_refused(state, index, 1).is_some()
    }

    /// The first of `count` pages that [`page`](Self::page) would refuse, and how, without asking for memory. O(1); for guarded areas
    /// O(sections in the range).
    pub(crate) fn first_refused(&self, state: &AreaState<P>, first: u64, count: u64) -> Option<(u64, Answer)> {
        if state.is_retyping() {
            return Some((first, Answer::Retry));
        }
        let end = first.saturating_add(count);
        if end > state.end() {
            return Some((first.max(state.end()), Answer::Outside));
        }
        if let Some(layout) = self.layout() {
            let mut page = first;
            while page < end {
                match layout.section_of(page) {
                    Some(section) if state.section_is_out(section) => {
                        page = layout.first_page(section) + u64::from(layout.pages);
                    }
                    _ => return Some((page, Answer::Guard)),
                }
            }
        }
        None
    }
}

impl<P: Platform> AreaState<P> {
    pub(crate) const fn pages(&self) -> u64 {
        self.pages_low as u64 | (self.pages_high as u64) << 32
    }

    /// Notes another size.
    pub(super) const fn set_pages(&mut self, pages: u64) {
        debug_assert!(Self::can_have(pages), "checked");
        (self.pages_low, self.pages_high) = (pages as u32, (pages >> 32) as u16);
    }

    /// What else the lock guards.
    #[inline]
    pub(super) const fn rest(&self) -> &StateRest<P> {
        // SAFETY: the record lives as long as the area, and is reached by who has this state.
        unsafe { self.rest.as_ref() }
    }

    /// The same, to be changed.
    #[inline]
    pub(super) const fn rest_mut(&mut self) -> &mut StateRest<P> {
        // SAFETY: as above.
        unsafe { self.rest.as_mut() }
    }

    /// What some kinds have besides.
    #[inline]
    pub(super) fn special(&self) -> Option<&AreaSpecial<P>> {
        // SAFETY: as above; the record is of this type then.
        self.marks.contains(AreaMarks::SPECIAL).then(|| unsafe { self.rest.cast::<AreaSpecial<P>>().as_ref() })
    }

    /// How many windows show the area.
    #[inline]
    pub(crate) const fn view_count(&self) -> usize {
        self.rest().view_count as usize
    }

    /// The area's number, which it gets when it is asked for the first time.
    pub(crate) fn number(&mut self, machine: &Machine<P>) -> u32 {
        let rest = self.rest_mut();
        if rest.number == 0 {
            rest.number = machine.next_area();
        }
        rest.number
    }

    /// What waits for a flush, newest first.
    #[inline]
    pub(super) const fn gates(&self) -> Option<NonNull<Gate<P>>> {
        if self.marks.contains(AreaMarks::GATED) { self.rest().gates } else { None }
    }

    pub(super) fn set_gates(&mut self, gates: Option<NonNull<Gate<P>>>) {
        self.rest_mut().gates = gates;
        self.marks.set(AreaMarks::GATED, gates.is_some());
    }

    /// Who pays for pages that come into being.
    #[inline]
    pub(super) const fn account(&self) -> Option<NonNull<AccountInner>> {
        if self.marks.contains(AreaMarks::CHARGED) { self.rest().account } else { None }
    }

    /// Has another account pay; gives the former.
    pub(super) fn exchange_account(&mut self, account: Option<NonNull<AccountInner>>) -> Option<NonNull<AccountInner>> {
        self.marks.set(AreaMarks::CHARGED, account.is_some());
        core::mem::replace(&mut self.rest_mut().account, account)
    }

    /// Whether the tree was ever shared.
    #[inline]
    pub(super) const fn was_shared(&self) -> bool {
        self.marks.contains(AreaMarks::WAS_SHARED)
    }

    /// Whether a view was ever told to show the zero frame.
    #[inline]
    pub(crate) const fn zero_shown(&self) -> bool {
        self.marks.contains(AreaMarks::ZERO_SHOWN)
    }

    /// Whether an area can be so many pages large.
    pub(crate) const fn can_have(pages: u64) -> bool {
        pages < super::MAX_SIZE >> P::PAGE_SHIFT
    }

    /// Makes the area at least so many pages large. Nothing that it gave up is waiting for its flush.
    pub(crate) fn grow_to(&mut self, pages: u64) {
        self.set_pages(self.pages().max(pages));
    }

    pub(crate) fn resident(&self) -> u64 {
        self.tree.len() - self.frameless()
    }

    /// Whether no page is there, nor below.
    #[inline]
    pub(crate) fn holds_nothing(&self) -> bool {
        self.tree.is_empty() && !self.is_overlay()
    }

    /// Counts a page that was made by who has the state alone.
    #[inline]
    pub(crate) fn note_made(&mut self) {
        self.tree.note_filled(1);
    }

    /// The sections of a guarded area.
    pub(super) fn sections(&self) -> Option<NonNull<Sections<P>>> {
        self.special()?.sections.get()
    }

    pub(super) fn section_is_out(&self, section: u32) -> bool {
        // SAFETY: sections live as long as the area, and the area is locked.
        self.sections().is_some_and(|sections| unsafe { sections.as_ref() }.is_out(section))
    }

    /// Whether one of the pages is dirty: of an overlay one of its own, since it has written to no other. O(depth + pages before that one).
    #[cfg(feature = "posix")]
    pub(crate) fn was_written(&self, first: u64, count: u64) -> bool {
        let is_written = |(_, page): (u64, Page)| page.held_frame().is_some() && page.is_dirty();
        let within = |(key, count): (u64, u64)| self.tree.range(key..key.saturating_add(count)).any(is_written);
        !self.tree.is_empty() && self.keys(first, count).into_iter().any(within)
    }

    /// The frame of a page that is resident; of a page that an overlay has not, the one below.
    pub(crate) fn resident_page(&self, index: u64) -> Option<Frame> {
        self.tree.get(self.key(index)).or_else(|| self.page_below(index))?.held_frame()
    }

    /// What it takes to make the pages under `count` keys from `first` on resident. O(pages).
    pub(super) fn need_for_keys(&self, first: u64, count: u64) -> Need {
        let mut missing = 0;
        let mut index = first;
        let end = first.saturating_add(count);
        while index < end {
            match self.tree.next_absent(index) {
                Some(absent) if absent < end => {
                    let present = self.tree.next_present(absent).map_or(end, |(key, _)| key.min(end));
                    missing += present - absent;
                    index = present;
                }
                _ => break,
            }
        }
        let mut need = Need::pages(missing);
        if count == 1 {
            need.add_nodes(self.tree.nodes_needed_to_insert(first));
        } else {
            need.merge(&Self::nodes_at_most(count));
        }
        need
    }

    /// The nodes that it can take at the most to make `count` consecutive pages resident.
    ///
    /// A run of n keys touches n / 64 + 1 leaves, n / 4096 + 1 nodes above them, and so on for eleven levels; each may be
    /// new or be copied because it is shared. On its way to its final size a node is one of the path to the key, and
    /// what the next one outgrows it gives back; only the nodes at the two ends of the run may stay small or medium.
    pub(crate) fn nodes_at_most(count: u64) -> Need {
        let mut nodes = NodesNeeded::of_each(24);
        nodes.add(NodeSize::Full, usize::try_from(count / 63).unwrap_or(usize::MAX));
        Need::default().with_nodes(nodes)
    }

    /// Whether the flush of something that the area gave up is outstanding.
    pub(crate) const fn is_returning(&self) -> bool {
        self.rest().returning != 0
    }

    /// Whether CPUs may remember more of the area than the tables show: the flush of something that it gave up, or that was copied, or of a
    /// copy of it, is outstanding.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.is_unsettled_itself() || self.is_unsettled_below()
    }

    /// The same, for what the area itself gave up.
    pub(super) const fn is_unsettled_itself(&self) -> bool {
        self.marks.contains(AreaMarks::GATED) || self.rest().returning != 0
    }

    /// Under how many of the keys there is a page. O(nodes in the range), O(1) for all.
    pub(super) fn resident_keys(&self, first: u64, count: u64) -> u64 {
        let end = first.saturating_add(count);
        if self.tree.is_empty() {
            return 0;
        }
        if first == 0 && end >= self.pages() {
            return self.resident();
        }
        if self.frameless() != 0 {
            return self.resident_one_by_one(first, end);
        }
        count.checked_sub(1).map_or(0, |more| self.tree.count_within(first, first.saturating_add(more)))
    }

    /// Links a view.
    ///
    /// # Safety
    /// The view is linked nowhere, and stays where it is until it is unlinked.
    pub(crate) unsafe fn link_view(&mut self, view: NonNull<View<P>>) {
        let rest = self.rest_mut();
        // SAFETY: views on the list are alive, and their links are reached under the area's lock alone.
        unsafe {
            view.as_ref().previous.set(None);
            view.as_ref().next.set(rest.views);
            if let Some(next) = rest.views {
                next.as_ref().previous.set(Some(view));
            }
        }
        rest.views = Some(view);
        rest.view_count = rest.view_count.saturating_add(1);
    }

    /// Unlinks a view.
    ///
    /// # Safety
    /// The view is linked in this area.
    pub(crate) unsafe fn unlink_view(&mut self, view: NonNull<View<P>>) {
        let rest = self.rest_mut();
        // SAFETY: it and its neighbours are alive, and their links are reached under the area's lock alone.
        unsafe {
            let (previous, next) = (view.as_ref().previous.get(), view.as_ref().next.get());
            match previous {
                Some(previous) => previous.as_ref().next.set(next),
                None => rest.views = next,
            }
            if let Some(next) = next {
                next.as_ref().previous.set(previous);
            }
        }
        if rest.view_count != u32::MAX {
            rest.view_count = rest.view_count.saturating_sub(1);
        }
    }

    /// How many views show some of the pages. O(views).
    pub(super) fn views_that_show(&self, first: u64, count: u64) -> usize {
        let (mut views, mut at) = (0, self.rest().views);
        while let Some(view) = at {
            // SAFETY: views on the list are alive while the area is locked.
            let (shows, next) = unsafe { (view.as_ref().shows(first, count), view.as_ref().next.get()) };
            views += usize::from(shows);
            at = next;
        }
        views
    }

    /// Has every view that shows some of the pages at these places changed.
    pub(super) fn change_places(&mut self, platform: &P, change: ViewChange, pending: &mut Pending<P>) {
        let (first, count) = change.pages();
        let mut at = self.rest().views;
        while let Some(view) = at {
            // SAFETY: views on the list are alive while the area is locked.
            let (shows, next) = unsafe { (view.as_ref().shows(first, count), view.as_ref().next.get()) };
            if shows {
                // SAFETY: the view is linked in this area, whose lock is held.
                unsafe { view.as_ref().change()(platform, view, change, pending) };
            }
            at = next;
        }
        if self.is_paged() {
            self.change_overlays(platform, change, pending);
        }
    }
}

/// Gives up one reference to an area; the last one frees its pages and the area.
///
/// # Safety
/// The caller held a counted reference, which it does not use any more. No area lock is held.
pub(crate) unsafe fn release_area<P: Platform>(platform: &P, area: NonNull<AreaInner<P>>) {
    // SAFETY: the reference that is given up kept the area alive.
    if unsafe { area.as_ref() }.references.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    // SAFETY: the last reference was just given up, and no area lock is held.
    let below = unsafe { unlink_overlay(platform, area) };
    let mut reserve = Reserve::new(platform);
    // SAFETY: it was the last reference: nobody else can reach the area. Windows hold references until their flush is
    // acknowledged, so no TLB leads to its pages. What readers' slots know of it is its place in memory, until it is settled.
    let inner = unsafe { &mut *area.as_ptr() };
    inner.state.settle(platform);
    let fixed = inner.special_kind();
    let state = inner.state.get_mut();
    state.tree.clear(&mut TreeSupply { platform, reserve: &mut reserve });
    if state.zero_shown() {
        platform.machine().release_zero_frame(platform);
    }
    if let Some(account) = state.exchange_account(None) {
        // SAFETY: the area's reference is given up.
        unsafe { release_account(platform, account, 1) };
    }
    if let Some(special) = state.special() {
        if let Some(sections) = special.sections.take() {
            // SAFETY: the sections were made with the area, and go with it.
            unsafe {
                sections.drop_in_place();
                reserve.put_object(sections);
            }
        }
        if let Some(paged) = special.paged.take() {
            // SAFETY: it was made with the area and goes with it: an eviction's flush holds a reference to the area. Nothing in it needs dropping.
            unsafe { reserve.put_object(paged) };
        }
    }
    if let Some(AreaKind::Fixed { frames, memory }) = fixed {
        platform.machine().unregister(platform, frames, memory);
    }
    // SAFETY: nobody else can reach the area, as above, whose tree is empty.
    unsafe { AreaMemory::take_down(area, &mut reserve) };
    if let Some(below) = below {
        drop(reserve);
        // SAFETY: the reference was the overlay's. There is no longer chain: an area below is no overlay.
        unsafe { release_area(platform, below) };
    }
}
