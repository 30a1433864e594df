//! The two ways in, and what both end in: one [`BootInfo`] and a call of [`crate::kernel_main`].
//!
//! ```text
//!  QEMU -kernel ──> pvh_start (32-bit) ─┐                  ┌─> pvh::boot_pvh ──────┐
//!                                       ├─> enter_rust ────┤                       ├─> kernel_main(&BootInfo)
//!  Limine ────────> limine_start ───────┘   (SSE, stack)   └─> limine::boot_limine ┘
//! ```
//!
//! The assembly runs both on the boot stack inside of the kernel's image; nothing of the loader's is used after the
//! [`BootInfo`] has been filled except its page tables.

mod acpi;
pub(crate) mod layout;
mod limine;
mod pvh;
pub(crate) mod startup;

use crate::memory::linear;
use refkernel::boot_info::BootInfo;
use spin::Once;

core::arch::global_asm!(include_str!("entry.s"), options(att_syntax));

/// What the loader told, from the moment that it was understood until power-off.
static BOOT_INFO: Once<BootInfo> = Once::new();

/// The boot module's bytes, in the linear map: after it was established, in the loader's tables as in the kernel's.
pub(crate) fn module(info: &BootInfo) -> Option<&'static [u8]> {
    let module = info.module.filter(|module| linear::is_established() && module.end() <= info.physical_reach)?;
    let address = linear::address(module.start());
    let length = usize::try_from(module.length()).ok()?;
    // SAFETY: the loader placed the module there, and its map shows all physical memory below `physical_reach` (Limine:
    // all that its map calls a module), which is where the linear map is from, and the kernel's own tables show it at the same
    // address. The memory map keeps the range from being handed out, and nothing writes to it.
    Some(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
}

/// Keeps `info` for the life of the kernel. The second call returns the first one's.
fn keep(info: BootInfo) -> &'static BootInfo {
    BOOT_INFO.call_once(|| info)
}

/// Goes on in `next` on another stack and never comes back: the way off the boot stack, whose memory is free afterwards
/// (take it from [`layout::boot`], and forget the stack).
///
/// # Safety
///
/// `stack_top` is a multiple of 16 and the end of a mapped, writable stack that nobody else uses. Nothing on the present
/// stack is used any more.
pub(crate) unsafe fn continue_on(stack_top: u64, next: extern "C" fn() -> !) -> ! {
    // SAFETY: by the contract the stack is there, and nothing is returned to. A zero frame pointer ends backtraces; the
    // call pushes the return address that the C ABI expects below a multiple of 16.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack_top}",
            "xor ebp, ebp",
            "call {next}",
            "ud2",
            stack_top = in(reg) stack_top,
            next = in(reg) next,
            options(noreturn),
        )
    }
}
