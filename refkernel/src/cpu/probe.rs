//! Accesses of the kernel's that may fail: a fault that the memory manager cannot resolve ends the access, not the
//! kernel.
//!
//! The heap touches new pages this way, so that running out of memory is an error to who allocates; the tests of memory
//! ask this way what is mapped how.

use super::trap::TrapFrame;
use core::sync::atomic::{AtomicU64, Ordering};

core::arch::global_asm!(
    ".section .text.probe, \"ax\", @progbits",
    // probe_read_raw(rdi address) -> rax: the byte, or all ones after a fault.
    ".global probe_read_raw",
    "probe_read_raw:",
    "probe_read_access:",
    "    movzx eax, byte ptr [rdi]",
    "    ret",
    // probe_touch_raw(rdi address) -> rax: zero, or all ones after a fault. A write that changes nothing.
    ".global probe_touch_raw",
    "probe_touch_raw:",
    "    xor eax, eax",
    "probe_touch_access:",
    "    lock or byte ptr [rdi], 0",
    "    ret",
    "probe_fault:",
    "    mov rax, -1",
    "    ret",
    // probe_execute_raw(rdi address of a ret instruction) -> rax: zero, or all ones after a fault.
    ".global probe_execute_raw",
    "probe_execute_raw:",
    "    xor eax, eax",
    "    call rdi",
    "    ret",
    "probe_execute_fault:",
    // The return address that the call pushed.
    "    add rsp, 8",
    "    mov rax, -1",
    "    ret",
    ".text",
);

unsafe extern "C" {
    fn probe_read_raw(address: u64) -> u64;
    fn probe_touch_raw(address: u64) -> u64;
    fn probe_execute_raw(address: u64) -> u64;
    static probe_read_access: u8;
    static probe_touch_access: u8;
    static probe_fault: u8;
    static probe_execute_fault: u8;
}

/// Where an execution is being tried; zero while none is.
static EXECUTED: AtomicU64 = AtomicU64::new(0);

/// Reads a byte; `None` if it cannot be read.
pub(crate) fn read(address: u64) -> Option<u8> {
    // SAFETY: a byte is read, whatever it is for; a fault ends the read at `probe_fault`.
    u8::try_from(unsafe { probe_read_raw(address) }).ok()
}

/// Writes to a byte without changing it; false if it cannot be written.
pub(crate) fn touch(address: u64) -> bool {
    // SAFETY: whatever the byte is for, it stays as it is, and no other access sees it otherwise meanwhile; a fault ends
    // the access at `probe_fault`.
    unsafe { probe_touch_raw(address) == 0 }
}

/// Tries to execute what is at the address; false if it cannot be executed.
///
/// # Safety
///
/// If the address can be read, a `ret` instruction is there.
pub(crate) unsafe fn execute(address: u64) -> bool {
    EXECUTED.store(address, Ordering::Relaxed);
    // SAFETY: by the contract the call returns at once; a fault of the fetch ends it at `probe_execute_fault`.
    let executed = unsafe { probe_execute_raw(address) } == 0;
    EXECUTED.store(0, Ordering::Relaxed);
    executed
}

/// After a fault that cannot be resolved: if it came from a probe, goes on at its error exit.
pub(super) fn recover(frame: &mut TrapFrame) -> bool {
    let accesses = [(&raw const probe_read_access) as u64, (&raw const probe_touch_access) as u64];
    if accesses.contains(&frame.rip) {
        frame.rip = (&raw const probe_fault) as u64;
        return true;
    }
    if frame.rip != 0 && frame.rip == EXECUTED.load(Ordering::Relaxed) {
        frame.rip = (&raw const probe_execute_fault) as u64;
        return true;
    }
    false
}
