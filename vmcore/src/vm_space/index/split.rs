//! Insertion into a full leaf: a neighbour takes some of its entries, or it is split, and so are the full nodes above it.
//!
//! ```text
//!   a neighbour has room       | a b c d | e f . . |      x after b:   | a b x | c d e f |
//!   none has, x in the midst   | a b c d |                             | a b x | c d . . |
//!   none has, x is the last    | a b c d |                             | a b c d | x . . . |      and likewise the first
//! ```
//!
//! Entries that come in order, upwards or downwards, so leave full nodes behind: what comes after the last entry or before the first of a full leaf goes into
//! a leaf of its own, which the next ones fill.

use core::ptr::NonNull;

use crate::vm_space::index::finger::Path;
use crate::vm_space::index::leaf::Leaf;
use crate::vm_space::index::node::{Entry, Link, share};
use crate::vm_space::index::tree::{Nodes, Tree};

/// Which way entries seem to come, so that the nodes that they leave behind stay full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trend {
    Up,
    Down,
    None,
}

impl<const L: usize, const N: usize> Tree<L, N> {
    /// How many children the smaller part of an inner node gets that is not halved: the least, since the next ones fill it.
    const INNER_REST: usize = 2;
    /// A leaf gives entries to a neighbour that lacks as many; half of them, so that what the neighbour has left is enough for whoever
    /// counted on it.
    const LEAF_GIVES: usize = 4;

    /// Inserts into the finger's leaf, which is full. False, and no change, if there are not enough nodes.
    pub(super) fn insert_into_full(
        &mut self,
        mut pointer: NonNull<Leaf<L>>,
        at: usize,
        entry: Entry,
        nodes: &mut impl Nodes<L, N>,
    ) -> bool {
        let path = self.finger.path.clone();
        self.finger.leaf = None;
        if self.insert_beside(path.clone(), pointer, at, entry) {
            return true;
        }
        if !nodes.has(1 + self.nodes_above(&path, 1)) {
            return false;
        }
        let Some(mut new) = Self::new_leaf(nodes) else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it; the new one is nobody else's.
        let (leaf, right) = unsafe { (pointer.as_mut(), new.as_mut()) };
        let trend = match at {
            0 => Trend::Down,
            at if at >= L => Trend::Up,
            _ => Trend::None,
        };
        match trend {
            Trend::Up => {
                right.insert(0, entry, &self.sizes);
            }
            Trend::Down => {
                // The leaf before knows this one, so it is this one's content that moves.
                share(leaf, right, 0);
                leaf.rebuild(&self.sizes);
                right.rebuild(&self.sizes);
                leaf.insert(0, entry, &self.sizes);
            }
            Trend::None => self.insert_shared((leaf, right), L / 2, at, entry),
        }
        right.next = leaf.next;
        leaf.next = Some(new);
        self.insert_child(path, new.cast(), trend, nodes);
        true
    }

    /// Moves entries so that the left one of two leaves has `want`, and inserts where, of the entries of both, `at` is.
    fn insert_shared(&self, (left, right): (&mut Leaf<L>, &mut Leaf<L>), want: usize, at: usize, entry: Entry) {
        share(left, right, want);
        left.rebuild(&self.sizes);
        right.rebuild(&self.sizes);
        match at.checked_sub(want) {
            None | Some(0) => left.insert(at, entry, &self.sizes),
            Some(at) => right.insert(at, entry, &self.sizes),
        };
    }

    /// Inserts with the help of a neighbour of the full leaf at the end of the path that has room.
    fn insert_beside(&self, mut path: Path<N>, mut pointer: NonNull<Leaf<L>>, at: usize, entry: Entry) -> bool {
        let Some((mut parent, child)) = path.pop() else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it; the neighbours are others than the leaf.
        let (parent, leaf) = unsafe { (parent.as_mut(), pointer.as_mut()) };
        let neighbour = |at: Option<usize>| {
            let link = parent.child(at?)?;
            // SAFETY: as above; the children of a leaf's parent are leaves.
            Some(unsafe { link.cast::<Leaf<L>>().as_mut() })
        };
        let is_within = at != 0 && at < L;
        let has_room = |leaf: &&mut Leaf<L>| leaf.len() + if is_within { Self::LEAF_GIVES } else { 1 } <= L;
        let left = neighbour(child.checked_sub(1)).filter(has_room);
        let (from, to) = match (left, neighbour(Some(child + 1)).filter(has_room)) {
            (Some(left), _) if at == 0 => {
                left.insert(left.len(), entry, &self.sizes);
                (child - 1, child - 1)
            }
            (Some(left), _) if is_within => {
                let have = left.len();
                self.insert_shared((left, leaf), have + (L - have) / 2, have + at, entry);
                (child - 1, child)
            }
            (_, Some(right)) if is_within => {
                let have = right.len();
                self.insert_shared((leaf, right), L - (L - have) / 2, at, entry);
                (child, child + 1)
            }
            _ => return false,
        };
        self.fix(parent, from, to, 0);
        self.update(&path, true, parent.summary());
        true
    }

    /// Puts a leaf behind the one at the end of the path, into its parent. The nodes that this takes are there.
    fn insert_child(&mut self, mut path: Path<N>, mut new: Link, trend: Trend, nodes: &mut impl Nodes<L, N>) {
        let mut height = 0;
        while let Some((mut pointer, child)) = path.pop() {
            // SAFETY: nodes of the tree are alive, and reached only through it.
            let inner = unsafe { pointer.as_mut() };
            let at = child + 1;
            if inner.len() < N {
                inner.insert(at, new);
                self.fix(inner, child, at, height);
                self.update(&path, true, inner.summary());
                return;
            }
            let Some(mut split) = Self::new_inner(nodes) else { return };
            // SAFETY: it was just made, and is nobody else's.
            let right = unsafe { split.as_mut() };
            // How many children the left part has in the end.
            let half = N.div_ceil(2);
            let left = match trend {
                Trend::Up if at == N => N + 1 - Self::INNER_REST,
                Trend::Down if at == 1 => Self::INNER_REST,
                // The next entry is to find the almost empty node beside the full one.
                Trend::Down if at == half && half + 2 <= N => half + 1,
                _ => half,
            };
            if at < left {
                share(inner, right, left - 1);
                inner.insert(at, new);
            } else {
                share(inner, right, left);
                right.insert(at - left, new);
            }
            self.fix_all(inner, height);
            self.fix_all(right, height);
            new = split.cast();
            height += 1;
        }
        let (Some(old), Some(mut root)) = (self.root, Self::new_inner(nodes)) else { return };
        // SAFETY: it was just made, and is nobody else's.
        let inner = unsafe { root.as_mut() };
        inner.insert(0, old);
        inner.insert(1, new);
        self.fix_all(inner, height);
        self.root = Some(root.cast());
        self.height += 1;
    }
}
