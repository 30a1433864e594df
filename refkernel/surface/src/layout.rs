//! Who gets which rectangle of the screen.
//!
//! ```text
//!   +-----------------------------------------+------------------+
//!   | console: the kernel's log, and the      | view: memory as  |
//!   | inspector's prompt                      | it is, live      |
//!   |                                         |                  |
//!   |            (or both: the picture)       |                  |
//!   +-----------------------------------------+------------------+
//!   | program: whole rows, on pages of their own                 |
//!   +------------------------------------------------------------+
//! ```
//!
//! # Invariants
//!
//! No two rectangles have a pixel in common, and all are on the screen. The program's rows begin on a page and end with the screen, so that a window onto them
//! shows nothing of the kernel's part.

use crate::text::FONT;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

/// Bytes in a page.
const PAGE_SIZE: u64 = 4096;
/// Pixels around everything.
const MARGIN: u32 = 8;
/// The width of the view.
const VIEW: u32 = 352;
/// A console with fewer columns has all of the width.
const COLUMNS_MIN: u32 = 72;

/// The rows at the bottom of the screen that a program may draw into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramStrip {
    /// The first row; the picture stays above it.
    pub first_row: u32,
    /// How many rows.
    pub rows: u32,
    /// Where it starts in the framebuffer: a multiple of the page size.
    pub offset: u64,
    /// Its bytes, rounded up to whole pages.
    pub length: u64,
}

/// Finds rows for a program on a screen of `height` rows that are `pitch` bytes apart. They start on a page; `None` where the pitch allows none in
/// the lower half.
#[must_use]
pub fn program_strip(height: u32, pitch: u32) -> Option<ProgramStrip> {
    let wanted = height - height / 8;
    let on_a_page = |row: &u32| (u64::from(*row) * u64::from(pitch)).is_multiple_of(PAGE_SIZE);
    let first_row = (height / 2..=wanted).rev().find(on_a_page)?;
    let rows = height - first_row;
    let length = u64::from(rows) * u64::from(pitch);
    (rows > 0 && pitch > 0).then(|| ProgramStrip {
        first_row,
        rows,
        offset: u64::from(first_row) * u64::from(pitch),
        length: length.next_multiple_of(PAGE_SIZE),
    })
}

/// The rectangles of a screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The screen.
    pub screen: Size,
    /// What is not a program's: where the picture may be instead of console and view.
    pub upper: Rectangle,
    /// Whole characters.
    pub console: Rectangle,
    /// `None` on a screen that is too small for both.
    pub view: Option<Rectangle>,
    /// `None` where no row starts on a page.
    pub program: Option<ProgramStrip>,
}

impl Layout {
    /// The layout of a screen of `width` by `height` pixels, with rows that are `pitch` bytes apart.
    #[must_use]
    pub fn new(width: u32, height: u32, pitch: u32) -> Self {
        let program = program_strip(height, pitch);
        let upper = Size::new(width, program.map_or(height, |strip| strip.first_row));
        let inner = Size::new(width.saturating_sub(2 * MARGIN), upper.height.saturating_sub(2 * MARGIN));
        let character = FONT.character_size;
        let beside = inner.width.saturating_sub(VIEW + MARGIN) / character.width;
        let has_view = beside >= COLUMNS_MIN;
        let columns = if has_view { beside } else { inner.width / character.width };
        let corner = Point::new_equal(MARGIN as i32);
        let whole = Size::new(columns * character.width, inner.height / character.height * character.height);
        let view = has_view.then(|| {
            Rectangle::new(Point::new((width - MARGIN - VIEW) as i32, MARGIN as i32), Size::new(VIEW, inner.height))
        });
        Self {
            screen: Size::new(width, height),
            upper: Rectangle::new(Point::zero(), upper),
            console: Rectangle::new(corner, whole),
            view,
            program,
        }
    }

    /// Characters in a row of the console, and its rows.
    #[must_use]
    pub fn console_cells(&self) -> (usize, usize) {
        let (size, character) = (self.console.size, FONT.character_size);
        ((size.width / character.width) as usize, (size.height / character.height) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_are_on_the_screen_and_apart() {
        for (width, height) in
            [(1024, 768), (1280, 800), (1920, 1080), (3840, 2160), (800, 600), (640, 480), (320, 200), (10, 10), (1, 1)]
        {
            let layout = Layout::new(width, height, width * 4);
            let screen = Rectangle::new(Point::zero(), Size::new(width, height));
            let inside = |part: &Rectangle| part.is_zero_sized() || screen.intersection(part) == *part;
            assert!(inside(&layout.console) && inside(&layout.upper), "{layout:?}");
            assert!(layout.console.is_zero_sized() || layout.upper.intersection(&layout.console) == layout.console);
            if let Some(view) = layout.view {
                assert!(layout.upper.intersection(&view) == view, "{layout:?}");
                assert!(view.intersection(&layout.console).is_zero_sized(), "{layout:?}");
            }
            if let Some(program) = layout.program {
                assert_eq!(program.first_row, layout.upper.size.height);
                assert_eq!(program.first_row + program.rows, height);
                assert_eq!(program.offset, u64::from(program.first_row) * u64::from(width * 4));
                assert!(program.offset.is_multiple_of(PAGE_SIZE) && program.length.is_multiple_of(PAGE_SIZE));
            }
        }
    }

    #[test]
    fn the_usual_screen_has_room_for_the_longest_answers() {
        let layout = Layout::new(1024, 768, 4096);
        assert_eq!(layout.console_cells(), (108, 50));
        assert!(layout.view.is_some() && layout.program.is_some());
        assert!(Layout::new(800, 600, 3200).view.is_none());
    }
}
