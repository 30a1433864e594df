//! What a space's handle, its gated windows and its users refer to.

use core::mem::offset_of;
use core::ptr::NonNull;

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameUse, Reserve, free_one};
use crate::lock::{ExclusiveGuard, Lock, Rank, SharedLock};
use crate::paging::{
    Deferred, Gather, LeafTables, Mmu, Pending, Release, ReleaseStep, Released, TableError, Tables, Tag,
};
use crate::platform::{CpuSet, Platform};
use crate::vm_area::Viewer;
use crate::vm_space::cpus::SpaceCpus;
use crate::vm_space::guards::Guards;
use crate::vm_space::index::Index;
use crate::vm_space::limits::Tally;
use crate::vm_space::window::Window;
use crate::word::{AtomicBool, AtomicUsize, Ordering};

/// A space's state. Lock order: index, (areas), tables, CPUs. Faults hold the index shared where they can, all else exclusively; tables are
/// linked, unlinked and split only by who has the index exclusively. The root table lives as long as the value does.
pub(crate) struct SpaceInner<P: Platform, M: Mmu> {
    /// What its windows have in common, each of which points here.
    viewer: Viewer<P>,
    /// The handle (or the flush that destroys the space), gated windows, and spaces that share the root slots.
    pub(crate) references: AtomicUsize,
    /// The spaces that share the root slots: while there are any, the space cannot be destroyed.
    pub(crate) sharers: AtomicUsize,
    /// Takes the handle's reference into the flush that destroys the space.
    deferred: Deferred<P>,
    pub(crate) bounds: PageRange,
    /// Whether its entries are shown in every space: the kernel's.
    pub(crate) global: bool,
    /// Whether the last read fault of which that is known made a page: the next one has a page at hand then. Either guess is right, and written where it was wrong.
    reads_make_pages: AtomicBool,
    /// Whether the last write fault on a page that was there of which that is known copied it: the next one has a page for that at hand then. As above.
    writes_copy_pages: AtomicBool,
    /// The space whose root slots are shared; holds a reference.
    pub(crate) kernel: Option<NonNull<SpaceInner<P, M>>>,
    pub(crate) index: SharedLock<P, Index<P, Window<P, M>>>,
    pub(crate) tables: Lock<P, Tables<M>>,
    /// The way of faults to the tables, without their lock.
    pub(super) leaf_tables: LeafTables<M>,
    /// The root and the tag of the tables, which never change.
    pub(crate) root: Frame,
    pub(crate) tag: Tag,
    pub(crate) cpus: Lock<P, SpaceCpus<P::CpuSet>>,
    /// Counts the changes that took something away.
    generation: AtomicUsize,
    /// The guarded addresses.
    pub(super) guards: Lock<P, Guards<P>>,
    /// What is counted and limited.
    pub(super) tally: Tally,
    pub(crate) data: P::SpaceData,
}

// SAFETY: everything behind pointers is reached under the space's locks.
unsafe impl<P: Platform, M: Mmu> Send for SpaceInner<P, M> {}
// SAFETY: as above.
unsafe impl<P: Platform, M: Mmu> Sync for SpaceInner<P, M> {}

impl<P: Platform, M: Mmu> SpaceInner<P, M> {
    /// An empty space with one reference.
    pub(super) const fn new(
        bounds: PageRange,
        kernel: Option<NonNull<SpaceInner<P, M>>>,
        index: Index<P, Window<P, M>>,
        tables: Tables<M>,
        guards: Guards<P>,
        data: P::SpaceData,
    ) -> Self {
        let (root, tag) = (tables.root(), tables.tag());
        Self {
            viewer: Window::<P, M>::VIEWER,
            references: AtomicUsize::new(1),
            sharers: AtomicUsize::new(0),
            deferred: Deferred::new::<Self>(),
            bounds,
            global: kernel.is_none(),
            reads_make_pages: AtomicBool::new(true),
            writes_copy_pages: AtomicBool::new(false),
            kernel,
            index: SharedLock::new(Rank::Index, index),
            leaf_tables: tables.leaf_tables(),
            tables: Lock::new(Rank::Table, tables),
            root,
            tag,
            cpus: Lock::new(Rank::Cpus, SpaceCpus::NONE),
            generation: AtomicUsize::new(0),
            guards: Lock::new(Rank::Guards, guards),
            tally: Tally::new(),
            data,
        }
    }

    /// Whether a read fault is likely to make a page.
    #[inline]
    pub(super) fn reads_make_pages(&self) -> bool {
        self.reads_make_pages.load(Ordering::Relaxed)
    }

    /// Notes what a read fault did that was taken for something else.
    #[cold]
    pub(super) fn note_reads_make_pages(&self, make: bool) {
        self.reads_make_pages.store(make, Ordering::Relaxed);
    }

    /// Whether a write fault on a page that is there is likely to copy it.
    #[inline]
    pub(super) fn writes_copy_pages(&self) -> bool {
        self.writes_copy_pages.load(Ordering::Relaxed)
    }

    /// Notes what a write fault did that was taken for something else.
    #[cold]
    pub(super) fn note_writes_copy_pages(&self, copy: bool) {
        self.writes_copy_pages.store(copy, Ordering::Relaxed);
    }

    /// Locks the index exclusively.
    #[inline]
    pub(crate) fn lock_index<'a>(&'a self, platform: &'a P) -> ExclusiveGuard<'a, P, Index<P, Window<P, M>>> {
        self.index.lock(platform)
    }

    /// Locks the index exclusively, for an operation that is about this address.
    #[inline]
    pub(super) fn lock_index_at<'a>(
        &'a self,
        platform: &'a P,
        address: VirtAddr,
    ) -> ExclusiveGuard<'a, P, Index<P, Window<P, M>>> {
        let mut index = self.index.lock(platform);
        index.aim(address);
        index
    }

    /// The format, which never changes.
    #[inline]
    pub(super) const fn mmu(&self) -> M {
        self.leaf_tables.mmu()
    }

    /// Counts one more reference. There are fewer gated windows and spaces than addresses.
    pub(crate) fn add_reference(&self) {
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what a change gathered to its flush. Called after the tables were changed: the CPUs that use the space are to be
    /// flushed, and those that do not will forget when they are activated.
    pub(crate) fn absorb(&self, platform: &P, mut gather: Gather, pending: &mut Pending<P>) {
        self.absorb_from(platform, &mut gather, pending);
    }

    /// The same, and nothing is left in what was gathered but its scope.
    pub(super) fn absorb_from(&self, platform: &P, gather: &mut Gather, pending: &mut Pending<P>) {
        if !self.global {
            // Whole tables are given up unread: no leaf in a user space's is global.
            gather.scope.clear_globals();
        }
        if gather.scope.is_empty() {
            // Nothing concerns any CPU.
            pending.absorb_from(platform, gather, &P::CpuSet::EMPTY);
            return;
        }
        let mut cpus = self.cpus.lock(platform);
        self.note_change(&mut cpus);
        pending.absorb_from(platform, gather, cpus.active());
    }

    /// Has every CPU forget what a change whose flush is outstanding took out of the tables here, if the format demands that before something else
    /// takes its place. `lingers` says whether there may be such.
    #[inline]
    pub(super) fn break_before_make(&self, platform: &P, lingers: bool, range: PageRange) -> Result<(), TableError> {
        if const { M::FORMAT.break_before_make } && lingers {
            if !P::INVALIDATES_NOW {
                return Err(TableError::NeedsInvalidation(range.start()));
            }
            platform.invalidate_now(self.tag.0, range);
        }
        Ok(())
    }

    /// Notes that the tables have lost something, with the CPUs locked: those that are not active will forget when they are activated.
    pub(crate) fn note_change(&self, cpus: &mut SpaceCpus<P::CpuSet>) {
        // The CPUs' lock keeps others away.
        self.generation.store(self.generation.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        let _ = cpus.note_change();
    }

    /// How many such changes there were.
    pub(crate) fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    /// What the windows of a space point to, through a pointer that still leads to the whole space.
    #[inline]
    ///
    /// # Safety
    /// The pointer leads to the memory of a space.
    pub(super) const unsafe fn viewer(space: NonNull<Self>) -> NonNull<Viewer<P>> {
        // SAFETY: the field lies within that memory.
        unsafe { space.byte_add(offset_of!(Self, viewer)) }.cast()
    }

    /// The space whose windows point here.
    ///
    /// # Safety
    /// It came from [`viewer`](Self::viewer).
    #[inline]
    pub(super) const unsafe fn of(viewer: NonNull<Viewer<P>>) -> NonNull<Self> {
        // SAFETY: that lies at this offset in a space, and leads to the whole of it.
        unsafe { viewer.byte_sub(offset_of!(Self, viewer)) }.cast()
    }

    /// The header by which a flush holds a reference, through a pointer that still leads to the whole space.
    ///
    /// # Safety
    /// The space is alive.
    pub(crate) unsafe fn deferred(space: NonNull<Self>) -> NonNull<Deferred<P>> {
        // SAFETY: the field lies within the space.
        unsafe { space.byte_add(offset_of!(Self, deferred)) }.cast()
    }

    /// Called when the flush that destroys the space is acknowledged.
    unsafe fn release(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        if step != ReleaseStep::Free {
            return;
        }
        // SAFETY: only spaces are deferred with this function, and the header lies at this offset in them. The reference is
        // the one that was deferred; no lock is held.
        unsafe { release_space(platform, object.byte_sub(offset_of!(Self, deferred)).cast::<Self>()) };
    }
}

impl<P: Platform, M: Mmu> Released<P> for SpaceInner<P, M> {
    const RELEASE: Release<P> = Release(Self::release);
}

/// Gives up one reference to a space; the last one frees its root and what is left of it (windows and tables are gone by then).
///
/// # Safety
/// The caller held a counted reference, which it does not use any more. No lock of the library is held.
pub(crate) unsafe fn release_space<P: Platform, M: Mmu>(platform: &P, space: NonNull<SpaceInner<P, M>>) {
    let mut at = Some(space);
    while let Some(space) = at.take() {
        // SAFETY: the reference that is given up kept the space alive.
        if unsafe { space.as_ref() }.references.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // SAFETY: it was the last reference, so the value can be moved out.
        let inner = unsafe { space.read() };
        let (root, tag) = (inner.root, inner.tag);
        // The reference that it held to the kernel's space goes next (there is no deeper chain).
        at = inner.kernel;
        if let Some(kernel) = at {
            // SAFETY: the reference that goes next keeps it alive.
            unsafe { kernel.as_ref() }.sharers.fetch_sub(1, Ordering::AcqRel);
        }
        drop(inner);
        // SAFETY: the space was torn down and its flush acknowledged: no CPU has the root loaded, and nothing refers to it.
        if unsafe { free_one(platform, root, FrameUse::Table) }.is_err() {
            platform.machine().note_refused_free();
        }
        platform.machine().give_tag_back(tag);
        let mut reserve = Reserve::new(platform);
        // SAFETY: the memory was taken for this type and nobody refers to it.
        unsafe { reserve.put_object(space) };
    }
}
