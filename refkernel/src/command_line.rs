//! The words that the kernel was started with, as typed options.
//!
//! The command line comes from a bootloader, so it may hold anything: it is bytes, not text, of any length. Parsing never
//! fails. What is not understood is kept, in order, to be reported on the serial line; nothing else about it matters.
//!
//! # Invariants
//!
//! Only the first [`LENGTH_MAX`] bytes are looked at, and a NUL byte ends the line earlier. At most
//! [`UNKNOWN_MAX`] unknown words are kept; the rest are counted.

use core::fmt;

use refkernel_abi::roles::BenchRole;

/// The most bytes that are looked at.
pub const LENGTH_MAX: usize = 4096;

/// The most unknown words that are kept.
pub const UNKNOWN_MAX: usize = 8;

/// A test that ends the machine, and so must be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndingTest {
    /// Loads an empty descriptor table and traps: the machine resets itself.
    TripleFault,
    /// Recurses until the kernel stack meets its guard page.
    StackOverflow,
    /// Panics.
    Panic,
    /// Does nothing for ever.
    Silence,
}

impl EndingTest {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::TripleFault, Self::StackOverflow, Self::Panic, Self::Silence];

    /// The name after `test=`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TripleFault => "triple-fault",
            Self::StackOverflow => "stack-overflow",
            Self::Panic => "panic",
            Self::Silence => "silence",
        }
    }
}

/// The tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tests<'a> {
    /// None.
    #[default]
    None,
    /// `test`: every test that the machine survives.
    All,
    /// `test=NAME`: of those, the ones whose name contains this.
    Named(Word<'a>),
    /// `test=attacks`: the table of attacks alone.
    Attacks,
    /// `test=faults`: the table of faults alone.
    Faults,
    /// `test=NAME`: one that it does not survive.
    Ending(EndingTest),
}

/// What the kernel was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options<'a> {
    /// `demo`: run the demo, draw the picture and power off.
    pub demo: bool,
    /// `hold`: with the picture drawn, wait for a byte on the serial line before powering off.
    pub hold: bool,
    /// `test`, `test=NAME`. The last one counts.
    pub tests: Tests<'a>,
    /// `repeat=N`: run the tests so often, or until one fails. The last one counts.
    pub repeat: Option<u16>,
    /// `bench`, `bench=quick`, `bench=flushes`: run the bench program. The last one counts.
    pub bench: Option<BenchRole>,
    /// `inspect`: answer a person's questions on the serial line.
    pub inspect: bool,
    /// `stress=SECONDS` (`stress` for a few): run the program that makes random operations for so long.
    pub stress: Option<u16>,
    /// `screen=off`: draw no text on the screen, and no view of memory.
    pub screen_off: bool,
    /// `seed=N` (decimal, or hexadecimal after `0x`): where random choices start. The last one counts.
    pub seed: Option<u64>,
    unknown: [&'a [u8]; UNKNOWN_MAX],
    unknown_count: usize,
    cut: bool,
}

impl<'a> Options<'a> {
    /// Reads the words of `line`, which are separated by white space. Takes time in proportion to its length.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Self {
        let mut options = Self::default();
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let line = match line.get(..LENGTH_MAX) {
            Some(start) => {
                options.cut = line.len() > LENGTH_MAX;
                start
            }
            None => line,
        };
        for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            options.take(word);
        }
        options
    }

    fn take(&mut self, word: &'a [u8]) {
        let (name, value) = match word.iter().position(|byte| *byte == b'=') {
            Some(at) => (word.get(..at).unwrap_or_default(), word.get(at + 1..)),
            None => (word, None),
        };
        match (name, value) {
            (b"demo", None) => self.demo = true,
            (b"hold", None) => self.hold = true,
            (b"bench", None) => self.bench = Some(BenchRole::All),
            (b"bench", Some(value)) => {
                let mut roles = BenchRole::ALL.into_iter().filter(|role| !role.word().is_empty());
                match roles.find(|role| role.word().as_bytes() == value) {
                    Some(role) => self.bench = Some(role),
                    None => self.keep_unknown(word),
                }
            }
            (b"inspect", None) => self.inspect = true,
            (b"test", None) => self.tests = Tests::All,
            (b"test", Some(b"attacks")) => self.tests = Tests::Attacks,
            (b"test", Some(b"faults")) => self.tests = Tests::Faults,
            (b"test", Some(value)) => {
                let test = EndingTest::ALL.into_iter().find(|test| test.name().as_bytes() == value);
                match test {
                    Some(test) => self.tests = Tests::Ending(test),
                    None if value.is_empty() => self.keep_unknown(word),
                    None => self.tests = Tests::Named(Word(value)),
                }
            }
            (b"stress", None) => self.stress = Some(0),
            (b"stress", Some(value)) => match parse_number(value).and_then(|seconds| u16::try_from(seconds).ok()) {
                Some(seconds) => self.stress = Some(seconds),
                None => self.keep_unknown(word),
            },
            (b"repeat", Some(value)) => match parse_number(value).and_then(|count| u16::try_from(count).ok()) {
                Some(count) => self.repeat = Some(count),
                None => self.keep_unknown(word),
            },
            (b"screen", Some(b"off")) => self.screen_off = true,
            (b"seed", Some(value)) => match parse_number(value) {
                Some(seed) => self.seed = Some(seed),
                None => self.keep_unknown(word),
            },
            _ => self.keep_unknown(word),
        }
    }

    fn keep_unknown(&mut self, word: &'a [u8]) {
        if let Some(slot) = self.unknown.get_mut(self.unknown_count) {
            *slot = word;
        }
        self.unknown_count = self.unknown_count.saturating_add(1);
    }

    /// The first words that were not understood, in order, and at most [`UNKNOWN_MAX`].
    pub fn unknown(&self) -> impl Iterator<Item = Word<'a>> + use<'a> {
        self.unknown.into_iter().take(self.unknown_count).map(Word)
    }

    /// How many words were not understood, also those that [`Self::unknown`] does not give.
    #[must_use]
    pub fn unknown_count(&self) -> usize {
        self.unknown_count
    }

    /// Whether the line was longer than [`LENGTH_MAX`], so that its end was not looked at.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.cut
    }
}

/// A word of the command line: bytes that need not be text. It shows itself as printable ASCII with everything
/// else escaped, so that no word can send control sequences to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a>(
    /// The bytes.
    pub &'a [u8],
);

impl fmt::Display for Word<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.escape_ascii())
    }
}

/// A decimal number, or a hexadecimal one after `0x`; `None` for anything else and for what does not fit.
fn parse_number(digits: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(digits).ok()?;
    let (text, radix) = match text.strip_prefix("0x") {
        Some(rest) => (rest, 16),
        None => (text, 10),
    };
    // The standard parser takes a sign, which no option here has.
    if text.starts_with('+') {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unknown(line: &[u8]) -> Vec<String> {
        Options::parse(line).unknown().map(|word| word.to_string()).collect()
    }

    #[test]
    fn nothing_is_asked_for_by_default() {
        assert_eq!(Options::parse(b""), Options::default());
        assert_eq!(Options::parse(b" \t\n "), Options::default());
    }

    #[test]
    fn every_word_is_understood() {
        assert!(Options::parse(b"screen=off").screen_off);
        let on = Options::parse(b"screen=on");
        assert!(!on.screen_off && on.unknown_count() == 1);
        let options = Options::parse(b"demo hold  bench\tinspect test seed=42");
        assert!(!options.screen_off);
        assert!(options.demo && options.hold && options.bench == Some(BenchRole::All) && options.inspect);
        assert_eq!(options.tests, Tests::All);
        assert_eq!(options.seed, Some(42));
        assert_eq!(options.unknown_count(), 0);
        assert_eq!(Options::parse(b"test=attacks").tests, Tests::Attacks);
        assert_eq!(Options::parse(b"test=faults").tests, Tests::Faults);
        // No kernel takes its defences away for a word.
        assert_eq!(unknown(b"without=smap nosmap test"), ["without=smap", "nosmap"]);
        for test in EndingTest::ALL {
            let line = format!("test={}", test.name());
            assert_eq!(Options::parse(line.as_bytes()).tests, Tests::Ending(test));
        }
        assert_eq!(Options::parse(b"test test=clones_").tests, Tests::Named(Word(b"clones_")));
        assert_eq!(Options::parse(b"test=clones_ test").tests, Tests::All);
        assert_eq!(unknown(b"test="), ["test="]);
        assert_eq!(Options::parse(b"test").repeat, None);
        assert_eq!(Options::parse(b"test repeat=3").repeat, Some(3));
        for bad in ["repeat", "repeat=", "repeat=-1", "repeat=65536"] {
            assert_eq!(Options::parse(bad.as_bytes()).repeat, None);
            assert_eq!(unknown(bad.as_bytes()), [bad]);
        }
        for role in [BenchRole::Quick, BenchRole::Flushes] {
            let line = format!("bench bench={}", role.word());
            assert_eq!(Options::parse(line.as_bytes()).bench, Some(role));
        }
        for bad in ["bench=", "bench=all", "bench=quick,flushes"] {
            assert_eq!(Options::parse(bad.as_bytes()).bench, None);
            assert_eq!(unknown(bad.as_bytes()), [bad]);
        }
    }

    #[test]
    fn how_long_the_stress_takes() {
        let stress = |line: &[u8]| Options::parse(line).stress;
        assert_eq!((stress(b""), stress(b"stress"), stress(b"stress=120 seed=7")), (None, Some(0), Some(120)));
        for bad in ["stress=", "stress=-1", "stress=65536", "stress=1s"] {
            assert_eq!(stress(bad.as_bytes()), None, "{bad}");
            assert_eq!(unknown(bad.as_bytes()), [bad]);
        }
    }

    #[test]
    fn seeds() {
        let seed = |line: &[u8]| Options::parse(line).seed;
        assert_eq!(seed(b"seed=0xff"), Some(255));
        assert_eq!(seed(b"seed=18446744073709551615"), Some(u64::MAX));
        assert_eq!(seed(b"seed=1 seed=2"), Some(2));
        for bad in
            ["seed", "seed=", "seed=-1", "seed=+1", "seed=0x", "seed=0x+1", "seed=18446744073709551616", "seed=1x"]
        {
            assert_eq!(seed(bad.as_bytes()), None, "{bad}");
            assert_eq!(unknown(bad.as_bytes()), [bad]);
        }
    }

    #[test]
    fn unknown_words_are_kept_in_order_and_harm_nothing() {
        assert_eq!(
            unknown(b"quiet demo root=/dev/sda test= demo=1 Demo"),
            ["quiet", "root=/dev/sda", "test=", "demo=1", "Demo"]
        );
        assert!(Options::parse(b"quiet demo root=/dev/sda").demo);
    }

    #[test]
    fn bytes_that_are_not_text_are_shown_escaped() {
        assert_eq!(unknown(b"\xff\xfe=\x1b[2J"), [r"\xff\xfe=\x1b[2J"]);
        assert_eq!(unknown(b"seed=\xff"), [r"seed=\xff"]);
    }

    #[test]
    fn a_nul_byte_ends_the_line() {
        assert_eq!(Options::parse(b"hold\0demo"), Options::parse(b"hold"));
    }

    #[test]
    fn long_lines_are_cut_and_many_words_counted() {
        let line = b"a ".repeat(5000);
        let options = Options::parse(&line);
        assert!(options.was_cut());
        assert_eq!(options.unknown_count(), LENGTH_MAX / 2);
        assert_eq!(options.unknown().count(), UNKNOWN_MAX);
        assert!(!Options::parse(&line[..LENGTH_MAX]).was_cut());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(line in proptest::collection::vec(any::<u8>(), 0..600)) {
            let options = Options::parse(&line);
            prop_assert!(options.unknown().count() <= UNKNOWN_MAX);
            prop_assert!(options.unknown().count() <= options.unknown_count());
            for word in options.unknown() {
                prop_assert!(word.to_string().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            }
        }

        #[test]
        fn known_words_are_found_among_any_others(
            before in "[ a-z=]{0,30}", after in "[ a-z=]{0,30}", seed in any::<u64>()
        ) {
            let line = format!("{before} demo seed={seed} {after}");
            let options = Options::parse(line.as_bytes());
            prop_assert!(options.demo);
            prop_assert_eq!(options.seed, Some(seed));
        }
    }
}
