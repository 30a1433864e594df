//! `mmap`, `munmap`, `brk`.

use crate::addr::{PageRange, VirtAddr};
use crate::frame::Reserve;
use crate::paging::Access;
use crate::platform::Platform;
use crate::posix::regions::{MOST_NEW, Region, RegionFlags};
use crate::posix::{Errno, MapFlags, Memory, Protection, STACK_GAP_PAGES};
use crate::vm_area::{Area, AreaKind, Rights};
use crate::vm_space::{Inherit, MapRequest, Place, Space, SpaceError, Step, WindowFlags};

/// What is mapped.
#[derive(Debug)]
pub enum Backing<'a, P: Platform> {
    /// Zeros.
    Anonymous,
    /// A file, or what else the embedder keeps in an area.
    Area {
        /// The area. Its handle's rights are the file's mode.
        area: &'a Area<P>,
        /// Where to begin, in bytes; whole pages.
        offset: u64,
    },
}

impl<P: Platform> Clone for Backing<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Backing<'_, P> {}

impl<P: Platform> Memory<P> {
    /// `mmap`: maps `length` bytes; gives the address.
    ///
    /// # Errors
    /// As Linux: [`Errno::Invalid`] for a length of 0, an address that is not aligned, neither or both of shared and private, an offset that is not whole pages, and a stack that is shared or a file's;
    /// [`Errno::NoMemory`] for addresses that are none or are not free, and when memory runs out; [`Errno::Exists`]; [`Errno::Access`]; [`Errno::Permission`] for the lowest page and for what is sealed.
    /// Nothing was changed.
    pub fn mmap(
        &mut self,
        space: &Space<P>,
        address: u64,
        length: u64,
        protection: Protection,
        flags: MapFlags,
        backing: Backing<'_, P>,
    ) -> Result<u64, Errno> {
        let fixed = flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NO_REPLACE);
        if length == 0 {
            return Err(Errno::Invalid);
        }
        let top = Self::top(space);
        let size = Self::whole_pages(length).filter(|size| *size != 0 && *size <= top).ok_or(Errno::NoMemory)?;
        if fixed && address > top - size {
            return Err(Errno::NoMemory);
        }
        if fixed && !Self::is_aligned(address) {
            return Err(Errno::Invalid);
        }
        let shared = match flags.intersection(MapFlags::SHARED | MapFlags::PRIVATE) {
            MapFlags::PRIVATE => false,
            kind if kind.contains(MapFlags::SHARED) => true,
            _ => return Err(Errno::Invalid),
        };
        let range = if fixed {
            let range = space.range(address, size).map_err(|_| Errno::Permission)?;
            let (start, end) = bounds(range);
            self.follow_stacks(space, start, end);
            if flags.contains(MapFlags::FIXED_NO_REPLACE) && self.regions.overlapping(start, end).next().is_some() {
                return Err(Errno::Exists);
            }
            range
        } else {
            self.find_place(space, address, size)?
        };
        let is_anonymous = flags.contains(MapFlags::ANONYMOUS) || matches!(backing, Backing::Anonymous);
        if flags.contains(MapFlags::GROWS_DOWN) && (shared || !is_anonymous) {
            return Err(Errno::Invalid);
        }
        let mut region = self.new_region(range, protection, shared, flags);
        let locks = region.flags.contains(RegionFlags::LOCKED);
        match backing {
            _ if is_anonymous => self.map_anonymous(space, range, &mut region)?,
            Backing::Anonymous => self.map_anonymous(space, range, &mut region)?,
            Backing::Area { area, offset } => self.map_area(space, range, &mut region, (area, offset))?,
        }
        if locks {
            self.lock_new(space, range);
        } else if flags.contains(MapFlags::POPULATE) {
            self.populate_new(space, range, &region);
        }
        Ok(range.start().as_u64())
    }

    /// The address that is asked for if it is free, else the highest gap.
    pub(super) fn find_place(&self, space: &Space<P>, hint: u64, size: u64) -> Result<PageRange, Errno> {
        let hint = hint & !(Self::PAGE - 1);
        if hint != 0 {
            if let Ok(range) = space.range(hint, size) {
                if space.is_free(range) {
                    return Ok(range);
                }
            }
        }
        let limits = self.within.unwrap_or(space.bounds());
        space.highest_gap(limits, size).ok_or(Errno::NoMemory)
    }

    fn new_region(&mut self, range: PageRange, protection: Protection, shared: bool, flags: MapFlags) -> Region {
        let (start, end) = bounds(range);
        let mut noted = RegionFlags::empty();
        noted.set(RegionFlags::SHARED, shared);
        noted.set(RegionFlags::NO_RESERVE, flags.contains(MapFlags::NO_RESERVE));
        noted.set(RegionFlags::GROWS_DOWN, flags.contains(MapFlags::GROWS_DOWN));
        let promised = !shared && protection.contains(Protection::WRITE) && !flags.contains(MapFlags::NO_RESERVE);
        noted.set(RegionFlags::PROMISED, promised);
        noted.set(RegionFlags::LOCKED, flags.contains(MapFlags::LOCKED) || self.locks_new);
        Region {
            start,
            end,
            protection,
            flags: noted,
            object: 0,
            page: if shared { 0 } else { start >> P::PAGE_SHIFT },
            line: 0,
            forked: false,
        }
    }

    /// Maps zeros in place of what is there.
    pub(super) fn map_anonymous(
        &mut self,
        space: &Space<P>,
        range: PageRange,
        region: &mut Region,
    ) -> Result<(), Errno> {
        let access = self.access(space, region.protection)?;
        let platform = space.platform();
        if region.flags.contains(RegionFlags::GROWS_DOWN) {
            return self.map_stack(space, range, region, access);
        }
        let area = Area::new(platform, AreaKind::Open { size: range.size() }, self.data.clone())?;
        if !region.is_private() {
            region.object = self.new_object();
            return self.replace(space, range, *region, |reserve| {
                space.map_with(&request_for(&area, region, access).at(region.start), reserve).map(drop)
            });
        }
        self.replace(space, range, *region, |reserve| {
            let request = request_for(&area, region, access).at(region.start);
            space.map_anonymous_with(&request, range.size(), reserve).map(drop)
        })
    }

    /// Maps a stack: what is below it becomes its own as it is touched.
    fn map_stack(&mut self, space: &Space<P>, range: PageRange, region: &Region, access: Access) -> Result<(), Errno> {
        // As far as Linux' usual limit lets a stack grow, or as it is long.
        let limit = range.size().max(STACK_LIMIT.min(Self::top(space) >> 2));
        let kind = AreaKind::Growing { limit, gap: STACK_GAP_PAGES << P::PAGE_SHIFT };
        let area = Area::new(space.platform(), kind, self.data.clone())?;
        self.has_stacks = true;
        self.replace(space, range, *region, |reserve| {
            let request = request_for(&area, region, access).at(region.start).offset(limit - range.size());
            space.map_with(&request.size(range.size()), reserve).map(drop)
        })
    }

    /// Maps a part of an area in place of what is there.
    fn map_area(
        &mut self,
        space: &Space<P>,
        range: PageRange,
        region: &mut Region,
        (area, offset): (&Area<P>, u64),
    ) -> Result<(), Errno> {
        if !Self::is_aligned(offset) {
            return Err(Errno::Invalid);
        }
        if !area.rights().contains(Rights::MAP | Rights::READ) {
            return Err(Errno::Access);
        }
        let access = self.access(space, region.protection)?;
        region.page = offset >> P::PAGE_SHIFT;
        region.object = core::ptr::from_ref(area.inner()).addr() as u64;
        if region.is_private() && matches!(area.kind(), AreaKind::Paged { .. }) {
            let view = private_view(space, area)?;
            let request = request_for(&view, region, access).offset(offset).size(range.size()).past_end();
            return self.replace(space, range, *region, |reserve| space.map_with(&request, reserve).map(drop));
        }
        let request = request_for(area, region, access).offset(offset).size(range.size()).past_end();
        self.replace(space, range, *region, |reserve| space.map_with(&request, reserve).map(drop))
    }

    /// Unmaps what is in the range, has `map` make what takes its place, and notes it. All or nothing.
    pub(super) fn replace(
        &mut self,
        space: &Space<P>,
        range: PageRange,
        region: Region,
        map: impl FnOnce(&mut Reserve<P>) -> Result<(), SpaceError>,
    ) -> Result<(), Errno> {
        let (start, end) = bounds(range);
        self.regions.reserve(2 * MOST_NEW)?;
        self.refresh(space, start, end);
        let occupied = !space.is_free(range);
        // A step that is the only one reserves for itself.
        let mut reserve = match occupied {
            true => space.reserve_steps([Step::Unmap(range), Step::Map(range, region.protection.access())])?,
            false => Reserve::new(space.platform()),
        };
        if occupied {
            space.unmap_out_of(range, &mut reserve)?;
        }
        let mapped = map(&mut reserve);
        self.regions.remove(start, end);
        mapped?;
        self.regions.add(region);
        Ok(())
    }

    /// Locks what was just mapped, and has it be there as far as it can be accessed and memory goes.
    pub(super) fn lock_new(&mut self, space: &Space<P>, range: PageRange) {
        // Where not even that can be noted, the pages are there and may go.
        let _ = space.keep_pages(range);
        self.bring_locked(space, range);
    }

    /// Populates what was just mapped, as far as memory goes.
    fn populate_new(&mut self, space: &Space<P>, range: PageRange, region: &Region) {
        let Ok(access) = self.access(space, region.protection) else { return };
        let write = region.is_private() && region.protection.contains(Protection::WRITE);
        let wanted = if write { Access::READ | Access::WRITE } else { access.difference(Access::WRITE) };
        let populate = |range| space.populate(range, wanted.intersection(access)).map(|flush| flush.complete());
        let Err(error) = populate(range) else { return };
        if write {
            self.note_refused_write(error);
        }
        // Of a file that ends before the mapping does, what there is of it.
        if let SpaceError::OutsideArea(end) = error {
            let size = end.as_u64().saturating_sub(region.start);
            let _ = space.range(region.start, size).map(populate);
        }
    }

    /// `munmap`: takes away what is mapped in the range; where nothing is, nothing happens.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for an address that is not aligned, a length of 0 and addresses that are none; [`Errno::Permission`] for what is sealed; [`Errno::NoMemory`] when
    /// there is none to cut what is mapped. Nothing was changed.
    pub fn munmap(&mut self, space: &Space<P>, address: u64, length: u64) -> Result<(), Errno> {
        let top = Self::top(space);
        if !Self::is_aligned(address) || address > top || length > top - address {
            return Err(Errno::Invalid);
        }
        let size = Self::whole_pages(length).filter(|size| *size != 0).ok_or(Errno::Invalid)?;
        self.unmap(space, address, address.saturating_add(size))
    }

    /// Unmaps what lies between two addresses.
    pub(super) fn unmap(&mut self, space: &Space<P>, start: u64, end: u64) -> Result<(), Errno> {
        let start = start.max(space.bounds().start().as_u64());
        let end = end.min(Self::top(space));
        let Some(size) = end.checked_sub(start).filter(|size| *size != 0) else { return Ok(()) };
        let range = space.range(start, size).map_err(|_| Errno::Invalid)?;
        self.regions.reserve(MOST_NEW)?;
        self.refresh(space, start, end);
        space.unmap_and_release(range)?.complete();
        self.regions.remove(start, end);
        Ok(())
    }

    /// Says where the heap begins: behind the program's image.
    pub fn set_heap(&mut self, start: u64) {
        self.heap = Some((start, start));
    }

    /// `brk`: has the heap end at `address` if that can be, and gives where it ends.
    pub fn brk(&mut self, space: &Space<P>, address: u64) -> u64 {
        let Some((start, end)) = self.heap else { return 0 };
        if address < start || self.move_break(space, end, address).is_err() {
            return end;
        }
        self.heap = Some((start, address));
        address
    }

    fn move_break(&mut self, space: &Space<P>, from: u64, to: u64) -> Result<(), Errno> {
        let old = Self::whole_pages(from).ok_or(Errno::NoMemory)?;
        let new = Self::whole_pages(to).ok_or(Errno::NoMemory)?;
        if new <= old {
            return if new == old { Ok(()) } else { self.unmap(space, new, old) };
        }
        let range = space.range(old, new - old).map_err(|_| Errno::NoMemory)?;
        if !space.is_free(range) {
            return Err(Errno::NoMemory);
        }
        let data = Protection::READ | Protection::WRITE;
        let mut region = self.new_region(range, data, false, MapFlags::PRIVATE);
        self.map_anonymous(space, range, &mut region)?;
        if region.flags.contains(RegionFlags::LOCKED) {
            self.lock_new(space, range);
        }
        Ok(())
    }
}

/// What a private mapping of a file shows: what the program writes stays its own. The view is one of all of the file, so that its offsets are the file's also when the mapping
/// grows, and of all that the file may grow by; past its end there is nothing to be seen.
pub(super) fn private_view<P: Platform>(space: &Space<P>, area: &Area<P>) -> Result<Area<P>, Errno> {
    let view = area.overlay(0, area.size())?;
    let most = space.bounds().size().max(area.size());
    view.resize(most)?.complete();
    Ok(view)
}

/// How far a stack grows at the most, where addresses allow it: 8 MiB.
const STACK_LIMIT: u64 = 8 << 20;

/// The first address of a range, and the first behind it.
pub(super) fn bounds(range: PageRange) -> (u64, u64) {
    (range.start().as_u64(), range.start().as_u64().saturating_add(range.size()))
}

/// What is asked of the space for a region.
pub(super) fn request_for<'a, P: Platform>(area: &'a Area<P>, region: &Region, access: Access) -> MapRequest<'a, P> {
    let mut flags = WindowFlags::empty();
    flags.set(WindowFlags::SHARED, !region.is_private());
    flags.set(WindowFlags::NOT_INHERITED, region.flags.contains(RegionFlags::DONT_FORK));
    flags.set(WindowFlags::INHERITED_AS_ZERO, region.flags.contains(RegionFlags::WIPE_ON_FORK));
    flags.set(WindowFlags::HUGE, region.flags.contains(RegionFlags::HUGE));
    flags.set(WindowFlags::NEVER_HUGE, region.flags.contains(RegionFlags::NO_HUGE));
    let inherit = if region.is_private() { Inherit::Copy } else { Inherit::Share };
    MapRequest::new(area).access(access).inherit(inherit).flags(flags).place(Place::At(region.start))
}

/// The page that begins at an address.
pub(super) const fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}
