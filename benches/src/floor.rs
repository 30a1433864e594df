//! The floor: loops that do only the stores, over leaf tables that are there already.
//!
//! Ranges: one relaxed atomic store per page, leaf table after leaf table; nothing is read, looked up, counted or freed. One page: a bare walk of four dependent loads
//! without a single check, then the store. Where the hardware's dirty bits are relied on, the store is the locked read-modify-write that such an entry needs.
//!
//! Not a candidate: nobody could use these tables. They show what the memory takes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    arena::Arena,
    subject::{FIRST_ADDRESS, LEAF_TABLE, Offer, PAGE, Subject, physical},
    walker::Format,
};

type Table = [AtomicU64; 512];

/// What a table lets through: everything.
const TABLE_BITS: u64 = 0b10_0111;
/// A program's page, used, not executable.
const LEAF_BITS: u64 = 1 << 63 | 0b10_0101;
const WRITABLE: u64 = 1 << 1;
const DIRTY: u64 = 1 << 6;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The floor; where `LOCKED`, entries are changed by locked operations.
#[derive(Debug)]
pub struct Floor<const LOCKED: bool> {
    root: &'static Table,
    leaves: Vec<&'static Table>,
}

fn table(arena: &Arena) -> &'static Table {
    let frame = arena.allocate(true).unwrap();
    // SAFETY: the frame is zeroed, aligned, lives as long as the process, and is accessed as atomics only.
    unsafe { &*(frame as *const Table) }
}

fn address_of(table: &Table) -> u64 {
    table.as_ptr() as u64
}

#[inline(always)]
fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize & 511
}

#[inline(always)]
fn word(address: u64, writable: bool) -> u64 {
    physical(address) | LEAF_BITS | if writable { WRITABLE } else { 0 }
}

impl<const LOCKED: bool> Floor<LOCKED> {
    /// The parts of a range that lie in one leaf table each, with their first address.
    #[inline(always)]
    fn each_part(&self, start: u64, pages: u64, mut part: impl FnMut(&[AtomicU64], u64)) {
        let (mut address, end) = (start, start + pages * PAGE);
        while address < end {
            let first = index(address, 0);
            let count = ((end - address) / PAGE).min(512 - first as u64) as usize;
            let leaf = self.leaves[((address - FIRST_ADDRESS) / LEAF_TABLE) as usize];
            part(&leaf[first..first + count], address);
            address += count as u64 * PAGE;
        }
    }

    /// Stores `word` to the first entry, and `stride` more to each one that follows.
    #[inline(always)]
    fn store(entries: &[AtomicU64], mut word: u64, stride: u64) {
        // Eight at a time: the compiler does not unroll loops over atomics.
        let mut chunks = entries.chunks_exact(8);
        for chunk in &mut chunks {
            for (step, entry) in chunk.iter().enumerate() {
                entry.store(word + step as u64 * stride, Relaxed);
            }
            word += 8 * stride;
        }
        for entry in chunks.remainder() {
            entry.store(word, Relaxed);
            word += stride;
        }
    }

    /// The entry that translates `address`.
    #[inline(always)]
    fn walk(&self, address: u64) -> &AtomicU64 {
        let mut table = self.root;
        for level in [3, 2, 1] {
            let next = table[index(address, level)].load(Relaxed) & ADDRESS;
            // SAFETY: every entry on the way was made by `new`, for every address that is asked for.
            table = unsafe { &*(next as *const Table) };
        }
        &table[index(address, 0)]
    }
}

impl<const LOCKED: bool> Subject for Floor<LOCKED> {
    const NAME: &'static str = "floor";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Unmap, Offer::TakeDirty, Offer::Translate];

    fn new(arena: &'static Arena) -> Self {
        let (root, level_2) = (table(arena), table(arena));
        root[index(FIRST_ADDRESS, 3)].store(address_of(level_2) | TABLE_BITS, Relaxed);
        let mut leaves = Vec::new();
        // All of the arena but the tables above: one of 512 for the third level.
        while arena.used() + 2 <= arena.frames() {
            let address = FIRST_ADDRESS + leaves.len() as u64 * LEAF_TABLE;
            let slot = &level_2[index(address, 2)];
            if slot.load(Relaxed) == 0 {
                slot.store(address_of(table(arena)) | TABLE_BITS, Relaxed);
            }
            let leaf = table(arena);
            // SAFETY: the slot was filled above.
            let level_1 = unsafe { &*((slot.load(Relaxed) & ADDRESS) as *const Table) };
            level_1[index(address, 1)].store(address_of(leaf) | TABLE_BITS, Relaxed);
            leaves.push(leaf);
        }
        Self { root, leaves }
    }

    fn root(&self) -> u64 {
        address_of(self.root)
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        self.each_part(start, pages, |entries, address| Self::store(entries, word(address, writable), PAGE));
    }

    fn map_one(&mut self, page: u64) {
        self.walk(page).store(word(page, true), Relaxed);
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        self.each_part(start, pages, |entries, address| {
            if LOCKED {
                for entry in entries {
                    let old = entry.load(Relaxed);
                    let new = if writable { old | WRITABLE } else { old & !WRITABLE };
                    let _ = entry.compare_exchange(old, new, Relaxed, Relaxed);
                }
            } else {
                Self::store(entries, word(address, writable), PAGE);
            }
        });
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        self.each_part(start, pages, |entries, _| {
            if LOCKED {
                for entry in entries {
                    std::hint::black_box(entry.swap(0, Relaxed));
                }
            } else {
                Self::store(entries, 0, 0);
            }
        });
    }

    fn unmap_one(&mut self, page: u64) {
        self.walk(page).store(0, Relaxed);
    }

    fn take_dirty(&mut self, start: u64, pages: u64) -> u64 {
        let mut found = 0;
        self.each_part(start, pages, |entries, _| {
            for entry in entries {
                if LOCKED {
                    if entry.load(Relaxed) & DIRTY != 0 {
                        found += entry.fetch_and(!DIRTY, Relaxed) >> 6 & 1;
                    }
                } else {
                    let old = entry.load(Relaxed);
                    if old & DIRTY != 0 {
                        entry.store(old & !DIRTY, Relaxed);
                        found += 1;
                    }
                }
            }
        });
        found
    }

    fn translate(&self, address: u64) -> u64 {
        (self.walk(address).load(Relaxed) & ADDRESS) | (address & (PAGE - 1))
    }
}
