//! What each processor has of its own, found through the GS base.
//!
//! While the kernel runs, the GS base is the processor's [`Local`]; while a program runs, it waits in the kernel GS
//! base and `swapgs` exchanges the two (Intel SDM Vol. 3A, 6.8.8). The entry stubs read these fields by
//! their offsets.

use core::cell::UnsafeCell;
use core::mem::offset_of;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::registers::segmentation::{FS, GS, Segment, SegmentSelector};

/// A processor's own data.
#[repr(C)]
pub(crate) struct Local {
    /// Where the stack pointer is set when a program enters the kernel: just below the context that
    /// [`super::user::enter_user`] saved. Zero while no program runs.
    kernel_stack: UnsafeCell<u64>,
    /// The program's stack pointer, for the few instructions until it is on the kernel's stack.
    user_stack: UnsafeCell<u64>,
    /// The saved context of the innermost [`super::user::enter_user`].
    return_context: UnsafeCell<u64>,
    /// This processor's number, from zero.
    index: u32,
}

/// Offset of `kernel_stack` for the stubs.
pub(super) const KERNEL_STACK: usize = offset_of!(Local, kernel_stack);
/// Offset of `user_stack` for the stubs.
pub(super) const USER_STACK: usize = offset_of!(Local, user_stack);
/// Offset of `return_context` for the stubs.
pub(super) const RETURN_CONTEXT: usize = offset_of!(Local, return_context);
/// Offset of `index`.
const INDEX: usize = offset_of!(Local, index);

// SAFETY: the cells are only touched by the entry stubs of the one processor whose GS base leads here, with
// interrupts off.
unsafe impl Sync for Local {}

/// One for each processor that runs; for now the first alone.
static LOCALS: [Local; 1] = [Local {
    kernel_stack: UnsafeCell::new(0),
    user_stack: UnsafeCell::new(0),
    return_context: UnsafeCell::new(0),
    index: 0,
}];

/// Makes the first processor's data reachable.
pub(super) fn initialise() {
    let [local] = &LOCALS;
    // SAFETY: null selectors may be loaded into FS and GS in 64-bit mode. That clears the GS base, which is set next.
    unsafe {
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
    }
    GsBase::write(VirtAddr::from_ptr(local));
    KernelGsBase::write(VirtAddr::zero());
}

/// The number of the processor that this runs on, from zero.
#[inline]
pub(crate) fn processor() -> usize {
    let index: u32;
    // SAFETY: `initialise` pointed the GS base at a `Local`, whose `index` is never written.
    unsafe {
        core::arch::asm!("mov {:e}, gs:[{}]", out(reg) index, const INDEX, options(nostack, readonly, preserves_flags));
    }
    index as usize
}
