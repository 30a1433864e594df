//! Channels between threads and processes that wait: what is sent goes straight to them, whatever happens meanwhile.

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    Access, ErrorCode, FOREVER, Handle, KILLED, MESSAGE_HANDLES_MAX, MESSAGE_LENGTH_MAX, PAGE_SIZE, Rights,
    StartInformation, SystemCall, call, decode_result,
};

use crate::READ_WRITE;
use crate::channels::{buffer, fill, holds};
use crate::handles::room;
use crate::life::stack;
use crate::report::Report;

/// Longer than anything takes here, in microseconds.
const LONG: u64 = 30_000_000;

/// What a process says of what it was started with.
pub(crate) struct Introduction {
    /// How many handles.
    pub(crate) given: u64,
    /// Bits for what else it has: the console, device memory, a screen, an area.
    pub(crate) others: u64,
    /// The rights of the second handle.
    pub(crate) rights: u64,
    /// The first word of the area behind it.
    pub(crate) word: u64,
    /// The error of mapping that to be written.
    pub(crate) refused: u64,
}

impl Introduction {
    pub(crate) fn receive(end: Handle) -> Result<Self, ErrorCode> {
        let mut bytes = [0; 40];
        call::channel_receive(end, &mut bytes, &mut [], LONG)?;
        let (words, _) = bytes.as_chunks::<8>();
        let [given, others, rights, word, refused] = core::array::from_fn(|index| u64::from_le_bytes(words[index]));
        Ok(Self { given, others, rights, word, refused })
    }
}

/// The part of a process that was started with an end of a channel: says what it has, then echoes until the channel is closed.
pub(crate) fn echo(start: &StartInformation) -> u32 {
    let [end, second, ..] = start.handles;
    let others = [start.console, start.physical, start.framebuffer, start.area];
    let bits = others.iter().rev().fold(0, |bits, handle| bits << 1 | u64::from(handle.is_some()));
    let mut words = [start.handles.iter().filter(|handle| handle.is_some()).count() as u64, bits, 0, 0, 0];
    if let Ok((_, rights)) = call::handle_inspect(second) {
        words[2] = rights.bits();
    }
    if let Ok(address) = call::area_map(second, 0, 0, PAGE_SIZE, Access::READ) {
        // SAFETY: the window was just made.
        words[3] = unsafe { (address as *const u64).read_volatile() };
    }
    words[4] = call::area_map(second, 0, 0, PAGE_SIZE, READ_WRITE).map_or_else(|error| error.number().into(), |_| 0);
    let mut bytes = [0; 40];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    if call::channel_send(end, &bytes, &[]).is_err() {
        return 1;
    }
    match answer(end) {
        Closed => 0,
        _ => 2,
    }
}

/// Echoes until there is an error, which it gives.
fn answer(end: Handle) -> ErrorCode {
    let Ok(message) = buffer() else { return OutOfMemory };
    let mut handles = [Handle::NONE; MESSAGE_HANDLES_MAX];
    loop {
        let echoed = call::channel_receive(end, &mut message[..MESSAGE_LENGTH_MAX as usize], &mut handles, FOREVER)
            .and_then(|(length, count)| call::channel_send(end, &message[..length], &handles[..count]));
        if let Err(error) = echoed {
            return error;
        }
    }
}

pub(crate) fn check(report: &mut Report) {
    let before = room();
    let outcome = echoes_of_a_thread(report)
        .and_then(|()| echoes_of_a_process(report))
        .and_then(|()| closing_wakes(report))
        .and_then(|()| ended_while_it_waits(report))
        .and_then(|()| who_is_to_blame(report))
        .and_then(|()| several_wait(report));
    report.done("everything that was asked between processes", outcome);
    report.check("no handle is left behind", room() == before);
}

extern "C" fn answer_in_thread(end: u64) -> ! {
    let error = answer(Handle(end));
    DONE.store(error.number().into(), Ordering::Release);
    call::thread_exit()
}

/// What a thread came to: an error's number, or a value beyond those.
static DONE: AtomicU64 = AtomicU64::new(0);

/// Waits for what a thread comes to.
fn done() -> Result<u64, ErrorCode> {
    for _ in 0..LONG / 1000 {
        let done = DONE.swap(0, Ordering::Acquire);
        if done != 0 {
            return Ok(done);
        }
        call::thread_sleep(1000)?;
    }
    Ok(0)
}

fn start(entry: call::Entry, argument: u64) -> Result<(), ErrorCode> {
    let top = stack()?;
    // SAFETY: the stack is the thread's alone.
    unsafe { call::thread_start(entry, top, argument) }
}

/// Sends messages of many lengths, with handles, and compares what comes back.
fn exchange(end: Handle, rounds: usize, report: &mut Report) -> Result<(), ErrorCode> {
    let (from, to) = (buffer()?, buffer()?);
    let area = call::area_create(PAGE_SIZE)?;
    let mut handle = call::handle_duplicate(area, Rights::SHARE | Rights::READ)?;
    for round in 0..rounds {
        let length = (round * 1237) % (MESSAGE_LENGTH_MAX as usize + 1);
        let offset = (round * 61) % PAGE_SIZE as usize;
        let message = &mut from[offset..offset + length];
        fill(message, round);
        let handles = [handle];
        let carried = round % 3 == 0;
        call::channel_send(end, message, if carried { &handles } else { &[] })?;
        to.fill(0xee);
        let mut received = [Handle::NONE; 2];
        let answer = call::channel_receive(end, &mut to[..MESSAGE_LENGTH_MAX as usize], &mut received, LONG);
        report.check("what comes back is as long", answer == Ok((length, usize::from(carried))));
        report.check("it is the same", holds(&to[..length], round));
        report.check("and no more", to[length..].iter().all(|byte| *byte == 0xee));
        if carried {
            report.check("the handle has another number", received[0] != handle && received[1] == Handle::NONE);
            handle = received[0];
        }
        if round % 5 == 0 {
            // So that the other one surely waits.
            call::thread_sleep(2000)?;
        }
    }
    for slice in [from, to] {
        // SAFETY: neither is used any more.
        unsafe { call::area_unmap(slice.as_ptr() as u64, slice.len() as u64)? };
    }
    call::handle_close(handle)?;
    call::handle_close(area)
}

fn echoes_of_a_thread(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    start(answer_in_thread, two.0)?;
    exchange(one, 40, report)?;
    call::handle_close(one)?;
    report.check("closing the channel ends the echo", done()? == Closed.number().into());
    call::handle_close(two)
}

fn echoes_of_a_process(report: &mut Report) -> Result<(), ErrorCode> {
    let [here, there] = call::channel_create()?;
    let process = call::process_start_with("check", refkernel_runtime::roles::ECHO, &[there])?;
    Introduction::receive(here)?;
    exchange(here, 40, report)?;
    call::handle_close(here)?;
    report.check("closing the channel ends the process", call::process_wait(process) == Ok(0));
    call::handle_close(process)
}

extern "C" fn receive_in_thread(end: u64) -> ! {
    let result = call::channel_receive(Handle(end), &mut [0; 8], &mut [], FOREVER);
    DONE.store(
        result.map_or_else(|error| error.number().into(), |(length, _)| 1000 + length as u64),
        Ordering::Release,
    );
    call::thread_exit()
}

/// Whoever waits is told when the other end is closed, or its own.
fn closing_wakes(report: &mut Report) -> Result<(), ErrorCode> {
    for own in [false, true] {
        let [one, two] = call::channel_create()?;
        start(receive_in_thread, two.0)?;
        call::thread_sleep(20_000)?;
        let (first, second) = if own { (two, one) } else { (one, two) };
        call::handle_close(first)?;
        report.check("closing an end wakes who waits", done()? == Closed.number().into());
        call::handle_close(second)?;
    }
    Ok(())
}

extern "C" fn wait_in_process(ends: u64) -> ! {
    // SAFETY: the parent passes the address of two handles, which the copy has.
    let [one, two] = unsafe { *(ends as *const [Handle; 2]) };
    let _ = call::handle_close(one);
    let _ = call::channel_receive(two, &mut [0; 8], &mut [], FOREVER);
    call::exit(1)
}

/// A process that is ended while it waits leaves the channel, and its end is closed.
fn ended_while_it_waits(report: &mut Report) -> Result<(), ErrorCode> {
    for wait in [0, 20_000] {
        let ends = call::channel_create()?;
        let [one, two] = ends;
        let top = stack()?;
        // SAFETY: the stack is the copy's.
        let process = unsafe { call::process_clone(wait_in_process, top, (&raw const ends) as u64)? };
        call::thread_sleep(wait)?;
        call::handle_close(two)?;
        call::process_kill(process)?;
        report.check("it is ended", call::process_wait(process) == Ok(KILLED));
        report.check("its end is closed", call::channel_send(one, b"", &[]) == Err(Closed));
        call::handle_close(one)?;
        call::handle_close(process)?;
    }
    Ok(())
}

extern "C" fn receive_badly(end: u64) -> ! {
    let arguments = [end, 0x6123_4567_8000, 8, 0, 0, FOREVER];
    // SAFETY: the call is refused.
    let result = decode_result(unsafe { call::raw(SystemCall::ChannelReceive.number(), arguments) });
    DONE.store(result.map_or_else(|error| error.number().into(), |length| 1000 + length), Ordering::Release);
    call::thread_exit()
}

/// Whose memory it is that cannot be copied is the one that is told so.
fn who_is_to_blame(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    start(receive_in_thread, two.0)?;
    call::thread_sleep(20_000)?;
    let area = call::area_create(PAGE_SIZE)?;
    let arguments = [one.0, 0x6123_4567_8000, 8, (&raw const area) as u64, 1, 0];
    for _ in 0..3 {
        // SAFETY: the call is refused.
        let result = decode_result(unsafe {
            call::raw(SystemCall::ChannelSend.number(), [one.0, 0x6123_4567_8000, 8, 0, 0, 0])
        });
        report.refused("a message at no address, to one who waits", &[BadPointer], result);
    }
    call::channel_send(one, b"good", &[])?;
    report.check("who waits gets the next one", done()? == 1004);
    // No room for its handle: the receiver's to be told, too, and the message stays.
    start(receive_in_thread, two.0)?;
    call::thread_sleep(20_000)?;
    // SAFETY: the call is refused, or the check has failed.
    let result = decode_result(unsafe { call::raw(SystemCall::ChannelSend.number(), arguments) });
    report.check("a bad message with a handle, to one who waits without room for it", result == Err(BadPointer));
    report.check("the handle is where it was", call::handle_inspect(area).is_ok());
    let first = done()?;
    report.check("the receiver is told that it has too little room", first == BufferTooSmall.number().into());
    start(receive_badly, two.0)?;
    call::thread_sleep(20_000)?;
    call::channel_send(one, b"still", &[])?;
    report.check("who waits with a bad address is told so", done()? == BadPointer.number().into());
    let mut bytes = [0; 8];
    report.check("and the message is there", call::channel_receive(two, &mut bytes, &mut [], 0) == Ok((5, 0)));
    for handle in [one, two, area] {
        call::handle_close(handle)?;
    }
    Ok(())
}

static RECEIVED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_in_thread(end: u64) -> ! {
    while call::channel_receive(Handle(end), &mut [0; 8], &mut [], FOREVER).is_ok() {
        RECEIVED.fetch_add(1, Ordering::Relaxed);
    }
    DONE.fetch_add(1, Ordering::Release);
    call::thread_exit()
}

/// Several wait at one end, and several send: each message is received once.
fn several_wait(report: &mut Report) -> Result<(), ErrorCode> {
    const MESSAGES: u64 = 200;
    const THREADS: u64 = 3;
    let [one, two] = call::channel_create()?;
    for _ in 0..THREADS {
        start(count_in_thread, two.0)?;
    }
    let mut sent = 0;
    while sent < MESSAGES {
        match call::channel_send(one, &sent.to_le_bytes(), &[]) {
            Ok(()) => sent += 1,
            Err(QueueFull) => call::thread_yield()?,
            Err(error) => return Err(error),
        }
    }
    call::handle_close(one)?;
    for _ in 0..LONG / 1000 {
        if DONE.load(Ordering::Acquire) == THREADS {
            break;
        }
        call::thread_sleep(1000)?;
    }
    report.check("everybody is told of the end", DONE.swap(0, Ordering::Acquire) == THREADS);
    report.check("each message is received once", RECEIVED.load(Ordering::Relaxed) == MESSAGES);
    call::handle_close(two)
}
