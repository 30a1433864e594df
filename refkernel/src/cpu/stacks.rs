//! The kernel's stacks by name, and their guards.
//!
//! A guard is a range below a stack that is never mapped. The page-fault stub compares the faulting address with every
//! guard while it is still on the trap stack: the stack that overflowed cannot take a frame any more.
//! A backtrace reads only what lies in a registered stack.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Stacks that can be registered.
const CAPACITY: usize = 16;

/// A kernel stack.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// What a report calls it.
    pub(crate) name: &'static str,
    /// Addresses below it that are never mapped, or an empty range.
    pub(crate) guard: Range<u64>,
    /// Its memory, always mapped.
    pub(crate) memory: Range<u64>,
}

static STACKS: Mutex<[Option<Stack>; CAPACITY]> = Mutex::new([const { None }; CAPACITY]);

/// Start and length of each guard, as the page-fault stub reads them; a length of zero ends the list, and the last pair
/// is always zero.
pub(super) static GUARDS: [[AtomicU64; 2]; CAPACITY + 1] = [const { [const { AtomicU64::new(0) }; 2] }; CAPACITY + 1];

/// Makes a stack known. Returns false if there is no room for one more.
pub(crate) fn register(stack: Stack) -> bool {
    let mut stacks = STACKS.lock();
    let Some(slot) = stacks.iter_mut().find(|slot| slot.is_none()) else { return false };
    *slot = Some(stack);
    publish(&stacks);
    true
}

/// Forgets the stack whose memory begins at `start`: before that memory is unmapped.
pub(crate) fn forget(start: u64) {
    let mut stacks = STACKS.lock();
    for slot in stacks.iter_mut() {
        if slot.as_ref().is_some_and(|stack| stack.memory.start == start) {
            *slot = None;
        }
    }
    publish(&stacks);
}

/// Writes the list that the stub reads. The stub of this processor does not run meanwhile unless this code faults, and
/// then it is at worst shown a list without some guard.
fn publish(stacks: &[Option<Stack>; CAPACITY]) {
    let mut guards = stacks.iter().flatten().map(|stack| &stack.guard).filter(|guard| !guard.is_empty());
    for [start, length] in &GUARDS {
        let guard = guards.next().cloned().unwrap_or(0..0);
        start.store(guard.start, Ordering::Release);
        length.store(guard.end - guard.start, Ordering::Release);
    }
}

/// The stack whose memory, or whose guard, holds `address`.
pub(crate) fn find(address: u64) -> Option<Stack> {
    // In a report the lock may be held by the very code that trapped: then nothing is known.
    let stacks = STACKS.try_lock()?;
    stacks.iter().flatten().find(|stack| stack.memory.contains(&address) || stack.guard.contains(&address)).cloned()
}
