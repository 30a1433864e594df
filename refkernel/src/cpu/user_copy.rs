//! Copies between the kernel and a program: the only code that touches a program's memory by its addresses.
//!
//! The range is checked to be a program's before anything is touched, SMAP is lifted for the copy alone, and a fault that
//! the memory manager cannot resolve ends the copy with an error instead of the kernel: the trap handler sees that the
//! instruction is one of the two copy instructions and goes on at the routine's end. The error tells a bad pointer from a
//! good one for whose page there is no memory.

use super::trap::TrapFrame;
use crate::weakness::{self, Defence};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use refkernel_abi::{ErrorCode, USER_END, USER_START};

core::arch::global_asm!(
    // user_copy(rdi to, rsi from, rdx count) -> rax: zero, or why a fault has ended it: one, or two for want of memory.
    ".section .text.user_copy, \"ax\", @progbits",
    ".global user_copy_raw",
    "user_copy_raw:",
    "    cmp byte ptr [rip + {SMAP}], 0",
    "    je 2f",
    "    stac",
    "2:  mov rcx, rdx",
    "    shr rcx, 3",
    "user_copy_words:",
    "    rep movsq",
    "    mov ecx, edx",
    "    and ecx, 7",
    "user_copy_bytes:",
    "    rep movsb",
    "    xor eax, eax",
    "3:  cmp byte ptr [rip + {SMAP}], 0",
    "    je 4f",
    "    clac",
    "4:  ret",
    "user_copy_fault:",
    "    mov eax, 1",
    "    jmp 3b",
    "user_copy_no_memory:",
    "    mov eax, 2",
    "    jmp 3b",
    ".text",
    SMAP = sym ACCESS_PREVENTION,
);

unsafe extern "C" {
    fn user_copy_raw(to: u64, from: u64, count: u64) -> u64;
    static user_copy_words: u8;
    static user_copy_bytes: u8;
    static user_copy_fault: u8;
    static user_copy_no_memory: u8;
}

/// Whether SMAP is on: `stac` and `clac` do not exist without it.
static ACCESS_PREVENTION: AtomicBool = AtomicBool::new(false);

/// Told once, when the processor is set up.
pub(super) fn set_access_prevention(on: bool) {
    ACCESS_PREVENTION.store(on, Ordering::Relaxed);
}

/// Why bytes of a program's were not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserCopyError {
    /// The range is no program's, or has memory that the program may not access so.
    BadPointer {
        /// First address of the range.
        address: u64,
        /// Its length in bytes.
        length: usize,
    },
    /// The program may access it so, but there is no memory for a page of it.
    OutOfMemory,
}

impl fmt::Display for UserCopyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadPointer { address, length } => {
                write!(formatter, "{length} bytes at {address:#x} are not the program's to access so")
            }
            Self::OutOfMemory => formatter.write_str("there is no memory for a page of the program's"),
        }
    }
}

impl core::error::Error for UserCopyError {}

impl From<UserCopyError> for ErrorCode {
    fn from(error: UserCopyError) -> Self {
        match error {
            UserCopyError::BadPointer { .. } => Self::BadPointer,
            UserCopyError::OutOfMemory => Self::OutOfMemory,
        }
    }
}

/// What a copy of the range came to, by what the routine gave.
fn outcome(code: u64, address: u64, length: usize) -> Result<(), UserCopyError> {
    match code {
        0 => Ok(()),
        2 => Err(UserCopyError::OutOfMemory),
        _ => Err(UserCopyError::BadPointer { address, length }),
    }
}

/// Checks that a range has only addresses of programs.
fn check(address: u64, length: usize) -> Result<(), UserCopyError> {
    match address.checked_add(length as u64) {
        Some(end) if address >= USER_START && end <= USER_END => Ok(()),
        _ if weakness::lacks(Defence::PointerChecks) => Ok(()),
        _ => Err(UserCopyError::BadPointer { address, length }),
    }
}

/// Fills `buffer` from the active space's memory at `address`. May fault pages in, so it must not be called under a
/// lock that the page-fault handler takes.
///
/// # Errors
///
/// [`UserCopyError`]; what was copied until then stays in `buffer`.
pub(crate) fn copy_from_user(buffer: &mut [u8], address: u64) -> Result<(), UserCopyError> {
    let length = buffer.len();
    check(address, length)?;
    // SAFETY: the target is a live buffer of `length` bytes. The source has only addresses of programs, where no object
    // of the kernel's lies; a fault there ends the copy at `user_copy_fault`.
    let code = unsafe { user_copy_raw(buffer.as_mut_ptr() as u64, address, length as u64) };
    outcome(code, address, length)
}

/// Writes `bytes` to the active space's memory at `address`. As [`copy_from_user`].
///
/// # Errors
///
/// [`UserCopyError`]; what was copied until then has been written.
pub(crate) fn copy_to_user(address: u64, bytes: &[u8]) -> Result<(), UserCopyError> {
    let length = bytes.len();
    check(address, length)?;
    // SAFETY: as for `copy_from_user` with the roles exchanged: only a program's memory is written.
    let code = unsafe { user_copy_raw(address, bytes.as_ptr() as u64, length as u64) };
    outcome(code, address, length)
}

/// Whether it is the copy that was interrupted.
pub(super) fn is_copying(frame: &TrapFrame) -> bool {
    [(&raw const user_copy_words) as u64, (&raw const user_copy_bytes) as u64].contains(&frame.rip)
}

/// After a fault that cannot be resolved: if it came from the copy, goes on at the error exit for want of memory, or for anything else.
pub(super) fn recover(frame: &mut TrapFrame, out_of_memory: bool) -> bool {
    if !is_copying(frame) {
        return false;
    }
    frame.rip = if out_of_memory { &raw const user_copy_no_memory } else { &raw const user_copy_fault } as u64;
    true
}
