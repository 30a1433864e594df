//! What every row does with memory.

use refkernel_runtime::{Access, ErrorCode, PAGE_SIZE, call};

pub(crate) const READ_WRITE: Access = Access::READ_WRITE;

/// The pages of the large rows.
pub(crate) const PAGES: u64 = 4096;
/// The same in bytes.
pub(crate) const SIZE: u64 = PAGES * PAGE_SIZE;

/// Where the rows have their windows: on a border of 1 GiB, each with nothing else in its 512 GiB.
pub(crate) const WINDOW: u64 = 0x1000_0000_0000;
/// Where they move to, on such a border too.
pub(crate) const DESTINATION: u64 = 0x2000_0000_0000;

/// Memory of this program's alone, at an address or (0) where there is room.
#[inline(always)]
pub(crate) fn map(address: u64, size: u64) -> Result<u64, ErrorCode> {
    call::area_create_and_map(size, address, READ_WRITE)
}

/// Ends a window that the callers do not use any more.
#[inline(always)]
pub(crate) fn unmap(address: u64, size: u64) -> Result<(), ErrorCode> {
    // SAFETY: the callers' promise.
    unsafe { call::area_unmap(address, size) }
}

/// Changes what a window allows that the callers use only so.
#[inline(always)]
pub(crate) fn protect(address: u64, size: u64, access: Access) -> Result<(), ErrorCode> {
    // SAFETY: the callers' promise.
    unsafe { call::area_protect(address, size, Some(access)) }
}

/// Moves a window whose old addresses the callers do not use any more.
#[inline(always)]
pub(crate) fn relocate(from: u64, size: u64, to: u64) -> Result<u64, ErrorCode> {
    // SAFETY: the callers' promise.
    unsafe { call::area_move(from, size, size, to) }
}

/// Writes to a page.
#[inline(always)]
pub(crate) fn write(address: u64) {
    // SAFETY: the callers have mapped the page to be written, and nothing else uses it.
    unsafe { (address as *mut u64).write_volatile(1) };
}

/// Reads a page.
#[inline(always)]
pub(crate) fn read(address: u64) -> u64 {
    // SAFETY: the callers have mapped the page to be read, and nothing writes to it meanwhile.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes to every page of a range.
#[inline(always)]
pub(crate) fn write_all(start: u64, size: u64) {
    let mut address = start;
    while address < start + size {
        write(address);
        address += PAGE_SIZE;
    }
}

/// Reads every page of a range.
#[inline(always)]
pub(crate) fn read_all(start: u64, size: u64) {
    let mut address = start;
    while address < start + size {
        read(address);
        address += PAGE_SIZE;
    }
}
