//! Why an operation was refused, and the value that it would have consumed.

use core::error::Error;
use core::fmt;

/// Why an operation on a [`StaticVec`](super::StaticVec) was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaticVecError {
    /// The source had no room for a capacity of `wanted` elements.
    OutOfMemory {
        /// The number of elements that the vector needed room for.
        wanted: usize,
    },
    /// More elements than any block of memory can hold.
    TooLarge {
        /// The number of elements present.
        length: usize,
        /// The number of elements to be added.
        additional: usize,
    },
    /// An index past the end.
    IndexOutOfRange {
        /// The index that was given.
        index: usize,
        /// The number of elements present.
        length: usize,
    },
    /// A range that ends before it begins, or past the end.
    RangeOutOfRange {
        /// The first index of the range.
        start: usize,
        /// One past its last index.
        end: usize,
        /// The number of elements present.
        length: usize,
    },
    /// The vector already has lent memory.
    AlreadyLent {
        /// The number of elements that the memory lent first has room for.
        capacity: usize,
    },
}

impl fmt::Display for StaticVecError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfMemory { wanted } => write!(
                formatter,
                "no memory for a capacity of {wanted} elements: lend more, or release memory and try again"
            ),
            Self::TooLarge { length, additional } => write!(
                formatter,
                "{additional} more elements than the {length} present exceed what a block of memory can hold: add fewer"
            ),
            Self::IndexOutOfRange { index, length } => {
                write!(formatter, "index {index} is past the end, {length}: give at most the length")
            }
            Self::RangeOutOfRange { start, end, length } => write!(
                formatter,
                "range {start}..{end} is not within 0..{length}: its ends must be in order and at most the length"
            ),
            Self::AlreadyLent { capacity } => {
                write!(formatter, "the vector already has lent memory for {capacity} elements: it is lent memory once")
            }
        }
    }
}

impl Error for StaticVecError {}

/// A value that was not taken, with the reason.
///
/// ```
/// use vmcore::static_vec::{StaticVec, StaticVecError};
///
/// let mut none = StaticVec::<&str>::new();
/// let rejected = none.push("kept").unwrap_err();
/// assert_eq!(rejected.error, StaticVecError::OutOfMemory { wanted: 1 });
/// assert_eq!(rejected.value, "kept");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected<T> {
    /// The value, given back.
    pub value: T,
    /// Why it was not taken.
    pub error: StaticVecError,
}

impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rejected").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl<T> Error for Rejected<T> {}
