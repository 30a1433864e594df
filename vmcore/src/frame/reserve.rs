//! The deposit that makes a commit infallible: an operation counts all that its worst case needs, takes it here before
//! its first change, and cannot fail afterwards.
//!
//! ```text
//!   loop:  lock, look:  Need { tables, pages, objects }         (no change yet)
//!          enough in the reserve, or in the pools? ---- no --> unlock, top up (may fail: nothing was changed), again
//!               | yes
//!          commit out of the reserve, unlock; what is left over goes back
//! ```
//!
//! Most operations need objects of one or two classes, so both sides keep a bit for each class that is used, and look at no other.

use core::ptr::NonNull;

use crate::addr::Frame;
use crate::frame::pool::{CLASSES, class_of};
use crate::frame::{FrameList, FrameRun, FrameUse, Frames, Freeing, ObjectList, OutOfFrames, allocate_one, free_one};
use crate::platform::Platform;

/// A bit for each size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Classes(u16);

const _: () = assert!(CLASSES <= u16::BITS as usize);

impl Classes {
    #[inline]
    fn insert(&mut self, class: usize) {
        self.0 |= 1 << class;
    }

    #[inline]
    fn remove(&mut self, class: usize) {
        self.0 &= !(1 << class);
    }

    /// The classes, from the smallest on.
    #[inline]
    fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let class = left.trailing_zeros() as usize;
            // Takes the lowest bit out; nothing is left of zero.
            left &= left.checked_sub(1)?;
            Some(class)
        })
    }
}

/// What an operation needs at the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Zeroed frames for tables.
    pub(crate) tables: u64,
    /// Zeroed frames for pages.
    pub(crate) pages: u64,
    /// Blocks: runs of zeroed frames for pages. One that cannot be had is no error: see [`Reserve::may_have_blocks`].
    pub(crate) blocks: u64,
    objects: [u32; CLASSES],
    /// Of which classes there are any.
    classes: Classes,
}

impl Need {
    /// Adds `count` objects of type `T`.
    #[inline]
    pub(crate) fn add_objects<T>(&mut self, count: usize) {
        if count != 0 {
            self.add_to_class(const { class_of::<T>() }, count);
        }
    }

    #[inline]
    fn add_to_class(&mut self, class: usize, count: usize) {
        if let Some(objects) = self.objects.get_mut(class) {
            // More than that is refused: no pool can have as many.
            *objects = objects.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            self.classes.insert(class);
        }
    }

    #[inline]
    fn is_nothing(&self) -> bool {
        (self.tables | self.pages | self.blocks | u64::from(self.classes.0)) == 0
    }

    /// How many objects of each class, where there are any.
    #[inline]
    fn objects(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.classes.iter().filter_map(|class| Some((class, *self.objects.get(class)? as usize)))
    }

    /// `count` zeroed frames for pages.
    pub(crate) fn pages(count: u64) -> Self {
        Self { pages: count, ..Self::default() }
    }

    /// The same, with so many zeroed frames for tables.
    pub(crate) fn with_tables(self, tables: u64) -> Self {
        Self { tables, ..self }
    }

    /// The same, with `count` objects of type `T` more.
    pub(crate) fn with_objects<T>(mut self, count: usize) -> Self {
        self.add_objects::<T>(count);
        self
    }

    /// Adds all that `other` needs.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.tables = self.tables.saturating_add(other.tables);
        self.pages = self.pages.saturating_add(other.pages);
        self.blocks = self.blocks.saturating_add(other.blocks);
        for (class, count) in other.objects() {
            self.add_to_class(class, count);
        }
    }

    /// One object of type `T`.
    pub(crate) fn object<T>() -> Self {
        let mut need = Self::default();
        need.add_objects::<T>(1);
        need
    }
}

/// A request for so few frames is not worth asking first how many there are.
const SMALL: u64 = 16;

/// Frames and objects taken in advance. Dropping it gives back what was not used.
pub(crate) struct Reserve<P: Platform> {
    platform: P,
    /// Zeroed frames, recorded as tables.
    pub(crate) tables: FrameList,
    /// Zeroed frames, recorded as pages.
    pages: FrameList,
    /// The first frames of blocks.
    blocks: FrameList,
    /// The pages of a block as a power of two; 0 before it is known.
    block_shift: u32,
    /// Whether a block could not be had.
    blocks_refused: bool,
    /// Pages that are charged already to the account of the area in hand.
    pub(crate) charged: u64,
    objects: [ObjectList; CLASSES],
    /// Of which classes there may be any objects: the other lists are empty.
    classes: Classes,
}

/// What a page that comes into being takes its frame from.
pub(crate) trait PageSource {
    /// Whether there is a zeroed frame for a page.
    fn has_page(&self) -> bool;

    /// Takes it.
    fn take_page(&mut self) -> Option<Frame>;

    /// Whether an account was charged for what is made of it.
    fn is_charged_ahead(&self) -> bool;
}

impl<P: Platform> PageSource for Reserve<P> {
    #[inline]
    fn has_page(&self) -> bool {
        !self.pages.is_empty()
    }

    #[inline]
    fn take_page(&mut self) -> Option<Frame> {
        Reserve::take_page(self)
    }

    #[inline]
    fn is_charged_ahead(&self) -> bool {
        self.charged > 0
    }
}

/// A frame for a page that is at hand, or none: what most faults take. Dropping it gives back what was not used.
///
/// Where it is `ZEROED` the frame holds zeros. Otherwise it holds anything, and is none for a page that comes into being, but only [for a copy](Self::to_copy_over).
pub(crate) struct OnePage<'a, P: Platform, const ZEROED: bool> {
    platform: &'a P,
    frame: Option<Frame>,
}

impl<'a, P: Platform, const ZEROED: bool> OnePage<'a, P, ZEROED> {
    /// With a frame, if one can be had. Called without any lock.
    #[inline]
    pub(crate) fn try_take(platform: &'a P) -> Self {
        Self { platform, frame: allocate_one(platform, FrameUse::Page, ZEROED).ok() }
    }

    /// Without one.
    #[inline]
    pub(crate) const fn none(platform: &'a P) -> Self {
        Self { platform, frame: None }
    }

    /// The frame, whatever it holds: for a copy, which is written all over before anybody sees it. It is taken by [`take_to_copy_over`](Self::take_to_copy_over).
    #[inline]
    pub(crate) const fn to_copy_over(&self) -> Option<Frame> {
        self.frame
    }

    /// Takes that frame.
    #[inline]
    pub(crate) const fn take_to_copy_over(&mut self) {
        self.frame = None;
    }
}

impl<P: Platform, const ZEROED: bool> PageSource for OnePage<'_, P, ZEROED> {
    #[inline]
    fn has_page(&self) -> bool {
        ZEROED && self.frame.is_some()
    }

    #[inline]
    fn take_page(&mut self) -> Option<Frame> {
        if ZEROED { self.frame.take() } else { None }
    }

    #[inline]
    fn is_charged_ahead(&self) -> bool {
        false
    }
}

impl<P: Platform, const ZEROED: bool> Drop for OnePage<'_, P, ZEROED> {
    #[inline]
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            free_unused_page(self.platform, frame);
        }
    }
}

#[cold]
fn free_unused_page<P: Platform>(platform: &P, frame: Frame) {
    // SAFETY: the frame was allocated, and nobody was given it.
    let _ = unsafe { free_one(platform, frame, FrameUse::Page) };
}

impl<P: Platform> Reserve<P> {
    /// An empty reserve.
    pub(crate) fn new(platform: &P) -> Self {
        Self {
            platform: platform.clone(),
            tables: FrameList::new(),
            pages: FrameList::new(),
            blocks: FrameList::new(),
            block_shift: 0,
            blocks_refused: false,
            charged: 0,
            objects: [const { ObjectList::new() }; CLASSES],
            classes: Classes::default(),
        }
    }

    /// Whether it holds all of `need`.
    pub(crate) fn covers(&self, need: &Need) -> bool {
        self.tables.len() >= need.tables
            && self.pages.len() >= need.pages
            && self.blocks.len() >= need.blocks
            && need.objects().all(|(class, count)| self.objects.get(class).is_some_and(|list| list.len() >= count))
    }

    /// The same, after taking from the pools what they have at hand of the objects that are lacking: no frame is asked for, so locks may be held.
    #[inline]
    pub(crate) fn covers_with_pools(&mut self, need: &Need) -> bool {
        let mut covers =
            self.tables.len() >= need.tables && self.pages.len() >= need.pages && self.blocks.len() >= need.blocks;
        for (class, count) in need.objects() {
            let pool = self.platform.machine().pools().get(class);
            if let (Some(list), Some(pool)) = (self.objects.get_mut(class), pool) {
                if list.len() < count {
                    self.classes.insert(class);
                    pool.fill_from_stock(list, count);
                }
                covers &= list.len() >= count;
            }
        }
        covers
    }

    /// Whether it holds as many frames for pages: cheaper than [`covers`](Self::covers).
    #[inline]
    pub(crate) fn has_pages(&self, pages: u64) -> bool {
        self.pages.len() >= pages
    }

    /// Whether it holds `count` objects of type `T`.
    #[inline]
    pub(crate) fn has_objects<T>(&self, count: usize) -> bool {
        self.objects.get(const { class_of::<T>() }).is_some_and(|list| list.len() >= count)
    }

    /// Has blocks be runs of 2^`shift` frames, aligned as such. Before the first one is asked for.
    pub(crate) fn allow_blocks(&mut self, shift: u32) {
        self.block_shift = shift;
    }

    /// Whether it makes sense to ask for blocks: none was refused. Whoever wants one does without it otherwise.
    pub(crate) fn may_have_blocks(&self) -> bool {
        self.block_shift != 0 && !self.blocks_refused
    }

    /// How many pages `need` is for, those of blocks included.
    pub(crate) fn pages_in(&self, need: &Need) -> u64 {
        need.pages.saturating_add(need.blocks << self.block_shift)
    }

    /// Takes a block of zeroed frames: the first.
    pub(crate) fn take_block(&mut self) -> Option<Frame> {
        self.blocks.pop(&self.platform)
    }

    /// Puts a block back that was taken, and is zero and nobody's still.
    pub(crate) fn put_block(&mut self, first: Frame) {
        // Pages have metadata, or they would not have been on the list.
        let _ = self.blocks.push(&self.platform, first);
    }

    /// Takes what it lacks of `need`. Called without any lock.
    ///
    /// # Errors
    /// How many frames it lacks; what it got so far stays (and goes back when it is dropped).
    #[inline]
    pub(crate) fn top_up(&mut self, need: &Need) -> Result<(), OutOfFrames> {
        // Most operations look first, and take then.
        if need.is_nothing() { Ok(()) } else { self.top_up_to(need) }
    }

    fn top_up_to(&mut self, need: &Need) -> Result<(), OutOfFrames> {
        // A request for more than there is must not take everything away from others first.
        let frames =
            need.tables.saturating_sub(self.tables.len()).saturating_add(need.pages.saturating_sub(self.pages.len()));
        if frames > SMALL && frames > self.platform.available_frames() {
            return Err(OutOfFrames { wanted: frames });
        }
        if frames != 0 {
            self.tables.fill(&self.platform, FrameUse::Table, need.tables)?;
            self.pages.fill(&self.platform, FrameUse::Page, need.pages)?;
        }
        while self.blocks.len() < need.blocks && self.may_have_blocks() {
            match FrameRun::allocate(&self.platform, FrameUse::Page, 1 << self.block_shift, self.block_shift) {
                Some(run) => {
                    let _ = self.blocks.push(&self.platform, run.into_first());
                }
                None => self.blocks_refused = true,
            }
        }
        for (class, count) in need.objects() {
            let pool = self.platform.machine().pools().get(class);
            if let (Some(list), Some(pool)) = (self.objects.get_mut(class), pool) {
                if list.len() < count {
                    // Noted first: what is taken before frames run out goes back as well.
                    self.classes.insert(class);
                    pool.fill(&self.platform, list, count)?;
                }
            }
        }
        Ok(())
    }

    /// Puts a page back that was taken and is zero still.
    pub(crate) fn put_page(&mut self, frame: Frame) {
        // Pages have metadata, or they would not have been on the list.
        let _ = self.pages.push(&self.platform, frame);
    }

    /// Takes a zeroed frame for a page.
    #[inline]
    pub(crate) fn take_page(&mut self) -> Option<Frame> {
        self.pages.pop(&self.platform)
    }

    /// Takes a zeroed frame for a page that no tree will hold: it belongs to the leaf that maps it.
    pub(crate) fn take_untracked_page(&mut self) -> Option<Frame> {
        let frame = self.take_page()?;
        self.platform.frame_meta(frame)?.set_untracked();
        Some(frame)
    }

    /// Takes an untracked page back that was not mapped after all; it holds zeros still.
    pub(crate) fn put_untracked_page(&mut self, frame: Frame) {
        if let Some(meta) = self.platform.frame_meta(frame) {
            meta.clear_untracked();
        }
        let _ = self.pages.push(&self.platform, frame);
    }

    /// Takes memory for a `T`, uninitialised.
    pub(crate) fn take_object<T>(&mut self) -> Option<NonNull<T>> {
        let class = const { class_of::<T>() };
        let list = self.objects.get_mut(class)?;
        let object = list.pop()?;
        if list.len() == 0 {
            // Nothing is left to be given back.
            self.classes.remove(class);
        }
        Some(object.cast())
    }

    /// Takes the memory of a `T` back, to be given to its pool when the reserve is dropped.
    ///
    /// # Safety
    /// The memory came from a reserve for the same type, holds no live value any more, and nothing refers to it.
    pub(crate) unsafe fn put_object<T>(&mut self, object: NonNull<T>) {
        let class = const { class_of::<T>() };
        if let Some(list) = self.objects.get_mut(class) {
            self.classes.insert(class);
            // SAFETY: the object belongs to this class and is unused, as the caller vouches.
            unsafe { list.push(object.cast()) };
        }
    }
}

impl<P: Platform> Drop for Reserve<P> {
    #[inline]
    fn drop(&mut self) {
        // Most operations have used what they took, or took nothing.
        if (self.tables.len() | self.pages.len() | self.blocks.len() | u64::from(self.classes.0)) != 0 {
            self.give_back();
        }
    }
}

impl<P: Platform> Reserve<P> {
    /// Gives back what was not used.
    #[inline(never)]
    fn give_back(&mut self) {
        free_list(&self.platform, &mut self.tables, FrameUse::Table);
        free_list(&self.platform, &mut self.pages, FrameUse::Page);
        while let Some(first) = self.blocks.pop(&self.platform) {
            drop(FrameRun::from_first(&self.platform, first, 1 << self.block_shift));
        }
        for class in self.classes.iter() {
            let pool = self.platform.machine().pools().get(class);
            if let (Some(list), Some(pool)) = (self.objects.get_mut(class), pool) {
                pool.give(&self.platform, list);
            }
        }
    }
}

/// Gives the memory of a `T` back to its pool at once. Called without any lock.
///
/// # Safety
/// As for [`Reserve::put_object`].
pub(crate) unsafe fn free_object<P: Platform, T>(platform: &P, object: NonNull<T>) {
    if let Some(pool) = platform.machine().pools().get(const { class_of::<T>() }) {
        // SAFETY: the object belongs to this class and is unused, as the caller vouches.
        unsafe { pool.give_one(platform, object.cast()) };
    }
}

/// Gives every frame of the list back to the embedder.
#[inline]
pub(crate) fn free_list<F: Frames>(frames: &F, list: &mut FrameList, purpose: FrameUse) {
    if !list.is_empty() {
        free_all(frames, list, purpose);
    }
}

fn free_all<F: Frames>(frames: &F, list: &mut FrameList, purpose: FrameUse) {
    let mut freeing = Freeing::new(frames, purpose);
    while let Some((frame, meta)) = list.pop_with_meta(frames) {
        // SAFETY: frames on a list belong to the list's holder alone, which gives them up here. One whose record says
        // otherwise is left alone: it leaks rather than be freed twice.
        let _ = unsafe { freeing.add(meta, frame) };
    }
}
