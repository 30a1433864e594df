//! From bytes, as terminals send them, to keys.
//!
//! A terminal sends what moves the cursor as a sequence (ECMA-48, 5.4): escape, `[`, parameters, a final byte. Some send `O` for `[`.
//!
//! ```text
//!            ESC              [ or O               A..D H F
//!   Ground ───────► Escape ───────────► Sequence ───────────► a key
//!     │                 │ else              │ digits, ; ──► ~  (Home, Delete, End)
//!     └── a key         └── nothing         └── else: nothing
//! ```
//!
//! What is not understood is dropped whole, so that an unknown key never becomes text.

/// What a person pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character: printable ASCII.
    Character(u8),
    /// The line is done.
    Enter,
    /// Takes the character before the cursor.
    Backspace,
    /// Takes the character at the cursor; of an empty line (Ctrl-D): there is nothing more to come.
    Delete,
    /// One to the left.
    Left,
    /// One to the right.
    Right,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// The line before.
    Up,
    /// The line after.
    Down,
    /// Completes the word.
    Tab,
    /// Takes everything before the cursor (Ctrl-U).
    CutBefore,
    /// Takes everything from the cursor on (Ctrl-K).
    CutAfter,
    /// Takes the word before the cursor (Ctrl-W).
    CutWord,
    /// Gives the line up (Ctrl-C).
    Cancel,
    /// Shows the line on an empty screen (Ctrl-L).
    Clear,
    /// Ctrl-D: the end of what is said if the line is empty, else as [`Self::Delete`].
    EndOfInput,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After a carriage return: a line feed belongs to it.
    Return,
    Escape,
    /// After the introducer: the first parameter so far.
    Sequence(u8),
}

/// What a stream of bytes has said so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    state: State,
}

impl Decoder {
    /// Nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Ground }
    }

    /// Takes the next byte; gives the key that it completes, if it does.
    pub fn take(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::take(&mut self.state);
        match (state, byte) {
            // Whatever came before, an escape begins anew.
            (_, 0x1b) => {
                self.state = State::Escape;
                None
            }
            (State::Return, b'\n') => None,
            (State::Ground | State::Return, _) => {
                if byte == b'\r' {
                    self.state = State::Return;
                }
                control(byte)
            }
            (State::Escape, b'[' | b'O') => {
                self.state = State::Sequence(0);
                None
            }
            (State::Escape, _) => None,
            (State::Sequence(parameter), b'0'..=b'9') => {
                self.state = State::Sequence(parameter.saturating_mul(10).saturating_add(byte - b'0'));
                None
            }
            // Of several parameters the first one says which key, the others which keys were held.
            (State::Sequence(parameter), b';' | b':' | b' '..=b'/' | b'<'..=b'?') => {
                self.state = State::Sequence(parameter);
                None
            }
            (State::Sequence(parameter), _) => final_byte(parameter, byte),
        }
    }
}

/// The key of a byte that stands alone.
pub(super) fn control(byte: u8) -> Option<Key> {
    Some(match byte {
        b' '..=b'~' => Key::Character(byte),
        b'\r' | b'\n' => Key::Enter,
        0x08 | 0x7f => Key::Backspace,
        b'\t' => Key::Tab,
        0x01 => Key::Home,
        0x02 => Key::Left,
        0x03 => Key::Cancel,
        0x04 => Key::EndOfInput,
        0x05 => Key::End,
        0x06 => Key::Right,
        0x0b => Key::CutAfter,
        0x0c => Key::Clear,
        0x0e => Key::Down,
        0x10 => Key::Up,
        0x15 => Key::CutBefore,
        0x17 => Key::CutWord,
        _ => return None,
    })
}

/// The key of a sequence.
fn final_byte(parameter: u8, byte: u8) -> Option<Key> {
    Some(match (parameter, byte) {
        (_, b'A') => Key::Up,
        (_, b'B') => Key::Down,
        (_, b'C') => Key::Right,
        (_, b'D') => Key::Left,
        (_, b'H') | (1 | 7, b'~') => Key::Home,
        (_, b'F') | (4 | 8, b'~') => Key::End,
        (3, b'~') => Key::Delete,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::new();
        bytes.iter().filter_map(|byte| decoder.take(*byte)).collect()
    }

    #[test]
    fn characters_and_controls() {
        assert_eq!(keys(b"a\x7f\t"), [Key::Character(b'a'), Key::Backspace, Key::Tab]);
        assert_eq!(keys(b"\x01\x05\x03\x04"), [Key::Home, Key::End, Key::Cancel, Key::EndOfInput]);
        assert_eq!(keys(b"\x00\x80\xff"), []);
    }

    #[test]
    fn a_line_end_of_two_bytes_is_one() {
        assert_eq!(keys(b"\r\n\n\r\r"), [Key::Enter, Key::Enter, Key::Enter, Key::Enter]);
    }

    #[test]
    fn sequences_of_several_terminals() {
        assert_eq!(keys(b"\x1b[A\x1bOB\x1b[C\x1b[1;5D"), [Key::Up, Key::Down, Key::Right, Key::Left]);
        assert_eq!(keys(b"\x1b[H\x1b[1~\x1b[7~\x1bOF\x1b[4~"), [Key::Home, Key::Home, Key::Home, Key::End, Key::End]);
        assert_eq!(keys(b"\x1b[3~"), [Key::Delete]);
    }

    #[test]
    fn what_is_not_understood_is_no_text() {
        assert_eq!(keys(b"\x1b[15~\x1b[200~x\x1bz\x1b[999999A"), [Key::Character(b'x'), Key::Up]);
        // A sequence that was broken off.
        assert_eq!(keys(b"\x1b[1\x1b[A"), [Key::Up]);
    }
}
