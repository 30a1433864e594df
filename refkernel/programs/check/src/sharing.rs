//! An area that two programs were handed is one memory: what the first writes, the second reads.

use refkernel_runtime::{ErrorCode, PAGE_SIZE, StartInformation, call};

use crate::READ_WRITE;
use crate::report::Report;

/// What the writer leaves in the word at `index`: no two are the same.
fn pattern(index: u64) -> u64 {
    (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Maps the whole area that was handed over.
fn map(start: &StartInformation) -> Result<u64, ErrorCode> {
    call::area_map(start.area, 0, 0, start.area_size, READ_WRITE)
}

/// Whether all of the window at `address` holds the pattern.
fn holds_pattern(address: u64, size: u64) -> bool {
    (0..size / 8).all(|index| {
        // SAFETY: the window is mapped to be read, and nobody writes it meanwhile.
        let word = unsafe { ((address + 8 * index) as *const u64).read_volatile() };
        word == pattern(index)
    })
}

/// Fills the area through one window, and looks at it through another.
pub(crate) fn write(start: &StartInformation, report: &mut Report) {
    report.check("an area was handed over", start.area_size >= PAGE_SIZE);
    // SAFETY: nothing of the area is used yet; a kernel that cuts it has failed the check.
    let resized = unsafe { call::area_resize(start.area, PAGE_SIZE) };
    report.check("an area that was handed over is not this program's to resize", resized == Err(ErrorCode::Denied));
    let Some(first) = report.done("map the area", map(start)) else {
        return;
    };
    for index in 0..start.area_size / 8 {
        // SAFETY: the window is mapped to be written, and nothing else uses it.
        unsafe { ((first + 8 * index) as *mut u64).write_volatile(pattern(index)) };
    }
    if let Some(second) = report.done("map it again", map(start)) {
        report.check("both windows are one memory", holds_pattern(second, start.area_size));
    }
}

/// Looks at what the writer left.
pub(crate) fn read(start: &StartInformation, report: &mut Report) {
    report.check("an area was handed over", start.area_size >= PAGE_SIZE);
    if let Some(address) = report.done("map the area", map(start)) {
        report.check("the area holds what the other program wrote", holds_pattern(address, start.area_size));
    }
}
