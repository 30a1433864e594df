//! The argument numbers of the programs `demo` and `check`: which part a started instance plays, and how it must end.
//!
//! The kernel's boot tests are a walk over [`CheckRole::ALL`]: start `check` with the number, compare how it ended
//! with [`CheckRole::must`].

use crate::numbered::numbered;

/// How an instance of a program must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It calls `exit` with this status.
    Exits(u32),
    /// The kernel kills it with a message, and goes on.
    Killed(Cause),
}

/// What the kernel kills a program for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A page fault of this kind, wherever.
    Fault(Attempt),
    /// A page fault of this kind, at exactly this address.
    FaultAt(Attempt, u64),
    /// A page fault of this kind, at exactly the first of [`StartInformation::kernel`](crate::StartInformation::kernel).
    KernelFault(Attempt),
    /// Another trap, by its vector (Intel SDM Vol. 3A, 7.3.1).
    Trap(u8),
}

/// What a program attempts with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// To read it.
    Read,
    /// To write it.
    Write,
    /// To execute it.
    Execute,
}

const DIVIDE_ERROR: u8 = 0;
const DEBUG_EXCEPTION: u8 = 1;
const INVALID_OPCODE: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;

/// An instance of `check` that runs until it is ended from outside.
pub const SPIN: u64 = 1000;
/// An instance of `check` that another one has started with handles: an end of a channel first, over which it says what it was given and echoes what it gets.
pub const ECHO: u64 = 1001;

/// An instance of `check` that goes over more memory than the machine has, started by hand: 40 MiB, or as often that as the upper half of the argument says.
pub const PRESSURE: u64 = 1002;

/// Rounds after which a program of [`CheckRole::TakenAway`] has made every kind of call.
pub const TAKEN_AWAY_FIRST_ROUNDS: u64 = 4;

/// The first instance of `demo`: works, and exits with 0.
pub const DEMO_WORKS: u64 = 0;
/// The second instance of `demo`: reads address 0x10 and must be killed.
pub const DEMO_BAD_ACCESS: u64 = 1;
/// How that instance must end.
pub const DEMO_BAD_ACCESS_ENDING: Ending = Ending::Killed(Cause::FaultAt(Attempt::Read, 0x10));

/// The part that `init` plays: where nobody watches, it comes to its end by itself.
pub const INIT_ALONE: u64 = 0;
/// The part where somebody does: then the animation goes on until everything is ended.
pub const INIT_WATCHED: u64 = 1;

/// What `init` writes to the first word of the area that it was handed, when all that is to be seen in the picture of memory is there.
pub const INIT_READY: u64 = 1;
/// What the kernel writes there when the picture is drawn.
pub const INIT_DRAWN: u64 = 2;

/// How an argument tells a program of the screen whose area it is handed by another program: in the upper 48 bits, all zero without one. The kernel says it in the
/// [start information](crate::StartInformation) instead.
///
/// ```text
///   63..48       47..32   31..16   15..0
///   pitch / 4    height   width    the argument itself
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScreenSize {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub pitch: u32,
}

impl ScreenSize {
    /// The argument with this screen; `None` for sizes that do not fit.
    #[must_use]
    pub fn with_argument(self, argument: u16) -> Option<u64> {
        let fields = [self.pitch / 4, self.height, self.width, argument.into()];
        let whole = self.pitch % 4 == 0;
        fields
            .into_iter()
            .try_fold(0, |sum, field| Some(sum << 16 | u64::from(u16::try_from(field).ok()?)))
            .filter(|_| whole)
    }

    /// The screen of an argument, and the argument itself.
    #[must_use]
    pub const fn from_argument(argument: u64) -> (Option<Self>, u16) {
        let size = Self {
            width: argument as u32 >> 16,
            height: (argument >> 32) as u32 & 0xffff,
            pitch: (argument >> 48) as u32 * 4,
        };
        (if size.width == 0 { None } else { Some(size) }, argument as u16)
    }
}

/// What `stress` is started with: for how long, and where its random choices begin.
///
/// ```text
///   63     62..48   47..32    31..0
///   0      0        seconds   seed
/// ```
///
/// Bit 63 is the program's own, for the processes that it starts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stress {
    /// How many seconds; 0 is a few of them.
    pub seconds: u16,
    /// The same seed makes the same choices.
    pub seed: u32,
}

impl Stress {
    /// The number that goes into [`StartInformation::argument`](crate::StartInformation::argument).
    #[must_use]
    pub const fn argument(self) -> u64 {
        (self.seconds as u64) << 32 | self.seed as u64
    }

    /// What a number says.
    #[must_use]
    pub const fn from_argument(argument: u64) -> Self {
        Self { seconds: (argument >> 32) as u16, seed: argument as u32 }
    }
}

numbered! {
    /// The parts that `check` plays.
    ///
    /// The two about sharing need [`StartInformation::area`](crate::StartInformation::area), the same area for both, the writer first.
    /// Those about the kernel's half need [`StartInformation::kernel`](crate::StartInformation::kernel), whose first address they use. The
    /// others need nothing from the kernel but the number.
    pub enum CheckRole: u64 {
        /// Checks everything that a program can see and survive.
        Survivor = 0,
        /// Writes to its own text.
        WriteText = 1,
        /// Jumps into its static data.
        ExecuteData = 2,
        /// Jumps into its stack.
        ExecuteStack = 3,
        /// Jumps into an area that it mapped to be read and written.
        ExecuteArea = 4,
        /// Writes to a page, unmaps it, reads it.
        ReadUnmapped = 5,
        /// Writes to an area that it mapped to be read only.
        WriteReadOnly = 6,
        /// Cuts an area and reads a page past its new end, which it had written.
        ReadPastCut = 7,
        /// Reads an address of the kernel's half that the kernel uses.
        ReadKernel = 8,
        /// Reads a non-canonical address.
        ReadNonCanonical = 9,
        /// Recurses until its stack meets the guard page.
        OverflowStack = 10,
        /// Executes `cli`, which is the kernel's to use.
        Privileged = 11,
        /// Divides by zero.
        DivideByZero = 12,
        /// Executes an undefined instruction.
        UndefinedInstruction = 13,
        /// Pushes onto a stack pointer that leads to memory that the kernel uses.
        KernelStackPointer = 14,
        /// Sets the trap flag: the kernel must neither stop nor trace itself.
        TrapFlag = 15,
        /// Touches 1,024 pages and exits without giving anything back: the kernel must get every frame back.
        LeaveEverything = 16,
        /// Panics.
        Panic = 17,
        /// Writes a pattern into the area that it was handed, through one window, and checks it through a second.
        ShareWriter = 18,
        /// Reads that pattern from the area that it was handed.
        ShareReader = 19,
        /// Touches pages until there is no memory left: it must be killed for it, and nothing else. Slow with much
        /// memory.
        ExhaustMemory = 20,
        /// Writes to an address of the kernel's half that the kernel uses.
        WriteKernel = 21,
        /// Jumps to an address of the kernel's half that the kernel uses.
        ExecuteKernel = 22,
        /// Executes `sgdt`, which tells an address of the kernel's. Only where the processor has UMIP.
        StoreDescriptorTable = 23,
        /// Starts other processes, waits for them and ends them.
        Processes = 24,
        /// Copies itself, and changes its memory on both sides.
        Clones = 25,
        /// Runs several threads in one memory.
        Threads = 26,
        /// One of its threads makes a bad access while another one goes on for ever and the first one sleeps.
        FaultInThread = 27,
        /// Makes handles with fewer rights, tries what they do not allow, and passes some on to a process that it starts.
        Handles = 28,
        /// Makes private memory, changes what windows allow, and says what memory it needs.
        Windows = 29,
        /// Gives every call that takes a pointer every kind of bad one, also memory that another thread takes away meanwhile.
        BadPointers = 30,
        /// Sends and receives within one process: order, bounds, handles, and what must be refused.
        Channels = 31,
        /// Sends to threads and processes that wait, and ends them while they do.
        ChannelsBetween = 32,
        /// Waits for words in memory, between threads and processes, and is woken.
        AddressWaits = 33,
        /// Maps device memory, which it has the right to; needs [`StartInformation::physical`](crate::StartInformation::physical).
        Physical = 34,
        /// Sends messages until there is no memory for one more; needs a machine with little of it left.
        ScarceChannels = 35,
        /// Makes rings: memory that comes twice in a row.
        Rings = 36,
        /// Goes several times over memory that can be swapped; needs a machine with half as much of it left.
        Pressure = 37,
        /// Makes calls of every kind while the kernel's memory is taken away and given back.
        TakenAway = 38,
        /// The same calls, but it touches none of the memory that it gets: what it has at first is enough for it.
        TakenAwayUntouched = 39,
    }
}

impl CheckRole {
    /// How it must end.
    #[must_use]
    pub const fn must(self) -> Ending {
        match self {
            Self::Survivor
            | Self::LeaveEverything
            | Self::ShareWriter
            | Self::ShareReader
            | Self::Processes
            | Self::Clones
            | Self::Threads
            | Self::Handles
            | Self::Windows
            | Self::BadPointers
            | Self::Channels
            | Self::ChannelsBetween
            | Self::AddressWaits
            | Self::Physical
            | Self::ScarceChannels
            | Self::Rings
            | Self::Pressure
            | Self::TakenAway
            | Self::TakenAwayUntouched => Ending::Exits(crate::program_status::SUCCESS),
            Self::FaultInThread => Ending::Killed(Cause::FaultAt(Attempt::Write, 0x10)),
            Self::Panic => Ending::Exits(crate::program_status::PANIC),
            Self::WriteText | Self::WriteReadOnly | Self::OverflowStack | Self::ExhaustMemory => {
                Ending::Killed(Cause::Fault(Attempt::Write))
            }
            Self::ReadUnmapped | Self::ReadPastCut => Ending::Killed(Cause::Fault(Attempt::Read)),
            Self::ExecuteData | Self::ExecuteStack | Self::ExecuteArea => {
                Ending::Killed(Cause::Fault(Attempt::Execute))
            }
            Self::ReadKernel => Ending::Killed(Cause::KernelFault(Attempt::Read)),
            Self::WriteKernel | Self::KernelStackPointer => Ending::Killed(Cause::KernelFault(Attempt::Write)),
            Self::ExecuteKernel => Ending::Killed(Cause::KernelFault(Attempt::Execute)),
            Self::ReadNonCanonical | Self::Privileged | Self::StoreDescriptorTable => {
                Ending::Killed(Cause::Trap(GENERAL_PROTECTION))
            }
            Self::DivideByZero => Ending::Killed(Cause::Trap(DIVIDE_ERROR)),
            Self::UndefinedInstruction => Ending::Killed(Cause::Trap(INVALID_OPCODE)),
            Self::TrapFlag => Ending::Killed(Cause::Trap(DEBUG_EXCEPTION)),
        }
    }

    /// The name of the boot test that starts it.
    #[must_use]
    pub const fn test_name(self) -> &'static str {
        match self {
            Self::Survivor => "program_survives_its_checks",
            Self::WriteText => "program_write_to_text_kills",
            Self::ExecuteData => "program_execute_data_kills",
            Self::ExecuteStack => "program_execute_stack_kills",
            Self::ExecuteArea => "exec_is_enforced",
            Self::ReadUnmapped => "unmap_anonymous_really_unmaps",
            Self::WriteReadOnly => "fault_wrong_access_denied",
            Self::ReadPastCut => "area_shrink_unmaps_everywhere",
            Self::ReadKernel => "program_read_kernel_kills",
            Self::ReadNonCanonical => "non_canonical_is_error",
            Self::OverflowStack => "guard_never_backed",
            Self::Privileged => "program_privileged_instruction_kills",
            Self::DivideByZero => "program_divide_by_zero_kills",
            Self::UndefinedInstruction => "program_undefined_instruction_kills",
            Self::KernelStackPointer => "program_kernel_stack_pointer_kills",
            Self::TrapFlag => "program_trap_flag_kills",
            Self::LeaveEverything => "program_exit_returns_every_frame",
            Self::Panic => "program_panic_exits",
            Self::ShareWriter => "share_writer",
            Self::ShareReader => "area_mapped_twice_is_one_memory",
            Self::ExhaustMemory => "fault_out_of_memory_reports",
            Self::WriteKernel => "program_write_kernel_kills",
            Self::ExecuteKernel => "program_execute_kernel_kills",
            Self::StoreDescriptorTable => "program_store_descriptor_table_kills",
            Self::Processes => "program_starts_and_ends_others",
            Self::Clones => "program_and_its_copy_share_nothing",
            Self::Threads => "program_runs_several_threads",
            Self::FaultInThread => "program_fault_in_a_thread_kills_all",
            Self::Handles => "handles_lose_rights_and_move",
            Self::Windows => "private_memory_protect_and_advise",
            Self::BadPointers => "bad_pointer_is_error_of_every_call",
            Self::Channels => "channels_carry_bytes_and_handles",
            Self::ChannelsBetween => "channels_between_processes",
            Self::AddressWaits => "address_waits_are_woken",
            Self::Physical => "device_memory_for_who_has_the_right",
            Self::ScarceChannels => "channels_without_memory_send_all_or_nothing",
            Self::Rings => "ring_is_one_memory_twice",
            Self::Pressure => "program_larger_than_memory_completes",
            Self::TakenAway => "memory_taken_away_is_an_error_to_who_asks",
            Self::TakenAwayUntouched => "memory_taken_away_is_nothing_to_who_touches_none",
        }
    }

    /// Whether [`StartInformation::area`](crate::StartInformation::area) must be there.
    #[must_use]
    pub const fn needs_area(self) -> bool {
        matches!(self, Self::ShareWriter | Self::ShareReader)
    }

    /// Whether the machine must be short of memory.
    #[must_use]
    pub const fn needs_scarcity(self) -> bool {
        matches!(self, Self::ScarceChannels | Self::Pressure | Self::TakenAway | Self::TakenAwayUntouched)
    }
}

numbered! {
    /// What `bench` measures.
    pub enum BenchRole: u64 {
        /// Every operation, often enough for a median.
        All = 0,
        /// Every operation, a few times: that it still can.
        Quick = 1,
        /// The interrupts that flushes send to other processors: on a machine with several.
        Flushes = 2,
    }
}

impl BenchRole {
    /// The word behind `bench=` on the command line; empty for the one that needs none.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Quick => "quick",
            Self::Flushes => "flushes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_and_an_argument_share_a_number() {
        let size = ScreenSize { width: 1024, height: 96, pitch: 4096 };
        let number = size.with_argument(7).unwrap();
        assert_eq!(ScreenSize::from_argument(number), (Some(size), 7));
        assert_eq!(ScreenSize::from_argument(u64::from(u16::MAX)), (None, u16::MAX));
        assert_eq!(ScreenSize { width: 1 << 16, ..size }.with_argument(0), None);
        assert_eq!(ScreenSize { pitch: 4098, ..size }.with_argument(0), None);
    }

    #[test]
    fn time_and_seed_share_a_number() {
        for stress in [Stress { seconds: 0, seed: 0 }, Stress { seconds: u16::MAX, seed: u32::MAX }] {
            assert_eq!(Stress::from_argument(stress.argument()), stress);
            assert_eq!(stress.argument() >> 48, 0);
        }
        assert_eq!(Stress { seconds: 120, seed: 7 }.argument(), 0x78_0000_0007);
    }

    #[test]
    fn names_of_tests_differ() {
        for role in CheckRole::ALL {
            let same = CheckRole::ALL.iter().filter(|other| other.test_name() == role.test_name());
            assert_eq!(same.count(), 1, "{role:?}");
        }
    }

    #[test]
    fn words_of_what_bench_measures_differ() {
        for role in BenchRole::ALL {
            assert_eq!(BenchRole::ALL.iter().filter(|other| other.word() == role.word()).count(), 1, "{role:?}");
        }
    }
}
