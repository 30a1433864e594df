//! Names for addresses of the kernel, for its backtraces.
//!
//! A backtrace is printed when something has gone wrong, so this needs no memory and trusts nothing. It works on text in the boot
//! module: a line `HEXADDRESS NAME` per symbol, sorted by address. A line that is not such is passed over; lines that are out of order cost
//! names, never more.

use core::fmt;

/// The symbols of the kernel, as text.
#[derive(Clone, Copy, Debug)]
pub struct Symbols<'a> {
    text: &'a [u8],
}

/// The symbol that an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name, demangled. It may hold spaces.
    pub name: &'a str,
    /// Its address.
    pub address: u64,
    /// How far behind it the address lies.
    pub offset: u64,
}

/// Writes `name+0xOFFSET`.
impl fmt::Display for Symbol<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}+{:#x}", self.name, self.offset)
    }
}

impl<'a> Symbols<'a> {
    /// No symbols: every lookup finds nothing.
    pub const NONE: Self = Self { text: &[] };

    /// Uses `text`, whatever it holds. Looks at nothing yet.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text }
    }

    /// The last symbol that is not behind `address`, or `None` where `address` lies before the first. A binary search in the text:
    /// some twenty lines are looked at, and nothing is allocated.
    ///
    /// A caller that walks a stack asks for `return address - 1`: a call that never returns may be the last
    /// instruction of its function.
    #[must_use]
    pub fn lookup(&self, address: u64) -> Option<Symbol<'a>> {
        let mut found = None;
        // Lines that start in `low..high` are still candidates. Both are starts of lines, or the end of the text.
        let mut low = 0;
        let mut high = self.text.len();
        while low < high {
            let middle = self.line_start(low + (high - low) / 2);
            match self.first_symbol(middle, high) {
                Some((symbol, name, next)) if symbol <= address => {
                    found = Some((symbol, name));
                    low = next;
                }
                // Behind the address, or no symbol at all: only what comes before can hold it.
                _ => high = middle,
            }
        }
        found.map(|(symbol, name)| Symbol { name, address: symbol, offset: address - symbol })
    }

    /// The address of the first symbol of this name. Looks at every line.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<u64> {
        let mut start = 0;
        while let Some((address, found, next)) = self.first_symbol(start, self.text.len()) {
            if found == name {
                return Some(address);
            }
            start = next;
        }
        None
    }

    /// The start of the line that the byte at `position` belongs to.
    fn line_start(&self, position: usize) -> usize {
        self.text
            .get(..position)
            .and_then(|before| before.iter().rposition(|byte| *byte == b'\n'))
            .map_or(0, |newline| newline + 1)
    }

    /// The first well-formed line that starts in `start..end`, and where the line after it starts.
    fn first_symbol(&self, start: usize, end: usize) -> Option<(u64, &'a str, usize)> {
        let mut start = start;
        while start < end {
            let rest = self.text.get(start..)?;
            let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let next = (start + length + 1).min(self.text.len());
            if let Some((address, name)) = rest.get(..length).and_then(parse_line) {
                return Some((address, name, next));
            }
            start = next;
        }
        None
    }
}

/// Reads `HEXADDRESS NAME`.
fn parse_line(line: &[u8]) -> Option<(u64, &str)> {
    let line = core::str::from_utf8(line).ok()?;
    let (address, name) = line.trim_end().split_once(' ')?;
    // The standard parser takes a sign, which no address has.
    if address.starts_with('+') || name.is_empty() {
        return None;
    }
    let address = address.strip_prefix("0x").unwrap_or(address);
    Some((u64::from_str_radix(address, 16).ok()?, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"ffffffff80100000 start\n\
        ffffffff80100040 <core::fmt::Formatter as core::fmt::Write>::write_str\n\
        ffffffff80100100 last\n";

    fn name(text: &[u8], address: u64) -> Option<String> {
        Symbols::new(text).lookup(address).map(|symbol| symbol.to_string())
    }

    #[test]
    fn finds_the_symbol_before_an_address() {
        assert_eq!(name(TEXT, 0xffff_ffff_8010_0000).as_deref(), Some("start+0x0"));
        assert_eq!(name(TEXT, 0xffff_ffff_8010_003f).as_deref(), Some("start+0x3f"));
        assert_eq!(
            name(TEXT, 0xffff_ffff_8010_0044).as_deref(),
            Some("<core::fmt::Formatter as core::fmt::Write>::write_str+0x4")
        );
        assert_eq!(name(TEXT, u64::MAX).as_deref(), Some("last+0x7feffeff"));
        assert_eq!(name(TEXT, 0xffff_ffff_800f_ffff), None);
        assert_eq!(name(TEXT, 0), None);
    }

    #[test]
    fn finds_the_address_of_a_name() {
        let symbols = Symbols::new(TEXT);
        assert_eq!(symbols.address_of("start"), Some(0xffff_ffff_8010_0000));
        assert_eq!(symbols.address_of("last"), Some(0xffff_ffff_8010_0100));
        assert_eq!(
            symbols.address_of("<core::fmt::Formatter as core::fmt::Write>::write_str"),
            Some(0xffff_ffff_8010_0040)
        );
        for name in ["", "star", "start ", "ffffffff80100000 start"] {
            assert_eq!(symbols.address_of(name), None, "{name}");
        }
        assert_eq!(Symbols::new(b"junk\n10 a\n\n20 a").address_of("a"), Some(0x10));
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(Symbols::NONE.lookup(5), None);
        assert_eq!(name(b"\n\n\n", 5), None);
        assert_eq!(name(b"no symbols here", 5), None);
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        let text = b"junk\n10 a\n\n+11 sign\n12\n13 \n\xff\xff bad\n0x20 b\r\nzz c\n123456789012345678 long\n30 d";
        for (address, expected) in [
            (0x0f, None),
            (0x10, Some("a+0x0")),
            (0x1f, Some("a+0xf")),
            (0x20, Some("b+0x0")),
            (0x2f, Some("b+0xf")),
            (0x30, Some("d+0x0")),
            (0x99, Some("d+0x69")),
        ] {
            assert_eq!(name(text, address).as_deref(), expected, "{address:#x}");
        }
    }

    proptest! {
        /// The binary search finds what looking at every line finds, also with junk between the lines.
        #[test]
        fn agrees_with_looking_at_every_line(
            mut lines in prop::collection::vec((0_u64..2000, "[a-z]{1,12}", "(|junk\n|\n\n|12\n){0,3}"), 0..40),
            address in 0_u64..2100,
        ) {
            lines.sort();
            lines.dedup_by_key(|line| line.0);
            let text: String = lines
                .iter()
                .map(|(address, name, junk)| format!("{junk}{address:x} {name}\n"))
                .collect();
            let expected = lines.iter().rfind(|line| line.0 <= address);
            let found = Symbols::new(text.as_bytes()).lookup(address);
            prop_assert_eq!(
                found.map(|symbol| (symbol.address, symbol.name, symbol.offset)),
                expected.map(|line| (line.0, line.1.as_str(), address - line.0))
            );
        }

        /// Text out of order or no text at all ends the search like any other.
        #[test]
        fn any_bytes_never_crash(
            text in prop::collection::vec(prop::sample::select(b"0123456789abcdef \n\n\xffz".to_vec()), 0..300),
            address: u64,
        ) {
            if let Some(symbol) = Symbols::new(&text).lookup(address) {
                prop_assert!(symbol.address <= address);
            }
        }
    }
}
