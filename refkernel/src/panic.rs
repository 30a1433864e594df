//! The end of a kernel that has found a mistake of its own: said where it happened, on the stack where it happened.

use crate::cpu::backtrace;
use crate::cpu::trap::begin_last_message;
use crate::devices::exit::exit;
use crate::devices::serial;
use core::panic::PanicInfo;
use refkernel_abi::ExitCode;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    // One that happens while another is reported says no more.
    if !begin_last_message() {
        exit(ExitCode::Panic);
    }
    // SAFETY: the processor that held the lock is this one, or was stopped, and does not go on with what it did.
    unsafe { serial::seize() };
    match info.location() {
        Some(place) => crate::log!("refkernel: panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => crate::log!("refkernel: panic: {}", info.message()),
    }
    backtrace::print(None, backtrace::frame_pointer());
    // SAFETY: the other processors were stopped, and this one ends.
    unsafe { crate::screen::draw_last() };
    exit(ExitCode::Panic);
}
