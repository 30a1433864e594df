//! What changes of page trees take from the store and give back, counted: never more than was said before, nothing lost when the store has no more, and nobody's value
//! dropped or held twice. The oracle is a plain map, and a count for each value.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ptr::NonNull;

use vmcore::page_tree::{
    CannotDuplicate, Context, Node, NodeSize, NodeStore, NodesNeeded, OutOfNodes, PageTree, Removed, TreeError,
    ValueOwner,
};

mod common;

use common::Random;

const SIZES: [NodeSize; 3] = [NodeSize::Small, NodeSize::Medium, NodeSize::Full];

/// Nodes from the host's allocator, as many as it is allowed to give.
#[derive(Default)]
struct Heap {
    taken: [usize; 3],
    live: usize,
    /// How many more it gives; any number if `None`.
    left: Option<usize>,
    /// The same, of each size.
    of_size: Option<[usize; 3]>,
}

fn layout(size: NodeSize) -> Layout {
    Layout::from_size_align(size.bytes(), NodeSize::ALIGN).unwrap()
}

// SAFETY: the allocator gives each block to one user at a time, with the size and alignment of a node.
unsafe impl NodeStore for Heap {
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        let which = SIZES.iter().position(|other| *other == size).unwrap();
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(OutOfNodes::new())?;
        }
        if let Some(of_size) = &mut self.of_size {
            of_size[which] = of_size[which].checked_sub(1).ok_or(OutOfNodes::new())?;
        }
        self.taken[which] += 1;
        self.live += 1;
        // SAFETY: a node's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc(layout(size)) }.cast()).ok_or(OutOfNodes::new())
    }

    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        self.live -= 1;
        // SAFETY: the node came from `take`, as the caller promises.
        unsafe { std::alloc::dealloc(node.as_ptr().cast(), layout(size)) }
    }
}

/// How many slots hold each value; a run is counted on its first.
#[derive(Default)]
struct Counts(BTreeMap<u64, i64>);

impl ValueOwner<NonZeroU64> for Counts {
    fn duplicate(&mut self, value: NonZeroU64) -> Result<NonZeroU64, CannotDuplicate> {
        *self.0.entry(value.get()).or_default() += 1;
        Ok(value)
    }

    fn discard(&mut self, value: NonZeroU64) {
        *self.0.entry(value.get()).or_default() -= 1;
    }

    fn split_run(&mut self, first: NonZeroU64, count: u64, part: u64) -> Result<(), CannotDuplicate> {
        *self.0.entry(first.get()).or_default() -= 1;
        for step in (0..count).step_by(part as usize) {
            *self.0.entry(first.get() + step).or_default() += 1;
        }
        Ok(())
    }
}

type Tree = PageTree<NonZeroU64>;
type Model = BTreeMap<u64, u64>;

#[derive(Default)]
struct World {
    heap: Heap,
    counts: Counts,
}

impl World {
    fn context(&mut self) -> Context<'_, Heap, Counts> {
        Context { nodes: &mut self.heap, values: &mut self.counts }
    }

    fn tree(&self) -> Tree {
        // SAFETY: all nodes come from the host's one allocator.
        unsafe { PageTree::new() }
    }

    fn insert(&mut self, tree: &mut Tree, key: u64, value: u64) {
        let value = NonZeroU64::new(value).unwrap();
        if tree.insert(key, value, &mut self.context()).unwrap().is_none() {
            *self.counts.0.entry(value.get()).or_default() += 1;
        }
    }

    fn insert_run(&mut self, tree: &mut Tree, key: u64, count: u64, value: u64) {
        tree.insert_run(key, count, NonZeroU64::new(value).unwrap(), &mut self.context()).unwrap();
        // One reference for each slot that it fills: as long as it can be, up to what it is aligned to.
        for run in tree.runs(key..key + count) {
            *self.counts.0.entry(run.value.get()).or_default() += 1;
        }
    }

    fn needed(needed: NodesNeeded) -> [usize; 3] {
        SIZES.map(|size| needed.of(size))
    }

    /// No tree is left: no node is, and nobody holds a value.
    fn finish(self) {
        assert_eq!(self.heap.live, 0, "nodes are lost");
        assert!(self.counts.0.values().all(|count| *count == 0), "values are held by nobody, or dropped twice");
    }
}

fn content(tree: &Tree) -> Model {
    tree.iter().map(|(key, value)| (key, value.get())).collect()
}

/// Keys in leaves that have so many each, so many leaves, so far from one another; what lies where they go; and whether the tree is shared.
fn moves(each: u64, leaves: u64, stride: u64, distance: u64, shared: bool, beside: u64) {
    let mut world = World::default();
    let (mut tree, mut model) = (world.tree(), Model::new());
    let base = 1 << 20;
    let mut put = |world: &mut World, tree: &mut Tree, key: u64| {
        world.insert(tree, key, 1 + key);
        model.insert(key, 1 + key);
    };
    for leaf in 0..leaves {
        for key in 0..each {
            put(&mut world, &mut tree, base + leaf * stride * 64 + key * (64 / each).max(1));
        }
    }
    let last = *model.keys().next_back().unwrap();
    let mut put = |world: &mut World, tree: &mut Tree, key: u64| {
        if model.insert(key, 1 + key).is_none() {
            world.insert(tree, key, 1 + key);
        }
    };
    let to = base + distance;
    for step in 1..=beside {
        for shift in [0, 6, 12] {
            put(&mut world, &mut tree, to.wrapping_sub(step << shift));
            put(&mut world, &mut tree, to + (last - base) + (step << shift));
        }
    }
    let other = shared.then(|| tree.share().unwrap());
    let before = model.clone();
    let needed = World::needed(tree.nodes_needed_to_move(base..=last, to));
    world.heap.taken = [0; 3];
    world.heap.of_size = Some(needed);
    let told = format!("{each} keys, {leaves} leaves, every {stride}, by {distance}, {shared}, {beside}: {needed:?}");
    let moved = tree.move_range(base..=last, to, &mut world.context());
    world.heap.of_size = None;
    assert_eq!(moved, Ok(each * leaves), "{told}");
    for key in before.range(base..=last).map(|(key, _)| *key) {
        let value = model.remove(&key).unwrap();
        model.insert(key + distance, value);
    }
    assert_eq!(content(&tree), model, "{told}");
    if let Some(mut other) = other {
        assert_eq!(content(&other), before, "{told}");
        other.clear(&mut world.context());
    }
    tree.clear(&mut world.context());
    world.finish();
}

/// As many nodes of each size as were said suffice, whatever the leaves hold, and wherever they go.
#[test]
fn moves_take_what_was_said_at_the_most() {
    for each in [1, 3, 4, 5, 12, 19, 20, 32, 64] {
        for (leaves, stride) in [(1, 1), (2, 1), (7, 1), (70, 1), (70, 3), (25, 4096)] {
            for distance in [1 << 30, (1 << 30) + 1, (1 << 36) + 32] {
                moves(each, leaves, stride, distance, false, 0);
            }
            moves(each, leaves, stride, (1 << 30) + 21, true, 4);
        }
    }
}

/// The same for leaves and distances as they come.
#[test]
fn random_moves_take_what_was_said_at_the_most() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..120 {
        let (each, leaves) = (1 + random.below(64), 1 + random.below(24));
        let (stride, distance) = (1 + random.below(70), (1 << 30) + random.below(9000));
        let (shared, beside) = (random.below(2) == 0, random.below(9));
        moves(each, leaves, stride, distance, shared, beside);
    }
}

/// Full leaves with nearly empty ones on both sides, which are full-sized for their neighbours' sake.
#[test]
fn moves_of_full_leaves_between_sparse_ones() {
    for distance in [1 << 30, (1 << 30) + 1, (1 << 30) + 32] {
        let mut world = World::default();
        let (mut tree, mut model) = (world.tree(), Model::new());
        for leaf in 0..240 {
            let count = if leaf % 3 == 1 { 64 } else { 1 };
            let first = if leaf % 3 == 0 { 63 } else { 0 };
            for key in (0..count).map(|key| leaf * 64 + first + key) {
                world.insert(&mut tree, key, 1 + key);
                model.insert(key + distance, 1 + key);
            }
        }
        world.heap.of_size = Some(World::needed(tree.nodes_needed_to_move(.., distance + 63)));
        assert_eq!(tree.move_range(63.., distance + 63, &mut world.context()), Ok(model.len() as u64));
        world.heap.of_size = None;
        assert_eq!(content(&tree), model);
        tree.clear(&mut world.context());
        world.finish();
    }
}

/// What is said for sparse keys is of small nodes, which they take.
#[test]
fn sparse_keys_are_not_said_to_take_large_nodes() {
    let mut world = World::default();
    let mut tree = world.tree();
    for leaf in 0..300 {
        world.insert(&mut tree, leaf * 64 + 5, 1);
    }
    let [small, medium, full] = World::needed(tree.nodes_needed_to_move(.., (1 << 30) + 1));
    // At most two leaves for each of 300, each with a node above it; as large ones as 300 keys and the levels above can fill, and two paths of 11 nodes.
    assert!(
        small <= 1200 + 22 && medium <= 300 / 4 + 600 / 3 + 22 && full <= 300 / 20 + 600 / 19 + 13 + 22,
        "{small} {medium} {full}"
    );
    tree.clear(&mut world.context());
    world.finish();
}

/// Both ends of where the keys go lie deep in a shared tree, with nodes that are copied at every level.
#[test]
fn moves_into_a_deep_shared_tree() {
    let mut world = World::default();
    let (mut tree, mut model) = (world.tree(), Model::new());
    let length = (1 << 62) - 1;
    let digits: u64 = (0..10).map(|level| 32 << (6 * level)).sum();
    let to = 1 << 63 | digits;
    for (level, step) in (0..10).flat_map(|level| (1..=4_u64).map(move |step| (level, step))) {
        for key in [to - (step << (6 * level)), to + length + (step << (6 * level))] {
            model.insert(key, 7);
            world.insert(&mut tree, key, 7);
        }
    }
    for key in [0, length] {
        model.insert(key, 5);
        world.insert(&mut tree, key, 5);
    }
    let mut other = tree.share().unwrap();
    world.heap.of_size = Some(World::needed(tree.nodes_needed_to_move(0..=length, to)));
    assert_eq!(tree.move_range(0..=length, to, &mut world.context()), Ok(2));
    world.heap.of_size = None;
    assert_eq!(content(&other), model);
    for key in [0, length] {
        model.remove(&key);
        model.insert(key + to, 5);
    }
    assert_eq!(content(&tree), model);
    other.clear(&mut world.context());
    tree.clear(&mut world.context());
    world.finish();
}

/// Runs, alone and shared, that stay runs and that do not: what was shared belongs to both, one reference for each slot.
#[test]
fn runs_that_move_are_counted_once_for_each_slot() {
    for shared in [false, true] {
        for (distance, stays) in [(4096 * 64, true), (64, true), (128 * 64 + 64, true), (4096 * 64 + 1, false)] {
            for (first, last) in [(0, 511), (0, 447), (64, 511), (1, 510), (100, 300)] {
                let mut world = World::default();
                let mut tree = world.tree();
                world.insert_run(&mut tree, 0, 512, 1000);
                world.insert(&mut tree, 600, 77);
                let before = content(&tree);
                let other = shared.then(|| tree.share().unwrap());
                let to = 1024 + first + distance;
                world.heap.of_size = Some(World::needed(tree.nodes_needed_to_move(first..=last, to)));
                assert_eq!(tree.move_range(first..=last, to, &mut world.context()), Ok(last + 1 - first));
                world.heap.of_size = None;
                let expected: Model = before
                    .iter()
                    .map(
                        |(key, value)| {
                            if (first..=last).contains(key) { (key - first + to, *value) } else { (*key, *value) }
                        },
                    )
                    .collect();
                assert_eq!(content(&tree), expected);
                let longest = tree.runs(to..).map(|run| run.count).max();
                assert_eq!(longest >= Some(64), stays, "{first}..={last} by {distance}");
                if let Some(mut other) = other {
                    assert_eq!(content(&other), before);
                    other.clear(&mut world.context());
                }
                tree.clear(&mut world.context());
                world.finish();
            }
        }
    }
}

/// A leaf beside a full one has room for all its keys from the first on; beside others it begins small.
#[test]
fn a_leaf_beside_a_full_one_is_full_sized_from_the_first() {
    for (key, size) in [(64 * 9, 2), (64 * 7 + 5, 2), (64 * 10, 0), (64 * 6, 0)] {
        let mut world = World::default();
        let mut tree = world.tree();
        for first in 64 * 8..64 * 9 {
            world.insert(&mut tree, first, 1);
        }
        for leaf in [3, 20, 30, 31] {
            world.insert(&mut tree, leaf * 64, 1);
        }
        world.heap.taken = [0; 3];
        let needed = World::needed(tree.nodes_needed_to_insert(key));
        world.insert(&mut tree, key, 1);
        let mut expected = [0; 3];
        expected[size] = 1;
        assert_eq!((world.heap.taken, needed), (expected, expected), "{key}");
        tree.clear(&mut world.context());
        world.finish();
    }
}

/// What a run takes at the most is that of the nodes it goes into, each counted once, and none of those that lie elsewhere.
#[test]
fn a_run_needs_the_nodes_that_it_goes_into() {
    let mut world = World::default();
    let mut tree = world.tree();
    let one = tree.nodes_needed_to_insert_run(0, 64);
    assert_eq!(tree.nodes_needed_to_insert_run(0, 64 * 63), one, "slots of one node");
    assert_eq!(tree.nodes_needed_to_insert_run(64, 64 * 62), one);
    world.insert(&mut tree, 0, 1);
    world.insert(&mut tree, 1 << 30, 1);
    world.insert(&mut tree, 5 << 12, 1);
    assert_eq!(tree.nodes_needed_to_insert_run(1 << 40, 64), one, "away from all that is there");
    for (key, count) in [(64, 64), (128, 640), (64 * 63, 128), (64 * 100, 64 * 200), (1 << 41, 64 * 70)] {
        world.heap.of_size = Some(World::needed(tree.nodes_needed_to_insert_run(key, count)));
        world.insert_run(&mut tree, key, count, 1 << 20 | key);
        world.heap.of_size = None;
        let value = (1 << 20 | key) + count - 1;
        assert_eq!(tree.get(key + count - 1), NonZeroU64::new(value));
        world.counts = Counts::default();
    }
    world.counts = Counts::default();
    tree.clear(&mut world.context());
    assert_eq!(world.heap.live, 0);
}

/// When the store has no more in the middle, what was taken goes back, and the content is as before.
#[test]
fn what_fails_half_way_gives_back_what_it_took() {
    type Change = fn(&mut Tree, &mut World) -> Result<(), TreeError>;
    let split: Change = |tree, world| {
        let mut part = tree.split_off(100..4096 * 3 + 200, &mut world.context())?;
        part.clear(&mut world.context());
        Ok(())
    };
    let remove: Change = |tree, world| {
        tree.remove_range(100..4096 * 3 + 200, &mut world.context(), |context, _, removed| {
            if let Removed::Owned(value) | Removed::OwnedRun(value, _) = removed {
                context.discard(value);
            }
        })?;
        Ok(())
    };
    let moves: Change = |tree, world| tree.move_range(100..4096 * 3 + 200, 1 << 30, &mut world.context()).map(|_| ());
    for change in [split, remove, moves] {
        for shared in [false, true] {
            for left in 0.. {
                let mut world = World::default();
                let mut tree = world.tree();
                let runs = [64..576, 4096 * 3 + 128..4096 * 3 + 256];
                let free = |key: &u64| runs.iter().all(|run| !run.contains(key));
                for key in (0..4096 * 4).step_by(37).filter(|key| key / 640 % 2 == 1).filter(free) {
                    world.insert(&mut tree, key, 1 + key);
                }
                world.insert_run(&mut tree, 64, 512, 100_000);
                world.insert_run(&mut tree, 4096 * 3 + 128, 128, 200_000);
                let other = shared.then(|| tree.share().unwrap());
                let before = content(&tree);
                world.heap.left = Some(left);
                let done = change(&mut tree, &mut world);
                world.heap.left = None;
                assert_eq!(content(&tree) == before, done.is_err(), "{left}");
                if let Some(mut other) = other {
                    assert_eq!(content(&other), before);
                    other.clear(&mut world.context());
                }
                assert_eq!(world.heap.live as u64, tree.node_count(), "{left}: {done:?}");
                tree.clear(&mut world.context());
                world.finish();
                if done.is_ok() {
                    assert!(left > 0);
                    break;
                }
            }
        }
    }
}
