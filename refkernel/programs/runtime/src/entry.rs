//! The way into a program and the way out after a panic.

use core::panic::PanicInfo;

use refkernel_abi::{StartInformation, program_status};

use crate::{call, say};

// The kernel enters here with the stack pointer on a 16-byte boundary and `rdi` = the start information. The call pushes a return
// address, which is how a function of the C ABI expects its stack. A zero frame pointer ends walks of the stack.
core::arch::global_asm!(
    ".section .text._start, \"ax\"",
    ".global _start",
    "_start:",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "Rust" {
    /// The program's own, named by [`program!`](crate::program).
    safe fn refkernel_program_main(start: &StartInformation) -> u32;
}

extern "C" fn start(information: &StartInformation) -> ! {
    call::exit(refkernel_program_main(information))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(location) => say!("program panicked at {}:{}: {}", location.file(), location.line(), info.message()),
        None => say!("program panicked: {}", info.message()),
    }
    call::exit(program_status::PANIC)
}

/// The precompiled `core` of a host target names the function that would unwind a stack. Nothing here unwinds, so it is never called.
// SAFETY: the name is the one that the compiler expects, and no other crate of a program defines it.
#[cfg(not(target_os = "none"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
