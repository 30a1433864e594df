//! Private memory, what windows allow, and advice about memory.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    AREA_SIZE_MAX, Access, Advice, ErrorCode, KILLED, PAGE_SIZE, Rights, SystemCall, USER_END, call, decode_result,
};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;

pub(crate) fn read(address: u64) -> u64 {
    // SAFETY: the callers read windows that allow it, and nothing else of the program uses them.
    unsafe { (address as *const u64).read_volatile() }
}

pub(crate) fn write(address: u64, value: u64) {
    // SAFETY: as for `read`.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Ends a window that the callers do not use any more.
pub(crate) fn unmap(address: u64, length: u64) -> Result<(), ErrorCode> {
    // SAFETY: the callers' promise.
    unsafe { call::area_unmap(address, length) }
}

/// Changes what a window allows that the callers use only so.
pub(crate) fn protect(address: u64, length: u64, access: Option<Access>) -> Result<(), ErrorCode> {
    // SAFETY: the callers' promise.
    unsafe { call::area_protect(address, length, access) }
}

fn advise(address: u64, length: u64, advice: Advice) -> Result<(), ErrorCode> {
    // SAFETY: the callers rely on nothing of what they say is not needed.
    unsafe { call::area_advise(address, length, advice) }
}

fn raw(call: SystemCall, arguments: [u64; 6]) -> Result<u64, ErrorCode> {
    // SAFETY: the callers pass what must be refused; a kernel that takes it has failed the check.
    decode_result(unsafe { call::raw(call.number(), arguments) })
}

pub(crate) fn check(report: &mut Report) {
    let outcome = private(report)
        .and_then(|()| refused_private(report))
        .and_then(|()| protected(report))
        .and_then(|()| enforced(report))
        .and_then(|()| refused_protection(report))
        .and_then(|()| advised(report));
    report.done("everything that was asked of windows", outcome);
}

extern "C" fn change(address: u64) -> ! {
    let right = read(address) == 1 && read(address + PAGE_SIZE) == 0;
    write(address, 2);
    call::exit(if right && read(address) == 2 { 0 } else { 1 })
}

/// Private memory is zero, this process's alone, and a copy's is a copy.
fn private(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(3 * PAGE_SIZE, 0, READ_WRITE)?;
    report.check("private memory is zero", (0..3).all(|page| read(address + page * PAGE_SIZE) == 0));
    write(address, 1);
    let top = stack()?;
    // SAFETY: the stack is the copy's.
    let process = unsafe { call::process_clone(change, top, address) }?;
    report.check("the copy found what was there", call::process_wait(process) == Ok(0));
    report.check("the copy changed its own", read(address) == 1);
    call::handle_close(process)?;
    unmap(address, 3 * PAGE_SIZE)?;
    let place = 0x6000_0000_0000;
    let there = call::area_create_and_map(PAGE_SIZE, place, Access::READ)?;
    report.check("it is where it was wanted", there == place && read(there) == 0);
    report.check("it stays private memory that may be written", protect(place, PAGE_SIZE, Some(READ_WRITE)).is_ok());
    write(place, 5);
    unmap(place, PAGE_SIZE)?;
    // More than would fit the machine if anything were kept.
    for _ in 0..200 {
        let address = call::area_create_and_map(1 << 22, 0, READ_WRITE)?;
        (0..1 << 22).step_by(1 << 18).for_each(|offset| write(address + offset, 1));
        unmap(address, 1 << 22)?;
    }
    Ok(())
}

fn refused_private(report: &mut Report) -> Result<(), ErrorCode> {
    let bits = READ_WRITE.bits();
    let make = |size, address, access| raw(SystemCall::AreaCreateAndMap, [size, address, access, 0, 0, 0]);
    report.refused("no bytes", &[Empty], make(0, 0, bits));
    report.refused("part of a page", &[Unaligned], make(100, 0, bits));
    report.refused("too much", &[TooLarge], make(AREA_SIZE_MAX + PAGE_SIZE, 0, bits));
    report.refused("part of a page as address", &[Unaligned], make(PAGE_SIZE, 0x6000_0000_0008, bits));
    for address in [PAGE_SIZE, USER_END, 1 << 47, 0xffff_8000_0000_0000, u64::MAX - (PAGE_SIZE - 1)] {
        report.refused("where programs may not", &[BadRange], make(PAGE_SIZE, address, bits));
    }
    for access in [0, 6, 7, 8, u64::MAX] {
        report.refused("a bad access", &[BadAccess], make(PAGE_SIZE, 0, access));
    }
    report.refused("to be executed", &[Denied], make(PAGE_SIZE, 0, (Access::READ | Access::EXECUTE).bits()));
    let text = refused_private as *const () as u64 & !(PAGE_SIZE - 1);
    report.refused("over the program", &[Occupied], make(PAGE_SIZE, text, bits));
    Ok(())
}

/// What is forbidden is kept, and what is allowed again is there.
fn protected(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(4 * PAGE_SIZE, 0, READ_WRITE)?;
    (0..4).for_each(|page| write(address + page * PAGE_SIZE, 10 + page));
    protect(address + PAGE_SIZE, 2 * PAGE_SIZE, None)?;
    report.check("the neighbours stay", read(address) == 10 && read(address + 3 * PAGE_SIZE) == 13);
    protect(address + PAGE_SIZE, PAGE_SIZE, Some(Access::READ))?;
    report.check("what was forbidden is kept", read(address + PAGE_SIZE) == 11);
    protect(address, 4 * PAGE_SIZE, Some(READ_WRITE))?;
    (0..4).for_each(|page| write(address + page * PAGE_SIZE + 8, page));
    let all = (0..4).all(|page| read(address + page * PAGE_SIZE) == 10 + page);
    report.check("everything is there and may be written", all);
    unmap(address, 4 * PAGE_SIZE)
}

extern "C" fn write_there(address: u64) -> ! {
    write(address, 1);
    call::exit(0)
}

extern "C" fn read_there(address: u64) -> ! {
    call::exit(read(address) as u32 & 1)
}

/// A copy that does what is forbidden is ended; one that does what is allowed is not.
fn enforced(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
    write(address, 4);
    let top = stack()?;
    let both = [write_there as call::Entry, read_there];
    for (access, endings) in [(None, [KILLED; 2]), (Some(Access::READ), [KILLED, 0]), (Some(READ_WRITE), [0; 2])] {
        protect(address, PAGE_SIZE, access)?;
        for (entry, ending) in both.into_iter().zip(endings) {
            // SAFETY: the stack is the copy's: one runs at a time.
            let process = unsafe { call::process_clone(entry, top, address) }?;
            report.check(
                "what is forbidden ends the process, nothing else does",
                call::process_wait(process) == Ok(ending),
            );
            call::handle_close(process)?;
        }
    }
    unmap(address, PAGE_SIZE)
}

fn refused_protection(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(2 * PAGE_SIZE, 0x6000_0000_0000, READ_WRITE)?;
    write(address, 3);
    for (call, good) in
        [(SystemCall::AreaProtect, Access::READ.bits()), (SystemCall::AreaAdvise, Advice::NotNeeded.number())]
    {
        let ask = |address, length, what| raw(call, [address, length, what, 0, 0, 0]);
        report.refused("no bytes", &[Empty], ask(address, 0, good));
        report.refused("part of a page", &[Unaligned], ask(address, 100, good));
        report.refused("at part of a page", &[Unaligned], ask(address + 8, PAGE_SIZE, good));
        report.refused("a length that wraps", &[BadRange], ask(address, u64::MAX - (PAGE_SIZE - 1), good));
        report.refused("the kernel's half", &[BadRange], ask(0xffff_8000_0000_0000, PAGE_SIZE, good));
        report.refused("where nothing is", &[NotMapped], ask(0x6100_0000_0000, PAGE_SIZE, good));
        report.refused("more than is mapped", &[NotMapped], ask(address, 3 * PAGE_SIZE, good));
        let foreign = if call == SystemCall::AreaProtect { [6, 7, 8] } else { [5, 6, u64::MAX] };
        for number in foreign {
            report.refused("what there is not", &[BadAccess], ask(address, PAGE_SIZE, number));
        }
    }
    // All or nothing: none of it was done.
    report.check("what was refused has changed nothing", read(address) == 3);
    write(address, 4);
    let page = |address: u64| address & !(PAGE_SIZE - 1);
    let text = page(refused_protection as *const () as u64);
    let raised = raw(SystemCall::AreaProtect, [text, PAGE_SIZE, READ_WRITE.bits(), 0, 0, 0]);
    report.refused("the program's text to be written", &[Sealed], raised);
    // What a handle without the right has mapped.
    let area = call::area_create(PAGE_SIZE)?;
    let reader = call::handle_duplicate(area, Rights::READ | Rights::MAP)?;
    let shown = call::area_map(reader, 0, 0, PAGE_SIZE, Access::READ)?;
    let raised = raw(SystemCall::AreaProtect, [shown, PAGE_SIZE, READ_WRITE.bits(), 0, 0, 0]);
    report.refused("to be written what is there to be read", &[Denied], raised);
    unmap(shown, PAGE_SIZE)?;
    call::handle_close(reader)?;
    call::handle_close(area)?;
    let executed = (Access::READ | Access::EXECUTE).bits();
    let data = raw(SystemCall::AreaProtect, [address, PAGE_SIZE, executed, 0, 0, 0]);
    report.refused("data to be executed", &[Denied], data);
    unmap(address, 2 * PAGE_SIZE)
}

fn advised(report: &mut Report) -> Result<(), ErrorCode> {
    let size = 8 * PAGE_SIZE;
    let address = call::area_create_and_map(size, 0, READ_WRITE)?;
    (0..8).for_each(|page| write(address + page * PAGE_SIZE, 1));
    advise(address + 2 * PAGE_SIZE, 3 * PAGE_SIZE, Advice::NotNeeded)?;
    let words = [0, 1, 2, 3, 4, 5, 6, 7].map(|page| read(address + page * PAGE_SIZE));
    report.check("what is not needed is zero, what is stays", words == [1, 1, 0, 0, 0, 1, 1, 1]);
    advise(address, size, Advice::Needed)?;
    advise(address + 5 * PAGE_SIZE, PAGE_SIZE, Advice::FreeLazily)?;
    let lazy = read(address + 5 * PAGE_SIZE);
    report.check("what is freed lazily is there or zero", lazy == 1 || lazy == 0);
    write(address + 5 * PAGE_SIZE, 9);
    report.check("what is written afterwards stays", read(address + 5 * PAGE_SIZE) == 9 && read(address) == 1);
    unmap(address, size)?;

    // An area that has a handle is somebody's.
    let area = call::area_create(PAGE_SIZE)?;
    let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    write(address, 6);
    advise(address, PAGE_SIZE, Advice::NotNeeded)?;
    report.check("the pages of an area with a handle stay", read(address) == 6);
    unmap(address, PAGE_SIZE)?;
    call::handle_close(area)?;

    let size = 1 << 22;
    for advice in [Advice::Huge, Advice::NeverHuge] {
        let address = call::area_create_and_map(size, 0x6000_0000_0000, READ_WRITE)?;
        advise(address, size, advice)?;
        (0..size).step_by(PAGE_SIZE as usize).for_each(|offset| write(address + offset, offset));
        let kept = (0..size).step_by(PAGE_SIZE as usize).all(|offset| read(address + offset) == offset);
        report.check("memory holds what was written, in large pages or small ones", kept);
        unmap(address, size)?;
    }
    Ok(())
}
