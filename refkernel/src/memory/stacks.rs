//! Kernel stacks: sections of a guarded area, all of each present from the start.
//!
//! ```text
//!   | guard | stack 0        | guard | stack 1        | guard | ...
//!           low          top
//! ```
//!
//! A page fault cannot be taken on the stack that lacks the page, so stacks are never filled on demand. A stack that
//! overflows meets its guard; the entry stub knows the guards, stays on its own stack, and the report names the stack.

use super::kernel_space::kernel_space;
use super::platform::Kernel;
use super::{MemoryError, frames};
use crate::cpu::stacks::{GUARD_SIZE, Purpose, SLOTS, SLOTS_START, set_slot};
use spin::Once;
use vmcore::paging::{Access, Flush};
use vmcore::vm_area::{Area, AreaKind, SectionLayout};
use vmcore::vm_space::MapRequest;

/// Half of each slot is stack, half is guard.
const HALF_SLOT: u32 = (GUARD_SIZE / frames::FRAME_SIZE) as u32;
const LAYOUT: SectionLayout = SectionLayout { pages: HALF_SLOT, guard: HALF_SLOT, count: SLOTS as u32 };

static AREA: Once<Area<Kernel>> = Once::new();

/// Maps the area. None of it is backed yet.
pub(super) fn initialise() -> Result<(), MemoryError> {
    let area = Area::new(&Kernel, AreaKind::Guarded(LAYOUT), ())?;
    kernel_space().map(&MapRequest::new(&area).at(SLOTS_START).access(Access::KERNEL_DATA))?;
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
    /// A stack, present in whole and known to backtraces by its purpose.
    pub(crate) fn new(purpose: Purpose) -> Result<Self, MemoryError> {
        let area = AREA.get().ok_or(MemoryError::Layout)?;
        let section = area.take_section()?;
        let stack = Self { section: section.number, start: SLOTS_START + section.offset, size: section.size };
        // From here on the section goes back if anything fails.
        let space = kernel_space();
        let range = space.range(stack.start, stack.size)?;
        frames::for_kernel(|| space.populate(range, Access::KERNEL_DATA).map(Flush::complete))?;
        set_slot(stack.section, Some(purpose));
        Ok(stack)
    }

    /// One past its highest address: where a stack pointer starts.
    pub(crate) const fn top(&self) -> u64 {
        self.start + self.size
    }

    /// Its lowest address.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// Its addresses.
    pub(crate) const fn memory(&self) -> core::ops::Range<u64> {
        self.start..self.start + self.size
    }

    /// The addresses below it, which are never mapped.
    pub(crate) const fn guard(&self) -> core::ops::Range<u64> {
        self.start - GUARD_SIZE..self.start
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        set_slot(self.section, None);
        match AREA.get().map(|area| area.give_section(self.section)) {
            Some(Ok(flush)) => flush.complete(),
            // It stays out, and its memory with it.
            Some(Err(error)) => crate::log!("memory: a kernel stack could not be given back: {error}"),
            None => {}
        }
    }
}
