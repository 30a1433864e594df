//! Other crates' page tables, one file each.
//!
//! Each is asked in the way that its documentation proposes for ranges, with the flush left out where the crate lets one. Crates that take frames
//! through functions without a receiver find their arena in a variable of the thread.

pub mod aarch64_paging;
pub mod libkernel;
pub mod page_table_generic;
pub mod page_table_multiarch;
pub mod patina_paging;
pub mod x86_64;

use std::cell::Cell;

use crate::arena::Arena;

thread_local! {
    static ARENA: Cell<Option<&'static Arena>> = const { Cell::new(None) };
}

/// Calls `with` with the arena that was set last on this thread.
#[inline]
fn with_arena<T>(with: impl FnOnce(&'static Arena) -> T) -> T {
    ARENA.with(|arena| with(arena.get().unwrap()))
}

/// Sets the arena of this thread.
fn set_arena(arena: &'static Arena) {
    ARENA.with(|place| place.set(Some(arena)));
}
