//! The tags that a machine has for its address spaces, and which of them are given out.
//!
//! ```text
//!   bit of the map    0   1   2   3   4        4095
//!                     -   1   1   0   1  ...  0
//!                     |   |       |
//!                     |   |       the next space's
//!                     |   a space's, from when it is made until the flush that destroys it is acknowledged
//!                     never given out: the kernel's space, and every space for which none is left
//! ```
//!
//! Invariants: a tag is one space's at a time; a space that is given a tag has been active nowhere under it, so each CPU forgets
//! what it remembers under the tag before it uses the space for the first time ([`Space::activate`](crate::vm_space::Space::activate)).
//! That is all that reuse takes: there are no generations, and no CPU is interrupted for it.
//!
//! The map is of a fixed size, and its words are atomics: no lock, no memory, no order with anything.

use crate::paging::Tag;
use crate::word::{AtomicUsize, Ordering};

/// How many tags the map has room for, tag 0 included: as many as x86's 12 bits number, in 512 bytes.
const ROOM: usize = 4096;

const WORD: usize = usize::BITS as usize;

/// Which tags are given out.
pub(crate) struct Tags {
    taken: [AtomicUsize; ROOM / WORD],
}

impl Tags {
    /// None is given out.
    pub(crate) const fn new() -> Self {
        Self { taken: [const { AtomicUsize::new(0) }; ROOM / WORD] }
    }

    /// Takes the lowest free tag of a machine that has `count`, tag 0 included; tag 0 if there is none. O(room).
    pub(crate) fn take(&self, count: u32) -> Tag {
        let count = (count as usize).min(ROOM);
        for (word, first) in self.taken.iter().zip((0..count).step_by(WORD)) {
            // What this machine does not have, and tag 0, are never free.
            let beyond = usize::MAX.checked_shl((count - first) as u32).unwrap_or(0);
            let never = beyond | usize::from(first == 0);
            let mut taken = word.load(Ordering::Relaxed);
            loop {
                let bit = (taken | never).trailing_ones();
                let Some(mask) = 1_usize.checked_shl(bit) else { break };
                // Acquire: the space that had the tag before is gone for whoever has it now.
                taken = word.fetch_or(mask, Ordering::Acquire);
                if taken & mask == 0 {
                    // Below the room, so it fits.
                    return Tag((first + bit as usize) as u16);
                }
            }
        }
        Tag(0)
    }

    /// Takes a tag back, which no CPU can use under its space's root any more. Tag 0 was never given out.
    pub(crate) fn give_back(&self, tag: Tag) {
        let number = usize::from(tag.0);
        if let Some(word) = self.taken.get(number / WORD).filter(|_| number != 0) {
            word.fetch_and(!(1 << (number % WORD)), Ordering::Release);
        }
    }

    /// How many are given out. O(room).
    pub(crate) fn in_use(&self) -> usize {
        self.taken.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set: the lowest free number is given out, tag 0 when there is none.
        #[test]
        fn tags_are_unique_and_come_back(
            count in prop_oneof![0..5_u32, 60..70_u32, 126..130_u32, 4090..4100_u32, Just(65536)],
            steps in prop::collection::vec((any::<bool>(), 0..200_usize), 1..300),
        ) {
            let tags = Tags::new();
            let mut free: BTreeSet<u16> = (1..count.min(4096) as u16).collect();
            let mut taken = Vec::new();
            for (take, which) in steps {
                if take || taken.is_empty() {
                    let expected = free.pop_first().unwrap_or(0);
                    prop_assert_eq!(tags.take(count), Tag(expected));
                    taken.push(expected);
                } else {
                    let tag = taken.swap_remove(which % taken.len());
                    tags.give_back(Tag(tag));
                    if tag != 0 {
                        free.insert(tag);
                    }
                }
                prop_assert_eq!(tags.in_use(), taken.iter().filter(|tag| **tag != 0).count());
            }
        }
    }

    #[test]
    fn each_of_4095_is_given_out_once() {
        let tags = Tags::new();
        let all: BTreeSet<u16> = (0..4095).map(|_| tags.take(1 << 16).0).collect();
        assert_eq!((all.len(), all.first(), all.last()), (4095, Some(&1), Some(&4095)));
        assert_eq!(tags.take(1 << 16), Tag(0));
        tags.give_back(Tag(0));
        assert_eq!(tags.in_use(), 4095, "tag 0 is nobody's");
        tags.give_back(Tag(u16::MAX));
        tags.give_back(Tag(1234));
        assert_eq!(tags.take(1 << 16), Tag(1234));
    }

    #[test]
    fn threads_never_share_a_tag() {
        let tags = Tags::new();
        let mine = || (0..50).map(|_| tags.take(129).0).collect::<Vec<_>>();
        let (mut one, two) = std::thread::scope(|scope| {
            let other = scope.spawn(mine);
            (mine(), other.join().unwrap())
        });
        one.extend(two);
        let unique: BTreeSet<_> = one.iter().collect();
        assert_eq!((unique.len(), tags.in_use()), (100, 100));
        assert!(!unique.contains(&0));
    }
}
