//! The picture as lines of text, for the serial line: at most 100 columns, nothing but ASCII.

use core::fmt::{self, Write};

use refkernel_abi::PAGE_SIZE;

use super::units::{Percent, Text};
use super::{Bytes, CounterValue, Picture, Space, Use};

/// Cells in a line of the map.
const COLUMNS: usize = 64;

/// The most lines of the map.
const ROWS: u64 = 16;

/// The width of a bar of residency.
const BAR: usize = 16;

impl Picture<'_> {
    /// Writes everything that the picture shows.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{} - {}", self.title, self.subtitle)?;
        self.write_memory(out)?;
        for space in self.spaces {
            write_space(space, out)?;
        }
        if !self.counters.is_empty() {
            writeln!(out, "counters:")?;
        }
        for counter in self.counters {
            match counter.value {
                CounterValue::Count(count) => writeln!(out, "  {:<28} {count:>12}", counter.name)?,
                CounterValue::Bytes(bytes) => {
                    writeln!(out, "  {:<28} {:>12}", counter.name, Bytes(bytes))?;
                }
            }
        }
        Ok(())
    }

    fn write_memory(&self, out: &mut dyn Write) -> fmt::Result {
        let counts = self.count_uses();
        let total = counts.total();
        let size = Bytes(total.saturating_mul(PAGE_SIZE));
        writeln!(out, "physical memory: {size} in {total} frames")?;
        for used in Use::ALL {
            let frames = counts.get(used);
            if frames == 0 || used == Use::Absent {
                continue;
            }
            let bytes = Bytes(frames.saturating_mul(PAGE_SIZE));
            let share = Percent { part: frames, whole: total };
            let (letter, name) = (used.letter(), used.name());
            writeln!(out, "  {letter} {name:<20} {bytes:>11} {frames:>9} frames {share:>8}")?;
        }

        let frames_per_cell = self.frames_per_cell(COLUMNS as u64 * ROWS);
        let cell_size = Bytes(frames_per_cell.saturating_mul(PAGE_SIZE));
        writeln!(out, "  map, a letter per {cell_size}, what is not free first:")?;
        let mut column = COLUMNS;
        for cell in self.cells(frames_per_cell) {
            if cell.starts_range || column == COLUMNS {
                if column != COLUMNS || cell.first_frame != self.first_frame() {
                    writeln!(out)?;
                }
                write!(out, "  {:#018x} ", cell.first_frame.saturating_mul(PAGE_SIZE))?;
                column = 0;
            }
            // A letter has no corner for a second use: of a cell that is mostly free, what is not free is worth more.
            let shown = match (cell.main, cell.other) {
                (Use::Free, Some(other)) => other,
                (main, _) => main,
            };
            out.write_char(shown.letter())?;
            column += 1;
        }
        writeln!(out)
    }

    /// The number of the first frame that is shown.
    fn first_frame(&self) -> u64 {
        self.memory.first().map_or(0, |range| range.first_frame)
    }
}

fn write_space(space: &Space<'_>, out: &mut dyn Write) -> fmt::Result {
    let (pages, resident) = space.pages();
    writeln!(
        out,
        "space {}: {} windows, {} resident of {}",
        space.name,
        space.windows.len(),
        Bytes(resident.saturating_mul(PAGE_SIZE)),
        Bytes(pages.saturating_mul(PAGE_SIZE)),
    )?;
    for window in space.windows {
        let length = window.pages.saturating_mul(PAGE_SIZE);
        let access = match window.access {
            Some(access) => Text::<3>::of(format_args!("{access}")),
            None => Text::of(format_args!("---")),
        };
        write!(
            out,
            "  {:#018x} {:>11} {} {:<12} {:<20} [",
            window.start,
            Bytes(length),
            access.as_str(),
            window.kind.name(),
            window.label,
        )?;
        let shares = window.residency.shares();
        for column in 0..BAR.min(shares.len()) {
            let bar = BAR.min(shares.len());
            let part = shares.get(column * shares.len() / bar..(column + 1) * shares.len() / bar);
            let part = part.unwrap_or_default();
            out.write_char(if part.iter().all(|share| *share == 255) {
                '#'
            } else if part.iter().all(|share| *share == 0) {
                '.'
            } else {
                '+'
            })?;
        }
        writeln!(out, "]")?;
    }
    Ok(())
}
