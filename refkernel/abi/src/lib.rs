//! The contract between `refkernel`, its user programs and the tools that start it: system call numbers,
//! error codes, access bits, what a program finds at its start, and how a run ends.
//!
//! # The system call
//!
//! ```text
//!   syscall      rax = number      rdi, rsi, rdx, r10, r8, r9 = arguments
//!   afterwards   rax = result      rcx, r11 overwritten; every other general register as before;
//!                                  xmm0-15 zero, MXCSR's controls and the x87 state as before
//!
//!   result   0 ..= 2^64 - 4097     a value (0 where a call has nothing to say)
//!            -4095 ..= -1          an `ErrorCode`, negated
//! ```
//!
//! The kernel never touches the caller's stack, and checks every argument before it changes anything: a call that
//! returns an error has changed nothing. Arguments that a call does not take are ignored.
//!
//! # The start of a program
//!
//! A program is entered at its ELF file's entry with `rsp` on a 16-byte boundary at the top of its stack, and `rdi` =
//! the address of a [`StartInformation`] that it may read. Its stack ends in a guard page. Other registers are zero.
//!
//! # Invariants
//!
//! Numbers are never reused: a call or an error that goes away leaves a gap.

#![no_std]
#![warn(missing_docs)]

mod access;
mod advice;
pub mod attacks;
mod count;
mod error_code;
mod exit_code;
pub mod faults;
mod numbered;
mod rights;
pub mod roles;
mod start_information;
mod system_call;

pub use access::Access;
pub use advice::{Advice, Caching};
pub use count::Count;
pub use error_code::{ErrorCode, SystemResult, decode_result, encode_result};
pub use exit_code::{ExitCode, UnknownExitCode, program_status};
pub use rights::{HandleKind, Rights};
pub use start_information::{Handle, KERNEL_ADDRESSES, StartInformation};
pub use system_call::SystemCall;

/// Bytes per page: addresses, offsets and lengths of areas are multiples of this.
pub const PAGE_SIZE: u64 = 4096;

/// The lowest address that a program may map or be linked at: what lies below stays unmapped, so that a null
/// pointer with a small offset faults.
pub const USER_START: u64 = 0x1_0000;

/// The first address that no program may map. The last page below the non-canonical hole stays unmapped: a `syscall`
/// instruction at its end would put a non-canonical return address in `rcx`, which `sysret` must never see.
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;

/// The most bytes that one [`SystemCall::Write`] takes.
pub const WRITE_LENGTH_MAX: u64 = 4096;

/// The largest size of an area, in bytes (1 TiB). Memory is only taken for pages that are touched.
pub const AREA_SIZE_MAX: u64 = 1 << 40;

/// The most bytes of a program's name.
pub const NAME_LENGTH_MAX: u64 = 32;

/// What [`SystemCall::ProcessWait`] gives for a process that was ended. Statuses are smaller.
pub const KILLED: u64 = 1 << 32;

/// The most handles that a process holds at once.
pub const HANDLES_MAX: usize = 64;

/// The most handles that a process is started with.
pub const START_HANDLES_MAX: usize = 8;

/// The most bytes of a message.
pub const MESSAGE_LENGTH_MAX: u64 = 4 * PAGE_SIZE;

/// The most handles of a message.
pub const MESSAGE_HANDLES_MAX: usize = 8;

/// The most messages that wait at an end of a channel.
pub const QUEUE_LENGTH_MAX: usize = 16;

/// For a call that waits: as long as it takes.
pub const FOREVER: u64 = u64::MAX;
