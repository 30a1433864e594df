//! What a program finds at its start.

use crate::START_HANDLES_MAX;

/// Names something that the kernel keeps for a process. 0 is never a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Handle(pub u64);

impl Handle {
    /// No handle.
    pub const NONE: Self = Self(0);

    /// Whether it names something (which may have been closed since).
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// What the kernel leaves in the memory of a new program; `rdi` holds its address at the entry.
///
/// Every field has a value that means "none", so that a program can be started without it.
///
/// ```text
///   offset  0 size         8 argument     16 area          24 area_size
///          32 framebuffer 40 width, 44 height, 48 pitch, 52 reserved
///          56 kernel, five addresses
///          96 console       104 physical   112 handles, eight
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StartInformation {
    /// The size of this structure in bytes, so that it can grow at its end.
    pub size: u64,
    /// Which instance, or which test: see [`roles`](crate::roles). 0 where there is only one.
    pub argument: u64,
    /// An area that was handed to the program, with read and write access, or [`Handle::NONE`].
    pub area: Handle,
    /// The size of that area in bytes.
    pub area_size: u64,
    /// The framebuffer as an area (`pitch * height` bytes, rounded up to a page; 32-bit pixels,
    /// `0x00RRGGBB` in little-endian order), or [`Handle::NONE`]. It may be a part of the screen.
    pub framebuffer: Handle,
    /// Pixels per row, or 0.
    pub width: u32,
    /// Rows, or 0.
    pub height: u32,
    /// Bytes from one row to the next, or 0.
    pub pitch: u32,
    /// Zero.
    pub reserved: u32,
    /// For the tests of the kernel: addresses of its half that are mapped and in use, which the program must not be able to
    /// access. Zero where there is none.
    pub kernel: [u64; KERNEL_ADDRESSES],
    /// The log, to write to, or [`Handle::NONE`]: it may be one of `handles`.
    pub console: Handle,
    /// The machine's device memory, or [`Handle::NONE`]: it may be one of `handles`.
    pub physical: Handle,
    /// What the process that started this one passed on, in its order; behind that [`Handle::NONE`].
    pub handles: [Handle; START_HANDLES_MAX],
}

/// How many addresses of the kernel's half a test is told.
pub const KERNEL_ADDRESSES: usize = 5;

impl StartInformation {
    /// A start with nothing but an argument.
    #[must_use]
    pub const fn new(argument: u64) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            argument,
            area: Handle::NONE,
            area_size: 0,
            framebuffer: Handle::NONE,
            width: 0,
            height: 0,
            pitch: 0,
            reserved: 0,
            kernel: [0; KERNEL_ADDRESSES],
            console: Handle::NONE,
            physical: Handle::NONE,
            handles: [Handle::NONE; START_HANDLES_MAX],
        }
    }

    /// The bytes, as they are laid out in the program's memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let words = [
            self.size,
            self.argument,
            self.area.0,
            self.area_size,
            self.framebuffer.0,
            u64::from(self.width) | u64::from(self.height) << 32,
            u64::from(self.pitch) | u64::from(self.reserved) << 32,
        ];
        let given = [self.console, self.physical].into_iter().chain(self.handles).map(|handle| handle.0);
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words.into_iter().chain(self.kernel).chain(given)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_the_documented_one() {
        assert_eq!(size_of::<StartInformation>(), 176);
        assert_eq!(offset_of!(StartInformation, argument), 8);
        assert_eq!(offset_of!(StartInformation, area), 16);
        assert_eq!(offset_of!(StartInformation, framebuffer), 32);
        assert_eq!(offset_of!(StartInformation, width), 40);
        assert_eq!(offset_of!(StartInformation, height), 44);
        assert_eq!(offset_of!(StartInformation, pitch), 48);
        assert_eq!(offset_of!(StartInformation, kernel), 56);
        assert_eq!(offset_of!(StartInformation, console), 96);
        assert_eq!(offset_of!(StartInformation, physical), 104);
        assert_eq!(offset_of!(StartInformation, handles), 112);
    }

    #[test]
    fn bytes_agree_with_the_layout() {
        let information = StartInformation {
            area: Handle(3),
            area_size: 0x2000,
            framebuffer: Handle(4),
            width: 640,
            height: 480,
            pitch: 4096,
            kernel: [5, 6, 7, 8, 9],
            console: Handle(10),
            physical: Handle(11),
            handles: [12, 13, 14, 15, 16, 17, 18, 19].map(Handle),
            ..StartInformation::new(7)
        };
        let bytes = information.to_bytes();
        let at = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
        assert_eq!(at(0), 176);
        assert_eq!(at(offset_of!(StartInformation, argument)), 7);
        assert_eq!(at(offset_of!(StartInformation, area)), 3);
        assert_eq!(at(offset_of!(StartInformation, area_size)), 0x2000);
        assert_eq!(at(offset_of!(StartInformation, framebuffer)), 4);
        assert_eq!(at(offset_of!(StartInformation, width)), 640);
        assert_eq!(at(offset_of!(StartInformation, height)), 480);
        assert_eq!(at(offset_of!(StartInformation, pitch)), 4096);
        assert_eq!(at(offset_of!(StartInformation, kernel)), 5);
        assert_eq!(at(offset_of!(StartInformation, kernel) + 32), 9);
        assert_eq!(at(offset_of!(StartInformation, console)), 10);
        assert_eq!(at(offset_of!(StartInformation, physical)), 11);
        assert_eq!(at(offset_of!(StartInformation, handles)), 12);
        assert_eq!(at(offset_of!(StartInformation, handles) + 56), 19);
    }
}
