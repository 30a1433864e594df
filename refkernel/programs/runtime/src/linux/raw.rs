//! Linux's system calls as they are: numbers in registers.

use core::arch::asm;

use refkernel_abi::ErrorCode;

/// Numbers of x86-64's calls (`arch/x86/entry/syscalls/syscall_64.tbl`).
pub(crate) const READ: u64 = 0;
pub(crate) const WRITE: u64 = 1;
pub(crate) const OPEN: u64 = 2;
pub(crate) const CLOSE: u64 = 3;
pub(crate) const MMAP: u64 = 9;
pub(crate) const MPROTECT: u64 = 10;
pub(crate) const MUNMAP: u64 = 11;
pub(crate) const SCHED_YIELD: u64 = 24;
pub(crate) const MREMAP: u64 = 25;
pub(crate) const CLONE: u64 = 56;
pub(crate) const WAIT4: u64 = 61;
pub(crate) const UNAME: u64 = 63;
pub(crate) const FTRUNCATE: u64 = 77;
pub(crate) const GETPPID: u64 = 110;
pub(crate) const MOUNT: u64 = 165;
pub(crate) const IOPERM: u64 = 173;
pub(crate) const FUTEX: u64 = 202;
pub(crate) const CLOCK_GETTIME: u64 = 228;
pub(crate) const CLOCK_GETRES: u64 = 229;
pub(crate) const EXIT_GROUP: u64 = 231;
pub(crate) const MEMFD_CREATE: u64 = 319;

/// Calls Linux, and unpacks its answer.
///
/// # Safety
///
/// The call may take away or change memory that the program uses: the arguments must be those of a call that does not, or the
/// caller must hold no reference into what it changes.
#[inline(always)]
pub(crate) unsafe fn call(number: u64, arguments: [u64; 6]) -> Result<u64, ErrorCode> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result: u64;
    // SAFETY: Linux preserves everything but what is listed, and the caller answers for what the call does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    decode(result)
}

/// Makes a copy of the process (`clone` with nothing shared), which begins with `entry` on the stack that ends at `top`.
///
/// # Safety
///
/// `top` is a multiple of 16 and the end of a stack that is in the copy, long enough, and used by nothing that the copy uses.
#[inline(always)]
pub(crate) unsafe fn clone(entry: extern "C" fn(u64) -> !, top: u64, argument: u64) -> Result<u64, ErrorCode> {
    /// The signal to the parent when the copy ends, and no flag.
    const SIGCHLD: u64 = 17;
    let result: u64;
    // SAFETY: in this process it is a call that changes nothing. The copy goes on behind it with the same registers, but 0 in `rax` and its own stack, and
    // leaves for `entry`, which does not come back.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") CLONE => result,
            in("rdi") SIGCHLD,
            in("rsi") top,
            in("rdx") 0_u64,
            in("r10") 0_u64,
            in("r8") 0_u64,
            in("r12") entry as usize as u64,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    decode(result)
}

/// An error is a small negative number.
#[inline(always)]
fn decode(result: u64) -> Result<u64, ErrorCode> {
    const FIRST_ERROR: u64 = 4095_u64.wrapping_neg();
    if result < FIRST_ERROR { Ok(result) } else { Err(error(result.wrapping_neg())) }
}

/// What this kernel says for an error of Linux's (`include/uapi/asm-generic/errno-base.h`). Those that no measurement should meet are told apart roughly.
#[cold]
fn error(number: u64) -> ErrorCode {
    match number {
        // EBADF, ECHILD
        9 | 10 => ErrorCode::BadHandle,
        // EAGAIN: the word of a futex is another one
        11 => ErrorCode::Changed,
        // ENOMEM
        12 => ErrorCode::OutOfMemory,
        // EACCES, EPERM
        1 | 13 => ErrorCode::Denied,
        // EFAULT
        14 => ErrorCode::BadPointer,
        // EEXIST
        17 => ErrorCode::Occupied,
        // EINVAL
        22 => ErrorCode::BadRange,
        // ETIMEDOUT
        110 => ErrorCode::TimedOut,
        _ => ErrorCode::NotSupported,
    }
}
