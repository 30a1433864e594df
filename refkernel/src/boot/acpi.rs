//! The ACPI table of processors and interrupt controllers, found from the root pointer through a loader's map of physical memory.
//!
//! Read while the boot information is made: afterwards nothing of ACPI's is needed, and most of its memory is not in the kernel's own
//! tables.

use acpi::madt::Madt;
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};
use core::ptr::NonNull;
use refkernel::boot_info::BootInfo;

/// The loader's map: nothing has to be mapped, and nothing unmapped.
#[derive(Clone, Copy)]
struct LoadersMap {
    offset: u64,
    reach: u64,
}

/// What is read where the map does not reach: no table begins so. As long as the longest fixed part, and aligned.
static NOTHING: [u64; 16] = [0; 16];

impl AcpiHandler for LoadersMap {
    unsafe fn map_physical_region<T>(&self, physical: usize, size: usize) -> PhysicalMapping<Self, T> {
        let end = (physical as u64).checked_add(size as u64);
        let reached = end.is_some_and(|end| physical != 0 && end <= self.reach);
        // Nothing but a table whose first bytes were reached is ever asked for at a greater length.
        assert!(reached || size <= size_of_val(&NOTHING), "the ACPI table at {physical:#x} is longer than memory");
        let address = if reached { self.offset + physical as u64 } else { NOTHING.as_ptr() as u64 };
        let start = NonNull::new(address as *mut T).unwrap_or(NonNull::dangling());
        // SAFETY: the loader's map shows all physical memory below its reach, and what it does not show is replaced.
        unsafe { PhysicalMapping::new(physical, start, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Enters the processors of the MADT, and where interrupts of old devices arrive. Where there is none the kernel runs on the one that it was started on.
pub(super) fn find_processors(info: &mut BootInfo) {
    let Some(root) = info.rsdp else {
        crate::log!("acpi: the loader told no root pointer: further processors are not looked for");
        return;
    };
    let map = LoadersMap { offset: info.physical_offset, reach: info.physical_reach };
    let enter = |table: &[u8]| {
        info.processors.add_table(table);
        info.interrupt_lines.add_table(table);
    };
    if let Err(error) = read(map, root, enter) {
        crate::log!("acpi: no table of processors: {error:?}");
    }
}

/// Enters where interrupts of old devices arrive, for a loader that has told of the processors itself. Below `reach` its map shows all physical memory, whatever
/// that is used for.
pub(super) fn find_interrupt_lines(info: &mut BootInfo, reach: u64) {
    let Some(root) = info.rsdp else { return };
    let map = LoadersMap { offset: info.physical_offset, reach };
    if let Err(error) = read(map, root, |table| info.interrupt_lines.add_table(table)) {
        crate::log!("acpi: no table of interrupt controllers: {error:?}");
    }
}

/// Gives the MADT to `enter`.
fn read(map: LoadersMap, root: u64, enter: impl FnOnce(&[u8])) -> Result<(), AcpiError> {
    // SAFETY: the loader says that the root pointer is there; what does not begin as one is refused. The handler reaches all of the
    // firmware's tables or shows nothing.
    let tables = unsafe { AcpiTables::from_rsdp(map, root as usize) }?;
    // Its sum is checked.
    let madt = tables.find_table::<Madt>()?;
    // SAFETY: a mapping's region is shown in whole, by a map that the loader's tables keep while the boot information is made.
    let bytes =
        unsafe { core::slice::from_raw_parts(madt.virtual_start().as_ptr().cast::<u8>(), madt.region_length()) };
    enter(bytes);
    Ok(())
}
