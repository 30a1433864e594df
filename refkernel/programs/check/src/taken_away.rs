//! Calls of every kind while the kernel's memory is taken away and given back: each is done, or refused for want of memory, and then nothing has changed.
//!
//! What the program touches itself may kill it: then there was no memory for a page of its own. It asks for little, and looks at what it has.

use refkernel_runtime::ErrorCode::{self, *};
use refkernel_runtime::{Advice, Handle, KILLED, PAGE_SIZE, Rights, StartInformation, call, roles};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;

/// How often everything is asked for.
const ROUNDS: u64 = 80;

/// What a call that finds no memory may say: of threads and processes, also that there is no place for one more.
fn is_refusal(error: ErrorCode) -> bool {
    matches!(error, OutOfMemory | TooMany | Retry)
}

/// Notes what a call came to: done, or refused for want of memory.
fn tried<T>(report: &mut Report, what: &str, result: Result<T, ErrorCode>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if is_refusal(error) => None,
        Err(error) => report.done(what, Err(error)),
    }
}

extern "C" fn end_at_once(_: u64) -> ! {
    call::thread_exit()
}

extern "C" fn exit_at_once(_: u64) -> ! {
    call::exit(9)
}

/// `touch`: it uses what it gets. In the first word of the area that it was handed it says how many rounds it has made.
pub(crate) fn check(start: &StartInformation, touch: bool, report: &mut Report) {
    let shown = report.done("map the area", call::area_map(start.area, 0, 0, PAGE_SIZE, READ_WRITE));
    let Some(rounds) = shown.map(|address| address as *mut u64) else { return };
    let Some(stacks) = report.done("make stacks", stack().and_then(|one| Ok([one, stack()?]))) else { return };
    for round in 0..ROUNDS {
        areas(round, touch, report);
        windows(round, touch, report);
        channels(report);
        processes(round, stacks, report);
        // SAFETY: the window is this function's alone; who else has the area only reads it.
        unsafe { rounds.write_volatile(round + 1) };
        let _ = call::thread_sleep(2000);
    }
    report.check("it is there still", true);
}

/// Areas of both kinds: made, mapped, written, resized, unmapped.
fn areas(round: u64, touch: bool, report: &mut Report) {
    const SIZE: u64 = 16 * PAGE_SIZE;
    let swappable = round.is_multiple_of(2);
    let made = if swappable { call::area_create_swappable(SIZE) } else { call::area_create(SIZE) };
    let Some(area) = tried(report, "make an area", made) else { return };
    if let Some(address) = tried(report, "map it", call::area_map(area, 0, 0, SIZE, READ_WRITE)) {
        let word = |page: u64| (address + page * PAGE_SIZE) as *mut u64;
        for page in (0..4).filter(|_| touch) {
            // SAFETY: the window is this function's alone.
            unsafe { word(page).write_volatile(round << 8 | page) };
        }
        // SAFETY: what is used from here on stays.
        let cut = tried(report, "cut it", unsafe { call::area_resize(area, 2 * PAGE_SIZE) });
        // SAFETY: as above.
        let grown = tried(report, "grow it", unsafe { call::area_resize(area, SIZE) });
        let cut = cut.is_some() && grown.is_some();
        // SAFETY: the window is this function's alone, and shows the page.
        let holds = |page: u64| unsafe { word(page).read_volatile() };
        report.check("what was written is there", !touch || (0..2).all(|page| holds(page) == round << 8 | page));
        report.check("what was cut off is not", !touch || !cut || (2..4).all(|page| holds(page) == 0));
        // SAFETY: nobody uses the window any more.
        let unmapped = tried(report, "unmap it", unsafe { call::area_unmap(address, SIZE) });
        if unmapped.is_none() {
            // It needs no memory for this, once somebody has given some back.
            let _ = call::thread_sleep(1000);
            // SAFETY: as above.
            tried(report, "unmap it again", unsafe { call::area_unmap(address, SIZE) });
        }
    }
    tried(report, "duplicate its handle", call::handle_duplicate(area, Rights::READ))
        .map(|handle| report.done("close that", call::handle_close(handle)));
    report.done("close it", call::handle_close(area));
}

/// Private memory: protected, advised, in parts.
fn windows(round: u64, touch: bool, report: &mut Report) {
    const SIZE: u64 = 8 * PAGE_SIZE;
    let made = call::area_create_and_map(SIZE, 0, READ_WRITE);
    let Some(address) = tried(report, "make private memory", made) else { return };
    let word = address as *mut u64;
    if touch {
        // SAFETY: the memory is this function's alone.
        unsafe { word.write_volatile(round) };
    }
    // SAFETY: as above; what is protected is not written.
    unsafe {
        tried(report, "protect it", call::area_protect(address + PAGE_SIZE, PAGE_SIZE, None));
        tried(
            report,
            "say that a part is not needed",
            call::area_advise(address + 4 * PAGE_SIZE, PAGE_SIZE, Advice::NotNeeded),
        );
        tried(report, "make a hole", call::area_unmap(address + 6 * PAGE_SIZE, PAGE_SIZE));
        report.check("it is as it was", !touch || word.read_volatile() == round);
        if tried(report, "unmap it", call::area_unmap(address, SIZE)).is_none() {
            let _ = call::thread_sleep(1000);
            tried(report, "unmap it again", call::area_unmap(address, SIZE));
        }
    }
}

fn channels(report: &mut Report) {
    let Some([one, two]) = tried(report, "make a channel", call::channel_create()) else { return };
    let sent = tried(report, "send", call::channel_send(one, b"message", &[]));
    let mut into = [0; 16];
    match call::channel_receive(two, &mut into, &mut [], 0) {
        Ok((length, 0)) => report.check("it is whole", sent.is_some() && &into[..length] == b"message"),
        Ok(_) => report.check("it has no handle", false),
        Err(TimedOut) => report.check("nothing came that was not sent", sent.is_none()),
        Err(error) => {
            tried::<()>(report, "receive", Err(error));
        }
    }
    for end in [one, two] {
        report.done("close an end", call::handle_close(end));
    }
}

/// Threads, copies and other programs; any of them may find no memory for its first page.
fn processes(round: u64, [top, copys]: [u64; 2], report: &mut Report) {
    if round.is_multiple_of(2) {
        // SAFETY: threads end at once, and nobody asks for one sooner than two rounds later; what they do with a stack needs none of the other's.
        tried(report, "start a thread", unsafe { call::thread_start(end_at_once, top, 0) });
    }
    if round % 4 == 1 {
        // SAFETY: the stack is the copies' alone.
        let process = tried(report, "clone", unsafe { call::process_clone(exit_at_once, copys, 0) });
        ends(report, process, 9);
    }
    if round % 16 == roles::TAKEN_AWAY_FIRST_ROUNDS - 1 {
        let process = call::process_start_with("check", roles::CheckRole::Panic.number(), &[]);
        let process = tried(report, "start a program", process);
        ends(report, process, refkernel_runtime::program_status::PANIC.into());
    }
}

/// A process ends as it is meant to, or was killed for want of memory.
fn ends(report: &mut Report, process: Option<Handle>, status: u64) {
    let Some(process) = process else { return };
    let ending = call::process_wait(process);
    report.check("it ended as it should, or for want of memory", ending == Ok(status) || ending == Ok(KILLED));
    report.done("close its handle", call::handle_close(process));
}
