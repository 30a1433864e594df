//! What the demo draws into the part of the screen that it was handed.

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_10X20};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Baseline, Text};
use refkernel_runtime::roles::ScreenSize;
use refkernel_runtime::say;
use refkernel_surface::Surface;

/// Pixels per side of a tile of the pattern.
const TILE: u32 = 8;

/// Draws through the window at `address`, which shows a part of the screen of this size.
pub(crate) fn draw(address: u64, size: ScreenSize) {
    let ScreenSize { width, height, pitch } = size;
    // SAFETY: the kernel mapped `pitch * height` bytes there to be read and written, and only this function uses them.
    let surface = unsafe { Surface::new(address as *mut u32, width, height, pitch) };
    match surface {
        Ok(mut surface) => {
            pattern(&mut surface);
            words(&mut surface);
        }
        Err(error) => say!("demo: the framebuffer that it was handed is no surface: {error}"),
    }
}

/// A weave of tiles from deep blue on the left to green on the right.
fn pattern(surface: &mut Surface<'_>) {
    let size = surface.size();
    let columns = size.width.div_ceil(TILE);
    let rows = size.height.div_ceil(TILE);
    for row in 0..rows {
        for column in 0..columns {
            let share = column * 255 / columns.max(1);
            let weave = (column ^ row).count_ones() * 6;
            let color = Rgb888::new(
                (12 + weave) as u8,
                (28 + share * 90 / 255 + weave) as u8,
                (92 - share * 30 / 255 + weave) as u8,
            );
            let corner = Point::new((column * TILE) as i32, (row * TILE) as i32);
            let _ = surface.fill_solid(&Rectangle::new(corner, Size::new_equal(TILE - 1)), color);
        }
    }
}

/// Says who drew this.
fn words(surface: &mut Surface<'_>) {
    let middle = surface.size().height as i32 / 2;
    let large = MonoTextStyle::new(&FONT_10X20, Rgb888::new(255, 255, 255));
    let small = MonoTextStyle::new(&FONT_6X10, Rgb888::new(205, 225, 235));
    let shade = Rectangle::new(Point::new(16, middle - 22), Size::new(540, 44));
    let _ = surface.fill_solid(&shade, Rgb888::new(10, 20, 38));
    for (text, style, top) in [
        ("demo: drawn by a user program in ring 3", large, middle - 18),
        ("through a write-combining window onto an area of the framebuffer", small, middle + 5),
    ] {
        let _ = Text::with_baseline(text, Point::new(28, top), style, Baseline::Top).draw(surface);
    }
}
