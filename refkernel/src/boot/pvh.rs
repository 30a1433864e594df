//! The PVH way in: QEMU (or another virtual machine monitor) has loaded the segments and a 32-bit stub has turned on
//! long mode with a map of the first 4 GiB at [`PHYSICAL_OFFSET`].

use super::layout;
use crate::{bad_boot, devices};
use refkernel::boot_info::{
    BootInfo, KernelImage, Loader,
    pvh::{PhysicalMemory, StartInfo},
};

/// Where the boot page tables show physical memory: root slot 256.
const PHYSICAL_OFFSET: u64 = 0xffff_8000_0000_0000;
/// How much of it they show.
const PHYSICAL_REACH: u64 = 4 << 30;
/// Virtual minus physical addresses of the kernel's image when a loader obeys the segments' physical addresses.
const KERNEL_OFFSET: u64 = 0xffff_ffff_8000_0000;

/// Physical memory through the boot page tables.
struct BootMap;

impl PhysicalMemory for BootMap {
    fn read(&self, physical: u64, buffer: &mut [u8]) -> bool {
        let Some(end) = physical.checked_add(buffer.len() as u64) else {
            return false;
        };
        if end > PHYSICAL_REACH {
            return false;
        }
        let source = (PHYSICAL_OFFSET + physical) as *const u8;
        for (index, byte) in buffer.iter_mut().enumerate() {
            // SAFETY: the boot page tables map every physical address below PHYSICAL_REACH at PHYSICAL_OFFSET, and the
            // whole range was checked to be below it. Any bytes are valid as `u8`. Volatile, since the memory is the
            // loader's and not an object of this program.
            *byte = unsafe { source.add(index).read_volatile() };
        }
        true
    }
}

/// Called by the entry stub with the physical address of `hvm_start_info`.
#[unsafe(no_mangle)]
extern "C" fn boot_pvh(start_info: u64) -> ! {
    crate::cpu::local::initialise(0);
    devices::serial::initialise();
    let image = layout::image();
    let kernel = KernelImage {
        physical_base: image.start - KERNEL_OFFSET,
        virtual_base: image.start,
        length: image.end - image.start,
    };
    let info = StartInfo::read(&BootMap, start_info).and_then(|start| {
        let mut info = BootInfo::new(Loader::Pvh, kernel, PHYSICAL_OFFSET, PHYSICAL_REACH);
        start.fill(&BootMap, &mut info)?;
        super::acpi::find_processors(&mut info);
        if info.processors.iter().nth(1).is_some() {
            info.claim_startup_page()?;
        }
        Ok(info)
    });
    let mut info = match info {
        Ok(info) => info,
        Err(error) => bad_boot(&error),
    };
    if let Some(framebuffer) = devices::bochs_display::set_mode()
        && let Err(error) = info.set_framebuffer(framebuffer)
    {
        crate::log!("framebuffer refused: {error}");
    }
    crate::kernel_main(super::keep(info))
}
