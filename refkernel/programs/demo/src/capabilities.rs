//! What else can be done with memory, and between processes: each thing is done, looked at, and said in a sentence. What it takes is given back.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use refkernel_runtime::{
    Access, Caching, ErrorCode, FOREVER, Handle, KILLED, PAGE_SIZE, Rights, StartInformation, call, say, word,
};

use crate::{Failure, READ_WRITE};

fn refused(what: &'static str) -> impl Fn(ErrorCode) -> Failure {
    move |error| Failure::Refused(what, error)
}

/// Notes what is not so; `number` says more of it.
fn require(holds: bool, what: &'static str, number: u64) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Wrong(what, number)) }
}

/// All of it. `resident` is the address of a window whose memory is used.
pub(crate) fn show(start: &StartInformation, resident: u64) -> Result<(), Failure> {
    let stack = Stack::new()?;
    shared_area()?;
    copy_on_write(&stack, resident)?;
    protection(&stack)?;
    guard(&stack)?;
    handle_by_channel()?;
    wait_and_wake(&stack)?;
    ring()?;
    denied(start)?;
    unmap(stack.start, Stack::SIZE)
}

fn unmap(address: u64, length: u64) -> Result<(), Failure> {
    // SAFETY: the callers made the windows and use them no more.
    unsafe { call::area_unmap(address, length) }.map_err(refused("unmap"))
}

fn word_at(address: u64) -> &'static AtomicU64 {
    // SAFETY: the callers pass addresses of windows that allow what they do with them, for as long as they use the word; any bytes are a word.
    unsafe { &*(address as *const AtomicU64) }
}

/// A stack for clones, one at a time, which each has as a copy, and threads.
struct Stack {
    start: u64,
}

impl Stack {
    const SIZE: u64 = 8 * PAGE_SIZE;

    fn new() -> Result<Self, Failure> {
        let start = call::area_create_and_map(Self::SIZE, 0, READ_WRITE).map_err(refused("make a stack"))?;
        Ok(Self { start })
    }

    /// Starts a clone of this process, waits for it, and gives how it ended.
    fn clone_ends(&self, entry: call::Entry, argument: u64) -> Result<u64, Failure> {
        // SAFETY: nothing else uses the stack, here or there.
        let process = unsafe { call::process_clone(entry, self.start + Self::SIZE, argument) };
        let process = process.map_err(refused("clone the process"))?;
        let ending = call::process_wait(process).map_err(refused("wait for the clone"))?;
        call::handle_close(process).map_err(refused("close the clone's handle"))?;
        Ok(ending)
    }
}

fn shared_area() -> Result<(), Failure> {
    let area = call::area_create(PAGE_SIZE).map_err(refused("create an area"))?;
    let map = |access| call::area_map(area, 0, 0, PAGE_SIZE, access).map_err(refused("map it"));
    let (one, two) = (map(READ_WRITE)?, map(Access::READ)?);
    word_at(one).store(42, Ordering::Relaxed);
    require(word_at(two).load(Ordering::Relaxed) == 42, "the second window shows something else", two)?;
    say!("demo: shares an area: what it writes at {one:#x} it reads at {two:#x}, where it may not write");
    call::handle_close(area).map_err(refused("close its handle"))?;
    unmap(one, PAGE_SIZE)?;
    unmap(two, PAGE_SIZE)
}

/// Private memory of the clone's parent, which both change.
static PRIVATE: AtomicU64 = AtomicU64::new(1);

extern "C" fn change(resident: u64) -> ! {
    // Handles were copied too, and windows by handle show the same memory.
    let found = PRIVATE.swap(2, Ordering::Relaxed);
    let shared = word_at(resident).load(Ordering::Relaxed) != 0;
    call::exit(if found == 1 && shared { 0 } else { 1 })
}

fn copy_on_write(stack: &Stack, resident: u64) -> Result<(), Failure> {
    let ending = stack.clone_ends(change, resident)?;
    require(ending == 0, "the clone did not find what was there, but exited with", ending)?;
    let own = PRIVATE.load(Ordering::Relaxed);
    require(own == 1, "the clone changed its parent's memory to", own)?;
    say!(
        "demo: cloned itself: the clone had all its memory and changed a word; here it is as it was: the page was copied at that write"
    );
    Ok(())
}

extern "C" fn write_there(address: u64) -> ! {
    word_at(address).store(7, Ordering::Relaxed);
    call::exit(0)
}

fn protection(stack: &Stack) -> Result<(), Failure> {
    let address = call::area_create_and_map(PAGE_SIZE, 0, READ_WRITE).map_err(refused("make memory"))?;
    word_at(address).store(5, Ordering::Relaxed);
    // SAFETY: it is only read from then on, but by the clone that must be killed for it.
    unsafe { call::area_protect(address, PAGE_SIZE, Some(Access::READ)) }.map_err(refused("protect it"))?;
    let ending = stack.clone_ends(write_there, address)?;
    require(ending == KILLED, "a clone wrote to protected memory and exited with", ending)?;
    require(word_at(address).load(Ordering::Relaxed) == 5, "protected memory has changed", address)?;
    say!("demo: protected {address:#x} from writing: it reads what was there, and a clone that wrote was killed");
    unmap(address, PAGE_SIZE)
}

fn guard(stack: &Stack) -> Result<(), Failure> {
    // The page below the stack that the kernel made: its pages end in one that is never there.
    let here = 0_u64;
    let top = (&raw const here as u64).next_multiple_of(PAGE_SIZE);
    let mut page = top;
    // The stack's lowest page is as far down as the kernel says nothing is wrong with looking at a word there.
    while look(page - PAGE_SIZE) {
        page -= PAGE_SIZE;
    }
    let ending = stack.clone_ends(write_there, page - 8)?;
    require(ending == KILLED, "a clone wrote to the guard below its stack and exited with", ending)?;
    say!(
        "demo: its stack of {} KiB ends at {page:#x} in a guard: a clone that went below it was killed",
        (top - page) >> 10
    );
    Ok(())
}

/// Whether the kernel can look at a word for this program.
fn look(address: u64) -> bool {
    // SAFETY: only the kernel looks at the word, and says if it cannot be read.
    let word = unsafe { &*(address as *const AtomicU32) };
    call::address_wait(word, 0, 0) != Err(ErrorCode::BadPointer)
}

fn handle_by_channel() -> Result<(), Failure> {
    let [one, two] = call::channel_create().map_err(refused("create a channel"))?;
    let area = call::area_create(PAGE_SIZE).map_err(refused("create an area"))?;
    let lesser = call::handle_duplicate(area, Rights::READ | Rights::MAP | Rights::SHARE);
    let lesser = lesser.map_err(refused("make a lesser handle"))?;
    let text = b"an area, to be read";
    call::channel_send(one, text, &[lesser]).map_err(refused("send a message"))?;
    let (mut bytes, mut handles) = ([0; 32], [Handle::NONE; 1]);
    let (length, count) =
        call::channel_receive(two, &mut bytes, &mut handles, FOREVER).map_err(refused("receive it"))?;
    require(bytes.get(..length) == Some(text) && count == 1, "another message came, of length", length as u64)?;
    let [came] = handles;
    let writing = call::area_map(came, 0, 0, PAGE_SIZE, READ_WRITE);
    require(writing == Err(ErrorCode::Denied), "a handle allows more than it was sent with", came.0)?;
    say!(
        "demo: sent {length} bytes and a handle through a channel: the area behind it can be mapped to be read, not to be written"
    );
    [one, two, area, came].into_iter().try_for_each(call::handle_close).map_err(refused("close handles"))
}

/// 0: nobody has done anything; 1: the thread is there; 2: it may go on; 3: it has.
static TURN: AtomicU32 = AtomicU32::new(0);

extern "C" fn take_a_turn(_: u64) -> ! {
    word::set(&TURN, 1);
    word::wait_while(&TURN, 1);
    word::set_and_exit(&TURN, 3)
}

fn wait_and_wake(stack: &Stack) -> Result<(), Failure> {
    // SAFETY: no clone runs, so nothing else uses the stack; when the thread has said its last word it uses it no more.
    unsafe { call::thread_start(take_a_turn, stack.start + Stack::SIZE, 0) }.map_err(refused("start a thread"))?;
    word::wait_while(&TURN, 0);
    word::set(&TURN, 2);
    word::wait_while(&TURN, 2);
    let turn = TURN.load(Ordering::Relaxed);
    require(turn == 3, "the thread has left the word at", turn.into())?;
    say!("demo: waited for a word of memory that a second thread changed, and woke it by changing it back");
    Ok(())
}

fn ring() -> Result<(), Failure> {
    const SIZE: u64 = 2 * PAGE_SIZE;
    let area = call::area_create_ring(SIZE).map_err(refused("create a ring"))?;
    let address = call::area_map(area, 0, 0, 2 * SIZE, READ_WRITE).map_err(refused("map the ring"))?;
    // Eight bytes, of which the last four are beyond the memory's end.
    let across = (address + SIZE - 4) as *mut u64;
    // SAFETY: the window is twice as long.
    unsafe { across.write_unaligned(0x1122_3344_5566_7788) };
    let start = word_at(address).load(Ordering::Relaxed);
    require(start == 0x1122_3344, "the ring begins with", start)?;
    say!(
        "demo: made a ring of {} KiB, shown twice in a row: a word written across its end is in one piece, and its rest is at the start",
        SIZE >> 10
    );
    call::handle_close(area).map_err(refused("close its handle"))?;
    unmap(address, 2 * SIZE)
}

/// Where the first processor's interrupt controller is, on every PC: nothing that a program should reach.
const DEVICE: u64 = 0xfee0_0000;

fn denied(start: &StartInformation) -> Result<(), Failure> {
    match call::physical_area(start.physical, DEVICE, PAGE_SIZE, Caching::Uncached) {
        Err(error @ (ErrorCode::BadHandle | ErrorCode::Denied)) => {
            say!("demo: was handed no right to device memory, and is denied it: {error}");
            Ok(())
        }
        Err(error) => Err(Failure::Refused("deny device memory properly", error)),
        Ok(handle) => Err(Failure::Wrong("device memory is to be had without a right: handle", handle.0)),
    }
}
