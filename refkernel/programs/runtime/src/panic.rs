//! What happens after a panic.

use core::panic::PanicInfo;

use refkernel_abi::program_status;

use crate::{call, say};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(location) => say!("program panicked at {}:{}: {}", location.file(), location.line(), info.message()),
        None => say!("program panicked: {}", info.message()),
    }
    call::exit(program_status::PANIC)
}

/// The precompiled `core` of a host target names the function that would unwind a stack. Nothing here unwinds, so it is never called.
// SAFETY: the name is the one that the compiler expects, and no other crate of a program defines it.
#[cfg(not(target_os = "none"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
