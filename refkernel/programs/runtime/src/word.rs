//! Waiting for a word until it changes.

use core::sync::atomic::{AtomicU32, Ordering};

use refkernel_abi::{FOREVER, SystemCall};

use crate::call;

/// Waits as long as the word is `value`, and gives what it is then. What was written before the word was changed is seen afterwards.
pub fn wait_while(word: &AtomicU32, value: u32) -> u32 {
    loop {
        let seen = word.load(Ordering::Acquire);
        if seen != value {
            return seen;
        }
        let _ = call::address_wait(word, value, FOREVER);
    }
}

/// Changes the word, and wakes all who wait for it.
pub fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    let _ = call::address_wake(word, u64::MAX);
}

/// Changes the word, wakes one who waits for it, and ends the thread, which uses neither its stack nor the word from the change on: whoever sees the change may take both away, or have another
/// thread start on that stack. (A word that has become something else by then is woken for nothing.)
pub fn set_and_exit(word: &AtomicU32, value: u32) -> ! {
    // SAFETY: the store is as atomic as one of the word's own, and on this processor comes behind all that the thread has written before. What follows only tells the kernel the word's
    // address, in registers, and ends the thread.
    unsafe {
        core::arch::asm!(
            "mov dword ptr [rdi], {value:e}",
            "mov esi, 1",
            "mov eax, {wake}",
            "syscall",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            value = in(reg) value,
            in("rdi") word.as_ptr(),
            wake = const SystemCall::AddressWake.number(),
            exit = const SystemCall::ThreadExit.number(),
            options(noreturn),
        );
    }
}
