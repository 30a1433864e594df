//! The memory functions that compiled code calls by name: a kernel has no C library to bring them.
//!
//! A target without an operating system has them in `compiler_builtins`; on the host's own target they are this
//! kernel's. Bulk is moved 16 bytes at a time through SSE registers (traps save them), since string instructions
//! without fast-string support take a step per element. Written in assembly where a plain loop would be compiled into a
//! call of the very function that it implements. The library tests them on a host.

use core::arch::global_asm;

global_asm!(include_str!("memory_functions.s"));

global_asm!(
    ".global memcpy",
    ".set memcpy, kernel_memcpy",
    ".global memmove",
    ".set memmove, kernel_memmove",
    ".global memset",
    ".set memset, kernel_memset",
    ".global memcmp",
    ".set memcmp, kernel_memcmp",
    ".global bcmp",
    ".set bcmp, kernel_memcmp",
    ".global strlen",
    ".set strlen, kernel_strlen",
);

/// Referred to by the unwinding tables of the precompiled `core`, which are thrown away: nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
