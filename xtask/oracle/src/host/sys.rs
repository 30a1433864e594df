//! System calls without the C library between: no lock, no memory, nothing that belongs to a thread. A child of a fork has none of these.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

/// Makes a system call; gives what it returns: below 0 the errno.
///
/// # Safety
/// What the call does to memory is accounted for.
pub(super) unsafe fn call(number: libc::c_long, arguments: [u64; 6]) -> i64 {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result: i64;
    // SAFETY: the kernel changes these registers and no other; what it does to memory is the caller's to account for.
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
            options(nostack),
        );
    }
    result
}

/// Waits until the word is something else than `value`, a signal comes, or `seconds` have passed: false only for the last.
pub(super) fn wait(word: &AtomicU32, value: u32, seconds: i64) -> bool {
    let limit = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    let arguments =
        [word.as_ptr() as u64, libc::FUTEX_WAIT as u64, u64::from(value), core::ptr::from_ref(&limit) as u64, 0, 0];
    // SAFETY: the kernel reads the word and the limit, which live as long as the call.
    unsafe { call(libc::SYS_futex, arguments) != -i64::from(libc::ETIMEDOUT) }
}

/// Wakes whoever waits for the word.
pub(super) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the word's address alone.
    unsafe { call(libc::SYS_futex, [word.as_ptr() as u64, libc::FUTEX_WAKE as u64, i32::MAX as u64, 0, 0, 0]) };
}

/// Ends the process with all its threads.
pub(super) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: nothing of the process is left.
        unsafe { call(libc::SYS_exit_group, [code as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Opens a file for reading; its number, or below 0 the errno.
pub(super) fn open(path: &core::ffi::CStr) -> i64 {
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
    // SAFETY: the kernel reads the path.
    unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as u64, path.as_ptr() as u64, flags, 0, 0, 0]) }
}

pub(super) fn close(file: i64) {
    // SAFETY: files here are numbers that nothing else owns.
    unsafe { call(libc::SYS_close, [file as u64, 0, 0, 0, 0, 0]) };
}

/// Reads at an offset; how many bytes, or below 0 the errno.
pub(super) fn read_at(file: i64, into: &mut [u8], offset: u64) -> i64 {
    // SAFETY: the kernel writes to the slice alone.
    unsafe { call(libc::SYS_pread64, [file as u64, into.as_mut_ptr() as u64, into.len() as u64, offset, 0, 0]) }
}
