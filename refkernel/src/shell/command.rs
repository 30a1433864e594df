//! What can be asked, and what a line asks.
//!
//! ```text
//!   QUESTION ARGUMENT... [in PID]
//!
//!   number   4096   0x1000   1_000   4K   (K, M, G: units of 1,024)
//!   address  a number, or a name of the kernel's symbol table, with +NUMBER behind it if wanted
//!   range    START..END (END is not in it) or START+SIZE; one address alone: its page
//!   in PID   of the process with this number; without it an address tells: the kernel's half is the kernel's
//! ```
//!
//! Parsing trusts nothing and takes no memory. Every error is one sentence that says what to write instead.

use core::fmt;

use refkernel_abi::PAGE_SIZE;

/// What stands behind a question's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// An address.
    Address,
    /// A range of addresses.
    Range,
    /// A number.
    Number,
    /// `read`, `write` or `execute`.
    Access,
    /// A program of the boot module.
    Program,
    /// The name of a question.
    Question,
}

/// A question, for `help` and for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its name.
    pub name: &'static str,
    /// What may stand behind it, in order.
    pub arguments: &'static [Argument],
    /// How to write that; in brackets: what may be left out.
    pub usage: &'static str,
    /// What it tells, in a few words.
    pub about: &'static str,
}

const fn question(
    name: &'static str,
    arguments: &'static [Argument],
    usage: &'static str,
    about: &'static str,
) -> Question {
    Question { name, arguments, usage, about }
}

/// Everything that can be asked.
pub const COMMANDS: &[Question] = {
    use Argument::{Access, Address, Number, Program, Range};
    &[
        question("help", &[Argument::Question], "[QUESTION]", "what can be asked"),
        question("ps", &[], "", "the processes"),
        question("maps", &[Number], "[PID]", "the windows of a space: the kernel's, or a process's"),
        question("walk", &[Address], "ADDRESS [in PID]", "the entries that translate an address, level by level"),
        question("entry", &[Address, Number], "ADDRESS [LEVEL] [in PID]", "one of them, bit by bit"),
        question("decode", &[Number, Number], "VALUE [LEVEL]", "what a value would mean as an entry"),
        question("dump", &[Range], "[RANGE] [in PID]", "what the tables hold, as runs of leaves that are alike"),
        question(
            "explain",
            &[Address, Access],
            "ADDRESS [read|write|execute] [in PID]",
            "whether an access succeeds, and what decides that",
        ),
        question("area", &[Address], "[ADDRESS] [in PID]", "the areas that windows show, or the one at an address"),
        question("tree", &[Address], "ADDRESS [in PID]", "the pages of the area at an address, as its tree has them"),
        question("frames", &[Number], "[FRAME]", "what frames are used for, or one of them"),
        question("tlb", &[], "", "what each processor has loaded, and who made it forget"),
        question("faults", &[], "", "the last page faults, and what was decided about each"),
        question("stats", &[], "", "the counters of the memory manager"),
        question("map", &[], "", "the picture of memory, here and on the screen"),
        question(
            "run",
            &[Program, Number],
            "PROGRAM [ARGUMENT]",
            "starts a program and waits for its end, or for Ctrl-C",
        ),
        question("kill", &[Number], "PID", "ends a process and gives up what it has; what it has started goes on"),
        question("quit", &[], "", "powers off"),
    ]
};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It fetches an instruction.
    Execute,
}

/// Some addresses: the last one is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub start: u64,
    /// The last one.
    pub last: u64,
}

/// A process's number, if one was named.
pub type Of = Option<u64>;

/// What a line asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "COMMANDS says what each of them asks")]
pub enum Command<'a> {
    Nothing,
    Help(Option<&'static str>),
    Processes,
    Maps(Of),
    Walk(u64, Of),
    Entry(u64, Option<usize>, Of),
    Decode(u64, usize),
    Dump(Option<Range>, Of),
    Explain(u64, Attempt, Of),
    Area(Option<u64>, Of),
    Tree(u64, Of),
    Frames(Option<u64>),
    Tlb,
    Faults,
    Stats,
    Map,
    Run(&'a str, u64),
    Kill(u64),
    Quit,
}

/// Why a line asks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError<'a> {
    /// There is no such question.
    Unknown(&'a str),
    /// A question lacks something.
    Missing(&'static Question),
    /// A question has a word too many.
    Excess(&'static Question, &'a str),
    /// A word is no number.
    Number(&'a str),
    /// A word is neither a number nor the name of a symbol.
    Address(&'a str),
    /// A word is no range.
    Range(&'a str),
    /// A range holds no address.
    Empty(&'a str),
    /// A word is none of the accesses.
    Access(&'a str),
    /// No format has a level of this number.
    Level(u64),
    /// A question is not about a process.
    NotOf(&'static Question),
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(formatter, "there is no question `{word}`: `help` lists them"),
            Self::Missing(question) => {
                write!(formatter, "something is missing: write `{} {}`", question.name, question.usage)
            }
            Self::Excess(Question { name, usage: "", .. }, word) => {
                write!(formatter, "`{word}` is too much: write `{name}` alone")
            }
            Self::Excess(question, word) => {
                write!(formatter, "`{word}` is too much: write `{} {}`", question.name, question.usage)
            }
            Self::Number(word) => write!(formatter, "`{word}` is no number: write it as 4096, 0x1000 or 4K"),
            Self::Address(word) => {
                write!(
                    formatter,
                    "`{word}` is no address: write a number such as 0x400000, or a symbol of the kernel's"
                )
            }
            Self::Range(word) => write!(formatter, "`{word}` is no range: write START..END or START+SIZE"),
            Self::Empty(word) => {
                write!(formatter, "the range `{word}` holds nothing: its end must come after its start")
            }
            Self::Access(word) => write!(formatter, "`{word}` is no access: write read, write or execute"),
            Self::Level(level) => {
                write!(formatter, "there is no level {level}: 0 is that of base pages, the next are 1, 2, 3")
            }
            Self::NotOf(question) => {
                write!(formatter, "`{}` is not about a process: leave `in` out", question.name)
            }
        }
    }
}

/// The most levels that are looked for.
const LEVELS_MAX: u64 = 8;

/// The words of a line behind the question.
struct Words<'a, 'r> {
    question: &'static Question,
    left: core::str::SplitAsciiWhitespace<'a>,
    of: Of,
    symbol: &'r dyn Fn(&str) -> Option<u64>,
}

impl<'a> Words<'a, '_> {
    /// A word that may be left out.
    fn optional(&mut self) -> Option<&'a str> {
        self.left.next()
    }

    fn required(&mut self) -> Result<&'a str, ParseError<'a>> {
        self.left.next().ok_or(ParseError::Missing(self.question))
    }

    fn address(&self, word: &'a str) -> Result<u64, ParseError<'a>> {
        address(word, self.symbol).ok_or(ParseError::Address(word))
    }

    fn level(&mut self) -> Result<Option<usize>, ParseError<'a>> {
        let Some(level) = self.optional().map(parse_number).transpose()? else { return Ok(None) };
        if level < LEVELS_MAX { Ok(Some(level as usize)) } else { Err(ParseError::Level(level)) }
    }
}

fn parse_number(word: &str) -> Result<u64, ParseError<'_>> {
    number(word).ok_or(ParseError::Number(word))
}

impl<'a> Command<'a> {
    /// What a line asks; `symbol` knows the addresses of names.
    ///
    /// # Errors
    ///
    /// [`ParseError`].
    pub fn parse(line: &'a str, symbol: &dyn Fn(&str) -> Option<u64>) -> Result<Self, ParseError<'a>> {
        let (line, of) = split_process(line)?;
        let mut left = line.split_ascii_whitespace();
        let Some(name) = left.next() else { return Ok(Self::Nothing) };
        let question = COMMANDS.iter().find(|question| question.name == name).ok_or(ParseError::Unknown(name))?;
        let mut words = Words { question, left, of, symbol };
        let command = words.command()?;
        match words.left.next() {
            None => {}
            Some(word) => return Err(ParseError::Excess(question, word)),
        }
        if of.is_some() && !question.usage.contains("in PID") {
            return Err(ParseError::NotOf(question));
        }
        Ok(command)
    }
}

/// Takes `in PID` off the end of a line.
fn split_process(line: &str) -> Result<(&str, Of), ParseError<'_>> {
    let Some((before, pid)) = line.trim_end().rsplit_once(' ') else { return Ok((line, None)) };
    match before.trim_end().strip_suffix("in") {
        Some(question) if question.ends_with(' ') => Ok((question, Some(parse_number(pid)?))),
        _ => Ok((line, None)),
    }
}

impl<'a> Words<'a, '_> {
    fn command(&mut self) -> Result<Command<'a>, ParseError<'a>> {
        let of = self.of;
        Ok(match self.question.name {
            "help" => match self.optional() {
                None => Command::Help(None),
                Some(word) => {
                    let question = COMMANDS.iter().find(|question| question.name == word);
                    Command::Help(Some(question.ok_or(ParseError::Unknown(word))?.name))
                }
            },
            "ps" => Command::Processes,
            "maps" => Command::Maps(self.optional().map(parse_number).transpose()?),
            "walk" => Command::Walk(self.required_address()?, of),
            "entry" => Command::Entry(self.required_address()?, self.level()?, of),
            "decode" => {
                let value = parse_number(self.required()?)?;
                Command::Decode(value, self.level()?.unwrap_or(0))
            }
            "dump" => match self.optional() {
                None => Command::Dump(None, of),
                Some(word) => Command::Dump(Some(range(word, self.symbol)?), of),
            },
            "explain" => {
                let address = self.required_address()?;
                let attempt = match self.optional() {
                    None | Some("read") => Attempt::Read,
                    Some("write") => Attempt::Write,
                    Some("execute") => Attempt::Execute,
                    Some(word) => return Err(ParseError::Access(word)),
                };
                Command::Explain(address, attempt, of)
            }
            "area" => match self.optional() {
                None => Command::Area(None, of),
                Some(word) => Command::Area(Some(self.address(word)?), of),
            },
            "tree" => Command::Tree(self.required_address()?, of),
            "frames" => Command::Frames(self.optional().map(parse_number).transpose()?),
            "tlb" => Command::Tlb,
            "faults" => Command::Faults,
            "stats" => Command::Stats,
            "map" => Command::Map,
            "run" => {
                let program = self.required()?;
                Command::Run(program, self.optional().map_or(Ok(0), parse_number)?)
            }
            "kill" => Command::Kill(parse_number(self.required()?)?),
            "quit" => Command::Quit,
            name => return Err(ParseError::Unknown(name)),
        })
    }

    fn required_address(&mut self) -> Result<u64, ParseError<'a>> {
        let word = self.required()?;
        self.address(word)
    }
}

/// A number; the grammar above.
#[must_use]
pub fn number(word: &str) -> Option<u64> {
    let (digits, radix, unit) = match word.strip_prefix("0x") {
        Some(digits) => (digits, 16, 1),
        None => match word.as_bytes().last()? {
            b'K' => (word.get(..word.len() - 1)?, 10, 1 << 10),
            b'M' => (word.get(..word.len() - 1)?, 10, 1 << 20),
            b'G' => (word.get(..word.len() - 1)?, 10, 1 << 30),
            _ => (word, 10, 1_u64),
        },
    };
    let mut value = None;
    for digit in digits.chars().filter(|digit| *digit != '_') {
        let digit = u64::from(digit.to_digit(radix)?);
        value = Some(value.unwrap_or(0_u64).checked_mul(radix.into())?.checked_add(digit)?);
    }
    value?.checked_mul(unit)
}

/// An address; the grammar above.
fn address(word: &str, symbol: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
    let known = |word: &str| number(word).or_else(|| symbol(word));
    if let Some(address) = known(word) {
        return Some(address);
    }
    let (base, offset) = word.rsplit_once('+')?;
    known(base)?.checked_add(number(offset)?)
}

/// A range; the grammar above.
fn range<'a>(word: &'a str, symbol: &dyn Fn(&str) -> Option<u64>) -> Result<Range, ParseError<'a>> {
    let wrong = || ParseError::Range(word);
    let (start, size) = if let Some((start, end)) = word.split_once("..") {
        let start = address(start, symbol).ok_or_else(wrong)?;
        // The end of all addresses is written as 0x1_0000_0000_0000_0000, which is no number, or left out.
        let end = if end.is_empty() { 0 } else { address(end, symbol).ok_or_else(wrong)? };
        if end != 0 && end <= start {
            return Err(ParseError::Empty(word));
        }
        (start, end.wrapping_sub(start))
    } else if let Some(page) = address(word, symbol).filter(|_| !word.contains('+')) {
        (page / PAGE_SIZE * PAGE_SIZE, PAGE_SIZE)
    } else {
        let (start, size) = word.rsplit_once('+').ok_or_else(wrong)?;
        (address(start, symbol).ok_or_else(wrong)?, number(size).ok_or_else(wrong)?)
    };
    match size.checked_sub(1) {
        Some(more) => Ok(Range { start, last: start.checked_add(more).ok_or_else(wrong)? }),
        // From 0 to the end of all addresses.
        None if word.contains("..") => Ok(Range { start, last: u64::MAX }),
        None => Err(ParseError::Empty(word)),
    }
}

#[cfg(test)]
mod tests;
