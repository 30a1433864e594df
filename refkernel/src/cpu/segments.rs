//! Segments and the task state segment: what long mode has left of them.
//!
//! The order of the descriptors is `syscall`'s and `sysret`'s (Intel SDM Vol. 2B, SYSRET): kernel code, kernel
//! data, user data, user code.
//!
//! Every trap enters on a stack of the interrupt stack table, because compiled code (the precompiled `core`) keeps
//! data in the 128 bytes below its stack pointer, where a trap without a stack of its own would put its frame:
//!
//! | stack | who enters on it |
//! |---|---|
//! | trap | everything else; its frame is moved off it at once, so that a handler may trap again |
//! | double fault, NMI, machine check | these; they can come at any instruction and are fatal |

use super::local::{CPUS_MAX, PerCpu};
use super::stacks::{self, Stack};
use core::array::from_fn;
use core::cell::UnsafeCell;
use core::ops::Range;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Index in the interrupt stack table, from zero.
pub(super) const TRAP_STACK: u16 = 0;
/// For the double fault.
pub(super) const DOUBLE_FAULT_STACK: u16 = 1;
/// For the non-maskable interrupt.
pub(super) const NMI_STACK: u16 = 2;
/// For the machine check.
pub(super) const MACHINE_CHECK_STACK: u16 = 3;

/// The stacks of a processor's interrupt stack table, in the order of the indices above.
pub(super) const STACK_COUNT: usize = 4;

/// Enough to format a report and a backtrace on.
const STACK_SIZE: usize = 16 * 1024;

/// Memory that only a processor's stack pointer touches.
#[repr(C, align(4096))]
struct StackMemory(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: never accessed through Rust; each is used by one processor, by its interrupt stack table.
unsafe impl Sync for StackMemory {}

/// The first processor's, which it needs before there is memory. Others have guarded ones.
static STACKS: [StackMemory; STACK_COUNT] = [const { StackMemory(UnsafeCell::new([0; STACK_SIZE])) }; STACK_COUNT];
const STACK_NAMES: [&str; STACK_COUNT] = ["trap stack", "double fault stack", "NMI stack", "machine check stack"];

/// The memory of the first processor's stacks; makes them known to backtraces.
pub(super) fn first_stacks() -> [Range<u64>; STACK_COUNT] {
    for (memory, name) in STACKS.iter().zip(STACK_NAMES) {
        let start = memory.0.get() as u64;
        stacks::register(Stack { name, guard: 0..0, memory: start..start + STACK_SIZE as u64 });
    }
    STACKS.each_ref().map(|memory| memory.0.get() as u64..memory.0.get() as u64 + STACK_SIZE as u64)
}

static TASK_STATES: PerCpu<Once<TaskStateSegment>> = PerCpu::new([const { Once::new() }; CPUS_MAX]);
static SEGMENTS: PerCpu<Once<Segments>> = PerCpu::new([const { Once::new() }; CPUS_MAX]);
static TRAP_STACKS: PerCpu<Once<Range<u64>>> = PerCpu::new([const { Once::new() }; CPUS_MAX]);

/// The memory of the stack that most traps of this processor enter on.
pub(super) fn trap_stack() -> Range<u64> {
    TRAP_STACKS.here().get().cloned().unwrap_or(0..0)
}

/// The descriptor table and the selectors into it.
pub(super) struct Segments {
    table: GlobalDescriptorTable<8>,
    /// Ring 0 code.
    pub(super) kernel_code: SegmentSelector,
    /// Ring 0 stack and data.
    pub(super) kernel_data: SegmentSelector,
    /// Ring 3 stack and data.
    pub(super) user_data: SegmentSelector,
    /// Ring 3 code.
    pub(super) user_code: SegmentSelector,
    task_state: SegmentSelector,
}

/// Selector of user data with its privilege level, for the stubs; checked against the table when it is made.
pub(super) const USER_DATA: u16 = 0x18 | 3;
/// Selector of user code with its privilege level, likewise.
pub(super) const USER_CODE: u16 = 0x20 | 3;

/// The tables of this processor, made at the first call.
fn make(stacks: &[Range<u64>; STACK_COUNT]) -> &'static Segments {
    let [trap, ..] = stacks;
    TRAP_STACKS.here().call_once(|| trap.clone());
    let task_state = TASK_STATES.here().call_once(|| {
        let mut state = TaskStateSegment::new();
        // The structure is packed, so its table is written as a whole.
        let top = |index: usize| stacks.get(index).map_or(VirtAddr::zero(), |stack| VirtAddr::new_truncate(stack.end));
        state.interrupt_stack_table = from_fn(top);
        state
    });
    SEGMENTS.here().call_once(|| {
        let mut table = GlobalDescriptorTable::<8>::empty();
        let kernel_code = table.append(Descriptor::kernel_code_segment());
        let kernel_data = table.append(Descriptor::kernel_data_segment());
        let user_data = table.append(Descriptor::user_data_segment());
        let user_code = table.append(Descriptor::user_code_segment());
        let task_state = table.append(Descriptor::tss_segment(task_state));
        assert_eq!((user_data.0, user_code.0), (USER_DATA, USER_CODE), "the stubs enter programs with these");
        Segments { table, kernel_code, kernel_data, user_data, user_code, task_state }
    })
}

/// Makes and loads this processor's tables, with these stacks for its traps, and gives the selectors. Once on each.
pub(super) fn initialise(stacks: &[Range<u64>; STACK_COUNT]) -> &'static Segments {
    let segments = make(stacks);
    segments.table.load();
    // SAFETY: the selectors are those of the table just loaded, which lives for ever: ring 0 code and data that span
    // everything, no local table, and an available task state segment whose stacks are memory of their own.
    unsafe {
        CS::set_reg(segments.kernel_code);
        SS::set_reg(segments.kernel_data);
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        load_tss(segments.task_state);
        // There is no local descriptor table: what a loader left in the register must not be found by a program's selectors.
        core::arch::asm!("lldt {none:x}", none = in(reg) 0_u16, options(nostack, preserves_flags));
    }
    segments
}
