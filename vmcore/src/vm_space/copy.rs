//! Bytes copied into a space, out of one, and from one to another, without a window of one's own: how a kernel reaches what a program's pointer names.
//!
//! ```text
//!   copy_from   from |··········sss|sssss|ss···········|          a page of each is held at a time; where either ends, the next
//!                                 ╲      ╲                         is held: every page once
//!               to       |········tt|tttttttt|···········|
//! ```
//!
//! The page is asked of the area, and not looked up in tables: what a window allows decides, and neither present entries nor missing ones count. So nothing has
//! to be loaded on this CPU, no table is made, and a page that is read and does not exist is not made either. Untracked memory is the exception, whose
//! pages nothing but the tables knows.
//!
//! Two spaces are never locked at once: the locks of the one are given up, with its page [held](crate::vm_area::HeldPage), before those of the other are taken, and no
//! lock is held while bytes are moved.

use core::fmt;
use core::mem;

use crate::addr::{RangeError, RangeFault, VirtAddr};
use crate::frame::{Need, Reserve};
use crate::paging::{Access, Flush, Mmu, Pending};
use crate::platform::Platform;
use crate::vm_area::{Answer, AreaError, AreaInner, HeldPage, PageWait};
use crate::vm_space::fault::Fault;
use crate::vm_space::index::{Index, page_size};
use crate::vm_space::window::Window;
use crate::vm_space::{Space, SpaceError};

/// How far a copy came, and why it went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyError {
    /// How many bytes were copied: the first ones. What lies behind them is as it was.
    pub done: usize,
    /// Why no more; it names the address in the space that refused.
    pub error: SpaceError,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the copy stopped after {} bytes: {}", self.done, self.error)
    }
}

impl core::error::Error for CopyError {}

/// Bytes that are moved at a time where neither side is the caller's: they are on the stack.
const BUFFER: usize = 512;

/// A page that is about to be read or written.
enum Held<'a, P: Platform> {
    Page(HeldPage<'a, P>),
    /// It does not exist: it reads as zero.
    Zero,
    /// Untracked: looked up anew for each piece.
    Untracked,
}

enum Attempt<'a, P: Platform> {
    Done(Held<'a, P>),
    Short(Need),
}

/// What the pages of one space take, and what others have to forget of them.
struct Work<P: Platform> {
    platform: P,
    reserve: Reserve<P>,
    pending: Pending<P>,
}

impl<P: Platform> Work<P> {
    fn new(platform: &P) -> Self {
        Self { platform: platform.clone(), reserve: Reserve::new(platform), pending: Pending::new() }
    }

    /// Completes what was replaced so far; false if nothing was.
    fn settle(&mut self) -> bool {
        let pending = mem::replace(&mut self.pending, Pending::new());
        // A page that is replaced leaves a gate.
        let replaced = pending.has_deferred();
        Flush::new(self.platform.clone(), pending, ()).complete();
        replaced
    }

    /// What comes of a copy that wrote.
    fn finish(mut self, result: Result<(), CopyError>) -> Result<Flush<P, ()>, CopyError> {
        match result {
            Ok(()) => Ok(Flush::new(self.platform, self.pending, ())),
            Err(error) => {
                // What was copied on write is true once it is flushed.
                self.settle();
                Err(error)
            }
        }
    }
}

impl<P: Platform, M: Mmu> Space<P, M> {
    /// Copies bytes from the space's `address` on into `into`: what a program would read there. Pages that do not exist read as zero, and do not come into being; growing windows
    /// grow, as they do for a program.
    ///
    /// Cost: O(bytes + pages × log n), two locks a page. Allocates nothing, except to ask for pages of a paged area.
    ///
    /// # Errors
    /// How many bytes were copied before the address in [`error`](CopyError::error), and: nothing is mapped there; the window does not allow reading; a guard, or past the end of its
    /// area; a change there is still being flushed ([`SpaceError::Retry`]); a page of a paged area is not there ([`SpaceError::Awaits`]: it is asked for; go on from there when it has come), or its pager could not
    /// bring it; the platform does not reach the frame (device memory, [`AreaError::Unreachable`]).
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::addr::VirtAddr;
    /// use vmcore::paging::{Access, Mmu};
    /// use vmcore::vm_area::{Area, AreaKind};
    /// use vmcore::vm_space::{CopyError, MapRequest, Space, SpaceError};
    /// use vmcore::{Platform, sim::Sim};
    /// # let sim = Sim::builder().build();
    /// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    /// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
    /// # let space = Space::user(&kernel, Default::default()).unwrap();
    /// let area = Area::new(&sim, AreaKind::Open { size: 0x2000 }, Default::default()).unwrap();
    /// space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA)).unwrap();
    /// space.write_bytes(VirtAddr::new(0x40_0ffe), b"path").unwrap().complete();
    /// let mut bytes = [0xff; 6];
    /// space.read_bytes(VirtAddr::new(0x40_0ffd), &mut bytes).unwrap();
    /// assert_eq!(&bytes, b"\0path\0");
    ///
    /// let beyond = SpaceError::NoWindow(VirtAddr::new(0x40_2000));
    /// let stopped = space.read_bytes(VirtAddr::new(0x40_1ffe), &mut bytes).unwrap_err();
    /// assert_eq!(stopped, CopyError { done: 2, error: beyond });
    /// # }
    /// ```
    pub fn read_bytes(&self, address: VirtAddr, into: &mut [u8]) -> Result<(), CopyError> {
        let mut work = Work::new(self.platform());
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_page(address, done, rest, &mut work) {
                Ok(count) => done += count,
                Err(error) => return Err(CopyError { done, error }),
            }
        }
        Ok(())
    }

    /// Reads what one page has of the bytes.
    fn read_page(
        &self,
        address: VirtAddr,
        done: usize,
        rest: &mut [u8],
        work: &mut Work<P>,
    ) -> Result<usize, SpaceError> {
        let at = advanced(address, done)?;
        let count = rest.len().min(left_in_page::<P>(at));
        let held = self.hold(at, Access::READ, work)?;
        self.read_piece(&held, at, rest.get_mut(..count).unwrap_or_default())?;
        Ok(count)
    }

    /// Copies `bytes` to the space's `address` and on: what a program would write there. Pages that do not exist come into being, those that a clone or a snapshot has as
    /// well are copied first, and all count as written to; growing windows grow. What is written is seen through every window once the flush is complete (it is
    /// empty unless pages were copied, or had shown the zero frame).
    ///
    /// Cost: O(bytes + pages × log n), two locks a page; takes a frame for each page that is missing or shared, and nodes of its tree.
    ///
    /// # Errors
    /// As for [`read_bytes`](Self::read_bytes), with the right to write; and a full account, out of frames. What was written stays, and its flush was completed.
    pub fn write_bytes(&self, address: VirtAddr, bytes: &[u8]) -> Result<Flush<P, ()>, CopyError> {
        let mut work = Work::new(self.platform());
        let mut done = 0;
        let mut result = Ok(());
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.write_page(address, done, rest, &mut work) {
                Ok(count) => done += count,
                Err(error) => {
                    result = Err(CopyError { done, error });
                    break;
                }
            }
        }
        work.finish(result)
    }

    /// Writes what of the bytes goes to one page; gives how many that were.
    fn write_page(&self, address: VirtAddr, done: usize, rest: &[u8], work: &mut Work<P>) -> Result<usize, SpaceError> {
        let at = advanced(address, done)?;
        let count = rest.len().min(left_in_page::<P>(at));
        let piece = rest.get(..count).unwrap_or_default();
        loop {
            let held = self.hold(at, Access::WRITE, work)?;
            if self.write_piece(&held, at, piece, work)? {
                return Ok(count);
            }
        }
    }

    /// Copies `size` bytes from another space (or this one), whatever its format, to this space's `address` and on: as if they were [read](Self::read_bytes) there and
    /// [written](Self::write_bytes) here. Where the two ranges show the same memory and overlap, bytes may be read before or after they are written.
    ///
    /// Cost: O(bytes + pages × log n), two locks a page of either space, which are never locked at once; takes what `write_bytes` does.
    ///
    /// # Errors
    /// As for the two; the address in the error is one of `from` where [`SpaceError::Denied`] says that reading was wanted, or what it names lies in that range. What was written stays, and
    /// its flush was completed.
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
    /// for space in [&one, &two] {
    ///     let area = Area::new(&sim, AreaKind::Open { size: 0x3000 }, Default::default()).unwrap();
    ///     space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA)).unwrap();
    /// }
    /// one.write_bytes(VirtAddr::new(0x40_0ffc), b"message").unwrap().complete();
    /// two.copy_from(VirtAddr::new(0x40_1ffe), &one, VirtAddr::new(0x40_0ffc), 7).unwrap().complete();
    /// let mut bytes = [0; 7];
    /// two.read_bytes(VirtAddr::new(0x40_1ffe), &mut bytes).unwrap();
    /// assert_eq!(&bytes, b"message");
    /// # }
    /// ```
    pub fn copy_from<N: Mmu>(
        &self,
        address: VirtAddr,
        from: &Space<P, N>,
        from_address: VirtAddr,
        size: usize,
    ) -> Result<Flush<P, ()>, CopyError> {
        let (mut reading, mut writing) = (Work::new(from.platform()), Work::new(self.platform()));
        let (mut source, mut target) = (None, None);
        let mut buffer = [0; BUFFER];
        let mut done = 0;
        let mut result = Ok(());
        while done < size {
            let (places, left) = ((advanced(from_address, done), advanced(address, done)), size - done);
            let bytes = buffer.get_mut(..left.min(BUFFER)).unwrap_or_default();
            match self.copy_piece(from, places, (&mut source, &mut target), (&mut reading, &mut writing), bytes) {
                Ok(count) => done += count,
                Err(error) => {
                    result = Err(CopyError { done, error });
                    break;
                }
            }
        }
        drop((source, target));
        writing.finish(result)
    }

    /// Copies, through a buffer, what one page has of the bytes and one page takes of them; gives how many that were.
    fn copy_piece<'a, N: Mmu>(
        &'a self,
        from: &'a Space<P, N>,
        (read_at, write_at): (Result<VirtAddr, SpaceError>, Result<VirtAddr, SpaceError>),
        (source, target): (&mut Option<Held<'a, P>>, &mut Option<Held<'a, P>>),
        (reading, writing): (&mut Work<P>, &mut Work<P>),
        buffer: &mut [u8],
    ) -> Result<usize, SpaceError> {
        let (read_at, write_at) = (read_at?, write_at?);
        let page = match source.take() {
            Some(page) => page,
            None => match from.hold(read_at, Access::READ, reading) {
                // It may be one that was copied on write for this copy.
                Err(SpaceError::Retry(_)) if writing.settle() => from.hold(read_at, Access::READ, reading)?,
                page => page?,
            },
        };
        let page = source.insert(page);
        let (read_left, write_left) = (left_in_page::<P>(read_at), left_in_page::<P>(write_at));
        let count = read_left.min(write_left).min(buffer.len());
        let bytes = buffer.get_mut(..count).unwrap_or_default();
        from.read_piece(page, read_at, bytes)?;
        let page = match target.take() {
            Some(page) => page,
            None => self.hold(write_at, Access::WRITE, writing)?,
        };
        if !self.write_piece(&page, write_at, bytes, writing)? {
            return Ok(0);
        }
        if count < write_left {
            *target = Some(page);
        }
        if count == read_left {
            *source = None;
        }
        Ok(count)
    }

    /// Holds the page at an address, for reading or writing.
    fn hold(&self, address: VirtAddr, access: Access, work: &mut Work<P>) -> Result<Held<'_, P>, SpaceError> {
        loop {
            match self.try_hold(address, access, work) {
                Ok(Attempt::Done(held)) => return Ok(held),
                Ok(Attempt::Short(need)) => work.reserve.top_up(&need)?,
                // A page that this copy has replaced, and comes to once more.
                Err(SpaceError::Retry(_)) if work.settle() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn try_hold(&self, address: VirtAddr, access: Access, work: &mut Work<P>) -> Result<Attempt<'_, P>, SpaceError> {
        let mut index = self.inner().lock_index(self.platform());
        match self.try_hold_in(&index, address, access, work) {
            Err(SpaceError::NoWindow(_)) => {}
            outcome => return outcome,
        }
        let growth = self.grow(&mut index, address)?;
        let outcome = self.try_hold_in(&index, address, access, work);
        if !matches!(outcome, Ok(Attempt::Done(_))) {
            self.ungrow(&mut index, &growth);
        }
        outcome
    }

    fn try_hold_in(
        &self,
        index: &Index<P, Window<P, M>>,
        address: VirtAddr,
        access: Access,
        work: &mut Work<P>,
    ) -> Result<Attempt<'_, P>, SpaceError> {
        let platform = self.platform();
        let window = self.window_for(index, address, access)?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        let area = unsafe { window.area.as_ref() };
        let page = window.area_page(address);
        let mut state = area.lock(platform);
        match area.first_refused(&state, page, 1) {
            Some((_, Answer::Guard)) => return Err(SpaceError::Guard(address)),
            Some((_, Answer::Retry)) => return Err(SpaceError::Retry(address)),
            Some(_) => return Err(SpaceError::OutsideArea(address)),
            None => {}
        }
        let wanted = (page, access.contains(Access::WRITE));
        // SAFETY: the area is alive, and locked.
        let held =
            unsafe { AreaInner::hold(platform, window.area, &mut state, wanted, &mut work.reserve, &mut work.pending) };
        Err(match held {
            Ok(Some(page)) => return Ok(Attempt::Done(Held::Page(page))),
            Ok(None) => return Ok(Attempt::Done(Held::Zero)),
            Err(Answer::Untracked) => return Ok(Attempt::Done(Held::Untracked)),
            Err(Answer::Short(need)) => return Ok(Attempt::Short(need)),
            Err(Answer::Retry) => SpaceError::Retry(address),
            Err(Answer::Full(error)) => AreaError::OutOfAccount(error).into(),
            Err(Answer::Guard) => SpaceError::Guard(address),
            Err(Answer::Request(request)) => SpaceError::Awaits { address, wait: PageWait::Request(request) },
            Err(Answer::Wait(token)) => SpaceError::Awaits { address, wait: PageWait::Wait(token) },
            Err(Answer::Failed) => SpaceError::Failed(address),
            Err(_) => SpaceError::OutsideArea(address),
        })
    }

    /// The window at an address, if it allows the access.
    pub(super) fn window_for<'a>(
        &self,
        index: &'a Index<P, Window<P, M>>,
        address: VirtAddr,
        access: Access,
    ) -> Result<&'a Window<P, M>, SpaceError> {
        let window = self.usable_window(index, address)?;
        if !window.access.contains(access) {
            return Err(SpaceError::Denied { address, wanted: access, allowed: window.access });
        }
        Ok(window)
    }

    /// Reads bytes of a page that is held, from `address` on.
    fn read_piece(&self, held: &Held<'_, P>, address: VirtAddr, into: &mut [u8]) -> Result<(), SpaceError> {
        match held {
            Held::Zero => {
                into.fill(0);
                Ok(())
            }
            Held::Page(page) => {
                let frame = page.frame();
                // SAFETY: the frame is the area's page, which is held, or one of a fixed run, whose maker vouched for what its windows do with it.
                let copied = unsafe { self.platform().read_frame(frame, within_page::<P>(address), into) };
                if copied < into.len() { Err(AreaError::Unreachable(frame).into()) } else { Ok(()) }
            }
            Held::Untracked => {
                let mut done = 0;
                for piece in into.chunks_mut(BUFFER) {
                    self.read_untracked(advanced(address, done)?, piece)?;
                    done += piece.len();
                }
                Ok(())
            }
        }
    }

    /// Writes bytes to a page that is held, from `address` on. False if the page is to be held and written anew.
    fn write_piece(
        &self,
        held: &Held<'_, P>,
        address: VirtAddr,
        bytes: &[u8],
        work: &mut Work<P>,
    ) -> Result<bool, SpaceError> {
        match held {
            // For writing there is a page.
            Held::Zero => Ok(false),
            Held::Page(page) => {
                let frame = page.frame();
                // SAFETY: as for reading.
                let copied = unsafe { self.platform().write_frame(frame, within_page::<P>(address), bytes) };
                let stays = page.note_written(&mut work.reserve);
                if copied < bytes.len() { Err(AreaError::Unreachable(frame).into()) } else { Ok(stays) }
            }
            Held::Untracked => {
                let mut done = 0;
                for piece in bytes.chunks(BUFFER) {
                    self.write_untracked(advanced(address, done)?, piece)?;
                    done += piece.len();
                }
                Ok(true)
            }
        }
    }

    /// Reads bytes of an untracked page: through a buffer, since they are reached with the tables locked and the caller's may fault.
    fn read_untracked(&self, address: VirtAddr, into: &mut [u8]) -> Result<(), SpaceError> {
        let mut buffer = [0; BUFFER];
        let bytes = buffer.get_mut(..into.len()).unwrap_or_default();
        // Where there is no page, one would be zero.
        self.with_untracked(address, Access::READ, |platform, frame| {
            // SAFETY: the frame is shown by tables that are locked, so it is not freed meanwhile.
            unsafe { platform.read_frame(frame, within_page::<P>(address), bytes) == bytes.len() }
        })?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes bytes to an untracked page, which comes into being if there is none.
    fn write_untracked(&self, address: VirtAddr, from: &[u8]) -> Result<(), SpaceError> {
        let mut buffer = [0; BUFFER];
        let bytes = buffer.get_mut(..from.len()).unwrap_or_default();
        bytes.copy_from_slice(from);
        loop {
            let written = self.with_untracked(address, Access::WRITE, |platform, frame| {
                // SAFETY: as for reading; the page is a program's or the kernel's to write.
                unsafe { platform.write_frame(frame, within_page::<P>(address), bytes) == bytes.len() }
            })?;
            if written {
                return Ok(());
            }
            self.fault(Fault::new(address.as_u64(), Access::WRITE))?.complete();
        }
    }

    /// Shows `each` the frame that holds an untracked page, with the tables locked. False if there is none.
    fn with_untracked(
        &self,
        address: VirtAddr,
        access: Access,
        each: impl FnOnce(&P, crate::addr::Frame) -> bool,
    ) -> Result<bool, SpaceError> {
        let (platform, inner) = (self.platform(), self.inner());
        let index = inner.lock_index(platform);
        let window = self.window_for(&index, address, access)?;
        // SAFETY: windows in the index are alive while it is locked, and so are their areas.
        if !unsafe { window.area.as_ref() }.is_untracked() {
            // Another is mapped there since.
            return Err(SpaceError::Retry(address));
        }
        let tables = inner.tables.lock(platform);
        let Some((_, leaf)) = tables.translate(platform, address) else { return Ok(false) };
        let frame = leaf.frame;
        if each(platform, frame) { Ok(true) } else { Err(AreaError::Unreachable(frame).into()) }
    }
}

/// The address so many bytes further on.
fn advanced(address: VirtAddr, bytes: usize) -> Result<VirtAddr, SpaceError> {
    let overflow = RangeError { fault: RangeFault::Overflow, start: address.as_u64(), size: bytes as u64 };
    address.checked_add(bytes as u64).ok_or(SpaceError::Range(overflow))
}

/// How far into its page an address lies.
fn within_page<P: Platform>(address: VirtAddr) -> usize {
    (address.as_u64() & (page_size::<P>() - 1)) as usize
}

/// How many bytes its page has from an address on.
fn left_in_page<P: Platform>(address: VirtAddr) -> usize {
    page_size::<P>() as usize - within_page::<P>(address)
}
