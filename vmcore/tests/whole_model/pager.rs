//! The pager: it answers requests at any later moment and in any order, writes back, and evicts.

use vmcore::paging::Access;
use vmcore::sim::SimFormat;
use vmcore::vm_area::{PageRequest, PageWait, RequestToken};

use super::model::{Effect, PAGE, PagedPage, Stale, WORD_AT, Words};
use super::operation::Part;
use super::refusal::{Expected, Refusal, take_wait};
use super::world::{Outcome, World, WritingBack, bytes_of};

impl<M: SimFormat> World<M> {
    /// What the pager has of a page.
    fn file(&self, content: usize, page: u64) -> Words {
        let fresh = [1, 2, 3].map(|word| (content as u64) << 40 | page << 32 | word);
        self.files.get(&(content, page)).copied().unwrap_or(fresh)
    }

    /// A slot that has a handle of an area.
    fn handle_of(&self, content: usize) -> Option<usize> {
        self.areas.iter().position(|area| area.as_ref().is_some_and(|(_, number)| *number == content))
    }

    /// A request came out, for absent pages from `first` to `end` as far as they are absent.
    pub(crate) fn note_request(
        &mut self,
        content: usize,
        request: PageRequest,
        pages: std::ops::Range<u64>,
        write: bool,
    ) {
        let what = &mut self.model.contents[content];
        let run: Vec<u64> = pages.take_while(|page| *page < what.pages && !what.paged.contains_key(page)).collect();
        let said = (request.offset, request.size, request.write, request.key);
        assert_eq!(said, (run[0] * PAGE, run.len() as u64 * PAGE, write, key_of(what.kind)), "{request:?}");
        let is_new = !self.requests.iter().any(|(of, before)| *of == content && before.token == request.token);
        assert!(is_new, "{request:?} has an old token");
        for page in run {
            what.paged.insert(page, PagedPage::Requested(request.token.0));
        }
        self.requests.push((content, request));
    }

    /// What an operation said that has to wait for a page.
    pub(crate) fn note_awaited(&mut self, content: usize, page: u64, end: u64, write: bool) {
        match (take_wait().expect("it waits"), self.model.contents[content].paged.get(&page)) {
            (PageWait::Request(request), None) => self.note_request(content, request, page..end, write),
            (PageWait::Wait(token), Some(PagedPage::Requested(asked))) => assert_eq!(token.0, *asked),
            other => panic!("page {page} waits for {other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, part: Part) {
        let Some((slot, number)) = self.pick_area(part.area) else { return };
        let mut expected = Expected::default();
        if !self.model.contents[number].is_paged() {
            expected.must([Refusal::Kind]);
        }
        let result = self.call(|world| world.area(slot).request(part.page * PAGE, part.count * PAGE));
        if !expected.check(&result) {
            return;
        }
        let content = &self.model.contents[number];
        let end = (part.page + part.count).min(content.pages);
        let first = (part.page..end).find(|page| !content.paged.contains_key(page));
        match (result.unwrap(), first) {
            (None, None) => {}
            (Some(request), Some(first)) => self.note_request(number, request, first..end, false),
            other => panic!("{other:?}"),
        }
    }

    /// A request, a handle of its area, and the pages of a part of it that still wait.
    fn pick_request(&self, which: usize, page: u64, count: u64) -> Option<(usize, usize, RequestToken, u64, Vec<u64>)> {
        let (content, request) = *self.requests.get(which % self.requests.len().max(1))?;
        let (slot, first) = (self.handle_of(content)?, request.offset / PAGE + page);
        let asked = PagedPage::Requested(request.token.0);
        let waits = |page: &u64| self.model.contents[content].paged.get(page) == Some(&asked);
        Some((slot, content, request.token, first, (first..first + count).filter(waits).collect()))
    }

    fn check_answer(waiting: &[u64], result: &Result<u64, Refusal>) -> bool {
        let mut expected = Expected::default();
        if waiting.is_empty() {
            expected.must([Refusal::Stale]);
        }
        let done = expected.check(result);
        assert!(!done || *result == Ok(waiting.len() as u64));
        done
    }

    pub(crate) fn supply(&mut self, which: usize, page: u64, count: u64) {
        // The oldest are answered soon, so that the others meet pages that are there.
        let page = if which < 6 { 0 } else { page };
        let Some((slot, content, token, first, waiting)) = self.pick_request(which, page, count) else { return };
        let pages = first..first + count;
        let mut bytes: Vec<u8> = pages.flat_map(|page| bytes_of(self.file(content, page))).collect();
        // What is short is zero; the last word of a page ends it.
        let short = if which == 7 { PAGE as usize - WORD_AT[1] as usize - 8 } else { 0 };
        bytes.truncate(bytes.len() - short);
        let result = self.call(|world| world.area(slot).supply(token, first * PAGE, &bytes));
        if Self::check_answer(&waiting, &result) {
            for page in waiting {
                let mut words = self.file(content, page);
                if short != 0 && page == first + count - 1 {
                    words[2] = 0;
                    self.files.insert((content, page), words);
                }
                let what = &mut self.model.contents[content];
                what.words.insert(page, words);
                what.paged.insert(page, PagedPage::Here { dirty: false, writing: false, evicting: false });
            }
        }
    }

    pub(crate) fn fail(&mut self, which: usize, cancel: bool) {
        let Some((slot, content, token, first, waiting)) = self.pick_request(which, 0, 2) else { return };
        let size = 2 * PAGE;
        let result = self.call(|world| {
            let area = world.area(slot);
            if cancel { area.cancel(token, first * PAGE, size) } else { area.fail(token, first * PAGE, size) }
        });
        if Self::check_answer(&waiting, &result) {
            for page in waiting {
                let pages = &mut self.model.contents[content].paged;
                if cancel {
                    pages.remove(&page)
                } else {
                    pages.insert(page, PagedPage::Failed)
                };
            }
        }
    }

    pub(crate) fn retry(&mut self, part: Part) {
        let Some((slot, number)) = self.pick_area(part.area) else { return };
        if !self.model.contents[number].is_paged() {
            return;
        }
        let pages = &mut self.model.contents[number].paged;
        let before = pages.len();
        let range = part.page..part.page + part.count;
        pages.retain(|page, state| !range.contains(page) || *state != PagedPage::Failed);
        let count = (before - pages.len()) as u64;
        assert_eq!(self.area(slot).retry(part.page * PAGE, part.count * PAGE), Ok(count));
    }

    pub(crate) fn begin_write_back(&mut self, part: Part) {
        let Some((slot, number)) = self.pick_area(part.area) else { return };
        if !self.model.contents[number].is_paged() {
            return;
        }
        let result = self.call(|world| world.area(slot).begin_write_back(part.page * PAGE, part.count * PAGE));
        let content = &mut self.model.contents[number];
        let takes =
            |page: &u64| matches!(content.paged.get(page), Some(PagedPage::Here { dirty: true, writing: false, .. }));
        let end = (part.page + part.count).min(content.pages);
        let Some(first) = (part.page..end).find(takes) else { return assert!(result.unwrap().is_none()) };
        let run: Vec<u64> = (first..end).take_while(takes).collect();
        let mut effect = Effect::default();
        for page in run {
            content.paged.insert(page, PagedPage::Here { dirty: false, writing: true, evicting: false });
            effect.writing.push((number, page));
        }
        let flush = result.unwrap().expect("there are dirty pages");
        self.finish(flush, effect, |value| Outcome::WriteBack(WritingBack { content: number, first, value }));
    }

    pub(crate) fn end_write_back(&mut self, which: usize, written: bool) {
        if self.write_backs.is_empty() {
            return;
        }
        let WritingBack { content, first, value } = self.write_backs.swap_remove(which % self.write_backs.len());
        assert_eq!(value.offset(), first * PAGE);
        let Some(slot) = self.handle_of(content) else { return };
        for (page, frame) in (first..).zip(value.frames()) {
            // What was cut off meanwhile is another page, or none.
            if self.area(slot).frame_at(page * PAGE) != Some(frame) {
                continue;
            }
            let (words, what) = (self.model.words(content, page), &mut self.model.contents[content]);
            let mut bytes = vec![1; PAGE as usize];
            value.read((page - first) * PAGE, &mut bytes).unwrap();
            assert!(bytes == bytes_of(words), "what is written back is not what is in page {page}");
            if written {
                self.files.insert((content, page), words);
            }
            if let Some(PagedPage::Here { dirty, writing, .. }) = what.paged.get_mut(&page) {
                *writing = false;
                *dirty |= !written;
            }
        }
        if written {
            value.written();
        }
    }

    pub(crate) fn evict(&mut self, part: Part) {
        let Some((slot, number)) = self.pick_area(part.area) else { return };
        let (mut expected, content) = (Expected::default(), &self.model.contents[number]);
        if !content.is_paged() {
            expected.must([Refusal::Kind]);
        }
        if content.evicting {
            expected.must([Refusal::AreaRetry]);
        }
        let result = self.call(|world| world.area(slot).evict(part.page * PAGE, part.count * PAGE));
        if !expected.check(&result) {
            return;
        }
        let (mut marked, mut dirty_pages, mut pinned) = (Vec::new(), 0, 0);
        let content = &mut self.model.contents[number];
        for page in part.page..(part.page + part.count).min(content.pages) {
            if let Some(PagedPage::Here { dirty, writing, evicting }) = content.paged.get_mut(&page) {
                if *dirty || *writing {
                    dirty_pages += 1;
                } else if content.pins.contains_key(&page) {
                    pinned += 1;
                } else {
                    *evicting = true;
                    marked.push(page);
                }
            }
        }
        let mut effect = Effect::default();
        for page in &marked {
            let stale: Vec<Stale> = self.model.stale_views(number, *page..page + 1, Access::all());
            effect.stale.extend(stale.into_iter().map(|one| Stale { had: one.had.difference(Access::WRITE), ..one }));
        }
        if !marked.is_empty() {
            let content = &mut self.model.contents[number];
            content.evicting = true;
            content.returning += 1;
            effect.evicting = Some(number);
        }
        let said = (marked.len() as u64, dirty_pages, pinned);
        self.finish(result.unwrap(), effect, move |evicted| {
            assert_eq!((evicted.pages, evicted.dirty, evicted.pinned), said);
            Outcome::Nothing
        });
    }
}

fn key_of(kind: vmcore::vm_area::AreaKind) -> u64 {
    match kind {
        vmcore::vm_area::AreaKind::Paged { key, .. } => key,
        other => panic!("{other:?} has no pager"),
    }
}
