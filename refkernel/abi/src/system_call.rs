//! The numbers of the system calls, and what each takes and gives.

use core::fmt;

/// A system call. The kernel makes one with [`TryFrom`] from what it finds in `rax`; an unknown number is answered
/// with [`ErrorCode::UnknownCall`](crate::ErrorCode::UnknownCall).
///
/// Not `#[non_exhaustive]`: kernel and programs are built together, and a call that the kernel's `match` forgets
/// must be an error of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum SystemCall {
    /// `null()` → 0. Does nothing: the smallest way into the kernel and back, for measuring.
    Null = 0,
    /// `write(pointer, length)` → bytes written. Sends text to the log. `length` may be 0 and is at most
    /// [`WRITE_LENGTH_MAX`](crate::WRITE_LENGTH_MAX); the caller ends its lines itself. Bytes other
    /// than printable ASCII, newline and tab reach the log as `?`, so that no program sends control sequences to a terminal. All of the range must be readable by the program
    /// (memory that was not touched yet counts: it reads as zero).
    Write = 1,
    /// `exit(status)` → does not return. Only the low 32 bits of `status` are kept; 0 is success.
    Exit = 2,
    /// `area_create(size)` → handle. Makes an area of `size` bytes (a multiple of the page size, not 0, at most
    /// [`AREA_SIZE_MAX`](crate::AREA_SIZE_MAX)) that reads as zero. Takes no memory for its pages before they are touched. The handle allows to read, write and resize it, not
    /// to execute it: code comes with the program.
    AreaCreate = 3,
    /// `area_map(handle, address, offset, length, access)` → address. Makes `length` bytes of the area from `offset` on
    /// visible at `address`, or where there is room if `address` is 0. `access` is made of the bits of [`Access`](crate::Access). An
    /// address that is given must be free: nothing is ever mapped over.
    AreaMap = 4,
    /// `area_unmap(address, length)` → 0. Ends every window, or part of a window, in the range. The areas
    /// keep their pages.
    AreaUnmap = 5,
    /// `area_resize(handle, size)` → 0. Grows the area (new pages read as zero) or cuts it (pages past the new end are gone,
    /// and windows onto them fault).
    AreaResize = 6,
    /// `handle_close(handle)` → 0. Gives the handle back. Windows onto its area stay; a process goes on.
    HandleClose = 7,
    /// `process_start(name, length, argument)` → handle. Starts the program of the boot module with that name (at most
    /// [`NAME_LENGTH_MAX`](crate::NAME_LENGTH_MAX) bytes) as a new process, which finds `argument` in its start information and gets no handles.
    ProcessStart = 8,
    /// `process_clone(entry, stack, argument)` → handle. Makes a process with a copy of this one's memory as it is now, and of its handles, whose
    /// only thread begins at `entry` with `rsp` = `stack` and `rdi` = `argument`, every other register zero. What the program was loaded with and its
    /// stack are copied when one of the two writes; windows onto areas that a program made show the same areas in both.
    ProcessClone = 9,
    /// `process_wait(handle)` → ending. Waits until the process is over. The ending is its status where it has exited, and
    /// [`KILLED`](crate::KILLED) where the kernel or another process has ended it.
    ProcessWait = 10,
    /// `process_kill(handle)` → 0. Ends the process: its threads end as soon as they notice, which [`ProcessWait`](Self::ProcessWait) waits
    /// for. Nothing happens to one that is over.
    ProcessKill = 11,
    /// `thread_start(entry, stack, argument)` → 0. Starts one more thread of this process, as `process_clone` does in the other one.
    ThreadStart = 12,
    /// `thread_exit()` → does not return. Ends the thread alone; a process whose last thread ends so has exited with 0.
    ThreadExit = 13,
    /// `thread_yield()` → 0. Lets another thread run, if one waits for its turn.
    ThreadYield = 14,
    /// `thread_sleep(microseconds)` → 0. Waits so long at least.
    ThreadSleep = 15,
}

impl SystemCall {
    /// Every call, in the order of the numbers.
    pub const ALL: [Self; 16] = [
        Self::Null,
        Self::Write,
        Self::Exit,
        Self::AreaCreate,
        Self::AreaMap,
        Self::AreaUnmap,
        Self::AreaResize,
        Self::HandleClose,
        Self::ProcessStart,
        Self::ProcessClone,
        Self::ProcessWait,
        Self::ProcessKill,
        Self::ThreadStart,
        Self::ThreadExit,
        Self::ThreadYield,
        Self::ThreadSleep,
    ];

    /// The number that goes into `rax`.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// The name, as the documentation writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Write => "write",
            Self::Exit => "exit",
            Self::AreaCreate => "area_create",
            Self::AreaMap => "area_map",
            Self::AreaUnmap => "area_unmap",
            Self::AreaResize => "area_resize",
            Self::HandleClose => "handle_close",
            Self::ProcessStart => "process_start",
            Self::ProcessClone => "process_clone",
            Self::ProcessWait => "process_wait",
            Self::ProcessKill => "process_kill",
            Self::ThreadStart => "thread_start",
            Self::ThreadExit => "thread_exit",
            Self::ThreadYield => "thread_yield",
            Self::ThreadSleep => "thread_sleep",
        }
    }
}

/// A number that is no system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSystemCall(
    /// The number as it was found in `rax`.
    pub u64,
);

impl fmt::Display for UnknownSystemCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x} is not a system call: the numbers are 0 to {}", self.0, SystemCall::ALL.len() - 1)
    }
}

impl core::error::Error for UnknownSystemCall {}

impl TryFrom<u64> for SystemCall {
    type Error = UnknownSystemCall;

    fn try_from(number: u64) -> Result<Self, UnknownSystemCall> {
        usize::try_from(number).ok().and_then(|index| Self::ALL.get(index).copied()).ok_or(UnknownSystemCall(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_others_are_refused() {
        for call in SystemCall::ALL {
            assert_eq!(SystemCall::try_from(call.number()), Ok(call));
        }
        for number in [16, 17, 4096, 1 << 32, 1 << 63, u64::MAX] {
            assert_eq!(SystemCall::try_from(number), Err(UnknownSystemCall(number)));
        }
    }
}
