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
}

impl MemoryType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::WriteBack,
        Self::WriteThrough,
        Self::WriteCombining,
        Self::WriteProtected,
        Self::UncachedMinus,
        Self::Uncached,
        Self::Device,
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
        }
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.abbreviation())
    }
}
