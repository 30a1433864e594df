//! `vmcore::page_tree`.

use core::{num::NonZeroU64, ptr::NonNull};

use vmcore::page_tree::{
    CannotDuplicate, Context, Node, NodeStore, OutOfNodes, PageTree, TreeContext, TreeError, Uncounted,
};

use super::{debugged, displayed, hidden, shown};

/// A store that has nodes or not, as far as the compiler knows.
struct Store;

// SAFETY: it never has a node; the compiler does not know that.
unsafe impl NodeStore for Store {
    fn take(&mut self) -> Result<NonNull<Node>, OutOfNodes> {
        hidden(Err(OutOfNodes::new()))
    }

    unsafe fn give(&mut self, node: NonNull<Node>) {
        shown(node);
    }
}

pub(super) fn all() {
    displayed(OutOfNodes::new());
    displayed(CannotDuplicate::new());
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
    shown(tree.remove(key, context));
    shown(tree.remove_range(hidden(1)..hidden(9), context, |_, key, removed| shown((key, removed.value()))));
    shown(tree.truncate(key, context, |_, key, removed| shown((key, removed))));
}
