//! The Limine way in (BIOS and UEFI): requests that the loader answers in place, and their answers as a [`BootInfo`].

use super::layout;
use crate::{bad_boot, devices};
use limine::{
    BaseRevision,
    memory_map::EntryType,
    request::{
        ExecutableAddressRequest, ExecutableFileRequest, FramebufferRequest, HhdmRequest, MemoryMapRequest,
        ModuleRequest, MpRequest, RequestsEndMarker, RequestsStartMarker, RsdpRequest,
    },
};
use refkernel::boot_info::{
    BootError, BootInfo, Channel, Framebuffer, KernelImage, Loader, PhysicalRange, Processor, RegionKind,
};

#[used]
#[unsafe(link_section = ".limine_requests_start")]
static REQUESTS_START: RequestsStartMarker = RequestsStartMarker::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static BASE_REVISION: BaseRevision = BaseRevision::with_revision(2);
#[used]
#[unsafe(link_section = ".limine_requests")]
static MEMORY_MAP: MemoryMapRequest = MemoryMapRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static HHDM: HhdmRequest = HhdmRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static KERNEL_ADDRESS: ExecutableAddressRequest = ExecutableAddressRequest::new();
// The file's string is the command line: every Limine 8 has it, unlike the request for the command line alone.
#[used]
#[unsafe(link_section = ".limine_requests")]
static KERNEL_FILE: ExecutableFileRequest = ExecutableFileRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static FRAMEBUFFER: FramebufferRequest = FramebufferRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static MODULES: ModuleRequest = ModuleRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static RSDP: RsdpRequest = RsdpRequest::new();
// Without a wish for x2APIC: the kernel uses whichever mode it finds.
#[used]
#[unsafe(link_section = ".limine_requests")]
static PROCESSORS: MpRequest = MpRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests_end")]
static REQUESTS_END: RequestsEndMarker = RequestsEndMarker::new();

/// Below this, Limine's map of physical memory shows everything, whatever the map of memory calls it: up to base revision 2, which is asked for above.
const SHOWN_IN_WHOLE: u64 = 1 << 32;

/// Called by the entry stub. Limine passes nothing in registers.
#[unsafe(no_mangle)]
extern "C" fn boot_limine() -> ! {
    crate::cpu::local::initialise(0);
    devices::serial::initialise();
    match collect() {
        Ok(info) => crate::kernel_main(super::keep(info)),
        Err(error) => bad_boot(&error),
    }
}

/// The answers as a [`BootInfo`].
fn collect() -> Result<BootInfo, BootError> {
    if !BASE_REVISION.is_supported() {
        return Err(BootError::MissingAnswer("base revision"));
    }
    let offset = HHDM.get_response().ok_or(BootError::MissingAnswer("physical memory map offset"))?.offset();
    let address = KERNEL_ADDRESS.get_response().ok_or(BootError::MissingAnswer("kernel address"))?;
    let image = layout::image();
    let kernel = KernelImage {
        physical_base: address.physical_base(),
        virtual_base: address.virtual_base(),
        length: image.end - image.start,
    };
    // Limine shows all that the map calls usable or reclaimable, wherever it is.
    let mut info = BootInfo::new(Loader::Limine, kernel, offset, u64::MAX);

    let map = MEMORY_MAP.get_response().ok_or(BootError::MissingAnswer("memory map"))?;
    for entry in map.entries() {
        let kind = match entry.entry_type {
            EntryType::USABLE => RegionKind::Usable,
            EntryType::ACPI_RECLAIMABLE => RegionKind::AcpiReclaimable,
            EntryType::ACPI_NVS => RegionKind::AcpiNonVolatile,
            EntryType::BAD_MEMORY => RegionKind::Bad,
            EntryType::BOOTLOADER_RECLAIMABLE => RegionKind::LoaderReclaimable,
            // One type for both: the kernel's own part is claimed below, the rest is modules.
            EntryType::EXECUTABLE_AND_MODULES => RegionKind::Module,
            EntryType::FRAMEBUFFER => RegionKind::Framebuffer,
            _ => RegionKind::Reserved,
        };
        info.memory.add(entry.base, entry.length, kind)?;
    }
    if let Some(line) = KERNEL_FILE.get_response() {
        info.set_command_line(line.file().string().to_bytes());
    }
    if let Some(module) = MODULES.get_response().and_then(|response| response.modules().first().copied()) {
        let physical = (module.addr() as u64).wrapping_sub(offset);
        info.module = Some(PhysicalRange::new(physical, module.size())?);
    }
    // A physical address from base revision 3 on, before that one in the map of physical memory.
    info.rsdp = RSDP
        .get_response()
        .map(|response| response.address() as u64)
        .map(|address| if address >= offset { address - offset } else { address });
    if let Some(response) = PROCESSORS.get_response() {
        for processor in response.cpus() {
            let parked_at = (processor.lapic_id != response.bsp_lapic_id())
                .then_some((&raw const **processor as u64).wrapping_sub(offset));
            info.processors.add(Processor { apic_id: processor.lapic_id, parked_at });
        }
    }
    super::acpi::find_interrupt_lines(&mut info, SHOWN_IN_WHOLE);
    info.finish()?;
    if let Some(display) = FRAMEBUFFER.get_response().and_then(|response| response.framebuffers().next()) {
        let framebuffer = Framebuffer {
            physical: (display.addr() as u64).wrapping_sub(offset),
            width: u32::try_from(display.width()).unwrap_or(0),
            height: u32::try_from(display.height()).unwrap_or(0),
            pitch: u32::try_from(display.pitch()).unwrap_or(0),
            bits_per_pixel: display.bpp(),
            red: Channel { shift: display.red_mask_shift(), size: display.red_mask_size() },
            green: Channel { shift: display.green_mask_shift(), size: display.green_mask_size() },
            blue: Channel { shift: display.blue_mask_shift(), size: display.blue_mask_size() },
        };
        if let Err(error) = info.set_framebuffer(framebuffer) {
            crate::log!("framebuffer refused: {error}");
        }
    }
    Ok(info)
}
