//! The smallest embedding of `vmcore` with every public call, linked to prove that none of them can panic.
//!
//! `cargo xtask no-panic` builds this program optimised, link-time optimised and with unused sections left out, and then looks into the linked file. A panic that
//! could be reached would have brought the panicking functions of `core` with it, and the panic handler below. There being none is the proof:
//! not that a test met no panic, but that there is no path to one.
//!
//! The proof covers what is called here, so every public call of `vmcore` must be: see `calls` for how one is added.

#![no_std]
#![no_main]

mod calls;
mod platform;

use core::{ffi::c_int, panic::PanicInfo};

/// What the C library starts.
// SAFETY: the C library calls the one function of this name as `int main(int, char **)`; it takes any number of arguments, and ignores them.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    calls::all();
    #[cfg(feature = "planted-panic")]
    planted(calls::hidden(&[1, 2, 3]), calls::hidden(3));
    0
}

/// Indexes with a number that the compiler cannot know.
#[cfg(feature = "planted-panic")]
fn planted(values: &[i32], index: usize) {
    calls::shown(values[index]);
}

unsafe extern "C" {
    /// The C library's.
    safe fn abort() -> !;
}

/// In the linked file only if something can panic. It calls a function that nothing else here calls, so that it is found even where
/// everything between the mistake and this is inlined.
#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    abort()
}
