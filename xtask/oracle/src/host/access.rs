//! Accesses that may fault, and the handler that says how they ended.
//!
//! Each access is one instruction, the first of a function; a fault of it goes on at a function that returns at once, with the reason in the place of the result.

use core::arch::naked_asm;

use super::child;
use crate::script::Outcome;

/// Loads the word at `address` into `into`; gives 0.
#[unsafe(naked)]
unsafe extern "C" fn load(address: u64, into: *mut u64) -> u64 {
    naked_asm!("mov rax, [rdi]", "mov [rsi], rax", "xor eax, eax", "ret")
}

/// Stores a word; gives 0.
#[unsafe(naked)]
unsafe extern "C" fn store(address: u64, value: u64) -> u64 {
    naked_asm!("mov [rdi], rsi", "xor eax, eax", "ret")
}

/// Where an access goes on that faulted.
#[unsafe(naked)]
unsafe extern "C" fn refused() -> u64 {
    naked_asm!("ret")
}

extern "C" fn on_signal(number: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with `SA_SIGINFO` both, for as long as it runs.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    let registers = &mut context.uc_mcontext.gregs;
    let at = registers[libc::REG_RIP as usize] as usize;
    if at != load as *const () as usize && at != store as *const () as usize {
        child::astray();
    }
    let reason = match (number, info.si_code) {
        (libc::SIGSEGV, 1) => 1,
        (libc::SIGSEGV, 2) => 2,
        (libc::SIGBUS, 2) => 3,
        _ => child::astray(),
    };
    registers[libc::REG_RAX as usize] = reason;
    registers[libc::REG_RIP as usize] = refused as *const () as usize as i64;
}

/// Has faults of accesses be handled, in this process and its children.
pub(super) fn handle() {
    // SAFETY: all zero is a value of the structure; the handler is a function of the kind that `SA_SIGINFO` wants.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
        libc::sigaction(libc::SIGBUS, &action, core::ptr::null_mut());
    }
}

fn outcome(reason: u64) -> Outcome {
    match reason {
        0 => Outcome::Done,
        1 => Outcome::NotMapped,
        2 => Outcome::Denied,
        _ => Outcome::Bus,
    }
}

/// Reads a word.
///
/// # Safety
/// Nothing of Rust's lies there.
pub(super) unsafe fn read(address: u64) -> (Outcome, u64) {
    let mut value = 0;
    // SAFETY: a load changes nothing; if it faults, the handler has it go on behind the call.
    let reason = unsafe { load(address, &mut value) };
    (outcome(reason), value)
}

/// Writes a word.
///
/// # Safety
/// Nothing of Rust's lies there.
pub(super) unsafe fn write(address: u64, value: u64) -> Outcome {
    // SAFETY: nothing of Rust's lies there; if it faults, the handler has it go on behind the call.
    outcome(unsafe { store(address, value) })
}
