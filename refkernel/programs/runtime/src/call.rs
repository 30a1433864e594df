//! The system calls, typed.
//!
//! Each wrapper is named after its call; `refkernel-abi` says what a call does and which errors it gives.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use refkernel_abi::{
    Access, Advice, Caching, Count, ErrorCode, Handle, HandleKind, MESSAGE_HANDLES_MAX, Rights, SystemCall,
    decode_result,
};

/// Calls the kernel with any number and any arguments, and gives what it left in `rax`.
///
/// # Safety
///
/// The call may take away or change memory that the program uses: the arguments must be those of a call that does not, or the
/// caller must hold no reference into what it changes.
#[inline(always)]
pub unsafe fn raw(number: u64, arguments: [u64; 6]) -> u64 {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result;
    // SAFETY: the kernel preserves everything but what is listed (refkernel-abi), uses no memory of the program's stack, and
    // the caller answers for what the call does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            lateout("xmm0") _, lateout("xmm1") _, lateout("xmm2") _, lateout("xmm3") _,
            lateout("xmm4") _, lateout("xmm5") _, lateout("xmm6") _, lateout("xmm7") _,
            lateout("xmm8") _, lateout("xmm9") _, lateout("xmm10") _, lateout("xmm11") _,
            lateout("xmm12") _, lateout("xmm13") _, lateout("xmm14") _, lateout("xmm15") _,
            options(nostack),
        );
    }
    result
}

/// Makes a call and unpacks its answer.
///
/// # Safety
///
/// As for [`raw`].
#[inline(always)]
unsafe fn call(call: SystemCall, arguments: [u64; 6]) -> Result<u64, ErrorCode> {
    // SAFETY: the caller's promise.
    decode_result(unsafe { raw(call.number(), arguments) })
}

/// Does nothing, in the kernel.
///
/// # Errors
///
/// None in a kernel that keeps the contract.
#[inline]
pub fn null() -> Result<(), ErrorCode> {
    let result;
    // SAFETY: the call changes nothing and has no arguments; the rest as in `raw`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SystemCall::Null.number() => result,
            lateout("rcx") _,
            lateout("r11") _,
            lateout("xmm0") _, lateout("xmm1") _, lateout("xmm2") _, lateout("xmm3") _,
            lateout("xmm4") _, lateout("xmm5") _, lateout("xmm6") _, lateout("xmm7") _,
            lateout("xmm8") _, lateout("xmm9") _, lateout("xmm10") _, lateout("xmm11") _,
            lateout("xmm12") _, lateout("xmm13") _, lateout("xmm14") _, lateout("xmm15") _,
            options(nostack, nomem),
        );
    }
    decode_result(result).map(|_| ())
}

/// Sends text to the log by the handle that the program was started with, and gives how many bytes were sent.
///
/// # Errors
///
/// [`ErrorCode::TooLarge`] for more than `WRITE_LENGTH_MAX` bytes; [`ErrorCode::BadHandle`] for a program that was not given the log.
pub fn write(text: &[u8]) -> Result<u64, ErrorCode> {
    let arguments = [crate::console().0, text.as_ptr() as u64, text.len() as u64, 0, 0, 0];
    // SAFETY: the call only reads `text`, which is borrowed for as long.
    unsafe { call(SystemCall::Write, arguments) }
}

/// Ends the program.
pub fn exit(status: u32) -> ! {
    // SAFETY: nothing of the program runs afterwards.
    unsafe { raw(SystemCall::Exit.number(), [status.into(), 0, 0, 0, 0, 0]) };
    loop {
        // A kernel that comes back here is broken: an instruction that must kill the program is all that is left.
        // SAFETY: it only traps.
        unsafe { asm!("ud2", options(nomem, nostack)) };
    }
}

/// Makes an area of `size` bytes.
///
/// # Errors
///
/// See [`SystemCall::AreaCreate`].
pub fn area_create(size: u64) -> Result<Handle, ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::AreaCreate, [size, 0, 0, 0, 0, 0]) }.map(Handle)
}

/// Makes an area of `size` zero bytes whose pages the kernel may take away and bring back.
///
/// # Errors
///
/// See [`SystemCall::AreaCreateSwappable`].
pub fn area_create_swappable(size: u64) -> Result<Handle, ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::AreaCreateSwappable, [size, 0, 0, 0, 0, 0]) }.map(Handle)
}

/// Maps `length` bytes of an area from `offset` on, at `address` or (0) where there is room, and gives
/// the address.
///
/// # Errors
///
/// See [`SystemCall::AreaMap`].
pub fn area_map(area: Handle, address: u64, offset: u64, length: u64, access: Access) -> Result<u64, ErrorCode> {
    let arguments = [area.0, address, offset, length, access.bits(), 0];
    // SAFETY: the call maps only what was free.
    unsafe { call(SystemCall::AreaMap, arguments) }
}

/// Ends the windows in a range.
///
/// # Errors
///
/// See [`SystemCall::AreaUnmap`].
///
/// # Safety
///
/// Nothing of the program may use the range any more.
pub unsafe fn area_unmap(address: u64, length: u64) -> Result<(), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { call(SystemCall::AreaUnmap, [address, length, 0, 0, 0, 0]) }.map(|_| ())
}

/// Changes the size of an area.
///
/// # Errors
///
/// See [`SystemCall::AreaResize`].
///
/// # Safety
///
/// Nothing of the program may use what is cut off any more.
pub unsafe fn area_resize(area: Handle, size: u64) -> Result<(), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { call(SystemCall::AreaResize, [area.0, size, 0, 0, 0, 0]) }.map(|_| ())
}

/// Gives a handle back.
///
/// # Errors
///
/// [`ErrorCode::BadHandle`].
pub fn handle_close(handle: Handle) -> Result<(), ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::HandleClose, [handle.0, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Starts a program of the boot module with the log, if this one has it, and gives a handle of its process.
///
/// # Errors
///
/// See [`SystemCall::ProcessStart`] and [`SystemCall::HandleDuplicate`].
pub fn process_start(name: &str, argument: u64) -> Result<Handle, ErrorCode> {
    if !crate::console().is_some() {
        return process_start_with(name, argument, &[]);
    }
    let console = handle_duplicate(crate::console(), Rights::WRITE | Rights::SHARE)?;
    process_start_with(name, argument, &[console]).inspect_err(|_| {
        let _ = handle_close(console);
    })
}

/// Starts a program of the boot module with these handles, which are its from then on, and gives a handle of its process.
///
/// # Errors
///
/// See [`SystemCall::ProcessStart`].
pub fn process_start_with(name: &str, argument: u64, handles: &[Handle]) -> Result<Handle, ErrorCode> {
    let (name, handles) = ((name.as_ptr() as u64, name.len() as u64), (handles.as_ptr() as u64, handles.len() as u64));
    let arguments = [name.0, name.1, argument, handles.0, handles.1, 0];
    // SAFETY: the call only reads `name` and `handles`, which are borrowed for as long.
    unsafe { call(SystemCall::ProcessStart, arguments) }.map(Handle)
}

/// Where a thread begins: with what it was given, on its own stack, and never back from there.
pub type Entry = extern "C" fn(u64) -> !;

/// The stack pointer for a thread whose stack ends at `top`, a multiple of 16: as a call would have left it.
const fn entered(top: u64) -> u64 {
    top - 8
}

/// Makes a process with a copy of this one's memory and handles, whose only thread begins at `entry`, and gives a handle of it.
///
/// # Errors
///
/// See [`SystemCall::ProcessClone`].
///
/// # Safety
///
/// `top` is a multiple of 16 and the end of a stack that is in the copy, long enough, and used by nothing that the copy uses.
// In registers, for whoever measures the call alone: the first write behind it, to the stack, is to a page that is the copy's too.
#[inline(always)]
pub unsafe fn process_clone(entry: Entry, top: u64, argument: u64) -> Result<Handle, ErrorCode> {
    // SAFETY: the call changes nothing of this process's memory; the caller answers for the copy's.
    unsafe { call(SystemCall::ProcessClone, [entry as usize as u64, entered(top), argument, 0, 0, 0]) }.map(Handle)
}

/// Waits until a process is over, and gives its status, or `KILLED`.
///
/// # Errors
///
/// [`ErrorCode::BadHandle`].
pub fn process_wait(process: Handle) -> Result<u64, ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::ProcessWait, [process.0, 0, 0, 0, 0, 0]) }
}

/// Ends a process.
///
/// # Errors
///
/// [`ErrorCode::BadHandle`].
pub fn process_kill(process: Handle) -> Result<(), ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::ProcessKill, [process.0, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Starts one more thread of this process.
///
/// # Errors
///
/// See [`SystemCall::ThreadStart`].
///
/// # Safety
///
/// `top` is a multiple of 16 and the end of a stack that is long enough and the thread's alone.
pub unsafe fn thread_start(entry: Entry, top: u64, argument: u64) -> Result<(), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { call(SystemCall::ThreadStart, [entry as usize as u64, entered(top), argument, 0, 0, 0]) }.map(|_| ())
}

/// Ends this thread.
pub fn thread_exit() -> ! {
    // SAFETY: nothing of the thread runs afterwards.
    unsafe { raw(SystemCall::ThreadExit.number(), [0; 6]) };
    // A kernel that comes back here is broken.
    exit(refkernel_abi::program_status::FAILURE)
}

/// Lets another thread run.
///
/// # Errors
///
/// None in a kernel that keeps the contract.
pub fn thread_yield() -> Result<(), ErrorCode> {
    // SAFETY: the call changes nothing.
    unsafe { call(SystemCall::ThreadYield, [0; 6]) }.map(|_| ())
}

/// Waits so many microseconds at least.
///
/// # Errors
///
/// None in a kernel that keeps the contract.
pub fn thread_sleep(microseconds: u64) -> Result<(), ErrorCode> {
    // SAFETY: the call changes nothing.
    unsafe { call(SystemCall::ThreadSleep, [microseconds, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Makes an area of `size` bytes that is this process's alone, shows all of it at `address` or (0) where there is room, and gives the address.
///
/// # Errors
///
/// See [`SystemCall::AreaCreateAndMap`].
pub fn area_create_and_map(size: u64, address: u64, access: Access) -> Result<u64, ErrorCode> {
    // SAFETY: the call maps only what was free.
    unsafe { call(SystemCall::AreaCreateAndMap, [size, address, access.bits(), 0, 0, 0]) }
}

/// Changes what the windows in a range allow; `None` forbids everything.
///
/// # Errors
///
/// See [`SystemCall::AreaProtect`].
///
/// # Safety
///
/// The program uses the range only as it is allowed from then on.
pub unsafe fn area_protect(address: u64, length: u64, access: Option<Access>) -> Result<(), ErrorCode> {
    let bits = access.map_or(0, Access::bits);
    // SAFETY: the caller's promise.
    unsafe { call(SystemCall::AreaProtect, [address, length, bits, 0, 0, 0]) }.map(|_| ())
}

/// Says something about the memory in a range.
///
/// # Errors
///
/// See [`SystemCall::AreaAdvise`].
///
/// # Safety
///
/// Nothing of the program relies on the contents of what it says is not needed.
pub unsafe fn area_advise(address: u64, length: u64, advice: Advice) -> Result<(), ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { call(SystemCall::AreaAdvise, [address, length, advice.number(), 0, 0, 0]) }.map(|_| ())
}

/// Makes another handle of the same thing, with these rights.
///
/// # Errors
///
/// See [`SystemCall::HandleDuplicate`].
pub fn handle_duplicate(handle: Handle, rights: Rights) -> Result<Handle, ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::HandleDuplicate, [handle.0, rights.bits(), 0, 0, 0, 0]) }.map(Handle)
}

/// What a handle names and allows.
///
/// # Errors
///
/// [`ErrorCode::BadHandle`]; [`ErrorCode::NotSupported`] for a kind that this version does not know.
pub fn handle_inspect(handle: Handle) -> Result<(HandleKind, Rights), ErrorCode> {
    // SAFETY: the call changes nothing.
    let number = unsafe { call(SystemCall::HandleInspect, [handle.0, 0, 0, 0, 0, 0]) }?;
    HandleKind::and_rights(number).ok_or(ErrorCode::NotSupported)
}

/// Makes an area of the machine's device memory.
///
/// # Errors
///
/// See [`SystemCall::PhysicalArea`].
pub fn physical_area(physical: Handle, address: u64, size: u64, caching: Caching) -> Result<Handle, ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::PhysicalArea, [physical.0, address, size, caching.number(), 0, 0]) }.map(Handle)
}

/// Makes a channel, and gives its ends.
///
/// # Errors
///
/// See [`SystemCall::ChannelCreate`].
pub fn channel_create() -> Result<[Handle; 2], ErrorCode> {
    let mut ends = [Handle::NONE; 2];
    // SAFETY: the call writes two handles to the array, which is theirs.
    unsafe { call(SystemCall::ChannelCreate, [ends.as_mut_ptr() as u64, 0, 0, 0, 0, 0]) }?;
    Ok(ends)
}

/// Sends bytes and handles, which are the receiver's from then on.
///
/// # Errors
///
/// See [`SystemCall::ChannelSend`].
pub fn channel_send(end: Handle, bytes: &[u8], handles: &[Handle]) -> Result<(), ErrorCode> {
    let arguments =
        [end.0, bytes.as_ptr() as u64, bytes.len() as u64, handles.as_ptr() as u64, handles.len() as u64, 0];
    // SAFETY: the call only reads both, which are borrowed for as long.
    unsafe { call(SystemCall::ChannelSend, arguments) }.map(|_| ())
}

/// Receives a message, waiting so many microseconds at the most, and gives how many bytes and handles it had.
///
/// # Errors
///
/// See [`SystemCall::ChannelReceive`].
pub fn channel_receive(
    end: Handle,
    bytes: &mut [u8],
    handles: &mut [Handle],
    microseconds: u64,
) -> Result<(usize, usize), ErrorCode> {
    let (bytes, room) =
        ((bytes.as_mut_ptr() as u64, bytes.len() as u64), handles.len().min(MESSAGE_HANDLES_MAX) as u64);
    let arguments = [end.0, bytes.0, bytes.1, handles.as_mut_ptr() as u64, room, microseconds];
    // SAFETY: the call writes to both, which are borrowed exclusively for as long.
    let answer = unsafe { call(SystemCall::ChannelReceive, arguments) }?;
    Ok((answer as u32 as usize, (answer >> 32) as usize))
}

/// Waits until the word is woken, if it is `expected`.
///
/// # Errors
///
/// See [`SystemCall::AddressWait`].
pub fn address_wait(word: &AtomicU32, expected: u32, microseconds: u64) -> Result<(), ErrorCode> {
    // SAFETY: the call reads the word, as an atomic load does.
    unsafe { call(SystemCall::AddressWait, [word.as_ptr() as u64, expected.into(), microseconds, 0, 0, 0]) }.map(|_| ())
}

/// Wakes at most so many of those who wait for the word, and gives how many they were.
///
/// # Errors
///
/// See [`SystemCall::AddressWake`].
pub fn address_wake(word: &AtomicU32, count: u64) -> Result<u64, ErrorCode> {
    // SAFETY: the call changes no memory.
    unsafe { call(SystemCall::AddressWake, [word.as_ptr() as u64, count, 0, 0, 0, 0]) }
}

/// Shows what a range shows at another address, with another length; `destination` 0 leaves it where it is if it can stay there. Gives the new address.
///
/// # Errors
///
/// See [`SystemCall::AreaMove`].
///
/// # Safety
///
/// Nothing of the program may use the old addresses any more, but for those that the new ones have among them.
pub unsafe fn area_move(address: u64, length: u64, new_length: u64, destination: u64) -> Result<u64, ErrorCode> {
    // SAFETY: the caller's promise.
    unsafe { call(SystemCall::AreaMove, [address, length, new_length, destination, 0, 0]) }
}

/// How often something has happened.
///
/// # Errors
///
/// See [`SystemCall::KernelCount`].
pub fn kernel_count(count: Count) -> Result<u64, ErrorCode> {
    // SAFETY: the call changes nothing.
    unsafe { call(SystemCall::KernelCount, [count.number(), 0, 0, 0, 0, 0]) }
}

/// Makes an area whose `size` bytes of memory come twice in a row.
///
/// # Errors
///
/// See [`SystemCall::AreaCreateRing`].
pub fn area_create_ring(size: u64) -> Result<Handle, ErrorCode> {
    // SAFETY: the call changes no memory that is mapped.
    unsafe { call(SystemCall::AreaCreateRing, [size, 0, 0, 0, 0, 0]) }.map(Handle)
}

/// Seals the windows in a range: they stay as they are till the process ends.
///
/// # Errors
///
/// See [`SystemCall::AreaSeal`].
pub fn area_seal(address: u64, length: u64) -> Result<(), ErrorCode> {
    // SAFETY: the call changes no memory, nor what may be done with it.
    unsafe { call(SystemCall::AreaSeal, [address, length, 0, 0, 0, 0]) }.map(|_| ())
}
