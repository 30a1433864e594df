//! Addresses, frame numbers and ranges: plain numbers that cannot be mixed up.
//!
//! `VirtAddr` and `PhysAddr` hold any 64-bit number. What makes an address *valid* is known to the MMU alone
//! (width, canonical rule, page size), so a [`PageRange`] is made by an MMU value
//! ([`Mmu::range`](crate::paging::Mmu::range)) and is from then on aligned, non-empty, canonical and within one half of
//! the address space. Ranges are checked once, when they are made; nothing after that checks them again.
//!
//! A range may end at the very top of the address space, where its exclusive end would be 2^64. It is therefore kept
//! as start and size, and asked for its [`last`](PageRange::last) byte rather than for its end.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this number, in bytes.
            #[inline]
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The address as a number, in bytes.
            #[inline]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the last 64-bit number.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The bytes from `earlier` to this address, or `None` if it lies behind.
            #[inline]
            pub const fn checked_offset_from(self, earlier: Self) -> Option<u64> {
                self.0.checked_sub(earlier.0)
            }

            /// The address rounded down to a multiple of 2^`shift` bytes; 0 where `shift` is 64 or more.
            #[inline]
            pub const fn align_down(self, shift: u32) -> Self {
                match u64::MAX.checked_shl(shift) {
                    Some(mask) => Self(self.0 & mask),
                    None => Self(0),
                }
            }

            /// Whether the address is a multiple of 2^`shift` bytes.
            #[inline]
            pub const fn is_aligned(self, shift: u32) -> bool {
                self.align_down(shift).0 == self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A virtual address: any 64-bit number, valid or not. Sign-extended where the format's upper half is.
    VirtAddr,
    "v"
);
address!(
    /// A physical address: any 64-bit number, whatever the width of the host.
    PhysAddr,
    "p"
);

/// The number of a frame: a page of physical memory, counted from physical address 0 in units of the platform's page
/// size ([`Frames::PAGE_SHIFT`](crate::frame::Frames::PAGE_SHIFT)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Frame(u64);

impl Frame {
    /// The frame with this number.
    #[inline]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame's number: its physical address divided by the page size.
    #[inline]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The frame that holds `address`, with pages of 2^`page_shift` bytes.
    #[inline]
    pub const fn containing(address: PhysAddr, page_shift: u32) -> Self {
        Self(address.0 >> (page_shift & 63))
    }

    /// The physical address of the frame's first byte, with pages of 2^`page_shift` bytes.
    ///
    /// A number that is no frame of any machine gives an address with its upper bits cut off.
    #[inline]
    pub const fn start(self, page_shift: u32) -> PhysAddr {
        PhysAddr(self.0 << (page_shift & 63))
    }

    /// The frame `count` further on; wraps at 2^64 (no machine has such a frame).
    #[inline]
    pub const fn add(self, count: u64) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.0)
    }
}

/// A non-empty run of frames with consecutive numbers, none of which passes 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRange {
    first: Frame,
    count: u64,
}

impl FrameRange {
    /// The run of `count` frames from `first`.
    ///
    /// # Errors
    /// `None` where `count` is 0 or the run passes the last 64-bit number.
    #[inline]
    pub const fn new(first: Frame, count: u64) -> Option<Self> {
        if count == 0 || first.0.checked_add(count).is_none() {
            return None;
        }
        Some(Self { first, count })
    }

    /// The first frame.
    #[inline]
    pub const fn first(self) -> Frame {
        self.first
    }

    /// How many frames; at least one.
    #[inline]
    pub const fn count(self) -> u64 {
        self.count
    }

    /// Whether `frame` is one of them.
    #[inline]
    pub const fn contains(self, frame: Frame) -> bool {
        frame.0 >= self.first.0 && frame.0 - self.first.0 < self.count
    }

    /// Whether the two runs share a frame.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first.0 < other.first.0 + other.count && other.first.0 < self.first.0 + self.count
    }
}

impl fmt::Debug for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frames {:#x}+{:#x}", self.first.0, self.count)
    }
}

/// A range of virtual pages: page-aligned, non-empty, canonical and within one half of the address space by construction.
///
/// Made by an MMU value, which alone knows the rule: [`Mmu::range`](crate::paging::Mmu::range). Start and size are in
/// bytes.
///
/// ```
/// use vmcore::paging::{Mmu, X86_64};
/// let mmu = X86_64::new(40);
/// let range = mmu.range(0x20_0000, 0x3000).unwrap();
/// assert_eq!((range.start().as_u64(), range.size(), range.last().as_u64()), (0x20_0000, 0x3000, 0x20_2fff));
/// assert!(mmu.range(0x20_0001, 0x3000).is_err(), "unaligned");
/// assert!(mmu.range(0x7fff_ffff_f000, 0x2000).is_err(), "crosses the canonical hole");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: VirtAddr,
    size: u64,
}

impl PageRange {
    /// The range of `size` bytes from `start`, for callers that have checked what the type promises.
    #[inline]
    pub(crate) const fn from_checked(start: VirtAddr, size: u64) -> Self {
        debug_assert!(size != 0 && start.0.checked_add(size - 1).is_some());
        Self { start, size }
    }

    /// The range from `start` to `last`, both inside a range that was checked; `last` is the address of its last byte.
    #[inline]
    pub(crate) const fn from_bounds(start: VirtAddr, last: VirtAddr) -> Self {
        debug_assert!(start.0 <= last.0);
        Self { start, size: (last.0 - start.0).wrapping_add(1) }
    }

    /// The address of the first byte.
    #[inline]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// The size in bytes; a multiple of the page size, never 0.
    #[inline]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The address of the last byte.
    #[inline]
    pub const fn last(self) -> VirtAddr {
        VirtAddr(self.start.0.wrapping_add(self.size - 1))
    }

    /// How many pages of 2^`page_shift` bytes.
    #[inline]
    pub const fn pages(self, page_shift: u32) -> u64 {
        self.size >> (page_shift & 63)
    }

    /// Whether `address` lies inside.
    #[inline]
    pub const fn contains(self, address: VirtAddr) -> bool {
        address.0 >= self.start.0 && address.0 - self.start.0 < self.size
    }

    /// Whether the whole of `other` lies inside.
    #[inline]
    pub const fn covers(self, other: Self) -> bool {
        self.contains(other.start) && self.contains(other.last())
    }

    /// Whether the two share an address.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 <= other.last().0 && other.start.0 <= self.last().0
    }

    /// What the two share.
    #[inline]
    pub const fn intersection(self, other: Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        let start = if self.start.0 > other.start.0 { self.start } else { other.start };
        let last = if self.last().0 < other.last().0 { self.last() } else { other.last() };
        Some(Self::from_bounds(start, last))
    }

    /// What of this range lies below `other`.
    #[inline]
    pub const fn before(self, other: Self) -> Option<Self> {
        if self.start.0 >= other.start.0 {
            return None;
        }
        let last = if self.last().0 < other.start.0 { self.last() } else { VirtAddr(other.start.0 - 1) };
        Some(Self::from_bounds(self.start, last))
    }

    /// What of this range lies above `other`.
    #[inline]
    pub const fn after(self, other: Self) -> Option<Self> {
        if self.last().0 <= other.last().0 {
            return None;
        }
        let start = if self.start.0 > other.last().0 { self.start } else { VirtAddr(other.last().0 + 1) };
        Some(Self::from_bounds(start, self.last()))
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.start.0, self.last().0)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start.0, self.size)
    }
}

/// Why an address and a size are not a [`PageRange`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RangeFault {
    /// The size is 0.
    Empty,
    /// The start or the size is no multiple of the page size.
    Unaligned,
    /// The last byte would lie past the last 64-bit number.
    Overflow,
    /// The format has no such address, or start and end lie on different sides of the canonical hole.
    NonCanonical,
    /// The range lies outside the part of the address space that it was asked for.
    OutsideSpace,
}

/// An address and a size that make no [`PageRange`], and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeError {
    /// What is wrong with them.
    pub fault: RangeFault,
    /// The start that was given, in bytes.
    pub start: u64,
    /// The size that was given, in bytes.
    pub size: u64,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, remedy) = match self.fault {
            RangeFault::Empty => ("is empty", "give at least one page"),
            RangeFault::Unaligned => ("is not made of whole pages", "align start and size to the page size"),
            RangeFault::Overflow => ("ends past the last address", "give a smaller size"),
            RangeFault::NonCanonical => {
                ("is not within one half of the address space", "stay on one side of the canonical hole")
            }
            RangeFault::OutsideSpace => ("lies outside the space", "stay within the space's bounds"),
        };
        write!(f, "the range {:#x}+{:#x} {what}: {remedy}", self.start, self.size)
    }
}

impl core::error::Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_range_at_the_top_of_the_address_space() {
        let all = PageRange::from_bounds(VirtAddr::new(0xffff_8000_0000_0000), VirtAddr::new(u64::MAX));
        let top = PageRange::from_checked(VirtAddr::new(0xffff_ffff_ffff_f000), 0x1000);
        assert_eq!(top.last().as_u64(), u64::MAX);
        assert!(all.covers(top) && all.overlaps(top));
        assert_eq!(all.after(top), None);
        assert_eq!(all.before(top).map(|r| r.last().as_u64()), Some(0xffff_ffff_ffff_efff));
        assert_eq!(all.intersection(top), Some(top));
    }

    #[test]
    fn page_count_is_not_alignment() {
        let page = PageRange::from_checked(VirtAddr::new(0x1000), 0x1000);
        assert_eq!(page.pages(12), 1);
        let largest = PageRange::from_checked(VirtAddr::new(0), 1 << 47);
        assert_eq!(largest.pages(12), 1 << 35);
        assert_eq!(FrameRange::new(Frame::new(1), 0), None);
        assert_eq!(FrameRange::new(Frame::new(u64::MAX), 2), None);
    }

    #[test]
    fn shifts_past_the_word_are_no_overflow() {
        assert_eq!(VirtAddr::new(u64::MAX).align_down(64), VirtAddr::new(0));
        assert_eq!(VirtAddr::new(0x1fff).align_down(12), VirtAddr::new(0x1000));
    }
}
