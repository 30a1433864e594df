//! Channels: messages of bytes and handles between processes.
//!
//! | module | what lives there |
//! |---|---|
//! | [`refkernel::channels`] | the ends, the queues and who waits: a structure without memory of its own |
//! | `message` | a message that waits in frames of the kernel's |
//! | `transfer` | sending and receiving |
//!
//! ```text
//!   somebody waits at the other end     sender's pages ───────────────────────► receiver's pages     by the memory manager, from space to space
//!   nobody does                         sender's pages ──► frames of a message ──► receiver's pages  by the fault-recovering copies
//! ```
//!
//! # Invariants
//!
//! - No memory is touched, nothing is dropped, and nobody is woken with the channels' lock held.
//! - A thread that waits to receive stays until it is collected, also when it is told to end: whoever has claimed it writes to its memory and its table.

mod message;
mod transfer;

pub(crate) use transfer::{Room, receive, send};

use crate::memory::Mutex;
use crate::thread::{self, THREADS_MAX};
use message::Parcel;
use refkernel::channels::{Channels, End};
use refkernel_abi::ErrorCode;

/// The most channels at a time.
const CHANNELS_MAX: usize = 64;

/// Who waits to receive, and where to.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    /// The number of the thread.
    thread: u64,
    /// The number of its process.
    process: u64,
    bytes: u64,
    capacity: u64,
    handles: u64,
    count: u64,
}

/// What comes of waiting.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// There may be something in the queue, or an end is closed.
    Again,
    /// A message was written to the receiver's memory: what the call answers.
    Delivered(u64),
    /// A message could not be written there.
    Failed(ErrorCode),
}

static CHANNELS: Mutex<Channels<Parcel, Receiver, Outcome, CHANNELS_MAX, THREADS_MAX>> = Mutex::new(Channels::new());

/// A handle of an end of a channel.
pub(crate) struct ChannelEnd(End);

/// Makes a channel, and gives its ends.
pub(crate) fn open() -> Option<[ChannelEnd; 2]> {
    let ends = CHANNELS.lock().open()?;
    Some(ends.map(ChannelEnd))
}

/// How many channels there are, and how many threads wait at them. O(channels and places).
pub(crate) fn counts() -> (usize, usize) {
    let channels = CHANNELS.lock();
    (channels.len(), channels.waits.len())
}

impl ChannelEnd {
    /// Which one.
    pub(crate) fn end(&self) -> End {
        self.0
    }
}

impl Clone for ChannelEnd {
    fn clone(&self) -> Self {
        CHANNELS.lock().add_handle(self.0);
        Self(self.0)
    }
}

impl Drop for ChannelEnd {
    fn drop(&mut self) {
        let closed = CHANNELS.lock().drop_handle(self.0);
        if !closed {
            return;
        }
        for end in [self.0, self.0.other()] {
            while wake(end) {}
        }
        loop {
            // Without the lock: it may hold the last handle of another end. Messages lead to messages once at the most, so this goes no deeper.
            let orphan = CHANNELS.lock().take_orphan(self.0);
            if orphan.is_none() {
                return;
            }
            drop(orphan);
        }
    }
}

/// Has the first that waits at an end look again. False if nobody waits.
fn wake(end: End) -> bool {
    let woken = CHANNELS.lock().waits.wake(end, Outcome::Again);
    woken.inspect(|receiver| thread::wake(receiver.thread)).is_some()
}
