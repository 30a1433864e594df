//! Why something was refused, as the model says it: pages instead of addresses, and nothing but what the documentation promises.

use std::cell::Cell;

use vmcore::RegistryError;
use vmcore::vm_area::{AreaError, PageWait};
use vmcore::vm_space::{SpaceError, SpaceLimit};

use super::model::PAGE;

thread_local! {
    /// What the last refusal said to wait for.
    static WAIT: Cell<Option<PageWait>> = const { Cell::new(None) };
}

/// What the last refusal said to wait for.
pub(crate) fn take_wait() -> Option<PageWait> {
    WAIT.take()
}

/// A reason, with the page that it names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Refusal {
    Range,
    NoWindow(u64),
    Retry(u64),
    Guard(u64),
    OutsideArea(u64),
    Denied(u64),
    Sealed(u64),
    Locked(u64),
    WriteExecute(u64),
    SeveralWindows(u64),
    Awaits(u64),
    Failed(u64),
    /// The window that is there: its first page, and how many.
    Conflict(u64, u64),
    NoGap(u64),
    Rights,
    SingleWindow,
    Active,
    WindowLimit,
    ReservedLimit,
    Encode,
    AreaSize,
    Outside,
    Kind,
    NoSection,
    NotOut,
    AreaRetry,
    Pinned(u64),
    AreaFailed(u64),
    AreaAwaits,
    Memory,
    Stale,
    OutOfFrames,
    /// What the model never expects.
    Other,
}

impl From<SpaceError> for Refusal {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Range(_) => Self::Range,
            SpaceError::NoWindow(at) => Self::NoWindow(at.as_u64() / PAGE),
            SpaceError::Retry(at) => Self::Retry(at.as_u64() / PAGE),
            SpaceError::Guard(at) => Self::Guard(at.as_u64() / PAGE),
            SpaceError::OutsideArea(at) => Self::OutsideArea(at.as_u64() / PAGE),
            SpaceError::Denied { address, .. } => Self::Denied(address.as_u64() / PAGE),
            SpaceError::Sealed(at) => Self::Sealed(at.as_u64() / PAGE),
            SpaceError::Locked(at) => Self::Locked(at.as_u64() / PAGE),
            SpaceError::WriteExecute(at) => Self::WriteExecute(at.as_u64() / PAGE),
            SpaceError::SeveralWindows(at) => Self::SeveralWindows(at.as_u64() / PAGE),
            SpaceError::Awaits { address, wait } => {
                WAIT.set(Some(wait));
                Self::Awaits(address.as_u64() / PAGE)
            }
            SpaceError::Failed(at) => Self::Failed(at.as_u64() / PAGE),
            SpaceError::Conflict(range) => Self::Conflict(range.start().as_u64() / PAGE, range.size() / PAGE),
            SpaceError::NoGap(size) => Self::NoGap(size / PAGE),
            SpaceError::Rights(_) => Self::Rights,
            SpaceError::SingleWindow => Self::SingleWindow,
            SpaceError::Active => Self::Active,
            SpaceError::Limit(SpaceLimit::Windows(_)) => Self::WindowLimit,
            SpaceError::Limit(SpaceLimit::Reserved(_)) => Self::ReservedLimit,
            SpaceError::Encode(_) => Self::Encode,
            SpaceError::OutOfFrames(_) => Self::OutOfFrames,
            SpaceError::Area(error) => error.into(),
            _ => Self::Other,
        }
    }
}

impl From<AreaError> for Refusal {
    fn from(error: AreaError) -> Self {
        match error {
            AreaError::Size(_) => Self::AreaSize,
            AreaError::Outside { .. } => Self::Outside,
            AreaError::Rights(_) => Self::Rights,
            AreaError::Kind => Self::Kind,
            AreaError::NoSection => Self::NoSection,
            AreaError::NotOut(_) => Self::NotOut,
            AreaError::Retry => Self::AreaRetry,
            AreaError::OutOfFrames(_) | AreaError::Registry(RegistryError::OutOfFrames(_)) => Self::OutOfFrames,
            AreaError::Pinned(offset) => Self::Pinned(offset / PAGE),
            AreaError::Memory(_) => Self::Memory,
            AreaError::Awaits(wait) => {
                WAIT.set(Some(wait));
                Self::AreaAwaits
            }
            AreaError::Failed(offset) => Self::AreaFailed(offset / PAGE),
            AreaError::Stale(_) => Self::Stale,
            _ => Self::Other,
        }
    }
}

/// What the model expects of an operation.
#[derive(Clone, Default, Debug)]
pub(crate) struct Expected {
    /// It is refused, for one of these reasons, if there are any.
    pub(crate) must: Vec<Refusal>,
    /// It may be refused for these, where the documentation leaves it open.
    pub(crate) may: Vec<Refusal>,
}

impl Expected {
    pub(crate) fn must(&mut self, refusals: impl IntoIterator<Item = Refusal>) {
        self.must.extend(refusals);
    }

    pub(crate) fn may(&mut self, refusals: impl IntoIterator<Item = Refusal>) {
        self.may.extend(refusals);
    }

    /// Compares; true if the operation was made.
    pub(crate) fn check<T>(&self, result: &Result<T, Refusal>) -> bool {
        match result {
            Ok(_) => assert!(self.must.is_empty(), "it was made, but is to be refused: {self:?}"),
            Err(refusal) => assert!(
                self.must.contains(refusal) || self.may.contains(refusal),
                "it was refused with {refusal:?}, expected {self:?}"
            ),
        }
        result.is_ok()
    }
}
