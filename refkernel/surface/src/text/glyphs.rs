//! A font as rows of bits, so that drawing looks up a byte for each row of a character instead of a pixel at a time.

use embedded_graphics::image::GetPixel;
use embedded_graphics::mono_font::MonoFont;
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::*;

/// The printable characters of ASCII.
const COUNT: usize = 95;
/// The most rows of a character.
const HEIGHT_MAX: usize = 16;
/// The most pixels of a row: the bits of a byte.
const WIDTH_MAX: u32 = 8;

/// The printable characters of ASCII: a byte for each row, its highest bit at the left.
#[derive(Clone, Debug)]
pub struct Glyphs {
    rows: [[u8; HEIGHT_MAX]; COUNT],
    width: u32,
    height: u32,
}

impl Glyphs {
    /// Those of a font; of a larger font than 8 by 16 pixels, the upper left part.
    #[must_use]
    pub fn of(font: &MonoFont<'_>) -> Self {
        let size = font.character_size;
        let (width, height) = (size.width.clamp(1, WIDTH_MAX), size.height.min(HEIGHT_MAX as u32));
        let mut rows = [[0; HEIGHT_MAX]; COUNT];
        let per_row = (font.image.size().width / size.width.max(1)).max(1);
        for (character, glyph) in (b' '..).zip(&mut rows) {
            let index = u32::try_from(font.glyph_mapping.index(char::from(character))).unwrap_or(0);
            let corner = Point::new((index % per_row * size.width) as i32, (index / per_row * size.height) as i32);
            for (y, bits) in (0..height).zip(glyph) {
                for x in 0..width {
                    if font.image.pixel(corner + Point::new(x as i32, y as i32)) == Some(BinaryColor::On) {
                        *bits |= 0x80 >> x;
                    }
                }
            }
        }
        Self { rows, width, height }
    }

    /// Pixels of a character.
    #[must_use]
    pub const fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// A row of a character, the leftmost pixel in the highest bit; that of a space for what is no printable character.
    #[inline]
    #[must_use]
    pub fn row(&self, character: u8, row: u32) -> u8 {
        let glyph = self.rows.get(usize::from(character.wrapping_sub(b' ')));
        glyph.and_then(|glyph| glyph.get(row as usize)).copied().unwrap_or(0)
    }
}
