//! How many tests passed, failed and were skipped, and how many must pass.

use std::{fmt, ops::AddAssign, path::Path};

use anyhow::{Context as _, Result, bail};

/// A count of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Count {
    /// Whether something ran and nothing failed.
    pub(crate) fn is_success(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The least number of tests that must pass in each half.
///
/// A test that is no longer compiled or no longer called would otherwise go unnoticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Minimum {
    pub(crate) host: u32,
    pub(crate) boot: u32,
}

impl Minimum {
    /// Reads the file: a line `host N` and a line `boot N`; `#` begins a comment.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let (mut host, mut boot) = (None, None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let number = line.split_once(' ').and_then(|(half, number)| {
                let number = number.trim().parse().ok()?;
                match half {
                    "host" => host.replace(number),
                    "boot" => boot.replace(number),
                    _ => return None,
                };
                Some(())
            });
            if number.is_none() {
                bail!("the line `{line}` is neither `host N` nor `boot N`");
            }
        }
        match (host, boot) {
            (Some(host), Some(boot)) => Ok(Self { host, boot }),
            _ => bail!("both a line `host N` and a line `boot N` are needed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_needs_a_test_that_passed_and_none_that_failed() {
        let count = |passed, failed, skipped| Count { passed, failed, skipped };
        assert!(count(1, 0, 3).is_success());
        assert!(!count(0, 0, 3).is_success());
        assert!(!count(9, 1, 0).is_success());
        let mut sum = count(1, 2, 3);
        sum += count(10, 20, 30);
        assert_eq!(sum.to_string(), "11 passed, 22 failed, 33 skipped");
    }

    #[test]
    fn the_minimum_is_read_whole_or_not_at_all() {
        assert_eq!(Minimum::parse("# why\nhost 12\n\nboot 3\n").unwrap(), Minimum { host: 12, boot: 3 });
        for wrong in ["", "host 1", "host 1\nboot", "host 1\nboot -1", "host 1\nboot 1\nmoon 1"] {
            assert!(Minimum::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
