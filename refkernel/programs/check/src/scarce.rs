//! Messages when memory runs out: each is sent as a whole or not at all, and who waits goes on waiting.
//!
//! The program must take no page itself once memory is short, so everything is done once before: what it touches is there from then on.

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    ErrorCode, FOREVER, Handle, MESSAGE_HANDLES_MAX, MESSAGE_LENGTH_MAX, PAGE_SIZE, QUEUE_LENGTH_MAX, Rights, call,
};

use crate::READ_WRITE;
use crate::channels::{buffer, fill, holds};
use crate::life::stack;
use crate::report::Report;

const LENGTH: usize = MESSAGE_LENGTH_MAX as usize;
/// More than there is memory for.
const CHANNELS: usize = 10;

pub(crate) fn check(report: &mut Report) {
    let outcome = run(report);
    report.done("everything that was asked without memory", outcome);
}

/// What the thread came to: 1 for what it had to receive.
static DONE: AtomicU64 = AtomicU64::new(0);

extern "C" fn receive(end: u64) -> ! {
    // Its buffer is not touched before: the message is the first that needs its pages.
    let address = call::area_create_and_map(MESSAGE_LENGTH_MAX, 0, READ_WRITE).unwrap_or(0);
    // SAFETY: the memory was just made, is zero, and stays; nothing else knows it.
    let bytes = unsafe { core::slice::from_raw_parts_mut(address as *mut u8, LENGTH) };
    DONE.store(2, Ordering::Release);
    let received = call::channel_receive(Handle(end), bytes, &mut [], FOREVER);
    DONE.store(if received == Ok((LENGTH, 0)) && holds(bytes, 77) { 1 } else { 3 }, Ordering::Release);
    call::thread_exit()
}

/// Sends messages of a length, each with a handle, until it is refused; gives how many went out.
fn send(end: Handle, message: &[u8], most: usize, area: Handle, report: &mut Report) -> (usize, Result<(), ErrorCode>) {
    for count in 0..most {
        let handle = match call::handle_duplicate(area, Rights::SHARE) {
            Ok(handle) => handle,
            Err(error) => return (count, Err(error)),
        };
        if let Err(error) = call::channel_send(end, message, &[handle]) {
            report.check("what was not sent is where it was", call::handle_close(handle) == Ok(()));
            return (count, Err(error));
        }
    }
    (most, Ok(()))
}

/// Receives all that is there, and looks at it; gives how many there were.
fn receive_all(end: Handle, into: &mut [u8], report: &mut Report) -> usize {
    let mut handles = [Handle::NONE; MESSAGE_HANDLES_MAX];
    let mut count = 0;
    while let Ok((length, carried)) = call::channel_receive(end, into, &mut handles, 0) {
        report.check(
            "a message is whole",
            carried == 1 && (length == 0 || length == LENGTH) && holds(&into[..length], 5),
        );
        report.check("its handle is there", call::handle_close(handles[0]) == Ok(()));
        count += 1;
    }
    count
}

fn run(report: &mut Report) -> Result<(), ErrorCode> {
    let area = call::area_create(PAGE_SIZE)?;
    let (message, into) = (buffer()?, buffer()?);
    let (message, into) = (&mut message[..LENGTH], &mut into[..LENGTH]);
    fill(message, 5);
    into.fill(1);
    let [one, two] = call::channel_create()?;
    let mut channels = [[Handle::NONE; 2]; CHANNELS];
    for channel in &mut channels {
        *channel = call::channel_create()?;
    }
    // Once, so that everything is there.
    let [first, last] = channels[0];
    let (sent, full) = send(first, message, QUEUE_LENGTH_MAX + 1, area, report);
    report.check("the queue is full at some time", sent == QUEUE_LENGTH_MAX && full == Err(QueueFull));
    let emptied = receive_all(last, into, report);
    report.check("and is emptied", emptied == sent);

    let top = stack()?;
    // SAFETY: the stack is the thread's alone.
    unsafe { call::thread_start(receive, top, two.0)? };
    while DONE.load(Ordering::Acquire) == 0 {
        call::thread_sleep(1000)?;
    }
    call::thread_sleep(20_000)?;

    let mut out = [0; CHANNELS];
    let mut end = Ok(());
    for length in [LENGTH, 0] {
        for ([from, _], out) in channels.iter().zip(&mut out) {
            let (count, result) = send(*from, &message[..length], QUEUE_LENGTH_MAX, area, report);
            *out += count;
            if result != Err(QueueFull) && result.is_err() {
                end = result;
                break;
            }
        }
        report.check("memory is used up", end == Err(OutOfMemory));
    }
    fill(message, 77);
    let straight = call::channel_send(one, message, &[]);
    report.check("there is no memory where a message would go", straight == Err(OutOfMemory));
    report.check("who waits goes on waiting", DONE.load(Ordering::Acquire) == 2);
    for ([_, to], out) in channels.iter().zip(out) {
        let came = receive_all(*to, into, report);
        report.check("everything that went out comes in", came == out);
    }
    report.check("now there is", call::channel_send(one, message, &[]) == Ok(()));
    for _ in 0..10_000 {
        if DONE.load(Ordering::Acquire) != 2 {
            break;
        }
        call::thread_sleep(1000)?;
    }
    report.check("who waited has received it", DONE.load(Ordering::Acquire) == 1);
    Ok(())
}
