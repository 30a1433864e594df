//! Every value of a range, for who has little to do with each: one walk down per node of values, not one per key.
//!
//! ```text
//!   range            [====================================]
//!   leaves     | . . a b c d . . |         | e f g h i . . . |      each is come to from the root, and read from end to end
//! ```

use super::find::contains;
use super::node::{Entry, NodeRef, NodeSize, SlotIndex};
use super::share::for_each;
use super::{PageTree, TreeValue};
use core::num::NonZeroU64;

/// Who holds the slot that a value is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held<V> {
    /// Another tree as well, or a part of it.
    Shared,
    /// This tree alone.
    Sole,
    /// This tree alone; it is a run with this first value.
    SoleRun(V),
}

/// What a visit comes to.
#[derive(Clone, Copy)]
pub(crate) enum Visited<'a, V> {
    /// The bits of the values of this key and those after it, none where one is absent; and whether none is.
    Many(u64, &'a [Option<NonZeroU64>], bool, Held<V>),
    /// A key that is present, and its value.
    One(u64, V, Held<V>),
}

/// What is found for a key.
enum Place<'a> {
    Leaf(NodeRef<'a>),
    /// A run, with its first value.
    Run(NodeRef<'a>, SlotIndex, NonZeroU64),
}

impl<V: TreeValue> PageTree<V> {
    /// Shows `each` every key from `first` to `last` that is present, in order, with its value and who holds it; where keys are dense, many at once.
    /// O(nodes × depth + keys).
    #[inline]
    pub(crate) fn visit(&self, first: u64, last: u64, mut each: impl FnMut(Visited<'_, V>)) {
        let mut next = Some(first);
        while let Some(at) = next.filter(|at| *at <= last) {
            let Some((place, sole)) = self.place_of(at) else {
                next = self.next_present(at).map(|(key, _)| key);
                continue;
            };
            let end = match place {
                Place::Leaf(node) => {
                    let (base, end) = (node.base(), node.base() | node.shift().node_mask());
                    let held = if sole { Held::Sole } else { Held::Shared };
                    let (from, to) = (at - base, end.min(last) - base);
                    let wanted =
                        SlotIndex::of(from, node.shift()).and_after() & SlotIndex::of(to, node.shift()).and_before();
                    if node.size() == NodeSize::Full {
                        // SAFETY: the node is a full-sized leaf.
                        let values = unsafe { node.values() }.get(from as usize..=to as usize).unwrap_or(&[]);
                        each(Visited::Many(at, values, wanted & !node.present() == 0, held));
                    } else {
                        for_each(node.present() & wanted, |index| {
                            if let Entry::Value(bits) = node.entry(index) {
                                each(Visited::One(node.first_key(index), V::from_bits(bits), held));
                            }
                        });
                    }
                    end
                }
                Place::Run(node, index, bits) => {
                    let run = V::from_bits(bits);
                    let held = if sole { Held::SoleRun(run) } else { Held::Shared };
                    let (start, end) = (node.first_key(index), node.first_key(index) | node.shift().slot_mask());
                    for key in at..=end.min(last) {
                        each(Visited::One(key, run.advance(key - start), held));
                    }
                    end
                }
            };
            next = end.checked_add(1);
        }
    }

    /// How many of the keys from `first` to `last` are present. O(nodes × depth).
    pub(crate) fn count_within(&self, first: u64, last: u64) -> u64 {
        let (mut next, mut count) = (Some(first), 0);
        while let Some(at) = next.filter(|at| *at <= last) {
            let end = match self.place_of(at) {
                None => {
                    next = self.next_present(at).map(|(key, _)| key);
                    continue;
                }
                Some((Place::Leaf(node), _)) => {
                    let (base, end) = (node.base(), node.base() | node.shift().node_mask());
                    let (from, to) = (SlotIndex::of(at - base, node.shift()), end.min(last) - base);
                    let wanted = from.and_after() & SlotIndex::of(to, node.shift()).and_before();
                    count += u64::from((node.present() & wanted).count_ones());
                    end
                }
                Some((Place::Run(node, index, _), _)) => {
                    let end = node.first_key(index) | node.shift().slot_mask();
                    count += end.min(last) - at + 1;
                    end
                }
            };
            next = end.checked_add(1);
        }
        count
    }

    /// As [`visit`](Self::visit), one by one.
    #[inline]
    pub(crate) fn visit_each(&self, first: u64, last: u64, mut each: impl FnMut(u64, V, Held<V>)) {
        self.visit(first, last, |visited| match visited {
            Visited::Many(first, values, _, held) => {
                for (step, bits) in values.iter().enumerate() {
                    if let Some(bits) = *bits {
                        each(first + step as u64, V::from_bits(bits), held);
                    }
                }
            }
            Visited::One(key, value, held) => each(key, value, held),
        });
    }

    /// Shows `each` every key from `first` to `last` that is present, in order, with its value. O(nodes × depth + keys); at once where one leaf is all that there is.
    #[inline(always)]
    pub(crate) fn each_value(&self, first: u64, last: u64, mut each: impl FnMut(u64, V)) {
        if self.root.is_none() {
            return;
        }
        // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
        let node = unsafe { self.root.node() };
        if !node.is_leaf() {
            return self.each_value_below(first, last, each);
        }
        let (base, end) = (node.base(), node.base() | node.shift().node_mask());
        if first > end || last < base {
            return;
        }
        let (from, to) = (SlotIndex::of(first.max(base), node.shift()), SlotIndex::of(last.min(end), node.shift()));
        let wanted = node.present() & from.and_after() & to.and_before();
        if wanted == 0 {
            return;
        }
        // The slots of a packed node lie side by side: those that are wanted as well.
        let mut packed = (node.size() != NodeSize::Full).then(|| node.packed_values(SlotIndex::lowest(wanted)));
        for_each(wanted, |index| {
            let bits = match &mut packed {
                // SAFETY: the slot is present, and one of a leaf.
                None => unsafe { node.value(index) },
                Some(values) => {
                    // SAFETY: there is a value for each slot that is present, in order; none changes while the tree is borrowed.
                    let bits = unsafe { values.read() };
                    *values = values.wrapping_add(1);
                    let Some(bits) = bits else { return };
                    bits
                }
            };
            each(base | index.offset(node.shift()), V::from_bits(bits));
        });
    }

    #[inline(never)]
    fn each_value_below(&self, first: u64, last: u64, mut each: impl FnMut(u64, V)) {
        self.visit_each(first, last, |key, value, _| each(key, value));
    }

    /// The leaf that spans a key, or the run that it is in; and whether every node on its path is held by this tree alone. O(depth).
    #[inline]
    fn place_of(&self, key: u64) -> Option<(Place<'_>, bool)> {
        let (mut link, mut sole) = (self.root, true);
        while !link.is_none() {
            // SAFETY: the link comes from the tree, whose nodes live, unchanged, while it is borrowed.
            let node = unsafe { link.node() };
            sole &= !node.is_shared();
            if !contains(node, key) {
                return None;
            }
            if node.is_leaf() {
                return Some((Place::Leaf(node), sole));
            }
            let index = SlotIndex::of(key, node.shift());
            match node.entry(index) {
                Entry::Child(child) => link = child,
                Entry::Value(bits) => return Some((Place::Run(node, index, bits), sole)),
                Entry::Absent => return None,
            }
        }
        None
    }
}
