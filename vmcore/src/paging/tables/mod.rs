//! What is done to tables: read, map, unmap, protect, split, share root slots.
//!
//! | file | concept |
//! |---|---|
//! | `table` | one table in memory: the only place that touches it |
//! | `cursor` | a position in the tree, bounded by a range |
//! | `page` | one page: finding it and setting it, the way of every fault |
//! | `around` | pages that are mapped beside one that was wanted |
//! | `beside` | leaves that are set and cleared beside others |
//! | `map` | what adds leaves, and how many tables that takes |
//! | `change` | what changes or removes leaves, splitting huge ones |
//! | `roots` | root slots that stay, and those shared between spaces |
//! | `runs` | reading a tree as runs of equal pages |
//! | `query` | a range summed up, and the hardware's marks taken back |
//! | `map_frames` | single frames that an iterator gives |
//! | `gap` | kernel-style mappings: find a gap, map there |
//! | `memory` | the memory type of a range |
//! | `transfer` | a range brought elsewhere: moved, or duplicated in another tree |
//! | `write_protect` | write permission withdrawn high up, and pushed down again |
//! | `detach` | whole tables dropped unread, since they are a cache; teardown |
//! | `edges` | larger leaves that lie across an edge, split there or dropped whole |
//! | `promote` | one larger leaf instead of a full table of equal ones |
//! | `adopt` | tables that somebody else made |
//! | `writer` | the public writing cursor |
//! | `live` | how an entry that is in use is replaced |
//! | `group` | leaves that a TLB may keep as one: written, kept, made single again |
//!
//! # Invariants
//! - Every operation on a range reads and checks first (conflicts, what the format can represent, how many tables are
//!   needed) and then commits without a way to fail: all or nothing.
//! - A table's live count is its present entries, plus one if it is pinned behind a root slot. A table is unlinked when
//!   its count reaches zero (or, where leaves were dropped [beside](beside) others, by the next operation that comes by), and freed only when the flush is acknowledged.
//! - A table is zero, or filled, before it is linked.
//! - Nothing outside of the given range is changed or freed, but that a group which lies in it in part becomes single leaves; and no table is entered
//!   for changing that is not recorded as one.
//!
//! # Safety of mapping
//! Mapping is safe: tables are inert memory until a CPU is given their root, which is the embedder's unsafe step. Who
//! takes it vouches for what the tables map.

mod adopt;
mod around;
mod beside;
mod change;
mod cursor;
mod detach;
mod edges;
#[cfg(test)]
mod format_tests;
mod gap;
mod group;
mod live;
mod map;
mod map_frames;
mod memory;
mod page;
mod promote;
mod query;
mod restrict;
mod roots;
mod runs;
mod shown;
mod side_by_side;
mod table;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod transfer;
mod whole;
mod write_protect;
mod writer;

use core::fmt;

use crate::addr::{Frame, PageRange, RangeError, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{EncodeError, Entry, FlushScope, Limits, Mmu, Tag, Walk};

pub(crate) use self::around::{Around, Filler};
pub(crate) use self::beside::LeafTables;
use self::cursor::Cursor;
pub use self::group::Groups;
pub use self::live::DirtyBits;
pub(crate) use self::page::Found;
pub use self::query::{Marks, RangeSummary};
pub use self::runs::Runs;
pub(crate) use self::runs::{RunContent, TableRun};
use self::table::Table;
pub use self::writer::{EntrySlice, Writer};

/// What tables above a leaf let through where none limits anything.
const NO_LIMIT: Limits = Limits::NONE;

/// What a change leaves to be done: what TLBs must forget, and the tables that are free once they have.
#[derive(Debug, Default)]
#[must_use]
pub struct Gather {
    /// What is to be forgotten.
    pub scope: FlushScope,
    /// Tables that were unlinked: they may be freed ([`FrameList::free_tables`]) when the flush is acknowledged, not before.
    pub tables: FrameList,
}

impl Gather {
    /// Adds pages that CPUs may remember from a change whose flush is outstanding, whatever the tables hold now; and the way to tables that it
    /// unlinked, through which they could still be found.
    pub(crate) fn add_lingering(&mut self, tag: Tag, range: PageRange, global: bool) {
        self.scope.add(tag, range, global);
        self.scope.note_tables();
    }
}

/// Why a change of tables was refused. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TableError {
    /// Something is mapped at this address already.
    Conflict(VirtAddr),
    /// The spare tables do not suffice: so many are needed in all.
    NeedsTables(u64),
    /// The format cannot represent what was asked.
    Encode(EncodeError),
    /// A table cannot be reached or is not recorded as one, or an entry is malformed: the tables are not (only) this library's.
    Foreign(VirtAddr),
    /// A lone address that is not the start of a page of the format.
    Address(RangeError),
    /// The format demands break-before-make, and the frames have no invalidation that can be called here
    /// ([`Frames::INVALIDATES_NOW`]).
    NeedsInvalidation(VirtAddr),
    /// Two ranges that must not share an address do so, or differ in size: the second one.
    Overlap(PageRange),
    /// No gap of so many bytes is left in the range.
    NoGap(u64),
    /// An iterator ended before this address had a frame.
    TooFewFrames(VirtAddr),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(address) => {
                write!(f, "something is mapped at {address} already: unmap it first or choose another address")
            }
            Self::NeedsTables(count) => write!(f, "{count} spare tables are needed: reserve them and try again"),
            Self::Encode(error) => error.fmt(f),
            Self::Foreign(address) => {
                write!(f, "the tables at {address} belong to somebody else: leave that range out")
            }
            Self::Address(error) => error.fmt(f),
            Self::NeedsInvalidation(address) => {
                write!(
                    f,
                    "the entry at {address} must be flushed before it is replaced: implement `Frames::invalidate_now`"
                )
            }
            Self::Overlap(range) => {
                write!(f, "{range} overlaps the other range or is not of its size: give two ranges apart")
            }
            Self::NoGap(size) => {
                write!(f, "no gap of {size:#x} bytes is left: unmap something or search a larger range")
            }
            Self::TooFewFrames(address) => write!(f, "no frame was given for {address}: give one per page"),
        }
    }
}

impl core::error::Error for TableError {}

impl From<EncodeError> for TableError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// A tree of page tables. Moving the value moves nothing in memory; dropping it frees nothing.
#[derive(Debug)]
pub struct Tables<M: Mmu> {
    mmu: M,
    root: Frame,
    tag: Tag,
    dirty_bits: DirtyBits,
    groups: Groups,
}

impl<M: Mmu> Tables<M> {
    /// Tables that begin with the empty root table `root`.
    ///
    /// # Safety
    /// - `root` is a frame that nobody else changes, zeroed and recorded as [`FrameUse::Table`](crate::frame::FrameUse::Table), and stays so
    ///   for the life of the value. For tables that are only read ([`walk`](Self::walk), [`translate`](Self::translate), [`runs`](Self::runs),
    ///   [`share_root_slots`](Self::share_root_slots) from them) it may be any root of this format whose tables are reachable by
    ///   [`Frames::frame_pointer`](crate::frame::Frames::frame_pointer) and not freed meanwhile.
    /// - Each operation is given the same frames, whose page size is the format's, and the format's tables each fit a frame.
    pub const unsafe fn new(mmu: M, root: Frame, tag: Tag) -> Self {
        Self { mmu, root, tag, dirty_bits: DirtyBits::Hints, groups: Groups::WhereAligned }
    }

    /// The MMU.
    pub const fn mmu(&self) -> M {
        self.mmu
    }

    /// The root table.
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// The tag of TLB entries.
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Reads the entries that translate `address`, from the root down, for showing them. Costs one read per level.
    pub fn walk<F: Frames>(&self, frames: &F, address: VirtAddr) -> Walk {
        let mut walk = Walk::new(self.mmu, address);
        let mut frame = self.root;
        for level in (0..self.mmu.levels()).rev() {
            if !self.mmu.is_canonical(address) {
                break;
            }
            let Some(table) = Table::reach(frames, self.mmu, level, frame) else {
                walk.set_unreachable(frame);
                break;
            };
            let index = self.index_at(level, address);
            let word = table.load(index);
            let entry = self.mmu.decode_at(level, index, word);
            walk.push(self.mmu, level, frame, index, word, entry);
            match entry {
                Entry::Table(next, _) => frame = next,
                _ => break,
            }
        }
        walk
    }

    /// What the range maps, as the longest runs of equal pages on consecutive frames, in order. Reads only, also tables that are
    /// somebody else's: for reporting a loader's mappings and for checking permissions. Cost: O(tables and leaves).
    pub fn runs<'a, F: Frames>(&self, frames: &'a F, range: PageRange) -> Runs<'a, F, M> {
        Runs::new(frames, self.mmu, self.root, range)
    }

    /// What the word at `index` of a table of `level` means.
    #[inline]
    fn decode_at(&self, level: usize, index: usize, word: u64) -> Entry {
        self.mmu.decode_at(level, index, word)
    }

    #[inline]
    fn index_at(&self, level: usize, address: VirtAddr) -> usize {
        // The table masks the index to its length.
        let mask = (1 << self.mmu.index_bits(level)) - 1;
        self.mmu.level(level).map_or(0, |at| (address.as_u64() >> at.shift) as usize & mask)
    }

    /// A cursor for changing what the range maps.
    fn cursor<'a, F: Frames>(&self, frames: &'a F, range: PageRange) -> Result<Cursor<'a, F, M>, TableError> {
        Cursor::new(frames, self.mmu, self.root, range, true).ok_or(TableError::Foreign(range.start()))
    }
}
