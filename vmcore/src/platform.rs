//! The second half of the contract with the embedder: locks, CPUs, the MMU's type and the flush.

use core::fmt;

use crate::frame::Frames;
use crate::machine::Machine;
use crate::paging::{FlushRequest, Mmu};

/// A set of CPUs, by the index that the platform gives each.
///
/// [`CpuMask`] is a ready-made one.
pub trait CpuSet: Clone + Send + Sync + fmt::Debug {
    /// The set without any CPU.
    const EMPTY: Self;

    /// Adds a CPU. One that the set cannot represent must be remembered all the same, for example as "all".
    fn insert(&mut self, cpu: usize);

    /// Removes a CPU.
    fn remove(&mut self, cpu: usize);

    /// Whether the CPU is in the set, or may be: true for one that the set cannot tell from others in it.
    fn contains(&self, cpu: usize) -> bool;

    /// Whether the CPU is in the set beyond doubt: false for one that the set cannot tell from others. A CPU of which this says
    /// yes may keep what it remembers of a space that it comes back to ([`Space::activate`](crate::vm_space::Space::activate)).
    fn surely_contains(&self, cpu: usize) -> bool;

    /// Whether no CPU is.
    fn is_empty(&self) -> bool;

    /// Adds every CPU of `other`.
    fn union_with(&mut self, other: &Self);
}

/// A set of up to `64 × WORDS` CPUs as a bitmap. Give it as many words as there are CPUs: a CPU beyond them makes the set
/// one of all CPUs for good, so that a space that was active there can never be destroyed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CpuMask<const WORDS: usize = 1> {
    words: [u64; WORDS],
    /// A CPU beyond the bitmap was added: from then on the set contains every CPU, so that no flush is ever too small.
    all: bool,
}

impl<const WORDS: usize> CpuSet for CpuMask<WORDS> {
    const EMPTY: Self = Self { words: [0; WORDS], all: false };

    #[inline]
    fn insert(&mut self, cpu: usize) {
        match self.words.get_mut(cpu / 64) {
            Some(word) => *word |= 1 << (cpu % 64),
            None => self.all = true,
        }
    }

    #[inline]
    fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    #[inline]
    fn contains(&self, cpu: usize) -> bool {
        self.all || self.surely_contains(cpu)
    }

    #[inline]
    fn surely_contains(&self, cpu: usize) -> bool {
        self.words.get(cpu / 64).is_some_and(|word| word & (1 << (cpu % 64)) != 0)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        !self.all && self.words.iter().all(|word| *word == 0)
    }

    #[inline]
    fn union_with(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= *more;
        }
        self.all |= other.all;
    }
}

impl<const WORDS: usize> fmt::Debug for CpuMask<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all {
            return f.write_str("{all}");
        }
        f.debug_set().entries((0..WORDS * 64).filter(|cpu| self.contains(*cpu))).finish()
    }
}

/// The embedder's side of everything beyond frames.
///
/// The value is a handle that the library copies into each area, space and flush: a zero-sized type that finds its
/// state in a `static` (a kernel), or a reference-counted pointer (a simulated machine in a test).
///
/// # Safety
/// - Clones are handles to the same platform: [`machine`](Self::machine) always gives the same machine.
/// - [`cpu`](Self::cpu) is the index of the CPU that runs the caller.
/// - The sets of [`CpuSet`](Self::CpuSet) remember every CPU that was inserted until it is removed, and
///   [surely contain](CpuSet::surely_contains) no other.
/// - The pages of [`Mmu`](Self::Mmu) and of [`Frames`] are of one size.
/// - After [`flush_local`](Self::flush_local), this CPU uses no translation of the request's scope that was made before.
/// - A scope is carried out on what a CPU remembers, not on what it has loaded: a CPU that has left the space since forgets what it
///   remembers under the space's tag all the same ([`FlushScope`](crate::paging::FlushScope) says how, for each architecture).
/// - When [`flush`](Self::flush) returns, no CPU of the request's set can use a translation of the request's scope that was made
///   before the call. The library frees frames on the strength of it.
pub unsafe trait Platform: Frames + Clone {
    /// The format of the host's page tables.
    type Mmu: Mmu;

    /// The lock that guards the library's state. Its holder is neither preempted nor moved to another CPU; it must disable
    /// interrupts if an interrupt handler can enter the library; and unlocking does not touch the lock after the next
    /// holder can have it, who may free it.
    ///
    /// Where several CPUs change one space at once, a lock that backs off while it waits (that looks less and less often, up to some microseconds) is worth having: whoever holds it keeps in its
    /// cache what it guards.
    type RawMutex: lock_api::RawMutex + Send + Sync;

    /// Sets of CPUs.
    type CpuSet: CpuSet;

    /// The embedder's own data in each space.
    type SpaceData: Send + Sync;

    /// The embedder's own data in each area. A copy of an area has a clone of it, made under the library's locks.
    type AreaData: Clone + Send + Sync;

    /// What exists once: made by the embedder with [`Machine::new`] and kept where every handle finds it.
    fn machine(&self) -> &Machine<Self>;

    /// The index of the CPU that runs the caller.
    fn cpu(&self) -> usize;

    /// Makes every CPU of the request forget the translations in the request's scope, whatever root it has loaded by then, and waits for them.
    ///
    /// Called with no library lock held. The set may include the caller. May wait for other CPUs, and then has to serve their requests meanwhile if it waits
    /// with interrupts off; must not call the library's operations on spaces.
    fn flush(&self, request: &FlushRequest<Self::CpuSet>);

    /// Makes this CPU forget the translations in the request's scope. May be called in a fault handler and under a library lock; it must not wait.
    fn flush_local(&self, request: &FlushRequest<Self::CpuSet>);
}
