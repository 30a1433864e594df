//! What an area gives up: pages leave every window at once, and are freed when the flush of it is acknowledged.
//!
//! ```text
//!   resize, give_section ──► tree.split_off ──► CutOff (deferred in the flush) ──acknowledged──► pages freed,
//!                        └─► every view: unmap                                                   may grow again
//! ```

use core::ptr::NonNull;

use super::inner::{AreaInner, AreaState};
use super::{Area, AreaError, MAX_SIZE, Page, Rights, Section, TreeSupply, ViewChange, release_area};
use crate::frame::{Need, Reserve};
use crate::page_tree::{NodesNeeded, PageTree};
use crate::paging::{Deferred, Flush, Pending, Release, ReleaseStep, Released};
use crate::platform::Platform;

/// Pages cut off an area's tree, waiting for the flush that makes them unreachable.
#[repr(C)]
struct CutOff<P: Platform> {
    deferred: Deferred<P>,
    tree: PageTree<Page>,
    /// Holds a reference.
    area: NonNull<AreaInner<P>>,
    /// The section that becomes free with it.
    section: Option<u32>,
}

impl<P: Platform> Released<P> for CutOff<P> {
    const RELEASE: Release<P> = Release(Self::release);
}

impl<P: Platform> CutOff<P> {
    /// Called when the flush is acknowledged.
    unsafe fn release(platform: &P, object: NonNull<Deferred<P>>, step: ReleaseStep) {
        if step != ReleaseStep::Free {
            return;
        }
        // SAFETY: only `CutOff`s are deferred with this function, and their header is their first field; the object is
        // alive and off the flush's list, so it can be moved out.
        let cut_off = unsafe { object.cast::<Self>().read() };
        let Self { mut tree, area, section, .. } = cut_off;
        let mut reserve = Reserve::new(platform);
        tree.clear(&mut TreeSupply { platform, reserve: &mut reserve });
        {
            // SAFETY: the reference that the cut-off part holds keeps the area alive.
            let mut state = unsafe { area.as_ref() }.lock(platform);
            let rest = state.rest_mut();
            rest.returning = rest.returning.saturating_sub(1);
            if let (Some(section), Some(mut sections)) = (section, state.sections()) {
                // SAFETY: sections live as long as the area, which is locked.
                unsafe { sections.as_mut() }.finish_return(section);
            }
        }
        // SAFETY: the memory was taken for this type, and the value was moved out.
        unsafe { reserve.put_object(object.cast::<Self>()) };
        // SAFETY: the cut-off part's reference is given up.
        unsafe { release_area(platform, area) };
    }
}

impl<P: Platform> Area<P> {
    /// Makes the area `size` bytes large. Pages beyond a smaller size leave every window in every space, and are freed
    /// when the flush is complete; a larger size adds pages that do not exist yet.
    ///
    /// With pages of a paged area go what its [private views](Self::overlay) have in their place.
    ///
    /// Cost: growing O(1); shrinking O(windows + pages given up).
    ///
    /// # Errors
    /// No right to resize, a size that cannot be, a kind that cannot be resized (only open, private and paged areas can), an outstanding
    /// flush of a part given up before ([`AreaError::Retry`]), a pinned page that would go (of a paged area: or of a private view of it), out of frames. Nothing was changed.
    pub fn resize(&self, size: u64) -> Result<Flush<P, ()>, AreaError> {
        self.require(Rights::RESIZE)?;
        if !self.inner().is_open() && !self.inner().is_paged() {
            return Err(AreaError::Kind);
        }
        if size == 0 || size >= MAX_SIZE || size & ((1 << P::PAGE_SHIFT) - 1) != 0 {
            return Err(AreaError::Size(size));
        }
        let pages = size >> P::PAGE_SHIFT;
        {
            let mut state = self.inner().lock(self.platform());
            if pages >= state.pages() {
                // Even for the present size: what the caller is told would be true only after that flush.
                if state.rest().returning != 0 {
                    return Err(AreaError::Retry);
                }
                state.set_pages(pages);
                return Ok(Flush::new(self.platform().clone(), Pending::new(), ()));
            }
        }
        self.cut_off(
            |state| {
                let (first, end) = (pages, state.pages());
                if first < end { Ok((first, end - first, None)) } else { Ok((first, 0, None)) }
            },
            |state| state.set_pages(state.pages().min(pages)),
        )
    }

    /// Hands out a section of a guarded area. O(1). Its pages come into being when they are touched.
    ///
    /// # Errors
    /// No right to resize, another kind of area, or every section is out.
    pub fn take_section(&self) -> Result<Section, AreaError> {
        self.require(Rights::RESIZE)?;
        let layout = self.inner().layout().ok_or(AreaError::Kind)?;
        let state = self.inner().lock(self.platform());
        let mut sections = state.sections().ok_or(AreaError::Kind)?;
        // SAFETY: sections live as long as the area, which is locked.
        let number = unsafe { sections.as_mut() }.take().ok_or(AreaError::NoSection)?;
        Ok(Section {
            number,
            offset: layout.first_page(number) << P::PAGE_SHIFT,
            size: u64::from(layout.pages) << P::PAGE_SHIFT,
        })
    }

    /// Takes a section back: its pages leave every window, and are freed and the section handed out again when the flush is
    /// complete. O(windows + pages).
    ///
    /// # Errors
    /// No right to resize, another kind of area, a section that is not out or has a pinned page, out of frames. Nothing was changed.
    pub fn give_section(&self, number: u32) -> Result<Flush<P, ()>, AreaError> {
        self.require(Rights::RESIZE)?;
        let layout = self.inner().layout().ok_or(AreaError::Kind)?;
        self.cut_off(
            |state| {
                if state.section_is_out(number) {
                    Ok((layout.first_page(number), u64::from(layout.pages), Some(number)))
                } else {
                    Err(AreaError::NotOut(number))
                }
            },
            |state| {
                if let Some(mut sections) = state.sections() {
                    // SAFETY: sections live as long as the area, which is locked.
                    unsafe { sections.as_mut() }.begin_return(number);
                }
            },
        )
    }

    /// Cuts pages off the tree and out of every window: `which` says which (and refuses), `then` is the change that goes with it.
    fn cut_off(
        &self,
        which: impl Fn(&AreaState<P>) -> Result<(u64, u64, Option<u32>), AreaError>,
        then: impl FnOnce(&mut AreaState<P>),
    ) -> Result<Flush<P, ()>, AreaError> {
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut need = Need::object::<CutOff<P>>();
        loop {
            reserve.top_up(&need)?;
            let mut state = self.inner().lock(platform);
            let (first, count, section) = which(&state)?;
            let pinned = state.first_pinned(platform, first, count);
            if let Some(page) = pinned.or_else(|| state.first_pinned_above(platform, first, count)) {
                return Err(AreaError::Pinned(page << P::PAGE_SHIFT));
            }
            need = state.need_to_give_up(first, count);
            need.merge(&state.need_to_cut_overlays(first, count));
            if !reserve.covers(&need) {
                continue;
            }
            let mut pending = Pending::new();
            if state.is_unsettled() && section.is_none() {
                // What was given up before is still being flushed: what this caller is told must be true of that too.
                let change = ViewChange::Forget { first, count: u64::MAX - first };
                state.change_views(platform, change, &mut pending);
            }
            // SAFETY: the handle holds a reference to the area, which is locked.
            unsafe {
                give_up(platform, self.pointer(), &mut state, (first, count), section, &mut reserve, &mut pending)?;
            }
            state.cut_overlays(platform, (first, count), &mut reserve, &mut pending);
            then(&mut state);
            drop(state);
            return Ok(Flush::new(platform.clone(), pending, ()));
        }
    }
}

impl<P: Platform> AreaState<P> {
    /// What [`give_up`] takes: exactly so many nodes where nobody else changes the tree before it is made.
    pub(crate) fn need_to_give_up(&self, first: u64, count: u64) -> Need {
        if self.view_count() > 1 {
            return Need::object::<CutOff<P>>().with_nodes(NodesNeeded::of_each(most_nodes(self.pages())));
        }
        self.need_to_give_up_alone(first, count)
    }

    /// The same, where nobody else does.
    pub(super) fn need_to_give_up_alone(&self, first: u64, count: u64) -> Need {
        let nodes = self.tree.nodes_needed_to_split_off(first..first.saturating_add(count));
        Need::object::<CutOff<P>>().with_nodes(nodes)
    }

    /// Whether a window shows some of the pages, one that waits for its flush included. O(views).
    pub(crate) fn is_shown(&self, first: u64, count: u64) -> bool {
        self.views_that_show(first, count) != 0
    }

    /// Whether at most one view shows some of the pages. O(views).
    pub(crate) fn is_shown_once(&self, first: u64, count: u64) -> bool {
        self.views_that_show(first, count) <= 1
    }

    /// The first run of resident pages at or after `from` and before `end`: the first and how many. O(depth + run).
    pub(crate) fn next_resident(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let present = self.tree.next_present(from).filter(|(key, _)| *key < end);
        let own = present.map(|(first, _)| (first, self.tree.next_absent(first).unwrap_or(end).min(end) - first));
        // Of an overlay's own and those below, whichever comes first: the next look goes on behind it.
        own.into_iter().chain(self.next_resident_below(from, end)).min_by_key(|(first, _)| *first)
    }
}

/// The nodes of a size that splitting a range off the tree of an area of so many pages takes at the most: an end may cut a node on each level, of which the highest is one for both, and each may be
/// shared.
const fn most_nodes(pages: u64) -> usize {
    let bits = u64::BITS - pages.saturating_sub(1).leading_zeros();
    let levels = if bits == 0 { 1 } else { bits.div_ceil(6) as usize };
    2 * (2 * levels - 1)
}

/// Cuts pages off an area's tree and out of every window that shows them, into a flush: they are freed when it is acknowledged.
///
/// # Errors
/// Nothing was changed: less was reserved than [needed](AreaState::need_to_give_up), or a page cannot be counted once more.
///
/// # Safety
/// The caller holds a counted reference to the area, whose lock is `state`.
pub(crate) unsafe fn give_up<P: Platform>(
    platform: &P,
    area: NonNull<AreaInner<P>>,
    state: &mut AreaState<P>,
    (first, count): (u64, u64),
    section: Option<u32>,
    reserve: &mut Reserve<P>,
    pending: &mut Pending<P>,
) -> Result<(), AreaError> {
    // SAFETY: the caller's reference keeps the area alive.
    let inner = unsafe { area.as_ref() };
    inner.add_reference()?;
    // Where all was reserved, only a page that cannot be counted once more is refused.
    let refused = || {
        inner.drop_window_reference();
        AreaError::TooManyHandles
    };
    let object = reserve.take_object::<CutOff<P>>().ok_or_else(refused)?;
    let split = state.tree.split_off(first..first.saturating_add(count), &mut TreeSupply { platform, reserve });
    let Ok(tree) = split else {
        // SAFETY: the memory is unused still.
        unsafe { reserve.put_object(object) };
        return Err(refused());
    };
    if count != 0 {
        state.change_views(platform, ViewChange::Unmap { first, count }, pending);
    }
    pending.note_cut_off(state.cut_frames(&tree));
    state.rest_mut().returning += 1;
    // SAFETY: the memory was taken for this type; the object stays in the pool until its release, is linked nowhere, and holds the
    // reference that was just counted.
    unsafe {
        object.write(CutOff { deferred: Deferred::new::<CutOff<P>>(), tree, area, section });
        pending.defer(object.cast());
    }
    Ok(())
}
