//! What a fault maps beside the page that was wanted: what is resident there already. Whoever reads a clone or another's memory goes on to what is next to it.
//!
//! ```text
//!   leaf table   | 2 MiB of 4 KiB pages                                        |    where none was there, or more is to be done anyway: all of it
//!                |        |########|        |        |        |        |       |    beside other faults: the 64 pages that one node of a page tree holds
//! ```
//!
//! It takes nothing, since the pages are mapped by the table that maps the page, and about a nanosecond for each page: a fault that is spared costs
//! hundreds, and its trap.

use crate::addr::{Frame, PageRange};
use crate::paging::{Access, Around, Filler, Mmu};
use crate::platform::Platform;
use crate::vm_area::{AreaInner, AreaState, PageSlice, Seen};
use crate::vm_space::Space;
use crate::vm_space::fill::leaf_for;
use crate::vm_space::window::Window;

/// How many pages are mapped beside one while other faults go on, as a power of two.
pub(super) const NEAR_SHIFT: u32 = 6;

impl<P: Platform, M: Mmu> Space<P, M> {
    /// The pages around one, 2^`shift` of them aligned as such, that may be mapped with it: in the same window, without a guard. At most those of a leaf table.
    pub(super) fn around(
        &self,
        window: &Window<P, M>,
        area: &AreaInner<P>,
        page: PageRange,
        shift: u32,
    ) -> Option<Around> {
        let block = |shift: u32| {
            let shift = P::PAGE_SHIFT + shift;
            let block = PageRange::from_checked(page.start().align_down(shift), 1 << shift);
            let pages = block.intersection(window.range())?;
            self.first_guard(window, pages).is_none().then_some(pages)
        };
        let pages = block(shift).or_else(|| block(NEAR_SHIFT.min(shift)))?;
        let leaf = |writable| leaf_for(area, window.access, self.inner().global, Frame::new(0), writable);
        Some(Around { pages, leaves: [leaf(false), leaf(true)] })
    }
}

/// Maps what is resident of the pages around one.
#[inline]
pub(super) fn put_around<P: Platform, M: Mmu>(
    platform: &P,
    window: &Window<P, M>,
    state: &AreaState<P>,
    around: &Around,
    filler: &mut Filler<'_, M>,
) {
    let first = window.area_page(around.pages.start());
    let pages = (first, around.pages.pages(P::PAGE_SHIFT));
    let write = window.access.contains(Access::WRITE);
    state.pages_as_they_are(platform, pages, write, |seen| match seen {
        Seen::Many(index, pages) if pages.are_all_to_be_read() => {
            filler.put_all_to_be_read(index - first, pages.words(), PageSlice::frame);
        }
        Seen::Many(index, pages) => filler.put_all(index - first, pages.words(), |word| pages.page(word)),
        Seen::One(index, frame, writable) => filler.put_all(index - first, &[frame], |frame| Some((*frame, writable))),
    });
}
