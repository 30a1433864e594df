//! Stacks that wait for their next thread, so that starting and ending one changes no tables and interrupts nobody.

use crate::cpu::stacks::Purpose;
use crate::memory::stacks::KernelStack;
use crate::memory::{MemoryError, Mutex};

/// How many are kept.
const KEPT: usize = 8;

static WAITING: Mutex<[Option<KernelStack>; KEPT]> = Mutex::new([const { None }; KEPT]);

/// One that waits, or a new one.
pub(super) fn take() -> Result<KernelStack, MemoryError> {
    let waiting = WAITING.lock().iter_mut().find_map(Option::take);
    match waiting {
        Some(stack) => Ok(stack),
        None => KernelStack::new(Purpose::Thread),
    }
}

/// Takes one back. Those with the lowest addresses are kept: whatever threads there were meanwhile, the same ones wait again when they are gone, with the same
/// tables and nodes. Without the lock where one is freed: that waits for other processors.
pub(super) fn give(stack: KernelStack) {
    let mut left = Some(stack);
    // An empty place comes first, then the stack with the highest address.
    let order = |slot: &Option<KernelStack>| slot.as_ref().map_or(u64::MAX, KernelStack::start);
    let mut waiting = WAITING.lock();
    if let Some(slot) = waiting.iter_mut().max_by_key(|slot| order(slot)).filter(|slot| order(slot) > order(&left)) {
        core::mem::swap(slot, &mut left);
    }
    drop(waiting);
    drop(left);
}

/// Makes as many as are kept: so what a few threads take does not come and go.
pub(super) fn fill() -> Result<(), MemoryError> {
    while WAITING.lock().iter().flatten().count() < KEPT {
        give(KernelStack::new(Purpose::Thread)?);
    }
    Ok(())
}

/// Gives up those that wait, for whoever counts what is in use: which of them wait, and so which tables and nodes they take, is an accident.
pub(super) fn give_up() {
    loop {
        let waiting = WAITING.lock().iter_mut().find_map(Option::take);
        if waiting.is_none() {
            return;
        }
        drop(waiting);
    }
}

/// Has so many at a time, once, so that the tables for as many are there: those stay.
pub(super) fn have<const COUNT: usize>() -> Result<(), MemoryError> {
    let mut stacks = [const { None }; COUNT];
    for stack in &mut stacks {
        *stack = Some(KernelStack::new(Purpose::Thread)?);
    }
    Ok(())
}
