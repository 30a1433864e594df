//! The PVH start information: what a virtual machine monitor leaves in memory for the kernel.
//!
//! Xen's `public/arch-x86/hvm/start_info.h`; all numbers little-endian:
//!
//! ```text
//!   0  magic 0x336ec578 | version | flags | module count
//!  16  module list      -> 32 bytes each: address, length, command line, reserved
//!  24  command line     -> zero-terminated
//!  32  RSDP
//!  40  memory map (version 1 on) -> 24 bytes each: address, length, type, reserved
//!  48  its entry count  | reserved
//! ```
//!
//! QEMU places all of it, and the module, in memory that its map calls usable: [`StartInfo::fill`] claims it.

use super::{BootError, BootInfo, COMMAND_LINE_LENGTH, PhysicalRange, RegionKind};

/// "xEn3" with the top bit of the E set.
const MAGIC: u32 = 0x336e_c578;
/// More entries than any machine has: what is beyond is a broken count, not memory.
const MOST_MAP_ENTRIES: u32 = 4096;

/// A way to read physical memory.
pub trait PhysicalMemory {
    /// Fills `buffer` from physical address `physical`; false if any of it cannot be reached.
    fn read(&self, physical: u64, buffer: &mut [u8]) -> bool;
}

/// The fixed part of the start information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartInfo {
    address: u64,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
}

/// A record of `N` bytes, read field by field.
struct Record<const N: usize>([u8; N]);

impl<const N: usize> Record<N> {
    fn read(memory: &dyn PhysicalMemory, address: u64) -> Result<Self, BootError> {
        let mut bytes = [0; N];
        if memory.read(address, &mut bytes) {
            Ok(Self(bytes))
        } else {
            Err(BootError::Unreachable { address, length: N as u64 })
        }
    }

    /// The number at byte `AT`, checked against the record's length when compiled.
    fn u32<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= N) }
        self.0.iter().skip(AT).take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    /// The number at byte `AT`, checked against the record's length when compiled.
    fn u64<const AT: usize>(&self) -> u64 {
        const { assert!(AT + 8 <= N) }
        self.0.iter().skip(AT).take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

impl StartInfo {
    /// Reads the fixed part at physical `address`.
    ///
    /// # Errors
    ///
    /// [`BootError::Unreachable`], [`BootError::WrongMagic`], [`BootError::OldVersion`].
    pub fn read(memory: &dyn PhysicalMemory, address: u64) -> Result<Self, BootError> {
        let record = Record::<56>::read(memory, address)?;
        let found = record.u32::<0>();
        if found != MAGIC {
            return Err(BootError::WrongMagic { address, found });
        }
        let version = record.u32::<4>();
        if version == 0 {
            return Err(BootError::OldVersion(version));
        }
        Ok(Self {
            address,
            module_count: record.u32::<12>(),
            modules: record.u64::<16>(),
            command_line: record.u64::<24>(),
            rsdp: record.u64::<32>(),
            memory_map: record.u64::<40>(),
            memory_map_entries: record.u32::<48>(),
        })
    }

    /// Copies everything that it refers to into `info`, and claims its own memory as the loader's: usable again after
    /// the kernel has its own page tables. Only the first module is taken.
    ///
    /// # Errors
    ///
    /// What lies out of reach, a module that is no range of memory, and those of [`BootInfo::finish`].
    pub fn fill(&self, memory: &dyn PhysicalMemory, info: &mut BootInfo) -> Result<(), BootError> {
        if self.memory_map_entries > MOST_MAP_ENTRIES {
            return Err(BootError::TooManyRegions);
        }
        for index in 0..self.memory_map_entries {
            let entry = Record::<24>::read(memory, self.memory_map.saturating_add(u64::from(index) * 24))?;
            // ACPI 6.5, table 15.2: the types of the system address map.
            let kind = match entry.u32::<16>() {
                1 => RegionKind::Usable,
                3 => RegionKind::AcpiReclaimable,
                4 => RegionKind::AcpiNonVolatile,
                5 => RegionKind::Bad,
                _ => RegionKind::Reserved,
            };
            info.memory.add(entry.u64::<0>(), entry.u64::<8>(), kind)?;
        }
        let line_length = self.fill_command_line(memory, info)?;
        if self.module_count != 0 {
            let module = Record::<32>::read(memory, self.modules)?;
            // An empty file is no module.
            if module.u64::<8>() != 0 {
                info.module = Some(PhysicalRange::new(module.u64::<0>(), module.u64::<8>())?);
            }
        }
        info.rsdp = (self.rsdp != 0).then_some(self.rsdp);
        info.finish()?;

        let parts = [
            (self.address, 56),
            (self.memory_map, u64::from(self.memory_map_entries) * 24),
            (self.modules, u64::from(self.module_count) * 32),
            (self.command_line, line_length),
        ];
        for (start, length) in parts {
            if length != 0 {
                info.memory.claim(PhysicalRange::new(start, length)?, RegionKind::LoaderReclaimable)?;
            }
        }
        Ok(())
    }

    /// Copies the command line and returns how many bytes it has with its zero, as far as it was looked at.
    fn fill_command_line(&self, memory: &dyn PhysicalMemory, info: &mut BootInfo) -> Result<u64, BootError> {
        if self.command_line == 0 {
            return Ok(0);
        }
        // One more than is kept, so that a longer line is noticed.
        let mut line = [0; COMMAND_LINE_LENGTH + 1];
        let mut length = 0;
        for slot in &mut line {
            let byte = Record::<1>::read(memory, self.command_line.saturating_add(length))?;
            length += 1;
            if byte.0 == [0] {
                break;
            }
            *slot = byte.0.into_iter().next().unwrap_or(0);
        }
        let text = line.split(|byte| *byte == 0).next().unwrap_or_default();
        info.set_command_line(text);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_info::{KernelImage, Loader};

    /// Memory of 1 MiB that can be written.
    struct Memory(Vec<u8>);

    impl PhysicalMemory for Memory {
        fn read(&self, physical: u64, buffer: &mut [u8]) -> bool {
            let Ok(start) = usize::try_from(physical) else { return false };
            let Some(end) = start.checked_add(buffer.len()) else { return false };
            let Some(source) = self.0.get(start..end) else { return false };
            buffer.copy_from_slice(source);
            true
        }
    }

    impl Memory {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn put32(&mut self, at: usize, value: u32) {
            self.put(at, &value.to_le_bytes());
        }

        fn put64(&mut self, at: usize, value: u64) {
            self.put(at, &value.to_le_bytes());
        }
    }

    /// What QEMU makes of `-m 1M -initrd FILE -append "demo"`, in small.
    fn machine() -> Memory {
        let mut memory = Memory(vec![0; 1 << 20]);
        memory.put32(0x6000, MAGIC);
        memory.put32(0x6004, 1);
        memory.put32(0x600c, 1);
        memory.put64(0x6010, 0x6100);
        memory.put64(0x6018, 0x8000);
        memory.put64(0x6020, 0xf_5a00);
        memory.put64(0x6028, 0x6200);
        memory.put32(0x6030, 2);
        memory.put64(0x6100, 0xc_0000);
        memory.put64(0x6108, 0x2345);
        memory.put64(0x6200, 0);
        memory.put64(0x6208, 0x10_0000);
        memory.put32(0x6210, 1);
        memory.put64(0x6218, 0xf_0000);
        memory.put64(0x6220, 0x1_0000);
        memory.put32(0x6228, 2);
        memory.put(0x8000, b"demo seed=1\0");
        memory
    }

    fn fill(memory: &Memory) -> Result<BootInfo, BootError> {
        let kernel = KernelImage { physical_base: 0x2_0000, virtual_base: 0xffff_ffff_8002_0000, length: 0x4000 };
        let mut info = BootInfo::new(Loader::Pvh, kernel, 0, 1 << 20);
        StartInfo::read(memory, 0x6000)?.fill(memory, &mut info)?;
        Ok(info)
    }

    #[test]
    fn start_information_is_read_and_claimed() {
        let info = fill(&machine()).unwrap();
        assert_eq!(info.command_line(), b"demo seed=1");
        assert_eq!(info.rsdp, Some(0xf_5a00));
        assert_eq!(info.module, PhysicalRange::new(0xc_0000, 0x2345).ok());
        let regions: Vec<_> = info.memory.iter().map(|r| (r.start(), r.end(), r.kind())).collect();
        assert_eq!(
            regions,
            [
                (0, 0x1000, RegionKind::Reserved),
                (0x1000, 0x6000, RegionKind::Usable),
                (0x6000, 0x7000, RegionKind::LoaderReclaimable),
                (0x7000, 0x8000, RegionKind::Usable),
                (0x8000, 0x9000, RegionKind::LoaderReclaimable),
                (0x9000, 0x2_0000, RegionKind::Usable),
                (0x2_0000, 0x2_4000, RegionKind::Kernel),
                (0x2_4000, 0xc_0000, RegionKind::Usable),
                (0xc_0000, 0xc_3000, RegionKind::Module),
                (0xc_3000, 0xf_0000, RegionKind::Usable),
                (0xf_0000, 0x10_0000, RegionKind::Reserved),
            ]
        );
    }

    #[test]
    fn wrong_magic_version_and_addresses_are_named() {
        let mut memory = machine();
        memory.put32(0x6000, 1);
        assert_eq!(fill(&memory).unwrap_err(), BootError::WrongMagic { address: 0x6000, found: 1 });
        let mut memory = machine();
        memory.put32(0x6004, 0);
        assert_eq!(fill(&memory).unwrap_err(), BootError::OldVersion(0));
        assert!(matches!(StartInfo::read(&machine(), u64::MAX), Err(BootError::Unreachable { .. })));
        for field in [0x6010, 0x6018, 0x6028] {
            let mut memory = machine();
            memory.put64(field, u64::MAX - 8);
            assert!(matches!(fill(&memory), Err(BootError::Unreachable { .. })), "{field:#x}");
        }
    }

    #[test]
    fn broken_counts_and_ranges_are_errors() {
        let mut memory = machine();
        memory.put32(0x6030, u32::MAX);
        assert_eq!(fill(&memory).unwrap_err(), BootError::TooManyRegions);
        let mut memory = machine();
        memory.put32(0x6030, 0);
        assert_eq!(fill(&memory).unwrap_err(), BootError::NoUsableMemory);
        let mut memory = machine();
        memory.put64(0x6108, u64::MAX);
        assert!(matches!(fill(&memory), Err(BootError::BadRange { .. })));
    }

    #[test]
    fn no_module_no_command_line_no_rsdp() {
        let mut memory = machine();
        memory.put32(0x600c, 0);
        memory.put64(0x6018, 0);
        memory.put64(0x6020, 0);
        let info = fill(&memory).unwrap();
        assert_eq!((info.module, info.command_line(), info.rsdp), (None, &b""[..], None));
    }

    #[test]
    fn unterminated_command_line_is_cut() {
        let mut memory = machine();
        memory.put(0x8000, &[b'x'; COMMAND_LINE_LENGTH + 1000]);
        let info = fill(&memory).unwrap();
        assert_eq!(info.command_line().len(), COMMAND_LINE_LENGTH);
        assert!(info.command_line_truncated());
    }

    #[test]
    fn random_start_information_never_panics() {
        let mut state = 7_u64;
        for _ in 0..2000 {
            let mut memory = machine();
            for _ in 0..8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = 0x6004 + (state % 0x240) as usize;
                memory.0[at] = (state >> 32) as u8;
            }
            let _ = fill(&memory);
        }
    }
}
