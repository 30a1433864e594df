//! The way into a program.

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_abi::{Handle, StartInformation};

use crate::call;

// The kernel enters here with the stack pointer on a 16-byte boundary and `rdi` = the start information. The call pushes a return
// address, which is how a function of the C ABI expects its stack. A zero frame pointer ends walks of the stack. Every other register
// (the general ones, the data segments' selectors, SSE) is collected first: the kernel promises that it is zero.
core::arch::global_asm!(
    ".section .text._start, \"ax\"",
    ".global _start",
    "_start:",
    "or rax, rbx",
    "or rax, rcx",
    "or rax, rdx",
    "or rax, rsi",
    "or rax, rbp",
    "or rax, r8",
    "or rax, r9",
    "or rax, r10",
    "or rax, r11",
    "or rax, r12",
    "or rax, r13",
    "or rax, r14",
    "or rax, r15",
    "mov ecx, ds",
    "or rax, rcx",
    "mov ecx, es",
    "or rax, rcx",
    "mov ecx, fs",
    "or rax, rcx",
    "mov ecx, gs",
    "or rax, rcx",
    "por xmm0, xmm1",
    "por xmm0, xmm2",
    "por xmm0, xmm3",
    "por xmm0, xmm4",
    "por xmm0, xmm5",
    "por xmm0, xmm6",
    "por xmm0, xmm7",
    "por xmm0, xmm8",
    "por xmm0, xmm9",
    "por xmm0, xmm10",
    "por xmm0, xmm11",
    "por xmm0, xmm12",
    "por xmm0, xmm13",
    "por xmm0, xmm14",
    "por xmm0, xmm15",
    "movq rcx, xmm0",
    "or rax, rcx",
    "psrldq xmm0, 8",
    "movq rcx, xmm0",
    "or rax, rcx",
    "mov rsi, rax",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "Rust" {
    /// The program's own, named by [`program!`](crate::program).
    safe fn refkernel_program_main(start: &StartInformation) -> u32;
}

/// What was in the registers that start as zero.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// The bits that were set in any register but the stack pointer and `rdi` when the program started: none, as the kernel promises.
#[must_use]
pub fn registers_at_start() -> u64 {
    REGISTERS.load(Ordering::Relaxed)
}

/// The log, or 0.
static CONSOLE: AtomicU64 = AtomicU64::new(0);

/// The handle of the log that the program was started with, or [`Handle::NONE`].
#[must_use]
pub fn console() -> Handle {
    Handle(CONSOLE.load(Ordering::Relaxed))
}

extern "C" fn start(information: &StartInformation, registers: u64) -> ! {
    CONSOLE.store(information.console.0, Ordering::Relaxed);
    REGISTERS.store(registers, Ordering::Relaxed);
    call::exit(refkernel_program_main(information))
}
