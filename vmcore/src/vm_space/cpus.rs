//! Which CPUs use a space, and which of them, or of the others, remember nothing of it that is out of date.
//!
//! ```text
//!                    activate           a change            deactivate         activate
//!   never here  ──►  active    ──►  active: is flushed  ──►  current     ──►  active, nothing to forget
//!                    current        current                     │
//!                    forgets                                    └─a change──►  neither: forgets when it is activated
//!                    the tag
//! ```
//!
//! *Active* are the CPUs that may have the root loaded. *Current* are those whose memory of the space, which the tag keeps for
//! them while another space is loaded, holds nothing that a change has taken away and that no outstanding flush will take from it.
//!
//! Invariant: what is active is current. A change is made in the tables first and noted here afterwards; then the CPUs that
//! are active are asked to flush, and all others are current no more. So of any two CPUs, one that changes and one that activates,
//! in whichever order they come to this lock:
//!
//! - the change first: the other is not current, and forgets everything of the tag after the change was made;
//! - the activation first: the other is active, and is asked to flush before anything is freed.
//!
//! A CPU that leaves between a change and its flush stays current, since the flush is still asked of it: a flush is carried out on what is remembered
//! under the tag, whatever is loaded. What a CPU that is not active remembers may lead to frames that have been freed: nothing
//! can use it, until the CPU has forgotten it. For the same reason a tag is reused as it is: nobody is current in a new space.
//!
//! The kernel's space has no tag of its own and is active wherever a space that shares its root slots is. A CPU that is not current there may
//! remember global translations, and pointers to its tables under any tag: it forgets everything.

use crate::platform::CpuSet;

/// The CPUs of a space.
pub(crate) struct SpaceCpus<C> {
    active: C,
    current: C,
}

impl<C: CpuSet> SpaceCpus<C> {
    /// The CPUs of a new space: none.
    pub(crate) const NONE: Self = Self { active: C::EMPTY, current: C::EMPTY };

    /// Those that a change has to be flushed from, if it took nothing away.
    #[inline]
    pub(crate) const fn active(&self) -> &C {
        &self.active
    }

    /// Adds a CPU. True if what it remembers from before is up to date; otherwise it forgets that before it uses the space.
    pub(crate) fn activate(&mut self, cpu: usize) -> bool {
        let current = self.current.surely_contains(cpu);
        self.active.insert(cpu);
        self.current.insert(cpu);
        current
    }

    /// Takes a CPU out. What it remembers stays, and is up to date until the next change.
    pub(crate) fn deactivate(&mut self, cpu: usize) {
        self.active.remove(cpu);
    }

    /// Notes that the tables have lost something, and gives the CPUs that are to be flushed now.
    pub(crate) fn note_change(&mut self) -> &C {
        self.current = self.active.clone();
        &self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::CpuMask;

    fn list(cpus: &CpuMask) -> std::vec::Vec<usize> {
        (0..64).filter(|cpu| cpus.contains(*cpu)).collect()
    }

    #[test]
    fn who_comes_back_after_a_change_forgets() {
        let mut cpus = SpaceCpus::<CpuMask>::NONE;
        assert!(!cpus.activate(1) && !cpus.activate(2), "a new space may have a tag that was used");
        cpus.deactivate(1);
        assert!(cpus.activate(1), "nothing has changed");
        cpus.deactivate(1);
        assert_eq!(list(cpus.note_change()), [2]);
        cpus.deactivate(2);
        assert!(cpus.activate(2), "it was flushed");
        assert!(!cpus.activate(1), "it was not");
        assert_eq!(list(cpus.active()), [1, 2]);
        cpus.deactivate(1);
        cpus.deactivate(2);
        assert_eq!(list(cpus.note_change()), []);
        assert!(!cpus.activate(1) && !cpus.activate(2));
    }

    #[test]
    fn a_cpu_beyond_the_set_makes_no_other_current() {
        let mut cpus = SpaceCpus::<CpuMask>::NONE;
        assert!(!cpus.activate(64) && !cpus.activate(64), "the set cannot tell");
        assert!(!cpus.activate(3) && cpus.activate(3));
        cpus.deactivate(3);
        assert!(cpus.note_change().contains(3), "all are flushed for good");
        assert!(!cpus.activate(3), "but nobody counts on that");
    }
}
