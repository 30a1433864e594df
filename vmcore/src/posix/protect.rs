//! `mprotect`, `mseal`.

use crate::platform::Platform;
use crate::posix::map::bounds;
use crate::posix::regions::RegionFlags;
use crate::posix::{Errno, Memory, Protection};
use crate::vm_space::Space;

impl<P: Platform> Memory<P> {
    /// `mprotect`: gives the range this protection.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an address that is not aligned; [`Errno::NoMemory`] where nothing is mapped; [`Errno::Access`] for what the file was not opened for;
    /// [`Errno::Permission`] for what is sealed. Nothing was changed.
    pub fn mprotect(
        &mut self,
        space: &Space<P>,
        address: u64,
        length: u64,
        protection: Protection,
    ) -> Result<(), Errno> {
        let range = match self.checked(space, address, length) {
            Ok(None) => return Ok(()),
            Ok(Some(range)) => range,
            // A length that leads past the end of all addresses.
            Err(error) => return Err(if Self::is_aligned(address) { Errno::NoMemory } else { error }),
        };
        let (start, end) = bounds(range);
        self.follow_stacks(space, start, end);
        if !self.regions.covers(start, end) {
            // What is sealed is met before a gap behind it.
            let mut next = start;
            let before_the_gap = self.regions.overlapping(start, end).take_while(|region| {
                let follows = region.start <= next;
                next = region.end;
                follows
            });
            let sealed = before_the_gap.into_iter().any(|region| region.flags.contains(RegionFlags::SEALED));
            return Err(if sealed { Errno::Permission } else { Errno::NoMemory });
        }
        let access = self.access(space, protection)?;
        let count = self.regions.overlapping(start, end).count();
        self.regions.reserve(2 * count)?;
        self.refresh(space, start, end);
        space.protect(range, access)?.complete();
        if protection.contains(Protection::WRITE) {
            self.bring_what_is_locked(space, start, end);
        }
        self.regions.change(start, end, |region| {
            if region.protection == protection {
                return;
            }
            region.protection = protection;
            if protection.contains(Protection::WRITE) {
                let kept = RegionFlags::SHARED | RegionFlags::NO_RESERVE;
                region.flags.set(RegionFlags::PROMISED, !region.flags.intersects(kept));
            } else if region.is_anonymous_private() && region.line == 0 {
                // What was promised and never used is promised no more.
                region.flags.remove(RegionFlags::PROMISED);
            }
        });
        Ok(())
    }

    /// Has private pages that are locked be there that could not be written to before.
    fn bring_what_is_locked(&mut self, space: &Space<P>, start: u64, end: u64) {
        let mut next = start;
        while let Some(region) = self.regions.from(next).copied().filter(|region| region.start < end) {
            next = region.end;
            let locked = region.flags.contains(RegionFlags::LOCKED) && region.is_private();
            if locked && !region.protection.contains(Protection::WRITE) {
                let (from, to) = (region.start.max(start), region.end.min(end));
                let _ = space.range(from, to - from).map(|range| self.bring_locked(space, range));
            }
        }
    }

    /// `mseal`: nothing of the range is unmapped, protected, moved or discarded any more.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an address that is not aligned; [`Errno::NoMemory`] where nothing is mapped. Nothing was changed.
    pub fn mseal(&mut self, space: &Space<P>, address: u64, length: u64) -> Result<(), Errno> {
        let Some(range) = self.checked(space, address, length)? else { return Ok(()) };
        let (start, end) = bounds(range);
        self.follow_stacks(space, start, end);
        if !self.regions.covers(start, end) {
            return Err(Errno::NoMemory);
        }
        let count = self.regions.overlapping(start, end).count();
        self.regions.reserve(2 * count)?;
        self.refresh(space, start, end);
        space.seal(range)?;
        self.regions.change(start, end, |region| region.flags.insert(RegionFlags::SEALED));
        Ok(())
    }
}
