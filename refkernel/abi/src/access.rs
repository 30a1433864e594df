//! What a window allows.

use core::fmt;
use core::ops::BitOr;

/// The access that a program asks for when it maps an area.
///
/// ```text
///   63                                3   2    1    0
///  +-----------------------------------+----+----+----+
///  |  must be zero                     | X  | W  | R  |
///  +-----------------------------------+----+----+----+
/// ```
///
/// Write and execute are never granted together, and each includes read: x86 cannot withhold it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access(u64);

impl Access {
    /// May be read.
    pub const READ: Self = Self(1 << 0);
    /// May be written.
    pub const WRITE: Self = Self(1 << 1);
    /// May be executed.
    pub const EXECUTE: Self = Self(1 << 2);
    /// May be read and written.
    pub const READ_WRITE: Self = Self(Self::READ.0 | Self::WRITE.0);

    /// The access that these bits ask for, or `None` where they ask for nothing, hold a bit that has no meaning, or ask for write
    /// and execute together ([`ErrorCode::BadAccess`](crate::ErrorCode::BadAccess)).
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        let access = Self(bits);
        let write_and_execute = access.contains(Self::WRITE) && access.contains(Self::EXECUTE);
        if bits == 0 || bits > 0b111 || write_and_execute { None } else { Some(access) }
    }

    /// The bits, as they go into a register.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every bit of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Writes `rwx` with a dash for what is not allowed.
impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::EXECUTE, "x")] {
            formatter.write_str(if self.contains(bit) { letter } else { "-" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Access({self})")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn only_meaningful_bits_are_an_access() {
        let accepted: std::vec::Vec<u64> = (0..64).filter(|bits| Access::from_bits(*bits).is_some()).collect();
        assert_eq!(accepted, [1, 2, 3, 4, 5]);
        assert_eq!(Access::from_bits(1 << 63 | 1), None);
    }

    #[test]
    fn shows_its_letters() {
        assert_eq!((Access::READ | Access::WRITE).to_string(), "rw-");
        assert_eq!((Access::READ | Access::EXECUTE).to_string(), "r-x");
    }
}
