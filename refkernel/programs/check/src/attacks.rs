//! The program's half of the table of attacks: each is made so that it would work if nothing stood against it, and says so if it does.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::attacks::{Attack, WORKED};
use refkernel_runtime::{
    Access, Advice, Caching, ErrorCode, PAGE_SIZE, StartInformation, USER_END, call, program_status, say,
};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;
use crate::windows::{protect, read, write};

const RETURN: u8 = 0xc3;
/// Code in writable static data.
static mut DATA: [u8; 16] = [RETURN; 16];
/// What is left in memory, and looked for.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;
/// Pages that are left so.
const SECRET_PAGES: u64 = 256;

/// Makes an attack, and gives the status to exit with.
pub(crate) fn make(attack: Attack, start: &StartInformation) -> u32 {
    match worked(attack, start) {
        Ok(true) => WORKED,
        Ok(false) => program_status::SUCCESS,
        Err(error) => {
            say!("check: {attack:?} could not be tried: {error}");
            program_status::FAILURE
        }
    }
}

/// Tries it. Where it is held by the end of the program this does not come back.
fn worked(attack: Attack, start: &StartInformation) -> Result<bool, ErrorCode> {
    let [kernel, ..] = start.kernel;
    match attack {
        Attack::ExecuteData => {
            // There, so that only what it allows stands against it.
            touch((&raw mut DATA) as u64);
            execute((&raw mut DATA) as u64);
        }
        Attack::ExecuteStack => {
            let mut code = [RETURN; 16];
            execute(black_box(&raw mut code) as u64);
        }
        Attack::ExecuteArea => {
            let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
            write(address, u64::from_ne_bytes([RETURN; 8]));
            execute(address);
        }
        Attack::WriteText => {
            let text = execute as *const () as u64;
            // Brought first: of what is not there the window is asked, not its entry.
            black_box(read(text & !7));
            touch(text);
        }
        Attack::ReadKernel => {
            black_box(read(kernel));
        }
        Attack::WriteKernel => write(kernel, SECRET),
        Attack::ExecuteKernel => execute(kernel),
        Attack::StoreDescriptorTable => {
            let mut table = [0_u8; 10];
            // SAFETY: the ten bytes are the instruction's to write.
            unsafe { asm!("sgdt [{table}]", table = in(reg) &raw mut table) };
            black_box(table);
        }
        Attack::OverflowStack => return overflow_stack(),
        Attack::LeaveSecrets => {
            let address = call::area_create_and_map(SECRET_PAGES * PAGE_SIZE, 0, READ_WRITE)?;
            (0..SECRET_PAGES * PAGE_SIZE).step_by(8).for_each(|offset| write(address + offset, SECRET));
            return Ok(false);
        }
        Attack::FindSecrets => return find_secrets(),
        Attack::PointToKernel => return point_to_kernel(kernel),
        Attack::PointToReadOnly => return point_to_read_only(),
        Attack::ReadRevoked => return revoked(false),
        Attack::WriteRevoked => return revoked(true),
        Attack::ChangeSealed => return change_sealed(),
        Attack::MapTwice => return map_twice(start),
        Attack::GuessWindow => return guess_window(),
        Attack::GuessStack => return guess_stack(),
        Attack::EveryArgument => {
            let mut report = Report::new("every argument");
            crate::arguments::check(start, &mut report);
            return if report.status() == program_status::SUCCESS { Ok(false) } else { Err(NotSupported) };
        }
    }
    Ok(true)
}

/// Calls a `ret`.
fn execute(address: u64) {
    // SAFETY: if it is executed it comes back at once and changes nothing; else the program ends.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) };
}

/// Writes to a byte what it holds.
fn touch(address: u64) {
    // SAFETY: nothing is changed by it, whatever the byte is; or the program ends.
    unsafe { asm!("lock or byte ptr [{address}], 0", address = in(reg) address, options(nostack)) };
}

/// A window right below the stack, and more pushed than the stack has room for.
fn overflow_stack() -> Result<bool, ErrorCode> {
    const NEIGHBOUR: u64 = 16 * PAGE_SIZE;
    let mark = 0_u8;
    let here = black_box(&raw const mark) as u64 & !(PAGE_SIZE - 1);
    // The first place that is free below the stack: what lies between is the stack's window.
    let mut neighbour = here - NEIGHBOUR;
    loop {
        match call::area_create_and_map(NEIGHBOUR, neighbour, READ_WRITE) {
            Ok(_) => break,
            Err(Occupied) => neighbour -= PAGE_SIZE,
            Err(error) => return Err(error),
        }
    }
    let end = neighbour + NEIGHBOUR;
    write(end - 8, SECRET);
    // A frame as large as what is left of the stack, its guard passed over page by page as a compiler's probes would.
    let mut page = here;
    while page >= end {
        write(page - 8, 0);
        page -= PAGE_SIZE;
    }
    Ok(read(end - 8) != SECRET)
}

fn find_secrets() -> Result<bool, ErrorCode> {
    let pages = 2 * SECRET_PAGES;
    let address = call::area_create_and_map(pages * PAGE_SIZE, 0, READ_WRITE)?;
    let mut found = false;
    for page in (0..pages).map(|page| address + page * PAGE_SIZE) {
        // Only what is written to is a page of its own.
        write(page, 1);
        found |= (8..PAGE_SIZE).step_by(8).any(|offset| read(page + offset) != 0);
    }
    Ok(found)
}

fn point_to_kernel(kernel: u64) -> Result<bool, ErrorCode> {
    let [one, two] = call::channel_create()?;
    let mut bytes = [0; 16];
    // SAFETY: never read by the program: it is the kernel that is asked to.
    let text = unsafe { core::slice::from_raw_parts(kernel as *const u8, 16) };
    match call::channel_send(one, text, &[]) {
        Ok(()) => Ok(call::channel_receive(two, &mut bytes, &mut [], 0)? == (16, 0)),
        Err(BadPointer) => Ok(false),
        Err(error) => Err(error),
    }
}

fn point_to_read_only() -> Result<bool, ErrorCode> {
    let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
    write(address, SECRET);
    protect(address, PAGE_SIZE, Some(Access::READ))?;
    let [one, two] = call::channel_create()?;
    call::channel_send(one, b"overwrit", &[])?;
    // SAFETY: it is the kernel that is asked to write there; the page is nothing that the program relies on.
    let page = unsafe { core::slice::from_raw_parts_mut(address as *mut u8, 8) };
    // It is there, so that only the processor's own check stands against the write.
    black_box(read(address));
    match call::channel_receive(two, page, &mut [], 0) {
        Ok(_) => Ok(read(address) != SECRET),
        Err(BadPointer) if read(address) == SECRET => Ok(false),
        Err(error) => Err(error),
    }
}

static PLACE: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Uses the page as fast as it can.
extern "C" fn hammer(writes: u64) -> ! {
    let place = PLACE.load(Ordering::Relaxed);
    BEGUN.store(true, Ordering::Relaxed);
    loop {
        if writes != 0 {
            write(place, SECRET);
        } else {
            black_box(read(place));
        }
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Revokes a page that another thread uses. Where that thread goes on using it, it works.
fn revoked(writes: bool) -> Result<bool, ErrorCode> {
    /// Uses behind the end of the call that can only be new ones.
    const LATE: u64 = 1000;
    // The area keeps the page, so that what is read late is nobody else's.
    let area = call::area_create(PAGE_SIZE)?;
    let place = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
    write(place, SECRET);
    PLACE.store(place, Ordering::Relaxed);
    let top = stack()?;
    // SAFETY: the stack is the thread's.
    unsafe { call::thread_start(hammer, top, u64::from(writes))? };
    while !BEGUN.load(Ordering::Relaxed) || COUNT.load(Ordering::Relaxed) < LATE {
        core::hint::spin_loop();
    }
    // SAFETY: the other thread must bear with it.
    unsafe {
        if writes {
            call::area_protect(place, PAGE_SIZE, Some(Access::READ))?;
        } else {
            call::area_unmap(place, PAGE_SIZE)?;
        }
    }
    let then = COUNT.load(Ordering::Relaxed);
    // This ends by the end of the process, or else the other thread goes on.
    while COUNT.load(Ordering::Relaxed) < then + LATE {
        core::hint::spin_loop();
    }
    Ok(true)
}

fn change_sealed() -> Result<bool, ErrorCode> {
    let address = call::area_create_and_map(4 * PAGE_SIZE, 0, READ_WRITE)?;
    write(address + PAGE_SIZE, SECRET);
    let inside = address + PAGE_SIZE;
    protect(inside, PAGE_SIZE, Some(Access::READ))?;
    call::area_seal(inside, PAGE_SIZE)?;
    let mut attempts = [Err(Sealed); 4];
    // SAFETY: nothing of the program relies on the window.
    unsafe {
        attempts[0] = call::area_protect(inside, PAGE_SIZE, Some(READ_WRITE));
        attempts[1] = call::area_protect(address, 4 * PAGE_SIZE, None);
        attempts[2] = call::area_advise(inside, PAGE_SIZE, Advice::NotNeeded);
        attempts[3] = call::area_unmap(address, 4 * PAGE_SIZE);
    }
    if attempts == [Err(Sealed); 4] {
        return if read(inside) == SECRET { Ok(false) } else { Err(NotSupported) };
    }
    Ok(attempts.iter().all(Result::is_ok))
}

/// A window's address is known without asking where windows go to the lowest gap, above 4 GiB.
fn guess_window() -> Result<bool, ErrorCode> {
    const GUESS: u64 = 1 << 32;
    let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE)?;
    write(GUESS, SECRET);
    Ok(read(address) == SECRET)
}

/// A stack's where it lies at the end of the addresses: in its lowest page, which is not in use.
fn guess_stack() -> Result<bool, ErrorCode> {
    let guess = USER_END - 65 * PAGE_SIZE;
    write(guess, SECRET);
    let here = black_box(&raw const guess) as u64;
    Ok(here - guess < 64 * PAGE_SIZE)
}

fn map_twice(start: &StartInformation) -> Result<bool, ErrorCode> {
    // It is told where the screen's memory is: each loader leaves it in another place.
    let [screen, ..] = start.kernel;
    match call::physical_area(start.physical, screen, PAGE_SIZE, Caching::Uncached) {
        Ok(area) => Ok(call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE).is_ok()),
        Err(NotSupported | Denied | BadRange) => Ok(false),
        Err(error) => Err(error),
    }
}
