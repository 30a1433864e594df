//! System calls: from the `syscall` instruction to a Rust function and back, in as few instructions as keep the
//! kernel's promises.
//!
//! - `syscall` (Intel SDM Vol. 2B) switches neither the stack nor the GS base: both are done here, with interrupts off.
//! - The kernel's function follows the C ABI, so it keeps rbx, rbp and r12 to r15; the stub keeps the other general
//!   registers and the program's MXCSR. SSE registers return zero: nothing of the kernel's leaks through them.
//! - `sysret` to an address that is not canonical faults in ring 0 on the program's stack (Intel): the program is killed
//!   instead.

use super::{local, segments, user};
use crate::process;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, EferFlags, LStar, Msr, SFMask, Star};
use x86_64::registers::rflags::RFlags;

core::arch::global_asm!(
    ".section .text.system_call, \"ax\", @progbits",
    ".balign 16",
    ".global system_call_entry",
    "system_call_entry:",
    "    swapgs",
    "    mov gs:[{USER_STACK}], rsp",
    "    mov rsp, gs:[{KERNEL_STACK}]",
    "    push gs:[{USER_STACK}]",
    "    push r11",
    "    push rcx",
    "    push rdi",
    "    push rsi",
    "    push rdx",
    "    push r10",
    "    push r8",
    "    push r9",
    // Room for MXCSR; the rest makes the stack a multiple of 16, as before every call.
    "    sub rsp, 24",
    "    stmxcsr [rsp]",
    "    ldmxcsr [rip + kernel_mxcsr]",
    // The fourth argument is where `syscall` does not put the return address.
    "    mov rcx, r10",
    "    cmp rax, {COUNT}",
    "    jae 3f",
    "    call [{FUNCTIONS} + rax * 8]",
    "4:  ldmxcsr [rsp]",
    "    add rsp, 24",
    "    pxor xmm0, xmm0",
    "    pxor xmm1, xmm1",
    "    pxor xmm2, xmm2",
    "    pxor xmm3, xmm3",
    "    pxor xmm4, xmm4",
    "    pxor xmm5, xmm5",
    "    pxor xmm6, xmm6",
    "    pxor xmm7, xmm7",
    "    pxor xmm8, xmm8",
    "    pxor xmm9, xmm9",
    "    pxor xmm10, xmm10",
    "    pxor xmm11, xmm11",
    "    pxor xmm12, xmm12",
    "    pxor xmm13, xmm13",
    "    pxor xmm14, xmm14",
    "    pxor xmm15, xmm15",
    "    pop r9",
    "    pop r8",
    "    pop r10",
    "    pop rdx",
    "    pop rsi",
    "    pop rdi",
    "    pop rcx",
    // Addresses of programs end below 2^47. `syscall` has put the address of the next instruction here: that of an instruction of the lower half, plus
    // its length, so bit 47 is set exactly where it has left that half.
    "    bt rcx, 47",
    "    jc 2f",
    "    pop r11",
    "    pop rsp",
    "    swapgs",
    "    sysretq",
    // r11 and rsp are left on the stack, which makes it a multiple of 16: as before a call.
    "2:  mov rdi, rcx",
    "    call {refuse_return}",
    "    ud2",
    "3:  call {unknown_call}",
    "    jmp 4b",
    ".text",
    USER_STACK = const local::USER_STACK,
    KERNEL_STACK = const local::KERNEL_STACK,
    COUNT = const process::SYSTEM_CALLS.len(),
    FUNCTIONS = sym process::SYSTEM_CALLS,
    unknown_call = sym process::unknown_call,
    refuse_return = sym refuse_return,
);

unsafe extern "C" {
    fn system_call_entry();
}

const IA32_SYSENTER_CS: u32 = 0x174;

/// A system call: up to six arguments, and what goes into the program's rax.
pub(crate) type Function = extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;

/// Points the processor, whose segments these are, at the stub.
pub(super) fn initialise(segments: &segments::Segments) {
    let selectors = Star::write(segments.user_code, segments.user_data, segments.kernel_code, segments.kernel_data);
    assert!(selectors.is_ok(), "the order of the segments is that of sysret: {selectors:?}");
    LStar::write(VirtAddr::from_ptr(system_call_entry as *const ()));
    // Interrupts off, string operations upwards, no single step, no access to user pages (AC lifts SMAP), no nested
    // task.
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK,
    );
    // SAFETY: a null selector makes `sysenter`, the other way in, a general protection fault (SDM Vol. 2B, SYSENTER).
    unsafe { Msr::new(IA32_SYSENTER_CS).write(0) };
    // SAFETY: the stub, its segments and its flags are in place, and only ring 3 uses `syscall`.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS)) };
}

/// The program cannot be gone back to.
extern "C" fn refuse_return(address: u64) -> ! {
    #[cfg(feature = "planted-weakness")]
    if crate::weakness::lacks(crate::weakness::Defence::ReturnChecks) {
        // SAFETY: for the control of a test, which bears with whatever comes of it. The program's stack pointer does not matter: the processor is in ring 3, or traps on a stack of its own.
        unsafe {
            core::arch::asm!(
                "swapgs", "sysretq",
                in("rcx") address, in("r11") 0x202, options(noreturn)
            );
        }
    }
    user::kill(user::Killed::ReturnAddress(address))
}
