//! Processors: their tables, their traps, the way into a program and back.
//!
//! | module | what lives there |
//! |---|---|
//! | [`local`] | what each processor has of its own |
//! | `segments`, `interrupts` | descriptor tables |
//! | `features`, [`memory_types`] | control registers, PAT and MTRRs: the same on all |
//! | [`others`] | starting the other processors |
//! | [`apic`] | interrupts between processors |
//! | [`io_apic`] | interrupts of devices |
//! | [`trap`], [`system_call`] | the ways into the kernel |
//! | [`trap_cause`] | what was wrong where the processor does not say |
//! | [`user`], [`user_copy`] | programs, and their memory |
//! | [`probe`] | accesses of the kernel's that may fail |
//! | [`stacks`], [`backtrace`] | the kernel's stacks by name, and who called whom on them |
//! | [`clock`] | time |

pub(crate) mod apic;
pub(crate) mod backtrace;
pub(crate) mod clock;
pub(crate) mod features;
mod interrupts;
pub(crate) mod io_apic;
pub(crate) mod local;
pub(crate) mod memory_types;
pub(crate) mod others;
pub(crate) mod probe;
mod segments;
pub(crate) mod stacks;
pub(crate) mod system_call;
pub(crate) mod trap;
pub(crate) mod trap_cause;
pub(crate) mod user;
pub(crate) mod user_copy;

use crate::boot::layout;
use core::ops::Range;

/// Sets the first processor up: from here on traps are reported and programs can be entered. Once, on the boot stack, with
/// interrupts off.
pub(crate) fn initialise() {
    // The stack that this runs on, so that a backtrace can be made of it. It has no guard page: its memory is given
    // back as soon as the kernel has a stack of its own.
    stacks::register(stacks::Stack { name: "boot stack", guard: 0..0, memory: layout::boot_stack() });
    let segments = segments::initialise(&segments::first_stacks());
    interrupts::initialise();
    interrupts::mask_legacy_controllers();
    features::initialise();
    memory_types::initialise();
    system_call::initialise(segments);
    features::keep();
}

/// Sets another processor up in the same way. On that processor, with interrupts off, after its [`local`] data.
///
/// # Errors
///
/// It is not what the first one is.
fn initialise_other(stacks: &[Range<u64>; segments::STACK_COUNT]) -> Result<(), others::Refusal> {
    let segments = segments::initialise(stacks);
    interrupts::initialise();
    if !features::join() {
        return Err(others::Refusal::Features);
    }
    memory_types::join()?;
    system_call::initialise(segments);
    if features::agree() { Ok(()) } else { Err(others::Refusal::ControlRegisters) }
}

/// Whether this processor's control registers and memory types are the first one's.
pub(crate) fn agrees() -> bool {
    features::agree() && memory_types::agree()
}
