//! The way into a program that is Linux's first process, and the way out: the machine ends with it.

use core::arch::asm;

use refkernel_abi::roles::BenchRole;
use refkernel_abi::{ExitCode, StartInformation, program_status};

use super::{description, raw};

// Linux enters here with the stack pointer at the count of arguments, behind which their pointers stand, on a 16-byte boundary.
core::arch::global_asm!(
    ".section .text._start, \"ax\"",
    ".global _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "Rust" {
    /// The program's own, named by [`program!`](crate::program).
    safe fn refkernel_program_main(start: &StartInformation) -> u32;
}

extern "C" fn start(stack: *const u64) -> ! {
    // SAFETY: Linux has put the count and so many pointers to texts there, which stay.
    let arguments = unsafe { core::slice::from_raw_parts(stack.add(1).cast::<*const u8>(), stack.read() as usize) };
    // SAFETY: as above.
    let is = |text: *const u8, role: BenchRole| unsafe { is_word(text, role.word().as_bytes()) };
    let words = &mut arguments.iter().skip(1);
    let role = words.find_map(|text| BenchRole::ALL.into_iter().find(|role| is(*text, *role)));
    description::say();
    let argument = role.unwrap_or(BenchRole::All).number();
    let status = refkernel_program_main(&StartInformation::new(argument));
    leave(if status == program_status::SUCCESS { ExitCode::Success } else { ExitCode::Failure })
}

/// Whether a text is this word.
///
/// # Safety
///
/// The text ends with a zero.
unsafe fn is_word(text: *const u8, word: &[u8]) -> bool {
    // A word has no zero: where the text is shorter, its end differs, and nothing behind it is read.
    // SAFETY: the caller's promise.
    let same = (0..).zip(word).all(|(index, byte)| unsafe { text.add(index).read() } == *byte);
    // SAFETY: as above: the text is as long as the word at least.
    same && unsafe { text.add(word.len()).read() } == 0
}

/// Ends the machine by QEMU's device for that.
fn leave(code: ExitCode) -> ! {
    const PORT: u16 = 0xf4;
    // SAFETY: the call lets this process use the device's ports.
    let allowed = unsafe { raw::call(raw::IOPERM, [PORT.into(), 4, 1, 0, 0, 0]) };
    if allowed.is_ok() {
        // SAFETY: the device's only effect is the end of the machine; where there is none, nothing happens.
        unsafe { asm!("out dx, eax", in("dx") PORT, in("eax") code as u32, options(nomem, nostack)) };
    }
    // Linux panics when its first process ends, and so resets the machine.
    super::call::exit(program_status::FAILURE)
}
