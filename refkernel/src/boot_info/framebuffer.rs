//! The screen as memory: where its pixels lie, and which bits of one are which colour.

use super::{BootError, PhysicalRange};

/// Where a colour lies in a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its lowest bit.
    pub shift: u8,
    /// Its width in bits.
    pub size: u8,
}

/// A linear framebuffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Physical address of the first pixel.
    pub physical: u64,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub pitch: u32,
    /// Bits of a pixel in memory.
    pub bits_per_pixel: u16,
    /// The red channel.
    pub red: Channel,
    /// The green channel.
    pub green: Channel,
    /// The blue channel.
    pub blue: Channel,
}

impl Framebuffer {
    /// Whether a pixel is 0x00RRGGBB in a little-endian word, the one format that the kernel and its programs draw in.
    #[must_use]
    pub fn is_xrgb(&self) -> bool {
        let wanted = [(self.red, 16), (self.green, 8), (self.blue, 0)];
        self.bits_per_pixel == 32
            && wanted.iter().all(|(channel, shift)| *channel == Channel { shift: *shift, size: 8 })
    }

    /// The memory that it occupies.
    ///
    /// # Errors
    ///
    /// [`BootError::BadFramebuffer`] when pixels are not of 32 bits, a row does not fit in the pitch or a channel in a
    /// pixel, or the memory is not a range of physical addresses.
    pub fn range(&self) -> Result<PhysicalRange, BootError> {
        let error = BootError::BadFramebuffer(*self);
        let row = u64::from(self.width) * 4;
        let channels = [self.red, self.green, self.blue];
        let fits = channels.iter().all(|c| u16::from(c.shift) + u16::from(c.size) <= 32 && c.size != 0);
        if self.bits_per_pixel != 32 || row == 0 || u64::from(self.pitch) < row || !fits {
            return Err(error);
        }
        // Two 32-bit factors: the product fits in 64 bits.
        PhysicalRange::new(self.physical, u64::from(self.pitch) * u64::from(self.height)).map_err(|_| error)
    }
}
