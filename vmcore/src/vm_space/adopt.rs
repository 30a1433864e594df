//! Taking over what another's tables map: each run becomes a window onto a fixed area, shown by tables of this library's.
//!
//! ```text
//!   a loader's tables                          the space
//!   0x…8000_0000  2 MiB leaf r-x  ─ run ─┐
//!   0x…8020_0000  4 KiB r-x … r-x ───────┘──► window r-x ──► fixed area, write-back
//!   0x…8020_5000  4 KiB rw-       ─ run ────► window rw- ──► fixed area, write-back
//!   0x…9000_0000  2 MiB leaf rw-, WC ───────► window rw- ──► fixed area, write-combining
//!   0x…c000_0000  1 GiB leaf rw-  ─ run ──── left out
//! ```
//!
//! The runs are made windows of one after another, out of sight and with no lock of the space held, since the embedder is asked about each. Then
//! the index and the tables are locked once: all that the commit takes is there, every range is free, and all of them appear together.
//! What is prepared and not committed is taken apart again; nobody has seen it, so there is nothing to flush.

#[cfg(test)]
mod tests;

use core::fmt;
use core::ptr::NonNull;

use crate::addr::{FrameRange, PageRange, RangeError, RangeFault, VirtAddr};
use crate::frame::{Need, OutOfFrames, Reserve};
use crate::machine::{FrameMemory, RegistryError};
use crate::paging::{Access, Leaf, Mmu, Tables};
use crate::platform::Platform;
use crate::static_vec::{StaticVec, StaticVecError};
use crate::vm_area::{Area, AreaError, AreaInner, release_area};
use crate::vm_space::fill::{check_encoding, largest, leaf_for};
use crate::vm_space::index::{Slot, page_size};
use crate::vm_space::map::Place;
use crate::vm_space::window::Window;
use crate::vm_space::{Inherit, Space, SpaceError};

/// What becomes of a run that another's tables map; see [`Space::adopt_runs`]. `D` is the embedder's data for the area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Adoption<D> {
    /// The space shows nothing there.
    LeaveOut,
    /// A window with the access that the run has. A run that a window cannot stand for is an error: one with a protection key, or one that
    /// programs may use where they may not use the space, or the other way around.
    Window(D),
    /// A window with this access, whatever the run has; its protection key is given up. Whether programs may use it follows from the space, not from
    /// [`Access::USER`].
    WindowFor(Access, D),
}

/// Why another's mappings were not taken over. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AdoptError {
    /// The run at these pages cannot be a window: they are occupied, or its frames, its memory type (others map the frames with another one) or its
    /// access cannot be.
    Run {
        /// Where the run is.
        pages: PageRange,
        /// Why.
        error: SpaceError,
    },
    /// The run has a protection key, which windows do not.
    Key {
        /// Where the run is.
        pages: PageRange,
        /// The key.
        key: u8,
    },
    /// Programs may use the run and not the space, or the space and not the run.
    Programs {
        /// Where the run is.
        pages: PageRange,
        /// What the run permits.
        access: Access,
    },
    /// At this address the other's tables cannot be read: a malformed entry, or a table that the embedder does not reach.
    Unreadable(VirtAddr),
    /// The range or the tables do not fit the space, or frames ran out.
    Space(SpaceError),
}

impl From<SpaceError> for AdoptError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl From<OutOfFrames> for AdoptError {
    fn from(error: OutOfFrames) -> Self {
        Self::Space(error.into())
    }
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { pages, error } => write!(f, "the run at {pages} cannot be a window: {error}"),
            Self::Key { pages, key } => {
                write!(
                    f,
                    "the run at {pages} has the protection key {key}: name the access that it is to have, or leave it out"
                )
            }
            Self::Programs { pages, access } => write!(
                f,
                "the run at {pages} is {access}, and the space's half says otherwise of programs: name the access that it is to have, \
                 or leave it out"
            ),
            Self::Unreadable(address) => {
                write!(f, "the tables at {address} cannot be read: adopt what lies before and after it")
            }
            Self::Space(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AdoptError {}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Makes windows of what another's tables (a loader's, another kernel's) map in `range`, and gives how many. All or nothing.
    ///
    /// `decide` is asked about each [run](Tables::runs), in order of addresses: its pages, and the leaf that maps the first of them. A window has its frames as a
    /// [fixed area](Area::fixed), its memory type included, which is entered in the machine's registry. It is present at once, by the largest leaves
    /// that fit, so that a CPU that goes over to this space meets no fault there. The other's tables are only read, and needed no more
    /// afterwards. Software bits, the hardware's marks and the mark of global leaves are not taken over: they say nothing about what is mapped.
    ///
    /// The other's tables may be of another format than the space's, for example of another layout of memory types (a loader's PAT) or with fewer levels.
    ///
    /// Cost: O(tables and leaves of the other's) + O(windows × entries of the registry); takes three pool objects for each window, and the missing
    /// tables. `decide` is called with no lock held, and may be called although nothing comes of it.
    ///
    /// # Errors
    /// Nothing was changed. A run that cannot be the window that was asked for, with its pages (occupied: [`SpaceError::Conflict`]; frames that are
    /// mapped with another memory type: [`AreaError::Registry`]; what [`Adoption::Window`] does not stand for); tables that cannot be read; a
    /// range that is not within the space or not one of the other's MMU; pages of another size; out of frames.
    ///
    /// # Safety
    /// For each run that becomes a window: as for [`Area::fixed`]. Who uses the window reads and writes its frames as its access permits. The
    /// library and Rust references rely on nothing in them that a user of the window may write.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::frame::FrameList;
    /// use vmcore::paging::{Access, Leaf, Mmu, Tables, Tag};
    /// use vmcore::vm_space::{Adoption, Space};
    /// use vmcore::{Platform, addr::Frame, sim::Sim};
    /// let sim = Sim::builder().build();
    /// let mmu = sim.machine().mmu();
    /// let bounds = mmu.range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// // What a loader left behind: 4 MiB of memory for the kernel.
    /// // SAFETY: the frame is zeroed and recorded as a table, and nobody else's.
    /// let mut loader = unsafe { Tables::new(mmu, sim.new_table(), Tag::default()) };
    /// let image = mmu.range(0xffff_ff80_0000_0000, 0x40_0000).unwrap();
    /// let leaf = Leaf::new(Frame::new(0x400)).access(Access::KERNEL_DATA);
    /// let mut spare = FrameList::new();
    /// spare.fill_with_tables(&sim, loader.tables_to_map(&sim, image, Some(leaf.frame), 2)).unwrap();
    /// loader.map(&sim, image, leaf, 2, &mut spare).unwrap();
    ///
    /// let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// // SAFETY: nothing uses these windows.
    /// let windows = unsafe { kernel.adopt_runs(&loader, bounds, |_, _| Adoption::Window(Default::default())) };
    /// assert_eq!(windows, Ok(1));
    /// assert_eq!(kernel.frame_at(image.start()), Some(Frame::new(0x400)));
    /// # }
    /// ```
    pub unsafe fn adopt_runs<L: Mmu>(
        &self,
        loader: &Tables<L>,
        range: PageRange,
        mut decide: impl FnMut(PageRange, Leaf) -> Adoption<P::AreaData>,
    ) -> Result<u64, AdoptError> {
        let platform = self.platform();
        let foreign = loader.mmu();
        if foreign.page_shift() != P::PAGE_SHIFT {
            return Err(SpaceError::PageSize { platform: P::PAGE_SHIFT, format: foreign.page_shift() }.into());
        }
        let outside = RangeError { fault: RangeFault::OutsideSpace, start: range.start().as_u64(), size: range.size() };
        if !self.bounds().covers(range) || (range.start().as_u64() | range.size()) & (page_size::<P>() - 1) != 0 {
            return Err(SpaceError::Range(outside).into());
        }
        foreign.range(range.start().as_u64(), range.size()).map_err(SpaceError::Range)?;

        let mut prepared = Prepared::new(self);
        let mut runs = loader.runs(platform, range);
        for (pages, leaf) in runs.by_ref() {
            let (access, data) = match decide(pages, leaf) {
                Adoption::LeaveOut => continue,
                Adoption::Window(data) => (self.access_of(pages, leaf)?, data),
                Adoption::WindowFor(access, data) => (access, data),
            };
            // SAFETY: the caller vouches for what becomes a window.
            unsafe { prepared.add(pages, leaf, access, data) }?;
        }
        match runs.unreadable() {
            Some(address) => Err(AdoptError::Unreadable(address)),
            None => prepared.commit(),
        }
    }

    /// The access of a window that stands for a run as it is.
    fn access_of(&self, pages: PageRange, leaf: Leaf) -> Result<Access, AdoptError> {
        if leaf.key != 0 {
            return Err(AdoptError::Key { pages, key: leaf.key });
        }
        if leaf.access.contains(Access::USER) == self.inner().global {
            return Err(AdoptError::Programs { pages, access: leaf.access });
        }
        Ok(leaf.access)
    }
}

/// Windows that no index knows yet, in order of addresses. Dropping it takes them apart.
struct Prepared<'a, P: Platform, M: Mmu> {
    space: &'a Space<P, M>,
    windows: StaticVec<NonNull<Window<P, M>>, FrameMemory<P>>,
}

impl<'a, P: Platform, M: Mmu> Prepared<'a, P, M> {
    fn new(space: &'a Space<P, M>) -> Self {
        let memory = FrameMemory::new(space.platform().clone());
        Self { space, windows: StaticVec::with_memory(memory) }
    }

    /// What is prepared, in order: the slot, the area that its window shows, and the leaf for the first page.
    fn slots(&self) -> impl Iterator<Item = (Slot<Window<P, M>>, &AreaInner<P>, Leaf)> + '_ {
        let global = self.space.inner().global;
        self.windows.iter().filter_map(move |pointer| {
            // SAFETY: the window is alive and known to this value alone, and keeps its area alive.
            let (window, area) = unsafe { (pointer.as_ref(), pointer.as_ref().area.as_ref()) };
            let frames = area.frames()?;
            let slot = Slot { range: window.range(), window: Some(*pointer) };
            Some((slot, area, leaf_for(area, window.access, global, frames.first(), true)))
        })
    }

    /// Makes an area of the run's frames and a window onto it.
    ///
    /// # Safety
    /// As for [`Area::fixed`].
    unsafe fn add(
        &mut self,
        pages: PageRange,
        leaf: Leaf,
        mut access: Access,
        data: P::AreaData,
    ) -> Result<(), AdoptError> {
        let (platform, inner) = (self.space.platform(), self.space.inner());
        let refused = |error: SpaceError| match error {
            SpaceError::OutOfFrames(_) => AdoptError::Space(error),
            SpaceError::Area(
                AreaError::OutOfFrames(lacking) | AreaError::Registry(RegistryError::OutOfFrames(lacking)),
            ) => lacking.into(),
            error => AdoptError::Run { pages, error },
        };
        access.set(Access::USER, !inner.global);
        let count = pages.pages(P::PAGE_SHIFT);
        let frames = FrameRange::new(leaf.frame, count).ok_or(AdoptError::Unreadable(pages.start()))?;
        self.windows.reserve(1).map_err(|error| {
            let elements = match error {
                StaticVecError::OutOfMemory { wanted } => wanted,
                _ => usize::MAX,
            };
            let bytes = elements.saturating_mul(size_of::<NonNull<()>>()).saturating_add(FrameMemory::<P>::HEADER);
            OutOfFrames { wanted: (bytes as u64).div_ceil(page_size::<P>()) }
        })?;
        let mut reserve = Reserve::new(platform);
        reserve.top_up(&Need::object::<Window<P, M>>())?;
        // SAFETY: the caller vouches for the frames.
        let area =
            unsafe { Area::fixed(platform, frames, leaf.memory, data) }.map_err(|error| refused(error.into()))?;
        check_encoding(area.inner(), inner.mmu(), access, inner.global, 0, count).map_err(refused)?;
        let object = reserve.take_object::<Window<P, M>>().ok_or(OutOfFrames { wanted: 1 })?;
        area.inner().add_window_reference();
        // SAFETY: the memory was taken for this type and nobody else knows it; the window is linked nowhere, holds the reference
        // that was just counted, and stays where it is until its release.
        unsafe {
            object.write(Window::new(self.space.pointer(), area.pointer(), pages, 0, access, Inherit::Share));
            area.inner().lock(platform).link_view(object.cast());
        }
        // Room for it was reserved.
        let _ = self.windows.push(object);
        Ok(())
    }

    /// Puts all windows into the space, and fills the tables.
    fn commit(mut self) -> Result<u64, AdoptError> {
        let (platform, inner) = (self.space.platform(), self.space.inner());
        let mut reserve = Reserve::new(platform);
        let mut need = Need::default();
        // As many as half-full leaves and what is above them take, if none of the windows meets a full leaf elsewhere.
        let mut nodes = self.windows.len() / 8 + 2;
        loop {
            reserve.top_up(&need)?;
            let mut index = inner.lock_index(platform);
            let pages = self.slots().map(|(slot, _, _)| slot.range.pages(P::PAGE_SHIFT)).sum();
            inner.tally.check(self.windows.len(), pages, P::PAGE_SHIFT)?;
            let mut tables = inner.tables.lock(platform);
            need = Need::default();
            index.add_need(nodes, &mut need);
            let mut before = None;
            for (Slot { range: pages, .. }, area, leaf) in self.slots() {
                let refused = |error| AdoptError::Run { pages, error };
                let place = Place::At(pages.start().as_u64());
                self.space.find_place(&index, area, &place.into(), 0, pages.size()).map_err(refused)?;
                if !tables.is_clear(platform, pages) {
                    return Err(refused(SpaceError::Foreign(pages.start())));
                }
                need.tables += tables.tables_to_map(platform, pages, Some(leaf.frame), largest(&tables));
                if let Some(last) = before.replace(pages.last()) {
                    let shared = missing_tables_shared(platform, &tables, last, pages.start());
                    need.tables = need.tables.saturating_sub(shared);
                }
            }
            if !reserve.covers(&need) {
                continue;
            }
            let inserted = self.slots().take_while(|(slot, ..)| index.insert(*slot, &mut reserve)).count();
            if inserted < self.windows.len() {
                // Many leaves were full. Nobody has seen them: they are taken out again, and it is tried with more nodes.
                for (slot, ..) in self.slots().take(inserted) {
                    index.remove(slot.range.start(), &mut reserve);
                }
                nodes = nodes.saturating_mul(2);
                need = Need::default();
                index.add_need(nodes, &mut need);
                continue;
            }
            let level = largest(&tables);
            for (slot, _, leaf) in self.slots() {
                let filled = tables.map(platform, slot.range, leaf, level, &mut reserve.tables);
                // Nothing is mapped there, the leaf can be encoded and the tables are reserved, so this is not refused. If it were, faults
                // would fill the window: tables are a cache.
                debug_assert!(filled.is_ok(), "{filled:?}");
                inner.tally.change((1, slot.range.pages(P::PAGE_SHIFT)), (0, 0));
            }
            // What they show was not counted.
            inner.tally.note_shown(u64::MAX, u64::MAX);
            // They are the space's now.
            let count = self.windows.len() as u64;
            self.windows.clear();
            return Ok(count);
        }
    }
}

impl<P: Platform, M: Mmu> Drop for Prepared<'_, P, M> {
    fn drop(&mut self) {
        let platform = self.space.platform();
        let mut reserve = Reserve::new(platform);
        for window in self.windows.iter().copied() {
            // SAFETY: the window is alive; only this value knows it. It holds a reference to its area, which is given up last, with
            // no lock held, and there is nothing in it to drop.
            unsafe {
                let area = window.as_ref().area;
                area.as_ref().lock(platform).unlink_view(window.cast());
                reserve.put_object(window);
                release_area(platform, area);
            }
        }
    }
}

/// How many of the tables that are missing lead both to the page of `last` and to the page at `start`, the next that is mapped: each of two runs
/// counts them for itself. O(levels).
///
/// ```text
///   level 2   |        o        |      a table of level n is shared if both addresses lie in what one entry of level n + 1 spans
///   level 1   |   o    |   o    |
///              ... last start ...
/// ```
fn missing_tables_shared<P: Platform, M: Mmu>(
    platform: &P,
    tables: &Tables<M>,
    last: VirtAddr,
    start: VirtAddr,
) -> u64 {
    let mmu = tables.mmu();
    let page = PageRange::from_checked(last.align_down(P::PAGE_SHIFT), page_size::<P>());
    // Those of the lowest levels, since a table that is there has the tables above it.
    let missing = tables.tables_to_map(platform, page, None, 0);
    let shared = |level: u64| {
        let above = mmu.level(level as usize + 1);
        above.is_none_or(|above| last.as_u64() >> above.shift == start.as_u64() >> above.shift)
    };
    let lowest_shared = (0..missing).find(|level| shared(*level)).unwrap_or(missing);
    missing - lowest_shared
}
