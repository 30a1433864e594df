//! The end of a kernel that has found a mistake of its own: said where it happened, on the stack where it happened.

use crate::cpu::backtrace;
use crate::devices::exit::exit;
use crate::devices::serial;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use refkernel_abi::ExitCode;

/// Set by the first panic: one that happens while it is reported says no more.
static PANICKED: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    if PANICKED.swap(true, Ordering::Relaxed) {
        exit(ExitCode::Panic);
    }
    // SAFETY: the processor that held the lock is this one (the others are parked), and it does not return from here.
    unsafe { serial::seize() };
    match info.location() {
        Some(place) => crate::log!("refkernel: panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => crate::log!("refkernel: panic: {}", info.message()),
    }
    backtrace::print(None, backtrace::frame_pointer());
    exit(ExitCode::Panic);
}
