//! What an ended process may have left behind that is no frame: places in the kernel's tables, of which there are only so many.

use crate::{address_wait, channel, process};
use core::fmt;

/// What is taken, of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Leftovers {
    processes: usize,
    channels: usize,
    /// Threads that wait for a word, or for a message.
    waits: usize,
}

impl Leftovers {
    /// What is taken now.
    pub(crate) fn now() -> Self {
        let (channels, receivers) = channel::counts();
        Self { processes: process::all().count(), channels, waits: address_wait::waiting() + receivers }
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, channels, waits } = self;
        write!(formatter, "{processes} processes, {channels} channels, {waits} waiting threads")
    }
}
