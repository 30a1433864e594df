//! `mlock` and its like, `mincore`, `msync`.

use crate::addr::PageRange;
use crate::platform::Platform;
use crate::posix::map::bounds;
use crate::posix::regions::RegionFlags;
use crate::posix::{Errno, Memory, Protection, SyncFlags};
use crate::vm_space::{PageState, Space, SpaceError};

/// How many pages `mincore` asks for at a time.
const PIECE: usize = 64;

impl<P: Platform> Memory<P> {
    /// `mlock`: the pages of the range are there, and stay.
    ///
    /// # Errors
    /// [`Errno::NoMemory`] where nothing is mapped, where nothing may be accessed, and when memory runs out. Nothing was changed.
    pub fn mlock(&mut self, space: &Space<P>, address: u64, length: u64) -> Result<(), Errno> {
        let Some(range) = self.around(space, address, length)? else { return Ok(()) };
        self.lock_range(space, range)
    }

    /// `munlock`: the pages of the range need not stay any more.
    ///
    /// # Errors
    /// [`Errno::NoMemory`] where nothing is mapped. Nothing was changed.
    pub fn munlock(&mut self, space: &Space<P>, address: u64, length: u64) -> Result<(), Errno> {
        let Some(range) = self.around(space, address, length)? else { return Ok(()) };
        self.unlock_range(space, range)
    }

    /// `mlockall`: everything that is mapped (`current`), and all that will be (`future`), stays; and is there, as far as each region can be accessed and memory goes.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for neither; [`Errno::NoMemory`] when there is no memory to note it: what lies below is locked then.
    pub fn mlockall(&mut self, space: &Space<P>, current: bool, future: bool) -> Result<(), Errno> {
        if !current && !future {
            return Err(Errno::Invalid);
        }
        let mut next = if current { 0 } else { u64::MAX };
        while let Some((start, end)) = self.next_region(next) {
            next = end;
            let Ok(range) = space.range(start, end - start) else { continue };
            self.regions.reserve(2)?;
            self.refresh(space, start, end);
            space.keep_pages(range)?;
            self.regions.change(start, end, |region| region.flags.insert(RegionFlags::LOCKED));
            self.bring_locked(space, range);
        }
        self.locks_new = future;
        Ok(())
    }

    /// `munlockall`: nothing needs to stay any more.
    ///
    /// # Errors
    /// [`Errno::NoMemory`] when memory runs out: what lies below is unlocked then.
    pub fn munlockall(&mut self, space: &Space<P>) -> Result<(), Errno> {
        self.locks_new = false;
        let mut next = 0;
        while let Some((start, end)) = self.next_region(next) {
            next = end;
            if let Ok(range) = space.range(start, end - start) {
                self.unlock_range(space, range)?;
            }
        }
        Ok(())
    }

    fn next_region(&self, from: u64) -> Option<(u64, u64)> {
        self.regions.from(from).map(|region| (region.start, region.end))
    }

    /// Has the pages of memory that is locked already be there: all of them, or those before the first that is refused.
    pub(super) fn bring_locked(&mut self, space: &Space<P>, range: PageRange) {
        let bring = |range| space.lock_pages(range).map(|flush| flush.complete());
        let Err(error) = bring(range) else { return };
        if let SpaceError::Guard(refused) | SpaceError::OutsideArea(refused) = error {
            let region = self.regions.at(refused.as_u64());
            if region.is_some_and(|region| region.protection.contains(Protection::WRITE)) {
                self.note_refused_write(error);
            }
            let size = refused.as_u64().saturating_sub(range.start().as_u64());
            let _ = space.range(range.start().as_u64(), size).map(bring);
        }
    }

    /// Every page that some of the bytes lie in.
    fn around(&mut self, space: &Space<P>, address: u64, length: u64) -> Result<Option<PageRange>, Errno> {
        let start = address & !(Self::PAGE - 1);
        // A length that is no number in whole pages is none at all.
        let length = length.wrapping_add(address - start);
        let range = self.checked(space, start, Self::whole_pages(length).unwrap_or(0))?;
        if let Some((start, end)) = range.map(bounds) {
            self.follow_stacks(space, start, end);
        }
        match range.map(bounds) {
            Some((start, end)) if !self.regions.covers(start, end) => Err(Errno::NoMemory),
            _ => Ok(range),
        }
    }

    fn lock_range(&mut self, space: &Space<P>, range: PageRange) -> Result<(), Errno> {
        let (start, end) = bounds(range);
        let count = self.regions.overlapping(start, end).count();
        self.regions.reserve(2 * count)?;
        self.refresh(space, start, end);
        match space.lock_pages(range) {
            Ok(flush) => flush.complete(),
            Err(SpaceError::Denied { .. } | SpaceError::Guard(_) | SpaceError::OutsideArea(_)) => {
                return Err(Errno::NoMemory);
            }
            Err(error) => return Err(error.into()),
        }
        self.regions.change(start, end, |region| region.flags.insert(RegionFlags::LOCKED));
        Ok(())
    }

    fn unlock_range(&mut self, space: &Space<P>, range: PageRange) -> Result<(), Errno> {
        let (start, end) = bounds(range);
        let count = self.regions.overlapping(start, end).count();
        self.regions.reserve(2 * count)?;
        self.refresh(space, start, end);
        space.unlock_pages(range)?;
        self.regions.change(start, end, |region| region.flags.remove(RegionFlags::LOCKED));
        Ok(())
    }

    /// `mincore`: says of each page, in order, whether it is resident (1) or not (0), as far as `into` has room.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an address that is not aligned; [`Errno::NoMemory`] where nothing is mapped.
    pub fn mincore(&mut self, space: &Space<P>, address: u64, length: u64, into: &mut [u8]) -> Result<(), Errno> {
        let range = match self.checked(space, address, length) {
            // A length that leads past the end of all addresses.
            Err(_) if Self::is_aligned(address) => return Err(Errno::NoMemory),
            range => range?,
        };
        let Some(range) = range else { return Ok(()) };
        let (start, end) = bounds(range);
        self.follow_stacks(space, start, end);
        if !self.regions.covers(start, end) {
            return Err(Errno::NoMemory);
        }
        let mut next = start;
        for piece in into.chunks_mut(PIECE) {
            let Ok(rest) = space.range(next, end.saturating_sub(next)) else { break };
            let mut states = [PageState::empty(); PIECE];
            let count = space.page_states(rest, &mut states)?;
            for (byte, state) in piece.iter_mut().zip(states.iter().take(count)) {
                // What was read and never written shows zeros that no area holds.
                *byte = u8::from(state.intersects(PageState::RESIDENT | PageState::SHOWN));
            }
            next = next.saturating_add((count as u64) << P::PAGE_SHIFT);
        }
        Ok(())
    }

    /// `msync`: checks what is asked. Write-back is whose area it is.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an address that is not aligned, or both ways at once; [`Errno::NoMemory`] where nothing is mapped; [`Errno::Busy`] if what is
    /// locked is to be invalidated.
    pub fn msync(&mut self, space: &Space<P>, address: u64, length: u64, flags: SyncFlags) -> Result<(), Errno> {
        if flags.contains(SyncFlags::ASYNC | SyncFlags::SYNC) {
            return Err(Errno::Invalid);
        }
        if !Self::is_aligned(address) {
            return Err(Errno::Invalid);
        }
        // A length that is no number in whole pages is none at all, and one that leads past all addresses leads to where nothing is mapped.
        let Some(size) = Self::whole_pages(length).filter(|size| *size != 0) else { return Ok(()) };
        let range = address.checked_add(size).and_then(|_| space.range(address, size).ok()).ok_or(Errno::NoMemory)?;
        let (start, end) = bounds(range);
        self.follow_stacks(space, start, end);
        let locked = self.regions.overlapping(start, end).any(|region| region.flags.contains(RegionFlags::LOCKED));
        if locked && flags.contains(SyncFlags::INVALIDATE) {
            return Err(Errno::Busy);
        }
        if self.regions.covers(start, end) { Ok(()) } else { Err(Errno::NoMemory) }
    }
}
