//! Kernel stacks: sections of a guarded area, all of each present from the start.
//!
//! ```text
//!   | guard | stack 0        | guard | stack 1        | guard | ...
//!           low          top
//! ```
//!
//! A page fault cannot be taken on the stack that lacks the page, so stacks are never filled on demand. A stack that
//! overflows meets its guard; the entry stub knows the guards, stays on its own stack, and the report names the stack.

use super::kernel_space::{STACKS, kernel_space};
use super::platform::Kernel;
use super::{MemoryError, frames};
use crate::cpu;
use spin::Once;
use vmcore::paging::{Access, Flush};
use vmcore::vm_area::{Area, AreaKind, SectionLayout};
use vmcore::vm_space::MapRequest;

/// 64 KiB for each stack, and 16 KiB that nothing can be in.
const LAYOUT: SectionLayout = SectionLayout { pages: 16, guard: 4, count: 12 };
const GUARD_SIZE: u64 = LAYOUT.guard as u64 * frames::FRAME_SIZE;

static AREA: Once<Area<Kernel>> = Once::new();

/// Maps the area. None of it is backed yet.
pub(super) fn initialise() -> Result<(), MemoryError> {
    let area = Area::new(&Kernel, AreaKind::Guarded(LAYOUT), ())?;
    kernel_space().map(&MapRequest::new(&area).at(STACKS).access(Access::KERNEL_DATA))?;
    AREA.call_once(|| area);
    Ok(())
}

/// A stack that is handed out. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct KernelStack {
    section: u32,
    start: u64,
    size: u64,
}

impl KernelStack {
    /// A stack, present in whole and known to the entry stubs and to backtraces by `name`.
    pub(crate) fn new(name: &'static str) -> Result<Self, MemoryError> {
        let area = AREA.get().ok_or(MemoryError::Layout)?;
        let section = area.take_section()?;
        let stack = Self { section: section.number, start: STACKS + section.offset, size: section.size };
        // From here on the section goes back if anything fails.
        let space = kernel_space();
        let range = space.range(stack.start, stack.size)?;
        frames::for_kernel(|| space.populate(range, Access::KERNEL_DATA).map(Flush::complete))?;
        let known = cpu::stacks::Stack { name, guard: stack.guard(), memory: stack.start..stack.top() };
        if cpu::stacks::register(known) { Ok(stack) } else { Err(MemoryError::Layout) }
    }

    /// One past its highest address: where a stack pointer starts.
    pub(crate) const fn top(&self) -> u64 {
        self.start + self.size
    }

    /// Its lowest address.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// The addresses below it, which are never mapped.
    pub(crate) const fn guard(&self) -> core::ops::Range<u64> {
        self.start - GUARD_SIZE..self.start
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        cpu::stacks::forget(self.start);
        match AREA.get().map(|area| area.give_section(self.section)) {
            Some(Ok(flush)) => flush.complete(),
            // It stays out, and its memory with it.
            Some(Err(error)) => crate::log!("memory: a kernel stack could not be given back: {error}"),
            None => {}
        }
    }
}
