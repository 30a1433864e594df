//! What the kernel counts.

/// Something that the kernel counts, for whoever measures ([`SystemCall::KernelCount`](crate::SystemCall::KernelCount)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Count {
    /// Page faults that were answered so that the program went on.
    Faults = 0,
    /// Interrupts of the processors' timers.
    TimerInterrupts = 1,
    /// Interrupts that one processor has sent to make another one forget translations.
    FlushInterrupts = 2,
}

impl Count {
    /// Everything that is counted, in the order of the numbers.
    pub const ALL: [Self; 3] = [Self::Faults, Self::TimerInterrupts, Self::FlushInterrupts];

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
        for count in Count::ALL {
            assert_eq!(Count::from_number(count.number()), Some(count));
        }
        assert_eq!((Count::from_number(3), Count::from_number(u64::MAX)), (None, None));
    }
}
