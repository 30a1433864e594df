//! System calls that must be refused: each with the error that says why, and none with a crash.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    AREA_SIZE_MAX, Access, ErrorCode, HANDLES_MAX, Handle, PAGE_SIZE, StartInformation, SystemCall, USER_END,
    USER_START, WRITE_LENGTH_MAX, call, console, decode_result,
};

use crate::READ_WRITE;
use crate::report::Report;

/// Addresses that are nobody's, whatever the length.
const FOREIGN: [u64; 9] = [
    0,
    0x10,
    USER_END,
    0x7fff_ffff_ffff,
    0x8000_0000_0000,
    0xffff_7fff_ffff_f000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    u64::MAX,
];

/// Where the kernel's half begins.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// Addresses that are not the program's: nobody's, and some that the kernel has mapped and uses.
fn foreign(start: &StartInformation) -> impl Iterator<Item = u64> {
    FOREIGN.into_iter().chain(start.kernel)
}

/// A text on a page of its own, so that the kernel may be the first to read it.
#[repr(C, align(4096))]
struct OwnPage([u8; 44]);
static UNTOUCHED: OwnPage = OwnPage(*b"check: this line lies on a page of its own.\n");

/// A call whose arguments must be refused, or lead to nothing that this program uses.
fn attempt(call: SystemCall, arguments: [u64; 6]) -> Result<u64, ErrorCode> {
    // SAFETY: every caller below passes arguments that must be refused; a kernel that takes them has failed the check, whatever
    // happens next.
    decode_result(unsafe { call::raw(call.number(), arguments) })
}

pub(crate) fn check(start: &StartInformation, report: &mut Report) {
    report.check("the kernel names addresses of its own", start.kernel.iter().all(|address| *address >= KERNEL_HALF));
    numbers(report);
    pointers(start, report);
    handles(report);
    let area = report.done("create an area", call::area_create(4 * PAGE_SIZE));
    if let Some(area) = area {
        sizes(area, report);
        ranges(area, start, report);
        report.done("close the area", call::handle_close(area));
    }
}

fn numbers(report: &mut Report) {
    let first_unknown = SystemCall::ALL.len() as u64;
    for number in [first_unknown, 255, 4096, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
        // SAFETY: no such call exists, so nothing may change.
        let result = decode_result(unsafe { call::raw(number, [u64::MAX; 6]) });
        report.refused("a system call number that does not exist", &[UnknownCall], result);
    }
    // A number of which only the low half is a call's.
    // SAFETY: as above.
    let result = decode_result(unsafe { call::raw((1 << 32) | SystemCall::Null.number(), [0; 6]) });
    report.refused("a number whose low half is a call's", &[UnknownCall], result);
}

fn pointers(start: &StartInformation, report: &mut Report) {
    for pointer in foreign(start) {
        for length in [1, 64, WRITE_LENGTH_MAX] {
            let result = attempt(SystemCall::Write, [console().0, pointer, length, 0, 0, 0]);
            report.refused("write from memory that is not the program's", &[BadPointer], result);
        }
    }
    let text = b"text".as_ptr() as u64;
    for length in [WRITE_LENGTH_MAX + 1, 1 << 32, 1 << 63, u64::MAX] {
        let result = attempt(SystemCall::Write, [console().0, text, length, 0, 0, 0]);
        report.refused("write of too many bytes", &[TooLarge], result);
    }
    report.check("write of nothing sends nothing", call::write(b"") == Ok(0));
    report
        .check("write from a page that was not touched yet", call::write(&UNTOUCHED.0) == Ok(UNTOUCHED.0.len() as u64));

    // Two pages, of which the second goes: a range that crosses is refused, one that ends at the border is not.
    let Some(area) = report.done("create an area", call::area_create(2 * PAGE_SIZE)) else {
        return;
    };
    let mapped = call::area_map(area, 0, 0, 2 * PAGE_SIZE, READ_WRITE);
    if let Some(address) = report.done("map it", mapped) {
        let border = address + PAGE_SIZE;
        // SAFETY: nothing uses the page.
        report.done("unmap its second page", unsafe { call::area_unmap(border, PAGE_SIZE) });
        // SAFETY: the first page is still mapped, and nothing else uses it.
        unsafe { ((border - 1) as *mut u8).write_volatile(b'\n') };
        let result = attempt(SystemCall::Write, [console().0, border - 1, 2, 0, 0, 0]);
        report.refused("write from a range that ends unmapped", &[BadPointer], result);
        let result = attempt(SystemCall::Write, [console().0, border - 1, 1, 0, 0, 0]);
        report.check("write from a range that ends at the border", result == Ok(1));
        // SAFETY: nothing uses the page any more.
        report.done("unmap its first page", unsafe { call::area_unmap(address, PAGE_SIZE) });
    }
    report.done("close it", call::handle_close(area));
}

fn handles(report: &mut Report) {
    let closed = call::area_create(PAGE_SIZE).and_then(|handle| {
        call::handle_close(handle)?;
        Ok(handle.0)
    });
    let Some(closed) = report.done("create and close an area", closed) else {
        return;
    };
    for handle in [closed, 0, 0xffff, 1 << 32, 1 << 63, u64::MAX] {
        let map = [handle, 0, 0, PAGE_SIZE, READ_WRITE.bits(), 0];
        let what = "a handle that does not exist";
        report.refused(what, &[BadHandle], attempt(SystemCall::AreaMap, map));
        let resize = [handle, PAGE_SIZE, 0, 0, 0, 0];
        report.refused(what, &[BadHandle], attempt(SystemCall::AreaResize, resize));
        let close = [handle, 0, 0, 0, 0, 0];
        report.refused(what, &[BadHandle], attempt(SystemCall::HandleClose, close));
    }

    // As many as there may be, and one more.
    let mut kept = [Handle::NONE; HANDLES_MAX + 1];
    let mut last = Ok(());
    for place in &mut kept {
        match call::area_create(PAGE_SIZE) {
            Ok(handle) => *place = handle,
            Err(error) => {
                last = Err(error);
                break;
            }
        }
    }
    report.check("handles run out with the right error", last == Err(TooManyHandles));
    let mut open = kept.iter().copied().filter(|handle| handle.is_some());
    report.check("every handle is given back", open.all(|handle| call::handle_close(handle).is_ok()));
    let again = call::area_create(PAGE_SIZE).and_then(call::handle_close);
    report.done("a handle is to be had again", again);
}

fn sizes(area: Handle, report: &mut Report) {
    let refused: [(&str, u64, &[ErrorCode]); 6] = [
        ("a size of 0", 0, &[Empty]),
        ("a size that is no whole page", 1, &[Unaligned]),
        ("a size one byte short of a page", PAGE_SIZE - 1, &[Unaligned]),
        ("a size above the limit", AREA_SIZE_MAX + PAGE_SIZE, &[TooLarge]),
        ("the largest page count", u64::MAX - (PAGE_SIZE - 1), &[TooLarge]),
        ("the largest size", u64::MAX, &[TooLarge, Unaligned]),
    ];
    for (what, size, errors) in refused {
        report.refused(what, errors, attempt(SystemCall::AreaCreate, [size, 0, 0, 0, 0, 0]));
        if size != 0 {
            let resize = [area.0, size, 0, 0, 0, 0];
            report.refused(what, errors, attempt(SystemCall::AreaResize, resize));
        }
    }
}

fn ranges(area: Handle, start: &StartInformation, report: &mut Report) {
    let bits = READ_WRITE.bits();
    let map =
        |address, offset, length, access| attempt(SystemCall::AreaMap, [area.0, address, offset, length, access, 0]);
    let unmap = |address, length| attempt(SystemCall::AreaUnmap, [address, length, 0, 0, 0, 0]);
    let free = 0x7000_0000_0000;

    report.refused("map of no bytes", &[Empty], map(0, 0, 0, bits));
    report.refused("map of part of a page", &[Unaligned], map(0, 0, 100, bits));
    report.refused("map at part of a page", &[Unaligned], map(free + 8, 0, PAGE_SIZE, bits));
    report.refused("map from part of a page", &[Unaligned], map(0, 8, PAGE_SIZE, bits));
    report.refused("map of more than the area", &[OutOfBounds], map(0, 0, 5 * PAGE_SIZE, bits));
    report.refused("map from the area's end", &[OutOfBounds], map(0, 4 * PAGE_SIZE, PAGE_SIZE, bits));
    let last_page = u64::MAX - (PAGE_SIZE - 1);
    let wraps = [OutOfBounds, BadRange];
    report.refused("map of an offset that wraps", &wraps, map(0, last_page, 2 * PAGE_SIZE, bits));
    report.refused("map of a length that wraps", &wraps, map(free, 0, last_page, bits));
    for access in [0, 8, 1 << 63, u64::MAX, 6, 7] {
        report.refused("map with a bad access", &[BadAccess], map(0, 0, PAGE_SIZE, access));
    }
    let executable = (Access::READ | Access::EXECUTE).bits();
    report.refused("map of data to be executed", &[Denied], map(0, 0, PAGE_SIZE, executable));

    let page = |address: u64| address & !(PAGE_SIZE - 1);
    for foreign in foreign(start).map(page) {
        if foreign != 0 {
            let what = "map where programs may not";
            report.refused(what, &[BadRange], map(foreign, 0, PAGE_SIZE, bits));
        }
        let what = "unmap where programs may not";
        report.refused(what, &[BadRange], unmap(foreign, PAGE_SIZE));
    }
    for address in [USER_START - PAGE_SIZE, USER_END - PAGE_SIZE] {
        let what = "map across a border of the program's range";
        report.refused(what, &[BadRange], map(address, 0, 2 * PAGE_SIZE, bits));
    }
    report.refused("unmap of no bytes", &[Empty], unmap(free, 0));
    report.refused("unmap of part of a page", &[Unaligned], unmap(free, 100));
    report.refused("unmap at part of a page", &[Unaligned], unmap(free + 8, PAGE_SIZE));
    report.refused("unmap of a length that wraps", &[BadRange], unmap(free, last_page));
    report.refused("unmap of everything", &[BadRange], unmap(USER_START, 1 << 63));

    // Never over something else: this program's own text.
    let text = page(ranges as *const () as u64);
    report.refused("map over the program", &[Occupied], map(text, 0, PAGE_SIZE, bits));
    if let Some(address) = report.done("map at a chosen address", map(free, 0, 2 * PAGE_SIZE, bits)) {
        report.check("it is there", address == free);
        let overlapping = map(free + PAGE_SIZE, 0, 2 * PAGE_SIZE, bits);
        report.refused("map over half of a window", &[Occupied], overlapping);
        // SAFETY: nothing uses the window.
        report.done("unmap it", unsafe { call::area_unmap(free, 2 * PAGE_SIZE) });
    }
    let read_only = map(free, 0, PAGE_SIZE, Access::READ.bits());
    if report.done("map the same place again", read_only).is_some() {
        // SAFETY: nothing uses the window.
        report.done("unmap it again", unsafe { call::area_unmap(free, PAGE_SIZE) });
    }
}
