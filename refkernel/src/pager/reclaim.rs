//! Taking memory away from who does not use it, when somebody finds none.
//!
//! ```text
//!   hand ──► areas in the order of their keys: programs' images, then memory that can be swapped; 64 pages at a time
//!              accessed since the hand was here?  ── yes ──► stays; the mark is taken back
//!              no:  dirty?  ── yes ──► kept by swap, then clean
//!                   clean:  evicted: absent, its frame is free
//! ```
//!
//! A second-chance clock. It allocates nothing: marks and states are changed in place, and what is kept goes into frames that were set aside. It is done by whoever
//! needs memory, before the need is refused; so a refusal is true at the time when it is given.
//!
//! Of programs' images a few pages stay, and those in use: a program that is out of memory is to be told so by its own access, not to live on one page of its text
//! after another.

use super::{images, swap};
use crate::memory::{Kernel, relax};
use core::sync::atomic::{AtomicU64, Ordering};
use refkernel_abi::{ErrorCode, PAGE_SIZE, SystemResult};
use vmcore::frame::OutOfFrames;
use vmcore::vm_area::Area;

/// Pages that are looked at together: as many as there are marks in a word.
const CHUNK: u64 = 64 * PAGE_SIZE;

/// Frames that are won at a time, if there are so many.
const GOAL: u64 = 64;

/// Pages of each segment of a program that stay.
const IMAGE_PAGES: u64 = 16;

/// How often one need has memory taken away for it: another may be faster to use it.
const PATIENCE: u32 = 64;

/// Where the search goes on: the area's key, and the offset.
static HAND: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

static EVICTED: AtomicU64 = AtomicU64::new(0);
static RUNS: AtomicU64 = AtomicU64::new(0);

/// How many pages were taken away so far, and how often somebody had to.
pub(crate) fn evicted() -> (u64, u64) {
    (EVICTED.load(Ordering::Relaxed), RUNS.load(Ordering::Relaxed))
}

/// Takes pages away. False if none could be: then there is no memory.
pub(crate) fn some() -> bool {
    RUNS.fetch_add(1, Ordering::Relaxed);
    swap::alone(|| {
        swap::sweep_alone();
        // What is set aside comes first: without it less can be taken away the next time. It is not counted as won.
        swap::set_aside();
        let mut won = 0;
        for insistence in [Insistence::Idle, Insistence::MemoryIdle, Insistence::Memory] {
            won += round(GOAL - won, insistence);
            if won >= GOAL {
                break;
            }
        }
        EVICTED.fetch_add(won, Ordering::Relaxed);
        won != 0
    })
}

/// What is taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Insistence {
    /// What was not in use since the hand was here last.
    Idle,
    /// The same, of memory that can be swapped alone: marks were just taken back, so of programs nothing would stay.
    MemoryIdle,
    /// Memory that can be swapped, in use or not.
    Memory,
}

/// Once around, or until enough is won; gives how much.
fn round(goal: u64, insistence: Insistence) -> u64 {
    let [hand, place] = &HAND;
    let (start, from) = (hand.load(Ordering::Relaxed), place.load(Ordering::Relaxed));
    let (mut won, mut offset) = (0, from);
    // The area where the search stopped is the first, and comes last once more from its beginning.
    let mut next = next_after(start.saturating_sub(1)).or_else(|| next_after(0));
    let mut came_round = false;
    while let Some((key, area)) = next {
        if key != start {
            offset = 0;
        }
        while let Some(resident) = area.next_resident(offset) {
            offset = resident & !(CHUNK - 1);
            won += chunk((key, &area), offset, insistence, goal - won);
            offset += CHUNK;
            if won >= goal {
                hand.store(key, Ordering::Relaxed);
                place.store(offset, Ordering::Relaxed);
                return won;
            }
        }
        offset = 0;
        next = next_after(key);
        if next.is_none() && !came_round {
            came_round = true;
            next = next_after(0);
        }
        if came_round && next.as_ref().is_none_or(|(key, _)| *key > start) {
            break;
        }
    }
    place.store(0, Ordering::Relaxed);
    won
}

fn next_after(key: u64) -> Option<(u64, Area<Kernel>)> {
    images::next_after(key).or_else(|| swap::next_after(key))
}

/// Takes pages of 64 away; gives how many.
fn chunk((key, area): (u64, &Area<Kernel>), offset: u64, insistence: Insistence, most: u64) -> u64 {
    let resident = area.resident_pages();
    let swapped = key & swap::SWAP != 0;
    let keep = if swapped { 0 } else { IMAGE_PAGES };
    if resident <= keep || (!swapped && insistence != Insistence::Idle) {
        return 0;
    }
    let most = most.min(resident - keep);
    let used = area.take_accessed(offset).unwrap_or(0);
    let idle = if insistence == Insistence::Memory { u64::MAX } else { !used };
    let mut won = 0;
    let mut page = 0;
    while page < 64 && won < most {
        // The next run of pages that are not in use, no longer than is wanted.
        page += (idle >> page).trailing_zeros().min(64 - page);
        let count = (idle.checked_shr(page).unwrap_or(0)).trailing_ones().min(64 - page);
        let count = count.min((most - won) as u32);
        if count == 0 {
            break;
        }
        let (start, size) = (offset + u64::from(page) * PAGE_SIZE, u64::from(count) * PAGE_SIZE);
        if swapped {
            swap::keep(key, area, start, size);
        }
        if let Ok(flush) = area.evict(start, size) {
            won += flush.complete().pages;
            if swapped {
                // At once, before others have taken what was won: the next pages are kept in these.
                swap::set_aside();
            }
        }
        page += count;
    }
    won
}

/// Makes an attempt again for which there was no memory, as long as some can be won.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, OutOfFrames>) -> Result<T, OutOfFrames> {
    let mut result = attempt();
    for _ in 0..PATIENCE {
        if result.is_ok() || !some() {
            break;
        }
        result = attempt();
    }
    result
}

/// Makes a call again for which there was no memory, as long as some can be won. A call that is refused has changed nothing.
pub(crate) fn with_room(mut call: impl FnMut() -> SystemResult) -> SystemResult {
    let mut result = call();
    for _ in 0..PATIENCE {
        if result != Err(ErrorCode::OutOfMemory) || !some() {
            break;
        }
        relax();
        result = call();
    }
    result
}
