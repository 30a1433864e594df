//! Numbers as a person reads them.

use core::fmt;

/// An amount of memory. Shows itself with the unit that leaves at most four digits, and one decimal where it is not whole; the
/// text obeys the formatter's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = (self.0.max(1).ilog2() / 10).min(6);
        let unit = UNITS.get(power as usize).copied().unwrap_or_default();
        let one = 1_u64 << (10 * power);
        let whole = self.0 / one;
        // Below one unit, so ten times as much does not overflow: the largest unit is 2^60.
        let tenth = (self.0 % one) * 10 / one;
        let mut text = Text::<16>::new();
        if tenth == 0 {
            text.append(format_args!("{whole} {unit}"));
        } else {
            text.append(format_args!("{whole}.{tenth} {unit}"));
        }
        formatter.pad(text.as_str())
    }
}

/// A share of a whole in per cent, with one decimal. Something that is not nothing is at least 0.1, and something
/// that is not all is at most 99.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent {
    pub(super) part: u64,
    pub(super) whole: u64,
}

impl fmt::Display for Percent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, whole } = *self;
        let exact = u128::from(part) * 1000 / u128::from(whole.max(1));
        let tenths = match exact {
            0 if part > 0 => 1,
            1000 if part < whole => 999,
            tenths => tenths,
        };
        let mut text = Text::<24>::new();
        text.append(format_args!("{}.{} %", tenths / 10, tenths % 10));
        formatter.pad(text.as_str())
    }
}

/// Text of at most `N` bytes, made without memory from anywhere; what is longer is cut.
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub(super) fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Text from its parts.
    pub(super) fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        text.append(arguments);
        text
    }

    pub(super) fn append(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing into a `Text` never fails; a part that fails on its own leaves what there is.
        let _ = fmt::Write::write_fmt(self, arguments);
    }

    pub(super) fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut encoded = [0; 4];
            let encoded = character.encode_utf8(&mut encoded).as_bytes();
            let end = self.length + encoded.len();
            let Some(place) = self.bytes.get_mut(self.length..end) else {
                break;
            };
            place.copy_from_slice(encoded);
            self.length = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (6 << 10, "6 KiB"),
            (1536, "1.5 KiB"),
            (256 << 20, "256 MiB"),
            ((1 << 30) - 4096, "1023.9 MiB"),
            (5 << 30, "5 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("[{:>9}]", Bytes(4096)), "[    4 KiB]");
    }

    #[test]
    fn percent_never_hides_something() {
        let percent = |part, whole| Percent { part, whole }.to_string();
        assert_eq!(percent(0, 10), "0.0 %");
        assert_eq!(percent(10, 10), "100.0 %");
        assert_eq!(percent(1, 1_000_000), "0.1 %");
        assert_eq!(percent(999_999, 1_000_000), "99.9 %");
        assert_eq!(percent(1, 0), "100.0 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0 %");
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(Text::<4>::of(format_args!("{}", "abcdef")).as_str(), "abcd");
        assert_eq!(Text::<4>::of(format_args!("abcé")).as_str(), "abc");
    }
}
