//! What tables hold, in coalesced runs: one line for all the leaves side by side that are alike, however many tables they fill.
//!
//! A dump reads the live tables and trusts nothing in them: a malformed entry and a table that cannot be reached have a line each.

use core::fmt;

use super::{Bytes, Legend};
use crate::addr::{PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::{Mmu, RunContent, TableRun, Tables};
use crate::platform::Platform;
use crate::vm_space::Space;

/// The leaves that tables have in a range, a line for each run: addresses, physical addresses, the access that all levels allow, memory
/// type, how many leaves of which size, and marks (accessed and dirty, if any leaf of the run is), software bits and key. `{:#}` appends the format's [`Legend`].
///
/// Reads the tables as they stand, also somebody else's, as [`Tables::runs`] does. Cost: O(tables and leaves), no allocation.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use vmcore::addr::Frame;
/// use vmcore::inspect::TableDump;
/// use vmcore::paging::{Access, Leaf, MemoryType, Mmu, Tables, Tag, X86_64};
/// # use vmcore::{frame::FrameList, sim::Sim};
/// # let sim = Sim::builder().build();
/// # let mmu = X86_64::new(40);
/// # let mut tables = unsafe { Tables::new(mmu, sim.new_table(), Tag(1)) };
/// # let mut spare = FrameList::new();
/// # spare.fill_with_tables(&sim, 16).unwrap();
/// # let mut map = |start, size, leaf, level| {
/// #     let range = mmu.range(start, size).unwrap();
/// #     tables.map(&sim, range, leaf, level, &mut spare).unwrap();
/// # };
/// map(0x40_0000, 0x6000, Leaf::new(Frame::new(0x2_0000)).access(Access::USER_CODE), 0);
/// map(0x40_6000, 0x2000, Leaf::new(Frame::new(0x3_0000)).access(Access::USER_DATA).used(), 0);
/// map(0x4000_0000, 0x40_0000, Leaf::new(Frame::new(0xf_d000)).writable().memory(MemoryType::WriteCombining), 1);
/// let dump = TableDump { tables: &tables, frames: &sim, range: mmu.range(0, 1 << 47)? };
/// let text = "\
/// 0x0000000000400000-0x0000000000405fff -> 0x000020000000 r-xu WB          6 x   4 KiB
/// 0x0000000000406000-0x0000000000407fff -> 0x000030000000 rw-u WB          2 x   4 KiB accessed dirty
/// 0x0000000040000000-0x00000000403fffff -> 0x0000fd000000 rw-- WC          2 x   2 MiB
/// 3 runs, 4128 KiB mapped, x86-64";
/// assert_eq!(dump.to_string(), text);
/// # }
/// # Ok::<_, vmcore::addr::RangeError>(())
/// ```
#[derive(Debug)]
pub struct TableDump<'a, F, M: Mmu> {
    /// The tables.
    pub tables: &'a Tables<M>,
    /// How they are reached.
    pub frames: &'a F,
    /// The addresses that are shown.
    pub range: PageRange,
}

impl<F: Frames, M: Mmu> fmt::Display for TableDump<'_, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.tables.mmu(), self.range, |range| self.tables.first_table_run(self.frames, range))
    }
}

/// What the tables of a space hold within its bounds, as a [`TableDump`] shows it: the cache of what its [map](super::SpaceMap) says. Takes the
/// lock of the tables for each line, so the space may change meanwhile.
#[derive(Debug)]
pub struct SpaceTables<'a, P: Platform, M: Mmu = <P as Platform>::Mmu>(
    /// The space.
    pub &'a Space<P, M>,
);

impl<P: Platform, M: Mmu> fmt::Display for SpaceTables<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0.mmu(), self.0.bounds(), |range| self.0.first_table_run(range))
    }
}

/// The same of some of the addresses, of those that are within the space's bounds.
#[derive(Debug)]
pub struct SpaceTablesIn<'a, P: Platform, M: Mmu = <P as Platform>::Mmu> {
    /// The space.
    pub space: &'a Space<P, M>,
    /// The addresses.
    pub range: PageRange,
}

impl<P: Platform, M: Mmu> fmt::Display for SpaceTablesIn<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = self.space.bounds().intersection(self.range);
        // What is outside has no runs.
        let first = |range| within.and_then(|_| self.space.first_table_run(range));
        write(f, self.space.mmu(), within.unwrap_or(self.range), first)
    }
}

/// Writes the runs that `first` finds in what is left of the range, then their sum.
fn write<M: Mmu>(
    f: &mut fmt::Formatter<'_>,
    mmu: M,
    range: PageRange,
    first: impl Fn(PageRange) -> Option<TableRun>,
) -> fmt::Result {
    let (mut runs, mut bytes) = (0_u64, 0_u64);
    let mut rest = Some(range);
    while let Some(run) = rest.and_then(&first) {
        line(f, mmu, &run)?;
        runs += 1;
        if let RunContent::Leaves(_) = run.content {
            bytes = bytes.saturating_add(run.pages.size());
        }
        rest = after(range, run.pages.last());
    }
    let name = M::FORMAT.name;
    write!(f, "{runs} runs, {} mapped, {name}", Bytes(bytes))?;
    if f.alternate() { write!(f, "\n\n{}", Legend(mmu)) } else { Ok(()) }
}

/// What of the range comes after an address.
fn after(range: PageRange, last: VirtAddr) -> Option<PageRange> {
    let next = last.checked_add(1).filter(|next| *next <= range.last())?;
    Some(PageRange::from_bounds(next, range.last()))
}

fn line<M: Mmu>(f: &mut fmt::Formatter<'_>, mmu: M, run: &TableRun) -> fmt::Result {
    let (start, last) = (run.pages.start().as_u64(), run.pages.last().as_u64());
    write!(f, "{start:#018x}-{last:#018x}")?;
    let shift = mmu.level(run.level).map_or(0, |at| at.shift);
    match run.content {
        RunContent::Leaves(leaf) => {
            let physical = leaf.frame.start(mmu.page_shift()).as_u64();
            let (count, size) = (run.pages.size() >> shift, Bytes(1 << shift));
            write!(f, " -> {physical:#014x} {} {:<5}", leaf.access, leaf.memory)?;
            if run.pages.size() == count << shift {
                write!(f, " {count:>7} x {size:>7}")?;
            } else {
                // The range cuts a leaf.
                write!(f, " part of   {size:>7}")?;
            }
            for (set, name) in [(leaf.global, " global"), (leaf.accessed, " accessed"), (leaf.dirty, " dirty")] {
                if set {
                    f.write_str(name)?;
                }
            }
            if leaf.software != 0 {
                write!(f, " software {:#x}", leaf.software)?;
            }
            if leaf.key != 0 {
                write!(f, " key {}", leaf.key)?;
            }
        }
        RunContent::Reserved(word) => {
            write!(f, " malformed: {word:#018x} in {}", mmu.level(run.level).map_or("", |at| at.name))?;
        }
        RunContent::Unreachable(frame) => {
            write!(f, " the table at {:#x} cannot be reached", frame.start(mmu.page_shift()).as_u64())?;
        }
    }
    writeln!(f)
}

#[cfg(test)]
mod tests;
