//! Bad pointers: every call that takes one, and every kind of memory that is not there or does not allow it. Each is an error, changes nothing, and takes no handle along.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use refkernel_runtime::ErrorCode::*;
use refkernel_runtime::{
    Access, ErrorCode, Handle, PAGE_SIZE, StartInformation, SystemCall, USER_END, call, console, decode_result, roles,
};

use crate::READ_WRITE;
use crate::channels::buffer;
use crate::handles::room;
use crate::life::stack;
use crate::report::Report;
use crate::windows::{protect, unmap};

/// A call with a pointer.
#[derive(Clone, Copy)]
struct Target {
    what: &'static str,
    /// Bytes that are read or written.
    length: u64,
    writes: bool,
    /// The arguments with the pointer in its place.
    arguments: fn(&Ends, u64) -> (SystemCall, [u64; 6]),
}

/// What the calls are about.
struct Ends {
    one: Handle,
    two: Handle,
    area: Handle,
}

const TARGETS: [Target; 9] = [
    Target {
        what: "write",
        length: 8,
        writes: false,
        arguments: |_, pointer| (SystemCall::Write, [console().0, pointer, 8, 0, 0, 0]),
    },
    Target {
        what: "a program's name",
        length: 8,
        writes: false,
        arguments: |_, pointer| (SystemCall::ProcessStart, [pointer, 8, roles::SPIN, 0, 0, 0]),
    },
    Target {
        what: "a program's handles",
        length: 8,
        writes: false,
        arguments: |_, pointer| (SystemCall::ProcessStart, [b"check".as_ptr() as u64, 5, roles::SPIN, pointer, 1, 0]),
    },
    Target {
        what: "a message",
        length: 8,
        writes: false,
        arguments: |ends, pointer| {
            (SystemCall::ChannelSend, [ends.two.0, pointer, 8, (&raw const ends.area) as u64, 1, 0])
        },
    },
    Target {
        what: "a message's handles",
        length: 8,
        writes: false,
        arguments: |ends, pointer| (SystemCall::ChannelSend, [ends.two.0, 0, 0, pointer, 1, 0]),
    },
    Target {
        what: "a channel's ends",
        length: 16,
        writes: true,
        arguments: |_, pointer| (SystemCall::ChannelCreate, [pointer, 0, 0, 0, 0, 0]),
    },
    Target {
        what: "where a message goes",
        length: 8,
        writes: true,
        arguments: |ends, pointer| (SystemCall::ChannelReceive, [ends.two.0, pointer, 8, ends_room(), 1, 0]),
    },
    Target {
        what: "where its handles go",
        length: 8,
        writes: true,
        arguments: |ends, pointer| (SystemCall::ChannelReceive, [ends.two.0, bytes_room(), 8, pointer, 1, 0]),
    },
    Target {
        what: "a word to wait for",
        length: 4,
        writes: false,
        arguments: |_, pointer| (SystemCall::AddressWait, [pointer, 0, 0, 0, 0, 0]),
    },
];

static ROOM: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];

fn ends_room() -> u64 {
    (&raw const ROOM[0]) as u64
}

fn bytes_room() -> u64 {
    (&raw const ROOM[2]) as u64
}

fn attempt(target: &Target, ends: &Ends, pointer: u64) -> Result<u64, ErrorCode> {
    let (call, arguments) = (target.arguments)(ends, pointer);
    // SAFETY: the callers pass pointers that must be refused, or to memory that is for this; a kernel that takes others has failed the check.
    decode_result(unsafe { call::raw(call.number(), arguments) })
}

pub(crate) fn check(start: &StartInformation, report: &mut Report) {
    let before = room();
    let outcome = everywhere(start, report).and_then(|()| wake(start, report)).and_then(|()| taken_away(report));
    let lost = report.done("everything that was asked with bad pointers", outcome);
    report.check("no handle is left behind but those whose numbers were taken away", Some(before - room()) == lost);
}

/// Addresses of every kind, as multiples of 8: what is refused for a call that reads, and for one that writes.
fn everywhere(start: &StartInformation, report: &mut Report) -> Result<(), ErrorCode> {
    let [one, two] = call::channel_create()?;
    let ends = Ends { one, two, area: call::area_create(PAGE_SIZE)? };
    // What is received, or tried to be.
    let carried = call::area_create(PAGE_SIZE)?;
    call::channel_send(ends.one, b"a letter", &[carried])?;

    // Four pages: readable, forbidden, past the end of their area, nothing.
    let area = call::area_create(3 * PAGE_SIZE)?;
    let place = call::area_map(area, 0x6400_0000_0000, 0, 3 * PAGE_SIZE, READ_WRITE)?;
    protect(place, PAGE_SIZE, Some(Access::READ))?;
    protect(place + PAGE_SIZE, PAGE_SIZE, None)?;
    // SAFETY: nothing uses the page.
    unsafe { call::area_resize(area, 2 * PAGE_SIZE)? };
    unmap(place + 2 * PAGE_SIZE, PAGE_SIZE)?;
    let cut = call::area_create(2 * PAGE_SIZE)?;
    let past_end = call::area_map(cut, 0x6500_0000_0000, 0, 2 * PAGE_SIZE, READ_WRITE)? + PAGE_SIZE;
    // SAFETY: nothing uses the page.
    unsafe { call::area_resize(cut, PAGE_SIZE)? };

    let nobodys = [
        0,
        0x10,
        USER_END,
        0x7fff_ffff_fff8,
        0x8000_0000_0000,
        0xffff_7fff_ffff_fff8,
        0xffff_8000_0000_0000,
        0xffff_ffff_8000_0000,
        u64::MAX - 7,
        0x6123_4567_8000,
        place + PAGE_SIZE,
        place + 2 * PAGE_SIZE,
        past_end,
    ];
    let text = everywhere as *const () as u64 & !7;
    for target in &TARGETS {
        let mut refused = |what: &str, pointer: u64| {
            let result = attempt(target, &ends, pointer);
            report.check(what, matches!(result, Err(BadPointer)));
            if result != Err(BadPointer) {
                refkernel_runtime::say!("check: {} with {pointer:#x}: {result:?}", target.what);
            }
        };
        for pointer in nobodys.into_iter().chain(start.kernel.map(|address| address & !7)) {
            refused("memory that is not the program's is refused", pointer);
        }
        if target.length > 4 {
            // Half of it.
            for end in [USER_END, place + PAGE_SIZE, past_end] {
                if !target.writes || end == past_end {
                    refused("memory that is the program's in part is refused", end - target.length / 2);
                }
            }
            refused("a range that wraps is refused", target.length.wrapping_neg().wrapping_add(8));
        }
        if target.writes {
            refused("memory that may not be written is refused", place);
            refused("the program's text is refused", text);
        }
    }
    for handle in [ends.area, carried] {
        let there = call::handle_inspect(handle).is_ok() == (handle == ends.area);
        report.check("handles are where they were", there);
    }
    let mut bytes = [0; 8];
    let mut handles = [Handle::NONE; 1];
    let received = call::channel_receive(two, &mut bytes, &mut handles, 0);
    report.check("the message was there all the time", received == Ok((8, 1)) && bytes == *b"a letter");
    report.check("and nothing else was sent", call::channel_receive(two, &mut bytes, &mut handles, 0) == Err(TimedOut));
    report.check("neither way", call::channel_receive(one, &mut bytes, &mut handles, 0) == Err(TimedOut));

    // The good ones, as a control.
    let good = buffer()?.as_ptr() as u64;
    let word = attempt(&TARGETS[8], &ends, good);
    report.check("a word that is there is waited for", word == Err(TimedOut));
    report.check("a message that is there is sent", attempt(&TARGETS[3], &ends, good) == Ok(0));
    report.check("nobody has such a name", attempt(&TARGETS[1], &ends, good) == Err(NoProgram));
    // What was sent is given back with the channel.
    unmap(place, 2 * PAGE_SIZE)?;
    unmap(past_end - PAGE_SIZE, 2 * PAGE_SIZE)?;
    unmap(good, refkernel_runtime::MESSAGE_LENGTH_MAX + PAGE_SIZE)?;
    for handle in [one, two, area, cut, handles[0]] {
        call::handle_close(handle)?;
    }
    Ok(())
}

fn wake(start: &StartInformation, report: &mut Report) -> Result<(), ErrorCode> {
    let waker = |address: u64| {
        // SAFETY: the call looks at the address.
        decode_result(unsafe { call::raw(SystemCall::AddressWake.number(), [address, 1, 0, 0, 0, 0]) })
    };
    for address in [0, 0x10, USER_END, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX - 3, 0x6123_4567_8000] {
        report.refused("wake at no memory of the program's", &[BadPointer], waker(address));
    }
    for address in start.kernel {
        report.refused("wake at the kernel's", &[BadPointer, Unaligned], waker(address));
    }
    for address in [1, 0x1_0002, u64::MAX] {
        report.refused("wake at no word", &[Unaligned], waker(address));
        // SAFETY: as above.
        let waited = unsafe { call::raw(SystemCall::AddressWait.number(), [address, 0, 0, 0, 0, 0]) };
        report.refused("wait at no word", &[Unaligned], decode_result(waited));
    }
    Ok(())
}

const PLACE: u64 = 0x6000_0000_0000;
const SIZE: u64 = 4 * PAGE_SIZE;
static STOP: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicU32 = AtomicU32::new(0);
static ROUNDS: AtomicU32 = AtomicU32::new(0);

/// Takes the memory away and gives it back, each time in another way.
extern "C" fn take_away(_: u64) -> ! {
    let mut round = 0;
    while !STOP.load(Ordering::Relaxed) {
        // SAFETY: nothing but calls uses the memory, which must bear with it.
        let _ = unsafe {
            match round % 3 {
                0 => call::area_protect(PLACE + PAGE_SIZE, PAGE_SIZE, None)
                    .and_then(|()| call::area_protect(PLACE, SIZE, Some(READ_WRITE))),
                1 => call::area_protect(PLACE, SIZE, Some(Access::READ))
                    .and_then(|()| call::area_protect(PLACE, SIZE, Some(READ_WRITE))),
                _ => call::area_unmap(PLACE, SIZE)
                    .and_then(|()| call::area_create_and_map(SIZE, PLACE, READ_WRITE).map(|_| ())),
            }
        };
        round += 1;
        ROUNDS.store(round, Ordering::Relaxed);
        if round % 6 == 0 {
            // So that some of the calls find the memory there for long enough.
            let _ = call::thread_sleep(1000);
        }
    }
    STOPPED.store(1, Ordering::Release);
    call::thread_exit()
}

/// Memory that goes and comes while it is copied: each call does what it is asked, or is refused for the pointer. Gives how many handles nobody knows any more.
fn taken_away(report: &mut Report) -> Result<usize, ErrorCode> {
    const ROUNDS_MIN: u32 = 60;
    const LOST_MAX: usize = 12;
    call::area_create_and_map(SIZE, PLACE, READ_WRITE)?;
    let top = stack()?;
    // SAFETY: the stack is the thread's.
    unsafe { call::thread_start(take_away, top, 0)? };
    let [one, two] = call::channel_create()?;
    let mut moved = [0_u32; 2];
    let mut lost = 0;
    for round in 0..5000_u32 {
        if round > 60 && ROUNDS.load(Ordering::Relaxed) > ROUNDS_MIN && moved.iter().all(|count| *count > 5) {
            break;
        }
        let raw = |call: SystemCall, arguments| {
            // SAFETY: the memory is for this alone.
            decode_result(unsafe { call::raw(call.number(), arguments) })
        };
        let sent = raw(SystemCall::ChannelSend, [one.0, PLACE, SIZE, 0, 0, 0]);
        report.check("a message is sent, or its memory is refused", matches!(sent, Ok(0) | Err(BadPointer)));
        if sent.is_ok() {
            moved[0] += 1;
            let received = loop {
                let received = raw(SystemCall::ChannelReceive, [two.0, PLACE, SIZE, 0, 0, 0]);
                if received != Err(BadPointer) {
                    break received;
                }
            };
            moved[1] += 1;
            report.check("it is received, once there is memory for it", received == Ok(SIZE));
        }
        let named = raw(SystemCall::ProcessStart, [PLACE + PAGE_SIZE - 4, 8, 0, 0, 0, 0]);
        report.check("a name is none, or refused", matches!(named, Err(NoProgram | BadPointer)));
        if lost < LOST_MAX {
            let made = raw(SystemCall::ChannelCreate, [PLACE + PAGE_SIZE - 8, 0, 0, 0, 0, 0]);
            report.check("a channel is made, or refused", matches!(made, Ok(0) | Err(BadPointer)));
            if made.is_ok() {
                // Its ends' numbers may be gone with the memory: they are read by a call, which may be refused.
                let ends = read_back(one, two)?;
                lost += ends.iter().filter(|handle| !handle.is_some()).count();
                for handle in ends.into_iter().filter(|handle| handle.is_some()) {
                    call::handle_close(handle)?;
                }
            }
        }
        let waited = raw(SystemCall::AddressWait, [PLACE + PAGE_SIZE, 1, 0, 0, 0, 0]);
        report.check(
            "a word is another one, or refused",
            waited.is_err_and(|error| [Changed, BadPointer, TimedOut, Retry].contains(&error)),
        );
    }
    STOP.store(true, Ordering::Relaxed);
    while STOPPED.load(Ordering::Acquire) == 0 {
        call::thread_sleep(1000)?;
    }
    report.check("memory was taken away often", ROUNDS.load(Ordering::Relaxed) > ROUNDS_MIN);
    report.check("messages got through", moved.iter().all(|count| *count > 5));
    call::handle_close(one)?;
    call::handle_close(two)?;
    Ok(lost)
}

/// The two handles at the end of the first page, if they are there still.
fn read_back(one: Handle, two: Handle) -> Result<[Handle; 2], ErrorCode> {
    for _ in 0..1000 {
        let arguments = [one.0, PLACE + PAGE_SIZE - 8, 16, 0, 0, 0];
        // SAFETY: the memory is for this alone.
        if decode_result(unsafe { call::raw(SystemCall::ChannelSend.number(), arguments) }).is_ok() {
            let mut words = [0; 16];
            call::channel_receive(two, &mut words, &mut [], 0)?;
            let (words, _) = words.as_chunks::<8>();
            return Ok([0, 1].map(|index| Handle(u64::from_le_bytes(words[index]))));
        }
    }
    Ok([Handle::NONE; 2])
}
