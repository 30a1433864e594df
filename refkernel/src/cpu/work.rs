//! Work for a processor that waits: one function at a time, given by another one.

use super::apic::{self, WAKE_VECTOR};
use super::local::{CPUS_MAX, PerCpu};
use super::others;
use core::sync::atomic::{AtomicPtr, Ordering};
use x86_64::instructions::interrupts;

/// What is to be done, until it is done.
struct Slot(AtomicPtr<()>);

static SLOTS: PerCpu<Slot> = PerCpu::new([const { Slot(AtomicPtr::new(core::ptr::null_mut())) }; CPUS_MAX]);

/// Gives a processor something to do. False if there is no such processor, or it has something to do already.
pub(crate) fn give(cpu: usize, work: fn()) -> bool {
    let Some(slot) = SLOTS.of(cpu).filter(|_| cpu != 0 && others::running() >> cpu & 1 != 0) else { return false };
    let given =
        slot.0.compare_exchange(core::ptr::null_mut(), work as *mut (), Ordering::Release, Ordering::Relaxed).is_ok();
    if given {
        apic::interrupt(cpu, WAKE_VECTOR);
    }
    given
}

/// Whether a processor has done what it was given.
pub(crate) fn is_done(cpu: usize) -> bool {
    SLOTS.of(cpu).is_none_or(|slot| slot.0.load(Ordering::Acquire).is_null())
}

/// What a further processor does: waits for work, and does it, with interrupts on.
pub(super) fn run() -> ! {
    let slot = SLOTS.here();
    loop {
        interrupts::disable();
        let work = slot.0.load(Ordering::Acquire);
        if work.is_null() {
            // Nothing comes between the two instructions: an interrupt that was sent before ends the halt (Intel SDM Vol. 2B, STI).
            interrupts::enable_and_hlt();
        } else {
            // SAFETY: only `give` stores a pointer, that of such a function.
            let work = unsafe { core::mem::transmute::<*mut (), fn()>(work) };
            interrupts::enable();
            work();
            slot.0.store(core::ptr::null_mut(), Ordering::Release);
        }
    }
}
