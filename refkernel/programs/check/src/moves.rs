//! Windows that move, with and without another length, and what the kernel counts.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    AREA_SIZE_MAX, Access, Count, ErrorCode, PAGE_SIZE, SystemCall, USER_END, call, decode_result,
};

use crate::READ_WRITE;
use crate::report::Report;
use crate::windows::{protect, read, unmap, write};

/// Two places that are free, each on a border of 2 MiB.
const HERE: u64 = 0x6000_0000_0000;
const THERE: u64 = 0x6000_4000_0000;

/// Whether writing is refused: the kernel does not write there for the program either.
fn refuses_writing(address: u64) -> bool {
    // SAFETY: the call writes two handles to memory that nothing else uses, or is refused.
    let result = unsafe { call::raw(SystemCall::ChannelCreate.number(), [address, 0, 0, 0, 0, 0]) };
    decode_result(result) == Err(BadPointer)
}

/// Moves a window whose old addresses the callers do not use any more.
fn relocate(address: u64, length: u64, new_length: u64, destination: u64) -> Result<u64, ErrorCode> {
    // SAFETY: the callers' promise.
    unsafe { call::area_move(address, length, new_length, destination) }
}

pub(crate) fn check(report: &mut Report) {
    let outcome = moved(report)
        .and_then(|()| resized(report))
        .and_then(|()| parted(report))
        .and_then(|()| of_an_area(report))
        .and_then(|()| refused(report));
    report.done("everything that was asked of windows that move", outcome);
    counted(report);
}

/// Whole tables, single pages, and both ways.
fn moved(report: &mut Report) -> Result<(), ErrorCode> {
    for (length, offset) in [(PAGE_SIZE, 0), (4 << 20, 0), (4 << 20, PAGE_SIZE), ((4 << 20) + PAGE_SIZE, 0)] {
        let from = call::area_create_and_map(length, HERE, READ_WRITE)?;
        // Some pages are there and some are not.
        let pages = || (0..length).step_by(3 * PAGE_SIZE as usize);
        pages().for_each(|page| write(from + page, page + 1));
        let to = relocate(from, length, length, THERE + offset)?;
        report.check("it is where it was wanted", to == THERE + offset);
        report.check("its contents came along", pages().all(|page| read(to + page) == page + 1));
        let untouched = (PAGE_SIZE..length).step_by(3 * PAGE_SIZE as usize).all(|page| read(to + page) == 0);
        report.check("what was not touched is zero", untouched);
        // What was there is gone, also for a processor that remembers it.
        report.check("nothing is at the old address", refuses_writing(from));
        let again = call::area_create_and_map(length, HERE, READ_WRITE)?;
        report.check("the old addresses are free, and zero", pages().all(|page| read(again + page) == 0));
        unmap(again, length)?;
        let back = relocate(to, length, length, HERE)?;
        report.check("it came back", back == HERE && pages().all(|page| read(back + page) == page + 1));
        pages().for_each(|page| write(back + page, 7));
        unmap(back, length)?;
    }
    Ok(())
}

fn resized(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(2 * PAGE_SIZE, HERE, READ_WRITE)?;
    write(address, 1);
    write(address + PAGE_SIZE, 2);
    let same = relocate(address, 2 * PAGE_SIZE, 4 * PAGE_SIZE, 0)?;
    report.check("it grows where it is", same == address && read(address + 3 * PAGE_SIZE) == 0);
    write(address + 3 * PAGE_SIZE, 4);
    let same = relocate(address, 4 * PAGE_SIZE, PAGE_SIZE, 0)?;
    report.check("it is cut where it is", same == address && read(address) == 1);
    report.check("what was cut off is gone", refuses_writing(address + PAGE_SIZE));
    let behind = call::area_create_and_map(PAGE_SIZE, address + PAGE_SIZE, READ_WRITE)?;
    let new = relocate(address, PAGE_SIZE, 2 * PAGE_SIZE, 0)?;
    report.check("it goes where there is room", new != address && read(new) == 1);
    // Memory that was cut off and is shown again is zero or what it was; what was never shown is zero.
    write(new + PAGE_SIZE, 5);
    unmap(behind, PAGE_SIZE)?;
    let shorter = relocate(new, 2 * PAGE_SIZE, PAGE_SIZE, THERE)?;
    report.check("it moves and is cut", shorter == THERE && read(THERE) == 1);
    report.check("all of the old addresses are free", refuses_writing(new) && refuses_writing(new + PAGE_SIZE));
    unmap(shorter, PAGE_SIZE)?;
    let last = call::area_create_and_map(PAGE_SIZE, USER_END - 0x10_0000, READ_WRITE)?;
    write(last, 6);
    let lower = relocate(last, PAGE_SIZE, 2 << 20, 0)?;
    report.check("nothing grows out of the program's addresses", lower < last && read(lower) == 6);
    unmap(lower, 2 << 20)
}

/// A part of a window moves, what it allows goes with it, and the rest stays.
fn parted(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(4 * PAGE_SIZE, HERE, READ_WRITE)?;
    (0..4).for_each(|page| write(address + page * PAGE_SIZE, 10 + page));
    protect(address + PAGE_SIZE, PAGE_SIZE, Some(Access::READ))?;
    let to = relocate(address + PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, THERE)?;
    report.check("the page is there", read(to) == 11);
    report.check("it allows what it allowed", refuses_writing(to));
    let rest = [0, 2, 3].map(|page| read(address + page * PAGE_SIZE));
    report.check("the rest stays", rest == [10, 12, 13] && refuses_writing(address + PAGE_SIZE));
    let grown = relocate(address + 2 * PAGE_SIZE, PAGE_SIZE, 2 * PAGE_SIZE, 0);
    report.refused("a part that does not end with its window to grow", &[Occupied], grown);
    let together = relocate(address, 4 * PAGE_SIZE, 4 * PAGE_SIZE, THERE + (1 << 21));
    report.refused("a range with a hole", &[NotMapped], together);
    unmap(to, PAGE_SIZE)?;
    unmap(address, PAGE_SIZE)?;
    unmap(address + 2 * PAGE_SIZE, 2 * PAGE_SIZE)
}

/// A window onto an area that has a handle shows more of it, as far as it goes.
fn of_an_area(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(2 * PAGE_SIZE)?;
    let address = call::area_map(area, HERE, 0, PAGE_SIZE, READ_WRITE)?;
    let other = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE)?;
    write(other + PAGE_SIZE, 8);
    let address = relocate(address, PAGE_SIZE, 2 * PAGE_SIZE, 0)?;
    report.check("it shows more of its area", read(address + PAGE_SIZE) == 8);
    let more = relocate(address, 2 * PAGE_SIZE, 3 * PAGE_SIZE, 0);
    report.refused("more than its area has", &[OutOfBounds], more);
    let address = relocate(address, 2 * PAGE_SIZE, 2 * PAGE_SIZE, THERE)?;
    write(address, 9);
    report.check("it shows the same area", read(other) == 9);
    unmap(address, 2 * PAGE_SIZE)?;
    unmap(other, 2 * PAGE_SIZE)?;
    call::handle_close(area)
}

fn refused(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(2 * PAGE_SIZE, HERE, READ_WRITE)?;
    let other = call::area_create_and_map(PAGE_SIZE, HERE + 2 * PAGE_SIZE, READ_WRITE)?;
    write(address, 3);
    write(other, 4);
    let ask = |address, length, new_length, destination| {
        // SAFETY: the calls must be refused; a kernel that takes one has failed the check.
        decode_result(unsafe {
            call::raw(SystemCall::AreaMove.number(), [address, length, new_length, destination, 0, 0])
        })
    };
    let two = 2 * PAGE_SIZE;
    report.refused("no bytes", &[Empty], ask(address, 0, two, THERE));
    report.refused("to no bytes", &[Empty], ask(address, two, 0, THERE));
    report.refused("part of a page", &[Unaligned], ask(address, 100, two, THERE));
    report.refused("to part of a page", &[Unaligned], ask(address, two, 100, THERE));
    report.refused("from part of a page", &[Unaligned], ask(address + 8, two, two, THERE));
    report.refused("to an address in a page", &[Unaligned], ask(address, two, two, THERE + 8));
    report.refused("a length that wraps", &[BadRange], ask(address, u64::MAX - (PAGE_SIZE - 1), two, THERE));
    report.refused("more than an area may have", &[TooLarge], ask(address, two, AREA_SIZE_MAX + PAGE_SIZE, THERE));
    for foreign in [PAGE_SIZE, USER_END - PAGE_SIZE, USER_END, 1 << 47, 0xffff_8000_0000_0000] {
        report.refused("where programs may not", &[BadRange], ask(address, two, two, foreign));
    }
    report.refused("from the kernel's half", &[BadRange], ask(0xffff_8000_0000_0000, two, two, THERE));
    report.refused("what is not there", &[NotMapped], ask(THERE, two, two, THERE + (1 << 21)));
    report.refused("over another window", &[Occupied], ask(address, two, two, other - PAGE_SIZE));
    report.refused("over itself", &[Occupied], ask(address, two, two, address - PAGE_SIZE));
    report.refused("two windows", &[NotSupported], ask(address, 3 * PAGE_SIZE, 3 * PAGE_SIZE, THERE));
    report.refused("a handle's kind of number", &[NotMapped], ask(1 << 32, PAGE_SIZE, PAGE_SIZE, THERE));
    report.check("what was refused has changed nothing", read(address) == 3 && read(other) == 4);
    report.check("nothing is where it was not moved to", refuses_writing(THERE));
    unmap(address, two)?;
    unmap(other, PAGE_SIZE)
}

/// What is counted goes up with what happens, and with nothing else.
fn counted(report: &mut Report) {
    for number in [Count::ALL.len() as u64, u64::MAX] {
        // SAFETY: the call changes nothing.
        let result = decode_result(unsafe { call::raw(SystemCall::KernelCount.number(), [number, 0, 0, 0, 0, 0]) });
        report.refused("what is not counted", &[BadAccess], result);
    }
    let all = Count::ALL.map(call::kernel_count);
    report.check("everything is counted", all.iter().all(Result::is_ok));
    let size = 64 * PAGE_SIZE;
    let Some(address) = report.done("make an area", call::area_create_and_map(size, 0, READ_WRITE)) else { return };
    let before = call::kernel_count(Count::Faults);
    (0..64).for_each(|page| write(address + page * PAGE_SIZE, 1));
    let after = call::kernel_count(Count::Faults);
    // Other processes may be at work.
    report.check("a fault for each page", before.is_ok_and(|before| after.is_ok_and(|after| after - before >= 64)));
    report.done("unmap it", unmap(address, size));
    let before = call::kernel_count(Count::TimerInterrupts);
    report.done("sleep for two turns and more", call::thread_sleep(30_000));
    let after = call::kernel_count(Count::TimerInterrupts);
    report.check("the timer's interrupts", before.is_ok_and(|before| after.is_ok_and(|after| after > before)));
}
