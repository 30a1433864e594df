//! The same runtime for Linux: a program of this kernel's, built with the feature `linux`, is a static Linux program that can be a machine's first
//! process. So that one source is measured on both kernels.
//!
//! Only what Linux has is there, under the names and with the signatures of this kernel's calls:
//!
//! | call | Linux |
//! |---|---|
//! | `null` | `getppid` |
//! | `area_create`, `area_map`, `handle_close` | `memfd_create` and `ftruncate`, `mmap` shared, `close` |
//! | `area_create_and_map` | `mmap` private and anonymous |
//! | `area_unmap`, `area_protect`, `area_move` | `munmap`, `mprotect`, `mremap` |
//! | `process_clone`, `process_wait` | `clone` with a stack, `wait4` |
//! | `address_wait`, `address_wake` | `futex` |
//! | `thread_yield`, `write`, `exit` | `sched_yield`, `write`, `exit_group` |

pub mod call;
mod description;
pub(crate) mod entry;
mod raw;
