//! Attacks: what each defence stops, seen to be stopped, and (in the kernel that can take its defences away) seen to work without it.
//!
//! ```text
//!   attack NAME: held                       the attack was made and did not work
//!   attack NAME: skipped (why)              the machine lacks what it takes
//!   control NAME: works without DEFENCE     the same code, once that defence was taken away: so the attack is one, and that defence is what holds it
//! ```
//!
//! | attack | what is tried | defence | how it is seen | control |
//! |---|---|---|---|---|
//! | execute-data, execute-stack, execute-area | a program calls a `ret` in what it may write | no-execute | killed for an execution | leaf without the bit |
//! | write-text | a program writes its text | read-only leaves | killed for a write | leaf with the bit |
//! | read-kernel, write-kernel, execute-kernel | a program accesses the kernel's half | supervisor leaves (and SMAP, SMEP, without which the kernel itself would stumble) | killed for that address | entries with the user bit |
//! | store-descriptor-table | `sgdt` in a program | UMIP | killed for #GP | CR4.UMIP off |
//! | overflow-stack | a program's stack grows into a window right below | guard pages | killed for a write, at the guard | no guard installed |
//! | find-secrets | a program looks into fresh pages for what another one wrote | zeroing | all of it is zero | frames as they are |
//! | point-to-kernel | a program has a message sent from the kernel's memory | the check of pointers | an error | any address is taken |
//! | point-to-read-only | a program has the kernel write into its read-only page | write protection | an error | CR0.WP off |
//! | read-revoked, write-revoked | a thread uses a page that another one, on another processor, has unmapped or made read only | shootdown | killed | nobody else is asked to forget |
//! | change-sealed | a program changes a sealed window | sealing | an error | the call seals nothing |
//! | map-twice | a program maps the screen uncached | record of memory types | an error | (two-memory-types) |
//! | guess-window, guess-stack | a program writes where it has a window, or its stack, if these go where they always went | random places | killed for a write | the lowest gap, the end of the addresses |
//! | every-argument | a program gives every argument of every call what it must not be | checks of arguments | errors, and everything is as it was | (point-to-kernel) |
//! | kernel-reads-program | the kernel reads a program's page outside of its copy routines | SMAP | the read fails | CR4.SMAP off |
//! | kernel-executes-program | the kernel executes a program's page | SMEP | the call fails | CR4.SMEP off |
//! | kernel-writes-constants | the kernel writes to its constants | write protection | the write fails | CR0.WP off |
//! | kernel-writes-read-only-page | the kernel's copy routine writes to a read-only page | write protection | the copy fails | CR0.WP off |
//! | kernel-stack-overflow | a push below a stack of the kernel's | guards | it faults; `test=stack-overflow` sees the report | a leaf in the guard |
//! | writable-and-executable | any leaf of the kernel's half, or of a process's own | no-execute | all tables are walked | one leaf without the bit is found |
//! | old-data-in-a-table | entries in fresh tables that somebody prepared in the frames | zeroing of tables | what nobody mapped leads nowhere | frames as they are |
//! | two-memory-types | the screen's frames in a second, write-back window | record of memory types | refused, and all tables are walked | a leaf written by hand is found |
//! | return-to-non-canonical | `syscall` at the very end of the lower half, so that `sysret` would go on past it | the check of the return address | killed before it is gone back to | `sysret` goes there: a trap of ring 3 on AMD's processors and QEMU's, of ring 0 on Intel's |
//! | revoked-window, revoked-page | another processor reads a kernel's window, or a space's page, after its unmapping was completed | shootdown | no such read succeeds | nobody else is asked to forget |
//!
//! The addresses that a start may have (`thread_start`, `process_clone`: `iretq`) are among the arguments of `every-argument`.

mod kernel;

use crate::boot_tests::Failure;
use crate::log;
use crate::process::Start;
use crate::programs::Programs;
use crate::weakness::Defence;
use crate::{cpu::others, cpu::probe, memory};
use core::sync::atomic::{AtomicU64, Ordering};
use raw_cpuid::CpuId;
use refkernel_abi::attacks::{Attack, WORKED};
use refkernel_abi::roles::Ending;
use refkernel_abi::{KERNEL_ADDRESSES, PAGE_SIZE};

/// Who attacks.
enum By {
    /// A program.
    Program(Attack),
    /// The kernel itself: true if it worked.
    Kernel(fn() -> Result<bool, &'static str>),
}

/// An attack.
struct Row {
    name: &'static str,
    by: By,
    /// What stops it, the last one; for the control the others are taken away as well, and before. None where the control is another attack's.
    defences: &'static [Defence],
}

const TABLE: &[Row] = {
    use Defence::*;
    const fn program(name: &'static str, attack: Attack, defences: &'static [Defence]) -> Row {
        Row { name, by: By::Program(attack), defences }
    }
    const fn kernel(
        name: &'static str,
        attack: fn() -> Result<bool, &'static str>,
        defences: &'static [Defence],
    ) -> Row {
        Row { name, by: By::Kernel(attack), defences }
    }
    &[
        program("execute-data", Attack::ExecuteData, &[NoExecute]),
        program("execute-stack", Attack::ExecuteStack, &[NoExecute]),
        program("execute-area", Attack::ExecuteArea, &[NoExecute]),
        program("write-text", Attack::WriteText, &[ReadOnly]),
        program("read-kernel", Attack::ReadKernel, &[AccessPrevention, ExecutionPrevention, Supervisor]),
        program("write-kernel", Attack::WriteKernel, &[AccessPrevention, ExecutionPrevention, Supervisor]),
        program("execute-kernel", Attack::ExecuteKernel, &[AccessPrevention, ExecutionPrevention, Supervisor]),
        program("store-descriptor-table", Attack::StoreDescriptorTable, &[InstructionPrevention]),
        program("overflow-stack", Attack::OverflowStack, &[Guards]),
        program("find-secrets", Attack::FindSecrets, &[ZeroedPages]),
        program("point-to-kernel", Attack::PointToKernel, &[PointerChecks]),
        program("point-to-read-only", Attack::PointToReadOnly, &[WriteProtection]),
        program("read-revoked", Attack::ReadRevoked, &[Shootdown]),
        program("write-revoked", Attack::WriteRevoked, &[Shootdown]),
        program("change-sealed", Attack::ChangeSealed, &[Sealing]),
        program("map-twice", Attack::MapTwice, &[]),
        program("every-argument", Attack::EveryArgument, &[]),
        program("guess-window", Attack::GuessWindow, &[RandomPlaces]),
        program("guess-stack", Attack::GuessStack, &[RandomPlaces]),
        kernel("kernel-reads-program", kernel::reads_program, &[AccessPrevention]),
        kernel("kernel-executes-program", kernel::executes_program, &[ExecutionPrevention]),
        kernel("kernel-writes-constants", kernel::writes_constants, &[WriteProtection]),
        kernel("kernel-writes-read-only-page", kernel::writes_read_only_page, &[WriteProtection]),
        kernel("kernel-stack-overflow", kernel::stack_overflow, &[Guards]),
        kernel("writable-and-executable", kernel::writable_and_executable, &[NoExecute]),
        kernel("old-data-in-a-table", kernel::old_data_in_a_table, &[ZeroedTables]),
        kernel("two-memory-types", kernel::two_memory_types, &[MemoryTypes]),
        kernel("return-to-non-canonical", kernel::return_to_non_canonical, &[ReturnChecks]),
        kernel("revoked-window", memory::cpu_tests::revoked_window_is_read, &[Shootdown]),
        kernel("revoked-page", memory::cpu_tests::revoked_page_is_read, &[Shootdown]),
    ]
};

impl Row {
    /// Why the machine cannot be attacked so, if it cannot.
    fn lacks(&self) -> Option<&'static str> {
        let extended = CpuId::new().get_extended_feature_info();
        let has = |feature: fn(&raw_cpuid::ExtendedFeatures) -> bool| extended.as_ref().is_some_and(feature);
        if matches!(self.by, By::Program(Attack::MapTwice)) && memory::framebuffer_area().is_none() {
            return Some("there is no screen");
        }
        match self.defences.last()? {
            Defence::AccessPrevention if !has(|f| f.has_smap()) => Some("the processor has no SMAP"),
            Defence::ExecutionPrevention if !has(|f| f.has_smep()) => Some("the processor has no SMEP"),
            Defence::InstructionPrevention if !has(|f| f.has_umip()) => Some("the processor has no UMIP"),
            Defence::Shootdown if others::running().count_ones() < 2 => Some("it takes 2 processors"),
            Defence::MemoryTypes if memory::framebuffer_area().is_none() => Some("there is no screen"),
            _ => None,
        }
    }

    /// Makes the attack: whether it worked.
    fn make(&self, programs: &Programs<'_>) -> Result<bool, Failure> {
        match self.by {
            By::Kernel(attack) => attack().map_err(Failure::NotSo),
            By::Program(attack) => {
                if attack == Attack::FindSecrets {
                    run(programs, Attack::LeaveSecrets)?;
                }
                run(programs, attack)
            }
        }
    }
}

/// What programs try to change of the kernel's.
static VICTIM: AtomicU64 = AtomicU64::new(0);

/// The addresses that a program is told: the first is what it tries.
fn addresses(attack: Attack) -> [u64; KERNEL_ADDRESSES] {
    const RET: u8 = 0xc3;
    let mut addresses = memory::tests::kernel_addresses();
    match attack {
        // Executed in a program it must come back at once.
        Attack::ExecuteKernel => {
            let found = crate::boot::layout::text().find(|address| probe::read(*address) == Some(RET));
            addresses[0] = found.unwrap_or_default();
        }
        // Data, so that it is not the writable bit that refuses a write, and the test's own, so that nothing else is hurt.
        Attack::WriteKernel => addresses[0] = VICTIM.as_ptr() as u64,
        // Of its frames, which are no secret.
        Attack::MapTwice => {
            let screen = memory::boot_info().and_then(|info| info.framebuffer()).map(|screen| screen.physical);
            addresses[0] = screen.unwrap_or_default() & !(PAGE_SIZE - 1);
        }
        _ => {}
    }
    addresses
}

/// Runs a program: whether its attack worked.
fn run(programs: &Programs<'_>, attack: Attack) -> Result<bool, Failure> {
    let physical = matches!(attack, Attack::MapTwice | Attack::EveryArgument);
    VICTIM.store(0, Ordering::Relaxed);
    let start = Start { argument: attack.number(), kernel: addresses(attack), physical, ..Start::default() };
    let ending = programs.run("check", start)?;
    let hurt = VICTIM.load(Ordering::Relaxed) != 0;
    match ending {
        ending if ending.is(Ending::Exits(WORKED)) && (hurt || attack != Attack::WriteKernel) => Ok(true),
        _ if hurt => Err(Failure::NotSo("a program that was killed had changed nothing of the kernel's")),
        ending if ending.is(attack.held()) => Ok(false),
        ending => Err(Failure::Ending { must: attack.held(), ending }),
    }
}

/// Makes every attack, and in a kernel that can take its defences away every control: each attack is made with the defence, without it, and with it again. `wanted` is asked for each by its name; `note` is told the name of each test, and why it failed if
/// it did.
pub(crate) fn run_all(
    programs: &Programs<'_>,
    wanted: impl Fn(&str) -> bool,
    mut note: impl FnMut(&str, &str, Result<(), Failure>),
) {
    for row in TABLE.iter().filter(|row| wanted(row.name)) {
        if let Some(why) = row.lacks() {
            log!("attack {}: skipped ({why})", row.name);
            continue;
        }
        let mut attack = || {
            let outcome = row.make(programs).and_then(|worked| match worked {
                true => Err(Failure::NotSo("the attack is held")),
                false => Ok(()),
            });
            if outcome.is_ok() {
                log!("attack {}: held", row.name);
            }
            note("attack", row.name, outcome);
        };
        attack();
        #[cfg(feature = "planted-weakness")]
        if let Some(defence) = row.defences.last() {
            // Whether a processor still remembers what was revoked is luck: a turn that ends makes it forget.
            let tries = if *defence == Defence::Shootdown { 16 } else { 1 };
            let mut outcome = Ok(false);
            for _ in 0..tries {
                outcome = without_all(row.defences, &mut || row.make(programs));
                if !matches!(outcome, Ok(false)) {
                    break;
                }
            }
            let outcome = outcome.and_then(|worked| match worked {
                true => Ok(()),
                false => Err(Failure::NotSo("without its defence the attack works")),
            });
            if outcome.is_ok() {
                log!("control {}: works without {}", row.name, defence.name());
            }
            note("control", row.name, outcome);
            // What was taken away is there again.
            let again = row.make(programs).and_then(|worked| match worked {
                true => Err(Failure::NotSo("with its defence again the attack is held")),
                false => Ok(()),
            });
            note("again", row.name, again);
        }
    }
}

/// Makes an attack with defences taken away, one after another.
#[cfg(feature = "planted-weakness")]
fn without_all(defences: &[Defence], what: &mut dyn FnMut() -> Result<bool, Failure>) -> Result<bool, Failure> {
    match defences.split_first() {
        // SAFETY: the attacks are made for that: what they break is a program's, or their own.
        Some((defence, rest)) => unsafe { crate::weakness::without(*defence, || without_all(rest, what)) },
        None => what(),
    }
}

/// In a kernel that can take its defences away: says so, for everybody to see.
pub(crate) fn warn() {
    #[cfg(feature = "planted-weakness")]
    for _ in 0..3 {
        log!(
            "refkernel: WEAKENED: this kernel takes its own defences away; it is for the controls of `cargo xtask test` alone"
        );
    }
}
