//! The local interrupt controller: the interrupts between processors, and those that a processor sends itself.
//!
//! Intel SDM Vol. 3A, 12. Its registers are a page of memory (xAPIC), which must be uncached, or model-specific registers (x2APIC): the kernel
//! goes on in the mode in which each processor was handed over, and never changes it.
//!
//! ```text
//!   ICR   31..24 destination (xAPIC; x2APIC: 63..32) | 19..18 shorthand | 15 trigger | 14 level | 12 pending | 10..8 mode | 7..0 vector
//! ```

use super::clock;
use super::local::{CPUS_MAX, processor};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use raw_cpuid::CpuId;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::registers::model_specific::Msr;

const IA32_APIC_BASE: u32 = 0x1b;
/// Where x2APIC's registers begin; each stands for 16 bytes of xAPIC's page.
const X2APIC_FIRST: u32 = 0x800;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ERROR_STATUS: u32 = 0x280;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const VERSION: u32 = 0x30;
/// The local vector table: timer, two pins, error, performance counters, thermal sensor. A controller has the first so many of these as its
/// version register says.
const LOCAL_VECTORS: [u32; 6] = [0x320, 0x350, 0x360, 0x370, 0x340, 0x330];
const MASKED: u32 = 1 << 16;
const SOFTWARE_ENABLED: u32 = 1 << 8;
const PENDING: u32 = 1 << 12;

/// What asks a processor to look at its mailbox of flushes.
pub(crate) const FLUSH_VECTOR: u8 = 0xf0;
/// What wakes a processor that waits for work.
pub(crate) const WAKE_VECTOR: u8 = 0xf1;
/// The timer's: a thread's turn is over.
pub(crate) const TIMER_VECTOR: u8 = 0xe0;
/// What the controller delivers when an interrupt was taken back. Its low four bits must be set on old processors.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

const TIMER: u32 = 0x320;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const DIVIDE_BY_16: u32 = 3;
const PERIODIC: u32 = 1 << 17;

/// Counts of the timer in 10 ms; the same on every processor, since they are of one kind.
static TIMER_COUNTS: AtomicU64 = AtomicU64::new(0);

/// Where the registers are shown; zero while they are not, or are not memory.
static PAGE: AtomicU64 = AtomicU64::new(0);
/// Controllers' numbers by processor.
static IDS: [AtomicU32; CPUS_MAX] = [const { AtomicU32::new(0) }; CPUS_MAX];

/// Why there is no controller to use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ApicError {
    /// The processor has none, or its firmware has turned it off.
    Absent,
    /// Its registers are memory, and were not mapped.
    NotMapped,
}

impl core::fmt::Display for ApicError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Absent => "the processor has no local interrupt controller, or it is turned off",
            Self::NotMapped => "the registers of the local interrupt controller are not mapped",
        })
    }
}

fn base() -> u64 {
    // SAFETY: every processor with a local controller has the register; asked for only after CPUID said so.
    unsafe { Msr::new(IA32_APIC_BASE).read() }
}

fn is_present() -> bool {
    CpuId::new().get_feature_info().is_some_and(|features| features.has_apic()) && base() & BASE_ENABLED != 0
}

/// The physical address of the page of registers; `None` if they are not memory, or there is no controller.
pub(crate) fn physical_page() -> Option<u64> {
    const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
    (is_present() && base() & BASE_X2APIC == 0).then(|| base() & ADDRESS)
}

/// Tells where the page of registers is shown, uncached, from now on for ever.
///
/// # Safety
///
/// It is.
pub(crate) unsafe fn set_page(address: u64) {
    PAGE.store(address, Ordering::Release);
}

fn read(register: u32) -> u32 {
    match PAGE.load(Ordering::Relaxed) {
        // SAFETY: without a page `initialise` has seen that the processor is in x2APIC mode, whose registers are these.
        0 => (unsafe { Msr::new(X2APIC_FIRST + register / 16).read() }) as u32,
        // SAFETY: the page is mapped for ever; the registers are aligned words of it, and are read whole.
        page => unsafe { ((page + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, value: u32) {
    match PAGE.load(Ordering::Relaxed) {
        // SAFETY: as in `read`. What is written changes how interrupts come, which the kernel is prepared for.
        0 => unsafe { Msr::new(X2APIC_FIRST + register / 16).write(value.into()) },
        // SAFETY: likewise.
        page => unsafe { ((page + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Sets this processor's controller up: every local source masked, interrupts between processors accepted.
pub(crate) fn initialise() -> Result<(), ApicError> {
    if !is_present() {
        return Err(ApicError::Absent);
    }
    if base() & BASE_X2APIC == 0 && PAGE.load(Ordering::Acquire) == 0 {
        return Err(ApicError::NotMapped);
    }
    let vectors = (read(VERSION) >> 16 & 0xff) as usize + 1;
    for register in LOCAL_VECTORS.into_iter().take(vectors) {
        write(register, MASKED | u32::from(SPURIOUS_VECTOR));
    }
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, SOFTWARE_ENABLED | u32::from(SPURIOUS_VECTOR));
    if let Some(id) = IDS.get(processor()) {
        id.store(own_id(), Ordering::Relaxed);
    }
    Ok(())
}

/// Measures the timer against the time-stamp counter, which takes 10 ms. On the first processor, after [`initialise`].
pub(super) fn measure_timer() {
    write(TIMER_DIVIDE, DIVIDE_BY_16);
    write(TIMER_INITIAL, u32::MAX);
    clock::wait_microseconds(10_000);
    let counts = u32::MAX - read(TIMER_CURRENT);
    write(TIMER_INITIAL, 0);
    TIMER_COUNTS.store(counts.max(1).into(), Ordering::Relaxed);
}

/// Lets this processor's timer interrupt it every so many microseconds; does nothing where there is no timer.
pub(crate) fn start_timer(microseconds: u64) {
    let counts = TIMER_COUNTS.load(Ordering::Relaxed);
    if counts == 0 {
        return;
    }
    let counts = counts.saturating_mul(microseconds) / 10_000;
    write(TIMER_DIVIDE, DIVIDE_BY_16);
    write(TIMER, PERIODIC | u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL, u32::try_from(counts).unwrap_or(u32::MAX).max(1));
}

/// The number of this processor's controller, in its mode.
pub(crate) fn own_id() -> u32 {
    let id = read(ID);
    if PAGE.load(Ordering::Relaxed) == 0 { id } else { id >> 24 }
}

/// The number of a processor's controller; `None` where there is none that is used.
pub(super) fn id_of(cpu: usize) -> Option<u32> {
    is_present().then(|| IDS.get(cpu).map(|id| id.load(Ordering::Relaxed))).flatten()
}

/// Whether this kernel's mode can name a controller.
pub(crate) fn can_name(id: u32) -> bool {
    PAGE.load(Ordering::Relaxed) == 0 || id < 0xff
}

/// The interrupt that is being answered has been.
pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends an interrupt command to the controller `id`.
fn command(id: u32, low: u32) {
    // An interrupt's handler may send one too.
    without_interrupts(|| {
        if PAGE.load(Ordering::Relaxed) == 0 {
            // What was stored before must be seen by who is interrupted: a write of this register orders nothing (SDM Vol. 3A, 12.12.3).
            // SAFETY: a fence. The register is x2APIC's, which the processor is in.
            unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                Msr::new(X2APIC_FIRST + COMMAND / 16).write(u64::from(id) << 32 | u64::from(low));
            }
            return;
        }
        while read(COMMAND) & PENDING != 0 {
            core::hint::spin_loop();
        }
        write(COMMAND_HIGH, id << 24);
        write(COMMAND, low);
    });
}

/// Interrupts another processor.
pub(crate) fn interrupt(cpu: usize, vector: u8) {
    const LEVEL_ASSERTED: u32 = 1 << 14;
    if let Some(id) = IDS.get(cpu) {
        command(id.load(Ordering::Relaxed), LEVEL_ASSERTED | u32::from(vector));
    }
}

/// Puts the processor with this controller into the state in which it waits for a start.
pub(crate) fn send_init(id: u32) {
    write(ERROR_STATUS, 0);
    command(id, 0x4500);
}

/// Starts such a processor on the page of this number, below 256.
pub(crate) fn send_startup(id: u32, page: u8) {
    write(ERROR_STATUS, 0);
    command(id, 0x4600 | u32::from(page));
}

/// Stops every other processor where it is, by an interrupt that none can keep off: for a message that is the kernel's last.
pub(crate) fn stop_others() {
    const ALL_BUT_SELF_NMI: u32 = 0xc_4400;
    if super::others::running().count_ones() > 1 {
        command(0, ALL_BUT_SELF_NMI);
    }
}
