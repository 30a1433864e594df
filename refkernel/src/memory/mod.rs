//! The kernel's memory: `vmcore`, embedded. Start with [`platform`]: it is what the library asks of a kernel.
//!
//! | file | what lives there |
//! |---|---|
//! | [`platform`] | the library's traits, implemented |
//! | [`frames`] | which frame is whose |
//! | [`stash`] | a few free frames at each processor's hand |
//! | [`linear`] | RAM at one offset |
//! | [`lock`] | the lock that keeps interrupts off |
//! | [`shootdown`] | making other processors forget |
//! | [`kernel_space`] | the kernel's windows, and the switch to its own tables |
//! | [`current`] | the user space that runs |
//! | [`stacks`] | kernel stacks |
//! | [`heap`] | the kernel heap |
//! | `framebuffer_speed` | what write-combining is worth |
//! | [`audit`] | what the live tables say |
//! | [`tests`] | the same questions as tests |
//! | [`cpu_tests`] | those where several processors run |
//! | `weaken` | in the kernel for the controls of attacks: entries changed by hand |
//!
//! # The order in which memory comes to life
//!
//! 1. **The loader's map is shown at the kernel's place** ([`show_physical_memory`]), so that addresses of frames
//!    are final from the start. It may reach less than all RAM.
//! 2. **Frames** are taken from what is usable and in that map's reach.
//! 3. **The kernel's space** is made out of them: the image with its permissions, all RAM, everything present.
//! 4. **CR3** is written. From here on nothing of the loader's is used but the stack.
//! 5. **RAM beyond** the loader's map is added.
//! 6. **A guarded stack** is made, and the boot stack left for it.
//! 7. **The other processors** are started: they begin in memory of the loader's.
//! 8. **The loader's memory**, the boot tables and the boot stack become free frames.
//! 9. **The heap** is mapped; what runs is from here on a thread. The framebuffer is mapped; then the live tables are audited.
//!
//! Whatever fails on the way ends with a message and the exit code for a bad boot.

pub(crate) mod audit;
pub(crate) mod cpu_tests;
mod current;
mod framebuffer_speed;
pub(crate) mod frames;
pub(crate) mod heap;
mod kernel_space;
pub(crate) mod linear;
mod lock;
mod platform;
pub(crate) mod shootdown;
pub(crate) mod stacks;
mod stash;
pub(crate) mod tag_tests;
pub(crate) mod tests;
#[cfg(feature = "planted-weakness")]
pub(crate) mod weaken;

pub(crate) use current::{
    in_space, leave_everywhere, leave_unused, loaded_on, loads as space_loads, loads_on, switch_space,
};
pub(crate) use frames::{counts as frame_counts, in_use as frames_in_use};
pub(crate) use kernel_space::{framebuffer_address, framebuffer_area, kernel_space, map_io_apic, purpose};
pub(crate) use lock::Mutex;
pub(crate) use platform::Kernel;
pub(crate) use shootdown::{interrupts_sent, relax};

use crate::boot::{self, layout};
use crate::cpu::stacks::Purpose;
use crate::cpu::{self, trap::PageFault};
use crate::devices::exit::exit;
use crate::inspector::faults;
use crate::log;
use crate::pager;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use frames::{FRAME_SIZE, Owner};
use refkernel::boot_info::{BootInfo, Region, RegionKind};
use refkernel::picture::Use;
use refkernel_abi::ExitCode;
use refkernel_abi::roles::Attempt;
use spin::Once;
use stacks::KernelStack;
use vmcore::Platform;
use vmcore::addr::RangeError;
use vmcore::frame::FrameUse;
use vmcore::paging::Access;
use vmcore::vm_area::AreaError;
use vmcore::vm_space::{Fault, Resolution, Space, SpaceError};
use x86_64::registers::model_specific::{Efer, EferFlags};

/// A space for programs.
pub(crate) type UserSpace = Space<Kernel>;

/// Why memory could not be set up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MemoryError {
    /// A space refused.
    Space(SpaceError),
    /// There is no place for the linear map.
    Linear(linear::LinearError),
    /// The live tables are not as they were asked for.
    Audit(audit::Finding),
    /// The processor cannot keep data from being executed.
    NoExecuteDisable,
    /// A part of memory is empty or there is no room to note it.
    Layout,
}

impl From<SpaceError> for MemoryError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl From<AreaError> for MemoryError {
    fn from(error: AreaError) -> Self {
        Self::Space(SpaceError::Area(error))
    }
}

impl From<RangeError> for MemoryError {
    fn from(error: RangeError) -> Self {
        Self::Space(SpaceError::Range(error))
    }
}

impl From<audit::Finding> for MemoryError {
    fn from(finding: audit::Finding) -> Self {
        Self::Audit(finding)
    }
}

impl fmt::Display for MemoryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(SpaceError::OutOfFrames(_) | SpaceError::Area(AreaError::OutOfFrames(_))) => {
                formatter.write_str("too little memory: give the machine more")
            }
            Self::Space(error) => error.fmt(formatter),
            Self::Linear(error) => error.fmt(formatter),
            Self::Audit(finding) => finding.fmt(formatter),
            Self::NoExecuteDisable => formatter.write_str("the processor lacks execute-disable: use one that has it"),
            Self::Layout => formatter.write_str("a part of memory is empty, or a table of the kernel's is full"),
        }
    }
}

/// Ends the machine: without memory there is no kernel.
fn fail(step: &str, error: MemoryError) -> ! {
    log!("refkernel: bad boot: memory: {step}: {error}");
    exit(ExitCode::BadBoot)
}

/// Gives the value, or ends the machine.
fn need<T, E: Into<MemoryError>>(step: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => fail(step, error.into()),
    }
}

/// Shows RAM where the kernel will always find it. Before anything else that touches memory by its physical address.
pub(crate) fn show_physical_memory(info: &BootInfo) {
    need("map of physical memory", linear::establish(info).map_err(MemoryError::Linear));
}

/// Puts the kernel's space in the place of whatever tables a processor came with. Once on each, with interrupts off.
pub(crate) fn join() {
    kernel_space::switch();
}

/// The physical address of the root table that the kernel runs with.
pub(crate) fn kernel_root() -> u64 {
    kernel_space::root()
}

/// What is left to do on the new stack.
struct Continuation {
    info: &'static BootInfo,
    next: fn(&'static BootInfo) -> !,
}

static CONTINUATION: Once<Continuation> = Once::new();

/// What the loader told, once memory has come to life.
pub(crate) fn boot_info() -> Option<&'static BootInfo> {
    CONTINUATION.get().map(|continuation| continuation.info)
}

/// Brings memory to life, and goes on in `next` on a guarded stack. Once, on the boot stack, with interrupts off.
pub(crate) fn initialise(info: &'static BootInfo, next: fn(&'static BootInfo) -> !) -> ! {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    assert!(!BEGUN.swap(true, Ordering::Relaxed), "memory comes to life once");
    if !Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE) {
        fail("processor", MemoryError::NoExecuteDisable);
    }
    let reach = info.physical_reach;
    // SAFETY: the loader's map, and the kernel's later, show this memory; the map of memory says that nobody uses it.
    unsafe { add(info, RegionKind::Usable, |start, end| (start, end.min(reach))) };
    need("the kernel's space", kernel_space::make(info));
    kernel_space::switch();
    // SAFETY: as above, in the kernel's own tables.
    unsafe { add(info, RegionKind::Usable, |start, end| (start.max(reach), end)) };
    need("kernel stacks", stacks::initialise());
    let stack = need("the first kernel stack", KernelStack::new(Purpose::Kernel));
    CONTINUATION.call_once(|| Continuation { info, next });
    let top = stack.top();
    // It is in use until the machine ends.
    core::mem::forget(stack);
    // SAFETY: the stack was just made, present and writable. What is needed of the boot stack is in a static.
    unsafe { boot::continue_on(top, on_own_stack) }
}

/// Goes on where nothing of the boot's is used any more.
extern "C" fn on_own_stack() -> ! {
    let Some(Continuation { info, next }) = CONTINUATION.get() else {
        fail("the first kernel stack", MemoryError::Layout)
    };
    if let Err(error) = kernel_space::map_apic() {
        log!("cpu: the local interrupt controller is not mapped: {error}");
    }
    cpu::others::start(info);
    take_back(info);
    need("kernel heap", heap::initialise());
    crate::thread::initialise();
    let uncached = framebuffer_speed::uncached(info);
    if let Err(error) = kernel_space::map_framebuffer(info) {
        log!("framebuffer: not mapped: {error}");
    }
    match uncached {
        Ok(Some(uncached)) if framebuffer_area().is_some() => framebuffer_speed::compare(info, uncached),
        Ok(_) => {}
        Err(error) => log!("framebuffer: not measured: {error}"),
    }
    need("sections", audit::section_permissions());
    need("permissions", audit::kernel_half());
    if let Some(range) = info.framebuffer().and_then(|framebuffer| framebuffer.range().ok())
        && framebuffer_area().is_some()
        && let Err(finding) = audit::framebuffer(range)
    {
        log!("framebuffer: {finding}");
    }
    let counts = frame_counts();
    log!(
        "memory: {} MiB in frames, {} KiB of records, {} KiB of tables, {} KiB free",
        (counts.total * FRAME_SIZE) >> 20,
        (counts.metadata * FRAME_SIZE) >> 10,
        (counts.by_use[FrameUse::Table as usize] * FRAME_SIZE) >> 10,
        (counts.free * FRAME_SIZE) >> 10,
    );
    next(info)
}

/// Makes the loader's memory, the boot tables and the boot stack free frames.
fn take_back(info: &BootInfo) {
    cpu::stacks::forget(layout::boot_stack().start);
    need("boot memory", kernel_space::unmap_boot());
    // SAFETY: the processor's tables and stack are the kernel's, and all that the loader told was copied.
    let loaders = unsafe { add(info, RegionKind::LoaderReclaimable, |start, end| (start, end)) };
    let boot = kernel_space::physical_part(info, &layout::boot());
    // SAFETY: the windows of the boot part are gone, and the linear map shows its frames.
    let own = unsafe { frames::add(boot.start / FRAME_SIZE, (boot.end - boot.start) / FRAME_SIZE) };
    log!("memory: taken back: {} frames of the loader's, {own} frames of the boot tables and the boot stack", loaders);
}

/// Adds a part of each region of a kind to the frames, the largest regions first. Gives how many frames can be handed out.
///
/// # Safety
///
/// Nobody uses the parts, and the linear map shows them.
unsafe fn add(info: &BootInfo, kind: RegionKind, part: impl Fn(u64, u64) -> (u64, u64)) -> u64 {
    let key = |region: &Region| (region.length(), region.start());
    let mut done = (u64::MAX, u64::MAX);
    let mut sum = 0;
    loop {
        let left = info.memory.iter().filter(|region| region.kind() == kind && key(region) < done);
        let Some(region) = left.max_by_key(key) else { return sum };
        done = key(&region);
        let (start, end) = part(region.start(), region.end());
        if start < end {
            // SAFETY: by the contract; the regions of the map do not overlap.
            sum += unsafe { frames::add(start / FRAME_SIZE, (end - start) / FRAME_SIZE) };
        }
    }
}

/// An empty space for a program. Its upper half is the kernel's.
///
/// # Errors
///
/// [`SpaceError::OutOfFrames`].
pub(crate) fn new_user_space() -> Result<UserSpace, SpaceError> {
    Space::user(kernel_space(), ())
}

/// The first address of the kernel's half.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// The bytes of each half, the kernel's and the programs'.
const HALF_SIZE: u64 = KERNEL_HALF.wrapping_neg();

/// How a page fault was answered: the access may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The space answered it.
    Resolved(Resolution),
    /// It met an unfinished change, and is repeated until that is finished.
    Repeated,
}

/// Whether every flush was completed so far, and every frame freed from the use that it had.
pub(crate) fn nothing_is_lost() -> bool {
    let machine = Kernel.machine().counters();
    machine.dropped_flushes == 0 && machine.refused_frees == 0 && machine.quarantined_frames == 0
}

/// Answers a page fault: `Ok` if the access may be repeated.
///
/// An address of the kernel's half is the kernel space's to answer, any other the current user space's. A fault that
/// meets an unfinished change is repeated until that is finished: a program's as often as it takes, since each time the program could be
/// ended; the kernel's so often that another processor has finished long since, and then it is reported.
///
/// # Errors
///
/// Why the space refuses; `None` if no space was asked: the tables are damaged, a program touched the kernel's half, or no
/// user space is current.
pub(crate) fn page_fault(fault: PageFault) -> Result<(), Option<SpaceError>> {
    if fault.reserved() {
        faults::record(fault, Err(None));
        return Err(None);
    }
    let told = fault;
    let mut access = match fault.attempt() {
        Attempt::Execute => Access::EXECUTE,
        Attempt::Write => Access::WRITE,
        Attempt::Read => Access::READ,
    };
    access.set(Access::USER, fault.user());
    let fault = Fault::new(fault.address, access).present(fault.present());
    let outcome = ask(fault);
    if let Some(Ok(Resolution::Mapped | Resolution::Spurious)) = outcome
        && !faults::are_recorded()
    {
        return Ok(());
    }
    decide(told, fault, outcome)
}

/// Goes on with a page fault that was not simply answered, or is recorded.
#[inline(never)]
fn decide(
    told: PageFault,
    fault: Fault,
    mut outcome: Option<Result<Resolution, SpaceError>>,
) -> Result<(), Option<SpaceError>> {
    const KERNEL_PATIENCE: u32 = 1_000_000;
    let access = fault.access;
    if !access.contains(Access::USER) {
        let mut patience = KERNEL_PATIENCE;
        while let Some(Err(SpaceError::Retry(_))) = outcome
            && patience > 0
        {
            relax();
            patience -= 1;
            outcome = ask(fault);
        }
    }
    let decided = match outcome {
        Some(Ok(awaits @ (Resolution::Request(_) | Resolution::Wait(_)))) => {
            take_on(Ok(Answered::Resolved(awaits)), fault)
        }
        Some(Ok(resolution)) => Ok(Answered::Resolved(resolution)),
        Some(Err(SpaceError::Retry(_))) if access.contains(Access::USER) => Ok(Answered::Repeated),
        Some(Err(error)) if pager::is_out_of_memory(&error) => take_on(Err(Some(error)), fault),
        Some(Err(error)) => Err(Some(error)),
        None => Err(None),
    };
    if decided.is_err() || faults::are_recorded() {
        faults::record(told, decided);
    }
    decided.map(drop)
}

/// Asks the space that has the address; `None` if there is none.
fn ask(fault: Fault) -> Option<Result<Resolution, SpaceError>> {
    if fault.address.as_u64() < KERNEL_HALF {
        current::with(|space| space.fault_completed(fault))
    } else if fault.access.contains(Access::USER) {
        None
    } else {
        kernel_space::if_made().map(|space| frames::for_kernel(|| space.fault_completed(fault)))
    }
}

/// Goes on with a fault whose page has to be brought, or for which there is no memory. Apart, so that no other fault pays for it.
#[cold]
#[inline(never)]
fn take_on(first: Result<Answered, Option<SpaceError>>, fault: Fault) -> Result<Answered, Option<SpaceError>> {
    pager::take_on(first, || ask(fault))
}

/// What a frame is used for, for the picture.
pub(crate) fn use_of_frame(frame: u64) -> Use {
    match frames::owner(frame) {
        Some(Owner::Metadata) => return Use::Pool,
        Some(Owner::KernelPage) => return Use::KernelMemory,
        Some(Owner::Library(FrameUse::Free)) => return Use::Free,
        Some(Owner::Library(FrameUse::Table)) => return Use::Table,
        Some(Owner::Library(FrameUse::Page | FrameUse::Pinned)) => return Use::UserPage,
        Some(Owner::Library(_)) => return Use::Pool,
        None => {}
    }
    let Some(info) = boot_info() else { return Use::Absent };
    let address = frame.saturating_mul(FRAME_SIZE);
    let region = info.memory.iter().find(|region| (region.start()..region.end()).contains(&address));
    match region.map(|region| region.kind()) {
        // A region without room for its own records, and nothing else, is in no list of frames.
        Some(RegionKind::Usable | RegionKind::LoaderReclaimable) => Use::Reserved,
        Some(RegionKind::Kernel) => Use::KernelImage,
        Some(RegionKind::Module) => Use::BootModule,
        Some(RegionKind::Framebuffer) => Use::Framebuffer,
        Some(_) => Use::Reserved,
        None => Use::Absent,
    }
}
