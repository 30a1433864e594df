//! Locks of single leaves of areas' page trees: 64 pages each, 256 KiB of 4 KiB pages.
//!
//! ```text
//!   area A, pages    0 … 63   64 … 127   128 … 191  …        area B, pages 0 … 63  …
//!                       │         │          │                         │
//!                       ▼         ▼          ▼                         ▼
//!   machine:   | 17 | … | 56 | … | 31 | …         one of so many locks, each on cache lines of its own, by area and leaf
//! ```
//!
//! They are taken by who has an area shared, with one held at a time, and never waited for by anybody else; who has an area exclusively needs none. That two leaves fall on one
//! lock costs a moment now and then, which is why they are spread.

use super::{Guard, Lock, Rank};
use crate::platform::Platform;

/// How many there are, as a power of two.
const SHIFT: u32 = 6;

/// One of them, beside none on its cache line, nor on one that is fetched with it.
#[repr(align(128))]
struct LeafLock<P: Platform>(Lock<P, ()>);

/// The locks of a machine.
pub(crate) struct LeafLocks<P: Platform>([LeafLock<P>; 1 << SHIFT]);

impl<P: Platform> LeafLocks<P> {
    pub(crate) const fn new() -> Self {
        Self([const { LeafLock(Lock::new(Rank::Leaf, ())) }; 1 << SHIFT])
    }

    /// Takes the lock of the leaf for `key` in the area at `area` in memory.
    #[inline]
    #[allow(clippy::indexing_slicing, reason = "the mask is less than there are locks")]
    pub(crate) fn lock<'a>(&'a self, platform: &'a P, area: usize, key: u64) -> Guard<'a, P, ()> {
        // Multiplied by what is nearest to the golden ratio, numbers that follow each other are spread, and so are multiples.
        let spread = ((area as u64 >> 6).wrapping_add(key >> 6)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0[(spread >> (64 - SHIFT)) as usize & ((1 << SHIFT) - 1)].0.lock(platform)
    }
}
