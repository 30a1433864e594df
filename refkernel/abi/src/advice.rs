//! What a program says about memory, and how device memory is cached.

/// What [`SystemCall::AreaAdvise`](crate::SystemCall::AreaAdvise) is told about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Advice {
    /// It is used soon: what is there is shown now, so that reading it does not fault. No page is made.
    Needed = 0,
    /// Its contents are not needed any more. Memory that nothing else reaches (a window whose area has no handle, and that no other window shows) reads as zero from then on, and its
    /// frames are free; all other memory stays.
    NotNeeded = 1,
    /// As [`NotNeeded`](Self::NotNeeded), when the kernel wants the frames: until then an access finds what was there.
    FreeLazily = 2,
    /// Large pages are wanted.
    Huge = 3,
    /// Large pages are not wanted.
    NeverHuge = 4,
}

impl Advice {
    /// Every advice, in the order of the numbers.
    pub const ALL: [Self; 5] = [Self::Needed, Self::NotNeeded, Self::FreeLazily, Self::Huge, Self::NeverHuge];

    /// The number that goes into a register.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// The advice with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// How accesses to device memory are cached ([`SystemCall::PhysicalArea`](crate::SystemCall::PhysicalArea)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Caching {
    /// Each access reaches the device, in order: registers.
    Uncached = 0,
    /// Writes are gathered: pixels.
    WriteCombining = 1,
}

impl Caching {
    /// Every kind of it, in the order of the numbers.
    pub const ALL: [Self; 2] = [Self::Uncached, Self::WriteCombining];

    /// The number that goes into a register.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// The one with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_others_are_refused() {
        for advice in Advice::ALL {
            assert_eq!(Advice::from_number(advice.number()), Some(advice));
        }
        for caching in Caching::ALL {
            assert_eq!(Caching::from_number(caching.number()), Some(caching));
        }
        assert_eq!((Advice::from_number(5), Caching::from_number(2)), (None, None));
        assert_eq!((Advice::from_number(u64::MAX), Caching::from_number(1 << 32)), (None, None));
    }
}
