//! What keys do to a line, beside a plain string, and what a terminal shows of it.

use proptest::prelude::*;

use super::*;

struct Fruit;

impl Completer for Fruit {
    fn complete(&self, before: &str, each: &mut dyn FnMut(&str)) {
        if !before.contains(' ') {
            ["apple", "apricot", "banana"].into_iter().for_each(each);
        }
    }
}

/// As much of a terminal as the editor uses: rows, and where the cursor is.
#[derive(Default)]
struct Terminal {
    rows: Vec<Vec<u8>>,
    column: usize,
    bells: usize,
    /// A sequence that is not complete yet.
    pending: String,
}

impl Terminal {
    fn new() -> Self {
        Self { rows: vec![Vec::new()], ..Self::default() }
    }

    fn row(&mut self) -> &mut Vec<u8> {
        self.rows.last_mut().unwrap()
    }

    fn shown(&self) -> String {
        String::from_utf8(self.rows.last().unwrap().clone()).unwrap().trim_end().to_owned()
    }
}

impl Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut pending = std::mem::take(&mut self.pending);
        pending.push_str(text);
        if let Some(start) = pending.rfind('\x1b').filter(|start| !pending[*start..].contains(char::is_alphabetic)) {
            self.pending = pending.split_off(start);
        }
        let mut bytes = pending.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\n' => {
                    self.rows.push(Vec::new());
                    self.column = 0;
                }
                b'\r' => self.column = 0,
                0x07 => self.bells += 1,
                0x1b => {
                    assert_eq!(bytes.next(), Some(b'['));
                    let mut number = String::new();
                    let last = loop {
                        match bytes.next().expect("a sequence has an end") {
                            digit @ b'0'..=b'9' => number.push(digit.into()),
                            last => break last,
                        }
                    };
                    match last {
                        b'K' => {
                            let column = self.column;
                            self.row().truncate(column);
                        }
                        b'D' => self.column -= number.parse::<usize>().unwrap(),
                        b'J' => *self = Self { bells: self.bells, ..Self::new() },
                        b'H' => self.column = 0,
                        other => panic!("unknown sequence {other}"),
                    }
                }
                byte => {
                    let column = self.column;
                    let row = self.row();
                    row.resize(row.len().max(column + 1), b' ');
                    row[column] = byte;
                    self.column += 1;
                }
            }
        }
        Ok(())
    }
}

const PROMPT: &str = "vm> ";

fn typed(bytes: &[u8]) -> (Editor, Terminal, Outcome) {
    let (mut editor, mut terminal) = (Editor::new(PROMPT), Terminal::new());
    editor.begin(&mut terminal).unwrap();
    let mut outcome = Outcome::Editing;
    for byte in bytes {
        outcome = editor.take_byte(*byte, &Fruit, &mut terminal).unwrap();
        if outcome == Outcome::Entered && bytes.last() != Some(byte) {
            editor.begin(&mut terminal).unwrap();
        }
    }
    (editor, terminal, outcome)
}

fn text(bytes: &[u8]) -> String {
    typed(bytes).0.line().text().to_owned()
}

#[test]
fn a_line_is_entered() {
    let (editor, terminal, outcome) = typed(b"walk 5\r");
    assert_eq!((editor.line().text(), outcome), ("walk 5", Outcome::Entered));
    assert_eq!(terminal.rows[0], b"vm> walk 5");
}

#[test]
fn keys_edit() {
    assert_eq!(text(b"wlk\x1b[D\x1b[Da"), "walk");
    assert_eq!(text(b"walk\x7f\x7f"), "wa");
    assert_eq!(text(b"walk\x01\x1b[3~x\x05y"), "xalky");
    assert_eq!(text(b"one two  three\x17"), "one two  ");
    assert_eq!(text(b"one two  \x17"), "one ");
    assert_eq!(text(b"one two\x1b[D\x1b[D\x0b!"), "one t!");
    assert_eq!(text(b"one two\x1b[D\x1b[D\x15!"), "!wo");
    assert_eq!(text(b"one\x03two"), "two");
}

#[test]
fn the_end_of_input_ends_an_empty_line_only() {
    assert_eq!(typed(b"\x04").2, Outcome::Closed);
    let (editor, _, outcome) = typed(b"ab\x01\x04");
    assert_eq!((editor.line().text(), outcome), ("b", Outcome::Editing));
}

#[test]
fn lines_come_back() {
    let up = b"\x1b[A";
    let down = b"\x1b[B";
    let after = |keys: &[&[u8]]| text(&[b"one\rtwo\rthr", keys.concat().as_slice()].concat());
    assert_eq!(after(&[]), "thr");
    assert_eq!(after(&[up]), "two");
    assert_eq!(after(&[up, up]), "one");
    assert_eq!(after(&[up, up, up]), "one", "there is none before the first");
    assert_eq!(after(&[up, up, down]), "two");
    assert_eq!(after(&[up, up, down, down]), "thr", "what was being written is not lost");
    assert_eq!(after(&[up, up, down, down, down]), "thr");
    assert_eq!(after(&[up, b"x"]), "twox");
}

#[test]
fn words_are_completed() {
    assert_eq!(text(b"b\t"), "banana ");
    assert_eq!(text(b"a\t"), "ap");
    let (editor, terminal, _) = typed(b"ap\t");
    assert_eq!(editor.line().text(), "ap");
    assert_eq!(terminal.rows[1], b"apple  apricot  ");
    assert_eq!(terminal.shown(), "vm> ap");
    assert_eq!(typed(b"x\t").1.bells, 1);
    assert_eq!(typed(b"banana x\t").1.bells, 1);
    // In the middle of a line: what stands behind the cursor stays.
    assert_eq!(text(b"b tail\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\t"), "banana  tail");
}

#[test]
fn a_line_that_is_full_takes_no_more() {
    let (editor, terminal, _) = typed(&[b'a'; LENGTH_MAX + 3]);
    assert_eq!((editor.line().text().len(), terminal.bells), (LENGTH_MAX, 3));
}

/// The same with a plain string.
fn model(text: &mut String, cursor: &mut usize, key: Key) {
    match key {
        Key::Character(byte) if text.len() < LENGTH_MAX => {
            text.insert(*cursor, byte.into());
            *cursor += 1;
        }
        Key::Backspace if *cursor > 0 => {
            *cursor -= 1;
            text.remove(*cursor);
        }
        Key::Delete if *cursor < text.len() => drop(text.remove(*cursor)),
        Key::Left => *cursor = cursor.saturating_sub(1),
        Key::Right => *cursor = (*cursor + 1).min(text.len()),
        Key::Home => *cursor = 0,
        Key::End => *cursor = text.len(),
        Key::CutBefore => {
            text.drain(..*cursor);
            *cursor = 0;
        }
        Key::CutAfter => text.truncate(*cursor),
        Key::CutWord => {
            let kept = text[..*cursor].trim_end_matches(' ').trim_end_matches(|c| c != ' ').len();
            text.drain(kept..*cursor);
            *cursor = kept;
        }
        _ => {}
    }
}

proptest! {
    /// Whatever is typed, the line is what a string would be, and the terminal shows it.
    #[test]
    fn a_line_is_a_string(keys in prop::collection::vec(prop_oneof![
        4 => prop::sample::select(b"ab ~".to_vec()).prop_map(Key::Character),
        3 => prop::sample::select(vec![
            Key::Backspace, Key::Delete, Key::Left, Key::Right, Key::Home, Key::End, Key::CutBefore, Key::CutAfter, Key::CutWord,
        ]),
    ], 0..60)) {
        let (mut editor, mut terminal) = (Editor::new(PROMPT), Terminal::new());
        editor.begin(&mut terminal).unwrap();
        let (mut text, mut cursor) = (String::new(), 0);
        for key in keys {
            prop_assert_eq!(editor.take(key, &Fruit, &mut terminal).unwrap(), Outcome::Editing);
            model(&mut text, &mut cursor, key);
            prop_assert_eq!((editor.line().text(), editor.line().cursor()), (text.as_str(), cursor));
            let shown = format!("{PROMPT}{text}");
            prop_assert_eq!(terminal.shown(), shown.trim_end());
            prop_assert_eq!(terminal.column, PROMPT.len() + cursor);
        }
    }

    /// Bytes of any kind leave a line of printable characters and no panic.
    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (mut editor, mut out) = (Editor::new(PROMPT), String::new());
        editor.begin(&mut out).unwrap();
        for byte in bytes {
            if editor.take_byte(byte, &Fruit, &mut out).unwrap() != Outcome::Editing {
                editor.begin(&mut out).unwrap();
            }
            let line = editor.line();
            prop_assert!(line.cursor() <= line.text().len() && line.text().len() <= LENGTH_MAX);
            prop_assert!(line.text().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
