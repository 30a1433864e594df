//! Enumerations that travel as numbers: in a register, or as a program's argument.

/// Declares one. Each value is written once, with its number; the list of all values and the way from a value to its number and back are made from that, so that none can be forgotten in one of them.
macro_rules! numbered {
    (
        $(#[$about:meta])*
        pub enum $name:ident: $integer:ident {
            $($(#[$meaning:meta])* $value:ident = $number:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($integer)]
        pub enum $name {
            $($(#[$meaning])* $value = $number,)+
        }

        impl $name {
            /// All of them, in the order of the numbers.
            pub const ALL: [Self; [$($number),+].len()] = [$(Self::$value),+];

            /// The number that stands for it.
            #[must_use]
            pub const fn number(self) -> $integer {
                self as $integer
            }

            /// The one with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: $integer) -> Option<Self> {
                match number {
                    $($number => Some(Self::$value),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use numbered;

#[cfg(test)]
#[expect(unreachable_pub, reason = "what is declared so is public")]
mod tests {
    numbered! {
        /// With a gap, as a number leaves that is not used any more.
        pub enum Sample: u16 {
            /// The first.
            First = 1,
            /// Behind the gap.
            Last = 7,
        }
    }

    #[test]
    fn numbers_round_trip_and_others_are_refused() {
        assert_eq!(Sample::ALL, [Sample::First, Sample::Last]);
        assert_eq!(Sample::ALL.map(Sample::number), [1, 7]);
        for number in [0, 1, 2, 6, 7, 8, u16::MAX] {
            assert_eq!(Sample::from_number(number).map(Sample::number), [1, 7].contains(&number).then_some(number));
        }
    }
}
