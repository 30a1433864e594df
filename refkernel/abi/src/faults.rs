//! Every kind of fault that a program can make: what an instance of `check` does, and either that it goes on or the message with which the kernel
//! ends it.
//!
//! The kernel's boot tests walk over [`Fault::ALL`]: they start `check` with [`Fault::argument`] and an area for its [`Record`], and
//! compare what the kernel says with [`Outcome`], character by character, the addresses filled in.
//!
//! | in a message | what is filled in |
//! |---|---|
//! | `{address}`, `{rip}` | what the program has recorded before it did it |
//! | `{text}`, `{rodata}`, `{data}`, `{stack}` | the loader's window of that name that has the address: its name, range and access |
//! | `{own}` | the window that the program has made and recorded, likewise |
//! | `{gap}` | that there is no window, and the next ones below and above |
//!
//! Where a machine may report one of two exceptions both messages stand here: QEMU raises a general
//! protection fault where processors raise a stack-segment fault, jumps before it finds that the target is not canonical, and has error codes of its own for interrupts.
//!
//! # What no program can make
//!
//! | vector | why |
//! |---|---|
//! | 1 by breakpoint registers | programs cannot write those |
//! | 1 by `int1` | it can, and is ended as for a single step; QEMU 7.2 stops for its debugger instead, so it is in no test |
//! | 2, 18 | the machine's own: they end it |
//! | 4, 5 | `into` and `bound` are no instructions of 64-bit programs; bound registers (MPX) are turned off |
//! | 7 | CR0.TS and CR0.EM stay clear: every thread's registers are saved |
//! | 8 | each trap has a stack that can be written |
//! | 9, 15, 22 to 31 | nothing raises them |
//! | 10 | there are no task switches but by software |
//! | 11 | every segment of the table is there |
//! | 17 | CR0.AM stays clear |
//! | 20, 21 | virtualisation exceptions and control-flow enforcement are turned off |
//! | 14, a pager's failure | the compressed store decompresses what it has compressed itself: only its damage would be told so |
//! | 14, a sealed window | sealing is about calls, which it makes errors; accesses are as the window allows |
//!
//! The kernel's own faults end the machine with a report (`test=panic`, `test=stack-overflow`, `test=triple-fault`); those in its
//! copies to and from programs are the `pointer-` rows.

//!
//! # The table

#![doc = include_str!("faults.md")]

use crate::PAGE_SIZE;

/// How an instance must fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, and exits with 0 if all was as it must be.
    GoesOn,
    /// The kernel ends it, and says so.
    Killed {
        /// What happened, and the reason: one of these.
        said: &'static [(&'static str, &'static str)],
        /// The window.
        window: &'static str,
    },
    /// Either, by the machine.
    GoesOnOrKilled {
        /// As for [`Outcome::Killed`].
        said: &'static [(&'static str, &'static str)],
        /// The window.
        window: &'static str,
    },
}

/// The argument of the first kind.
const FIRST: u64 = 3000;

/// The argument of an instance that counts in the first word of its area's second page for as long as it lives: what the others do must not stop it.
pub const BYSTANDER: u64 = 2999;

/// The bytes of the area that an instance is handed: a page for its [`Record`], and one for the bystander's count.
pub const AREA_SIZE: u64 = 2 * PAGE_SIZE;

/// How many windows of its own an instance records.
pub const WINDOWS_MAX: usize = 6;

/// What an instance leaves at the beginning of its area before it commits the fault: words, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// The address that will be accessed.
    pub address: u64,
    /// The address of the instruction.
    pub rip: u64,
    /// How many windows of its own there are.
    pub count: u64,
    /// Their first addresses, lengths, and bits of [`Access`](crate::Access).
    pub windows: [[u64; 3]; WINDOWS_MAX],
}

impl Record {
    /// The record in the bytes of an area.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or_default();
        let (address, rip, count) = (next(), next(), next());
        Self { address, rip, count, windows: core::array::from_fn(|_| [next(), next(), next()]) }
    }
}

macro_rules! faults {
    ($($fault:ident, $name:literal, $does:literal, $outcome:expr;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u64)]
        pub enum Fault {
            $(#[doc = concat!("It ", $does, ".")] $fault,)*
        }

        impl Fault {
            /// Every kind, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$fault),*];

            /// Its name in the list of tests.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }

            /// What an instance does.
            #[must_use]
            pub const fn does(self) -> &'static str {
                match self {
                    $(Self::$fault => $does,)*
                }
            }

            /// How it must fare.
            #[must_use]
            pub const fn outcome(self) -> Outcome {
                match self {
                    $(Self::$fault => $outcome,)*
                }
            }
        }
    };
}

const NULL: &str = "nothing is mapped there, nor ever is below 0x10000: a null pointer";
const NOTHING: &str = "nothing is mapped there";
const KERNEL: &str = "the address is the kernel's";
const NO_ADDRESS: &str = "none, no program has one there";
const NOT_CANONICAL: &str = "there is no such address: it is not canonical (bits 63 to 47 differ)";
const STEP: &str = "the trap flag is set, and nobody steps through programs here";
const DIVIDE: &str = "the divisor is zero, or the quotient has no room in its register";
const NO_INSTRUCTION: &str = "the processor has no such instruction, or the kernel has it turned off";
const OPERANDS: &str = "the instruction, with these operands and flags, is not for programs";
/// The window of an instruction that made no access.
const INSTRUCTION: &str = "the instruction's: {text}";

/// An access that the memory manager refuses.
macro_rules! page_fault {
    ("execution", $reason:expr, $window:expr) => {
        killed(&[("page fault: execution at {address}, by the instruction at {address}", $reason)], $window)
    };
    ($access:literal, $reason:expr, $window:expr) => {
        killed(&[(concat!("page fault: ", $access, " at {address}, by the instruction at {rip}"), $reason)], $window)
    };
}

/// An exception that is about no address.
macro_rules! trap {
    ($name:literal, $place:literal, $reason:expr) => {
        killed(&[(concat!($name, ", ", $place, " the instruction at {rip}"), $reason)], INSTRUCTION)
    };
}

/// An exception of a floating-point unit.
macro_rules! unmasked {
    ($name:literal, $unit:literal, $what:literal) => {
        trap!($name, "by", concat!("the program has asked ", $unit, " for an exception, and there was ", $what))
    };
}

/// A general protection fault.
macro_rules! protection {
    ($error:literal, $reason:expr) => {
        killed(
            &[(
                concat!("general protection fault (vector 13, error code ", $error, "), by the instruction at {rip}"),
                $reason,
            )],
            INSTRUCTION,
        )
    };
    (access, $rip:literal) => {
        concat!(
            "general protection fault (vector 13, error code 0x0): access at {address}, by the instruction at ",
            $rip
        )
    };
}

macro_rules! privileged {
    ($name:literal) => {
        protection!("0x0", concat!("`", $name, "` is for the kernel alone"))
    };
}

/// A gate that is not for programs: the error code as processors have it, and as QEMU does.
macro_rules! interrupt {
    ($vector:literal, $error:literal, $emulated:literal) => {
        killed(
            &[
                (
                    concat!(
                        "general protection fault (vector 13, error code ",
                        $error,
                        "), by the instruction at {rip}"
                    ),
                    concat!("no program raises interrupt ", $vector, ": system calls are made by `syscall`"),
                ),
                (
                    concat!(
                        "general protection fault (vector 13, error code ",
                        $emulated,
                        "), by the instruction at {rip}"
                    ),
                    concat!("no program raises interrupt ", $vector, ": system calls are made by `syscall`"),
                ),
            ],
            INSTRUCTION,
        )
    };
}

/// An access at an address that is none.
macro_rules! not_canonical {
    ("access") => {
        killed(&[(protection!(access, "{rip}"), NOT_CANONICAL)], NO_ADDRESS)
    };
    ("branch") => {
        killed(
            &[(protection!(access, "{rip}"), NOT_CANONICAL), (protection!(access, "{address}"), NOT_CANONICAL)],
            NO_ADDRESS,
        )
    };
    ("stack") => {
        killed(
            &[
                (protection!(access, "{rip}"), NOT_CANONICAL),
                (
                    "stack-segment fault (vector 12, error code 0x0): access at {address}, by the instruction at {rip}",
                    NOT_CANONICAL,
                ),
            ],
            NO_ADDRESS,
        )
    };
}

/// Behind a system call, or behind the instruction after it.
const STEP_OVER_CALL: Outcome = killed(
    &[
        ("debug exception (vector 1, error code 0x0), before the instruction at {rip}", STEP),
        ("debug exception (vector 1, error code 0x0), before the instruction at {address}", STEP),
    ],
    INSTRUCTION,
);
const MISALIGNED: Outcome = killed(
    &[(protection!(access, "{rip}"), "the operand is not aligned to 16 bytes, as this instruction needs it")],
    "{own}",
);
/// Some processors do not have it in 64-bit programs.
const SYSTEM_ENTER: Outcome = killed(
    &[
        (
            "general protection fault (vector 13, error code 0x0), by the instruction at {rip}",
            "`sysenter` leads nowhere: system calls are made by `syscall`",
        ),
        ("invalid opcode (vector 6, error code 0x0), by the instruction at {rip}", NO_INSTRUCTION),
    ],
    INSTRUCTION,
);

/// As it should, on a processor. QEMU 7.2 reads the stack for it as the kernel would.
const RETURN_TO_SELF: Outcome = Outcome::GoesOnOrKilled {
    said: &[(
        "page fault: read at {address}, by the instruction at {rip}",
        "the processor accesses it as the kernel would, which may not: the instruction is not for programs",
    )],
    window: "{stack}",
};

const fn killed(said: &'static [(&'static str, &'static str)], window: &'static str) -> Outcome {
    Outcome::Killed { said, window }
}

faults! {
    WriteFresh, "write-fresh", "writes to memory that was never touched, also across the border of two pages, and reads it back",
        Outcome::GoesOn;
    ReadFresh, "read-fresh", "reads memory that was never touched: it is zero; then writes to it",
        Outcome::GoesOn;
    WriteData, "write-data", "writes to its static data, whose pages come from its file",
        Outcome::GoesOn;
    GrowStack, "grow-stack", "uses stack that was never touched",
        Outcome::GoesOn;
    CopyOnWrite, "copy-on-write", "writes, after a copy of the process was made, to memory that both have",
        Outcome::GoesOn;
    Straddle, "straddle", "accesses eight bytes that lie in two windows",
        Outcome::GoesOn;
    Swappable, "swappable", "touches memory that can be taken away",
        Outcome::GoesOn;
    ReadNull, "read-null", "reads address 0x10",
        page_fault!("read", NULL, "{gap}");
    WriteNull, "write-null", "writes address 0",
        page_fault!("write", NULL, "{gap}");
    ExecuteNull, "execute-null", "calls address 0",
        page_fault!("execution", NULL, "{gap}");
    ReadNothing, "read-nothing", "reads behind the last window of its own",
        page_fault!("read", NOTHING, "{gap}");
    WriteNothing, "write-nothing", "writes there",
        page_fault!("write", NOTHING, "{gap}");
    ExecuteNothing, "execute-nothing", "calls code there",
        page_fault!("execution", NOTHING, "{gap}");
    StraddleEnd, "straddle-end", "writes eight bytes of which four lie behind the end of a window",
        page_fault!("write", NOTHING, "{gap}");
    ReadUnmapped, "read-unmapped", "reads a page after it has unmapped it",
        page_fault!("read", NOTHING, "{gap}");
    WriteUnmapped, "write-unmapped", "writes to a page after it has unmapped it",
        page_fault!("write", NOTHING, "{gap}");
    ReadLastPage, "read-last-page", "reads the last page below the addresses that are not canonical",
        page_fault!("read", "no program has that address: theirs end at 0x7fffffffefff", NO_ADDRESS);
    OverflowStack, "overflow-stack", "uses up its stack",
        page_fault!("write", "it is the guard page below the stack: the stack is used up", "{stack}");
    ReadGuard, "read-guard", "reads the guard below its stack",
        page_fault!("read", "it is the guard page below the stack: the stack is used up", "{stack}");
    OverflowUpwards, "overflow-upwards", "writes beyond the end of its stack",
        page_fault!("write", "it is the guard page above the stack", "{stack}");
    WriteText, "write-text", "writes to its text",
        page_fault!("write", "the window allows r-x, not -w-", "{text}");
    WriteConstants, "write-constants", "writes to its constants",
        page_fault!("write", "the window allows r--, not -w-", "{rodata}");
    WriteReadOnly, "write-read-only", "writes to an area that it has mapped to be read",
        page_fault!("write", "the window allows r--, not -w-", "{own}");
    WriteProtected, "write-protected", "writes to a page that it has written to, and made read only",
        page_fault!("write", "the window allows r--, not -w-", "{own}");
    WriteSealed, "write-sealed", "writes to a read-only page that it has sealed",
        page_fault!("write", "the window allows r--, not -w-", "{own}, sealed");
    WriteDevice, "write-device", "writes to device memory that it has mapped to be read",
        page_fault!("write", "the window allows r--, not -w-", "{own}");
    ReadForbidden, "read-forbidden", "reads a page of which it has forbidden everything",
        page_fault!("read", "the window allows ---, not r--", "{own}");
    WriteForbidden, "write-forbidden", "writes to it",
        page_fault!("write", "the window allows ---, not -w-", "{own}");
    ExecuteConstants, "execute-constants", "calls its constants",
        page_fault!("execution", "the window allows r--, not --x", "{rodata}");
    ExecuteData, "execute-data", "calls its static data",
        page_fault!("execution", "the window allows rw-, not --x", "{data}");
    ExecuteStack, "execute-stack", "calls its stack",
        page_fault!("execution", "the window allows rw-, not --x", "{stack}");
    ExecuteArea, "execute-area", "calls an area that it has mapped to be read and written",
        page_fault!("execution", "the window allows rw-, not --x", "{own}");
    ReadPastCut, "read-past-cut", "reads a page after it has cut its area before it",
        page_fault!("read", "the area that the window shows ends before that page", "{own}");
    WritePastCut, "write-past-cut", "writes to it",
        page_fault!("write", "the area that the window shows ends before that page", "{own}");
    ReadKernel, "read-kernel", "reads the kernel's memory",
        page_fault!("read", KERNEL, NO_ADDRESS);
    WriteKernel, "write-kernel", "writes there",
        page_fault!("write", KERNEL, NO_ADDRESS);
    ExecuteKernel, "execute-kernel", "calls code there",
        page_fault!("execution", KERNEL, NO_ADDRESS);
    ReadKernelHole, "read-kernel-hole", "reads an address of the kernel's half where nothing is",
        page_fault!("read", KERNEL, NO_ADDRESS);
    PushKernel, "push-kernel", "pushes with a stack pointer that leads to the kernel's memory",
        page_fault!("write", KERNEL, NO_ADDRESS);
    ReadNonCanonical, "read-non-canonical", "reads an address that is not canonical",
        not_canonical!("access");
    WriteNonCanonical, "write-non-canonical", "writes there",
        not_canonical!("access");
    CopyNonCanonical, "copy-non-canonical", "copies from there by a string instruction",
        not_canonical!("access");
    PushNonCanonical, "push-non-canonical", "pushes with a stack pointer that is not canonical",
        not_canonical!("stack");
    FrameNonCanonical, "frame-non-canonical", "reads by a frame pointer that is not canonical",
        not_canonical!("stack");
    JumpNonCanonical, "jump-non-canonical", "jumps to an address that is not canonical",
        not_canonical!("branch");
    ReturnNonCanonical, "return-non-canonical", "returns to an address that is not canonical",
        not_canonical!("branch");
    DivideByZero, "divide-by-zero", "divides by zero",
        trap!("divide error (vector 0, error code 0x0)", "by", DIVIDE);
    DivideOverflow, "divide-overflow", "divides what is too large",
        trap!("divide error (vector 0, error code 0x0)", "by", DIVIDE);
    SingleStep, "single-step", "sets the trap flag",
        trap!("debug exception (vector 1, error code 0x0)", "before", STEP);
    StepIntoCall, "step-into-call", "makes a system call with the trap flag set",
        STEP_OVER_CALL;
    StepStackSwitch, "step-stack-switch", "loads the stack segment with the trap flag set, and makes a system call right behind it",
        STEP_OVER_CALL;
    Breakpoint, "breakpoint", "executes `int3`",
        trap!("breakpoint (vector 3, error code 0x0)", "before", "a breakpoint, and nobody debugs programs here");
    Unreachable, "unreachable", "executes `ud2`",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", "`ud2`: the program came to where it says it never comes");
    Into, "into", "executes `into`, which 64-bit programs do not have",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", NO_INSTRUCTION);
    Bound, "bound", "executes `bound`, which 64-bit programs do not have",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", NO_INSTRUCTION);
    Avx, "avx", "executes an instruction of AVX, which is turned off",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", NO_INSTRUCTION);
    ReadSegmentBase, "read-segment-base", "executes `rdfsbase`, which is turned off",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", NO_INSTRUCTION);
    ReadExtendedControl, "read-extended-control", "executes `xgetbv`, which is turned off",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", NO_INSTRUCTION);
    ClearAccessCheck, "clear-access-check", "executes `clac`",
        trap!("invalid opcode (vector 6, error code 0x0)", "by", NO_INSTRUCTION);
    DisableInterrupts, "disable-interrupts", "executes `cli`",
        privileged!("cli");
    EnableInterrupts, "enable-interrupts", "executes `sti`",
        privileged!("sti");
    Halt, "halt", "executes `hlt`",
        privileged!("hlt");
    InputByte, "input-byte", "reads an I/O port",
        privileged!("in");
    OutputByte, "output-byte", "writes to an I/O port",
        privileged!("out");
    OutputString, "output-string", "writes to an I/O port from memory",
        privileged!("outs");
    ReadModelRegister, "read-model-register", "executes `rdmsr`",
        privileged!("rdmsr");
    WriteModelRegister, "write-model-register", "executes `wrmsr`",
        privileged!("wrmsr");
    ReadControl, "read-control", "reads CR0",
        privileged!("mov of a control register");
    WriteControl, "write-control", "writes CR3",
        privileged!("mov of a control register");
    WriteDebug, "write-debug", "writes DR7",
        privileged!("mov of a debug register");
    LoadDescriptorTable, "load-descriptor-table", "executes `lgdt`",
        privileged!("lgdt");
    LoadInterruptTable, "load-interrupt-table", "executes `lidt`",
        privileged!("lidt");
    LoadLocalTable, "load-local-table", "executes `lldt`",
        privileged!("lldt");
    LoadTask, "load-task", "executes `ltr`",
        privileged!("ltr");
    InvalidatePage, "invalidate-page", "executes `invlpg`",
        privileged!("invlpg");
    WriteBackCaches, "write-back-caches", "executes `wbinvd`",
        privileged!("wbinvd");
    ClearTaskSwitched, "clear-task-switched", "executes `clts`",
        privileged!("clts");
    SwapBase, "swap-base", "executes `swapgs`",
        privileged!("swapgs");
    ReturnFromCall, "return-from-call", "executes `sysret`",
        privileged!("sysret");
    ReadCounter, "read-counter", "executes `rdpmc`",
        privileged!("rdpmc");
    StoreDescriptorTable, "store-descriptor-table", "executes `sgdt`",
        privileged!("sgdt");
    StoreInterruptTable, "store-interrupt-table", "executes `sidt`",
        privileged!("sidt");
    StoreLocalTable, "store-local-table", "executes `sldt`",
        privileged!("sldt");
    StoreTask, "store-task", "executes `str`",
        privileged!("str");
    StoreMachineStatus, "store-machine-status", "executes `smsw`",
        privileged!("smsw");
    InterruptLinux, "interrupt-linux", "executes `int 128`",
        interrupt!("128", "0x402", "0x802");
    InterruptPageFault, "interrupt-page-fault", "executes `int 14`",
        interrupt!("14", "0x72", "0xe2");
    InterruptNonMaskable, "interrupt-non-maskable", "executes `int 2`",
        interrupt!("2", "0x12", "0x22");
    InterruptDoubleFault, "interrupt-double-fault", "executes `int 8`",
        interrupt!("8", "0x42", "0x82");
    InterruptOverflow, "interrupt-overflow", "executes `int 4`",
        interrupt!("4", "0x22", "0x42");
    InterruptAbsent, "interrupt-absent", "executes `int 9`",
        interrupt!("9", "0x4a", "0x92");
    InterruptTimer, "interrupt-timer", "executes `int 32`",
        interrupt!("32", "0x102", "0x202");
    InterruptLast, "interrupt-last", "executes `int 255`",
        interrupt!("255", "0x7fa", "0xff2");
    LoadKernelSelector, "load-kernel-selector", "loads the kernel's data segment",
        protection!("0x10", "no program has the segment of selector 0x10");
    LoadLocalSelector, "load-local-selector", "loads a segment of the local table, which is not there",
        protection!("0x4", "no program has the segment of selector 0x4");
    LoadAbsentSelector, "load-absent-selector", "loads a segment behind the end of the table",
        protection!("0xfff8", "no program has the segment of selector 0xfff8");
    LoadNullStack, "load-null-stack", "loads the stack segment with nothing",
        protection!("0x0", OPERANDS);
    JumpToKernelSegment, "jump-to-kernel-segment", "jumps into the kernel's code segment",
        protection!("0x8", "no program has the segment of selector 0x8");
    ReturnToKernelSegment, "return-to-kernel-segment", "executes `iret` into the kernel's code segment",
        protection!("0x8", "no program has the segment of selector 0x8");
    ReturnNested, "return-nested", "executes `iret` with the nested task flag set",
        protection!("0x0", OPERANDS);
    ReturnToSelf, "return-to-self", "executes `iret` to the instruction behind it",
        RETURN_TO_SELF;
    TooLong, "too-long", "executes an instruction of 16 bytes",
        protection!("0x0", "the instruction is longer than 15 bytes");
    Misaligned, "misaligned", "loads 16 bytes by `movaps` from where they are not aligned",
        MISALIGNED;
    SystemEnter, "system-enter", "executes `sysenter`",
        SYSTEM_ENTER;
    X87Division, "x87-division", "divides by zero in the x87 unit, whose exceptions it has asked for",
        unmasked!("x87 floating-point error (vector 16, error code 0x0)", "x87", "a division by zero");
    X87Invalid, "x87-invalid", "takes the square root of -1 there",
        unmasked!("x87 floating-point error (vector 16, error code 0x0)", "x87", "an invalid operation");
    SimdDivision, "simd-division", "divides by zero in SSE, whose exceptions it has asked for",
        unmasked!("SIMD floating-point exception (vector 19, error code 0x0)", "SSE", "a division by zero");
    MaskedExceptions, "masked-exceptions", "divides by zero in x87 and SSE, whose exceptions are masked",
        Outcome::GoesOn;
    AlignmentFlag, "alignment-flag", "accesses what is not aligned with the alignment flag set, which means nothing here",
        Outcome::GoesOn;
    PrivilegedFlags, "privileged-flags", "writes flags that are not its to change, which stay",
        Outcome::GoesOn;
    UnknownCall, "unknown-call", "makes system calls with numbers that are none: each is an error",
        Outcome::GoesOn;
    CallFlags, "call-flags", "makes a system call with the nested task, direction and alignment flags set",
        Outcome::GoesOn;
    PointerNull, "pointer-null", "has the kernel read at address 0x10, and write there: errors",
        Outcome::GoesOn;
    PointerGuard, "pointer-guard", "has the kernel read at the guard below its stack, and write there: errors",
        Outcome::GoesOn;
    PointerForbidden, "pointer-forbidden", "has the kernel read at a page of which everything is forbidden, and write there: errors",
        Outcome::GoesOn;
    PointerCut, "pointer-cut", "has the kernel read at a page past its area's end, and write there: errors",
        Outcome::GoesOn;
    PointerUnmapped, "pointer-unmapped", "has the kernel read at a page that was unmapped, and write there: errors",
        Outcome::GoesOn;
    PointerKernel, "pointer-kernel", "has the kernel read at the kernel's memory, and write there: errors",
        Outcome::GoesOn;
    PointerNonCanonical, "pointer-non-canonical", "has the kernel read at an address that is not canonical, and write there: errors",
        Outcome::GoesOn;
    PointerWrapping, "pointer-wrapping", "has the kernel read at the last byte of all, and write there: errors",
        Outcome::GoesOn;
    PointerReadOnly, "pointer-read-only", "has the kernel write to a read-only page: an error",
        Outcome::GoesOn;
    InThread, "in-thread", "reads address 0x10 in a second thread: the process ends with it",
        page_fault!("read", NULL, "{gap}");
    InCopy, "in-copy", "makes a copy of itself that reads address 0x10: the copy is ended, this one goes on",
        Outcome::GoesOn;
    OutOfMemory, "out-of-memory", "touches pages until there are no more",
        page_fault!("write", "there is no memory for the page, and none that could be taken away elsewhere", "{own}");
}

impl Fault {
    /// The argument of `check`.
    #[must_use]
    pub const fn argument(self) -> u64 {
        FIRST + self as u64
    }

    /// The kind with this argument, if there is one.
    #[must_use]
    pub fn from_argument(argument: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(argument.checked_sub(FIRST)?).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;
    use std::string::String;

    use super::*;

    /// The table as it stands in the documentation: `WRITE_TABLE=1 cargo test --package refkernel-abi` writes it.
    #[test]
    fn documentation_is_what_the_table_says() {
        let mut table = String::from(
            "| kind | what the program does | killed | reason | window |
|---|---|---|---|---|
",
        );
        for fault in Fault::ALL {
            let head = format!("| {} | {}", fault.name(), fault.does());
            table += &match fault.outcome() {
                Outcome::GoesOn => format!(
                    "{head} | goes on | | |
"
                ),
                Outcome::Killed { said, window } | Outcome::GoesOnOrKilled { said, window } => {
                    let either = matches!(fault.outcome(), Outcome::GoesOnOrKilled { .. });
                    let head = head + if either { " | goes on, or: " } else { " | " };
                    let [killed, reason] = [0, 1].map(|part| {
                        let mut texts = String::new();
                        for (at, (killed, reason)) in said.iter().enumerate() {
                            let text = if part == 0 { killed } else { reason };
                            // The same reason for both is said once.
                            if part == 1 && at != 0 && *text == said[0].1 {
                                continue;
                            }
                            texts += if at == 0 { "" } else { ", or: " };
                            texts += text;
                        }
                        texts
                    });
                    format!(
                        "{head} | {killed} | {reason} | {window} |
"
                    )
                }
            };
        }
        if std::env::var_os("WRITE_TABLE").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/faults.md"), &table).unwrap();
        }
        assert!(table == include_str!("faults.md"), "`faults.md` is not what the table says");
    }

    #[test]
    fn numbers_round_trip_and_names_differ() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_argument(fault.argument()), Some(*fault));
            assert_eq!(Fault::ALL.iter().filter(|other| other.name() == fault.name()).count(), 1, "{fault:?}");
        }
        for argument in [0, BYSTANDER, FIRST + Fault::ALL.len() as u64, u64::MAX] {
            assert_eq!(Fault::from_argument(argument), None);
        }
    }

    #[test]
    fn messages_name_the_place_and_the_window() {
        for fault in Fault::ALL {
            let (Outcome::Killed { said, window } | Outcome::GoesOnOrKilled { said, window }) = fault.outcome() else {
                continue;
            };
            assert!(!said.is_empty() && !window.is_empty(), "{fault:?}");
            for (killed, reason) in said {
                assert!(killed.contains(" the instruction at {") && !reason.is_empty(), "{fault:?}");
            }
        }
    }
}
