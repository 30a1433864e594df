//! `vmcore::page_tree`.

use core::{num::NonZeroU64, ptr::NonNull};

use vmcore::page_tree::{
    CannotDuplicate, Context, Node, NodeSize, NodeStore, NodesNeeded, OutOfNodes, PageTree, TreeContext, TreeError,
    TreeValue, Uncounted,
};

use super::{debugged, displayed, hidden, shown};

/// A store that has nodes or not, as far as the compiler knows.
struct Store;

// SAFETY: it never has a node; the compiler does not know that.
unsafe impl NodeStore for Store {
    fn take(&mut self, _: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        hidden(Err(OutOfNodes::new()))
    }

    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        shown((node, size));
    }
}

pub(super) fn all() {
    displayed(OutOfNodes::new());
    displayed(CannotDuplicate::new());
    let mut needed = hidden(NodesNeeded::of_each(hidden(1)));
    needed += hidden(NodesNeeded::NONE);
    needed.add(hidden(NodeSize::Small), hidden(1));
    shown((needed.of(hidden(NodeSize::Full)), needed.total(), needed.is_none()));
    shown((hidden(NodeSize::Full).bytes(), hidden(NonZeroU64::MIN).advance(hidden(1))));
    // SAFETY: every context below has the one store there is.
    let mut tree = hidden(unsafe { PageTree::<NonZeroU64>::new() });
    let mut context = Context { nodes: &mut Store, values: &mut Uncounted };
    edit(&mut tree, &mut context);
    match tree.share() {
        Ok(mut other) => {
            shown(other.take());
            edit(&mut other, &mut context);
            other.clear(&mut context);
        }
        Err(error) => displayed(error),
    }
    tree.clear(&mut context);
}

fn edit<C: TreeContext<NonZeroU64>>(tree: &mut PageTree<NonZeroU64>, context: &mut C) {
    let key = hidden(1_u64);
    shown(tree.len());
    shown(tree.is_empty());
    if let Err(refused) = tree.insert(key, hidden(NonZeroU64::MIN), context) {
        displayed(refused);
        debugged(refused);
    }
    shown(
        tree.get_or_insert_with(key, context, |_| hidden(Err::<NonZeroU64, TreeError>(TreeError::OutOfNodes { key }))),
    );
    shown(tree.get(key));
    shown(tree.contains_key(key));
    shown(tree.next_present(key));
    shown(tree.previous_present(key));
    shown(tree.next_absent(key));
    shown(tree.first_free_run(hidden(1)..hidden(9), hidden(2)));
    shown(tree.first_free_run(.., hidden(2)));
    shown(tree.is_sole_owner(key));
    shown(tree.node_count());
    shown(tree.get_with_ownership(key).is_some());
    shown(tree.run_with_ownership(key).is_some());
    shown(tree.nodes_needed_to_insert(key));
    shown(tree.nodes_needed_to_remove_range(hidden(1)..=hidden(9)));
    shown(tree.prepare_insert(key, context));
    shown(tree.prepare_remove_range(hidden(1)..hidden(9), context));
    let mut pages = tree.range(hidden(1)..);
    debugged(&pages);
    shown(pages.next());
    shown(pages.next_back());
    for page in tree.iter() {
        shown(page);
    }
    for page in &*tree {
        shown(page);
    }
    debugged(&*tree);
    shown(tree.nodes_needed_to_split_off(hidden(1)..hidden(9)));
    if let Ok(mut split) = tree.split_off(hidden(1)..hidden(9), context) {
        split.clear(context);
    }
    shown(tree.node_bytes());
    shown(tree.nodes_needed_to_insert_run(key, hidden(64)));
    if let Err(refused) = tree.insert_run(key, hidden(64), hidden(NonZeroU64::MIN), context) {
        displayed(refused);
    }
    let mut runs = tree.runs(hidden(1)..);
    debugged(&runs);
    shown(runs.next());
    shown(runs.next_back());
    shown(tree.nodes_needed_to_move(hidden(1)..hidden(9), hidden(64)));
    shown(tree.move_range(hidden(1)..hidden(9), hidden(64), context));
    // SAFETY: nobody else uses a tree that shares structure.
    shown(unsafe { tree.update_in_place(key, |_| hidden(NonZeroU64::MIN)) });
    shown(tree.update_owned(key, |_| hidden(NonZeroU64::MIN)));
    shown(tree.compact(hidden(1)..hidden(9), context));
    shown(tree.remove(key, context));
    shown(
        tree.remove_range(hidden(1)..hidden(9), context, |_, key, removed| {
            shown((key, removed.count(), removed.value()))
        }),
    );
    shown(tree.truncate(key, context, |_, key, removed| shown((key, removed))));
}
