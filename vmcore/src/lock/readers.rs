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
//! A reader may read a second lock with the slot that it holds, which costs it a look at that lock's words.
//!
//! A writer need not let readers in again: then the lock is *closed*, and whoever has it next finds `writing` set, and pays nothing.
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
//! # What readers owe
//!
//! A reader may count something for a lock without writing a word that other readers write: the count stays in its slot, with the lock that it is owed to.
//! Whoever has that lock exclusively collects it where it waits for the slots; a slot owes nothing to a lock in which its bit is not set. A slot that comes to owe another lock pays the former
//! one, which is there as long as it is owed something: who takes it down collects as well.
//!
//! # No deadlock
//!
//! A slot's holder never waits for a writer: it gives the slot up, or goes without. So it waits only for what locks of higher ranks than this one
//! wait for; and nobody waits for slots who holds one, or what a slot's holder may wait for.

use core::cell::Cell;
use core::ptr::NonNull;

use lock_api::{Mutex, MutexGuard, RawMutex};

use crate::word::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// How many slots there are: CPUs beyond share them, which is correct, and slower.
pub(crate) const SLOTS: usize = 64;

/// What the readers of a slot have counted, and for which lock.
#[derive(Clone, Copy)]
struct Owed {
    to: Option<NonNull<Debt>>,
    count: u32,
}

/// What is owed to a lock by nobody's slot any more. Readers count no more than there is room for in what a writer made before: that is less than 2^32.
struct Debt(AtomicU32);

/// What a slot guards.
pub(crate) struct Slot(Cell<Owed>);

// SAFETY: a lock that is owed something lives until it is paid, and what is owed to it is a word that is shared.
unsafe impl Send for Slot {}

impl Slot {
    /// Takes out what is owed to this lock.
    fn collect(&self, debt: &Debt) -> u32 {
        let owed = self.0.get();
        if owed.to != Some(NonNull::from(debt)) {
            return 0;
        }
        self.0.set(Owed { to: None, count: 0 });
        owed.count
    }
}

/// What a CPU locks while it reads. It shares no cache line with the next one, nor a pair of lines that are fetched together.
#[repr(align(128))]
struct ReaderSlot<R: RawMutex>(Mutex<R, Slot>);

/// The slots of a machine.
pub(crate) struct ReaderSlots<R: RawMutex>([ReaderSlot<R>; SLOTS]);

/// A slot that is held: for as long, no writer that could meet its holder is alone.
pub(crate) struct HeldSlot<'s, R: RawMutex> {
    slot: MutexGuard<'s, R, Slot>,
    bit: u64,
}

impl<R: RawMutex> ReaderSlots<R> {
    pub(crate) const fn new() -> Self {
        Self([const { ReaderSlot(Mutex::const_new(R::INIT, Slot(Cell::new(Owed { to: None, count: 0 })))) }; SLOTS])
    }

    /// Locks the slot of a CPU. The CPU that is named decides about speed, not about correctness. The caller holds no slot.
    #[inline]
    pub(crate) fn hold(&self, cpu: usize) -> Option<HeldSlot<'_, R>> {
        let number = cpu % SLOTS;
        Some(HeldSlot { slot: self.0.get(number)?.0.lock(), bit: 1 << number })
    }

    /// Calls `each` with the slots whose bits are set, one after the other, each locked.
    #[inline]
    fn visit(&self, bits: u64, mut each: impl FnMut(&Slot)) {
        let mut left = bits;
        while left != 0 {
            if let Some(slot) = self.0.get(left.trailing_zeros() as usize) {
                each(&slot.0.lock());
            }
            left &= left - 1;
        }
    }
}

impl<R: RawMutex> HeldSlot<'_, R> {
    /// Counts for a lock in which this slot's holder reads.
    #[inline]
    pub(crate) fn owe<A>(&self, readers: &Readers<A>, count: u32) {
        let debt = &readers.debt;
        let owed = self.slot.0.get();
        let mine = NonNull::from(debt);
        if owed.to == Some(mine) {
            self.slot.0.set(Owed { count: owed.count.wrapping_add(count), ..owed });
            return;
        }
        if let Some(other) = owed.to {
            // SAFETY: who takes a lock down collects first what it is owed, and for that it waits for this slot.
            unsafe { other.as_ref() }.0.fetch_add(owed.count, Ordering::Relaxed);
        }
        self.slot.0.set(Owed { to: Some(mine), count });
    }
}

impl Debt {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes all that was paid. Called by who has the lock alone, and has collected from the slots.
    fn take(&self) -> u32 {
        let paid = self.0.load(Ordering::Relaxed);
        if paid != 0 {
            // What others pay meanwhile they owed before, and was collected from them: nobody pays.
            self.0.store(0, Ordering::Relaxed);
        }
        paid
    }
}

/// Who reads beside a lock, and whether its holder keeps them out; and beside their words, where there is room for three bytes, what else the lock
/// has.
pub(crate) struct Readers<A = ()> {
    /// A bit for each slot by which a reader has come since the last writer.
    slots: AtomicU64,
    debt: Debt,
    writing: AtomicBool,
    pub(super) beside: A,
}

/// Who is to be let in again.
#[derive(Clone, Copy)]
pub(super) struct KeptOut<'a>(&'a AtomicBool);

impl KeptOut<'_> {
    /// See [`Readers::let_in`].
    #[inline]
    pub(super) fn let_in(self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Readers {
    /// Readers may come.
    pub(crate) const fn open() -> Self {
        Self { slots: AtomicU64::new(0), debt: Debt::new(), writing: AtomicBool::new(false), beside: () }
    }
}

impl<A> Readers<A> {
    /// Nobody may read before a writer lets readers in.
    pub(crate) const fn closed(beside: A) -> Self {
        Self { slots: AtomicU64::new(0), debt: Debt::new(), writing: AtomicBool::new(true), beside }
    }

    /// Who is kept out, or would be.
    #[inline]
    pub(super) const fn kept_out(&self) -> KeptOut<'_> {
        KeptOut(&self.writing)
    }

    /// Comes in as a reader, until the slot is given up; false where somebody writes, or the lock is closed.
    #[inline]
    pub(crate) fn enter<R: RawMutex>(&self, held: &HeldSlot<'_, R>) -> bool {
        // Nobody is waited for who only comes by a lock that is closed.
        if self.writing.load(Ordering::Relaxed) {
            return false;
        }
        if self.slots.load(Ordering::Relaxed) & held.bit == 0 {
            self.slots.fetch_or(held.bit, Ordering::AcqRel);
        }
        !self.writing.load(Ordering::Acquire)
    }

    /// Counts for the lock, by who owes nothing by a slot.
    pub(crate) fn pay(&self, count: u32) {
        self.debt.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether a writer finds readers kept out already. Asked with the lock held that makes the caller the only writer.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// Keeps readers out, and waits for those that are inside. Called with the lock held that makes the caller the only writer, and no slot.
    #[inline]
    pub(crate) fn keep_out<R: RawMutex>(&self, slots: &ReaderSlots<R>) {
        slots.visit(self.take_slots(), |_| ());
    }

    /// The same; gives whether any came since the last writer, and what readers owe.
    #[inline]
    pub(crate) fn keep_out_and_collect<R: RawMutex>(&self, slots: &ReaderSlots<R>) -> (bool, u32) {
        let bits = self.take_slots();
        let mut owed = 0_u32;
        slots.visit(bits, |slot| owed = owed.wrapping_add(slot.collect(&self.debt)));
        (bits != 0, owed.wrapping_add(self.debt.take()))
    }

    #[inline]
    fn take_slots(&self) -> u64 {
        // The exchange publishes it.
        self.writing.store(true, Ordering::Relaxed);
        self.slots.swap(0, Ordering::AcqRel)
    }

    /// Lets readers in again, who see all that the writer did. Called before the writer gives its lock up.
    #[inline]
    pub(crate) fn let_in(&self) {
        self.kept_out().let_in();
    }
}

/// For a model checker, which has to know of words before threads begin.
#[cfg(loom)]
impl<A> Readers<A> {
    pub(crate) fn each_word(&self, mut word: impl FnMut(NonNull<u8>, usize)) {
        word(NonNull::from(&self.writing).cast(), 1);
        word(NonNull::from(&self.slots).cast(), 8);
        word(NonNull::from(&self.debt.0).cast(), 4);
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
