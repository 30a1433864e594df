//! Where the kernel's own parts lie: the linker's symbols as address ranges.

use core::ops::Range;

unsafe extern "C" {
    static kernel_start: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
    static boot_start: u8;
    static boot_end: u8;
    static boot_stack_bottom: u8;
    static boot_stack_top: u8;
    static kernel_end: u8;
}

/// The virtual address of a symbol of the linker script.
macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// The whole image: the parts below, in their order, without gaps.
pub(crate) fn image() -> Range<u64> {
    address!(kernel_start)..address!(kernel_end)
}

/// Code: read and execute.
pub(crate) fn text() -> Range<u64> {
    address!(text_start)..address!(text_end)
}

/// Constants: read only.
pub(crate) fn rodata() -> Range<u64> {
    address!(rodata_start)..address!(rodata_end)
}

/// Variables, initialised or zero: read and write.
pub(crate) fn data() -> Range<u64> {
    address!(data_start)..address!(data_end)
}

/// The page tables and the stack of the first steps: read and write, and free memory once the kernel runs on its own.
pub(crate) fn boot() -> Range<u64> {
    address!(boot_start)..address!(boot_end)
}

/// The stack that both entries start on, a part of [`boot`].
pub(crate) fn boot_stack() -> Range<u64> {
    address!(boot_stack_bottom)..address!(boot_stack_top)
}
