//! From the codes of a PC's keyboard to keys.
//!
//! The codes are those of set 1, which the controller makes of what the keyboard sends; the layout is the American one of 104 keys.

use super::keys::{Key, control};
use pc_keyboard::layouts::Us104Key;
use pc_keyboard::{DecodedKey, HandleControl, KeyCode, PS2Keyboard, ScancodeSet1};

/// What a stream of codes has said so far: which keys are held, and the first bytes of a longer code.
pub struct Keyboard(PS2Keyboard<Us104Key, ScancodeSet1>);

impl Keyboard {
    /// No key is held.
    #[must_use]
    pub const fn new() -> Self {
        Self(PS2Keyboard::new(ScancodeSet1::new(), Us104Key, HandleControl::MapLettersToUnicode))
    }

    /// Takes the next code; gives the key that it completes, if that means something to a line. What is no code is dropped.
    pub fn take(&mut self, code: u8) -> Option<Key> {
        let event = self.0.add_byte(code).ok()??;
        let which = event.code;
        let decoded = self.0.process_keyevent(event)?;
        // As text it would be the same as backspace.
        match (which, decoded) {
            (KeyCode::Delete, _) => Some(Key::Delete),
            (_, DecodedKey::Unicode(character)) => control(u8::try_from(character).ok().filter(u8::is_ascii)?),
            (_, DecodedKey::RawKey(raw)) => match raw {
                KeyCode::ArrowLeft => Some(Key::Left),
                KeyCode::ArrowRight => Some(Key::Right),
                KeyCode::ArrowUp => Some(Key::Up),
                KeyCode::ArrowDown => Some(Key::Down),
                KeyCode::Home => Some(Key::Home),
                KeyCode::End => Some(Key::End),
                _ => None,
            },
        }
    }
}

impl Default for Keyboard {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Keyboard {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Keyboard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(codes: &[u8]) -> Vec<Key> {
        let mut keyboard = Keyboard::new();
        codes.iter().filter_map(|code| keyboard.take(*code)).collect()
    }

    #[test]
    fn letters_digits_and_shift() {
        // a down, a up, shift down, a, shift up, 1, space, enter.
        let codes = [0x1e, 0x9e, 0x2a, 0x1e, 0x9e, 0xaa, 0x02, 0x82, 0x39, 0xb9, 0x1c, 0x9c];
        let typed = [b'a', b'A', b'1', b' '].map(Key::Character);
        assert_eq!(keys(&codes), [&typed[..], &[Key::Enter]].concat());
        // A key that is held comes again.
        assert_eq!(keys(&[0x1e, 0x1e, 0x9e]), [Key::Character(b'a'); 2]);
    }

    #[test]
    fn control_makes_what_a_terminal_sends() {
        // Control held: c, a, e, u, d, l.
        let codes = [0x1d, 0x2e, 0xae, 0x1e, 0x9e, 0x12, 0x92, 0x16, 0x96, 0x20, 0xa0, 0x26, 0xa6, 0x9d, 0x2e];
        let control = [Key::Cancel, Key::Home, Key::End, Key::CutBefore, Key::EndOfInput, Key::Clear];
        assert_eq!(keys(&codes), [&control[..], &[Key::Character(b'c')]].concat());
    }

    #[test]
    fn keys_that_edit() {
        let long = [0x48, 0x50, 0x4b, 0x4d, 0x47, 0x4f, 0x53].map(|code| [0xe0, code, 0xe0, code | 0x80]).concat();
        let edit = [Key::Up, Key::Down, Key::Left, Key::Right, Key::Home, Key::End, Key::Delete];
        assert_eq!(keys(&long), edit);
        assert_eq!(keys(&[0x0e, 0x8e, 0x0f, 0x8f]), [Key::Backspace, Key::Tab]);
    }

    #[test]
    fn what_means_nothing_to_a_line_is_dropped() {
        // Acknowledge, self-test passed, escape, F1, the left window key; then a letter.
        assert_eq!(keys(&[0xfa, 0xaa, 0x01, 0x81, 0x3b, 0xbb, 0xe0, 0x5b, 0xe0, 0xdb, 0x1e]), [Key::Character(b'a')]);
    }

    proptest! {
        /// Whatever a broken keyboard sends ends in no panic, and never makes text that is not printable.
        #[test]
        fn any_codes_are_taken(codes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for key in keys(&codes) {
                if let Key::Character(byte) = key {
                    prop_assert!((b' '..=b'~').contains(&byte));
                }
            }
        }
    }
}
