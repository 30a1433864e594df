//! The flags of the calls, with Linux' numbers: an embedder passes a program's words on with `from_bits`.

use crate::paging::Access;

bitflags::bitflags! {
    /// What a program may do with memory (`PROT_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Protection: u32 {
        /// `PROT_READ`.
        const READ = 1;
        /// `PROT_WRITE`.
        const WRITE = 2;
        /// `PROT_EXEC`.
        const EXECUTE = 4;
    }

    /// What to map and how (`MAP_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct MapFlags: u32 {
        /// `MAP_SHARED`.
        const SHARED = 0x01;
        /// `MAP_PRIVATE`.
        const PRIVATE = 0x02;
        /// `MAP_FIXED`: at exactly this address, instead of what is there.
        const FIXED = 0x10;
        /// `MAP_ANONYMOUS`: of zeros, rather than of a file.
        const ANONYMOUS = 0x20;
        /// `MAP_GROWSDOWN`: a stack.
        const GROWS_DOWN = 0x100;
        /// `MAP_DENYWRITE`: nothing, for a long time.
        const DENY_WRITE = 0x800;
        /// `MAP_EXECUTABLE`: nothing, for a long time.
        const EXECUTABLE = 0x1000;
        /// `MAP_LOCKED`.
        const LOCKED = 0x2000;
        /// `MAP_NORESERVE`: nothing is promised.
        const NO_RESERVE = 0x4000;
        /// `MAP_POPULATE`: present from the start, as far as memory goes.
        const POPULATE = 0x8000;
        /// `MAP_NONBLOCK`.
        const NON_BLOCK = 0x1_0000;
        /// `MAP_STACK`: nothing.
        const STACK = 0x2_0000;
        /// `MAP_FIXED_NOREPLACE`: at exactly this address, which must be free.
        const FIXED_NO_REPLACE = 0x10_0000;
    }

    /// How memory may move (`MREMAP_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct RemapFlags: u32 {
        /// `MREMAP_MAYMOVE`.
        const MAY_MOVE = 1;
        /// `MREMAP_FIXED`: to exactly this address, instead of what is there.
        const FIXED = 2;
        /// `MREMAP_DONTUNMAP`: the old addresses stay mapped, and empty.
        const DONT_UNMAP = 4;
    }

    /// How to write back (`MS_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct SyncFlags: u32 {
        /// `MS_ASYNC`.
        const ASYNC = 1;
        /// `MS_INVALIDATE`.
        const INVALIDATE = 2;
        /// `MS_SYNC`.
        const SYNC = 4;
    }
}

impl Protection {
    /// The access that it is, without [`Access::USER`].
    pub const fn access(self) -> Access {
        // The three have the same numbers.
        Access::from_bits_truncate(self.bits() as u8).intersection(Access::all().difference(Access::USER))
    }
}

/// What a program says about its memory (`MADV_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum Advice {
    /// `MADV_NORMAL`: nothing special.
    Normal = 0,
    /// `MADV_RANDOM`: nothing here.
    Random = 1,
    /// `MADV_SEQUENTIAL`: nothing here.
    Sequential = 2,
    /// `MADV_WILLNEED`: what is resident is mapped.
    WillNeed = 3,
    /// `MADV_DONTNEED`: private memory reads as zero (or as the file) from then on.
    DontNeed = 4,
    /// `MADV_FREE`: private anonymous memory that is not written to may be released.
    Free = 8,
    /// `MADV_DONTFORK`: a child does not get it.
    DontFork = 10,
    /// `MADV_DOFORK`: a child gets it again.
    DoFork = 11,
    /// `MADV_HUGEPAGE`: large pages are wanted.
    HugePage = 14,
    /// `MADV_NOHUGEPAGE`: large pages are not wanted.
    NoHugePage = 15,
    /// `MADV_WIPEONFORK`: a child gets zeros.
    WipeOnFork = 18,
    /// `MADV_KEEPONFORK`: a child gets the contents again.
    KeepOnFork = 19,
    /// `MADV_COLD`: nothing here.
    Cold = 20,
    /// `MADV_POPULATE_READ`: present for reading.
    PopulateRead = 22,
    /// `MADV_POPULATE_WRITE`: present for writing.
    PopulateWrite = 23,
    /// `MADV_GUARD_INSTALL`: every access is refused.
    GuardInstall = 102,
    /// `MADV_GUARD_REMOVE`: no more.
    GuardRemove = 103,
}

impl Advice {
    /// The advice with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Normal,
            1 => Self::Random,
            2 => Self::Sequential,
            3 => Self::WillNeed,
            4 => Self::DontNeed,
            8 => Self::Free,
            10 => Self::DontFork,
            11 => Self::DoFork,
            14 => Self::HugePage,
            15 => Self::NoHugePage,
            18 => Self::WipeOnFork,
            19 => Self::KeepOnFork,
            20 => Self::Cold,
            22 => Self::PopulateRead,
            23 => Self::PopulateWrite,
            102 => Self::GuardInstall,
            103 => Self::GuardRemove,
            _ => return None,
        })
    }
}
