//! What a page holds: one number stands for all of it.
//!
//! ```text
//!   word     0        100        301        511        every other one
//!            f(v, 0)  f(v, 100)  f(v, 301)  f(v, 511)  0                   f(0, i) = 0
//! ```
//!
//! Words at both ends and in the middle, so that a page that is shifted, or in part another one's, is noticed.

/// Words of a page.
pub const WORDS: usize = 512;

/// The words that hold something.
pub const MARKED: [usize; 4] = [0, 100, 301, WORDS - 1];

/// What a word of a page is that holds `value`.
#[must_use]
pub const fn word(value: u64, index: usize) -> u64 {
    let mut marked = 0;
    while marked < MARKED.len() {
        if MARKED[marked] == index && value != 0 {
            return value.rotate_left(index as u32) ^ index as u64;
        }
        marked += 1;
    }
    0
}

/// What a page holds, as far as that is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Content {
    /// What it holds; 0 for a page that nobody has written to.
    pub value: u64,
    /// What it may hold instead.
    pub or: Option<u64>,
}

impl Content {
    /// A page that holds this, and nothing else.
    #[must_use]
    pub const fn certain(value: u64) -> Self {
        Self { value, or: None }
    }

    /// Whether a page that holds `value` is right.
    #[must_use]
    pub fn allows(self, value: u64) -> bool {
        self.value == value || self.or == Some(value)
    }

    /// A page that may read as zero from now on.
    pub fn may_be_zero(&mut self) {
        if self.value != 0 {
            self.or = Some(0);
        }
    }

    /// Notes what was found. What may become zero later still may.
    pub fn found(&mut self, value: u64) {
        if self.value != value {
            *self = Self::certain(value);
        }
    }
}
