//! The index by itself, for the benchmarks (`benches/`), which compare it with other maps from ranges. It is no part of the crate's interface.
//!
//! What a space does around the index, because the index is as it is, is done here too: the nodes are counted, and taken from the machine's pools before anything is
//! changed; nodes that become free go back. What a space does for other reasons is not: there is no lock, and what the slots point to is the caller's.

use core::fmt;
use core::ptr::NonNull;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{Need, OutOfFrames, Reserve};
use crate::paging::Mmu;
use crate::platform::Platform;
use crate::vm_space::index::{GapRequest, Index, LeafSizes, Slot};

/// A range, and what is there.
type Place<W> = (PageRange, NonNull<W>);
/// The same as it is given: where the range begins, and its bytes. It is whole pages, and no wrong range, as everything that comes to the index of a space.
type NewPlace<W> = (VirtAddr, u64, NonNull<W>);

/// The index of a space without the space.
pub struct BareIndex<P: Platform, W> {
    index: Index<P, W>,
    platform: P,
}

impl<P: Platform, W> fmt::Debug for BareIndex<P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BareIndex")
    }
}

impl<P: Platform, W> Drop for BareIndex<P, W> {
    fn drop(&mut self) {
        self.index.clear(&mut Reserve::new(&self.platform));
    }
}

/// What a place is in the index.
fn slot<W>((start, size, window): NewPlace<W>) -> Slot<W> {
    Slot { range: PageRange::from_checked(start, size), window: Some(window) }
}

/// What a slot is outside.
fn place<W>(slot: Slot<W>) -> Option<Place<W>> {
    Some((slot.range, slot.window?))
}

impl<P: Platform, W> BareIndex<P, W> {
    /// An empty index for spaces of the machine's format.
    pub fn new(platform: &P) -> Self {
        let mmu = platform.machine().mmu();
        let sizes = LeafSizes::new(P::PAGE_SHIFT, |level| mmu.level(level).map(|level| level.shift));
        Self { index: Index::new(sizes, None), platform: platform.clone() }
    }

    /// What covers an address, as a fault asks that goes on beside others.
    #[inline]
    pub fn find(&self, address: VirtAddr) -> Option<Place<W>> {
        self.index.find(address).and_then(place)
    }

    /// The same, as those ask who are about to change something there, or did.
    #[inline]
    pub fn find_near(&mut self, address: VirtAddr) -> Option<Place<W>> {
        self.index.aim(address);
        self.index.find_near(address).and_then(place)
    }

    /// Inserts a range, unless something is there.
    ///
    /// # Errors
    /// No frame for nodes.
    #[inline]
    pub fn insert(&mut self, new: NewPlace<W>) -> Result<bool, OutOfFrames> {
        let new = slot(new);
        let (range, mut need) = (new.range, Need::default());
        let mut reserve = Reserve::new(&self.platform);
        loop {
            reserve.top_up(&need)?;
            self.index.aim(range.start());
            if self.index.overlapping(range).next().is_some() {
                return Ok(false);
            }
            need = Need::default();
            self.index.add_need(self.index.nodes_needed(range.start(), 1), &mut need);
            if reserve.covers_with_pools(&need) {
                return Ok(self.index.insert(new, &mut reserve));
            }
        }
    }

    /// Takes a range out, if it is there as a whole.
    #[inline]
    pub fn remove(&mut self, start: VirtAddr, size: u64) -> Option<NonNull<W>> {
        let range = PageRange::from_checked(start, size);
        let mut reserve = Reserve::new(&self.platform);
        self.index.aim(range.start());
        let (_, window) = self.index.find_near(range.start()).and_then(place).filter(|found| found.0 == range)?;
        self.index.remove(range.start(), &mut reserve);
        Some(window)
    }

    /// Puts up to three ranges in the place of `count`, of which the first covers `address`, and which they cover together. One of the two numbers is 1.
    ///
    /// # Errors
    /// No frame for nodes.
    #[inline]
    pub fn splice(
        &mut self,
        address: VirtAddr,
        count: usize,
        new: [Option<NewPlace<W>>; 3],
    ) -> Result<(), OutOfFrames> {
        let parts = new.map(|part| part.map(slot));
        if self.index.splice(address, count, parts) { Ok(()) } else { self.splice_apart(address, count, parts) }
    }

    /// The same, where it concerns more than one node.
    fn splice_apart(
        &mut self,
        address: VirtAddr,
        count: usize,
        parts: [Option<Slot<W>>; 3],
    ) -> Result<(), OutOfFrames> {
        let mut reserve = Reserve::new(&self.platform);
        let mut need = Need::default();
        self.index.add_need(self.index.nodes_needed(address, parts.iter().flatten().count()), &mut need);
        reserve.top_up(&need)?;
        let Some(first) = self.index.find_near(address) else { return Ok(()) };
        for _ in 1..count {
            if let Some(next) = first.range.last().checked_add(1) {
                // What is behind the one that was removed is the next one now.
                let next = self.index.first_from(next).map(|slot| slot.range.start());
                next.and_then(|next| self.index.remove(next, &mut reserve));
            }
        }
        self.index.replace(&first, parts, &mut reserve);
        Ok(())
    }

    /// The lowest address at which so many bytes are free, aligned to a power of two.
    #[inline]
    pub fn lowest_gap(&self, within: PageRange, size: u64, alignment: u32) -> Option<VirtAddr> {
        let (first, last) = (within.start().as_u64(), within.last().as_u64());
        self.index.lowest_gap(&GapRequest { first, last, size, alignment, phase: 0 })
    }

    /// Everything, in order.
    pub fn iter(&self) -> impl Iterator<Item = Place<W>> + '_ {
        self.index.iter().filter_map(place)
    }
}
