//! The numbers of the system calls, and what each takes and gives.

use crate::numbered::numbered;

numbered! {
    /// A system call: its arguments in order, what it gives, what it needs, and what it costs. Addresses, sizes, lengths and offsets are in bytes, times in microseconds; *n* is how many windows the process
    /// has. Errors that several calls share mean what [`ErrorCode`](crate::ErrorCode) says: a handle that names nothing or another kind of thing, or lacks a right (`BadHandle`, `Denied`); a pointer to memory that the
    /// program may not access so (`BadPointer`); a range that is empty, no whole pages, or not the program's (`Empty`, `Unaligned`, `BadRange`); no memory (`OutOfMemory`), no place for one more handle (`TooManyHandles`).
    /// An unknown number is answered with [`ErrorCode::UnknownCall`](crate::ErrorCode::UnknownCall).
    ///
    /// Not `#[non_exhaustive]`: kernel and programs are built together, and a call that the kernel's `match` forgets
    /// must be an error of the compiler.
    pub enum SystemCall: u64 {
        /// `null()` → 0. Does nothing: the smallest way into the kernel and back, for measuring.
        Null = 0,
        /// `write(console, pointer, length)` → bytes written. Sends text to the log, by a handle of the console with the right to write. `length` may be 0 and is at most
        /// [`WRITE_LENGTH_MAX`](crate::WRITE_LENGTH_MAX); the caller ends its lines itself. Bytes other
        /// than printable ASCII, newline and tab reach the log as `?`, so that no program sends control sequences to a terminal. All of the range must be readable by the program
        /// (memory that was not touched yet counts: it reads as zero).
        Write = 1,
        /// `exit(status)` → does not return. Only the low 32 bits of `status` are kept; 0 is success.
        Exit = 2,
        /// `area_create(size)` → handle. Makes an area of `size` bytes (a multiple of the page size, not 0, at most
        /// [`AREA_SIZE_MAX`](crate::AREA_SIZE_MAX)) that reads as zero. Takes no memory for its pages before they are touched. The handle has
        /// [`Rights::OWN_AREA`](crate::Rights::OWN_AREA): not to execute it, since code comes with the program.
        AreaCreate = 3,
        /// `area_map(handle, address, offset, length, access)` → address. Makes `length` bytes of the area from `offset` on
        /// visible at `address`, or, if `address` is 0, where there is room: at a place that is drawn at random. `access` is made of the bits of [`Access`](crate::Access). An
        /// address that is given must be free: nothing is ever mapped over. The handle needs the right to map, and those of the access. A clone of the process
        /// gets a window onto the same area.
        AreaMap = 4,
        /// `area_unmap(address, length)` → 0. Ends every window, or part of a window, in the range. The areas
        /// keep their pages.
        AreaUnmap = 5,
        /// `area_resize(handle, size)` → 0. Grows the area (new pages read as zero) or cuts it (pages past the new end are gone,
        /// and windows onto them fault). The handle needs the right to resize.
        AreaResize = 6,
        /// `handle_close(handle)` → 0. Gives the handle back. Windows onto its area stay; a process goes on. With the last handle of a channel's end the end is closed:
        /// whoever waits at it, or at the other one with nothing left to receive, is told so; messages that nobody can receive any more are dropped with their handles.
        HandleClose = 7,
        /// `process_start(name, length, argument, handles, count)` → handle. Starts the program of the boot module with that name (at most
        /// [`NAME_LENGTH_MAX`](crate::NAME_LENGTH_MAX) bytes) as a new process, which finds `argument` in its start information, and there, by their numbers in its own table, the handles that it was given:
        /// `count` (at most [`START_HANDLES_MAX`](crate::START_HANDLES_MAX)) of the caller's, in the array of 8 bytes each at `handles`. They move with their rights, need the right to share, and are all different; where
        /// the call fails the caller keeps them. It has nothing else: no console unless one is passed on.
        ProcessStart = 8,
        /// `process_clone(entry, stack, argument)` → handle. Makes a process with a copy of this one's memory as it is now, and of its handles, whose
        /// only thread begins at `entry` with `rsp` = `stack` and `rdi` = `argument`, every other register zero. What the program was loaded with and its
        /// stack, and [`AreaCreateAndMap`](Self::AreaCreateAndMap)'s memory, are copied when one of the two writes; windows onto areas that a program has mapped by a handle show the same areas in both.
        ProcessClone = 9,
        /// `process_wait(handle)` → ending. Waits until the process is over. The ending is its status where it has exited, and
        /// [`KILLED`](crate::KILLED) where the kernel or another process has ended it. The handle needs the right to wait.
        ProcessWait = 10,
        /// `process_kill(handle)` → 0. Ends the process: its threads end as soon as they notice, which [`ProcessWait`](Self::ProcessWait) waits
        /// for. Nothing happens to one that is over. The handle needs the right to end.
        ProcessKill = 11,
        /// `thread_start(entry, stack, argument)` → 0. Starts one more thread of this process, as `process_clone` does in the other one.
        ThreadStart = 12,
        /// `thread_exit()` → does not return. Ends the thread alone; a process whose last thread ends so has exited with 0.
        ThreadExit = 13,
        /// `thread_yield()` → 0. Lets another thread run, if one waits for its turn.
        ThreadYield = 14,
        /// `thread_sleep(microseconds)` → 0. Waits so long at least.
        ThreadSleep = 15,
        /// `area_create_and_map(size, address, access)` → address. Makes an area as [`AreaCreate`](Self::AreaCreate) does, and shows all of it at `address`, or where there is room if that is 0. There is no handle: the
        /// area lives as long as a window shows it, and a clone of the process gets a copy. Errors as of the two calls; executing is `Denied`. Costs O(log n), two calls less than to create, map and close; no
        /// memory for pages before they are touched.
        AreaCreateAndMap = 16,
        /// `area_protect(address, length, access)` → 0. Gives all windows, and parts of windows, in the range this access; 0 forbids everything and keeps the pages. Something must be mapped in all of the range, and
        /// what each window was mapped with must have the rights. What is taken away is gone when the call returns, on every processor; what is added costs a fault
        /// for each page that is used so. Also `NotMapped`, `BadAccess`, and `Denied`, with nothing changed. Costs O(log n), and the windows and table entries that lose something.
        AreaProtect = 17,
        /// `area_advise(address, length, advice)` → 0. Says something about memory that the program will or will not use: one of [`Advice`](crate::Advice). Something must be mapped in
        /// all of the range. Also `NotMapped`, and `BadAccess` for another number, with nothing changed. Costs O(log n), and the windows and pages of the range.
        AreaAdvise = 18,
        /// `handle_duplicate(handle, rights)` → handle. Makes another handle of the same thing, with these [`Rights`](crate::Rights), none of which the given one may lack. That one needs the right
        /// to share. Also `BadAccess` for bits that are no right. O(1).
        HandleDuplicate = 19,
        /// `handle_inspect(handle)` → kind and rights. What the handle names and allows, as [`HandleKind::from_number`](crate::HandleKind::from_number) reads it. O(1).
        HandleInspect = 20,
        /// `physical_area(physical, address, size, caching)` → handle. Makes an area of the machine's memory from the physical address on, both multiples of the page size, for whoever has a
        /// handle of physical memory with the right to it. Only what is no RAM and not the kernel's own is to be had: devices. [`Caching`](crate::Caching) must agree with how the kernel itself, and others, use the memory. The
        /// handle has [`Rights::GIVEN_AREA`](crate::Rights::GIVEN_AREA). Also `Denied` for RAM and for what the kernel uses itself, `BadRange` beyond what the processor reaches, `BadAccess` for another number, and
        /// `NotSupported` where somebody maps it with other caching. Costs O(regions of the machine's memory). The kernel does not reach such memory but through the window: no thread waits for a word in it.
        PhysicalArea = 21,
        /// `channel_create(pointer)` → 0. Makes a channel and writes the handles of its two ends to the 16 bytes at `pointer`. What is sent to one end is received from the other one, in order. Each has
        /// [`Rights::CHANNEL`](crate::Rights::CHANNEL). Also `TooMany`. Costs O(channels of the machine), and no memory.
        ChannelCreate = 22,
        /// `channel_send(end, bytes, length, handles, count)` → 0. Sends a message of `length` bytes (0 to [`MESSAGE_LENGTH_MAX`](crate::MESSAGE_LENGTH_MAX)) and `count` handles (at most
        /// [`MESSAGE_HANDLES_MAX`](crate::MESSAGE_HANDLES_MAX); an array of 8 bytes each), which move with their rights: they need the right to share and are all different. `end` needs the right to write, and may be among them.
        ///
        /// Where a thread waits to receive, the bytes are copied straight from here to there; else they wait in memory of the kernel's, of which each
        /// end has room for [`QUEUE_LENGTH_MAX`](crate::QUEUE_LENGTH_MAX) messages. The call does not wait. When it fails nothing was sent, and the caller keeps its handles: it was
        /// [`QueueFull`](crate::ErrorCode::QueueFull), [`Closed`](crate::ErrorCode::Closed), [`OutOfMemory`](crate::ErrorCode::OutOfMemory), or
        /// [`OnItsWay`](crate::ErrorCode::OnItsWay): an end that is in a message itself takes no message with ends of channels, and an end to which such are under way is not sent (so nothing can be on its way to itself). `TooLarge` for more bytes or handles than there may be.
        ///
        /// Costs O(bytes + pages × log n of both processes); one copy and no memory but for pages that the receiver has not touched yet, or else two copies and one to five frames until it is received.
        ChannelSend = 23,
        /// `channel_receive(end, bytes, capacity, handles, count, microseconds)` → length of the message, and how many handles it had in bits 63..32. Waits so long at the most ([`FOREVER`](crate::FOREVER); 0 does not
        /// wait) for a message at this end, which needs the right to read; writes its bytes, and the numbers that its handles have here.
        /// Messages come in the order in which they were sent, each to one receiver. Messages that were sent before the other end was closed are received still.
        ///
        /// When it fails no message was taken: [`BufferTooSmall`](crate::ErrorCode::BufferTooSmall), [`TooManyHandles`](crate::ErrorCode::TooManyHandles) and [`BadPointer`](crate::ErrorCode::BadPointer) leave the first
        /// one in the queue. The buffers may be written to by a call that fails.
        /// Also `TimedOut`, `Closed` (also when the last handle of this end is closed by another thread), and `TooMany` waiting threads. Costs O(bytes); a thread that waits costs nothing.
        ChannelReceive = 24,
        /// `address_wait(address, expected, microseconds)` → 0. Waits, if the word of 32 bits at `address` (a multiple of 4) is `expected`, until it is woken or the time is over. That it is so, and that it
        /// waits from then on, is one step: a word that is changed first, and a wake that follows, is never missed. `Changed`, if it is another one.
        ///
        /// Who waits is found by what the address shows: by a place in an area, at whatever address of whatever process. After a clone the copy's private memory is another place.
        /// Also `TimedOut`, `TooMany` waiting threads, and `NotSupported` for device memory. It may be woken by who means another thread: look at the word again. Costs O(log n).
        AddressWait = 25,
        /// `address_wake(address, count)` → how many were woken: at most `count` of those who wait for the word at `address` (a multiple of 4), the first come first. Costs O(log n), and those who wait at places that share its list.
        AddressWake = 26,
        /// `area_move(address, length, new_length, destination)` → the new address. Shows what the range shows at `destination` (which must be free), or, where that is 0, where it is if `new_length` fits there and
        /// else where there is room; and gives it another length. Pages and rights go along, nothing is copied, and the old addresses are free when the call returns. What is cut off is unmapped. What is grown
        /// reads as zero: private memory becomes larger with its window, and of an area that has handles more is shown, as far as it goes.
        /// The range must be of one window, and end with it if it is to grow. Also `NotMapped`, `Occupied`, `NoRoom`, `OutOfBounds` where such an area ends, `TooLarge`, and `NotSupported` where several windows lie in the range, with nothing changed.
        /// Costs O(log n, and tables of the range): one entry for each 2 MiB where both places are aligned to it, else one for each page that is there.
        AreaMove = 27,
        /// `kernel_count(number)` → the count. How often something has happened since the machine was started, on all processors: one of [`Count`](crate::Count). Also `BadAccess` for another number. O(processors).
        KernelCount = 28,
        /// `area_create_ring(size)` → handle. Makes an area whose `size` bytes of memory (a multiple of the page size, not 0, at most half of [`AREA_SIZE_MAX`](crate::AREA_SIZE_MAX)) come twice in
        /// a row: byte `i` and byte `size + i` of the area are the same. A window of all of it, `2 * size` bytes long, shows a buffer without a wrap: what begins anywhere in the first half can be as long
        /// as the memory. It reads as zero, and takes no memory for its pages before they are touched. The handle has [`Rights::GIVEN_AREA`](crate::Rights::GIVEN_AREA): a ring keeps its size. Who waits for a
        /// word in it ([`AddressWait`](Self::AddressWait)) waits for the memory, in whichever half it is looked at. Errors and cost as of [`AreaCreate`](Self::AreaCreate).
        AreaCreateRing = 29,
        /// `area_create_swappable(size)` → handle. As [`AreaCreate`](Self::AreaCreate), of memory whose pages the kernel may take away when there is none left, those first that were not in use lately: it
        /// keeps what they hold, compressed, and a page comes back when it is touched. A program never sees that but by the time that it takes. The first touch of a page costs more than
        /// of other memory. Also `TooMany`: there are 256 such areas at the most.
        AreaCreateSwappable = 30,
        /// `area_seal(address, length)` → 0. Leaves all windows, and parts of windows, in the range as they are till the process ends: from then on nothing of it is unmapped, protected, or given up by
        /// [`Advice::NotNeeded`](crate::Advice::NotNeeded) and [`FreeLazily`](crate::Advice::FreeLazily), by whomever (`Sealed`). What is in it is read and written as before; a clone of the process has it sealed as well; an area that is resized by a handle
        /// is cut all the same. Something must be mapped in all of the range. Also `NotMapped`, with nothing changed; sealing twice changes nothing. Costs O(log n), and the windows of the range.
        AreaSeal = 31,
    }
}

impl SystemCall {
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
            Self::AreaCreateAndMap => "area_create_and_map",
            Self::AreaProtect => "area_protect",
            Self::AreaAdvise => "area_advise",
            Self::HandleDuplicate => "handle_duplicate",
            Self::HandleInspect => "handle_inspect",
            Self::PhysicalArea => "physical_area",
            Self::ChannelCreate => "channel_create",
            Self::ChannelSend => "channel_send",
            Self::ChannelReceive => "channel_receive",
            Self::AddressWait => "address_wait",
            Self::AddressWake => "address_wake",
            Self::AreaMove => "area_move",
            Self::KernelCount => "kernel_count",
            Self::AreaCreateRing => "area_create_ring",
            Self::AreaCreateSwappable => "area_create_swappable",
            Self::AreaSeal => "area_seal",
        }
    }
}
