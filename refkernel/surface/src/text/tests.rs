extern crate std;

use super::super::{FONT, Glyphs, Palette};
use super::*;
use crate::Surface;
use embedded_graphics::mono_font::{MonoTextStyle, MonoTextStyleBuilder};
use embedded_graphics::text::{Baseline, Text};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

const COLUMNS: usize = 10;
const ROWS: usize = 4;
const CELLS: usize = COLUMNS * ROWS;

fn terminal() -> Terminal<CELLS> {
    let mut terminal = Terminal::new();
    terminal.resize(COLUMNS, ROWS);
    terminal
}

/// What is on a terminal, drawn on a surface that nobody has drawn on, with a border on each side.
fn pixels(terminal: &mut Terminal<CELLS>, memory: &mut [u32]) {
    let glyphs = Glyphs::of(FONT);
    let (width, height) = size();
    let mut surface = Surface::over(memory, width, height, width * 4).unwrap();
    let place = Place { origin: Point::new(3, 2), glyphs: &glyphs, palette: &Palette::DARK };
    terminal.draw(&place, &mut surface).unwrap();
}

fn size() -> (u32, u32) {
    let size = FONT.character_size;
    (6 + COLUMNS as u32 * size.width, 4 + ROWS as u32 * size.height)
}

fn blank() -> Vec<u32> {
    let (width, height) = size();
    vec![0; (width * height) as usize]
}

/// The same text as the drawing library writes it, one character after another.
fn expected(rows: &[(&str, Ink)], cursor: Option<(usize, usize)>) -> Vec<u32> {
    let (width, height) = size();
    let mut memory = blank();
    let mut surface = Surface::over(&mut memory, width, height, width * 4).unwrap();
    let palette = Palette::DARK;
    for row in 0..ROWS {
        let (text, ink) = rows.get(row).copied().unwrap_or(("", Ink::Text));
        let padded = format!("{text:COLUMNS$}");
        for (column, character) in padded.chars().enumerate() {
            let (mut front, mut back) = (palette.inks[ink as usize], palette.ground);
            // Nothing has no colour; the cursor on nothing has that of running text.
            if column >= text.len() {
                front = palette.inks[Ink::Text as usize];
            }
            if cursor == Some((column, row)) {
                (front, back) = (back, front);
            }
            let style: MonoTextStyle<'_, Rgb888> =
                MonoTextStyleBuilder::new().font(FONT).text_color(front).background_color(back).build();
            let size = FONT.character_size;
            let corner = Point::new(3 + (column as u32 * size.width) as i32, 2 + (row as u32 * size.height) as i32);
            let text = character.to_string();
            Text::with_baseline(&text, corner, style, Baseline::Top).draw(&mut surface).unwrap();
        }
    }
    memory
}

/// Requires that after these bytes the terminal shows these rows, all in the usual colour.
fn shows(bytes: &[u8], rows: &[&str]) {
    let mut terminal = terminal();
    terminal.write(bytes);
    let mut memory = blank();
    pixels(&mut terminal, &mut memory);
    let rows: Vec<_> = rows.iter().map(|row| (*row, Ink::Text)).collect();
    assert!(memory == expected(&rows, None), "{:?} is not {rows:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn characters_look_as_the_font_says() {
    for first in (b' '..=b'~').step_by(CELLS) {
        let all: Vec<u8> = (first..=b'~').take(CELLS).collect();
        let rows: Vec<&str> = all.chunks(COLUMNS).map(|row| str::from_utf8(row).unwrap()).collect();
        shows(&all, &rows);
    }
}

#[test]
fn lines_end_and_scroll() {
    shows(b"one\ntwo", &["one", "two"]);
    shows(b"one\r\ntwo\r\n", &["one", "two"]);
    shows(b"1\n2\n3\n4\n5", &["2", "3", "4", "5"]);
    shows(b"1\n2\n3\n4\n5\n", &["3", "4", "5"]);
    shows(b"1\n2\n3\n4\n\n\n\n", &[]);
}

#[test]
fn a_full_row_needs_no_second_line_end() {
    shows(b"0123456789\nnext", &["0123456789", "next"]);
    shows(b"0123456789next", &["0123456789", "next"]);
    shows(b"0123456789\rX", &["X123456789"]);
    shows(b"0123456789\x1b[K", &["0123456789"]);
    shows(b"0123456789\x08X", &["01234567X9"]);
    shows(b"0123456789\x1b[DX", &["01234567X9"]);
    shows(b"a\nb\nc\n0123456789d", &["b", "c", "0123456789", "d"]);
}

#[test]
fn controls_move_and_erase() {
    shows(b"ab\x08X\tY\x07\x00", &["aX      Y"]);
    shows(b"123456789\t\tX", &["123456789X"]);
    shows(b"\x08\x08a", &["a"]);
    shows(b"abcdef\r\x1b[2Cx\x1b[K", &["abx"]);
    shows(b"abcdef\x1b[3D\x1b[1K", &["    ef"]);
    shows(b"abcdef\x1b[2K", &[""]);
    shows(b"a\nb\nc\x1b[2A\rX\x1b[1B\x1b[DY", &["X", "Y", "c"]);
    shows(b"a\nb\nc\x1b[2;2Hx\x1b[J", &["a", "bx"]);
    shows(b"a\nb\nc\x1b[2J\x1b[Hx", &["x"]);
    shows(b"a\nb\nc\x1b[2;1H\x1b[1J", &["", "", "c"]);
    shows(b"\x1b[99;99HX\x1b[99A\x1b[99DY", &["Y", "", "", "         X"]);
}

#[test]
fn what_the_line_editor_sends_is_shown_as_on_a_terminal() {
    // A line that is edited in the middle: all of it again, and back.
    shows(b"vm> wak\rvm> walk\x1b[K\x1b[1D", &["vm> walk"]);
    shows(b"vm> maps\rvm> ps\x1b[K", &["vm> ps"]);
}

#[test]
fn what_is_not_understood_is_no_text() {
    shows(b"\x1b[?25la\x1b7b\x1b[99999999999999;;;;;;;;;;;;1Xc\x1b(", &["abc"]);
    shows("é→x".as_bytes(), &["??x"]);
    shows(b"\x1b[1\x1b[2Kx", &["x"]);
}

#[test]
fn colours_are_those_of_the_palette() {
    let mut terminal = terminal();
    terminal.write(b"\x1b[36mvm> \n\x1b[0;1mbright\n\x1b[31mbad\x1b[m\nusual");
    terminal.show_cursor(true);
    let mut memory = blank();
    pixels(&mut terminal, &mut memory);
    let rows = [("vm> ", Ink::Accent), ("bright", Ink::Bright), ("bad", Ink::Bad), ("usual", Ink::Text)];
    assert!(memory == expected(&rows, Some((5, 3))));
}

#[test]
fn a_terminal_without_room_takes_everything() {
    for (columns, rows) in [(0, 0), (0, 5), (5, 0), (1, 1), (CELLS + 7, 1), (3, CELLS)] {
        let mut terminal = Terminal::<CELLS>::new();
        terminal.resize(columns, rows);
        terminal.show_cursor(true);
        for byte in 0..=u8::MAX {
            terminal.write(&[byte, b'\n', 0x1b, b'[', b'9', byte]);
        }
        pixels(&mut terminal, &mut vec![0; blank().len()]);
    }
}

/// Bytes as a kernel, a line editor and a broken line send them.
fn some_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let pieces: [&[u8]; 14] = [
        b"\n",
        b"\r",
        b"\x08",
        b"\t",
        b"\x1b[K",
        b"\x1b[1K",
        b"\x1b[2K",
        b"\x1b[2J",
        b"\x1b[3D",
        b"\x1b[2A",
        b"\x1b[H",
        b"\x1b[2;3H",
        b"vm> ",
        b"0123456789",
    ];
    let mut bytes = Vec::new();
    for _ in 0..next(60) {
        match next(3) {
            0 => bytes.extend_from_slice(pieces[next(pieces.len() as u64) as usize]),
            1 => bytes.push(b'a' + next(26) as u8),
            _ => bytes.push(next(256) as u8),
        }
    }
    bytes
}

/// What was drawn in steps, at any moments, is what is drawn at once; and nothing but what has changed is drawn.
#[test]
fn steps_lead_to_the_same_as_one_drawing() {
    for seed in 0..400 {
        let bytes = some_bytes(seed);
        let (mut stepped, mut whole) = (terminal(), terminal());
        let (mut by_steps, mut at_once) = (blank(), blank());
        for (number, part) in bytes.chunks(1 + seed as usize % 7).enumerate() {
            stepped.write(part);
            stepped.show_cursor(number % 3 == 0);
            pixels(&mut stepped, &mut by_steps);
        }
        stepped.show_cursor(seed % 2 == 0);
        pixels(&mut stepped, &mut by_steps);
        whole.write(&bytes);
        whole.show_cursor(seed % 2 == 0);
        pixels(&mut whole, &mut at_once);
        assert!(by_steps == at_once, "seed {seed}: {:?}", String::from_utf8_lossy(&bytes));
        // Nothing has changed since: a surface that somebody else has painted stays as it is.
        by_steps.fill(7);
        pixels(&mut stepped, &mut by_steps);
        assert!(by_steps.iter().all(|pixel| *pixel == 7));
        stepped.redraw();
        pixels(&mut stepped, &mut by_steps);
        let (width, height) = (size().0 as usize, size().1 as usize);
        let border =
            |at: usize| at / width < 2 || at / width >= height - 2 || at % width < 3 || at % width >= width - 3;
        for (at, pixel) in by_steps.iter().enumerate() {
            assert_eq!(*pixel, if border(at) { 7 } else { at_once[at] }, "seed {seed}, pixel {at}");
        }
    }
}
