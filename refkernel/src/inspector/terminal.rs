//! The serial line, keyboard and screen as the inspector uses them: keys when somebody types, lines of an answer, and Ctrl-C in the middle of one.

use crate::devices::input::{self, Typed};
use crate::devices::serial;
use crate::screen;
use crate::thread::{scheduler, sleep};
use core::cell::Cell;
use core::fmt::{self, Write};

/// How long somebody who waits for something else sleeps before the next look, in microseconds.
const PAUSE: u64 = 1_000;
/// What was typed while an answer is written is kept, so much of it.
const AHEAD: usize = 128;

/// What comes in.
pub(super) struct Input {
    /// What came while nobody waited for it.
    ahead: [Cell<Option<Typed>>; AHEAD],
    first: Cell<usize>,
    count: Cell<usize>,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self { ahead: [const { Cell::new(None) }; AHEAD], first: Cell::new(0), count: Cell::new(0) }
    }

    fn take_kept(&self) -> Option<Typed> {
        let left = self.count.get().checked_sub(1)?;
        let typed = self.ahead.get(self.first.get())?.get();
        self.first.set((self.first.get() + 1) % AHEAD);
        self.count.set(left);
        typed
    }

    /// Waits for the next key or byte, other threads running meanwhile; `None` where nobody can type. The picture, if it is shown, is put away.
    pub(super) fn wait(&self) -> Option<Typed> {
        if let Some(typed) = self.take_kept() {
            return Some(typed);
        }
        screen::show_cursor(true);
        let typed = input::wait();
        screen::show_cursor(false);
        screen::show_text();
        typed
    }

    /// Whether Ctrl-C has come. What else has is kept for the next line; where there is no room for it it is left alone, and holds whoever sends.
    pub(super) fn is_interrupted(&self) -> bool {
        while self.count.get() < AHEAD
            && let Some(typed) = input::poll()
        {
            if typed.is_interrupt() {
                return true;
            }
            if let Some(slot) = self.ahead.get((self.first.get() + self.count.get()) % AHEAD) {
                slot.set(Some(typed));
                self.count.set(self.count.get() + 1);
            }
        }
        false
    }

    /// Lets others run for a moment, for who waits for something else.
    pub(super) fn pause() {
        scheduler::yield_now();
        sleep::sleep_microseconds(PAUSE);
    }
}

/// Where answers go: whole lines, so that those of other threads stand between them and not in them. After Ctrl-C every further line is an error,
/// which ends the answer.
pub(super) struct Out<'a> {
    buffer: [u8; 192],
    length: usize,
    input: &'a Input,
    breaks: bool,
}

impl<'a> Out<'a> {
    pub(super) const fn new(input: &'a Input) -> Self {
        Self { buffer: [0; 192], length: 0, input, breaks: true }
    }

    /// For what is written while a line is typed: Ctrl-C is a key there.
    pub(super) const fn without_breaks(mut self) -> Self {
        self.breaks = false;
        self
    }

    /// Sends what was written.
    pub(super) fn flush(&mut self) {
        if let Some(bytes) = self.buffer.get(..self.length).filter(|bytes| !bytes.is_empty()) {
            serial::bytes(bytes);
        }
        self.length = 0;
    }

    /// Says that an answer was ended by Ctrl-C.
    pub(super) fn stopped(&mut self) {
        self.flush();
        serial::bytes(b"^C\n");
    }
}

impl Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.buffer.len() {
                self.flush();
            }
            if let Some(slot) = self.buffer.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
            if byte == b'\n' {
                self.flush();
                if self.breaks && self.input.is_interrupted() {
                    return Err(fmt::Error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
