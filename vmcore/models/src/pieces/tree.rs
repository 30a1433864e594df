//! Trees that share nodes: who writes copies what another holds, who lets go last gives it back, and nobody writes or gives back what
//! another still looks at.

use std::alloc::Layout;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use vmcore::page_tree::{CannotDuplicate, Context, Node, NodeSize, NodeStore, OutOfNodes, PageTree, ValueOwner};
use vmcore::word::Width;

use super::words::share;

/// Nodes that the trees had before they were shared: each with a cell for its contents. Nodes are given back to the host when the schedule is
/// over, so that no address is used twice in it.
struct Nodes {
    all: Mutex<Vec<NonNull<Node>>>,
    cells: HashMap<NonNull<Node>, UnsafeCell<()>>,
    given: AtomicU64,
    /// Per value, how many slots hold it.
    held: [AtomicU64; 4],
}

// SAFETY: the nodes are the trees', which say who may reach them; the cells are there to see whether that is so.
unsafe impl Send for Nodes {}
// SAFETY: as above.
unsafe impl Sync for Nodes {}

impl Nodes {
    fn empty() -> Self {
        Self {
            all: Mutex::default(),
            cells: HashMap::new(),
            given: AtomicU64::new(0),
            held: [const { AtomicU64::new(0) }; 4],
        }
    }

    fn taken(&self) -> u64 {
        self.all.lock().expect("no panic under it").len() as u64
    }

    /// Looks at what every shared node holds.
    fn look(&self) {
        self.cells.values().for_each(|cell| cell.with(|_| {}));
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in self.all.get_mut().expect("no panic under it").drain(..) {
            // SAFETY: allocated by `take`, and no tree is left.
            unsafe { std::alloc::dealloc(node.as_ptr().cast(), Layout::new::<Node>()) }
        }
    }
}

/// What one thread's changes take nodes from.
struct Store<'a> {
    nodes: &'a Nodes,
    /// How many this thread has taken.
    taken: u64,
}

// SAFETY: a node is the host's memory, given to one taker.
unsafe impl NodeStore for Store<'_> {
    /// Each has the memory of the largest.
    fn take(&mut self, _: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        self.taken += 1;
        // SAFETY: a node's size is not zero.
        let node = NonNull::new(unsafe { std::alloc::alloc_zeroed(Layout::new::<Node>()) }.cast()).expect("memory");
        self.nodes.all.lock().expect("no panic under it").push(node);
        Ok(node)
    }

    unsafe fn give(&mut self, node: NonNull<Node>, _: NodeSize) {
        self.nodes.given.fetch_add(1, Ordering::Relaxed);
        if let Some(cell) = self.nodes.cells.get(&node) {
            cell.with_mut(|_| {});
        }
    }
}

struct Holders<'a>(&'a Nodes);

impl ValueOwner<NonZeroU64> for Holders<'_> {
    fn duplicate(&mut self, value: NonZeroU64) -> Result<NonZeroU64, CannotDuplicate> {
        self.0.held[value.get() as usize].fetch_add(1, Ordering::Relaxed);
        Ok(value)
    }

    fn discard(&mut self, value: NonZeroU64) {
        let held = self.0.held[value.get() as usize].fetch_sub(1, Ordering::Relaxed);
        assert!(held != 0, "value {value} is discarded more often than it is held");
    }
}

/// A tree that a thread works on, and what it works with.
struct Mine {
    tree: PageTree<NonZeroU64>,
    nodes: Arc<Nodes>,
}

// SAFETY: a tree is one thread's; what it shares with others is what is checked.
unsafe impl Send for Mine {}

impl Mine {
    /// Puts a value in, and says how many nodes that took.
    fn insert(&mut self, key: u64, value: u64) -> u64 {
        let mut store = Store { nodes: &self.nodes, taken: 0 };
        let value = NonZeroU64::new(value).expect("not zero");
        self.nodes.held[value.get() as usize].fetch_add(1, Ordering::Relaxed);
        let mut context = Context { nodes: &mut store, values: &mut Holders(&self.nodes) };
        let before = self.tree.insert(key, value, &mut context).expect("there are nodes");
        if let Some(before) = before {
            Holders(&self.nodes).discard(before);
        }
        store.taken
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.tree.get(key).map(NonZeroU64::get)
    }

    fn let_go(mut self) {
        let mut store = Store { nodes: &self.nodes, taken: 0 };
        self.tree.clear(&mut Context { nodes: &mut store, values: &mut Holders(&self.nodes) });
    }
}

/// Two keys in two leaves below one root.
const KEYS: [u64; 2] = [3, 64 + 5];

/// So many trees of the same two values, which share every node.
fn shared<const N: usize>() -> ([Mine; N], Arc<Nodes>) {
    // SAFETY: every node comes from the host.
    let mut first = Mine { tree: unsafe { PageTree::new() }, nodes: Arc::new(Nodes::empty()) };
    first.insert(KEYS[0], 1);
    first.insert(KEYS[1], 2);
    let Mine { tree, nodes } = first;
    let Ok(mut inner) = Arc::try_unwrap(nodes) else { panic!("nobody else has it") };
    for node in inner.all.get_mut().expect("no panic under it") {
        inner.cells.insert(*node, UnsafeCell::new(()));
        // SAFETY: a node begins with a cache line of words, of which the count of its holders is one.
        unsafe { share(node.cast(), 64, Width::Eight) };
    }
    let nodes = Arc::new(inner);
    let mut trees: Vec<_> =
        (1..N).map(|_| Mine { tree: tree.share().expect("few hold it"), nodes: nodes.clone() }).collect();
    trees.push(Mine { tree, nodes: nodes.clone() });
    let Ok(trees) = trees.try_into() else { panic!("as many as asked for") };
    (trees, nodes)
}

/// Everything came back, once.
fn check(nodes: &Nodes) {
    assert_eq!(nodes.given.load(Ordering::Relaxed), nodes.taken(), "nodes are lost, or given back twice");
    assert!(nodes.held.iter().all(|held| held.load(Ordering::Relaxed) == 0), "values are lost");
}

pub(super) fn let_go() {
    let ([one, two], nodes) = shared();
    let thread = thread::spawn(move || {
        two.nodes.look();
        two.let_go();
    });
    one.nodes.look();
    one.let_go();
    thread.join().expect("no panic");
    check(&nodes);
}

/// Each writes to the leaf that the other reads, or to the same one.
pub(super) fn both_write() {
    let ([one, two], nodes) = shared();
    let write = |mut mine: Mine, value: u64| {
        mine.nodes.look();
        let taken = mine.insert(KEYS[0], value);
        if taken == 0 {
            // Root and leaf were nobody else's any more.
            mine.nodes.cells.values().for_each(|cell| cell.with_mut(|_| {}));
        }
        assert_eq!(KEYS.map(|key| mine.get(key)), [Some(value), Some(2)], "another tree's value");
        mine.let_go();
    };
    let thread = thread::spawn(move || write(two, 3));
    write(one, 1);
    thread.join().expect("no panic");
    check(&nodes);
}

pub(super) fn write_against_let_go() {
    let ([mut one, two], nodes) = shared();
    let thread = thread::spawn(move || {
        two.nodes.look();
        two.let_go();
    });
    let taken = one.insert(KEYS[0], 3);
    if taken == 0 {
        one.nodes.cells.values().for_each(|cell| cell.with_mut(|_| {}));
    }
    assert_eq!(KEYS.map(|key| one.get(key)), [Some(3), Some(2)]);
    one.let_go();
    thread.join().expect("no panic");
    check(&nodes);
}

pub(super) fn three() {
    let ([one, mut two, three], nodes) = shared();
    let first = thread::spawn(move || {
        one.nodes.look();
        one.let_go();
    });
    let second = thread::spawn(move || {
        two.insert(KEYS[1], 3);
        assert_eq!(KEYS.map(|key| two.get(key)), [Some(1), Some(3)]);
        two.let_go();
    });
    three.nodes.look();
    assert_eq!(KEYS.map(|key| three.get(key)), [Some(1), Some(2)]);
    three.let_go();
    first.join().expect("no panic");
    second.join().expect("no panic");
    check(&nodes);
}
