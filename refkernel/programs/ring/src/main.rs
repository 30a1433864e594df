//! Two processes move records through a ring: the same pages twice in a row, so that a record is in one piece wherever it begins.
//!
//! ```text
//!            ┌─────────── memory ──────────┬──────── the same memory ──────┐
//!   ring     │  …   │ record │ record │ rec·ord │                           │
//!            └──────┴────────┴────────┴─────┼───┴─────────────────────────────┘
//!                   tail                    head (the producer's)
//!                   (the consumer's)
//! ```
//!
//! The first process (argument: MiB to move, 0 for a few) makes the ring and a page for the two counts, and starts the second one with handles of both and an end of a channel. A record is its
//! length, its number and bytes made of that. Who finds no room, or nothing to take, waits for the other one's count. At the end the consumer says over the channel what it got, which the producer
//! compares with what it sent; the consumer has looked at every byte.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use refkernel_runtime::{
    Access, ErrorCode, FOREVER, Handle, PAGE_SIZE, Rights, StartInformation, call, console, program, program_status,
    say, word,
};

program!(main);

/// Bytes of the ring's memory. The counts go on beyond it, and are whole multiples of it when they wrap.
const SIZE: u32 = 16 * PAGE_SIZE as u32;

/// The most bytes of a record, with its header.
const RECORD_MAX: u32 = 5000;

/// Bytes before a record's contents: its length and its number.
const HEADER: u32 = 8;

/// MiB to move if nothing is said.
const USUAL: u64 = 8;

/// Says that this is the process that consumes.
const CONSUMER: u64 = 1 << 15;

/// What the two tell each other: how many bytes were ever put in, and taken out. Each is written by one of them.
#[repr(C)]
struct Counts {
    head: AtomicU32,
    tail: AtomicU32,
}

/// What one of them has moved.
#[derive(Clone, Copy, Default, PartialEq)]
struct Moved {
    bytes: u64,
    records: u32,
    /// Records that lay across the end of the memory.
    across: u32,
}

/// Why the program stops.
enum Failure {
    Refused(&'static str, ErrorCode),
    Wrong(&'static str),
}

fn refused(what: &'static str) -> impl Fn(ErrorCode) -> Failure {
    move |error| Failure::Refused(what, error)
}

fn main(start: &StartInformation) -> u32 {
    let outcome = if start.argument == CONSUMER { consume(start) } else { produce(start.argument) };
    match outcome {
        Ok(()) => return program_status::SUCCESS,
        Err(Failure::Refused(what, error)) => say!("ring: the kernel refused to {what}: {error}"),
        Err(Failure::Wrong(what)) => say!("ring: not so: {what}"),
    }
    program_status::FAILURE
}

/// A process's view of both.
struct Ring {
    first: u64,
    counts: &'static Counts,
}

impl Ring {
    /// Maps the ring, all of it, and the counts.
    fn map(ring: Handle, counts: Handle) -> Result<Self, Failure> {
        let first = call::area_map(ring, 0, 0, 2 * u64::from(SIZE), Access::READ_WRITE);
        let counts = call::area_map(counts, 0, 0, PAGE_SIZE, Access::READ_WRITE).map_err(refused("map the counts"))?;
        // SAFETY: the page was just mapped, stays, and holds nothing but these words, which begin as zeros.
        let counts = unsafe { &*(counts as *const Counts) };
        Ok(Self { first: first.map_err(refused("map the ring"))?, counts })
    }

    /// Where a record begins that has this count: in the first half, from where all of it is in one piece.
    fn place(&self, count: u32) -> *mut u8 {
        (self.first + u64::from(count % SIZE)) as *mut u8
    }
}

/// The byte `index` of record `number`.
const fn byte(number: u32, index: u32) -> u8 {
    (number.wrapping_mul(0x9e37_79b9) >> 24) as u8 ^ index as u8
}

/// The length of record `number`, with its header.
const fn length(number: u32) -> u32 {
    HEADER + number.wrapping_mul(2_654_435_761) % (RECORD_MAX - HEADER + 1)
}

fn produce(mib: u64) -> Result<(), Failure> {
    let goal = (if mib == 0 { USUAL } else { mib.min(1 << 20) }) << 20;
    let ring = call::area_create_ring(SIZE.into()).map_err(refused("make a ring"))?;
    let counts = call::area_create(PAGE_SIZE).map_err(refused("make a page"))?;
    let [end, other] = call::channel_create().map_err(refused("make a channel"))?;
    let view = Ring::map(ring, counts)?;
    // It keeps none of them: what goes on between the two goes by the windows and the channel.
    let log = call::handle_duplicate(console(), Rights::WRITE | Rights::SHARE).map_err(refused("share the log"))?;
    let consumer = share(log, [ring, counts, other])?;
    let (mut moved, mut waited, mut head) = (Moved::default(), 0_u32, 0_u32);
    while moved.bytes < goal {
        let (number, length) = (moved.records, length(moved.records));
        loop {
            let tail = view.counts.tail.load(Ordering::Acquire);
            if SIZE - head.wrapping_sub(tail) >= length {
                break;
            }
            waited += 1;
            word::wait_while(&view.counts.tail, tail);
        }
        put(&view, head, number, length);
        head = head.wrapping_add(length);
        word::set(&view.counts.head, head);
        moved.count(head.wrapping_sub(length), length);
    }
    // A length of 0 is the end; there is always room for that behind a wait.
    while SIZE - head.wrapping_sub(view.counts.tail.load(Ordering::Acquire)) < HEADER {
        word::wait_while(&view.counts.tail, view.counts.tail.load(Ordering::Acquire));
    }
    // SAFETY: there is room for it, which the consumer does not look at before the count says so.
    unsafe { view.place(head).cast::<[u32; 2]>().write_unaligned([0, 0]) };
    word::set(&view.counts.head, head.wrapping_add(HEADER));

    let mut answer = [0; 20];
    let (size, _) = call::channel_receive(end, &mut answer, &mut [], FOREVER).map_err(refused("receive the answer"))?;
    let status = call::process_wait(consumer).map_err(refused("wait for the consumer"))?;
    call::handle_close(consumer).map_err(refused("close its handle"))?;
    let (got, their_waits) = Moved::from_bytes(&answer);
    if size != answer.len() || status != 0 || got != moved {
        return Err(Failure::Wrong("the consumer got what was sent"));
    }
    say!(
        "ring: {} KiB in {} records went from one process to another through {} KiB of memory, {} of them across its end in one piece; every byte was as sent; waited {waited} and {their_waits} times",
        moved.bytes >> 10,
        moved.records,
        SIZE >> 10,
        moved.across
    );
    Ok(())
}

/// Starts the consumer with the log and these, the last of which is its alone.
fn share(log: Handle, handles: [Handle; 3]) -> Result<Handle, Failure> {
    let [ring, counts, end] = handles;
    call::process_start_with("ring", CONSUMER, &[log, ring, counts, end]).map_err(refused("start the consumer"))
}

impl Moved {
    fn count(&mut self, start: u32, length: u32) {
        self.bytes += u64::from(length);
        self.records += 1;
        self.across += u32::from(start % SIZE + length > SIZE);
    }

    fn to_bytes(self, waited: u32) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        for (place, word) in bytes[8..].chunks_exact_mut(4).zip([self.records, self.across, waited]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; 20]) -> (Self, u32) {
        let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|index| bytes[at + index]));
        let low = u64::from(word(0)) | u64::from(word(4)) << 32;
        (Self { bytes: low, records: word(8), across: word(12) }, word(16))
    }
}

/// Writes a record where there is room for it.
fn put(ring: &Ring, head: u32, number: u32, length: u32) {
    let place = ring.place(head);
    // SAFETY: from there on there is room for the whole record, in one piece, which the consumer does not look at before the count says so.
    let contents = unsafe {
        place.cast::<[u32; 2]>().write_unaligned([length, number]);
        core::slice::from_raw_parts_mut(place.add(HEADER as usize), (length - HEADER) as usize)
    };
    for (index, slot) in (0..).zip(contents) {
        *slot = byte(number, index);
    }
}

fn consume(start: &StartInformation) -> Result<(), Failure> {
    let [_, ring, counts, end, ..] = start.handles;
    let view = Ring::map(ring, counts)?;
    let (mut moved, mut waited, mut tail) = (Moved::default(), 0_u32, 0_u32);
    loop {
        let head = view.counts.head.load(Ordering::Acquire);
        if head == tail {
            waited += 1;
            word::wait_while(&view.counts.head, head);
            continue;
        }
        let place = view.place(tail);
        // SAFETY: the count says that a record begins there, which the producer does not change any more.
        let [size, number] = unsafe { place.cast::<[u32; 2]>().read_unaligned() };
        if size == 0 {
            break;
        }
        if number != moved.records || size != length(number) || head.wrapping_sub(tail) < size {
            return Err(Failure::Wrong("the next record is the next one that was sent"));
        }
        // SAFETY: all of it is there, in one piece.
        let contents = unsafe { core::slice::from_raw_parts(place.add(HEADER as usize), (size - HEADER) as usize) };
        if !(0..).zip(contents).all(|(index, found)| *found == byte(number, index)) {
            return Err(Failure::Wrong("a record holds what was sent"));
        }
        moved.count(tail, size);
        tail = tail.wrapping_add(size);
        word::set(&view.counts.tail, tail);
    }
    call::channel_send(end, &moved.to_bytes(waited), &[]).map_err(refused("answer"))
}
