//! What can be done, and the choice of what is done next.
//!
//! Most of what is chosen can be done; some of it must be refused. Ranges are short, so that windows are cut and joined often.

use crate::world::{AREA_PAGES, AREAS, HANDLES, PAGES, World};
use oorandom::Rand64;
use refkernel_abi::{Access, Advice, Rights};

/// The most pages that one copy by the kernel takes: those of the longest message.
pub const COPY_PAGES: usize = 4;

/// One operation. Places and lengths are in pages; areas and handles are places in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub enum Operation {
    /// Makes an area, of so many pages of memory.
    Create { pages: usize, ring: bool },
    /// Makes private memory and shows it.
    CreateAndMap { at: usize, pages: usize, access: u64 },
    /// Shows a part of an area.
    Map { area: usize, handle: usize, at: usize, offset: usize, pages: usize, access: u64 },
    /// Shows a part of an area where there is room, looks at it there, and ends that window.
    MapElsewhere { area: usize, handle: usize, offset: usize, pages: usize },
    /// Ends windows.
    Unmap { at: usize, pages: usize },
    /// Changes what windows allow; 0 forbids everything.
    Protect { at: usize, pages: usize, access: u64 },
    /// Says something about memory.
    Advise { at: usize, pages: usize, advice: Advice },
    /// Changes the size of an area.
    Resize { area: usize, handle: usize, pages: usize },
    /// Makes another handle.
    Duplicate { area: usize, handle: usize, rights: Rights },
    /// Asks what a handle allows.
    Inspect { area: usize, handle: usize },
    /// Closes a handle.
    Close { area: usize, handle: usize },
    /// Reads pages, or has the kernel find out that they cannot be read.
    Read { at: usize, pages: usize },
    /// Writes pages that may be written, each something else.
    Write { at: usize, pages: usize, value: u64 },
    /// Has the kernel copy pages out of memory.
    CopyOut { at: usize, pages: usize },
    /// Has the kernel copy pages into memory.
    CopyIn { at: usize, pages: usize, value: u64 },
    /// Has the kernel look at a word.
    Look { at: usize },
}

/// A number below `end`, which is not 0.
pub fn below(random: &mut Rand64, end: usize) -> usize {
    random.rand_range(0..end as u64) as usize
}

/// One of several.
pub fn one_of<T: Copy>(random: &mut Rand64, all: &[T]) -> Option<T> {
    all.get(below(random, all.len().max(1))).copied()
}

/// A value for a page that is not 0.
fn value(random: &mut Rand64) -> u64 {
    random.rand_u64() | 1
}

/// A range of the world's pages: one to twelve of them, mostly few.
fn range(random: &mut Rand64) -> (usize, usize) {
    let at = below(random, PAGES);
    let most = if below(random, 4) == 0 { 12 } else { 4 };
    (at, 1 + below(random, most.min(PAGES - at)))
}

const READ: u64 = Access::READ.bits();
const WRITE: u64 = Access::WRITE.bits();
const READ_WRITE: u64 = Access::READ_WRITE.bits();
const EXECUTE: u64 = Access::EXECUTE.bits() | READ;

/// What windows are made with.
const ACCESSES: [u64; 8] = [READ_WRITE, READ_WRITE, READ_WRITE, READ_WRITE, READ, READ, WRITE, EXECUTE];
/// What they are changed to.
const PROTECTIONS: [u64; 8] = [READ_WRITE, READ_WRITE, READ_WRITE, READ, READ, WRITE, 0, EXECUTE];

/// What further handles allow, where the first one does.
const RIGHTS: [Rights; 6] = [
    Rights::OWN_AREA,
    Rights::GIVEN_AREA,
    Rights::READ.union(Rights::MAP),
    Rights::READ.union(Rights::MAP).union(Rights::SHARE),
    Rights::READ.union(Rights::SHARE).union(Rights::RESIZE),
    Rights::READ.union(Rights::WRITE).union(Rights::MAP).union(Rights::EXECUTE),
];

/// Chooses what is done next.
#[must_use]
pub fn choose(world: &World, random: &mut Rand64) -> Operation {
    // Drawn whether it is used or not: what is chosen later does not depend on it.
    let (at, pages) = range(random);
    let (area, handle) = (below(random, AREAS), below(random, HANDLES));
    let named = world.handle(area, handle).is_some();
    let room = world.areas.iter().any(Option::is_none);
    match below(random, 100) {
        0..6 if room => Operation::Create { pages: 1 + below(random, AREA_PAGES / 2), ring: below(random, 3) == 0 },
        6..14 if room => Operation::CreateAndMap {
            at,
            pages: pages.min(AREA_PAGES),
            access: one_of(random, &ACCESSES).unwrap_or(READ_WRITE),
        },
        14..30 if named => {
            let size = world.areas.get(area).and_then(Option::as_ref).map_or(1, |area| area.pages).max(1);
            // A little beyond the end now and then.
            let offset = below(random, size);
            let most = size - offset + usize::from(below(random, 16) == 0);
            Operation::Map {
                area,
                handle,
                at,
                offset,
                pages: pages.min(most),
                access: one_of(random, &ACCESSES).unwrap_or(READ_WRITE),
            }
        }
        30..33 if named => Operation::MapElsewhere { area, handle, offset: below(random, 4), pages: pages.min(4) },
        33..39 => Operation::Unmap { at, pages },
        39..49 => Operation::Protect { at, pages, access: one_of(random, &PROTECTIONS).unwrap_or(READ) },
        49..55 => Operation::Advise { at, pages, advice: one_of(random, &Advice::ALL).unwrap_or(Advice::Needed) },
        55..59 if named => Operation::Resize { area, handle, pages: 1 + below(random, AREA_PAGES) },
        59..62 if named => {
            Operation::Duplicate { area, handle, rights: one_of(random, &RIGHTS).unwrap_or(Rights::NONE) }
        }
        62 if named => Operation::Inspect { area, handle },
        63..65 if named => Operation::Close { area, handle },
        65..72 => Operation::CopyOut { at, pages: pages.min(COPY_PAGES) },
        72..78 => Operation::CopyIn { at, pages: pages.min(COPY_PAGES), value: value(random) },
        78..81 => Operation::Look { at },
        81..90 => Operation::Write { at, pages, value: value(random) },
        _ => Operation::Read { at, pages },
    }
}
