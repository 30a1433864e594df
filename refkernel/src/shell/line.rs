//! The line that is being written: what keys do to it, and what a terminal is sent so that it shows it.
//!
//! ```text
//!   vm> walk 0x40▌0000        what is sent for a key: the character itself at the end of the line,
//!       └ bytes ─┘ cursor      else all of it again: CR, prompt, line, erase to the end (CSI K), back to the cursor (CSI n D)
//! ```
//!
//! # Invariants
//!
//! A line holds printable ASCII, at most [`LENGTH_MAX`] bytes; the cursor is within it or behind its end. What does not fit is dropped with a
//! bell. A terminal narrower than prompt and line shows the rest on its next row until the line is edited in the middle.

use core::fmt::{self, Write};

use super::complete::Completer;
use super::history::History;
use super::keys::{Decoder, Key};

/// The most bytes of a line.
pub const LENGTH_MAX: usize = 120;

/// A line and where its cursor is.
#[derive(Clone)]
pub struct Line {
    bytes: [u8; LENGTH_MAX],
    length: usize,
    cursor: usize,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; LENGTH_MAX], length: 0, cursor: 0 }
    }

    /// The line of a text, as far as it is printable ASCII and there is room, with the cursor at its end.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut line = Self::new();
        for byte in text.bytes() {
            line.insert(byte);
        }
        line
    }

    /// What it says.
    #[must_use]
    pub fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// What stands before the cursor.
    #[must_use]
    pub fn before_cursor(&self) -> &str {
        self.text().get(..self.cursor).unwrap_or_default()
    }

    /// Where the cursor is: so many characters stand before it.
    #[must_use]
    pub const fn cursor(&self) -> usize {
        self.cursor
    }

    /// Puts a character where the cursor is. False if it is none, or there is no room.
    pub fn insert(&mut self, byte: u8) -> bool {
        if !matches!(byte, b' '..=b'~') || self.length >= LENGTH_MAX {
            return false;
        }
        self.bytes.copy_within(self.cursor..self.length, self.cursor + 1);
        if let Some(slot) = self.bytes.get_mut(self.cursor) {
            *slot = byte;
        }
        self.cursor += 1;
        self.length += 1;
        true
    }

    /// Takes out what stands from `start` up to `end`, which is within the line.
    fn cut(&mut self, start: usize, end: usize) {
        let end = end.min(self.length);
        let start = start.min(end);
        self.bytes.copy_within(end..self.length, start);
        self.length -= end - start;
        if self.cursor > start {
            self.cursor = start.max(self.cursor.saturating_sub(end - start));
        }
    }

    /// Where the word before the cursor begins.
    fn word_start(&self) -> usize {
        let before = self.before_cursor().trim_end_matches(' ');
        before.rfind(' ').map_or(0, |space| space + 1)
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Line").field("text", &self.text()).field("cursor", &self.cursor).finish()
    }
}

/// What a key has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The line goes on.
    Editing,
    /// The line is done: [`Editor::line`] says it.
    Entered,
    /// There is nothing more to come.
    Closed,
}

/// A line, those before it, and the terminal that shows it.
#[derive(Clone, Debug)]
pub struct Editor {
    prompt: &'static str,
    decoder: Decoder,
    line: Line,
    history: History,
    /// Which line of the history is shown, and the one that was being written.
    browsing: Option<usize>,
    written: Line,
}

impl Editor {
    /// An editor that has shown nothing yet.
    #[must_use]
    pub const fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            decoder: Decoder::new(),
            line: Line::new(),
            history: History::new(),
            browsing: None,
            written: Line::new(),
        }
    }

    /// The line as it is.
    #[must_use]
    pub const fn line(&self) -> &Line {
        &self.line
    }

    /// Begins the next line: shows the prompt.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn begin(&mut self, out: &mut dyn Write) -> fmt::Result {
        self.line = Line::new();
        self.browsing = None;
        out.write_str(self.prompt)
    }

    /// Takes the next byte of the serial line.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn take_byte(
        &mut self,
        byte: u8,
        completer: &dyn Completer,
        out: &mut dyn Write,
    ) -> Result<Outcome, fmt::Error> {
        match self.decoder.take(byte) {
            Some(key) => self.take(key, completer, out),
            None => Ok(Outcome::Editing),
        }
    }

    /// Takes the next key.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn take(&mut self, key: Key, completer: &dyn Completer, out: &mut dyn Write) -> Result<Outcome, fmt::Error> {
        let (cursor, length) = (self.line.cursor, self.line.length);
        match key {
            Key::Enter => {
                out.write_str("\n")?;
                self.history.push(&self.line);
                return Ok(Outcome::Entered);
            }
            Key::EndOfInput if length == 0 => {
                out.write_str("\n")?;
                return Ok(Outcome::Closed);
            }
            Key::Cancel => {
                out.write_str("^C\n")?;
                self.begin(out)?;
                return Ok(Outcome::Editing);
            }
            Key::Character(byte) => {
                if !self.line.insert(byte) {
                    out.write_str(BELL)?;
                } else if cursor == length {
                    out.write_char(byte.into())?;
                } else {
                    self.redraw(out)?;
                }
                return Ok(Outcome::Editing);
            }
            Key::Tab => {
                self.complete(completer, out)?;
                return Ok(Outcome::Editing);
            }
            Key::Clear => out.write_str("\x1b[2J\x1b[H")?,
            Key::Backspace => self.line.cut(cursor.saturating_sub(1), cursor),
            Key::Delete | Key::EndOfInput => self.line.cut(cursor, cursor + 1),
            Key::Left => self.line.cursor = cursor.saturating_sub(1),
            Key::Right => self.line.cursor = (cursor + 1).min(length),
            Key::Home => self.line.cursor = 0,
            Key::End => self.line.cursor = length,
            Key::CutBefore => self.line.cut(0, cursor),
            Key::CutAfter => self.line.cut(cursor, length),
            Key::CutWord => self.line.cut(self.line.word_start(), cursor),
            Key::Up => self.browse(self.browsing.map_or(0, |back| back + 1)),
            Key::Down => match self.browsing {
                Some(0) => {
                    self.browsing = None;
                    self.line = self.written.clone();
                }
                Some(back) => self.browse(back - 1),
                None => {}
            },
        }
        self.redraw(out)?;
        Ok(Outcome::Editing)
    }

    /// Shows a line of the history, if there is one so far back.
    fn browse(&mut self, back: usize) {
        let Some(line) = self.history.get(back) else { return };
        if self.browsing.is_none() {
            self.written = self.line.clone();
        }
        self.line = line.clone();
        self.browsing = Some(back);
    }

    /// Shows prompt and line anew, on the row where the cursor is.
    fn redraw(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "\r{}{}\x1b[K", self.prompt, self.line.text())?;
        match self.line.length - self.line.cursor {
            0 => Ok(()),
            back => write!(out, "\x1b[{back}D"),
        }
    }

    /// Writes what all completions of the word before the cursor have in common, and a space behind the only one; shows them if
    /// they have no more in common than what is there.
    fn complete(&mut self, completer: &dyn Completer, out: &mut dyn Write) -> fmt::Result {
        let mut common = Common::default();
        let before = self.line.before_cursor();
        let start = before.rfind(' ').map_or(0, |space| space + 1);
        let word = before.get(start..).unwrap_or_default();
        let known = word.len();
        completer.complete(before, &mut |candidate| {
            if candidate.starts_with(word) {
                common.add(candidate);
            }
        });
        let more = common.line.clone();
        let more = more.text().get(known..).unwrap_or_default();
        if common.count == 0 || (more.is_empty() && common.count == 1 && before.ends_with(' ')) {
            return out.write_str(BELL);
        }
        if more.is_empty() && common.count > 1 {
            out.write_str("\n")?;
            let before = self.line.before_cursor();
            let word = before.get(start..).unwrap_or_default();
            let mut result = Ok(());
            completer.complete(before, &mut |candidate| {
                if candidate.starts_with(word) && result.is_ok() {
                    result = write!(out, "{candidate}  ");
                }
            });
            result?;
            out.write_str("\n")?;
        } else {
            let space = if common.count == 1 { " " } else { "" };
            for byte in more.bytes().chain(space.bytes()) {
                self.line.insert(byte);
            }
        }
        self.redraw(out)
    }
}

/// Makes a terminal draw attention.
const BELL: &str = "\x07";

/// What several words begin with.
#[derive(Default)]
struct Common {
    line: Line,
    count: usize,
}

impl Common {
    fn add(&mut self, word: &str) {
        self.count += 1;
        if self.count == 1 {
            self.line = Line::from_text(word);
            return;
        }
        let same = self.line.text().bytes().zip(word.bytes()).take_while(|(one, other)| one == other).count();
        self.line.cut(same, self.line.length);
    }
}

#[cfg(test)]
mod tests;
