//! A few free frames at each processor's hand, so that most that are taken and given back touch nothing but its own memory.
//!
//! ```text
//!   taken ◄── stash of processor 0 ──┐ empty: a batch comes        ┌──────────┐
//!   given ──►   (at most 32)       ──┴ full: a batch goes     ◄──► │ bitmaps  │ ◄──► runs of frames
//!   taken ◄── stash of processor 1 ──                         ◄──► └──────────┘
//! ```
//!
//! What lies in a stash is free, and nobody goes without while it does: who finds the bitmaps empty takes out of the others' stashes, and who finds no run
//! has all stashes emptied first.
//!
//! # Invariants
//!
//! A stash is locked before a region's bitmap, and no two stashes at once. A frame in one is marked as free ([`super::frames`]) and taken in its bitmap.

use super::lock::Mutex;
use crate::cpu::local::{CPUS_MAX, PerCpu};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The most that lie in one.
const CAPACITY: usize = 32;

/// How many come and go at once: half of it, so that taking and giving in turn moves nothing.
pub(super) const BATCH: usize = CAPACITY / 2;

/// A free frame: its number, and the mark that says what became of it.
#[derive(Clone, Copy)]
pub(super) struct Spare {
    pub(super) frame: u64,
    pub(super) mark: &'static AtomicU8,
}

/// What a processor has at hand.
#[repr(align(128))]
pub(super) struct Stash {
    /// The first `count` places are filled.
    spares: Mutex<[Option<Spare>; CAPACITY]>,
    /// Written with the lock; read without it by who counts.
    count: AtomicUsize,
}

static STASHES: PerCpu<Stash> = PerCpu::new([const { Stash::new() }; CPUS_MAX]);

impl Stash {
    const fn new() -> Self {
        Self { spares: Mutex::new([None; CAPACITY]), count: AtomicUsize::new(0) }
    }

    /// Takes the one that was given last, which a cache may hold still. An empty stash is filled first by `refill`, which is called with as many places as
    /// are to be filled at the most, from the front, and says how many it filled.
    #[inline]
    fn take(&self, refill: impl FnOnce(&mut [Option<Spare>]) -> usize) -> Option<Spare> {
        let mut spares = self.spares.lock();
        let mut count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            count = refill(spares.get_mut(..BATCH)?);
        }
        let last = count.checked_sub(1)?;
        let spare = spares.get_mut(last)?.take();
        self.count.store(last, Ordering::Relaxed);
        spare
    }

    /// Gives these. From a full stash half goes first, to `give_up`.
    #[inline]
    fn give_all(&self, given: impl IntoIterator<Item = Spare>, mut give_up: impl FnMut(&mut [Option<Spare>])) {
        let mut spares = self.spares.lock();
        let mut count = self.count.load(Ordering::Relaxed);
        for spare in given {
            if count >= CAPACITY {
                // Those that were given last are in the cache.
                let (oldest, latest) = spares.split_at_mut(BATCH);
                give_up(oldest);
                oldest.swap_with_slice(latest);
                count -= BATCH;
            }
            if let Some(place) = spares.get_mut(count) {
                *place = Some(spare);
                count += 1;
            }
        }
        self.count.store(count, Ordering::Relaxed);
    }

    /// Gives all of it up.
    fn empty(&self, give_up: impl FnOnce(&mut [Option<Spare>])) {
        let mut spares = self.spares.lock();
        self.count.store(0, Ordering::Relaxed);
        give_up(&mut *spares);
    }
}

/// Takes a frame out of this processor's stash, which `refill` fills if it is empty; or out of another's if nothing comes of that.
#[inline]
pub(super) fn take(refill: impl FnOnce(&mut [Option<Spare>]) -> usize) -> Option<Spare> {
    STASHES.here().take(refill).or_else(take_anywhere)
}

#[cold]
#[inline(never)]
fn take_anywhere() -> Option<Spare> {
    STASHES.iter().filter(|stash| stash.count.load(Ordering::Relaxed) != 0).find_map(|stash| stash.take(|_| 0))
}

/// Gives frames to this processor's stash; what has no room there goes to `give_up`, which leaves nothing in the places.
#[inline]
pub(super) fn give_all(given: impl IntoIterator<Item = Spare>, give_up: impl FnMut(&mut [Option<Spare>])) {
    STASHES.here().give_all(given, give_up);
}

/// Gives up what lies in any stash: `give_up` leaves nothing in the places.
pub(super) fn empty_all(mut give_up: impl FnMut(&mut [Option<Spare>])) {
    STASHES.iter().for_each(|stash| stash.empty(&mut give_up));
}

/// How many frames lie in them.
pub(super) fn count() -> u64 {
    STASHES.iter().map(|stash| stash.count.load(Ordering::Relaxed) as u64).sum()
}
