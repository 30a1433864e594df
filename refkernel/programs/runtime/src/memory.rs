//! The memory functions that compiled code calls, for targets whose `core` expects them of a C library.
//!
//! Copying and filling are string instructions of the processor: a loop in Rust would be recognised by the compiler as the very
//! function that it implements, and become a call of itself. The direction flag is clear on entry, as the C ABI has it.

use core::arch::asm;

/// # Safety
///
/// As C's `memcpy`: both ranges are valid and do not overlap.
// SAFETY: the name and the signature are C's, and no other crate of a program defines it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise covers every byte that is read and written.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rdi") destination => _,
            inout("rsi") source => _,
            options(nostack, preserves_flags),
        );
    }
    destination
}

/// # Safety
///
/// As C's `memmove`: both ranges are valid; they may overlap.
// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    let distance = (destination as usize).wrapping_sub(source as usize);
    if distance >= length {
        // The destination starts before the source or after its end: going up never overwrites what is still to be read.
        // SAFETY: the caller's promise; going up is right even if the ranges overlap.
        return unsafe { memcpy(destination, source, length) };
    }
    // SAFETY: the caller's promise covers every byte; the last of each range is where going down starts. `length` is not 0,
    // being greater than `distance`. The direction flag is clear again afterwards.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") length => _,
            inout("rdi") destination.add(length - 1) => _,
            inout("rsi") source.add(length - 1) => _,
            options(nostack),
        );
    }
    destination
}

/// # Safety
///
/// As C's `memset`: the range is valid.
// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(destination: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise covers every byte that is written.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") length => _,
            inout("rdi") destination => _,
            in("al") value as u8,
            options(nostack, preserves_flags),
        );
    }
    destination
}

/// # Safety
///
/// As C's `memcmp`: both ranges are valid.
// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: `index < length`, and the caller promises that many bytes on both sides.
        let (left, right) = unsafe { (left.add(index).read(), right.add(index).read()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
///
/// As C's `bcmp`: both ranges are valid.
// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise is that of `memcmp`.
    unsafe { memcmp(left, right, length) }
}
