//! What a user program of `refkernel` stands on: its entry, the system calls, lines of text, and the functions that the
//! compiler expects to find.
//!
//! | module | what lives there |
//! |---|---|
//! | [`call`] | the system calls |
//! | [`mod@line`] | a line of text, written with one call |
//! | [`screen`] | the part of the screen that a program was handed |
//! | [`word`] | waiting for a word until it changes |
//! | `entry` | `_start` |
//! | `panic` | what happens after a panic |
//! | `linux` | calls and entry once more, for a program that is measured on Linux too (feature `linux`) |
//! | `memory` | `memcpy` and its kin, where the target has none |
//!
//! # The programs
//!
//! Each is a crate of its own beside this one, and travels in the boot module by its name.
//!
//! | program | what it does | its argument |
//! |---|---|---|
//! | `init` | the first process: starts the others with what they need, waits, says how each ended | 1 where somebody watches |
//! | `demo` | shows each thing that can be done with memory, and says it in a sentence | 0 works, 1 makes a bad access |
//! | `check` | asks from ring 3 for everything that the kernel promises | [`CheckRole`](roles::CheckRole) |
//! | `stress` | random operations against a model, by processes that are killed and started again | [`Stress`](roles::Stress) |
//! | `ring` | two processes move records through memory that comes twice in a row | MiB to move |
//! | `draw` | an animation in the part of the screen that it was handed | how many pictures, 0 without end |
//! | `bench` | measures | |
//!
//! `run NAME ARGUMENT` at the inspector's prompt runs each of them.
//!
//! # A program
//!
//! A program is
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! use refkernel_runtime::{StartInformation, program, say};
//!
//! program!(main);
//!
//! fn main(start: &StartInformation) -> u32 {
//!     say!("started with argument {}", start.argument);
//!     0
//! }
//! ```

#![no_std]
#![warn(missing_docs)]

#[cfg(not(feature = "linux"))]
pub mod call;
#[cfg(not(feature = "linux"))]
mod entry;
pub mod line;
#[cfg(feature = "linux")]
mod linux;
#[cfg(not(target_os = "none"))]
mod memory;
mod panic;
#[cfg(not(feature = "linux"))]
pub mod screen;
#[cfg(not(feature = "linux"))]
pub mod word;

#[cfg(not(feature = "linux"))]
pub use entry::{console, registers_at_start};
#[cfg(feature = "linux")]
pub use linux::call;
pub use refkernel_abi::*;

/// Names the function that the program starts with: `fn(&StartInformation) -> u32`, whose result is its
/// exit status.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// The function that the runtime calls.
        // SAFETY: the name is this project's own; a second `program!` in one program is an error of the linker.
        #[unsafe(no_mangle)]
        extern "Rust" fn refkernel_program_main(start: &$crate::StartInformation) -> u32 {
            let main: fn(&$crate::StartInformation) -> u32 = $main;
            main(start)
        }
    };
}
