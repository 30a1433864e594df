//! What the library remembers of each frame, in 24 bytes that the embedder stores.
//!
//! ```text
//!   byte  0        1        2..4          4..8     8..12     12..16   16..24
//!        +--------+--------+-------------+--------+---------+--------+-------------------+
//!        |  use   | flags  | live, pins  | count  | account | closer | link, or key      |
//!        +--------+--------+-------------+--------+---------+--------+-------------------+
//!         what it is for     entries of   leaf     who pays  who waits next frame of the
//!                            a table,     slots              for a     list that holds it;
//!                            pins of a page                  flush     slots that hold a run
//! ```
//!
//! Use and live entries share one atomic word, so that "free it from the use it was allocated for" is one
//! compare-exchange: a wrong free and a double free are both seen, never done.

use core::fmt;

use crate::addr::Frame;
use crate::word::{AtomicU32, Ordering};

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum FrameUse {
    /// Nothing: it belongs to the embedder.
    Free = 0,
    /// A page table.
    Table = 1,
    /// Objects of the library's pools.
    Pool = 2,
    /// A page of an area.
    Page = 3,
    /// A page of an area that a device uses as well: it neither moves nor is freed before it is unpinned.
    Pinned = 4,
    /// What exists once, such as the zero frame.
    Machine = 5,
    /// The growing memory of a `StaticVec`.
    Vector = 6,
}

impl FrameUse {
    /// Every use, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Free, Self::Table, Self::Pool, Self::Page, Self::Pinned, Self::Machine, Self::Vector];

    fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::Free)
    }
}

/// A frame was to be freed from, or put to, a use that its record contradicts. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongUse {
    /// The frame.
    pub frame: Frame,
    /// What the frame is used for according to its record.
    pub recorded: FrameUse,
    /// What the operation took it for.
    pub expected: FrameUse,
}

impl fmt::Display for WrongUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is recorded as {:?}, not as {:?}: it was freed twice or by the wrong owner",
            self.frame, self.recorded, self.expected
        )
    }
}

impl core::error::Error for WrongUse {}

/// A frame's record: the library's type in the embedder's storage, found from the frame's number.
///
/// Zeroed memory is a valid record of a free frame.
#[derive(Debug)]
#[repr(C)]
pub struct FrameMeta {
    /// Bits 0 to 7 the use, 8 to 15 flags, 16 to 31 a table's live entries or a pinned page's pins.
    state: AtomicU32,
    /// How many leaf slots of page trees hold the frame.
    count: AtomicU32,
    account: AtomicU32,
    /// Of a closed page, who closed it.
    closer: AtomicU32,
    link: [AtomicU32; 2],
}

static_assertions::const_assert!(size_of::<FrameMeta>() <= 24);

const USE_MASK: u32 = 0xff;
/// The flag of a page that no tree holds.
const UNTRACKED: u32 = 1 << 8;
/// The flag of a page that nobody may touch before a flush.
const CLOSED: u32 = 1 << 9;
const FLAGS: u32 = 0xff00;
const LIVE_SHIFT: u32 = 16;
/// One pin: pins are counted where tables count their entries.
const ONE_PIN: u32 = 1 << LIVE_SHIFT;
/// The count from which on a frame is never given back: 2^31 owners are leaked rather than one freed too early.
const SATURATED: u32 = 1 << 31;

impl FrameMeta {
    /// The record of a free frame.
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            count: AtomicU32::new(0),
            account: AtomicU32::new(0),
            closer: AtomicU32::new(0),
            link: [AtomicU32::new(0), AtomicU32::new(0)],
        }
    }

    /// What the frame is used for.
    #[inline]
    pub fn recorded_use(&self) -> FrameUse {
        FrameUse::from_code((self.state.load(Ordering::Relaxed) & USE_MASK) as u8)
    }

    /// Whether the frame is used as a table.
    #[inline]
    pub(crate) fn is_table(&self) -> bool {
        self.state.load(Ordering::Relaxed) & USE_MASK == FrameUse::Table as u32
    }

    /// How many slots of page trees hold the frame. Saturates at 2^31, from where on the frame is never freed.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// How many entries of the table in this frame are not empty.
    #[inline]
    pub fn live_entries(&self) -> u32 {
        self.state.load(Ordering::Relaxed) >> LIVE_SHIFT
    }

    /// Puts a free frame to a use, with a count of one.
    pub(crate) fn begin(&self, purpose: FrameUse) -> Result<(), FrameUse> {
        self.state
            .compare_exchange(0, purpose as u32, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|state| FrameUse::from_code((state & USE_MASK) as u8))?;
        self.count.store(1, Ordering::Relaxed);
        self.account.store(0, Ordering::Relaxed);
        self.closer.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the use `purpose`. Fails, changing nothing, if the record says otherwise.
    #[inline]
    pub(crate) fn end(&self, frame: Frame, purpose: FrameUse) -> Result<(), WrongUse> {
        // Most are marked in no way.
        let unmarked = purpose as u32;
        if unmarked != 0 && self.state.compare_exchange(unmarked, 0, Ordering::Release, Ordering::Relaxed).is_ok() {
            return Ok(());
        }
        self.end_marked(frame, purpose)
    }

    /// The same for a frame that is marked, or of another use.
    #[inline(never)]
    fn end_marked(&self, frame: Frame, purpose: FrameUse) -> Result<(), WrongUse> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let recorded = FrameUse::from_code((state & USE_MASK) as u8);
            if recorded != purpose || purpose == FrameUse::Free {
                return Err(WrongUse { frame, recorded, expected: purpose });
            }
            match self.state.compare_exchange_weak(state, 0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => state = seen,
            }
        }
    }

    /// Whether the frame is a page that no tree holds: untracked memory, known to its leaf alone.
    #[inline]
    pub(crate) fn is_untracked_page(&self) -> bool {
        self.state.load(Ordering::Relaxed) & (USE_MASK | UNTRACKED) == FrameUse::Page as u32 | UNTRACKED
    }

    /// Marks a page as untracked: it belongs to the leaf that maps it.
    pub(crate) fn set_untracked(&self) {
        self.state.fetch_or(UNTRACKED, Ordering::Relaxed);
    }

    /// Takes the mark back.
    pub(crate) fn clear_untracked(&self) {
        self.state.fetch_and(!UNTRACKED, Ordering::Relaxed);
    }

    /// Whether nobody may touch the page before a flush.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether nobody may touch the page before a flush, in the area that has this number.
    #[inline]
    pub(crate) fn is_closed_by(&self, closer: u32) -> bool {
        self.is_closed() && self.closer.load(Ordering::Relaxed) == closer
    }

    /// Marks a page that nobody may touch before a flush, in the area that has this number. Called with it locked, as is [`open`](Self::open).
    pub(crate) fn close(&self, closer: u32) {
        self.closer.store(closer, Ordering::Relaxed);
        self.state.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Takes the mark back.
    pub(crate) fn open(&self) {
        self.state.fetch_and(!CLOSED, Ordering::Relaxed);
    }

    /// The number of the account that the frame is charged to; 0 for none.
    pub(crate) fn account(&self) -> u32 {
        self.account.load(Ordering::Relaxed)
    }

    /// Notes the account that the frame is charged to.
    pub(crate) fn set_account(&self, number: u32) {
        self.account.store(number, Ordering::Relaxed);
    }

    /// Pins a page once more; `Some(true)` if it was not pinned before. From the first pin on it is recorded as
    /// [`FrameUse::Pinned`], so that nothing frees it. `None` (and no change) if it is no page of an area's tree, or is pinned as
    /// often as can be counted.
    pub(crate) fn pin(&self) -> Option<bool> {
        let pinned = |state: u32| match FrameUse::from_code((state & USE_MASK) as u8) {
            FrameUse::Page if state & UNTRACKED == 0 => Some(state & FLAGS | FrameUse::Pinned as u32 | ONE_PIN),
            FrameUse::Pinned => state.checked_add(ONE_PIN),
            _ => None,
        };
        let before = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pinned).ok()?;
        Some(before & USE_MASK == FrameUse::Page as u32)
    }

    /// Takes one pin back; true if it was the last one, and the frame is an ordinary page again. False (and no change) for a
    /// frame that is not pinned.
    pub(crate) fn unpin(&self) -> bool {
        let unpinned = |state: u32| match FrameUse::from_code((state & USE_MASK) as u8) {
            FrameUse::Pinned if state >> LIVE_SHIFT > 1 => Some(state - ONE_PIN),
            FrameUse::Pinned => Some(state & FLAGS | FrameUse::Page as u32),
            _ => None,
        };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, unpinned);
        before.is_ok_and(|state| state >> LIVE_SHIFT <= 1)
    }

    /// How many pins keep the page in this frame.
    #[inline]
    pub fn pins(&self) -> u32 {
        let state = self.state.load(Ordering::Acquire);
        if state & USE_MASK == FrameUse::Pinned as u32 { state >> LIVE_SHIFT } else { 0 }
    }

    /// Counts one more slot that holds the frame.
    pub(crate) fn add_reference(&self) {
        // A saturated count stays: adding to it could wrap after 2^31 more.
        let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            if count >= SATURATED { None } else { Some(count + 1) }
        });
    }

    /// Counts one slot less; true if it was the last one.
    #[inline]
    pub(crate) fn drop_reference(&self) -> bool {
        // Only who holds the frame adds to the count: one that is the caller's alone changes no more.
        if self.count.load(Ordering::Acquire) == 1 {
            self.count.store(0, Ordering::Relaxed);
            return true;
        }
        self.drop_shared_reference()
    }

    /// The same for a frame that others hold, or did.
    fn drop_shared_reference(&self) -> bool {
        let previous = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            if count >= SATURATED || count == 0 { None } else { Some(count - 1) }
        });
        previous == Ok(1)
    }

    /// Begins to count the slots that hold a run of frames of which this is the first: one. All of them together are one holder of each
    /// of the frames ([`count`](Self::count)). A page that a tree holds is on no list, so the count is kept where lists have their link.
    pub(crate) fn begin_run(&self) {
        let [runs, _] = &self.link;
        runs.store(1, Ordering::Release);
    }

    /// How many slots hold the run of which this frame, by what its tree says, is the first.
    #[inline]
    pub(crate) fn runs(&self) -> u32 {
        let [runs, _] = &self.link;
        runs.load(Ordering::Acquire)
    }

    /// Counts one more slot that holds the run.
    pub(crate) fn add_run(&self) {
        let [runs, _] = &self.link;
        let _ = runs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            if count >= SATURATED { None } else { Some(count + 1) }
        });
    }

    /// Counts one slot less that holds the run; true if it was the last one.
    pub(crate) fn drop_run(&self) -> bool {
        let [runs, _] = &self.link;
        let previous = runs.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            if count >= SATURATED || count == 0 { None } else { Some(count - 1) }
        });
        previous == Ok(1)
    }

    /// Changes the number of live entries of the table in this frame by `change` and gives the new number.
    ///
    /// The caller holds the lock of the table, so a plain read and write do.
    #[inline]
    pub(crate) fn change_live(&self, change: i32) -> u32 {
        let state = self.state.load(Ordering::Relaxed);
        // The count is the upper half: nothing is carried into use and flags, and what passes its end is cut off.
        let state = state.wrapping_add((change as u32) << LIVE_SHIFT);
        self.state.store(state, Ordering::Relaxed);
        state >> LIVE_SHIFT
    }

    /// Changes the number of live entries of the table in this frame by `change`, where others do so at the same time.
    #[inline]
    pub(crate) fn change_live_beside(&self, change: i32) {
        self.state.fetch_add((change as u32) << LIVE_SHIFT, Ordering::Relaxed);
    }

    /// The frame that follows in the list that holds this one.
    pub(crate) fn link(&self) -> u64 {
        let [low, high] = &self.link;
        u64::from(low.load(Ordering::Relaxed)) | (u64::from(high.load(Ordering::Relaxed)) << 32)
    }

    /// Sets the link. Only the holder of the list does so.
    pub(crate) fn set_link(&self, link: u64) {
        let [low, high] = &self.link;
        low.store(link as u32, Ordering::Relaxed);
        high.store((link >> 32) as u32, Ordering::Relaxed);
    }
}

impl Default for FrameMeta {
    fn default() -> Self {
        Self::new()
    }
}

/// Ready-made metadata: a slice of records for consecutive frames, for who has no page structure of their own.
///
/// ```
/// use vmcore::addr::Frame;
/// use vmcore::frame::{FrameMeta, FrameMetaTable};
/// let records = [const { FrameMeta::new() }; 16];
/// let table = FrameMetaTable::new(Frame::new(0x100), &records);
/// assert!(table.get(Frame::new(0x10f)).is_some());
/// assert!(table.get(Frame::new(0x110)).is_none(), "not RAM, as far as this table knows");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FrameMetaTable<'a> {
    first: Frame,
    records: &'a [FrameMeta],
}

impl<'a> FrameMetaTable<'a> {
    /// Records for as many frames from `first` as the slice is long.
    pub const fn new(first: Frame, records: &'a [FrameMeta]) -> Self {
        Self { first, records }
    }

    /// The record of `frame`, `None` outside of the table.
    #[inline]
    pub fn get(&self, frame: Frame) -> Option<&'a FrameMeta> {
        let index = frame.number().checked_sub(self.first.number())?;
        self.records.get(usize::try_from(index).ok()?)
    }

    /// The first frame that has a record here.
    pub const fn first(&self) -> Frame {
        self.first
    }

    /// How many frames have a record here.
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no frame has one.
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_checks_kind() {
        let meta = FrameMeta::new();
        let frame = Frame::new(7);
        meta.begin(FrameUse::Table).unwrap();
        meta.change_live(3);
        let wrong = meta.end(frame, FrameUse::Page).unwrap_err();
        assert_eq!((wrong.recorded, wrong.expected), (FrameUse::Table, FrameUse::Page));
        assert_eq!(meta.live_entries(), 3, "a refused free changes nothing");
        meta.end(frame, FrameUse::Table).unwrap();
        assert_eq!(meta.recorded_use(), FrameUse::Free);
    }

    #[test]
    fn double_free_detected() {
        let meta = FrameMeta::new();
        meta.begin(FrameUse::Page).unwrap();
        assert_eq!(meta.begin(FrameUse::Page), Err(FrameUse::Page), "handed out twice");
        meta.end(Frame::new(1), FrameUse::Page).unwrap();
        assert!(meta.end(Frame::new(1), FrameUse::Page).is_err());
        assert!(meta.end(Frame::new(1), FrameUse::Free).is_err());
    }

    #[test]
    fn cow_count_saturates() {
        let meta = FrameMeta::new();
        meta.begin(FrameUse::Page).unwrap();
        meta.count.store(SATURATED - 1, Ordering::Relaxed);
        meta.add_reference();
        meta.add_reference();
        assert_eq!(meta.count(), SATURATED);
        assert!(!meta.drop_reference(), "a saturated count never reaches its last owner");
        assert_eq!(meta.count(), SATURATED);
    }

    #[test]
    fn pinned_pages_are_not_freed() {
        let (meta, frame) = (FrameMeta::new(), Frame::new(3));
        assert_eq!(meta.pin(), None, "a free frame cannot be pinned");
        meta.begin(FrameUse::Page).unwrap();
        assert_eq!((meta.pin(), meta.pin(), meta.pins()), (Some(true), Some(false), 2));
        assert_eq!(meta.end(frame, FrameUse::Page).unwrap_err().recorded, FrameUse::Pinned);
        assert_eq!((meta.unpin(), meta.unpin(), meta.unpin(), meta.pins()), (false, true, false, 0));
        for _ in 0..u16::MAX {
            assert!(meta.pin().is_some());
        }
        assert_eq!((meta.pin(), meta.pins()), (None, 65_535), "pins never wrap");
        for pins in (0..u16::MAX).rev() {
            assert_eq!(meta.unpin(), pins == 0);
        }
        meta.end(frame, FrameUse::Page).unwrap();
        meta.begin(FrameUse::Page).unwrap();
        meta.set_untracked();
        assert_eq!(meta.pin(), None, "no tree holds it");
    }

    #[test]
    fn last_reference_is_seen_once() {
        let meta = FrameMeta::new();
        meta.begin(FrameUse::Page).unwrap();
        meta.add_reference();
        assert!(!meta.drop_reference());
        assert!(meta.drop_reference());
        assert!(!meta.drop_reference(), "below zero is not last again");
    }
}
