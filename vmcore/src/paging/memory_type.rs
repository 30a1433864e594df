//! One name for what PAT, MAIR and Svpbmt each call differently: how the CPU may cache and order accesses.

use core::fmt;

/// How accesses to a page are cached and ordered.
///
/// A format or a boot-time layout need not have every type: encoding one that it lacks is an error, never a silent
/// substitute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
#[repr(u8)]
pub enum MemoryType {
    /// Cached, written back: ordinary RAM.
    #[default]
    WriteBack = 0,
    /// Cached for reading; writes go to memory at once.
    WriteThrough = 1,
    /// Not cached; writes are gathered in buffers: framebuffers. (Arm: Normal non-cacheable. Svpbmt: NC.)
    WriteCombining = 2,
    /// Cached for reading; writes go to memory and invalidate other caches.
    WriteProtected = 3,
    /// Not cached, and an MTRR of type write-combining overrides it (x86: UC-).
    UncachedMinus = 4,
    /// Not cached, strongly ordered (x86: UC).
    Uncached = 5,
    /// Device memory without gathering, reordering and early acknowledgement (Arm: Device-nGnRnE. Svpbmt: IO).
    Device = 6,
    /// Device memory with early acknowledgement of writes (Arm: Device-nGnRE).
    DeviceEarly = 7,
    /// Device memory that may reorder accesses as well (Arm: Device-nGRE).
    DeviceReordering = 8,
    /// Device memory that may also gather accesses into one (Arm: Device-GRE).
    DeviceGathering = 9,
}

impl MemoryType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::WriteBack,
        Self::WriteThrough,
        Self::WriteCombining,
        Self::WriteProtected,
        Self::UncachedMinus,
        Self::Uncached,
        Self::Device,
        Self::DeviceEarly,
        Self::DeviceReordering,
        Self::DeviceGathering,
    ];

    /// The manuals' short name.
    pub const fn abbreviation(self) -> &'static str {
        match self {
            Self::WriteBack => "WB",
            Self::WriteThrough => "WT",
            Self::WriteCombining => "WC",
            Self::WriteProtected => "WP",
            Self::UncachedMinus => "UC-",
            Self::Uncached => "UC",
            Self::Device => "DEV",
            Self::DeviceEarly => "nGnRE",
            Self::DeviceReordering => "nGRE",
            Self::DeviceGathering => "GRE",
        }
    }
}

/// The number that a manual gives each memory type that it has: one table for both directions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers(pub(super) &'static [(MemoryType, u8)]);

impl Numbers {
    /// The number of a memory type.
    pub(super) const fn of(&self, memory: MemoryType) -> Option<u8> {
        let mut rest = self.0;
        while let [(candidate, number), others @ ..] = rest {
            if *candidate as u8 == memory as u8 {
                return Some(*number);
            }
            rest = others;
        }
        None
    }

    /// The memory type with a number.
    pub(super) fn memory(&self, number: u32) -> Option<MemoryType> {
        self.0.iter().find(|(_, candidate)| u32::from(*candidate) == number).map(|(memory, _)| *memory)
    }

    /// Whether every one of them has a number.
    pub(super) const fn have(&self, types: &[MemoryType; 8]) -> bool {
        let mut rest: &[MemoryType] = types;
        while let [first, others @ ..] = rest {
            if self.of(*first).is_none() {
                return false;
            }
            rest = others;
        }
        true
    }

    /// The register that holds eight types: a byte for each, the first one in the lowest.
    pub(super) const fn register(&self, types: &[MemoryType; 8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        let mut rest: &[MemoryType] = types;
        while let [first, others @ ..] = rest {
            // Only types with a number are ever in a layout.
            if let Some(number) = self.of(*first) {
                value |= (number as u64) << shift;
            }
            shift += 8;
            rest = others;
        }
        value
    }

    /// The eight types that a register holds; `None` if a byte is nobody's number.
    pub(super) fn types(&self, value: u64) -> Option<[MemoryType; 8]> {
        let mut types = [MemoryType::WriteBack; 8];
        for (memory, byte) in types.iter_mut().zip(value.to_le_bytes()) {
            *memory = self.memory(u32::from(byte))?;
        }
        Some(types)
    }
}

/// Eight memory types behind a 3-bit index in each leaf: what x86's PAT and Arm's MAIR have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indexed {
    types: [MemoryType; 8],
    /// The lowest index of each memory type, by its number; made once, since every leaf that is encoded asks.
    codes: [Option<u8>; MemoryType::ALL.len()],
}

impl Indexed {
    pub(super) const fn new(types: [MemoryType; 8]) -> Self {
        const fn lowest(types: &[MemoryType; 8], memory: MemoryType) -> Option<u8> {
            let (mut index, mut rest): (u8, &[MemoryType]) = (0, types);
            while let [first, others @ ..] = rest {
                if *first as u8 == memory as u8 {
                    return Some(index);
                }
                index += 1;
                rest = others;
            }
            None
        }
        let codes = [
            lowest(&types, MemoryType::WriteBack),
            lowest(&types, MemoryType::WriteThrough),
            lowest(&types, MemoryType::WriteCombining),
            lowest(&types, MemoryType::WriteProtected),
            lowest(&types, MemoryType::UncachedMinus),
            lowest(&types, MemoryType::Uncached),
            lowest(&types, MemoryType::Device),
            lowest(&types, MemoryType::DeviceEarly),
            lowest(&types, MemoryType::DeviceReordering),
            lowest(&types, MemoryType::DeviceGathering),
        ];
        Self { types, codes }
    }

    /// The eight types, by index.
    pub(super) const fn types(&self) -> [MemoryType; 8] {
        self.types
    }

    #[inline]
    pub(super) fn code(&self, memory: MemoryType) -> Option<u32> {
        self.codes.get(memory as usize).copied().flatten().map(u32::from)
    }

    #[inline]
    pub(super) fn memory(&self, code: u32) -> Option<MemoryType> {
        self.types.get(code as usize).copied()
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.abbreviation())
    }
}
