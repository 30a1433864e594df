//! Tests of splitting a range off, with the store, the walk over all nodes and the models of the other tests.

use super::*;

/// The nodes on the longest path.
fn depth(link: Link) -> usize {
    if link.is_none() {
        return 0;
    }
    let mut deepest = 0;
    if !link.shift().is_leaf() {
        // SAFETY: the node is reachable from a tree, which is not changed meanwhile.
        let node = unsafe { link.node() };
        for_each(node.present(), |index| {
            if let Entry::Child(child) = node.entry(index) {
                deepest = deepest.max(depth(child));
            }
        });
    }
    deepest + 1
}

fn content(tree: &PageTree<u64>) -> Vec<(u64, u64)> {
    tree.iter().collect()
}

/// A tree with the keys given, each with a value of its own.
fn tree_of(keys: impl IntoIterator<Item = u64>, store: &mut Store) -> PageTree<u64> {
    let mut tree = new_tree();
    for key in keys {
        let value = store.value();
        assert_eq!(tree.insert(key, value, store), Ok(None));
    }
    tree
}

/// Splits with exactly the nodes that the bound names, and checks that those were needed and nothing else.
fn split(tree: &mut PageTree<u64>, store: &mut Store, range: impl RangeBounds<u64> + Clone) -> PageTree<u64> {
    let needed = tree.nodes_needed_to_split_off(range.clone()).total();
    (store.node_budget, store.taken) = (Some(needed), 0);
    let part = tree.split_off(range, store).unwrap();
    assert_eq!(store.taken, needed);
    store.node_budget = None;
    part
}

fn clear_all(trees: impl IntoIterator<Item = PageTree<u64>>, mut store: Store) {
    for mut tree in trees {
        tree.clear(&mut store);
    }
    store.finish();
}

#[test]
fn dense_tree_split_in_the_middle() {
    let mut store = Store::default();
    let mut tree = dense(4096, &mut store);
    let whole = content(&tree);
    assert_eq!(tree.nodes_needed_to_split_off(1000..3000).total(), 3, "the root and two leaves");
    store.duplicate_budget = Some(0);
    let part = split(&mut tree, &mut store, 1000..3000);
    check([&tree, &part], &store);
    assert_eq!((tree.len(), part.len()), (2096, 2000));
    assert!(part.iter().eq(whole[1000..3000].iter().copied()));
    assert!(tree.iter().eq(whole[..1000].iter().chain(&whole[3000..]).copied()));
    assert_eq!((tree.next_absent(0), tree.next_absent(3000)), (Some(1000), Some(4096)));
    assert_eq!((part.next_absent(0), part.next_absent(1000)), (Some(0), Some(3000)));
    // 65 nodes and one more for each that was cut: no other was touched.
    assert_eq!(tree.node_count() + part.node_count(), 68);
    // The hole can be filled again.
    for key in 1000..3000 {
        let value = store.value();
        tree.insert(key, value, &mut store).unwrap();
    }
    assert_eq!(tree.next_absent(0), Some(4096));
    check([&tree, &part], &store);
    clear_all([tree, part], store);
}

#[test]
fn whole_leaves_move_and_nothing_is_taken() {
    let mut store = Store::default();
    let mut tree = dense(4096, &mut store);
    // All but one leaf stay: the leaf needs no node above it, so none is taken.
    assert_eq!(tree.nodes_needed_to_split_off(640..704).total(), 0);
    let leaf = split(&mut tree, &mut store, 640..704);
    assert_eq!((leaf.node_count(), tree.node_count()), (1, 64));
    check([&tree, &leaf], &store);
    // All but one leaf go: the root goes with them.
    let most = split(&mut tree, &mut store, 64..);
    assert_eq!((most.node_count(), tree.node_count()), (63, 1));
    check([&tree, &leaf, &most], &store);
    // The gap at the range's end counts as either side's: the leaf is whole although the range cuts its span.
    let mut sparse = tree_of([5000, 5010, 9000], &mut store);
    assert_eq!(sparse.nodes_needed_to_split_off(5000..=5010).total(), 0);
    let two = split(&mut sparse, &mut store, 5000..=5010);
    assert_eq!((two.node_count(), sparse.node_count()), (1, 1), "the root between them is given back");
    check([&tree, &leaf, &most, &sparse, &two], &store);
    clear_all([tree, leaf, most, sparse, two], store);
}

#[test]
fn nothing_and_everything_need_no_node() {
    let mut store = Store::default();
    let mut tree = tree_of((0..200).chain([1 << 30, u64::MAX]), &mut store);
    let whole = content(&tree);
    let mut sharer = tree.share().unwrap();
    store.duplicate_budget = Some(0);
    for (first, beyond) in [(7, 7), (9, 3), (200, 1 << 30), ((1 << 30) + 1, u64::MAX)] {
        assert_eq!(tree.nodes_needed_to_split_off(first..beyond).total(), 0);
        let part = split(&mut tree, &mut store, first..beyond);
        assert!(part.is_empty() && part.node_count() == 0);
        assert_eq!(content(&tree), whole);
    }
    let none = split(&mut tree, &mut store, (Bound::Excluded(u64::MAX), Bound::Unbounded));
    assert!(none.is_empty());
    let part = split(&mut tree, &mut store, ..);
    assert!(tree.is_empty() && tree.node_count() == 0);
    assert_eq!((content(&part), part.len()), (whole.clone(), 202));
    check([&tree, &part, &sharer], &store);
    // An empty tree has nothing to give, and is as good as new.
    assert!(split(&mut tree, &mut store, ..).is_empty());
    let value = store.value();
    tree.insert(3, value, &mut store).unwrap();
    let taken = sharer.take();
    assert!(sharer.is_empty() && sharer.take().is_empty());
    assert_eq!(content(&taken), whole);
    check([&tree, &part, &taken], &store);
    clear_all([tree, part, taken], store);
}

#[test]
fn references_move_with_shared_nodes() {
    let mut store = Store::default();
    let mut tree = dense(4096, &mut store);
    let sharer = tree.share().unwrap();
    let whole = content(&tree);
    // The root twice (for the rest and for what goes); the leaves at the edges are whole.
    assert_eq!(tree.nodes_needed_to_split_off(1024..2048).total(), 2);
    store.duplicate_budget = Some(0);
    let part = split(&mut tree, &mut store, 1024..2048);
    check([&tree, &part, &sharer], &store);
    assert_eq!(content(&sharer), whole);
    assert!(!part.is_sole_owner(1024) && !tree.is_sole_owner(0));
    // A leaf cut in two: it is copied first, and then its values are the splitter's own.
    store.duplicate_budget = Some(64);
    let mut rest = tree;
    let tail = split(&mut rest, &mut store, 4000..);
    check([&rest, &part, &tail, &sharer], &store);
    assert_eq!(store.duplicate_budget, Some(0), "one leaf's values and no others");
    assert!(tail.is_sole_owner(4000) && rest.is_sole_owner(3999) && !tail.is_sole_owner(4050));
    assert_eq!(content(&sharer), whole);
    clear_all([part, sharer, rest, tail], store);
}

#[test]
fn nothing_is_let_go_before_the_part_is_cleared() {
    let mut store = Store::default();
    let mut tree = dense(300, &mut store);
    let mut part = split(&mut tree, &mut store, 70..230);
    assert_eq!(store.held.len(), 300, "each value is still held");
    part.clear(&mut store);
    assert_eq!(store.held.len(), 140);
    check([&tree], &store);
    clear_all([tree], store);
}

#[test]
fn a_range_that_was_prepared_duplicates_nothing() {
    let mut store = Store::default();
    let mut tree = dense(4096, &mut store);
    let sharer = tree.share().unwrap();
    tree.prepare_remove_range(1000..3000, &mut store).unwrap();
    store.duplicate_budget = Some(0);
    assert_eq!(tree.nodes_needed_to_split_off(1000..3000).total(), 3);
    let part = split(&mut tree, &mut store, 1000..3000);
    check([&tree, &part, &sharer], &store);
    clear_all([tree, part, sharer], store);
}

#[test]
fn two_cuts_through_every_level() {
    // Two keys that part in the root, each with two neighbours on either side in the node of every level: both
    // cuts go through every level, and both sides need a node each time.
    let mut store = Store::default();
    let top = Shift::LEVELS as u32 - 1;
    let mut keys = std::collections::BTreeSet::new();
    let path = |slot: u64| (0..top).fold(slot << (6 * top), |key, level| key | 8 << (6 * level));
    let (first, last) = (path(4), path(12));
    for edge in [first, last] {
        keys.insert(edge);
        for level in 0..=top {
            let above = edge.checked_shr(6 * (level + 1)).unwrap_or(0).checked_shl(6 * (level + 1)).unwrap_or(0);
            let own = edge >> (6 * level) & 63;
            for slot in [own - 2, own - 1, own + 1, own + 2] {
                keys.insert(above | slot << (6 * level));
            }
        }
    }
    let mut tree = tree_of(keys.iter().copied(), &mut store);
    assert_eq!(depth(tree.root), Shift::LEVELS);
    assert_eq!(tree.nodes_needed_to_split_off(first..=last).total(), 2 * Shift::LEVELS - 1);
    let whole = content(&tree);
    let mut sharer = tree.share().unwrap();
    assert_eq!(tree.nodes_needed_to_split_off(first..=last).total(), 2 * (2 * Shift::LEVELS - 1));
    let part = split(&mut tree, &mut store, first..=last);
    check([&tree, &part, &sharer], &store);
    assert_eq!(content(&sharer), whole);
    assert!(part.iter().map(|entry| entry.0).eq(keys.range(first..=last).copied()));
    let mut inner = sharer.split_off(.., &mut store).unwrap();
    let inmost = split(&mut inner, &mut store, first + 1..last);
    check([&tree, &part, &inner, &inmost], &store);
    clear_all([tree, part, sharer, inner, inmost], store);
}

#[derive(Clone, Debug)]
enum Step {
    /// One of the other tests' operations on one of the trees.
    Do(Operation, usize),
    /// Keys at a distance from one another.
    Comb {
        from: u64,
        count: u64,
        distance: u64,
        which: usize,
    },
    Split {
        first: u64,
        last: u64,
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (operation(), 0..6_usize).prop_map(|(operation, which)| Step::Do(operation, which)),
        2 => (key(), 1..200_u64, prop_oneof![Just(1_u64), 2..10_u64, 60..70_u64, Just(4096), Just(1 << 45)], 0..6_usize)
            .prop_map(|(from, count, distance, which)| Step::Comb { from, count, distance, which }),
        3 => (key(), key(), 0..6_usize)
            .prop_map(|(a, b, which)| Step::Split { first: a.min(b), last: a.max(b), which }),
        2 => (key(), 0..300_u64, 0..6_usize)
            .prop_map(|(first, count, which)| Step::Split { first, last: first.saturating_add(count), which }),
    ]
}

/// Splits until it succeeds, with one more node and a few more duplicates each time; after every failure nothing has
/// changed.
fn split_in_spite_of_failures(pairs: &mut Vec<Pair>, number: usize, store: &mut Store, first: u64, last: u64) {
    let before: Vec<_> = pairs.iter().map(|pair| content(&pair.tree)).collect();
    let tree = &pairs[number].tree;
    let needed = tree.nodes_needed_to_split_off(first..=last).total();
    let deepest = depth(tree.root);
    assert!(needed <= 4 * deepest, "{needed} nodes in a tree {deepest} deep");
    let inside = before[number].iter().filter(|entry| (first..=last).contains(&entry.0)).count();
    if inside == 0 || inside == before[number].len() {
        assert_eq!(needed, 0);
    }
    let mut nodes = 0;
    let part = loop {
        let tree = &mut pairs[number].tree;
        let needed = tree.nodes_needed_to_split_off(first..=last).total();
        (store.node_budget, store.duplicate_budget, store.taken) = (Some(nodes), Some(nodes * 5), 0);
        match tree.split_off(first..=last, store) {
            Ok(part) => {
                assert_eq!(store.taken, needed, "the bound is exact");
                break part;
            }
            Err(TreeError::OutOfNodes { .. }) => assert!(nodes < needed, "enough was there"),
            Err(error) => assert_eq!(store.duplicate_budget, Some(0), "{error}"),
        }
        check(pairs.iter().map(|pair| &pair.tree), store);
        assert!(pairs.iter().map(|pair| content(&pair.tree)).eq(before.iter().cloned()), "unchanged");
        nodes += 1;
    };
    (store.node_budget, store.duplicate_budget) = (None, None);
    let pair = &mut pairs[number];
    let mut model = pair.model.split_off(&first);
    if let Some(beyond) = last.checked_add(1) {
        pair.model.extend(model.split_off(&beyond));
    }
    pairs.push(Pair { tree: part, model });
}

proptest! {
    /// Parts and rest hold what the model's do, and trees that share nodes with them see no change; no node and
    /// no value is lost or held too often.
    #[test]
    fn splits_as_a_btree_map_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut store = Store::default();
        let mut pairs = vec![Pair { tree: new_tree(), model: BTreeMap::new() }];
        for step in steps {
            let mut near = 0;
            match step {
                Step::Do(Operation::Share, which) if pairs.len() < 6 => {
                    let Pair { tree, model } = &pairs[which % pairs.len()];
                    let pair = Pair { tree: tree.share().unwrap(), model: model.clone() };
                    pairs.push(pair);
                }
                Step::Do(Operation::Drop, which) if pairs.len() > 1 => {
                    let number = which % pairs.len();
                    pairs.remove(number).tree.clear(&mut store);
                }
                Step::Do(operation, which) => {
                    let number = which % pairs.len();
                    apply(&mut pairs[number], &mut store, &operation, None, None).unwrap();
                }
                Step::Comb { from, count, distance, which } => {
                    let number = which % pairs.len();
                    for tooth in 0..count {
                        let key = from.wrapping_add(tooth * distance);
                        apply(&mut pairs[number], &mut store, &Operation::Insert(key), None, None).unwrap();
                    }
                    near = from;
                }
                Step::Split { first, last, which } => {
                    let number = which % pairs.len();
                    split_in_spite_of_failures(&mut pairs, number, &mut store, first, last);
                    if pairs.len() > 6 {
                        pairs.remove(which % pairs.len()).tree.clear(&mut store);
                    }
                    near = first;
                }
            }
            check(pairs.iter().map(|pair| &pair.tree), &store);
            pairs.iter().for_each(|pair| pair.compare(near));
        }
        clear_all(pairs.into_iter().map(|pair| pair.tree), store);
    }

    /// A tree that shares nothing needs at most one node for each level of either cut.
    #[test]
    fn unshared_trees_need_at_most_two_nodes_a_level(
        combs in prop::collection::vec((key(), 1..300_u64, prop_oneof![Just(1_u64), 2..70_u64, Just(1 << 45)]), 1..8),
        ranges in prop::collection::vec((key(), key()), 1..10),
    ) {
        let mut store = Store::default();
        let keys: std::collections::BTreeSet<u64> = combs
            .into_iter()
            .flat_map(|(from, count, distance)| (0..count).map(move |tooth| from.wrapping_add(tooth * distance)))
            .collect();
        let mut trees = vec![tree_of(keys, &mut store)];
        for (a, b) in ranges {
            let range = a.min(b)..=a.max(b);
            let needed = trees[0].nodes_needed_to_split_off(range.clone()).total();
            let deepest = depth(trees[0].root);
            prop_assert!(needed <= (2 * deepest).saturating_sub(1), "{needed} nodes in a tree {deepest} deep");
            let part = split(&mut trees[0], &mut store, range);
            trees.push(part);
            check(&trees, &store);
        }
        clear_all(trees, store);
    }
}
