//! Readers that write nothing which readers on other CPUs write, and the writer that keeps them out.
//!
//! ```text
//!   machine:   slot of CPU 0    slot of CPU 1    …         a lock on a cache line of its own; a reader holds its CPU's
//!                   ▲                ▲
//!   lock:      readers: 0b11         │                     whose slots readers have come by since the last writer
//!              writing: no           │
//!
//!   reader     locks its slot ─► sets its bit, if it is not set ─► writing? ─ no ─► reads ─► unlocks its slot
//!                                                                     └ yes ─► unlocks its slot, and takes the lock like a writer
//!   writer     holds the lock ─► writing := yes ─► takes all bits ─► locks and unlocks each of their slots ─► alone
//!                                                                                        … writing := no ─► unlocks
//! ```
//!
//! So a reader's only locked operation is that on its slot, which other CPUs leave alone while nobody writes. A writer pays one
//! exchange, and one slot more for each CPU that has read since the last writer: it waits for who is reading, in this lock or another one.
//!
//! # Why no reader and writer meet
//!
//! Of the reader's bit and the writer's exchange W of the bits (both are read-modify-writes of one word, which acquire and release):
//!
//! - The reader sets its bit before W, and no other writer took it: W finds it, and the writer locks the slot. The reader had locked it
//!   before it set the bit, which happens before W; so the writer gets the slot when the reader has left it.
//! - The reader sets its bit after W: it reads what W left, or what came of it, so `writing := yes`, which came before W, happens before the reader's
//!   look at `writing`: it sees that, or that the writer has finished, and then all that the writer did.
//! - The reader finds its bit set. Who set it did so in this slot, before. If that was after W, it saw `writing`, as above, and so does
//!   who has the slot after it. If it was before W, then W (or another writer's exchange before it) finds the bit, and that writer locks the slot:
//!   after this reader has left it, or before it came; but then W happens before the reader's look at the bits, which cannot find
//!   what stood there before W.
//!
//! For the same reasons a reader never sees a `writing = no` from before a writer that has finished.
//!
//! # No deadlock
//!
//! A slot's holder never waits for a writer: it gives the slot up. So it waits only for what locks of higher ranks than this one
//! wait for; and a writer holds nothing of these, nor a slot of its own, when it waits for slots.

use lock_api::{Mutex, MutexGuard, RawMutex};

use crate::word::{AtomicBool, AtomicU64, Ordering};

/// How many slots there are: CPUs beyond share them, which is correct, and slower.
pub(crate) const SLOTS: usize = 64;

/// What a CPU locks while it reads. It shares no cache line with the next one, nor a pair of lines that are fetched together.
#[repr(align(128))]
struct ReaderSlot<R: RawMutex>(Mutex<R, ()>);

/// The slots of a machine.
pub(crate) struct ReaderSlots<R: RawMutex>([ReaderSlot<R>; SLOTS]);

/// A slot that is held: for as long, no writer that could meet its holder is alone.
pub(crate) type HeldSlot<'s, R> = MutexGuard<'s, R, ()>;

impl<R: RawMutex> ReaderSlots<R> {
    pub(crate) const fn new() -> Self {
        Self([const { ReaderSlot(Mutex::const_new(R::INIT, ())) }; SLOTS])
    }
}

/// Who reads beside a lock, and whether its holder keeps them out.
pub(crate) struct Readers {
    writing: AtomicBool,
    /// A bit for each slot by which a reader has come since the last writer.
    slots: AtomicU64,
}

impl Readers {
    pub(crate) const fn new() -> Self {
        Self { writing: AtomicBool::new(false), slots: AtomicU64::new(0) }
    }

    /// Comes in as a reader, until the slot is given up; `None` where somebody writes. The CPU that is named decides about speed, not about
    /// correctness. The caller holds no slot.
    #[inline]
    pub(crate) fn enter<'s, R: RawMutex>(&self, slots: &'s ReaderSlots<R>, cpu: usize) -> Option<HeldSlot<'s, R>> {
        let number = cpu % SLOTS;
        let held = slots.0.get(number)?.0.lock();
        let bit = 1 << number;
        if self.slots.load(Ordering::Relaxed) & bit == 0 {
            self.slots.fetch_or(bit, Ordering::AcqRel);
        }
        if self.writing.load(Ordering::Acquire) { None } else { Some(held) }
    }

    /// Keeps readers out, and waits for those that are inside. Called with the lock held that makes the caller the only writer, and no slot.
    #[inline]
    pub(crate) fn keep_out<R: RawMutex>(&self, slots: &ReaderSlots<R>) {
        // The exchange publishes it.
        self.writing.store(true, Ordering::Relaxed);
        let mut left = self.slots.swap(0, Ordering::AcqRel);
        while left != 0 {
            if let Some(slot) = slots.0.get(left.trailing_zeros() as usize) {
                drop(slot.0.lock());
            }
            left &= left - 1;
        }
    }

    /// Lets readers in again, who see all that the writer did. Called before the writer gives its lock up.
    #[inline]
    pub(crate) fn let_in(&self) {
        self.writing.store(false, Ordering::Release);
    }
}

/// For a model checker, which has to know of words before threads begin.
#[cfg(loom)]
impl Readers {
    pub(crate) fn each_word(&self, mut word: impl FnMut(core::ptr::NonNull<u8>, usize)) {
        word(core::ptr::NonNull::from(&self.writing).cast(), 1);
        word(core::ptr::NonNull::from(&self.slots).cast(), 8);
    }
}

#[cfg(loom)]
impl<R: RawMutex> ReaderSlots<R> {
    pub(crate) fn each_lock(&self, count: usize, mut lock: impl FnMut(&R)) {
        for slot in self.0.iter().take(count) {
            // SAFETY: the lock is not used by it.
            lock(unsafe { slot.0.raw() });
        }
    }
}
