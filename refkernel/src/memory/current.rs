//! The user space that each processor runs in, and the way into one and back.
//!
//! Two things are told apart: the space that the running thread is *in*, whose faults are answered, and the one that the processor has
//! *loaded*. They differ while a processor waits for work: its idle thread is in none, and the space of the last program stays loaded, so
//! that this program can go on without a write of CR3. A thread of the kernel's that does other work has the kernel's own tables.

use super::UserSpace;
use super::kernel_space::{kernel_space, load};
use super::platform::Kernel;
use super::shootdown::{bits, relax};
use crate::cpu::apic::{self, WAKE_VECTOR};
use crate::cpu::local::{CPUS_MAX, PerCpu, processor};
use crate::cpu::others;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use vmcore::Platform;
use x86_64::instructions::interrupts::without_interrupts;

/// What a processor has of all this. Null is the kernel's own space.
struct Spaces {
    /// The running thread's.
    current: AtomicPtr<UserSpace>,
    /// The one whose root is loaded; active here.
    loaded: AtomicPtr<UserSpace>,
    /// Roots loaded so far.
    loads: AtomicU64,
}

static SPACES: PerCpu<Spaces> = PerCpu::new(
    [const {
        Spaces {
            current: AtomicPtr::new(ptr::null_mut()),
            loaded: AtomicPtr::new(ptr::null_mut()),
            loads: AtomicU64::new(0),
        }
    }; CPUS_MAX],
);

/// Runs `what` with `space` as the thread's, then goes back to the space before it. Calls may be nested.
///
/// The borrow is what keeps the space alive while faults look for it. `what` may be left by its end only: a program that
/// is ended returns from the call that entered it, which is inside.
pub(crate) fn in_space<T>(space: &UserSpace, what: impl FnOnce() -> T) -> T {
    // SAFETY: the space is borrowed for longer than it is the thread's: until the second call below. Panics end the kernel, so
    // that call is never skipped.
    let before = unsafe { enter(ptr::from_ref(space).cast_mut()) };
    let result = what();
    // SAFETY: `before` was the thread's when this call began, so whoever made it so is still waiting in its own `in_space`.
    unsafe { enter(before) };
    result
}

/// Makes another space (null: the kernel's) the running thread's and loads it, and gives the one before.
///
/// # Safety
///
/// The space stays until it is replaced.
unsafe fn enter(next: *mut UserSpace) -> *mut UserSpace {
    without_interrupts(|| {
        let before = SPACES.here().current.swap(next, Ordering::Relaxed);
        // SAFETY: by the contract.
        unsafe { load_space(next) };
        before
    })
}

/// For the change from one thread to another: makes `next` the space that this processor runs in, and gives the one of the thread before.
/// For an idle thread, which is in none, whatever is loaded stays.
///
/// # Safety
///
/// The space, if any, stays while the next thread runs. Interrupts are off.
pub(crate) unsafe fn switch_space(next: *mut UserSpace, idle: bool) -> *mut UserSpace {
    let before = SPACES.here().current.swap(next, Ordering::Relaxed);
    if !idle {
        // SAFETY: by the contract.
        unsafe { load_space(next) };
    }
    before
}

/// Loads a space's root (null: the kernel's), if it is not loaded.
///
/// # Safety
///
/// The space stays until another one is loaded here. Interrupts are off.
unsafe fn load_space(next: *mut UserSpace) {
    let spaces = SPACES.here();
    let before = spaces.loaded.load(Ordering::Relaxed);
    if before == next {
        return;
    }
    let cpu = Kernel.cpu();
    // SAFETY: by the contract, or null.
    let activation = match unsafe { next.as_ref() } {
        Some(space) => space.activate(cpu),
        None => kernel_space().activate(cpu),
    };
    // SAFETY: the kernel's space, or one that shares its root slots and by the contract stays.
    unsafe { load(&activation) };
    spaces.loads.fetch_add(1, Ordering::Relaxed);
    // SAFETY: whoever gives the space up waits until it is loaded nowhere, which is said below. Another root is loaded, and activations are carried
    // out as they come, in `load`.
    unsafe {
        if let Some(before) = before.as_ref() {
            before.deactivate(cpu);
        }
    }
    spaces.loaded.store(next, Ordering::Release);
}

/// Loads the kernel's own tables, if a space is loaded that the running thread is not in. For the interrupt that asks for it: no lock is held
/// then, since interrupts were on.
pub(crate) fn leave_unused() {
    let spaces = SPACES.here();
    if spaces.current.load(Ordering::Relaxed).is_null() {
        // SAFETY: the kernel's own.
        unsafe { load_space(ptr::null_mut()) };
    }
}

/// Waits until no processor has a space loaded. No thread is in it any more.
pub(crate) fn leave_everywhere(space: &UserSpace) {
    let has = |cpu| {
        let loaded = SPACES.of(cpu).map_or(ptr::null_mut(), |spaces| spaces.loaded.load(Ordering::Acquire));
        ptr::eq(loaded, space)
    };
    without_interrupts(|| {
        if has(processor()) {
            leave_unused();
        }
    });
    for cpu in bits(others::running()).filter(|cpu| *cpu != processor()) {
        if has(cpu) {
            // It waits for work, with interrupts on, or is about to.
            apic::interrupt(cpu, WAKE_VECTOR);
            while has(cpu) {
                relax();
            }
        }
    }
}

/// Calls `what` with the space that the running thread is in; `None` if it is in none.
#[inline]
pub(super) fn with<T>(what: impl FnOnce(&UserSpace) -> T) -> Option<T> {
    let current = SPACES.here().current.load(Ordering::Relaxed);
    // SAFETY: a thread is in a space only inside of `in_space`, which borrows it; this thread does not leave that call
    // before this one returns.
    unsafe { current.as_ref() }.map(what)
}

/// The space whose root a processor has loaded, to be compared and not followed; null for the kernel's.
pub(crate) fn loaded_on(cpu: usize) -> *const UserSpace {
    SPACES.of(cpu).map_or(ptr::null(), |spaces| spaces.loaded.load(Ordering::Relaxed).cast_const())
}

/// Roots that a processor has loaded so far.
pub(crate) fn loads_on(cpu: usize) -> u64 {
    SPACES.of(cpu).map_or(0, |spaces| spaces.loads.load(Ordering::Relaxed))
}

/// Roots loaded so far, on all processors.
pub(crate) fn loads() -> u64 {
    SPACES.iter().map(|spaces| spaces.loads.load(Ordering::Relaxed)).sum()
}
