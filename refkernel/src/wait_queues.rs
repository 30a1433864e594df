//! Who waits for what, first come first served: queues by key over a fixed number of places, without a heap.
//!
//! ```text
//!                     claim                    finish
//!   wait ──► waiting ───────► claimed ─────────────────► finished ──► collect: the place is free
//!              │
//!       cancel │                            claim and finish in one: a wake
//!              ▼
//!         the place is free
//! ```
//!
//! Whoever waits does so with a ticket, and looks by it how far things are. A claim is somebody's who is about to serve the one that waits, and needs
//! that one to stay until it is finished: the ticket is neither cancelled nor collected meanwhile. Who is not served after all is told to look again.
//!
//! # Invariants
//!
//! A place is in the list of its bucket exactly while its ticket waits. The lists are doubly linked through the places: all but finding the first
//! of a key is O(1), and that is O(those that wait in the bucket). Tickets count their place's generations, so that an old one names nothing.

/// What is waited for.
pub trait WaitKey: Copy + Eq {
    /// Bits that differ for most different keys.
    fn hash(self) -> u64;
}

/// Lists; a power of two.
const BUCKETS: usize = 32;

type Index = u16;

/// Names one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    place: Index,
    generation: u64,
}

/// How far a wait is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody has looked at it yet.
    Waiting,
    /// Somebody is about to serve it.
    Claimed,
    /// It is over, and can be collected.
    Finished,
    /// The ticket names nothing (any more).
    Unknown,
}

#[derive(Debug)]
enum Content<V, R> {
    Free,
    Waiting(V),
    Claimed(V),
    Finished(V, R),
}

#[derive(Debug)]
struct Place<K, V, R> {
    generation: u64,
    key: Option<K>,
    content: Content<V, R>,
    /// In the list of the bucket, or of the free places.
    next: Option<Index>,
    before: Option<Index>,
}

/// Up to `N` waits (fewer than 65,536) for things named by a `K`, each with a value of its own; a wait ends with an `R`.
#[derive(Debug)]
pub struct WaitQueues<K, V, R, const N: usize> {
    places: [Place<K, V, R>; N],
    /// The first and the last of each bucket.
    lists: [(Option<Index>, Option<Index>); BUCKETS],
    free: Option<Index>,
    /// Places from here on were never used.
    fresh: usize,
}

impl<K: WaitKey, V: Clone, R, const N: usize> WaitQueues<K, V, R, N> {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N < Index::MAX as usize, "a place must fit an index") };
        Self {
            places: [const { Place { generation: 0, key: None, content: Content::Free, next: None, before: None } }; N],
            lists: [(None, None); BUCKETS],
            free: None,
            fresh: 0,
        }
    }

    fn at(&mut self, index: Index) -> Option<&mut Place<K, V, R>> {
        self.places.get_mut(usize::from(index))
    }

    fn bucket(key: K) -> usize {
        // The multiplication spreads what differs in the low bits only into the high ones, of which five are taken.
        (key.hash().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as usize % BUCKETS
    }

    fn named(&mut self, ticket: Ticket) -> Option<&mut Place<K, V, R>> {
        self.at(ticket.place).filter(|place| place.generation == ticket.generation)
    }

    /// Links a place into the list of its key, as the last one.
    fn link(&mut self, index: Index, key: K) {
        let bucket = Self::bucket(key);
        let Some((_, tail)) = self.lists.get(bucket).copied() else { return };
        if let Some(place) = self.at(index) {
            (place.before, place.next) = (tail, None);
        }
        if let Some(place) = tail.and_then(|tail| self.at(tail)) {
            place.next = Some(index);
        }
        if let Some((head, tail)) = self.lists.get_mut(bucket) {
            head.get_or_insert(index);
            *tail = Some(index);
        }
    }

    /// Takes a place out of the list of its key.
    fn unlink(&mut self, index: Index, key: K) {
        let Some(place) = self.at(index) else { return };
        let (before, next) = (place.before.take(), place.next.take());
        if let Some(place) = before.and_then(|before| self.at(before)) {
            place.next = next;
        }
        if let Some(place) = next.and_then(|next| self.at(next)) {
            place.before = before;
        }
        if let Some((head, tail)) = self.lists.get_mut(Self::bucket(key)) {
            if before.is_none() {
                *head = next;
            }
            if next.is_none() {
                *tail = before;
            }
        }
    }

    /// Begins to wait, as the last one for this key. O(1).
    ///
    /// # Errors
    ///
    /// The value, where every place is taken.
    pub fn wait(&mut self, key: K, value: V) -> Result<Ticket, V> {
        let index = match self.free {
            Some(index) => {
                self.free = self.at(index).and_then(|place| place.next);
                index
            }
            None if self.fresh < N => {
                self.fresh += 1;
                (self.fresh - 1) as Index
            }
            None => return Err(value),
        };
        let Some(place) = self.at(index) else { return Err(value) };
        (place.key, place.content) = (Some(key), Content::Waiting(value));
        let generation = place.generation;
        self.link(index, key);
        Ok(Ticket { place: index, generation })
    }

    /// How far a wait is. O(1).
    #[must_use]
    pub fn progress(&self, ticket: Ticket) -> Progress {
        match self.places.get(usize::from(ticket.place)).filter(|place| place.generation == ticket.generation) {
            Some(Place { content: Content::Waiting(_), .. }) => Progress::Waiting,
            Some(Place { content: Content::Claimed(_), .. }) => Progress::Claimed,
            Some(Place { content: Content::Finished(..), .. }) => Progress::Finished,
            _ => Progress::Unknown,
        }
    }

    /// The first that waits for a key. O(those in the bucket).
    fn first(&self, key: K) -> Option<Index> {
        let mut next = self.lists.get(Self::bucket(key)).and_then(|(head, _)| *head);
        while let Some(index) = next {
            let place = self.places.get(usize::from(index))?;
            if place.key == Some(key) {
                return Some(index);
            }
            next = place.next;
        }
        None
    }

    /// Whether anybody waits for a key.
    #[must_use]
    pub fn is_awaited(&self, key: K) -> bool {
        self.first(key).is_some()
    }

    /// Claims the first that waits for a key, and gives its ticket and a copy of its value.
    pub fn claim(&mut self, key: K) -> Option<(Ticket, V)> {
        let index = self.first(key)?;
        self.unlink(index, key);
        let place = self.at(index)?;
        let Content::Waiting(value) = core::mem::replace(&mut place.content, Content::Free) else { return None };
        let copy = value.clone();
        place.content = Content::Claimed(value);
        Some((Ticket { place: index, generation: place.generation }, copy))
    }

    /// Ends a wait that was claimed. O(1). False if it was not.
    pub fn finish(&mut self, ticket: Ticket, result: R) -> bool {
        let Some(place) = self.named(ticket) else { return false };
        match core::mem::replace(&mut place.content, Content::Free) {
            Content::Claimed(value) => {
                place.content = Content::Finished(value, result);
                true
            }
            other => {
                place.content = other;
                false
            }
        }
    }

    /// Ends the first wait for a key, and gives a copy of its value.
    pub fn wake(&mut self, key: K, result: R) -> Option<V> {
        let (ticket, value) = self.claim(key)?;
        self.finish(ticket, result);
        Some(value)
    }

    fn free(&mut self, index: Index) -> Content<V, R> {
        let free = self.free;
        let Some(place) = self.at(index) else { return Content::Free };
        let content = core::mem::replace(&mut place.content, Content::Free);
        place.generation += 1;
        (place.key, place.before, place.next) = (None, None, free);
        self.free = Some(index);
        content
    }

    /// Gives up a wait that nobody has claimed. O(1). `None` if somebody has, or it is over.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<V> {
        let place = self.named(ticket)?;
        let (Content::Waiting(_), Some(key)) = (&place.content, place.key) else { return None };
        self.unlink(ticket.place, key);
        match self.free(ticket.place) {
            Content::Waiting(value) => Some(value),
            _ => None,
        }
    }

    /// Takes what came of a wait that is over. O(1). `None` if it is not.
    pub fn collect(&mut self, ticket: Ticket) -> Option<(V, R)> {
        if !matches!(self.named(ticket)?.content, Content::Finished(..)) {
            return None;
        }
        match self.free(ticket.place) {
            Content::Finished(value, result) => Some((value, result)),
            _ => None,
        }
    }

    /// How many places are taken. O(N).
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.iter().filter(|place| !matches!(place.content, Content::Free)).count()
    }

    /// Whether no place is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: WaitKey, V: Clone, R, const N: usize> Default for WaitQueues<K, V, R, N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    impl WaitKey for u64 {
        fn hash(self) -> u64 {
            self
        }
    }

    const PLACES: usize = 6;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Claim(u64),
        Wake(u64),
        Finish(usize),
        Cancel(usize),
        Collect(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Keys 0 and 13, and 1 and 14, may share a bucket or not: both happen among so many.
        let key = || prop::sample::select(vec![0_u64, 1, 13, 14, 32, 64, 1 << 40]);
        let which = || 0_usize..12;
        prop_oneof![
            3 => key().prop_map(Step::Wait),
            2 => key().prop_map(Step::Claim),
            1 => key().prop_map(Step::Wake),
            1 => which().prop_map(Step::Finish),
            1 => which().prop_map(Step::Cancel),
            1 => which().prop_map(Step::Collect),
        ]
    }

    /// What the model knows of one that waits.
    #[derive(Clone, Copy, Debug)]
    struct Waiter {
        ticket: Ticket,
        key: u64,
        value: u32,
        progress: Progress,
        result: u32,
    }

    proptest! {
        /// Against one list of all, in the order in which they are to be served.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec(step(), 0..120)) {
            let mut queues = WaitQueues::<u64, u32, u32, PLACES>::new();
            let mut order: VecDeque<Waiter> = VecDeque::new();
            let mut tickets: Vec<Ticket> = vec![Ticket { place: 3, generation: 9 }, Ticket { place: 999, generation: 0 }];
            for (number, step) in (0_u32..).zip(steps) {
                let named = |which: usize| tickets[tickets.len() - 1 - which % tickets.len()];
                let find = |order: &VecDeque<Waiter>, ticket: Ticket, progress: Progress| {
                    order.iter().position(|waiter| waiter.ticket == ticket && waiter.progress == progress)
                };
                let first = |order: &VecDeque<Waiter>, key: u64| {
                    order.iter().position(|waiter| waiter.key == key && waiter.progress == Progress::Waiting)
                };
                match step {
                    Step::Wait(key) => match queues.wait(key, number) {
                        Ok(ticket) => {
                            prop_assert!(!tickets.contains(&ticket));
                            tickets.push(ticket);
                            order.push_back(Waiter { ticket, key, value: number, progress: Progress::Waiting, result: 0 });
                        }
                        Err(value) => prop_assert_eq!((value, order.len()), (number, PLACES)),
                    },
                    Step::Claim(key) => {
                        let found = first(&order, key);
                        let expected = found.map(|index| (order[index].ticket, order[index].value));
                        prop_assert_eq!(queues.claim(key), expected);
                        if let Some(index) = found {
                            order[index].progress = Progress::Claimed;
                        }
                    }
                    Step::Wake(key) => {
                        let found = first(&order, key);
                        prop_assert_eq!(queues.wake(key, number), found.map(|index| order[index].value));
                        if let Some(index) = found {
                            (order[index].progress, order[index].result) = (Progress::Finished, number);
                        }
                    }
                    Step::Finish(which) => {
                        let found = find(&order, named(which), Progress::Claimed);
                        prop_assert_eq!(queues.finish(named(which), number), found.is_some());
                        if let Some(index) = found {
                            (order[index].progress, order[index].result) = (Progress::Finished, number);
                        }
                    }
                    Step::Cancel(which) => {
                        let found = find(&order, named(which), Progress::Waiting);
                        let expected = found.and_then(|index| order.remove(index)).map(|waiter| waiter.value);
                        prop_assert_eq!(queues.cancel(named(which)), expected);
                    }
                    Step::Collect(which) => {
                        let found = find(&order, named(which), Progress::Finished);
                        let waiter = found.and_then(|index| order.remove(index));
                        let expected = waiter.map(|waiter| (waiter.value, waiter.result));
                        prop_assert_eq!(queues.collect(named(which)), expected);
                    }
                }
                for ticket in &tickets {
                    let known = order.iter().find(|waiter| waiter.ticket == *ticket);
                    let expected = known.map_or(Progress::Unknown, |waiter| waiter.progress);
                    prop_assert_eq!(queues.progress(*ticket), expected);
                }
                for key in [0, 1, 13, 14, 32, 64, 1 << 40, 5] {
                    prop_assert_eq!(queues.is_awaited(key), first(&order, key).is_some());
                }
                prop_assert_eq!(queues.len(), order.len());
            }
        }
    }
}
