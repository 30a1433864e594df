//! The part of `refkernel` that a host can test: everything that turns bytes into a decision or data into
//! pixels, and touches no hardware.
//!
//! | module | what lives there |
//! |---|---|
//! | [`archive`] | the boot module: programs and symbols |
//! | [`boot_info`] | what the loader told about the machine |
//! | [`channels`] | two ends, a bounded queue to either, who waits there |
//! | [`command_line`] | the words that the kernel was started with |
//! | [`compressed_store`] | pages that were taken out of memory, compressed |
//! | [`elf`] | from an ELF file to a plan of what goes where |
//! | [`handles`] | what a process has, by number |
//! | [`frame_bitmap`] | which frames of a region are free |
//! | [`instruction`] | what an instruction was about that the processor refused |
//! | [`memory_type`] | how a processor caches memory: PAT, MTRRs and what they make together |
//! | [`picture`] | memory and spaces, as pixels and as text |
//! | [`pool`] | counted references without a heap |
//! | [`shell`] | the prompt of the inspector |
//! | [`symbols`] | names for addresses |
//! | [`translations`] | how a processor forgets them |
//! | [`wait_queues`] | who waits for what, first come first served |
//! | [`surface`] | drawing on the memory of a framebuffer, text on it, and who gets which part of the screen |

#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::indexing_slicing
    )
)]

pub mod archive;
pub mod boot_info;
pub mod channels;
pub mod command_line;
pub mod compressed_store;
pub mod elf;
pub mod frame_bitmap;
pub mod handles;
pub mod instruction;
#[cfg(test)]
mod memory_functions_test;
pub mod memory_type;
pub mod picture;
pub mod pool;
pub mod shell;
pub mod symbols;
pub mod translations;
pub mod wait_queues;

pub use refkernel_surface as surface;
