//! The tests that need a machine: `test` on the command line runs all of them, `test=NAME` those whose name contains this, and `repeat=N` runs them so often.
//!
//! ```text
//! test NAME ... ok
//! test NAME ... FAILED: why
//! N passed, M failed
//! ```
//!
//! Every test that runs a program also counts frames, processes, channels and waiting threads ([`Account`]): there are as many afterwards as before. A line
//! `test NAME ...` is printed when the test has ended, since programs write lines of their own.

use crate::account::{self, Account};
use crate::address_wait;
use crate::attacks;
use crate::cpu::{others, probe};
use crate::fault_tests;
use crate::hoard::{Hoard, SCARCE};
use crate::log;
use crate::memory::{self, Kernel};
use crate::pager;
use crate::process::{self, Ending, LoadError, Start};
use crate::programs::{ProgramError, Programs};
use crate::thread;
use alloc::vec::Vec;
use core::fmt;
use raw_cpuid::CpuId;
use refkernel::command_line::Word;
use refkernel::elf::Refusal;
use refkernel_abi::roles::{self, CheckRole};
use refkernel_abi::{KERNEL_ADDRESSES, PAGE_SIZE, USER_END, program_status};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::SpaceError;

/// Why a test failed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub(crate) enum Failure {
    /// A test of the kernel's memory: something was not so.
    NotSo(&'static str),
    /// A program did not run.
    Program(ProgramError),
    /// A program ended in another way than it had to.
    Ending {
        /// How it had to.
        must: roles::Ending,
        /// How it did.
        ending: Ending,
    },
    /// Frames are in use that were not before, or the other way round.
    Frames {
        /// In use before.
        before: u64,
        /// In use afterwards.
        after: u64,
    },
    /// Something is in use that was not before, or the other way round.
    InUse {
        /// In use before.
        before: Account,
        /// In use afterwards.
        after: Account,
    },
    /// An area could not be made.
    Area(AreaError),
    /// A file that must be refused was refused for another reason, or not at all.
    Refusal(Result<(), LoadError>),
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl From<AreaError> for Failure {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSo(what) => write!(formatter, "not so: {what}"),
            Self::Program(error) => error.fmt(formatter),
            Self::Ending { must: roles::Ending::Exits(status), ending } => {
                write!(formatter, "it had to exit with {status}, but {ending}")
            }
            Self::Ending { must: roles::Ending::Killed(cause), ending } => {
                write!(formatter, "it had to be killed for {cause:?}, but {ending}")
            }
            Self::Frames { before, after } => {
                write!(formatter, "{before} frames were in use before and {after} are afterwards")
            }
            Self::InUse { before, after } => write!(formatter, "in use were {before}; afterwards {after}"),
            Self::Area(error) => error.fmt(formatter),
            Self::Refusal(Ok(())) => formatter.write_str("a file that must be refused was loaded"),
            Self::Refusal(Err(error)) => write!(formatter, "refused for another reason: {error}"),
        }
    }
}

/// The tests so far.
#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
}

impl Count {
    fn note(&mut self, name: impl fmt::Display, outcome: Result<(), impl fmt::Display>) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                log!("test {name} ... ok");
            }
            Err(failure) => {
                self.failed += 1;
                log!("test {name} ... FAILED: {failure}");
            }
        }
    }
}

/// Runs every test that the machine survives and whose name contains `part`. True if all passed, and there was one.
pub(crate) fn run(programs: &Programs<'_>, part: Word<'_>) -> bool {
    let mut count = Count::default();
    let wanted = |name: &str| is_wanted(name, part);
    address_wait::linger();
    // What the kernel keeps once it was needed is there before anybody counts: tables for stacks, and the heap's first pages.
    if let Err(error) = thread::have_many() {
        log!("refkernel: {error}");
        return false;
    }
    let _ = memory::tests::kernel_addresses();
    for (name, test) in memory::tests::ALL.iter().filter(|(name, _)| wanted(name)) {
        count.note(name, test());
    }
    for (name, processors, test) in memory::cpu_tests::ALL.iter().filter(|(name, ..)| wanted(name)) {
        if others::running().count_ones() < *processors {
            log!("test {name} ... skipped (it takes {processors} processors)");
            continue;
        }
        count.note(name, test());
    }
    for (name, test) in memory::tag_tests::ALL.iter().filter(|(name, _)| wanted(name)) {
        if !memory::tag_tests::can_run() {
            log!("test {name} ... skipped (the processor has no tags)");
            continue;
        }
        count.note(name, test());
    }
    for (name, test) in thread::tests::ALL.iter().filter(|(name, _)| wanted(name)) {
        count.note(name, test(programs));
    }
    let roles = CheckRole::ALL.into_iter().filter(|role| !role.needs_area() && !role.needs_scarcity());
    for role in roles.filter(|role| wanted(role.test_name())) {
        if role == CheckRole::StoreDescriptorTable && !offers_user_mode_instruction_prevention() {
            log!("test {} ... skipped (the processor has no UMIP)", role.test_name());
            continue;
        }
        // It takes no longer on a large machine.
        let scarce = || (role == CheckRole::ExhaustMemory).then(|| Hoard::leaving(SCARCE));
        let played = || {
            let _hoard = scarce();
            plays(programs, role)
        };
        count.note(role.test_name(), same_frames(played));
    }
    for (name, test) in
        TESTS.iter().chain(process::placement::TESTS).chain(pager::tests::ALL).filter(|(name, _)| wanted(name))
    {
        count.note(name, same_frames(|| test(programs)));
    }
    faults(programs, &mut count, part);
    attacks(programs, &mut count, part);
    for (name, test) in FILE_TESTS.iter().filter(|(name, _)| wanted(name)) {
        count.note(name, test(programs));
    }
    if count.passed + count.failed != 0 {
        let lost = Failure::NotSo("every flush was completed, and every frame was freed from the use that it had");
        count.note("no_flush_is_dropped", if memory::nothing_is_lost() { Ok(()) } else { Err(lost) });
    }
    log!("{} passed, {} failed", count.passed, count.failed);
    count.failed == 0 && count.passed != 0
}

/// Whether the tests that were asked for are this one, among others: its name contains `part`.
fn is_wanted(name: &str, Word(part): Word<'_>) -> bool {
    part.is_empty() || name.as_bytes().windows(part.len()).any(|place| place == part)
}

/// Runs the table of attacks alone. True if all were held, and all controls worked.
pub(crate) fn run_attacks(programs: &Programs<'_>) -> bool {
    let mut count = Count::default();
    attacks(programs, &mut count, Word(b""));
    log!("{} passed, {} failed", count.passed, count.failed);
    count.failed == 0 && count.passed != 0
}

/// Runs the table of faults alone. True if all were as they must be.
pub(crate) fn run_faults(programs: &Programs<'_>) -> bool {
    let mut count = Count::default();
    faults(programs, &mut count, Word(b""));
    log!("{} passed, {} failed", count.passed, count.failed);
    count.failed == 0 && count.passed != 0
}

fn faults(programs: &Programs<'_>, count: &mut Count, part: Word<'_>) {
    let wanted = |name: &str| is_wanted(name, part);
    fault_tests::run_all(programs, wanted, |name, outcome| count.note(format_args!("fault {name}"), outcome));
}

fn attacks(programs: &Programs<'_>, count: &mut Count, part: Word<'_>) {
    let wanted = |name: &str| is_wanted(name, part);
    attacks::run_all(programs, wanted, |kind, name, outcome| count.note(format_args!("{kind} {name}"), outcome));
}

/// Whether the processor can keep programs from reading where the descriptor tables are.
fn offers_user_mode_instruction_prevention() -> bool {
    CpuId::new().get_extended_feature_info().is_some_and(|features| features.has_umip())
}

/// A test of the whole path.
pub(crate) type Test = fn(&Programs<'_>) -> Result<(), Failure>;

const TESTS: &[(&str, Test)] = &[
    (CheckRole::ShareWriter.test_name(), area_outlives_its_process),
    (CheckRole::ShareReader.test_name(), shared_area),
    ("kernel_half_is_out_of_reach", kernel_half_is_out_of_reach),
    ("user_fault_kills_process_only", user_fault_kills_process_only),
    ("user_fault_names_its_reason", user_fault_names_its_reason),
    ("out_of_memory_names_its_reason", out_of_memory_names_its_reason),
    ("switch_sets_current_process", switch_sets_current_process),
    ("process_never_run_returns_every_frame", never_run),
    ("two_spaces_live_at_once", two_spaces),
    ("process_creation_failure_leaves_no_frame", creation_failure),
    ("process_in_scarce_memory_returns_every_frame", scarce_memory),
    (CheckRole::ScarceChannels.test_name(), scarce_channels),
];

/// Tests with changed copies of a program. The copy is made on the heap, which keeps its pages, so these count frames behind it.
const FILE_TESTS: &[(&str, Test)] = &[
    ("elf_truncated_is_refused", elf_truncated),
    ("elf_wrong_machine_is_refused", elf_wrong_machine),
    ("elf_write_and_execute_is_refused", elf_write_and_execute),
    ("elf_at_the_end_of_the_addresses_is_loaded", elf_at_the_end),
    ("program_missing_is_refused", program_missing),
];

/// Runs a test and counts around it what is in use: frames, and what else a process can leave.
pub(crate) fn same_frames(test: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let before = Account::now();
    test()?;
    let after = before.awaited();
    if before == after {
        return Ok(());
    }
    account::log_uses();
    Err(Failure::InUse { before, after })
}

pub(crate) fn require(holds: bool, what: &'static str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::NotSo(what)) }
}

pub(crate) fn ended(ending: Ending, must: roles::Ending) -> Result<(), Failure> {
    if ending.is(must) { Ok(()) } else { Err(Failure::Ending { must, ending }) }
}

/// One part of the program `check`.
fn plays(programs: &Programs<'_>, role: CheckRole) -> Result<(), Failure> {
    ended(check(programs, role)?, role.must())
}

fn check(programs: &Programs<'_>, role: CheckRole) -> Result<Ending, ProgramError> {
    check_with(programs, role, memory::tests::kernel_addresses())
}

fn check_with(
    programs: &Programs<'_>,
    role: CheckRole,
    kernel: [u64; KERNEL_ADDRESSES],
) -> Result<Ending, ProgramError> {
    let physical = role == CheckRole::Physical;
    programs.run("check", Start { argument: role.number(), kernel, physical, ..Start::default() })
}

/// Whatever the kernel has mapped is out of a program's reach, and a program that tries is killed for that very address.
fn kernel_half_is_out_of_reach(programs: &Programs<'_>) -> Result<(), Failure> {
    let mut kernel = memory::tests::kernel_addresses();
    for address in kernel {
        require(probe::read(address).is_some(), "an address that a program is tried with is mapped")?;
    }
    let offences =
        [CheckRole::ReadKernel, CheckRole::WriteKernel, CheckRole::ExecuteKernel, CheckRole::KernelStackPointer];
    for _ in 0..KERNEL_ADDRESSES {
        for role in offences {
            ended(check_with(programs, role, kernel)?, role.must())?;
        }
        kernel.rotate_left(1);
    }
    Ok(())
}

/// What one process writes into an area, another reads.
fn shared_area(programs: &Programs<'_>) -> Result<(), Failure> {
    let area = Area::new(&Kernel, AreaKind::Open { size: 8 * PAGE_SIZE }, ())?;
    for role in [CheckRole::ShareWriter, CheckRole::ShareReader] {
        let start = Start { argument: role.number(), area: Some(&area), ..Start::default() };
        ended(programs.run("check", start)?, role.must())?;
    }
    require(area.resident_pages() == 8, "the area has every page that was written")
}

/// Pages belong to the area, not to the process that touched them first.
fn area_outlives_its_process(programs: &Programs<'_>) -> Result<(), Failure> {
    let area = Area::new(&Kernel, AreaKind::Open { size: 2 * PAGE_SIZE }, ())?;
    let role = CheckRole::ShareWriter;
    let start = Start { argument: role.number(), area: Some(&area), ..Start::default() };
    ended(programs.run("check", start)?, role.must())?;
    require(area.windows() == 0, "no window is left of a process that ended")?;
    let mut bytes = [0; 8];
    area.read(PAGE_SIZE, &mut bytes)?;
    require(bytes != [0; 8], "the second page holds what the process wrote")
}

/// The kernel, and another process, go on behind a bad access.
fn user_fault_kills_process_only(programs: &Programs<'_>) -> Result<(), Failure> {
    let start = Start { argument: roles::DEMO_BAD_ACCESS, ..Start::default() };
    ended(programs.run("demo", start)?, roles::DEMO_BAD_ACCESS_ENDING)?;
    ended(programs.run("demo", Start::default())?, roles::Ending::Exits(program_status::SUCCESS))
}

/// What a process was killed for is known exactly.
fn user_fault_names_its_reason(programs: &Programs<'_>) -> Result<(), Failure> {
    let start = Start { argument: roles::DEMO_BAD_ACCESS, ..Start::default() };
    match programs.run("demo", start)? {
        Ending::Fault { address: 0x10, reason: Some(SpaceError::NoWindow(_)), .. } => {}
        ending => return Err(Failure::Ending { must: roles::DEMO_BAD_ACCESS_ENDING, ending }),
    }
    for (role, is_reason) in [
        (CheckRole::WriteText, is_denied as fn(&SpaceError) -> bool),
        (CheckRole::WriteReadOnly, is_denied),
        (CheckRole::ExecuteArea, is_denied),
        (CheckRole::OverflowStack, |reason| matches!(reason, SpaceError::Guard(_))),
        (CheckRole::ReadUnmapped, |reason| matches!(reason, SpaceError::NoWindow(_))),
        (CheckRole::ReadPastCut, |reason| matches!(reason, SpaceError::OutsideArea(_))),
    ] {
        match check(programs, role)? {
            Ending::Fault { reason: Some(reason), .. } if is_reason(&reason) => {}
            ending => return Err(Failure::Ending { must: role.must(), ending }),
        }
    }
    Ok(())
}

fn is_denied(reason: &SpaceError) -> bool {
    matches!(reason, SpaceError::Denied { .. })
}

/// Running out of memory is the reason given, and afterwards there is memory again.
fn out_of_memory_names_its_reason(programs: &Programs<'_>) -> Result<(), Failure> {
    let _hoard = Hoard::leaving(SCARCE);
    match check(programs, CheckRole::ExhaustMemory)? {
        Ending::Fault { reason: Some(SpaceError::OutOfFrames(_)), .. } => {}
        ending => return Err(Failure::Ending { must: CheckRole::ExhaustMemory.must(), ending }),
    }
    plays(programs, CheckRole::LeaveEverything)
}

/// Behind a process its space is neither the processor's nor the kernel's idea of it.
fn switch_sets_current_process(programs: &Programs<'_>) -> Result<(), Failure> {
    let root = || x86_64::registers::control::Cr3::read_raw().0.start_address();
    let before = root();
    plays(programs, CheckRole::LeaveEverything)?;
    require(root() == before, "the root table is the one from before")?;
    require(!process::is_running(), "no process is the current one")
}

/// A process that is loaded and dropped.
fn never_run(programs: &Programs<'_>) -> Result<(), Failure> {
    let before = memory::frames_in_use();
    let process = programs.load("check", Start::default())?;
    require(memory::frames_in_use() > before, "a process takes frames")?;
    drop(process);
    Ok(())
}

/// A process that is kept is not changed by another that runs.
fn two_spaces(programs: &Programs<'_>) -> Result<(), Failure> {
    let first = programs.load("demo", Start::default())?;
    plays(programs, CheckRole::LeaveEverything)?;
    let ending = process::run(&first).map_err(|error| ProgramError::NoThread("demo", error))?;
    ended(ending, roles::Ending::Exits(program_status::SUCCESS))?;
    plays(programs, CheckRole::LeaveEverything)
}

fn is_out_of_frames(error: &LoadError) -> bool {
    matches!(
        error,
        LoadError::Space(SpaceError::OutOfFrames(_) | SpaceError::Area(AreaError::OutOfFrames(_)))
            | LoadError::Area(AreaError::OutOfFrames(_))
    )
}

/// Running out of memory at any point of a process's creation takes nothing.
fn creation_failure(programs: &Programs<'_>) -> Result<(), Failure> {
    let mut hoard = Hoard::take();
    let before = memory::frames_in_use();
    let mut given = 0;
    loop {
        let attempt = programs.load("check", Start::default()).map(drop);
        let after = memory::frames_in_use();
        if after + given != before {
            return Err(Failure::Frames { before, after: after + given });
        }
        match attempt {
            Ok(()) => return require(given > 1, "a process takes frames"),
            Err(ProgramError::Refused(_, error)) if is_out_of_frames(&error) => {}
            Err(error) => return Err(error.into()),
        }
        require(hoard.give_one(), "a process is loaded before all memory is given")?;
        given += 1;
    }
}

/// A process that runs out of memory wherever it does so is ended or refused, and everything comes back.
fn scarce_memory(programs: &Programs<'_>) -> Result<(), Failure> {
    let mut hoard = Hoard::take();
    while programs.load("check", Start::default()).is_err() {
        require(hoard.give_one(), "a process is loaded before all memory is given")?;
    }
    for more in [0, 1, 1, 1, 1, 2, 3, 5, 8] {
        for _ in 0..more {
            require(hoard.give_one(), "there is memory left to give")?;
        }
        same_frames(|| match check(programs, CheckRole::LeaveEverything)? {
            // It notices a refused call itself.
            Ending::Exited(program_status::FAILURE)
            | Ending::Fault { reason: Some(SpaceError::OutOfFrames(_)), .. } => Ok(()),
            ending => Err(Failure::Ending { must: CheckRole::ExhaustMemory.must(), ending }),
        })?;
    }
    Ok(())
}

/// Messages take what memory there is, and are refused as a whole when there is none.
fn scarce_channels(programs: &Programs<'_>) -> Result<(), Failure> {
    /// For the program's pages and tables, and some dozens of messages.
    const LEFT: u64 = 300;
    let mut hoard = Hoard::take();
    while programs.load("check", Start::default()).is_err() {
        require(hoard.give_one(), "a process is loaded before all memory is given")?;
    }
    for _ in 0..LEFT {
        require(hoard.give_one(), "there is memory left to give")?;
    }
    same_frames(|| plays(programs, CheckRole::ScarceChannels))
}

/// Loads a file that must be refused, and requires that no frame is in use for it, the changed copy of it included.
fn refused(programs: &Programs<'_>, file: &[u8], is_reason: fn(&LoadError) -> bool) -> Result<(), Failure> {
    same_frames(|| match programs.try_load(file) {
        Err(error) if is_reason(&error) => Ok(()),
        other => Err(Failure::Refusal(other)),
    })
}

/// Changes a copy of the program `check` and requires that it is refused.
fn refused_after(
    programs: &Programs<'_>,
    change: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    is_reason: fn(&LoadError) -> bool,
) -> Result<(), Failure> {
    let file = programs.file("check")?;
    let mut copy = Vec::new();
    let reserved = copy.try_reserve_exact(file.len());
    require(reserved.is_ok(), "the heap has room for a copy of the program")?;
    copy.extend_from_slice(file);
    let changed = change(&mut copy);
    require(changed.is_some(), "the program's file has what is to be changed")?;
    let outcome = refused(programs, &copy, is_reason);
    drop(copy);
    outcome
}

fn elf_truncated(programs: &Programs<'_>) -> Result<(), Failure> {
    let file = programs.file("check")?;
    for length in [0, 1, 16, 63, 64, 100, file.len() / 2] {
        let part = file.get(..length).unwrap_or_default();
        refused(programs, part, |error| matches!(error, LoadError::File(Refusal::Truncated | Refusal::NotElf)))?;
    }
    Ok(())
}

fn elf_wrong_machine(programs: &Programs<'_>) -> Result<(), Failure> {
    const AARCH64: u16 = 183;
    refused_after(
        programs,
        |file| {
            // e_machine.
            file.get_mut(18..20)?.copy_from_slice(&AARCH64.to_le_bytes());
            Some(())
        },
        |error| *error == LoadError::File(Refusal::WrongMachine { machine: AARCH64 }),
    )
}

fn elf_write_and_execute(programs: &Programs<'_>) -> Result<(), Failure> {
    refused_after(
        programs,
        |file| {
            let header = segment_header(file, |flags| flags & EXECUTE != 0)?;
            file.get_mut(header + 4..header + 8)?.copy_from_slice(&(READ | WRITE | EXECUTE).to_le_bytes());
            Some(())
        },
        |error| matches!(error, LoadError::File(Refusal::WriteAndExecute { .. })),
    )
}

/// A program whose last segment lies at the end of the addresses, where stacks do not have to be.
fn elf_at_the_end(programs: &Programs<'_>) -> Result<(), Failure> {
    let file = programs.file("check")?;
    let mut copy = Vec::new();
    require(copy.try_reserve_exact(file.len()).is_ok(), "the heap has room for a copy of the program")?;
    copy.extend_from_slice(file);
    let moved = segment_header(&copy, |flags| flags & WRITE != 0).and_then(|header| {
        let place = copy.get_mut(header + 16..header + 24)?;
        let address = u64::from_le_bytes((&*place).try_into().ok()?);
        // Further from the end than any segment of the program is long.
        let moved = USER_END - 32 * PAGE_SIZE + address % PAGE_SIZE;
        place.copy_from_slice(&moved.to_le_bytes());
        Some(())
    });
    require(moved.is_some(), "the program's file has what is to be changed")?;
    same_frames(|| programs.try_load(&copy).map_err(|error| Failure::Refusal(Err(error))))
}

fn program_missing(programs: &Programs<'_>) -> Result<(), Failure> {
    match programs.run("nobody", Start::default()) {
        Err(ProgramError::Missing("nobody")) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Failure::Refusal(Ok(()))),
    }
}

const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;

/// The offset of the first program header to load whose flags are wanted (ELF-64: headers from `e_phoff` on, 56 bytes each).
fn segment_header(file: &[u8], wanted: fn(u32) -> bool) -> Option<usize> {
    let word = |offset: usize| Some(u32::from_le_bytes(file.get(offset..offset.checked_add(4)?)?.try_into().ok()?));
    let start = usize::try_from(u64::from_le_bytes(file.get(32..40)?.try_into().ok()?)).ok()?;
    let count = usize::from(u16::from_le_bytes(file.get(56..58)?.try_into().ok()?));
    (0..count)
        .map(|index| start + index * 56)
        .find(|header| word(*header) == Some(1) && word(header + 4).is_some_and(wanted))
}
