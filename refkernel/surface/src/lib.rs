//! A drawing surface over the memory of a framebuffer, for the `embedded-graphics` crate: used by the kernel for its picture, and
//! by programs for the window that they were handed.
//!
//! ```text
//!   first ->| x ............... width |  padding |      pixel (x, y) at first + y * pitch + 4 * x
//!           |<------------- pitch ------------->|      0x00RRGGBB, little-endian
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`layout`] | who gets which rectangle of the screen |
//! | [`text`] | characters in memory, and on a surface what has changed of them |
//!
//! # Invariants
//!
//! `width * 4 <= pitch`, and `height * pitch` bytes fit the address space. Nothing outside the pixels is ever written: what is drawn elsewhere is cut off.

#![no_std]
#![warn(missing_docs)]

pub mod layout;
pub mod text;

use core::convert::Infallible;
use core::fmt;
use core::marker::PhantomData;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

/// Bytes per pixel.
const PIXEL_SIZE: usize = 4;

/// Why memory cannot be drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SurfaceError {
    /// There is no pixel.
    Empty,
    /// A row of pixels is longer than the distance between rows.
    PitchTooSmall {
        /// Pixels per row.
        width: u32,
        /// Bytes from one row to the next.
        pitch: u32,
    },
    /// A row does not start on a whole pixel.
    Unaligned {
        /// Bytes from one row to the next.
        pitch: u32,
    },
    /// The rows do not fit the memory (or the address space).
    TooLarge {
        /// Bytes that the rows take.
        needed: u64,
    },
}

impl fmt::Display for SurfaceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("the surface has no pixel"),
            Self::PitchTooSmall { width, pitch } => {
                write!(formatter, "rows of {width} pixels do not fit a pitch of {pitch} bytes")
            }
            Self::Unaligned { pitch } => {
                write!(formatter, "a pitch of {pitch} bytes, or its memory, is not whole pixels")
            }
            Self::TooLarge { needed } => {
                write!(formatter, "the rows take {needed} bytes, more than there are")
            }
        }
    }
}

impl core::error::Error for SurfaceError {}

/// Pixels in memory that somebody shows. Writes are never left out or reordered by the compiler, since the reader is not part of the
/// program.
#[derive(Debug)]
pub struct Surface<'memory> {
    first: *mut u32,
    width: u32,
    height: u32,
    /// Pixels from one row to the next.
    stride: usize,
    memory: PhantomData<&'memory mut [u32]>,
}

// SAFETY: the surface owns its memory as `&mut [u32]` would, which may be sent.
unsafe impl Send for Surface<'_> {}

impl<'memory> Surface<'memory> {
    /// A surface over a framebuffer.
    ///
    /// # Errors
    ///
    /// [`SurfaceError`], where the numbers contradict one another.
    ///
    /// # Safety
    ///
    /// `height * pitch` bytes from `first` on stay mapped and writable for `'memory`, and nothing else of this program
    /// writes them meanwhile (somebody who shows them may read).
    pub unsafe fn new(first: *mut u32, width: u32, height: u32, pitch: u32) -> Result<Self, SurfaceError> {
        if width == 0 || height == 0 || first.is_null() {
            return Err(SurfaceError::Empty);
        }
        if !first.is_aligned() || !(pitch as usize).is_multiple_of(PIXEL_SIZE) {
            return Err(SurfaceError::Unaligned { pitch });
        }
        if u64::from(width) * PIXEL_SIZE as u64 > u64::from(pitch) {
            return Err(SurfaceError::PitchTooSmall { width, pitch });
        }
        let needed = u64::from(height) * u64::from(pitch);
        if isize::try_from(needed).is_err() || i32::try_from(width.max(height)).is_err() {
            return Err(SurfaceError::TooLarge { needed });
        }
        Ok(Self { first, width, height, stride: pitch as usize / PIXEL_SIZE, memory: PhantomData })
    }

    /// A surface over ordinary memory, with rows of `pitch` bytes.
    ///
    /// # Errors
    ///
    /// [`SurfaceError`], where the memory is too small or the numbers contradict one another.
    pub fn over(memory: &'memory mut [u32], width: u32, height: u32, pitch: u32) -> Result<Self, SurfaceError> {
        let needed = u64::from(height) * u64::from(pitch);
        if needed > size_of_val(memory) as u64 {
            return Err(SurfaceError::TooLarge { needed });
        }
        // SAFETY: the memory is borrowed exclusively for `'memory`, and was found large enough.
        unsafe { Self::new(memory.as_mut_ptr(), width, height, pitch) }
    }

    /// Writes one pixel, which must be inside.
    ///
    /// # Safety
    ///
    /// `x < width` and `y < height`.
    unsafe fn put(&mut self, x: usize, y: usize, color: Rgb888) {
        // SAFETY: `y * stride + x` is below `height * stride`, which is mapped (promise of `new`), and does not
        // overflow since `height * pitch` fits `isize`.
        unsafe {
            self.first.add(y * self.stride + x).write_volatile(color.into_storage());
        }
    }
}

impl OriginDimensions for Surface<'_> {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}

impl DrawTarget for Surface<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        let (width, height) = (self.width, self.height);
        for Pixel(point, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y)) else {
                continue;
            };
            if x < width && y < height {
                // SAFETY: just compared.
                unsafe { self.put(x as usize, y as usize, color) };
            }
        }
        Ok(())
    }

    // Whole rows at a time: what is write-combining is written in the order of its addresses.
    fn fill_contiguous<I>(&mut self, area: &Rectangle, colors: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Rgb888>,
    {
        if area.intersection(&self.bounding_box()) != *area {
            return self.draw_iter(area.points().zip(colors).map(|(point, color)| Pixel(point, color)));
        }
        let mut colors = colors.into_iter();
        for y in area.rows() {
            for x in area.columns() {
                let Some(color) = colors.next() else { return Ok(()) };
                // SAFETY: the area is within the bounding box, which holds only points from (0, 0) up to its size.
                unsafe { self.put(x as usize, y as usize, color) };
            }
        }
        Ok(())
    }

    fn fill_solid(&mut self, area: &Rectangle, color: Rgb888) -> Result<(), Infallible> {
        let inside = area.intersection(&self.bounding_box());
        for y in inside.rows() {
            for x in inside.columns() {
                // SAFETY: the intersection with the bounding box holds only points from (0, 0) up to its size.
                unsafe { self.put(x as usize, y as usize, color) };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use embedded_graphics::primitives::PrimitiveStyle;

    use super::*;

    const RED: Rgb888 = Rgb888::new(255, 0, 0);

    #[test]
    fn pixels_land_at_their_place() {
        let mut memory = vec![0; 8 * 4];
        let mut surface = Surface::over(&mut memory, 6, 4, 32).unwrap();
        Pixel(Point::new(2, 1), Rgb888::new(1, 2, 3)).draw(&mut surface).unwrap();
        Pixel(Point::new(5, 3), RED).draw(&mut surface).unwrap();
        assert_eq!(memory[8 + 2], 0x0001_0203);
        assert_eq!(memory[3 * 8 + 5], 0x00ff_0000);
        assert_eq!(memory.iter().filter(|pixel| **pixel != 0).count(), 2);
    }

    #[test]
    fn colors_in_a_row_land_row_by_row() {
        let inside = Rectangle::new(Point::new(1, 1), Size::new(3, 2));
        let across = Rectangle::new(Point::new(4, 2), Size::new(3, 4));
        for area in [inside, across] {
            // One colour less than there are pixels: the last one stays.
            let count = area.size.width * area.size.height - 1;
            let colors = || (1..=count).map(|blue| Rgb888::new(0, 0, blue as u8));
            let mut memory = vec![0; 8 * 4];
            let mut surface = Surface::over(&mut memory, 6, 4, 32).unwrap();
            surface.fill_contiguous(&area, colors()).unwrap();
            let mut other = vec![0; 8 * 4];
            let mut pixels = Surface::over(&mut other, 6, 4, 32).unwrap();
            pixels.draw_iter(area.points().zip(colors()).map(|(point, color)| Pixel(point, color))).unwrap();
            assert_eq!(memory, other);
            assert_ne!(memory, [0; 32]);
        }
    }

    #[test]
    fn what_is_outside_is_cut_off() {
        let mut memory = vec![7; 8 * 6];
        // The last row of memory and the last two columns are not part of the surface.
        let mut surface = Surface::over(&mut memory, 6, 5, 32).unwrap();
        let style = PrimitiveStyle::with_fill(RED);
        Rectangle::new(Point::new(-10, -10), Size::new(100, 100)).into_styled(style).draw(&mut surface).unwrap();
        for point in [(-1, 0), (0, -1), (6, 0), (0, 5), (i32::MAX, i32::MAX), (i32::MIN, 0)] {
            Pixel(Point::new(point.0, point.1), RED).draw(&mut surface).unwrap();
        }
        for (index, pixel) in memory.iter().enumerate() {
            let inside = index % 8 < 6 && index / 8 < 5;
            assert_eq!(*pixel, if inside { 0x00ff_0000 } else { 7 }, "{index}");
        }
    }

    #[test]
    fn numbers_that_contradict_are_refused() {
        let mut memory = vec![0; 64];
        let mut refused = |width, height, pitch| Surface::over(&mut memory, width, height, pitch).err();
        assert_eq!(refused(0, 4, 32), Some(SurfaceError::Empty));
        assert_eq!(refused(4, 0, 32), Some(SurfaceError::Empty));
        assert_eq!(refused(9, 4, 32), Some(SurfaceError::PitchTooSmall { width: 9, pitch: 32 }));
        assert_eq!(refused(4, 4, 33), Some(SurfaceError::Unaligned { pitch: 33 }));
        assert_eq!(refused(8, 9, 32), Some(SurfaceError::TooLarge { needed: 288 }));
        assert!(refused(8, 8, 32).is_none());
        assert!(matches!(refused(u32::MAX, u32::MAX, u32::MAX), Some(SurfaceError::TooLarge { .. })));
    }
}
