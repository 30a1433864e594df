//! What an address names, for who waits until a word in memory changes: a place in an area, and the word that is there.
//!
//! ```text
//!   space A   0x7000 ─┐
//!   space B   0x9000 ─┼──► area 12, byte 0x40      one place: whoever waits at the one is woken at the other
//!   space A   0xb000 ─┘
//!
//!   a clone of A, private window   0x7000 ──► area 31, byte 0x40      another place from the clone on, written to or not
//! ```
//!
//! A place says nothing of frames: it is the same before and after a page is copied on write, moved, promoted or evicted.

use crate::addr::VirtAddr;
use crate::frame::Reserve;
use crate::paging::{Access, Mmu};
use crate::platform::Platform;
use crate::vm_area::{Answer, AreaError, PageWait, Want};
use crate::vm_space::index::page_size;
use crate::vm_space::{Space, SpaceError};
use crate::word::{AtomicU32, Ordering};

/// A byte of an area, as a key: equal for whatever shows that byte, in whichever space and at whichever address, for as long as the area lives; and never again
/// another area's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AreaPlace {
    /// The number of the area: no other of the machine has it, also after this one is gone, before 2^32 more areas have been asked for theirs.
    pub area: u32,
    /// The offset in bytes; of a ring, that of the byte's first place.
    pub offset: u64,
}

/// A word of memory and what names it, both of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WordAt {
    /// Where it is.
    pub place: AreaPlace,
    /// What it is.
    pub value: u32,
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// What a readable address names: the key by which threads that wait at it are found (a futex), whatever space they are in. A window that is [copied](crate::vm_space::Inherit::Copy) into a
    /// clone keeps its places in the parent and has others in the clone.
    ///
    /// Cost: O(log n), two locks. Allocates nothing; no page comes into being, and none is asked for.
    ///
    /// # Errors
    /// Nothing is mapped there, or the window does not allow reading; a guard; past the end of its area; the window is unmapped and waits for its flush ([`SpaceError::Retry`]).
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::addr::VirtAddr;
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{MapRequest, Space};
    /// use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// let (one, two) = (Space::user(&kernel, ()).unwrap(), Space::user(&kernel, ()).unwrap());
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x3000 }, Default::default()).unwrap();
    /// let window = MapRequest::new(&area).access(Access::USER_DATA);
    /// one.map(&window.at(0x40_0000)).unwrap();
    /// two.map(&window.at(0x70_0000).offset(0x1000).size(0x1000)).unwrap();
    /// assert_eq!(one.place_at(VirtAddr::new(0x40_1040)), two.place_at(VirtAddr::new(0x70_0040)));
    /// # }
    /// ```
    pub fn place_at(&self, address: VirtAddr) -> Result<AreaPlace, SpaceError> {
        self.look(address, false).map(|word| word.place)
    }

    /// The word of 32 bits at an address that is a multiple of 4, with what names it: read in one piece, as a program's load would, at a moment at which the address showed that place. A page that
    /// does not exist reads as zero, and does not come into being.
    ///
    /// Cost: as [`place_at`](Self::place_at).
    ///
    /// # Errors
    /// As [`place_at`](Self::place_at); [`AreaError::Unaligned`] (with the address); a change of the page is still being flushed ([`SpaceError::Retry`]); a page of a paged area is not there
    /// ([`SpaceError::Awaits`]: it is asked for; call again when it has come), or its pager could not bring it; device memory, or a frame that the platform does not reach ([`AreaError::Unreachable`]); an untracked area,
    /// whose pages only its tables know ([`AreaError::Kind`]).
    pub fn word_at(&self, address: VirtAddr) -> Result<WordAt, SpaceError> {
        if address.as_u64() % 4 == 0 {
            self.look(address, true)
        } else {
            Err(AreaError::Unaligned(address.as_u64()).into())
        }
    }

    /// What an address names, and, if it is asked for, the word there.
    fn look(&self, address: VirtAddr, with_value: bool) -> Result<WordAt, SpaceError> {
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        loop {
            let need = {
                let index = self.inner().lock_index(platform);
                let window = self.window_for(&index, address, Access::READ)?;
                // SAFETY: windows in the index are alive while it is locked, and so are their areas.
                let area = unsafe { window.area.as_ref() };
                let page = window.area_page(address);
                let mut state = area.lock(platform);
                match area.first_refused(&state, page, 1) {
                    Some((_, Answer::Guard)) => return Err(SpaceError::Guard(address)),
                    // A place is what it is while a change is being flushed.
                    Some((_, Answer::Retry)) if !with_value => {}
                    Some((_, Answer::Retry)) => return Err(SpaceError::Retry(address)),
                    Some(_) => return Err(SpaceError::OutsideArea(address)),
                    None => {}
                }
                let within = address.as_u64() & (page_size::<P>() - 1);
                let place = AreaPlace {
                    area: state.number(platform.machine()),
                    offset: state.key(page) << P::PAGE_SHIFT | within,
                };
                if !with_value {
                    return Ok(WordAt { place, value: 0 });
                }
                match area.page(platform, &mut state, page, Want::Look, &mut reserve) {
                    Answer::Page { frame, .. } => {
                        // Of what is not RAM a load may be more than a look.
                        let start = platform.frame_meta(frame).map(|_| platform.frame_pointer(frame));
                        let Some(start) = start.filter(|start| !start.is_null()) else {
                            return Err(AreaError::Unreachable(frame).into());
                        };
                        // SAFETY: the frame is the area's page, which stays while the area is locked, and is reached for a whole page. The word lies in it, at
                        // a multiple of 4. Programs change it; they do so as the processor's loads and stores, which are atomic for such a word.
                        let word = unsafe { &*start.wrapping_add(within as usize).cast::<AtomicU32>() };
                        return Ok(WordAt { place, value: word.load(Ordering::SeqCst) });
                    }
                    Answer::Zero => return Ok(WordAt { place, value: 0 }),
                    Answer::Short(need) => need,
                    answer => return Err(refusal(answer, address)),
                }
            };
            reserve.top_up(&need)?;
        }
    }
}

/// Why there is no word to be read.
fn refusal(answer: Answer, address: VirtAddr) -> SpaceError {
    match answer {
        Answer::Retry | Answer::Replaced { .. } => SpaceError::Retry(address),
        Answer::Guard => SpaceError::Guard(address),
        Answer::Request(request) => SpaceError::Awaits { address, wait: PageWait::Request(request) },
        Answer::Wait(token) => SpaceError::Awaits { address, wait: PageWait::Wait(token) },
        Answer::Failed => SpaceError::Failed(address),
        Answer::Untracked => AreaError::Kind.into(),
        Answer::Full(error) => AreaError::OutOfAccount(error).into(),
        _ => SpaceError::OutsideArea(address),
    }
}
