//! What the processor's tables really say: read back from CR3 on, not from what was asked for.

use super::kernel_space::{FRAMEBUFFER, sections};
use super::platform::Kernel;
use crate::cpu::memory_types;
use crate::log;
use core::fmt;
use refkernel::boot_info::PhysicalRange;
use refkernel::memory_type::{MemoryType, effective, pat_slots};
use vmcore::Platform;
use vmcore::addr::{Frame, PageRange, PhysAddr, RangeError, VirtAddr};
use vmcore::paging::{Access, Leaf, Mmu, Tables, Tag, Walk, X86_64};
use x86_64::registers::control::Cr3;

/// What the live tables get wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finding {
    /// These pages are both writable and executable.
    WritableAndExecutable(PageRange, Leaf),
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
pub(super) fn walk(address: u64) -> Walk {
    live().walk(&Kernel, VirtAddr::new(address))
}

/// No leaf of the kernel's half is both writable and executable, and none is a program's.
pub(super) fn kernel_half() -> Result<(), Finding> {
    let half = Kernel.machine().mmu().range(0xffff_8000_0000_0000, 1 << 47).map_err(Finding::Unseen)?;
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
