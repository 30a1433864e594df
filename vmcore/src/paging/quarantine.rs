//! The value that a change yields: what must be flushed, and what is true only after it.
//!
//! # The life of a flush value
//!
//! ```text
//!    unmap(range) ──► Flush<T> ──complete()──► the platform flushes and waits ──► frames free, gate lifted, T
//!                        │
//!                        ├──detach()──► DetachedFlush<T> (Send, for a queue) ──unsafe acknowledged()──► the same
//!                        │
//!                        └──dropped──► leaks: frames stay quarantined for ever, the gate stays shut; counted
//!                                      (unless no CPU is concerned: then it is complete as it is)
//! ```
//!
//! Between the change and its acknowledgement the tables no longer hold the translation but a TLB may. So everything
//! that the change gave up is kept in the value: tables and frames (linked through their metadata, no room needed), and *deferred* objects
//! (linked through a header of their own): windows that gate their addresses against reuse, detached parts of page
//! trees, references. A fault or a map that meets the gate is told to retry.
//!
//! No lock is held while a value lives, and it borrows no space.

use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

use crate::frame::{FrameList, FrameUse, free_list};
use crate::paging::{FlushRequest, FlushScope, Gather};
use crate::platform::{CpuSet, Platform};

/// The header of an object that waits in a flush value.
///
/// The link is a `Cell`: other CPUs may look at the rest of the object while it is linked.
#[repr(C)]
pub(crate) struct Deferred<P: Platform> {
    next: Cell<Option<NonNull<Deferred<P>>>>,
    /// There as long as the object waits.
    release: NonNull<Release<P>>,
}

/// How an object is released: called for each step, when the flush is acknowledged, with no lock held; the object is gone after the last.
///
/// It is a value that headers point to, rather than a function in each of them: an object of many can point to its way of release where that is a
/// part of something else that it has to
/// point to.
pub(crate) struct Release<P: Platform>(pub(crate) unsafe fn(&P, NonNull<Deferred<P>>, ReleaseStep));

/// An object that is released in one way.
pub(crate) trait Released<P: Platform> {
    /// The way.
    const RELEASE: Release<P>;
}

/// The steps in which what waits is released: each is done for all of it before the next begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReleaseStep {
    /// Out of what others can find it by.
    Unlink,
    /// Out of its own place; the object is given up.
    Free,
}

impl<P: Platform> Deferred<P> {
    /// The header of an object of this type.
    pub(crate) const fn new<T: Released<P>>() -> Self {
        let release = core::ptr::from_ref(const { &T::RELEASE }).cast_mut();
        // SAFETY: it came from a reference; a constant is there for ever.
        unsafe { Self::by(NonNull::new_unchecked(release)) }
    }

    /// The header of an object that is released in this way.
    ///
    /// # Safety
    /// That is there as long as the object waits.
    pub(crate) const unsafe fn by(release: NonNull<Release<P>>) -> Self {
        Self { next: Cell::new(None), release }
    }

    /// How the object is released.
    #[inline]
    pub(crate) const fn release(&self) -> NonNull<Release<P>> {
        self.release
    }

    /// Gives the object another way of release.
    ///
    /// # Safety
    /// As for [`by`](Self::by); the object waits in no flush.
    pub(crate) unsafe fn set_release<T: Released<P>>(&mut self) {
        self.release = Self::new::<T>().release;
    }
}

/// What waits for the acknowledgement, while it is gathered and afterwards.
pub(crate) struct Pending<P: Platform> {
    pub(crate) request: FlushRequest<P::CpuSet>,
    tables: FrameList,
    pages: FrameList,
    deferred: Option<NonNull<Deferred<P>>>,
    /// Pages that wait in deferred objects.
    cut_off: u64,
    /// Something could not be taken out of the tables: what waits is never released.
    lost: bool,
}

// SAFETY: what waits belongs to the flush alone: frames and objects that nothing else refers to, or counted references.
unsafe impl<P: Platform> Send for Pending<P> {}

impl<P: Platform> Pending<P> {
    pub(crate) const fn new() -> Self {
        Self {
            request: FlushRequest { cpus: P::CpuSet::EMPTY, scope: FlushScope::new() },
            tables: FrameList::new(),
            pages: FrameList::new(),
            deferred: None,
            cut_off: 0,
            lost: false,
        }
    }

    /// Adds what a change of tables gathered, which concerns these CPUs. Nothing is left in what was gathered but its scope.
    #[inline]
    pub(crate) fn absorb_from(&mut self, platform: &P, gather: &mut Gather, cpus: &P::CpuSet) {
        if !gather.scope.is_empty() {
            self.request.scope.merge(&gather.scope);
            self.request.cpus.union_with(cpus);
        }
        while let Some(table) = gather.tables.pop(platform) {
            // Tables have metadata, or they would not have been linked.
            let _ = self.tables.push(platform, table);
        }
    }

    /// Adds all that waits in `other`. O(frames and objects of `other`).
    fn join(&mut self, platform: &P, mut other: Self) {
        self.request.scope.merge(&other.request.scope);
        self.request.cpus.union_with(&other.request.cpus);
        self.cut_off += other.cut_off;
        self.lost |= other.lost;
        // What was on one list has metadata, so it can be on the other.
        while let Some(table) = other.tables.pop(platform) {
            let _ = self.tables.push(platform, table);
        }
        while let Some(page) = other.pages.pop(platform) {
            let _ = self.pages.push(platform, page);
        }
        while let Some(object) = other.deferred {
            // SAFETY: objects on the list are alive, and move from one flush to the other.
            unsafe {
                other.deferred = object.as_ref().next.get();
                self.defer(object);
            }
        }
    }

    /// Adds a page that nothing but stale translations leads to.
    pub(crate) fn add_page(&mut self, platform: &P, page: crate::addr::Frame) {
        if self.pages.push(platform, page).is_err() {
            platform.machine().note_refused_free();
        }
    }

    /// Notes that the tables still hold something of it: nothing of it is released, and its addresses stay gated.
    pub(crate) fn note_lost(&mut self) {
        self.lost = true;
    }

    /// Whether an object waits in it.
    pub(crate) const fn has_deferred(&self) -> bool {
        self.deferred.is_some()
    }

    /// Counts pages that wait in a deferred object.
    pub(crate) fn note_cut_off(&mut self, pages: u64) {
        self.cut_off += pages;
    }

    /// Adds an object to be released.
    ///
    /// # Safety
    /// The object is unlinked from everything, waits in no other flush, and stays where it is until `release` is called for it.
    pub(crate) unsafe fn defer(&mut self, object: NonNull<Deferred<P>>) {
        // SAFETY: the object is alive, and its header is this flush's alone.
        unsafe { object.as_ref() }.next.set(self.deferred);
        self.deferred = Some(object);
    }

    /// Flushes and releases what was changed by an operation that was refused in the end, with no lock held: that is true once it is
    /// flushed, whatever became of the rest.
    pub(crate) fn complete(mut self, platform: &P) {
        self.complete_in_place(platform);
    }

    /// Flushes, and releases what waits. Once, with no lock held.
    #[inline]
    pub(crate) fn complete_in_place(&mut self, platform: &P) {
        let request = &self.request;
        if !request.cpus.is_empty() && !request.scope.is_empty() {
            platform.flush(request);
        }
        self.release(platform);
    }

    #[inline]
    fn release(&mut self, platform: &P) {
        if self.lost || self.deferred.is_some() || !self.pages.is_empty() || !self.tables.is_empty() {
            self.release_what_waits(platform);
        }
    }

    fn release_what_waits(&mut self, platform: &P) {
        if self.lost {
            platform.machine().note_dropped_flush(self.tables.len() + self.pages.len() + self.cut_off);
            return;
        }
        let mut at = self.deferred;
        while let Some(object) = at {
            // SAFETY: objects on the list are alive until the last step of their release.
            let (next, release) = unsafe { (object.as_ref().next.get(), object.as_ref().release.as_ref().0) };
            // SAFETY: the flush was acknowledged, and no lock is held.
            unsafe { release(platform, object, ReleaseStep::Unlink) };
            at = next;
        }
        while let Some(object) = self.deferred {
            // SAFETY: as above.
            let (next, release) = unsafe { (object.as_ref().next.get(), object.as_ref().release.as_ref().0) };
            self.deferred = next;
            // SAFETY: as above, and the object is off the list.
            unsafe { release(platform, object, ReleaseStep::Free) };
        }
        free_list(platform, &mut self.pages, FrameUse::Page);
        free_list(platform, &mut self.tables, FrameUse::Table);
    }
}

/// A change's outcome, which is true only after TLBs have been flushed.
///
/// [`complete`](Self::complete) it, or [`detach`](Self::detach) it into a queue. Dropping one that [is empty](Self::is_empty) completes it. Dropping another is safe, and leaks: its frames stay quarantined for ever
/// and its addresses stay gated, which [`Machine::counters`](crate::Machine::counters) counts. Access may end later than asked; a frame is never reused early.
#[must_use = "until it is completed, other CPUs may still use what was changed; dropping it leaks"]
pub struct Flush<P: Platform, T> {
    inner: ManuallyDrop<Inner<P, T>>,
}

struct Inner<P: Platform, T> {
    platform: P,
    pending: Pending<P>,
    value: T,
}

impl<P: Platform, T> Flush<P, T> {
    pub(crate) fn new(platform: P, pending: Pending<P>, value: T) -> Self {
        Self { inner: ManuallyDrop::new(Inner { platform, pending, value }) }
    }

    /// What must be flushed, and where.
    pub fn request(&self) -> &FlushRequest<P::CpuSet> {
        &self.inner.pending.request
    }

    /// Whether no CPU can use anything of it before it has forgotten it, so that completing it flushes nothing.
    pub fn is_empty(&self) -> bool {
        let request = self.request();
        request.scope.is_empty() || request.cpus.is_empty()
    }

    /// Flushes through the platform, which waits for every CPU concerned; then frees what waited and gives the outcome.
    ///
    /// Call it with no lock held that another CPU may need before it can answer.
    #[inline]
    pub fn complete(mut self) -> T {
        // Where it lies: it is large, and most flushes are nothing.
        let inner = &mut *self.inner;
        inner.pending.complete_in_place(&inner.platform);
        // SAFETY: `self` is forgotten, so each is taken, or dropped, once; what waited has no destructor.
        let value = unsafe {
            ptr::drop_in_place(&raw mut inner.platform);
            ptr::read(&raw const inner.value)
        };
        core::mem::forget(self);
        value
    }

    /// The flush as a value for a queue: whoever takes it out flushes and then says so.
    pub fn detach(self) -> DetachedFlush<P, T> {
        DetachedFlush { flush: self }
    }

    /// The same flush with another outcome.
    pub fn map<U>(self, outcome: impl FnOnce(T) -> U) -> Flush<P, U> {
        let Inner { platform, pending, value } = self.into_inner();
        Flush::new(platform, pending, outcome(value))
    }

    /// Both flushes as one, so that other CPUs are interrupted once for many changes. A flush of another machine is completed
    /// here instead. O(frames and objects that wait in `other`).
    pub fn and<U>(self, other: Flush<P, U>) -> Flush<P, (T, U)> {
        if !ptr::eq(self.inner.platform.machine(), other.inner.platform.machine()) {
            let done = other.complete();
            return self.map(|value| (value, done));
        }
        let Inner { platform, mut pending, value } = self.into_inner();
        let other = other.into_inner();
        pending.join(&platform, other.pending);
        Flush::new(platform, pending, (value, other.value))
    }

    fn into_inner(self) -> Inner<P, T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again, so the value is taken once.
        unsafe { ManuallyDrop::take(&mut this.inner) }
    }
}

impl<P: Platform, T> Drop for Flush<P, T> {
    fn drop(&mut self) {
        if self.is_empty() {
            // No CPU can use anything of it: it is complete as it is.
            let inner = &mut *self.inner;
            inner.pending.release(&inner.platform);
        } else {
            let pending = &self.inner.pending;
            let frames = pending.tables.len() + pending.pages.len() + pending.cut_off;
            self.inner.platform.machine().note_dropped_flush(frames);
        }
        // SAFETY: the value is dropped once, here; what waits is linked by plain pointers and is leaked.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}

impl<P: Platform, T> fmt::Debug for Flush<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flush").field("request", self.request()).finish_non_exhaustive()
    }
}

/// A flush taken out of its operation, for a queue that is worked off elsewhere. [`Send`] where the platform and the outcome are.
#[must_use = "until it is acknowledged, what was changed stays quarantined; dropping it leaks"]
pub struct DetachedFlush<P: Platform, T> {
    flush: Flush<P, T>,
}

impl<P: Platform, T> DetachedFlush<P, T> {
    /// What must be flushed, and where.
    pub fn request(&self) -> &FlushRequest<P::CpuSet> {
        self.flush.request()
    }

    /// Frees what waited and gives the outcome.
    ///
    /// # Safety
    /// Every CPU of the request's set has forgotten the request's scope since [`detach`](Flush::detach), whether or not it has left the space
    /// meanwhile; or it cannot use what it remembers before it has compared the space's
    /// [generation](crate::vm_space::Space::generation), and then forgets all of the tag. To have loaded another root is not enough, unless
    /// the tag is 0 (and the scope not of [globals](crate::paging::FlushScope::globals)).
    pub unsafe fn acknowledged(self) -> T {
        let mut inner = self.flush.into_inner();
        inner.pending.release(&inner.platform);
        inner.value
    }
}

impl<P: Platform, T> fmt::Debug for DetachedFlush<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedFlush").field("request", self.request()).finish_non_exhaustive()
    }
}
