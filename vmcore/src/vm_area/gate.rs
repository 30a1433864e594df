//! Gates: what an area waits for before some of its pages may be touched again.
//!
//! ```text
//!   a page is replaced (copied)            every view forgets it ──► Gate, in the flush ──acknowledged──► opens;
//!                                          any fault on the page: retry                  the old frame is let go
//!   a copy of the area begins (clone)      every view is read-only ──► Gate ──acknowledged──► opens
//!                                          a write: retry
//! ```
//!
//! Without them, of two CPUs one could write to the new frame while the other still reads the old one through what it
//! remembers; or a page could be copied while another CPU still writes to it through a stale entry, and that write be lost; or
//! the last owner of a frame could take it over, and write to it, while somebody remembers it from before.
//!
//! A gate is linked in its area, under the area's lock, for as long as it waits in a flush; it holds a reference to the area. That a page is
//! closed is marked in its new frame's record, which the gate holds a reference to: asking costs the same however many pages wait.

use core::cell::Cell;
use core::ptr::NonNull;

use super::inner::{AreaInner, AreaMarks, AreaState, release_area};
use super::page::{drop_page, free_page, release_page};
use crate::addr::Frame;
use crate::frame::free_object;
use crate::paging::{Deferred, Pending, Release, ReleaseStep, Released};
use crate::platform::Platform;

/// What waits.
pub(super) enum Closed<P: Platform> {
    /// A page, for all.
    Page {
        index: u64,
        /// Where it was, and where it is: the gate holds a reference to each.
        old: Option<Frame>,
        new: Option<Frame>,
    },
    /// Writes, since a copy of the area is coming into being; the copy, and for whom it is made.
    Writes {
        copy: NonNull<AreaInner<P>>,
        /// The space that is cloned into, as a number.
        into: usize,
    },
    /// Pages, for all, until they are in the frames from `frame` on, which the gate has; or (without) until they are shown in another way.
    Block {
        first: u64,
        count: u64,
        frame: Option<Frame>,
        /// How many of the pages there are.
        resident: u64,
    },
}

impl<P: Platform> Clone for Closed<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Closed<P> {}

/// A gate, which waits in a flush.
#[repr(C)]
pub(crate) struct Gate<P: Platform> {
    /// First, so that the header's address is the gate's.
    deferred: Deferred<P>,
    next: Cell<Option<NonNull<Gate<P>>>>,
    previous: Cell<Option<NonNull<Gate<P>>>>,
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
    closed: Closed<P>,
    /// Whether the gate's was the last reference to the new frame, which the area has given up meanwhile.
    orphaned: Cell<bool>,
}

impl<P: Platform> Released<P> for Gate<P> {
    const RELEASE: Release<P> = Release(Self::release);
}

impl<P: Platform> Gate<P> {
    /// Called when the flush is acknowledged.
    unsafe fn release(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        let gate = object.cast::<Self>();
        // SAFETY: only gates are deferred with this function, and their header is their first field; the gate lives until
        // it is given back below. Only its `Cell`s change.
        let (area, closed) = unsafe { (gate.as_ref().area, gate.as_ref().closed) };
        if step == ReleaseStep::Unlink {
            if let Closed::Block { first, count, frame: Some(frame), resident } = closed {
                // Before the gate opens.
                // SAFETY: the gate's reference keeps the area alive.
                unsafe { area.as_ref() }.finish_promotion(platform, (first, count), resident, frame);
            }
            // SAFETY: the gate's reference keeps the area alive, in which it is linked until here.
            unsafe { area.as_ref().lock(platform).unlink_gate(platform, gate) };
            return;
        }
        if let Closed::Page { old, new, .. } = closed {
            if let Some(old) = old {
                release_page(platform, old);
            }
            // SAFETY: the gate is alive.
            if let Some(new) = new.filter(|_| unsafe { gate.as_ref() }.orphaned.get()) {
                // SAFETY: the last reference to it was dropped, and the flushes that concern it are acknowledged.
                unsafe { free_page(platform, new) };
            }
        }
        {
            // SAFETY: the gate's reference keeps the area alive.
            let mut state = unsafe { area.as_ref() }.lock(platform);
            let rest = state.rest_mut();
            rest.gate_count = rest.gate_count.saturating_sub(1);
        }
        // SAFETY: nothing refers to the gate any more, and nothing in it needs dropping.
        unsafe { free_object(platform, gate) };
        // SAFETY: the gate's reference is given up, with no lock held.
        unsafe { release_area(platform, area) };
    }
}

impl<P: Platform> AreaState<P> {
    /// Closes a gate until the flush is acknowledged.
    ///
    /// # Safety
    /// The memory was taken for a gate and nobody else knows it; `area` is the one whose state this is.
    pub(super) unsafe fn close(
        &mut self,
        platform: &P,
        memory: NonNull<Gate<P>>,
        area: NonNull<AreaInner<P>>,
        closed: Closed<P>,
        pending: &mut Pending<P>,
    ) {
        let (next, previous) = (Cell::new(self.gates()), Cell::new(None));
        // SAFETY: the caller's promises; gates on the list are alive, and their links are reached under the area's lock alone.
        // The gate stays where it is until its release.
        unsafe {
            area.as_ref().add_window_reference();
            let (deferred, orphaned) = (Deferred::new::<Gate<P>>(), Cell::new(false));
            memory.write(Gate { deferred, next, previous, area, closed, orphaned });
            if let Some(next) = self.gates() {
                next.as_ref().previous.set(Some(memory));
            }
            pending.defer(memory.cast());
        }
        self.set_gates(Some(memory));
        self.rest_mut().gate_count += 1;
        if let Closed::Page { new, .. } = closed {
            if let Some(meta) = new.and_then(|new| platform.frame_meta(new)) {
                meta.add_reference();
                meta.close(self.closer());
            }
        }
    }

    /// Opens a gate.
    ///
    /// # Safety
    /// The gate is linked in this area.
    unsafe fn unlink_gate(&mut self, platform: &P, gate: NonNull<Gate<P>>) {
        // SAFETY: it and its neighbours are alive, and their links are reached under the area's lock alone.
        unsafe {
            if let Closed::Page { new: Some(new), .. } = gate.as_ref().closed {
                // Under the lock, so that who finds the page open finds it alone as well.
                platform.frame_meta(new).inspect(|meta| meta.open());
                gate.as_ref().orphaned.set(drop_page(platform, new));
            }
            let (previous, next) = (gate.as_ref().previous.get(), gate.as_ref().next.get());
            match previous {
                Some(previous) => previous.as_ref().next.set(next),
                None => self.set_gates(next),
            }
            if let Some(next) = next {
                next.as_ref().previous.set(previous);
            }
        }
    }

    /// What is closed, newest first. O(flushes outstanding).
    pub(super) fn closed(&self) -> impl Iterator<Item = Closed<P>> {
        let mut at = self.gates();
        core::iter::from_fn(move || {
            // SAFETY: gates on the list are alive while the area is locked, which who has the state sees to.
            let gate = unsafe { at?.as_ref() };
            at = gate.next.get();
            Some(gate.closed)
        })
    }

    /// Whether nobody may touch the page with this index at the moment. O(depth).
    #[inline]
    pub(super) fn page_is_closed(&self, platform: &P, index: u64) -> bool {
        let page = || self.tree.get(index)?.held_frame().and_then(|frame| platform.frame_meta(frame));
        self.marks.contains(AreaMarks::GATED)
            && (page().is_some_and(|meta| meta.is_closed_by(self.closer())) || self.is_in_closed_block(index))
    }

    /// What tells the area from those that have pages in common with it: they may use a page that this one waits for. (Should two areas be so far apart in
    /// memory that they have the same, they wait for one another.)
    fn closer(&self) -> u32 {
        (core::ptr::from_ref(self).addr() >> size_of::<usize>().trailing_zeros()) as u32
    }

    /// Whether the page with this index is being promoted. O(flushes outstanding), if there are any.
    fn is_in_closed_block(&self, index: u64) -> bool {
        let holds = |closed| matches!(closed, Closed::Block { first, count, .. } if index.wrapping_sub(first) < count);
        self.closed().any(holds)
    }

    /// Whether some of the pages may not be written to at the moment. O(flushes outstanding).
    pub(crate) fn is_closed(&self, first: u64, count: u64) -> bool {
        let overlaps = |other: u64, pages: u64| {
            self.keys(first, count).iter().any(|(low, count)| other < low + count && *low < other + pages)
        };
        let within = |page: u64| self.keys(first, count).iter().any(|(low, pages)| page.wrapping_sub(*low) < *pages);
        self.closed().any(|closed| match closed {
            Closed::Page { index, .. } => within(index),
            Closed::Writes { .. } => true,
            Closed::Block { first, count, .. } => overlaps(first, count),
        })
    }

    /// Whether nothing new may be written at the moment: of two writes, a copy that is coming into being would have the later alone. O(flushes
    /// outstanding).
    #[inline]
    pub(super) fn writes_are_closed(&self) -> bool {
        self.closed().any(|closed| matches!(closed, Closed::Writes { .. }))
    }
}
