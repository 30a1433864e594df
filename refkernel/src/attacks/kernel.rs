//! The attacks that the kernel makes itself: what a mistake in it, or an attacker who has found one, would do.

use crate::boot::layout;
use crate::cpu::stacks::Purpose;
use crate::cpu::user::{self, Killed, UserExit};
use crate::cpu::{probe, user_copy};
use crate::memory::frames::FRAME_SIZE;
use crate::memory::stacks::KernelStack;
use crate::memory::{self, Kernel, audit, framebuffer_area, in_space, new_user_space};
use crate::process;
use vmcore::addr::{Frame, VirtAddr};
use vmcore::frame::{FrameRequest, FrameUse, Frames};
use vmcore::paging::{Access, MemoryType};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::MapRequest;
use x86_64::instructions::interrupts;

#[cfg(feature = "planted-weakness")]
use crate::memory::weaken;
#[cfg(feature = "planted-weakness")]
use crate::weakness::{Defence, lacks};

type Outcome = Result<bool, &'static str>;

const USER_SCRATCH: u64 = 0x40_0000;
const PAGE: u64 = FRAME_SIZE;

fn found(finding: impl core::fmt::Display) -> &'static str {
    crate::log!("  {finding}");
    "see the line above"
}

pub(super) fn reads_program() -> Outcome {
    memory::tests::with_programs_page(Access::USER_DATA, |address| probe::read(address).is_some())
}

pub(super) fn executes_program() -> Outcome {
    let access = Access::USER | Access::READ | Access::EXECUTE;
    // SAFETY: the page holds `ret` instructions.
    memory::tests::with_programs_page(access, |address| unsafe { probe::execute(address) })
}

pub(super) fn writes_constants() -> Outcome {
    Ok(probe::touch(layout::rodata().start) || probe::touch(layout::text().start))
}

pub(super) fn writes_read_only_page() -> Outcome {
    memory::tests::with_programs_page(Access::USER | Access::READ, |address| {
        user_copy::copy_to_user(address, &[1]).is_ok()
    })
}

/// What the first push does that finds no room on a stack.
pub(super) fn stack_overflow() -> Outcome {
    let stack = KernelStack::new(Purpose::Test).map_err(found)?;
    let below = stack.start() - 8;
    #[cfg(feature = "planted-weakness")]
    if lacks(Defence::Guards) {
        // The guard shows what the stack's first page shows.
        let (_, page) = weaken::leaf(stack.start()).ok_or("the stack has no leaf")?;
        let (guard, before) = weaken::leaf(below).ok_or("the guard has no table")?;
        if before & 1 != 0 {
            return Err("the guard is mapped");
        }
        weaken::change(guard, page);
    }
    Ok(probe::touch(below))
}

/// Any leaf that is both, in the kernel's half and in the half of each process.
pub(super) fn writable_and_executable() -> Outcome {
    #[cfg(feature = "planted-weakness")]
    if lacks(Defence::NoExecute) {
        weaken::allow_execution(layout::data().start)?;
        return Ok(audit::kernel_half().is_err());
    }
    audit::kernel_half().map_err(found)?;
    for process in process::all() {
        audit::user_half(process.space()).map_err(found)?;
    }
    Ok(false)
}

/// Entries of a table where nothing of the test's is.
const BESIDE: core::ops::Range<usize> = 128..256;

/// Writes the same word into these entries of a frame.
fn fill(frame: Frame, entries: core::ops::Range<usize>, word: u64) {
    let table = Kernel.frame_pointer(frame).cast::<u64>();
    for index in entries.filter(|index| *index < 512) {
        // SAFETY: the callers' frames are their own, or tables of a space that nobody is in; a frame has 512 words.
        unsafe { table.add(index).write_volatile(word) };
    }
}

/// Takes frames as anybody may, leaves the same entry in a part of each, and gives them back: the next ones that are taken are these.
fn leave_behind(word: u64) {
    let mut taken = [None; 64];
    for slot in &mut taken {
        *slot = Kernel.allocate_frames(FrameRequest::one(FrameUse::Page));
    }
    for frame in taken.into_iter().flatten() {
        fill(frame, 0..512, 0);
        fill(frame, BESIDE, word);
        // SAFETY: it was just taken, and nothing refers to it.
        unsafe { Kernel.free_frames(frame, 1) };
    }
}

/// Frames that somebody has filled with entries, then given back, become tables: what nobody has mapped leads to a frame of that one's choice.
pub(super) fn old_data_in_a_table() -> Outcome {
    let secret = Kernel.allocate_frames(FrameRequest::one(FrameUse::Page)).ok_or("there is no frame")?;
    // The root is a clean one also where nobody clears it: half of it is the kernel's.
    leave_behind(0);
    let space = new_user_space().map_err(found)?;
    leave_behind((secret.number() * PAGE) | 0x67);
    let area = Area::new(&Kernel, AreaKind::Open { size: PAGE }, ()).map_err(found)?;
    let range = space.map(&MapRequest::new(&area).at(USER_SCRATCH).access(Access::USER_DATA)).map_err(found)?;
    space.populate(range, Access::USER_DATA).map_err(found)?.complete();
    // An address that nobody has mapped, in the same lowest table.
    let beside = VirtAddr::new(USER_SCRATCH + (BESIDE.start as u64) * PAGE);
    let worked = space.walk(beside).physical().is_some_and(|at| at.as_u64() == secret.number() * PAGE);
    // What is there by a mistake must not be taken for the space's own when it is given up.
    space.walk(VirtAddr::new(USER_SCRATCH)).steps().for_each(|step| fill(step.table, BESIDE, 0));
    space.destroy().map_err(|(_, error)| found(error))?.complete();
    // SAFETY: it was taken above; no table leads to it any more, and no processor has ever been in the space.
    unsafe { Kernel.free_frames(secret, 1) };
    Ok(worked)
}

/// A second window onto the screen, with another memory type.
pub(super) fn two_memory_types() -> Outcome {
    let Some(AreaKind::Fixed { frames, .. }) = framebuffer_area().map(Area::kind) else {
        return Err("the framebuffer is no fixed area");
    };
    // SAFETY: the area is refused, or dropped unused.
    let again = unsafe { Area::fixed(&Kernel, frames, MemoryType::WriteBack, ()) };
    if !matches!(again, Err(AreaError::Registry(_))) {
        return Ok(true);
    }
    #[cfg(feature = "planted-weakness")]
    if lacks(Defence::MemoryTypes) {
        // A page of a kernel's stack is the screen's for a moment.
        let stack = KernelStack::new(Purpose::Test).map_err(found)?;
        let (entry, word) = weaken::leaf(stack.start()).ok_or("the stack has no leaf")?;
        let frame_bits = (1 << 52) - PAGE;
        weaken::change(entry, (word & !frame_bits) | (frames.first().number() * PAGE));
        let seen = audit::one_memory_type(core::iter::empty()).is_err();
        weaken::restore();
        return Ok(seen);
    }
    let processes: alloc::vec::Vec<_> = process::all().collect();
    audit::one_memory_type(processes.iter().map(|process| process.space())).map_err(found)?;
    Ok(false)
}

/// A `syscall` in the last two bytes of the lower half: `sysret` would go on at the first address that is not canonical.
pub(super) fn return_to_non_canonical() -> Outcome {
    const LAST_PAGE: u64 = (1 << 47) - PAGE;
    // mov rax, the last two bytes; jmp rax.
    let mut jump = [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0];
    if let Some(place) = jump.get_mut(2..10) {
        place.copy_from_slice(&((1_u64 << 47) - 2).to_le_bytes());
    }
    let space = new_user_space().map_err(found)?;
    for (address, offset, code) in [(USER_SCRATCH, 0, &jump[..]), (LAST_PAGE, PAGE - 2, &[0x0f, 0x05])] {
        let area = Area::new(&Kernel, AreaKind::Open { size: PAGE }, ()).map_err(found)?;
        area.write(offset, code).map_err(found)?.complete();
        let access = Access::USER | Access::READ | Access::EXECUTE;
        let range = space.map(&MapRequest::new(&area).at(address).access(access)).map_err(found)?;
        space.populate(range, access).map_err(found)?.complete();
    }
    let exit = in_space(&space, || user::enter_user(USER_SCRATCH, USER_SCRATCH + PAGE, 0));
    interrupts::enable();
    space.destroy().map_err(|(_, error)| found(error))?.complete();
    match exit {
        UserExit::Killed(Killed::ReturnAddress(address)) if address == 1 << 47 => Ok(false),
        // It was gone back to: the processor itself did not like the address.
        UserExit::Killed(killed @ (Killed::Trap { .. } | Killed::PageFault { .. })) => {
            crate::log!("  the program went on, and was killed: {killed}");
            Ok(true)
        }
        _ => Err("the program neither went on nor was killed for where it would"),
    }
}
