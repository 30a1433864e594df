//! Traps: what happened, who answers, and the report when nobody can.
//!
//! ```text
//!   processor -> stub -> trap_dispatch --- page fault --> memory::page_fault --> resolved: return
//!                                     |                                     `-> the kernel's copy routine: its fixup
//!                                     |-- an interrupt --> answered; at the timer's another thread may run
//!                                     |-- a program's trap --> the program is killed, the kernel goes on
//!                                     `-- the kernel's trap -> report, exit code FatalTrap
//! ```
//!
//! # Invariants
//!
//! A frame that [`trap_dispatch`] returns from is on the stack that was interrupted (or the process's kernel stack), so a
//! handler may trap again. Interrupts are off, SSE state is saved, MXCSR is the kernel's, and direction and access flags are
//! clear while it runs.

use super::apic::{self, FLUSH_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR, WAKE_VECTOR};
use super::io_apic::{KEYBOARD_VECTOR, SERIAL_VECTOR};
use super::trap_cause::TrapCause;
use super::{backtrace, local, probe, segments, stacks, user, user_copy};
use crate::devices::exit::{exit, stop};
use crate::devices::{input, serial};
use crate::log;
use crate::memory::shootdown;
use crate::pager;
use crate::thread::{Thread, scheduler};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use refkernel_abi::roles::Attempt;
use refkernel_abi::{ExitCode, USER_END};
use vmcore::vm_space::SpaceError;
use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};

core::arch::global_asm!(
    include_str!("trap.s"),
    KERNEL_STACK = const local::KERNEL_STACK,
    SLOT_SHIFT = const stacks::SLOT_SHIFT,
    GUARD_SIZE = const stacks::GUARD_SIZE,
    SLOTS_START = const stacks::SLOTS_START,
    SLOTS_SIZE = const stacks::SLOTS_SIZE,
    trap_dispatch = sym trap_dispatch,
);

unsafe extern "C" {
    static trap_move: u8;
    static trap_move_end: u8;
}

/// The non-maskable interrupt's vector.
const NON_MASKABLE: u64 = 2;
/// The first vector that is no exception's.
const FIRST_INTERRUPT: u8 = 32;
/// The page fault's vector.
const PAGE_FAULT: u64 = 14;

/// The interrupted program's state, as the stub saves it.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct TrapFrame {
    /// x87 and SSE state as `fxsave64` writes it.
    pub(crate) sse: [u8; 512],
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rbp: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rax: u64,
    /// Which trap.
    pub(crate) vector: u64,
    /// The processor's error code, or zero.
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 512 + 22 * 8);

impl TrapFrame {
    /// Whether a program was interrupted.
    pub(crate) const fn interrupted_program(&self) -> bool {
        self.cs & 3 != 0
    }

    /// What the manual calls the trap.
    pub(crate) const fn name(&self) -> &'static str {
        match self.vector {
            0 => "divide error",
            1 => "debug exception",
            2 => "non-maskable interrupt",
            3 => "breakpoint",
            4 => "overflow",
            5 => "bound range exceeded",
            6 => "invalid opcode",
            7 => "device not available",
            8 => "double fault",
            10 => "invalid task state segment",
            11 => "segment not present",
            12 => "stack-segment fault",
            13 => "general protection fault",
            PAGE_FAULT => "page fault",
            16 => "x87 floating-point error",
            17 => "alignment check",
            18 => "machine check",
            19 => "SIMD floating-point exception",
            20 => "virtualization exception",
            21 => "control protection exception",
            _ => "unexpected interrupt",
        }
    }
}

/// A page fault as the processor tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageFault {
    /// The address that was accessed.
    pub(crate) address: u64,
    /// Intel SDM Vol. 3A, 5.7: bit 0 present, 1 write, 2 user, 3 reserved bit, 4 instruction fetch.
    error: u64,
    /// The instruction that made the access.
    pub(crate) rip: u64,
}

impl PageFault {
    /// The translation was there and did not allow the access.
    pub(crate) const fn present(self) -> bool {
        self.error & 1 != 0
    }

    /// It was a write.
    pub(crate) const fn write(self) -> bool {
        self.error & 2 != 0
    }

    /// It came from a program.
    pub(crate) const fn user(self) -> bool {
        self.error & 4 != 0
    }

    /// An entry had a reserved bit set: the tables are damaged.
    pub(crate) const fn reserved(self) -> bool {
        self.error & 8 != 0
    }

    /// It was an instruction fetch.
    pub(crate) const fn execute(self) -> bool {
        self.error & 16 != 0
    }

    /// What was attempted.
    #[inline]
    pub(crate) const fn attempt(self) -> Attempt {
        match (self.execute(), self.write()) {
            (true, _) => Attempt::Execute,
            (false, true) => Attempt::Write,
            (false, false) => Attempt::Read,
        }
    }

    /// The same in a word.
    pub(crate) const fn access(self) -> &'static str {
        match self.attempt() {
            Attempt::Execute => "execution",
            Attempt::Write => "write",
            Attempt::Read => "read",
        }
    }
}

impl fmt::Display for PageFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.reserved() {
            "reserved bit in an entry"
        } else if self.present() {
            "not allowed"
        } else {
            "not present"
        };
        write!(formatter, "{} at {:#x}: {why}", self.access(), self.address)
    }
}

/// Page faults after which the access was repeated.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// How many page faults the memory manager has answered so far.
pub(crate) fn faults_answered() -> u64 {
    ANSWERED.load(Ordering::Relaxed)
}

/// Interrupts of the timers of all processors.
static TIMER_INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// How often a processor's timer has interrupted it so far.
pub(crate) fn timer_interrupts() -> u64 {
    TIMER_INTERRUPTS.load(Ordering::Relaxed)
}

/// Every trap, from the stub.
extern "C" fn trap_dispatch(frame: &mut TrapFrame) {
    if frame.vector == PAGE_FAULT && !on_trap_stack(frame) {
        page_fault(frame);
    } else {
        other_trap(frame);
    }
}

/// A page fault, which is answered without more ado as a rule.
#[inline]
fn page_fault(frame: &mut TrapFrame) {
    // CR2 is read before anything can fault again.
    let fault = PageFault { address: Cr2::read_raw(), error: frame.error, rip: frame.rip };
    #[cfg(feature = "planted-weakness")]
    if crate::weakness::lets_through(fault) {
        return;
    }
    // The kernel has no business in a program's memory but by the copy routine. Anything else would be a fault that
    // comes back for ever: SMAP and SMEP refuse what the tables allow.
    // A program's instruction may have the processor read something as the kernel would, a descriptor for one, which is always there. QEMU 7.2
    // does so for the stack of `iret` and `retf` as well, and SMAP refuses it: that too would come back for ever.
    let stray = if frame.interrupted_program() {
        !fault.user()
    } else {
        fault.address < USER_END && !user_copy::is_copying(frame)
    };
    match if stray { Err(None) } else { crate::memory::page_fault(fault) } {
        Ok(()) => {
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
        Err(reason) => refused(frame, fault, reason),
    }
}

/// A page fault whose access may not be repeated.
#[cold]
#[inline(never)]
fn refused(frame: &mut TrapFrame, fault: PageFault, reason: Option<SpaceError>) {
    // A copy ends with an error for what is wrong with the program's memory only: a fault at its other side is the kernel's.
    let out_of_memory = reason.as_ref().is_some_and(pager::is_out_of_memory);
    let of_copy = !frame.interrupted_program() && fault.address < USER_END && user_copy::recover(frame, out_of_memory);
    if of_copy || (!frame.interrupted_program() && probe::recover(frame)) {
        return;
    }
    if frame.interrupted_program() {
        user::kill(user::Killed::PageFault { fault, reason, rip: frame.rip });
    }
    fatal(frame, Some(fault));
}

/// Any other trap.
#[inline(never)]
fn other_trap(frame: &TrapFrame) {
    if frame.vector >= u64::from(FIRST_INTERRUPT) && interrupt(frame.vector) {
        if frame.interrupted_program() && scheduler::current().is_some_and(Thread::is_killed) {
            user::kill(user::Killed::ByOrder);
        }
        return;
    }
    if frame.vector == NON_MASKABLE && REPORTED.load(Ordering::Relaxed) {
        // Another processor has said the kernel's last message.
        stop();
    }
    if frame.interrupted_program() && !is_machine_wide(frame.vector) {
        let TrapFrame { vector, error, rip, .. } = *frame;
        user::kill(user::Killed::Trap { name: frame.name(), vector, error, rip, cause: TrapCause::of(frame) });
    }
    let fault = (frame.vector == PAGE_FAULT).then(|| PageFault {
        address: Cr2::read_raw(),
        error: frame.error,
        rip: frame.rip,
    });
    fatal(frame, fault)
}

/// Answers an interrupt; false if it is none that anybody has asked for.
fn interrupt(vector: u64) -> bool {
    match u8::try_from(vector) {
        Ok(FLUSH_VECTOR) => {
            apic::end_of_interrupt();
            shootdown::serve();
        }
        // Whoever waits for work looks for it by itself, as soon as it goes on.
        Ok(WAKE_VECTOR) => {
            apic::end_of_interrupt();
            crate::memory::leave_unused();
        }
        Ok(TIMER_VECTOR) => {
            TIMER_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
            apic::end_of_interrupt();
            scheduler::tick();
        }
        Ok(vector @ (KEYBOARD_VECTOR | SERIAL_VECTOR)) => input::interrupt(vector),
        // It was taken back, and is not to be acknowledged (Intel SDM Vol. 3A, 12.9).
        Ok(SPURIOUS_VECTOR) => {}
        _ => return false,
    }
    true
}

/// These say something about the machine, whoever was running.
const fn is_machine_wide(vector: u64) -> bool {
    matches!(vector, 2 | 8 | 18)
}

/// Whether the frame could not be moved off the trap stack: then it is fatal, and nothing may trap again.
///
/// A program's always is: onto its process's kernel stack, where it has the room that every call begins with.
#[inline]
fn on_trap_stack(frame: &TrapFrame) -> bool {
    !frame.interrupted_program() && segments::trap_stack().contains(&((&raw const *frame) as u64))
}

/// Set by the first report.
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Stops the other processors for a last message. False if another one has begun with its own: then that one's is the last.
pub(crate) fn begin_last_message() -> bool {
    let first = !REPORTED.swap(true, Ordering::SeqCst);
    if first {
        apic::stop_others();
    }
    first
}

/// The last message: what happened, where, and how it came there. On the stack where it happened.
#[cold]
#[inline(never)]
fn fatal(frame: &TrapFrame, fault: Option<PageFault>) -> ! {
    if !begin_last_message() {
        // A report that traps itself says no more: it would only trap again.
        exit(ExitCode::FatalTrap);
    }
    // SAFETY: whoever held the serial line's lock was interrupted by this trap, or stopped, and does not run again.
    unsafe { serial::seize() };
    let overflowed = fault.and_then(|fault| stacks::find(fault.address).filter(|s| s.guard.contains(&fault.address)));
    match (&overflowed, fault) {
        (Some(stack), Some(fault)) => {
            log!("refkernel: fatal: kernel stack overflow: {}: {fault}", stack.name);
        }
        (None, Some(fault)) => log!("refkernel: fatal: page fault: {fault}"),
        (_, None) => {
            log!("refkernel: fatal: {} (vector {}), error code {:#x}", frame.name(), frame.vector, frame.error)
        }
    }
    let moving = (&raw const trap_move) as u64..(&raw const trap_move_end) as u64;
    if moving.contains(&frame.rip) {
        log!("  in the entry of another trap, whose stack could not be written");
    }
    log!("  rip {:#018x}  cs {:#x}  rflags {:#x}  ss {:#x}", frame.rip, frame.cs, frame.rflags, frame.ss);
    log!("  rax {:#018x}  rbx {:#018x}  rcx {:#018x}", frame.rax, frame.rbx, frame.rcx);
    log!("  rdx {:#018x}  rsi {:#018x}  rdi {:#018x}", frame.rdx, frame.rsi, frame.rdi);
    log!("  rbp {:#018x}  rsp {:#018x}  r8  {:#018x}", frame.rbp, frame.rsp, frame.r8);
    log!("  r9  {:#018x}  r10 {:#018x}  r11 {:#018x}", frame.r9, frame.r10, frame.r11);
    log!("  r12 {:#018x}  r13 {:#018x}  r14 {:#018x}", frame.r12, frame.r13, frame.r14);
    log!("  r15 {:#018x}  cr2 {:#018x}  cr3 {:#018x}", frame.r15, Cr2::read_raw(), Cr3::read_raw().0.start_address());
    log!("  cr0 {:#x}  cr4 {:#x}", Cr0::read_raw(), Cr4::read_raw());
    match stacks::find(frame.rsp) {
        Some(stack) => log!("  on the {} at {:#x}..{:#x}", stack.name, stack.memory.start, stack.memory.end),
        None if frame.interrupted_program() => log!("  in a program"),
        None => log!("  on no known stack"),
    }
    if !frame.interrupted_program() {
        backtrace::print(Some(frame.rip), frame.rbp);
    }
    // SAFETY: the other processors were stopped, and this one ends.
    unsafe { crate::screen::draw_last() };
    exit(ExitCode::FatalTrap)
}
