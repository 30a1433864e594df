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

/// Takes one back. Without the lock where it is freed: that waits for other processors.
pub(super) fn give(stack: KernelStack) {
    let mut left = Some(stack);
    if let Some(slot) = WAITING.lock().iter_mut().find(|slot| slot.is_none()) {
        *slot = left.take();
    }
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
