//! The handle of an area: making one, asking it, and passing it on with fewer rights.

use core::fmt;
use core::ptr::NonNull;

use super::inner::{AreaInner, release_area};
use super::paged::Paged;
use super::rest::AreaMemory;
use super::sections::Sections;
use super::{AreaError, AreaKind, MAX_SIZE, Page, Rights};
use crate::addr::{Frame, FrameRange};
use crate::frame::{Need, Reserve};
use crate::page_tree::{PageTree, Run};
use crate::paging::{MemoryType, Mmu};
use crate::platform::Platform;

/// A handle of an area: what memory is backed by, and what the holder may do with it.
///
/// Other systems: a VMO handle, a memory object port, an open `memfd`.
///
/// Dropping the handle is O(1), or O(pages) if it is the last reference.
pub struct Area<P: Platform> {
    platform: P,
    inner: NonNull<AreaInner<P>>,
    rights: Rights,
}

// SAFETY: a handle is a counted reference to an area, whose state is behind a lock and whose data is `Send` and `Sync`.
// What is kept in the area may hold a platform handle, which any user may be the one to drop: both bounds for both.
unsafe impl<P: Platform + Send + Sync> Send for Area<P> {}
// SAFETY: as above.
unsafe impl<P: Platform + Send + Sync> Sync for Area<P> {}

impl<P: Platform> Area<P> {
    /// An area of this kind, with the embedder's data, and a handle with every right. No page of it exists yet.
    ///
    /// Cost: O(1) (a guarded area: O(sections)); takes two pool objects (a guarded or paged one three).
    ///
    /// # Errors
    /// A size or layout that cannot be; a fixed area ([`fixed`](Self::fixed) makes one), a private one ([`snapshot`](Self::snapshot), [`overlay`](Self::overlay)); out of frames.
    pub fn new(platform: &P, kind: AreaKind, data: P::AreaData) -> Result<Self, AreaError> {
        if let AreaKind::Fixed { .. } | AreaKind::Private { .. } = kind {
            return Err(AreaError::Kind);
        }
        Self::make(platform, kind, data)
    }

    /// An area that shows these frames, which are not the library's: device memory, a framebuffer, firmware tables, the
    /// kernel's own image. They are never counted and never freed.
    ///
    /// Cost: O(entries of the registry of memory types); takes three pool objects.
    ///
    /// # Safety
    /// Whoever gets a window or a handle of the area reads and writes these frames. They hold nothing that the library relies on (tables, pool
    /// objects, frames that it may hand out), and nothing that a Rust reference relies on, while the area lives; or its
    /// handles and windows are such that nobody writes what others rely on.
    ///
    /// # Errors
    /// Frames beyond the physical width, frames that are mapped with another memory type, out of frames.
    pub unsafe fn fixed(
        platform: &P,
        frames: FrameRange,
        memory: MemoryType,
        data: P::AreaData,
    ) -> Result<Self, AreaError> {
        Self::make(platform, AreaKind::Fixed { frames, memory }, data)
    }

    fn make(platform: &P, kind: AreaKind, data: P::AreaData) -> Result<Self, AreaError> {
        let shift = P::PAGE_SHIFT;
        let pages_of = |size: u64| {
            let whole = size & ((1 << shift) - 1) == 0;
            if size != 0 && size < MAX_SIZE && whole { Ok(size >> shift) } else { Err(AreaError::Size(size)) }
        };
        let special = AreaInner::<P>::is_special_kind(kind);
        let mut need = Need::default();
        AreaMemory::<P>::add_need(special, &mut need);
        let pages = match kind {
            AreaKind::Open { size } | AreaKind::Untracked { size } | AreaKind::Private { size } => pages_of(size)?,
            AreaKind::Growing { limit, gap } => pages_of(gap).and(pages_of(limit))?,
            AreaKind::Ring { size } => match pages_of(size)? << 1 {
                pages if pages < MAX_SIZE >> shift => pages,
                _ => return Err(AreaError::Size(size)),
            },
            AreaKind::Paged { size, .. } => {
                need.add_objects::<Paged<P>>(1);
                pages_of(size)?
            }
            AreaKind::Fixed { frames, .. } => {
                let bits = platform.machine().mmu().physical_bits().saturating_sub(shift).min(63);
                if (frames.first().number() + (frames.count() - 1)) >> bits != 0 || frames.count() >= MAX_SIZE >> shift
                {
                    return Err(AreaError::Frames(frames));
                }
                frames.count()
            }
            AreaKind::Guarded(layout) => {
                need.add_objects::<Sections<P>>(1);
                match layout.total_pages() {
                    Some(pages)
                        if layout.pages != 0 && layout.guard != 0 && layout.count != 0 && pages < MAX_SIZE >> shift =>
                    {
                        pages
                    }
                    _ => return Err(AreaError::Layout),
                }
            }
        };
        let lacking = AreaError::OutOfFrames(crate::frame::OutOfFrames { wanted: 1 });
        let mut reserve = Reserve::new(platform);
        reserve.top_up(&need)?;
        let mut sections = None;
        if let AreaKind::Guarded(layout) = kind {
            let made = Sections::new(platform, layout.count).ok_or(lacking)?;
            let object = reserve.take_object::<Sections<P>>().ok_or(lacking)?;
            // SAFETY: the memory was just taken for this type, and nobody else knows it.
            unsafe { object.write(made) };
            sections = Some(object);
        }
        let records = AreaMemory::take(&mut reserve, special).ok_or(lacking)?;
        if let AreaKind::Fixed { frames, memory } = kind {
            if let Err(error) = platform.machine().register(platform, frames, memory) {
                records.put(&mut reserve);
                return Err(AreaError::Registry(error));
            }
        }
        // SAFETY: nodes always come from, and go to, the machine's pools.
        let mut inner = records.make(kind, pages, unsafe { PageTree::new() }, data);
        // SAFETY: nobody else knows the area.
        if let Some(special) = unsafe { inner.as_mut() }.special_mut() {
            special.sections.set(sections);
            if let AreaKind::Paged { .. } = kind {
                // As many objects were reserved.
                if let Some(paged) = reserve.take_object::<Paged<P>>() {
                    // SAFETY: the memory was just taken for this type, and nobody else knows it.
                    unsafe { paged.write(Paged::new()) };
                    special.paged.set(Some(paged));
                }
            }
        }
        Ok(Self { platform: platform.clone(), inner, rights: Rights::all() })
    }

    /// Another handle of an area, with these rights.
    ///
    /// # Errors
    /// There are too many.
    ///
    /// # Safety
    /// The area is alive.
    pub(crate) unsafe fn another(
        platform: &P,
        inner: NonNull<AreaInner<P>>,
        rights: Rights,
    ) -> Result<Self, AreaError> {
        // SAFETY: the caller's promise; from here on the reference keeps it so.
        unsafe { inner.as_ref() }.add_reference()?;
        Ok(Self { platform: platform.clone(), inner, rights })
    }

    /// A handle with every right, for a reference that the caller gives up to it.
    pub(super) fn from_parts(platform: P, inner: NonNull<AreaInner<P>>) -> Self {
        Self { platform, inner, rights: Rights::all() }
    }

    /// The handle with these rights.
    pub(super) fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    #[inline]
    pub(crate) const fn platform(&self) -> &P {
        &self.platform
    }

    #[inline]
    pub(crate) fn inner(&self) -> &AreaInner<P> {
        // SAFETY: the handle's reference keeps the area alive.
        unsafe { self.inner.as_ref() }
    }

    pub(crate) const fn pointer(&self) -> NonNull<AreaInner<P>> {
        self.inner
    }

    /// What the handle permits.
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// The kind of the area, with its present size.
    pub fn kind(&self) -> AreaKind {
        self.inner().kind(&self.inner().lock(&self.platform))
    }

    /// The embedder's data.
    pub fn data(&self) -> &P::AreaData {
        self.inner().data()
    }

    /// The size in bytes: what windows can show of it (for a ring: both places of its memory).
    pub fn size(&self) -> u64 {
        self.inner().lock(&self.platform).pages() << P::PAGE_SHIFT
    }

    /// How many pages are resident. Fixed and untracked areas count none.
    pub fn resident_pages(&self) -> u64 {
        self.inner().lock(&self.platform).resident()
    }

    /// How many windows show the area, those included that are unmapped and wait for their flush; and of a paged area, those that show a private view of it
    /// ([`overlay`](Self::overlay)). O(private views).
    pub fn windows(&self) -> usize {
        let state = self.inner().lock(&self.platform);
        state.view_count() + state.count_overlays().1
    }

    /// How many handles of the area there are, this one included; private views of a paged area ([`overlay`](Self::overlay)), which keep it as a handle does, count
    /// as one each. With this handle alone, and no [window](Self::windows), nobody reaches the area any more but its holder. Others may be made and dropped
    /// meanwhile. O(private views).
    pub fn handles(&self) -> usize {
        let state = self.inner().lock(&self.platform);
        self.inner().handle_count(&state)
    }

    /// The frame that holds the page at `offset` bytes; `None` if it is not resident or not tracked. Of a [private view](Self::overlay), the frame that shows:
    /// a copy's, or the paged area's.
    pub fn frame_at(&self, offset: u64) -> Option<Frame> {
        let index = offset >> P::PAGE_SHIFT;
        let state = self.inner().lock(&self.platform);
        match self.inner().frames() {
            Some(frames) => (index < state.pages()).then(|| frames.first().add(index)),
            None => state.resident_page(index),
        }
    }

    /// A number that no other area has while this one lives.
    pub fn id(&self) -> usize {
        self.inner.as_ptr().addr()
    }

    /// The next run of pages that the area's tree has, from the page `from` on; what a private view shows of the paged area below it is not among them.
    pub(crate) fn next_run(&self, from: u64) -> Option<Run<Page>> {
        self.inner().lock(&self.platform).tree.runs(from..).next()
    }

    /// How many nodes the tree has, and how many bytes they take.
    pub(crate) fn tree_nodes(&self) -> (u64, u64) {
        let state = self.inner().lock(&self.platform);
        (state.tree.node_count(), state.tree.node_bytes())
    }

    pub(super) fn require(&self, rights: Rights) -> Result<(), AreaError> {
        let missing = rights.difference(self.rights);
        if missing.is_empty() { Ok(()) } else { Err(AreaError::Rights(missing)) }
    }

    /// Another handle of the same area with at most these rights. O(1).
    ///
    /// # Errors
    /// The handle lacks the right to share, or there are too many.
    pub fn handle(&self, rights: Rights) -> Result<Self, AreaError> {
        self.require(Rights::SHARE)?;
        self.inner().add_reference()?;
        Ok(Self { platform: self.platform.clone(), inner: self.inner, rights: self.rights.intersection(rights) })
    }
}

impl<P: Platform> Drop for Area<P> {
    fn drop(&mut self) {
        // SAFETY: the handle's reference is given up, with no lock held by the library.
        unsafe { release_area(&self.platform, self.inner) };
    }
}

impl<P: Platform> fmt::Debug for Area<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area").field("kind", &self.kind()).field("rights", &self.rights).finish_non_exhaustive()
    }
}
