//! Tests of runs, of moving ranges, of changes in place and of compacting: with the store, the walk over all nodes and
//! the models of the other tests.

use super::*;

pub(crate) mod fuzzed;

/// What the slots of the tree hold, runs key by key.
fn content(tree: &PageTree<u64>) -> Vec<(u64, u64)> {
    tree.iter().collect()
}

/// The first value of a run that is held once by each slot that `insert_run` will put it into.
fn run_values(store: &mut Store, key: u64, count: u64) -> u64 {
    let first = store.next_value + 1;
    store.next_value += count;
    let mut done = 0;
    while done < count {
        let mut size = 64;
        while (key + done) % (size * 64) == 0 && count - done >= size * 64 {
            size *= 64;
        }
        store.held.insert(first + done, 1);
        done += size;
    }
    first
}

/// Inserts a run with exactly the nodes that the bound names.
fn insert_run(tree: &mut PageTree<u64>, store: &mut Store, key: u64, count: u64) -> u64 {
    let first = run_values(store, key, count);
    let needed = tree.nodes_needed_to_insert_run(key, count);
    store.taken_by_size = NodesNeeded::NONE;
    tree.insert_run(key, count, first, store).unwrap();
    for size in NodeSize::ALL {
        assert!(store.taken_by_size.of(size) <= needed.of(size));
    }
    first
}

#[test]
fn large_pages_cost_a_few_slots() {
    let mut store = Store::default();
    let mut tree = new_tree();
    let first = insert_run(&mut tree, &mut store, 512, 512);
    assert_eq!((tree.len(), tree.node_count(), tree.node_bytes(), store.held.len()), (512, 1, 192, 8));
    check([&tree], &store);
    for key in [512, 513, 575, 576, 1023] {
        assert_eq!(tree.get(key), Some(first + key - 512));
        assert_eq!(tree.get_with_ownership(key), Some((first + key - 512, true)));
    }
    assert_eq!((tree.get(511), tree.get(1024), tree.get(700 + (1 << 40))), (None, None, None));
    assert_eq!((tree.next_absent(0), tree.next_absent(512), tree.next_absent(700)), (Some(0), Some(1024), Some(1024)));
    assert_eq!((tree.next_present(3), tree.next_present(700)), (Some((512, first)), Some((700, first + 188))));
    assert_eq!((tree.previous_present(u64::MAX), tree.previous_present(5)), (Some((1023, first + 511)), None));
    let runs: Vec<_> = tree.runs(600..900).map(|run| (run.key, run.count, run.value - first)).collect();
    assert_eq!(runs, [(600, 40, 88), (640, 64, 128), (704, 64, 192), (768, 64, 256), (832, 64, 320), (896, 4, 384)]);
    let mut seen = Vec::new();
    tree.visit_each(600, 1 << 40, |key, value, held| seen.push((key, value, held)));
    let run = |key: u64| first + (key - 512) / 64 * 64;
    let expected: Vec<_> = (600..1024).map(|key| (key, first + key - 512, Held::SoleRun(run(key)))).collect();
    assert_eq!(seen, expected);
    assert!(tree.runs(600..900).rev().map(|run| (run.key, run.count, run.value - first)).eq(runs.into_iter().rev()));
    tree.clear(&mut store);
    // 1 GiB is one slot of the fourth level.
    let first = insert_run(&mut tree, &mut store, 1 << 18, 1 << 18);
    assert_eq!((tree.node_count(), tree.node_bytes(), store.held.len()), (1, 64, 1));
    // What is changed of it is split off level by level.
    store.taken_by_size = NodesNeeded::NONE;
    let needed = tree.nodes_needed_to_insert((1 << 18) + 5);
    let value = store.value();
    let old = tree.insert((1 << 18) + 5, value, &mut store).unwrap();
    assert_eq!((old, store.taken_by_size), (Some(first + 5), needed));
    assert_eq!((needed.of(NodeSize::Full), needed.total(), tree.node_count()), (3, 3, 3));
    store.discard(old.unwrap());
    check([&tree], &store);
    assert_eq!((tree.get((1 << 18) + 5), tree.get((1 << 19) - 1)), (Some(value), Some(first + (1 << 18) - 1)));
    assert_eq!(tree.next_absent(1 << 18), Some(1 << 19));
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn shared_runs_are_duplicated_and_not_split() {
    let mut store = Store::default();
    let mut tree = new_tree();
    let first = insert_run(&mut tree, &mut store, 64, 128);
    let mut other = tree.share().unwrap();
    let before = content(&tree);
    assert_eq!(tree.get_with_ownership(64), Some((first, false)));
    // The path is copied, and then the run is held twice: it cannot be split.
    let value = store.value();
    let refused = other.insert(70, value, &mut store).unwrap_err();
    assert_eq!(refused.error, TreeError::CannotSplit { key: 70 });
    assert_eq!((content(&other), content(&tree)), (before.clone(), before.clone()));
    check_with_spare(&[&tree, &other], &store, value);
    // It can be replaced as a whole.
    let mut out = Vec::new();
    other.remove_range(64..128, &mut store, |_, key, removed| out.push((key, removed))).unwrap();
    assert_eq!(out, [(64, Removed::OwnedRun(first, 64))]);
    store.discard(first);
    insert_run(&mut other, &mut store, 64, 64);
    store.discard(value);
    check([&tree, &other], &store);
    assert_eq!(content(&tree), before);
    // Where it is the last, it is split.
    other.clear(&mut store);
    let value = store.value();
    let old = tree.insert(70, value, &mut store).unwrap().unwrap();
    store.discard(old);
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

/// As [`check`], where one value is not in any tree.
fn check_with_spare(trees: &[&PageTree<u64>], store: &Store, spare: u64) {
    let held = store.held.iter().filter(|(value, _)| **value != spare).map(|(&value, &count)| (value, count)).collect();
    check(trees.iter().copied(), &Store { nodes: store.nodes.clone(), held, ..Store::default() });
}

#[test]
fn runs_that_cannot_be() {
    let mut store = Store::default();
    let mut tree = dense(1, &mut store);
    for (key, count) in [(64, 0), (65, 64), (64, 63), (u64::MAX - 63, 128)] {
        let refused = tree.insert_run(key, count, 7, &mut store).unwrap_err();
        assert_eq!((refused.value, refused.error), (7, TreeError::Misplaced { key, count }));
        assert!(tree.nodes_needed_to_insert_run(key, count).is_none());
    }
    assert_eq!(tree.insert_run(0, 64, 7, &mut store).unwrap_err().error, TreeError::Occupied { key: 0 });
    // The last keys there are, and a run beside a leaf in one new node.
    insert_run(&mut tree, &mut store, u64::MAX - 63, 64);
    insert_run(&mut tree, &mut store, 64, 64);
    assert_eq!(tree.insert_run(0, 1 << 12, 7, &mut store).unwrap_err().error, TreeError::Occupied { key: 0 });
    assert_eq!(tree.next_absent(u64::MAX - 5), None);
    assert_eq!(tree.iter().next_back().map(|entry| entry.0), Some(u64::MAX));
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn representations_change_in_place() {
    let mut store = Store::default();
    let mut tree = dense(100, &mut store);
    let mut other = tree.share().unwrap();
    store.taken = 0;
    let old = tree.get(5).unwrap();
    // The same content, elsewhere: both trees see it, and the slot that holds it is one as before.
    let moved = store.value();
    // SAFETY: this test has both trees, and one thread.
    let updated = unsafe { tree.update_in_place(5, |_| moved) };
    assert_eq!(updated, Some((old, false)));
    store.discard(old);
    assert_eq!((tree.get(5), other.get(5), store.taken), (Some(moved), Some(moved), 0));
    check([&tree, &other], &store);
    // SAFETY: as above.
    assert_eq!(unsafe { tree.update_in_place(100, |_| moved) }, None);
    // What is shared is not this tree's to change.
    assert_eq!(tree.update_owned(5, |_| unreachable!()), None);
    other.clear(&mut store);
    let value = store.value();
    assert_eq!(tree.update_owned(5, |_| value), Some(moved));
    store.discard(moved);
    assert_eq!(tree.get(5), Some(value));
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

#[test]
fn what_lost_keys_is_compacted() {
    let mut store = Store::default();
    let mut tree = dense(64 * 64, &mut store);
    for key in (0..64 * 64).filter(|key| key % 64 != 5) {
        let value = tree.remove(key, &mut store).unwrap().unwrap();
        store.discard(value);
    }
    let before = content(&tree);
    assert_eq!(tree.node_bytes(), 65 * 576);
    // As far as the store goes.
    store.node_budget = Some(10);
    assert_eq!(tree.compact(.., &mut store), 10);
    check([&tree], &store);
    store.node_budget = None;
    assert_eq!(tree.compact(64 * 60.., &mut store), 4);
    assert_eq!(tree.compact(.., &mut store), 50);
    assert_eq!((tree.compact(.., &mut store), tree.node_bytes()), (0, 576 + 64 * 64));
    assert_eq!(content(&tree), before);
    check([&tree], &store);
    tree.clear(&mut store);
    store.finish();
}

#[derive(Clone, Debug)]
enum Step {
    /// One of the other tests' operations on one of the trees.
    Do(Operation, usize),
    Run {
        block: u64,
        level: u32,
        count: u64,
        which: usize,
    },
    Move {
        first: u64,
        last: u64,
        to: u64,
        which: usize,
    },
    Split {
        first: u64,
        last: u64,
        which: usize,
    },
    Compact {
        first: u64,
        last: u64,
        which: usize,
    },
}

fn near() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..20_000_u64, 2 => 0..600_u64, 1 => (0..5_000_u64).prop_map(|below| u64::MAX - below), 1 => key()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (operation(), 0..4_usize).prop_map(|(operation, which)| Step::Do(operation, which)),
        4 => near().prop_flat_map(|key| (Just(key), 0..4_usize))
            .prop_map(|(key, which)| Step::Do(Operation::Insert(key), which)),
        4 => (0..64_u64, 1..3_u32, 1..10_u64, 0..4_usize)
            .prop_map(|(block, level, count, which)| Step::Run { block, level, count, which }),
        3 => (near(), 0..6000_u64, near(), 0..4_usize)
            .prop_map(|(first, count, to, which)| Step::Move { first, last: first.saturating_add(count), to, which }),
        2 => (0..50_u64, 0..50_u64, 0..50_u64, 0..4_usize).prop_map(|(first, count, to, which)| {
            Step::Move { first: first * 64, last: (first + count) * 64 + 63, to: to * 4096, which }
        }),
        2 => (near(), 0..6000_u64, 0..4_usize)
            .prop_map(|(first, count, which)| Step::Split { first, last: first.saturating_add(count), which }),
        2 => (near(), 0..6000_u64, 0..4_usize)
            .prop_map(|(first, count, which)| Step::Do(Operation::RemoveRange(first, first.saturating_add(count)), which)),
        1 => (near(), 0..6000_u64, 0..4_usize)
            .prop_map(|(first, count, which)| Step::Compact { first, last: first.saturating_add(count), which }),
    ]
}

/// A model of the keys alone is enough where values follow from one another.
fn apply_step(pairs: &mut Vec<Pair>, store: &mut Store, step: &Step, nodes: usize) -> Result<(), TreeError> {
    (store.node_budget, store.duplicate_budget) = (None, None);
    match *step {
        Step::Do(Operation::Share, which) => {
            if pairs.len() < 4 {
                let Pair { tree, model } = &pairs[which % pairs.len()];
                let pair = Pair { tree: tree.share().unwrap(), model: model.clone() };
                pairs.push(pair);
            }
        }
        Step::Do(Operation::Drop, which) => {
            if pairs.len() > 1 {
                let number = which % pairs.len();
                pairs.remove(number).tree.clear(store);
            }
        }
        Step::Do(ref operation, which) => {
            let number = which % pairs.len();
            let result = apply(&mut pairs[number], store, operation, Some(nodes), Some(nodes * 5));
            (store.node_budget, store.duplicate_budget) = (None, None);
            return match result {
                // A run that others hold cannot be split, with however many nodes.
                Err(TreeError::CannotSplit { .. }) if nodes >= MANY => Ok(()),
                result => result,
            };
        }
        Step::Run { block, level, count, which } => {
            let number = which % pairs.len();
            let Pair { tree, model } = &mut pairs[number];
            let size = 64_u64.pow(level);
            let (key, count) = (block * size, count * size);
            let occupied = model.range(key..key + count).next().map(|(&key, _)| key);
            let first = run_values(store, key, count);
            let needed = tree.nodes_needed_to_insert_run(key, count);
            (store.node_budget, store.duplicate_budget) = (Some(nodes), Some(nodes * 5));
            store.taken_by_size = NodesNeeded::NONE;
            let result = tree.insert_run(key, count, first, store);
            (store.node_budget, store.duplicate_budget) = (None, None);
            assert!(NodeSize::ALL.iter().all(|&size| store.taken_by_size.of(size) <= needed.of(size)));
            match result {
                Ok(()) => {
                    assert_eq!(occupied, None);
                    model.extend((0..count).map(|at| (key + at, first + at)));
                }
                Err(NotInserted { value, error }) => {
                    assert_eq!(value, first);
                    store.held.retain(|&value, _| !(first..first + count).contains(&value));
                    match error {
                        TreeError::Occupied { key } => assert_eq!(Some(key), occupied),
                        error => {
                            assert_eq!(occupied, None);
                            return Err(error);
                        }
                    }
                }
            }
        }
        Step::Move { first, last, to, which } => {
            let number = which % pairs.len();
            let Pair { tree, model } = &mut pairs[number];
            let moving: Vec<_> = model.range(first..=last).map(|(&key, &value)| (key, value)).collect();
            let needed = tree.nodes_needed_to_move(first..=last, to);
            (store.node_budget, store.duplicate_budget) = (Some(nodes), Some(nodes * 100));
            store.taken_by_size = NodesNeeded::NONE;
            let result = tree.move_range(first..=last, to, store);
            (store.node_budget, store.duplicate_budget) = (None, None);
            for size in NodeSize::ALL {
                assert!(
                    store.taken_by_size.of(size) <= needed.of(size),
                    "{size:?}: {:?} of {needed:?}",
                    store.taken_by_size
                );
            }
            match result {
                Ok(moved) => {
                    assert_eq!(moved, if to == first { 0 } else { moving.len() as u64 });
                    for (key, _) in &moving {
                        model.remove(key);
                    }
                    for (key, value) in moving {
                        assert_eq!(model.insert(to + (key - first), value), None);
                    }
                }
                Err(TreeError::Misplaced { .. }) => {
                    assert!(to.checked_add(moving.last().unwrap().0 - first).is_none());
                }
                Err(TreeError::Occupied { .. }) => {
                    let (low, high) = (moving[0].0, moving.last().unwrap().0);
                    let (start, end) = (to + (low - first), to + (high - first));
                    assert!(start <= high && low <= end || model.range(start..=end).next().is_some());
                }
                Err(TreeError::CannotSplit { .. }) if nodes >= MANY => {}
                Err(error) => return Err(error),
            }
        }
        Step::Split { first, last, which } => {
            let number = which % pairs.len();
            let tree = &mut pairs[number].tree;
            let needed = tree.nodes_needed_to_split_off(first..=last);
            (store.node_budget, store.duplicate_budget) = (Some(nodes), Some(nodes * 5));
            store.taken_by_size = NodesNeeded::NONE;
            let part = tree.split_off(first..=last, store);
            (store.node_budget, store.duplicate_budget) = (None, None);
            assert!(NodeSize::ALL.iter().all(|&size| store.taken_by_size.of(size) <= needed.of(size)));
            let part = match part {
                Err(TreeError::CannotSplit { .. }) if nodes >= MANY => return Ok(()),
                part => part?,
            };
            let mut model = pairs[number].model.split_off(&first);
            if let Some(beyond) = last.checked_add(1) {
                let after = model.split_off(&beyond);
                pairs[number].model.extend(after);
            }
            pairs.push(Pair { tree: part, model });
            if pairs.len() > 5 {
                pairs.remove(number).tree.clear(store);
            }
        }
        Step::Compact { first, last, which } => {
            let number = which % pairs.len();
            store.node_budget = Some(nodes);
            let tree = &mut pairs[number].tree;
            let (before, nodes) = (tree.node_bytes(), tree.node_count());
            let compacted = tree.compact(first..=last, store);
            assert!(tree.node_count() == nodes && (tree.node_bytes() < before) == (compacted != 0));
            store.node_budget = None;
        }
    }
    Ok(())
}

/// More nodes than any step of these tests takes.
const MANY: usize = 100_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Trees with runs that share structure do what their `BTreeMap`s do, whether ranges are moved, split off or
    /// removed; a step that fails for want of nodes or duplicates changes none of them; nothing leaks.
    #[test]
    fn runs_and_moves_agree_with_btree_map(steps in prop::collection::vec(step(), 1..25)) {
        run(steps);
    }
}

/// Makes steps on trees beside their models, each first with too few nodes.
fn run(steps: impl IntoIterator<Item = Step>) {
    let mut store = Store::default();
    let mut pairs = vec![Pair { tree: new_tree(), model: BTreeMap::new() }];
    for step in steps {
        let before: Vec<_> = pairs.iter().map(|pair| content(&pair.tree)).collect();
        let mut nodes = 0;
        while apply_step(&mut pairs, &mut store, &step, nodes).is_err() {
            assert!(nodes < MANY, "enough was there");
            check(pairs.iter().map(|pair| &pair.tree), &store);
            assert!(pairs.iter().map(|pair| content(&pair.tree)).eq(before.iter().cloned()), "unchanged");
            nodes = if nodes < 12 { nodes + 1 } else { MANY };
        }
        check(pairs.iter().map(|pair| &pair.tree), &store);
        for pair in &pairs {
            let whole: Vec<_> = pair.model.iter().map(|(&key, &value)| (key, value)).collect();
            assert_eq!(content(&pair.tree), whole.clone());
            let expanded =
                pair.tree.runs(..).flat_map(|run| (0..run.count).map(move |at| (run.key + at, run.value + at)));
            assert!(expanded.eq(whole.iter().copied()));
            let near = match step {
                Step::Do(Operation::Insert(key), _) => key,
                Step::Move { to, .. } => to,
                Step::Split { first, .. } | Step::Compact { first, .. } => first,
                Step::Run { block, level, .. } => block * 64_u64.pow(level),
                Step::Do(..) => 0,
            };
            pair.compare_at(near);
        }
    }
    for mut pair in pairs {
        pair.tree.clear(&mut store);
    }
    store.finish();
}
