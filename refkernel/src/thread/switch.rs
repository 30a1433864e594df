//! From one thread's stack to another's.
//!
//! What a thread leaves on its stack while another runs:
//!
//! ```text
//!   frames of whoever called
//!   return address            ... of `thread_switch`, or where a new thread begins
//!   rbp rbx r12 r13 r14 r15   what a C function keeps (System V ABI, 3.2.1)
//!   8 bytes
//!   x87 and SSE state         512 bytes, as `fxsave64` writes it      <- saved stack pointer, a multiple of 16
//! ```
//!
//! The whole of the x87 and SSE state is kept, and not only the control words that a function has to keep: it may be a program's, which a system
//! call that waits must not change.

use core::sync::atomic::{AtomicU64, Ordering};

core::arch::global_asm!(
    // thread_switch(rdi where the stack pointer is saved, rsi the other thread's)
    ".section .text.thread_switch, \"ax\", @progbits",
    ".global thread_switch",
    ".global thread_first",
    "thread_switch:",
    "    push rbp",
    "    push rbx",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    sub rsp, 520",
    "    fxsave64 [rsp]",
    "    mov [rdi], rsp",
    "    mov rsp, rsi",
    "    fxrstor64 [rsp]",
    "    add rsp, 520",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbx",
    "    pop rbp",
    "    ret",
    // Where a new thread is returned to: calls what was put into r12.
    "thread_first:",
    "    call r12",
    "    ud2",
    ".text",
);

unsafe extern "C" {
    fn thread_switch(save: *mut u64, next: u64);
    static thread_first: u8;
    /// As `fxsave64` writes it: what compiled code and programs begin with.
    static initial_sse_state: [u8; 512];
}

/// The words of a new thread's stack, from the saved stack pointer on: the drawing above, to a multiple of 16 bytes.
const WORDS: usize = 64 + 1 + 6 + 1;
const R12: usize = 64 + 1 + 3;
const RETURN_ADDRESS: usize = WORDS - 1;

/// Lays out the stack of a thread that has not run yet: it begins with `entry`, which must not return. Gives the stack pointer to save.
///
/// # Safety
///
/// `top` is a multiple of 16 and the end of a stack of at least a page that is present, writable and nobody's.
pub(super) unsafe fn new_stack(top: u64, entry: extern "C" fn() -> !) -> u64 {
    const { assert!((8 * WORDS).is_multiple_of(16)) };
    let start = top - 8 * WORDS as u64;
    let words = start as *mut u64;
    // SAFETY: by the contract the words are there, and nobody's; they are aligned. The state in the image has 512 bytes. The return
    // address is that of the code above, which calls `entry` on a multiple of 16, as functions expect.
    unsafe {
        core::ptr::copy_nonoverlapping((&raw const initial_sse_state).cast::<u64>(), words, 64);
        for index in 64..WORDS {
            words.add(index).write(0);
        }
        words.add(R12).write(entry as usize as u64);
        words.add(RETURN_ADDRESS).write((&raw const thread_first) as u64);
    }
    start
}

/// Leaves the running thread's stack for another's, and returns when the thread goes on.
///
/// # Safety
///
/// Interrupts are off. `next` was saved by this function or [`new_stack`], and not gone on with since; its stack is still there.
pub(super) unsafe fn switch(save: &AtomicU64, next: &AtomicU64) {
    // SAFETY: by the contract. What the function changes beside is what a C function may.
    unsafe { thread_switch(save.as_ptr(), next.load(Ordering::Relaxed)) };
}
