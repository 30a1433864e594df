//! Faults that go on beside one another: no word is written by two of them, where they are in different areas, or in different 256 KiB of one.
//!
//! ```text
//!   CPU 0                                 CPU 1                                 CPU 2
//!   its reader slot                       its reader slot                       its reader slot               1
//!     window: read                          window: read                          window: read
//!     area A: locked                        area B: shared                        area B: shared              \
//!                                             leaf 0 of its tree: locked            leaf 64: locked           / 2
//!       the page: from A and a frame          the page: a slot of the leaf          …                         3 (the frame's record; nodes now and then)
//!       the entry, the table's count          …                                     …                         4
//! ```
//!
//! These are the four locked operations of a fault on a page that was not there, where the leaf table was; what the embedder's
//! allocator does for the frame is its own. An area is locked as long as faults do not meet there, and shared from then on
//! ([`AdaptiveLock`](crate::lock::AdaptiveLock)): so one thread alone pays nothing for the possibility.
//!
//! # Why it is sound
//!
//! - With the index held, shared, windows stay as they are, and so does the shape of the space's tables: who links, unlinks, splits, or forbids above has the
//!   index exclusively. An area that changes what its windows show, without it, leaves tables as they are.
//! - With the area locked, its pages and the entries of its windows are this fault's: no other window shows anything there.
//! - A larger leaf or a table above that was write-protected for the area alone is in the way of faults in that area alone.
//!
//! With the area shared, all of it stays as it is but for the leaves of its tree and the entries that show their pages, and those of one leaf are this fault's by the leaf's lock:
//!
//! - What is decided on the area as a whole (its size, what waits for a flush, whether the zero frame is shown, who pays) is changed by who has it exclusively.
//! - A page is filled in, or marked as written to by its sole owner, where it is: the tree's nodes above are read alone, and the count of its keys is settled later
//!   ([`own_slot`](crate::page_tree)). A leaf that is missing, shared or without room takes the area exclusively.
//! - Whether a page has a sole owner is asked of counts that only who has the area exclusively raises, or who has a part of its tree, which then is not the area's own.
//! - Neighbours that are mapped with a page are those of its leaf.
//!
//! What takes more is not begun, and the fault is looked at anew without its slot: it waits for the index's own lock, and reads the index by that, with all others beside it, if it was the index or the area
//! that was taken, or if it takes the area exclusively ([`Waiting`]); it has the index exclusively for all else. Who waited for another one does not keep others out in turn:
//! two who did would find each other alone for ever.
//!
//! # A copy in the place of a page
//!
//! A write to a page that others have as well takes no more than a page in hand, where the leaf is the area's own, one window alone shows the page, no flush that concerns the area
//! is outstanding, and no other CPU runs in the space: so all who remember the old frame are this CPU, which forgets it before the area is let go. The CPUs' lock keeps
//! others from beginning to use the space in between. The frame in hand need not be zeroed: it is written all over before a slot or an entry names it.

use core::ops::Deref;
use core::ptr::NonNull;

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{Need, OnePage, PageSource, Reserve};
use crate::lock::{Beside, Guard};
use crate::paging::{Access, Filler, FlushRequest, FlushScope, Found, Mmu, Pending};
use crate::platform::{CpuSet, Platform};
use crate::vm_area::{AreaError, AreaInner, AreaState, InLeaf, NoPage, PageToCopy, Want, WriteInLeaf};
use crate::vm_space::fill::leaf_for;
use crate::vm_space::index::page_size;
use crate::vm_space::window::{Window, WindowMarks, WindowState};
use crate::vm_space::{Space, SpaceError};

use super::around::{NEAR_SHIFT, put_around};
use super::{Attempt, Fault, Resolution, Supplied, allows, supplied, wanted};

/// The pages of a leaf of an area's tree, as a power of two.
const LEAF_SHIFT: u32 = 6;

/// An area's state as a fault has it.
enum Held<'a, P: Platform> {
    Alone(Guard<'a, P, AreaState<P>>),
    /// With the lock of the leaf that the fault is about.
    Shared {
        state: &'a AreaState<P>,
        _leaf: Guard<'a, P, ()>,
    },
    /// The same, by the area's own lock.
    Waited {
        state: Guard<'a, P, AreaState<P>>,
        _leaf: Guard<'a, P, ()>,
    },
}

impl<P: Platform> Deref for Held<'_, P> {
    type Target = AreaState<P>;

    #[inline]
    fn deref(&self) -> &AreaState<P> {
        match self {
            Self::Alone(state) | Self::Waited { state, .. } => state,
            Self::Shared { state, .. } => state,
        }
    }
}

/// What a fault that is looked at beside others has in hand.
pub(super) trait Supply<P: Platform>: PageSource {
    /// Asks the area, which is had alone, for the page with this index, at `address`, where it takes more than its leaf; `shown` is the frame that the tables show there.
    /// `None` if that may take more than there can be in hand.
    ///
    /// # Errors
    /// As for [`Space::fault`].
    fn ask(
        &mut self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        state: &mut AreaState<P>,
        page: (VirtAddr, u64),
        want: Want,
        shown: Option<Frame>,
    ) -> Option<Result<Asked, SpaceError>>;

    /// The page in hand for a copy, which is written all over: it may hold anything.
    #[inline]
    fn to_copy_over(&self) -> Option<Frame> {
        None
    }

    /// Takes that page.
    #[inline]
    fn take_to_copy_over(&mut self) {}

    /// Takes an untracked page back that was not mapped after all.
    fn put_untracked_page(&mut self, frame: Frame);
}

/// What the area says.
pub(super) enum Asked {
    /// The frame, and whether it may be written to.
    Page(Frame, bool),
    /// There is nothing to map.
    Ends(Attempt),
}

/// A page in hand is enough for most faults, which then neither reserve nor give up anything.
impl<P: Platform, const ZEROED: bool> Supply<P> for OnePage<'_, P, ZEROED> {
    #[inline]
    fn ask(
        &mut self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        state: &mut AreaState<P>,
        (_, index): (VirtAddr, u64),
        want: Want,
        _: Option<Frame>,
    ) -> Option<Result<Asked, SpaceError>> {
        // SAFETY: the caller names the area whose state it has.
        let inner = unsafe { area.as_ref() };
        let zero = inner.zero_for_look(platform, state, index, want)?;
        Some(Ok(Asked::Page(zero, false)))
    }

    #[inline]
    fn to_copy_over(&self) -> Option<Frame> {
        OnePage::to_copy_over(self)
    }

    #[inline]
    fn take_to_copy_over(&mut self) {
        OnePage::take_to_copy_over(self);
    }

    fn put_untracked_page(&mut self, _: Frame) {
        // None was asked for.
    }
}

/// All that a fault can take, and what it gives up.
pub(super) struct Everything<'a, P: Platform> {
    pub(super) reserve: &'a mut Reserve<P>,
    pub(super) pending: &'a mut Pending<P>,
}

impl<P: Platform> PageSource for Everything<'_, P> {
    #[inline]
    fn has_page(&self) -> bool {
        self.reserve.has_page()
    }

    #[inline]
    fn take_page(&mut self) -> Option<Frame> {
        self.reserve.take_page()
    }

    #[inline]
    fn is_charged_ahead(&self) -> bool {
        self.reserve.is_charged_ahead()
    }
}

impl<P: Platform> Supply<P> for Everything<'_, P> {
    fn ask(
        &mut self,
        platform: &P,
        area: NonNull<AreaInner<P>>,
        state: &mut AreaState<P>,
        (address, index): (VirtAddr, u64),
        want: Want,
        shown: Option<Frame>,
    ) -> Option<Result<Asked, SpaceError>> {
        // SAFETY: the caller names the area whose state it has.
        let inner = unsafe { area.as_ref() };
        Some(supplied(platform, (inner, state), (address, index), want, shown, self.reserve).map(|page| match page {
            Supplied::Page(frame, writable) => Asked::Page(frame, writable),
            Supplied::Replaced(_, _, old) => {
                // It was looked at before; should it be so after all, that needs no more than the area.
                state.withdraw(platform, area, (index, old), self.reserve, self.pending);
                Asked::Ends(Attempt::Done(Resolution::Mapped))
            }
            Supplied::Ends(attempt) => Asked::Ends(attempt),
        }))
    }

    fn put_untracked_page(&mut self, frame: Frame) {
        self.reserve.put_untracked_page(frame);
    }
}

/// What became of a fault that was looked at beside others.
pub(super) enum Looked {
    Done(Attempt),
    /// It is resolved by a copy. The frame that was there is nobody's concern here any more: its reference is to be dropped, with no lock held.
    Copied(Frame),
    /// More than is [in hand](Supply::ask).
    Lacks,
    /// It takes what is not to be waited for with a slot held.
    Waits(Waiting),
    /// It takes the index exclusively; and a page that takes the place of another one, if that was seen.
    Exclusive {
        replaces: bool,
    },
}

const EXCLUSIVE: Looked = Looked::Exclusive { replaces: false };
const REPLACES: Looked = Looked::Exclusive { replaces: true };

/// What a fault waits for that holds no slot: it reads the index by the index's lock.
#[derive(Clone, Copy, Default)]
pub(super) struct Waiting {
    /// Another one had the area, so that faults are to have it beside one another from now on.
    met: bool,
    /// More is wanted of the area than a leaf.
    alone: bool,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Resolves a fault beside others, by this CPU's slot or as `waiting` says. Not where it takes the index exclusively: no window or leaf table is there, something is
    /// replaced by more than a copy in the page in hand, forbidden above or guarded.
    ///
    /// # Errors
    /// What the window refuses, and what the area answers ([`fault`](Space::fault)).
    #[inline]
    pub(super) fn attempt_beside<S: Supply<P>>(
        &self,
        fault: Fault,
        supply: &mut S,
        waiting: Option<Waiting>,
    ) -> Result<Looked, SpaceError> {
        let (platform, inner, address) = (self.platform(), self.inner(), fault.address);
        let index = match waiting {
            Some(_) => inner.index.wait_to_read(platform),
            None => match inner.index.try_read(platform) {
                Some(index) => index,
                None => return Ok(Looked::Waits(Waiting::default())),
            },
        };
        let Some(window) = index.find(address).and_then(|slot| slot.window) else { return Ok(EXCLUSIVE) };
        // SAFETY: windows in the index are alive while it is held, and so are their areas; they are changed with it held exclusively.
        let (window, area) = unsafe { (window.as_ref(), window.as_ref().area.as_ref()) };
        if window.state == WindowState::Gated {
            return Err(SpaceError::Retry(address));
        }
        // Where what is shown is limited, it is counted with the index exclusive.
        if window.marks.contains(WindowMarks::GUARDED) || inner.tally.limits_shown() {
            return Ok(EXCLUSIVE);
        }
        if !allows(window, fault.access) {
            return Err(SpaceError::Denied { address, wanted: fault.access, allowed: window.access });
        }
        if area.is_fixed() {
            return Ok(EXCLUSIVE);
        }
        let tables = &inner.leaf_tables;
        let index_in_area = window.area_page(address);
        let leaf = |state: &AreaState<P>| {
            let place = core::ptr::from_ref(area).addr();
            platform.machine().leaf_locks().lock(platform, place, state.key(index_in_area))
        };
        let mut held = match area.lock_beside(platform, &index) {
            Beside::Alone(mut state) => {
                if waiting.is_some_and(|waiting| waiting.met) {
                    area.open(&mut state);
                }
                Held::Alone(state)
            }
            Beside::Shared(state) => Held::Shared { state, _leaf: leaf(state) },
            Beside::Waited(state) if waiting.is_some_and(|waiting| waiting.alone) => {
                Held::Alone(area.alone(platform, state))
            }
            Beside::Waited(state) => {
                let leaf = leaf(&state);
                Held::Waited { state, _leaf: leaf }
            }
            Beside::Taken => return Ok(Looked::Waits(Waiting { met: true, alone: false })),
        };
        let Some(found) = tables.find(platform, address) else { return Ok(EXCLUSIVE) };
        let present = tables.is_present(&found);
        if tables.found_allows(&found, fault.access.difference(Access::USER)) {
            return Ok(Looked::Done(Attempt::Done(Resolution::Spurious)));
        }
        if window.access.contains(Access::WRITE) && tables.writes_are_forbidden_above(&found) {
            return Ok(EXCLUSIVE);
        }
        if const { M::FORMAT.break_before_make } && !present && window.may_be_remembered(&held) {
            return Ok(EXCLUSIVE);
        }
        let want = wanted(window, area, &held, fault.access);
        if area.refuses(&held, index_in_area) {
            return Ok(EXCLUSIVE);
        }
        let replaced = match &held {
            Held::Alone(state) if want == Want::Write && state.may_replace() => {
                self.write_beside(window, (area, state), index_in_area, &found, supply)
            }
            held if held.would_replace(platform, index_in_area, want) => Some(Ok(REPLACES)),
            _ => None,
        };
        if let Some(outcome) = replaced {
            return outcome;
        }
        // SAFETY: the area is had alone, or beside others with the leaf's lock.
        let in_leaf = unsafe { area.page_in_leaf(platform, &held, index_in_area, want, supply) };
        let (frame, writable, made, marked) = match (in_leaf, &mut held) {
            (Some(Ok(InLeaf { frame, writable, made, marked })), held) => {
                match held {
                    Held::Alone(state) if made => state.note_made(),
                    _ if made => area.count_made(&index),
                    _ => {}
                }
                (frame, writable, made, marked)
            }
            (Some(Err(NoPage::Short)), _) => return Ok(Looked::Done(Attempt::Short(Need::pages(1)))),
            (Some(Err(NoPage::Full(error))), _) => return Err(AreaError::OutOfAccount(error).into()),
            (None, Held::Alone(state)) => {
                let resident = state.resident();
                let shown = tables.found_leaf(&found).map(|leaf| leaf.frame);
                let Some(page) = supply.ask(platform, window.area, state, (address, index_in_area), want, shown) else {
                    return Ok(Looked::Lacks);
                };
                match page? {
                    // Where nothing is resident, no more is there to be read on.
                    Asked::Page(frame, writable) => {
                        (frame, writable, state.resident() != resident || state.holds_nothing(), true)
                    }
                    Asked::Ends(attempt) => return Ok(Looked::Done(attempt)),
                }
            }
            (None, _) => return Ok(Looked::Waits(Waiting { met: false, alone: true })),
        };
        let leaf = leaf_for(area, window.access, inner.global, frame, writable);
        // What is resident is read on: its neighbours are mapped with it. And where a leaf had less than the page allows, which was written to before, the
        // window's access was less for a while: so its neighbours had less as well.
        let page = PageRange::from_checked(address.align_down(P::PAGE_SHIFT), page_size::<P>());
        let was_resident = area.is_tracked() && !made && (!present || !marked);
        let shift = NEAR_SHIFT.min(tables.pages_shift());
        let mut around = if was_resident { self.around(window, area, page, shift) } else { None };
        if let (false, Some(around)) = (matches!(held, Held::Alone(_)), &mut around) {
            // With the area shared, only what the leaf's lock guards may be looked at. (What comes after the end of a ring is in another leaf.)
            around.pages = leaf_pages::<P>(page, held.key(index_in_area))
                .and_then(|leaf| leaf.intersection(around.pages))
                .filter(|_| held.ring() == 0)
                .unwrap_or(page);
        }
        let more = |filler: &mut Filler<'_, M>| {
            if let Some(around) = &around {
                put_around(platform, window, &held, around, filler);
            }
        };
        if tables.set(&found, leaf, around, more) {
            return Ok(Looked::Done(Attempt::Done(Resolution::Mapped)));
        }
        if area.is_untracked() && !present {
            supply.put_untracked_page(frame);
        }
        Ok(EXCLUSIVE)
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// What becomes of a write fault where a page may have to be replaced; `None` if this one is not, and nothing was done.
    ///
    /// The index is held, shared, and the area locked; the tables let the window's writes through above what was found.
    ///
    /// A function of its own: faults on pages that are there for nobody else do without all of it.
    #[inline(never)]
    fn write_beside<S: Supply<P>>(
        &self,
        window: &Window<P, M>,
        (area, state): (&AreaInner<P>, &AreaState<P>),
        index: u64,
        found: &Found<'_, M>,
        supply: &mut S,
    ) -> Option<Result<Looked, SpaceError>> {
        // SAFETY: the area is had alone.
        match unsafe { area.write_in_leaf(self.platform(), state, index) } {
            WriteInLeaf::Own => None,
            WriteInLeaf::More => state.would_replace(self.platform(), index, Want::Write).then_some(Ok(REPLACES)),
            WriteInLeaf::Copy(page) => Some(match self.copy_beside(window, (area, state), found, page, supply) {
                Some(copied) => copied.map(Looked::Copied),
                None => Ok(REPLACES),
            }),
        }
    }

    /// Puts a copy of a page in its place, in the page in hand, and shows it where the page was found, if only this space shows the page and no CPU but this one runs in it; what
    /// the CPU remembers is flushed at once. Gives the frame that was there, with the reference to it. `None`, and nothing is changed, if others have to forget it
    /// first, or for want of a page.
    ///
    /// # Errors
    /// The account is full; nothing is changed.
    #[inline]
    fn copy_beside<S: Supply<P>>(
        &self,
        window: &Window<P, M>,
        (area, state): (&AreaInner<P>, &AreaState<P>),
        found: &Found<'_, M>,
        page: PageToCopy<'_>,
        supply: &mut S,
    ) -> Option<Result<Frame, SpaceError>> {
        let (platform, inner) = (self.platform(), self.inner());
        let to = supply.to_copy_over()?;
        if !state.is_shown_at_one_place() || window.may_be_remembered(state) {
            return None;
        }
        let tables = &inner.leaf_tables;
        let word = tables.word_instead(found, leaf_for(area, window.access, inner.global, to, true))?;
        // Locked until the change is noted, so that no CPU begins to use the space meanwhile.
        let mut cpus = inner.cpus.lock(platform);
        let mut others = cpus.active().clone();
        others.remove(platform.cpu());
        let present = tables.is_present(found);
        if present && !others.is_empty() {
            return None;
        }
        // SAFETY: the area is locked, and the frame is nobody else's: it is taken out of the hand if it is used.
        let old = match unsafe { state.copy_in_leaf(platform, page, to) } {
            Ok(old) => old,
            Err(NoPage::Full(error)) => return Some(Err(AreaError::OutOfAccount(error).into())),
            Err(NoPage::Short) => return None,
        };
        supply.take_to_copy_over();
        tables.show_instead(found, word);
        if present {
            inner.note_change(&mut cpus);
            let page = PageRange::from_checked(found.address().align_down(P::PAGE_SHIFT), page_size::<P>());
            let mut here = FlushRequest { cpus: P::CpuSet::EMPTY, scope: FlushScope::new() };
            here.cpus.insert(platform.cpu());
            here.scope.add(inner.tag, page, tables.is_global(found));
            platform.flush_local(&here);
        }
        Some(Ok(old))
    }
}

/// The addresses that show the pages of a leaf of an area's tree, of which `page` shows the one with this key; `None` where that would begin below the first address, or
/// end behind the last one.
fn leaf_pages<P: Platform>(page: PageRange, key: u64) -> Option<PageRange> {
    let before = (key & ((1 << LEAF_SHIFT) - 1)) << P::PAGE_SHIFT;
    let start = page.start().as_u64().checked_sub(before)?;
    let last = start.checked_add((1 << (LEAF_SHIFT + P::PAGE_SHIFT)) - 1)?;
    Some(PageRange::from_bounds(VirtAddr::new(start), VirtAddr::new(last)))
}
