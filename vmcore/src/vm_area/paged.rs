//! Paged areas: contents that the embedder supplies and takes back (a file, an image, memory across a network, swap).
//!
//! The library hands out requests and takes answers; it never waits. Who waits is the thread whose access faulted, and it is the embedder that
//! blocks and wakes it.
//!
//! # A page's life
//!
//! ```text
//!              access, request                supply                      write
//!     absent ──────────────────► requested ───────────► clean ─────────────────────► dirty ◄──┐
//!      ▲ ▲ ▲                      │     │               ▲ │ ▲                          │      │ not written, or
//!      │ │ └──────── cancel ──────┘     │ fail          │ │ │ written                  │ begin│ written to since
//!      │ │                              ▼               │ │ └─────── writing back ◄────┘      │
//!      │ └────────── retry ─────────── failed     access│ │ evict         └───────────────────┘
//!      │                                                │ ▼
//!      └──────────────────── acknowledged ────────── evicting
//!
//!     a smaller size, or the end of the area: absent, from every state
//! ```
//!
//! | state | in the tree ([`Page`]) | an access finds |
//! |---|---|---|
//! | absent | nothing | a request: [`Resolution::Request`](crate::vm_space::Resolution::Request) |
//! | requested | the request's token, no frame | the request to wait for: [`Resolution::Wait`](crate::vm_space::Resolution::Wait) |
//! | failed | a mark, no frame | [`SpaceError::Failed`](crate::vm_space::SpaceError::Failed), whoever asks, until [`Area::retry`] |
//! | clean | a frame | the page, for reading; the first write makes it dirty |
//! | dirty | a frame, D | the page, as the window allows |
//! | writing back | a frame, W | as clean; after a write (W and D) as dirty, and so it is when the write-back ends |
//! | evicting | a frame, E | the page: it stays |
//!
//! # Requests
//!
//! A request is for a run of absent pages, which it names in the tree by its token: whoever wants one of them meanwhile joins. An answer
//! ([`supply`](Area::supply), [`fail`](Area::fail), [`cancel`](Area::cancel)) is for pages that still carry the token, in any order and in pieces; what was cut
//! off since (by a smaller size, or with the area) carries it no more, also if the area grew again, and an answer that meets no such page is refused
//! ([`AreaError::Stale`]). Tokens are never used twice in an area. Unmapping a window, or the end of a space, leaves requests alone: they are
//! the area's. Whatever became of an answer, wake all who wait for its token: they try again, and find what is true then.
//!
//! Each page of a request has to be answered, or nobody will ask for it again. Keep a handle of the area for as long as windows
//! ([`Area::windows`]) or private views ([`Area::overlays`]) show it, since only who has one can answer.
//!
//! # Dirty pages
//!
//! What is written back is read only after every CPU has lost its permission to write: the [`WriteBack`] comes out of a flush. What is written from
//! then on marks the page dirty again, so it is not lost; but bytes that are read at the same time may be mixed. Writing through a handle
//! ([`Area::write`]) is no CPU's permission and no flush waits for it: it marks its page when it is through, whatever has happened meanwhile.
//!
//! # Eviction
//!
//! Clean pages leave every window at once and the tree when the flush is acknowledged; an access in between finds them where they are and
//! keeps them. So neither eviction nor write-back allocates anything. One eviction of an area at a time is under way; one whose flush is dropped stays
//! so for ever, though nothing is lost but the way to evict.

mod answer;
mod buffer;
mod evict;
mod write_back;

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

pub use self::buffer::PageBuffer;
pub use self::evict::Evicted;
pub use self::write_back::WriteBack;
use super::inner::{Answer, AreaInner, AreaState};
use super::overlay::Overlay;
use super::{Area, AreaError, Page, Rights, TreeSupply};
use crate::addr::Frame;
use crate::frame::{Need, Reserve};
use crate::page_tree::PageTree;
use crate::paging::Deferred;
use crate::platform::Platform;

/// The name of a request within its area, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestToken(
    /// The number, in 56 bits.
    pub u64,
);

/// What the embedder is asked to bring: pages of a paged area.
///
/// Answer each of them, together or in pieces, by [`Area::supply`], [`Area::supply_pages`], [`Area::fail`] or [`Area::cancel`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PageRequest {
    /// The area's, as it was made with ([`AreaKind::Paged`](super::AreaKind::Paged)).
    pub key: u64,
    /// Where the pages begin in the area, in bytes.
    pub offset: u64,
    /// How many bytes: the page that is wanted at once, and those after it that are asked for ahead ([`Area::set_read_ahead`]).
    pub size: u64,
    /// What the answer refers to.
    pub token: RequestToken,
    /// Whether the page is wanted for writing.
    pub write: bool,
}

/// What an operation that needs a page waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageWait {
    /// The answer to this request, which nobody has seen yet: hand it to whoever brings the page.
    Request(PageRequest),
    /// The answer to this request, which was handed out before.
    Wait(RequestToken),
}

impl fmt::Display for PageWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => write!(
                f,
                "the pages {:#x}+{:#x} of area {:#x} have to be brought: answer request {} and try again",
                request.offset, request.size, request.key, request.token.0
            ),
            Self::Wait(token) => {
                write!(f, "the page has to be brought: wait for the answer to request {} and try again", token.0)
            }
        }
    }
}

/// What an area knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PageState {
    /// There is none.
    Absent,
    /// It was asked for.
    Requested(RequestToken),
    /// Its pager could not bring it.
    Failed,
    /// As it was supplied or last written back (of areas that are not paged: as it came into being).
    Clean,
    /// Written to.
    Dirty,
    /// Its write-back is under way.
    WritingBack {
        /// Whether it was written to since that began.
        dirty: bool,
    },
    /// Clean, and given up when a flush is acknowledged, unless somebody wants it before.
    Evicting,
}

/// The most pages that are asked for at once.
const MOST_ASKED: u64 = 1024;

/// Tokens are as wide as the number of a frame is.
const TOKEN_MASK: u64 = u64::MAX >> 8;

/// The eviction that is under way.
struct Eviction<P: Platform> {
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
    /// The first page that it concerns, and the one after the last.
    first: u64,
    end: u64,
}

impl<P: Platform> Clone for Eviction<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Eviction<P> {}

/// What a paged area remembers besides its pages, in a record of its own. All but the header is reached under the area's lock alone; the fields are
/// cells, since a flush may look at the header meanwhile.
#[repr(C)]
pub(crate) struct Paged<P: Platform> {
    /// Takes an eviction into its flush. First, so that its address is the record's.
    deferred: Deferred<P>,
    evicting: Cell<Option<Eviction<P>>>,
    last_token: Cell<u64>,
    /// Pages of a request that a fault makes; at least 1.
    read_ahead: Cell<u64>,
    /// How many words of the tree have no frame.
    frameless: Cell<u64>,
    /// The private views of the area.
    overlays: Cell<Option<NonNull<Overlay<P>>>>,
}

impl<P: Platform> Paged<P> {
    pub(super) const fn new() -> Self {
        Self {
            deferred: Deferred::new::<Self>(),
            evicting: Cell::new(None),
            last_token: Cell::new(0),
            read_ahead: Cell::new(1),
            frameless: Cell::new(0),
            overlays: Cell::new(None),
        }
    }
}

impl<P: Platform> AreaInner<P> {
    /// Whether [`page`](Self::page) would give a request, or something to wait for, or a failure.
    #[inline]
    pub(crate) fn awaits(&self, state: &AreaState<P>, index: u64) -> bool {
        state.lacks(index)
    }
}

impl<P: Platform> AreaState<P> {
    /// What a paged area remembers.
    fn paged(&self) -> Option<&Paged<P>> {
        // SAFETY: it lives as long as the area, and is changed under the area's lock alone, through cells.
        self.paged_record().map(|paged| unsafe { paged.as_ref() })
    }

    fn paged_record(&self) -> Option<NonNull<Paged<P>>> {
        self.special()?.paged.get()
    }

    /// Whether it is a paged area's.
    pub(super) fn is_paged(&self) -> bool {
        self.paged_record().is_some()
    }

    /// How many words of the tree have no frame.
    #[inline]
    pub(super) fn frameless(&self) -> u64 {
        self.paged().map_or(0, |paged| paged.frameless.get())
    }

    /// The list of a paged area's private views.
    pub(super) fn overlays(&self) -> Option<&Cell<Option<NonNull<Overlay<P>>>>> {
        self.paged().map(|paged| &paged.overlays)
    }

    /// Whether a page of a paged area, or of a private view of one, is not there.
    #[inline]
    fn lacks(&self, index: u64) -> bool {
        if !self.is_paged() {
            return self.awaits_below(index);
        }
        index < self.pages() && self.tree.get(index).and_then(Page::held_frame).is_none()
    }

    fn add_frameless(&self, more: u64, fewer: u64) {
        if let Some(paged) = self.paged() {
            paged.frameless.set((paged.frameless.get() + more).saturating_sub(fewer));
        }
    }

    /// How many frames a part that was split off the tree holds; its words without one are not this tree's any more.
    pub(super) fn cut_frames(&self, cut: &PageTree<Page>) -> u64 {
        if self.frameless() == 0 {
            return cut.len();
        }
        let frames = cut.range(..).filter(|(_, page)| page.held_frame().is_some()).count() as u64;
        self.add_frameless(0, cut.len() - frames);
        frames
    }

    /// How many pages from `first` to before `end` are resident, where some words have no frame. O(pages).
    pub(super) fn resident_one_by_one(&self, first: u64, end: u64) -> u64 {
        self.tree.range(first..end).filter(|(_, page)| page.held_frame().is_some()).count() as u64
    }

    /// Puts another word where there is one; its frame, if it has one, stays counted as it is. False if it cannot be: paged areas share no nodes,
    /// so that takes none, and cannot fail.
    fn replace(&mut self, platform: &P, index: u64, page: Page, reserve: &mut Reserve<P>) -> bool {
        self.tree.insert(index, page, &mut TreeSupply { platform, reserve }).is_ok()
    }

    /// The seam for a paged area: the page, if it is there; a request for it if nobody has asked yet.
    pub(super) fn paged_page(
        &mut self,
        platform: &P,
        key: u64,
        index: u64,
        write: bool,
        reserve: &mut Reserve<P>,
    ) -> Answer {
        let Some(page) = self.tree.get(index) else {
            let most = self.paged().map_or(1, |paged| paged.read_ahead.get());
            return self.ask(
                platform,
                PageRequest { key, offset: index, size: most, token: RequestToken(0), write },
                reserve,
            );
        };
        if let Some(token) = page.token() {
            return Answer::Wait(RequestToken(token));
        }
        let Some(frame) = page.held_frame() else { return Answer::Failed };
        let wanted = if write { page.kept().dirty() } else { page.kept() };
        if wanted != page {
            let nodes = self.tree.nodes_needed_to_insert(index);
            if !reserve.has_nodes(nodes) || !self.replace(platform, index, wanted, reserve) {
                return Answer::Short(Need::default().with_nodes(nodes));
            }
        }
        Answer::Page { frame, writable: wanted.is_dirty() }
    }

    /// Asks for the run of absent pages that begins with the absent one that the request names, in pages: for `size` of them at the most.
    fn ask(&mut self, platform: &P, wanted: PageRequest, reserve: &mut Reserve<P>) -> Answer {
        let first = wanted.offset;
        let run = self.absent_run(first, wanted.size.clamp(1, MOST_ASKED));
        let need = self.need_to_mark(first, run);
        if !reserve.covers(&need) {
            return Answer::Short(need);
        }
        let token = self.paged().map_or(0, |paged| {
            // 56 bits do not come round in the life of a machine.
            let token = (paged.last_token.get() + 1) & TOKEN_MASK;
            paged.last_token.set(token);
            token
        });
        let marked = self.mark(platform, first, run, token, reserve);
        if marked == 0 {
            return Answer::Short(need);
        }
        Answer::Request(PageRequest {
            offset: first << P::PAGE_SHIFT,
            size: marked << P::PAGE_SHIFT,
            token: RequestToken(token),
            ..wanted
        })
    }

    /// Asks with a request that was just made for absent pages that follow it as well, up to page `end`, as far as the reserve reaches.
    pub(crate) fn widen(
        &mut self,
        platform: &P,
        mut request: PageRequest,
        end: u64,
        reserve: &mut Reserve<P>,
    ) -> PageRequest {
        if self.is_overlay() {
            return self.widen_below(platform, request, end, reserve);
        }
        let (first, count) = (request.offset >> P::PAGE_SHIFT, request.size >> P::PAGE_SHIFT);
        let next = first + count;
        let most = MOST_ASKED.saturating_sub(count).min(end.saturating_sub(next));
        if most != 0 && next < self.pages() && self.tree.get(next).is_none() {
            let run = self.absent_run(next, most);
            let marked = self.mark(platform, next, run, request.token.0, reserve);
            request.size += marked << P::PAGE_SHIFT;
        }
        request
    }

    /// How many pages from the absent page `first` on are absent, at the most `most`.
    fn absent_run(&self, first: u64, most: u64) -> u64 {
        let end = first.saturating_add(most).min(self.pages());
        self.tree.next_present(first).map_or(end, |(key, _)| key.min(end)).saturating_sub(first)
    }

    /// What it takes to mark so many absent pages.
    fn need_to_mark(&self, first: u64, count: u64) -> Need {
        if count == 1 {
            return Need::default().with_nodes(self.tree.nodes_needed_to_insert(first));
        }
        Self::nodes_at_most(count)
    }

    /// Marks absent pages as asked for, as far as the reserve reaches; gives how many.
    fn mark(&mut self, platform: &P, first: u64, count: u64, token: u64, reserve: &mut Reserve<P>) -> u64 {
        let mut marked = 0;
        while marked < count && self.replace(platform, first + marked, Page::requested(token), reserve) {
            marked += 1;
        }
        self.add_frameless(marked, 0);
        marked
    }

    /// What asking for the first missing one of these pages takes. O(runs).
    pub(crate) fn need_to_ask(&self, first: u64, count: u64) -> Need {
        if let Some(need) = self.need_to_ask_below(first, count) {
            return need;
        }
        let end = first.saturating_add(count);
        let absent = self.tree.next_absent(first).is_some_and(|absent| absent < end);
        if absent { self.need_to_ask_at_most(count) } else { Need::default() }
    }

    /// What asking for some of so many pages takes at the most.
    pub(crate) fn need_to_ask_at_most(&self, count: u64) -> Need {
        if let Some(need) = self.need_to_ask_below_at_most(count) {
            return need;
        }
        let ahead = self.paged().map_or(1, |paged| paged.read_ahead.get());
        Self::nodes_at_most(count.max(ahead).min(MOST_ASKED))
    }

    /// The first of these pages that is not there.
    fn first_missing(&self, first: u64, count: u64) -> Option<u64> {
        let end = first.saturating_add(count).min(self.pages());
        (first..end).find(|index| self.lacks(*index))
    }

    /// Marks a page as written to if it still is in this frame (and is to be kept then); false if not.
    pub(super) fn mark_written(&mut self, platform: &P, index: u64, frame: Frame, reserve: &mut Reserve<P>) -> bool {
        match self.tree.get(index) {
            Some(page) if page.held_frame() == Some(frame) => {
                self.replace(platform, index, page.kept().dirty(), reserve)
            }
            _ => false,
        }
    }
}

impl<P: Platform> Area<P> {
    /// How many pages a fault asks for at once: the one that it needs, and absent ones that follow. 1 at first, 1024 at the most.
    ///
    /// # Errors
    /// The area is not paged, or the handle lacks the right to supply.
    pub fn set_read_ahead(&self, pages: u64) -> Result<(), AreaError> {
        self.require_pager()?;
        let state = self.inner().lock(self.platform());
        if let Some(paged) = state.paged() {
            paged.read_ahead.set(pages.clamp(1, MOST_ASKED));
        }
        Ok(())
    }

    /// What the area knows of the page at `offset` bytes; `None` past its end, and for kinds that track no pages. O(levels).
    pub fn page_state(&self, offset: u64) -> Option<PageState> {
        let index = offset >> P::PAGE_SHIFT;
        if self.inner().is_fixed() || self.inner().is_untracked() {
            return None;
        }
        let state = self.inner().lock(self.platform());
        if index >= state.pages() {
            return None;
        }
        Some(match state.tree.get(index) {
            None => PageState::Absent,
            Some(page) => match page.token() {
                Some(token) => PageState::Requested(RequestToken(token)),
                None if page.held_frame().is_none() => PageState::Failed,
                None if page.is_writing_back() => PageState::WritingBack { dirty: page.is_dirty() },
                None if page.is_evicting() => PageState::Evicting,
                None if page.is_dirty() => PageState::Dirty,
                None => PageState::Clean,
            },
        })
    }

    /// What a pager's call asks of the handle.
    fn require_pager(&self) -> Result<(), AreaError> {
        self.require(Rights::SUPPLY)?;
        if self.inner().is_paged() { Ok(()) } else { Err(AreaError::Kind) }
    }

    /// The pages that a range of bytes touches: the first, and the one after the last.
    fn pages_of(offset: u64, size: u64) -> (u64, u64) {
        let first = offset >> P::PAGE_SHIFT;
        match size.checked_sub(1) {
            Some(beyond) => (first, (offset.saturating_add(beyond) >> P::PAGE_SHIFT) + 1),
            None => (first, first),
        }
    }
}
