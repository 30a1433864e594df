//! Removal from a leaf that is only half full: it is joined with a neighbour, or the two are levelled; and so on above.
//!
//! ```text
//!   together no more than a node holds   | a b . . | c . . . |      joined:     | a b c . |        the parent has one child less
//!   more                                 | a b c d | e . . . |      levelled:   | a b . . | c d e . |
//! ```

use crate::vm_space::index::inner::Inner;
use crate::vm_space::index::leaf::Leaf;
use crate::vm_space::index::node::{Link, share};
use crate::vm_space::index::tree::{Nodes, Tree};

impl<const L: usize, const N: usize> Tree<L, N> {
    /// Inner nodes with fewer children are joined or levelled with a neighbour; two are the least.
    const INNER_MINIMUM: usize = if N / 2 > 2 { N / 2 } else { 2 };

    /// The finger's leaf has too few entries: joins it with a neighbour, or levels the two. Then the node above, if it has too few children, and so on.
    pub(super) fn level(&mut self, nodes: &mut impl Nodes<L, N>) {
        let mut path = self.finger.path.clone();
        self.finger.leaf = None;
        // Of the node that has too little.
        let mut height = 0;
        while let Some((mut parent, child)) = path.pop() {
            // SAFETY: nodes of the tree are alive, and reached only through it.
            let inner = unsafe { parent.as_mut() };
            let pair = |low: usize| {
                let (left, right) = (inner.child(low)?, inner.child(low + 1)?);
                // SAFETY: as above; nodes of either kind begin with their header.
                let together = unsafe { left.as_ref().len() + right.as_ref().len() };
                Some((low, left, right, together))
            };
            let pairs = [child.checked_sub(1).and_then(pair), pair(child)];
            let most = if height == 0 { L } else { N };
            let fits = pairs.into_iter().flatten().find(|(.., together)| *together <= most);
            if let Some((low, left, right, together)) = fits {
                // SAFETY: these are children of this height of an inner node, and different ones.
                unsafe { self.share(left, right, together, height) };
                inner.remove(low + 1);
                // SAFETY: it is empty; the parent knew it, and knows it no more, nor does the leaf before it.
                unsafe { nodes.put(right.cast()) };
                self.fix(inner, low, low, height);
            } else if let Some((low, left, right, together)) = pairs.into_iter().flatten().next() {
                // SAFETY: as above.
                unsafe { self.share(left, right, together / 2, height) };
                self.fix(inner, low, low + 1, height);
            }
            if path.len() == 0 {
                // With one child the root gives way to it.
                if let (1, Some(root)) = (inner.len(), inner.child(0)) {
                    self.root = Some(root);
                    self.height -= 1;
                    // SAFETY: the tree knew it as its root only.
                    unsafe { nodes.put(parent.cast()) };
                }
                return;
            }
            if inner.len() >= Self::INNER_MINIMUM {
                self.update(&path, true, inner.summary());
                return;
            }
            height += 1;
        }
    }

    /// Moves what two neighbours of this height hold so that the left one has `want` of it. Where that is all, the right one is out of use.
    ///
    /// # Safety
    /// They are neighbours, of this height, and nothing else refers to them.
    unsafe fn share(&self, left: Link, right: Link, want: usize, height: usize) {
        if height == 0 {
            // SAFETY: as the caller vouches; nodes of height 0 are leaves.
            let (left, right) = unsafe { (left.cast::<Leaf<L>>().as_mut(), right.cast::<Leaf<L>>().as_mut()) };
            share(left, right, want);
            left.rebuild(&self.sizes);
            right.rebuild(&self.sizes);
            if right.len() == 0 {
                left.next = right.next;
            }
        } else {
            // SAFETY: as the caller vouches; all others are inner nodes.
            let (left, right) = unsafe { (left.cast::<Inner<N>>().as_mut(), right.cast::<Inner<N>>().as_mut()) };
            share(left, right, want);
            self.fix_all(left, height - 1);
            self.fix_all(right, height - 1);
        }
    }
}
