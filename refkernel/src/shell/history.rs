//! Lines of before, the last ones.
//!
//! A ring: the newest takes the place of the oldest. A line that is the same as the one before it, or empty, is not kept.

use super::line::Line;

/// How many are kept.
pub const LINES: usize = 16;

/// The last lines.
#[derive(Clone, Debug)]
pub struct History {
    lines: [Line; LINES],
    /// Where the next one goes.
    next: usize,
    count: usize,
}

impl History {
    /// No lines.
    #[must_use]
    pub const fn new() -> Self {
        Self { lines: [const { Line::new() }; LINES], next: 0, count: 0 }
    }

    /// The line that was entered `back` lines ago: 0 is the last one.
    #[must_use]
    pub fn get(&self, back: usize) -> Option<&Line> {
        if back >= self.count {
            return None;
        }
        self.lines.get((self.next + 2 * LINES - 1 - back) % LINES)
    }

    /// Keeps a line.
    pub fn push(&mut self, line: &Line) {
        if line.text().is_empty() || self.get(0).is_some_and(|last| last.text() == line.text()) {
            return;
        }
        if let Some(slot) = self.lines.get_mut(self.next) {
            *slot = line.clone();
        }
        self.next = (self.next + 1) % LINES;
        self.count = (self.count + 1).min(LINES);
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(history: &History) -> Vec<&str> {
        (0..).map_while(|back| history.get(back)).map(Line::text).collect()
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut history = History::new();
        assert!(texts(&history).is_empty());
        for number in 0..LINES + 3 {
            history.push(&Line::from_text(&number.to_string()));
        }
        let wanted: Vec<String> = (3..LINES + 3).rev().map(|number| number.to_string()).collect();
        assert_eq!(texts(&history), wanted);
    }

    #[test]
    fn nothing_and_the_same_again_are_not_kept() {
        let mut history = History::new();
        for text in ["a", "a", "", "b", "a"] {
            history.push(&Line::from_text(text));
        }
        assert_eq!(texts(&history), ["a", "b", "a"]);
    }
}
