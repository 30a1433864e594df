//! Reading a tree as runs: pages side by side that map consecutive frames in the same way, whatever the size of their leaves.

use crate::addr::{Frame, PageRange};
use crate::frame::Frames;
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{Entry, Leaf, Limits, Mmu};

use super::cursor::Cursor;

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
}

impl<'a, F: Frames, M: Mmu> Runs<'a, F, M> {
    pub(super) fn new(frames: &'a F, mmu: M, root: Frame, range: PageRange) -> Self {
        Self {
            cursor: Cursor::new(frames, mmu, root, range, false),
            allowed: [Limits::NONE; MAX_LEVELS],
            page_shift: mmu.page_shift(),
            ahead: None,
        }
    }

    /// The next leaf, or the part of it that lies in the range.
    fn next_leaf(&mut self) -> Option<(PageRange, Leaf)> {
        loop {
            let cursor = self.cursor.as_mut()?;
            let level = cursor.level();
            let allowed = self.allowed.get(level).copied().unwrap_or(Limits::NONE);
            let mut found = None;
            match cursor.entry() {
                // A table that cannot be reached is passed over, as a CPU of this machine could not use it either.
                Entry::Table(frame, limit) if cursor.enter(frame).is_ok() => {
                    if let Some(slot) = self.allowed.get_mut(cursor.level()) {
                        *slot = allowed & limit;
                    }
                    continue;
                }
                Entry::Leaf(leaf) => {
                    let part = cursor.part();
                    let skipped = part.start().as_u64() - cursor.span().start().as_u64();
                    let frame = leaf.frame.add(skipped >> self.page_shift);
                    found = Some((part, Leaf { frame, access: leaf.access & allowed, ..leaf }));
                }
                _ => {}
            }
            if !cursor.forward() {
                self.cursor = None;
            }
            if found.is_some() {
                return found;
            }
        }
    }
}

impl<F: Frames, M: Mmu> Iterator for Runs<'_, F, M> {
    type Item = (PageRange, Leaf);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut run, mut leaf) = self.ahead.take().or_else(|| self.next_leaf())?;
        while let Some((pages, next)) = self.next_leaf() {
            let expected = Leaf {
                frame: leaf.frame.add(run.pages(self.page_shift)),
                accessed: next.accessed,
                dirty: next.dirty,
                ..leaf
            };
            if next != expected || run.last().checked_add(1) != Some(pages.start()) {
                self.ahead = Some((pages, next));
                break;
            }
            run = PageRange::from_bounds(run.start(), pages.last());
            leaf.accessed |= next.accessed;
            leaf.dirty |= next.dirty;
        }
        Some((run, leaf))
    }
}
