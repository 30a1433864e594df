//! A `no_std` virtual-memory manager that any kernel can embed: bring a source of frames, a way to reach them and a TLB
//! flush, and get areas, address spaces, demand paging, sharing and page tables.
//!
//! **The area is the truth; a page table is a cache of it.** An [area](vm_area) knows which page belongs at which of its
//! offsets. A [space](vm_space) is a set of windows onto areas. A [page table](paging) holds nothing that could not be rebuilt from
//! those two.
//!
//! # What to bring
//!
//! Two traits: [`frame::Frames`] (allocate, free, reach, metadata) is enough for tables; [`Platform`] adds the MMU, the
//! locks, the CPUs and the flush. The smallest embedding is `examples/smallest.rs`; a kernel's is
//! `refkernel/src/memory/`. No callback re-enters the library, and nothing needs a heap.
//!
//! # What is in it
//!
//! | module | what lives there |
//! |---|---|
//! | [`addr`] | addresses, frame numbers and ranges, checked once when they are made |
//! | [`static_vec`] | a vector that begins in lent static memory and grows into frames |
//! | [`frame`] | what the embedder supplies, and each frame's metadata |
//! | [`Machine`] | what exists once: pools, the registry of memory types, counters |
//! | [`paging`] | formats as descriptions, entries as values, tables, flush values |
//! | [`page_tree`] | the radix tree from page offset to page |
//! | [`vm_area`] | what backs memory |
//! | [`vm_space`] | windows, faults, and the table of calls and contexts |
//! | [`inspect`] | what a person asks of a live space |
#![cfg_attr(feature = "sim", doc = "| [`sim`] | a simulated machine for tests on a host (feature `sim`) |")]
//!
//! # Five promises
//!
//! 1. **Total.** No public call panics, whatever it is given; the linker proves it.
//! 2. **All or nothing.** An operation on a range completes or changes nothing, also when memory runs out.
//! 3. **No stale translation.** A change that needs a flush yields a [`Flush`](paging::Flush) that carries what is true only after it.
//! 4. **No heap.** The `alloc` crate is never required.
//! 5. **Any MMU.** Generic code names no architecture.
//!
//! # Formats
//!
//! | format | levels | leaves | memory types |
//! |---|---|---|---|
//! | [`X86_64`](paging::X86_64) | 4 | 4 KiB, 2 MiB, 1 GiB | all six of x86, through a [PAT layout](paging::PatLayout) |
//!
//! A format of your own is an implementation of [`Mmu`](paging::Mmu): its description, and what this machine has of it.
//!
//! # Features
//!
//! `spin` (default): `spin`'s locks can be used as a platform's. `sim`: the simulated machine, needs `alloc`, never `std`.
//! Without either, the crate depends on `lock_api`, `bitflags` and `static_assertions` alone.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), warn(missing_docs))]
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

#[cfg(any(feature = "sim", test))]
extern crate alloc;

pub mod addr;
pub mod frame;
pub mod inspect;
mod lock;
mod machine;
pub mod page_tree;
pub mod paging;
mod platform;
#[cfg(feature = "sim")]
pub mod sim;
pub mod static_vec;
pub mod vm_area;
pub mod vm_space;
mod word;

pub use crate::machine::{FrameMemory, Machine, MachineCounters, RegistryError};
pub use crate::platform::{CpuMask, CpuSet, Platform};
