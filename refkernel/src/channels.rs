//! Channels: two ends each, a bounded queue to either, and who waits there. What is in a message is its owner's; no memory is moved here.
//!
//! ```text
//!        end 0                                end 1
//!     ┌─────────┐   queue: what 1 sent     ┌─────────┐
//!     │ handles │ ◄── m m m ◄───────────── │ handles │
//!     │         │ ──────────────► m m ──►  │         │      an end is closed when its last handle is gone
//!     └─────────┘   queue: what 0 sent     └─────────┘
//! ```
//!
//! # Ends that are in messages
//!
//! A message may carry ends of channels. An end that is in a queue is *on its way*; an end to whose queue such a message is on its way *awaits ends*. No end is ever both. Else the last handle of an
//! end could lie in the end's own queue, directly or round several corners: nobody could receive it, or ever close it. So messages lead to messages once at
//! the most, and closing an end comes to an end.
//!
//! # Invariants
//!
//! - Messages in a queue, places that are kept for some, and messages that were taken out and may come back are at most [`QUEUE_LENGTH`].
//! - The queue of a closed end is emptied by who closed it; then, when both are closed, the channel is gone, and its [`End`]s name nothing.

use core::fmt;

use crate::wait_queues::{Ticket, WaitKey, WaitQueues};

/// Messages for one end.
pub const QUEUE_LENGTH: usize = refkernel_abi::QUEUE_LENGTH_MAX;

/// One end of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    channel: u16,
    side: u8,
    generation: u32,
}

impl End {
    /// No end of any channel.
    pub const NONE: Self = Self { channel: u16::MAX, side: 0, generation: 0 };

    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        Self { side: self.side ^ 1, ..self }
    }
}

impl WaitKey for End {
    fn hash(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.channel) << 1 | u64::from(self.side)
    }
}

/// What is sent.
pub trait Message {
    /// The ends of channels that it carries.
    fn ends(&self) -> impl Iterator<Item = End>;
}

/// Why something asked of a channel was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelError {
    /// One of the ends is closed.
    Closed,
    /// The queue is full.
    QueueFull,
    /// An end on its way would await one, or the other way round.
    OnItsWay,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Closed => "one of the channel's ends is closed",
            Self::QueueFull => "the queue is full: receive something first",
            Self::OnItsWay => "an end that is on its way cannot carry another one: receive it first",
        })
    }
}

impl core::error::Error for ChannelError {}

/// Where a message goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<W> {
    /// To this one who waits, and is claimed.
    Waiting(Ticket, W),
    /// Into the queue, in which a place is kept for it.
    Queue,
}

/// What there is to receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<M> {
    /// The first message, taken out; its place is kept for the case that it comes back.
    Message(M),
    /// The first message is not wanted.
    Unwanted,
    /// Nothing yet.
    Nothing,
}

#[derive(Debug)]
struct Side<M> {
    /// Handles of this end, those in messages included.
    handles: u32,
    /// Of these, the ones in queues.
    on_way: u32,
    /// Ends in the messages of this end's queue.
    awaited: u32,
    /// Places in the queue that are kept.
    kept: usize,
    queue: [Option<M>; QUEUE_LENGTH],
    first: usize,
    count: usize,
}

impl<M> Side<M> {
    const fn new() -> Self {
        let queue = [const { None }; QUEUE_LENGTH];
        Self { handles: 0, on_way: 0, awaited: 0, kept: 0, queue, first: 0, count: 0 }
    }

    const fn is_closed(&self) -> bool {
        self.handles == 0
    }

    fn peek(&self) -> Option<&M> {
        self.queue.get(self.first)?.as_ref()
    }

    fn push_back(&mut self, message: M) {
        if let Some(place) = self.queue.get_mut((self.first + self.count) % QUEUE_LENGTH) {
            *place = Some(message);
            self.count += 1;
        }
    }

    fn push_front(&mut self, message: M) {
        self.first = (self.first + QUEUE_LENGTH - 1) % QUEUE_LENGTH;
        if let Some(place) = self.queue.get_mut(self.first) {
            *place = Some(message);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<M> {
        let message = self.queue.get_mut(self.first)?.take()?;
        self.first = (self.first + 1) % QUEUE_LENGTH;
        self.count -= 1;
        Some(message)
    }
}

#[derive(Debug)]
struct Channel<M> {
    generation: u32,
    is_open: bool,
    sides: [Side<M>; 2],
}

/// Up to `N` channels (fewer than 65,536), at which up to `WAITS` wait: each with a `W`, until it gets an `R`.
#[derive(Debug)]
pub struct Channels<M, W, R, const N: usize, const WAITS: usize> {
    channels: [Channel<M>; N],
    /// Who waits to receive, by the end.
    pub waits: WaitQueues<End, W, R, WAITS>,
}

impl<M: Message, W: Clone, R, const N: usize, const WAITS: usize> Channels<M, W, R, N, WAITS> {
    /// No channel.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N < u16::MAX as usize, "a channel must fit an end") };
        let channels = [const { Channel { generation: 0, is_open: false, sides: [const { Side::new() }; 2] } }; N];
        Self { channels, waits: WaitQueues::new() }
    }

    /// Makes a channel with one handle of each end. O(N). `None` where there is no place for it.
    pub fn open(&mut self) -> Option<[End; 2]> {
        let (index, channel) = self.channels.iter_mut().enumerate().find(|(_, channel)| !channel.is_open)?;
        channel.is_open = true;
        let (number, generation) = (u16::try_from(index).ok()?, channel.generation);
        for side in &mut channel.sides {
            side.handles = 1;
        }
        Some([0, 1].map(|side| End { channel: number, side, generation }))
    }

    fn channel(&mut self, end: End) -> Option<&mut Channel<M>> {
        let channel = self.channels.get_mut(usize::from(end.channel))?;
        (channel.is_open && channel.generation == end.generation).then_some(channel)
    }

    fn side(&mut self, end: End) -> Option<&mut Side<M>> {
        self.channel(end)?.sides.get_mut(usize::from(end.side))
    }

    /// One more handle of an end that has one. O(1).
    pub fn add_handle(&mut self, end: End) {
        if let Some(side) = self.side(end) {
            side.handles += 1;
        }
    }

    /// One handle less. O(1). True if it was the last: then whoever waits at either end is to be woken, and the end [emptied](Self::take_orphan).
    #[must_use]
    pub fn drop_handle(&mut self, end: End) -> bool {
        let Some(side) = self.side(end).filter(|side| !side.is_closed()) else { return false };
        side.handles -= 1;
        let closed = side.is_closed();
        self.free(end);
        closed
    }

    /// Takes a message out of the queue of an end that is closed: nobody will receive it. O(the ends that it carries). `None` if none is left.
    pub fn take_orphan(&mut self, end: End) -> Option<M> {
        let message = self.side(end).filter(|side| side.is_closed())?.pop()?;
        self.note_arrived(end, &message);
        self.free(end);
        Some(message)
    }

    /// Gives the place of a channel back of which nothing is left.
    fn free(&mut self, end: End) {
        if let Some(channel) = self.channel(end)
            && channel.sides.iter().all(|side| side.is_closed() && side.count == 0)
        {
            channel.is_open = false;
            channel.generation = channel.generation.wrapping_add(1);
            for side in &mut channel.sides {
                (side.kept, side.on_way, side.awaited) = (0, 0, 0);
            }
        }
    }

    /// Whether a message with these ends may be put into the queue of `to`.
    fn may_carry(&mut self, to: End, ends: impl Iterator<Item = End>) -> Result<(), ChannelError> {
        let to_on_way = self.side(to).is_some_and(|side| side.on_way != 0);
        for end in ends {
            let awaits = self.side(end).is_some_and(|side| side.awaited != 0);
            if to_on_way || awaits || end == to {
                return Err(ChannelError::OnItsWay);
            }
        }
        Ok(())
    }

    /// Notes that the ends of a message are on their way to `to`.
    fn note_sent(&mut self, to: End, message: &M) {
        for end in message.ends() {
            if let Some(side) = self.side(end) {
                side.on_way += 1;
            }
            if let Some(side) = self.side(to) {
                side.awaited += 1;
            }
        }
    }

    /// Notes that they are there.
    fn note_arrived(&mut self, to: End, message: &M) {
        for end in message.ends() {
            if let Some(side) = self.side(end) {
                side.on_way = side.on_way.saturating_sub(1);
            }
            if let Some(side) = self.side(to) {
                side.awaited = side.awaited.saturating_sub(1);
            }
        }
    }

    /// Both sides of an end that can send: its own and the other's.
    fn open_sides(&mut self, from: End) -> Result<(), ChannelError> {
        let open = self.channel(from).is_some_and(|channel| channel.sides.iter().all(|side| !side.is_closed()));
        if open { Ok(()) } else { Err(ChannelError::Closed) }
    }

    /// Begins to send a message that carries these ends: finds where it goes. What is begun is [pushed](Self::push) or [given up](Self::give_up) if it goes to the queue, else the
    /// wait of who waits is finished. To one who waits only if `straight`. O(ends + those that wait).
    ///
    /// # Errors
    ///
    /// [`ChannelError`]; nothing is changed.
    pub fn begin(&mut self, from: End, ends: &[End], straight: bool) -> Result<Target<W>, ChannelError> {
        let to = from.other();
        self.open_sides(from)?;
        self.may_carry(to, ends.iter().copied())?;
        // No message overtakes another one.
        if straight
            && self.side(to).is_some_and(|side| side.count == 0)
            && let Some((ticket, value)) = self.waits.claim(to)
        {
            return Ok(Target::Waiting(ticket, value));
        }
        let side = self.side(to).ok_or(ChannelError::Closed)?;
        if side.count + side.kept >= QUEUE_LENGTH {
            return Err(ChannelError::QueueFull);
        }
        side.kept += 1;
        Ok(Target::Queue)
    }

    /// Puts a message into the queue in which a place is kept for it. O(the ends that it carries).
    ///
    /// # Errors
    ///
    /// The message, and why it cannot be there any more.
    pub fn push(&mut self, from: End, message: M) -> Result<(), (M, ChannelError)> {
        let to = from.other();
        self.give_up(from);
        if let Err(error) = self.open_sides(from).and_then(|()| self.may_carry(to, message.ends())) {
            return Err((message, error));
        }
        self.note_sent(to, &message);
        if let Some(side) = self.side(to) {
            side.push_back(message);
        }
        Ok(())
    }

    /// Gives up the place in the queue that was kept for a message. O(1).
    pub fn give_up(&mut self, from: End) {
        if let Some(side) = self.side(from.other()) {
            side.kept = side.kept.saturating_sub(1);
        }
    }

    /// Takes the first message out, if `wanted` says so. It is [done with](Self::done) or [comes back](Self::put_back); until then what it carries is on its way.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Closed`]: the end itself, or the other one with nothing left.
    pub fn receive(&mut self, end: End, wanted: impl FnOnce(&M) -> bool) -> Result<Received<M>, ChannelError> {
        let side = self.side(end).filter(|side| !side.is_closed()).ok_or(ChannelError::Closed)?;
        match side.peek() {
            Some(message) if wanted(message) => {}
            Some(_) => return Ok(Received::Unwanted),
            None => {
                self.open_sides(end)?;
                return Ok(Received::Nothing);
            }
        }
        let Some(message) = side.pop() else { return Ok(Received::Nothing) };
        side.kept += 1;
        Ok(Received::Message(message))
    }

    /// A message that was taken out stays so: the ends that it carries have arrived. O(the ends).
    pub fn done(&mut self, end: End, message: &M) {
        self.give_up(end.other());
        self.note_arrived(end, message);
    }

    /// Puts a message that was taken out back as the first one. O(the ends that it carries).
    ///
    /// # Errors
    ///
    /// The message, which is [done](Self::done) with: its end was closed meanwhile.
    pub fn put_back(&mut self, end: End, message: M) -> Result<(), M> {
        match self.side(end).filter(|side| !side.is_closed()) {
            Some(side) => {
                side.kept = side.kept.saturating_sub(1);
                side.push_front(message);
                Ok(())
            }
            None => {
                self.done(end, &message);
                Err(message)
            }
        }
    }

    /// How many channels there are. O(N).
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels.iter().filter(|channel| channel.is_open).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: Message, W: Clone, R, const N: usize, const WAITS: usize> Default for Channels<M, W, R, N, WAITS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
