//! Requests made ahead of need, and answers.

use super::{PageBuffer, PageRequest, RequestToken};
use crate::frame::Reserve;
use crate::platform::Platform;
use crate::vm_area::inner::Answer;
use crate::vm_area::{Area, AreaError, Page, PageWait, Want};

impl<P: Platform> Area<P> {
    /// Asks for pages before anybody needs them: for the first run of absent ones among those that the range touches, 1024 at the most. `None` if none is absent.
    /// The request is the caller's to answer, as if a fault had given it.
    ///
    /// Cost: O(pages); takes nodes of the page tree.
    ///
    /// # Errors
    /// The area is not paged; no right to supply; out of frames. Nothing was changed.
    pub fn request(&self, offset: u64, size: u64) -> Result<Option<PageRequest>, AreaError> {
        self.require_pager()?;
        let key = self.inner().key().ok_or(AreaError::Kind)?;
        let platform = self.platform();
        let (first, end) = Self::pages_of(offset, size);
        let mut reserve = Reserve::new(platform);
        loop {
            let need = {
                let mut state = self.inner().lock(platform);
                let end = end.min(state.pages());
                let Some(absent) = state.tree.next_absent(first).filter(|absent| *absent < end) else {
                    return Ok(None);
                };
                let wanted =
                    PageRequest { key, offset: absent, size: end - absent, token: RequestToken(0), write: false };
                match state.ask(platform, wanted, &mut reserve) {
                    Answer::Short(need) => need,
                    Answer::Request(request) => return Ok(Some(request)),
                    _ => return Ok(None),
                }
            };
            reserve.top_up(&need)?;
        }
    }

    /// Asks for the first of these pages that is not there, if one is not. How the contents of a paged area, or of a private
    /// view of one, are reached through its handle.
    pub(in crate::vm_area) fn ask_for_missing(&self, first: u64, count: u64) -> Result<(), AreaError> {
        if self.inner().below().is_none() && !self.inner().is_paged() {
            return Ok(());
        }
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        loop {
            let need = {
                let mut state = self.inner().lock(platform);
                let Some(missing) = state.first_missing(first, count) else { return Ok(()) };
                let need = state.need_to_ask_at_most(count);
                if reserve.covers(&need) {
                    match self.inner().page(platform, &mut state, missing, Want::Read, &mut reserve) {
                        Answer::Request(request) => {
                            let request = state.widen(platform, request, first + count, &mut reserve);
                            return Err(AreaError::Awaits(PageWait::Request(request)));
                        }
                        Answer::Wait(token) => return Err(AreaError::Awaits(PageWait::Wait(token))),
                        Answer::Failed => return Err(AreaError::Failed(missing << P::PAGE_SHIFT)),
                        Answer::Short(need) => need,
                        _ => return Ok(()),
                    }
                } else {
                    need
                }
            };
            reserve.top_up(&need)?;
        }
    }

    /// Answers a request with bytes: from byte `offset` of the area on, copied into fresh frames; behind their end the last page is zero. Pages that
    /// still wait for this request are clean then; others are left as they are. Gives how many pages the answer was for. Wake who waits for the token.
    ///
    /// Cost: O(bytes); takes a frame for each page.
    ///
    /// # Errors
    /// No page there waits for this request any more ([`AreaError::Stale`]); an offset that is no page's; the area is not paged; no right to
    /// supply; frames that the platform does not reach; out of frames. Nothing was changed.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use vmcore::sim::Sim;
    /// use vmcore::vm_area::{Area, AreaError, AreaKind, PageWait};
    /// let sim = Sim::builder().build();
    /// let area = Area::new(&sim, AreaKind::Paged { size: 0x4000, key: 7 }, Default::default()).unwrap();
    /// let mut bytes = [0; 5];
    /// let Err(AreaError::Awaits(PageWait::Request(request))) = area.read(0x1000, &mut bytes) else { panic!() };
    /// assert_eq!((request.key, request.offset, request.size), (7, 0x1000, 0x1000));
    /// assert_eq!(area.supply(request.token, request.offset, b"hello"), Ok(1));
    /// area.read(0x1000, &mut bytes).unwrap();
    /// assert_eq!(&bytes, b"hello");
    /// assert_eq!(area.supply(request.token, request.offset, b"again"), Err(AreaError::Stale(request.token)));
    /// # }
    /// ```
    pub fn supply(&self, token: RequestToken, offset: u64, bytes: &[u8]) -> Result<u64, AreaError> {
        self.require_pager()?;
        let (first, end) = self.answered(token, offset, bytes.len() as u64)?;
        let mut pages = PageBuffer::new(self.platform(), end - first)?;
        pages.write(0, bytes)?;
        self.supply_pages(token, offset, pages)
    }

    /// Answers a request with pages that were filled by whom the embedder asked, a device for example: from byte `offset` of the area on.
    /// Otherwise as [`supply`](Self::supply); frames that were not needed are freed. O(pages), no allocation.
    ///
    /// # Errors
    /// As for [`supply`](Self::supply); and the pages are another machine's ([`AreaError::Kind`]).
    pub fn supply_pages(&self, token: RequestToken, offset: u64, mut pages: PageBuffer<P>) -> Result<u64, AreaError> {
        self.require_pager()?;
        let platform = self.platform();
        if !core::ptr::eq(platform.machine(), pages.platform().machine()) {
            return Err(AreaError::Kind);
        }
        let (first, end) = self.answered(token, offset, pages.size())?;
        let mut reserve = Reserve::new(platform);
        // Frames whose page waits no more; freed at the end, with no lock held.
        let mut left = PageBuffer::empty(platform);
        let mut supplied = 0;
        {
            let mut state = self.inner().lock(platform);
            for index in first..end {
                let Some(frame) = pages.pop() else { break };
                let waits = state.tree.get(index).and_then(Page::token) == Some(token.0);
                if waits && state.replace(platform, index, Page::new(frame), &mut reserve) {
                    supplied += 1;
                } else {
                    left.push(frame);
                }
            }
            state.add_frameless(0, supplied);
        }
        drop(left);
        if supplied == 0 { Err(AreaError::Stale(token)) } else { Ok(supplied) }
    }

    /// Answers a request: the pages that the range touches, as far as they wait for it, cannot be brought. Whoever wants one of them is told so, until
    /// [`retry`](Self::retry). Gives how many pages. Wake who waits for the token. O(pages), no allocation.
    ///
    /// # Errors
    /// No page there waits for this request any more; the area is not paged; no right to supply.
    pub fn fail(&self, token: RequestToken, offset: u64, size: u64) -> Result<u64, AreaError> {
        self.require_pager()?;
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut state = self.inner().lock(platform);
        let (mut at, end) = Self::pages_of(offset, size);
        let mut count = 0;
        while let Some((index, page)) = state.tree.next_present(at).filter(|(index, _)| *index < end) {
            at = index + 1;
            if page.token() == Some(token.0) && state.replace(platform, index, Page::failed(), &mut reserve) {
                count += 1;
            }
        }
        if count == 0 { Err(AreaError::Stale(token)) } else { Ok(count) }
    }

    /// Answers a request: the pages that the range touches, as far as they wait for it, are not brought now; whoever wants one of them asks anew. Gives
    /// how many pages. Wake who waits for the token. O(pages), no allocation.
    ///
    /// # Errors
    /// No page there waits for this request any more; the area is not paged; no right to supply.
    pub fn cancel(&self, token: RequestToken, offset: u64, size: u64) -> Result<u64, AreaError> {
        let count = self.make_absent(offset, size, |page| page.token() == Some(token.0))?;
        if count == 0 { Err(AreaError::Stale(token)) } else { Ok(count) }
    }

    /// Forgets that pages could not be brought, among those that the range touches: whoever wants one of them asks anew. Gives how many pages.
    /// O(pages), no allocation.
    ///
    /// # Errors
    /// The area is not paged; no right to supply.
    pub fn retry(&self, offset: u64, size: u64) -> Result<u64, AreaError> {
        self.make_absent(offset, size, |page| page.token().is_none() && page.held_frame().is_none())
    }

    /// Takes words without a frame out of the tree.
    fn make_absent(&self, offset: u64, size: u64, which: impl Fn(Page) -> bool) -> Result<u64, AreaError> {
        self.require_pager()?;
        let platform = self.platform();
        let mut reserve = Reserve::new(platform);
        let mut state = self.inner().lock(platform);
        let (mut at, end) = Self::pages_of(offset, size);
        let mut count = 0;
        while let Some((index, page)) = state.tree.next_present(at).filter(|(index, _)| *index < end) {
            at = index + 1;
            if which(page) && state.take_out(platform, index, &mut reserve).is_some() {
                count += 1;
            }
        }
        state.add_frameless(0, count);
        Ok(count)
    }

    /// The pages that an answer is for, some of which wait for it.
    fn answered(&self, token: RequestToken, offset: u64, size: u64) -> Result<(u64, u64), AreaError> {
        if offset & ((1 << P::PAGE_SHIFT) - 1) != 0 {
            return Err(AreaError::Unaligned(offset));
        }
        let (first, end) = Self::pages_of(offset, size);
        let state = self.inner().lock(self.platform());
        let mut pages = state.tree.range(first..end);
        if pages.any(|(_, page)| page.token() == Some(token.0)) {
            Ok((first, end))
        } else {
            Err(AreaError::Stale(token))
        }
    }
}
