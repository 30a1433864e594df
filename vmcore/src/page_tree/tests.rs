//! Tests of [`PageTree`](super::PageTree): against `BTreeMap`, with shared trees, counted nodes and values, and
//! stores that fail. After every step the whole structure is walked and each node and value accounted for.

use super::find::{contains, last_key};
use super::node::{Entry, Link, Shift, SlotIndex};
use super::share::for_each;
use super::*;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use proptest::prelude::*;
use std::alloc::Layout;
use std::boxed::Box;
use std::collections::{BTreeMap, HashMap};
use std::vec;
use std::vec::Vec;

pub(crate) mod runs;
#[cfg(test)]
mod split;

/// A store that knows each node that is out and how often each value is held.
#[derive(Default)]
struct Store {
    nodes: HashMap<NonNull<Node>, NodeSize>,
    /// How many more nodes it gives.
    node_budget: Option<usize>,
    taken: usize,
    /// What was taken since this was last set to none.
    taken_by_size: NodesNeeded,
    held: HashMap<u64, usize>,
    /// How many more values it duplicates.
    duplicate_budget: Option<usize>,
    next_value: u64,
}

impl Store {
    /// A value that is held once.
    fn value(&mut self) -> u64 {
        self.next_value += 1;
        self.held.insert(self.next_value, 1);
        self.next_value
    }

    fn finish(self) {
        assert!(self.nodes.is_empty(), "{} nodes leaked", self.nodes.len());
        assert!(self.held.is_empty(), "{} values leaked", self.held.len());
    }
}

fn spend(budget: &mut Option<usize>) -> bool {
    match budget {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

// SAFETY: each node is a block of its own from the host's allocator until it is given back.
unsafe impl NodeStore for Store {
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        if !spend(&mut self.node_budget) {
            return Err(OutOfNodes::new());
        }
        self.taken += 1;
        self.taken_by_size.add(size, 1);
        // SAFETY: a node's size is not zero.
        let node: NonNull<u8> = NonNull::new(unsafe { std::alloc::alloc(layout(size)) }).unwrap();
        // Whatever is in it, the tree must not rely on it.
        // SAFETY: the block is so large.
        unsafe { node.write_bytes(0xa5, size.bytes()) };
        assert!(self.nodes.insert(node.cast(), size).is_none());
        Ok(node.cast())
    }

    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        assert_eq!(self.nodes.remove(&node), Some(size), "given back twice, never taken, or with another size");
        // SAFETY: it was out, so it came from `take` above.
        unsafe { std::alloc::dealloc(node.as_ptr().cast(), layout(size)) }
    }
}

fn layout(size: NodeSize) -> Layout {
    Layout::from_size_align(size.bytes(), NodeSize::ALIGN).unwrap()
}

impl ValueOwner<u64> for Store {
    fn duplicate(&mut self, value: u64) -> Result<u64, CannotDuplicate> {
        if !spend(&mut self.duplicate_budget) {
            return Err(CannotDuplicate::new());
        }
        *self.held.get_mut(&value).unwrap() += 1;
        Ok(value)
    }

    fn discard(&mut self, value: u64) {
        let count = self.held.get_mut(&value).expect("a value that nobody holds");
        *count -= 1;
        if *count == 0 {
            self.held.remove(&value);
        }
    }

    fn split_run(&mut self, first: u64, count: u64, part: u64) -> Result<(), CannotDuplicate> {
        // Only its sole owner may split a run: the others count on its first value.
        if self.held[&first] != 1 || !spend(&mut self.duplicate_budget) {
            return Err(CannotDuplicate::new());
        }
        for value in (first..first + count).step_by(usize::try_from(part).unwrap()).skip(1) {
            assert!(self.held.insert(value, 1).is_none());
        }
        Ok(())
    }
}

impl TreeValue for u64 {
    fn into_bits(self) -> NonZeroU64 {
        NonZeroU64::new(self).expect("values of these tests are not zero")
    }
    fn from_bits(bits: NonZeroU64) -> Self {
        bits.get()
    }
    fn advance(self, pages: u64) -> Self {
        self + pages
    }
}

fn new_tree() -> PageTree<u64> {
    // SAFETY: each test has one store; all stores give their nodes back to the host's one allocator.
    unsafe { PageTree::new() }
}

/// Walks trees, checks every invariant of every node, and that the store's books agree with what is there.
fn check<'a>(trees: impl IntoIterator<Item = &'a PageTree<u64>>, store: &Store) {
    #[derive(Default)]
    struct Seen {
        holders: HashMap<NonNull<Node>, (usize, Link)>,
        values: HashMap<u64, usize>,
    }
    /// The number of values below.
    fn walk(link: Link, seen: &mut Seen) -> u64 {
        let shift = link.shift();
        let first_visit = {
            let entry = seen.holders.entry(link.pointer()).or_insert((0, link));
            entry.0 += 1;
            assert!(entry.1 == link, "all links to a node say the same of it");
            entry.0 == 1
        };
        // SAFETY: the node is reachable from a tree, and no tree is changed meanwhile.
        let node = unsafe { link.node() };
        assert_eq!(node.base() & shift.node_mask(), 0, "the base is aligned");
        assert!(node.count() <= node.size().slots());
        assert_eq!(node.runs() & !(node.present() & node.full()), 0, "runs are present and full");
        if link.is_direct() {
            assert!(node.size() == NodeSize::Full && node.runs() == 0);
            for_each(!node.present(), |index| {
                // SAFETY: the link is direct.
                let absent = unsafe {
                    if shift.is_leaf() {
                        link.direct_value(index).is_none()
                    } else {
                        link.direct_child(index).is_none()
                    }
                };
                assert!(absent, "absent slots are zero");
            });
        }
        if shift.is_leaf() {
            assert_ne!(node.present(), 0, "a leaf is not empty");
            assert_eq!((node.present(), node.runs()), (node.full(), 0));
            if first_visit {
                for_each(node.present(), |index| {
                    // SAFETY: it is a leaf, and the slot is present.
                    *seen.values.entry(unsafe { node.value(index) }.get()).or_default() += 1;
                });
            }
            return u64::from(node.count());
        }
        assert!(node.count() >= 2 || node.runs() != 0, "no chain of single children");
        let mut below = 0;
        for number in 0..64 {
            let index = SlotIndex::lowest(1 << number);
            let child = match node.entry(index) {
                Entry::Absent => {
                    assert_eq!(node.full() & index.bit(), 0);
                    continue;
                }
                Entry::Value(bits) => {
                    if first_visit {
                        *seen.values.entry(bits.get()).or_default() += 1;
                    }
                    below += shift.slot_mask() + 1;
                    continue;
                }
                Entry::Child(child) => child,
            };
            assert!(child.shift() < shift, "levels descend");
            // SAFETY: as for the node.
            let beneath = unsafe { child.node() };
            assert!(contains(node, beneath.base()));
            assert!(contains(node, last_key(beneath)));
            assert_eq!(SlotIndex::of(beneath.base(), shift), index, "in the slot of its keys");
            let full = child.shift().above() == shift && beneath.full() == u64::MAX;
            assert_eq!(node.full() & index.bit() != 0, full, "the full bit of slot {number}");
            if first_visit {
                below += walk(child, seen);
            } else {
                below += count(child);
            }
        }
        below
    }
    fn count(link: Link) -> u64 {
        // SAFETY: as in `walk`.
        let node = unsafe { link.node() };
        if link.shift().is_leaf() {
            return u64::from(node.present().count_ones());
        }
        let mut total = 0;
        for_each(node.present(), |index| match node.entry(index) {
            Entry::Child(child) => total += count(child),
            Entry::Value(_) => total += node.shift().slot_mask() + 1,
            Entry::Absent => {}
        });
        total
    }
    let mut seen = Seen::default();
    for tree in trees {
        assert_eq!(if tree.root.is_none() { 0 } else { walk(tree.root, &mut seen) }, tree.len());
    }
    for (node, (holders, link)) in &seen.holders {
        // SAFETY: as in `walk`.
        let size = unsafe { link.node() }.size();
        assert_eq!(store.nodes.get(node), Some(&size), "a node that is not out, or with another size");
        // SAFETY: as in `walk`.
        let references = unsafe { link.node() }.references().load(crate::word::Ordering::Relaxed);
        assert_eq!(references, *holders, "the count of holders");
    }
    assert_eq!(seen.holders.len(), store.nodes.len(), "no node leaked");
    assert_eq!(seen.values, store.held, "each value is held by as many leaf slots as it counts");
}

/// The bytes of all nodes with their share of the pool pages of 4 KiB, 64 bytes of which are bookkeeping.
fn packed_bytes(tree: &PageTree<u64>, store: &Store) -> u64 {
    assert_eq!(tree.node_bytes(), store.nodes.values().map(|size| size.bytes() as u64).sum::<u64>());
    NodeSize::ALL
        .into_iter()
        .map(|size| {
            let nodes = store.nodes.values().filter(|&&of| of == size).count() as u64;
            (nodes * 4096).div_ceil((4096 - 64) / size.bytes() as u64)
        })
        .sum()
}

#[test]
fn sparse_keys_take_small_nodes() {
    let mut store = Store::default();
    let mut tree = new_tree();
    for key in (0..4096 * 512).step_by(512) {
        let value = store.value();
        tree.insert(key, value, &mut store).unwrap();
    }
    check([&tree], &store);
    let bytes = packed_bytes(&tree, &store);
    assert!(bytes <= 100 * tree.len(), "{} bytes for each key", bytes / tree.len());
    tree.clear(&mut store);
    // A small area is one small node.
    let mut tree = dense(3, &mut store);
    assert_eq!(tree.node_bytes(), 64);
    let value = store.value();
    tree.insert(3, value, &mut store).unwrap();
    assert_eq!((tree.node_bytes(), tree.node_count()), (192, 1));
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

fn dense(count: u64, store: &mut Store) -> PageTree<u64> {
    let mut tree = new_tree();
    for key in 0..count {
        let value = store.value();
        tree.insert(key, value, store).unwrap();
    }
    tree
}

#[test]
fn tree_second_lookup_same_page() {
    let mut store = Store::default();
    let mut tree = new_tree();
    let mut made = 0;
    for key in [0, 5, 63, 64, 4095, 4096, 1 << 40, u64::MAX] {
        let mut lookup = |tree: &mut PageTree<u64>, store: &mut Store| {
            tree.get_or_insert_with(key, store, |store| {
                made += 1;
                Ok::<u64, TreeError>(store.value())
            })
            .unwrap()
        };
        let first = lookup(&mut tree, &mut store);
        assert_eq!(lookup(&mut tree, &mut store), first);
        assert_eq!(tree.get(key), Some(first));
        assert_eq!(tree.get(key), Some(first));
    }
    assert_eq!((made, tree.len()), (8, 8));
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn tree_node_count_dense() {
    let mut store = Store::default();
    let mut tree = dense(64, &mut store);
    assert_eq!(tree.node_count(), 1, "a small area is one node");
    tree.clear(&mut store);
    let mut tree = dense(4096, &mut store);
    assert_eq!(tree.node_count(), 65);
    check([&tree], &store);
    assert!(packed_bytes(&tree, &store) * 2 <= 19 * tree.len(), "at most 9.5 bytes for each key");
    assert_eq!(tree.next_absent(0), Some(4096));
    // Filled in another order, and where nothing is aligned, it is the same tree.
    tree.clear(&mut store);
    for key in (0..4096).rev().chain(8000..8100) {
        let value = store.value();
        tree.insert(key, value, &mut store).unwrap();
    }
    assert_eq!(tree.next_absent(17), Some(4096));
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn tree_empty_slot_is_absent() {
    let mut store = Store::default();
    let mut tree = new_tree();
    assert_eq!(tree.get(0), None);
    // The slots around a value hold none, whatever its bits.
    let mut plain = Context { nodes: &mut store, values: &mut Uncounted };
    tree.insert(7, u64::MAX, &mut plain).unwrap();
    assert_eq!(tree.get(7), Some(u64::MAX));
    for key in (0..7).chain(8..200).chain([7 + 64, 7 + (1 << 60), u64::MAX]) {
        assert_eq!(tree.get(key), None, "{key:#x}");
        assert!(!tree.contains_key(key));
        assert!(!tree.is_sole_owner(key));
    }
    assert_eq!(tree.remove(7, &mut plain), Ok(Some(u64::MAX)));
    assert_eq!(tree.get(7), None);
    assert_eq!(tree.node_count(), 0);
    tree.clear(&mut plain);
    store.finish();
}

#[test]
fn tree_drop_frees_every_frame() {
    let mut store = Store::default();
    let mut tree = new_tree();
    for key in (0..500).chain((0..60).map(|power| 1 << power)).chain([u64::MAX]) {
        let value = store.value();
        if let Some(old) = tree.insert(key, value, &mut store).unwrap() {
            store.discard(old);
        }
    }
    let mut other = tree.share().unwrap();
    let value = store.value();
    other.insert(1000, value, &mut store).unwrap();
    check([&tree, &other], &store);
    tree.clear(&mut store);
    assert!(tree.is_empty());
    check([&other], &store);
    other.clear(&mut store);
    store.finish();
}

#[test]
fn iterate_empty() {
    let tree = new_tree();
    assert_eq!(tree.iter().next(), None);
    assert_eq!(tree.iter().next_back(), None);
    assert_eq!(tree.next_present(0), None);
    assert_eq!(tree.previous_present(u64::MAX), None);
    assert_eq!(tree.next_absent(u64::MAX), Some(u64::MAX));
    assert_eq!(tree.first_free_run(.., 1 << 40), Some(0));
    let mut store = Store::default();
    let mut tree = dense(3, &mut store);
    #[expect(clippy::reversed_empty_ranges)]
    let reversed = tree.range(2..1).next();
    assert_eq!(reversed, None);
    assert_eq!(tree.range(1..1).next_back(), None);
    assert_eq!(tree.range((Bound::Excluded(u64::MAX), Bound::Unbounded)).next(), None);
    assert_eq!(tree.remove_range(5..5, &mut store, |_, _, _| unreachable!()), Ok(0));
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn depth_follows_spread_not_width() {
    let mut store = Store::default();
    let mut tree = new_tree();
    let far = 0xfeed_beef_0000_0000;
    for key in far..far + 64 {
        let value = store.value();
        tree.insert(key, value, &mut store).unwrap();
    }
    assert_eq!(tree.node_count(), 1);
    let value = store.value();
    assert_eq!(tree.nodes_needed_to_insert(0).total(), 2);
    tree.insert(0, value, &mut store).unwrap();
    assert_eq!(tree.node_count(), 3, "a branch and a leaf, whatever lies between");
    assert_eq!(tree.next_absent(far), Some(far + 64), "the full leaf fills a part of its slot only");
    check([&tree], &store);
    // The chain is taken away again with the key that needed it.
    store.discard(value);
    assert_eq!(tree.remove(0, &mut store), Ok(Some(value)));
    assert_eq!(tree.node_count(), 1);
    tree.clear(&mut store);
    // The deepest path that there is: each key parts from the first one a level further down.
    for level in 0..Shift::LEVELS {
        let value = store.value();
        tree.insert(1 << (6 * level), value, &mut store).unwrap();
    }
    let value = store.value();
    tree.insert(0, value, &mut store).unwrap();
    check([&tree], &store);
    let mut other = tree.share().unwrap();
    assert_eq!(other.nodes_needed_to_insert(0).total(), Shift::LEVELS);
    assert_eq!(other.nodes_needed_to_remove_range(0..=0).total(), Shift::LEVELS);
    other.clear(&mut store);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn a_write_copies_only_its_path() {
    let mut store = Store::default();
    let mut tree = dense(4096, &mut store);
    let mut other = tree.share().unwrap();
    assert!(!tree.is_sole_owner(100) && !other.is_sole_owner(100));
    assert_eq!(other.nodes_needed_to_insert(100).of(NodeSize::Full), 2);
    store.taken = 0;
    let value = store.value();
    let old = other.insert(100, value, &mut store).unwrap().unwrap();
    assert_eq!(store.taken, 2, "the root and a leaf");
    assert_eq!(tree.get(100), Some(old));
    store.discard(old);
    assert!(other.is_sole_owner(100) && other.is_sole_owner(64));
    assert!(!other.is_sole_owner(200), "its leaf is held by both roots");
    // The original leaf of 100 is held by the first tree only, although the second one copied it.
    assert!(tree.is_sole_owner(100) && !tree.is_sole_owner(200));
    let owns = |tree: &PageTree<u64>, key| tree.get_with_ownership(key).map(|(_, sole)| sole);
    assert_eq!((owns(&other, 100), owns(&other, 200), owns(&tree, 100)), (Some(true), Some(false), Some(true)));
    assert_eq!((owns(&tree, 200), owns(&tree, 4096), owns(&tree, 100 + (1 << 30))), (Some(false), None, None));
    assert_eq!(tree.nodes_needed_to_insert(100).total(), 0);
    assert_eq!(tree.nodes_needed_to_insert(200).total(), 1);
    check([&tree, &other], &store);
    // A range that covers leaves whole lets go of them without copying.
    store.taken = 0;
    let mut shared = 0;
    other
        .remove_range(640..1280, &mut store, |_, _, removed| shared += u64::from(matches!(removed, Removed::Shared(_))))
        .unwrap();
    assert_eq!((store.taken, shared), (0, 640));
    check([&tree, &other], &store);
    tree.clear(&mut store);
    check([&other], &store);
    assert!(other.is_sole_owner(200));
    other.clear(&mut store);
    store.finish();
}

#[test]
fn next_absent_behind_much() {
    let mut store = Store::default();
    let mut tree = dense(64 * 64 * 65, &mut store);
    check([&tree], &store);
    assert_eq!(tree.next_absent(0), Some(64 * 64 * 65));
    assert_eq!(tree.first_free_run(.., 10), Some(64 * 64 * 65));
    assert_eq!(tree.first_free_run(..64 * 64 * 65, 1), None);
    let hole = 64 * 64 * 40 + 5;
    let value = tree.remove(hole, &mut store).unwrap().unwrap();
    store.discard(value);
    assert_eq!(tree.next_absent(0), Some(hole));
    assert_eq!(tree.next_absent(hole + 1), Some(64 * 64 * 65));
    assert_eq!(tree.first_free_run(.., 2), Some(64 * 64 * 65));
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn absent_beyond_the_last_key() {
    let mut store = Store::default();
    let mut tree = new_tree();
    for key in u64::MAX - 100..=u64::MAX {
        let value = store.value();
        tree.insert(key, value, &mut store).unwrap();
    }
    assert_eq!(tree.next_absent(u64::MAX - 100), None);
    assert_eq!(tree.next_absent(u64::MAX), None);
    assert_eq!(tree.first_free_run(u64::MAX - 200.., 100), Some(u64::MAX - 200));
    assert_eq!(tree.first_free_run(u64::MAX - 200.., 101), None);
    assert_eq!(tree.first_free_run(u64::MAX - 50.., u64::MAX), None);
    assert_eq!(tree.iter().next_back().map(|entry| entry.0), Some(u64::MAX));
    assert_eq!(tree.iter().count(), 101);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn absent_after_a_child_that_ends_within_its_slot() {
    let mut store = Store::default();
    let mut tree = new_tree();
    // The leaf of the second key hangs in the root's last slot and spans a part of it only: no slot comes
    // after it, and yet the next key is absent.
    let last = u64::MAX - 64;
    for key in [0, last] {
        let value = store.value();
        tree.insert(key, value, &mut store).unwrap();
    }
    assert_eq!(tree.next_absent(last), Some(last + 1));
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn trees_cross_threads() {
    // Two CPUs write to trees that share nodes, and let go of them, in any order.
    #[derive(Clone, Copy)]
    struct Heap;
    // SAFETY: each node is a block of its own from the host's allocator until it is given back.
    unsafe impl NodeStore for Heap {
        fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
            // SAFETY: a node's size is not zero.
            Ok(NonNull::new(unsafe { std::alloc::alloc(layout(size)) }.cast()).unwrap())
        }
        unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
            // SAFETY: it came from `take`, as the caller promises.
            unsafe { std::alloc::dealloc(node.as_ptr().cast(), layout(size)) }
        }
    }
    for _ in 0..20 {
        let mut heap = Heap;
        let mut context = Context { nodes: &mut heap, values: &mut Uncounted };
        let mut tree = new_tree();
        for key in 0..2000 {
            tree.insert(key, key + 1, &mut context).unwrap();
        }
        let threads: Vec<_> = (1..3)
            .map(|number| {
                let mut mine = tree.share().unwrap();
                std::thread::spawn(move || {
                    let mut heap = Heap;
                    let mut context = Context { nodes: &mut heap, values: &mut Uncounted };
                    for key in (0..2000).step_by(7) {
                        mine.insert(key, key * number + 1, &mut context).unwrap();
                    }
                    let right =
                        mine.iter().all(|(key, value)| value == 1 + if key % 7 == 0 { key * number } else { key });
                    mine.clear(&mut context);
                    right
                })
            })
            .collect();
        tree.remove_range(500..1500, &mut context, |_, _, _| ()).unwrap();
        assert_eq!(tree.len(), 1000);
        for thread in threads {
            assert!(thread.join().unwrap());
        }
        assert!(tree.iter().all(|(key, value)| key + 1 == value));
        tree.clear(&mut context);
    }
}

#[test]
fn errors_name_argument_and_remedy() {
    use std::string::ToString;
    let mut store = Store { node_budget: Some(0), ..Store::default() };
    let error: Box<dyn core::error::Error> = Box::new(new_tree().insert(0x123, 1_u64, &mut store).unwrap_err());
    let text = error.to_string();
    assert!(text.contains("0x123") && text.contains("reserve"), "{text}");
}

/// A tree beside its model.
struct Pair {
    tree: PageTree<u64>,
    model: BTreeMap<u64, u64>,
}

impl Pair {
    fn compare(&self, near: u64) {
        let whole: Vec<_> = self.model.iter().map(|(&key, &value)| (key, value)).collect();
        assert!(self.tree.iter().eq(whole.iter().copied()), "forwards");
        assert!(self.tree.iter().rev().eq(whole.iter().rev().copied()), "backwards");
        self.compare_at(near);
    }

    fn compare_at(&self, near: u64) {
        for key in [near, near.wrapping_sub(1), near.wrapping_add(1), near ^ 64, 0, u64::MAX] {
            assert_eq!(self.tree.get(key), self.model.get(&key).copied());
            let owned = self.model.get(&key).map(|&value| (value, self.tree.is_sole_owner(key)));
            assert_eq!(self.tree.get_with_ownership(key), owned);
            let next = self.model.range(key..).next().map(|(&key, &value)| (key, value));
            assert_eq!(self.tree.next_present(key), next);
            let previous = self.model.range(..=key).next_back().map(|(&key, &value)| (key, value));
            assert_eq!(self.tree.previous_present(key), previous);
            let mut absent = Some(key);
            while absent.is_some_and(|key| self.model.contains_key(&key)) {
                absent = absent.unwrap().checked_add(1);
            }
            assert_eq!(self.tree.next_absent(key), absent);
        }
        for (first, last) in [(0, u64::MAX), (near, near.saturating_add(70)), (near.saturating_sub(130), near)] {
            let mut seen = Vec::new();
            self.tree.visit_each(first, last, |key, value, held| seen.push((key, value, held == Held::Shared)));
            let model = self.model.range(first..=last);
            let expected: Vec<_> = model.map(|(&key, &value)| (key, value, !self.tree.is_sole_owner(key))).collect();
            assert_eq!(seen, expected, "{first:#x} to {last:#x}");
            let (mut one_by_one, mut complete) = (0, true);
            self.tree.visit(first, last, |visited| match visited {
                Visited::Many(_, values, all, _) => {
                    one_by_one += values.iter().flatten().count();
                    complete &= all == values.iter().all(Option::is_some);
                }
                Visited::One(..) => one_by_one += 1,
            });
            assert!(complete && one_by_one == expected.len());
        }
    }

    /// The first free run the slow way: every key after a present one, and the range's first, is tried.
    fn free_run(&self, first: u64, last: u64, count: u64) -> Option<u64> {
        if count == 0 {
            return Some(first);
        }
        core::iter::once(Some(first))
            .chain(self.model.range(first..=last).map(|(&key, _)| key.checked_add(1)))
            .flatten()
            .find(|&start| {
                start
                    .checked_add(count - 1)
                    .is_some_and(|end| end <= last && self.model.range(start..=end).next().is_none())
            })
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(u64),
    InsertRun(u64, u64),
    GetOrInsert(u64),
    Remove(u64),
    RemoveRange(u64, u64),
    Truncate(u64),
    Share,
    Drop,
    PrepareInsert(u64),
    PrepareRemove(u64, u64),
    FreeRun(u64, u64, u64),
    Range(u64, u64, Vec<bool>),
}

fn key() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..300_u64,
        2 => 0..20_000_u64,
        2 => (0..=200_u64).prop_map(|below| u64::MAX - below),
        2 => (0..11_u32, 0..64_u64, 0..3_u64).prop_map(|(level, slot, low)| (slot << (6 * level)).wrapping_add(low)),
        1 => any::<u64>(),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => key().prop_map(Operation::Insert),
        4 => (key(), 1..200_u64).prop_map(|(key, count)| Operation::InsertRun(key, count)),
        2 => key().prop_map(Operation::GetOrInsert),
        4 => key().prop_map(Operation::Remove),
        3 => (key(), key()).prop_map(|(a, b)| Operation::RemoveRange(a.min(b), a.max(b))),
        3 => (key(), 0..200_u64).prop_map(|(a, n)| Operation::RemoveRange(a, a.saturating_add(n))),
        1 => key().prop_map(Operation::Truncate),
        3 => Just(Operation::Share),
        1 => Just(Operation::Drop),
        1 => key().prop_map(Operation::PrepareInsert),
        1 => (key(), key()).prop_map(|(a, b)| Operation::PrepareRemove(a.min(b), a.max(b))),
        2 => (key(), key(), 0..300_u64).prop_map(|(a, b, n)| Operation::FreeRun(a.min(b), a.max(b), n)),
        2 => (key(), key(), prop::collection::vec(any::<bool>(), 0..40))
            .prop_map(|(a, b, ends)| Operation::Range(a.min(b), a.max(b), ends)),
    ]
}

/// One operation on one tree; `nodes` and `duplicates` limit the store.
fn apply(
    pair: &mut Pair,
    store: &mut Store,
    operation: &Operation,
    nodes: Option<usize>,
    duplicates: Option<usize>,
) -> Result<(), TreeError> {
    let Pair { tree, model } = pair;
    (store.taken, store.taken_by_size) = (0, NodesNeeded::NONE);
    match *operation {
        Operation::Insert(key) => {
            let value = store.value();
            let needed = tree.nodes_needed_to_insert(key);
            (store.node_budget, store.duplicate_budget) = (nodes, duplicates);
            match tree.insert(key, value, store) {
                Ok(old) => {
                    assert_eq!(store.taken_by_size, needed, "the bound is exact");
                    assert_eq!(old, model.insert(key, value));
                    old.into_iter().for_each(|old| store.discard(old));
                }
                Err(NotInserted { value: back, error }) => {
                    assert_eq!(back, value);
                    store.discard(back);
                    assert!(
                        duplicates.is_some() || nodes.is_some_and(|nodes| nodes < needed.total()),
                        "enough was there"
                    );
                    return Err(error);
                }
            }
        }
        Operation::GetOrInsert(key) => {
            (store.node_budget, store.duplicate_budget) = (nodes, duplicates);
            let value = tree.get_or_insert_with(key, store, |store| Ok::<_, TreeError>(store.value()))?;
            assert_eq!(*model.entry(key).or_insert(value), value);
        }
        Operation::Remove(key) => {
            let needed = tree.nodes_needed_to_remove_range(key..=key);
            (store.node_budget, store.duplicate_budget) = (nodes, duplicates);
            let taken = tree.remove(key, store);
            assert!(store.taken <= needed.total());
            let value = taken?;
            assert_eq!(value, model.remove(&key));
            value.into_iter().for_each(|value| store.discard(value));
        }
        Operation::RemoveRange(first, last) => remove(pair, store, first, last, nodes, duplicates)?,
        Operation::Truncate(from) => remove(pair, store, from, u64::MAX, nodes, duplicates)?,
        Operation::PrepareInsert(key) => {
            (store.node_budget, store.duplicate_budget) = (nodes, duplicates);
            tree.prepare_insert(key, store)?;
            // From now on nothing of this path is duplicated, and only new nodes are needed.
            assert!(tree.nodes_needed_to_insert(key).total() <= 2);
            if tree.contains_key(key) {
                assert!(tree.is_sole_owner(key));
            }
        }
        Operation::PrepareRemove(first, last) => {
            let needed = tree.nodes_needed_to_remove_range(first..=last);
            (store.node_budget, store.duplicate_budget) = (nodes, duplicates);
            let prepared = tree.prepare_remove_range(first..=last, store);
            assert!(store.taken <= needed.total());
            assert!(prepared.is_ok() || duplicates.is_some() || nodes.is_some_and(|nodes| nodes < needed.total()));
            prepared?;
            assert!(tree.nodes_needed_to_remove_range(first..=last).is_none());
        }
        Operation::FreeRun(first, last, count) => {
            assert_eq!(tree.first_free_run(first..=last, count), pair.free_run(first, last, count));
        }
        Operation::Range(first, last, ref ends) => {
            let (mut range, mut expected) = (tree.range(first..=last), model.range(first..=last));
            for &back in ends {
                let (entry, wanted) =
                    if back { (range.next_back(), expected.next_back()) } else { (range.next(), expected.next()) };
                assert_eq!(entry, wanted.map(|(&key, &value)| (key, value)));
            }
            assert!(range.eq(expected.map(|(&key, &value)| (key, value))));
        }
        Operation::InsertRun(..) | Operation::Share | Operation::Drop => {}
    }
    Ok(())
}

fn remove(
    pair: &mut Pair,
    store: &mut Store,
    first: u64,
    last: u64,
    nodes: Option<usize>,
    duplicates: Option<usize>,
) -> Result<(), TreeError> {
    let Pair { tree, model } = pair;
    let needed = tree.nodes_needed_to_remove_range(first..=last);
    (store.node_budget, store.duplicate_budget) = (nodes, duplicates);
    let mut out = Vec::new();
    let result = tree.remove_range(first..=last, store, |store, key, removed| {
        out.extend((0..removed.count()).map(|at| (key + at, removed.value() + at)));
        if let Removed::Owned(value) | Removed::OwnedRun(value, _) = removed {
            store.discard(value);
        }
    });
    assert!(NodeSize::ALL.iter().all(|&size| store.taken_by_size.of(size) <= needed.of(size)));
    match result {
        Ok(count) => assert_eq!(count, out.len() as u64),
        Err(error) => {
            assert!(out.is_empty(), "nothing was removed");
            assert!(duplicates.is_some() || nodes.is_some_and(|nodes| nodes < needed.total()), "enough was there");
            return Err(error);
        }
    }
    let expected: Vec<_> = model.range(first..=last).map(|(&key, &value)| (key, value)).collect();
    assert_eq!(out, expected, "all, in order");
    model.retain(|key, _| !(first..=last).contains(key));
    Ok(())
}

proptest! {
    /// Trees that share structure each do what their own `BTreeMap` does; a step that fails for want of
    /// nodes or duplicates (each k-th in turn) changes none of them; nothing leaks.
    #[test]
    fn agrees_with_btree_map(steps in prop::collection::vec((operation(), 0..4_usize), 1..50)) {
        let mut store = Store::default();
        let mut pairs = vec![Pair { tree: new_tree(), model: BTreeMap::new() }];
        for (operation, which) in steps {
            let number = which % pairs.len();
            let near = match operation {
                Operation::Insert(key) | Operation::Remove(key) | Operation::RemoveRange(key, _)
                | Operation::Truncate(key) | Operation::InsertRun(key, _) | Operation::GetOrInsert(key) => key,
                _ => 0,
            };
            match operation {
                Operation::Share if pairs.len() < 4 => {
                    store.node_budget = Some(0);
                    let pair = Pair { tree: pairs[number].tree.share().unwrap(), model: pairs[number].model.clone() };
                    pairs.push(pair);
                }
                Operation::Drop if pairs.len() > 1 => {
                    pairs.remove(number).tree.clear(&mut store);
                }
                Operation::InsertRun(key, count) => {
                    for key in key..key.saturating_add(count) {
                        apply(&mut pairs[number], &mut store, &Operation::Insert(key), None, None).unwrap();
                    }
                }
                ref operation => {
                    // Each k-th node fails, then each of the first duplicates, and at last nothing does.
                    let mut done = false;
                    for nodes in 0..30 {
                        done = apply(&mut pairs[number], &mut store, operation, Some(nodes), Some(nodes * 5)).is_ok();
                        if done {
                            break;
                        }
                        check(pairs.iter().map(|pair| &pair.tree), &store);
                        pairs.iter().for_each(|pair| pair.compare(near));
                    }
                    prop_assert!(done);
                }
            }
            check(pairs.iter().map(|pair| &pair.tree), &store);
            pairs.iter().for_each(|pair| pair.compare(near));
        }
        for mut pair in pairs {
            pair.tree.clear(&mut store);
        }
        store.finish();
    }

    /// What the bound says is enough, whatever is shared, so a commit after a reserve cannot fail.
    #[test]
    fn what_is_reserved_is_enough(steps in prop::collection::vec((operation(), 0..4_usize), 1..60)) {
        let mut store = Store::default();
        let mut pairs = vec![Pair { tree: new_tree(), model: BTreeMap::new() }];
        for (operation, which) in steps {
            let number = which % pairs.len();
            let tree = &pairs[number].tree;
            let nodes = match operation {
                Operation::Insert(key) | Operation::GetOrInsert(key) | Operation::PrepareInsert(key) => {
                    tree.nodes_needed_to_insert(key)
                }
                Operation::Remove(key) => tree.nodes_needed_to_remove_range(key..=key),
                Operation::RemoveRange(first, last) | Operation::PrepareRemove(first, last) => {
                    tree.nodes_needed_to_remove_range(first..=last)
                }
                Operation::Truncate(from) => tree.nodes_needed_to_remove_range(from..),
                Operation::Share if pairs.len() < 4 => {
                    let pair = Pair { tree: tree.share().unwrap(), model: pairs[number].model.clone() };
                    pairs.push(pair);
                    continue;
                }
                _ => NodesNeeded::NONE,
            };
            prop_assert!(nodes.total() <= 21);
            prop_assert!(apply(&mut pairs[number], &mut store, &operation, Some(nodes.total()), None).is_ok());
        }
        check(pairs.iter().map(|pair| &pair.tree), &store);
        for mut pair in pairs {
            pair.tree.clear(&mut store);
        }
        store.finish();
    }
}
