//! Who takes part in the rows about the page tree, and what each is asked to do.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    ptr::NonNull,
};

use vmcore::page_tree::{Context, Node, NodeSize, NodeStore, OutOfNodes, PageTree, Uncounted};

use super::radix::Radix512;
use crate::arena::{Arena, FRAME};

/// A map from key to value.
pub trait Subject {
    /// Its name in the table.
    const NAME: &'static str;
    /// An empty one, with room for so many tables of a page where it brings memory of its own.
    fn new(tables: usize) -> Self;
    /// Puts a value, which is not zero, at a key.
    fn insert(&mut self, key: u64, value: u64);
    /// The value at a key.
    fn get(&self, key: u64) -> Option<u64>;
    /// All keys and all values, visited in order and [added](add) up; none if it has no order.
    fn sum(&self) -> Option<(u64, u64)>;
    /// The first absent key from this one on; none if it cannot be found without asking for every key.
    fn first_free(&self, from: u64) -> Option<u64>;
    /// Bytes of its memory, where they can be told.
    fn bytes(&self) -> Option<u64>;
    /// Empties it.
    fn clear(&mut self);
}

/// Adds a key and its value to the sums, so that their order matters.
#[inline]
pub fn add(sum: (u64, u64), (key, value): (&u64, &u64)) -> (u64, u64) {
    (sum.0.wrapping_add(*key), sum.1.rotate_left(1) ^ *value)
}

/// Nodes in frames as `vmcore`'s own pools lay them out: the first 64 bytes of each are bookkeeping.
#[derive(Debug)]
pub struct Nodes {
    arena: &'static Arena,
    /// By size: what came back, linked through the first word, and what is left of the last frame.
    free: [Option<NonNull<u64>>; 3],
    fresh: [(usize, usize); 3],
}

impl Nodes {
    fn new(arena: &'static Arena) -> Self {
        Self { arena, free: [None; 3], fresh: [(0, 0); 3] }
    }
}

// SAFETY: a node lies in a frame of the arena, or came back before; nobody else has it.
unsafe impl NodeStore for Nodes {
    #[inline]
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        let (free, fresh) = (&mut self.free[size as usize], &mut self.fresh[size as usize]);
        if let Some(node) = *free {
            // SAFETY: what came back holds a link to what came back before.
            *free = NonNull::new(unsafe { node.read() } as *mut u64);
            return Ok(node.cast());
        }
        if fresh.0 + size.bytes() > fresh.1 {
            let frame = self.arena.allocate(false).ok_or(OutOfNodes::new())? as usize;
            *fresh = (frame + 64, frame + FRAME);
        }
        let node = fresh.0;
        fresh.0 += size.bytes();
        NonNull::new(node as *mut Node).ok_or(OutOfNodes::new())
    }

    #[inline]
    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        let free = &mut self.free[size as usize];
        // SAFETY: the node is large enough for a link, and given up.
        unsafe { node.cast::<u64>().write(free.map_or(0, |free| free.as_ptr() as u64)) };
        *free = Some(node.cast());
    }
}

/// `vmcore`'s page tree.
#[derive(Debug)]
pub struct Vmcore {
    tree: PageTree<NonZeroU64>,
    nodes: Nodes,
}

impl Subject for Vmcore {
    const NAME: &'static str = "vmcore";

    fn new(tables: usize) -> Self {
        // SAFETY: the tree has one store of nodes.
        Self { tree: unsafe { PageTree::new() }, nodes: Nodes::new(Arena::leaked(tables)) }
    }

    #[inline]
    fn insert(&mut self, key: u64, value: u64) {
        let Some(value) = NonZeroU64::new(value) else { return };
        let context = &mut Context { nodes: &mut self.nodes, values: &mut Uncounted };
        if let Err(error) = self.tree.insert(key, value, context) {
            panic!("{error}");
        }
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.tree.get(key).map(NonZeroU64::get)
    }

    #[inline]
    fn sum(&self) -> Option<(u64, u64)> {
        Some(self.tree.iter().fold((0, 0), |sum, (key, value)| add(sum, (&key, &value.get()))))
    }

    #[inline]
    fn first_free(&self, from: u64) -> Option<u64> {
        self.tree.first_free_run(from.., 1)
    }

    fn bytes(&self) -> Option<u64> {
        // What the last frame of each size has left is not counted.
        let left: usize = self.fresh_left();
        Some((self.nodes.arena.used() * FRAME - left) as u64)
    }

    fn clear(&mut self) {
        // Forgotten as a whole: nothing of it is used afterwards, and the arena takes every frame back.
        let _ = self.tree.take();
        self.nodes.arena.reset();
        self.nodes = Nodes::new(self.nodes.arena);
    }
}

impl Vmcore {
    fn fresh_left(&self) -> usize {
        self.nodes.fresh.iter().map(|(next, end)| end - next).sum()
    }
}

/// The radix tree of 512 entries a table.
#[derive(Debug)]
pub struct Radix(Radix512);

impl Subject for Radix {
    const NAME: &'static str = "radix 512";

    fn new(tables: usize) -> Self {
        Self(Radix512::new(Arena::leaked(tables)))
    }

    #[inline]
    fn insert(&mut self, key: u64, value: u64) {
        self.0.insert(key, value);
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(key)
    }

    #[inline]
    fn sum(&self) -> Option<(u64, u64)> {
        let mut sum = (0, 0);
        self.0.for_each(&mut |key, value| sum = add(sum, (&key, &value)));
        Some(sum)
    }

    #[inline]
    fn first_free(&self, _from: u64) -> Option<u64> {
        Some(self.0.first_free())
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.0.bytes())
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// `BTreeMap`.
#[derive(Debug)]
pub struct Ordered(BTreeMap<u64, u64>);

impl Subject for Ordered {
    const NAME: &'static str = "BTreeMap";

    fn new(_: usize) -> Self {
        Self(BTreeMap::new())
    }

    #[inline]
    fn insert(&mut self, key: u64, value: u64) {
        self.0.insert(key, value);
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key).copied()
    }

    #[inline]
    fn sum(&self) -> Option<(u64, u64)> {
        Some(self.0.iter().fold((0, 0), add))
    }

    fn first_free(&self, _from: u64) -> Option<u64> {
        None
    }

    fn bytes(&self) -> Option<u64> {
        None
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// `HashMap`.
#[derive(Debug)]
pub struct Hashed(HashMap<u64, u64>);

impl Subject for Hashed {
    const NAME: &'static str = "HashMap";

    fn new(_: usize) -> Self {
        Self(HashMap::new())
    }

    #[inline]
    fn insert(&mut self, key: u64, value: u64) {
        self.0.insert(key, value);
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key).copied()
    }

    fn sum(&self) -> Option<(u64, u64)> {
        None
    }

    fn first_free(&self, _from: u64) -> Option<u64> {
        None
    }

    fn bytes(&self) -> Option<u64> {
        None
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
