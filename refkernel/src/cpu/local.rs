//! What each processor has of its own, found through the GS base.
//!
//! While the kernel runs, the GS base is the processor's [`Local`]; while a program runs, it waits in the kernel GS
//! base and `swapgs` exchanges the two (Intel SDM Vol. 3A, 6.8.8). The entry stubs read these fields by
//! their offsets.
//!
//! The stubs of traps that can come at any instruction look at the sign of the GS base to see which of the two it is: programs cannot set
//! it to an address of the kernel's half, since CR4.FSGSBASE is off.

use core::cell::UnsafeCell;
use core::mem::offset_of;
use refkernel::boot_info::processors::PROCESSORS_MAX;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::registers::segmentation::{FS, GS, Segment, SegmentSelector};

/// The most processors that run: a set of them is one word.
pub(crate) const CPUS_MAX: usize = PROCESSORS_MAX;

/// A processor's own data. Aligned so that no two share a cache line, nor a pair of lines that is fetched together.
#[repr(C, align(128))]
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
    /// The thread that it runs, or null.
    thread: UnsafeCell<*mut ()>,
    /// How many locks it holds that keep interrupts off.
    locks_held: UnsafeCell<u32>,
    /// Whether interrupts were on before the first of them.
    interrupts_before: UnsafeCell<u32>,
}

/// Offset of `kernel_stack` for the stubs.
pub(super) const KERNEL_STACK: usize = offset_of!(Local, kernel_stack);
/// Offset of `user_stack` for the stubs.
pub(super) const USER_STACK: usize = offset_of!(Local, user_stack);
/// Offset of `return_context` for the stubs.
pub(super) const RETURN_CONTEXT: usize = offset_of!(Local, return_context);
/// Offset of `thread`.
const THREAD: usize = offset_of!(Local, thread);
/// Offset of `locks_held`.
const LOCKS_HELD: usize = offset_of!(Local, locks_held);
/// Offset of `interrupts_before`.
const INTERRUPTS_BEFORE: usize = offset_of!(Local, interrupts_before);
/// Offset of `index`.
const INDEX: usize = offset_of!(Local, index);

// SAFETY: the cells are only touched by the one processor whose GS base leads here, with interrupts off, by its entry stubs and by
// single instructions.
unsafe impl Sync for Local {}

impl Local {
    const fn new(index: u32) -> Self {
        Self {
            kernel_stack: UnsafeCell::new(0),
            user_stack: UnsafeCell::new(0),
            return_context: UnsafeCell::new(0),
            index,
            thread: UnsafeCell::new(core::ptr::null_mut()),
            locks_held: UnsafeCell::new(0),
            interrupts_before: UnsafeCell::new(0),
        }
    }
}

/// One for each processor that may run.
static LOCALS: [Local; CPUS_MAX] = {
    let mut locals = [const { Local::new(0) }; CPUS_MAX];
    let mut index = 0;
    while index < CPUS_MAX {
        locals[index] = Local::new(index as u32);
        index += 1;
    }
    locals
};

/// Makes a processor's data reachable, on that processor. The first thing that is done on each: locks are counted there.
///
/// # Panics
///
/// For a number from [`CPUS_MAX`] on.
pub(crate) fn initialise(index: usize) {
    let local = &LOCALS[index];
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

/// The thread that this processor runs, or null. One instruction: right also where the thread goes to another processor behind it.
#[inline]
pub(crate) fn thread() -> *mut () {
    let thread: *mut ();
    // SAFETY: as in `processor`; a word is read.
    unsafe {
        core::arch::asm!("mov {}, gs:[{}]", out(reg) thread, const THREAD, options(nostack, readonly, preserves_flags));
    }
    thread
}

/// Notes the thread that this processor runs. With interrupts off.
pub(crate) fn set_thread(thread: *mut ()) {
    // SAFETY: as in `count_lock`.
    unsafe {
        core::arch::asm!("mov gs:[{}], {}", const THREAD, in(reg) thread, options(nostack, preserves_flags));
    }
}

/// Where programs' traps enter on this processor, and the context behind that. With interrupts off.
pub(crate) fn entry_context() -> (u64, u64) {
    let (kernel_stack, return_context): (u64, u64);
    // SAFETY: as in `processor`; two words are read.
    unsafe {
        core::arch::asm!("mov {}, gs:[{}]", out(reg) kernel_stack, const KERNEL_STACK, options(nostack, readonly, preserves_flags));
        core::arch::asm!("mov {}, gs:[{}]", out(reg) return_context, const RETURN_CONTEXT, options(nostack, readonly, preserves_flags));
    }
    (kernel_stack, return_context)
}

/// Sets both, for the thread that runs next. With interrupts off.
///
/// # Safety
///
/// They were the processor's when that thread ran the last time; for a thread that runs for the first time they are zero.
pub(crate) unsafe fn set_entry_context(kernel_stack: u64, return_context: u64) {
    // SAFETY: by the contract; the words are this processor's alone, and no reference to them exists.
    unsafe {
        core::arch::asm!("mov gs:[{}], {}", const KERNEL_STACK, in(reg) kernel_stack, options(nostack, preserves_flags));
        core::arch::asm!("mov gs:[{}], {}", const RETURN_CONTEXT, in(reg) return_context, options(nostack, preserves_flags));
    }
}

/// How many locks this processor holds that keep interrupts off.
#[inline]
pub(crate) fn locks_held() -> u32 {
    let held: u32;
    // SAFETY: as in `processor`; a word is read.
    unsafe {
        core::arch::asm!("mov {:e}, gs:[{}]", out(reg) held, const LOCKS_HELD, options(nostack, readonly, preserves_flags));
    }
    held
}

/// Counts one more. With interrupts off.
#[inline]
pub(crate) fn count_lock() {
    // SAFETY: as in `processor`; the word is this processor's alone, and no reference to it exists.
    unsafe {
        core::arch::asm!("inc dword ptr gs:[{}]", const LOCKS_HELD, options(nostack));
    }
}

/// Counts one less, and says whether none is left. With interrupts off.
#[inline]
pub(crate) fn uncount_lock() -> bool {
    let left: u32;
    // SAFETY: as in `count_lock`.
    unsafe {
        core::arch::asm!(
            "dec dword ptr gs:[{1}]",
            "mov {0:e}, gs:[{1}]",
            out(reg) left, const LOCKS_HELD, options(nostack)
        );
    }
    left == 0
}

/// Whether interrupts were on before the first of them.
#[inline]
pub(crate) fn interrupts_before() -> bool {
    let before: u32;
    // SAFETY: as in `locks_held`.
    unsafe {
        core::arch::asm!("mov {:e}, gs:[{}]", out(reg) before, const INTERRUPTS_BEFORE, options(nostack, readonly, preserves_flags));
    }
    before != 0
}

/// Notes whether they were. With interrupts off.
#[inline]
pub(crate) fn set_interrupts_before(before: bool) {
    let before = u32::from(before);
    // SAFETY: as in `count_lock`.
    unsafe {
        core::arch::asm!("mov gs:[{1}], {0:e}", in(reg) before, const INTERRUPTS_BEFORE, options(nostack, preserves_flags));
    }
}

/// Something for each processor that may run, found by its number.
pub(crate) struct PerCpu<T>([T; CPUS_MAX]);

impl<T> PerCpu<T> {
    /// From one for each.
    pub(crate) const fn new(each: [T; CPUS_MAX]) -> Self {
        Self(each)
    }

    /// That of the processor that this runs on. With interrupts on the caller may be elsewhere afterwards.
    #[inline]
    pub(crate) fn here(&self) -> &T {
        // Never a panic: the number is an index of `LOCALS`, which is as long.
        &self.0[processor()]
    }

    /// That of a processor; `None` for a number that none can have.
    #[inline]
    pub(crate) fn of(&self, cpu: usize) -> Option<&T> {
        self.0.get(cpu)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}
