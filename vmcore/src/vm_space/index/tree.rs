//! A B+ tree of ranges that do not overlap, sorted by address.
//!
//! ```text
//!                      inner    | ..4f | ..8f | ..ff |          last addresses of the children
//!                              /       |       \
//!   leaves   | 1..2 7..9 40..4f | ─► | 60..8f | ─► | 90..9f c0..ff |      each knows the next
//! ```
//!
//! # Invariants
//!
//! - All leaves are at the same depth. A leaf is never empty; an inner node has at least two children.
//! - What an inner node keeps of a child (first and last address, largest gaps) is what the child says. Gaps between two children are kept by the
//!   lowest node that is above both, so a change touches the ancestors of the leaf that is changed, as far up as it shows there.
//! - Where a removal leaves less than half of a node, it is joined with a neighbour, or the two are levelled.
//! - A full leaf gives some of its entries to a neighbour that has room for twice as many, or is halved. Entries that come in
//!   order, upwards or downwards, leave full leaves behind: what comes after the last entry or before the first of a full leaf goes into
//!   a leaf of its own, which the next ones fill.
//!
//! Nodes come from [`Nodes`] and go back there: the tree never allocates.
//!
//! # The finger
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

use crate::vm_space::index::gap::LeafSizes;
use crate::vm_space::index::node::{Entry, Inner, Leaf, Link, Summary};

/// Memory for a node of either kind.
#[repr(C)]
pub(super) union NodeMemory<const L: usize, const N: usize> {
    leaf: core::mem::ManuallyDrop<Leaf<L>>,
    inner: core::mem::ManuallyDrop<Inner<N>>,
}

/// Where the memory of nodes comes from.
///
/// # Safety
/// What is taken is exclusive and stays so until it is put back.
pub(super) unsafe trait Nodes<const L: usize, const N: usize> {
    /// Whether as many nodes can be taken.
    fn has(&self, count: usize) -> bool;

    fn take(&mut self) -> Option<NonNull<NodeMemory<L, N>>>;

    /// # Safety
    /// The memory was taken from here, and nothing refers to it.
    unsafe fn put(&mut self, node: NonNull<NodeMemory<L, N>>);
}

/// How high a tree can be. Each level multiplies the leaves at least by two (mostly by seven or more), so memory ends long before.
const MAX_HEIGHT: usize = 32;

/// The inner nodes from the root to a leaf, each with the position of the child that was taken.
#[derive(Clone, Copy)]
struct Path<const N: usize> {
    steps: [MaybeUninit<(NonNull<Inner<N>>, usize)>; MAX_HEIGHT],
    len: usize,
}

impl<const N: usize> Path<N> {
    const fn new() -> Self {
        Self { steps: [const { MaybeUninit::uninit() }; MAX_HEIGHT], len: 0 }
    }

    #[inline]
    fn push(&mut self, node: NonNull<Inner<N>>, at: usize) -> Option<()> {
        self.steps.get_mut(self.len)?.write((node, at));
        self.len += 1;
        Some(())
    }

    #[inline]
    fn get(&self, level: usize) -> Option<(NonNull<Inner<N>>, usize)> {
        // SAFETY: the steps below `len` were written by `push`.
        self.steps.get(level).filter(|_| level < self.len).map(|step| unsafe { step.assume_init() })
    }

    #[inline]
    fn pop(&mut self) -> Option<(NonNull<Inner<N>>, usize)> {
        let step = self.get(self.len.checked_sub(1)?)?;
        self.len -= 1;
        Some(step)
    }
}

/// The leaf where the last change was, or where one is to be, and the way to it.
struct Finger<const L: usize, const N: usize> {
    path: Path<N>,
    leaf: Option<NonNull<Leaf<L>>>,
    /// What is inserted at these addresses goes into the leaf: from the end of the leaf before to its own, or to the end of all behind the last leaf.
    low: u64,
    high: u64,
}

impl<const L: usize, const N: usize> Finger<L, N> {
    const fn new() -> Self {
        Self { path: Path::new(), leaf: None, low: 0, high: 0 }
    }

    /// The leaf, if the address belongs there.
    #[inline]
    fn leaf_for(&self, address: u64) -> Option<NonNull<Leaf<L>>> {
        self.leaf.filter(|_| self.low <= address && address <= self.high)
    }
}

/// Which way entries seem to come, so that the nodes that they leave behind stay full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trend {
    Up,
    Down,
    None,
}

/// A tree with up to `L` entries in a leaf and `N` children of an inner node.
pub(super) struct Tree<const L: usize, const N: usize> {
    root: Option<Link>,
    /// How many levels of inner nodes there are.
    height: usize,
    entries: usize,
    sizes: LeafSizes,
    finger: Finger<L, N>,
}

impl<const L: usize, const N: usize> Tree<L, N> {
    /// Leaves with fewer entries are joined or levelled with a neighbour.
    pub(super) const LEAF_MINIMUM: usize = L / 2;
    /// Likewise inner nodes; two are the least.
    pub(super) const INNER_MINIMUM: usize = if N / 2 > 2 { N / 2 } else { 2 };
    /// How many children the smaller part of an inner node gets that is not halved.
    const INNER_REST: usize = if (N + 1) / 4 > 2 { (N + 1) / 4 } else { 2 };
    /// A leaf gives entries to a neighbour that lacks as many; half of them, so that what the neighbour has left is enough for whoever
    /// counted on it.
    const LEAF_GIVES: usize = 4;

    pub(super) const fn new(sizes: LeafSizes) -> Self {
        Self { root: None, height: 0, entries: 0, sizes, finger: Finger::new() }
    }

    pub(super) const fn sizes(&self) -> &LeafSizes {
        &self.sizes
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.entries
    }

    pub(super) const fn height(&self) -> usize {
        self.height
    }

    /// The root and what is to be said of it.
    pub(super) fn root(&self) -> Option<(Link, Summary)> {
        let root = self.root?;
        // SAFETY: the root is alive, and an inner node if there are levels of them.
        let summary =
            unsafe { if self.height == 0 { Self::summary_of_leaf(root) } else { Self::summary_of_inner(root) } };
        Some((root, summary))
    }

    /// # Safety
    /// The node is alive and a leaf.
    unsafe fn summary_of_leaf(node: Link) -> Summary {
        // SAFETY: as the caller vouches.
        unsafe { node.cast::<Leaf<L>>().as_ref() }.node.summary()
    }

    /// # Safety
    /// The node is alive and an inner node.
    unsafe fn summary_of_inner(node: Link) -> Summary {
        // SAFETY: as the caller vouches.
        unsafe { node.cast::<Inner<N>>().as_ref() }.node.summary()
    }

    /// The leaf and the position in it of the first entry that ends at or after `address`.
    #[inline]
    fn seek(&self, address: u64) -> Option<(&Leaf<L>, usize)> {
        let mut node = self.root?;
        for _ in 0..self.height {
            // SAFETY: nodes of the tree are alive, and there are as many levels of inner nodes.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            node = inner.child(inner.node.rank(address))?;
        }
        // SAFETY: below them are the leaves.
        let leaf = unsafe { node.cast::<Leaf<L>>().as_ref() };
        Some((leaf, leaf.node.rank(address)))
    }

    /// As [`seek`](Self::seek), from the [finger](Self::aim). For who has the tree exclusively: others write where it is.
    #[inline]
    fn seek_near(&self, address: u64) -> Option<(&Leaf<L>, usize)> {
        match self.finger.leaf_for(address) {
            Some(leaf) => {
                // SAFETY: the finger's leaf is alive.
                let leaf = unsafe { leaf.as_ref() };
                Some((leaf, leaf.node.rank(address)))
            }
            None => self.seek(address),
        }
    }

    /// The entry that covers `address`, for who may read beside others. O(log n).
    #[inline]
    pub(super) fn find(&self, address: u64) -> Option<Entry> {
        let (leaf, at) = self.seek(address)?;
        leaf.node.entry(at).filter(|entry| entry.first <= address)
    }

    /// The entry that covers `address`. O(log n), O(1) near the [finger](Self::aim).
    #[inline]
    pub(super) fn find_near(&self, address: u64) -> Option<Entry> {
        self.first_from(address).filter(|entry| entry.first <= address)
    }

    /// The first entry that ends at or after `address`. O(log n), O(1) near the [finger](Self::aim).
    #[inline]
    pub(super) fn first_from(&self, address: u64) -> Option<Entry> {
        let (leaf, at) = self.seek_near(address)?;
        leaf.node.entry(at)
    }

    /// The last entry that ends before `address`. O(log n), mostly O(1) near the [finger](Self::aim).
    pub(super) fn last_before(&self, address: u64) -> Option<Entry> {
        if let Some(leaf) = self.finger.leaf_for(address) {
            // SAFETY: the finger's leaf is alive.
            let node = &unsafe { leaf.as_ref() }.node;
            if let Some(at) = node.rank(address).checked_sub(1) {
                return node.entry(at);
            }
        }
        let mut node = self.root?;
        // The lowest subtree seen that lies before, and its height.
        let mut before = None;
        for height in (0..self.height).rev() {
            // SAFETY: as in `seek`.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            let at = inner.node.rank(address);
            if let Some(link) = at.checked_sub(1).and_then(|at| inner.child(at)) {
                before = Some((link, height));
            }
            match inner.child(at) {
                Some(child) => node = child,
                None => return Self::last_of(before?),
            }
        }
        // SAFETY: as in `seek`.
        let leaf = unsafe { node.cast::<Leaf<L>>().as_ref() };
        match leaf.node.rank(address).checked_sub(1) {
            Some(at) => leaf.node.entry(at),
            None => Self::last_of(before?),
        }
    }

    /// The last entry of a subtree of this height.
    fn last_of((mut node, height): (Link, usize)) -> Option<Entry> {
        for _ in 0..height {
            // SAFETY: as in `seek`.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            node = inner.child(inner.node.len().checked_sub(1)?)?;
        }
        // SAFETY: as in `seek`.
        let leaf = unsafe { node.cast::<Leaf<L>>().as_ref() };
        leaf.node.entry(leaf.node.len().checked_sub(1)?)
    }

    /// The entries that end at or after `address`, in order. O(log n) for the first (O(1) near the [finger](Self::aim)), O(1) for each of the others.
    #[inline]
    pub(super) fn from(&self, address: u64) -> impl Iterator<Item = Entry> + '_ {
        let mut at = self.seek_near(address);
        core::iter::from_fn(move || {
            let (leaf, position) = at?;
            let entry = leaf.node.entry(position)?;
            at = if position + 1 < leaf.node.len() {
                Some((leaf, position + 1))
            } else {
                // SAFETY: the next leaf of a tree is alive as the tree is, which stays borrowed.
                leaf.next.map(|next| (unsafe { next.as_ref() }, 0))
            };
            Some(entry)
        })
    }

    /// Puts the finger at the leaf where an entry with this first address is or belongs: what follows finds it there. O(log n).
    #[inline]
    pub(super) fn aim(&mut self, address: u64) -> Option<NonNull<Leaf<L>>> {
        match self.finger.leaf_for(address) {
            Some(leaf) => Some(leaf),
            None => Self::descend(self.root?, self.height, address, &mut self.finger),
        }
    }

    /// Puts a finger there.
    fn descend(root: Link, height: usize, address: u64, finger: &mut Finger<L, N>) -> Option<NonNull<Leaf<L>>> {
        finger.leaf = None;
        finger.path.len = 0;
        (finger.low, finger.high) = (0, u64::MAX);
        let mut node = root;
        for _ in 0..height {
            // SAFETY: as in `seek`.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            let last = inner.node.len().checked_sub(1)?;
            // What lies behind all goes into the last.
            let at = inner.node.rank(address).min(last);
            if let Some(before) = at.checked_sub(1) {
                finger.low = inner.node.last(before).wrapping_add(1);
            }
            if at < last {
                finger.high = inner.node.last(at);
            }
            finger.path.push(node.cast(), at)?;
            node = inner.child(at)?;
        }
        finger.leaf = Some(node.cast());
        finger.leaf
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
    pub(super) fn nodes_needed(&self, address: u64, count: usize) -> usize {
        if count == 0 {
            return 0;
        }
        let Some(root) = self.root else { return 1 };
        let mut elsewhere = Finger::new();
        let (path, leaf) = match self.finger.leaf_for(address) {
            Some(leaf) => (&self.finger.path, leaf),
            None => match Self::descend(root, self.height, address, &mut elsewhere) {
                Some(leaf) => (&elsewhere.path, leaf),
                None => return 1,
            },
        };
        // SAFETY: nodes of the tree are alive.
        if unsafe { leaf.as_ref() }.node.len() + count <= L {
            return 0;
        }
        count * (1 + self.nodes_above(path, count))
    }

    /// How many inner nodes `count` splits of the leaf at the end of the path take.
    fn nodes_above(&self, path: &Path<N>, count: usize) -> usize {
        let full = |level: &usize| {
            // SAFETY: nodes of the tree are alive.
            path.get(*level).is_some_and(|(node, _)| unsafe { node.as_ref() }.node.len() + count > N)
        };
        let split = (0..path.len).rev().take_while(full).count();
        // If all of them are split, there is a new root.
        split + usize::from(split == path.len)
    }

    /// Puts an entry where it belongs; it overlaps none. False, and no change, if there are not enough nodes. O(log n).
    pub(super) fn insert(&mut self, entry: Entry, nodes: &mut impl Nodes<L, N>) -> bool {
        let sizes = self.sizes;
        if self.root.is_none() {
            let Some(mut leaf) = Self::new_leaf(nodes) else { return false };
            // SAFETY: the leaf was just made.
            unsafe { leaf.as_mut() }.insert(0, entry, &sizes);
            self.root = Some(leaf.cast());
            self.entries = 1;
            return true;
        }
        let Some(mut pointer) = self.aim(entry.first) else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { pointer.as_mut() };
        let at = leaf.node.rank(entry.first);
        if leaf.node.len() < L {
            let changed = leaf.splice(at, 0, &[entry], &sizes);
            self.note(changed);
        } else if !self.insert_into_full(self.finger.path, pointer, at, entry, nodes) {
            return false;
        }
        self.entries += 1;
        true
    }

    /// Whether [`splice`](Self::splice) would put so many entries in the place of `count`. O(log n).
    pub(super) fn can_splice(&mut self, address: u64, count: usize, entries: usize) -> bool {
        let Some(leaf) = self.aim(address) else { return false };
        // SAFETY: nodes of the tree are alive.
        let node = unsafe { &leaf.as_ref().node };
        self.splices(node.len(), node.rank(address), count, entries)
    }

    /// The same, in the finger's leaf of `len` entries, from the one at `at` on.
    #[inline]
    fn splices(&self, len: usize, at: usize, count: usize, entries: usize) -> bool {
        let Some(left) = len.checked_sub(count) else { return false };
        let new = left + entries;
        let is_full_enough = new >= len || new >= Self::LEAF_MINIMUM || self.finger.path.len == 0;
        at <= left && (1..=L).contains(&new) && is_full_enough
    }

    /// Puts other entries, which lie within the gaps around, in the place of `count` of which the first covers `address`. Only where that concerns one leaf, which
    /// stays as full as leaves are: false, and no change, otherwise. Takes no node. O(log n).
    pub(super) fn splice(&mut self, address: u64, count: usize, entries: &[Entry]) -> bool {
        let sizes = self.sizes;
        let Some(mut leaf) = self.aim(address) else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { leaf.as_mut() };
        let (len, at) = (leaf.node.len(), leaf.node.rank(address));
        if !self.splices(len, at, count, entries.len()) {
            return false;
        }
        let changed = leaf.splice(at, count, entries, &sizes);
        self.entries = self.entries - count + entries.len();
        self.note(changed);
        true
    }

    /// Changes the entry that covers `address`: its bounds (within the gaps around it) and what it points to. Gives what it was. O(log n).
    pub(super) fn set(&mut self, address: u64, entry: Entry) -> Option<Entry> {
        let sizes = self.sizes;
        let mut leaf = self.aim(address)?;
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { leaf.as_mut() };
        let at = leaf.node.rank(address);
        let old = leaf.node.entry(at).filter(|old| old.first <= address)?;
        let changed = leaf.splice(at, 1, &[entry], &sizes);
        self.note(changed);
        Some(old)
    }

    /// Takes the entry out that covers `address`. O(log n).
    pub(super) fn remove(&mut self, address: u64, nodes: &mut impl Nodes<L, N>) -> Option<Entry> {
        let sizes = self.sizes;
        let mut pointer = self.aim(address)?;
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { pointer.as_mut() };
        let at = leaf.node.rank(address);
        let old = leaf.node.entry(at).filter(|old| old.first <= address)?;
        let changed = leaf.splice(at, 1, &[], &sizes);
        self.entries -= 1;
        let is_root = self.finger.path.len == 0;
        match leaf.node.len() {
            0 if is_root => {
                (self.root, self.finger.leaf) = (None, None);
                // SAFETY: the leaf was the tree's only node and is forgotten.
                unsafe { nodes.put(pointer.cast()) };
            }
            len if len >= Self::LEAF_MINIMUM || is_root => self.note(changed),
            _ => self.level_leaf(self.finger.path, nodes),
        }
        Some(old)
    }

    /// Entries of the finger's leaf changed, and what is to be said of it, if so told: tells those above.
    #[inline]
    fn note(&mut self, changed: bool) {
        if let (Some(leaf), true) = (self.finger.leaf, changed) {
            // SAFETY: the finger's leaf is alive.
            let summary = unsafe { leaf.as_ref() }.node.summary();
            // The addresses of the last leaf go on to the end of all.
            if self.finger.high != u64::MAX {
                self.finger.high = summary.last;
            }
            self.update(&self.finger.path, summary);
        }
    }

    /// Takes everything out. O(n).
    pub(super) fn clear(&mut self, nodes: &mut impl Nodes<L, N>) {
        self.finger.leaf = None;
        if let Some(root) = self.root.take() {
            // SAFETY: the tree forgets all of its nodes.
            unsafe { Self::free(root, self.height, nodes) };
        }
        (self.height, self.entries) = (0, 0);
    }

    /// Calls itself as often as there are levels.
    ///
    /// # Safety
    /// The node is alive, of this height, and nothing refers to it or to what is below.
    unsafe fn free(node: Link, height: usize, nodes: &mut impl Nodes<L, N>) {
        if height != 0 {
            // SAFETY: only leaves are of height 0.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            for child in (0..inner.node.len()).filter_map(|at| inner.child(at)) {
                // SAFETY: as the caller vouches.
                unsafe { Self::free(child, height - 1, nodes) };
            }
        }
        // SAFETY: as the caller vouches; its children are gone.
        unsafe { nodes.put(node.cast()) };
    }

    fn new_leaf(nodes: &mut impl Nodes<L, N>) -> Option<NonNull<Leaf<L>>> {
        let leaf = nodes.take()?.cast::<Leaf<L>>();
        // SAFETY: the memory is exclusive, and large and aligned enough for either kind.
        unsafe { leaf.write(Leaf::EMPTY) };
        Some(leaf)
    }

    fn new_inner(nodes: &mut impl Nodes<L, N>) -> Option<NonNull<Inner<N>>> {
        let inner = nodes.take()?.cast::<Inner<N>>();
        // SAFETY: as for a leaf.
        unsafe { inner.write(Inner::EMPTY) };
        Some(inner)
    }

    /// A node at the end of the path has this summary now: tells those above, as far as it changes theirs.
    fn update(&self, path: &Path<N>, mut summary: Summary) {
        for level in (0..path.len).rev() {
            let Some((mut parent, at)) = path.get(level) else { return };
            // SAFETY: nodes of the tree are alive, and reached only through it.
            let parent = unsafe { parent.as_mut() };
            if !parent.refresh(at, &summary, &self.sizes) {
                return;
            }
            summary = parent.node.summary();
        }
    }

    /// Reads anew what an inner node keeps of some of its children.
    fn fix(&self, inner: &mut Inner<N>, from: usize, to: usize, leaves: bool) {
        // SAFETY: children are alive, and leaves if the caller says so.
        inner.fix(from, to, &self.sizes, |child| unsafe {
            if leaves { Self::summary_of_leaf(child) } else { Self::summary_of_inner(child) }
        });
    }

    /// Reads anew what an inner node keeps of all of its children.
    fn fix_all(&self, inner: &mut Inner<N>, leaves: bool) {
        self.fix(inner, 0, inner.node.len().saturating_sub(1), leaves);
    }

    /// Inserts into a full leaf: its entries go to a neighbour, or it is split.
    fn insert_into_full(
        &mut self,
        mut path: Path<N>,
        mut pointer: NonNull<Leaf<L>>,
        at: usize,
        entry: Entry,
        nodes: &mut impl Nodes<L, N>,
    ) -> bool {
        let sizes = self.sizes;
        self.finger.leaf = None;
        if self.insert_beside(&mut path, pointer, at, entry) {
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
            Trend::Up => right.insert(0, entry, &sizes),
            Trend::Down => {
                // The leaf before knows this one, so it is this one's content that moves.
                right.take(0, leaf, 0, L);
                leaf.rebuild(&sizes);
                leaf.insert(0, entry, &sizes);
                right.rebuild(&sizes);
            }
            Trend::None => {
                let half = L / 2;
                right.take(0, leaf, half, L - half);
                right.rebuild(&sizes);
                leaf.rebuild(&sizes);
                if at <= half {
                    leaf.insert(at, entry, &sizes);
                } else {
                    right.insert(at - half, entry, &sizes);
                }
            }
        }
        right.next = leaf.next;
        leaf.next = Some(new);
        self.insert_child(path, new.cast(), trend, nodes);
        true
    }

    /// Inserts with the help of a neighbour of the full leaf that has room.
    fn insert_beside(&self, path: &mut Path<N>, mut pointer: NonNull<Leaf<L>>, at: usize, entry: Entry) -> bool {
        let sizes = self.sizes;
        let Some((mut parent, child)) = path.pop() else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it; the neighbours are others than the leaf.
        let (parent, leaf) = unsafe { (parent.as_mut(), pointer.as_mut()) };
        let neighbour = |at: Option<usize>| {
            let link = parent.child(at?)?;
            // SAFETY: as above; the children of a leaf's parent are leaves.
            Some(unsafe { link.cast::<Leaf<L>>().as_mut() })
        };
        if let Some(left) = neighbour(child.checked_sub(1)) {
            let len = left.node.len();
            if at == 0 && len < L {
                left.insert(len, entry, &sizes);
                self.fix(parent, child - 1, child - 1, true);
                let summary = parent.node.summary();
                self.update(path, summary);
                return true;
            }
            if at != 0 && at < L && len + Self::LEAF_GIVES <= L {
                let count = (L - len) / 2;
                left.take(len, leaf, 0, count);
                left.rebuild(&sizes);
                leaf.rebuild(&sizes);
                if at <= count {
                    left.insert(len + at, entry, &sizes);
                } else {
                    leaf.insert(at - count, entry, &sizes);
                }
                self.fix(parent, child - 1, child, true);
                let summary = parent.node.summary();
                self.update(path, summary);
                return true;
            }
        }
        if let Some(right) = neighbour(Some(child + 1)) {
            let len = right.node.len();
            if at != 0 && at < L && len + Self::LEAF_GIVES <= L {
                let count = (L - len) / 2;
                right.take(0, leaf, L - count, count);
                right.rebuild(&sizes);
                leaf.rebuild(&sizes);
                if at <= L - count {
                    leaf.insert(at, entry, &sizes);
                } else {
                    right.insert(at - (L - count), entry, &sizes);
                }
                self.fix(parent, child, child + 1, true);
                let summary = parent.node.summary();
                self.update(path, summary);
                return true;
            }
        }
        let _ = path.push(NonNull::from(parent), child);
        false
    }

    /// Puts a node behind the one at the end of the path, into its parent. The nodes that this takes are there.
    fn insert_child(&mut self, mut path: Path<N>, mut new: Link, trend: Trend, nodes: &mut impl Nodes<L, N>) {
        let mut leaves = true;
        while let Some((mut pointer, child)) = path.pop() {
            // SAFETY: nodes of the tree are alive, and reached only through it.
            let inner = unsafe { pointer.as_mut() };
            let (len, at) = (inner.node.len(), child + 1);
            if len < N {
                inner.insert(at, new);
                self.fix(inner, child, at, leaves);
                let summary = inner.node.summary();
                self.update(&path, summary);
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
                right.take(0, inner, left - 1, N - (left - 1));
                inner.insert(at, new);
            } else {
                right.take(0, inner, left, N - left);
                right.insert(at - left, new);
            }
            self.fix_all(inner, leaves);
            self.fix_all(right, leaves);
            new = split.cast();
            leaves = false;
        }
        let (Some(old), Some(mut root)) = (self.root, Self::new_inner(nodes)) else { return };
        // SAFETY: it was just made, and is nobody else's.
        let inner = unsafe { root.as_mut() };
        inner.insert(0, old);
        inner.insert(1, new);
        self.fix_all(inner, leaves);
        self.root = Some(root.cast());
        self.height += 1;
    }

    /// The leaf at the end of the path has too few entries: joins it with a neighbour, or levels the two.
    fn level_leaf(&mut self, mut path: Path<N>, nodes: &mut impl Nodes<L, N>) {
        let sizes = self.sizes;
        self.finger.leaf = None;
        let Some((mut parent, child)) = path.pop() else { return };
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let inner = unsafe { parent.as_mut() };
        // SAFETY: as above; the children of a leaf's parent are leaves, and these two are different ones.
        let pair = |low: usize| unsafe {
            let (left, right) = (inner.child(low)?.cast::<Leaf<L>>(), inner.child(low + 1)?.cast::<Leaf<L>>());
            Some((low, left, right, left.as_ref().node.len() + right.as_ref().node.len()))
        };
        let pairs = [child.checked_sub(1).and_then(pair), pair(child)];
        if let Some((low, mut left, mut right, _)) = pairs.into_iter().flatten().find(|(.., sum)| *sum <= L) {
            // SAFETY: as above.
            let (into, from) = unsafe { (left.as_mut(), right.as_mut()) };
            into.take(into.node.len(), from, 0, from.node.len());
            into.next = from.next;
            into.rebuild(&sizes);
            inner.remove(low + 1);
            // SAFETY: the leaf before and the parent knew it, and know it no more.
            unsafe { nodes.put(right.cast()) };
            self.fix(inner, low, low, true);
            self.level_inner(path, parent, true, nodes);
            return;
        }
        if let Some((low, mut left, mut right, sum)) = pairs.into_iter().flatten().next() {
            // SAFETY: as above.
            let (left, right) = unsafe { (left.as_mut(), right.as_mut()) };
            let (have, want) = (left.node.len(), sum / 2);
            if have < want {
                left.take(have, right, 0, want - have);
            } else {
                right.take(0, left, want, have - want);
            }
            left.rebuild(&sizes);
            right.rebuild(&sizes);
            self.fix(inner, low, low + 1, true);
        }
        let summary = inner.node.summary();
        self.update(&path, summary);
    }

    /// A child of this node, which is at the end of the path, was taken out: joins it with a neighbour if it has too few, or levels the two.
    fn level_inner(
        &mut self,
        mut path: Path<N>,
        mut pointer: NonNull<Inner<N>>,
        mut leaves: bool,
        nodes: &mut impl Nodes<L, N>,
    ) {
        loop {
            // SAFETY: nodes of the tree are alive, and reached only through it.
            let node = unsafe { pointer.as_mut() };
            let Some((mut parent, child)) = path.pop() else {
                // The root: with one child, that is the root.
                if let (1, Some(root)) = (node.node.len(), node.child(0)) {
                    self.root = Some(root);
                    self.height -= 1;
                    // SAFETY: the tree knew it as its root only.
                    unsafe { nodes.put(pointer.cast()) };
                }
                return;
            };
            // SAFETY: as above.
            let inner = unsafe { parent.as_mut() };
            if node.node.len() >= Self::INNER_MINIMUM {
                let summary = node.node.summary();
                let _ = path.push(parent, child);
                self.update(&path, summary);
                return;
            }
            // SAFETY: as above; these are children of an inner node that has inner nodes as children, and different ones.
            let pair = |low: usize| unsafe {
                let (left, right) = (inner.child(low)?.cast::<Inner<N>>(), inner.child(low + 1)?.cast::<Inner<N>>());
                Some((low, left, right, left.as_ref().node.len() + right.as_ref().node.len()))
            };
            let pairs = [child.checked_sub(1).and_then(pair), pair(child)];
            if let Some((low, mut left, mut right, _)) = pairs.into_iter().flatten().find(|(.., sum)| *sum <= N) {
                // SAFETY: as above.
                let (into, from) = unsafe { (left.as_mut(), right.as_mut()) };
                into.take(into.node.len(), from, 0, from.node.len());
                self.fix_all(into, leaves);
                inner.remove(low + 1);
                // SAFETY: the parent knew it, and knows it no more.
                unsafe { nodes.put(right.cast()) };
                self.fix(inner, low, low, false);
                (pointer, leaves) = (parent, false);
                continue;
            }
            if let Some((low, mut left, mut right, sum)) = pairs.into_iter().flatten().next() {
                // SAFETY: as above.
                let (left, right) = unsafe { (left.as_mut(), right.as_mut()) };
                let (have, want) = (left.node.len(), sum / 2);
                if have < want {
                    left.take(have, right, 0, want - have);
                } else {
                    right.take(0, left, want, have - want);
                }
                self.fix_all(left, leaves);
                self.fix_all(right, leaves);
                self.fix(inner, low, low + 1, false);
            }
            let summary = inner.node.summary();
            self.update(&path, summary);
            return;
        }
    }
}
