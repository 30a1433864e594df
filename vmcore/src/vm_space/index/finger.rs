//! The finger: the leaf that an operation is about, and the way to it.
//!
//! One operation on a space looks at the same few entries again and again: is the place free, are there nodes enough, which are the neighbours, insert.
//! So who has the tree exclusively [aims](Tree::aim) it: the way to a leaf is kept, with the addresses that belong there, and what is asked or changed within
//! them needs no other descent.
//!
//! ```text
//!                | ..4f | ..8f | ..ff |                 path: (root, 1)
//!                          |
//!   | 40..4f |      | 60..8f |      | 90..9f |          the leaf; 50..=8f are its addresses
//! ```
//!
//! A change of entries in the leaf moves the end of its addresses at the most. What changes nodes (a split, a leaf that is joined) lets the finger go.
//! Who reads beside others does not look at it.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::vm_space::index::inner::Inner;
use crate::vm_space::index::leaf::Leaf;
use crate::vm_space::index::node::Link;
use crate::vm_space::index::tree::Tree;

/// How high a tree can be. Each level multiplies the leaves at least by two (mostly by nine or more), so memory ends long before.
const MAX_HEIGHT: usize = 32;

/// From how many levels of inner nodes on leaves are so many (some thousand) that the one that is wanted is hardly in the nearest caches.
pub(super) const COLD_HEIGHT: usize = 3;

/// The inner nodes from the root to a leaf, each with the position of the child that was taken.
pub(super) struct Path<const N: usize> {
    steps: [MaybeUninit<(NonNull<Inner<N>>, usize)>; MAX_HEIGHT],
    len: usize,
}

impl<const N: usize> Clone for Path<N> {
    fn clone(&self) -> Self {
        let mut path = Self::new();
        for (node, at) in (0..self.len).filter_map(|level| self.get(level)) {
            let _ = path.push(node, at);
        }
        path
    }
}

impl<const N: usize> Path<N> {
    const fn new() -> Self {
        Self { steps: [const { MaybeUninit::uninit() }; MAX_HEIGHT], len: 0 }
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn push(&mut self, node: NonNull<Inner<N>>, at: usize) -> Option<()> {
        self.steps.get_mut(self.len)?.write((node, at));
        self.len += 1;
        Some(())
    }

    #[inline]
    pub(super) fn get(&self, level: usize) -> Option<(NonNull<Inner<N>>, usize)> {
        // SAFETY: the steps below `len` were written by `push`.
        self.steps.get(level).filter(|_| level < self.len).map(|step| unsafe { step.assume_init() })
    }

    /// From the end of the leaf before the one at the end of the path to its own, or to the end of all behind the last leaf. Mostly its parent says both.
    #[inline]
    fn bounds(&self) -> (u64, u64) {
        let (mut low, mut high) = (None, None);
        for (node, at) in (0..self.len).rev().filter_map(|level| self.get(level)) {
            // SAFETY: nodes of the tree are alive.
            let inner = unsafe { node.as_ref() };
            low = low.or_else(|| Some(inner.last(at.checked_sub(1)?).wrapping_add(1)));
            high = high.or_else(|| (at + 1 < inner.len()).then(|| inner.last(at)));
            if low.is_some() && high.is_some() {
                break;
            }
        }
        (low.unwrap_or(0), high.unwrap_or(u64::MAX))
    }

    /// The lowest of the nodes.
    #[inline]
    pub(super) fn end(&self) -> Option<(NonNull<Inner<N>>, usize)> {
        self.get(self.len.checked_sub(1)?)
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<(NonNull<Inner<N>>, usize)> {
        let step = self.end()?;
        self.len -= 1;
        Some(step)
    }
}

/// The leaf where the last change was, or where one is to be, and the way to it.
pub(super) struct Finger<const L: usize, const N: usize> {
    pub(super) path: Path<N>,
    pub(super) leaf: Option<NonNull<Leaf<L>>>,
    /// What is inserted at these addresses goes into the leaf: from the end of the leaf before to its own, or to the end of all behind the last leaf.
    low: u64,
    high: u64,
}

impl<const L: usize, const N: usize> Finger<L, N> {
    pub(super) const fn new() -> Self {
        Self { path: Path::new(), leaf: None, low: 0, high: 0 }
    }

    /// The leaf, if the address belongs there.
    #[inline]
    pub(super) fn leaf_for(&self, address: u64) -> Option<NonNull<Leaf<L>>> {
        self.leaf.filter(|_| self.low <= address && address <= self.high)
    }

    /// Whether the leaf, which there is, is the root.
    #[inline]
    pub(super) const fn is_root(&self) -> bool {
        self.path.len == 0
    }

    /// Takes note of the last address of the leaf. Those of the last leaf go on to the end of all.
    #[inline]
    pub(super) fn note_last(&mut self, last: u64) {
        if self.high != u64::MAX {
            self.high = last;
        }
    }

    /// Points to the leaf for an address, in a tree with this root.
    fn descend(&mut self, root: Link, height: usize, address: u64) -> Option<NonNull<Leaf<L>>> {
        self.leaf = None;
        self.path.len = 0;
        let mut node = root;
        for step in self.path.steps.get_mut(..height)? {
            // SAFETY: nodes of the tree are alive, and there are as many levels of inner nodes.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            let at = inner.rank(address);
            // What lies behind all goes into the last.
            let (child, at) = match inner.child(at) {
                Some(child) => (child, at),
                None => (inner.child(inner.len().checked_sub(1)?)?, inner.len() - 1),
            };
            step.write((node.cast(), at));
            node = child;
        }
        self.path.len = height;
        let leaf = node.cast::<Leaf<L>>();
        if height >= COLD_HEIGHT {
            // SAFETY: below them are the leaves.
            unsafe { leaf.as_ref() }.touch();
        }
        (self.low, self.high) = self.path.bounds();
        self.leaf = Some(leaf);
        self.leaf
    }
}

impl<const L: usize, const N: usize> Tree<L, N> {
    /// Puts the finger at the leaf where an entry with this first address is or belongs: what follows finds it there. O(log n).
    #[inline]
    pub(super) fn aim(&mut self, address: u64) -> Option<NonNull<Leaf<L>>> {
        match self.finger.leaf_for(address) {
            Some(leaf) => Some(leaf),
            None => self.finger.descend(self.root?, self.height, address),
        }
    }

    /// How many nodes `count` insertions take at most, at this address or (one after another, each at its own) at this and others; those
    /// of an operation add what each of its addresses takes, with the number of all. They come before its removals, if it has some.
    ///
    /// ```text
    ///   root     | - - -     |     has room: ends the count
    ///   inner    | - - - - - |     full: one more
    ///   leaf     | - - - - - |     full: one
    /// ```
    ///
    /// A node counts as full if it may be full before the last of them; then each of them may split it anew.
    #[inline]
    pub(super) fn nodes_needed(&self, address: u64, count: usize) -> usize {
        match (self.finger.leaf_for(address), self.root) {
            // SAFETY: nodes of the tree are alive.
            (Some(leaf), _) if unsafe { leaf.as_ref() }.len() + count <= L => 0,
            (Some(_), _) => count * (1 + self.nodes_above(&self.finger.path, count)),
            (None, None) => usize::from(count != 0),
            (None, Some(root)) => self.nodes_needed_elsewhere(root, address, count),
        }
    }

    fn nodes_needed_elsewhere(&self, root: Link, address: u64, count: usize) -> usize {
        let mut elsewhere = Finger::<L, N>::new();
        match elsewhere.descend(root, self.height, address) {
            // SAFETY: nodes of the tree are alive.
            Some(leaf) if unsafe { leaf.as_ref() }.len() + count <= L => 0,
            _ => count * (1 + self.nodes_above(&elsewhere.path, count)),
        }
    }

    /// How many inner nodes `count` splits of the leaf at the end of the path take.
    pub(super) fn nodes_above(&self, path: &Path<N>, count: usize) -> usize {
        let full = |level: &usize| {
            // SAFETY: nodes of the tree are alive.
            path.get(*level).is_some_and(|(node, _)| unsafe { node.as_ref() }.len() + count > N)
        };
        let split = (0..path.len).rev().take_while(full).count();
        // If all of them are split, there is a new root.
        split + usize::from(split == path.len)
    }
}
