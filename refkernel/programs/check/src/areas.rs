//! What areas and windows do when they are used as they are meant to be.

use refkernel_runtime::{ErrorCode, Handle, PAGE_SIZE, call};

use crate::READ_WRITE;
use crate::report::Report;

/// Reads a word of a window.
fn read(address: u64) -> u64 {
    // SAFETY: the callers read windows that are mapped, and nothing else of the program uses them.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes a word of a window.
fn write(address: u64, value: u64) {
    // SAFETY: as for `read`; the callers mapped them to be written.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Ends a window that the callers do not use any more.
fn unmap(address: u64, length: u64) -> Result<(), ErrorCode> {
    // SAFETY: only `read` and `write` use windows, and the callers do not call them for this one again.
    unsafe { call::area_unmap(address, length) }
}

/// Changes the size of an area of which the callers use only what stays.
fn resize(area: Handle, size: u64) -> Result<(), ErrorCode> {
    // SAFETY: as for `unmap`.
    unsafe { call::area_resize(area, size) }
}

pub(crate) fn check(report: &mut Report) {
    let outcome = pages_outlive_windows(report)
        .and_then(|()| hole_in_the_middle(report))
        .and_then(|()| one_page_twice(report))
        .and_then(|()| cut_and_grown_is_zero(report))
        .and_then(|()| again_and_again());
    report.done("everything that was asked of areas", outcome);
}

/// `area_unmapped_everywhere_keeps_pages`, and the handle's end is not the window's.
fn pages_outlive_windows(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(2 * PAGE_SIZE)?;
    let first = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE)?;
    write(first + PAGE_SIZE, 0x5eed);
    unmap(first, 2 * PAGE_SIZE)?;
    let second = call::area_map(area, 0, PAGE_SIZE, PAGE_SIZE, READ_WRITE)?;
    report.check("an area that is mapped nowhere keeps its pages", read(second) == 0x5eed);
    call::handle_close(area)?;
    report.check("a window outlives its area's handle", read(second) == 0x5eed);
    unmap(second, PAGE_SIZE)
}

/// `unmap_middle_leaves_neighbours` and `unmap_middle_keeps_backing_offset`.
fn hole_in_the_middle(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(5 * PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, 5 * PAGE_SIZE, READ_WRITE)?;
    for page in 0..4 {
        write(address + page * PAGE_SIZE, 100 + page);
    }
    unmap(address + 2 * PAGE_SIZE, PAGE_SIZE)?;
    for page in [0, 1, 3] {
        let kept = read(address + page * PAGE_SIZE) == 100 + page;
        report.check("unmapping the middle leaves the neighbours", kept);
    }
    // Filled first: a window without a chosen address may be put into the hole.
    let filled = call::area_map(area, address + 2 * PAGE_SIZE, 2 * PAGE_SIZE, PAGE_SIZE, READ_WRITE)?;
    report.check("the hole filled again shows its page", read(filled) == 102);
    // A page behind the hole that was not touched before: its offset must be counted from the area's start.
    write(address + 4 * PAGE_SIZE, 104);
    let other = call::area_map(area, 0, 4 * PAGE_SIZE, PAGE_SIZE, READ_WRITE)?;
    report.check("behind a hole the offset is the right one", read(other) == 104);
    unmap(address, 5 * PAGE_SIZE)?;
    unmap(other, PAGE_SIZE)?;
    call::handle_close(area)
}

/// `area_twice_in_one_space`.
fn one_page_twice(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let first = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    let second = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    report.check("two windows lie apart", first.abs_diff(second) >= PAGE_SIZE);
    for value in [1, u64::MAX, 7] {
        write(first, value);
        report.check("two windows of an area show one page", read(second) == value);
    }
    unmap(first, PAGE_SIZE)?;
    report.check("unmapping one window leaves the other", read(second) == 7);
    unmap(second, PAGE_SIZE)?;
    call::handle_close(area)
}

/// What an area loses when it is cut does not come back when it grows.
fn cut_and_grown_is_zero(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(3 * PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, 3 * PAGE_SIZE, READ_WRITE)?;
    for page in 0..3 {
        write(address + page * PAGE_SIZE, 200 + page);
    }
    resize(area, PAGE_SIZE)?;
    report.check("cutting an area keeps what is left", read(address) == 200);
    resize(area, 3 * PAGE_SIZE)?;
    unmap(address, 3 * PAGE_SIZE)?;
    let again = call::area_map(area, 0, 0, 3 * PAGE_SIZE, READ_WRITE)?;
    let words = [0, 1, 2].map(|page| read(again + page * PAGE_SIZE));
    report.check("what was cut off comes back as zero", words == [200, 0, 0]);
    unmap(again, 3 * PAGE_SIZE)?;
    call::handle_close(area)
}

/// More than would fit the machine if anything were kept.
fn again_and_again() -> Result<(), ErrorCode> {
    for _ in 0..300 {
        let area = call::area_create(1 << 30)?;
        let address = call::area_map(area, 0, 0, 1 << 30, READ_WRITE)?;
        for offset in [0, 1 << 21, (1 << 30) - PAGE_SIZE] {
            write(address + offset, offset);
        }
        unmap(address, 1 << 30)?;
        call::handle_close(area)?;
    }
    Ok(())
}

/// Takes a thousand pages in several areas, unmaps nothing, closes nothing.
pub(crate) fn leave_everything(report: &mut Report) {
    const AREAS: u64 = 8;
    const PAGES: u64 = 128;
    for number in 0..AREAS {
        let mapped = call::area_create(PAGES * PAGE_SIZE)
            .and_then(|area| call::area_map(area, 0, 0, PAGES * PAGE_SIZE, READ_WRITE));
        if let Some(address) = report.done("create and map an area", mapped) {
            for page in 0..PAGES {
                let place = address + page * PAGE_SIZE;
                report.check("a fresh page is zero", read(place) == 0);
                write(place, number);
            }
        }
    }
}
