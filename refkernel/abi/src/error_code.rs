//! What a system call answers when it does not do what was asked, and how an answer fits into one register.

use core::fmt;

use crate::numbered::numbered;

numbered! {
    /// Why a system call did nothing. Numbers are small and positive; the register carries them negated.
    #[non_exhaustive]
    pub enum ErrorCode: u16 {
        /// The number in `rax` is no system call.
        UnknownCall = 1,
        /// The handle does not exist (never made, or closed), or is of another kind.
        BadHandle = 2,
        /// A pointer leads to memory that the program may not access so (or not at all).
        BadPointer = 3,
        /// An address, offset, size or length is not a multiple of the page size; the address of a word, not one of 4.
        Unaligned = 4,
        /// A length or size is 0.
        Empty = 5,
        /// A range wraps, is not canonical, or leaves [`USER_START`](crate::USER_START)..[`USER_END`](crate::USER_END).
        BadRange = 6,
        /// The range leaves the area.
        OutOfBounds = 7,
        /// Something is mapped in the range already.
        Occupied = 8,
        /// No free range is long enough.
        NoRoom = 9,
        /// The access bits are 0, unknown, or ask for write and execute together; or other bits or a number that name no right, advice or kind of caching.
        BadAccess = 10,
        /// The handle does not allow this access, or this call.
        Denied = 11,
        /// There is not enough physical memory.
        OutOfMemory = 12,
        /// The process holds as many handles as it may.
        TooManyHandles = 13,
        /// A length or size is above the limit of the call.
        TooLarge = 14,
        /// The kind of area does not support the call.
        NotSupported = 15,
        /// The range is still being unmapped on another processor: ask again.
        Retry = 16,
        /// There is no program of this name, or its file cannot be loaded.
        NoProgram = 17,
        /// There are as many processes, threads or channels as there may be.
        TooMany = 18,
        /// Nothing is mapped in a part of the range.
        NotMapped = 19,
        /// The channel's queue is full: ask again when the other end has received something.
        QueueFull = 20,
        /// The other end of the channel is closed, and nothing is left to receive; or this end was closed meanwhile.
        Closed = 21,
        /// The time is over.
        TimedOut = 22,
        /// The message is longer than the buffer, or carries more handles than the array holds: it stays in the queue.
        BufferTooSmall = 23,
        /// The word is not what it was expected to be.
        Changed = 24,
        /// A channel's end cannot be sent while another one is on its way to it, nor to an end that is on its way itself: ask again when it has been received.
        OnItsWay = 25,
        /// Something in the range is sealed: it stays as it is till the process ends.
        Sealed = 26,
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::UnknownCall => "the number is not a system call",
            Self::BadHandle => "the handle does not exist, or is of another kind",
            Self::BadPointer => "the pointer leads to memory that the program may not access so",
            Self::Unaligned => "an address, offset or length is not a multiple of the page size, or of the word's",
            Self::Empty => "the length is zero",
            Self::BadRange => "the range wraps, or leaves the part of the address space that is the program's",
            Self::OutOfBounds => "the range leaves the area: resize it first",
            Self::Occupied => "something is mapped in the range already: unmap it first",
            Self::NoRoom => "no free range is long enough",
            Self::BadAccess => {
                "the access, the rights or the advice is empty, unknown, or asks for write and execute together"
            }
            Self::Denied => "the handle does not allow this",
            Self::OutOfMemory => "there is not enough physical memory",
            Self::TooManyHandles => "the process holds as many handles as it may: close one first",
            Self::TooLarge => "the length is above the limit of the call",
            Self::NotSupported => "this kind of area does not support the call",
            Self::NoProgram => "there is no program of this name, or its file cannot be loaded",
            Self::TooMany => "there are as many processes, threads or channels as there may be",
            Self::NotMapped => "nothing is mapped in a part of the range",
            Self::QueueFull => "the channel's queue is full: ask again when something was received",
            Self::Closed => "the other end of the channel is closed, or this one",
            Self::TimedOut => "the time is over",
            Self::BufferTooSmall => "the message or its handles do not fit: give more room",
            Self::Changed => "the word is not what it was expected to be",
            Self::OnItsWay => {
                "a channel's end on its way cannot carry another one: ask again when it has been received"
            }
            Self::Sealed => "something in the range is sealed: it stays as it is till the process ends",
            Self::Retry => "the range is still being unmapped: ask again",
        })
    }
}

impl core::error::Error for ErrorCode {}

/// What a system call gives: a value, or why not.
pub type SystemResult = Result<u64, ErrorCode>;

/// The most negative result that is an error; what lies below is a value.
const ERROR_LAST: u64 = (-4095_i64) as u64;

/// Packs an answer into `rax`. A value must not lie in the last 4,095 numbers, where errors are: no handle, address or
/// length of this kernel does.
#[must_use]
#[inline]
pub fn encode_result(result: SystemResult) -> u64 {
    match result {
        Ok(value) => {
            debug_assert!(value < ERROR_LAST, "the value would be read as an error");
            value
        }
        Err(error) => u64::from(error.number()).wrapping_neg(),
    }
}

/// Unpacks an answer from `rax`.
///
/// # Errors
///
/// The error that the register carries. A number that this version does not know is [`ErrorCode::NotSupported`]: it came
/// from another kernel than the one that the program was built for.
#[inline]
pub fn decode_result(register: u64) -> SystemResult {
    if register < ERROR_LAST { Ok(register) } else { Err(decode_error(register)) }
}

#[cold]
#[inline(never)]
fn decode_error(register: u64) -> ErrorCode {
    let number = u16::try_from(register.wrapping_neg()).unwrap_or(u16::MAX);
    ErrorCode::from_number(number).unwrap_or(ErrorCode::NotSupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_register() {
        for error in ErrorCode::ALL {
            let register = encode_result(Err(error));
            assert!((register as i64) < 0 && (register as i64) >= -4095);
            assert_eq!(decode_result(register), Err(error));
        }
    }

    #[test]
    fn values_are_not_errors() {
        for value in [0, 1, 4096, 0x7fff_ffff_f000, 1 << 63, ERROR_LAST - 1] {
            assert_eq!(decode_result(encode_result(Ok(value))), Ok(value));
        }
        assert_eq!(decode_result(ERROR_LAST), Err(ErrorCode::NotSupported));
        assert_eq!(decode_result(u64::MAX), Err(ErrorCode::UnknownCall));
    }
}
