//! What the processor's tables really say: read back from CR3 on, not from what was asked for.

use super::UserSpace;
use super::frames::FRAME_SIZE;
use super::kernel_space::{FRAMEBUFFER, sections};
use super::platform::Kernel;
use super::{HALF_SIZE, KERNEL_HALF};
use crate::cpu::memory_types;
use crate::log;
use alloc::vec::Vec;
use core::fmt;
use refkernel::boot_info::PhysicalRange;
use refkernel::memory_type::{MemoryType, effective, pat_slots};
use vmcore::Platform;
use vmcore::addr::{Frame, PageRange, PhysAddr, RangeError, VirtAddr};
use vmcore::paging::{Access, Leaf, MemoryType as PageType, Mmu, Tables, Tag, Walk, X86_64};
use x86_64::registers::control::Cr3;

/// What the live tables get wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finding {
    /// These pages are both writable and executable.
    WritableAndExecutable(PageRange, Leaf),
    /// A frame is mapped with two memory types.
    TwoTypes(Frame, PageType, PageType),
    /// Programs may access these pages of the kernel's half.
    Programs(PageRange, Leaf),
    /// The kernel's half cannot be looked at.
    Unseen(RangeError),
    /// A part of the image, and pages of it that are not as they should be.
    Section(&'static str, PageRange, Leaf),
    /// A part of the image with a hole.
    Hole(&'static str),
    /// The framebuffer is accessed with this memory type.
    Framebuffer(Option<MemoryType>),
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WritableAndExecutable(pages, leaf) => {
                write!(formatter, "{pages} is writable and executable: {leaf:?}")
            }
            Self::TwoTypes(frame, one, other) => {
                write!(formatter, "frame {:#x} is mapped as {one} and as {other}", frame.number())
            }
            Self::Programs(pages, leaf) => write!(formatter, "{pages} can be accessed by programs: {leaf:?}"),
            Self::Unseen(error) => write!(formatter, "the kernel's half cannot be looked at: {error}"),
            Self::Section(name, pages, leaf) => write!(formatter, "{name} at {pages} is mapped as {leaf:?}"),
            Self::Hole(name) => write!(formatter, "{name} is not mapped in whole"),
            Self::Framebuffer(Some(memory)) => write!(formatter, "the framebuffer is {memory}, not write-combining"),
            Self::Framebuffer(None) => formatter.write_str("the framebuffer has a reserved or mixed memory type"),
        }
    }
}

/// The tables that the processor uses.
fn live() -> Tables<X86_64> {
    let root = Cr3::read_raw().0.start_address().as_u64();
    // SAFETY: the value is used for reading only. The processor is using these tables, so they are of this format and not
    // freed; the linear map shows them.
    unsafe { Tables::new(Kernel.machine().mmu(), Frame::containing(PhysAddr::new(root), 12), Tag::default()) }
}

/// The live entries that translate an address.
pub(crate) fn walk(address: u64) -> Walk {
    live().walk(&Kernel, VirtAddr::new(address))
}

/// No leaf of the kernel's half is both writable and executable, and none is a program's.
pub(crate) fn kernel_half() -> Result<(), Finding> {
    let half = Kernel.machine().mmu().range(KERNEL_HALF, HALF_SIZE).map_err(Finding::Unseen)?;
    let forbidden = Access::WRITE | Access::EXECUTE;
    for (pages, leaf) in live().runs(&Kernel, half) {
        if leaf.access.contains(forbidden) {
            return Err(Finding::WritableAndExecutable(pages, leaf));
        }
        if leaf.access.contains(Access::USER) {
            return Err(Finding::Programs(pages, leaf));
        }
    }
    Ok(())
}

/// The tables of a process.
fn of_space(space: &UserSpace) -> Tables<X86_64> {
    // SAFETY: as in `live`: for reading only, while the space is borrowed. Nobody runs in it, so that no table of it is freed meanwhile.
    unsafe { Tables::new(Kernel.machine().mmu(), space.root(), Tag::default()) }
}

/// No leaf of a space's own half, in which nobody runs, is both writable and executable.
pub(crate) fn user_half(space: &UserSpace) -> Result<(), Finding> {
    let half = Kernel.machine().mmu().range(0, HALF_SIZE).map_err(Finding::Unseen)?;
    let forbidden = Access::WRITE | Access::EXECUTE;
    match of_space(space).runs(&Kernel, half).find(|(_, leaf)| leaf.access.contains(forbidden)) {
        Some((pages, leaf)) => Err(Finding::WritableAndExecutable(pages, leaf)),
        None => Ok(()),
    }
}

/// Every frame that leaves of the kernel's half, and of these spaces' own halves, lead to is mapped with one memory type.
pub(crate) fn one_memory_type<'a>(spaces: impl Iterator<Item = &'a UserSpace>) -> Result<(), Finding> {
    let mmu = Kernel.machine().mmu();
    let mut runs = Vec::new();
    let mut add =
        |tables: Tables<X86_64>, start, size| {
            let half = mmu.range(start, size).map_err(Finding::Unseen)?;
            runs.extend(tables.runs(&Kernel, half).map(|(pages, leaf)| {
                (leaf.frame.number(), leaf.frame.number() + pages.size() / FRAME_SIZE, leaf.memory)
            }));
            Ok(())
        };
    add(live(), KERNEL_HALF, HALF_SIZE)?;
    for space in spaces {
        add(of_space(space), 0, HALF_SIZE)?;
    }
    runs.sort_unstable_by_key(|(first, ..)| *first);
    // The furthest end of each type so far: a run that begins before the end of another type's meets it.
    let mut ends: Vec<(PageType, u64)> = Vec::new();
    for (first, end, memory) in runs {
        if let Some((other, _)) = ends.iter().find(|(other, end)| *other != memory && *end > first) {
            return Err(Finding::TwoTypes(Frame::new(first), *other, memory));
        }
        match ends.iter_mut().find(|(known, _)| *known == memory) {
            Some((_, furthest)) => *furthest = end.max(*furthest),
            None => ends.push((memory, end)),
        }
    }
    Ok(())
}

/// Each part of the image has exactly its access, in whole.
pub(super) fn section_permissions() -> Result<(), Finding> {
    for (name, addresses, access) in sections() {
        let size = addresses.end - addresses.start;
        let range = Kernel.machine().mmu().range(addresses.start, size).map_err(|_| Finding::Hole(name))?;
        let mut seen = 0;
        for (pages, leaf) in live().runs(&Kernel, range) {
            if leaf.access != access {
                return Err(Finding::Section(name, pages, leaf));
            }
            seen += pages.size();
        }
        if seen != size {
            return Err(Finding::Hole(name));
        }
    }
    Ok(())
}

/// With which type the framebuffer is accessed, from the entries' bits, the page attribute table and the range registers.
pub(super) fn framebuffer_type(physical: PhysicalRange) -> (Option<MemoryType>, Option<MemoryType>) {
    let slots = pat_slots(memory_types::page_attribute_table());
    let first = FRAMEBUFFER + physical.start() % 4096;
    let mut page_type = None;
    let mut address = first;
    while address < first + physical.length() {
        let here = walk(address).steps().last().and_then(|step| {
            // Intel SDM Vol. 3A, tables 5-18 to 5-20: PWT 3, PCD 4, PAT 7 in the lowest level and 12 above it.
            let pat = if step.level == 0 { 7 } else { 12 };
            let slot = (step.word >> 3 & 3) | (step.word >> pat & 1) << 2;
            slots.get(slot as usize).copied().flatten()
        });
        if address != first && here != page_type {
            return (None, None);
        }
        page_type = here;
        address += 4096;
    }
    let by_range = memory_types::ranges().type_of_range(physical.start(), physical.end());
    (page_type, by_range)
}

/// The framebuffer is write-combining, whatever the firmware's range registers say. Logs how.
pub(super) fn framebuffer(physical: PhysicalRange) -> Result<(), Finding> {
    let (by_page, by_range) = framebuffer_type(physical);
    let combined = by_page.zip(by_range).and_then(|(page, range)| effective(range, page));
    if let (Some(page), Some(range), Some(combined)) = (by_page, by_range, combined) {
        log!("framebuffer: {FRAMEBUFFER:#x}, {page} by its entries, {range} by the range registers: {combined}");
    }
    if combined == Some(MemoryType::WriteCombining) { Ok(()) } else { Err(Finding::Framebuffer(combined)) }
}
