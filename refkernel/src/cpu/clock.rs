//! Time by the time-stamp counter, measured once against the programmable interval timer.

use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::instructions::port::Port;

/// Ticks of the interval timer in a second (Intel 8254 data sheet; 14.31818 MHz / 12).
const TIMER_FREQUENCY: u64 = 1_193_182;
/// What is measured: 1/100 s.
const MEASURED_TICKS: u64 = TIMER_FREQUENCY / 100;

/// Counts of the time-stamp counter in a microsecond.
static PER_MICROSECOND: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
#[inline]
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and CR4.TSD keeps programs from it at most.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Counts in a microsecond; measured at the first call, which takes 10 ms.
pub(crate) fn per_microsecond() -> u64 {
    match PER_MICROSECOND.load(Ordering::Relaxed) {
        0 => {
            let measured = measure().max(1);
            PER_MICROSECOND.store(measured, Ordering::Relaxed);
            measured
        }
        known => known,
    }
}

/// Waits so long, whatever interrupts do.
pub(crate) fn wait_microseconds(count: u64) {
    let end = now().saturating_add(per_microsecond().saturating_mul(count));
    while now() < end {
        crate::memory::relax();
    }
}

/// Lets channel 2 count down once: its gate is bit 0 of port 0x61, its output bit 5, and the speaker, bit 1, stays off.
fn measure() -> u64 {
    const OUTPUT: u8 = 1 << 5;
    const PATIENCE: u32 = 10_000_000;
    let mut gate = Port::<u8>::new(0x61);
    let mut mode = Port::<u8>::new(0x43);
    let mut counter = Port::<u8>::new(0x42);
    // SAFETY: the timer's channel 2 and its gate belong to nobody else, and interrupt nobody. Mode 0 (interrupt on terminal count), low
    // byte before high byte: 0xb0.
    unsafe {
        let before = gate.read() & !3;
        gate.write(before);
        mode.write(0xb0);
        counter.write(MEASURED_TICKS as u8);
        counter.write((MEASURED_TICKS >> 8) as u8);
        gate.write(before | 1);
        let start = now();
        let mut patience = PATIENCE;
        // A machine without the timer: whatever is measured then, waits end.
        while gate.read() & OUTPUT == 0 && patience > 0 {
            patience -= 1;
        }
        let counts = now().wrapping_sub(start);
        gate.write(before);
        counts / 10_000
    }
}
