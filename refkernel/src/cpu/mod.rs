//! One processor: its tables, its traps, the way into a program and back.
//!
//! The other processors of the machine stay where the firmware or the loader parked them.

pub(crate) mod backtrace;
mod features;
mod interrupts;
pub(crate) mod local;
pub(crate) mod memory_types;
pub(crate) mod probe;
mod segments;
pub(crate) mod stacks;
pub(crate) mod system_call;
pub(crate) mod trap;
pub(crate) mod user;
pub(crate) mod user_copy;

use crate::boot::layout;

/// Sets this processor up: from here on traps are reported and programs can be entered. Once, on the boot stack, with
/// interrupts off.
pub(crate) fn initialise() {
    // The stack that this runs on, so that a backtrace can be made of it. It has no guard page: its memory is given
    // back as soon as the kernel has a stack of its own.
    stacks::register(stacks::Stack { name: "boot stack", guard: 0..0, memory: layout::boot_stack() });
    segments::initialise();
    local::initialise();
    interrupts::initialise();
    features::initialise();
    memory_types::initialise();
    system_call::initialise();
}
