//! Processes and threads: started, copied, ended and waited for.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::{
    ErrorCode, Handle, KILLED, NAME_LENGTH_MAX, PAGE_SIZE, SystemCall, call, decode_result, roles,
};
use roles::CheckRole;

use crate::READ_WRITE;
use crate::report::Report;

/// Bytes of the stack of a thread.
const STACK_SIZE: u64 = 16 * PAGE_SIZE;

/// Runs until it is ended from outside.
pub(crate) fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

extern "C" fn spin_in_thread(_: u64) -> ! {
    spin()
}

/// Makes a stack, and gives its end.
pub(crate) fn stack() -> Result<u64, ErrorCode> {
    let area = call::area_create(STACK_SIZE)?;
    let start = call::area_map(area, 0, 0, STACK_SIZE, READ_WRITE)?;
    call::handle_close(area)?;
    Ok(start + STACK_SIZE)
}

/// Starts `check` in another process and gives how it ended.
fn run(argument: u64) -> Result<u64, ErrorCode> {
    let process = call::process_start("check", argument)?;
    let ending = call::process_wait(process)?;
    call::handle_close(process)?;
    Ok(ending)
}

/// Starts and ends other processes, and asks for what must be refused.
pub(crate) fn processes(report: &mut Report) {
    let endings = [
        ("a process that exits with 0", CheckRole::LeaveEverything.number(), 0),
        ("a process that exits with another status", u64::MAX, 1),
        ("a process that panics", CheckRole::Panic.number(), 101),
        ("a process that the kernel ends", CheckRole::WriteText.number(), KILLED),
    ];
    for (what, argument, ending) in endings {
        let found = report.done(what, run(argument));
        report.check("it ended as it must", found == Some(ending));
    }

    if let Some(process) =
        report.done("start a process that goes on for ever", call::process_start("check", roles::SPIN))
    {
        report.done("sleep", call::thread_sleep(20_000));
        report.done("end it", call::process_kill(process));
        report.check("it was ended", call::process_wait(process) == Ok(KILLED));
        report.done("end it again", call::process_kill(process));
        let unit = |result: Result<(), ErrorCode>| result.map(|()| 0);
        let map = call::area_map(process, 0, 0, PAGE_SIZE, READ_WRITE);
        report.refused("map a process", &[ErrorCode::BadHandle], map);
        report.done("close its handle", call::handle_close(process));
        report.refused("end it by a closed handle", &[ErrorCode::BadHandle], unit(call::process_kill(process)));
        report.refused("wait by a closed handle", &[ErrorCode::BadHandle], call::process_wait(process));
    }
    if let Some(area) = report.done("make an area", call::area_create(PAGE_SIZE)) {
        report.refused("wait for an area", &[ErrorCode::BadHandle], call::process_wait(area));
        report.done("close it", call::handle_close(area));
    }

    let number = |handle: Result<Handle, ErrorCode>| handle.map(|handle| handle.0);
    report.refused("start nobody", &[ErrorCode::NoProgram], number(call::process_start("nobody", 0)));
    report.refused("start the program without a name", &[ErrorCode::NoProgram], number(call::process_start("", 0)));
    let start = |pointer: u64, length: u64| {
        // SAFETY: the call only reads the name.
        decode_result(unsafe { call::raw(SystemCall::ProcessStart.number(), [pointer, length, 0, 0, 0, 0]) })
    };
    let name = [b'a'; NAME_LENGTH_MAX as usize];
    let pointer = (&raw const name) as u64;
    report.refused("a name that is no program's", &[ErrorCode::NoProgram], start(pointer, NAME_LENGTH_MAX));
    report.refused("a name that is too long", &[ErrorCode::TooLarge], start(pointer, NAME_LENGTH_MAX + 1));
    report.refused("a name at no address", &[ErrorCode::BadPointer], start(16, 5));
    report.refused("a name in the kernel's half", &[ErrorCode::BadPointer], start(0xffff_ffff_8020_0000, 5));
    for (entry, stack) in [(0, pointer), (1 << 63, pointer), (pointer, 0), (pointer, u64::MAX)] {
        for call in [SystemCall::ThreadStart, SystemCall::ProcessClone] {
            // SAFETY: the calls are refused, or the check has failed.
            let result = decode_result(unsafe { call::raw(call.number(), [entry, stack, 0, 0, 0, 0]) });
            report.refused("a start outside of programs' addresses", &[ErrorCode::BadRange], result);
        }
    }
}

/// Changed on both sides after a copy.
static WORD: AtomicU64 = AtomicU64::new(1);
const WORDS: usize = 16 * 512;
static PAGES: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// What parent and copy tell each other, in a window that both have.
struct Shared {
    from_child: AtomicU64,
    from_parent: AtomicU64,
    handle: AtomicU64,
}

/// The copy: sees the memory as it was, changes its own, and is not reached by what the parent changes.
extern "C" fn child(shared: u64) -> ! {
    // SAFETY: the parent passed the address of the window, which stays.
    let shared = unsafe { &*(shared as *const Shared) };
    let mut right = WORD.load(Ordering::Relaxed) == 1;
    right &= (0..).zip(&PAGES).all(|(index, word)| word.load(Ordering::Relaxed) == index);
    WORD.store(2, Ordering::Relaxed);
    for word in PAGES.iter().step_by(1024) {
        word.store(7, Ordering::Relaxed);
    }
    // The handles are copied with their numbers.
    let area = Handle(shared.handle.load(Ordering::Relaxed));
    let again = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE);
    shared.from_child.store(2, Ordering::Release);
    while shared.from_parent.load(Ordering::Acquire) == 0 {
        let _ = call::thread_yield();
    }
    right &= WORD.load(Ordering::Relaxed) == 2 && again.is_ok();
    call::exit(if right { 7 } else { 8 })
}

/// A process and its copy share nothing but what is meant to be shared.
pub(crate) fn clones(report: &mut Report) {
    for (index, word) in (0..).zip(&PAGES) {
        word.store(index, Ordering::Relaxed);
    }
    let Some(area) = report.done("make an area", call::area_create(PAGE_SIZE)) else { return };
    let Some(address) = report.done("map it", call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)) else { return };
    // SAFETY: the window is a page of zeros, which is three words of zero, and stays.
    let shared = unsafe { &*(address as *const Shared) };
    shared.handle.store(area.0, Ordering::Relaxed);
    let Some(top) = report.done("make a stack", stack()) else { return };
    // SAFETY: the stack is the copy's: this process does not use it.
    let Some(process) = report.done("clone", unsafe { call::process_clone(child, top, address) }) else { return };
    while shared.from_child.load(Ordering::Acquire) == 0 {
        report_quietly(report, call::thread_yield());
    }
    report.check("the copy changed its own memory only", WORD.load(Ordering::Relaxed) == 1);
    let same = (0..).zip(&PAGES).all(|(index, word)| word.load(Ordering::Relaxed) == index);
    report.check("the copy changed its own pages only", same);
    WORD.store(3, Ordering::Relaxed);
    shared.from_parent.store(1, Ordering::Release);
    let ending = report.done("wait for the copy", call::process_wait(process));
    report.check("the copy saw what it had to", ending == Some(7));
    report.check("this process has its own word", WORD.load(Ordering::Relaxed) == 3);
    report.done("close the copy's handle", call::handle_close(process));
}

/// Notes a failure, and not each of many successes.
fn report_quietly(report: &mut Report, result: Result<(), ErrorCode>) {
    if result.is_err() {
        report.done("yield", result);
    }
}

const THREADS: u64 = 4;
const TURNS: u64 = 20_000;
static COUNTED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Counts, and keeps sums in SSE registers over many turns, which another thread must not change.
extern "C" fn count(number: u64) -> ! {
    let step = black_box(number as f64 + 0.5);
    let mut sum = black_box(0.0);
    for turn in 0..TURNS {
        COUNTED.fetch_add(1, Ordering::Relaxed);
        for _ in 0..20 {
            sum += step;
        }
        if turn % 1000 == 0 {
            let _ = call::thread_yield();
        }
    }
    if black_box(sum) != step * (TURNS * 20) as f64 {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
    DONE.fetch_add(1, Ordering::Release);
    call::thread_exit()
}

/// Several threads in one memory.
pub(crate) fn threads(report: &mut Report) {
    for number in 0..THREADS {
        let Some(top) = report.done("make a stack", stack()) else { return };
        // SAFETY: the stack is the thread's alone.
        report.done("start a thread", unsafe { call::thread_start(count, top, number) });
    }
    for _ in 0..100_000 {
        if DONE.load(Ordering::Acquire) == THREADS {
            break;
        }
        report_quietly(report, call::thread_sleep(1000));
    }
    report.check("every thread came to its end", DONE.load(Ordering::Acquire) == THREADS);
    report.check("no turn was lost", COUNTED.load(Ordering::Relaxed) == THREADS * TURNS);
    report.check("every thread had its own registers", WRONG.load(Ordering::Relaxed) == 0);
}

extern "C" fn offend(_: u64) -> ! {
    // SAFETY: the address is not mapped: the kernel ends the process.
    unsafe { (16 as *mut u64).write_volatile(1) };
    call::thread_exit()
}

/// One thread goes on for ever, one waits, and one makes a mistake: all of them are ended.
pub(crate) fn fault_in_thread(report: &mut Report) {
    for entry in [spin_in_thread as call::Entry, offend] {
        let Some(top) = report.done("make a stack", stack()) else { return };
        // SAFETY: the stack is the thread's alone.
        report.done("start a thread", unsafe { call::thread_start(entry, top, 0) });
    }
    report.done("sleep", call::thread_sleep(60_000_000));
    report.check("the process is ended", false);
}
