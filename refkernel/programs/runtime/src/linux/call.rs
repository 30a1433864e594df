//! This kernel's calls, made of Linux's.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use refkernel_abi::{Access, Count, ErrorCode, FOREVER, Handle, KILLED, PAGE_SIZE};

use super::raw;

const PROTECTION_READ: u64 = 1;
const PROTECTION_WRITE: u64 = 2;
const PROTECTION_EXECUTE: u64 = 4;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const REMAP_MAY_MOVE: u64 = 1;
const REMAP_FIXED: u64 = 2;
const NO_FILE: u64 = u64::MAX;

/// Handles of processes have this bit, those of files do not.
const PROCESS: u64 = 1 << 32;

/// Where a thread begins: with what it was given, on its own stack, and never back from there.
pub type Entry = extern "C" fn(u64) -> !;

fn protection(access: Access) -> u64 {
    [
        (Access::READ, PROTECTION_READ),
        (Access::WRITE, PROTECTION_READ | PROTECTION_WRITE),
        (Access::EXECUTE, PROTECTION_READ | PROTECTION_EXECUTE),
    ]
    .into_iter()
    .filter(|(asked, _)| access.contains(*asked))
    .fold(0, |bits, (_, granted)| bits | granted)
}

/// Where a window goes: where nothing is, at an address that is given.
const fn place(address: u64) -> u64 {
    if address == 0 { 0 } else { MAP_FIXED_NOREPLACE }
}

/// Does nothing, in the kernel, or hardly anything.
///
/// # Errors
///
/// None.
#[inline]
pub fn null() -> Result<(), ErrorCode> {
    // SAFETY: the call changes nothing.
    unsafe { raw::call(raw::GETPPID, [0; 6]) }.map(|_| ())
}

/// Writes text to the console, and gives how many bytes were written.
///
/// # Errors
///
/// Linux's.
pub fn write(text: &[u8]) -> Result<u64, ErrorCode> {
    const STANDARD_OUTPUT: u64 = 1;
    // SAFETY: the call only reads `text`, which is borrowed for as long.
    unsafe { raw::call(raw::WRITE, [STANDARD_OUTPUT, text.as_ptr() as u64, text.len() as u64, 0, 0, 0]) }
}

/// Ends the process.
pub fn exit(status: u32) -> ! {
    loop {
        // SAFETY: nothing of the program runs afterwards.
        let _ = unsafe { raw::call(raw::EXIT_GROUP, [status.into(), 0, 0, 0, 0, 0]) };
        // SAFETY: it only traps.
        unsafe { asm!("ud2", options(nomem, nostack)) };
    }
}

/// Makes memory of `size` bytes that can be mapped in several places: a file without a name.
///
/// # Errors
///
/// Linux's.
pub fn area_create(size: u64) -> Result<Handle, ErrorCode> {
    // SAFETY: the call only reads the name.
    let file = unsafe { raw::call(raw::MEMFD_CREATE, [c"area".as_ptr() as u64, 0, 0, 0, 0, 0]) }?;
    // SAFETY: nothing of the file is mapped.
    unsafe { raw::call(raw::FTRUNCATE, [file, size, 0, 0, 0, 0]) }?;
    Ok(Handle(file))
}

/// Maps `length` bytes of such memory from `offset` on, at `address` or (0) where there is room, and gives the address.
///
/// # Errors
///
/// Linux's.
#[inline]
pub fn area_map(area: Handle, address: u64, offset: u64, length: u64, access: Access) -> Result<u64, ErrorCode> {
    let arguments = [address, length, protection(access), MAP_SHARED | place(address), area.0, offset];
    // SAFETY: the call maps only what was free.
    unsafe { raw::call(raw::MMAP, arguments) }
}

/// Maps `size` bytes that are this process's alone, at `address` or (0) where there is room, and gives the address.
///
/// # Errors
///
/// Linux's.
#[inline]
pub fn area_create_and_map(size: u64, address: u64, access: Access) -> Result<u64, ErrorCode> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | place(address);
    // SAFETY: the call maps only what was free.
    unsafe { raw::call(raw::MMAP, [address, size, protection(access), flags, NO_FILE, 0]) }
}

/// Ends the mappings in a range.
///
/// # Errors
///
/// Linux's.
///
/// # Safety
///
/// Nothing of the program may use the range any more.
#[inline]
pub unsafe fn area_unmap(address: u64, length: u64) -> Result<(), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { raw::call(raw::MUNMAP, [address, length, 0, 0, 0, 0]) }.map(|_| ())
}

/// Changes what the mappings in a range allow; `None` forbids everything.
///
/// # Errors
///
/// Linux's.
///
/// # Safety
///
/// The program uses the range only as it is allowed from then on.
#[inline]
pub unsafe fn area_protect(address: u64, length: u64, access: Option<Access>) -> Result<(), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { raw::call(raw::MPROTECT, [address, length, access.map_or(0, protection), 0, 0, 0]) }.map(|_| ())
}

/// Shows what a range shows at another address, with another length; `destination` 0 leaves it where it is if it can stay there. Gives the new address.
///
/// # Errors
///
/// Linux's.
///
/// # Safety
///
/// Nothing of the program may use the old addresses any more, but for those that the new ones have among them, nor what is at the destination.
#[inline]
pub unsafe fn area_move(address: u64, length: u64, new_length: u64, destination: u64) -> Result<u64, ErrorCode> {
    let flags = if destination == 0 { REMAP_MAY_MOVE } else { REMAP_MAY_MOVE | REMAP_FIXED };
    // SAFETY: the caller's promise.
    unsafe { raw::call(raw::MREMAP, [address, length, new_length, flags, destination, 0]) }
}

/// Gives a handle back. That of a process has nothing left when it was waited for.
///
/// # Errors
///
/// Linux's.
#[inline]
pub fn handle_close(handle: Handle) -> Result<(), ErrorCode> {
    if handle.0 & PROCESS != 0 {
        return Ok(());
    }
    // SAFETY: the call changes no memory that is mapped.
    unsafe { raw::call(raw::CLOSE, [handle.0, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Makes a process with a copy of this one's memory, whose only thread begins at `entry`, and gives a handle of it.
///
/// # Errors
///
/// Linux's.
///
/// # Safety
///
/// `top` is a multiple of 16 and the end of a stack that is in the copy, long enough, and used by nothing that the copy uses.
#[inline(always)]
pub unsafe fn process_clone(entry: Entry, top: u64, argument: u64) -> Result<Handle, ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { raw::clone(entry, top, argument) }.map(|process| Handle(process | PROCESS))
}

/// Waits until a process is over, and gives its status, or `KILLED`.
///
/// # Errors
///
/// Linux's.
#[inline]
pub fn process_wait(process: Handle) -> Result<u64, ErrorCode> {
    let mut status = 0_u32;
    let arguments = [process.0 & !PROCESS, (&raw mut status) as u64, 0, 0, 0, 0];
    // SAFETY: the call writes to `status`, which is borrowed for as long.
    unsafe { raw::call(raw::WAIT4, arguments) }?;
    // The signal that has ended it stands in the lowest seven bits, the status above the lowest eight.
    Ok(if status & 0x7f == 0 { u64::from(status >> 8) } else { KILLED })
}

/// There are no threads here.
///
/// # Errors
///
/// [`ErrorCode::NotSupported`].
///
/// # Safety
///
/// Nothing is done.
pub unsafe fn thread_start(_: Entry, _: u64, _: u64) -> Result<(), ErrorCode> {
    Err(ErrorCode::NotSupported)
}

/// Ends the process, whose only thread this is.
pub fn thread_exit() -> ! {
    exit(0)
}

/// Lets another process run.
///
/// # Errors
///
/// None.
pub fn thread_yield() -> Result<(), ErrorCode> {
    // SAFETY: the call changes nothing.
    unsafe { raw::call(raw::SCHED_YIELD, [0; 6]) }.map(|_| ())
}

const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;

/// Waits until the word is woken, if it is `expected`: as long as it takes, which is all that is asked for here.
///
/// # Errors
///
/// Linux's; [`ErrorCode::NotSupported`] for another time than [`FOREVER`].
pub fn address_wait(word: &AtomicU32, expected: u32, microseconds: u64) -> Result<(), ErrorCode> {
    if microseconds != FOREVER {
        return Err(ErrorCode::NotSupported);
    }
    // SAFETY: the call reads the word, as an atomic load does.
    unsafe { raw::call(raw::FUTEX, [word.as_ptr() as u64, FUTEX_WAIT, expected.into(), 0, 0, 0]) }.map(|_| ())
}

/// Wakes at most so many of those who wait for the word, and gives how many they were.
///
/// # Errors
///
/// Linux's.
pub fn address_wake(word: &AtomicU32, count: u64) -> Result<u64, ErrorCode> {
    // SAFETY: the call changes no memory.
    unsafe { raw::call(raw::FUTEX, [word.as_ptr() as u64, FUTEX_WAKE, count, 0, 0, 0]) }
}

/// How often something has happened: ticks of the timer, from the coarse clock, which goes on with each of them and not otherwise.
///
/// # Errors
///
/// [`ErrorCode::NotSupported`] for what Linux does not tell.
pub fn kernel_count(count: Count) -> Result<u64, ErrorCode> {
    if count != Count::TimerInterrupts {
        return Err(ErrorCode::NotSupported);
    }
    let tick = nanoseconds(raw::CLOCK_GETRES)?;
    Ok(nanoseconds(raw::CLOCK_GETTIME)? / tick.max(1))
}

/// What a call says of the coarse clock.
fn nanoseconds(call: u64) -> Result<u64, ErrorCode> {
    const MONOTONIC_COARSE: u64 = 6;
    let mut time = [0_u64; 2];
    // SAFETY: the call writes seconds and nanoseconds to `time`, which is borrowed for as long.
    unsafe { raw::call(call, [MONOTONIC_COARSE, time.as_mut_ptr() as u64, 0, 0, 0, 0]) }?;
    let [seconds, nanoseconds] = time;
    Ok(seconds * 1_000_000_000 + nanoseconds)
}

// What a page is to programs of this kernel's is a page to this processor's Linux.
const _: () = assert!(PAGE_SIZE == 4096);
