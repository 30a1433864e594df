//! Rings: memory that comes twice in a row, for buffers without a wrap.

use core::sync::atomic::{AtomicU32, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    AREA_SIZE_MAX, ErrorCode, FOREVER, KILLED, PAGE_SIZE, Rights, SystemCall, call, decode_result,
};

use crate::READ_WRITE;
use crate::handles::room;
use crate::life::stack;
use crate::report::Report;
use crate::windows::{protect, read, unmap, write};

/// Pages of the memory of most rings here.
const PAGES: u64 = 3;
const SIZE: u64 = PAGES * PAGE_SIZE;

pub(crate) fn check(report: &mut Report) {
    let before = room();
    let outcome = one_memory(report)
        .and_then(|()| parts_of_it(report))
        .and_then(|()| between_processes(report))
        .and_then(|()| refused(report))
        .and_then(|()| again_and_again());
    report.done("everything that was asked of rings", outcome);
    report.check("no handle is left behind", room() == before);
}

/// What is written at one place is read at the other one, also by one access that crosses from the first to the second.
fn one_memory(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create_ring(SIZE)?;
    let (kind, rights) = call::handle_inspect(area)?;
    report.check("a ring is an area", kind as u64 == refkernel_runtime::HandleKind::Area as u64);
    report.check("which is not resized", rights == Rights::GIVEN_AREA);
    let address = call::area_map(area, 0, 0, 2 * SIZE, READ_WRITE)?;
    call::handle_close(area)?;
    report.check("a ring reads as zero", (0..2 * PAGES).all(|page| read(address + page * PAGE_SIZE) == 0));
    (0..PAGES).for_each(|page| write(address + page * PAGE_SIZE, 10 + page));
    let seen = (0..PAGES).all(|page| read(address + SIZE + page * PAGE_SIZE) == 10 + page);
    report.check("the first half is seen in the second one", seen);
    (0..PAGES).for_each(|page| write(address + SIZE + page * PAGE_SIZE, 20 + page));
    report.check("and the second in the first", (0..PAGES).all(|page| read(address + page * PAGE_SIZE) == 20 + page));
    write(address + SIZE - 4, 0x1111_2222_3333_4444);
    report.check("a word across the end begins the memory", read(address) as u32 == 0x1111_2222);
    // Both places lose an access, each for itself.
    protect(address, SIZE, None)?;
    write(address + SIZE, 30);
    protect(address, SIZE, Some(READ_WRITE))?;
    report.check("what one place forbids the other one allows", read(address) == 30);
    unmap(address, 2 * SIZE)
}

/// A window of a part of it that crosses from one place to the other.
fn parts_of_it(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create_ring(SIZE)?;
    let part = call::area_map(area, 0, SIZE - PAGE_SIZE, 2 * PAGE_SIZE, READ_WRITE)?;
    let whole = call::area_map(area, 0, 0, 2 * SIZE, READ_WRITE)?;
    write(part, 1);
    write(part + PAGE_SIZE, 2);
    report.check("the last page, then the first", read(whole + SIZE - PAGE_SIZE) == 1 && read(whole) == 2);
    unmap(whole + SIZE, SIZE)?;
    report.check("one place unmapped leaves the other", read(whole) == 2);
    report.refused("beyond both places", &[OutOfBounds], call::area_map(area, 0, SIZE, SIZE + PAGE_SIZE, READ_WRITE));
    unmap(whole, SIZE)?;
    report.check("pages outlive windows", read(part) == 1);
    unmap(part, 2 * PAGE_SIZE)?;
    call::handle_close(area)
}

/// The word at an address that stays mapped.
fn word_at(address: u64) -> &'static AtomicU32 {
    // SAFETY: the callers map the address, to be written, and leave it so while they use the word.
    unsafe { &*(address as *const AtomicU32) }
}

extern "C" fn answer(address: u64) -> ! {
    write(address + SIZE + PAGE_SIZE, 77);
    // By the second place; it is woken by the first.
    let word = word_at(address + SIZE);
    while word.load(Ordering::Acquire) == 0 {
        let _ = call::address_wait(word, 0, FOREVER);
    }
    call::exit(if read(address + 2 * PAGE_SIZE) == 88 { 0 } else { 1 })
}

extern "C" fn beyond(address: u64) -> ! {
    write(address + 2 * SIZE, 1);
    call::exit(0)
}

/// A copy of the process has the same ring, and waits for a word in it wherever it looks at it.
fn between_processes(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create_ring(SIZE)?;
    let address = call::area_map(area, 0x6400_0000_0000, 0, 2 * SIZE, READ_WRITE)?;
    let top = stack()?;
    // SAFETY: the stack is the copy's.
    let process = unsafe { call::process_clone(answer, top, address)? };
    while read(address + PAGE_SIZE) != 77 {
        call::thread_yield()?;
    }
    write(address + SIZE + 2 * PAGE_SIZE, 88);
    call::thread_sleep(20_000)?;
    word_at(address).store(1, Ordering::Release);
    report.check("who waits at the one place is woken at the other", call::address_wake(word_at(address), 9)? <= 1);
    report.check("both have one memory", call::process_wait(process) == Ok(0));
    call::handle_close(process)?;
    // SAFETY: as above; the first copy is over.
    let process = unsafe { call::process_clone(beyond, top, address)? };
    report.check("nothing is behind the second place", call::process_wait(process) == Ok(KILLED));
    call::handle_close(process)?;
    unmap(address, 2 * SIZE)?;
    call::handle_close(area)
}

fn refused(report: &mut Report) -> Result<(), ErrorCode> {
    let make = |size| {
        // SAFETY: the calls are refused, or the check has failed.
        decode_result(unsafe { call::raw(SystemCall::AreaCreateRing.number(), [size, 0, 0, 0, 0, 0]) })
    };
    report.refused("no bytes", &[Empty], make(0));
    report.refused("part of a page", &[Unaligned], make(PAGE_SIZE + 8));
    report.refused("more than half of what an area may be", &[TooLarge], make(AREA_SIZE_MAX / 2 + PAGE_SIZE));
    report.refused("all that there is", &[TooLarge], make(u64::MAX - (PAGE_SIZE - 1)));
    let largest = call::area_create_ring(AREA_SIZE_MAX / 2)?;
    call::handle_close(largest)?;
    let area = call::area_create_ring(SIZE)?;
    for size in [PAGE_SIZE, SIZE, 2 * SIZE, 4 * SIZE] {
        // SAFETY: the call is refused, or the check has failed.
        let result = unsafe { call::area_resize(area, size) };
        report.refused("another size", &[Denied], result.map(|()| 0));
    }
    call::handle_close(area)
}

/// More than would fit the machine if anything were kept.
fn again_and_again() -> Result<(), ErrorCode> {
    const LARGE: u64 = 1 << 21;
    for _ in 0..200 {
        let area = call::area_create_ring(LARGE)?;
        let address = call::area_map(area, 0, 0, 2 * LARGE, READ_WRITE)?;
        call::handle_close(area)?;
        (0..2 * LARGE).step_by(3 * PAGE_SIZE as usize).for_each(|offset| write(address + offset, offset));
        unmap(address, 2 * LARGE)?;
    }
    Ok(())
}
