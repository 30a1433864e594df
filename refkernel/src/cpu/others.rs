//! The other processors: started one after another, each checked before it takes part, then waiting for work.
//!
//! ```text
//!   the first one                                      another
//!   stacks for it; its root table and stack noted
//!   INIT, SIPI (or Limine's record is written)   ──►   startup.s ──► processor_main
//!   waits for its report                         ◄──   tables, control registers, memory types: as the first one's?
//!   counts it, or stops it for good                    the kernel's space is active there; waits for work
//! ```
//!
//! # Invariants
//!
//! One processor is under way at a time. A processor is counted ([`running`]) after it has activated the kernel's space, and while it is
//! under way nobody else changes that space: so no flush is missing one that it needs.

use super::local::{self, CPUS_MAX, PerCpu};
use super::segments::STACK_COUNT;
use super::stacks::Purpose;
use super::{apic, clock};
use crate::boot::startup;
use crate::log;
use crate::memory::stacks::KernelStack;
use crate::memory::{self, linear};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use refkernel::boot_info::{BootInfo, Processor};
use spin::Once;

/// Those that run, a bit each. A number is given once: to the first one 0, to another its place among the others, whatever comes of it.
static RUNNING: AtomicU64 = AtomicU64::new(1);

/// The processors that run, a bit each.
#[inline]
pub(crate) fn running() -> u64 {
    RUNNING.load(Ordering::Acquire)
}

/// Why a processor does not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// CPUID says something else than on the first one.
    Features = 2,
    /// CR0, CR4 or EFER do not come to what they are on the first one.
    ControlRegisters,
    /// The page attribute table is another one, or there is none.
    PageAttributeTable,
    /// The memory types of ranges are others, and stay so.
    RangeRegisters,
    /// It has no interrupt controller that the kernel can use.
    Apic,
    /// It was never heard of.
    Silent,
    /// There is no memory for its stacks.
    NoMemory,
    /// Its controller cannot be named in the mode that the first one's is in.
    Unnameable,
    /// There is no page below 1 MiB on which it could begin.
    NoStartupPage,
}

impl Refusal {
    /// Those that a processor reports itself.
    const REPORTED: [Self; 5] =
        [Self::Features, Self::ControlRegisters, Self::PageAttributeTable, Self::RangeRegisters, Self::Apic];
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Features => "it has other features than the first",
            Self::ControlRegisters => "its control registers do not take the first one's values",
            Self::PageAttributeTable => "its page attribute table is not the first one's",
            Self::RangeRegisters => "its memory type range registers do not take the first one's values",
            Self::Apic => "it has no local interrupt controller",
            Self::Silent => "it did not answer",
            Self::NoMemory => "there is no memory for its stacks",
            Self::Unnameable => "its number is too large for the interrupt controller's mode",
            Self::NoStartupPage => "there is no usable page below 1 MiB",
        })
    }
}

/// Nothing was heard of the processor that is under way.
const UNDER_WAY: u8 = 0;
/// It runs.
const RUNS: u8 = 1;

/// The number of the processor that is under way, and its report.
static STARTING: AtomicUsize = AtomicUsize::new(0);
static REPORT: AtomicU8 = AtomicU8::new(UNDER_WAY);
/// The stacks of its traps.
static TRAP_STACKS: PerCpu<Once<[Range<u64>; STACK_COUNT]>> = PerCpu::new([const { Once::new() }; CPUS_MAX]);

/// Starts every processor that the loader told of. Once, on the first one, while the loader's memory and the boot tables are as they were.
pub(crate) fn start(info: &BootInfo) {
    let told = info.processors.iter().count();
    if let Err(error) = apic::initialise() {
        log!("cpu: {told} told of, 1 runs: {error}");
        return;
    }
    apic::measure_timer();
    if let Some(page) = info.startup_page() {
        // SAFETY: the page was claimed, and is shown by the linear map; a start-up page is claimed where the boot tables are in use, by PVH.
        unsafe { startup::fill_page(linear::address(page) as *mut u8) };
    }
    let own_id = apic::own_id();
    let others = info.processors.iter().filter(|processor| processor.apic_id != own_id);
    for (index, processor) in (1..CPUS_MAX).zip(others) {
        match start_one(index, processor, info.startup_page()) {
            Ok(()) => RUNNING.store(running() | 1 << index, Ordering::Release),
            Err(refusal) => log!("cpu: processor {} is left out: {refusal}", processor.apic_id),
        }
    }
    let left_out = info.processors.left_out();
    if left_out != 0 {
        log!("cpu: {left_out} more than the kernel has room for");
    }
    log!("cpu: {} of {} processors run", running().count_ones(), told.max(1) + left_out);
}

/// Starts one, and waits for its report.
fn start_one(index: usize, processor: Processor, page: Option<u64>) -> Result<(), Refusal> {
    if !apic::can_name(processor.apic_id) {
        return Err(Refusal::Unnameable);
    }
    let page = match (processor.parked_at, page) {
        (Some(_), _) => None,
        (None, Some(page)) => Some(u8::try_from(page >> 12).map_err(|_| Refusal::NoStartupPage)?),
        (None, None) => return Err(Refusal::NoStartupPage),
    };
    let traps = trap_stacks()?;
    let own = KernelStack::new(Purpose::Kernel).map_err(|_| Refusal::NoMemory)?;
    TRAP_STACKS.of(index).ok_or(Refusal::NoMemory)?.call_once(|| traps);
    STARTING.store(index, Ordering::Release);
    REPORT.store(UNDER_WAY, Ordering::Release);
    // SAFETY: whoever was under way before has reported, or was stopped for good. The stack was just made.
    unsafe { startup::prepare(memory::kernel_root(), own.top()) };
    // It is that processor's from here on, whatever comes of it.
    core::mem::forget(own);
    let id = processor.apic_id;
    if let Some(record) = processor.parked_at {
        // SAFETY: the loader's memory is not given back yet, and the linear map shows it.
        unsafe { startup::send_parked(linear::address(record)) };
    }
    if let Some(page) = page {
        // Intel SDM Vol. 3A, 10.4.4.1: INIT, 10 ms, a start-up interrupt, and another one if nothing was heard after 200 µs.
        apic::send_init(id);
        clock::wait_microseconds(10_000);
        apic::send_startup(id, page);
        if !heard_within(200) {
            apic::send_startup(id, page);
        }
    }
    // An emulated processor has to share the host's with others.
    const PATIENCE: u64 = 5_000_000;
    heard_within(PATIENCE);
    match REPORT.load(Ordering::Acquire) {
        RUNS => Ok(()),
        report => {
            // Whatever it does, it does no more.
            apic::send_init(id);
            let refusal = Refusal::REPORTED.into_iter().find(|refusal| *refusal as u8 == report);
            Err(refusal.unwrap_or(Refusal::Silent))
        }
    }
}

/// The stacks of a processor's traps.
fn trap_stacks() -> Result<[Range<u64>; STACK_COUNT], Refusal> {
    let mut ranges = [const { 0..0 }; STACK_COUNT];
    let purposes = [Purpose::Trap, Purpose::DoubleFault, Purpose::NonMaskable, Purpose::MachineCheck];
    for (range, purpose) in ranges.iter_mut().zip(purposes) {
        let stack = KernelStack::new(purpose).map_err(|_| Refusal::NoMemory)?;
        *range = stack.memory();
        // A processor keeps its stacks.
        core::mem::forget(stack);
    }
    Ok(ranges)
}

/// Waits for a report, so many microseconds at most.
fn heard_within(microseconds: u64) -> bool {
    let end = clock::now().saturating_add(clock::per_microsecond().saturating_mul(microseconds));
    while REPORT.load(Ordering::Acquire) == UNDER_WAY {
        if clock::now() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Where a further processor enters Rust, on its own stack, with the kernel's tables and interrupts off.
pub(crate) extern "C" fn processor_main() -> ! {
    let index = STARTING.load(Ordering::Acquire);
    local::initialise(index);
    match set_up() {
        Ok(()) => {
            REPORT.store(RUNS, Ordering::Release);
            crate::thread::run_other()
        }
        Err(refusal) => {
            REPORT.store(refusal as u8, Ordering::Release);
            loop {
                // SAFETY: stops this processor, until the first one stops it for good.
                unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
            }
        }
    }
}

fn set_up() -> Result<(), Refusal> {
    let stacks = TRAP_STACKS.here().get().ok_or(Refusal::NoMemory)?;
    super::initialise_other(stacks)?;
    apic::initialise().map_err(|_| Refusal::Apic)?;
    // The last: from here on it is asked to forget what others change.
    memory::join();
    Ok(())
}
