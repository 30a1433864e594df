//! Where the windows of a process go for which its program does not choose: at addresses that nobody can know beforehand.
//!
//! ```text
//!   4 GiB                    512 GiB of the process                                   USER_END
//!   |....[   ]....|......|p...    :    .|......[guard|stack|guard]....|......[       ].......|
//!        large           '-- arena, 1 GiB                                     large
//!                        |....w...[ |w..w.|....]........w...|
//!                                   pocket, 2 MiB
//! ```
//!
//! | window | where | addresses | bits that are not known |
//! |---|---|---|---|
//! | to 256 KiB | at a page of the process's pocket, 2 MiB of its arena | 131,067 × 512 × (513 − pages) | 34 (34.99 for a page, 34.81 for 256 KiB) |
//! | to 2 MiB | at a page of its arena, one of the gibibytes between 4 GiB and the end | 131,067 × (2^18 + 1 − pages) | 34 (34.99) |
//! | 2 MiB and more | at a multiple of 2 MiB anywhere | 67,106,816 − what it takes of them | 25 (25.99; 1 TiB, the largest: 25.98) |
//! | onto device memory, 2 MiB and more | anywhere, as its frames lie in large leaves | as above, or 131,067 for 1 GiB and more | 25, or 16 |
//! | stack | at a page of those 512 GiB which the arena is in | 34,358,689,792 − 66 | 34 (34.99) |
//! | text, data | where the program was linked to: it is not position-independent | 1 | 0 |
//! | where the program has chosen | there | 1 | 0 |
//!
//! What is left for who knows one address of the process already:
//!
//! | known | another window to 256 KiB | to 2 MiB | large | stack |
//! |---|---|---|---|---|
//! | window to 256 KiB | 8 (8.99; the same pocket) | 17 | 25 | 26 |
//! | window to 2 MiB | 17 | 17 | 25 | 26 |
//! | large window | 34 | 34 | 25 | 34 |
//! | stack | 26 | 26 | 25 | – |
//!
//! Nothing is drawn below 4 GiB: an address that was cut to 32 bits faults. Where a pocket is full another one is drawn; an arena that is full, or a space without
//! room for an aligned window, does not refuse what would fit: the window then goes to a page anywhere (34 bits).
//!
//! Why pocket and arena: windows in a pocket share one leaf table, as they did at the lowest gaps, and the tables above it are the arena's and the stack's. So a process with a stack and small
//! windows has as many tables as with the lowest gaps; each further pocket costs one, and each large window at most two beside its leaf tables. Spread over all addresses, each window would cost three.
//!
//! A copy of a process has the windows of the original where they are. Those that it makes are drawn anew, in an arena and pockets of its own, of the same 512 GiB. The kernel's half is not drawn: its
//! windows lie in the order in which they were made, and the linear map and the kernel's image where they always lie.

mod tests;

use crate::memory::{Mutex, UserSpace};
use crate::random::{self, Generator};
use crate::weakness::{self, Defence};
use refkernel_abi::{AREA_SIZE_MAX, ErrorCode, PAGE_SIZE, USER_END};
use vmcore::addr::PageRange;
use vmcore::vm_space::{Place, SpaceError};

pub(crate) use tests::ALL as TESTS;

/// No window is drawn below.
const START: u64 = 1 << 32;
/// What a table of the level below the root shows, as a power of two: the stack and the arena are in one of these.
const REGION_SHIFT: u32 = 39;
/// The size of the arena, as a power of two.
const ARENA_SHIFT: u32 = 30;
/// The size of a pocket, and from which size on a window has the place that a large leaf needs, as a power of two.
const LARGE_SHIFT: u32 = 21;
/// The largest window that goes into a pocket, which has room for some.
const POCKET_WINDOW_MAX: u64 = 256 << 10;
/// How many gibibytes there are to choose from: whole ones.
const ARENAS: u64 = (USER_END - START) >> ARENA_SHIFT;

/// The bits of a window's address that are not known, rounded down: small, large, and of a stack.
const SMALL_BITS: u32 =
    (ARENAS * (1 << (ARENA_SHIFT - LARGE_SHIFT)) * (((1 << LARGE_SHIFT) - POCKET_WINDOW_MAX) / PAGE_SIZE)).ilog2();
const LARGE_BITS: u32 = ((USER_END - START - AREA_SIZE_MAX) >> LARGE_SHIFT).ilog2();
const STACK_BITS: u32 = ((USER_END - START) / PAGE_SIZE).ilog2();
const _: () = assert!(SMALL_BITS == 34 && LARGE_BITS == 25 && STACK_BITS == 34);

/// Says how much of an address is not known.
pub(crate) fn report() {
    crate::log!(
        "places: {SMALL_BITS} bits of a window, {LARGE_BITS} of one of 2 MiB or more, {STACK_BITS} of a stack; none of a program's text and data, and of the kernel's windows"
    );
}

/// What a process draws places with.
struct Drawn {
    generator: Generator,
    /// The 512 GiB that the arena is in.
    region: PageRange,
    arena: PageRange,
    pocket: PageRange,
}

impl Drawn {
    /// With an arena among these addresses, each of their gibibytes as likely.
    fn new(space: &UserSpace, number: u64, arenas: PageRange) -> Self {
        let mut generator = Generator::new(number);
        let arena = part(space, arenas, ARENA_SHIFT, generator.draw());
        let pocket = part(space, arena, LARGE_SHIFT, generator.draw());
        let start = arena.start().align_down(REGION_SHIFT).as_u64();
        // As far as windows are drawn there: all of it but at the ends.
        let region = space.range(start, 1 << REGION_SHIFT).ok().and_then(|region| region.intersection(arenas));
        Self { generator, region: region.unwrap_or(arenas), arena, pocket }
    }
}

/// One of the parts of this size that a range has from its start on. (The range itself if it is smaller, which it never is.)
fn part(space: &UserSpace, range: PageRange, shift: u32, entropy: u64) -> PageRange {
    let chosen = (u128::from(entropy) * u128::from(range.size() >> shift)) >> 64;
    space.range(range.start().as_u64() + ((chosen as u64) << shift), 1 << shift).unwrap_or(range)
}

/// What is drawn for a process.
pub(super) struct Placement {
    /// Its generator's number.
    number: u64,
    /// Where windows may be drawn.
    all: PageRange,
    /// Where its arena may be drawn.
    arenas: PageRange,
    /// From its first window on: many a copy makes none.
    drawn: Mutex<Option<Drawn>>,
}

impl Placement {
    /// For the windows of a space.
    pub(super) fn new(space: &UserSpace) -> Result<Self, SpaceError> {
        let all = space.range(START, USER_END - START)?;
        Ok(Self::within(all, all))
    }

    fn within(all: PageRange, arenas: PageRange) -> Self {
        Self { number: random::number(), all, arenas, drawn: Mutex::new(None) }
    }

    /// For a copy of the process, which draws others.
    pub(super) fn for_copy(&self) -> Self {
        let region = self.drawn.lock().as_ref().map(|drawn| drawn.region);
        Self::within(self.all, region.unwrap_or(self.arenas))
    }

    /// Does something with what is drawn.
    fn with<R>(&self, space: &UserSpace, what: impl FnOnce(&mut Drawn) -> R) -> R {
        what(self.drawn.lock().get_or_insert_with(|| Drawn::new(space, self.number, self.arenas)))
    }

    fn random(&self, space: &UserSpace, within: PageRange) -> Place {
        Place::Random { entropy: self.with(space, |drawn| drawn.generator.draw()), within: Some(within) }
    }

    /// Tries places for a window of so many bytes, until there is room: each with its alignment, as a power of two (0 for a page). A large window needs one if `aligned` says so.
    pub(super) fn in_turn<T>(
        &self,
        space: &UserSpace,
        length: u64,
        aligned: impl FnOnce() -> bool,
        mut attempt: impl FnMut(Place, u32) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorCode> {
        if weakness::lacks(Defence::RandomPlaces) {
            return attempt(Place::GapWithin(self.all), 0);
        }
        let mut tried = |within, alignment| attempt(self.random(space, within), alignment);
        let mut result = Err(ErrorCode::NoRoom);
        if length >> LARGE_SHIFT != 0 {
            result = tried(self.all, if aligned() { LARGE_SHIFT } else { 0 });
        } else {
            if length <= POCKET_WINDOW_MAX {
                result = tried(self.with(space, |drawn| drawn.pocket), 0);
                if let Err(ErrorCode::NoRoom) = result {
                    let another = self.with(space, |drawn| {
                        drawn.pocket = part(space, drawn.arena, LARGE_SHIFT, drawn.generator.draw());
                        drawn.pocket
                    });
                    result = tried(another, 0);
                }
            }
            if let Err(ErrorCode::NoRoom) = result {
                result = tried(self.with(space, |drawn| drawn.arena), 0);
            }
        }
        if let Err(ErrorCode::NoRoom) = result { tried(self.all, 0) } else { result }
    }

    /// For a stack of so many bytes.
    pub(super) fn for_stack(&self, space: &UserSpace, length: u64) -> Place {
        if weakness::lacks(Defence::RandomPlaces) {
            Place::At(USER_END - length)
        } else {
            self.random(space, self.with(space, |drawn| drawn.region))
        }
    }
}
