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
//! - What an inner node keeps of a child (last address, largest gaps; the first address of the first one) is what the child says. Gaps between two children are
//!   kept by the lowest node that is above both, so a change touches the ancestors of the leaf that is changed, as far up as it shows there.
//! - Where a removal leaves less than half of a node, it is joined with a neighbour, or the two are levelled (`level.rs`).
//! - A full leaf gives some of its entries to a neighbour that has room for twice as many, or is halved. Entries that come in
//!   order, upwards or downwards, leave full leaves behind (`split.rs`).
//!
//! Nodes come from [`Nodes`] and go back there: the tree never allocates. Who has it exclusively finds what is near its finger without a descent (`finger.rs`).

use core::ptr::NonNull;

use crate::vm_space::index::finger::{COLD_HEIGHT, Finger, Path};
use crate::vm_space::index::gap::LeafSizes;
use crate::vm_space::index::inner::Inner;
use crate::vm_space::index::leaf::{Changed, Leaf};
use crate::vm_space::index::node::{Entry, Link, Summary};

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

/// A tree with up to `L` entries in a leaf and `N` children of an inner node.
pub(super) struct Tree<const L: usize, const N: usize> {
    pub(super) root: Option<Link>,
    /// How many levels of inner nodes there are.
    pub(super) height: usize,
    entries: usize,
    pub(super) sizes: LeafSizes,
    pub(super) finger: Finger<L, N>,
}

impl<const L: usize, const N: usize> Tree<L, N> {
    /// Leaves with fewer entries are joined or levelled with a neighbour.
    pub(super) const LEAF_MINIMUM: usize = L / 2;

    pub(super) const fn new(sizes: LeafSizes) -> Self {
        Self { root: None, height: 0, entries: 0, sizes, finger: Finger::new() }
    }

    pub(super) const fn sizes(&self) -> &LeafSizes {
        &self.sizes
    }

    /// How many entries there are.
    #[cfg(any(test, feature = "posix"))]
    pub(super) const fn len(&self) -> usize {
        self.entries
    }

    pub(super) const fn height(&self) -> usize {
        self.height
    }

    /// The root and what is to be said of it.
    pub(super) fn root(&self) -> Option<(Link, Summary)> {
        let root = self.root?;
        // SAFETY: the root is alive and of the tree's height.
        Some((root, unsafe { Self::summary(root, self.height) }))
    }

    /// # Safety
    /// The node is alive and of this height.
    #[inline]
    pub(super) unsafe fn summary(node: Link, height: usize) -> Summary {
        // SAFETY: as the caller vouches; nodes of height 0 are leaves, and all others inner nodes.
        unsafe {
            match height {
                0 => node.cast::<Leaf<L>>().as_ref().summary(),
                _ => node.cast::<Inner<N>>().as_ref().summary(),
            }
        }
    }

    /// The leaf where an entry at this address is or belongs.
    #[inline]
    fn seek(&self, address: u64) -> Option<&Leaf<L>> {
        let mut node = self.root?;
        for _ in 0..self.height {
            // SAFETY: nodes of the tree are alive, and there are as many levels of inner nodes.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            node = inner.child(inner.rank(address))?;
        }
        // SAFETY: below them are the leaves.
        Some(unsafe { node.cast::<Leaf<L>>().as_ref() })
    }

    /// As [`seek`](Self::seek), from the [finger](Self::aim). For who has the tree exclusively: others write where it is.
    #[inline]
    fn seek_near(&self, address: u64) -> Option<&Leaf<L>> {
        match self.finger.leaf_for(address) {
            // SAFETY: the finger's leaf is alive.
            Some(leaf) => Some(unsafe { leaf.as_ref() }),
            None => self.seek(address),
        }
    }

    /// The entry that covers `address`, for who may read beside others. O(log n).
    #[inline]
    pub(super) fn find(&self, address: u64) -> Option<Entry> {
        let leaf = self.seek(address)?;
        if self.height >= COLD_HEIGHT {
            leaf.touch();
        }
        leaf.covering(address)
    }

    /// The entry that covers `address`. O(log n), O(1) near the [finger](Self::aim).
    #[inline]
    pub(super) fn find_near(&self, address: u64) -> Option<Entry> {
        self.seek_near(address)?.covering(address)
    }

    /// The first entry that ends at or after `address`. O(log n), O(1) near the [finger](Self::aim).
    #[inline]
    pub(super) fn first_from(&self, address: u64) -> Option<Entry> {
        let leaf = self.seek_near(address)?;
        leaf.entry(leaf.rank(address))
    }

    /// The last entry that ends before `address`. O(log n), mostly O(1) near the [finger](Self::aim).
    pub(super) fn last_before(&self, address: u64) -> Option<Entry> {
        if let Some(leaf) = self.finger.leaf_for(address) {
            // SAFETY: the finger's leaf is alive.
            let leaf = unsafe { leaf.as_ref() };
            if let Some(at) = leaf.rank(address).checked_sub(1) {
                return leaf.entry(at);
            }
        }
        let mut node = self.root?;
        // The lowest subtree seen that lies before, and its height.
        let mut before = None;
        for height in (0..self.height).rev() {
            // SAFETY: as in `seek`.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            let at = inner.rank(address);
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
        match leaf.rank(address).checked_sub(1) {
            Some(at) => leaf.entry(at),
            None => Self::last_of(before?),
        }
    }

    /// The last entry of a subtree of this height.
    fn last_of((mut node, height): (Link, usize)) -> Option<Entry> {
        for _ in 0..height {
            // SAFETY: as in `seek`.
            let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
            node = inner.child(inner.len().checked_sub(1)?)?;
        }
        // SAFETY: as in `seek`.
        let leaf = unsafe { node.cast::<Leaf<L>>().as_ref() };
        leaf.entry(leaf.len().checked_sub(1)?)
    }

    /// The entries that end at or after `address`, in order. O(log n) for the first (O(1) near the [finger](Self::aim)), O(1) for each of the others.
    #[inline]
    pub(super) fn from(&self, address: u64) -> impl Iterator<Item = Entry> + '_ {
        let mut at = self.seek_near(address).map(|leaf| (leaf, leaf.rank(address)));
        core::iter::from_fn(move || {
            let (leaf, position) = at?;
            let entry = leaf.entry(position)?;
            at = if position + 1 < leaf.len() {
                Some((leaf, position + 1))
            } else {
                // SAFETY: the next leaf of a tree is alive as the tree is, which stays borrowed.
                leaf.next.map(|next| (unsafe { next.as_ref() }, 0))
            };
            Some(entry)
        })
    }

    /// Puts an entry where it belongs; it overlaps none. False, and no change, if there are not enough nodes. O(log n).
    pub(super) fn insert(&mut self, entry: Entry, nodes: &mut impl Nodes<L, N>) -> bool {
        if self.root.is_none() {
            let Some(mut leaf) = Self::new_leaf(nodes) else { return false };
            // SAFETY: the leaf was just made.
            unsafe { leaf.as_mut() }.insert(0, entry, &self.sizes);
            self.root = Some(leaf.cast());
            self.entries = 1;
            return true;
        }
        let Some(mut pointer) = self.aim(entry.first) else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { pointer.as_mut() };
        let at = leaf.rank(entry.first);
        if leaf.len() < L {
            let changed = leaf.insert(at, entry, &self.sizes);
            self.note(leaf, changed);
        } else if !self.insert_into_full(pointer, at, entry, nodes) {
            return false;
        }
        self.entries += 1;
        true
    }

    /// Whether [`splice`](Self::splice) would put so many entries in the place of `count`. O(log n).
    pub(super) fn can_splice(&mut self, address: u64, count: usize, entries: usize) -> bool {
        let Some(leaf) = self.aim(address) else { return false };
        // SAFETY: nodes of the tree are alive.
        let leaf = unsafe { leaf.as_ref() };
        self.splices(leaf.len(), leaf.rank(address), count, entries)
    }

    /// The same, in the finger's leaf of `len` entries, from the one at `at` on.
    #[inline]
    fn splices(&self, len: usize, at: usize, count: usize, entries: usize) -> bool {
        let Some(left) = len.checked_sub(count) else { return false };
        let new = left + entries;
        let is_full_enough = new >= len || new >= Self::LEAF_MINIMUM || self.finger.is_root();
        at <= left && (1..=L).contains(&new) && is_full_enough
    }

    /// Puts other entries, which lie within the gaps around, in the place of `count` of which the first covers `address`. Only where that concerns one leaf, which
    /// stays as full as leaves are: false, and no change, otherwise. Takes no node. O(log n).
    pub(super) fn splice(&mut self, address: u64, count: usize, entries: &[Entry]) -> bool {
        let Some(mut leaf) = self.aim(address) else { return false };
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { leaf.as_mut() };
        let (len, at) = (leaf.len(), leaf.rank(address));
        if !self.splices(len, at, count, entries.len()) {
            return false;
        }
        let changed = leaf.splice(at, count, entries, &self.sizes);
        self.note(leaf, changed);
        self.entries = self.entries - count + entries.len();
        true
    }

    /// Changes the entry that covers `address`: its bounds (within the gaps around it) and what it points to. Gives what it was. O(log n).
    pub(super) fn set(&mut self, address: u64, entry: Entry) -> Option<Entry> {
        let mut leaf = self.aim(address)?;
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { leaf.as_mut() };
        let at = leaf.rank(address);
        let old = leaf.entry(at).filter(|old| old.first <= address)?;
        let changed = leaf.splice(at, 1, &[entry], &self.sizes);
        self.note(leaf, changed);
        Some(old)
    }

    /// Takes the entry out that covers `address`. O(log n).
    pub(super) fn remove(&mut self, address: u64, nodes: &mut impl Nodes<L, N>) -> Option<Entry> {
        let mut pointer = self.aim(address)?;
        // SAFETY: nodes of the tree are alive, and reached only through it.
        let leaf = unsafe { pointer.as_mut() };
        let at = leaf.rank(address);
        let old = leaf.entry(at).filter(|old| old.first <= address)?;
        self.entries -= 1;
        let is_root = self.finger.is_root();
        if leaf.len() > Self::LEAF_MINIMUM || (is_root && leaf.len() > 1) {
            let changed = leaf.remove(at, &self.sizes);
            self.note(leaf, changed);
        } else if is_root {
            (self.root, self.finger.leaf) = (None, None);
            // SAFETY: the leaf was the tree's only node and is forgotten.
            unsafe { nodes.put(pointer.cast()) };
        } else {
            leaf.remove(at, &self.sizes);
            self.level(nodes);
        }
        Some(old)
    }

    /// Entries of the finger's leaf changed: tells the nodes above as far as it shows there.
    #[inline]
    fn note(&mut self, leaf: &Leaf<L>, changed: Changed) {
        if changed.shows {
            let now = leaf.summary();
            self.finger.note_last(now.last);
            self.update(&self.finger.path, changed.first, now);
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
            for child in (0..inner.len()).filter_map(|at| inner.child(at)) {
                // SAFETY: as the caller vouches.
                unsafe { Self::free(child, height - 1, nodes) };
            }
        }
        // SAFETY: as the caller vouches; its children are gone.
        unsafe { nodes.put(node.cast()) };
    }

    pub(super) fn new_leaf(nodes: &mut impl Nodes<L, N>) -> Option<NonNull<Leaf<L>>> {
        let leaf = nodes.take()?.cast::<Leaf<L>>();
        // SAFETY: the memory is exclusive, and large and aligned enough for either kind.
        unsafe { leaf.write(Leaf::EMPTY) };
        Some(leaf)
    }

    pub(super) fn new_inner(nodes: &mut impl Nodes<L, N>) -> Option<NonNull<Inner<N>>> {
        let inner = nodes.take()?.cast::<Inner<N>>();
        // SAFETY: as for a leaf.
        unsafe { inner.write(Inner::EMPTY) };
        Some(inner)
    }

    /// A node at the end of the path is this now, and may have another first address than before, if so told: tells those above, as far as it changes theirs.
    pub(super) fn update(&self, path: &Path<N>, mut moved_first: bool, mut now: Summary) {
        for level in (0..path.len()).rev() {
            let Some((mut parent, at)) = path.get(level) else { return };
            // SAFETY: nodes of the tree are alive, and reached only through it.
            let parent = unsafe { parent.as_mut() };
            let before = parent.summary();
            let height = self.height - 1 - level;
            // SAFETY: children are alive; the root is of the tree's height, and each level below it of one less.
            parent.refresh(at, moved_first, &now, &self.sizes, |child| unsafe { Self::summary(child, height) });
            now = parent.summary();
            if before == now {
                return;
            }
            moved_first = before.first != now.first;
        }
    }

    /// Reads anew what an inner node, with children of this height, keeps of some of them.
    pub(super) fn fix(&self, inner: &mut Inner<N>, from: usize, to: usize, height: usize) {
        // SAFETY: children are alive, and of the height that the caller says.
        inner.fix(from, to, &self.sizes, |child| unsafe { Self::summary(child, height) });
    }

    /// Reads anew what an inner node keeps of all of its children.
    pub(super) fn fix_all(&self, inner: &mut Inner<N>, height: usize) {
        self.fix(inner, 0, inner.len().saturating_sub(1), height);
    }
}
