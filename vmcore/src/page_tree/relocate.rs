//! Moving a range of keys to another offset.

use super::context::{NotInserted, TreeContext, TreeError, TreeValue};
use super::find::last_key;
use super::needed::NodesNeeded;
use super::node::{Entry, Link, NodeSize, Shift};
use super::runs::Run;
use super::share::{Span, for_each};
use super::{PageTree, ends};
use core::ops::RangeBounds;

impl<V: TreeValue> PageTree<V> {
    /// Moves what `range` holds so that its first key becomes `to`: every key by the same distance. All or nothing. Keys
    /// are counted in pages. The values are the same and change their slots only; of what is shared, this tree gets
    /// duplicates of its own. Runs stay runs where they are moved by a multiple of their length, and are split
    /// elsewhere. How many keys it was.
    ///
    /// O(keys × depth).
    ///
    /// # Errors
    ///
    /// [`TreeError::Misplaced`] if keys would come to lie past the last, [`TreeError::Occupied`] if what comes to lie at
    /// `to` and after is not absent or overlaps the range, and the errors of [`insert`](Self::insert). The content is as before,
    /// though some of it may have been copied. Out of nodes it cannot be if the
    /// [nodes needed](Self::nodes_needed_to_move) are there.
    pub fn move_range<C: TreeContext<V>>(
        &mut self,
        range: impl RangeBounds<u64>,
        to: u64,
        context: &mut C,
    ) -> Result<u64, TreeError> {
        let Some((first, last)) = ends(range) else {
            return Ok(0);
        };
        // What is absent at the ends need not have room where it would go.
        let (Some(lowest), Some(highest)) = (self.seek(first), self.seek_back(last)) else {
            return Ok(0);
        };
        let (lowest, highest) = (lowest.first().max(first), highest.last().min(last));
        if to == first || highest < lowest {
            return Ok(0);
        }
        let misplaced = TreeError::Misplaced { key: to, count: (last - first).saturating_add(1) };
        let end = to.checked_add(highest - first).ok_or(misplaced)?;
        let start = to + (lowest - first);
        if start <= highest && lowest <= end {
            return Err(TreeError::Occupied { key: start.max(lowest) });
        }
        if let Some((key, _)) = self.next_present(start).filter(|&(key, _)| key <= end) {
            return Err(TreeError::Occupied { key });
        }
        self.prepare_remove_range(lowest..=highest, context)?;
        self.own_range(lowest, highest, to.wrapping_sub(first), context)?;
        // From here on every slot of the range is this tree's alone. Each value is in two slots for a while.
        let mut from = lowest;
        let mut moved = 0;
        while let Some(Run { key, count, value }) = self.runs(from..=highest).next() {
            let at = to + (key - first);
            let inserted = if count == 1 {
                self.insert(at, value, context).map(|_| ())
            } else {
                self.insert_run(at, count, value, context)
            };
            if let Err(NotInserted { error, .. }) = inserted {
                if moved != 0 {
                    // The slots are this call's, and so are the paths to them: nothing is needed for this.
                    let _ = self.remove_range(start..at, context, |_, _, _| ());
                }
                return Err(error);
            }
            moved += count;
            match key.checked_add(count) {
                Some(next) if next <= highest => from = next,
                _ => break,
            }
        }
        // The new slots hold the values now, so those that come out are not dropped. The range was prepared.
        self.remove_range(lowest..=highest, context, |_, _, _| ())?;
        Ok(moved)
    }

    /// Makes every slot of a range the tree's alone, and splits runs that would not be aligned after a move by
    /// `distance`.
    fn own_range<C: TreeContext<V>>(
        &mut self,
        first: u64,
        last: u64,
        distance: u64,
        context: &mut C,
    ) -> Result<(), TreeError> {
        let mut from = first;
        while let Some(found) = self.seek(from).filter(|found| found.first() <= last) {
            let (key, slot) = (found.first().max(from), found.last() - found.first());
            // Down to the slot, and into it if it is a run that cannot be moved as it is.
            self.own_path(key, context, |span| {
                let others = span.last - span.first;
                others > slot || distance & others != 0
            })?;
            let Some(found) = self.seek(key) else { break };
            // With one key of a leaf all of it is owned; of a run that was split, the parts are looked at one by one.
            let end = if found.node.is_leaf() { last_key(found.node) } else { found.last() };
            match end.checked_add(1) {
                Some(next) if next <= last => from = next,
                _ => break,
            }
        }
        Ok(())
    }

    /// The nodes that [moving `range`](Self::move_range) takes from the store at most, as the tree is now. Writes nothing.
    /// O(nodes in the range).
    pub fn nodes_needed_to_move(&self, range: impl RangeBounds<u64>, to: u64) -> NodesNeeded {
        let Some((first, last)) = ends(range) else {
            return NodesNeeded::NONE;
        };
        let mut needed = self.nodes_needed_to_remove_range(first..=last);
        let mut moving =
            Moving { first, last, distance: to.wrapping_sub(first), copied: NodesNeeded::NONE, leaves: 0, keys: 0 };
        if !self.root.is_none() {
            // SAFETY: the tree's nodes live, unchanged, while it is borrowed.
            unsafe { moving.look(self.root, true, false) };
        }
        if moving.leaves == 0 {
            return NodesNeeded::NONE;
        }
        needed += moving.copied;
        // Each leaf's keys come to lie in two at the most, each with a new node above it. Nodes that have so many slots
        // that they outgrow a size are the fewer for it. At either end of where they go the nodes of a path may be copied
        // and grow.
        let leaves = 2 * moving.leaves;
        needed += NodesNeeded::of_each(2 * Shift::LEVELS);
        needed.add(NodeSize::Small, 2 * leaves);
        needed.add(NodeSize::Medium, leaves.min(moving.keys / 4) + leaves / 3);
        // A leaf beside a full one is full-sized from the first, which are three for 64 keys; so are at most two beside what is there already.
        let full = leaves.min(moving.keys / 20) + leaves / 19;
        needed.add(NodeSize::Full, full.saturating_add(2 + Shift::LEVELS));
        needed
    }
}

/// What there is in a range that is to be moved.
struct Moving {
    first: u64,
    last: u64,
    distance: u64,
    /// Nodes for copies of shared ones and for runs that are split.
    copied: NodesNeeded,
    /// Leaves and, of runs that stay, nodes.
    leaves: usize,
    /// Keys in leaves, and runs.
    keys: usize,
}

impl Moving {
    /// Recursion: at most one call per level, 11.
    ///
    /// # Safety
    ///
    /// The link is not null, its node lives and nobody changes anything in the subtree.
    unsafe fn look(&mut self, link: Link, is_root: bool, shared: bool) {
        // SAFETY: as the caller promises.
        let node = unsafe { link.node() };
        if node.base() > self.last || last_key(node) < self.first {
            return;
        }
        let shared = shared || node.is_shared();
        self.copied.add(NodeSize::of_node(node.count(), node.shift(), is_root), usize::from(shared));
        if node.is_leaf() {
            self.leaves += 1;
            self.keys += node.count() as usize;
            return;
        }
        self.leaves += usize::from(node.runs() != 0);
        for_each(node.present(), |index| match node.entry(index) {
            Entry::Absent => {}
            // SAFETY: a child lives with the node that holds it.
            Entry::Child(child) => unsafe { self.look(child, false, shared) },
            Entry::Value(_) => {
                let (mut shift, mut nodes, mut parts) = (node.shift(), 0_usize, 1_usize);
                // Where an end of the range cuts it, the parts may be smaller: as if it were split all the way.
                let span = Span::of_slot(node.first_key(index), shift);
                let cut = !span.within(self.first, self.last);
                if cut && (span.first > self.last || span.last < self.first) {
                    return;
                }
                while !shift.is_leaf() && (cut || self.distance & shift.slot_mask() != 0) {
                    nodes = nodes.saturating_add(parts);
                    parts = parts.saturating_mul(64);
                    shift = shift.below();
                }
                self.copied.add(NodeSize::Full, nodes);
                self.leaves = self.leaves.saturating_add(nodes);
                self.keys = self.keys.saturating_add(parts);
            }
        });
    }
}
