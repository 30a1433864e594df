//! What a space may have, and what it has.
//!
//! Windows and reserved bytes are kept with each change of the index, under its lock. Resident pages and tables are what the
//! tables hold: they are counted when somebody asks, so that faults write no counter that all CPUs share.
//!
//! Where they are limited, what changes add is added up, and what goes is not taken off:
//!
//! ```text
//!   counted ──change──► + what it adds at the most ──change──► ... ──► would exceed the limit: counted anew ──► refused, if it still would
//! ```
//!
//! So the sum is never too small, an area that takes pages away knows nothing of it, and the tables are walked once for as many pages as were free.

use crate::addr::PageRange;
use crate::paging::{Mmu, Tables};
use crate::platform::Platform;
use crate::vm_space::{Space, SpaceError};
use crate::word::{AtomicU64, AtomicUsize, Ordering};

/// What a space may have at the most. The default is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SpaceLimits {
    /// How many windows, those included that wait for their flush.
    pub windows: usize,
    /// How many bytes of addresses all windows have together.
    pub reserved: u64,
    /// How many base pages its tables show ([`SpaceCounters::resident_pages`]).
    pub resident_pages: u64,
    /// How many tables it has, its root included ([`SpaceCounters::tables`]).
    pub tables: u64,
}

impl SpaceLimits {
    /// No limit.
    pub const NONE: Self = Self { windows: usize::MAX, reserved: u64::MAX, resident_pages: u64::MAX, tables: u64::MAX };

    /// The same, with at most so many windows.
    pub const fn windows(self, windows: usize) -> Self {
        Self { windows, ..self }
    }

    /// The same, with at most so many bytes of addresses.
    pub const fn reserved(self, reserved: u64) -> Self {
        Self { reserved, ..self }
    }

    /// The same, with at most so many resident pages.
    pub const fn resident_pages(self, resident_pages: u64) -> Self {
        Self { resident_pages, ..self }
    }

    /// The same, with at most so many tables.
    pub const fn tables(self, tables: u64) -> Self {
        Self { tables, ..self }
    }
}

impl Default for SpaceLimits {
    fn default() -> Self {
        Self::NONE
    }
}

/// Which limit of a space an operation would have exceeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpaceLimit {
    /// Of windows: how many it allows.
    Windows(usize),
    /// Of addresses: how many bytes it allows.
    Reserved(u64),
    /// Of resident pages: how many it allows.
    ResidentPages(u64),
    /// Of tables: how many it allows.
    Tables(u64),
}

/// What a space has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SpaceCounters {
    /// How many windows, those included that wait for their flush.
    pub windows: usize,
    /// How many bytes of addresses all windows have together.
    pub reserved: u64,
    /// How many base pages its tables show at the moment. What is shared counts in every space that shows it.
    pub resident_pages: u64,
    /// How many tables it has, its root included, and those that other spaces own not.
    pub tables: u64,
}

/// What is counted and allowed. Written with the index locked.
pub(super) struct Tally {
    windows: AtomicUsize,
    pages: AtomicU64,
    most_windows: AtomicUsize,
    most_bytes: AtomicU64,
    most_resident: AtomicU64,
    most_tables: AtomicU64,
    /// At least as many pages and tables as there are, where one of the two is limited.
    resident: AtomicU64,
    tables: AtomicU64,
    /// Whether windows that are writable and executable are refused.
    forbids_write_execute: AtomicUsize,
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            windows: AtomicUsize::new(0),
            pages: AtomicU64::new(0),
            most_windows: AtomicUsize::new(usize::MAX),
            most_bytes: AtomicU64::new(u64::MAX),
            most_resident: AtomicU64::new(u64::MAX),
            most_tables: AtomicU64::new(u64::MAX),
            resident: AtomicU64::new(u64::MAX),
            tables: AtomicU64::new(u64::MAX),
            forbids_write_execute: AtomicUsize::new(0),
        }
    }

    /// Counts windows and pages that come, and then those that go.
    pub(super) fn change(&self, come: (usize, u64), go: (usize, u64)) {
        // Plain loads and stores: the index's lock keeps others away.
        let windows = self.windows.load(Ordering::Relaxed).saturating_add(come.0).saturating_sub(go.0);
        self.windows.store(windows, Ordering::Relaxed);
        let pages = self.pages.load(Ordering::Relaxed).saturating_add(come.1).saturating_sub(go.1);
        self.pages.store(pages, Ordering::Relaxed);
    }

    /// Takes over what another space may have, and what it forbids.
    pub(super) fn limit_like(&self, other: &Self) {
        self.limit(other.limits());
        self.forbids_write_execute.store(other.forbids_write_execute.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Refuses what would exceed a limit: `windows` more, with `pages` more pages of 2^`shift` bytes.
    pub(super) fn check(&self, windows: usize, pages: u64, shift: u32) -> Result<(), SpaceError> {
        let most = self.most_windows.load(Ordering::Relaxed);
        if windows != 0 && self.windows.load(Ordering::Relaxed).saturating_add(windows) > most {
            return Err(SpaceError::Limit(SpaceLimit::Windows(most)));
        }
        let most = self.most_bytes.load(Ordering::Relaxed);
        if pages != 0 && self.pages.load(Ordering::Relaxed).saturating_add(pages) > most >> shift {
            return Err(SpaceError::Limit(SpaceLimit::Reserved(most)));
        }
        Ok(())
    }

    fn limit(&self, limits: SpaceLimits) {
        self.most_windows.store(limits.windows, Ordering::Relaxed);
        self.most_bytes.store(limits.reserved, Ordering::Relaxed);
        self.most_resident.store(limits.resident_pages, Ordering::Relaxed);
        self.most_tables.store(limits.tables, Ordering::Relaxed);
        // To be counted.
        self.note_shown(u64::MAX, u64::MAX);
    }

    fn limits(&self) -> SpaceLimits {
        SpaceLimits {
            windows: self.most_windows.load(Ordering::Relaxed),
            reserved: self.most_bytes.load(Ordering::Relaxed),
            resident_pages: self.most_resident.load(Ordering::Relaxed),
            tables: self.most_tables.load(Ordering::Relaxed),
        }
    }

    /// Whether resident pages or tables are limited. Reads what seldom changes.
    #[inline]
    pub(super) fn limits_shown(&self) -> bool {
        (self.most_resident.load(Ordering::Relaxed) & self.most_tables.load(Ordering::Relaxed)) != u64::MAX
    }

    /// Notes how many pages and tables there are at the most.
    pub(super) fn note_shown(&self, pages: u64, tables: u64) {
        self.resident.store(pages, Ordering::Relaxed);
        self.tables.store(tables, Ordering::Relaxed);
    }

    /// Adds pages and tables, or refuses what would exceed a limit.
    fn add_shown(&self, pages: u64, tables: u64) -> Result<(), SpaceLimit> {
        let limits = self.limits();
        let resident = self.resident.load(Ordering::Relaxed).saturating_add(pages);
        if pages != 0 && resident > limits.resident_pages {
            return Err(SpaceLimit::ResidentPages(limits.resident_pages));
        }
        let held = self.tables.load(Ordering::Relaxed).saturating_add(tables);
        if tables != 0 && held > limits.tables {
            return Err(SpaceLimit::Tables(limits.tables));
        }
        self.note_shown(resident, held);
        Ok(())
    }

    pub(super) fn forbid_write_execute(&self) {
        self.forbids_write_execute.store(1, Ordering::Relaxed);
    }

    pub(super) fn forbids_write_execute(&self) -> bool {
        self.forbids_write_execute.load(Ordering::Relaxed) != 0
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Limits what the space may have from now on. What it has already stays, also where that is more. O(1).
    ///
    /// An operation that would exceed a limit fails with [`SpaceError::Limit`] and changes nothing. Unmapping whole windows never does.
    ///
    /// *Resident* is what the tables of this space show. A page that two spaces share counts in each that shows it, the zero frame at each address that shows it, and a page
    /// that is in its area and was not touched here (a pager's, another space's, one that was [written](Self::write_bytes) by a copy) not at all. What memory there is, whoever shows it, is for an
    /// [`Account`](crate::vm_area::Account) to limit. With one of the two limits, faults map the page that is wanted and none around it, one after another, and where a limit seems to be reached the
    /// tables are counted: O(tables and leaves). An operation on several windows at once may be refused for tables that it might have taken. [`adopt_runs`](Self::adopt_runs) is not limited.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::Mmu;
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space, SpaceError, SpaceLimit, SpaceLimits};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// space.set_limits(SpaceLimits::NONE.reserved(0x6000));
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area)).unwrap();
    /// let refused = space.map(&MapRequest::new(&area)).unwrap_err();
    /// assert_eq!(refused, SpaceError::Limit(SpaceLimit::Reserved(0x6000)));
    /// assert_eq!(space.counters().reserved, 0x4000);
    /// # }
    /// ```
    pub fn set_limits(&self, limits: SpaceLimits) {
        let inner = self.inner();
        let _index = inner.lock_index(self.platform());
        inner.tally.limit(limits);
    }

    /// What the space may have.
    pub fn limits(&self) -> SpaceLimits {
        let inner = self.inner();
        let _index = inner.lock_index(self.platform());
        inner.tally.limits()
    }

    /// Refuses what would have the space show `pages` more pages, or have `taken` more tables at the most, than it may. The index is locked, and all that
    /// the change takes is there: one call for each change, and what it allows is counted. O(1), but where a limit seems to be reached: O(tables and leaves).
    pub(super) fn check_shown(&self, tables: &Tables<M>, pages: u64, taken: u64) -> Result<(), SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let tally = &inner.tally;
        if (pages == 0 && taken == 0) || !tally.limits_shown() || tally.add_shown(pages, taken).is_ok() {
            return Ok(());
        }
        // Some of what was counted may have gone.
        let (shown, count) = tables.count_shown(platform, inner.bounds);
        tally.note_shown(shown, count.saturating_add(1));
        tally.add_shown(pages, taken).map_err(SpaceError::Limit)
    }

    /// The same for a change that shows no more pages. The tables are not locked.
    pub(super) fn check_tables(&self, taken: u64) -> Result<(), SpaceError> {
        if taken == 0 || !self.inner().tally.limits_shown() {
            return Ok(());
        }
        self.check_shown(&self.inner().tables.lock(self.platform()), 0, taken)
    }

    /// How many pages of the range are not shown: for [`check_shown`](Self::check_shown), and so 0 where nothing is limited. O(tables and leaves in the range).
    pub(super) fn pages_to_show(&self, tables: &Tables<M>, range: PageRange) -> u64 {
        if !self.inner().tally.limits_shown() {
            return 0;
        }
        range.pages(P::PAGE_SHIFT).saturating_sub(tables.count_shown(self.platform(), range).0)
    }

    /// What the space has. O(tables and leaves).
    pub fn counters(&self) -> SpaceCounters {
        let (platform, inner) = (self.platform(), self.inner());
        let _index = inner.lock_index(platform);
        let tables = inner.tables.lock(platform);
        let (resident_pages, count) = tables.count_shown(platform, inner.bounds);
        SpaceCounters {
            windows: inner.tally.windows.load(Ordering::Relaxed),
            reserved: inner.tally.pages.load(Ordering::Relaxed) << P::PAGE_SHIFT,
            resident_pages,
            // Its root is counted once more than the walk enters it.
            tables: count.saturating_add(1),
        }
    }

    /// Refuses windows that are writable and executable from now on: [`map`](Self::map) and [`protect`](Self::protect) fail with [`SpaceError::WriteExecute`]. It
    /// cannot be taken back. That a page is first written and later executed is allowed, which takes two calls. O(windows).
    ///
    /// # Errors
    /// There is such a window already (the lowest one is named): nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let space = Space::user(&kernel, Default::default()).unwrap();
    /// space.forbid_write_execute().unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let both = Access::KERNEL_DATA | Access::EXECUTE;
    /// assert!(matches!(space.map(&MapRequest::new(&area).access(both)), Err(SpaceError::WriteExecute(_))));
    /// # }
    /// ```
    pub fn forbid_write_execute(&self) -> Result<(), SpaceError> {
        let inner = self.inner();
        let index = inner.lock_index(self.platform());
        for slot in index.overlapping(inner.bounds) {
            let Some(window) = slot.window else { continue };
            // SAFETY: windows in the index are alive while it is locked.
            if is_write_execute(unsafe { window.as_ref() }.access) {
                return Err(SpaceError::WriteExecute(slot.range.start()));
            }
        }
        inner.tally.forbid_write_execute();
        Ok(())
    }

    /// Refuses an access that the space forbids. The index is locked.
    pub(super) fn check_write_execute(
        &self,
        access: crate::paging::Access,
        range: PageRange,
    ) -> Result<(), SpaceError> {
        if is_write_execute(access) && self.inner().tally.forbids_write_execute() {
            return Err(SpaceError::WriteExecute(range.start()));
        }
        Ok(())
    }
}

fn is_write_execute(access: crate::paging::Access) -> bool {
    use crate::paging::Access;
    access.contains(Access::WRITE.union(Access::EXECUTE))
}
