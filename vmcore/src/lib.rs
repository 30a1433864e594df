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
//! | [`Machine`] | what exists once: pools, the registry of memory types, the tags of spaces, counters |
//! | [`paging`] | formats as descriptions, entries as values, tables, flush values |
//! | [`page_tree`] | the radix tree from page offset to page |
//! | [`vm_area`] | what backs memory |
//! | [`vm_space`] | windows, faults, and the table of calls and contexts |
//! | [`inspect`] | what a person asks of a live space |
#![cfg_attr(feature = "posix", doc = "| [`posix`] | the memory calls that programs know (feature `posix`) |")]
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
//! | format | address bits | leaves | memory types | chosen | tables limit | global | software bits | key bits | groups | payload bits | tag bits |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | [`X86`](paging::X86) | 32 | 4 KiB, 4 MiB | WB WT WC WP UC- UC | wu | every level | yes | 3 | – | – | 31 | – |
//! | [`X86Pae`](paging::X86Pae) | 32 | 4 KiB, 2 MiB | WB WT WC WP UC- UC | wxu | but the top | yes | 3 | – | – | 63 | – |
//! | [`X86_64`](paging::X86_64) | 48, 57 | 4 KiB, 2 MiB, 1 GiB | WB WT WC WP UC- UC | wxu | every level | yes | 3 | 4 | – | 63 | 12 |
//! | [`Ept`](paging::Ept) | 48, 57 | 4 KiB, 2 MiB, 1 GiB | WB WT WC WP UC | rwx | every level | – | 5 | – | – | 52 | 16 |
//! | [`RiscV32`](paging::RiscV32) | 32 | 4 KiB, 4 MiB | WB | rwxu | – | yes | 2 | – | – | 31 | 9 |
//! | [`RiscV64`](paging::RiscV64) | 39, 48, 57 | 4 KiB, 2 MiB, 1 GiB, 512 GiB, 256 TiB | WB WC DEV | rwxu | – | yes | 2 | – | 64 KiB | 63 | 16 |
//! | [`AArch64`](paging::AArch64), [`Granule4K`](paging::Granule4K) | 25–48 | 4 KiB, 2 MiB, 1 GiB | WB WT WC DEV nGnRE nGRE GRE | wxu | every level | yes | 3 | – | 64 KiB, 32 MiB, 16 GiB | 63 | 16 |
//! | [`AArch64`](paging::AArch64), [`Granule4KLpa2`](paging::Granule4KLpa2) | 25–52 | 4 KiB, 2 MiB, 1 GiB, 512 GiB | WB WT WC DEV nGnRE nGRE GRE | wxu | every level | yes | 3 | – | 64 KiB, 32 MiB, 16 GiB | 63 | 16 |
//! | [`AArch64`](paging::AArch64), [`Granule16K`](paging::Granule16K) | 25–48 | 16 KiB, 32 MiB | WB WT WC DEV nGnRE nGRE GRE | wxu | every level | yes | 3 | – | 2 MiB, 1 GiB | 63 | 16 |
//! | [`AArch64`](paging::AArch64), [`Granule16KLpa2`](paging::Granule16KLpa2) | 25–52 | 16 KiB, 32 MiB, 64 GiB | WB WT WC DEV nGnRE nGRE GRE | wxu | every level | yes | 3 | – | 2 MiB, 1 GiB | 63 | 16 |
//! | [`AArch64`](paging::AArch64), [`Granule64K`](paging::Granule64K) | 25–52 | 64 KiB, 512 MiB, 4 TiB | WB WT WC DEV nGnRE nGRE GRE | wxu | every level | yes | 3 | – | 2 MiB, 16 GiB | 63 | 16 |
//! | [`AArch64Stage2`](paging::AArch64Stage2), [`Granule4K`](paging::Granule4K) | 25–48 | 4 KiB, 2 MiB, 1 GiB | WB WT WC DEV nGnRE nGRE GRE | rwx | – | – | 3 | – | 64 KiB, 32 MiB, 16 GiB | 63 | 16 |
//! | [`AArch64Stage2`](paging::AArch64Stage2), [`Granule4KLpa2`](paging::Granule4KLpa2) | 25–52 | 4 KiB, 2 MiB, 1 GiB, 512 GiB | WB WT WC DEV nGnRE nGRE GRE | rwx | – | – | 3 | – | 64 KiB, 32 MiB, 16 GiB | 63 | 16 |
//! | [`AArch64Stage2`](paging::AArch64Stage2), [`Granule16K`](paging::Granule16K) | 25–48 | 16 KiB, 32 MiB | WB WT WC DEV nGnRE nGRE GRE | rwx | – | – | 3 | – | 2 MiB, 1 GiB | 63 | 16 |
//! | [`AArch64Stage2`](paging::AArch64Stage2), [`Granule16KLpa2`](paging::Granule16KLpa2) | 25–52 | 16 KiB, 32 MiB, 64 GiB | WB WT WC DEV nGnRE nGRE GRE | rwx | – | – | 3 | – | 2 MiB, 1 GiB | 63 | 16 |
//! | [`AArch64Stage2`](paging::AArch64Stage2), [`Granule64K`](paging::Granule64K) | 25–52 | 64 KiB, 512 MiB, 4 TiB | WB WT WC DEV nGnRE nGRE GRE | rwx | – | – | 3 | – | 2 MiB, 16 GiB | 63 | 16 |
//!
//! *Chosen* are the permissions that a leaf may have or lack (reading, writing, executing, by programs): the others are always there, or,
//! in nested formats, the guest's affair. *Tables limit*: an access must be allowed by the tables' entries too. *Groups* are leaves
//! that a TLB may keep as one (Arm's contiguous hint, RISC-V's Svnapot); the tables write them by themselves ([`Groups`](paging::Groups)).
//! *Payload* is what an absent entry holds for its owner. *Tag bits* are the most that a machine can have (PCID, VPID, ASID, VMID). All
//! have the marks of use and of writing. Memory types are those that a [PAT layout](paging::PatLayout) or [MAIR layout](paging::MairLayout) can
//! hold; RISC-V has them with Svpbmt. Left out: executing by the kernel alone in nested formats (EPT's mode-based execution, Arm's XNX), Arm's FEAT_S2FWB,
//! 128-bit descriptors and permission indirection, sub-page permissions.
//!
//! A format of your own is an implementation of [`Mmu`](paging::Mmu): its description, and what this machine has of it
//! (`tests/any_mmu.rs` has one that exists nowhere). [`inspect::Legend`] tells a format's bits from its description.
//!
//! # Features
//!
//! `spin` (default): `spin`'s locks can be used as a platform's. `posix`: the memory calls that programs know, needs no `alloc`. `sim`: the simulated machine, needs `alloc`, never `std`.
//! Without either, the crate depends on `lock_api`, `bitflags` and `static_assertions` alone.
#![cfg_attr(not(any(test, fuzzing)), no_std)]
#![cfg_attr(not(any(test, fuzzing)), warn(missing_docs))]
#![cfg_attr(
    fuzzing,
    allow(dead_code, unused_imports, unused_macros, reason = "of the tests, what the fuzz targets do not use")
)]
#![cfg_attr(
    not(any(test, fuzzing)),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::indexing_slicing
    )
)]

#[cfg(any(feature = "sim", test, fuzzing))]
extern crate alloc;

pub mod addr;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod inspect;
mod lock;
mod machine;
pub mod page_tree;
pub mod paging;
#[cfg(loom)]
pub mod pieces;
mod platform;
#[cfg(feature = "posix")]
pub mod posix;
#[cfg(feature = "sim")]
pub mod sim;
pub mod static_vec;
pub mod vm_area;
pub mod vm_space;
#[cfg(not(any(loom, shuttle)))]
mod word;
#[cfg(any(loom, shuttle))]
#[allow(missing_docs, reason = "in builds for model checkers only")]
pub mod word;

pub use crate::machine::{FrameMemory, Machine, MachineCounters, RegistryError};
pub use crate::platform::{CpuMask, CpuSet, Platform};
