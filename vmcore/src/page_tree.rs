//! [`PageTree`]: which value belongs at which page offset. A path-compressed 64-ary radix tree.
//!
//! An area remembers its pages in one of these: the key is a page's offset in the area (counted in pages),
//! the value names a frame. The tree stores values; it never allocates frames.
//!
//! ```text
//!   keys 3, 5          and 70                         and 0x4_0000_0000_0000
//!
//!                                                             shift 48
//!                                                          ┌──────────────┐
//!                                                          │ [0]      [4] │
//!                                                          └──┬────────┬──┘
//!                             shift 6                 shift 6 │        │  shifts 42, 36, … 6
//!                         ┌─────────────┐          ┌──────────┴──┐     │  are not stored: all
//!                         │ [0]     [1] │          │ [0]     [1] │     │  below slot [4] is one
//!                         └──┬───────┬──┘          └──┬───────┬──┘     │  leaf
//!    leaf 0            leaf 0│       │leaf 64   leaf 0│       │leaf 64 │leaf 0x4_0000_0000_0000
//!   ┌─────────────┐    ┌─────┴───┐ ┌─┴─────┐    ┌─────┴───┐ ┌─┴─────┐ ┌┴──────┐
//!   │ [3]=a [5]=b │    │ [3] [5] │ │ [6]=c │    │ [3] [5] │ │ [6]=c │ │ [0]=d │
//!   └─────────────┘    └─────────┘ └───────┘    └─────────┘ └───────┘ └───────┘
//! ```
//!
//! A node with shift `s` takes the six bits of the key from `s` on; a chain of nodes with one child each is
//! not stored (path compression). So the depth grows with the spread of the keys and not with their width:
//! an area of up to 64 aligned pages is one node, 4,096 are 65 nodes, and no path is longer than 11.
//!
//! # Sizes
//!
//! A node has the size that its keys or children need, and moves to the next when it is full:
//!
//! ```text
//!              ┌────────┐   ┌────────┬──── ··· ────┐   ┌────────┬─────────── ··· ───────────┐
//!              │ header │   │ header │             │   │ header │                           │
//!              │ a b c  │   │ a b c … up to 19     │   │        │ slot 0, 1, 2, … 63        │
//!              └────────┘   └────────┴──── ··· ────┘   └────────┴─────────── ··· ───────────┘
//!               64 bytes     192 bytes                   576 bytes
//! ```
//!
//! | keys present | bytes for each key, with what the pages of a pool lose |
//! |---|---|
//! | all | 9.3: a 64th of a full-sized leaf, and a 63rd of that for the levels above |
//! | one in 512 | 91: a small leaf, an eighth of a medium node, a 512th of a full-sized one |
//! | up to 3 in an area of 64 pages | 64 for all of them |
//!
//! A node that lost keys keeps its size until it is copied or [compacted](PageTree::compact): removing takes no memory.
//!
//! # Runs
//!
//! A slot above the leaves may hold, instead of a child, a *run* of values that follow from the first one, as the frames
//! of a large page do ([`PageTree::insert_run`]): 2 MiB of 4 KiB pages are eight slots of the second level, 1 GiB is one
//! of the fourth.
//!
//! ```text
//!                 shift 6
//!   ┌─────────────────────────────────────────────────┐    keys 512 … 1023 are 2 MiB from frame f on; what is
//!   │ [0]  [8]=f  [9]=f+64  …  [15]=f+448   [16]      │    left and right of them are single pages
//!   └──┬─────────────────────────────────────┬────────┘
//!    leaf 0                               leaf 1024
//! ```
//!
//! # Sharing
//!
//! Nodes are counted. [`PageTree::share`] gives a second tree with the same content in O(1), and a change
//! of either copies the nodes on its path and no others:
//!
//! ```text
//!   after b = a.share()                 after b wrote key 70
//!
//!   a ──┐    ┌──────┐                   a ─────► ┌──────┐       ┌──────┐ ◄───── b
//!       ├──► │ root │                            │ root │       │ copy │
//!   b ──┘    └┬────┬┘                            └┬────┬┘       └┬────┬┘
//!             ▼    ▼                              │    ▼         │    ▼
//!        leaf 0    leaf 64                        │  leaf 64     │  leaf 64, copied and written
//!                                                 └──► leaf 0 ◄──┘  (held twice)
//! ```
//!
//! A value belongs to the leaf slot that holds it. When a leaf is copied its values are duplicated
//! ([`ValueOwner::duplicate`]), and when its last holder lets go they are discarded
//! ([`ValueOwner::discard`]). A frame whose count is one and whose key has a
//! [sole owner](PageTree::is_sole_owner) is in no other tree.
//!
//! # Giving up a range
//!
//! [`PageTree::remove_range`] hands out each value at once. Where a value may be dropped only later, when no
//! CPU uses its page any more, [`PageTree::split_off`] makes a tree of the range, by moving whole nodes, and
//! clearing that tree is what drops the values.
//!
//! # Reserve first, then commit
//!
//! A change can fail in two ways, and both can be had out of the way before it: take the [nodes it
//! needs](PageTree::nodes_needed_to_insert) beforehand, and where trees are shared, copy the path
//! beforehand ([`PageTree::prepare_insert`], [`PageTree::prepare_remove_range`]), which changes no content
//! and is harmless if nothing follows. A change that fails leaves the content as it was.
//!
//! # Who may do what
//!
//! A tree is changed through `&mut`; its user brings the lock. Trees that share nodes may be used by
//! several CPUs at once: a node that is held more than once is only read, apart from its count, and that it
//! is no longer shared is seen only after what its former holders did to it.
//!
//! # Example
//!
//! ```
//! use std::{alloc::Layout, num::NonZeroU64, ptr::NonNull};
//! use vmcore::page_tree::{Context, Node, NodeSize, NodeStore, OutOfNodes, PageTree, Uncounted};
//!
//! struct Heap;
//!
//! fn layout(size: NodeSize) -> Layout {
//!     Layout::from_size_align(size.bytes(), NodeSize::ALIGN).expect("a size that can be")
//! }
//!
//! // SAFETY: the allocator gives each block to one user at a time, with the size and alignment of a node.
//! unsafe impl NodeStore for Heap {
//!     fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
//!         // SAFETY: a node's size is not zero.
//!         let block = unsafe { std::alloc::alloc(layout(size)) };
//!         NonNull::new(block.cast()).ok_or(OutOfNodes::new())
//!     }
//!     unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
//!         // SAFETY: the node came from `take`, as the caller promises.
//!         unsafe { std::alloc::dealloc(node.as_ptr().cast(), layout(size)) }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut context = Context { nodes: &mut Heap, values: &mut Uncounted };
//! // SAFETY: all nodes come from the one allocator, whichever `Heap` is asked.
//! let mut pages = unsafe { PageTree::<NonZeroU64>::new() };
//! let frame = |number| NonZeroU64::new(number).expect("not zero");
//! pages.insert(3, frame(0x1000), &mut context)?;
//! pages.insert(70, frame(0x2000), &mut context)?;
//! assert_eq!(pages.get(3), Some(frame(0x1000)));
//! assert_eq!(pages.next_present(4), Some((70, frame(0x2000))));
//! assert_eq!(pages.first_free_run(.., 4), Some(4));
//! assert_eq!(pages.node_count(), 3);
//!
//! let mut snapshot = pages.share()?;
//! pages.remove(3, &mut context)?;
//! assert_eq!(snapshot.get(3), Some(frame(0x1000)));
//!
//! let mut given_up = snapshot.split_off(64.., &mut context)?;
//! assert_eq!((given_up.get(70), snapshot.get(70)), (Some(frame(0x2000)), None));
//!
//! given_up.clear(&mut context);
//! pages.clear(&mut context);
//! snapshot.clear(&mut context);
//! # Ok(())
//! # }
//! ```

mod compact;
mod context;
mod edit;
mod find;
mod in_place;
mod needed;
mod node;
mod own_slot;
mod range;
mod relocate;
mod runs;
mod share;
mod split;
mod visit;

pub use context::{
    CannotDuplicate, Context, NodeStore, NotInserted, OutOfNodes, Removed, TreeContext, TreeError, TreeValue,
    Uncounted, ValueOwner,
};
pub use needed::NodesNeeded;
pub(crate) use node::{FullNode, MediumNode};
pub use node::{Node, NodeSize};
pub(crate) use own_slot::OwnSlot;
pub use range::Range;
pub use runs::{Run, Runs};
pub(crate) use visit::{Held, Visited};

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Bound, RangeBounds};
use node::Link;

/// A map from page offset to value, as a path-compressed 64-ary radix tree whose nodes may be shared.
///
/// Its [module](self) has the drawing, the rules of sharing and an example.
///
/// Dropping a tree that is not empty leaks its nodes and values, since it has no store to give them to:
/// [`clear`](Self::clear) it first.
///
/// # Invariants
///
/// `length` is the number of values reachable from `root`. Every node reachable is alive: this tree, or a
/// node of it, holds one reference to it.
#[must_use = "a tree that is dropped without `clear` leaks its nodes and values"]
pub struct PageTree<V> {
    root: Link,
    length: u64,
    values: PhantomData<V>,
}

// SAFETY: nodes reachable from two trees are read-only but for their atomic counts (module head), and a
// value moves between threads with its tree or is read by several of them by copying its word.
unsafe impl<V: Send + Sync> Send for PageTree<V> {}
// SAFETY: as above; through a shared reference a tree is only read.
unsafe impl<V: Send + Sync> Sync for PageTree<V> {}

impl<V> PageTree<V> {
    /// A tree without a key, and without a node.
    ///
    /// # Safety
    ///
    /// All contexts that are ever passed to this tree, and to trees [shared](Self::share), [split
    /// off](Self::split_off) or [taken](Self::take) from it, have one store of nodes in common: what one of them [took](NodeStore::take) may be [given](NodeStore::give) back through any
    /// other. (That is promised once, here, rather than at each call.)
    pub const unsafe fn new() -> Self {
        Self { root: Link::NONE, length: 0, values: PhantomData }
    }

    /// The number of keys present. O(1).
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Whether no key is present. O(1).
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<V: TreeValue + fmt::Debug> fmt::Debug for PageTree<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not by `debug_map`, which can panic.
        formatter.write_str("{")?;
        for (index, (key, value)) in self.range(..).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{key}: {value:?}")?;
        }
        formatter.write_str("}")
    }
}

/// The first and last key of a range; `None` if it is empty.
fn ends(range: impl RangeBounds<u64>) -> Option<(u64, u64)> {
    let first = match range.start_bound() {
        Bound::Included(&first) => first,
        Bound::Excluded(&before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let last = match range.end_bound() {
        Bound::Included(&last) => last,
        Bound::Excluded(&after) => after.checked_sub(1)?,
        Bound::Unbounded => u64::MAX,
    };
    (first <= last).then_some((first, last))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
