//! The linear map: all RAM at one offset, so that the kernel reaches a frame by an addition.
//!
//! The library keeps pointers into frames, so a frame's address must never change: not when the loader's tables are
//! replaced by the kernel's either. Loaders put their map of physical memory where they like (PVH's boot tables and
//! Limine: root slot 256), and the kernel's space would have to reach from there to the top: 256 root slots of a
//! table each. So before anything else, the loader's map is shown a second time just below the topmost slot, by copying
//! its entries in the root table; the kernel's own tables later map RAM at the same place.
//!
//! ```text
//!   root slot   256           ...   510              511
//!             ┌─────────────┐     ┌──────────────┐ ┌─────────────────────────────────┐
//!             │ loader's map│ ──► │ the same, as │ │ heap, stacks, framebuffer, image│
//!             └─────────────┘copy └ linear map ──┘ └─────────────────────────────────┘
//! ```

use core::sync::atomic::{AtomicU64, Ordering};
use refkernel::boot_info::BootInfo;
use x86_64::registers::control::Cr3;

/// Bytes that a root slot spans.
const SLOT: u64 = 1 << 39;
/// The slots of the kernel's half.
const FIRST_KERNEL_SLOT: u64 = 256;
/// The topmost one: the kernel's own windows.
const WINDOWS_SLOT: u64 = 511;

/// Where physical address 0 is shown.
static BASE: AtomicU64 = AtomicU64::new(0);
/// Where the first root slot of the kernel's space begins.
static FIRST: AtomicU64 = AtomicU64::new(0);

/// Why the linear map cannot be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinearError {
    /// RAM ends at an address for which the kernel's half of the address space has no room.
    TooMuchMemory(u64),
    /// The loader uses a root slot that the map needs.
    SlotInUse(u64),
}

impl core::fmt::Display for LinearError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMuchMemory(end) => write!(formatter, "RAM ends at {end:#x}: there is no room to map all of it"),
            Self::SlotInUse(slot) => write!(formatter, "the loader's tables use root slot {slot} for something else"),
        }
    }
}

/// The first address of a root slot in the kernel's half.
const fn slot_start(slot: u64) -> u64 {
    0xffff_0000_0000_0000 | (slot * SLOT)
}

/// Whether RAM is shown yet.
pub(crate) fn is_established() -> bool {
    BASE.load(Ordering::Relaxed) != 0
}

/// Shows the loader's map at the kernel's place. The first thing that is done with memory; done once, whoever asks again.
pub(super) fn establish(info: &BootInfo) -> Result<(), LinearError> {
    if is_established() {
        return Ok(());
    }
    let end = info.memory.ram_end();
    let within = info.physical_offset % SLOT;
    let loaders = info.physical_offset / SLOT % 512;
    let slots = (within + end).div_ceil(SLOT);
    if slots >= WINDOWS_SLOT - FIRST_KERNEL_SLOT {
        return Err(LinearError::TooMuchMemory(end));
    }
    let first = WINDOWS_SLOT - slots;
    let root = info.physical_offset.wrapping_add(Cr3::read_raw().0.start_address().as_u64()) as *mut u64;
    for slot in 0..slots.min(512 - loaders) {
        // SAFETY: the loader's tables are still in use, and its map shows their root, whose 512 entries the indices stay within. Interrupts are off
        // and the other processors are parked, so nobody else changes it.
        unsafe {
            let from = root.add((loaders + slot) as usize).read_volatile();
            let to = root.add((first + slot) as usize);
            if to.read_volatile() & 1 != 0 && first + slot != loaders + slot {
                return Err(LinearError::SlotInUse(first + slot));
            }
            // An entry that was absent is in no TLB, so there is nothing to flush.
            to.write_volatile(from);
        }
    }
    FIRST.store(slot_start(first), Ordering::Relaxed);
    BASE.store(slot_start(first) + within, Ordering::Relaxed);
    Ok(())
}

/// Where the kernel's space begins: at the first root slot of the linear map.
pub(super) fn space_start() -> u64 {
    FIRST.load(Ordering::Relaxed)
}

/// The address at which a physical address is shown. Only RAM that the kernel knows is.
#[inline]
pub(crate) fn address(physical: u64) -> u64 {
    BASE.load(Ordering::Relaxed).wrapping_add(physical)
}

/// Fills frames with zeros: 16 bytes a store, which is the least that takes neither wider registers nor fast string instructions.
///
/// # Safety
///
/// The linear map shows the `count` frames from `first` on (at least one), and nobody else uses them.
#[inline]
pub(super) unsafe fn clear(first: u64, count: u64) {
    let start = address(first << 12);
    let end = start.wrapping_add(count << 12);
    // SAFETY: the bytes from `start` to `end` are the caller's alone; both are multiples of 1024, and each round of 64 stores of 16 bytes writes
    // as many.
    unsafe {
        core::arch::asm!(
            "pxor {zero}, {zero}",
            "2:",
            ".set clear_at, 0",
            ".rept 64",
            "movaps [{at} + clear_at], {zero}",
            ".set clear_at, clear_at + 16",
            ".endr",
            "add {at}, 1024",
            "cmp {at}, {end}",
            "jne 2b",
            zero = out(xmm_reg) _,
            at = inout(reg) start => _,
            end = in(reg) end,
            options(nostack),
        );
    }
}

/// Copies a frame's bytes to another frame.
///
/// # Safety
///
/// The linear map shows both, which differ, and nobody else uses `to`.
#[inline]
pub(super) unsafe fn copy(from: u64, to: u64) {
    let (from, to) = (address(from << 12), address(to << 12));
    // SAFETY: the 4096 bytes from `to`, which is aligned to as many, are the caller's alone, and those from `from` may be read: 8 rounds of 32 loads
    // and stores of 16 bytes.
    unsafe {
        core::arch::asm!(
            "2:",
            ".set copy_at, 0",
            ".rept 32",
            "movaps {bytes}, [{from} + copy_at]",
            "movaps [{to} + copy_at], {bytes}",
            ".set copy_at, copy_at + 16",
            ".endr",
            "add {from}, 512",
            "add {to}, 512",
            "test {to:e}, 4095",
            "jnz 2b",
            bytes = out(xmm_reg) _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            options(nostack),
        );
    }
}
