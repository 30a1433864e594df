//! Sending and receiving.
//!
//! Handles are taken out of the sender's table and places are held in the receiver's before the first byte is copied; what can fail is done by the time that
//! either changes ([`crate::process::moving`]).

use super::message::Parcel;
use super::{CHANNELS, Outcome, Receiver, wake};
use crate::cpu::{clock, user_copy};
use crate::memory::UserSpace;
use crate::pager;
use crate::process::{self, Places, Process, Withdrawn, read_numbers};
use crate::thread::{self, scheduler, sleep};
use refkernel::channels::{ChannelError, End, Received, Target};
use refkernel::wait_queues::{Progress, Ticket};
use refkernel_abi::{ErrorCode, MESSAGE_HANDLES_MAX, MESSAGE_LENGTH_MAX, PAGE_SIZE};
use vmcore::addr::VirtAddr;
use vmcore::frame::OutOfFrames;
use vmcore::paging::Flush;
use vmcore::vm_area::AreaError;
use vmcore::vm_space::{CopyError, SpaceError};
use x86_64::instructions::interrupts::without_interrupts;

fn channel_error(error: ChannelError) -> ErrorCode {
    match error {
        ChannelError::QueueFull => ErrorCode::QueueFull,
        ChannelError::OnItsWay => ErrorCode::OnItsWay,
        _ => ErrorCode::Closed,
    }
}

/// What a message is made of, at its sender.
struct Letter<'a> {
    sender: &'a Process,
    bytes: u64,
    length: usize,
    handles: Withdrawn<'a>,
}

/// Sends a message from an end, which is kept open by the caller.
///
/// # Errors
///
/// See [`SystemCall::ChannelSend`](refkernel_abi::SystemCall::ChannelSend); nothing was sent, and the sender has its handles.
pub(crate) fn send(
    sender: &Process,
    end: End,
    (bytes, length): (u64, u64),
    (handles, count): (u64, u64),
) -> Result<(), ErrorCode> {
    if length > MESSAGE_LENGTH_MAX || count > MESSAGE_HANDLES_MAX as u64 {
        return Err(ErrorCode::TooLarge);
    }
    let (numbers, count) = read_numbers(handles, count)?;
    let handles = Withdrawn::new(sender, numbers.get(..count).unwrap_or_default())?;
    let mut letter = Letter { sender, bytes, length: length as usize, handles };
    let (ends, count) = letter.handles.ends();
    let ends = ends.get(..count).unwrap_or_default();
    let mut straight = true;
    loop {
        let target = CHANNELS.lock().begin(end, ends, straight);
        match target.map_err(channel_error)? {
            Target::Waiting(ticket, receiver) => {
                let delivery = deliver(&mut letter, &receiver);
                let (outcome, answer) = match delivery {
                    Delivery::Done(answer) => (Outcome::Delivered(answer), Some(Ok(()))),
                    Delivery::Refused(error) => (Outcome::Again, Some(Err(error))),
                    Delivery::Unfit(error) => (Outcome::Failed(error), None),
                    Delivery::Indirect => {
                        straight = false;
                        (Outcome::Again, None)
                    }
                };
                CHANNELS.lock().waits.finish(ticket, outcome);
                thread::wake(receiver.thread);
                match answer {
                    Some(Ok(())) => {
                        letter.handles.commit();
                        return Ok(());
                    }
                    Some(Err(error)) => return Err(error),
                    None => {}
                }
            }
            Target::Queue => {
                let parcel = pack(&mut letter).inspect_err(|_| CHANNELS.lock().give_up(end))?;
                let pushed = CHANNELS.lock().push(end, parcel);
                if let Err((mut parcel, error)) = pushed {
                    core::mem::swap(parcel.entries(), &mut letter.handles.entries);
                    return Err(channel_error(error));
                }
                letter.handles.commit();
                wake(end.other());
                return Ok(());
            }
        }
    }
}

/// Puts a message into frames of the kernel's.
fn pack(letter: &mut Letter<'_>) -> Result<Parcel, ErrorCode> {
    let mut parcel = Parcel::new(letter.length).ok_or(ErrorCode::OutOfMemory)?;
    if letter.length > 0 {
        user_copy::copy_from_user(parcel.bytes(), letter.bytes)?;
    }
    core::mem::swap(parcel.entries(), &mut letter.handles.entries);
    Ok(parcel)
}

/// What comes of writing a message to one who waits.
enum Delivery {
    /// It is there: what the receiver's call answers.
    Done(u64),
    /// It cannot be sent.
    Refused(ErrorCode),
    /// This receiver cannot take it.
    Unfit(ErrorCode),
    /// It has to go by way of the kernel's memory.
    Indirect,
}

/// What a receive answers.
fn answer(length: usize, count: usize) -> u64 {
    length as u64 | (count as u64) << 32
}

/// Writes a message to one who waits, and is claimed: so its process is there.
fn deliver(letter: &mut Letter<'_>, receiver: &Receiver) -> Delivery {
    let count = letter.handles.count();
    if letter.length as u64 > receiver.capacity || count as u64 > receiver.count {
        return Delivery::Unfit(ErrorCode::BufferTooSmall);
    }
    let Some(process) = process::by_number(receiver.process) else { return Delivery::Unfit(ErrorCode::Closed) };
    let places = match Places::new(&process, count) {
        Ok(places) => places,
        Err(error) => return Delivery::Unfit(error),
    };
    if let Err(delivery) = copy(process.space(), receiver.bytes, letter.sender.space(), letter.bytes, letter.length) {
        return delivery;
    }
    let (numbers, size) = places.bytes();
    let numbers = numbers.get(..size).unwrap_or_default();
    let written = patiently(|_| process.space().write_bytes(VirtAddr::new(receiver.handles), numbers));
    match written {
        Ok(()) => {}
        Err(CopyError { error, .. }) => return failure(error, Delivery::Unfit(ErrorCode::BadPointer)),
    }
    places.fill(&mut letter.handles.entries);
    Delivery::Done(answer(letter.length, count))
}

/// Copies from space to space, a part at a time.
fn copy(to: &UserSpace, to_address: u64, from: &UserSpace, from_address: u64, length: usize) -> Result<(), Delivery> {
    const PART: usize = PAGE_SIZE as usize;
    let mut done = 0;
    while done < length {
        let size = PART.min(length - done);
        let place = |address: u64, done: usize| VirtAddr::new(address.saturating_add(done as u64));
        let (target, source) = (place(to_address, done), place(from_address, done));
        let part = patiently(|more| {
            let forward = |address: VirtAddr| VirtAddr::new(address.as_u64().saturating_add(more as u64));
            to.copy_from(forward(target), from, forward(source), size - more)
        });
        if let Err(stopped) = part {
            // The side that is to blame is the one that cannot be read at that place, else the other one.
            let at = place(from_address, done + stopped.done);
            let mut byte = [0];
            let readable = patiently_read(from, at, &mut byte);
            let blame = if readable {
                Delivery::Unfit(ErrorCode::BadPointer)
            } else {
                Delivery::Refused(ErrorCode::BadPointer)
            };
            return Err(failure(stopped.error, blame));
        }
        done += size;
    }
    Ok(())
}

/// Whether a byte can be read; its page is brought for that.
fn patiently_read(from: &UserSpace, at: VirtAddr, byte: &mut [u8; 1]) -> bool {
    let read = || without_interrupts(|| from.read_bytes(at, byte));
    core::iter::repeat_with(read).take(1000).find_map(|result| match result {
        Ok(_) => Some(true),
        Err(CopyError { error, .. }) => (!pager::answer(&error)).then_some(false),
    }) == Some(true)
}

/// Makes a copy, from so many bytes on, again while a change is in its way. Interrupts are off for each attempt: a thread is not switched away from while others wait for
/// a flush of its.
fn patiently(
    mut attempt: impl FnMut(usize) -> Result<Flush<crate::memory::Kernel, ()>, CopyError>,
) -> Result<(), CopyError> {
    const PATIENCE: u32 = 1000;
    let mut done = 0;
    for _ in 0..PATIENCE {
        match without_interrupts(|| attempt(done).map(Flush::complete)) {
            Err(CopyError { error: SpaceError::Retry(_), done: more }) => done += more,
            Err(CopyError { error: SpaceError::Area(AreaError::Retry), done: more }) => done += more,
            Err(CopyError { error: error @ SpaceError::Awaits { .. }, done: more }) => {
                done += more;
                if !pager::answer(&error) {
                    return Err(CopyError { error: SpaceError::OutOfFrames(OutOfFrames { wanted: 1 }), done });
                }
            }
            Err(CopyError { error, done: more }) => return Err(CopyError { error, done: done + more }),
            Ok(()) => return Ok(()),
        }
        scheduler::yield_now();
    }
    Err(CopyError { error: SpaceError::Retry(VirtAddr::new(0)), done })
}

/// What a copy's failure means; `otherwise` for memory that is not there, or does not allow it.
fn failure(error: SpaceError, otherwise: Delivery) -> Delivery {
    match error {
        SpaceError::OutOfFrames(_) | SpaceError::Area(AreaError::OutOfFrames(_) | AreaError::OutOfAccount(_)) => {
            Delivery::Refused(ErrorCode::OutOfMemory)
        }
        SpaceError::Retry(_) | SpaceError::Awaits { .. } | SpaceError::Area(_) => Delivery::Indirect,
        _ => otherwise,
    }
}

/// Where a receiver wants a message.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// The address of the bytes.
    pub(crate) bytes: u64,
    /// How many fit.
    pub(crate) capacity: u64,
    /// The address of the handles' numbers.
    pub(crate) handles: u64,
    /// How many fit.
    pub(crate) count: u64,
}

/// Receives a message at an end, and gives the call's answer. Nothing keeps the end open: when it is closed the wait is over.
///
/// # Errors
///
/// See [`SystemCall::ChannelReceive`](refkernel_abi::SystemCall::ChannelReceive); no message was taken.
pub(crate) fn receive(process: &Process, end: End, room: Room, microseconds: u64) -> Result<u64, ErrorCode> {
    let result = try_receive(process, end, room, microseconds);
    if result.is_err() {
        // It may have been woken for a message that is still there: somebody else's then.
        wake(end);
    }
    result
}

fn try_receive(process: &Process, end: End, room: Room, microseconds: u64) -> Result<u64, ErrorCode> {
    let thread = scheduler::current().ok_or(ErrorCode::NotSupported)?;
    let deadline = sleep::deadline(microseconds);
    loop {
        let fits = |parcel: &Parcel| parcel.length() as u64 <= room.capacity && parcel.count() as u64 <= room.count;
        let ticket = {
            let mut channels = CHANNELS.lock();
            match channels.receive(end, fits).map_err(channel_error)? {
                Received::Message(parcel) => {
                    drop(channels);
                    return unpack(process, end, room, parcel);
                }
                Received::Unwanted => return Err(ErrorCode::BufferTooSmall),
                Received::Nothing if deadline.is_some_and(|deadline| clock::now() >= deadline) => {
                    return Err(ErrorCode::TimedOut);
                }
                Received::Nothing => {}
            }
            let Room { bytes, capacity, handles, count } = room;
            let (thread, process) = (thread.number(), thread.process());
            let receiver = Receiver { thread, process, bytes, capacity, handles, count };
            channels.waits.wait(end, receiver).map_err(|_| ErrorCode::TooMany)?
        };
        match wait(ticket, deadline) {
            Outcome::Delivered(answer) => return Ok(answer),
            Outcome::Failed(error) => return Err(error),
            // The answer is nobody's to see.
            Outcome::Again if thread.is_killed() => return Err(ErrorCode::Closed),
            Outcome::Again => {}
        }
    }
}

/// Waits by a ticket; a wait that nobody ends in time is given up.
fn wait(ticket: Ticket, deadline: Option<u64>) -> Outcome {
    let is_over = || CHANNELS.lock().waits.progress(ticket) == Progress::Finished;
    if !sleep::wait(deadline, is_over) {
        if CHANNELS.lock().waits.cancel(ticket).is_some() {
            return Outcome::Again;
        }
        // Somebody has claimed it, and writes to this process's memory.
        while !is_over() {
            scheduler::park();
        }
    }
    CHANNELS.lock().waits.collect(ticket).map_or(Outcome::Again, |(_, outcome)| outcome)
}

/// Writes a message that was taken out of the queue to its receiver; one that cannot be written goes back.
fn unpack(process: &Process, end: End, room: Room, mut parcel: Parcel) -> Result<u64, ErrorCode> {
    let answer = answer(parcel.length(), parcel.count());
    match write_out(process, room, &mut parcel) {
        Ok(places) => {
            CHANNELS.lock().done(end, &parcel);
            places.fill(parcel.entries());
            Ok(answer)
        }
        Err(error) => {
            let lost = CHANNELS.lock().put_back(end, parcel);
            drop(lost);
            Err(error)
        }
    }
}

fn write_out<'a>(process: &'a Process, room: Room, parcel: &mut Parcel) -> Result<Places<'a>, ErrorCode> {
    let places = Places::new(process, parcel.count())?;
    if parcel.length() > 0 {
        user_copy::copy_to_user(room.bytes, parcel.bytes())?;
    }
    let (numbers, size) = places.bytes();
    if size > 0 {
        let numbers = numbers.get(..size).unwrap_or_default();
        user_copy::copy_to_user(room.handles, numbers)?;
    }
    Ok(places)
}
