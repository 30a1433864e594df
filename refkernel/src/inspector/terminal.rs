//! The serial line as the inspector uses it: bytes when somebody types, lines of an answer, and Ctrl-C in the middle of one.

use crate::devices::serial::{self, Received};
use crate::thread::{scheduler, sleep};
use core::cell::Cell;
use core::fmt::{self, Write};

/// Ctrl-C.
const INTERRUPT: u8 = 3;
/// How often the line is asked without a pause after something came: what follows closely is not waited for.
const EAGER: u32 = 2_000;
/// How long nobody asks the line then, in microseconds: less than it takes at 115,200 baud to fill 16 bytes, but for the tick that ends a wait.
const PAUSE: u64 = 1_000;
/// Bytes that are kept while an answer is written.
const AHEAD: usize = 128;

/// What comes in.
pub(super) struct Input {
    /// Bytes that came while nobody waited for them.
    ahead: [Cell<u8>; AHEAD],
    first: Cell<usize>,
    count: Cell<usize>,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self { ahead: [const { Cell::new(0) }; AHEAD], first: Cell::new(0), count: Cell::new(0) }
    }

    fn take_kept(&self) -> Option<u8> {
        let left = self.count.get().checked_sub(1)?;
        let byte = self.ahead.get(self.first.get())?.get();
        self.first.set((self.first.get() + 1) % AHEAD);
        self.count.set(left);
        Some(byte)
    }

    /// Waits for the next byte, other threads running meanwhile; `None` where there is no serial line.
    pub(super) fn wait(&self) -> Option<u8> {
        if let Some(byte) = self.take_kept() {
            return Some(byte);
        }
        loop {
            for _ in 0..EAGER {
                match serial::poll() {
                    Received::Byte(byte) => return Some(byte),
                    Received::Nothing => crate::memory::relax(),
                    Received::NoPort => return None,
                }
            }
            sleep::sleep_microseconds(PAUSE);
        }
    }

    /// Whether Ctrl-C has come. What else has is kept for the next line; where there is no room for it the line is left alone, and holds whoever sends.
    pub(super) fn is_interrupted(&self) -> bool {
        while self.count.get() < AHEAD
            && let Received::Byte(byte) = serial::poll()
        {
            if byte == INTERRUPT {
                return true;
            }
            if let Some(slot) = self.ahead.get((self.first.get() + self.count.get()) % AHEAD) {
                slot.set(byte);
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
