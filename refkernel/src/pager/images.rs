//! Programs as they lie in the boot module, shown by page: what every instance of a program has in common.
//!
//! ```text
//!   boot module   ...| ELF file: headers | text ..... | rodata .. | data .. |...
//!                                          │ a page, when it is touched
//!                                          ▼
//!   image           paged areas:         [ text  ]   [ rodata ]   [ data  ]          one image for all instances of the file
//!                                        ▲   ▲       ▲   ▲            ▲ ▲
//!   instances              r-x windows ──┘   └── ... ┘   └        overlay overlay    data that is written to is the instance's own
//! ```
//!
//! # Invariants
//!
//! - No handle of an image's area has the right to write, the one that is kept here included: nothing ever maps a page of a program's file so that it can be
//!   written, or writes to it, and every page is clean for its whole life. So it can be given up at any time, and brought again.
//! - Every process that shows an image holds a reference to it. The last one takes the areas, and with them the frames, along.

use super::memory::{Kernel, Mutex, UserSpace};
use crate::process::{LoadError, access};
use core::sync::atomic::{AtomicU64, Ordering};
use refkernel::elf::{Plan, SEGMENTS_MAX, Segment};
use refkernel::pool::{Pool, Ref};
use refkernel_abi::{Access, PAGE_SIZE};
use vmcore::vm_area::{Area, AreaError, AreaKind, PageBuffer, PageRequest, Rights};
use vmcore::vm_space::{Inherit, MapRequest, SpaceError};

/// The most programs of which an instance is there.
const IMAGES_MAX: usize = 64;

/// A program's file, and areas that show its segments.
pub(crate) struct Image {
    /// Never another one's: pages are asked for by it, and by the segment.
    number: u64,
    file: &'static [u8],
    plan: Plan<'static>,
    /// Of each segment; `None` for one that a program writes to and that has no byte of the file.
    areas: [Option<Area<Kernel>>; SEGMENTS_MAX],
}

/// A reference to an image, which keeps it.
pub(crate) type ImageRef = Ref<Image, IMAGES_MAX>;

static IMAGES: Pool<Image, IMAGES_MAX> = Pool::new();

/// Held by who looks for an image and enters one that is not there, so that there are no two of a file.
static ENTERING: Mutex<()> = Mutex::new(());

static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Pages that were brought so far.
static BROUGHT: AtomicU64 = AtomicU64::new(0);

/// How many pages of programs were brought so far, one that was given up and brought again counted twice.
pub(crate) fn brought() -> u64 {
    BROUGHT.load(Ordering::Relaxed)
}

/// The area with the lowest key above this one, and its key.
pub(super) fn next_after(key: u64) -> Option<(u64, Area<Kernel>)> {
    let mut next: Option<(u64, Area<Kernel>)> = None;
    for image in IMAGES.iter() {
        for (index, area) in (0..).zip(&image.areas) {
            let this = image.number * SEGMENTS_MAX as u64 + index;
            if let Some(area) = area.as_ref().filter(|_| this > key && next.as_ref().is_none_or(|(key, _)| this < *key))
            {
                next = area.handle(Rights::SUPPLY).ok().map(|area| (this, area)).or(next);
            }
        }
    }
    next
}

fn find(file: &'static [u8]) -> Option<ImageRef> {
    IMAGES.iter().find(|image| core::ptr::eq(image.file, file))
}

/// The image of a file: the one that other instances show, or a new one.
///
/// # Errors
///
/// The file is not acceptable; there is no memory, or no place.
pub(crate) fn of(file: &'static [u8]) -> Result<ImageRef, LoadError> {
    if let Some(image) = find(file) {
        return Ok(image);
    }
    let mut made = Some(Image::new(file)?);
    let image = {
        let _alone = ENTERING.lock();
        find(file).or_else(|| made.take().and_then(|image| IMAGES.insert(image).ok()))
    };
    image.ok_or(LoadError::TooManyProcesses)
}

/// How many pages of a segment have bytes of the file.
fn pages_from_file(segment: &Segment<'_>) -> u64 {
    match segment.data().len() as u64 {
        0 => 0,
        length => (segment.lead() + length).div_ceil(PAGE_SIZE),
    }
}

fn is_writable(segment: &Segment<'_>) -> bool {
    segment.access().contains(Access::WRITE)
}

impl Image {
    fn new(file: &'static [u8]) -> Result<Self, LoadError> {
        let plan = Plan::new(file)?;
        let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        let mut areas = [const { None }; SEGMENTS_MAX];
        for (index, (segment, area)) in plan.segments().iter().zip(&mut areas).enumerate() {
            // What no byte of the file covers is a program's own from the start, if it can write there.
            let pages = if is_writable(segment) { pages_from_file(segment) } else { segment.pages() };
            if pages == 0 {
                continue;
            }
            let key = number * SEGMENTS_MAX as u64 + index as u64;
            let made = Area::new(&Kernel, AreaKind::Paged { size: pages * PAGE_SIZE, key }, ())?;
            let mut rights = Rights::SUPPLY | Rights::SHARE | Rights::MAP | Rights::READ;
            rights.set(Rights::EXECUTE, segment.access().contains(Access::EXECUTE));
            *area = Some(made.handle(rights)?);
        }
        Ok(Self { number, file, plan, areas })
    }

    /// Where the program begins.
    pub(crate) fn entry(&self) -> u64 {
        self.plan.entry()
    }

    /// Shows the program in a space, with no more than the file's access, and tells `shown` of each window: its address, and its segment's access. No page is
    /// brought.
    ///
    /// # Errors
    ///
    /// The space refuses; there is no memory.
    pub(crate) fn map(&self, space: &UserSpace, mut shown: impl FnMut(u64, Access)) -> Result<(), LoadError> {
        for (segment, area) in self.plan.segments().iter().zip(&self.areas) {
            let (start, allowed) = (segment.address(), access(segment.access()));
            let Some(area) = area.as_ref().filter(|_| !is_writable(segment)) else {
                map_own(space, segment, area.as_ref(), &mut shown)?;
                continue;
            };
            let mut rights = Rights::MAP | Rights::READ;
            rights.set(Rights::EXECUTE, segment.access().contains(Access::EXECUTE));
            let area = area.handle(rights)?;
            // What a program cannot change is shared with its copies.
            let range = space.map(&MapRequest::new(&area).at(start).access(allowed).inherit(Inherit::Share))?;
            // It stays as it is till the process ends, whoever may come to make calls in its name.
            space.seal(range)?;
            shown(start, segment.access());
        }
        Ok(())
    }

    /// Fills fresh pages with what the file has for them.
    fn fill(&self, segment: &Segment<'_>, first: u64, pages: &mut PageBuffer<Kernel>) -> Result<(), AreaError> {
        for page in 0..pages.size() / PAGE_SIZE {
            let (offset, bytes) = segment.page(first + page);
            if !bytes.is_empty() {
                pages.write(page * PAGE_SIZE + offset as u64, bytes)?;
            }
        }
        Ok(())
    }
}

/// Shows a segment that a program writes to: what the file has of it by a private view, and what is zero behind that as memory of its own.
fn map_own(
    space: &UserSpace,
    segment: &Segment<'_>,
    area: Option<&Area<Kernel>>,
    shown: &mut impl FnMut(u64, Access),
) -> Result<(), LoadError> {
    let (start, allowed) = (segment.address(), access(segment.access()));
    let rights = Rights::MAP | Rights::READ | Rights::WRITE;
    let from_file = area.map_or(0, Area::size);
    if let Some(area) = area {
        let view = area.overlay(0, from_file)?.handle(rights)?;
        space.map(&MapRequest::new(&view).at(start).access(allowed).inherit(Inherit::Copy))?;
        shown(start, segment.access());
    }
    if from_file < segment.size() {
        let zero = Area::new(&Kernel, AreaKind::Open { size: segment.size() - from_file }, ())?.handle(rights)?;
        space.map(&MapRequest::new(&zero).at(start + from_file).access(allowed).inherit(Inherit::Copy))?;
        shown(start + from_file, segment.access());
    }
    Ok(())
}

/// Brings pages of a program. Where there is no memory for them, whoever wants one asks anew.
pub(super) fn supply(request: &PageRequest) -> Result<(), SpaceError> {
    let (number, index) = (request.key / SEGMENTS_MAX as u64, (request.key % SEGMENTS_MAX as u64) as usize);
    let image = IMAGES.iter().find(|image| image.number == number);
    let Some(image) = image else { return Ok(()) };
    let (Some(segment), Some(Some(area))) = (image.plan.segments().get(index), image.areas.get(index)) else {
        return Ok(());
    };
    let filled =
        PageBuffer::new(&Kernel, request.size / PAGE_SIZE).map_err(SpaceError::OutOfFrames).and_then(|mut pages| {
            image.fill(segment, request.offset / PAGE_SIZE, &mut pages).map_err(SpaceError::Area)?;
            Ok(pages)
        });
    match filled {
        Ok(pages) => {
            // An answer that came too late changes nothing: who waits asks again.
            if let Ok(count) = area.supply_pages(request.token, request.offset, pages) {
                BROUGHT.fetch_add(count, Ordering::Relaxed);
            }
            Ok(())
        }
        Err(error) => {
            let _ = area.cancel(request.token, request.offset, request.size);
            Err(error)
        }
    }
}
