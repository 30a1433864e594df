//! From frames to cells of the map: a cell is a power of two of frames that follow one another, and shows what most of them are
//! used for.
//!
//! # Invariants
//!
//! No cell reaches over the end of a range, so its frames always follow one another.

use super::{MemoryRange, Picture, Use};

/// How many frames have each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct UseCounts([u64; Use::ALL.len()]);

impl UseCounts {
    /// None of any.
    pub(super) const NONE: Self = Self([0; Use::ALL.len()]);

    pub(super) fn add(&mut self, used: Use) {
        if let Some(count) = self.0.get_mut(used as usize) {
            *count += 1;
        }
    }

    pub(super) fn get(&self, used: Use) -> u64 {
        self.0.get(used as usize).copied().unwrap_or_default()
    }

    /// Those of both.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
        self
    }

    /// Frames of any use but [`Use::Absent`].
    pub(super) fn total(&self) -> u64 {
        let all: u64 = self.0.iter().sum();
        all - self.get(Use::Absent)
    }
}

/// A cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// The number of its first frame.
    pub(super) first_frame: u64,
    /// What most of its frames are used for.
    pub(super) main: Use,
    /// What else is in it, and would be lost among the others; never [`Use::Free`] or [`Use::Absent`].
    pub(super) other: Option<Use>,
    /// Whether a range starts here.
    pub(super) starts_range: bool,
}

impl Picture<'_> {
    /// The use of every frame, counted.
    pub(super) fn count_uses(&self) -> UseCounts {
        let mut counts = UseCounts::default();
        for range in self.memory {
            for frame in frames_of(range, 0, range.frames) {
                counts.add((self.use_of)(frame));
            }
        }
        counts
    }

    /// The smallest power of two of frames per cell with which the map has at most `cells` cells.
    pub(super) fn frames_per_cell(&self, cells: u64) -> u64 {
        frames_per_cell(self.memory, cells)
    }

    /// The cells, in the order of addresses.
    pub(super) fn cells(&self, frames_per_cell: u64) -> impl Iterator<Item = Cell> + '_ {
        self.memory.iter().flat_map(move |range| {
            let cells = range.frames.div_ceil(frames_per_cell);
            (0..cells).map(move |index| look(range, index, frames_per_cell, self.use_of).0)
        })
    }
}

/// The smallest power of two of frames per cell with which a map of this memory has at most `cells` cells.
pub(super) fn frames_per_cell(memory: &[MemoryRange], cells: u64) -> u64 {
    let count = |frames| memory.iter().map(|range| range.frames.div_ceil(frames)).sum::<u64>();
    let mut frames = 1_u64;
    while count(frames) > cells.max(memory.len() as u64) && frames < 1 << 40 {
        frames *= 2;
    }
    frames
}

/// A cell of a range, by its number in it, and what its frames are used for.
pub(super) fn look(
    range: &MemoryRange,
    index: u64,
    frames_per_cell: u64,
    use_of: &dyn Fn(u64) -> Use,
) -> (Cell, UseCounts) {
    let start = index.saturating_mul(frames_per_cell);
    let length = frames_per_cell.min(range.frames.saturating_sub(start));
    let mut counts = UseCounts::default();
    for frame in frames_of(range, start, length) {
        counts.add(use_of(frame));
    }
    let most = |uses: &mut dyn Iterator<Item = Use>| {
        uses.filter(|used| counts.get(*used) > 0).max_by_key(|used| counts.get(*used))
    };
    let main = most(&mut Use::ALL.into_iter()).unwrap_or(Use::Absent);
    let hidden = |used: &Use| ![main, Use::Free, Use::Absent].contains(used);
    let other = most(&mut Use::ALL.into_iter().filter(hidden));
    let first_frame = range.first_frame.saturating_add(start);
    (Cell { first_frame, main, other, starts_range: index == 0 }, counts)
}

/// The numbers of `length` frames of a range from `start` on.
fn frames_of(range: &MemoryRange, start: u64, length: u64) -> impl Iterator<Item = u64> + use<> {
    let first = range.first_frame.saturating_add(start);
    first..first.saturating_add(length)
}
