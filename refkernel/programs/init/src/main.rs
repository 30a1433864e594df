//! The first process: the kernel gives it the log, a part of the screen and the right to device memory; it starts the others with what each of them needs, waits for them, and says
//! how each has ended.
//!
//! | it starts | with | which must |
//! |---|---|---|
//! | `ring` | the log | exit with 0 |
//! | `draw` | the log and the part of the screen | exit with 0 after some pictures |
//! | `demo`, first | the log and the part of the screen | exit with 0 |
//! | `demo`, second | the log | be killed for a bad access |
//! | `draw`, where somebody watches | the log and the part of the screen | go on until it is ended |
//!
//! Nobody is handed device memory: `demo` shows that it is denied it.
//!
//! The picture of memory shows the spaces of both instances of `demo`, which stay as long as this process has handles of them. So it tells the kernel when they are there and waits until the
//! picture is drawn, by a page that the kernel has handed over ([`roles::INIT_READY`](refkernel_runtime::roles::INIT_READY)).

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::screen::Screen;
use refkernel_runtime::{
    Access, ErrorCode, Handle, KILLED, PAGE_SIZE, StartInformation, call, program, program_status,
    roles::{DEMO_BAD_ACCESS, DEMO_WORKS, INIT_DRAWN, INIT_READY, INIT_WATCHED},
    say,
};

program!(main);

/// MiB that `ring` moves.
const RING_MIB: u64 = 2;
/// Pictures of `draw` where nobody watches.
const PICTURES: u16 = 5;

/// Microseconds between two looks at the page.
const LOOK: u64 = 2_000;

/// What went wrong.
enum Failure {
    Refused(&'static str, ErrorCode),
    Ended(&'static str),
}

fn main(start: &StartInformation) -> u32 {
    let watched = start.argument == INIT_WATCHED;
    match run(start, watched) {
        Ok(()) => program_status::SUCCESS,
        Err(Failure::Refused(what, error)) => {
            say!("init: the kernel refused to {what}: {error}");
            program_status::FAILURE
        }
        Err(Failure::Ended(name)) => {
            say!("init: {name} has ended as it must not");
            program_status::FAILURE
        }
    }
}

fn run(start: &StartInformation, watched: bool) -> Result<(), Failure> {
    let screen = Screen::given(start);
    let has = |it: bool| if it { "" } else { "no " };
    say!(
        "init: the first process; was handed the log, {}part of the screen, {}right to device memory",
        has(screen.is_some()),
        has(start.physical.is_some())
    );
    finish("ring", call::process_start("ring", RING_MIB), 0)?;
    finish("draw", with_screen(screen, "draw", PICTURES), 0)?;
    let works = ends("demo", with_screen(screen, "demo", DEMO_WORKS as u16), 0)?;
    let killed = ends("demo", call::process_start("demo", DEMO_BAD_ACCESS), KILLED)?;
    picture(start)?;
    for process in [works, killed] {
        call::handle_close(process).map_err(|error| Failure::Refused("close a process's handle", error))?;
    }
    if watched && screen.is_some() {
        say!("init: draw goes on until it is ended");
        let process = with_screen(screen, "draw", 0).map_err(|error| Failure::Refused("start draw", error))?;
        call::process_wait(process).map_err(|error| Failure::Refused("wait for draw", error))?;
    }
    say!("init: every program has ended as it had to");
    Ok(())
}

/// Starts a program with the part of the screen, if there is one.
fn with_screen(screen: Option<Screen>, name: &str, argument: u16) -> Result<Handle, ErrorCode> {
    match screen {
        Some(screen) => screen.start(name, argument),
        None => call::process_start(name, argument.into()),
    }
}

/// Waits for a process that was started, and says how it ended, which must be so. Gives its handle, which keeps what is left of it.
fn ends(name: &'static str, started: Result<Handle, ErrorCode>, must: u64) -> Result<Handle, Failure> {
    let process = started.map_err(|error| Failure::Refused(name_of_start(name), error))?;
    let ending = call::process_wait(process).map_err(|error| Failure::Refused("wait for a process", error))?;
    match ending {
        KILLED => say!("init: {name} was killed{}", if must == KILLED { ", as it had to be" } else { "" }),
        status => say!("init: {name} exited with {status}"),
    }
    if ending == must { Ok(process) } else { Err(Failure::Ended(name)) }
}

fn name_of_start(name: &str) -> &'static str {
    match name {
        "ring" => "start ring",
        "draw" => "start draw",
        _ => "start demo",
    }
}

/// The same, of a process that nothing has to be left of.
fn finish(name: &'static str, started: Result<Handle, ErrorCode>, must: u64) -> Result<(), Failure> {
    let process = ends(name, started, must)?;
    call::handle_close(process).map_err(|error| Failure::Refused("close a process's handle", error))
}

/// Has the kernel draw the picture of memory, if it has handed over the page for that.
fn picture(start: &StartInformation) -> Result<(), Failure> {
    if !start.area.is_some() {
        return Ok(());
    }
    let address = call::area_map(start.area, 0, 0, PAGE_SIZE, Access::READ_WRITE);
    let address = address.map_err(|error| Failure::Refused("map the kernel's page", error))?;
    // SAFETY: the page is mapped to be read and written as long as this process lives, and any bytes are a word; the kernel writes it as a whole.
    let word = unsafe { &*(address as *const AtomicU64) };
    word.store(INIT_READY, Ordering::SeqCst);
    while word.load(Ordering::SeqCst) != INIT_DRAWN {
        call::thread_sleep(LOOK).map_err(|error| Failure::Refused("sleep", error))?;
    }
    Ok(())
}
