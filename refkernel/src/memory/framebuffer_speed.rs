//! How long it takes to fill the screen, write-combining and uncached: what the memory type of a framebuffer is worth on this machine.
//!
//! No frame may be mapped with two types at a time (the machine's registry refuses the second), so one window follows the other at the same address: uncached, unmapped,
//! then the one that stays. What the entries, the page attribute table and the range registers make of each is kept for the tests; times are for people.

use super::MemoryError;
use super::audit;
use super::kernel_space::{FRAMEBUFFER, kernel_space, map_screen};
use crate::cpu::clock;
use crate::log;
use raw_cpuid::{CpuId, Hypervisor};
use refkernel::boot_info::{BootInfo, PhysicalRange};
use refkernel::memory_type::{MemoryType as CpuMemoryType, effective};
use spin::Once;
use vmcore::paging::MemoryType;

/// How the framebuffer was accessed while it was filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    /// By the entries.
    pub(super) by_page: Option<CpuMemoryType>,
    /// By the entries and the range registers.
    pub(super) effective: Option<CpuMemoryType>,
    microseconds: u64,
}

/// Both measurements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) uncached: Filled,
    pub(super) combining: Filled,
}

static MEASURED: Once<Measured> = Once::new();

/// What was measured at boot, if there is a framebuffer.
pub(super) fn measured() -> Option<&'static Measured> {
    MEASURED.get()
}

/// Fills the screen uncached, through a window that is gone afterwards. Before the framebuffer is mapped for good.
pub(super) fn uncached(info: &BootInfo) -> Result<Option<Filled>, MemoryError> {
    let Some(range) = info.framebuffer().and_then(|framebuffer| framebuffer.range().ok()) else { return Ok(None) };
    let area = map_screen(range, MemoryType::Uncached)?;
    let filled = fill(range);
    let space = kernel_space();
    let pages = space.range(FRAMEBUFFER, area.size())?;
    space.unmap(pages)?.complete();
    Ok(Some(filled))
}

/// Fills the screen as it is mapped now, and says what both took.
pub(super) fn compare(info: &BootInfo, uncached: Filled) {
    let Some(range) = info.framebuffer().and_then(|framebuffer| framebuffer.range().ok()) else { return };
    let combining = fill(range);
    let measured = MEASURED.call_once(|| Measured { uncached, combining });
    let emulated = CpuId::new().get_hypervisor_info().is_some_and(|info| info.identify() == Hypervisor::QEMU);
    let (combining, uncached) = (measured.combining.microseconds, measured.uncached.microseconds);
    let remark = if emulated { " (emulated: says nothing of memory types)" } else { "" };
    log!("framebuffer: filled in {combining} us write-combining, in {uncached} us uncached{remark}");
}

/// Fills the screen with black and takes the time.
fn fill(range: PhysicalRange) -> Filled {
    let (by_page, by_range) = audit::framebuffer_type(range);
    // Whole words, from the first one on.
    let first = range.start().next_multiple_of(8);
    let words = range.end().saturating_sub(first) / 8;
    let address = (FRAMEBUFFER + first % 4096) as *mut u64;
    let start = clock::now();
    for index in 0..words as usize {
        // SAFETY: the whole framebuffer is mapped there, to be written; it holds pixels that nobody relies on, and nobody else draws yet. The words are
        // aligned, and end with it. Volatile: each is one store, as of who draws.
        unsafe { address.add(index).write_volatile(0) };
    }
    // SAFETY: a fence: what was combined is on its way before the time is taken.
    unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) };
    let microseconds = clock::now().wrapping_sub(start) / clock::per_microsecond();
    Filled { by_page, effective: by_page.zip(by_range).and_then(|(page, range)| effective(range, page)), microseconds }
}
