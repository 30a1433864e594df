//! Channels within one process: order, bounds, handles on their way, and what must be refused.

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    Access, ErrorCode, HANDLES_MAX, Handle, HandleKind, MESSAGE_HANDLES_MAX, MESSAGE_LENGTH_MAX, PAGE_SIZE,
    QUEUE_LENGTH_MAX, Rights, call,
};

use crate::READ_WRITE;
use crate::handles::room;
use crate::report::Report;

const LENGTH_MAX: usize = MESSAGE_LENGTH_MAX as usize;

/// A byte of a message that no neighbour, and no other message, has at the same place.
pub(crate) fn pattern(seed: usize, index: usize) -> u8 {
    (seed.wrapping_mul(97) ^ index.wrapping_mul(31) ^ index >> 8) as u8
}

/// Fills a message.
pub(crate) fn fill(bytes: &mut [u8], seed: usize) {
    bytes.iter_mut().enumerate().for_each(|(index, byte)| *byte = pattern(seed, index));
}

/// Whether a message is the one that was filled so.
pub(crate) fn holds(bytes: &[u8], seed: usize) -> bool {
    bytes.iter().enumerate().all(|(index, byte)| *byte == pattern(seed, index))
}

/// Memory for the longest message.
pub(crate) fn buffer() -> Result<&'static mut [u8], ErrorCode> {
    let address = call::area_create_and_map(MESSAGE_LENGTH_MAX + PAGE_SIZE, 0, READ_WRITE)?;
    // SAFETY: the memory was just made, is zero, and stays; nothing else knows it.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, LENGTH_MAX + PAGE_SIZE as usize) })
}

pub(crate) fn check(report: &mut Report) {
    let before = room();
    let outcome = bytes(report)
        .and_then(|()| order_and_bounds(report))
        .and_then(|()| handles_move(report))
        .and_then(|()| handles_that_stay(report))
        .and_then(|()| what_does_not_fit_stays(report))
        .and_then(|()| ends_on_their_way(report))
        .and_then(|()| closing(report))
        .and_then(|()| rights(report));
    report.done("everything that was asked of channels", outcome);
    report.check("no handle is left behind", room() == before);
}

fn close(handles: &[Handle]) -> Result<(), ErrorCode> {
    handles.iter().try_for_each(|handle| call::handle_close(*handle))
}

fn unit<T>(result: Result<T, ErrorCode>) -> Result<u64, ErrorCode> {
    result.map(|_| 0)
}

/// Messages of every kind of length, from and to every kind of place.
fn bytes(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let (from, to) = (buffer()?, buffer()?);
    for (seed, length) in [0, 1, 7, 8, 9, 4095, 4096, 4097, 8192, LENGTH_MAX - 1, LENGTH_MAX].into_iter().enumerate() {
        for offset in [0, 1, 4090] {
            let message = &mut from[offset..offset + length];
            fill(message, seed);
            call::channel_send(one, message, &[])?;
            to.fill(0xee);
            let place = &mut to[4095 - offset % 4095..];
            let received = call::channel_receive(two, &mut place[..length], &mut [], 0);
            report.check("a message has its length", received == Ok((length, 0)));
            report.check("a message has its bytes", holds(&place[..length], seed));
            report.check("and no more", place[length..].iter().all(|byte| *byte == 0xee));
        }
    }
    let long = &from[..LENGTH_MAX + 1];
    report.refused("a message that is too long", &[TooLarge], unit(call::channel_send(one, long, &[])));
    let many = [Handle::NONE; MESSAGE_HANDLES_MAX + 1];
    report.refused("too many handles", &[TooLarge], unit(call::channel_send(one, &[], &many)));
    for slice in [from, to] {
        // SAFETY: neither is used any more.
        unsafe { call::area_unmap(slice.as_ptr() as u64, slice.len() as u64)? };
    }
    close(&[one, two])
}

fn order_and_bounds(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    report.check("there is nothing at first", call::channel_receive(two, &mut [], &mut [], 0) == Err(TimedOut));
    report.check("nor after a while", call::channel_receive(two, &mut [], &mut [], 20_000) == Err(TimedOut));
    for round in 0..3 {
        for number in 0..QUEUE_LENGTH_MAX as u8 {
            call::channel_send(one, &[round, number], &[])?;
        }
        report.refused("one more than there is room for", &[QueueFull], unit(call::channel_send(one, &[], &[])));
        call::channel_send(two, b"back", &[])?;
        for number in 0..QUEUE_LENGTH_MAX as u8 {
            let mut message = [0; 2];
            let received = call::channel_receive(two, &mut message, &mut [], 0);
            report.check("messages come in order", received == Ok((2, 0)) && message == [round, number]);
        }
        let mut message = [0; 4];
        let received = call::channel_receive(one, &mut message, &mut [], 0);
        report.check("both ways", received == Ok((4, 0)) && message == *b"back");
    }
    close(&[one, two])
}

/// A handle that is sent is the receiver's, with its rights.
fn handles_move(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let area = call::area_create(PAGE_SIZE)?;
    let rights = [Rights::SHARE, Rights::SHARE | Rights::READ | Rights::MAP, Rights::OWN_AREA];
    let mut handles = [Handle::NONE; 3];
    for (handle, rights) in handles.iter_mut().zip(rights) {
        *handle = call::handle_duplicate(area, rights)?;
    }
    call::channel_send(one, b"three", &handles)?;
    for handle in handles {
        report.check("what was sent is gone here", call::handle_inspect(handle) == Err(BadHandle));
    }
    let mut received = [Handle::NONE; MESSAGE_HANDLES_MAX];
    report.check("they come with the message", call::channel_receive(two, &mut [0; 5], &mut received, 0) == Ok((5, 3)));
    for (handle, rights) in received.into_iter().zip(rights) {
        report.check("with their rights", call::handle_inspect(handle) == Ok((HandleKind::Area, rights)));
        report.check("and other numbers", !handles.contains(&handle));
    }
    let address = call::area_map(received[2], 0, 0, PAGE_SIZE, READ_WRITE)?;
    let other = call::area_map(area, 0, 0, PAGE_SIZE, Access::READ)?;
    // SAFETY: both windows show the area, which nothing else uses.
    let same = unsafe {
        (address as *mut u64).write_volatile(11);
        (other as *const u64).read_volatile() == 11
    };
    report.check("it is the same area", same);
    for address in [address, other] {
        // SAFETY: the windows are not used any more.
        unsafe { call::area_unmap(address, PAGE_SIZE)? };
    }
    close(&received[..3])?;
    close(&[area, one, two])
}

/// A send that is refused has moved nothing.
fn handles_that_stay(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let area = call::area_create(PAGE_SIZE)?;
    let bound = call::handle_duplicate(area, Rights::READ)?;
    let before = room();
    let refused: [(&str, &[Handle], ErrorCode); 4] = [
        ("a handle twice", &[area, area], BadHandle),
        ("a handle that there is not", &[area, Handle(1 << 50)], BadHandle),
        ("no handle", &[area, Handle::NONE], BadHandle),
        ("a handle that may not be shared", &[area, bound], Denied),
    ];
    for (what, handles, error) in refused {
        report.refused(what, &[error], unit(call::channel_send(one, b"x", handles)));
    }
    for _ in 0..QUEUE_LENGTH_MAX {
        call::channel_send(one, b"", &[])?;
    }
    report.refused("no room", &[QueueFull], unit(call::channel_send(one, b"", &[area])));
    // SAFETY: the call reads nothing that there is.
    let bad = unsafe {
        call::raw(refkernel_runtime::SystemCall::ChannelSend.number(), [two.0, 16, 8, (&raw const area) as u64, 1, 0])
    };
    report.refused("bytes at no address", &[BadPointer], refkernel_runtime::decode_result(bad));
    report.check("the handle is where it was", call::handle_inspect(area) == Ok((HandleKind::Area, Rights::OWN_AREA)));
    report.check("and no place is lost", room() == before);
    close(&[area, bound, two])?;
    report.refused("nobody to send to", &[Closed], unit(call::channel_send(one, b"", &[])));
    close(&[one])
}

fn what_does_not_fit_stays(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let area = call::area_create(PAGE_SIZE)?;
    call::channel_send(one, b"four", &[area])?;
    let mut bytes = [0; 4];
    let mut handles = [Handle::NONE; 1];
    let small = call::channel_receive(two, &mut bytes[..3], &mut handles, 0);
    report.check("too few bytes", small == Err(BufferTooSmall));
    report.check("too few handles", call::channel_receive(two, &mut bytes, &mut [], 0) == Err(BufferTooSmall));
    let mut kept = [Handle::NONE; HANDLES_MAX];
    for place in &mut kept {
        let Ok(handle) = call::area_create(PAGE_SIZE) else { break };
        *place = handle;
    }
    let full = call::channel_receive(two, &mut bytes, &mut handles, 0);
    report.check("no room for a handle", full == Err(TooManyHandles));
    for handle in kept.iter().filter(|handle| handle.is_some()) {
        call::handle_close(*handle)?;
    }
    let received = call::channel_receive(two, &mut bytes, &mut handles, 0);
    report.check("it was there all the time", received == Ok((4, 1)) && bytes == *b"four");
    report.check("and once", call::channel_receive(two, &mut bytes, &mut handles, 0) == Err(TimedOut));
    close(&handles)?;
    close(&[one, two])
}

/// Nothing is on its way to itself: all of this is gone when the process ends, and is counted then.
fn ends_on_their_way(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let [three, four] = call::channel_create()?;
    let again = call::handle_duplicate(two, Rights::CHANNEL)?;
    report.refused("an end into its own queue", &[OnItsWay], unit(call::channel_send(one, b"", &[again])));
    call::channel_send(one, b"", &[three])?;
    report.refused("round a corner to itself", &[OnItsWay], unit(call::channel_send(four, b"", &[again])));
    call::channel_send(four, b"plain", &[])?;
    let mut handles = [Handle::NONE; 1];
    report.check("an end is received", call::channel_receive(two, &mut [], &mut handles, 0) == Ok((0, 1)));
    let [three] = handles;
    let mut bytes = [0; 5];
    let received = call::channel_receive(three, &mut bytes, &mut [], 0);
    report.check("with what waits there", received == Ok((5, 0)) && bytes == *b"plain");
    call::channel_send(four, b"", &[again])?;
    report.check("what has arrived takes ends", call::channel_receive(three, &mut [], &mut handles, 0) == Ok((0, 1)));
    close(&handles)?;
    // An end goes through the other one of its own channel only by its own hand: to somebody else.
    call::channel_send(one, b"", &[one])?;
    report.check("an end that sent itself is gone", call::handle_inspect(one) == Err(BadHandle));
    report.check("and arrives", call::channel_receive(two, &mut [], &mut handles, 0) == Ok((0, 1)));
    close(&handles)?;
    close(&[two, three, four])
}

/// What is closed with messages in it takes their handles along.
fn closing(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let [three, four] = call::channel_create()?;
    call::channel_send(one, b"last", &[three])?;
    call::handle_close(one)?;
    report.refused("send to nobody", &[Closed], unit(call::channel_send(two, b"", &[])));
    report
        .check("the end that is on its way is open", call::channel_receive(four, &mut [], &mut [], 0) == Err(TimedOut));
    call::handle_close(two)?;
    report.check("and closed with the queue", call::channel_receive(four, &mut [], &mut [], 0) == Err(Closed));
    call::handle_close(four)?;

    let [one, two] = call::channel_create()?;
    let again = call::handle_duplicate(one, Rights::CHANNEL)?;
    call::channel_send(one, b"last", &[])?;
    call::handle_close(one)?;
    call::channel_send(again, b"really", &[])?;
    call::handle_close(again)?;
    let mut bytes = [0; 6];
    report.check("what was sent before", call::channel_receive(two, &mut bytes, &mut [], 0) == Ok((4, 0)));
    report.check("is received", call::channel_receive(two, &mut bytes, &mut [], 0) == Ok((6, 0)));
    report.check("then it is closed", call::channel_receive(two, &mut bytes, &mut [], 0) == Err(Closed));
    call::handle_close(two)
}

fn rights(report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    report.check("an end has its rights", call::handle_inspect(one) == Ok((HandleKind::Channel, Rights::CHANNEL)));
    let reading = call::handle_duplicate(one, Rights::READ)?;
    let writing = call::handle_duplicate(one, Rights::WRITE)?;
    report.refused("send without the right to", &[Denied], unit(call::channel_send(reading, b"", &[])));
    let received = call::channel_receive(writing, &mut [], &mut [], 0);
    report.refused("receive without the right to", &[Denied], unit(received));
    call::channel_send(writing, b"", &[])?;
    call::channel_send(two, b"", &[])?;
    report.check("with the right to", call::channel_receive(reading, &mut [], &mut [], 0) == Ok((0, 0)));
    close(&[one, two, reading, writing])
}
