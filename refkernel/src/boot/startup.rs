//! Where a further processor is sent when it is started, and what it is told on its way; the way itself is in `startup.s`.
//!
//! One processor at a time is under way: it is told its root table and its stack in two statics.

use crate::cpu::others::processor_main;
use core::ptr::{copy_nonoverlapping, write_volatile};
use core::sync::atomic::{Ordering, fence};
use limine::mp::Cpu;

core::arch::global_asm!(
    include_str!("startup.s"),
    processor_main = sym processor_main,
    options(att_syntax),
);

unsafe extern "C" {
    static startup_page_begin: u8;
    static startup_page_end: u8;
    static mut startup_root: u64;
    static mut startup_stack: u64;
    static mut boot_pml4: u64;
    static boot_pdpt_physical: u8;
    fn limine_processor(processor: &Cpu) -> !;
}

/// Says with which tables and on which stack the next processor runs.
///
/// # Safety
///
/// No processor is under way. The root is the kernel's, and shows the image; the stack is present, writable and nobody's.
pub(crate) unsafe fn prepare(root: u64, stack_top: u64) {
    // SAFETY: the words are in the image's data, and by the contract nobody reads them now.
    unsafe {
        write_volatile(&raw mut startup_root, root);
        write_volatile(&raw mut startup_stack, stack_top);
    }
    fence(Ordering::SeqCst);
}

/// Fills the page on which processors begin that are started by interrupts, and lets the boot tables show it where it lies physically.
/// They may be used for that until the boot memory is given back.
///
/// # Safety
///
/// `page` is where the claimed page is shown, and was booted by PVH: the boot tables are as that entry made them.
pub(crate) unsafe fn fill_page(page: *mut u8) {
    // SAFETY: the code is shorter than a page, which by the contract is the kernel's alone. The boot tables are in the image,
    // writable and used by nobody at the moment; their first entry was absent, so no TLB holds it. 3: present, writable
    // (Intel SDM Vol. 3A, table 5-15).
    unsafe {
        let begin = &raw const startup_page_begin;
        copy_nonoverlapping(begin, page, (&raw const startup_page_end) as usize - begin as usize);
        write_volatile(&raw mut boot_pml4, (&raw const boot_pdpt_physical) as u64 | 3);
    }
    fence(Ordering::SeqCst);
}

/// Sends a processor that Limine has parked at the record that is shown at `record`.
///
/// # Safety
///
/// Limine told of the record, and its memory is not given back yet. [`prepare`] was called.
pub(crate) unsafe fn send_parked(record: u64) {
    // SAFETY: by the contract a `Cpu` of Limine's is there, which the processor that it stands for watches.
    let processor = unsafe { &*(record as *const Cpu) };
    processor.goto_address.write(limine_processor);
}
