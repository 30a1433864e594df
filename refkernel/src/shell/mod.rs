//! The prompt at which a person asks the kernel: keys, a line that is edited, and the language of the questions.
//!
//! ```text
//!   bytes of the serial line ──► keys ──► line (history, completion) ──► command ──► the kernel's answer
//!   codes of the keyboard ───────┘
//! ```
//!
//! | file | what lives there |
//! |---|---|
//! | [`keyboard`] | from the codes of a keyboard to keys |
//! | [`keys`] | from bytes, as terminals send them, to keys |
//! | [`mod@line`] | the line that is being written, as a terminal shows it |
//! | [`history`] | lines of before |
//! | [`command`] | what can be asked, and what a line asks |
//! | [`complete`] | what a word may become |
//!
//! Nothing here touches hardware or takes memory, and no input ends in a panic: whatever comes over a serial line is an answer or an error.

pub mod command;
pub mod complete;
pub mod history;
pub mod keyboard;
pub mod keys;
pub mod line;
