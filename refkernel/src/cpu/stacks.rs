//! The kernel's stacks by name, and their guards.
//!
//! Nearly all of them are cut out of one range of addresses, in slots of the same size whose lower half is never mapped:
//!
//! ```text
//!   SLOTS_START   | guard | stack 0 | guard | stack 1 | guard | ...
//!                 '----- slot 0 ----'                               a slot begins on a multiple of its size
//! ```
//!
//! So the page-fault stub knows an overflow by two addresses, while it is still on the trap stack: a fault in the guard of the slot that
//! the stack pointer is in. The stack that overflowed cannot take a frame any more. A backtrace reads only what lies in a known stack.

use crate::memory::Mutex;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

/// Where the slots begin.
pub(crate) const SLOTS_START: u64 = 0xffff_ff82_0000_0000;
/// How many there are.
pub(crate) const SLOTS: usize = 1024;
/// A slot has 2^this bytes: 64 KiB that are never mapped, and 64 KiB of stack above them.
pub(super) const SLOT_SHIFT: u32 = 17;
/// The bytes of a slot's guard.
pub(crate) const GUARD_SIZE: u64 = 1 << (SLOT_SHIFT - 1);
/// All slots together.
pub(super) const SLOTS_SIZE: u64 = (SLOTS as u64) << SLOT_SHIFT;

/// Stacks beside the slots.
const OTHERS: usize = 8;

/// What the stack in a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// The kernel's own work on a processor.
    Kernel = 1,
    /// Where most traps enter.
    Trap,
    /// Where a double fault enters.
    DoubleFault,
    /// Where a non-maskable interrupt enters.
    NonMaskable,
    /// Where a machine check enters.
    MachineCheck,
    /// A thread's.
    Thread,
    /// A test's.
    Test,
}

impl Purpose {
    const ALL: [Self; 7] =
        [Self::Kernel, Self::Trap, Self::DoubleFault, Self::NonMaskable, Self::MachineCheck, Self::Thread, Self::Test];

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel stack",
            Self::Trap => "trap stack",
            Self::DoubleFault => "double fault stack",
            Self::NonMaskable => "NMI stack",
            Self::MachineCheck => "machine check stack",
            Self::Thread => "thread stack",
            Self::Test => "test stack",
        }
    }
}

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

/// What each slot holds: a [`Purpose`], or zero.
static IN_SLOTS: [AtomicU8; SLOTS] = [const { AtomicU8::new(0) }; SLOTS];

/// Those that lie elsewhere.
static STACKS: Mutex<[Option<Stack>; OTHERS]> = Mutex::new([const { None }; OTHERS]);

/// Makes a stack outside of the slots known. Returns false if there is no room for one more.
pub(crate) fn register(stack: Stack) -> bool {
    let mut stacks = STACKS.lock();
    let Some(slot) = stacks.iter_mut().find(|slot| slot.is_none()) else { return false };
    *slot = Some(stack);
    true
}

/// Forgets the stack outside of the slots whose memory begins at `start`: before that memory is unmapped.
pub(crate) fn forget(start: u64) {
    for slot in STACKS.lock().iter_mut() {
        if slot.as_ref().is_some_and(|stack| stack.memory.start == start) {
            *slot = None;
        }
    }
}

/// Says what the stack in a slot is for, all of which is mapped; `None` before that ends.
pub(crate) fn set_slot(slot: u32, purpose: Option<Purpose>) {
    if let Some(place) = IN_SLOTS.get(slot as usize) {
        place.store(purpose.map_or(0, |purpose| purpose as u8), Ordering::Release);
    }
}

/// The stack whose memory, or whose guard, holds `address`.
pub(crate) fn find(address: u64) -> Option<Stack> {
    if let Some(offset) = address.checked_sub(SLOTS_START).filter(|offset| *offset < SLOTS_SIZE) {
        let slot = offset >> SLOT_SHIFT;
        let number = IN_SLOTS.get(slot as usize)?.load(Ordering::Acquire);
        let purpose = Purpose::ALL.into_iter().find(|purpose| *purpose as u8 == number)?;
        let start = SLOTS_START + (slot << SLOT_SHIFT);
        let memory = start + GUARD_SIZE..start + (1 << SLOT_SHIFT);
        return Some(Stack { name: purpose.name(), guard: start..start + GUARD_SIZE, memory });
    }
    // In a report the lock may be held by the very code that trapped: then nothing is known.
    let stacks = STACKS.try_lock()?;
    stacks.iter().flatten().find(|stack| stack.memory.contains(&address) || stack.guard.contains(&address)).cloned()
}
