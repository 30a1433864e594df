//! Page tables: entries as values, one description per architecture, one walker, range operations, flush values.
//!
//! Generic code names no architecture. [`Format`] is the declarative description; [`Mmu`] is the description plus what is
//! found when the kernel starts; [`Tables`] does everything that is done to tables.

mod entry;
mod flush;
mod format;
mod formats;
#[cfg(any(test, fuzzing))]
mod interleave;
mod memory_type;
mod mmu;
mod quarantine;
mod recursive;
mod tables;
mod walk;

pub use self::entry::{Access, EncodeError, Entry, Leaf};
pub use self::flush::{FlushEntry, FlushRequest, FlushScope, Tag};
pub use self::format::{
    AddressField, Canonical, Combinations, Contiguous, Flag, Format, LeafTest, LevelFormat, Limits, Permissions,
};
#[cfg(any(test, fuzzing))]
pub(crate) use self::formats::tests::every;
#[cfg(fuzzing)]
pub(crate) use self::formats::tests::fuzzed as fuzzed_entries;
pub use self::formats::{
    AArch64, AArch64Stage2, Ept, Granule, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Half,
    MairLayout, PatLayout, RiscV32, RiscV64, X86, X86_64, X86Pae,
};
pub use self::memory_type::MemoryType;
pub use self::mmu::{EntryWord, Mmu};
pub(crate) use self::quarantine::{Deferred, Pending, Release, ReleaseStep, Released};
pub use self::quarantine::{DetachedFlush, Flush};
pub use self::recursive::{Mount, Mounting, Recursive};
#[cfg(fuzzing)]
pub(crate) use self::tables::tests::judged::fuzzed as fuzzed_tables;
pub(crate) use self::tables::{Around, Filler, Found, LeafTables, RunContent, TableRun};
pub use self::tables::{DirtyBits, EntrySlice, Gather, Groups, Marks, RangeSummary, Runs, TableError, Tables, Writer};
pub use self::walk::{Step, Walk, WalkEnd};
