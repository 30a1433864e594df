//! The end of the machine: QEMU's `isa-debug-exit` device, whose status is twice the code plus one.

use refkernel_abi::ExitCode;
use x86_64::instructions::{hlt, interrupts, port::PortWriteOnly};

/// Ends the machine with `code`; where there is no such device it stops for good.
pub(crate) fn exit(code: ExitCode) -> ! {
    // SAFETY: a write to this port ends QEMU or, without the device, is ignored.
    unsafe { PortWriteOnly::new(ExitCode::PORT).write(code.value()) };
    stop()
}

/// Stops this CPU for good, without a word.
pub(crate) fn stop() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}
