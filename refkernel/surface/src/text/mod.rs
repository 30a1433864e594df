//! Text on a surface.
//!
//! ```text
//!   bytes ──► Terminal (cursor, line ends, escapes) ──┐
//!                                                     ├──► Cells: what is wanted, what is shown ──► the cells that differ, drawn
//!   a view that writes at places of its choice ───────┘
//! ```
//!
//! | file | what lives there |
//! |---|---|
//! | `cells` | characters in memory, and the drawing of those that changed |
//! | `glyphs` | a font as rows of bits |
//! | `terminal` | what bytes do to the cells |
//!
//! Text lives in ordinary memory; the surface is only written, never read, since reading what is write-combining is many times slower than drawing it again.

mod cells;
mod glyphs;
mod terminal;

pub use cells::{Cell, Cells, Ink, Palette, Place};
pub use glyphs::Glyphs;
pub use terminal::Terminal;

use embedded_graphics::mono_font::{MonoFont, ascii};

/// The font of the console and of the live view.
pub const FONT: &MonoFont<'static> = &ascii::FONT_6X13;
