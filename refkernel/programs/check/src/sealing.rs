//! Windows that are sealed: nothing about them changes any more, and everything about their neighbours may.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{Access, Advice, ErrorCode, PAGE_SIZE, call};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;
use crate::windows::{protect, read, unmap, write};

pub(crate) fn check(report: &mut Report) {
    let outcome = parts(report).and_then(|()| program(report)).and_then(|()| areas(report));
    report.done("everything that was asked of sealed windows", outcome);
}

/// A copy of the process that has to find the window at this address sealed, and ends well if it does.
extern "C" fn find_sealed(address: u64) -> ! {
    let sealed = unmap(address, PAGE_SIZE) == Err(Sealed) && protect(address, PAGE_SIZE, None) == Err(Sealed);
    call::exit(u32::from(!(sealed && read(address) == 12)))
}

/// A part of a window is sealed, the rest is not.
fn parts(report: &mut Report) -> Result<(), ErrorCode> {
    let address = call::area_create_and_map(4 * PAGE_SIZE, 0, READ_WRITE)?;
    (0..4).for_each(|page| write(address + page * PAGE_SIZE, 10 + page));
    let (inside, behind) = (address + 2 * PAGE_SIZE, address + 3 * PAGE_SIZE);
    report.check("nothing is sealed where a part is missing", call::area_seal(behind, 2 * PAGE_SIZE) == Err(NotMapped));
    protect(behind, PAGE_SIZE, Some(Access::READ))?;
    protect(behind, PAGE_SIZE, Some(READ_WRITE))?;
    call::area_seal(inside, PAGE_SIZE)?;
    report.check("sealing twice changes nothing", call::area_seal(inside, PAGE_SIZE) == Ok(()));
    for (place, length) in [(inside, PAGE_SIZE), (address, 4 * PAGE_SIZE), (inside, 2 * PAGE_SIZE)] {
        report.check("it is not unmapped", unmap(place, length) == Err(Sealed));
        for access in [None, Some(Access::READ), Some(READ_WRITE)] {
            report.check("it is not protected", protect(place, length, access) == Err(Sealed));
        }
        for advice in [Advice::NotNeeded, Advice::FreeLazily] {
            // SAFETY: what is asked for is refused, or the check has failed.
            let given_up = unsafe { call::area_advise(place, length, advice) };
            report.check("it is not given up", given_up == Err(Sealed));
        }
        let over = call::area_create_and_map(length, place, READ_WRITE);
        report.check("nothing is mapped over it", over == Err(Occupied));
    }
    let kept = (0..4).all(|page| read(address + page * PAGE_SIZE) == 10 + page);
    report.check("what was refused has changed nothing, neither there nor beside it", kept);
    write(inside + 8, 1);
    report.check("it is written to as before", read(inside + 8) == 1);
    let top = stack()?;
    // SAFETY: the stack is the copy's.
    let copy = unsafe { call::process_clone(find_sealed, top, inside) }?;
    report.check("a copy of the process has it sealed as well", call::process_wait(copy) == Ok(0));
    call::handle_close(copy)?;
    protect(behind, PAGE_SIZE, None)?;
    unmap(behind, PAGE_SIZE)?;
    unmap(address, 2 * PAGE_SIZE)?;
    report.check("its neighbours have gone, and it has not", read(inside) == 12);
    Ok(())
}

/// What the program came with: text and constants are sealed by who loaded it.
fn program(report: &mut Report) -> Result<(), ErrorCode> {
    let page = |address: u64| address & !(PAGE_SIZE - 1);
    static CONSTANT: [u64; 2] = [5; 2];
    for place in [page(program as *const () as u64), page((&raw const CONSTANT) as u64)] {
        report.check("it is not unmapped", unmap(place, PAGE_SIZE) == Err(Sealed));
        report.check("it is not written", protect(place, PAGE_SIZE, Some(READ_WRITE)) == Err(Sealed));
        report.check("it is not hidden", protect(place, PAGE_SIZE, None) == Err(Sealed));
    }
    Ok(())
}

/// Sealed is the window, and not the area behind it.
fn areas(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(2 * PAGE_SIZE)?;
    let sealed = call::area_map(area, 0, 0, 2 * PAGE_SIZE, Access::READ)?;
    let other = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE)?;
    call::area_seal(sealed, 2 * PAGE_SIZE)?;
    write(other, 7);
    report.check("another window of the area shows the same memory", read(sealed) == 7);
    unmap(other, 2 * PAGE_SIZE)?;
    // SAFETY: nothing uses the second page.
    unsafe { call::area_resize(area, PAGE_SIZE)? };
    report.check("what is left of the area is there", read(sealed) == 7);
    call::handle_close(area)?;
    report.check("also without a handle", read(sealed) == 7);
    Ok(())
}
