//! What a handle allows.

use core::fmt;
use core::ops::BitOr;

use crate::Access;
use crate::numbered::numbered;

/// What a handle allows. A handle made of another one ([`SystemCall::HandleDuplicate`](crate::SystemCall::HandleDuplicate)) has at most that one's rights; none ever gets more.
///
/// ```text
///   63                       9    8      7     6      5      4      3    2    1    0
///  +--------------------------+------+-----+------+-------+--------+-----+----+----+----+
///  |  must be zero            | WAIT | END | PHYS | SHARE | RESIZE | MAP | X  | W  | R  |
///  +--------------------------+------+-----+------+-------+--------+-----+----+----+----+
/// ```
///
/// | | area | process | channel's end | console | physical memory |
/// |---|---|---|---|---|---|
/// | `READ` | windows to read | | receiving | | |
/// | `WRITE` | windows to write | | sending | writing | |
/// | `EXECUTE` | windows to execute | | | | |
/// | `MAP` | windows | | | | |
/// | `RESIZE` | another size | | | | |
/// | `SHARE` | further handles, and giving it away | as for areas | as for areas | as for areas | as for areas |
/// | `PHYSICAL` | | | | | areas of device memory |
/// | `END` | | ending it | | | |
/// | `WAIT` | | waiting for its end | | | |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rights(u64);

impl Rights {
    /// No right. Such a handle keeps what it names, and can be closed.
    pub const NONE: Self = Self(0);
    /// To read, or to receive.
    pub const READ: Self = Self(Access::READ.bits());
    /// To write, or to send.
    pub const WRITE: Self = Self(Access::WRITE.bits());
    /// To execute.
    pub const EXECUTE: Self = Self(Access::EXECUTE.bits());
    /// To make windows; each needs the rights of its access as well.
    pub const MAP: Self = Self(1 << 3);
    /// To change the size.
    pub const RESIZE: Self = Self(1 << 4);
    /// To make further handles, and to pass this one on to another process.
    pub const SHARE: Self = Self(1 << 5);
    /// To make areas of the machine's device memory.
    pub const PHYSICAL: Self = Self(1 << 6);
    /// To end a process.
    pub const END: Self = Self(1 << 7);
    /// To wait for the end of a process.
    pub const WAIT: Self = Self(1 << 8);
    /// Every right.
    pub const ALL: Self = Self((1 << 9) - 1);

    /// What comes with an area that a program makes: not to execute it, since code comes with the program.
    pub const OWN_AREA: Self = Self::READ.union(Self::WRITE).union(Self::MAP).union(Self::RESIZE).union(Self::SHARE);
    /// What comes with an area that was handed over, or one of device memory: as [`OWN_AREA`](Self::OWN_AREA), but for the size.
    pub const GIVEN_AREA: Self = Self::READ.union(Self::WRITE).union(Self::MAP).union(Self::SHARE);
    /// What comes with a process that a program makes.
    pub const PROCESS: Self = Self::END.union(Self::WAIT).union(Self::SHARE);
    /// What comes with each end of a channel.
    pub const CHANNEL: Self = Self::READ.union(Self::WRITE).union(Self::SHARE);

    /// The rights that these bits say, or `None` where one has no meaning.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 { Some(Self(bits)) } else { None }
    }

    /// The bits, as they go into a register.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every right of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The rights of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

const LETTERS: [(Rights, &str); 9] = [
    (Rights::READ, "r"),
    (Rights::WRITE, "w"),
    (Rights::EXECUTE, "x"),
    (Rights::MAP, "m"),
    (Rights::RESIZE, "z"),
    (Rights::SHARE, "s"),
    (Rights::PHYSICAL, "p"),
    (Rights::END, "e"),
    (Rights::WAIT, "t"),
];

/// Writes a letter for each right, with a dash for what is not there.
impl fmt::Display for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (right, letter) in LETTERS {
            formatter.write_str(if self.contains(right) { letter } else { "-" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Rights({self})")
    }
}

numbered! {
    /// What a handle names.
    #[non_exhaustive]
    pub enum HandleKind: u32 {
        /// Memory.
        Area = 1,
        /// A process.
        Process = 2,
        /// One end of a channel.
        Channel = 3,
        /// The log.
        Console = 4,
        /// The machine's device memory.
        Physical = 5,
    }
}

impl HandleKind {
    /// What [`SystemCall::HandleInspect`](crate::SystemCall::HandleInspect) gives for a handle of this kind with these rights: the kind in the
    /// high half, the rights in the low half.
    #[must_use]
    pub const fn with_rights(self, rights: Rights) -> u64 {
        (self as u64) << 32 | rights.bits()
    }

    /// The kind and the rights behind such a number.
    #[must_use]
    pub fn and_rights(number: u64) -> Option<(Self, Rights)> {
        Some((Self::from_number((number >> 32) as u32)?, Rights::from_bits(number & u64::from(u32::MAX))?))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn only_meaningful_bits_are_rights() {
        assert_eq!(Rights::from_bits(0), Some(Rights::NONE));
        assert_eq!(Rights::from_bits(0x1ff), Some(Rights::ALL));
        for bits in [1 << 9, 1 << 32, 1 << 63, u64::MAX] {
            assert_eq!(Rights::from_bits(bits), None, "{bits:#x}");
        }
        let union = LETTERS.iter().fold(Rights::NONE, |sum, (right, _)| sum | *right);
        assert_eq!(union, Rights::ALL, "each right has a letter");
    }

    #[test]
    fn shows_its_letters_and_loses_rights() {
        assert_eq!(Rights::OWN_AREA.to_string(), "rw-mzs---");
        assert_eq!(Rights::OWN_AREA.without(Rights::SHARE | Rights::WAIT).to_string(), "rw-mz----");
    }

    #[test]
    fn kind_and_rights_share_a_number() {
        for kind in HandleKind::ALL {
            for rights in [Rights::NONE, Rights::ALL, Rights::CHANNEL] {
                assert_eq!(HandleKind::and_rights(kind.with_rights(rights)), Some((kind, rights)));
            }
        }
        for number in [0, 6 << 32, 1 << 32 | 1 << 9, u64::MAX] {
            assert_eq!(HandleKind::and_rights(number), None);
        }
    }
}
