//! What a tree asks of its user: nodes, and the ownership of values.

use super::node::{Node, NodeSize};
use core::error::Error;
use core::fmt;
use core::num::NonZeroU64;
use core::ptr::NonNull;

/// What a tree stores: one 64-bit word that is not zero.
///
/// ```
/// use core::num::NonZeroU64;
/// use vmcore::page_tree::TreeValue;
///
/// /// The number of a frame, which may be zero, so a bit beside it is always set.
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct FrameNumber(u32);
///
/// impl TreeValue for FrameNumber {
///     fn into_bits(self) -> NonZeroU64 {
///         NonZeroU64::MIN | u64::from(self.0) << 1
///     }
///     fn from_bits(bits: NonZeroU64) -> Self {
///         Self((bits.get() >> 1) as u32)
///     }
///     fn advance(self, pages: u64) -> Self {
///         Self(self.0.wrapping_add(pages as u32))
///     }
/// }
///
/// assert_eq!(FrameNumber::from_bits(FrameNumber(0).into_bits()), FrameNumber(0));
/// ```
pub trait TreeValue: Copy {
    /// The word that stands for the value.
    fn into_bits(self) -> NonZeroU64;

    /// The value for a word that [`into_bits`](Self::into_bits) gave.
    fn from_bits(bits: NonZeroU64) -> Self;

    /// The value `pages` keys further on in a [run](super::PageTree::insert_run) of which this is one: the frame so
    /// many frames on, with the same flags. Asked for only within a run that was inserted.
    #[must_use]
    fn advance(self, pages: u64) -> Self;
}

impl TreeValue for NonZeroU64 {
    #[inline]
    fn into_bits(self) -> NonZeroU64 {
        self
    }

    #[inline]
    fn from_bits(bits: NonZeroU64) -> Self {
        bits
    }

    #[inline]
    fn advance(self, pages: u64) -> Self {
        self.saturating_add(pages)
    }
}

/// A store had no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OutOfNodes;

impl OutOfNodes {
    /// The error.
    pub const fn new() -> Self {
        Self
    }
}

impl fmt::Display for OutOfNodes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("no tree node left: release memory and try again, or reserve more nodes first")
    }
}

impl Error for OutOfNodes {}

/// Where a tree's nodes come from and go to. A tree, and those that it shares structure with, have one store.
///
/// Called in the middle of a change: it must not touch the tree.
///
/// # Safety
///
/// A node from [`take`](Self::take) is valid for reads and writes of [as many bytes](NodeSize::bytes) as its size
/// says, aligned to [`NodeSize::ALIGN`], used by nobody else, and stays so until it is given back.
pub unsafe trait NodeStore {
    /// Room for a node of this size. Its contents may be anything.
    ///
    /// # Errors
    ///
    /// [`OutOfNodes`] when there is none; the tree then reports it and is unchanged.
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes>;

    /// Takes a node of this size back. Its contents mean nothing any more.
    ///
    /// # Safety
    ///
    /// The node came from [`take`](Self::take) of this store (or of one that shares its nodes) with the same size, was
    /// not given back since, and is not used afterwards.
    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize);
}

/// A value could not be had twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CannotDuplicate;

impl CannotDuplicate {
    /// The error.
    pub const fn new() -> Self {
        Self
    }
}

impl fmt::Display for CannotDuplicate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the value cannot be held once more: release other holders and try again")
    }
}

impl Error for CannotDuplicate {}

/// What it means to hold a value: a leaf slot that holds one owns it, as a frame's count is the number
/// of slots that name it.
///
/// Called in the middle of a change: it must not touch the tree.
pub trait ValueOwner<V> {
    /// Makes a second holder of a value, because a shared leaf is copied. The result may differ from the
    /// original.
    ///
    /// # Errors
    ///
    /// [`CannotDuplicate`]; the tree then reports it and is unchanged.
    fn duplicate(&mut self, value: V) -> Result<V, CannotDuplicate>;

    /// Drops one holder of a value: its leaf slot is gone.
    fn discard(&mut self, value: V);

    /// Drops one holder of each of these values: the leaf that held them is gone. To [`discard`](Self::discard) each, unless it is overridden by an
    /// owner to whom many at once are cheaper.
    fn discard_all(&mut self, values: impl Iterator<Item = V>)
    where
        Self: Sized,
    {
        values.for_each(|value| self.discard(value));
    }

    /// Makes a second holder of a run of `count` keys, because the node that holds it is copied. A run is one
    /// reference, counted on its first value, so this is to [`duplicate`](Self::duplicate) that, unless it is
    /// overridden.
    ///
    /// # Errors
    ///
    /// [`CannotDuplicate`]; the tree then reports it and is unchanged.
    fn duplicate_run(&mut self, first: V, count: u64) -> Result<V, CannotDuplicate> {
        let _ = count;
        self.duplicate(first)
    }

    /// Drops one holder of a run of `count` keys: its slot is gone. To [`discard`](Self::discard) the first value,
    /// unless it is overridden (as it must be where that frees the run).
    fn discard_run(&mut self, first: V, count: u64) {
        let _ = count;
        self.discard(first);
    }

    /// Makes of a run of `count` keys, one reference, runs of `part` keys each (or single values, for one) with a
    /// reference of their own: part of the run is to be changed. Refused unless it is overridden.
    ///
    /// # Errors
    ///
    /// [`CannotDuplicate`], in particular if the run is held by others too, who count on its first value; the tree then
    /// reports [`TreeError::CannotSplit`] and is unchanged.
    fn split_run(&mut self, first: V, count: u64, part: u64) -> Result<(), CannotDuplicate> {
        let _ = (first, count, part);
        Err(CannotDuplicate::new())
    }
}

/// What a changing call of a tree needs: a store of nodes that also owns the values. Everything that is
/// both is one; [`Context`] makes one of two.
pub trait TreeContext<V>: NodeStore + ValueOwner<V> {}

impl<V, C: NodeStore + ValueOwner<V>> TreeContext<V> for C {}

/// A store of nodes and an owner of values, kept apart.
#[derive(Debug)]
pub struct Context<'a, S, O> {
    /// Where nodes come from.
    pub nodes: &'a mut S,
    /// Who owns the values.
    pub values: &'a mut O,
}

// SAFETY: both calls are passed on to a store that keeps the contract.
unsafe impl<S: NodeStore, O> NodeStore for Context<'_, S, O> {
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        self.nodes.take(size)
    }

    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        // SAFETY: the caller's promise is the one that is asked for here.
        unsafe { self.nodes.give(node, size) }
    }
}

impl<V, S, O: ValueOwner<V>> ValueOwner<V> for Context<'_, S, O> {
    fn duplicate(&mut self, value: V) -> Result<V, CannotDuplicate> {
        self.values.duplicate(value)
    }

    fn discard(&mut self, value: V) {
        self.values.discard(value);
    }

    fn discard_all(&mut self, values: impl Iterator<Item = V>) {
        self.values.discard_all(values);
    }

    fn duplicate_run(&mut self, first: V, count: u64) -> Result<V, CannotDuplicate> {
        self.values.duplicate_run(first, count)
    }

    fn discard_run(&mut self, first: V, count: u64) {
        self.values.discard_run(first, count);
    }

    fn split_run(&mut self, first: V, count: u64, part: u64) -> Result<(), CannotDuplicate> {
        self.values.split_run(first, count, part)
    }
}

/// The owner of values that nobody counts: duplicating copies, discarding forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncounted;

impl<V: Copy> ValueOwner<V> for Uncounted {
    fn duplicate(&mut self, value: V) -> Result<V, CannotDuplicate> {
        Ok(value)
    }

    fn discard(&mut self, _value: V) {}

    fn split_run(&mut self, _first: V, _count: u64, _part: u64) -> Result<(), CannotDuplicate> {
        Ok(())
    }
}

/// Why a change of a tree was refused. Its content was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeError {
    /// The store had no node for the path to `key`.
    OutOfNodes {
        /// The key (page offset) whose path needed a node.
        key: u64,
    },
    /// A value beside `key` is shared with another tree and could not be duplicated.
    CannotDuplicate {
        /// The key whose leaf was to be copied.
        key: u64,
    },
    /// The tree is shared as often as can be counted.
    TooManyShares {
        /// The number of holders of the root.
        holders: usize,
    },
    /// The run that holds `key` cannot be split: it is held by others too. It can be replaced as a whole.
    CannotSplit {
        /// The key in the run.
        key: u64,
    },
    /// There is a value at `key` already, where none may be.
    Occupied {
        /// The first such key.
        key: u64,
    },
    /// Keys that cannot be: a run that is empty or whose first key or length is not a multiple of 64, or keys past
    /// the last one.
    Misplaced {
        /// The first key.
        key: u64,
        /// The number of keys.
        count: u64,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfNodes { key } => write!(
                formatter,
                "no tree node left for key {key:#x}: release memory and try again, or reserve the nodes needed first"
            ),
            Self::CannotDuplicate { key } => write!(
                formatter,
                "a shared value in the 64 keys around {key:#x} cannot be duplicated: release other holders and try again"
            ),
            Self::TooManyShares { holders } => {
                write!(formatter, "the tree is already shared {holders} times: clear some of those trees first")
            }
            Self::CannotSplit { key } => write!(
                formatter,
                "the run that holds key {key:#x} is shared and cannot be split: replace all of it by a copy"
            ),
            Self::Occupied { key } => write!(formatter, "there is a value at key {key:#x}: remove it first"),
            Self::Misplaced { key, count } => write!(
                formatter,
                "{count:#x} keys from {key:#x} on cannot be there: runs begin and end at multiples of 64, and keys end at 2^64"
            ),
        }
    }
}

impl Error for TreeError {}

/// A value that was not inserted, with the reason.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NotInserted<V> {
    /// The value, given back.
    pub value: V,
    /// Why it was not inserted.
    pub error: TreeError,
}

impl<V> fmt::Debug for NotInserted<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NotInserted").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<V> fmt::Display for NotInserted<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl<V> Error for NotInserted<V> {}

/// A value that a range removal took out of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an owned value is the receiver's to drop"]
pub enum Removed<V> {
    /// The slot that held it is gone: the receiver owns the value now.
    Owned(V),
    /// Another tree still holds it in the same slot: this is a look at it, nothing to drop.
    Shared(V),
    /// The slot that held a run is gone: the receiver owns the run, of which this is the first value, and its length.
    OwnedRun(V, u64),
    /// Another tree still holds the run, of which this is the first value and the length, in the same slot.
    SharedRun(V, u64),
}

impl<V> Removed<V> {
    /// The value, or the first of a run, whoever owns it.
    pub fn value(self) -> V {
        match self {
            Self::Owned(value) | Self::Shared(value) | Self::OwnedRun(value, _) | Self::SharedRun(value, _) => value,
        }
    }

    /// The number of keys: more than one for a run.
    pub const fn count(&self) -> u64 {
        match *self {
            Self::Owned(_) | Self::Shared(_) => 1,
            Self::OwnedRun(_, count) | Self::SharedRun(_, count) => count,
        }
    }
}
