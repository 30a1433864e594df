//! Pages that were taken out of memory, compressed: where their bytes are kept until they are wanted again.
//!
//! ```text
//!   index (open addressing, linear probing)          pages of the store, 64 granules of 64 bytes each
//!   ┌──────────┬──────┬────────┬───────┐             ┌────────────────────────────────────┐
//!   │ key      │ page │ first  │ bytes │ ──────────► │ ░░░░ ████████ ░░░░░░░░ ▓▓▓▓▓▓ ░░░░ │  free granules: one word of bits
//!   └──────────┴──────┴────────┴───────┘             └────────────────────────────────────┘
//! ```
//!
//! It takes pages for itself only where nothing that it has is large enough, and gives one back with the last thing in it. Its own tables are lent to it, so that
//! putting something in never takes more than one page. What does not fit in a page less a granule is refused by who compresses: keeping it would win nothing.
//!
//! # Invariants
//!
//! - A key is in the index once at the most, and between the place that its hash names and the place where it is no entry is empty.
//! - Of a page of the store, the granules of everything in it are disjoint and not free; all others are free. A page of which all are free is given back.

use core::fmt;

/// Bytes of a page.
pub const PAGE: usize = 4096;
const GRANULE: usize = PAGE / 64;

/// Where the store's pages come from.
pub trait StoreMemory {
    /// Takes a page; its number, or none.
    fn take(&mut self) -> Option<u64>;
    /// Gives a page back, of which nothing is used any more.
    fn give(&mut self, page: u64);
    /// Shows a page that was taken.
    fn with<R>(&mut self, page: u64, look: impl FnOnce(&mut [u8; PAGE]) -> R) -> R;
}

/// A place of the index. A key of zero: it is empty.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Entry {
    key: u64,
    page: u32,
    /// The first granule in the low 6 bits, and bytes above.
    place: u32,
}

impl Entry {
    const fn granule(self) -> u32 {
        self.place & 63
    }

    const fn bytes(self) -> usize {
        (self.place >> 6) as usize
    }
}

/// A page of the store, or a place for one: no granule is both in use and in a place without a page.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StorePage {
    number: u64,
    /// A bit for each granule in use; zero where there is no page.
    used: u64,
}

/// There is no room: no page was to be had, or a table is full. The store has what it had, but for what had the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the store of what was taken out of memory is full")
    }
}

impl core::error::Error for Full {}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Things.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pages that they take.
    pub pages: u64,
}

/// The store.
#[derive(Debug)]
pub struct CompressedStore<'a> {
    index: &'a mut [Entry],
    pages: &'a mut [StorePage],
    /// Where a page with room is looked for first.
    hint: usize,
    counts: StoreCounts,
}

/// Granules for so many bytes.
const fn granules(bytes: usize) -> u32 {
    bytes.div_ceil(GRANULE) as u32
}

/// The granules from `first` on, as bits.
const fn bits(first: u32, count: u32) -> u64 {
    (if count >= 64 { u64::MAX } else { (1 << count) - 1 }) << first
}

/// The first run of `count` clear bits, if there is one. `count` is 1 to 64.
const fn clear_run(used: u64, count: u32) -> Option<u32> {
    // Bit k of `runs` stays as long as the bits from k on are clear: so many that twice as many are asked for each time.
    let mut runs = !used;
    let mut have = 1;
    while have < count {
        let step = if count - have < have { count - have } else { have };
        runs &= runs >> step;
        have += step;
    }
    if runs == 0 { None } else { Some(runs.trailing_zeros()) }
}

impl<'a> CompressedStore<'a> {
    /// An empty store, with tables that are zero: the index a power of two long, of which seven eighths can be used.
    #[must_use]
    pub fn new(index: &'a mut [Entry], pages: &'a mut [StorePage]) -> Self {
        // The largest power of two that is there.
        let length = if index.is_empty() { 0 } else { 1 << index.len().ilog2() };
        let index = index.get_mut(..length).unwrap_or_default();
        Self { index, pages, hint: 0, counts: StoreCounts::default() }
    }

    /// What it keeps.
    #[must_use]
    pub const fn counts(&self) -> StoreCounts {
        self.counts
    }

    /// The place of the index that a key's search begins at.
    fn home(&self, key: u64) -> usize {
        let bits = self.index.len().checked_ilog2().unwrap_or(0);
        // The high bits of the product are the well mixed ones.
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15).checked_shr(64 - bits).unwrap_or(0) as usize
    }

    /// The place of a key, or the empty one where it would go. `None` in an index without an empty place.
    fn find(&self, key: u64) -> Option<(usize, Option<Entry>)> {
        let mask = self.index.len().wrapping_sub(1);
        let home = self.home(key);
        (0..self.index.len()).map(|step| (home + step) & mask).find_map(|place| {
            let entry = *self.index.get(place)?;
            match entry.key {
                0 => Some((place, None)),
                found if found == key => Some((place, Some(entry))),
                _ => None,
            }
        })
    }

    /// Keeps bytes (1 to a page) under a key that is not zero, in the place of what it had.
    ///
    /// # Errors
    ///
    /// [`Full`]: nothing has the key then.
    pub fn put(&mut self, memory: &mut impl StoreMemory, key: u64, bytes: &[u8]) -> Result<(), Full> {
        self.remove(memory, key);
        let count = granules(bytes.len());
        let full = self.counts.entries as usize >= self.index.len() / 8 * 7;
        if key == 0 || count == 0 || count > 64 || full {
            return Err(Full);
        }
        let (place, None) = self.find(key).ok_or(Full)? else { return Err(Full) };
        let (page, granule) = self.room(memory, count)?;
        let Some(store) = self.pages.get_mut(page) else { return Err(Full) };
        store.used |= bits(granule, count);
        let start = granule as usize * GRANULE;
        memory.with(store.number, |page| {
            if let Some(target) = page.get_mut(start..start + bytes.len()) {
                target.copy_from_slice(bytes);
            }
        });
        if let Some(entry) = self.index.get_mut(place) {
            *entry = Entry { key, page: page as u32, place: granule | (bytes.len() as u32) << 6 };
        }
        self.counts.entries += 1;
        self.counts.bytes += bytes.len() as u64;
        Ok(())
    }

    /// A page with a run of free granules, and the first of them: one that is there, or one more.
    fn room(&mut self, memory: &mut impl StoreMemory, count: u32) -> Result<(usize, u32), Full> {
        let places = (self.hint..self.pages.len()).chain(0..self.hint.min(self.pages.len()));
        let mut empty = None;
        for place in places {
            match self.pages.get(place).map_or(u64::MAX, |page| page.used) {
                0 => empty = empty.or(Some(place)),
                used => {
                    if let Some(granule) = clear_run(used, count) {
                        self.hint = place;
                        return Ok((place, granule));
                    }
                }
            }
        }
        let place = empty.ok_or(Full)?;
        let page = self.pages.get_mut(place).ok_or(Full)?;
        page.number = memory.take().ok_or(Full)?;
        self.counts.pages += 1;
        self.hint = place;
        Ok((place, 0))
    }

    /// Shows what a key has.
    pub fn get<R>(&self, memory: &mut impl StoreMemory, key: u64, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (_, entry) = self.find(key)?;
        let entry = entry?;
        let start = entry.granule() as usize * GRANULE;
        let number = self.pages.get(entry.page as usize)?.number;
        memory.with(number, |page| page.get(start..start + entry.bytes()).map(look))
    }

    /// Forgets what a key has; false if it has nothing.
    pub fn remove(&mut self, memory: &mut impl StoreMemory, key: u64) -> bool {
        let Some((place, Some(entry))) = self.find(key) else { return false };
        self.close_up(place);
        self.counts.entries -= 1;
        self.counts.bytes -= entry.bytes() as u64;
        if let Some(page) = self.pages.get_mut(entry.page as usize) {
            page.used &= !bits(entry.granule(), granules(entry.bytes()));
            if page.used == 0 {
                self.counts.pages -= 1;
                memory.give(page.number);
            }
        }
        true
    }

    /// Forgets everything whose key is so. O(index).
    pub fn remove_where(&mut self, memory: &mut impl StoreMemory, is_so: impl Fn(u64) -> bool) -> u64 {
        let mut count = 0;
        let mut place = 0;
        while let Some(entry) = self.index.get(place).copied() {
            // What moves up into a place that became empty is looked at there; what moves across the end of the index comes to a place that is looked at
            // still, or was looked at where it was.
            if entry.key != 0 && is_so(entry.key) && self.remove(memory, entry.key) {
                count += 1;
            } else {
                place += 1;
            }
        }
        count
    }

    /// Empties a place of the index: who would not be found across it moves up.
    fn close_up(&mut self, mut hole: usize) {
        let mask = self.index.len().wrapping_sub(1);
        let mut at = hole;
        for _ in 0..self.index.len() {
            at = (at + 1) & mask;
            let Some(entry) = self.index.get(at).copied().filter(|entry| entry.key != 0) else { break };
            let from_home = at.wrapping_sub(self.home(entry.key)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                if let Some(place) = self.index.get_mut(hole) {
                    *place = entry;
                }
                hole = at;
            }
        }
        if let Some(place) = self.index.get_mut(hole) {
            *place = Entry::default();
        }
    }
}

#[cfg(test)]
mod tests;
