//! `mremap`.
//!
//! ```text
//!   unmap what is at the new place ──► unmap what is left out ──► move the windows ──► map what is added
//!                                      (smaller)                  (or leave the old)   (larger)
//! ```
//!
//! What all of it takes is reserved before the first step.

use crate::addr::VirtAddr;
use crate::frame::Reserve;
use crate::platform::Platform;
use crate::posix::map::{at, bounds, private_view, request_for};
use crate::posix::regions::{MOST_NEW, Region, RegionFlags};
use crate::posix::{Errno, Memory, RemapFlags};
use crate::vm_area::{Area, AreaKind};
use crate::vm_space::{Space, SpaceError, Step};

/// What is moved: addresses and bytes.
#[derive(Clone, Copy)]
struct Move {
    from: u64,
    to: u64,
    old_size: u64,
    new_size: u64,
    keeps_old: bool,
}

impl Move {
    /// What both places have.
    fn shown(&self) -> u64 {
        self.old_size.min(self.new_size)
    }
}

impl<P: Platform> Memory<P> {
    /// `mremap`: gives what is at `old` another length, another place, or both; gives its address. An old length of 0 has shared memory be shown a second time. `new` counts only with [`RemapFlags::FIXED`] and, as a hint, with
    /// [`RemapFlags::DONT_UNMAP`].
    ///
    /// # Errors
    /// [`Errno::Fault`] where nothing is mapped, or not by one region (but those of a fixed move that keeps the size); [`Errno::Invalid`] for addresses that are not aligned or
    /// overlap, a new length of 0, flags that do not go together, an old length of 0 of private memory; [`Errno::NoMemory`] where it cannot grow; [`Errno::Permission`] for what is sealed. Nothing was changed.
    pub fn mremap(
        &mut self,
        space: &Space<P>,
        old: u64,
        old_length: u64,
        new_length: u64,
        flags: RemapFlags,
        new: u64,
    ) -> Result<u64, Errno> {
        let top = Self::top(space);
        let old_size = Self::whole_pages(old_length).unwrap_or(0);
        let new_size = Self::whole_pages(new_length).filter(|size| *size != 0 && *size <= top).ok_or(Errno::Invalid)?;
        if !Self::is_aligned(old) {
            return Err(Errno::Invalid);
        }
        let keeps_old = flags.contains(RemapFlags::DONT_UNMAP);
        let fixed = flags.contains(RemapFlags::FIXED);
        if fixed || keeps_old {
            let overlaps = old.wrapping_add(old_size) > new && new.saturating_add(new_size) > old;
            let sizes_differ = keeps_old && old_size != new_size;
            if new > top - new_size || !Self::is_aligned(new) || sizes_differ || overlaps {
                return Err(Errno::Invalid);
            }
            if !flags.contains(RemapFlags::MAY_MOVE) {
                return Err(Errno::Invalid);
            }
        }
        self.follow_stacks(space, old, old.saturating_add(old_size));
        if fixed && old_size == new_size {
            return self.move_regions(space, Move { from: old, to: new, old_size, new_size, keeps_old });
        }
        let region = self.regions.at(old).copied().ok_or(Errno::Fault)?;
        if region.flags.contains(RegionFlags::SEALED) {
            return Err(Errno::Permission);
        }
        if old_size == 0 {
            return self.duplicate(space, &region.part(old, region.end, P::PAGE_SHIFT), new_size, flags, new);
        }
        if (fixed || keeps_old || new_size > old_size) && old_size.min(new_size) > region.end - old {
            return Err(Errno::Fault);
        }
        if fixed || keeps_old {
            let to = if fixed { new } else { self.find_place(space, new, new_size)?.start().as_u64() };
            return self.move_regions(space, Move { from: old, to, old_size, new_size, keeps_old });
        }
        if new_size < old_size {
            // As `munmap` has it, which knows what addresses there are.
            let (start, size) = (old.checked_add(new_size).ok_or(Errno::Invalid)?, old_size - new_size);
            self.munmap(space, start, size)?;
            return Ok(old);
        }
        if new_size == old_size {
            return Ok(old);
        }
        let grown = space.range(region.end, new_size - old_size).ok();
        match grown.filter(|range| old_size == region.end - old && space.is_free(*range)) {
            Some(range) => {
                self.regions.reserve(2 * MOST_NEW)?;
                self.refresh(space, region.start, region.end);
                let region = self.regions.at(old).copied().ok_or(Errno::Fault)?;
                let mut reserve = Reserve::new(space.platform());
                let (start, end) = bounds(range);
                let more = more_of(&region, start, end, P::PAGE_SHIFT);
                let area = self.area_for(space, &region, region.start, range.size())?;
                self.map_more(space, &area, &more, &mut reserve)?;
                self.regions.add_behind(more);
                self.lock_if(space, &more);
                Ok(old)
            }
            None if flags.contains(RemapFlags::MAY_MOVE) => {
                let to = self.find_place(space, 0, new_size)?.start().as_u64();
                self.move_regions(space, Move { from: old, to, old_size, new_size, keeps_old })
            }
            None => Err(Errno::NoMemory),
        }
    }

    /// Maps what a region of shared memory shows a second time, from its start on. (An old size of 0 asks for that.)
    fn duplicate(
        &mut self,
        space: &Space<P>,
        region: &Region,
        size: u64,
        flags: RemapFlags,
        new: u64,
    ) -> Result<u64, Errno> {
        if region.is_private() {
            return Err(Errno::Invalid);
        }
        if !flags.contains(RemapFlags::MAY_MOVE) {
            return Err(Errno::NoMemory);
        }
        let range = match flags.contains(RemapFlags::FIXED) {
            true => space.range(new, size).map_err(|_| Errno::Permission)?,
            false => self.find_place(space, 0, size)?,
        };
        let (start, end) = bounds(range);
        if (start..end).contains(&region.start) {
            // What is at the new place goes first.
            return Err(Errno::Fault);
        }
        let twin = Region { start, end, ..*region };
        let area = self.area_for(space, &twin, region.start, size)?;
        let access = self.access(space, twin.protection)?;
        let request = request_for(&area, &twin, access).size(size).offset(twin.page << P::PAGE_SHIFT).past_end();
        self.replace(space, range, twin, |reserve| space.map_with(&request, reserve).map(drop))?;
        self.lock_if(space, &twin);
        Ok(start)
    }

    /// Moves every region of the old addresses, with the gaps between them; of several, all keep their size.
    fn move_regions(&mut self, space: &Space<P>, moved: Move) -> Result<u64, Errno> {
        let (start, end) = (moved.from, moved.from.saturating_add(moved.shown()));
        if self.regions.at(start).is_none() || moved.old_size == 0 {
            // A mapping that begins behind the start is no better than none.
            return Err(if moved.old_size == 0 && self.regions.at(start).is_some() {
                Errno::Invalid
            } else {
                Errno::Fault
            });
        }
        let sealed = |region: &Region| region.flags.contains(RegionFlags::SEALED);
        if self.regions.overlapping(start, end).any(sealed) {
            return Err(Errno::Permission);
        }
        let count = self.regions.overlapping(start, end).count();
        self.regions.reserve(count.saturating_mul(2 * MOST_NEW))?;
        self.refresh(space, start, end);
        let to_end = moved.to.saturating_add(moved.new_size);
        self.refresh(space, moved.to, to_end);
        let first = self.regions.at(start).copied().ok_or(Errno::Fault)?;
        // What is added behind it, or left in its place.
        let extra = moved.new_size.saturating_sub(moved.old_size);
        let added = (extra != 0).then(|| self.area_for(space, &first, first.start, extra)).transpose()?;
        let mut reserve = space.reserve_steps(self.steps(space, moved))?;
        if let Some((range, _)) = self.left_out(space, moved) {
            space.unmap_out_of(range, &mut reserve)?;
            self.regions.remove(bounds(range).0, bounds(range).1);
        }
        let mut next = start;
        while let Some(region) = self.regions.from(next).copied().filter(|region| region.start < end && next < end) {
            // What the part before left behind may have become one region with it.
            let (from, last) = (region.start.max(next), region.end.min(end));
            next = last;
            self.move_region(space, moved, &region.part(from, last, P::PAGE_SHIFT), &added, &mut reserve)?;
        }
        Ok(moved.to)
    }

    /// The steps of a move, for what they take.
    fn steps<'a>(&'a self, space: &'a Space<P>, moved: Move) -> impl Iterator<Item = Step> + 'a {
        let (start, end) = (moved.from, moved.from.saturating_add(moved.shown()));
        let left_out = self.left_out(space, moved).map(|(_, step)| step);
        let parts = self.regions.overlapping(start, end).flat_map(move |region| {
            let (from, last) = (region.start.max(start), region.end.min(end));
            let to = moved.to.wrapping_add(from - start);
            let size = if moved.new_size > moved.old_size { moved.new_size } else { last - from };
            let (source, target) = (space.range(from, last - from).ok(), space.range(to, size).ok());
            let access = region.protection.access();
            // Most moves go to where nothing is, and most add nothing.
            let unmap = target.filter(|target| !space.is_free(*target)).map(Step::Unmap);
            let map = target.filter(|_| moved.new_size > moved.old_size).map(|target| Step::Map(target, access));
            unmap.into_iter().chain(source.map(|source| Step::Move(source, at(to)))).chain(map)
        });
        left_out.into_iter().chain(parts)
    }

    /// What of the old addresses has no place in the new ones.
    fn left_out(&self, space: &Space<P>, moved: Move) -> Option<(crate::addr::PageRange, Step)> {
        let rest = moved.old_size.checked_sub(moved.new_size).filter(|rest| *rest != 0)?;
        let range = space.range(moved.from.checked_add(moved.new_size)?, rest).ok()?;
        Some((range, Step::Unmap(range)))
    }

    /// Moves one region, or a part of one. What it takes was reserved.
    fn move_region(
        &mut self,
        space: &Space<P>,
        moved: Move,
        part: &Region,
        added: &Option<Area<P>>,
        reserve: &mut Reserve<P>,
    ) -> Result<(), Errno> {
        let to = moved.to.wrapping_add(part.start - moved.from);
        let size = part.end - part.start;
        let new_size = size.max(if moved.new_size > moved.old_size { moved.new_size } else { 0 });
        let invalid = |_| Errno::Invalid;
        let (source, target) = (space.range(part.start, size), space.range(to, new_size).map_err(invalid)?);
        let source = source.map_err(invalid)?;
        if !space.is_free(target) {
            space.unmap_out_of(target, reserve)?;
        }
        self.regions.remove(to, to.saturating_add(new_size));
        let mut arrives = Region { start: to, end: to.saturating_add(new_size), ..*part };
        if part.is_anonymous_private() && part.line == 0 {
            arrives.page = to >> P::PAGE_SHIFT;
        }
        space.move_windows(source, VirtAddr::new(to), moved.keeps_old, reserve)?;
        let more = arrives.part(to.saturating_add(size), arrives.end, P::PAGE_SHIFT);
        if let Some(area) = added {
            self.map_more(space, area, &more, reserve)?;
        }
        self.regions.add(arrives);
        if moved.keeps_old {
            self.regions.forget_line(part.start, part.end);
            self.regions.change(part.start, part.end, |region| region.flags.remove(RegionFlags::LOCKED));
        } else {
            self.regions.remove(part.start, part.end);
        }
        if added.is_some() {
            self.lock_if(space, &more);
        }
        Ok(())
    }

    fn new_area(&self, space: &Space<P>, size: u64) -> Result<Area<P>, Errno> {
        Ok(Area::new(space.platform(), AreaKind::Open { size }, self.data.clone())?)
    }

    /// What backs so many bytes more of a region: zeros of their own, or what it shows at an address.
    fn area_for(&self, space: &Space<P>, region: &Region, shown: u64, size: u64) -> Result<Area<P>, Errno> {
        if region.is_anonymous_private() {
            return self.new_area(space, size);
        }
        let area = space.area_at(at(shown))?;
        // What the program has written to the file's next pages may show elsewhere, where the region was cut: what is added is a view of its own.
        match area.viewed()? {
            Some(file) if region.is_private() => private_view(space, &file),
            _ => Ok(area),
        }
    }

    /// Maps what a region has more at its end.
    fn map_more(
        &self,
        space: &Space<P>,
        area: &Area<P>,
        more: &Region,
        reserve: &mut Reserve<P>,
    ) -> Result<(), SpaceError> {
        let access = self.access(space, more.protection).map_err(|_| SpaceError::NoGap(0))?;
        let size = more.end - more.start;
        let request = request_for(area, more, access).size(size);
        if more.is_anonymous_private() {
            return space.map_anonymous_with(&request, size, reserve).map(drop);
        }
        // The page that the region shows there, whatever it begins with.
        let offset = more.page << P::PAGE_SHIFT;
        space.map_with(&request.offset(offset).past_end(), reserve).map(drop)
    }

    /// Has what was added to locked memory be there, as far as it can be accessed and memory goes.
    fn lock_if(&mut self, space: &Space<P>, region: &Region) {
        if !region.flags.contains(RegionFlags::LOCKED) {
            return;
        }
        if let Ok(range) = space.range(region.start, region.end - region.start) {
            self.lock_new(space, range);
        }
    }
}

/// What a region has behind its end.
fn more_of(region: &Region, start: u64, end: u64, page_shift: u32) -> Region {
    region.part(start, end, page_shift)
}
