//! Counting what an operation executes, one instruction at a time.
//!
//! The process forks; the child carries the operation out between two breakpoints, and the parent lets it make single steps. So the figures are exact and the same on
//! every run, however busy the machine, and what is counted is what was compiled: nothing of it is instrumented.
//!
//! ```text
//!   parent   ── fork ──► step, look at the instruction and its registers, step, ...        instructions, locked ones, words written
//!   child        └─────► int3  operation  int3
//! ```

use std::{collections::BTreeSet, io, ptr};

use anyhow::{Context as _, Result, bail};
use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// The address of each instruction, in order. One that repeats itself counts once.
    pub addresses: Vec<u64>,
    /// How many were locked: with the prefix, or an exchange with memory.
    pub locked: usize,
    /// The words of eight bytes that were written, those on the stack left out.
    pub written: BTreeSet<u64>,
}

/// Bytes below and above the stack pointer that are the stack's.
const STACK: u64 = 1 << 20;
const INT3: u8 = 0xcc;

/// Counts what `operation` executes.
///
/// # Errors
/// The system does not let one process step through another, or the operation ended before its time.
pub fn count(operation: impl FnOnce()) -> Result<Counts> {
    // SAFETY: the child calls nothing but the operation and system calls, and ends; other threads of this process do not hold locks of the C library,
    // since there are none while something is counted.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("no second process to step through"),
        0 => {
            // SAFETY: asks the parent to trace; the breakpoints stop this process, and the parent goes on behind them.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                core::arch::asm!("int3");
                operation();
                core::arch::asm!("int3");
                libc::_exit(0)
            }
        }
        child => {
            let counts = follow(child);
            // SAFETY: the child is this function's, and nobody waits for it but this.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, ptr::null_mut(), 0);
            }
            counts
        }
    }
}

/// Waits for the child to stop at a trap.
fn stopped(child: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: the child is ours, and the pointer leads to what is asked for.
    if unsafe { libc::waitpid(child, &mut status, 0) } != child {
        return Err(io::Error::last_os_error()).context("waiting for the process that is stepped through");
    }
    if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP {
        return Ok(());
    }
    bail!("the process that is stepped through ended before its operation did (status {status:#x})")
}

fn follow(child: libc::pid_t) -> Result<Counts> {
    stopped(child)?;
    let mut counts = Counts::default();
    let mut information = InstructionInfoFactory::new();
    loop {
        // SAFETY: registers are plain data, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the child is stopped, and the pointer leads to what is asked for.
        if unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &mut registers) } == -1 {
            return Err(io::Error::last_os_error()).context("reading registers");
        }
        // The child's code is this process' own, at the same addresses.
        // SAFETY: the child is about to execute this instruction, so its bytes can be read; a page may end behind them.
        let code: Vec<u8> = unsafe {
            let left = 4096 - (registers.rip & 4095) as usize;
            let instruction = ptr::with_exposed_provenance::<u8>(registers.rip as usize);
            let here = std::slice::from_raw_parts(instruction, left.min(15));
            let crosses = Decoder::with_ip(64, here, registers.rip, DecoderOptions::NONE).decode().is_invalid();
            std::slice::from_raw_parts(instruction, if crosses { 15 } else { here.len() }).to_vec()
        };
        if code[0] == INT3 {
            return Ok(counts);
        }
        let instruction = Decoder::with_ip(64, &code, registers.rip, DecoderOptions::NONE).decode();
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        if !repeats || counts.addresses.last() != Some(&registers.rip) {
            counts.addresses.push(registers.rip);
        }
        let exchanges = instruction.mnemonic() == Mnemonic::Xchg
            && (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        counts.locked += usize::from(instruction.has_lock_prefix() || exchanges);
        if instruction.code() != Code::INVALID {
            for memory in information.info(&instruction).used_memory() {
                let writes = matches!(
                    memory.access(),
                    OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
                );
                let address = memory.virtual_address(0, |register, _, _| Some(value(register, &registers)));
                let Some(address) = address.filter(|address| writes && address.abs_diff(registers.rsp) > STACK) else {
                    continue;
                };
                let bytes = memory.memory_size().size().max(1) as u64;
                counts.written.extend((address / 8..=(address + bytes - 1) / 8).map(|word| word * 8));
            }
        }
        // SAFETY: the child is stopped.
        if unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) } == -1 {
            return Err(io::Error::last_os_error()).context("making a step");
        }
        stopped(child)?;
    }
}

fn value(register: Register, registers: &libc::user_regs_struct) -> u64 {
    let full = match register.full_register() {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => return registers.fs_base,
        Register::GS => return registers.gs_base,
        _ => 0,
    };
    if register.size() == 4 { full & 0xffff_ffff } else { full }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    static WORDS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

    #[test]
    fn what_is_executed_is_counted() {
        let nothing = count(|| {}).unwrap();
        let some = count(|| {
            WORDS[0].fetch_add(1, Ordering::Relaxed);
            WORDS[2].store(1, Ordering::Relaxed);
            WORDS[2].swap(2, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!((nothing.locked, some.locked), (0, 2));
        assert!(some.addresses.len() > nothing.addresses.len());
        let address = |word: usize| WORDS[word].as_ptr().expose_provenance() as u64;
        assert!(some.written.contains(&address(0)) && some.written.contains(&address(2)));
        assert!(!some.written.contains(&address(1)) && !nothing.written.contains(&address(0)));
        assert_eq!(WORDS[0].load(Ordering::Relaxed), 0, "another process did it");
    }
}
