//! The user space that this processor runs in, and the way into one and back.

use super::UserSpace;
use super::kernel_space::{kernel_space, load};
use super::platform::Kernel;
use crate::cpu::local::{CPUS_MAX, PerCpu};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use vmcore::Platform;

/// The space of each processor that runs; null while that is the kernel's own.
static CURRENT: PerCpu<AtomicPtr<UserSpace>> = PerCpu::new([const { AtomicPtr::new(ptr::null_mut()) }; CPUS_MAX]);

/// Runs `what` with `space` as the processor's, then goes back to the space before it. Calls may be nested.
///
/// The borrow is what keeps the space alive while faults look for it. `what` may be left by its end only: a program that
/// is ended returns from the call that entered it, which is inside.
pub(crate) fn in_space<T>(space: &UserSpace, what: impl FnOnce() -> T) -> T {
    // SAFETY: the space is borrowed for longer than it is current: until the second call below. Panics end the kernel, so
    // that call is never skipped.
    let before = unsafe { replace(ptr::from_ref(space).cast_mut()) };
    let result = what();
    // SAFETY: `before` was current when this call began, so whoever made it so is still waiting in its own `in_space`.
    unsafe { replace(before) };
    result
}

/// Makes another space (null: the kernel's) the processor's, and gives the one before.
///
/// # Safety
///
/// The space stays until it is replaced.
unsafe fn replace(next: *mut UserSpace) -> *mut UserSpace {
    let cpu = Kernel.cpu();
    let current = CURRENT.here();
    let before = current.load(Ordering::Relaxed);
    if before != next {
        // SAFETY: by the contract, or null.
        let activation = match unsafe { next.as_ref() } {
            Some(space) => space.activate(cpu),
            None => kernel_space().activate(cpu),
        };
        // SAFETY: the kernel's space, or one that shares its root slots and by the contract stays.
        unsafe { load(&activation) };
        current.store(next, Ordering::Relaxed);
        // SAFETY: whoever made it current keeps it until this call returns. Another root is loaded, and activations are carried
        // out as they come, in `load`.
        unsafe {
            if let Some(before) = before.as_ref() {
                before.deactivate(cpu);
            }
        }
    }
    before
}

/// Calls `what` with the processor's user space; `None` if it has none.
#[inline]
pub(super) fn with<T>(what: impl FnOnce(&UserSpace) -> T) -> Option<T> {
    let current = CURRENT.here().load(Ordering::Relaxed);
    // SAFETY: a space is current only inside of `in_space`, which borrows it; this processor does not leave that call
    // before this one returns.
    unsafe { current.as_ref() }.map(what)
}
