//! Which pages were in use lately, by the hardware's accessed marks: how who takes pages away finds those that nobody misses.
//!
//! ```text
//!   Area::take_accessed ──► every view ──► its tables: accessed marks off        bit k: page k had one, in any table
//!                                              └──► noted ──────────────────────► ...0010110
//! ```
//!
//! The marks are hints. They are taken back without a flush, so a CPU that remembers a page's translation does not mark it again before it has forgotten
//! it; a page may be taken for idle that is used, which costs a fault, never its contents.

use core::cell::Cell;
use core::ptr::NonNull;

use super::{Area, AreaError, Rights, ViewChange};
use crate::paging::Pending;
use crate::platform::Platform;

/// How many pages are asked about at once.
const PAGES: u64 = 64;

/// Where views note what they find: a bit for each page from one on, in numbers of the area that the view shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessedPages {
    /// The page of the lowest bit. Of a view that is laid over the area, in its own numbers: then it may be below zero, and has come round.
    base: u64,
    /// It lives on the stack of who asks, for as long as the change is handed on.
    bits: NonNull<Cell<u64>>,
}

impl AccessedPages {
    /// The same, in numbers that are so much lower.
    pub(super) const fn lowered(self, offset: u64) -> Self {
        Self { base: self.base.wrapping_sub(offset), bits: self.bits }
    }

    /// Notes `count` pages from `first` on; of others than those that were asked about, nothing.
    ///
    /// # Safety
    /// It came with a [`ViewChange`] that is being carried out.
    pub(crate) unsafe fn note(self, first: u64, count: u64) {
        for page in first..first.saturating_add(count.min(PAGES)) {
            let bit = page.wrapping_sub(self.base);
            if bit < PAGES {
                // SAFETY: the caller's promise: who asks waits for the change to be carried out, and its cell lives meanwhile. Views are changed one after
                // another, on this CPU.
                let bits = unsafe { self.bits.as_ref() };
                bits.set(bits.get() | 1 << bit);
            }
        }
    }
}

impl<P: Platform> Area<P> {
    /// Which of the 64 pages from byte `offset` on were accessed through a window, of this area or of a [private view](Self::overlay) of it, since this was
    /// asked last: a bit for each, the lowest for the first. How whoever [gives pages up](Self::evict) finds those that are not in use.
    ///
    /// A hint, as the hardware gives it: nothing is flushed, so a page that a CPU remembers may be in use and not be among them; accesses by a handle are not; a
    /// larger leaf of which these pages are a part counts as accessed for all of them, every time. Hardware that keeps no such marks has none.
    ///
    /// Cost: O(windows), allocates nothing.
    ///
    /// # Errors
    /// The handle lacks the right to supply; an offset that is no page's.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space};
    /// use vmcore::{Platform, addr::VirtAddr, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// # let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
    /// let range = space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA)).unwrap();
    /// space.populate(range, Access::WRITE).unwrap().complete();
    /// area.take_accessed(0).unwrap(); // What was just made counts as accessed.
    /// sim.activate(0, &space.activate(0));
    /// sim.write_u64(0, VirtAddr::new(0x40_2000), true, 1).unwrap();
    /// assert_eq!((area.take_accessed(0), area.take_accessed(0)), (Ok(0b100), Ok(0)));
    /// # sim.unload(0);
    /// # // SAFETY: the CPU has no root any more.
    /// # unsafe { space.deactivate(0) };
    /// # }
    /// ```
    pub fn take_accessed(&self, offset: u64) -> Result<u64, AreaError> {
        self.require(Rights::SUPPLY)?;
        if offset & ((1 << P::PAGE_SHIFT) - 1) != 0 {
            return Err(AreaError::Unaligned(offset));
        }
        let platform = self.platform();
        let first = offset >> P::PAGE_SHIFT;
        let bits = Cell::new(0);
        let mut pending = Pending::new();
        {
            let mut state = self.inner().lock(platform);
            let count = state.pages().saturating_sub(first).min(PAGES);
            if count != 0 {
                let into = AccessedPages { base: first, bits: NonNull::from(&bits) };
                state.change_views(platform, ViewChange::TakeAccessed { first, count, into }, &mut pending);
            }
        }
        pending.complete(platform);
        Ok(bits.get())
    }

    /// The offset of the first resident page at or after `offset`, in bytes: how whoever gives pages up finds what there is of a large area. Of a
    /// [private view](Self::overlay), the first of its own. O(depth + pages that were asked for and have not come, before that one), no allocation.
    pub fn next_resident(&self, offset: u64) -> Option<u64> {
        let state = self.inner().lock(self.platform());
        let mut pages = state.tree.range(offset >> P::PAGE_SHIFT..);
        pages.find(|(_, page)| page.held_frame().is_some()).map(|(index, _)| index << P::PAGE_SHIFT)
    }
}
