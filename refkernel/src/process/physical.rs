//! Which of the machine's memory may be had by whoever has the right to it: what no table of the firmware lists, and framebuffers. RAM of every kind stays the kernel's, and so does what it
//! controls its processors with.

use crate::cpu::apic;
use crate::memory;
use refkernel::boot_info::RegionKind;
use refkernel_abi::{Caching, ErrorCode, PAGE_SIZE};
use vmcore::addr::{Frame, FrameRange};
use vmcore::paging::MemoryType;
use vmcore::vm_area::{Area, AreaError};

/// Where the memory of old ends, 640 KiB: what lies below is RAM on every PC, whether a loader's map lists all of it or not.
const OLD_MEMORY_END: u64 = 0xa_0000;

/// An area of device memory.
///
/// # Errors
///
/// See [`SystemCall::PhysicalArea`](refkernel_abi::SystemCall::PhysicalArea).
pub(super) fn area(address: u64, size: u64, caching: Caching) -> Result<Area<memory::Kernel>, ErrorCode> {
    let end = address.checked_add(size).ok_or(ErrorCode::BadRange)?;
    let overlaps = |start: u64, until: u64| address < until && start < end;
    let info = memory::boot_info().ok_or(ErrorCode::NotSupported)?;
    let listed = |region: &refkernel::boot_info::Region| overlaps(region.start(), region.end());
    if info.memory.iter().any(|region| listed(&region) && region.kind() != RegionKind::Framebuffer) {
        return Err(ErrorCode::Denied);
    }
    if overlaps(0, OLD_MEMORY_END) {
        return Err(ErrorCode::Denied);
    }
    if apic::physical_page().is_some_and(|page| overlaps(page, page + PAGE_SIZE)) {
        return Err(ErrorCode::Denied);
    }
    let first = Frame::new(address / PAGE_SIZE);
    let frames = FrameRange::new(first, size / PAGE_SIZE).ok_or(ErrorCode::BadRange)?;
    let memory = match caching {
        Caching::Uncached => MemoryType::Uncached,
        Caching::WriteCombining => MemoryType::WriteCombining,
    };
    // SAFETY: the range is no RAM, so neither the kernel nor the library keeps anything there: no image, no module, no tables of the firmware's, no records. It is not the
    // registers that the kernel uses either; the screen's pixels are nothing that anybody relies on.
    unsafe { Area::fixed(&memory::Kernel, frames, memory, ()) }.map_err(|error| match error {
        AreaError::Frames(_) => ErrorCode::BadRange,
        AreaError::OutOfFrames(_) => ErrorCode::OutOfMemory,
        _ => ErrorCode::NotSupported,
    })
}
