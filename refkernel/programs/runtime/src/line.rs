//! A line of text, written to the log with one call, so that lines of several programs do not mix.

use core::fmt;

use crate::call;

/// The most bytes of a line; what is longer is cut and marked with an ellipsis.
pub const LENGTH_MAX: usize = 240;

/// A line that is being put together.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; LENGTH_MAX],
    length: usize,
    cut: bool,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; LENGTH_MAX], length: 0, cut: false }
    }

    /// Ends the line and writes it. A log that does not take it is not the program's to mend.
    pub fn send(mut self) {
        const END: &[u8] = b"\n";
        const CUT: &[u8] = b"...\n";
        let end = if self.cut { CUT } else { END };
        if let Some(place) = self.bytes.get_mut(self.length..self.length + end.len()) {
            place.copy_from_slice(end);
            self.length += end.len();
        }
        if let Some(text) = self.bytes.get(..self.length) {
            let _ = call::write(text);
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Four bytes stay free for the end of the line.
        let room = LENGTH_MAX - 4 - self.length;
        self.cut |= text.len() > room;
        let taken = text.len().min(room);
        let place = self.bytes.get_mut(self.length..self.length + taken);
        if let (Some(place), Some(text)) = (place, text.as_bytes().get(..taken)) {
            place.copy_from_slice(text);
            self.length += taken;
        }
        Ok(())
    }
}

/// Writes one line to the log, as `println!` would.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        let mut line = $crate::line::Line::new();
        let _ = ::core::fmt::Write::write_fmt(&mut line, ::core::format_args!($($argument)*));
        line.send();
    }};
}
