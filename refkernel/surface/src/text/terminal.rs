//! What bytes do to the cells: a terminal as far as the kernel's log and the line editor need one.
//!
//! | bytes | what they do |
//! |---|---|
//! | printable ASCII | the character, at the cursor; behind the last column on the next row |
//! | LF | the next row, from its start (the kernel ends its lines with it alone); scrolls at the last row |
//! | CR, BS, TAB | to the start of the row, one back, to the next multiple of eight |
//! | `CSI n A` … `D` | the cursor up, down, right, left |
//! | `CSI r;c H` | the cursor to a place |
//! | `CSI n K`, `CSI n J` | erases in the row, on the whole screen: 0 behind the cursor, 1 before it, 2 all |
//! | `CSI n m` | colour: 0 usual, 1 bright, 2 faint, 31 to 37 and 91 to 97 |
//! | UTF-8 | `?` for each character |
//!
//! Anything else is passed over. ECMA-48, 5.4 and 8.3.
//!
//! # Invariants
//!
//! The row of the cursor is below `rows`. Its column is at most `columns`: there, the next character goes to the next row, so that a full line needs no second line end.

use super::{Cell, Cells, Ink, Place};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;

const TAB: usize = 8;
/// The most parameters of a sequence that are kept.
const PARAMETERS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    /// The parameters so far, and which one is being read.
    Sequence([u16; PARAMETERS], usize),
}

/// A terminal of at most `N` characters.
#[derive(Clone, Debug)]
pub struct Terminal<const N: usize> {
    cells: Cells<N>,
    column: usize,
    row: usize,
    ink: Ink,
    state: State,
    shows_cursor: bool,
}

impl<const N: usize> Default for Terminal<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Terminal<N> {
    /// A terminal without a size, to which nothing can be written.
    #[must_use]
    pub const fn new() -> Self {
        Self { cells: Cells::new(), column: 0, row: 0, ink: Ink::Text, state: State::Ground, shows_cursor: false }
    }

    /// Gives it a size, and forgets everything. Where there are too many characters, columns come before rows.
    pub fn resize(&mut self, columns: usize, rows: usize) {
        self.cells.resize(columns, rows);
        (self.column, self.row, self.ink, self.state) = (0, 0, Ink::Text, State::Ground);
    }

    /// Rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.cells.rows()
    }

    /// Whether the cursor is shown.
    pub fn show_cursor(&mut self, shown: bool) {
        self.shows_cursor = shown;
    }

    /// Somebody else has drawn there: everything is to be drawn again.
    pub fn redraw(&mut self) {
        self.cells.redraw();
    }

    /// Takes what is to be shown. Draws nothing; takes time in proportion to the bytes, and for each row that is scrolled away, to the cells.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.cells.columns() == 0 || self.cells.rows() == 0 {
            return;
        }
        for byte in bytes {
            self.take(*byte);
        }
    }

    fn take(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (_, 0x1b) => State::Escape,
            (State::Ground, _) => {
                self.plain(byte);
                State::Ground
            }
            (State::Escape, b'[') => State::Sequence([0; PARAMETERS], 0),
            (State::Escape, _) => State::Ground,
            (State::Sequence(mut parameters, index), b'0'..=b'9') => {
                if let Some(parameter) = parameters.get_mut(index) {
                    *parameter = parameter.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
                State::Sequence(parameters, index)
            }
            (State::Sequence(parameters, index), b';') => State::Sequence(parameters, index.saturating_add(1)),
            (State::Sequence(parameters, index), b' '..=b'?') => State::Sequence(parameters, index),
            (State::Sequence(parameters, index), _) => {
                self.sequence(parameters, index, byte);
                State::Ground
            }
        };
    }

    fn plain(&mut self, byte: u8) {
        match byte {
            b'\n' => self.next_row(),
            b'\r' => self.column = 0,
            0x08 => self.column = self.at().saturating_sub(1),
            b'\t' => self.column = ((self.column / TAB + 1) * TAB).min(self.cells.columns() - 1),
            b' '..=b'~' => self.character(byte),
            // The first byte of a character of several.
            0xc0.. => self.character(b'?'),
            _ => {}
        }
    }

    fn character(&mut self, byte: u8) {
        if self.column >= self.cells.columns() {
            self.next_row();
        }
        self.cells.put(self.column, self.row, Cell::new(byte, self.ink));
        self.column += 1;
    }

    fn next_row(&mut self) {
        self.column = 0;
        if self.row + 1 < self.cells.rows() {
            self.row += 1;
        } else {
            self.cells.scroll();
        }
    }

    /// The column that the cursor is seen in.
    fn at(&self) -> usize {
        self.column.min(self.cells.columns().saturating_sub(1))
    }

    fn sequence(&mut self, parameters: [u16; PARAMETERS], last: usize, end: u8) {
        let [first, second, ..] = parameters.map(usize::from);
        let (columns, rows, at) = (self.cells.columns(), self.cells.rows(), self.at());
        let count = first.max(1);
        match end {
            b'A' => self.row = self.row.saturating_sub(count),
            b'B' => self.row = (self.row + count).min(rows - 1),
            b'C' => self.column = (at + count).min(columns - 1),
            b'D' => self.column = at.saturating_sub(count),
            b'H' => {
                self.row = (count - 1).min(rows - 1);
                self.column = (second.max(1) - 1).min(columns - 1);
            }
            b'K' => self.erase_in_row(first),
            b'J' => {
                self.erase_in_row(first);
                let others = match first {
                    0 => self.row + 1..rows,
                    1 => 0..self.row,
                    2 => 0..rows,
                    _ => return,
                };
                others.for_each(|row| self.cells.blank(0..columns, row));
            }
            b'm' => parameters.iter().take(last.saturating_add(1)).for_each(|parameter| self.color(*parameter)),
            _ => {}
        }
    }

    fn erase_in_row(&mut self, what: usize) {
        let at = self.at();
        let part = match what {
            // Behind a full row nothing is erased: the cursor is not on its last character yet.
            0 => self.column..self.cells.columns(),
            1 => 0..at + 1,
            2 => 0..self.cells.columns(),
            _ => return,
        };
        self.cells.blank(part, self.row);
    }

    fn color(&mut self, parameter: u16) {
        self.ink = match parameter {
            0 | 39 | 37 => Ink::Text,
            1 | 97 => Ink::Bright,
            2 | 30 | 90 => Ink::Faint,
            31 | 91 => Ink::Bad,
            32 | 92 => Ink::Good,
            33 | 93 => Ink::Warning,
            34 | 36 | 94 | 96 => Ink::Accent,
            35 | 95 => Ink::Other,
            _ => return,
        };
    }

    /// Draws what has changed in a row.
    ///
    /// # Errors
    ///
    /// Those of `target`.
    pub fn draw_row<D: DrawTarget<Color = Rgb888>>(
        &mut self,
        row: usize,
        place: &Place<'_>,
        target: &mut D,
    ) -> Result<(), D::Error> {
        let cursor = (self.shows_cursor && row == self.row).then(|| self.at());
        self.cells.draw_row(row, cursor, place, target)
    }

    /// Draws what has changed.
    ///
    /// # Errors
    ///
    /// Those of `target`.
    pub fn draw<D: DrawTarget<Color = Rgb888>>(&mut self, place: &Place<'_>, target: &mut D) -> Result<(), D::Error> {
        (0..self.rows()).try_for_each(|row| self.draw_row(row, place, target))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
