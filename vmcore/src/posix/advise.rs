//! `madvise`.

use crate::addr::PageRange;
use crate::paging::Access;
use crate::platform::Platform;
use crate::posix::map::bounds;
use crate::posix::regions::{Region, RegionFlags};
use crate::posix::{Advice, Errno, Memory, Protection};
use crate::vm_space::{self, Space, SpaceError};

impl<P: Platform> Memory<P> {
    /// `madvise`: takes what a program says about the range.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an address that is not aligned, addresses that are none, and memory for which the advice means nothing; [`Errno::NoMemory`] where nothing is
    /// mapped; [`Errno::Fault`] for a guard that is to be populated; [`Errno::Permission`] for what is sealed and would be discarded. Nothing was changed.
    pub fn madvise(&mut self, space: &Space<P>, address: u64, length: u64, advice: Advice) -> Result<(), Errno> {
        let range = match self.checked(space, address, length) {
            Ok(None) => return Ok(()),
            // Beyond the programs' addresses nothing is mapped; what lies before comes first.
            Err(Errno::NoMemory) => None,
            range => range?,
        };
        let (start, end) = range.map_or((address, Self::top(space)), bounds);
        self.follow_stacks(space, start, end);
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            return self.populate(space, range.ok_or((start, end)), advice == Advice::PopulateWrite);
        }
        for region in self.regions.overlapping(start, end) {
            check(region, advice)?;
        }
        let Some(range) = range.filter(|_| self.regions.covers(start, end)) else { return Err(Errno::NoMemory) };
        let count = self.regions.overlapping(start, end).count();
        self.regions.reserve(2 * count)?;
        self.refresh(space, start, end);
        match advice {
            Advice::Normal | Advice::Random | Advice::Sequential | Advice::Cold => {}
            Advice::WillNeed => space.advise(range, vm_space::Advice::Needed)?.complete(),
            Advice::DontNeed => space.advise(range, vm_space::Advice::NotNeeded)?.complete(),
            Advice::Free => space.advise(range, vm_space::Advice::FreeLazily)?.complete(),
            Advice::DontFork => space.keep_from_clones(range, true)?,
            Advice::DoFork => space.keep_from_clones(range, false)?,
            Advice::WipeOnFork => space.wipe_in_clones(range, true)?,
            Advice::KeepOnFork => space.wipe_in_clones(range, false)?,
            Advice::HugePage => space.advise(range, vm_space::Advice::Huge)?.complete(),
            Advice::NoHugePage => space.advise(range, vm_space::Advice::NeverHuge)?.complete(),
            Advice::GuardInstall => {
                space.install_guards_and_release(range)?.complete();
                self.note_guarded(start, end);
            }
            Advice::GuardRemove => space.remove_guards(range)?,
            Advice::PopulateRead | Advice::PopulateWrite => {}
        }
        self.regions.change(start, end, |region| match advice {
            Advice::DontFork => region.flags.insert(RegionFlags::DONT_FORK),
            Advice::DoFork => region.flags.remove(RegionFlags::DONT_FORK),
            Advice::WipeOnFork => region.flags.insert(RegionFlags::WIPE_ON_FORK),
            Advice::KeepOnFork => region.flags.remove(RegionFlags::WIPE_ON_FORK),
            Advice::HugePage => region.flags = region.flags.difference(RegionFlags::NO_HUGE) | RegionFlags::HUGE,
            Advice::NoHugePage => region.flags = region.flags.difference(RegionFlags::HUGE) | RegionFlags::NO_HUGE,
            _ => {}
        });
        Ok(())
    }

    /// A guard in private anonymous memory counts as a page that was written. In shared memory, and in private memory of a file, Linux notes nothing.
    fn note_guarded(&mut self, start: u64, end: u64) {
        let mut next = start;
        while let Some(region) = self.regions.from(next).copied().filter(|region| region.start < end) {
            next = region.end;
            if region.is_anonymous_private() {
                self.regions.note_written(region.start);
            }
        }
    }

    /// Has every page of the range be there; or of addresses that go on where there are none, which is refused in any case.
    fn populate(&mut self, space: &Space<P>, range: Result<PageRange, (u64, u64)>, write: bool) -> Result<(), Errno> {
        let (start, end) = range.map_or_else(|bounds| bounds, bounds);
        let wanted = if write { Protection::WRITE } else { Protection::READ };
        let mut next = start;
        // The lowest address at which something is wrong decides.
        for region in self.regions.overlapping(start, end) {
            if region.start > next {
                return Err(Self::first_fault(space, start, next).unwrap_or(Errno::NoMemory));
            }
            if !region.protection.contains(wanted) {
                return Err(Self::first_fault(space, start, next).unwrap_or(Errno::Invalid));
            }
            next = region.end;
        }
        let Some(range) = range.ok().filter(|_| next >= end) else {
            return Err(Self::first_fault(space, start, next.min(end)).unwrap_or(Errno::NoMemory));
        };
        self.refresh(space, start, end);
        let access = if write { Access::READ | Access::WRITE } else { Access::READ };
        match space.populate(range, access) {
            Ok(flush) => flush.complete(),
            Err(SpaceError::Denied { .. }) => return Err(Errno::Invalid),
            Err(error) => {
                if write {
                    self.note_refused_write(error);
                }
                return Err(error.into());
            }
        }
        self.refresh(space, start, end);
        Ok(())
    }

    /// What populating meets in a range before its end: a guard, or nothing behind what is mapped.
    fn first_fault(space: &Space<P>, start: u64, end: u64) -> Option<Errno> {
        let range = space.range(start, end.checked_sub(start)?).ok()?;
        space.refuses_some(range).then_some(Errno::Fault)
    }
}

/// Whether the advice means something for a region.
fn check(region: &Region, advice: Advice) -> Result<(), Errno> {
    let flags = region.flags;
    match advice {
        Advice::DontNeed | Advice::Free if flags.contains(RegionFlags::SEALED) => Err(Errno::Permission),
        Advice::DontNeed | Advice::Free | Advice::Cold if flags.contains(RegionFlags::LOCKED) => Err(Errno::Invalid),
        Advice::Free if !region.is_anonymous_private() => Err(Errno::Invalid),
        // What a child does not get, or gets as zeros, is as good as discarded: of what may not be written to, that is refused.
        Advice::DontFork | Advice::WipeOnFork
            if flags.contains(RegionFlags::SEALED)
                && region.is_anonymous_private()
                && !region.protection.contains(Protection::WRITE) =>
        {
            Err(Errno::Permission)
        }
        Advice::WipeOnFork if !region.is_anonymous_private() => Err(Errno::Invalid),
        Advice::GuardInstall | Advice::GuardRemove if flags.contains(RegionFlags::SEALED) => Err(Errno::Permission),
        Advice::GuardInstall if flags.contains(RegionFlags::LOCKED) => Err(Errno::Invalid),
        _ => Ok(()),
    }
}
