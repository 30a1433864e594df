//! The picture beside the text: smaller, and brought up to date piece by piece while the machine runs.
//!
//! ```text
//!   PHYSICAL MEMORY       128 KiB a cell
//!      0 [][][][][][][][][][][][][][][]        a few thousand frames are looked at in each step; what a cell is to look like is
//!    16M [][][][][][][][][][][][][][][]        kept beside what it looks like, and only cells that differ are drawn
//!   BY USE                       258 MiB
//!   # free             252.6 MiB  97.7 %       counted anew in each round over all frames
//!   COUNTERS
//!   SPACES
//!   kernel    10 windows, 1.2 GiB
//!   [===][=][==  ][==]                         the windows, wider the longer, bright where resident
//! ```
//!
//! Takes no memory but its own. Nothing of the surface is read.

use super::cells::{Cell, UseCounts, frames_per_cell, look};
use super::palette::{BACKGROUND, blend};
use super::units::{Percent, Text};
use super::{AreaKind, Bytes, Counter, CounterValue, MemoryRange, Space, Use};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use refkernel_abi::PAGE_SIZE;
use refkernel_surface::text::{Cells, FONT, Ink, Place};

/// Cells in a row of the map: a power of two, so that rows start at round addresses.
const COLUMNS: usize = 64;
/// The most rows of the map.
const ROWS: usize = 40;
/// Pixels of a cell, the gap to the next one included: across, and the most and the least down.
const CELL_WIDTH: u32 = 5;
const CELL_HEIGHT: (u32, u32) = (5, 9);
/// Pixels between ranges that do not follow one another.
const RANGE_GAP: u32 = 3;
/// The most ranges that are shown.
const RANGES: usize = 16;
/// Characters beside the map, and their pixels with the room behind them.
const LABELS: usize = 5;
const MAP_LEFT: i32 = 32;
/// The most characters of all text.
const CHARACTERS: usize = 4096;
/// The first row of text below the map, and how many the map has at most.
const MAP_ROWS: usize = 20;
/// What is in the legend: every use but memory that is not there.
const LEGEND: usize = Use::ALL.len() - 1;
const LEGEND_ROW: usize = 1 + MAP_ROWS + 1;
const COUNTERS_ROW: usize = LEGEND_ROW + LEGEND + 2;
/// Rows of counters, two in each.
const COUNTER_ROWS: usize = 3;
const SPACES_ROW: usize = COUNTERS_ROW + COUNTER_ROWS + 2;
/// The most spaces.
pub const SPACES: usize = 5;
/// Parts of the bar of a space, and the pixels of a part.
const PARTS: usize = 86;
const PART: (u32, u32) = (4, 9);
/// How many steps there are from nothing resident to all.
const LEVELS: u8 = 8;

/// What a cell of the map looks like: its use, and another use in it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look(u8);

impl Look {
    /// Nothing is there, or it is not known what.
    const NONE: Self = Self(u8::MAX);
    const NO_OTHER: u8 = 0xf;

    fn of(cell: &Cell) -> Self {
        Self((cell.main as u8) << 4 | cell.other.map_or(Self::NO_OTHER, |other| other as u8))
    }

    fn uses(self) -> Option<(Use, Option<Use>)> {
        let main = *Use::ALL.get(usize::from(self.0 >> 4))?;
        Some((main, Use::ALL.get(usize::from(self.0 & 0xf)).copied()))
    }
}

/// A part of a bar: zero between windows, else a kind and a level.
type Part = u8;

/// Everything that is shown, and what is to be.
pub struct LiveView {
    text: Cells<CHARACTERS>,
    memory: [MemoryRange; RANGES],
    ranges: usize,
    frames_per_cell: u64,
    cell_height: u32,
    wanted: [Look; COLUMNS * ROWS],
    shown: [Look; COLUMNS * ROWS],
    /// The next cell to look at: the number of its range, and its own in it.
    next: (usize, u64),
    counts: UseCounts,
    bars: [[Part; PARTS]; SPACES],
    bars_shown: [[Part; PARTS]; SPACES],
    swatches_shown: bool,
    size: Size,
}

impl core::fmt::Debug for LiveView {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("LiveView").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Default for LiveView {
    fn default() -> Self {
        Self::new()
    }
}

/// A part that was never drawn.
const UNKNOWN: Part = Part::MAX;

impl LiveView {
    /// A view of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            text: Cells::new(),
            memory: [MemoryRange { first_frame: 0, frames: 0 }; RANGES],
            ranges: 0,
            frames_per_cell: 1,
            cell_height: CELL_HEIGHT.0,
            wanted: [Look::NONE; COLUMNS * ROWS],
            shown: [Look::NONE; COLUMNS * ROWS],
            next: (0, 0),
            counts: UseCounts::NONE,
            bars: [[0; PARTS]; SPACES],
            bars_shown: [[UNKNOWN; PARTS]; SPACES],
            swatches_shown: false,
            size: Size::zero(),
        }
    }

    /// Says what is to be shown, in a place of this size: the memory, sorted by address.
    pub fn begin(&mut self, memory: &[MemoryRange], size: Size) {
        self.size = size;
        let character = FONT.character_size;
        let columns = size.width / character.width.max(1);
        self.text.resize(columns as usize, (size.height / character.height.max(1)) as usize);
        self.ranges = memory.len().min(RANGES);
        self.memory.iter_mut().zip(memory).for_each(|(own, given)| *own = *given);
        // Each range may leave a row unfinished.
        let rows = ROWS.saturating_sub(self.ranges).max(1);
        self.frames_per_cell = frames_per_cell(self.memory(), (COLUMNS * rows) as u64);
        let rows = self.memory().iter().map(|range| self.rows_of(range)).sum::<u64>().max(1);
        let gaps = self.ranges.saturating_sub(1) as u32 * RANGE_GAP;
        let room = (MAP_ROWS as u32 * character.height).saturating_sub(gaps);
        self.cell_height = (room / u32::try_from(rows).unwrap_or(u32::MAX)).clamp(CELL_HEIGHT.0, CELL_HEIGHT.1);
        self.next = (0, 0);
        self.write_frame();
        self.redraw();
    }

    /// Rows of cells that a range takes.
    fn rows_of(&self, range: &MemoryRange) -> u64 {
        range.frames.div_ceil(self.frames_per_cell.max(1)).div_ceil(COLUMNS as u64)
    }

    fn memory(&self) -> &[MemoryRange] {
        self.memory.get(..self.ranges).unwrap_or_default()
    }

    /// Somebody else has drawn there: everything is to be drawn again.
    pub fn redraw(&mut self) {
        self.text.redraw();
        self.shown.fill(Look::NONE);
        self.bars_shown.fill([UNKNOWN; PARTS]);
        self.swatches_shown = false;
    }

    /// What never changes: headings and addresses.
    fn write_frame(&mut self) {
        let per_cell = Text::<32>::of(format_args!("{} a cell", Bytes(self.frames_per_cell.saturating_mul(PAGE_SIZE))));
        self.heading(0, "PHYSICAL MEMORY", per_cell.as_str());
        self.heading(LEGEND_ROW, "BY USE", "");
        self.heading(COUNTERS_ROW, "COUNTERS", "");
        self.heading(SPACES_ROW, "SPACES", "bright = resident");
        for (used, row) in Use::ALL.into_iter().zip(LEGEND_ROW + 1..LEGEND_ROW + 1 + LEGEND) {
            self.text.write(3, row, Ink::Text, used.name());
        }
        // A label where the row of text is that of the first row of cells from an address on.
        let mut last = None;
        for (number, range) in self.memory.into_iter().enumerate().take(self.ranges) {
            let cells = range.frames.div_ceil(self.frames_per_cell.max(1));
            for cell in (0..cells).step_by(COLUMNS) {
                let Some((_, y)) = self.place(number, cell) else { break };
                let row = 1
                    + ((y + self.cell_height / 2).saturating_sub(FONT.character_size.height)
                        / FONT.character_size.height) as usize;
                let first = last.is_none_or(|last| row >= last + if cell == 0 { 1 } else { 3 });
                if first && row <= MAP_ROWS {
                    let frame = range.first_frame.saturating_add(cell.saturating_mul(self.frames_per_cell));
                    let label = short(frame.saturating_mul(PAGE_SIZE));
                    let label = Text::<8>::of(format_args!("{:>1$}", label.as_str(), LABELS));
                    self.text.write(0, row, Ink::Faint, label.as_str());
                    last = Some(row);
                }
            }
        }
    }

    fn heading(&mut self, row: usize, name: &str, remark: &str) {
        let columns = self.text.columns();
        self.text.blank(0..columns, row);
        self.text.write(0, row, Ink::Accent, name);
        self.text.write(columns.saturating_sub(remark.len()), row, Ink::Faint, remark);
    }

    /// Where a cell is: its place among the cells, and the upper edge in pixels below the view's; `None` if there is no room for it.
    fn place(&self, range: usize, cell: u64) -> Option<(usize, u32)> {
        let before: u64 = self.memory().iter().take(range).map(|range| self.rows_of(range)).sum();
        let row = usize::try_from(before + cell / COLUMNS as u64).ok().filter(|row| *row < ROWS)?;
        let y = FONT.character_size.height + row as u32 * self.cell_height + range as u32 * RANGE_GAP;
        Some((row * COLUMNS + (cell % COLUMNS as u64) as usize, y))
    }

    /// Looks at the next frames: at least `frames`, if there are so many, and at most a cell more. True when the round is complete, with the counts of
    /// all frames written.
    pub fn sweep(&mut self, frames: u64, use_of: &dyn Fn(u64) -> Use) -> bool {
        let mut looked = 0;
        while looked < frames {
            let (number, cell) = self.next;
            let Some(range) = self.memory().get(number).copied() else {
                self.finish_round();
                return true;
            };
            if cell >= range.frames.div_ceil(self.frames_per_cell.max(1)) {
                self.next = (number + 1, 0);
                continue;
            }
            let (found, counts) = look(&range, cell, self.frames_per_cell, use_of);
            if let Some((place, _)) = self.place(number, cell)
                && let Some(wanted) = self.wanted.get_mut(place)
            {
                *wanted = Look::of(&found);
            }
            self.counts = core::mem::take(&mut self.counts).plus(&counts);
            looked += self.frames_per_cell;
            self.next = (number, cell + 1);
        }
        false
    }

    fn finish_round(&mut self) {
        let counts = core::mem::take(&mut self.counts);
        let total = counts.total();
        self.next = (0, 0);
        let size = Text::<32>::of(format_args!("{}", Bytes(total.saturating_mul(PAGE_SIZE))));
        self.heading(LEGEND_ROW, "BY USE", size.as_str());
        let columns = self.text.columns();
        for (used, row) in Use::ALL.into_iter().zip(LEGEND_ROW + 1..LEGEND_ROW + 1 + LEGEND) {
            let frames = counts.get(used);
            let bytes = Bytes(frames.saturating_mul(PAGE_SIZE));
            let share = Percent { part: frames, whole: total };
            let ink = if frames == 0 { Ink::Faint } else { Ink::Bright };
            let amount = Text::<32>::of(format_args!("{bytes:>12}"));
            self.text.write(columns.saturating_sub(22), row, ink, amount.as_str());
            let share = Text::<32>::of(format_args!("{share:>8}"));
            self.text.write(columns.saturating_sub(8), row, Ink::Faint, share.as_str());
        }
    }

    /// Shows counters: as many as there is room for.
    pub fn set_counters(&mut self, counters: &[Counter<'_>]) {
        let half = self.text.columns() / 2;
        for (index, counter) in counters.iter().enumerate().take(2 * COUNTER_ROWS) {
            let (column, row) = (index % 2 * (half + 1), COUNTERS_ROW + 1 + index / 2);
            let value = match counter.value {
                CounterValue::Count(count) => Text::<32>::of(format_args!("{count}")),
                CounterValue::Bytes(bytes) => Text::of(format_args!("{}", Bytes(bytes))),
            };
            let end = (column + half).min(self.text.columns());
            self.text.blank(column..end, row);
            self.text.write(column, row, Ink::Text, counter.name);
            self.text.write(end.saturating_sub(value.as_str().len() + 1), row, Ink::Bright, value.as_str());
        }
    }

    /// Shows a space in a place of its own, below [`SPACES`]; `None`: nothing is there.
    pub fn set_space(&mut self, place: usize, space: Option<&Space<'_>>) {
        let Some(bar) = self.bars.get_mut(place) else { return };
        bar.fill(0);
        let row = SPACES_ROW + 1 + 2 * place;
        self.text.blank(0..self.text.columns(), row);
        let Some(space) = space else { return };
        fill_bar(bar, space);
        let (pages, resident) = space.pages();
        let amounts = Text::<64>::of(format_args!(
            "{} windows, {} of {}",
            space.windows.len(),
            Bytes(resident.saturating_mul(PAGE_SIZE)),
            Bytes(pages.saturating_mul(PAGE_SIZE))
        ));
        self.text.write(0, row, Ink::Bright, space.name);
        let start = self.text.columns().saturating_sub(amounts.as_str().len());
        self.text.write(start, row, Ink::Faint, amounts.as_str());
    }

    /// Draws what has changed, with the view's upper left corner at `origin`.
    ///
    /// # Errors
    ///
    /// Those of `target`.
    pub fn draw<D: DrawTarget<Color = Rgb888>>(&mut self, place: &Place<'_>, target: &mut D) -> Result<(), D::Error> {
        // First: blank characters are where cells will be.
        for row in 0..self.text.rows() {
            self.text.draw_row(row, None, place, target)?;
        }
        let mut inside = target.clipped(&Rectangle::new(place.origin, self.size));
        self.draw_swatches(place.origin, &mut inside)?;
        self.draw_map(place.origin, &mut inside)?;
        self.draw_bars(place.origin, &mut inside)
    }

    fn draw_swatches<D: DrawTarget<Color = Rgb888>>(&mut self, origin: Point, target: &mut D) -> Result<(), D::Error> {
        if core::mem::replace(&mut self.swatches_shown, true) {
            return Ok(());
        }
        for (used, row) in Use::ALL.into_iter().zip(LEGEND_ROW + 1..LEGEND_ROW + 1 + LEGEND) {
            let corner = origin + Point::new(2, row as i32 * FONT.character_size.height as i32 + 2);
            target.fill_solid(&Rectangle::new(corner, Size::new_equal(9)), used.color())?;
        }
        Ok(())
    }

    fn draw_map<D: DrawTarget<Color = Rgb888>>(&mut self, origin: Point, target: &mut D) -> Result<(), D::Error> {
        let (width, height) = (CELL_WIDTH - 1, self.cell_height - 1);
        for number in 0..self.ranges {
            let cells = self.memory.get(number).map_or(0, |range| range.frames.div_ceil(self.frames_per_cell.max(1)));
            for cell in 0..cells {
                let Some((place, y)) = self.place(number, cell) else { break };
                let (Some(wanted), Some(shown)) = (self.wanted.get(place), self.shown.get_mut(place)) else { break };
                if wanted == shown {
                    continue;
                }
                *shown = *wanted;
                let Some((main, other)) = wanted.uses() else { continue };
                let x = MAP_LEFT + (cell % COLUMNS as u64) as i32 * CELL_WIDTH as i32;
                let corner = origin + Point::new(x, y as i32);
                let ground = match (main, other) {
                    (Use::Free, Some(other)) => blend(main.color(), other.color(), 70),
                    _ => main.color(),
                };
                target.fill_solid(&Rectangle::new(corner, Size::new(width, height)), ground)?;
                if let Some(other) = other {
                    let mark = Size::new(width / 2, height.div_ceil(2));
                    let place = corner + Size::new(width - mark.width, height - mark.height);
                    target.fill_solid(&Rectangle::new(place, mark), other.color())?;
                }
            }
        }
        Ok(())
    }

    fn draw_bars<D: DrawTarget<Color = Rgb888>>(&mut self, origin: Point, target: &mut D) -> Result<(), D::Error> {
        let rows = self.text.rows();
        for (place, (wanted, shown)) in self.bars.iter().zip(&mut self.bars_shown).enumerate() {
            let row = SPACES_ROW + 2 + 2 * place;
            if row >= rows {
                break;
            }
            let top = row as i32 * FONT.character_size.height as i32 + 1;
            for (index, (wanted, shown)) in wanted.iter().zip(shown).enumerate() {
                if wanted == shown {
                    continue;
                }
                *shown = *wanted;
                let corner = origin + Point::new((index as u32 * PART.0) as i32, top);
                target.fill_solid(&Rectangle::new(corner, Size::new(PART.0, PART.1)), color_of(*wanted))?;
            }
        }
        Ok(())
    }
}

/// Lays the windows of a space out in a bar: each is wider the longer it is, and there is room between those that do not touch.
fn fill_bar(bar: &mut [Part; PARTS], space: &Space<'_>) {
    let count = space.windows.len().min(PARTS / 2);
    let windows = space.windows.get(..count).unwrap_or_default();
    let weight = |pages: u64| 3 + pages.max(1).ilog2() as usize;
    let all: usize = windows.iter().map(|window| weight(window.pages)).sum();
    // A part for each, a gap behind each.
    let spare = PARTS.saturating_sub(2 * count);
    let mut at = 0;
    for window in windows {
        let width = 1 + spare * weight(window.pages) / all.max(1);
        let shares = window.residency.shares();
        for part in 0..width {
            let share = shares.get(part * shares.len() / width).copied().unwrap_or(0);
            let level = (u16::from(share) * u16::from(LEVELS)).div_ceil(255) as u8;
            if let Some(slot) = bar.get_mut(at + part) {
                *slot = 1 + window.kind as u8 * (LEVELS + 1) + level;
            }
        }
        at += width + 1;
    }
}

fn color_of(part: Part) -> Rgb888 {
    let Some(known) = part.checked_sub(1) else { return BACKGROUND };
    let (kind, level) = (known / (LEVELS + 1), known % (LEVELS + 1));
    let Some(kind) = AreaKind::ALL.get(usize::from(kind)) else { return BACKGROUND };
    let share = 60 + u16::from(level) * (255 - 60) / u16::from(LEVELS);
    blend(BACKGROUND, kind.color(), share.min(255) as u8)
}

/// An address in a few characters.
fn short(address: u64) -> Text<8> {
    match address {
        0 => Text::of(format_args!("0")),
        _ if address.is_multiple_of(1 << 30) => Text::of(format_args!("{}G", address >> 30)),
        _ if address.is_multiple_of(1 << 20) => Text::of(format_args!("{}M", address >> 20)),
        _ => Text::of(format_args!("{}K", address >> 10)),
    }
}

#[cfg(test)]
mod tests;
