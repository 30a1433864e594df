//! A word of loom's for each word of the library, found by its address.
//!
//! The library's words lie in frame metadata, tables and nodes; loom's are larger and cannot be made in a `const`. So each is made when it
//! is first reached, with what stands in memory, and memory is written as well, for who looks at it without the checker.
//!
//! To loom, who makes a word does so at that moment: what other threads reach must have been [shared](share) before they began, or have
//! been reached by the thread that made it before it passed it on. Memory is not used twice in a schedule.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::NonNull;

use loom::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use vmcore::word::{self, Model, Operation, Ordering, Width, WordAccess};

enum Word {
    One(AtomicU8),
    Two(AtomicU16),
    Four(AtomicU32),
    Eight(AtomicU64),
}

std::thread_local! {
    /// The words of this schedule, all of whose threads are one to the host. They are leaked: what loom keeps of them goes with the
    /// schedule, and a thread may be in one of them while another is made.
    static WORDS: RefCell<HashMap<usize, &'static Word>> = RefCell::default();
}

/// Forgets the words of the schedule before.
pub(crate) fn begin_schedule() {
    WORDS.with_borrow_mut(|words| {
        for (_, word) in words.drain() {
            // SAFETY: it was leaked by `word_of`, and the schedule whose threads used it is over.
            drop(unsafe { Box::from_raw(std::ptr::from_ref(word).cast_mut()) });
        }
    });
}

fn word_of(access: &WordAccess) -> &'static Word {
    let address = access.address.addr().get();
    if let Some(word) = WORDS.with_borrow(|words| words.get(&address).copied()) {
        return word;
    }
    let value = access.in_memory();
    let word: &'static Word = Box::leak(Box::new(match access.width {
        Width::One => Word::One(AtomicU8::new(value as u8)),
        Width::Two => Word::Two(AtomicU16::new(value as u16)),
        Width::Four => Word::Four(AtomicU32::new(value as u32)),
        Width::Eight => Word::Eight(AtomicU64::new(value)),
    }));
    WORDS.with_borrow_mut(|words| words.insert(address, word));
    word
}

/// Makes the words of some memory, before other threads begin.
///
/// # Safety
/// The memory is readable, whole words of this width, and reached as such only.
pub(crate) unsafe fn share(address: NonNull<u8>, bytes: usize, width: Width) {
    let size = match width {
        Width::One => 1,
        Width::Two => 2,
        Width::Four => 4,
        Width::Eight => 8,
    };
    for offset in (0..bytes).step_by(size) {
        // SAFETY: it lies in the memory.
        let address = unsafe { address.add(offset) };
        let (operation, order) = (Operation::Load, Ordering::Relaxed);
        word_of(&WordAccess { address, width, operation, order, failure: order });
    }
}

macro_rules! access {
    ($word:expr, $value:ty, $access:expr) => {{
        let (word, order) = ($word, $access.order);
        u64::from(match $access.operation {
            Operation::Load => word.load(order),
            Operation::Store(new) => {
                word.store(new as $value, order);
                new as $value
            }
            Operation::Swap(new) => word.swap(new as $value, order),
            Operation::Add(more) => word.fetch_add(more as $value, order),
            Operation::Sub(less) => word.fetch_sub(less as $value, order),
            Operation::And(mask) => word.fetch_and(mask as $value, order),
            Operation::Or(mask) => word.fetch_or(mask as $value, order),
            Operation::Xor(mask) => word.fetch_xor(mask as $value, order),
            Operation::CompareExchange { old, new } => word
                .compare_exchange(old as $value, new as $value, order, $access.failure)
                .unwrap_or_else(|found| found),
        })
    }};
}

struct Words;

impl Model for Words {
    fn access(&self, access: &WordAccess) -> u64 {
        let found = match word_of(access) {
            Word::One(word) => access!(word, u8, access),
            Word::Two(word) => access!(word, u16, access),
            Word::Four(word) => access!(word, u32, access),
            Word::Eight(word) => access!(word, u64, access),
        };
        match access.operation {
            Operation::Load => {}
            Operation::CompareExchange { old, .. } if old != found => {}
            _ => {
                access.perform();
            }
        }
        found
    }

    fn fence(&self, order: Ordering) {
        loom::sync::atomic::fence(order);
    }

    fn wait(&self) {
        loom::thread::yield_now();
    }
}

pub(crate) fn install() {
    word::install(&(&Words as &dyn Model));
}
