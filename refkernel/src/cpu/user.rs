//! Into a program and back: a call that returns when the program exits or is killed.
//!
//! The program's traps and system calls run on the caller's stack, below what [`enter_user`] saved there:
//!
//! ```text
//!   caller's frames
//!   saved registers, MXCSR, the outer kernel stack and context   <- return context
//!   frames of a trap or a system call of the program             <- kernel stack: begins here each time
//! ```
//!
//! Leaving throws away everything below the return context without running it to its end: no code that leaves may
//! hold a lock, or a value whose destructor matters.

use super::local::{self, CPUS_MAX, PerCpu};
use super::{segments, trap::PageFault, trap_cause::TrapCause};
use core::cell::Cell;
use core::fmt;
use refkernel_abi::{USER_END, USER_START};
use vmcore::vm_space::SpaceError;
use x86_64::instructions::interrupts;

core::arch::global_asm!(
    // enter_user(rdi entry, rsi stack, rdx argument) -> rax: what was given to leave_user.
    ".section .text.enter_user, \"ax\", @progbits",
    ".global enter_user_raw",
    "enter_user_raw:",
    // What a C function must keep (System V ABI, 3.2.1): with the return address nine words, then two more.
    "    push rbp",
    "    push rbx",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    sub rsp, 8",
    "    stmxcsr [rsp]",
    "    push gs:[{RETURN_CONTEXT}]",
    "    push gs:[{KERNEL_STACK}]",
    // A multiple of 16: where trap frames and system calls of the program begin.
    "    mov gs:[{RETURN_CONTEXT}], rsp",
    "    mov gs:[{KERNEL_STACK}], rsp",
    // To ring 3 by iretq (Intel SDM Vol. 2A): ss, rsp, rflags (the bit that is always one), cs,
    // rip. Interrupts are on in programs (0x200).
    "    push {USER_DATA}",
    "    push rsi",
    "    push 0x202",
    "    push {USER_CODE}",
    "    push rdi",
    "    mov rdi, rdx",
    // Nothing of the kernel's shows in any register.
    "    fxrstor64 [rip + initial_sse_state]",
    "    xor eax, eax",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov fs, eax",
    "    xor ebx, ebx",
    "    xor ecx, ecx",
    "    xor edx, edx",
    "    xor esi, esi",
    "    xor ebp, ebp",
    "    xor r8d, r8d",
    "    xor r9d, r9d",
    "    xor r10d, r10d",
    "    xor r11d, r11d",
    "    xor r12d, r12d",
    "    xor r13d, r13d",
    "    xor r14d, r14d",
    "    xor r15d, r15d",
    "    swapgs",
    // Not before: a null selector clears the active GS base (Intel SDM Vol. 3A, 3.4.4), which is the program's from here on.
    "    mov gs, eax",
    "    iretq",
    // leave_user(rdi status): returns from the innermost enter_user with it.
    ".global leave_user_raw",
    "leave_user_raw:",
    "    mov rax, rdi",
    "    mov rsp, gs:[{RETURN_CONTEXT}]",
    "    pop gs:[{KERNEL_STACK}]",
    "    pop gs:[{RETURN_CONTEXT}]",
    "    ldmxcsr [rsp]",
    "    add rsp, 8",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbx",
    "    pop rbp",
    "    ret",
    ".text",
    RETURN_CONTEXT = const local::RETURN_CONTEXT,
    KERNEL_STACK = const local::KERNEL_STACK,
    USER_DATA = const segments::USER_DATA,
    USER_CODE = const segments::USER_CODE,
);

unsafe extern "C" {
    fn enter_user_raw(entry: u64, stack: u64, argument: u64) -> u64;
    fn leave_user_raw(status: u64) -> !;
}

/// Why a program was killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Killed {
    /// It accessed memory that it may not access.
    PageFault {
        /// The access.
        fault: PageFault,
        /// Why the memory manager did not make it possible, where it was asked.
        reason: Option<SpaceError>,
        /// The instruction.
        rip: u64,
    },
    /// It caused another trap.
    Trap {
        /// What the manual calls it.
        name: &'static str,
        /// Its number.
        vector: u64,
        /// The processor's error code.
        error: u64,
        /// The instruction.
        rip: u64,
        /// What was wrong, as far as that can be told.
        cause: TrapCause,
    },
    /// It made a system call from where no program can go on.
    ReturnAddress(u64),
    /// Another thread, or another process, had it ended.
    ByOrder,
    /// It was entered, or has a stack, outside of the addresses of programs.
    BadStart {
        /// The entry.
        entry: u64,
        /// The stack.
        stack: u64,
    },
}

impl fmt::Display for Killed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageFault { fault, rip, .. } => {
                write!(
                    formatter,
                    "page fault: {} at {:#x}, by the instruction at {rip:#x}",
                    fault.access(),
                    fault.address
                )
            }
            Self::Trap { name, vector, error, rip, cause } => {
                write!(formatter, "{name} (vector {vector}, error code {error:#x})")?;
                if let Some(address) = cause.address() {
                    write!(formatter, ": access at {address:#x}")?;
                }
                // These come behind the instruction that raises them.
                let place = if matches!(vector, 1 | 3) { "before" } else { "by" };
                write!(formatter, ", {place} the instruction at {rip:#x}")
            }
            Self::ReturnAddress(address) => write!(formatter, "system call with return address {address:#x}"),
            Self::ByOrder => formatter.write_str("it was told to end"),
            Self::BadStart { entry, stack } => write!(
                formatter,
                "start at {entry:#x} with stack {stack:#x}: both must lie in {USER_START:#x}..{USER_END:#x}"
            ),
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UserExit {
    /// It asked to, with this status.
    Exited(u32),
    /// The thread asked to end alone.
    ThreadExited,
    /// The kernel ended it.
    Killed(Killed),
}

/// The end of the program that is being left, from the code that leaves to the code that entered: one for each processor.
struct Ending(Cell<Option<UserExit>>);

// SAFETY: used by the processor whose it is, with interrupts off from the code that leaves to the code that entered.
unsafe impl Sync for Ending {}

static ENDINGS: PerCpu<Ending> = PerCpu::new([const { Ending(Cell::new(None)) }; CPUS_MAX]);

/// Runs the program of the active space from `entry` with the stack pointer `stack` and `argument` in its first
/// register, and returns how it ended, with interrupts off. Calls may be nested.
pub(crate) fn enter_user(entry: u64, stack: u64, argument: u64) -> UserExit {
    let addresses = USER_START..USER_END;
    // iretq faults in the kernel on an address that is not canonical: such a program is refused.
    if !addresses.contains(&entry) || !(addresses.contains(&stack) || stack == USER_END) {
        return UserExit::Killed(Killed::BadStart { entry, stack });
    }
    // The processor must not change while its entry context does.
    interrupts::disable();
    // SAFETY: GS leads to this processor's data; the entry is canonical and in the user half, where the kernel's pages
    // cannot be executed or touched from ring 3. Whatever the program does comes back through the stubs.
    let status = unsafe { enter_user_raw(entry, stack, argument) };
    ENDINGS.here().0.take().unwrap_or(UserExit::Exited(status as u32))
}

/// Ends the running program by its own wish.
pub(crate) fn exit(status: u32) -> ! {
    ENDINGS.here().0.set(None);
    // SAFETY: called from a system call, so a program is running and its return context is there.
    unsafe { leave_user_raw(u64::from(status)) }
}

/// Ends the running thread of a program by its own wish.
pub(crate) fn exit_thread() -> ! {
    ENDINGS.here().0.set(Some(UserExit::ThreadExited));
    // SAFETY: as in `exit`.
    unsafe { leave_user_raw(0) }
}

/// Ends the running program by the kernel's decision.
pub(crate) fn kill(reason: Killed) -> ! {
    ENDINGS.here().0.set(Some(UserExit::Killed(reason)));
    // SAFETY: called for a trap or a system call of a program, so one is running and its return context is there.
    unsafe { leave_user_raw(0) }
}
