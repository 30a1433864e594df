//! Page tables: entries as values, one description per architecture, one walker, range operations, flush values.
//!
//! Generic code names no architecture. [`Format`] is the declarative description; [`Mmu`] is the description plus what is
//! found when the kernel starts; [`Tables`] does everything that is done to tables.

mod entry;
mod flush;
mod format;
mod memory_type;
mod mmu;
mod quarantine;
mod tables;
mod walk;
mod x86_64;

pub use self::entry::{Access, EncodeError, Entry, Leaf};
pub use self::flush::{FlushEntry, FlushRequest, FlushScope, Tag};
pub use self::format::{AddressField, Canonical, Flag, Format, LeafTest, LevelFormat, Permissions};
pub use self::memory_type::MemoryType;
pub use self::mmu::{EntryWord, Mmu};
pub(crate) use self::quarantine::{Deferred, Pending, ReleaseStep};
pub use self::quarantine::{DetachedFlush, Flush};
pub use self::tables::{Gather, Runs, TableError, Tables};
pub use self::walk::{Step, Walk, WalkEnd};
pub use self::x86_64::{PatLayout, X86_64};
