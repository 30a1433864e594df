//! A 512-ary radix tree as a kernel would write it by hand: what the page tree is compared with.
//!
//! Tables of a page each, nine bits of the key a level, no compression of paths; as many levels as the largest key so far needs. Each table counts its entries
//! beside the tree, so that one that is full is skipped in the search for a free key.

use crate::arena::{Arena, FRAME};

const BITS: u32 = 9;
const ENTRIES: usize = 1 << BITS;

type Table = [u64; ENTRIES];

/// The tree. Values are not zero.
#[derive(Debug)]
pub struct Radix512 {
    arena: &'static Arena,
    root: *mut Table,
    /// How far a key is shifted for an entry of the root.
    shift: u32,
    /// How many keys lie below each table, by frame.
    counts: Vec<u64>,
}

impl Radix512 {
    /// An empty tree in the arena.
    pub fn new(arena: &'static Arena) -> Self {
        let mut tree = Self { arena, root: std::ptr::null_mut(), shift: 0, counts: vec![0; arena.frames()] };
        tree.root = tree.table();
        tree
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.arena.reset();
        self.shift = 0;
        self.root = self.table();
    }

    /// Bytes of all tables.
    pub fn bytes(&self) -> u64 {
        (self.arena.used() * FRAME) as u64
    }

    fn table(&mut self) -> *mut Table {
        let table = self.arena.allocate(true).expect("an arena that is large enough") as *mut Table;
        let count = self.count(table);
        self.counts[count] = 0;
        table
    }

    #[inline]
    fn count(&self, table: *mut Table) -> usize {
        (table as usize - self.arena.base() as usize) / FRAME
    }

    /// Puts a value at a key that is absent, or present.
    #[inline]
    pub fn insert(&mut self, key: u64, value: u64) {
        while key >> self.shift >> BITS != 0 {
            let root = self.table();
            let (old, new) = (self.count(self.root), self.count(root));
            self.counts[new] = self.counts[old];
            // SAFETY: the table was just taken.
            unsafe { (*root)[0] = self.root as u64 };
            self.root = root;
            self.shift += BITS;
        }
        let mut path = [0; 8];
        let mut table = self.root;
        let mut shift = self.shift;
        let mut level = 0;
        loop {
            path[level & 7] = self.count(table);
            let index = (key >> shift) as usize % ENTRIES;
            // SAFETY: tables of the tree live until it is cleared.
            let entry = unsafe { &mut (*table)[index] };
            if shift == 0 {
                if std::mem::replace(entry, value) == 0 {
                    path.iter().take(level + 1).for_each(|count| self.counts[*count] += 1);
                }
                return;
            }
            if *entry == 0 {
                *entry = self.table() as u64;
            }
            table = *entry as *mut Table;
            shift -= BITS;
            level += 1;
        }
    }

    /// The value at a key.
    #[inline]
    pub fn get(&self, key: u64) -> Option<u64> {
        let mut shift = self.shift;
        if key >> shift >> BITS != 0 {
            return None;
        }
        let mut table = self.root;
        loop {
            // SAFETY: tables of the tree live until it is cleared.
            let entry = unsafe { (*table)[(key >> shift) as usize % ENTRIES] };
            if entry == 0 {
                return None;
            }
            if shift == 0 {
                return Some(entry);
            }
            table = entry as *mut Table;
            shift -= BITS;
        }
    }

    /// Calls `each` with every key and value, in order.
    pub fn for_each(&self, each: &mut impl FnMut(u64, u64)) {
        fn visit(table: *mut Table, shift: u32, base: u64, each: &mut impl FnMut(u64, u64)) {
            // SAFETY: tables of the tree live until it is cleared.
            for (index, &entry) in unsafe { &*table }.iter().enumerate().filter(|(_, entry)| **entry != 0) {
                let key = base | (index as u64) << shift;
                if shift == 0 { each(key, entry) } else { visit(entry as *mut Table, shift - BITS, key, each) }
            }
        }
        visit(self.root, self.shift, 0, each);
    }

    /// The first key that is absent.
    pub fn first_free(&self) -> u64 {
        let mut table = self.root;
        let mut shift = self.shift;
        let mut base = 0;
        loop {
            // SAFETY: tables of the tree live until it is cleared.
            let entries = unsafe { &*table };
            let with_room =
                |entry: u64| entry == 0 || shift != 0 && self.counts[self.count(entry as *mut Table)] < 1 << shift;
            let Some(index) = entries.iter().position(|&entry| with_room(entry)) else {
                // Only the root can be full: where it is not, neither is what was gone into.
                return base + (1 << (shift + BITS));
            };
            base += (index as u64) << shift;
            if entries[index] == 0 {
                return base;
            }
            table = entries[index] as *mut Table;
            shift -= BITS;
        }
    }
}
