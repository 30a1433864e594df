//! What became of a row.

use std::fmt;
use std::time::Duration;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Clean,
    /// It could not be run here.
    Skipped(String),
    Found {
        count: u64,
        details: String,
    },
}

/// A row that was run, or skipped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) row: String,
    /// How many of what.
    pub(crate) cases: String,
    pub(crate) took: Duration,
    pub(crate) verdict: Verdict,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs();
        let time = format!("{}:{:02}", seconds / 60, seconds % 60);
        write!(f, "{:<16} {:>36} {time:>10}  ", self.row, self.cases)?;
        match &self.verdict {
            Verdict::Clean => f.write_str("none"),
            Verdict::Skipped(reason) => write!(f, "skipped: {reason}"),
            Verdict::Found { count: 1, .. } => f.write_str("1 finding"),
            Verdict::Found { count, .. } => write!(f, "{count} findings"),
        }
    }
}

/// Adds up what stands before a word in a text: `3` and `4` of "3 passed; … 4 passed".
pub(crate) fn sum_before(text: &str, word: &str) -> u64 {
    let mut sum = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split([' ', ';', ',']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if pair[1] == word {
                sum += pair[0].parse::<u64>().unwrap_or(0);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_before_a_word_are_added_up() {
        let text =
            "test result: ok. 3 passed; 0 failed; 1 ignored\nx\ntest result: FAILED. 4 passed; 2 failed; 0 ignored";
        assert_eq!((sum_before(text, "passed"), sum_before(text, "failed")), (7, 2));
        assert_eq!(sum_before("12 operations, 30 accesses", "operations"), 12);
        assert_eq!(sum_before("passed", "passed"), 0);
    }
}
