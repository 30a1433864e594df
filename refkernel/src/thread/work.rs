//! A function on a processor of one's choice, for who wants to see that processor do it.

use crate::cpu::local::{CPUS_MAX, PerCpu};
use crate::cpu::others;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What each processor was given and has not done yet.
static SLOTS: PerCpu<AtomicPtr<()>> = PerCpu::new([const { AtomicPtr::new(core::ptr::null_mut()) }; CPUS_MAX]);

/// Gives a processor something to do, in a thread with interrupts on. False if there is no such processor, it has something to do already, or
/// there is no thread.
pub(crate) fn give(cpu: usize, work: fn()) -> bool {
    let Some(slot) = SLOTS.of(cpu).filter(|_| others::running() >> cpu & 1 != 0) else { return false };
    let (free, work) = (core::ptr::null_mut(), work as *mut ());
    if slot.compare_exchange(free, work, Ordering::Release, Ordering::Relaxed).is_err() {
        return false;
    }
    let given = super::spawn(run, [cpu as u64, 0, 0, 0], 1 << cpu, 0).is_ok();
    if !given {
        slot.store(free, Ordering::Release);
    }
    given
}

/// Whether a processor has done what it was given.
pub(crate) fn is_done(cpu: usize) -> bool {
    SLOTS.of(cpu).is_none_or(|slot| slot.load(Ordering::Acquire).is_null())
}

fn run([cpu, ..]: super::Arguments) {
    let Some(slot) = SLOTS.of(cpu as usize) else { return };
    // SAFETY: `give` stored the pointer of such a function before it started this thread.
    let work = unsafe { core::mem::transmute::<*mut (), fn()>(slot.load(Ordering::Acquire)) };
    work();
    slot.store(core::ptr::null_mut(), Ordering::Release);
}
