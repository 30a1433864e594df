//! The walk that all formats share: read an entry, ask the [`Regime`] what it means, mark it as the hardware does, go on.
//!
//! ```text
//!   start: a table, the index's lowest bit
//!     |
//!     v
//!   is it a table? --> read the entry --> absent, reserved? ------------------> stop
//!     ^                                   leaf? --> permitted? --> mark it ---> found
//!     |                                   table? -> mark it --+      |no
//!     +-------------------------------------------------------+      +-------> stop
//! ```

use alloc::format;

use super::judge::{Judge, ViolationKind};
use super::memory::{FrameState, GARBAGE, Memory, POISON};
use super::regime::{Leaf, Regime, Rights, Step};
use crate::frame::FrameUse;
use crate::paging::{Access, MemoryType};
use crate::word::{AtomicU32, AtomicU64, Ordering};

/// Where a walk begins: at the root, or at a table that a paging-structure cache knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) table: u64,
    /// The lowest bit of the index into that table.
    pub(super) shift: u32,
    pub(super) rights: Rights,
    /// The root's entries, where they are in registers.
    pub(super) registers: Option<[u64; 4]>,
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// The number of the first page that the leaf maps.
    pub(super) page: u64,
    /// How many pages it maps.
    pub(super) pages: u64,
    /// How many of them the entry itself maps: fewer where it is one of a contiguous group.
    pub(super) entry_pages: u64,
    /// The frame of the first one.
    pub(super) frame: u64,
    pub(super) rights: Rights,
    pub(super) memory: MemoryType,
    pub(super) global: bool,
    pub(super) dirty: bool,
    /// Whether the hardware marks a store by itself.
    pub(super) marks_stores: bool,
}

impl Found {
    /// The first page after `page` that another entry maps.
    pub(super) const fn next_entry(&self, page: u64) -> u64 {
        (page / self.entry_pages + 1) * self.entry_pages
    }
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// An entry of a table whose index begins at this bit is not present.
    NotPresent(u32),
    /// The leaf does not permit the access: it is this one.
    Permission(Found),
    Reserved,
    /// The accessed or the dirty bit is clear and software is to set it.
    Unmarked,
    /// A table lies where no memory is: reported as a violation already.
    Bus,
}

/// An entry in memory.
#[derive(Clone, Copy)]
enum Slot<'a> {
    Wide(&'a AtomicU64),
    Narrow(&'a AtomicU32),
    /// In a register of the CPU, where nothing is marked.
    Register(u64),
}

impl Slot<'_> {
    fn load(self) -> u64 {
        match self {
            Self::Wide(slot) => slot.load(Ordering::Acquire),
            Self::Narrow(slot) => u64::from(slot.load(Ordering::Acquire)),
            Self::Register(word) => word,
        }
    }

    /// Marks the entry as the hardware does: by a locked compare and exchange of what was read. False if the entry has changed
    /// meanwhile and must be read again.
    fn mark(self, word: u64, marked: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self {
            _ if word == marked => true,
            Self::Wide(slot) => slot.compare_exchange(word, marked, success, failure).is_ok(),
            Self::Narrow(slot) => slot.compare_exchange(word as u32, marked as u32, success, failure).is_ok(),
            Self::Register(_) => true,
        }
    }
}

/// Who walks, for the judge's sentences.
pub(super) struct Walker<'a> {
    pub(super) memory: &'a Memory,
    pub(super) judge: &'a Judge,
    pub(super) regime: &'a dyn Regime,
    pub(super) cpu: usize,
    /// What the regime says of pages and entries.
    pub(super) page_shift: u32,
    pub(super) is_narrow: bool,
}

impl Walker<'_> {
    /// A walk from a root, past all registers that hold entries of it.
    pub(super) fn start_at(&self, root: u64) -> Start {
        Start { table: root, shift: self.regime.top(), rights: Rights::ALL, registers: None }
    }

    /// Walks `address` down from `start`. `visit` is told of each table that an entry leads to: the entry's shift, the
    /// table, and the rights up to there.
    ///
    /// With an access the walk is the hardware's: it checks permissions and sets accessed and dirty bits. Without one
    /// it only looks.
    pub(super) fn walk(
        &self,
        start: Start,
        address: u64,
        access: Option<Access>,
        mut visit: impl FnMut(u32, u64, Rights),
    ) -> Result<Found, Stop> {
        let Start { mut table, mut shift, mut rights, mut registers } = start;
        loop {
            let index = (address >> shift & ((1 << self.regime.index_bits(shift)) - 1)) as usize;
            let slot = match registers {
                Some(held) => Slot::Register(held[index & 3]),
                None => {
                    self.check_table(table, address)?;
                    self.slot(table, index).ok_or(Stop::Bus)?
                }
            };
            let word = slot.load();
            match self.regime.step(shift, word, rights) {
                Step::Absent => return Err(Stop::NotPresent(shift)),
                Step::Reserved => return Err(Stop::Reserved),
                Step::Table { address: next, below, marked } => {
                    if access.is_some() && !slot.mark(word, marked) {
                        continue;
                    }
                    let next = next >> self.page_shift;
                    visit(shift, next, below);
                    (table, shift, rights, registers) = (next, self.regime.below(shift), below, None);
                }
                Step::Leaf(leaf) => {
                    let found = self.found(address, shift, &leaf);
                    if leaf.span > shift {
                        self.check_group(table, shift, index, rights, address, &leaf);
                    }
                    let Some(access) = access else { return Ok(found) };
                    if !self.regime.permits(leaf.rights, access) {
                        return Err(Stop::Permission(found));
                    }
                    let writes = access.contains(Access::WRITE);
                    let after = |leaf: Leaf| if writes { leaf.after_write } else { leaf.after_read };
                    let marked = after(leaf).ok_or(Stop::Unmarked)?;
                    let done = match self.other_member(table, shift, index, rights, &leaf) {
                        Some((slot, word, other)) => slot.mark(word, after(other).unwrap_or(word)),
                        None => slot.mark(word, marked),
                    };
                    if !done {
                        continue;
                    }
                    return Ok(Found { dirty: found.dirty || writes, ..found });
                }
            }
        }
    }

    fn found(&self, address: u64, shift: u32, leaf: &Leaf) -> Found {
        let page_shift = self.page_shift;
        Found {
            page: address >> leaf.span << (leaf.span - page_shift),
            pages: 1 << (leaf.span - page_shift),
            entry_pages: 1 << (shift.min(leaf.span) - page_shift),
            frame: leaf.base >> page_shift,
            rights: leaf.rights,
            memory: leaf.memory,
            global: leaf.global,
            dirty: leaf.dirty,
            marks_stores: leaf.after_write.is_some(),
        }
    }

    /// The entry with this index; the tables of a root may be several, side by side.
    fn slot(&self, table: u64, index: usize) -> Option<Slot<'_>> {
        let shift = if self.is_narrow { 2 } else { 3 };
        let in_frame = self.page_shift - shift;
        let frame = table + (index as u64 >> in_frame);
        let index = index & ((1 << in_frame) - 1);
        if self.is_narrow {
            return self.memory.half_entry(frame, index).map(Slot::Narrow);
        }
        self.memory.entry(frame, index).map(Slot::Wide)
    }

    /// Another member of the contiguous group that the entry is one of: the marks of an access may be set in any of them, and so they are never
    /// set in the one that translates it.
    fn other_member(
        &self,
        table: u64,
        shift: u32,
        index: usize,
        above: Rights,
        leaf: &Leaf,
    ) -> Option<(Slot<'_>, u64, Leaf)> {
        if leaf.span <= shift {
            return None;
        }
        let count = 1_usize << (leaf.span - shift);
        let slot = self.slot(table, (index & !(count - 1)) | ((index + 1) & (count - 1)))?;
        let word = slot.load();
        match self.regime.step(shift, word, above) {
            Step::Leaf(other) if other.span == leaf.span && other.base == leaf.base => Some((slot, word, other)),
            _ => None,
        }
    }

    /// The members of a contiguous group agree: each that is present is the same but for its own address and its marks. Whichever member a TLB was filled from
    /// translates for all of them, those that are absent included: that is so while a group is being written or removed, and found out afterwards
    /// ([`Sim::check_translations`](super::Sim::check_translations)). Where entries may be replaced without being broken first, that is so of members that
    /// differ, too: RISC-V lets a TLB copy any of them for all, and whoever changes them flushes them all.
    fn check_group(&self, table: u64, shift: u32, index: usize, above: Rights, address: u64, leaf: &Leaf) {
        if !self.regime.tlb().break_before_make {
            return;
        }
        let count = 1_usize << (leaf.span - shift);
        let first = index & !(count - 1);
        for member in first..first + count {
            let Some(slot) = self.slot(table, member) else { return };
            let word = slot.load();
            let agrees = match self.regime.step(shift, word, above) {
                Step::Absent => true,
                Step::Leaf(other) => {
                    let expected = leaf.base + (((member - first) as u64) << shift);
                    other.span == leaf.span
                        && other.base == leaf.base
                        && other.own.is_none_or(|own| own == expected)
                        && other.rights == leaf.rights
                        && other.memory == leaf.memory
                        && other.global == leaf.global
                }
                _ => false,
            };
            if !agrees {
                return self.judge.report(
                    ViolationKind::ContiguousMismatch,
                    format!(
                        "CPU {} walks {address:#x} and finds entry {index:#x} of the table in frame {table:#x} in a contiguous \
                         group of {count}, but its member {member:#x} is {word:#x}, which does not agree: a TLB may keep either \
                         for all of them",
                        self.cpu
                    ),
                );
            }
        }
    }

    /// A table that a CPU begins to use must have been cleared: none of its words is the allocator's pattern.
    pub(super) fn check_cleared(&self, table: u64) {
        let words = if self.memory.has_patterns() { self.memory.words() } else { 0 };
        for index in 0..words {
            let Some(word) = self.memory.word(table, index).map(|word| word.load(Ordering::Acquire)) else { return };
            if word == GARBAGE || word == POISON {
                return self.judge.report(
                    ViolationKind::TableNotCleared,
                    format!(
                        "CPU {} began to use the table in frame {table:#x}, whose byte {:#x} still holds the allocator's pattern \
                         {word:#x}: it was linked before it was cleared",
                        self.cpu,
                        index * 8
                    ),
                );
            }
        }
    }

    /// The frame that is about to be read as a table must be one.
    fn check_table(&self, table: u64, address: u64) -> Result<(), Stop> {
        let cpu = self.cpu;
        match self.memory.state(table) {
            FrameState::Missing => {
                self.judge.report(
                    ViolationKind::NoSuchFrame,
                    format!(
                        "CPU {cpu} walks {address:#x} into a table in frame {table:#x}, which this machine does not \
                         have"
                    ),
                );
                Err(Stop::Bus)
            }
            FrameState::Free => {
                self.judge.report(
                    ViolationKind::StaleUse,
                    format!("CPU {cpu} walks {address:#x} through a table in frame {table:#x}, which is free"),
                );
                Ok(())
            }
            FrameState::Device => Ok(()),
            FrameState::GivenOut(_) => {
                let recorded = self.memory.recorded_use(table);
                if recorded != Some(FrameUse::Table) {
                    self.judge.report(
                        ViolationKind::NotATable,
                        format!(
                            "CPU {cpu} walks {address:#x} through a table in frame {table:#x}, which is recorded as \
                             {recorded:?}"
                        ),
                    );
                }
                Ok(())
            }
        }
    }
}
