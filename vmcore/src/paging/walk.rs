//! Reading tables: a walk of one address, level by level, and what it means in words. Never allocates and never writes.

use core::fmt;

use crate::addr::{Frame, PageRange, PhysAddr, VirtAddr};
use crate::paging::{Access, Entry, Leaf, Limits, Mmu};

/// The most levels that a format has.
pub(crate) const MAX_LEVELS: usize = 6;

/// One level of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The level of the table that was read; 0 is the level of base pages.
    pub level: usize,
    /// What the manuals call a table of this level.
    pub name: &'static str,
    /// The table.
    pub table: Frame,
    /// The index of the entry in it.
    pub index: usize,
    /// The entry as it stands there.
    pub word: u64,
    /// What it means.
    pub entry: Entry,
}

/// Where a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkEnd {
    /// The address is mapped.
    Mapped {
        /// The physical address that it leads to.
        physical: PhysAddr,
        /// The leaf as it stands in the table.
        leaf: Leaf,
        /// The pages that the leaf maps.
        pages: PageRange,
        /// What is allowed over all levels.
        access: Access,
    },
    /// Nothing is mapped.
    Absent,
    /// The last entry is a pattern that the manual reserves.
    Reserved,
    /// The format has no such address.
    NonCanonical,
    /// A table cannot be reached.
    Unreachable(Frame),
}

/// A walk of one address: the entries read on the way down, from the root on.
///
/// `Display` explains it: a line per level (name, table's physical address, index, entry, meaning), then where it ends.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The address that was walked.
    pub address: VirtAddr,
    steps: [Option<Step>; MAX_LEVELS],
    end: WalkEnd,
    page_shift: u32,
    allowed: Limits,
}

impl Walk {
    /// A walk that has read nothing yet.
    pub(super) fn new<M: Mmu>(mmu: M, address: VirtAddr) -> Self {
        let end = if mmu.is_canonical(address) { WalkEnd::Absent } else { WalkEnd::NonCanonical };
        Self { address, steps: [None; MAX_LEVELS], end, page_shift: mmu.page_shift(), allowed: Limits::NONE }
    }

    /// Adds what was read at the next level.
    pub(super) fn push<M: Mmu>(&mut self, mmu: M, level: usize, table: Frame, index: usize, word: u64, entry: Entry) {
        let (name, shift) = mmu.level(level).map_or(("", self.page_shift), |at| (at.name, at.shift));
        if let Some(slot) = self.steps.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(Step { level, name, table, index, word, entry });
        }
        self.end = match entry {
            Entry::Leaf(leaf) => {
                let pages = PageRange::from_checked(self.address.align_down(shift), 1 << shift);
                let offset = self.address.as_u64() - pages.start().as_u64();
                let physical = PhysAddr::new(leaf.frame.start(self.page_shift).as_u64() | offset);
                WalkEnd::Mapped { physical, leaf, pages, access: leaf.access & self.allowed }
            }
            Entry::Table(_, limit) => {
                self.allowed &= limit;
                WalkEnd::Absent
            }
            Entry::Reserved => WalkEnd::Reserved,
            Entry::Absent(_) => WalkEnd::Absent,
        };
    }

    pub(super) fn set_unreachable(&mut self, table: Frame) {
        self.end = WalkEnd::Unreachable(table);
    }

    /// The entries that were read, from the root down; the last one is where the walk ended.
    pub fn steps(&self) -> impl Iterator<Item = &Step> + '_ {
        self.steps.iter().flatten()
    }

    /// Where the walk ended.
    pub const fn end(&self) -> WalkEnd {
        self.end
    }

    /// The physical address that the walked address leads to; `None` if it is not mapped.
    pub const fn physical(&self) -> Option<PhysAddr> {
        match self.end {
            WalkEnd::Mapped { physical, .. } => Some(physical),
            _ => None,
        }
    }

    /// What is allowed over all levels: nothing, if the address is not mapped.
    pub const fn access(&self) -> Access {
        match self.end {
            WalkEnd::Mapped { access, .. } => access,
            _ => Access::empty(),
        }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "walk of {:#018x}", self.address)?;
        for step in self.steps() {
            let table = step.table.start(self.page_shift);
            write!(f, "  {:<5} at {:#014x} [{:>3}] = {:#018x}  ", step.name, table, step.index, step.word)?;
            match step.entry {
                Entry::Absent(0) => writeln!(f, "absent")?,
                Entry::Absent(payload) => writeln!(f, "absent, holds {payload:#x}")?,
                Entry::Reserved => writeln!(f, "malformed: reserved bits are set")?,
                Entry::Leaf(leaf) => writeln!(f, "leaf: {leaf:?}")?,
                Entry::Table(frame, limit) => {
                    write!(f, "table at {:#x}", frame.start(self.page_shift))?;
                    if limit != Limits::NONE {
                        write!(f, ", lets through {limit}")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        match self.end {
            WalkEnd::Mapped { physical, leaf, pages, access } => write!(
                f,
                "  leads to {physical:#x}, {access} {}, by a leaf of {} KiB from {:#x}",
                leaf.memory,
                pages.size() >> 10,
                pages.start()
            ),
            WalkEnd::Absent => f.write_str("  nothing is mapped there"),
            WalkEnd::Reserved => f.write_str("  any access faults on the malformed entry"),
            WalkEnd::NonCanonical => f.write_str("  no such address: it is not canonical"),
            WalkEnd::Unreachable(frame) => {
                write!(f, "  the table at {:#x} cannot be reached", frame.start(self.page_shift))
            }
        }
    }
}
