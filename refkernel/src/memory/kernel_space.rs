//! The kernel's own space: made under the loader's tables, then put in their place.
//!
//! ```text
//!   linear map    RAM at one offset                rw-  write-back, the largest leaves that fit   fixed areas
//!   HEAP          the heap                         rw-  faulted in on demand                      open
//!   HEAP_MAP      which of its granules are live   rw-  faulted in on demand                      open
//!   STACKS        kernel stacks                    rw-  populated when handed out                 guarded
//!   FRAMEBUFFER   the screen                       rw-  write-combining                           fixed
//!   APIC          local interrupt controllers      rw-  uncached                                  fixed
//!   IO_APIC       the I/O APIC                     rw-  uncached                                  fixed
//!   the image     text r-x, rodata r--, data rw-                                                  fixed
//! ```
//!
//! Everything that must not fault is populated when it is mapped, so the switch is a write to CR3: each address that the
//! kernel uses means the same memory before and after. No window is both writable and executable; `audit` looks
//! at the live tables to see that this is so.
//!
//! RAM for programs is in the linear map; the framebuffer and other devices never are, so nothing is mapped with two
//! memory types. The machine's registry of memory types refuses it besides.

use super::platform::{Kernel, ThisProcessor};
use super::{MemoryError, linear};
use crate::boot::layout;
use crate::cpu::apic;
use core::ops::Range;
use refkernel::boot_info::{BootInfo, PhysicalRange, RegionKind};
use refkernel::translations;
use spin::Once;
use vmcore::Platform;
use vmcore::addr::{Frame, FrameRange};
use vmcore::paging::{Access, MemoryType, Mmu};
use vmcore::vm_area::Area;
use vmcore::vm_space::{Activation, IndexMemory, MapRequest, Space};

/// Where the heap lies.
pub(super) const HEAP: u64 = 0xffff_ff80_0000_0000;
/// Where its map of live granules lies.
pub(super) const HEAP_MAP: u64 = 0xffff_ff81_0000_0000;
/// Where the kernel stacks lie.
const STACKS: u64 = crate::cpu::stacks::SLOTS_START;
/// Where the framebuffer lies.
pub(super) const FRAMEBUFFER: u64 = 0xffff_ff83_0000_0000;
/// Where the registers of the local interrupt controllers lie: every processor sees its own at the same address.
const APIC: u64 = 0xffff_ff85_0000_0000;
/// Where the registers of the I/O APIC lie.
const IO_APIC: u64 = 0xffff_ff86_0000_0000;

/// Memory for the first windows, at least 24: the space exists before there is a heap to keep them in.
static WINDOWS: IndexMemory<3> = IndexMemory::new();

static SPACE: Once<Space<Kernel>> = Once::new();

/// The kernel's space.
///
/// # Panics
///
/// Before [`make`].
pub(crate) fn kernel_space() -> &'static Space<Kernel> {
    SPACE.get().expect("the kernel's space is made before anything else is mapped")
}

/// The kernel's space, if it is made.
pub(super) fn if_made() -> Option<&'static Space<Kernel>> {
    SPACE.get()
}

/// Maps physical memory, all of it present, and gives the area.
///
/// # Safety
///
/// Whoever uses the window or the area does with the memory what its owner may: the kernel its image as the sections say, this
/// module's RAM through the owners of its frames, the driver of a device its memory.
unsafe fn map_fixed(
    space: &Space<Kernel>,
    physical: Range<u64>,
    address: u64,
    memory: MemoryType,
    access: Access,
) -> Result<Area<Kernel>, MemoryError> {
    let (first, end) = (physical.start / 4096, physical.end.div_ceil(4096));
    let frames = FrameRange::new(Frame::new(first), end.saturating_sub(first)).ok_or(MemoryError::Layout)?;
    // SAFETY: by the contract.
    let area = unsafe { Area::fixed(&Kernel, frames, memory, ()) }?;
    space.map(&MapRequest::new(&area).at(address).access(access).populated())?;
    Ok(area)
}

/// The physical addresses of a part of the kernel's image.
pub(super) fn physical_part(info: &BootInfo, part: &Range<u64>) -> Range<u64> {
    let physical = |address| info.kernel.physical_base + (address - layout::image().start);
    physical(part.start)..physical(part.end)
}

/// The parts of the image with what may be done to each.
pub(super) fn sections() -> [(&'static str, Range<u64>, Access); 3] {
    [
        ("text", layout::text(), Access::READ.union(Access::EXECUTE)),
        ("rodata", layout::rodata(), Access::READ),
        ("data", layout::data(), Access::KERNEL_DATA),
    ]
}

/// The RAM that the linear map shows, as runs without holes: `each` is called with one after another.
fn for_each_run(
    info: &BootInfo,
    mut each: impl FnMut(Range<u64>) -> Result<(), MemoryError>,
) -> Result<(), MemoryError> {
    let boot = physical_part(info, &layout::boot());
    let mut run = 0..0_u64;
    for region in info.memory.iter() {
        let part = match region.kind() {
            RegionKind::Usable | RegionKind::LoaderReclaimable | RegionKind::AcpiReclaimable | RegionKind::Module => {
                region.start()..region.end()
            }
            // The boot tables and the boot stack become free memory; the rest of the image has its own windows only.
            RegionKind::Kernel => boot.start.max(region.start())..boot.end.min(region.end()),
            _ => continue,
        };
        if part.is_empty() {
            continue;
        }
        if part.start != run.end {
            if !run.is_empty() {
                each(run.clone())?;
            }
            run = part;
        } else {
            run.end = part.end;
        }
    }
    if run.is_empty() { Ok(()) } else { each(run) }
}

/// Makes the space, with everything in it that the kernel is using. The loader's tables are still the processor's.
pub(super) fn make(info: &BootInfo) -> Result<(), MemoryError> {
    let start = linear::space_start();
    // Up to the last address: the size is what is left of 2^64.
    let bounds = Kernel.machine().mmu().range(start, start.wrapping_neg())?;
    let space = Space::kernel(&Kernel, bounds, WINDOWS.take(), ())?;
    for (_, addresses, access) in sections() {
        let physical = physical_part(info, &addresses);
        // SAFETY: the image where it is already, for the code and the statics that are in it. The area is given up here.
        unsafe { map_fixed(&space, physical, addresses.start, MemoryType::WriteBack, access) }?;
    }
    let (boot, data) = (layout::boot(), Access::KERNEL_DATA);
    // SAFETY: the stack that this runs on, where it is already, until it is left.
    unsafe { map_fixed(&space, physical_part(info, &boot), boot.start, MemoryType::WriteBack, data) }?;
    for_each_run(info, |run| {
        let address = linear::address(run.start);
        // SAFETY: what the linear map shows is reached by who has taken the frame from `frames`, and the module read only.
        unsafe { map_fixed(&space, run, address, MemoryType::WriteBack, data) }.map(drop)
    })?;
    SPACE.call_once(|| space);
    Ok(())
}

/// The physical address of the root table.
pub(super) fn root() -> u64 {
    kernel_space().root().start(12).as_u64()
}

/// Puts the space's tables in the place of the loader's, on this processor.
pub(super) fn switch() {
    let activation = kernel_space().activate(Kernel.cpu());
    // SAFETY: `make` mapped the text, the data and the stack where they are, with the access that they need, and RAM where
    // the library's pointers lead. The space lives for ever.
    unsafe { load(&activation) };
}

/// Loads a root table, and forgets what the activation says.
///
/// Process-context identifiers are not used (QEMU's TCG has none), so every tag is 0 and each write of CR3 drops all but global
/// translations: that is what an activation asks for at least. The first one on a processor asks for everything, as the loader's
/// translations may have been global.
///
/// # Safety
///
/// The root is that of the kernel's space, or of one that shares its root slots and stays until another root is loaded.
pub(super) unsafe fn load(activation: &Activation) {
    translations::load(activation, &mut ThisProcessor);
}

/// Unmaps the boot tables and the boot stack. Nothing uses them any more.
pub(super) fn unmap_boot() -> Result<(), MemoryError> {
    let boot = layout::boot();
    let space = kernel_space();
    space.unmap(space.range(boot.start, boot.end - boot.start)?)?.complete();
    Ok(())
}

/// What a window of the kernel's space is for, by its first address.
pub(crate) fn purpose(address: u64) -> &'static str {
    let windows = [
        (HEAP, "heap"),
        (HEAP_MAP, "heap map"),
        (STACKS, "stacks"),
        (FRAMEBUFFER, "screen"),
        (APIC, "APIC"),
        (IO_APIC, "I/O APIC"),
    ];
    let named = windows.into_iter().find(|(start, _)| *start == address).map(|(_, name)| name);
    let section = || sections().into_iter().find(|(_, part, _)| part.start == address).map(|(name, ..)| name);
    named.or_else(section).unwrap_or("RAM")
}

/// Maps the registers of the local interrupt controllers, if they are memory.
pub(super) fn map_apic() -> Result<(), MemoryError> {
    let Some(page) = apic::physical_page() else { return Ok(()) };
    let (memory, access) = (MemoryType::Uncached, Access::KERNEL_DATA);
    // SAFETY: the page holds the registers alone, which the module `apic` uses alone; the address is given up here. The window stays for ever.
    unsafe {
        map_fixed(kernel_space(), page..page + 4096, APIC, memory, access)?;
        apic::set_page(APIC);
    }
    Ok(())
}

/// Maps the registers of an I/O APIC, once and for ever; gives where they are.
///
/// # Errors
///
/// [`MemoryError`].
pub(crate) fn map_io_apic(physical: u64) -> Result<u64, MemoryError> {
    let (memory, access) = (MemoryType::Uncached, Access::KERNEL_DATA);
    let page = physical & !0xfff;
    // SAFETY: the page holds the registers alone, which the module `io_apic` uses alone; the area is given up here.
    unsafe { map_fixed(kernel_space(), page..page + 4096, IO_APIC, memory, access) }?;
    Ok(IO_APIC + (physical & 0xfff))
}

static FRAMEBUFFER_AREA: Once<Area<Kernel>> = Once::new();

/// The framebuffer, if there is one: a fixed area, write-combining.
pub(crate) fn framebuffer_area() -> Option<&'static Area<Kernel>> {
    FRAMEBUFFER_AREA.get()
}

/// Maps the framebuffer for the kernel itself.
pub(super) fn map_framebuffer(info: &BootInfo) -> Result<(), MemoryError> {
    let Some(range) = info.framebuffer().and_then(|framebuffer| framebuffer.range().ok()) else { return Ok(()) };
    let area = map_screen(range, MemoryType::WriteCombining)?;
    FRAMEBUFFER_AREA.call_once(|| area);
    Ok(())
}

/// Maps the framebuffer at its place, where it is not yet.
pub(super) fn map_screen(range: PhysicalRange, memory: MemoryType) -> Result<Area<Kernel>, MemoryError> {
    let physical = range.start()..range.end();
    // SAFETY: the framebuffer holds pixels alone, which whoever has the area may draw; the map of memory keeps it apart
    // from RAM.
    unsafe { map_fixed(kernel_space(), physical, FRAMEBUFFER, memory, Access::KERNEL_DATA) }
}

/// Where the kernel sees the framebuffer's first pixel.
pub(crate) fn framebuffer_address(info: &BootInfo) -> Option<u64> {
    framebuffer_area()?;
    Some(FRAMEBUFFER + info.framebuffer()?.physical % 4096)
}
