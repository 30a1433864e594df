//! Reading a tree as runs: pages side by side that map consecutive frames in the same way, whatever the size of their leaves.

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::Frames;
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{Entry, Leaf, Limits, Mmu, Tables};

use super::cursor::{Cursor, Run};

/// The longest runs of equal pages in a range; see [`Tables::runs`](crate::paging::Tables::runs).
///
/// A run's leaf has the access that all levels allow, and the marks (accessed, dirty) of any of its pages.
pub struct Runs<'a, F, M: Mmu> {
    /// `None` when the range is done.
    cursor: Option<Cursor<'a, F, M>>,
    /// What the tables above a level let through, by that level.
    allowed: [Limits; MAX_LEVELS],
    page_shift: u32,
    /// A leaf that did not fit the run before it.
    ahead: Option<(PageRange, Leaf)>,
    /// The first address that could not be read.
    unreadable: Option<VirtAddr>,
}

impl<'a, F: Frames, M: Mmu> Runs<'a, F, M> {
    pub(super) fn new(frames: &'a F, mmu: M, root: Frame, range: PageRange) -> Self {
        Self {
            cursor: Cursor::new(frames, mmu, root, range, false),
            allowed: [Limits::NONE; MAX_LEVELS],
            page_shift: mmu.page_shift(),
            ahead: None,
            unreadable: None,
        }
    }

    /// The first address, of those that were read so far, at which the tables cannot be read: an entry is malformed, or leads to a table that the
    /// embedder does not reach. What lies there is in no run.
    pub const fn unreadable(&self) -> Option<VirtAddr> {
        self.unreadable
    }

    /// What comes next that is not absent, or the part of it that lies in the range.
    fn next_found(&mut self) -> Option<TableRun> {
        loop {
            let cursor = self.cursor.as_mut()?;
            let level = cursor.level();
            // Words of zero hold nothing in any format, and are passed without being decoded.
            let (run, table) = (cursor.run(), cursor.table());
            let empty = (0..run.count).take_while(|step| table.load(run.first + step) == 0).count();
            cursor.pass(Run { first: run.first, count: run.count.min(empty + 1) });
            let allowed = self.allowed.get(level).copied().unwrap_or(Limits::NONE);
            let pages = cursor.part();
            let content = match cursor.entry() {
                Entry::Table(frame, limit) => {
                    if cursor.enter(frame).is_ok() {
                        if let Some(slot) = self.allowed.get_mut(cursor.level()) {
                            *slot = allowed & limit;
                        }
                        continue;
                    }
                    Some(RunContent::Unreachable(frame))
                }
                Entry::Leaf(leaf) => {
                    let skipped = pages.start().as_u64() - cursor.span().start().as_u64();
                    let frame = leaf.frame.add(skipped >> self.page_shift);
                    Some(RunContent::Leaves(Leaf { frame, access: leaf.access & allowed, ..leaf }))
                }
                Entry::Reserved => Some(RunContent::Reserved(cursor.table().load(cursor.index()))),
                Entry::Absent(_) => None,
            };
            if !cursor.forward() {
                self.cursor = None;
            }
            if let Some(content) = content {
                return Some(TableRun { pages, level, content });
            }
        }
    }

    /// The next leaf, or the part of it that lies in the range.
    fn next_leaf(&mut self) -> Option<(PageRange, Leaf)> {
        loop {
            let TableRun { pages, content, .. } = self.next_found()?;
            match content {
                RunContent::Leaves(leaf) => return Some((pages, leaf)),
                // Passed over: the one faults on every access, the other is not known to be a table.
                RunContent::Reserved(_) | RunContent::Unreachable(_) => {
                    self.unreadable.get_or_insert(pages.start());
                }
            }
        }
    }
}

impl<F: Frames, M: Mmu> Iterator for Runs<'_, F, M> {
    type Item = (PageRange, Leaf);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut run, mut leaf) = self.ahead.take().or_else(|| self.next_leaf())?;
        while let Some((pages, next)) = self.next_leaf() {
            let Some(joined) = joined((run, leaf), (pages, next), self.page_shift) else {
                self.ahead = Some((pages, next));
                break;
            };
            (run, leaf) = joined;
        }
        Some((run, leaf))
    }
}

/// Both as one run, if the second one carries the first one on. It has the marks of either.
fn joined(
    (run, leaf): (PageRange, Leaf),
    (pages, next): (PageRange, Leaf),
    page_shift: u32,
) -> Option<(PageRange, Leaf)> {
    let carried_on =
        Leaf { frame: leaf.frame.add(run.pages(page_shift)), accessed: next.accessed, dirty: next.dirty, ..leaf };
    if next != carried_on || run.last().checked_add(1) != Some(pages.start()) {
        return None;
    }
    let marked = Leaf { accessed: leaf.accessed | next.accessed, dirty: leaf.dirty | next.dirty, ..leaf };
    Some((PageRange::from_bounds(run.start(), pages.last()), marked))
}

/// Entries side by side, of one level, that say the same: a line of a dump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableRun {
    pub(crate) pages: PageRange,
    pub(crate) level: usize,
    pub(crate) content: RunContent,
}

/// What the entries of a [`TableRun`] say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RunContent {
    /// Leaves of consecutive frames: the first one, with the access that all levels allow and the marks of any of them.
    Leaves(Leaf),
    /// One malformed entry.
    Reserved(u64),
    /// A table that cannot be reached.
    Unreachable(Frame),
}

impl<M: Mmu> Tables<M> {
    /// The first run of entries of one level in the range. Reads only, also tables that are somebody else's. Cost: O(levels and the run's leaves).
    pub(crate) fn first_table_run<F: Frames>(&self, frames: &F, range: PageRange) -> Option<TableRun> {
        let mut runs = self.runs(frames, range);
        let mut run = runs.next_found()?;
        while let (RunContent::Leaves(leaf), Some(next)) = (run.content, runs.next_found()) {
            let RunContent::Leaves(next_leaf) = next.content else { break };
            let both = joined((run.pages, leaf), (next.pages, next_leaf), self.mmu().page_shift());
            let Some((pages, leaf)) = both.filter(|_| next.level == run.level) else { break };
            run = TableRun { pages, content: RunContent::Leaves(leaf), ..run };
        }
        Some(run)
    }
}
