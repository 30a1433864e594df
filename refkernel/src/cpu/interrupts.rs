//! The interrupt descriptor table, and the legacy interrupt controllers out of the way.

use super::segments::{DOUBLE_FAULT_STACK, MACHINE_CHECK_STACK, NMI_STACK, TRAP_STACK};
use spin::Once;
use x86_64::instructions::port::Port;
use x86_64::structures::idt::{Entry, EntryOptions, InterruptDescriptorTable};
use x86_64::{PrivilegeLevel, VirtAddr};

static TABLE: Once<InterruptDescriptorTable> = Once::new();

unsafe extern "C" {
    /// 256 entry stubs of [`STUB_SIZE`] bytes each.
    static trap_stubs: u8;
}

/// The distance between two stubs.
const STUB_SIZE: u64 = 16;

/// Points an entry at its stub and gives it a stack of the interrupt stack table.
fn set<F>(entry: &mut Entry<F>, vector: u8, stack: u16) -> &mut EntryOptions {
    let address = VirtAddr::new((&raw const trap_stubs) as u64 + STUB_SIZE * u64::from(vector));
    // SAFETY: the stub of `vector` expects the frame that the processor pushes for this vector (it pushes the
    // error code itself where the processor does not), and the stack index is one of those that the task state segment fills.
    unsafe { entry.set_handler_addr(address).set_stack_index(stack) }
}

/// Loads the table, which is the same on every processor.
pub(super) fn initialise() {
    let table = TABLE.call_once(|| {
        let mut table = InterruptDescriptorTable::new();
        set(&mut table.divide_error, 0, TRAP_STACK);
        set(&mut table.debug, 1, TRAP_STACK);
        set(&mut table.non_maskable_interrupt, 2, NMI_STACK);
        // The one exception that programs may raise by an instruction with a number: debuggers put it into them.
        set(&mut table.breakpoint, 3, TRAP_STACK).set_privilege_level(PrivilegeLevel::Ring3);
        set(&mut table.overflow, 4, TRAP_STACK);
        set(&mut table.bound_range_exceeded, 5, TRAP_STACK);
        set(&mut table.invalid_opcode, 6, TRAP_STACK);
        set(&mut table.device_not_available, 7, TRAP_STACK);
        set(&mut table.double_fault, 8, DOUBLE_FAULT_STACK);
        set(&mut table.invalid_tss, 10, TRAP_STACK);
        set(&mut table.segment_not_present, 11, TRAP_STACK);
        set(&mut table.stack_segment_fault, 12, TRAP_STACK);
        set(&mut table.general_protection_fault, 13, TRAP_STACK);
        set(&mut table.page_fault, 14, TRAP_STACK);
        set(&mut table.x87_floating_point, 16, TRAP_STACK);
        set(&mut table.alignment_check, 17, TRAP_STACK);
        set(&mut table.machine_check, 18, MACHINE_CHECK_STACK);
        set(&mut table.simd_floating_point, 19, TRAP_STACK);
        set(&mut table.virtualization, 20, TRAP_STACK);
        set(&mut table.cp_protection_exception, 21, TRAP_STACK);
        for vector in 32..=255 {
            set(&mut table[vector], vector, TRAP_STACK);
        }
        table
    });
    table.load();
}

/// Moves the two 8259 controllers' vectors away from the exceptions and masks every line: what a firmware left enabled
/// must not look like a double fault. Intel 8259A data sheet, initialisation command words 1 to 4.
pub(super) fn mask_legacy_controllers() {
    for (command, data, first_vector, cascade) in [(0x20, 0x21, 0x20, 4), (0xa0, 0xa1, 0x28, 2)] {
        let mut command = Port::<u8>::new(command);
        let mut data = Port::<u8>::new(data);
        // SAFETY: the ports are the controllers', which nothing else drives; with every line masked they interrupt
        // nobody.
        unsafe {
            command.write(0x11);
            data.write(first_vector);
            data.write(cascade);
            data.write(1);
            data.write(0xff);
        }
    }
}
