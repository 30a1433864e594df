//! The serial line's text, as lines and as it came, kept within bounds.

/// How the kernel's log begins.
const FIRST_LINE: &str = "refkernel: booted through ";
/// What the kernel says when the picture may be taken; it goes on after one byte on the serial line.
pub(super) const PICTURE_READY: &str = "refkernel: picture ready";
/// How many lines of the log are kept; a kernel that never stops writing must not use up the host's memory.
const KEPT_LINES: usize = 100_000;
/// How much of it is kept as it came.
const KEPT_BYTES: usize = 1 << 22;
/// The longest line that is kept in one piece.
const LONGEST_LINE: usize = 64 * 1024;

/// The serial line's text, as lines.
#[derive(Default)]
pub(super) struct Log {
    strip: anstream::adapter::StripBytes,
    pub(super) lines: Vec<String>,
    pub(super) partial: Vec<u8>,
    /// What came, from the kernel's first line on.
    pub(super) raw: Vec<u8>,
    /// The kernel's first line was there.
    pub(super) kernel: bool,
}

impl Log {
    /// Takes bytes; gives the text to show, and whether the kernel now waits for its picture to be taken.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (String, bool) {
        // Firmware clears the screen and moves the cursor: on a person's terminal that would destroy what is there.
        let mut plain = Vec::with_capacity(bytes.len());
        self.keep(bytes);
        for part in self.strip.strip_next(bytes) {
            plain.extend(part.iter().filter(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~' | 0x80..)));
        }
        let mut ready = false;
        for byte in &plain {
            if *byte == b'\n' || self.partial.len() == LONGEST_LINE {
                ready |= self.end_line();
            }
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
        }
        (String::from_utf8_lossy(&plain).into_owned(), ready)
    }

    /// Keeps what came as it came, from the kernel's first line on.
    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES.saturating_sub(self.raw.len()).min(bytes.len());
        self.raw.extend_from_slice(bytes.get(..room).unwrap_or_default());
        if !self.raw.starts_with(FIRST_LINE.as_bytes()) {
            let first = FIRST_LINE.as_bytes();
            let start = self.raw.windows(first.len()).position(|part| part == first);
            // Its beginning may be the end of what is there.
            let start = start.unwrap_or(self.raw.len().saturating_sub(first.len()));
            self.raw.drain(..start);
        }
    }

    fn end_line(&mut self) -> bool {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        self.kernel |= line.starts_with(FIRST_LINE);
        let ready = line.trim_end() == PICTURE_READY;
        if self.lines.len() < KEPT_LINES {
            self.lines.push(line);
        }
        ready
    }

    /// Keeps what came after the last line end.
    pub(super) fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_cleaned() {
        let mut log = Log::default();
        let (text, _) = log.take(b"\x1b[2J\x1b[01;01Hrefkernel: boo");
        assert_eq!(text, "refkernel: boo");
        assert!(!log.kernel);
        log.take(b"ted through pvh\r\n\x1b[3");
        log.take(b"1mred\r\n> ");
        log.finish();
        assert!(log.kernel);
        assert_eq!(log.raw, b"refkernel: booted through pvh\r\n\x1b[31mred\r\n> ");
        assert_eq!(log.lines, ["refkernel: booted through pvh", "red", "> "]);
    }

    #[test]
    fn the_moment_for_the_picture_is_a_whole_line() {
        let mut log = Log::default();
        assert!(!log.take(b"refkernel: picture ready").1);
        assert!(log.take(b"\r\n").1);
        assert!(!log.take(b"is refkernel: picture ready\n").1);
    }

    #[test]
    fn a_kernel_that_never_stops_writing_does_not_fill_the_memory() {
        let mut log = Log::default();
        log.take(&vec![b'x'; 3 * LONGEST_LINE]);
        assert!(log.partial.len() <= LONGEST_LINE);
        log.take(&vec![b'\n'; 2 * KEPT_LINES]);
        assert_eq!(log.lines.len(), KEPT_LINES);
    }
}
