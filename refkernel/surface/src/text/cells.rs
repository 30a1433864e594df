//! Characters in memory: what is to be shown, and what is.
//!
//! ```text
//!   wanted   v m >   h e l p _        a run of cells that differ is drawn at once, one row of pixels after another:
//!   shown    v m >                    so a write-combining surface gets long writes in the order of addresses
//!                    └──────┘ drawn
//! ```
//!
//! # Invariants
//!
//! Of the cells only the first `columns * rows` count, in the order of reading. What `shown` says of a cell is what was drawn there last, or that this is not known.

use super::Glyphs;
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

/// In what colour a character is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ink {
    /// Running text.
    #[default]
    Text,
    /// What matters most.
    Bright,
    /// What matters least.
    Faint,
    /// Headings, the prompt.
    Accent,
    /// What went well.
    Good,
    /// What deserves a look.
    Warning,
    /// What went wrong.
    Bad,
    /// What is none of these.
    Other,
}

impl Ink {
    const ALL: [Self; 8] =
        [Self::Text, Self::Bright, Self::Faint, Self::Accent, Self::Good, Self::Warning, Self::Bad, Self::Other];
}

/// The colours of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    /// Behind the characters.
    pub ground: Rgb888,
    /// Of the characters, in the order of [`Ink`].
    pub inks: [Rgb888; Ink::ALL.len()],
}

impl Palette {
    /// Light on dark blue: the colours of Okabe and Ito, which people with any kind of colour vision can tell apart.
    pub const DARK: Self = Self {
        ground: Rgb888::new(13, 17, 26),
        inks: [
            Rgb888::new(205, 214, 228),
            Rgb888::new(245, 248, 252),
            Rgb888::new(132, 146, 170),
            Rgb888::new(86, 180, 233),
            Rgb888::new(0, 178, 130),
            Rgb888::new(240, 165, 10),
            Rgb888::new(236, 112, 40),
            Rgb888::new(214, 130, 178),
        ],
    };

    fn ink(&self, ink: Ink) -> Rgb888 {
        self.inks.get(ink as usize).copied().unwrap_or(self.ground)
    }
}

/// A character with its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell(u16);

impl Cell {
    /// Nothing.
    pub const BLANK: Self = Self(b' ' as u16);
    /// What no character is: a cell that was never drawn.
    const UNKNOWN: Self = Self(u16::MAX);
    const INVERSE: u16 = 1 << 15;

    /// A character of ASCII; what is not printable is shown as a space.
    #[must_use]
    pub const fn new(character: u8, ink: Ink) -> Self {
        Self(character as u16 | (ink as u16) << 8)
    }

    /// The same with the colours of character and ground exchanged.
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(self.0 ^ Self::INVERSE)
    }

    const fn character(self) -> u8 {
        self.0 as u8
    }

    fn ink(self) -> Ink {
        Ink::ALL.get(usize::from(self.0 >> 8 & 0x7f)).copied().unwrap_or_default()
    }

    /// Its colours: of set and of other pixels.
    fn colors(self, palette: &Palette) -> (Rgb888, Rgb888) {
        let (ink, ground) = (palette.ink(self.ink()), palette.ground);
        if self.0 & Self::INVERSE == 0 { (ink, ground) } else { (ground, ink) }
    }
}

/// Where and how cells are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The upper left corner of the first cell.
    pub origin: Point,
    /// The shapes.
    pub glyphs: &'a Glyphs,
    /// The colours.
    pub palette: &'a Palette,
}

/// At most `N` cells in rows.
#[derive(Clone, Debug)]
pub struct Cells<const N: usize> {
    wanted: [Cell; N],
    shown: [Cell; N],
    columns: usize,
    rows: usize,
}

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Cells<N> {
    /// No cells.
    #[must_use]
    pub const fn new() -> Self {
        Self { wanted: [Cell::BLANK; N], shown: [Cell::UNKNOWN; N], columns: 0, rows: 0 }
    }

    /// Makes it so many cells, all blank and to be drawn. Where there are too many, columns come before rows.
    pub fn resize(&mut self, columns: usize, rows: usize) {
        self.columns = columns.min(N);
        self.rows = rows.min(N.checked_div(self.columns).unwrap_or(0));
        self.wanted.fill(Cell::BLANK);
        self.redraw();
    }

    /// Cells in a row.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Somebody else has drawn there: every cell is to be drawn again.
    pub fn redraw(&mut self) {
        self.shown.fill(Cell::UNKNOWN);
    }

    /// Sets a cell; one that is outside is passed over.
    pub fn put(&mut self, column: usize, row: usize, cell: Cell) {
        if column >= self.columns || row >= self.rows {
            return;
        }
        if let Some(place) = self.wanted.get_mut(row * self.columns + column) {
            *place = cell;
        }
    }

    /// Writes a text from a cell on, as far as the row goes.
    pub fn write(&mut self, column: usize, row: usize, ink: Ink, text: &str) {
        for (column, character) in (column..self.columns).zip(text.bytes()) {
            self.put(column, row, Cell::new(character, ink));
        }
    }

    /// Blanks a part of a row.
    pub fn blank(&mut self, columns: core::ops::Range<usize>, row: usize) {
        if row < self.rows {
            let (start, end) = (columns.start.min(self.columns), columns.end.min(self.columns));
            let cells = self.wanted.get_mut(row * self.columns + start..row * self.columns + end);
            cells.unwrap_or_default().fill(Cell::BLANK);
        }
    }

    /// Moves every row one up; the last one becomes blank. Nothing is drawn.
    pub fn scroll(&mut self) {
        let count = self.columns * self.rows;
        let Some(cells) = self.wanted.get_mut(..count) else { return };
        cells.copy_within(self.columns.min(count).., 0);
        self.blank(0..self.columns, self.rows.saturating_sub(1));
    }

    /// Draws what has changed in a row; `cursor` is the column of a cell that is shown inverse.
    ///
    /// # Errors
    ///
    /// Those of `target`.
    pub fn draw_row<D: DrawTarget<Color = Rgb888>>(
        &mut self,
        row: usize,
        cursor: Option<usize>,
        place: &Place<'_>,
        target: &mut D,
    ) -> Result<(), D::Error> {
        if row >= self.rows {
            return Ok(());
        }
        let range = row * self.columns..(row + 1) * self.columns;
        let (Some(wanted), Some(shown)) = (self.wanted.get(range.clone()), self.shown.get_mut(range)) else {
            return Ok(());
        };
        let look = |column: usize| {
            let cell = wanted.get(column).copied().unwrap_or(Cell::BLANK);
            if cursor == Some(column) { cell.inverse() } else { cell }
        };
        let size = place.glyphs.size();
        let mut column = 0;
        while column < shown.len() {
            let differ = shown.iter().enumerate().skip(column).take_while(|(at, shown)| **shown != look(*at));
            let end = column + differ.count();
            if end == column {
                column += 1;
                continue;
            }
            let corner = place.origin + Point::new(column as i32 * size.width as i32, row as i32 * size.height as i32);
            let area = Rectangle::new(corner, Size::new((end - column) as u32 * size.width, size.height));
            let colors = (0..size.height).flat_map(|y| {
                (column..end).map(look).flat_map(move |cell| {
                    let (ink, ground) = cell.colors(place.palette);
                    let bits = place.glyphs.row(cell.character(), y);
                    (0..size.width).map(move |x| if bits << x & 0x80 == 0 { ground } else { ink })
                })
            });
            target.fill_contiguous(&area, colors)?;
            for (at, shown) in shown.iter_mut().enumerate().take(end).skip(column) {
                *shown = look(at);
            }
            column = end;
        }
        Ok(())
    }
}
