//! How the code came to where it is, by the frame pointers on the stack.
//!
//! Used when something is wrong, so nothing is believed: a frame is read only if it lies in a registered stack, each
//! frame must be above the one before, and their number is bounded.

use super::stacks;
use crate::{boot::layout, log};
use refkernel::symbols::Symbols;
use spin::Once;

/// Frames that are printed at most.
const MOST_FRAMES: usize = 48;

static SYMBOLS: Once<Symbols<'static>> = Once::new();

/// Takes the boot module's symbol file. It must stay mapped and unchanged for the life of the kernel.
pub(crate) fn register_symbols(text: &'static [u8]) {
    SYMBOLS.call_once(|| Symbols::new(text));
}

/// The address of a symbol of the kernel's.
pub(crate) fn address_of(name: &str) -> Option<u64> {
    SYMBOLS.get()?.address_of(name)
}

/// The frame pointer of the caller.
#[inline(always)]
pub(crate) fn frame_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Prints the trace that begins at `instruction`, if that is known, and goes on from frame pointer `rbp`.
pub(crate) fn print(instruction: Option<u64>, rbp: u64) {
    log!("  backtrace:");
    if let Some(address) = instruction {
        print_address(0, address);
    }
    let mut pointer = rbp;
    let mut above = 0;
    for index in 1..MOST_FRAMES {
        let Some((next, address)) = frame_at(pointer) else { return };
        if !layout::text().contains(&address) {
            return;
        }
        // A return address is that of the instruction after the call, which may belong to the next function.
        print_address(index, address - 1);
        // From the trap stacks the trace may lead to another stack, and then upwards there.
        if next <= pointer && next <= above {
            return;
        }
        above = pointer.max(above);
        pointer = next;
    }
    log!("    ... more than {MOST_FRAMES} frames");
}

/// The saved frame pointer and the return address at `pointer`.
fn frame_at(pointer: u64) -> Option<(u64, u64)> {
    if !pointer.is_multiple_of(8) {
        return None;
    }
    let stack = stacks::find(pointer)?;
    let end = pointer.checked_add(16)?;
    if pointer < stack.memory.start || end > stack.memory.end {
        return None;
    }
    let frame = pointer as *const u64;
    // SAFETY: both words lie in the memory of a registered stack, which is always mapped, and are aligned. Volatile,
    // since the compiler knows nothing of this memory.
    unsafe { Some((frame.read_volatile(), frame.add(1).read_volatile())) }
}

fn print_address(index: usize, address: u64) {
    match SYMBOLS.get().and_then(|symbols| symbols.lookup(address)) {
        Some(symbol) => log!("    {index:2}: {address:#018x} {symbol}"),
        None => log!("    {index:2}: {address:#018x}"),
    }
}
