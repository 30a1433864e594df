//! [`NodesNeeded`]: how many nodes of each size a change takes.

use super::node::NodeSize;
use core::ops::AddAssign;

/// How many nodes of each size a change of a tree [takes from its store](super::NodeStore::take) at most.
///
/// ```
/// use vmcore::page_tree::{NodeSize, NodesNeeded};
///
/// let mut needed = NodesNeeded::default();
/// needed.add(NodeSize::Small, 2);
/// assert_eq!((needed.of(NodeSize::Small), needed.total()), (2, 2));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodesNeeded {
    small: usize,
    medium: usize,
    full: usize,
}

impl NodesNeeded {
    /// None of any size.
    pub const NONE: Self = Self { small: 0, medium: 0, full: 0 };

    /// So many of each size.
    pub const fn of_each(count: usize) -> Self {
        Self { small: count, medium: count, full: count }
    }

    /// How many of this size.
    pub const fn of(&self, size: NodeSize) -> usize {
        match size {
            NodeSize::Small => self.small,
            NodeSize::Medium => self.medium,
            NodeSize::Full => self.full,
        }
    }

    /// How many of all sizes.
    pub const fn total(&self) -> usize {
        self.small.saturating_add(self.medium).saturating_add(self.full)
    }

    /// Whether none is needed.
    pub const fn is_none(&self) -> bool {
        self.small == 0 && self.medium == 0 && self.full == 0
    }

    /// Adds so many of a size.
    pub const fn add(&mut self, size: NodeSize, count: usize) {
        let needed = match size {
            NodeSize::Small => &mut self.small,
            NodeSize::Medium => &mut self.medium,
            NodeSize::Full => &mut self.full,
        };
        *needed = needed.saturating_add(count);
    }
}

impl AddAssign for NodesNeeded {
    fn add_assign(&mut self, other: Self) {
        for size in NodeSize::ALL {
            self.add(size, other.of(size));
        }
    }
}
