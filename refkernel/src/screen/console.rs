//! The kernel's log and the inspector's prompt as text on the screen.
//!
//! # Invariants
//!
//! The lock of the text is held for the bytes of a line, or for the drawing of one row of it: whoever logs waits no longer than that. It is taken behind the
//! serial line's.

use super::Brush;
use crate::memory::Mutex;
use core::sync::atomic::{AtomicBool, Ordering};
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::primitives::Rectangle;
use refkernel::surface::layout::Layout;
use refkernel::surface::text::{FONT, Glyphs, Palette, Place, Terminal};
use spin::Once;

/// The most characters on the screen: 204 columns of 80 rows.
const CELLS: usize = 1 << 14;

static TERMINAL: Mutex<Terminal<CELLS>> = Mutex::new(Terminal::new());
/// Something was written since the last drawing.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// The shapes of the characters.
pub(super) fn glyphs() -> &'static Glyphs {
    static GLYPHS: Once<Glyphs> = Once::new();
    GLYPHS.call_once(|| Glyphs::of(FONT))
}

/// Gives the text its size.
pub(super) fn prepare(layout: &Layout) {
    // Not when it is too late to wait for whoever else makes them.
    glyphs();
    let (columns, rows) = layout.console_cells();
    TERMINAL.lock().resize(columns, rows);
}

/// Takes bytes of the log or of the prompt. Without a screen this is nothing.
pub(crate) fn put(bytes: &[u8]) {
    TERMINAL.lock().write(bytes);
    CHANGED.store(true, Ordering::Release);
}

/// See [`super::show_cursor`].
pub(super) fn show_cursor(shown: bool) {
    TERMINAL.lock().show_cursor(shown);
    CHANGED.store(true, Ordering::Release);
}

/// Paints the kernel's part of the screen, so that all of the text has to be drawn again.
pub(super) fn clear(brush: &mut Brush, layout: &Layout) {
    let screen = Rectangle::new(embedded_graphics::geometry::Point::zero(), layout.screen);
    // The program's rows are its own as soon as there is one.
    let whole = super::SHOWN.load(Ordering::SeqCst) == super::NOTHING;
    let Ok(()) = brush.fill_solid(if whole { &screen } else { &layout.upper }, Palette::DARK.ground);
    TERMINAL.lock().redraw();
    CHANGED.store(true, Ordering::Release);
}

/// Draws what has changed.
pub(super) fn draw(brush: &mut Brush, layout: &Layout) {
    if !CHANGED.swap(false, Ordering::Acquire) {
        return;
    }
    let place = Place { origin: layout.console.top_left, glyphs: glyphs(), palette: &Palette::DARK };
    let rows = TERMINAL.lock().rows();
    for row in 0..rows {
        let Ok(()) = TERMINAL.lock().draw_row(row, &place, &mut **brush);
    }
}

/// See [`super::seize`].
///
/// # Safety
///
/// The holder of the lock must never run again.
pub(super) unsafe fn seize() {
    if TERMINAL.is_locked() {
        // SAFETY: by the contract nobody continues in the critical section that is broken into. The characters are bytes in an array, of which a
        // few may be of before.
        unsafe { TERMINAL.raw().break_open() };
    }
}
