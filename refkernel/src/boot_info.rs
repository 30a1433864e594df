//! What a loader told about the machine, in one form for every loader.
//!
//! Plain data in bounded arrays, so that it exists before the first frame is handed out. Everything in it comes from
//! outside and is checked here: afterwards the memory map is sorted, without overlaps, in whole pages, and nothing
//! that the kernel still needs (its image, the module, the loader's data) is called usable.
//!
//! A loader fills it in this order: [`BootInfo::new`], [`MemoryMap::add`] for each region,
//! [`BootInfo::set_command_line`], `module`, `rsdp`, then [`BootInfo::finish`], and the framebuffer last.

pub mod framebuffer;
pub mod interrupt_lines;
pub mod memory_map;
pub mod processors;
pub mod pvh;

pub use framebuffer::{Channel, Framebuffer};
pub use memory_map::{MemoryMap, Region, RegionKind};
pub use processors::{Processor, Processors};

use core::fmt;

/// Bytes in a page, the unit of the memory map.
pub const PAGE_SIZE: u64 = 4096;
/// One past the highest physical address that x86-64 can name: 52 bits.
pub const PHYSICAL_LIMIT: u64 = 1 << 52;
/// Bytes of the command line that are kept.
pub const COMMAND_LINE_LENGTH: usize = crate::command_line::LENGTH_MAX;

/// Why the boot information cannot be used. The kernel ends with exit code `BadBoot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// The start information at this physical address does not begin with its magic number.
    WrongMagic {
        /// Physical address of the start information.
        address: u64,
        /// What was found there.
        found: u32,
    },
    /// A structure of the loader's lies where physical memory cannot be reached.
    Unreachable {
        /// Physical address of the structure.
        address: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// The start information is of a version without a memory map.
    OldVersion(u32),
    /// The loader left a question without an answer.
    MissingAnswer(&'static str),
    /// A range that wraps around or ends beyond the highest physical address.
    BadRange {
        /// First physical address.
        start: u64,
        /// Length in bytes.
        length: u64,
    },
    /// The memory map has more regions than there is room for.
    TooManyRegions,
    /// The memory map has no whole usable page.
    NoUsableMemory,
    /// The framebuffer's geometry does not fit together.
    BadFramebuffer(Framebuffer),
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMagic { address, found } => {
                write!(
                    formatter,
                    "start information at {address:#x} begins with {found:#x} instead of 0x336ec578: start the kernel by its PVH note"
                )
            }
            Self::Unreachable { address, length } => {
                write!(
                    formatter,
                    "loader data at {address:#x} of {length:#x} bytes is outside of the boot map of physical memory: place it below 4 GiB"
                )
            }
            Self::OldVersion(version) => {
                write!(
                    formatter,
                    "start information of version {version} has no memory map: version 1 or later is needed"
                )
            }
            Self::MissingAnswer(question) => {
                write!(formatter, "the loader did not answer: {question}: Limine 8 or later is needed")
            }
            Self::BadRange { start, length } => {
                write!(
                    formatter,
                    "physical range at {start:#x} of {length:#x} bytes is empty or ends beyond {PHYSICAL_LIMIT:#x}"
                )
            }
            Self::TooManyRegions => {
                write!(formatter, "the memory map has more than {} regions", memory_map::CAPACITY)
            }
            Self::NoUsableMemory => write!(formatter, "the memory map has no usable page"),
            Self::BadFramebuffer(f) => {
                write!(
                    formatter,
                    "framebuffer at {:#x} of {}x{} pixels, {} bits, pitch {}: 32 bits per pixel and a pitch of at least a row are needed",
                    f.physical, f.width, f.height, f.bits_per_pixel, f.pitch
                )
            }
        }
    }
}

impl core::error::Error for BootError {}

/// Who started the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loader {
    /// A virtual machine monitor, through the ELF file's PVH note.
    Pvh,
    /// The Limine bootloader, on BIOS or UEFI.
    Limine,
}

impl fmt::Display for Loader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pvh => "pvh",
            Self::Limine => "limine",
        })
    }
}

/// A non-empty range of physical memory, in bytes, below [`PHYSICAL_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalRange {
    start: u64,
    end: u64,
}

impl PhysicalRange {
    /// The range of `length` bytes from `start`.
    ///
    /// # Errors
    ///
    /// [`BootError::BadRange`] when it is empty, wraps or ends beyond [`PHYSICAL_LIMIT`].
    pub const fn new(start: u64, length: u64) -> Result<Self, BootError> {
        match start.checked_add(length) {
            Some(end) if length != 0 && end <= PHYSICAL_LIMIT => Ok(Self { start, end }),
            _ => Err(BootError::BadRange { start, length }),
        }
    }

    /// First address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One past the last address.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes, never zero.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.end - self.start
    }
}

/// Where the kernel's image lies. Its parts follow from the linker's symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Physical address of its first byte.
    pub physical_base: u64,
    /// Virtual address of its first byte.
    pub virtual_base: u64,
    /// Length in bytes, a multiple of the page size.
    pub length: u64,
}

impl KernelImage {
    /// The physical address of an address in the image, or of the image's end.
    #[must_use]
    pub const fn physical(&self, address: u64) -> Option<u64> {
        match address.checked_sub(self.virtual_base) {
            Some(offset) if offset <= self.length => self.physical_base.checked_add(offset),
            _ => None,
        }
    }
}

/// Everything that the kernel knows about its machine when it starts.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// Who started the kernel.
    pub loader: Loader,
    /// Physical memory by use.
    pub memory: MemoryMap,
    /// The boot module, a tar archive of programs and symbols.
    pub module: Option<PhysicalRange>,
    /// Where the kernel lies.
    pub kernel: KernelImage,
    /// Physical address `p` is reachable at virtual address `physical_offset + p`, at entry.
    pub physical_offset: u64,
    /// One past the highest physical address that is reachable so.
    pub physical_reach: u64,
    /// Physical address of the ACPI root pointer, where the loader told it.
    pub rsdp: Option<u64>,
    /// The processors, where the loader or the firmware told of them.
    pub processors: Processors,
    /// Where old devices' interrupts arrive, as far as the firmware told.
    pub interrupt_lines: interrupt_lines::InterruptLines,
    /// Physical address of the page on which a processor that is started by interrupts begins, where one was claimed.
    startup_page: Option<u64>,
    framebuffer: Option<Framebuffer>,
    command_line: [u8; COMMAND_LINE_LENGTH],
    command_line_length: usize,
    command_line_truncated: bool,
}

impl BootInfo {
    /// Information with an empty memory map.
    #[must_use]
    pub const fn new(loader: Loader, kernel: KernelImage, physical_offset: u64, physical_reach: u64) -> Self {
        Self {
            loader,
            memory: MemoryMap::new(),
            module: None,
            kernel,
            physical_offset,
            physical_reach,
            rsdp: None,
            processors: Processors::new(),
            interrupt_lines: interrupt_lines::InterruptLines::new(),
            startup_page: None,
            framebuffer: None,
            command_line: [0; COMMAND_LINE_LENGTH],
            command_line_length: 0,
            command_line_truncated: false,
        }
    }

    /// Copies the command line; what does not fit in [`COMMAND_LINE_LENGTH`] bytes is cut off and reported by
    /// [`command_line_truncated`](Self::command_line_truncated).
    pub fn set_command_line(&mut self, line: &[u8]) {
        let length = line.len().min(COMMAND_LINE_LENGTH);
        for (to, from) in self.command_line.iter_mut().zip(line) {
            *to = *from;
        }
        self.command_line_length = length;
        self.command_line_truncated = line.len() > length;
    }

    /// The command line's bytes. They come from outside and may be anything.
    #[must_use]
    pub fn command_line(&self) -> &[u8] {
        self.command_line.get(..self.command_line_length).unwrap_or_default()
    }

    /// Whether the loader's command line was longer than what is kept.
    #[must_use]
    pub const fn command_line_truncated(&self) -> bool {
        self.command_line_truncated
    }

    /// The framebuffer, if there is one.
    #[must_use]
    pub const fn framebuffer(&self) -> Option<&Framebuffer> {
        self.framebuffer.as_ref()
    }

    /// Takes the framebuffer and enters its memory in the map.
    ///
    /// # Errors
    ///
    /// [`BootError::BadFramebuffer`] when its geometry does not fit together; [`BootError::TooManyRegions`]. Without a
    /// framebuffer the kernel runs all the same.
    pub fn set_framebuffer(&mut self, framebuffer: Framebuffer) -> Result<(), BootError> {
        let range = framebuffer.range()?;
        self.memory.add(range.start(), range.length(), RegionKind::Framebuffer)?;
        self.framebuffer = Some(framebuffer);
        Ok(())
    }

    /// Claims a page below 1 MiB for the first steps of processors that are started by interrupts: they begin in real mode. It counts as the
    /// loader's, so it is free memory as soon as every processor has been started. After [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// [`BootError::TooManyRegions`]. Where there is no such page nothing is claimed, and no error: the kernel runs on one processor.
    pub fn claim_startup_page(&mut self) -> Result<(), BootError> {
        const LOW_END: u64 = 1 << 20;
        let usable = self.memory.iter().filter(|region| region.kind() == RegionKind::Usable);
        // The highest: what firmware leaves behind lies at the low end.
        let pages = usable.map(|region| (region.start(), region.end().min(LOW_END))).filter(|(start, end)| start < end);
        if let Some((_, end)) = pages.last() {
            let page = PhysicalRange::new(end - PAGE_SIZE, PAGE_SIZE)?;
            self.memory.claim(page, RegionKind::LoaderReclaimable)?;
            self.startup_page = Some(page.start());
        }
        Ok(())
    }

    /// Physical address of the page that [`claim_startup_page`](Self::claim_startup_page) found.
    #[must_use]
    pub const fn startup_page(&self) -> Option<u64> {
        self.startup_page
    }

    /// Claims in the map what the kernel still needs: its image, the module, and the first page (the BIOS data area,
    /// and physical address zero, which is never handed out).
    ///
    /// # Errors
    ///
    /// [`BootError::BadRange`] for an impossible image, [`BootError::TooManyRegions`],
    /// [`BootError::NoUsableMemory`] when nothing is left.
    pub fn finish(&mut self) -> Result<(), BootError> {
        let image = PhysicalRange::new(self.kernel.physical_base, self.kernel.length)?;
        self.memory.claim(PhysicalRange::new(0, PAGE_SIZE)?, RegionKind::Reserved)?;
        if let Some(module) = self.module {
            self.memory.claim(module, RegionKind::Module)?;
        }
        self.memory.claim(image, RegionKind::Kernel)?;
        if self.memory.bytes_of(RegionKind::Usable) == 0 {
            return Err(BootError::NoUsableMemory);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: KernelImage =
        KernelImage { physical_base: 0x20_0000, virtual_base: 0xffff_ffff_8020_0000, length: 0x8000 };

    fn info() -> BootInfo {
        BootInfo::new(Loader::Pvh, KERNEL, 0xffff_8000_0000_0000, 4 << 30)
    }

    fn display() -> Framebuffer {
        Framebuffer {
            physical: 0xfd00_0000,
            width: 1024,
            height: 768,
            pitch: 4096,
            bits_per_pixel: 32,
            red: Channel { shift: 16, size: 8 },
            green: Channel { shift: 8, size: 8 },
            blue: Channel { shift: 0, size: 8 },
        }
    }

    #[test]
    fn finish_claims_kernel_module_and_first_page() {
        let mut info = info();
        info.memory.add(0, 0x1000_0000, RegionKind::Usable).unwrap();
        info.module = Some(PhysicalRange::new(0x300_0010, 0x1ff0).unwrap());
        info.finish().unwrap();
        let regions: Vec<_> = info.memory.iter().map(|r| (r.start(), r.end(), r.kind())).collect();
        assert_eq!(
            regions,
            [
                (0, 0x1000, RegionKind::Reserved),
                (0x1000, 0x20_0000, RegionKind::Usable),
                (0x20_0000, 0x20_8000, RegionKind::Kernel),
                (0x20_8000, 0x300_0000, RegionKind::Usable),
                (0x300_0000, 0x300_2000, RegionKind::Module),
                (0x300_2000, 0x1000_0000, RegionKind::Usable),
            ]
        );
    }

    #[test]
    fn finish_without_usable_memory_is_an_error() {
        let mut empty = info();
        assert_eq!(empty.finish(), Err(BootError::NoUsableMemory));
        let mut only_kernel = info();
        only_kernel.memory.add(0x20_0000, 0x8000, RegionKind::Usable).unwrap();
        assert_eq!(only_kernel.finish(), Err(BootError::NoUsableMemory));
    }

    #[test]
    fn kernel_inside_loader_memory_is_claimed() {
        let mut info = info();
        info.memory.add(0, 0x10_0000, RegionKind::Usable).unwrap();
        info.memory.add(0x20_0000, 0x10_0000, RegionKind::Module).unwrap();
        info.finish().unwrap();
        assert_eq!(info.memory.bytes_of(RegionKind::Kernel), 0x8000);
        assert_eq!(info.memory.bytes_of(RegionKind::Module), 0x10_0000 - 0x8000);
    }

    #[test]
    fn the_startup_page_is_below_1_mib_and_free_no_more() {
        let mut info = info();
        info.memory.add(0, 0x9_fc00, RegionKind::Usable).unwrap();
        info.memory.add(0xf_0000, 0x1_0000, RegionKind::Reserved).unwrap();
        info.memory.add(0x10_0000, 0x100_0000, RegionKind::Usable).unwrap();
        info.finish().unwrap();
        info.claim_startup_page().unwrap();
        assert_eq!(info.startup_page(), Some(0x9_e000));
        let kind = |address| info.memory.iter().find(|r| (r.start()..r.end()).contains(&address)).map(|r| r.kind());
        assert_eq!(kind(0x9_e000), Some(RegionKind::LoaderReclaimable));
        assert_eq!(kind(0x9_d000), Some(RegionKind::Usable));
    }

    #[test]
    fn without_low_memory_there_is_no_startup_page() {
        let mut info = info();
        info.memory.add(0x10_0000, 0x100_0000, RegionKind::Usable).unwrap();
        info.finish().unwrap();
        let before: Vec<_> = info.memory.iter().collect();
        info.claim_startup_page().unwrap();
        assert_eq!(info.startup_page(), None);
        assert_eq!(info.memory.iter().collect::<Vec<_>>(), before);
    }

    #[test]
    fn a_region_across_1_mib_gives_its_last_page_below() {
        let mut info = info();
        info.memory.add(0, 0x1000_0000, RegionKind::Usable).unwrap();
        info.finish().unwrap();
        info.claim_startup_page().unwrap();
        assert_eq!(info.startup_page(), Some(0xf_f000));
    }

    #[test]
    fn image_addresses_are_translated() {
        assert_eq!(KERNEL.physical(0xffff_ffff_8020_0000), Some(0x20_0000));
        assert_eq!(KERNEL.physical(0xffff_ffff_8020_8000), Some(0x20_8000));
        assert_eq!(KERNEL.physical(0xffff_ffff_8020_8001), None);
        assert_eq!(KERNEL.physical(0xffff_ffff_801f_ffff), None);
        assert_eq!(KERNEL.physical(0), None);
        assert_eq!(KernelImage { physical_base: u64::MAX, ..KERNEL }.physical(0xffff_ffff_8020_0001), None);
    }

    #[test]
    fn ranges_are_checked() {
        assert!(PhysicalRange::new(0, 0).is_err());
        assert!(PhysicalRange::new(u64::MAX, 2).is_err());
        assert!(PhysicalRange::new(PHYSICAL_LIMIT - 1, 2).is_err());
        assert_eq!(PhysicalRange::new(PHYSICAL_LIMIT - 1, 1).map(PhysicalRange::length), Ok(1));
    }

    #[test]
    fn framebuffer_is_entered_in_the_map() {
        let mut info = info();
        info.memory.add(0, 0x1000_0000, RegionKind::Usable).unwrap();
        info.set_framebuffer(display()).unwrap();
        assert_eq!(info.memory.bytes_of(RegionKind::Framebuffer), 1024 * 768 * 4);
        assert_eq!(info.framebuffer().map(|f| f.width), Some(1024));
        assert!(display().is_xrgb());
        assert!(!Framebuffer { red: Channel { shift: 0, size: 8 }, ..display() }.is_xrgb());
    }

    #[test]
    fn framebuffer_with_impossible_geometry_is_refused() {
        let wrong = [
            Framebuffer { width: 0, ..display() },
            Framebuffer { height: 0, ..display() },
            Framebuffer { pitch: 4095, ..display() },
            Framebuffer { bits_per_pixel: 24, ..display() },
            Framebuffer { red: Channel { shift: 30, size: 8 }, ..display() },
            Framebuffer { blue: Channel { shift: 0, size: 0 }, ..display() },
            Framebuffer { physical: u64::MAX - 10, ..display() },
            Framebuffer { width: u32::MAX, pitch: u32::MAX, height: u32::MAX, ..display() },
        ];
        for framebuffer in wrong {
            let mut info = info();
            assert_eq!(info.set_framebuffer(framebuffer), Err(BootError::BadFramebuffer(framebuffer)));
            assert!(info.framebuffer().is_none());
            assert_eq!(info.memory.iter().count(), 0);
        }
    }

    #[test]
    fn command_line_is_cut() {
        let mut info = info();
        info.set_command_line(b"demo \xff hold");
        assert_eq!(info.command_line(), b"demo \xff hold");
        info.set_command_line(&[b'x'; COMMAND_LINE_LENGTH + 1]);
        assert_eq!(info.command_line(), [b'x'; COMMAND_LINE_LENGTH]);
        assert!(info.command_line_truncated());
        info.set_command_line(b"");
        assert_eq!(info.command_line(), b"");
        assert!(!info.command_line_truncated());
    }
}
